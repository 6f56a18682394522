import numpy as np
import pytest
from scipy.stats import chi2_contingency, norm

from cxr_ray.evaluation.multiplicity import holm
from cxr_ray.evaluation.subgroups import FEWEST, METRICS, subgroup_figures
from cxr_ray.evaluation.unpaired import (
    independent_auroc_gap,
    independent_proportion_gap,
    proportion_interval,
)


def counted(hits, total):
    return np.arange(total) < hits


def slow_auroc_variance(label, score):
    """DeLong's components from all pairs."""
    hits, others = score[label == 1], score[label == 0]
    wins = (hits[:, None] > others) + 0.5 * (hits[:, None] == others)
    variance = wins.mean(1).var(ddof=1) / len(hits) + wins.mean(0).var(ddof=1) / len(others)
    return wins.mean(), variance


def drawn(rng, size, signals, positive=0.3, threshold=0.7):
    """Records of as many subgroups as signals, each with an AUROC of its own."""
    level = np.arange(size) % len(signals)
    label = (rng.random(size) < positive).astype(int)
    score = np.asarray(signals)[level] * label + rng.normal(size=size)
    names = np.array([f"group {place}" for place in range(len(signals))])[level]
    return subgroup_figures(label, score, names, threshold=threshold)


@pytest.mark.parametrize(
    ("first", "other", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_the_interval_of_two_proportions_is_newcombes(first, other, low, high):
    # Newcombe 1998, Statist. Med. 17:873, table II, method 10
    gap = independent_proportion_gap(counted(*first), counted(*other))
    assert (gap.low, gap.high) == pytest.approx((low, high), abs=5.1e-5)


def test_the_test_of_two_proportions_is_pearsons():
    for first, other in (((56, 70), (48, 80)), ((9, 10), (3, 10)), ((12, 40), (30, 55))):
        table = [(hits, total - hits) for hits, total in (first, other)]
        expected = chi2_contingency(table, correction=False).pvalue
        found = independent_proportion_gap(counted(*first), counted(*other)).p_value
        assert found == pytest.approx(expected, abs=1e-12)
    assert independent_proportion_gap(counted(10, 10), counted(20, 20)).p_value == 1


def test_the_test_of_two_aurocs_has_the_variance_of_all_pairs():
    rng = np.random.default_rng(3)
    sets = []
    for size, signal in ((80, 1.0), (150, 0.4)):
        label = (rng.random(size) < 0.3).astype(int)
        # rounded, so that scores are tied
        sets += [label, np.round(signal * label + rng.normal(size=size), 1)]
    (first, one), (other, two) = slow_auroc_variance(*sets[:2]), slow_auroc_variance(*sets[2:])
    gap = independent_auroc_gap(*sets)
    error = np.sqrt(one + two)
    assert gap.difference == pytest.approx(first - other, abs=1e-12)
    assert gap.p_value == pytest.approx(2 * norm.sf(abs(first - other) / error), abs=1e-12)
    assert gap.high - gap.low == pytest.approx(2 * norm.ppf(0.975) * error, abs=1e-12)


def test_perfect_separation_has_an_interval_of_some_width():
    label = np.repeat([0, 1], 10)
    gap = independent_auroc_gap(label, label, label, label)
    assert gap.difference == 0
    assert gap.low < -0.1 < 0.1 < gap.high
    assert gap.method == "bound_unpaired"


def test_records_repeated_within_patients_add_nothing_to_a_proportion():
    hit = counted(12, 40)
    patients = np.arange(40)
    once = proportion_interval(hit)
    again = proportion_interval(np.repeat(hit, 5), groups=np.repeat(patients, 5))
    # the ratio estimator counts one patient less
    assert (again.low, again.high) == pytest.approx((once.low, once.high), abs=0.005)
    assert again.method == "wilson_clustered"
    gap = independent_proportion_gap(
        np.repeat(hit, 5), hit, groups=np.repeat(patients, 5), other_groups=patients
    )
    assert gap.low == pytest.approx(independent_proportion_gap(hit, hit).low, abs=0.005)
    all_hit = proportion_interval(np.ones(200), groups=np.repeat(patients, 5))
    assert all_hit.low == pytest.approx(proportion_interval(np.ones(40)).low)


def test_a_planted_gap_is_found_against_the_largest_subgroup():
    figures = drawn(np.random.default_rng(0), 3001, [2.0, 2.0, 0.3])
    assert [each.level for each in figures[::3]] == ["group 0", "group 1", "group 2"]
    assert {each.reference for each in figures} == {"group 0"}
    gaps = {(each.level, each.metric): each.gap for each in figures}
    for metric in ("auroc", "sensitivity"):
        assert gaps["group 2", metric].high < 0
        assert gaps["group 2", metric].p_value < 1e-6
    assert gaps["group 1", "auroc"].p_value > 0.01
    assert np.isnan(gaps["group 0", "auroc"].difference)


def test_without_a_gap_there_are_few_false_alarms():
    alarms = 0
    for seed in range(20):
        figures = drawn(np.random.default_rng(seed), 1500, [1.4, 1.4, 1.4])
        compared = [each.gap.p_value for each in figures if not np.isnan(each.gap.p_value)]
        assert len(compared) == 2 * len(METRICS)
        alarms += min(holm(compared)) <= 0.05
    assert alarms <= 3


def test_each_test_has_its_size_and_each_interval_its_coverage():
    rng = np.random.default_rng(11)
    p_values, covered = [], []
    for _ in range(600):
        figures = drawn(rng, 600, [1.2, 1.2])
        gaps = [each.gap for each in figures if not np.isnan(each.gap.p_value)]
        p_values.append([gap.p_value for gap in gaps])
        covered.append([gap.low <= 0 <= gap.high for gap in gaps])
    size, coverage = (np.array(p_values) < 0.05).mean(0), np.mean(covered, axis=0)
    assert size.shape == (len(METRICS),)
    assert ((0.025 < size) & (size < 0.075)).all()
    assert ((0.925 < coverage) & (coverage < 0.975)).all()


def test_few_patients_of_a_class_are_flagged_and_not_compared():
    label = np.repeat([1, 0, 1, 0], [30, 100, FEWEST - 1, 100])
    level = np.repeat(["many", "few"], [130, 100 + FEWEST - 1])
    score = np.random.default_rng(0).normal(size=len(label)) + label
    few = subgroup_figures(label, score, level, threshold=0.5)[:3]
    assert {each.level for each in few} == {"few"}
    assert all(each.too_few and np.isnan(each.gap.p_value) for each in few)
    assert {(each.with_positives, each.with_negatives) for each in few} == {(FEWEST - 1, 100)}


def test_patients_count_for_enough_and_not_their_records():
    label = np.tile(np.repeat([1, 0], 30), 2)
    level = np.repeat(["a", "b"], 60)
    score = np.random.default_rng(0).normal(size=120) + label
    patients = np.concatenate([np.arange(60), 100 + np.arange(60) // 10])
    figures = subgroup_figures(label, score, level, threshold=0.5, groups=patients)
    assert [each.too_few for each in figures] == [False] * 3 + [True] * 3
    assert (figures[3].with_positives, figures[3].with_negatives) == (3, 3)


def test_the_unknown_are_scored_and_never_compared():
    label = np.tile([0, 1], 150)
    level = np.repeat(["unknown", "a", "b"], [200, 60, 40])
    score = np.random.default_rng(0).normal(size=300) + label
    figures = subgroup_figures(label, score, level, threshold=0.5)
    assert [each.level for each in figures[::3]] == ["a", "b", "unknown"]
    assert {each.reference for each in figures} == {"a"}
    assert figures[-1].value == pytest.approx(np.mean(score[:200][label[:200] == 0] < 0.5))
    assert np.isnan(figures[-1].gap.p_value)


def test_bands_follow_their_numbers_and_the_unknown_comes_last():
    names = ["unknown", ">=60", "10-59", "5-9", "<5"]
    label = np.tile([0, 1], 5 * 20)
    score = np.random.default_rng(0).normal(size=200)
    figures = subgroup_figures(label, score, np.repeat(names, 40), threshold=0.0)
    assert [each.level for each in figures[::3]] == names[::-1]


def test_a_subgroup_of_one_class_has_no_auroc():
    label = np.array([0, 1] * 20 + [0] * 20)
    level = np.repeat(["a", "b"], [40, 20])
    score = np.arange(60.0)
    figures = {
        (each.level, each.metric): each
        for each in subgroup_figures(label, score, level, threshold=30.0)
    }
    assert np.isnan(figures["b", "auroc"].value)
    assert np.isnan(figures["b", "sensitivity"].value)
    assert figures["b", "specificity"].value == 0
