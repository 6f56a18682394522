"""How the cohorts of a study were selected, as its page draws it."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from cxr_ray.data.prepared import (
    fetch_cohort,
    named_counts,
    read_agreement,
    read_flow,
    read_manifest,
)
from cxr_ray.storage import Storage


def read_cohorts(storage: Storage, study: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Read the counts of each cohort: its selection flow and its parts."""
    for key in study["cohorts"]:
        folder = storage.prepared / key
        if fetch_cohort(storage, key):
            manifest = read_manifest(storage, key)
            yield {
                "key": key,
                "manifest": manifest,
                "parts": named_counts(manifest),
                "agreement": read_agreement(folder),
                "flow": read_flow(storage, key),
            }


def group_by_unit(flow: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Part a selection flow where the unit that it counts changes.

    Returns
    -------
    list of dict
        Each with its ``first`` and ``last`` step, the ``unit`` that its rules drop, the steps
        that ``dropped`` any, and the unit of what is ``left``: the next part's.

    Examples
    --------
    >>> image, study = ({"unit": unit, "dropped": 1} for unit in ("images", "studies"))
    >>> [(part["unit"], part["left"]) for part in group_by_unit([image, image, study])]
    [('images', 'studies'), ('studies', 'studies')]
    """
    parts = [list(steps) for _, steps in groupby(flow, key=lambda step: step["unit"])]
    return [
        {
            "first": steps[0],
            "last": steps[-1],
            "unit": steps[0]["unit"],
            "dropped": [step for step in steps if step["dropped"]],
            "left": following[0]["unit"],
        }
        for steps, following in zip(parts, [*parts[1:], parts[-1]], strict=True)
    ]
