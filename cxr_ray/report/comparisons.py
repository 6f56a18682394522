"""Which of a study's models differ: the comparisons that its grid declares, in comparisons.csv.

Every comparison holds all other axes and is made on the full test set, where models of different
class ratios see the same patients. The primary family is AUROC; the exploratory one holds average
precision and what is read at each model's own threshold, chosen on validation. At .5 a class ratio
or a loss moves all figures by moving the logits, so that nothing is compared there.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.damage import read_whole_table
from cxr_ray.evaluation.multiplicity import holm
from cxr_ray.evaluation.seeds import FEWEST_SEEDS
from cxr_ray.report.contrasts import Contrast, declared_contrasts
from cxr_ray.report.fold_comparison import (
    METHOD,
    UnlikeFoldsError,
    compare_fits,
    describe_folds,
)
from cxr_ray.report.joint_draws import EXPLORED, NotComparedError, SharedRecords, StudyDraws
from cxr_ray.report.out_of_fold import Fit, read_fits
from cxr_ray.report.result_table import MISSING, ResultTable, format_share
from cxr_ray.report.trial_folder import RESULT_FILE, Predictions, read_predictions

COMPARISONS_FILE = "comparisons.csv"
COLUMNS = (
    "axis", "level_a", "level_b", "held", "test_set", "metric", "family", "difference", "low",
    "high", "p_value", "p_holm", "method", "verdict",
)  # fmt: skip
TEXT_COLUMNS = (
    "axis", "level_a", "level_b", "held", "test_set", "metric", "family", "method", "verdict",
)  # fmt: skip
PRIMARY, EXPLORATORY = "primary", "exploratory"
LEVEL = 0.05
_MEMBER_AXES = ("modality", "dataset", "loss")

_Found = dict[str, dict[str, Any]]
"""A comparison's columns by metric."""


def compare_trials(
    trials: Path,
    study: Mapping[str, Any],
    ended: Mapping[str, Mapping[str, str]],
    config: EvaluationConfig,
) -> pd.DataFrame:
    """Make the comparisons that a study's grid declares.

    Parameters
    ----------
    trials
        Folder of the finished trials.
    study
        The content of ``study.json``.
    ended
        Status and reason of the members that ended without a result.
    config
        ``bootstrap`` resamples, five times as many for a family of more than 20.

    Returns
    -------
    DataFrame
        The columns of ``comparisons.csv``; ``difference`` is level a minus level b. A comparison
        that cannot be made keeps its row, its place in the family, and the reason as ``method``.
    """
    contrasts = declared_contrasts(study["axes"], study["compare"])
    arms = _Arms(trials, study, ended)
    tests = StudyDraws(config.bootstrap, len(contrasts) * len(EXPLORED))
    # Every arm has its place on a test set before patients are drawn for all of them.
    comparisons = [(contrast.row(), _plan(arms, tests, contrast)) for contrast in contrasts]
    primary: list[dict[str, Any]] = []
    exploratory: list[dict[str, Any]] = []
    for named, compare in comparisons:
        for metric, figures in compare().items():
            family = PRIMARY if metric == "auroc" else EXPLORATORY
            rows = primary if metric == "auroc" else exploratory
            rows.append({**named, "metric": metric, "family": family, **figures})
    for rows in (primary, exploratory):
        for row, adjusted in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
            row["p_holm"] = adjusted
            row["verdict"] = _verdict(row["difference"], adjusted)
    return pd.DataFrame([*primary, *exploratory], columns=COLUMNS)


def read_comparisons(path: Path) -> pd.DataFrame:
    """Read ``comparisons.csv``; levels stay text, whatever they look like."""
    figures = [name for name in COLUMNS if name not in TEXT_COLUMNS]
    return read_whole_table(
        path,
        COLUMNS,
        dtype=dict.fromkeys(TEXT_COLUMNS, str),
        keep_default_na=False,
        na_values=dict.fromkeys(figures, [""]),
    )


def comparisons_table(comparisons: pd.DataFrame, seeds: int) -> ResultTable:
    """Lay out what was compared of the primary family, with one sentence of what it means.

    Parameters
    ----------
    comparisons
        As `compare_trials` returns it.
    seeds
        Training seeds of the study.
    """
    primary = comparisons[comparisons["family"] == PRIMARY]
    rows = []
    for row in primary[primary["verdict"] != "not compared"].to_dict("records"):
        named = {f"{side} higher": f"{row[f'level_{side}']} higher" for side in ("a", "b")}
        verdict = named.get(row["verdict"], str(row["verdict"]))
        figures = [format_share(row[name]) for name in ("difference", "low", "high")]
        interval = MISSING if MISSING in figures else f"{figures[0]} [{figures[1]}, {figures[2]}]"
        pair = f"{row['level_a']} - {row['level_b']}"
        rows.append((pair, row["held"] or MISSING, interval, format_share(row["p_holm"]), verdict))
    return ResultTable(
        title="Comparisons",
        caption=" ".join(_meaning(primary, seeds)),
        columns=("levels", "held", "difference of AUROC", "p Holm", "verdict"),
        rows=tuple(rows),
    )


