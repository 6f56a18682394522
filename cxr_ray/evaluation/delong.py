"""Standard errors, intervals and paired tests of the AUROC."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, rankdata

from cxr_ray.evaluation.labels import FloatArray, as_labels, as_scores
from cxr_ray.evaluation.proportions import wilson_interval


@dataclass(frozen=True)
class AurocInterval:
    """An AUROC with its interval.

    Attributes
    ----------
    auroc : float
    standard_error : float
        NaN where a class has fewer than two patients.
    low, high : float
    method : str
        ``delong``, ``delong_clustered``, or ``bound`` where there is no variance to use.
    """

    auroc: float
    standard_error: float
    low: float
    high: float
    method: str


@dataclass(frozen=True)
class PairedTest:
    """Two AUROCs of the same records.

    Attributes
    ----------
    difference : float
        First minus second.
    standard_error, z, p_value : float
        Two-sided.
    low, high : float
        Interval of the difference.
    method : str
        As in `AurocInterval`.
    """

    difference: float
    standard_error: float
    z: float
    p_value: float
    low: float
    high: float
    method: str


def auroc_covariance(
    label: ArrayLike, scores: ArrayLike, *, groups: ArrayLike | None = None
) -> tuple[FloatArray, FloatArray]:
    """AUROCs of K scores of the same records, and their covariance.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    scores : (K, N) array-like
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several.

    Returns
    -------
    auroc : (K,) array of float64
    covariance : (K, K) array of float64
        NaN where a class has fewer than two patients.

    Notes
    -----
    DeLong, DeLong & Clarke-Pearson 1988, with the structural components from mid-ranks, hence
    O(K N log N) (Sun & Xu 2014, eq. 5 to 10). With `groups` the components are summed by patient
    before they are squared, and the patients that have both classes add a covariance term
    (Obuchowski 1997); with one record a patient this is DeLong's estimate exactly.

    Examples
    --------
    >>> area, covariance = auroc_covariance([0, 0, 1, 1], [[0.1, 0.4, 0.35, 0.8]])
    >>> area.tolist(), covariance.tolist()
    ([0.75], [[0.125]])
    """
    positive = as_labels(label)
    rows = np.atleast_2d(as_scores(scores, len(positive)))
    hits, others = np.flatnonzero(positive), np.flatnonzero(~positive)
    if not len(hits) or not len(others):
        return np.full(len(rows), np.nan), np.full((len(rows), len(rows)), np.nan)
    whole = rankdata(rows, axis=1)
    # share of the other class that each record is ranked right against
    of_hits = (whole[:, hits] - rankdata(rows[:, hits], axis=1)) / len(others)
    of_others = 1 - (whole[:, others] - rankdata(rows[:, others], axis=1)) / len(hits)
    area = of_hits.mean(axis=1)

    block = np.arange(len(positive))
    if groups is not None:
        block = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    count = int(block.max()) + 1
    from_hits = _sum_by(block[hits], of_hits - area[:, None], count)
    from_others = _sum_by(block[others], of_others - area[:, None], count)
    with_hits, with_others = len(np.unique(block[hits])), len(np.unique(block[others]))
    if with_hits < 2 or with_others < 2:
        return area, np.full((len(rows), len(rows)), np.nan)
    cross = from_hits @ from_others.T
    covariance = (
        with_hits / (with_hits - 1) * (from_hits @ from_hits.T) / len(hits) ** 2
        + with_others / (with_others - 1) * (from_others @ from_others.T) / len(others) ** 2
        + count / (count - 1) * (cross + cross.T) / (len(hits) * len(others))
    )
    return area, covariance


def auroc_interval(
    label: ArrayLike,
    score: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
) -> AurocInterval:
    """Interval of one AUROC on the logit scale, so that it stays between 0 and 1.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    score : (N,) array-like
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several.
    confidence : float

    Returns
    -------
    AurocInterval
        With one class absent every figure is NaN.

    Notes
    -----
    ``logit(A) +- z SE / (A (1 - A))`` (Pepe 2003, section 5.2; Qin & Hotilovac 2008). DeLong's
    variance is 0 with perfect separation or constant scores, and undefined with a single patient
    in a class. But no variance of an AUROC is above ``A (1 - A) / min(P, M)`` (Birnbaum & Klose
    1957), P and M being the patients with positives and with negatives: the interval then is
    Wilson's for a proportion A of min(P, M), which is wide rather than of no width.

    Examples
    --------
    >>> one = auroc_interval([0, 0, 0, 1, 1, 1], [1, 2, 4, 3, 5, 6])
    >>> [round(figure, 4) for figure in (one.auroc, one.standard_error, one.low, one.high)]
    [0.8889, 0.1571, 0.2614, 0.9945]
    >>> perfect = auroc_interval([0, 0, 0, 1, 1, 1], [1, 2, 3, 4, 5, 6])
    >>> round(perfect.low, 4), perfect.high, perfect.method
    (0.4385, 1.0, 'bound')
    """
    areas, covariance = auroc_covariance(label, np.asarray(score)[None], groups=groups)
    area, variance = float(areas[0]), float(covariance[0, 0])
    if np.isnan(area):
        return AurocInterval(np.nan, np.nan, np.nan, np.nan, "none")
    error = float(np.sqrt(max(variance, 0.0))) if not np.isnan(variance) else np.nan
    if not variance > 1e-18 or not 0 < area < 1:
        size = _smaller_class(label, groups)
        bound = wilson_interval(area * size, size, confidence=confidence)
        return AurocInterval(area, error, bound.low, bound.high, "bound")
    z = float(norm.ppf((1 + confidence) / 2))
    middle, half = np.log(area / (1 - area)), z * error / (area * (1 - area))
    low, high = (float(1 / (1 + np.exp(-(middle + side * half)))) for side in (-1, 1))
    return AurocInterval(area, error, low, high, _method(groups))


def delong_test(
    label: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
) -> PairedTest:
    """Test whether two scores of the same records have the same AUROC.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    first, second : (N,) array-like
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several.
    confidence : float

    Returns
    -------
    PairedTest
        Scores that rank alike differ by 0 with p = 1 and an interval of no width. With
        one class absent every figure is NaN.

    Notes
    -----
    DeLong, DeLong & Clarke-Pearson 1988: ``z = (A_1 - A_2) / SE``. Where the AUROCs differ but
    the estimated SE is 0 (perfect separation against constant scores) or undefined, SE is bounded
    from above: each variance by ``A (1 - A) / n``, n = min(P, M) (Birnbaum & Klose 1957), after
    two successes and two failures are added (Agresti & Coull 1998), as if uncorrelated.

    Examples
    --------
    >>> label = [0, 0, 0, 0, 1, 1, 1, 1]
    >>> test = delong_test(label, [1, 2, 3, 5, 4, 6, 7, 8], [5, 1, 6, 2, 4, 3, 8, 7])
    >>> round(test.difference, 4), round(test.p_value, 4)
    (0.1875, 0.3993)
    """
    scores = np.stack([np.asarray(first, dtype=float), np.asarray(second, dtype=float)])
    area, covariance = auroc_covariance(label, scores, groups=groups)
    difference = float(area[0] - area[1])
    if np.isnan(difference):
        return PairedTest(*(np.nan,) * 6, method="none")
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    z_level = float(norm.ppf((1 + confidence) / 2))
    method = _method(groups)
    if not variance > 1e-18:
        if difference == 0 and not np.isnan(variance):
            return PairedTest(0.0, 0.0, 0.0, 1.0, 0.0, 0.0, method)
        size = _smaller_class(label, groups)
        shrunk = (area * size + 2) / (size + 4)
        variance = float((shrunk * (1 - shrunk) / (size + 4)).sum())
        method = "bound"
    error = float(np.sqrt(variance))
    z = difference / error
    return PairedTest(
        difference=difference,
        standard_error=error,
        z=z,
        p_value=float(2 * norm.sf(abs(z))),
        low=difference - z_level * error,
        high=difference + z_level * error,
        method=method,
    )


def _sum_by(block: np.ndarray, values: FloatArray, count: int) -> FloatArray:
    return np.stack([np.bincount(block, weights=row, minlength=count) for row in values])


def _smaller_class(label: ArrayLike, groups: ArrayLike | None) -> int:
    positive = as_labels(label)
    owner = np.arange(len(positive)) if groups is None else np.asarray(groups)
    return min(len(np.unique(owner[positive])), len(np.unique(owner[~positive])))


def _method(groups: ArrayLike | None) -> str:
    plain = groups is None or len(np.unique(np.asarray(groups))) == len(np.asarray(groups))
    return "delong" if plain else "delong_clustered"
