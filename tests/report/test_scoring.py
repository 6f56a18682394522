import json

import numpy as np
import pandas as pd
import pytest
import torch
from prepared_phantom import tiny_config
from safetensors.torch import load_file

from cxr_ray.data.batches import Batch, collate
from cxr_ray.evaluation.permutation import permute_records
from cxr_ray.evaluation.ranking import auroc
from cxr_ray.report.scoring import score_folder
from cxr_ray.report.study_tables import sensitivity_table
from cxr_ray.report.trial_folder import read_features, read_predictions
from cxr_ray.training.loop import score
from cxr_ray.training.trial import build_classifier, run_job
from cxr_ray.training.world import World

REPEATS = 19


@pytest.fixture(scope="module")
def config():
    return tiny_config(evaluation__permutations=REPEATS, evaluation__bootstrap=100)


@pytest.fixture(scope="module")
def folder(phantom, config):
    """A finished multimodal trial."""
    job = phantom.job(config)
    run_job(job, World(), lambda row: None)
    return phantom.storage.trials / job.experiment_id


def permuted_logits(model, arm, own, others, modality):
    """Logits of whole forward passes, one modality taken from other records."""
    kept = collate(arm, own, torch.device("cpu"), torch.float32)
    taken = collate(arm, others, torch.device("cpu"), torch.float32)
    image = taken if modality == "image" else kept
    text = taken if modality == "text" else kept
    with torch.no_grad():
        return model(Batch(kept.label, image.image, text.tokens, text.attention)).double().numpy()


@pytest.mark.parametrize("modality", ["image", "text"])
def test_cached_features_give_what_permuted_batches_through_the_whole_model_give(
    folder, phantom, config, modality
):
    arm = phantom.arm(config)
    model = build_classifier(config, arm, World())
    model.load_state_dict(load_file(folder / "model" / "model.safetensors"))
    model.eval()
    predictions, features = read_predictions(folder), read_features(folder)
    rows = predictions.rows("test", "full")
    records = np.flatnonzero(arm.part == "test")
    assert arm.record_id[records].tolist() == predictions.record_id[rows].tolist()

    identity = int(folder.name, 16)
    rng = np.random.default_rng([identity, ["image", "text"].index(modality)])
    weight, bias = features["head.linear.weight"][0], features["head.linear.bias"][0]
    image, text = features["image"][rows], features["text"][rows]
    slow_aurocs = []
    for _ in range(REPEATS):
        (order,) = permute_records(np.arange(len(records))[None], rng)
        slow = permuted_logits(model, arm, records, records[order], modality)
        pair = [image[order], text] if modality == "image" else [image, text[order]]
        cached = np.concatenate(pair, axis=1).astype(float) @ weight + bias
        assert np.abs(cached - slow).max() <= 1e-5
        slow_aurocs.append(auroc(arm.label[records], slow))

    scores = score_folder(folder, config.evaluation)
    (row,) = [
        row
        for row in scores["sensitivity"]
        if row["perturbation"] == f"{modality}_shuffled" and row["metric"] == "auroc"
    ]
    assert row["repeats"] == REPEATS
    assert row["perturbed"] == pytest.approx(np.mean(slow_aurocs), abs=1e-3)
    intact = permuted_logits(model, arm, records, records, modality)
    assert row["intact"] == pytest.approx(auroc(arm.label[records], intact), abs=1e-3)
    at_least = sum(value >= row["intact"] - 1e-12 for value in slow_aurocs)
    assert row["p_value"] == pytest.approx((1 + at_least) / (REPEATS + 1))


def test_the_features_mean_over_the_training_part_is_kept_for_what_is_missing(
    folder, phantom, config
):
    arm = phantom.arm(config)
    model = build_classifier(config, arm, World())
    model.load_state_dict(load_file(folder / "model" / "model.safetensors"))
    trained = score(config, arm, model, arm.indices("train", own=True), World())
    features = read_features(folder)
    for modality in ("image", "text"):
        mean = features[f"train_mean.{modality}"]
        assert mean.dtype == np.float32
        np.testing.assert_allclose(mean, trained.features[modality].mean(0), atol=1e-5)


