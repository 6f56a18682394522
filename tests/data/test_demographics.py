import gzip
import io
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_sets import configured

from cxr_ray.config.identity import cohort_key
from cxr_ray.config.schema import PhantomConfig
from cxr_ray.data.cohort import select_cohort
from cxr_ray.data.sources import open_source
from cxr_ray.data.sources.demographics import coarse_race
from cxr_ray.data.sources.phantom import recipe_hash
from cxr_ray.data.sources.phantom_tables import phantom_tables
from cxr_ray.errors import InputError

FIRST = 15000000
PATIENTS = "subject_id,gender,anchor_age,anchor_year\n"
ADMISSIONS = "subject_id,hadm_id,insurance,race\n"


def patients_of(rows):
    return PATIENTS + "".join(f"{FIRST + i},{sex},{age},2150\n" for i, sex, age in rows)


def admissions_of(rows):
    lines = (f"{FIRST + i},{n},{ins},{race}\n" for n, (i, ins, race) in enumerate(rows))
    return ADMISSIONS + "".join(lines)


@pytest.fixture
def images(mimic_tables, tmp_path):
    mimic_tables.add_background(20, FIRST)
    return mimic_tables.write(tmp_path / "images")


@pytest.fixture
def people(tmp_path):
    folder = tmp_path / "people"
    folder.mkdir()
    sexes = patients_of([(0, "F", 39), (1, "M", 40), (2, "F", 91), (3, "", "")])
    (folder / "patients.csv.gz").write_bytes(gzip.compress(sexes.encode()))
    races = [(0, "Medicare", "WHITE - RUSSIAN"), (0, "Medicare", "WHITE")]
    races += [(0, "Other", "BLACK/AFRICAN AMERICAN"), (1, "Private", "ASIAN"), (1, "", "OTHER")]
    races += [(2, "Private", "UNKNOWN"), (2, "Private", "HISPANIC OR LATINO")]
    (folder / "admissions.csv").write_text(admissions_of(races))
    return folder


def opened(images, people):
    where = None if people is None else str(people)
    return open_source(f"mimic:{images}", configured(), Path("unused"), None, where)


def selected(images, people):
    source = pickle.loads(pickle.dumps(opened(images, people)))
    cohort = select_cohort(source, configured(), check_files=False)
    return cohort.frame.set_index(cohort.frame["patient"].astype(int) - FIRST), cohort.flow


def test_both_tables_of_a_folder_are_joined_by_patient(images, people):
    frame, flow = selected(images, people)
    names = ["group_sex", "group_age", "group_race", "group_insurance"]
    assert [name for name in frame.columns if name.startswith("group_")] == names
    found = frame[names].loc[[0, 1, 2, 3, 4]].values.tolist()
    unknown = "unknown"
    assert found == [
        ["female", "<40", "white", "medicare"],
        ["male", "40-59", unknown, "private"],
        ["female", ">=80", "hispanic", "private"],
        [unknown] * 4,
        [unknown] * 4,
    ]
    notes = {step.rule: step.note for step in flow}
    assert notes["demographics"].endswith("sex 3, age 3, race 2, insurance 3")


def test_one_table_gives_its_groups_and_so_does_the_older_ethnicity(images, people, tmp_path):
    frame, _ = selected(images, people / "patients.csv.gz")
    assert [name for name in frame.columns if name.startswith("group_")] == [
        "group_sex",
        "group_age",
    ]
    older = tmp_path / "old_admissions.csv"
    older.write_text(f"subject_id,ethnicity\n{FIRST},ASIAN - CHINESE\n")
    assert selected(images, older)[0].loc[0, "group_race"] == "asian"


def test_the_folder_may_be_mimics_own(images, people, tmp_path):
    (tmp_path / "mimiciv").mkdir()
    people.rename(tmp_path / "mimiciv" / "hosp")
    assert selected(images, tmp_path / "mimiciv")[0].loc[0, "group_sex"] == "female"


def test_demographics_enter_the_key_only_where_they_are_given(images, people):
    config = configured()

    def key(where):
        source = opened(images, where)
        return cohort_key(source.fingerprint(), source.rules(config.cohort), (), config)

    keys = {key(where) for where in (None, people, people / "patients.csv.gz")}
    assert len(keys) == 3
    assert "demographics" not in str(opened(images, None).rules(config.cohort))


