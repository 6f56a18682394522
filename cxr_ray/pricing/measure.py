"""Measuring what a model's steps cost, on made-up records of the right shapes.

The steps are the loop's own, with its batches, its dtype and its deterministic algorithms.
"""

import json
import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.arm import ArmData
from cxr_ray.data.batches import collate
from cxr_ray.data.order import SCORING_BATCH
from cxr_ray.data.text_pack import TextPack
from cxr_ray.models.classifier import Classifier
from cxr_ray.pricing.prices import ModelPrice
from cxr_ray.pricing.workload import NO_TEXT, Counts
from cxr_ray.report.scoring import score_folder
from cxr_ray.storage import RESULT_FILE
from cxr_ray.training.checkpoint import BEST_FILE, LAST_FILE, save_state, trained_state
from cxr_ray.training.loop import Scores, build_optimizer, score, train_epoch
from cxr_ray.training.losses import build_loss
from cxr_ray.training.outputs import write_outputs
from cxr_ray.training.task import TrainingTask
from cxr_ray.training.trial import build_classifier, compute_alike_every_time
from cxr_ray.training.world import World

ROUNDS = 3
ROUND_SECONDS = 0.3
MOST_STEPS = 12
POSITIVE_SHARE = 0.1


def measure_model(
    config: ExperimentConfig,
    lengths: Sequence[int],
    *,
    device: str,
    threads: int,
    workers: int,
    folder: Path,
) -> ModelPrice:
    """Measure one model in this process.

    Parameters
    ----------
    lengths
        In tokens; ``(NO_TEXT,)`` for a model that reads no text.
    threads
        As a trial has them.
    workers
        Of one trial: each takes its share of a batch. Their exchange of gradients is not measured.
    folder
        On the disk of the checkpoints.

    Raises
    ------
    InputError
        If the text encoder's checkpoint is absent. The image's weights do not matter here.
    """
    compute_alike_every_time(threads)
    config = config.model_copy(
        update={
            "image": config.image.model_copy(update={"weights": None}),
            "train": config.train.model_copy(
                update={"batch": max(2, math.ceil(config.train.batch / workers))}
            ),
            "compute": config.compute.on(device),
        }
    )
    world = World(device=torch.device(device))
    began = time.perf_counter()
    model = build_classifier(config, made_up_arm(config, 2, lengths[0]), world)
    setup = time.perf_counter() - began
    task = TrainingTask(config, model, build_loss(config.loss, POSITIVE_SHARE))
    optimizer = build_optimizer(config, task)
    train = {each: _step_seconds(config, task, optimizer, each, world) for each in lengths}
    forward = {each: _forward_seconds(config, model, each, world) for each in lengths}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".price-") as aside:
        began = time.perf_counter()
        best, last = Path(aside) / BEST_FILE, Path(aside) / LAST_FILE
        save_state(best, trained_state(model))
        save_state(last, {"model": trained_state(model), "optimizer": optimizer.state_dict()})
        checkpoint = time.perf_counter() - began
        checkpoint_bytes = best.stat().st_size + last.stat().st_size
    return ModelPrice(
        train=train,
        forward=forward,
        setup=setup,
        checkpoint=checkpoint,
        checkpoint_bytes=checkpoint_bytes,
        weights_bytes=sum(value.nbytes for value in model.state_dict().values()),
        peak_bytes=_peak_bytes(device),
    )


def _step_seconds(
    config: ExperimentConfig,
    task: TrainingTask,
    optimizer: torch.optim.Optimizer,
    length: int,
    world: World,
) -> float:
    """Measure a training step, in seconds a record."""
    batch = config.train.batch
    arm = _stored(config, task.model, made_up_arm(config, batch * MOST_STEPS, length))
    records = np.arange(len(arm.label))

    def step(count: int) -> None:
        some = records[: count * batch]
        train_epoch(config, arm, some, task, task, optimizer, 0, world, lambda: False)

    return _seconds_each(step) / batch


def _forward_seconds(
    config: ExperimentConfig, model: Classifier, length: int, world: World
) -> float:
    """Measure a forward pass, in seconds a record."""
    arm = _stored(config, model, made_up_arm(config, SCORING_BATCH, length))

    def look(count: int) -> None:
        for _ in range(count):
            score(config, arm, model, np.arange(SCORING_BATCH), world)

    return _seconds_each(look) / SCORING_BATCH


