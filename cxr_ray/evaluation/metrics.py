"""All figures of one set of predictions."""

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.confusion import Confusion, confusion_rows
from cxr_ray.evaluation.labels import FloatArray, as_labels, as_scores
from cxr_ray.evaluation.ranking import (
    auroc,
    auroc_rows,
    average_precision,
    average_precision_rows,
    ranking_rows,
)

__all__ = [
    "METRICS",
    "Confusion",
    "auroc",
    "auroc_rows",
    "average_precision",
    "average_precision_rows",
    "confusion_rows",
    "expected_calibration_error",
    "ranking_rows",
    "score_predictions",
    "sensitivity_at_specificity",
]

METRICS = (
    "accuracy",
    "precision",
    "recall",
    "f1",
    "auroc",
    "average_precision",
    "brier",
    "ece",
    "balanced_accuracy",
    "mcc",
    "specificity",
    "sensitivity_at_95_specificity",
)


def score_predictions(
    label: ArrayLike,
    probability: ArrayLike,
    *,
    score: ArrayLike | None = None,
    threshold: float = 0.5,
    ece_bins: int = 15,
) -> dict[str, float]:
    """Score pooled predictions: the figures of `METRICS`, in that order.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    probability : (N,) array-like
        Probability of the positive class.
    score : (N,) array-like, optional
        What ranks the records: the logit, where there is one. Probabilities near 1 run into each
        other (sigmoid(40.) == 1.), which makes ties that the model did not make.
    threshold : float
        A record is called positive where probability >= threshold.
    ece_bins : int
        Number of equal-mass bins of the calibration error.

    Returns
    -------
    dict of str to float
        A figure about a class that is absent is NaN: with one class, AUROC, average precision,
        balanced accuracy and sensitivity at 95 % specificity; without positives also recall and
        F1, without negatives specificity. Precision is 0 with no predicted positive, MCC is 0
        where a margin of the confusion matrix is empty.

    Notes
    -----
    Brier 1950; ECE: `expected_calibration_error`; MCC: Matthews 1975; AUROC and average
    precision: `cxr_ray.evaluation.ranking`.

    Examples
    --------
    >>> figures = score_predictions([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9])
    >>> figures["accuracy"], figures["auroc"], round(figures["brier"], 4)
    (0.5, 0.75, 0.185)
    >>> score_predictions([0, 0], [0.1, 0.2])["auroc"]
    nan
    """
    positive = as_labels(label)
    chance = as_scores(probability, len(positive))
    ranked = chance if score is None else as_scores(score, len(positive))
    counts = confusion_rows(positive, chance[None], threshold)
    areas, precisions = ranking_rows(positive, ranked[None])
    figures: dict[str, float | FloatArray] = {
        "accuracy": counts.accuracy,
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "auroc": areas,
        "average_precision": precisions,
        "brier": float(np.mean((chance - positive) ** 2)),
        "ece": expected_calibration_error(positive, chance, bins=ece_bins),
        "balanced_accuracy": counts.balanced_accuracy,
        "mcc": counts.mcc,
        "specificity": counts.specificity,
        "sensitivity_at_95_specificity": sensitivity_at_specificity(positive, ranked, 0.95),
    }
    return {name: float(np.squeeze(figures[name])) for name in METRICS}


def expected_calibration_error(
    label: ArrayLike, probability: ArrayLike, *, bins: int = 15
) -> float:
    """Measure the expected calibration error over bins of equal mass.

    ``sum_b n_b / N |mean probability in b - share of positives in b|``. Equal probabilities
    always share a bin (that of their lowest rank), so that the order of the records has no effect.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    probability : (N,) array-like
    bins : int

    Returns
    -------
    float

    Notes
    -----
    Naeini, Cooper & Hauskrecht 2015; equal mass: Nguyen & O'Connor 2015. A sample's ECE
    is biased upwards (Roelofs et al. 2022): compare it between sets of equal size only.

    Examples
    --------
    >>> round(expected_calibration_error([0, 1, 0, 1], [0.4, 0.4, 0.7, 0.7], bins=2), 4)
    0.15
    """
    positive = as_labels(label)
    chance = as_scores(probability, len(positive))
    own_bin = np.searchsorted(np.sort(chance), chance, side="left") * bins // len(chance)
    gap = np.bincount(own_bin, weights=chance - positive, minlength=bins)
    return float(np.abs(gap).sum() / len(chance))


def sensitivity_at_specificity(label: ArrayLike, score: ArrayLike, specificity: float) -> float:
    """Find the highest sensitivity of any threshold that keeps at least `specificity`.

    Read off the empirical ROC curve, without interpolation.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    score : (N,) array-like
    specificity : float
        Between 0 and 1.

    Returns
    -------
    float
        NaN where one class is absent.

    Examples
    --------
    >>> sensitivity_at_specificity([0, 0, 1, 1], [1, 3, 2, 4], 0.95)
    0.5
    """
    positive = as_labels(label)
    ranked = as_scores(score, len(positive))
    hits, others = ranked[positive], np.sort(ranked[~positive])
    if not len(hits) or not len(others):
        return np.nan
    allowed = allowed_false_positives(len(others), specificity)
    if allowed >= len(others):
        return 1.0
    return float(np.mean(hits > others[len(others) - 1 - allowed]))


def allowed_false_positives(negatives: int, specificity: float) -> int:
    """Most false positives that still keep `specificity` among `negatives`.

    Parameters
    ----------
    negatives : int
    specificity : float

    Returns
    -------
    int

    Examples
    --------
    >>> allowed_false_positives(100, 0.95)  # (1 - 0.95) * 100 is 5.000000000000004
    5
    """
    return int(np.floor((1 - specificity) * negatives + 1e-9))
