"""Optuna's samplers and pruners under the names that a space's file uses."""

import bisect
import copy
import heapq
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from cxr_ray.sweep.parameter import Parameter, Value
from cxr_ray.sweep.space import Space

# Half of the trials that reach a rung go on: after 1, 2, 4 and 8 epochs. A third going on saved
# little more; a first rung of 2 uses more than half of the epochs on slowly rising curves.
FIRST_RUNG, KEPT_OF = 1, 2
MEDIAN_WARM_UP = 2
STARTUP_TRIALS = 8
# TPE fits a density to every trial that it sees, for each draw anew: 360 ms with 10,000 trials.
# It takes at most 25 as the good ones, and weighs the others down as they get older.
SEEN_BEST, SEEN_ENDED, SEEN_RUNNING = 25, 225, 100
_TOLD = (TrialState.COMPLETE, TrialState.PRUNED)


def build_sampler(space: Space, seed: int, study: optuna.Study) -> optuna.samplers.BaseSampler:
    """Build a space's sampler; what CMA-ES and QMC keep in memory begins anew after a kill.

    Parameters
    ----------
    seed
        Together with the number of trials in ``study`` it decides the draws.
    study
        CMA-ES begins at its best trial.
    """
    draws = int(
        np.random.SeedSequence([seed, len(study.get_trials(deepcopy=False))]).generate_state(1)[0]
    )
    match space.sampler:
        case "random":
            return optuna.samplers.RandomSampler(seed=draws)
        case "qmc":
            return optuna.samplers.QMCSampler(
                scramble=True, seed=draws, warn_independent_sampling=False
            )
        case "nsga2":
            # As many as a small search has: the default of 50 would only draw at random.
            return optuna.samplers.NSGAIISampler(population_size=10, seed=draws)
        case "cmaes":
            done = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
            return optuna.samplers.CmaEsSampler(
                x0=study.best_params if done else None,
                n_startup_trials=STARTUP_TRIALS,
                warn_independent_sampling=False,
                seed=draws,
            )
    return RecentTPESampler(
        study,
        n_startup_trials=STARTUP_TRIALS,
        multivariate=True,
        group=True,
        constant_liar=True,
        seed=draws,
    )


