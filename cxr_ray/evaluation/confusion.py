"""The confusion matrix at a threshold, and what is read from it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxr_ray.evaluation.labels import FloatArray, as_labels, as_scores

ROW_CHUNK = 4_000_000  # scores compared at a time, about 4 MB of booleans


@dataclass(frozen=True)
class Confusion:
    """Counts of the four outcomes, one entry per row of scores.

    A figure about a class that is absent is NaN. With no predicted positive, precision is 0 by
    convention, and so is MCC wherever a margin of the table is empty (as in scikit-learn).

    Attributes
    ----------
    true_positive, false_positive, false_negative, true_negative : (R,) arrays
        Numbers of records, or their sums of weights.

    Examples
    --------
    >>> one = Confusion(*(np.array([count]) for count in (8, 2, 4, 86)))
    >>> one.precision.item(), round(one.recall.item(), 4), round(one.f1.item(), 4)
    (0.8, 0.6667, 0.7273)
    """

    true_positive: NDArray
    false_positive: NDArray
    false_negative: NDArray
    true_negative: NDArray

    @property
    def positive(self) -> NDArray:
        """Number of positive records."""
        return self.true_positive + self.false_negative

    @property
    def negative(self) -> NDArray:
        """Number of negative records."""
        return self.true_negative + self.false_positive

    @property
    def predicted_positive(self) -> NDArray:
        """Number of records called positive."""
        return self.true_positive + self.false_positive

    @property
    def accuracy(self) -> FloatArray:
        """Share of records called right."""
        return _ratio(self.true_positive + self.true_negative, self.positive + self.negative)

    @property
    def precision(self) -> FloatArray:
        """Share of right calls among the called positive; 0 where none is called."""
        return _ratio(self.true_positive, self.predicted_positive, empty=0.0)

    @property
    def recall(self) -> FloatArray:
        """Share of the positives called positive: sensitivity."""
        return _ratio(self.true_positive, self.positive)

    @property
    def specificity(self) -> FloatArray:
        """Share of the negatives called negative."""
        return _ratio(self.true_negative, self.negative)

    @property
    def f1(self) -> FloatArray:
        """``2 TP / (2 TP + FP + FN)``, the harmonic mean of precision and recall."""
        doubled = 2 * self.true_positive
        value = _ratio(doubled, doubled + self.false_positive + self.false_negative)
        return np.where(self.positive > 0, value, np.nan)

    @property
    def balanced_accuracy(self) -> FloatArray:
        """Mean of recall and specificity."""
        return (self.recall + self.specificity) / 2

    @property
    def mcc(self) -> FloatArray:
        """Matthews correlation coefficient (Matthews 1975); 0 where a margin is empty."""
        numerator = (
            np.asarray(self.true_positive, float) * self.true_negative
            - np.asarray(self.false_positive, float) * self.false_negative
        )
        margins = np.sqrt(
            np.asarray(self.predicted_positive, float)
            * (self.true_negative + self.false_negative)
            * self.positive
            * self.negative
        )
        return _ratio(numerator, margins, empty=0.0)


def confusion_rows(label: ArrayLike, scores: ArrayLike, threshold: float) -> Confusion:
    """Count the outcomes of each row; a record is called positive where score >= threshold.

    Parameters
    ----------
    label : (N,) or (R, N) array-like of 0/1
    scores : (R, N) array-like
    threshold : float
        On the scale of `scores`.

    Returns
    -------
    Confusion
        With (R,) arrays of int64.

    Examples
    --------
    >>> confusion_rows([0, 1, 1], [[0.2, 0.7, 0.4], [0.9, 0.9, 0.9]], 0.5).recall.tolist()
    [0.5, 1.0]
    """
    positive = as_labels(label)
    rows = as_scores(scores, positive.shape[-1])
    if rows.ndim != 2:
        raise ValueError(f"scores of shape {rows.shape} are not rows (R, N)")
    hits = np.empty(len(rows), dtype=np.int64)
    called = np.empty(len(rows), dtype=np.int64)
    step = max(1, ROW_CHUNK // rows.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        predicted = rows[part] >= threshold
        own = positive if positive.ndim == 1 else positive[part]
        called[part] = np.count_nonzero(predicted, axis=1)
        hits[part] = np.count_nonzero(predicted & own, axis=1)
    positives = np.broadcast_to(np.count_nonzero(positive, axis=-1), hits.shape)
    false_positive = called - hits
    return Confusion(
        true_positive=hits,
        false_positive=false_positive,
        false_negative=positives - hits,
        true_negative=rows.shape[1] - positives - false_positive,
    )


def _ratio(numerator: NDArray, denominator: NDArray, empty: float = np.nan) -> FloatArray:
    filled = np.asarray(denominator) > 0
    return np.where(filled, numerator / np.where(filled, denominator, 1), empty)
