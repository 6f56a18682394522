"""Runs of the scripts on planted data: outside ``prepared/`` none of it may be left."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import pytest
from planted_data import write_mimic, write_table
from planted_strings import MARK, leaks
from sweep.running_sweeps import descendants

pytestmark = pytest.mark.slow

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
# The last level's first step is so long that its loss is no number: a trial that fails.
GRID = """
base: {fusion.modalities: [image, text], text.sections: [indication, findings]}
axes:
  lr: {usual: {train.lr: 1.0e-3}, absurd: {train.lr: 1.0e+30}}
"""
SPACE = """
base: {fusion.modalities: [text]}
parameters:
  train.lr: {float: [1.0e-5, 1.0e-2], log: true}
"""
QUICK = (
    *("train.max_epochs=2", "train.batch=16", "data.max_bad_share=0.1"),
    *("evaluation.bootstrap=100", "evaluation.permutations=99", "report.saliency=true"),
)


class Runs:
    """What scripts said and left, in a folder of their own; and what could be seen meanwhile.

    Attributes
    ----------
    said : dict of str to (int, str)
        Exit code and all output, by the name of a run.
    meanwhile : dict of str to bytes
        Files that held a planted string while a script ran, outside ``prepared/``.
    listening : set of str
        Addresses at which any process of a script listened.
    """

    def __init__(self, folder):
        self.folder, self.storage, self.temp = folder, folder / "runs", folder / "tmp"
        self.data, self.work = folder / "data", folder / "work"
        for each in (self.temp, self.data, self.work, folder / "home"):
            each.mkdir()
        self.said, self.meanwhile, self.listening = {}, {}, set()
        self.seen = {}

    def run(self, name, script, *options):
        # Ray's sockets and all temporary files go into a short path that can be searched.
        places = {"TMPDIR": self.temp, "RAY_TMPDIR": self.temp, "HOME": self.folder / "home"}
        output = self.folder / f"{name}.out"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, str(LAUNCH / script), *map(str, options)],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self.work,
                umask=0o022,
                env={**os.environ, **{key: str(place) for key, place in places.items()}},
            )
            try:
                deadline = time.monotonic() + 600
                while process.poll() is None:
                    assert time.monotonic() < deadline, f"{name} did not end"
                    self.meanwhile |= leaks(*self.outside(), seen=self.seen)
                    self.listening |= listening({process.pid, *descendants(process.pid)})
                    time.sleep(0.5)
            finally:
                process.kill()
        self.said[name] = process.returncode, output.read_text()

    def outside(self):
        """Everything but ``prepared/``, and the data that was planted."""
        kept = [each for each in self.storage.glob("*") if each.name != "prepared"]
        outputs = [each for each in self.folder.iterdir() if each.is_file()]
        return [self.temp, self.work, self.folder / "home", *kept, *outputs]


def listening(processes):
    """Addresses at which processes listen over TCP, in hexadecimal as the kernel writes them."""
    sockets = set()
    for number in processes:
        try:
            for handle in Path(f"/proc/{number}/fd").iterdir():
                sockets.add(os.readlink(handle))
        except OSError:
            continue  # it has ended
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].partition(":")[0])
    return found


@pytest.fixture(scope="module")
def runs():
    """Run scripts on a table and on a MIMIC-shaped folder.

    Preparing is a part of a sweep; what is exported holds a vocabulary, and says so.
    """
    folder = Path(tempfile.mkdtemp(prefix="cxr-planted-", dir="/tmp"))
    runs = Runs(folder)
    table, mimic = f"table:{write_table(runs.data)}", f"mimic:{write_mimic(runs.data / 'mimic')}"
    (runs.data / "small.yaml").write_text(GRID)
    (runs.data / "rates.yaml").write_text(SPACE)
    usual = ("--profile", "tiny", "--storage", runs.storage, "--set", *QUICK)
    try:
        runs.run("audit", "audit.py", "--data", table, *usual)
        grid = ("--grid", runs.data / "small.yaml", "--data", table)
        runs.run("sweep", "sweep.py", *grid, *usual)
        trial = next((path.parent for path in runs.storage.glob("trials/*/result.json")), "none")
        other = (trial, "--data", mimic, "--debug", "--set")
        runs.run("refused", "evaluate.py", *other, "data.max_bad_share=0")
        runs.run("evaluate", "evaluate.py", *other, "data.max_bad_share=0.1")
        (runs.data / "new.csv").write_text(
            f"image,text\n{MARK}folder0/{MARK}film0.png,{MARK}text\n{MARK}none.png,{MARK}text\n"
        )
        asked = (trial, "--table", runs.data / "new.csv", "--out", folder / "answers.csv")
        runs.run("predict", "predict.py", *asked)
        space = ("--search", runs.data / "rates.yaml", "--trials", 2, "--data", mimic)
        tracker = ("--mlflow-uri", f"sqlite:///{folder}/elsewhere.db")
        runs.run("search", "sweep.py", *space, *usual, *tracker)
        study = next((path.parent for path in runs.storage.glob("studies/small*/*.html")), "none")
        runs.run("report", "report.py", study)
        runs.run("clean", "clean.py", "--storage", runs.storage, "--also", "packs", "trials")
        yield runs
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *(("audit", 0), ("sweep", 1), ("refused", 2), ("evaluate", 0), ("predict", 0)),
        *(("search", 0), ("report", 0), ("clean", 0)),
    ],
)
def test_every_script_came_to_the_end_that_was_meant(runs, name, code):
    ended, said = runs.said[name]
    assert ended == code, said


def test_no_planted_string_is_left_outside_prepared(runs):
    assert leaks(*runs.outside()) == {}
    assert runs.meanwhile == {}


def test_what_was_searched_is_what_a_run_leaves_behind(runs):
    searched = {path.name for place in runs.outside() for path in (place, *place.rglob("*"))}
    assert searched >= {
        *("mlflow.db", "predictions.parquet", "features.npz", "model.safetensors", "report.html"),
        *("leaderboard.csv", "study.json", "asked.jsonl", "external.json", "raylet.out"),
        *("sweep.out", "answers.csv", "result.json", "gcs_server.out"),
        *("saliency.npz", "saliency.csv"),
    }


def test_the_search_does_find_what_was_planted_where_it_may_be(runs):
    found = {Path(path).name for path in leaks(runs.storage / "prepared")}
    assert "cohort.csv" in found
    assert any(name.startswith("reports-") for name in found)  # compressed parquet
    assert "tokenizer.json" in found
    assert leaks(runs.data)


def test_a_faulty_record_is_in_the_manifest_by_its_hashed_name_and_a_reason_without_it(runs):
    cohorts = list((runs.storage / "prepared").glob("*/manifest.json"))
    faults = [json.loads(path.read_text())["faults"] for path in cohorts]
    assert len(faults) == 3  # of the table, and of the MIMIC-shaped folder for models and a test
    assert {fault["reason"] for each in faults for fault in each} == {"not an image"}
    assert leaks(*cohorts) == {}
    assert "data.max_bad_share: 1 of 88 records" in runs.said["refused"][1]
    assert "Traceback" in runs.said["refused"][1]


def test_a_failed_trial_has_its_reason_in_the_table(runs):
    board = pd.concat(map(pd.read_csv, runs.storage.glob("studies/small*/leaderboard.csv")))
    assert list(board.loc[board["status"] == "failed", "reason"].str[:20]) == [
        "the training loss is"
    ]


def test_what_tells_of_patients_can_be_read_by_its_owner_only(runs):
    for name in ("prepared", "trials", "running", "mlartifacts"):
        assert stat.S_IMODE((runs.storage / name).stat().st_mode) == 0o700, name
    assert stat.S_IMODE((runs.storage / "prepared" / "salt").stat().st_mode) == 0o600


def test_the_salt_is_in_prepared_only(runs):
    salt = (runs.storage / "prepared" / "salt").read_bytes()
    kept = [path for place in runs.outside() for path in (place, *place.rglob("*"))]
    holding = [path for path in kept if path.is_file() and salt in path.read_bytes()]
    assert len(salt) == 32
    assert holding == []


def test_a_model_names_its_tokenizer_by_key_and_holds_no_vocabulary(runs):
    for path in runs.storage.glob("trials/*/model/config.json"):
        key = json.loads(path.read_text())["tokenizer"]
        assert list(runs.storage.glob(f"prepared/*/tokenizer-{key}/tokenizer.json"))
        assert {each.name for each in path.parent.iterdir()} == {"config.json", "model.safetensors"}


def test_predictions_go_to_the_tracker_of_the_storage_only(runs):
    assert list(runs.storage.glob("mlartifacts/**/predictions.parquet"))
    assert (runs.folder / "elsewhere.db").exists()
    assert list(runs.work.rglob("report.html"))
    assert not list(runs.work.rglob("predictions.parquet"))


def test_every_socket_of_a_run_listens_on_loopback(runs):
    assert runs.listening == {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1
