"""One trial from prepared data to a whole folder of results, on one worker or several.

The same function runs in a plain process, in a Tune trial and in a DDP worker.
"""

import contextlib
import errno
import functools
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from cxr_ray import __version__
from cxr_ray.config.identity import TRAINING_VERSION, DataKeys
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.arm import ArmData, open_arm
from cxr_ray.data.batches import reside
from cxr_ray.data.order import padded_lengths
from cxr_ray.errors import InputError, TrialError, TrialStopped, store_errors
from cxr_ray.lease import Leases
from cxr_ray.models.classifier import Classifier
from cxr_ray.report.trial_folder import write_history
from cxr_ray.storage import RESULT_FILE, TEST_FILE, WEIGHTS_FILE, Storage, move_whole
from cxr_ray.training.checkpoint import adopt_checkpoint, read_compute
from cxr_ray.training.checkpoint_upload import CheckpointUpload, fetch_checkpoints
from cxr_ray.training.job import CACHE_FROZEN, FEWEST_WORKERS, Job
from cxr_ray.training.loop import DTYPES, Report, Scores, fit, score
from cxr_ray.training.outputs import write_outputs
from cxr_ray.training.world import World

STORAGE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@contextlib.contextmanager
def _storage_faults() -> Iterator[None]:
    """Fail a trial at once whose storage takes nothing more: a retry would end the same way."""
    try:
        yield
    except OSError as error:
        if error.errno in STORAGE_FAULTS:
            raise TrialError(f"OSError: {error}") from error
        raise


@_storage_faults()
def run_job(job: Job, world: World, report: Report) -> None:
    """Train, score and commit one experiment, continuing an earlier attempt's checkpoint.

    Raises
    ------
    TrialStopped
        If this attempt no longer holds the experiment's lease.
    TrialError
        If the loss is not finite, or the storage is full or read-only.
    """
    storage = Storage.open(job.storage, create=False)
    config = ExperimentConfig.model_validate(job.config)
    config = config.computed_on(world.device.type)
    running = storage.running / job.experiment_id
    attempt = running / job.attempt
    began = time.perf_counter()
    compute = {
        "device": _device_name(world.device),
        **config.compute.model_dump(mode="json"),
        "workers": job.workers,
        "cpus_per_worker": job.cpus_per_worker,
    }
    if config.caches:
        compute[CACHE_FROZEN] = config.train.cache_precision
    if world.size < job.workers:
        compute[FEWEST_WORKERS] = world.size
    if world.is_first:
        running.mkdir(mode=0o700, exist_ok=True)  # its lease may be another machine's
        fetch_checkpoints(storage, running)
        adopt_checkpoint(running, attempt, compute)
        compute = read_compute(attempt)
    world.gather(None)

    compute_alike_every_time(job.cpus_per_worker)
    arm = open_arm_once(storage, config.model_dump_json(), DataKeys(**job.keys))  # type: ignore[arg-type]
    arm = reside(arm, world.device, _room_for_packs(world.device, job.gpus_per_worker))
    model = build_classifier(config, arm, world)
    trained = storage.trials / job.experiment_id
    if world.give(storage.is_finished(job.experiment_id, ())):
        if "test" in job.parts:  # else it was finished by an attempt that died before it said so
            from cxr_ray.training.held_out import add_test_part

            storage.home.fetch(trained, RESULT_FILE)  # with its weights
            add_test_part(trained, config, arm, model, world, compute)
            if world.is_first:
                _explain(storage, trained, config, world.device)
            report({"test": len(arm.indices("test", own=False))})
            if world.is_first:
                storage.home.publish(trained, TEST_FILE)
        if world.is_first:
            storage.home.discard(running)
        return
    lease = _LeaseWatch(storage.leases, running, job.attempt)
    with CheckpointUpload(storage, attempt) as upload:

        def tell(row: dict[str, Any]) -> None:
            if world.is_first:
                upload.soon()
            report(row)
            lease.look_again()  # the driver has seen the epoch, and may have ended the trial by it

        history = fit(
            config,
            arm,
            model,
            attempt,
            world=world,
            report=tell,
            should_stop=lease.is_lost,
        )
    evaluated = np.concatenate([arm.indices(part, own=False) for part in job.parts])
    scores = score(config, arm, model, np.sort(evaluated), world)
    train = score(config, arm, model, arm.indices("train", own=True), world)
    if not world.is_first:
        return
    folder = attempt / "finished"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    result = {
        "experiment_id": job.experiment_id,
        "best_epoch": min(range(len(history)), key=lambda e: _badness(config, history[e])),
        "epochs": len(history),
        "train_seconds": round(sum(row["seconds"] for row in history), 3),
        "wall_seconds": round(time.perf_counter() - began, 3),
        "finished_at": round(time.time(), 3),
        "n_train": len(train.records),
        "n_train_positive": int(arm.label[train.records].sum()),
        "train_accuracy": float(np.mean((train.logits >= 0) == arm.label[train.records])),
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters_trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "keys": job.keys,
        "parts": list(job.parts),
        "attempt": job.attempt,
        "compute": compute,
        "versions": {
            "cxr_ray": __version__,
            "torch": torch.__version__,
            "training": TRAINING_VERSION,
            "git_commit": job.git_commit,
        },
    }
    _write_folder(folder, config, arm, model, history, scores, train, result)
    if "test" in job.parts:
        _explain(storage, folder, config, world.device)
    if not storage.leases.holds(running, job.attempt):
        raise TrialStopped("another attempt holds the lease of this trial")
    storage.home.publish(trained, RESULT_FILE, source=folder)
    move_whole(folder, trained)
    storage.home.discard(running)


