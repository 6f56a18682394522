"""Fusion heads: features of one or two modalities to one logit.

A head that is used on one modality's features alone is that modality's own final layer, whatever
the kind. ``cxr_ray.evaluation.heads`` computes the same from the stored weights, without torch.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softmax

from cxr_ray.evaluation.heads import TOKENS


class ConcatFusion(nn.Module):
    """Concatenate and apply exactly one Linear (Chao & Li).

    The logit is additive in the modalities, a(image) + b(text) + c: no interaction between them
    can be represented.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.linear = nn.Linear(sum(widths), 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B,) of features (B, width) each."""
        logits: Tensor = self.linear(torch.cat(list(features), dim=1)).squeeze(1)
        return logits

    def parts(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return each modality's part of the logits (B,); they share the bias evenly."""
        share = self.linear.bias / len(self.widths)
        weights = self.linear.weight.split(self.widths, dim=1)
        return [
            linear(own, weight, share).squeeze(1)
            for own, weight in zip(features, weights, strict=True)
        ]


class AverageFusion(nn.Module):
    """Average the logits of two heads, one a modality, each of which learns from its own loss.

    Decision-level (late) fusion: nothing in training ties the modalities together, which is what
    sets it apart from ``concat``; like it, it is additive.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        image, text = widths
        self.image = nn.Linear(image, 1)
        self.text = nn.Linear(text, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B,) of features (B, width) each."""
        return torch.stack(self.branches(features)).mean(dim=0)

    def branches(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the logits (B,) of the image's head and of the text's."""
        image, text = features
        return [self.image(image).squeeze(1), self.text(text).squeeze(1)]


class MLPFusion(nn.Module):
    """Concatenate, one hidden layer with ReLU, one output."""

    def __init__(self, widths: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(sum(widths), hidden)
        self.output = nn.Linear(hidden, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B,) of features (B, width) each."""
        hidden = self.hidden(torch.cat(list(features), dim=1)).relu()
        logits: Tensor = self.output(hidden).squeeze(1)
        return logits


class GatedFusion(nn.Module):
    """Gated multimodal unit for two modalities (Arevalo et al. 2017), and one output.

    A gate that reads both features mixes a tanh layer of each modality, unit by unit.
    """

    def __init__(self, widths: Sequence[int], hidden: int) -> None:
        super().__init__()
        image, text = widths
        self.image = nn.Linear(image, hidden)
        self.text = nn.Linear(text, hidden)
        self.gate = nn.Linear(image + text, hidden)
        self.output = nn.Linear(hidden, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B,) of features (B, width) each."""
        image, text = features
        gate = self.gate(torch.cat([image, text], dim=1)).sigmoid()
        mixed = gate * self.image(image).tanh() + (1 - gate) * self.text(text).tanh()
        logits: Tensor = self.output(mixed).squeeze(1)
        return logits


class BilinearFusion(nn.Module):
    """The linear head of ``concat`` and a low-rank bilinear form (Kim et al. 2017).

    ``hidden`` is the rank: products of as many pairs of projections are weighed and added.
    """

    def __init__(self, widths: Sequence[int], hidden: int) -> None:
        super().__init__()
        image, text = widths
        self.linear = nn.Linear(image + text, 1)
        self.image = nn.Linear(image, hidden, bias=False)
        self.text = nn.Linear(text, hidden, bias=False)
        self.product = nn.Linear(hidden, 1, bias=False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B,) of features (B, width) each."""
        image, text = features
        product = self.product(self.image(image) * self.text(text))
        logits: Tensor = (self.linear(torch.cat([image, text], dim=1)) + product).squeeze(1)
        return logits


class CrossAttentionFusion(nn.Module):
    """The linear head of ``concat`` and attention between a few tokens of each modality.

    Each feature vector is projected to ``TOKENS`` queries, keys and values of ``hidden / TOKENS``
    numbers; the image's tokens attend to the text's and the other way round (Vaswani et al. 2017,
    one head), and what each token gathers is weighed and added to the logit.
    """

    def __init__(self, widths: Sequence[int], hidden: int) -> None:
        super().__init__()
        image, text = widths
        self.linear = nn.Linear(image + text, 1)
        self.image = nn.Linear(image, 3 * hidden)
        self.text = nn.Linear(text, 3 * hidden)
        self.attended = nn.Linear(2 * hidden, 1, bias=False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B,) of features (B, width) each."""
        image, text = features
        image_tokens, text_tokens = (
            project(own).view(own.shape[0], 3, TOKENS, -1).unbind(1)
            for project, own in ((self.image, image), (self.text, text))
        )
        gathered = [_attend(image_tokens, text_tokens), _attend(text_tokens, image_tokens)]
        attended = self.attended(torch.cat(gathered, dim=1))
        logits: Tensor = (self.linear(torch.cat([image, text], dim=1)) + attended).squeeze(1)
        return logits


def _attend(own: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """Let queries (B, T, W) of one modality gather the other's values: (B, T * W)."""
    query, (_, key, value) = own[0], other
    share = softmax(query @ key.transpose(1, 2) / query.shape[2] ** 0.5, dim=2)
    return (share @ value).flatten(1)


class FusionHead(Protocol):
    """Builds a head over features of the given widths; ``hidden`` is its width or rank."""

    def __call__(self, widths: Sequence[int], hidden: int) -> nn.Module:
        """Return the module."""


def _without_hidden(kind: Callable[[Sequence[int]], nn.Module]) -> FusionHead:
    return lambda widths, hidden: kind(widths)


FUSIONS: dict[str, FusionHead] = {
    "concat": _without_hidden(ConcatFusion),
    "average": _without_hidden(AverageFusion),
    "mlp": MLPFusion,
    "gated": GatedFusion,
    "bilinear": BilinearFusion,
    "cross_attention": CrossAttentionFusion,
}


def build_head(kind: str, widths: Sequence[int], hidden: int) -> nn.Module:
    """Build the head of a kind, or one modality's own final layer.

    Parameters
    ----------
    widths
        Of each modality's features, the image's first.
    hidden
        Width or rank, for the kinds that have one.
    """
    if len(widths) == 1:
        return ConcatFusion(widths)
    return FUSIONS[kind](widths, hidden)
