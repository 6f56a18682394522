"""How members are handed to Tune: under a lease, shared with other drivers, ended by the queue."""

import errno
import json
from types import SimpleNamespace

import pytest
from ray.tune.search import Searcher
from small_searches import FakeStudy

from cxr_ray.lease import Heartbeat, holds_lease
from cxr_ray.sweep.handout import Handout
from cxr_ray.sweep.queue import GridQueue
from cxr_ray.sweep.resources import TrialResources
from cxr_ray.sweep.runner import _Follow
from cxr_ray.sweep.search_queue import SearchQueue


@pytest.fixture
def study(tmp_path):
    return FakeStudy(tmp_path)


@pytest.fixture
def members(study):
    """Four members that nobody has trained."""
    search = study.search(trials=4)
    return [search.next() for _ in range(4)]


def handout(study, queue, driver="one"):
    events = []
    with Heartbeat() as heartbeat:
        made = Handout(
            study.storage, queue, TrialResources(), driver, None, heartbeat, events.append
        )
    made.events = events
    return made


def taken(handout):
    """Ask for all that can be had now; ids in their order."""
    ids = []
    while isinstance(found := handout.suggest("any"), dict):
        ids.append(found["experiment_id"])
    return ids, found


def test_two_drivers_share_what_is_left_and_each_waits_for_the_other(study, members):
    one = handout(study, GridQueue(members))
    two = handout(study, GridQueue(members), "two")
    first = one.suggest("a")["experiment_id"]
    theirs, said = taken(two)
    assert sorted([first, *theirs]) == sorted(m.trained_id for m in members)
    assert said is None and not two.over  # three run here, one elsewhere
    for identity in theirs:
        study.finish(next(m for m in members if m.trained_id == identity), [0.5], ("val", "test"))
        two.ended(identity, None)
    assert taken(two) == ([], Searcher.FINISHED) and not two.over
    study.finish(next(m for m in members if m.trained_id == first), [0.5], ("val", "test"))
    one.ended(first, None)
    assert not two.look() and two.over
    assert taken(one) == ([], Searcher.FINISHED) and one.over
    assert [event.kind for event in two.events] == ["finished"] * 3


def test_a_trial_that_a_dead_driver_left_is_taken_over(study, members):
    one = handout(study, GridQueue(members[:1]))
    assert taken(one)[0]
    two = handout(study, GridQueue(members[:1]), "two")
    assert not two.look() and not two.over
    one.release_all()
    assert two.look()


def test_a_pruned_trial_loses_its_lease_at_once_and_its_checkpoint_at_its_end(study):
    study.run(study.search(trials=6))
    search = study.search(trials=7)
    own = handout(study, SearchQueue(search, study.storage))
    job = json.loads(own.suggest("a")["job"])
    identity, running = job["experiment_id"], study.storage.running / job["experiment_id"]
    (running / job["attempt"]).mkdir()
    row = {"epoch": 0, "val_average_precision": 0.1, "best_epoch": 0, "time_total_s": 1.0}
    own.epoch(identity, row)
    assert not holds_lease(running, job["attempt"]) and running.exists()
    own.ended(identity, None)
    assert not running.exists()
    event = own.events[-1]
    assert event.kind == "pruned"
    assert event.figures["reason"].startswith("pruned at epoch 1")
    assert event.figures["history"] == [{"epoch": 0, "val_average_precision": 0.1}]
    assert search.trials[6].status == "pruned"


def test_a_trial_without_test_part_and_weights_is_trained_again_for_a_grid(study, members):
    for member in members[:2]:
        study.finish(member, [0.5])
    folders = [study.storage.trials / member.trained_id for member in members[:2]]
    (folders[0] / "model" / "model.safetensors").write_bytes(b"")
    own = handout(study, GridQueue(members[:2]))
    assert len(taken(own)[0]) == 2
    assert folders[0].exists()  # its weights are there: only the test part is scored
    assert not folders[1].exists()


@pytest.mark.parametrize("content", [b"", b'{"best_epoch": 1, "par', b"\xff\0\0"])
def test_a_trial_folder_whose_result_is_damaged_is_no_finished_trial_and_made_again(
    study, members, content
):
    study.finish(members[0], [0.5], ("val", "test"))
    folder = study.storage.trials / members[0].trained_id
    (folder / "model" / "model.safetensors").write_bytes(b"")
    (folder / "result.json").write_bytes(content)
    assert not study.storage.is_finished(members[0].trained_id)
    assert taken(handout(study, GridQueue(members[:1])))[0] == [members[0].trained_id]
    assert not folder.exists()


def test_epochs_that_a_continued_trial_tells_again_are_passed_on_once(study, members):
    own = handout(study, GridQueue(members[:1]))
    identity = own.suggest("a")["experiment_id"]
    for epoch in (0, 1, 0, 1, 2):
        own.epoch(identity, {"epoch": epoch, "val_loss": 1.0, "best_epoch": 0})
    assert [e.figures["epoch"] for e in own.events if e.kind == "epoch"] == [0, 1, 2]


def test_a_process_that_dies_before_its_trial_begins_costs_no_trial_but_not_for_ever(
    study, members
):
    own = handout(study, GridQueue(members[:1]))
    for _ in range(3):
        assert not own.failed
        (identity,), _ = taken(own)
        own.died_before_its_start(identity, "its process died: the node was lost")
    assert own.failed == {identity: "its process died: the node was lost"}
    assert taken(own) == ([], Searcher.FINISHED)
    kinds = [event.kind for event in own.events]
    assert kinds == ["retried", "stopped", "retried", "stopped", "failed"]


def test_nothing_is_handed_out_or_recorded_after_the_storage_has_failed(
    study, members, monkeypatch
):
    own = handout(study, GridQueue(members))
    identity = own.suggest("a")["experiment_id"]
    full = OSError(errno.ENOSPC, "No space left on device", "ended/x.json")

    def refuse(event):
        raise full

    monkeypatch.setattr(own, "_on_event", refuse)
    own.ended(identity, "it diverged")
    assert own.error is full
    assert own.suggest("b") is None
    own.epoch("unknown", {"epoch": 0})
    own.ended("unknown", None)


def test_tunes_callbacks_tell_deaths_before_a_trials_start_from_others():
    told = []
    spy = SimpleNamespace(
        error=None,
        started=lambda identity: told.append("started"),
        retried=lambda identity, reason: told.append(reason),
        ended=lambda identity, reason: told.append("ended"),
        died_before_its_start=lambda identity, reason: told.append("died before its start"),
    )
    follow = _Follow(spy)
    trial = SimpleNamespace(
        config={"experiment_id": "x"},
        pickled_error_file=None,
        error_file=None,
        num_failures=1,
    )
    happens = ("error", "start", "recover", "error", "start", "error", "start", "complete", "error")
    for what in happens:
        getattr(follow, f"on_trial_{what}")(0, [], trial)
    assert told == [
        "died before its start", "started", "its process failed; retry 1 of 2",
        "died before its start", "started", "ended", "started", "ended", "died before its start",
    ]  # fmt: skip
    assert not follow.stop_all()
    spy.error = OSError()
    assert follow.stop_all()
