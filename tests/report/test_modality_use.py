import numpy as np
import pytest
import torch

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.evaluation.delong import auroc_interval
from cxr_ray.evaluation.ranking import auroc
from cxr_ray.models.fusion import FUSIONS, build_head
from cxr_ray.report import modality_use as module
from cxr_ray.report.modality_use import ScoredRecords, modality_use

QUICK = EvaluationConfig(permutations=19, bootstrap=100)
ADDITIVE_ONLY = {f"{kind}_share{where}" for kind in ("variance", "covariance")
                 for where in ("", "_within_class")}  # fmt: skip


def stored(kind, size=300, seed=0):
    """What a trial's features.npz holds, for a random head that reads 6 + 4 features."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    head = build_head(kind, (6, 4), 8)
    features = {
        "kind": np.array(kind),
        "image": rng.normal(size=(size, 6)).astype(np.float32),
        "text": rng.normal(size=(size, 4)).astype(np.float32),
        "train_mean.image": np.full(6, 0.1, dtype=np.float32),
        "train_mean.text": np.full(4, -0.2, dtype=np.float32),
        **{f"head.{name}": value.detach().numpy() for name, value in head.named_parameters()},
    }
    with torch.no_grad():
        logit = head([torch.from_numpy(features[name]) for name in ("image", "text")]).numpy()
    label = (logit + rng.normal(size=size) * logit.std() / 2 > np.quantile(logit, 0.7)).astype(
        np.int8
    )
    return features, logit, ScoredRecords(np.arange(size), label, np.arange(size)), head


def of(rows, **wanted):
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


@pytest.mark.parametrize("kind", FUSIONS)
def test_every_kind_of_head_gets_every_measure_that_it_has(kind):
    features, logit, tested, head = stored(kind)
    sensitivity, contribution = modality_use(features, tested, QUICK, 7)
    assert {row["perturbation"] for row in sensitivity} == {
        f"{modality}_{how}"
        for modality in ("image", "text")
        for how in ("shuffled", "shuffled_within_class", "missing")
    }
    for row in of(sensitivity, metric="auroc"):
        assert row["intact"] == pytest.approx(auroc(tested.label, logit), abs=1e-6)
        assert row["low"] <= row["high"]
    measures = {row["measure"] for row in contribution}
    expected = {"shapley", "conditional_utilization"}
    assert measures == (expected | ADDITIVE_ONLY if kind in ("concat", "average") else expected)
    image, text, both = (row["value"] for row in of(contribution, measure="shapley"))
    assert image + text == pytest.approx(both, abs=1e-9)
    mean = torch.from_numpy(features["train_mean.image"]).expand(300, 6)
    with torch.no_grad():
        without = head([mean, torch.from_numpy(features["text"])]).numpy()
    (row,) = of(sensitivity, perturbation="image_missing", metric="auroc")
    assert row["perturbed"] == pytest.approx(auroc(tested.label, without), abs=1e-6)


def test_the_same_experiment_gets_the_same_figures_and_another_other_draws():
    features, _, tested, _ = stored("mlp")
    assert modality_use(features, tested, QUICK, 7) == modality_use(features, tested, QUICK, 7)
    assert modality_use(features, tested, QUICK, 7) != modality_use(features, tested, QUICK, 8)


def test_heads_that_are_not_additive_get_as_many_permutations_as_a_verdict_needs():
    config = EvaluationConfig(permutations=1999, bootstrap=100)
    for kind, repeats in (("bilinear", 499), ("average", 1999)):
        features, _, tested, _ = stored(kind, size=60)
        sensitivity, contribution = modality_use(features, tested, config, 7)
        assert {row["repeats"] for row in sensitivity} == {repeats, 0}
        (shapley,) = of(contribution, measure="shapley", modality="image")
        assert shapley["verdict"] == "used"


def test_attention_is_tested_on_a_fixed_subset_with_the_same_share_of_positives(monkeypatch):
    monkeypatch.setattr(module, "ATTENTION_RECORDS", 100)
    features, logit, tested, _ = stored("cross_attention", size=300)
    fewer = tested.at_most(100, np.random.default_rng([7, 0xA7]))
    assert len(fewer.rows) == len(set(fewer.rows)) == 100
    assert fewer.label.mean() == pytest.approx(tested.label.mean(), abs=0.01)
    assert (tested.label[fewer.rows] == fewer.label).all()
    sensitivity, _ = modality_use(features, tested, QUICK, 7)
    (row,) = of(sensitivity, perturbation="text_shuffled", metric="auroc")
    assert row["intact"] == pytest.approx(auroc(fewer.label, logit[fewer.rows]), abs=1e-6)
    assert tested.at_most(300, np.random.default_rng(0)) is tested


def test_stored_probes_are_scored_with_an_interval_and_no_verdict():
    features, logit, tested, _ = stored("concat")
    features["probe.image"], features["probe.both"] = logit, -logit
    _, contribution = modality_use(features, tested, QUICK, 7)
    image, both = of(contribution, measure="refitted_probe")
    wanted = auroc_interval(tested.label, logit)
    assert (image["value"], image["low"], image["high"]) == (wanted.auroc, wanted.low, wanted.high)
    assert (image["modality"], both["modality"]) == ("image", "both")
    assert both["value"] == pytest.approx(1 - image["value"])
    assert image["verdict"] is both["verdict"] is None


def test_features_of_one_modality_have_no_rows():
    features, _, tested, _ = stored("concat")
    del features["text"]
    assert modality_use(features, tested, QUICK, 7) == ([], [])
