"""What a sweep takes beside its arithmetic, on the main job: paper12 on the phantom.

    python benchmarks/tax.py

Wall - (bare steps, forward passes included) / slots, beyond a fixed start-up; which trials start
first; and what scoring, tests and tables cost.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bare import bare_seconds
from rows import Row, machine, show
from sweeps import ROOT, START_UP, Sweep, cores, run_sweep, started_late

TAX, STATISTICS = 0.10, 0.05


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
            Row(
                "sensitivity and statistics of the main job",
                f"scoring, tests, pictures and tables ({sweep.scoring:.1f} s) / wall",
                sweep.scoring / sweep.wall,
                at_most=STATISTICS,
            ),
        ]


def _time_help() -> float:
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / "launch" / "sweep.py"), "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def tax_rows(name: str, sweep: Sweep, bare: float) -> list[Row]:
    """Hold a sweep's wall time against its bare steps, in core-seconds."""
    beside = sweep.wall - bare / cores()
    idle = f"{sweep.idle:.1%} of the slots' time between first start and last end"
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
            f"trials that began after one less than .8 times as long; idle: {idle}",
            started_late(sweep.trials),
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
