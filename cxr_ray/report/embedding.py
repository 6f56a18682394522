"""Pictures inside a page, as addresses that hold them."""

import base64
import io

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image


def embed_png(content: bytes) -> str:
    """Give a PNG file as an address."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def embed_figure(figure: Figure | None) -> str | None:
    """Draw a figure, where there is one, as a PNG."""
    if figure is None:
        return None
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return embed_png(content.getvalue())


def embed_pixels(pixels: NDArray[np.uint8]) -> str:
    """Give pixels, (H, W) or (H, W, 3), as a PNG."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return embed_png(content.getvalue())
