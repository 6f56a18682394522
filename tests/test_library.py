import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cxr_ray
from cxr_ray.one_model import train_model

ROOT = Path(__file__).resolve().parent.parent


def run_example(name, *arguments):
    return runpy.run_path(str(ROOT / "examples" / name))["main"](*map(str, arguments))


@pytest.mark.parametrize("name", cxr_ray.__all__)
def test_every_public_name_is_there_documented_and_listed(name):
    assert getattr(cxr_ray, name).__doc__
    assert f"`{name}`" in (ROOT / "docs" / "api.md").read_text()


def test_a_name_that_is_not_public_is_no_attribute():
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = cxr_ray.nothing_like_it


def test_the_example_trains_a_model_once_and_finds_it_again(tmp_path, capsys):
    run_example("train_one_model.py", tmp_path)
    first = capsys.readouterr().out
    run_example("train_one_model.py", tmp_path)
    again = capsys.readouterr().out
    assert first.startswith("epoch 0: AUROC ")
    assert "epoch" not in again and again in first


def test_a_model_in_folds_is_refused():
    with pytest.raises(cxr_ray.InputError, match="kfold is many fits"):
        train_model({"data.split.kind": "kfold"})


def test_the_example_tells_the_modality_that_carries_the_label(capsys):
    run_example("does_it_use_both.py")
    image, text = capsys.readouterr().out.splitlines()
    assert image.endswith(": used") and text.endswith(": not shown to be used")


def test_the_example_compares_two_tables_of_the_same_records_only(tmp_path, capsys):
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], [150, 50])
    frames = []
    for name, signal in (("good.csv", 2.0), ("poor.csv", 0.2)):
        probability = 1 / (1 + np.exp(-(signal * label + rng.normal(size=200) - 1)))
        frame = pd.DataFrame(
            {
                "record": [f"r{i}" for i in range(200)],
                "patient": [f"p{i // 2}" for i in range(200)],
                "label": label,
                "probability": probability,
            }
        )
        frame.sample(frac=1, random_state=1).to_csv(tmp_path / name, index=False)
        frames.append(frame)
    run_example("compare_predictions.py", tmp_path / "good.csv", tmp_path / "poor.csv")
    printed = capsys.readouterr().out
    expected = cxr_ray.delong_test(
        label,
        frames[0]["probability"],
        frames[1]["probability"],
        groups=frames[0]["patient"],
    )
    assert "200 records of 100 patients, 50 positive" in printed
    assert f"AUROC: difference {expected.difference:.4f}" in printed
    frames[1][1:].to_csv(tmp_path / "poor.csv", index=False)
    with pytest.raises(cxr_ray.InputError, match="same records"):
        run_example("compare_predictions.py", tmp_path / "good.csv", tmp_path / "poor.csv")


def test_a_damaged_result_is_trained_again(tmp_path):
    small = {"fusion.modalities": "text", "phantom.patients": 300, "train.max_epochs": 1}
    tolerant = {"data.max_bad_share": 0.1}
    folder = train_model(small | tolerant, profile="tiny", storage=tmp_path)
    whole = (folder / "predictions.parquet").read_bytes()
    (folder / "result.json").write_text("")
    assert train_model(small | tolerant, profile="tiny", storage=tmp_path) == folder
    assert (folder / "predictions.parquet").read_bytes() == whole
    assert (folder / "result.json").read_text().startswith("{")
