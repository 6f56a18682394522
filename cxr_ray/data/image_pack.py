"""Image packs: every image of a cohort decoded once, as grayscale uint8 at the target size."""

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr_ray.damage import COHORT, named_if_damaged
from cxr_ray.data.sources.source import LinkOutside
from cxr_ray.storage import write_whole

if TYPE_CHECKING:
    from cxr_ray.data.sources.source import Source

IMAGES_FILE = "images.npy"
CHUNK = 128
# No format that is a program or a container of programs: Pillow hands EPS to Ghostscript.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    NotImplementedError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    Image.DecompressionBombError,
)


def open_image(content: bytes) -> Image.Image:
    """Open an image of one of `FORMATS`; others are none, whatever Pillow or a program makes."""
    return Image.open(io.BytesIO(content), formats=FORMATS)


def decode_image(content: bytes, size: int) -> NDArray[np.uint8]:
    """Decode an image of one of `FORMATS` to a square of grayscale pixels.

    JPEGs are scaled down by the decoder itself (``draft``) before the resize; 16-bit images keep
    their upper eight bits; transparency is laid on black, as outside a radiograph's field.

    Returns
    -------
    (size, size) uint8

    Raises
    ------
    OSError, SyntaxError, ValueError, NotImplementedError, PIL.Image.DecompressionBombError
        As Pillow does for content that is no image, is cut off or of a kind that it cannot read.
    """
    with open_image(content) as image:
        image.draft("L", (size, size))
        if image.mode.startswith("I;16") or image.mode == "I":
            pixels = np.asarray(image, dtype=np.int64)
            gray = Image.fromarray((np.clip(pixels, 0, 65535) >> 8).astype(np.uint8))
        elif image.has_transparency_data:
            colour = image.convert("RGBA")
            gray = Image.alpha_composite(
                Image.new("RGBA", colour.size, (0, 0, 0, 255)), colour
            ).convert("L")
        else:
            gray = image.convert("L")
        return np.asarray(gray.resize((size, size), Image.Resampling.BILINEAR))


def allocate_images(folder: Path, records: int, size: int) -> None:
    """Make the pack's array, to be filled by `decode_chunk`; an existing one is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / IMAGES_FILE).exists():
        aside = folder / f".{IMAGES_FILE}"
        np.lib.format.open_memmap(
            aside, mode="w+", dtype=np.uint8, shape=(records, size, size)
        ).flush()
        aside.rename(folder / IMAGES_FILE)


def decode_chunk(folder: Path, source: "Source", start: int, references: list[str | None]) -> int:
    """Decode one chunk into the pack and mark it done, with the reason for each bad record.

    Returns
    -------
    The number of records in the chunk. A chunk that is marked done is not decoded again.
    """
    mark = folder / f"chunk-{start:08d}.json"
    if not mark.exists():
        images = np.load(folder / IMAGES_FILE, mmap_mode="r+")
        faults: dict[int, str] = {}
        for row, reference in enumerate(references, start):
            try:
                if reference is None:
                    raise FileNotFoundError("no image is named")
                images[row] = decode_image(source.read_image(reference), images.shape[1])
            except UNREADABLE as error:
                faults[row] = fault_of(error)
        images.flush()
        write_whole(mark, json.dumps(faults))
    return len(references)


def collect_faults(folder: Path) -> dict[int, str]:
    """Gather the bad rows of a fully decoded pack, with their reasons."""
    faults: dict[int, str] = {}
    for mark in sorted(folder.glob("chunk-*.json")):
        faults.update({int(row): reason for row, reason in json.loads(mark.read_text()).items()})
    return faults


def open_images(folder: Path) -> NDArray[np.uint8]:
    """Map a pack's images into memory: (records, size, size) uint8, read-only."""
    path = folder / IMAGES_FILE
    with named_if_damaged(path, COHORT):
        images: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return images


def fault_of(error: BaseException) -> str:
    """Say what is wrong without the file's name, which may hold a patient's id."""
    if isinstance(error, LinkOutside):
        return error.fault
    if isinstance(error, FileNotFoundError):
        return "image missing"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return "image too large"
    return f"image unreadable ({type(error).__name__})"
