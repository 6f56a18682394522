"""What a trial passes through its model, by padded length: what a price is multiplied with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_ray.config.identity import DataKeys
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.order import SCORING_BATCH, epoch_batches, scoring_batches
from cxr_ray.data.prepared import is_prepared
from cxr_ray.storage import Storage

NO_TEXT = 0
"""The length of a record of which no text is read."""

Histogram = dict[int, int]
"""How many records are padded to a length in tokens."""


@dataclass(frozen=True)
class Counts:
    """Records of a cohort as one model sees it: its own training part, and what is scored."""

    train: int
    val: int
    test: int
    own_val: int
    own_test: int
    positive_share: float

    @property
    def subsampled(self) -> bool:
        """Whether the model's own test set is not the full one."""
        return self.own_test < self.test


@dataclass(frozen=True)
class Workload:
    """The records of a trial by the length that they are padded to.

    Attributes
    ----------
    train
        Forward and backward, every epoch.
    val
        Forward, every epoch.
    final
        Forward, once: validation, test, and the training part.
    tokens
        Tokens of the whole cohort, or None where no text was tokenised.
    """

    counts: Counts
    train: Histogram
    val: Histogram
    final: Histogram
    tokens: int | None = None

    @property
    def lengths(self) -> frozenset[int]:
        """Every length that occurs."""
        return frozenset({*self.train, *self.val, *self.final})


def find_workload(
    storage: Storage, config: ExperimentConfig, keys: DataKeys, counted: Mapping[str, Any]
) -> Workload:
    """Read a prepared experiment's workload, or take the longest text that it reads for all.

    Parameters
    ----------
    counted
        The cohort's manifest, or what was counted in the tables: ``parts`` by name.
    """
    if not is_prepared(storage, keys):
        return assumed_workload(config, counted)
    from cxr_ray.data.arm import open_arm

    arm = open_arm(storage, config.uncached, keys)
    own = {part: arm.indices(part, own=True) for part in ("train", "val", "test")}
    full = {part: arm.indices(part, own=False) for part in ("val", "test")}
    lengths = np.full(len(arm.label), NO_TEXT) if arm.lengths is None else arm.lengths
    texts = None if arm.lengths is None else lengths
    batches = epoch_batches(
        own["train"],
        config.train.batch,
        seed=config.train.seed,
        epoch=0,
        lengths=None if texts is None else texts[own["train"]],
    )

    def scored(records: NDArray[np.int64]) -> Histogram:
        cut = scoring_batches(records, SCORING_BATCH, None if texts is None else texts[records])
        return _padded(cut, lengths)

    counts = Counts(
        train=len(own["train"]),
        val=len(full["val"]),
        test=len(full["test"]),
        own_val=len(own["val"]),
        own_test=len(own["test"]),
        positive_share=float(arm.label.mean()),
    )
    evaluated, trained = scored(np.concatenate(list(full.values()))), scored(own["train"])
    return Workload(
        counts,
        train=_padded(batches, lengths),
        val=scored(full["val"]),
        final={n: evaluated.get(n, 0) + trained.get(n, 0) for n in {*evaluated, *trained}},
        tokens=None if texts is None else int(texts.sum()),
    )


def assumed_workload(
    config: ExperimentConfig, counted: Mapping[str, Any], length: int | None = None
) -> Workload:
    """Make the workload of a cohort that is only counted, every text ``length`` tokens long.

    Parameters
    ----------
    length
        ``text.max_tokens`` where none is given, which no text exceeds.
    """
    if "text" not in config.fusion.modalities:
        length = NO_TEXT
    elif length is None:
        length = config.text.max_tokens
    parts = counted["parts"]
    own = {name: _own_count(part, config.data.majority_share) for name, part in parts.items()}
    counts = Counts(
        train=own["train"],
        val=parts["val"]["n"],
        test=parts["test"]["n"],
        own_val=own["val"],
        own_test=own["test"],
        positive_share=counted["positive"] / counted["records"],
    )
    return Workload(
        counts,
        train={length: counts.train},
        val={length: counts.val},
        final={length: counts.train + counts.val + counts.test},
    )


def _own_count(part: Mapping[str, int], share: float | None) -> int:
    """Count a part's records after the majority is thinned out to ``share``."""
    if share is None:
        return part["n"]
    minority = min(part["n_positive"], part["n"] - part["n_positive"])
    return min(part["n"], minority + math.floor(minority * share / (1 - share) + 0.5))


def _padded(batches: Sequence[NDArray[np.int64]], lengths: NDArray[np.int64]) -> Histogram:
    histogram: Histogram = {}
    for batch in batches:
        longest = int(lengths[batch].max())
        histogram[longest] = histogram.get(longest, 0) + len(batch)
    return histogram
