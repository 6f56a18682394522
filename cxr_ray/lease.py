"""Leases: who works on a folder, told by a file that outlives a killed process.

A lease names its driver's host, process and start time. It is stale at once where the process is
gone from the same host, and after ``OTHER_HOST_SECONDS`` without a heartbeat on another one.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from cxr_ray.errors import InputError, store_errors
from cxr_ray.storage import write_whole

HEARTBEAT_SECONDS = 5.0
OTHER_HOST_SECONDS = 60.0
LEASE_FILE = "lease.json"


@dataclass(frozen=True)
class Lease:
    """The right to work in ``folder``; ``attempt`` is new each time the lease changes hands."""

    driver: str
    attempt: str
    host: str
    pid: int
    process_started: str

    @classmethod
    def of(cls, driver: str) -> "Lease":
        """Make a lease of this process, with an attempt of its own."""
        return cls(driver, uuid.uuid4().hex, this_host(), os.getpid(), _process_start(os.getpid()))

    @classmethod
    def read(cls, content: bytes, name: str) -> "Lease":
        """Read a lease from the content of a file or object of this name.

        Raises
        ------
        InputError
            If it is damaged.
        """
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{name} is damaged, and who works there is not known: remove it if nobody does"
            ) from error

    @property
    def is_ours(self) -> bool:
        """Whether this process holds it."""
        return (self.host, self.pid) == (this_host(), os.getpid())

    def is_stale(self, silent: float) -> bool:
        """Tell whether its holder is gone, or gave no sign for ``silent`` seconds elsewhere."""
        if self.host == this_host():
            return _process_start(self.pid) != self.process_started
        return silent > OTHER_HOST_SECONDS


def this_host() -> str:
    """Name this machine and the processes that it knows, as no other machine or container does."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


class Leases(Protocol):
    """How leases of folders are kept: in the folders themselves, or in an object store."""

    @property
    def beat_seconds(self) -> float:
        """How often a lease is kept fresh."""

    @property
    def look_seconds(self) -> float:
        """How often a worker asks whether its lease is still its own."""

    def acquire(self, folder: Path, driver: str) -> Lease | None:
        """Take the lease of ``folder``, or return None where somebody alive holds it."""

    def holds(self, folder: Path, attempt: str) -> bool:
        """Tell whether ``attempt`` may still write in ``folder``."""

    def release(self, folder: Path, lease: Lease) -> None:
        """Give the lease back, unless it has changed hands."""

    def refresh(self, folder: Path) -> None:
        """Keep the lease of ``folder`` fresh, if it is this process's."""


class FolderLeases:
    """Leases as files in folders that everyone sees."""

    look_seconds = 1.0

    @property
    def beat_seconds(self) -> float:
        """How often a lease is kept fresh."""
        return HEARTBEAT_SECONDS

    def acquire(self, folder: Path, driver: str) -> Lease | None:
        """Take the lease of ``folder``, or return None where somebody alive holds it."""
        return acquire_lease(folder, driver)

    def holds(self, folder: Path, attempt: str) -> bool:
        """Tell whether ``attempt`` may still write in ``folder``."""
        return holds_lease(folder, attempt)

    def release(self, folder: Path, lease: Lease) -> None:
        """Give the lease back, unless it has changed hands."""
        release_lease(folder, lease)

    def refresh(self, folder: Path) -> None:
        """Keep the lease of ``folder`` fresh, if it is this process's."""
        lease = read_lease(folder)
        if lease is not None and lease.is_ours:
            os.utime(folder / LEASE_FILE)


def acquire_lease(folder: Path, driver: str) -> Lease | None:
    """Take the lease of ``folder``, or return None where somebody alive holds it.

    A driver that holds the lease already gets a new attempt: its earlier worker must stop.
    """
    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with _guard(folder):
                return _take(folder, driver)
        except FileNotFoundError:
            continue  # its holder has finished and removed the folder meanwhile


def _take(folder: Path, driver: str) -> Lease | None:
    held = read_lease(folder)
    if held is not None and held.driver != driver and not _is_stale(folder, held):
        return None
    lease = Lease.of(driver)
    write_whole(folder / LEASE_FILE, json.dumps(asdict(lease)))
    return lease


def read_lease(folder: Path) -> Lease | None:
    """Read who holds ``folder``, or None.

    Raises
    ------
    InputError
        If the lease is damaged.
    """
    path = folder / LEASE_FILE
    try:
        return Lease.read(path.read_bytes(), str(path))
    except FileNotFoundError:
        return None


def is_held(folder: Path) -> bool:
    """Tell whether somebody alive holds the lease of ``folder``."""
    held = read_lease(folder)
    return held is not None and not _is_stale(folder, held)


def holds_lease(folder: Path, attempt: str) -> bool:
    """Tell whether ``attempt`` may still write in ``folder``."""
    lease = read_lease(folder)
    return lease is not None and lease.attempt == attempt


def release_lease(folder: Path, lease: Lease) -> None:
    """Give the lease back, unless it has changed hands."""
    if folder.is_dir():
        with _guard(folder):
            if holds_lease(folder, lease.attempt):
                (folder / LEASE_FILE).unlink()


class Heartbeat:
    """Keeps leases fresh from a thread while their work goes on elsewhere."""

    def __init__(self, leases: Leases | None = None) -> None:
        self._leases: Leases = FolderLeases() if leases is None else leases
        self._folders: set[Path] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def add(self, folder: Path) -> None:
        """Keep the lease of ``folder`` fresh from now on."""
        self._folders.add(folder)

    def discard(self, folder: Path) -> None:
        """Stop keeping the lease of ``folder`` fresh."""
        self._folders.discard(folder)

    def _beat(self) -> None:
        while not self._stop.wait(self._leases.beat_seconds):
            for folder in tuple(self._folders):
                # A storage that does not answer once must not end the thread, nor a damaged lease.
                with contextlib.suppress(InputError, *store_errors()):
                    # A lease lost meanwhile is its new holder's to keep fresh.
                    self._leases.refresh(folder)


@contextlib.contextmanager
def _guard(folder: Path) -> Iterator[None]:
    """Let one process at a time look at a lease and change it."""
    with (folder / ".lease-guard").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_stale(folder: Path, lease: Lease) -> bool:
    try:
        silent = time.time() - (folder / LEASE_FILE).stat().st_mtime
    except FileNotFoundError:
        silent = float("inf")
    return lease.is_stale(silent)


def _process_start(pid: int) -> str:
    """Return when a process started, in a form only compared for equality; "" if it is gone."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return "" if fields[0] == "Z" else fields[19]
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"
