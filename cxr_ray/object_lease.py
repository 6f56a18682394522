"""Leases in an object store, which has no locks but creates an object for one asker only.

A folder's leases are objects numbered upwards, and the highest is in force. Whoever takes or gives
back a lease creates the next one: of all who try at once, one succeeds. Its holder alone writes it
again, which keeps it fresh.
"""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cxr_ray.lease import Lease

# Nobody's: its holder gave it back.
_NOBODY = ""
_READ_TRIES = 20


class ObjectLeases:
    """Leases as objects of a store.

    Parameters
    ----------
    system
        fsspec's file system; its ``pipe_file(mode="create")`` has to be exclusive, as it is on
        S3 (``If-None-Match``) and Google Cloud Storage (``ifGenerationMatch=0``).
    address
        Names the object of a path.
    """

    beat_seconds = 15.0
    look_seconds = 10.0

    def __init__(self, system: Any, address: Callable[[Path], str]) -> None:
        self._system, self._address = system, address

    def acquire(self, folder: Path, driver: str) -> Lease | None:
        """Take the lease of ``folder``, or return None where somebody alive holds it."""
        while True:
            number, held = self._last(folder)
            if held is not None and held.driver not in (driver, _NOBODY):
                if not held.is_stale(self._silent(folder, number)):
                    return None
            lease = Lease.of(driver)
            if self._create(folder, number + 1, lease):
                break
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for earlier in self._numbers(folder):
            if earlier <= number:
                with contextlib.suppress(FileNotFoundError):
                    self._system.rm_file(self._name(folder, earlier))
        return lease

    def holds(self, folder: Path, attempt: str) -> bool:
        """Tell whether ``attempt`` may still write in ``folder``."""
        _, lease = self._last(folder)
        return lease is not None and lease.attempt == attempt

    def release(self, folder: Path, lease: Lease) -> None:
        """Give the lease back, unless it has changed hands."""
        number, held = self._last(folder)
        if held is not None and held.attempt == lease.attempt:
            self._create(folder, number + 1, Lease.of(_NOBODY))

    def refresh(self, folder: Path) -> None:
        """Keep the lease of ``folder`` fresh, if it is this process's."""
        number, held = self._last(folder)
        if held is not None and held.is_ours and held.driver != _NOBODY:
            self._system.pipe_file(self._name(folder, number), _encode(held))

    def _create(self, folder: Path, number: int, lease: Lease) -> bool:
        """Create a lease; False where somebody else was first."""
        name = self._name(folder, number)
        with contextlib.suppress(FileExistsError):
            self._system.pipe_file(name, _encode(lease), mode="create")
        # Read it again: an upload repeated after a lost answer finds its own object there.
        try:
            return bool(self._system.cat_file(name) == _encode(lease))
        except FileNotFoundError:
            return False

    def _last(self, folder: Path) -> tuple[int, Lease | None]:
        """Return the lease in force and its number."""
        for _ in range(_READ_TRIES):
            number = max(self._numbers(folder), default=-1)
            if number < 0:
                return number, None
            name = self._name(folder, number)
            try:
                return number, Lease.read(self._system.cat_file(name), name)
            except FileNotFoundError:
                continue  # its holder has finished and removed the folder meanwhile
        raise TimeoutError(f"{self._name(folder, number)} is listed and cannot be read")

    def _numbers(self, folder: Path) -> list[int]:
        try:
            names = self._system.ls(self._address(folder), detail=False)
        except FileNotFoundError:
            return []
        found = [name.rpartition("/")[2] for name in names]
        return [int(name[6:-5]) for name in found if name[:6] == "lease-" and name[-5:] == ".json"]

    def _silent(self, folder: Path, number: int) -> float:
        """Return for how many seconds nobody kept a lease fresh."""
        try:
            changed = self._system.modified(self._name(folder, number))
        except FileNotFoundError:
            return float("inf")
        return time.time() - float(changed.timestamp())

    def _name(self, folder: Path, number: int) -> str:
        return f"{self._address(folder)}/lease-{number:06d}.json"


def _encode(lease: Lease) -> bytes:
    return json.dumps(asdict(lease)).encode()
