"""The folders of a storage and the way files in it become whole (DESIGN section 9)."""

import json
import os
import secrets
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cxr_ray.errors import InputError

RESULT_FILE = "result.json"
# Written last where the test part was scored after a trial had finished without it.
TEST_FILE = "test.json"
WEIGHTS_FILE = "model/model.safetensors"
ALL_PARTS = ("val", "test")


@dataclass(frozen=True)
class Storage:
    """A storage folder; data and what is trained from it are readable by the owner only."""

    root: Path

    @classmethod
    def open(cls, location: str, *, create: bool = True) -> "Storage":
        """Open a storage folder, making it where it is missing.

        Raises
        ------
        InputError
            For a URI, a file in the folder's place, or a folder that cannot be written.
        """
        if "://" in location:
            raise InputError(
                f"--storage {location}: object stores are not supported; "
                "give a folder, which on a cluster every node must see"
            )
        storage = cls(Path(location).expanduser().resolve())
        if storage.root.exists() and not storage.root.is_dir():
            raise InputError(
                f"--storage {location}: {storage.root} is a file where a folder should be"
            )
        if not create:
            return storage
        try:
            storage.root.mkdir(parents=True, exist_ok=True)
            for folder in (storage.prepared, storage.trials, storage.running):
                folder.mkdir(mode=0o700, exist_ok=True)
            storage.studies.mkdir(exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(
                f"--storage {location}: {error.filename} is a file where a folder should be"
            ) from error
        except OSError as error:
            raise InputError(f"--storage {location} cannot be written: {error.strerror}") from error
        if not os.access(storage.root, os.W_OK):
            raise InputError(
                f"--storage {location} cannot be written: no permission, or a read-only file system"
            )
        return storage

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
        """Tell whether a trial has finished, with predictions of ``parts``."""
        folder = self.trials / experiment_id
        try:
            result = json.loads((folder / RESULT_FILE).read_text())
        except (FileNotFoundError, ValueError):
            return False  # none, or a damaged one, which is trained again
        predicted = set(result.get("parts", ALL_PARTS))
        return set(parts) <= predicted or (folder / TEST_FILE).exists()

    def salt(self) -> bytes:
        """Return the secret that names records and patients outside ``prepared/``."""
        path = self.prepared / "salt"
        if not path.exists():
            candidate = path.with_name(f"salt.{uuid.uuid4().hex}")
            candidate.write_bytes(secrets.token_bytes(32))
            candidate.chmod(0o600)
            try:
                os.link(candidate, path)
            except FileExistsError:
                pass  # another process was first, and its salt is the storage's
            finally:
                candidate.unlink()
        return path.read_bytes()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a kill, sees the old content or the new, never a part."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    data = content.encode() if isinstance(content, str) else content
    try:
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
