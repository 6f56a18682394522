"""The tracker in a process of its own: what it is asked for, and how it ends."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxr_ray.tracking import service
from cxr_ray.tracking.process import TrackerProcess, TrackingError

STUDY = {
    "name": "mine", "uuid": "u", "data_key": "k", "git_commit": None, "profile": "tiny",
    "data": "phantom", "title": "Which one?", "members": [],
}  # fmt: skip
MEMBER = {
    "experiment_id": "00", "name": "text-full-bce-t1", "modality": "text", "dataset": "full",
    "loss": "bce", "seed": 0, "further": {},
}  # fmt: skip
PRUNED = {"status": "pruned", "reason": "pruned at epoch 1"}


@pytest.fixture
def uri(tmp_path):
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def tracker(uri, tmp_path):
    made = TrackerProcess(uri, tmp_path / "artifacts")
    yield made
    made.close()


def runs(uri):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    return client.search_runs([e.experiment_id for e in client.search_experiments()])


def test_what_a_driver_asks_for_is_logged_by_another_process(tracker, uri):
    tracker.start(STUDY)
    tracker.log_ended(MEMBER, PRUNED)
    tracker.finish({**STUDY, "members": [MEMBER]}, [], complete=True)
    assert sorted(run.info.status for run in runs(uri)) == ["FINISHED", "KILLED"]


def test_what_a_call_failed_with_is_raised_and_the_next_call_is_answered(tracker, tmp_path):
    tracker.start(STUDY)
    with pytest.raises(TrackingError, match=f"{tmp_path}/nowhere"):
        tracker.log_trial(MEMBER, tmp_path / "nowhere")
    tracker.log_ended(MEMBER, PRUNED)


def test_a_process_that_is_killed_is_a_call_that_failed(tracker):
    tracker.start(STUDY)
    os.kill(tracker.process.pid, signal.SIGKILL)
    with pytest.raises(TrackingError, match="the process that logs has ended"):
        tracker.log_ended(MEMBER, PRUNED)


def test_the_process_ends_with_its_driver_though_a_call_is_under_way(uri, tmp_path):
    code = (
        "from cxr_ray.tracking.process import TrackerProcess;"
        f"made = TrackerProcess({uri!r}, None); print(made.process.pid, flush=True);"
        f"made.start({STUDY!r})"
    )
    with (tmp_path / ".mlflow-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # so that the call takes as long as this test
        driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        process = Path("/proc", driver.stdout.readline().strip())
        wait_for(lambda: any("mlflow-lock" in target for target in open_files(process)))
        driver.kill()
        wait_for(lambda: not process.exists() or ") Z " in (process / "stat").read_text())
    driver.communicate()


def open_files(process):
    for descriptor in process.glob("fd/*"):
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            yield os.readlink(descriptor)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_database_that_a_kill_left_half_made_is_made_again(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    whole = service.make_tables
    database = tmp_path / "mlflow.db"

    def killed(uri):
        (tmp_path / uri.rpartition("/")[2]).write_bytes(b"half")
        raise SystemExit

    def make():
        with service._alone(f"sqlite:///{database}"):
            pass

    monkeypatch.setattr(service, "make_tables", killed)
    with pytest.raises(SystemExit):
        make()
    assert not database.exists()
    monkeypatch.setattr(service, "make_tables", whole)
    make()
    made = database.read_bytes()
    assert [e.name for e in MlflowClient(f"sqlite:///{database}").search_experiments()] == [
        "Default"
    ]
    make()
    assert database.read_bytes() == made
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", ".mlflow-lock"}
