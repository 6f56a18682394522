"""How small a difference between two AUROCs a test set can show."""

from math import sqrt
from statistics import NormalDist

LEVEL, POWER = 0.05, 0.8
CORRELATION = 0.5


def hanley_mcneil_error(auroc: float, positives: int, negatives: int) -> float:
    """Expect an AUROC's standard error before any score is seen.

    Parameters
    ----------
    auroc : float
        Between 0 and 1.
    positives, negatives : int
        Patients of each class, at least one.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a class is empty or `auroc` is out of range.

    Notes
    -----
    Hanley & McNeil 1982, eq. 1, for scores of negative exponential distribution:
    ``Q1 = A / (2 - A)``, ``Q2 = 2 A^2 / (1 + A)``.

    Examples
    --------
    >>> round(hanley_mcneil_error(0.9, 50, 50), 4)
    0.0321
    """
    if positives < 1 or negatives < 1:
        raise ValueError(f"{positives} positives and {negatives} negatives: each class needs one")
    if not 0 <= auroc <= 1:
        raise ValueError(f"an AUROC of {auroc} is not between 0 and 1")
    square = auroc**2
    two_positives = auroc / (2 - auroc) - square
    two_negatives = 2 * square / (1 + auroc) - square
    variance = (
        auroc * (1 - auroc) + (positives - 1) * two_positives + (negatives - 1) * two_negatives
    ) / (positives * negatives)
    return sqrt(variance)


def smallest_difference(
    auroc: float, positives: int, negatives: int, *, comparisons: int = 1
) -> float:
    """Find the difference of two models' AUROCs that is seen in four of five cases.

    Parameters
    ----------
    auroc : float
        Of both models, about.
    positives, negatives : int
        Patients of each class in the test set.
    comparisons : int
        Size of the family that Holm's correction is made for; the figure is that of its first
        step, the one that any difference must pass which is found alone.

    Returns
    -------
    float
        For a two-sided level of .05 and a power of .8. Nothing keeps it below ``1 - auroc``:
        above that the test set cannot show any difference.

    Raises
    ------
    ValueError
        As `hanley_mcneil_error` does, or for a family without members.

    Notes
    -----
    ``(z_{1 - alpha / 2} + z_.8) SE sqrt(2 (1 - r))`` with ``r = .5`` between the two AUROCs (Hanley
    & McNeil 1983), alpha being .05 over `comparisons`. A plan, made before the scores are seen: the
    correlation of two real models may be lower or higher.

    Examples
    --------
    >>> round(smallest_difference(0.8, 20, 180), 2)
    0.17
    >>> round(smallest_difference(0.8, 20, 180, comparisons=20), 2)
    0.24
    """
    if comparisons < 1:
        raise ValueError(f"a family of {comparisons} comparisons has no smallest difference")
    quantile = NormalDist().inv_cdf
    distance = quantile(1 - LEVEL / comparisons / 2) + quantile(POWER)
    error = hanley_mcneil_error(auroc, positives, negatives)
    return distance * error * sqrt(2 * (1 - CORRELATION))
