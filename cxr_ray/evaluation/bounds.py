"""Intervals from the figures of bootstrap resamples."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from cxr_ray.evaluation.labels import FloatArray
from cxr_ray.evaluation.proportions import Interval

NO_WIDTH = "none: no resample gives another figure"
DESCRIPTIVE = ", descriptive"


def percentile_interval(
    draws: FloatArray, confidence: float = 0.95, method: str = "bootstrap_percentile"
) -> Interval:
    """Take the central share of the resamples' figures (Efron & Tibshirani 1993, chapter 13).

    Parameters
    ----------
    draws : (R,) array of float64
    confidence : float
    method : str
        What the interval calls itself.

    Returns
    -------
    Interval
        None where all figures are the same: an interval of no width would claim certainty.

    Examples
    --------
    >>> percentile_interval(np.arange(101.0), 0.9).high
    95.0
    """
    if np.ptp(draws) <= 1e-12:
        return Interval(np.nan, np.nan, NO_WIDTH)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, (tail, 1 - tail))
    return Interval(float(low), float(high), method)


def bca_interval(
    draws: FloatArray, figure: float, jackknifed: ArrayLike, confidence: float = 0.95
) -> Interval:
    """Correct percentiles for bias and for an error that grows with the figure (BCa).

    Parameters
    ----------
    draws : (R,) array of float64
    figure : float
        Of the sample.
    jackknifed : (B,) array-like
        The figure without each of B blocks of patients.
    confidence : float

    Returns
    -------
    Interval
        Plain percentiles where the figure lies outside all resamples.

    Notes
    -----
    Efron 1987; Efron & Tibshirani 1993, section 14.3. Blocks of patients in the place of single
    ones leave the acceleration in the limit as it is: the skewness of a block's mean falls as the
    square root of its size, and so does the root of the number of blocks.
    """
    below = (np.count_nonzero(draws < figure) + np.count_nonzero(draws <= figure)) / 2
    share = below / len(draws)
    if np.ptp(draws) <= 1e-12 or not 0 < share < 1:
        return percentile_interval(draws, confidence)
    without = np.asarray(jackknifed, dtype=np.float64)
    away = without.mean() - without
    spread = float((away**2).sum())
    acceleration = float((away**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    bias = ndtri(share)
    z = bias + ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = np.quantile(draws, ndtr(bias + z / (1 - acceleration * z)))
    return Interval(float(low), float(high), "bootstrap_bca")


def shifted_interval(draws: FloatArray, figure: float, confidence: float = 0.95) -> Interval:
    """Take percentiles moved by how far the resamples lie above the sample, but not below 0.

    Parameters
    ----------
    draws : (R,) array of float64
    figure : float
        Of the sample; not negative, like the draws.
    confidence : float

    Returns
    -------
    Interval
        Its method says that it describes and does not promise to hold the truth: the sample's own
        figure is biased, too.
    """
    found = percentile_interval(draws - (draws.mean() - figure), confidence, "bootstrap_shifted")
    if np.isnan(found.low):
        return found
    return Interval(max(found.low, 0.0), max(found.high, 0.0), found.method + DESCRIPTIVE)
