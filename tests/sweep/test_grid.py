import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_studies import SEARCH_SPACES, experiments_of, grid_of

from cxr_ray.config.layers import PROFILES, Layer, load_profile
from cxr_ray.errors import InputError
from cxr_ray.report.contrasts import declared_contrasts
from cxr_ray.sweep.grid import expand, find_study_file, load_grid

TWO_AXES = """
axes:
  loss: {bce: {loss.kind: bce}, focal: {loss.kind: focal}}
  speed: {slow: {train.lr: 1e-4}, fast: {train.lr: 1e-2}}
"""


def shipped(name):
    return load_grid(find_study_file("--grid", name, SEARCH_SPACES))


def selected(experiments):
    return [experiment for experiment in experiments if experiment.selected]


def names(experiments):
    return [experiment.name for experiment in experiments]


EXPECTED = {
    "paper12": itertools.product(
        ("multimodal", "image", "text"), ("full", "sub75"), ("bce", "focal")
    ),
    "ratios": itertools.product(
        ("multimodal",), ("full", "sub90", "sub80", "sub70", "sub60", "sub50"), ("bce", "focal")
    ),
    "text_views": itertools.product(
        ("text",),
        ("full",),
        ("bce",),
        ("full", "findings", "impression", "indication"),
        ("unmasked", "label_terms", "all_finding_terms"),
    ),
    "spectrum": itertools.product(
        ("multimodal", "image", "text"),
        ("full",),
        ("bce",),
        ("no_finding", "label_negative", "not_positive"),
    ),
    # Spaces, as the coarse grids that they give.
    "focal": (
        ("multimodal", dataset, "focal", f"alpha{alpha}", f"gamma{gamma}", f"lr{lr}")
        for alpha in (0.75, 0.85, 0.95)
        for gamma in (0.5, 1.5)
        for dataset in ("full", "sub75")
        for lr in (0.0001, 0.001)
    ),
    "optimizer": (
        ("multimodal", "full", "bce", *levels, "dropout0.1")
        for levels in itertools.product(
            ("adam", "adamw-weight_decay0.01"),
            ("lr0.0001", "lr0.001"),
            ("warmup", "constant"),
            ("batch64",),
            ("shuffled", "balanced"),
        )
    ),
    "fusion": (
        ("multimodal", "full", "bce", "-".join([*kind, *extra]), f"lr{lr}")
        for kind, has in (
            (("concat",), ("modality_dropout", "auxiliary", "modulation")),
            (("average",), ()),
            (("mlp", "hidden64"), ("modality_dropout", "auxiliary")),
            (("gated",), ("modality_dropout", "auxiliary")),
            (("bilinear", "hidden64"), ("modality_dropout", "auxiliary")),
            (("cross_attention", "hidden64"), ("modality_dropout", "auxiliary")),
        )
        for extra in itertools.product(
            *((f"{name}0", f"{name}{0.3 if name == 'modality_dropout' else 0.5}") for name in has)
        )
        for lr in (0.0001, 0.001)
    ),
}


def test_every_shipped_grid_has_an_expectation_here():
    assert {path.stem for path in SEARCH_SPACES.glob("*.yaml")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_shipped_grid_expands_to_its_run_names(name):
    expected = ["-".join(levels) for levels in EXPECTED[name]]
    experiments = experiments_of(shipped(name))
    assert names(experiments) == expected
    assert len({each.config for each in experiments}) == len(expected)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", EXPECTED)
def test_a_shipped_grid_expands_under_every_profile(name, profile):
    assert expand(shipped(name), load_profile(profile), Layer("--set", {}))


def test_combinations_give_the_papers_focal_parameters():
    losses = {each.name: each.config.loss for each in experiments_of(shipped("paper12"))}
    for modality in ("multimodal", "image", "text"):
        full, sub = losses[f"{modality}-full-focal"], losses[f"{modality}-sub75-focal"]
        assert (full.kind, full.alpha, full.gamma) == ("focal", 0.85, 1.5)
        assert (sub.kind, sub.alpha, sub.gamma) == ("focal", 0.95, 2.0)


def test_levels_set_what_their_names_say():
    by_name = {each.name: each.config for each in experiments_of(shipped("paper12"))}
    config = by_name["image-sub75-bce"]
    assert config.modality == "image"
    assert config.dataset == "sub75"
    assert config.loss.kind == "bce"


def test_only_takes_a_part_of_a_grid():
    experiments = experiments_of(shipped("paper12"), only=["modality=text", "loss=focal"])
    assert names(selected(experiments)) == ["text-full-focal", "text-sub75-focal"]


def test_what_only_leaves_aside_stays_a_member_of_the_study():
    experiments = experiments_of(shipped("paper12"), only=["modality=text"])
    assert names(experiments) == names(experiments_of(shipped("paper12")))
    assert len(selected(experiments)) == 4


def test_several_levels_of_one_axis_are_alternatives_in_the_grids_own_order():
    only = ["modality=text", "modality=image", "modality=text", "dataset=full", "loss=bce"]
    experiments = selected(experiments_of(shipped("paper12"), only=only))
    assert names(experiments) == ["image-full-bce", "text-full-bce"]


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        ("modality", "--only modality: should be axis=level"),
        ("modalty=text", "--only modalty=text: modalty is no axis of the grid, which has modality"),
        ("modality=audio", "audio is no level of axis modality, which has multimodal, image, text"),
    ],
)
def test_only_names_what_the_grid_has(pair, sentence):
    with pytest.raises(InputError) as caught:
        experiments_of(shipped("paper12"), only=[pair])
    assert sentence in str(caught.value)


