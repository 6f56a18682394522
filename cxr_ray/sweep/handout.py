"""Handing a sweep's members to Ray Tune as jobs, and following what becomes of them."""

import functools
import json
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

from ray.tune.search import Searcher

from cxr_ray.errors import store_errors
from cxr_ray.lease import Heartbeat, Lease
from cxr_ray.storage import Storage
from cxr_ray.sweep.plan import Member
from cxr_ray.sweep.queue import TrialQueue
from cxr_ray.sweep.resources import TrialResources
from cxr_ray.training.job import Job

PROCESS_RETRIES = 2
# What an epoch's report holds of the training itself, beside what Tune adds.
HISTORY_FIELDS = (
    "epoch", "lr", "train_loss", "val_loss", "val_auroc", "val_full_auroc",
    "val_average_precision", "val_accuracy", "seconds",
)  # fmt: skip

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class TrialEvent:
    """Something that happened to a trial.

    ``kind`` is ``started``, ``epoch``, ``retried``, ``finished``, ``failed``, ``pruned`` or
    ``stopped``; a stopped one keeps its checkpoint. ``is_test``: it is the test part of a trained
    one that is scored.
    """

    kind: str
    member: Member
    figures: dict[str, Any]
    is_test: bool = False


def _until_the_storage_fails(
    method: Callable[Concatenate["Handout", P], R],
) -> Callable[Concatenate["Handout", P], R | None]:
    """Keep an error of the storage, which would reach a user as a traceback of Tune's."""

    @functools.wraps(method)
    def call(self: "Handout", *args: P.args, **kwargs: P.kwargs) -> R | None:
        if self.error is None:
            try:
                return method(self, *args, **kwargs)
            except store_errors() as error:
                self.error = error
        return None

    return call


