"""What the driver spends on each of 10,000 trials on 1,000 slots, and what grows with their number.

    python benchmarks/driver.py --trials 10000 --slots 1000

A whole search runs, from asking to the report, on the code that sweeps use: Optuna, ledger, leases,
Ray Tune, MLflow. Only the trials are simulated: one Ray actor stands for the processes of all slots
and answers at once, with figures of a made-up curve and a folder like a trained one's. So the
driver is always behind, and the time between two trials' ends is what it spends on one. The aim is
50 ms, and memory that does not grow. MLflow's process works beside it, on another core, and may
spend as much on a trial before it is what trials wait for.
"""

import argparse
import json
import os
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import ray
import yaml
from ray.air.execution import FixedResourceManager
from ray.air.execution.resources.fixed import FixedAcquiredResources
from ray.tune.execution import tune_controller
from rows import Row, machine, show

from cxr_ray.lease import FolderLeases
from cxr_ray.report import page, study_audit, study_tables
from cxr_ray.report.trial_folder import FEATURES_FILE, write_history, write_predictions
from cxr_ray.storage import TEST_FILE, WEIGHTS_FILE, Storage, move_whole
from cxr_ray.sweep import execution, ledger, runner, search, search_plan, search_results, sweep
from cxr_ray.sweep.options import SweepOptions
from cxr_ray.tracking import background
from cxr_ray.tracking.process import TrackerProcess

RECORDS = {"val": 300, "test": 600}
ALL, BESIDE, MEMORY = "all of the driver", "MLflow's process, a logged trial", "memory, MB"
SPACES = Path(__file__).parents[1] / "search_spaces"


class Slots:
    """Stands for the processes of all slots: a trainable each, as Tune calls them."""

    def __init__(self) -> None:
        self._told: dict[str, Any] = {}
        rng = np.random.default_rng(0)
        part = np.repeat(list(RECORDS), list(RECORDS.values()))
        name = np.arange(len(part)).astype(str)
        label = (np.arange(len(part)) % 3 == 0).astype(np.int8)
        self._predictions = {
            "record_id": name,
            "group": name,
            "part": part,
            "in_own": np.ones(len(part), dtype=bool),
            "label": label,
            "logit": rng.normal(size=len(part)) + label,
        }

    def call(self, slot: str, method: str, config: dict[str, Any] | None) -> Any:
        """Do what a slot's process is asked for: a new trial, or the next of its results."""
        if method == "train":
            return next(self._told[slot])
        if config is not None:
            self._told[slot] = self._train(job_of(config), config)
        return True

    def _train(self, job: dict[str, Any], config: dict[str, Any]) -> Any:
        storage = Storage(Path(job["storage"]))
        running = storage.running / job["experiment_id"]
        folder = storage.trials / job["experiment_id"]
        filled = {"config": config, "pid": 1, "hostname": "simulated", "done": False}
        if folder.exists():
            self._test(folder)
            yield {"test": RECORDS["test"], **filled}
        else:
            rng = np.random.default_rng(int(job["experiment_id"], 16))
            top, history = rng.beta(5, 2), []
            for epoch in range(job["config"]["train"]["max_epochs"]):
                row = {
                    "epoch": epoch, "lr": 1e-3, "train_loss": 0.5, "val_loss": 0.5,
                    "val_auroc": 0.8, "val_full_auroc": 0.8,
                    "val_average_precision": top * (1 - 0.6 ** (epoch + 1)) + rng.normal(0, 0.01),
                    "val_accuracy": 0.7, "seconds": 1.0,
                }  # fmt: skip
                history.append(row)
                best = max(history, key=lambda row: row["val_average_precision"])["epoch"]
                yield {**row, "best_epoch": best, "training_iteration": epoch + 1, **filled}
                if not storage.leases.holds(running, job["attempt"]):
                    break
            else:
                self._finish(running / job["attempt"], folder, job, history, best)
        for file in running.iterdir():
            file.unlink()
        running.rmdir()
        yield {"__duplicate__": True, **filled, "done": True}

    def _finish(
        self, aside: Path, folder: Path, job: dict[str, Any], history: list[Any], best: int
    ) -> None:
        (aside / WEIGHTS_FILE).parent.mkdir(parents=True)
        (aside / WEIGHTS_FILE).touch()
        settings = yaml.dump(job["config"], Dumper=yaml.CSafeDumper, sort_keys=False)
        (aside / "config.yaml").write_text(settings)
        write_history(aside, history)
        val = self._predictions["part"] == "val"
        write_predictions(aside, **{k: v[val] for k, v in self._predictions.items()})
        result = {
            "experiment_id": job["experiment_id"], "best_epoch": best, "epochs": len(history),
            "train_seconds": 10.0, "wall_seconds": 12.0, "finished_at": time.time(),
            "n_train": 1000, "n_train_positive": 300, "train_accuracy": 0.8, "parameters": 1000,
            "parameters_trained": 1000, "keys": job["keys"], "parts": job["parts"],
            "attempt": job["attempt"],
            "compute": {"device": "cpu", "precision": "float32", "workers": 1},
            "versions": {"git_commit": None},
        }  # fmt: skip
        (aside / "result.json").write_text(json.dumps(result))
        move_whole(aside, folder)

    def _test(self, folder: Path) -> None:
        write_predictions(folder, **self._predictions)
        count = len(self._predictions["part"])
        np.savez(folder / FEATURES_FILE, kind="concat", text=np.zeros((count, 256), np.float32))
        (folder / TEST_FILE).write_text("{}")


