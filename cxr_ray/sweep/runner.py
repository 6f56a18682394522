"""Running a study's missing trials on Ray Tune.

The truth about a trial is its own folder. Tune schedules, reports and retries; nothing is read
back from its results, so that a kill at any moment loses no finished trial.
"""

import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.exceptions import RayActorError, RayTaskError

from cxr_ray.errors import InputError, TrialError, TrialStopped
from cxr_ray.lease import Heartbeat, acquire_lease, release_lease
from cxr_ray.storage import Storage
from cxr_ray.sweep.plan import Member
from cxr_ray.sweep.resources import TrialResources, count_slots
from cxr_ray.training.job import Job

PROCESS_RETRIES = 2
WAIT_SECONDS = 2.0
CONNECT_SECONDS = 5.0
# Worker processes send nothing home and compute alike in every run on one kind of processor. MKL's
# COMPATIBLE would hold between processors too, and doubles the time of a small BERT's step.
WORKER_ENVIRONMENT = {
    "MKL_CBWR": "AUTO,STRICT",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

# No tables, log files or snapshots of Tune's own: what counts is in the trial folders.
DRIVER_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
}


@dataclass(frozen=True)
class TrialEvent:
    """Something that happened to a trial: ``started``, ``epoch``, ``finished`` or ``failed``."""

    kind: str
    member: Member
    figures: dict[str, Any]


def start_ray(address: str | None) -> None:
    """Start a local Ray, or join the cluster at ``address``."""
    for name, value in DRIVER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # A failed trial's reason is told in one line; its traceback is not Tune's to print.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    local: dict[str, Any] = {}
    _check_address(address)
    if address is None:
        local = {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": WORKER_ENVIRONMENT},
            **local,
        )
    except ConnectionError as error:
        raise InputError(f"--address {address}: no Ray cluster answers there") from error


