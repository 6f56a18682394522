import numpy as np
import pytest

from cxr_ray.evaluation.delong import auroc_covariance
from cxr_ray.evaluation.power import hanley_mcneil_error, smallest_difference


@pytest.mark.parametrize(
    ("positives", "negatives", "alone", "after_holm"),
    [(432, 4391, 0.037, 0.050), (20, 180, 0.17, 0.24)],
)
def test_known_test_sets_show_the_differences_that_were_worked_out_for_them(
    positives, negatives, alone, after_holm
):
    step = 10.0 ** -len(str(alone).partition(".")[2]) / 2
    sizes = positives, negatives
    assert abs(smallest_difference(0.8, *sizes) - alone) <= step
    assert abs(smallest_difference(0.8, *sizes, comparisons=20) - after_holm) <= step * 1.01


def test_the_error_is_that_of_scores_with_negative_exponential_distribution():
    """For exponentials of means 1 and m the area is m / (1 + m)."""
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], [180, 20])
    drawn = rng.exponential(size=(4_000, 200)) * np.where(label, 4.0, 1.0)
    areas, _ = auroc_covariance(label, drawn)
    assert areas.std() == pytest.approx(hanley_mcneil_error(0.8, 20, 180), rel=0.04)


def test_a_larger_test_set_shows_less_and_a_larger_family_needs_more():
    assert smallest_difference(0.8, 40, 360) < smallest_difference(0.8, 20, 180)
    alone, family = (smallest_difference(0.9, 40, 360, comparisons=n) for n in (1, 20))
    assert alone < family


def test_an_empty_class_an_empty_family_and_an_area_out_of_range_are_refused():
    with pytest.raises(ValueError, match="each class needs one"):
        smallest_difference(0.8, 0, 10)
    with pytest.raises(ValueError, match="has no smallest difference"):
        smallest_difference(0.8, 10, 10, comparisons=0)
    with pytest.raises(ValueError, match="not between 0 and 1"):
        hanley_mcneil_error(1.2, 10, 10)
