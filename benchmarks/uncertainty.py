"""What intervals and tests cost: 5,000 test records, a tenth of them positive.

    python benchmarks/uncertainty.py

Each in one process; a sweep spreads its models over the cores.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from rows import Row, machine, show
from scipy.special import expit
from sweeps import cores

from cxr_ray.evaluation.intervals import metric_intervals
from cxr_ray.evaluation.seeds import crossed_bootstrap
from cxr_ray.evaluation.sensitivity import permutation_test
from cxr_ray.evaluation.thresholds import threshold_intervals

MODELS, RECORDS, VALIDATION, RESAMPLES = 12, 5_000, 2_500, 2_000


def time_intervals(label: np.ndarray, rng: Generator) -> None:
    """Every figure's interval of one model."""
    logit = rng.normal(size=RECORDS) + 1.4 * label - 3
    metric_intervals(
        label,
        expit(logit),
        score=logit,
        points={"val": -1.2, "youden": -2.0, "spec95": -1.0},
        recalibrated=expit(1.4 * logit + 1),
        n_resamples=RESAMPLES,
        rng=rng,
    )
    chosen = rng.choice(RECORDS, VALIDATION, replace=False)
    threshold_intervals(label[chosen], logit[chosen], n_resamples=RESAMPLES, rng=rng)


def time_permutations(label: np.ndarray, rng: Generator) -> None:
    """Both modalities of an additive head, each with the intervals of its drop."""
    image, text = rng.normal(size=(2, RECORDS)) + label
    for shuffle in ("image", "text"):
        permutation_test(image, text, -1.0, label, shuffle=shuffle, rng=rng)


def time_seeds(label: np.ndarray, rng: Generator) -> None:
    """Two arms of five seeds against each other."""
    crossed_bootstrap(
        label,
        rng.normal(size=(2, 5, RECORDS)) + 1.2 * label,
        rng=rng,
        points={"val": 0.0},
        metrics=("auroc", "average_precision", "f1_at_val"),
    )


def seconds(work: Callable[[np.ndarray, Generator], Any]) -> float:
    """Time some work."""
    label = np.arange(RECORDS) < RECORDS // 10
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    work(label, rng)
    return time.perf_counter() - began


def measure(scratch: Path) -> list[Row]:
    """Time each once."""
    each = f"{RECORDS:,} records"
    intervals = MODELS * seconds(time_intervals) / cores()
    return [
        Row(
            "intervals of 12 models",
            f"{RESAMPLES:,} resamples, all figures, {each}; one model's seconds x 12 / cores",
            intervals,
            "s",
            at_most=20,
        ),
        Row(
            "permutation tests of both modalities",
            f"1,999 permutations and intervals, additive head, {each}",
            seconds(time_permutations),
            "s",
            at_most=5,
        ),
        Row("bootstrap over 5 seeds", f"two arms, {each}", seconds(time_seeds), "s"),
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        print(show(measure(Path(scratch))))
    print(machine())


if __name__ == "__main__":
    main()
