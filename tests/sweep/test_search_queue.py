"""What a search hands out beside its trials: the test part of trial 0 and of the winner."""

import json

import pytest
from ray.tune.search import Searcher
from small_searches import FakeStudy
from test_handout import handout

from cxr_ray.storage import TEST_FILE, WEIGHTS_FILE
from cxr_ray.sweep.search_queue import SearchQueue


@pytest.fixture
def study(tmp_path):
    return FakeStudy(tmp_path)


def finish(study, member, curve):
    """Leave a finished trial behind, with weights."""
    study.finish(member, curve)
    (study.storage.trials / member.trained_id / WEIGHTS_FILE).write_bytes(b"")


def end(study, own, job, curve):
    """Let a job end as its process would."""
    identity = job["experiment_id"]
    if json.loads(job["job"])["parts"] == ["val"]:
        finish(study, own._running[identity][0], curve)
    else:
        (study.storage.trials / identity / TEST_FILE).write_text("{}")
    own.ended(identity, None)


def test_the_winner_is_tested_once_the_last_trial_has_ended_and_trial_0_before(study):
    own = handout(study, SearchQueue(study.search(trials=3), study.storage))
    zero, one, two = (own.suggest("any") for _ in range(3))
    assert own.suggest("any") is None  # which trial wins is not known, and Tune goes on
    end(study, own, zero, [0.3])
    first = own.suggest("any")
    assert first["experiment_id"] == zero["experiment_id"]
    assert json.loads(first["job"])["parts"] == ["val", "test"]
    end(study, own, first, None)
    end(study, own, one, [0.6])
    assert own.suggest("any") is None
    end(study, own, two, [0.5])
    last = own.suggest("any")
    assert last["experiment_id"] == one["experiment_id"]
    assert own.suggest("any") == Searcher.FINISHED
    end(study, own, last, None)
    assert own.over and not own.failed
    assert [event.is_test for event in own.events] == [False, True, False, False, True]


def test_what_is_tested_is_not_tested_again_and_a_winner_that_is_trial_0_once(study):
    queue = SearchQueue(study.search(trials=2), study.storage)
    own = handout(study, queue)
    zero, one = own.suggest("any"), own.suggest("any")
    end(study, own, zero, [0.9])
    end(study, own, own.suggest("any"), None)
    end(study, own, one, [0.5])
    assert own.suggest("any") == Searcher.FINISHED
    assert SearchQueue(study.search(trials=2), study.storage).untested() == []


def test_a_killed_test_part_is_all_that_is_left_to_do(study):
    search = study.search(trials=2)
    while member := search.next():
        finish(study, member, [0.5])
        search.ended(member, "finished")
    own = handout(study, SearchQueue(study.search(trials=2), study.storage))
    assert own.look()
    assert json.loads(own.suggest("any")["job"])["parts"] == ["val", "test"]
