import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.errors import InputError
from cxr_ray.evaluation.confusion import confusion_rows
from cxr_ray.evaluation.resampling import PatientSampler
from cxr_ray.evaluation.thresholds import (
    candidate_thresholds,
    f1_operating_point,
    specificity_operating_point,
    threshold_intervals,
    youden_operating_point,
)

cases = st.lists(st.tuples(st.integers(0, 1), st.integers(-4, 4)), min_size=2, max_size=30).map(
    lambda pairs: ([0, 1, *[y for y, _ in pairs]], [0.0, 0.0, *[float(s) for _, s in pairs]])
)


@settings(max_examples=60)
@given(cases)
def test_no_other_threshold_does_better(case):
    label, score = case
    every = np.arange(-5, 6, 0.25)
    rows = [confusion_rows(label, [score], threshold) for threshold in every]
    best_f1 = max(row.f1[0] for row in rows)
    best_youden = max(row.balanced_accuracy[0] for row in rows)
    at_f1 = confusion_rows(label, [score], f1_operating_point(label, score).threshold)
    at_youden = confusion_rows(label, [score], youden_operating_point(label, score).threshold)
    assert at_f1.f1[0] == pytest.approx(best_f1)
    assert at_youden.balanced_accuracy[0] == pytest.approx(best_youden)


@settings(max_examples=60)
@given(cases)
def test_the_threshold_for_95_percent_specificity_keeps_it_and_reports_what_it_does(case):
    label, score = case
    point = specificity_operating_point(label, score)
    counts = confusion_rows(label, [score], point.threshold)
    assert counts.specificity[0] >= 0.95
    assert (counts.recall[0], counts.f1[0]) == pytest.approx((point.sensitivity, point.f1))


def test_of_equal_thresholds_the_highest_is_chosen():
    # calling one or both lower records positive changes Youden's index by nothing
    assert youden_operating_point([0, 1, 0, 1], [0.0, 1.0, 2.0, 3.0]).threshold == 2.5


def test_neighbouring_floats_are_still_told_apart():
    low = 1.0
    high = np.nextafter(low, 2.0)
    point = f1_operating_point([0, 1], [low, high])
    assert (point.sensitivity, point.specificity) == (1.0, 1.0)
    assert confusion_rows([0, 1], [[low, high]], point.threshold).accuracy[0] == 1.0
    assert len(candidate_thresholds([low, high])) == 3


def test_a_part_with_one_class_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="one class only"):
        f1_operating_point([1, 1], [0.2, 0.3])


@pytest.mark.parametrize("digits", [None, 0])
def test_each_resample_chooses_the_best_of_the_samples_candidates(digits):
    rng = np.random.default_rng(0)
    label = np.arange(60) < 15
    score = rng.normal(size=60) + 1.5 * label
    score = score if digits is None else score.round(digits)
    found = threshold_intervals(label, score, rng=np.random.default_rng(1), n_resamples=200)
    weights = PatientSampler.of(label).draw_weights(np.random.default_rng(1), 200).astype(int)
    candidates = candidate_thresholds(score)
    slow = {"f1": [], "youden": [], "specificity": []}
    for times in weights:
        y, s = np.repeat(label, times), np.repeat(score, times)
        rows = [confusion_rows(y, [s], cut) for cut in candidates]
        kept = [row.recall[0] if row.specificity[0] >= 0.95 else -1 for row in rows]
        for rule, values in (
            ("f1", [row.f1[0] for row in rows]),
            ("youden", [row.balanced_accuracy[0] for row in rows]),
            ("specificity", kept),
        ):
            slow[rule].append(candidates[int(np.argmax(values))])
    for rule, chosen in slow.items():
        low, high = np.quantile(chosen, [0.025, 0.975])
        assert (found[rule].low, found[rule].high) == (low, high)
        assert found[rule].method == "bootstrap_percentile, descriptive"
