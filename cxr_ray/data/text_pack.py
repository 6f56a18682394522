"""Reports read once per cohort, and text packs: one view of them, masked and tokenised."""

import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_ray.damage import COHORT, named_if_damaged, read_json
from cxr_ray.data.masking import mask_text
from cxr_ray.data.reports import parse_report, view_text
from cxr_ray.data.sources.source import LinkOutside, ReportReader
from cxr_ray.data.tokenization import (
    PADDING,
    load_pretrained_tokenizer,
    open_trained,
    pretrained_tokenize,
    trained_tokenize,
)
from cxr_ray.storage import sync, write_whole

CHUNK = 2000
# Files that are gone, and damaged members of an archive.
_UNREADABLE = (OSError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class View:
    """What of a report a model reads, and through which tokenizer."""

    sections: tuple[str, ...]
    mask: str
    max_tokens: int
    encoder: str
    """A hub name or local folder, or ``scratch`` for the cohort's own WordPiece."""


@dataclass(frozen=True)
class TextPack:
    """Token ids of a cohort's reports, memory-mapped.

    ``tokens[offsets[i]:offsets[i + 1]]`` are the int32 ids of record ``i``.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    vocabulary_size: int
    padding: int

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each record, special ones included."""
        return np.diff(self.offsets)


def read_reports_chunk(
    folder: Path, source: ReportReader, start: int, references: list[str | None]
) -> int:
    """Read one chunk of reports into ``folder``; a chunk that is there is not read again.

    A record without a report is an empty text; one that cannot be read carries the reason.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"reports-{start:08d}.parquet"
    if not path.exists():
        texts, sections, faults = [], [], []
        for reference in references:
            text, fault = "", None
            try:
                text = "" if reference is None else source.read_report(reference)
            except LinkOutside as error:
                fault = error.fault
            except _UNREADABLE as error:
                fault = f"report unreadable ({type(error).__name__})"
            texts.append(text)
            sections.append(parse_report(text).label_section)
            faults.append(fault)
        table = pa.table(
            {
                "text": pa.array(texts, pa.string()),
                "label_section": pa.array(sections, pa.string()),
                "fault": pa.array(faults, pa.string()),
            }
        )
        aside = path.with_name(f".{path.name}")
        pq.write_table(table, aside)
        sync(aside)
        aside.rename(path)
    return len(references)


def report_chunks(folder: Path) -> list[Path]:
    """Return the files of a cohort's reports, in record order."""
    return sorted(folder.glob("reports-*.parquet"))


def read_column(folder: Path, column: str) -> list[str | None]:
    """Read one column of a cohort's reports: ``text``, ``label_section`` or ``fault``."""
    import pyarrow.parquet as pq

    values: list[str | None] = []
    for path in report_chunks(folder):
        values += pq.read_table(path, columns=[column])[column].to_pylist()
    return values


@dataclass(frozen=True)
class Texts:
    """Reports of some rows of a cohort, of which never more than a chunk's are in memory.

    Attributes
    ----------
    folder
        Of the cohort's reports.
    rows
        (N,) rising.
    """

    folder: Path
    rows: NDArray[np.int64]

    def __iter__(self) -> Iterator[str]:
        """Go through the texts, as often as asked."""
        import pyarrow.parquet as pq

        start = 0
        for path in report_chunks(self.folder):
            texts = pq.read_table(path, columns=["text"])["text"]
            first, end = np.searchsorted(self.rows, [start, start + len(texts)])
            yield from texts.take(self.rows[first:end] - start).to_pylist()
            start += len(texts)


def tokenize_chunk(reports: Path, aside: Path, view: View, tokenizer: Path | None) -> int:
    """Tokenise one file of reports into ``aside``; what is there already is not made again."""
    path = aside / f"{reports.stem}.npz"
    if not path.exists():
        import pyarrow.parquet as pq

        texts = pq.read_table(reports, columns=["text"])["text"].to_pylist()
        if view.sections != ("full",):
            texts = [view_text(parse_report(text), view.sections) for text in texts]
        seen = [mask_text(text, view.mask) for text in texts]
        if tokenizer is None:
            tokenize = pretrained_tokenize(view.encoder, view.max_tokens)
        else:
            tokenize = trained_tokenize(tokenizer, view.max_tokens)
        ids = tokenize(seen)
        partial = path.with_name(f".{path.name}")
        with partial.open("wb") as file:
            np.savez(
                file,
                tokens=np.fromiter(chain.from_iterable(ids), dtype=np.int32),
                lengths=np.array([len(row) for row in ids], dtype=np.int64),
                empty=np.array([not text.strip() for text in seen]),
            )
        sync(partial)
        partial.rename(path)
    return 1


def join_chunks(aside: Path, view: View, tokenizer: Path | None) -> dict[str, Any]:
    """Join the tokenised chunks of ``aside`` into one pack and return what describes it."""
    paths = sorted(aside.glob("reports-*.npz"))
    lengths = np.concatenate([_load(path, "lengths") for path in paths])
    np.save(aside / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    np.save(aside / "empty.npy", np.concatenate([_load(path, "empty") for path in paths]))
    with (aside / "tokens.npy").open("wb") as file:  # a chunk at a time
        shape = (int(lengths.sum()),)
        header = {"descr": np.dtype(np.int32).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for path in paths:
            file.write(_load(path, "tokens").data)
    if tokenizer is None:
        pretrained = load_pretrained_tokenizer(view.encoder)
        size, padding = len(pretrained), pretrained.pad_token_id or PADDING
    else:
        size, padding = open_trained(tokenizer).get_vocab_size(), PADDING
    description = {**asdict(view), "vocabulary_size": size, "padding": padding}
    write_whole(aside / "pack.json", json.dumps(description, indent=1))
    for path in paths:
        path.unlink()
    return description


def _load(path: Path, name: str) -> NDArray[Any]:
    with np.load(path) as chunk:
        array: NDArray[Any] = chunk[name]
        return array


def open_text(folder: Path) -> TextPack:
    """Map a text pack into memory."""
    description = read_json(folder / "pack.json", COHORT)
    with named_if_damaged(folder, COHORT):
        return TextPack(
            tokens=np.load(folder / "tokens.npy", mmap_mode="r"),
            offsets=np.load(folder / "offsets.npy"),
            vocabulary_size=description["vocabulary_size"],
            padding=description["padding"],
        )


def count_empty(folder: Path, rows: NDArray[np.int64], label: NDArray[np.int8]) -> Sequence[int]:
    """Count the records without this view's section: ``[negatives, positives]``."""
    empty = np.load(folder / "empty.npy")[rows]
    return [int(np.sum(empty & (label == value))) for value in (0, 1)]
