"""On-the-fly gradient modulation (OGM-GE, Peng et al. 2022): slow the encoder that leads."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cxr_ray.training.world import World


class GradientModulation:
    """Scales the encoders' gradients by how confident each modality is by itself.

    Parameters
    ----------
    alpha
        Strength; 0 would change nothing.
    encoders
        The two encoders by modality.

    Notes
    -----
    Peng et al. 2022: with s the summed probability of the true class by each modality alone over
    the batch (eq. 8) and rho its ratio to the other modality's (eq. 9), the leading encoder's
    gradient is multiplied by 1 - tanh(alpha rho) (eq. 10), and noise of the spread that it had
    before is added to it (eq. 12), so that what stochastic gradients do for generalization
    is not slowed too. Confidences are those of the global batch and the noise is drawn
    alike on every worker, so that any number of workers steps along the same gradients. No noise
    goes where a gradient is 0, as in the embedding of a word that the batch does not hold.
    """

    def __init__(self, alpha: float, encoders: nn.ModuleDict) -> None:
        self.alpha = alpha
        self.encoders = encoders
        self._confidence: dict[str, Tensor] = {}

    def observe(self, alone: Mapping[str, Tensor], label: Tensor, weight: float) -> None:
        """Add up the true class's probability by each modality's own logits (B,)."""
        for name, logits in alone.items():
            right = torch.sigmoid((2 * label - 1) * logits.detach()).double().sum() * weight
            self._confidence[name] = self._confidence.get(name, 0) + right

    def apply(self, world: World, seed: int) -> None:
        """Scale the gradients of one whole step, and forget its confidences."""
        names = list(self.encoders)
        sums = world.sum(torch.stack([self._confidence[name] for name in names])).tolist()
        self._confidence = {}
        generator = torch.Generator().manual_seed(seed)
        for name, own, other in zip(names, sums, reversed(sums), strict=True):
            if own > other:
                factor = 1 - math.tanh(self.alpha * own / other)
                for parameter in self.encoders[name].parameters():
                    if parameter.grad is not None:
                        _slow(parameter.grad, factor, generator)


def _slow(gradient: Tensor, factor: float, generator: torch.Generator) -> None:
    spread = gradient.std() if gradient.ndim > 1 else None
    gradient *= factor
    if spread is not None:  # biases and normalisation are left without noise
        noise = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype)
        gradient += noise.to(gradient.device) * spread * (gradient != 0)
