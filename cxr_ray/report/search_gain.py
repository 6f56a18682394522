"""How much of what a search gained on the validation part is left on the test part."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.evaluation.delong import PairedTest, delong_test
from cxr_ray.evaluation.paired import PairedDifference, paired_bootstrap
from cxr_ray.evaluation.ranking import auroc, average_precision
from cxr_ray.report.result_table import format_share
from cxr_ray.report.trial_folder import read_predictions

GAIN_FILE = "gain.csv"
COLUMNS = (
    "part", "metric", "n", "n_positive", "winner", "trial_0", "difference", "low", "high",
    "p_value", "method",
)  # fmt: skip
_DRAWS = 0x6A
_METRICS = {"average_precision": average_precision, "auroc": auroc}


def measure_gain(winner: Path, reference: Path, config: EvaluationConfig) -> pd.DataFrame:
    """Compare a search's winner with trial 0, on validation and on test.

    Parameters
    ----------
    winner, reference
        Folders of the two trials; both with predictions of the test part.

    Returns
    -------
    One row a part and metric: paired bootstrap of average precision, paired DeLong of AUROC, on
    the full part. On validation the winner was picked for this very difference: no interval.
    """
    one, other = read_predictions(winner), read_predictions(reference)
    rows: list[dict[str, Any]] = []
    for part in ("val", "test"):
        mine, theirs = one.rows(part, "full"), other.rows(part, "full")
        label, groups = one.label[mine], pd.factorize(one.group[mine])[0]
        first, second = one.logit[mine], other.logit[theirs]
        identity = int(winner.name, 16)
        drawn = paired_bootstrap(
            label,
            first,
            second,
            groups=groups,
            metrics=("average_precision",),
            n_resamples=config.bootstrap,
            rng=np.random.default_rng([identity, _DRAWS]),
        )["average_precision"]
        area = delong_test(label, first, second, groups=groups)
        tests: dict[str, tuple[PairedDifference | PairedTest, str]] = {
            "average_precision": (drawn, "bootstrap_paired"),
            "auroc": (area, area.method),
        }
        for metric, (test, method) in tests.items():
            row = {
                "part": part,
                "metric": metric,
                "n": len(label),
                "n_positive": int(label.sum()),
                "winner": _METRICS[metric](label, first),
                "trial_0": _METRICS[metric](label, second),
                "difference": test.difference,
            }
            if part == "test":
                row |= {"low": test.low, "high": test.high, "p_value": test.p_value}
                row["method"] = method
            else:
                row["method"] = "none: the winner was picked by it"
            rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def describe_gain(
    gain: pd.DataFrame | None, search: Mapping[str, Any], winner: str | None
) -> list[str]:
    """Say what the search found, what of it is left on the test part, and what not to believe.

    Parameters
    ----------
    gain
        As `measure_gain` returns it, or None where there is nothing to compare.
    search
        ``finished``, ``pruned`` and ``failed`` count its trials, ``tested`` those with a test part.
    winner
        Name of the best trial, None where none has finished.
    """
    counts = f"{search['finished']} trial{'s' * (search['finished'] != 1)} finished"
    counts += "".join(f", {search[how]} {how}" for how in ("pruned", "failed") if search[how])
    if winner is None:
        return [f"{counts}: there is no winner yet."]
    if gain is None:
        return [
            f"{counts}. Trial 0, the values that the search began with, is the best of them: there "
            "is no gain to test."
        ]
    said = [f"{counts}; the best is {winner}."]
    for metric, title in (("average_precision", "average precision"), ("auroc", "AUROC")):
        val, test = (
            gain[(gain["part"] == part) & (gain["metric"] == metric)].iloc[0]
            for part in ("val", "test")
        )
        share = ""
        if val["difference"] > 0:
            share = f" ({max(0.0, test['difference'] / val['difference']):.0%} of it)"
        apart = "better" if test["low"] > 0 else "worse" if test["high"] < 0 else None
        verdict = (
            f"this one model is {apart} on these patients" if apart else "no difference is shown"
        )
        said.append(
            f"Its {title} is {_signed(val['difference'])} from trial 0 on validation "
            f"({format_share(val['winner'])} against {format_share(val['trial_0'])}); on test "
            f"{_signed(test['difference'])} [{_signed(test['low'])}, {_signed(test['high'])}] is "
            f"left{share}, p {format_share(test['p_value'])}: {verdict}."
        )
    n, positive = (int(gain[column].iloc[0]) for column in ("n", "n_positive"))
    said.append(
        f"The winner is the best of {search['finished'] + search['pruned']} on {positive} positive "
        f"and {n - positive} negative validation records: its validation figures are too good by "
        "that choice. One model of each setting was trained: that the settings differ, rather than "
        "two models of which one may have stopped early, is for several seeds or folds to show."
    )
    if search["tested"] > 2:
        said.append(
            f"{search['tested']} models of this search have been scored on the test part: the best "
            "of them looks better than it is."
        )
    return said


def _signed(value: float) -> str:
    text = format_share(value)
    return f"+{text}" if value > 0 else text
