"""Several workers on one experiment: Ray Train's TorchTrainer around the same loop."""

import inspect
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from cxr_ray.errors import TrialError, TrialStopped
from cxr_ray.training.job import Job
from cxr_ray.training.room import count_workers, worker_resources

WORKER_RETRIES = 2
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
# How often Train looks at its workers, and so the shortest epoch: one report is taken at a time.
POLL_SECONDS = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5"


def run_distributed(job: Job, tell: Callable[[str], None]) -> None:
    """Run a job as a group of DDP workers, from inside a Tune trial.

    A group that loses a worker starts again from the last checkpoint. Where the cluster no longer
    holds that many, which Train alone would wait for without end, it goes on with those that it
    holds, or ends. Where others only use the room now, it waits for its turn.

    Parameters
    ----------
    tell
        Called with the reason each time that a group starts again.

    Raises
    ------
    TrialError
        If the experiment itself fails on a worker, a worker failed more than ``WORKER_RETRIES``
        times, or the cluster does not hold the group.
    """
    import ray
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
    from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError

    each = worker_resources(job.cpus_per_worker, job.gpus_per_worker)
    os.environ[START_TIMEOUT] = str(job.wait_for_room)
    os.environ.setdefault(*POLL_SECONDS)
    workers, failures = job.workers, 0
    while True:
        try:
            return _run_group(job, workers, each)
        except TrainingFailedError as error:
            causes = _causes(error)
            for cause in causes:
                if isinstance(cause, TrialError | TrialStopped):
                    raise cause from error
            if isinstance(error, ControllerError) and isinstance(
                error.controller_failure, WorkerGroupStartupTimeoutError
            ):
                nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
                held = count_workers(each, nodes)
                if held < workers and not (job.elastic and held):
                    raise TrialError(
                        f"it needs {workers} workers, and for {job.wait_for_room:g} s the cluster "
                        f"has held {held}; the same command continues it"
                    ) from error
                if held < workers:
                    tell(f"for {job.wait_for_room:g} s the cluster has held {held} workers")
                    workers = held
                continue
            failures += 1
            if failures > WORKER_RETRIES:
                raise TrialError(
                    f"its workers failed {failures} times, the last time by {_sentence(causes)}"
                ) from error
            tell(f"{_sentence(causes)}; retry {failures} of {WORKER_RETRIES}")


def _run_group(job: Job, workers: int, each: dict[str, float]) -> None:
    """Train with a group of workers to the end, or to the first fault."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    on_gpu = job.gpus_per_worker > 0
    with tempfile.TemporaryDirectory(prefix="cxr_ray-train-", ignore_cleanup_errors=True) as folder:
        TorchTrainer(
            _train_worker,
            train_loop_config=asdict(job),
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=on_gpu, resources_per_worker=each
            ),
            torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
            run_config=RunConfig(
                name=job.experiment_id,
                storage_path=folder,
                callbacks=[TuneReportCallback()],  # type: ignore[list-item]
                failure_config=FailureConfig(**_no_retries()),  # type: ignore[arg-type]
            ),
        ).fit()


def _no_retries() -> dict[str, int]:
    """Leave retries to `run_distributed`, in the fields that this version of Train knows.

    Train would also repeat what ends the same way, wait for room without end, and start again
    without end where machines are taken away by notice (spot instances).
    """
    from ray.train import FailureConfig

    fields = ("max_failures", "controller_failure_limit", "max_preemption_failures")
    known = inspect.signature(FailureConfig).parameters
    return {name: 0 for name in fields if name in known}


def _train_worker(config: dict[str, Any]) -> None:
    import ray.train
    import ray.train.torch

    from cxr_ray.training.trial import run_job
    from cxr_ray.training.world import World

    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    run_job(Job(**config), world, ray.train.report)


def _causes(error: BaseException) -> list[BaseException]:
    """List what a training failure was made of: each worker's own error."""
    found: list[BaseException] = list(getattr(error, "worker_failures", {}).values())
    if error.__cause__ is not None:
        found.append(error.__cause__)
    return found + [
        cause
        for each in found
        for name in ("cause", "health_check_failure")
        if (cause := getattr(each, name, None))
    ]


def _sentence(causes: list[BaseException]) -> str:
    """Say why a group failed: the death of a worker, before what the others make of it."""
    from ray.exceptions import RayActorError

    causes = sorted(causes, key=lambda cause: not isinstance(cause, RayActorError))
    for cause in causes:
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        if lines:
            return lines[0] if isinstance(cause, RayActorError) else lines[-1]
    return "a cause that is not known"
