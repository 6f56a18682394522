"""Memory of a whole preparation at 24,000 records and at ten times as many.

    python benchmarks/repeated.py

A table of made-up reports and, for images, 64 tiny JPEGs under as many names as there are records.
Every process of a run is watched; its peak is the most that it had resident at any time, what it
shares with others included.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from inputs import RECIPE
from prepare import make_reports
from rows import Row, machine, show
from sweeps import ROOT

from cxr_ray.data.sources.phantom_images import jpeg

FEW, MANY = 24_000, 240_000
FILMS, PIXELS = 64, 32
FLAT = 1.1
# In a process of its own, which starts a Ray of its own.
ONCE = """
import sys, time
from cxr_ray.sweep.preparation import prepare_cohort
began = time.perf_counter()
made = prepare_cohort(
    storage=sys.argv[2], data="table:" + sys.argv[1], reports=None, profile="demo",
    overrides=["image.size=32"], cohort_only=False, progress=lambda *_: None)
print(made.manifest["records"], time.perf_counter() - began)
"""


@dataclass(frozen=True)
class Peaks:
    """Most resident bytes of the driver and of the largest worker, and what was prepared."""

    driver: int
    worker: int
    records: int
    seconds: float


def measure(scratch: Path) -> list[Row]:
    """Prepare both tables."""
    few, many = (_prepare(write_table(scratch / "input", records)) for records in (FEW, MANY))
    return [
        Row(
            f"memory of preparation: {who}",
            f"peak RSS with {many.records:,} records ({high / 1e6:.0f} MB, {many.seconds:.0f} s) / "
            f"with {few.records:,} ({low / 1e6:.0f} MB, {few.seconds:.0f} s), images and reports",
            high / low,
            "times",
            at_most=FLAT,
            where=f"{(high - low) / (many.records - few.records):.0f} bytes a record: {what}",
        )
        for who, low, high, what in (
            ("the driver", few.driver, many.driver, "ids, paths and labels of the cohort, no text"),
            ("the largest worker", few.worker, many.worker, "it holds one chunk"),
        )
    ]


def write_table(folder: Path, records: int) -> Path:
    """Write a table whose rows are in no order, and the links and texts that it names."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    films = [folder / f"film-{number}.jpg" for number in range(FILMS)]
    for film in films:
        film.write_bytes(jpeg(rng.integers(256, size=(PIXELS, PIXELS), dtype=np.uint8)))
    order = rng.permutation(records)
    with (folder / f"{records}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["record", "patient", "image", "text", "label"])
        for number, text in zip(order.tolist(), make_reports(records, seed=records), strict=True):
            path = images / f"{number:06d}.jpg"
            if not path.exists():
                os.link(films[number % FILMS], path)
            name = f"images/{path.name}"
            writer.writerow([f"r{number:06d}", f"p{number:06d}", name, text, int(number % 8 == 0)])
    recipe = folder / f"{records}.yaml"
    recipe.write_text(RECIPE.replace("table.csv", f"{records}.csv"))
    return recipe


def _prepare(recipe: Path) -> Peaks:
    with tempfile.TemporaryDirectory(dir=recipe.parent) as storage:
        run = subprocess.Popen(
            [sys.executable, "-c", ONCE, str(recipe), storage],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        driver, worker = 0, 0
        while run.poll() is None:
            for pid in _descendants(run.pid):
                if pid == run.pid:
                    driver = max(driver, _peak(pid))
                elif _command(pid).startswith("ray::"):
                    worker = max(worker, _peak(pid))
            time.sleep(0.1)
        assert run.stdout is not None
        said = run.stdout.read().split()
    if run.returncode:
        raise RuntimeError(f"the preparation of {recipe} failed")
    return Peaks(driver, worker, int(said[-2]), float(said[-1]))


def _descendants(pid: int) -> list[int]:
    """List a process and all that it and its children started."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        parent = _status(int(path.name), "PPid")
        children.setdefault(parent, []).append(int(path.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _peak(pid: int) -> int:
    """Read the most bytes that a process has had resident so far, as the kernel keeps it."""
    return _status(pid, "VmHWM") * 1024


def _status(pid: int, name: str) -> int:
    """Read a number of a process; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        print(show(measure(Path(temporary))))
    print(machine())
