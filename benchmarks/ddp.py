"""Compare two DDP workers of one thread with one worker of two, on the paper's image model.

    python benchmarks/ddp.py --size 192

ResNet-50 from random weights, the paper's frozen prefix, through the training loop, without Ray;
the aim is .9 of the samples a second. The two take turns; of each the fastest round counts, since
whatever else the machine does only slows, and two threads that wait for each other the most.
"""

import argparse
import os
import platform
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import distributed, multiprocessing

from cxr_ray.config.layers import Layer, load_profile, resolve
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.arm import ArmData
from cxr_ray.training.loop import fit
from cxr_ray.training.trial import build_classifier
from cxr_ray.training.world import World

VALIDATION = 4


def make_arm(records: int, size: int) -> ArmData:
    rng = np.random.default_rng(0)
    count = records + VALIDATION
    names = np.arange(count).astype(str)
    return ArmData(
        record_id=names,
        group=names,
        label=(np.arange(count) % 2).astype(np.int8),
        part=np.where(np.arange(count) < records, "train", "val"),
        own=np.ones(count, dtype=bool),
        row=np.arange(count),
        images=rng.integers(256, size=(count, size, size), dtype=np.uint8),
        text=None,
    )


def work(rank: int, size: int, config: ExperimentConfig, records: int, folder: Path) -> None:
    """Train in one of ``size`` processes, and leave the seconds an epoch in the folder."""
    torch.set_num_threads(2 // size)
    if size > 1:
        distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
        )
    world = World(rank, size)
    arm = make_arm(records, config.image.size)
    history = fit(
        config,
        arm,
        build_classifier(config, arm, world),
        folder,
        world=world,
        report=lambda row: None,
        should_stop=lambda: False,
    )
    if world.is_first:
        np.savetxt(folder / "seconds", [row["seconds"] for row in history[1:]])
    if size > 1:
        distributed.destroy_process_group()


def samples_a_second(size: int, config: ExperimentConfig, records: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(work, (size, config, records, Path(folder)), nprocs=size)
        return records / statistics.median(np.loadtxt(Path(folder) / "seconds", ndmin=1).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=192, help="pixels (default: 192)")
    parser.add_argument("--records", type=int, default=32, help="an epoch (default: 32)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    fields = {
        "image.weights": None,
        "image.size": options.size,
        "fusion.modalities": "image",
        "train.batch": 16,
        "train.max_epochs": 3,
    }
    config = resolve([load_profile("paper"), Layer("benchmark", fields)])
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(options.rounds):
        for workers, found in rates.items():
            found.append(samples_a_second(workers, config, options.records))
            print(f"{workers} x {2 // workers} threads: {found[-1]:.2f} samples/s", flush=True)
    print(
        f"resnet50 at {options.size} px, batches of 16: ratio {max(rates[2]) / max(rates[1]):.2f}"
    )
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
