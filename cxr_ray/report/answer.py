"""The question and the answer of a study, in sentences that claim no more than its comparisons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cxr_ray.evaluation.contribution import USED_DROP, USED_P_VALUE
from cxr_ray.evaluation.seeds import FEWEST_SEEDS
from cxr_ray.report.comparisons import PRIMARY
from cxr_ray.report.detectable import power_clause
from cxr_ray.report.fold_comparison import METHOD as RESAMPLED
from cxr_ray.report.leaderboard import StudyTables
from cxr_ray.report.result_table import MISSING, format_share
from cxr_ray.report.seed_summary import named_arms


@dataclass(frozen=True)
class _Arm:
    """The finished trials of one arm, a row of the full test set for each training seed.

    ``interval`` holds ``auroc_low`` and ``auroc_high``: of the one model, or of the mean.
    """

    name: str
    rows: tuple[Mapping[str, Any], ...]
    interval: Mapping[str, Any]

    @property
    def auroc(self) -> float:
        """Mean over seeds, NaN where a seed's is not defined."""
        return float(sum(_number(row["auroc"]) for row in self.rows) / len(self.rows))


def answer(
    study: Mapping[str, Any],
    cohorts: Sequence[Mapping[str, Any]],
    done: Sequence[Mapping[str, Any]],
    tables: StudyTables,
    leak: str | None = None,
) -> list[str]:
    """Say what was asked of whom, which models separate, and which modality they use.

    Parameters
    ----------
    study
        The content of ``study.json``.
    cohorts
        Each with its ``manifest``.
    done
        The leaderboard's rows of finished trials, with the trial's ``name``.
    tables
        Its comparisons and sensitivity tests are counted.
    leak
        The gravest finding of the audit, as a clause.

    Returns
    -------
    list of str
        Three sentences, or one where no trial has finished.
    """
    full = [row for row in done if row["test_set"] == "full"]
    if not full:
        ended = (tables.leaderboard["status"] == "failed").sum()
        how = f" ({ended} of {len(study['members'])} failed)" if ended else ""
        return [f"No trial of this study has finished{how}, so that there is no answer yet."]
    arms = _arms(full, tables.summary)
    return [
        _subject(study, cohorts, full, arms).removesuffix(".") + (f"; {leak}." if leak else "."),
        _separation(arms, tables.comparisons),
        _use(study, full, tables.sensitivity),
    ]


def _arms(full: Sequence[Mapping[str, Any]], summary: pd.DataFrame) -> list[_Arm]:
    named = named_arms(summary, merge=False)
    full_rows = named[named["test_set"] == "full"].to_dict("records")
    pooled = {row["name"]: {str(key): value for key, value in row.items()} for row in full_rows}
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in full:
        found.setdefault(row["name"].removesuffix(f"-seed{row['seed']}"), []).append(row)
    return [
        _Arm(name, tuple(rows), pooled.get(name, {}) if len(rows) > 1 else rows[0])
        for name, rows in found.items()
    ]


def _subject(
    study: Mapping[str, Any],
    cohorts: Sequence[Mapping[str, Any]],
    full: Sequence[Mapping[str, Any]],
    arms: Sequence[_Arm],
) -> str:
    planned = len(study["members"])
    models = _count(len(full), "model")
    if len(full) < planned:
        models = f"{len(full)} of {planned} planned models"
    seeds = [len(arm.rows) for arm in arms]
    if max(seeds) > 1:
        each = f"{seeds[0]}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
        models += f" ({len(arms)} with {each} training seeds each)"
    source = "made-up phantom" if study["source"] == "phantom" else study["source"]
    # Several cohorts of a study overlap: their patients do not add up.
    patients = sorted({int(cohort["manifest"]["patients"]) for cohort in cohorts})
    of = f" of {_span(patients)} patients" if patients else ""
    of += f" in each of {len(cohorts)} cohorts" if len(cohorts) > 1 else ""
    verb = "was" if len(full) == 1 else "were"
    how = f"trained on {source} data{of} and scored on {_tested(full)}"
    fits = [len(member["fits"]) for member in study["members"] if "fits" in member]
    if fits:
        how = (
            f"cross-validated on {source} data{of}, with {_span(sorted(fits))} fits each, and "
            f"scored out of fold on {_tested(full)}"
        )
    return f"{models} {verb} {how}" + (
        "; made-up data say nothing about patients." if study["source"] == "phantom" else "."
    )


def _tested(full: Sequence[Mapping[str, Any]]) -> str:
    sizes = sorted({(int(row["n"]), int(row["n_positive"])) for row in full})
    if len(sizes) == 1:
        return f"{sizes[0][0]} test records, {sizes[0][1]} of them positive"
    records = _span(sorted(n for n, _ in sizes))
    return f"{records} test records, {_span(sorted(positive for _, positive in sizes))} positive"


