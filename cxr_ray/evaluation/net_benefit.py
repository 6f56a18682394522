"""What acting on a model's calls brings at a declared prevalence."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.errors import InputError
from cxr_ray.evaluation.confusion import confusion_rows
from cxr_ray.evaluation.labels import FloatArray, as_labels, as_scores


@dataclass(frozen=True)
class NetBenefit:
    """Net benefit of acting on a positive call, in true positives a patient.

    Attributes
    ----------
    threshold : (T,) array of float64
        Probabilities.
    model, treat_all : (T,) arrays of float64
        To treat none has net benefit 0.
    prevalence : float
        That the figures hold for.
    """

    threshold: FloatArray
    model: FloatArray
    treat_all: FloatArray
    prevalence: float


def net_benefit(
    label: ArrayLike,
    probability: ArrayLike,
    thresholds: ArrayLike,
    *,
    prevalence: float | None = None,
) -> NetBenefit:
    """Weigh true against false positives at each threshold (decision curve).

    Parameters
    ----------
    label : (N,) array-like of 0/1
        Both classes.
    probability : (N,) array-like
        Calibrated for the prevalence in question: see `cxr_ray.evaluation.calibration`.
    thresholds : (T,) array-like
        Probabilities from 0 to below 1: one who acts at p weighs a false alarm p / (1 - p) times a
        missed case.
    prevalence : float, optional
        Share of positives where the model is to be used; the sample's own by default.

    Returns
    -------
    NetBenefit

    Raises
    ------
    InputError
        If the prevalence is not between 0 and 1.
    ValueError
        If one class is absent, or a threshold lies outside [0, 1).

    Notes
    -----
    Vickers & Elkin 2006, ``TP / n - FP / n * p / (1 - p)``, with ``TP / n`` = sensitivity times
    prevalence and ``FP / n`` = (1 - specificity) times (1 - prevalence).

    Examples
    --------
    >>> found = net_benefit([0, 0, 0, 1], [0.1, 0.2, 0.6, 0.7], [0.2, 0.5])
    >>> found.model.tolist(), found.treat_all.round(4).tolist()
    ([0.125, 0.0], [0.0625, -0.5])
    """
    positive = as_labels(label)
    chance = as_scores(probability, len(positive))
    at = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    if positive.all() or not positive.any():
        raise ValueError("label holds one class only: net benefit needs both")
    if not ((at >= 0) & (at < 1)).all():
        raise ValueError("thresholds lie from 0 to below 1")
    share = float(positive.mean()) if prevalence is None else prevalence
    if not 0 < share < 1:
        raise InputError(f"prevalence is {share}: a share between 0 and 1 is needed")
    counts = [confusion_rows(positive, chance[None], float(one)) for one in at]
    sensitivity = np.array([float(one.recall[0]) for one in counts])
    false_alarms = np.array([1 - float(one.specificity[0]) for one in counts])
    odds = at / (1 - at)
    return NetBenefit(
        threshold=at,
        model=sensitivity * share - false_alarms * (1 - share) * odds,
        treat_all=share - (1 - share) * odds,
        prevalence=share,
    )