def _check_address(address: str | None) -> None:
    """Refuse a ``host:port`` at which nothing listens, which Ray would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"--address {address}: no Ray cluster answers there ({error.strerror or error})"
        ) from error


def missing_members(storage: Storage, members: Iterable[Member]) -> list[Member]:
    """Return the members without a finished trial."""
    return [m for m in members if not (storage.trials / m.trained_id / "result.json").exists()]


def run_members(
    storage: Storage,
    members: Sequence[Member],
    need: TrialResources,
    *,
    driver: str,
    max_concurrent: int | None,
    git_commit: str | None,
    on_event: Callable[[TrialEvent], None],
) -> dict[str, str]:
    """Train the members that are missing, on a started Ray.

    A member that another living driver trains is waited for, and trained here if that driver dies.

    Returns
    -------
    The reason of each trial that failed, by experiment id. A member that is neither finished nor
    in here was interrupted.
    """
    slots = count_slots(need, ray.cluster_resources(), max_concurrent)
    failed: dict[str, str] = {}
    with Heartbeat() as heartbeat:
        while missing := [
            m for m in missing_members(storage, members) if m.trained_id not in failed
        ]:
            jobs, leases = [], {}
            for member in sorted(missing, key=_cost, reverse=True):
                running = storage.running / member.trained_id
                lease = acquire_lease(running, driver)
                if lease is None:
                    continue
                if not missing_members(storage, [member]):
                    # Another driver finished it after this one had looked.
                    shutil.rmtree(running, ignore_errors=True)
                    continue
                heartbeat.add(running)
                leases[running] = lease
                jobs.append(
                    Job(
                        storage=str(storage.root),
                        experiment_id=member.trained_id,
                        attempt=lease.attempt,
                        config=member.config.model_dump(mode="json"),
                        keys=asdict(member.keys),
                        git_commit=git_commit,
                        **asdict(need),
                    )
                )
            if not jobs:
                time.sleep(WAIT_SECONDS)
                continue
            by_id = {member.trained_id: member for member in missing}
            failed |= _tune(jobs, by_id, need, slots, on_event)
            for running, lease in leases.items():
                heartbeat.discard(running)
                release_lease(running, lease)
            left = {m.trained_id for m in missing_members(storage, members)}
            if any(job.experiment_id in left - set(failed) for job in jobs):
                break  # interrupted
    return failed


def _tune(
    jobs: Sequence[Job],
    members: dict[str, Member],
    need: TrialResources,
    slots: int,
    on_event: Callable[[TrialEvent], None],
) -> dict[str, str]:
    """Run jobs as Tune trials and return the reasons of those that failed."""
    follow = _Follow(members, on_event)
    if need.workers > 1:
        # The worker group holds the CPUs; a driver that held one too could starve it for ever, so
        # it takes a sliver of a resource that every head node has.
        resources: dict[str, float] = {"cpu": 0, "node:__internal_head__": 0.001}
    else:
        resources = {"cpu": need.cpus_per_worker, "gpu": need.gpus_per_worker}
    with tempfile.TemporaryDirectory(prefix="cxr_ray-tune-", ignore_cleanup_errors=True) as folder:
        tuner = tune.Tuner(
            tune.with_resources(_train_in_trial, resources),
            param_space={"job": tune.grid_search([asdict(job) for job in jobs])},
            tune_config=tune.TuneConfig(
                reuse_actors=need.workers == 1,
                max_concurrent_trials=slots,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=folder,
                verbose=0,
                callbacks=[follow],
                failure_config=tune.FailureConfig(max_failures=PROCESS_RETRIES),
            ),
        )
        tuner.fit()
    return follow.failed


class _Follow(tune.Callback):
    """Passes what Tune tells of a trial on as events, and keeps the reasons of failed ones."""

    def __init__(self, members: dict[str, Member], on_event: Callable[[TrialEvent], None]) -> None:
        self._members, self._on_event = members, on_event
        self.failed: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore of its own, which is never used.
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Pass the start on."""
        self._tell("started", trial, {})

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """Pass an epoch's figures on, or keep the reason of a trial that failed by itself."""
        if "failed" in result:
            self.failed[_identity(trial)] = result["failed"]
        elif "val_loss" in result:
            self._tell("epoch", trial, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Pass the end on."""
        reason = self.failed.get(_identity(trial))
        if reason is None:
            self._tell("finished", trial, {})
        else:
            self._tell("failed", trial, {"reason": reason})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Pass on that a trial's process failed for good."""
        reason = _reason(trial)
        self.failed[_identity(trial)] = reason
        self._tell("failed", trial, {"reason": reason})

    def _tell(self, kind: str, trial: Any, figures: dict[str, Any]) -> None:
        self._on_event(TrialEvent(kind, self._members[_identity(trial)], figures))


def _identity(trial: Any) -> str:
    identity: str = trial.config["job"]["experiment_id"]
    return identity


def _train_in_trial(config: dict[str, Any]) -> None:
    """Train one job inside a Tune trial: here, or as a group of DDP workers."""
    job = Job(**config["job"])
    try:
        if job.workers > 1:
            from cxr_ray.training.distributed import run_distributed

            run_distributed(job)
        else:
            import torch

            from cxr_ray.training.trial import run_job
            from cxr_ray.training.world import World

            device = torch.device("cuda" if job.gpus_per_worker else "cpu")
            run_job(job, World(device=device), tune.report)
    except TrialStopped:
        return
    except (TrialError, InputError) as error:
        # The experiment itself fails: a retry would end the same way.
        tune.report({"failed": str(error)})


def _cost(member: Member) -> float:
    """Rank trials by what they will take, so that the longest start first."""
    config = member.config
    share = config.data.majority_share
    records = 1.0 if share is None else (1 - share) * 2
    return records * len(config.fusion.modalities)


def _reason(trial: Any) -> str:
    """Say in one line why a trial's process failed, from what Tune wrote beside it."""
    error: object = None
    if trial.pickled_error_file is not None:
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    elif trial.error_file is not None:
        error = Path(trial.error_file).read_text()
    if isinstance(error, RayTaskError):
        error = error.cause
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    if isinstance(error, RayActorError):
        return f"its process died: {lines[0] if lines else 'no reason is known'}"
    kind = f"{type(error).__name__}: " if isinstance(error, BaseException) else ""
    return kind + (lines[-1] if lines else "its process failed")
