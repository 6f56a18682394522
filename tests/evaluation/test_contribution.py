import numpy as np
import pytest

from cxr_ray.evaluation.contribution import (
    NOT_SHOWN,
    USED,
    auroc_shapley,
    auroc_shapley_of_head,
    variance_shares,
    verdict,
)
from cxr_ray.evaluation.folds import Folds
from cxr_ray.evaluation.heads import additive_parts, fusion_head
from cxr_ray.evaluation.missing import missing_modality, missing_of_head
from cxr_ray.evaluation.ranking import auroc, auroc_rows
from cxr_ray.evaluation.sensitivity import (
    permutation_test,
    permutation_test_of_head,
    permute_records,
)

SIZE, SHARE, SIGNAL = 5_000, 0.1, 1.4


def drawn(relation, seed):
    """Scores of both modalities and labels: d' 1.4, 10 % positive."""
    rng = np.random.default_rng([seed, 71])
    label = (np.arange(SIZE) < SHARE * SIZE).astype(int)
    noise = rng.normal(size=(2, SIZE))
    if relation == "xor":
        # as many + as - in each class: 500 coins would leave an AUROC of .5 +- .022
        image = np.resize([-1.0, 1.0], SIZE) * np.exp(noise[0] / 4)
        text = np.sign(image) * (2 * label - 1) * np.exp(noise[1] / 4)
        return image, text, label
    if relation == "redundant":
        noise[1] = 0.8 * noise[0] + 0.6 * noise[1]
    return (*(SIGNAL * label + noise), label)


def product(image, text):
    return (image * text).ravel()


# relation, head, AUROC, drop image and text, drop within class, Shapley image and text, used
TRUTH = {
    "text only": ("complementary", (0, 1), 0.839, 0, 0.339, 0, 0, 0.339),
    "complementary": ("complementary", (1, 1), 0.919, 0.168, 0.170, 0, 0.21, 0.21),
    "redundant": ("redundant", (1, 1), 0.853, 0.10, 0.10, -0.068, 0.18, 0.18),
    "redundant, image read": ("redundant", (1, 0), 0.841, 0.344, 0, 0, 0.342, 0),
    "xor, product head": ("xor", product, 1, 0.5, 0.5, 0.5, 0.25, 0.25),
    "xor, additive head": ("xor", (1, 1), 0.5, 0, 0, 0, 0, 0),
}


def check_truth(case, seed):
    relation, head, *expected = TRUTH[case]
    image, text, label = drawn(relation, seed)
    rng = np.random.default_rng(seed)
    plan = {"rng": rng, "n_repeats": 499, "n_resamples": 0}
    if head is product:
        pair = (head, image[:, None], text[:, None])
        tests = [
            permutation_test_of_head(*pair, label, shuffle=side, within=within, **plan)
            for side, within in (("image", None), ("text", None), ("text", label))
        ]
    else:
        a, b = head[0] * image, head[1] * text
        tests = [
            permutation_test(a, b, 0.0, label, shuffle=side, within=within, **plan)
            for side, within in (("image", None), ("text", None), ("text", label))
        ]
    found = [test["auroc"] for test in tests]
    permuted = (found[0].perturbed, found[1].perturbed)
    quick = {"rng": rng, "permuted": permuted, "n_resamples": 2}
    if head is product:
        shares = auroc_shapley_of_head(*pair, label, **quick)
    else:
        shares = auroc_shapley(a, b, label, **quick)
    figures = [found[0].intact, *(each.drop for each in found), *(s.value for s in shares[:2])]
    assert np.abs(np.subtract(figures, expected)).max() <= 0.04, (case, seed, figures)
    assert abs(shares[0].value + shares[1].value - (found[0].intact - 0.5)) < 1e-9
    used = [USED if abs(drop) >= 0.05 else NOT_SHOWN for drop in expected[1:3]]
    assert [verdict(test) for test in tests[:2]] == used, (case, seed)


@pytest.mark.parametrize("case", TRUTH)
def test_the_known_answers_hold_for_three_seeds(case):
    for seed in range(3):
        check_truth(case, seed)


@pytest.mark.slow
@pytest.mark.parametrize("case", TRUTH)
def test_the_known_answers_hold_for_seventeen_more_seeds(case):
    for seed in range(3, 20):
        check_truth(case, seed)


def small(seed, size=300):
    rng = np.random.default_rng(seed)
    label = (np.arange(size) < 0.3 * size).astype(int)
    image, text = rng.normal(size=(2, size, 3)) + label[:, None]
    return image, text, label, rng