def job_of(config: dict[str, Any]) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(config["job"])
    return job


class SimulatedActor:
    """What Tune holds in the place of an actor's handle and of its class."""

    hub: Any = None

    @classmethod
    def remote(cls, **kwargs: Any) -> Self:
        """Start a trainable, as its class would."""
        if cls.hub is None:
            cls.hub = ray.remote(num_cpus=0)(Slots).remote()
        return cls(kwargs["config"])

    def __init__(self, config: dict[str, Any]) -> None:
        self._slot = uuid.uuid4().hex
        self.hub.call.remote(self._slot, "reset", config)

    def __getattr__(self, name: str) -> "SimulatedMethod":
        return SimulatedMethod(self._slot, name)


@dataclass(frozen=True)
class SimulatedMethod:
    """A method of a simulated actor."""

    slot: str
    name: str

    def remote(self, *args: Any, **_: Any) -> Any:
        """Call it."""
        return SimulatedActor.hub.call.remote(self.slot, self.name, *args[:1] or (None,))


@dataclass(frozen=True)
class Mark:
    """What was spent until a trial's end: by part, in all, and the memory held then.

    ``beside``: seconds of MLflow's process; ``logged``: the trials that it had logged.
    """

    wall: Counter[str]
    cpu: Counter[str]
    megabytes: float
    beside: float
    logged: int


class Clock:
    """Seconds in each part, less those in the parts that it calls, and memory, trial by trial."""

    def __init__(self) -> None:
        self.marks: list[Mark] = []
        self.wall: Counter[str] = Counter()
        self.cpu: Counter[str] = Counter()
        self._inside = threading.local()
        self.logger: WatchedProcess | None = None

    def around(self, owner: Any, name: str, part: str) -> None:
        """Time a function or method from now on."""
        inner = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            outer = getattr(self._inside, "spent", (0.0, 0.0))
            self._inside.spent = (0.0, 0.0)
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return inner(*args, **kwargs)
            finally:
                wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
                self.wall[part] += wall - self._inside.spent[0]
                self.cpu[part] += cpu - self._inside.spent[1]
                self._inside.spent = outer[0] + wall, outer[1] + cpu

        setattr(owner, name, timed)

    def mark(self) -> None:
        """Note what has been spent until now."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.marks.append(
            Mark(
                self.wall | Counter({ALL: time.perf_counter()}),
                self.cpu | Counter({ALL: time.process_time()}),
                pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
                self.logger.seconds() if self.logger else 0.0,
                self.logger.logged if self.logger else 0,
            )
        )

    def table(self, parts: Sequence[str], places: Sequence[int]) -> pd.DataFrame:
        """Milliseconds a trial over the 500 ends before each place, of wall and of CPU time."""
        columns = {}
        for at in places:
            since = max(0, at - 500)
            one, two = self.marks[since], self.marks[at]
            for kind in ("wall", "cpu"):
                spent = getattr(two, kind) - getattr(one, kind)
                each = {part: 1000 * spent[part] / (at - since) for part in [*parts, ALL]}
                columns[f"{kind} at {at}"] = each
            columns[f"wall at {at}"][MEMORY] = two.megabytes
            logged = max(1, two.logged - one.logged)
            columns[f"cpu at {at}"][BESIDE] = 1000 * (two.beside - one.beside) / logged
        return pd.DataFrame(columns)


class WatchedProcess(TrackerProcess):
    """MLflow's process, and what it has spent on how many trials."""

    clock: Clock
    logged, _to_start = -1, 0.0

    def _call(self, name: str, *arguments: Any, **named: Any) -> None:
        super()._call(name, *arguments, **named)
        self.logged += 1
        if name == "start":
            self.clock.logger, self._to_start = self, self.seconds()

    def seconds(self) -> float:
        """Return the CPU time that it has spent since it was connected."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") - self._to_start


class Listener:
    """Follows the sweep quietly, and times its phases."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def trial(self, event: runner.TrialEvent) -> None:
        """Note a trial's end."""
        if event.kind in ("finished", "pruned", "failed"):
            self._clock.mark()

    def planned(self, *_: Any) -> None:
        """Pass over the plan."""

    def preparing(self, *_: Any) -> None:
        """Pass over the preparation."""

    def phase(self, what: str) -> None:
        """Tell the time of a phase."""
        print(f"{time.strftime('%X')} {what}", flush=True)

    def warn(self, sentence: str) -> None:
        """Pass a warning on."""
        print(sentence, flush=True)


