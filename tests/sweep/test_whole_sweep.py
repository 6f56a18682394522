"""The main job as its user runs it: on a real local Ray, killed, resumed and run again."""

import contextlib
import json
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from running_sweeps import SWEEP, planted

TIMINGS = ["train_seconds"]


def sweep_command(storage, *arguments):
    return [
        sys.executable, str(SWEEP), "--grid", "paper12", "--profile", "tiny",
        "--storage", str(storage), *arguments,
    ]  # fmt: skip


def run_sweep(storage, *arguments):
    return subprocess.run(
        sweep_command(storage, *arguments), capture_output=True, text=True, timeout=600
    )


def finished(storage):
    return {path.parent.name: path for path in Path(storage).glob("trials/*/result.json")}


def children(storage):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    runs = [
        run
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id], max_results=1000)
    ]
    return client, runs


def probabilities(storage):
    return {
        identity: pq.read_table(path.parent / "predictions.parquet")["probability"].to_numpy()
        for identity, path in finished(storage).items()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    storage = tmp_path_factory.mktemp("undisturbed")
    done = run_sweep(storage)
    assert done.returncode == 0, done.stderr
    return storage, done


# Where the driver is killed, in the order in which one sweep gets there: an audit event of Python
# and the path that it is about, and how often it is let pass.
KILLS = {
    "before MLflow's database is whole": ("os.rename", r"/mlflow\.db$", 0),
    "before the first lease": ("open", r"running/\w+/\.lease-guard$", 0),
    "between the best weights and the checkpoint": ("open", r"/\.last\.pt$", 1),
    "between the weights and the result": ("open", r"finished/result\.json$", 0),
    "between a trial's end and that of its lease": ("shutil.rmtree", r"running/\w+$", 0),
    "while a child is logged": ("os.rename", r"mlartifacts/.*roc\.png$", 0),
    "while tables are written": ("open", r"studies/paper12/comparisons\.csv$", 0),
}
RANDOM_KILLS = 3


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory):
    """Kill the driver at named moments and at random ones, and run the same command each time."""
    storage = tmp_path_factory.mktemp("killed")
    log = storage.with_name("checkpoints")
    before, happened = {}, []

    def run_until(what, faults=(), seconds=600.0):
        driver = subprocess.Popen(
            sweep_command(storage),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=planted(*faults, log=log),
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(timeout=seconds)
        driver.kill()
        happened.append(f"{what}: {driver.wait()}, {len(finished(storage))} finished")
        for identity, path in finished(storage).items():
            before.setdefault(identity, path.stat().st_mtime_ns)

    for number, (what, fault) in enumerate(KILLS.items()):
        if number == len(KILLS) // 2:  # when some models are trained, and not all
            for _ in range(RANDOM_KILLS):
                seconds = random.uniform(1, 10)
                run_until(f"after {seconds:.2f} s", seconds=seconds)
        run_until(what, [fault])
    done = run_sweep(storage)
    assert done.returncode == 0, done.stderr
    print(*happened, sep="\n")  # shown where a test fails
    return storage, before, happened, log.read_text().splitlines()


def test_one_command_trains_compares_and_tracks_twelve_models(undisturbed):
    storage, done = undisturbed
    assert done.stdout.startswith("profile tiny, data phantom")
    for title in ("Figure 2", "Figure 3", "Figure 4", "Leaderboard", "Comparisons"):
        assert title in done.stdout
    assert f"mlflow ui --backend-store-uri sqlite:///{storage}/mlflow.db" in done.stdout
    leaderboard = pd.read_csv(storage / "studies/paper12/leaderboard.csv")
    assert len(leaderboard) == 24
    assert (leaderboard["status"] == "done").all()
    full = leaderboard[leaderboard["dataset"] == "full"].set_index("experiment_id")
    own, whole = (full[full["test_set"] == name] for name in ("own", "full"))
    figures = ["n", "accuracy", "precision", "recall", "f1", "auroc", "average_precision"]
    pd.testing.assert_frame_equal(own[figures], whole[figures])
    sensitivity = pd.read_csv(storage / "studies/paper12/sensitivity.csv")
    assert set(sensitivity["modality"]) == {"multimodal"}
    assert set(sensitivity["perturbation"]) == {
        f"{modality}_{how}"
        for modality in ("image", "text")
        for how in ("shuffled", "shuffled_within_class", "missing")
    }
    assert len(sensitivity) == 4 * 6 * 6
    contribution = pd.read_csv(storage / "studies/paper12/contribution.csv")
    assert len(contribution) == 4 * (3 + 10 + 6 + 3)
    assert not contribution[["value", "low", "high"]].isna().any(axis=None)
    comparisons = pd.read_csv(storage / "studies/paper12/comparisons.csv")
    primary = comparisons[comparisons["family"] == "primary"]
    assert primary["axis"].value_counts().to_dict() == {"modality": 8, "dataset": 6, "loss": 6}
    assert not comparisons[["difference", "low", "high", "p_holm"]].isna().any(axis=None)
    assert (primary["verdict"] == "not separated").sum() > 10  # what so small a test set can say
    assert not list(storage.glob("running/*/*"))
    assert "Leakage audit: 0 findings" in done.stdout
    audit = pd.read_csv(storage / "studies/paper12/audit.csv")
    assert {"patient_overlap", "image_copies", "text_probe", "label_source"} <= set(audit["kind"])
    rescored = pd.read_csv(storage / "studies/paper12/rescored.csv")
    assert rescored["modality"].value_counts().to_dict() == {"multimodal": 4, "text": 4}


def test_a_trial_folder_holds_what_the_design_names(undisturbed):
    storage, _ = undisturbed
    for path in finished(storage).values():
        names = {entry.name for entry in path.parent.iterdir()}
        assert names >= {
            "config.yaml", "result.json", "history.csv", "predictions.parquet", "features.npz",
            "model", "figures",
        }  # fmt: skip
        assert {figure.name for figure in (path.parent / "figures").iterdir()} == {
            "roc.png", "precision_recall.png", "reliability.png", "confusion.png",
        }  # fmt: skip


def test_the_tracker_holds_one_parent_and_a_comparable_child_for_each_trial(undisturbed):
    storage, _ = undisturbed
    client, runs = children(storage)
    trials = [run for run in runs if "experiment_id" in run.data.tags]
    parents = [run for run in runs if "experiment_id" not in run.data.tags]
    assert [run.info.run_name for run in parents] == ["paper12"]
    assert len(trials) == 12
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parents[0].info.run_id}
    assert {run.info.run_name for run in trials} >= {"multimodal-full-bce", "text-sub75-focal"}
    for run in trials:
        assert run.info.status == "FINISHED"
        assert {"test/auroc", "test_full/auroc", "train/loss", "val/auroc"} <= set(run.data.metrics)
        assert {"loss.kind", "fusion.modalities", "train.lr"} <= set(run.data.params)
        figures = [entry.path for entry in client.list_artifacts(run.info.run_id, "figures")]
        assert "figures/roc.png" in figures
        history = client.get_metric_history(run.info.run_id, "val/loss")
        assert len(history) == run.data.metrics["epochs"]
    shuffled = [r for r in trials if "sensitivity/text_shuffled/auroc" in r.data.metrics]
    assert len(shuffled) == 4


