import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.config.layers import (
    PLANNED,
    PROFILES,
    Layer,
    field_names,
    flat_parameters,
    flatten,
    load_profile,
    parse_assignments,
    read_yaml,
    resolve,
)
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.sources.table_recipe import read_recipe
from cxr_ray.errors import InputError


def refusal(*assignments):
    """The sentence with which ``--set`` values are refused."""
    with pytest.raises(InputError) as caught:
        resolve([parse_assignments(assignments)])
    return str(caught.value)


def configured(*assignments):
    return resolve([parse_assignments(assignments)])


def test_later_layers_win():
    layers = [
        Layer("profile", {"train.lr": 0.1, "train.batch": 8}),
        Layer("--set", {"train.lr": 1}),
    ]
    config = resolve(layers)
    assert (config.train.lr, config.train.batch, config.train.patience) == (1.0, 8, 3)


def test_a_bad_value_is_refused_even_where_a_later_layer_replaces_it():
    with pytest.raises(InputError, match=r"train\.lr is -1 \(from profile\)"):
        resolve([Layer("profile", {"train.lr": -1}), Layer("--set", {"train.lr": 1})])


def test_every_profile_resolves_and_the_papers_is_the_schemas_default():
    for name in PROFILES:
        resolve([load_profile(name)])
    assert resolve([load_profile("paper")]) == ExperimentConfig()


def test_a_profile_of_ones_own_is_a_yaml_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {lr: 1e-2, max_epochs: 4}\nloss.kind: focal\n")
    config = resolve([load_profile(str(path))])
    assert (config.train.lr, config.train.max_epochs, config.loss.kind) == (0.01, 4, "focal")


def test_an_unknown_profile_names_the_shipped_ones():
    with pytest.raises(
        InputError, match=r"--profile dmo: neither .*demo, tiny, paper.*did you mean demo\?"
    ):
        load_profile("dmo")


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("train.batch=64.5", "train.batch is 64.5 (from --set): should be a valid integer"),
        ("train.batch=many", "train.batch is 'many' (from --set): should be a valid integer"),
        ("train.batch=0", "train.batch is 0 (from --set): should be greater than or equal to 1"),
        ("train.batch=", "train.batch is None (from --set): should be a valid integer"),
        ("train.lr=-1", "train.lr is -1 (from --set): should be greater than 0"),
        ("train.lr=.inf", "train.lr is inf (from --set): should be a finite number"),
        ("train.lr=true", "train.lr is True (from --set): should not be true or false"),
        ("train.batch=yes", "train.batch is True (from --set): should not be true or false"),
        ("data.require=true", "data.require is True (from --set): should not be true or false"),
        ("loss.gamma=-1", "loss.gamma is -1 (from --set): should be greater than or equal to 0"),
        ("loss.gamma=.nan", "loss.gamma is nan (from --set): should be a finite number"),
        ("loss.kind=focl", "'bce', 'focal', 'weighted_bce' or 'logit_adjusted'"),
        ("fusion.kind=foo", "fusion.kind is 'foo' (from --set): should be 'concat', 'average', "),
        ("text.sections=[]", "text.sections is [] (from --set): should have at least 1 entry"),
        ("text.sections=[full,foo]", "text.sections is ['full', 'foo'] (from --set): should be "),
        ("fusion.modalities=image,image", "names one of them twice"),
        ("image.freeze=layer9", "'conv1', 'layer1', 'layer2', 'layer3' or 'layer4'"),
        ("data.majority_share=1", "data.majority_share is 1 (from --set): should be less than 1"),
        ("data.split.shares=.8,.1", "data.split.shares is '.8,.1' (from --set): has too few"),
        ("data.split.shares=.8,.1,.2", "data.split (from --set): the shares [0.8, 0.1, 0.2] add"),
        ("text.width=33", "width 33 is not a multiple of heads 2"),
        ("cohort.label=null", "cohort.label is None (from --set): should be a valid string"),
        ("phantom.leaky=2", "phantom.leaky is 2 (from --set): should be a valid boolean"),
        ("data.split=official", "data.split (from --set) is a section, not a field; set one of "),
        ("train.btch=3", "train.btch (from --set) is no config field; did you mean train.batch?"),
        ("train.lr", "--set train.lr: should be key=value"),
        ("=3", "--set =3: should be key=value"),
        ("text.sections=[full", "--set text.sections=[full: the value is no valid YAML"),
    ],
)
def test_a_bad_value_is_one_sentence_with_field_value_and_what_would_be_right(assignment, sentence):
    found = refusal(assignment)
    assert sentence in found
    assert "\n" not in found