class Handout(Searcher):
    """Hands a queue's members to Tune as jobs, each under a lease, and follows what they do.

    Attributes
    ----------
    failed
        The reason of each trial that failed, by experiment id.
    error
        What the storage failed with; nothing is handed out or recorded after it.
    """

    def __init__(
        self,
        storage: Storage,
        queue: TrialQueue,
        need: TrialResources,
        driver: str,
        git_commit: str | None,
        heartbeat: Heartbeat,
        on_event: Callable[[TrialEvent], None],
    ) -> None:
        super().__init__()
        self._storage, self._queue, self._need = storage, queue, need
        self._driver, self._git_commit = driver, git_commit
        self._heartbeat, self._on_event = heartbeat, on_event
        self._elsewhere: deque[Member] = deque()
        self._running: dict[str, tuple[Member, Lease]] = {}
        self._pruned: dict[str, str] = {}
        self._histories: dict[str, list[dict[str, Any]]] = {}
        self._deaths: Counter[str] = Counter()
        self.failed: dict[str, str] = {}
        self.error: BaseException | None = None
        self._found: dict[str, Any] | None = None
        self.all_handed_out = False

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher for a restore of its own, which is never used.
        return {}

    @_until_the_storage_fails
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the next job, None while trials are waited for, or that all is over."""
        if self._found is None:
            self.look()
        if self._found is None:
            waits = bool(self._running) and (bool(self._elsewhere) or self._queue.waits)
            return None if waits else str(Searcher.FINISHED)
        job, self._found = self._found, None
        return job

    def look(self) -> bool:
        """Take the next lease that can be had; False where there is none now, or nothing left."""
        self.all_handed_out = False
        for _ in range(len(self._elsewhere)):
            if self._hand_out(self._elsewhere.popleft()):
                return True
        while member := self._queue.next():
            if self._hand_out(member):
                return True
        self.all_handed_out = True
        return False

    @property
    def over(self) -> bool:
        """Whether nothing is left, here or with other drivers."""
        return self.all_handed_out and not self._elsewhere

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the callback has been told."""

    def _hand_out(self, member: Member) -> bool:
        """Take a member's lease and make its job; False where it needs none from here."""
        identity = member.trained_id
        parts = self._queue.parts(member)
        if self._storage.is_finished(identity, parts):
            self._queue.ended(member, "finished")
            return False
        running = self._storage.running / identity
        lease = self._storage.leases.acquire(running, self._driver)
        if lease is None:
            self._elsewhere.append(member)
            return False
        if self._storage.is_finished(identity, parts):
            # Another driver finished it after this one had looked.
            self._storage.home.discard(running)
            self._queue.ended(member, "finished")
            return False
        self._storage.discard_unusable(identity)
        self._heartbeat.add(running)
        self._running[identity] = member, lease
        job = Job(
            storage=self._storage.location,
            experiment_id=identity,
            attempt=lease.attempt,
            config=member.config.model_dump(mode="json"),
            keys=asdict(member.keys),
            parts=parts,
            git_commit=self._git_commit,
            **asdict(self._need),
        )
        # As one text: Tune flattens and copies the fields of every trial's config.
        self._found = {"experiment_id": identity, "job": json.dumps(asdict(job))}
        return True

    @_until_the_storage_fails
    def started(self, identity: str) -> None:
        """Pass a trial's start on."""
        self._tell("started", self._running[identity][0], {})

    @_until_the_storage_fails
    def epoch(self, identity: str, figures: dict[str, Any]) -> None:
        """Pass an epoch on; a trial that is to be pruned loses its lease, and so ends itself."""
        member, lease = self._running[identity]
        history = self._histories.setdefault(identity, [])
        if any(row["epoch"] == figures["epoch"] for row in history):
            return  # a trial that was continued tells its epochs again
        history.append({key: figures[key] for key in HISTORY_FIELDS if key in figures})
        self._tell("epoch", member, figures)
        reason = None if identity in self._pruned else self._queue.epoch(member, figures)
        if reason is not None:
            self._pruned[identity] = reason
            self._storage.leases.release(self._storage.running / identity, lease)

    def died_before_its_start(self, identity: str, reason: str) -> None:
        """Hand a trial out again whose process died while it was to begin, but not for ever.

        Tune retries what has begun; a process that dies as it takes its next trial fails that one.
        """
        self._deaths[identity] += 1
        if self._deaths[identity] <= PROCESS_RETRIES:
            self.retried(identity, reason)
            self.ended(identity, None)
        else:
            self.ended(identity, reason)

    @_until_the_storage_fails
    def retried(self, identity: str, reason: str) -> None:
        """Pass on that a trial begins again from its checkpoint, and why."""
        self._tell("retried", self._running[identity][0], {"reason": reason})

    @_until_the_storage_fails
    def ended(self, identity: str, reason: str | None) -> None:
        """Take a trial's end; the reason is why it failed."""
        member, lease = self._running[identity]
        history = self._histories.pop(identity, [])
        finished = self._storage.is_finished(identity, self._queue.parts(member))
        kind, figures = "finished", dict[str, Any]()
        if reason is not None:
            self.failed[identity] = reason
            kind, figures = "failed", {"reason": reason, "history": history}
        elif identity in self._pruned and not finished:
            kind, figures = "pruned", {"reason": self._pruned.pop(identity), "history": history}
            self._drop_checkpoint(identity)
        elif not finished:
            # Its lease went to another driver, or it was interrupted.
            self._elsewhere.append(member)
            kind = "stopped"
        self._let_go(identity)
        if kind != "stopped":
            self._queue.ended(member, kind, figures.get("reason"))
        self._tell(kind, member, figures)

    def release_all(self) -> bool:
        """Give back what an interruption left; True where there was anything."""
        left = list(self._running)
        for identity in left:
            self._let_go(identity)
        return bool(left)

    def _let_go(self, identity: str) -> None:
        _, lease = self._running.pop(identity)
        running = self._storage.running / identity
        self._heartbeat.discard(running)
        self._storage.leases.release(running, lease)

    def _drop_checkpoint(self, identity: str) -> None:
        running = self._storage.running / identity
        if self._storage.leases.acquire(running, self._driver) is not None:
            self._storage.home.discard(running)

    def _tell(self, kind: str, member: Member, figures: dict[str, Any]) -> None:
        self._on_event(TrialEvent(kind, member, figures, self._queue.is_test(member)))
