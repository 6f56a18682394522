"""MIMIC-CXR-JPG as PhysioNet ships it (Johnson et al. 2019): labels per study, views per image.

Access: credentialed, https://physionet.org/content/mimic-cxr-jpg/. 377,110 images of 227,827
studies of 65,379 patients.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_ray.data.cohort import PARTS, FlowStep, Selection
from cxr_ray.data.prepared import SHIFTED_DATE
from cxr_ray.data.sources.demographics import (
    Demographics,
    Table,
    demographic_groups,
    open_demographics,
)
from cxr_ray.data.sources.groups import GROUP_PREFIX, UNKNOWN
from cxr_ray.data.sources.mimic_labels import (
    KEYS,
    RADIOLOGIST,
    label_table,
    read_labels,
    select_labels,
)
from cxr_ray.data.sources.mimic_tables import (
    CATEGORY,
    INTEGER,
    NUMBER,
    TEXT,
    find_tables,
    read_table,
    table_header,
)
from cxr_ray.data.sources.source import ReportReader, Root, is_plain_name, opened_root, read_text
from cxr_ray.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from cxr_ray.config.schema import CohortConfig, DataConfig, ExperimentConfig

TABLES = ("metadata", "chexpert", "negbio", "split")
ORIENTATION = "PatientOrientationCodeSequence_CodeMeaning"
PROCEDURES = ("PerformedProcedureStepDescription", "ProcedureCodeSequence_CodeMeaning")
PORTABLE = re.compile(r"\bPORT(ABLE)?\b", re.IGNORECASE)
# What the leakage audit holds against the label: size before any resizing, date, and view.
AUDITED = {
    "Columns": "image_width",
    "Rows": "image_height",
    "StudyDate": SHIFTED_DATE,
    "ViewPosition": "view",
}
OFFICIAL = {"train": "train", "validate": "val", "test": "test"}


@dataclass(frozen=True)
class MimicSource:
    """A MIMIC-CXR-JPG folder and, apart from it or inside it, its reports.

    Attributes
    ----------
    root : Root
        The folder with the tables and ``files/``.
    reports : Root or None
        The folder or zip of reports; without it the source declares images only.
    report_prefix : str
        Where ``pXX/`` lies inside ``reports``.
    demographics : Demographics or None
        The tables that say which subgroups a patient belongs to.
    """

    root: Root
    reports: Root | None = None
    report_prefix: str = "files/"
    demographics: Demographics | None = None

    kind = "mimic"
    name = "mimic"
    parts = PARTS
    reads = frozenset(
        "view orientation portable rows columns labels label uncertain negative per_patient".split()
    )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Image, and text where there are reports."""
        return ("image",) if self.reports is None else ("image", "text")

    def fingerprint(self) -> str:
        """Sha256 of the tables that are there, in a fixed order."""
        digest = sha256()
        tables = find_tables(self.root)
        for table in TABLES:
            if table in tables:
                content = self.root.read_table(tables[table])
                digest.update(f"{table}:{len(content)}\n".encode())
                digest.update(content)
        for number, (_, content) in enumerate(self._demographic_tables()):
            digest.update(f"demographics {number}:{len(content)}\n".encode())
            digest.update(content)
        return digest.hexdigest()

    def rules(self, config: CohortConfig) -> dict[str, Any]:
        """Every rule but ``positive``; one record a patient unless asked otherwise."""
        rules = {field: getattr(config, field) for field in sorted(self.reads)}
        if config.labels == RADIOLOGIST:
            # Not in the fingerprint: a folder keeps its cohorts when this table joins it.
            _, content = self._table(label_table(config))
            rules["radiologist_table"] = sha256(content).hexdigest()
        return rules | {"per_patient": config.per_patient or "earliest"}

    def required(self, data: DataConfig) -> tuple[str, ...]:
        """Take ``data.require``, else everything that the source has."""
        return self.modalities if data.require is None else data.require

    def select(self, config: ExperimentConfig) -> tuple[pd.DataFrame, list[FlowStep]]:
        """Select images by the tables, one a study and, by default, one study a patient.

        Returns
        -------
        frame : pandas.DataFrame
            ``record`` (the study), ``patient``, ``label``, ``image``, ``report``, ``part``
            with the official split, ``group_<name>`` with demographics, and what the metadata
            table has of `AUDITED`.
        flow : list of FlowStep
        """
        rules = config.cohort
        with ThreadPoolExecutor(2) as pool:
            reading = pool.submit(lambda: read_labels(*self._table(label_table(rules)), rules))
            name, raw = self._table("metadata")
            columns = _audited_columns(table_header(name, raw)) | _metadata_columns(rules)
            metadata = read_table(name, raw, columns)
            labels = reading.result()
        selection = Selection(metadata, "images", "all images of the metadata table")
        _select_images(selection, rules)
        select_labels(selection, rules, labels)
        _one_image_a_study(selection)
        _per_patient(selection, rules.per_patient or "earliest")
        if config.data.split.kind == "official":
            self._official_parts(selection)
        if rules.view is not None:
            selection.frame = selection.frame.drop(columns="ViewPosition")
        return self._with_groups(_records(selection.frame), selection), selection.steps

    def present(self, modality: str, references: Sequence[str | None]) -> np.ndarray:
        """Whether the files exist, (N,) bool."""
        if modality == "image":
            return self.root.holds(references)
        if self.reports is None:
            return np.zeros(len(references), bool)
        return self.reports.holds([ref and self._report_path(ref) for ref in references])

    def read_image(self, reference: str) -> bytes:
        """Read the JPEG's bytes."""
        return self.root.read(reference)

    def read_report(self, reference: str) -> str:
        """Read the report's text."""
        if self.reports is None:
            raise InputError("--reports: needed to read reports; give a folder or zip")
        return read_text(self.reports.read(self._report_path(reference)))

    def reports_of(self, references: Sequence[str | None]) -> ReportReader:
        """Give itself: a report is a file."""
        return self

    def ensure_written(self) -> None:
        """Nothing to do: the folder is the user's."""

    def label_values(
        self, labellers: Sequence[str], rules: CohortConfig
    ) -> list[pd.DataFrame] | None:
        """Read what each labeller says of the cohort's label, or None where one has no table."""
        tables = find_tables(self.root)
        if not set(labellers) <= set(tables):
            return None
        read = []
        for labeller in labellers:
            asked = rules.model_copy(update={"labels": labeller})
            read.append(read_labels(*self._table(labeller), asked).assign(labelled=True))
        return read

    def _demographic_tables(self) -> list[Table]:
        return [] if self.demographics is None else self.demographics.tables()

    def _with_groups(self, records: pd.DataFrame, selection: Selection) -> pd.DataFrame:
        tables = self._demographic_tables()
        if not tables:
            return records
        groups = demographic_groups(tables, records["patient"].tolist())
        said = ", ".join(
            f"{str(name).removeprefix(GROUP_PREFIX)} {int((levels != UNKNOWN).sum())}"
            for name, levels in groups.items()
        )
        selection.note("demographics", f"records whose subgroup is known: {said}")
        return records.join(groups)

    def _report_path(self, reference: str) -> str:
        return self.report_prefix + reference.removeprefix("files/")

    def _table(self, table: str) -> tuple[str, bytes]:
        """Name and content of a table."""
        tables = find_tables(self.root)
        if table not in tables:
            raise InputError(f"{self.root.uri}: mimic-cxr-<version>-{table}.csv[.gz] is not there")
        return tables[table], self.root.read_table(tables[table])

    def _read(self, table: str, columns: dict[str, str]) -> pd.DataFrame:
        name, raw = self._table(table)
        return read_table(name, raw, columns)

    def _official_parts(self, selection: Selection) -> None:
        split = self._read("split", {"dicom_id": TEXT, "split": TEXT})
        parts = dict(zip(split["dicom_id"], split["split"], strict=True))
        named = selection.frame["dicom_id"].map(parts)
        strange = named[named.notna() & ~named.isin(list(OFFICIAL))]
        if len(strange):
            raise InputError(
                f"the split table: {strange.iloc[0]!r} is no part; it must be train, validate, test"
            )
        selection.frame = selection.frame.assign(part=named.map(OFFICIAL))
        selection.keep("not in the official split", named.notna().to_numpy())


