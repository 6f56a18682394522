"""Figures of a cross-validation: read in each fold for itself, then averaged.

Scores of different fits share no scale, so that records of different folds are never ranked
against each other (Forman & Scholz 2010).
"""

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from cxr_ray.evaluation.bounds import percentile_interval, shifted_interval
from cxr_ray.evaluation.intervals import (
    FEW_EVENTS,
    FEW_PATIENTS,
    MARK_FEW_EVENTS,
    STRATIFIED,
    TOO_FEW_PATIENTS,
    ScoredSample,
)
from cxr_ray.evaluation.labels import FloatArray, IntArray
from cxr_ray.evaluation.proportions import Interval
from cxr_ray.evaluation.resampling import PatientSampler, chunk_sizes


@dataclass(frozen=True)
class Folds:
    """Which fit of a cross-validation each entry was tested by.

    An entry is one record in one repeat: with R repeats a record has R entries.

    Attributes
    ----------
    fit : (N,) array of int
        0 to F - 1.
    repeat : (F,) array of int
        The repeat that each fit belongs to.
    """

    fit: IntArray
    repeat: IntArray

    @cached_property
    def places(self) -> list[IntArray]:
        """Entries of each fit."""
        return [np.flatnonzero(self.fit == fit) for fit in range(len(self.repeat))]

    def average(self, of_fit: Callable[[IntArray], FloatArray]) -> FloatArray:
        """Average what ``of_fit(entries)`` gives; NaN where a fit has no such figure is left out.

        Returns
        -------
        array of float64
            Of the shape that `of_fit` gives.
        """
        return mean_defined([of_fit(place) for place in self.places])

    def strata(self, within: NDArray[Any] | None = None) -> IntArray:
        """Give numbers that entries must share to change places: fit, and `within` if given."""
        if within is None:
            return self.fit
        kinds, kind = np.unique(within, return_inverse=True)
        return self.fit * len(kinds) + kind

    def repeat_means(
        self, entries: IntArray, of_places: Callable[[IntArray], FloatArray]
    ) -> FloatArray:
        """Average the figures of some entries, drawn with repetition or not, in each repeat.

        Parameters
        ----------
        entries : (M,) array of int
        of_places : callable
            Gives the figures of the places of one fit's entries among the M.

        Returns
        -------
        (repeats, ...) array of float64
        """
        fit = self.fit[entries]
        found = {each: of_places(np.flatnonzero(fit == each)) for each in np.unique(fit)}
        return np.stack(
            [
                mean_defined([found[each] for each in found if self.repeat[each] == repeat])
                for repeat in np.unique(self.repeat)
            ]
        )