def _separation(arms: Sequence[_Arm], comparisons: pd.DataFrame) -> str:
    """Name the highest AUROC, and say which of the declared comparisons separate."""
    highest = _highest(arms)
    primary = comparisons[comparisons["family"] == PRIMARY]
    made = primary[primary["p_holm"].notna()]
    if made.empty:
        why = "none of the declared comparisons could be made"
        why = "no two models were compared" if primary.empty else why
        return f"{highest}, and {why}, so that no choice is shown to be better."
    lacking = len(primary) - len(made)
    rest = f"; {lacking} of the {len(primary)} declared could not be made" if lacking else ""
    apart = made["verdict"].isin(["a higher", "b higher"])
    if not apart.any():
        folded = made["method"].str.startswith(RESAMPLED).any()
        reach = _reach(arms, len(primary), bool(folded))
        if len(made) == 1:
            return f"{highest}, but the two compared models' figures do not separate{rest}{reach}."
        return (
            f"{highest}, but in none of the {len(made)} declared comparisons do the figures "
            f"separate after Holm's correction{rest}, so that no choice is shown to be better"
            f"{reach}."
        )
    seeds = min(len(arm.rows) for arm in arms)
    # A claim about a method needs several trainings; one is about these very models.
    one_model = seeds < FEWEST_SEEDS and not made["method"].str.startswith(RESAMPLED).all()
    whose = "of these trained models, " if one_model else ""
    return (
        f"{highest}; after Holm's correction {int(apart.sum())} of {len(made)} comparisons "
        f"separate{rest}: {whose}{_directions(made)}."
    )


def _reach(arms: Sequence[_Arm], comparisons: int, over_folds: bool) -> str:
    """Say what difference the test set could have shown, where all arms have the same."""
    sizes = {(int(row["n"]), int(row["n_positive"])) for arm in arms for row in arm.rows}
    if len(sizes) > 1:
        return ""
    ((records, positives),) = sizes
    clause = power_clause(positives, records - positives, comparisons, over_folds=over_folds)
    return clause and f"; {clause}"


def _directions(made: pd.DataFrame) -> str:
    said, silent = [], []
    for (_, a, b), rows in made.groupby(["axis", "level_a", "level_b"], sort=False):
        for verdict, better, worse in (("a higher", a, b), ("b higher", b, a)):
            times = int((rows["verdict"] == verdict).sum())
            if times:
                said.append(f"{better} is above {worse} in {times} of {len(rows)}")
        if rows["verdict"].eq("not separated").all():
            silent.append(f"between {a} and {b}")
    if silent:
        said.append(f"no difference is shown {' or '.join(silent)}")
    return ", ".join(said)


def _highest(arms: Sequence[_Arm]) -> str:
    scored = [arm for arm in arms if arm.auroc == arm.auroc]
    if not scored:
        return "No AUROC is defined on this test set"
    best = max(scored, key=lambda arm: arm.auroc)
    if len(scored) == 1:
        what = "The AUROC"
    else:
        what = "The highest AUROC"
        sizes = {(int(row["n"]), int(row["n_positive"])) for arm in scored for row in arm.rows}
        what += ", over test sets that differ," if len(sizes) > 1 else ""
    bounds = (_number(best.interval.get(f"auroc_{side}")) for side in ("low", "high"))
    low, high = (format_share(bound) for bound in bounds)
    interval = "" if MISSING in (low, high) else f" [{low}, {high}]"
    seeds = f", mean of {len(best.rows)} seeds" if len(best.rows) > 1 else ""
    return f"{what} is {format_share(best.auroc)}{interval} ({best.name}{seeds})"


def _use(
    study: Mapping[str, Any], full: Sequence[Mapping[str, Any]], sensitivity: pd.DataFrame
) -> str:
    """Say for how many multimodal models each modality is shown to be used."""
    rows = sensitivity[sensitivity["metric"] == "auroc"]
    if rows.empty:
        if any(row["modality"] == "multimodal" for row in full):
            return "Which modality the multimodal models use was not tested."
        if any(member["modality"] == "multimodal" for member in study["members"]):
            return "No multimodal model has finished, so that no modality could be shuffled."
        return "No model of this study reads both modalities, so that none could be shuffled."
    sentences = []
    for modality in ("image", "text"):
        found = rows[rows["perturbation"] == f"{modality}_shuffled"]
        used = (found["p_value"] <= USED_P_VALUE) & (found["drop"].abs() >= USED_DROP)
        low, high = format_share(found["drop"].min()), format_share(found["drop"].max())
        span = low if low == high else f"{low} to {high}"
        sentences.append(
            f"the {modality} is shown to be used by {int(used.sum())} of {len(found)} (AUROC falls "
            f"by {span} when it is shuffled)"
        )
    few = ""
    if 1 / (rows["repeats"].max() + 1) > USED_P_VALUE:
        few = f"; {int(rows['repeats'].max())} permutations are too few to show any use"
    return f"Of the multimodal models, {' and '.join(sentences)}{few}."


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _span(values: Sequence[int]) -> str:
    return f"{values[0]}" if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
