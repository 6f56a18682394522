"""The recipes of docs/real-data.md on the openly licensed data sets, where they are present."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.cohort import select_cohort
from cxr_ray.data.sources import open_source

CHECKOUT = Path(__file__).parents[1]
PAGE = (CHECKOUT / "docs" / "real-data.md").read_text()
COVID = "table:docs/recipes/covid-chestxray.yaml@DATA/covid-chestxray-dataset"
NORMAL = "table:docs/recipes/covid-chestxray-normal.yaml@DATA/covid-chestxray-dataset"
INDIANA = "openi:DATA/indiana-openi"
KERMANY = "table:docs/recipes/kermany.yaml@DATA/kermany-chest-xray"
RELAXED = "cohort.positive=relaxed"

pytestmark = pytest.mark.real_data


@pytest.fixture
def launch(real_data, tmp_path):
    """Run a script as a user types it in the checkout, with results aside."""

    def run(script, *options):
        options = [option.replace("DATA", str(real_data)) for option in options]
        done = subprocess.run(
            [sys.executable, f"launch/{script}", *options, "--storage", str(tmp_path)],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


@pytest.mark.parametrize(
    ("data", "options", "parts"),
    [
        (COVID, [], {"train": (256, 223), "val": (36, 31), "test": (73, 64)}),
        (INDIANA, [], {"train": (660, 18), "val": (95, 3), "test": (188, 5)}),
        (INDIANA, [RELAXED], {"train": (740, 98), "val": (106, 14), "test": (211, 28)}),
        (KERMANY, [], {"train": (1278, 964), "val": (177, 133), "test": (367, 277)}),
    ],
)
def test_the_tables_alone_give_the_known_parts(launch, data, options, parts):
    """Of the covid-chestxray table 166 rows name films that are not in the folder."""
    options = ["--set", *options] if options else []
    said = launch("prepare.py", "--data", data, "--cohort-only", *options)
    found = re.findall(r"^(train|val|test): (\d+) records, (\d+) positive$", said, re.MULTILINE)
    assert {part: (int(n), int(positive)) for part, n, positive in found} == parts


def test_films_that_are_there_and_notes_that_are_not_are_counted_by_class(real_data):
    config = ExperimentConfig()
    spec = COVID.replace("docs", f"{CHECKOUT}/docs").replace("DATA", str(real_data))
    cohort = select_cohort(open_source(spec, config, real_data), config)
    counts = cohort.frame.groupby("part")["label"].agg(["size", "sum"])
    assert counts.loc[["train", "val", "test"]].to_numpy().tolist() == [
        [138, 117],
        [21, 18],
        [40, 34],
    ]
    assert cohort.frame.groupby("patient")["part"].nunique().max() == 1
    assert cohort.flow[-1].note.startswith("66 positive and 0 negative have none")


def test_every_command_of_the_page_has_a_plan_and_says_what_it_leaves_out(launch):
    commands = re.findall(r"^python launch/sweep\.py (.+)$", PAGE, re.MULTILINE)
    # what a search has found is there once it has run
    commands = [line for line in commands if "best.yaml" not in line]
    said = {line: launch("sweep.py", *line.split(), "--dry-run") for line in commands}
    assert len(commands) >= 7
    for line, text in said.items():
        left_out = "left out: text-full-bce: kermany has no text" in text
        assert left_out == ("kermany" in line and "--grid" in line)
        assert ("the objective rests on" in text) == ("--search" in line)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "rows", "left_out"),
    [
        (
            # the negatives are the rare class, and the ratio thins out the positives
            [
                "--grid",
                "paper12",
                "--data",
                COVID,
                "--only",
                "dataset=sub75,loss=bce",
                "--set",
                "data.split.kind=kfold",
                "data.split.folds=3",
                "data.split.repeats=1",
            ],
            {("own", "120", "90"): 3, ("full", "199", "169"): 3},
            "",
        ),
        (
            [
                "--grid",
                "text_views",
                "--data",
                INDIANA,
                "--set",
                RELAXED,
                "--only",
                "view=findings",
            ],
            {("own", "211", "28"): 3, ("full", "211", "28"): 3},
            "",
        ),
        (
            ["--grid", "paper12", "--data", KERMANY, "--only", "dataset=sub75,loss=bce"],
            {("own", "360", "270"): 1, ("full", "367", "277"): 1},
            "left out, since kermany has no text",
        ),
    ],
    ids=["covid-chestxray", "indiana", "kermany"],
)
def test_each_recipe_trains_scores_and_tabulates(launch, tmp_path, options, rows, left_out):
    said = launch("sweep.py", *options, "--profile", "tiny", "--max-concurrent", "1")
    assert left_out in said
    (path,) = tmp_path.glob("studies/*/leaderboard.csv")
    board = list(csv.DictReader(path.open()))
    found = [(row["test_set"], row["n"], row["n_positive"]) for row in board]
    assert {row: found.count(row) for row in found} == rows
    assert all(row["status"] == "done" and 0 <= float(row["auroc"]) <= 1 for row in board)


@pytest.mark.slow
def test_models_of_children_are_tested_on_adults(launch, tmp_path):
    """The external test of docs/real-data.md, with one small model."""
    launch("sweep.py", "--grid", "paper12", "--data", KERMANY, "--profile", "tiny",
           "--only", "dataset=full,loss=bce")  # fmt: skip
    study = str(tmp_path / "studies" / "paper12-kermany")
    said = launch("evaluate.py", study, "--data", NORMAL, "--name", "covid-chestxray")
    assert re.search(r"^image-full-bce +covid-chestxray +367 +277 .* 209 +199 ", said, re.MULTILINE)
