import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import sigmoid_focal_loss

from cxr_ray.config.schema import LossConfig
from cxr_ray.training.losses import build_loss

pairs = st.lists(st.tuples(st.floats(-30, 30), st.sampled_from([0.0, 1.0])), min_size=1)


def tensors(drawn):
    values = torch.tensor(drawn, dtype=torch.float64)
    return values[:, 0].clone().requires_grad_(), values[:, 1]


def bce(logits, label):
    return binary_cross_entropy_with_logits(logits, label, reduction="none")


def focal(alpha, gamma):
    return build_loss(LossConfig(kind="focal", alpha=alpha, gamma=gamma), 0.1)


@given(pairs)
def test_focal_with_gamma_0_and_alpha_a_half_is_half_the_cross_entropy(drawn):
    logits, label = tensors(drawn)
    assert torch.allclose(focal(0.5, 0)(logits, label), bce(logits, label) / 2, atol=1e-7, rtol=0)
    (ours,) = torch.autograd.grad(focal(0.5, 0)(logits, label).sum(), logits)
    (theirs,) = torch.autograd.grad(bce(logits, label).sum() / 2, logits)
    assert torch.allclose(ours, theirs, atol=1e-7, rtol=0)


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-3.0, -0.4, 0.0, 2.5])
def test_focal_is_the_formula_of_lin_et_al(logit, label):
    chance = 1 / (1 + math.exp(-logit))
    right = chance if label else 1 - chance
    weight = 0.85 if label else 0.15
    wanted = -weight * (1 - right) ** 1.5 * math.log(right)
    found = focal(0.85, 1.5)(torch.tensor([logit]), torch.tensor([label]))
    assert float(found) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.05, 0.4, 0.95])
def test_focal_below_a_gamma_of_1_is_torchvisions_with_a_gradient_where_a_record_is_right(gamma):
    logits = torch.tensor([-8.0, -1.0, 0.3, 6.0], requires_grad=True)
    for label in (torch.zeros(4), torch.ones(4)):
        values = [focal(0.85, gamma)(logits, label), sigmoid_focal_loss(logits, label, 0.85, gamma)]
        assert torch.allclose(*values, rtol=1e-4)
        ours, theirs = (torch.autograd.grad(each.sum(), logits)[0] for each in values)
        assert torch.allclose(ours, theirs, rtol=1e-3)
    sure = torch.tensor([40.0, 200.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(focal(0.85, gamma)(sure, torch.ones(2)).sum(), sure)
    assert torch.isfinite(gradient).all()


@given(pairs)
def test_focal_never_exceeds_its_weighted_cross_entropy(drawn):
    logits, label = tensors(drawn)
    assert (focal(0.95, 2.0)(logits, label) <= focal(0.95, 0.0)(logits, label) + 1e-12).all()


@given(pairs, st.floats(0.01, 100))
def test_a_positives_weight_multiplies_the_positives_alone(drawn, weight):
    logits, label = tensors(drawn)
    loss = build_loss(LossConfig(kind="weighted_bce", positive_weight=weight), 0.1)
    factor = torch.where(label == 1, weight, 1.0)
    assert torch.allclose(loss(logits, label), factor * bce(logits, label))


def test_without_a_given_weight_positives_weigh_as_much_as_negatives_together():
    loss = build_loss(LossConfig(kind="weighted_bce"), 0.2)
    logits, label = torch.zeros(10), torch.tensor([1.0] * 2 + [0.0] * 8)
    values = loss(logits, label)
    assert float(values[:2].sum()) == pytest.approx(float(values[2:].sum()))


@given(pairs, st.floats(0.01, 0.99), st.floats(0, 2))
def test_logit_adjustment_adds_the_priors_log_odds(drawn, share, tau):
    logits, label = tensors(drawn)
    loss = build_loss(LossConfig(kind="logit_adjusted", tau=tau), share)
    wanted = bce(logits + tau * math.log(share / (1 - share)), label)
    assert torch.allclose(loss(logits, label), wanted)


@given(pairs)
def test_cross_entropy_is_torchs_and_reads_no_field_of_other_losses(drawn):
    logits, label = tensors(drawn)
    loss = build_loss(LossConfig(kind="bce", alpha=0.1, gamma=9, tau=7, positive_weight=3), 0.01)
    assert torch.equal(loss(logits, label), bce(logits, label))


@pytest.mark.parametrize("kind", ["bce", "focal", "weighted_bce", "logit_adjusted"])
def test_every_loss_gives_one_finite_value_a_record_at_extreme_logits(kind):
    logits = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4], requires_grad=True)
    for label in (torch.zeros(5), torch.ones(5)):
        values = build_loss(LossConfig(kind=kind), 0.1)(logits, label)
        assert values.shape == (5,)
        assert torch.isfinite(values).all() and (values >= 0).all()
        assert torch.isfinite(torch.autograd.grad(values.sum(), logits)[0]).all()
