"""Figures of a cross-validation: read in each fold for itself, then averaged.

Scores of different fits share no scale, so that records of different folds are never ranked
against each other (Forman & Scholz 2010).
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from cxr_ray.evaluation.intervals import BOOTSTRAPPED, STRATIFIED, weighted_figures
from cxr_ray.evaluation.labels import FloatArray, IntArray, as_labels, as_scores
from cxr_ray.evaluation.metrics import METRICS, score_predictions
from cxr_ray.evaluation.proportions import Interval
from cxr_ray.evaluation.resampling import PatientSampler, chunk_sizes

NO_ECE = Interval(np.nan, np.nan, "none: a resample's ECE is biased upwards")


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


def mean_defined(figures: Sequence[ArrayLike]) -> FloatArray:
    """Mean over the first axis of what is not NaN; NaN where nothing else is there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of means over nothing
        return np.nanmean(np.asarray(figures, dtype=np.float64), axis=0)


def score_folds(
    label: ArrayLike,
    probability: ArrayLike,
    folds: Folds,
    *,
    score: ArrayLike | None = None,
    ece_bins: int = 15,
) -> dict[str, float]:
    """Score each fit on its fold and average the figures.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    probability : (N,) array-like
    folds : Folds
    score : (N,) array-like, optional
        What ranks the records.
    ece_bins : int

    Returns
    -------
    dict of str to float
        In the order of `METRICS`.

    Examples
    --------
    >>> folds = Folds(fit=np.array([0, 0, 0, 1, 1]), repeat=np.array([0, 0]))
    >>> score_folds([1, 0, 0, 1, 0], [0.9, 0.3, 0.2, 0.1, 0.05], folds)["auroc"]
    1.0
    """
    positive = as_labels(label)
    chance = as_scores(probability, len(positive))
    ranked = chance if score is None else as_scores(score, len(positive))

    def of_fit(place: IntArray) -> FloatArray:
        found = score_predictions(
            positive[place], chance[place], score=ranked[place], ece_bins=ece_bins
        )
        return np.array([found[name] for name in METRICS])

    means = folds.average(of_fit)
    return {name: float(value) for name, value in zip(METRICS, means, strict=True)}


def weighted_fold_figures(
    weights: FloatArray,
    label: ArrayLike,
    probability: ArrayLike,
    score: ArrayLike,
    threshold: float,
    folds: Folds,
) -> dict[str, FloatArray]:
    """Mean over folds of the figures of each row of entry weights.

    Parameters
    ----------
    weights, label, probability, score, threshold
        As in `cxr_ray.evaluation.intervals.weighted_figures`; a fold that a row gives no weight
        on one of the classes has no part in the means that need both.
    folds : Folds

    Returns
    -------
    dict of str to (R,) array of float64
    """
    positive, chance, ranked = (np.asarray(column) for column in (label, probability, score))

    def of_fit(place: IntArray) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            found = weighted_figures(
                weights[:, place], positive[place], chance[place], ranked[place], threshold
            )
        return np.array([found[name] for name in BOOTSTRAPPED])

    return dict(zip(BOOTSTRAPPED, folds.average(of_fit), strict=True))


def fold_intervals(
    label: ArrayLike,
    probability: ArrayLike,
    folds: Folds,
    *,
    groups: ArrayLike,
    rng: np.random.Generator,
    score: ArrayLike | None = None,
    threshold: float = 0.5,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    fixed_ratio: bool = False,
) -> dict[str, Interval]:
    """Bootstrap the mean over folds of every metric over patients; percentile intervals.

    A resample is ONE draw of patients for all folds and repeats. The fits stay as they are: the
    interval is for these trained models on other patients, and leaves out how much the models
    themselves would vary with other training parts (Bengio & Grandvalet 2004: no unbiased
    estimate of that exists). Metrics that do not depend on the prevalence keep the number of
    patients of each class.

    Parameters
    ----------
    label : (N,) array-like of 0/1
        Of all entries.
    probability : (N,) array-like
    folds : Folds
    groups : (N,) array-like
        The patient of each entry: the entries of a record in different repeats are one patient's.
    rng : numpy.random.Generator
    score : (N,) array-like, optional
        What ranks the records.
    threshold : float
        On the probability.
    n_resamples : int
    confidence : float
    fixed_ratio : bool
        Whether the design fixed the class ratio; everything is then stratified.

    Returns
    -------
    dict of str to Interval
        In the order of `METRICS`. ECE has none.
    """
    positive = as_labels(label)
    chance = as_scores(probability, len(positive))
    ranked = chance if score is None else as_scores(score, len(positive))
    drawn: dict[bool, dict[str, FloatArray]] = {}
    for stratified in (True,) if fixed_ratio else (False, True):
        sampler = PatientSampler.of(positive, groups, stratified=stratified)
        parts = [
            weighted_fold_figures(
                sampler.draw_weights(rng, size), positive, chance, ranked, threshold, folds
            )
            for size in chunk_sizes(n_resamples, len(positive))
        ]
        drawn[stratified] = {
            name: np.concatenate([part[name] for part in parts]) for name in BOOTSTRAPPED
        }
    tail = (1 - confidence) / 2
    found = {}
    for name in METRICS:
        if name == "ece":
            found[name] = NO_ECE
            continue
        stratified = fixed_ratio or name == "auroc" or name in STRATIFIED
        low, high = np.nanquantile(drawn[stratified][name], (tail, 1 - tail))
        method = "bootstrap_stratified" if stratified else "bootstrap"
        found[name] = Interval(float(low), float(high), f"{method}, mean of folds")
    return found


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
    (0.2, 0.0132)
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
