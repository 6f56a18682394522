"""The labels of MIMIC-CXR-JPG's studies: CheXpert's, NegBio's, or those of radiologists.

Radiologists labelled 687 studies of the official test set (``test-set-labeled``, with version
2.1.0); their table has no ``subject_id`` and says ``Airspace Opacity`` for ``Lung Opacity``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cxr_ray.data.sources.mimic_tables import INTEGER, NUMBER, read_table, table_header
from cxr_ray.errors import InputError, shortened

if TYPE_CHECKING:
    import pandas as pd

    from cxr_ray.config.schema import CohortConfig
    from cxr_ray.data.cohort import Selection

KEYS = ("subject_id", "study_id")
RADIOLOGIST = "radiologist"
NAMED_BY_RADIOLOGISTS = {"Lung Opacity": "Airspace Opacity"}
MENTIONS = {"positive": 1.0, "negative": 0.0, "uncertain": -1.0}
ABSENT = "absent"


def label_table(rules: CohortConfig) -> str:
    """Name the table that holds the labels."""
    return "test-set-labeled" if rules.labels == RADIOLOGIST else rules.labels


def read_labels(name: str, raw: bytes, rules: CohortConfig) -> pd.DataFrame:
    """Read one label of every study.

    Returns
    -------
    pandas.DataFrame
        ``study_id``, ``subject_id`` where the table has it, ``value`` (1, 0, -1 or NaN) and
        ``no_finding``.

    Raises
    ------
    InputError
        If the label is not in the table, a study is there twice, or a value is none of these.
    """
    keys = [key for key in KEYS if key == "study_id" or rules.labels != RADIOLOGIST]
    label = rules.label
    if rules.labels == RADIOLOGIST:
        label = NAMED_BY_RADIOLOGISTS.get(label, label)
    columns = [column for column in table_header(name, raw) if column not in KEYS]
    if label not in columns or label == "No Finding":
        known = ", ".join(column for column in columns if column != "No Finding")
        raise InputError(
            f"cohort.label: {label!r} is not a label of {name}; it has {shortened(known, 500)}"
        )
    wanted = dict.fromkeys(keys, INTEGER) | {label: NUMBER, "No Finding": NUMBER}
    labels = read_table(name, raw, wanted)
    labels = labels.rename(columns={label: "value", "No Finding": "no_finding"})
    repeated = labels.duplicated(keys)
    if repeated.any():
        raise InputError(
            f"{name}: {int(repeated.sum())} rows repeat a study, the first is data row "
            f"{int(repeated.to_numpy().argmax()) + 1}; each study must have one"
        )
    strange = ~(labels["value"].isna() | labels["value"].isin(list(MENTIONS.values())))
    if strange.any():
        value = labels["value"][strange].iloc[0]
        raise InputError(f"{name}: {label} is {value:g}; it must be 1, 0, -1 or blank")
    return labels


def select_labels(selection: Selection, rules: CohortConfig, labels: pd.DataFrame) -> None:
    """Join the label table and keep what is positive or negative."""
    selection.frame = selection.frame.merge(
        labels,
        how="left",
        on=[key for key in KEYS if key in labels],
        indicator="labelled",
        sort=False,
    )
    labelled = (selection.frame["labelled"] == "both").to_numpy()
    selection.keep("no row in the label table", labelled)
    if rules.uncertain == "drop":
        selection.keep("uncertain label", (selection.frame["value"] != -1).to_numpy())
    value = selection.frame["value"].to_numpy()
    no_finding = selection.frame["no_finding"].to_numpy() == 1
    positive = (value == 1) | ((value == -1) & (rules.uncertain == "positive"))
    negative = {
        "no_finding": no_finding,
        "label_negative": value == 0,
        "not_positive": ~positive,
    }[rules.negative] | ((value == -1) & (rules.uncertain == "negative"))
    contradictory = positive & no_finding
    selection.frame = selection.frame.assign(label=positive.astype(np.int8))
    kept = positive | negative
    selection.keep("neither positive nor negative", kept)
    selection.keep("both positive and No Finding", ~contradictory[kept])


def cross_tabulate(first: pd.DataFrame, second: pd.DataFrame) -> np.ndarray:
    """Count studies by what two labellers say of one label.

    Parameters
    ----------
    first, second : pandas.DataFrame
        As `read_labels` returns them, a row a study, in the same order.

    Returns
    -------
    (4, 4) array of int
        Rows by the first: positive, negative, uncertain, absent (not mentioned).
    """
    order = [*MENTIONS.values()]
    places = [
        np.array([order.index(value) if value in order else len(order) for value in each["value"]])
        for each in (first, second)
    ]
    counts = np.zeros((len(order) + 1,) * 2, dtype=int)
    np.add.at(counts, tuple(place.astype(int) for place in places), 1)
    return counts
