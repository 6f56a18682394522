"""Running a study's missing trials on Ray Tune.

The truth about a trial is its own folder. Tune schedules, reports and retries; nothing is read
back from its results, so that a kill at any moment loses no finished trial.
"""

import json
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import ray
from ray import cloudpickle, tune
from ray._private import ray_constants
from ray.air._internal import usage
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.stopper import CombinedStopper

from cxr_ray.errors import InputError, TrialError, TrialStopped
from cxr_ray.lease import Heartbeat
from cxr_ray.storage import Storage
from cxr_ray.sweep.handout import PROCESS_RETRIES, Handout, TrialEvent
from cxr_ray.sweep.queue import TrialQueue
from cxr_ray.sweep.resources import TrialResources, count_slots
from cxr_ray.sweep.starvation import StarvedStopper
from cxr_ray.training.job import Job

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
    # glibc keeps what a step has freed for the next one. Else the kernel clears the same pages at
    # every step, a sixth of a forward pass of 256 small images.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}

# No tables, log files or snapshots of Tune's own: what counts is in the trial folders.
DRIVER_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A worker for each core before there is work: all of ours have an environment of their own.
    "RAY_prestart_worker_first_driver": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",
    # A machine that is taken back is one that is lost: Tune would retry without end.
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",
}


def start_ray(address: str | None) -> None:
    """Start a local Ray, which listens on loopback only, or join the cluster at ``address``."""
    for name, value in DRIVER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # A failed trial's reason is told in one line; its traceback is not Tune's to print.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    # A count of callbacks, for statistics that are off; it imports mlflow before the first trial.
    usage.tag_callbacks = lambda callbacks: False
    local: dict[str, Any] = {}
    _check_address(address)
    if address is None:
        local = {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
        # Else its servers listen on every interface, whatever address it is given. The driver has
        # read the variable when ray was imported.
        os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
        ray_constants.ENABLE_RAY_CLUSTER = False
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
    """Refuse what is no address, and a ``host:port`` at which nothing listens."""
    if address is not None and address not in ("auto", "local") and ":" not in address:
        raise InputError(
            f"--address {address}: should be auto or that of a cluster, as in 10.0.0.1:6379 or "
            "ray://10.0.0.1:10001"
        )
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
    warn: Callable[[str], None],
) -> dict[str, str]:
    """Train what a queue hands out, on a started Ray.

    A member that another living driver trains is waited for, and trained here if that driver dies.
    The first SIGINT stops the trials at their last checkpoint; from then on SIGINT has the system's
    own effect, which is to end the process.

    Returns
    -------
    The reason of each trial that failed, by experiment id. A member that is neither finished nor
    in here, nor pruned, was interrupted.

    Raises
    ------
    OSError
        If the storage cannot be written any more.
    """
    slots = count_slots(need, ray.cluster_resources(), max_concurrent, may_grow=may_grow)
    with Heartbeat(storage.leases) as heartbeat, _Interruption(warn) as interruption:
        handout = Handout(storage, queue, need, driver, git_commit, heartbeat, on_event)
        while not handout.over and not interruption.asked:
            if not handout.look():
                time.sleep(WAIT_SECONDS)  # others train what is left
                continue
            _tune(handout, interruption, need, slots)
            if handout.error is not None:
                raise handout.error
            if handout.release_all() or not handout.all_handed_out:
                break  # interrupted
    return handout.failed


def _tune(
    handout: Handout, interruption: "_Interruption", need: TrialResources, slots: int
) -> None:
    """Run the jobs that are handed out as Tune trials."""
    if need.workers > 1:
        # The worker group holds the CPUs; a driver that held one too could starve it for ever, so
        # it takes a sliver of a resource that every head node has.
        resources: dict[str, float] = {"cpu": 0, "node:__internal_head__": 0.001}
    else:
        resources = {"cpu": need.cpus_per_worker, "gpu": need.gpus_per_worker}
    follow, starved = _Follow(handout), StarvedStopper(need)
    with tempfile.TemporaryDirectory(prefix="cxr_ray-tune-", ignore_cleanup_errors=True) as folder:
        tuner = tune.Tuner(
            tune.with_resources(_train_in_trial, resources),
            tune_config=tune.TuneConfig(
                search_alg=handout,
                scheduler=_AsHandedOut(),
                num_samples=-1,
                reuse_actors=need.workers == 1,
                max_concurrent_trials=slots,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=folder,
                verbose=0,
                callbacks=[follow, starved, _Silence()],
                stop=CombinedStopper(follow, starved, interruption),
                failure_config=tune.FailureConfig(max_failures=PROCESS_RETRIES),
            ),
        )
        tuner.fit()
    for identity, reason in starved.reasons.items():
        handout.ended(identity, reason)


