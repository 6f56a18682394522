"""A storage on ``s3://``, ``gs://`` or any other store that fsspec opens, and its local mirror.

Every machine works in a mirror of its own, so that all else reads local files and maps them into
memory. A folder is published with its commit file last, and fetched whole or not at all.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from cxr_ray.errors import InputError, store_errors
from cxr_ray.object_lease import ObjectLeases

SCRATCH_VARIABLE = "CXR_RAY_SCRATCH"
WHOLE_MARK = ".whole"
INDEX_FILE = ".published.json"
IDENTITY_FILE = "storage.json"
# Names a store or a version of the package gives to one content of an object.
_VERSION_FIELDS = (
    "ETag", "etag", "generation", "mtime", "LastModified", "last_modified", "created",
)  # fmt: skip
# What a folder holds of this machine's alone: leases, asides, and what is not whole yet.
_OWN = re.compile(
    r"\.(.*\.)?[0-9a-f]{32}|.*\.partial|lease(-\d+)?\.json|\.lease-guard|\.asking"
    + f"|{re.escape(INDEX_FILE)}"
)


@lru_cache(maxsize=8)
def open_file_system(uri: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URI, which remembers no listing, and the path in it.

    Raises
    ------
    InputError
        If no such store is known, or its package is not installed.
    """
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        raise InputError(
            f"--storage {uri}: {error}; pip install 'cxr-ray[cloud]' brings s3fs and gcsfs"
        ) from error
    except ValueError as error:
        raise InputError(f"--storage {uri}: fsspec cannot open it: {error}") from error
    return system, path.rstrip("/")


