"""Which modality a finished multimodal trial uses, from its cached features and head alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.evaluation.contribution import (
    Contribution,
    auroc_shapley,
    auroc_shapley_of_head,
    variance_shares,
    verdict,
)
from cxr_ray.evaluation.delong import auroc_interval
from cxr_ray.evaluation.folds import Folds
from cxr_ray.evaluation.heads import (
    ADDITIVE_KINDS,
    HeadScorer,
    additive_parts,
    additive_weights,
    fusion_head,
)
from cxr_ray.evaluation.labels import FloatArray
from cxr_ray.evaluation.missing import missing_modality, missing_of_head
from cxr_ray.evaluation.sensitivity import (
    Modality,
    PermutationTest,
    permutation_test,
    permutation_test_of_head,
)

MODALITIES: tuple[Modality, ...] = ("image", "text")
Features = Mapping[str, NDArray[Any]]
Rows = list[dict[str, Any]]
Logits = tuple[FloatArray, FloatArray, FloatArray]

# A verdict of "used" needs p <= .002, which fewer permutations cannot reach.
HEAD_PERMUTATIONS = 499
HEAD_RESAMPLES = 299
# Attention costs some ten times what the other heads do.
ATTENTION_RECORDS = 2_000


@dataclass(frozen=True)
class ScoredRecords:
    """The records that a model is tested on.

    Attributes
    ----------
    rows
        Their places among the cached features.
    label
        (N,) 0/1.
    groups
        (N,) each record's patient.
    folds
        Which fit tested each entry, where the model is cross-validated.
    """

    rows: NDArray[np.int64]
    label: NDArray[np.int8]
    groups: NDArray[np.int64]
    folds: Folds | None = None

    def at_most(self, count: int, rng: np.random.Generator) -> "ScoredRecords":
        """Draw a fixed subset, in the same order and with the same share of positives."""
        if len(self.rows) <= count:
            return self
        positive = self.label == 1
        hits = min(max(round(count * positive.mean()), 1), count - 1)
        chosen = np.sort(
            np.concatenate(
                [
                    rng.choice(np.flatnonzero(positive), hits, replace=False),
                    rng.choice(np.flatnonzero(~positive), count - hits, replace=False),
                ]
            )
        )
        return ScoredRecords(self.rows[chosen], self.label[chosen], self.groups[chosen])


def modality_use(
    features: Features, tested: ScoredRecords, config: EvaluationConfig, identity: int
) -> tuple[Rows, Rows]:
    """Measure what a model loses without a modality, and what each contributes.

    An additive head is a sum of two numbers a record, on which the configured number of
    permutations is cheap; any other head is run on permuted projections, at most
    `HEAD_PERMUTATIONS` times a modality, and under cross-attention on at most
    `ATTENTION_RECORDS` records.

    Parameters
    ----------
    features
        As ``features.npz`` holds them; that of one modality gives no rows.
    tested
        The full test set.
    identity
        The experiment's id as a number: every draw derives from it.

    Returns
    -------
    Rows of ``sensitivity.csv`` and of ``contribution.csv``.
    """
    if not set(MODALITIES) <= set(features):
        return [], []
    kind = kind_of(features)
    if kind == "cross_attention":
        rng = np.random.default_rng([identity, 0xA7])
        tested = tested.at_most(ATTENTION_RECORDS, rng)
    image, text = (features[name][tested.rows] for name in MODALITIES)
    logits = logits_without(kind, features, image, text)
    if kind in ADDITIVE_KINDS:
        weights = additive_weights(kind, head_of(features))
        head: Head = AdditiveHead(additive_parts(image, text, *weights), tested)
    else:
        fusion = fusion_head(kind, head_of(features))
        pixels, words = (part.astype(np.float64) for part in (image, text))
        read = fusion.combine, fusion.project_image(pixels), fusion.project_text(words)
        head = AnyHead(read, tested)
    sensitivity, contribution = measure_use(head, logits, tested, config, identity)
    return sensitivity, contribution + _refitted_probes(features, tested)


class AdditiveHead:
    """A head whose logit is a sum of two numbers a record: permutations are cheap."""

    def __init__(self, parts: tuple[FloatArray, FloatArray, float], tested: ScoredRecords) -> None:
        self.parts = parts
        self.tested = tested
        self.how: dict[str, Any] = {"groups": tested.groups, "folds": tested.folds}

    def shuffle(self, modality: Modality, **how: Any) -> PermutationTest:
        """Test the model with one modality shuffled."""
        how |= self.how
        return permutation_test(*self.parts, self.tested.label, shuffle=modality, **how)

    def shapley(self, **how: Any) -> tuple[Contribution, ...]:
        """Share the AUROC between the modalities."""
        image, text, _ = self.parts
        return auroc_shapley(image, text, self.tested.label, **self.how, **how)

    def variance_shares(self, **how: Any) -> tuple[Contribution, ...]:
        """Split the logit's variance."""
        image, text, _ = self.parts
        return variance_shares(image, text, self.tested.label, **self.how, **how)


