import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, f1_score, recall_score

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.evaluation.weighted import OF_CALLS
from cxr_ray.report.performance import decision_curve, score_test_set
from cxr_ray.report.trial_folder import Predictions

CONFIG = EvaluationConfig(bootstrap=100)


def predictions(label, logits, in_own=None):
    """Predictions of which the first half is the validation part."""
    size = len(label)
    return Predictions(
        record_id=np.array([f"record {place}" for place in range(size)]),
        group=np.array([f"patient {place}" for place in range(size)]),
        part=np.repeat(["val", "test"], [size // 2, size - size // 2]),
        in_own=np.ones(size, dtype=bool) if in_own is None else in_own,
        label=np.asarray(label, dtype=np.int8),
        logit=np.asarray(logits, dtype=np.float64),
        probability=expit(np.asarray(logits, dtype=np.float64)),
    )


def overconfident(seed=0, size=3_000, share=0.2):
    """Logits three times too far apart and too high."""
    rng = np.random.default_rng(seed)
    label = rng.random(size) < share
    true = rng.normal(size=size) + 1.4 * label - 0.98 + logit(share)
    return predictions(label, 3 * true + 1)


def sub_sampled():
    """Predictions whose own parts hold every positive and every third negative."""
    whole = overconfident(1)
    in_own = (whole.label == 1) | (np.arange(len(whole.label)) % 3 == 0)
    return predictions(whole.label, whole.logit, in_own)


def split(found):
    """The label and logit of the validation and the test part."""
    half = len(found.label) // 2
    return found.label[:half], found.logit[:half], found.label[half:], found.logit[half:]


def test_each_operating_point_is_chosen_on_validation_and_applied_to_test():
    found = overconfident()
    row = score_test_set(found, "full", CONFIG, 1)
    val_label, val_logit, label, scores = split(found)
    cuts = {name: logit(row[f"threshold_at_{name}"]) for name in ("val", "youden", "spec95")}
    every = np.linspace(val_logit.min(), val_logit.max(), 500)
    for name, measure in (("val", f1_score), ("youden", balanced_accuracy_score)):
        chosen = measure(val_label, val_logit >= cuts[name])
        assert chosen >= max(measure(val_label, val_logit >= cut) for cut in every)
    kept = (val_logit[val_label == 0] < cuts["spec95"]).mean()
    assert 0.95 <= kept < 0.952
    for name, cut in cuts.items():
        assert row[f"f1_at_{name}"] == pytest.approx(f1_score(label, scores >= cut))
        assert row[f"recall_at_{name}"] == pytest.approx(recall_score(label, scores >= cut))
        assert row[f"f1_at_{name}_low"] < row[f"f1_at_{name}"] < row[f"f1_at_{name}_high"]
        low, at, high = (row[f"threshold_at_{name}{end}"] for end in ("_low", "", "_high"))
        assert low <= at <= high
        assert row[f"threshold_at_{name}_method"].endswith("descriptive")


def test_own_thresholds_are_chosen_on_the_own_validation_part():
    found = sub_sampled()
    own, full = (score_test_set(found, name, CONFIG, 1) for name in ("own", "full"))
    assert own["threshold_at_val"] < full["threshold_at_val"]
    assert own["recalibration_slope"] == full["recalibration_slope"]
    assert own["f1_method"] == "bootstrap_stratified" and full["f1_method"] != own["f1_method"]


def test_recalibration_on_validation_sets_the_test_part_right():
    found = overconfident(2)
    row = score_test_set(found, "full", CONFIG, 1)
    val_label, val_logit, label, scores = split(found)
    line = LogisticRegression(C=np.inf, tol=1e-10).fit(val_logit[:, None], val_label)
    assert row["recalibration"] == "logistic"
    assert row["recalibration_slope"] == pytest.approx(line.coef_[0, 0], abs=1e-4)
    after = line.predict_proba(scores[:, None])[:, 1]
    assert row["brier_recalibrated"] == pytest.approx(brier_score_loss(label, after), abs=1e-5)
    assert row["calibration_slope_high"] < 0.7
    low, high = (row[f"calibration_slope_recalibrated_{end}"] for end in ("low", "high"))
    assert low < 1 < high
    assert row["ece_recalibrated"] < 0.5 * row["ece"]
    assert row["ece_method"].endswith("descriptive")
    assert row["calibration_slope_method"] == "sandwich"
    shift, low, high = (row[f"calibration_in_the_large{end}"] for end in ("", "_low", "_high"))
    assert expit(scores + shift).mean() == pytest.approx(label.mean())
    assert low < shift < high and abs(row["calibration_in_the_large_recalibrated"]) < abs(shift)


@pytest.mark.parametrize(
    ("label", "logits", "empty", "reason"),
    [
        ([0] * 20 + [0, 1] * 10, np.linspace(-2, 2, 40), "f1_at_youden", "validation part holds"),
        ([0, 1] * 10 + [0] * 20, np.linspace(-2, 2, 40), "auroc", "one class only"),
        ([0, 1] * 20, [-1.0, 1.0] * 20, "calibration_slope", "a threshold separates the classes"),
        ([0, 1] * 20, [-1.0, 1.0] * 20, "ece_recalibrated", "a threshold separates the classes"),
        ([0, 1] * 20, [0.5] * 40, "calibration_slope", "the logits do not vary"),
        ([0, 1, 1, 0] * 3, np.arange(12.0), "calibration_slope", "fewer than 10 patients"),
    ],
)
def test_what_cannot_be_answered_is_empty_and_says_why(label, logits, empty, reason):
    row = score_test_set(predictions(label, logits), "full", CONFIG, 1)
    assert row[empty] is row[f"{empty}_low"] is None
    assert row[f"{empty}_method"].startswith("none: ") and reason in row[f"{empty}_method"]
    assert not any(isinstance(value, float) and np.isnan(value) for value in row.values())
    for column in (f"{name}_at_val" for name in OF_CALLS):
        assert {column, f"{column}_low", f"{column}_high", f"{column}_method"} <= set(row)


def test_every_interval_names_its_method_and_every_missing_one_its_reason():
    for found in (overconfident(3), overconfident(4, size=60)):
        row = score_test_set(found, "full", CONFIG, 1)
        bounded = [name.removesuffix("_low") for name in row if name.endswith("_low")]
        assert len(bounded) == 12 + 3 * 8 + 2 + 6
        for name in bounded:
            missing = row[f"{name}_low"] is None
            assert missing == row[f"{name}_method"].startswith("none")
            assert missing or row[f"{name}_low"] <= row[f"{name}_high"]


def test_the_decision_curve_is_of_recalibrated_probabilities_at_the_tests_own_prevalence():
    found = overconfident(5)
    rows = decision_curve(found, "full", CONFIG)
    val_label, val_logit, label, scores = split(found)
    line = LogisticRegression(C=np.inf, tol=1e-10).fit(val_logit[:, None], val_label)
    chance = line.predict_proba(scores[:, None])[:, 1]
    assert [row["threshold"] for row in rows] == [round(0.025 * k, 6) for k in range(1, 21)]
    for row in rows:
        weight = row["threshold"] / (1 - row["threshold"])
        called = chance >= row["threshold"]
        expected = (called & (label == 1)).mean() - weight * (called & (label == 0)).mean()
        assert row["net_benefit"] == pytest.approx(expected, abs=1e-3)
        assert row["treat_all"] == pytest.approx(label.mean() - weight * (1 - label.mean()))
        assert row["prevalence"] == label.mean() and row["recalibrated"]


def test_at_a_declared_prevalence_a_model_is_worth_what_it_is_there():
    common, rare = overconfident(6, size=40_000), overconfident(7, size=200_000, share=0.04)
    declared = CONFIG.model_copy(update={"prevalence": 0.04})
    moved, there = decision_curve(common, "full", declared), decision_curve(rare, "full", CONFIG)
    for one, other in zip(moved, there, strict=True):
        assert one["prevalence"] == 0.04
        assert one["net_benefit"] == pytest.approx(other["net_benefit"], abs=0.001)


def test_without_a_line_raw_probabilities_are_weighed_but_never_moved_to_another_prevalence():
    separated = predictions([0, 1] * 20, [-1.0, 1.0] * 20)
    assert not any(row["recalibrated"] for row in decision_curve(separated, "full", CONFIG))
    declared = CONFIG.model_copy(update={"prevalence": 0.04})
    assert decision_curve(separated, "full", declared) == []
    assert decision_curve(predictions([0, 1] * 10 + [0] * 20, range(40)), "full", CONFIG) == []
