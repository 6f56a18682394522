"""The loop for one model. It knows nothing of Ray and runs in a plain process or a debugger."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.arm import ArmData
from cxr_ray.data.batches import Batch, collate
from cxr_ray.data.order import (
    SCORING_BATCH,
    draw_lost,
    epoch_batches,
    padded_lengths,
    scoring_batches,
    shard,
)
from cxr_ray.errors import TrialError, TrialStopped
from cxr_ray.evaluation.ranking import auroc, average_precision
from cxr_ray.models.classifier import Classifier
from cxr_ray.training.checkpoint import (
    BEST_FILE,
    LAST_FILE,
    load_state,
    load_trained,
    save_state,
    trained_state,
)
from cxr_ray.training.losses import Loss, build_loss
from cxr_ray.training.schedule import build_schedule
from cxr_ray.training.task import TrainingTask
from cxr_ray.training.world import World

# To look at a loss is to wait for the device: after each step it would stand still meanwhile.
LOOK_STEPS = {"cuda": 50}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}

Report = Callable[[dict[str, Any]], None]


@dataclass
class Scores:
    """A forward pass over some records, in their order: logits (M,) float64 and features."""

    records: NDArray[np.int64]
    logits: NDArray[np.float64]
    features: dict[str, NDArray[np.float32]]


def fit(
    config: ExperimentConfig,
    arm: ArmData,
    model: Classifier,
    checkpoints: Path,
    *,
    world: World,
    report: Report,
    should_stop: Callable[[], bool],
) -> list[dict[str, Any]]:
    """Train until the monitored figure stops improving, and leave the best weights in ``model``.

    Parameters
    ----------
    checkpoints
        Folder of this attempt on the first worker's machine. A checkpoint found there is
        continued, with the same numbers as if it had never been interrupted.
    report
        Called with one dict an epoch, on every worker.
    should_stop
        Asked at every step; True ends the training with `TrialStopped`, keeping the checkpoint.

    Returns
    -------
    The history: one dict an epoch.

    Raises
    ------
    TrialError
        If the training loss or a validation logit is not finite.
    TrialStopped
        If ``should_stop`` said so.
    """
    train = arm.indices("train", own=True)
    loss = build_loss(config.loss, float(arm.label[train].mean()))
    task = TrainingTask(config, model, loss)
    optimizer = build_optimizer(config, task)
    schedule = build_schedule(config.train, optimizer)
    wrapped = share_gradients(task, world, accumulate=config.train.accumulate)
    history: list[dict[str, Any]] = []
    best_epoch, epoch = -1, 0
    found = world.is_first and (checkpoints / LAST_FILE).exists()
    state = world.give(load_state(checkpoints / LAST_FILE) if found else None)
    if state is not None:
        load_trained(model, state["model"])
        task.load_state_dict(state.get("training_only", {}), strict=False)
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        history, best_epoch, epoch = state["history"], state["best_epoch"], state["epoch"]
        for row in history:  # whoever listens now may not have heard them
            report({**row, "best_epoch": best_epoch})

    while epoch < config.train.max_epochs and epoch - best_epoch <= config.train.patience:
        began = time.perf_counter()
        rate = schedule.get_last_lr()[0]
        train_loss = train_epoch(
            config, arm, train, task, wrapped, optimizer, epoch, world, should_stop
        )
        schedule.step()
        world.share(model.buffers())
        row = {"epoch": epoch, "lr": rate, "train_loss": train_loss}
        row |= _validate(config, arm, model, loss, world)
        row["seconds"] = time.perf_counter() - began
        history.append(row)
        if _improves(config.train.monitor, history, best_epoch):
            best_epoch = epoch
            if world.is_first:
                save_state(checkpoints / BEST_FILE, trained_state(model))
        epoch += 1
        if world.is_first:
            save_state(
                checkpoints / LAST_FILE,
                {
                    "model": trained_state(model),
                    "training_only": task.training_only(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "history": history,
                    "best_epoch": best_epoch,
                    "epoch": epoch,
                },
            )
        report({**row, "best_epoch": best_epoch})
    if world.is_first:
        load_trained(model, load_state(checkpoints / BEST_FILE))
    world.share(model.state_dict().values())
    return history


def build_optimizer(config: ExperimentConfig, task: TrainingTask) -> torch.optim.Optimizer:
    """Build the optimizer of what is trained."""
    kind = torch.optim.AdamW if config.train.optimizer == "adamw" else torch.optim.Adam
    return kind(
        [p for p in task.parameters() if p.requires_grad],
        lr=config.train.lr,
        weight_decay=config.train.weight_decay,
        fused=config.compute.fused_optimizer or None,
    )


def share_gradients(task: TrainingTask, world: World, *, accumulate: int) -> nn.Module:
    """Wrap a task so that its gradients are averaged over workers; what is frozen has none.

    Every step uses the same parameters, so that nothing is searched for unused ones. torch's
    reducer asserts where a graph that is declared static is accumulated without exchange.
    """
    if world.size == 1:
        return task
    return DistributedDataParallel(task, broadcast_buffers=False, static_graph=accumulate == 1)


def train_epoch(
    config: ExperimentConfig,
    arm: ArmData,
    train: NDArray[np.int64],
    task: TrainingTask,
    wrapped: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    world: World,
    should_stop: Callable[[], bool],
) -> float:
    """Take one pass over the training part and return its mean loss."""
    lengths = None if arm.lengths is None else arm.lengths[train]
    batches = epoch_batches(
        train,
        config.train.batch,
        seed=config.train.seed,
        epoch=epoch,
        lengths=lengths,
        weights=_sampling_weights(config, arm.label[train]),
    )
    lost = draw_lost(len(arm.label), config.fusion.modality_dropout, config.train.seed, epoch)
    losses: list[float] = []
    not_looked_at: list[Tensor] = []
    for step, batch in enumerate(batches):
        if world.agree(should_stop()):
            raise TrialStopped("the trial was asked to stop")
        # Dropout's draws depend on where training is, not on how it got there.
        torch.manual_seed(_seed_of(config.train.seed, epoch, step, world.rank))
        optimizer.zero_grad(set_to_none=True)
        parts = np.array_split(shard(batch, world.rank, world.size), config.train.accumulate)
        # One record has no variance. All ranks decide alike: SyncBatchNorm waits for every one.
        still = len(batch) < 2 * world.size * config.train.accumulate
        step_loss = torch.zeros((), dtype=torch.float64, device=world.device)
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with nullcontext() if last or world.size == 1 else wrapped.no_sync():  # type: ignore[operator]
                summed = _summed_loss(wrapped, arm, part, batch, lost, still, world.device, config)
                # DDP averages gradients over ranks: scaled so, they add up to the global mean's.
                (summed * world.size / len(batch)).backward()
            step_loss += summed.detach()
        task.adjust_gradients(world, _seed_of(config.train.seed, epoch, step))
        optimizer.step()
        not_looked_at.append(step_loss)
        if len(not_looked_at) == LOOK_STEPS.get(world.device.type, 1) or step == len(batches) - 1:
            losses += world.sum(torch.stack(not_looked_at).cpu()).tolist()
            not_looked_at.clear()
            worst = next((n for n, each in enumerate(losses) if not math.isfinite(each)), None)
            if worst is not None:
                raise TrialError(
                    f"the training loss is {losses[worst]} in epoch {epoch}, step {worst}"
                )
    return sum(losses) / sum(map(len, batches))


def _summed_loss(
    task: nn.Module,
    arm: ArmData,
    part: NDArray[np.int64],
    batch: NDArray[np.int64],
    lost: NDArray[np.int64] | None,
    still: bool,
    device: torch.device,
    config: ExperimentConfig,
) -> Tensor:
    """Sum the loss over a rank's part of a batch.

    A rank without records must still take part in the gradient exchange: it passes one borrowed
    record through and weighs it zero. Where a part of the batch may be so small (``still``),
    batch-norm uses its running statistics and moves none.
    """
    empty = len(part) == 0
    records = batch[:1] if empty else part
    data = _gather(config, arm, records, device)
    task.train()
    if still:
        for module in task.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    without = None if lost is None else torch.from_numpy(lost[records]).to(device)
    summed: Tensor = task(data, without, 0.0 if empty else 1.0)
    return summed


def _validate(
    config: ExperimentConfig, arm: ArmData, model: Classifier, loss: Loss, world: World
) -> dict[str, float]:
    """Score the full validation part once; the arm's own part is a subset of it."""
    scores = score(config, arm, model, arm.indices("val", own=False), world)
    if not np.isfinite(scores.logits).all():
        raise TrialError("the validation logits are not finite")
    own = arm.own[scores.records]
    label = arm.label[scores.records]
    losses = loss(
        torch.from_numpy(scores.logits), torch.from_numpy(label.astype(np.float64))
    ).numpy()
    return {
        "val_loss": float(losses[own].mean()),
        "val_auroc": auroc(label[own], scores.logits[own]),
        "val_full_auroc": auroc(label, scores.logits),
        "val_average_precision": average_precision(label, scores.logits),
        "val_accuracy": float(np.mean((scores.logits[own] >= 0) == label[own])),
    }


