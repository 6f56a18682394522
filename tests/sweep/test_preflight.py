"""Every node is looked at before a trial is sent there; what is wrong is named with its fix."""

import shutil
from dataclasses import replace

import pytest
from machines import Machines

from cxr_ray.errors import InputError
from cxr_ray.object_store import SCRATCH_VARIABLE
from cxr_ray.storage import Storage
from cxr_ray.sweep.preflight import NodeReport, _observer, check_nodes, judge_node

HERE = NodeReport(
    versions={"torch": "2.9.0", "cxr_ray": "0a1b2c"},
    greeting="hello",
    write_error=None,
    data={"c0ffee": "1234"},
    cuda_devices=None,
)


def problems_of(there=HERE, *, written=True, gpus=0.0, **changes):
    return judge_node(HERE, replace(there, **changes), "hello", written=written, gpus=gpus)


def test_a_node_like_the_driver_is_fine():
    assert problems_of() == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"versions": {"torch": "2.8.0", "cxr_ray": "0a1b2c"}},
            "it has torch 2.8.0, and the driver 2.9.0; install the same there",
        ),
        (
            {"versions": {"torch": None, "cxr_ray": "0a1b2c"}},
            "torch is not installed; install it there as it is here",
        ),
        (
            {"versions": {"torch": "2.9.0", "cxr_ray": "fff"}},
            "it has other code of cxr_ray, and the driver 0a1b2c; install the same there",
        ),
        (
            {"greeting": None, "data": {"c0ffee": None}},
            "it does not see the storage (no such file); mount a folder there under the same path, "
            "or give it the store's credentials",
        ),
        (
            {"write_error": "Read-only file system"},
            "it cannot write to the storage (Read-only file system); give it the right to",
        ),
        ({"data": {"c0ffee": "9999"}}, "prepared/c0ffee has other content there; mount the "
         "driver's folder"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_node_is_one_sentence_with_its_fix(changes, sentence):
    assert problems_of(**changes) == [sentence]


def test_a_node_whose_files_the_driver_does_not_see_has_another_folder():
    assert problems_of(written=False) == [
        "it cannot write to the storage (the driver does not see what it writes); "
        "give it the right to"
    ]


def test_a_node_must_see_the_gpus_that_it_offers():
    assert problems_of(cuda_devices=1, gpus=2.0) == [
        "torch sees 1 GPUs of the 2 it offers; check its driver"
    ]
    assert problems_of(cuda_devices=2, gpus=2.0) == []


@pytest.mark.parametrize("kind", ["folder", "store"])
def test_a_machine_says_what_it_finds_of_the_storage(tmp_path, monkeypatch, kind):
    machine = Machines(tmp_path, monkeypatch)
    storage = machine("one") if kind == "store" else Storage.open(str(tmp_path / "runs"))
    cohort = storage.prepared / "c0ffee"
    cohort.mkdir()
    (cohort / "manifest.json").write_text('{"sha256": {"cohort.csv": "0"}}')
    (cohort / "cohort.csv").write_text("row\n")
    storage.home.publish(cohort, "manifest.json", deep=False)
    meeting = storage.root / ".preflight-1"
    meeting.mkdir()
    (meeting / "driver").write_text("hello")
    storage.home.publish_file(meeting / "driver")
    machine("two")
    asked = (storage.location, meeting.name, ("torch",), ("c0ffee", "absent"), False)
    found = NodeReport(**_observer()(*asked, "two"))
    assert (found.greeting, found.write_error) == ("hello", None)
    assert storage.home.has(meeting / "two")
    assert found.data["c0ffee"] is not None
    assert found.data["absent"] is None
    monkeypatch.setenv(SCRATCH_VARIABLE, str(cohort / "cohort.csv"))
    if kind == "store":
        found = NodeReport(**_observer()(*asked, "two"))
        assert (found.greeting, "mirror of" in found.write_error) == (None, True)


@pytest.mark.slow
def test_every_node_of_a_cluster_is_asked(tmp_path, two_nodes):
    storage = Storage.open(str(tmp_path))
    cohort = storage.prepared / "c0ffee"
    cohort.mkdir()
    (cohort / "manifest.json").write_text('{"sha256": {"cohort.csv": "0"}}')
    (cohort / "cohort.csv").write_text("row\n")
    found = check_nodes(storage, ["c0ffee"])
    assert len(found) == 2
    assert {report.data["c0ffee"] for report in found.values()} != {None}
    assert not list(tmp_path.glob(".preflight-*"))


@pytest.mark.slow
def test_a_node_that_cannot_write_is_named(tmp_path, two_nodes, monkeypatch):
    import ray

    storage = Storage.open(str(tmp_path))
    # Both nodes are this machine: once the driver has looked, nobody finds the meeting place.
    asked = ray.nodes

    def gone():
        for folder in tmp_path.glob(".preflight-*"):
            shutil.rmtree(folder)
        return asked()

    monkeypatch.setattr(ray, "nodes", gone)
    with pytest.raises(InputError, match="node .* does not see the storage"):
        check_nodes(storage)


@pytest.fixture(scope="module")
def two_nodes():
    """A real local Ray cluster of two nodes, joined."""
    import ray
    from ray.cluster_utils import Cluster

    from cxr_ray.sweep.runner import start_ray

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    try:
        start_ray(cluster.address)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
