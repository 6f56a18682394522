import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import cxr_ray
from cxr_ray.config.schema import FusionConfig

LAUNCH = Path(__file__).parents[1] / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.py") if path.name != "terminal.py")
TRAINING = {"torch", "torchvision", "ray", "mlflow", "transformers", "optuna"}
HEAVY = TRAINING | {"pandas", "numpy", "scipy", "sklearn", "matplotlib", "pydantic"}


class Run:
    """A finished script: what it said, how it ended, what it imported."""

    def __init__(self, folder, script, *options):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", str(LAUNCH / script), *options],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(cxr_ray.__file__).parents[1])},
            timeout=240,
        )
        self.code, self.out = done.returncode, done.stdout
        lines = done.stderr.splitlines()
        imports = [line for line in lines if line.startswith("import time:")]
        self.err = "\n".join(line for line in lines if not line.startswith("import time:"))
        self.imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in imports}


@pytest.fixture
def run(tmp_path):
    """Run a script in an empty folder."""
    return lambda script, *options: Run(tmp_path, script, *options)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_has_an_example_and_imports_nothing_heavy(run, script):
    done = run(script, "--help")
    assert done.code == 0
    assert f"python launch/{script}" in done.out
    assert "--debug" in done.out
    assert not done.imported & HEAVY


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--set", "train.lr=-1"], "train.lr is -1 (from --set): should be greater than 0"),
        (["--set", "train.btch=3"], "train.btch (from --set) is no config field; did you mean tr"),
        (["--set", "loss.kind=bce"], "--set loss.kind: axis loss of grid paper12 sets this field"),
        (["--set", "cohort.rows=1", "text.heads=3"], "is not a multiple of heads 3"),
        (["--profile", "papr"], "neither a shipped profile (demo, tiny, paper) nor a YAML file"),
        (["--only", "modality=audio"], "audio is no level of axis modality"),
        (["--seeds", "0"], "--seeds 0: should be at least 1"),
        (
            ["--data", "mymic:x"],
            "--data: unknown kind 'mymic'; known: phantom, mimic, openi, table",
        ),
        (["--data", "mimic:absent"], "absent does not exist"),
        (["--storage", "nowhere://bucket"], "--storage nowhere://bucket: fsspec cannot open it"),
        (["--storage", "memory://bucket"], "a database cannot lie in an object store; give --mlf"),
        (["--workers-per-trial", "0"], "--workers-per-trial 0: should be at least 1"),
        (["--mlflow-uri", "foo://bar"], "--mlflow-uri foo://bar: should begin with one of http"),
        (["--study", "a" * 200], "should be a plain name of at most 120 characters"),
        (["--study", "a/b"], "--study 'a/b': should be a plain name"),
    ],
)
def test_bad_input_ends_with_code_2_and_one_line(run, tmp_path, options, sentence):
    done = run("sweep.py", "--grid", "paper12", "--dry-run", *options)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert sentence in done.err
    assert "\n" not in done.err
    assert not done.imported & TRAINING
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_can_never_fit_is_refused_before_ray_starts_with_both_figures(run):
    done = run("sweep.py", "--grid", "paper12", "--profile", "tiny", "--workers-per-trial", "999")
    assert done.code == 2
    here = len(os.sched_getaffinity(0))
    assert "needs 999 CPUs (--workers-per-trial 999 times 1 a worker)" in done.err
    assert done.err.endswith(f"and the cluster has {here}")
    assert "ray" not in done.imported


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--search", "focl"], "--search focl: neither one of focal, fusion"),
        (["--search", "paper12"], "paper12.yaml is a grid, with axes and no parameters"),
        (["--search", "focal", "--grid", "paper12"], "not allowed with argument --search"),
        (["--search", "focal", "--set", "train.lr=1"], "--set train.lr: space focal searches this"),
        (
            ["--search", "focal", "--set", "train.monitor=val_loss"],
            "a search ranks, stops and keeps",
        ),
        (["--search", "focal", "--set", "data.split.kind=kfold"], "one validation part"),
        (["--search", "focal", "--seeds", "3"], "--seeds: a search trains each of its trials once"),
        (["--search", "focal", "--only", "loss=bce"], "--only: a search trains each"),
        (["--search", "focal", "--trials", "0"], "--trials 0: should be at least 1"),
        (["--search", "focal", "--keep", "0"], "--keep 0: should be at least 1"),
        (["--search", "focal", "--time-budget", "2x"], "should be like 45s, 30m, 2h or 1d"),
    ],
)
def test_a_search_refuses_what_it_cannot_do(run, tmp_path, options, sentence):
    done = run("sweep.py", "--dry-run", *options)
    assert done.code == 2
    assert sentence in done.err
    assert not done.imported & TRAINING
    assert list(tmp_path.iterdir()) == []


def test_the_dry_run_of_a_search_shows_the_space_trial_0_and_what_is_held(run):
    done = run("sweep.py", "--search", "focal", "--profile", "tiny", "--dry-run")
    assert done.code == 0
    assert "data.majority_share        null  one of null" in done.out
    assert "loss.gamma                  1.5  float 0 to 5" in done.out
    assert "fixed: loss.kind=focal" in done.out
    assert "train.monitor: val_average_precision" in done.out
    assert "sampler tpe, pruner asha" in done.out
    assert "trials: 0 asked for so far, 40 in all" in done.out
    assert not done.imported & TRAINING


