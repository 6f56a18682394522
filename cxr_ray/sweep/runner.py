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
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.search import Searcher

from cxr_ray.errors import InputError, TrialError, TrialStopped
from cxr_ray.lease import Heartbeat, Lease, acquire_lease, release_lease
from cxr_ray.storage import WEIGHTS_FILE, Storage
from cxr_ray.sweep.plan import Member
from cxr_ray.sweep.queue import HISTORY_FIELDS, TrialQueue
from cxr_ray.sweep.resources import TrialResources, count_slots
from cxr_ray.sweep.starvation import StarvedStopper
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
    """Something that happened to a trial.

    ``kind`` is ``started``, ``epoch``, ``finished``, ``failed``, ``pruned`` or ``stopped``; a
    stopped one keeps its checkpoint.
    """

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


def run_trials(
    storage: Storage,
    queue: TrialQueue,
    need: TrialResources,
    *,
    driver: str,
    max_concurrent: int | None,
    may_grow: bool = False,
    git_commit: str | None,
    on_event: Callable[[TrialEvent], None],
) -> dict[str, str]:
    """Train what a queue hands out, on a started Ray.

    A member that another living driver trains is waited for, and trained here if that driver dies.

    Returns
    -------
    The reason of each trial that failed, by experiment id. A member that is neither finished nor
    in here, nor pruned, was interrupted.
    """
    slots = count_slots(need, ray.cluster_resources(), max_concurrent, may_grow=may_grow)
    with Heartbeat() as heartbeat:
        handout = _Handout(storage, queue, need, driver, git_commit, heartbeat, on_event)
        while not handout.over:
            if not handout.look():
                time.sleep(WAIT_SECONDS)  # others train what is left
                continue
            _tune(handout, need, slots)
            if handout.release_all() or not handout.all_handed_out:
                break  # interrupted
    return handout.failed


class _Handout(Searcher):
    """Hands a queue's members to Tune as jobs, each under a lease, and follows what they do."""

    def __init__(
        self,
        storage: Storage,
        queue: TrialQueue,
        need: TrialResources,
        driver: str,
        git_commit: str | None,
        heartbeat: Heartbeat,
        on_event: Callable[[TrialEvent], None],
    ) -> None:
        super().__init__()
        self._storage, self._queue, self._need = storage, queue, need
        self._driver, self._git_commit = driver, git_commit
        self._heartbeat, self._on_event = heartbeat, on_event
        self._elsewhere: deque[Member] = deque()
        self._running: dict[str, tuple[Member, Lease]] = {}
        self._pruned: dict[str, str] = {}
        self._histories: dict[str, list[dict[str, Any]]] = {}
        self.failed: dict[str, str] = {}
        self._found: dict[str, Any] | None = None
        self.all_handed_out = False

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher for a restore of its own, which is never used.
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the next job, None while others' trials are waited for, or that all is over."""
        if self._found is None:
            self.look()
        if self._found is None:
            waits = bool(self._elsewhere and self._running)
            return None if waits else str(Searcher.FINISHED)
        job, self._found = self._found, None
        return job

    def look(self) -> bool:
        """Take the next lease that can be had; False where there is none now, or nothing left."""
        self.all_handed_out = False
        for _ in range(len(self._elsewhere)):
            if self._hand_out(self._elsewhere.popleft()):
                return True
        while member := self._queue.next():
            if self._hand_out(member):
                return True
        self.all_handed_out = True
        return False

    @property
    def over(self) -> bool:
        """Whether nothing is left, here or with other drivers."""
        return self.all_handed_out and not self._elsewhere

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the callback has been told."""

    def _hand_out(self, member: Member) -> bool:
        """Take a member's lease and make its job; False where it needs none from here."""
        identity = member.trained_id
        if self._storage.is_finished(identity, self._queue.parts):
            self._queue.ended(member, "finished")
            return False
        running = self._storage.running / identity
        lease = acquire_lease(running, self._driver)
        if lease is None:
            self._elsewhere.append(member)
            return False
        if self._storage.is_finished(identity, self._queue.parts):
            # Another driver finished it after this one had looked.
            shutil.rmtree(running, ignore_errors=True)
            self._queue.ended(member, "finished")
            return False
        trained = self._storage.trials / identity
        if trained.exists() and not (trained / WEIGHTS_FILE).exists():
            # Trained for its validation figures alone, and its weights are gone.
            shutil.rmtree(trained)
        self._heartbeat.add(running)
        self._running[identity] = member, lease
        job = Job(
            storage=str(self._storage.root),
            experiment_id=identity,
            attempt=lease.attempt,
            config=member.config.model_dump(mode="json"),
            keys=asdict(member.keys),
            parts=self._queue.parts,
            git_commit=self._git_commit,
            **asdict(self._need),
        )
        self._found = {"job": asdict(job)}
        return True

    def started(self, identity: str) -> None:
        """Pass a trial's start on."""
        self._tell("started", identity, {})

    def epoch(self, identity: str, figures: dict[str, Any]) -> None:
        """Pass an epoch on; a trial that is to be pruned loses its lease, and so ends itself."""
        member, lease = self._running[identity]
        history = self._histories.setdefault(identity, [])
        if any(row["epoch"] == figures["epoch"] for row in history):
            return  # a trial that was continued tells its epochs again
        history.append({key: figures[key] for key in HISTORY_FIELDS if key in figures})
        self._tell("epoch", identity, figures)
        reason = None if identity in self._pruned else self._queue.epoch(member, figures)
        if reason is not None:
            self._pruned[identity] = reason
            release_lease(self._storage.running / identity, lease)

    def ended(self, identity: str, reason: str | None) -> None:
        """Take a trial's end; the reason is why it failed."""
        member, lease = self._running[identity]
        history = self._histories.pop(identity, [])
        kind, figures = "finished", dict[str, Any]()
        if reason is not None:
            self.failed[identity] = reason
            kind, figures = "failed", {"reason": reason, "history": history}
        elif identity in self._pruned and not self._storage.is_finished(
            identity, self._queue.parts
        ):
            kind, figures = "pruned", {"reason": self._pruned.pop(identity), "history": history}
            self._drop_checkpoint(identity)
        elif not self._storage.is_finished(identity, self._queue.parts):
            # Its lease went to another driver, or it was interrupted.
            self._elsewhere.append(member)
            kind = "stopped"
        self._let_go(identity)
        if kind != "stopped":
            self._queue.ended(member, kind, figures.get("reason"))
        self._on_event(TrialEvent(kind, member, figures))

    def release_all(self) -> bool:
        """Give back what an interruption left; True where there was anything."""
        left = list(self._running)
        for identity in left:
            self._let_go(identity)
        return bool(left)

    def _let_go(self, identity: str) -> None:
        _, lease = self._running.pop(identity)
        running = self._storage.running / identity
        self._heartbeat.discard(running)
        release_lease(running, lease)

    def _drop_checkpoint(self, identity: str) -> None:
        running = self._storage.running / identity
        if acquire_lease(running, self._driver) is not None:
            shutil.rmtree(running, ignore_errors=True)

    def _tell(self, kind: str, identity: str, figures: dict[str, Any]) -> None:
        self._on_event(TrialEvent(kind, self._running[identity][0], figures))


