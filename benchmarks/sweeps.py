"""Running launch/sweep.py as a user would, and reading from what it leaves where the time went."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cxr_ray.config.identity import DataKeys
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.arm import ArmData, open_arm
from cxr_ray.report.saliency import ARRAYS_FILE
from cxr_ray.report.trial_folder import read_config, read_result
from cxr_ray.storage import Storage

ROOT = Path(__file__).parents[1]
START_UP = 12.0  # seconds that a sweep may take beside its arithmetic, whatever its size
_STAMP = re.compile(r"^\[ *([\d.]+) s\] (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Trial:
    """One trained model: what it was, and when it ran, in seconds since the epoch.

    From ``trained`` on it was scored and written.
    """

    name: str
    began: float
    trained: float
    ended: float
    epochs: int
    in_epochs: float
    config: ExperimentConfig
    keys: DataKeys

    @property
    def unstopped(self) -> float:
        """The seconds that it would have taken had it not stopped early."""
        an_epoch = self.in_epochs / self.epochs
        return self.ended - self.began + an_epoch * (self.config.train.max_epochs - self.epochs)


@dataclass(frozen=True)
class Sweep:
    """A sweep that was run: its wall time, CPU time and what it printed."""

    wall: float
    cpu: float
    began: float
    printed: str
    storage: Storage

    @cached_property
    def trials(self) -> list[Trial]:
        """The trials in the order of their starts."""
        (study,) = self.storage.studies.glob("*/study.json")
        found = []
        for member in json.loads(study.read_text())["members"]:
            folder = self.storage.trials / member["experiment_id"]
            if not folder.is_dir():
                continue  # --only leaves it out
            result = read_result(folder)
            found.append(
                Trial(
                    name=member["name"],
                    began=result["finished_at"] - result["wall_seconds"],
                    trained=result["finished_at"],
                    ended=max(
                        path.stat().st_mtime
                        for path in folder.iterdir()
                        if path.name != ARRAYS_FILE  # the sweep's last step writes it
                    ),
                    epochs=result["epochs"],
                    in_epochs=result["train_seconds"],
                    config=ExperimentConfig.model_validate(read_config(folder)),
                    keys=DataKeys(**result["keys"]),
                )
            )
        return sorted(found, key=lambda trial: trial.began)

    def arm(self, trial: Trial) -> ArmData:
        """Open what a trial read."""
        return open_arm(self.storage, trial.config, trial.keys)

    @cached_property
    def printed_at(self) -> dict[str, float]:
        """When a line was first printed, in seconds, by the line."""
        stamps = [(text, float(at)) for at, text in _STAMP.findall(self.printed)]
        return dict(reversed(stamps))

    @property
    def preparing(self) -> float:
        """Seconds from the selection of the cohort to the plan."""
        (planned,) = (at for text, at in self.printed_at.items() if text.startswith("experiments:"))
        return planned - self.printed_at.get("selecting the cohort", planned)

    @property
    def scoring(self) -> float:
        """Seconds of the wall that scores, tests, pictures and tables take."""
        in_trials = sum(trial.ended - trial.trained for trial in self.trials)
        at_end = self.printed_at["logging to MLflow"] - self.printed_at["scoring"]
        return in_trials / cores() + at_end

    @property
    def start_up(self) -> float:
        """Seconds to the start of the first trial, without the preparation."""
        return self.trials[0].began - self.began - self.preparing

    @property
    def breakdown(self) -> str:
        """Where the wall time goes, in a sentence; what is done in slots counts by their number."""
        last = max(trial.ended for trial in self.trials)
        trained = sum(trial.trained - trial.began for trial in self.trials)
        in_epochs = sum(trial.in_epochs for trial in self.trials)
        scored = sum(trial.ended - trial.trained for trial in self.trials)
        between = cores() * (last - self.trials[0].began) - trained - scored
        slots = {
            "epochs": in_epochs,
            "building models, checkpoints and last passes": trained - in_epochs,
            "scoring": scored,
            "between trials": between,
        }
        logging = self.began + self.printed_at["logging to MLflow"] - last
        shares = {
            "start-up": self.start_up,
            "preparation": self.preparing,
            **{name: seconds / cores() for name, seconds in slots.items()},
            "tables and page": logging,
            "MLflow and exit": self.began + self.wall - last - logging,
        }
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in shares.items())

    @property
    def idle(self) -> float:
        """Share of the trials' time in which a slot had none, from first start to last end."""
        span = max(t.ended for t in self.trials) - self.trials[0].began
        return 1 - sum(t.ended - t.began for t in self.trials) / (span * cores())


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def sweep_command(storage: Path, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs a sweep into a storage, to be started in `ROOT`."""
    return [sys.executable, "launch/sweep.py", "--storage", str(storage), *arguments]


def environment() -> dict[str, str]:
    """Return an environment in which a process imports this checkout, whatever is installed."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def run_sweep(storage: Path, arguments: Sequence[str]) -> Sweep:
    """Run a sweep into a storage of its own.

    Raises
    ------
    RuntimeError
        With what it printed, if it does not end well.
    """
    before, began = os.times(), time.time()
    done = subprocess.run(
        sweep_command(storage, arguments),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    after, ended = os.times(), time.time()
    if done.returncode:
        raise RuntimeError(f"{' '.join(done.args)}:\n{done.stdout[-3000:]}")
    cpu = after.children_user + after.children_system - before.children_user
    cpu -= before.children_system
    return Sweep(ended - began, cpu, began, done.stdout, Storage.open(str(storage)))


def started_late(seconds: Sequence[float]) -> int:
    """Count, of trials in the order of their starts, those after one less than .8 times as long."""
    lengths = np.array(seconds)
    shortest_before = np.minimum.accumulate(lengths)
    return int(np.sum(shortest_before < 0.8 * lengths))
