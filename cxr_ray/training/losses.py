"""Training losses: logits and labels (B,) to one loss a record (B,)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid
from torchvision.ops import sigmoid_focal_loss

from cxr_ray.config.schema import LossConfig

Loss = Callable[[Tensor, Tensor], Tensor]


def build_loss(config: LossConfig, positive_share: float) -> Loss:
    """Build the loss that a config names.

    Parameters
    ----------
    positive_share
        The positives' share of the training part, in (0, 1).

    Notes
    -----
    ``focal`` is torchvision's (Lin et al. 2017, eq. 5), ``weighted_bce`` weighs positives by
    ``positive_weight`` or else by negatives over positives, ``logit_adjusted`` adds
    ``tau * log(pi / (1 - pi))`` to the logit in training only (Menon et al. 2021, eq. 10).
    """
    if config.kind == "focal":
        alpha, gamma = config.alpha, config.gamma
        if 0 < gamma < 1:
            return lambda logits, label: _focal_below_one(logits, label, alpha, gamma)
        return lambda logits, label: sigmoid_focal_loss(logits, label, alpha=alpha, gamma=gamma)
    if config.kind == "weighted_bce":
        weight = config.positive_weight or (1 - positive_share) / positive_share
        return lambda logits, label: binary_cross_entropy_with_logits(
            logits, label, reduction="none", pos_weight=torch.full_like(logits, weight)
        )
    prior = 0.0
    if config.kind == "logit_adjusted":
        prior = config.tau * math.log(positive_share / (1 - positive_share))
    return lambda logits, label: binary_cross_entropy_with_logits(
        logits + prior, label, reduction="none"
    )


def _focal_below_one(logits: Tensor, label: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss for gamma between 0 and 1.

    Torchvision's has a gradient of 0 times infinity there, once a record is right to the last bit:
    the power of ``1 - p`` with an exponent below 0. Here the power is taken of its logarithm.
    """
    missed = logsigmoid(torch.where(label == 1, -logits, logits))
    cross_entropy = binary_cross_entropy_with_logits(logits, label, reduction="none")
    return torch.where(label == 1, alpha, 1 - alpha) * torch.exp(gamma * missed) * cross_entropy