def _meaning(primary: pd.DataFrame, seeds: int) -> Iterator[str]:
    total = len(primary)
    apart = primary["verdict"].isin(["a higher", "b higher"]).sum()
    missing = (primary["verdict"] == "not compared").sum()
    if 0 < missing == total:
        yield f"None of the {total} declared comparisons could be made; comparisons.csv says why."
        return
    yield "First level minus second, AUROC on the full test set, 95 % interval."
    sentence = f"Of {total} comparisons {apart} separate after Holm's correction for all {total}"
    yield sentence + (f"; {missing} could not be made." if missing else ".")
    if primary["method"].str.startswith(METHOD).any():
        yield (
            "Corrected resampled t-test over folds: it counts that other patients and other "
            "training parts would give other models, and not how much a seed would."
        )
    elif seeds < FEWEST_SEEDS:
        yield (
            "This is about these trained models on these patients: a claim about a modality, loss "
            f"or ratio needs {FEWEST_SEEDS} training seeds."
        )


def _plan(arms: "_Arms", tests: StudyDraws, contrast: Contrast) -> Callable[[], _Found]:
    """Find two arms, and return what compares them by AUROC and all that is explored."""
    try:
        first, second = (arms.find(levels) for levels in contrast.arms)
        seeds = sorted(first.keys() & second.keys())
        if not seeds:
            raise NotComparedError("the two have no training seed in common")
        if any(arms.is_cross_validated(ids[seeds[0]]) for ids in (first, second)):
            folds = _compare_folds(arms, [[ids[seed] for seed in seeds] for ids in (first, second)])
            return lambda: folds
        chosen = seeds if len(seeds) >= FEWEST_SEEDS else seeds[:1]
        pair = [tuple(ids[seed] for seed in chosen) for ids in (first, second)]
        shared = SharedRecords.of([[arms.read(identity) for identity in arm] for arm in pair])
    except NotComparedError as reason:
        nothing = dict.fromkeys(("difference", "low", "high", "p_value"), np.nan)
        told = {**nothing, "method": f"none: {reason}"}
        return lambda: dict.fromkeys(("auroc", *EXPLORED), told)
    note = ""
    if len(chosen) > 1:
        note = f", {len(chosen)} seeds"
    elif len(first) > 1 or len(second) > 1:
        note = f", seed {seeds[0]} only"
    if shared.part:
        note += f", on the {len(shared.label)} test records of both"
    test = tests.of(shared, pair)

    def compare() -> _Found:
        return {
            metric: {**vars(both), "method": method + note}
            for metric, (both, method) in test.compare(*pair).items()
        }

    return compare


def _compare_folds(arms: "_Arms", models: list[list[str]]) -> _Found:
    """Compare two cross-validated arms, whose folds are averaged over training seeds."""
    if not all(arms.is_cross_validated(identity) for arm in models for identity in arm):
        raise NotComparedError("only one of the two is cross-validated")
    first, second = ([arms.read_fits(identity) for identity in arm] for arm in models)
    try:
        found = compare_fits(first, second, {"auroc": "auroc", **EXPLORED})
    except UnlikeFoldsError as reason:
        raise NotComparedError(str(reason)) from reason
    method = f"{METHOD}, {describe_folds(first[0])}"
    method += f", {len(first)} seeds" if len(first) > 1 else ""
    return {metric: {**vars(each), "method": method} for metric, each in found.items()}


class _Arms:
    """A study's arms by their levels: their finished trials by seed, or why there are none."""

    def __init__(
        self, trials: Path, study: Mapping[str, Any], ended: Mapping[str, Mapping[str, str]]
    ) -> None:
        self._done: dict[frozenset[tuple[str, str]], dict[int, str]] = {}
        self._reasons: dict[frozenset[tuple[str, str]], str] = {}
        self._cross_validated: set[str] = set()
        for each in study["left_out"]:
            self._reasons[_key(each["levels"])] = f"{each['name']} is left out: {each['reason']}"
        for member in study["members"]:
            own = {axis: member[axis] for axis in _MEMBER_AXES} | member["further"]
            key = _key({axis: own[axis] for axis in study["axes"]})
            identity, name = member["experiment_id"], member["name"]
            if "fits" in member:
                self._cross_validated.add(identity)
            if (trials / identity / RESULT_FILE).exists():
                self._done.setdefault(key, {})[member["seed"]] = identity
            elif identity in ended:
                how = ended[identity]
                self._reasons[key] = f"{name} {how['status']}: {how['reason']}"
            else:
                self._reasons.setdefault(key, f"{name} is not trained")
        self._trials = trials
        self._read: dict[str, Predictions] = {}
        self._fits: dict[str, list[Fit]] = {}

    def find(self, levels: Mapping[str, str]) -> dict[int, str]:
        """Experiment ids of an arm's finished trials by training seed."""
        key = _key(levels)
        if key not in self._done:
            raise NotComparedError(self._reasons.get(key, "an arm is not part of the study"))
        return self._done[key]

    def read(self, identity: str) -> Predictions:
        """Read a trial's predictions once."""
        if identity not in self._read:
            self._read[identity] = read_predictions(self._trials / identity)
        return self._read[identity]

    def is_cross_validated(self, identity: str) -> bool:
        """Tell whether a member stands for several fits."""
        return identity in self._cross_validated

    def read_fits(self, identity: str) -> list[Fit]:
        """Read a cross-validated member's fits once."""
        if identity not in self._fits:
            self._fits[identity] = read_fits(self._trials / identity)
        return self._fits[identity]


def _key(levels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(levels.items())


def _verdict(difference: float, p_holm: float) -> str:
    if np.isnan(p_holm):
        return "not compared"
    if p_holm > LEVEL or difference == 0:
        return "not separated"
    return "a higher" if difference > 0 else "b higher"
