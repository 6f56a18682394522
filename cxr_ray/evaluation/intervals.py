"""Intervals of every metric of one set of predictions."""

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.confusion import Confusion, confusion_rows
from cxr_ray.evaluation.delong import auroc_interval
from cxr_ray.evaluation.labels import FloatArray, as_labels, as_scores
from cxr_ray.evaluation.metrics import METRICS
from cxr_ray.evaluation.proportions import Interval, wilson_interval
from cxr_ray.evaluation.resampling import PatientSampler, chunk_sizes

__all__ = [
    "BOOTSTRAPPED",
    "Interval",
    "bootstrap_figures",
    "bootstrap_metrics",
    "metric_intervals",
    "wilson_interval",
]

BOOTSTRAPPED = tuple(name for name in METRICS if name != "ece")
STRATIFIED = ("recall", "specificity", "balanced_accuracy", "sensitivity_at_95_specificity")
FEW_EVENTS = 20
_NO_ECE = Interval(np.nan, np.nan, "none: a resample's ECE is biased upwards")


def metric_intervals(
    label: ArrayLike,
    probability: ArrayLike,
    *,
    rng: np.random.Generator,
    score: ArrayLike | None = None,
    threshold: float = 0.5,
    groups: ArrayLike | None = None,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    fixed_ratio: bool = False,
) -> dict[str, Interval]:
    """Give each metric the interval that suits it.

    AUROC: DeLong on the logit scale. Recall, specificity, balanced accuracy and sensitivity at 95 %
    specificity: stratified patient bootstrap, as they do not depend on the prevalence. The others:
    plain patient bootstrap. Accuracy, precision, recall and specificity with under 20 events
    (right or wrong calls, whichever are fewer) and one record a patient: Wilson.

    Parameters
    ----------
    label, probability, score, threshold, groups, n_resamples, confidence, rng
        As in `bootstrap_metrics`.
    fixed_ratio : bool
        Whether the design fixed the class ratio; everything is then stratified.

    Returns
    -------
    dict of str to Interval
        In the order of `METRICS`; ``method`` says which was used. ECE has none.
    """
    positive = as_labels(label)
    chance = as_scores(probability, len(positive))
    ranked = chance if score is None else as_scores(score, len(positive))
    if positive.all() or not positive.any():
        return {name: Interval(np.nan, np.nan, "none: one class only") for name in METRICS}
    methods = {True: "bootstrap_stratified", False: "bootstrap"}
    draws = {
        kind: bootstrap_figures(
            positive,
            chance,
            score=ranked,
            threshold=threshold,
            groups=groups,
            n_resamples=n_resamples,
            stratified=kind,
            rng=rng,
        )
        for kind in ((True,) if fixed_ratio else (False, True))
    }
    result = {}
    for name in METRICS:
        kind = fixed_ratio or name in STRATIFIED
        result[name] = (
            _NO_ECE if name == "ece" else _percentile(draws[kind][name], confidence, methods[kind])
        )
    area = auroc_interval(positive, ranked, groups=groups, confidence=confidence)
    result["auroc"] = Interval(area.low, area.high, area.method)
    if groups is None or len(np.unique(np.asarray(groups))) == len(positive):
        for name, (hits, total) in _proportions(positive, chance, threshold).items():
            if min(hits, total - hits) < FEW_EVENTS:
                result[name] = wilson_interval(hits, total, confidence=confidence)
    return result


def bootstrap_metrics(
    label: ArrayLike,
    probability: ArrayLike,
    *,
    rng: np.random.Generator,
    score: ArrayLike | None = None,
    threshold: float = 0.5,
    groups: ArrayLike | None = None,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    stratified: bool = False,
) -> dict[str, Interval]:
    """Bootstrap every metric over patients; percentile intervals.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    probability : (N,) array-like
    rng : numpy.random.Generator
    score : (N,) array-like, optional
        What ranks the records: the logit, where there is one.
    threshold : float
        On the probability.
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several: patients are drawn, with all
        their records.
    n_resamples : int
    confidence : float
    stratified : bool
        Keep the number of patients of each class.

    Returns
    -------
    dict of str to Interval
        In the order of `METRICS`. ECE has no interval: a resample repeats records, so that its
        ECE lies above that of the sample.

    Raises
    ------
    ValueError
        If one class is absent.

    Notes
    -----
    Efron & Tibshirani 1993, chapter 13. A resample with one class only is drawn again.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> label = rng.random(400) < 0.3
    >>> probability = np.clip(0.3 * label + 0.7 * rng.random(400), 0, 1)
    >>> interval = bootstrap_metrics(label, probability, rng=rng, n_resamples=200)["f1"]
    >>> interval.method, 0.05 < interval.high - interval.low < 0.2
    ('bootstrap', True)
    """
    figures = bootstrap_figures(
        label,
        probability,
        score=score,
        threshold=threshold,
        groups=groups,
        n_resamples=n_resamples,
        stratified=stratified,
        rng=rng,
    )
    method = "bootstrap_stratified" if stratified else "bootstrap"
    return {
        name: _NO_ECE if name == "ece" else _percentile(figures[name], confidence, method)
        for name in METRICS
    }


