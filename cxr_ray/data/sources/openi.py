"""Indiana University chest X-rays (Open-i; Demner-Fushman et al. 2016).

Read in the layout of the copy on Kaggle: 3,851 reports of as many patients,
CC BY-NC-ND 4.0. ``Problems`` are terms of human indexers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_ray.data.cohort import PARTS, FlowStep, Selection
from cxr_ray.data.reports import compose_report
from cxr_ray.data.sources.source import (
    HeldReports,
    ReportReader,
    Root,
    csv_of,
    is_plain_name,
    opened_root,
)
from cxr_ray.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from cxr_ray.config.schema import CohortConfig, DataConfig, ExperimentConfig

REPORTS, PROJECTIONS = "indiana_reports.csv", "indiana_projections.csv"
SECTIONS = ("indication", "comparison", "findings", "impression")
POSITIVE = {
    "strict": frozenset({"Pneumonia"}),
    "relaxed": frozenset({"Pneumonia", "Infiltrate", "Consolidation", "Airspace Disease"}),
}
IMAGE_FOLDERS = ("images/images_normalized", "images")


@dataclass(frozen=True)
class OpeniSource:
    """A folder with the two tables and, where present, images.

    Attributes
    ----------
    root : Root
        The folder.
    has_images : bool
        Whether at least half of the records have their image: only then is it declared.
    """

    root: Root
    has_images: bool

    kind = "openi"
    name = "openi"
    parts = PARTS
    reads = frozenset({"positive"})

    @property
    def modalities(self) -> tuple[str, ...]:
        """Text, and image where at least half of the records have one."""
        return ("image", "text") if self.has_images else ("text",)

    def fingerprint(self) -> str:
        """Sha256 of both tables."""
        digest = sha256()
        for name in (REPORTS, PROJECTIONS):
            content = self.root.read(name)
            digest.update(f"{len(content)}\n".encode() + content)
        return digest.hexdigest()

    def rules(self, config: CohortConfig) -> dict[str, Any]:
        """Give what is positive; every patient has one record."""
        return {"positive": config.positive}

    def required(self, data: DataConfig) -> tuple[str, ...]:
        """Take ``data.require``, else what is declared."""
        return self.modalities if data.require is None else data.require

    def select(self, config: ExperimentConfig) -> tuple[pd.DataFrame, list[FlowStep]]:
        """Select reports by their ``Problems``: positive terms, or exactly ``normal``."""
        import pandas as pd

        reports = _reports(self.root)
        images = _image_references(self.root)
        frame = pd.DataFrame(
            {
                "record": [row["uid"] for row in reports],
                "patient": [row["uid"] for row in reports],
                "label": [_label(row["Problems"], config.cohort.positive) for row in reports],
                "image": pd.Series([images.get(row["uid"]) for row in reports], dtype=object),
                "report": [row["uid"] for row in reports],
            }
        )
        selection = Selection(frame.drop(columns="label"), "records", "all reports")
        kept = (frame["label"] >= 0).to_numpy()
        selection.frame = frame
        selection.keep("neither positive nor exactly normal", kept)
        frame = selection.frame = selection.frame.astype({"label": np.int8})
        there = int(self.root.holds(frame["image"].tolist()).sum())
        selection.note("image files", f"{there} of {len(frame)} records have an image file")
        texts = _texts(self.root)
        blank = frame[[not texts[uid] for uid in frame["report"]]]
        positive = int(blank["label"].sum())
        selection.note(
            "reports without any text",
            f"{positive} positive and {len(blank) - positive} negative are kept as empty texts",
        )
        return frame, selection.steps

    def present(self, modality: str, references: Sequence[str | None]) -> np.ndarray:
        """Whether the image files exist, or the table has the report's row, (N,) bool."""
        if modality == "image":
            return self.root.holds(references)
        texts = _texts(self.root)
        return np.array([ref in texts for ref in references], bool)

    def read_image(self, reference: str) -> bytes:
        """Read the PNG's bytes."""
        return self.root.read(reference)

    def read_report(self, reference: str) -> str:
        """Compose a report of the table's sections."""
        return _texts(self.root)[reference]

    def reports_of(self, references: Sequence[str | None]) -> ReportReader:
        """Give the texts themselves."""
        return HeldReports({ref: self.read_report(ref) for ref in references if ref is not None})

    def ensure_written(self) -> None:
        """Nothing to do: the folder is the user's."""


def open_openi(path: str, rules: CohortConfig, follow_links: bool = False) -> OpeniSource:
    """Open a folder and count how many of the records selected by ``rules`` have an image."""
    root = opened_root(path, "--data", follow_links)
    images = _image_references(root)
    chosen = [r["uid"] for r in _reports(root) if _label(r["Problems"], rules.positive) >= 0]
    there = root.holds([images.get(uid) for uid in chosen])
    return OpeniSource(root, bool(len(chosen)) and 2 * int(there.sum()) >= len(chosen))


def _label(problems: str, positive: str) -> int:
    """1, 0, or -1 for neither."""
    terms = [term.strip() for term in problems.split(";") if term.strip()]
    if POSITIVE[positive] & set(terms):
        return 1
    return 0 if terms == ["normal"] else -1


def _rows(root: Root, name: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a table as text: ``None`` is a word here, not a missing value."""
    text = root.read_table(name).decode("utf-8-sig", errors="replace")
    with csv_of(name):
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
        for column in columns:
            if column not in (reader.fieldnames or ()):
                raise InputError(f"{name}: column {column!r} is missing")
        return [{column: row[column] for column in columns} for row in reader]


@lru_cache(maxsize=4)
def _reports(root: Root) -> tuple[dict[str, str], ...]:
    rows = _rows(root, REPORTS, ("uid", "Problems", *SECTIONS))
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        if not row["uid"] or row["uid"] in seen:
            raise InputError(f"{REPORTS}: the uid of data row {number} is blank or occurs before")
        seen.add(row["uid"])
    return tuple(rows)


@lru_cache(maxsize=4)
def _texts(root: Root) -> dict[str, str]:
    return {
        row["uid"]: compose_report({name: row[name] for name in SECTIONS}) for row in _reports(root)
    }


def _image_references(root: Root) -> dict[str, str]:
    """First frontal projection of each uid, in the folder where images lie."""
    folder = IMAGE_FOLDERS[0] if root.joined(IMAGE_FOLDERS[0]).exists() else IMAGE_FOLDERS[1]
    references: dict[str, str] = {}
    for row in _rows(root, PROJECTIONS, ("uid", "filename", "projection")):
        if row["projection"] == "Frontal" and is_plain_name(row["filename"]):
            references.setdefault(row["uid"], f"{folder}/{row['filename']}")
    return references
