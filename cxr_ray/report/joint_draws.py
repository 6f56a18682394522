"""The test records that arms share, and the draws of patients that their comparisons share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_ray.evaluation.delong import delong_test
from cxr_ray.evaluation.paired import (
    AT_THRESHOLD,
    JointBootstrap,
    PairedDifference,
    joint_bootstrap,
)
from cxr_ray.evaluation.seeds import CrossedBootstrap, crossed_bootstrap
from cxr_ray.evaluation.thresholds import f1_operating_point
from cxr_ray.report.trial_folder import Predictions

# As the leaderboard names what it holds at the threshold chosen on validation.
EXPLORED = {f"{metric}_at_val": metric for metric in AT_THRESHOLD} | {
    "average_precision": "average_precision"
}
# Of a larger family Holm's correction needs p-values that few resamples cannot reach.
LARGE_FAMILY, MORE_RESAMPLES = 20, 5
_DRAWS = 0xC0


class NotComparedError(Exception):
    """Why two arms cannot be compared, in a sentence."""


@dataclass(frozen=True)
class SharedRecords:
    """The full test records that two arms share; logits and thresholds by arm and seed.

    A threshold is the one of the highest F1 on the model's full validation part. Patients are
    numbered by their first record: their names are salted by storage, and draws must not follow
    them. ``part`` tells whether any model was tested on further records.
    """

    record_id: NDArray[np.str_]
    label: NDArray[np.int8]
    groups: NDArray[np.int64]
    logits: list[list[NDArray[np.float64]]]
    thresholds: list[list[float]]
    part: bool

    @classmethod
    def of(cls, models: Sequence[Sequence[Predictions]]) -> "SharedRecords":
        """Find the records that the models of two arms, one list an arm, were all tested on.

        Raises
        ------
        NotComparedError
            If there are none, if their labels or their order differ between models, or if they are
            all of one class.
        """
        every = [model for arm in models for model in arm]
        tests = [model.rows("test", "full") for model in every]
        common = set.intersection(
            *(set(model.record_id[rows]) for model, rows in zip(every, tests, strict=True))
        )
        if not common:
            raise NotComparedError("the two were tested on different records")
        part = any(len(common) < rows.sum() for rows in tests)
        kept = {
            id(model): rows & np.isin(model.record_id, list(common)) if part else rows
            for model, rows in zip(every, tests, strict=True)
        }
        first = every[0]
        label, record_id = first.label[kept[id(first)]], first.record_id[kept[id(first)]]
        for model in every:
            if not np.array_equal(model.record_id[kept[id(model)]], record_id):
                raise NotComparedError("the two have their test records in different orders")
            if not np.array_equal(model.label[kept[id(model)]], label):
                raise NotComparedError("the two have different labels of the same records")
        if len(np.unique(label)) < 2:
            raise NotComparedError("the test set holds one class only")
        return cls(
            record_id=record_id,
            label=label,
            groups=pd.factorize(first.group[kept[id(first)]])[0],
            logits=[[model.logit[kept[id(model)]] for model in arm] for arm in models],
            thresholds=[[_threshold(model) for model in arm] for arm in models],
            part=part,
        )


def _threshold(model: Predictions) -> float:
    rows = model.rows("val", "full")
    return f1_operating_point(model.label[rows], model.logit[rows]).threshold


@dataclass
class JointDraws:
    """Records that arms of equally many seeds were tested on, each resample one draw for all.

    ``logits`` and ``thresholds`` are those of each arm's models, by the models' experiment ids.
    """

    label: NDArray[np.int8]
    groups: NDArray[np.int64]
    n_resamples: int
    logits: dict[tuple[str, ...], list[NDArray[np.float64]]] = field(default_factory=dict)
    thresholds: dict[tuple[str, ...], list[float]] = field(default_factory=dict)

    def compare(
        self, first: tuple[str, ...], second: tuple[str, ...]
    ) -> dict[str, tuple[PairedDifference, str]]:
        """Compare two arms: each difference and its method by metric."""
        arms = list(self.logits)
        place, other_place = arms.index(first), arms.index(second)
        if len(first) == 1:
            (one,), (other,) = self.logits[first], self.logits[second]
            test = delong_test(self.label, one, other, groups=self.groups)
            area = PairedDifference(test.difference, test.low, test.high, test.p_value)
            drawn = self._drawn.compare(place, other_place)
            explored = {name: (drawn[each], "bootstrap_paired") for name, each in EXPLORED.items()}
            return {"auroc": (area, test.method), **explored}
        found = {}
        for metric in ("auroc", *EXPLORED):
            both = self._crossed.compare(place, other_place, metric)
            bounds = both.interval
            figures = PairedDifference(both.difference, bounds.low, bounds.high, both.p_value)
            found[metric] = figures, bounds.method
        return found

    @property
    def _rng(self) -> np.random.Generator:
        first = min(identity for arm in self.logits for identity in arm)
        return np.random.default_rng([int(first, 16), _DRAWS])

    @cached_property
    def _drawn(self) -> JointBootstrap:
        return joint_bootstrap(
            self.label,
            [logit for (logit,) in self.logits.values()],
            thresholds=[threshold for (threshold,) in self.thresholds.values()],
            groups=self.groups,
            metrics=tuple(EXPLORED.values()),
            n_resamples=self.n_resamples,
            rng=self._rng,
        )

    @cached_property
    def _crossed(self) -> CrossedBootstrap:
        return crossed_bootstrap(
            self.label,
            list(self.logits.values()),
            points={"val": list(self.thresholds.values())},
            metrics=("auroc", *EXPLORED),
            groups=self.groups,
            n_resamples=self.n_resamples,
            rng=self._rng,
        )


class StudyDraws:
    """The draws of a study's comparisons.

    Parameters
    ----------
    n_resamples
        Draws of a comparison of single models; of a large family more are made.
    family
        How many exploratory comparisons Holm's correction counts.
    """

    def __init__(self, n_resamples: int, family: int) -> None:
        self._n_resamples, self._family = n_resamples, family
        self._found: dict[tuple[Any, ...], JointDraws] = {}

    def of(self, shared: SharedRecords, pair: Sequence[tuple[str, ...]]) -> JointDraws:
        """Return the test set that two arms share, with both in it."""
        seeds = len(pair[0])
        # Across seeds p-values are read from Student's t and not counted.
        more = MORE_RESAMPLES if seeds == 1 and self._family > LARGE_FAMILY else 1
        key = (
            seeds,
            *(each.tobytes() for each in (shared.record_id, shared.label, shared.groups)),
        )
        test = JointDraws(shared.label, shared.groups, more * self._n_resamples)
        test = self._found.setdefault(key, test)
        test.logits |= zip(pair, shared.logits, strict=True)
        test.thresholds |= zip(pair, shared.thresholds, strict=True)
        return test
