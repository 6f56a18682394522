import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from local_checkpoints import write_bert, write_resnet
from prepared_phantom import PreparedPhantom, tiny_config

from cxr_ray.config.schema import FusionConfig
from cxr_ray.data.new_records import encoded_records
from cxr_ray.data.prepared import read_cohort
from cxr_ray.errors import InputError, TrialError
from cxr_ray.export import onnx_graph
from cxr_ray.export.card import _cell, write_card
from cxr_ray.export.export import TOKENIZER_WARNING, export_trial
from cxr_ray.models.classifier import Classifier
from cxr_ray.storage import Storage
from cxr_ray.training.prediction import Predictor
from cxr_ray.training.trained_model import is_exported, open_exported, open_trial
from cxr_ray.training.trial import run_job
from cxr_ray.training.world import World

ROOT = Path(__file__).resolve().parents[2]
# Two of them are exported whole below.
KINDS = {*get_args(FusionConfig.model_fields["kind"].annotation)} - {"concat", "cross_attention"}


def train(place, **fields):
    job = place.job(tiny_config(train__max_epochs=1, evaluation__bootstrap=100, **fields))
    run_job(job, World(), lambda row: None)
    return place.storage.trials / job.experiment_id


def table_of(place, trial, number):
    """Test records as a table for a served model: images in base64."""
    config = open_trial(place.storage, trial).config
    source = place.source(config)
    keys = json.loads((trial / "result.json").read_text())["keys"]
    cohort = read_cohort(place.storage.prepared / keys["cohort"]).head(number)
    return pd.DataFrame(
        {
            "image": [base64.b64encode(source.read_image(i)).decode() for i in cohort["image"]],
            "text": [source.read_report(report) for report in cohort["report"]],
        }
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return PreparedPhantom(Storage.open(str(tmp_path_factory.mktemp("export"))))


@pytest.fixture(scope="module")
def trial(place):
    return train(place, fusion__kind="cross_attention", fusion__hidden=8)


def test_a_saved_model_judges_as_its_trial_without_the_storage(place, trial, tmp_path):
    records = encoded_records(table_of(place, trial, 30))
    model = open_trial(place.storage, trial)
    assert not is_exported(trial / "model")
    model.save(tmp_path / "model")
    assert is_exported(tmp_path / "model")
    expected = pd.DataFrame(Predictor(model).predict(records))
    found = pd.DataFrame(Predictor(open_exported(tmp_path / "model")).predict(records))
    pd.testing.assert_frame_equal(found, expected)
    for name, damaged in (
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", '{"config": {"train": {"of_another_version": 1}}}'),
        ("judging.json", "{}"),
    ):
        whole = (tmp_path / "model" / name).read_text()
        (tmp_path / "model" / name).write_text(damaged)
        with pytest.raises(
            InputError, match=rf"{name} is damaged|{name} .*lacks|of_another_version"
        ):
            open_exported(tmp_path / "model")
        (tmp_path / "model" / name).write_text(whole)


def test_a_pretrained_encoder_is_saved_with_its_tokenizer_and_no_local_path(tmp_path):
    place = PreparedPhantom(Storage.open(str(tmp_path / "runs")))
    bert = write_bert(tmp_path / "bert")
    trial = train(place, text__encoder=str(bert), text__max_tokens=32, fusion__modalities="text")
    records = encoded_records(table_of(place, trial, 20))
    model = open_trial(place.storage, trial)
    model.save(tmp_path / "model")
    expected = list(Predictor(model).predict(records))
    bert.rename(tmp_path / "gone")
    assert list(Predictor(open_exported(tmp_path / "model")).predict(records)) == expected
    for path in (tmp_path / "model").rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes()


def test_the_card_tells_figures_and_use_and_names_no_record(place, trial, tmp_path):
    config = open_trial(place.storage, trial).config
    path = tmp_path / "README.md"
    checked = onnx_graph.OnnxCheck(100, 2.5e-6)
    write_card(
        *(place.storage, trial, config, path),
        onnx=checked, onnx_part="test", tokenizer_warning=TOKENIZER_WARNING,
    )  # fmt: skip
    card = path.read_text()
    (scores,) = map(json.loads, map(Path.read_text, trial.glob("scores-*.json")))
    figures = scores["test_sets"]["full"]
    for name in ("auroc", "recall_at_val"):
        value, low, high = (figures[f"{name}{end}"] for end in ("", "_low", "_high"))
        shown = f"{value:.4f} [{low:.4f}, {high:.4f}]".replace("0.", ".")
        assert shown in card
    assert "no medical device" in card and TOKENIZER_WARNING in card and "2.5e-06" in card
    assert "shown to use the image (AUROC" in card
    assert "| image shuffled |" in card
    assert "none; the data are generated" in card
    keys = json.loads((trial / "result.json").read_text())["keys"]
    cohort = read_cohort(place.storage.prepared / keys["cohort"])
    for column in ("record", "patient", "record_id", "group", "image", "report"):
        assert not [value for value in cohort[column] if str(value) in card]
    tokens = json.loads(
        next(place.storage.prepared.glob("*/tokenizer-*/tokenizer.json")).read_text()
    )
    assert "fever" in tokens["model"]["vocab"] and "fever" not in card.lower()


def test_a_name_in_the_card_stays_text_in_its_cell(place, trial, tmp_path):
    config = open_trial(place.storage, trial).config
    label = "x<script>|y\nz"
    cohort = config.cohort.model_copy(update={"label": label})
    write_card(
        *(place.storage, trial, config.model_copy(update={"cohort": cohort})),
        tmp_path / "README.md",
        onnx=None, onnx_part=None, tokenizer_warning=None,
    )  # fmt: skip
    card = (tmp_path / "README.md").read_text()
    assert "<script>" not in card and "x&lt;script&gt;" in card
    assert _cell(label) == "x<script>/y z"


def test_an_export_refuses_what_it_cannot_do(place, trial, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for out in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="give a folder that does not exist, or is empty"):
            export_trial(place.storage, trial, out)
    monkeypatch.setattr(onnx_graph, "PACKAGES", ("onnx", "no_such_runtime"))
    with pytest.raises(InputError, match="no_such_runtime, not installed.*--no-onnx"):
        export_trial(place.storage, trial, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_served_table_reads_base64_and_says_what_is_missing():
    table = pd.DataFrame(
        {"image": ["aGk=", None, "%"], "text": [np.nan, "Fever.", " "], "record": ["a", None, "c"]}
    )
    first, second, third = encoded_records(table)
    assert (first.name, first.read_image(), first.text) == ("a", b"hi", None)
    assert (second.name, second.read_image, second.text) == ("2", None, "Fever.")
    assert third.text is None
    (fourth,) = encoded_records(pd.DataFrame({"image": ["\u00e9\u00e9\u00e9\u00e9"]}))
    for record in (third, fourth):
        with pytest.raises(InputError, match="not in base64"):
            record.read_image()


@pytest.mark.slow
def test_an_exported_folder_is_whole_and_its_models_answer_as_the_trial(place, trial, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "launch/export.py", str(trial), str(out)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert TOKENIZER_WARNING in done.stderr
    assert {path.name for path in out.iterdir()} == {"README.md", "mlflow", "model", "onnx"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    for path in filter(Path.is_file, out.rglob("*")):
        content = path.read_bytes()
        assert str(tmp_path).encode() not in content and str(ROOT).encode() not in content

    table = table_of(place, trial, 100)
    expected = pd.DataFrame(
        Predictor(open_trial(place.storage, trial)).predict(encoded_records(table))
    )
    table.to_json(tmp_path / "t.json", orient="split")
    # MLflow puts the code that travels along before what is installed; no Ray is imported.
    load = (
        "import sys, mlflow.pyfunc, pandas as pd;"
        "m = mlflow.pyfunc.load_model('out/mlflow');"
        "m.predict(pd.read_json('t.json', orient='split')).to_json('a.json');"
        "import cxr_ray;"
        "print(cxr_ray.__file__, [n for n in ('ray', 'optuna') if n in sys.modules])"
    )
    served = subprocess.run(
        [sys.executable, "-c", load], cwd=tmp_path, capture_output=True, text=True
    )
    assert served.returncode == 0, served.stderr
    assert served.stdout.split() == [str(out / "mlflow/code/cxr_ray/__init__.py"), "[]"]
    found = pd.read_json(tmp_path / "a.json", dtype={"record": str}, precise_float=True)
    assert len(found) == 100
    for name in ("probability", "probability_recalibrated", "image_contribution"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)
    assert (found["positive_at_val"] == expected["positive_at_val"]).all()

    judged = subprocess.run(
        [sys.executable, "launch/predict.py", str(out), "--text", "Fever."],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert judged.returncode == 0 and "probability of pneumonia" in judged.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        *({"fusion__kind": kind, "fusion__hidden": 8} for kind in sorted(KINDS)),
        {"fusion__modalities": "image"},
        {"fusion__modalities": "text", "text__pooling": "mean", "text__freeze": "all"},
    ],
)
def test_the_onnx_graph_of_every_model_is_that_of_torch(place, tmp_path, fields):
    config = tiny_config(**fields)
    arm = place.arm(config)
    model = Classifier(config, arm.text and arm.text.vocabulary_size).eval()
    path = tmp_path / "model.onnx"
    onnx_graph.write_onnx(model, config.image.size, config.text.max_tokens, path)
    found = onnx_graph.check_onnx(path, model, arm, np.arange(100))
    assert found.records == 100 and found.largest <= 1e-4
    last = next(reversed(list(model.head.parameters()))).data
    for change in (0.01, np.nan):
        last.add_(change)
        with pytest.raises(TrialError, match="is .* from torch's"):
            onnx_graph.check_onnx(path, model, arm, np.arange(10))


@pytest.mark.slow
def test_a_resnet50_and_a_bert_checkpoint_are_exported(tmp_path):
    place = PreparedPhantom(Storage.open(str(tmp_path / "runs")))
    trial = train(
        place,
        image__encoder="resnet50",
        image__weights=str(write_resnet(tmp_path / "resnet50.pth")),
        text__encoder=str(write_bert(tmp_path / "bert")),
        text__max_tokens=32,
        phantom__patients=120,
    )
    exported = export_trial(place.storage, trial, tmp_path / "out")
    assert exported.onnx.largest <= 1e-4 and exported.warnings == ()
    assert "bert" in (tmp_path / "out" / "README.md").read_text()
