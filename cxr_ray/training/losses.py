"""Training losses: logits and labels (B,) to one loss a record (B,)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
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
