"""Late-fusion heads as numpy functions of cached encoder outputs."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.labels import FloatArray

HeadScorer = Callable[[FloatArray, FloatArray], FloatArray]
"""``score(image (M, D), text (M, D)) -> logits (M,)`` of a head of any kind."""


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


def additive_head(weight: ArrayLike, bias: ArrayLike) -> HeadScorer:
    """Make the scorer of a linear head, in the form that any other head takes.

    Parameters
    ----------
    weight : (1, D_image + D_text) array-like
    bias : (1,) array-like

    Returns
    -------
    callable
        ``score(image, text) -> logits``.
    """

    def score(image: FloatArray, text: FloatArray) -> FloatArray:
        a, b, c = additive_parts(image, text, weight, bias)
        return a + b + c

    return score
