"""Small multiples of calibration and decision curves, a panel a model."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from cxr_ray.evaluation.labels import FloatArray, as_labels, as_scores
from cxr_ray.evaluation.net_benefit import NetBenefit
from cxr_ray.evaluation.panels import panels
from cxr_ray.evaluation.proportions import wilson_interval

BEFORE, AFTER, REFERENCE = "#D55E00", "#0072B2", "0.5"  # Okabe & Ito 2008


def reliability_points(label: ArrayLike, probability: ArrayLike, bins: int = 10) -> FloatArray:
    """Share of positives in bins of equal mass.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    probability : (N,) array-like
    bins : int
        Equal probabilities share a bin.

    Returns
    -------
    (4, at most bins) array of float64
        Mean probability, share of positives, and the bounds of its 95 % Wilson interval.

    Examples
    --------
    >>> reliability_points([0, 1, 1, 1], [0.2, 0.2, 0.8, 0.9], bins=2)[:2].round(2).tolist()
    [[0.2, 0.85], [0.5, 1.0]]
    """
    positive = as_labels(label)
    chance = as_scores(probability, len(positive))
    own_bin = np.searchsorted(np.sort(chance), chance, side="left") * bins // len(chance)
    points = []
    for number in np.unique(own_bin):
        members = own_bin == number
        hits, total = int(positive[members].sum()), int(members.sum())
        interval = wilson_interval(hits, total)
        points.append((chance[members].mean(), hits / total, interval.low, interval.high))
    return np.array(points).T


def reliability_panels(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike | None]],
) -> Figure:
    """Draw reliability before and after recalibration.

    Parameters
    ----------
    curves : mapping of str to (label, probability, recalibrated probability or None)
        By model, each (N,) array-like.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, drawn = panels(list(curves), shared=True)
    for panel, (label, before, after) in zip(drawn, curves.values(), strict=True):
        panel.plot([0, 1], [0, 1], color=REFERENCE, linewidth=1, linestyle=":")
        for name, chance, colour, marker in (
            ("before", before, BEFORE, "s--"),
            ("after", after, AFTER, "o-"),
        ):
            if chance is None:
                continue
            x, y, low, high = reliability_points(label, chance)
            panel.errorbar(
                x,
                y,
                yerr=[y - low, high - y],
                fmt=marker,
                color=colour,
                markersize=3,
                linewidth=1.2,
                elinewidth=0.6,
                label=f"{name} recalibration",
            )
        panel.set_xlim(-0.02, 1.02)
        panel.set_ylim(-0.02, 1.02)
    _label(figure, drawn, "Predicted probability (mean of the bin)", "Share of positives")
    return figure


def decision_panels(curves: Mapping[str, NetBenefit]) -> Figure:
    """Draw the net benefit of each model beside treating all and treating none.

    Parameters
    ----------
    curves : mapping of str to NetBenefit
        By model.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, drawn = panels(list(curves), shared=True)
    for panel, curve in zip(drawn, curves.values(), strict=True):
        panel.axhline(0, color=REFERENCE, linewidth=1, linestyle=":", label="treat none")
        panel.plot(curve.threshold, curve.treat_all, "--", color=BEFORE, label="treat all")
        panel.plot(curve.threshold, curve.model, "-", color=AFTER, label="by the model")
        panel.set_ylim(-0.2 * curve.prevalence, 1.05 * curve.prevalence)
    _label(figure, drawn, "Threshold probability", "Net benefit (true positives a patient)")
    return figure


def _label(figure: Figure, drawn: Sequence[Axes], below: str, beside: str) -> None:
    figure.supxlabel(below, fontsize=9)
    figure.supylabel(beside, x=0.01, fontsize=9)
    handles, labels = drawn[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=3, fontsize=8, frameon=False)
