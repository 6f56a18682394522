import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cxr_ray.evaluation.leakage import Finding
from cxr_ray.report.audit import TextAudit
from cxr_ray.report.study_audit import (
    AUDIT_COLUMNS,
    StudyAudit,
    TextView,
    describe_grades,
    leak_clause,
    read_audit,
    write_study_audit,
)
from cxr_ray.report.trial_folder import write_predictions

VIEW = TextView("c" * 16, ("findings", "impression"), "label_terms")
READS, READS_NOT = "1" * 16, "2" * 16
REPEATED = tuple(f"r{number}" for number in range(40, 120))
# Each of them has the text of a record that neither validation nor test holds.
ALIKE = tuple((name, f"trained-{name}") for name in REPEATED)


def finding(kind, grade="information", value=0.5):
    return Finding(kind, grade, f"About {kind}.", value, 100, p_value=0.5)


@pytest.fixture
def audit():
    texts = (finding("identical_texts"), finding("text_probe", "finding", 0.99))
    records = (finding("shortcut:width", "finding", 0.7), finding("image_copies"))
    return StudyAudit(
        {VIEW.cohort: records},
        {VIEW: TextAudit(texts, (*ALIKE, ("r150", "r151", "r3")))},
        {READS: VIEW, "gone": VIEW},
    )


@pytest.fixture
def trials(tmp_path):
    """One trial that reads text and one that does not, with the same predictions."""
    rng = np.random.default_rng(0)
    label = np.tile([1, 0, 0, 0], 50).astype(np.int8)
    for identity in (READS, READS_NOT):
        (tmp_path / "trials" / identity).mkdir(parents=True)
        write_predictions(
            tmp_path / "trials" / identity,
            record_id=np.array([f"r{number}" for number in range(200)]),
            group=np.array([f"p{number}" for number in range(200)]),
            part=np.repeat(["val", "test"], [60, 140]),
            in_own=np.ones(200, bool),
            label=label,
            logit=label + rng.normal(size=200),
        )
    return tmp_path / "trials"


def study():
    plain = {"modality": "text", "dataset": "full", "loss": "bce", "seed": 0}
    return {"members": [{"experiment_id": i, **plain} for i in (READS, READS_NOT, "gone")]}


def test_the_table_has_a_row_a_check_and_the_gravest_first(audit):
    table = audit.table()
    assert list(table.columns) == list(AUDIT_COLUMNS)
    assert list(table["kind"]) == [
        "text_probe",
        "shortcut:width",
        "image_copies",
        "identical_texts",
    ]
    assert list(table["text"]) == ["findings + impression", "", "", VIEW.name]
    assert VIEW.name == "findings + impression, mask label_terms"


def test_a_probe_of_sections_that_models_mask_in_two_ways_is_told_once(audit):
    other = TextView(VIEW.cohort, VIEW.sections, "none")
    both = StudyAudit({}, {**audit.texts, other: audit.texts[VIEW]}, {})
    assert list(both.table()["kind"]) == ["text_probe", "identical_texts", "identical_texts"]


def test_a_model_that_reads_text_is_scored_again_without_texts_seen_in_training(audit, trials):
    (row,) = audit.rescored(trials, study()).to_dict("records")
    assert row["experiment_id"] == READS
    predictions = pd.read_parquet(trials / READS / "predictions.parquet")
    test = predictions[predictions["part"] == "test"]
    left = test[~test["record_id"].isin(REPEATED)]
    for table, suffix in ((test, ""), (left, "_left")):
        area = roc_auc_score(table["label"], table["logit"])
        assert row[f"auroc{suffix}"] == pytest.approx(area, abs=1e-12)
        assert (row[f"n{suffix}"], row[f"n_positive{suffix}"]) == (len(table), table["label"].sum())
        assert row[f"auroc{suffix}_low"] < area < row[f"auroc{suffix}_high"]
    assert (row["n"], row["n_left"]) == (140, 80)


