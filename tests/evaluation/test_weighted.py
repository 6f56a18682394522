import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, roc_auc_score

from cxr_ray.evaluation.metrics import expected_calibration_error, score_predictions
from cxr_ray.evaluation.weighted import BOOTSTRAPPED, WeightedBins, weighted_figures


def drawn(digits, size=90):
    """Labels, scores (None: without ties) and twenty rows of weights."""
    rng = np.random.default_rng(0)
    label = rng.random(size) < 0.35
    score = rng.normal(size=size) + label
    score = score if digits is None else score.round(digits)
    return label, score, rng.integers(0, 4, (20, size)).astype(float)


@pytest.mark.parametrize("digits", [None, 1, 0])
def test_figures_under_weights_are_those_of_repeated_records_ties_or_not(digits):
    label, score, weights = drawn(digits)
    probability = 1 / (1 + np.exp(-score))
    figures = weighted_figures(weights, label, probability, score, 0.6)
    for row, times in enumerate(weights.astype(int)):
        index = np.repeat(np.arange(len(label)), times)
        y, p, s = label[index], probability[index], score[index]
        expected = score_predictions(y, p, score=s, threshold=0.6)
        for name in BOOTSTRAPPED:
            assert figures[name][row] == pytest.approx(expected[name], abs=1e-12), name
        assert figures["auroc"][row] == pytest.approx(roc_auc_score(y, s))
        assert figures["average_precision"][row] == pytest.approx(average_precision_score(y, s))
        assert figures["f1"][row] == pytest.approx(f1_score(y, p >= 0.6))
        assert figures["precision"][row] == pytest.approx(precision_score(y, p >= 0.6))


@pytest.mark.parametrize("digits", [None, 1, 0])
def test_the_calibration_error_under_weights_is_that_of_repeated_records(digits):
    label, score, weights = drawn(digits)
    probability = 1 / (1 + np.exp(-score))
    found = WeightedBins.of(label, probability).figures(weights, 7)
    for row, times in enumerate(weights.astype(int)):
        index = np.repeat(np.arange(len(label)), times)
        expected = expected_calibration_error(label[index], probability[index], bins=7)
        assert found[row] == pytest.approx(expected, abs=1e-12)
