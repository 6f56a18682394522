"""What each modality contributes to this model's scores, from cached encoder outputs.

All of it measures use by one trained model, not how much information a modality holds.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.folds import Folds, mean_defined
from cxr_ray.evaluation.heads import HeadScorer
from cxr_ray.evaluation.labels import BoolArray, FloatArray, IntArray, as_labels, as_scores
from cxr_ray.evaluation.permutation import (
    excess_noise,
    percentiles_less_noise,
    permute_records,
)
from cxr_ray.evaluation.ranking import auroc_rows
from cxr_ray.evaluation.resampling import PatientSampler, chunk_sizes
from cxr_ray.evaluation.sensitivity import Modality, PermutationTest

_Figure = TypeVar("_Figure", float, FloatArray)

USED = "used"
NOT_SHOWN = "not shown to be used"
USED_P_VALUE = 0.002
USED_DROP = 0.02


@dataclass(frozen=True)
class Contribution:
    """One figure about a modality.

    Attributes
    ----------
    measure : str
        ``shapley``, ``conditional_utilization``, ``refitted_probe``, ``variance_share``,
        ``covariance_share`` and the latter two with ``_within_class``.
    modality : str
        ``image``, ``text``; ``both`` for what belongs to the two together, ``difference`` for
        image less text.
    metric : str
        What the figure is about: ``auroc``, ``balanced_accuracy``, or ``logit``.
    value : float
    low, high : float
        95 % interval over patients.
    """

    measure: str
    modality: str
    metric: str
    value: float
    low: float
    high: float

    def row(self) -> dict[str, Any]:
        """Give the row of ``contribution.csv``."""
        return asdict(self)


def verdict(test: PermutationTest) -> str:
    """Say whether a permutation test shows that the model uses the modality.

    Parameters
    ----------
    test : PermutationTest
        Across patients. Under 499 permutations no p-value is small enough.

    Returns
    -------
    str
        ``used`` where AUROC's p <= .002 and its drop is .02 or more, up or down; otherwise
        ``not shown to be used``, which is not "unused".

    Examples
    --------
    >>> from cxr_ray.evaluation.sensitivity import MetricDrop
    >>> drop = MetricDrop("auroc", 0.9, 0.7, 0.2, 0.15, 0.25, p_value=0.0005)
    >>> verdict(PermutationTest("image_shuffled", 1999, (drop,)))
    'used'
    """
    found = test["auroc"]
    shown = found.p_value <= USED_P_VALUE and abs(found.drop) >= USED_DROP
    return USED if shown else NOT_SHOWN


def auroc_shapley(
    image_part: ArrayLike,
    text_part: ArrayLike,
    label: ArrayLike,
    *,
    rng: np.random.Generator,
    permuted: tuple[float, float] | None = None,
    n_repeats: int = 299,
    n_resamples: int = 500,
    shuffles: int = 2,
    groups: ArrayLike | None = None,
    folds: Folds | None = None,
) -> tuple[Contribution, ...]:
    """Share what an additive head's AUROC has above chance between the two modalities.

    Parameters
    ----------
    image_part, text_part : (N,) array-like
        The two parts of each record's logit; the intercept changes no rank.
    label : (N,) array-like of 0/1
    rng : numpy.random.Generator
    permuted : (float, float), optional
        Mean AUROC with the image and with the text permuted, where
        `cxr_ray.evaluation.sensitivity.permutation_test` has given them already.
    n_repeats : int
        Number of permutations of each modality, where `permuted` is not given.
    n_resamples : int
        Number of bootstrap resamples of the intervals.
    shuffles : int
        Number of fresh permutations of each modality inside a resample, at least 2, which gives
        intervals as wide as eight do: see `cxr_ray.evaluation.sensitivity.permutation_test`.
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several.
    folds : Folds, optional
        The fit that scored each entry of a cross-validation: figures are means over folds.

    Returns
    -------
    tuple of Contribution
        Of the image, the text, and both: the latter is AUROC - .5, the sum of the other two.

    Notes
    -----
    Shapley 1953 with two players: v(none) = .5, v(image) = mean AUROC with the text permuted,
    v(text) with the image permuted, v(both) = intact; the image's share is
    ``(v(image) - .5 + v(both) - v(text)) / 2``. An interaction is split in equal halves.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> label = np.repeat([0, 1], [90, 10])
    >>> text = rng.normal(size=100) + 2 * label
    >>> image, text, both = auroc_shapley(np.zeros(100), text, label, rng=rng, n_repeats=19)
    >>> bool(abs(image.value + text.value - both.value) < 1e-9), round(image.value, 2)
    (True, -0.01)
    """
    positive = as_labels(label)
    a, b = (as_scores(part, len(positive)) for part in (image_part, text_part))

    def score_rows(image_index: IntArray, text_index: IntArray) -> FloatArray:
        return a[image_index] + b[text_index]

    plan = _ShapleyPlan(permuted, n_repeats, n_resamples, shuffles)
    return _shapley(score_rows, positive, plan, rng, groups, folds)


def auroc_shapley_of_head(
    score: HeadScorer,
    image: ArrayLike,
    text: ArrayLike,
    label: ArrayLike,
    *,
    rng: np.random.Generator,
    permuted: tuple[float, float] | None = None,
    n_repeats: int = 299,
    n_resamples: int = 100,
    shuffles: int = 2,
    groups: ArrayLike | None = None,
    folds: Folds | None = None,
) -> tuple[Contribution, ...]:
    """Share the AUROC of a head of any kind between the modalities; see `auroc_shapley`.

    The head runs on N records twice a repeat and ``1 + 2 * shuffles`` times a resample.

    Parameters
    ----------
    score : callable
        ``score(image (M, D), text (M, D)) -> logits (M,)``.
    image, text : (N, D) array-like
        Cached features.
    label, rng, permuted, n_repeats, n_resamples, shuffles, groups, folds
        As in `auroc_shapley`.

    Returns
    -------
    tuple of Contribution
    """
    positive = as_labels(label)
    pixels, words = np.asarray(image), np.asarray(text)

    def score_rows(image_index: IntArray, text_index: IntArray) -> FloatArray:
        pairs = zip(image_index, text_index, strict=True)
        return np.stack([np.asarray(score(pixels[i], words[t])).reshape(-1) for i, t in pairs])

    plan = _ShapleyPlan(permuted, n_repeats, n_resamples, shuffles)
    return _shapley(score_rows, positive, plan, rng, groups, folds)


def variance_shares(
    image_part: ArrayLike,
    text_part: ArrayLike,
    label: ArrayLike,
    *,
    rng: np.random.Generator,
    n_resamples: int = 1000,
    groups: ArrayLike | None = None,
    folds: Folds | None = None,
) -> tuple[Contribution, ...]:
    """Split the variance of an additive head's logit between its parts, in total and within class.

    Parameters
    ----------
    image_part, text_part : (N,) array-like
    label : (N,) array-like of 0/1
    rng : numpy.random.Generator
    n_resamples : int
        Number of resamples of a plain patient bootstrap.
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several.
    folds : Folds, optional
        The fit that scored each entry of a cross-validation: figures are means over folds.

    Returns
    -------
    tuple of Contribution
        ``variance_share``: Var a, Var b and 2 Cov (modality ``both``) over Var(a + b), which sum
        to 1; ``covariance_share``: Cov(a, a + b) and Cov(b, a + b) over the same, which sum to 1
        too. Once more within classes, pooled in proportion to their sizes. Where the logit does not
        vary every share is 0.

    Notes
    -----
    The covariance decomposition of a sum (Shorrocks 1982). A part may vary
    without being of any use: these are shares of the logit, not of its accuracy.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> shares = variance_shares([0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 1, 1], rng=rng, n_resamples=9)
    >>> [(share.modality, share.value) for share in shares[:3]]
    [('image', 0.0), ('text', 1.0), ('both', 0.0)]
    """
    positive = as_labels(label)
    a, b = (as_scores(part, len(positive)) for part in (image_part, text_part))
    places = [np.arange(len(positive))] if folds is None else folds.places
    moments = [_moments(a[place], b[place], positive[place]) for place in places]

    def shares_of(weights: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore"):  # a fold of which one class is not drawn
            pairs = zip(places, moments, strict=True)
            return mean_defined([_shares(weights[:, place] @ sums) for place, sums in pairs])

    observed = shares_of(np.ones((1, len(positive))))
    sampler = PatientSampler.of(positive, groups)
    sizes = chunk_sizes(n_resamples, len(positive))
    drawn = np.vstack([shares_of(sampler.draw_weights(rng, size)) for size in sizes])
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    names = [
        (f"{measure}{suffix}", modality)
        for suffix in ("", "_within_class")
        for measure, modality in (
            ("variance_share", "image"),
            ("variance_share", "text"),
            ("variance_share", "both"),
            ("covariance_share", "image"),
            ("covariance_share", "text"),
        )
    ]
    return tuple(
        Contribution(
            measure, modality, "logit", float(observed[0, k]), float(low[k]), float(high[k])
        )
        for k, (measure, modality) in enumerate(names)
    )


@dataclass(frozen=True)
class _ShapleyPlan:
    permuted: tuple[float, float] | None
    n_repeats: int
    n_resamples: int
    shuffles: int

    def __post_init__(self) -> None:
        if self.n_repeats < 1 or self.n_resamples < 1 or self.shuffles < 2:
            raise ValueError("n_repeats and n_resamples are at least 1, shuffles at least 2")


def _shapley(
    score_rows: Callable[[IntArray, IntArray], FloatArray],
    positive: BoolArray,
    plan: _ShapleyPlan,
    rng: np.random.Generator,
    groups: ArrayLike | None,
    folds: Folds | None,
) -> tuple[Contribution, ...]:
    sampler = PatientSampler.of(positive, groups)
    strata = None if folds is None else folds.fit
    blocks = sampler.block if sampler.grouped else None
    every = np.arange(len(positive))

    def areas(own: IntArray, image: IntArray, text: IntArray) -> FloatArray:
        """AUROC of the records `own`, each side's features taken from rows of its own."""
        label, scores = positive[own], score_rows(image, text)
        if folds is None:
            return auroc_rows(label, scores)
        found = folds.repeat_means(own, lambda place: auroc_rows(label[place], scores[:, place]))
        return found.mean(axis=0)

    def permuted(rows: IntArray, block: IntArray | None) -> IntArray:
        return permute_records(rows, rng, None if strata is None else strata[rows], block)

    def mean_without(side: Modality) -> float:
        """Mean AUROC with one side permuted."""
        found = []
        for rows in chunk_sizes(plan.n_repeats, len(every)):
            own = np.tile(every, (rows, 1))
            pair = (permuted(own, blocks), own)
            found.append(areas(every, *(pair if side == "image" else reversed(pair))))
        return float(np.concatenate(found).mean())

    if plan.permuted is None:
        without_image, without_text = mean_without("image"), mean_without("text")
    else:
        without_image, without_text = plan.permuted
    both = float(areas(every, every[None], every[None])[0])
    drawn: list[FloatArray] = []
    noise = np.zeros(3)
    size = 1 + 2 * plan.shuffles
    alone = folds is not None
    for own, block in sampler.resamples(rng, plan.n_resamples, size, one_by_one=alone):
        count, width = own.shape
        image = own[:, None].repeat(size, axis=1)  # the first of a resample is intact
        text = image.copy()
        moved = permuted(own.repeat(2 * plan.shuffles, axis=0), block)
        moved = moved.reshape(count, 2, plan.shuffles, width)
        image[:, 1 : 1 + plan.shuffles], text[:, 1 + plan.shuffles :] = moved[:, 0], moved[:, 1]
        rows = own[0] if count == 1 else own.repeat(size, axis=0)
        found = areas(rows, image.reshape(-1, width), text.reshape(-1, width)).reshape(count, size)
        without = found[:, 1:].reshape(count, 2, plan.shuffles)
        drawn.append(np.column_stack(_shares_of_auroc(found[:, 0], *without.mean(axis=2).T)))
        # both shares hold half of the two permuted means' difference
        inner = without.var(axis=2, ddof=1).sum() / 4
        noise[:2] += inner * excess_noise(plan.shuffles) / plan.n_resamples
    low, high = percentiles_less_noise(np.concatenate(drawn), noise)
    values = _shares_of_auroc(both, without_image, without_text)
    return tuple(
        Contribution("shapley", name, "auroc", float(values[k]), float(low[k]), float(high[k]))
        for k, name in enumerate(("image", "text", "both"))
    )


