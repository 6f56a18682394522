import io
import sys

import numpy as np
import pandas as pd
import pytest

from cxr_ray.evaluation import figures


@pytest.fixture
def curves():
    rng = np.random.default_rng(0)
    label = rng.random(400) < 0.2
    logit = rng.normal(size=400) + 1.5 * label - 1.5
    return {"full": (label, logit), "own": (label[:150], logit[:150])}


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def width_of_png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return int.from_bytes(buffer.getvalue()[16:20], "big")


@pytest.mark.parametrize(
    ("draw", "figure_of"),
    [(figures.roc_figure, "AUROC ."), (figures.precision_recall_figure, "AP .")],
)
def test_each_curve_is_named_with_its_figure_and_each_set_with_its_size(curves, draw, figure_of):
    figure = draw(curves)
    assert [figure_of in text for text in legend(figure)] == [True, True]
    axes = figure.axes[0]
    positives = int(curves["full"][0].sum())
    assert f"full: n = 400, {positives} positive" in axes.get_title()
    assert axes.get_xlabel() and axes.get_ylabel()
    assert width_of_png(figure) <= 900


def test_a_set_with_one_class_is_named_and_not_drawn(curves):
    figure = figures.roc_figure({**curves, "empty": ([0, 0], [0.1, 0.2])})
    assert legend(figure)[-1] == "empty (one class only)"
    figures.precision_recall_figure({"empty": ([0, 0], [0.1, 0.2])}).canvas.draw()


def test_reliability_puts_calibrated_forecasts_on_the_diagonal():
    rng = np.random.default_rng(1)
    chance = rng.random(20_000)
    figure = figures.reliability_figure({"test": (rng.random(20_000) < chance, chance)})
    points = figure.axes[0].containers[0].lines[0].get_xydata()
    assert len(points) == 10
    np.testing.assert_allclose(points[:, 0], points[:, 1], atol=0.04)


def test_the_confusion_matrix_shows_counts_and_row_shares():
    figure = figures.confusion_figure([0, 0, 0, 1], [0.1, 0.2, 0.8, 0.9])
    cells = [text.get_text() for text in figure.axes[0].texts]
    assert cells == ["2\n66.7% of row", "1\n33.3% of row", "0\n0.0% of row", "1\n100.0% of row"]


def test_the_forest_plot_has_one_line_a_model_and_leaves_out_what_has_no_figure():
    table = pd.DataFrame(
        {
            "name": ["multimodal-full-bce", "image-full-bce", "text-full-bce"],
            "modality": ["multimodal", "image", "text"],
            "auroc": [0.92, 0.84, np.nan],
            "auroc_low": [0.9, np.nan, np.nan],
            "auroc_high": [0.94, np.nan, np.nan],
            "n": [500, 500, 500],
            "n_positive": [50, 50, 50],
        }
    )
    figure = figures.comparison_figure(table)
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list(table["name"][:2])
    assert axes.get_title() == "AUROC of 2 models: n = 500, 50 positive"
    assert width_of_png(figure) <= 900
    assert figures.comparison_figure(table[:1]).axes[0].get_title().startswith("AUROC of 1 model:")
    figures.comparison_figure(table.iloc[2:]).canvas.draw()


def test_drawing_touches_no_global_state(curves):
    for draw in (figures.roc_figure, figures.reliability_figure):
        draw({name: (y, 1 / (1 + np.exp(-s))) for name, (y, s) in curves.items()})
    if "matplotlib.pyplot" in sys.modules:
        assert not sys.modules["matplotlib.pyplot"].get_fignums()