def test_the_same_command_again_trains_nothing_and_changes_no_byte(undisturbed):
    storage, _ = undisturbed
    leaderboard = storage / "studies/paper12/leaderboard.csv"
    before, times = (
        leaderboard.read_bytes(),
        {p: p.stat().st_mtime_ns for p in storage.glob("trials/*/*")},
    )
    done = run_sweep(storage)
    assert done.returncode == 0
    assert "experiments: 12 there already, 0 to train" in done.stderr
    assert "starting Ray" not in done.stderr
    assert leaderboard.read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in storage.glob("trials/*/*")} == times
    assert len([r for r in children(storage)[1] if "experiment_id" in r.data.tags]) == 12


@pytest.mark.slow
def test_a_sweep_whose_driver_is_killed_at_ten_moments_repeats_no_finished_trial(
    killed_and_resumed,
):
    storage, before, happened, _ = killed_and_resumed
    assert len(happened) == len(KILLS) + RANDOM_KILLS
    named = [each for each in happened if not each.startswith("after ")]
    assert all(f": {-signal.SIGKILL}, " in each for each in named), happened
    assert len(before) == len(finished(storage)) == 12
    for identity, when in before.items():
        assert finished(storage)[identity].stat().st_mtime_ns == when, happened
    assert not list(storage.glob("running/*/*"))
    _, runs = children(storage)
    trials = [run.data.tags["experiment_id"] for run in runs if "experiment_id" in run.data.tags]
    assert sorted(trials) == sorted(finished(storage))
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.slow
def test_a_killed_sweep_repeats_at_most_the_epoch_under_way_of_an_unfinished_trial(
    killed_and_resumed,
):
    storage, _, happened, checkpoints = killed_and_resumed
    furthest, attempts = dict.fromkeys(finished(storage), 0), {}
    for line in checkpoints:
        identity, attempt, epochs = line.split()
        if attempts.get(identity) != attempt:  # its last worker may have ended an epoch meanwhile
            assert int(epochs) >= furthest[identity], (checkpoints, happened)
            attempts[identity] = attempt
        furthest[identity] = max(furthest[identity], int(epochs))
    for identity, path in finished(storage).items():
        assert furthest[identity] == json.loads(path.read_text())["epochs"]
        assert len([line for line in checkpoints if line.startswith(identity)]) <= (
            furthest[identity] + len(happened)
        )


