"""Measure everything that has a bar, print one table, and write docs/performance.md.

    python benchmarks/run.py

On two cores that nothing else uses; it takes 20 to 25 minutes. ``--only tax loader`` measures a
part and writes nothing.
"""

import argparse
import datetime
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import against_plain
import cohort
import decoders
import frozen
import loader
import paper_scale
import prepare
import repeated
import scaling
import tax
import text
import uncertainty
from rows import Row, machine, show

# One line a module.
BENCHMARKS: dict[str, Callable[[Path], list[Row]]] = {
    "plain": against_plain.measure,
    "tax": tax.measure,
    "loader": loader.measure,
    "scaling": scaling.measure,
    "cohort": cohort.measure,
    "decoders": decoders.measure,
    "prepare": prepare.measure,
    "repeated": repeated.measure,
    "frozen": frozen.measure,
    "text": text.measure,
    "uncertainty": uncertainty.measure,
}
PAPER = "paper"  # a table of its own, without bars
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
# The page's own words stand outside of these and stay.
BEGIN, END = "<!-- benchmarks/run.py writes from here -->", "<!-- to here -->"


def run_apart(measure: Callable[..., Any], *arguments: Path) -> Any:
    """Run one benchmark in a fresh process, so that none inherits another's threads or memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def describe(rows: Sequence[Row], paper: str, minutes: float) -> str:
    """Set the rows as Markdown, with the machine, where the rest goes, and the paper's price."""
    lines = [
        f"Written by `python benchmarks/run.py` on {datetime.date.today()} in {minutes:.0f} "
        f"minutes, on {machine()}.",
        "",
        "| name | what | figure | bar | holds |",
        "|---|---|---|---|---|",
        *("| " + " | ".join(row.cells) + " |" for row in rows),
    ]
    explained = [row for row in rows if row.where]
    if explained:
        lines += ["", "Where the rest goes:", ""]
        lines += [f"- {row.name}: {row.where}" for row in explained]
    lines += ["", "## The paper's study", "", paper]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [*BENCHMARKS, PAPER]
    parser.add_argument("--only", nargs="+", choices=names, help="measure a part")
    parser.add_argument("--scratch", type=Path, help="keep what is generated (default: a temp dir)")
    options = parser.parse_args()
    began, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as temporary:
        scratch = options.scratch or Path(temporary)
        for name in [each for each in options.only or BENCHMARKS if each != PAPER]:
            folder = scratch / name
            folder.mkdir(parents=True, exist_ok=True)
            found = run_apart(BENCHMARKS[name], folder)
            print(show(found), flush=True)
            rows += found
    print(machine())
    if PAPER in (options.only or [PAPER]):
        paper = run_apart(paper_scale.describe)
        print(paper)
    if not options.only:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        table = describe(rows, paper, (time.perf_counter() - began) / 60)
        PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
