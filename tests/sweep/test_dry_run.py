"""The plan of every shipped grid and space, without writing or training anything."""

import re
from dataclasses import replace

import pytest
from small_studies import SEARCH_SPACES

from cxr_ray.pricing.prices import ModelPrice
from cxr_ray.sweep.dry_run import _count, describe_plan
from cxr_ray.sweep.options import SweepOptions
from cxr_ray.sweep.price import StudyPrice
from cxr_ray.sweep.sweep import plan_sweep

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
    assert "trials: 0 asked for so far, 7 in all; the importance of parameters needs 10" in said


def test_the_levels_of_spectrum_are_cohorts_of_their_own(tmp_path):
    said = plan(tmp_path, grid=SEARCH_SPACES / "spectrum.yaml")
    assert said.count("\ncohort ") == 3


def test_measured_steps_price_the_study_and_are_measured_once(tmp_path, monkeypatch):
    asked = SweepOptions(
        profile="tiny",
        storage=str(tmp_path),
        grid=SEARCH_SPACES / "paper12.yaml",
        overrides=["train.max_epochs=10"],
        max_concurrent=1,
    )
    assert "time: not measured; " in describe_plan(asked)
    measured = []

    def measure(requests, *_):
        measured.append(len(requests))
        dear = ModelPrice({n: 0.5 for r in requests for n in r.lengths}, {})
        model = ModelPrice(dear.train, dict.fromkeys(dear.train, 0.0), setup=1.0)
        return {r.key: 2.0 if r.statistics_of else model for r in requests}

    monkeypatch.setattr("cxr_ray.sweep.price.measure_on_ray", measure)
    said = describe_plan(asked, measure=True)
    # three models; statistics of each, on the full test set and on both
    assert measured == [3 + 6]
    assert describe_plan(asked, measure=True) == describe_plan(asked) == said
    assert measured == [9]
    full, sub = (int(n) for n in re.findall(r"train: (\d+) records, (\d+) positive", said)[0])
    seconds = 12 * (1 + 2) + 6 * 10 * 0.5 * (full + 4 * sub)
    assert f"no early stop: {seconds / 3600:.2f} trial-hours, 0.00 device-hours" in said
    assert "each is priced at text.max_tokens" in said
    assert "not in it: preparation, tables and MLflow, until a sweep has run here" in said
    planned = plan_sweep(asked, create=False)
    first = planned.plan.members[0]
    counted = {first.keys.cohort: _count(planned.storage, first)[0]}
    price = StudyPrice(planned.storage, planned.plan.members, counted, asked.resources, 1)
    price.keep_closing(33.0)
    assert "(0 s of them to start, 33 s for tables and MLflow)" in describe_plan(asked)
    other = replace(asked, overrides=["train.max_epochs=10", "image.size=48"])
    assert "time: not measured for image-full-bce" in describe_plan(other)
