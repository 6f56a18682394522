import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray.data.order import epoch_batches, scoring_batches, shard, window_batches

counts = st.integers(2, 400)
batch_sizes = st.integers(2, 70)
seeds = st.integers(0, 2**32)


def lengths_of(count, seed):
    return np.random.default_rng([seed, 7]).integers(2, 200, count)


def same(first, second):
    return len(first) == len(second) and all(map(np.array_equal, first, second))


@given(counts, batch_sizes, seeds, st.integers(0, 20), st.booleans())
def test_the_order_is_a_pure_function_of_seed_and_epoch(count, batch, seed, epoch, sort):
    records = np.arange(count) * 3 + 1
    lengths = lengths_of(count, seed) if sort else None
    order = {"seed": seed, "epoch": epoch, "lengths": lengths}
    first = epoch_batches(records, batch, **order)
    np.random.random()  # no hidden state is read
    assert same(first, epoch_batches(records, batch, **order))


def test_other_seeds_and_epochs_give_other_orders():
    orders = {
        tuple(np.concatenate(epoch_batches(np.arange(50), 8, seed=seed, epoch=epoch)))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


@given(counts, batch_sizes, seeds, st.booleans())
def test_every_record_comes_once_an_epoch(count, batch, seed, sort):
    records = np.arange(count) * 3 + 1
    lengths = lengths_of(count, seed) if sort else None
    batches = epoch_batches(records, batch, seed=seed, epoch=0, lengths=lengths)
    assert np.array_equal(np.sort(np.concatenate(batches)), records)


@given(counts, batch_sizes, seeds)
def test_batches_are_full_but_for_one_and_never_a_single_record(count, batch, seed):
    sizes = sorted(map(len, epoch_batches(np.arange(count), batch, seed=seed, epoch=0)))
    odd = [size for size in sizes if size != batch]
    assert len(odd) <= 1
    assert all(2 <= size <= batch + 1 for size in sizes)


@given(st.integers(20, 300), st.integers(2, 6), seeds)
def test_lengths_are_sorted_only_inside_windows_of_the_shuffled_order(count, batch, seed):
    lengths = lengths_of(count, seed)
    records = np.arange(count)
    window = batch * window_batches(count, batch)
    shuffled = np.random.default_rng([seed, 3, 0x0E]).permutation(count)
    sorted_batches = epoch_batches(records, batch, seed=seed, epoch=3, lengths=lengths)
    for start in range(0, count, window):
        inside = set(shuffled[start : start + window])
        if count - start - window == 1:  # the last batch takes a single record along
            inside |= set(shuffled[start + window :])
        whole = [each for each in sorted_batches if set(each) <= inside]
        spans = sorted((lengths[each].min(), lengths[each].max()) for each in whole)
        if count % batch != 1:
            assert set(np.concatenate(whole)) == inside
            assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))


@pytest.mark.parametrize(("batches", "window"), [(1, 16), (64, 16), (100, 25), (5000, 32)])
def test_a_window_of_sorted_lengths_is_a_small_part_of_a_long_epoch(batches, window):
    assert window_batches(batches * 8, 8) == window


@given(counts, batch_sizes, seeds, st.integers(1, 9))
def test_one_and_many_workers_cut_the_same_global_batches(count, batch, seed, size):
    for each in epoch_batches(np.arange(count), batch, seed=seed, epoch=1):
        shares = [shard(each, rank, size) for rank in range(size)]
        assert np.array_equal(np.concatenate(shares), each)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_balanced_weights_draw_both_classes_alike_and_the_same_ones_for_a_seed():
    label = np.arange(2000) % 10 == 0
    weights = np.where(label, 5.0, 5 / 9)
    draw = {"seed": 1, "epoch": 0, "weights": weights}
    drawn = np.concatenate(epoch_batches(np.arange(2000), 64, **draw))
    assert abs(label[drawn].mean() - 0.5) < 0.04
    assert len(drawn) == 2000
    assert np.array_equal(drawn, np.concatenate(epoch_batches(np.arange(2000), 64, **draw)))


@given(counts, batch_sizes, seeds)
def test_scoring_batches_hold_every_record_once_by_length(count, batch, seed):
    lengths = lengths_of(count, seed)
    batches = scoring_batches(np.arange(count), batch, lengths)
    joined = np.concatenate(batches)
    assert np.array_equal(np.sort(joined), np.arange(count))
    assert np.all(np.diff(lengths[joined]) >= 0)
