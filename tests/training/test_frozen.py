import itertools
import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from prepared_phantom import quiet, tiny_config

from cxr_ray.config.identity import experiment_id, frozen_keys
from cxr_ray.config.layers import Layer
from cxr_ray.config.schema import STAGES, ImageConfig
from cxr_ray.data import frozen_pack
from cxr_ray.data.arm import open_arm
from cxr_ray.data.fan_out import run_here
from cxr_ray.data.frozen_pack import frozen_folder, image_outputs
from cxr_ray.errors import InputError
from cxr_ray.models.image import BACKBONES, ImageEncoder
from cxr_ray.report.trial_folder import read_predictions
from cxr_ray.storage import WEIGHTS_FILE
from cxr_ray.sweep.grid import Experiment
from cxr_ray.sweep.plan import make_plan
from cxr_ray.training import frozen
from cxr_ray.training.external import load_classifier
from cxr_ray.training.frozen import cache_frozen, is_cached
from cxr_ray.training.loop import score
from cxr_ray.training.trial import build_classifier, run_job
from cxr_ray.training.world import World

SWEEP = Path(__file__).resolve().parents[2] / "launch" / "sweep.py"
PREFIX = {"image__freeze": "conv1,layer1,layer2", "image__batch_norm": "frozen"}
WHOLE = {"image__freeze": "all", "text__freeze": "all"}
CACHED = {"train__cache_frozen": True}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def cache(phantom, config, fan_out=run_here):
    """Prepare a config's packs and the outputs of its frozen stages."""
    keys = phantom.prepare(config)
    cache_frozen(phantom.storage, [(config, keys)], fan_out=fan_out, progress=quiet, driver="test")
    return keys


def probabilities(logits):
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("fields", [PREFIX, WHOLE], ids=["prefix", "whole"])
@pytest.mark.parametrize(("precision", "within"), [("float32", 1e-6), ("float16", 1e-3)])
def test_a_model_predicts_the_same_from_stored_outputs(phantom, fields, precision, within):
    config = tiny_config(**fields, **CACHED, train__cache_precision=precision)
    plain = tiny_config(**fields)
    keys = cache(phantom, config)
    arm, images = open_arm(phantom.storage, config, keys), phantom.arm(plain)
    assert set(arm.frozen) == set(config.caches)
    assert all(stored.dtype == precision for stored in arm.frozen.values())
    model = build_classifier(config, arm, World())
    with torch.no_grad():
        model.head.linear.weight.mul_(20)  # to spread the predictions
    records = arm.indices("train", own=True)
    ours = score(config, arm, model, records, World())
    wanted = score(plain, images, model, records, World())
    assert np.std(probabilities(wanted.logits)) > 0.01
    assert np.abs(probabilities(ours.logits) - probabilities(wanted.logits)).max() < within
    for name, features in wanted.features.items():
        assert np.allclose(ours.features[name], features, atol=20 * within)
    assert not np.array_equal(ours.logits, wanted.logits) or precision == "float32"


def outcome(phantom, config):
    job = phantom.job(config)
    run_job(job, World(), quiet)
    folder = phantom.storage.trials / job.experiment_id
    return folder, read_predictions(folder).logit, json.loads((folder / "result.json").read_text())


def test_training_from_stored_outputs_gives_the_same_whole_model(phantom):
    fields = {**PREFIX, "text__freeze": "all", "train__max_epochs": 2}
    plain, config = tiny_config(**fields), tiny_config(**fields, **CACHED)
    cache(phantom, config)
    folder, cached, result = outcome(phantom, config)
    assert result["compute"]["cache_frozen"] == "float32"
    arm = phantom.arm(plain)
    model = load_classifier(folder / WEIGHTS_FILE, plain, arm, torch.device("cpu"))
    records = np.sort(np.concatenate([arm.indices(part, own=False) for part in ("val", "test")]))
    assert np.abs(score(plain, arm, model, records, World()).logits - cached).max() < 1e-5
    shutil.rmtree(folder)  # its id is that of the model trained without
    _, wanted, result = outcome(phantom, plain)
    assert "cache_frozen" not in result["compute"]
    assert np.abs(cached - wanted).max() < 1e-4


class Killed(Exception):
    pass


def test_a_kill_while_outputs_are_computed_leaves_nothing_to_read_and_repeats_no_chunk(
    phantom, monkeypatch
):
    monkeypatch.setitem(frozen.CHUNK, "image", 32)
    config = tiny_config(**PREFIX, **CACHED, train__seed=5)
    computed = []

    def breaking(function, arguments):
        for number, each in enumerate(run_here(function, arguments)):
            yield each
            if function is frozen._compute_chunk and number == 1:
                raise Killed

    outputs = frozen._outputs
    monkeypatch.setattr(
        frozen, "_outputs", lambda prefix, rows: computed.append(rows) or outputs(prefix, rows)
    )
    with pytest.raises(Killed):
        cache(phantom, config, breaking)
    keys = phantom.keys(config)
    assert not is_cached(phantom.storage, config, keys)
    with pytest.raises(InputError, match="is not there; repeat the command"):
        open_arm(phantom.storage, config, keys)
    cache(phantom, config)
    rows = np.concatenate([each for each in computed if len(each) > 1])
    stored = open_arm(phantom.storage, config, keys).frozen["image"]
    assert sorted(rows) == list(range(len(stored)))
    pack = phantom.storage.prepared / keys.cohort / f"images-{keys.image}"
    whole = outputs(frozen._Prefix("image", pack, config.model_dump_json()), np.arange(32))
    assert np.array_equal(stored[:32], whole)
    computed.clear()
    cache(phantom, config)
    assert not computed


