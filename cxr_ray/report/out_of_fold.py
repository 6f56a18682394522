"""The fits of one cross-validated model gathered in one folder beside theirs.

It holds their out-of-fold predictions, and otherwise what a trial's folder holds: means over the
fits, and no weights. A study's tables, page and tracking take it for the model's own.
"""

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from cxr_ray.config.identity import digest
from cxr_ray.damage import TRIAL, named_if_damaged
from cxr_ray.report.trial_folder import (
    PREDICTIONS_FILE,
    RESULT_FILE,
    Predictions,
    read_config,
    read_history,
    read_predictions,
    read_result,
    write_history,
)
from cxr_ray.storage import move_whole

_AVERAGED = ("best_epoch", "epochs", "n_train", "n_train_positive", "train_accuracy")
_ADDED = ("train_seconds", "wall_seconds")


@dataclass(frozen=True)
class Fit:
    """One fit of a cross-validated model: its place, folder and predictions."""

    repeat: int
    fold: int
    folder: Path
    predictions: Predictions


def gather_fits(trials: Path, member: Mapping[str, Any]) -> bool:
    """Tell whether a study's member is finished; gather it where it is cross-validated.

    What was gathered from fits that are gone or trained anew since is dropped.

    Parameters
    ----------
    trials
        Folder of the finished trials.
    member
        As in ``study.json``.
    """
    identity = member["experiment_id"]
    if "fits" not in member:
        return (trials / identity / RESULT_FILE).exists()
    folders = [trials / fit["experiment_id"] for fit in member["fits"]]
    whole = all((folder / RESULT_FILE).exists() for folder in folders)
    results = [read_result(folder) for folder in folders] if whole else []
    attempt = digest([result["attempt"] for result in results])
    folder = trials / identity
    if (folder / RESULT_FILE).exists():
        if whole and read_result(folder)["attempt"] == attempt:
            return True
        shutil.rmtree(folder)
    if not whole:
        return False
    aside = trials / f".{identity}.{uuid.uuid4().hex}"
    aside.mkdir(mode=0o700)
    _write_predictions(aside, member["fits"], folders)
    write_history(aside, _mean_history(folders))
    (aside / "config.yaml").write_text(yaml.safe_dump(_common_config(folders), sort_keys=False))
    result = {
        "experiment_id": identity,
        **{name: float(np.mean([each[name] for each in results])) for name in _AVERAGED},
        **{name: round(sum(each[name] for each in results), 3) for name in _ADDED},
        "finished_at": max(each["finished_at"] for each in results),
        "parameters": results[0]["parameters"],
        "parameters_trained": results[0]["parameters_trained"],
        "keys": results[0]["keys"],
        "attempt": attempt,
        "fits": list(member["fits"]),
        "compute": results[0]["compute"],
        "versions": results[0]["versions"],
    }
    (aside / RESULT_FILE).write_text(json.dumps(result, indent=1))
    move_whole(aside, folder)
    return True


def read_fits(folder: Path) -> list[Fit]:
    """Read the fits of a gathered folder, in the order of repeats and folds."""
    fits = []
    for each in read_result(folder)["fits"]:
        place = folder.parent / each["experiment_id"]
        fits.append(Fit(each["repeat"], each["fold"], place, read_predictions(place)))
    return fits


def _write_predictions(
    aside: Path, fits: Sequence[Mapping[str, Any]], folders: Sequence[Path]
) -> None:
    """Write every fit's predictions one after the other, each named by its repeat and fold."""
    tables = []
    for fit, folder in zip(fits, folders, strict=True):
        with named_if_damaged(folder / PREDICTIONS_FILE, TRIAL):
            table = pq.read_table(folder / PREDICTIONS_FILE)
        for name in ("repeat", "fold"):
            column = pa.array(np.full(len(table), fit[name], dtype=np.int16))
            table = table.append_column(name, column)
        tables.append(table)
    pq.write_table(pa.concat_tables(tables), aside / PREDICTIONS_FILE)


def _mean_history(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Average each epoch over the fits that were still trained in it, and count them."""
    every = pd.DataFrame([row for folder in folders for row in read_history(folder)])
    by_epoch = every.groupby("epoch")
    means = by_epoch.mean().assign(fits=by_epoch.size()).reset_index()
    return [{str(name): value for name, value in row.items()} for row in means.to_dict("records")]


def _common_config(folders: Sequence[Path]) -> dict[str, Any]:
    config = dict(read_config(folders[0]))
    config["data"]["split"] |= {"repeat": None, "fold": None}
    return config
