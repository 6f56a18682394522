import json

import pytest
from prepared_phantom import PreparedPhantom, tiny_config

from cxr_ray.report.trial_folder import read_history, read_predictions
from cxr_ray.storage import Storage
from cxr_ray.training.trial import run_job
from cxr_ray.training.world import World


class Killed(Exception):
    pass


def kill_after_second_epoch(row):
    if row["epoch"] == 1:
        raise Killed


def trial_folder(place, config, *, killed=False):
    """Run a trial, after an attempt that broke off if ``killed``."""
    if killed:
        with pytest.raises(Killed):
            run_job(place.job(config), World(), kill_after_second_epoch)
    job = place.job(config)
    run_job(job, World(), lambda row: None)
    return place.storage.trials / job.experiment_id


def outcome(folder):
    history = [{k: v for k, v in row.items() if k != "seconds"} for row in read_history(folder)]
    predictions = read_predictions(folder)
    weights = (folder / "model" / "model.safetensors").read_bytes()
    return history, predictions.logit.tobytes(), predictions.probability.tobytes(), weights


def test_two_fresh_storages_and_an_interrupted_one_give_the_same_bytes_and_id(tmp_path):
    config = tiny_config(text__dropout=0.2)
    places = [PreparedPhantom(Storage.open(str(tmp_path / name))) for name in "ab"]
    whole, interrupted = (
        trial_folder(place, config, killed=place is places[1]) for place in places
    )
    assert whole.name == interrupted.name
    assert outcome(whole) == outcome(interrupted)
    records = [read_predictions(folder).record_id.tolist() for folder in (whole, interrupted)]
    assert records[0] != records[1]  # each storage names records by a salt of its own


def test_what_only_cuda_does_changes_nothing_elsewhere(tmp_path):
    plain = tiny_config(fusion__modalities="text", train__max_epochs=2)
    asked = tiny_config(
        fusion__modalities="text",
        train__max_epochs=2,
        compute__precision="bfloat16",
        compute__compile=True,
        compute__fused_optimizer=True,
        compute__pinned_copies=True,
    )
    places = [PreparedPhantom(Storage.open(str(tmp_path / name))) for name in "ab"]
    folders = [trial_folder(*each) for each in zip(places, (plain, asked), strict=True)]
    assert outcome(folders[0]) == outcome(folders[1])
    ways = [json.loads((folder / "result.json").read_text())["compute"] for folder in folders]
    assert ways[0] == ways[1]


def test_a_trial_that_broke_off_keeps_its_checkpoint_and_has_no_finished_folder(phantom):
    config = tiny_config(fusion__modalities="text", train__seed=31)
    job = phantom.job(config)
    with pytest.raises(Killed):
        run_job(job, World(), kill_after_second_epoch)
    attempt = phantom.storage.running / job.experiment_id / job.attempt
    assert {path.name for path in attempt.iterdir()} == {"last.pt", "best.pt", "compute.json"}
    assert not (phantom.storage.trials / job.experiment_id).exists()
