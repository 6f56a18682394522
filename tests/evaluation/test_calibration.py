import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from cxr_ray.errors import InputError
from cxr_ray.evaluation.calibration import (
    calibration,
    fit_recalibration,
    shift_prior,
)
from cxr_ray.evaluation.metrics import expected_calibration_error
from cxr_ray.evaluation.net_benefit import net_benefit


def overconfident(seed, size=3_000, slope=2.0, shift=1.0):
    """Logits that are too far apart and too high, with the line that undoes it."""
    rng = np.random.default_rng(seed)
    true = rng.normal(-1, 1.5, size)
    label = (rng.random(size) < expit(true)).astype(int)
    return label, slope * true + shift


def test_the_line_is_that_of_an_unpenalised_logistic_regression():
    for seed, slope, shift in ((0, 2.0, 1.0), (1, 0.2, -30.0), (2, 1e-3, 0.0), (3, -1.0, 500.0)):
        label, logits = overconfident(seed, slope=slope, shift=shift)
        line = fit_recalibration(label, logits)
        scaled = (logits - shift) / slope
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(scaled[:, None], label)
        expected = expit(scaled * model.coef_[0, 0] + model.intercept_[0])
        np.testing.assert_allclose(expit(line.apply(logits)), expected, atol=1e-5)
        assert line.method == "logistic"


def test_recalibration_undoes_what_alpha_or_a_class_ratio_did_and_keeps_every_rank():
    label, logits = overconfident(4, size=20_000)
    line = fit_recalibration(label[:10_000], logits[:10_000])
    assert (line.slope, line.intercept) == (
        pytest.approx(0.5, abs=0.05),
        pytest.approx(-0.5, abs=0.1),
    )
    before, after = (
        expected_calibration_error(label[10_000:], expit(each[10_000:]))
        for each in (logits, line.apply(logits))
    )
    assert before > 0.08 and after < 0.02
    assert (np.argsort(line.apply(logits)) == np.argsort(logits)).all()


def test_recalibrated_on_itself_slope_is_one_and_intercept_zero():
    label, logits = overconfident(5)
    found = calibration(label, fit_recalibration(label, logits).apply(logits))
    assert found.slope == pytest.approx(1, abs=1e-8)
    assert found.intercept == pytest.approx(0, abs=1e-8)
    assert found.in_the_large == pytest.approx(0, abs=1e-8)
    assert found.slope_interval.low < 1 < found.slope_interval.high


def test_calibration_in_the_large_is_the_shift_alone():
    label, logits = overconfident(6, slope=1.0, shift=0.7)
    found = calibration(label, logits)
    assert found.in_the_large == pytest.approx(-0.7, abs=0.15)
    assert expit(logits + found.in_the_large).mean() == pytest.approx(label.mean(), abs=1e-12)


def test_intervals_are_as_wide_as_the_bootstraps_and_count_patients():
    label, logits = overconfident(7, size=800)
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(400):
        index = rng.integers(0, 800, 800)
        line = fit_recalibration(label[index], logits[index])
        draws.append((line.slope, line.intercept))
    spread = np.std(draws, axis=0)
    found = calibration(label, logits)
    for bounds, expected in zip(
        (found.slope_interval, found.intercept_interval), spread, strict=True
    ):
        assert (bounds.high - bounds.low) / 3.92 == pytest.approx(expected, rel=0.15)
    four = calibration(np.repeat(label, 4), np.repeat(logits, 4), groups=np.repeat(range(800), 4))
    assert four.slope == pytest.approx(found.slope)
    assert four.slope_interval.low == pytest.approx(found.slope_interval.low, abs=1e-6)


def test_what_cannot_be_fitted_says_so_and_leaves_logits_as_they_are():
    cases = (
        ([0, 0, 0], [0.0, 1.0, 2.0], "one class only"),
        ([0, 0, 1, 1], [0.0, 1.0, 1.0, 2.0], "a threshold separates the classes"),
        ([1, 1, 0, 0], [0.0, 1.0, 2.0, 3.0], "a threshold separates the classes"),
    )
    for label, logits, reason in cases:
        line = fit_recalibration(label, logits)
        assert line.method == f"none: {reason}"
        assert line.apply(logits).tolist() == logits
        found = calibration(label, logits)
        assert np.isnan(found.slope) and found.slope_interval.method == f"none: {reason}"
    constant = fit_recalibration([0, 0, 0, 1], np.full(4, 3.0))
    assert constant.method == "intercept_only"
    assert expit(constant.apply(3.0)) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="infinite"):
        fit_recalibration([0, 1, 0], [0.0, np.inf, 1.0])
    with pytest.raises(ValueError, match="one patient only"):
        calibration([0, 1, 0, 1], [0.0, 1.0, 2.0, 0.5], groups=[0, 0, 0, 0])


def test_the_prior_shift_gives_the_posterior_of_the_other_prevalence():
    ratio = np.array([0.5, 1.0, 4.0])  # likelihood ratios
    trained = logit(0.25) + np.log(ratio)
    shifted = shift_prior(trained, loss="bce", trained_prevalence=0.25, prevalence=0.02)
    np.testing.assert_allclose(expit(shifted), 0.02 * ratio / (0.02 * ratio + 0.98))


@pytest.mark.parametrize("loss", ["focal", "weighted_bce", "logit_adjusted"])
def test_the_prior_shift_is_refused_for_other_losses_in_a_sentence(loss):
    with pytest.raises(InputError, match=f"trained with {loss}, .*recalibrate on validation"):
        shift_prior([0.0], loss=loss, trained_prevalence=0.25, prevalence=0.1)
    with pytest.raises(InputError, match="prevalence is 0"):
        shift_prior([0.0], loss="bce", trained_prevalence=0.25, prevalence=0)


def test_net_benefit_at_the_samples_prevalence_is_the_count_form():
    label, logits = overconfident(8, size=500)
    chance, at = expit(logits), np.array([0.0, 0.05, 0.3, 0.9])
    found = net_benefit(label, chance, at)
    for place, threshold in enumerate(at):
        called = chance >= threshold
        hits, alarms = (called & (label == 1)).sum(), (called & (label == 0)).sum()
        expected = hits / 500 - alarms / 500 * threshold / (1 - threshold)
        assert found.model[place] == pytest.approx(expected)
    assert found.model[0] == found.treat_all[0] == pytest.approx(label.mean())


def test_net_benefit_at_a_declared_prevalence_is_that_of_a_sample_weighted_to_it():
    label = np.repeat([1, 0], [40, 60])
    chance = np.concatenate([np.linspace(0.2, 0.9, 40), np.linspace(0.05, 0.6, 60)])
    rare = net_benefit(label, chance, [0.25], prevalence=0.1)
    # 40 of 400 are positive when every negative counts six times
    weighted = net_benefit(
        np.repeat([1, 0], [40, 360]), np.r_[chance[:40], np.repeat(chance[40:], 6)], [0.25]
    )
    assert rare.model == pytest.approx(weighted.model)
    assert rare.treat_all == pytest.approx(weighted.treat_all)
    with pytest.raises(InputError, match="prevalence is 1.5"):
        net_benefit(label, chance, [0.25], prevalence=1.5)
    with pytest.raises(ValueError, match="below 1"):
        net_benefit(label, chance, [1.0])
    with pytest.raises(ValueError, match="one class only"):
        net_benefit([1, 1], [0.5, 0.6], [0.1])
