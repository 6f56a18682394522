"""What a sweep takes beside its arithmetic, on the main job: paper12 on the phantom.

    python benchmarks/tax.py

Wall - (bare steps, forward passes included) / slots, beyond a fixed start-up; which trials start
first; what scoring, tests and tables cost; and how near its price comes.
"""

import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

from bare import bare_seconds
from rows import Row, machine, show
from sweeps import ROOT, START_UP, Sweep, cores, run_sweep, started_late

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.data.prepared import read_manifest
from cxr_ray.report.comparisons import compare_trials
from cxr_ray.report.scoring import score_folder
from cxr_ray.sweep.options import SweepOptions
from cxr_ray.sweep.price import StudyPrice
from cxr_ray.sweep.sweep import plan_sweep

TAX, STATISTICS, PRICE = 0.10, 0.05, 0.25


def measure(scratch: Path) -> list[Row]:
    """Run the main job and say where its wall time went."""
    with tempfile.TemporaryDirectory(dir=scratch) as storage:
        sweep = run_sweep(Path(storage), ["--grid", "paper12"])
        return [
            *tax_rows("the main job", sweep, bare_seconds(sweep)),
            Row(
                "start-up of the main job",
                "to the first trial, less the preparation",
                sweep.start_up,
                "s",
                at_most=START_UP,
            ),
            Row(
                "--help",
                "wall of launch/sweep.py --help, the best of three",
                min(_time_help() for _ in range(3)),
                "s",
                at_most=0.5,
            ),
            *_statistics_rows(sweep),
            _price_row(sweep),
        ]


def _statistics_rows(sweep: Sweep) -> list[Row]:
    """Make every figure of the study again, both cores busy, beside what its pictures took too."""
    whole = sweep.scoring  # by the times of files that are now written again
    (folder,) = (path.parent for path in sweep.storage.studies.glob("*/study.json"))
    study = json.loads((folder / "study.json").read_text())
    evaluation = EvaluationConfig.model_validate(study["evaluation"])
    trials = [sweep.storage.trials / each["experiment_id"] for each in study["members"]]
    with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:
        list(pool.map(_score_again, trials[: cores()], repeat(evaluation)))  # imports
        began = time.perf_counter()
        list(pool.map(_score_again, trials, repeat(evaluation)))
        scored = time.perf_counter() - began
    began = time.perf_counter()
    compare_trials(sweep.storage.trials, study, {}, evaluation)
    compared = time.perf_counter() - began
    return [
        Row(
            "sensitivity and statistics of the main job",
            f"tests and intervals of 12 models ({scored:.1f} s) and their comparisons "
            f"({compared:.1f} s), made again / wall",
            (scored + compared) / sweep.wall,
            at_most=STATISTICS,
        ),
        Row(
            "with pictures, explanations, tables and page",
            f"from each training's end to the last file ({whole:.1f} s) / wall",
            whole / sweep.wall,
        ),
    ]


def _price_row(sweep: Sweep) -> Row:
    """Price a sweep like one that has run: its epochs are known, its end is left out."""
    grid = ROOT / "search_spaces" / "paper12.yaml"
    options = SweepOptions(grid=grid, storage=str(sweep.storage.root))
    plan = plan_sweep(options).plan
    manifests = {
        member.keys.cohort: read_manifest(sweep.storage, member.keys.cohort)
        for member in plan.selected
    }
    price = StudyPrice(
        sweep.storage, plan.selected, manifests, options.resources, options.max_concurrent
    )
    price.measure()
    closing = price.closing or 0.0  # is that of this sweep
    trained = price.wall(trial.seconds() for trial in price.trials()) - closing
    took = sweep.wall - sweep.preparing - closing
    return Row(
        "price of the main job",
        f"its start and {len(sweep.trials)} trials of as many epochs by --dry-run --measure "
        f"({trained:.0f} s) / as they were ({took:.0f} s)",
        trained / took,
        at_least=1 - PRICE,
        at_most=1 + PRICE,
    )


def _score_again(trial: Path, evaluation: EvaluationConfig) -> None:
    for path in trial.glob("scores-*.json"):
        path.unlink()
    score_folder(trial, evaluation)  # its pictures are there


def _time_help() -> float:
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / "launch" / "sweep.py"), "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def tax_rows(name: str, sweep: Sweep, bare: float) -> list[Row]:
    """Hold a sweep's wall time against its bare steps, in core-seconds."""
    beside = sweep.wall - bare / cores()
    idle = f"{sweep.idle:.1%} of the slots' time between first start and last end"
    late = started_late([trial.ended - trial.began for trial in sweep.trials])
    unstopped = started_late([trial.unstopped for trial in sweep.trials])
    return [
        Row(
            f"framework tax: {name}",
            f"(wall {sweep.wall:.0f} s - bare steps {bare / cores():.0f} s - {START_UP:.0f} s "
            "start-up) / wall",
            (beside - START_UP) / sweep.wall,
            at_most=TAX,
            where=f"of the wall: {sweep.breakdown}",
        ),
        Row(
            f"longest trials first: {name}",
            "trials that began after one less than .8 times as long "
            f"({unstopped} had none stopped early); idle: {idle}",
            late,
            "trials",
            at_most=0,
        ),
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        print(show(measure(Path(scratch))))
    print(machine())


if __name__ == "__main__":
    main()