def test_seeds_are_innermost_and_the_first_has_no_suffix():
    only = ["modality=text", "loss=bce"]
    experiments = selected(experiments_of(shipped("paper12"), only=only, seeds=3))
    assert names(experiments)[:4] == [
        "text-full-bce",
        "text-full-bce-seed1",
        "text-full-bce-seed2",
        "text-sub75-bce",
    ]


def test_seeds_vary_training_and_never_the_split():
    experiments = experiments_of(shipped("ratios"), {"data.seed": 7}, seeds=5)
    assert {each.config.train.seed for each in experiments} == {0, 1, 2, 3, 4}
    assert {each.config.data.seed for each in experiments} == {7}


def test_a_training_seed_beside_several_seeds_is_refused():
    grid = shipped("ratios")
    assert experiments_of(grid, {"train.seed": 4})[0].config.train.seed == 4
    with pytest.raises(InputError, match=r"--set train\.seed: --seeds varies this field"):
        experiments_of(grid, {"train.seed": 4}, seeds=2)


@pytest.mark.parametrize(
    ("field", "value", "setter"),
    [
        ("loss.kind", "bce", "axis loss"),
        ("data.majority_share", 0.6, "axis dataset"),
        ("loss.alpha", 0.5, "a combination"),
    ],
)
def test_setting_a_swept_field_is_refused(field, value, setter):
    with pytest.raises(InputError) as caught:
        experiments_of(shipped("paper12"), {field: value})
    assert str(caught.value) == f"--set {field}: {setter} of grid paper12 sets this field"


def test_set_wins_over_the_grids_base_and_an_axis_over_both(tmp_path):
    grid = grid_of("base: {train.batch: 8, train.lr: 1}\n" + TWO_AXES, tmp_path)
    plain = experiments_of(grid)
    assert [each.config.train.lr for each in plain] == [1e-4, 1e-2, 1e-4, 1e-2]
    assert {each.config.train.batch for each in plain} == {8}
    assert {each.config.train.batch for each in experiments_of(grid, {"train.batch": 4})} == {4}


def test_nested_and_dotted_fields_mean_the_same(tmp_path):
    nested = "axes: {loss: {bce: {loss: {kind: bce, alpha: 0.5}}}}"
    dotted = "axes: {loss: {bce: {loss.kind: bce, loss.alpha: 0.5}}}"
    assert grid_of(nested, tmp_path).axes == grid_of(dotted, tmp_path).axes


