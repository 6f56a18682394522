import hashlib
import itertools

import numpy as np
import pandas as pd
import pytest

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.evaluation.delong import delong_test
from cxr_ray.evaluation.multiplicity import holm
from cxr_ray.evaluation.thresholds import f1_operating_point
from cxr_ray.report import joint_draws as module
from cxr_ray.report.comparisons import (
    COLUMNS,
    compare_trials,
    comparisons_table,
    read_comparisons,
)
from cxr_ray.report.contrasts import declared_contrasts
from cxr_ray.report.trial_folder import write_predictions

CONFIG = EvaluationConfig(bootstrap=100)
AXES = {
    "modality": ["multimodal", "image", "text"],
    "dataset": ["full", "sub75"],
    "loss": ["bce", "focal"],
}
COMPARE = {"modality": "multimodal", "dataset": "full", "loss": "bce"}
LOSS_ONLY = {"axes": {"loss": ["bce", "focal"]}, "compare": {"loss": "bce"}}
EXPLORED = {"accuracy_at_val", "precision_at_val", "recall_at_val", "f1_at_val"} | {
    "average_precision"
}


def identity_of(name):
    return hashlib.sha256(name.encode()).hexdigest()[:16]


class Study:
    """Trials that were never trained: logits of a given signal, on the same patients."""

    def __init__(self, folder, axes, compare, size=400, salt=""):
        self.trials, self.salt = folder, salt
        self.record = {"axes": axes, "compare": compare, "members": [], "left_out": []}
        shared = np.random.default_rng(0)
        self.label = (shared.random(2 * size) < 0.25).astype(np.int8)
        self.patients = shared.normal(size=2 * size)
        self.part = np.repeat(["val", "test"], size)

    def add(self, signal, *, seed=0, shift=0.0, done=True, keep=slice(None), **levels):
        named = {"modality": "multimodal", "dataset": "full", "loss": "bce", **levels}
        first = [named.pop(axis) for axis in ("modality", "dataset", "loss")]
        name = "-".join([*first, *named.values(), *([f"seed{seed}"] if seed else [])])
        identity = identity_of(name)
        member = dict(zip(("modality", "dataset", "loss"), first, strict=True))
        member |= {"experiment_id": identity, "name": name, "seed": seed, "further": named}
        self.record["members"].append(member)
        if not done:
            return identity
        folder = self.trials / identity
        folder.mkdir()
        (folder / "result.json").write_text("{}")
        size = len(self.label)
        own = np.random.default_rng([int(identity, 16), 1]).normal(size=size)
        ids = [hashlib.sha256(f"{self.salt}{i}".encode()).hexdigest() for i in range(size)]
        owners = [ids[i - i % 2] for i in range(size)]  # two records a patient
        columns = {
            "record_id": np.array(ids),
            "group": np.array(owners),
            "part": self.part,
            "in_own": np.ones(size, dtype=bool),
            "label": self.label,
            "logit": signal * self.label + 0.7 * self.patients + 0.7 * own + shift,
        }
        write_predictions(folder, **{k: v[keep] for k, v in columns.items()})
        return identity

    def left_out(self, name, reason, **levels):
        self.record["left_out"].append({"name": name, "reason": reason, "levels": levels})

    def compare(self, ended=None, config=CONFIG):
        return compare_trials(self.trials, self.record, ended or {}, config)


@pytest.fixture
def study(tmp_path):
    return lambda axes=AXES, compare=COMPARE, **how: Study(tmp_path, axes, compare, **how)


@pytest.fixture
def paper12(study):
    """Twelve arms: text reads the label, images hardly, and nothing else matters."""
    whole = study()
    for modality, dataset, loss in itertools.product(*AXES.values()):
        signal = {"multimodal": 2.0, "image": 0.5, "text": 2.0}[modality]
        whole.add(signal, modality=modality, dataset=dataset, loss=loss)
    return whole


def primary_of(table):
    return table[table["family"] == "primary"]


def test_twelve_arms_give_the_twenty_declared_comparisons_and_an_exploratory_family(paper12):
    table = paper12.compare()
    assert tuple(table.columns) == COLUMNS
    primary = primary_of(table)
    assert primary.groupby("axis").size().to_dict() == {"modality": 8, "dataset": 6, "loss": 6}
    assert set(primary["metric"]) == {"auroc"}
    explored = table[table["family"] == "exploratory"]
    assert len(explored) == 5 * 20
    assert set(explored["metric"]) == EXPLORED
    assert set(table["test_set"]) == {"full"}
    assert not table.isna().any(axis=None)
    assert not table.duplicated(["axis", "level_a", "level_b", "held", "metric"]).any()
    assert (primary.loc[primary["level_a"] == "image", "verdict"] == "b higher").all()
    assert (primary.loc[primary["axis"] != "modality", "verdict"] == "not separated").all()


