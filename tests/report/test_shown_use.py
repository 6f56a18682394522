import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cxr_ray.report.page import _name_metric, _shuffles
from cxr_ray.report.shown_use import describe_use


def rows(name, repeats=499, **tests):
    return [
        {
            "name": name,
            "perturbation": f"{modality}_{how}",
            "metric": metric,
            "repeats": repeats,
            "drop": drop,
            "p_value": p_value,
        }
        for modality, (drop, p_value) in tests.items()
        for how in ("shuffled", "shuffled_within_class", "missing")
        for metric in ("f1", "auroc")
    ]


def said(name, **tests):
    (one,) = describe_use(rows(name, **tests))
    assert one.name == name
    shown, silent = (tuple(each.modality for each in side) for side in (one.shown, one.silent))
    return shown, silent, one.caveat


def test_use_is_shown_by_a_small_p_and_a_drop_of_two_hundredths_together():
    big, small, likely = (0.2, 0.002), (0.019, 0.0005), (0.3, 0.01)
    shown, silent, caveat = said("a", image=small, text=big)
    assert (shown, silent) == (("text",), ("image",))
    assert "does not mean that the image tells nothing" in caveat
    assert said("b", image=likely, text=likely)[:2] == ((), ("image", "text"))
    assert said("c", image=big, text=big)[:2] == (("image", "text"), ())


def test_too_few_permutations_are_said_to_be_too_few():
    assert "99 permutations are too few" in said("a", repeats=99, image=(0.3, 0.01), text=(0, 1))[2]
    assert "too few" not in said("a", repeats=499, image=(0.3, 0.002), text=(0, 1))[2]


def test_every_model_has_one_entry_in_the_tables_order():
    table = rows("b", image=(0, 1), text=(0, 1)) + rows("a", image=(0, 1), text=(0, 1))
    assert [one.name for one in describe_use(table)] == ["b", "a"]


def test_the_drawing_of_the_drops_keeps_its_legend_off_the_intervals():
    table = pd.DataFrame(rows("a", image=(0.14, 0.0005), text=(0.22, 0.0005)))
    table = table.assign(experiment_id="a", low=table["drop"] - 0.05, high=table["drop"] + 0.05)
    figure = _shuffles(table, {"a": "a"})
    FigureCanvasAgg(figure).draw()
    (legend,), (axes,) = figure.legends, figure.axes
    assert [text.get_text() for text in legend.get_texts()] == ["image shuffled", "text shuffled"]
    assert axes.get_legend() is None
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())


def test_the_page_names_a_metric_alike_at_any_threshold():
    assert _name_metric("f1") == "F1"
    assert _name_metric("f1_at_val") == "F1 at val"
    assert _name_metric("average_precision") == "average precision"
    assert _name_metric("sensitivity_at_95_specificity") == "sensitivity at 95 specificity"
