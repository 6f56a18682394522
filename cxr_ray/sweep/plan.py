"""From experiments to a plan: their keys and ids, and which of them this data can feed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cxr_ray.config.identity import (
    DataKeys,
    cohort_key,
    data_keys,
    digest,
    experiment_id,
    fingerprint_weights,
    tokenizer_key,
)
from cxr_ray.config.layers import Layer
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.config.weights import check_weights
from cxr_ray.data.sources import open_source
from cxr_ray.errors import InputError
from cxr_ray.storage import Storage
from cxr_ray.sweep.grid import Experiment

if TYPE_CHECKING:
    from cxr_ray.data.sources.source import Source


@dataclass(frozen=True)
class Member:
    """An experiment of a study with its identity; the id is None while its weights are absent."""

    experiment: Experiment
    source: "Source"
    keys: DataKeys
    id: str | None

    @property
    def name(self) -> str:
        """The run name."""
        return self.experiment.name

    @property
    def config(self) -> ExperimentConfig:
        """The resolved config."""
        return self.experiment.config

    @property
    def trained_id(self) -> str:
        """The id, for a member that is about to be trained.

        Raises
        ------
        InputError
            If its pretrained weights are absent.
        """
        if self.id is None:
            raise InputError(_absent_weights(self.config))
        return self.id


@dataclass(frozen=True)
class LeftOut:
    """An experiment that this study cannot train, and why."""

    name: str
    reason: str
    levels: Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """What a study trains and what it leaves out."""

    members: tuple[Member, ...]
    left_out: tuple[LeftOut, ...]
    data_key: str
    source_name: str

    @property
    def selected(self) -> tuple[Member, ...]:
        """The members that this command is about: all, or those that ``--only`` names."""
        return tuple(member for member in self.members if member.experiment.selected)

    def by_cohort(self) -> list[list[Member]]:
        """Group the selected members by the cohort that they read."""
        groups: dict[str, list[Member]] = {}
        for member in self.selected:
            groups.setdefault(member.keys.cohort, []).append(member)
        return list(groups.values())


def make_plan(
    experiments: Sequence[Experiment],
    storage: Storage,
    data: str,
    reports: str | None,
    overrides: Layer,
    demographics: str | None = None,
) -> Plan:
    """Open the data that each experiment reads and give each its identity.

    Raises
    ------
    InputError
        If the data cannot be opened, an override has no effect on it, or nothing is left to train.
    """
    sources: dict[str, Source] = {}
    members: list[Member] = []
    left_out: list[LeftOut] = []
    seen: dict[str, str] = {}
    for experiment in experiments:
        config = experiment.config
        check_weights(config)
        recipe = digest(
            config.model_dump(
                mode="json", include={"phantom": True, "cohort": True, "data": {"follow_links"}}
            )
        )
        if recipe not in sources:
            sources[recipe] = open_source(data, config, storage.prepared, reports, demographics)
            check_overrides(overrides, sources[recipe])
        try:
            member = make_member(experiment, sources[recipe])
            if member.id in seen:
                raise InputError(f"it is the same experiment as {seen[member.id]}")
        except InputError as error:
            left_out.append(LeftOut(experiment.model_name, str(error), experiment.levels))
            continue
        if member.id is not None:
            seen[member.id] = experiment.model_name
        members.append(member)
    if not any(member.experiment.selected for member in members):
        reasons = sorted({each.reason for each in left_out})
        has = next(iter(sources.values())).modalities
        one = len(has) == 1 and "fusion.modalities" not in overrides.values
        hint = f"; --set fusion.modalities={has[0]} reads what it has" if one else ""
        raise InputError(
            f"--data {data} can feed no experiment that is asked for: {'; '.join(reasons)}{hint}"
        )
    _check_cached(members)
    fingerprints = sorted({source.fingerprint() for source in sources.values()})
    return Plan(tuple(members), _once(left_out), digest(fingerprints), members[0].source.name)


def _check_cached(members: Sequence[Member]) -> None:
    """Refuse a cache of frozen stages where no model has any."""
    configs = [member.config for member in members]
    if any(config.train.cache_frozen for config in configs) and not any(
        config.caches for config in configs
    ):
        raise InputError(
            "train.cache_frozen is true, and no model here has frozen first stages; set "
            "image.freeze=conv1,layer1,layer2 or text.freeze=all, or leave it false"
        )


def make_member(experiment: Experiment, source: "Source") -> Member:
    """Give an experiment its keys and identity on a source.

    Raises
    ------
    InputError
        If the source cannot feed it.
    """
    config = experiment.config
    if config.cohort.labels == "radiologist":
        raise InputError(
            "cohort.labels=radiologist names studies of the official test set alone; "
            "launch/evaluate.py tests trained models on them"
        )
    reason = cannot_feed(source, config)
    if reason is not None:
        raise InputError(reason)
    rules, required = source.rules(config.cohort), source.required(config.data)
    keys = data_keys(cohort_key(source.fingerprint(), rules, required, config), config)
    return Member(experiment, source, keys, experiment_id(config, keys))


def leave_out_unreachable(plan: Plan, manifests: dict[str, dict[str, Any]]) -> Plan:
    """Leave out the class ratios above the cohort's own, now that it is counted.

    Parameters
    ----------
    manifests
        By cohort key; each has ``records``, ``positive`` and ``parts``. Members whose cohort is
        not counted stay.
    """
    kept, left_out = [], list(plan.left_out)
    for member in plan.members:
        share, counted = member.config.data.majority_share, manifests.get(member.keys.cohort)
        reason = None if share is None or counted is None else cannot_reach(share, counted)
        if reason is None:
            kept.append(member)
        else:
            left_out.append(LeftOut(member.experiment.model_name, reason, member.experiment.levels))
    if not any(member.experiment.selected for member in kept):
        raise InputError(f"nothing is left to train: {left_out[-1].reason}")
    return replace(plan, members=tuple(kept), left_out=_once(left_out))


def _once(left_out: Sequence[LeftOut]) -> tuple[LeftOut, ...]:
    """Name a cross-validated model once, whose fits are all left out for the same reason."""
    return tuple({(each.name, each.reason): each for each in left_out}.values())


def cannot_reach(share: float, counted: Mapping[str, Any]) -> str | None:
    """Say where a majority share is above the natural one, but for rounding by one record."""
    records, positive = counted["records"], counted["positive"]
    natural = max(positive, records - positive) / records
    if share > natural:
        return f"its majority share {share:g} is above the cohort's own, {_floor(natural)}"
    for part, sizes in counted["parts"].items():
        ones, n = sizes["n_positive"], sizes["n"]
        majority = ones if 2 * positive > records else n - ones
        if (n - majority) * share / (1 - share) > majority + 1:
            own = _floor(majority / n)
            return f"its majority share {share:g} is above that of the part {part}, {own}"
    return None


def _floor(share: float) -> str:
    """Write a share in three digits that are not above it: 0.8999 would look like 0.9."""
    return f"{int(1000 * share + 1e-9) / 1000:.3f}"


def cannot_feed(source: "Source", config: ExperimentConfig) -> str | None:
    """Say why a source cannot feed a model, or None."""
    for modality in config.fusion.modalities:
        if modality not in source.modalities:
            return f"{source.name} has no {modality}"
    if "image" in config.fusion.modalities and "image" not in source.required(config.data):
        return "it reads images, and data.require does not ask for them"
    return None


def check_overrides(overrides: Layer, source: "Source") -> None:
    """Refuse overrides of cohort or phantom fields that the source does not read."""
    for field in overrides.values:
        section, _, name = field.partition(".")
        if section == "cohort" and name not in source.reads:
            reads = ", ".join(sorted(source.reads)) or "none"
            raise InputError(
                f"{field} is set, and {source.kind} data does not read it; the cohort fields that "
                f"it reads: {reads}"
            )
        if section == "phantom" and source.kind != "phantom":
            raise InputError(f"{field} is set, and only --data phantom reads it, not {source.kind}")


def _absent_weights(config: ExperimentConfig) -> str:
    encoder = config.text.encoder
    found = fingerprint_weights(encoder), tokenizer_key("", config)
    if "text" in config.fusion.modalities and encoder != "scratch" and None in found:
        lacks = "no such folder" if found == (None, None) else "files are missing in this folder"
        return (
            f"text.encoder {encoder}: {lacks}; it should hold config.json, model.safetensors and "
            "tokenizer.json"
        )
    return (
        f"image.weights {config.image.weights}: no such file; it should be a .pth or .safetensors "
        f"state dict of torchvision's {config.image.encoder}"
    )
