"""Fusion heads: features of one or two modalities to one logit.

A head that is used on one modality's features alone must be that modality's own final layer.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class ConcatFusion(nn.Module):
    """Concatenate and apply exactly one Linear (Chao & Li).

    The logit is additive in the modalities, a(image) + b(text) + c: no interaction between them
    can be represented.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.linear = nn.Linear(sum(widths), 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B,) of features (B, width) each."""
        logits: Tensor = self.linear(torch.cat(list(features), dim=1)).squeeze(1)
        return logits


FUSIONS: dict[str, Callable[[Sequence[int]], nn.Module]] = {"concat": ConcatFusion}
