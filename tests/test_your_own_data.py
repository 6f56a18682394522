"""The example of docs/your-own-data.md, run on a table that has its columns."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from reader_folder import write_clinic

from cxr_ray.data.sources.table_recipe import KEYS, LABEL_KEYS, read_recipe

CHECKOUT = Path(__file__).parents[1]
PAGE = (CHECKOUT / "docs" / "your-own-data.md").read_text()


def block(language):
    """The page's first fenced block in a language."""
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.fixture
def clinic(tmp_path):
    """The page's YAML, and a table that starts with the page's rows."""
    write_clinic(tmp_path / "clinic")
    return tmp_path / "clinic"


def test_the_pages_commands_run_on_a_table_as_the_page_shows_it(clinic):
    said = []
    for line in block("sh").splitlines():
        words = line.split()
        assert words[0] == "python"
        if "--cohort-only" not in words and "--dry-run" not in words:
            words.append("--dry-run")
        done = subprocess.run(
            [sys.executable, str(CHECKOUT / words[1]), *words[2:], "--storage", "runs"],
            cwd=clinic.parent,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    # the lateral view goes, and the later ten of those who came twice
    assert re.search(r"view not PA or AP +1 +62 ", said[0])
    assert re.search(r"further records of a patient +10 +52 +41 +11 ", said[0])
    assert "12 experiments" in said[1] and "multimodal-sub75-focal" in said[1]


def test_the_page_explains_every_key_and_no_other():
    named = set(re.findall(r"^\| (`.*?`) \|", PAGE, re.MULTILINE))
    keys = {key for cell in named for key in re.findall(r"`([a-z_.]+)`", cell)}
    assert keys == set(KEYS) - {"label"} | {f"label.{key}" for key in LABEL_KEYS}


def test_sections_named_on_the_page_are_read_from_their_columns(clinic):
    from cxr_ray.config.schema import ExperimentConfig
    from cxr_ray.data.reports import parse_report
    from cxr_ray.data.sources import open_source

    config = ExperimentConfig()
    source = open_source(f"table:{clinic / 'visits.yaml'}", config, clinic)
    frame, _ = source.select(config)
    assert read_recipe(clinic / "visits.yaml")[0].require == ("image",)
    assert frame.set_index("record").loc["v001", "label"] == 1
    assert parse_report(source.read_report("v001")).sections == {
        "indication": "Fever and cough",
        "findings": "Opacity in the left base",
    }
    assert parse_report(source.read_report("v002")).sections["indication"] == "Check before surgery"
