"""A trained model with all that judging takes: of a trial, or of a folder that was exported."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.damage import named_if_damaged, read_json
from cxr_ray.data.prepared import fetch_pack
from cxr_ray.data.tokenization import (
    PADDING,
    TOKENIZER_FILE,
    Tokenize,
    load_pretrained_tokenizer,
    open_trained,
    pretrained_tokenize,
    trained_tokenize,
)
from cxr_ray.errors import InputError
from cxr_ray.evaluation.calibration import Recalibration, fit_recalibration
from cxr_ray.evaluation.thresholds import f1_operating_point
from cxr_ray.report.trial_folder import (
    read_features,
    read_predictions,
    read_result,
    trained_config,
)
from cxr_ray.storage import RESULT_FILE, WEIGHTS_FILE, Storage

JUDGING_FILE = "judging.json"
CONFIG_FILE = "config.json"
TOKENIZER_FOLDER = "tokenizer"
EXPORTED = "export the trial again with launch/export.py"


@dataclass(frozen=True)
class Words:
    """How a model's reports become tokens.

    ``save`` writes the tokenizer to a folder, and of a pretrained encoder its architecture too.
    """

    tokenize: Tokenize
    vocabulary_size: int
    padding: int
    save: Callable[[Path], None]


@dataclass(frozen=True)
class TrainedModel:
    """A model's weights, and what was chosen for it on its validation part.

    Attributes
    ----------
    config
        As it was trained, without caches.
    weights
        A safetensors file.
    words
        None where the model reads no text.
    means
        By modality, the mean feature (features,) float32 of the training part.
    threshold
        The logit of highest F1 on the full validation part.
    recalibration
        The logistic line fitted there.
    """

    config: ExperimentConfig
    weights: Path
    words: Words | None
    means: dict[str, NDArray[np.float32]]
    threshold: float
    recalibration: Recalibration

    def save(self, folder: Path) -> None:
        """Write what `open_exported` reads; no local path is named in it."""
        folder.mkdir()
        shutil.copyfile(self.weights, folder / Path(WEIGHTS_FILE).name)
        if self.words is not None:
            self.words.save(folder / TOKENIZER_FOLDER)
        judging = {
            "threshold_logit": self.threshold,
            "recalibration": asdict(self.recalibration),
            "train_mean": {name: mean.tolist() for name, mean in self.means.items()},
        }
        config = without_paths(self.config).model_dump(mode="json")
        (folder / CONFIG_FILE).write_text(json.dumps({"config": config}, indent=1))
        (folder / JUDGING_FILE).write_text(json.dumps(judging))


def check_trial(storage: Storage, trial: Path) -> dict[str, Any]:
    """Read the result of a finished trial that is one model with weights.

    Raises
    ------
    InputError
        If the folder is none.
    """
    if not (trial / RESULT_FILE).is_file():
        raise InputError(f"{trial}: not a finished trial's folder, as STORAGE/trials/<id> is")
    result = read_result(trial)
    if "fits" in result:
        raise InputError(
            f"{trial}: it is cross-validated, and none of its fits is the model; train it once "
            "with data.split.kind=holdout"
        )
    if not storage.home.has(trial / WEIGHTS_FILE):
        raise InputError(f"{trial}: its weights were not kept ({WEIGHTS_FILE})")
    return result


def open_trial(storage: Storage, trial: Path) -> TrainedModel:
    """Read a finished trial.

    Raises
    ------
    InputError
        If the folder is no trial with weights, a file of it is damaged, or its tokenizer is not
        there.
    """
    result = check_trial(storage, trial)
    storage.home.fetch(trial, RESULT_FILE)
    config = trained_config(trial).uncached
    words = _open_words(storage, config, result["keys"])
    features = read_features(trial)
    predictions = read_predictions(trial)
    rows = predictions.rows("val", "full")
    label, logit = predictions.label[rows], predictions.logit[rows]
    return TrainedModel(
        config=config,
        weights=trial / WEIGHTS_FILE,
        words=words,
        means={name: features[f"train_mean.{name}"] for name in config.fusion.modalities},
        threshold=f1_operating_point(label, logit).threshold,
        recalibration=fit_recalibration(label, logit),
    )


def is_exported(folder: Path) -> bool:
    """Tell whether `open_exported` reads a folder."""
    return (folder / JUDGING_FILE).is_file()


def open_exported(folder: Path) -> TrainedModel:
    """Read what `TrainedModel.save` wrote.

    Raises
    ------
    InputError
        If the folder holds none, or a damaged one.
    """
    described = read_json(folder / CONFIG_FILE, EXPORTED)
    judging = read_json(folder / JUDGING_FILE, EXPORTED)
    with named_if_damaged(folder / CONFIG_FILE, EXPORTED):
        config = ExperimentConfig.model_validate(described["config"])
    with named_if_damaged(folder / JUDGING_FILE, EXPORTED):
        mean = judging["train_mean"]
        means: dict[str, NDArray[np.float32]] = {
            name: np.array(mean[name], np.float32) for name in config.fusion.modalities
        }
        threshold = float(judging["threshold_logit"])
        recalibration = Recalibration(**judging["recalibration"])
    words, tokenizer = None, folder / TOKENIZER_FOLDER
    if "text" in config.fusion.modalities:
        if config.text.encoder == "scratch":
            words = _trained_words(tokenizer, config.text.max_tokens)
        else:
            text = config.text.model_copy(update={"encoder": str(tokenizer)})
            config = config.model_copy(update={"text": text})
            words = _pretrained_words(str(tokenizer), text.max_tokens)
    return TrainedModel(
        config=config,
        weights=folder / Path(WEIGHTS_FILE).name,
        words=words,
        means=means,
        threshold=threshold,
        recalibration=recalibration,
    )


def without_paths(config: ExperimentConfig) -> ExperimentConfig:
    """Reduce local files and folders of weights to their last names."""

    def named(where: str | None) -> str | None:
        local = where is not None and (where[:1] in "./~\\" or Path(where).exists())
        return Path(where).name if where is not None and local else where

    image = config.image.model_copy(update={"weights": named(config.image.weights)})
    text = config.text.model_copy(update={"encoder": named(config.text.encoder)})
    return config.model_copy(update={"image": image, "text": text})


def _open_words(storage: Storage, config: ExperimentConfig, keys: dict[str, Any]) -> Words | None:
    if "text" not in config.fusion.modalities:
        return None
    text = config.text
    if text.encoder != "scratch":
        return _pretrained_words(text.encoder, text.max_tokens)
    home = storage.prepared / (keys.get("tokenizer_cohort") or keys["cohort"])
    folder = home / f"tokenizer-{keys['tokenizer']}"
    fetch_pack(storage, folder)
    if not (folder / TOKENIZER_FILE).is_file():
        raise InputError(
            f"{folder}: the tokenizer that the model was trained with is not there; it lives in "
            "prepared/ of the storage that the model was trained in"
        )
    return _trained_words(folder, text.max_tokens)


def _trained_words(folder: Path, max_tokens: int) -> Words:
    def save(target: Path) -> None:
        target.mkdir()
        shutil.copyfile(folder / TOKENIZER_FILE, target / TOKENIZER_FILE)

    size = open_trained(folder).get_vocab_size()
    return Words(trained_tokenize(folder, max_tokens), size, PADDING, save)


def _pretrained_words(name: str, max_tokens: int) -> Words:
    pretrained = load_pretrained_tokenizer(name)

    def save(target: Path) -> None:
        from transformers import AutoConfig

        pretrained.save_pretrained(target)
        AutoConfig.from_pretrained(name).save_pretrained(target)

    padding = pretrained.pad_token_id or PADDING
    return Words(pretrained_tokenize(name, max_tokens), len(pretrained), padding, save)
