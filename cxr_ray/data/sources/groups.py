"""Which subgroup a record belongs to: levels of a column, or bands of its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from cxr_ray.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from cxr_ray.data.sources.table_recipe import GroupColumn

GROUP_PREFIX = "group_"
"""Of the cohort's columns that say which subgroup a record belongs to."""
UNKNOWN = "unknown"
AGE_EDGES = (40.0, 60.0, 80.0)
MOST_LEVELS = 12


def group_levels(cells: pd.Series, group: GroupColumn) -> pd.Series:
    """Turn a column's cells into subgroups.

    Parameters
    ----------
    cells : Series of str
    group : GroupColumn
        With edges, its numbers are cut there and all else is `UNKNOWN`. Without, the cells are
        the subgroups; more than `MOST_LEVELS` numbers are cut at `AGE_EDGES` where the group is
        called ``age``, and else at their quartiles.

    Raises
    ------
    InputError
        If there are too many levels, or edges and no number.
    """
    import pandas as pd

    said = cells.str.strip()
    numbers = pd.to_numeric(said, errors="coerce").replace([np.inf, -np.inf], np.nan)
    if group.edges:
        if len(numbers) and numbers.isna().all():
            raise InputError(
                f"groups.{group.name}: the column {group.column!r} has edges and holds no number"
            )
        return cut_bands(numbers, group.edges)
    levels = said.mask(said.str.lower().isin(("", UNKNOWN)), UNKNOWN)
    if levels[levels != UNKNOWN].nunique() <= MOST_LEVELS:
        return levels
    if numbers[said != ""].isna().any():
        raise InputError(
            f"groups.{group.name}: the column {group.column!r} holds"
            f" {levels[levels != UNKNOWN].nunique()} different values, more than {MOST_LEVELS};"
            " name a coarser column, or give edges where it holds numbers"
        )
    quartiles = np.unique(numbers.quantile([0.25, 0.5, 0.75]))
    return cut_bands(numbers, AGE_EDGES if group.name == "age" else quartiles.tolist())


def cut_bands(values: pd.Series, edges: Sequence[float]) -> pd.Series:
    """Name the band of each number: ``<40``, ``40-59`` between whole edges, ``>=80``.

    Parameters
    ----------
    values : Series of float
        NaN is `UNKNOWN`.
    edges : sequence of float
        Rising; a number on an edge belongs above it.
    """
    import pandas as pd

    names = [f"<{edges[0]:g}"]
    for low, high in pairwise(edges):
        whole = float(low).is_integer() and float(high).is_integer() and high - low > 1
        names.append(f"{low:g}-{high - 1:g}" if whole else f"{low:g} to <{high:g}")
    names.append(f">={edges[-1]:g}")
    places = np.searchsorted(np.asarray(edges, float), values.to_numpy(float), side="right")
    # a missing number sorts behind all others; its name is put right
    bands = pd.Series(np.array(names, object)[places], index=values.index, dtype=object)
    return bands.mask(values.isna(), UNKNOWN)
