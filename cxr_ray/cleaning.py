"""What lies in a storage, who uses it, and freeing what nobody does.

Nothing that a study holds, that a living lease covers, or that changed within the last hour goes:
a sweep that has just begun may be about to use it.
"""

import os
import re
import shutil
import time
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cxr_ray.data.prepared import MANIFEST, read_manifest
from cxr_ray.errors import InputError
from cxr_ray.lease import acquire_lease, is_held, release_lease
from cxr_ray.report.external import EXTERNAL_LEASE, external_folders, read_external
from cxr_ray.report.members import experiment_ids
from cxr_ray.report.trial_folder import read_result
from cxr_ray.storage import RESULT_FILE, Storage
from cxr_ray.sweep.ledger import Ledger
from cxr_ray.sweep.study import Study, read_ended

QUIET_SECONDS = 3600.0
LEFTOVERS = "leftovers"

_ASIDE = re.compile(r"\.(.*\.)?[0-9a-f]{32}")
_PACK = re.compile(r"(images|text|tokenizer)-([0-9a-f]+)")
_PHANTOM_ASIDE = re.compile(r"\.phantom-[0-9a-f]+-.*")


@dataclass(frozen=True)
class Found:
    """One thing in a storage.

    Attributes
    ----------
    path
        A file or folder.
    size
        Bytes on disk.
    said
        What it is and who uses it.
    free
        What has to be asked for to free it: ``leftovers``, ``unfinished``, ``trials``, ``packs`` or
        ``frozen``; empty where it stays.
    lease
        The folder whose lease must be had to free it.
    """

    path: Path
    size: int
    said: str
    free: str = ""
    lease: Path | None = None

    def kept(self, why: str) -> "Found":
        """Keep it, and say why."""
        return replace(self, said=f"{self.said}; {why}", free="")


@dataclass
class _Use:
    """Who uses what of a storage: names of studies by id or key."""

    members: dict[str, set[str]] = field(default_factory=dict)
    pruned: dict[str, set[str]] = field(default_factory=dict)
    """Studies that will not go on with a trial, by its id."""
    cohorts: dict[str, set[str]] = field(default_factory=dict)
    keys: dict[str, set[str]] = field(default_factory=dict)
    waiting: dict[str, set[str]] = field(default_factory=dict)
    """Studies with unfinished trials, by cohort: which packs those read is not known."""


def survey(storage: Storage) -> list[Found]:
    """List what lies in a storage folder, in the order of its parts.

    Raises
    ------
    InputError
        If a study's record, a manifest or a lease cannot be read: what is in use would not be
        known.
    """
    use = _read_use(storage)
    running = list(_running(storage, use))
    latest = [*storage.studies.glob("*/study.json"), *storage.trials.glob(f"*/{RESULT_FILE}")]
    leased = [*_folders(storage.running), *_folders(storage.prepared)]
    busy = any(map(is_held, leased)) or _is_young(latest)
    found = [*_prepared(storage, use), *_trials(storage, use), *running, *_others(storage)]
    found += [
        Found(path, _size(path), "left by a process that was ended", LEFTOVERS)
        for path in _asides(storage)
    ]

    def part(each: Found) -> str:
        return each.path.relative_to(storage.root).parts[0]

    order = list(dict.fromkeys(map(part, found)))
    found.sort(key=lambda each: order.index(part(each)))
    return [_guarded(each, storage, busy) for each in found]


def free(storage: Storage, found: Collection[Found]) -> tuple[list[Found], list[Found]]:
    """Remove things; return those that are gone, and those that somebody has taken meanwhile.

    Raises
    ------
    InputError
        If the storage does not let them go.
    """
    gone: list[Found] = []
    taken: list[Found] = []
    for each in found:
        lease = None
        if each.lease is not None and each.lease.is_dir():
            lease = acquire_lease(each.lease, uuid.uuid4().hex)
            if lease is None:
                taken.append(each)
                continue
        try:
            # Whole or gone: a kill among its files leaves what the next call frees.
            aside = each.path
            if not _ASIDE.fullmatch(aside.name):
                aside = each.path.with_name(f".{each.path.name}.{uuid.uuid4().hex}")
                each.path.rename(aside)
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
        except FileNotFoundError:
            pass  # it went with its folder, or somebody else removed it
        except OSError as error:
            raise InputError(f"{each.path} cannot be removed: {error.strerror}") from error
        finally:
            if lease is not None and each.lease is not None:
                release_lease(each.lease, lease)
        gone.append(each)
    return gone, taken


