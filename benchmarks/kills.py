"""Kill a sweep's driver at random moments, and hold what it ends with against a run let be.

    python benchmarks/kills.py --kills 10

The same command is started again after every ``kill -9``. The moments are spread over the first 28
seconds after a start, each later than the one before, so that the first ones hit Ray's start and
the preparation. In the end there are the same trials with the same weights, histories, predictions
and tables, and the same metrics in MLflow; no finished trial and no epoch that a checkpoint held
was trained again.
"""

import argparse
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from rows import Row, machine, show
from sweeps import ROOT, environment, run_sweep, sweep_command

from cxr_ray.report.trial_folder import read_history
from cxr_ray.storage import RESULT_FILE, WEIGHTS_FILE
from cxr_ray.training.checkpoint import LAST_FILE, load_state

EARLIEST, LATEST = 1.0, 28.0  # seconds after a start
TABLES = ("leaderboard.csv", "sensitivity.csv", "comparisons.csv")
# Differ between any two runs, or name a storage.
OF_A_RUN = ["seconds", "train_seconds", "wall_seconds", "finished_at", "record_id", "group"]


def measure(scratch: Path, arguments: Sequence[str], kills: int, seed: int) -> list[Row]:
    """Run a sweep undisturbed and another that is killed, and compare."""
    undisturbed, killed = scratch / "undisturbed", scratch / "killed"
    run_sweep(undisturbed, arguments)
    rng = random.Random(seed)
    each = (LATEST - EARLIEST) / kills
    moments = [EARLIEST + each * (number + rng.random()) for number in range(kills)]
    landed, finished, epochs = 0, {}, {}
    for moment in moments:
        if not _kill(killed, arguments, moment):
            break
        landed += 1
        finished = _finished(killed) | finished  # as first seen
        epochs = _kept_epochs(killed) | epochs
        prepared = len(list(killed.glob("prepared/*/manifest.json")))
        print(
            f"kill {landed} after {moment:.1f} s: {prepared} cohorts prepared, "
            f"{len(finished)} trials finished, {len(epochs)} epochs kept",
            flush=True,
        )
    run_sweep(killed, arguments)
    return [
        Row("kills", "of the driver, SIGKILL; fewer where it ends before", landed, at_least=kills),
        Row(
            "finished trials that were trained again",
            f"of {len(finished)} that had finished at a kill: another result.json",
            _changed(finished, _finished(killed)),
            at_most=0,
        ),
        Row(
            "epochs that were trained again",
            f"of {len(epochs)} that a checkpoint held at a kill: other seconds in the history",
            _changed(epochs, _epochs(killed)),
            at_most=0,
        ),
        Row(
            "what differs from the run let be",
            f"weights, histories, predictions of {len(_finished(killed))} trials; "
            + ", ".join(TABLES),
            _count_differences(undisturbed, killed),
            at_most=0,
        ),
        *_mlflow_rows(undisturbed, killed),
    ]


def _kill(storage: Path, arguments: Sequence[str], after: float) -> bool:
    """Start a sweep and kill it some seconds later; False if it had ended well by then."""
    path = storage.parent / "killed.log"
    with path.open("w") as log:
        process = subprocess.Popen(
            sweep_command(storage, arguments),
            cwd=ROOT,
            env=environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            time.sleep(1)  # what it leaves behind may write until it sees that
            return True
    if process.returncode:
        raise RuntimeError(f"the sweep failed after a kill:\n{path.read_text()[-3000:]}")
    return False


def _finished(storage: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in storage.glob(f"trials/*/{RESULT_FILE}")}


def _kept_epochs(storage: Path) -> dict[tuple[str, int], float]:
    """Read how long each epoch took that a checkpoint of an unfinished trial holds."""
    kept = {}
    for path in storage.glob(f"running/*/*/{LAST_FILE}"):
        for row in load_state(path)["history"]:
            kept[path.parent.parent.name, int(row["epoch"])] = float(row["seconds"])
    return kept


def _epochs(storage: Path) -> dict[tuple[str, int], float]:
    return {
        (name, int(row["epoch"])): float(row["seconds"])
        for name in _finished(storage)
        for row in read_history(storage / "trials" / name)
    }


def _changed(before: dict, after: dict) -> int:
    return sum(after.get(key) != value for key, value in before.items())


def _count_differences(one: Path, other: Path) -> int:
    names = set(_finished(one)) | set(_finished(other))
    pairs = [(one / "trials" / name, other / "trials" / name) for name in names]
    trials = sum(_content(left) != _content(right) for left, right in pairs)
    return trials + sum(_table(one, name) != _table(other, name) for name in TABLES)


def _content(trial: Path) -> tuple | None:
    if not trial.is_dir():
        return None
    predictions = pq.read_table(trial / "predictions.parquet").to_pandas()
    return (
        (trial / WEIGHTS_FILE).read_bytes(),
        _without_run(pd.DataFrame(list(read_history(trial)))),
        _without_run(predictions),
    )


def _table(storage: Path, name: str) -> str:
    (path,) = storage.glob(f"studies/*/{name}")
    return _without_run(pd.read_csv(path))


def _without_run(table: pd.DataFrame) -> str:
    return table.drop(columns=OF_A_RUN, errors="ignore").to_csv()


def _mlflow_rows(undisturbed: Path, killed: Path) -> list[Row]:
    there, found = _runs(undisturbed), _runs(killed)
    expected, steps = _steps(undisturbed, there), _steps(killed, found)
    names = Counter(run.info.run_name for run in found)
    names.subtract(run.info.run_name for run in there)
    return [
        Row(
            "runs too many or too few in MLflow",
            f"of {len(there)}, by their names, parent and children",
            sum(map(abs, names.values())),
            at_most=0,
        ),
        Row(
            "runs in MLflow that are not FINISHED",
            "of the same",
            sum(run.info.status != "FINISHED" for run in found),
            at_most=0,
        ),
        Row(
            "values doubled or missing in MLflow",
            f"of {expected.total():,}, by run, metric and step, beside the run let be",
            (steps - expected).total() + (expected - steps).total(),
            at_most=0,
        ),
    ]


def _client(storage: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")


def _runs(storage: Path) -> list[Run]:
    client = _client(storage)
    return client.search_runs([each.experiment_id for each in client.search_experiments()])


def _steps(storage: Path, runs: Sequence[Run]) -> Counter[tuple[str | None, str, int]]:
    client = _client(storage)
    return Counter(
        (run.info.run_name, name, each.step)
        for run in runs
        for name in run.data.metrics
        for each in client.get_metric_history(run.info.run_id, name)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--grid", default="paper12")
    parser.add_argument("--profile", default="demo")
    options = parser.parse_args()
    arguments = ["--grid", options.grid, "--profile", options.profile]
    with tempfile.TemporaryDirectory() as scratch:
        print(show(measure(Path(scratch), arguments, options.kills, options.seed)))
    print(machine())


if __name__ == "__main__":
    main()