class AnyHead:
    """A head that can hold an interaction, run on permuted projections.

    One fresh permutation a resample gives intervals that are too wide rather than too narrow. No
    part of such a logit has a variance of its own.
    """

    def __init__(
        self, read: tuple[HeadScorer, NDArray[Any], NDArray[Any]], tested: ScoredRecords
    ) -> None:
        self.read = read
        self.tested = tested
        self.how: dict[str, Any] = {"groups": tested.groups, "folds": tested.folds}
        # Over the repeats of a cross-validation p is twice a median.
        self.most = HEAD_PERMUTATIONS if tested.folds is None else 2 * HEAD_PERMUTATIONS + 1

    def shuffle(
        self, modality: Modality, n_repeats: int, n_resamples: int, **how: Any
    ) -> PermutationTest:
        """Test the model with one modality shuffled."""
        how |= self.how
        return permutation_test_of_head(
            *self.read,
            self.tested.label,
            shuffle=modality,
            n_repeats=min(n_repeats, self.most),
            n_resamples=min(n_resamples, HEAD_RESAMPLES),
            **how,
        )

    def shapley(self, n_resamples: int, **how: Any) -> tuple[Contribution, ...]:
        """Share the AUROC between the modalities."""
        fewer = min(n_resamples, HEAD_RESAMPLES // 2)
        how |= {**self.how, "n_resamples": fewer}
        return auroc_shapley_of_head(*self.read, self.tested.label, **how)

    def variance_shares(self, **how: Any) -> tuple[Contribution, ...]:
        """Give nothing: see above."""
        return ()


Head = AdditiveHead | AnyHead


def measure_use(
    head: Head,
    logits: Logits | None,
    tested: ScoredRecords,
    config: EvaluationConfig,
    identity: int,
) -> tuple[Rows, Rows]:
    """Take each modality away in every way, and say what each contributes.

    The shuffles across patients use the configured number of resamples, what follows half or a
    quarter of it: enough for a 95 % interval, and scoring stays a matter of seconds.

    Parameters
    ----------
    logits
        Of the intact model, without the image and without the text; None where no mean features
        are kept.

    Returns
    -------
    Rows of ``sensitivity.csv`` and of ``contribution.csv``.
    """
    whole = config.bootstrap
    half, quarter = (max(100, whole // share) for share in (2, 4))

    def generator(number: int) -> np.random.Generator:
        return np.random.default_rng([identity, number])

    def shuffled(modality: Modality, number: int, **how: Any) -> PermutationTest:
        rng = generator(number)
        return head.shuffle(modality, n_repeats=config.permutations, rng=rng, **how)

    image = shuffled("image", 0, n_resamples=whole)
    text = shuffled("text", 1, n_resamples=whole)
    # Within classes the two shuffles are one test, whichever side moves.
    within = shuffled("text", 2, n_resamples=half, within=tested.label)
    same = PermutationTest("image_shuffled_within_class", within.repeats, within.drops)
    tests = [image, text, same, within]
    permuted = (image["auroc"].perturbed, text["auroc"].perturbed)
    found = [
        *head.shapley(rng=generator(3), permuted=permuted, n_resamples=quarter),
        *head.variance_shares(rng=generator(4), n_resamples=whole),
    ]
    if logits is not None:
        missing = missing_modality(
            *logits,
            tested.label,
            rng=generator(5),
            n_resamples=half,
            groups=tested.groups,
            folds=tested.folds,
        )
        tests += [missing.image, missing.text]
        found += missing.utilization
    verdicts: dict[str, str] = {
        name: verdict(test) for name, test in zip(MODALITIES, tests, strict=False)
    }
    sensitivity = [{"test_set": "full", **row} for test in tests for row in test.rows()]
    for row in sensitivity:
        row["p_value"] = None if math.isnan(row["p_value"]) else row["p_value"]
    contribution = [
        {"test_set": "full", **each.row(), "verdict": verdicts.get(each.modality)} for each in found
    ]
    return sensitivity, contribution


def logits_without(
    kind: str, features: Features, image: NDArray[Any], text: NDArray[Any]
) -> Logits | None:
    """Logits of the intact model, without the image and without the text."""
    if "train_mean.image" not in features:  # in folders of earlier versions
        return None
    score = fusion_head(kind, head_of(features)).score
    means = (features[f"train_mean.{name}"] for name in MODALITIES)
    return score(image, text), *missing_of_head(score, image, text, *means)


def _refitted_probes(features: Features, tested: ScoredRecords) -> Rows:
    """AUROC of what was refitted on each modality's features, and on both: no verdict on use."""
    rows = []
    for modality in (*MODALITIES, "both"):
        if f"probe.{modality}" in features:  # not in folders of earlier versions
            logit = features[f"probe.{modality}"][tested.rows]
            found = auroc_interval(tested.label, logit, groups=tested.groups)
            each = Contribution(
                "refitted_probe", modality, "auroc", found.auroc, found.low, found.high
            )
            rows.append({"test_set": "full", **each.row(), "verdict": None})
    return rows


def kind_of(features: Features) -> str:
    """Tell the kind of head; folders of earlier versions do not say it."""
    return str(features["kind"]) if "kind" in features else "concat"


def head_of(features: Features) -> dict[str, NDArray[Any]]:
    """Take the head's weights out of ``features.npz``."""
    prefix = "head."
    return {
        name.removeprefix(prefix): value
        for name, value in features.items()
        if name.startswith(prefix)
    }
