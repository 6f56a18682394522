"""What a test set can show at all, in words, before a model is trained and where none separates."""

from collections.abc import Mapping
from typing import Any

from cxr_ray.evaluation.power import smallest_difference

AUROCS = (0.8, 0.9)
FEW_EVENTS = 100
HELD_OUT = ("holdout", "official")
# Its variance is that of folds, times the share that stands for other training parts.
OVER_FOLDS = "; the test over folds, which counts other training parts too, needs more than that"


def count_tested(manifest: Mapping[str, Any], split: str) -> tuple[int, int]:
    """Count the positive and negative records that models are compared on.

    Parameters
    ----------
    manifest
        A cohort's counts: ``parts``, and ``folds`` of a cross-validation.
    split
        ``data.split.kind``; where no part is held out, every record of a fold is tested.
    """
    tested = [manifest["parts"]["test"]] if split in HELD_OUT else manifest["folds"]
    positives = sum(counts["n_positive"] for counts in tested)
    return positives, sum(counts["n"] for counts in tested) - positives


def describe_power(
    positives: int, negatives: int, comparisons: int, split: str, *, search: bool = False
) -> str:
    """Say how small a difference of AUROC the test set can show, and what would help.

    Parameters
    ----------
    positives, negatives : int
        Records of each class that models are compared on.
    comparisons : int
        Size of the family that the grid declares.
    split : str
        ``data.split.kind``.
    search : bool
        Whether trials are ranked, which needs one validation part: what is found is to be
        cross-validated then.

    Returns
    -------
    str
        One sentence, and a second one where k-fold is advised: a part is held out and has under 100
        records of a class.
    """
    test_set = f"this test set ({positives} positive, {negatives} negative records)"
    if not positives or not negatives:
        return f"{test_set} can show no difference: a class is absent" + _advice(
            positives, negatives, split, search
        )
    sentence = f"smallest AUROC difference that {test_set} shows in four of five cases: "
    alone = _differences(positives, negatives, 1)
    sentence += ", ".join(f"{figure} at AUROC {near}" for near, figure in alone.items())
    if comparisons > 1:
        corrected = _differences(positives, negatives, comparisons)
        sentence += (
            f"; after Holm's correction for {comparisons} comparisons "
            f"{' and '.join(corrected.values())}"
        )
    sentence += "" if split in HELD_OUT else OVER_FOLDS
    return sentence + _advice(positives, negatives, split, search)


def power_clause(
    positives: int, negatives: int, comparisons: int, *, over_folds: bool = False
) -> str:
    """Say the same in a few words, for a study in which nothing separates; empty for one class."""
    if not positives or not negatives:
        return ""
    figures = _differences(positives, negatives, comparisons)
    said = [f"{figure} (at AUROC {near})" for near, figure in figures.items()]
    return (
        f"with {positives} positive and {negatives} negative records two single models would have "
        f"to differ by about {' or '.join(said)} to be told apart in four of five cases"
        + OVER_FOLDS
        * over_folds
    )


def format_difference(value: float) -> str:
    """Write a figure below 1 with two digits that count: it is a plan, not a measurement.

    Examples
    --------
    >>> [format_difference(value) for value in (0.0366, 0.0505, 0.2358, 0.8)]
    ['.037', '.051', '.24', '.80']
    """
    return f"{value:.{2 if value >= 0.0995 else 3}f}".removeprefix("0")


def _differences(positives: int, negatives: int, comparisons: int) -> dict[str, str]:
    """Smallest differences by the AUROC near which both models are."""
    return {
        format_difference(auroc): format_difference(
            smallest_difference(auroc, positives, negatives, comparisons=comparisons)
        )
        for auroc in AUROCS
    }


def _advice(positives: int, negatives: int, split: str, search: bool) -> str:
    fewer = min(positives, negatives)
    if split not in HELD_OUT or fewer >= FEW_EVENTS:
        return ""
    few = f"\nunder {FEW_EVENTS} test records of a class ({fewer}): "
    if search:
        return f"{few}cross-validate what the search finds, by the command that it ends with"
    return f"{few}--set data.split.kind=kfold tests every record of the cohort"
