"""Scaling: one and two trials at once, and ten times the records.

python benchmarks/scaling.py
"""

import tempfile
from pathlib import Path

from rows import Row, machine, show
from sweeps import Sweep, run_sweep

FEW, MANY = 1_200, 12_000
GRID = ["--grid", "paper12", "--only", "loss=bce"]
CHEAP = [*GRID, "--only", "dataset=full", "--profile", "tiny", "--set"]
# Three models whose training is most of their time, as that of any model that matters.
USUAL = [*GRID, "--only", "dataset=full", "--set", "train.max_epochs=3"]


def measure(scratch: Path) -> list[Row]:
    """Run two sweeps of three models, and two of three small ones."""
    alone, both = (_run(scratch, *USUAL, "--max-concurrent", slots) for slots in "12")
    few, many = (_run(scratch, *CHEAP, f"phantom.patients={each}") for each in (FEW, MANY))
    seconds = [sweep.wall - sweep.start_up for sweep in (few, many)]
    return [
        Row(
            "two trials at once",
            "trials a second with two slots / with one: the main job's three models of one loss "
            "and all records, 3 epochs",
            _span(alone) / _span(both),
        ),
        Row(
            f"{MANY // FEW} times the patients",
            f"(wall - start-up) with {MANY:,} ({seconds[1]:.0f} s) / with {FEW:,} "
            f"({seconds[0]:.0f} s), generation and preparation included",
            seconds[1] / seconds[0],
            at_most=MANY / FEW,
        ),
    ]


def _run(scratch: Path, *arguments: str) -> Sweep:
    with tempfile.TemporaryDirectory(dir=scratch) as storage:
        sweep = run_sweep(Path(storage), arguments)
        sweep.trials  # noqa: B018 - read while the folder is there
    return sweep


def _span(sweep: Sweep) -> float:
    return max(trial.ended for trial in sweep.trials) - sweep.trials[0].began


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        print(show(measure(Path(scratch))))
    print(machine())


if __name__ == "__main__":
    main()