@pytest.mark.slow
def test_a_killed_and_resumed_sweep_gives_the_bytes_of_an_undisturbed_one(
    undisturbed, killed_and_resumed
):
    first, second = probabilities(undisturbed[0]), probabilities(killed_and_resumed[0])
    assert first.keys() == second.keys()
    for identity in first:
        assert first[identity].tobytes() == second[identity].tobytes()
    for name, timings in (("leaderboard", TIMINGS), ("comparisons", []), ("sensitivity", [])):
        tables = [
            pd.read_csv(storage / f"studies/paper12/{name}.csv").drop(columns=timings)
            for storage in (undisturbed[0], killed_and_resumed[0])
        ]
        pd.testing.assert_frame_equal(*tables)


def test_another_profile_under_the_same_study_name_is_refused(undisturbed):
    storage, _ = undisturbed
    done = subprocess.run(
        [sys.executable, str(SWEEP), "--grid", "paper12", "--storage", str(storage)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "--study" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_patient_id_leaves_the_prepared_folder(undisturbed):
    storage, _ = undisturbed
    cohort = pd.read_csv(next(storage.glob("prepared/*/cohort.csv")), dtype=str)
    marks = {*cohort["patient"], *cohort["record"]}
    assert all(len(mark) == 8 and mark.isdigit() for mark in marks)

    # Eight digits that are no part of a longer number, nor of a fraction.
    number = re.compile(rb"(?<![0-9.])[0-9]{8}(?![0-9.])")

    def ids_in(path):
        return {found.decode() for found in number.findall(path.read_bytes())}

    outside = [
        path
        for path in storage.rglob("*")
        if path.is_file() and storage / "prepared" not in path.parents
    ]
    assert {".db", ".parquet", ".npz", ".md", ".json"} <= {path.suffix for path in outside}
    for path in outside:
        assert not ids_in(path) & marks, path
    inside = next(storage.glob("prepared/*/cohort.csv"))
    assert ids_in(inside) >= marks  # the search finds what is there
    predictions = pq.read_table(next(storage.glob("trials/*/predictions.parquet"))).to_pandas()
    assert not set(predictions["record_id"]) & marks
    assert not set(predictions["group"]) & marks
    assert np.all(predictions["record_id"].str.fullmatch("[0-9a-f]{16}"))


@pytest.mark.parametrize(
    ("grid", "trained", "left_out"),
    [
        pytest.param("text_views", 12, set(), marks=pytest.mark.slow),
        ("ratios", 8, {"sub90", "sub80"}),
    ],
)
def test_the_other_shipped_grids_run_and_say_what_they_leave_out(
    undisturbed, grid, trained, left_out
):
    storage, _ = undisturbed
    command = sweep_command(storage)
    command[command.index("paper12")] = grid
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    leaderboard = pd.read_csv(storage / "studies" / grid / "leaderboard.csv")
    assert leaderboard["experiment_id"].nunique() == trained
    assert set(leaderboard["status"]) == {"done"}
    study = json.loads((storage / "studies" / grid / "study.json").read_text())
    assert {each["name"].split("-")[1] for each in study["left_out"]} == left_out
    assert all("above the cohort's own" in each["reason"] for each in study["left_out"])
    assert (storage / "studies" / grid / "report.html").exists()


@pytest.mark.slow
def test_two_workers_a_trial_go_through_ray_train_to_the_same_kind_of_folder(undisturbed):
    storage, _ = undisturbed
    done = run_sweep(
        storage, "--workers-per-trial", "2", "--only", "modality=image,dataset=full,loss=bce",
        "--set", "train.seed=1", "--study", "ddp",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    members = json.loads((storage / "studies/ddp/study.json").read_text())["members"]
    (member,) = (each for each in members if each["name"] == "image-full-bce-seed1")
    result = json.loads((storage / "trials" / member["experiment_id"] / "result.json").read_text())
    assert result["compute"]["workers"] == 2
    assert (storage / "trials" / member["experiment_id"] / "predictions.parquet").exists()
