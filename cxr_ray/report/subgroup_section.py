"""The page's section on subgroups: what separates, a picture, and every figure folded away."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr_ray.evaluation.figures import COLOURS
from cxr_ray.evaluation.subgroups import FEWEST
from cxr_ray.report.embedding import embed_figure
from cxr_ray.report.subgroups import describe_gaps

MODALITIES = ("multimodal", "image", "text")


def subgroup_section(table: pd.DataFrame, names: Mapping[str, str]) -> dict[str, Any] | None:
    """Gather what the section shows, or None where no subgroups are declared.

    Parameters
    ----------
    table
        As it lies in ``subgroups.csv``.
    names
        Of the trials, by experiment id.
    """
    if table.empty:
        return None
    rows: list[dict[str, Any]] = [
        {str(key): value for key, value in row.items()} for row in table.to_dict("records")
    ]
    models: dict[str, list[dict[str, Any]]] = {}
    for place, row in enumerate(rows):
        row |= {"place": place, "name": names.get(row["experiment_id"], row["experiment_id"])}
        row["said"] = _said(row)
        models.setdefault(row["name"], []).append(row)
    return {
        "sentence": describe_gaps(table, names),
        "fewest": FEWEST,
        "tested": int(table["p_holm"].notna().sum()),
        "apart": [row for row in rows if row["verdict"] in ("lower", "higher")],
        "models": models,
        "picture": _picture(rows),
    }


def _said(row: Mapping[str, Any]) -> str:
    if row["verdict"] in ("lower", "higher"):
        return f"{row['verdict']} than {row['reference']}"
    return str(row["verdict"])


def _picture(rows: list[dict[str, Any]]) -> str | None:
    """Draw AUROC by subgroup, a panel a way of grouping, the models beside each other."""
    shown = [row for row in rows if row["metric"] == "auroc" and row["value"] == row["value"]]
    if not shown:
        return None
    groups = list(dict.fromkeys(row["group"] for row in shown))
    models = list(dict.fromkeys(row["name"] for row in shown))
    levels = {g: list(dict.fromkeys(r["level"] for r in shown if r["group"] == g)) for g in groups}
    heights = [len(levels[group]) for group in groups]
    height = 0.8 + (0.25 + 0.07 * len(models)) * sum(heights) + 0.5 * len(groups)
    figure = Figure(figsize=(8.6, height), layout="constrained")
    panels = figure.subplots(len(groups), squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for panel, group in zip(panels, groups, strict=True):
        rows_here = [row for row in shown if row["group"] == group]
        for number, modality in enumerate(MODALITIES):
            chosen = [row for row in rows_here if row["modality"] == modality]
            _draw(panel, chosen, levels[group], models, number, modality)
        panel.axvline(0.5, color="0.6", linewidth=1, linestyle=":")
        panel.set_yticks(range(len(levels[group])), levels[group])
        panel.set_ylim(len(levels[group]) - 0.5, -0.5)
        panel.set_title(group, fontsize=9, loc="left")
    panels[-1].set_xlabel("AUROC, full test set, 95 % interval")
    panels[0].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return embed_figure(figure)


def _draw(
    panel: Axes,
    rows: list[dict[str, Any]],
    levels: list[str],
    models: list[str],
    number: int,
    modality: str,
) -> None:
    """Draw the models of one modality, each in its own place within a level's band."""
    if not rows:
        return
    step = 0.8 / len(models)
    panel.errorbar(
        [row["value"] for row in rows],
        [
            levels.index(row["level"]) + step * (models.index(row["name"]) + 0.5) - 0.4
            for row in rows
        ],
        xerr=[
            [max(row["value"] - row["low"], 0) for row in rows],
            [max(row["high"] - row["value"], 0) for row in rows],
        ],
        fmt="os^"[number],
        markersize=4,
        linewidth=1,
        color=COLOURS[number],
        label=modality,
    )
