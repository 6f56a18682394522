"""The tracker in a process of its own.

MLflow computes longer for a trial than all else that a driver does for one. Beside the driver it
takes none of its time, and imports what it needs while the driver imports or trains.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any


class TrackingError(RuntimeError):
    """What a call of the tracker failed with, or that its process has ended."""


class TrackerProcess:
    """Called as a `Tracker`, which lives in a process that is started here and ends with this one.

    Parameters
    ----------
    uri, artifacts
        As of a `Tracker`.
    """

    def __init__(self, uri: str, artifacts: Path | None) -> None:
        self._place = uri, artifacts
        self._calls, answered = Pipe()
        with answered:
            # A session of its own: Ctrl-C in a terminal is the driver's. Its standard input is
            # open as long as the driver lives.
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cxr_ray.tracking.service", str(answered.fileno())],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
                },
                pass_fds=[answered.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )

    def start(self, study: Mapping[str, Any]) -> None:
        """Connect, and find or create the study's parent run."""
        # Without its members, of which a search may have ten thousand: start needs none.
        self._call("start", *self._place, {**study, "members": []})

    def log_trial(self, member: Mapping[str, Any], folder: Path) -> None:
        """Log a finished trial as a child."""
        self._call("log_trial", member, folder)

    def log_ended(self, member: Mapping[str, Any], how: Mapping[str, Any]) -> None:
        """Log a trial that failed or was pruned."""
        self._call("log_ended", member, how)

    def finish(self, study: Mapping[str, Any], artifacts: list[Path], *, complete: bool) -> None:
        """Log the study's tables on the parent and close it."""
        self._call("finish", study, artifacts, complete=complete)

    def close(self) -> None:
        """Let the process end."""
        self._calls.close()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def _call(self, name: str, *arguments: Any, **named: Any) -> None:
        try:
            self._calls.send((name, arguments, named))
            problem = self._calls.recv()
        except (EOFError, OSError) as error:
            raise TrackingError("the process that logs has ended") from error
        if problem is not None:
            raise TrackingError(problem)
