import numpy as np
import pandas as pd
import pytest

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.evaluation.metrics import score_predictions
from cxr_ray.evaluation.seeds import crossed_bootstrap
from cxr_ray.report.leaderboard import TEST_SETS
from cxr_ray.report.paper_tables import paper_tables
from cxr_ray.report.performance import score_test_set
from cxr_ray.report.seed_summary import named_arms, pool_seeds, summary_table
from cxr_ray.report.study_tables import compare_arms
from cxr_ray.report.trial_folder import read_predictions, write_predictions

CONFIG = EvaluationConfig(bootstrap=100)
SIZE = 300


class Seeded:
    """Trials that were never trained, some of them on a sub-sampled set of their own."""

    def __init__(self, folder):
        self.trials, self.members, self.rows = folder, [], []
        rng = np.random.default_rng(0)
        self.label = (rng.random(2 * SIZE) < 0.3).astype(np.int8)
        self.shared = rng.normal(size=2 * SIZE)
        self.kept = (self.label == 1) | (np.arange(2 * SIZE) % 2 == 0)

    def add(self, modality, signal, *, seeds, dataset="full", loss="bce", keep=slice(None)):
        for seed in range(seeds):
            identity = f"{len(self.members) + 1:016x}"
            member = {"experiment_id": identity, "modality": modality, "dataset": dataset}
            member |= {"loss": loss, "seed": seed, "further": {}}
            self.members.append(member)
            folder = self.trials / identity
            folder.mkdir()
            own = np.random.default_rng(int(identity, 16)).normal(size=2 * SIZE)
            columns = {
                "record_id": np.array([f"r{place}" for place in range(2 * SIZE)]),
                "group": np.array([f"p{place // 2}" for place in range(2 * SIZE)]),
                "part": np.repeat(["val", "test"], SIZE),
                "in_own": np.ones(2 * SIZE, bool) if dataset == "full" else self.kept,
                "label": self.label,
                "logit": signal * self.label + 0.8 * self.shared + 0.6 * own - signal / 2,
            }
            write_predictions(folder, **{name: each[keep] for name, each in columns.items()})
            named = {name: value for name, value in member.items() if name != "further"}
            for test_set in TEST_SETS:
                figures = score_test_set(read_predictions(folder), test_set, CONFIG, 1)
                self.rows.append({**named, "test_set": test_set, **figures, "status": "done"})

    @property
    def leaderboard(self):
        return pd.DataFrame(self.rows)

    def pool(self):
        return pool_seeds(self.leaderboard, self.trials, self.members, CONFIG)

    def separates(self):
        return compare_arms(self.trials, self.members, self.leaderboard)


@pytest.fixture
def seeded(tmp_path):
    return Seeded(tmp_path)


def test_an_arm_has_the_mean_over_seeds_of_each_metric_and_not_that_of_averaged_scores(seeded):
    seeded.add("text", 1.5, seeds=3)
    own, full = seeded.pool().to_dict("records")
    test = slice(SIZE, None)
    models = [read_predictions(seeded.trials / each["experiment_id"]) for each in seeded.members]
    for metric in ("auroc", "accuracy", "brier", "mcc"):
        values = [
            score_predictions(m.label[test], m.probability[test], score=m.logit[test])[metric]
            for m in models
        ]
        assert full[metric] == pytest.approx(np.mean(values))
        assert full[f"{metric}_sd"] == pytest.approx(np.std(values, ddof=1))
        assert (full[f"{metric}_min"], full[f"{metric}_max"]) == (min(values), max(values))
    averaged = np.mean([m.logit[test] for m in models], axis=0)
    assert (
        full["auroc"]
        < score_predictions(models[0].label[test], 1 / (1 + np.exp(-averaged)), score=averaged)[
            "auroc"
        ]
    )
    assert (full["n_seeds"], full["n"], own["test_set"]) == (3, SIZE, "own")
    assert own["auroc_low"] == full["auroc_low"]  # the same records, drawn alike


def test_from_three_seeds_on_the_mean_has_the_crossed_interval(seeded):
    seeded.add("text", 1.5, seeds=3)
    full = seeded.pool().set_index("test_set").loc["full"]
    models = [read_predictions(seeded.trials / each["experiment_id"]) for each in seeded.members]
    drawn = crossed_bootstrap(
        seeded.label[SIZE:],
        [[model.logit[SIZE:] for model in models]],
        groups=np.arange(SIZE) // 2,
        rng=np.random.default_rng(5),
        n_resamples=2_000,
    )
    for metric in ("auroc", "recall", "brier"):
        bounds = drawn.interval(0, metric)
        assert full[f"{metric}_low"] == pytest.approx(bounds.low, abs=0.02)
        assert full[f"{metric}_high"] == pytest.approx(bounds.high, abs=0.02)
        assert full[f"{metric}_method"] == "bootstrap_crossed"
    for metric in ("accuracy_at_val", "recall_at_spec95", "f1_at_youden"):
        assert full[f"{metric}_low"] < full[metric] < full[f"{metric}_high"]
    assert full["ece_method"] == "none: only within a seed"
    assert np.isnan(full["ece_low"])


