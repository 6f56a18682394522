"""What training seeds leave uncertain, together with patients: the crossed bootstrap."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from scipy.stats import t as student

from cxr_ray.evaluation.delong import auroc_covariance
from cxr_ray.evaluation.labels import BoolArray, FloatArray, as_labels, as_scores
from cxr_ray.evaluation.proportions import Interval
from cxr_ray.evaluation.resampling import PatientSampler, chunk_sizes
from cxr_ray.evaluation.weighted import (
    BOOTSTRAPPED,
    OF_CALLS,
    OF_RANKING,
    WeightedRanking,
    weighted_calls,
)

FEWEST_SEEDS = 3
METHOD = "bootstrap_crossed"
TOO_FEW = Interval(np.nan, np.nan, f"none: under {FEWEST_SEEDS} seeds")
_NO_WIDTH = Interval(np.nan, np.nan, "none: no seed and no resample gives another figure")
_NO_ERROR = 1e-12  # rounding


@dataclass(frozen=True)
class SeedComparison:
    """Two arms' means over seeds.

    Attributes
    ----------
    difference : float
        First minus second.
    interval : Interval
    p_value : float
        Two-sided, for other seeds and other patients; NaN under three seeds.
    """

    difference: float
    interval: Interval
    p_value: float


@dataclass(frozen=True)
class CrossedBootstrap:
    """Figures of K arms trained with S seeds each, as they are and in resamples of patients.

    Attributes
    ----------
    metrics : tuple of str
    figures : (K, S, metrics) array of float64
        Of every trained model on the records as they are.
    draws : (R, K, S, metrics) array of float64
        The same in each resample of patients; no row under three seeds.
    """

    metrics: tuple[str, ...]
    figures: FloatArray
    draws: FloatArray

    def mean(self, arm: int, metric: str) -> float:
        """Mean over seeds of the metric, not the metric of averaged probabilities."""
        return float(self._of(self.figures, arm, metric).mean())

    def spread(self, arm: int, metric: str) -> float:
        """Return the standard deviation over seeds (S - 1); NaN for one seed."""
        values = self._of(self.figures, arm, metric)
        return float(values.std(ddof=1)) if len(values) > 1 else float("nan")

    def interval(self, arm: int, metric: str, *, confidence: float = 0.95) -> Interval:
        """Interval of an arm's mean, for other seeds and other patients."""
        if not len(self.draws):
            return TOO_FEW
        figures, draws = (self._of(values, arm, metric) for values in (self.figures, self.draws))
        error = _Error.of(figures, draws.mean(axis=1).var(ddof=1))
        mean, half = self.mean(arm, metric), error.half_width(confidence)
        if half < _NO_ERROR:
            return _NO_WIDTH
        if metric.startswith("mcc") or not 0 < mean < 1:
            lowest = -1.0 if metric.startswith("mcc") else 0.0
            return Interval(max(mean - half, lowest), min(mean + half, 1.0), METHOD)
        half /= mean * (1 - mean)  # on the logit scale, so that it stays between 0 and 1
        low, high = expit(logit(mean) + half * np.array([-1, 1]))
        return Interval(float(low), float(high), METHOD)

    def compare(
        self, first: int, second: int, metric: str, *, confidence: float = 0.95
    ) -> SeedComparison:
        """Compare two arms: do training recipes differ, not only these trained models."""
        figures, draws = (
            self._of(values, first, metric) - self._of(values, second, metric)
            for values in (self.figures, self.draws)
        )
        difference = float(figures.mean())
        if not len(draws):
            return SeedComparison(difference, TOO_FEW, float("nan"))
        error = _Error.of(figures, draws.mean(axis=1).var(ddof=1))
        # where nothing varies it is known only that no resample gave another sign
        return _compared(difference, error, confidence, METHOD, least=2 / (len(draws) + 1))

    def _of(self, values: FloatArray, arm: int, metric: str) -> FloatArray:
        return values[..., arm, :, self.metrics.index(metric)]


