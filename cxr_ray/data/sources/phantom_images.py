"""Rendering of the phantom's radiographs: one opacity, whose contrast is the signal."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

HEIGHT, WIDTH = 192, 160
QUALITY = 90
CHUNK = 128
GEOMETRIES, LATERAL_GEOMETRIES = 48, 8
JITTERS = 25
OPACITY, CONTRAST = 80.0, 22.0  # gray levels: at the middle of the signal, and for one unit of it
BRIGHTNESS, SHADING, NOISE = 3.0, 2.0, 8.0  # gray levels, standard deviations
ZONE = (slice(102, 138), slice(32, 62))  # rows and columns about the opacity's place


def render(signal: np.ndarray, lateral: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Render radiographs one by one.

    Parameters
    ----------
    signal : (N,) array of float
        The image's signal, centred between the classes; contrast grows with it.
    lateral : (N,) array of bool
        Lateral views show no opacity.
    seed : int
        ``phantom.seed``.

    Yields
    ------
    (192, 160) uint8 array
    """
    rng = np.random.default_rng([seed, 2])
    frontal = np.stack([_frontal(rng) for _ in range(GEOMETRIES)])
    side = np.stack([_side(rng) for _ in range(LATERAL_GEOMETRIES)])
    bank = np.concatenate([frontal, side]).reshape(len(frontal) + len(side), -1)
    blobs = _opacities()
    shading = _shading()
    for start in range(0, len(signal), CHUNK):
        part = slice(start, start + CHUNK)
        number = len(signal[part])
        geometry = np.where(
            lateral[part],
            GEOMETRIES + rng.integers(LATERAL_GEOMETRIES, size=number),
            rng.integers(GEOMETRIES, size=number),
        )
        amplitude = np.maximum(OPACITY + CONTRAST * signal[part], 0) * ~lateral[part]
        blob = blobs[rng.integers(JITTERS, size=number)]
        pixels = rng.standard_normal((number, HEIGHT * WIDTH), dtype=np.float32)
        pixels *= NOISE
        pixels += bank[geometry]
        blob *= amplitude.astype(np.float32)[:, None]
        pixels += blob
        weights = SHADING * rng.standard_normal((number, len(shading)), dtype=np.float32)
        pixels += weights @ shading
        pixels += BRIGHTNESS * rng.standard_normal((number, 1), dtype=np.float32)
        np.clip(pixels, 0, 255, out=pixels)
        yield from pixels.astype(np.uint8).reshape(number, HEIGHT, WIDTH)


def jpeg(pixels: np.ndarray) -> bytes:
    """Encode a gray image, (H, W) uint8."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Coordinates from -1 (left, top) to 1 (right, bottom)."""
    x = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, HEIGHT, dtype=np.float32)[:, None]
    return x, y


def _ellipse(x0: float, y0: float, width: float, height: float, edge: float = 12.0) -> np.ndarray:
    """Draw a filled ellipse with a soft edge, in [0, 1]."""
    x, y = _grid()
    radius = np.sqrt(((x - x0) / width) ** 2 + ((y - y0) / height) ** 2)
    return 1 / (1 + np.exp(np.clip(edge * (radius - 1), -50, 50)))


def _frontal(rng: np.random.Generator) -> np.ndarray:
    """One frontal thorax with proportions of its own."""
    x, y = _grid()
    shift_x, shift_y = rng.normal(0, 0.02, 2)
    width, height = 0.31 + rng.normal(0, 0.012), 0.66 + rng.normal(0, 0.02)
    body = _ellipse(shift_x, 0.15, 0.97, 1.25, 20)
    lungs = _ellipse(-0.42 + shift_x, -0.05 + shift_y, width, height) + _ellipse(
        0.42 + shift_x, -0.05 + shift_y, width, height
    )
    heart = _ellipse(0.14 + shift_x, 0.32 + shift_y, 0.33 + rng.normal(0, 0.02), 0.28)
    spine = np.exp(-(((x - shift_x) / 0.1) ** 2))
    ribs = np.sin(2 * np.pi * (4.5 * y + 0.8 * np.abs(x - shift_x) + rng.uniform(0, 0.3)))
    image = 15 + 135 * body + 25 * spine * body - 95 * lungs + 60 * heart * lungs + 6 * ribs * lungs
    return image.astype(np.float32)


def _side(rng: np.random.Generator) -> np.ndarray:
    """One lateral thorax."""
    shift = rng.normal(0, 0.02)
    body = _ellipse(shift, 0.1, 0.8, 1.3, 20)
    lung = _ellipse(0.05 + shift, -0.1, 0.55, 0.62, 8)
    heart = _ellipse(-0.2 + shift, 0.25, 0.3, 0.3)
    spine = _ellipse(0.62 + shift, 0.1, 0.12, 1.2, 8)
    return (15 + 130 * body - 70 * lung + 50 * heart * lung + 40 * spine).astype(np.float32)


def _opacities() -> np.ndarray:
    """Draw the opacity at slightly different places of one lower lung, (25, H W)."""
    x, y = _grid()
    steps = np.linspace(-0.05, 0.05, 5)
    blobs = [
        np.exp(-(((x + 0.42 - dx) / 0.2) ** 2) - ((y - 0.25 - dy) / 0.2) ** 2)
        for dx in steps
        for dy in steps
    ]
    return np.stack(blobs).reshape(JITTERS, -1).astype(np.float32)


def _shading() -> np.ndarray:
    """Smooth fields of unit size that vary the exposure over the film, (8, H W)."""
    x, y = _grid()
    fields = [
        np.cos(np.pi * (i * (x + 1) / 2)) * np.cos(np.pi * (j * (y + 1) / 2))
        for i in range(3)
        for j in range(3)
        if i or j
    ]
    return np.stack(fields).reshape(len(fields), -1).astype(np.float32)
