"""A study's record: its members, what they were made from, and how those without result ended."""

import functools
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxr_ray import __version__
from cxr_ray.damage import read_json
from cxr_ray.errors import InputError
from cxr_ray.report.members import cross_validation_id, experiment_ids
from cxr_ray.report.page_files import PAGE_FILE, SHARED_FOLDER
from cxr_ray.storage import Storage, write_whole
from cxr_ray.sweep.plan import Member, Plan

STUDY_FILE = "study.json"
ENDED_FOLDER = "ended"
_NEEDED = ("name", "uuid", "members")
TRIED = "remove it, and the sweep's command tries the trial again"


@dataclass(frozen=True)
class Study:
    """A study folder and its identity."""

    name: str
    uuid: str
    folder: Path
    record: dict[str, Any]
    changes: tuple[str, ...] = ()
    """What an edited grid or override took out of the study, in sentences."""

    @classmethod
    def read(cls, folder: Path) -> "Study":
        """Read a study's record from its folder.

        Raises
        ------
        InputError
            If the folder holds none, a damaged one, or one of another version that this one
            cannot read.
        """
        path = folder / STUDY_FILE
        try:
            record = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise InputError(f"{path} is not there: give a folder of STORAGE/studies") from error
        except ValueError as error:
            raise InputError(
                f"{path} is no JSON ({error}): remove it and repeat the sweep's command, which "
                "writes it"
            ) from error
        if not isinstance(record, dict):
            raise InputError(
                f"{path} holds {type(record).__name__}, not a study: remove it and repeat the "
                "sweep's command, which writes it"
            )
        lacking = [name for name in _NEEDED if name not in record]
        if lacking:
            version = record.get("version", "an unknown version")
            raise InputError(
                f"{path} lacks {', '.join(lacking)}: cxr_ray {version} wrote it, and this is "
                f"{__version__}; use the version that wrote it, or another --study"
            )
        return cls(record["name"], record["uuid"], folder, record)

    def done(self, storage: Storage) -> list[str]:
        """Return the ids of the finished members, gathering those that are cross-validated."""
        from cxr_ray.report.out_of_fold import gather_fits

        members = self.record["members"]
        bring_trials(storage, members)
        return [m["experiment_id"] for m in members if gather_fits(storage.trials, m)]

    def published(self) -> list[Path]:
        """Return the tables, pictures and the page, which the tracker holds too.

        Of a page that shows records, the copy that does not.
        """
        kinds = {".csv", ".md", ".png", ".html"}
        found = sorted(path for path in self.folder.iterdir() if path.suffix in kinds)
        if not self.record.get("report", {}).get("show_records"):
            return found
        shared = self.folder / SHARED_FOLDER / PAGE_FILE
        return [shared if path.name == PAGE_FILE else path for path in found]

    def ended_file(self, experiment_id: str) -> Path:
        """Name the record of how a trial ended without a result."""
        return self.folder / ENDED_FOLDER / f"{experiment_id}.json"

    def write_ended(self, experiment_id: str, how: Mapping[str, Any]) -> Path:
        """Record how a trial ended without a result: its ``status``, ``reason`` and what it did.

        A failed one is tried once more by the next command, a pruned one never by this study.
        """
        path = self.ended_file(experiment_id)
        path.parent.mkdir(exist_ok=True)
        write_whole(path, json.dumps(how))
        return path

    def ended(self) -> dict[str, dict[str, str]]:
        """Return status and reason of the members that ended without a result, by id.

        A cross-validated member has none as long as a fit of it has failed.
        """
        ended = {
            identity: {"status": how["status"], "reason": how["reason"]}
            for identity, how in read_ended(self.folder).items()
        }
        for member in self.record["members"]:
            fits = [fit for fit in member.get("fits", ()) if fit["experiment_id"] in ended]
            if fits:
                how = ended[fits[0]["experiment_id"]]
                reason = f"{len(fits)} of its fits failed; {fits[0]['name']}: {how['reason']}"
                ended[member["experiment_id"]] = {**how, "reason": reason}
        return ended

    def describe(self, member: Member) -> dict[str, Any]:
        """Describe the model that a member is, or is a fit of."""
        return self._described.get(member.trained_id) or describe_members([member])[0]

    @functools.cached_property
    def _described(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for described in self.record["members"]:
            for identity in experiment_ids(described):
                found.setdefault(identity, described)
        return found

    def update(self, members: Sequence[Member], **fields: Any) -> None:
        """Record the members that a study has come to have, and further fields."""
        self.record["members"] = describe_members(members)
        self.record.update(fields)
        self.__dict__.pop("_described", None)
        write_whole(self.folder / STUDY_FILE, json.dumps(self.record, indent=1))


def bring_trials(storage: Storage, members: Sequence[Mapping[str, Any]]) -> None:
    """Bring the finished trials of a study's members to this machine."""
    for member in members:
        for identity in (member["experiment_id"], *experiment_ids(member)):
            storage.is_finished(identity, ())


def read_ended(folder: Path) -> dict[str, dict[str, Any]]:
    """Read all that is recorded of a study's trials that ended without a result, by id."""
    files = (folder / ENDED_FOLDER).glob("*.json")
    return {path.stem: read_json(path, TRIED) for path in sorted(files)}


def check_name(name: str) -> str:
    """Refuse study names that are no plain folder names."""
    odd = set(name) & set("/\\") or not name.isprintable() or name.startswith(".")
    if not name or name != name.strip() or odd or len(name.encode()) > 120:
        raise InputError(
            f"--study {name[:60]!r}: should be a plain name of at most 120 characters (fewer of "
            "those beyond ASCII), without /, control characters, a leading dot or spaces around it"
        )
    return name


def check_study(storage: Storage, name: str, plan: Plan, profile: str) -> str | None:
    """Return the uuid of the study under a name, or None where there is none yet.

    Raises
    ------
    InputError
        If the name belongs to a study on other data or with another profile.
    """
    folder = storage.studies / check_name(name)
    if not (folder / STUDY_FILE).exists():
        return None
    old = Study.read(folder).record
    for field, new in (("profile", profile), ("data_key", plan.data_key)):
        if old.get(field) != new:
            what = "other data" if field == "data_key" else f"the profile {old.get('profile')}"
            raise InputError(
                f"study {name} in this storage was made with {what}; give this one a name of "
                "its own with --study"
            )
    identity: str = old["uuid"]
    return identity


def open_study(
    storage: Storage,
    name: str,
    plan: Plan,
    *,
    profile: str,
    grid_name: str,
    grid_text: str,
    title: str,
    axes: Mapping[str, Sequence[str]],
    compare: Mapping[str, str],
    data: str,
    command: str,
    git_commit: str | None,
    members: Sequence[Member] | None = None,
) -> Study:
    """Open a study under its name, making it where it is new, and record its members.

    Parameters
    ----------
    members
        The members so far, where they are not the plan's.
    axes, compare
        The grid's axes with their levels, and which level the others of an axis are compared with.

    Raises
    ------
    InputError
        If the name belongs to a study on other data or with another profile.
    """
    identity = check_study(storage, name, plan, profile) or uuid.uuid4().hex
    folder = storage.studies / name
    path = folder / STUDY_FILE
    record = {
        "name": name,
        "uuid": identity,
        "title": title,
        "profile": profile,
        "grid": grid_name,
        "grid_text": grid_text,
        "axes": {axis: list(levels) for axis, levels in axes.items()},
        "compare": dict(compare),
        "data": data,
        "source": plan.source_name,
        "data_key": plan.data_key,
        "cohorts": sorted({member.keys.cohort for member in plan.members}),
        "members": describe_members(
            [m for m in (plan.members if members is None else members) if m.id is not None]
        ),
        "left_out": [asdict(each) for each in plan.left_out],
        "evaluation": plan.members[0].config.evaluation.model_dump(mode="json"),
        "report": plan.members[0].config.report.model_dump(mode="json"),
        "version": __version__,
        "git_commit": git_commit,
        "command": command,
    }
    changes = _what_leaves(path, record)
    folder.mkdir(exist_ok=True)
    write_whole(path, json.dumps(record, indent=1))
    return Study(name, identity, folder, record, changes)


def _what_leaves(path: Path, record: dict[str, Any]) -> tuple[str, ...]:
    """Say which members of a study's last record its new one does not hold."""
    if not path.exists():
        return ()
    held = {member["experiment_id"] for member in record["members"]}
    old = Study.read(path.parent).record["members"]
    gone = [member["name"] for member in old if member["experiment_id"] not in held]
    if not gone:
        return ()
    return (
        f"{len(gone)} members leave the study {record['name']} by this grid, --seeds or --set "
        f"({', '.join(gone[:4])}{', …' if len(gone) > 4 else ''}); their trials are kept, and "
        "--study gives a study beside it",
    )


def describe_members(members: Sequence[Member]) -> list[dict[str, Any]]:
    """Describe a study's models in plain values, as tables and tracking read them.

    The fits of a cross-validation are one model, under an id of its own that stands for them all.
    """
    described: list[dict[str, Any]] = []
    fits: dict[str, list[dict[str, Any]]] = {}
    for member in members:
        split, model = member.config.data.split, _describe(member)
        if split.kind == "kfold":
            fit = {
                "experiment_id": member.trained_id,
                "name": member.name,
                "repeat": split.repeat,
                "fold": split.fold,
            }
            key = json.dumps([model["name"], dict(member.experiment.levels)])
            if key in fits:
                fits[key].append(fit)
                continue
            fits[key] = model["fits"] = [fit]
        described.append(model)
    for model in described:
        if "fits" in model:
            model["experiment_id"] = cross_validation_id(experiment_ids(model))
    return described


def _describe(member: Member) -> dict[str, Any]:
    experiment = member.experiment
    return {
        "experiment_id": member.trained_id,
        "name": experiment.model_name,
        "modality": experiment.modality,
        "dataset": experiment.dataset,
        "loss": experiment.loss,
        "seed": experiment.seed,
        "further": experiment.further_levels,
    }
