"""What a sweep is about: a grid's members, all known, or a search's, which grow."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

from cxr_ray.storage import ALL_PARTS, Storage
from cxr_ray.sweep.execution import Execution
from cxr_ray.sweep.plan import Member, Plan
from cxr_ray.sweep.queue import GridQueue
from cxr_ray.sweep.study import Study

IMPORTS = ("cxr_ray.report.page", "cxr_ray.report.study_audit", "cxr_ray.report.study_tables")


class Course(ABC):
    """The trials of one sweep, from what is there to what is left.

    Attributes
    ----------
    parts
        The parts that a finished trial has predictions of.
    """

    parts: tuple[str, ...] = ALL_PARTS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    @property
    @abstractmethod
    def members(self) -> Sequence[Member]:
        """The members of the study so far."""

    @property
    def remarks(self) -> Sequence[str]:
        """What a user should know before the first trial, in sentences."""
        return ()

    @property
    def imports(self) -> Sequence[str]:
        """The modules that the sweep's end needs, in the order in which it does."""
        return IMPORTS

    @abstractmethod
    def forget(self, driver: str) -> None:
        """Remove what was trained, to train it again."""

    @abstractmethod
    def counts(self) -> tuple[int, int]:
        """Return how many trials are asked for, and how many of them are missing."""

    @abstractmethod
    def run(self, execution: Execution) -> None:
        """Train what is missing."""

    @abstractmethod
    def left(self, failed: Mapping[str, str]) -> int:
        """Return how many trials have neither finished nor ended in another way."""

    def record(self, study: Study) -> Sequence[Mapping[str, Any]]:
        """Bring the study's record up to date and return its members as described there."""
        described: Sequence[Mapping[str, Any]] = study.record["members"]
        return described

    def write(self, study: Study) -> Sequence[str]:
        """Write what this kind of sweep has of its own, and return it as texts to print."""
        return ()


class GridCourse(Course):
    """The members of a grid that the command is about."""

    def __init__(self, storage: Storage, plan: Plan) -> None:
        self._storage, self._plan = storage, plan

    @property
    def members(self) -> Sequence[Member]:
        """The members of the grid."""
        return self._plan.members

    def forget(self, driver: str) -> None:
        """Remove finished trials and what was begun, but for those somebody trains now."""
        forget_trials(self._storage, [m.trained_id for m in self._plan.selected], driver)

    def counts(self) -> tuple[int, int]:
        """Return how many trials are asked for, and how many of them are missing."""
        return len(self._plan.selected), len(self._missing())

    def run(self, execution: Execution) -> None:
        """Train what is missing."""
        if missing := self._missing():
            execution.run(GridQueue(missing), missing)

    def left(self, failed: Mapping[str, str]) -> int:
        """Return how many trials were interrupted."""
        return len({m.trained_id for m in self._missing()} - set(failed))

    def _missing(self) -> list[Member]:
        return [m for m in self._plan.selected if not self._storage.is_finished(m.trained_id)]


def forget_trials(storage: Storage, identities: Sequence[str], driver: str) -> None:
    """Remove finished trials and what was begun of them, but for those that somebody trains now."""
    for identity in identities:
        running = storage.running / identity
        if storage.leases.acquire(running, driver) is not None:
            storage.home.discard(storage.trials / identity)
            storage.home.discard(running)


def drop_leftovers(storage: Storage, driver: str) -> None:
    """Remove the checkpoints of finished trials, which a kill just after their end left behind."""
    for identity in storage.home.names(storage.running):
        running = storage.running / identity
        if storage.is_finished(identity, parts=()):
            if storage.leases.acquire(running, driver) is not None:
                storage.home.discard(running)
