"""Sex, age and race of MIMIC's patients, from MIMIC-IV's ``patients`` and ``admissions`` tables.

Access: credentialed, https://physionet.org/content/mimiciv/ (Johnson et al. 2023); ``subject_id``
means the same patient as in MIMIC-CXR.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxr_ray.data.sources.groups import AGE_EDGES, GROUP_PREFIX, UNKNOWN, cut_bands
from cxr_ray.data.sources.mimic_tables import INTEGER, NUMBER, TEXT, read_table, table_header
from cxr_ray.data.sources.source import Root, opened_root
from cxr_ray.errors import InputError, shortened

if TYPE_CHECKING:
    import pandas as pd

SUBJECT = "subject_id"
PATIENTS, ADMISSIONS = "patients", "admissions"
ENDINGS = (".csv", ".csv.gz")
INNER_FOLDER = "hosp"
SEXES = {"F": "female", "M": "male"}
RACES = ("ASIAN", "BLACK", "HISPANIC", "WHITE")
NOT_SAID = ("UNKNOWN", "UNABLE TO OBTAIN", "PATIENT DECLINED")

Table = tuple[str, bytes]
"""A table's file name and content."""


@dataclass(frozen=True)
class Demographics:
    """Where the tables lie: paths only, so that it travels to Ray tasks.

    Attributes
    ----------
    root : Root
    files : tuple of str
        Their names below the root.
    """

    root: Root
    files: tuple[str, ...]

    def tables(self) -> list[Table]:
        """Read the tables."""
        return [(name, self.root.read_table(name)) for name in self.files]


def open_demographics(path: str, follow_links: bool = False) -> Demographics:
    """Open one of the two tables, or the folder (or its ``hosp/``) that holds one or both.

    Raises
    ------
    InputError
        If neither is there, or one is there twice.
    """
    if path.lower().endswith(ENDINGS):
        folder, name = posixpath.split(path)
        root = opened_root(folder or ".", "--demographics", follow_links)
        if name not in root.names():
            raise InputError(f"--demographics: {path} does not exist")
        return Demographics(root, (name,))
    root = opened_root(path, "--demographics", follow_links)
    for place in (root, root.joined(INNER_FOLDER)):
        there = set(place.names())
        files = []
        for table in (PATIENTS, ADMISSIONS):
            found = [table + ending for ending in ENDINGS if table + ending in there]
            if len(found) > 1:
                raise InputError(f"{place.uri}: both {' and '.join(found)} are there; keep one")
            files += found
        if files:
            return Demographics(place, tuple(files))
    raise InputError(
        f"--demographics: {path} holds neither {PATIENTS}.csv[.gz] nor {ADMISSIONS}.csv[.gz]"
    )


def demographic_groups(tables: Sequence[Table], patients: Sequence[str]) -> pd.DataFrame:
    """Look up each record's subgroups; who is in no table is `UNKNOWN`.

    Parameters
    ----------
    tables
        ``patients``, ``admissions`` or both, told apart by their columns.
    patients : (N,) sequence of str
        The subject of each record.

    Returns
    -------
    DataFrame
        N rows; ``group_sex`` and ``group_age`` (by ``anchor_age``, the age in the patient's
        anchor year) of ``patients``, ``group_race`` and, where there is such a column,
        ``group_insurance`` of ``admissions``. Of several admissions that disagree the most
        frequent entry counts, those that say nothing left out; a tie is `UNKNOWN`.

    Raises
    ------
    InputError
        If a table has other columns or no patient in common with the records.
    """
    import pandas as pd

    subjects = pd.Series([int(patient) for patient in patients], dtype="int64")
    found: dict[str, pd.Series] = {}
    for name, raw in tables:
        read = _patients if _kind(name, raw) == PATIENTS else _admissions
        levels = read(name, raw, set(subjects.tolist()))
        if levels.empty and len(subjects):
            raise InputError(
                f"--demographics: none of the {subjects.nunique()} selected patients is in {name};"
                f" its column {SUBJECT} must hold the data's own subjects"
            )
        for column in levels:
            found[f"{GROUP_PREFIX}{column}"] = subjects.map(levels[column]).fillna(UNKNOWN)
    return pd.DataFrame(found)


def coarse_race(entry: object) -> str:
    """Give MIMIC's some thirty entries as five groups, or `UNKNOWN`.

    Examples
    --------
    >>> [coarse_race(e) for e in ("WHITE - RUSSIAN", "HISPANIC OR LATINO", "UNABLE TO OBTAIN")]
    ['white', 'hispanic', 'unknown']
    """
    said = entry.strip().upper() if isinstance(entry, str) else ""
    if not said or said.startswith(NOT_SAID):
        return UNKNOWN
    said = said.replace("LATINO", "HISPANIC") if said.startswith("LATINO") else said
    return next((race.lower() for race in RACES if said.startswith(race)), "other")


def _kind(name: str, raw: bytes) -> str:
    header = table_header(name, raw)
    if len(header) == 1:
        raise InputError(
            f"--demographics: {name} has a single column, {header[0][:60]!r}; cells must be"
            " separated by commas"
        )
    if {"gender", "anchor_age"} & set(header):
        return PATIENTS
    if {"race", "ethnicity"} & set(header):
        return ADMISSIONS
    raise InputError(
        f"--demographics: {name} has neither gender and anchor_age, as {PATIENTS}, nor race, as "
        f"{ADMISSIONS}; it has {shortened(', '.join(header), 500)}"
    )


def _patients(name: str, raw: bytes, wanted: set[int]) -> pd.DataFrame:
    columns = {SUBJECT: INTEGER, "gender": TEXT, "anchor_age": NUMBER}
    table = read_table(name, raw, columns)
    table = table[table[SUBJECT].isin(wanted)].set_index(SUBJECT)
    if table.index.has_duplicates:
        raise InputError(
            f"--demographics: {name} has {int(table.index.duplicated().sum())} subjects twice; "
            "each must have one row"
        )
    sex = table["gender"].str.strip().str.upper().map(SEXES).fillna(UNKNOWN)
    return table.assign(sex=sex, age=cut_bands(table["anchor_age"], AGE_EDGES))[["sex", "age"]]


def _admissions(name: str, raw: bytes, wanted: set[int]) -> pd.DataFrame:
    import pandas as pd

    header = table_header(name, raw)
    race = "race" if "race" in header else "ethnicity"
    columns = {SUBJECT: INTEGER, race: TEXT}
    if "insurance" in header:
        columns["insurance"] = TEXT
    table = read_table(name, raw, columns)
    table = table[table[SUBJECT].isin(wanted)]
    levels = {"race": table[race].map(coarse_race)}
    if "insurance" in header:
        levels["insurance"] = table["insurance"].fillna(UNKNOWN).str.strip().str.lower()
    subjects = pd.Index(table[SUBJECT].unique())
    return pd.DataFrame(
        {
            group: _most_frequent(table[SUBJECT], each).reindex(subjects, fill_value=UNKNOWN)
            for group, each in levels.items()
        }
    )


def _most_frequent(subject: pd.Series, level: pd.Series) -> pd.Series:
    """Give the most frequent known level of each subject that has one; ties are `UNKNOWN`."""
    import pandas as pd

    known = pd.DataFrame({"subject": subject, "level": level})[~level.isin(("", UNKNOWN))]
    counts = known.groupby(["subject", "level"], as_index=False).size()
    top = counts[counts["size"] == counts.groupby("subject")["size"].transform("max")]
    tied = top["subject"].duplicated(keep=False)
    chosen = top["level"].mask(tied, UNKNOWN).set_axis(top["subject"])
    return chosen[~chosen.index.duplicated()]
