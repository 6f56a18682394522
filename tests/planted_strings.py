"""Strings planted in data, and finding them again in whatever files a run leaves behind."""

import base64
import gzip
import io
import re
import sqlite3
import zipfile
import zlib
from pathlib import Path

MARK = "zqxplanted"
"""Begins every planted text."""
SUBJECTS, STUDIES = 18_726_912, 58_726_912
"""The first of `NUMBERED` planted numbers each: MIMIC's ids are numbers."""
NUMBERED = 88

_WORDS = [
    MARK.encode(encoding)
    for encoding in ("ascii", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
]
# All planted numbers, and no others, begin so.
_DIGITS = b"87269"
_NUMBER = re.compile(rb"(?<![0-9])[15]87269[0-9][0-9](?![0-9])")
# All but the lowest byte of a planted number as int64, either end first.
_INTEGERS = [
    part
    for number in (SUBJECTS, STUDIES)
    for part in (number.to_bytes(8, "little")[1:], number.to_bytes(8, "big")[:-1])
]
_COMPRESSED_TEXT = re.compile(
    rb"zTXt[^\x00]*\x00\x00|iTXt[^\x00]*\x00\x01\x00[^\x00]*\x00[^\x00]*\x00"
)
_BASE64 = re.compile(rb"base64,([A-Za-z0-9+/]+=*)")


def leaks(*places, seen=None):
    """The files below some places that hold a planted string, or have one in their path.

    With a dict ``seen`` it looks at those only that have changed since, and as they are: what is
    half-written cannot be unpacked.
    """
    found = {}
    for place in map(Path, places):
        for path in (place, *place.rglob("*")):
            hit = _planted(str(path.relative_to(place)).encode())
            if not hit and path.is_file() and not path.is_symlink():
                try:
                    if seen is None:
                        hit = find(path.read_bytes())
                    elif seen.get(path) != (state := path.stat().st_mtime_ns):
                        seen[path] = state
                        hit = _planted(path.read_bytes())
                except OSError:  # gone since it was listed
                    continue
            if hit:
                found[str(path)] = hit
    return found


def find(content):
    """Search bytes, and whatever is packed or compressed in them, for a planted string."""
    return next((hit for piece in _unpacked(content) if (hit := _planted(piece))), None)


def _planted(content):
    low = content.lower()
    hit = next((word for word in _WORDS if word in low), None)
    hit = hit or next((part for part in _INTEGERS if part in content), None)
    if hit is None and _DIGITS in content and (match := _NUMBER.search(content)):
        hit = match[0]
    return hit


def _unpacked(content):
    yield content
    for match in _BASE64.finditer(content):
        yield from _unpacked(base64.b64decode(match[1]))
    if content.startswith(b"PAR1"):
        yield _parquet(content)
    elif content.startswith(b"\x1f\x8b"):
        yield from _unpacked(gzip.decompress(content))
    elif content.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield from _unpacked(archive.read(name))
    elif content.startswith(b"SQLite format 3"):
        yield from _sqlite(content)
    elif content.startswith(b"\x89PNG"):
        yield from _inflated(content)


def _parquet(content):
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(content)).to_pandas().to_csv().encode()


def _sqlite(content):
    """Every value of every table, whole: a long one lies in several pages of the file."""
    database = sqlite3.connect(":memory:")
    # in memory there is no log to write ahead, which this header asks for
    database.deserialize(content[:18] + b"\1\1" + content[20:])
    tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in tables:
        for row in database.execute(f'SELECT * FROM "{table}"'):
            for value in row:
                yield from _unpacked(value if isinstance(value, bytes) else str(value).encode())
    database.close()


def _inflated(png):
    """The compressed texts of a PNG."""
    for match in _COMPRESSED_TEXT.finditer(png):
        yield zlib.decompressobj().decompress(png[match.end() :])
