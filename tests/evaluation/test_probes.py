import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from cxr_ray.evaluation.probes import fit_probe
from cxr_ray.evaluation.ranking import auroc


def drawn(seed, size, width=6, signal=1.0):
    rng = np.random.default_rng(seed)
    label = (np.arange(size) < 0.3 * size).astype(int)
    return rng.normal(size=(size, width)) * 3 + signal * label[:, None] + 5, label


def test_a_probe_is_the_penalised_maximum_of_the_likelihood():
    train, label = drawn(0, 200)
    scored, _ = drawn(1, 30)
    probe = fit_probe(train, label, train, label, scored, strengths=[0.1])
    read, asked = ((part - train.mean(0)) / train.std(0) for part in (train, scored))

    def loss(weights):
        margin = (2 * label - 1) * (read @ weights[1:] + weights[0])
        return -np.log(expit(margin)).sum() + (weights[1:] @ weights[1:]) / 2 / 0.1

    best = minimize(loss, np.zeros(7), tol=1e-10).x
    np.testing.assert_allclose(probe.logits, asked @ best[1:] + best[0], atol=1e-3)


def test_a_probe_finds_what_is_there_and_nothing_in_noise():
    for signal, low, high in ((3.0, 0.9, 1.0), (0.0, 0.4, 0.6)):
        parts = [drawn(seed, 1_000, signal=signal) for seed in (2, 3, 4)]
        (train, label), held, (scored, truth) = parts
        probe = fit_probe(train, label, *held, scored)
        assert low < auroc(truth, probe.logits) < high


def test_the_strength_is_the_one_that_does_best_on_validation():
    train, label = drawn(5, 60, width=50)
    held, reference = drawn(6, 400, width=50)
    areas = {
        strength: auroc(
            reference, fit_probe(train, label, held, reference, held, strengths=[strength]).logits
        )
        for strength in (1e-4, 1e-2, 100.0)
    }
    found = fit_probe(train, label, held, reference, held, strengths=list(areas))
    assert found.strength == max(areas, key=areas.get)
    assert auroc(reference, found.logits) == max(areas.values())


def test_constant_features_and_a_single_class_have_an_answer():
    train, label = drawn(7, 50)
    train[:, 0] = 4.0
    assert np.isfinite(fit_probe(train, label, train, label, train).logits).all()
    alone = fit_probe(train, np.zeros(50), train, label, train)
    assert (alone.logits == 0).all()
    one_class = fit_probe(train, label, train, np.zeros(50), train)
    assert np.isfinite(one_class.logits).all()
    with pytest.raises(ValueError, match="label"):
        fit_probe(train, label + 1, train, label, train)
