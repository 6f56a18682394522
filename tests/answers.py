"""Running a script in this process, and what it is given, right or wrong."""

import contextlib
import importlib.util
import io
import json
import signal
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[1] / "launch"
DRY = ("--grid", "paper12", "--profile", "tiny", "--dry-run")
RECIPE = "csv: a.csv\npatient: who\ntext: report\nlabel: {column: ill, positive: 1, negative: 0}\n"


def answer(script, argv, folder, monkeypatch):
    """Run a script in this process and in a folder: its exit code, and all that it said."""
    monkeypatch.syspath_prepend(str(LAUNCH))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(LAUNCH / script), *argv])
    spec = importlib.util.spec_from_file_location(f"launch_{Path(script).stem}", LAUNCH / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    said, before = io.StringIO(), signal.getsignal(signal.SIGINT)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            with pytest.raises(SystemExit) as ended:
                module.run_script(module.main, module.build_parser())
    finally:
        signal.signal(signal.SIGINT, before)
    return ended.value.code, said.getvalue()


def sweep(*options):
    """Options after a grid's dry run."""
    return lambda folder: [*DRY, *options]


def sets(*assignments):
    return sweep("--set", *assignments)


def run(*options):
    return lambda folder: [*DRY[:-1], *options]


def search(*options):
    return lambda folder: ["--search", "focal", "--dry-run", *options]


def written(name, text, *options):
    """Write a file, then give the options."""

    def build(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return list(options)

    return build


def grid(text):
    return written("g.yaml", text, "--grid", "g.yaml", "--profile", "tiny", "--dry-run")


def space(text):
    return written("s.yaml", text, "--search", "s.yaml", "--profile", "tiny", "--dry-run")


def profile(text):
    return written("p.yaml", text, "--grid", "paper12", "--profile", "p.yaml", "--dry-run")


def argv(*options):
    return lambda folder: list(options)


def table(csv, *options, recipe=RECIPE):
    """A table's recipe, and its CSV unless None."""

    def build(folder):
        (folder / "t.yaml").write_text(recipe)
        if csv is not None:
            (folder / "a.csv").write_text(csv)
        return ["--data", "table:t.yaml", "--profile", "tiny", *options]

    return build


def study(content, *options):
    """A storage with one study's record of this content."""

    def build(folder):
        for name in ("trials", "prepared", "running"):
            (folder / "runs" / name).mkdir(parents=True)
        path = folder / "runs" / "studies" / "mine" / "study.json"
        path.parent.mkdir(parents=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return list(options)

    return build
