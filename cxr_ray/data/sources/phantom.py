"""The phantom: a MIMIC-CXR-JPG-shaped folder of generated radiographs and reports.

The strength of the signal in each modality, and how the two relate, is known: an experiment on it
has a right answer. It is read by the ``mimic`` source like the real thing.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from cxr_ray.config.schema import PhantomConfig
from cxr_ray.data.sources.demographics import ADMISSIONS, PATIENTS, Demographics, Table
from cxr_ray.data.sources.mimic import MimicSource
from cxr_ray.data.sources.phantom_images import jpeg, render
from cxr_ray.data.sources.phantom_tables import PhantomTables, phantom_tables, report_texts
from cxr_ray.data.sources.source import Root

PHANTOM_VERSION = 2
DEMOGRAPHIC_FILES = (f"{PATIENTS}.csv.gz", f"{ADMISSIONS}.csv.gz")


def recipe_hash(config: PhantomConfig) -> str:
    """Sha256 (hex) of what a phantom is made from."""
    # a gap implies demographics; a phantom without either is the one of before they were there
    unread = {"demographics"} if config.has_demographics else {"demographics", "gap"}
    recipe = {"version": PHANTOM_VERSION} | config.model_dump(mode="json", exclude=unread)
    return sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class PhantomSource(MimicSource):
    """A phantom that is written when it is first needed; its tables are known before.

    Attributes
    ----------
    config : PhantomConfig
        What it is made from.
    """

    config: PhantomConfig = PhantomConfig()

    kind = "phantom"
    name = "phantom"

    @classmethod
    def open(cls, config: PhantomConfig, prepared: Path) -> PhantomSource:
        """Give the phantom's place in ``prepared``, written or not."""
        root = Root(os.path.join(os.path.abspath(prepared), f"phantom-{recipe_hash(config)[:16]}"))
        people = Demographics(root, DEMOGRAPHIC_FILES) if config.has_demographics else None
        return cls(root, root.joined("reports"), "files/", people, config)

    def fingerprint(self) -> str:
        """Sha256 of the recipe: the tables follow from it."""
        return recipe_hash(self.config)

    def present(self, modality: str, references: Sequence[str | None]) -> np.ndarray:
        """Whether the files exist or, before they are written, will exist."""
        if self.root.exists():
            return super().present(modality, references)
        drawn = phantom_tables(self.config)
        if modality == "image":
            there = set(drawn.images)
        else:
            there = set(drawn.reports) - {drawn.missing_report}
        return np.array([reference in there for reference in references], bool)

    def ensure_written(self) -> None:
        """Write the folder unless it is there."""
        if not self.root.exists():
            write_phantom(self.config, Path(self.root.uri))

    def _table(self, table: str) -> tuple[str, bytes]:
        if self.root.exists() or table not in phantom_tables(self.config).tables:
            return super()._table(table)
        return f"mimic-cxr-2.0.0-{table}.csv", phantom_tables(self.config).tables[table]

    def _demographic_tables(self) -> list[Table]:
        if self.root.exists():
            return super()._demographic_tables()
        drawn = phantom_tables(self.config).demographics
        return [(f"{name}.csv", content) for name, content in drawn.items()]


def write_phantom(config: PhantomConfig, directory: Path) -> None:
    """Write tables, images and reports beside ``directory``, then rename: it is whole or absent.

    Parameters
    ----------
    config : PhantomConfig
        The same config always gives the same files.
    directory : Path
        Must not exist; if another process finishes it first, that one stays.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    drawn = phantom_tables(config)
    aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        for table, content in drawn.tables.items():
            _write_zipped(aside / f"mimic-cxr-2.0.0-{table}.csv.gz", content)
        for table, content in drawn.demographics.items():
            _write_zipped(aside / f"{table}.csv.gz", content)
        _write_images(config, drawn, aside)
        _write_reports(config, drawn, aside / "reports")
        aside.chmod(0o755)
        try:
            aside.rename(directory)
        except OSError:
            if not directory.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_images(config: PhantomConfig, drawn: PhantomTables, directory: Path) -> None:
    signal = drawn.image_signal[drawn.study]
    pictures = render(signal, drawn.lateral, config.seed)
    for reference, pixels in zip(drawn.images, pictures, strict=True):
        content = jpeg(pixels)
        if reference == drawn.corrupt_image:
            content = content[: len(content) // 2]
        _write(directory / reference, content)


def _write_reports(config: PhantomConfig, drawn: PhantomTables, directory: Path) -> None:
    for reference, text in zip(drawn.reports, report_texts(config, drawn), strict=True):
        if reference != drawn.missing_report:
            _write(directory / reference, text.encode())


def _write_zipped(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, compresslevel=6, mtime=0))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
