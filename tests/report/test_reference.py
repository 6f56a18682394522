import numpy as np
import pytest

from cxr_ray.report.reference import f1_can_follow, printed_rows


def test_the_twelve_models_and_two_shuffled_rows_are_there_in_full():
    rows = printed_rows()
    models = {(row.model, row.dataset, row.loss) for row in rows if not row.perturbation}
    assert len(models) == 12
    assert [row.perturbation for row in rows if row.perturbation] == [
        "image_shuffled",
        "text_shuffled",
    ]
    assert all(0 < row.figure(metric) < 1 for row in rows for metric in row.digits)


def test_the_printed_f1_of_every_model_contradicts_its_precision_and_recall():
    for row in printed_rows():
        assert ("f1" in row.consistency_flag) == (not row.perturbation)
    repeated = [row for row in printed_rows() if "recall" in row.consistency_flag]
    assert [(row.model, row.dataset, row.loss) for row in repeated] == [
        ("multimodal", "full", "bce")
    ]


def test_an_f1_that_was_only_rounded_is_never_flagged():
    rng = np.random.default_rng(0)
    for digits in (2, 3, 4):
        for precision, recall in rng.random((300, 2)):
            f1 = 2 * precision * recall / (precision + recall)
            printed = [f"{value:.{digits}f}" for value in (precision, recall, f1)]
            assert f1_can_follow(*printed)
            assert not f1_can_follow(*printed[:2], f"{f1 + 3 * 10.0**-digits:.{digits}f}")


def test_fewer_printed_digits_are_taken_as_coarser_rounding():
    assert f1_can_follow(".50", ".50", ".5")
    assert f1_can_follow(".5", ".5", ".5480")
    assert not f1_can_follow(".50", ".50", ".548")


def test_each_accuracy_lies_in_its_interval_and_the_smaller_test_set_has_the_wider_one():
    rows = {(r.model, r.dataset, r.loss): r for r in printed_rows() if not r.perturbation}
    for row in rows.values():
        assert row.accuracy_interval.low < row.figure("accuracy") < row.accuracy_interval.high
    multimodal = rows["multimodal", "full", "bce"].accuracy_interval
    assert (multimodal.low, multimodal.high) == pytest.approx((0.9906, 0.9953), abs=1e-4)
