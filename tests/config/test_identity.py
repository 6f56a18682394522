import os
import shutil
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.config.identity import (
    cohort_key,
    data_keys,
    digest,
    experiment_id,
    fingerprint_weights,
    recipe_read,
)
from cxr_ray.config.layers import field_names, parse_assignments, resolve
from cxr_ray.config.schema import FusionConfig
from cxr_ray.data.sources import open_source

MODALITIES = {"multimodal": "image,text", "image": "image", "text": "text"}
EVERY = frozenset(MODALITIES)
NEVER: frozenset[str] = frozenset()
# A small model of each kind: all its weights are random, so that nothing but the config matters.
SMALL = [
    "image.encoder=resnet_small",
    "image.weights=null",
    "text.encoder=scratch",
    "loss.kind=focal",
]
# Which models' ids change with each field: where a MIMIC-like source reads every cohort rule.
# A field without a decision here fails a test, and so does one that is gone.
DECISIONS = {
    "data.seed": ("1", EVERY),
    "data.majority_share": ("0.75", EVERY),
    "data.max_bad_share": ("0.5", NEVER),
    "data.follow_links": ("true", NEVER),
    "data.require": ("image", EVERY),
    "data.split.kind": ("official", EVERY),
    "data.split.shares": ("0.6,0.2,0.2", EVERY),
    # Only a split into folds has them: see the test below.
    "data.split.folds": ("4", NEVER),
    "data.split.repeats": ("2", NEVER),
    "data.split.validation": ("holdout", NEVER),
    "cohort.view": ("AP", EVERY),
    "cohort.orientation": ("Recumbent", EVERY),
    "cohort.portable": ("keep", EVERY),
    "cohort.rows": ("3056", EVERY),
    "cohort.columns": ("2544", EVERY),
    "cohort.labels": ("negbio", EVERY),
    "cohort.label": ("Edema", EVERY),
    "cohort.uncertain": ("positive", EVERY),
    "cohort.negative": ("not_positive", EVERY),
    "cohort.positive": ("relaxed", EVERY),
    "cohort.per_patient": ("all", EVERY),
    # The phantom's parameters act through the source's fingerprint: see the tests below.
    "phantom.patients": ("500", NEVER),
    "phantom.positive_share": ("0.3", NEVER),
    "phantom.image_signal": ("0", NEVER),
    "phantom.text_signal": ("0", NEVER),
    "phantom.relation": ("xor", NEVER),
    "phantom.leaky": ("true", NEVER),
    "phantom.seed": ("1", NEVER),
    "phantom.demographics": ("true", NEVER),
    "phantom.gap": ("0.7", NEVER),
    "image.encoder": ("resnet18", EVERY - {"text"}),
    "image.size": ("64", EVERY - {"text"}),
    "image.weights": ("imagenet", EVERY - {"text"}),
    "image.freeze": ("none", EVERY - {"text"}),
    "image.batch_norm": ("frozen", EVERY - {"text"}),
    "image.features": ("32", EVERY - {"text"}),
    "image.shift": ("0.1", EVERY - {"text"}),
    "image.rotate": ("5", EVERY - {"text"}),
    "text.encoder": ("some-hub/bert", EVERY - {"image"}),
    "text.sections": ("findings", EVERY - {"image"}),
    "text.mask": ("label_terms", EVERY - {"image"}),
    "text.max_tokens": ("64", EVERY - {"image"}),
    "text.pooling": ("mean", EVERY - {"image"}),
    "text.freeze": ("all", EVERY - {"image"}),
    "text.features": ("32", EVERY - {"image"}),
    "text.layers": ("1", EVERY - {"image"}),
    "text.width": ("64", EVERY - {"image"}),
    "text.heads": ("4", EVERY - {"image"}),
    "text.vocabulary": ("500", EVERY - {"image"}),
    "text.dropout": ("0.2", EVERY - {"image"}),
    "fusion.modalities": (None, EVERY),
    "fusion.kind": ("gated", {"multimodal"}),
    "fusion.hidden": ("32", NEVER),
    "fusion.modality_dropout": ("0.2", {"multimodal"}),
    "fusion.auxiliary": ("0.5", {"multimodal"}),
    "fusion.modulation": ("0.5", {"multimodal"}),
    "loss.kind": ("bce", EVERY),
    "loss.alpha": ("0.5", EVERY),
    "loss.gamma": ("3", EVERY),
    "loss.positive_weight": ("3", NEVER),
    "loss.tau": ("2", NEVER),
    "train.seed": ("1", EVERY),
    "train.batch": ("32", EVERY),
    "train.lr": ("0.01", EVERY),
    "train.optimizer": ("adamw", EVERY),
    "train.weight_decay": ("0.1", EVERY),
    "train.schedule": ("constant", EVERY),
    "train.sampler": ("balanced", EVERY),
    "train.max_epochs": ("2", EVERY),
    "train.patience": ("1", EVERY),
    "train.monitor": ("val_auroc", EVERY),
    "train.accumulate": ("2", EVERY),
    # Where it rounds it makes another experiment: see tests/training/test_frozen.py.
    "train.cache_frozen": (True, NEVER),
    "train.cache_precision": ("float16", NEVER),
    "evaluation.permutations": ("99", NEVER),
    "evaluation.bootstrap": ("200", NEVER),
    "evaluation.ece_bins": ("5", NEVER),
    "evaluation.prevalence": ("0.05", NEVER),
    "evaluation.decision_range": ("[0.05, 0.3]", NEVER),
    "compute.precision": ("float64", NEVER),
    "compute.channels_last": (True, NEVER),
    "compute.compile": (True, NEVER),
    "compute.fused_optimizer": (True, NEVER),
    "compute.pinned_copies": (True, NEVER),
    "report.saliency": (False, NEVER),
    "report.show_records": (True, NEVER),
}
FUSION_KINDS = get_args(FusionConfig.model_fields["kind"].annotation)
FUSION_READS = {"fusion.hidden", "fusion.modality_dropout", "fusion.auxiliary"}
LOSS_READS = {
    "bce": set(),
    "focal": {"loss.alpha", "loss.gamma"},
    "weighted_bce": {"loss.positive_weight"},
    "logit_adjusted": {"loss.tau"},
}