def test_every_way_of_taking_a_modality_away_is_scored_with_an_interval(folder, config):
    scores = score_folder(folder, config.evaluation)
    auroc_rows = {
        row["perturbation"]: row for row in scores["sensitivity"] if row["metric"] == "auroc"
    }
    assert set(auroc_rows) == {
        f"{modality}_{how}"
        for modality in ("image", "text")
        for how in ("shuffled", "shuffled_within_class", "missing")
    }
    for name, row in auroc_rows.items():
        assert (row["p_value"] is None) == name.endswith("missing")
        assert row["low"] <= row["high"]
    contribution = {(r["measure"], r["modality"], r["metric"]): r for r in scores["contribution"]}
    assert len(contribution) == len(scores["contribution"]) == 3 + 10 + 6 + 3
    shapley = [contribution["shapley", m, "auroc"] for m in ("image", "text", "both")]
    assert abs(shapley[0]["value"] + shapley[1]["value"] - shapley[2]["value"]) < 1e-9
    assert shapley[2]["value"] == pytest.approx(auroc_rows["image_shuffled"]["intact"] - 0.5)
    # 19 permutations cannot reach the p-value that the verdict asks for
    assert shapley[0]["verdict"] == shapley[1]["verdict"] == "not shown to be used"
    assert shapley[2]["verdict"] is None


def test_a_folder_without_training_means_is_scored_for_all_but_what_is_missing(
    folder, config, tmp_path
):
    copied = tmp_path / "earlier"
    copied.mkdir()
    for name in ("predictions.parquet", "result.json"):
        (copied / name).write_bytes((folder / name).read_bytes())
    later = ("train_mean.", "probe.")
    kept = {k: v for k, v in read_features(folder).items() if not k.startswith(later)}
    np.savez(copied / "features.npz", **kept)
    found = score_folder(copied, config.evaluation)
    whole = score_folder(folder, config.evaluation)
    assert found["sensitivity"] == [r for r in whole["sensitivity"] if r["repeats"]]
    assert found["contribution"] == whole["contribution"][:13]


def test_the_printed_table_shows_the_shuffles_across_patients(folder, config):
    scores = score_folder(folder, config.evaluation)
    sensitivity = pd.DataFrame(scores["sensitivity"]).assign(experiment_id=folder.name)
    (row,) = sensitivity_table(sensitivity, {folder.name: "it"}).rows
    shuffled = sensitivity.set_index(["perturbation", "metric"])["drop"]
    assert row[2].startswith(f"{shuffled['image_shuffled', 'auroc']:.3f}")
    assert row[4].startswith(f"{shuffled['text_shuffled', 'auroc']:.3f}")


def test_the_printed_caption_names_the_permutations_of_all_heads(folder, config):
    scores = score_folder(folder, config.evaluation)
    table = pd.DataFrame(scores["sensitivity"]).assign(experiment_id=folder.name)
    more = table.assign(experiment_id="other", repeats=1999)
    fewer, names = int(table["repeats"].max()), {folder.name: "it", "other": "other"}
    said = sensitivity_table(pd.concat([table, more]), names).caption
    assert f"mean of {fewer} to 1999 permutations" in said


def test_scoring_again_changes_no_byte_and_draws_nothing(folder, config):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    score_folder(folder, config.evaluation)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_another_recipe_is_scored_anew_without_touching_the_result(folder, config, tmp_path):
    (recipe,) = folder.glob("scores-*.json")
    kept = recipe.read_text()
    result = (folder / "result.json").read_bytes()
    finer = config.evaluation.model_copy(update={"permutations": 29})
    scores = score_folder(folder, finer)
    assert {row["repeats"] for row in scores["sensitivity"]} == {29, 0}
    assert (folder / "result.json").read_bytes() == result
    again = score_folder(folder, config.evaluation)
    assert again == json.loads(kept) == json.loads(recipe.read_text())


def test_the_scores_follow_from_predictions_and_features_alone(folder, config, tmp_path):
    copied = tmp_path / "elsewhere"
    copied.mkdir()
    for name in ("predictions.parquet", "features.npz", "result.json"):
        (copied / name).write_bytes((folder / name).read_bytes())
    ours = score_folder(copied, config.evaluation)
    assert ours == score_folder(folder, config.evaluation)


def test_a_model_of_one_modality_has_no_sensitivity_to_the_other(phantom):
    config = tiny_config(
        fusion__modalities="image",
        train__max_epochs=1,
        data__majority_share=0.6,
        evaluation__bootstrap=100,
    )
    job = phantom.job(config)
    run_job(job, World(), lambda row: None)
    folder = phantom.storage.trials / job.experiment_id
    scores = score_folder(folder, config.evaluation)
    assert scores["sensitivity"] == scores["contribution"] == []
    own, full = (scores["test_sets"][name] for name in ("own", "full"))
    assert own["n"] < full["n"]
    assert own["n_positive"] == full["n_positive"]
    assert set(read_features(folder)) == {
        "kind",
        "image",
        "train_mean.image",
        "head.linear.weight",
        "head.linear.bias",
    }
