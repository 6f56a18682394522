import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from prepared_phantom import PreparedPhantom, tiny_config

from cxr_ray.data.new_records import NewRecord, one_record, read_table
from cxr_ray.data.prepared import read_cohort
from cxr_ray.errors import InputError
from cxr_ray.evaluation.heads import additive_parts
from cxr_ray.report.trial_folder import read_features, read_predictions
from cxr_ray.storage import Storage
from cxr_ray.training.prediction import Predictor
from cxr_ray.training.trained_model import open_trial
from cxr_ray.training.trial import run_job
from cxr_ray.training.world import World

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A storage with one multimodal model, its trial's folder and its source."""
    place = PreparedPhantom(Storage.open(str(tmp_path_factory.mktemp("prediction"))))
    config = tiny_config(train__max_epochs=2)
    job = place.job(config)
    run_job(job, World(), lambda row: None)
    return place, place.storage.trials / job.experiment_id, config, job


def test_records_get_the_probability_that_the_trial_gave_them(trained):
    place, trial, config, job = trained
    source = place.source(config)
    cohort = read_cohort(place.storage.prepared / job.keys["cohort"])
    known = read_predictions(trial)
    cohort = cohort.set_index("record_id").loc[known.record_id]
    records = [
        NewRecord(
            name,
            lambda image=row["image"]: source.read_image(image),
            source.read_report(row["report"]),
        )
        for name, row in cohort.to_dict("index").items()
    ]
    found = pd.DataFrame(Predictor(open_trial(place.storage, trial)).predict(records))
    assert found["record"].tolist() == known.record_id.tolist()
    np.testing.assert_allclose(found["probability"], known.probability, rtol=1e-5)

    # an additive head's contributions are the parts of the logit, from their mean on training
    features = read_features(trial)
    weights = features["head.linear.weight"], features["head.linear.bias"]
    image, text, _ = additive_parts(features["image"], features["text"], *weights)
    mean_image, mean_text, _ = additive_parts(
        features["train_mean.image"][None], features["train_mean.text"][None], *weights
    )
    np.testing.assert_allclose(found["image_contribution"], image - mean_image, atol=1e-4)
    np.testing.assert_allclose(found["text_contribution"], text - mean_text, atol=1e-4)


def test_a_model_of_another_device_and_precision_is_judged_here(tmp_path):
    place = PreparedPhantom(Storage.open(str(tmp_path)))
    config = tiny_config(train__max_epochs=1, compute__precision="float64")
    job = place.job(config)
    run_job(job, World(), lambda row: None)
    trial = place.storage.trials / job.experiment_id
    settings = (trial / "config.yaml").read_text()
    assert "pinned_copies: false" in settings
    (trial / "config.yaml").write_text(
        settings.replace("pinned_copies: false", "pinned_copies: true")
    )
    (answer,) = Predictor(open_trial(place.storage, trial)).predict(
        [NewRecord("a", None, "Fever.")]
    )
    assert 0 < answer["probability"] < 1


def test_what_a_record_lacks_is_named_and_moves_nothing(trained):
    place, trial, config, _ = trained
    predictor = Predictor(open_trial(place.storage, trial))
    broken, nothing, textual = predictor.predict(
        [
            NewRecord("broken", lambda: b"no image", "Fever."),
            NewRecord("nothing", None, " "),
            NewRecord("textual", None, "Fever."),
        ]
    )
    assert broken["reason"] == "not an image" and "probability" not in broken
    assert nothing["reason"] == "no image and no text, which the model reads"
    assert textual["missing"] == "image" and textual["reason"] == ""
    assert textual["image_contribution"] == pytest.approx(0, abs=1e-6)


def test_a_table_is_judged_row_by_row_and_bad_rows_say_why(trained, tmp_path):
    place, trial, config, _ = trained
    source = place.source(config)
    image = read_cohort(place.storage.prepared / trained[3].keys["cohort"])["image"].iloc[0]
    (tmp_path / "film.jpg").write_bytes(source.read_image(image))
    with (tmp_path / "records.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["record", "image", "text"],
                ["a", "film.jpg", "Fever and\ncough."],
                ["b", "absent.jpg", "Cough."],
                ["c", "../outside.jpg", "Cough."],
            ]
        )
    command = [sys.executable, "launch/predict.py", str(trial)]
    done = subprocess.run(
        [*command, "--table", str(tmp_path / "records.csv"), "--out", str(tmp_path / "out.csv")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"answers: {tmp_path / 'out.csv'}\n"
    rows = pd.read_csv(tmp_path / "out.csv").set_index("record")
    assert 0 < rows.loc["a", "probability"] < 1
    assert rows.loc["b", "reason"] == "image missing"
    assert "inside the data folder" in rows.loc["c", "reason"]
    assert "2 of 3 records have no answer" in done.stderr


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("film,report\na,b\n", "has the columns film, report; it should have image"),
        ("record,text\na,x\na,y\n", "the record 'a' is there twice"),
        ("", "not a CSV"),
        ("record,text\n", "it has no row"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, content, sentence):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=sentence):
        read_table(str(tmp_path / "t.csv"))


def test_a_text_is_a_file_or_the_text_itself(tmp_path):
    (tmp_path / "r.txt").write_text("Fever.")
    assert one_record(None, str(tmp_path / "r.txt")).text == "Fever."
    assert one_record(None, "Fever and cough.").text == "Fever and cough."
    assert one_record(None, "肺" * 120).text == "肺" * 120  # too long for a file's name
    with pytest.raises(InputError, match="--text .*absent.txt: no such file"):
        one_record(None, str(tmp_path / "absent.txt"))


def test_a_trial_without_weights_or_tokenizer_is_refused(trained, tmp_path):
    place, trial, _, _ = trained
    with pytest.raises(InputError, match="not a finished trial's folder"):
        open_trial(place.storage, tmp_path)
    alone = Storage.open(str(tmp_path / "elsewhere"))
    copy = shutil.copytree(trial, alone.trials / trial.name)
    with pytest.raises(InputError, match="tokenizer that the model was trained with is not there"):
        open_trial(alone, copy)
    (copy / "model" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="its weights were not kept"):
        open_trial(alone, copy)
