"""Explaining new records: what is computed, and the pictures that launch/predict.py draws."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prepared_phantom import PreparedPhantom, tiny_config

from cxr_ray.data.new_records import NewRecord
from cxr_ray.evaluation.heads import additive_parts
from cxr_ray.report.explanation_picture import draw_explanation, save_explanation
from cxr_ray.report.trial_folder import read_features
from cxr_ray.storage import Storage
from cxr_ray.training.prediction import Predictor
from cxr_ray.training.trained_model import open_trial
from cxr_ray.training.trial import run_job
from cxr_ray.training.world import World

ROOT = Path(__file__).resolve().parents[2]
TEXT = "INDICATION: Fever and cough.\n\nFINDINGS: None."


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A function that trains a tiny model: its predictor and its trial's folder."""
    place = PreparedPhantom(Storage.open(str(tmp_path_factory.mktemp("explanation"))))

    def train(**fields):
        config = tiny_config(train__max_epochs=1, image__size=64, **fields)
        job = place.job(config)
        trial = place.storage.trials / job.experiment_id
        if not trial.exists():
            run_job(job, World(), lambda row: None)
        return Predictor(open_trial(place.storage, trial)), trial

    return train


@pytest.fixture(scope="module")
def film(trained, tmp_path_factory):
    """A radiograph as a file."""
    _, trial = trained()
    storage = Storage(trial.parent.parent)
    path = next(storage.prepared.glob("phantom-*/files/*/*/*/*.jpg"))
    copy = tmp_path_factory.mktemp("film") / "film.jpg"
    copy.write_bytes(path.read_bytes())
    return copy


@pytest.mark.parametrize("kind", ["concat", "cross_attention"])
def test_a_record_is_explained_whatever_the_fusion(trained, film, kind):
    predictor, trial = trained(fusion__kind=kind)
    record = NewRecord("a", film.read_bytes, TEXT)
    found = predictor.explain(record)
    assert [found.answer] == list(predictor.predict([record]))
    assert found.heat.shape == (2, 2) and np.abs(found.heat).max() > 0
    assert found.text == TEXT
    assert found.words.words.sum() == pytest.approx(found.words.tokens.sum())
    assert abs(found.words.gap) <= 0.001 + 0.02 * abs(found.words.tokens.sum())
    assert [TEXT[a:b] for a, b in found.words.spans] == TEXT.split()
    assert found.words.sections.tolist() == ["indication"] * 4 + ["findings"] * 2


def test_attributions_of_an_additive_head_are_those_of_the_text_alone(trained, film):
    """They add up to the text's part of the logit, from that of a text without words."""
    predictor, trial = trained()
    features = read_features(trial)
    with_image = predictor.explain(NewRecord("a", film.read_bytes, TEXT))
    without = predictor.explain(NewRecord("a", None, TEXT))
    assert with_image.words.words == pytest.approx(without.words.words, abs=1e-6)
    weights = features["head.linear.weight"], features["head.linear.bias"]
    image, text, _ = additive_parts(features["image"], features["text"], *weights)
    assert np.ptp(image) > 0 and np.ptp(text) > 0


def test_a_missing_or_unread_modality_has_no_panel_of_its_own(trained, film):
    both, _ = trained()
    found = both.explain(NewRecord("a", None, TEXT))
    assert found.heat is None and found.pixels is None and found.words is not None
    assert found.answer["missing"] == "image"
    found = both.explain(NewRecord("a", film.read_bytes, " "))
    assert found.heat is not None and found.words is None
    assert found.answer["missing"] == "text"
    assert both.explain(NewRecord("a", lambda: b"no image", TEXT)).heat is None
    image, _ = trained(fusion__modalities=["image"])
    found = image.explain(NewRecord("a", film.read_bytes, TEXT))
    assert found.heat is not None and found.words is None and found.text is None
    text, _ = trained(fusion__modalities=["text"])
    found = text.explain(NewRecord("a", None, TEXT))
    assert found.heat is None and found.words is not None


def texts_of(figure):
    drawn = [text.get_text() for axes in figure.axes for text in axes.texts]
    return drawn + [text.get_text() for text in figure.texts]


def test_the_picture_holds_every_word_and_says_what_is_missing(trained, film, tmp_path):
    predictor, _ = trained()
    odd = f"{TEXT} $\\frac$ <b> 肺 عربى \0 {'x' * 300}"
    figure = draw_explanation(
        predictor.explain(NewRecord("a", film.read_bytes, odd)), ("image", "text"), "pneumonia"
    )
    drawn = texts_of(figure)
    assert {"Fever", "cough.", "$\\frac$", "<b>"} <= set(drawn)
    save_explanation(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o600
    figure = draw_explanation(
        predictor.explain(NewRecord("a", None, TEXT)), ("image", "text"), "pneumonia"
    )
    assert any("No image was given" in text for text in texts_of(figure))
    assert any("Missing: image" in text for text in texts_of(figure))
    figure = draw_explanation(
        predictor.explain(NewRecord("a", film.read_bytes, None)), ("image", "text"), "pneumonia"
    )
    assert any("No text was given" in text for text in texts_of(figure))


def test_a_text_of_many_words_is_drawn_as_far_as_it_is_read(trained):
    predictor, _ = trained()
    found = predictor.explain(NewRecord("a", None, "fever " * 10_000))
    assert len(found.words.spans) <= predictor.config.text.max_tokens
    figure = draw_explanation(found, ("image", "text"), "pneumonia")
    assert figure.get_figheight() < 12


def run(trial, *arguments):
    return subprocess.run(
        [sys.executable, "launch/predict.py", str(trial), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_pictures_of_a_table_have_safe_names_in_a_folder_of_ones_own(trained, film):
    _, trial = trained()
    table = film.parent / "records.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["record", "image", "text"],
                ["../../etc/passwd", "film.jpg", "Fever."],
                ["a b", "absent.jpg", "Cough."],
                ["", "", "Cough."],
            ]
        )
    pictures = film.parent / "why"
    done = run(trial, "--table", table, "--explain", pictures)
    assert done.returncode == 0, done.stderr
    answers = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["record"] for row in answers] == ["../../etc/passwd", "a b", ""]
    assert f"pictures: {pictures}\n" in done.stderr
    names = sorted(path.name for path in pictures.iterdir())
    assert names == ["00001-_etc_passwd.png", "00003-.png"]
    assert pictures.stat().st_mode & 0o777 == 0o700
    for path in pictures.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        assert Image.open(path).width > 500


@pytest.mark.slow
def test_the_script_says_where_it_wrote_a_records_picture(trained, tmp_path):
    _, trial = trained()
    done = run(trial, "--text", "Fever.", "--explain", tmp_path / "why.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"picture: {tmp_path / 'why.png'}"
    assert (tmp_path / "why.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--text", "Fever.", "--explain", "why.jpg"), "should name a .png file"),
        (("--text", "Fever.", "--explain", "absent/why.png"), "there is no folder absent"),
        (("--table", "x.csv", "--explain", "README.md"), "should be a folder, and is a file"),
    ],
)
def test_a_place_that_no_picture_can_be_written_to_is_refused(tmp_path, arguments, sentence):
    done = run(tmp_path, *arguments)
    assert done.returncode == 2 and sentence in done.stderr
