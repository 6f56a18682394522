"""What a model loses without a modality, its feature replaced by the training part's mean."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.contribution import Contribution
from cxr_ray.evaluation.folds import Folds, mean_defined
from cxr_ray.evaluation.heads import HeadScorer
from cxr_ray.evaluation.intervals import weighted_figures
from cxr_ray.evaluation.labels import FloatArray, as_labels, as_scores
from cxr_ray.evaluation.resampling import PatientSampler, chunk_sizes
from cxr_ray.evaluation.sensitivity import SENSITIVITY_METRICS, MetricDrop, PermutationTest

UTILIZATION_METRICS = ("balanced_accuracy", "auroc")


@dataclass(frozen=True)
class MissingModality:
    """What a model loses without a modality, its feature replaced by the training part's mean.

    Attributes
    ----------
    image, text : PermutationTest
        Drops of every metric, without a p-value: nothing is random but the patients.
    utilization : tuple of Contribution
        Conditional utilization rates both ways and their difference.
    """

    image: PermutationTest
    text: PermutationTest
    utilization: tuple[Contribution, ...]


def missing_modality(
    intact: ArrayLike,
    image_missing: ArrayLike,
    text_missing: ArrayLike,
    label: ArrayLike,
    *,
    rng: np.random.Generator,
    n_resamples: int = 1000,
    groups: ArrayLike | None = None,
    folds: Folds | None = None,
    threshold: float = 0.0,
) -> MissingModality:
    """Compare a model with itself, one modality replaced by the training part's mean feature.

    Parameters
    ----------
    intact, image_missing, text_missing : (N,) array-like
        Logits of the same records, for a head of any kind; `missing_of_head` makes the
        latter two.
    label : (N,) array-like of 0/1
    rng : numpy.random.Generator
    n_resamples : int
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several.
    folds : Folds, optional
        The fit that scored each entry of a cross-validation: figures are means over folds.
    threshold : float
        On the logit.

    Returns
    -------
    MissingModality

    Notes
    -----
    The conditional utilization rate of the image given the text is
    ``(A(both) - A(text alone)) / A(both)`` (Wu, Jastrzebski, Cho & Geras 2022); here the
    other modality alone is the same model with the mean feature, not refitted, and A is the
    balanced accuracy at `threshold` or the AUROC. Their difference is the imbalance between the
    two. With few positives the balanced accuracy at a probability of .5 is near .5 whatever
    the modality is worth. Where A(both) is 0 the rate is 0. The intervals are percentiles
    of a paired patient bootstrap.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> label = np.repeat([0, 1], [90, 10])
    >>> text = rng.normal(size=100) + 2 * label - 1
    >>> found = missing_modality(text, text, np.zeros(100), label, rng=rng, n_resamples=100)
    >>> found.image["auroc"].drop, round(found.utilization[-2].value, 2)
    (0.0, 0.44)
    """
    positive = as_labels(label)
    logits = [as_scores(rows, len(positive)) for rows in (intact, image_missing, text_missing)]
    places = [np.arange(len(positive))] if folds is None else folds.places

    def figures(weights: FloatArray, rows: FloatArray) -> dict[str, FloatArray]:
        with np.errstate(invalid="ignore", divide="ignore"):  # of a class that is not drawn
            found = [
                weighted_figures(
                    weights[:, place], positive[place], rows[place], rows[place], threshold
                )
                for place in places
            ]
        return {name: mean_defined([each[name] for each in found]) for name in found[0]}

    observed = [figures(np.ones((1, len(positive))), rows) for rows in logits]
    sampler = PatientSampler.of(positive, groups)
    drawn: list[list[dict[str, FloatArray]]] = [[], [], []]
    for size in chunk_sizes(n_resamples, len(positive)):
        weights = sampler.draw_weights(rng, size)
        for place, rows in enumerate(logits):
            drawn[place].append(figures(weights, rows))

    def draws(place: int, metric: str) -> FloatArray:
        return np.concatenate([part[metric] for part in drawn[place]])

    def drops(place: int) -> tuple[MetricDrop, ...]:
        found = []
        for metric in SENSITIVITY_METRICS:
            whole, left = (float(observed[each][metric][0]) for each in (0, place))
            low, high = _percentiles(draws(0, metric) - draws(place, metric))
            found.append(MetricDrop(metric, whole, left, whole - left, low, high, float("nan")))
        return tuple(found)

    utilization = []
    for metric in UTILIZATION_METRICS:
        whole = draws(0, metric)
        image, text = (_utilization(whole, draws(place, metric)) for place in (1, 2))
        values = [
            float(_utilization(observed[0][metric], each[metric])[0]) for each in observed[1:]
        ]
        for modality, value, rate in (
            ("image", values[0], image),
            ("text", values[1], text),
            ("difference", values[0] - values[1], image - text),
        ):
            low, high = _percentiles(rate)
            utilization.append(
                Contribution("conditional_utilization", modality, metric, value, low, high)
            )
    return MissingModality(
        image=PermutationTest("image_missing", 0, drops(1)),
        text=PermutationTest("text_missing", 0, drops(2)),
        utilization=tuple(utilization),
    )


def missing_of_head(
    score: HeadScorer,
    image: ArrayLike,
    text: ArrayLike,
    mean_image: ArrayLike,
    mean_text: ArrayLike,
) -> tuple[FloatArray, FloatArray]:
    """Logits of a head of any kind without the image, and without the text.

    Parameters
    ----------
    score : callable
        ``score(image (M, D), text (M, D)) -> logits (M,)``.
    image, text : (N, D) array-like
        Cached features.
    mean_image, mean_text : (D,) array-like
        Mean features of the training part.

    Returns
    -------
    image_missing, text_missing : (N,) arrays of float64
    """
    pixels, words = np.asarray(image), np.asarray(text)
    no_pixels = np.broadcast_to(np.asarray(mean_image), pixels.shape)
    no_words = np.broadcast_to(np.asarray(mean_text), words.shape)
    pairs = ((no_pixels, words), (pixels, no_words))
    first, second = (np.asarray(score(*pair), dtype=np.float64).reshape(-1) for pair in pairs)
    return first, second


def _utilization(both: FloatArray, alone: FloatArray) -> FloatArray:
    return np.divide(both - alone, both, out=np.zeros_like(both), where=both > 0)


def _percentiles(draws: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)
