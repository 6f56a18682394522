"""The tables that a study ends with: the paper's figures with ours beside them, the leaderboard."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_ray.evaluation.delong import delong_test
from cxr_ray.evaluation.figures import comparison_figure
from cxr_ray.evaluation.multiplicity import holm
from cxr_ray.report.calibration_section import calibration_sentence
from cxr_ray.report.comparisons import LEVEL, comparisons_table
from cxr_ray.report.fold_comparison import UnlikeFoldsError, compare_fits
from cxr_ray.report.leaderboard import StudyTables
from cxr_ray.report.out_of_fold import Fit, read_fits
from cxr_ray.report.paper_tables import Arm, leaderboard_table, paper_tables
from cxr_ray.report.result_table import ResultTable, format_share
from cxr_ray.report.subgroups import describe_gaps
from cxr_ray.report.trial_folder import read_predictions
from cxr_ray.storage import write_whole

TABLES_FILE = "tables.md"


def write_study_tables(
    folder: Path,
    trials: Path,
    study: Mapping[str, Any],
    tables: StudyTables,
    remarks: Sequence[str] = (),
) -> str:
    """Write a study's tables as Markdown and CSV, with a forest plot, and return them as text.

    Parameters
    ----------
    folder
        The study's folder.
    trials
        Folder of the finished trials, for the paired comparisons.
    study
        The content of ``study.json``.
    remarks
        Sentences about the data, printed after the tables.
    """
    tables = tables.internal()
    if "search" in study:
        # Its trials are in a table of their own, but for those with figures on the test part.
        tested = tables.leaderboard["test_set"].notna()
        tables = replace(tables, leaderboard=tables.leaderboard[tested])
    separates = compare_arms(trials, study["members"], tables.leaderboard)
    found = paper_tables(tables.leaderboard, tables.sensitivity, separates=separates)
    shown: list[ResultTable] = [*found.tables, leaderboard_table(tables.leaderboard)]
    if not tables.comparisons.empty:
        seeds = len({each["seed"] for each in study["members"]})
        shown.append(comparisons_table(tables.comparisons, seeds))
    names = {each["experiment_id"]: each["name"] for each in study["members"]}
    if not tables.sensitivity.empty:
        shown.append(sensitivity_table(tables.sensitivity, names))
    where = (
        f"Data: {study['source']}, profile {study['profile']}. Printed figures, where there are "
        "any, are Chao & Li's on MIMIC-CXR."
    )
    calibrated = calibration_sentence(tables.leaderboard)
    notes = [*remarks, *([calibrated] if calibrated else [])]
    if found.tables:  # else the study is not about the paper's models
        notes += [f"{title}: left out, since {why}." for title, why in found.left_out.items()]
    reasons: dict[str, list[str]] = {}
    for each in study["left_out"]:
        reasons.setdefault(each["reason"], []).append(each["name"])
    notes += [f"Left out, since {why}: {', '.join(arms)}." for why, arms in reasons.items()]
    if not tables.subgroups.empty:
        notes.append(describe_gaps(tables.subgroups, names))
    parts = [f"# {study['title']}", where, *(table.to_markdown() for table in shown), *notes]
    markdown = "\n\n".join(parts)
    write_whole(folder / TABLES_FILE, markdown + "\n")
    for table in shown:
        name = table.title.partition(":")[0].lower().replace(" ", "_")
        write_whole(folder / f"table_{name}.csv", table.to_csv())
    # Only on the full test set do models of different class ratios see the same patients.
    full = tables.leaderboard[tables.leaderboard["test_set"] == "full"]
    if not full.empty:
        # a copy in one piece: pandas warns of a wide table that was put together by column
        figure = comparison_figure(full.copy().assign(name=full["experiment_id"].map(names)))
        figure.savefig(folder / "auroc.png", dpi=100, bbox_inches="tight")
    return "\n\n".join([where, *(table.to_text() for table in shown), *notes])


def sensitivity_table(sensitivity: pd.DataFrame, names: Mapping[str, str]) -> ResultTable:
    """Lay out what shuffling each modality takes from every multimodal model's AUROC."""
    rows = []
    for identity, found in sensitivity[sensitivity["metric"] == "auroc"].groupby(
        "experiment_id", sort=False
    ):
        cells = [names[str(identity)], format_share(found["intact"].iloc[0])]
        for perturbation in ("image_shuffled", "text_shuffled"):
            row = found[found["perturbation"] == perturbation].iloc[0]
            drop, low, high = (f"{row[name]:.3f}" for name in ("drop", "low", "high"))
            cells += [f"{drop} [{low}, {high}]", f"{row['p_value']:.4f}"]
        rows.append(tuple(cells))
    repeats = int(sensitivity["repeats"].max())
    return ResultTable(
        title="Sensitivity",
        caption=(
            "Drop of AUROC on the full test set when one modality is shuffled between patients: "
            f"mean of {repeats} permutations, 95 % interval over patients, one-sided p. A drop "
            "shows that this one trained model uses the modality, not how much information the "
            "modality holds; another training can divide its use of the two otherwise."
        ),
        columns=(
            "trial",
            "AUROC",
            "drop, image shuffled",
            "p, image",
            "drop, text shuffled",
            "p, text",
        ),
        rows=tuple(rows),
    )


def compare_arms(
    trials: Path, members: Sequence[Mapping[str, Any]], leaderboard: pd.DataFrame
) -> dict[tuple[Arm, Arm], bool]:
    """Tell which arms' AUROCs separate: paired DeLong on the own test set, Holm at .05.

    Cross-validated arms are compared over their folds, by the corrected resampled t-test.

    The family is every pair of arms on the same data set, since the paper's tables rank those.
    Arms with several seeds or further axes are not compared here.
    """
    folded = {member["experiment_id"] for member in members if "fits" in member}
    done = set(leaderboard.loc[leaderboard["status"] == "done", "experiment_id"])
    by_arm: dict[Arm, list[str]] = {}
    for member in members:
        if member["experiment_id"] in done:
            arm = (member["modality"], member["dataset"], member["loss"])
            by_arm.setdefault(arm, []).append(member["experiment_id"])
    arms = [arm for arm, ids in by_arm.items() if len(ids) == 1]
    predictions = {
        arm: read_predictions(trials / by_arm[arm][0])
        for arm in arms
        if by_arm[arm][0] not in folded
    }
    fits = {arm: read_fits(trials / by_arm[arm][0]) for arm in arms if by_arm[arm][0] in folded}
    pairs = [(a, b) for a, b in itertools.combinations(arms, 2) if a[1] == b[1]]
    p_values = []
    for first, second in pairs:
        if first in fits and second in fits:
            p_values.append(_compare_own_folds(fits[first], fits[second]))
            continue
        if first in fits or second in fits:
            p_values.append(np.nan)
            continue
        one, other = predictions[first], predictions[second]
        rows = one.rows("test", "own")
        if not np.array_equal(one.record_id[rows], other.record_id[other.rows("test", "own")]):
            p_values.append(np.nan)
            continue
        test = delong_test(
            one.label[rows],
            one.logit[rows],
            other.logit[other.rows("test", "own")],
            groups=one.group[rows],
        )
        p_values.append(test.p_value)
    adjusted = holm(p_values)
    return {
        pair: bool(p <= LEVEL) for pair, p in zip(pairs, adjusted, strict=True) if not np.isnan(p)
    }


def _compare_own_folds(first: list[Fit], second: list[Fit]) -> float:
    try:
        return compare_fits([first], [second], {"auroc": "auroc"}, "own")["auroc"].p_value
    except UnlikeFoldsError:
        return float("nan")
