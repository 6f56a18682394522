import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from cxr_ray.evaluation.confusion import confusion_rows
from cxr_ray.evaluation.metrics import (
    METRICS,
    expected_calibration_error,
    score_predictions,
    sensitivity_at_specificity,
)
from cxr_ray.evaluation.ranking import auroc_rows, average_precision_rows


@st.composite
def labelled_scores(draw):
    """Few distinct scores, so that ties across the classes are the rule."""
    size = draw(st.integers(4, 40))
    label = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    label[0], label[1] = 0, 1
    tenths = draw(st.lists(st.integers(0, 10), min_size=size, max_size=size))
    return np.array(label), np.array(tenths) / 10


@settings(max_examples=60)
@given(labelled_scores())
def test_figures_equal_those_of_scikit_learn_ties_included(case):
    label, probability = case
    called = probability >= 0.5
    figures = score_predictions(label, probability)
    expected = {
        "accuracy": sk.accuracy_score(label, called),
        "precision": sk.precision_score(label, called, zero_division=0),
        "recall": sk.recall_score(label, called),
        "f1": sk.f1_score(label, called, zero_division=0),
        "auroc": sk.roc_auc_score(label, probability),
        "average_precision": sk.average_precision_score(label, probability),
        "brier": sk.brier_score_loss(label, probability),
        "balanced_accuracy": sk.balanced_accuracy_score(label, called),
        "mcc": sk.matthews_corrcoef(label, called),
        "specificity": sk.recall_score(label, called, pos_label=0),
    }
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, abs=1e-12), name
    false_rate, true_rate, _ = sk.roc_curve(label, probability, drop_intermediate=False)
    best = true_rate[1 - false_rate >= 0.95 - 1e-12].max()
    assert figures["sensitivity_at_95_specificity"] == pytest.approx(best)


@settings(max_examples=40)
@given(labelled_scores(), st.randoms(use_true_random=False))
def test_the_order_of_the_records_changes_no_figure(case, random):
    label, probability = case
    order = list(range(len(label)))
    random.shuffle(order)
    intact = score_predictions(label, probability)
    moved = score_predictions(label[order], probability[order])
    assert moved == pytest.approx(intact, abs=1e-12)


def test_figures_come_in_the_promised_order():
    assert tuple(score_predictions([0, 1], [0.2, 0.7])) == METRICS
    assert METRICS[:5] == ("accuracy", "precision", "recall", "f1", "auroc")


def test_ranking_follows_the_logits_where_probabilities_are_saturated():
    label = np.array([0, 0, 1, 1])
    logit = np.array([40.0, 41.0, 42.0, 43.0])
    probability = 1 / (1 + np.exp(-logit))
    assert score_predictions(label, probability)["auroc"] == 0.5
    assert score_predictions(label, probability, score=logit)["auroc"] == 1.0


def test_undefined_figures_have_the_answer_that_the_docstring_states():
    none_called = score_predictions([0, 1], [0.1, 0.2])
    assert (none_called["precision"], none_called["f1"], none_called["mcc"]) == (0.0, 0.0, 0.0)
    negatives = score_predictions([0, 0, 0], [0.1, 0.2, 0.9])
    absent = ("recall", "f1", "auroc", "average_precision", "balanced_accuracy")
    assert all(np.isnan(negatives[name]) for name in absent)
    assert np.isnan(negatives["sensitivity_at_95_specificity"])
    assert negatives["specificity"] == pytest.approx(2 / 3)
    positives = score_predictions([1, 1], [0.9, 0.2])
    assert np.isnan(positives["specificity"]) and positives["recall"] == 0.5


@pytest.mark.parametrize(
    ("label", "probability"),
    [([0, 2], [0.1, 0.2]), ([], []), ([0, 1], [0.1, np.nan]), ([0, 1], [0.1, 0.2, 0.3])],
)
def test_labels_and_scores_that_cannot_be_meant_are_refused(label, probability):
    with pytest.raises(ValueError, match="label|scores"):
        score_predictions(label, probability)


def test_calibration_error_of_a_calibrated_forecast_is_small_and_of_a_shifted_one_the_shift():
    rng = np.random.default_rng(1)
    chance = rng.uniform(0.1, 0.8, 20_000)
    label = rng.random(20_000) < chance
    assert expected_calibration_error(label, chance) < 0.02
    assert expected_calibration_error(label, chance + 0.1) == pytest.approx(0.1, abs=0.01)


def test_sensitivity_at_specificity_allows_exactly_its_share_of_false_alarms():
    label = np.repeat([0, 1], 100)
    score = np.concatenate([np.arange(100), np.full(100, 94.5)])  # five negatives are above
    assert sensitivity_at_specificity(label, score, 0.95) == 1.0
    assert sensitivity_at_specificity(label, score - (label == 1), 0.95) == 0.0


def test_rows_are_scored_as_each_row_by_itself():
    rng = np.random.default_rng(2)
    scores = rng.integers(0, 5, (7, 30)).astype(float)
    shared = rng.random(30) < 0.4
    own = rng.random((7, 30)) < 0.4
    for label in (shared, own):
        rows = np.broadcast_to(label, scores.shape)
        single = [score_predictions(y, s, threshold=2) for y, s in zip(rows, scores, strict=True)]
        assert auroc_rows(label, scores) == pytest.approx([one["auroc"] for one in single])
        assert average_precision_rows(label, scores) == pytest.approx(
            [one["average_precision"] for one in single]
        )
        assert confusion_rows(label, scores, 2).f1 == pytest.approx([one["f1"] for one in single])
