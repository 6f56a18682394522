"""What is left on the test part of a search's gain, and what is said of it."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.report.search_gain import describe_gain, measure_gain
from cxr_ray.report.search_page import search_answer
from cxr_ray.report.trial_folder import read_predictions, write_predictions

COUNTS = {"finished": 9, "pruned": 3, "failed": 1, "tested": 2}


def predict(folder, signal, seed, n=400):
    """Write predictions whose d' is ``signal`` for validation and test."""
    draws = np.random.default_rng(seed)
    label = np.tile([0, 0, 0, 1], n // 4)
    folder.mkdir()
    write_predictions(
        folder,
        record_id=np.array([f"r{i}" for i in range(n)]),
        group=np.array([f"p{i // 2}" for i in range(n)]),
        part=np.repeat(["val", "test"], [n // 4, n - n // 4]),
        in_own=np.ones(n, bool),
        label=label.astype(np.int8),
        logit=label * np.asarray(signal) + draws.normal(size=n),
    )
    return folder


@pytest.fixture
def gain(tmp_path):
    winner, reference = predict(tmp_path / "ab", 2.0, 0), predict(tmp_path / "cd", 0.5, 1)
    table = measure_gain(winner, reference, EvaluationConfig(bootstrap=400))
    return table.set_index(["part", "metric"]), winner, reference


def test_the_figures_are_those_of_scikit_learn_on_each_part(gain):
    table, *folders = gain
    for part in ("val", "test"):
        scores = []
        for folder in folders:
            predictions = read_predictions(folder)
            rows = predictions.part == part
            scores.append((predictions.label[rows], predictions.logit[rows]))
        for metric, of in (
            ("average_precision", average_precision_score),
            ("auroc", roc_auc_score),
        ):
            row = table.loc[(part, metric)]
            assert row["winner"] == pytest.approx(of(*scores[0]))
            assert row["trial_0"] == pytest.approx(of(*scores[1]))
            assert row["difference"] == pytest.approx(row["winner"] - row["trial_0"])


def test_only_the_test_part_has_an_interval(gain):
    table, *_ = gain
    assert table.loc["val", ["low", "high", "p_value"]].isna().all(axis=None)
    test = table.loc["test"]
    assert (test["low"] < test["difference"]).all() and (test["difference"] < test["high"]).all()
    assert (test["p_value"] < 0.05).all()


def test_the_sentences_say_how_much_is_left_and_warn_of_the_choice(gain):
    said = describe_gain(gain[0].reset_index(), COUNTS, "text-full-bce-t7")
    assert said[0] == "9 trials finished, 3 pruned, 1 failed; the best is text-full-bce-t7."
    assert "of it), p" in said[1] and said[1].endswith(
        ": this one model is better on these patients."
    )
    assert "best of 12 on 25 positive and 75 negative validation records" in said[3]
    assert len(said) == 4
    again = describe_gain(gain[0].reset_index(), COUNTS | {"tested": 4}, "t7")
    assert again[-1].startswith("4 models of this search have been scored on the test part")


def test_what_may_be_chance_is_not_called_a_gain(tmp_path):
    noise = predict(tmp_path / "ab", 1.0, 3), predict(tmp_path / "cd", 1.0, 4)
    table = measure_gain(*noise, EvaluationConfig(bootstrap=400))
    assert "no difference is shown." in describe_gain(table, COUNTS, "t1")[1]


def test_a_search_without_winner_or_with_trial_0_as_winner_claims_nothing():
    assert describe_gain(None, COUNTS, None)[0].endswith("there is no winner yet.")
    assert "Trial 0" in describe_gain(None, COUNTS, "t0")[0]


def test_the_answer_to_a_search_names_the_audits_finding_once():
    search = {"directions": ["maximize"], "objectives": ["val_auroc"], "parameters": ["train.lr"]}
    study = {"source": "openi", "search": {**search, "said": ["3 trials finished."]}}
    leak = "the audit found that width alone predicts the label"
    first, second = search_answer(study, leak)
    assert first == (f"A search on openi data to maximize val auroc, over 1 parameters; {leak}.")
    assert second == "3 trials finished."
