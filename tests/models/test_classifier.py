from typing import get_args

import pytest
import torch
from prepared_phantom import tiny_config

from cxr_ray.config.schema import FusionConfig, ImageConfig
from cxr_ray.data.batches import Batch
from cxr_ray.models.classifier import Classifier
from cxr_ray.models.fusion import FUSIONS
from cxr_ray.models.image import BACKBONES

MODALITIES = [("image",), ("text",), ("image", "text")]
VOCABULARY = 60


def random_batch(count=3, size=32):
    rng = torch.Generator().manual_seed(0)
    return Batch(
        label=torch.tensor([0.0, 1.0, 0.0])[:count],
        image=torch.randn(count, 1, size, size, generator=rng),
        tokens=torch.randint(5, VOCABULARY, (count, 12), generator=rng),
        attention=torch.ones(count, 12, dtype=torch.int64),
    )


def named(model):
    return dict(model.named_parameters())


@pytest.mark.parametrize(
    ("backbone", "fusion", "modalities"),
    [(backbone, "concat", ("image",)) for backbone in BACKBONES]
    + [("resnet_small", fusion, modalities) for fusion in FUSIONS for modalities in MODALITIES],
)
def test_every_entry_of_the_registries_builds_and_turns_random_input_into_logits(
    backbone, fusion, modalities
):
    config = tiny_config(
        image__encoder=backbone, fusion__kind=fusion, fusion__modalities=list(modalities)
    )
    model = Classifier(config, VOCABULARY).eval()
    batch = random_batch()
    with torch.no_grad():
        features = model.encode(batch)
        assert list(features) == list(modalities)
        assert all(value.shape == (3, 32) for value in features.values())
        logits = model(batch)
    assert logits.shape == (3,)
    assert torch.isfinite(logits).all()


def test_the_config_allows_exactly_what_the_registries_hold():
    assert set(get_args(ImageConfig.model_fields["encoder"].annotation)) == set(BACKBONES)
    assert set(get_args(FusionConfig.model_fields["kind"].annotation)) == set(FUSIONS)


def test_the_multimodal_models_encoders_start_from_the_unimodal_ones_weights():
    both = named(Classifier(tiny_config(), VOCABULARY))
    for modality in ("image", "text"):
        alone = named(Classifier(tiny_config(fusion__modalities=modality), VOCABULARY))
        shared = [name for name in alone if name.startswith("encoders.")]
        assert len(shared) > 10
        assert all(torch.equal(alone[name], both[name]) for name in shared)


def test_weights_follow_the_training_seed_and_nothing_else():
    config = tiny_config()
    first = named(Classifier(config, VOCABULARY))
    torch.rand(7)
    again = named(Classifier(tiny_config(loss__kind="focal", train__lr=1.0), VOCABULARY))
    other = named(Classifier(tiny_config(train__seed=1), VOCABULARY))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.linear.weight"], other["head.linear.weight"])


def test_building_a_model_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    Classifier(tiny_config(), VOCABULARY)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("modalities", MODALITIES)
def test_the_papers_head_is_exactly_one_linear_layer(modalities):
    model = Classifier(tiny_config(fusion__modalities=list(modalities)), VOCABULARY)
    shapes = {name: tuple(p.shape) for name, p in model.head.named_parameters()}
    assert shapes == {"linear.weight": (1, 32 * len(modalities)), "linear.bias": (1,)}


def test_the_logit_is_the_sum_of_what_each_modality_says():
    model = Classifier(tiny_config(), VOCABULARY).eval().double()
    batch = random_batch()
    batch = Batch(batch.label, batch.image.double(), batch.tokens, batch.attention)
    with torch.no_grad():
        features = model.encode(batch)
        weight, bias = model.head.linear.weight[0], model.head.linear.bias
        wanted = features["image"] @ weight[:32] + features["text"] @ weight[32:] + bias
        assert torch.allclose(model(batch), wanted, atol=1e-12)


def test_a_model_that_reads_text_needs_a_vocabulary():
    with pytest.raises(ValueError, match="size of its vocabulary"):
        Classifier(tiny_config(), None)