def crossed_bootstrap(
    label: ArrayLike,
    logits: ArrayLike,
    *,
    rng: np.random.Generator,
    points: Mapping[str, ArrayLike] | None = None,
    metrics: Sequence[str] | None = None,
    n_resamples: int = 2000,
    groups: ArrayLike | None = None,
    stratified: bool = False,
) -> CrossedBootstrap:
    """Draw patients for all arms and seeds at once, and cross what they show with the seeds.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    logits : (K, S, N) array-like
        Of K arms (recipes) trained with the same S seeds, on the same test records.
    rng : numpy.random.Generator
    points : mapping of str to (K, S) array-like, optional
        Further thresholds by name, on the logits, of each model its own: chosen on other records
        and taken as given. Their figures are called ``<metric>_at_<name>``.
    metrics : sequence of str, optional
        What is wanted of `cxr_ray.evaluation.weighted.BOOTSTRAPPED` at logit 0, and of its figures
        of calls at `points`; all by default.
    n_resamples : int
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several.
    stratified : bool
        Keep the number of patients of each class.

    Returns
    -------
    CrossedBootstrap
        Under three seeds it holds the figures and no draws: two models say next to nothing about
        the spread of models.

    Raises
    ------
    ValueError
        If one class is absent, `logits` has another shape, or a metric is unknown.

    Notes
    -----
    Patients and seeds are crossed: every model sees every patient (Owen 2007 on resampling crossed
    factors). A resample is ONE draw of patients for all arms and seeds, so that arms stay paired,
    seed by seed. The variance of a mean over seeds is the variance of its resamples plus
    ``s^2 / S``, what drawing seeds with replacement would add, its deviations scaled by
    ``sqrt(S / (S - 1))``. What a model has alone with these patients is in both, which errs on the
    side of caution.

    Percentiles of such draws take the spread of three or five models for the spread of all. The
    interval is therefore Student's, with Satterthwaite's (1946) degrees of freedom
    ``V^2 / ((s^2 / S)^2 / (S - 1))``: S - 1 where seeds alone matter, many where patients do. An
    arm's interval is made on the logit scale. In simulations of 500 patients, 100 of them positive,
    tests of 5 % rejected equal arms in 2 to 6 % with five seeds (percentiles: up to 12 %) and in 1
    to 9 % with three (percentiles: up to 19 %), the more the seeds differ; intervals held the mean
    of all seeds in at least 93 % with five seeds and 92 % with three (89 % and 81 %).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> label = np.repeat([0, 1], [160, 40])
    >>> good, poor = (signal * label + rng.normal(size=(3, 200)) for signal in (2, 1))
    >>> found = crossed_bootstrap(label, [good, poor], rng=rng, n_resamples=200)
    >>> comparison = found.compare(0, 1, "auroc")
    >>> comparison.interval.low > 0, round(found.mean(0, "auroc"), 1)
    (True, 0.9)
    >>> crossed_bootstrap(label, [good[:2]], rng=rng).interval(0, "auroc").method
    'none: under 3 seeds'
    """
    positive = as_labels(label)
    scores = as_scores(logits, len(positive))
    if scores.ndim != 3 or not scores.shape[1]:
        raise ValueError(f"logits of shape {scores.shape} are not (arms, seeds, records)")
    arms, seeds = scores.shape[:2]
    cuts = {
        f"_at_{name}": np.broadcast_to(np.asarray(cut, dtype=np.float64), (arms, seeds)).reshape(-1)
        for name, cut in (points or {}).items()
    }
    known = (*BOOTSTRAPPED, *(name + end for end in cuts for name in OF_CALLS))
    names = known if metrics is None else tuple(metrics)
    if set(names) - set(known):
        unknown = ", ".join(sorted(set(names) - set(known)))
        raise ValueError(f"no crossed bootstrap of {unknown}")
    sampler = PatientSampler.of(positive, groups, stratified=stratified)
    score = _scorer(positive, scores.reshape(arms * seeds, -1), cuts, names)
    figures = score(np.ones((1, len(positive))))
    draws = [np.empty((0, arms * seeds, len(names)))]
    if seeds >= FEWEST_SEEDS:
        draws += [
            score(sampler.draw_weights(rng, size))
            for size in chunk_sizes(n_resamples, len(positive))
        ]
    shape = (-1, arms, seeds, len(names))
    return CrossedBootstrap(names, figures.reshape(shape)[0], np.concatenate(draws).reshape(shape))


