"""What a search has asked for, in ``asked.jsonl``: written to disk before a trial starts.

Joined with the finished trials and with ``ended/`` it is the search's whole history: nothing of
the sampler, of Tune or of a tracker has to survive a kill.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ray.errors import InputError
from cxr_ray.storage import SharedFolder
from cxr_ray.sweep.parameter import Value

if TYPE_CHECKING:
    from cxr_ray.object_store import ObjectStore

ASKED_FILE = "asked.jsonl"


@dataclass(frozen=True)
class Asked:
    """One asked trial: its number, the sampled parameters, and the experiment that they make.

    ``experiment_id`` is None, and ``reason`` says why, where they make none. ``attrs`` are the
    whole numbers that the sampler keeps with a trial, such as its generation.
    """

    number: int
    parameters: Mapping[str, Value]
    experiment_id: str | None
    reason: str | None = None
    attrs: Mapping[str, int] | None = None


class Ledger:
    """The asked trials of one study, in the order of their numbers."""

    def __init__(self, folder: Path, home: "SharedFolder | ObjectStore | None" = None) -> None:
        self._path = folder / ASKED_FILE
        self._home = home or SharedFolder(folder)

    def read(self) -> list[Asked]:
        """Read the asked trials.

        A last line that a kill cut off was never followed by a trial, and is left out.

        Raises
        ------
        InputError
            If a whole line is no entry, or numbers are missing.
        """
        if not self._path.exists():
            return []
        content = self._path.read_bytes()
        lines = content[: content.rfind(b"\n") + 1].splitlines()
        found = []
        for number, line in enumerate(lines):
            try:
                entry = Asked(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise InputError(f"{self._path}: line {number + 1} is no asked trial") from error
            if entry.number != number:
                raise InputError(
                    f"{self._path}: line {number + 1} has the number {entry.number}, not {number}"
                )
            found.append(entry)
        return found

    def append(self, entry: Asked) -> None:
        """Add an asked trial; it is on disk, and in an object store, when this returns."""
        line = json.dumps(asdict(entry), separators=(",", ":"), allow_nan=False) + "\n"
        with self._path.open("ab+") as file:
            _drop_cut_off_line(file.fileno())
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._home.publish_file(self._path)

    def forget(self) -> None:
        """Drop all that was asked."""
        self._home.discard(self._path)


def _drop_cut_off_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        whole = os.pread(descriptor, size, 0).rfind(b"\n") + 1
        os.ftruncate(descriptor, whole)
