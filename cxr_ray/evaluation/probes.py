"""Linear probes: what a logistic regression, fitted again, reads out of cached features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.labels import FloatArray, as_labels
from cxr_ray.evaluation.ranking import auroc

STRENGTHS = (0.001, 0.01, 0.1)
"""Inverse strengths of the L2 penalty on standardised features that a probe chooses among."""


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes
    ----------
    strength : float
        Inverse strength of the penalty that did best on validation.
    logits : (M,) array of float64
        Of the records asked for.
    """

    strength: float
    logits: FloatArray


def fit_probe(
    train: ArrayLike,
    label: ArrayLike,
    validation: ArrayLike,
    validation_label: ArrayLike,
    scored: ArrayLike,
    *,
    strengths: Sequence[float] = STRENGTHS,
) -> Probe:
    """Fit a logistic regression on features and score other records with it.

    Parameters
    ----------
    train : (N, D) array-like
        Features of the training part; their mean and spread standardise all.
    label : (N,) array-like of 0/1
    validation : (V, D) array-like
    validation_label : (V,) array-like of 0/1
        The strength of highest AUROC here is taken, the strongest penalty among equals.
    scored : (M, D) array-like
        Features of the records to score.
    strengths : sequence of float
        scikit-learn's ``C``.

    Returns
    -------
    Probe
        Where training holds one class only there is nothing to fit, and every logit is 0.

    Notes
    -----
    Linear probes: Alain & Bengio 2017. A probe says what is linearly readable in features that an
    encoder happens to keep, not what the trained head makes of them.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> label = np.repeat([0, 1], 50)
    >>> features = rng.normal(size=(100, 3)) + label[:, None]
    >>> probe = fit_probe(features, label, features, label, [[2.0, 2.0, 2.0], [-1.0, -1.0, -1.0]])
    >>> bool(probe.logits[0] > probe.logits[1])
    True
    """
    from sklearn.linear_model import LogisticRegression

    positive, reference = as_labels(label), as_labels(validation_label)
    read = np.asarray(train, dtype=np.float64)
    mean, spread = read.mean(axis=0), read.std(axis=0)
    spread[spread == 0] = 1
    fitted, held, asked = (
        (np.asarray(part, dtype=np.float64) - mean) / spread for part in (read, validation, scored)
    )
    if positive.all() or not positive.any():
        return Probe(strengths[0], np.zeros(len(asked)))
    models = [LogisticRegression(C=each, max_iter=200).fit(fitted, positive) for each in strengths]
    areas = [auroc(reference, model.decision_function(held)) for model in models]
    best = int(np.argmax(np.nan_to_num(areas)))  # NaN where validation holds one class only
    return Probe(strengths[best], models[best].decision_function(asked))
