"""Measure everything that has a bar, and write it to docs/performance.md.

    python benchmarks/run.py

On two cores that nothing else uses. Each part is written as it is measured, in the place of what
stood there; ``--only tax loader`` measures and writes these.
"""

import argparse
import datetime
import re
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


def describe(rows: Sequence[Row]) -> str:
    """Set a part's rows as Markdown, and where the rest goes."""
    lines = [
        "| name | what | figure | bar | holds |",
        "|---|---|---|---|---|",
        *("| " + " | ".join(row.cells) + " |" for row in rows),
    ]
    explained = [row for row in rows if row.where]
    if explained:
        lines += ["", "Where the rest goes:", ""]
        lines += [f"- {row.name}: {row.where}" for row in explained]
    return "\n".join(lines)


def write_part(name: str, text: str, minutes: float) -> None:
    """Put what was measured in its place on the page; the other parts stay."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    body, _, after = rest.partition(END)
    parts = dict(re.findall(r"### (\w+)\n\n(.*?)\n\n(?=###|\Z)", body, re.DOTALL))
    parts[name] = f"{datetime.date.today()}, {minutes:.1f} minutes, on {machine()}.\n\n{text}"
    names = [each for each in (*BENCHMARKS, PAPER) if each in parts]
    written = "".join(f"### {each}\n\n{parts[each]}\n\n" for each in names)
    PAGE.write_text(f"{before}{BEGIN}\n\n{written}{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [*BENCHMARKS, PAPER]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="measure a part")
    parser.add_argument("--scratch", type=Path, help="keep what is generated (default: a temp dir)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.only:
            began = time.perf_counter()
            if name == PAPER:
                text = run_apart(paper_scale.describe)
                print(text)
            else:
                folder = (options.scratch or Path(temporary)) / name
                folder.mkdir(parents=True, exist_ok=True)
                rows = run_apart(BENCHMARKS[name], folder)
                print(show(rows), flush=True)
                text = describe(rows)
            write_part(name, text, (time.perf_counter() - began) / 60)
    print(machine())


if __name__ == "__main__":
    main()