def _read_use(storage: Storage) -> _Use:
    use = _Use()
    finished = {
        path.name for path in _folders(storage.trials) if storage.is_finished(path.name, ())
    }
    for folder in _folders(storage.studies):
        if not any(folder.iterdir()):
            continue
        study = Study.read(folder)
        ids = {member["experiment_id"] for member in study.record["members"]}
        ids |= {each for member in study.record["members"] for each in experiment_ids(member)}
        ids |= {asked.experiment_id for asked in Ledger(folder).read() if asked.experiment_id}
        pruned = {name for name, how in read_ended(folder).items() if how["status"] == "pruned"}
        for identity in ids:
            use.members.setdefault(identity, set()).add(study.name)
        for identity in pruned:
            use.pruned.setdefault(identity, set()).add(study.name)
        for cohort in study.record.get("cohorts", ()):
            use.cohorts.setdefault(cohort, set()).add(study.name)
            if ids - finished - pruned:
                use.waiting.setdefault(cohort, set()).add(study.name)
    for identity in finished:
        trial = storage.trials / identity
        users = use.members.get(identity, {f"trial {identity}"})
        keys = read_result(trial).get("keys", {})
        for name in ("cohort", "tokenizer_cohort"):
            if keys.get(name):
                use.cohorts.setdefault(keys[name], set()).update(users)
        for name in ("image", "text", "tokenizer"):
            if keys.get(name):
                use.keys.setdefault(keys[name], set()).update(users)
        for test in external_folders(trial):
            cohort = read_external(test)["cohort"]
            use.cohorts.setdefault(cohort, set()).update(users)
            use.waiting.setdefault(cohort, set()).update(users)
    return use


def _prepared(storage: Storage, use: _Use) -> Iterator[Found]:
    phantoms: dict[str, set[str]] = {}
    for folder in _folders(storage.prepared):
        if folder.name.startswith("phantom-"):
            continue
        users = use.cohorts.get(folder.name, set())
        if not (folder / MANIFEST).exists():
            said = "a cohort whose preparation was broken off"
            yield Found(folder, _size(folder), said, "unfinished", folder)
            continue
        fingerprint = read_manifest(storage, folder.name).get("fingerprint", "")
        phantoms.setdefault(f"phantom-{fingerprint[:16]}", set()).update(users)
        if not users:
            yield Found(folder, _size(folder), "a cohort that no study uses", "packs", folder)
            continue
        yield from _packs(folder, users, use)
    for folder in _folders(storage.prepared):
        if folder.name.startswith("phantom-"):
            users = phantoms.get(folder.name, set())
            said = "generated data" + _used_by(users)
            yield Found(folder, _size(folder), said, "" if users else "packs")


def _packs(folder: Path, users: set[str], use: _Use) -> Iterator[Found]:
    rest = _size(folder)
    for path in sorted(
        {path for each in ("*-*/", "*.partial/", "frozen/*/") for path in folder.glob(each)}
    ):
        if path.name.startswith("."):
            continue
        size, pack = _size(path), _PACK.fullmatch(path.name)
        if path.suffix == ".partial":
            done = path.with_suffix("").is_dir()
            said = "half-made, and made since" if done else "half-made: its command goes on from it"
            found = Found(path, size, said, LEFTOVERS if done else "unfinished", folder)
        elif path.parent.name == "frozen":
            said = f"what frozen stages make of a pack{_used_by(users)}; its command makes it again"
            found = Found(path, size, said, "frozen", folder)
        elif pack is not None:
            readers = use.keys.get(pack[2], set()) | use.waiting.get(folder.name, set())
            said = {"images": "images", "text": "tokens", "tokenizer": "a tokenizer"}[pack[1]]
            found = Found(path, size, said + _used_by(readers), "" if readers else "packs", folder)
        else:
            continue
        rest -= size
        yield found
    yield Found(folder, rest, "cohort, reports and counts" + _used_by(users))


