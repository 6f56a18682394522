import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import make_moons
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.svm import SVC

from cxr_ray.evaluation.folds import (
    Folds,
    corrected_resampled_test,
    fold_figures,
    fold_intervals,
)
from cxr_ray.evaluation.intervals import ScoredSample
from cxr_ray.evaluation.ranking import auroc
from cxr_ray.evaluation.sensitivity import permutation_test


def drawn(records=120, repeats=2, folds=3, seed=0, shift=5.0):
    """Scores whose scale differs between fits, so that ranking them together would fail."""
    rng = np.random.default_rng(seed)
    label = (rng.random(records) < 0.3).astype(int)
    own = rng.normal(size=records) + 1.5 * label
    entries = {"label": [], "score": [], "patient": [], "fit": []}
    for fit in range(repeats * folds):
        if fit % folds == 0:
            fold = rng.permutation(records) % folds
        rows = np.flatnonzero(fold == fit % folds)
        entries["label"].append(label[rows])
        entries["score"].append(own[rows] + shift * fit)
        entries["patient"].append(rows)
        entries["fit"].append(np.full(len(rows), fit))
    columns = {name: np.concatenate(parts) for name, parts in entries.items()}
    fits = Folds(columns["fit"], np.repeat(np.arange(repeats), folds))
    return columns["label"], columns["score"], columns["patient"], fits


def samples_of(label, score, folds):
    """What each fit says of its own fold."""
    return [
        ScoredSample.of(label[own], 1 / (1 + np.exp(-score[own] / 10)), score[own], 0.5)
        for own in folds.places
    ]


def test_each_fold_is_ranked_by_itself_and_the_figures_are_averaged():
    label, score, _, folds = drawn()
    found = fold_figures(samples_of(label, score, folds), folds)
    parts = [(label[folds.fit == fit], score[folds.fit == fit]) for fit in range(6)]
    assert found["auroc"][0] == pytest.approx(np.mean([roc_auc_score(*part) for part in parts]))
    precisions = [average_precision_score(*part) for part in parts]
    assert found["average_precision"][0] == pytest.approx(np.mean(precisions))
    # scales that differ by fit hide the signal where all are ranked together
    assert roc_auc_score(label, score) < found["auroc"][0] - 0.15


def test_a_fold_without_one_of_the_classes_has_no_part_in_the_mean():
    folds = Folds(np.array([0, 0, 0, 1, 1]), np.array([0, 0]))
    label, score = np.array([1, 0, 0, 1, 0]), np.array([0.9, 0.2, 0.1, 0.3, 0.6])
    weights = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 1]], dtype=float)
    found = fold_figures(samples_of(label, score, folds), folds, weights, ["auroc"])["auroc"]
    assert found.tolist() == [0.5, 0.0]


def test_weights_count_as_records_that_are_repeated_so_often():
    label, score, patient, folds = drawn(60, repeats=1)
    counts = np.random.default_rng(1).integers(0, 3, 60)[patient]
    weighted = fold_figures(samples_of(label, score, folds), folds, counts[None].astype(float))
    again = np.repeat(np.arange(60), counts)
    repeated = Folds(folds.fit[again], folds.repeat)
    plain = fold_figures(samples_of(label[again], score[again], repeated), repeated)
    for name in plain:
        assert weighted[name][0] == pytest.approx(plain[name][0]), name


def interval_of(label, score, patient, folds, seed=0, draws=600):
    return fold_intervals(
        samples_of(label, score, folds),
        folds,
        groups=patient,
        n_resamples=draws,
        rng=np.random.default_rng(seed),
    )


def test_repeats_of_the_same_patients_do_not_narrow_the_interval():
    label, score, patient, folds = drawn(150, repeats=1, shift=0.0)
    once = interval_of(label, score, patient, folds)
    thrice = interval_of(
        np.tile(label, 3), np.tile(score, 3), np.tile(patient, 3),
        Folds(np.concatenate([folds.fit + 3 * r for r in range(3)]), np.repeat(np.arange(3), 3)),
    )  # fmt: skip
    for name in ("auroc", "accuracy", "brier"):
        # the number of resamples drawn at a time differs, and nothing else
        assert once[name].low == pytest.approx(thrice[name].low, abs=0.01), name
        assert once[name].high == pytest.approx(thrice[name].high, abs=0.01), name
    assert once["auroc"].method == "bootstrap_stratified, mean of 3 folds"
    assert once["accuracy"].method == "bootstrap_percentile, mean of 3 folds"


def test_what_has_no_interval_says_why():
    label, score, patient, folds = drawn(60, repeats=1)
    alone = interval_of(np.zeros_like(label), score, patient, folds, draws=100)["auroc"]
    assert np.isnan(alone.low)
    assert alone.method == "none: one class only"
    few = interval_of(label, score, patient % 9, folds, draws=100)["auroc"]
    assert np.isnan(few.low)
    assert few.method == "none: fewer than 10 patients"
    assert interval_of(label, score, patient, folds, draws=100)["auroc"].method.endswith(
        "under 20 events"
    )


