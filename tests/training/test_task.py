import math

import numpy as np
import pytest
import torch
from prepared_phantom import tiny_config
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from cxr_ray.config.schema import LossConfig
from cxr_ray.data.batches import Batch
from cxr_ray.data.order import draw_lost
from cxr_ray.models.classifier import Classifier
from cxr_ray.training.losses import build_loss
from cxr_ray.training.task import TrainingTask
from cxr_ray.training.world import World

VOCABULARY, SIZE = 60, 6


def task_of(**fields):
    config = tiny_config(compute__precision="float64", text__dropout=0.0, **fields)
    model = Classifier(config, VOCABULARY).double()
    return TrainingTask(config, model, build_loss(LossConfig(), 0.5)).double().eval()


def batch_of(seed=0):
    rng = torch.Generator().manual_seed(seed)
    return Batch(
        label=torch.tensor([0.0, 1.0] * (SIZE // 2), dtype=torch.float64),
        image=torch.randn(SIZE, 1, 32, 32, generator=rng, dtype=torch.float64),
        tokens=torch.randint(5, VOCABULARY, (SIZE, 12), generator=rng),
        attention=torch.ones(SIZE, 12, dtype=torch.int64),
    )


def gradients(task, lost=None, batch=None):
    task.zero_grad()
    task(batch or batch_of(), lost, 1.0).backward()
    return {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}


def bce(logits, label):
    return binary_cross_entropy_with_logits(logits, label, reduction="sum")


@pytest.mark.parametrize("modalities", ["image", "text", "image,text"])
def test_the_plain_task_is_the_classifiers_loss_and_has_no_parameters_of_its_own(modalities):
    task = task_of(fusion__modalities=modalities)
    batch = batch_of()
    assert torch.allclose(task(batch, None, 1.0), bce(task.model(batch), batch.label))
    assert task(batch, None, 0.0) == 0
    assert task.training_only() == {}
    unread = task_of(fusion__modalities="image", fusion__auxiliary=1, fusion__modality_dropout=0.5)
    assert unread.training_only() == {}


def test_the_auxiliary_loss_is_added_by_its_weight_and_reads_each_modality_alone():
    task = task_of(fusion__auxiliary=0.3)
    batch = batch_of()
    features = task.model.encode(batch)
    alone = sum(
        bce(task.auxiliary[name](value).squeeze(1), batch.label) for name, value in features.items()
    )
    wanted = bce(task.model(batch), batch.label) + 0.3 * alone
    assert torch.allclose(task(batch, None, 1.0), wanted)
    assert not any(name.startswith("auxiliary") for name in task.model.state_dict())
    assert set(task.training_only()) == {
        f"auxiliary.{name}.{what}" for name in ("image", "text") for what in ("weight", "bias")
    }


def test_a_lost_modality_is_replaced_by_what_is_learned_in_its_stead():
    task = task_of(fusion__modality_dropout=0.5)
    with torch.no_grad():
        task.stand_in["image"].fill_(0.7)
        task.stand_in["text"].fill_(-0.2)
    batch, lost = batch_of(), torch.tensor([0, 1, -1, 0, -1, -1])
    image, text = task.model.encode(batch).values()
    image, text = image.clone(), text.clone()
    image[[0, 3]] = 0.7
    text[1] = -0.2
    wanted = bce(task.model.head([image, text]), batch.label)
    assert torch.allclose(task(batch, lost, 1.0), wanted)
    found = gradients(task, torch.zeros(SIZE, dtype=torch.int64))
    assert found["stand_in.image"].abs().min() > 0
    assert found["stand_in.text"].abs().max() == 0
    encoders = [name for name in found if name.startswith("model.encoders.image")]
    assert all(found[name].abs().max() == 0 for name in encoders)


def test_draws_of_lost_modalities_belong_to_record_seed_and_epoch():
    first = draw_lost(20_000, 0.3, seed=1, epoch=2)
    assert np.array_equal(first, draw_lost(20_000, 0.3, seed=1, epoch=2))
    for seed, epoch in ((1, 3), (2, 2)):
        assert not np.array_equal(first, draw_lost(20_000, 0.3, seed=seed, epoch=epoch))
    assert [np.mean(first == place) for place in (-1, 0, 1)] == pytest.approx(
        [0.7, 0.15, 0.15], abs=0.01
    )
    assert draw_lost(10, 0.0, seed=1, epoch=2) is None


def test_modalities_whose_logits_are_averaged_learn_apart():
    task = task_of(fusion__kind="average", fusion__auxiliary=1.0, fusion__modality_dropout=0.5)
    assert task.training_only() == {}  # it reads neither
    before = gradients(task)
    with torch.no_grad():
        for parameter in task.model.encoders["text"].parameters():
            parameter += 0.1
        task.model.head.text.bias += 3
    after = gradients(task)
    image = [name for name in before if ".image." in name]
    assert len(image) > 10
    assert all(torch.equal(before[name], after[name]) for name in image)
    assert not torch.equal(before["model.head.text.weight"], after["model.head.text.weight"])
    batch = batch_of()
    features = task.model.encode(batch)
    halves = [
        bce(getattr(task.model.head, name)(value).squeeze(1), batch.label) / 2
        for name, value in features.items()
    ]
    assert torch.allclose(task(batch, None, 1.0), sum(halves))


def test_the_leading_encoder_is_slowed_by_the_published_factor_and_the_other_is_not():
    task = task_of(fusion__modulation=0.8)
    batch = batch_of()
    head = task.model.head.linear
    with torch.no_grad():  # the text alone says nothing, the image a little of its own
        head.weight[0, 32:] = 0
        head.weight[0, :32] *= -1
        head.bias.fill_(0.4)
    plain = gradients(task)
    features = task.model.encode(batch)
    image = features["image"] @ head.weight[0, :32] + 0.2
    right = {
        name: float(torch.exp(-softplus(-(2 * batch.label - 1) * logit)).sum().detach())
        for name, logit in (("image", image), ("text", torch.full((SIZE,), 0.2).double()))
    }
    lead, other = sorted(right, key=right.get, reverse=True)
    factor = 1 - math.tanh(0.8 * right[lead] / right[other])
    task.adjust_gradients(World(), 0)
    slowed = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    assert lead == "image" and 0 < factor < 0.5
    spreads = {}
    for name, gradient in plain.items():
        if not name.startswith(f"model.encoders.{lead}"):
            assert torch.equal(slowed[name], gradient), name
        elif gradient.ndim < 2:
            assert torch.allclose(slowed[name], gradient * factor), name
        else:
            noise = slowed[name] - gradient * factor
            assert (noise[gradient == 0] == 0).all()
            moved = noise[gradient != 0]
            if len(moved) > 100:
                spreads[name] = float(moved.std() / gradient.std())
    assert spreads and all(each == pytest.approx(1, rel=0.2) for each in spreads.values())
    with pytest.raises(KeyError):
        task.adjust_gradients(World(), 0)  # the confidences of the step before are gone


def test_noise_of_a_step_is_the_same_whoever_draws_it():
    def slowed(seed):
        task = task_of(fusion__modulation=0.8)
        gradients(task)
        task.adjust_gradients(World(), seed)
        return [p.grad for p in task.parameters() if p.grad is not None]

    pairs = zip(slowed(3), slowed(3), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert not all(torch.equal(a, b) for a, b in zip(slowed(3), slowed(4), strict=True))
