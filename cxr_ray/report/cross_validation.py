"""Scoring a cross-validated model: each fit on its own fold, figures averaged over the folds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.evaluation.confusion import confusion_rows
from cxr_ray.evaluation.folds import Folds, fold_intervals, mean_defined, score_folds
from cxr_ray.evaluation.thresholds import f1_operating_point
from cxr_ray.report.out_of_fold import Fit, read_fits


@dataclass(frozen=True)
class OutOfFold:
    """The test records of all fits, one entry a record and repeat.

    Attributes
    ----------
    record_id : (N,) array of str
    label : (N,) array of int8
    logit : (N,) array of float64
    patient : (N,) array of int64
        Numbered by first entries, since names are salted by storage.
    folds : Folds
    """

    record_id: NDArray[np.str_]
    label: NDArray[np.int8]
    logit: NDArray[np.float64]
    patient: NDArray[np.int64]
    folds: Folds

    @classmethod
    def of(cls, fits: list[Fit], test_set: str) -> "OutOfFold":
        """Take the ``own`` or ``full`` test records of every fit."""
        rows = [fit.predictions.rows("test", test_set) for fit in fits]
        pairs = list(zip(fits, rows, strict=True))
        repeats = np.array([fit.repeat for fit in fits])
        return cls(
            record_id=np.concatenate([fit.predictions.record_id[own] for fit, own in pairs]),
            label=np.concatenate([fit.predictions.label[own] for fit, own in pairs]),
            logit=np.concatenate([fit.predictions.logit[own] for fit, own in pairs]),
            patient=pd.factorize(
                np.concatenate([fit.predictions.group[own] for fit, own in pairs])
            )[0],
            folds=Folds(
                fit=np.repeat(np.arange(len(fits)), [int(own.sum()) for own in rows]),
                repeat=np.unique(repeats, return_inverse=True)[1],
            ),
        )

    @property
    def counted(self) -> tuple[int, int]:
        """Records and positives of the first repeat, in which each record is tested once."""
        first = self.folds.repeat[self.folds.fit] == 0
        return int(first.sum()), int(self.label[first].sum())


def score_cross_validation(folder: Path, config: EvaluationConfig, identity: int) -> dict[str, Any]:
    """Score a gathered folder: what `cxr_ray.report.scoring.score_folder` gives of a trial's.

    Parameters
    ----------
    folder
        As `cxr_ray.report.out_of_fold.gather_fits` wrote it, its fits beside it.
    identity
        Every draw derives from it.
    """
    fits = read_fits(folder)
    full = _score_test_set(fits, "full", config, identity)
    own = full
    if not all(fit.predictions.in_own.all() for fit in fits):
        own = _score_test_set(fits, "own", config, identity)
    accuracies = []
    for fit in fits:
        rows = fit.predictions.rows("val", "own")
        called = fit.predictions.logit[rows] >= 0
        accuracies.append(np.mean(called == fit.predictions.label[rows]))
    return {
        "test_sets": {"own": own, "full": full},
        "sensitivity": [],
        "contribution": [],
        "val_accuracy": float(np.mean(accuracies)),
    }


def draw_fold_figures(folder: Path) -> None:
    """Draw the first repeat: ROC and precision-recall by fold, the others over all its records.

    Scores of different folds share no scale and are ranked apart; probabilities claim to have one.
    """
    from cxr_ray.report.scoring import draw_curves

    fits = [fit for fit in read_fits(folder) if fit.repeat == 1]
    tested = OutOfFold.of(fits, "full")
    pooled = tested.label, expit(tested.logit)
    draw_curves(
        folder,
        ranked={
            f"fold {fit.fold}": (tested.label[place], tested.logit[place])
            for fit, place in zip(fits, tested.folds.places, strict=True)
        },
        calibrated={f"{len(fits)} folds": pooled},
        called=pooled,
    )


def _score_test_set(
    fits: list[Fit], test_set: str, config: EvaluationConfig, identity: int
) -> dict[str, Any]:
    from cxr_ray.report.scoring import AT_VAL, TEST_SETS

    tested = OutOfFold.of(fits, test_set)
    chance = expit(tested.logit)
    n, n_positive = tested.counted
    figures = score_folds(
        tested.label, chance, tested.folds, score=tested.logit, ece_bins=config.ece_bins
    )
    intervals = fold_intervals(
        tested.label,
        chance,
        tested.folds,
        score=tested.logit,
        groups=tested.patient,
        n_resamples=config.bootstrap,
        fixed_ratio=test_set == "own",
        rng=np.random.default_rng([identity, TEST_SETS.index(test_set), 0x5C]),
    )
    found: dict[str, Any] = {"n": n, "n_positive": n_positive, **figures}
    for name, interval in intervals.items():
        found[f"{name}_low"], found[f"{name}_high"] = interval.low, interval.high
    thresholds = [own_threshold(fit, test_set) for fit in fits]
    found["threshold_at_val"] = float(np.mean(expit(thresholds)))
    at_val = []
    for threshold, place in zip(thresholds, tested.folds.places, strict=True):
        counts = confusion_rows(tested.label[place], tested.logit[place][None], threshold)
        at_val.append([getattr(counts, name)[0] for name in AT_VAL])
    for name, value in zip(AT_VAL, mean_defined(at_val), strict=True):
        found[f"{name}_at_val"] = float(value)
    return {name: None if value != value else value for name, value in found.items()}


def own_threshold(fit: Fit, test_set: str) -> float:
    """Logit of the highest F1 on a fit's own validation part."""
    rows = fit.predictions.rows("val", test_set)
    return f1_operating_point(fit.predictions.label[rows], fit.predictions.logit[rows]).threshold