def open_mimic(
    path: str,
    reports: str | None = None,
    demographics: str | None = None,
    follow_links: bool = False,
) -> MimicSource:
    """Open a MIMIC-CXR-JPG folder or URI; reports from ``reports``, else its ``reports/``."""
    root = opened_root(path, "--data", follow_links)
    if reports is not None:
        text: Root | None = opened_root(reports, "--reports", follow_links)
    else:
        inside = root.joined("reports")
        text = inside if inside.exists() else None
    return MimicSource(
        root,
        text,
        "files/" if text is None else _report_prefix(text),
        None if demographics is None else open_demographics(demographics, follow_links),
    )


def _report_prefix(reports: Root) -> str:
    """Find where ``pXX/`` lies: under ``files/``, in the root itself, or deeper in a zip."""
    names = reports.names()
    if not reports.is_zip:
        return "files/" if "files" in names else ""
    matches = (re.fullmatch(r"(|.*/)p\d\d/p\d+/s\d+\.txt", name) for name in names)
    return next((match[1] for match in matches if match), "files/")


def _metadata_columns(rules: CohortConfig) -> dict[str, str]:
    columns = dict.fromkeys(KEYS, INTEGER) | {"dicom_id": TEXT}
    if (rules.per_patient or "earliest") == "earliest":
        columns |= {"StudyDate": TEXT, "StudyTime": TEXT}
    if rules.view is not None:
        columns["ViewPosition"] = CATEGORY
    if rules.orientation is not None:
        columns[ORIENTATION] = CATEGORY
    if rules.portable == "drop":
        columns |= dict.fromkeys(PROCEDURES, CATEGORY)
    if rules.rows is not None:
        columns["Rows"] = NUMBER
    if rules.columns is not None:
        columns["Columns"] = NUMBER
    return columns


