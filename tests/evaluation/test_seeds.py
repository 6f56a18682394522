import numpy as np
import pytest
from scipy.stats import t as student

from cxr_ray.evaluation.intervals import metric_intervals
from cxr_ray.evaluation.metrics import score_predictions
from cxr_ray.evaluation.ranking import auroc_rows
from cxr_ray.evaluation.resampling import PatientSampler
from cxr_ray.evaluation.seeds import CrossedBootstrap, crossed_bootstrap, crossed_delong


def models(rng, *, arms=1, seeds=5, size=400, share=0.2, signal=1.2, patients=1.0, wobble=0.0):
    """Logits of models whose seeds shift their signal, with noise that all of them share."""
    label = (np.arange(size) < share * size).astype(int)
    shared = rng.normal(size=size) * patients
    own = rng.normal(size=(arms, seeds, size)) * np.sqrt(1 - patients**2)
    strength = signal + wobble * rng.normal(size=(arms, seeds, 1))
    return label, strength * label + shared + own


def test_mean_and_spread_are_those_of_the_models_figures():
    rng = np.random.default_rng(0)
    label, logits = models(rng, arms=2, seeds=4, patients=0.8, wobble=0.3)
    found = crossed_bootstrap(label, logits, rng=rng, n_resamples=50)
    for arm in range(2):
        single = [
            score_predictions(label, 1 / (1 + np.exp(-row)), score=row) for row in logits[arm]
        ]
        for metric in found.metrics:
            values = [figures[metric] for figures in single]
            assert found.mean(arm, metric) == pytest.approx(np.mean(values))
            assert found.spread(arm, metric) == pytest.approx(np.std(values, ddof=1))
            bounds = found.interval(arm, metric)
            assert bounds.low <= bounds.high and bounds.method == "bootstrap_crossed"


def test_under_three_seeds_there_is_no_seed_interval():
    rng = np.random.default_rng(1)
    for seeds in (1, 2):
        label, logits = models(rng, arms=2, seeds=seeds, patients=0.8)
        found = crossed_bootstrap(label, logits, rng=rng)
        assert found.interval(0, "auroc").method == "none: under 3 seeds"
        comparison = found.compare(0, 1, "auroc")
        apart = found.mean(0, "auroc") - found.mean(1, "auroc")
        assert comparison.difference == pytest.approx(apart)
        assert np.isnan(comparison.p_value) and np.isnan(comparison.interval.low)
    assert np.isnan(crossed_bootstrap(label, logits[:, :1], rng=rng).spread(0, "auroc"))


def test_models_that_do_not_differ_have_the_interval_of_patients_alone():
    rng = np.random.default_rng(2)
    label, logits = models(rng, arms=1, seeds=1)
    same = np.repeat(logits, 3, axis=1)
    crossed = crossed_bootstrap(label, same, rng=np.random.default_rng(3), n_resamples=500)
    chance = 1 / (1 + np.exp(-logits[0, 0]))
    plain = metric_intervals(
        label, chance, score=logits[0, 0], rng=np.random.default_rng(4), n_resamples=500
    )
    assert crossed.spread(0, "auroc") == pytest.approx(0)
    for metric in ("auroc", "brier", "f1"):
        bounds = crossed.interval(0, metric)
        assert bounds.low == pytest.approx(plain[metric].low, abs=0.015)
        assert bounds.high == pytest.approx(plain[metric].high, abs=0.015)


def test_where_patients_tell_nothing_the_interval_is_students_over_seeds():
    """Patients that all score alike leave seeds only: mean, s / sqrt(S) and S - 1 degrees."""
    flips = np.array([0.0, 0.05, 0.1, 0.15, 0.2])  # share of positives that a seed ranks last
    figures = 1 - flips / 2  # the rest is tied with the negatives at the top
    found = CrossedBootstrap(
        ("mcc",), figures.reshape(1, 5, 1), np.tile(figures.reshape(1, 1, 5, 1), (50, 1, 1, 1))
    )
    half = 2.7764451 * figures.std(ddof=1) / np.sqrt(5)  # t of .975 with 4 degrees of freedom
    bounds = found.interval(0, "mcc")
    assert bounds.low == pytest.approx(figures.mean() - half)
    assert bounds.high == pytest.approx(min(figures.mean() + half, 1))


