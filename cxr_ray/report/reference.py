"""The figures printed by Chao & Li, "Exploring Multimodal Learning in Classifiers for Healthcare".

Fourteen rows: twelve models, and the multimodal one with its image or its text shuffled. They are
what ours are shown beside, and never what anything is tuned to.
"""

import csv
from dataclasses import dataclass
from importlib import resources

from cxr_ray.evaluation.proportions import Interval, wilson_interval

PRINTED_METRICS = ("accuracy", "precision", "recall", "f1", "auroc")
PRINTED_TEST_SIZE = {"full": 4823, "sub75": 1859}
"""Test records by data set: every printed accuracy is a share of them."""


@dataclass(frozen=True)
class PrintedRow:
    """One printed row, its figures kept as the digits that were printed.

    Attributes
    ----------
    model : str
        ``multimodal``, ``image`` or ``text``.
    dataset : str
        ``full`` or ``sub75``.
    loss : str
        ``bce`` or ``focal``.
    perturbation : str
        ``image_shuffled``, ``text_shuffled`` or empty.
    digits : dict of str to str
        By metric, such as ``.9934``.
    """

    model: str
    dataset: str
    loss: str
    perturbation: str
    digits: dict[str, str]

    def figure(self, metric: str) -> float:
        """Return a printed figure as a number."""
        return float(self.digits[metric])

    @property
    def consistency_flag(self) -> str:
        """What the row's own figures contradict, computed from them.

        ``f1`` where no precision, recall and F1 that round to the printed digits have
        ``F1 = 2 P R / (P + R)``; ``recall`` where the recall's digits repeat the accuracy's;
        both joined by ``+``; empty where neither holds.
        """
        flags = []
        if not f1_can_follow(self.digits["precision"], self.digits["recall"], self.digits["f1"]):
            flags.append("f1")
        if self.digits["recall"] == self.digits["accuracy"]:
            flags.append("recall")
        return "+".join(flags)

    @property
    def accuracy_interval(self) -> Interval:
        """Wilson interval of the printed accuracy on the test set that it was taken from."""
        total = PRINTED_TEST_SIZE[self.dataset]
        return wilson_interval(round(self.figure("accuracy") * total), total)


def printed_rows() -> tuple[PrintedRow, ...]:
    """Read the printed figures from the package's data.

    Returns
    -------
    tuple of PrintedRow

    Examples
    --------
    >>> row = printed_rows()[0]
    >>> row.model, row.digits["auroc"], row.consistency_flag
    ('multimodal', '.9966', 'f1+recall')
    """
    text = resources.files("cxr_ray.report").joinpath("reference.csv").read_text("utf-8")
    return tuple(
        PrintedRow(
            model=row["model"],
            dataset=row["dataset"],
            loss=row["loss"],
            perturbation=row["perturbation"],
            digits={metric: row[metric] for metric in PRINTED_METRICS},
        )
        for row in csv.DictReader(text.splitlines())
    )


def f1_can_follow(precision: str, recall: str, f1: str) -> bool:
    """Tell whether a printed F1 can be that of the printed precision and recall.

    Each printed figure stands for the interval that rounds to it. F1 grows with precision and with
    recall, so that its own interval runs from both lower ends to both upper ends.

    Parameters
    ----------
    precision, recall, f1 : str
        As printed, such as ``.9805``; the number of digits is the precision of the rounding.

    Returns
    -------
    bool

    Examples
    --------
    >>> f1_can_follow(".9805", ".9306", ".9549"), f1_can_follow(".9732", ".9934", ".9594")
    (True, False)
    """
    low, high = (
        2 * p * r / (p + r) if p + r > 0 else 0.0
        for p, r in zip(_rounding(precision), _rounding(recall), strict=True)
    )
    printed_low, printed_high = _rounding(f1)
    return low <= printed_high and printed_low <= high


def _rounding(digits: str) -> tuple[float, float]:
    half = 0.5 * 10.0 ** -len(digits.partition(".")[2])
    return max(0.0, float(digits) - half), min(1.0, float(digits) + half)
