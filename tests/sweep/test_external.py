"""Testing trained models on another source: here, without Ray, on small phantoms."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from prepared_phantom import PreparedPhantom, quiet, tiny_config

from cxr_ray.cleaning import survey
from cxr_ray.config.layers import parse_assignments
from cxr_ray.config.schema import DataConfig
from cxr_ray.data.fan_out import run_here
from cxr_ray.data.sources.external import ExternalSource
from cxr_ray.errors import InputError
from cxr_ray.evaluation.ranking import auroc
from cxr_ray.report.external import score_external
from cxr_ray.report.trial_folder import read_features, read_predictions
from cxr_ray.storage import Storage
from cxr_ray.sweep.external import ExternalOptions, run_external
from cxr_ray.sweep.external_plan import OtherSource
from cxr_ray.training.trial import run_job
from cxr_ray.training.world import World

ARMS = {"multimodal": ("image", "text"), "image": ("image",), "text": ("text",)}
QUICK = {"train__max_epochs": 1, "evaluation__permutations": 19, "evaluation__bootstrap": 100}
OTHER = ("phantom.seed=1", "phantom.patients=120", "data.max_bad_share=.05")


def config_of(arm):
    return tiny_config(fusion__modalities=list(ARMS[arm]), **QUICK)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a study of three arms, trained in this process."""
    trained = PreparedPhantom(Storage.open(str(tmp_path_factory.mktemp("storage"))))
    members = []
    for arm in ARMS:
        job = trained.job(config_of(arm))
        run_job(job, World(), quiet)
        member = {"experiment_id": job.experiment_id, "name": f"{arm}-full-bce", "modality": arm}
        members.append({**member, "dataset": "full", "loss": "bce", "seed": 0, "further": {}})
    folder = trained.storage.studies / "small"
    folder.mkdir()
    record = {
        "name": "small",
        "uuid": "u",
        "title": "small",
        "profile": "tiny",
        "grid": "small",
        "axes": {"modality": list(ARMS)},
        "compare": {"modality": "multimodal"},
        "data": "phantom",
        "source": "phantom",
        "data_key": "d",
        "cohorts": [trained.keys(config_of("image")).cohort],
        "members": members,
        "left_out": [],
        "evaluation": config_of("image").evaluation.model_dump(mode="json"),
        "version": "0",
        "git_commit": None,
        "command": "python launch/sweep.py",
    }
    (folder / "study.json").write_text(json.dumps(record))
    return folder


def trial_of(study, arm):
    members = json.loads((study / "study.json").read_text())["members"]
    (identity,) = [each["experiment_id"] for each in members if each["modality"] == arm]
    return study.parents[1] / "trials" / identity


def external(folder, *overrides, data="phantom", **options):
    asked = ExternalOptions(folder=folder, data=data, overrides=overrides, **options)
    return run_external(asked, quiet, fan_out=run_here)


@pytest.fixture(scope="module")
def tested(study):
    """The study after its three models were tested on another phantom."""
    return external(study, *OTHER, name="other")


@pytest.mark.parametrize("arm", ARMS)
def test_the_records_that_a_model_was_tested_on_get_the_same_logits_again(study, arm):
    trial = trial_of(study, arm)
    external(trial, name="again")
    own, again = read_predictions(trial), read_predictions(trial / "external" / "again")
    test = own.part == "test"
    assert test.sum() > 30
    assert again.record_id.tolist() == own.record_id[test].tolist()
    assert again.group.tolist() == own.group[test].tolist()
    assert again.label.tolist() == own.label[test].tolist()
    assert np.abs(again.logit - own.logit[test]).max() <= 1e-6
    features, before = read_features(trial / "external" / "again"), read_features(trial)
    for modality in ARMS[arm]:
        np.testing.assert_allclose(features[modality], before[modality][test], atol=1e-5)


def test_patients_of_the_training_and_validation_parts_are_left_out_and_counted(study):
    trial = trial_of(study, "image")
    external(trial, name="again")
    found = json.loads((trial / "external" / "again" / "external.json").read_text())
    (step,) = [each for each in found["flow"] if "training or validation" in each["rule"]]
    trained = json.loads(
        (
            study.parents[1]
            / "prepared"
            / json.loads((trial / "result.json").read_text())["keys"]["cohort"]
            / "manifest.json"
        ).read_text()
    )["parts"]
    assert step["dropped"] >= trained["train"]["n"] + trained["val"]["n"]
    assert found["manifest"]["parts"]["test"] == trained["test"]


