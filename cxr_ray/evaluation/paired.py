"""Paired bootstrap of two models' figures on the same patients."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.confusion import Confusion
from cxr_ray.evaluation.labels import BoolArray, FloatArray, IntArray, as_labels, as_scores
from cxr_ray.evaluation.resampling import PatientSampler, chunk_sizes

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
    models = [
        _Model.of(positive, as_scores(score, len(positive)), threshold)
        for score, threshold in zip((first, second), thresholds, strict=True)
    ]

    def differences(weights: FloatArray) -> FloatArray:
        """(R, metrics) differences under rows of record weights."""
        one, other = (model.figures(weights, metrics) for model in models)
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


@dataclass(frozen=True)
class _Model:
    """One model's records, sorted and called once, whatever their weights are then.

    ``end`` are the last places, in the order of falling scores, of the runs that the figures of
    the ranking need: a run of tied scores with a positive record, or what lies between two such.
    ``positives_until`` counts the positive records up to there.
    """

    positive: BoolArray
    called: BoolArray
    order: IntArray
    positives_in_order: IntArray
    end: IntArray
    positives_until: IntArray

    @classmethod
    def of(cls, positive: BoolArray, score: FloatArray, threshold: float) -> "_Model":
        order = np.argsort(-score, kind="stable")
        hits = positive[order]
        last = np.append(np.flatnonzero(score[order][1:] != score[order][:-1]), len(order) - 1)
        until = np.cumsum(hits)[last]
        with_hit = np.diff(until, prepend=0) > 0
        # neighbouring runs without a positive record are one run to both figures
        needed = with_hit | np.append(with_hit[1:], True)
        return cls(positive, score >= threshold, order, order[hits], last[needed], until[needed])

    def figures(self, weights: FloatArray, metrics: Sequence[str]) -> dict[str, FloatArray]:
        """Score each row of (R, N) weights."""
        outcomes = np.column_stack(
            [
                self.positive & self.called,
                ~self.positive & self.called,
                self.positive & ~self.called,
                ~self.positive & ~self.called,
            ]
        ).astype(np.float64)
        counts = Confusion(*(weights @ outcomes).T)
        found = {name: getattr(counts, name) for name in AT_THRESHOLD if name in metrics}
        if set(OF_RANKING) & set(metrics):
            found |= self._ranking(weights)
        return found

    def _ranking(self, weights: FloatArray) -> dict[str, FloatArray]:
        before = np.zeros((len(weights), 1))
        hits = np.cumsum(weights[:, self.positives_in_order], axis=1)
        true_positive = np.hstack([before, hits])[:, self.positives_until]
        called = np.cumsum(weights[:, self.order], axis=1)[:, self.end]
        false_positive = called - true_positive
        gained = np.diff(true_positive, axis=1, prepend=0.0)
        lost = np.diff(false_positive, axis=1, prepend=0.0)
        positives, negatives = true_positive[:, -1], false_positive[:, -1]
        beaten = negatives[:, None] - false_positive + lost / 2
        precision = true_positive / np.maximum(called, 1e-300)
        return {
            "auroc": np.einsum("rk,rk->r", gained, beaten) / (positives * negatives),
            "average_precision": np.einsum("rk,rk->r", gained, precision) / positives,
        }
