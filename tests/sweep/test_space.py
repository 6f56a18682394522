"""Spaces: what they refuse, what they draw, and the grids that they give."""

import random

import pytest
from small_studies import SEARCH_SPACES, SMALL

from cxr_ray.config.layers import Layer, load_profile
from cxr_ray.errors import InputError
from cxr_ray.sweep.grid import expand, load_grid, load_search
from cxr_ray.sweep.space import check_values, pack_values

SPACES = [
    path for path in sorted(SEARCH_SPACES.glob("*.yaml")) if "parameters:" in path.read_text()
]

LOSSES = """
parameters:
  loss.kind: {choices: [bce, focal]}
  loss.alpha: {float: [0.5, 0.95], when: {loss.kind: focal}}
  loss.gamma: {float: [0.0, 4.0], step: 0.5, when: {loss.kind: focal}, coarse: [1.0, 2.0]}
  train.lr: {float: [1.0e-5, 1.0e-2], log: true}
"""


def space_of(text, folder):
    path = folder / "mine.yaml"
    path.write_text(text)
    return load_search(path)


def checked(space, **overrides):
    return check_values(space, [Layer("profile", SMALL), space.base, Layer("--set", overrides)])


def refused(text, folder):
    with pytest.raises(InputError) as error:
        checked(space_of(text, folder))
    said = str(error.value)
    assert "mine.yaml" in said
    return said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: none", "has no parameters: a space names its parameters"),
        ("parameters: {}", "parameters is {}"),
        ("parameters: {loss.alfa: {float: [0, 1]}}", "loss.alfa is no config field"),
        ("parameters: {train.lr: {flaot: [0, 1]}}", "unknown key parameters.train.lr.flaot"),
        ("parameters: {train.lr: {float: [0, 1], log: true}}", "should begin above 0"),
        ("parameters: {train.lr: {float: [1, 0.1]}}", "low 1 should be below high 0.1"),
        ("parameters: {train.batch: {int: [16, 64], float: [16, 64]}}", "should have one of"),
        ("parameters: {loss.gamma: {float: [0, 1], step: 0.3}}", "the step 0.3 should lead from"),
        ("parameters: {train.lr: {float: [0.1, 1], coarse: [2]}}", "coarse value 2 is outside"),
        ("parameters: {loss.alpha: {float: [0.5, 1.5]}}", "loss.alpha is 1.5"),
        ("parameters: {train.optimizer: {choices: [adam, sgd]}}", "train.optimizer is 'sgd'"),
        ("parameters: {cohort.negative: {choices: [no_finding]}}", "ranked on different records"),
        ("parameters: {train.seed: {int: [0, 9]}}", "it would change what is compared"),
        ("parameters: {train.monitor: {choices: [val_loss]}}", "cannot be searched"),
        ("parameters: {train.lr: {float: [0.1, 1]}}\nbase: {train.lr: 0.2}", "set by base already"),
        ("parameters: {train.lr: {float: [0.001, 1]}}\nsampler: tpee", "sampler is 'tpee'"),
        ("parameters: {train.lr: {float: [0.001, 1]}}\nobjective: val_loss", "a loss cannot be"),
        (
            "parameters: {train.lr: {float: [0.001, 1]}}\ndirection: minimize",
            "direction minimize should be maximize",
        ),
        (
            "parameters: {train.lr: {float: [0.001, 1]}}\nbase: {train.monitor: val_loss}",
            "train.monitor is val_average_precision in every search",
        ),
        (
            "parameters: {train.lr: {float: [1.0e-4, 1]}}\npruner: asha\n"
            "objective: [val_full_auroc, train_seconds]",
            "pruner asha has one objective",
        ),
        (
            "parameters: {train.lr: {float: [0.1, 1]}}",
            "train.lr 0.0001, from the profile, base or --set, is outside float 0.1 to 1",
        ),
        (
            "parameters: {train.lr: {float: [1.0e-4, 1]}}\nstart_from: {train.lr: 3}",
            "train.lr 3 is outside",
        ),
        (
            "parameters: {train.lr: {float: [1.0e-4, 1]}}\nstart_from: {loss.gamma: 1}",
            "loss.gamma is no parameter of this space",
        ),
        (
            "parameters: {loss.gamma: {float: [0, 2], when: {loss.kind: focal}}}\n"
            "start_from: {loss.gamma: 1}",
            "loss.gamma does not exist there",
        ),
        ("parameters: {loss.gamma: {float: [0, 2]}}", "would be drawn where no model reads it"),
        (
            "parameters:\n  loss.gamma: {float: [0, 2], when: {loss.kind: focal}}\n"
            "  loss.kind: {choices: [bce, focal]}",
            "loss.kind should come before loss.gamma",
        ),
        (
            "parameters:\n  loss.kind: {choices: [bce, focal]}\n"
            "  loss.gamma: {float: [0, 2], when: {loss.kind: focl}}",
            "loss.kind is never 'focl'; it is one of bce, focal",
        ),
    ],
)
def test_a_space_is_refused_with_file_key_and_what_would_be_right(tmp_path, text, said):
    assert said in refused(text, tmp_path)


