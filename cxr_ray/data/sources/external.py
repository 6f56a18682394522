"""Another source as a test set for trained models: no split, and nobody whom they have seen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_ray.data.cohort import Selection
from cxr_ray.data.prepared import read_cohort
from cxr_ray.data.split import read_parts

if TYPE_CHECKING:
    import pandas as pd

    from cxr_ray.config.schema import CohortConfig, DataConfig, ExperimentConfig
    from cxr_ray.data.cohort import FlowStep
    from cxr_ray.data.sources.source import ReportReader, Source

SEEN = "patient of the model's training or validation part"


@dataclass(frozen=True)
class ExternalSource:
    """A source whose records are all of the part ``test``.

    Attributes
    ----------
    source : Source
        Where the records come from.
    trained_on : Path or None
        The prepared cohort that the models were trained on, where it is of the same kind of
        source: patients of its training and validation parts are dropped. Names are compared, so
        that people of two tables who bear the same name are taken for one.
    divided : DataConfig or None
        How that cohort was divided into parts.
    """

    source: Source
    trained_on: Path | None = None
    divided: DataConfig | None = None

    parts = ("test",)

    @property
    def kind(self) -> str:
        """The kind of source."""
        return self.source.kind

    @property
    def name(self) -> str:
        """The name for studies."""
        return self.source.name

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the source declares."""
        return self.source.modalities

    @property
    def reads(self) -> frozenset[str]:
        """The cohort fields that have an effect."""
        return self.source.reads

    def fingerprint(self) -> str:
        """Sha256 of the source's and of the cohort whose patients are dropped."""
        seen = "" if self.trained_on is None else self.trained_on.name
        # The cohort's key covers its parts, but for which fit of a cross-validation they are of.
        if self.divided is not None and self.divided.split.kind == "kfold":
            seen += f":{self.divided.split.repeat}:{self.divided.split.fold}"
        recipe = f"test only:{self.source.fingerprint()}:{seen}"
        return hashlib.sha256(recipe.encode()).hexdigest()

    def rules(self, config: CohortConfig) -> dict[str, Any]:
        """Give the cohort fields that the source reads."""
        return self.source.rules(config)

    def required(self, data: DataConfig) -> tuple[str, ...]:
        """Say what each record must have."""
        return self.source.required(data)

    def select(self, config: ExperimentConfig) -> tuple[pd.DataFrame, list[FlowStep]]:
        """Apply the source's rules, then drop the patients whom the models know."""
        frame, steps = self.source.select(config)
        if self.trained_on is not None:
            selection = Selection(frame, steps[-1].unit, "selected")
            selection.keep(SEEN, ~frame["patient"].isin(self._seen()).to_numpy())
            frame, steps = selection.frame, [*steps, *selection.steps[1:]]
        return frame.assign(part="test"), steps

    def present(self, modality: str, references: Sequence[str | None]) -> np.ndarray:
        """Whether each reference's content exists, (N,) bool."""
        return self.source.present(modality, references)

    def read_image(self, reference: str) -> bytes:
        """Read the image file's bytes, undecoded."""
        return self.source.read_image(reference)

    def read_report(self, reference: str) -> str:
        """Read the report's text."""
        return self.source.read_report(reference)

    def reports_of(self, references: Sequence[str | None]) -> ReportReader:
        """Give what reads these reports on another machine."""
        return self.source.reports_of(references)

    def ensure_written(self) -> None:
        """Write what is generated."""
        self.source.ensure_written()

    def _seen(self) -> set[str]:
        assert self.trained_on is not None and self.divided is not None
        cohort = read_cohort(self.trained_on)
        return set(cohort.loc[read_parts(cohort, self.divided) != "test", "patient"])
