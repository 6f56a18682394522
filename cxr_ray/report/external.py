"""What trained models scored on other sources: folders ``external/<name>/`` of their trials."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cxr_ray.config.identity import EVALUATION_VERSION, digest
from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.damage import SCORES, read_json
from cxr_ray.report.trial_folder import (
    Predictions,
    read_features,
    read_predictions,
    read_result,
)
from cxr_ray.storage import write_whole

EXTERNAL_FOLDER = "external"
EXTERNAL_FILE = "external.json"
EXTERNAL_LEASE = "external-test-"
"""What the folder in ``running/`` begins with whose lease an external test holds."""
PREFIX = "external:"
TESTED = "remove its folder, and launch/evaluate.py tests again"


def external_folders(trial: Path) -> list[Path]:
    """Return the finished external tests of a trial, by name."""
    found = (trial / EXTERNAL_FOLDER).glob(f"*/{EXTERNAL_FILE}")
    return sorted(path.parent for path in found if not path.parent.name.startswith("."))


def read_external(folder: Path) -> dict[str, Any]:
    """Read which cohort an external test was made on, and how."""
    return read_json(folder / EXTERNAL_FILE, TESTED)


def external_tests(trials: Path, identities: Iterable[str]) -> list[tuple[str, str, str]]:
    """List trial, name and uuid of every external test: what tables with them rest on."""
    return [
        (identity, folder.name, read_external(folder)["uuid"])
        for identity in identities
        for folder in external_folders(trials / identity)
    ]


def score_external(folder: Path, config: EvaluationConfig) -> dict[str, Any]:
    """Score an external test, or read the scores that lie there already.

    Thresholds and recalibration come from the validation part of the source that the model was
    trained on, as for its own test set.

    Parameters
    ----------
    folder
        ``external/<name>`` of a trial's folder.

    Returns
    -------
    ``figures``: metrics of the external test set; ``sensitivity``, ``contribution`` and
    ``net_benefit``: rows of these tables; ``recipe``.
    """
    recipe = {"version": EVALUATION_VERSION, **config.model_dump(mode="json")}
    path = folder / f"scores-{digest(recipe)}.json"
    if path.exists():
        return read_json(path, SCORES)
    # Imported to score: scipy.stats alone takes a second.
    from cxr_ray.report.modality_use import ScoredRecords, modality_use
    from cxr_ray.report.performance import decision_curve, score_test_set

    trial = folder.parent.parent
    external = read_predictions(folder)
    experiment, cohort = read_result(trial)["experiment_id"], read_external(folder)["cohort"]
    identity = int(digest([experiment, cohort]), 16)
    everyone = np.ones(len(external.label), bool)
    tested = ScoredRecords(np.flatnonzero(everyone), external.label, external.patients(everyone))
    sensitivity, contribution = modality_use(read_features(folder), tested, config, identity)
    name = {"test_set": f"{PREFIX}{folder.name}"}
    whole = _with_validation(external, read_predictions(trial))
    scores = {
        "recipe": recipe,
        "figures": score_test_set(whole, "full", config, identity),
        "sensitivity": [row | name for row in sensitivity],
        "contribution": [row | name for row in contribution],
        "net_benefit": [row | name for row in decision_curve(whole, "full", config)],
    }
    write_whole(path, json.dumps(scores, indent=1))
    return scores


def _with_validation(external: Predictions, own: Predictions) -> Predictions:
    """Put the model's own validation part beside an external test part."""
    rows = own.rows("val", "full")
    return Predictions(
        **{
            name: np.concatenate([getattr(own, name)[rows], getattr(external, name)])
            for name in Predictions.__dataclass_fields__
        }
    )
