import numpy as np
import pytest
from scipy.stats import binomtest

from cxr_ray.evaluation.intervals import (
    metric_intervals,
    wilson_interval,
)
from cxr_ray.evaluation.metrics import score_predictions
from cxr_ray.evaluation.resampling import PatientSampler
from cxr_ray.evaluation.weighted import OF_CALLS


def predictions(seed, size, share=0.3, signal=1.4):
    rng = np.random.default_rng(seed)
    label = rng.random(size) < share
    logit = rng.normal(size=size) + signal * label - 1
    return label, 1 / (1 + np.exp(-logit)), logit


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
    interval = metric_intervals(label, probability, score=logit, rng=rng)["accuracy"]
    share = score_predictions(label, probability)["accuracy"]
    expected = wilson_interval(share * 2_000, 2_000)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.003)
    assert interval.method == "bootstrap_bca"


def test_each_figure_has_its_interval_around_it_and_says_how_it_was_made():
    label, probability, logit = predictions(3, 800)
    rng = np.random.default_rng(4)
    twice = 1 / (1 + np.exp(-2 * logit))
    intervals = metric_intervals(
        label,
        probability,
        score=logit,
        rng=rng,
        n_resamples=300,
        points={"val": 0.4},
        recalibrated=twice,
    )
    figures = score_predictions(label, probability, score=logit)
    at_val = score_predictions(label, 1 / (1 + np.exp(0.4 - logit)), score=logit)
    figures |= {f"{name}_at_val": at_val[name] for name in OF_CALLS}
    after = score_predictions(label, twice)
    figures |= {f"{name}_recalibrated": after[name] for name in ("brier", "ece")}
    assert list(intervals) == list(figures)
    for name, figure in figures.items():
        assert intervals[name].low <= figure <= intervals[name].high, name
    methods = {name: one.method for name, one in intervals.items()}
    assert methods["auroc"] == "delong"
    assert methods["f1"] == methods["f1_at_val"] == "bootstrap_percentile"
    assert methods["recall"] == methods["recall_at_val"] == "bootstrap_stratified"
    assert methods["accuracy_at_val"] == methods["brier_recalibrated"] == "bootstrap_bca"
    assert methods["ece"] == methods["ece_recalibrated"] == "bootstrap_shifted, descriptive"


def test_no_figure_of_few_records_or_events_is_without_a_stated_answer():
    rng = np.random.default_rng(20)
    few = metric_intervals([0, 0, 0, 1, 1], [0.1, 0.2, 0.6, 0.5, 0.9], rng=rng)
    assert few["accuracy"].method == few["recall"].method == "wilson"
    assert few["auroc"].method == "delong, under 20 events"
    for name in ("f1", "brier", "average_precision", "ece"):
        assert np.isnan(few[name].low) and few[name].method == "none: fewer than 10 patients"
    label, probability, _ = predictions(21, 100, share=0.12)
    rare = metric_intervals(label, probability, rng=rng, n_resamples=100)
    assert rare["brier"].method == "bootstrap_percentile, under 20 events"
    perfect = metric_intervals(np.repeat([0, 1], 50), np.repeat([0.1, 0.9], 50), rng=rng)
    assert perfect["accuracy"].method == "wilson" and perfect["auroc"].method == "bound"
    for name in ("f1", "average_precision", "balanced_accuracy"):
        assert np.isnan(perfect[name].low)
        assert perfect[name].method == "none: no resample gives another figure"


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
    assert repeated["recall"].method == "none: no resample gives another figure"
    assert repeated["auroc"].method == "bound, under 20 events"


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
        interval = metric_intervals(*arrays, rng=rng, n_resamples=800, **more)["f1"]
        return interval.high - interval.low

    single = width(label, probability)
    assert width(*twice) < 0.8 * single
    assert width(*twice, groups=np.tile(np.arange(300), 2)) == pytest.approx(single, rel=0.1)


def test_one_class_only_has_no_interval_and_a_reason():
    rng = np.random.default_rng(0)
    intervals = metric_intervals([1, 1], [0.2, 0.3], rng=rng)
    assert all(np.isnan(one.low) and "one class" in one.method for one in intervals.values())
    with pytest.raises(ValueError, match="one class only"):
        PatientSampler.of(np.array([True, True]), None)


def test_rare_positives_never_vanish_from_a_resample():
    label = np.array([1] + [0] * 30)
    rng = np.random.default_rng(10)
    weights = PatientSampler.of(label == 1, None).draw_weights(rng, 300)
    assert (weights[:, 0] > 0).all() and (weights[:, 1:].sum(axis=1) > 0).all()


def calibrated_binormal(rng, size, positives=None):
    """Labels, probabilities and logits of a calibrated model of AUROC .80, a fifth positive."""
    label = rng.random(size) < 0.2 if positives is None else np.arange(size) < positives
    logit = 1.19 * (rng.normal(size=size) + 1.19 * label) - 1.19**2 / 2 + np.log(0.25)
    return label, 1 / (1 + np.exp(-logit)), logit


@pytest.mark.slow
@pytest.mark.parametrize("fixed_ratio", [False, True])
def test_intervals_hold_the_truth_as_often_as_they_say(fixed_ratio):
    names = ("accuracy", "brier", "average_precision", "recall", "f1", "mcc")
    label, probability, logit = calibrated_binormal(np.random.default_rng(13), 2_000_000, 400_000)
    truth = score_predictions(label, probability, score=logit)
    assert truth["auroc"] == pytest.approx(0.8, abs=0.001)
    runs, positives = 800, 100 if fixed_ratio else None
    held = dict.fromkeys(("auroc", *names), 0)
    methods = set()
    for run in range(runs):
        rng = np.random.default_rng([run, 14])
        label, probability, logit = calibrated_binormal(rng, 500, positives)
        intervals = metric_intervals(
            label, probability, score=logit, rng=rng, n_resamples=200, fixed_ratio=fixed_ratio
        )
        methods |= {intervals["accuracy"].method, intervals["brier"].method}
        for name in held:
            held[name] += intervals[name].low <= truth[name] <= intervals[name].high
    assert methods == {"bootstrap_stratified" if fixed_ratio else "bootstrap_bca"}
    assert 0.93 <= held["auroc"] / runs <= 0.97, held
    assert all(0.92 <= held[name] / runs <= 0.97 for name in names), held
