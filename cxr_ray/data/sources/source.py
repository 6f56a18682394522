"""What every source offers, and the folder, archive or bucket that its files lie in."""

from __future__ import annotations

import csv
import os
import posixpath
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np

from cxr_ray.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from cxr_ray.config.schema import CohortConfig, DataConfig, ExperimentConfig
    from cxr_ray.data.cohort import FlowStep

THREADS = 32
CHUNK = 64
WORTH_THREADS = 256


class LinkOutside(InputError):
    """A file of a data folder is a symbolic link to one outside it."""

    fault = "link out of the data folder; see data.follow_links"


class ReportReader(Protocol):
    """What reads reports: a source, or what one task was given of it."""

    def read_report(self, reference: str) -> str:
        """Read the report's text."""


@dataclass(frozen=True)
class HeldReports:
    """A few reports that travel to a task, which then need not open the table that holds all."""

    texts: dict[str, str]

    def read_report(self, reference: str) -> str:
        """Give the report's text."""
        return self.texts[reference]


class Source(Protocol):
    """Where records come from: paths and small settings only, so that it travels to Ray tasks.

    Attributes
    ----------
    kind : str
        ``phantom``, ``mimic``, ``openi`` or ``table``.
    name : str
        The kind, or a table's file name without its ending: enters study names.
    modalities : tuple of str
        What the source declares.
    reads : frozenset of str
        The names of the ``cohort.*`` fields that have an effect.
    parts : tuple of str
        The parts that its records are divided into.
    """

    @property
    def kind(self) -> str:
        """The kind of source."""

    @property
    def name(self) -> str:
        """The name for studies."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the source declares."""

    @property
    def reads(self) -> frozenset[str]:
        """The cohort fields that have an effect."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that its records are divided into."""

    def fingerprint(self) -> str:
        """Sha256 (hex) of the tables' content; never of names or places."""

    def rules(self, config: CohortConfig) -> dict[str, Any]:
        """Give the cohort fields that this source reads, defaults resolved."""

    def required(self, data: DataConfig) -> tuple[str, ...]:
        """Say what each record must have: ``data.require``, else the source's default."""

    def select(self, config: ExperimentConfig) -> tuple[pd.DataFrame, list[FlowStep]]:
        """Apply the rules to the tables: no image or report is opened."""

    def present(self, modality: str, references: Sequence[str | None]) -> np.ndarray:
        """Whether each reference's content exists, (N,) bool."""

    def read_image(self, reference: str) -> bytes:
        """Read the image file's bytes, undecoded."""

    def read_report(self, reference: str) -> str:
        """Read the report's text."""

    def reports_of(self, references: Sequence[str | None]) -> ReportReader:
        """Give what reads these reports on another machine, at no more cost than theirs."""

    def ensure_written(self) -> None:
        """Write what is generated; nothing to do for data that is already there."""


def confined(reference: str) -> bool:
    """Whether a reference stays inside the folder that it is relative to."""
    return (
        bool(reference)
        and "\\" not in reference
        and "\0" not in reference
        and "://" not in reference
        and not reference.startswith("/")
        and ".." not in reference.split("/")
    )