def test_an_unknown_grid_is_refused_with_the_shipped_names(run):
    done = run("sweep.py", "--grid", "paper13")
    assert done.code == 2
    assert "paper12, ratios, spectrum, text_views" in done.err
    assert "did you mean paper12?" in done.err


@pytest.mark.parametrize("script", ["prepare.py"])
def test_every_script_refuses_bad_input_alike(run, script):
    done = run(script, "--set", "data.seed=-1")
    assert done.code == 2
    assert done.err == "error: data.seed is -1 (from --set): should be greater than or equal to 0"


def test_a_script_warns_where_the_installed_code_is_not_the_checkouts(tmp_path):
    package = Path(cxr_ray.__file__).parent
    for folder in (LAUNCH, package):
        shutil.copytree(folder, tmp_path / folder.name)

    def said():
        done = subprocess.run(
            [sys.executable, tmp_path / "launch" / "report.py", "absent"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(package.parent)},
            timeout=60,
        )
        assert done.returncode == 2
        return done.stderr

    assert "warning" not in said()
    with (tmp_path / "cxr_ray" / "config" / "profiles" / "tiny.yaml").open("a") as profile:
        profile.write("\n")
    assert said().startswith("warning: the installed cxr_ray is not the code of this checkout; run")


def test_debug_shows_the_traceback_and_keeps_the_exit_code(run):
    done = run("sweep.py", "--grid", "paper12", "--set", "train.lr=-1", "--debug")
    assert done.code == 2
    assert "Traceback (most recent call last)" in done.err
    assert done.err.splitlines()[-1].startswith("error: train.lr is -1")


def test_a_dry_run_on_an_unprepared_phantom_names_all_twelve_and_writes_nothing(run, tmp_path):
    done = run("sweep.py", "--grid", "paper12", "--profile", "tiny", "--dry-run")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "profile tiny, data phantom"
    planned = re.findall(r"^  (\S+) +([0-9a-f]{16})  to prepare and train$", done.out, re.M)
    assert [name for name, _ in planned] == [
        f"{modality}-{dataset}-{loss}"
        for modality in ("multimodal", "image", "text")
        for dataset in ("full", "sub75")
        for loss in ("bce", "focal")
    ]
    assert len({identity for _, identity in planned}) == 12
    assert "after Holm's correction for 20 comparisons" in done.out
    assert "--set data.split.kind=kfold" in done.out
    assert not done.imported & TRAINING
    assert list(tmp_path.iterdir()) == []


def test_a_grid_of_fusions_is_planned_with_a_model_and_an_id_of_its_own_for_each(run, tmp_path):
    kinds = list(get_args(FusionConfig.model_fields["kind"].annotation))
    levels = "".join(f"    {kind}: {{fusion.kind: {kind}}}\n" for kind in kinds)
    (tmp_path / "mine.yaml").write_text("axes:\n  fusion:\n" + levels)
    done = run("sweep.py", "--grid", "mine.yaml", "--profile", "tiny", "--dry-run")
    assert done.code == 0
    planned = re.findall(r"^  (multimodal-full-bce-\w+) +([0-9a-f]{16})", done.out, re.MULTILINE)
    assert [name.rpartition("-")[2] for name, _ in planned] == kinds
    assert len({identity for _, identity in planned}) == len(kinds)


def test_a_dry_run_gives_the_same_ids_in_any_storage(run):
    options = ("sweep.py", "--grid", "paper12", "--profile", "tiny", "--dry-run", "--storage")
    assert run(*options, "one").out == run(*options, "two").out


def test_a_dry_run_without_the_weights_says_which_ids_are_pending(run, tmp_path):
    done = run(
        *("sweep.py", "--grid", "paper12", "--profile", "paper", "--dry-run"),
        *("--set", "phantom.patients=100", "phantom.positive_share=.2"),
        *(f"text.encoder={tmp_path / 'bert'}", "image.weights=absent.pth"),
    )
    assert done.code == 0, done.err
    assert done.out.count("id pending weights") == 12


def test_a_share_out_of_reach_is_left_out_with_its_reason(run):
    done = run(
        *("sweep.py", "--grid", "ratios", "--profile", "tiny", "--dry-run"),
        *("--set", "phantom.positive_share=.3"),
    )
    assert done.code == 0, done.err
    assert (
        "left out: multimodal-sub90-bce: its majority share 0.9 is above the cohort's" in done.out
    )
    assert "8 experiments" in done.out


@pytest.mark.parametrize(
    "said, shown",
    [
        ("at postgresql://user:p@ss@host/db now", "at postgresql://host/db now"),
        ("https://user:a/b@host:5000", "https://host:5000"),
        ("https://token@host/x", "https://host/x"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
    ],
)
def test_passwords_in_addresses_are_not_shown(said, shown, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "launch"))
    from terminal import without_password

    assert without_password(said) == shown
