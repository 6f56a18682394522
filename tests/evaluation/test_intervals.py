import time

import numpy as np
import pytest
from scipy.stats import binomtest

from cxr_ray.evaluation.intervals import (
    BOOTSTRAPPED,
    bootstrap_figures,
    bootstrap_metrics,
    metric_intervals,
    weighted_figures,
    wilson_interval,
)
from cxr_ray.evaluation.metrics import METRICS, score_predictions


def predictions(seed, size, share=0.3, signal=1.4):
    rng = np.random.default_rng(seed)
    label = rng.random(size) < share
    logit = rng.normal(size=size) + signal * label - 1
    return label, 1 / (1 + np.exp(-logit)), logit


def test_weights_give_what_repeated_records_give_ties_included():
    rng = np.random.default_rng(0)
    label = rng.random(60) < 0.4
    logit = rng.integers(-3, 4, 60).astype(float)
    probability = 1 / (1 + np.exp(-logit))
    weights = rng.integers(0, 4, (20, 60)).astype(float)
    figures = weighted_figures(weights, label, probability, logit, 0.5)
    for row, times in enumerate(weights.astype(int)):
        index = np.repeat(np.arange(60), times)
        expected = score_predictions(label[index], probability[index], score=logit[index])
        for name in BOOTSTRAPPED:
            assert figures[name][row] == pytest.approx(expected[name], abs=1e-12), name


@pytest.mark.parametrize(("successes", "total"), [(0, 20), (3, 20), (20, 20), (4791, 4823)])
def test_wilson_equals_scipy(successes, total):
    expected = binomtest(successes, total).proportion_ci(method="wilson")
    interval = wilson_interval(successes, total)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert interval.low <= successes / total <= interval.high
    assert np.isnan(wilson_interval(0, 0).low)


def test_the_bootstrap_agrees_with_the_binomial_error_of_an_accuracy():
    label, probability, logit = predictions(1, 2_000)
    rng = np.random.default_rng(2)
    interval = bootstrap_metrics(label, probability, score=logit, rng=rng)["accuracy"]
    share = score_predictions(label, probability)["accuracy"]
    expected = wilson_interval(share * 2_000, 2_000)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.003)
    assert interval.method == "bootstrap"


def test_each_metric_has_its_interval_around_its_figure_and_ece_says_why_it_has_none():
    label, probability, logit = predictions(3, 800)
    rng = np.random.default_rng(4)
    intervals = metric_intervals(label, probability, score=logit, rng=rng, n_resamples=300)
    figures = score_predictions(label, probability, score=logit)
    assert tuple(intervals) == METRICS
    for name in BOOTSTRAPPED:
        assert intervals[name].low <= figures[name] <= intervals[name].high, name
    assert intervals["auroc"].method == "delong"
    assert intervals["f1"].method == "bootstrap"
    assert intervals["recall"].method == "bootstrap_stratified"
    assert np.isnan(intervals["ece"].low) and "biased" in intervals["ece"].method


def test_proportions_with_few_events_have_wilson_intervals_unless_patients_repeat():
    label = np.repeat([0, 1], [300, 12])
    probability = np.where(label == 1, 0.9, 0.1)
    rng = np.random.default_rng(5)
    single = metric_intervals(label, probability, rng=rng, n_resamples=100)
    assert single["recall"].method == single["accuracy"].method == "wilson"
    assert single["recall"].high == 1.0 and single["recall"].low < 0.8
    repeated = metric_intervals(
        label, probability, rng=rng, n_resamples=100, groups=np.arange(312) // 2
    )
    assert repeated["recall"].method == "bootstrap_stratified"
    assert repeated["auroc"].method == "bound"


def test_a_fixed_class_ratio_makes_every_bootstrap_stratified():
    label, probability, _ = predictions(6, 600)
    rng = np.random.default_rng(7)
    intervals = metric_intervals(label, probability, rng=rng, n_resamples=100, fixed_ratio=True)
    assert intervals["f1"].method == intervals["brier"].method == "bootstrap_stratified"


def test_repeated_records_of_a_patient_do_not_narrow_the_interval():
    label, probability, _ = predictions(8, 300)
    twice = (np.tile(label, 2), np.tile(probability, 2))

    def width(*arrays, **more):
        rng = np.random.default_rng(9)
        interval = bootstrap_metrics(*arrays, rng=rng, n_resamples=800, **more)["f1"]
        return interval.high - interval.low

    single = width(label, probability)
    assert width(*twice) < 0.8 * single
    assert width(*twice, groups=np.tile(np.arange(300), 2)) == pytest.approx(single, rel=0.1)


def test_one_class_only_has_no_interval_and_a_reason():
    rng = np.random.default_rng(0)
    intervals = metric_intervals([1, 1], [0.2, 0.3], rng=rng)
    assert all(np.isnan(one.low) and "one class" in one.method for one in intervals.values())
    with pytest.raises(ValueError, match="one class only"):
        bootstrap_metrics([1, 1], [0.2, 0.3], rng=rng)


def test_rare_positives_never_vanish_from_a_resample():
    label = np.array([1] + [0] * 30)
    rng = np.random.default_rng(10)
    figures = bootstrap_figures(label, np.linspace(1, 0, 31), rng=rng, n_resamples=300)
    assert not any(np.isnan(values).any() for values in figures.values())


def test_two_thousand_resamples_of_five_thousand_records_take_seconds():
    label, probability, logit = predictions(11, 5_000, share=0.1)
    start = time.process_time()
    bootstrap_metrics(label, probability, score=logit, rng=np.random.default_rng(12))
    assert time.process_time() - start < 8


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    names = ("accuracy", "f1", "average_precision", "auroc", "mcc", "brier", "recall")
    truth = score_predictions(*predictions(13, 1_000_000)[:2])
    held = dict.fromkeys(names, 0)
    for seed in range(400):
        label, probability, logit = predictions(100 + seed, 400)
        rng = np.random.default_rng(seed)
        intervals = metric_intervals(label, probability, score=logit, rng=rng, n_resamples=400)
        for name in names:
            held[name] += intervals[name].low <= truth[name] <= intervals[name].high
    assert all(0.92 <= count / 400 <= 0.98 for count in held.values()), held
