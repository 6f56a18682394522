import numpy as np
import pytest

from cxr_ray.evaluation.heads import additive_parts, fusion_head
from cxr_ray.evaluation.metrics import score_predictions
from cxr_ray.evaluation.resampling import PatientSampler
from cxr_ray.evaluation.sensitivity import (
    SENSITIVITY_METRICS,
    permutation_test,
    permutation_test_of_head,
    permute_records,
)

QUICK = {"n_repeats": 49, "n_resamples": 0}


def binormal(seed, size=5_000, share=0.1, image=1.4, text=1.4):
    """Two scores, independent given the label: the log-likelihood ratios of d' = 1.4 each."""
    rng = np.random.default_rng(seed)
    label = (np.arange(size) < share * size).astype(int)
    a = image * (rng.normal(size=size) + image * label - image / 2)
    b = text * (rng.normal(size=size) + text * label - text / 2)
    return a, b, float(np.log(share / (1 - share))), label


def test_complementary_modalities_give_the_known_drops():
    a, b, c, label = binormal(0)
    for shuffle, drop in (("image", 0.168), ("text", 0.170)):
        rng = np.random.default_rng(1)
        test = permutation_test(a, b, c, label, shuffle=shuffle, rng=rng, n_resamples=200)["auroc"]
        assert test.intact == pytest.approx(0.919, abs=0.01)
        assert test.drop == pytest.approx(drop, abs=0.04)
        assert test.low < test.drop < test.high
        assert test.high - test.low < 0.06
        assert test.p_value == 1 / 2000


def test_a_model_that_reads_only_text_loses_nothing_with_the_image_and_all_with_the_text():
    _, b, c, label = binormal(2)
    ignored = np.zeros(len(b))
    rng = np.random.default_rng(3)
    image = permutation_test(ignored, b, c, label, shuffle="image", rng=rng, **QUICK)
    text = permutation_test(ignored, b, c, label, shuffle="text", rng=rng, **QUICK)
    assert all((drop.drop, drop.p_value) == (pytest.approx(0), 1.0) for drop in image.drops)
    assert text["auroc"].intact == pytest.approx(0.839, abs=0.015)
    assert text["auroc"].drop == pytest.approx(0.339, abs=0.03)


def test_shuffling_text_without_text_signal_changes_nothing_on_average():
    p_values, drops = [], []
    for seed in range(40):
        a, _, c, label = binormal(seed, size=300, share=0.3)
        rng = np.random.default_rng(1000 + seed)
        noise = rng.normal(size=300)
        test = permutation_test(a, noise, c, label, shuffle="text", rng=rng, **QUICK)["auroc"]
        drops.append(test.drop)
        p_values.append(test.p_value)
    assert abs(np.mean(drops)) < 3 * np.std(drops) / np.sqrt(len(drops)) + 1e-3
    assert 0.3 < np.mean(p_values) < 0.7  # uniform under the hypothesis
    assert np.mean(np.array(p_values) <= 0.1) < 0.3


def test_within_class_shuffling_spares_independent_scores_and_shows_repeated_ones():
    a, b, c, label = binormal(4)
    rng = np.random.default_rng(5)
    independent = permutation_test(
        a, b, c, label, shuffle="text", rng=rng, within=label, n_repeats=199, n_resamples=0
    )
    assert independent.perturbation == "text_shuffled_within_class"
    assert abs(independent["auroc"].drop) < 0.01 and independent["auroc"].p_value > 0.01
    repeated = permutation_test(
        a, a, c, label, shuffle="text", rng=rng, within=label, n_repeats=199, n_resamples=0
    )
    # breaking up two scores that repeat each other's errors helps: negative, and two-sided p
    assert repeated["auroc"].drop < -0.05
    assert repeated["auroc"].p_value == pytest.approx(2 / 200)


def test_a_permutation_keeps_the_multiset_in_every_stratum_and_block():
    rng = np.random.default_rng(6)
    strata = rng.integers(0, 2, 50)
    blocks = rng.integers(0, 20, 50)
    index = rng.integers(0, 50, 50)
    for own_blocks in (None, blocks):
        (moved,) = permute_records(index[None], rng, strata, own_blocks)
        for stratum in (0, 1):
            kept = strata == stratum
            assert sorted(moved[kept]) == sorted(index[kept])
        assert not np.array_equal(moved, index)


def test_blocks_of_equal_size_move_whole():
    blocks = np.repeat(np.arange(10), 3)
    (moved,) = permute_records(np.arange(30)[None], np.random.default_rng(7), blocks=blocks)
    assert all(len(set(part)) == 1 for part in blocks[moved].reshape(10, 3))


def test_every_permutation_of_few_records_is_equally_likely():
    rng = np.random.default_rng(8)
    for blocks in (None, np.arange(3)):
        rows = np.tile(np.arange(3), (3_000, 1))
        seen = [tuple(row) for row in permute_records(rows, rng, blocks=blocks)]
        counts = [seen.count(order) for order in set(seen)]
        assert len(counts) == 6 and min(counts) > 400


