"""How far the words of a report give its label away, and which reports occur in two parts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.delong import AurocInterval, auroc_interval, delong_test
from cxr_ray.evaluation.labels import BoolArray, FloatArray, as_labels
from cxr_ray.evaluation.leakage import (
    PARTS,
    SHORTCUT_P,
    Finding,
    Grade,
    count_of,
    judge_shortcut,
    named,
    p_text,
)

LEAKING_AUROC, LEAKING_LOW, LEAKING_DIFFERENCE = 0.95, 0.85, 0.05
_WORD = re.compile(r"(?u)\b\w\w+\b")


@dataclass(frozen=True)
class TextProbe:
    """A linear model on word counts, fitted on the training part.

    Attributes
    ----------
    score : (N,) array of float64
        The log odds of every record, training ones included.
    test : AurocInterval
        On the test part.
    """

    score: FloatArray
    test: AurocInterval


def find_identical_texts(
    texts: Sequence[str],
    label: ArrayLike,
    part: ArrayLike,
    record_ids: ArrayLike,
    *,
    score: ArrayLike | None = None,
    groups: ArrayLike | None = None,
) -> Finding:
    """Look for texts of validation and test that occur in an earlier part too.

    Parameters
    ----------
    texts : (N,) sequence of str
    label : (N,) array-like of 0/1
    part : (N,) array-like of str
    record_ids : (N,) array-like of str
    score : (N,) array-like, optional
        Scores of a model; the sentence then gives its AUROC on the test part with and without the
        records whose text occurs in training.
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several.

    Returns
    -------
    Finding
        ``identical_texts``, always ``information``: templates of a normal report are common. Its
        value is the number of such records.
    """
    positive, part = as_labels(label), np.asarray(part)
    again = np.zeros(len(part), bool)
    for position, later in enumerate(PARTS[1:], 1):
        seen = occurs_in(texts, np.isin(part, PARTS[:position]))
        again |= seen & (part == later)
    rows = np.flatnonzero(again)
    sentence = (
        f"{count_of(len(rows), 'text')} of validation and test in an earlier part too:"
        f" {int(positive[again].sum())} positive, {int((~positive[again]).sum())} negative"
        f" ({count_of(len(part), 'record')})."
    )
    trained = occurs_in(texts, part == "train")
    if score is not None and (trained & (part == "test")).any():
        test = part == "test"
        whole, rest = (
            _interval(positive, np.asarray(score, dtype=np.float64), kept, groups)
            for kept in (test, test & ~trained)
        )
        sentence += (
            f" Word counts reach AUROC {_interval_text(whole)} on the test part, and"
            f" {_interval_text(rest)} without the {int((trained & test).sum())} records whose text"
            " occurs in training."
        )
    return Finding(
        "identical_texts",
        "information",
        sentence,
        float(len(rows)),
        len(part),
        named(record_ids, rows),
        measure="texts",
    )


def occurs_in(texts: Sequence[str], among: ArrayLike) -> BoolArray:
    """Tell which texts occur among some of them; case and white space aside, blank ones never.

    Parameters
    ----------
    texts : (N,) sequence of str
    among : (N,) array-like of bool

    Returns
    -------
    (N,) array of bool

    Examples
    --------
    >>> occurs_in(["No change.", "no  change.", "", "Worse."], [True, False, True, False]).tolist()
    [True, True, False, False]
    """
    plain = [_plain(text) for text in texts]
    known = {text for text, is_in in zip(plain, np.asarray(among), strict=True) if is_in and text}
    return np.array([text in known for text in plain], bool)


def same_texts(texts: Sequence[str]) -> list[list[int]]:
    """Gather the texts that are the same, as `occurs_in` compares them.

    Parameters
    ----------
    texts : (N,) sequence of str

    Returns
    -------
    list of list of int
        The places of every text that occurs twice or more.

    Examples
    --------
    >>> same_texts(["No change.", "Worse.", "", "no  change.", ""])
    [[0, 3]]
    """
    places: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        places.setdefault(_plain(text), []).append(place)
    return [each for text, each in places.items() if text and len(each) > 1]


def find_label_words(
    texts: Sequence[str],
    label: ArrayLike,
    vocabulary: re.Pattern[str],
    *,
    groups: ArrayLike | None = None,
) -> Finding:
    """Count by class the texts that hold a word of the label.

    Parameters
    ----------
    texts : (N,) sequence of str
        As the model reads them.
    label : (N,) array-like of 0/1
    vocabulary : re.Pattern
        Matches the label's words.
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several.

    Returns
    -------
    Finding
        ``label_words``; its value is the AUROC of having such a word, graded as a shortcut.
    """
    positive = as_labels(label)
    held = np.array([vocabulary.search(text) is not None for text in texts], bool)
    shares = " and ".join(
        f"{int(held[of].sum()):,} of {int(of.sum()):,} {name}"
        for name, of in (("positive", positive), ("negative", ~positive))
    )
    what = f"A word of the label, in {shares} texts,"
    return judge_shortcut("label_words", what, positive, held, groups=groups)


def find_label_source(label_section: Sequence[str | None], sections: Sequence[str]) -> Finding:
    """Count the texts that hold the section from which labellers take the label.

    Parameters
    ----------
    label_section : (N,) sequence
        ``impression``, ``findings``, ``last``, or None for a record without text.
    sections : sequence of str
        What the model reads; ``full`` is everything.

    Returns
    -------
    Finding
        ``label_source``, always ``information``: it is known by design, and whether it tells is
        the probe's to say. Its value is the share of such texts.
    """
    n = len(label_section)
    held = sum(bool(name) and ("full" in sections or name in sections) for name in label_section)
    sentence = (
        f"{held:,} of {n:,} texts hold the section from which a labeller takes the label"
        f" (the model reads {', '.join(sections)})."
    )
    share = held / n if n else None
    return Finding("label_source", "information", sentence, share, n, measure="share")


def probe_text(
    texts: Sequence[str],
    label: ArrayLike,
    part: ArrayLike,
    *,
    groups: ArrayLike | None = None,
) -> TextProbe:
    """Fit logistic regression on word counts in training, and score the test part.

    Parameters
    ----------
    texts : (N,) sequence of str
    label : (N,) array-like of 0/1
    part : (N,) array-like of str
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several.

    Returns
    -------
    TextProbe
        Every score is 0 where training has no word or one class only.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    positive, part = as_labels(label), np.asarray(part)
    training = np.flatnonzero(part == "train").tolist()
    score = np.zeros(len(part))
    words = any(_WORD.search(texts[row]) for row in training)
    if words and len(np.unique(positive[training])) == 2:
        counter = CountVectorizer(token_pattern=_WORD.pattern)
        counted = counter.fit_transform([texts[row] for row in training])
        model = LogisticRegression(solver="liblinear").fit(counted, positive[training])
        score = model.decision_function(counter.transform(texts))
    return TextProbe(score, _interval(positive, score, part == "test", groups))


