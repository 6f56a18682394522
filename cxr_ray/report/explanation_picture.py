"""Pictures of what moved a model's answer: a heat map, and words coloured by their attribution."""

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from cxr_ray.report.explanation import Explanation, WordAttribution
from cxr_ray.storage import write_whole

OWNER_ONLY = 0o600
COLOURS = colormaps["RdBu_r"]
SIDE = 384
MOST_OPAQUE = 0.65
LINE_LENGTH = 74
CAVEAT = (
    "Red speaks for the label, blue against it, each panel on a scale of its own. Image: Grad-CAM\n"
    "of the last convolutional stage, with its sign. Text: integrated gradients, against a text\n"
    "without words. This shows what this model reacted to, not where disease is. Research\n"
    "software, no medical device."
)

Pixels = NDArray[np.uint8]


def draw_explanation(explanation: Explanation, reads: tuple[str, ...], label: str) -> Figure:
    """Draw a record's radiograph with its heat map beside its words, with the answer above.

    Parameters
    ----------
    reads
        The modalities of the model, in their order; each has a panel.
    label
        What the probability is of.
    """
    lines = [] if explanation.words is None else list(_lines(explanation))
    height = max(3.9, 0.195 * (len(lines) + 2))
    widths = [{"image": 3.9, "text": 5.6}[name] for name in reads]
    figure = Figure(figsize=(max(sum(widths) + 0.6, 7.4), height + 2.2))
    FigureCanvasAgg(figure)
    total = figure.get_figheight()
    left = 0.3
    for name, width in zip(reads, widths, strict=True):
        panel = figure.add_axes(
            (
                left / figure.get_figwidth(),
                1.35 / total,
                (width - 0.2) / figure.get_figwidth(),
                height / total,
            )
        )
        panel.set_axis_off()
        if name == "image":
            _draw_image(panel, explanation)
        else:
            _draw_words(panel, explanation, lines, height)
        left += width
    figure.text(0.3 / figure.get_figwidth(), 1 - 0.12 / total, _title(explanation, label), va="top")
    _draw_shares(figure, explanation, reads)
    figure.text(0.3 / figure.get_figwidth(), 0.1 / total, CAVEAT, fontsize=7.5, color="0.35")
    return figure


