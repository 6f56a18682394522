"""Scoring a finished trial from its predictions and features: repeatable, and without the model.

The scores lie beside the result, with the recipe that they were made by; a folder whose recipe is
the wanted one is not scored again.
"""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_ray.config.identity import EVALUATION_VERSION, digest
from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.damage import SCORES, read_json
from cxr_ray.report.trial_folder import (
    Predictions,
    has_test,
    read_features,
    read_predictions,
    read_result,
)
from cxr_ray.storage import move_whole, write_whole

FIGURES_FOLDER = "figures"
TEST_SETS = ("own", "full")


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
    ``val_accuracy``; ``recipe``. A trial without predictions of the test part has no test set and
    no pictures.
    """
    recipe = scoring_recipe(folder, config)
    if not has_test(folder):
        predictions = read_predictions(folder)
        return {
            "recipe": recipe,
            "test_sets": {},
            "sensitivity": [],
            "contribution": [],
            "net_benefit": [],
            "val_accuracy": _accuracy(predictions, predictions.rows("val", "own")),
        }
    # Studies that share a trial may score it by recipes of their own.
    scores: dict[str, Any]
    path = folder / f"scores-{digest(recipe)}.json"
    result = read_result(folder)
    if "fits" in result:
        from cxr_ray.report.cross_validation import draw_fold_figures, score_cross_validation
    if not (folder / FIGURES_FOLDER).is_dir():
        if "fits" in result:
            draw_fold_figures(folder)
        else:
            draw_figures(folder, read_predictions(folder))
    if path.exists():
        return read_json(path, SCORES)
    # Imported to score: scipy.stats alone takes a second.
    from cxr_ray.report.modality_use import ScoredRecords, modality_use
    from cxr_ray.report.performance import decision_curve, score_test_set

    # Every draw derives from the experiment, so that scoring again gives the same figures.
    identity = int(result["experiment_id"], 16)
    if "fits" in result:
        scores = {"recipe": recipe, **score_cross_validation(folder, config, identity)}
        write_whole(path, json.dumps(scores, indent=1))
        return scores
    predictions = read_predictions(folder)
    rows = predictions.rows("test", "full")
    tested = ScoredRecords(
        np.flatnonzero(rows), predictions.label[rows], predictions.patients(rows)
    )
    sensitivity, contribution = modality_use(read_features(folder), tested, config, identity)
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


def scoring_recipe(folder: Path, config: EvaluationConfig) -> dict[str, Any]:
    """Return the recipe that `score_folder` scores a trial folder by, without scoring it."""
    recipe = {"version": EVALUATION_VERSION, **config.model_dump(mode="json")}
    return recipe if has_test(folder) else {**recipe, "parts": ["val"]}


Labelled = tuple[NDArray[np.int8], NDArray[np.float64]]
"""Labels and scores of the same records."""


def draw_figures(folder: Path, predictions: Predictions) -> None:
    """Draw ROC, precision-recall, reliability and confusion of the test part as PNG files."""
    curves = {"full test set": predictions.rows("test", "full")}
    if not predictions.in_own.all():
        curves["own test set"] = predictions.rows("test", "own")
    chances = {
        name: (predictions.label[r], predictions.probability[r]) for name, r in curves.items()
    }
    draw_curves(
        folder,
        ranked={name: (predictions.label[r], predictions.logit[r]) for name, r in curves.items()},
        calibrated=chances,
        called=chances["full test set"],
    )


def draw_curves(
    folder: Path,
    ranked: Mapping[str, Labelled],
    calibrated: Mapping[str, Labelled],
    called: Labelled,
) -> None:
    """Write a folder's pictures.

    Parameters
    ----------
    folder
        A trial's folder.
    ranked
        Logits behind each ROC and precision-recall curve, by its name.
    calibrated
        Probabilities behind each reliability curve.
    called
        Probabilities of the confusion matrix.
    """
    from cxr_ray.evaluation import figures

    drawn = {
        "roc": figures.roc_figure(ranked),
        "precision_recall": figures.precision_recall_figure(ranked),
        "reliability": figures.reliability_figure(calibrated),
        "confusion": figures.confusion_figure(*called),
    }
    aside = folder / f".{FIGURES_FOLDER}.{uuid.uuid4().hex}"
    aside.mkdir()
    for name, figure in drawn.items():
        figure.savefig(aside / f"{name}.png", dpi=100)
    move_whole(aside, folder / FIGURES_FOLDER)


def _accuracy(predictions: Predictions, rows: NDArray[np.bool_]) -> float:
    return float(np.mean((predictions.logit[rows] >= 0) == predictions.label[rows]))