def test_conditional_parameters_exist_only_where_their_condition_holds(tmp_path):
    space = space_of(LOSSES, tmp_path)
    fixed = checked(space)
    draws = random.Random(0)

    def pick(name, parameter):
        return draws.choice(parameter.levels())

    drawn = [space.draw(fixed, pick) for _ in range(50)]
    kinds = {each["loss.kind"] for each in drawn}
    assert kinds == {"bce", "focal"}
    for each in drawn:
        assert ("loss.gamma" in each) == ("loss.alpha" in each) == (each["loss.kind"] == "focal")


def test_text_settings_exist_only_where_text_is_read(tmp_path):
    text = """
parameters:
  fusion.modalities: {choices: [image, [image, text]]}
  text.mask: {choices: [none, label_terms], when: {fusion.modalities: text}}
"""
    space = space_of(text, tmp_path)
    combinations = [dict(each) for each in space.coarse(checked(space))]
    assert combinations == [
        {"fusion.modalities": "image"},
        {"fusion.modalities": "image,text", "text.mask": "none"},
        {"fusion.modalities": "image,text", "text.mask": "label_terms"},
    ]


def test_trial_0_completes_the_given_values_from_the_config(tmp_path):
    space = space_of(LOSSES + "start_from: {loss.kind: focal, loss.alpha: 0.9}", tmp_path)
    (start,) = space.starts(checked(space, **{"train.lr": 0.005}))
    assert start == {"loss.kind": "focal", "loss.alpha": 0.9, "loss.gamma": 1.5, "train.lr": 0.005}


def test_every_text_view_that_a_trial_may_read_is_prepared_before_the_first(tmp_path):
    text = """
parameters:
  text.mask: {choices: [none, label_terms]}
  image.size: {int: [32, 64], step: 32}
"""
    space = space_of(text, tmp_path)
    fixed = checked(space, **{"image.size": 32})
    packs = {(each["text.mask"], each["image.size"]) for each in pack_values(space, fixed)}
    assert packs == {("none", 32), ("none", 64), ("label_terms", 32), ("label_terms", 64)}
    with pytest.raises(InputError, match="would need 33 sets of packs"):
        many = space_of("parameters: {image.size: {int: [32, 64]}}", tmp_path)
        list(pack_values(many, checked(many, **{"image.size": 32})))


def test_a_space_gives_a_coarse_grid_without_levels_that_do_not_exist(tmp_path):
    (tmp_path / "mine.yaml").write_text(LOSSES)
    grid = load_grid(tmp_path / "mine.yaml")
    assert list(grid.axes) == ["loss", "train.lr"]
    assert list(grid.axes["loss"]) == [
        "bce",
        *(f"focal-alpha{a}-gamma{g}" for a in ("0.5", "0.725", "0.95") for g in (1, 2)),
    ]
    assert len(grid.axes["train.lr"]) == 3
    assert grid.base.values["train.monitor"] == "val_average_precision"


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_every_shipped_space_holds_and_gives_a_grid_of_a_day(path, profile):
    space = load_search(path)
    layers = [load_profile(profile), space.base]
    assert space.starts(check_values(space, layers))
    experiments = expand(load_grid(path), load_profile(profile), Layer("--set", {}))
    assert 4 <= len(experiments) <= 64
    assert len({each.name for each in experiments}) == len(experiments)


def test_a_grid_given_to_search_is_sent_to_grid():
    with pytest.raises(InputError, match=r"paper12.yaml is a grid.*give it to --grid"):
        load_search(SEARCH_SPACES / "paper12.yaml")
