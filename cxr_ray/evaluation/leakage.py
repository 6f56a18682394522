"""Leaks between the parts of a cohort, and shortcuts to its label that are no medicine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.labels import BoolArray, FloatArray, IntArray, as_labels

Grade = Literal["stop", "finding", "information"]
PARTS = ("train", "val", "test")
NAMED = 20
"""At most this many records are named in a finding."""
SHORTCUT_AUROC, SHORTCUT_P = 0.65, 0.001


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    kind : str
        The check.
    grade : str
        ``stop``: no figure of this split counts; ``finding``: effect and evidence of a leak;
        ``information``: all else, a check without result included.
    sentence : str
        What was found, for a reader; it names no record and quotes no text.
    value : float or None
        The effect: a count or an AUROC; None where it cannot be computed.
    n : int
        The records looked at.
    record_ids : tuple of str
        At most `NAMED` of the records concerned.
    p_value : float or None
        The evidence, where the check has a test.
    measure : str
        What ``value`` is: ``AUROC``, ``share``, or what was counted.
    """

    kind: str
    grade: Grade
    sentence: str
    value: float | None
    n: int
    record_ids: tuple[str, ...] = ()
    p_value: float | None = None
    measure: str = "AUROC"


def find_patient_overlap(groups: ArrayLike, part: ArrayLike, record_ids: ArrayLike) -> Finding:
    """Look for patients who are in more than one part.

    Parameters
    ----------
    groups : (N,) array-like
        The patient of each record.
    part : (N,) array-like of str
    record_ids : (N,) array-like of str

    Returns
    -------
    Finding
        ``patient_overlap``; its value is the number of such patients, its grade ``stop`` if any.

    Examples
    --------
    >>> find_patient_overlap(["a", "a", "b"], ["train", "test", "val"], ["1", "2", "3"]).record_ids
    ('1', '2')
    """
    owner = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    code = np.unique(np.asarray(part), return_inverse=True)[1].reshape(-1)
    pairs = np.unique(np.stack([owner, code]), axis=1)
    crossing = np.flatnonzero(np.bincount(pairs[0]) > 1)
    rows = np.flatnonzero(np.isin(owner, crossing))
    if len(crossing):
        sentence = (
            f"{count_of(len(crossing), 'patient')} in two or more parts, with"
            f" {count_of(len(rows), 'record')}: no figure of this split counts"
        )
    else:
        sentence = f"No patient is in two parts ({count_of(len(owner), 'record')})."
    return Finding(
        "patient_overlap",
        "stop" if len(crossing) else "information",
        sentence,
        float(len(crossing)),
        len(owner),
        named(record_ids, rows),
        measure="patients",
    )


def find_shortcut(
    name: str,
    values: Sequence[object],
    label: ArrayLike,
    part: ArrayLike,
    *,
    groups: ArrayLike | None = None,
) -> Finding:
    """See how far one column of metadata predicts the label.

    Parameters
    ----------
    name : str
        The column.
    values : (N,) sequence
        Numbers, ISO dates, or names of categories; None, NaN and blank are missing.
    label : (N,) array-like of 0/1
    part : (N,) array-like of str
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several.

    Returns
    -------
    Finding
        ``shortcut:<name>``; its value is the AUROC. A ``finding`` needs effect, an AUROC >=
        `SHORTCUT_AUROC` or <= 1 - `SHORTCUT_AUROC`, and evidence, p < `SHORTCUT_P`.

    Notes
    -----
    Numbers and dates rank by themselves, missing ones left out. Categories take the share of
    positives that they have in training, and are scored on the other parts: names that occur once,
    such as ids, then show nothing. p is Mann and Whitney's, two-sided with ties corrected, on one
    record a patient. A relation that goes up and down again can hide from an AUROC.

    Examples
    --------
    >>> part = ["train"] * 40
    >>> finding = find_shortcut("width", [512, 1024] * 20, [0, 1] * 20, part)
    >>> finding.grade, finding.value
    ('finding', 1.0)
    """
    positive, part = as_labels(label), np.asarray(part)
    numbers = _as_numbers(values)
    if numbers is None:
        scores, used = _training_shares(values, positive, part == "train"), part != "train"
        where = "on validation and test, by the training part's shares"
    else:
        scores, used = numbers, ~np.isnan(numbers)
        where = "on all records"
    owner = None if groups is None else np.asarray(groups)[used]
    return judge_shortcut(
        f"shortcut:{name}", f"{name} alone ({where})", positive[used], scores[used], groups=owner
    )


