"""The rows of a table, gone through once: their texts are put aside in a file, not in memory."""

from __future__ import annotations

import csv
import io
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxr_ray.data.reports import compose_report
from cxr_ray.data.sources.source import csv_of
from cxr_ray.data.sources.table_recipe import TableRecipe
from cxr_ray.errors import InputError, refusal_of, shortened

if TYPE_CHECKING:
    import pandas as pd

PIECE = 5_000


@dataclass(frozen=True, eq=False)
class TableRows:
    """A table without its texts, and where these are.

    Attributes
    ----------
    frame : pandas.DataFrame
        Every column that says more than a text, as text, blank where it is blank.
    blank : (N,) bool
        Whether a row's text is.
    digests : (N,) int64
        Of each row's text columns: equal where all of these are.
    """

    frame: pd.DataFrame
    blank: NDArray[np.bool_]
    digests: NDArray[np.int64]
    _file: IO[bytes]
    _ends: NDArray[np.int64]

    def text(self, row: int) -> str:
        """Read the text of a row, composed where columns hold its sections."""
        start = int(self._ends[row - 1]) if row else 0
        return os.pread(self._file.fileno(), int(self._ends[row]) - start, start).decode()


def read_rows(file: IO[bytes], recipe: TableRecipe) -> TableRows:
    """Go through a CSV piece by piece.

    The file of texts has no name and goes with the process.

    Raises
    ------
    InputError
        If it is no table, not UTF-8, or lacks a column, or texts cannot be put aside.
    """
    import pandas as pd

    frames, blank, digests, ends = [], array("b"), bytearray(), array("q")
    with _room_for_texts() as aside:
        try:
            pieces = pd.read_csv(
                file,
                dtype=str,
                keep_default_na=False,
                sep=recipe.delimiter,
                encoding="utf-8-sig",
                index_col=False,
                chunksize=PIECE,
            )
            for piece in pieces:
                _check_columns(piece, recipe)
                columns = [piece[column].fillna("").tolist() for _, column in recipe.text]
                with _putting_aside():
                    for row in zip(*columns, strict=True):
                        text = _compose(recipe, row)
                        aside.write(text.encode())
                        ends.append(aside.tell())
                        blank.append(not text.strip())
                        digests += blake2b(repr(row).encode(), digest_size=8).digest()
                frames.append(piece[list(recipe.row_columns)].fillna(""))
        except UnicodeDecodeError as error:
            raise InputError(
                f"{recipe.csv}: byte {error.start + 1} is no UTF-8 text; save the table as UTF-8"
            ) from error
        except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise InputError(f"{recipe.csv}: not a readable table: {error}") from error
        with _putting_aside():
            aside.flush()
    rows = TableRows(
        pd.concat(frames, ignore_index=True),
        np.array(blank, bool),
        np.frombuffer(digests, np.int64),
        aside,
        np.array(ends, np.int64),
    )
    weakref.finalize(rows, aside.close)
    return rows


def check_tails(file: IO[bytes], recipe: TableRecipe) -> None:
    """Refuse rows with cells beyond the header's; a delimiter at every line's end adds blanks.

    Raises
    ------
    InputError
        If a row has any that is not blank.
    """
    with csv_of(recipe.csv), io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        lines = csv.reader(text, delimiter=recipe.delimiter)
        width = len(next(lines))
        for number, row in enumerate(lines, start=2):
            if any(cell.strip() for cell in row[width:]):
                raise InputError(
                    f"{recipe.csv}: row {number} has {len(row)} cells and the header {width} "
                    "columns; quote cells that hold the delimiter, or name another delimiter"
                )


@contextmanager
def _room_for_texts() -> Iterator[IO[bytes]]:
    """Open a file that is read for as long as the rows are; of a refused table it is closed."""
    with _putting_aside():
        aside = tempfile.TemporaryFile()  # noqa: SIM115 - see above
    try:
        yield aside
    except BaseException:
        with suppress(OSError):  # what could not be written is not wanted any more
            aside.close()
        raise


@contextmanager
def _putting_aside() -> Iterator[None]:
    """Say of a write that is refused where it went: it is no fault of the table."""
    try:
        yield
    except OSError as error:
        where = f": {tempfile.tempdir}" if tempfile.tempdir else ""
        raise InputError(
            f"{refusal_of(error) or error}{where}, where a table's texts are put aside; name "
            "another folder in TMPDIR"
        ) from error


def _compose(recipe: TableRecipe, row: Sequence[str]) -> str:
    """Give the text, or put columns that hold sections under headers."""
    names = [name for name, _ in recipe.text]
    return row[0] if names == [""] else compose_report(dict(zip(names, row, strict=True)))


def _check_columns(piece: pd.DataFrame, recipe: TableRecipe) -> None:
    for column in recipe.columns:
        if column not in piece:
            has = shortened(", ".join(map(str, piece.columns)), 500)
            raise InputError(f"{recipe.csv}: column {column!r} is missing; it has {has}")
