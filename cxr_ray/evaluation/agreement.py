"""How far two raters agree on categories."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from cxr_ray.evaluation.proportions import wilson_interval

LARGE_SAMPLE = "large sample (Fleiss, Cohen & Everitt 1969)"
COMPLETE = "Wilson's interval of the agreement, which is complete"
ONE_CATEGORY = "none: both raters name one category only"


@dataclass(frozen=True)
class Agreement:
    """Cohen's kappa of a table.

    Attributes
    ----------
    n : int
        Number of subjects.
    observed : float
        Share on which both raters agree; NaN where there is no subject.
    kappa : float
        Agreement beyond chance: 1 is complete, 0 what chance gives. NaN where chance alone agrees.
    low, high : float
        95 % interval.
    method : str
        How the interval was made, or why there is none.
    """

    n: int
    observed: float
    kappa: float
    low: float
    high: float
    method: str


def cohen_kappa(table: ArrayLike, *, confidence: float = 0.95) -> Agreement:
    """Compute Cohen's unweighted kappa with its interval (Cohen 1960).

    Parameters
    ----------
    table : (K, K) array-like of int
        Number of subjects that the first rater put in the row's and the second in the column's
        category.
    confidence : float

    Returns
    -------
    Agreement

    Raises
    ------
    ValueError
        If the table is not square.

    Notes
    -----
    The standard error is that of Fleiss, Cohen & Everitt 1969 (Psychological Bulletin 72:323,
    eq. 13). It is 0 under complete agreement, where the lower bound is that of Wilson's interval
    of the observed agreement, chance's share as observed.

    Examples
    --------
    >>> found = cohen_kappa([[20, 5], [10, 15]])
    >>> round(found.kappa, 2), round(found.observed, 2)
    (0.4, 0.7)
    """
    counts = np.asarray(table, dtype=float)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"a table of agreement is square, not of shape {counts.shape}")
    n = int(counts.sum())
    share = counts / max(n, 1)
    first, second = share.sum(axis=1), share.sum(axis=0)
    observed, chance = float(np.trace(share)), float(first @ second)
    if n == 0 or np.isclose(chance, 1):
        nan = float("nan")
        return Agreement(n, observed if n else nan, nan, nan, nan, ONE_CATEGORY)
    kappa = (observed - chance) / (1 - chance)
    if observed == 1:
        low = (wilson_interval(n, n, confidence=confidence).low - chance) / (1 - chance)
        return Agreement(n, observed, kappa, float(low), 1.0, COMPLETE)
    on_diagonal = np.diag(share) @ ((1 - chance) - (first + second) * (1 - observed)) ** 2
    # p_ij (p_.i + p_j.)^2 over i != j
    weights = (second[:, None] + first[None, :]) ** 2
    off_diagonal = (share * weights).sum() - np.diag(share) @ np.diag(weights)
    variance = (
        on_diagonal
        + (1 - observed) ** 2 * off_diagonal
        - (observed * chance - 2 * chance + observed) ** 2
    ) / (n * (1 - chance) ** 4)
    half = float(norm.ppf((1 + confidence) / 2)) * float(np.sqrt(max(variance, 0.0)))
    return Agreement(
        n, observed, kappa, max(kappa - half, -1.0), min(kappa + half, 1.0), LARGE_SAMPLE
    )
