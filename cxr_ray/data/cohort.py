"""From a source's tables to the records of one cohort, with the selection flow that led there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cxr_ray.data.split import assign_fit_parts, assign_parts, check_folds, kept_validation
from cxr_ray.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from cxr_ray.config.schema import ExperimentConfig
    from cxr_ray.data.sources.source import Source

PARTS = ("train", "val", "test")
COLUMNS = ("record", "patient", "label", "part", "image", "report")


@dataclass(frozen=True)
class FlowStep:
    """What one selection rule dropped, in the unit that it counts.

    Attributes
    ----------
    rule : str
        The rule in words, unique within a flow.
    unit : str
        ``images``, ``studies``, ``records`` or ``patients``.
    before, dropped, after : int
        ``after == before - dropped``.
    positive, negative : int or None
        The classes of what is left; None while labels are not known yet.
    note : str
        What a reader should know besides the counts.
    """

    rule: str
    unit: str
    before: int
    dropped: int
    after: int
    positive: int | None
    negative: int | None
    note: str = ""


@dataclass(frozen=True)
class Cohort:
    """The selected records, sorted by ``record``, one row each.

    Attributes
    ----------
    frame : pandas.DataFrame
        ``record`` (unique), ``patient``, ``label`` (int8), ``part``, ``image``, ``report`` and
        whatever further columns the source keeps.
    flow : tuple of FlowStep
        Every rule in the order in which it was applied.
    modalities : tuple of str
        What the cohort can feed.
    required : tuple of str
        What every record has.
    """

    frame: pd.DataFrame
    flow: tuple[FlowStep, ...]
    modalities: tuple[str, ...]
    required: tuple[str, ...]


class Selection:
    """A frame that rules narrow down one after the other, each leaving a `FlowStep`.

    Parameters
    ----------
    frame : pandas.DataFrame
        One row per ``unit``. Once it has a column ``label``, steps count the classes.
    unit : str
        What a row is.
    start : str
        The first step's name: it drops nothing and says where the flow begins.
    """

    def __init__(self, frame: pd.DataFrame, unit: str, start: str):
        self.frame = frame
        self.unit = unit
        self.steps: list[FlowStep] = []
        self.note(start)

    def keep(self, rule: str, mask: np.ndarray, note: str = "") -> None:
        """Keep the rows where ``mask`` (len(frame),) is true, under the name of ``rule``."""
        before = len(self.frame)
        if not mask.all():
            self.frame = self.frame[mask]
        after = len(self.frame)
        positive = negative = None
        if "label" in self.frame:
            positive = int((self.frame["label"] == 1).sum())
            negative = after - positive
        self.steps.append(
            FlowStep(rule, self.unit, before, before - after, after, positive, negative, note)
        )

    def note(self, rule: str, note: str = "") -> None:
        """Add a step that drops nothing."""
        self.keep(rule, np.ones(len(self.frame), bool), note)


def select_cohort(source: Source, config: ExperimentConfig, *, check_files: bool = True) -> Cohort:
    """Apply the source's rules, then what a record must have, then the split.

    Parameters
    ----------
    source : Source
        Where records come from.
    config : ExperimentConfig
        Its ``data`` and ``cohort`` parts are read.
    check_files : bool
        False looks at the tables alone: records are dropped only where these name no file at all,
        and a cohort too small for its split is no error, since counts are all that is asked.

    Returns
    -------
    Cohort

    Raises
    ------
    InputError
        If a rule cannot be applied, nothing is left, or a part lacks one of the classes.
    """
    frame, steps = source.select(config)
    required = source.required(config.data)
    selection = Selection(frame, "records", "selected by the tables")
    for modality in required:
        _require(selection, source, modality, check_files)
    if "text" in source.modalities and "text" not in required:
        _note_empty_texts(selection, source, check_files)
    frame = selection.frame.sort_values("record", kind="stable", ignore_index=True)
    flow = (*steps, *selection.steps[1:])
    _check_records(frame, source, flow)
    frame["part"] = _parts(frame, source, config)
    if check_files:
        check_classes(frame, source, config)
    extra = [name for name in frame.columns if name not in COLUMNS]
    frame = frame[[*COLUMNS, *extra]].astype({"label": np.int8})
    return Cohort(frame, flow, source.modalities, required)


def _require(selection: Selection, source: Source, modality: str, check_files: bool) -> None:
    if check_files and modality not in source.modalities:
        has = ", ".join(source.modalities) or "nothing"
        hint = "; give --reports" if source.kind == "mimic" and modality == "text" else ""
        raise InputError(f"data.require: {source.name} has no {modality}, only {has}{hint}")
    column = "image" if modality == "image" else "report"
    rule = f"{column} missing"
    references = selection.frame[column].tolist()
    if check_files:
        selection.keep(rule, source.present(modality, references))
    else:
        named = np.array([reference is not None for reference in references], bool)
        selection.keep(rule, named, note="files not checked")


def _note_empty_texts(selection: Selection, source: Source, check_files: bool) -> None:
    """Count by class the records without a text: which class they are of can give it away."""
    frame = selection.frame
    references = frame["report"].tolist()
    if check_files:
        there = source.present("text", references)
    else:
        there = np.array([reference is not None for reference in references], bool)
    if there.all():
        return
    positive = int((~there & (frame["label"] == 1).to_numpy()).sum())
    selection.note(
        "report not required",
        f"{positive} positive and {int((~there).sum()) - positive} negative have none and are kept"
        " as empty texts",
    )


def _check_records(frame: pd.DataFrame, source: Source, flow: tuple[FlowStep, ...]) -> None:
    if frame.empty:
        last = next((step for step in flow if step.dropped and not step.after), flow[0])
        raise InputError(
            f"{source.name}: no record is left; the rule {last.rule!r} dropped the last"
            f" {last.dropped} of {flow[0].before} {flow[0].unit}"
        )
    repeated = int(frame["record"].duplicated().sum())
    if repeated:
        raise InputError(
            f"{source.name}: {repeated} records have an id that occurs before; each needs its own"
        )


def _parts(frame: pd.DataFrame, source: Source, config: ExperimentConfig) -> np.ndarray:
    patient = frame["patient"].to_numpy(object)
    if source.parts == ("test",):
        return frame["part"].to_numpy(object)
    label = frame["label"].to_numpy()
    split = config.data.split
    held_out = None
    if split.kind == "holdout" or split.keeps_validation:
        held_out = assign_parts(patient, label, split.shares, config.data.seed)
    if split.kind == "kfold":
        # A cohort's own parts are those of the first fit; each fit assigns its own.
        kept = None if held_out is None else held_out == "val"
        return assign_fit_parts(patient, label, config.fits[0].data, kept)
    if held_out is not None:
        return held_out
    if "part" not in frame:
        raise InputError(f"data.split.kind: {source.name} has no official split; use holdout")
    crossing = frame.groupby("patient")["part"].nunique()
    if (crossing > 1).any():
        raise InputError(
            f"data.split.kind: the official split puts {int((crossing > 1).sum())} patients in two "
            "or more parts"
        )
    return frame["part"].to_numpy(object)


def check_classes(frame: pd.DataFrame, source: Source, config: ExperimentConfig) -> None:
    """Refuse records of which a part, or a fold of a cross-validation, lacks one of the classes.

    Raises
    ------
    InputError
        Naming the part and the class.
    """
    label = frame["label"]
    if label.nunique() < 2:
        found = "positive" if label.iloc[0] == 1 else "negative"
        raise InputError(f"{source.name}: all {len(frame)} records are {found}; two classes needed")
    for part in source.parts:
        counts = label[frame["part"] == part].value_counts()
        for value, name in ((1, "positive"), (0, "negative")):
            if not counts.get(value, 0):
                raise InputError(
                    f"{source.name}: part {part!r} has no {name} record "
                    f"({int((label == 1).sum())} positive and {int((label == 0).sum())} negative in"
                    " all); change data.split or select more records"
                )
    if config.data.split.kind == "kfold":
        kept = kept_validation(frame, config.data)
        divided = frame if kept is None else frame[~kept]
        check_folds(
            divided["patient"].to_numpy(object),
            divided["label"].to_numpy(),
            config.data.split.folds,
        )
