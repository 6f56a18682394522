"""Faults that a test plants in every process of a sweep; Python runs this file at its start.

``PLANTED_FAULTS`` holds lists of an audit event of Python, a pattern of paths, how often the event
is let pass in a process; then it and the driver get SIGKILL. ``PLANTED_FULL`` is the name of a file
that finds no space where it is to be replaced: half of it is written. The folder that
``PLANTED_READONLY`` names is read-only as long as there is a file of its name and ``.readonly``.
Where ``PLANTED_LOG`` names a file, each epoch that becomes a checkpoint is noted there.
"""

import errno
import json
import os
import re
import signal
import sys
import threading
from pathlib import Path

FAULTS = json.loads(os.environ.get("PLANTED_FAULTS", "[]"))
WRITES = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.utime"}
EVENTS = {event for event, *_ in FAULTS} | {"shutil.copyfile"} | WRITES
LOG, FULL = os.environ.get("PLANTED_LOG"), os.environ.get("PLANTED_FULL")
READONLY = os.environ.get("PLANTED_READONLY")
DRIVER = int(os.environ.setdefault("PLANTED_DRIVER", str(os.getpid())))
passed = [0] * len(FAULTS)
adopted = set()
inside = threading.local()


def watch(event, arguments):
    """Let a fault happen where an audit event is one that a test named."""
    if event not in EVENTS or getattr(inside, "hook", False):
        return
    inside.hook = True
    try:
        place = arguments[1] if event == "os.rename" else arguments[0]
        if isinstance(place, str | os.PathLike):
            note(event, arguments)
            refuse(event, os.fspath(place), arguments)
            for number, (which, pattern, let_pass) in enumerate(FAULTS):
                if event == which and re.search(pattern, os.fspath(place)):
                    passed[number] += 1
                    if passed[number] > let_pass:
                        os.kill(DRIVER, signal.SIGKILL)
                        os.kill(os.getpid(), signal.SIGKILL)
    finally:
        inside.hook = False


def refuse(event, place, arguments):
    """Refuse to write in a read-only folder."""
    if READONLY is None or event not in WRITES or not place.startswith(f"{READONLY}{os.sep}"):
        return
    writes = event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes and os.path.exists(f"{READONLY}.readonly"):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), place)


def note(event, arguments):
    """Note an epoch whose state becomes a checkpoint, but for one that is copied."""
    if LOG is None or event not in {"os.rename", "shutil.copyfile"}:
        return
    if not os.fspath(arguments[1]).endswith("last.pt"):
        return
    if event == "shutil.copyfile":
        adopted.add(os.fspath(arguments[1]))
    elif event == "os.rename" and os.fspath(arguments[0]) not in adopted:
        state = sys.modules["torch"].load(arguments[0], weights_only=True)
        with open(LOG, "a") as file:
            attempt = Path(arguments[1]).parent
            file.write(f"{attempt.parent.name} {attempt.name} {state['epoch']}\n")
    else:
        adopted.discard(os.fspath(arguments[0]))


def sync(descriptor, fsync=os.fsync):
    """Find no space for the second half of a file."""
    path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    if path.name == f".{FULL}" and path.with_name(str(FULL)).exists():
        os.ftruncate(descriptor, path.stat().st_size // 2)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    fsync(descriptor)


if FULL is not None:
    os.fsync = sync
if FAULTS or LOG or READONLY:
    sys.addaudithook(watch)
