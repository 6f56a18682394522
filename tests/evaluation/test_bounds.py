import numpy as np
import pytest
from scipy.stats import bootstrap

from cxr_ray.evaluation.bounds import bca_interval, percentile_interval, shifted_interval
from cxr_ray.evaluation.intervals import metric_intervals
from cxr_ray.evaluation.resampling import PatientSampler


def test_bca_is_scipys():
    rng = np.random.default_rng(0)
    squares = rng.exponential(size=60)  # skewed, so that the correction moves the bounds
    expected = bootstrap((squares,), np.mean, n_resamples=20_000, method="BCa", rng=rng)
    draws = squares[rng.integers(0, 60, (20_000, 60))].mean(axis=1)
    without = (squares.sum() - squares) / 59
    found = bca_interval(draws, squares.mean(), without)
    plain = percentile_interval(draws)
    assert found.method == "bootstrap_bca"
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.01)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.02)
    assert found.high > plain.high + 0.03


def test_a_brier_score_has_scipys_bca_interval():
    rng = np.random.default_rng(1)
    label = rng.random(150) < 0.3
    probability = np.clip(0.35 * label + 0.65 * rng.random(150), 0, 1)
    squares = (probability - label) ** 2
    expected = bootstrap((squares,), np.mean, n_resamples=20_000, method="BCa", rng=rng)
    found = metric_intervals(label, probability, rng=rng, n_resamples=20_000)["brier"]
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.001)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.001)


def test_blocks_of_patients_give_the_acceleration_of_single_ones():
    rng = np.random.default_rng(2)
    squares = rng.exponential(size=10_000)
    label = np.arange(10_000) < 1_000
    blocks = PatientSampler.of(label).leave_blocks_out(rng)
    assert blocks.shape == (200, 10_000)
    assert ((blocks == 0).sum(axis=0) == 1).all()
    draws = rng.normal(squares.mean(), squares.std() / 100, 4_000)
    by_blocks = bca_interval(draws, squares.mean(), blocks @ squares / blocks.sum(axis=1))
    one_by_one = bca_interval(draws, squares.mean(), (squares.sum() - squares) / 9_999)
    width = one_by_one.high - one_by_one.low
    assert by_blocks.low == pytest.approx(one_by_one.low, abs=0.01 * width)
    assert by_blocks.high == pytest.approx(one_by_one.high, abs=0.01 * width)


def test_a_patient_is_left_out_with_all_records():
    label = np.tile([0, 1, 1], 4)
    groups = np.repeat([7, 3, 5, 9], 3)
    weights = PatientSampler.of(label, groups).leave_blocks_out(np.random.default_rng(3))
    assert weights.shape == (4, 12)
    for row in weights:
        assert len(set(groups[row == 0])) == 1 and (row == 0).sum() == 3


def test_a_figure_outside_all_resamples_falls_back_to_percentiles():
    draws = np.linspace(0.1, 0.2, 50)
    assert bca_interval(draws, 0.3, [0.1, 0.2]).method == "bootstrap_percentile"


def test_equal_resamples_have_no_interval_and_say_so():
    for found in (
        percentile_interval(np.full(9, 1.0)),
        bca_interval(np.full(9, 1.0), 1.0, [1.0, 1.0]),
        shifted_interval(np.full(9, 1.0), 1.0),
    ):
        assert np.isnan(found.low) and found.method == "none: no resample gives another figure"


def test_the_shifted_interval_lies_around_a_figure_that_resamples_overstate():
    draws = np.random.default_rng(4).normal(0.08, 0.01, 2_000)
    found = shifted_interval(draws, 0.05)
    assert found.low < 0.05 < found.high < 0.08
    assert shifted_interval(draws, 0.001).low == 0.0
