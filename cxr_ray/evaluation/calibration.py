"""How far probabilities mean what they say, and what sets them right."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from scipy.stats import norm

from cxr_ray.errors import InputError
from cxr_ray.evaluation.labels import BoolArray, FloatArray, as_labels, as_scores
from cxr_ray.evaluation.proportions import Interval

MAX_STEPS = 100


@dataclass(frozen=True)
class Recalibration:
    """A line that turns logits into calibrated logits.

    Attributes
    ----------
    slope, intercept : float
    method : str
        ``logistic``; ``intercept_only`` where the logits do not vary; or ``none: `` and a reason,
        with which logits stay as they are.
    """

    slope: float
    intercept: float
    method: str

    def apply(self, logits: ArrayLike) -> FloatArray:
        """Recalibrate logits: ``slope * logit + intercept``."""
        return self.slope * np.asarray(logits, dtype=np.float64) + self.intercept


@dataclass(frozen=True)
class Calibration:
    """How well a set of predictions is calibrated.

    Attributes
    ----------
    slope : float
        1 where the logits are as far apart as they should be, under 1 where too far.
    intercept : float
        Of the same line; 0 with slope 1.
    in_the_large : float
        Intercept with the slope held at 1: above 0 where the risk is underestimated on average.
    slope_interval, intercept_interval, in_the_large_interval : Interval
        Bounds are NaN where there is no estimate; ``method`` then says why.
    """

    slope: float
    intercept: float
    in_the_large: float
    slope_interval: Interval
    intercept_interval: Interval
    in_the_large_interval: Interval


def fit_recalibration(label: ArrayLike, logits: ArrayLike) -> Recalibration:
    """Fit slope and intercept by logistic regression of the label on the logit.

    Parameters
    ----------
    label : (N,) array-like of 0/1
        Of the full validation part: a sub-sampled one has another prevalence.
    logits : (N,) array-like

    Returns
    -------
    Recalibration
        The line leaves logits as they are where one class is absent, or where a threshold
        separates the classes, so that no finite slope is the likeliest.

    Raises
    ------
    ValueError
        If a logit is not finite.

    Notes
    -----
    Cox 1958; Platt 1999 without his smoothing of the labels. Temperature alone cannot undo
    focal's alpha or a changed class ratio, which move the intercept.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> logits = rng.normal(size=4_000)
    >>> line = fit_recalibration(rng.random(4_000) < expit(logits), 2 * logits + 1)
    >>> round(line.slope, 1), round(line.intercept, 1)
    (0.5, -0.5)
    """
    positive, scores = _checked(label, logits)
    reason = _no_line(positive, scores)
    if reason:
        return Recalibration(1.0, 0.0, f"none: {reason}")
    if np.ptp(scores) == 0:
        return Recalibration(1.0, _offset(positive, scores), "intercept_only")
    intercept, slope = _logistic(positive, scores)
    return Recalibration(slope, intercept, "logistic")


def calibration(
    label: ArrayLike,
    logits: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Calibration:
    """Measure calibration slope and intercept of test predictions.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    logits : (N,) array-like
    groups : (N,) array-like, optional
        The patient of each record, where a patient has several.
    confidence : float

    Returns
    -------
    Calibration
        Where no line can be fitted (`fit_recalibration`), figures and bounds are NaN.

    Raises
    ------
    ValueError
        If a logit is not finite, or all records are one patient's.

    Notes
    -----
    Cox 1958; Van Calster et al. 2016. Wald intervals with the sandwich variance, scores summed by
    patient (Huber 1967; Liang & Zeger 1986): the logistic line itself need not be true.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> logits = rng.normal(size=4_000)
    >>> found = calibration(rng.random(4_000) < expit(logits), 2 * logits)
    >>> found.slope_interval.low < 0.5 < found.slope_interval.high < 1
    True
    """
    positive, scores = _checked(label, logits)
    reason = _no_line(positive, scores)
    if not reason and np.ptp(scores) == 0:
        reason = "the logits do not vary"
    if reason:
        none = Interval(np.nan, np.nan, f"none: {reason}")
        return Calibration(np.nan, np.nan, np.nan, none, none, none)
    block = np.arange(len(positive))
    if groups is not None:
        block = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    if not block.any():
        raise ValueError("groups name one patient only: an interval needs several")
    design = np.column_stack([np.ones(len(scores)), scores])
    line = np.array(_logistic(positive, scores))
    shift = _offset(positive, scores)
    errors = _sandwich(design, positive, expit(design @ line), block)
    error = _sandwich(design[:, :1], positive, expit(scores + shift), block)[0]
    z = float(norm.ppf((1 + confidence) / 2))

    def interval(value: float, spread: float) -> Interval:
        return Interval(float(value - z * spread), float(value + z * spread), "sandwich")

    return Calibration(
        slope=float(line[1]),
        intercept=float(line[0]),
        in_the_large=shift,
        slope_interval=interval(line[1], errors[1]),
        intercept_interval=interval(line[0], errors[0]),
        in_the_large_interval=interval(shift, error),
    )


def shift_prior(
    logits: ArrayLike, *, loss: str, trained_prevalence: float, prevalence: float
) -> FloatArray:
    """Move logits from the prevalence that a model was trained at to another one.

    Parameters
    ----------
    logits : (N,) array-like
    loss : str
        Kind of the training loss.
    trained_prevalence, prevalence : float
        Shares of positives, between 0 and 1.

    Returns
    -------
    (N,) array of float64

    Raises
    ------
    InputError
        If the loss is not BCE, or a prevalence is not between 0 and 1.

    Notes
    -----
    Elkan 2001, theorem 2; Saerens, Latinne & Decaestecker 2002: if only the prior differs, the
    logit moves by the difference of the priors' log-odds. Only BCE's minimum is the log-odds.

    Examples
    --------
    >>> shifted = shift_prior([0.0], loss="bce", trained_prevalence=0.25, prevalence=0.1)
    >>> round(float(expit(shifted[0])), 4)  # odds of 1 become 1 x (1 : 9) / (1 : 3)
    0.25
    """
    if loss != "bce":
        raise InputError(
            f"prior shift: the model was trained with {loss}, whose minimum is not the log-odds; "
            "it holds for bce only, so recalibrate on validation data instead"
        )
    for name, share in (("trained_prevalence", trained_prevalence), ("prevalence", prevalence)):
        if not 0 < share < 1:
            raise InputError(f"{name} is {share}: a share between 0 and 1 is needed")
    return np.asarray(logits, dtype=np.float64) + logit(prevalence) - logit(trained_prevalence)


def _checked(label: ArrayLike, logits: ArrayLike) -> tuple[BoolArray, FloatArray]:
    positive = as_labels(label)
    scores = as_scores(logits, len(positive))
    if not np.isfinite(scores).all():
        raise ValueError("logits hold infinite values, which no line recalibrates")
    return positive, scores


def _no_line(positive: BoolArray, scores: FloatArray) -> str:
    """Why no logistic line has finite likeliest coefficients; empty where one has."""
    hits, others = scores[positive], scores[~positive]
    if not len(hits) or not len(others):
        return "one class only"
    if np.ptp(scores) > 0 and (hits.min() >= others.max() or hits.max() <= others.min()):
        return "a threshold separates the classes"
    return ""


def _logistic(positive: BoolArray, scores: FloatArray) -> tuple[float, float]:
    """Intercept and slope of the likeliest line, by Newton's method with halved steps."""
    middle, scale = scores.mean(), scores.std()
    design = np.column_stack([np.ones(len(scores)), (scores - middle) / scale])
    line = np.array([logit(positive.mean()), 0.0])
    cost = _cost(design @ line, positive)
    for _ in range(MAX_STEPS):
        chance = expit(design @ line)
        weight = chance * (1 - chance)
        gradient = design.T @ (positive - chance)
        step = np.linalg.solve(design.T @ (design * weight[:, None]), gradient)
        while _cost(design @ (line + step), positive) > cost and np.abs(step).max() > 1e-12:
            step = step / 2
        line = line + step
        cost = _cost(design @ line, positive)
        if np.abs(step).max() < 1e-10:
            break
    slope = line[1] / scale
    return float(line[0] - slope * middle), float(slope)


def _offset(positive: BoolArray, scores: FloatArray) -> float:
    """Shift after which the mean probability is the share of positives (bisection)."""
    low, high = -scores.max() - 50, -scores.min() + 50
    for _ in range(MAX_STEPS):
        middle = (low + high) / 2
        if expit(scores + middle).mean() < positive.mean():
            low = middle
        else:
            high = middle
    return float((low + high) / 2)


def _cost(logits: FloatArray, positive: BoolArray) -> float:
    return float(np.logaddexp(0, np.where(positive, -logits, logits)).sum())


def _sandwich(
    design: FloatArray, positive: BoolArray, chance: FloatArray, block: np.ndarray
) -> FloatArray:
    """Return standard errors of coefficients, their scores summed by block."""
    bread = np.linalg.inv(design.T @ (design * (chance * (1 - chance))[:, None]))
    scores = design * (positive - chance)[:, None]
    count = int(block.max()) + 1
    summed = np.column_stack(
        [np.bincount(block, weights=column, minlength=count) for column in scores.T]
    )
    covariance = bread @ (summed.T @ summed) @ bread * count / (count - 1)
    return np.sqrt(np.diag(covariance))
