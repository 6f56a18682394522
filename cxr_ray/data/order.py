"""The order of an epoch: which records make a batch.

It is a pure function of (seed, epoch), whatever the number of workers: the same global batches are
cut, and each rank takes its share of every one of them.
"""

import numpy as np
from numpy.typing import NDArray

from cxr_ray.config.schema import ExperimentConfig

LEAST_WINDOW, MOST_WINDOW = 16, 32
SCORING_BATCH = 256
LENGTH_STEP = 64


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
        `window_batches` batches only, since length goes with the label.
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
        window = batch * window_batches(len(drawn), batch)
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


def window_batches(records: int, batch: int) -> int:
    """Say how many batches are sorted by length together: a quarter of an epoch, 16 to 32.

    The longest texts of a window share its last batch, which is padded to the longest of all: with
    32 batches some 8 % of what is computed is padding where lengths vary as reports' do, with 16
    some 15 %.
    """
    return min(MOST_WINDOW, max(LEAST_WINDOW, records // batch // 4))


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


def padded_lengths(config: ExperimentConfig) -> tuple[int, ...]:
    """List the few lengths that texts are padded to where each new one compiles a model anew."""
    most = config.text.max_tokens
    return (*range(LENGTH_STEP, most, LENGTH_STEP), most)
