"""Several workers on one experiment: Ray Train's TorchTrainer around the same loop."""

import tempfile
from dataclasses import asdict
from typing import Any

from cxr_ray.errors import TrialError, TrialStopped
from cxr_ray.training.job import Job


def run_distributed(job: Job) -> None:
    """Run a job as a group of DDP workers, from inside a Tune trial.

    Raises
    ------
    TrialError
        If the experiment itself fails on a worker.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError
    from ray.tune.integration.ray_train import TuneReportCallback

    on_gpu = job.gpus_per_worker > 0
    each: dict[str, float] = {"CPU": job.cpus_per_worker}
    if on_gpu:
        each["GPU"] = job.gpus_per_worker
    with tempfile.TemporaryDirectory(prefix="cxr_ray-train-", ignore_cleanup_errors=True) as folder:
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config=asdict(job),
            scaling_config=ScalingConfig(
                num_workers=job.workers, use_gpu=on_gpu, resources_per_worker=each
            ),
            torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
            run_config=RunConfig(
                name=job.experiment_id,
                storage_path=folder,
                callbacks=[TuneReportCallback()],  # type: ignore[list-item]
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            for cause in _causes(error):
                if isinstance(cause, TrialError | TrialStopped):
                    raise cause from error
            raise


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
    return found + [cause for each in found if (cause := getattr(each, "cause", None))]
