"""A picture of small panels, one a model."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMNS = 4
PANEL = (2.0, 1.6)  # inches
LEFT, RIGHT, BELOW, TITLE = 0.75, 0.1, 0.55, 0.25  # inches, labels of the axes included
HEAD = 0.35  # inches, for a legend above all


def panels(names: Sequence[str], *, shared: bool) -> tuple[Figure, list[Axes]]:
    """Lay out a panel a name, in rows of four.

    Margins are given: finding them would draw everything a second time.

    Parameters
    ----------
    names : sequence of str
        At least one.
    shared : bool
        Whether all panels have the same axes, whose numbers are then written once, and a legend
        at the top.

    Returns
    -------
    matplotlib.figure.Figure, list of Axes
    """
    columns = min(COLUMNS, len(names))
    lines = math.ceil(len(names) / columns)
    beside, between, head = (0.25, 0.35, HEAD + TITLE) if shared else (0.55, 0.5, TITLE)
    left, below = (LEFT, BELOW) if shared else (0.55, 0.25)
    width = left + columns * (PANEL[0] + beside) - beside + RIGHT
    height = head + lines * (PANEL[1] + between) - between + below
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=left / width,
        right=1 - RIGHT / width,
        bottom=below / height,
        top=1 - head / height,
        wspace=beside / PANEL[0],
        hspace=between / PANEL[1],
    )
    grid = figure.subplots(lines, columns, squeeze=False, sharex=shared, sharey=shared).ravel()
    for panel, name in zip(grid, names, strict=False):
        panel.set_title(name, fontsize=8)
        panel.tick_params(labelsize=7)
        panel.locator_params(nbins=5)
        panel.grid(color="0.92")
    for panel in grid[len(names) :]:
        panel.set_axis_off()
    return figure, list(grid[: len(names)])
