"""Explanations find the signal that was planted in a phantom, and find it by training."""

import numpy as np
import pytest
import torch
from PIL import Image
from prepared_phantom import PreparedPhantom, quiet, tiny_config

from cxr_ray.data.new_records import NewRecord
from cxr_ray.data.prepared import read_cohort
from cxr_ray.data.sources.phantom_images import HEIGHT, WIDTH, ZONE
from cxr_ray.data.sources.phantom_tables import REASONS, SYMPTOMS
from cxr_ray.models.classifier import Classifier
from cxr_ray.storage import Storage
from cxr_ray.training.prediction import Predictor
from cxr_ray.training.trained_model import open_trial
from cxr_ray.training.trial import run_job
from cxr_ray.training.world import World

RECORDS = 24


def focus(predictor, records):
    """How many times chance's share the planted signal has: in heat maps, and of words.

    Chance is the opacity's share of the image's area, and its words' share of the report's.
    """
    heat, words = [], []
    zone = np.zeros((HEIGHT, WIDTH), bool)
    zone[ZONE] = True
    for record in records:
        found = predictor.explain(record)
        grown = Image.fromarray(np.abs(found.heat).astype(np.float32)).resize(
            (WIDTH, HEIGHT), Image.Resampling.BILINEAR
        )
        heat.append(np.average(np.asarray(grown)[zone]) / np.average(grown))
        planted = np.array(
            [found.text[a:b].strip(",.") in SYMPTOMS + REASONS for a, b in found.words.spans]
        )
        size = np.abs(found.words.words)
        words.append(size[planted].mean() / size.mean())
    return np.mean(heat), np.mean(words)


@pytest.mark.slow
def test_a_trained_model_is_explained_by_what_was_planted_and_a_random_one_is_not(tmp_path):
    place = PreparedPhantom(Storage.open(str(tmp_path)))
    config = tiny_config(
        "demo",
        image__size=128,
        phantom__patients=300,
        phantom__positive_share=0.5,
        phantom__image_signal=3,
        phantom__text_signal=3,
        train__batch=32,
        train__max_epochs=6,
        train__monitor="val_average_precision",
    )
    job = place.job(config)
    run_job(job, World(), quiet)
    trained = open_trial(place.storage, place.storage.trials / job.experiment_id)
    predictor = Predictor(trained, torch.device("cpu"))
    source = place.source(config)
    cohort = read_cohort(place.storage.prepared / job.keys["cohort"])
    records = [
        NewRecord(
            row.record,
            lambda image=row.image: source.read_image(image),
            source.read_report(row.report),
        )
        for row in cohort[cohort["part"] == "test"].head(RECORDS).itertuples()
    ]
    image, text = focus(predictor, records)
    randoms = []
    for seed in range(3):
        other = tiny_config("demo", image__size=128, train__seed=seed)
        predictor.model = Classifier(other, trained.words.vocabulary_size).eval()
        randoms.append(focus(predictor, records))
    random_image, random_text = np.mean(randoms, axis=0)
    assert image > 1.2 and text > 1.8
    assert image > 1.2 * random_image and text > 1.2 * random_text
