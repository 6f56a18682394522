"""Late-fusion heads as numpy functions of cached encoder outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from cxr_ray.evaluation.labels import FloatArray

HeadScorer = Callable[[FloatArray, FloatArray], FloatArray]
"""``score(image (M, D), text (M, D)) -> logits (M,)`` of a head of any kind."""

ADDITIVE_KINDS = ("concat", "average")
TOKENS = 4
"""Tokens of each modality under cross-attention."""


@dataclass(frozen=True)
class FusionHead:
    """A head that projects each modality by itself and then combines the projections.

    Permuting the projections' rows is permuting the features' rows: many permutations cost one
    projection. ``combine`` is a `HeadScorer` of projections.

    Attributes
    ----------
    project_image, project_text : callable
        Features (N, D) to projections (N, K), K depending on the kind and modality.
    combine : callable
        Projections (M, K) and (M, L) to logits (M,) of float64.
    """

    project_image: Callable[[FloatArray], FloatArray]
    project_text: Callable[[FloatArray], FloatArray]
    combine: HeadScorer

    def score(self, image: ArrayLike, text: ArrayLike) -> FloatArray:
        """Score features (M, D) of both modalities: logits (M,)."""
        pixels, words = (np.asarray(part, dtype=np.float64) for part in (image, text))
        return self.combine(self.project_image(pixels), self.project_text(words))


def fusion_head(kind: str, weights: Mapping[str, ArrayLike]) -> FusionHead:
    """Build the head of any kind from its weights, as ``features.npz`` keeps them.

    Parameters
    ----------
    kind : str
        ``concat``, ``average``, ``mlp``, ``gated``, ``bilinear``, ``cross_attention``.
    weights : mapping of str to array-like
        The weights of the module of that name in ``cxr_ray.models.fusion``, by parameter name.

    Returns
    -------
    FusionHead

    Raises
    ------
    ValueError
        For another kind.

    Examples
    --------
    >>> product = {"image.weight": [[1.0]], "text.weight": [[1.0]], "product.weight": [[2.0]]}
    >>> head = fusion_head(
    ...     "bilinear", {**product, "linear.weight": [[1.0, 0.0]], "linear.bias": [0.5]}
    ... )
    >>> head.score([[3.0]], [[-1.0]]).tolist()  # 3 + .5 + 2 x 3 x -1
    [-2.5]
    """
    read = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    if kind in ADDITIVE_KINDS:
        return _additive(*additive_weights(kind, read))
    if kind not in _BUILDERS:
        raise ValueError(f"there is no head of kind {kind!r}")
    return _BUILDERS[kind](read)


def additive_weights(kind: str, weights: Mapping[str, ArrayLike]) -> tuple[FloatArray, FloatArray]:
    """Write an additive head of either kind as one linear layer over concatenated features.

    Parameters
    ----------
    kind : {"concat", "average"}
    weights : mapping of str to array-like
        As in `fusion_head`.

    Returns
    -------
    weight : (1, D_image + D_text) array of float64
    bias : (1,) array of float64

    Examples
    --------
    >>> halves = {"image.weight": [[2.0]], "image.bias": [1.0]}
    >>> additive_weights("average", {**halves, "text.weight": [[4.0]], "text.bias": [3.0]})
    (array([[1., 2.]]), array([2.]))
    """
    read = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    if kind == "concat":
        return read["linear.weight"], read["linear.bias"]
    joined = np.hstack([read["image.weight"], read["text.weight"]])
    return joined / 2, (read["image.bias"] + read["text.bias"]) / 2


def additive_parts(
    image: ArrayLike, text: ArrayLike, weight: ArrayLike, bias: ArrayLike
) -> tuple[FloatArray, FloatArray, float]:
    """Split the logit of a linear head over concatenated features: ``a(image) + b(text) + c``.

    Such a head cannot represent an interaction, so that each record is two numbers: every
    permutation of a modality is a permutation of `a` or of `b`, and no encoder runs again.

    Parameters
    ----------
    image : (N, D_image) array-like
        Cached image features, float32 on disk.
    text : (N, D_text) array-like
    weight : (1, D_image + D_text) array-like
        The head's weight, the image's part first.
    bias : (1,) array-like

    Returns
    -------
    a, b : (N,) arrays of float64
        Products accumulated in float64, whatever the input's precision.
    c : float

    Raises
    ------
    ValueError
        If the weight is not one row over both features.

    Examples
    --------
    >>> a, b, c = additive_parts([[1.0, 2.0]], [[3.0]], [[1.0, 1.0, 2.0]], [0.5])
    >>> (a + b + c).tolist()
    [9.5]
    """
    pixels, words = (np.asarray(part, dtype=np.float64) for part in (image, text))
    row = np.asarray(weight, dtype=np.float64)
    width = pixels.shape[1]
    if row.shape != (1, width + words.shape[1]):
        raise ValueError(
            f"a head of shape {row.shape} does not read {width} image and {words.shape[1]} "
            "text features"
        )
    return pixels @ row[0, :width], words @ row[0, width:], float(np.squeeze(bias))


def _additive(weight: FloatArray, bias: FloatArray) -> FusionHead:
    def combine(image: FloatArray, text: FloatArray) -> FloatArray:
        return (image + text)[:, 0] + bias[0]

    return FusionHead(*_joint(weight), combine)


def _mlp(weights: Mapping[str, FloatArray]) -> FusionHead:
    output, bias = weights["output.weight"][0], weights["output.bias"][0]
    project_image, project_text = _joint(weights["hidden.weight"], weights["hidden.bias"])

    def combine(image: FloatArray, text: FloatArray) -> FloatArray:
        return np.maximum(image + text, 0) @ output + bias

    return FusionHead(project_image, project_text, combine)


def _gated(weights: Mapping[str, FloatArray]) -> FusionHead:
    """Keep each side's exponential: the gate's is their product, and no permutation costs one."""
    output, bias = weights["output.weight"][0], weights["output.bias"][0]
    gate_of_image, gate_of_text = _joint(weights["gate.weight"], weights["gate.bias"])
    width = len(output)

    def odds_against(part: FloatArray) -> FloatArray:
        return np.exp(-np.clip(part, -300, 300))  # a gate is long shut or open there

    def project_image(image: FloatArray) -> FloatArray:
        unit = np.tanh(image @ weights["image.weight"].T + weights["image.bias"])
        return np.hstack([unit, odds_against(gate_of_image(image))])

    def project_text(text: FloatArray) -> FloatArray:
        unit = np.tanh(text @ weights["text.weight"].T + weights["text.bias"])
        return np.hstack([unit, odds_against(gate_of_text(text))])

    def combine(image: FloatArray, text: FloatArray) -> FloatArray:
        gate = 1 / (1 + image[:, width:] * text[:, width:])
        unit_of_image, unit_of_text = image[:, :width], text[:, :width]
        return (unit_of_text + gate * (unit_of_image - unit_of_text)) @ output + bias

    return FusionHead(project_image, project_text, combine)


def _bilinear(weights: Mapping[str, FloatArray]) -> FusionHead:
    linear_image, linear_text = _joint(weights["linear.weight"], weights["linear.bias"])
    product = weights["product.weight"][0]

    def project_image(image: FloatArray) -> FloatArray:
        return np.hstack([linear_image(image), image @ weights["image.weight"].T * product])

    def project_text(text: FloatArray) -> FloatArray:
        return np.hstack([linear_text(text), text @ weights["text.weight"].T])

    def combine(image: FloatArray, text: FloatArray) -> FloatArray:
        linear = image[:, 0] + text[:, 0]
        return linear + np.einsum("nr,nr->n", image[:, 1:], text[:, 1:])

    return FusionHead(project_image, project_text, combine)


def _cross_attention(weights: Mapping[str, FloatArray]) -> FusionHead:
    """Let each value meet the output's weights before any permutation: T x T numbers a record."""
    linear_image, linear_text = _joint(weights["linear.weight"], weights["linear.bias"])
    hidden = weights["image.weight"].shape[0] // 3
    width = hidden // TOKENS
    by_image, by_text = weights["attended.weight"].reshape(2, TOKENS, width)

    def project(
        features: FloatArray, linear: FloatArray, modality: str, queried_by: FloatArray
    ) -> FloatArray:
        tokens = features @ weights[f"{modality}.weight"].T + weights[f"{modality}.bias"]
        value = tokens[:, 2 * hidden :].reshape(-1, TOKENS, width)
        gain = np.einsum("qw,nkw->nqk", queried_by, value).reshape(len(features), -1)
        return np.hstack([linear, tokens[:, : 2 * hidden], gain])

    def combine(image: FloatArray, text: FloatArray) -> FloatArray:
        found = image[:, 0] + text[:, 0]
        for own, other in ((image, text), (text, image)):
            query = own[:, 1 : 1 + hidden].reshape(-1, TOKENS, width)
            key = other[:, 1 + hidden : 1 + 2 * hidden].reshape(-1, TOKENS, width)
            gain = other[:, 1 + 2 * hidden :].reshape(-1, TOKENS, TOKENS)
            share = softmax(query @ key.transpose(0, 2, 1) / width**0.5, axis=2)
            found += np.einsum("nqk,nqk->n", share, gain)
        return found

    return FusionHead(
        lambda image: project(image, linear_image(image), "image", by_text),
        lambda text: project(text, linear_text(text), "text", by_image),
        combine,
    )


def _joint(
    weight: FloatArray, bias: FloatArray | None = None
) -> tuple[Callable[[FloatArray], FloatArray], Callable[[FloatArray], FloatArray]]:
    """Split a layer over concatenated features into the image's part and, with bias, the text's."""
    shift = 0.0 if bias is None else bias
    return (
        lambda image: image @ weight[:, : image.shape[1]].T,
        lambda text: text @ weight[:, weight.shape[1] - text.shape[1] :].T + shift,
    )


_BUILDERS: dict[str, Callable[[Mapping[str, FloatArray]], FusionHead]] = {
    "mlp": _mlp,
    "gated": _gated,
    "bilinear": _bilinear,
    "cross_attention": _cross_attention,
}
