"""Time what a trial costs that trains nothing, once its process is warm: Tune, lease and ledger.

    python benchmarks/empty_trial.py --trials 60

The aim is under .5 s.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=60)
    options = parser.parse_args()
    keys = DataKeys(cohort="none", image=None, text=None, tokenizer=None)
    members = [
        SimpleNamespace(trained_id=f"{i:016x}", name=str(i), config=ExperimentConfig(), keys=keys)
        for i in range(options.trials)
    ]
    ended: list[float] = []

    def follow(event: runner.TrialEvent) -> None:
        if event.kind == "finished":
            ended.append(time.perf_counter())

    # Workers get it by value, since it belongs to no module that they could import.
    runner._train_in_trial = finish_at_once
    runner.start_ray(None)
    with tempfile.TemporaryDirectory() as folder:
        runner.run_trials(
            Storage.open(folder),
            GridQueue(members),  # type: ignore[arg-type]
            TrialResources(),
            driver="benchmark",
            max_concurrent=1,
            git_commit=None,
            on_event=follow,
        )
    ray.shutdown()
    each = (ended[-1] - ended[1]) / (len(ended) - 2)
    print(f"{len(ended)} empty trials on one slot: {each:.3f} s each once warm")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"ray {ray.__version__}"
    )


if __name__ == "__main__":
    main()