def save_explanation(figure: Figure, path: Path) -> None:
    """Write a picture that only its owner can read: it holds a patient's record."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of scripts that the font has not
        figure.savefig(content, format="png", dpi=110)
    write_whole(path, content.getvalue(), mode=OWNER_ONLY)


def heat_pixels(heat: NDArray[np.floating], pixels: Pixels | None, side: int = SIDE) -> Pixels:
    """Lay a heat map over an image, or on a blank: (side, side, 3) uint8.

    The map is scaled by its largest value, whatever its sign, and brought to size by bicubic
    interpolation.
    """
    largest = float(np.abs(heat).max()) or 1.0
    scaled = Image.fromarray((heat / largest).astype(np.float32))
    grown = np.clip(np.asarray(scaled.resize((side, side), Image.Resampling.BICUBIC)), -1, 1)
    colour = COLOURS((grown + 1) / 2)[..., :3]
    if pixels is None:
        return np.asarray(colour * 255, np.uint8)
    gray = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    below = np.repeat(np.asarray(gray, np.float64)[..., None] / 255, 3, axis=2)
    opacity = MOST_OPAQUE * np.abs(grown)[..., None]
    return np.asarray((opacity * colour + (1 - opacity) * below) * 255, np.uint8)


def strip_pixels(tokens: NDArray[np.floating]) -> Pixels:
    """Colour token positions by their attribution: (1, L, 3) uint8."""
    largest = float(np.abs(tokens).max()) or 1.0
    return np.asarray(COLOURS((tokens / largest + 1) / 2)[None, :, :3] * 255, np.uint8)


def word_shades(words: WordAttribution) -> NDArray[np.float64]:
    """Scale attributions to between -1 and 1 by the largest, whatever its sign."""
    if not len(words.words):
        return np.zeros(0)
    return words.words / (float(np.abs(words.words).max()) or 1.0)


def _title(explanation: Explanation, label: str) -> str:
    answer = explanation.answer
    called = "at or above" if answer["positive_at_val"] else "below"
    title = (
        f"Probability of {label} {answer['probability']:.3f} (recalibrated "
        f"{answer['probability_recalibrated']:.3f}), {called} the threshold "
        f"{answer['threshold_at_val']:.3f}"
    )
    missing = answer["missing"].split()
    return title + (f"\nMissing: {' and '.join(missing)}" if missing else "")


def _draw_image(axes: Axes, explanation: Explanation) -> None:
    axes.set_title("Image", loc="left", fontsize=9)
    if explanation.pixels is None or explanation.heat is None:
        _say(axes, "No image was given:\nthe training part's mean\nfeature stands in for it.")
        return
    axes.imshow(heat_pixels(explanation.heat, explanation.pixels))
    axes.set_anchor("NW")


def _draw_words(
    axes: Axes, explanation: Explanation, lines: list[list[tuple[str, float, int]]], height: float
) -> None:
    axes.set_title("Text, as far as the model reads it", loc="left", fontsize=9)
    axes.set_xlim(0, LINE_LENGTH)
    axes.set_ylim(height / 0.195, 0)
    if explanation.words is None:
        _say(axes, "No text was given.")
        return
    if not lines:
        _say(axes, "The sections that the model reads are empty.")
    for number, line in enumerate(lines):
        for word, shade, column in line:
            axes.text(
                column,
                number + 0.7,
                word,
                fontsize=8,
                family="monospace",
                va="center",
                parse_math=False,
                bbox={
                    "facecolor": (*COLOURS((shade + 1) / 2)[:3], min(1.0, 2 * abs(shade))),
                    "edgecolor": "none",
                    "pad": 1.0,
                },
                color="white" if abs(shade) > 0.55 else "black",
            )


def _lines(explanation: Explanation) -> Iterator[list[tuple[str, float, int]]]:
    """Break the words into lines, as in the text where it breaks: (word, shade, column)."""
    words, text = explanation.words, explanation.text
    assert words is not None and text is not None
    line: list[tuple[str, float, int]] = []
    column, end = 0, 0
    for (start, stop), shade in zip(words.spans, word_shades(words), strict=True):
        word = "".join(
            c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[start:stop]
        )
        word = word if len(word) <= LINE_LENGTH else word[: LINE_LENGTH - 1] + "…"
        if line and (column + len(word) > LINE_LENGTH or text[end:start].count("\n") > 1):
            yield line
            line, column = [], 0
        line.append((word, float(shade), column))
        column, end = column + len(word) + 1, stop
    if line:
        yield line


def _draw_shares(figure: Figure, explanation: Explanation, reads: tuple[str, ...]) -> None:
    """Draw how far each modality moves the logit from the average record's."""
    shares = [explanation.answer[f"{name}_contribution"] for name in reads]
    total = figure.get_figheight()
    axes = figure.add_axes(
        (1.0 / figure.get_figwidth(), 0.72 / total, 0.45, 0.2 * len(reads) / total)
    )
    axes.barh(range(len(reads)), shares, color=[COLOURS(0.85 if s > 0 else 0.15) for s in shares])
    axes.axvline(0, color="0.4", linewidth=0.8)
    largest = max(map(abs, shares)) or 1.0
    axes.set_xlim(-1.35 * largest, 1.35 * largest)
    axes.set_yticks(range(len(reads)), reads, fontsize=8)
    axes.set_ylim(len(reads) - 0.5, -0.5)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    for place, share in enumerate(shares):
        axes.annotate(
            f"{share:+.3f}",
            (share, place),
            (4 if share >= 0 else -4, 0),
            textcoords="offset points",
            va="center",
            ha="left" if share >= 0 else "right",
            fontsize=8,
        )
    axes.set_title(
        "How far each moves the logit from the average record's", loc="left", fontsize=8, pad=2
    )


def _say(axes: Axes, sentence: str) -> None:
    axes.text(0.5, 0.5, sentence, transform=axes.transAxes, ha="center", va="center", color="0.35")
