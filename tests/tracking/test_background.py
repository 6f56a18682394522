"""Tracking beside the trials: who queues a call never waits for it."""

import threading
import time

import pytest

from cxr_ray.tracking import background
from cxr_ray.tracking.background import BackgroundTracker


class SlowTracker:
    """Answers a call when it is let, and fails while its server is ``gone``."""

    gone = False

    def __init__(self, uri, artifacts):
        self.calls.append("connect")

    def start(self, study):
        self._answer("start")

    def log_trial(self, member, folder):
        self._answer(member)

    def finish(self, study, artifacts, *, complete):
        self._answer("finish")

    def close(self):
        pass

    def _answer(self, call):
        self.let.wait()
        if self.gone:
            raise ConnectionError("no answer\nand a long story")
        self.calls.append(call)


@pytest.fixture
def tracker(monkeypatch):
    """The class of trackers, made anew."""
    kind = type("Tracker", (SlowTracker,), {"calls": [], "let": threading.Event()})
    monkeypatch.setattr(background, "TrackerProcess", kind)
    yield kind
    kind.let.set()


def test_a_slow_tracker_keeps_nobody_waiting_and_is_complete_in_order(tracker):
    with BackgroundTracker("http://slow", None, {}) as tracking:
        began = time.monotonic()
        for number in range(20):
            tracking.log_trial(number, None)
        tracking.finish([], complete=True)
        assert time.monotonic() - began < 10
        assert tracker.calls in ([], ["connect"])
        tracker.let.set()
    assert tracker.calls == ["connect", "start", *range(20), "finish"]
    assert tracking.problem is None


def test_a_tracker_that_is_gone_ends_the_tracking_until_it_is_tried_again(tracker):
    tracker.let.set()
    with BackgroundTracker("http://gone", None, {}) as tracking:
        tracking.log_trial("first", None)
        assert tracking.problem is None
        tracker.gone = True
        tracking.log_trial("lost", None)
        assert tracking.problem == "no answer"
        tracker.gone = False
        tracking.log_trial("not even tried", None)
        assert tracking.problem == "no answer"
        tracking.try_again()
        tracking.log_trial("lost", None)
    assert tracking.problem is None
    assert tracker.calls == ["connect", "start", "first", "connect", "start", "lost"]