def test_a_field_given_twice_is_refused():
    assert refusal("train.lr=1", "train.lr=2") == "--set train.lr is given twice"


@pytest.mark.parametrize("item", ["=" + "9" * 20_000, "data.seed=" + "9" * 20_000])
def test_a_sentence_repeats_the_beginning_of_a_long_value(item):
    assert f"--set {item[:200]}…" in refusal(item)
    assert len(refusal(item)) < 400


def test_a_field_given_nested_and_dotted_is_refused_not_chosen_from():
    with pytest.raises(InputError, match="^train.lr is given twice: in its section and by"):
        flatten({"train.lr": 1, "train": {"lr": 2}})


def test_numbers_and_lists_are_read_as_people_write_them():
    config = configured(
        "train.lr=1e-3",
        "text.sections=findings,impression",
        "image.freeze=all",
        "data.require=text",
    )
    assert config.train.lr == 0.001
    assert config.text.sections == ("findings", "impression")
    assert len(config.image.freeze) == 5
    assert config.data.require == ("text",)


def test_attention_splits_its_width_among_four_tokens():
    with pytest.raises(InputError, match="no multiple of cross_attention's 4 tokens"):
        configured("fusion.kind=cross_attention", "fusion.hidden=6")
    configured("fusion.kind=cross_attention", "fusion.hidden=8")
    configured("fusion.kind=mlp", "fusion.hidden=6")


def test_modulation_needs_what_each_modality_says_alone():
    with pytest.raises(InputError, match="mlp shows only with auxiliary above 0"):
        configured("fusion.kind=mlp", "fusion.modulation=0.5")
    configured("fusion.kind=mlp", "fusion.modulation=0.5", "fusion.auxiliary=0.1")
    configured("fusion.kind=concat", "fusion.modulation=0.5")
    configured("fusion.kind=mlp", "fusion.modulation=0.5", "fusion.modalities=image")


def test_modalities_have_one_order_however_they_are_given():
    config = configured("fusion.modalities=text,image", "data.require=[text,image,text]")
    assert config.fusion.modalities == config.data.require == ("image", "text")


