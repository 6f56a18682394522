"""Measured prices of training, kept in the storage: what they are of, and where they hold."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cxr_ray.config.identity import EVALUATION_VERSION, TRAINING_VERSION, digest, recipe_read
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.damage import read_json
from cxr_ray.pricing.workload import NO_TEXT, Counts, Histogram, Workload
from cxr_ray.storage import Storage, write_whole

PRICES_FILE = "prices.json"
MEASURED = "remove it, and --dry-run --measure measures again"
LENGTHS = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096)
"""Lengths in tokens at which steps are measured; in between a price is interpolated."""

# What of the training recipe changes no step's cost.
_FREE = {
    *("seed", "lr", "weight_decay", "schedule", "sampler"),
    *("max_epochs", "patience", "monitor"),
}


@dataclass(frozen=True)
class Machine:
    """Where prices hold: the processor, what one trial has of it, and how many run beside it."""

    processor: str
    gpu: str | None
    processes: int
    threads: int
    gpus_per_worker: float
    torch: str


@dataclass(frozen=True)
class ModelPrice:
    """What one model costs in one process.

    Attributes
    ----------
    train, forward
        Seconds a record by padded length in tokens, at the model's own batch size.
    setup
        Seconds to open the data and build the model.
    checkpoint
        Seconds to write the last state and the best weights.
    checkpoint_bytes, weights_bytes
        On disk.
    peak_bytes
        Of a process that trained it.
    """

    train: dict[int, float] = field(default_factory=dict)
    forward: dict[int, float] = field(default_factory=dict)
    setup: float = 0.0
    checkpoint: float = 0.0
    checkpoint_bytes: int = 0
    weights_bytes: int = 0
    peak_bytes: int = 0

    def seconds(self, prices: Mapping[int, float], records: Histogram) -> float:
        """Price records by their lengths."""
        known = sorted(prices)
        at = [prices[length] for length in known]
        return float(sum(n * np.interp(length, known, at) for length, n in records.items()))

    def epoch(self, work: Workload, workers: int) -> float:
        """Price one epoch of a trial that is split over workers."""
        trained = self.seconds(self.train, work.train) + self.seconds(self.forward, work.val)
        return trained / workers + self.checkpoint

    def trial(self, work: Workload, epochs: int, workers: int) -> float:
        """Price a trial but for its statistics."""
        final = self.seconds(self.forward, work.final) / workers
        return self.setup + epochs * self.epoch(work, workers) + final


class PriceList:
    """The prices of a storage, by digests of what they are of and where they hold."""

    def __init__(self, storage: Storage) -> None:
        self._path: Path = storage.root / PRICES_FILE
        self._prices: dict[str, Any] = {}
        if self._path.exists():
            self._prices = dict(read_json(self._path, MEASURED))

    def model(self, key: str) -> ModelPrice | None:
        """Return what a model costs, if it was measured."""
        found = self._prices.get(key)
        if found is None:
            return None
        by_length = {
            name: {int(length): each for length, each in found[name].items()}
            for name in ("train", "forward")
        }
        return ModelPrice(**{**found, **by_length})

    def seconds(self, key: str) -> float | None:
        """Return what a single step costs, if it was measured."""
        found: float | None = self._prices.get(key)
        return found

    def add(self, prices: Mapping[str, ModelPrice | float]) -> None:
        """Add prices; lengths of a model that were measured before stay."""
        if self._path.exists():  # another process may have added some
            self._prices = dict(read_json(self._path, MEASURED))
        for key, price in prices.items():
            if isinstance(price, ModelPrice):
                before = self.model(key) or ModelPrice()
                lengths = {
                    "train": before.train | price.train,
                    "forward": before.forward | price.forward,
                }
                self._prices[key] = asdict(price) | lengths
            else:
                self._prices[key] = price
        write_whole(self._path, json.dumps(self._prices, indent=1))


def model_recipe(config: ExperimentConfig) -> dict[str, Any]:
    """Reduce a config to what a step's cost depends on: no weights' values, no loss, no data."""
    recipe = recipe_read(config)
    train = {name: value for name, value in recipe["train"].items() if name not in _FREE}
    parts: dict[str, Any] = {
        name: dict(recipe[name]) for name in ("image", "text", "fusion") if name in recipe
    }
    parts.get("image", {}).pop("weights", None)
    for name in ("sections", "mask"):
        parts.get("text", {}).pop(name, None)
    compute = config.compute.model_dump(mode="json")
    if config.caches:
        parts["cached"] = list(config.caches)
    return {**parts, "train": train, "compute": compute, "version": TRAINING_VERSION}


def model_key(config: ExperimentConfig, machine: Machine, workers: int) -> str:
    """Key of a model's price."""
    return digest({"model": model_recipe(config), "workers": workers, **asdict(machine)})


def statistics_key(config: ExperimentConfig, counts: Counts, machine: Machine) -> str:
    """Key of what the scoring of a finished trial costs."""
    recipe = {
        "fusion": model_recipe(config)["fusion"],
        "features": [config.image.features, config.text.features],
        "counts": asdict(counts),
        "evaluation": config.evaluation.model_dump(mode="json"),
        "version": EVALUATION_VERSION,
    }
    return digest({"statistics": recipe, **asdict(machine)})


def fixed_key(what: str, machine: Machine) -> str:
    """Key of what a sweep pays once, whatever it trains."""
    return digest({"fixed": what, **asdict(machine)})


def lengths_to_measure(lengths: Sequence[int], longest: int) -> list[int]:
    """Choose the measured lengths around those that occur.

    Parameters
    ----------
    lengths
        Padded lengths; ``NO_TEXT`` where no text is read.
    longest
        The longest text that the model reads.
    """
    if set(lengths) == {NO_TEXT}:
        return [NO_TEXT]
    grid = np.array(sorted({min(each, longest) for each in LENGTHS}))
    wanted = np.clip(lengths, grid[0], grid[-1])
    above = np.searchsorted(grid, wanted)
    below = np.where(grid[above] == wanted, above, above - 1)
    return [int(grid[i]) for i in sorted({*above.tolist(), *below.tolist()})]


def this_machine(processes: int, threads: int, gpus_per_worker: float) -> Machine:
    """Describe this machine without importing torch."""
    return Machine(
        processor=_processor(),
        gpu=_gpu() if gpus_per_worker else None,
        processes=processes,
        threads=threads,
        gpus_per_worker=gpus_per_worker,
        torch=version("torch").partition("+")[0],
    )


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    if known.exists():
        for line in known.read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def _gpu() -> str | None:
    """Name the first GPU as NVIDIA's driver lists it."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text().splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return None
