"""Scoring a cross-validated model: each fit on its own fold, figures averaged over the folds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.evaluation.calibration import Recalibration
from cxr_ray.evaluation.folds import Folds, fold_figures, fold_intervals
from cxr_ray.evaluation.intervals import ScoredSample
from cxr_ray.evaluation.proportions import Interval
from cxr_ray.evaluation.thresholds import f1_operating_point
from cxr_ray.report.fold_use import fold_use
from cxr_ray.report.modality_use import ScoredRecords
from cxr_ray.report.out_of_fold import Fit, read_fits
from cxr_ray.report.performance import (
    POINTS,
    calibration_columns,
    decision_rows,
    interval_columns,
    recalibration_line,
)
from cxr_ray.report.trial_folder import read_features

_EACH_ITS_OWN = Interval(np.nan, np.nan, "none: mean of the thresholds of all fits")


@dataclass(frozen=True)
class OutOfFold:
    """The test records of all fits, one entry a record and repeat.

    Attributes
    ----------
    record_id : (N,) array of str
    label : (N,) array of int8
    logit : (N,) array of float64
    patient : (N,) array of int64
        Numbered by first entries, since names are salted by storage.
    folds : Folds
    """

    record_id: NDArray[np.str_]
    label: NDArray[np.int8]
    logit: NDArray[np.float64]
    patient: NDArray[np.int64]
    folds: Folds

    @classmethod
    def of(cls, fits: list[Fit], test_set: str) -> "OutOfFold":
        """Take the ``own`` or ``full`` test records of every fit."""
        rows = [fit.predictions.rows("test", test_set) for fit in fits]
        pairs = list(zip(fits, rows, strict=True))
        repeats = np.array([fit.repeat for fit in fits])
        return cls(
            record_id=np.concatenate([fit.predictions.record_id[own] for fit, own in pairs]),
            label=np.concatenate([fit.predictions.label[own] for fit, own in pairs]),
            logit=np.concatenate([fit.predictions.logit[own] for fit, own in pairs]),
            patient=pd.factorize(
                np.concatenate([fit.predictions.group[own] for fit, own in pairs])
            )[0],
            folds=Folds(
                fit=np.repeat(np.arange(len(fits)), [int(own.sum()) for own in rows]),
                repeat=np.unique(repeats, return_inverse=True)[1],
            ),
        )

    @property
    def counted(self) -> tuple[int, int]:
        """Records and positives of the first repeat, in which each record is tested once."""
        first = self.folds.repeat[self.folds.fit] == 0
        return int(first.sum()), int(self.label[first].sum())


def score_cross_validation(folder: Path, config: EvaluationConfig, identity: int) -> dict[str, Any]:
    """Score a gathered folder: what `cxr_ray.report.scoring.score_folder` gives of a trial's.

    Parameters
    ----------
    folder
        As `cxr_ray.report.out_of_fold.gather_fits` wrote it, its fits beside it.
    identity
        Every draw derives from it.
    """
    fits = read_fits(folder)
    tested = OutOfFold.of(fits, "full")
    rows = [np.flatnonzero(fit.predictions.rows("test", "full")) for fit in fits]
    sensitivity, contribution = fold_use(
        [read_features(fit.folder) for fit in fits],
        rows,
        ScoredRecords(np.concatenate(rows), tested.label, tested.patient, tested.folds),
        config,
        identity,
    )
    lines = [recalibration_line(fit.predictions) for fit in fits]
    full = _score_test_set(fits, lines, "full", config, identity)
    own = full
    if not all(fit.predictions.in_own.all() for fit in fits):
        own = _score_test_set(fits, lines, "own", config, identity)
    accuracies = []
    for fit in fits:
        own_val = fit.predictions.rows("val", "own")
        called = fit.predictions.logit[own_val] >= 0
        accuracies.append(np.mean(called == fit.predictions.label[own_val]))
    return {
        "test_sets": {"own": own, "full": full},
        "sensitivity": sensitivity,
        "contribution": contribution,
        "net_benefit": _decision_rows(fits, lines, config),
        "val_accuracy": float(np.mean(accuracies)),
    }


def out_of_fold_chances(
    folder: Path,
) -> tuple[NDArray[np.int8], NDArray[np.float64], NDArray[np.float64] | None]:
    """Labels, probabilities, and those recalibrated by each fit's own line, of all entries.

    None in the place of the last where a fit has no such line.
    """
    fits = read_fits(folder)
    tested = OutOfFold.of(fits, "full")
    lines = [recalibration_line(fit.predictions) for fit in fits]
    moved = expit(_recalibrate(tested, lines))
    lacking = any(line.method.startswith("none: ") for line in lines)
    return tested.label, expit(tested.logit), None if lacking else moved


def draw_fold_figures(folder: Path) -> None:
    """Draw the first repeat: ROC and precision-recall by fold, the others over all its records.

    Scores of different folds share no scale and are ranked apart; probabilities claim to have one.
    """
    from cxr_ray.report.scoring import draw_curves

    fits = [fit for fit in read_fits(folder) if fit.repeat == 1]
    tested = OutOfFold.of(fits, "full")
    pooled = tested.label, expit(tested.logit)
    draw_curves(
        folder,
        ranked={
            f"fold {fit.fold}": (tested.label[place], tested.logit[place])
            for fit, place in zip(fits, tested.folds.places, strict=True)
        },
        calibrated={f"{len(fits)} folds": pooled},
        called=pooled,
    )


def own_threshold(fit: Fit, test_set: str) -> float:
    """Logit of the highest F1 on a fit's own validation part."""
    rows = fit.predictions.rows("val", test_set)
    return f1_operating_point(fit.predictions.label[rows], fit.predictions.logit[rows]).threshold


