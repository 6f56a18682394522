"""Every figure of one test set, from a trial's predictions: a row of ``leaderboard.csv``.

Thresholds are chosen on the matching validation part (own for own, full for full), and logits are
recalibrated on the full one: a sub-sampled part has another prevalence.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.evaluation.calibration import (
    Calibration,
    Recalibration,
    calibration,
    fit_recalibration,
    shift_prior,
)
from cxr_ray.evaluation.confusion import confusion_rows
from cxr_ray.evaluation.intervals import (
    FEW_EVENTS,
    FEW_PATIENTS,
    MARK_FEW_EVENTS,
    TOO_FEW_PATIENTS,
    metric_intervals,
)
from cxr_ray.evaluation.metrics import score_predictions
from cxr_ray.evaluation.net_benefit import net_benefit
from cxr_ray.evaluation.proportions import Interval
from cxr_ray.evaluation.thresholds import (
    f1_operating_point,
    specificity_operating_point,
    threshold_intervals,
    youden_operating_point,
)
from cxr_ray.evaluation.weighted import OF_CALLS
from cxr_ray.report.trial_folder import Predictions

POINTS = {
    "val": ("f1", f1_operating_point),
    "youden": ("youden", youden_operating_point),
    "spec95": ("specificity", specificity_operating_point),
}
DECISION_THRESHOLDS = 20
_NO_INTERVAL = Interval(math.nan, math.nan, "none: the validation part holds one class only")


def score_test_set(
    predictions: Predictions, test_set: str, config: EvaluationConfig, identity: int
) -> dict[str, Any]:
    """Score a test set at .5, at the thresholds chosen on validation, and in its calibration.

    Parameters
    ----------
    test_set
        ``own`` or ``full``.
    identity
        What every draw derives from.

    Returns
    -------
    Columns of ``leaderboard.csv``: a figure, ``_low``, ``_high`` and ``_method`` of its interval.
    What does not exist is None, and the method says why.
    """
    rows, val = predictions.rows("test", test_set), predictions.rows("val", test_set)
    label, logits = predictions.label[rows], predictions.logit[rows]
    patients = predictions.patients(rows)
    place = ("own", "full").index(test_set)
    rng = np.random.default_rng([identity, place, 0x5C])
    points, found_points = _operating_points(predictions, val, config, rng)
    line = recalibration_line(predictions)
    recalibrated = expit(line.apply(logits))
    figures = score_predictions(
        label, predictions.probability[rows], score=logits, ece_bins=config.ece_bins
    )
    for name, cut in points.items():
        counts = confusion_rows(label, logits[None], cut)
        figures |= {f"{metric}_at_{name}": getattr(counts, metric)[0] for metric in OF_CALLS}
    after = score_predictions(label, recalibrated, ece_bins=config.ece_bins)
    figures |= {f"{name}_recalibrated": after[name] for name in ("brier", "ece")}
    intervals = metric_intervals(
        label,
        predictions.probability[rows],
        score=logits,
        points=points,
        recalibrated=recalibrated,
        groups=patients,
        n_resamples=config.bootstrap,
        fixed_ratio=not bool(rows[predictions.part == "test"].all()),
        ece_bins=config.ece_bins,
        rng=rng,
    )
    found: dict[str, Any] = {"n": len(label), "n_positive": int(label.sum())}
    for name, figure in figures.items():
        found |= interval_columns(name, figure, intervals[name])
    found |= found_points
    found |= calibration_columns(label, logits, patients, "")
    found |= {"recalibration": line.method}
    found |= {"recalibration_slope": line.slope, "recalibration_intercept": line.intercept}
    found |= calibration_columns(label, line.apply(logits), patients, "_recalibrated")
    if line.method.startswith("none: "):
        for name in found:
            if "recalibrated" in name or name.startswith("recalibration_"):
                found[name] = line.method if name.endswith("_method") else None
    return {name: None if _is_nan(value) else value for name, value in found.items()}


def decision_curve(
    predictions: Predictions, test_set: str, config: EvaluationConfig
) -> list[dict[str, Any]]:
    """Weigh the benefit of acting on a model's calls: rows of ``net_benefit.csv``.

    Recalibrated probabilities hold for the validation part's prevalence. For a declared one they
    are moved by the difference of the priors, which is right whatever the loss was: the line
    was fitted by the log loss.

    Returns
    -------
    One row a threshold; none where a class is absent, or where a prevalence is declared and
    nothing could be recalibrated for it.
    """
    rows = predictions.rows("test", test_set)
    line = recalibration_line(predictions)
    trained = float(predictions.label[predictions.rows("val", "full")].mean())
    return decision_rows(
        predictions.label[rows],
        line.apply(predictions.logit[rows]),
        test_set,
        config,
        recalibrated=not line.method.startswith("none: "),
        trained=trained,
    )


def decision_rows(
    label: NDArray[np.int8],
    logits: NDArray[np.float64],
    test_set: str,
    config: EvaluationConfig,
    *,
    recalibrated: bool,
    trained: float,
) -> list[dict[str, Any]]:
    """Weigh the benefit of calls made by recalibrated logits; see `decision_curve`.

    Parameters
    ----------
    recalibrated
        Whether there was a line to recalibrate them by.
    trained
        The share of positives for which they were recalibrated.
    """
    if label.all() or not label.any() or not (recalibrated or config.prevalence is None):
        return []
    if config.prevalence is not None:
        logits = shift_prior(
            logits, loss="bce", trained_prevalence=trained, prevalence=config.prevalence
        )
    thresholds = np.linspace(*config.decision_range, DECISION_THRESHOLDS)
    curve = net_benefit(label, expit(logits), thresholds, prevalence=config.prevalence)
    return [
        {
            "test_set": test_set,
            "threshold": round(float(at), 6),
            "prevalence": curve.prevalence,
            "net_benefit": float(model),
            "treat_all": float(treat_all),
            "recalibrated": recalibrated,
        }
        for at, model, treat_all in zip(thresholds, curve.model, curve.treat_all, strict=True)
    ]


def recalibration_line(predictions: Predictions) -> Recalibration:
    """Fit slope and intercept on the full validation part."""
    val = predictions.rows("val", "full")
    return fit_recalibration(predictions.label[val], predictions.logit[val])


def _operating_points(
    predictions: Predictions,
    val: NDArray[np.bool_],
    config: EvaluationConfig,
    rng: np.random.Generator,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Choose each threshold on the logits; and their columns, as probabilities."""
    label, logits = predictions.label[val], predictions.logit[val]
    found: dict[str, Any] = {}
    if label.all() or not label.any():
        for name in POINTS:
            for column in ("threshold", *OF_CALLS):
                found |= interval_columns(f"{column}_at_{name}", math.nan, _NO_INTERVAL)
        return {}, found
    intervals = threshold_intervals(
        label, logits, groups=predictions.patients(val), n_resamples=config.bootstrap, rng=rng
    )
    points = {name: choose(label, logits).threshold for name, (_, choose) in POINTS.items()}
    for name, (rule, _) in POINTS.items():
        one = intervals[rule]
        bounds = Interval(float(expit(one.low)), float(expit(one.high)), one.method)
        found |= interval_columns(f"threshold_at_{name}", float(expit(points[name])), bounds)
    return points, found


