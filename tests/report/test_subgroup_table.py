import csv
import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from small_page import Page

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.evaluation.thresholds import f1_operating_point
from cxr_ray.report.leaderboard import collect_tables, read_tables
from cxr_ray.report.page import rebuild_page
from cxr_ray.report.study_tables import write_study_tables
from cxr_ray.report.subgroups import (
    COLUMNS,
    SUBGROUPS_FILE,
    describe_gaps,
    read_subgroups,
    subgroup_table,
)
from cxr_ray.report.trial_folder import write_history, write_predictions

COHORT = "c" * 16
SITES = ("large", "<b>small</b>", "tiny", "unknown")
QUICK = EvaluationConfig(permutations=19, bootstrap=100)


class Study:
    """A storage with a study of trials that were never trained: logits of a given signal."""

    def __init__(self, root, size=1200, seed=0, groups=True):
        self.root, self.trials = root, root / "trials"
        rng = np.random.default_rng(seed)
        self.part = np.repeat(["val", "test"], [size // 2, size])
        number = len(self.part)
        self.label = (rng.random(number) < 0.3).astype(np.int8)
        self.sex = np.where(rng.random(number) < 0.45, "female", "male")
        self.site = rng.choice(SITES, number, p=[0.6, 0.3, 0.01, 0.09])
        self.noise = rng.normal(size=number)
        self.record_id = np.array([f"record{place:05d}" for place in range(number)])
        self.patient = np.array([f"patient{place:05d}" for place in range(number)])
        cohort = {"record": self.record_id, "record_id": self.record_id, "part": self.part}
        if groups:
            cohort |= {"group_sex": self.sex, "group_site": self.site}
        folder = root / "prepared" / COHORT
        folder.mkdir(parents=True)
        # another order than the predictions', and records that no trial has
        frame = pd.DataFrame(cohort).iloc[::-1]
        frame.to_csv(folder / "cohort.csv", index=False)
        self.record = {
            "name": "small",
            "title": "Who is served?",
            "profile": "tiny",
            "grid": "small",
            "axes": {"modality": ["image"], "dataset": ["full"], "loss": ["bce", "focal"]},
            "compare": {},
            "source": "phantom",
            "data_key": "d" * 16,
            "cohorts": ["b" * 16, COHORT],
            "members": [],
            "left_out": [],
            "version": "0.0",
            "git_commit": None,
            "command": "python launch/sweep.py --grid small",
        }

    def add(self, loss="bce", female=1.4, male=1.4):
        identity = f"{len(self.record['members']) + 1:016x}"
        self.record["members"].append(
            {
                "experiment_id": identity,
                "name": f"image-full-{loss}",
                "modality": "image",
                "dataset": "full",
                "loss": loss,
                "seed": 0,
                "further": {},
            }
        )
        signal = np.where(self.sex == "female", female, male)
        folder = self.trials / identity
        (folder / "figures").mkdir(parents=True)
        logit = signal * self.label + self.noise - 1
        write_predictions(
            folder,
            record_id=self.record_id,
            group=self.patient,
            part=self.part,
            in_own=np.ones(len(logit), dtype=bool),
            label=self.label,
            logit=logit,
        )
        np.savez(folder / "features.npz", image=np.zeros((len(logit), 1)))
        write_history(folder, [{"epoch": 0, "train_loss": 0.5, "val_loss": 0.6}])
        result = {"experiment_id": identity, "best_epoch": 0, "epochs": 1, "train_seconds": 1.0}
        result |= {"n_train": 100, "train_accuracy": 0.9, "parameters": 12}
        (folder / "result.json").write_text(json.dumps({**result, "compute": {"device": "cpu"}}))
        return logit

    def table(self):
        return subgroup_table(self.trials, self.record)

    def names(self):
        return {each["experiment_id"]: each["name"] for each in self.record["members"]}

    def write(self):
        folder = self.root / "studies" / "small"
        folder.mkdir(parents=True)
        (folder / "study.json").write_text(json.dumps(self.record))
        tables = collect_tables(self.trials, self.record, {}, QUICK)
        tables.write(folder)
        self.text = write_study_tables(folder, self.trials, self.record, tables)
        return folder


@pytest.fixture
def gap(tmp_path):
    study = Study(tmp_path)
    study.add(female=0.3, male=1.8)
    study.add("focal")
    return study


def only(table, **values):
    for name, value in values.items():
        table = table[table[name] == value]
    return table


def test_each_figure_is_that_of_its_records_at_the_threshold_of_validation(tmp_path):
    study = Study(tmp_path)
    logit = study.add()
    table = study.table()
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == 3 * (2 + len(SITES))
    val, test = study.part == "val", study.part == "test"
    chosen = f1_operating_point(study.label[val], logit[val]).threshold
    rows = test & (study.sex == "female")
    label, called = study.label[rows], logit[rows] >= chosen
    expected = {
        "auroc": roc_auc_score(label, logit[rows]),
        "sensitivity_at_val": called[label == 1].mean(),
        "specificity_at_val": (~called)[label == 0].mean(),
    }
    found = only(table, group="sex", level="female").set_index("metric")
    assert found["value"].to_dict() == pytest.approx(expected)
    assert set(found["n"]) == {str(rows.sum())}
    assert set(found["n_positive"]) == {str(label.sum())}
    assert (found["low"] < found["value"]).all()


def test_a_planted_gap_is_found_and_named_and_a_model_without_it_is_not_accused(gap):
    table = gap.table()
    served = only(table, level="female", metric="auroc").set_index("loss")
    assert served.loc["bce", "gap_high"] < 0
    assert served.loc["bce", "verdict"] == "lower"
    assert served.loc["bce", "reference"] == "male"
    assert set(only(table, loss="focal")["verdict"]) <= {
        "reference",
        "too few",
        "not compared",
        "not separated",
    }
    assert set(only(table, level="male")["verdict"]) == {"reference"}
    made = table[table["p_value"].notna()]
    # two models, one sex and one site against the largest, three figures
    assert len(made) == 12
    ordered = made.sort_values("p_value")
    stepped = np.maximum.accumulate(ordered["p_value"] * np.arange(12, 0, -1))
    assert ordered["p_holm"].tolist() == pytest.approx(np.minimum(stepped, 1).tolist())
    said = describe_gaps(table, gap.names())
    assert said.startswith("Subgroups: of 12 gaps ")
    assert "image-full-bce, sex female: AUROC " in said
    assert "lower than male" in said
    assert "focal" not in said


def test_without_a_gap_there_are_few_false_alarms_over_20_draws(tmp_path):
    alarms = 0
    for seed in range(20):
        study = Study(tmp_path / str(seed), size=600, seed=seed)
        study.add()
        verdicts = set(study.table()["verdict"])
        alarms += bool(verdicts & {"lower", "higher"})
    assert alarms <= 3


def test_no_figure_of_few_patients_is_written(gap):
    table = gap.table()
    tiny = only(table, group="site", level="tiny", loss="bce").set_index("metric")
    assert set(tiny["n_positive"]) == {"<10"}
    assert set(tiny["verdict"]) == {"too few"}
    assert tiny[["value", "low", "high", "gap", "p_value"]].isna().all(axis=None)
    assert set(tiny["method"]) == {"none: fewer than 10 patients of a class"}
    unknown = only(table, group="site", level="unknown")
    assert set(unknown["verdict"]) == {"not compared"}
    assert unknown["value"].notna().all()


def test_records_of_one_patient_do_not_count_for_several(tmp_path):
    study = Study(tmp_path)
    small = np.flatnonzero(study.site == SITES[1])
    study.patient[small] = study.patient[small[np.arange(len(small)) % 5]]
    study.add()
    found = only(study.table(), group="site", level=SITES[1])
    assert set(found["n"]) == {"<10"}
    assert set(found["verdict"]) == {"too few"}


def test_few_negatives_are_not_told_by_what_is_left(tmp_path):
    study = Study(tmp_path)
    keep = np.flatnonzero((study.site == SITES[1]) & (study.part == "test"))
    study.label[keep[:-4]] = 1
    study.label[keep[-4:]] = 0
    study.add()
    found = only(study.table(), group="site", level=SITES[1])
    assert set(found["n_positive"]) == {"withheld"}
    assert set(found["verdict"]) == {"too few"}
    assert found["value"].isna().all()


def test_without_declared_groups_there_is_no_table_and_no_section(tmp_path):
    study = Study(tmp_path, groups=False)
    study.add()
    assert study.table().empty
    folder = study.write()
    assert not (folder / SUBGROUPS_FILE).exists()
    assert read_tables(folder).subgroups.empty
    page = Page(rebuild_page(folder))
    assert "subgroups" not in {attributes.get("id") for _, attributes in page.elements}
    assert "Subgroups" not in study.text


def test_the_table_is_read_as_it_was_written(gap, tmp_path):
    table = gap.table()
    table.to_csv(tmp_path / "there.csv", index=False)
    pd.testing.assert_frame_equal(read_subgroups(tmp_path / "there.csv"), table, check_dtype=False)


def test_the_page_shows_every_row_as_the_table_has_it_and_greys_by_class_and_word(gap):
    folder = gap.write()
    page = Page(rebuild_page(folder))
    with (folder / SUBGROUPS_FILE).open(newline="") as lines:
        there = list(csv.DictReader(lines))
    figures = [each for each in page.figures if each[0] == SUBGROUPS_FILE]
    assert {int(place) for _, place, _, _ in figures} == set(range(len(there)))
    for _, place, attributes, text in figures:
        value = there[int(place)][attributes["data-column"]]
        assert attributes["data-value"] == value
        if re.fullmatch(r"-?[\d.e-]+", value) and text != "<.001":
            digits = len(text.partition(".")[2])
            assert float(text) == float(f"{float(value):.{digits}f}")
    grey = [each for each in page.all("tr") if each.get("class") == "grey"]
    assert {there[int(each["data-row"])]["verdict"] for each in grey} == {"too few"}
    assert "site: <b>small</b>" in page.text
    assert "lower than male" in page.text
    assert "record0" not in page.source
    assert "patient0" not in page.source
    assert gap.text.count("Subgroups: of 12 gaps") == 1


def test_a_page_is_built_again_where_the_prepared_cohort_is_gone(gap):
    folder = gap.write()
    before = (folder / SUBGROUPS_FILE).read_bytes()
    (gap.root / "prepared" / COHORT / "cohort.csv").unlink()
    page = Page(rebuild_page(folder))
    assert "lower than male" in page.text
    assert (folder / SUBGROUPS_FILE).read_bytes() == before
