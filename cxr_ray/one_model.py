"""One model, trained in this process: the package as a library, without Ray or a study."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cxr_ray.config.layers import Layer, flatten, load_profile, resolve
from cxr_ray.config.weights import check_weights
from cxr_ray.data.fan_out import run_here
from cxr_ray.data.prepare import prepare
from cxr_ray.data.prepared import is_prepared
from cxr_ray.data.sources import config_of, open_source
from cxr_ray.errors import InputError
from cxr_ray.lease import Heartbeat
from cxr_ray.storage import RESULT_FILE, Storage
from cxr_ray.sweep.grid import Experiment
from cxr_ray.sweep.plan import make_member
from cxr_ray.training.job import Job


def train_model(
    settings: Mapping[str, Any] | None = None,
    *,
    data: str = "phantom",
    reports: str | None = None,
    profile: str = "demo",
    storage: str | Path = "runs",
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Path:
    """Prepare what one model reads and train it, on this machine's CPU.

    Parameters
    ----------
    settings
        Overrides of the profile, nested or by dotted name:
        ``{"fusion.modalities": "image", "train": {"lr": 1e-4}}``.
    data, reports, profile, storage
        As for ``launch/sweep.py``.
    report
        Called after every epoch with ``epoch``, ``train_loss``, ``val_loss``, ``val_auroc``, ….

    Returns
    -------
    pathlib.Path
        The trial's folder, which a sweep in the same storage takes as its own. A model that is
        there already is not trained again, and one that was broken off goes on from its last epoch.

    Raises
    ------
    InputError
        For bad input of any kind, or where another process trains this model.
    TrialError
        If the loss is not finite.

    Notes
    -----
    As in a sweep, torch is set to deterministic algorithms and to one thread. Sweeps also set
    ``MKL_CBWR=AUTO,STRICT`` before torch starts; without it last digits may differ from theirs.
    """
    from cxr_ray.training.trial import run_job
    from cxr_ray.training.world import World

    own = Layer("settings", flatten(settings or {}))
    config = resolve([load_profile(profile), Layer("data", config_of(data)), own])
    if config.data.split.kind == "kfold":
        raise InputError("data.split.kind=kfold is many fits; a sweep trains them")
    place = Storage.open(str(storage))
    source = open_source(data, config, place.prepared, reports)
    check_weights(config)
    member = make_member(Experiment(config, {}), source)
    identity, driver = member.trained_id, uuid.uuid4().hex
    if place.is_finished(identity):
        place.home.fetch(place.trials / identity, RESULT_FILE)  # with its weights
        return place.trials / identity
    if not is_prepared(place, member.keys):
        prepare(
            place,
            source,
            [(config, member.keys)],
            fan_out=run_here,
            progress=lambda what, done, total: None,
            driver=driver,
        )
    if config.caches:
        from cxr_ray.training.frozen import cache_frozen

        cache_frozen(
            place,
            [(config, member.keys)],
            fan_out=run_here,
            progress=lambda what, done, total: None,
            driver=driver,
        )
    running = place.running / identity
    lease = place.leases.acquire(running, driver)
    if lease is None:
        raise InputError(f"another process trains this model ({identity}) in {place.location}")
    place.discard_unusable(identity)
    job = Job(
        storage=place.location,
        experiment_id=identity,
        attempt=lease.attempt,
        config=config.model_dump(mode="json"),
        keys=asdict(member.keys),
    )
    with Heartbeat(place.leases) as heartbeat:
        heartbeat.add(running)
        try:
            run_job(job, World(), report)
        finally:
            place.leases.release(running, lease)
    return place.trials / identity
