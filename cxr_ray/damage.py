"""Reading back what a storage holds, and saying what to do where a file of it is damaged."""

import contextlib
import errno
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cxr_ray.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# What the readers of JSON, YAML, CSV, Parquet and NumPy files raise for content that is none.
_UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    RecursionError,
    zipfile.BadZipFile,
    zlib.error,
    yaml.YAMLError,
)
_NOT_THERE = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR)
TRIAL = "remove this trial's folder, and the sweep's command trains it again"
COHORT = "remove its folder, and the sweep's command prepares it again"
SCORES = "remove it, and the sweep's command scores the trial again"
TABLE = "repeat the sweep's command, which writes it"


class Stored(dict[str, Any]):
    """What a file holds, by name; a name that it lacks is damage, and is answered so."""

    def __init__(self, content: Any, path: Path, advice: str) -> None:
        super().__init__(content)
        self._said = f"{path} is damaged (it lacks {{name}}): {advice}"

    def __missing__(self, name: str) -> Any:
        raise InputError(self._said.format(name=name))

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


@contextlib.contextmanager
def named_if_damaged(path: Path, advice: str) -> Iterator[None]:
    """Turn what a reader raises for damaged content into a sentence that names the file.

    Raises
    ------
    InputError
        If the file is not there or damaged. A disk that cannot be read stays an OSError.
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        if error.errno in _NOT_THERE:
            raise InputError(f"{path} cannot be read ({error.strerror}): {advice}") from error
        if error.errno is not None:
            raise
        raise InputError(f"{path} is damaged: {advice}") from error
    except _UNREADABLE as error:
        raise InputError(f"{path} is damaged: {advice}") from error


def read_json(path: Path, advice: str) -> Stored:
    """Read a mapping from a JSON file.

    Raises
    ------
    InputError
        If the file is not there or damaged, or where a name that it lacks is asked for.
    """
    with named_if_damaged(path, advice):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            kind = type(found).__name__
            raise InputError(f"{path} is damaged (it holds {kind}, no mapping): {advice}")
    return Stored(found, path, advice)


def read_whole_table(path: Path, needed: Sequence[str] = (), **options: Any) -> "pd.DataFrame":
    """Read a CSV that a study was given, with pandas' options.

    Raises
    ------
    InputError
        If the file is not there, is cut off or lacks a column that is needed.
    """
    import pandas as pd

    with named_if_damaged(path, TABLE):
        if not path.read_bytes().endswith(b"\n"):
            raise ValueError("its last line is cut off")
        # In pieces pandas warns of columns that are empty in one of them.
        table = pd.read_csv(path, low_memory=False, **options)
        table[list(needed)]  # noqa: B018 - raises where one is missing
    return table