def test_outputs_are_shared_by_whatever_does_not_change_them(phantom):
    def keys_of(**fields):
        config = tiny_config(**{**PREFIX, "text__freeze": "all", **CACHED, **fields})
        return frozen_keys(config, phantom.keys(config))

    base = keys_of()
    assert base.keys() == {"image", "text"}
    for fields in (
        {"loss__kind": "focal"},
        {"data__majority_share": 0.75},
        {"train__lr": 0.1},
        {"image__features": 8},
        {"fusion__kind": "gated"},
    ):
        assert keys_of(**fields) == base, fields
    assert keys_of(fusion__modalities="text") == {"text": base["text"]}
    for fields in ({"train__seed": 1}, {"train__cache_precision": "float16"}):
        other = keys_of(**fields)
        assert not set(other.values()) & set(base.values()), fields
    for fields in ({"image__freeze": "conv1"}, {"image__size": 48}, {"image__encoder": "resnet18"}):
        other = keys_of(**fields)
        assert other["image"] != base["image"] and other["text"] == base["text"], fields
    other = keys_of(text__pooling="first")
    assert other["text"] != base["text"] and other["image"] == base["image"]
    assert keys_of(train__cache_frozen=False) == {}
    assert keys_of(image__freeze="layer1", text__freeze="none") == {}


def test_only_what_rounds_makes_another_experiment(phantom):
    def identity(**fields):
        config = tiny_config(**fields)
        return experiment_id(config, phantom.keys(config))

    for fields in (PREFIX, {**PREFIX, "fusion__modalities": "text"}):
        plain = identity(**fields)
        assert identity(**fields, **CACHED) == plain
        rounded = identity(**fields, **CACHED, train__cache_precision="float16")
        assert (rounded == plain) is ("fusion__modalities" in fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image__shift": 0.05}, "image.shift is 0.05, which shows .*; set image.shift=0"),
        ({"image__rotate": 5}, "image.rotate is 5"),
        ({"compute__precision": "float64"}, "compute.precision is float64"),
    ],
)
def test_what_is_no_constant_or_would_be_rounded_is_not_stored(fields, said):
    with pytest.raises(InputError, match=f"train.cache_frozen is true and {said}"):
        tiny_config(**PREFIX, **CACHED, **fields)
    tiny_config(**PREFIX, **CACHED, **fields, fusion__modalities="text")  # it reads no image


def test_a_study_without_frozen_stages_has_nothing_to_store(phantom):
    config = tiny_config(**CACHED)
    with pytest.raises(InputError, match="no model here has frozen first stages"):
        make_plan([Experiment(config, {})], phantom.storage, "phantom", None, Layer("--set", {}))


def test_a_disk_too_small_is_told_before_anything_is_computed(phantom, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(frozen_pack.shutil, "disk_usage", lambda _: usage(1000))
    config = tiny_config(**PREFIX, **CACHED, train__seed=6)
    with pytest.raises(InputError, match=r"needs 0\.\d GB in .* where 0\.0 are free"):
        cache(phantom, config)


def test_outputs_that_half_precision_does_not_hold_are_refused(phantom, monkeypatch):
    outputs = frozen._outputs
    monkeypatch.setattr(frozen, "_outputs", lambda *which: outputs(*which) * 1e6)
    config = tiny_config(**PREFIX, **CACHED, train__cache_precision="float16", train__seed=7)
    with pytest.raises(InputError, match="cache_precision is float16, .* float32 holds more"):
        cache(phantom, config)
    key = frozen_keys(config, keys := phantom.keys(config))["image"]
    assert not frozen_folder(phantom.storage.prepared / keys.cohort, key).exists()


@pytest.mark.parametrize("encoder", BACKBONES)
def test_the_plan_counts_what_the_frozen_stages_of_every_encoder_make_of_an_image(encoder):
    for count, size in itertools.product(range(1, len(STAGES) + 1), (64, 70)):
        config = ImageConfig(encoder=encoder, size=size, weights=None, freeze=STAGES[:count])
        with torch.device("meta"):
            outputs = ImageEncoder(config).prefix(torch.zeros(1, 1, size, size))
        assert image_outputs(config) == outputs.numel(), (count, size)


@pytest.mark.slow
def test_a_sweep_stores_outputs_once_for_all_its_trials_and_not_again_for_finished_ones(tmp_path):
    settings = ["train.cache_frozen=true", "image.freeze=all", "text.freeze=all"]
    command = [
        sys.executable, str(SWEEP), "--grid", "paper12", "--profile", "tiny", "--only",
        "dataset=full,loss=bce", "--storage", str(tmp_path),
        "--set", "data.max_bad_share=0.05", *settings,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = [json.loads(path.read_text()) for path in tmp_path.glob("trials/*/result.json")]
    assert [each["compute"]["cache_frozen"] for each in results] == ["float32"] * 3
    packs = list(tmp_path.glob("prepared/*/frozen/*"))
    assert len(packs) == 2  # of the images and of the texts
    for pack in packs:
        shutil.rmtree(pack)
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert not list(tmp_path.glob("prepared/*/frozen/*"))