@dataclass(frozen=True)
class Root:
    """A folder, a ``.zip`` or a cloud URI (through fsspec); only relative references go in.

    Parameters
    ----------
    uri : str
        A local path, or anything with ``://`` that fsspec opens.
    follow_links : bool
        Whether a symbolic link may lead out of a local folder. The folder itself may be one.
    top : str, optional
        The folder that links must stay in, where it is not ``uri`` itself.
    """

    uri: str
    follow_links: bool = False
    top: str | None = None

    @property
    def is_remote(self) -> bool:
        """Whether fsspec does the reading."""
        return "://" in self.uri

    @property
    def is_zip(self) -> bool:
        """Whether members of an archive are read."""
        return self.uri.lower().endswith(".zip")

    def joined(self, name: str) -> Root:
        """Give the folder ``name`` inside this one."""
        return replace(self, uri=posixpath.join(self.uri, name), top=self.top or self.uri)

    def exists(self) -> bool:
        """Whether the folder or archive is there."""
        if not self.is_remote:
            return os.path.isfile(self.uri) if self.is_zip else os.path.isdir(self.uri)
        system, path = _file_system(self.uri)
        return bool(system.exists(path))

    def names(self) -> list[str]:
        """Names directly inside a folder, or every member of an archive; [] if absent."""
        if not self.exists():
            return []
        if self.is_zip:
            return sorted(_members(self.uri))
        if not self.is_remote:
            return sorted(os.listdir(self.uri))
        system, path = _file_system(self.uri)
        listed = system.ls(path, detail=False)
        return sorted(posixpath.basename(entry.rstrip("/")) for entry in listed)

    def read(self, reference: str) -> bytes:
        """Read one file or member; raises as `open` does."""
        if self.is_remote and not self.is_zip:
            system, path = _file_system(self.uri)
            return bytes(system.cat_file(posixpath.join(path, _checked(reference))))
        with self.open(reference) as file:
            return file.read()

    def open(self, reference: str) -> IO[bytes]:
        """Open one file or member.

        Raises
        ------
        LinkOutside
            If it is a link out of the root, and those are not followed.
        InputError
            If the reference leaves the root.
        OSError
            If it cannot be read.
        """
        reference = _checked(reference)
        if self.is_zip:
            try:
                return _archive(self.uri).open(reference)
            except KeyError as error:
                raise FileNotFoundError(f"{reference} is not in {self.uri}") from error
        if not self.is_remote:
            path = os.path.join(self.uri, reference)
            if not self.follow_links and not self._keeps(path):
                raise LinkOutside(
                    f"{reference} is a link out of {self.top or self.uri}; copy the file there, or"
                    " set data.follow_links=true"
                )
            return open(path, "rb")
        system, path = _file_system(self.uri)
        file: IO[bytes] = system.open(posixpath.join(path, reference), "rb")
        return file

    @contextmanager
    def opened_table(self, name: str, advice: str = "") -> Iterator[IO[bytes]]:
        """Open a file without which nothing can be done; ``advice`` is for where it is absent.

        Raises
        ------
        InputError
            If it cannot be read, now or while it is.
        """
        try:
            with self.open(name) as file:
                yield file
        except FileNotFoundError as error:
            raise InputError(f"{name} is not in {self.uri}{advice}") from error
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{name} in {self.uri} cannot be read: {reason}") from error

    def read_table(self, name: str, advice: str = "") -> bytes:
        """Read such a file whole."""
        with self.opened_table(name, advice) as file:
            return file.read()

    def holds(self, references: Sequence[str | None]) -> np.ndarray:
        """Whether each reference is a file in here, (N,) bool; None is never."""
        test = self._test()

        def held(reference: str | None) -> bool:
            return reference is not None and confined(reference) and test(reference)

        if self.is_zip or len(references) < WORTH_THREADS and not self.is_remote:
            return np.array([held(reference) for reference in references], bool)
        chunks = [references[at : at + CHUNK] for at in range(0, len(references), CHUNK)]
        with ThreadPoolExecutor(THREADS) as pool:
            results = pool.map(lambda chunk: [held(reference) for reference in chunk], chunks)
            return np.array([found for result in results for found in result], bool)

    def _keeps(self, path: str) -> bool:
        """Whether a local path, its links resolved, lies below the folder, its links resolved."""
        return os.path.realpath(path).startswith(_below(self.top or self.uri))

    def _test(self) -> Callable[[str], bool]:
        if self.is_zip:
            return _members(self.uri).__contains__
        if not self.is_remote:
            return lambda reference: os.path.isfile(os.path.join(self.uri, reference))
        system, path = _file_system(self.uri)
        return lambda reference: bool(system.isfile(posixpath.join(path, reference)))


@contextmanager
def csv_of(name: str) -> Iterator[None]:
    """Let Python's csv module read cells of any length, as pandas does.

    Raises
    ------
    InputError
        If what it reads is no table.
    """
    longest = csv.field_size_limit(sys.maxsize)
    try:
        yield
    except csv.Error as error:
        raise InputError(f"{name}: not a readable table: {error}") from error
    finally:
        csv.field_size_limit(longest)


def _checked(reference: str) -> str:
    if not confined(reference):
        raise InputError(f"{reference!r}: a reference must be a path inside the data folder")
    return reference


def opened_root(uri: str, flag: str, follow_links: bool = False) -> Root:
    """Give the root, or say which flag names a place that does not exist."""
    place = uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))
    root = Root(place, follow_links)
    if not root.exists():
        raise InputError(f"{flag}: {uri} does not exist")
    return root


def read_text(raw: bytes) -> str:
    """Decode a report: UTF-8, what is not becomes U+FFFD, a byte-order mark is dropped."""
    return raw.decode("utf-8-sig", errors="replace")


def is_plain_name(name: str) -> bool:
    """Whether a table's file name is safe as the last part of a path."""
    return re.fullmatch(r"[0-9A-Za-z_-][0-9A-Za-z._ -]*", name) is not None


def _file_system(uri: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise InputError(f"{uri}: fsspec cannot open it: {error}") from error
    return system, path


@lru_cache(maxsize=16)
def _below(folder: str) -> str:
    """Give what the real paths of all that lies in a folder begin with."""
    return os.path.join(os.path.realpath(folder), "")


@lru_cache(maxsize=4)
def _archive(uri: str) -> zipfile.ZipFile:
    file: IO[bytes]
    if "://" in uri:
        system, path = _file_system(uri)
        file = system.open(path, "rb")
    else:
        file = open(uri, "rb")  # noqa: SIM115 (kept open for the life of the process)
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise InputError(f"{uri}: not a readable zip archive") from error


@lru_cache(maxsize=4)
def _members(uri: str) -> frozenset[str]:
    return frozenset(name for name in _archive(uri).namelist() if not name.endswith("/"))
