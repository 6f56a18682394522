"""What one model reads of a prepared cohort: memory-mapped packs and the labels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ray.config.identity import DataKeys, frozen_keys
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.frozen_pack import frozen_folder, open_frozen
from cxr_ray.data.image_pack import open_images
from cxr_ray.data.prepared import fetch_pack, fetch_prepared, read_cohort
from cxr_ray.data.split import own_members, read_parts
from cxr_ray.data.text_pack import TextPack, open_text
from cxr_ray.storage import Storage

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ArmData:
    """A cohort as one arm sees it; every array has one entry a record, in cohort order.

    Attributes
    ----------
    record_id, group
        Salted hashes of record and patient.
    label
        (N,) int8, 1 is positive.
    part
        (N,) ``train``, ``val`` or ``test``.
    own
        (N,) bool: belongs to the arm's own, sub-sampled data set.
    row
        (N,) int64: the record's row in the packs.
    images
        (rows, H, W) uint8, or None where the arm reads no image.
    text
        Token ids by row, or None where the arm reads no text.
    frozen
        By modality, what the frozen first stages of its encoder make of each row: (rows, ...)
        float; empty where that is computed in every pass.
    resident
        Packs that lie on the device: see `cxr_ray.data.batches.reside`.
    """

    record_id: NDArray[np.str_]
    group: NDArray[np.str_]
    label: NDArray[np.int8]
    part: NDArray[np.str_]
    own: NDArray[np.bool_]
    row: NDArray[np.int64]
    images: NDArray[np.uint8] | None
    text: TextPack | None
    frozen: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)
    resident: "Mapping[str, Tensor]" = field(default_factory=dict)

    def indices(self, part: str, *, own: bool) -> NDArray[np.int64]:
        """Return the records of one part: those of the arm's own data set, or all."""
        chosen = self.part == part
        return np.flatnonzero(chosen & self.own if own else chosen)

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        """(N,) tokens of each record, or None where the arm reads no text."""
        return None if self.text is None else self.text.lengths[self.row]


def open_arm(storage: Storage, config: ExperimentConfig, keys: DataKeys) -> ArmData:
    """Open the prepared data of one experiment."""
    fetch_prepared(storage, keys)
    folder = storage.prepared / keys.cohort
    frozen = {
        modality: frozen_folder(folder, key) for modality, key in frozen_keys(config, keys).items()
    }
    for pack in frozen.values():
        fetch_pack(storage, pack)
    cohort = read_cohort(folder)
    label = cohort["label"].to_numpy(dtype=np.int8)
    part = read_parts(cohort, config.data)
    return ArmData(
        record_id=cohort["record_id"].to_numpy(dtype=str),
        group=cohort["group"].to_numpy(dtype=str),
        label=label,
        part=part,
        own=own_members(
            cohort["record"].to_numpy(dtype=str),
            label,
            part,
            config.data.majority_share,
            config.data.seed,
        ),
        row=cohort["row"].to_numpy(dtype=np.int64),
        images=None if keys.image is None else open_images(folder / f"images-{keys.image}"),
        text=None if keys.text is None else open_text(folder / f"text-{keys.text}"),
        frozen={modality: open_frozen(pack) for modality, pack in frozen.items()},
    )
