"""What an external test is about: which trained models, on which records of the other source."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_ray.config.identity import (
    DataKeys,
    cohort_key,
    data_keys,
    digest,
    text_pack_key,
    tokenizer_key,
)
from cxr_ray.config.layers import Layer, flatten, resolve
from cxr_ray.config.schema import ExperimentConfig, SplitConfig
from cxr_ray.data.prepared import fetch_cohort, read_manifest
from cxr_ray.data.sources import config_of, open_source
from cxr_ray.data.sources.external import ExternalSource
from cxr_ray.errors import InputError
from cxr_ray.report.members import experiment_ids
from cxr_ray.storage import WEIGHTS_FILE, Storage
from cxr_ray.sweep.places import bring_study
from cxr_ray.sweep.plan import cannot_feed, check_overrides
from cxr_ray.sweep.study import STUDY_FILE, Study

if TYPE_CHECKING:
    from cxr_ray.data.sources.source import Source

FREE_FIELDS = ("data.require", "data.max_bad_share", "data.follow_links")
FREE_SECTIONS = ("cohort", "phantom")


@dataclass(frozen=True)
class ExternalOptions:
    """What an external test is asked to do; the names are those of the command line."""

    folder: Path
    data: str
    reports: str | None = None
    overrides: Sequence[str] = ()
    name: str | None = None
    storage: str | None = None
    mlflow_uri: str | None = None


@dataclass(frozen=True)
class ExternalTest:
    """One trained model and the external cohort that it is tested on."""

    trial: Path
    label: str
    config: ExperimentConfig
    keys: DataKeys
    source: ExternalSource
    warning: str | None


def storage_of(options: ExternalOptions) -> Storage:
    """Open the storage that holds the folder, and check that the folder is one of it."""
    folder = options.folder.absolute()
    if not folder.is_dir():
        raise InputError(f"{options.folder} is no folder: give one of STORAGE/studies or /trials")
    kinds = [name for name in (STUDY_FILE, "result.json") if (folder / name).is_file()]
    if not kinds:
        raise InputError(
            f"{options.folder} holds neither {STUDY_FILE} nor result.json: give a folder of "
            "STORAGE/studies or STORAGE/trials"
        )
    storage = Storage.open(options.storage or str(folder.parent.parent), create=False)
    if not (storage.trials.is_dir() and storage.prepared.is_dir()):
        flag = "--storage names" if options.storage else "it lies in"
        raise InputError(
            f"{options.folder}: {flag} {storage.root}, which holds no trials/ and prepared/; give "
            "the storage folder of the sweep with --storage"
        )
    if kinds == ["result.json"] and folder.resolve().parent != storage.trials:
        raise InputError(f"{options.folder} is no folder of {storage.trials}")
    return storage


def allowed_overrides(overrides: Layer) -> Layer:
    """Refuse overrides of what the model was trained with."""
    for field in overrides.values:
        if field not in FREE_FIELDS and field.partition(".")[0] not in FREE_SECTIONS:
            raise InputError(
                f"--set {field}: the model keeps the value that it was trained with; cohort.*, "
                f"phantom.* and {' and '.join(FREE_FIELDS)} can be set for the other source"
            )
    return overrides


def trials_of(storage: Storage, folder: Path) -> dict[Path, str]:
    """Map the folders of the trials asked for to their run names."""
    if (folder / STUDY_FILE).is_file():
        study = Study.read(folder)
        bring_study(storage, study)
        members = study.record["members"]
        return {storage.trials / each["experiment_id"]: each["name"] for each in members}
    for name in storage.home.names(storage.studies):
        storage.home.fetch(storage.studies / name, STUDY_FILE)
    for path in sorted(storage.studies.glob(f"*/{STUDY_FILE}")):
        for each in Study.read(path.parent).record["members"]:
            if folder.resolve().name in {each["experiment_id"], *experiment_ids(each)}:
                return {folder.resolve(): each["name"]}
    return {folder.resolve(): folder.resolve().name}


class OtherSource:
    """The other source, opened once for each set of rules, and each cohort's key."""

    def __init__(self, storage: Storage, options: ExternalOptions, overrides: Layer) -> None:
        self._storage, self._options, self._overrides = storage, options, overrides
        self._sources: dict[str, Source] = {}

    def config_for(self, trained: ExperimentConfig) -> ExperimentConfig:
        """Give the trial's config with the rules that the command sets for the other source."""
        whole = {"majority_share": None, "split": SplitConfig().model_dump()}
        # Whoever trusted the links of one folder has said nothing of another.
        other = {**whole, "follow_links": False}
        data = {f"data.{name}": value for name, value in flatten(other).items()}
        layers = [
            Layer("config.yaml", flatten(trained.model_dump(mode="json"))),
            Layer("--data", {**config_of(self._options.data), **data}),
            self._overrides,
        ]
        config = resolve(layers)
        require = config.data.require
        if "data.require" in self._overrides.values or require is None:
            return config
        # What the training source had to have, this one may not have at all.
        if set(require) <= set(self.source_for(config).modalities):
            return config
        return config.model_copy(update={"data": config.data.model_copy(update={"require": None})})

    def source_for(self, config: ExperimentConfig) -> "Source":
        """Open the source by a config's rules."""
        recipe = digest(config.model_dump(mode="json", include={"phantom", "cohort"}))
        if recipe not in self._sources:
            options = self._options
            source = open_source(options.data, config, self._storage.prepared, options.reports)
            check_overrides(self._overrides, source)
            self._sources[recipe] = source
        return self._sources[recipe]