def identify(config, fingerprint="a" * 64):
    """The id over a source that reads every cohort rule and has both modalities."""
    required = config.data.require or ("image", "text")
    cohort = cohort_key(fingerprint, config.cohort.model_dump(mode="json"), required, config)
    return experiment_id(config, data_keys(cohort, config))


def identity(*assignments, base=SMALL):
    return identify(resolve([parse_assignments(base), parse_assignments(assignments)]))


def test_every_field_of_the_schema_has_a_decision():
    assert set(field_names()) == set(DECISIONS)


@pytest.mark.parametrize("field", [name for name, (value, _) in DECISIONS.items() if value])
def test_an_id_changes_with_the_fields_that_its_model_reads_and_no_other(field):
    value, changes = DECISIONS[field]
    for model, modalities in MODALITIES.items():
        plain = f"fusion.modalities={modalities}"
        changed = identity(plain, f"{field}={value}") != identity(plain)
        assert changed == (model in changes), model


def test_the_three_modalities_have_different_ids():
    ids = {identity(f"fusion.modalities={each}") for each in MODALITIES.values()}
    assert len(ids) == 3


def test_what_is_off_leaves_the_papers_fusion_as_if_the_field_did_not_exist():
    config = resolve([parse_assignments(SMALL)])
    assert recipe_read(config)["fusion"] == {"kind": "concat", "modalities": ["image", "text"]}
    for alone in ("image", "text"):
        every = ["fusion.kind=mlp", "fusion.hidden=8", "fusion.auxiliary=1"]
        config = resolve([parse_assignments([*every, f"fusion.modalities={alone}"])])
        assert recipe_read(config)["fusion"] == {"modalities": [alone]}


@pytest.mark.parametrize("kind", FUSION_KINDS)
def test_a_fusion_reads_only_its_own_fields(kind):
    reads = FUSION_READS - ({"fusion.hidden"} if kind in ("concat", "average") else set())
    reads = set() if kind == "average" else reads
    for field in FUSION_READS:
        value = DECISIONS[field][0]
        plain = f"fusion.kind={kind}"
        changed = identity(plain, f"{field}={value}") != identity(plain)
        assert changed == (field in reads), field