def test_shapley_parts_sum_to_the_whole_and_lie_in_their_intervals():
    for seed in range(5):
        image, text, label, rng = small(seed)
        a, b = image.sum(1), text.sum(1)
        for permuted in (None, (0.7, 0.8)):
            parts = auroc_shapley(a, b, label, rng=rng, permuted=permuted, n_repeats=99)
            assert [part.modality for part in parts] == ["image", "text", "both"]
            assert abs(parts[0].value + parts[1].value - parts[2].value) < 1e-9
            assert parts[2].value == pytest.approx(auroc(label, a + b) - 0.5)
        image, text, both = auroc_shapley(a, b, label, rng=rng, n_repeats=99)
        assert all(part.low < part.value < part.high for part in (image, text, both))


def test_two_shuffles_a_resample_give_the_interval_of_eight():
    image, text, label, _ = small(3, size=400)
    widths = {}
    for shuffles in (2, 8):
        rng = np.random.default_rng(0)
        parts = auroc_shapley(
            image.sum(1), text.sum(1), label, rng=rng, n_repeats=9, shuffles=shuffles
        )
        widths[shuffles] = parts[0].high - parts[0].low
    assert widths[2] == pytest.approx(widths[8], rel=0.2)
    drops = {}
    for shuffles in (3, 8):
        test = permutation_test(
            image.sum(1), text.sum(1), 0.0, label, shuffle="text", n_repeats=9, n_resamples=500,
            shuffles=shuffles, rng=np.random.default_rng(1), within=label,
        )["auroc"]  # fmt: skip
        drops[shuffles] = test.high - test.low
    assert drops[3] == pytest.approx(drops[8], rel=0.2)


def test_a_within_class_shuffle_keeps_every_classes_multiset_of_scores():
    _, text, label, rng = small(4)
    scores = text[:, 0].round(1)
    for blocks in (None, rng.integers(0, 100, len(label))):
        moved = scores[permute_records(np.arange(len(label))[None], rng, label, blocks)[0]]
        for one in (0, 1):
            assert sorted(moved[label == one]) == sorted(scores[label == one])
        assert (moved != scores).any()


def test_within_classes_shuffling_the_image_and_the_text_are_one_test():
    image, text, label, rng = small(5)
    means = [
        permutation_test(
            image.sum(1), text.sum(1), 0.0, label, shuffle=side, within=label, rng=rng,
            n_repeats=999, n_resamples=0,
        )["auroc"].perturbed
        for side in ("image", "text")
    ]  # fmt: skip
    assert means[0] == pytest.approx(means[1], abs=0.002)


def test_a_missing_modality_takes_away_what_it_gave():
    image, text, label = drawn("complementary", 0)
    rng = np.random.default_rng(0)
    without = text, np.full(SIZE, text.mean())
    found = missing_modality(text, *without, label, rng=rng, n_resamples=200)
    assert all(drop.drop == drop.low == drop.high == 0 for drop in found.image.drops)
    assert found.text["auroc"].perturbed == 0.5
    assert (found.text.perturbation, found.text.repeats) == ("text_missing", 0)
    assert all(np.isnan(drop.p_value) for drop in found.text.drops)
    whole = auroc(label, text)
    rates = {(each.metric, each.modality): each for each in found.utilization}
    assert rates["auroc", "image"].value == 0
    assert rates["auroc", "text"].value == pytest.approx((whole - 0.5) / whole)
    difference = rates["auroc", "difference"]
    assert difference.value == -rates["auroc", "text"].value
    assert difference.low < difference.value < difference.high < 0
    assert ("balanced_accuracy", "difference") in rates


def test_a_linear_head_misses_alike_as_parts_and_as_a_callable():
    image, text, label, rng = small(6)
    weight, bias = rng.normal(size=(1, 6)), [0.3]
    means = image.mean(0), text.mean(0)
    a, b, c = additive_parts(image, text, weight, bias)
    mean_a, mean_b, _ = additive_parts(means[0][None], means[1][None], weight, bias)
    head = fusion_head("concat", {"linear.weight": weight, "linear.bias": bias})
    whole = missing_of_head(head.score, image, text, *means)
    np.testing.assert_allclose(whole, [mean_a + b + c, a + mean_b + c])
    shares = [
        auroc_shapley(a, b, label, rng=np.random.default_rng(0), n_repeats=19, n_resamples=20),
        auroc_shapley_of_head(
            head.score, image, text, label, rng=np.random.default_rng(0),
            n_repeats=19, n_resamples=20,
        ),
    ]  # fmt: skip
    for one, other in zip(*shares, strict=True):
        assert (other.value, other.low) == pytest.approx((one.value, one.low))


