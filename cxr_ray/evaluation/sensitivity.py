"""Does the model use a modality? Scores with one modality permuted between patients."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.confusion import confusion_rows
from cxr_ray.evaluation.folds import Folds
from cxr_ray.evaluation.heads import HeadScorer
from cxr_ray.evaluation.labels import BoolArray, FloatArray, IntArray, as_labels, as_scores
from cxr_ray.evaluation.permutation import (
    excess_noise,
    percentiles_less_noise,
    permute_records,
)
from cxr_ray.evaluation.ranking import ranking_rows
from cxr_ray.evaluation.resampling import PatientSampler, chunk_sizes

Modality = Literal["image", "text"]
SENSITIVITY_METRICS = ("accuracy", "precision", "recall", "f1", "auroc", "average_precision")
_RowScorer = Callable[[IntArray, IntArray], FloatArray]
"""Logits (R, N) of rows of image indices and of text indices."""


@dataclass(frozen=True)
class MetricDrop:
    """What permuting a modality takes from one metric.

    Attributes
    ----------
    metric : str
    intact : float
        With every record's own image and text.
    perturbed : float
        Mean over the permutations.
    drop : float
        ``intact - perturbed``.
    low, high : float
        95 % interval of the drop.
    p_value : float
        At least ``1 / (repeats + 1)``; NaN where nothing is permuted, so that there is no test.
    """

    metric: str
    intact: float
    perturbed: float
    drop: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class _Plan:
    shuffle: Modality
    n_repeats: int
    n_resamples: int
    shuffles: int
    threshold: float

    def __post_init__(self) -> None:
        if self.shuffle not in ("image", "text"):
            raise ValueError(f"shuffle is {self.shuffle!r}: it is one of image, text")
        if self.n_repeats < 1 or self.shuffles < 1:
            raise ValueError("n_repeats and shuffles are at least 1")


@dataclass(frozen=True)
class PermutationTest:
    """The permutation test of one modality.

    Attributes
    ----------
    perturbation : str
        ``image_shuffled``, ``text_shuffled``, and with ``_within_class`` where the permutation
        kept to strata; ``image_missing``, ``text_missing`` from
        `cxr_ray.evaluation.missing.missing_modality`.
    repeats : int
        Number of permutations; 0 where nothing is permuted.
    drops : tuple of MetricDrop
        In the order of `SENSITIVITY_METRICS`.
    """

    perturbation: str
    repeats: int
    drops: tuple[MetricDrop, ...]

    def __getitem__(self, metric: str) -> MetricDrop:
        return next(drop for drop in self.drops if drop.metric == metric)

    def rows(self) -> list[dict[str, Any]]:
        """List one row a metric, in the columns of ``sensitivity.csv``."""
        head: dict[str, Any] = {"perturbation": self.perturbation, "repeats": self.repeats}
        return [head | asdict(drop) for drop in self.drops]


def permutation_test(
    image_part: ArrayLike,
    text_part: ArrayLike,
    intercept: float,
    label: ArrayLike,
    *,
    shuffle: Modality,
    rng: np.random.Generator,
    n_repeats: int = 1999,
    n_resamples: int = 2000,
    shuffles: int = 3,
    within: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    folds: Folds | None = None,
    threshold: float = 0.0,
) -> PermutationTest:
    """Permute one modality of an additive head between patients.

    Parameters
    ----------
    image_part, text_part : (N,) array-like
        The two parts of each record's logit, from `cxr_ray.evaluation.heads.additive_parts`.
    intercept : float
    label : (N,) array-like of 0/1
    shuffle : {"image", "text"}
        Which part is permuted; the other one stays with its label.
    rng : numpy.random.Generator
    n_repeats : int
        Number of permutations.
    n_resamples : int
        Number of bootstrap resamples of the interval; 0 gives NaN intervals.
    shuffles : int
        Number of fresh permutations inside each resample, whose mean is taken.
    within : (N,) array-like, optional
        Permute only between records with equal entries: pass the label for the within-class test.
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several. The bootstrap then draws patients,
        and the permutation deals the records out patient by patient in random order.
    folds : Folds, optional
        The fit that scored each entry of a cross-validation, whose `groups` are then needed:
        entries change places within their fit, and figures are means over folds.
    threshold : float
        A record is called positive where logit >= threshold; 0 is a probability of .5.

    Returns
    -------
    PermutationTest

    Notes
    -----
    Permutation importance: Breiman 2001; Fisher, Rudin & Dominici 2019. The p-value is
    ``(1 + #{perturbed >= intact}) / (n_repeats + 1)`` (Phipson & Smyth 2010), one-sided: the
    hypothesis is that the scores fit the labels no better with a patient's own modality than with
    another's. With `within`, a drop of either sign means something, and twice the smaller
    one-sided p-value, at most 1, is given instead.

    The interval is the percentile bootstrap of the drop over patients, with fresh permutations
    inside each resample: percentiles of the permuted values would say how much permutations
    differ, not patients. A mean of few permutations varies by itself, which widens the interval:
    95 % intervals of AUROC's drop, 600 records, 500 simulations, held the true one in 96 % with
    eight permutations, in 99 % with one. So with two to seven the excess of that spread over
    eight's is estimated and taken out (`percentiles_less_noise`): three then cost a third and serve
    as well. With all of it out coverage was 92 to 93 %. A resample with one class is drawn again.

    Within classes, permuting the image and permuting the text are one test: a class's pairs have
    the same distribution, whichever side moves.

    Repeats of a cross-validation test the same patients, and permutations made in each for itself
    would not show how alike their figures are. So each repeat has a p-value of its own, and twice
    their median is given, which holds whatever they have in common (Meinshausen, Meier & Buehlmann
    2009). Of 300 simulated models with a useless image (100 records, 5 folds, 3 times) 3 % had
    p <= .05 so, and 15 % with the figure's mean over repeats as the statistic.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> label = np.repeat([0, 1], [90, 10])
    >>> text = rng.normal(size=100) + 2 * label
    >>> ignored = np.zeros(100)
    >>> test = permutation_test(ignored, text, -1.0, label, shuffle="image", rng=rng, n_repeats=19)
    >>> test["auroc"].drop, test["auroc"].p_value
    (0.0, 1.0)
    >>> test = permutation_test(ignored, text, -1.0, label, shuffle="text", rng=rng, n_repeats=19)
    >>> test["auroc"].p_value
    0.05
    """
    positive = as_labels(label)
    a, b = (as_scores(part, len(positive)) for part in (image_part, text_part))

    def score_rows(image_index: IntArray, text_index: IntArray) -> FloatArray:
        return a[image_index] + b[text_index] + intercept

    plan = _Plan(shuffle, n_repeats, n_resamples, shuffles, threshold)
    return _run(score_rows, positive, plan, rng, within, groups, folds)


def permutation_test_of_head(
    score: HeadScorer,
    image: ArrayLike,
    text: ArrayLike,
    label: ArrayLike,
    *,
    shuffle: Modality,
    rng: np.random.Generator,
    n_repeats: int = 299,
    n_resamples: int = 299,
    shuffles: int = 1,
    within: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    folds: Folds | None = None,
    threshold: float = 0.0,
) -> PermutationTest:
    """Permute one modality's features under a head of any kind; see `permutation_test`.

    The head runs on N records once a permutation and ``1 + shuffles`` times a resample; with one
    shuffle, the default here, intervals are too wide rather than too narrow. A verdict of "used"
    needs 499 permutations or more (`cxr_ray.evaluation.contribution.verdict`).

    Parameters
    ----------
    score : callable
        ``score(image (M, D), text (M, D)) -> logits (M,)``.
    image, text : (N, D) array-like
        Cached features.
    label, shuffle, rng, n_repeats, n_resamples, shuffles, within, groups, folds, threshold
        As in `permutation_test`.

    Returns
    -------
    PermutationTest
    """
    positive = as_labels(label)
    pixels, words = np.asarray(image), np.asarray(text)

    def score_rows(image_index: IntArray, text_index: IntArray) -> FloatArray:
        pairs = zip(image_index, text_index, strict=True)
        return np.stack([np.asarray(score(pixels[i], words[t])).reshape(-1) for i, t in pairs])

    plan = _Plan(shuffle, n_repeats, n_resamples, shuffles, threshold)
    return _run(score_rows, positive, plan, rng, within, groups, folds)


def _run(
    score_rows: _RowScorer,
    positive: BoolArray,
    plan: _Plan,
    rng: np.random.Generator,
    within: ArrayLike | None,
    groups: ArrayLike | None,
    folds: Folds | None,
) -> PermutationTest:
    strata = None if within is None else np.asarray(within)
    if folds is not None:
        strata = folds.strata(strata)
    sampler = PatientSampler.of(positive, groups)
    blocks = sampler.block if sampler.grouped else None
    every = np.arange(len(positive))

    def figures_of(own: IntArray, others: IntArray) -> FloatArray:
        """Figures of the records `own`, the permuted modality taken from each row of `others`.

        (repeats, rows, metrics); what is not cross-validated is one repeat, and may have other
        records in each row.
        """
        kept = np.broadcast_to(own, others.shape)
        image, text = (others, kept) if plan.shuffle == "image" else (kept, others)
        scores, label = score_rows(image, text), positive[own]
        if folds is None:
            return _metric_rows(label, scores, plan.threshold)[None]
        return folds.repeat_means(
            own, lambda place: _metric_rows(label[place], scores[:, place], plan.threshold)
        )

    intact = figures_of(every, every[None])
    chunks = (
        permute_records(np.tile(every, (rows, 1)), rng, strata, blocks)
        for rows in chunk_sizes(plan.n_repeats, len(every))
    )
    perturbed = np.concatenate([figures_of(every, others) for others in chunks], axis=1)

    drops: list[FloatArray] = []
    noise = np.zeros(len(SENSITIVITY_METRICS))
    size = 1 + plan.shuffles
    alone = folds is not None
    for own, block in sampler.resamples(rng, plan.n_resamples, size, one_by_one=alone):
        moved = own.repeat(plan.shuffles, axis=0)
        moved = permute_records(moved, rng, None if strata is None else strata[moved], block)
        others = np.hstack([own, moved.reshape(len(own), -1)]).reshape(len(own) * size, -1)
        figures = figures_of(own[0] if len(own) == 1 else own.repeat(size, axis=0), others)
        figures = figures.mean(axis=0).reshape(len(own), size, -1)  # the first is intact
        drops.append(figures[:, 0] - figures[:, 1:].mean(axis=1))
        if plan.shuffles > 1:
            noise += figures[:, 1:].var(axis=1, ddof=1).sum(axis=0) * excess_noise(plan.shuffles)
    low, high = np.full((2, len(SENSITIVITY_METRICS)), np.nan)
    if plan.n_resamples:
        low, high = percentiles_less_noise(np.concatenate(drops), noise / plan.n_resamples)

    # exactly 0 where no permutation changes a figure
    drop = (intact - perturbed).mean(axis=(0, 1))
    whole = intact.mean(axis=(0, 1))
    columns = (whole, whole - drop, drop, low, high, _p_values(intact, perturbed, within))
    return PermutationTest(
        perturbation=f"{plan.shuffle}_shuffled" + ("" if within is None else "_within_class"),
        repeats=plan.n_repeats,
        drops=tuple(
            MetricDrop(name, *(float(column[place]) for column in columns))
            for place, name in enumerate(SENSITIVITY_METRICS)
        ),
    )


def _p_values(intact: FloatArray, perturbed: FloatArray, within: ArrayLike | None) -> FloatArray:
    """Give each metric's p from (repeats, 1, metrics) and (repeats, permutations, metrics)."""
    count = perturbed.shape[1]
    # equal figures that were summed in another order must count as equal
    at_least = 1 + (perturbed >= intact - 1e-12).sum(axis=1)
    at_most = 1 + (perturbed <= intact + 1e-12).sum(axis=1)
    p_value = at_least / (count + 1)
    if within is not None:
        p_value = np.minimum(1.0, 2 * np.minimum(at_least, at_most) / (count + 1))
    p_value = np.where(np.isnan(intact[:, 0]), np.nan, p_value)  # no figure, no evidence
    if len(p_value) == 1:
        return p_value[0]
    return np.minimum(1.0, 2 * np.quantile(p_value, 0.5, axis=0, method="higher"))


def _metric_rows(positive: BoolArray, scores: FloatArray, threshold: float) -> FloatArray:
    """(R, 6) figures in the order of `SENSITIVITY_METRICS`."""
    counts = confusion_rows(positive, scores, threshold)
    areas, precisions = ranking_rows(positive, scores)
    return np.column_stack(
        [counts.accuracy, counts.precision, counts.recall, counts.f1, areas, precisions]
    )
