"""The leakage audit of a prepared cohort: what is checked, and the files that say what was found.

Records are named by their salted ids; no text, patient id or path is written.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr_ray.config.identity import AUDIT_VERSION, digest
from cxr_ray.damage import read_json
from cxr_ray.data.image_pack import IMAGES_FILE, open_image, open_images
from cxr_ray.data.masking import LABEL_PATTERN, mask_text
from cxr_ray.data.prepared import (
    COHORT_COLUMNS,
    COHORT_FILE,
    REPORTS_FOLDER,
    SHIFTED_DATE,
    read_cohort,
)
from cxr_ray.data.reports import parse_report, view_text
from cxr_ray.data.sources.groups import GROUP_PREFIX
from cxr_ray.data.text_pack import read_column
from cxr_ray.evaluation.image_leakage import COPY_PIXELS, find_image_copies, shrink
from cxr_ray.evaluation.leakage import Finding, find_patient_overlap, find_shortcut
from cxr_ray.evaluation.text_leakage import (
    find_identical_texts,
    find_label_source,
    find_label_words,
    judge_mask,
    judge_probe,
    probe_text,
    same_texts,
)
from cxr_ray.storage import write_whole

if TYPE_CHECKING:
    import pandas as pd

    from cxr_ray.data.sources.source import Source

AUDIT_FILE, AUDIT_TEXT, AUDIT_FOLDER = "audit.json", "audit.txt", "audit"
GRADES = ("stop", "finding", "information")
PROBED_MASKS = ("label_terms", "all_finding_terms")
BLOCK = 512
HEADERS_READ = 1000
"""At most this many image files are opened for their size and kind."""
_NO_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class TextAudit:
    """What was found in the texts of a cohort, as one model reads them.

    Attributes
    ----------
    findings : tuple of Finding
    alike : tuple of tuple of str
        Ids of the records that have the same text, for each text that occurs twice or more.
    """

    findings: tuple[Finding, ...]
    alike: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Audit:
    """What the audit of one cohort, as one model reads it, found.

    Attributes
    ----------
    cohort : str
        The cohort's key.
    records : int
    sections : tuple of str
        What of each report is read.
    mask : str
        How it is masked.
    findings : tuple of Finding
        The gravest first.
    """

    cohort: str
    records: int
    sections: tuple[str, ...]
    mask: str
    findings: tuple[Finding, ...]

    @property
    def stops(self) -> bool:
        """Whether no figure of this split counts."""
        return any(finding.grade == "stop" for finding in self.findings)

    def describe(self) -> str:
        """Lay out every finding: its grade, its sentence and the records that it names."""
        width = max(len(grade) for grade in GRADES)
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.grade:{width}}  {finding.kind}: {finding.sentence}")
            if finding.record_ids:
                lines.append(f"{'':{width}}  records: {', '.join(finding.record_ids)}")
        return "\n".join(lines)


def audit_cohort(
    folder: Path,
    *,
    sections: Sequence[str] = ("full",),
    mask: str = "none",
    source: "Source | None" = None,
) -> Audit:
    """Check a prepared cohort for leaks.

    Parameters
    ----------
    folder : Path
        ``prepared/<cohort key>``.
    sections, mask
        What of the reports the model reads (``text.sections`` and ``text.mask``).
    source : Source, optional
        Where the image files can be read again, for their size and kind; without it these
        shortcuts are not checked.
    """
    cohort = read_cohort(folder)
    findings = list(_check_records(folder, cohort, source))
    if (folder / REPORTS_FOLDER).is_dir():
        findings += _check_texts(folder, cohort, tuple(sections), mask).findings
    findings.sort(key=lambda finding: GRADES.index(finding.grade))
    return Audit(folder.name, len(cohort), tuple(sections), mask, tuple(findings))


def audit_records(folder: Path, source: "Source | None" = None) -> tuple[Finding, ...]:
    """Check all but the texts of a prepared cohort, or read what an earlier check found."""
    pack = _image_pack(folder)
    recipe = {"pack": pack and pack.name, "files": source is not None}

    def check() -> dict[str, Any]:
        findings = _check_records(folder, read_cohort(folder), source)
        return {"findings": [asdict(finding) for finding in findings]}

    return _findings(_check_once(folder, recipe, check))


def audit_texts(folder: Path, sections: Sequence[str], mask: str) -> TextAudit:
    """Check the texts of a prepared cohort, or read what an earlier check found."""

    def check() -> dict[str, Any]:
        return asdict(_check_texts(folder, read_cohort(folder), tuple(sections), mask))

    found = _check_once(folder, {"sections": list(sections), "mask": mask}, check)
    return TextAudit(_findings(found), tuple(map(tuple, found["alike"])))


def write_audit(audit: Audit, folder: Path) -> Path:
    """Write ``audit.json`` and, for a reader, ``audit.txt``; return the latter's path."""
    write_whole(folder / AUDIT_FILE, json.dumps(asdict(audit), indent=1, allow_nan=False))
    heading = (
        f"Leakage audit of cohort {audit.cohort}: {audit.records:,} records, text read:"
        f" {', '.join(audit.sections)}, mask {audit.mask}"
    )
    write_whole(folder / AUDIT_TEXT, f"{heading}\n\n{audit.describe()}\n")
    return folder / AUDIT_TEXT


