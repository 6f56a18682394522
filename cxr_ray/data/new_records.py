"""Records to be judged by a trained model, as a command line or a table names them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cxr_ray.data.sources.source import Root, read_text
from cxr_ray.errors import InputError


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
            f"--table {file} has the columns {', '.join(map(str, table))}; it should have image, "
            "text or both, and may have record"
        )
    if "record" in table and table["record"].duplicated().any():
        twice = table["record"][table["record"].duplicated()].iloc[0]
        raise InputError(f"--table {file}: the record {twice[:40]!r} is there twice")
    if table.empty:
        raise InputError(f"--table {file}: it has no row; it should have one a record")
    root = Root(str(Path(file).absolute().parent))
    records = []
    for number, row in enumerate(table.to_dict("records"), 1):
        image, text = row.get("image", "").strip(), row.get("text")
        read = partial(root.read, image) if image else None
        records.append(NewRecord(row.get("record", str(number)), read, text))
    return records
