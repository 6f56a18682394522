"""That sampler and pruner decide as Optuna's own, and what the sampler of a long search sees."""

import random

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from cxr_ray.sweep import samplers
from cxr_ray.sweep.samplers import FIRST_RUNG, KEPT_OF, Asha, RecentTPESampler

OPTIONS = {"n_startup_trials": 8, "multivariate": True, "group": True, "constant_liar": True}
RANGE = FloatDistribution(0, 1)


def optimize(sampler_of):
    """Ask two at a time, of which one ends, with a parameter that exists in some trials only."""
    study = optuna.create_study(direction="maximize")
    study.sampler = sampler_of(study)
    for _ in range(20):
        trials = [study.ask(), study.ask()]
        for trial in trials:
            if trial.suggest_categorical("kind", ["a", "b"]) == "a":
                trial.suggest_float("x", 0, 1)
        study.tell(trials[0], trials[0].params.get("x", 0.5))
    return [trial.params for trial in study.trials]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_short_search_draws_as_tpe_itself():
    own = optimize(lambda study: RecentTPESampler(study, seed=3, **OPTIONS))
    assert own == optimize(lambda study: optuna.samplers.TPESampler(seed=3, **OPTIONS))


def trial(value):
    ended = {} if value is None else {"value": value}
    state = TrialState.RUNNING if value is None else TrialState.COMPLETE
    return create_trial(state=state, params={"x": 0.5}, distributions={"x": RANGE}, **ended)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(("direction", "best"), [("maximize", {1, 2}), ("minimize", {0, 3})])
def test_a_long_search_shows_tpe_its_best_trials_and_the_latest(monkeypatch, direction, best):
    for name, value in {"BEST": 2, "ENDED": 3, "RUNNING": 2}.items():
        monkeypatch.setattr(samplers, f"SEEN_{name}", value)
    study = optuna.create_study(direction=direction)
    #                 0    1    2    3    4     5    6    7     8    9     10    11
    values = [0.1, 0.8, 0.9, 0.2, None, 0.5, 0.5, None, 0.5, None, None, 0.5]
    study.add_trials(map(trial, values))
    study.sampler = RecentTPESampler(study, **OPTIONS)
    seen = []
    for _ in range(2):  # what is not among the best is not looked at again
        study.ask({"x": RANGE})
        seen.append({t.number for t in study.sampler._seen.get_trials(deepcopy=False)})
    assert seen[0] == {*best, 6, 8, 11, 10, 12}
    assert seen[1] == {*best, 6, 8, 11, 12, 13}
    study.tell(12, 1.0 if direction == "maximize" else 0.0)
    study.ask({"x": RANGE})
    worse = min(best) if direction == "maximize" else max(best)
    assert {t.number for t in study.sampler._seen.get_trials(deepcopy=False)} == {
        *(best - {worse}), 8, 11, 12, 13, 14,
    }  # fmt: skip


def halve(pruner, direction):
    """Let sixty trials report in turns, each until it is pruned or has had twelve epochs."""
    study = optuna.create_study(direction=direction, pruner=pruner)
    rng = random.Random(1)
    running, epochs = [(study.ask(), []) for _ in range(60)], []
    while running:
        trial, reached = running.pop(rng.randrange(len(running)))
        # coarse figures are often equal, and a diverged trial has none
        reached.append(round(rng.random(), 1) if rng.random() < 0.98 else float("nan"))
        trial.report(reached[-1], len(reached))
        if trial.should_prune() or len(reached) == 12:
            epochs.append((trial.number, len(reached)))
        else:
            running.append((trial, reached))
    return epochs


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_asha_prunes_as_optunas_successive_halving(direction):
    optunas = optuna.pruners.SuccessiveHalvingPruner(
        min_resource=FIRST_RUNG, reduction_factor=KEPT_OF
    )
    epochs = halve(Asha(), direction)
    assert epochs == halve(optunas, direction)
    assert 1 < len({count for _, count in epochs})
