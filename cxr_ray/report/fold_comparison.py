"""Comparing cross-validated models, fit by fit, on the same folds."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cxr_ray.evaluation.confusion import confusion_rows
from cxr_ray.evaluation.folds import (
    ResampledComparison,
    corrected_resampled_test,
    mean_defined,
)
from cxr_ray.evaluation.ranking import ranking_rows
from cxr_ray.report.cross_validation import own_threshold
from cxr_ray.report.out_of_fold import Fit

METHOD = "corrected_resampled_t"


class UnlikeFoldsError(Exception):
    """Why two cross-validated models cannot be compared, in a sentence."""


def compare_fits(
    first: Sequence[Sequence[Fit]],
    second: Sequence[Sequence[Fit]],
    metrics: Mapping[str, str],
    test_set: str = "full",
) -> dict[str, ResampledComparison]:
    """Compare two arms by the corrected resampled t-test over their folds.

    Parameters
    ----------
    first, second
        The fits of each training seed; a fold's figure is the mean over seeds.
    metrics
        Metrics by the names under which they are returned; what needs a threshold is read at each
        fit's own, the one of the highest F1 on its validation part.
    test_set
        ``own`` or ``full``.

    Raises
    ------
    UnlikeFoldsError
        If the two were not tested on the same records fold by fold.
    """
    _check_alike([*first, *second], test_set)
    one, other = (
        mean_defined([_figures(fits, metrics, test_set) for fits in arm]) for arm in (first, second)
    )
    ratio = _test_to_train(first[0])
    return {
        name: corrected_resampled_test(differences, test_to_train=ratio)
        for name, differences in zip(metrics, (one - other).T, strict=True)
    }


def describe_folds(fits: Sequence[Fit]) -> str:
    """Say how often a model was divided into how many folds.

    Examples
    --------
    >>> describe_folds([Fit(repeat, fold, None, None) for repeat in (1, 2) for fold in (1, 2, 3)])
    '2 x 3 folds'
    """
    repeats, folds = max(fit.repeat for fit in fits), max(fit.fold for fit in fits)
    return f"{folds} folds" if repeats == 1 else f"{repeats} x {folds} folds"


def _figures(fits: Sequence[Fit], metrics: Mapping[str, str], test_set: str) -> NDArray[np.float64]:
    """(fits, metrics) figures; NaN where a fold holds one class only."""
    found = np.empty((len(fits), len(metrics)))
    for row, fit in enumerate(fits):
        tested = fit.predictions.rows("test", test_set)
        label, logit = fit.predictions.label[tested], fit.predictions.logit[tested][None]
        areas, precisions = ranking_rows(label, logit)
        at_val = confusion_rows(label, logit, own_threshold(fit, test_set))
        for column, metric in enumerate(metrics.values()):
            ranked = {"auroc": areas, "average_precision": precisions}.get(metric)
            found[row, column] = (getattr(at_val, metric) if ranked is None else ranked)[0]
    return found


def _check_alike(models: Sequence[Sequence[Fit]], test_set: str) -> None:
    for fits in models[1:]:
        if [(fit.repeat, fit.fold) for fit in fits] != [
            (fit.repeat, fit.fold) for fit in models[0]
        ]:
            raise UnlikeFoldsError("the two are divided into folds in different ways")
        for one, other in zip(models[0], fits, strict=True):
            ours, theirs = (
                fit.predictions.record_id[fit.predictions.rows("test", test_set)]
                for fit in (one, other)
            )
            if not np.array_equal(ours, theirs):
                raise UnlikeFoldsError("the two have different records in their folds")


def _test_to_train(fits: Sequence[Fit]) -> float:
    """Divide a fold's records by those of its training part, before any sub-sampling."""
    tested = [int(fit.predictions.rows("test", "full").sum()) for fit in fits]
    validated = [int(fit.predictions.rows("val", "full").sum()) for fit in fits]
    # Each fit predicts its fold and its validation part, which may be in no fold: never training.
    records = len(np.unique(np.concatenate([fit.predictions.record_id for fit in fits])))
    ratios = [test / (records - test - val) for test, val in zip(tested, validated, strict=True)]
    return float(np.mean(ratios))