def test_a_further_axis_appends_to_run_names(tmp_path):
    experiments = experiments_of(grid_of(TWO_AXES, tmp_path))
    assert names(experiments) == [
        "multimodal-full-bce-slow",
        "multimodal-full-bce-fast",
        "multimodal-full-focal-slow",
        "multimodal-full-focal-fast",
    ]
    assert experiments[1].further_levels == {"speed": "fast"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("axes: {a: {x: {train.lr: 1}}, b: {y: {train.lr: 2}}}", "b=y sets train.lr, which axis a"),
        ("axes: {a: {x: {train.lrr: 1}}}", "train.lrr, which is no config field; did you mean tra"),
        ("base: {los.kind: bce}\n" + TWO_AXES, "base sets los.kind, which is no config field; did"),
        ("axis: {}\n" + TWO_AXES, "unknown key axis; known are axes, base, combinations"),
        ("title: nothing", "axes should be a mapping with at least one entry"),
        ("axes: {a: {}}", "axis a should be a mapping with at least one entry"),
        ("axes: {a: {x: 3}}", "level a=x should be a mapping with at least one entry"),
        ("axes:\n  a: {x: {train.lr: 1}, x: {train.lr: 2}}", "at line 2: x is given twice"),
        (
            TWO_AXES + "combinations: [{when: {loss: foo}, set: {loss.alpha: 1}}]",
            "combination 1: foo is no level of axis loss, which has bce, focal",
        ),
        (
            TWO_AXES + "combinations: [{when: {los: bce}, set: {loss.alpha: 1}}]",
            "combination 1: los is no axis of the grid, which has loss, speed",
        ),
        (
            TWO_AXES + "combinations: [{when: {loss: bce}, set: {train.lr: 1}}]",
            "combination 1 sets train.lr, which axis speed sets already",
        ),
        (TWO_AXES + "combinations: [{if: {loss: bce}}]", "combination 1 has the unknown key if"),
        (TWO_AXES + "combinations: [{set: {loss.alpha: 1}}]", "when should be a mapping"),
        (
            TWO_AXES + "compare: {los: bce}",
            "compare: los is no axis of the grid, which has loss, speed",
        ),
        (
            TWO_AXES + "compare: {loss: dice}",
            "compare: dice is no level of axis loss, which has bce, focal",
        ),
        (TWO_AXES + "compare: {}", "compare should be a mapping with at least one entry"),
        (TWO_AXES + "compare: [loss]", "compare should be a mapping with at least one entry"),
    ],
)
def test_a_grid_that_contradicts_itself_is_refused(tmp_path, text, sentence):
    with pytest.raises(InputError) as caught:
        grid_of(text, tmp_path)
    found = str(caught.value)
    assert str(tmp_path / "mine.yaml") in found
    assert sentence in found
    assert "\n" not in found


def test_a_bad_value_of_a_level_is_refused_even_where_only_leaves_it_out(tmp_path):
    grid = grid_of("axes: {speed: {good: {train.lr: 1}, bad: {train.lr: -1}}}", tmp_path)
    with pytest.raises(InputError, match=r"train\.lr is -1 \(from level speed=bad\): should be gr"):
        experiments_of(grid, only=["speed=good"])


def test_a_bad_value_of_a_combination_says_so(tmp_path):
    text = TWO_AXES + "combinations: [{when: {loss: bce}, set: {loss.alpha: 2}}]"
    with pytest.raises(InputError, match=r"loss\.alpha is 2 \(from combination 1 of mine\)"):
        experiments_of(grid_of(text, tmp_path))


@pytest.mark.parametrize(
    ("name", "compare", "size"),
    [
        ("paper12", {"modality": "multimodal", "dataset": "full", "loss": "bce"}, 8 + 6 + 6),
        ("ratios", {"dataset": "full", "loss": "bce"}, 5 * 2 + 6),
        ("text_views", {"view": "full", "mask": "unmasked"}, 3 * 3 + 4 * 2),
    ],
)
def test_a_shipped_grid_declares_its_family_of_comparisons(name, compare, size):
    grid = shipped(name)
    assert grid.compare == compare
    assert len(declared_contrasts(grid.axes, grid.compare)) == size


def test_a_grid_that_declares_no_comparison_compares_with_first_levels(tmp_path):
    assert grid_of(TWO_AXES, tmp_path).compare == {"loss": "bce", "speed": "slow"}
    declared = grid_of(TWO_AXES + "compare: {speed: fast}", tmp_path)
    assert declared.compare == {"speed": "fast"}


def test_a_level_that_yaml_reads_as_a_number_or_a_truth_can_be_the_reference(tmp_path):
    text = "axes: {share: {0.5: {train.lr: 1}, true: {train.lr: 2}}}\ncompare: {share: 0.5}"
    assert grid_of(text, tmp_path).compare == {"share": "0.5"}


def test_an_unknown_grid_names_the_nearest_shipped_one():
    with pytest.raises(InputError, match=r"--grid paper13: .*ratios.*did you mean paper12\?"):
        find_study_file("--grid", "paper13", SEARCH_SPACES)


def test_a_grid_of_ones_own_is_a_yaml_file(tmp_path):
    grid_of(TWO_AXES, tmp_path, "own")
    path = tmp_path / "own.yaml"
    assert find_study_file("--grid", str(path), SEARCH_SPACES) == path
    assert load_grid(path).name == "own"


@settings(deadline=None)  # the first example pays for imports
@given(st.data())
def test_a_part_of_a_grid_is_the_same_experiments_as_in_the_whole(data):
    grid = shipped("paper12")
    whole = experiments_of(grid)
    only = [
        f"{axis}={level}"
        for axis, levels in grid.axes.items()
        for level in data.draw(st.lists(st.sampled_from(list(levels)), unique=True))
    ]
    part = selected(experiments_of(grid, only=only))
    assert part == [each for each in whole if each in part]
    assert part
