"""Scoring a finished trial from its predictions and features: repeatable, and without the model.

The scores lie beside the result, with the recipe that they were made by; a folder whose recipe is
the wanted one is not scored again.
"""

import json
import math
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_ray.config.identity import EVALUATION_VERSION, digest
from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.evaluation.contribution import auroc_shapley, variance_shares, verdict
from cxr_ray.evaluation.heads import additive_parts
from cxr_ray.evaluation.missing import additive_missing, missing_modality
from cxr_ray.evaluation.sensitivity import Modality, PermutationTest, permutation_test
from cxr_ray.report.performance import decision_curve, score_test_set
from cxr_ray.report.trial_folder import Predictions, read_features, read_predictions, read_result
from cxr_ray.storage import move_whole, write_whole

FIGURES_FOLDER = "figures"
TEST_SETS = ("own", "full")
MODALITIES: tuple[Modality, ...] = ("image", "text")


def score_folder(folder: Path, config: EvaluationConfig) -> dict[str, Any]:
    """Score a trial folder and draw its pictures, or read the scores that lie there already.

    Parameters
    ----------
    folder
        A trial's folder with its predictions, features and result.

    Returns
    -------
    ``test_sets``: one dict of metrics by test set name; ``sensitivity``: rows of
    ``sensitivity.csv``; ``contribution`` and ``net_benefit``: rows of the tables of that name;
    ``val_accuracy``; ``recipe``.
    """
    recipe = {"version": EVALUATION_VERSION, **config.model_dump(mode="json")}
    # Studies that share a trial may score it by recipes of their own.
    path = folder / f"scores-{digest(recipe)}.json"
    if not (folder / FIGURES_FOLDER).is_dir():
        draw_figures(folder, read_predictions(folder))
    if path.exists():
        scores: dict[str, Any] = json.loads(path.read_text())
        return scores
    predictions = read_predictions(folder)
    # Every draw derives from the experiment, so that scoring again gives the same figures.
    identity = int(read_result(folder)["experiment_id"], 16)
    sensitivity, contribution = _modality_use(folder, predictions, config, identity)
    full = score_test_set(predictions, "full", config, identity)
    own = full
    if not predictions.in_own.all():
        own = score_test_set(predictions, "own", config, identity)
    scores = {
        "recipe": recipe,
        "test_sets": {"own": own, "full": full},
        "sensitivity": sensitivity,
        "contribution": contribution,
        "net_benefit": decision_curve(predictions, "full", config),
        "val_accuracy": _accuracy(predictions, predictions.rows("val", "own")),
    }
    write_whole(path, json.dumps(scores, indent=1))
    return scores


def draw_figures(folder: Path, predictions: Predictions) -> None:
    """Draw ROC, precision-recall, reliability and confusion of the test part as PNG files."""
    from cxr_ray.evaluation import figures

    curves = {"full test set": predictions.rows("test", "full")}
    if not predictions.in_own.all():
        curves["own test set"] = predictions.rows("test", "own")
    logits = {name: (predictions.label[r], predictions.logit[r]) for name, r in curves.items()}
    chances = {
        name: (predictions.label[r], predictions.probability[r]) for name, r in curves.items()
    }
    rows = predictions.rows("test", "full")
    drawn = {
        "roc": figures.roc_figure(logits),
        "precision_recall": figures.precision_recall_figure(logits),
        "reliability": figures.reliability_figure(chances),
        "confusion": figures.confusion_figure(
            predictions.label[rows], predictions.probability[rows]
        ),
    }
    aside = folder / f".{FIGURES_FOLDER}.{uuid.uuid4().hex}"
    aside.mkdir()
    for name, figure in drawn.items():
        figure.savefig(aside / f"{name}.png", dpi=100)
    move_whole(aside, folder / FIGURES_FOLDER)


def _modality_use(
    folder: Path, predictions: Predictions, config: EvaluationConfig, identity: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of ``sensitivity.csv`` and ``contribution.csv`` of a multimodal model, full test set.

    The shuffles across patients use the configured number of resamples, what follows half or a
    quarter of it: enough for a 95 % interval, and scoring stays a matter of seconds.
    """
    features = read_features(folder)
    if not {"image", "text"} <= set(features):
        return [], []
    rows = predictions.rows("test", "full")
    label, groups = predictions.label[rows], predictions.patients(rows)
    head = features["head.linear.weight"], features["head.linear.bias"]
    image, text, intercept = additive_parts(features["image"][rows], features["text"][rows], *head)

    def generator(number: int) -> np.random.Generator:
        return np.random.default_rng([identity, number])

    def shuffled(modality: Modality, number: int, within: Any, n_resamples: int) -> PermutationTest:
        return permutation_test(
            image,
            text,
            intercept,
            label,
            shuffle=modality,
            rng=generator(number),
            n_repeats=config.permutations,
            n_resamples=n_resamples,
            within=within,
            groups=groups,
        )

    half, quarter = (max(100, config.bootstrap // share) for share in (2, 4))
    across = (
        shuffled("image", 0, None, config.bootstrap),
        shuffled("text", 1, None, config.bootstrap),
    )
    # Within classes the two shuffles are one test, whichever side moves.
    within = shuffled("text", 2, label, half)
    same = PermutationTest("image_shuffled_within_class", within.repeats, within.drops)
    tests = [*across, same, within]
    found = [
        *auroc_shapley(
            image,
            text,
            label,
            rng=generator(3),
            permuted=(across[0]["auroc"].perturbed, across[1]["auroc"].perturbed),
            n_resamples=quarter,
            groups=groups,
        ),
        *variance_shares(
            image, text, label, rng=generator(4), n_resamples=config.bootstrap, groups=groups
        ),
    ]
    if "train_mean.image" in features:  # not in folders of earlier versions
        mean_image, mean_text, _ = additive_parts(
            features["train_mean.image"][None], features["train_mean.text"][None], *head
        )
        missing = missing_modality(
            image + text + intercept,
            *additive_missing(image, text, intercept, float(mean_image[0]), float(mean_text[0])),
            label,
            rng=generator(5),
            n_resamples=half,
            groups=groups,
        )
        tests += [missing.image, missing.text]
        found += missing.utilization
    verdicts: dict[str, str] = {
        name: verdict(test) for name, test in zip(MODALITIES, across, strict=True)
    }
    sensitivity = [{"test_set": "full", **row} for test in tests for row in test.rows()]
    for row in sensitivity:
        row["p_value"] = None if math.isnan(row["p_value"]) else row["p_value"]
    contribution = [
        {"test_set": "full", **each.row(), "verdict": verdicts.get(each.modality)} for each in found
    ]
    return sensitivity, contribution


def _accuracy(predictions: Predictions, rows: NDArray[np.bool_]) -> float:
    return float(np.mean((predictions.logit[rows] >= 0) == predictions.label[rows]))
