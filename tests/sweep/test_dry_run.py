"""The plan of every shipped grid and space, without writing or training anything."""

import pytest
from small_studies import SEARCH_SPACES

from cxr_ray.sweep.dry_run import describe_plan
from cxr_ray.sweep.sweep import SweepOptions

SHIPPED = sorted(SEARCH_SPACES.glob("*.yaml"))
SPACES = [path for path in SHIPPED if "parameters:" in path.read_text()]


def plan(tmp_path, **asked):
    storage = tmp_path / "runs"
    said = describe_plan(SweepOptions(profile="tiny", storage=str(storage), **asked))
    assert not storage.exists()
    return said


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_grid_and_space_has_a_plan_as_a_grid(tmp_path, path):
    said = plan(tmp_path, grid=path)
    assert f"study {path.stem}: " in said
    assert said.count("to prepare and train") >= 4


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_shipped_space_has_a_plan_as_a_search(tmp_path, path):
    said = plan(tmp_path, search=path, trials=7)
    assert "objective: maximize val_average_precision on the full validation set" in said
    assert "trials: 0 asked for so far, 7 in all" in said


def test_the_levels_of_spectrum_are_cohorts_of_their_own(tmp_path):
    said = plan(tmp_path, grid=SEARCH_SPACES / "spectrum.yaml")
    assert said.count("\ncohort ") == 3
