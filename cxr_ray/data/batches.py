"""The tensors of a batch, gathered from the packs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_ray.data.arm import ArmData
from cxr_ray.data.text_pack import TextPack

# Mean and standard deviation of ImageNet's luminance, for encoders that were trained on it.
GRAY_MEAN, GRAY_STD = 0.449, 0.226


@dataclass(frozen=True)
class Batch:
    """What a classifier reads.

    Attributes
    ----------
    label
        (B,) float.
    image
        (B, 1, H, W) float, standardised, or None.
    tokens, attention
        (B, L) int64, padded to the longest of the batch, or None.
    frozen
        By modality, what the frozen first stages of its encoder make of the records: (B, C, H, W)
        or (B, width) float. Image or tokens are None then.
    """

    label: Tensor
    image: Tensor | None
    tokens: Tensor | None
    attention: Tensor | None
    frozen: Mapping[str, Tensor] = field(default_factory=dict)


def collate(
    arm: ArmData,
    records: NDArray[np.int64],
    device: torch.device,
    dtype: torch.dtype,
    *,
    pinned: bool = False,
    channels_last: bool = False,
) -> Batch:
    """Gather the records' pixels and tokens from the packs as tensors on ``device``.

    From ``pinned`` (page-locked) memory they are copied while the caller goes on. What frozen
    stages made of images is laid out by pixel if ``channels_last``, as the stages behind want it.
    """

    def send(array: NDArray[np.generic]) -> Tensor:
        here = torch.from_numpy(array)
        return (here.pin_memory() if pinned else here).to(device, non_blocking=True)

    rows = arm.row[records]
    image = tokens = attention = None
    if arm.images is not None and "image" not in arm.frozen:
        image = standardise(send(arm.images[rows]), dtype)
    if arm.text is not None and "text" not in arm.frozen:
        ids, mask = pad_texts(arm.text, rows)
        tokens = send(ids)
        attention = send(mask)
    label = send(arm.label[records]).to(dtype)
    frozen = {name: send(stored[rows]).to(dtype) for name, stored in arm.frozen.items()}
    if channels_last:
        by_pixel = torch.channels_last
        frozen = {n: x.to(memory_format=by_pixel) if x.ndim == 4 else x for n, x in frozen.items()}
    return Batch(label=label, image=image, tokens=tokens, attention=attention, frozen=frozen)


def standardise(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Make (B, H, W) uint8 pixels what an image encoder reads: (B, 1, H, W)."""
    return pixels.unsqueeze(1).to(dtype).div_(255).sub_(GRAY_MEAN).div_(GRAY_STD)


def pad_texts(text: TextPack, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Gather the texts of some rows, padded to the longest, and their attention masks."""
    texts: Sequence[NDArray[np.int32]] = [
        text.tokens[text.offsets[r] : text.offsets[r + 1]] for r in rows
    ]
    lengths = np.array([len(text) for text in texts])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, text.padding, dtype=np.int64)
    ids[mask] = np.concatenate(texts)
    return ids, mask.astype(np.int64)
