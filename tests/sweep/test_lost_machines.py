"""A worker or a whole machine is lost with trials on it: they go on elsewhere, or end clearly."""

import json
import os
import signal
import subprocess
import sys

import pandas as pd
import pytest
from running_sweeps import (
    SWEEP,
    checkpoints,
    descendants,
    ended,
    finished,
    trial_processes,
    wait_for,
)

from cxr_ray.report.trial_folder import read_history
from cxr_ray.training.checkpoint import load_state

pytestmark = pytest.mark.slow

GRID = """title: One model or two
base: {fusion.modalities: [text]}
axes:
  rate:
    slow: {train.lr: 0.001}
    slower: {train.lr: 0.0005}
"""
SPACE = """title: Does it learn without a rate?
base: {fusion.modalities: [text]}
parameters:
  train.lr: {float: [1.0e-9, 0.1], log: true}
start_from: [{train.lr: 0.01}, {train.lr: 1.0e-9}]
"""
PYTEST = type("ThisProcess", (), {"pid": os.getpid()})


@pytest.fixture
def sweep(tmp_path):
    """Start sweeps of text models, and end what a test leaves running."""
    processes = []

    def start(*further, epochs, space=False):
        path = tmp_path / "rates.yaml"
        path.write_text(SPACE if space else GRID)
        command = [
            sys.executable, str(SWEEP), "--search" if space else "--grid", str(path),
            "--profile", "tiny",
            "--storage", str(tmp_path / "runs"), *further,
            "--set", f"train.max_epochs={epochs}", "train.patience=1000",
        ]  # fmt: skip
        processes.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def cluster():
    """A Ray cluster whose head runs no trial; a test adds its machines."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield cluster
    cluster.shutdown()


def saved_rows(folder):
    """The epochs in an unfinished trial's checkpoint."""
    return load_state(wait_for(lambda: checkpoints(folder), "a first checkpoint")[0])["history"]


def raylet_of(node):
    (raylet,) = node.all_processes["raylet"]
    return raylet.process.pid


def computed(folder):
    return json.loads((folder / "result.json").read_text())["compute"]


def test_a_group_that_loses_a_worker_goes_on_and_after_its_machine_with_those_left(
    sweep, cluster, tmp_path
):
    cluster.add_node(num_cpus=1)
    lost = cluster.add_node(num_cpus=1)
    process = sweep(
        "--address", cluster.address, "--workers-per-trial", "2", "--only", "rate=slow",
        "--wait-for-room", "5", epochs=10,
    )  # fmt: skip
    rows = saved_rows(tmp_path / "runs")
    os.kill(trial_processes(PYTEST, "RayTrainWorker")[-1], signal.SIGKILL)
    wait_for(lambda: len(saved_rows(tmp_path / "runs")) > len(rows) + 1, "its going on")
    rows = saved_rows(tmp_path / "runs")
    cluster.remove_node(lost, allow_graceful=False)
    code, out, err = ended(process)
    assert code == 0, err
    (folder,) = finished(tmp_path / "runs")
    assert read_history(folder)[: len(rows)] == rows
    assert (computed(folder)["workers"], computed(folder)["fewest_workers"]) == (2, 1)
    assert "went on text-full-bce-slow (1 of 2)" in out
    told = [line.partition("retried 0/1 ")[2] for line in err.splitlines() if "retried" in line]
    assert [line.rpartition("; ")[2] for line in told[:2]] == ["retry 1 of 2", "retry 2 of 2"]
    assert told[2:] == ["text-full-bce-slow: for 5 s the cluster has held 1 workers"]


def test_a_search_of_groups_goes_on_on_the_spare_machine_and_prunes(sweep, cluster, tmp_path):
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    process = sweep(
        "--address", cluster.address, "--workers-per-trial", "2", "--trials", "2",
        "--wait-for-room", "60", epochs=8, space=True,
    )  # fmt: skip
    rows = saved_rows(tmp_path / "runs")
    (folder,) = (tmp_path / "runs").glob("studies/*")
    asked = (folder / "asked.jsonl").read_text()
    worker = trial_processes(PYTEST, "RayTrainWorker")[0]
    cluster.remove_node(
        next(node for node in nodes if worker in descendants(raylet_of(node))),
        allow_graceful=False,
    )
    code, _, err = ended(process)
    assert code == 0, err
    assert "retry 1 of 2" in err
    assert (folder / "asked.jsonl").read_text().startswith(asked)
    (trained,) = finished(tmp_path / "runs")
    assert read_history(trained)[: len(rows)] == rows
    assert computed(trained)["workers"] == 2
    assert "fewest_workers" not in computed(trained)
    table = pd.read_csv(folder / "search.csv")
    assert list(table["status"]) == ["done", "pruned"]
    assert table["reason"][1].startswith("pruned at epoch ")
    assert not list((tmp_path / "runs").glob("running/*/*"))


def test_trials_on_a_lost_machine_go_on_elsewhere_and_end_clearly_where_there_is_none(
    sweep, cluster, tmp_path
):
    first, second = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    command = ("--address", cluster.address, "--wait-for-room", "5")
    process = sweep(*command, epochs=60)
    wait_for(lambda: len(checkpoints(tmp_path / "runs")) == 2, "two first checkpoints")
    rows = {path.parent.parent.name: load_state(path)["history"]
            for path in checkpoints(tmp_path / "runs")}  # fmt: skip
    cluster.remove_node(first, allow_graceful=False)
    wait_for(lambda: finished(tmp_path / "runs"), "the end of the one not lost")
    left = len(saved_rows(tmp_path / "runs"))
    wait_for(lambda: len(saved_rows(tmp_path / "runs")) > left, "the other's going on there")
    cluster.remove_node(second, allow_graceful=False)
    code, out, err = ended(process)
    assert code == 1, err
    assert "checking every node" in err
    assert len(finished(tmp_path / "runs")) == 1
    assert "no machine is left to run it: it needs 1 CPUs" in out
    table = pd.read_csv(next((tmp_path / "runs").glob("studies/*/leaderboard.csv")))
    assert list(table["status"]).count("failed") == 1
    cluster.add_node(num_cpus=1)
    code, out, err = ended(sweep(*command, epochs=60))
    assert code == 0, err
    assert len(finished(tmp_path / "runs")) == 2
    for folder in finished(tmp_path / "runs"):
        saved = rows[folder.name]
        assert read_history(folder)[: len(saved)] == saved
