"""Scaling: one and two trials at once, and ten times the records.

python benchmarks/scaling.py
"""

import tempfile
from pathlib import Path

from rows import Row, machine, show
from sweeps import Sweep, run_sweep

FEW, MANY = 1_200, 12_000
CHEAP = ["--grid", "paper12", "--profile", "tiny", "--only", "loss=bce", "--set"]


def measure(scratch: Path) -> list[Row]:
    """Run three sweeps of small models."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        alone, few, many = (_run(folder, *each) for each in ((FEW, 1), (FEW, 2), (MANY, 2)))
    seconds = [sweep.wall - sweep.start_up for sweep in (few, many)]
    return [
        Row(
            "two trials at once",
            f"trials a second with two slots / with one, {FEW:,} patients, small encoders",
            _span(alone) / _span(few),
        ),
        Row(
            f"{MANY // FEW} times the patients",
            f"(wall - start-up) with {MANY:,} ({seconds[1]:.0f} s) / with {FEW:,} "
            f"({seconds[0]:.0f} s), generation and preparation included",
            seconds[1] / seconds[0],
            at_most=MANY / FEW,
        ),
    ]


def _run(folder: str, patients: int, slots: int) -> Sweep:
    with tempfile.TemporaryDirectory(dir=folder) as storage:
        sweep = run_sweep(
            Path(storage),
            [*CHEAP, f"phantom.patients={patients}", "--max-concurrent", str(slots)],
        )
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
