"""What the page says first, and what it must not say."""

import json

import numpy as np
import pytest
from small_page import make_study

from cxr_ray.report.answer import answer
from cxr_ray.report.leaderboard import read_tables


class Asked:
    """A study's answer, with what its tables hold changed."""

    def __init__(self, folder):
        self.study = json.loads((folder / "study.json").read_text())
        self.tables = read_tables(folder)
        names = {each["experiment_id"]: each["name"] for each in self.study["members"]}
        rows = self.tables.leaderboard.to_dict("records")
        self.done = [
            {**row, "name": names[row["experiment_id"]]} for row in rows if row["status"] == "done"
        ]
        self.cohorts = [{"manifest": {"patients": 600}}]

    def answer(self):
        return answer(self.study, self.cohorts, self.done, self.tables)


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("storage"))


@pytest.fixture
def asked(study_folder):
    return Asked(study_folder)


def test_the_answer_counts_what_separates_and_what_is_used(asked):
    subject, separation, use = asked.answer()
    assert subject.startswith("4 of 6 planned models were trained on made-up phantom data of 600")
    assert "200 test records, 40 of them positive" in subject
    assert "of these trained models, multimodal is above text in 1 of 1" in separation
    assert "no difference is shown between image and multimodal" in separation
    assert "4 of the 7 declared could not be made" in separation
    assert "the image is shown to be used by 0 of 2" in use
    assert "99 permutations are too few to show any use" in use


def test_without_separation_no_choice_is_said_to_be_better(asked):
    asked.tables.comparisons["verdict"] = "not separated"
    separation = asked.answer()[1]
    assert "in none of the 3 declared comparisons do the figures separate" in separation
    assert "above" not in separation
    # seven were declared, and the test set holds 40 positives of 200
    assert "two single models would have to differ by about .16 (at AUROC .80)" in separation


def test_without_a_comparison_no_choice_is_said_to_be_better(asked):
    asked.tables.comparisons["p_holm"] = np.nan
    assert "none of the declared comparisons could be made" in asked.answer()[1]
    asked.tables.comparisons.drop(asked.tables.comparisons.index, inplace=True)
    assert "no two models were compared" in asked.answer()[1]


def test_one_model_has_no_highest_figure(asked):
    asked.done = [row for row in asked.done if row["name"] == "image-full-bce"]
    asked.study["members"] = [
        each for each in asked.study["members"] if each["name"] == "image-full-bce"
    ]
    asked.tables.comparisons.drop(asked.tables.comparisons.index, inplace=True)
    asked.tables.sensitivity.drop(asked.tables.sensitivity.index, inplace=True)
    subject, separation, use = asked.answer()
    assert subject.startswith("1 model was trained")
    assert separation.startswith("The AUROC is")
    assert use == "No model of this study reads both modalities, so that none could be shuffled."


def test_multimodal_models_without_a_shuffle_test_are_not_denied(asked):
    asked.tables.sensitivity.drop(asked.tables.sensitivity.index, inplace=True)
    assert asked.answer()[2] == "Which modality the multimodal models use was not tested."
    asked.done = [row for row in asked.done if row["modality"] != "multimodal"]
    assert asked.answer()[2].startswith("No multimodal model has finished")


def test_several_seeds_are_averaged_and_counted_by_arm(asked):
    first = [row for row in asked.done if row["name"] == "text-full-bce"]
    lucky = [{**row, "seed": 1, "name": f"{row['name']}-seed1", "auroc": 1.0} for row in first]
    lucky += [{**row, "seed": 2, "name": f"{row['name']}-seed2", "auroc": 0.0} for row in first]
    asked.done = [*first, *lucky]
    subject, separation, _ = asked.answer()
    assert "3 of 6 planned models (1 with 3 training seeds each) were" in subject
    assert "(text-full-bce, mean of 3 seeds)" in separation
    assert "is 1.0000" not in separation
    assert "of these trained models" not in separation


def test_patients_of_several_cohorts_are_not_added_up(asked):
    asked.cohorts = [{"manifest": {"patients": count}} for count in (500, 600)]
    asked.done[0] = {**asked.done[0], "test_set": "full", "n": 150}
    subject, separation, _ = asked.answer()
    assert "of 500 to 600 patients in each of 2 cohorts" in subject
    assert "150 to 200 test records" in subject
    assert separation.startswith("The highest AUROC, over test sets that differ,")
