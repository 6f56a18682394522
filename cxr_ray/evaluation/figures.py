"""Pictures of predictions, as matplotlib figures that belong to no window and no global state."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from sklearn.metrics import precision_recall_curve, roc_curve

from cxr_ray.evaluation.calibration_figures import reliability_points
from cxr_ray.evaluation.confusion import confusion_rows
from cxr_ray.evaluation.labels import as_labels, as_scores
from cxr_ray.evaluation.metrics import expected_calibration_error
from cxr_ray.evaluation.ranking import auroc, average_precision

Curves = Mapping[str, tuple[ArrayLike, ArrayLike]]
"""Name of a test set or an arm -> (label, score)."""

# Okabe & Ito 2008: told apart with every kind of colour blindness; line styles besides
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
MODALITY_COLOURS = {"multimodal": "#0072B2", "image": "#D55E00", "text": "#009E73"}
SIZE = (6.4, 5.6)  # inches
# Of pictures whose labels and titles are of known length, as shares of the figure.
MARGINS = {"left": 0.12, "right": 0.97, "bottom": 0.1, "top": 0.87}
CONFUSION_MARGINS = {"left": 0.1, "right": 0.97, "bottom": 0.11, "top": 0.92}


def roc_figure(curves: Curves) -> Figure:
    """Draw ROC curves with their AUROC.

    Parameters
    ----------
    curves : mapping of str to (label, score)
        Each (N,) array-like; scores are logits or probabilities.

    Returns
    -------
    matplotlib.figure.Figure
        A curve without both classes is named in the legend and not drawn.
    """
    figure, axes = _square("ROC", curves)
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    for place, (name, (label, score)) in enumerate(curves.items()):
        if not _both_classes(label):
            _name_only(axes, place, name)
            continue
        false_rate, true_rate, _ = roc_curve(as_labels(label), np.asarray(score))
        text = f"{name} (AUROC {_short(auroc(label, score))})"
        axes.plot(false_rate, true_rate, label=text, **_style(place))
    axes.set_xlabel("False positive rate (1 - specificity)")
    axes.set_ylabel("True positive rate (sensitivity)")
    _legend(axes, "lower right")
    return figure


def precision_recall_figure(curves: Curves) -> Figure:
    """Draw precision against recall, with the average precision and each set's prevalence.

    Parameters
    ----------
    curves : mapping of str to (label, score)
        Each (N,) array-like; scores are logits or probabilities.

    Returns
    -------
    matplotlib.figure.Figure
        A curve without both classes is named in the legend and not drawn.
    """
    figure, axes = _square("Precision and recall", curves)
    for place, (name, (label, score)) in enumerate(curves.items()):
        if not _both_classes(label):
            _name_only(axes, place, name)
            continue
        positive = as_labels(label)
        precision, recall, _ = precision_recall_curve(positive, np.asarray(score))
        style = _style(place)
        text = f"{name} (AP {_short(average_precision(label, score))})"
        # the step-wise curve is the one whose area is the average precision
        axes.step(recall, precision, where="post", label=text, **style)
        axes.axhline(positive.mean(), color=style["color"], linewidth=0.8, linestyle=":")
    axes.set_xlabel("Recall (sensitivity)")
    axes.set_ylabel("Precision (dotted: the share of positives)")
    _legend(axes, "lower left")
    return figure


def reliability_figure(curves: Curves, *, bins: int = 10, ece_bins: int = 15) -> Figure:
    """Draw the share of positives against the predicted probability, in bins of equal mass.

    Parameters
    ----------
    curves : mapping of str to (label, probability)
        Each (N,) array-like; probabilities, not logits.
    bins : int
        Number of points a curve; each has its 95 % Wilson interval.
    ece_bins : int
        Number of bins of the calibration error in the legend.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = _square("Calibration", curves)
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    for place, (name, (label, probability)) in enumerate(curves.items()):
        positive = as_labels(label)
        chance = as_scores(probability, len(positive))
        error = expected_calibration_error(positive, chance, bins=ece_bins)
        x, y, low, high = reliability_points(positive, chance, bins)
        axes.errorbar(
            x,
            y,
            yerr=[y - low, high - y],
            marker="o",
            markersize=4,
            capsize=2,
            elinewidth=0.8,
            label=f"{name} (ECE {error:.3f})",
            **_style(place),
        )
    axes.set_xlabel("Predicted probability (mean of the bin)")
    axes.set_ylabel("Share of positives (95 % Wilson interval)")
    _legend(axes, "upper left")
    return figure


