"""What a trial of a search is made of, and what it holds together with the others."""

from types import SimpleNamespace

from small_studies import SMALL, FakeSource

from cxr_ray.config.layers import Layer, resolve
from cxr_ray.sweep.grid import Experiment
from cxr_ray.sweep.plan import make_member
from cxr_ray.sweep.search_plan import SearchPlan

LAYERS = (Layer("profile", SMALL), Layer("base", {"fusion.modalities": ["text"]}))


def test_a_member_holds_only_what_its_trial_has_of_its_own():
    first = make_member(Experiment(resolve([*LAYERS]), {"trial": "t0"}), FakeSource())
    plan = SearchPlan(None, LAYERS, {}, SimpleNamespace(members=[first]))
    drawn = {"train.lr": 0.0125}
    config = plan.member(3, drawn).config
    asked = resolve([*LAYERS, Layer("trial 3", drawn)])
    assert config == asked and config.model_dump() == asked.model_dump()
    assert config.train.lr == 0.0125 != first.config.train.lr
    assert config.data is first.config.data and config.text is first.config.text
    # the names of its fields, as many as there are
    assert config.model_fields_set is first.config.model_fields_set
    assert config.train.model_fields_set is first.config.train.model_fields_set