def calibration_columns(
    label: NDArray[np.int8],
    logits: NDArray[np.float64],
    patients: NDArray[np.int64],
    suffix: str,
) -> dict[str, Any]:
    """Fit the calibration line of a test set: columns of slope, intercept and shift."""
    events = min(len(np.unique(patients[label == side])) for side in (0, 1))
    if len(np.unique(patients)) < FEW_PATIENTS:
        none = Interval(math.nan, math.nan, TOO_FEW_PATIENTS)
        found = Calibration(math.nan, math.nan, math.nan, none, none, none)
    else:
        found = calibration(label, logits, groups=patients)
    columns: dict[str, Any] = {}
    for name, figure, interval in (
        ("slope", found.slope, found.slope_interval),
        ("intercept", found.intercept, found.intercept_interval),
        ("in_the_large", found.in_the_large, found.in_the_large_interval),
    ):
        if events < FEW_EVENTS and not math.isnan(figure):
            interval = replace(interval, method=interval.method + MARK_FEW_EVENTS)
        columns |= interval_columns(f"calibration_{name}{suffix}", figure, interval)
    return columns


def interval_columns(name: str, figure: float, interval: Interval) -> dict[str, Any]:
    """Lay a figure and its interval out as columns of ``leaderboard.csv``."""
    return {
        name: float(figure),
        f"{name}_low": interval.low,
        f"{name}_high": interval.high,
        f"{name}_method": interval.method,
    }


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
