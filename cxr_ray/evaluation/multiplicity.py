"""Several comparisons at once."""

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.labels import FloatArray


def holm(p_values: ArrayLike, *, family_size: int | None = None) -> FloatArray:
    """Adjust p-values for a family of comparisons (Holm 1979).

    Controls the chance of any false rejection, whatever the dependence between the tests.

    Parameters
    ----------
    p_values : (K,) array-like
        NaN, a comparison that could not be made, stays NaN and still counts as a member.
    family_size : int, optional
        Number of comparisons that were declared, where fewer were made; K by default.

    Returns
    -------
    (K,) array of float64
        Reject where the adjusted value is at most the level.

    Raises
    ------
    ValueError
        If the family is smaller than the number of p-values.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).round(6).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    size = len(values) if family_size is None else family_size
    if size < len(values):
        raise ValueError(f"a family of {size} cannot hold {len(values)} p-values")
    order = np.argsort(values, kind="stable")  # NaN sorts last
    factors = size - np.arange(len(values))
    stepped = np.minimum(1.0, np.maximum.accumulate(factors * values[order]))
    adjusted = np.empty_like(values)
    adjusted[order] = stepped
    return adjusted