def _shares_of_auroc(
    both: _Figure, without_image: _Figure, without_text: _Figure
) -> tuple[_Figure, _Figure, _Figure]:
    image = (without_text - 0.5 + both - without_image) / 2
    text = (without_image - 0.5 + both - without_text) / 2
    return image, text, both - 0.5


def _moments(a: FloatArray, b: FloatArray, positive: BoolArray) -> FloatArray:
    """(N, 12) products whose weighted sums give every variance, by class."""
    a, b = a - a.mean(), b - b.mean()  # sums of squares then keep their digits
    moments = np.column_stack([np.ones(len(a)), a, b, a * a, b * b, a * b])
    return np.hstack([moments * positive[:, None], moments * ~positive[:, None]])


def _shares(sums: FloatArray) -> FloatArray:
    """(R, 10) shares of rows of weighted sums of 1, a, b, aa, bb, ab, by class.

    A class without weight has no part in what is within classes; a row without any is NaN.
    """
    hits, others = sums[:, :6], sums[:, 6:]
    count = hits[:, 0] + others[:, 0]
    total = _covariance(hits + others)
    weight = hits[:, 0] / count
    within = [
        weight * one + (1 - weight) * other
        for one, other in zip(_covariance(hits), _covariance(others), strict=True)
    ]
    columns = []
    for var_a, var_b, cov in (total, within):
        whole = var_a + var_b + 2 * cov
        varies = whole > 1e-12 * (var_a + var_b)  # parts that cancel leave rounding only
        parts = (var_a, var_b, 2 * cov, var_a + cov, var_b + cov)
        columns += [np.where(varies, part / np.where(varies, whole, 1), 0.0) for part in parts]
    return np.where(count[:, None] > 0, np.column_stack(columns), np.nan)


def _covariance(sums: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Var a, Var b and Cov of each row of sums; 0 of a row without any weight."""
    _, a, b, aa, bb, ab = (sums / np.where(sums[:, :1] > 0, sums[:, :1], 1)).T
    return np.maximum(aa - a * a, 0), np.maximum(bb - b * b, 0), ab - a * b
