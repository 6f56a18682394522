"""Bringing an attempt's checkpoints to an object store and back, beside the training."""

import contextlib
import logging
import os
import queue
import shutil
import threading
import time
import uuid
from pathlib import Path

from cxr_ray.errors import store_errors
from cxr_ray.storage import Storage
from cxr_ray.training.checkpoint import BEST_FILE, COMPUTE_FILE, LAST_FILE

LEFT_SECONDS = 3600.0
_LOG = logging.getLogger(__name__)


def fetch_checkpoints(storage: Storage, running: Path) -> None:
    """Bring here what attempts on other machines left of a trial.

    What this machine holds of trials that ended elsewhere makes room for it.
    """
    under_way = set(storage.home.names(storage.running))
    for folder in storage.running.iterdir():
        # A trial that has just been taken up may not have been listed yet.
        if folder.name not in under_way and time.time() - folder.stat().st_mtime > LEFT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
    for attempt in storage.home.names(running):
        if "." not in attempt and storage.home.is_newer(running / attempt / LAST_FILE):
            storage.home.fetch(running / attempt, LAST_FILE)


class CheckpointUpload:
    """Uploads the newest checkpoint of an attempt from a thread, one at a time.

    Training never waits for it. Epochs that pass during an upload are not made up for: what goes
    up next is the newest. Where the training ends before its time, the newest is waited for; a
    finished trial has no more need of it.
    """

    def __init__(self, storage: Storage, attempt: Path) -> None:
        self._storage, self._attempt = storage, attempt
        self._snapshot = attempt / f".{uuid.uuid4().hex}"
        self._asked: queue.Queue[bool] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._run, name="checkpoint-upload", daemon=True)

    def __enter__(self) -> "CheckpointUpload":
        self._thread.start()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            with contextlib.suppress(queue.Empty):
                self._asked.get_nowait()
        while self._thread.is_alive():  # it may have died of what is no error of a store
            with contextlib.suppress(queue.Full):
                self._asked.put(False, timeout=1)
                self._thread.join()

    def soon(self) -> None:
        """Upload what is the newest checkpoint now, as soon as the one under way is up."""
        if not self._storage.home.is_shared:
            with contextlib.suppress(queue.Full):
                self._asked.put_nowait(True)

    def _run(self) -> None:
        while self._asked.get():
            try:
                self._upload()
            except store_errors() as error:
                # The next epoch tries again, and this machine has it all.
                _LOG.warning("a checkpoint did not reach the storage: %s", error)

    def _upload(self) -> None:
        self._snapshot.mkdir(mode=0o700, exist_ok=True)
        # The last state first: best weights may be newer than it, but never older.
        for name in (LAST_FILE, BEST_FILE, COMPUTE_FILE):
            held = self._snapshot / name
            held.unlink(missing_ok=True)
            os.link(self._attempt / name, held)
        self._storage.home.publish(self._attempt, LAST_FILE, source=self._snapshot)
