"""Records to be judged by a trained model, as a command line or a table names them."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_ray.data.sources.source import Root, read_text
from cxr_ray.errors import InputError, shortened

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class NewRecord:
    """A record to be judged: a function that reads its encoded image, and its report."""

    name: str
    read_image: Callable[[], bytes] | None
    text: str | None


def one_record(image: str | None, text: str | None) -> NewRecord:
    """Name one record by an image file and a report, or a file that holds one.

    Raises
    ------
    InputError
        If a file is not there.
    """
    if image is not None and not Path(image).is_file():
        raise InputError(f"--image {image}: no such file")
    path = None if text is None or "\n" in text or len(text.encode()) > 255 else Path(text)
    if path is not None and path.is_file():
        text = read_text(path.read_bytes())
    elif path is not None and path.suffix == ".txt" and " " not in str(path):
        raise InputError(f"--text {path}: no such file")
    return NewRecord("", None if image is None else Path(image).read_bytes, text)


def read_table(file: str) -> list[NewRecord]:
    """Read a CSV with a row a record.

    Columns are ``image``, a file below the table's folder, ``text``, a report, or both, and
    ``record``, a name for the answer; without it the row's number, from 1, is taken.

    Raises
    ------
    InputError
        If the table cannot be read, or has neither column.
    """
    import pandas as pd

    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"--table {file} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"--table {file}: not a CSV in UTF-8 ({error})") from error
    if not {"image", "text"} & set(table):
        raise InputError(
            f"--table {file} has the columns {shortened(', '.join(map(str, table)), 500)}; it "
            "should have image, text or both, and may have record"
        )
    if "record" in table and table["record"].duplicated().any():
        twice = table["record"][table["record"].duplicated()].iloc[0]
        raise InputError(f"--table {file}: the record {twice[:40]!r} is there twice")
    if table.empty:
        raise InputError(f"--table {file}: it has no row; it should have one a record")
    # whoever asks reads their own files, and sees a probability of each, nothing else
    root = Root(str(Path(file).absolute().parent), follow_links=True)
    records = []
    for number, row in enumerate(table.to_dict("records"), 1):
        image, text = row.get("image", "").strip(), row.get("text")
        read = partial(root.read, image) if image else None
        records.append(NewRecord(row.get("record", str(number)), read, text))
    return records


def encoded_records(table: "pd.DataFrame") -> list[NewRecord]:
    """Read a table that comes over a network: its images are in it, and no file is opened.

    Parameters
    ----------
    table
        Columns ``image``, the bytes of an image file in base64, ``text``, a report, and
        ``record``, as `read_table` has them. A cell, or a column, may be missing.
    """
    import pandas as pd

    def cell(row: dict[str, Any], name: str) -> str | None:
        value = row.get(name)
        return None if pd.isna(value) or not str(value).strip() else str(value)

    records = []
    for number, row in enumerate(table.to_dict("records"), 1):
        named = {str(key): value for key, value in row.items()}
        image = cell(named, "image")
        read = None if image is None else partial(_decode, image)
        records.append(NewRecord(cell(named, "record") or str(number), read, cell(named, "text")))
    return records


def _decode(image: str) -> bytes:
    try:
        return base64.b64decode(image, validate=True)
    except ValueError as error:  # of letters that are not ASCII another one than of the rest
        raise InputError("the image is not in base64") from error