DURING = {
    "search: ask, draw": [(search.Search, "next")],
    "search: config and id": [(search_plan.SearchPlan, "member")],
    "search: epoch, pruner": [(search.Search, "epoch")],
    "search: end": [(search.Search, "ended")],
    "ledger": [(ledger.Ledger, "append")],
    "leases": [(FolderLeases, "acquire"), (FolderLeases, "release")],
    "record of the end": [(execution.Execution, "_follow")],
    "Tune: waiting": [(ray, "wait")],
    "Tune: rest": [(tune_controller.TuneController, "step")],
    "thread: heartbeat": [(FolderLeases, "refresh")],
    "thread: waiting for MLflow's process": [
        (TrackerProcess, "log_trial"),
        (TrackerProcess, "log_ended"),
    ],
}
AFTER = {
    "history read again": [(search.Search, "_rebuild")],
    "tables": [(sweep, "tabulate")],
    "search's results": [
        (search_results, name)
        for name in ("tabulate_trials", "measure_importance", "draw_pictures", "write_optuna")
    ],
    "text tables": [(study_tables, "write_study_tables")],
    "audit": [(study_audit, "write_study_audit")],
    "page": [(page, "write_page")],
}


class CountedSlots(FixedResourceManager):
    """Knows by their number whether a slot is free, as Tune's groups of slots know it at once.

    Ray's fixed resources are summed over all that are taken, several times a result.
    """

    def has_resources_ready(self, resource_request: Any) -> bool:
        """Tell whether a slot that was asked for is free."""
        free = self._total_resources["CPU"] - len(self._used_resources)
        return free > 0 and resource_request in self._requested_resources


def simulate(slots: int) -> None:
    """Put one actor in the place of all that Tune would start."""

    def take_class(self: Any, entities: Any) -> list[type]:
        return [SimulatedActor]

    FixedAcquiredResources.annotate_remote_entities = take_class
    tune_controller.PlacementGroupResourceManager = lambda: CountedSlots({"CPU": slots})
    runner.count_slots = lambda *_, **__: slots


def measure(
    scratch: Path,
    trials: int = 2_000,
    slots: int = 1_000,
    epochs: int = 8,
    space: str = "optimizer",
) -> list[Row]:
    """Run a search, print where its driver's time goes, and return what a trial costs it."""
    WatchedProcess.clock = clock = Clock()
    background.TrackerProcess = WatchedProcess
    for part, owners in (DURING | AFTER).items():
        for owner, name in owners:
            clock.around(owner, name, part)
    simulate(slots)
    options = SweepOptions(
        search=SPACES / f"{space}.yaml",
        profile="tiny",
        overrides=["fusion.modalities=text", f"train.max_epochs={epochs}"],
        storage=str(scratch / "runs"),
        trials=trials,
        command="benchmark",
    )
    began = time.perf_counter()
    outcome = sweep.run_sweep(options, Listener(clock))
    whole = time.perf_counter() - began
    ray.shutdown()
    assert not outcome.failed and not outcome.interrupted and outcome.tracked
    last = trials - 1
    # Where the last trials end, no slot is filled again, and less is to be done.
    places = sorted({min(1000, last // 2), max(last // 2, last - slots)})
    table = clock.table(list(DURING), places)
    print(table.round(1).to_string(na_rep=""))
    for part in AFTER:
        print(f"afterwards, {part}: {clock.wall[part]:.1f} s, {clock.cpu[part]:.1f} s of CPU")
    began = time.perf_counter()
    sweep.run_sweep(options, Listener(clock))
    print(f"all: {whole:.0f} s; the same command again: {time.perf_counter() - began:.0f} s")
    at = places[-1]
    memory = table[f"wall at {at}"][MEMORY] - table[f"wall at {places[0]}"][MEMORY]
    where = f"at the {at:,}th trial of a search on {slots:,} simulated slots"
    grown = f"more at the {at:,}th trial than at the {places[0]:,}th, by trial"
    spent = table[f"cpu at {at}"]
    return [
        Row("driver: a trial", f"CPU of all its threads, {where}", spent[ALL], "ms", at_most=50),
        Row("driver: a trial in MLflow", "CPU of its process", spent[BESIDE], "ms", at_most=50),
        Row("driver: memory", grown, 1000 * memory / (at - places[0]), "kB"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=1_000)
    parser.add_argument("--epochs", type=int, default=8, help="of a trial that is not pruned")
    parser.add_argument("--space", default="optimizer", help="a file of search_spaces/")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(show(measure(Path(scratch), **vars(options))))
    print(machine())


if __name__ == "__main__":
    main()