def test_every_model_is_tested_on_all_records_of_the_other_source(study, tested):
    board = pd.read_csv(study / "leaderboard.csv", dtype={"experiment_id": str})
    rows = board[board["test_set"] == "external:other"]
    assert set(rows["modality"]) == set(ARMS)
    assert (rows["n"] == 118).all()  # of 120 one has no report, and one a corrupt image
    for row in rows.to_dict("records"):
        predictions = read_predictions(
            study.parents[1] / "trials" / row["experiment_id"] / "external" / "other"
        )
        assert set(predictions.part) == {"test"}
        assert row["n_positive"] == predictions.label.sum()
        assert row["auroc"] == pytest.approx(auroc(predictions.label, predictions.logit))


def test_thresholds_come_from_the_training_sources_validation_part(study, tested):
    board = pd.read_csv(study / "leaderboard.csv").set_index(["modality", "test_set"])
    for arm in ARMS:
        internal, other = board.loc[(arm, "full")], board.loc[(arm, "external:other")]
        assert other["threshold_at_val"] == internal["threshold_at_val"]


def test_a_tokenizer_trained_on_the_reports_of_the_training_is_the_one_that_reads_the_others(
    study, tested
):
    prepared = study.parents[1] / "prepared"
    trial = trial_of(study, "text")
    keys = json.loads((trial / "external" / "other" / "external.json").read_text())["keys"]
    trained = json.loads((trial / "result.json").read_text())["keys"]
    assert keys["tokenizer"] == trained["tokenizer"]
    assert keys["tokenizer_cohort"] == trained["cohort"] != keys["cohort"]
    assert not list((prepared / keys["cohort"]).glob("tokenizer-*"))
    assert len(list(prepared.glob("*/tokenizer-*"))) == 1


def test_rows_of_external_tests_come_last_and_the_study_keeps_its_own(study, tested):
    board = pd.read_csv(study / "leaderboard.csv")
    is_external = board["test_set"].str.startswith("external:")
    assert is_external.is_monotonic_increasing
    assert board.loc[~is_external, "test_set"].tolist() == ["own", "full"] * 3
    sensitivity = pd.read_csv(study / "sensitivity.csv")
    rows = sensitivity[sensitivity["test_set"] == "external:other"]
    assert set(rows["modality"]) == {"multimodal"}
    assert {"image_shuffled", "text_missing"} <= set(rows["perturbation"])
    assert not pd.read_csv(study / "comparisons.csv")["test_set"].str.startswith("external").any()


def test_the_page_shows_internal_beside_external_figures_and_the_flow(study, tested):
    table = pd.read_csv(study / "external.csv")
    board = pd.read_csv(study / "leaderboard.csv").set_index(["experiment_id", "test_set"])
    row = table[table["test_set"] == "external:other"].iloc[0]
    assert row["internal_auroc"] == board.loc[(row["experiment_id"], "full"), "auroc"]
    assert row["auroc"] == board.loc[(row["experiment_id"], "external:other"), "auroc"]
    assert row["prevalence"] == row["n_positive"] / row["n"]
    page = (study / "report.html").read_text()
    assert 'data-csv="external.csv"' in page
    assert f'data-column="internal_auroc" data-value="{row["internal_auroc"]}"' in page
    assert "Selection flow of other" in page


def test_a_finished_test_is_not_repeated(study, tested, monkeypatch):
    before = {
        path: path.stat().st_mtime_ns for path in study.parents[1].glob("trials/*/external/other/*")
    }
    assert before
    again = external(study, *OTHER, name="other")
    assert again.text == tested.text
    assert {path: path.stat().st_mtime_ns for path in before} == before


def offered_packs(storage):
    """What freeing packs would take of a storage in which nothing has changed for long."""
    for path in [storage.root, *storage.root.rglob("*")]:
        os.utime(path, (0, 0))
    return {each.path.name for each in survey(storage) if each.free == "packs"}


