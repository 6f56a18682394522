"""The paper's profile from local checkpoints to a whole trial folder, in one process."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from local_checkpoints import write_bert, write_resnet
from prepared_phantom import tiny_config
from safetensors.torch import load_file

from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.prepared import read_cohort
from cxr_ray.errors import TrialStopped
from cxr_ray.lease import acquire_lease
from cxr_ray.report.trial_folder import read_features, read_history, read_predictions
from cxr_ray.training.trial import run_job
from cxr_ray.training.world import World

TINY_PHANTOM = {"phantom__patients": 200, "phantom__positive_share": 0.2}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return write_resnet(folder / "resnet50.pth"), write_bert(folder / "bert")


@pytest.fixture(scope="module")
def config(checkpoints):
    resnet, bert = checkpoints
    return tiny_config(
        "paper",
        image__weights=str(resnet),
        image__size=64,
        text__encoder=str(bert),
        text__max_tokens=64,
        train__max_epochs=1,
        evaluation__permutations=99,
        evaluation__bootstrap=100,
        **TINY_PHANTOM,
    )


@pytest.fixture(scope="module")
def trial(phantom, config):
    """A finished trial: its folder, its job and what it reported."""
    rows = []
    job = phantom.job(config)
    run_job(job, World(), rows.append)
    return phantom.storage.trials / job.experiment_id, job, rows


def test_the_profile_is_the_papers_model(config):
    assert config.image.encoder == "resnet50"
    assert config.image.freeze == ("conv1", "layer1", "layer2")
    assert (config.image.features, config.text.features) == (256, 256)
    assert (config.train.batch, config.train.lr, config.train.patience) == (64, 1e-4, 3)
    assert (config.text.sections, config.text.mask) == (("full",), "none")


def test_a_finished_trial_holds_the_files_of_the_contract_and_nothing_stays_running(trial, phantom):
    folder, job, rows = trial
    names = {path.name for path in folder.iterdir()}
    assert {name for name in names if not name.startswith("scores-")} == {
        "config.yaml",
        "result.json",
        "history.csv",
        "predictions.parquet",
        "features.npz",
        "model",
        "figures",
        "saliency.npz",
    }
    figures = {path.name for path in (folder / "figures").iterdir()}
    assert figures == {"roc.png", "precision_recall.png", "reliability.png", "confusion.png"}
    assert not (phantom.storage.running / job.experiment_id).exists()
    assert len(rows) == 1


def test_the_frozen_prefix_is_the_checkpoints_to_the_bit_and_the_rest_was_trained(
    trial, checkpoints
):
    trained = load_file(trial[0] / "model" / "model.safetensors")
    start = torch.load(checkpoints[0], weights_only=True)
    start["conv1.weight"] = start["conv1.weight"].sum(1, keepdim=True)
    checked = 0
    for name, value in start.items():
        if name.startswith("fc."):
            continue
        now = trained[f"encoders.image.backbone.{name}"]
        frozen = name.startswith(("conv1.", "bn1.", "layer1.", "layer2."))
        assert torch.equal(now, value) is frozen, name
        checked += frozen
    assert checked > 100
    assert not trained["encoders.image.backbone.bn1.num_batches_tracked"]
    bert = load_file(checkpoints[1] / "model.safetensors")
    moved = [
        name
        for name, value in bert.items()
        if not name.startswith("pooler.")
        and not torch.equal(trained[f"encoders.text.bert.{name}"], value)
    ]
    assert len(moved) > 20


def test_the_config_of_a_trial_reads_back_as_the_experiment(trial, config):
    read = yaml.safe_load((trial[0] / "config.yaml").read_text())
    assert ExperimentConfig.model_validate(read) == config


def test_the_result_says_what_was_trained_where_and_for_how_long(trial, phantom, config):
    folder, job, _ = trial
    result = json.loads((folder / "result.json").read_text())
    assert result["experiment_id"] == job.experiment_id
    assert (result["epochs"], result["best_epoch"]) == (1, 0)
    assert 0 <= result["train_accuracy"] <= 1
    assert result["compute"] == {
        "device": "cpu",
        "precision": "float32",
        "channels_last": False,
        "compile": False,
        "fused_optimizer": False,
        "pinned_copies": False,
        "workers": 1,
        "cpus_per_worker": 1,
    }
    assert result["parameters_trained"] < result["parameters"]
    assert result["n_train"] == len(phantom.arm(config).indices("train", own=True))
    history = read_history(folder)
    assert len(history) == 1
    assert history[0]["val_loss"] > 0


def test_predictions_are_every_val_and_test_record_without_text_or_patient_ids(
    trial, phantom, config
):
    folder, job, _ = trial
    table = pq.read_table(folder / "predictions.parquet")
    assert table.column_names == [
        "record_id",
        "group",
        "part",
        "in_own",
        "label",
        "logit",
        "probability",
    ]
    predictions = read_predictions(folder)
    arm = phantom.arm(config)
    wanted = np.flatnonzero(np.isin(arm.part, ["val", "test"]))
    assert predictions.record_id.tolist() == arm.record_id[wanted].tolist()
    assert predictions.label.tolist() == arm.label[wanted].tolist()
    assert predictions.logit.dtype == predictions.probability.dtype == np.float64
    assert np.allclose(predictions.probability, 1 / (1 + np.exp(-predictions.logit)))
    cohort = read_cohort(phantom.storage.prepared / job.keys["cohort"])
    secrets = [*cohort["patient"], *cohort["record"]]
    for path in folder.rglob("*"):
        assert not any(secret in path.name for secret in secrets)
        if path.suffix in {".json", ".csv", ".yaml", ".parquet"}:
            content = path.read_bytes()
            assert not any(re.search(rb"\b%s\b" % secret.encode(), content) for secret in secrets)


def test_features_and_head_give_the_logits_again(trial):
    features = read_features(trial[0])
    predictions = read_predictions(trial[0])
    count = len(predictions.label)
    for modality in ("image", "text"):
        assert features[modality].shape == (count, 256)
        assert features[modality].dtype == np.float32
        assert features[f"train_mean.{modality}"].shape == (256,)
        assert features[f"train_mean.{modality}"].dtype == np.float32
    joined = np.concatenate([features["image"], features["text"]], axis=1).astype(float)
    logits = joined @ features["head.linear.weight"][0] + features["head.linear.bias"][0]
    assert np.abs(logits - predictions.logit).max() < 1e-5


def test_scores_cover_both_test_sets_and_both_shuffles(trial):
    (path,) = trial[0].glob("scores-*.json")
    scores = json.loads(path.read_text())
    assert scores["test_sets"]["own"] == scores["test_sets"]["full"]
    shuffles = {row["perturbation"] for row in scores["sensitivity"]}
    assert shuffles >= {"image_shuffled", "text_shuffled"}


def test_an_attempt_that_lost_its_lease_commits_nothing(phantom):
    config = tiny_config(fusion__modalities="text", train__max_epochs=1, train__seed=77)
    job = phantom.job(config, driver="first")
    folder = phantom.storage.running / job.experiment_id
    acquire_lease(folder, "first")  # the same driver started it anew
    with pytest.raises(TrialStopped, match="another attempt holds|asked to stop"):
        run_job(job, World(), lambda row: None)
    assert not (phantom.storage.trials / job.experiment_id).exists()
