"""What of an image and a text moves a classifier's logit: Grad-CAM and integrated gradients."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_ray.models.classifier import Classifier

STEPS = (16, 32, 64, 128, 256)
TOLERANCE = 0.01
LEAST_CHANGE = 0.1
TOKENS_AT_ONCE = 4096


@dataclass(frozen=True)
class TokenAttribution:
    """Integrated gradients of one text.

    Attributes
    ----------
    tokens
        (L,) float64, in units of the logit.
    logit, blank_logit
        Of the text, and of the text of which every word is replaced by padding. The attributions
        add up to their difference.
    steps
        Points of the path at which gradients were taken.
    """

    tokens: NDArray[np.float64]
    logit: float
    blank_logit: float
    steps: int

    @property
    def gap(self) -> float:
        """What the sum of the attributions lacks of the logits' difference."""
        return self.logit - self.blank_logit - float(self.tokens.sum())


def grad_cam(
    model: Classifier, image: Tensor, features: Mapping[str, Tensor]
) -> NDArray[np.float64]:
    """Weigh the maps of the last convolutional stage by the logit's mean gradient on each.

    Selvaraju et al. 2017, eq. 1 and 2, before the ReLU: what is above 0 is the map of the positive
    class, what is below 0, with its sign turned, the counterfactual map, of what speaks against it.
    The other modality is held.

    Parameters
    ----------
    model
        In evaluation mode.
    image
        (1, 1, H, W) standardised.
    features
        (1, features) of each modality that the model reads; the image's is computed anew.

    Returns
    -------
    (h, w) float64
        h and w are those of the stage, a 32nd of the image's.
    """
    encoder = model.encoders["image"]
    with torch.no_grad():
        maps = encoder.maps(image)  # type: ignore[operator]
    maps.requires_grad_()
    encoded = encoder.encode_maps(maps)  # type: ignore[operator]
    (gradient,) = torch.autograd.grad(model.fuse({**features, "image": encoded}).sum(), maps)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat: NDArray[np.float64] = (weights * maps).sum(dim=1)[0].detach().double().cpu().numpy()
    return heat


def integrated_gradients(
    model: Classifier,
    tokens: Tensor,
    blank: Tensor,
    features: Mapping[str, Tensor],
) -> TokenAttribution:
    """Integrate the logit's gradient along the straight line between two texts' embeddings.

    Sundararajan et al. 2017, eq. 1, with Gauss-Legendre nodes: twice as many until the attributions
    add up to the difference of the logits, to 1 % of it. Positions and the other modality are held.

    Parameters
    ----------
    model
        In evaluation mode.
    tokens, blank
        (L,) int64: the text, and the text that attributions are counted from.
    features
        (1, features) of each modality that the model reads; the text's is computed anew.
    """
    encoder = model.encoders["text"]
    with torch.no_grad():
        here, there = encoder.embed(torch.stack([tokens, blank]))  # type: ignore[operator]
        ends = _logits(model, torch.stack([here, there]), features)
    logit, blank_logit = ends.double().tolist()
    for steps in STEPS:
        found = ((here - there) * _mean_gradient(model, here, there, features, steps)).sum(dim=1)
        by_token = found.double().cpu().numpy()
        attribution = TokenAttribution(by_token, logit, blank_logit, steps)
        if abs(attribution.gap) <= TOLERANCE * max(abs(logit - blank_logit), LEAST_CHANGE):
            break
    return attribution


def _mean_gradient(
    model: Classifier, here: Tensor, there: Tensor, features: Mapping[str, Tensor], steps: int
) -> Tensor:
    """Average the gradient over the line from one embedded text (L, W) to another."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    gradient = torch.zeros_like(here)
    at_once = max(1, TOKENS_AT_ONCE // len(here))
    for start in range(0, steps, at_once):
        part = slice(start, start + at_once)
        share = here.new_tensor((nodes[part] + 1) / 2)[:, None, None]
        points = torch.lerp(there, here, share).requires_grad_()
        (each,) = torch.autograd.grad(_logits(model, points, features).sum(), points)
        gradient += (here.new_tensor(weights[part] / 2)[:, None, None] * each).sum(dim=0)
    return gradient


def _logits(model: Classifier, embedded: Tensor, features: Mapping[str, Tensor]) -> Tensor:
    """Give the logits (B,) of embedded texts (B, L, W), the other modality held."""
    attention = torch.ones(embedded.shape[:2], dtype=torch.long, device=embedded.device)
    encoded = model.encoders["text"].encode_embedded(embedded, attention)  # type: ignore[operator]
    held = {name: value.expand(len(embedded), -1) for name, value in features.items()}
    return model.fuse({**held, "text": encoded})
