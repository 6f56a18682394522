"""Figures of many bootstrap resamples of the same predictions at once.

A resample is a row of weights: how often each record was drawn. The records are sorted and called
once, and a resample's figures are weighted sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.confusion import Confusion
from cxr_ray.evaluation.labels import BoolArray, FloatArray, IntArray, as_labels, as_scores
from cxr_ray.evaluation.metrics import METRICS

OF_CALLS = ("accuracy", "precision", "recall", "f1", "balanced_accuracy", "mcc", "specificity")
OF_RANKING = ("auroc", "average_precision", "sensitivity_at_95_specificity")
BOOTSTRAPPED = tuple(name for name in METRICS if name != "ece")


@dataclass(frozen=True)
class WeightedRanking:
    """Records in the order of falling scores.

    Attributes
    ----------
    order, positives_in_order : arrays of int
        Records, and those of them that are positive.
    end : (K,) array of int
        The last places in `order` of the runs that the figures of a ranking need: a run of tied
        scores with a positive record, or what lies between two such.
    positives_until : (K,) array of int
        Number of positive records up to there.
    """

    order: IntArray
    positives_in_order: IntArray
    end: IntArray
    positives_until: IntArray

    @classmethod
    def of(cls, label: ArrayLike, score: ArrayLike) -> "WeightedRanking":
        """Sort the records by `score`, (N,) array-like."""
        positive = as_labels(label)
        ranked = as_scores(score, len(positive))
        order = np.argsort(-ranked, kind="stable")
        falling = ranked[order]
        hits = positive[order]
        last = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(order) - 1)
        until = np.cumsum(hits)[last]
        with_hit = np.diff(until, prepend=0) > 0
        # neighbouring runs without a positive record are one run to these figures
        needed = with_hit | np.append(with_hit[1:], True)
        return cls(order, order[hits], last[needed], until[needed])

    def figures(self, weights: FloatArray) -> dict[str, FloatArray]:
        """Score each row of record weights; a row needs weight on both classes.

        Parameters
        ----------
        weights : (R, N) array of float64

        Returns
        -------
        dict of str to (R,) array of float64
            In the order of `OF_RANKING`.
        """
        before = np.zeros((len(weights), 1))
        hits = np.cumsum(np.take(weights, self.positives_in_order, axis=1), axis=1)
        true_positive = np.hstack([before, hits])[:, self.positives_until]
        start = np.concatenate([[0], self.end[:-1] + 1])
        runs = np.add.reduceat(np.take(weights, self.order, axis=1), start, axis=1)
        called = np.cumsum(runs, axis=1)
        false_positive = called - true_positive
        gained = np.diff(true_positive, axis=1, prepend=0.0)
        lost = np.diff(false_positive, axis=1, prepend=0.0)
        positives, negatives = true_positive[:, -1], false_positive[:, -1]
        beaten = negatives[:, None] - false_positive + lost / 2
        precision = true_positive / np.maximum(called, 1e-300)
        allowed = np.floor((1 - 0.95) * negatives + 1e-9)
        within = np.where(false_positive <= allowed[:, None], true_positive, 0.0)
        return {
            "auroc": np.einsum("rk,rk->r", gained, beaten) / (positives * negatives),
            "average_precision": np.einsum("rk,rk->r", gained, precision) / positives,
            "sensitivity_at_95_specificity": within.max(axis=1) / positives,
        }


@dataclass(frozen=True)
class WeightedBins:
    """Records in the order of rising probabilities, for the calibration error.

    Attributes
    ----------
    order : (N,) array of int
    end : (K,) array of int
        The last place in `order` of each run of tied probabilities.
    gap : (N,) array of float64
        Probability minus label, in that order.
    """

    order: IntArray
    end: IntArray
    gap: FloatArray

    @classmethod
    def of(cls, label: ArrayLike, probability: ArrayLike) -> "WeightedBins":
        """Sort the records by `probability`, (N,) array-like."""
        positive = as_labels(label)
        chance = as_scores(probability, len(positive))
        order = np.argsort(chance, kind="stable")
        rising = chance[order]
        end = np.append(np.flatnonzero(rising[1:] != rising[:-1]), len(order) - 1)
        return cls(order, end, rising - positive[order])

    def figures(self, weights: FloatArray, bins: int) -> FloatArray:
        """Measure the expected calibration error of each row, in bins of equal mass.

        Parameters
        ----------
        weights : (R, N) array of float64
            Whole numbers.
        bins : int

        Returns
        -------
        (R,) array of float64
            As `cxr_ray.evaluation.metrics.expected_calibration_error` of the repeated records.
        """
        along = np.take(weights, self.order, axis=1)
        mass = np.cumsum(along, axis=1)[:, self.end]
        gap = np.cumsum(along * self.gap, axis=1)[:, self.end]
        inner = np.arange(1, bins)
        errors = np.empty(len(weights))
        for row, (until, so_far) in enumerate(zip(mass, gap, strict=True)):
            # a run belongs to the bin of its lowest rank
            first = np.searchsorted(until[:-1] * bins, inner * until[-1], side="left")
            bounds = np.concatenate([[0.0], so_far[first], so_far[-1:]])
            errors[row] = np.abs(np.diff(bounds)).sum() / until[-1]
        return errors


def weighted_calls(
    weights: FloatArray, label: BoolArray, called: Sequence[BoolArray]
) -> list[Confusion]:
    """Confusion matrices of each row of record weights.

    Parameters
    ----------
    weights : (R, N) array of float64
    label : (N,) array of bool
    called : sequence of T (N,) arrays of bool
        Which records are called positive, for each of T thresholds.

    Returns
    -------
    list of T Confusion
        With (R,) arrays of float64.
    """
    right = [label & calls for calls in called]
    columns = np.column_stack([*right, *called, label, np.ones(len(label))]).astype(np.float64)
    sums = (weights @ columns).T
    size = len(called)
    hits, calls, (positives, total) = sums[:size], sums[size:-2], sums[-2:]
    return [
        Confusion(one, both - one, positives - one, total - positives - both + one)
        for one, both in zip(hits, calls, strict=True)
    ]


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
    positive = as_labels(label)
    chance = as_scores(probability, len(positive))
    (counts,) = weighted_calls(weights, positive, [chance >= threshold])
    found = {
        "brier": weights @ (chance - positive) ** 2 / weights.sum(axis=1),
        **{name: getattr(counts, name) for name in OF_CALLS},
        **WeightedRanking.of(positive, score).figures(weights),
    }
    return {name: found[name] for name in BOOTSTRAPPED}