@pytest.mark.parametrize("kind", LOSS_READS)
def test_a_loss_reads_only_its_own_fields(kind):
    for field in ("loss.alpha", "loss.gamma", "loss.positive_weight", "loss.tau"):
        value = DECISIONS[field][0]
        changed = identity(f"loss.kind={kind}", f"{field}={value}") != identity(f"loss.kind={kind}")
        assert changed == (field in LOSS_READS[kind]), field


def test_a_pretrained_text_encoder_reads_no_shape_of_its_own():
    hub = "text.encoder=some-hub/bert"
    for field in ("layers=1", "width=64", "heads=4", "vocabulary=500", "dropout=0.2"):
        assert identity(hub, f"text.{field}") == identity(hub)
    assert identity(hub, "text.pooling=mean") != identity(hub)


def test_the_official_split_has_no_shares_and_a_seed_only_for_sub_samples():
    official = "data.split.kind=official"
    assert identity(official, "data.split.shares=0.6,0.2,0.2") == identity(official)
    assert identity(official, "data.seed=1") == identity(official)
    sub = "data.majority_share=0.75"
    assert identity(official, sub, "data.seed=1") != identity(official, sub)


def test_a_holdout_split_has_the_keys_that_it_had_before_there_were_folds():
    config = resolve([parse_assignments(SMALL)])
    rules = config.cohort.model_dump(mode="json")
    assert cohort_key("a" * 64, rules, ("image", "text"), config) == "2068e0b59523ba7e"
    split = {"kind": "holdout", "seed": 0, "shares": [0.7, 0.1, 0.2], "majority_share": None}
    assert recipe_read(config)["data"] == split


def test_every_fit_of_a_cross_validation_is_an_experiment_and_all_read_one_cohort():
    config = resolve([parse_assignments([*SMALL, "data.split.kind=kfold"])])
    rules = config.cohort.model_dump(mode="json")
    assert len(config.fits) == 15
    cohorts = {cohort_key("a" * 64, rules, ("image",), fit) for fit in (config, *config.fits)}
    assert len(cohorts) == 1
    keys = [data_keys(*cohorts, fit) for fit in config.fits]
    assert len({key.image for key in keys}) == 1
    # its words are those of the training part
    assert len({key.tokenizer for key in keys}) == len({key.text for key in keys}) == 15
    assert len({identify(fit) for fit in config.fits}) == 15


def test_fits_read_one_text_pack_through_a_pretrained_tokenizer():
    config = resolve([parse_assignments(["data.split.kind=kfold", "text.encoder=some-hub/bert"])])
    assert len({data_keys("c" * 16, fit).text for fit in config.fits}) == 1


def test_more_repeats_leave_the_fits_that_there_are_as_they_were():
    fold = "data.split.kind=kfold"
    few, many = (
        resolve([parse_assignments([*SMALL, fold, f"data.split.repeats={repeats}"])]).fits
        for repeats in (1, 3)
    )
    assert [identify(fit) for fit in few] == [identify(fit) for fit in many[:5]]
    other = resolve([parse_assignments([*SMALL, fold, "data.split.folds=4"])]).fits[0]
    assert identify(other) != identify(few[0])


def test_fits_that_share_a_validation_part_are_others_and_read_another_cohort():
    fold = [*SMALL, "data.split.kind=kfold", "data.split.shares=0.7,0.1,0.2"]
    own, shared = (
        resolve([parse_assignments([*fold, f"data.split.validation={validation}"])])
        for validation in ("fold", "holdout")
    )
    rules = own.cohort.model_dump(mode="json")
    assert cohort_key("a" * 64, rules, ("image",), own) != (
        cohort_key("a" * 64, rules, ("image",), shared)
    )
    assert not {identify(fit) for fit in own.fits} & {identify(fit) for fit in shared.fits}


def test_an_explicit_default_of_require_is_the_same_experiment():
    assert identity("data.require=[text,image]") == identity()
    assert identity("data.require=[image,text,image]") == identity()


def test_freezing_is_a_set_of_stages():
    assert identity("image.freeze=[layer1,conv1]") == identity("image.freeze=[conv1,layer1,conv1]")