def test_every_other_level_meets_the_reference_with_all_else_held():
    contrasts = declared_contrasts({"a": ["x", "y", "z"], "b": ["u", "v"]}, {"a": "y"})
    assert [(c.level, c.reference, dict(c.held)) for c in contrasts] == [
        ("x", "y", {"b": "u"}),
        ("x", "y", {"b": "v"}),
        ("z", "y", {"b": "u"}),
        ("z", "y", {"b": "v"}),
    ]
    assert declared_contrasts({"a": ["x"]}, {"a": "x"}) == []


def test_the_primary_family_is_delong_over_patients_on_the_full_test_set_after_holm(paper12):
    primary = primary_of(paper12.compare())
    test = paper12.part == "test"
    row = primary[(primary["level_a"] == "image") & primary["held"].eq("dataset=full, loss=bce")]
    logits = []
    for name in ("image-full-bce", "multimodal-full-bce"):
        path = paper12.trials / identity_of(name) / "predictions.parquet"
        logits.append(pd.read_parquet(path)["logit"].to_numpy()[test])
    groups = np.arange(len(test))[test] // 2
    exact = delong_test(paper12.label[test], *logits, groups=groups)
    assert row["difference"].item() == pytest.approx(exact.difference)
    assert row["p_value"].item() == pytest.approx(exact.p_value)
    assert (row["low"].item(), row["high"].item()) == pytest.approx((exact.low, exact.high))
    assert row["method"].item() == "delong_clustered"
    np.testing.assert_allclose(primary["p_holm"], holm(primary["p_value"]))


def test_figures_are_read_at_the_threshold_that_validation_chose(study):
    two = study(**LOSS_ONLY)
    calls = {}
    for loss, shift in (("bce", 0.0), ("focal", 3.0)):
        identity = two.add(1.5, loss=loss, shift=shift)
        frame = pd.read_parquet(two.trials / identity / "predictions.parquet")
        val, test = frame[frame["part"] == "val"], frame[frame["part"] == "test"]
        chosen = f1_operating_point(val["label"], val["logit"]).threshold
        calls[loss] = ((test["logit"] >= chosen) == test["label"]).mean()
    table = two.compare().set_index("metric")
    row = table.loc["accuracy_at_val"]
    assert row["difference"] == pytest.approx(calls["focal"] - calls["bce"])
    assert abs(row["difference"]) < 0.1  # at .5 a shift of 3 would call nearly all positive
    assert row["method"] == "bootstrap_paired"


def test_arms_that_are_missing_keep_their_place_in_the_family_with_the_reason(study):
    part = study()
    part.add(2.0)
    part.add(1.4, modality="text")
    part.add(0.0, modality="image", done=False)
    failed = part.add(0.0, loss="focal", done=False)
    part.left_out(
        "multimodal-sub75-bce", "too rare", modality="multimodal", dataset="sub75", loss="bce"
    )
    table = part.compare({failed: {"status": "failed", "reason": "the loss is not finite"}})
    primary = primary_of(table)
    assert len(primary) == 20
    made = primary[primary["verdict"] != "not compared"]
    assert len(made) == 1
    assert made["p_holm"].item() == pytest.approx(min(1, 20 * made["p_value"].item()))
    held = primary.set_index(["level_a", "held"])["method"]
    assert held["image", "dataset=full, loss=bce"] == "none: image-full-bce is not trained"
    assert held["focal", "modality=multimodal, dataset=full"] == (
        "none: multimodal-full-focal failed: the loss is not finite"
    )
    assert held["sub75", "modality=multimodal, loss=bce"] == (
        "none: multimodal-sub75-bce is left out: too rare"
    )
    missing = table[table["verdict"] == "not compared"]
    assert missing[["difference", "low", "high", "p_value", "p_holm"]].isna().all(axis=None)


def test_draws_follow_neither_the_salt_nor_other_axes_of_the_study(tmp_path):
    tables = []
    for salt in ("one", "other"):
        (tmp_path / salt).mkdir()
        two = Study(tmp_path / salt, **LOSS_ONLY, salt=salt)
        two.add(1.5)
        two.add(1.2, loss="focal")
        tables.append(two.compare())
    pd.testing.assert_frame_equal(*tables)
    two.record["axes"] = {"dataset": ["full", "sub75"], "loss": ["bce", "focal"]}
    wider = two.compare()
    drawn = wider[(wider["held"] == "dataset=full") & (wider["axis"] == "loss")]
    for name in ("difference", "low", "high", "p_value"):
        assert drawn[name].tolist() == tables[0][name].tolist()


def test_one_model_under_two_names_does_not_differ(study, monkeypatch):
    two = study(**LOSS_ONLY)
    first, second = two.add(1.5), two.add(1.5, loss="focal")
    (two.trials / second / "predictions.parquet").write_bytes(
        (two.trials / first / "predictions.parquet").read_bytes()
    )
    table = two.compare()
    assert (table["difference"] == 0).all()
    assert (table["p_value"] == 1).all()
    assert set(table["verdict"]) == {"not separated"}


def test_three_seeds_are_crossed_with_patients(study):
    seeded = study(**LOSS_ONLY)
    for loss, signal in (("bce", 0.4), ("focal", 2.0)):
        for seed in range(3):
            seeded.add(signal, seed=seed, loss=loss)
    table = seeded.compare()
    assert set(table["method"]) == {"bootstrap_crossed, 3 seeds"}
    assert primary_of(table)["verdict"].item() == "a higher"


