"""Intervals of every metric of one set of predictions."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.bounds import bca_interval, percentile_interval, shifted_interval
from cxr_ray.evaluation.confusion import confusion_rows
from cxr_ray.evaluation.delong import auroc_interval
from cxr_ray.evaluation.labels import BoolArray, FloatArray, as_labels, as_scores
from cxr_ray.evaluation.metrics import METRICS
from cxr_ray.evaluation.proportions import Interval, wilson_interval
from cxr_ray.evaluation.resampling import PatientSampler, chunk_sizes
from cxr_ray.evaluation.weighted import (
    BOOTSTRAPPED,
    OF_CALLS,
    OF_RANKING,
    WeightedBins,
    WeightedRanking,
    weighted_calls,
    weighted_figures,
)

__all__ = [
    "BOOTSTRAPPED",
    "Interval",
    "metric_intervals",
    "weighted_figures",
    "wilson_interval",
]

STRATIFIED = ("recall", "specificity", "balanced_accuracy", "sensitivity_at_95_specificity")
SMOOTH = ("accuracy", "brier")  # means over records, at a threshold that no resample moves
FEW_EVENTS, FEW_PATIENTS = 20, 10
TOO_FEW_PATIENTS = f"none: fewer than {FEW_PATIENTS} patients"
MARK_FEW_EVENTS = f", under {FEW_EVENTS} events"


def metric_intervals(
    label: ArrayLike,
    probability: ArrayLike,
    *,
    rng: np.random.Generator,
    score: ArrayLike | None = None,
    threshold: float = 0.5,
    points: Mapping[str, float] | None = None,
    recalibrated: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    fixed_ratio: bool = False,
    ece_bins: int = 15,
) -> dict[str, Interval]:
    """Give each metric the interval that suits it.

    AUROC: DeLong on the logit scale. Accuracy, precision, recall and specificity with under 20
    events (right or wrong calls, whichever are fewer) and one record a patient: Wilson. Accuracy
    and Brier: BCa bootstrap over patients. Recall, specificity, balanced accuracy and sensitivity
    at 95 % specificity: stratified bootstrap, as they do not depend on the prevalence. The others:
    percentiles of the plain bootstrap. ECE: percentiles moved by the resamples' bias, to describe.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    probability : (N,) array-like
    rng : numpy.random.Generator
    score : (N,) array-like, optional
        What ranks the records: the logit, where there is one.
    threshold : float
        On the probability.
    points : mapping of str to float, optional
        Further thresholds by name, on `score`, chosen on other records and taken as given.
    recalibrated : (N,) array-like, optional
        Probabilities after recalibration on other records.
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several: patients are drawn, with all
        their records.
    n_resamples : int
    confidence : float
    fixed_ratio : bool
        Whether the design fixed the class ratio; everything is then stratified.
    ece_bins : int

    Returns
    -------
    dict of str to Interval
        Of `METRICS`, then ``<metric>_at_<point>``, then ``brier_recalibrated`` and
        ``ece_recalibrated``. ``method`` says which was used, and where it is to be read with
        care: fewer than 20 patients of a class, or an interval that only describes. Where there is
        none it says why: one class only, fewer than 10 patients to draw from, or resamples that
        all give the same figure.

    Notes
    -----
    Bootstrap: Efron & Tibshirani 1993, chapter 13. A resample with one class only is drawn again.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> label = rng.random(400) < 0.3
    >>> probability = np.clip(0.3 * label + 0.7 * rng.random(400), 0, 1)
    >>> interval = metric_intervals(label, probability, rng=rng, n_resamples=200)["f1"]
    >>> interval.method, 0.05 < interval.high - interval.low < 0.2
    ('bootstrap_percentile', True)
    """
    sample = ScoredSample.of(label, probability, score, threshold, points, recalibrated, ece_bins)
    positive = sample.label
    if positive.all() or not positive.any():
        return {name: Interval(np.nan, np.nan, "none: one class only") for name in sample.names}
    sampler = PatientSampler.of(positive, groups)
    patients = len(sampler.size)
    events = min(len(np.unique(sampler.block[each])) for each in (positive, ~positive))
    few = events < FEW_EVENTS
    result = dict.fromkeys(sample.names, Interval(np.nan, np.nan, TOO_FEW_PATIENTS))
    if patients >= FEW_PATIENTS:
        stratified = [n for n in sample.names if fixed_ratio or sample.metric(n) in STRATIFIED]
        plain = [n for n in sample.names if n not in stratified]
        smooth = [n for n in plain if sample.metric(n) in SMOOTH and not few]
        within = PatientSampler.of(positive, groups, stratified=True)
        draws = sample.draw(within, rng, n_resamples, stratified)
        draws |= sample.draw(sampler, rng, n_resamples, plain) if plain else {}
        own = sample.figures(np.ones((1, len(positive))), sample.names)
        blocks = sample.figures(sampler.leave_blocks_out(rng), smooth)
        for name, drawn in draws.items():
            if name in smooth:
                result[name] = bca_interval(drawn, own[name][0], blocks[name], confidence)
            elif sample.metric(name) == "ece":
                result[name] = shifted_interval(drawn, own[name][0], confidence)
            else:
                kind = "bootstrap_stratified" if name in stratified else "bootstrap_percentile"
                result[name] = percentile_interval(drawn, confidence, kind)
    area = auroc_interval(positive, sample.score, groups=groups, confidence=confidence)
    result["auroc"] = Interval(area.low, area.high, area.method)
    if few:
        result = {name: _mark(one, MARK_FEW_EVENTS) for name, one in result.items()}
    if patients == len(positive):
        for suffix, called in sample.called.items():
            for name, (hits, total) in _proportions(positive, called).items():
                if min(hits, total - hits) < FEW_EVENTS:
                    result[name + suffix] = wilson_interval(hits, total, confidence=confidence)
    return result


@dataclass(frozen=True)
class ScoredSample:
    """Predictions, sorted and called once for all resamples.

    ``called`` holds the calls by the suffix of their figures, empty for the first threshold;
    ``squares`` and ``bins`` the errors by figure.
    """

    label: BoolArray
    score: FloatArray
    called: Mapping[str, BoolArray]
    ranking: WeightedRanking
    squares: Mapping[str, FloatArray]
    bins: Mapping[str, WeightedBins]
    ece_bins: int

    @classmethod
    def of(
        cls,
        label: ArrayLike,
        probability: ArrayLike,
        score: ArrayLike | None,
        threshold: float,
        points: Mapping[str, float] | None = None,
        recalibrated: ArrayLike | None = None,
        ece_bins: int = 15,
    ) -> "ScoredSample":
        """Sort and call predictions; the parameters are those of `metric_intervals`."""
        positive = as_labels(label)
        chances = {"": as_scores(probability, len(positive))}
        ranked = chances[""] if score is None else as_scores(score, len(positive))
        if recalibrated is not None:
            chances["_recalibrated"] = as_scores(recalibrated, len(positive))
        further = {f"_at_{name}": ranked >= cut for name, cut in (points or {}).items()}
        return cls(
            label=positive,
            score=ranked,
            called={"": chances[""] >= threshold, **further},
            ranking=WeightedRanking.of(positive, ranked),
            squares={f"brier{kind}": (each - positive) ** 2 for kind, each in chances.items()},
            bins={f"ece{kind}": WeightedBins.of(positive, each) for kind, each in chances.items()},
            ece_bins=ece_bins,
        )

    @property
    def names(self) -> list[str]:
        """Every figure, the metrics first."""
        at_points = [name + suffix for suffix in self.called if suffix for name in OF_CALLS]
        errors = [name for name in (*self.squares, *self.bins) if name not in METRICS]
        return [*METRICS, *at_points, *errors]

    def metric(self, name: str) -> str:
        """Tell which metric a figure is, whatever its threshold and recalibration."""
        for suffix in (*self.called, "_recalibrated"):
            if suffix and name.endswith(suffix):
                return name.removesuffix(suffix)
        return name

    def draw(
        self,
        sampler: PatientSampler,
        rng: np.random.Generator,
        n_resamples: int,
        names: Collection[str],
    ) -> dict[str, FloatArray]:
        """Draw resamples and score each, in the order of `names`."""
        parts = [
            self.figures(sampler.draw_weights(rng, size), names)
            for size in chunk_sizes(n_resamples, len(self.label))
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    def figures(self, weights: FloatArray, names: Collection[str]) -> dict[str, FloatArray]:
        """Score each row of record weights; only what `names` asks for is worked out."""
        found: dict[str, FloatArray] = {}
        calls = weighted_calls(weights, self.label, list(self.called.values()))
        for suffix, counts in zip(self.called, calls, strict=True):
            found |= {
                metric + suffix: getattr(counts, metric)
                for metric in OF_CALLS
                if metric + suffix in names
            }
        if not set(names).isdisjoint(OF_RANKING):
            found |= self.ranking.figures(weights)
        for name, squares in self.squares.items():
            if name in names:
                found[name] = weights @ squares / weights.sum(axis=1)
        for name, bins in self.bins.items():
            if name in names:
                found[name] = bins.figures(weights, self.ece_bins)
        return found


def _mark(interval: Interval, mark: str) -> Interval:
    if np.isnan(interval.low):
        return interval
    return replace(interval, method=interval.method + mark)


def _proportions(label: BoolArray, called: BoolArray) -> dict[str, tuple[int, int]]:
    """Successes and trials of the figures that are proportions."""
    counts = confusion_rows(label, called[None], 0.5)
    hits, rejections = int(counts.true_positive[0]), int(counts.true_negative[0])
    return {
        "accuracy": (hits + rejections, len(label)),
        "precision": (hits, int(counts.predicted_positive[0])),
        "recall": (hits, int(counts.positive[0])),
        "specificity": (rejections, int(counts.negative[0])),
    }
