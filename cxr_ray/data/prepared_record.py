"""Single records of a prepared cohort: their pixels and reports, as a model is given them."""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_ray.data.image_pack import open_images
from cxr_ray.data.prepared import REPORTS_FOLDER, fetch_pack, read_cohort
from cxr_ray.data.text_pack import report_chunks
from cxr_ray.errors import InputError
from cxr_ray.storage import Storage


def read_records(
    storage: Storage, keys: dict[str, Any], record_ids: Sequence[str]
) -> list[tuple[NDArray[np.uint8], str]]:
    """Read images (S, S) and whole reports of some records.

    Parameters
    ----------
    keys
        Of what a model that reads both was trained on, as its ``result.json`` has them.
    record_ids
        Salted hashes.

    Raises
    ------
    InputError
        If the prepared data, or one of the records, is no longer there.
    """
    folder = storage.prepared / keys["cohort"]
    images, reports = folder / f"images-{keys['image']}", folder / REPORTS_FOLDER
    for pack in (images, reports):
        fetch_pack(storage, pack)
        if not pack.is_dir():
            raise InputError(f"{pack}: what the model was trained on is no longer there")
    row = read_cohort(folder).set_index("record_id")["row"]
    absent = [name for name in record_ids if name not in row.index]
    if absent:
        raise InputError(f"{folder}: it holds no record {absent[0]}")
    pixels, chunks = open_images(images), report_chunks(reports)
    return [(np.array(pixels[row[name]]), _read_report(chunks, row[name])) for name in record_ids]


def _read_report(chunks: Sequence[Path], row: int) -> str:
    import pyarrow.parquet as pq

    starts = [int(path.stem.rpartition("-")[2]) for path in chunks]
    place = bisect_right(starts, row) - 1
    text: str = pq.read_table(chunks[place], columns=["text"])["text"][row - starts[place]].as_py()
    return text