def test_a_first_model_may_take_hours_before_a_result_names_the_cohort_it_reads(study, monkeypatch):
    storage, seen = Storage(study.parents[1]), []

    def interrupted(storage, trial, name, config, keys, *_):
        seen.append((keys.cohort, offered_packs(storage)))
        raise KeyboardInterrupt

    monkeypatch.setattr("cxr_ray.training.external.evaluate_trial", interrupted)
    with pytest.raises(KeyboardInterrupt):
        external(study, "phantom.seed=2", "phantom.patients=110", *OTHER[2:], name="long")
    ((cohort, offered),) = seen
    assert not offered
    assert cohort in offered_packs(storage)
    assert not list(storage.running.glob("external-*"))


def test_links_of_the_other_source_are_followed_only_where_the_command_says_so(tmp_path):
    trained = tiny_config(data__follow_links=True)
    options = ExternalOptions(tmp_path, "phantom")
    for overrides, followed in ((), False), (("data.follow_links=true",), True):
        opened = OtherSource(Storage(tmp_path), options, parse_assignments(overrides))
        assert opened.config_for(trained).data.follow_links is followed


def test_a_name_stands_for_one_cohort(study, tested):
    with pytest.raises(InputError, match="tested on another cohort under the name other; give"):
        external(study, "phantom.seed=2", "data.max_bad_share=.05", name="other")


def test_models_that_the_source_cannot_feed_are_named(study, tmp_path):
    phantom = next((study.parents[1] / "prepared").glob("phantom-*"))
    bare = tmp_path / "images"
    shutil.copytree(phantom, bare, ignore=shutil.ignore_patterns("reports"))
    outcome = external(study, "data.max_bad_share=.05", data=f"mimic:{bare}", name="bare")
    assert outcome.skipped == {
        "multimodal-full-bce": "mimic has no text",
        "text-full-bce": "mimic has no text",
    }
    assert (trial_of(study, "image") / "external" / "bare").is_dir()


def test_radiologists_labels_are_tested_without_whom_the_models_have_seen(study, tmp_path):
    phantom = PreparedPhantom(Storage(study.parents[1])).source(config_of("image")).root.uri
    folder = tmp_path / "mimic"
    shutil.copytree(phantom, folder)
    keys = json.loads((trial_of(study, "image") / "result.json").read_text())["keys"]
    cohort = pd.read_csv(study.parents[1] / "prepared" / keys["cohort"] / "cohort.csv", dtype=str)
    labelled = cohort.groupby(["part", "label"]).head(5)
    positive = labelled["label"] == "1"
    labelled = labelled.assign(study_id=labelled["record"], Pneumonia=positive * 1.0)
    labelled["No Finding"] = (~positive).map({True: 1.0, False: None})
    table = labelled[["study_id", "Pneumonia", "No Finding"]]
    table.to_csv(folder / "mimic-cxr-2.1.0-test-set-labeled.csv", index=False)
    outcome = external(study, "cohort.labels=radiologist", data=f"mimic:{folder}")
    assert outcome.name == "mimic-radiologist"
    assert not outcome.skipped
    (warning,) = outcome.warnings
    assert "were not trained with data.split.kind=official" in warning
    tested = trial_of(study, "text") / "external" / "mimic-radiologist"
    assert set(read_predictions(tested).record_id) == set(
        labelled.loc[labelled["part"] == "test", "record_id"]
    )
    found = json.loads((tested / "external.json").read_text())
    assert found["warnings"] == [warning]
    (step,) = [each for each in found["flow"] if "training or validation" in each["rule"]]
    assert step["dropped"] == (labelled["part"] != "test").sum()


def test_a_cross_validated_model_is_no_single_model_and_a_searchs_trial_no_tested_one(
    study, tmp_path
):
    storage = tmp_path / "storage"
    shutil.copytree(study.parents[1], storage)
    result = storage / "trials" / trial_of(study, "image").name / "result.json"
    content = json.loads(result.read_text())
    result.write_text(json.dumps({**content, "parts": ["val"]}))
    with pytest.raises(InputError, match="a search's trial, which leaves the test part alone"):
        external(result.parent, name="untested")
    result.write_text(json.dumps({**content, "fits": [{"experiment_id": "f"}]}))
    with pytest.raises(InputError, match="it is cross-validated, and none of its fits is the mod"):
        external(result.parent, name="folds")