@pytest.mark.slow
def test_the_interval_holds_the_true_area_in_95_of_100_samples():
    """Fixed scores of a known AUROC: the fits are given, and only patients vary."""
    truth = stats.norm.cdf(1.5 / np.sqrt(2))
    held = 0
    for seed in range(200):
        sample = drawn(200, repeats=2, folds=5, seed=seed)
        found = interval_of(*sample, seed=seed, draws=200)["auroc"]
        held += found.low <= truth <= found.high
    assert 0.91 <= held / 200 <= 0.985


def test_the_corrected_t_test_gives_the_figures_of_scikit_learns_worked_example():
    """'Statistical comparison of models using grid search': t = 0.750, one-sided p = 0.227."""
    data = make_moons(noise=0.352, random_state=1, n_samples=100)
    folds = RepeatedStratifiedKFold(n_splits=10, n_repeats=10, random_state=0)
    best, other = (
        cross_val_score(SVC(kernel=kernel, random_state=0), *data, scoring="roc_auc", cv=folds)
        for kernel in ("rbf", "linear")
    )
    found = corrected_resampled_test(best - other, test_to_train=10 / 90)
    assert found.p_value / 2 == pytest.approx(0.227, abs=0.0005)
    t = stats.t.isf(found.p_value / 2, 99)
    assert t == pytest.approx(0.750, abs=0.0005)
    error = found.difference / t
    assert found.high - found.difference == pytest.approx(stats.t.ppf(0.975, 99) * error)


def test_folds_without_a_figure_are_left_out_and_two_are_needed():
    assert corrected_resampled_test([0.1, np.nan, 0.3], test_to_train=0.25) == (
        corrected_resampled_test([0.1, 0.3], test_to_train=0.25)
    )
    assert np.isnan(corrected_resampled_test([0.1, np.nan], test_to_train=0.25).p_value)
    assert corrected_resampled_test([0.0] * 15, test_to_train=0.25).p_value == 1.0


def discriminant(features, label):
    """Fisher's direction: what the classes share as covariance, and the way between their means."""
    means = np.stack([features[label == each].mean(axis=0) for each in (0, 1)])
    return np.linalg.solve(np.cov((features - means[label]).T), means[1] - means[0])


@pytest.mark.slow
def test_the_corrected_t_test_keeps_its_size_where_the_plain_one_does_not():
    """Two recipes of equal worth, each with features of its own, on 120 patients anew each time."""
    corrected = plain = 0
    runs = 300
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        label = np.repeat([0, 1], [80, 40])
        features = rng.normal(size=(120, 8)) + 0.5 * label[:, None]
        folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=3, random_state=seed)
        first, second = (
            np.array(
                [
                    auroc(label[test], part[test] @ discriminant(part[train], label[train]))
                    for train, test in folds.split(part, label)
                ]
            )
            for part in (features[:, :4], features[:, 4:])
        )
        corrected += corrected_resampled_test(first - second, test_to_train=0.25).p_value <= 0.05
        plain += stats.ttest_rel(first, second).pvalue <= 0.05
    assert 0.01 <= corrected / runs <= 0.09
    assert plain / runs > 0.2


def test_entries_change_places_within_their_fold_only():
    """An image part that tells the fit and nothing else has no drop, however folds differ."""
    label, score, patient, folds = drawn(120, repeats=1)
    found = permutation_test(
        100.0 * folds.fit, score, 0.0, label, shuffle="image", rng=np.random.default_rng(0),
        n_repeats=19, n_resamples=20, groups=patient, folds=folds,
    )["auroc"]  # fmt: skip
    assert found.drop == 0.0
    assert (found.low, found.high, found.p_value) == (0.0, 0.0, 1.0)


def test_repeats_of_the_same_patients_give_no_smaller_p():
    rng = np.random.default_rng(3)
    label = np.repeat([0, 1], [60, 30])
    weak = rng.normal(size=90) + 0.6 * label
    fold = rng.permutation(90) % 3

    def p_value(repeats):
        folds = Folds(
            np.concatenate([fold + 3 * each for each in range(repeats)]),
            np.repeat(np.arange(repeats), 3),
        )
        return permutation_test(
            np.tile(weak, repeats), np.zeros(90 * repeats), 0.0, np.tile(label, repeats),
            shuffle="image", rng=np.random.default_rng(0), n_repeats=999, n_resamples=0,
            groups=np.tile(np.arange(90), repeats), folds=folds,
        )["auroc"].p_value  # fmt: skip

    once, thrice = p_value(1), p_value(3)
    assert 0.005 < once < 0.2
    # three looks at the same patients: twice the median of three that are nearly equal
    assert thrice == pytest.approx(2 * once, rel=0.3)