@dataclass(frozen=True)
class ObjectStore:
    """The objects below a URI, and one machine's mirror of them.

    Methods take paths in the mirror; the object of a path has the same name below the URI.
    """

    uri: str
    mirror: Path
    _known: set[tuple[Path, str]] = field(default_factory=set, compare=False, repr=False)

    is_shared = False

    @classmethod
    def open(cls, uri: str, *, create: bool) -> "ObjectStore":
        """Reach a store, marking it as a storage where it is new, and make the mirror.

        Raises
        ------
        InputError
            If it cannot be reached, read or written, or no mirror can be made here.
        """
        uri = uri.rstrip("/")
        system, root = open_file_system(uri)
        candidate = json.dumps({"uuid": uuid.uuid4().hex}).encode()
        found = b""
        try:
            if create:
                found = _create_once(system, f"{root}/{IDENTITY_FILE}", candidate)
            elif system.exists(f"{root}/{IDENTITY_FILE}"):
                found = system.cat_file(f"{root}/{IDENTITY_FILE}")
        except store_errors() as error:
            raise InputError(f"--storage {uri} cannot be used: {error}") from error
        # A store that was emptied and filled anew is another one.
        identity = hashlib.sha256(uri.encode() + found).hexdigest()[:16]
        mirror = _scratch() / identity
        try:
            mirror.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{mirror}, this machine's mirror of {uri}, cannot be written ({error.strerror}); "
                f"name another folder in {SCRATCH_VARIABLE}"
            ) from error
        return cls(uri, mirror)

    @property
    def location(self) -> str:
        """The URI."""
        return self.uri

    @property
    def leases(self) -> ObjectLeases:
        """Who works on what, told by objects."""
        return ObjectLeases(self._system, self.address)

    @property
    def _system(self) -> Any:
        return open_file_system(self.uri)[0]

    def address(self, path: Path) -> str:
        """Give the object of a path in the mirror, as the file system names it."""
        name = path.relative_to(self.mirror).as_posix()
        root = open_file_system(self.uri)[1]
        return root if name == "." else f"{root}/{name}"

    def described(self, path: Path) -> str:
        """Give the URI of a path in the mirror."""
        return f"{self.uri}/{path.relative_to(self.mirror).as_posix()}"

    def holds(self, folder: Path, commit: str = WHOLE_MARK) -> bool:
        """Tell whether a folder was published whole."""
        if (folder, commit) not in self._known and self.has(folder / commit):
            self._known.add((folder, commit))
        return (folder, commit) in self._known

    def has(self, path: Path) -> bool:
        """Tell whether there is an object of a path."""
        return bool(self._system.exists(self.address(path)))

    def is_newer(self, path: Path) -> bool:
        """Tell whether there is an object of a path, and no file here that was written later."""
        try:
            modified = self._system.modified(self.address(path)).timestamp()
        except FileNotFoundError:
            return False
        return not path.exists() or bool(path.stat().st_mtime < modified)

    def knows(self, folder: Path, commit: str) -> bool:
        """Tell whether a folder was fetched or published by this process, and so is up to date."""
        return (folder, commit) in self._known

    def names(self, folder: Path) -> list[str]:
        """Name what lies directly in a folder."""
        try:
            found = self._system.ls(self.address(folder), detail=False)
        except FileNotFoundError:
            return []
        return sorted({Path(each.rstrip("/")).name for each in found})

    def fetch(
        self,
        folder: Path,
        commit: str = WHOLE_MARK,
        *,
        without: str | None = None,
        deep: bool = True,
    ) -> bool:
        """Bring a folder up to date with what was published of it; False where nothing was.

        One process of a machine fetches it, and others wait. What was fetched once and has been
        taken back since is removed here too.

        Parameters
        ----------
        commit
            The file that is published last.
        without
            A folder in it that is not wanted now.
        deep
            Whether what lies in its own folders belongs to it.
        """
        with self._locked(folder):
            listed = self._list(folder, deep=deep)
            if commit not in listed:
                self._known.discard((folder, commit))
                if (folder / INDEX_FILE).exists() and deep:
                    shutil.rmtree(folder)
                return False
            index = _read_index(folder)
            here = {
                name
                for name, version in listed.items()
                if (folder / name).exists()
                and index.get(name) == {"version": version, "stamp": _stamp(folder / name)}
            }
            unwanted = {name for name in listed if without and name.startswith(f"{without}/")}
            missing = sorted(listed.keys() - here - unwanted, key=lambda name: name != commit)
            if missing:
                kept = {name: listed[name] for name in (*missing, *here)}
                (self._replace if deep else self._update)(folder, missing, kept)
            self._known.add((folder, commit))
        return True

    def publish(
        self,
        folder: Path,
        commit: str = WHOLE_MARK,
        *,
        source: Path | None = None,
        deep: bool = True,
    ) -> None:
        """Upload what is new or changed of a folder, the commit file last.

        Parameters
        ----------
        source
            Where its files lie, if not in the folder yet.
        """
        source = source or folder
        index = _read_index(source) if self.holds(folder, commit) else {}
        local = {name: _stamp(path) for name, path in _files(source, deep=deep)}
        new = [name for name, stamp in local.items() if index.get(name, {}).get("stamp") != stamp]
        if not new and self.holds(folder, commit):
            return
        there = self.address(folder)
        first = [name for name in new if name != commit]
        if first:
            self._system.put(
                [str(source / name) for name in first], [f"{there}/{name}" for name in first]
            )
        if commit in new:
            self._system.put_file(str(source / commit), f"{there}/{commit}")
        elif commit not in local:
            self._system.pipe_file(f"{there}/{commit}", b"")
        listed = self._list(folder, deep=deep)
        _write_index(source, {name: listed.get(name, "") for name in local})
        self._known.add((folder, commit))

    def publish_file(self, path: Path) -> None:
        """Upload one file at once."""
        self._system.put_file(str(path), self.address(path))

    def discard(self, path: Path) -> None:
        """Remove a file or folder here and from the store."""
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        below = [known for known in self._known if path in (known[0], *known[0].parents)]
        self._known.difference_update(below)
        with contextlib.suppress(FileNotFoundError):
            self._system.rm(self.address(path), recursive=True)

    def create_once(self, path: Path, content: bytes) -> bytes:
        """Give a file its content unless it has one, and return what it has, alike for all."""
        if path.exists():
            content = path.read_bytes()
        found = _create_once(self._system, self.address(path), content)
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        aside.touch(mode=0o600)
        aside.write_bytes(found)
        aside.replace(path)
        return found

    def _list(self, folder: Path, *, deep: bool) -> dict[str, str]:
        """Map the objects of a folder to their versions."""
        there = self.address(folder)
        depth = None if deep else 1
        listed = self._system.find(there, maxdepth=depth, detail=True)
        found = {}
        for path, info in listed.items():
            name = path.removeprefix(there).lstrip("/")
            if not any(_OWN.fullmatch(part) for part in name.split("/")):
                found[name] = _version(info)
        return found

    def _replace(self, folder: Path, missing: Sequence[str], kept: Mapping[str, str]) -> None:
        """Put a whole folder in the place of what was there, downloading what is missing."""
        aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
        aside.mkdir(mode=0o700, parents=True)
        try:
            self._download(folder, aside, missing)
            for name in kept.keys() - set(missing):
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(folder / name, aside / name)
            _write_index(aside, kept)
            if folder.exists():
                old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
                folder.rename(old)
                aside.rename(folder)
                shutil.rmtree(old, ignore_errors=True)
            else:
                aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _update(self, folder: Path, missing: Sequence[str], kept: Mapping[str, str]) -> None:
        """Replace files of a folder that stays, the commit file, which comes first, last."""
        aside = folder / f".{uuid.uuid4().hex}"
        aside.mkdir(mode=0o700, parents=True)
        try:
            self._download(folder, aside, missing)
            for name in reversed(missing):
                (aside / name).replace(folder / name)
            _write_index(folder, kept)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _download(self, folder: Path, aside: Path, missing: Sequence[str]) -> None:
        # The commit file first: what is read after it is at least as new.
        there = self.address(folder)
        for each in (missing[:1], missing[1:]):
            for name in each:
                (aside / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if each:
                self._system.get(
                    [f"{there}/{name}" for name in each], [str(aside / name) for name in each]
                )

    @contextlib.contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        """Let one process of this machine at a time bring a folder up to date."""
        locks = self.mirror / ".locks"
        locks.mkdir(mode=0o700, exist_ok=True)
        name = hashlib.sha256(str(folder).encode()).hexdigest()[:32]
        with (locks / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _scratch() -> Path:
    given = os.environ.get(SCRATCH_VARIABLE)
    if given:
        return Path(given).expanduser().resolve()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().resolve() / "cxr_ray"


def _create_once(system: Any, address: str, content: bytes) -> bytes:
    """Create an object, or read the one that is there."""
    with contextlib.suppress(FileExistsError):
        system.pipe_file(address, content, mode="create")
    found: bytes = system.cat_file(address)
    return found


def _version(info: Mapping[str, Any]) -> str:
    marks = [str(info[name]) for name in _VERSION_FIELDS if info.get(name) is not None]
    return ":".join([str(info.get("size")), *marks[:1]])


def _files(folder: Path, *, deep: bool) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*") if deep else folder.glob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(_OWN.fullmatch(part) for part in name.parts):
            yield name.as_posix(), path


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _read_index(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        index: dict[str, dict[str, Any]] = json.loads((folder / INDEX_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return index


def _write_index(folder: Path, versions: Mapping[str, str]) -> None:
    index = {
        name: {"version": version, "stamp": _stamp(folder / name)}
        for name, version in versions.items()
        if (folder / name).exists()
    }
    aside = folder / f".{uuid.uuid4().hex}"
    aside.write_text(json.dumps(index))
    aside.replace(folder / INDEX_FILE)
