import json
import shutil

import numpy as np
import pandas as pd
import pytest
from folded_trials import FOLDS, REPEATS, FoldedTrials
from scipy import stats
from sklearn.metrics import roc_auc_score

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.evaluation.metrics import METRICS
from cxr_ray.report import fold_use
from cxr_ray.report.comparisons import compare_trials
from cxr_ray.report.cross_validation import out_of_fold_chances, score_cross_validation
from cxr_ray.report.fold_comparison import _test_to_train
from cxr_ray.report.leaderboard import collect_tables
from cxr_ray.report.out_of_fold import gather_fits, read_fits
from cxr_ray.report.paper_tables import leaderboard_table
from cxr_ray.report.scoring import score_folder
from cxr_ray.report.trial_folder import read_config, read_history, read_result

CONFIG = EvaluationConfig(permutations=99, bootstrap=200)
FITS = FOLDS * REPEATS
AXES = {"modality": ["multimodal"], "dataset": ["full"], "loss": ["bce", "focal"]}


@pytest.fixture
def folded(tmp_path):
    return FoldedTrials(tmp_path)


@pytest.fixture
def model(folded):
    member = folded.add("one", image=0.7, text=0.7)
    assert gather_fits(folded.trials, member)
    return member


def predictions_of(folded, member):
    return pd.read_parquet(folded.trials / member["experiment_id"] / "predictions.parquet")


def test_gathered_predictions_test_every_record_once_a_repeat(folded, model):
    frame = predictions_of(folded, model)
    tested = frame[frame["part"] == "test"]
    assert len(tested) == REPEATS * len(folded.label)
    assert (tested.groupby("repeat")["record_id"].nunique() == len(folded.label)).all()
    assert not tested.duplicated(["repeat", "record_id"]).any()
    assert set(zip(frame["repeat"], frame["fold"], strict=True)) == {
        (repeat, fold) for repeat in (1, 2) for fold in (1, 2, 3, 4)
    }


def test_a_gathered_folder_sums_up_how_its_fits_were_trained(folded, model):
    folder = folded.trials / model["experiment_id"]
    result = read_result(folder)
    assert result["epochs"] == np.mean(np.arange(FITS) + 2)
    assert result["train_seconds"] == 1.5 * FITS
    assert [fit["experiment_id"] for fit in result["fits"]] == [
        fit["experiment_id"] for fit in model["fits"]
    ]
    history = read_history(folder)
    assert [row["fits"] for row in history] == [8, 8, 7, 6, 5, 4, 3, 2, 1]
    assert history[3]["train_loss"] == pytest.approx(0.25)
    split = read_config(folder)["data"]["split"]
    assert (split["kind"], split["repeat"], split["fold"]) == ("kfold", None, None)


def test_a_model_is_gathered_when_its_last_fit_is_there_and_again_when_one_is_trained_anew(folded):
    member = folded.add("one", skip=(3,))
    assert not gather_fits(folded.trials, member)
    assert not (folded.trials / member["experiment_id"]).exists()
    shutil.rmtree(folded.trials)
    folded.trials.mkdir()
    member = folded.add("one")
    assert gather_fits(folded.trials, member)
    first = read_result(folded.trials / member["experiment_id"])["attempt"]
    path = folded.trials / member["fits"][3]["experiment_id"] / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "attempt": "another"}))
    assert gather_fits(folded.trials, member)
    assert read_result(folded.trials / member["experiment_id"])["attempt"] != first
    path.unlink()
    assert not gather_fits(folded.trials, member)
    assert not (folded.trials / member["experiment_id"]).exists()


