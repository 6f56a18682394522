"""What the tracker asks of MLflow: little, since every call takes its time."""

import sys
from types import SimpleNamespace

import pytest

from cxr_ray.tracking.mlflow_tracker import Tracker

STUDY = {
    "name": "mine", "uuid": "u", "data_key": "k", "git_commit": None, "profile": "tiny",
    "data": "phantom",
}  # fmt: skip
MEMBER = {
    "experiment_id": "00", "name": "text-full-bce-t1", "modality": "text", "dataset": "full",
    "loss": "bce", "seed": 0, "further": {},
}  # fmt: skip


class FakeMlflow:
    """A tracking server that writes down what it is asked for."""

    def __init__(self, uri):
        self.runs, self.batches, self.ended = [], [], []

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id="1")

    def search_runs(self, *_, **__):
        found = list(self.runs)
        return type("Page", (list,), {"token": None})(found)

    def create_run(self, experiment, *, tags, run_name, start_time=None):
        run = SimpleNamespace(
            info=SimpleNamespace(run_id=run_name, start_time=0, status="RUNNING"),
            data=SimpleNamespace(tags=dict(tags), params={}),
        )
        self.runs.append(run)
        return run

    def log_batch(self, run_id, metrics=(), params=(), tags=()):
        self.batches.append((run_id, len(metrics), len(params), [tag.key for tag in tags]))
        run = next(run for run in self.runs if run.info.run_id == run_id)
        run.data.tags |= {tag.key: tag.value for tag in tags}
        run.data.params |= {param.key: param.value for param in params}

    def update_run(self, run_id, status):
        pass

    def set_terminated(self, run_id, status):
        self.ended.append((run_id, status))
        next(run for run in self.runs if run.info.run_id == run_id).info.status = status


@pytest.fixture
def server(monkeypatch):
    made = FakeMlflow("")
    monkeypatch.setattr("mlflow.tracking.MlflowClient", lambda uri: made)
    return made


def started():
    tracker = Tracker("http://nowhere", None)
    tracker.start(STUDY)
    return tracker


def pruned(parameters=3, reason="pruned at epoch 1"):
    return {
        "status": "pruned",
        "reason": reason,
        "parameters": {f"p{number}": number for number in range(parameters)},
        "history": [{"epoch": 0, "val_loss": float("nan"), "lr": 1.0}],
    }


def test_an_ended_trial_is_logged_in_one_call_and_not_again_by_this_run_or_the_next(server):
    tracker = started()
    for _ in range(2):
        tracker.log_ended(MEMBER, pruned())
    started().log_ended(MEMBER, pruned())
    # its tags came with the run, which is not taken for whole before it has ended
    assert server.batches == [(MEMBER["name"], 2, 3, [])]
    assert server.runs[1].data.tags["reason"] == "pruned at epoch 1"
    assert server.ended == [(MEMBER["name"], "KILLED")]


def test_a_trial_that_ended_in_another_way_is_logged_anew(server):
    started().log_ended(MEMBER, pruned())
    started().log_ended(MEMBER, {**pruned(reason="it diverged"), "status": "failed"})
    # its parameters are there and cannot be changed
    assert [params for _, _, params, _ in server.batches] == [3, 0]
    assert server.runs[1].data.tags["reason"] == "it diverged"
    assert server.ended[-1] == (MEMBER["name"], "FAILED")


def test_a_run_that_a_kill_left_open_is_logged_anew(server, monkeypatch):
    tracker = started()
    with monkeypatch.context() as kill, pytest.raises(SystemExit):
        kill.setattr(server, "set_terminated", lambda *_: sys.exit())
        tracker.log_ended(MEMBER, pruned())
    started().log_ended(MEMBER, pruned())
    assert [run.info.status for run in server.runs[1:]] == ["KILLED"]
    assert [metrics for _, metrics, _, _ in server.batches] == [2, 2]


def test_more_than_a_call_takes_goes_into_several_and_the_tags_go_last(server):
    tracker = started()
    tracker.log_ended(MEMBER, pruned())
    server.batches.clear()
    tracker.log_ended(MEMBER, pruned(parameters=230, reason="another"))
    counts = [(params, bool(tags)) for _, _, params, tags in server.batches]
    assert sum(params for params, _ in counts) == 227
    assert all(params <= 100 for params, _ in counts)
    assert [tagged for _, tagged in counts] == [False, False, True]
