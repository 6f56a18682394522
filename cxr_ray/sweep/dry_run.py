"""The plan of a sweep in words: what it would train, on what, and what is not known yet."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from cxr_ray.config.identity import frozen_keys
from cxr_ray.data.frozen_pack import image_outputs
from cxr_ray.data.prepared import MANIFEST, count_parts, is_prepared, read_flow, read_manifest
from cxr_ray.errors import InputError
from cxr_ray.report.contrasts import declared_contrasts
from cxr_ray.report.detectable import count_tested, describe_power
from cxr_ray.storage import Storage
from cxr_ray.sweep.ledger import Ledger
from cxr_ray.sweep.options import SweepOptions
from cxr_ray.sweep.plan import Member, Plan, leave_out_unreachable
from cxr_ray.sweep.preparation import describe_counts
from cxr_ray.sweep.price import StudyPrice, describe_price
from cxr_ray.sweep.resources import count_slots, local_resources
from cxr_ray.sweep.search_plan import (
    DEFAULT_TRIALS,
    FEWEST_FOR_IMPORTANCE,
    describe_space,
    remark_on_objective,
)
from cxr_ray.sweep.sweep import plan_sweep

PENDING = "id pending weights"


def describe_plan(options: SweepOptions, *, measure: bool = False) -> str:
    """Describe a sweep without preparing or training anything.

    Where the cohort is not prepared, it is counted from the source's tables alone.

    Parameters
    ----------
    measure
        Whether steps whose price is not known are measured, and kept in the storage. Without it
        nothing is written or started.

    Raises
    ------
    InputError
        As the sweep itself would.
    """
    planned = plan_sweep(options, create=measure)
    storage = planned.storage
    counted = {
        group[0].keys.cohort: _count(storage, group[0]) for group in planned.plan.by_cohort()
    }
    plan = leave_out_unreachable(
        planned.plan, {cohort: manifest for cohort, (manifest, _) in counted.items()}
    )
    lines = [f"study {planned.study_name}: {planned.subject.title}"]
    family = len(declared_contrasts(planned.axes, planned.compare))
    for group in planned.plan.by_cohort():
        cohort, split = group[0].keys.cohort, group[0].config.data.split.kind
        manifest, flow = counted[cohort]
        lines += ["", f"cohort {cohort}", describe_counts(manifest, flow)]
        searched = planned.search is not None
        power = describe_power(*count_tested(manifest, split), family, split, search=searched)
        lines.append(power)
    if planned.search is None:
        lines += ["", *_experiments(storage, plan)]
    else:
        manifest = counted[plan.members[0].keys.cohort][0]
        search, said = planned.search.within(manifest)
        lines += ["", *describe_space(search.space, search.fixed), *said]
        lines += remark_on_objective(manifest)
        lines.append(_asked(storage.studies / planned.study_name, options))
    lines += [f"  left out: {each.name}: {each.reason}" for each in plan.left_out]
    lines += ["", _resources(options), _disk(plan, counted)]
    members = list(plan.selected)
    if planned.search is not None:
        members = [plan.members[0]] * (_trial_limit(options) or DEFAULT_TRIALS)
        lines.append(f"priced as {len(members)} times trial 0, none ended before its time")
    manifests = {cohort: manifest for cohort, (manifest, _) in counted.items()}
    return "\n".join([*lines, *_price(storage, members, manifests, options, measure)])


def _price(
    storage: Storage,
    members: list[Member],
    manifests: dict[str, dict[str, Any]],
    options: SweepOptions,
    measure: bool,
) -> list[str]:
    try:
        price = StudyPrice(storage, members, manifests, options.resources, options.max_concurrent)
    except InputError as error:
        if options.address is None or measure:
            raise
        return [f"time: not measured; this machine cannot measure it: {error}"]
    if measure:
        price.measure()
    return describe_price(price, address=options.address)


def _experiments(storage: Storage, plan: Plan) -> list[str]:
    """List the experiments with id and state, the fits of a cross-validation in one line."""
    models: dict[str, list[Member]] = {}
    for member in plan.selected:
        models.setdefault(member.experiment.model_name, []).append(member)
    width = max(len(name) for name in models)
    fits = "" if len(models) == len(plan.selected) else f", {len(plan.selected)} fits"
    lines = [f"{len(models)} experiments{fits}"]
    for name, members in models.items():
        if members[0].experiment.fit is None:
            said = f"{members[0].id or PENDING}  {_state(storage, members[0])}"
        else:
            states = [_state(storage, member) for member in members]
            counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
            split = members[0].config.data.split
            said = f"{split.repeats} x {split.folds} folds: {', '.join(counts)}"
        lines.append(f"  {name:{width}}  {said}")
    return lines


def _count(storage: Storage, member: Member) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read what was counted when the cohort was prepared, or count the tables now."""
    folder = storage.prepared / member.keys.cohort
    if (folder / MANIFEST).exists():
        manifest = read_manifest(storage, member.keys.cohort)
        return manifest, read_flow(storage, member.keys.cohort)
    from cxr_ray.data.cohort import select_cohort

    cohort = select_cohort(member.source, member.config, check_files=False)
    label = cohort.frame["label"]
    manifest = {
        "source": member.source.kind,
        "records": len(label),
        "positive": int(label.sum()),
        **count_parts(cohort.frame, member.config.data),
    }
    return manifest, [asdict(step) for step in cohort.flow]


def _asked(folder: Path, options: SweepOptions) -> str:
    """Say how many trials a search has asked for, and how many it may."""
    asked = len(Ledger(folder).read())
    limit = _trial_limit(options)
    budget = f" within {options.time_budget:g} s" if options.time_budget is not None else ""
    few = limit is not None and limit < FEWEST_FOR_IMPORTANCE
    return f"trials: {asked} asked for so far, {limit or 'no limit'} in all{budget}" + (
        f"; the importance of parameters needs {FEWEST_FOR_IMPORTANCE}" * few
    )


def _trial_limit(options: SweepOptions) -> int | None:
    unlimited = options.trials is None and options.time_budget is None
    return DEFAULT_TRIALS if unlimited else options.trials


def _state(storage: Storage, member: Member) -> str:
    if member.id is not None and storage.is_finished(member.id):
        return "done"
    return "to train" if is_prepared(storage, member.keys) else "to prepare and train"


def _resources(options: SweepOptions) -> str:
    if options.address is not None:
        return "trials at once: computed from the cluster when it is joined"
    slots = count_slots(options.resources, local_resources(), options.max_concurrent)
    return f"trials at once on this machine: {slots}"


def _disk(plan: Plan, counted: dict[str, Any]) -> str:
    packs = {
        member.keys.image: counted[member.keys.cohort][0]["records"] * member.config.image.size**2
        for member in plan.selected
        if member.keys.image is not None
    }
    said = f"disk for image packs: {sum(packs.values()) / 1e6:.0f} MB"
    stored = {
        frozen_keys(member.config, member.keys)["image"]: counted[member.keys.cohort][0]["records"]
        * image_outputs(member.config.image)
        * (2 if member.config.train.cache_precision == "float16" else 4)
        for member in plan.selected
        if "image" in member.config.caches
    }
    if stored:
        said += (
            f"; for what train.cache_frozen stores of images: {sum(stored.values()) / 1e6:.0f} MB"
        )
    return said