def test_error_and_degrees_of_freedom_are_those_worked_out_by_hand():
    """Variance .04 of patients and .03 / 3 of seeds: V = .05, and V^2 / (.01^2 / 2) = 50."""
    figures = np.array([0.5, 0.5, 0.5 + 0.3]) * 1.0
    figures = figures - figures.mean() + 0.5
    moved = np.array([-0.2, 0.2]) / np.sqrt(2)
    draws = figures + moved[:, None]
    found = CrossedBootstrap(
        ("mcc",),
        np.stack([figures, np.zeros(3)])[..., None],
        np.stack([draws, np.zeros((2, 3))], axis=1)[..., None],
    )
    both = found.compare(0, 1, "mcc")
    assert both.p_value == pytest.approx(2 * student.sf(0.5 / np.sqrt(0.05), 50))
    half = 2.0085591 * np.sqrt(0.05)  # t of .975 with 50 degrees of freedom
    assert (both.interval.low, both.interval.high) == pytest.approx((0.5 - half, 0.5 + half))


def test_draws_are_those_of_a_slow_form_that_repeats_the_records():
    rng = np.random.default_rng(5)
    label, logits = models(rng, arms=2, seeds=3, size=60, patients=0.8)
    logits = logits.round(1)  # ties
    cuts = rng.normal(0.5, 0.3, (2, 3))
    groups = np.repeat(range(30), 2)
    found = crossed_bootstrap(
        label,
        logits,
        rng=np.random.default_rng(6),
        points={"val": cuts},
        groups=groups,
        n_resamples=20,
    )
    sampler = PatientSampler.of(label, groups)
    weights = sampler.draw_weights(np.random.default_rng(6), 20).astype(int)
    assert found.draws.shape == (20, 2, 3, len(found.metrics))
    for row, arm, seed in np.ndindex(20, 2, 3):
        index = np.repeat(np.arange(60), weights[row])
        score = logits[arm, seed][index]
        slow = score_predictions(label[index], 1 / (1 + np.exp(-score)), score=score)
        called = score >= cuts[arm, seed]
        slow["recall_at_val"] = called[label[index] == 1].mean()
        slow["accuracy_at_val"] = (called == label[index]).mean()
        values = dict(zip(found.metrics, found.draws[row, arm, seed], strict=True))
        for metric in {*found.metrics} & {*slow}:
            assert values[metric] == pytest.approx(slow[metric], abs=1e-12), metric
    assert {"recall_at_val", "accuracy_at_val", "brier", "mcc"} <= set(found.metrics)


def test_only_the_metrics_that_are_wanted_are_drawn():
    label, logits = models(np.random.default_rng(0), seeds=3, size=50)
    wanted = ("f1_at_val", "auroc", "recall")
    every, some = (
        crossed_bootstrap(
            label,
            logits,
            rng=np.random.default_rng(1),
            points={"val": 0.3},
            metrics=metrics,
            n_resamples=5,
        )
        for metrics in (None, wanted)
    )
    assert some.metrics == wanted
    for place, metric in enumerate(wanted):
        expected = every.draws[..., every.metrics.index(metric)]
        np.testing.assert_array_equal(some.draws[..., place], expected)
    with pytest.raises(ValueError, match="no crossed bootstrap of ece"):
        crossed_bootstrap(label, logits, rng=np.random.default_rng(1), metrics=["ece"])


def test_arms_share_their_patients_so_that_what_is_common_cancels():
    rng = np.random.default_rng(6)
    label, logits = models(rng, arms=2, seeds=3, patients=0.99)
    found = crossed_bootstrap(label, logits, rng=rng, n_resamples=300)
    alone = found.interval(0, "auroc")
    between = found.compare(0, 1, "auroc")
    assert between.interval.high - between.interval.low < (alone.high - alone.low) / 2
    assert between.interval.low < between.difference < between.interval.high
    same = crossed_bootstrap(label, np.stack([logits[0]] * 2), rng=rng, n_resamples=50)
    assert same.compare(0, 1, "auroc").p_value == 1.0


def test_a_clear_difference_is_found_in_both_directions():
    rng = np.random.default_rng(7)
    label, weak = models(rng, arms=1, seeds=3, signal=0.5, patients=0.8)
    logits = np.concatenate([weak, weak + 2 * label])
    found = crossed_bootstrap(label, logits, rng=rng, n_resamples=400)
    for pair in ((0, 1), (1, 0)):
        comparison = found.compare(*pair, "auroc")
        assert comparison.p_value < 0.001
        assert comparison.interval.low * comparison.interval.high > 0


