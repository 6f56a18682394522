"""Operating points chosen on validation data.

Candidates are the midpoints between consecutive distinct scores, one threshold that calls every
record positive (the lowest score) and one that calls none (just above the highest score). A
record is called positive where score >= threshold. Choose on logits: thresholds between
saturated probabilities cannot be told apart.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.errors import InputError
from cxr_ray.evaluation.confusion import Confusion
from cxr_ray.evaluation.labels import FloatArray, as_labels, as_scores


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and what it does on the data it was chosen on.

    Attributes
    ----------
    rule : str
        ``f1``, ``youden`` or ``specificity``.
    threshold : float
        On the scale of the scores it was chosen on.
    sensitivity, specificity, f1 : float
        On the data it was chosen on, hence optimistic.
    """

    rule: str
    threshold: float
    sensitivity: float
    specificity: float
    f1: float


def f1_operating_point(label: ArrayLike, score: ArrayLike) -> OperatingPoint:
    """Choose the threshold of the highest F1; of equals, the highest threshold.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    score : (N,) array-like

    Returns
    -------
    OperatingPoint

    Raises
    ------
    InputError
        If one class is absent.

    Examples
    --------
    >>> f1_operating_point([0, 0, 1, 1], [0.0, 1.0, 2.0, 3.0]).threshold
    1.5
    """
    return _choose("f1", label, score, lambda counts: counts.f1)


def youden_operating_point(label: ArrayLike, score: ArrayLike) -> OperatingPoint:
    """Choose the threshold of the highest sensitivity + specificity - 1 (Youden 1950).

    Of equals, the highest threshold: the fewest false alarms.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    score : (N,) array-like

    Returns
    -------
    OperatingPoint

    Raises
    ------
    InputError
        If one class is absent.
    """
    return _choose("youden", label, score, lambda counts: counts.balanced_accuracy)


def specificity_operating_point(
    label: ArrayLike, score: ArrayLike, *, specificity: float = 0.95
) -> OperatingPoint:
    """Choose the threshold of the highest sensitivity that keeps at least `specificity`.

    Of thresholds with equal sensitivity, the highest one: the highest specificity.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    score : (N,) array-like
    specificity : float
        Between 0 and 1.

    Returns
    -------
    OperatingPoint

    Raises
    ------
    InputError
        If one class is absent.

    Examples
    --------
    >>> specificity_operating_point([0, 0, 1, 1], [1, 3, 2, 4]).threshold
    3.5
    """
    return _choose(
        "specificity",
        label,
        score,
        # a rounding error must not refuse exactly 95 of 100
        lambda counts: np.where(counts.specificity >= specificity - 1e-12, counts.recall, -1.0),
    )


def candidate_thresholds(score: ArrayLike) -> FloatArray:
    """List the thresholds that split the scores in different ways, highest first.

    Parameters
    ----------
    score : (N,) array-like

    Returns
    -------
    (distinct scores + 1,) array of float64

    Examples
    --------
    >>> candidate_thresholds([1.0, 3.0, 3.0])[1:].tolist()
    [2.0, 1.0]
    """
    distinct = np.unique(np.asarray(score, dtype=np.float64))[::-1]
    upper, lower = distinct[:-1], distinct[1:]
    middle = lower / 2 + upper / 2
    # between neighbouring floats there is no middle; the upper score makes the same cut
    middle = np.where((middle > lower) & (middle <= upper), middle, upper)
    return np.concatenate([[np.nextafter(distinct[0], np.inf)], middle, [distinct[-1]]])


def _choose(
    rule: str, label: ArrayLike, score: ArrayLike, value: Callable[[Confusion], FloatArray]
) -> OperatingPoint:
    positive = as_labels(label)
    ranked = as_scores(score, len(positive))
    if positive.all() or not positive.any():
        raise InputError(
            f"threshold by {rule}: the validation part holds one class only; both are needed"
        )
    thresholds = candidate_thresholds(ranked)
    ascending = np.sort(ranked)
    hits = np.sort(ranked[positive])
    true_positive = len(hits) - np.searchsorted(hits, thresholds, side="left")
    false_positive = len(ascending) - np.searchsorted(ascending, thresholds) - true_positive
    counts = Confusion(
        true_positive=true_positive,
        false_positive=false_positive,
        false_negative=len(hits) - true_positive,
        true_negative=len(ascending) - len(hits) - false_positive,
    )
    best = int(np.argmax(value(counts)))  # the first maximum: the highest threshold
    return OperatingPoint(
        rule=rule,
        threshold=float(thresholds[best]),
        sensitivity=float(counts.recall[best]),
        specificity=float(counts.specificity[best]),
        f1=float(counts.f1[best]),
    )
