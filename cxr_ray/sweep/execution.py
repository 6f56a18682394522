"""Running queues of trials within one sweep: Ray is started once, every end is recorded at once."""

import importlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, Self

from cxr_ray.config.identity import DataKeys
from cxr_ray.config.layers import flat_parameters
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.storage import Storage
from cxr_ray.sweep.auditing import SweepAudit
from cxr_ray.sweep.plan import LeftOut, Member
from cxr_ray.sweep.queue import TrialQueue
from cxr_ray.sweep.resources import TrialResources
from cxr_ray.sweep.study import Study
from cxr_ray.tracking.background import BackgroundTracker

if TYPE_CHECKING:
    from cxr_ray.sweep.handout import TrialEvent


END_SECONDS = 30.0  # that Ray may take to end


class Listener(Protocol):
    """Is told how a sweep goes, and draws it."""

    def planned(
        self, asked: int, missing: int, left_out: Sequence[LeftOut], cohorts: Sequence[str]
    ) -> None:
        """Tell how many trials are asked for and missing, and each cohort in a line."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """Tell that a step of the preparation went on."""

    def trial(self, event: "TrialEvent") -> None:
        """Tell that something happened to a trial."""

    def phase(self, what: str) -> None:
        """Tell that a phase without steps began."""

    def warn(self, sentence: str) -> None:
        """Tell what is not as it should be while the sweep goes on."""


class RayStart:
    """Starts Ray when it is first needed; a cluster that was joined is looked at on every node.

    As a context it waits at its end until Ray has ended, if that was told to stop.
    """

    def __init__(self, address: str | None, storage: Storage, listener: Listener) -> None:
        self._address, self._storage, self._listener = address, storage, listener
        self._started = False
        self._ending: threading.Thread | None = None

    @property
    def joins(self) -> bool:
        """Whether a cluster is joined that was there before."""
        return self._address is not None

    def __call__(self) -> None:
        """Start Ray, if that was not done before."""
        if self._started:
            return
        from cxr_ray.sweep.runner import start_ray

        self._listener.phase("starting Ray")
        start_ray(self._address)
        self._started = True
        if self._address is not None:
            from cxr_ray.sweep.preflight import check_nodes

            self._listener.phase("checking every node")
            check_nodes(self._storage)

    def stop(self) -> None:
        """Let Ray end, which is waiting for the most part, beside what needs it no more."""
        if self._started:
            import ray

            self._ending = threading.Thread(target=ray.shutdown, name="ray-shutdown", daemon=True)
            self._ending.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # What hangs is left to the process's end.
        if self._ending is not None:
            self._ending.join(END_SECONDS)

    def check_data(self, cohorts: Sequence[str], *, gpus: bool) -> None:
        """See that every node of a joined cluster has the prepared cohorts and devices."""
        if self._address is not None:
            from cxr_ray.sweep.preflight import check_nodes

            check_nodes(self._storage, cohorts, gpus=gpus)


class Execution:
    """What runs queues for one study, and what every trial of it is recorded with.

    Attributes
    ----------
    failed
        The reason of each trial that failed, by experiment id.
    """

    def __init__(
        self,
        storage: Storage,
        study: Study,
        ray: RayStart,
        audit: SweepAudit,
        tracking: BackgroundTracker,
        listener: Listener,
        *,
        cohorts: Sequence[str],
        need: TrialResources,
        driver: str,
        max_concurrent: int | None,
        git_commit: str | None,
        imports: Sequence[str],
    ) -> None:
        self._storage, self._study, self._ray = storage, study, ray
        self._audit, self._tracking, self._listener = audit, tracking, listener
        self._cohorts, self._need, self._driver = cohorts, need, driver
        self._max_concurrent, self._git_commit = max_concurrent, git_commit
        self._imports = imports
        self._beside: ThreadPoolExecutor | None = None
        self.failed: dict[str, str] = {}

    def run(self, queue: TrialQueue, reads: Sequence[Member]) -> None:
        """Train what a queue hands out.

        Parameters
        ----------
        reads
            Members that stand for whatever a trial of the queue may read.
        """
        from cxr_ray.sweep.runner import run_trials

        self._ray()
        self._cache_frozen(reads)
        self._ray.check_data(self._cohorts, gpus=self._need.gpus_per_worker > 0)
        try:
            self.failed |= run_trials(
                self._storage,
                queue,
                self._need,
                driver=self._driver,
                max_concurrent=self._max_concurrent,
                may_grow=self._ray.joins,
                git_commit=self._git_commit,
                on_event=self._follow,
                warn=self._listener.warn,
            )
        finally:
            # What comes next imports too, and would meet half of a module.
            if self._beside is not None:
                self._beside.shutdown()

    def _cache_frozen(self, reads: Sequence[Member]) -> None:
        """Compute what frozen stages make of the packs, once for all the trials that read it."""
        by_cohort: dict[str, list[tuple[ExperimentConfig, DataKeys]]] = {}
        for member in reads:
            if member.config.caches:
                by_cohort.setdefault(member.keys.cohort, []).append((member.config, member.keys))
        for wanted in by_cohort.values():
            from cxr_ray.data.fan_out import ray_tasks
            from cxr_ray.training.frozen import cache_frozen

            cache_frozen(
                self._storage,
                wanted,
                fan_out=ray_tasks(self._storage),
                progress=self._listener.preparing,
                driver=self._driver,
            )

    def _work_beside_training(self) -> None:
        """Connect the tracker, audit, and import what is needed once the last trial has ended.

        One after the other: two threads that import may each meet half of a module.
        """
        if self._beside is None:
            self._beside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="beside")
            self._tracking.connect()
            self._audit.start(self._beside)
            for name in self._imports:
                self._beside.submit(importlib.import_module, name)

    def _follow(self, event: "TrialEvent") -> None:
        from cxr_ray.report.out_of_fold import gather_fits

        if event.kind != "started":
            # Until a first epoch is over the cores belong to the trials' start.
            self._work_beside_training()
        if not event.is_test or event.kind == "failed":
            self._listener.trial(event)
        elif event.kind == "started":
            self._listener.phase("scoring the test part")
        member = event.member
        if event.kind == "finished":
            self._storage.home.discard(self._study.ended_file(member.trained_id))
            described = self._study.describe(member)
            if gather_fits(self._storage.trials, described):
                self._tracking.log_trial(
                    described, self._storage.trials / described["experiment_id"]
                )
        elif event.kind in ("failed", "pruned"):
            how: dict[str, Any] = {"status": event.kind, **event.figures}
            how["parameters"] = flat_parameters(member.config)
            self._storage.home.publish_file(self._study.write_ended(member.trained_id, how))
            self._tracking.log_ended(self._study.describe(member), how)
