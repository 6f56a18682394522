"""When a sweep gives up on trials that have no machine, without a cluster."""

from types import SimpleNamespace

import pytest

from cxr_ray.sweep import starvation
from cxr_ray.sweep.resources import TrialResources

HELD = [{"Alive": True, "Resources": {"CPU": 2.0}}]
LOST = [{"Alive": False, "Resources": {"CPU": 2.0}}, {"Alive": True, "Resources": {}}]


@pytest.fixture
def step(monkeypatch):
    """Let a second go by with trials in some states on some machines; returns what was given up."""
    now = SimpleNamespace(seconds=0.0, nodes=HELD)
    monkeypatch.setattr(starvation.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(starvation.ray, "nodes", lambda: now.nodes)
    stopper = starvation.StarvedStopper(TrialResources(wait_for_room=10))

    def step(nodes, *states, seconds=2.0):
        now.seconds, now.nodes = now.seconds + seconds, nodes
        trials = [
            SimpleNamespace(status=state, config={"experiment_id": str(i)})
            for i, state in enumerate(states)
        ]
        stopper.on_step_end(0, trials)
        assert stopper.stop_all() == bool(stopper.reasons)
        return stopper.reasons

    return step


def test_trials_that_no_machine_has_held_for_long_are_given_up_with_what_they_need(step):
    for _ in range(5):
        assert not step(LOST, "PENDING", "TERMINATED", "PENDING")
    assert set(step(LOST, "PENDING", "TERMINATED", "PENDING")) == {"0", "2"}
    assert "needs 1 CPUs, and none has had them for 10 s" in step(LOST, "PENDING")["0"]


def test_a_machine_that_comes_back_starts_the_wait_anew(step):
    for _ in range(4):
        step(LOST, "PENDING")
    step(HELD, "PENDING")
    assert not step(LOST, "PENDING", seconds=9)


def test_trials_that_wait_for_others_are_never_given_up(step):
    for _ in range(20):
        assert not step(LOST, "PENDING", "RUNNING")
        assert not step(HELD, "PENDING")
