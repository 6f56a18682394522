"""The interval of a proportion."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm


@dataclass(frozen=True)
class Interval:
    """A confidence interval and how it was made.

    Attributes
    ----------
    low, high : float
        NaN where there is none; `method` then says why.
    method : str
    """

    low: float
    high: float
    method: str


def wilson_interval(successes: float, total: float, *, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson 1927).

    It stays between 0 and 1 and has a width for none and for all, unlike the bootstrap.

    Parameters
    ----------
    successes : float
        Usually a count; printed shares may stand for one that is not whole.
    total : float
        Effective numbers of dependent trials need not be whole.
    confidence : float

    Returns
    -------
    Interval
        NaN for no trials.

    Examples
    --------
    >>> interval = wilson_interval(48, 50)
    >>> round(interval.low, 4), round(interval.high, 4)
    (0.8654, 0.989)
    >>> wilson_interval(0, 20).low
    0.0
    """
    if total <= 0:
        return Interval(np.nan, np.nan, "none: no records")
    share = successes / total
    spread = norm.ppf((1 + confidence) / 2) ** 2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = np.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    # rounding must not leave the proportion itself outside
    return Interval(
        low=float(min(max(middle - half, 0.0), share)) if share > 0 else 0.0,
        high=float(max(min(middle + half, 1.0), share)) if share < 1 else 1.0,
        method="wilson",
    )