@torch.no_grad()
def score(
    config: ExperimentConfig,
    arm: ArmData,
    model: Classifier,
    records: NDArray[np.int64],
    world: World,
) -> Scores:
    """Pass records through the model in evaluation mode and gather what every worker got."""
    model.eval()
    mine = shard(records, world.rank, world.size)
    lengths = None if arm.lengths is None else arm.lengths[mine]
    found = []
    for batch in scoring_batches(mine, SCORING_BATCH, lengths):
        data = _gather(config, arm, batch, world.device)
        with torch.autocast(
            world.device.type, torch.bfloat16, config.compute.precision == "bfloat16"
        ):
            features = model.encode(data)
            logits = model.fuse(features)
        found.append(
            (
                batch,
                logits.double().cpu().numpy(),
                {name: value.float().cpu().numpy() for name, value in features.items()},
            )
        )
    parts = [part for gathered in world.gather(found) for part in gathered]
    place = np.argsort(np.concatenate([part[0] for part in parts]))
    restore = np.argsort(np.argsort(records))  # back from sorted records to the order asked for
    order = place[restore]
    return Scores(
        records=records,
        logits=np.concatenate([part[1] for part in parts])[order],
        features={
            name: np.concatenate([part[2][name] for part in parts])[order] for name in parts[0][2]
        },
    )


def _gather(
    config: ExperimentConfig, arm: ArmData, records: NDArray[np.int64], device: torch.device
) -> Batch:
    return collate(
        arm,
        records,
        device,
        DTYPES[config.compute.precision],
        pinned=config.compute.pinned_copies,
        channels_last=config.compute.channels_last,
        lengths=padded_lengths(config) if config.compute.compile else (),
    )


def _improves(monitor: str, history: list[dict[str, Any]], best_epoch: int) -> bool:
    if best_epoch < 0:
        return True
    new, best = history[-1][monitor], history[best_epoch][monitor]
    return bool(new < best if monitor == "val_loss" else new > best)


def _sampling_weights(
    config: ExperimentConfig, label: NDArray[np.int8]
) -> NDArray[np.float64] | None:
    """Weigh both classes alike for the balanced sampler."""
    if config.train.sampler == "shuffled":
        return None
    share = label.mean()
    return np.where(label == 1, 0.5 / share, 0.5 / (1 - share))


def _seed_of(*place: int) -> int:
    return int(np.random.SeedSequence(place).generate_state(1)[0])
