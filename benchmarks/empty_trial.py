"""Time what a trial costs that trains nothing, once its process is warm: Tune, lease and ledger.

    python benchmarks/empty_trial.py --trials 60

The aim is under .5 s.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray import cloudpickle, tune
from rows import Row, machine, show

from cxr_ray.config.identity import DataKeys
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.storage import Storage
from cxr_ray.sweep import runner
from cxr_ray.sweep.queue import GridQueue
from cxr_ray.sweep.resources import TrialResources


def finish_at_once(config: dict[str, Any]) -> None:
    job = json.loads(config["job"])
    folder = Path(job["storage"]) / "trials" / job["experiment_id"]
    folder.mkdir()
    (folder / "result.json").write_text("{}")
    tune.report({"trained": 0})


def measure(scratch: Path, trials: int = 60) -> list[Row]:
    """Return the seconds of an empty trial, and what of them the driver computes."""
    keys = DataKeys(cohort="none", image=None, text=None, tokenizer=None)
    members = [
        SimpleNamespace(trained_id=f"{i:016x}", name=str(i), config=ExperimentConfig(), keys=keys)
        for i in range(trials)
    ]
    ended: list[tuple[float, float]] = []

    def follow(event: runner.TrialEvent) -> None:
        if event.kind == "finished":
            ended.append((time.perf_counter(), time.process_time()))

    # Workers get it by value, since it belongs to no module that they could import.
    runner._train_in_trial = finish_at_once
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    runner.start_ray(None)
    runner.run_trials(
        Storage.open(str(scratch)),
        GridQueue(members),  # type: ignore[arg-type]
        TrialResources(),
        driver="benchmark",
        max_concurrent=1,
        git_commit=None,
        on_event=follow,
        warn=print,
    )
    ray.shutdown()
    # The first waits for its process.
    spans = zip(ended[1], ended[-1], strict=True)
    wall, cpu = ((last - first) / (len(ended) - 2) for first, last in spans)
    what = f"of {len(ended)} on one slot, once warm: Tune, lease and ledger"
    return [
        Row("empty trial", what, wall, "s", at_most=0.5),
        Row("empty trial: CPU of the driver", "its threads together", 1000 * cpu, "ms", at_most=50),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(show(measure(Path(scratch), options.trials)))
    print(machine())


if __name__ == "__main__":
    main()
