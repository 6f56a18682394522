"""A sweep on machines that share nothing but an object store, which loses its driver and one."""

import signal
import subprocess
import sys

import object_folder
import pytest
from running_sweeps import SWEEP, checkpoints, ended, finished, wait_for

from cxr_ray.object_store import SCRATCH_VARIABLE
from cxr_ray.report.trial_folder import read_history
from cxr_ray.training.checkpoint import load_state

pytestmark = pytest.mark.slow

GRID = """title: How fast may it learn?
base: {fusion.modalities: [text]}
axes:
  rate:
    slow: {train.lr: 0.001}
    slower: {train.lr: 0.0005}
    slowest: {train.lr: 0.0002}
"""


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Let every process started from here know the store; the driver has a mirror too."""
    for name, value in object_folder.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(SCRATCH_VARIABLE, str(tmp_path / "driver"))


@pytest.fixture
def machines(environment, tmp_path):
    """A cluster whose head runs no trial, and two machines with a mirror each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.both = [
        cluster.add_node(num_cpus=1, env_vars={SCRATCH_VARIABLE: str(tmp_path / name)})
        for name in ("one", "two")
    ]
    yield cluster
    cluster.shutdown()


@pytest.fixture
def start(environment, tmp_path):
    """Start the same command, and end what a test leaves running."""
    processes = []
    (tmp_path / "rates.yaml").write_text(GRID)

    def start(address):
        command = [
            sys.executable, str(SWEEP), "--grid", str(tmp_path / "rates.yaml"),
            "--profile", "tiny", "--address", address, "--wait-for-room", "10",
            "--storage", f"objects://{tmp_path}/store",
            "--mlflow-uri", f"sqlite:///{tmp_path}/mlflow.db",
            "--set", "train.max_epochs=40", "train.patience=1000",
        ]  # fmt: skip
        processes.append(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


def saved(store):
    """The epochs in the store's checkpoints, by trial."""
    return {path.parent.parent.name: load_state(path)["history"] for path in checkpoints(store)}


def test_a_sweep_loses_its_driver_and_a_machine_and_no_epoch_that_was_up(start, machines, tmp_path):
    store = tmp_path / "store"
    process = start(machines.address)
    wait_for(lambda: len(checkpoints(store)) >= 2, "two checkpoints in the store")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    first, before = saved(store), set(checkpoints(store))
    process = start(machines.address)
    # Workers of the killed driver live on for seconds, so more epochs alone would not tell.
    wait_for(lambda: set(checkpoints(store)) - before, "the second driver's trials to go on")
    machines.remove_node(machines.both[0], allow_graceful=False)
    second = saved(store)
    code, out, err = ended(process)
    assert code == 0, err
    assert "checking every node" in err
    assert f"published: objects://{tmp_path}/store/studies/rates" in out
    assert len(finished(store)) == 3
    assert not list(store.glob("running/*/*"))
    for folder in finished(store):
        history = read_history(folder)
        assert len(history) == 40
        for rows in (first.get(folder.name, []), second.get(folder.name, [])):
            assert history[: len(rows)] == rows
    for name in ("driver", "two"):
        assert len(list((tmp_path / name).glob("*/prepared/*/text-*/tokens.npy"))) == 1
    assert (store / "studies" / "rates" / "report.html").is_file()
