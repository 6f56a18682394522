"""A cross-validation as its user runs it, on a real local Ray."""

import json

import pandas as pd
import pytest
from test_whole_sweep import children, finished, run_sweep

pytestmark = pytest.mark.slow

FOLDS = ["data.split.kind=kfold", "data.split.folds=3", "data.split.repeats=1"]
ASKED = ["--only", "dataset=full,loss=bce", "--set", *FOLDS, "data.max_bad_share=0.05"]


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    storage = tmp_path_factory.mktemp("folded")
    done = run_sweep(storage, *ASKED)
    assert done.returncode == 0, done.stderr
    return storage, done


def test_each_model_is_one_row_and_one_child_made_of_its_fits(folded):
    storage, done = folded
    study = storage / "studies" / "paper12"
    board = pd.read_csv(study / "leaderboard.csv")
    assert len(board) == 6  # three models on their own and on the full test set
    assert set(board["status"]) == {"done"}
    record = json.loads((study / "study.json").read_text())
    members = [m for m in record["members"] if m["dataset"] == "full" and m["loss"] == "bce"]
    assert [len(member["fits"]) for member in members] == [3, 3, 3]
    cohort = json.loads(next(storage.glob("prepared/*/manifest.json")).read_text())
    assert set(board["n"]) == {cohort["records"]}
    assert set(board["n_positive"]) == {cohort["positive"]}
    assert len(finished(storage)) == 3 + 9
    _, runs = children(storage)
    assert len([run for run in runs if "experiment_id" in run.data.tags]) == 3
    sentence = (
        f"3 of 12 planned models were cross-validated on made-up phantom data of "
        f"{cohort['patients']} patients, with 3 fits each, and scored out of fold on "
        f"{cohort['records']} test records, {cohort['positive']} of them positive"
    )
    assert sentence in " ".join((study / "report.html").read_text().split())


def test_shuffles_and_comparisons_are_made_over_folds(folded):
    storage, _ = folded
    study = storage / "studies" / "paper12"
    compared = pd.read_csv(study / "comparisons.csv").query("verdict != 'not compared'")
    assert set(compared["method"]) == {"corrected_resampled_t, 3 folds"}
    assert set(compared["metric"]) > {"auroc", "average_precision"}
    shuffled = pd.read_csv(study / "sensitivity.csv")
    assert {"image_shuffled", "text_shuffled"} <= set(shuffled["perturbation"])


def test_a_second_run_trains_nothing_and_another_repeat_only_its_own_fits(folded):
    storage, _ = folded
    before = {identity: path.stat().st_mtime_ns for identity, path in finished(storage).items()}
    again = run_sweep(storage, *ASKED)
    assert again.returncode == 0, again.stderr
    assert "9 there already, 0 to train" in again.stderr
    after = {identity: path.stat().st_mtime_ns for identity, path in finished(storage).items()}
    assert after == before
    repeated = [item.replace("repeats=1", "repeats=2") for item in ASKED]
    more = run_sweep(storage, *repeated, "--dry-run")
    assert "2 x 3 folds: 3 done, 3 to prepare and train" in more.stdout
