"""Compare training through the real loop and loader with bare steps, at 64 and 256 px.

    python benchmarks/loader.py

Packs of 24,000 records are written directly. Real and bare epochs take turns in one process; both
see the same records, the bare ones as batches that lie ready in memory. Of each the fastest round
counts, since whatever else the machine does only slows.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rows import Row, machine, show
from torch import nn

from cxr_ray.config.layers import Layer, load_profile, resolve
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.arm import ArmData
from cxr_ray.data.batches import collate
from cxr_ray.data.order import epoch_batches
from cxr_ray.data.text_pack import TextPack
from cxr_ray.training.loop import fit
from cxr_ray.training.trial import build_classifier
from cxr_ray.training.world import World

RECORDS, VALIDATION, ROUNDS = 24_000, 4, 3
# Cheap encoders, beside which a loader would show, and the number of records of an epoch.
MODELS = (("demo", 64, 4096), ("demo", 256, 512))
LEAST = 0.97


def measure(scratch: Path) -> list[Row]:
    """Time both at both sizes."""
    rows = []
    for profile, size, epoch in MODELS:
        fields = {"image.size": size, "train.max_epochs": 1}
        config = resolve([load_profile(profile), Layer("benchmark", fields)])
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            ratio, each = _compare(config, Path(folder), epoch)
        rows.append(
            Row(
                f"loader: {size} px",
                f"bare step / step of the loop, {RECORDS:,} records, the demo's multimodal model "
                f"({1000 * each:.2f} ms a record)",
                ratio,
                at_least=LEAST,
            )
        )
    return rows


def make_arm(config: ExperimentConfig, folder: Path, training: int) -> ArmData:
    """Write packs of random pixels and tokens, of which some are the training part."""
    rng = np.random.default_rng(0)
    size = config.image.size
    path = folder / "images.npy"
    shape = (RECORDS, size, size)
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    for start in range(0, RECORDS, 1000):
        images[start : start + 1000] = rng.integers(256, size=(1000, size, size), dtype=np.uint8)
    images.flush()
    lengths = rng.integers(60, 100, size=RECORDS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = rng.integers(5, config.text.vocabulary, size=offsets[-1], dtype=np.int32)
    np.save(folder / "tokens.npy", tokens)
    part = np.full(RECORDS, "test", dtype="U5")
    chosen = rng.permutation(RECORDS)
    part[chosen[:training]] = "train"
    part[chosen[training : training + VALIDATION]] = "val"
    label = np.zeros(RECORDS, dtype=np.int8)
    label[chosen[::2]] = 1
    names = np.arange(RECORDS).astype(str)
    text = TextPack(
        tokens=np.load(folder / "tokens.npy", mmap_mode="r"),
        offsets=offsets,
        vocabulary_size=config.text.vocabulary,
        padding=0,
    )
    return ArmData(
        record_id=names,
        group=names,
        label=label,
        part=part,
        own=np.ones(RECORDS, dtype=bool),
        row=np.arange(RECORDS),
        images=np.load(path, mmap_mode="r"),
        text=text,
    )


def _compare(config: ExperimentConfig, folder: Path, training: int) -> tuple[float, float]:
    torch.set_num_threads(1)
    arm = make_arm(config, folder, training)
    train = arm.indices("train", own=True)
    assert arm.lengths is not None
    order = epoch_batches(train, config.train.batch, seed=0, epoch=0, lengths=arm.lengths[train])
    batches = [collate(arm, each, torch.device("cpu"), torch.float32) for each in order]
    real, bare = [], []
    for number in range(ROUNDS):
        attempt = folder / f"{number}"
        attempt.mkdir()
        history = fit(
            config,
            arm,
            build_classifier(config, arm, World()),
            attempt,
            world=World(),
            report=lambda row: None,
            should_stop=lambda: False,
        )
        real.append(history[0]["seconds"])
        model = build_classifier(config, arm, World()).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=config.train.lr)
        began = time.perf_counter()
        for batch in batches:
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(batch), batch.label)
            loss.backward()
            optimizer.step()
        bare.append(time.perf_counter() - began)
    return min(bare) / min(real), min(bare) / training


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        print(show(measure(Path(scratch))))
    print(machine())


if __name__ == "__main__":
    main()
