"""Passing a prepared cohort through the encoders' frozen first stages, once for all trials.

What they make of a record is a constant of the pack and the weights. It is computed in chunks,
here or as Ray tasks, resumable after a kill, and a pack gets its name only when it is whole.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxr_ray.config.identity import DataKeys, frozen_keys
from cxr_ray.config.schema import ExperimentConfig, Modality
from cxr_ray.data.fan_out import FanOut
from cxr_ray.data.frozen_pack import allocate_outputs, frozen_folder, is_written, write_outputs
from cxr_ray.data.image_pack import open_images
from cxr_ray.data.packing import Progress
from cxr_ray.data.prepared import fetch_pack
from cxr_ray.data.text_pack import open_text
from cxr_ray.errors import InputError
from cxr_ray.lease import Heartbeat
from cxr_ray.storage import Storage, move_whole

if TYPE_CHECKING:
    from cxr_ray.models.image import ImageEncoder
    from cxr_ray.models.text import TextEncoder

CHUNK = {"image": 64, "text": 1024}
BATCH = 32


@dataclass(frozen=True)
class _Prefix:
    """One encoder's frozen first stages and the pack that they read; plain values only."""

    modality: Modality
    pack: Path
    config: str


def cache_frozen(
    storage: Storage,
    wanted: Sequence[tuple[ExperimentConfig, DataKeys]],
    *,
    fan_out: FanOut,
    progress: Progress,
    driver: str,
) -> None:
    """Compute what is missing of the outputs of frozen stages that experiments read.

    Parameters
    ----------
    wanted
        Experiments on one prepared cohort, and their keys.

    Raises
    ------
    InputError
        If the disk does not hold them, or one is no number of the precision asked for.
    """
    folder = storage.prepared / wanted[0][1].cohort
    missing = {
        target: _Prefix(modality, _pack(folder, modality, keys), config.model_dump_json())
        for config, keys in wanted
        for modality, key in frozen_keys(config, keys).items()
        if not storage.home.holds(target := frozen_folder(folder, key))
    }
    if not missing:
        return
    while (lease := storage.leases.acquire(folder, driver)) is None:
        progress("waiting for another run that prepares this cohort", 0, 1)
        time.sleep(1)
    try:
        with Heartbeat(storage.leases) as heartbeat:
            heartbeat.add(folder)
            for target, prefix in missing.items():
                fetch_pack(storage, target)
                if not target.is_dir():  # another run may have been first
                    fetch_pack(storage, prefix.pack)
                    _fill(target, prefix, fan_out, progress)
                storage.home.publish(target)
    finally:
        storage.leases.release(folder, lease)


def is_cached(storage: Storage, config: ExperimentConfig, keys: DataKeys) -> bool:
    """Tell whether the outputs of frozen stages that an experiment reads lie ready."""
    folder = storage.prepared / keys.cohort
    packs = [frozen_folder(folder, key) for key in frozen_keys(config, keys).values()]
    return all(map(storage.home.holds, packs))


def _fill(target: Path, prefix: _Prefix, fan_out: FanOut, progress: Progress) -> None:
    what = f"passing the {prefix.modality} pack through frozen stages"
    progress(what, 0, 1)
    aside = target.with_name(f"{target.name}.partial")
    precision = ExperimentConfig.model_validate_json(prefix.config).train.cache_precision
    (shape,) = fan_out(_describe, [(prefix,)])
    allocate_outputs(aside, shape, precision)
    size = CHUNK[prefix.modality]
    done, total = 0, shape[0]
    chunks = [
        (aside, prefix, start, min(start + size, total), precision)
        for start in range(0, total, size)
    ]
    for count in fan_out(_compute_chunk, chunks):
        done += count
        progress(what, done, total)
    move_whole(aside, target)


def _pack(folder: Path, modality: Modality, keys: DataKeys) -> Path:
    return folder / (f"images-{keys.image}" if modality == "image" else f"text-{keys.text}")


def _describe(prefix: _Prefix) -> tuple[int, ...]:
    """Find the shape of a frozen pack from its first row."""
    rows = len(open_images(prefix.pack) if prefix.modality == "image" else _lengths(prefix))
    return (rows, *_outputs(prefix, np.arange(1)).shape[1:])


def _compute_chunk(folder: Path, prefix: _Prefix, start: int, stop: int, precision: str) -> int:
    """Compute the rows from ``start`` to ``stop``, unless they were written before."""
    if not is_written(folder, start):
        outputs = _outputs(prefix, np.arange(start, stop))
        with np.errstate(over="ignore"):
            stored = outputs.astype(precision)
        if not np.isfinite(stored).all():
            raise InputError(
                f"train.cache_precision is {precision}, and the frozen stages' outputs reach "
                f"{np.abs(outputs).max():g}; float32 holds more"
            )
        write_outputs(folder, start, stored)
    return stop - start


def _outputs(prefix: _Prefix, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Pass rows of a pack through: (len(rows), ...), the same whoever computes them."""
    import torch

    from cxr_ray.data.batches import pad_texts, standardise

    found: dict[int, NDArray[np.float32]] = {}
    read: list[tuple[torch.Tensor, ...]]
    with torch.no_grad(), _one_thread():
        encoder: Any = _encoder(prefix).eval()
        if prefix.modality == "image":
            images = open_images(prefix.pack)
            batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
            read = [(standardise(torch.from_numpy(images[b]), torch.float32),) for b in batches]
        else:
            text = open_text(prefix.pack)
            rows_by_length = rows[np.argsort(text.lengths[rows], kind="stable")]
            batches = [rows_by_length[i : i + BATCH] for i in range(0, len(rows), BATCH)]
            read = [tuple(map(torch.from_numpy, pad_texts(text, b))) for b in batches]
        for batch, tensors in zip(batches, read, strict=True):
            found |= zip(batch.tolist(), encoder.prefix(*tensors).numpy(), strict=True)
    return np.stack([found[row] for row in rows.tolist()])


@lru_cache(maxsize=1)
def _encoder(prefix: _Prefix) -> "ImageEncoder | TextEncoder":
    from cxr_ray.models.classifier import build_encoder

    size = open_text(prefix.pack).vocabulary_size if prefix.modality == "text" else None
    return build_encoder(ExperimentConfig.model_validate_json(prefix.config), prefix.modality, size)


def _lengths(prefix: _Prefix) -> NDArray[np.int64]:
    return open_text(prefix.pack).lengths


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute as a trial of one thread does."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
