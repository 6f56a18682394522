"""How each model does in subgroups of the patients: subgroups.csv.

Counts and figures only, and none of a subgroup with fewer than `FEWEST` patients of a class: a
figure and its interval tell the count. All gaps of a study are one exploratory family: it suggests,
it does not answer.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_ray.damage import read_whole_table
from cxr_ray.data.prepared import read_groups
from cxr_ray.evaluation.multiplicity import holm
from cxr_ray.evaluation.subgroups import FEWEST, SubgroupFigure, subgroup_figures
from cxr_ray.evaluation.thresholds import f1_operating_point
from cxr_ray.report.result_table import format_share
from cxr_ray.report.trial_folder import RESULT_FILE, Predictions, read_predictions
from cxr_ray.storage import Storage

SUBGROUPS_FILE = "subgroups.csv"
COLUMNS = (
    "experiment_id", "modality", "dataset", "loss", "seed", "test_set", "group", "level", "n",
    "n_positive", "metric", "value", "low", "high", "method", "reference", "gap", "gap_low",
    "gap_high", "p_value", "p_holm", "verdict",
)  # fmt: skip
FIGURES = ("value", "low", "high", "gap", "gap_low", "gap_high", "p_value", "p_holm")
FEW = f"<{FEWEST}"
WITHHELD = "withheld"
TOO_FEW = "too few"
LEVEL = 0.05
MOST_NAMED = 6
_MEMBER = COLUMNS[:5]
# As the leaderboard names what it holds at the threshold chosen on validation.
METRICS = {"auroc": "auroc"} | {name: f"{name}_at_val" for name in ("sensitivity", "specificity")}
WORDS = {"auroc": "AUROC", "sensitivity_at_val": "sensitivity", "specificity_at_val": "specificity"}


def subgroup_table(trials: Path, study: Mapping[str, Any]) -> pd.DataFrame:
    """Score a study's finished trials in the subgroups that its cohorts declare.

    Parameters
    ----------
    trials
        Folder of the finished trials, in their storage.
    study
        The content of ``study.json``.

    Returns
    -------
    DataFrame
        The columns of ``subgroups.csv``; no row where no subgroups are declared. ``n`` is `FEW`
        where fewer than `FEWEST` patients are meant, and so is ``n_positive``, which is
        `WITHHELD` where it would tell that number of the negative ones.
    """
    prepared = Storage(trials.parent).prepared
    found = (read_groups(prepared / key) for key in study.get("cohorts", ()))
    cohorts = [groups for groups in found if groups is not None]
    axes = list(study["members"][0]["further"]) if study["members"] else []
    if not cohorts:
        return pd.DataFrame(columns=[*COLUMNS, *axes])
    rows: list[dict[str, Any]] = []
    for member in study["members"]:
        folder = trials / member["experiment_id"]
        # Of a cross-validated model no single ranking holds all records.
        if "fits" not in member and (folder / RESULT_FILE).exists():
            own = {name: member[name] for name in _MEMBER}
            for row in _member_rows(read_predictions(folder), cohorts):
                rows.append({**own, **row, **member["further"]})
    tested = [row for row in rows if not np.isnan(row["p_value"])]
    for row, adjusted in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
        row["p_holm"] = adjusted
    table = pd.DataFrame(rows, columns=[*COLUMNS, *axes])
    return table.assign(verdict=[_verdict(row) for row in rows])


def read_subgroups(path: Path) -> pd.DataFrame:
    """Read ``subgroups.csv``; levels stay text, whatever they look like. No row where none is."""
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    numbers = dict.fromkeys(FIGURES, float) | {"seed": int}
    text = {name: numbers.get(name, str) for name in COLUMNS}
    return read_whole_table(
        path, COLUMNS, dtype=text, keep_default_na=False, na_values=dict.fromkeys(FIGURES, [""])
    )


def describe_gaps(table: pd.DataFrame, names: Mapping[str, str]) -> str:
    """Say how many gaps were tested, and which separate.

    Parameters
    ----------
    table
        As `subgroup_table` returns it, with a row at least.
    names
        Of the trials, by experiment id.
    """
    tested = int(table["p_holm"].notna().sum())
    if not tested:
        return (
            f"Subgroups: no gap could be tested, since no two subgroups have {FEWEST} patients of "
            "each class."
        )
    apart = table[table["verdict"].isin(("lower", "higher"))]
    if apart.empty:
        return (
            f"Subgroups: of {tested} gaps none separates after Holm's correction; that no gap is "
            "shown does not say that there is none."
        )
    said = [
        f"{names[row['experiment_id']]}, {row['group']} {row['level']}: {WORDS[row['metric']]} "
        f"{format_share(row['value'])}, {format_share(abs(row['gap']))} {row['verdict']} than "
        f"{row['reference']}"
        for row in apart.sort_values("p_holm", kind="stable").head(MOST_NAMED).to_dict("records")
    ]
    more = f"; and {len(apart) - MOST_NAMED} more" if len(apart) > MOST_NAMED else ""
    return (
        f"Subgroups: of {tested} gaps {len(apart)} separate after Holm's correction: "
        f"{'; '.join(said)}{more}."
    )


def _member_rows(predictions: Predictions, cohorts: list[pd.DataFrame]) -> Iterator[dict[str, Any]]:
    """Rows of one trial, on the full test set, each record in the subgroups of its own cohort."""
    val, test = (predictions.rows(part, "full") for part in ("val", "test"))
    cohort = next((c for c in cohorts if np.isin(predictions.record_id, c.index).all()), None)
    if cohort is None:
        return
    chosen = f1_operating_point(predictions.label[val], predictions.logit[val]).threshold
    levels = cohort.loc[predictions.record_id[test].tolist()]
    for group in levels:
        for figure in subgroup_figures(
            predictions.label[test],
            predictions.logit[test],
            levels[group].to_numpy(str),
            threshold=chosen,
            groups=predictions.group[test],
        ):
            yield {"test_set": "full", "group": group, **_row(figure)}


def _row(figure: SubgroupFigure) -> dict[str, Any]:
    """Write a figure, but for what is about fewer than `FEWEST` patients or tells their number."""
    shown = not figure.too_few
    gap, bounds = figure.gap, figure.interval
    method = bounds.method if shown else f"none: fewer than {FEWEST} patients of a class"
    return {
        "level": figure.level,
        "n": str(figure.n) if figure.patients >= FEWEST else FEW,
        "n_positive": _positives(figure),
        "metric": METRICS[figure.metric],
        "value": figure.value if shown else np.nan,
        "low": bounds.low if shown else np.nan,
        "high": bounds.high if shown else np.nan,
        "method": method if np.isnan(gap.p_value) else f"{method}, gap {gap.method}",
        "reference": figure.reference or "",
        "gap": gap.difference,
        "gap_low": gap.low,
        "gap_high": gap.high,
        "p_value": gap.p_value,
        "p_holm": np.nan,
    }


def _positives(figure: SubgroupFigure) -> str:
    if figure.with_positives < FEWEST:
        return FEW
    return str(figure.n_positive) if figure.with_negatives >= FEWEST else WITHHELD


def _verdict(row: Mapping[str, Any]) -> str:
    if FEW in (row["n"], row["n_positive"]) or row["n_positive"] == WITHHELD:
        return TOO_FEW
    if np.isnan(row["p_holm"]):
        return "reference" if row["level"] == row["reference"] else "not compared"
    if row["p_holm"] > LEVEL or row["gap"] == 0:
        return "not separated"
    return "lower" if row["gap"] < 0 else "higher"
