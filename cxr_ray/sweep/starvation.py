"""Ending a sweep whose trials have no machine left to run on, which Tune would wait for forever."""

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray import tune

from cxr_ray.sweep.resources import TrialResources
from cxr_ray.training.room import count_workers, worker_resources

LOOK_SECONDS = 1.0


class StarvedStopper(tune.Callback, tune.Stopper):
    """Stops everything once no node has held a trial for ``need.wait_for_room`` seconds.

    Attributes
    ----------
    reasons
        Why each trial that waited then is given up, by experiment id; Tune calls nobody for them.
    """

    def __init__(self, need: TrialResources) -> None:
        self._need = need
        self.reasons: dict[str, str] = {}
        self._each = worker_resources(need.cpus_per_worker, need.gpus_per_worker)
        self._looked = self._last_held = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore of its own, which is never used.
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no trial by what it reports."""
        return False

    def stop_all(self) -> bool:
        """Stop everything, or not yet."""
        return bool(self.reasons)

    def on_step_end(self, iteration: int, trials: Sequence[Any], **_: Any) -> None:
        """Look whether any trial runs, or could."""
        now = time.monotonic()
        if self.reasons or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        waiting = [trial for trial in trials if trial.status == "PENDING"]
        if not waiting or any(trial.status == "RUNNING" for trial in trials) or self._is_held():
            self._last_held = now
        elif now - self._last_held > self._need.wait_for_room:
            wanted = " and ".join(f"{value:g} {unit}s" for unit, value in self._each.items())
            for trial in waiting:
                self.reasons[trial.config["experiment_id"]] = (
                    f"no machine is left to run it: it needs {wanted}, and none has had them for "
                    f"{self._need.wait_for_room:g} s; the same command continues it"
                )

    def _is_held(self) -> bool:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return count_workers(self._each, nodes) > 0
