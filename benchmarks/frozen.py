"""What `train.cache_frozen` saves: epochs of the paper's image model, and heads on frozen encoders.

    python benchmarks/run.py --only frozen

Random weights and pixels, whose values change no arithmetic; every figure is a ratio of two runs,
of whose epochs the fastest counts.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rows import Row, machine, show

from cxr_ray.config.identity import DataKeys, frozen_keys
from cxr_ray.config.layers import Layer, load_profile, resolve
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.arm import open_arm
from cxr_ray.data.fan_out import run_here
from cxr_ray.data.frozen_pack import frozen_folder
from cxr_ray.data.prepared import COHORT_FILE
from cxr_ray.storage import Storage
from cxr_ray.training.frozen import cache_frozen
from cxr_ray.training.loop import fit, score
from cxr_ray.training.trial import build_classifier
from cxr_ray.training.world import World

PAPER_RECORDS = 24_113
THREADS = 2
EPOCH_RECORDS, EPOCHS = 40, 3
STUDY_RECORDS, TOKENS, VOCABULARY = 400, 64, 2000
PRECISIONS = ("float32", "float16")


def measure(scratch: Path) -> list[Row]:
    """Measure epochs with and without stored outputs, then twelve models of frozen encoders."""
    torch.set_num_threads(THREADS)
    return [*_measure_epochs(scratch / "epochs"), _measure_study(scratch / "study")]


def _measure_epochs(folder: Path) -> list[Row]:
    storage, keys = _make_cohort(folder, EPOCH_RECORDS, 256)
    fields = {"fusion.modalities": "image", "train.batch": 14, "train.max_epochs": EPOCHS}
    plain = _paper(**fields)
    configs = {"plain": plain}
    for precision in PRECISIONS:
        stored = {"train.cache_frozen": True, "train.cache_precision": precision}
        configs[precision] = _paper(**fields, **stored)
        _fill(storage, configs[precision], keys)
    fastest = {name: min(_fit(storage, config, keys, folder)) for name, config in configs.items()}
    rows = []
    for precision in PRECISIONS:
        key = frozen_keys(configs[precision], keys)["image"]
        path = frozen_folder(storage.prepared / keys.cohort, key) / "outputs.npy"
        size = path.stat().st_size / EPOCH_RECORDS * PAPER_RECORDS / 1e9
        rows += [
            Row(
                f"epoch, frozen to layer2, {precision}",
                "an epoch of ResNet-50 at 256 px over one that reads the frozen stages' outputs, "
                "which the memory holds",
                fastest["plain"] / fastest[precision],
                "x",
            ),
            Row(f"its disk, {precision}", f"of {PAPER_RECORDS:,} images", size, "GB"),
        ]
    return rows


def _measure_study(folder: Path) -> Row:
    storage, keys = _make_cohort(folder, STUDY_RECORDS, 128)
    stored = _train(storage, keys, folder, ("bce", "focal"), stored=True)
    plain = 2 * _train(storage, keys, folder, ("bce",), stored=False)
    return Row(
        "12 models, freeze: all",
        "ResNet-18 at 128 px and a 2-layer BERT of 64 tokens, 6 epochs, scored: seconds without "
        "stored outputs (twice those of one loss) over those with them, storing included",
        plain / stored,
        "x",
        at_least=10,
    )


def _train(
    storage: Storage, keys: DataKeys, folder: Path, losses: Sequence[str], *, stored: bool
) -> float:
    """Train six models a loss, and return the seconds."""
    began = time.perf_counter()
    for modalities in ("image,text", "image", "text"):
        for share in (None, 0.75):
            for loss in losses:
                config = _paper(
                    **{
                        "data.majority_share": share,
                        "fusion.modalities": modalities,
                        "loss.kind": loss,
                        "image.encoder": "resnet18",
                        "image.size": 128,
                        "image.freeze": "all",
                        "text.encoder": "scratch",
                        "text.freeze": "all",
                        "text.max_tokens": TOKENS,
                        "text.vocabulary": VOCABULARY,
                        "train.max_epochs": 6,
                        "train.patience": 6,
                        "train.cache_frozen": stored,
                    }
                )
                _fill(storage, config, keys)
                _fit(storage, config, keys, folder)
    return time.perf_counter() - began


def _fit(storage: Storage, config: ExperimentConfig, keys: DataKeys, folder: Path) -> list[float]:
    """Train one model, score it as a trial does, and return the seconds of its epochs."""
    arm, world = open_arm(storage, config, keys), World()
    model = build_classifier(config, arm, world)
    history = fit(
        config,
        arm,
        model,
        _empty(folder / "attempt"),
        world=world,
        report=lambda row: None,
        should_stop=lambda: False,
    )
    score(config, arm, model, np.flatnonzero(arm.part != "train"), world)
    score(config, arm, model, arm.indices("train", own=True), world)
    return [row["seconds"] for row in history]


def _fill(storage: Storage, config: ExperimentConfig, keys: DataKeys) -> None:
    cache_frozen(
        storage, [(config, keys)], fan_out=run_here, progress=lambda *_: None, driver="benchmark"
    )


def _paper(**fields: Any) -> ExperimentConfig:
    layers = [load_profile("paper"), Layer("benchmark", {"image.weights": None, **fields})]
    return resolve(layers)


def _make_cohort(folder: Path, records: int, size: int) -> tuple[Storage, DataKeys]:
    """Write the packs and the table of a cohort of noise; a fifth of it is positive."""
    storage = Storage.open(str(folder))
    keys = DataKeys("noise", "pixels", "tokens", None)
    cohort = storage.prepared / keys.cohort
    images, text = cohort / f"images-{keys.image}", cohort / f"text-{keys.text}"
    for pack in (images, text):
        pack.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(records, size, size), dtype=np.uint8)
    np.save(images / "images.npy", pixels)
    tokens = rng.integers(5, VOCABULARY, records * TOKENS, dtype=np.int32)
    np.save(text / "tokens.npy", tokens)
    np.save(text / "offsets.npy", np.arange(records + 1) * TOKENS)
    (text / "pack.json").write_text(f'{{"vocabulary_size": {VOCABULARY}, "padding": 0}}')
    row = np.arange(records)
    part = np.array(["train"] * 7 + ["val"] + ["test"] * 2)[row % 10]
    names = row.astype(str)
    pd.DataFrame(
        {
            "row": row,
            "record": names,
            "patient": names,
            "label": (row // 10 % 5 == 0).astype(int),
            "part": part,
            "record_id": names,
            "group": names,
        }
    ).to_csv(cohort / COHORT_FILE, index=False)
    return storage, keys


def _empty(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    return folder


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        print(show(measure(Path(scratch))))
    print(machine())
