"""The tensors of a batch, gathered from the packs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_ray.data.arm import ArmData
from cxr_ray.data.text_pack import TextPack

# Mean and standard deviation of ImageNet's luminance, for encoders that were trained on it.
GRAY_MEAN, GRAY_STD = 0.449, 0.226
# What packs are called on a device, beside the modalities whose frozen outputs lie there.
IMAGES, TOKENS = "images", "tokens"
COPY_BYTES = 2**28


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
    lengths: Sequence[int] = (),
) -> Batch:
    """Gather the records' pixels and tokens from the packs as tensors on ``device``.

    Parameters
    ----------
    pinned
        Copy from page-locked memory while the caller goes on; of packs that lie on the device
        (`reside`) the numbers of the rows are all that is copied.
    channels_last
        Lay what frozen stages made of images out by pixel, as the stages behind want it.
    lengths
        Pad texts to the next of these lengths, ascending, instead of to the batch's longest.
    """

    def send(array: NDArray[np.generic]) -> Tensor:
        here = torch.from_numpy(array)
        return (here.pin_memory() if pinned else here).to(device, non_blocking=True)

    rows = arm.row[records]

    def gather(name: str, pack: NDArray[Any]) -> Tensor:
        there = arm.resident.get(name)
        return send(pack[rows]) if there is None else there[send(rows)]

    image = tokens = attention = None
    if arm.images is not None and "image" not in arm.frozen:
        image = standardise(gather(IMAGES, arm.images), dtype)
    if arm.text is not None and "text" not in arm.frozen:
        longest = int(arm.text.lengths[rows].max())
        longest = next((each for each in lengths if each >= longest), longest)
        if TOKENS in arm.resident:
            starts, ends = send(arm.text.offsets[rows]), send(arm.text.offsets[rows + 1])
            there = arm.resident[TOKENS]
            tokens, attention = _pad_there(there, starts, ends, longest, arm.text.padding)
        else:
            tokens, attention = map(send, pad_texts(arm.text, rows, longest))
    label = send(arm.label[records]).to(dtype)
    frozen = {name: gather(name, stored).to(dtype) for name, stored in arm.frozen.items()}
    if channels_last:
        by_pixel = torch.channels_last
        frozen = {n: x.to(memory_format=by_pixel) if x.ndim == 4 else x for n, x in frozen.items()}
    return Batch(label=label, image=image, tokens=tokens, attention=attention, frozen=frozen)


def standardise(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Make (B, H, W) uint8 pixels what an image encoder reads: (B, 1, H, W)."""
    return pixels.unsqueeze(1).to(dtype).div_(255).sub_(GRAY_MEAN).div_(GRAY_STD)


def reside(arm: ArmData, device: torch.device, budget: int) -> ArmData:
    """Copy packs to a device, the smallest first, while they fit into ``budget`` bytes.

    Batches of those are gathered there. A cohort of 24,113 images of 256 x 256 is 1.6 GB.
    """
    packs: dict[str, NDArray[Any]] = dict(arm.frozen)
    if arm.images is not None and "image" not in arm.frozen:
        packs[IMAGES] = arm.images
    if arm.text is not None and "text" not in arm.frozen:
        packs[TOKENS] = arm.text.tokens
    resident = {}
    for name, pack in sorted(packs.items(), key=lambda each: each[1].nbytes):
        budget -= pack.nbytes
        if budget < 0:
            break
        resident[name] = _copy(pack, device)
    return replace(arm, resident=resident)


def _copy(pack: NDArray[Any], device: torch.device) -> Tensor:
    """Copy a memory-mapped pack in pieces, so that it is never whole in this process's memory."""
    like = torch.from_numpy(np.array(pack[:1]))
    there = torch.empty(pack.shape, dtype=like.dtype, device=device)
    rows = max(1, COPY_BYTES // pack[:1].nbytes)
    for start in range(0, len(pack), rows):
        there[start : start + rows] = torch.from_numpy(np.array(pack[start : start + rows]))
    return there


def _pad_there(
    tokens: Tensor, starts: Tensor, ends: Tensor, longest: int, padding: int
) -> tuple[Tensor, Tensor]:
    """Do as `pad_texts` on the device that the tokens lie on."""
    place = starts[:, None] + torch.arange(longest, device=tokens.device)
    real = place < ends[:, None]
    ids = tokens[place.clamp_(max=len(tokens) - 1)].long()
    return torch.where(real, ids, padding), real.long()


def pad_texts(
    text: TextPack, rows: NDArray[np.int64], longest: int | None = None
) -> tuple[NDArray[np.int64], ...]:
    """Gather the texts of some rows and their attention masks, padded to the longest."""
    texts: Sequence[NDArray[np.int32]] = [
        text.tokens[text.offsets[r] : text.offsets[r + 1]] for r in rows
    ]
    lengths = np.array([len(text) for text in texts])
    mask = np.arange(longest or lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, text.padding, dtype=np.int64)
    ids[mask] = np.concatenate(texts)
    return ids, mask.astype(np.int64)