def _score_test_set(
    fits: list[Fit],
    lines: list[Recalibration],
    test_set: str,
    config: EvaluationConfig,
    identity: int,
) -> dict[str, Any]:
    tested = OutOfFold.of(fits, test_set)
    points = _points(fits, test_set)
    moved = _recalibrate(tested, lines)
    samples = [
        ScoredSample.of(
            tested.label[place],
            expit(tested.logit[place]),
            tested.logit[place],
            0.5,
            points=chosen,
            recalibrated=expit(moved[place]),
            ece_bins=config.ece_bins,
        )
        for chosen, place in zip(points, tested.folds.places, strict=True)
    ]
    figures = fold_figures(samples, tested.folds)
    intervals = fold_intervals(
        samples,
        tested.folds,
        groups=tested.patient,
        n_resamples=config.bootstrap,
        fixed_ratio=test_set == "own",
        rng=np.random.default_rng([identity, ("own", "full").index(test_set), 0x5C]),
    )
    n, n_positive = tested.counted
    found: dict[str, Any] = {"n": n, "n_positive": n_positive}
    for name, figure in figures.items():
        found |= interval_columns(name, float(figure[0]), intervals[name])
    for name in points[0]:
        mean = float(np.mean([expit(chosen[name]) for chosen in points]))
        found |= interval_columns(f"threshold_at_{name}", mean, _EACH_ITS_OWN)
    # Probabilities claim a scale of their own, so that calibration is read over all folds at once.
    found |= calibration_columns(tested.label, tested.logit, tested.patient, "")
    found |= {
        "recalibration": _shared_method(lines),
        "recalibration_slope": float(np.mean([line.slope for line in lines])),
        "recalibration_intercept": float(np.mean([line.intercept for line in lines])),
    }
    found |= calibration_columns(tested.label, moved, tested.patient, "_recalibrated")
    return {name: None if value != value else value for name, value in found.items()}


def _points(fits: list[Fit], test_set: str) -> list[dict[str, float]]:
    """Choose each fit's thresholds on its own validation part."""
    points = []
    for fit in fits:
        rows = fit.predictions.rows("val", test_set)
        label, logit = fit.predictions.label[rows], fit.predictions.logit[rows]
        points.append(
            {name: choose(label, logit).threshold for name, (_, choose) in POINTS.items()}
        )
    return points


def _recalibrate(tested: OutOfFold, lines: list[Recalibration]) -> NDArray[np.float64]:
    moved = np.empty_like(tested.logit)
    for line, place in zip(lines, tested.folds.places, strict=True):
        moved[place] = line.apply(tested.logit[place])
    return moved


def _decision_rows(
    fits: list[Fit], lines: list[Recalibration], config: EvaluationConfig
) -> list[dict[str, Any]]:
    tested = OutOfFold.of(fits, "full")
    validated = [fit.predictions.label[fit.predictions.rows("val", "full")] for fit in fits]
    return decision_rows(
        tested.label,
        _recalibrate(tested, lines),
        "full",
        config,
        recalibrated=not any(line.method.startswith("none: ") for line in lines),
        trained=float(np.concatenate(validated).mean()),
    )


def _shared_method(lines: list[Recalibration]) -> str:
    """Name how the fits were recalibrated, and in how many of them where not in all."""
    methods = [line.method for line in lines]
    counts = {method: methods.count(method) for method in dict.fromkeys(methods)}
    if len(counts) == 1:
        return methods[0]
    return "; ".join(f"{method} in {count} fits" for method, count in counts.items())
