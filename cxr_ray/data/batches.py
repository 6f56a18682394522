"""The order of an epoch and the tensors of a batch.

The order is a pure function of (seed, epoch), whatever the number of workers: the same global
batches are cut, and each rank takes its share of every one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_ray.data.arm import ArmData

WINDOW_BATCHES = 16
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


def epoch_batches(
    records: NDArray[np.int64],
    batch: int,
    *,
    seed: int,
    epoch: int,
    lengths: NDArray[np.int64] | None = None,
    weights: NDArray[np.float64] | None = None,
) -> list[NDArray[np.int64]]:
    """Cut one epoch into global batches.

    Parameters
    ----------
    records
        (N,) the records of the training part.
    lengths
        (N,) tokens of each record. Records are sorted by length inside shuffled windows of
        ``WINDOW_BATCHES`` batches only, since length goes with the label.
    weights
        (N,) sampling weights for drawing with replacement, or None for a permutation.

    Returns
    -------
    Batches of ``batch`` records; the last may be smaller, but never a single record, on which
    batch-norm has no variance.
    """
    rng = np.random.default_rng([seed, epoch, 0x0E])
    if weights is None:
        drawn = rng.permutation(len(records))
    else:
        drawn = rng.choice(len(records), size=len(records), p=weights / weights.sum())
    if lengths is not None:
        window = batch * WINDOW_BATCHES
        drawn = np.concatenate(
            [
                part[np.argsort(lengths[part], kind="stable")]
                for part in (drawn[i : i + window] for i in range(0, len(drawn), window))
            ]
        )
    cuts = list(range(batch, len(drawn), batch))
    if cuts and len(drawn) - cuts[-1] == 1:
        cuts.pop()
    batches = np.split(records[drawn], cuts)
    return [batches[i] for i in rng.permutation(len(batches))]


def draw_lost(count: int, share: float, seed: int, epoch: int) -> NDArray[np.int64] | None:
    """Draw which of two modalities each record loses in an epoch, never both.

    A draw belongs to (seed, epoch, record), so that no batch or worker changes it.

    Parameters
    ----------
    count
        Number of records of the cohort, N.
    share
        Probability that a record loses one of the two, either being as likely.

    Returns
    -------
    (N,) the place of the lost modality, 0 or 1, or -1; None where ``share`` is 0.
    """
    if not share:
        return None
    rng = np.random.default_rng([seed, epoch, 0x0D])
    return np.where(rng.random(count) < share, rng.integers(2, size=count), -1)


def scoring_batches(
    records: NDArray[np.int64], batch: int, lengths: NDArray[np.int64] | None = None
) -> list[NDArray[np.int64]]:
    """Cut records for a forward pass: by length where there is text, to waste no padding."""
    if lengths is not None:
        records = records[np.argsort(lengths, kind="stable")]
    return [records[i : i + batch] for i in range(0, len(records), batch)]


def shard(records: NDArray[np.int64], rank: int, size: int) -> NDArray[np.int64]:
    """Return a rank's contiguous share of a global batch; it may be empty."""
    return np.array_split(records, size)[rank]


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
