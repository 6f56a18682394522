"""Preparing a cohort on its own, before any sweep."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_ray.config.identity import DataKeys, cohort_key, data_keys
from cxr_ray.config.layers import Layer, load_profile, parse_assignments, resolve
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.fan_out import FanOut, ray_tasks, run_here
from cxr_ray.data.packing import Progress
from cxr_ray.data.prepare import prepare
from cxr_ray.data.prepared import (
    fetch_for_audit,
    is_prepared,
    named_counts,
    read_agreement,
    read_flow,
    read_manifest,
)
from cxr_ray.data.sources import config_of, open_source
from cxr_ray.storage import Storage

PAPER_POSITIVE, PAPER_NEGATIVE = 2323, 21790


@dataclass(frozen=True)
class PreparedCohort:
    """A prepared cohort: where it lies, what was counted, and how it was selected."""

    folder: Path
    where: str
    manifest: dict[str, Any]
    flow: list[dict[str, Any]]

    def describe(self) -> str:
        """Lay out what was selected and where it lies."""
        from cxr_ray.data.label_agreement import describe_agreement

        agreement = read_agreement(self.folder)
        parts = [describe_counts(self.manifest, self.flow)]
        parts += [] if agreement is None else [describe_agreement(agreement)]
        return "\n".join([*parts, f"cohort: {self.where}"])


def prepare_cohort(
    *,
    storage: str,
    data: str,
    reports: str | None,
    profile: str,
    overrides: Sequence[str],
    cohort_only: bool,
    progress: Progress,
    demographics: str | None = None,
) -> PreparedCohort:
    """Prepare what one config reads; see ``launch/prepare.py``.

    Raises
    ------
    InputError
        For bad input of any kind.
    """
    layers = [load_profile(profile), Layer("--data", config_of(data)), parse_assignments(overrides)]
    config = resolve(layers)
    place = Storage.open(storage)
    source = open_source(data, config, place.prepared, reports, demographics)
    # Without a look at the files no record can be required to have one.
    required = () if cohort_only else source.required(config.data)
    cohort = cohort_key(source.fingerprint(), source.rules(config.cohort), required, config)
    if cohort_only:
        config = config.model_copy(update={"data": config.data.model_copy(update={"require": ()})})
        wanted = [(config, DataKeys(cohort, None, None, None))]
    else:
        fusion = config.fusion.model_copy(update={"modalities": required})
        config = config.model_copy(update={"fusion": fusion})
        wanted = [(fit, data_keys(cohort, fit)) for fit in config.fits]
    if not all(is_prepared(place, keys) for _, keys in wanted):
        fan_out: FanOut = run_here
        if not cohort_only:
            from cxr_ray.sweep.runner import start_ray

            start_ray(None)
            fan_out = ray_tasks(place)
        prepare(
            place,
            source,
            wanted,
            fan_out=fan_out,
            progress=progress,
            driver=uuid.uuid4().hex,
            cohort_only=cohort_only,
        )
    for _, keys in wanted:
        fetch_for_audit(place, keys)
    if not cohort_only:
        _cache(place, wanted, progress)
    folder = place.prepared / cohort
    manifest, flow = read_manifest(place, cohort), read_flow(place, cohort)
    return PreparedCohort(folder, place.home.described(folder), manifest, flow)


def _cache(
    place: Storage, wanted: Sequence[tuple[ExperimentConfig, DataKeys]], progress: Progress
) -> None:
    """Compute what frozen stages make of the packs, where the config stores it."""
    from cxr_ray.training.frozen import cache_frozen, is_cached

    if all(is_cached(place, *each) for each in wanted):
        return
    import ray

    from cxr_ray.sweep.runner import start_ray

    if not ray.is_initialized():
        start_ray(None)
    cache_frozen(
        place,
        wanted,
        fan_out=ray_tasks(place),
        progress=progress,
        driver=uuid.uuid4().hex,
    )


def describe_counts(manifest: Mapping[str, Any], flow: Sequence[Mapping[str, Any]]) -> str:
    """Lay out a selection flow, the paper's counts beside a MIMIC one, and the parts."""
    lines = [format_flow(flow)]
    if manifest["source"] == "mimic":
        lines.append(f"the paper's cohort: {PAPER_POSITIVE} positive, {PAPER_NEGATIVE} negative")
    lines += [
        f"{part}: {counts['n']} records, {counts['n_positive']} positive"
        for part, counts in named_counts(manifest).items()
    ]
    return "\n".join(lines)


def format_flow(flow: Sequence[Mapping[str, Any]]) -> str:
    """Lay a selection flow out as a table, a line a rule."""
    width = max(len(step["rule"]) for step in flow)
    lines = [f"{'rule':{width}}  {'dropped':>9}  {'left':>9}  {'positive':>9}  {'negative':>9}"]
    for step in flow:
        classes = ["" if step[name] is None else step[name] for name in ("positive", "negative")]
        lines.append(
            f"{step['rule']:{width}}  {step['dropped']:>9}  {step['after']:>9}  "
            f"{classes[0]:>9}  {classes[1]:>9}  {step['unit']}"
            + (f" ({step['note']})" if step.get("note") else "")
        )
    return "\n".join(lines)
