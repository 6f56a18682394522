"""A cohort's packs, made chunk by chunk: images decoded, reports read and tokenised.

A chunk holds what it reads and no more, so that memory does not grow with the cohort.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_ray.config.identity import DataKeys
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data import image_pack, text_pack
from cxr_ray.data.fan_out import FanOut
from cxr_ray.data.prepared import EMPTY_FILE, REPORTS_FOLDER, read_cohort
from cxr_ray.data.split import read_parts
from cxr_ray.data.tokenization import train_wordpiece
from cxr_ray.errors import InputError
from cxr_ray.storage import move_whole, write_whole

if TYPE_CHECKING:
    import pandas as pd

    from cxr_ray.data.sources.source import Source

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many of it are done, and how many there are."""


def decode_images(
    folder: Path,
    source: "Source",
    frame: "pd.DataFrame",
    key: str,
    config: ExperimentConfig,
    fan_out: FanOut,
    progress: Progress,
) -> dict[int, str]:
    """Decode a cohort's images into their pack; return the bad rows with their reasons."""
    done, aside = folder / f"images-{key}", folder / f"images-{key}.partial"
    if not done.is_dir():
        image_pack.allocate_images(aside, len(frame), config.image.size)
        chunks = (
            (aside, source, start, references)
            for start, references in _chunks(frame["image"], image_pack.CHUNK)
        )
        _run(fan_out, image_pack.decode_chunk, chunks, "decoding images", len(frame), progress)
        move_whole(aside, done)
    return image_pack.collect_faults(done)


def read_reports(
    folder: Path, source: "Source", frame: "pd.DataFrame", fan_out: FanOut, progress: Progress
) -> dict[int, str]:
    """Read a cohort's reports as they are; return the bad rows with their reasons."""
    done = folder / REPORTS_FOLDER
    aside = folder / f"{REPORTS_FOLDER}.partial"
    if not done.is_dir():
        aside.mkdir(exist_ok=True)
        chunks = (
            (aside, source.reports_of(references), start, references)
            for start, references in _chunks(frame["report"], text_pack.CHUNK)
        )
        read = text_pack.read_reports_chunk
        _run(fan_out, read, chunks, "reading reports", len(frame), progress)
        move_whole(aside, done)
    faults = text_pack.read_column(done, "fault")
    return {row: fault for row, fault in enumerate(faults) if fault is not None}


def tokenize(
    folder: Path, config: ExperimentConfig, keys: DataKeys, fan_out: FanOut, progress: Progress
) -> None:
    """Tokenise a view of a cohort's reports, with a tokenizer trained first where it wants one.

    Raises
    ------
    InputError
        If the tokenizer is another cohort's and not there.
    """
    reports, cohort = folder / REPORTS_FOLDER, read_cohort(folder)
    view = text_pack.View(
        sections=config.text.sections,
        mask=config.text.mask,
        max_tokens=config.text.max_tokens,
        encoder=config.text.encoder,
    )
    training_step, step = "training the tokenizer", "tokenising chunks of reports"
    if config.data.split.kind == "kfold":
        # one name for the small steps of all fits
        training_step = step = "tokenising reports for each fit"
    tokenizer = None
    if config.text.encoder == "scratch":
        home = folder.with_name(keys.tokenizer_cohort or keys.cohort)
        tokenizer = home / f"tokenizer-{keys.tokenizer}"
        if not tokenizer.is_dir() and home != folder:
            raise InputError(
                f"{tokenizer}: the tokenizer that the model was trained with is not there; repeat "
                "the command that trained it"
            )
        if not tokenizer.is_dir():
            progress(training_step, 0, 1)
            part = read_parts(cohort, config.data)
            training = text_pack.Texts(reports, cohort.loc[part == "train", "row"].to_numpy())
            aside = folder / f"tokenizer-{keys.tokenizer}.partial"
            train_wordpiece(training, config.text.vocabulary, aside)
            move_whole(aside, tokenizer)
            progress(training_step, 1, 1)
    aside = folder / f"text-{keys.text}.partial"
    aside.mkdir(exist_ok=True)
    chunks = [(path, aside, view, tokenizer) for path in text_pack.report_chunks(reports)]
    _run(fan_out, text_pack.tokenize_chunk, chunks, step, len(chunks), progress)
    text_pack.join_chunks(aside, view, tokenizer)
    empty = text_pack.count_empty(aside, cohort["row"].to_numpy(), cohort["label"].to_numpy())
    counts = {"negative": empty[0], "positive": empty[1]}
    write_whole(aside / EMPTY_FILE, json.dumps(counts))
    move_whole(aside, folder / f"text-{keys.text}")


def _run(
    fan_out: FanOut,
    function: Callable[..., int],
    chunks: Iterable[tuple[Any, ...]],
    what: str,
    total: int,
    progress: Progress,
) -> None:
    done = 0
    progress(what, done, total)
    for count in fan_out(function, chunks):
        done += count
        progress(what, done, total)


def _chunks(column: "pd.Series[str]", size: int) -> Iterator[tuple[int, list[str | None]]]:
    """Cut references into chunks, each with the row of its first."""
    for start in range(0, len(column), size):
        values = column.iloc[start : start + size]
        yield start, [value if isinstance(value, str) and value else None for value in values]