def build_classifier(
    config: ExperimentConfig, arm: ArmData, world: World, *, pretrained: bool = True
) -> Classifier:
    """Build the classifier of an experiment on this worker's device."""
    vocabulary_size = arm.text.vocabulary_size if arm.text else None
    model = Classifier(config, vocabulary_size, pretrained=pretrained)
    if world.size > 1 and world.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(world.device, DTYPES[config.compute.precision])
    if config.compute.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if config.compute.compile:
        # A graph for each length that texts are padded to, for whole batches and the last, and for
        # training and scoring.
        torch._dynamo.config.cache_size_limit = 8 * len(padded_lengths(config))
        for encoder in model.encoders.values():
            encoder.compile(dynamic=False)  # in place: names in the state stay as they are
    return model


@functools.lru_cache(maxsize=4)
def open_arm_once(storage: Storage, config: str, keys: DataKeys) -> ArmData:
    """Open an arm's data; a reused process keeps the last few open."""
    return open_arm(storage, ExperimentConfig.model_validate_json(config), keys)


def _write_folder(
    folder: Path,
    config: ExperimentConfig,
    arm: ArmData,
    model: Classifier,
    history: list[dict[str, Any]],
    scores: Scores,
    train: Scores,
    result: dict[str, Any],
) -> None:
    """Write everything a trial leaves behind but what is computed from it; the result goes last."""
    from safetensors.torch import save_file

    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (folder / "config.yaml").write_text(settings)
    write_history(folder, history)
    write_outputs(folder, config, arm, model, scores, train)
    (folder / WEIGHTS_FILE).parent.mkdir()
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)
    description = {
        "config": config.model_dump(mode="json"),
        "tokenizer": result["keys"]["tokenizer"],
    }
    (folder / "model" / "config.json").write_text(json.dumps(description, indent=1))
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    if config.data.split.kind != "kfold":  # a fit is scored with the others of its model
        from cxr_ray.report.scoring import score_folder

        score_folder(folder, config.evaluation)


def _explain(
    storage: Storage, folder: Path, config: ExperimentConfig, device: torch.device
) -> None:
    """Explain the records that a study may show of this trial, if it turns out to be its best."""
    reads = config.fusion.modalities
    if not config.report.saliency or len(reads) < 2 or config.data.split.kind == "kfold":
        return
    from cxr_ray.training.explaining import explain_trial

    # No trial fails by this: the sweep tries once more at its end, and says why it cannot be done.
    with contextlib.suppress(InputError, RuntimeError):
        explain_trial(storage, folder, device)


def _room_for_packs(device: torch.device, gpus_per_worker: float) -> int:
    """Return how many bytes of packs may lie on a device: half of a trial's share of a GPU."""
    if device.type != "cuda":
        return 0
    free, whole = torch.cuda.mem_get_info(device)
    return int(min(free, whole * min(1.0, gpus_per_worker)) / 2)


class _LeaseWatch:
    """Whether an attempt still holds its lease; cheap to ask at every step."""

    def __init__(self, leases: Leases, running: Path, attempt: str) -> None:
        self._leases, self._running, self._attempt = leases, running, attempt
        self._checked = time.monotonic()

    def look_again(self) -> None:
        """Look at the lease when asked next, however short ago that was done."""
        self._checked = -float("inf")

    def is_lost(self) -> bool:
        """Tell whether the attempt must stop."""
        if time.monotonic() - self._checked < self._leases.look_seconds:
            return False
        self._checked = time.monotonic()
        try:
            return not self._leases.holds(self._running, self._attempt)
        except store_errors():
            return False  # a storage that does not answer once; the commit asks without mercy


def compute_alike_every_time(threads: int) -> None:
    """Make the arithmetic the same in every run: thread count and deterministic algorithms."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Filling every new tensor would cost a sixth of a small model's step, to catch reads of
    # memory never written; torch's own operators make none.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def _badness(config: ExperimentConfig, row: dict[str, Any]) -> float:
    value = float(row[config.train.monitor])
    return value if config.train.monitor == "val_loss" else -value


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