def confusion_figure(
    label: ArrayLike,
    probability: ArrayLike,
    *,
    threshold: float = 0.5,
    negative_name: str = "negative",
    positive_name: str = "positive",
) -> Figure:
    """Draw the confusion matrix: counts, and each row's shares as its shade.

    Parameters
    ----------
    label : (N,) array-like of 0/1
    probability : (N,) array-like
    threshold : float
        A record is called positive where probability >= threshold.
    negative_name, positive_name : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    counts = confusion_rows(label, np.asarray(probability)[None], threshold)
    table = np.array(
        [
            [counts.true_negative[0], counts.false_positive[0]],
            [counts.false_negative[0], counts.true_positive[0]],
        ]
    )
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    figure, axes = _canvas((5.6, 4.8), CONFUSION_MARGINS)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(2, 2):
        axes.text(
            column,
            row,
            f"{table[row, column]:,}\n{share[row, column]:.1%} of row",
            ha="center",
            va="center",
            fontsize=13,
            color="white" if share[row, column] > 0.6 else "black",
        )
    names = (negative_name, positive_name)
    axes.set_xticks([0, 1], names)
    axes.set_yticks([0, 1], names, rotation=90, va="center")
    axes.set_xlabel(f"Predicted at threshold {threshold:g}")
    axes.set_ylabel("Label")
    axes.set_title(f"Confusion matrix: {_counts(label)}", fontsize=11)
    return figure


def comparison_figure(table: pd.DataFrame) -> Figure:
    """Draw a forest plot of AUROC with intervals, one line a model.

    Parameters
    ----------
    table : DataFrame
        One row a model, drawn from top to bottom: ``name, auroc, auroc_low, auroc_high``, and
        optionally ``modality`` (its colour), ``n`` and ``n_positive``. Rows without AUROC are left
        out; rows without an interval are points.

    Returns
    -------
    matplotlib.figure.Figure
    """
    rows = table[table["auroc"].notna()].reset_index(drop=True)
    figure, axes = _canvas((8.6, 1.9 + 0.36 * max(len(rows), 2)))
    colour_of = rows["modality"].map(MODALITY_COLOURS) if "modality" in rows else pd.Series()
    low = pd.to_numeric(rows["auroc_low"]).fillna(rows["auroc"])
    high = pd.to_numeric(rows["auroc_high"]).fillna(rows["auroc"])
    for place, area in enumerate(rows["auroc"].astype(float)):
        colour = colour_of.get(place)
        colour = colour if isinstance(colour, str) else COLOURS[-1]
        axes.plot([low[place], high[place]], [place, place], color=colour, linewidth=2)
        axes.plot(area, place, "o", color=colour, markersize=6)
        axes.annotate(
            _short(area)
            + (
                f" [{_short(low[place])}-{_short(high[place])}]" if low[place] < high[place] else ""
            ),
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
        )
    axes.set_yticks(range(len(rows)), rows["name"].astype(str).tolist(), fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    edge = min([0.5, *low]) if len(rows) and low.min() < 0.6 else (low.min() if len(rows) else 0.5)
    axes.set_xlim(max(0.0, edge - 0.03), 1.005)
    axes.axvline(0.5, color="0.6", linewidth=1, linestyle=":")
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel("AUROC with 95 % interval")
    axes.set_title(f"AUROC of {len(rows)} model{'s' * (len(rows) > 1)}{_sizes(rows)}", fontsize=11)
    return figure


def _canvas(
    size: tuple[float, float], margins: Mapping[str, float] | None = None
) -> tuple[Figure, Axes]:
    """Make a figure; where its margins are known it is drawn once, not twice to find them."""
    figure = Figure(figsize=size, layout="constrained" if margins is None else None)
    FigureCanvasAgg(figure)
    if margins is not None:
        figure.subplots_adjust(**margins)
    return figure, figure.add_subplot()


def _square(title: str, curves: Curves) -> tuple[Figure, Axes]:
    figure, axes = _canvas(SIZE, MARGINS)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    counts = {name: _counts(label) for name, (label, _) in curves.items()}
    if len(set(counts.values())) == 1:
        subtitle = next(iter(counts.values()))
    elif len(counts) <= 3:
        subtitle = "\n".join(f"{name}: {count}" for name, count in counts.items())
    else:
        sizes = [len(as_labels(label)) for label, _ in curves.values()]
        subtitle = f"{len(counts)} sets of {min(sizes):,} to {max(sizes):,} records"
    axes.set_title(f"{title}: {subtitle}" if "\n" not in subtitle else f"{title}\n{subtitle}")
    axes.title.set_fontsize(11 if "\n" not in subtitle else 9)
    return figure, axes


def _style(place: int) -> dict[str, Any]:
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": STYLES[(place // len(COLOURS) + place) % len(STYLES)],
        "linewidth": 1.8,
    }


def _name_only(axes: Axes, place: int, name: str) -> None:
    axes.plot([], [], label=f"{name} (one class only)", **_style(place))


def _legend(axes: Axes, location: Literal["lower left", "lower right", "upper left"]) -> None:
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(loc=location, fontsize=9 if len(handles) < 7 else 7, framealpha=0.9)


def _both_classes(label: ArrayLike) -> bool:
    positive = as_labels(label)
    return bool(positive.any() and not positive.all())


def _counts(label: ArrayLike) -> str:
    positive = as_labels(label)
    return f"n = {len(positive):,}, {positive.sum():,} positive"


def _sizes(rows: pd.DataFrame) -> str:
    if not {"n", "n_positive"} <= set(rows) or rows.empty:
        return ""
    sizes = rows[["n", "n_positive"]].drop_duplicates()
    if len(sizes) > 1:
        return ", on test sets of different size"
    n, positives = sizes.iloc[0]
    return f": n = {int(n):,}, {int(positives):,} positive"


def _short(value: float) -> str:
    text = f"{value:.3f}" if value < 0.995 else f"{value:.4f}"  # .9995 is not yet 1
    return text[1:] if text.startswith("0.") else text
