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
    several times cheaper than ranking all N.

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
    hits, others = _sort_rows(rows, positive), _sort_rows(rows, ~positive)
    positives, negatives = (
        np.broadcast_to(np.count_nonzero(each, axis=-1), len(rows))[:, None]
        for each in (positive, ~positive)
    )
    below, up_to = np.empty((2, *hits.shape), dtype=np.int64)
    for row, (own, rest) in enumerate(zip(hits, others, strict=True)):
        below[row] = up_to[row] = rest.searchsorted(own)
        if len(rest) and (rest.take(below[row], mode="clip") == own).any():
            up_to[row] = rest.searchsorted(own, side="right")
    place = np.arange(hits.shape[1])
    is_first = np.diff(hits, axis=1, prepend=np.nan) != 0  # of a run of ties
    true_positives = positives - np.maximum.accumulate(np.where(is_first, place, 0), axis=1)
    precision = true_positives / np.maximum(true_positives + negatives - below, 1)
    is_hit = place < positives
    with np.errstate(invalid="ignore"):  # a class is absent
        area = (below + up_to).sum(axis=1, where=is_hit) / (2 * positives * negatives)[:, 0]
        mean = precision.sum(axis=1, where=is_hit) / positives[:, 0]
    both = (positives * negatives)[:, 0] > 0
    return np.where(both, area, np.nan), np.where(both, mean, np.nan)


def _sort_rows(rows: FloatArray, chosen: BoolArray) -> FloatArray:
    """Sort what is chosen of each row; shorter rows end with NaN, which no score is."""
    if chosen.ndim == 1:
        kept = rows.take(np.flatnonzero(chosen), axis=1)
    else:
        counts = np.count_nonzero(chosen, axis=1)[:, None]
        kept = np.full((len(rows), counts.max()), np.nan)
        kept[np.arange(kept.shape[1]) < counts] = rows[chosen]
    kept.sort(axis=1)
    return kept
