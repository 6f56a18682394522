"""Generated radiographs at the size of a detector's, 2544x3056, as gray JPEGs of about 1.6 MB.

MIMIC-CXR-JPG holds 377,110 JPEGs of quality 95 in 570 GB: 1.5 MB each. What a decoder does
depends on the bytes, so film noise here is set to give as many.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from cxr_ray.data.sources.phantom_images import render

WIDTH, HEIGHT = 2544, 3056
QUALITY = 95
NOISE = 1.8  # gray levels
BASES, FIELDS = 8, 4


def radiographs(count: int) -> Iterator[bytes]:
    """Generate JPEGs, all different: few thoraces and noise fields, each time shifted anew."""
    rng = np.random.default_rng(0)
    thoraces = [
        np.asarray(Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
        for small in render(rng.standard_normal(BASES), np.zeros(BASES, bool), seed=0)
    ]
    fields = [
        np.rint(NOISE * rng.standard_normal((HEIGHT, WIDTH), dtype=np.float32)).astype(np.int16)
        for _ in range(FIELDS)
    ]
    for number in range(count):
        noise = np.roll(fields[number % FIELDS], rng.integers((HEIGHT, WIDTH)), (0, 1))
        pixels = np.clip(noise + thoraces[number % BASES], 0, 255).astype(np.uint8)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "JPEG", quality=QUALITY)
        yield content.getvalue()


def write_radiographs(folder: Path, count: int) -> list[Path]:
    """Write the first ``count`` radiographs into ``folder``, unless they are there."""
    paths = [folder / f"{number:04d}.jpg" for number in range(count)]
    if not all(path.exists() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in zip(paths, radiographs(count), strict=True):
            path.write_bytes(content)
    return paths
