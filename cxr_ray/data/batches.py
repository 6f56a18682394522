"""The tensors of a batch, gathered from the packs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_ray.data.arm import ArmData

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
    """

    label: Tensor
    image: Tensor | None
    tokens: Tensor | None
    attention: Tensor | None


def collate(
    arm: ArmData,
    records: NDArray[np.int64],
    device: torch.device,
    dtype: torch.dtype,
    *,
    pinned: bool = False,
) -> Batch:
    """Gather the records' pixels and tokens from the packs as tensors on ``device``.

    From ``pinned`` (page-locked) memory they are copied while the caller goes on.
    """

    def send(array: NDArray[np.generic]) -> Tensor:
        here = torch.from_numpy(array)
        return (here.pin_memory() if pinned else here).to(device, non_blocking=True)

    rows = arm.row[records]
    image = tokens = attention = None
    if arm.images is not None:
        pixels = send(arm.images[rows])
        image = pixels.unsqueeze(1).to(dtype).div_(255).sub_(GRAY_MEAN).div_(GRAY_STD)
    if arm.text is not None:
        ids, mask = _pad(
            [arm.text.tokens[arm.text.offsets[r] : arm.text.offsets[r + 1]] for r in rows],
            arm.text.padding,
        )
        tokens = send(ids)
        attention = send(mask)
    label = send(arm.label[records]).to(dtype)
    return Batch(label=label, image=image, tokens=tokens, attention=attention)


def _pad(
    texts: Sequence[NDArray[np.int32]], padding: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lengths = np.array([len(text) for text in texts])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, padding, dtype=np.int64)
    ids[mask] = np.concatenate(texts)
    return ids, mask.astype(np.int64)
