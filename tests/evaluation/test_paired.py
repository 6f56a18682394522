import numpy as np
import pytest

from cxr_ray.evaluation.delong import delong_test
from cxr_ray.evaluation.metrics import score_predictions
from cxr_ray.evaluation.paired import AT_THRESHOLD, OF_RANKING, paired_bootstrap

METRICS = (*AT_THRESHOLD, *OF_RANKING)


def binormal(rng, size=500, positives=100, signals=(1.19, 1.19), correlation=0.5):
    """Scores of two models; a signal of 1.19 is an AUROC of .80."""
    label = (np.arange(size) < positives).astype(int)
    shared = rng.normal(size=size) * np.sqrt(correlation)
    own = rng.normal(size=(2, size)) * np.sqrt(1 - correlation)
    return label, *(
        signal * label + shared + noise for signal, noise in zip(signals, own, strict=True)
    )


def test_differences_are_those_of_the_models_each_at_its_own_threshold():
    rng = np.random.default_rng(1)
    label, first, second = binormal(rng, signals=(1.5, 0.8))
    found = paired_bootstrap(label, first, second, rng=rng, thresholds=(0.5, -0.2), n_resamples=99)
    one, other = (
        score_predictions(label, 1 / (1 + np.exp(threshold - score)), score=score)
        for score, threshold in ((first, 0.5), (second, -0.2))
    )
    assert tuple(found) == METRICS
    for name, both in found.items():
        assert both.difference == pytest.approx(one[name] - other[name])
        assert both.low <= both.high


def test_a_model_does_not_differ_from_itself():
    rng = np.random.default_rng(2)
    label, score, _ = binormal(rng)
    for both in paired_bootstrap(label, score, score, rng=rng, n_resamples=99).values():
        assert (both.difference, both.low, both.high, both.p_value) == (0, 0, 0, 1)


def test_swapping_the_models_turns_the_sign_and_keeps_the_p_value():
    label, first, second = binormal(np.random.default_rng(3), signals=(1.4, 1.1))
    forward = paired_bootstrap(label, first, second, rng=np.random.default_rng(4), n_resamples=199)
    back = paired_bootstrap(label, second, first, rng=np.random.default_rng(4), n_resamples=199)
    for name in METRICS:
        assert forward[name].p_value == back[name].p_value
        assert forward[name].difference == pytest.approx(-back[name].difference)
        assert forward[name].low == pytest.approx(-back[name].high)


def test_auroc_agrees_with_delong():
    rng = np.random.default_rng(5)
    label, first, second = binormal(rng, size=1000, positives=200, signals=(1.3, 1.1))
    drawn = paired_bootstrap(label, first, second, rng=rng, metrics=["auroc"])["auroc"]
    exact = delong_test(label, first, second)
    assert drawn.low == pytest.approx(exact.low, abs=0.004)
    assert drawn.high == pytest.approx(exact.high, abs=0.004)
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.03)


def test_patients_are_drawn_with_all_their_records():
    rng = np.random.default_rng(6)
    label, first, second = binormal(rng, size=200, positives=50)
    four = [np.repeat(values, 4) for values in (label, first, second)]
    widths = []
    for groups in (None, np.repeat(np.arange(200), 4)):
        both = paired_bootstrap(*four, rng=rng, groups=groups, n_resamples=300)["auroc"]
        widths.append(both.high - both.low)
    assert widths[1] / widths[0] == pytest.approx(2, rel=0.25)


def test_a_coarse_figure_that_mostly_stays_equal_is_not_called_apart():
    label = np.repeat([0, 1], [90, 10])
    first = np.where(label == 1, 1.0, -1.0)
    second = np.where(np.arange(100) == 0, 1.0, first)  # one call differs
    both = paired_bootstrap(label, first, second, rng=np.random.default_rng(7))["accuracy"]
    assert both.difference == pytest.approx(0.01)
    assert both.p_value > 0.5


def test_one_class_and_unknown_metrics_are_refused():
    rng = np.random.default_rng(8)
    with pytest.raises(ValueError, match="one class only"):
        paired_bootstrap([1, 1], [0, 1], [1, 0], rng=rng)
    with pytest.raises(ValueError, match="no paired bootstrap of ece"):
        paired_bootstrap([0, 1], [0, 1], [1, 0], rng=rng, metrics=["ece"])


@pytest.mark.slow
def test_equal_models_are_called_apart_about_one_time_in_twenty():
    apart = {name: [] for name in OF_RANKING}
    for run in range(2000):
        rng = np.random.default_rng([run, 9])
        label, first, second = binormal(rng)
        found = paired_bootstrap(label, first, second, rng=rng, metrics=OF_RANKING, n_resamples=599)
        for name, both in found.items():
            apart[name].append(both.p_value <= 0.05)
    for name, rejected in apart.items():
        assert 0.04 <= np.mean(rejected) <= 0.065, (name, np.mean(rejected))