def test_local_weights_get_their_absolute_path_since_workers_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("bert", "scratch", "imagenet"):
        (tmp_path / folder).mkdir()
    (tmp_path / "net.pth").write_bytes(b"")
    for given_ in ("bert", "./bert", "~/bert"):
        assert configured(f"text.encoder={given_}").text.encoder == str(tmp_path / "bert")
    assert configured("image.weights=net.pth").image.weights == str(tmp_path / "net.pth")
    for unchanged in ("text.encoder=scratch", "text.encoder=hub/bert", "image.weights=imagenet"):
        field, _, value = unchanged.partition("=")
        assert flat_parameters(configured(unchanged))[field] == value
    assert configured("image.weights=null").image.weights is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1", "f.yaml is no valid YAML at line 1"),
        ("- 1", "f.yaml holds list, not a mapping"),
        ("a: 1\nb: 2\na: 3", "f.yaml is no valid YAML at line 3: a is given twice"),
        ("a: {b: 1, b: 2}", "b is given twice"),
        ("a: !!python/object:os.system {}", "f.yaml is no valid YAML"),
    ],
)
def test_bad_yaml_names_the_file_and_the_fault(text, sentence):
    with pytest.raises(InputError) as caught:
        read_yaml(text, "f.yaml")
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("2001-99-99", " at line 1: '2001-99-99' is not a valid timestamp"),
        ("!!timestamp 1", " at line 1: '1' is not a valid timestamp"),
        ("0x_", " at line 1: '0x_' is not a valid int"),
        ("!!int x", " at line 1: 'x' is not a valid int"),
        ("9" * 4400, f" at line 1: '{'9' * 40}' is not a valid int"),
        ("0x" + "f" * 4000, f" at line 1: '0x{'f' * 38}' is not a valid int"),
        ("!!float y", " at line 1: 'y' is not a valid float"),
        ("!!bool z", " at line 1: 'z' is not a valid bool"),
        ("!!map x", " at line 1: expected a mapping node"),
        ("{? [a] : 1}", " at line 1: found unhashable key"),
        ("{? {a: 1} : 1}", " at line 1: found unhashable key"),
        ("&a {x: *a}", " at line 1: a value holds itself"),
        ("&a [*a]", " at line 1: a value holds itself"),
        ("[" * 1000, ": it nests too deeply"),
    ],
)
def test_yaml_values_that_are_none_are_refused_in_one_sentence_wherever_they_stand(
    text, fault, tmp_path
):
    (tmp_path / "own.yaml").write_text(f"csv: {text}")
    for read in (
        lambda: read_yaml(f"data: {text}", "own.yaml"),
        lambda: read_recipe(tmp_path / "own.yaml"),
    ):
        with pytest.raises(InputError) as caught:
            read()
        assert str(caught.value).startswith(f"own.yaml is no valid YAML{fault}")
    item = f"train.lr={text}"
    shown = item if len(item) <= 200 else f"{item[:200]}…"
    assert refusal(item).startswith(f"--set {shown}: the value is no valid YAML{fault}")


def test_anchors_and_merges_are_welcome_in_yaml():
    tree = read_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n1: z\n", "f.yaml")
    assert tree == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, 1: "z"}


def test_flat_parameters_name_every_field_once_in_plain_values():
    flat = flat_parameters(ExperimentConfig())
    assert sorted(flat) == sorted([*field_names(), *PLANNED])
    assert flat["fusion.modalities"] == "image,text"
    assert not any(isinstance(value, list | dict) for value in flat.values())


names = st.text("abcdefgh", min_size=1, max_size=4)
trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(names, inner, min_size=1), max_leaves=8
).filter(lambda tree: isinstance(tree, dict))


@given(trees)
def test_flattening_keeps_every_leaf_and_flattening_twice_changes_nothing(tree):
    def leaves(node):
        return sum(map(leaves, node.values())) if isinstance(node, dict) else 1

    flat = flatten(tree)
    assert len(flat) == leaves(tree)
    assert flatten(flat) == flat


@given(st.floats(1e-12, 1e12), st.integers(1, 10**6), st.sampled_from(["bce", "focal"]))
def test_a_value_survives_the_way_through_yaml_and_set(lr, batch, kind):
    given_ = {"train.lr": lr, "train.batch": batch, "loss.kind": kind}
    items = [f"{key}={yaml.safe_dump(value).splitlines()[0]}" for key, value in given_.items()]
    flat = flat_parameters(configured(*items))
    assert {key: flat[key] for key in given_} == given_


@given(st.data())
def test_a_config_resolves_to_itself(data):
    config = configured(
        f"loss.kind={data.draw(st.sampled_from(['bce', 'focal', 'weighted_bce']))}",
        f"data.majority_share={data.draw(st.sampled_from(['null', '0.75', '0.5']))}",
        f"fusion.modalities={data.draw(st.sampled_from(['image', 'text', 'image,text']))}",
    )
    again = resolve([Layer("config.yaml", flatten(config.model_dump(mode="json")))])
    assert again == config


@pytest.mark.parametrize("field", ["data.split.fold", "data.split.repeat"])
def test_which_fit_an_experiment_is_cannot_be_given(field):
    with pytest.raises(InputError, match=f"{field} .* is set by the sweep.*data.split.repeats"):
        resolve([parse_assignments([f"{field}=1"])])