def _tune(handout: _Handout, need: TrialResources, slots: int) -> None:
    """Run the jobs that are handed out as Tune trials."""
    if need.workers > 1:
        # The worker group holds the CPUs; a driver that held one too could starve it for ever, so
        # it takes a sliver of a resource that every head node has.
        resources: dict[str, float] = {"cpu": 0, "node:__internal_head__": 0.001}
    else:
        resources = {"cpu": need.cpus_per_worker, "gpu": need.gpus_per_worker}
    starved = StarvedStopper(need)
    with tempfile.TemporaryDirectory(prefix="cxr_ray-tune-", ignore_cleanup_errors=True) as folder:
        tuner = tune.Tuner(
            tune.with_resources(_train_in_trial, resources),
            tune_config=tune.TuneConfig(
                search_alg=handout,
                num_samples=-1,
                reuse_actors=need.workers == 1,
                max_concurrent_trials=slots,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=folder,
                verbose=0,
                callbacks=[_Follow(handout), starved],
                stop=starved,
                failure_config=tune.FailureConfig(max_failures=PROCESS_RETRIES),
            ),
        )
        tuner.fit()
    for identity, reason in starved.reasons.items():
        handout.ended(identity, reason)


class _Follow(tune.Callback):
    """Tells the handout what Tune tells of a trial."""

    def __init__(self, handout: _Handout) -> None:
        self._handout = handout
        self._reasons: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore of its own, which is never used.
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Pass the start on."""
        self._handout.started(_identity(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """Pass an epoch's figures on, or keep the reason of a trial that failed by itself."""
        if "failed" in result:
            self._reasons[_identity(trial)] = result["failed"]
        elif "val_loss" in result:
            self._handout.epoch(_identity(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Pass the end on."""
        self._handout.ended(_identity(trial), self._reasons.pop(_identity(trial), None))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Pass on that a trial's process failed for good."""
        self._handout.ended(_identity(trial), _reason(trial))


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
