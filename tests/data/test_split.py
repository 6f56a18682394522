import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import configured

from cxr_ray.data.split import (
    assign_fit_parts,
    assign_folds,
    assign_parts,
    check_folds,
    natural_majority_share,
    own_members,
    read_parts,
)
from cxr_ray.errors import InputError

SHARES = (0.7, 0.1, 0.2)


def records(number, positive, patients=None, seed=0):
    rng = np.random.default_rng(seed)
    label = (np.arange(number) < positive).astype(np.int8)
    patient = np.array([f"p{i}" for i in range(number)], object)
    if patients:
        patient = np.array([f"p{i}" for i in rng.integers(0, patients, number)], object)
    record = np.array([f"r{i}" for i in range(number)], object)
    return record, patient, label


def test_shares_are_met_in_each_class_to_one_record():
    _, patient, label = records(2000, 200)
    part = assign_parts(patient, label, SHARES, 0)
    for value, number in ((1, 200), (0, 1800)):
        counts = [(part[label == value] == name).sum() for name in ("train", "val", "test")]
        assert np.abs(np.array(counts) - np.array(SHARES) * number).max() <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 5))
def test_a_patient_is_in_one_part_whatever_the_order_of_rows(shuffle, seed):
    _, patient, label = records(300, 60, patients=120)
    part = assign_parts(patient, label, SHARES, seed)
    for name in np.unique(patient.astype(str)):
        assert len(set(part[patient == name])) == 1
    order = np.random.default_rng(shuffle).permutation(300)
    assert (assign_parts(patient[order], label[order], SHARES, seed) == part[order]).all()


def test_another_seed_gives_another_split_and_the_same_seed_the_same():
    _, patient, label = records(300, 60)
    first = assign_parts(patient, label, SHARES, 0)
    assert (first == assign_parts(patient, label, SHARES, 0)).all()
    assert (first != assign_parts(patient, label, SHARES, 1)).any()


def test_three_patients_of_a_class_reach_all_three_parts():
    _, patient, label = records(40, 3)
    part = assign_parts(patient, label, SHARES, 0)
    assert sorted(part[label == 1]) == ["test", "train", "val"]


def test_a_patient_with_many_records_does_not_swallow_a_part():
    patient = np.array(["big"] * 50 + [f"p{i}" for i in range(50)], object)
    part = assign_parts(patient, np.zeros(100, int), SHARES, 3)
    assert set(part) == {"train", "val", "test"}


@settings(max_examples=30, deadline=None)
@given(st.integers(30, 150), st.integers(0, 3), st.booleans())
def test_sub_sampled_sets_nest_and_keep_the_whole_minority(positive, seed, flipped):
    record, patient, label = records(600, positive)
    label = 1 - label if flipped else label
    minority = label == (0 if flipped else 1)
    part = assign_parts(patient, label, SHARES, seed)
    shares = [s for s in (0.5, 0.6, 0.75) if s <= natural_majority_share(label)]
    members = [own_members(record, label, part, share, seed) for share in (*shares, None)]
    for small, large in zip(members, members[1:], strict=False):
        assert (small <= large).all()
    for share, member in zip(shares, members, strict=False):
        assert member[minority].all()
        for name in ("train", "val", "test"):
            inside = member & (part == name)
            few = (inside & minority).sum()
            assert abs((inside & ~minority).sum() - few * share / (1 - share)) <= 0.5 + 1e-9


def test_sub_samples_do_not_depend_on_the_order_of_rows():
    record, patient, label = records(500, 50)
    part = assign_parts(patient, label, SHARES, 0)
    member = own_members(record, label, part, 0.75, 0)
    order = np.random.default_rng(1).permutation(500)
    again = own_members(record[order], label[order], part[order], 0.75, 0)
    assert (again == member[order]).all()


def test_a_share_above_the_natural_one_is_refused_and_the_natural_one_is_not():
    record, patient, label = records(1000, 100)
    part = assign_parts(patient, label, SHARES, 0)
    assert own_members(record, label, part, natural_majority_share(label), 0).mean() > 0.99
    with pytest.raises(InputError, match=r"majority_share: 0\.95.*0\.9"):
        own_members(record, label, part, 0.95, 0)


