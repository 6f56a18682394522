"""Optuna's samplers and pruners under the names that a space's file uses."""

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial, TrialState

from cxr_ray.sweep.parameter import Parameter, Value
from cxr_ray.sweep.space import Space

# Half of the trials that reach a rung go on: after 1, 2, 4 and 8 epochs. A third going on saved
# little more; a first rung of 2 uses more than half of the epochs on slowly rising curves.
FIRST_RUNG, KEPT_OF = 1, 2
MEDIAN_WARM_UP = 2
STARTUP_TRIALS = 8


def build_sampler(space: Space, seed: int, study: optuna.Study) -> optuna.samplers.BaseSampler:
    """Build a space's sampler; what CMA-ES and QMC keep in memory begins anew after a kill.

    Parameters
    ----------
    seed
        Together with the number of trials in ``study`` it decides the draws.
    study
        CMA-ES begins at its best trial.
    """
    draws = int(np.random.SeedSequence([seed, len(study.trials)]).generate_state(1)[0])
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
            done = [t for t in study.trials if t.state == TrialState.COMPLETE]
            return optuna.samplers.CmaEsSampler(
                x0=study.best_params if done else None,
                n_startup_trials=STARTUP_TRIALS,
                warn_independent_sampling=False,
                seed=draws,
            )
    return optuna.samplers.TPESampler(
        n_startup_trials=STARTUP_TRIALS,
        multivariate=True,
        group=True,
        constant_liar=True,
        seed=draws,
    )


def build_pruner(name: str) -> optuna.pruners.BasePruner:
    """Build a pruner: ASHA (Li et al. 2020), the median rule, or none.

    Tune's schedulers end a trial by stopping its process, which under several workers never
    returns its CPUs, and their rungs are lost with the driver. So the study decides, and a trial
    ends by itself.
    """
    match name:
        case "asha":
            return optuna.pruners.SuccessiveHalvingPruner(
                min_resource=FIRST_RUNG, reduction_factor=KEPT_OF
            )
        case "median":
            return optuna.pruners.MedianPruner(n_warmup_steps=MEDIAN_WARM_UP)
    return optuna.pruners.NopPruner()


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
