"""Tracking off the trials' way: the tracker's calls, one after the other, in a thread."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cxr_ray.tracking.process import TrackerProcess


class BackgroundTracker:
    """Queues the calls that log one study; the first one of all connects.

    The first call that fails ends the tracking, and ``problem`` says why, so that no trial waits
    for a server that is gone; `try_again` begins anew. Whatever is missing in the end, the next
    run logs.

    Parameters
    ----------
    uri
        Tracking server or database.
    artifacts
        Where a new MLflow experiment puts its artifacts, or None for the server's own place.
    study
        The content of ``study.json``.
    """

    def __init__(self, uri: str, artifacts: Path | None, study: Mapping[str, Any]) -> None:
        self._study = study
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")
        self._tracker: TrackerProcess | None = None
        self._last: Future[None] | None = None
        self._place = uri, artifacts

    def __enter__(self) -> "BackgroundTracker":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)
        self._close()

    @property
    def problem(self) -> str | None:
        """What ended the tracking, in a line, or None."""
        error = None if self._last is None else self._last.exception()
        if error is None:
            return None
        lines = str(error).strip().splitlines()
        return lines[0] if lines else type(error).__name__

    def connect(self) -> None:
        """Queue the connection and the study's own run, if that was not done before."""
        if self._last is None:
            self._queue(self._connect)

    def log_trial(self, member: Mapping[str, Any], folder: Path) -> None:
        """Queue a finished trial."""
        self._call(lambda tracker: tracker.log_trial(member, folder))

    def log_ended(self, member: Mapping[str, Any], how: Mapping[str, Any]) -> None:
        """Queue a trial that ended without a result."""
        self._call(lambda tracker: tracker.log_ended(member, how))

    def finish(self, artifacts: list[Path], *, complete: bool) -> None:
        """Queue the closing of the parent run."""
        self._call(lambda tracker: tracker.finish(self._study, artifacts, complete=complete))

    def try_again(self) -> None:
        """Connect once more where tracking has ended: the server may be back."""
        if self.problem is not None:
            self._close()
            self._last = None
            self.connect()

    def _connect(self) -> None:
        self._tracker = TrackerProcess(*self._place)
        self._tracker.start(self._study)

    def _close(self) -> None:
        if self._tracker is not None:
            self._tracker.close()
        self._tracker = None

    def _call(self, call: Callable[[TrackerProcess], None]) -> None:
        def call_tracker() -> None:
            if self._tracker is not None:
                call(self._tracker)

        self.connect()
        self._queue(call_tracker)

    def _queue(self, work: Callable[[], None]) -> None:
        previous = self._last

        def run() -> None:
            if previous is not None:
                previous.result()  # raises what ended the tracking, and so ends all that follows
            work()

        self._last = self._pool.submit(run)