def fold_data(repeat, fold, folds=5, seed=0, **split):
    return configured(
        data={"seed": seed, "split": {"kind": "kfold", "folds": folds, "repeat": repeat,
                                      "fold": fold, **split}}
    ).data  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 7), st.integers(0, 3))
def test_every_record_is_tested_once_a_repeat_and_no_patient_is_in_two_parts(shuffle, folds, seed):
    _, patient, label = records(240, 60, patients=110, seed=seed)
    order = np.random.default_rng(shuffle).permutation(240)
    for repeat in (1, 2):
        tested = np.zeros(240, int)
        for fold in range(1, folds + 1):
            data = fold_data(repeat, fold, folds, seed)
            part = assign_fit_parts(patient, label, data)
            assert set(part) == {"train", "val", "test"}
            for name in np.unique(patient.astype(str)):
                assert len(set(part[patient == name])) == 1
            assert (assign_fit_parts(patient[order], label[order], data) == part[order]).all()
            tested += part == "test"
        assert (tested == 1).all()


def test_a_kept_validation_part_is_that_of_the_holdout_in_every_fit_and_is_never_tested():
    _, patient, label = records(240, 60, patients=110)
    frame = pd.DataFrame({"patient": patient, "label": label})
    frame["part"] = assign_parts(patient, label, SHARES, 0)
    held_out = (frame["part"] == "val").to_numpy()
    tested = np.zeros(240, int)
    for fold in range(1, 6):
        data = fold_data(1, fold, validation="holdout")
        part = read_parts(frame, data)
        assert ((part == "val") == held_out).all()
        for name in np.unique(patient.astype(str)):
            assert len(set(part[patient == name])) == 1
        # a cohort on disk has the parts of its first fit
        assert (read_parts(frame.assign(part=part), data) == part).all()
        tested += part == "test"
    assert (tested == ~held_out).all()


def test_folds_hold_the_same_number_of_each_class_to_one_record():
    _, patient, label = records(433, 58)
    for repeat in (1, 2, 3):
        fold = assign_folds(patient, label, 5, repeat, 0)
        for value in (0, 1):
            counts = np.bincount(fold[label == value])[1:]
            assert len(counts) == 5
            assert counts.max() - counts.min() <= 1


def test_validation_takes_its_share_of_what_a_fit_does_not_test():
    _, patient, label = records(500, 100)
    for fold in (1, 4):
        part = assign_fit_parts(patient, label, fold_data(2, fold))
        for value, number in ((1, 80), (0, 320)):
            counts = {name: int((part[label == value] == name).sum()) for name in np.unique(part)}
            assert counts["train"] + counts["val"] == number
            assert counts["val"] == number / 8


def test_repeats_and_seeds_divide_patients_anew_and_the_number_of_repeats_changes_nothing():
    _, patient, label = records(300, 60)
    first = assign_folds(patient, label, 5, 1, 0)
    assert (first == assign_folds(patient, label, 5, 1, 0)).all()
    for other in (assign_folds(patient, label, 5, 2, 0), assign_folds(patient, label, 5, 1, 1)):
        # two divisions that have nothing to do with each other agree on a fifth
        assert 0.1 < np.mean(first == other) < 0.3
    chosen = [assign_fit_parts(patient, label, fold_data(1, fold)) == "val" for fold in (1, 2)]
    overlap = (chosen[0] & chosen[1]).sum() / chosen[0].sum()
    assert overlap < 0.35


def test_too_few_patients_of_a_class_for_the_folds_are_refused():
    _, patient, label = records(60, 4)
    check_folds(patient, label, 4)
    with pytest.raises(InputError, match="5 folds need as many patients with a positive record, and"
                                         " there are 4"):  # fmt: skip
        check_folds(patient, label, 5)
    # a patient's second record makes no second patient
    with pytest.raises(InputError, match="there are 4"):
        check_folds(np.append(patient, patient[0]), np.append(label, 1), 5)


def test_a_split_into_folds_without_a_fit_has_no_parts():
    _, patient, label = records(60, 20)
    with pytest.raises(InputError, match="none of them is named"):
        assign_fit_parts(patient, label, fold_data(None, None))