def judge_probe(probe: TextProbe, label: ArrayLike, part: ArrayLike) -> Finding:
    """Judge what word counts reach on the text as it is.

    Parameters
    ----------
    probe : TextProbe
    label : (N,) array-like of 0/1
    part : (N,) array-like of str

    Returns
    -------
    Finding
        ``text_probe``; a ``finding`` needs an AUROC >= `LEAKING_AUROC` and an interval above
        `LEAKING_LOW`, so that a few easy records are none.
    """
    test = np.asarray(part) == "test"
    n, hits = int(test.sum()), int(as_labels(label)[test].sum())
    leaks = probe.test.auroc >= LEAKING_AUROC and probe.test.low > LEAKING_LOW
    sentence = (
        f"A linear model on the unmasked text's word counts reaches AUROC"
        f" {_interval_text(probe.test)} ({n:,} test records, {hits:,} positive)"
    )
    if leaks:
        sentence += ": the text gives the label away."
    elif probe.test.auroc >= LEAKING_AUROC:
        sentence += ": as high as a leak, but on too few records to tell."
    else:
        sentence += "."
    grade: Grade = "finding" if leaks else "information"
    return Finding("text_probe", grade, sentence, _number(probe.test.auroc), n)


def judge_mask(
    unmasked: TextProbe,
    masked: TextProbe,
    mask: str,
    label: ArrayLike,
    part: ArrayLike,
    *,
    groups: ArrayLike | None = None,
) -> Finding:
    """Judge what word counts lose when a mask deletes words.

    Parameters
    ----------
    unmasked, masked : TextProbe
    mask : str
        The mask's name.
    label : (N,) array-like of 0/1
    part : (N,) array-like of str
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several.

    Returns
    -------
    Finding
        ``text_probe:<mask>``; its value is the masked AUROC. A ``finding`` needs a loss of at
        least `LEAKING_DIFFERENCE` and p < `SHORTCUT_P` in DeLong's paired test.
    """
    test = np.asarray(part) == "test"
    owner = None if groups is None else np.asarray(groups)[test]
    paired = delong_test(
        as_labels(label)[test], unmasked.score[test], masked.score[test], groups=owner
    )
    leaks = paired.difference >= LEAKING_DIFFERENCE and paired.p_value < SHORTCUT_P
    verdict = "the masked words carry the label" if leaks else "no loss is shown that counts"
    sentence = (
        f"Masked by {mask}, word counts reach AUROC {_interval_text(masked.test)}; unmasked minus"
        f" masked is {paired.difference:+.3f} ({p_text(paired.p_value)}): {verdict}."
    )
    grade: Grade = "finding" if leaks else "information"
    value, p = _number(masked.test.auroc), _number(paired.p_value)
    return Finding(f"text_probe:{mask}", grade, sentence, value, int(test.sum()), p_value=p)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _interval(
    positive: BoolArray, score: FloatArray, kept: BoolArray, groups: ArrayLike | None
) -> AurocInterval:
    if not kept.any():
        return AurocInterval(np.nan, np.nan, np.nan, np.nan, "none")
    owner = None if groups is None else np.asarray(groups)[kept]
    return auroc_interval(positive[kept], score[kept], groups=owner)


def _interval_text(interval: AurocInterval) -> str:
    if np.isnan(interval.auroc):
        return "not computable (one class only)"
    return f"{interval.auroc:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
