import numpy as np
from scipy.special import expit

from cxr_ray.evaluation.calibration_figures import reliability_panels, reliability_points


def test_points_are_means_of_bins_of_equal_mass_and_ties_share_one():
    rng = np.random.default_rng(0)
    chance = rng.random(1_000)
    label = rng.random(1_000) < chance
    x, y, low, high = reliability_points(label, chance)
    assert len(x) == 10
    ranked = np.sort(chance).reshape(10, 100)
    np.testing.assert_allclose(x, ranked.mean(axis=1))
    assert ((low < y) & (y < high)).all()
    assert ((low < x) & (x < high)).sum() >= 8
    assert reliability_points([0, 1, 1], [0.4, 0.4, 0.4]).shape == (4, 1)


def test_each_model_has_a_panel_and_one_without_recalibration_one_curve():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=300)
    label = rng.random(300) < expit(logits)
    curves = {
        "both": (label, expit(2 * logits), expit(logits)),
        "before only": (label, expit(2 * logits), None),
    }
    panels = reliability_panels(curves).axes
    assert [panel.get_title() for panel in panels] == list(curves)
    assert [len(panel.containers) for panel in panels] == [2, 1]