def judge_shortcut(
    kind: str, what: str, label: ArrayLike, scores: ArrayLike, *, groups: ArrayLike | None = None
) -> Finding:
    """Apply the rule of shortcuts to scores: effect by AUROC, evidence by Mann and Whitney's p.

    Parameters
    ----------
    kind, what : str
        The finding's kind and the subject of its sentence.
    label : (N,) array-like of 0/1
    scores : (N,) array-like of float
    groups : (N,) array-like, optional
        The patient of each record; the first record of each gives p.
    """
    positive, ranked = np.asarray(label, dtype=bool), np.asarray(scores, dtype=np.float64)
    n = len(positive)
    if not n or positive.all() or not positive.any():
        return Finding(kind, "information", f"{what}: one class only, not tested.", None, n)
    # Not before they are needed: a sweep looks for patients in two parts before it trains.
    from scipy.stats import mannwhitneyu

    from cxr_ray.evaluation.delong import auroc_covariance

    area = float(auroc_covariance(positive, ranked[None])[0][0])
    once = np.arange(n) if groups is None else _first_rows(groups)
    p = 1.0
    if positive[once].any() and not positive[once].all() and len(np.unique(ranked[once])) > 1:
        hits, others = ranked[once][positive[once]], ranked[once][~positive[once]]
        p = float(mannwhitneyu(hits, others, method="asymptotic").pvalue)
    strong = max(area, 1 - area) >= SHORTCUT_AUROC
    grade: Grade = "finding" if strong and p < SHORTCUT_P else "information"
    verdict = "predicts the label" if grade == "finding" else "is not shown to predict the label"
    sentence = f"{what} {verdict}: AUROC {area:.3f}, {p_text(p)}, {count_of(n, 'record')}."
    return Finding(kind, grade, sentence, area, n, p_value=p)


def count_of(number: int, noun: str) -> str:
    """Write a count with its noun: ``1 record``, ``1,234 records``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def p_text(p: float) -> str:
    """Write a p-value as a sentence does."""
    return "p < .001" if p < 0.001 else f"p = {p:.3f}"


def named(record_ids: ArrayLike, rows: IntArray) -> tuple[str, ...]:
    """Take the ids of at most `NAMED` rows."""
    return tuple(str(name) for name in np.asarray(record_ids)[rows[:NAMED]])


def _as_numbers(values: Sequence[object]) -> FloatArray | None:
    """Read a column as numbers or dates, NaN where missing; None if it is neither."""
    numbers = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        text = "" if value is None else str(value).strip()
        if not text:
            continue
        try:
            numbers[row] = float(text)
        except ValueError:
            try:
                numbers[row] = date.fromisoformat(text[:10]).toordinal()
            except ValueError:
                return None
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers


def _training_shares(
    values: Sequence[object], positive: BoolArray, training: BoolArray
) -> FloatArray:
    """Score categories by their share of positives in training, drawn in by one mean record."""
    missing = [
        value is None or (isinstance(value, float) and math.isnan(value)) for value in values
    ]
    names = ["" if gone else str(value) for value, gone in zip(values, missing, strict=True)]
    code = np.unique(names, return_inverse=True)[1].reshape(-1)
    base = float(positive[training].mean()) if training.any() else 0.5
    size = np.bincount(code[training], minlength=code.max() + 1)
    hits = np.bincount(code[training], positive[training], minlength=code.max() + 1)
    shares: FloatArray = ((hits + base) / (size + 1))[code]
    return shares


def _first_rows(groups: ArrayLike) -> IntArray:
    return np.sort(np.unique(np.asarray(groups), return_index=True)[1])
