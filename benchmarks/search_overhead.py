"""Measure what a search costs beside its training: start, handing out, scoring, test step, report.

    python benchmarks/search_overhead.py --trials 16

``launch/sweep.py --search`` runs trials of about 20 s on two slots of one core, on prepared data.
The overhead is the wall time less the training time over the slots, as a share of the latter; the
aim is 10 % for the 40 trials that a search has by default. What is paid once a search does not grow
with its trials, so the share for 40 is computed from both.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rows import Row, machine, show
from sweeps import ROOT, environment, run_sweep

SLOTS = 2
DEFAULT_TRIALS = 40
SPACE = """
title: What does a search cost beside its training?
base: {{train.max_epochs: {epochs}, train.patience: {epochs}}}
parameters:
  train.lr: {{float: [1.0e-4, 3.0e-3], log: true}}
pruner: none
"""


@dataclass(frozen=True)
class Cost:
    """Seconds of one search.

    ``trained`` and ``whole`` are sums over its trials, without and with what each does beside
    training; ``idle`` is what the last trial leaves another slot without work.
    """

    trials: int
    wall: float
    trained: float
    whole: float
    start: float
    end: float
    idle: float

    @property
    def between(self) -> float:
        """Slot seconds between a trial's end and the next one's begin."""
        return (self.wall - self.start - self.end) * SLOTS - self.whole - self.idle

    def share(self, trials: int) -> float:
        """Return the overhead of so many trials, as a share of their training time."""
        once = (self.start + self.end) * SLOTS + self.idle
        each = (self.whole - self.trained + self.between) / self.trials
        return (once / trials + each) / (self.trained / self.trials)

    def describe(self) -> str:
        """Say in a line where it goes."""
        training, beside = (s / self.trials for s in (self.trained, self.whole - self.trained))
        return (
            f"once: {self.start:.1f} s until the first trial, {self.end:.1f} s after the last, "
            f"{self.idle:.1f} s of a slot beside the last; a trial: {training:.1f} s of "
            f"training, {beside:.2f} s beside it, {self.between / self.trials:.2f} s to the "
            "next"
        )


def run_search(scratch: Path, trials: int, epochs: int) -> Cost:
    """Prepare, run one search as a user would, and read from its trials where the time went."""
    space, storage = scratch / "overhead.yaml", scratch / "runs"
    space.write_text(SPACE.format(epochs=epochs))
    prepare = [sys.executable, "launch/prepare.py", "--storage", str(storage)]
    subprocess.run(prepare, cwd=ROOT, env=environment(), check=True, stdout=subprocess.DEVNULL)
    searched = ["--search", str(space), "--trials", str(trials), "--max-concurrent", str(SLOTS)]
    sweep = run_sweep(storage, searched)
    over = sweep.began + sweep.wall
    results = [json.loads(path.read_text()) for path in storage.glob("trials/*/result.json")]
    ends = sorted(result["finished_at"] for result in results)
    first = min(result["finished_at"] - result["wall_seconds"] for result in results)
    return Cost(
        trials=len(results),
        wall=sweep.wall,
        trained=sum(result["train_seconds"] for result in results),
        whole=sum(result["wall_seconds"] for result in results),
        start=first - sweep.began,
        end=over - ends[-1],
        idle=sum(ends[-1] - end for end in ends[-SLOTS:]),
    )


def measure(scratch: Path, trials: int = 10, epochs: int = 10) -> list[Row]:
    """Return the overhead of a search of the default length."""
    cost = run_search(scratch, trials, epochs)
    return [
        Row(
            "search overhead",
            f"wall time over training time a slot, less 1: {DEFAULT_TRIALS} trials of "
            f"{cost.trained / cost.trials:.0f} s, 2 slots; from a search of {cost.trials}, which "
            f"had {cost.share(cost.trials):.0%}",
            100 * cost.share(DEFAULT_TRIALS),
            "%",
            at_most=10,
            where=cost.describe(),
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=10, help="of each trial: about 20 s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(show(measure(Path(scratch), options.trials, options.epochs)))
    print(machine())


if __name__ == "__main__":
    main()
