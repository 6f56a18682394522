"""A model's figures in each subgroup of the patients, and the gaps between subgroups.

Subgroups of one model's test set hold different patients: their figures are independent, and
compared as such, not by the paired tests of `cxr_ray.evaluation.delong`.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from cxr_ray.evaluation.delong import auroc_covariance, auroc_interval
from cxr_ray.evaluation.labels import BoolArray, FloatArray, as_labels, as_scores
from cxr_ray.evaluation.proportions import Interval, wilson_interval

FEWEST = 10
"""Patients of each class that a subgroup needs for a claim about it."""
UNKNOWN = "unknown"
METRICS = ("auroc", "sensitivity", "specificity")


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


@dataclass(frozen=True)
class SubgroupFigure:
    """One figure of one subgroup, and how far it is from the reference's.

    Attributes
    ----------
    level : str
        The subgroup's name.
    n, n_positive : int
        Its records.
    patients, with_positives, with_negatives : int
        All its patients, and those with records of each class.
    metric : str
        Of `METRICS`; sensitivity and specificity are at the given threshold.
    value : float
        NaN where no record counts for it.
    interval : Interval
    reference : str or None
        The level that it is compared with; None where no level can be one.
    gap : Gap
        This level minus the reference.
    """

    level: str
    n: int
    n_positive: int
    patients: int
    with_positives: int
    with_negatives: int
    metric: str
    value: float
    interval: Interval
    reference: str | None
    gap: Gap

    @property
    def too_few(self) -> bool:
        """Whether either class has fewer than `FEWEST` patients: no claim then."""
        return min(self.with_positives, self.with_negatives) < FEWEST


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
        return _no_gap("none: one class only")
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


def subgroup_figures(
    label: ArrayLike,
    score: ArrayLike,
    level: ArrayLike,
    *,
    threshold: float,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
) -> list[SubgroupFigure]:
    """Score a model in each subgroup, and compare each with the largest.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    score : (N,) array-like
    level : (N,) array-like of str
        The subgroup of each record; `UNKNOWN` is scored and never compared.
    threshold : float
        A record is called positive where score >= threshold. It is taken as given: choose it on
        other records, all subgroups together.
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several.
    confidence : float

    Returns
    -------
    list of SubgroupFigure
        By level, bands (``<40``, ``40-59``, ``>=60``) in the order of their numbers and other names
        in that of the alphabet, the unknown last; and by metric in the order of `METRICS`.

    Notes
    -----
    The reference is the level of most records among those with `FEWEST` patients in each class.
    P-values are not corrected: the caller knows how many figures it looks at.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> label, level = np.tile([0, 1], 300), np.repeat(["f", "m", "m"], 200)
    >>> score = rng.normal(size=600) + label * np.where(level == "f", 0.5, 2.0)
    >>> first = subgroup_figures(label, score, level, threshold=1.0)[0]
    >>> first.level, first.metric, first.reference, first.gap.high < 0
    ('f', 'auroc', 'm', True)
    """
    positive = as_labels(label)
    scores = as_scores(score, len(positive))
    levels = np.asarray(level).astype(str)
    owner = np.arange(len(positive)) if groups is None else np.asarray(groups)
    parts = {
        name: _Part.of(positive[rows], scores[rows], owner[rows], threshold)
        for name in sorted(set(levels.tolist()), key=_order)
        for rows in [levels == name]
    }
    fit = [name for name, part in parts.items() if name != UNKNOWN and part.is_enough]
    reference = max(fit, key=lambda name: len(parts[name].positive), default=None)
    found = []
    for name, part in parts.items():
        for metric in METRICS:
            value, interval = part.figure(metric, confidence)
            if reference is None or name not in fit:
                gap = _no_gap("none: unknown" if name == UNKNOWN else "none: too few")
            elif name == reference:
                gap = _no_gap("none: reference")
            else:
                gap = part.gap(parts[reference], metric, confidence)
            found.append(
                SubgroupFigure(
                    level=name,
                    n=len(part.positive),
                    n_positive=int(part.positive.sum()),
                    patients=len(np.unique(part.owner)),
                    with_positives=part.with_positives,
                    with_negatives=part.with_negatives,
                    metric=metric,
                    value=value,
                    interval=interval,
                    reference=reference,
                    gap=gap,
                )
            )
    return found


@dataclass(frozen=True)
class _Part:
    """The records of one subgroup; `called` tells which reach the threshold."""

    positive: BoolArray
    score: FloatArray
    called: BoolArray
    owner: np.ndarray

    @classmethod
    def of(
        cls, positive: BoolArray, score: FloatArray, owner: np.ndarray, threshold: float
    ) -> "_Part":
        return cls(positive, score, score >= threshold, owner)

    @property
    def with_positives(self) -> int:
        return len(np.unique(self.owner[self.positive]))

    @property
    def with_negatives(self) -> int:
        return len(np.unique(self.owner[~self.positive]))

    @property
    def is_enough(self) -> bool:
        return min(self.with_positives, self.with_negatives) >= FEWEST

    def right(self, metric: str) -> tuple[BoolArray, np.ndarray]:
        """Whether each record of the metric's class is called right, and its patient."""
        rows = self.positive if metric == "sensitivity" else ~self.positive
        return (self.called == self.positive)[rows], self.owner[rows]

    def figure(self, metric: str, confidence: float) -> tuple[float, Interval]:
        if metric == "auroc":
            area = auroc_interval(
                self.positive, self.score, groups=self.owner, confidence=confidence
            )
            return area.auroc, Interval(area.low, area.high, area.method)
        right, owner = self.right(metric)
        value = float(right.mean()) if len(right) else np.nan
        return value, proportion_interval(right, groups=owner, confidence=confidence)

    def gap(self, other: "_Part", metric: str, confidence: float) -> Gap:
        if metric == "auroc":
            return independent_auroc_gap(
                self.positive,
                self.score,
                other.positive,
                other.score,
                groups=self.owner,
                other_groups=other.owner,
                confidence=confidence,
            )
        (right, owner), (other_right, other_owner) = self.right(metric), other.right(metric)
        return independent_proportion_gap(
            right, other_right, groups=owner, other_groups=other_owner, confidence=confidence
        )


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


def _order(name: str) -> tuple[bool, bool, bool, float, str]:
    number = re.match(r"(<|>=)?(-?\d+(\.\d+)?)", name)
    return (
        name == UNKNOWN,
        name.startswith(">="),
        not name.startswith("<"),
        float(number[2]) if number else 0.0,
        name,
    )


def _no_gap(why: str) -> Gap:
    return Gap(np.nan, np.nan, np.nan, np.nan, why)
