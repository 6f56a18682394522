"""The question and the answer of a study, in sentences that claim no more than its comparisons."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cxr_ray.report.leaderboard import StudyTables
from cxr_ray.report.result_table import format_share

USED_P, USED_DROP = 0.002, 0.02


def answer(
    study: Mapping[str, Any],
    cohorts: Sequence[Mapping[str, Any]],
    done: Sequence[Mapping[str, Any]],
    tables: StudyTables,
) -> list[str]:
    """Say what was asked of whom, which models separate, and which modality they use.

    Parameters
    ----------
    study
        The content of ``study.json``.
    cohorts
        Each with its ``manifest``.
    done
        The leaderboard's rows of finished trials.
    """
    if not done:
        return ["No trial of this study has finished."]
    return [
        _subject(study, cohorts, done),
        _separation(done, tables.comparisons),
        _use(tables.sensitivity),
    ]


def _subject(
    study: Mapping[str, Any],
    cohorts: Sequence[Mapping[str, Any]],
    done: Sequence[Mapping[str, Any]],
) -> str:
    full = [row for row in done if row["test_set"] == "full"]
    models, seeds = len({row["experiment_id"] for row in full}), len({row["seed"] for row in full})
    sizes = sorted({(int(row["n"]), int(row["n_positive"])) for row in full})
    tests = " and ".join(f"{n} test records, {positive} of them positive" for n, positive in sizes)
    patients = sum(cohort["manifest"]["patients"] for cohort in cohorts)
    of = f" of {patients} patients" if patients else ""
    return (
        f"{models} models with {_count(seeds, 'training seed')} each were trained on "
        f"{study['source']} data{of} and scored on {tests}."
    )


def _separation(done: Sequence[Mapping[str, Any]], comparisons: pd.DataFrame) -> str:
    """Name the highest AUROC, and say how many of the declared comparisons separate."""
    full = [row for row in done if row["test_set"] == "full" and row["auroc"] == row["auroc"]]
    if not full:
        return "No AUROC is defined on this test set."
    best = max(full, key=lambda row: row["auroc"])
    highest = f"The highest AUROC is {_interval(best)} ({best['name']})"
    primary = comparisons[comparisons["family"] == "primary"]
    made = primary[primary["p_holm"].notna()]
    if made.empty:
        return f"{highest}; no two models were compared."
    apart = made[made["verdict"].isin(["a higher", "b higher"])]
    if apart.empty:
        return (
            f"{highest}, but in none of the {len(made)} declared comparisons do the figures "
            "separate after Holm's correction, so that no choice is shown to be better."
        )
    by_axis = apart.groupby("axis", sort=False).size()
    where = ", ".join(f"{count} by {axis}" for axis, count in by_axis.items())
    return (
        f"{highest}; {len(apart)} of the {len(made)} declared comparisons separate after Holm's "
        f"correction ({where}), and the others do not."
    )


def _use(sensitivity: pd.DataFrame) -> str:
    """Say for how many multimodal models each modality is shown to be used."""
    rows = sensitivity[sensitivity["metric"] == "auroc"]
    if rows.empty:
        return "No model of this study reads both modalities, so that none could be shuffled."
    sentences = []
    for modality in ("image", "text"):
        found = rows[rows["perturbation"] == f"{modality}_shuffled"]
        used = (found["p_value"] <= USED_P) & (found["drop"].abs() >= USED_DROP)
        low, high = format_share(found["drop"].min()), format_share(found["drop"].max())
        span = low if low == high else f"{low} to {high}"
        sentences.append(
            f"the {modality} is shown to be used by {int(used.sum())} of {len(found)} (shuffling "
            f"it takes {span} from AUROC)"
        )
    return f"Of the multimodal models, {' and '.join(sentences)}."


def _interval(row: Mapping[str, Any]) -> str:
    area = format_share(row["auroc"])
    low, high = format_share(row.get("auroc_low")), format_share(row.get("auroc_high"))
    return f"{area} [{low}, {high}]"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
