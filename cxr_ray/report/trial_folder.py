"""Reading and writing what a finished trial leaves behind (DESIGN section 9)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.special import expit

from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.damage import TRIAL, Stored, named_if_damaged, read_json
from cxr_ray.errors import InputError
from cxr_ray.storage import ALL_PARTS, RESULT_FILE, TEST_FILE

PREDICTIONS_FILE = "predictions.parquet"
HISTORY_FILE = "history.csv"
CONFIG_FILE = "config.yaml"
_MODEL_SECTIONS = ("data", "cohort", "image", "text", "fusion", "loss", "train", "evaluation")
FEATURES_FILE = "features.npz"


@dataclass(frozen=True)
class Predictions:
    """A trial's predictions on the validation and test parts, one entry a record.

    ``part`` is ``val`` or ``test``; ``in_own`` tells whether the record belongs to the model's own,
    sub-sampled part; ``logit`` and ``probability`` are float64.
    """

    record_id: NDArray[np.str_]
    group: NDArray[np.str_]
    part: NDArray[np.str_]
    in_own: NDArray[np.bool_]
    label: NDArray[np.int8]
    logit: NDArray[np.float64]
    probability: NDArray[np.float64]

    def rows(self, part: str, test_set: str) -> NDArray[np.bool_]:
        """Select the records of ``val`` or ``test`` that the set ``own`` or ``full`` holds."""
        chosen = self.part == part
        return chosen & self.in_own if test_set == "own" else chosen

    def patients(self, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the patient of each record of `rows` as a number, counted by first records.

        Their names are salted per storage; draws that followed the names' order would not repeat.
        """
        _, first, inverse = np.unique(self.group[rows], return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[inverse]


def write_predictions(folder: Path, **columns: NDArray[Any]) -> None:
    """Write predictions; the probability is the logit's logistic function."""
    columns["probability"] = expit(columns["logit"])
    names = Predictions.__dataclass_fields__
    pq.write_table(pa.table({name: columns[name] for name in names}), folder / PREDICTIONS_FILE)


def read_predictions(folder: Path) -> Predictions:
    """Read a trial's predictions.

    Raises
    ------
    InputError
        If the file is not there or damaged.
    """
    path = folder / PREDICTIONS_FILE
    with named_if_damaged(path, TRIAL):
        table = pq.read_table(path)
        columns = {name: table[name].to_numpy() for name in Predictions.__dataclass_fields__}
        for name in ("record_id", "group", "part"):
            columns[name] = columns[name].astype(str)
        if np.isnan(columns["logit"]).any():
            raise ValueError("a logit that is no number")
    return Predictions(**columns)


def read_features(folder: Path) -> dict[str, NDArray[Any]]:
    """Read a trial's encoder outputs, their means over the training part, and head weights.

    Raises
    ------
    InputError
        If the file is not there or damaged, or where an array that it lacks is asked for.
    """
    path = folder / FEATURES_FILE
    with named_if_damaged(path, TRIAL), np.load(path, allow_pickle=False) as file:
        return Stored(dict(file), path, TRIAL)


def write_history(folder: Path, history: list[dict[str, Any]]) -> None:
    """Write one line an epoch."""
    lines = [",".join(history[0])]
    lines += [",".join(repr(value) for value in row.values()) for row in history]
    (folder / HISTORY_FILE).write_text("\n".join(lines) + "\n")


def read_history(folder: Path) -> list[dict[str, float]]:
    """Read one dict an epoch.

    Raises
    ------
    InputError
        If the file is not there or damaged, or where a column that it lacks is asked for.
    """
    path = folder / HISTORY_FILE
    with named_if_damaged(path, TRIAL):
        header, *lines = path.read_text().splitlines()
        names = header.split(",")
        rows = [zip(names, map(float, line.split(",")), strict=True) for line in lines]
        if not rows:
            raise ValueError("no epoch")
        return [Stored(row, path, TRIAL) for row in rows]


def read_result(folder: Path) -> dict[str, Any]:
    """Read how a trial was trained.

    Raises
    ------
    InputError
        If the file is damaged, or where a name that it lacks is asked for.
    """
    return read_json(folder / RESULT_FILE, TRIAL)


def has_test(folder: Path) -> bool:
    """Tell whether a finished trial has predictions of the test part; a search's have none."""
    return "test" in read_result(folder).get("parts", ALL_PARTS) or (folder / TEST_FILE).exists()


def read_config(folder: Path) -> dict[str, Any]:
    """Read the resolved config that a trial was trained with.

    Raises
    ------
    InputError
        If the file is not there or damaged.
    """
    # The safe loader in C, which is ten times as fast, where PyYAML was built with it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    path = folder / CONFIG_FILE
    with named_if_damaged(path, TRIAL):
        text = path.read_text()
        if not text.endswith("\n"):
            raise ValueError("its last line is cut off")
        return Stored(yaml.load(text, Loader=loader), path, TRIAL)


def trained_config(folder: Path) -> ExperimentConfig:
    """Read the config that a trial was trained with, checked.

    Raises
    ------
    InputError
        If the file is not there or damaged, or holds what this version does not know.
    """
    config = read_config(folder)
    for section in _MODEL_SECTIONS:
        config[section]  # a file that is cut off would else be another model's, by the defaults
    try:
        return ExperimentConfig.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{folder / CONFIG_FILE}: {name}: {first['msg']}; it is damaged, or another version of "
            "cxr_ray wrote it"
        ) from error