class _AsHandedOut(FIFOScheduler):
    """Starts trials in the order they are handed out, and has Tune forget those that have ended.

    Tune would keep all of them, and in the end a text of each, for a restore of its own, which is
    never used. It asks at every step what is to run next, and takes the trials in order where no
    scheduler says.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Let go of what has ended, and choose none."""
        controller = tune_controller._tune_controller
        ended = controller._stopped_trials | controller._failed_trials
        if not ended:
            return
        controller._trials[:] = [trial for trial in controller._trials if trial not in ended]
        for trials in (
            controller._stopped_trials,
            controller._failed_trials,
            controller._live_trials,
            controller._trials_to_cache,
        ):
            trials.difference_update(ended)
        for trial in ended:
            controller._trial_metadata.pop(trial.trial_id, None)


class _Silence(TrialProgressCallback):
    """Takes the place of Tune's own, which keeps all trials and prints those without figures."""

    def log_result(self, trial: Any, result: dict[str, Any], error: bool = False) -> None:
        """Print nothing."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Print nothing."""


class _Interruption(tune.Stopper):
    """Stops everything after the first SIGINT; the second ends the process, whatever it does then.

    Tune's own handler leaves the second to Python's, whose exception is lost where it is raised
    inside a destructor, and holds the import lock for ever where it is raised inside an import.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.asked = False
        self._warn, self._told = warn, False

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its stoppers for a restore of its own, which is never used.
        return {}

    def __enter__(self) -> Self:
        self._before: Any = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread():
            self._before = signal.SIG_DFL
        if self._before is not signal.SIG_DFL:  # else it was asked before
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not signal.SIG_DFL and not self.asked:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: object) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no trial by what it reports."""
        return False

    def stop_all(self) -> bool:
        """Stop everything, or not yet."""
        if self.asked and not self._told:
            self._told = True
            self._warn("interrupted: trials stop at their last epoch; Ctrl-C again ends at once")
        return self.asked


class _Follow(tune.Callback, tune.Stopper):
    """Tells the handout what Tune tells of a trial, and stops everything if the storage fails."""

    def __init__(self, handout: Handout) -> None:
        self._handout = handout
        self._reasons: dict[str, str] = {}
        self._begun: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore of its own, which is never used.
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no trial by what it reports."""
        return False

    def stop_all(self) -> bool:
        """Stop everything, or not yet."""
        return self._handout.error is not None

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Pass the start on."""
        self._begun.add(_identity(trial))
        self._handout.started(_identity(trial))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Pass on that a trial is to begin again."""
        self._begun.discard(_identity(trial))
        tries = f"retry {trial.num_failures} of {PROCESS_RETRIES}"
        self._handout.retried(_identity(trial), f"{_reason(trial)}; {tries}")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """Pass an epoch's figures on, or keep the reason of a trial that failed by itself."""
        if "failed" in result:
            self._reasons[_identity(trial)] = result["failed"]
        elif "retried" in result:
            self._handout.retried(_identity(trial), result["retried"])
        elif "val_loss" in result:
            self._handout.epoch(_identity(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Pass the end on."""
        self._begun.discard(_identity(trial))
        self._handout.ended(_identity(trial), self._reasons.pop(_identity(trial), None))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Pass on that a trial's process failed for good, or before the trial began."""
        begun = _identity(trial) in self._begun
        self._begun.discard(_identity(trial))
        tell = self._handout.ended if begun else self._handout.died_before_its_start
        tell(_identity(trial), _reason(trial))


def _identity(trial: Any) -> str:
    identity: str = trial.config["experiment_id"]
    return identity


def _train_in_trial(config: dict[str, Any]) -> None:
    """Train one job inside a Tune trial: here, or as a group of DDP workers."""
    job = Job(**json.loads(config["job"]))
    try:
        if job.workers > 1:
            from cxr_ray.training.distributed import run_distributed

            run_distributed(job, lambda reason: tune.report({"retried": reason}))
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
