"""One run of a search: its trials, then one look at the test part, then what it found."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

from cxr_ray.errors import InputError
from cxr_ray.lease import Heartbeat, Lease
from cxr_ray.storage import Storage
from cxr_ray.sweep.course import Course, forget_trials
from cxr_ray.sweep.execution import Execution
from cxr_ray.sweep.ledger import Ledger
from cxr_ray.sweep.plan import Member
from cxr_ray.sweep.search import Search
from cxr_ray.sweep.search_plan import (
    DEFAULT_TRIALS,
    SearchPlan,
    describe_space,
    remark_on_objective,
)
from cxr_ray.sweep.search_queue import SearchQueue
from cxr_ray.sweep.study import ENDED_FOLDER, STUDY_FILE, Study, read_ended

_ASKING = ".asking"
END_IMPORTS = (
    "cxr_ray.sweep.search_results",
    "matplotlib.pyplot",
    "optuna.visualization.matplotlib",
    "sklearn.ensemble",  # optuna's importance
)


class SearchCourse(Course):
    """The trials of a search.

    Parameters
    ----------
    counted
        The cohort's manifest.
    trials
        How many are asked for in all; None: 40, or no limit within ``time_budget``.
    time_budget
        Seconds after which nothing more is asked for; what runs then is trained to its end.
    keep
        The weights of so many of the best trials are kept, and those of trial 0.

    Raises
    ------
    InputError
        If the class ratios of the space are above the cohort's own.
    """

    parts: tuple[str, ...] = ("val",)

    def __init__(
        self,
        plan: SearchPlan,
        storage: Storage,
        study_name: str,
        counted: Mapping[str, Any],
        *,
        driver: str,
        trials: int | None,
        time_budget: float | None,
        keep: int,
    ) -> None:
        self._plan, said = plan.within(counted)
        self._storage, self._counted, self._driver = storage, counted, driver
        self._folder = storage.studies / study_name
        self._limit = DEFAULT_TRIALS if trials is None and time_budget is None else trials
        self._deadline = None if time_budget is None else time.monotonic() + time_budget
        self._keep, self._said = keep, said
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        lease = self._storage.leases.acquire(self._folder / _ASKING, self._driver)
        if lease is None:
            raise InputError(
                f"study {self._folder.name}: another command searches in it now; wait for its end, "
                "or give this one a name of its own with --study"
            )
        self._hold(lease)
        self._storage.home.fetch(self._folder, STUDY_FILE)  # as its last holder left it
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def remarks(self) -> Sequence[str]:
        """What a user should know before the first trial, in sentences."""
        other = []
        if self.search.foreign:
            other = [
                f"{len(self.search.foreign)} trials were asked for with another space, base or "
                "--set and are no part of this search now; their folders are kept"
            ]
        return (*self._said, *remark_on_objective(self._counted), *other)

    @property
    def imports(self) -> Sequence[str]:
        """The modules that the sweep's end needs."""
        return (*super().imports, *END_IMPORTS)

    @property
    def members(self) -> Sequence[Member]:
        """The members asked for so far."""
        return self.search.members

    def forget(self, driver: str) -> None:
        """Remove all trials of this search and begin anew."""
        ledger = Ledger(self._folder, self._storage.home)
        asked = [entry.experiment_id for entry in ledger.read()]
        forget_trials(self._storage, [each for each in asked if each is not None], driver)
        self._storage.home.discard(self._folder / ENDED_FOLDER)
        ledger.forget()
        self._open()

    def counts(self) -> tuple[int, int]:
        """Return how many trials are asked for, and how many of them are missing."""
        missing = self.search.waiting + (self.search.to_ask or 0)
        return len(self.search.trials) + (self.search.to_ask or 0), missing

    def run(self, execution: Execution) -> None:
        """Train what is missing, then score the test part of the winner and of trial 0."""
        queue = SearchQueue(self.search, self._storage)
        if self.search.waiting or self.search.to_ask != 0 or queue.untested():
            execution.run(queue, self._plan.plan.selected)

    def record(self, study: Study) -> Sequence[Mapping[str, Any]]:
        """Bring the study's record up to date and return its members as described there."""
        space = self._plan.space
        study.update(
            self.search.members,
            search={
                "space": describe_space(space, self._plan.fixed),
                "objectives": list(space.objectives),
                "directions": list(space.directions),
                "parameters": list(space.parameters),
                "sampler": space.sampler,
                "pruner": space.pruner,
            },
        )
        described: Sequence[Mapping[str, Any]] = study.record["members"]
        return described

    def write(self, study: Study) -> Sequence[str]:
        """Write the search's tables, pictures, best config and Optuna storage."""
        from cxr_ray.sweep.search_results import write_results

        return write_results(study, self._storage, self.search, self._plan.config.evaluation)

    def left(self, failed: Mapping[str, str]) -> int:
        """Return how many trials were interrupted, or not asked for though there was time."""
        to_ask = 0 if self._deadline is not None else self.search.to_ask or 0
        return self.search.waiting + to_ask

    def _hold(self, lease: Lease) -> None:
        folder = self._folder / _ASKING
        self._stack.callback(self._storage.leases.release, folder, lease)
        self._stack.enter_context(Heartbeat(self._storage.leases)).add(folder)

    def _open(self) -> None:
        self.search = Search(
            self._plan.space,
            self._plan.fixed,
            self._storage,
            Ledger(self._folder, self._storage.home),
            lambda number, drawn: self._plan.member(number, drawn, self._counted),
            read_ended(self._folder),
            seed=self._plan.config.train.seed,
            trials=self._limit,
            deadline=self._deadline,
            keep=self._keep,
        )
