"""The leakage audit of a study: what was found in the data that its models read, as tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_ray.damage import read_whole_table
from cxr_ray.evaluation.delong import auroc_interval
from cxr_ray.evaluation.leakage import Finding
from cxr_ray.report.audit import GRADES, TextAudit
from cxr_ray.report.members import experiment_ids
from cxr_ray.report.result_table import format_share
from cxr_ray.report.trial_folder import PREDICTIONS_FILE, Predictions, read_predictions

AUDIT_TABLE, RESCORED_TABLE = "audit.csv", "rescored.csv"
AUDIT_COLUMNS = (
    "cohort", "text", "grade", "kind", "measure", "value", "p_value", "n", "sentence",
)  # fmt: skip
RESCORED_COLUMNS = (
    "experiment_id", "modality", "dataset", "loss", "seed", "test_set", "text",
    "n", "n_positive", "auroc", "auroc_low", "auroc_high",
    "n_left", "n_positive_left", "auroc_left", "auroc_left_low", "auroc_left_high",
)  # fmt: skip
# From what no figure survives to what may be medicine.
_MEANING = {
    "patient_overlap": "No figure of this split counts.",
    "image_copies": "These records can be recognised instead of read.",
    "text_probe": "A model that reads this text can recover the label without having diagnosed.",
    "label_words": "The text names what the model is to find.",
    "shortcut": "A model can learn this instead of the disease.",
}
_GRAVITY = ("patient_overlap", "image_copies", "text_probe", "label_words", "shortcut")


@dataclass(frozen=True)
class TextView:
    """What of a cohort's reports a model reads."""

    cohort: str
    sections: tuple[str, ...]
    mask: str

    @property
    def name(self) -> str:
        """The view in words."""
        return f"{self.section_names}, mask {self.mask}"

    @property
    def section_names(self) -> str:
        """Its sections in words, however they are masked."""
        return " + ".join(self.sections)


@dataclass(frozen=True)
class StudyAudit:
    """What was found in the data of a study.

    Attributes
    ----------
    records : mapping of str to tuple of Finding
        By cohort: all but the texts.
    texts : mapping of TextView to TextAudit
    views : mapping of str to TextView
        By experiment id, for the trials that read text.
    """

    records: Mapping[str, tuple[Finding, ...]]
    texts: Mapping[TextView, TextAudit]
    views: Mapping[str, TextView]

    def table(self) -> pd.DataFrame:
        """Give ``audit.csv``: one row a check, the gravest first."""
        rows = [
            {"cohort": cohort, "text": text, **_row(finding)}
            for cohort, text, finding in self._found()
        ]
        table = pd.DataFrame(rows, columns=list(AUDIT_COLUMNS))
        return table.sort_values(
            ["grade", "kind"],
            key=lambda column: column.map(GRADES.index if column.name == "grade" else _gravity),
            kind="stable",
            ignore_index=True,
        )

    def rescored(self, trials: Path, study: Mapping[str, Any]) -> pd.DataFrame:
        """Give ``rescored.csv``: the AUROC without the test records whose text is in training."""
        rows = [
            {**{name: member[name] for name in RESCORED_COLUMNS[:5]}, **row}
            for member in study["members"]
            if (row := self._rescore(trials, member)) is not None
        ]
        return pd.DataFrame(rows, columns=list(RESCORED_COLUMNS))

    def _found(self) -> Iterator[tuple[str, str, Finding]]:
        for cohort, findings in self.records.items():
            yield from ((cohort, "", finding) for finding in findings)
        told = set()
        for view, audit in self.texts.items():
            for finding in audit.findings:
                # A probe masks the sections itself: it is one, however the models mask them.
                probes = finding.kind.startswith("text_probe")
                row = view.cohort, view.section_names if probes else view.name, finding
                if row not in told:
                    told.add(row)
                    yield row

    def _rescore(self, trials: Path, member: Mapping[str, Any]) -> dict[str, Any] | None:
        fits = experiment_ids(member)
        view = self.views.get(fits[0])
        if view is None or not all((trials / fit / PREDICTIONS_FILE).exists() for fit in fits):
            return None
        alike = self.texts[view].alike
        rows = [_score_twice(read_predictions(trials / fit), alike) for fit in fits]
        found = {"test_set": "full", "text": view.name}
        return found | (_average(rows, member["fits"]) if "fits" in member else rows[0])


def write_study_audit(
    folder: Path, trials: Path, study: Mapping[str, Any], audit: StudyAudit
) -> str:
    """Write ``audit.csv`` and ``rescored.csv``, and return what was found in a sentence.

    Parameters
    ----------
    folder
        The study's folder.
    trials
        Folder of the finished trials.
    study
        The content of ``study.json``.
    """
    table = audit.table()
    table.to_csv(folder / AUDIT_TABLE, index=False)
    audit.rescored(trials, study).to_csv(folder / RESCORED_TABLE, index=False)
    return describe_grades(table)


def describe_grades(table: pd.DataFrame) -> str:
    """Count an audit's rows by grade, and name the gravest finding, in a sentence.

    Parameters
    ----------
    table
        As `StudyAudit.table` gives it.
    """
    counts = {grade: int((table["grade"] == grade).sum()) for grade in GRADES}
    grave = table[table["grade"] != GRADES[-1]]
    said = _count(len(grave), "finding")
    if len(grave):
        said += f" (the gravest: {grave['kind'].iloc[0]})"
    return f"Leakage audit: {said}, {counts['information']} checks for information."


