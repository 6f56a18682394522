"""A model's figures in each subgroup of the patients, and the gaps between subgroups.

Subgroups of one model's test set hold different patients: `cxr_ray.evaluation.unpaired` compares
them.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.delong import auroc_interval
from cxr_ray.evaluation.labels import BoolArray, FloatArray, as_labels, as_scores
from cxr_ray.evaluation.proportions import Interval
from cxr_ray.evaluation.unpaired import (
    Gap,
    independent_auroc_gap,
    independent_proportion_gap,
    no_gap,
    proportion_interval,
)

FEWEST = 10
"""Patients of each class that a subgroup needs for a claim about it."""
UNKNOWN = "unknown"
METRICS = ("auroc", "sensitivity", "specificity")


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
                gap = no_gap("none: unknown" if name == UNKNOWN else "none: too few")
            elif name == reference:
                gap = no_gap("none: reference")
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


def _order(name: str) -> tuple[bool, bool, bool, float, str]:
    number = re.match(r"(<|>=)?(-?\d+(\.\d+)?)", name)
    return (
        name == UNKNOWN,
        name.startswith(">="),
        not name.startswith("<"),
        float(number[2]) if number else 0.0,
        name,
    )
