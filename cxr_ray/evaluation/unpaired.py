"""Comparing the figures of different patients, such as those of two subgroups.

They are independent, and compared as such, not by the paired tests of `cxr_ray.evaluation.delong`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from cxr_ray.evaluation.delong import auroc_covariance
from cxr_ray.evaluation.labels import as_labels
from cxr_ray.evaluation.proportions import Interval, wilson_interval


@dataclass(frozen=True)
class Gap:
    """A figure of one set of patients minus that of another set.

    Attributes
    ----------
    difference, low, high, p_value : float
        The test is two-sided. NaN where there is no comparison; `method` then says why.
    method : str
    """

    difference: float
    low: float
    high: float
    p_value: float
    method: str


def no_gap(why: str) -> Gap:
    """Say why there is no comparison."""
    return Gap(np.nan, np.nan, np.nan, np.nan, why)


def independent_auroc_gap(
    label: ArrayLike,
    score: ArrayLike,
    other_label: ArrayLike,
    other_score: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    other_groups: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Gap:
    """Compare the AUROCs of two sets of different patients.

    Parameters
    ----------
    label, other_label : (N,) and (M,) array-like of 0/1
    score, other_score : (N,) and (M,) array-like
    groups, other_groups : (N,) and (M,) array-like, optional
        The patient of each record, where a patient has several.
    confidence : float

    Returns
    -------
    Gap
        First minus other. NaN where either lacks a class.

    Notes
    -----
    ``z = (A_1 - A_2) / sqrt(V_1 + V_2)`` with the variances of DeLong, DeLong & Clarke-Pearson
    1988, or Obuchowski 1997 where patients repeat. Where a variance is 0 (perfect separation) or
    undefined, it is bounded by ``A (1 - A) / n``, n the patients of the smaller class (Birnbaum &
    Klose 1957), after two successes and two failures are added. A patient in both sets makes
    their figures positively related, and the test conservative.

    Examples
    --------
    >>> gap = independent_auroc_gap(
    ...     [0, 0, 0, 0, 1, 1, 1, 1], [1, 2, 3, 5, 4, 6, 7, 8],
    ...     [0, 0, 0, 0, 1, 1, 1, 1], [5, 1, 6, 2, 4, 3, 8, 7],
    ... )
    >>> round(gap.difference, 4), round(gap.p_value, 4), gap.method
    (0.1875, 0.3993, 'delong_unpaired')
    """
    first, variance, exact = _auroc_variance(label, score, groups)
    second, other_variance, other_exact = _auroc_variance(other_label, other_score, other_groups)
    if np.isnan(first) or np.isnan(second):
        return no_gap("none: one class only")
    error = float(np.sqrt(variance + other_variance))
    half = float(norm.ppf((1 + confidence) / 2)) * error
    difference = first - second
    return Gap(
        difference=difference,
        low=max(difference - half, -1.0),
        high=min(difference + half, 1.0),
        p_value=float(2 * norm.sf(abs(difference) / error)),
        method="delong_unpaired" if exact and other_exact else "bound_unpaired",
    )


def independent_proportion_gap(
    hit: ArrayLike,
    other_hit: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    other_groups: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Gap:
    """Compare two proportions of different patients.

    Parameters
    ----------
    hit, other_hit : (N,) and (M,) array-like of 0/1
    groups, other_groups : (N,) and (M,) array-like, optional
        The patient of each record, where a patient has several.
    confidence : float

    Returns
    -------
    Gap
        First minus other.

    Notes
    -----
    The interval is the score interval without continuity correction (Newcombe 1998, Statist.
    Med. 17:873, method 10), the p-value that of the score test (Pearson's chi-squared without
    correction). Where patients repeat, counts are first divided by the design effect (Rao & Scott
    1992), as in `proportion_interval`.

    Examples
    --------
    >>> gap = independent_proportion_gap([1] * 56 + [0] * 14, [1] * 48 + [0] * 32)
    >>> round(gap.low, 4), round(gap.high, 4)
    (0.0524, 0.3339)
    """
    one, size = _effective(hit, groups)
    two, other_size = _effective(other_hit, other_groups)
    bounds = wilson_interval(one * size, size, confidence=confidence)
    other = wilson_interval(two * other_size, other_size, confidence=confidence)
    difference = one - two
    pooled = (one * size + two * other_size) / (size + other_size)
    error = np.sqrt(pooled * (1 - pooled) * (1 / size + 1 / other_size))
    return Gap(
        difference=difference,
        low=float(difference - np.hypot(one - bounds.low, other.high - two)),
        high=float(difference + np.hypot(bounds.high - one, two - other.low)),
        p_value=float(2 * norm.sf(abs(difference) / error)) if error > 0 else 1.0,
        method=f"newcombe{_clustered(groups, other_groups)}",
    )


def proportion_interval(
    hit: ArrayLike, *, groups: ArrayLike | None = None, confidence: float = 0.95
) -> Interval:
    """Wilson's interval of a proportion, of fewer effective records where patients repeat.

    Parameters
    ----------
    hit : (N,) array-like of 0/1
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several.
    confidence : float

    Returns
    -------
    Interval

    Notes
    -----
    The number of records is divided by the design effect: the variance between patients of the
    ratio estimator over the binomial one (Rao & Scott 1992; Korn & Graubard 1998), never below 1.
    With none or all hit it cannot be estimated, and every patient counts once.

    Examples
    --------
    >>> interval = proportion_interval([1, 1, 0, 0] * 5, groups=np.repeat(range(10), 2))
    >>> round(interval.low, 4), round(interval.high, 4), interval.method
    (0.2265, 0.7735, 'wilson_clustered')
    """
    if not np.size(hit):
        return Interval(np.nan, np.nan, "none: no records")
    share, size = _effective(hit, groups)
    found = wilson_interval(share * size, size, confidence=confidence)
    return Interval(found.low, found.high, f"wilson{_clustered(groups)}")


def _auroc_variance(
    label: ArrayLike, score: ArrayLike, groups: ArrayLike | None
) -> tuple[float, float, bool]:
    """AUROC, its variance or a bound of it, and whether it is the variance."""
    areas, covariance = auroc_covariance(label, np.asarray(score)[None], groups=groups)
    area, variance = float(areas[0]), float(covariance[0, 0])
    if np.isnan(area) or variance > 1e-18:
        return area, variance, True
    positive = as_labels(label)
    owner = np.arange(len(positive)) if groups is None else np.asarray(groups)
    size = min(len(np.unique(owner[positive])), len(np.unique(owner[~positive])))
    shrunk = (area * size + 2) / (size + 4)
    return area, shrunk * (1 - shrunk) / (size + 4), False


def _effective(hit: ArrayLike, groups: ArrayLike | None) -> tuple[float, float]:
    """Share of hits, and how many independent records say as much about it."""
    hits = as_labels(hit)
    share, size = float(hits.mean()), float(len(hits))
    if not _clustered(groups):
        return share, size
    block = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    patients = int(block.max()) + 1
    if patients < 2 or not 0 < share < 1:
        return share, float(patients)
    residuals = np.bincount(block, weights=hits - share)
    variance = patients / (patients - 1) * float(residuals @ residuals) / size**2
    return share, min(size, share * (1 - share) / variance) if variance > 0 else size


def _clustered(*groups: ArrayLike | None) -> str:
    repeated = any(
        each is not None and len(np.unique(np.asarray(each))) < np.size(each) for each in groups
    )
    return "_clustered" if repeated else ""
