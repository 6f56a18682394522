"""The phantom's truth shows in trained models, over seeds with a phantom, split and start each."""

import uuid
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

# Each adds a test part of 400 records: the mean of three AUROCs has an error of about .03 without
# a signal, and .02 with one.
SEEDS = range(3)
MODALITIES = {"multimodal": "image,text", "image": "image", "text": "text"}


def train(folder, seed, modality, signals):
    """Train one demo model on a phantom of its own: test AUROC and the drops by shuffling."""
    import torch

    from cxr_ray.config.identity import cohort_key, data_keys
    from cxr_ray.config.layers import load_profile, parse_assignments, resolve
    from cxr_ray.data.arm import open_arm
    from cxr_ray.data.fan_out import run_here
    from cxr_ray.data.prepare import prepare
    from cxr_ray.data.prepared import is_prepared
    from cxr_ray.data.sources import open_source
    from cxr_ray.evaluation.heads import additive_parts
    from cxr_ray.evaluation.ranking import auroc
    from cxr_ray.evaluation.sensitivity import permutation_test
    from cxr_ray.storage import Storage
    from cxr_ray.training.loop import fit, score
    from cxr_ray.training.trial import build_classifier
    from cxr_ray.training.world import World

    torch.set_num_threads(1)
    fresh = [f"{section}.seed={seed}" for section in ("phantom", "data", "train")]
    arm_of = f"fusion.modalities={MODALITIES[modality]}"
    config = resolve([load_profile("demo"), parse_assignments([*fresh, *signals, arm_of])])
    storage = Storage.open(str(folder / f"seed{seed}"))
    source = open_source("phantom", config, storage.prepared)
    rules, required = source.rules(config.cohort), source.required(config.data)
    keys = data_keys(cohort_key(source.fingerprint(), rules, required, config), config)
    if not is_prepared(storage, keys):
        prepare(
            storage,
            source,
            [(config, keys)],
            fan_out=run_here,
            progress=lambda *_: None,
            driver=uuid.uuid4().hex,
        )
    arm, world = open_arm(storage, config, keys), World()
    model = build_classifier(config, arm, world)
    checkpoints = folder / f"seed{seed}" / uuid.uuid4().hex
    checkpoints.mkdir()
    fit(
        config,
        arm,
        model,
        checkpoints,
        world=world,
        report=lambda row: None,
        should_stop=lambda: False,
    )
    scores = score(config, arm, model, arm.indices("test", own=False), world)
    label = arm.label[scores.records]
    drops = {}
    if modality == "multimodal":
        head = model.head.linear
        parts = additive_parts(
            scores.features["image"],
            scores.features["text"],
            head.weight.detach().numpy(),
            head.bias.detach().numpy(),
        )
        for shuffled in ("image", "text"):
            test = permutation_test(
                *parts,
                label,
                shuffle=shuffled,
                rng=np.random.default_rng(seed),
                n_repeats=199,
                n_resamples=0,
            )
            drops[shuffled] = test["auroc"].drop
    return modality, auroc(label, scores.logits), drops


def mean_over_seeds(folder, modalities, *signals):
    """Mean AUROC by modality, and mean drops of the multimodal models, over the seeds."""
    # Side by side run different seeds, so that a phantom is prepared once.
    jobs = [(Path(folder), seed, modality, signals) for modality in modalities for seed in SEEDS]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(train, *zip(*jobs, strict=True)))
    areas = {m: float(np.mean([a for name, a, _ in found if name == m])) for m in modalities}
    drops = [drop for _, _, drop in found if drop]
    return areas, {m: float(np.mean([drop[m] for drop in drops])) for m in ("image", "text")}


@pytest.mark.slow
def test_with_both_signals_each_modality_is_learned_and_both_together_are_better(tmp_path):
    areas, drops = mean_over_seeds(tmp_path, ("multimodal", "image", "text"))
    print(areas, drops)
    assert areas["image"] > 0.65
    assert areas["text"] > 0.65
    assert areas["multimodal"] > max(areas["image"], areas["text"])


@pytest.mark.slow
@pytest.mark.parametrize("silent", ["image", "text"])
def test_a_modality_without_signal_is_not_learned_and_shuffling_it_changes_nothing(
    tmp_path, silent
):
    areas, drops = mean_over_seeds(tmp_path, ("multimodal", silent), f"phantom.{silent}_signal=0")
    print(areas, drops)
    assert abs(areas[silent] - 0.5) < 0.08
    assert abs(drops[silent]) < 0.03
