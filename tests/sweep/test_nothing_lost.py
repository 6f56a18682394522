"""What happens in days: killed processes, Ctrl-C, a full disk, a diverging trial, two at once."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from running_sweeps import SWEEP, checkpoints, ended, finished, trial_processes, wait_for

pytestmark = pytest.mark.slow

GRID = """title: How fast may it learn?
base: {fusion.modalities: [text]}
axes:
  rate:
    slow: {train.lr: 0.001}
    slower: {train.lr: 0.0005}
    other: {train.lr: OTHER}
"""
TRIALS = 3
FULL_DISK = """
import errno
import os

make = os.mkdir


def refuse(path, *mode, **where):
    if os.path.basename(path) == "model":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    make(path, *mode, **where)


os.mkdir = refuse
"""


@pytest.fixture
def started(tmp_path):
    """Start sweeps of three text models, and end what a test leaves running."""
    processes = []

    def start(storage="runs", other="0.002", epochs=3, further=(), grid=GRID, **options):
        path = tmp_path / "rates.yaml"
        path.write_text(grid.replace("OTHER", other))
        command = [
            sys.executable, str(SWEEP), "--grid", str(path), "--profile", "tiny",
            "--storage", str(tmp_path / storage), "--set", f"train.max_epochs={epochs}",
            "train.patience=1000", *further,
        ]  # fmt: skip
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


def leaderboard(storage):
    return pd.read_csv(next(Path(storage).glob("studies/*/leaderboard.csv")))


def probabilities(storage):
    return {
        folder.name: pq.read_table(folder / "predictions.parquet")["probability"].to_pylist()
        for folder in finished(storage)
    }


def test_a_trial_whose_process_dies_goes_on_from_its_checkpoint_to_the_same_numbers(
    started, tmp_path
):
    process = started(epochs=15)
    wait_for(lambda: checkpoints(tmp_path / "runs"), "a first checkpoint")
    os.kill(wait_for(lambda: trial_processes(process), "a trial")[0], signal.SIGKILL)
    code, _, err = ended(process)
    assert code == 0, err
    assert len(finished(tmp_path / "runs")) == TRIALS
    undisturbed = ended(started("undisturbed", epochs=15))
    assert undisturbed[0] == 0, undisturbed[2]
    assert probabilities(tmp_path / "runs") == probabilities(tmp_path / "undisturbed")


def test_twenty_trials_on_two_slots_end(started, tmp_path):
    levels = "".join(f"    r{i}: {{train.lr: {(i + 1) / 1e4}}}\n" for i in range(20))
    grid = "title: Many\nbase: {fusion.modalities: [text]}\naxes:\n  rate:\n" + levels
    code, _, err = ended(started(epochs=1, grid=grid, further=("--max-concurrent", "2")))
    assert code == 0, err
    assert len(finished(tmp_path / "runs")) == 20


def test_a_trial_that_diverges_fails_alone_with_its_reason(started, tmp_path):
    code, out, err = ended(started(other="1.0e+30"))
    assert code == 1, err
    assert len(finished(tmp_path / "runs")) == TRIALS - 1
    assert "failed: text-full-bce-other: the " in out
    table = leaderboard(tmp_path / "runs")
    failed = table[table["status"] == "failed"]
    assert len(failed) == 1
    assert "nan" in failed["reason"].iloc[0] or "finite" in failed["reason"].iloc[0]
    assert set(table.loc[table["status"] == "done", "rate"]) == {"slow", "slower"}
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    lost = [run for run in runs if run.info.status == "FAILED"]
    assert {run.info.run_name for run in lost} == {"text-full-bce-other", "rates"}


def test_ctrl_c_keeps_the_last_epoch_and_says_how_to_go_on(started, tmp_path):
    process = started(epochs=150)
    wait_for(lambda: checkpoints(tmp_path / "runs"), "a first checkpoint")
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process, timeout=90)
    assert code == 1
    assert "the same command continues" in out + err
    assert "Traceback" not in err
    assert checkpoints(tmp_path / "runs")
    assert not finished(tmp_path / "runs")


def test_ctrl_c_twice_ends_at_once(started, tmp_path):
    process = started(epochs=150)
    wait_for(lambda: checkpoints(tmp_path / "runs"), "a first checkpoint")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    code, _, _ = ended(process, timeout=60)
    assert code != 0
    assert time.monotonic() - began < 15


def test_a_disk_that_is_full_fails_the_trial_with_the_systems_own_words(started, tmp_path):
    whole = ended(started())
    assert whole[0] == 0, whole[2]
    # What Python runs at its start, workers too: the weights of a new trial find no space.
    (tmp_path / "sitecustomize.py").write_text(FULL_DISK)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    code, out, err = ended(started(other="0.003", env={**os.environ, "PYTHONPATH": path}))
    assert code == 1, out + err
    assert "failed: text-full-bce-other: OSError: [Errno 28] No space left on device" in out
    assert len(finished(tmp_path / "runs")) == TRIALS
    again = ended(started(other="0.003"))
    assert again[0] == 0, again[2]
    assert len(finished(tmp_path / "runs")) == TRIALS + 1


def test_two_sweeps_at_once_train_each_experiment_once(started, tmp_path):
    both = [started(epochs=20), started(epochs=20)]
    for process in both:
        code, _, err = ended(process)
        assert code == 0, err
    folders = finished(tmp_path / "runs")
    assert len(folders) == TRIALS
    assert not list((tmp_path / "runs" / "running").glob("*/*/last.pt"))
    assert len(leaderboard(tmp_path / "runs")) == 2 * TRIALS


@pytest.fixture
def server(tmp_path):
    """Start an MLflow server at one place, as often as it is called, and end the last one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []

    def start():
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
            "--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db",
            "--artifacts-destination", str(tmp_path / "artifacts"),
        ]  # fmt: skip
        process = subprocess.Popen(
            command,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        running.append(process)
        wait_for(lambda: answers(port), "the server's start")
        return process

    start.address = f"http://127.0.0.1:{port}"
    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def test_an_mlflow_server_that_was_away_for_a_while_is_complete_afterwards(
    started, server, tmp_path
):
    first = server()
    process = started(epochs=15, further=("--mlflow-uri", server.address))
    wait_for(lambda: checkpoints(tmp_path / "runs"), "a first checkpoint")
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    wait_for(lambda: finished(tmp_path / "runs"), "a first finished trial")
    server()
    code, _, err = ended(process)
    assert code == 0, err
    if "is incomplete" in err:  # it ended before the server was back
        code, _, err = ended(started(epochs=15, further=("--mlflow-uri", server.address)))
        assert "is incomplete" not in err
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server.address)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(runs) == 1 + TRIALS
    assert len(children) == TRIALS
    for child in children:
        steps = [each.step for each in client.get_metric_history(child.info.run_id, "val/loss")]
        assert steps == list(range(15))
