"""Frozen packs: what an encoder's frozen first stages make of every row of a pack, stored once."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxr_ray.config.schema import STAGES, ImageConfig
from cxr_ray.errors import InputError
from cxr_ray.storage import write_whole

OUTPUTS_FILE = "outputs.npy"
# Channels of each stage's output; every stage, and conv1 twice, halves the size but for layer1.
CHANNELS = {
    "resnet_small": (16, 16, 32, 64, 128),
    "resnet18": (64, 64, 128, 256, 512),
    "resnet34": (64, 64, 128, 256, 512),
    "resnet50": (64, 256, 512, 1024, 2048),
}


def frozen_folder(cohort: Path, key: str) -> Path:
    """Name the folder of a frozen pack in that of its cohort."""
    return cohort / "frozen" / key


def image_outputs(image: ImageConfig) -> int:
    """Count the numbers that the frozen first stages make of one image."""
    stages = len(image.frozen_prefix)
    channels = CHANNELS[image.encoder][stages - 1]
    if stages == len(STAGES):
        return channels  # pooled
    size = image.size
    for _ in range(max(2, stages)):
        size = (size + 1) // 2
    return channels * size**2


def allocate_outputs(folder: Path, shape: Sequence[int], dtype: str) -> None:
    """Make the pack's array (rows, ...), to be filled by `write_outputs`; an existing one is kept.

    Raises
    ------
    InputError
        If the disk does not hold it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (folder / OUTPUTS_FILE).exists():
        return
    needed, free = np.prod(shape) * np.dtype(dtype).itemsize, shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"train.cache_frozen needs {needed / 1e9:.1f} GB in {folder.parent}, where "
            f"{free / 1e9:.1f} are free; train.cache_precision=float16 takes half of float32"
        )
    aside = folder / f".{OUTPUTS_FILE}"
    np.lib.format.open_memmap(aside, mode="w+", dtype=dtype, shape=tuple(shape)).flush()
    aside.rename(folder / OUTPUTS_FILE)


def is_written(folder: Path, start: int) -> bool:
    """Tell whether a chunk was written whole."""
    return _mark(folder, start).exists()


def write_outputs(folder: Path, start: int, outputs: NDArray[np.floating]) -> None:
    """Write the rows of one chunk and mark it done.

    Written as bytes of a file, not through a memory map: chunks of several nodes then meet in no
    page of a shared file system.
    """
    stored = np.load(folder / OUTPUTS_FILE, mmap_mode="r")
    if outputs.shape[1:] != stored.shape[1:] or outputs.dtype != stored.dtype:
        raise ValueError(f"outputs {outputs.shape} {outputs.dtype} in a pack {stored.shape}")
    row = stored[:1].nbytes
    with (folder / OUTPUTS_FILE).open("r+b") as file:
        file.seek(stored.offset + start * row)
        file.write(np.ascontiguousarray(outputs).tobytes())
        file.flush()
        os.fsync(file.fileno())
    write_whole(_mark(folder, start), "")


def open_frozen(folder: Path) -> NDArray[np.floating]:
    """Map a frozen pack into memory: (rows, ...) float, read-only.

    Raises
    ------
    InputError
        If it is not there.
    """
    try:
        outputs: NDArray[np.floating] = np.load(folder / OUTPUTS_FILE, mmap_mode="r")
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: what train.cache_frozen stores is not there; repeat the command, which "
            "makes it again"
        ) from error
    return outputs


def _mark(folder: Path, start: int) -> Path:
    return folder / f"chunk-{start:08d}"
