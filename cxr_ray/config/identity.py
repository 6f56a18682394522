"""Keys and ids: hashes of recipes, never of paths (DESIGN section 10).

An experiment's id covers what decides the numbers of a trained model and nothing else, so that a
finished trial can be trusted by any study that asks for the same experiment.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cxr_ray.config.schema import (
    ExperimentConfig,
    FusionConfig,
    ImageConfig,
    Modality,
    TextConfig,
)

PREPARE_VERSION = 1
TRAINING_VERSION = 1
EVALUATION_VERSION = 7
AUDIT_VERSION = 2
KEY_LENGTH = 16

_LOSS_FIELDS = {
    "bce": {"kind"},
    "focal": {"kind", "alpha", "gamma"},
    "weighted_bce": {"kind", "positive_weight"},
    "logit_adjusted": {"kind", "tau"},
}
_HIDDEN_KINDS = {"mlp", "gated", "bilinear", "cross_attention"}
_WEIGHT_FIELDS = {"image": "weights", "text": "encoder"}
# What is stored in float32 is not rounded: like the number of threads, it is no other experiment.
_CACHE_FIELDS = {"cache_frozen", "cache_precision"}
_SCRATCH_FIELDS = {"layers", "width", "heads", "vocabulary", "dropout"}
_WEIGHT_FILES = ("*.safetensors", "*.bin")
_MODEL_FILES = (*_WEIGHT_FILES, "config.json")
_TOKENIZER_FILES = ("tokenizer*.json", "vocab*", "merges.txt", "special_tokens_map.json", "*.model")


def digest(recipe: Any) -> str:
    """Hash a recipe of JSON values to ``KEY_LENGTH`` hex digits, whatever its key order."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


@dataclass(frozen=True)
class DataKeys:
    """Where an experiment's prepared data lies: ``prepared/<cohort>/{images,text}-<key>/``.

    ``tokenizer_cohort`` is the cohort that the tokenizer was trained on, where it is another one.
    """

    cohort: str
    image: str | None
    text: str | None
    tokenizer: str | None
    tokenizer_cohort: str | None = None


def cohort_key(
    fingerprint: str, rules: Mapping[str, Any], required: tuple[str, ...], config: ExperimentConfig
) -> str:
    """Key of the selected and split records.

    Parameters
    ----------
    fingerprint
        sha256 of the source's tables.
    rules
        The selection rules that this source reads, defaults resolved.
    required
        The modalities that a record must have, defaults resolved.
    config
        Only the split is read from it.
    """
    return digest(
        {
            "version": PREPARE_VERSION,
            "source": fingerprint,
            "rules": dict(rules),
            "require": sorted(required),
            "split": _split(config),
        }
    )


def fit_recipe(config: ExperimentConfig) -> dict[str, Any]:
    """Say which fit of a cross-validation this is; empty for any other split.

    Neither it nor the cohort holds the number of repeats: more of them leave the others as they
    are.
    """
    split = config.data.split
    return {"repeat": split.repeat, "fold": split.fold} if split.kind == "kfold" else {}


def image_pack_key(cohort: str, image: ImageConfig) -> str:
    """Key of the decoded images of a cohort at one size."""
    return digest({"cohort": cohort, "size": image.size})


def tokenizer_key(cohort: str, config: ExperimentConfig) -> str | None:
    """Key of the tokenizer, or None where the named local folder is absent.

    One that is trained here reads the training part, which differs between fits.
    """
    text = config.text
    if text.encoder == "scratch":
        return digest({"cohort": cohort, "wordpiece": text.vocabulary, **fit_recipe(config)})
    files = fingerprint_weights(text.encoder, _TOKENIZER_FILES, needed=_TOKENIZER_FILES)
    return None if files is None else digest({"files": files})


def text_pack_key(tokenizer: str, cohort: str, text: TextConfig) -> str:
    """Key of the tokenised reports of a cohort: view, mask, tokenizer and length."""
    return digest(
        {
            "cohort": cohort,
            "sections": list(text.sections),
            "mask": text.mask,
            "tokenizer": tokenizer,
            "max_tokens": text.max_tokens,
        }
    )


def data_keys(cohort: str, config: ExperimentConfig) -> DataKeys:
    """Keys of what this experiment reads; a modality that it does not read has none."""
    reads = config.fusion.modalities
    tokenizer = tokenizer_key(cohort, config) if "text" in reads else None
    return DataKeys(
        cohort=cohort,
        image=image_pack_key(cohort, config.image) if "image" in reads else None,
        text=text_pack_key(tokenizer, cohort, config.text) if tokenizer else None,
        tokenizer=tokenizer,
    )


def experiment_id(config: ExperimentConfig, keys: DataKeys) -> str | None:
    """Id of a fully specified model, or None while local weights that it names are absent."""
    recipe = recipe_read(config)
    for modality, field in _WEIGHT_FIELDS.items():
        name = recipe.get(modality, {}).get(field)
        if name is None or (modality, name) == ("text", "scratch"):
            continue
        weights = _pretrained(modality, name)
        if weights is None:
            return None
        recipe[modality][field] = weights
    if "text" in recipe and keys.text is None:
        return None
    packs = [keys.cohort, keys.image, keys.text]
    return digest({"version": TRAINING_VERSION, "packs": packs, **recipe})