def _trials(storage: Storage, use: _Use) -> Iterator[Found]:
    for path in _folders(storage.trials):
        users, size = use.members.get(path.name, set()), _size(path)
        if is_held(storage.running / path.name):
            yield Found(path, size, "a trial that is being worked on")
        elif users:
            yield Found(path, size, "a trial" + _used_by(users))
        else:
            yield Found(path, size, "a trial of no study", "trials")


def _running(storage: Storage, use: _Use) -> Iterator[Found]:
    for path in _folders(storage.running):
        size = _size(path)
        users = use.members.get(path.name, set()) - use.pruned.get(path.name, set())
        if is_held(path):
            what = "an external test" if path.name.startswith(EXTERNAL_LEASE) else "a trial"
            yield Found(path, size, f"{what} under way")
        elif storage.is_finished(path.name, ()):
            yield Found(path, size, "checkpoints of a finished trial", LEFTOVERS, path)
        elif not _folders(path):
            yield Found(path, size, "a lease that was given back", LEFTOVERS, path)
        elif path.name in use.members and not users:
            yield Found(path, size, "checkpoints of a pruned trial", LEFTOVERS, path)
        else:
            goes_on = f"checkpoints that {', '.join(sorted(users))} goes on from"
            said = goes_on if users else "checkpoints of a trial of no study"
            yield Found(path, size, said, "unfinished", path)


def _others(storage: Storage) -> Iterator[Found]:
    for folder in _folders(storage.studies):
        yield Found(folder, _size(folder), "a study: tables and page")
    for name, said in (
        ("mlflow.db", "MLflow's database"),
        ("mlartifacts", "MLflow's pictures and tables"),
        ("prices.json", "measured prices of training"),
    ):
        if (storage.root / name).exists():
            yield Found(storage.root / name, _size(storage.root / name), said)


def _asides(storage: Storage) -> Iterator[Path]:
    """Find what was being written when its process ended; no name of it is ever read."""
    skipped = {storage.root / "mlartifacts"}
    for where, folders, files in os.walk(storage.root):
        place = Path(where)
        for name in (*folders, *files):
            if _ASIDE.fullmatch(name) or _PHANTOM_ASIDE.fullmatch(name):
                yield place / name
        folders[:] = [
            name
            for name in folders
            if not (name.startswith((".", "phantom-")) or place / name in skipped)
        ]


def _guarded(each: Found, storage: Storage, busy: bool) -> Found:
    """Keep what may be in use although no record says so."""
    if not each.free:
        return each
    if each.path.is_symlink():
        return each.kept("it is a link, and lies elsewhere")
    if each.lease == each.path and each.path.parent == storage.running:
        return each
    if each.lease is not None and is_held(each.lease):
        return each.kept("its cohort is being prepared")
    if each.free in ("packs", "frozen") and busy:
        return each.kept("a sweep may be running")
    inside = next((p for p in each.path.parents if p.parent == storage.running), None)
    if inside is not None and is_held(inside):
        return each.kept("its trial is under way")
    # Not by rglob, which fails at a folder that is removed meanwhile.
    inner = (Path(w, name) for w, folders, files in os.walk(each.path) for name in folders + files)
    if _is_young([each.path, *inner]):
        return each.kept("it changed within the last hour")
    return each


def _is_young(paths: Collection[Path]) -> bool:
    now, found = time.time(), filter(None, map(_look, paths))
    return any(now - each.st_mtime < QUIET_SECONDS for each in found)


def _look(path: Path) -> os.stat_result | None:
    """Look at a file, or see that a process at work has removed it since it was listed."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _used_by(users: Collection[str]) -> str:
    return f" of {', '.join(sorted(users))}" if users else " that no trial reads"


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _size(path: Path) -> int:
    """Count the bytes on disk, without asides, which are things of their own.

    Files that are not whole yet may have holes.
    """
    files = [] if path.is_dir() else [path]
    for where, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not _ASIDE.fullmatch(name)]
        files += (Path(where, name) for name in names if not _ASIDE.fullmatch(name))
    return sum(each.st_blocks * 512 for each in map(_look, files) if each is not None)
