"""The tables that a study ends with: the paper's figures with ours beside them, the leaderboard."""

import functools
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
from cxr_ray.evaluation.seeds import crossed_delong
from cxr_ray.report.calibration_section import calibration_sentence
from cxr_ray.report.comparisons import LEVEL, comparisons_table
from cxr_ray.report.fold_comparison import UnlikeFoldsError, compare_fits
from cxr_ray.report.leaderboard import StudyTables
from cxr_ray.report.out_of_fold import Fit, read_fits
from cxr_ray.report.paper_tables import (
    Arm,
    describe_ended,
    describe_means,
    leaderboard_table,
    paper_tables,
)
from cxr_ray.report.result_table import ResultTable, format_share
from cxr_ray.report.seed_summary import has_several_seeds, named_arms, summary_table
from cxr_ray.report.subgroups import describe_gaps
from cxr_ray.report.trial_folder import Predictions, read_predictions
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
    several = has_several_seeds(tables.summary)
    shown: list[ResultTable] = [*found.tables]
    if several:
        notes_of = (*describe_means(tables.leaderboard), *describe_ended(tables.leaderboard))
        shown.append(summary_table(tables.summary, notes_of))
    else:
        shown.append(leaderboard_table(tables.leaderboard))
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
    drawn = named_arms(tables.summary, merge=False) if several else tables.leaderboard
    full = drawn[drawn["test_set"] == "full"]
    if not full.empty:
        if not several:
            # a copy in one piece: pandas warns of a wide table that was put together by column
            full = full.copy().assign(name=full["experiment_id"].map(names))
        figure = comparison_figure(full)
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
    shuffled = sensitivity["perturbation"].isin(["image_shuffled", "text_shuffled"])
    counts = sorted({int(count) for count in sensitivity.loc[shuffled, "repeats"]})
    repeats = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
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
    """Tell which arms' AUROCs separate on the own test set, after Holm's correction, at .05.

    One seed: paired DeLong. From three seeds that both arms have: their means, crossed with
    patients; two seeds are not compared. Cross-validated arms: over their folds, by the corrected
    resampled t-test. The family is every pair of arms on the same data set, since the paper's
    tables rank those. Arms with further axes are not compared here.
    """
    folded = {member["experiment_id"] for member in members if "fits" in member}
    done = set(leaderboard.loc[leaderboard["status"] == "done", "experiment_id"])
    by_arm: dict[Arm, dict[int, str]] = {}
    repeated = set()
    for member in members:
        if member["experiment_id"] in done:
            arm = (member["modality"], member["dataset"], member["loss"])
            own = by_arm.setdefault(arm, {})
            if member["seed"] in own:
                repeated.add(arm)
            own[member["seed"]] = member["experiment_id"]
    arms = [arm for arm in by_arm if arm not in repeated]
    pairs = [(a, b) for a, b in itertools.combinations(arms, 2) if a[1] == b[1]]
    read = functools.cache(lambda identity: read_predictions(trials / identity))
    fits = functools.cache(lambda identity: read_fits(trials / identity))
    p_values = []
    for first, second in pairs:
        seeds = sorted(by_arm[first].keys() & by_arm[second].keys())
        one, other = ([by_arm[arm][seed] for seed in seeds] for arm in (first, second))
        if len(seeds) == 1 and len(by_arm[first]) + len(by_arm[second]) > 2:
            p_values.append(np.nan)  # the tables show means, and one seed is none
        elif not folded & {*one, *other}:
            p_values.append(_compare_own([read(i) for i in one], [read(i) for i in other]))
        elif {*one, *other} <= folded:
            p_values.append(_compare_own_folds([fits(i) for i in one], [fits(i) for i in other]))
        else:
            p_values.append(np.nan)
    adjusted = holm(p_values)
    return {
        pair: bool(p <= LEVEL) for pair, p in zip(pairs, adjusted, strict=True) if not np.isnan(p)
    }


def _compare_own(first: Sequence[Predictions], second: Sequence[Predictions]) -> float:
    """Compare two arms, a model a seed; NaN where they cannot be compared."""
    models = [*first, *second]
    tested = [model.rows("test", "own") for model in models]
    if not models or any(
        not np.array_equal(model.record_id[rows], models[0].record_id[tested[0]])
        for model, rows in zip(models, tested, strict=True)
    ):
        return float("nan")
    logits = [model.logit[rows] for model, rows in zip(models, tested, strict=True)]
    label, groups = models[0].label[tested[0]], models[0].group[tested[0]]
    if len(first) == 1:
        return delong_test(label, logits[0], logits[1], groups=groups).p_value
    seeds = len(first)
    return crossed_delong(label, logits[:seeds], logits[seeds:], groups=groups).p_value


def _compare_own_folds(first: Sequence[list[Fit]], second: Sequence[list[Fit]]) -> float:
    try:
        return compare_fits(first, second, {"auroc": "auroc"}, "own")["auroc"].p_value
    except UnlikeFoldsError:
        return float("nan")
