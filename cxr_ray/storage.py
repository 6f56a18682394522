"""The folders of a storage and the way files in it become whole (DESIGN section 9).

A storage is a folder that every machine sees, or an object store with a mirror on each machine.
"""

import json
import os
import secrets
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ray.errors import InputError

if TYPE_CHECKING:
    from cxr_ray.lease import FolderLeases, Leases
    from cxr_ray.object_store import ObjectStore

RESULT_FILE = "result.json"
# Written last where the test part was scored after a trial had finished without it.
TEST_FILE = "test.json"
WEIGHTS_FILE = "model/model.safetensors"
ALL_PARTS = ("val", "test")


@dataclass(frozen=True)
class SharedFolder:
    """A storage folder that every machine sees: what is written there is everyone's at once."""

    root: Path

    is_shared = True

    @property
    def location(self) -> str:
        """The folder."""
        return str(self.root)

    @property
    def leases(self) -> "FolderLeases":
        """Who works on what, told by files."""
        from cxr_ray.lease import FolderLeases

        return FolderLeases()

    def described(self, path: Path) -> str:
        """Name a path as every machine knows it."""
        return str(path)

    def has(self, path: Path) -> bool:
        """Tell whether a file is there."""
        return path.exists()

    def is_newer(self, path: Path) -> bool:
        """Tell whether another machine's file is newer than this one's."""
        return False

    def holds(self, folder: Path, commit: str = "") -> bool:
        """Tell whether a folder is there."""
        return folder.is_dir()

    def knows(self, folder: Path, commit: str) -> bool:
        """Tell whether a folder is up to date, as all are."""
        return True

    def names(self, folder: Path) -> list[str]:
        """Name what lies directly in a folder."""
        return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []

    def fetch(
        self, folder: Path, commit: str = "", *, without: str | None = None, deep: bool = True
    ) -> bool:
        """Do nothing: what is there is here."""
        return folder.is_dir()

    def publish(
        self, folder: Path, commit: str = "", *, source: Path | None = None, deep: bool = True
    ) -> None:
        """Do nothing: what is here is there."""

    def publish_file(self, path: Path) -> None:
        """Do nothing: what is here is there."""

    def discard(self, path: Path) -> None:
        """Remove a file or folder."""
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def create_once(self, path: Path, content: bytes) -> bytes:
        """Give a file its content unless it has one, and return what it has, alike for all."""
        if not path.exists():
            candidate = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
            candidate.write_bytes(content)
            candidate.chmod(0o600)
            try:
                os.link(candidate, path)
            except FileExistsError:
                pass  # another process was first
            finally:
                candidate.unlink()
        return path.read_bytes()


@dataclass(frozen=True)
class Storage:
    """A storage; data and what is trained from it are readable by the owner only.

    Attributes
    ----------
    root
        The storage folder, or this machine's mirror of an object store.
    store
        The object store, if it is one.
    """

    root: Path
    store: "ObjectStore | None" = None

    @classmethod
    def open(cls, location: str, *, create: bool = True) -> "Storage":
        """Open a storage, making it where it is missing.

        Parameters
        ----------
        location
            A folder, or a URI of an object store.

        Raises
        ------
        InputError
            For a file in the folder's place, a folder that cannot be written, or a store that
            cannot be reached.
        """
        if "://" in location and not location.startswith("file://"):
            from cxr_ray.object_store import ObjectStore

            store = ObjectStore.open(location, create=create)
            storage = cls(store.mirror, store)
            storage._make_folders()
            return storage
        storage = cls(Path(location.removeprefix("file://")).expanduser().resolve())
        if storage.root.exists() and not storage.root.is_dir():
            raise InputError(
                f"--storage {location}: {storage.root} is a file where a folder should be"
            )
        if not create:
            return storage
        try:
            storage.root.mkdir(parents=True, exist_ok=True)
            storage._make_folders()
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(
                f"--storage {location}: {error.filename} is a file where a folder should be"
            ) from error
        except OSError as error:
            raise InputError(f"--storage {location} cannot be written: {error.strerror}") from error
        effective = os.access in os.supports_effective_ids
        if not os.access(storage.root, os.W_OK, effective_ids=effective):
            raise InputError(
                f"--storage {location} cannot be written: no permission, or a read-only file system"
            )
        return storage

    def _make_folders(self) -> None:
        for folder in (self.prepared, self.trials, self.running):
            folder.mkdir(mode=0o700, exist_ok=True)
        self.studies.mkdir(exist_ok=True)

    @property
    def home(self) -> "SharedFolder | ObjectStore":
        """Where every machine finds what is in the storage."""
        return self.store or SharedFolder(self.root)

    @property
    def location(self) -> str:
        """The folder or URI: what another machine opens."""
        return self.home.location

    @property
    def leases(self) -> "Leases":
        """Who works on what."""
        return self.home.leases

    @property
    def prepared(self) -> Path:
        """Packs, cohorts and everything that holds report text or patient ids."""
        return self.root / "prepared"

    @property
    def trials(self) -> Path:
        """Finished trials, one folder an experiment id."""
        return self.root / "trials"

    @property
    def running(self) -> Path:
        """Leases and checkpoints of unfinished trials."""
        return self.root / "running"

    @property
    def studies(self) -> Path:
        """One folder a study: its members and tables."""
        return self.root / "studies"

    def is_finished(self, experiment_id: str, parts: Sequence[str] = ALL_PARTS) -> bool:
        """Tell whether a trial has finished, with predictions of ``parts``.

        Then its folder is here, but for the weights.
        """
        folder = self.trials / experiment_id
        if not (_has_parts(folder, parts) and self.home.knows(folder, RESULT_FILE)):
            self.home.fetch(folder, RESULT_FILE, without=Path(WEIGHTS_FILE).parent.name)
        return _has_parts(folder, parts)

    def discard_unusable(self, experiment_id: str) -> None:
        """Remove a trial's folder that is damaged, or has lost its weights, to be trained anew."""
        trained = self.trials / experiment_id
        readable = self.is_finished(experiment_id, parts=())
        if trained.exists() and not (readable and self.home.has(trained / WEIGHTS_FILE)):
            self.home.discard(trained)

    def salt(self) -> bytes:
        """Return the secret that names records and patients outside ``prepared/``."""
        return self.home.create_once(self.prepared / "salt", secrets.token_bytes(32))


def _has_parts(folder: Path, parts: Sequence[str]) -> bool:
    try:
        result = json.loads((folder / RESULT_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return False  # none, or a damaged one, which is trained again
    predicted = set(result.get("parts", ALL_PARTS))
    return set(parts) <= predicted or (folder / TEST_FILE).exists()


def write_whole(path: Path, content: str | bytes, *, mode: int | None = None) -> None:
    """Write a file so that a reader, or a kill, sees the old content or the new, never a part.

    With a ``mode`` nobody else can read it meanwhile, or afterwards, than the mode allows.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    data = content.encode() if isinstance(content, str) else content
    try:
        if mode is not None:
            aside.touch(mode=mode)
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a full disk names none
            error.filename = str(path)
        raise
    finally:
        aside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_whole(aside: Path, folder: Path) -> bool:
    """Rename a finished folder into place; False where another process was first.

    Its files are on disk before it has its name: a machine that crashes would else leave a whole
    folder of empty files.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for path in (*aside.rglob("*"), aside):
        sync(path)
    try:
        aside.rename(folder)
        sync(folder.parent)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(aside, ignore_errors=True)
        return False
    return True
