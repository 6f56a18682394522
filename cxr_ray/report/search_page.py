"""What a study's page shows of a search, read from the files in its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_ray.damage import read_whole_table
from cxr_ray.report.embedding import embed_png
from cxr_ray.report.search_gain import GAIN_FILE

PICTURES = {
    "history": "What each trial reached on validation, and the best so far.",
    "importance": "Share of the variance by parameter, among the trials in which it exists.",
    "slice": "What each trial reached on validation against each parameter.",
    "contour": "The two foremost ranges, and what lies between the trials, interpolated.",
    "pareto": "Both objectives; the front is what no trial beats in both.",
}
MOST_ROWS = 100


def search_content(folder: Path, study: Mapping[str, Any]) -> dict[str, Any] | None:
    """Gather the search's part of the page, or None for a grid's study.

    Parameters
    ----------
    folder
        The study's folder, with ``search.csv``, ``importance.csv``, ``gain.csv`` where there is a
        gain, and ``search_*.png``.
    """
    if "search" not in study:
        return None
    search = study["search"]
    trials = _read(folder / "search.csv")
    best = search["objectives"][0]
    shown = trials.sort_values(
        best, ascending=search["directions"][0] == "minimize", na_position="last", kind="stable"
    )
    importance = _read(folder / "importance.csv")
    gain = folder / GAIN_FILE
    return {
        **search,
        "trials": _records(shown)[:MOST_ROWS],
        "hidden": max(0, len(shown) - MOST_ROWS),
        "importance": _records(importance),
        "gain": _records(_read(gain)) if gain.exists() else [],
        "pictures": {
            caption: embed_png((folder / f"search_{name}.png").read_bytes())
            for name, caption in PICTURES.items()
            if (folder / f"search_{name}.png").exists()
        },
    }


def search_answer(study: Mapping[str, Any], leak: str | None = None) -> list[str]:
    """Say on what the search was made, and what it found; ``leak`` is the audit's clause."""
    search = study["search"]
    source = "made-up phantom" if study["source"] == "phantom" else study["source"]
    goals = " and ".join(
        f"{how} {what}"
        for how, what in zip(search["directions"], search["objectives"], strict=True)
    )
    return [
        f"A search on {source} data to {goals.replace('_', ' ')}, over {len(search['parameters'])} "
        "parameters"
        + ("; made-up data say nothing about patients" if study["source"] == "phantom" else "")
        + (f"; {leak}." if leak else "."),
        *search["said"],
    ]


def _read(path: Path) -> pd.DataFrame:
    return read_whole_table(path, dtype={"experiment_id": str}, float_precision="round_trip")


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """List a table's rows, each with its place in the CSV."""
    return [
        {**{str(key): value for key, value in row.items()}, "place": place}
        for place, row in zip(table.index, table.to_dict("records"), strict=True)
    ]