def crossed_delong(
    label: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
) -> SeedComparison:
    """Compare two arms' mean AUROCs as `crossed_bootstrap` does, without resamples.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    first, second : (S, N) array-like
        Of the two arms, trained with the same S seeds.
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several.
    confidence : float

    Returns
    -------
    SeedComparison
        NaN under three seeds, and where a class has fewer than two patients.

    Notes
    -----
    The variance that patients give the mean is DeLong's of all 2 S models together
    (`cxr_ray.evaluation.delong.auroc_covariance`).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> label = np.repeat([0, 1], [160, 40])
    >>> good, poor = (signal * label + rng.normal(size=(3, 200)) for signal in (2, 1))
    >>> crossed_delong(label, good, poor).p_value < 0.05
    True
    """
    arms = [as_scores(scores, len(as_labels(label))) for scores in (first, second)]
    area, covariance = auroc_covariance(label, np.concatenate(arms), groups=groups)
    seeds = len(arms[0])
    apart = area[:seeds] - area[seeds:]
    difference = float(apart.mean())
    if seeds < FEWEST_SEEDS:
        return SeedComparison(difference, TOO_FEW, float("nan"))
    weight = np.repeat([1 / seeds, -1 / seeds], seeds)
    of_patients = float(weight @ covariance @ weight)
    if np.isnan(of_patients):
        missing = Interval(np.nan, np.nan, "none: a class has fewer than two patients")
        return SeedComparison(difference, missing, float("nan"))
    error = _Error.of(apart, max(of_patients, 0.0))
    return _compared(difference, error, confidence, "delong_crossed", least=0.0)


def _scorer(
    positive: BoolArray,
    models: FloatArray,
    points: Mapping[str, FloatArray],
    names: Sequence[str],
) -> Callable[[FloatArray], FloatArray]:
    """Sort and call (models, N) logits once; the function scores rows of record weights."""
    cuts = {"": np.zeros(len(models)), **points}
    called = [row >= own for cut in cuts.values() for row, own in zip(models, cut, strict=True)]
    rankings = [WeightedRanking.of(positive, row) for row in models if {*OF_RANKING} & {*names}]
    squares = (expit(models) - positive).T ** 2

    def score(weights: FloatArray) -> FloatArray:
        """(R, models, names) figures."""
        found = {}
        calls = iter(weighted_calls(weights, positive, called))
        for end in cuts:
            counts = [next(calls) for _ in models]
            for name in {*OF_CALLS} & {each.removesuffix(end) for each in names}:
                found[name + end] = [getattr(each, name) for each in counts]
        ranked = [ranking.figures(weights) for ranking in rankings]
        for name in {*OF_RANKING} & {*names}:
            found[name] = [figures[name] for figures in ranked]
        if "brier" in names:
            found["brier"] = [*(weights @ squares / weights.sum(axis=1, keepdims=True)).T]
        return np.array([found[name] for name in names]).transpose(2, 1, 0)

    return score


@dataclass(frozen=True)
class _Error:
    """Standard error of a mean over seeds, for other seeds and patients, as Student's t has it."""

    deviation: float
    freedom: float

    @classmethod
    def of(cls, figures: FloatArray, of_patients: float) -> "_Error":
        """Estimate it from (S,) figures and the variance that patients give their mean."""
        seeds = len(figures)
        of_seeds = figures.var(ddof=1) / seeds
        variance = of_patients + of_seeds
        freedom = (seeds - 1) * (variance / of_seeds) ** 2 if of_seeds else np.inf
        return cls(float(np.sqrt(variance)), float(freedom))

    def chance_beyond(self, distance: float) -> float:
        """Chance of an error of at least that size, in either direction."""
        return float(2 * student.sf(abs(distance) / self.deviation, self.freedom))

    def half_width(self, confidence: float) -> float:
        """Distance that the error stays within."""
        return float(self.deviation * student.ppf((1 + confidence) / 2, self.freedom))


def _compared(
    difference: float, error: _Error, confidence: float, method: str, least: float
) -> SeedComparison:
    half = error.half_width(confidence)
    interval = Interval(difference - half, difference + half, method)
    if half < _NO_ERROR:
        return SeedComparison(difference, interval, 1.0 if abs(difference) < _NO_ERROR else least)
    return SeedComparison(difference, interval, error.chance_beyond(difference))
