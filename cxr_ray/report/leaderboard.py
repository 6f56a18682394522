"""A study's tables, gathered from its trial folders (DESIGN section 9)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.damage import read_whole_table
from cxr_ray.errors import InputError
from cxr_ray.evaluation.metrics import METRICS
from cxr_ray.report.comparisons import COMPARISONS_FILE, compare_trials, read_comparisons
from cxr_ray.report.external import PREFIX, external_folders, score_external
from cxr_ray.report.external_section import EXTERNAL_TABLE_FILE, external_table
from cxr_ray.report.scoring import TEST_SETS, score_folder
from cxr_ray.report.seed_summary import pool_seeds
from cxr_ray.report.subgroups import SUBGROUPS_FILE, read_subgroups, subgroup_table
from cxr_ray.report.trial_folder import RESULT_FILE, read_result

LEADERBOARD_FILE = "leaderboard.csv"
SUMMARY_FILE = "summary.csv"
SENSITIVITY_FILE = "sensitivity.csv"
CONTRIBUTION_FILE = "contribution.csv"
NET_BENEFIT_FILE = "net_benefit.csv"

_IDENTITY = ("experiment_id", "modality", "dataset", "loss", "seed")
_TRAINING = ("train_accuracy", "val_accuracy", "best_epoch", "epochs", "train_seconds")
_SENSITIVITY = (
    "test_set", "perturbation", "repeats", "metric", "intact", "perturbed", "drop", "low", "high",
    "p_value",
)  # fmt: skip
_CONTRIBUTION = (
    "test_set", "measure", "of_modality", "metric", "value", "low", "high", "verdict",
)  # fmt: skip
_NET_BENEFIT = (
    "test_set", "threshold", "prevalence", "net_benefit", "treat_all", "recalibrated",
)  # fmt: skip


_NEEDED = {
    LEADERBOARD_FILE: (*_IDENTITY, "test_set", *_TRAINING, "status", "reason"),
    SUMMARY_FILE: ("modality", "dataset", "loss", "test_set"),
    SENSITIVITY_FILE: (*_IDENTITY, *_SENSITIVITY),
    CONTRIBUTION_FILE: (*_IDENTITY, *_CONTRIBUTION),
    NET_BENEFIT_FILE: (*_IDENTITY, *_NET_BENEFIT),
}


@dataclass(frozen=True)
class StudyTables:
    """What a study's trials scored.

    Attributes
    ----------
    leaderboard
        One row a trial and test set, those of external tests last.
    summary
        One row an arm and test set, pooled over seeds.
    sensitivity
        One row a multimodal trial, perturbation and metric, those of external tests last.
    contribution
        One row a multimodal trial, measure, modality that it is about, and metric, those of
        external tests last.
    comparisons
        One row a declared comparison and metric.
    net_benefit
        One row a trial and threshold probability.
    subgroups
        One row a trial, subgroup of the patients and metric; empty where none are declared.
    """

    leaderboard: pd.DataFrame
    summary: pd.DataFrame
    sensitivity: pd.DataFrame
    contribution: pd.DataFrame
    comparisons: pd.DataFrame
    net_benefit: pd.DataFrame
    subgroups: pd.DataFrame

    def internal(self) -> "StudyTables":
        """Return the tables without the rows of external tests; places of rows stay."""
        kept = {
            name: table[~is_external(table)]
            for name, table in vars(self).items()
            if name not in {"comparisons", "subgroups"}
        }
        return replace(self, **kept)

    def write(self, folder: Path) -> None:
        """Write the CSV files; those of subgroups and external tests only where there are any."""
        for name, table in (
            (LEADERBOARD_FILE, self.leaderboard),
            (SUMMARY_FILE, self.summary),
            (SENSITIVITY_FILE, self.sensitivity),
            (CONTRIBUTION_FILE, self.contribution),
            (COMPARISONS_FILE, self.comparisons),
            (NET_BENEFIT_FILE, self.net_benefit),
        ):
            table.to_csv(folder / name, index=False)
        if not self.subgroups.empty:
            self.subgroups.to_csv(folder / SUBGROUPS_FILE, index=False)
        external = external_table(self.leaderboard)
        if external.empty:
            (folder / EXTERNAL_TABLE_FILE).unlink(missing_ok=True)
        else:
            external.to_csv(folder / EXTERNAL_TABLE_FILE, index=False)


def is_external(table: pd.DataFrame) -> "pd.Series[bool]":
    """Tell which rows are of an external test."""
    # Trials that failed have no test set, and a study of these alone a column of NaN.
    return table["test_set"].astype("string").str.startswith(PREFIX).fillna(False).astype(bool)


def read_tables(folder: Path) -> StudyTables:
    """Read the tables that lie in a study's folder.

    Raises
    ------
    InputError
        If one is missing, as in a folder that an earlier version wrote, or damaged.
    """

    def read(name: str) -> pd.DataFrame:
        path = folder / name
        if not path.is_file():
            raise InputError(
                f"{folder} holds no {name}: repeat the sweep's command, which writes it"
            )
        return read_whole_table(path, _NEEDED[name], dtype={"experiment_id": str})

    return StudyTables(
        leaderboard=read(LEADERBOARD_FILE),
        summary=read(SUMMARY_FILE),
        sensitivity=read(SENSITIVITY_FILE),
        contribution=read(CONTRIBUTION_FILE),
        comparisons=read_comparisons(folder / COMPARISONS_FILE),
        net_benefit=read(NET_BENEFIT_FILE),
        subgroups=read_subgroups(folder / SUBGROUPS_FILE),
    )


def collect_tables(
    trials: Path,
    study: Mapping[str, Any],
    ended: Mapping[str, Mapping[str, str]],
    config: EvaluationConfig,
) -> StudyTables:
    """Gather the tables of a study, scoring trials whose scores are missing or of another recipe.

    Parameters
    ----------
    trials
        Folder of the finished trials.
    study
        The content of ``study.json``.
    ended
        Status and reason of the members that ended without a result.
    """
    members = study["members"]
    rows: list[dict[str, Any]] = []
    sensitivity: list[dict[str, Any]] = []
    contribution: list[dict[str, Any]] = []
    net_benefit: list[dict[str, Any]] = []
    external: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("figures", "sensitivity", "contribution", "net_benefit")
    }
    for member in members:
        identity = {name: member[name] for name in _IDENTITY}
        further = member["further"]
        folder = trials / member["experiment_id"]
        if not (folder / RESULT_FILE).exists():
            how = ended.get(member["experiment_id"])
            if how is not None:
                rows.append({**identity, "test_set": None, **how, **further})
            continue
        scores = score_folder(folder, config)
        result = read_result(folder)
        training = {name: result[name] for name in _TRAINING if name in result}
        training["val_accuracy"] = scores["val_accuracy"]
        # A search's trials leave the test part alone, but for the two that it ends with.
        for test_set in TEST_SETS if scores["test_sets"] else (None,):
            figures = {} if test_set is None else scores["test_sets"][test_set]
            row = {**identity, "test_set": test_set, **figures, **training}
            rows.append({**row, "status": "done", "reason": None, **further})
        sensitivity += [{**identity, **row, **further} for row in scores["sensitivity"]]
        contribution += [
            {**identity, **_of_modality(row), **further} for row in scores["contribution"]
        ]
        net_benefit += [{**identity, **row, **further} for row in scores["net_benefit"]]
        for found in external_folders(folder):
            scored = score_external(found, config)
            row = {**identity, "test_set": f"{PREFIX}{found.name}", **scored["figures"], **training}
            external["figures"].append({**row, "status": "done", "reason": None, **further})
            for name in ("sensitivity", "contribution", "net_benefit"):
                external[name] += [
                    {**identity, **_of_modality(row), **further} for row in scored[name]
                ]
    rows += external["figures"]
    sensitivity += external["sensitivity"]
    contribution += external["contribution"]
    net_benefit += external["net_benefit"]
    axes = list(members[0]["further"]) if members else []
    leaderboard = _ordered(pd.DataFrame(rows), axes)
    return StudyTables(
        leaderboard=leaderboard,
        summary=pool_seeds(leaderboard, trials, members, config),
        sensitivity=pd.DataFrame(sensitivity, columns=[*_IDENTITY, *_SENSITIVITY, *axes]),
        contribution=pd.DataFrame(contribution, columns=[*_IDENTITY, *_CONTRIBUTION, *axes]),
        comparisons=compare_trials(trials, study, ended, config),
        net_benefit=pd.DataFrame(net_benefit, columns=[*_IDENTITY, *_NET_BENEFIT, *axes]),
        subgroups=subgroup_table(trials, study),
    )


def _of_modality(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rename what a contribution is about; ``modality`` is the model's."""
    return {("of_modality" if k == "modality" else k): v for k, v in row.items()}


def _ordered(table: pd.DataFrame, axes: list[str]) -> pd.DataFrame:
    leading = [*_IDENTITY, "test_set", "n", "n_positive", *METRICS[:6]]
    trailing = [*_TRAINING, "status", "reason", *axes]
    further = [name for name in table.columns if name not in {*leading, *trailing}]
    return table.reindex(columns=[*leading, *further, *trailing])
