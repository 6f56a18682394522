"""Paired bootstrap of two models' figures on the same patients."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.labels import FloatArray, as_labels, as_scores
from cxr_ray.evaluation.resampling import PatientSampler, chunk_sizes
from cxr_ray.evaluation.weighted import WeightedRanking, weighted_calls

AT_THRESHOLD = ("accuracy", "precision", "recall", "f1")
OF_RANKING = ("auroc", "average_precision")
_NO_DIFFERENCE = 1e-12  # a rounding error is no difference


@dataclass(frozen=True)
class PairedDifference:
    """How far one figure of two models lies apart.

    Attributes
    ----------
    difference : float
        First minus second.
    low, high : float
        Percentile interval.
    p_value : float
        Two-sided.
    """

    difference: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    label: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    rng: np.random.Generator,
    metrics: Sequence[str] = (*AT_THRESHOLD, *OF_RANKING),
    thresholds: tuple[float, float] = (0.0, 0.0),
    groups: ArrayLike | None = None,
    n_resamples: int = 2000,
    confidence: float = 0.95,
) -> dict[str, PairedDifference]:
    """Compare two models on the same records; every resample is one draw of patients for both.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    first, second : (N,) array-like
        Scores of the two models.
    rng : numpy.random.Generator
    metrics : sequence of str
        Of `AT_THRESHOLD` and `OF_RANKING`.
    thresholds : tuple of float
        Of the first and the second model, on their scores: a record is called positive where
        score >= threshold. They are taken as given: choose them on other records.
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several: patients are drawn, with all
        their records.
    n_resamples : int
    confidence : float

    Returns
    -------
    dict of str to PairedDifference
        In the order of `metrics`. A model compared with itself differs by 0 with p = 1.

    Raises
    ------
    ValueError
        If one class is absent, or a metric is unknown.

    Notes
    -----
    The p-value inverts the percentile interval (Efron & Tibshirani 1993, section 15.4):
    ``2 (1 + min(#{d* <= 0}, #{d* >= 0})) / (R + 1)``, at most 1. Resamples without a difference
    count on both sides, so that coarse figures are not called apart by their steps. The smallest
    value is 2 / (R + 1): a large family after Holm's correction needs a large R.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> label = np.repeat([0, 1], [150, 50])
    >>> good, poor = (signal * label + rng.normal(size=200) for signal in (2, 0.5))
    >>> found = paired_bootstrap(label, good, poor, rng=rng, n_resamples=199)["average_precision"]
    >>> found.low > 0, found.p_value
    (True, 0.01)
    """
    unknown = set(metrics) - {*AT_THRESHOLD, *OF_RANKING}
    if unknown:
        raise ValueError(f"no paired bootstrap of {', '.join(sorted(unknown))}")
    positive = as_labels(label)
    sampler = PatientSampler.of(positive, groups)
    scores = [as_scores(score, len(positive)) for score in (first, second)]
    called = [score >= cut for score, cut in zip(scores, thresholds, strict=True)]
    rankings = [WeightedRanking.of(positive, score) for score in scores]

    def differences(weights: FloatArray) -> FloatArray:
        """(R, metrics) differences under rows of record weights."""
        calls = weighted_calls(weights, positive, called)
        one, other = ({name: getattr(each, name) for name in AT_THRESHOLD} for each in calls)
        if set(OF_RANKING) & set(metrics):
            one |= rankings[0].figures(weights)
            other |= rankings[1].figures(weights)
        return np.column_stack([one[name] - other[name] for name in metrics])

    observed = differences(np.ones((1, len(positive))))[0]
    drawn = np.concatenate(
        [
            differences(sampler.draw_weights(rng, size))
            for size in chunk_sizes(n_resamples, len(positive))
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail), axis=0)
    fewer = np.minimum((drawn <= _NO_DIFFERENCE).sum(0), (drawn >= -_NO_DIFFERENCE).sum(0))
    p_value = np.minimum(1.0, 2 * (1 + fewer) / (n_resamples + 1))
    return {
        name: PairedDifference(*(float(figure) for figure in figures))
        for name, *figures in zip(metrics, observed, low, high, p_value, strict=True)
    }
