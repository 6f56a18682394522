"""A search as its user runs it: on a real local Ray, killed, continued, and given more trials."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from running_sweeps import SWEEP, checkpoints, ended, wait_for

from cxr_ray.report.trial_folder import read_predictions

pytestmark = pytest.mark.slow

SPACE = """
title: Does a small text model learn faster?
base: {fusion.modalities: [text], train.max_epochs: 6}
parameters:
  loss.kind: {choices: [bce, focal]}
  loss.alpha: {float: [0.5, 0.95], when: {loss.kind: focal}}
  train.lr: {float: [1.0e-5, 1.0e-2], log: true}
start_from: {loss.kind: bce}
"""
TRIALS = 6


def command(storage, trials, content=SPACE, *further):
    space = storage.parent / "small.yaml"
    space.write_text(content)
    return [
        sys.executable, str(SWEEP), "--search", str(space), "--trials", str(trials),
        "--profile", "tiny", "--storage", str(storage),
        # Enough positives for a winner that is no tie.
        "--set", "phantom.patients=300", "phantom.positive_share=0.4", *further,
    ]  # fmt: skip


def run(storage, trials):
    return subprocess.run(command(storage, trials), capture_output=True, text=True, timeout=600)


def asked(storage):
    path = storage / "studies" / "small" / "asked.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def results(storage):
    return {path.parent.name: path for path in storage.glob("trials/*/result.json")}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Kill the driver once a trial has finished, then run the same command to its end."""
    storage = tmp_path_factory.mktemp("search") / "runs"
    driver = subprocess.Popen(
        command(storage, TRIALS), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not results(storage) and time.monotonic() < deadline:
        assert driver.poll() is None, "the search ended before it could be killed"
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = asked(storage), {i: path.read_bytes() for i, path in results(storage).items()}
    done = run(storage, TRIALS)
    assert done.returncode == 0, done.stderr
    return storage, before, done


def test_a_killed_search_repeats_no_finished_trial_and_asks_for_no_more(searched):
    storage, (asked_before, finished_before), _ = searched
    assert asked(storage)[: len(asked_before)] == asked_before
    assert [entry["number"] for entry in asked(storage)] == list(range(TRIALS))
    for identity, content in finished_before.items():
        assert results(storage)[identity].read_bytes() == content
    table = pd.read_csv(storage / "studies/small/search.csv")
    assert len(table) == TRIALS
    assert set(table["status"]) <= {"done", "pruned"}
    ended = {path.stem for path in storage.glob("studies/small/ended/*.json")}
    assert set(results(storage)) | ended == {entry["experiment_id"] for entry in asked(storage)}
    assert not list(storage.glob("running/*/*"))


def test_only_the_winner_and_trial_0_have_a_test_part(searched):
    storage, _, done = searched
    table = pd.read_csv(storage / "studies/small/search.csv", dtype={"experiment_id": str})
    best = table.loc[table["val_average_precision"].idxmax(), "experiment_id"]
    chosen = {best, table["experiment_id"][0]}
    tested = {
        identity
        for identity, path in results(storage).items()
        if "test" in read_predictions(path.parent).part
    }
    assert tested == chosen
    for identity in tested:
        folder = storage / "trials" / identity
        assert json.loads((folder / "result.json").read_text())["parts"] == ["val"]
        predictions = read_predictions(folder)
        assert set(predictions.part) == {"val", "test"}
        assert len(set(predictions.record_id)) == len(predictions.record_id)
        assert (folder / "test.json").exists() and (folder / "figures").is_dir()
    leaderboard = pd.read_csv(storage / "studies/small/leaderboard.csv")
    assert set(leaderboard.loc[leaderboard["test_set"].notna(), "experiment_id"]) == tested
    assert "Search" in done.stdout and " finished" in done.stdout
    assert done.stderr.count("scoring the test part") == 1


def test_the_page_shows_the_searchs_figures_as_its_csv_holds_them(searched):
    storage, _, _ = searched
    folder = storage / "studies/small"
    page = (folder / "report.html").read_text()
    table = re.search(r'<table data-csv="search.csv">.*?</table>', page, re.DOTALL).group()
    with (folder / "search.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    shown = 0
    for place, line in re.findall(r'<tr data-row="(\d+)">(.*?)</tr>', table, re.DOTALL):
        for column, value in re.findall(r'data-column="([^"]+)" data-value="([^"]*)"', line):
            assert rows[int(place)][column] == value
            shown += 1
    assert shown == TRIALS * 5
    assert page.count("data:image/png;base64") > 2


def test_the_tracker_holds_every_trial_once_and_pruned_ones_with_their_reason(searched):
    from mlflow.tracking import MlflowClient

    storage, _, _ = searched
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    runs = [
        run
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id])
        if "experiment_id" in run.data.tags
    ]
    table = pd.read_csv(storage / "studies/small/search.csv", dtype={"experiment_id": str})
    status = dict(zip(table["experiment_id"], table["status"], strict=True))
    assert sorted(run.data.tags["experiment_id"] for run in runs) == sorted(status)
    for run in runs:
        pruned = status[run.data.tags["experiment_id"]] == "pruned"
        assert run.info.status == ("KILLED" if pruned else "FINISHED")
        assert run.data.tags.get("reason", "").startswith("pruned at epoch") == pruned
        assert run.data.params["fusion.modalities"] == "text"
        curve = client.get_metric_history(run.info.run_id, "val_full/average_precision")
        best = run.data.metrics["best/val_full/average_precision"]
        assert best == max(point.value for point in curve)


