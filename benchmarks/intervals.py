"""Time the intervals of twelve models: 2,000 resamples of 5,000 test records, all figures.

    python benchmarks/intervals.py

One process on one core; the aim is 20 s on two.
"""

import os
import platform
import time

import numpy as np
from scipy.special import expit

from cxr_ray.evaluation.intervals import metric_intervals
from cxr_ray.evaluation.thresholds import threshold_intervals

MODELS, RECORDS, VALIDATION, RESAMPLES = 12, 5_000, 2_500, 2_000


def main() -> None:
    rng = np.random.default_rng(0)
    label = np.arange(RECORDS) < RECORDS // 10
    began = time.perf_counter()
    figures = 0
    for _ in range(MODELS):
        logit = rng.normal(size=RECORDS) + 1.4 * label - 3
        found = metric_intervals(
            label,
            expit(logit),
            score=logit,
            points={"val": -1.2, "youden": -2.0, "spec95": -1.0},
            recalibrated=expit(1.4 * logit + 1),
            n_resamples=RESAMPLES,
            rng=rng,
        )
        chosen = rng.choice(RECORDS, VALIDATION, replace=False)
        found |= threshold_intervals(label[chosen], logit[chosen], n_resamples=RESAMPLES, rng=rng)
        figures += len(found)
    seconds = time.perf_counter() - began
    print(f"{figures} intervals of {MODELS} models in {seconds:.1f} s")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"numpy {np.__version__}"
    )


if __name__ == "__main__":
    main()