def bootstrap_figures(
    label: ArrayLike,
    probability: ArrayLike,
    *,
    rng: np.random.Generator,
    score: ArrayLike | None = None,
    threshold: float = 0.5,
    groups: ArrayLike | None = None,
    n_resamples: int = 2000,
    stratified: bool = False,
) -> dict[str, FloatArray]:
    """Score every bootstrap resample.

    The records are sorted once: a resample is a row of weights, and its figures are weighted
    sums along the order.

    Parameters
    ----------
    label, probability, rng, score, threshold, groups, n_resamples, stratified
        As in `bootstrap_metrics`.

    Returns
    -------
    dict of str to (n_resamples,) array of float64
        In the order of `BOOTSTRAPPED`.
    """
    positive = as_labels(label)
    chance = as_scores(probability, len(positive))
    ranked = chance if score is None else as_scores(score, len(positive))
    sampler = PatientSampler.of(positive, groups, stratified=stratified)
    parts = []
    for size in chunk_sizes(n_resamples, len(positive)):
        weights = sampler.draw_weights(rng, size)
        parts.append(weighted_figures(weights, positive, chance, ranked, threshold))
    return {name: np.concatenate([part[name] for part in parts]) for name in BOOTSTRAPPED}


def weighted_figures(
    weights: FloatArray,
    label: ArrayLike,
    probability: ArrayLike,
    score: ArrayLike,
    threshold: float,
) -> dict[str, FloatArray]:
    """Figures of each row of record weights, equal to those of records repeated that often.

    Parameters
    ----------
    weights : (R, N) array of float64
        Each row needs weight on both classes.
    label : (N,) array-like of 0/1
    probability, score : (N,) array-like
    threshold : float
        On the probability.

    Returns
    -------
    dict of str to (R,) array of float64
        In the order of `BOOTSTRAPPED`.
    """
    positive = np.asarray(label, dtype=bool)
    chance = np.asarray(probability, dtype=np.float64)
    called = chance >= threshold
    outcomes = np.column_stack(
        [
            positive & called,
            ~positive & called,
            positive & ~called,
            ~positive & ~called,
            (chance - positive) ** 2,
        ]
    ).astype(np.float64)
    hits, false_alarms, misses, rejections, squares = (weights @ outcomes).T
    counts = Confusion(hits, false_alarms, misses, rejections)

    order = np.argsort(-np.asarray(score, dtype=np.float64), kind="stable")
    descending = np.asarray(score, dtype=np.float64)[order]
    last = np.append(np.flatnonzero(np.diff(descending)), len(order) - 1)  # of each run of ties
    along = weights[:, order]
    true_positive = np.cumsum(along * positive[order], axis=1)[:, last]
    false_positive = np.cumsum(along, axis=1)[:, last] - true_positive
    gained = np.diff(true_positive, axis=1, prepend=0.0)
    lost = np.diff(false_positive, axis=1, prepend=0.0)
    positives, negatives = true_positive[:, -1], false_positive[:, -1]
    beaten = negatives[:, None] - false_positive + lost / 2
    predicted = np.maximum(true_positive + false_positive, 1e-300)
    allowed = np.floor((1 - 0.95) * negatives + 1e-9)
    within = np.where(false_positive <= allowed[:, None], true_positive, 0.0)
    return {
        "accuracy": counts.accuracy,
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "auroc": (gained * beaten).sum(axis=1) / (positives * negatives),
        "average_precision": (gained * true_positive / predicted).sum(axis=1) / positives,
        "brier": squares / weights.sum(axis=1),
        "balanced_accuracy": counts.balanced_accuracy,
        "mcc": counts.mcc,
        "specificity": counts.specificity,
        "sensitivity_at_95_specificity": within.max(axis=1) / positives,
    }


def _percentile(figures: FloatArray, confidence: float, method: str) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(figures, (tail, 1 - tail))
    return Interval(float(low), float(high), method)


def _proportions(
    label: ArrayLike, probability: FloatArray, threshold: float
) -> dict[str, tuple[int, int]]:
    counts = confusion_rows(label, probability[None], threshold)
    hits, rejections = int(counts.true_positive[0]), int(counts.true_negative[0])
    positives, negatives = int(counts.positive[0]), int(counts.negative[0])
    return {
        "accuracy": (hits + rejections, positives + negatives),
        "precision": (hits, int(counts.predicted_positive[0])),
        "recall": (hits, positives),
        "specificity": (rejections, negatives),
    }