def recipe_read(config: ExperimentConfig) -> dict[str, Any]:
    """Reduce the config to the fields that this model reads.

    The cohort's rules and the phantom's parameters are left to the cohort key, which covers them.
    """
    reads = config.fusion.modalities
    recipe: dict[str, Any] = {
        "data": {
            **_split(config),
            **fit_recipe(config),
            "majority_share": config.data.majority_share,
        },
        "fusion": {"modalities": sorted(reads)},
        "loss": config.loss.model_dump(mode="json", include=_LOSS_FIELDS[config.loss.kind]),
        "train": config.train.model_dump(mode="json", exclude=_CACHE_FIELDS),
    }
    if config.caches and config.train.cache_precision != "float32":
        recipe["train"]["cache_precision"] = config.train.cache_precision
    if config.data.majority_share is not None:
        recipe["data"]["seed"] = config.data.seed
    if len(reads) > 1:
        recipe["fusion"] |= _fusion_read(config.fusion)
    if "image" in reads:
        recipe["image"] = config.image.model_dump(mode="json")
        recipe["image"]["freeze"] = sorted(set(config.image.freeze))
    if "text" in reads:
        trained_here = config.text.encoder == "scratch"
        exclude = set() if trained_here else _SCRATCH_FIELDS
        if config.text.freeze == "none":
            exclude = exclude | {"freeze"}  # as before there was anything to freeze
        recipe["text"] = config.text.model_dump(mode="json", exclude=exclude)
    return recipe


def frozen_keys(config: ExperimentConfig, keys: DataKeys) -> dict[Modality, str]:
    """Keys of what the frozen first stages make of a pack: ``prepared/<cohort>/frozen/<key>/``.

    Only of the modalities that `ExperimentConfig.caches` names. Two experiments share them where
    pack, architecture, weights, frozen stages and precision are the same; random weights are those
    of a seed.
    """
    found: dict[Modality, str] = {}
    for modality in config.caches:
        recipe: dict[str, Any] = {
            "version": TRAINING_VERSION,
            "pack": keys.image if modality == "image" else keys.text,
            "precision": config.train.cache_precision,
        }
        if modality == "image":
            recipe |= {"encoder": config.image.encoder, "stages": list(config.image.frozen_prefix)}
            weights = config.image.weights
        else:
            trained_here = config.text.encoder == "scratch"
            weights = None if trained_here else config.text.encoder
            read = {"layers", "width", "heads"} if trained_here else set()
            recipe |= config.text.model_dump(mode="json", include={"pooling", "max_tokens", *read})
        if weights is None:
            recipe["seed"] = config.train.seed
        else:
            recipe["weights"] = _pretrained(modality, weights)
        found[modality] = digest(recipe)
    return found


def _pretrained(modality: str, name: str) -> str | None:
    """Identify pretrained weights; those of an image encoder are torchvision's, or a file."""
    return fingerprint_weights(name, public=modality == "text" or name == "imagenet")


def _fusion_read(fusion: FusionConfig) -> dict[str, Any]:
    """List what a head of this kind reads; what is off is left out, as if it did not exist."""
    read: dict[str, Any] = {"kind": fusion.kind}
    if fusion.kind in _HIDDEN_KINDS:
        read["hidden"] = fusion.hidden
    if fusion.kind != "average":
        training = fusion.model_dump(include={"modality_dropout", "auxiliary", "modulation"})
        read |= {name: value for name, value in training.items() if value}
    return read


def fingerprint_weights(
    name: str,
    patterns: tuple[str, ...] = _MODEL_FILES,
    *,
    needed: tuple[str, ...] = _WEIGHT_FILES,
    public: bool = True,
) -> str | None:
    """Identify weights by content where they are local files, else by their public name.

    Parameters
    ----------
    patterns
        The files of a folder that count.
    needed
        The files of which a folder must hold one.
    public
        Whether ``name`` may be a hub or torchvision name.

    Returns
    -------
    The sha256 of a local file or of a folder's files that match ``patterns``; ``name`` itself for
    a hub or torchvision name; None for a local path at which nothing that is needed lies.
    """
    if name == "imagenet":
        return name
    path = Path(name).expanduser()
    if path.is_file():
        return _sha256(path)
    if path.is_dir():
        if not any(True for pattern in needed for _ in path.glob(pattern)):
            return None
        files = sorted({file for pattern in patterns for file in path.glob(pattern)})
        return digest({file.name: _sha256(file) for file in files})
    looks_local = name.startswith((".", "/", "~", "\\"))
    return name if public and not looks_local else None


def _split(config: ExperimentConfig) -> dict[str, Any]:
    split = config.data.split
    if split.kind == "official":
        return {"kind": "official"}
    reads = {"kind", "shares"} | ({"folds"} if split.kind == "kfold" else set())
    if split.keeps_validation:
        reads.add("validation")
    return {"seed": config.data.seed, **split.model_dump(mode="json", include=reads)}


def _sha256(path: Path) -> str:
    state = path.stat()
    return _sha256_of(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256_of(path: Path, size: int, modified: int) -> str:
    """Hash a file once, however many experiments name it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
