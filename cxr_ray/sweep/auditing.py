"""The leakage audit inside a sweep: patients in two parts stop it, all else is told at its end."""

import csv
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ray.data.prepared import COHORT_FILE, is_prepared
from cxr_ray.data.sources.source import csv_of
from cxr_ray.errors import InputError
from cxr_ray.storage import Storage
from cxr_ray.sweep.plan import Member, Plan

if TYPE_CHECKING:
    from cxr_ray.report.study_audit import StudyAudit, TextView


class SweepAudit:
    """The audit of what a plan's members read, done once and beside the training.

    What was found is kept in the cohort's folder, so that only new data is looked at.

    Raises
    ------
    InputError
        If a patient is in two parts of a cohort.
    """

    def __init__(self, storage: Storage, plan: Plan) -> None:
        self._storage = storage
        self._members = [each for each in plan.members if is_prepared(storage, each.keys)]
        self._future: Future[StudyAudit] | None = None
        for cohort in dict.fromkeys(member.keys.cohort for member in self._members):
            refuse_overlap(storage.prepared / cohort)

    def start(self, thread: ThreadPoolExecutor) -> None:
        """Begin in a thread.

        To be called once the trials run: by then Ray is imported whole, and no thread meets half
        of a module that another one imports.
        """
        if self._future is None:
            self._future = thread.submit(self._audit)

    def result(self) -> "StudyAudit":
        """Give what was found, waiting for it or finding it now."""
        return self._audit() if self._future is None else self._future.result()

    def _audit(self) -> "StudyAudit":
        from cxr_ray.report.audit import audit_records, audit_texts
        from cxr_ray.report.study_audit import StudyAudit

        folders = {m.keys.cohort: (self._folder(m), m.source) for m in self._members}
        records = {cohort: audit_records(*where) for cohort, where in folders.items()}
        views = {
            member.trained_id: _view(member)
            for member in self._members
            if member.keys.text is not None
        }
        texts = {
            view: audit_texts(self._storage.prepared / view.cohort, view.sections, view.mask)
            for view in dict.fromkeys(views.values())
        }
        return StudyAudit(records, texts, views)

    def _folder(self, member: Member) -> Path:
        return self._storage.prepared / member.keys.cohort


def refuse_overlap(folder: Path) -> None:
    """Refuse a prepared cohort with a patient in two parts.

    Raises
    ------
    InputError
        Naming records by their salted ids.
    """
    from cxr_ray.evaluation.leakage import find_patient_overlap

    path = folder / COHORT_FILE
    with csv_of(str(path)), path.open(newline="") as lines:
        rows = [(row["group"], row["part"], row["record_id"]) for row in csv.DictReader(lines)]
    found = find_patient_overlap(*zip(*rows, strict=True))
    if found.grade == "stop":
        raise InputError(
            f"{path}: {found.sentence} (records {', '.join(found.record_ids)}); "
            "correct the patients of the source, and remove the folder to prepare it anew"
        )


def _view(member: Member) -> "TextView":
    from cxr_ray.report.study_audit import TextView

    return TextView(member.keys.cohort, member.config.text.sections, member.config.text.mask)
