"""What happens in days: killed processes, Ctrl-C, a full disk, a diverging trial, two at once."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from running_sweeps import (
    SWEEP,
    checkpoints,
    ended,
    finished,
    planted,
    trial_processes,
    wait_for,
)

from cxr_ray.report.trial_folder import read_history
from cxr_ray.training.checkpoint import load_state

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
ANSWER_SECONDS = 0.2


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


def test_a_trial_whose_process_dies_goes_on_to_the_numbers_of_two_sweeps_at_once_let_be(
    started, tmp_path
):
    process = started(epochs=15)
    wait_for(lambda: checkpoints(tmp_path / "runs"), "a first checkpoint")
    os.kill(wait_for(lambda: trial_processes(process), "a trial")[0], signal.SIGKILL)
    code, _, err = ended(process)
    assert code == 0, err
    assert len(finished(tmp_path / "runs")) == TRIALS
    assert "retried" in err

    for process in [started("undisturbed", epochs=15) for _ in range(2)]:
        code, _, err = ended(process)
        assert code == 0, err
    assert probabilities(tmp_path / "runs") == probabilities(tmp_path / "undisturbed")
    assert not list((tmp_path / "undisturbed" / "running").glob("*/*/last.pt"))
    assert len(leaderboard(tmp_path / "undisturbed")) == 2 * TRIALS


def test_twenty_trials_on_two_slots_end_though_their_tracker_was_never_there(started, tmp_path):
    levels = "".join(f"    r{i}: {{train.lr: {(i + 1) / 1e4}}}\n" for i in range(20))
    grid = "title: Many\nbase: {fusion.modalities: [text]}\naxes:\n  rate:\n" + levels
    further = ("--max-concurrent", "2", "--mlflow-uri", "http://127.0.0.1:9")
    code, _, err = ended(started(epochs=1, grid=grid, further=further))
    assert code == 0, err
    assert len(finished(tmp_path / "runs")) == 20
    assert "is incomplete" in err and "the same command logs what is missing" in err


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
    code, out, err = ended(process)
    assert code == 1
    assert "Ctrl-C again ends at once" in err
    assert "the same command continues" in out
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
    code, _, err = ended(process)
    assert code == -signal.SIGINT, err
    assert time.monotonic() - began < 30


def test_a_storage_that_cannot_be_written_loses_nothing_and_says_why(started, tmp_path):
    storage, flag = tmp_path / "runs", tmp_path / "runs.readonly"
    process = started(epochs=15, env=planted(readonly=storage))
    wait_for(lambda: finished(storage), "a first finished trial")
    flag.touch()
    code, _, err = ended(process)
    assert code == 2, err
    assert "the file system is read-only" in err
    assert "what was finished is kept, and the same command continues" in err
    assert "Traceback" not in err
    flag.unlink()
    before = {path: path.read_bytes() for path in storage.glob("trials/*/result.json")}

    # The second half of a checkpoint finds no space.
    code, out, err = ended(started(epochs=15, env=planted(full="last.pt")))
    assert code == 1, err
    assert "OSError: [Errno 28] No space left on device" in out
    assert "Traceback" not in err
    assert {path.read_bytes() for path in storage.glob("running/*/*/.last.pt")} != {b""}
    rows = {path.parent.parent.name: load_state(path)["history"] for path in checkpoints(storage)}
    assert rows

    code, _, err = ended(started(epochs=15))
    assert code == 0, err
    assert len(finished(storage)) == TRIALS
    for path, content in before.items():
        assert path.read_bytes() == content
    for folder in finished(storage):
        saved = rows.get(folder.name, [])
        assert read_history(folder)[: len(saved)] == saved


@pytest.fixture
def server(tmp_path):
    """Start an MLflow server at one place, as often as it is called, and end the last one.

    What asks at ``address`` waits a while for every answer.
    """
    port = free_port()
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

    slow = ThreadingHTTPServer(("127.0.0.1", 0), partial(SlowRelay, port))
    threading.Thread(target=slow.serve_forever, daemon=True).start()
    start.address = f"http://127.0.0.1:{slow.server_port}"
    yield start
    slow.shutdown()
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class SlowRelay(BaseHTTPRequestHandler):
    """Passes every request on to a server, late."""

    def __init__(self, port, *further):
        self._port = port
        super().__init__(*further)

    def do_GET(self):
        time.sleep(ANSWER_SECONDS)
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            asked.request(self.command, self.path, content or None, dict(self.headers))
            answer = asked.getresponse()
            body = answer.read()
        except OSError:
            self.close_connection = True  # as the server itself would
            return
        self.send_response(answer.status)
        for name in ("Content-Type", "ETag"):
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def answers(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def test_a_slow_mlflow_server_that_was_away_for_a_while_is_complete_afterwards(
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