def _check_once(
    folder: Path, recipe: dict[str, Any], check: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Check, or read the answer where the same cohort was checked by the same recipe."""
    rows = hashlib.sha256((folder / COHORT_FILE).read_bytes()).hexdigest()
    key = digest({"version": AUDIT_VERSION, "cohort": rows, **recipe})
    path = folder / AUDIT_FOLDER / f"{key}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_whole(path, json.dumps({"recipe": recipe, **check()}, indent=1, allow_nan=False))
    return read_json(path, "remove it, and the same command audits again")


def _findings(answer: dict[str, Any]) -> tuple[Finding, ...]:
    return tuple(
        Finding(**{**each, "record_ids": tuple(each["record_ids"])}) for each in answer["findings"]
    )


def _check_records(
    folder: Path, cohort: "pd.DataFrame", source: "Source | None"
) -> tuple[Finding, ...]:
    findings = [find_patient_overlap(cohort["group"], cohort["part"], cohort["record_id"])]
    if (pack := _image_pack(folder)) is not None:
        small = _small_images(pack, cohort["row"].to_numpy())
        findings.append(find_image_copies(small, cohort["part"], cohort["record_id"]))
    findings += _check_columns(cohort)
    if source is not None and not {"image_width", "image_height"} <= set(cohort.columns):
        findings += _check_image_files(cohort, source)
    return tuple(findings)


def _check_texts(
    folder: Path, cohort: "pd.DataFrame", sections: tuple[str, ...], mask: str
) -> TextAudit:
    reports = read_column(folder / REPORTS_FOLDER, "text")
    views = [view_text(parse_report(reports[row] or ""), sections) for row in cohort["row"]]
    label, part, groups = cohort["label"], cohort["part"], cohort["group"]
    read = [mask_text(view, mask) for view in views]
    unmasked = probe_text(views, label, part, groups=groups)
    findings = [
        judge_probe(unmasked, label, part),
        *(
            judge_mask(
                unmasked,
                probe_text([mask_text(view, other) for view in views], label, part, groups=groups),
                other,
                label,
                part,
                groups=groups,
            )
            for other in dict.fromkeys((*PROBED_MASKS, mask))
            if other != "none"
        ),
        find_identical_texts(
            read, label, part, cohort["record_id"], score=unmasked.score, groups=groups
        ),
        find_label_words(read, label, LABEL_PATTERN, groups=groups),
    ]
    if "label_section" in cohort:
        findings.append(
            find_label_source([name or None for name in cohort["label_section"]], sections)
        )
    names = cohort["record_id"].tolist()
    alike = tuple(tuple(names[place] for place in places) for places in same_texts(read))
    return TextAudit(tuple(findings), alike)


def _check_columns(cohort: "pd.DataFrame") -> list[Finding]:
    """Check what a source keeps besides, and whether a missing image or report tells the label."""
    columns: dict[str, list[object]] = {}
    for name, reference in (("missing image", "image"), ("missing report", "report")):
        gone = [float(not value) for value in cohort[reference]]
        if 0 < sum(gone) < len(gone):
            columns[name] = list(gone)
    for name in cohort.columns:
        if name not in COHORT_COLUMNS:
            columns[name] = cohort[name].tolist()
    return [
        _judge_column(
            find_shortcut(
                name.removeprefix(GROUP_PREFIX).replace("_", " "),
                values,
                cohort["label"],
                cohort["part"],
                groups=cohort["group"],
            )
        )
        for name, values in columns.items()
    ]


def _judge_column(finding: Finding) -> Finding:
    """Take a date that each patient has shifted apart for information only."""
    if finding.kind != f"shortcut:{SHIFTED_DATE.replace('_', ' ')}":
        return finding
    said = f"{finding.sentence} Each patient's dates are shifted by an amount of their own: "
    return replace(
        finding, grade="information", sentence=said + "between patients this proves nothing."
    )


def _check_image_files(cohort: "pd.DataFrame", source: "Source") -> list[Finding]:
    """Check whether the size and kind of the image files tell the label."""
    label = cohort["label"].to_numpy()
    # Of each class as many, spread over the records: no draw, and no order that a salt makes.
    chosen = np.sort(
        np.concatenate(
            [
                of[
                    np.unique(
                        np.linspace(0, len(of) - 1, min(len(of), HEADERS_READ // 2)).astype(int)
                    )
                ]
                for of in (np.flatnonzero(label == value) for value in (0, 1))
            ]
        )
    )
    some = cohort.iloc[chosen]
    headers = [
        _header(source, str(reference)) if reference else None for reference in some["image"]
    ]
    if not any(headers):
        return []
    columns = {
        name: [None if header is None else header[at] for header in headers]
        for at, name in enumerate(("image width", "image height", "image file kind"))
    }
    return [
        find_shortcut(name, values, some["label"], some["part"], groups=some["group"])
        for name, values in columns.items()
    ]


def _header(source: "Source", reference: str) -> tuple[int, int, str] | None:
    """Width, height and kind (``JPEG L``) of an image file, or None if it cannot be read."""
    try:
        with open_image(source.read_image(reference)) as image:
            return (*image.size, f"{image.format} {image.mode}")
    except _NO_IMAGE:
        return None


def _small_images(pack: Path, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Shrink a pack's images block by block, so that they never lie in memory whole."""
    images = open_images(pack)
    blocks = (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))
    return np.concatenate([shrink(images[block], COPY_PIXELS) for block in blocks])


def _image_pack(folder: Path) -> Path | None:
    """Choose the smallest pack that has the pixels a comparison needs, else the largest."""
    packs = [path.parent for path in folder.glob(f"images-*/{IMAGES_FILE}")]
    sized = sorted(
        (open_images(pack).shape[1], pack) for pack in packs if pack.suffix != ".partial"
    )
    enough = [pack for size, pack in sized if size >= COPY_PIXELS]
    return enough[0] if enough else sized[-1][1] if sized else None
