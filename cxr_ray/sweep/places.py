"""A study's or trial's folder as a user names it: a path, or a URI inside an object store."""

from dataclasses import dataclass
from pathlib import Path

from cxr_ray.data.prepared import fetch_cohort
from cxr_ray.errors import InputError
from cxr_ray.storage import RESULT_FILE, Storage
from cxr_ray.sweep.study import STUDY_FILE, Study, bring_trials

_COMMITS = {"studies": STUDY_FILE, "trials": RESULT_FILE}


@dataclass(frozen=True)
class Place:
    """A folder of a storage, and the storage that it lies in."""

    storage: Storage
    folder: Path

    def publish(self) -> str:
        """Give other machines what changed in the folder, and say where it lies."""
        self.storage.home.publish(self.folder, _COMMITS[self.folder.parent.name])
        return self.storage.home.described(self.folder)


def find_place(location: str) -> Place:
    """Find a folder of ``STORAGE/studies`` or ``STORAGE/trials``, and bring it to this machine.

    Raises
    ------
    InputError
        For a URI that names no such folder, or one that nothing was published under.
    """
    if "://" not in location or location.startswith("file://"):
        folder = Path(location.removeprefix("file://"))
        return Place(Storage(folder.absolute().parent.parent), folder)
    root, kind, name = (location.rstrip("/").rsplit("/", 2) + ["", ""])[:3]
    if kind not in _COMMITS or not name:
        raise InputError(
            f"{location}: should be URI/studies/NAME or URI/trials/ID of a sweep's storage"
        )
    storage = Storage.open(root, create=False)
    folder = storage.root / kind / name
    if not storage.home.fetch(folder, _COMMITS[kind]):
        raise InputError(f"{location} holds no {_COMMITS[kind]}: was it published there?")
    return Place(storage, folder)


def bring_study(storage: Storage, study: Study) -> None:
    """Bring all that a study's page is made from to this machine."""
    bring_trials(storage, study.record["members"])
    for cohort in study.record.get("cohorts", ()):
        fetch_cohort(storage, cohort)