def measure_statistics(
    config: ExperimentConfig, counts: Counts, *, threads: int, folder: Path
) -> float:
    """Measure in seconds what it costs to write a finished trial's outputs and to score them."""
    compute_alike_every_time(threads)
    parts = {"train": counts.train, "val": counts.val, "test": counts.test}
    own = np.ones(sum(parts.values()), bool)
    own[counts.train + counts.own_val : counts.train + counts.val] = False
    own[counts.train + counts.val + counts.own_test :] = False
    arm = made_up_arm(config, len(own), NO_TEXT, np.repeat(list(parts), list(parts.values())), own)
    width = {"image": config.image.features, "text": config.text.features}

    def made_up_scores(records: NDArray[np.int64]) -> Scores:
        rng = np.random.default_rng(len(records))
        signal = arm.label[records][:, None] * 0.2
        features: dict[str, NDArray[np.float32]] = {
            name: (rng.normal(size=(len(records), width[name])) + signal).astype(np.float32)
            for name in config.fusion.modalities
        }
        logits = rng.normal(size=len(records)) + 1.5 * arm.label[records] - 2
        return Scores(records, logits, features)

    small = config.image.model_copy(update={"encoder": "resnet_small", "weights": None})
    text = config.text.model_copy(
        update={"encoder": "scratch", "layers": 1, "width": 8, "heads": 1}
    )
    head_of = config.model_copy(update={"image": small, "text": text})
    model = Classifier(head_of, config.text.vocabulary)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".price-") as aside:
        trial = Path(aside)
        (trial / RESULT_FILE).write_text(json.dumps({"experiment_id": "0"}))
        began = time.perf_counter()
        scored = np.flatnonzero(arm.part != "train")
        trained = np.flatnonzero(arm.part == "train")
        write_outputs(trial, config, arm, model, made_up_scores(scored), made_up_scores(trained))
        score_folder(trial, config.evaluation)
        return time.perf_counter() - began


def made_up_arm(
    config: ExperimentConfig,
    records: int,
    length: int,
    part: NDArray[np.str_] | None = None,
    own: NDArray[np.bool_] | None = None,
) -> ArmData:
    """Make records up: noise for images, random tokens for texts, all texts ``length`` long.

    With ``part`` given the records are only to be scored, and have neither images nor texts.
    """
    rng = np.random.default_rng(0)
    reads = config.fusion.modalities if part is None else ()
    images = text = None
    if "image" in reads:
        size = config.image.size
        images = rng.integers(0, 256, (records, size, size), dtype=np.uint8)
    if "text" in reads:
        vocabulary = _vocabulary(config)
        text = TextPack(
            tokens=rng.integers(5, vocabulary, records * length, dtype=np.int32),
            offsets=np.arange(records + 1) * length,
            vocabulary_size=vocabulary,
            padding=0,
        )
    names = np.char.mod("%d", np.arange(records))
    return ArmData(
        record_id=names,
        group=names,
        label=(np.arange(records) % round(1 / POSITIVE_SHARE) == 0).astype(np.int8),
        part=np.repeat("train", records) if part is None else part,
        own=np.ones(records, bool) if own is None else own,
        row=np.arange(records),
        images=images,
        text=text,
    )


@torch.no_grad()
def _stored(config: ExperimentConfig, model: Classifier, arm: ArmData) -> ArmData:
    """Give made-up records what ``train.cache_frozen`` stores, that of the first for all."""
    if not config.caches:
        return arm
    device = next(model.parameters()).device
    batch = collate(arm, np.arange(1), device, torch.float32)
    read = {"image": (batch.image,), "text": (batch.tokens, batch.attention)}
    frozen: dict[str, NDArray[np.floating]] = {}
    for modality in config.caches:
        encoder: Any = model.encoders[modality]
        one = encoder.prefix(*read[modality]).cpu().numpy()
        stored = one.astype(config.train.cache_precision)
        frozen[modality] = np.broadcast_to(stored, (len(arm.label), *stored.shape[1:]))
    return replace(arm, frozen=frozen)


def _vocabulary(config: ExperimentConfig) -> int:
    if config.text.encoder == "scratch":
        return config.text.vocabulary
    from cxr_ray.data.tokenization import load_pretrained_tokenizer

    return len(load_pretrained_tokenizer(config.text.encoder))


def _seconds_each(run: Callable[[int], None]) -> float:
    """Time ``run(count)`` for each of ``count``: once where that is long, else the median of some.

    The first call is the warm-up: it allocates, and chooses kernels.
    """
    began = time.perf_counter()
    run(1)
    first = time.perf_counter() - began
    if first > 10 * ROUND_SECONDS:
        return first
    began = time.perf_counter()
    run(1)
    once = time.perf_counter() - began
    count = min(MOST_STEPS, max(1, math.ceil(ROUND_SECONDS / once)))
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run(count)
        rounds.append((time.perf_counter() - began) / count)
    return statistics.median(rounds)


def _peak_bytes(device: str) -> int:
    """Most memory that this process, or its device, ever held."""
    if device == "cuda":
        return torch.cuda.max_memory_reserved()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