def test_figures_are_means_over_folds_and_records_are_counted_once(folded, model):
    scores = score_folder(folded.trials / model["experiment_id"], CONFIG)
    full = scores["test_sets"]["full"]
    assert (full["n"], full["n_positive"]) == (400, 120)
    tested = predictions_of(folded, model).query("part == 'test'")
    areas = [roc_auc_score(f["label"], f["logit"]) for _, f in tested.groupby(["repeat", "fold"])]
    assert full["auroc"] == pytest.approx(np.mean(areas))
    called = (tested["logit"] >= 0) == tested["label"]
    by_fold = called.groupby([tested["repeat"], tested["fold"]]).mean()
    assert full["accuracy"] == pytest.approx(by_fold.mean())
    for name in METRICS:
        assert full[f"{name}_low"] <= full[name] <= full[f"{name}_high"], name
    assert full["auroc_method"] == "bootstrap_stratified, mean of 8 folds"
    # at each fit's own threshold the places of the fits do not matter
    assert full["f1_at_val"] > full["f1"] - 0.05
    assert full["recalibration"] == "logistic"
    assert full["brier_recalibrated"] < full["brier"]
    assert len(scores["net_benefit"]) == 20


def test_pictures_are_drawn_of_a_gathered_folder(folded, model):
    folder = folded.trials / model["experiment_id"]
    score_folder(folder, CONFIG)
    drawn = {path.name for path in (folder / "figures").iterdir()}
    assert drawn == {"roc.png", "precision_recall.png", "reliability.png", "confusion.png"}


def study_of(*members):
    return {"axes": AXES, "compare": {"loss": "bce"}, "members": list(members), "left_out": []}


def test_models_are_compared_fold_by_fold_with_the_corrected_t_test(folded):
    first, second = folded.add("a", image=2.5, loss="bce"), folded.add("b", image=0, loss="focal")
    assert all(gather_fits(folded.trials, each) for each in (first, second))
    table = compare_trials(folded.trials, study_of(first, second), {}, CONFIG)
    row = table[table["metric"] == "auroc"].iloc[0]
    areas = []
    for member in (second, first):
        tested = predictions_of(folded, member).query("part == 'test'")
        folds = tested.groupby(["repeat", "fold"])
        areas.append([roc_auc_score(f["label"], f["logit"]) for _, f in folds])
    differences = np.subtract(*areas)
    # 100 tested; of the other 300 an eighth validates, and the rest is trained on
    error = differences.std(ddof=1) * np.sqrt(1 / FITS + 100 / 262.5)
    assert row["difference"] == pytest.approx(differences.mean())
    p_value = 2 * stats.t.sf(abs(differences.mean()) / error, FITS - 1)
    assert row["p_value"] == pytest.approx(p_value, rel=0.02)
    assert row["method"] == "corrected_resampled_t, 2 x 4 folds"
    assert row["verdict"] == "b higher"
    assert set(table["metric"]) > {"f1_at_val", "average_precision"}


def test_a_validation_part_that_is_in_no_fold_is_neither_tested_nor_counted_as_training(tmp_path):
    kept = np.arange(400) % 10 == 0
    folded = FoldedTrials(tmp_path, kept=kept)
    member = folded.add("a")
    assert gather_fits(tmp_path, member)
    tested = predictions_of(folded, member).query("part == 'test'")["record_id"]
    assert set(tested) == {f"r{number}" for number in np.flatnonzero(~kept)}
    fits = read_fits(tmp_path / member["experiment_id"])
    # 90 of 360 are tested, and the other 270 trained on
    assert _test_to_train(fits) == pytest.approx(90 / 270)


def test_folds_are_averaged_over_training_seeds(folded):
    members = [
        folded.add(name, loss=loss, seed=seed)
        for name, loss in (("a", "bce"), ("b", "focal"))
        for seed in (0, 1)
    ]
    assert all(gather_fits(folded.trials, each) for each in members)
    row = compare_trials(folded.trials, study_of(*members), {}, CONFIG).iloc[0]
    assert row["method"] == "corrected_resampled_t, 2 x 4 folds, 2 seeds"