def mean_defined(figures: Sequence[ArrayLike]) -> FloatArray:
    """Mean over the first axis of what is not NaN; NaN where nothing else is there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of means over nothing
        return np.nanmean(np.asarray(figures, dtype=np.float64), axis=0)


def fold_figures(
    samples: Sequence[ScoredSample],
    folds: Folds,
    weights: FloatArray | None = None,
    names: Collection[str] | None = None,
) -> dict[str, FloatArray]:
    """Average the figures of all fits, each on its own fold.

    Parameters
    ----------
    samples : sequence of ScoredSample
        What each fit says of its fold, in the order of ``folds.places``.
    folds : Folds
    weights : (R, N) array of float64, optional
        Rows of entry weights; every entry once by default. A fold that a row gives no weight on
        one of the classes has no part in the means that need both.
    names : collection of str, optional
        Figures; all by default.

    Returns
    -------
    dict of str to (R,) array of float64

    Examples
    --------
    >>> folds = Folds(fit=np.array([0, 0, 0, 1, 1]), repeat=np.array([0, 0]))
    >>> chances = np.array([0.9, 0.3, 0.2, 0.1, 0.05])
    >>> label = np.array([1, 0, 0, 1, 0])
    >>> fits = [ScoredSample.of(label[own], chances[own], None, 0.5) for own in folds.places]
    >>> fold_figures(fits, folds)["auroc"].tolist()
    [1.0]
    """
    rows = np.ones((1, len(folds.fit))) if weights is None else weights
    wanted = samples[0].names if names is None else names
    with np.errstate(invalid="ignore", divide="ignore"):
        found = [
            sample.figures(rows[:, place], wanted)
            for sample, place in zip(samples, folds.places, strict=True)
        ]
    return {name: mean_defined([each[name] for each in found]) for name in wanted}


def fold_intervals(
    samples: Sequence[ScoredSample],
    folds: Folds,
    *,
    groups: ArrayLike,
    rng: np.random.Generator,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    fixed_ratio: bool = False,
    names: Collection[str] | None = None,
) -> dict[str, Interval]:
    """Bootstrap the mean over folds of every figure over patients.

    A resample is ONE draw of patients for all folds and repeats. The fits stay as they are: the
    interval is for these trained models on other patients, and leaves out how much the models
    themselves would vary with other training parts (Bengio & Grandvalet 2004: no unbiased
    estimate of that exists).

    Parameters
    ----------
    samples, folds
        As in `fold_figures`.
    groups : (N,) array-like
        The patient of each entry: a record's entries in all repeats are one patient's.
    rng : numpy.random.Generator
    n_resamples : int
    confidence : float
    fixed_ratio : bool
        Whether the design fixed the class ratio; everything is then stratified.
    names : collection of str, optional
        Figures; all by default.

    Returns
    -------
    dict of str to Interval
        Percentiles; of AUROC and what else does not depend on the prevalence with the number of
        patients of each class kept; of the calibration error moved by the resamples' bias. Where
        there is none, ``method`` says why, as in `cxr_ray.evaluation.intervals.metric_intervals`.
    """
    names = samples[0].names if names is None else names
    positive = np.empty(len(folds.fit), dtype=bool)
    for sample, place in zip(samples, folds.places, strict=True):
        positive[place] = sample.label
    if positive.all() or not positive.any():
        return {name: Interval(np.nan, np.nan, "none: one class only") for name in names}
    samplers = [PatientSampler.of(positive, groups, stratified=kind) for kind in (False, True)]
    block = samplers[0].block
    if len(samplers[0].size) < FEW_PATIENTS:
        return {name: Interval(np.nan, np.nan, TOO_FEW_PATIENTS) for name in names}
    kept = ("auroc", *STRATIFIED)
    stratified = [name for name in names if fixed_ratio or samples[0].metric(name) in kept]
    plain = [name for name in names if name not in stratified]
    own = fold_figures(samples, folds, names=names)
    events = min(len(np.unique(block[each])) for each in (positive, ~positive))
    found = {}
    for sampler, wanted, kind in (
        (samplers[0], plain, "bootstrap_percentile"),
        (samplers[1], stratified, "bootstrap_stratified"),
    ):
        if not wanted:
            continue
        parts = [
            fold_figures(samples, folds, sampler.draw_weights(rng, size), wanted)
            for size in chunk_sizes(n_resamples, len(positive))
        ]
        for name in wanted:
            drawn = np.concatenate([part[name] for part in parts])
            drawn = drawn[~np.isnan(drawn)]
            if samples[0].metric(name) == "ece":
                interval = shifted_interval(drawn, own[name][0], confidence)
            else:
                interval = percentile_interval(drawn, confidence, kind)
            mark = f", mean of {len(samples)} folds"
            mark += MARK_FEW_EVENTS if events < FEW_EVENTS else ""
            if not np.isnan(interval.low):
                interval = replace(interval, method=interval.method + mark)
            found[name] = interval
    return {name: found[name] for name in names}


@dataclass(frozen=True)
class ResampledComparison:
    """Two models compared over the folds of a repeated cross-validation.

    Attributes
    ----------
    difference : float
        Mean over folds, first minus second.
    low, high : float
    p_value : float
        Two-sided.
    """

    difference: float
    low: float
    high: float
    p_value: float


def corrected_resampled_test(
    differences: ArrayLike, *, test_to_train: float, confidence: float = 0.95
) -> ResampledComparison:
    """Compare two learning procedures by the corrected resampled t-test.

    Parameters
    ----------
    differences : (J,) array-like
        Of a figure, one entry a fold and repeat; NaN where a fold has none is left out.
    test_to_train : float
        Records of a test fold over those that its model was trained on.
    confidence : float

    Returns
    -------
    ResampledComparison
        NaN bounds and p where fewer than two folds have a figure; p is 1 where all differences
        are 0.

    Notes
    -----
    ``t = mean / sqrt((1 / J + n_test / n_train) s^2)`` with J - 1 degrees of freedom (Nadeau &
    Bengio 2003, section 5; for repeated k-fold cross-validation Bouckaert & Frank 2004). The
    second term stands for the overlap of training parts, without which fits would count as
    independent, and the test reject far too often. It asks whether the two *recipes*
    differ, with training parts and patients both drawn anew.

    Examples
    --------
    >>> found = corrected_resampled_test([0.1, 0.2, 0.3, 0.2, 0.2], test_to_train=0.25)
    >>> round(found.difference, 3), round(found.p_value, 4)
    (0.2, 0.0135)
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        middle = float(values.mean()) if len(values) else np.nan
        return ResampledComparison(middle, np.nan, np.nan, np.nan)
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    error = spread * np.sqrt(1 / len(values) + test_to_train)
    if error == 0:
        return ResampledComparison(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    freedom = len(values) - 1
    reach = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return ResampledComparison(mean, mean - reach, mean + reach, p_value)