def test_the_same_generator_gives_the_same_figures_and_p_is_never_below_its_floor():
    a, b, c, label = binormal(9, size=200, share=0.3)
    tests = [
        permutation_test(
            a,
            b,
            c,
            label,
            shuffle="text",
            rng=np.random.default_rng(1),
            n_repeats=19,
            n_resamples=20,
        )
        for _ in range(2)
    ]
    assert tests[0] == tests[1]
    assert min(drop.p_value for drop in tests[0].drops) >= 1 / 20


def test_figures_of_the_intact_model_are_those_of_score_predictions():
    a, b, c, label = binormal(10, size=300, share=0.3)
    rng = np.random.default_rng(0)
    test = permutation_test(a, b, c, label, shuffle="image", rng=rng, **QUICK)
    figures = score_predictions(label, 1 / (1 + np.exp(-(a + b + c))), score=a + b + c)
    for name in SENSITIVITY_METRICS:
        assert test[name].intact == pytest.approx(figures[name])
    rows = test.rows()
    assert list(rows[0]) == [
        "perturbation", "repeats", "metric", "intact", "perturbed", "drop", "low", "high",
        "p_value",
    ]  # fmt: skip


def test_a_linear_head_given_as_a_callable_gives_what_its_parts_give():
    rng = np.random.default_rng(11)
    image, text = rng.normal(size=(2, 200, 4)).astype(np.float32)
    weight, bias = rng.normal(size=(1, 8)), [0.1]
    a, b, c = additive_parts(image, text, weight, bias)
    label = (a + b + rng.normal(size=200) > 0).astype(int)
    plan = {"n_repeats": 19, "n_resamples": 10, "shuffles": 2, "shuffle": "image"}
    parts = permutation_test(a, b, c, label, rng=np.random.default_rng(3), **plan)
    head = fusion_head("concat", {"linear.weight": weight, "linear.bias": bias})
    whole = permutation_test_of_head(
        head.score, image, text, label, rng=np.random.default_rng(3), **plan
    )
    for one, other in zip(parts.drops, whole.drops, strict=True):
        assert (other.drop, other.low, other.p_value) == pytest.approx(
            (one.drop, one.low, one.p_value)
        )


def test_an_interaction_is_seen_through_a_head_that_is_not_additive():
    rng = np.random.default_rng(12)
    image, text = rng.choice([-1.0, 1.0], size=(2, 400, 1))
    label = (image * text > 0).astype(int).ravel()
    test = permutation_test_of_head(
        lambda i, t: i * t, image, text, label, shuffle="text", rng=rng, n_repeats=99, n_resamples=0
    )
    assert test["auroc"].intact == 1.0
    assert test["auroc"].drop == pytest.approx(0.5, abs=0.02)


def test_parts_are_summed_in_float64_and_a_head_of_another_width_is_refused():
    image = np.full((1, 3), 1e8, dtype=np.float32)
    a, b, c = additive_parts(image, [[1.0]], [[1.0, -1.0, 1e-8, 1.0]], [0.0])
    assert a[0] + b[0] + c == pytest.approx(2.0)
    with pytest.raises(ValueError, match="does not read 3 image and 1 text"):
        additive_parts(image, [[1.0]], [[1.0, 1.0]], [0.0])


def test_patients_are_drawn_with_all_their_records_and_one_class_draws_are_drawn_again():
    rng = np.random.default_rng(13)
    patient = np.array(list("aabbbc"))
    sampler = PatientSampler.of([1, 1, 0, 0, 0, 0], patient)
    for (index,), block in sampler.resamples(rng, 50, 1):
        assert len(set(block)) == 3
        for one in set(block):
            records = index[block == one]
            owner = patient[records[0]]
            assert sorted(records) == np.flatnonzero(patient == owner).tolist()
        assert {0, 1} <= set(index)
    weights = sampler.draw_weights(rng, 50)
    assert (weights[:, 0] == weights[:, 1]).all() and weights[:, :2].any(axis=1).all()


def test_stratified_draws_keep_the_number_of_patients_of_each_class():
    label = np.repeat([0, 1], [30, 10])
    weights = PatientSampler.of(label, stratified=True).draw_weights(np.random.default_rng(0), 20)
    assert (weights @ label == 10).all() and (weights.sum(axis=1) == 40).all()


def test_one_class_only_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="one class only"):
        permutation_test([0.0, 1.0], [0.0, 1.0], 0.0, [1, 1], shuffle="text", rng=rng)


@pytest.mark.slow
def test_intervals_of_the_drop_hold_the_true_drop_as_often_as_they_say():
    true_drop = 0.170
    held = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        a, b, c, label = binormal(seed, size=600)
        test = permutation_test(
            a, b, c, label, shuffle="text", rng=rng, n_repeats=49, n_resamples=200
        )
        held.append(test["auroc"].low <= true_drop <= test["auroc"].high)
    assert 0.91 <= np.mean(held) <= 0.99