def test_another_source_is_another_experiment():
    config = resolve([parse_assignments(SMALL)])
    assert identify(config, "b" * 64) != identify(config)


def test_all_phantom_fields_change_the_phantoms_fingerprint():
    prints = set()
    fields = [name for name in DECISIONS if name.startswith("phantom.")]
    for assignments in [[]] + [[f"{field}={DECISIONS[field][0]}"] for field in fields]:
        config = resolve([parse_assignments(assignments)])
        prints.add(open_source("phantom", config, Path("nowhere")).fingerprint())
    assert len(prints) == len(fields) + 1


def test_two_storages_give_the_same_id(tmp_path):
    config = resolve([parse_assignments([*SMALL, "phantom.patients=50"])])
    prints = {
        open_source("phantom", config, tmp_path / name).fingerprint() for name in ("one", "two")
    }
    assert len({identify(config, each) for each in prints}) == 1


@given(st.permutations([*SMALL, "train.lr=0.1", "data.seed=3", "text.width=64"]))
def test_the_order_in_which_fields_are_given_changes_no_id(items):
    assert identity(base=items) == identity(base=sorted(items))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=5))
def test_a_digest_ignores_key_order(recipe):
    assert digest(dict(reversed(recipe.items()))) == digest(recipe)


@given(st.floats(0.5, 0.99), st.floats(0.5, 0.99))
def test_ids_of_class_ratios_agree_exactly_where_the_ratios_do(one, other):
    ids = [identity(f"data.majority_share={share!r}") for share in (one, other)]
    assert (ids[0] == ids[1]) == (one == other)


def write_bert(folder, weights=b"weights", tokenizer=b"{}"):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_bytes(tokenizer)
    return folder


def test_a_local_encoder_is_known_by_its_content_not_its_place(tmp_path):
    first = write_bert(tmp_path / "one")
    second = Path(shutil.copytree(first, tmp_path / "elsewhere" / "two"))
    (second / "README.md").write_text("a note changes no model")
    plain = identity(f"text.encoder={first}")
    assert plain is not None
    assert identity(f"text.encoder={second}") == plain


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_byte_of_a_local_encoder_changes_the_id(tmp_path, file):
    folder = write_bert(tmp_path / "bert")
    before = identity(f"text.encoder={folder}")
    with (folder / file).open("ab") as stream:
        stream.write(b" ")
    after = identity(f"text.encoder={folder}")
    assert after is not None
    assert after != before


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_local_encoder_without_weights_or_tokenizer_has_no_id(tmp_path, file):
    folder = write_bert(tmp_path / "bert")
    (folder / file).unlink()
    assert identity(f"text.encoder={folder}") is None
    assert identity(f"text.encoder={folder}", "fusion.modalities=image") is not None


def test_absent_local_weights_give_no_id(tmp_path):
    assert identity(f"text.encoder={tmp_path / 'absent'}") is None
    assert identity(f"image.weights={tmp_path / 'absent.pth'}") is None
    assert identity("image.weights=weights.pt") is None
    assert identity("image.weights=weights.pt", "fusion.modalities=text") is not None


def test_local_image_weights_are_known_by_content(tmp_path):
    for name, content in (("a.pth", b"1"), ("b.pth", b"1"), ("c.pth", b"2")):
        (tmp_path / name).write_bytes(content)
    ids = [identity(f"image.weights={tmp_path / name}") for name in ("a.pth", "b.pth", "c.pth")]
    assert None not in ids
    assert ids[0] == ids[1] != ids[2]


def test_weights_that_change_in_place_are_hashed_again(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"1")
    before = fingerprint_weights(str(path))
    path.write_bytes(b"2")
    os.utime(path, (1, 1))
    assert fingerprint_weights(str(path)) != before


def test_a_hub_name_enters_by_name():
    assert fingerprint_weights("some-hub/bert") == "some-hub/bert"
    assert identity("text.encoder=some-hub/bert") != identity("text.encoder=other-hub/bert")


def test_a_folder_that_happens_to_have_a_reserved_name_changes_no_id(tmp_path, monkeypatch):
    before = identity(), identity("image.weights=imagenet")
    for name in ("scratch", "imagenet"):
        write_bert(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert (identity(), identity("image.weights=imagenet")) == before
