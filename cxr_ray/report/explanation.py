"""What of one record moved a model's answer, as arrays that are drawn and stored."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class WordAttribution:
    """Integrated gradients of a record's text, in units of the logit.

    Attributes
    ----------
    tokens
        (L,) float: of every token, special ones included, which have 0.
    words
        (W,) float: of every word that the model reads.
    spans
        (W, 2) int: where each begins and ends in the text that the model reads.
    sections
        (W,) str: the section of the report that each is in, or ``other``.
    gap
        What the sum lacks of the logit's distance from that of a text without words.
    """

    tokens: NDArray[np.float64]
    words: NDArray[np.float64]
    spans: NDArray[np.int64]
    sections: NDArray[np.str_]
    gap: float


@dataclass(frozen=True)
class Explanation:
    """An answer, and what of the image and of the text moved it.

    Attributes
    ----------
    answer
        A row of `cxr_ray.training.prediction.Predictor.predict`.
    pixels
        (S, S) uint8, as the model reads the image; None where there is none.
    heat
        (h, w) float: the map of `cxr_ray.training.attribution.grad_cam`.
    text
        As the model reads it; None where there is none.
    words
        Of the text.
    """

    answer: dict[str, Any]
    pixels: NDArray[np.uint8] | None = None
    heat: NDArray[np.float64] | None = None
    text: str | None = None
    words: WordAttribution | None = None
