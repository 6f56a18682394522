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
from cxr_ray.evaluation.bounds import DESCRIPTIVE, percentile_interval
from cxr_ray.evaluation.confusion import Confusion
from cxr_ray.evaluation.labels import FloatArray, as_labels, as_scores
from cxr_ray.evaluation.proportions import Interval
from cxr_ray.evaluation.resampling import PatientSampler, chunk_sizes

Value = Callable[[Confusion], FloatArray]


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
    return _choose("f1", label, score, _f1)


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
    return _choose("youden", label, score, _balanced_accuracy)


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
    return _choose("specificity", label, score, _recall_keeping(specificity))


def threshold_intervals(
    label: ArrayLike,
    score: ArrayLike,
    *,
    rng: np.random.Generator,
    specificity: float = 0.95,
    groups: ArrayLike | None = None,
    n_resamples: int = 500,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Describe how far each chosen threshold moves from one sample of patients to another.

    Parameters
    ----------
    label : (N,) array-like of 0/1
        Both classes.
    score : (N,) array-like
    rng : numpy.random.Generator
    specificity : float
        Of the third rule.
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several.
    n_resamples : int
    confidence : float

    Returns
    -------
    dict of str to Interval
        By rule: ``f1``, ``youden`` and ``specificity``; percentiles, to describe: a chosen
        threshold is the place of a maximum, on which the bootstrap is not consistent.

    Raises
    ------
    ValueError
        If one class is absent.

    Notes
    -----
    Each resample chooses among the candidates of the sample.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> label = np.repeat([0, 1], [150, 50])
    >>> found = threshold_intervals(label, rng.normal(size=200) + 2 * label, rng=rng)["f1"]
    >>> found.low < 1.5 < found.high, found.method
    (True, 'bootstrap_percentile, descriptive')
    """
    positive = as_labels(label)
    ranked = as_scores(score, len(positive))
    thresholds = candidate_thresholds(ranked)
    order = np.argsort(-ranked, kind="stable")
    falling = ranked[order]
    end = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(order) - 1)
    sampler = PatientSampler.of(positive, groups)
    rules = {"f1": _f1, "youden": _balanced_accuracy, "specificity": _recall_keeping(specificity)}
    chosen: dict[str, list[FloatArray]] = {rule: [] for rule in rules}
    for size in chunk_sizes(n_resamples, len(positive)):
        along = np.take(sampler.draw_weights(rng, size), order, axis=1)
        none = np.zeros((size, 1))  # the first candidate calls none positive
        called = np.hstack([none, np.cumsum(along, axis=1)[:, end]])
        hits = np.hstack([none, np.cumsum(along * positive[order], axis=1)[:, end]])
        counts = Confusion(
            true_positive=hits,
            false_positive=called - hits,
            false_negative=hits[:, -1:] - hits,
            true_negative=called[:, -1:] - hits[:, -1:] - called + hits,
        )
        for rule, value in rules.items():
            chosen[rule].append(thresholds[np.argmax(value(counts), axis=1)])
    return {
        rule: percentile_interval(
            np.concatenate(draws), confidence, f"bootstrap_percentile{DESCRIPTIVE}"
        )
        for rule, draws in chosen.items()
    }


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


def _f1(counts: Confusion) -> FloatArray:
    return counts.f1


def _balanced_accuracy(counts: Confusion) -> FloatArray:
    return counts.balanced_accuracy


def _recall_keeping(specificity: float) -> Value:
    # a rounding error must not refuse exactly 95 of 100
    return lambda counts: np.where(counts.specificity >= specificity - 1e-12, counts.recall, -1.0)


def _choose(rule: str, label: ArrayLike, score: ArrayLike, value: Value) -> OperatingPoint:
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
