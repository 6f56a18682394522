"""Ray ends beside what needs it no more."""

import threading
import time
from types import SimpleNamespace

import pytest
import ray

from cxr_ray.sweep import execution, runner
from cxr_ray.sweep.execution import RayStart


@pytest.fixture
def start(monkeypatch):
    """A start that starts nothing: how Ray ends is each test's."""
    monkeypatch.setattr(runner, "start_ray", lambda address: None)
    return RayStart(None, storage=None, listener=SimpleNamespace(phase=lambda what: None))


def test_what_follows_goes_on_while_ray_ends_and_is_not_over_before(start, monkeypatch):
    told, ended = threading.Event(), []

    def shutdown():
        told.wait(30)
        ended.append("Ray")

    monkeypatch.setattr(ray, "shutdown", shutdown)
    with start:
        start()
        start.stop()
        assert not ended
        told.set()
    assert ended == ["Ray"]


def test_a_sweep_that_fails_after_its_trials_waits_too(start, monkeypatch):
    ended = []
    monkeypatch.setattr(ray, "shutdown", lambda: (time.sleep(0.2), ended.append("Ray")))
    with pytest.raises(OSError, match="full"), start:
        start()
        start.stop()
        raise OSError("the storage is full")
    assert ended == ["Ray"]


def test_ray_that_does_not_end_holds_no_sweep(start, monkeypatch):
    held = threading.Event()
    monkeypatch.setattr(ray, "shutdown", held.wait)
    monkeypatch.setattr(execution, "END_SECONDS", 0.1)
    with start:
        start()
        start.stop()
    held.set()


def test_ray_that_was_not_started_is_not_ended(start, monkeypatch):
    ended = []
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append("Ray"))
    with start:
        start.stop()
    assert not ended
