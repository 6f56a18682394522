"""A trained model on the records of another cohort, as a whole folder beside its trial."""

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr_ray.config.identity import DataKeys
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.arm import ArmData, open_arm
from cxr_ray.errors import TrialError
from cxr_ray.models.classifier import Classifier, load_weights
from cxr_ray.report.external import EXTERNAL_FILE, EXTERNAL_FOLDER
from cxr_ray.report.trial_folder import FEATURES_FILE, read_features, write_predictions
from cxr_ray.storage import Storage, move_whole
from cxr_ray.training.loop import score
from cxr_ray.training.trial import build_classifier
from cxr_ray.training.world import World

WEIGHTS_FILE = Path("model", "model.safetensors")


def best_device() -> torch.device:
    """Return the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def evaluate_trial(
    storage: Storage,
    trial: Path,
    name: str,
    config: ExperimentConfig,
    keys: DataKeys,
    description: Mapping[str, Any],
    device: torch.device,
) -> None:
    """Score the test part of a prepared cohort with a trial's weights.

    Parameters
    ----------
    trial
        The trial's folder; ``external/<name>`` appears in it, whole.
    config
        The trial's, with the rules of the external cohort.
    keys
        Of the external cohort's packs.
    description
        Goes into ``external.json``.

    Raises
    ------
    InputError
        If the weights cannot be read or are not those of ``config``.
    TrialError
        If a logit is not finite.
    """
    # each record is passed through once, as to fill a cache
    config = config.uncached.computed_on(device.type)
    arm = open_arm(storage, config, keys)
    model = load_classifier(trial / WEIGHTS_FILE, config, arm, device)
    scores = score(config, arm, model, arm.indices("test", own=False), World(device=device))
    if not np.isfinite(scores.logits).all():
        raise TrialError(f"{trial.name}: its logits on {name} are not finite")
    # Head and training means travel along, so that the folder says all about sensitivity.
    kept = {
        name: value
        for name, value in read_features(trial).items()
        if name == "kind" or name.startswith(("head.", "train_mean."))
    }
    folder = trial / EXTERNAL_FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    aside = folder / f".{name}.{uuid.uuid4().hex}"
    aside.mkdir(mode=0o700)
    try:
        write_predictions(
            aside,
            record_id=arm.record_id[scores.records],
            group=arm.group[scores.records],
            part=arm.part[scores.records],
            in_own=np.ones(len(scores.records), bool),
            label=arm.label[scores.records],
            logit=scores.logits,
        )
        with (aside / FEATURES_FILE).open("wb") as file:
            np.savez(file, allow_pickle=False, **kept, **scores.features)
        found = {**description, "uuid": uuid.uuid4().hex, "device": device.type}
        (aside / EXTERNAL_FILE).write_text(json.dumps(found, indent=1))
        move_whole(aside, folder / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def load_classifier(
    weights: Path, config: ExperimentConfig, arm: ArmData, device: torch.device
) -> Classifier:
    """Build a trial's classifier with its trained weights.

    Raises
    ------
    InputError
        If the file cannot be read, or holds the weights of another architecture.
    """
    # What the encoders started from is in the trained weights already.
    model = build_classifier(config, arm, World(device=device), pretrained=False)
    load_weights(model, weights)
    return model
