"""JPEG decoders that install as wheels, on one core: images a second, and how far pixels differ.

Each makes a gray square of a 2544x3056 JPEG's bytes, with the decoder's own scaling where it has
one and the same antialiased resize behind it. The reference decodes every pixel and then resizes.
Pillow and torchvision are installed with cxr_ray; to have the others in the table:

    pip install simplejpeg PyTurboJPEG opencv-python-headless 'pyvips[binary]' imagecodecs
    python benchmarks/decoders.py
"""

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from radiographs import write_radiographs
from rows import Row, machine

from cxr_ray.data.image_pack import decode_image

IMAGES = 24
SIZES = (64, 256)
Decode = Callable[[bytes, int], NDArray[np.uint8]]


def resized(gray: NDArray[np.uint8] | Image.Image, size: int) -> NDArray[np.uint8]:
    """Resize as cxr_ray does."""
    image = gray if isinstance(gray, Image.Image) else Image.fromarray(gray)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def shrink(width: int, height: int, size: int) -> int:
    """Give the largest divisor of libjpeg's that leaves at least ``size`` pixels a side."""
    return max(d for d in (1, 2, 4, 8) if min(width, height) >= d * size)


def pillow_whole(content: bytes, size: int) -> NDArray[np.uint8]:
    """Decode every pixel: the reference."""
    with Image.open(io.BytesIO(content)) as image:
        return resized(image, size)


def with_torchvision() -> Decode:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    torch.set_num_threads(1)

    def decode(content: bytes, size: int) -> NDArray[np.uint8]:
        raw = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return resized(decode_jpeg(raw, mode=ImageReadMode.GRAY)[0].numpy(), size)

    return decode


def with_simplejpeg() -> Decode:
    import simplejpeg

    def decode(content: bytes, size: int) -> NDArray[np.uint8]:
        # the smallest of its scales, in eighths, with at least these sides
        gray = simplejpeg.decode_jpeg(
            content, colorspace="GRAY", min_height=size, min_width=size, min_factor=1
        )
        return resized(gray[:, :, 0], size)

    return decode


def with_pyturbojpeg() -> Decode:
    from turbojpeg import TJPF_GRAY, TurboJPEG

    library = TurboJPEG()  # looks for the system's libturbojpeg

    def decode(content: bytes, size: int) -> NDArray[np.uint8]:
        width, height, *_ = library.decode_header(content)
        scale = (1, shrink(width, height, size))
        gray = library.decode(content, pixel_format=TJPF_GRAY, scaling_factor=scale)
        return resized(gray[:, :, 0], size)

    return decode


def with_opencv() -> Decode:
    import cv2

    cv2.setNumThreads(0)
    flags = {1: cv2.IMREAD_GRAYSCALE}
    flags |= {d: getattr(cv2, f"IMREAD_REDUCED_GRAYSCALE_{d}") for d in (2, 4, 8)}

    def decode(content: bytes, size: int) -> NDArray[np.uint8]:
        # it has no way to read the size beforehand
        flag = flags[shrink(2544, 3056, size)]
        return resized(cv2.imdecode(np.frombuffer(content, np.uint8), flag), size)

    return decode


def with_pyvips() -> Decode:
    os.environ["VIPS_CONCURRENCY"] = "1"
    import pyvips

    def decode(content: bytes, size: int) -> NDArray[np.uint8]:
        header = pyvips.Image.jpegload_buffer(content)
        by = shrink(header.width, header.height, size)
        gray = pyvips.Image.jpegload_buffer(content, shrink=by, access="sequential")
        return resized(gray.numpy(), size)

    return decode


def with_imagecodecs() -> Decode:
    import imagecodecs

    return lambda content, size: resized(imagecodecs.jpeg8_decode(content), size)


OURS = "Pillow with draft (cxr_ray)"
# Package that is imported, and the decoder.
DECODERS: dict[str, tuple[str, Callable[[], Decode]]] = {
    OURS: ("PIL", lambda: decode_image),
    "Pillow, every pixel (reference)": ("PIL", lambda: pillow_whole),
    "torchvision": ("torchvision", with_torchvision),
    "simplejpeg": ("simplejpeg", with_simplejpeg),
    "PyTurboJPEG": ("turbojpeg", with_pyturbojpeg),
    "OpenCV": ("cv2", with_opencv),
    "pyvips": ("pyvips", with_pyvips),
    "imagecodecs": ("imagecodecs", with_imagecodecs),
}


def compare(contents: Sequence[bytes], size: int) -> dict[str, tuple[float, float, int]]:
    """Time each decoder on each image in turn, in core-seconds.

    Returns
    -------
    By decoder: images a second and core (the median image's), and the mean and the largest absolute
    difference of a pixel from the reference's, in gray levels.
    """
    decoders = {}
    for name, (package, make) in DECODERS.items():
        if find_spec(package) is not None:
            try:
                decoders[name] = make()
            except (ImportError, RuntimeError, OSError) as error:
                print(f"{name}: {error}")
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    apart: dict[str, list[NDArray[np.int64]]] = {name: [] for name in decoders}
    for content in contents:
        wanted = pillow_whole(content, size).astype(int)
        for name, decode in decoders.items():
            began = time.process_time()
            pixels = decode(content, size)
            seconds[name].append(time.process_time() - began)
            apart[name].append(np.abs(pixels.astype(int) - wanted))
    return {
        name: (
            1 / float(np.median(seconds[name])),
            float(np.mean(apart[name])),
            int(np.max(apart[name])),
        )
        for name in decoders
    }


def measure(scratch: Path) -> list[Row]:
    """Compare the decoder that prepares images with the fastest other that is installed."""
    rows = []
    for size, found in compare_all(scratch).items():
        (ours, mean, largest), others = found[OURS], {n: found[n][0] for n in found if n != OURS}
        fastest = max(others, key=others.__getitem__)
        rows.append(
            Row(
                f"JPEG decoder: {size} px",
                f"images/s of Pillow with draft over those of {fastest}, the fastest of "
                f"{len(others)} others installed, 2544x3056 on one core; a pixel is {mean:.2f} "
                f"gray levels off on average and {largest} at most",
                ours / others[fastest],
                "times",
            )
        )
    return rows


def compare_all(scratch: Path) -> dict[int, dict[str, tuple[float, float, int]]]:
    """Compare at each size."""
    contents = [path.read_bytes() for path in write_radiographs(scratch, IMAGES)]
    return {size: compare(contents, size) for size in SIZES}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for size, found in compare_all(Path(folder)).items():
            print(f"{size} px: images a second and core, mean and largest difference of a pixel")
            for name, (rate, mean, largest) in sorted(found.items(), key=lambda item: -item[1][0]):
                print(f"  {name:32} {rate:6.1f} {mean:8.3f} {largest:4d}")
    print(machine())


if __name__ == "__main__":
    main()
