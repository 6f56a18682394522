import numpy as np
import pytest

from cxr_ray.evaluation.intervals import bootstrap_metrics
from cxr_ray.evaluation.metrics import score_predictions
from cxr_ray.evaluation.seeds import crossed_bootstrap


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
        assert comparison.difference == found.mean(0, "auroc") - found.mean(1, "auroc")
        assert np.isnan(comparison.p_value) and np.isnan(comparison.interval.low)
    assert np.isnan(crossed_bootstrap(label, logits[:, :1], rng=rng).spread(0, "auroc"))


def test_models_that_do_not_differ_have_the_interval_of_patients_alone():
    rng = np.random.default_rng(2)
    label, logits = models(rng, arms=1, seeds=1)
    same = np.repeat(logits, 3, axis=1)
    crossed = crossed_bootstrap(label, same, rng=np.random.default_rng(3), n_resamples=500)
    chance = 1 / (1 + np.exp(-logits[0, 0]))
    plain = bootstrap_metrics(
        label, chance, score=logits[0, 0], rng=np.random.default_rng(4), n_resamples=500
    )
    assert crossed.spread(0, "auroc") == pytest.approx(0)
    for metric in ("auroc", "brier", "f1"):
        bounds = crossed.interval(0, metric)
        assert bounds.low == pytest.approx(plain[metric].low, abs=0.015)
        assert bounds.high == pytest.approx(plain[metric].high, abs=0.015)


def test_the_spread_of_seeds_enters_the_interval_unshrunk():
    """Patients that all score alike leave seeds only: their share of the variance is s^2 / S."""
    rng = np.random.default_rng(5)
    seeds = 5
    flips = np.array([0.0, 0.05, 0.1, 0.15, 0.2])  # share of positives that a seed ranks last
    label = np.repeat([0, 1], [4_000, 4_000])
    ranks = np.concatenate([np.zeros(4_000), np.linspace(0, 1, 4_000, endpoint=False)])
    logits = np.stack([np.where(label == 1, np.where(ranks < flip, -1, 1), 0) for flip in flips])
    found = crossed_bootstrap(label, logits[None], rng=rng, n_resamples=1_000)
    variance = found.draws[:, 0, found.metrics.index("auroc")].var()
    assert variance == pytest.approx(found.spread(0, "auroc") ** 2 / seeds, rel=0.12)


def test_arms_share_their_patients_so_that_what_is_common_cancels():
    rng = np.random.default_rng(6)
    label, logits = models(rng, arms=2, seeds=3, patients=0.98)
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
        assert comparison.p_value == pytest.approx(2 / 401)
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


@pytest.mark.slow
def test_the_interval_over_five_seeds_holds_the_mean_over_all_seeds_nine_times_in_ten():
    plan = {"patients": 0.9, "wobble": 0.25, "size": 500}
    rng = np.random.default_rng(0)
    truth = np.mean(
        [
            crossed_bootstrap(*models(rng, seeds=1, **plan | {"size": 20_000}), rng=rng).mean(
                0, "auroc"
            )
            for _ in range(300)
        ]
    )
    held, apart = [], []
    for seed in range(400):
        rng = np.random.default_rng([seed, 1])
        label, logits = models(rng, arms=2, **plan)
        found = crossed_bootstrap(label, logits, rng=rng, n_resamples=400)
        bounds = found.interval(0, "auroc")
        held.append(bounds.low <= truth <= bounds.high)
        apart.append(found.compare(0, 1, "auroc").p_value <= 0.05)  # the arms are alike
    assert np.mean(held) >= 0.9, np.mean(held)
    assert np.mean(apart) <= 0.12, np.mean(apart)
