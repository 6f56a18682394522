"""What a study's page and text say of chosen thresholds, calibration and net benefit."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import expit

from cxr_ray.evaluation.calibration_figures import decision_panels, reliability_panels
from cxr_ray.evaluation.net_benefit import NetBenefit
from cxr_ray.report.cross_validation import out_of_fold_chances
from cxr_ray.report.result_table import format_share
from cxr_ray.report.trial_folder import PREDICTIONS_FILE, read_predictions, read_result
from cxr_ray.storage import Storage

POINTS = {
    "val": "highest F1",
    "youden": "highest sensitivity + specificity (Youden)",
    "spec95": "highest sensitivity with at least 95 % specificity",
}
AT_POINT = {
    "threshold": "threshold",
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "specificity": "specificity",
    "f1": "F1",
}
CALIBRATION = {
    "calibration_slope": "slope",
    "calibration_intercept": "intercept",
    "calibration_in_the_large": "in the large",
    "ece": "ECE",
    "brier": "Brier",
}
MOST_PANELS = 24
_NEEDED = {"threshold_at_val", "threshold_at_youden", "calibration_slope", "recalibration"}


def calibration_section(
    storage: Storage, done: Sequence[Mapping[str, Any]], net_benefit: pd.DataFrame
) -> dict[str, Any] | None:
    """Gather the section on thresholds and calibration, or None where nothing of it was scored.

    Parameters
    ----------
    done
        Rows of the leaderboard, each with its ``place`` there and its model's ``name``.
    net_benefit
        ``net_benefit.csv``.
    """
    own = [row for row in done if row["test_set"] == "own" and _NEEDED <= set(row)]
    full = [row for row in done if row["test_set"] == "full" and _NEEDED <= set(row)]
    if not own or not full:
        return None
    prevalences = sorted(set(net_benefit.loc[net_benefit["test_set"] == "full", "prevalence"]))
    first = min(row["seed"] for row in full)
    drawn = [row for row in full if row["seed"] == first][:MOST_PANELS]
    return {
        "own": own,
        "full": full,
        "points": POINTS,
        "at_point": AT_POINT,
        # A study that was scored before may lack one.
        "calibration": {name: said for name, said in CALIBRATION.items() if name in full[0]},
        "prevalences": [format_share(share) for share in prevalences],
        "declared": _is_declared(full, net_benefit),
        "reliability": _reliability(storage, drawn),
        "decision": _decision(net_benefit, drawn),
        "drawn": len(drawn),
    }


def _is_declared(full: Sequence[Mapping[str, Any]], net_benefit: pd.DataFrame) -> bool:
    """Tell whether net benefit is that of another prevalence than each test set's own."""
    own = {row["experiment_id"]: row["n_positive"] / row["n"] for row in full}
    rows = net_benefit[(net_benefit["test_set"] == "full") & net_benefit["experiment_id"].isin(own)]
    return not np.isclose(rows["prevalence"], rows["experiment_id"].map(own)).all()


def calibration_sentence(leaderboard: pd.DataFrame) -> str | None:
    """Say in a sentence how far the models of a study are calibrated."""
    if not _NEEDED <= set(leaderboard):
        return None
    full = leaderboard[(leaderboard["status"] == "done") & (leaderboard["test_set"] == "full")]
    ranges = [_range(full[name]) for name in ("calibration_slope", "ece", "ece_recalibrated")]
    if None in ranges[:2]:
        return None
    after = f", after recalibration on validation {ranges[2]}" if ranges[2] else ""
    return (
        f"Calibration on the full test set: slope {ranges[0]} (1 is right), ECE {ranges[1]}{after}."
    )


def _range(column: "pd.Series[float]") -> str | None:
    known = column.dropna()
    if known.empty:
        return None
    low, high = format_share(float(known.min())), format_share(float(known.max()))
    return low if low == high else f"{low} to {high}"


def _reliability(storage: Storage, rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    curves = dict(_reliability_curves(storage, rows))
    return reliability_panels(curves) if curves else None


def _reliability_curves(
    storage: Storage, rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, tuple[Any, Any, Any]]]:
    for row in rows:
        folder = storage.trials / row["experiment_id"]
        if not (folder / PREDICTIONS_FILE).exists():
            continue
        if "fits" in read_result(folder):
            yield row["name"], out_of_fold_chances(folder)
            continue
        predictions = read_predictions(folder)
        test = predictions.rows("test", "full")
        slope, intercept = row["recalibration_slope"], row["recalibration_intercept"]
        known = slope is not None and slope == slope
        after = expit(slope * predictions.logit[test] + intercept) if known else None
        yield row["name"], (predictions.label[test], predictions.probability[test], after)


def _decision(net_benefit: pd.DataFrame, rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    curves = {}
    for row in rows:
        found = net_benefit[
            (net_benefit["experiment_id"] == row["experiment_id"])
            & (net_benefit["test_set"] == "full")
        ]
        if not found.empty:
            threshold, model, treat_all = (
                found[name].to_numpy() for name in ("threshold", "net_benefit", "treat_all")
            )
            share = float(found["prevalence"].iloc[0])
            curves[row["name"]] = NetBenefit(threshold, model, treat_all, share)
    return decision_panels(curves) if curves else None
