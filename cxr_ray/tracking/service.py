"""The process of a `TrackerProcess`: makes a tracker and answers the calls for it.

python -m cxr_ray.tracking.service FILE_DESCRIPTOR
"""

import contextlib
import fcntl
import os
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cxr_ray.tracking.mlflow_tracker import Tracker, make_tables


def serve(calls: Connection) -> None:
    """Answer calls until there are no more: each by what went wrong, or None."""
    tracker: Tracker | None = None
    with contextlib.suppress(EOFError):
        while True:
            name, arguments, named = calls.recv()
            problem = None
            try:
                if name == "start":
                    tracker = _start(*arguments)
                else:
                    getattr(tracker, name)(*arguments, **named)
            except Exception as error:  # the driver's to tell
                problem = str(error).strip() or type(error).__name__
            calls.send(problem)


def _start(uri: str, artifacts: Path | None, study: Mapping[str, Any]) -> Tracker:
    with _alone(uri):
        tracker = Tracker(uri, artifacts)
        tracker.start(study)
    return tracker


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Let one process at a time make a database file and its tables, which several at once break.

    The file appears with all its tables: a kill among them would leave one that MLflow never opens.
    """
    kind, _, place = uri.partition(":///")
    if kind != "sqlite":
        yield
        return
    database = Path(place)
    with database.with_name(".mlflow-lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for left in database.parent.glob(f".{database.name}.*"):
            left.unlink()
        if not database.exists():
            aside = database.with_name(f".{database.name}.{uuid.uuid4().hex}")
            make_tables(f"sqlite:///{aside}")
            aside.rename(database)
        yield


def _end_with_driver() -> None:
    """End at once, whatever is being logged, when the driver ends: the next one logs it again."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_driver, daemon=True).start()
    serve(Connection(int(sys.argv[1])))
    os._exit(0)  # everything is answered for; an interpreter that ends in order takes a second
