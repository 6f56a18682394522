"""Runs what the README and the pages show: shell and Python blocks, in their order, for real.

A block that is added runs by itself. What cannot run here is in ``NOT_RUN``, each with its reason.
"""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from page_blocks import PAGES, ROOT, code_blocks, commands_of
from reader_folder import furnish, write_recipe

INSTALLS = "installs packages, as .ci/run does in a fresh environment"
TESTS = "runs tests, which are run as themselves"
CLOUD = "needs an account on cloud machines"
NOT_RUN = {
    "pip install -c constraints.txt .": INSTALLS,
    "pip install -c constraints.txt '.[test]'": INSTALLS,
    "pip install -c constraints.txt '.[export]'": INSTALLS,
    "pip install -c constraints.txt '.[cloud]'": INSTALLS,
    "pip install -c constraints.txt . 'ray[default]' boto3": INSTALLS,
    "make install": INSTALLS,
    "python3.11 -m venv .venv": INSTALLS,
    "source .venv/bin/activate": INSTALLS,
    "pytest": TESTS,
    "pytest tests/models/test_classifier.py tests/evaluation/test_heads.py "
    "tests/config/test_identity.py": TESTS,
    "pytest tests/models tests/training/test_frozen.py tests/sweep/test_queue.py": TESTS,
    "pytest tests/evaluation": TESTS,
    "python benchmarks/run.py": "measures for half an hour",
    "mlflow ui --backend-store-uri sqlite:///runs/mlflow.db": "a server, which does not end",
    "mlflow models serve -m exported/mlflow --env-manager local --host 127.0.0.1 --port 5001": (
        "a server, which does not end; predict, before it, answers the same records"
    ),
    "curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' "
    "-d @records.json": "asks that server",
    "wget -c -x -nH --cut-dirs=3 -P DIR --user USER --ask-password -i images.txt": (
        "needs credentials of PhysioNet"
    ),
    "python launch/sweep.py --grid paper12 --storage s3://BUCKET/runs "
    "--mlflow-uri http://HOST:5000": (
        "needs a bucket and a server; tests/sweep/test_store_sweep.py has stand-ins"
    ),
    "python launch/sweep.py --grid runs/studies/focal-kermany/best.yaml --data table:docs/recipes/"
    "kermany.yaml@DATA/kermany-chest-xray --set fusion.modalities=image --seeds 5 "
    "--study focal-kermany-best": "goes on from a search that is only planned here; Indiana's runs",
    "ray get-auth-token --generate": CLOUD,
    "ray up launch/cluster/cloud.yaml": CLOUD,
    "ray exec launch/cluster/cloud.yaml --tmux 'cd ~/cxr_ray && python launch/sweep.py "
    "--address auto --grid paper12 --profile paper --data mimic:s3://BUCKET/mimic-cxr-jpg "
    "--storage /shared/runs --gpus-per-worker 1'": CLOUD,
    "ray down launch/cluster/cloud.yaml": CLOUD,
    "sbatch --nodes=2 --gpus-per-node=4 launch/cluster/slurm.sh --grid paper12 --profile paper "
    "--data mimic:/shared/mimic-cxr-jpg --storage /shared/runs --gpus-per-worker 1": (
        "needs Slurm; tests/sweep/test_cluster_files.py has stand-ins"
    ),
}
"""Commands that are shown and not run here, and why."""
LISTING = "a listing of folders, held against what was written below"
NO_COMMANDS = {
    "runs/": LISTING,
    "studies/<study>/": LISTING,
    "FROM rayproject/ray:2.60.0-py311-gpu": "a Dockerfile",
    "@property": "a part of a class; tests/test_docs.py runs it in its module",
}
"""First lines of blocks that can not be run by themselves, and why."""

REPLACED = {
    "--profile paper": lambda reader: "--profile small.yaml",
    " --gpus-per-worker 1": lambda reader: "",
    "--trials [0-9]+": lambda reader: "--trials 2",
    "--seeds [0-9]+": lambda reader: "--seeds 2",
    "<(experiment )?id>": lambda reader: reader.trial,
    "COHORT": lambda reader: reader.said.splitlines()[-1].removeprefix("cohort: "),
}
"""What stands in the place of what a reader fills in, or of what takes hours or a GPU."""
ADDED = {
    r"launch/(sweep|prepare|audit)\.py (?!.*--profile)": "--profile small.yaml",
    r"launch/sweep\.py (?!.*--dry-run$)": "--max-concurrent 1",
}
"""Options that commands are given besides."""
PART = "--only dataset=full,loss=bce"
SAME = "--dry-run"  # the one before it does the same with other records or values
PARTS = {
    "--dry-run$": "",
    "--grid paper12 .*cache_frozen": "--only dataset=sub75,loss=bce,modality=image",
    r"--grid paper12 .*text\.encoder": f"{PART},modality=text",
    "--grid paper12 .*(mimic:|kfold)": f"{PART},modality=image",
    "--grid paper12 .*clinic": f"{PART},modality=multimodal",
    "--grid paper12": PART,
    "--grid text_views .*relaxed": "--only view=indication,mask=unmasked",
    "--grid text_views .*strict": SAME,
    "--grid docs/recipes/paper12-positive-majority": SAME,
    "--search focal .*kermany": SAME,
}
"""What of a grid is trained, so that a page takes seconds: the first that matches a command."""
WRITTEN = re.compile(r"(?:--out|--explain|>|launch/export\.py \S+) (\S+)")
SAID = re.compile(
    r"^(?:report|tables|cohort|trial|audit|model|ONNX|card|answers|pictures?): +([^\s,]+)", re.M
)


