"""The sweep's step that explains single records: what is computed, kept and said."""

import json

import numpy as np
import pandas as pd
import pytest
from prepared_phantom import PreparedPhantom, quiet, tiny_config

from cxr_ray.report.saliency import ARRAYS_FILE, TABLE_FILE, choose_records, read_arrays
from cxr_ray.report.trial_folder import read_predictions
from cxr_ray.storage import Storage
from cxr_ray.sweep.explaining import explain_study
from cxr_ray.sweep.study import Study
from cxr_ray.training.trial import run_job
from cxr_ray.training.world import World

COMPUTED = "cxr_ray.training.explaining.explain_trial"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return PreparedPhantom(Storage.open(str(tmp_path_factory.mktemp("runs"))))


@pytest.fixture(scope="module")
def trial(place):
    """The folder of a trained multimodal model."""
    job = place.job(tiny_config(train__max_epochs=1))
    run_job(job, World(), quiet)
    return place.storage.trials / job.experiment_id


@pytest.fixture
def study(trial):
    """A function that makes a study of that model, with nothing explained yet."""
    storage = Storage(trial.parent.parent)
    folder = storage.studies / "mine"
    folder.mkdir(exist_ok=True)
    for path in (folder / TABLE_FILE, trial / ARRAYS_FILE):
        path.unlink(missing_ok=True)

    def make(modality="multimodal", **report):
        members = [{"experiment_id": trial.name, "name": "one", "modality": modality}]
        record = {"name": "mine", "uuid": "u", "members": members, "report": report}
        (folder / "study.json").write_text(json.dumps(record))
        return storage, Study.read(folder)

    return make


def fail(*_):
    raise AssertionError("computed again")


def test_the_chosen_records_get_the_answers_that_their_predictions_hold(study, trial):
    storage, made = study()
    assert explain_study(storage, made) == []
    table = pd.read_csv(made.folder / TABLE_FILE, dtype={"record_id": str})
    predictions = read_predictions(trial)
    chosen = choose_records(predictions)
    assert len(chosen) >= 4
    assert list(table["kind"]) == [kind for kind, _ in chosen]
    places = [place for _, place in chosen]
    assert list(table["record_id"]) == list(predictions.record_id[places])
    assert list(table["label"]) == list(predictions.label[places])
    np.testing.assert_allclose(table["probability"], predictions.probability[places], atol=1e-5)
    assert set(table["experiment_id"]) == {trial.name}
    assert table.filter(regex="^image_(upper|middle|lower)$").notna().all(axis=None)
    assert table["text_indication"].notna().all()


def test_what_was_explained_is_not_computed_again(study, monkeypatch):
    storage, made = study()
    explain_study(storage, made)
    first = (made.folder / TABLE_FILE).read_bytes()
    monkeypatch.setattr(COMPUTED, fail)
    (made.folder / TABLE_FILE).unlink()
    assert explain_study(storage, made) == []
    assert (made.folder / TABLE_FILE).read_bytes() == first


def test_records_that_are_no_longer_the_chosen_ones_are_replaced(study, trial, monkeypatch):
    storage, made = study()
    explain_study(storage, made)
    before = read_arrays(trial)
    fewer = choose_records(read_predictions(trial))[:2]
    monkeypatch.setattr("cxr_ray.report.saliency.choose_records", lambda predictions: fewer)
    explain_study(storage, made)
    after = read_arrays(trial)
    assert [each.record_id for each in after] == [each.record_id for each in before][:2]
    assert len(pd.read_csv(made.folder / TABLE_FILE)) == 2


@pytest.mark.parametrize("of", [{"modality": "text"}, {"saliency": False}])
def test_a_study_without_a_multimodal_model_or_the_wish_has_no_table(study, trial, of):
    storage, made = study(**of)
    (made.folder / TABLE_FILE).write_text("of a study that had one\n")
    assert explain_study(storage, made) == []
    assert not (made.folder / TABLE_FILE).exists() and not (trial / ARRAYS_FILE).exists()


def test_without_the_prepared_images_the_sweep_says_why_and_goes_on(study, trial):
    storage, made = study()
    (made.folder / TABLE_FILE).write_text("of an earlier model\n")
    (pack,) = storage.prepared.glob("*/images-*")
    pack.rename(pack.with_name("away"))
    try:
        (said,) = explain_study(storage, made)
    finally:
        pack.with_name("away").rename(pack)
    assert said.startswith("No saliency of single records: ")
    assert said.endswith("what the model was trained on is no longer there")
    assert not (made.folder / TABLE_FILE).exists() and not (trial / ARRAYS_FILE).exists()


@pytest.mark.parametrize(
    ("message", "said"), [("out of memory\nTried", "out of memory"), ("", "RuntimeError")]
)
def test_an_error_of_torch_is_one_sentence(study, monkeypatch, message, said):
    storage, made = study()

    def run_out(*_):
        raise RuntimeError(message)

    monkeypatch.setattr(COMPUTED, run_out)
    assert explain_study(storage, made) == [f"No saliency of single records: {said}"]


def test_a_page_that_will_show_patients_is_announced(study):
    storage, made = study(show_records=True)
    (said,) = explain_study(storage, made)
    assert "report.show_records" in said and "owner's eyes" in said


def test_a_trial_explains_itself_and_leaves_the_sweep_nothing_to_compute(place, study, monkeypatch):
    job = place.job(tiny_config(train__max_epochs=1, train__seed=1, report__saliency=True))
    run_job(job, World(), quiet)
    trained = place.storage.trials / job.experiment_id
    own = read_arrays(trained)
    assert len(own) >= 4
    storage, made = study()
    made.record["members"][0]["experiment_id"] = job.experiment_id
    monkeypatch.setattr(COMPUTED, fail)
    assert explain_study(storage, made) == []
    assert len(pd.read_csv(made.folder / TABLE_FILE)) == len(own)


@pytest.mark.parametrize(
    ("seed", "fields"),
    [
        (2, {"report__saliency": False}),
        (3, {"report__saliency": True, "fusion__modalities": "text"}),
    ],
)
def test_a_trial_that_no_page_would_explain_does_not(place, seed, fields):
    job = place.job(tiny_config(train__max_epochs=1, train__seed=seed, **fields))
    run_job(job, World(), quiet)
    assert not (place.storage.trials / job.experiment_id / ARRAYS_FILE).exists()


def test_no_trial_fails_by_its_explanation(place, monkeypatch):
    def run_out(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(COMPUTED, run_out)
    job = place.job(tiny_config(train__max_epochs=1, train__seed=4, report__saliency=True))
    run_job(job, World(), quiet)
    assert place.storage.is_finished(job.experiment_id)