def test_a_model_with_a_failed_fit_has_no_figures_and_says_why(folded):
    member = folded.add("one", skip=(3,), loss="focal")
    ended = {member["experiment_id"]: {"status": "failed", "reason": "1 of its fits failed"}}
    tables = collect_tables(folded.trials, study_of(member), ended, CONFIG)
    assert tables.leaderboard["status"].tolist() == ["failed"]
    assert "1 of its fits failed" in tables.comparisons["method"].iloc[0]


def test_the_leaderboard_has_one_row_a_model_and_test_set(folded, model):
    other = folded.add("two", loss="focal")
    assert gather_fits(folded.trials, other)
    tables = collect_tables(folded.trials, study_of(model, other), {}, CONFIG)
    assert tables.leaderboard.groupby("experiment_id").size().tolist() == [2, 2]
    assert (tables.leaderboard["n"] == 400).all()


def used(scores, perturbation, metric="auroc"):
    return next(
        row
        for row in scores["sensitivity"]
        if row["perturbation"] == perturbation and row["metric"] == metric
    )


def test_a_modality_is_shuffled_within_folds_and_its_drop_averaged(folded):
    member = folded.add("one", image=0.0, text=1.5)
    assert gather_fits(folded.trials, member)
    folder = folded.trials / member["experiment_id"]
    scores = score_folder(folder, CONFIG)
    image, text = used(scores, "image_shuffled"), used(scores, "text_shuffled")
    full = scores["test_sets"]["full"]
    assert image["intact"] == text["intact"] == pytest.approx(full["auroc"])
    assert text["drop"] > 0.2
    assert text["p_value"] == 2 / 100  # twice the median of two repeats' smallest
    assert text["low"] < text["drop"] < text["high"]
    assert abs(image["drop"]) < 0.05
    assert image["p_value"] > 0.1
    shapley = {
        row["modality"]: row["value"]
        for row in scores["contribution"]
        if row["measure"] == "shapley"
    }
    assert shapley["image"] + shapley["text"] == pytest.approx(shapley["both"], abs=1e-9)
    assert shapley["both"] == pytest.approx(full["auroc"] - 0.5)
    shares = [r["value"] for r in scores["contribution"] if r["measure"] == "variance_share"]
    assert sum(shares) == pytest.approx(1)
    assert used(scores, "text_missing")["drop"] > 0.2
    within = used(scores, "text_shuffled_within_class")
    assert within["intact"] == pytest.approx(full["auroc"])


def test_any_heads_are_run_fit_by_fit_as_an_additive_one_is_added_up(folded, monkeypatch):
    member = folded.add("one", image=1.0, text=1.0)
    assert gather_fits(folded.trials, member)
    folder = folded.trials / member["experiment_id"]
    added = score_cross_validation(folder, CONFIG, 1)
    monkeypatch.setattr(fold_use, "ADDITIVE_KINDS", ())
    run = score_cross_validation(folder, CONFIG, 1)
    for perturbation in ("image_shuffled", "text_shuffled"):
        one, other = (used(each, perturbation) for each in (added, run))
        assert other["intact"] == pytest.approx(one["intact"])
        assert other["drop"] == pytest.approx(one["drop"], abs=1e-9)
        assert other["p_value"] == one["p_value"]


def test_probabilities_are_recalibrated_by_the_line_of_their_own_fit(folded, model):
    label, before, after = out_of_fold_chances(folded.trials / model["experiment_id"])
    scores = score_folder(folded.trials / model["experiment_id"], CONFIG)["test_sets"]["full"]
    assert len(label) == REPEATS * 400
    # folds hold 100 records each, so that the mean over folds is the mean over records
    assert np.mean((before - label) ** 2) == pytest.approx(scores["brier"])
    assert np.mean((after - label) ** 2) == pytest.approx(scores["brier_recalibrated"])


def test_the_printed_leaderboard_says_that_its_figures_are_means_over_folds(folded, model):
    tables = collect_tables(folded.trials, study_of(model), {}, CONFIG)
    text = " ".join(leaderboard_table(tables.leaderboard).to_text().split())
    assert "Figures are the mean of 8 folds, each read by itself" in text
    assert " 400 120 " in text