def test_races_are_grouped_coarsely():
    entries = {
        "WHITE - BRAZILIAN": "white",
        "BLACK/CARIBBEAN ISLAND": "black",
        "HISPANIC/LATINO - CUBAN": "hispanic",
        "Latino": "hispanic",
        "ASIAN - KOREAN": "asian",
        "AMERICAN INDIAN/ALASKA NATIVE": "other",
        "PORTUGUESE": "other",
        "PATIENT DECLINED TO ANSWER": "unknown",
        "": "unknown",
        None: "unknown",
    }
    assert {entry: coarse_race(entry) for entry in entries} == entries


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (PATIENTS.replace(",anchor_age", "") + f"{FIRST},F,2150\n", "'anchor_age' is missing"),
        (PATIENTS.replace("subject_id", "patient"), "'subject_id' is missing"),
        ("subject_id,dod\n1,2\n", "neither gender and anchor_age"),
        (PATIENTS.replace(",", ";") + f"{FIRST};F;3;2150\n", "cells must be separated by commas"),
        (patients_of([(900, "F", 40)]), "none of the 20 selected patients is in"),
        (patients_of([(0, "F", 40), (0, "M", 40)]), "1 subjects twice"),
        (patients_of([(0, "F", "old")]), "not a readable table"),
    ],
)
def test_a_table_of_another_form_is_refused_in_a_sentence(images, tmp_path, content, said):
    file = tmp_path / "people.csv"
    file.write_text(content)
    with pytest.raises(InputError, match=said) as caught:
        selected(images, file)
    assert str(FIRST) not in str(caught.value)


def test_a_place_without_tables_is_refused(images, people, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"neither patients\.csv\[\.gz\] nor admissions"):
        opened(images, tmp_path / "empty")
    with pytest.raises(InputError, match="does not exist"):
        opened(images, tmp_path / "none.csv")
    (people / "patients.csv").write_text(PATIENTS)
    with pytest.raises(InputError, match="keep one"):
        opened(images, people)
    with pytest.raises(InputError, match="only mimic reads it, not phantom; set phantom.demog"):
        open_source("phantom", configured(), Path("unused"), None, str(people))


def test_the_phantom_without_demographics_is_the_one_of_before():
    assert recipe_hash(PhantomConfig()).startswith("6d612dc19d8cd1bc")
    assert phantom_tables(PhantomConfig(patients=200)).demographics == {}


def test_a_phantoms_people_leave_its_records_alone_and_a_gap_only_moves_female_images():
    size = {"patients": 400, "positive_share": 0.3}
    plain = phantom_tables(PhantomConfig(**size))
    with_people = phantom_tables(PhantomConfig(**size, demographics=True))
    gap = phantom_tables(PhantomConfig(**size, gap=1.0))
    for other in (with_people, gap):
        assert other.tables == plain.tables
        assert (other.text_signal == plain.text_signal).all()
        assert other.demographics.keys() == {"patients", "admissions"}
    assert (with_people.image_signal == plain.image_signal).all()
    moved = np.abs(gap.image_signal - plain.image_signal)
    assert set(moved.round(9)) == {0.0, 0.5}
    # on the way back to the middle between the classes
    assert (((gap.image_signal < plain.image_signal) == (plain.truth == 1)) | (moved == 0)).all()


def test_the_phantoms_people_are_read_before_and_after_it_is_written(tmp_path):
    config = configured(phantom={"patients": 60, "positive_share": 0.4, "gap": 1.4})
    source = open_source("phantom", config, tmp_path)
    planned = select_cohort(source, config)
    source.ensure_written()
    written = select_cohort(source, config)
    assert written.frame.equals(planned.frame)
    assert {"group_sex", "group_age", "group_race"} <= set(written.frame.columns)
    assert set(written.frame["group_sex"]) <= {"female", "male", "unknown"}
    listed = pd.read_csv(io.BytesIO(source.root.read("patients.csv.gz")), compression="gzip")
    assert list(listed.columns) == ["subject_id", "gender", "anchor_age", "anchor_year"]
    implied = PhantomConfig(gap=1.4, demographics=True)
    assert recipe_hash(implied) == recipe_hash(PhantomConfig(gap=1.4))


def test_a_gap_above_the_signal_is_refused():
    with pytest.raises(ValueError, match=r"gap 2 is above image_signal 1\.4"):
        PhantomConfig(gap=2)
