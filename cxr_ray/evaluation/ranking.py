"""AUROC and average precision, for one set of scores or for many at once."""

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.labels import BoolArray, FloatArray, as_labels, as_scores


def auroc(label: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve: the Mann-Whitney statistic, ties counted as one half.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    score : (N,) array-like
        Logits or probabilities: only the order matters. Prefer logits, since probabilities
        near 1 run into each other.

    Returns
    -------
    float
        NaN where one class is absent.

    Notes
    -----
    Hanley & McNeil 1982; equal to the mid-rank form
    ``(sum of the positives' mid-ranks - P (P + 1) / 2) / (P M)`` of P positives and M negatives.

    Examples
    --------
    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
    0.875
    >>> auroc([1, 1], [0.2, 0.3])
    nan
    """
    return float(auroc_rows(label, np.asarray(score)[None])[0])


def average_precision(label: ArrayLike, score: ArrayLike) -> float:
    """Average precision ``sum_k (R_k - R_{k-1}) P_k`` over the distinct scores.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    score : (N,) array-like

    Returns
    -------
    float
        NaN where one class is absent (scikit-learn warns and answers 0 or 1).

    Notes
    -----
    The step-wise form of `sklearn.metrics.average_precision_score`: no interpolation. Tied
    positives share their threshold, so the sum is the positives' mean precision at their own score.

    Examples
    --------
    >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
    0.8333
    """
    return float(average_precision_rows(label, np.asarray(score)[None])[0])


def auroc_rows(label: ArrayLike, scores: ArrayLike) -> FloatArray:
    """AUROC of each row of `scores`; see `auroc`.

    Parameters
    ----------
    label : (N,) or (R, N) array-like of 0/1
    scores : (R, N) array-like

    Returns
    -------
    (R,) array of float64

    Examples
    --------
    >>> auroc_rows([0, 1, 1], [[1, 2, 3], [3, 2, 1], [0, 0, 0]]).tolist()
    [1.0, 0.0, 0.5]
    """
    return ranking_rows(label, scores)[0]


def average_precision_rows(label: ArrayLike, scores: ArrayLike) -> FloatArray:
    """Average precision of each row of `scores`; see `average_precision`.

    Parameters
    ----------
    label : (N,) or (R, N) array-like of 0/1
    scores : (R, N) array-like

    Returns
    -------
    (R,) array of float64
    """
    return ranking_rows(label, scores)[1]


def ranking_rows(label: ArrayLike, scores: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """AUROC and average precision of each row, from one sort.

    Each class is sorted by itself and the positives are looked up among the negatives, which is
    several times cheaper than ranking all N. One row is worked on at a time, so that memory
    beyond the scores is O(N).

    Parameters
    ----------
    label : (N,) or (R, N) array-like of 0/1
    scores : (R, N) array-like

    Returns
    -------
    auroc, average_precision : (R,) arrays of float64
        NaN in rows where one class is absent.
    """
    positive = as_labels(label)
    rows = as_scores(scores, positive.shape[-1])
    if rows.ndim != 2:
        raise ValueError(f"scores of shape {rows.shape} are not rows (R, N)")
    areas = np.empty(len(rows))
    precisions = np.empty(len(rows))
    for row, values in enumerate(rows):
        own = positive if positive.ndim == 1 else positive[row]
        areas[row], precisions[row] = _rank_positives(own, values)
    return areas, precisions


def _rank_positives(positive: BoolArray, score: FloatArray) -> tuple[float, float]:
    hits = np.sort(score[positive])
    others = np.sort(score[~positive])
    if not len(hits) or not len(others):
        return np.nan, np.nan
    below = np.searchsorted(others, hits, side="left")
    up_to = np.searchsorted(others, hits, side="right")
    area = (below.sum() + up_to.sum()) / (2 * len(hits) * len(others))
    true_positives = len(hits) - np.searchsorted(hits, hits, side="left")
    false_positives = len(others) - below
    return float(area), float(np.mean(true_positives / (true_positives + false_positives)))
