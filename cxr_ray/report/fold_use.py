"""Which modality a cross-validated model uses, each fit read on its own fold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.evaluation.contribution import Contribution
from cxr_ray.evaluation.folds import Folds, fold_figures, fold_intervals
from cxr_ray.evaluation.heads import (
    ADDITIVE_KINDS,
    HeadScorer,
    additive_parts,
    additive_weights,
    fusion_head,
)
from cxr_ray.evaluation.intervals import ScoredSample
from cxr_ray.evaluation.labels import FloatArray
from cxr_ray.report.modality_use import (
    MODALITIES,
    AdditiveHead,
    AnyHead,
    Features,
    Head,
    Logits,
    Rows,
    ScoredRecords,
    head_of,
    kind_of,
    logits_without,
    measure_use,
)

# A resample costs as many rankings as there are fits.
FEWER_RESAMPLES = 4
_PROBES = 0xB0


def fold_use(
    features: Sequence[Features],
    rows: Sequence[NDArray[np.int64]],
    tested: ScoredRecords,
    config: EvaluationConfig,
    identity: int,
) -> tuple[Rows, Rows]:
    """Measure the use of modalities as `cxr_ray.report.modality_use.modality_use` does.

    Entries change places within their fold, and every figure is a mean over folds.

    Parameters
    ----------
    features
        Of each fit, as its ``features.npz`` holds them.
    rows
        Places of each fit's test records among them.
    tested
        The entries of all fits, with their folds.
    config
        A quarter of its resamples are drawn.
    identity
        Every draw derives from it.

    Returns
    -------
    Rows of ``sensitivity.csv`` and of ``contribution.csv``.
    """
    if not set(MODALITIES) <= set(features[0]) or tested.folds is None:
        return [], []
    kind = kind_of(features[0])
    pairs = [
        tuple(each[name][own] for name in MODALITIES)
        for each, own in zip(features, rows, strict=True)
    ]
    sensitivity, contribution = measure_use(
        _head(kind, features, pairs, tested),
        _logits(kind, features, pairs),
        tested,
        config.model_copy(update={"bootstrap": max(100, config.bootstrap // FEWER_RESAMPLES)}),
        identity,
    )
    return sensitivity, contribution + _probes(features, rows, tested, config, identity)


def _head(
    kind: str, features: Sequence[Features], pairs: Sequence[Any], tested: ScoredRecords
) -> Head:
    """Make one head of all: entries are scored by their own fit's, among whose they stay."""
    if kind in ADDITIVE_KINDS:
        parts = [
            additive_parts(image, text, *additive_weights(kind, head_of(each)))
            for each, (image, text) in zip(features, pairs, strict=True)
        ]
        # the intercept goes with the image: it is the same for all records of a fit
        images = np.concatenate([a + c for a, _, c in parts])
        return AdditiveHead((images, np.concatenate([b for _, b, _ in parts]), 0.0), tested)
    heads = [fusion_head(kind, head_of(each)) for each in features]
    images = np.concatenate(
        [
            h.project_image(image.astype(np.float64))
            for h, (image, _) in zip(heads, pairs, strict=True)
        ]
    )
    texts = np.concatenate(
        [h.project_text(text.astype(np.float64)) for h, (_, text) in zip(heads, pairs, strict=True)]
    )
    assert tested.folds is not None
    entries = np.arange(len(images))
    combines = [head.combine for head in heads]
    return AnyHead((_by_fit(combines, images, texts, tested.folds), entries, entries), tested)


def _by_fit(
    combines: Sequence[HeadScorer], images: FloatArray, texts: FloatArray, folds: Folds
) -> HeadScorer:
    """Score pairs of entries, given by their numbers, with the head of the fit that they are of."""

    def combine(image: NDArray[Any], text: NDArray[Any]) -> FloatArray:
        logits = np.empty(len(image))
        fit = folds.fit[image]
        for each in np.unique(fit):
            own = fit == each
            logits[own] = combines[each](images[image[own]], texts[text[own]])
        return logits

    return combine


def _logits(kind: str, features: Sequence[Features], pairs: Sequence[Any]) -> Logits | None:
    found = [logits_without(kind, each, *pair) for each, pair in zip(features, pairs, strict=True)]
    whole = [each for each in found if each is not None]
    if len(whole) < len(found):
        return None
    intact, image, text = (np.concatenate(parts) for parts in zip(*whole, strict=True))
    return intact, image, text


def _probes(
    features: Sequence[Features],
    rows: Sequence[NDArray[np.int64]],
    tested: ScoredRecords,
    config: EvaluationConfig,
    identity: int,
) -> Rows:
    """AUROC of what was refitted on each modality's features, and on both."""
    assert tested.folds is not None
    found = []
    for number, modality in enumerate((*MODALITIES, "both")):
        name = f"probe.{modality}"
        if not all(name in each for each in features):
            continue
        logits = [each[name][own] for each, own in zip(features, rows, strict=True)]
        samples = [
            ScoredSample.of(tested.label[place], expit(own), own, 0.5)
            for own, place in zip(logits, tested.folds.places, strict=True)
        ]
        interval = fold_intervals(
            samples,
            tested.folds,
            groups=tested.groups,
            n_resamples=config.bootstrap,
            names=["auroc"],
            rng=np.random.default_rng([identity, _PROBES + number]),
        )["auroc"]
        area = float(fold_figures(samples, tested.folds, names=["auroc"])["auroc"][0])
        each = Contribution("refitted_probe", modality, "auroc", area, interval.low, interval.high)
        found.append({"test_set": "full", **each.row(), "verdict": None})
    return found