def first_line(block):
    return block.text.splitlines()[0]


def run_of(block):
    """Give the commands, or the program, of a block that are run."""
    if first_line(block) in NO_COMMANDS:
        return []
    if block.language == "python":
        return [block.text]
    return [one for one in commands_of(block.text) if one not in NOT_RUN] if block.is_shell else []


class Reader:
    """Somebody who follows the pages in one folder, the README first."""

    def __init__(self, folder):
        furnish(folder)
        self.folder, self.said, self._read = folder, "", set()
        where = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": where, "PYTHONPATH": str(ROOT)}

    @property
    def trial(self):
        """The id of the README's first model, as its leaderboard names it."""
        with (self.folder / "runs" / "studies" / "paper12" / "leaderboard.csv").open() as file:
            return next(csv.DictReader(file))["experiment_id"]

    def read(self, page):
        """Run a page's blocks, once."""
        if page not in self._read:
            self._read.add(page)
            write_recipe(self.folder)
            for block in code_blocks(page):
                if block.is_yaml:
                    (self.folder / "FILE.yaml").write_text(block.text)
                elif asked := run_of(block):
                    self._run(block, asked)

    def _run(self, block, asked):
        if block.language == "python":
            written = re.findall(r"""Path\("([^"]+)"\)""", block.text)
            command = [sys.executable, "-c", block.text]
        else:
            asked = [self._asked(each) for each in asked]
            written = [name for each in asked for name in WRITTEN.findall(each)]
            command = ["bash", "-c", "\n".join(["set -euo pipefail", *asked])]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{block.place}: {command[-1]}{done.stdout}{done.stderr}"
        self.said = done.stdout
        for name in [*written, *SAID.findall(done.stdout)]:
            assert (self.folder / name).exists(), f"{block.place} names {name}, which is not there"

    def _asked(self, command):
        for shown, put in REPLACED.items():
            command = re.sub(shown, lambda _, put=put: put(self), command)
        added = [options for which, options in ADDED.items() if re.search(which, command)]
        part = next((options for which, options in PARTS.items() if re.search(which, command)), "")
        return " ".join([command, *added, part])


README, *OTHERS = PAGES
CODE = [page for page in OTHERS if any(map(run_of, code_blocks(page)))]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return Reader(tmp_path_factory.mktemp("reader"))


@pytest.mark.slow
def test_the_blocks_of_the_readme_run(reader):
    reader.read(README)


@pytest.mark.slow
@pytest.mark.parametrize("page", CODE, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_after_the_readmes(reader, page):
    reader.read(README)
    reader.read(page)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("README.md", ["saliency.csv"]),  # of report.saliency, which the profile leaves out
        ("docs/search.md", []),
    ],
)
def test_the_files_that_a_page_lists_are_there_after_its_run(reader, name, lacking):
    page = ROOT / name
    reader.read(README)
    reader.read(page)
    (listing,) = [each for each in code_blocks(page) if NO_COMMANDS.get(first_line(each))]
    named = re.findall(r"[\w*]+\.(?:html|csv|md|png|db|jsonl|yaml|log)", listing.text)
    assert len(named) > 5
    found = (reader.folder / "runs").rglob
    assert [each for each in named if not list(found(each))] == lacking


def test_what_is_not_run_is_still_shown():
    blocks = [block for page in PAGES for block in code_blocks(page)]
    others = [block for block in blocks if first_line(block) not in NO_COMMANDS]
    shown = {each for block in others if block.is_shell for each in commands_of(block.text)}
    assert not NOT_RUN.keys() - shown
    assert not NO_COMMANDS.keys() - set(map(first_line, blocks))
    changed = [*REPLACED, *ADDED, *PARTS]
    assert not [each for each in changed if not any(re.search(each, one) for one in shown)]