def test_patients_are_drawn_with_all_their_records():
    rng = np.random.default_rng(8)
    label, logits = models(rng, seeds=3, size=150)
    four = np.repeat(label, 4), np.repeat(logits, 4, axis=2)
    widths = []
    for groups in (None, np.repeat(range(150), 4)):
        found = crossed_bootstrap(*four, rng=rng, groups=groups, n_resamples=300)
        widths.append(found.interval(0, "auroc").high - found.interval(0, "auroc").low)
    assert widths[1] / widths[0] == pytest.approx(2, rel=0.3)


def test_other_shapes_and_one_class_are_refused():
    rng = np.random.default_rng(9)
    with pytest.raises(ValueError, match="not \\(arms, seeds, records\\)"):
        crossed_bootstrap([0, 1], [[0.0, 1.0]], rng=rng)
    with pytest.raises(ValueError, match="one class only"):
        crossed_bootstrap([1, 1], np.zeros((1, 3, 2)), rng=rng)


def test_delong_in_the_place_of_resamples_gives_nearly_the_same():
    label, logits = models(np.random.default_rng(3), arms=2, seeds=4, patients=0.8, wobble=0.1)
    logits[0] += 0.4 * label
    groups = np.arange(len(label)) // 2
    drawn = crossed_bootstrap(
        label, logits, rng=np.random.default_rng(1), groups=groups, metrics=["auroc"]
    ).compare(0, 1, "auroc")
    exact = crossed_delong(label, *logits, groups=groups)
    assert exact.difference == pytest.approx(drawn.difference)
    assert exact.interval.low == pytest.approx(drawn.interval.low, abs=0.004)
    assert np.log10(exact.p_value) == pytest.approx(np.log10(drawn.p_value), abs=0.25)
    assert exact.interval.method == "delong_crossed"


def test_delong_across_seeds_says_where_it_has_no_answer():
    label, logits = models(np.random.default_rng(3), arms=2, seeds=3)
    assert np.isnan(crossed_delong(label, *logits[:, :2]).p_value)
    one = np.arange(len(label)) == 0
    assert np.isnan(crossed_delong(one, *logits).p_value)
    assert crossed_delong(label, logits[0], logits[0]).p_value == 1


def test_what_no_seed_and_no_resample_changes_has_no_interval():
    label, logits = models(np.random.default_rng(0), arms=2, seeds=3, size=100)
    perfect = np.stack([10.0 * label - 5 + 0 * logits[0], np.zeros_like(logits[1])])
    found = crossed_bootstrap(label, perfect, rng=np.random.default_rng(1), n_resamples=99)
    assert found.interval(0, "auroc").method == "none: no seed and no resample gives another figure"
    assert found.compare(0, 1, "auroc").p_value == pytest.approx(2 / 100)


def test_the_interval_of_an_arm_stays_between_none_and_all():
    label, logits = models(np.random.default_rng(0), seeds=3, signal=3, patients=0.8, wobble=0.5)
    found = crossed_bootstrap(label, logits, rng=np.random.default_rng(1), n_resamples=99)
    for metric in ("auroc", "recall", "accuracy", "f1"):
        bounds = found.interval(0, metric)
        assert 0 <= bounds.low < found.mean(0, metric) < bounds.high <= 1


@pytest.mark.slow
@pytest.mark.parametrize("wobble", [0.1, 0.25])
@pytest.mark.parametrize(("seeds", "held", "rejected"), [(3, 0.92, 0.09), (5, 0.93, 0.065)])
def test_interval_and_test_over_few_seeds_keep_what_they_promise(seeds, held, rejected, wobble):
    """A claim is about all seeds and patients: AUROCs of one recipe differ by .03 or .06 (SD)."""
    plan = {"patients": 0.8, "wobble": wobble, "size": 500}
    label, logits = models(np.random.default_rng(0), seeds=300, **plan | {"size": 20_000})
    truth = np.mean(auroc_rows(label, logits[0]))
    inside, apart = [], []
    for number in range(400):
        rng = np.random.default_rng([number, 1])
        label, logits = models(rng, arms=2, seeds=seeds, **plan)
        found = crossed_bootstrap(label, logits, rng=rng, n_resamples=300, metrics=["auroc"])
        bounds = found.interval(0, "auroc")
        inside.append(bounds.low <= truth <= bounds.high)
        apart.append(found.compare(0, 1, "auroc").p_value <= 0.05)  # the arms are alike
    assert np.mean(inside) >= held
    assert np.mean(apart) <= rejected
