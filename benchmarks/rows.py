"""A line of the table of benchmarks, which every module here returns from ``measure``.

A module has ``measure(scratch: Path) -> list[Row]``, is listed in ``run.BENCHMARKS``, and keeps
what it writes under ``scratch``, a folder of its own. It runs in a process of its own, so it may
set threads.
"""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "torchvision", "transformers", "ray", "pandas", "numpy", "pillow")


@dataclass(frozen=True)
class Row:
    """One figure and its bar.

    Attributes
    ----------
    name
        What is judged, in a few words.
    what
        How the figure comes about: what is divided by what, on which input.
    figure
        The figure; most are ratios of two things measured side by side.
    unit
        Stands behind the figure, as in ``s`` or ``images/s``.
    at_most, at_least
        The bar. A figure without one is only reported.
    where
        Where the rest goes; wanted where the bar does not hold.
    """

    name: str
    what: str
    figure: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    where: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the figure keeps to its bar; None without one."""
        if self.at_most is None and self.at_least is None:
            return None
        below = self.at_most is None or self.figure <= self.at_most
        return below and (self.at_least is None or self.figure >= self.at_least)

    @property
    def bar(self) -> str:
        """The bar in words."""
        bounds = (("at most", self.at_most), ("at least", self.at_least))
        return ", ".join(f"{word} {_show(bound)}" for word, bound in bounds if bound is not None)

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """The row as the table shows it: name, what, figure, bar, holds."""
        holds = {None: "-", True: "yes", False: "no"}[self.holds]
        figure = f"{_show(self.figure)} {self.unit}".rstrip()
        return self.name, self.what, figure, self.bar or "-", holds


def show(rows: Sequence[Row]) -> str:
    """Set rows as text, and under each that fails where the rest goes."""
    lines = []
    for row in rows:
        name, what, figure, bar, holds = row.cells
        lines.append(f"{name:44} {figure:>16}  {bar:18} {holds:4} {what}")
        if row.where:
            lines.append(f"{'':4}{row.where}")
    return "\n".join(lines)


def machine() -> str:
    """Name the machine, its cores and memory, and the versions in a line."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    cores = len(os.sched_getaffinity(0))
    return (
        f"{model}, {cores} cores, {memory:.0f} GiB; Python {platform.python_version()}, {packages}"
    )


def _show(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
