"""Scoring the test part of a trial that was trained without a look at it."""

import json
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.arm import ArmData
from cxr_ray.models.classifier import Classifier, load_weights
from cxr_ray.report.scoring import score_folder
from cxr_ray.report.trial_folder import (
    FEATURES_FILE,
    PREDICTIONS_FILE,
    has_test,
    read_predictions,
)
from cxr_ray.storage import TEST_FILE, WEIGHTS_FILE, write_whole
from cxr_ray.training.loop import score
from cxr_ray.training.outputs import write_outputs
from cxr_ray.training.world import World


def add_test_part(
    folder: Path,
    config: ExperimentConfig,
    arm: ArmData,
    model: Classifier,
    world: World,
    compute: dict[str, Any],
) -> None:
    """Append the test part to a finished trial's predictions and features.

    The validation predictions stay as training left them, and ``result.json`` too. Each file is
    replaced whole, and ``test.json`` is written last: without it all of this is done again.

    Parameters
    ----------
    model
        Of the trial's shape; takes its weights.
    compute
        How the test part is computed, recorded beside it.
    """
    if has_test(folder):
        return
    load_weights(model, folder / WEIGHTS_FILE)
    evaluated = np.concatenate([arm.indices(part, own=False) for part in ("val", "test")])
    scores = score(config, arm, model, np.sort(evaluated), world)
    train = score(config, arm, model, arm.indices("train", own=True), world)
    if not world.is_first:
        return
    trained = read_predictions(folder)
    scores.logits[arm.part[scores.records] == "val"] = trained.logit[trained.part == "val"]
    aside = folder / f".{uuid.uuid4().hex}"
    aside.mkdir()
    write_outputs(aside, config, arm, model, scores, train)
    for name in (FEATURES_FILE, PREDICTIONS_FILE):
        (aside / name).replace(folder / name)
    aside.rmdir()
    done = {"scored_at": round(time.time(), 3), "compute": compute}
    write_whole(folder / TEST_FILE, json.dumps(done, indent=1))
    score_folder(folder, config.evaluation)