def test_under_three_seeds_one_seed_is_compared_and_said(study):
    seeded = study(**LOSS_ONLY)
    for loss in ("bce", "focal"):
        for seed in range(2):
            seeded.add(1.0, seed=seed, loss=loss)
    table = seeded.compare()
    assert set(table["method"]) == {
        "delong_clustered, seed 0 only",
        "bootstrap_paired, seed 0 only",
    }


def test_seeds_of_which_none_is_common_are_not_compared(study):
    seeded = study(**LOSS_ONLY)
    seeded.add(1.0, seed=1)
    seeded.add(1.0, seed=2, loss="focal")
    table = seeded.compare()
    assert set(table["verdict"]) == {"not compared"}
    assert set(table["method"]) == {"none: the two have no training seed in common"}


def test_only_shared_test_records_are_compared(study):
    two = study(**LOSS_ONLY)
    two.add(1.5)
    two.add(1.5, loss="focal", keep=slice(0, 600))
    assert primary_of(two.compare())["method"].item() == (
        "delong_clustered, on the 200 test records of both"
    )


def test_records_with_other_labels_are_not_compared(study):
    two = study(**LOSS_ONLY)
    two.add(1.5)
    two.label = 1 - two.label
    two.add(1.5, loss="focal")
    assert set(two.compare()["method"]) == {
        "none: the two have different labels of the same records"
    }


@pytest.mark.parametrize("level", ["0.10", "none", "NA", "true"])
def test_the_table_reads_as_it_was_written(study, tmp_path, level):
    two = study({"loss": ["bce", level]}, {"loss": "bce"})
    two.add(1.5)
    two.add(1.5, loss=level)
    table = two.compare()
    table.to_csv(tmp_path / "comparisons.csv", index=False)
    again = read_comparisons(tmp_path / "comparisons.csv")
    pd.testing.assert_frame_equal(again, table, check_dtype=False)


def test_a_grid_of_one_arm_compares_nothing(study, tmp_path):
    one = study({"loss": ["bce"]}, {"loss": "bce"})
    one.add(1.0)
    table = one.compare()
    assert table.empty
    assert tuple(table.columns) == COLUMNS


def test_a_large_family_gets_more_resamples(study, monkeypatch, paper12):
    asked = []

    def spy(*arguments, n_resamples, **options):
        asked.append(n_resamples)
        return original(*arguments, n_resamples=100, **options)

    original = module.joint_bootstrap
    monkeypatch.setattr(module, "joint_bootstrap", spy)
    paper12.compare(config=EvaluationConfig())
    paper12.record |= {"axes": {"loss": ["bce", "focal"]}, "compare": {"loss": "bce"}}
    del paper12.record["members"][2:]
    paper12.compare(config=EvaluationConfig())
    assert asked == [10_000, 2_000]  # once for all comparisons of a study


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("shortened", [None, "more", "fewer"])
def test_a_third_arm_leaves_the_comparison_of_two_as_it_was(study, seeds, shortened):
    # Draws follow the first of the experiments' ids: here one of the reference's, in both studies.
    every = [f"loss{number}" for number in range(50)]
    ids = {
        loss: [
            identity_of(f"multimodal-full-{loss}" + f"-seed{seed}" * bool(seed))
            for seed in range(seeds)
        ]
        for loss in every
    }
    reference, *others = sorted(every, key=lambda loss: min(ids[loss]))
    third, second = others[:2]
    levels = [reference, third, second]
    # of the test records a third arm, or the second, has half
    keep = {None: {}, "more": {third: 600}, "fewer": {second: 600}}[shortened]
    three = study({"loss": levels}, {"loss": reference})
    for signal, loss in enumerate(levels):
        for seed in range(seeds):
            three.add(1 + signal / 3, seed=seed, loss=loss, keep=slice(0, keep.get(loss)))
    tables = [three.compare()]
    three.record["axes"] = {"loss": [reference, second]}
    three.record["members"] = [m for m in three.record["members"] if m["loss"] != third]
    tables.append(three.compare())
    one, other = (
        table.loc[table.level_a == second, ["metric", "difference", "low", "high", "p_value"]]
        for table in tables
    )
    assert (other["low"] < other["difference"]).all()
    pd.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True))


def test_the_printed_table_says_what_the_family_shows(paper12):
    text = comparisons_table(paper12.compare(), seeds=1).to_text()
    assert "Of 20 comparisons 4 separate after Holm's correction for all 20." in " ".join(
        text.split()
    )
    assert text.count("multimodal higher") == 4
    assert "these trained models on these patients" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 110


def test_a_table_of_no_comparison_is_a_sentence_without_heads(study):
    alone = study()
    alone.add(2.0, modality="text", dataset="full", loss="bce")
    table = comparisons_table(alone.compare(), seeds=1)
    assert table.to_text() == (
        "Comparisons\nNone of the 20 declared comparisons could be made; comparisons.csv says why."
    )
    assert "|" not in table.to_markdown()