def test_variance_shares_are_those_of_the_sample_and_sum_to_one():
    image, text, label = drawn("redundant", 1)
    rng = np.random.default_rng(0)
    found = {
        (share.measure, share.modality): share
        for share in variance_shares(image + 1e3, text, label, rng=rng, n_resamples=300)
    }
    whole = np.var(image + text)
    assert found["variance_share", "image"].value == pytest.approx(np.var(image) / whole)
    twice = 2 * np.cov(image, text, bias=True)[0, 1]
    assert found["variance_share", "both"].value == pytest.approx(twice / whole)
    for suffix in ("", "_within_class"):
        variances = [found[f"variance_share{suffix}", m].value for m in ("image", "text", "both")]
        covariances = [found[f"covariance_share{suffix}", m].value for m in ("image", "text")]
        assert sum(variances) == pytest.approx(1) and sum(covariances) == pytest.approx(1)
    within = found["variance_share_within_class", "both"]
    assert within.value == pytest.approx(0.8 / 1.8, abs=0.02)
    assert all(share.low < share.value < share.high for share in found.values())


def test_a_fold_of_which_a_resample_lacks_a_class_has_the_shares_of_the_other():
    # each fold has one positive, which a third of all resamples lack
    label = np.tile(np.repeat([1, 0], [1, 20]), 2)
    folds = Folds(fit=np.repeat([0, 1], 21), repeat=np.zeros(2, int))
    text = np.random.default_rng(1).normal(size=42)
    rng = np.random.default_rng(0)
    shares = variance_shares(np.zeros(42), text, label, rng=rng, n_resamples=200, folds=folds)
    of_text = [share for share in shares if share.modality == "text"]
    assert {share.measure.endswith("_within_class") for share in of_text} == {True, False}
    assert all(share.low == pytest.approx(1) for share in of_text)


def test_a_logit_that_does_not_vary_has_shares_of_nothing():
    label = np.repeat([0, 1], [20, 5])
    part = np.arange(25.0)
    for a, b in ((np.ones(25), np.ones(25)), (part, -part)):
        rng = np.random.default_rng(0)
        shares = variance_shares(a, b, label, rng=rng, n_resamples=20)
        assert all((s.value, s.low, s.high) == (0, 0, 0) for s in shares)


def test_a_patients_records_are_drawn_together():
    image, text, label, _ = small(7)
    doubled = [np.repeat(part, 4) for part in (image.sum(1), text.sum(1), label)]
    patient = np.repeat(np.arange(300), 4)
    widths = {}
    for name, groups in (("records", None), ("patients", patient)):
        rng = np.random.default_rng(0)
        a, b, y = doubled
        shapley = auroc_shapley(a, b, y, rng=rng, n_repeats=9, n_resamples=200, groups=groups)
        missing = missing_modality(a + b, b, a, y, rng=rng, n_resamples=200, groups=groups)
        shares = variance_shares(a, b, y, rng=rng, n_resamples=200, groups=groups)
        found = (shapley[2], missing.utilization[3], missing.image["auroc"], shares[0])
        widths[name] = np.array([each.high - each.low for each in found])
    np.testing.assert_allclose(widths["patients"] / widths["records"], 2, rtol=0.35)


@pytest.mark.slow
def test_intervals_of_the_shapley_share_hold_the_true_share_as_often_as_they_say():
    rng = np.random.default_rng(0)
    label = (np.arange(1_000_000) % 10 == 0).astype(int)
    a, b = rng.normal(size=(2, len(label))) + SIGNAL * label
    rows = np.stack([a + b, rng.permutation(a) + b, a + rng.permutation(b)])
    both, without_image, without_text = auroc_rows(label, rows)
    true_share = (without_text - 0.5 + both - without_image) / 2
    held = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        label = (np.arange(600) % 10 == 0).astype(int)
        a, b = rng.normal(size=(2, 600)) + SIGNAL * label
        image = auroc_shapley(a, b, label, rng=rng, permuted=(0.75, 0.75), n_resamples=200)[0]
        held.append(image.low <= true_share <= image.high)
    assert 0.91 <= np.mean(held) <= 0.985