def read_audit(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read ``audit.csv`` and ``rescored.csv`` of a study's folder; empty where there is none."""
    found = []
    for name, columns in ((AUDIT_TABLE, AUDIT_COLUMNS), (RESCORED_TABLE, RESCORED_COLUMNS)):
        table = pd.DataFrame(columns=list(columns))
        if (folder / name).exists():
            text = dict.fromkeys(("experiment_id", "cohort", "text"), str)
            table = read_whole_table(folder / name, columns, dtype=text)
        found.append(table)
    return found[0], found[1]


def audit_section(
    found: pd.DataFrame, rescored: pd.DataFrame, names: Mapping[str, str]
) -> dict[str, Any] | None:
    """Gather what the page shows of a study's audit, or None where there is none.

    Parameters
    ----------
    found, rescored
        As `read_audit` gives them.
    names
        The trials' names by experiment id.
    """
    if found.empty:
        return None
    rows: list[dict[str, Any]] = [
        {
            **row,
            "place": place,
            "counted": row["measure"] not in ("AUROC", "share"),
            "meaning": _MEANING.get(row["kind"].partition(":")[0]),
        }
        for place, row in enumerate(_rows(found))
    ]
    again: list[dict[str, Any]] = [
        {**row, "place": place, "name": names.get(row["experiment_id"], row["experiment_id"])}
        for place, row in enumerate(_rows(rescored))
    ]
    return {
        "grave": [row for row in rows if row["grade"] != GRADES[-1]],
        "quiet": [row for row in rows if row["grade"] == GRADES[-1]],
        "views": found["text"].dropna().nunique(),
        "read": bool(again),
        "rescored": again if any(row["n_left"] < row["n"] for row in again) else [],
    }


def leak_clause(found: pd.DataFrame) -> str | None:
    """Name the gravest finding in a clause for the page's first screen, or None without any.

    Parameters
    ----------
    found
        As `read_audit` gives it.
    """
    grave = found[found["grade"] != GRADES[-1]]
    if grave.empty:
        return None
    first = grave.iloc[0]
    kind, _, what = str(first["kind"]).partition(":")
    size = format_share(first["value"])
    read = {str(text).partition(", mask")[0] for text in found["text"].dropna() if text}
    text = "the text" if len(read) < 2 else f"the text ({first['text']})"
    said = {
        "patient_overlap": "patients are in two parts, so that no figure counts",
        "image_copies": f"{_count(int(first['value']), 'image')} of validation and test occur in an"
        " earlier part too",
        "text_probe": f"word counts of {text} alone predict the label (AUROC {size})",
        "label_words": f"{text} holds the label's words in one class more than in the other",
        "shortcut": f"{what} alone predicts the label (AUROC {size})",
    }[kind]
    if kind == "text_probe" and what:
        said = f"in {text} masked words carry the label (AUROC without them {size})"
    others = len(grave.drop_duplicates("kind")) - 1
    return f"the audit found that {said}" + (
        f", and {_count(others, 'thing')} more" if others else ""
    )


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _score_twice(
    predictions: Predictions, alike: Sequence[Sequence[str]]
) -> dict[str, int | float]:
    """Score the test records, and those of them whose text no record of training has."""
    test = predictions.rows("test", "full")
    # What a model was neither validated nor tested on, it was trained on.
    held = set(predictions.record_id.tolist())
    known = {name for names in alike if not held.issuperset(names) for name in names}
    left = test & [name not in known for name in predictions.record_id.tolist()]
    row: dict[str, int | float] = {}
    for rows, suffix in ((test, ""), (left, "_left")):
        label = predictions.label[rows]
        row |= {f"n{suffix}": len(label), f"n_positive{suffix}": int(label.sum())}
        if 0 < label.sum() < len(label):
            found = auroc_interval(label, predictions.logit[rows], groups=predictions.group[rows])
            row |= {f"auroc{suffix}": found.auroc, f"auroc{suffix}_low": found.low}
            row[f"auroc{suffix}_high"] = found.high
    return row


def _average(
    rows: Sequence[Mapping[str, int | float]], fits: Sequence[Mapping[str, Any]]
) -> dict[str, int | float]:
    """Count the records of the first repeat, and take the mean AUROC over the fits that have one.

    There is no interval: `auroc_interval` knows one ranking, and each fit has its own.
    """
    first = [row for row, fit in zip(rows, fits, strict=True) if fit["repeat"] == fits[0]["repeat"]]
    counts = ("n", "n_positive", "n_left", "n_positive_left")
    found: dict[str, int | float] = {name: sum(row[name] for row in first) for name in counts}
    for name in ("auroc", "auroc_left"):
        areas = [row[name] for row in rows if name in row]
        if areas:
            found[name] = sum(areas) / len(areas)
    return found


def _row(finding: Finding) -> dict[str, Any]:
    names: Sequence[str] = AUDIT_COLUMNS[2:]
    return {name: getattr(finding, name) for name in names}


def _gravity(kind: str) -> int:
    name = "shortcut" if kind.startswith("shortcut:") else kind
    return _GRAVITY.index(name) if name in _GRAVITY else len(_GRAVITY)
