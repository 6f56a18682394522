"""Bare steps: a model in a loop over batches that lie ready in memory.

They are timed in as many processes as there are cores, which share caches and memory.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch
from sweeps import Sweep, cores
from torch import nn

from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.arm import ArmData
from cxr_ray.data.batches import Batch, collate
from cxr_ray.data.image_pack import decode_image
from cxr_ray.data.order import SCORING_BATCH, epoch_batches, scoring_batches
from cxr_ray.training.trial import build_classifier
from cxr_ray.training.world import World

SECONDS = 4.0


@dataclass(frozen=True)
class Cost:
    """Core-seconds a record of a training step and of a forward pass."""

    train: float
    forward: float


def measure_cost(config: ExperimentConfig, arm: ArmData) -> Cost:
    """Time a model with every core busy."""
    return Cost(*np.mean(_on_every_core(_step, config, arm), axis=0))


def measure_decoding(files: list[Path], size: int) -> float:
    """Time the decoding of files to pixels, in core-seconds, with every core busy."""
    return float(np.sum(_on_every_core(_decode, files, size)))


def bare_seconds(sweep: Sweep) -> float:
    """Add up the bare steps of a sweep's trials in core-seconds, forward-only passes included."""
    costs: dict[tuple[str, ...], Cost] = {}
    total = 0.0
    for trial in sorted(sweep.trials, key=lambda each: each.config.dataset):
        arm = sweep.arm(trial)
        reads = trial.config.fusion.modalities
        if reads not in costs:  # the full data set's batches stand for all
            costs[reads] = measure_cost(trial.config, arm)
        train = len(arm.indices("train", own=True))
        val, test = (len(arm.indices(part, own=False)) for part in ("val", "test"))
        total += costs[reads].train * train * trial.epochs
        total += costs[reads].forward * (val * trial.epochs + train + val + test)
    return total


def _on_every_core(work: Callable, *arguments: object) -> list:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(cores()), context.Queue()
    processes = [
        context.Process(target=_answer, args=(work, place, barrier, answers, *arguments))
        for place in range(cores())
    ]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def _answer(work: Callable, place: int, barrier: Barrier, answers, *arguments: object) -> None:
    torch.set_num_threads(1)
    answers.put(work(place, barrier, *arguments))


def _step(
    place: int, barrier: Barrier, config: ExperimentConfig, arm: ArmData
) -> tuple[float, float]:
    model = build_classifier(config, arm, World())
    optimizer = torch.optim.Adam(model.parameters(), lr=config.train.lr)
    lengths = arm.lengths

    def ready(records: Iterable[np.ndarray]) -> list[Batch]:
        return [collate(arm, each, torch.device("cpu"), torch.float32) for each in records]

    train = arm.indices("train", own=True)
    cut = epoch_batches(
        train,
        config.train.batch,
        seed=0,
        epoch=0,
        lengths=None if lengths is None else lengths[train],
    )
    train_batches = ready(cut[:16])
    val = arm.indices("val", own=False)
    forward_batches = ready(
        scoring_batches(val, SCORING_BATCH, None if lengths is None else lengths[val])[:8]
    )

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(batch), batch.label).backward()
        optimizer.step()

    @torch.no_grad()
    def forward(batch: Batch) -> None:
        model(batch)

    model.train()
    stepping = _seconds_a_record(step, train_batches, barrier)
    model.eval()
    return stepping, _seconds_a_record(forward, forward_batches, barrier)


def _seconds_a_record(
    work: Callable[[Batch], None], batches: list[Batch], barrier: Barrier
) -> float:
    work(batches[0])
    barrier.wait()
    began, records = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        for batch in batches:
            work(batch)
            records += len(batch.label)
    found = (time.perf_counter() - began) / records
    barrier.wait()
    return found


def _decode(place: int, barrier: Barrier, files: list[Path], size: int) -> float:
    mine = [path.read_bytes() for path in files[place :: cores()]]
    barrier.wait()
    began = time.perf_counter()
    for content in mine:
        decode_image(content, size)
    return time.perf_counter() - began
