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
    lease = Lease(
        driver=driver,
        attempt=uuid.uuid4().hex,
        host=socket.gethostname(),
        pid=os.getpid(),
        process_started=_process_start(os.getpid()),
    )
    write_whole(folder / LEASE_FILE, json.dumps(asdict(lease)))
    return lease


def read_lease(folder: Path) -> Lease | None:
    """Read who holds ``folder``, or None."""
    try:
        return Lease(**json.loads((folder / LEASE_FILE).read_text()))
    except FileNotFoundError:
        return None


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

    def __init__(self) -> None:
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
        here = socket.gethostname(), os.getpid()
        while not self._stop.wait(HEARTBEAT_SECONDS):
            for folder in tuple(self._folders):
                # A shared folder that does not answer once must not end the thread.
                with contextlib.suppress(OSError):
                    # A lease lost meanwhile is its new holder's to keep fresh.
                    lease = read_lease(folder)
                    if lease is not None and (lease.host, lease.pid) == here:
                        os.utime(folder / LEASE_FILE)


@contextlib.contextmanager
def _guard(folder: Path) -> Iterator[None]:
    """Let one process at a time look at a lease and change it."""
    with (folder / ".lease-guard").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_stale(folder: Path, lease: Lease) -> bool:
    if lease.host == socket.gethostname():
        return _process_start(lease.pid) != lease.process_started
    try:
        silent = time.time() - (folder / LEASE_FILE).stat().st_mtime
    except FileNotFoundError:
        return True
    return silent > OTHER_HOST_SECONDS


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