def test_optunas_storage_holds_the_trials_for_its_dashboard(searched):
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage, _, _ = searched
    journal = JournalFileBackend(str(storage / "studies" / "small" / "optuna.log"))
    study = optuna.load_study(study_name="small", storage=optuna.storages.JournalStorage(journal))
    assert [t.params for t in study.trials] == [e["parameters"] for e in asked(storage)]
    assert study.best_value == max(
        pd.read_csv(storage / "studies/small/search.csv")["val_average_precision"].dropna()
    )


def test_the_same_command_again_trains_nothing_and_more_trials_add_some(searched):
    storage, _, _ = searched
    before = {identity: path.read_bytes() for identity, path in results(storage).items()}
    again = run(storage, TRIALS)
    assert again.returncode == 0, again.stderr
    assert "starting Ray" not in again.stderr
    more = run(storage, TRIALS + 2)
    assert more.returncode == 0, more.stderr
    assert len(asked(storage)) == TRIALS + 2
    for identity, content in before.items():
        assert results(storage)[identity].read_bytes() == content
    best = subprocess.run(
        [
            sys.executable, str(SWEEP), "--grid", str(storage / "studies/small/best.yaml"),
            "--profile", "tiny", "--storage", str(storage), "--study", "best", "--dry-run",
            "--set", "phantom.patients=300", "phantom.positive_share=0.4",
        ],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert best.returncode == 0, best.stderr
    assert best.stdout.count("  done") == len(re.findall(r"-(?:found|trial_0) ", best.stdout))


FRONT = """
title: What is a second of training worth?
base: {fusion.modalities: [text], train.max_epochs: 20, train.patience: 1000}
parameters:
  train.lr: {float: [1.0e-5, 1.0e-2], log: true}
  train.batch: {choices: [8, 64, 128]}
objective: [val_average_precision, train_seconds]
"""


def test_a_search_that_ctrl_c_ended_goes_on_with_what_it_had_asked_until_its_time_is_over(
    tmp_path,
):
    """Two objectives, and no number of trials that could be reached."""
    storage = tmp_path / "runs"
    limited = command(storage, 200, FRONT, "--time-budget", "15s")
    process = subprocess.Popen(limited, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: checkpoints(storage), "a first checkpoint")
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert code == 1
    assert "the same command continues" in out + err
    assert "Traceback" not in err
    before, kept = asked(storage), checkpoints(storage)
    assert before and kept
    done = subprocess.run(limited, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    after = asked(storage)
    assert after[: len(before)] == before
    assert len(before) <= len(after) < 200
    assert {entry["experiment_id"] for entry in after} == set(results(storage))
    assert not list(storage.glob("running/*/*"))
    folder = storage / "studies/small"
    assert (folder / "search_pareto.png").read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(folder / "search.csv")
    assert set(table["status"]) == {"done"}
    assert not table[["val_average_precision", "train_seconds"]].isna().any(axis=None)
