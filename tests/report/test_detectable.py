import pytest

from cxr_ray.report.detectable import (
    count_tested,
    describe_power,
    format_difference,
    power_clause,
)

MANIFEST = {
    "records": 1_000,
    "positive": 150,
    "parts": {"train": {"n": 700, "n_positive": 105}, "test": {"n": 200, "n_positive": 20}},
    "folds": [{"n": 450, "n_positive": 60}, {"n": 450, "n_positive": 60}],
}


def test_a_held_out_test_part_is_what_models_are_compared_on():
    assert count_tested(MANIFEST, "holdout") == count_tested(MANIFEST, "official") == (20, 180)


def test_out_of_fold_every_record_of_a_fold_is_tested():
    assert count_tested(MANIFEST, "kfold") == (120, 780)


def test_the_smallest_difference_is_said_alone_and_after_holm():
    assert describe_power(432, 4_391, 20, "holdout") == (
        "smallest AUROC difference that this test set (432 positive, 4391 negative records) shows "
        "in four of five cases: .037 at AUROC .80, .028 at AUROC .90; after Holm's correction for "
        "20 comparisons .050 and .039"
    )
    assert "Holm" not in describe_power(432, 4_391, 1, "holdout")


@pytest.mark.parametrize(("positives", "negatives"), [(20, 180), (180, 20), (0, 50)])
def test_under_a_hundred_events_of_a_class_kfold_is_advised(positives, negatives):
    said = describe_power(positives, negatives, 20, "holdout")
    assert "--set data.split.kind=kfold" in said.splitlines()[1]
    said = describe_power(positives, negatives, 1, "holdout", search=True)
    assert "cross-validate what the search finds" in said and "kfold" not in said


def test_kfold_is_not_advised_where_it_is_on_or_events_are_many():
    assert "kfold" not in describe_power(20, 180, 20, "kfold")
    assert "kfold" not in describe_power(100, 100, 20, "holdout")


def test_a_test_set_of_one_class_shows_nothing():
    assert "can show no difference: a class is absent" in describe_power(0, 50, 20, "holdout")
    assert power_clause(0, 50, 20) == ""


def test_the_clause_is_about_the_whole_family():
    assert "differ by about .24 (at AUROC .80) or .18 (at AUROC .90) to be" in power_clause(
        20, 180, 20
    )


def test_the_test_over_folds_is_said_to_need_more():
    more = "the test over folds, which counts other training parts too, needs more than that"
    assert more in describe_power(20, 180, 20, "kfold")
    assert more in power_clause(20, 180, 20, over_folds=True)
    assert "folds" not in describe_power(20, 180, 20, "official") + power_clause(20, 180, 20)


def test_two_digits_count():
    assert [format_difference(value) for value in (0.00996, 0.0995, 0.0994)] == [
        ".010",
        ".10",
        ".099",
    ]
