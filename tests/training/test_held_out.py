"""Scoring the test part of a trial that was trained without a look at it."""

from dataclasses import replace

import numpy as np
import pytest
from prepared_phantom import PreparedPhantom, tiny_config

from cxr_ray.lease import release_lease
from cxr_ray.report.scoring import score_folder
from cxr_ray.report.trial_folder import has_test, read_features, read_predictions
from cxr_ray.storage import ALL_PARTS, Storage
from cxr_ray.training.trial import run_job
from cxr_ray.training.world import World


def run(place, config, parts, report=lambda row: None):
    job = replace(place.job(config), parts=parts)
    run_job(job, World(), report)
    return place.storage.trials / job.experiment_id


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same trial with its test part from the beginning, and from a second look."""
    config = tiny_config(train__max_epochs=2)
    places = [PreparedPhantom(Storage.open(str(tmp_path_factory.mktemp(name)))) for name in "ab"]
    return config, places[1], run(places[0], config, ALL_PARTS), run(places[1], config, ("val",))


def test_a_search_trials_folder_says_nothing_of_the_test_part(folders):
    config, place, _, folder = folders
    assert set(read_predictions(folder).part) == {"val"}
    assert not has_test(folder) and not (folder / "figures").exists()
    assert not [name for name in read_features(folder) if name.startswith("probe")]
    assert score_folder(folder, config.evaluation)["test_sets"] == {}
    assert place.storage.is_finished(folder.name, ("val",))
    assert not place.storage.is_finished(folder.name)


def test_a_finished_search_trial_that_is_run_again_still_says_nothing_of_the_test_part(folders):
    config, place, _, folder = folders
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    run(place, config, ("val",))  # its process died before Tune had heard of its end
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert not list(place.storage.running.glob("*/*"))


def test_the_test_part_is_appended_as_training_would_have_written_it(folders):
    config, place, whole, folder = folders
    before = (folder / "result.json").read_bytes()
    told = []
    assert run(place, config, ALL_PARTS, told.append) == folder
    assert len(told) == 1 and "epoch" not in told[0]  # nothing was trained
    assert (folder / "result.json").read_bytes() == before
    ours, theirs = read_predictions(folder), read_predictions(whole)
    assert np.array_equal(ours.part, theirs.part)
    assert np.array_equal(ours.logit, theirs.logit)
    one, other = read_features(folder), read_features(whole)
    assert set(one) == set(other)
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert place.storage.is_finished(folder.name)
    assert not list(place.storage.running.glob("*/*"))
    same = score_folder(folder, config.evaluation)
    assert same["test_sets"] == score_folder(whole, config.evaluation)["test_sets"]


def test_a_look_that_a_kill_cut_off_is_taken_again_with_the_same_figures(folders):
    config, place, whole, folder = folders
    if not has_test(folder):
        run(place, config, ALL_PARTS)
    (folder / "test.json").unlink()  # both files are there, and nothing says so
    assert not place.storage.is_finished(folder.name)
    run(place, config, ALL_PARTS)
    assert np.array_equal(read_predictions(folder).logit, read_predictions(whole).logit)
    assert place.storage.is_finished(folder.name)


def test_a_driver_that_takes_the_lease_back_after_an_epoch_ends_the_trial_there(phantom):
    from cxr_ray.errors import TrialStopped
    from cxr_ray.lease import read_lease

    config = tiny_config(fusion__modalities="text", train__seed=77)
    job = phantom.job(config)
    running = phantom.storage.running / job.experiment_id
    rows = []

    def prune(row):
        rows.append(row)
        release_lease(running, read_lease(running))

    with pytest.raises(TrialStopped):
        run_job(job, World(), prune)
    assert [row["epoch"] for row in rows] == [0]