def _audited_columns(header: Sequence[str]) -> dict[str, str]:
    kinds = {"Rows": NUMBER, "Columns": NUMBER, "StudyDate": TEXT, "ViewPosition": CATEGORY}
    return {column: kind for column, kind in kinds.items() if column in header}


def _select_images(selection: Selection, rules: CohortConfig) -> None:
    """Apply the rules on one image's own row."""
    if rules.view is not None:
        is_view = (selection.frame["ViewPosition"] == rules.view).to_numpy(bool)
        selection.keep(f"view not {rules.view}", is_view)
    if rules.orientation is not None:
        selection.keep("orientation missing", selection.frame[ORIENTATION].notna().to_numpy())
        is_oriented = (selection.frame[ORIENTATION] == rules.orientation).to_numpy(bool)
        selection.keep(f"orientation not {rules.orientation}", is_oriented)
    if rules.portable == "drop":
        selection.keep("portable", ~_portable(selection.frame))
    for field, column in (("rows", "Rows"), ("columns", "Columns")):
        wanted = getattr(rules, field)
        if wanted is not None:
            selection.keep(f"{field} not {wanted}", (selection.frame[column] == wanted).to_numpy())


def _portable(frame: pd.DataFrame) -> np.ndarray:
    """Whether a procedure's name says portable; the few distinct names are searched once."""
    portable = np.zeros(len(frame), bool)
    for column in PROCEDURES:
        names = frame[column].cat
        # code -1 stands for a missing name: the last entry answers it
        matches = [PORTABLE.search(name) is not None for name in names.categories] + [False]
        portable |= np.array(matches, bool)[names.codes.to_numpy()]
    return portable


def _one_image_a_study(selection: Selection) -> None:
    ordered = selection.frame.sort_values("dicom_id", kind="stable")
    _keep_first(selection, ordered, list(KEYS), "further images of a study")
    selection.unit = "studies"


def _per_patient(selection: Selection, per_patient: str) -> None:
    import pandas as pd

    if per_patient == "all":
        return
    frame = selection.frame
    if per_patient == "drop_repeated":
        once = ~frame["subject_id"].duplicated(keep=False).to_numpy()
        selection.keep("patients with several records", once)
        return
    # numbers, not calendar dates: dates are shifted, and times have lost their leading zeros
    when = {
        column: pd.to_numeric(frame[column], errors="coerce").replace([np.inf, -np.inf], np.nan)
        for column in ("StudyDate", "StudyTime")
    }
    order = ["StudyDate", "StudyTime", "study_id", "dicom_id"]
    ordered = frame.assign(**when).sort_values(order, na_position="last", kind="stable")
    _keep_first(selection, ordered, ["subject_id"], "further records of a patient")


def _keep_first(selection: Selection, ordered: pd.DataFrame, keys: list[str], rule: str) -> None:
    """Keep the first row of each key in ``ordered``, which holds the selection's rows."""
    first = ordered.index[~ordered.duplicated(keys)]
    selection.keep(rule, selection.frame.index.isin(first))


def _records(frame: pd.DataFrame) -> pd.DataFrame:
    """Turn keys into ids and paths, after checking that they are fit for a path."""
    import pandas as pd

    if len(frame) and int(frame[list(KEYS)].min().min()) < 0:
        raise InputError("the metadata table: a subject_id or study_id is negative")
    strange = [name for name in frame["dicom_id"] if not _is_dicom_id(name)]
    if strange:
        raise InputError(
            f"the metadata table: {len(strange)} of the selected rows have a dicom_id that is not "
            "a plain name of letters, digits, dots and hyphens"
        )
    subject, study = (frame[key].astype(str).tolist() for key in KEYS)
    stem = [f"files/p{p[:2]}/p{p}/s{s}" for p, s in zip(subject, study, strict=True)]
    kept = {
        "record": study,
        "patient": subject,
        "label": frame["label"].to_numpy(),
        "image": [f"{s}/{d}.jpg" for s, d in zip(stem, frame["dicom_id"], strict=True)],
        "report": [f"{s}.txt" for s in stem],
    }
    if "part" in frame:
        kept["part"] = frame["part"].to_numpy(object)
    kept |= {
        ours: frame[column].to_numpy(object) for column, ours in AUDITED.items() if column in frame
    }
    return pd.DataFrame(kept)


def _is_dicom_id(name: object) -> bool:
    return isinstance(name, str) and " " not in name and is_plain_name(name)
