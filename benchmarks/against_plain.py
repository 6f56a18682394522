"""Compare a sweep with a plain script, and with what the machine needs at the least.

    python benchmarks/against_plain.py --whole --scratch DIR

Both train the paper's twelve models on the same raw films, from JPEGs to tables. The floor is
(decode each film once + the bare steps of all models) / cores.

Without ``--whole`` the plain script runs the models of one loss for some of the epochs; the others
cost what those cost and are added by arithmetic.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from bare import bare_seconds, measure_decoding
from inputs import LARGE_FILMS, SMALL_FILMS, RawInput, write_inputs
from rows import Row, machine, show
from sweeps import ROOT, START_UP, Sweep, cores, run_sweep
from tax import tax_rows

from cxr_ray.data.split import own_members

PROFILE = ROOT / "benchmarks" / "resnet18.yaml"
EPOCHS = 6  # as the profile says
SOME_EPOCHS = {SMALL_FILMS.name: 2, LARGE_FILMS.name: 1}
OF_PLAIN = {SMALL_FILMS.name: 0.7, LARGE_FILMS.name: 0.2}
OF_FLOOR = 1.15


INPUTS = {"small": SMALL_FILMS, "large": LARGE_FILMS}


def measure(
    scratch: Path,
    *,
    films: Sequence[str] = tuple(INPUTS),
    whole: bool = False,
    patients: int | None = None,
) -> list[Row]:
    """Compare on small films and on films of full size."""
    rows = []
    for wanted in map(INPUTS.__getitem__, films):
        if patients:
            share = wanted.positive / wanted.patients
            wanted = replace(wanted, patients=patients, positive=round(share * patients))
        rows += _compare(wanted, scratch / f"{wanted.name}-{wanted.patients}", whole)
    return rows


def _compare(wanted: RawInput, folder: Path, whole: bool) -> list[Row]:
    recipe = write_inputs(wanted, folder / "input")
    with tempfile.TemporaryDirectory(dir=folder) as storage:
        sweep = run_sweep(
            Path(storage),
            ["--grid", "paper12", "--data", f"table:{recipe}", "--profile", str(PROFILE)],
        )
        bare = bare_seconds(sweep)
        breakdown = sweep.breakdown
        taxed = tax_rows(f"{wanted.patients:,} patients", sweep, bare)
        plain = _run_plain(sweep, recipe.parent, folder / "plain", wanted.name, whole)
        decoding = measure_decoding(sorted(recipe.parent.glob("*.jpg")), 64)
    floor = (decoding + bare) / cores()
    name = f"{wanted.patients:,} patients, films of {wanted.width} x {wanted.height}"
    seconds = f"ours {sweep.wall:.0f} s, plain {plain:.0f} s, floor {floor:.0f} s"
    ours = sweep.wall
    print(
        f"{name}: {seconds}; decoding {decoding:.1f} core-s, bare steps {bare:.1f} core-s; "
        f"{breakdown}",
        flush=True,
    )
    return [
        Row(
            f"against a plain script: {name}",
            f"wall of the sweep / wall of plain.py, from JPEGs to tables ({seconds})",
            ours / plain,
            at_most=OF_PLAIN[wanted.name],
        ),
        Row(
            f"against the floor: {name}",
            f"(wall - {START_UP:.0f} s) / ((decoding once + bare steps) / cores)",
            (ours - START_UP) / floor,
            at_most=OF_FLOOR,
        ),
        *taxed,
    ]


def _run_plain(sweep: Sweep, inputs: Path, out: Path, name: str, whole: bool) -> float:
    """Run the plain script on the sweep's own split, and return its seconds."""
    table = pd.read_csv(inputs / "table.csv", dtype=str)
    (prepared,) = sweep.storage.prepared.glob("*/cohort.csv")
    cohort = pd.read_csv(prepared, dtype={"record": str})
    sub = own_members(
        cohort["record"].to_numpy(str),
        cohort["label"].to_numpy(),
        cohort["part"].to_numpy(str),
        0.75,
        0,
    )
    parts = cohort[["record", "part"]].assign(in_sub=sub.astype(int))
    out.mkdir(exist_ok=True)
    merged = table.merge(parts, on="record", validate="one_to_one")
    merged.to_csv(out / "input.csv", index=False)
    epochs = EPOCHS if whole else SOME_EPOCHS[name]
    command: Sequence[str] = [
        *(sys.executable, str(ROOT / "benchmarks" / "plain.py"), "--csv", str(out / "input.csv")),
        *("--images", str(inputs), "--out", str(out), "--epochs", str(epochs)),
        *([] if whole else ["--losses", "bce"]),
    ]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": ""})
    took = json.loads((out / "seconds.json").read_text())
    models = sum(each["seconds"] for each in took["models"])
    if whole:
        return took["wall"]
    more = sum((EPOCHS - epochs) * np.mean(each["epochs"]) for each in took["models"])
    return took["wall"] + models + 2 * more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--films", nargs="+", choices=INPUTS, default=list(INPUTS))
    parser.add_argument("--whole", action="store_true", help="run all of the plain script")
    parser.add_argument("--patients", type=int, help="fewer of them, to try things out")
    parser.add_argument("--scratch", type=Path, help="keep the inputs (default: a temp dir)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = options.scratch or Path(temporary)
        rows = measure(scratch, films=options.films, whole=options.whole, patients=options.patients)
    print(show(rows))
    print(machine())


if __name__ == "__main__":
    main()