def plan_test(
    storage: Storage, trial: Path, label: str, opened: OtherSource
) -> "ExternalTest | str":
    """Say what a trial is tested on, or why it cannot be tested."""
    from cxr_ray.report.trial_folder import has_test, read_result, trained_config

    if not (trial / "result.json").exists():
        return "it is not trained"
    if "fits" in read_result(trial):
        return (
            "it is cross-validated, and none of its fits is the model: train it once, with "
            "data.split.kind=holdout, or give the folder of one fit"
        )
    if not has_test(trial):
        return "it is a search's trial, which leaves the test part alone"
    if not storage.home.has(trial / WEIGHTS_FILE):
        return "its weights are not in its folder (model/model.safetensors)"
    trained = trained_config(trial)
    keys = read_result(trial)["keys"]
    config = opened.config_for(trained)
    source = opened.source_for(config)
    reason = cannot_feed(source, config)
    if reason is not None:
        return reason
    if not fetch_cohort(storage, keys["cohort"]):
        return (
            f"the cohort that it was trained on ({keys['cohort']}) is not in prepared/, so that "
            "its patients cannot be left out"
        )
    kinds = {source.kind, read_manifest(storage, keys["cohort"])["source"]}
    same = len(kinds) == 1 or kinds == {"phantom", "mimic"}
    external = ExternalSource(source)
    if same:
        external = ExternalSource(source, storage.prepared / keys["cohort"], trained.data)
    warning = None
    if config.cohort.labels == "radiologist" and trained.data.split.kind != "official":
        warning = (
            "The models were not trained with data.split.kind=official: radiologist-labelled "
            "studies of patients whom they have seen are left out, as the flow counts, so that the "
            "rest is not the published test set."
        )
    return ExternalTest(
        trial, label, config, _external_keys(external, config, keys), external, warning
    )


def _external_keys(
    source: ExternalSource, config: ExperimentConfig, trained: dict[str, Any]
) -> DataKeys:
    """Key the external cohort's packs; its text pack covers the tokenizer of the training.

    Raises
    ------
    InputError
        If the files of the pretrained tokenizer are not those that the model was trained with.
    """
    rules, required = source.rules(config.cohort), source.required(config.data)
    cohort = cohort_key(source.fingerprint(), rules, required, config)
    keys = data_keys(cohort, config)
    if "text" not in config.fusion.modalities:
        return keys
    scratch = config.text.encoder == "scratch"
    if not scratch and tokenizer_key(cohort, config) != trained["tokenizer"]:
        raise InputError(
            f"text.encoder {config.text.encoder}: its tokenizer is absent or not the one that the "
            "model was trained with"
        )
    return replace(
        keys,
        text=text_pack_key(trained["tokenizer"], cohort, config.text),
        tokenizer=trained["tokenizer"],
        tokenizer_cohort=trained["cohort"] if scratch else None,
    )