def test_a_fit_of_a_cross_validation_leaves_out_whom_that_fit_has_seen(study):
    keys = json.loads((trial_of(study, "image") / "result.json").read_text())["keys"]
    trained = study.parents[1] / "prepared" / keys["cohort"]
    split = {"kind": "kfold", "folds": 5, "repeat": 1}
    source = PreparedPhantom(Storage(study.parents[1])).source(config_of("image"))
    tested, fingerprints = [], set()
    for fold in range(1, 6):
        divided = DataConfig.model_validate({"split": {**split, "fold": fold}})
        fit = ExternalSource(source, trained, divided)
        fingerprints.add(fit.fingerprint())
        tested.append(set(fit.select(config_of("image"))[0]["record"]))
    cohort = set(pd.read_csv(trained / "cohort.csv", dtype=str)["record"])
    assert cohort <= set().union(*tested)
    assert sum(len(each & cohort) for each in tested) == len(cohort)
    assert len(fingerprints) == 5


@pytest.mark.slow
def test_mlflow_holds_the_figures_of_external_tests(study, tested, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)  # where a database of one's own puts artifacts
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    external(study, *OTHER, name="other", mlflow_uri=uri)
    client = MlflowClient(uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == "small"]
    runs = client.search_runs([experiment.experiment_id])
    board = pd.read_csv(study / "leaderboard.csv", dtype={"experiment_id": str})
    board = board[board["test_set"] == "external:other"].set_index("experiment_id")
    children = [run for run in runs if "experiment_id" in run.data.tags]
    assert len(children) == len(ARMS)
    for run in children:
        row = board.loc[run.data.tags["experiment_id"]]
        assert run.data.metrics["external_other/auroc"] == pytest.approx(row["auroc"])


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ("image.size=48",),
            "--set image.size: the model keeps the value that it was trained with",
        ),
        (("cohort.positive=relaxed",), "cohort.positive is set, and phantom data does not read it"),
        (("phantom.seed=1", "cohort.label=Edema"), "no record is left|two classes needed"),
    ],
)
def test_what_cannot_be_set_or_selected_is_refused(study, overrides, sentence):
    with pytest.raises(InputError, match=sentence):
        external(study, *overrides, name="refused")


def test_folders_that_are_no_trial_or_study_are_refused(study, tmp_path):
    with pytest.raises(InputError, match="holds neither study.json nor result.json"):
        external(tmp_path)
    with pytest.raises(InputError, match="is no folder: give one of"):
        external(tmp_path / "absent")
    copied = tmp_path / "elsewhere"
    shutil.copytree(study, copied)
    with pytest.raises(InputError, match="holds no trials/ and prepared/; give"):
        external(copied)
    with pytest.raises(InputError, match="--name 'a/b': should be at most 60 letters"):
        external(study, *OTHER, name="a/b")


def test_models_without_weights_are_skipped_and_a_study_without_any_is_refused(study, tmp_path):
    trial = trial_of(study, "image")
    weights = trial / "model" / "model.safetensors"
    kept = weights.rename(tmp_path / "kept")
    try:
        with pytest.raises(InputError, match="its weights are not in its folder"):
            external(trial, name="weightless")
        weights.write_bytes(b"no safetensors")
        with pytest.raises(InputError, match="cannot be read as safetensors"):
            external(trial, name="weightless")
    finally:
        kept.rename(weights)
    assert not (trial / "external" / "weightless").exists()


def test_a_model_whose_training_cohort_is_gone_is_not_tested(study, tmp_path):
    trial = trial_of(study, "image")
    cohort = json.loads((trial / "result.json").read_text())["keys"]["cohort"]
    manifest = study.parents[1] / "prepared" / cohort / "manifest.json"
    kept = manifest.rename(tmp_path / "kept")
    try:
        with pytest.raises(InputError, match="is not in prepared/, so that its patients cannot"):
            external(trial, name="unknown")
    finally:
        kept.rename(manifest)


def test_no_patient_or_text_leaves_the_prepared_folder(study, tested):
    prepared = next((study.parents[1] / "prepared").glob("*/cohort.csv"))
    names = set(pd.read_csv(prepared, dtype=str)["patient"].head(20))
    for trial in (study.parents[1] / "trials").iterdir():
        for path in (trial / "external" / "other").iterdir():
            content = path.read_bytes().decode("latin-1")
            assert not any(name in content for name in names)
    again = score_external(
        trial_of(study, "image") / "external" / "other", config_of("image").evaluation
    )
    assert again["figures"]["n"] == 118
