"""Sentences about how a study was computed."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from prepared_phantom import tiny_config

from cxr_ray.storage import Storage
from cxr_ray.sweep.remarks import (
    remark_on_arithmetic,
    remark_on_cuda_switches,
    remark_on_lost_workers,
)
from cxr_ray.sweep.resources import TrialResources

PLAIN = {"device": "cpu", "precision": "float32", "channels_last": False, "workers": 2}


@dataclass(frozen=True)
class FakeMember:
    trained_id: str
    name: str
    config: object


def plan_of(**fields):
    members = (FakeMember("a", "first", tiny_config(**fields)),
               FakeMember("b", "second", tiny_config(**fields)))  # fmt: skip
    return SimpleNamespace(members=members, selected=members)


@pytest.fixture
def computed(tmp_path):
    storage = Storage.open(str(tmp_path))

    def write(**ways):
        for identity, how in ways.items():
            (storage.trials / identity).mkdir()
            (storage.trials / identity / "result.json").write_text(json.dumps({"compute": how}))
        return storage

    return write


def test_what_only_cuda_does_is_named_where_there_is_none():
    plan = plan_of(compute__precision="bfloat16", compute__compile=True)
    assert remark_on_cuda_switches(plan, TrialResources()) == [
        "Only CUDA does compute.precision=bfloat16, compute.compile=True; without "
        "--gpus-per-worker it is off."
    ]
    assert remark_on_cuda_switches(plan, TrialResources(gpus_per_worker=1)) == []
    assert remark_on_cuda_switches(plan_of(compute__precision="float64"), TrialResources()) == []


def test_a_trial_that_lost_workers_is_named(computed):
    storage = computed(a=PLAIN, b={**PLAIN, "fewest_workers": 1})
    (sentence,) = remark_on_lost_workers(storage, plan_of(), ["a", "b"])
    assert "went on second (1 of 2)" in sentence
    assert remark_on_lost_workers(storage, plan_of(), ["a"]) == []


def test_lost_workers_and_switches_that_are_off_are_no_other_arithmetic(computed):
    storage = computed(a=PLAIN, b={**PLAIN, "compile": False, "fewest_workers": 1})
    assert remark_on_arithmetic(storage, plan_of(), ["a", "b"]) == []
    assert remark_on_arithmetic(storage, plan_of(compute__precision="bfloat16"), ["a"]) == []
    (sentence,) = remark_on_arithmetic(storage, plan_of(compute__precision="float64"), ["a"])
    assert "float64 asked for" in sentence
