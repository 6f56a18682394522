"""Kill a sweep's driver at random moments, and hold what it ends with against a run let be.

    python benchmarks/kills.py --kills 10

The same command is started again after every ``kill -9``. In the end there are the same trials with
the same figures; what had finished was not touched, and no epoch that a checkpoint held was trained
again. The kills come after 5 to 35 seconds each, so some fall into the start or the preparation.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from mlflow.tracking import MlflowClient
from rows import Row, machine, show
from sweeps import ROOT, run_sweep

from cxr_ray.report.trial_folder import read_history
from cxr_ray.storage import RESULT_FILE, WEIGHTS_FILE
from cxr_ray.training.checkpoint import LAST_FILE, load_state

EARLIEST, LATEST = 5.0, 35.0  # seconds after a start
# Differ between any two runs, or name a storage.
OF_A_RUN = ["seconds", "train_seconds", "wall_seconds", "finished_at", "record_id", "group"]


def measure(scratch: Path, arguments: Sequence[str], kills: int, seed: int) -> list[Row]:
    """Run a sweep undisturbed and another that is killed, and compare."""
    undisturbed, killed = scratch / "undisturbed", scratch / "killed"
    run_sweep(undisturbed, arguments)
    rng = random.Random(seed)
    landed, finished, epochs = 0, {}, {}
    while landed < kills and _kill(killed, arguments, rng.uniform(EARLIEST, LATEST)):
        landed += 1
        finished = _finished(killed) | finished  # as first seen
        epochs = _kept_epochs(killed) | epochs
        print(f"kill {landed}: {len(finished)} finished, {len(epochs)} epochs kept", flush=True)
    run_sweep(killed, arguments)
    return [
        Row("kills", "of the driver, SIGKILL, in its first 35 s", landed, at_least=kills),
        Row(
            "finished trials that were trained again",
            f"of {len(_finished(killed))}: another attempt or time in their result",
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
            "figures that differ from the run let be",
            "weights, histories, predictions of each trial, and the leaderboard",
            _count_differences(undisturbed, killed),
            at_most=0,
        ),
        *_mlflow_rows(killed),
    ]


def _kill(storage: Path, arguments: Sequence[str], after: float) -> bool:
    """Start a sweep and kill it some seconds later; False if it had ended by then."""
    command = [sys.executable, "launch/sweep.py", "--storage", str(storage), *arguments]
    with (storage.parent / "killed.log").open("a") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            time.sleep(1)  # what it leaves behind may write until it sees that
            return True
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
    different = [_content(left) != _content(right) for left, right in pairs]
    return sum(different) + (_leaderboard(one) != _leaderboard(other))


def _content(trial: Path) -> tuple | None:
    if not trial.is_dir():
        return None
    predictions = pq.read_table(trial / "predictions.parquet").to_pandas()
    return (
        (trial / WEIGHTS_FILE).read_bytes(),
        pd.DataFrame(list(read_history(trial))).drop(columns=OF_A_RUN, errors="ignore").to_csv(),
        predictions.drop(columns=OF_A_RUN, errors="ignore").to_csv(),
    )


def _leaderboard(storage: Path) -> str:
    (path,) = storage.glob("studies/*/leaderboard.csv")
    return pd.read_csv(path).drop(columns=OF_A_RUN, errors="ignore").to_csv()


def _mlflow_rows(storage: Path) -> list[Row]:
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    unfinished = sum(run.info.status != "FINISHED" for run in runs)
    steps = Counter(
        (run.info.run_id, name, each.step)
        for run in runs
        for name in run.data.metrics
        for each in client.get_metric_history(run.info.run_id, name)
    )
    doubled = sum(count - 1 for count in steps.values())
    trials = len(_finished(storage))
    return [
        Row(
            "children in MLflow",
            f"for {trials} trials and {len(runs) - len(children)} parent, of which {unfinished} "
            "have not the status FINISHED",
            len(children),
            at_least=trials,
            at_most=trials,
        ),
        Row("steps doubled in MLflow", f"of {len(steps):,} values", doubled, at_most=0),
    ]


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
