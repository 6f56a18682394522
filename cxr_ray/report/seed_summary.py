"""Pooling training seeds: a study's arms in ``summary.csv``, and tables of them.

A figure is the mean over seeds of the metric, never the metric of averaged probabilities. Its
interval is for other seeds and other patients, and exists from three seeds on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.evaluation.metrics import METRICS
from cxr_ray.evaluation.proportions import Interval
from cxr_ray.evaluation.seeds import FEWEST_SEEDS, TOO_FEW, CrossedBootstrap, crossed_bootstrap
from cxr_ray.evaluation.weighted import OF_CALLS
from cxr_ray.report.performance import POINTS
from cxr_ray.report.result_table import MISSING, ResultTable, format_share
from cxr_ray.report.trial_folder import Predictions, read_predictions

FIGURES = (
    *METRICS,
    *(f"{metric}_at_{point}" for point in POINTS for metric in OF_CALLS),
    "brier_recalibrated",
    "ece_recalibrated",
)
PRINTED = {
    "accuracy": "acc",
    "precision": "prec",
    "recall": "rec",
    "f1": "F1",
    "auroc": "AUROC",
    "average_precision": "AP",
}
_ARM = ("modality", "dataset", "loss")
_TEST_SETS = ("own", "full")
_DRAWS = 0x5EED
_FOLDS = Interval(np.nan, np.nan, "none: cross-validated, see the intervals of each seed")
_NOT_DRAWN = Interval(np.nan, np.nan, "none: only within a seed")
_UNLIKE = Interval(np.nan, np.nan, "none: the seeds were tested on different records")


def pool_seeds(
    leaderboard: pd.DataFrame,
    trials: Path,
    members: Sequence[Mapping[str, Any]],
    config: EvaluationConfig,
) -> pd.DataFrame:
    """Pool the finished trials of each arm over their training seeds.

    Parameters
    ----------
    leaderboard
        One row a trial and test set.
    trials
        Folder of the finished trials; predictions of arms with three seeds or more are read.
    members
        Of ``study.json``.
    config
        ``bootstrap`` resamples.

    Returns
    -------
    DataFrame
        One row an arm and test set: its levels, ``test_set, n_seeds, n, n_positive`` and of each
        metric the mean, ``_sd`` (S - 1), ``_min``, ``_max``, and ``_low``, ``_high`` and
        ``_method`` of the interval.
    """
    axes = list(members[0]["further"]) if members else []
    done = leaderboard[(leaderboard["status"] == "done") & leaderboard["test_set"].notna()]
    folded = {member["experiment_id"] for member in members if "fits" in member}
    figures = [name for name in FIGURES if name in leaderboard]
    by = [*_ARM, *axes, "test_set"]
    rows = []
    for levels, arm in done.groupby(by, sort=False, dropna=False):
        row = dict(zip(by, levels, strict=True))
        row |= {"n_seeds": arm["seed"].nunique()}
        row |= {name: arm[name].iloc[0] for name in ("n", "n_positive")}
        intervals = _Intervals.of(arm, trials, folded, config)
        for name in figures:
            values = arm[name].astype(float)
            bounds = intervals.find(name)
            row |= {
                name: values.mean(),
                f"{name}_sd": values.std(),
                f"{name}_min": values.min(),
                f"{name}_max": values.max(),
                f"{name}_low": bounds.low,
                f"{name}_high": bounds.high,
                f"{name}_method": bounds.method,
            }
        rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else [*by, "n_seeds", "n", "n_positive"])


def has_several_seeds(summary: pd.DataFrame) -> bool:
    """Tell whether any arm was trained more than once."""
    return bool((summary["n_seeds"] > 1).any())


def named_arms(summary: pd.DataFrame, *, merge: bool = True) -> pd.DataFrame:
    """Add each arm's ``name``, of its levels.

    With `merge` an arm whose test sets are equal has one row, of the test set ``both``.
    """
    levels = list(summary.columns[: list(summary.columns).index("test_set")])
    named = summary.copy()  # one block, to which columns are added
    named["name"] = summary[levels].astype(str).agg("-".join, axis=1)
    if not merge:
        return named
    key = ["name", "n", "n_positive", *(name for name in PRINTED if name in summary)]
    equal = named.duplicated(key, keep=False)
    named["test_set"] = named["test_set"].mask(equal, "both")
    return named[~named.duplicated(key)]


def summary_table(summary: pd.DataFrame, ended: Sequence[str] = ()) -> ResultTable:
    """Lay out a study of several seeds: an arm and test set a line, with mean, spread, interval.

    Parameters
    ----------
    summary
        As `pool_seeds` returns it.
    ended
        Sentences about trials that did not end well.
    """
    rows = []
    for row in named_arms(summary).to_dict("records"):
        cells = []
        for metric in PRINTED:
            cell = format_share(row[metric])
            spread = row[f"{metric}_sd"]
            cell += f"±{f'{spread:.3f}'.removeprefix('0')}" if spread == spread else ""
            if metric == "auroc":
                bounds = [format_share(row[f"auroc_{side}"]) for side in ("low", "high")]
                cell += "" if MISSING in bounds else f" [{bounds[0]}-{bounds[1]}]"
            cells.append(cell)
        rows.append((str(row["name"]), str(row["test_set"]), *cells))
    return ResultTable(
        title="Leaderboard",
        caption=" ".join([describe_summary(summary), *ended]),
        columns=("arm", "test set", *PRINTED.values()),
        rows=tuple(rows),
    )


def seed_section(summary: pd.DataFrame) -> dict[str, Any] | None:
    """Give the page its rows, with their place in ``summary.csv``; None where no arm has several.

    ``forest`` holds what the forest plot draws: the means on the full test set.
    """
    if not has_several_seeds(summary):
        return None
    named = named_arms(summary)
    arms = named_arms(summary, merge=False)
    return {
        "caption": describe_summary(summary),
        "rows": [{**row, "place": place} for place, row in named.to_dict(orient="index").items()],
        "forest": arms[arms["test_set"] == "full"],
    }


def describe_summary(summary: pd.DataFrame) -> str:
    """Say what a mean, its spread and its interval are, and of how many seeds."""
    counts = sorted(set(summary["n_seeds"]))
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    interval = (
        "its 95 % interval is for other seeds and other patients"
        if counts[-1] >= FEWEST_SEEDS
        else f"no interval under {FEWEST_SEEDS} seeds"
    )
    sizes = [
        f"{test_set} n = {_span(rows['n'])}, {_span(rows['n_positive'])} positive"
        for test_set, rows in summary.groupby("test_set", sort=False)
    ]
    return (
        f"Mean over {seeds} training seeds ± standard deviation over seeds, at threshold .5; "
        f"AUROC: {interval}. Test sets: {'; '.join(sizes)}; both: the two are the same. Each seed "
        "has its rows in leaderboard.csv."
    )


def _span(values: "pd.Series[float]") -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"


class _Intervals:
    """Intervals of one arm's means over seeds on one test set, or why there are none."""

    def __init__(self, drawn: CrossedBootstrap | None, instead: Interval = _NOT_DRAWN) -> None:
        self._drawn, self._instead = drawn, instead

    @classmethod
    def of(
        cls, arm: pd.DataFrame, trials: Path, folded: set[str], config: EvaluationConfig
    ) -> "_Intervals":
        """Draw them, where the arm's rows on this test set are three or more."""
        if len(arm) < FEWEST_SEEDS:
            return cls(None, TOO_FEW)
        identities = list(arm["experiment_id"])
        if folded & set(identities):
            return cls(None, _FOLDS)
        test_set = str(arm["test_set"].iloc[0])
        if test_set not in _TEST_SETS:
            return cls(None)
        models = [read_predictions(trials / identity) for identity in identities]
        rows = [model.rows("test", test_set) for model in models]
        pairs = list(zip(models, rows, strict=True))
        if any(
            not np.array_equal(model.record_id[own], models[0].record_id[rows[0]])
            for model, own in pairs
        ):
            return cls(None, _UNLIKE)
        label = models[0].label[rows[0]]
        if len(np.unique(label)) < 2:
            return cls(None, Interval(np.nan, np.nan, "none: one class only"))
        whole = all(model.in_own[model.part == "test"].all() for model in models)
        drawn = crossed_bootstrap(
            label,
            [[model.logit[own] for model, own in pairs]],
            points=_points(models, test_set),
            groups=models[0].patients(rows[0]),
            n_resamples=config.bootstrap,
            stratified=test_set == "own" and not whole,
            # own and full draw alike, so that they agree where they are the same
            rng=np.random.default_rng([*(int(identity, 16) for identity in identities), _DRAWS]),
        )
        return cls(drawn)

    def find(self, metric: str) -> Interval:
        """Give a metric's interval."""
        if self._drawn is None or metric not in self._drawn.metrics:
            return self._instead
        return self._drawn.interval(0, metric)


def _points(models: Sequence[Predictions], test_set: str) -> dict[str, list[list[float]]]:
    """Choose each model's thresholds on its validation part; none where a class is absent."""
    validated = [
        (model.label[rows], model.logit[rows])
        for model in models
        for rows in [model.rows("val", test_set)]
    ]
    if any(len(np.unique(label)) < 2 for label, _ in validated):
        return {}
    return {
        name: [[choose(label, logit).threshold for label, logit in validated]]
        for name, (_, choose) in POINTS.items()
    }
