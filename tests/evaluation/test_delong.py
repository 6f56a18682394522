import numpy as np
import pytest
from scipy.stats import norm

from cxr_ray.evaluation.delong import auroc_covariance, auroc_interval, delong_test
from cxr_ray.evaluation.multiplicity import holm
from cxr_ray.evaluation.ranking import auroc


def slow_covariance(label, scores, groups):
    """DeLong 1988 / Obuchowski 1997 as they are written, pair by pair and patient by patient."""
    hits, others = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    kernel = np.array(
        [
            [[1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0 for j in others] for i in hits]
            for s in scores
        ]
    )
    area = kernel.mean(axis=(1, 2))
    v10, v01 = kernel.mean(axis=2), kernel.mean(axis=1)
    size = len(scores)
    s10, s01, s11 = (np.zeros((size, size)) for _ in range(3))
    patients = np.unique(groups)
    for patient in patients:
        mine, theirs = groups[hits] == patient, groups[others] == patient
        x = v10[:, mine].sum(axis=1) - mine.sum() * area
        y = v01[:, theirs].sum(axis=1) - theirs.sum() * area
        s10 += np.outer(x, x)
        s01 += np.outer(y, y)
        s11 += np.outer(x, y)
    n10, n01 = len(np.unique(groups[hits])), len(np.unique(groups[others]))
    s10 *= n10 / ((n10 - 1) * len(hits))
    s01 *= n01 / ((n01 - 1) * len(others))
    s11 *= len(patients) / (len(patients) - 1)
    return area, s10 / len(hits) + s01 / len(others) + (s11 + s11.T) / (len(hits) * len(others))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("clustered", [False, True])
def test_the_fast_form_equals_the_slow_one(ties, clustered):
    rng = np.random.default_rng(0)
    label = (rng.random(120) < 0.3).astype(int)
    scores = rng.normal(size=(3, 120)) + np.array([[0.5], [1.0], [1.5]]) * label
    if ties:
        scores = scores.round()
    groups = rng.integers(0, 40, 120) if clustered else np.arange(120)
    area, covariance = auroc_covariance(label, scores, groups=groups if clustered else None)
    slow_area, slow = slow_covariance(label, scores, groups)
    np.testing.assert_allclose(area, slow_area, atol=1e-10)
    np.testing.assert_allclose(covariance, slow, atol=1e-10)
    np.testing.assert_allclose(area, [auroc(label, row) for row in scores], atol=1e-12)


def test_one_record_a_patient_gives_the_plain_form():
    rng = np.random.default_rng(1)
    label = rng.random(80) < 0.4
    score = rng.normal(size=80) + label
    plain = auroc_interval(label, score)
    clustered = auroc_interval(label, score, groups=rng.permutation(80))
    assert clustered.standard_error == pytest.approx(plain.standard_error, abs=1e-12)


def test_doubled_records_do_not_count_as_more_patients():
    rng = np.random.default_rng(2)
    label = rng.random(100) < 0.4
    score = rng.normal(size=100) + label
    single = auroc_interval(label, score).standard_error
    twice = (np.tile(label, 2), np.tile(score, 2))
    assert auroc_interval(*twice).standard_error < 0.75 * single
    grouped = auroc_interval(*twice, groups=np.tile(np.arange(100), 2))
    assert grouped.standard_error == pytest.approx(single, rel=0.02)


def test_perfect_separation_has_an_interval_that_is_not_a_point():
    label, score = np.repeat([0, 1], 50), np.arange(100)
    best, worst = auroc_interval(label, score), auroc_interval(label, -score)
    assert (best.auroc, best.high, best.method) == (1.0, 1.0, "bound")
    assert 0.9 < best.low < 0.95
    assert worst.low == 0.0 and worst.high == pytest.approx(1 - best.low)


def test_constant_scores_a_lone_positive_and_one_class_have_stated_answers():
    constant = auroc_interval([0, 0, 1, 1], [3, 3, 3, 3])
    assert constant.auroc == 0.5 and constant.low < 0.2 and constant.method == "bound"
    alone = auroc_interval([0, 0, 1], [1, 3, 2])
    assert alone.auroc == 0.5 and np.isnan(alone.standard_error) and alone.high > 0.9
    absent = auroc_interval([1, 1], [1, 2])
    assert np.isnan(absent.auroc) and absent.method == "none"
    assert np.isnan(delong_test([1, 1], [1, 2], [2, 1]).p_value)


def test_scores_that_rank_alike_do_not_differ():
    label, score = [0, 1, 0, 1, 1], np.array([0.1, 0.7, 0.4, 0.3, 0.9])
    test = delong_test(label, score, np.exp(3 * score))
    assert (test.difference, test.p_value, test.low, test.high) == (0.0, 1.0, 0.0, 0.0)


def test_perfect_against_constant_scores_separate_as_far_as_the_number_of_patients_allows():
    for size, separates in ((2, False), (100, True)):
        label = np.repeat([0, 1], size)
        test = delong_test(label, label, np.zeros(2 * size))
        assert test.method == "bound" and np.isfinite(test.z)
        assert (test.p_value < 0.05) == separates


def test_swapping_the_scores_turns_the_difference_round():
    rng = np.random.default_rng(3)
    label = rng.random(200) < 0.3
    one, other = rng.normal(size=(2, 200)) + label
    there, back = delong_test(label, one, other), delong_test(label, other, one)
    assert there.difference == -back.difference and there.low == -back.high
    assert there.p_value == pytest.approx(back.p_value)
    assert (there.p_value < 0.05) == (there.low > 0 or there.high < 0)


def test_p_values_of_equally_good_scores_are_uniform_and_intervals_hold_the_truth():
    rng = np.random.default_rng(4)
    truth = norm.cdf(1 / np.sqrt(2))
    p_values, held = [], []
    for _ in range(400):
        label = rng.random(200) < 0.3
        shared = rng.normal(size=200)
        one, other = label + 0.6 * shared + 0.8 * rng.normal(size=(2, 200))
        p_values.append(delong_test(label, one, other).p_value)
        interval = auroc_interval(label, one)
        held.append(interval.low <= truth <= interval.high)
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09
    assert 0.92 < np.mean(held) < 0.98


@pytest.mark.slow
def test_equally_good_scores_are_called_apart_about_one_time_in_twenty():
    rng = np.random.default_rng(5)
    label = np.arange(500) < 100
    apart = 0
    for _ in range(5_000):
        shared, *own = rng.normal(size=(3, 500)) * np.sqrt(0.5)  # correlated by .5
        one, other = (1.19 * label + shared + noise for noise in own)  # of AUROC .80
        apart += delong_test(label, one, other).p_value <= 0.05
    assert 0.04 <= apart / 5_000 <= 0.065


def test_holm_is_monotone_never_below_the_raw_value_and_keeps_what_could_not_be_tested():
    raw = np.array([0.2, 0.001, np.nan, 0.04, 0.012])
    adjusted = holm(raw)
    assert adjusted[1] == pytest.approx(0.005) and adjusted[4] == pytest.approx(0.048)
    assert np.isnan(adjusted[2])
    tested = ~np.isnan(raw)
    assert (adjusted[tested] >= raw[tested]).all() and (adjusted[tested] <= 1).all()
    assert (np.diff(adjusted[tested][np.argsort(raw[tested])]) >= 0).all()
    assert holm([0.01], family_size=20)[0] == pytest.approx(0.2)
    with pytest.raises(ValueError, match="family of 1"):
        holm([0.1, 0.2], family_size=1)
