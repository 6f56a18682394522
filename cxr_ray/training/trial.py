"""One trial from prepared data to a whole folder of results, on one worker or several.

The same function runs in a plain process, in a Tune trial and in a DDP worker.
"""

import functools
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import nn

from cxr_ray import __version__
from cxr_ray.config.identity import TRAINING_VERSION, DataKeys
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.arm import ArmData, open_arm
from cxr_ray.errors import TrialStopped
from cxr_ray.lease import holds_lease
from cxr_ray.models.classifier import Classifier
from cxr_ray.report.scoring import score_folder
from cxr_ray.report.trial_folder import write_history, write_predictions
from cxr_ray.storage import Storage, move_whole
from cxr_ray.training.checkpoint import adopt_checkpoint
from cxr_ray.training.job import Job
from cxr_ray.training.loop import DTYPES, Report, Scores, fit, score
from cxr_ray.training.world import World

LEASE_CHECK_SECONDS = 1.0


def run_job(job: Job, world: World, report: Report) -> None:
    """Train, score and commit one experiment, continuing an earlier attempt's checkpoint.

    Raises
    ------
    TrialStopped
        If this attempt no longer holds the experiment's lease.
    TrialError
        If the loss is not finite.
    """
    storage = Storage.open(job.storage, create=False)
    config = ExperimentConfig.model_validate(job.config)
    running = storage.running / job.experiment_id
    attempt = running / job.attempt
    began = time.perf_counter()
    compute = {
        "device": _device_name(world.device),
        **config.compute.model_dump(mode="json"),
        "workers": world.size,
        "cpus_per_worker": job.cpus_per_worker,
    }
    if world.is_first:
        adopt_checkpoint(running, attempt, compute)
    world.gather(None)

    _compute_alike_every_time(job.cpus_per_worker)
    arm = open_arm_once(storage, config.model_dump_json(), DataKeys(**job.keys))  # type: ignore[arg-type]
    model = build_classifier(config, arm, world)
    history = fit(
        config,
        arm,
        model,
        attempt,
        world=world,
        report=report,
        should_stop=_lost_lease(running, job.attempt),
    )
    evaluated = np.concatenate([arm.indices(part, own=False) for part in ("val", "test")])
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
    if not holds_lease(running, job.attempt):
        raise TrialStopped("another attempt holds the lease of this trial")
    move_whole(folder, storage.trials / job.experiment_id)
    shutil.rmtree(running, ignore_errors=True)


def build_classifier(config: ExperimentConfig, arm: ArmData, world: World) -> Classifier:
    """Build the classifier of an experiment on this worker's device."""
    model = Classifier(config, arm.text.vocabulary_size if arm.text else None)
    if world.size > 1 and world.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(world.device, DTYPES[config.compute.precision])
    if config.compute.channels_last:
        model = model.to(memory_format=torch.channels_last)
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
    write_predictions(
        folder,
        record_id=arm.record_id[scores.records],
        group=arm.group[scores.records],
        part=arm.part[scores.records],
        in_own=arm.own[scores.records],
        label=arm.label[scores.records],
        logit=scores.logits,
    )
    head = {name: value.detach().cpu().numpy() for name, value in model.head.named_parameters()}
    # What stands in for a modality that is missing.
    means = {name: value.mean(axis=0, dtype=np.float64) for name, value in train.features.items()}
    kind = config.fusion.kind if len(scores.features) > 1 else "concat"
    probes = _refit_probes(arm, scores, train) if len(scores.features) > 1 else {}
    with (folder / "features.npz").open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            kind=np.array(kind),
            **scores.features,
            **{f"train_mean.{name}": value.astype(np.float32) for name, value in means.items()},
            **{f"head.{name}": value for name, value in head.items()},
            **{f"probe.{name}": logits for name, logits in probes.items()},
        )
    (folder / "model").mkdir()
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model" / "model.safetensors")
    description = {
        "config": config.model_dump(mode="json"),
        "tokenizer": result["keys"]["tokenizer"],
    }
    (folder / "model" / "config.json").write_text(json.dumps(description, indent=1))
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    if config.data.split.kind != "kfold":  # a fit is scored with the others of its model
        score_folder(folder, config.evaluation)


def _refit_probes(arm: ArmData, scores: Scores, train: Scores) -> dict[str, NDArray[np.float32]]:
    """Fit a linear probe on each modality's features and on both; logits as `scores` lie."""
    from cxr_ray.evaluation.probes import fit_probe

    def joined(found: Scores, names: tuple[str, ...]) -> NDArray[np.float32]:
        return np.hstack([found.features[name] for name in names])

    val = (arm.part[scores.records] == "val") & arm.own[scores.records]
    label, reference = arm.label[train.records], arm.label[scores.records][val]
    probes = {}
    for name, read in (
        ("image", ("image",)),
        ("text", ("text",)),
        ("both", ("image", "text")),
    ):
        asked = joined(scores, read)
        probe = fit_probe(joined(train, read), label, asked[val], reference, asked)
        probes[name] = probe.logits.astype(np.float32)
    return probes


def _lost_lease(running: Path, attempt: str) -> Callable[[], bool]:
    """Return a question that is cheap to ask at every step."""
    checked = time.monotonic()

    def lost() -> bool:
        nonlocal checked
        if time.monotonic() - checked < LEASE_CHECK_SECONDS:
            return False
        checked = time.monotonic()
        return not holds_lease(running, attempt)

    return lost


def _compute_alike_every_time(threads: int) -> None:
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
