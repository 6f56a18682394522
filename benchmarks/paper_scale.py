"""The price of the paper's study at its full size, worked out for machines that are not at hand.

    python benchmarks/paper_scale.py

``paper12`` on 24,113 records with ResNet-50 at 256 px and a BERT of BioBERT's size. A laptop is
priced by bare steps that are measured here with every core busy; a GPU by the FLOPs of a record,
the device's peak and the share of it that is assumed. Trials and slots are priced by the code of
``--dry-run``.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from bare import Cost, measure_cost
from rows import machine
from sweeps import ROOT, cores
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cxr_ray.config.layers import Layer, load_profile
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.batches import collate
from cxr_ray.pricing.bill import PricedTrial, format_duration, makespan
from cxr_ray.pricing.measure import made_up_arm
from cxr_ray.pricing.prices import ModelPrice
from cxr_ray.pricing.workload import assumed_workload
from cxr_ray.sweep.grid import Experiment, expand, load_grid
from cxr_ray.sweep.preparation import PAPER_NEGATIVE, PAPER_POSITIVE
from cxr_ray.training.trial import build_classifier
from cxr_ray.training.world import World

TOKENS = 256
"""Of every report, which is an assumption: MIMIC's are not to be had without credentials."""
BATCH = 4
"""Records of a measured step: a record of a step of 64 costs as much within a few percent."""
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
# As BERT-base and its tokenizer are; random weights cost what trained ones do.
BIOBERT = {
    "text.encoder": "scratch",
    "text.layers": 12,
    "text.width": 768,
    "text.heads": 12,
    "text.vocabulary": 28_996,
    "text.max_tokens": 512,
    "image.weights": None,
}
PEAK, UTILISATION, SHARED = 312e12, 0.3, 0.9
"""Dense bf16 FLOP/s of an A100; the share of it that is assumed; and what two GPUs on one trial
keep of that beside the exchange of gradients."""
TEXT = """\
`paper12` on {records:,} records ({positive:,} positive): ResNet-50 at 256 px with conv1 to layer2
frozen and BERT-base, every report of {tokens} tokens, 15 epochs without an early stop. Only passes
through the models are counted.

| machine | trials at once | trial-hours | device-hours | wall |
|---|---|---|---|---|
{places}

The arithmetic, a record:

| model | GFLOPs, step | forward | core-seconds, step | forward | GPU ms, step | forward |
|---|---|---|---|---|---|---|
{arithmetic}

FLOPs are counted by torch's `FlopCounterMode`, a multiplication and an addition as two. A GPU is
taken to do {peak:.0f} TFLOP/s (A100, dense bf16) at {utilisation:.0%}, which is assumed, not
measured, and two GPUs on one trial {shared:.0%} of that each; time goes with 1 / (peak x share). A
laptop's steps are measured, a process of one thread a core, in batches of {batch}, on {machine}.
The model of both encoders costs the sum of the two."""


@dataclass(frozen=True)
class Place:
    """A machine: how many devices it has, and how many a trial takes."""

    name: str
    device: str
    devices: int
    a_trial: int = 1


def describe() -> str:
    """Measure, count, and set the prices as Markdown."""
    models = {e.config.fusion.modalities: e.config for e in _paper12()}
    image, text = models["image",], models["text",]
    flops = _with_both(count_flops(image), count_flops(text))
    measured = _with_both(_measure_step(image), _measure_step(text))
    gpu = {reads: _on_gpu(each, UTILISATION) for reads, each in flops.items()}
    shared = {reads: _on_gpu(each, UTILISATION * SHARED) for reads, each in flops.items()}
    laptop = Place(f"1 laptop, {cores()} cores", "core", cores())
    places = [
        _priced(laptop, measured),
        _priced(Place("1 GPU", "GPU", 1), gpu),
        _priced(Place("8 GPUs", "GPU", 8), gpu),
        _priced(Place("4 x 8 GPUs, 2 a trial", "GPU", 32, 2), shared),
    ]
    return TEXT.format(
        records=PAPER_POSITIVE + PAPER_NEGATIVE,
        positive=PAPER_POSITIVE,
        tokens=TOKENS,
        places="\n".join(places),
        arithmetic="\n".join(_arithmetic(flops, measured)),
        peak=PEAK / 1e12,
        utilisation=UTILISATION,
        shared=SHARED,
        batch=BATCH,
        machine=machine(),
    )


