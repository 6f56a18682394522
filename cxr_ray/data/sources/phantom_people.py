"""The phantom's patients: sex, age and race, in the form of MIMIC-IV's tables.

They are drawn from a stream of their own: a phantom with them has the records, images and texts of
the same phantom without, but for what `phantom.gap` takes away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxr_ray.config.schema import PhantomConfig
from cxr_ray.data.sources.demographics import ADMISSIONS, PATIENTS

STREAM = 7
RACES = {
    "WHITE": 0.55,
    "WHITE - RUSSIAN": 0.05,
    "BLACK/AFRICAN AMERICAN": 0.15,
    "BLACK/CAPE VERDEAN": 0.03,
    "HISPANIC/LATINO - PUERTO RICAN": 0.05,
    "HISPANIC OR LATINO": 0.02,
    "ASIAN": 0.03,
    "ASIAN - CHINESE": 0.04,
    "OTHER": 0.04,
    "UNKNOWN": 0.03,
    "UNABLE TO OBTAIN": 0.01,
}
MOST_ADMISSIONS = 3
DISAGREE, NOT_LISTED = 0.03, 0.01
OLDEST = 91  # MIMIC-IV's stand-in for all ages above 89


@dataclass(frozen=True)
class People:
    """What is known of each patient.

    Attributes
    ----------
    female : (N,) array of bool
    age : (N,) array of int
    listed : (N,) array of bool
        Whether the patient has a row in ``patients``.
    admitted : (A,) array of int
        The patient of each admission; some have none.
    race : (A,) array of str
    """

    female: np.ndarray
    age: np.ndarray
    listed: np.ndarray
    admitted: np.ndarray
    race: np.ndarray


def draw_people(config: PhantomConfig, number: int) -> People:
    """Draw ``number`` patients; none of it is related to the label."""
    rng = np.random.default_rng([config.seed, STREAM])
    female = rng.random(number) < 0.5
    age = np.clip(np.rint(rng.normal(60, 17, number)), 18, OLDEST).astype(int)
    listed = rng.random(number) >= NOT_LISTED
    entries, shares = np.array(list(RACES), object), np.array(list(RACES.values()))
    race = rng.choice(len(entries), number, p=shares)
    admitted = np.repeat(np.arange(number), rng.integers(0, MOST_ADMISSIONS + 1, number))
    said = race[admitted]
    other = rng.random(len(said)) < DISAGREE
    said[other] = rng.choice(len(entries), int(other.sum()), p=shares)
    return People(female, age, listed, admitted, entries[said])


def people_tables(people: People, subjects: np.ndarray) -> dict[str, bytes]:
    """Write ``patients`` and ``admissions`` as CSV; ``subjects`` are the (N,) patients' ids."""
    import pandas as pd

    patients = pd.DataFrame(
        {
            "subject_id": subjects,
            "gender": np.where(people.female, "F", "M"),
            "anchor_age": people.age,
            "anchor_year": 2150,
        }
    )[people.listed]
    admissions = pd.DataFrame(
        {
            "subject_id": subjects[people.admitted],
            "hadm_id": 20_000_000 + np.arange(len(people.admitted)),
            "race": people.race,
        }
    )
    tables = {PATIENTS: patients, ADMISSIONS: admissions}
    return {
        name: table.sort_values("subject_id", kind="stable").to_csv(index=False).encode()
        for name, table in tables.items()
    }