def test_a_cross_validated_model_is_scored_fit_by_fit_each_by_its_own_training(audit, trials):
    label = np.array([1, 0, 1, 0, 1, 0, 1, 0], np.int8)
    for fold in (1, 2):
        (trials / f"fit{fold}").mkdir()
        test = slice(4 * fold - 4, 4 * fold)
        write_predictions(
            trials / f"fit{fold}",
            record_id=np.array([f"r{number}" for number in range(8)])[test],
            group=np.array([f"p{number}" for number in range(8)])[test],
            part=np.repeat("test", 4),
            in_own=np.ones(4, bool),
            label=label[test],
            logit=np.array([0.0, 1.0, 3.0, 2.0] if fold == 1 else [2.0, 1.0, 4.0, 3.0]),
        )
    # The text of r0 is that of r4, which the first fit was trained on; r6 and r7 stay in one fold.
    alike = TextAudit((), (("r0", "r4"), ("r6", "r7")))
    audit = StudyAudit({}, {VIEW: alike}, {"fit1": VIEW, "fit2": VIEW})
    fits = [{"experiment_id": f"fit{fold}", "repeat": 1, "fold": fold} for fold in (1, 2)]
    whole = {**study()["members"][0], "experiment_id": "all", "fits": fits}
    (row,) = audit.rescored(trials, {"members": [whole]}).to_dict("records")
    # Fold 1: positives 0 and 3 against 1 and 2, half of the pairs; without r0 all of them.
    # Fold 2: positives 2 and 4 against 1 and 3, three of four pairs; without r4 all of them.
    assert (row["auroc"], row["auroc_left"]) == ((0.5 + 0.75) / 2, 1.0)
    assert [row[name] for name in ("n", "n_positive", "n_left", "n_positive_left")] == [8, 4, 6, 2]


def test_without_a_class_left_there_is_no_figure_and_no_error(audit, trials):
    everything = TextAudit((), tuple((f"r{number}", "trained") for number in range(200)))
    audit = StudyAudit(audit.records, {VIEW: everything}, audit.views)
    (row,) = audit.rescored(trials, study()).to_dict("records")
    assert row["n_left"] == 0
    assert np.isnan(row["auroc_left"])


def test_the_sentence_counts_by_grade_and_names_the_gravest(audit):
    assert describe_grades(audit.table()) == (
        "Leakage audit: 2 findings (the gravest: text_probe), 2 checks for information."
    )
    quiet = StudyAudit({"c": (finding("image_copies"),)}, {}, {}).table()
    assert describe_grades(quiet) == "Leakage audit: 0 findings, 1 checks for information."


@pytest.mark.parametrize(
    ("kind", "value", "clause"),
    [
        ("image_copies", 3.0, "3 images of validation and test occur in an earlier part too"),
        ("text_probe", 0.99, "word counts of the text alone predict the label (AUROC .9900)"),
        ("text_probe:label_terms", 0.8, "in the text masked words carry the label"),
        ("label_words", 0.7, "the text holds the label's words in one class more"),
        ("shortcut:image width", 0.7, "image width alone predicts the label (AUROC .7000)"),
    ],
)
def test_the_gravest_finding_is_one_clause_of_the_answer(kind, value, clause):
    grave = TextAudit((finding(kind, "finding", value), finding("identical_texts")), ())
    said = leak_clause(StudyAudit({}, {VIEW: grave}, {}).table())
    assert said.startswith(f"the audit found that {clause}")
    assert "more" not in said.removeprefix(f"the audit found that {clause}")


def test_further_findings_are_counted_and_without_any_there_is_no_clause(audit):
    assert leak_clause(audit.table()).endswith(", and 1 thing more")
    assert leak_clause(StudyAudit({"c": (finding("image_copies"),)}, {}, {}).table()) is None


def test_the_files_name_no_record(audit, trials, tmp_path):
    write_study_audit(tmp_path, trials, study(), audit)
    assert not any(name in (tmp_path / "audit.csv").read_text() for name in REPEATED)
    found, rescored = read_audit(tmp_path)
    assert len(found) == 4
    assert list(rescored["experiment_id"]) == [READS]


def test_a_study_without_an_audit_has_empty_tables(tmp_path):
    assert [len(table) for table in read_audit(tmp_path)] == [0, 0]
