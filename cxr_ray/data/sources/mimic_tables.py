"""Finding and reading MIMIC-CXR-JPG's tables, whatever their version, zipped or not."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cxr_ray.data.sources.source import Root, csv_of
from cxr_ray.errors import InputError, shortened

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

TABLE_NAME = re.compile(
    r"mimic-cxr-(?P<version>\d[0-9A-Za-z.]*?)-"
    r"(?P<table>metadata|split|chexpert|negbio|test-set-labeled)\.csv(\.gz)?"
)
# Released with 2.1.0, beside tables that are still called 2.0.0.
OF_ANY_VERSION = "test-set-labeled"
CATEGORY, TEXT, INTEGER, NUMBER = "category", "text", "integer", "number"


def find_tables(root: Root) -> dict[str, str]:
    """File name of each table in ``root``.

    Raises
    ------
    InputError
        If there is no metadata table, a table is there twice, or versions are mixed.
    """
    found = [match for name in root.names() if (match := TABLE_NAME.fullmatch(name))]
    versions = sorted({m["version"] for m in found if m["table"] != OF_ANY_VERSION})
    if len(versions) > 1:
        raise InputError(
            f"{root.uri}: tables of versions {' and '.join(versions)} lie side by side; keep one"
        )
    tables: dict[str, str] = {}
    for match in found:
        name, table = match[0], match["table"]
        if table in tables:
            raise InputError(f"{root.uri}: both {tables[table]} and {name} are there; keep one")
        tables[table] = name
    if "metadata" not in tables:
        raise InputError(f"{root.uri}: mimic-cxr-<version>-metadata.csv[.gz] is not there")
    return tables


def table_header(name: str, raw: bytes) -> list[str]:
    """Column names of a CSV table, from its first line."""
    try:
        stream = gzip.open(io.BytesIO(raw)) if name.endswith(".gz") else io.BytesIO(raw)
        line = stream.readline().decode("utf-8-sig", errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name}: not a readable gzip file: {error}") from error
    with csv_of(name):  # a line may end with a carriage return alone
        return next(csv.reader(io.StringIO(line, newline="")), [])


def _place(message: str) -> str:
    """Keep of the reader's message where it stumbled, without the row, which holds ids."""
    found = re.search(
        r"(Row #\d+: )?Expected \d+ columns, got \d+|In CSV column #\d+: [^:]*|.*[Uu][Tt][Ff].?8.*",
        message,
    )
    return found[0] if found else "it is damaged or cut off"


def read_table(name: str, raw: bytes, columns: Mapping[str, str]) -> pd.DataFrame:
    """Read the named columns of a CSV table, and no others.

    Parameters
    ----------
    name : str
        The file's name: its ending says whether it is zipped.
    raw : bytes
        The file's content.
    columns : mapping of str to str
        Column name to ``category``, ``text``, ``integer`` or ``number``. Integers must be there in
        every row.

    Raises
    ------
    InputError
        If a column is missing, a value is not of its type, or the file cannot be read.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    header = table_header(name, raw)
    for column in columns:
        if column not in header:
            raise InputError(f"{name}: column {column!r} is missing{_nearest(column, header)}")
    types = {
        CATEGORY: pa.dictionary(pa.int32(), pa.string()),
        TEXT: pa.string(),
        INTEGER: pa.int64(),
        NUMBER: pa.float64(),
    }
    options = arrow_csv.ConvertOptions(
        include_columns=list(columns),
        column_types={column: types[kind] for column, kind in columns.items()},
        strings_can_be_null=True,
    )
    parsing = arrow_csv.ParseOptions(newlines_in_values=True)
    compression = "gzip" if name.endswith(".gz") else None
    try:
        with pa.input_stream(pa.py_buffer(raw), compression=compression) as stream:
            table = arrow_csv.read_csv(stream, parse_options=parsing, convert_options=options)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{name}: not a readable table: {_place(str(error))}") from error
    _check_complete(name, table, columns)
    return table.to_pandas()


def _check_complete(name: str, table: pa.Table, columns: Mapping[str, str]) -> None:
    for column, kind in columns.items():
        if kind == INTEGER and table.column(column).null_count:
            raise InputError(f"{name}: column {column!r} is blank in some row; it must be a number")


def _nearest(column: str, header: Sequence[str]) -> str:
    close = difflib.get_close_matches(column, header, 1)
    return (
        f"; did you mean {close[0]!r}?"
        if close
        else f"; it has {shortened(', '.join(header), 500)}"
    )
