import numpy as np
import pandas as pd
import pytest

from cxr_ray.report.calibration_section import calibration_section, calibration_sentence
from cxr_ray.report.trial_folder import write_predictions
from cxr_ray.storage import Storage


def row(name="image", test_set="full", seed=0, **changed):
    found = {
        "experiment_id": name,
        "name": name,
        "test_set": test_set,
        "seed": seed,
        "status": "done",
        "n": 200,
        "n_positive": 20,
        "threshold_at_val": 0.3,
        "threshold_at_youden": 0.2,
        "calibration_slope": 1.25,
        "ece": 0.2,
        "ece_recalibrated": 0.05,
        "recalibration": "logistic",
        "recalibration_slope": 1.0,
        "recalibration_intercept": 0.0,
    }
    return found | changed


def curve(prevalence, name="image"):
    at = np.linspace(0.1, 0.5, 5)
    columns = {"threshold": at, "prevalence": prevalence, "net_benefit": 0.05 - 0.1 * at}
    columns |= {"treat_all": prevalence - (1 - prevalence) * at / (1 - at)}
    return pd.DataFrame({"experiment_id": name, "test_set": "full", **columns})


def lines(panel):
    return {each.get_label(): each.get_ydata() for each in panel.get_lines()}


def test_the_decision_curves_are_those_of_the_table_beside_both_references(tmp_path):
    rows = [row("image"), row("image", "own"), row("text"), row("text", "own")]
    found = pd.concat([curve(0.1), curve(0.1, "text").assign(net_benefit=0.02)])
    section = calibration_section(Storage(tmp_path), rows, found)
    panels = section["decision"].axes
    assert [panel.get_title() for panel in panels] == ["image", "text"]
    drawn = lines(panels[0])
    np.testing.assert_allclose(drawn["by the model"], curve(0.1)["net_benefit"])
    np.testing.assert_allclose(drawn["treat all"], curve(0.1)["treat_all"])
    assert set(drawn["treat none"]) == {0}
    np.testing.assert_allclose(lines(panels[1])["by the model"], 0.02)
    assert section["reliability"] is None  # no predictions in this storage


@pytest.mark.parametrize(("prevalence", "declared"), [(0.1, False), (0.02, True)])
def test_a_prevalence_that_is_not_the_test_sets_own_is_called_declared(
    tmp_path, prevalence, declared
):
    section = calibration_section(
        Storage(tmp_path), [row(), row("image", "own")], curve(prevalence)
    )
    assert section["declared"] is declared
    assert section["prevalences"] == [f"{prevalence:.4f}".lstrip("0")]


def test_two_test_sets_with_a_share_of_their_own_are_not_called_declared(tmp_path):
    rows = [row("a"), row("b", n_positive=60), row("a", "own"), row("b", "own")]
    found = pd.concat([curve(0.1, "a"), curve(0.3, "b")])
    assert calibration_section(Storage(tmp_path), rows, found)["declared"] is False
    swapped = pd.concat([curve(0.1, "b"), curve(0.3, "a")])
    assert calibration_section(Storage(tmp_path), rows, swapped)["declared"] is True


def test_a_model_that_nothing_recalibrates_is_drawn_as_it_is(tmp_path):
    storage = Storage(tmp_path)
    folder = storage.trials / "image"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    names = np.array([f"r{place}" for place in range(20)])
    write_predictions(
        folder,
        record_id=names,
        group=names,
        part=np.repeat(["test"], 20),
        in_own=np.ones(20, bool),
        label=np.tile([0, 1], 10).astype(np.int8),
        logit=np.linspace(-2, 2, 20),
    )
    none = {"recalibration": "none: a threshold separates the classes"}
    none |= dict.fromkeys(("recalibration_slope", "recalibration_intercept"))
    rows = [row("image", **none), row("image", "own", **none)]
    panel = calibration_section(storage, rows, curve(0.1))["reliability"].axes[0]
    assert panel.get_legend_handles_labels()[1] == ["before recalibration"]


def test_figures_of_the_first_seed_only_are_drawn_and_all_are_listed(tmp_path):
    rows = [row(f"image{seed}", kind, seed) for seed in (0, 1) for kind in ("own", "full")]
    found = pd.concat([curve(0.1, f"image{seed}") for seed in (0, 1)])
    section = calibration_section(Storage(tmp_path), rows, found)
    assert [panel.get_title() for panel in section["decision"].axes] == ["image0"]
    assert section["drawn"] == 1
    assert len(section["own"]) == len(section["full"]) == 2


def test_without_scores_of_calibration_there_is_no_section_and_no_sentence(tmp_path):
    bare = {"test_set": "full", "status": "done", "n": 10}
    assert calibration_section(Storage(tmp_path), [bare], curve(0.1)) is None
    assert calibration_sentence(pd.DataFrame([bare])) is None
    empty = dict.fromkeys(("calibration_slope", "ece"), np.nan)
    assert calibration_sentence(pd.DataFrame([row(**empty)])) is None


def test_one_sentence_says_how_far_the_models_are_calibrated():
    steep = row("text", calibration_slope=0.5, ece=0.1, ece_recalibrated=0.05)
    own = row("text", "own", calibration_slope=9.0)
    assert calibration_sentence(pd.DataFrame([row(), steep, own])) == (
        "Calibration on the full test set: slope .5000 to 1.2500 (1 is right), ECE .1000 to .2000, "
        "after recalibration on validation .0500."
    )