class RecentTPESampler(optuna.samplers.TPESampler):
    """TPE that sees the best trials and the latest, so that a draw costs the same in any search.

    Up to 225 ended and 100 running trials it is TPE itself.
    """

    def __init__(self, study: optuna.Study, **options: Any) -> None:
        super().__init__(**options)
        done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        self._best = {trial.number for trial in done}
        self._grouped: set[frozenset[str]] = set()
        self._distributions: dict[str, BaseDistribution] = {}
        self._internal: dict[tuple[int, TrialState], dict[str, float]] = {}

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Take a trial that may be among the best."""
        super().after_trial(study, trial, state, values)
        if state == TrialState.COMPLETE:
            self._best.add(trial.number)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Look at the study once for all that is drawn for a trial."""
        self._seen = _SeenStudy(study, self._best)
        self._best = self._seen.best
        known = self._internal
        self._internal = {
            at: known.get(at) or self._values(t)
            for t in self._seen.trials_seen
            for at in [(t.number, t.state)]
        }
        # Optuna parts the parameters by the names that occur together in a trial. What it has
        # met once parts them no further, and it keeps the parts.
        new: dict[frozenset[str], FrozenTrial] = {}
        for ended in self._seen.trials_seen:
            if ended.state in _TOLD and (names := frozenset(ended.params)) not in self._grouped:
                new.setdefault(names, ended)
        self._grouped.update(new)
        return super().infer_relative_search_space(self._seen.only(new.values()), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw what trials have in common."""
        return super().sample_relative(self._seen, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw what no ended trial has had."""
        return super().sample_independent(self._seen, trial, param_name, param_distribution)

    def _get_internal_repr(
        self,
        trials: list[FrozenTrial],
        search_space: dict[str, BaseDistribution],
        study: optuna.Study,
    ) -> dict[str, NDArray[Any]]:
        """Look the values up, which Optuna makes anew of each trial at each draw."""
        rows = [self._internal[t.number, t.state] for t in trials]
        rows = [row for row in rows if search_space.keys() <= row.keys()]
        return {name: np.asarray([row[name] for row in rows]) for name in search_space}

    def _values(self, trial: FrozenTrial) -> dict[str, float]:
        """Return a trial's values as TPE computes with them.

        A running one has those of parameters, too, that it turned out not to need.
        """
        self._distributions |= trial.distributions
        return {
            name: self._distributions[name].to_internal_repr(value)
            for name, value in self._get_params(trial, self._seen).items()
        }


class _SeenStudy(optuna.Study):
    """A study with a part of its trials, made as Optuna's Hyperband makes one.

    Attributes
    ----------
    best
        Numbers of the best trials of those that may be.
    trials_seen
        The part, by number.
    """

    def __init__(self, study: optuna.Study, best: Iterable[int]) -> None:
        self.__dict__ |= vars(study)
        trials = study.get_trials(deepcopy=False)
        self.best: set[int] = set()
        for place, direction in enumerate(study.directions):
            sign = -1 if direction == StudyDirection.MAXIMIZE else 1
            reached = {n: sign * trials[n].values[place] for n in best}
            self.best |= set(heapq.nsmallest(SEEN_BEST, reached, key=reached.__getitem__))
        ended = (t.number for t in reversed(trials) if t.state in _TOLD)
        latest = list(itertools.islice(ended, SEEN_ENDED))
        since = latest[-1] if len(latest) == SEEN_ENDED else 0
        begun = (t.number for t in reversed(trials[since:]) if t.state == TrialState.RUNNING)
        running = itertools.islice(begun, SEEN_RUNNING)
        self.trials_seen = [trials[n] for n in sorted({*self.best, *latest, *running})]

    def only(self, trials: Iterable[FrozenTrial]) -> "_SeenStudy":
        """Return the study with some of these trials."""
        found = copy.copy(self)
        found.trials_seen = list(trials)
        return found

    def _get_trials(
        self, deepcopy: bool = True, states: Any = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [t for t in self.trials_seen if states is None or t.state in states]


def build_pruner(name: str) -> optuna.pruners.BasePruner:
    """Build a pruner: ASHA (Li et al. 2020), the median rule, or none.

    Tune's schedulers end a trial by stopping its process, which under several workers never
    returns its CPUs, and their rungs are lost with the driver. So the study decides, and a trial
    ends by itself.
    """
    match name:
        case "asha":
            return Asha()
        case "median":
            return optuna.pruners.MedianPruner(n_warmup_steps=MEDIAN_WARM_UP)
    return optuna.pruners.NopPruner()


class Asha(optuna.pruners.BasePruner):
    """Optuna's `SuccessiveHalvingPruner`, which looks through all trials whenever one is asked for.

    It holds what each rung was reached with, and so has to be asked once after every report.
    """

    def __init__(self) -> None:
        self._rungs: defaultdict[int, list[float]] = defaultdict(list)
        self._passed: Counter[int] = Counter()

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Tell whether a trial is not in the better half of those that have reached its rung."""
        if trial.last_step is None:
            return False
        sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
        value = sign * trial.intermediate_values[trial.last_step]
        while trial.last_step >= FIRST_RUNG * KEPT_OF ** self._passed[trial.number]:
            if math.isnan(value):
                return True
            reached = self._rungs[self._passed[trial.number]]
            self._passed[trial.number] += 1
            bisect.insort(reached, value)
            if value > reached[max(1, len(reached) // KEPT_OF) - 1]:
                return True
        return False


def distribution(parameter: Parameter) -> BaseDistribution:
    """Give a parameter's distribution as Optuna has it."""
    if parameter.choices is not None:
        return CategoricalDistribution(parameter.choices)
    low, high = parameter.bounds
    if parameter.whole is not None:
        step = int(parameter.step or 1)
        return IntDistribution(int(low), int(high), log=parameter.log, step=step)
    return FloatDistribution(low, high, log=parameter.log, step=parameter.step)


def suggest(trial: Trial, name: str, parameter: Parameter) -> Value:
    """Let a trial's sampler draw a parameter."""
    value: Value
    if parameter.choices is not None:
        value = trial.suggest_categorical(name, parameter.choices)
        return value
    low, high = parameter.bounds
    if parameter.whole is not None:
        step = int(parameter.step or 1)
        return trial.suggest_int(name, int(low), int(high), log=parameter.log, step=step)
    return trial.suggest_float(name, low, high, log=parameter.log, step=parameter.step)
