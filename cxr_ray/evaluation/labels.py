"""The one check that every function of this package makes of its labels."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def as_labels(label: ArrayLike) -> BoolArray:
    """Return binary labels as booleans.

    Parameters
    ----------
    label : (N,) or (R, N) array-like of 0/1 or bool

    Returns
    -------
    array of bool, same shape

    Raises
    ------
    ValueError
        If there is no label, or a value other than 0 and 1.

    Examples
    --------
    >>> as_labels([0, 1, 1]).tolist()
    [False, True, True]
    """
    values = np.asarray(label)
    if values.size == 0:
        raise ValueError("label is empty: at least one record is needed")
    if values.dtype != bool and not np.isin(values, (0, 1)).all():
        raise ValueError("label holds values other than 0 and 1")
    return values.astype(bool)


def as_scores(score: ArrayLike, size: int) -> FloatArray:
    """Return scores of `size` records as float64.

    Infinite scores are ranked like any other; NaN has no rank and is refused.

    Parameters
    ----------
    score : (N,) or (R, N) array-like
    size : int
        N, the number of labels.

    Returns
    -------
    array of float64, same shape

    Raises
    ------
    ValueError
        If the last axis is not `size` long, or a score is NaN.
    """
    values = np.asarray(score, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] != size:
        raise ValueError(f"scores of shape {values.shape} do not match {size} labels")
    if np.isnan(values).any():
        raise ValueError("scores hold NaN, which cannot be ranked")
    return values
