"""External tests beside a study's own: ``external.csv``, a printed table, the page's part."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cxr_ray.report.external import EXTERNAL_FOLDER, PREFIX, read_external
from cxr_ray.report.result_table import MISSING, ResultTable, format_share
from cxr_ray.storage import Storage

EXTERNAL_TABLE_FILE = "external.csv"
_MODEL = ["experiment_id", "modality", "dataset", "loss", "seed"]
_FIGURES = ["n", "n_positive", "prevalence", "auroc", "auroc_low", "auroc_high"]


def external_table(leaderboard: pd.DataFrame) -> pd.DataFrame:
    """Set every external test beside the model's full test set of the training source.

    Returns
    -------
    DataFrame
        One row a trial and external test: ``experiment_id, modality, dataset, loss, seed,
        test_set``, ``n, n_positive, prevalence, auroc, auroc_low, auroc_high`` and the same with
        ``internal_`` before them.
    """
    columns = [name for name in _FIGURES if name != "prevalence"]
    counted = leaderboard.reindex(columns=[*_MODEL, "test_set", *columns])
    counted = counted[counted["n"].notna()].astype({"n": int, "n_positive": int})
    counted["prevalence"] = counted["n_positive"] / counted["n"]
    counted = counted[[*_MODEL, "test_set", *_FIGURES]]
    internal = counted[counted["test_set"] == "full"].set_index("experiment_id")[_FIGURES]
    external = counted[counted["test_set"].astype("string").str.startswith(PREFIX)]
    found = external.join(internal.add_prefix("internal_"), on="experiment_id")
    order = found["test_set"].unique()
    # One source after the other, each with the models in the leaderboard's order.
    return pd.concat([found[found["test_set"] == name] for name in order] or [found])


def print_external(table: pd.DataFrame, names: Mapping[str, str]) -> ResultTable:
    """Lay out internal and external AUROC side by side."""
    rows = []
    for row in table.to_dict("records"):
        cells = [names.get(row["experiment_id"], row["experiment_id"])]
        cells.append(row["test_set"].removeprefix(PREFIX))
        for side in ("internal_", ""):
            cells += [f"{row[f'{side}n']}", f"{row[f'{side}n_positive']}"]
            low, high = (format_share(row[f"{side}auroc_{end}"]) for end in ("low", "high"))
            between = "" if MISSING in (low, high) else f" [{low}-{high}]"
            cells.append(format_share(row[f"{side}auroc"]) + between)
        rows.append(tuple(cells))
    return ResultTable(
        title="External test",
        caption=(
            "AUROC with its 95 % interval on the full test set of the training source and on every "
            "record of the other source. Thresholds and recalibration in leaderboard.csv come from "
            "the training source's validation part. A difference can be the patients', the "
            "labels', the devices' or the model's."
        ),
        columns=("trial", "source", "n", "pos", "AUROC", "ext. n", "ext. pos", "ext. AUROC"),
        rows=tuple(rows),
    )


def external_section(storage: Storage, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Gather what the page shows of each external source.

    Parameters
    ----------
    storage
        The trials' descriptions of the external cohorts are read.
    rows
        Of `external_table`, each with its place in the CSV and its trial's name.

    Returns
    -------
    list of dict
        ``name``; ``rows``; ``cohorts``, each with ``key``, ``flow`` and ``warnings``.
    """
    sections: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = row["test_set"].removeprefix(PREFIX)
        section = sections.setdefault(name, {"name": name, "rows": [], "cohorts": {}})
        section["rows"].append(row)
        folder = storage.trials / row["experiment_id"] / EXTERNAL_FOLDER / name
        if folder.is_dir():
            found = read_external(folder)
            section["cohorts"].setdefault(found["cohort"], found)
    return [{**each, "cohorts": list(each["cohorts"].values())} for each in sections.values()]
