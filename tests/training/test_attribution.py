from dataclasses import replace

import numpy as np
import pytest
import torch
from prepared_phantom import tiny_config
from scipy.stats import spearmanr

from cxr_ray.data.batches import Batch
from cxr_ray.models.classifier import Classifier
from cxr_ray.models.fusion import FUSIONS
from cxr_ray.models.image import BACKBONES
from cxr_ray.training.attribution import grad_cam, integrated_gradients

VOCABULARY, LENGTH = 60, 20


def build(seed=0, **fields):
    """A classifier in evaluation mode whose logits differ, and its config."""
    config = tiny_config(train__seed=seed, image__size=64, **fields)
    model = Classifier(config, VOCABULARY).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("head."):
                parameter.mul_(20)
            elif "text.bert" in name and parameter.ndim > 1:
                parameter.mul_(5)
    return model


def record(seed, size=64):
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, VOCABULARY, (1, LENGTH), generator=rng)
    return Batch(
        label=torch.ones(1),
        image=torch.randn(1, 1, size, size, generator=rng, dtype=torch.float64),
        tokens=tokens,
        attention=torch.ones_like(tokens),
    )


def attribute(model, batch):
    """Heat map and token attributions, the latter against padding between two special tokens."""
    with torch.no_grad():
        features = model.encode(batch)
    blank = torch.zeros(LENGTH, dtype=torch.int64)
    blank[[0, -1]] = batch.tokens[0, [0, -1]]
    heat = words = None
    if "image" in features:
        heat = grad_cam(model, batch.image, features)
    if "text" in features:
        words = integrated_gradients(model, batch.tokens[0], blank, features)
    return heat, words, blank


KINDS = [(kind, ["image", "text"]) for kind in FUSIONS] + [("concat", ["text"])]


@pytest.mark.parametrize(("kind", "modalities"), KINDS)
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_token_attributions_add_up_to_the_difference_of_the_logits(kind, modalities, pooling):
    model = build(fusion__kind=kind, fusion__modalities=modalities, text__pooling=pooling)
    batch = record(1)
    _, words, blank = attribute(model, batch)
    with torch.no_grad():
        logit = model(batch).item()
        without = model(replace(batch, tokens=blank[None])).item()
    assert abs(logit - without) > 0.02  # else there is nothing to divide
    assert words.tokens.sum() == pytest.approx(logit - without, rel=0.01, abs=0.001)
    assert (words.tokens[[0, -1]] == 0).all()


def test_more_nodes_bring_the_sum_closer(monkeypatch):
    gaps = []
    for steps in (2, 64):
        monkeypatch.setattr("cxr_ray.training.attribution.STEPS", (steps,))
        gaps.append(abs(attribute(build(), record(1))[1].gap))
    assert gaps[1] < 1e-5 < gaps[0]


def test_the_path_in_pieces_gives_what_it_gives_at_once(monkeypatch):
    whole = attribute(build(), record(1))[1]
    monkeypatch.setattr("cxr_ray.training.attribution.TOKENS_AT_ONCE", 3 * LENGTH)
    assert attribute(build(), record(1))[1].tokens == pytest.approx(whole.tokens)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_grad_cam_has_the_last_stages_size_on_every_backbone(backbone):
    model = build(image__encoder=backbone, fusion__modalities=["image"])
    heat, _, _ = attribute(model, record(1))
    assert heat.shape == (2, 2) and np.abs(heat).max() > 0


def test_grad_cam_of_a_linear_head_divides_the_images_part_of_the_logit():
    """Behind average pooling and linear layers the map is exact: its sum is the part of the logit.

    What is left are the biases, which no pixel has a share in.
    """
    model = build(fusion__modalities=["image"])
    batch = record(1)
    heat, _, _ = attribute(model, batch)
    with torch.no_grad():
        maps = model.encoders["image"].maps(batch.image)
        biases = model.fuse({"image": model.encoders["image"].encode_maps(0 * maps)}).item()
        assert heat.sum() + biases == pytest.approx(model(batch).item())


@pytest.mark.parametrize("freeze", ["all", "conv1,layer1", "none"])
def test_frozen_stages_hide_nothing(freeze):
    model = build(image__freeze=freeze, text__freeze="all", fusion__kind="gated")
    heat, words, _ = attribute(model, record(1))
    free = build(fusion__kind="gated", image__freeze="none")
    assert heat == pytest.approx(attribute(free, record(1))[0])
    assert words.tokens == pytest.approx(attribute(free, record(1))[1].tokens)


def test_other_weights_give_other_maps_and_other_attributions():
    """The check of Adebayo et al. 2018: a method that drew edges alone would fail it."""
    one, other = build(seed=0), build(seed=1)
    pairs = [(attribute(one, record(n)), attribute(other, record(n))) for n in range(12)]
    maps = [spearmanr(a[0].ravel(), b[0].ravel())[0] for a, b in pairs]
    words = [spearmanr(a[1].tokens, b[1].tokens)[0] for a, b in pairs]
    assert abs(np.mean(maps)) < 0.7
    assert abs(np.mean(words)) < 0.4
    again = attribute(build(seed=0), record(0))
    assert again[0] == pytest.approx(pairs[0][0][0])
    assert again[1].tokens == pytest.approx(pairs[0][0][1].tokens)
