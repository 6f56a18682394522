"""What a reader of a study should know besides its figures, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from cxr_ray.data.prepared import read_empty_views
from cxr_ray.report.trial_folder import read_result
from cxr_ray.storage import Storage
from cxr_ray.sweep.plan import Plan
from cxr_ray.sweep.resources import TrialResources
from cxr_ray.training.job import CACHE_FROZEN, FEWEST_WORKERS

FEW_IN_A_FOLD = 10


def remark_on_alpha(
    plan: Plan, manifests: Mapping[str, Mapping[str, Any]], *, search: bool = False
) -> list[str]:
    """Tell where focal loss weighs the majority: alpha is the weight of the positives.

    The plan of a search holds but its trial 0.
    """
    names = []
    for member in plan.selected:
        counted, loss = manifests[member.keys.cohort], member.config.loss
        if (
            loss.kind == "focal"
            and loss.alpha > 0.5
            and 2 * counted["positive"] > counted["records"]
        ):
            names.append(member.experiment.model_name.partition("-seed")[0])
    if not names:
        return []
    where = "trial 0 and every other that has it" if search else ", ".join(dict.fromkeys(names))
    return [
        f"Positives are the majority, and loss.alpha above .5 weighs them up further, in {where}."
    ]


def remark_on_folds(manifests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tell where a fold of a cross-validation has too few records of a class to rank them."""
    remarks = []
    for manifest in manifests.values():
        folds = manifest.get("folds", ())
        fewest = min(
            (min(fold["n_positive"], fold["n"] - fold["n_positive"]) for fold in folds),
            default=FEW_IN_A_FOLD,
        )
        if fewest < FEW_IN_A_FOLD:
            remarks.append(
                f"A fold holds only {fewest} records of a class: the figures of single folds are "
                "coarse, and a smaller data.split.folds gives each more."
            )
    return remarks


def remark_on_batch_norm(plan: Plan, need: TrialResources) -> list[str]:
    """Tell that workers without GPU do not share batch-norm statistics."""
    reads_images = any("image" in member.config.fusion.modalities for member in plan.selected)
    if need.workers < 2 or need.gpus_per_worker or not reads_images:
        return []
    return [
        "Workers without GPU normalise each its own share of a batch: image models differ from "
        "those of one worker, but for image.batch_norm=frozen."
    ]


def remark_on_cuda_switches(plan: Plan, need: TrialResources) -> list[str]:
    """Tell what was asked for that only CUDA does."""
    if need.gpus_per_worker:
        return []
    off: dict[str, None] = {}
    for member in plan.selected:
        asked = member.config.compute.model_dump()
        done = member.config.compute.on("cpu").model_dump()
        off |= {
            f"compute.{name}={asked[name]}": None for name in asked if asked[name] != done[name]
        }
    if not off:
        return []
    return [f"Only CUDA does {', '.join(off)}; without --gpus-per-worker it is off."]


def remark_on_lost_workers(storage: Storage, plan: Plan, done: Sequence[str]) -> list[str]:
    """Tell which trials went on with fewer workers than were asked for."""
    names = {member.trained_id: member.name for member in plan.members}
    lost = []
    for identity in done:
        how = read_result(storage.trials / identity)["compute"]
        if FEWEST_WORKERS in how:
            fewest = how[FEWEST_WORKERS]
            lost.append(f"{names.get(identity, identity)} ({fewest} of {how['workers']})")
    if not lost:
        return []
    return [
        f"Workers were lost, and with those left went on {', '.join(lost)}: on the same global "
        "batches, summed in another order."
    ]


def remark_on_arithmetic(storage: Storage, plan: Plan, done: Sequence[str]) -> list[str]:
    """Tell where trials were computed in another way than their like, or than was asked for.

    How they are computed is no part of an experiment's identity, so that none is trained again.
    """
    computed = [read_result(storage.trials / identity)["compute"] for identity in done]
    # What is off is as good as not there; lost workers have a sentence of their own, and what was
    # read from a cache of frozen stages differs by the last bit, or is another experiment.
    elsewhere = {FEWEST_WORKERS, CACHE_FROZEN}
    ways = {
        tuple(sorted((k, v) for k, v in how.items() if v is not False and k not in elsewhere))
        for how in computed
    }
    devices = {"cpu" if how.get("device") == "cpu" else "cuda" for how in computed}
    asked = {
        member.config.compute.on(device).precision for member in plan.selected for device in devices
    }
    found = {how["precision"] for how in computed}
    if len(ways) < 2 and (not found or asked == found):
        return []
    described = "; ".join(", ".join(f"{key} {value}" for key, value in way) for way in sorted(ways))
    return [
        f"This study mixes trials that were computed in different ways ({described}), with the "
        f"precision {', '.join(sorted(asked))} asked for now; --fresh trains them again."
    ]


def remark_on_empty_texts(storage: Storage, plan: Plan) -> list[str]:
    """Tell of each text view how many records have nothing in it, by class."""
    found = {}
    for member in plan.selected:
        if member.keys.text is not None:
            text = member.config.text
            view = f"{'+'.join(text.sections)}, mask {text.mask}"
            found[view] = read_empty_views(storage, member.keys)
    return [
        f"Empty texts in the view {view}: {counts['positive']} positive and "
        f"{counts['negative']} negative."
        for view, counts in found.items()
        if sum(counts.values())
    ]
