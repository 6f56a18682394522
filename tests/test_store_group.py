"""A group of workers on machines that share nothing but a store, without Ray."""

import os
from dataclasses import asdict, replace

import object_folder
import pytest
import torch
from machines import Machines
from prepared_phantom import PreparedPhantom, tiny_config
from torch import distributed, multiprocessing

from cxr_ray.object_store import SCRATCH_VARIABLE
from cxr_ray.report.trial_folder import read_history
from cxr_ray.training.job import Job
from cxr_ray.training.trial import run_job
from cxr_ray.training.world import World


class Lost(Exception):
    pass


def work(rank, job, folder, names, last):
    """What each worker does on a machine of its own; all are lost after the epoch ``last``."""
    object_folder.register()
    os.environ[SCRATCH_VARIABLE] = str(folder / names[rank])
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting-{last}", rank=rank, world_size=len(names)
    )

    def report(row):
        if row.get("epoch") == last:
            raise Lost

    try:
        run_job(Job(**job), World(rank, len(names)), report)
    except Lost:
        distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.slow
def test_a_group_goes_on_where_none_of_its_machines_has_the_checkpoint(tmp_path, monkeypatch):
    machine = Machines(tmp_path, monkeypatch)
    config = tiny_config(fusion__modalities="text", train__max_epochs=4)
    driver = PreparedPhantom(machine("driver"))
    job = asdict(replace(driver.job(config), workers=2))
    for names, last in ((("one", "two"), 1), (("three", "four"), None)):
        multiprocessing.start_processes(
            work, (job, tmp_path, names, last), nprocs=2, start_method="forkserver"
        )
        if last is not None:
            store = tmp_path / "store" / "runs" / "running" / job["experiment_id"]
            first = torch.load(store / job["attempt"] / "last.pt", weights_only=True)["history"]
    storage = machine("driver")
    assert storage.is_finished(job["experiment_id"])
    history = read_history(storage.trials / job["experiment_id"])
    assert (len(first), len(history)) == (2, 4)
    assert history[:2] == first
    for name in ("one", "two", "three", "four"):
        assert list((tmp_path / name).glob("*/prepared/*/text-*/tokens.npy"))
    assert not list((tmp_path / "four").glob("*/running/*/*"))  # the first worker's alone