def test_under_three_seeds_there_is_no_interval_and_the_method_says_why(seeded):
    seeded.add("text", 1.5, seeds=2)
    seeded.add("image", 1.5, seeds=1)
    pooled = seeded.pool().set_index(["modality", "test_set"])
    two, one = pooled.loc["text", "full"], pooled.loc["image", "full"]
    for row in (two, one):
        assert row["auroc_method"] == "none: under 3 seeds"
        assert np.isnan(row["auroc_low"]) and np.isnan(row["auroc_high"])
    assert two["auroc_sd"] > 0
    assert np.isnan(one["auroc_sd"]) and one["auroc_min"] == one["auroc_max"] == one["auroc"]


def test_a_sub_sampled_arm_has_rows_of_both_test_sets(seeded):
    seeded.add("text", 1.5, seeds=3, dataset="sub75")
    seeded.add("text", 1.5, seeds=3)
    rows = named_arms(seeded.pool())
    assert list(zip(rows["name"], rows["test_set"], strict=True)) == [
        ("text-sub75-bce", "own"),
        ("text-sub75-bce", "full"),
        ("text-full-bce", "both"),
    ]
    assert rows["n"].iloc[0] == seeded.kept[SIZE:].sum()
    assert rows["recall"].iloc[0] == rows["recall"].iloc[1]
    assert rows["accuracy_low"].iloc[0] != rows["accuracy_low"].iloc[1]


def test_seeds_on_different_records_are_averaged_without_an_interval(seeded):
    seeded.add("text", 1.5, seeds=2)
    seeded.add("text", 1.5, seeds=1, keep=slice(0, 500))
    seeded.rows[-1]["seed"] = seeded.rows[-2]["seed"] = 2
    full = seeded.pool().set_index("test_set").loc["full"]
    assert full["n_seeds"] == 3
    assert full["auroc_method"] == "none: the seeds were tested on different records"


def test_cross_validated_arms_are_averaged_without_an_interval(seeded):
    seeded.add("text", 1.5, seeds=3)
    seeded.members[0]["fits"] = []
    assert set(seeded.pool()["auroc_method"]) == {
        "none: cross-validated, see the intervals of each seed"
    }


def test_the_printed_table_has_an_arm_a_line_within_the_width_of_a_terminal(seeded):
    for modality in ("multimodal", "image"):
        seeded.add(modality, 1.5, seeds=3, dataset="sub75", loss="focal")
    pooled = seeded.pool()
    table = summary_table(pooled, ["text-full-bce failed."])
    assert len(table.rows) == 4
    assert max(map(len, table.to_text().splitlines())) <= 110
    row = pooled.iloc[0]
    low, high = (f"{row[f'auroc_{side}']:.4f}".removeprefix("0") for side in ("low", "high"))
    mean, spread = f"{row['auroc']:.4f}"[1:], f"{row['auroc_sd']:.3f}"[1:]
    assert table.rows[0][table.columns.index("AUROC")] == f"{mean}±{spread} [{low}-{high}]"
    text = " ".join(table.to_text().split())
    assert "Mean over 3 training seeds ± standard deviation over seeds" in text
    assert "for other seeds and other patients" in text
    assert text.endswith("text-full-bce failed.")


def test_the_papers_tables_mark_what_separates_over_seeds(seeded):
    seeded.add("multimodal", 3.0, seeds=3)
    seeded.add("image", 0.5, seeds=3)
    seeded.add("text", 0.5, seeds=3)
    separates = seeded.separates()
    arms = [(modality, "full", "bce") for modality in ("multimodal", "image", "text")]
    apart = {(arms[0], arms[1]): True, (arms[0], arms[2]): True, (arms[1], arms[2]): False}
    assert separates == apart
    table = paper_tables(seeded.leaderboard, separates=separates).tables[0]
    column = table.columns.index("AUROC")
    cells = {row[0]: row[column] for row in table.rows}
    own = seeded.leaderboard.query("modality == 'multimodal' and test_set == 'own'")
    assert cells["multimodal"] == f"{own['auroc'].mean():.4f}"[1:] + "*"
    assert not cells["image"].endswith("*")
    assert "mean of 3 seeds" in table.caption


def test_two_seeds_or_one_beside_three_are_not_compared(seeded):
    seeded.add("multimodal", 3.0, seeds=2)
    seeded.add("image", 0.5, seeds=2)
    seeded.add("text", 0.5, seeds=1)
    assert seeded.separates() == {}