def _paper12() -> list[Experiment]:
    grid = load_grid(ROOT / "search_spaces" / "paper12.yaml")
    return expand(grid, load_profile("paper"), Layer("benchmark", BIOBERT))


def _with_both(image: Cost, text: Cost) -> dict[tuple[str, ...], Cost]:
    """Add the model of both encoders, which are side by side under a head of one number."""
    both = Cost(image.train + text.train, image.forward + text.forward)
    return {("image",): image, ("text",): text, ("image", "text"): both}


def count_flops(config: ExperimentConfig) -> Cost:
    """Count the FLOPs a record of a training step and of a forward pass."""
    arm = made_up_arm(config, 1, TOKENS)
    model = build_classifier(config, arm, World())
    batch = collate(arm, np.arange(1), torch.device("cpu"), torch.float32)
    counted = []
    for trains in (True, False):
        model.train(trains)
        # other kernels of attention are not counted everywhere
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            with torch.set_grad_enabled(trains):
                logits = model(batch)
            if trains:
                nn.functional.binary_cross_entropy_with_logits(logits, batch.label).backward()
        counted.append(float(counter.get_total_flops()))
    return Cost(*counted)


def _measure_step(config: ExperimentConfig) -> Cost:
    """Time a few records in as many processes as there are cores."""
    config = config.model_copy(update={"train": config.train.model_copy(update={"batch": BATCH})})
    arm = made_up_arm(config, 2 * BATCH, TOKENS)
    part = np.repeat(["train", "val"], BATCH)
    return measure_cost(config, replace(arm, part=part))


def _on_gpu(flops: Cost, share: float) -> Cost:
    return Cost(flops.train / (PEAK * share), flops.forward / (PEAK * share))


def _priced(place: Place, costs: Mapping[tuple[str, ...], Cost]) -> str:
    """Lay the twelve trials onto a machine and set what they take as a line of the table."""
    records = PAPER_POSITIVE + PAPER_NEGATIVE
    counted = {
        "records": records,
        "positive": PAPER_POSITIVE,
        "parts": {
            part: {"n": round(share * records), "n_positive": round(share * PAPER_POSITIVE)}
            for part, share in SHARES.items()
        },
    }
    seconds = []
    for experiment in _paper12():
        config = experiment.config
        work = assumed_workload(config, counted, TOKENS)
        (length,) = work.lengths
        cost = costs[config.fusion.modalities]
        trial = PricedTrial(
            config,
            work,
            ModelPrice(train={length: cost.train}, forward={length: cost.forward}),
            statistics=0.0,
            epochs=config.train.max_epochs,
            finished=False,
            workers=place.a_trial,
        )
        seconds.append(trial.seconds())
    slots = min(place.devices // place.a_trial, len(seconds))
    hours = sum(seconds) / 3600
    wall = format_duration(makespan(seconds, slots))
    used = f"{_show(place.a_trial * hours)} {place.device}-hours"
    return f"| {place.name} | {slots} | {_show(hours)} | {used} | {wall} |"


def _arithmetic(
    flops: Mapping[tuple[str, ...], Cost], measured: Mapping[tuple[str, ...], Cost]
) -> list[str]:
    lines = []
    for reads, each in flops.items():
        core, gpu = measured[reads], _on_gpu(each, UTILISATION)
        cells = [
            " + ".join(reads),
            *(f"{count / 1e9:.1f}" for count in (each.train, each.forward)),
            *(f"{seconds:.2f}" for seconds in (core.train, core.forward)),
            *(f"{1000 * seconds:.2f}" for seconds in (gpu.train, gpu.forward)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _show(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    print(describe())
