"""Paired bootstrap of models' figures on the same patients."""

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


@dataclass(frozen=True)
class JointBootstrap:
    """Figures of several models on the same records, each resample one draw of patients for all.

    Attributes
    ----------
    metrics : tuple of str
    figures : (M, K) array of float64
        Of M models and K metrics.
    draws : (R, M, K) array of float64
        The same under each resample.
    """

    metrics: tuple[str, ...]
    figures: FloatArray
    draws: FloatArray

    def compare(
        self, first: int, second: int, *, confidence: float = 0.95
    ) -> dict[str, PairedDifference]:
        """Compare two models, by their places; see `paired_bootstrap`."""
        observed = self.figures[first] - self.figures[second]
        drawn = self.draws[:, first] - self.draws[:, second]
        tail = (1 - confidence) / 2
        low, high = np.quantile(drawn, (tail, 1 - tail), axis=0)
        fewer = np.minimum((drawn <= _NO_DIFFERENCE).sum(0), (drawn >= -_NO_DIFFERENCE).sum(0))
        p_value = np.minimum(1.0, 2 * (1 + fewer) / (len(drawn) + 1))
        return {
            name: PairedDifference(*(float(figure) for figure in figures))
            for name, *figures in zip(self.metrics, observed, low, high, p_value, strict=True)
        }


def joint_bootstrap(
    label: ArrayLike,
    scores: ArrayLike,
    *,
    rng: np.random.Generator,
    metrics: Sequence[str] = (*AT_THRESHOLD, *OF_RANKING),
    thresholds: ArrayLike = 0.0,
    groups: ArrayLike | None = None,
    n_resamples: int = 2000,
) -> JointBootstrap:
    """Draw patients once for all of several models, any two of which can then be compared.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    scores : (M, N) array-like
        Of M models.
    thresholds : (M,) array-like or float
        Of each model, on its scores.
    rng, metrics, groups, n_resamples
        As in `paired_bootstrap`.

    Returns
    -------
    JointBootstrap

    Raises
    ------
    ValueError
        If one class is absent, or a metric is unknown.
    """
    unknown = set(metrics) - {*AT_THRESHOLD, *OF_RANKING}
    if unknown:
        raise ValueError(f"no paired bootstrap of {', '.join(sorted(unknown))}")
    positive = as_labels(label)
    sampler = PatientSampler.of(positive, groups)
    models = as_scores(scores, len(positive))
    called = list(models >= np.broadcast_to(thresholds, len(models))[:, None])
    ranked = not {*OF_RANKING}.isdisjoint(metrics)
    rankings = [WeightedRanking.of(positive, score) for score in models if ranked]

    def figures_of(weights: FloatArray) -> FloatArray:
        """(R, M, metrics) figures under rows of record weights."""
        found = [
            {name: getattr(calls, name) for name in AT_THRESHOLD}
            for calls in weighted_calls(weights, positive, called)
        ]
        for model, ranking in zip(found, rankings, strict=ranked):
            model |= ranking.figures(weights)
        return np.array([[model[name] for name in metrics] for model in found]).transpose(2, 0, 1)

    chunks = chunk_sizes(n_resamples, len(positive))
    return JointBootstrap(
        metrics=tuple(metrics),
        figures=figures_of(np.ones((1, len(positive))))[0],
        draws=np.concatenate([figures_of(sampler.draw_weights(rng, size)) for size in chunks]),
    )


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
    one, other = (as_scores(scores, len(as_labels(label))) for scores in (first, second))
    cut, other_cut = thresholds
    drawn = joint_bootstrap(
        label,
        np.stack([one, other]),
        rng=rng,
        metrics=metrics,
        thresholds=[cut, other_cut],
        groups=groups,
        n_resamples=n_resamples,
    )
    return drawn.compare(0, 1, confidence=confidence)
