"""What a search's trials say of its parameters: their importance, and the pictures."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.trial import TrialState, create_trial

from cxr_ray.report.search_page import PICTURES
from cxr_ray.sweep.search import Search, SearchTrial
from cxr_ray.sweep.search_plan import FEWEST_FOR_IMPORTANCE

_FINISHED, _PRUNED, _MARKED = "#0072B2", "0.6", "#D55E00"


def comparable_trials(search: Search) -> tuple[optuna.Study, str]:
    """Give trials of equal training, and what is measured of them.

    They are the finished ones. Where a pruner has left fewer than ten, they are all trials, each
    with its best figure after as many epochs as every one of them has seen: what a trial reached
    by the time that it was pruned cannot be held against one that was trained to its end.
    """
    objective = search.space.objectives[0]
    seen = _shown(search)
    done = [trial for trial in seen if trial.status == "finished"]
    if len(done) >= FEWEST_FOR_IMPORTANCE or len(done) == len(seen):
        return search.study, objective
    epochs = min(len(trial.curve) for trial in seen)
    asked = search.study.get_trials(deepcopy=False)
    study = optuna.create_study(directions=search.study.directions)
    for trial in seen:
        frozen = asked[trial.asked.number]
        study.add_trial(
            create_trial(
                params=frozen.params,
                distributions=frozen.distributions,
                value=max(trial.curve[:epochs]),
            )
        )
    return study, f"{objective} after {epochs} epoch{'s' * (epochs > 1)}"


def measure_importance(search: Search) -> pd.DataFrame:
    """Share out the variance of what is measured over parameters: fANOVA (Hutter et al. 2014).

    A conditional parameter is measured among the trials that have it; ``trials`` counts them.
    Fewer than ten trials give no row. ``measured`` is as `comparable_trials` names it.
    """
    study, measured = comparable_trials(search)
    done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    everywhere = [n for n in search.space.parameters if all(n in t.params for t in done)]

    @functools.cache
    def share_out(*further: str) -> dict[str, float]:
        return optuna.importance.get_param_importances(
            study,
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
            params=[*everywhere, *further],
            target=_first_objective,
        )

    rows = []
    for name in search.space.parameters:
        own = [t for t in done if name in t.params]
        spread = np.ptp([t.values[0] for t in own]) if own else 0.0
        if len(own) < FEWEST_FOR_IMPORTANCE or spread == 0:
            continue
        shares = share_out() if name in everywhere else share_out(name)
        rows.append(
            {
                "parameter": name,
                "importance": shares[name],
                "trials": len(own),
                "measured": measured,
            }
        )
    table = pd.DataFrame(rows, columns=["parameter", "importance", "trials", "measured"])
    return table.sort_values("importance", ascending=False, ignore_index=True)


def draw_pictures(search: Search, importance: pd.DataFrame, folder: Path) -> None:
    """Draw history, importance, slices, the two foremost parameters, and the Pareto front.

    A picture of another number of trials that cannot be drawn any more is removed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    drawn: dict[str, Callable[[], Any]] = {}
    shown = _shown(search)
    if shown:
        drawn["history"] = lambda: _draw_history(search, shown)
        drawn["slice"] = lambda: _draw_slices(search, shown)
    if not importance.empty:
        drawn["importance"] = lambda: _draw_importance(importance)
    ranges = [n for n in importance["parameter"] if search.space.parameters[n].choices is None]
    if len(ranges) > 1:
        study, measured = comparable_trials(search)
        drawn["contour"] = lambda: plots.plot_contour(
            study, params=ranges[:2], target=_first_objective, target_name=measured
        )
    if shown and len(search.space.objectives) > 1:
        drawn["pareto"] = lambda: plots.plot_pareto_front(
            search.study, target_names=list(search.space.objectives)
        )
    for name in PICTURES:
        path = folder / f"search_{name}.png"
        if name not in drawn:
            path.unlink(missing_ok=True)
            continue
        with matplotlib.rc_context():
            axes = np.ravel(np.asarray(drawn[name](), dtype=object))[0]
            axes.set_title("")  # the page has a caption
            axes.figure.savefig(path, dpi=100, bbox_inches="tight")
            pyplot.close(axes.figure)


def _draw_history(search: Search, shown: Sequence[SearchTrial]) -> Any:
    """Draw what each trial reached by its number, and the best finished one so far."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    axes = Figure(figsize=(7, 4), layout="constrained").subplots()
    _scatter(axes, search, {trial.asked.number: trial.asked.number for trial in shown})
    done = [trial for trial in shown if trial.status == "finished"]
    if done:
        numbers = [*(trial.asked.number for trial in done), shown[-1].asked.number]
        best = np.maximum.accumulate([trial.values[0] for trial in [*done, done[-1]]])
        axes.step(numbers, best, where="post", color=_FINISHED, linewidth=1, label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel(search.space.objectives[0])
    axes.legend(fontsize="small")
    return axes


def _draw_slices(search: Search, shown: Sequence[SearchTrial]) -> Any:
    """Draw what each trial reached against each parameter, where it exists."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    parameters = search.space.parameters
    across = min(4, len(parameters))
    down = -(-len(parameters) // across)
    figure = Figure(figsize=(3 * across, 3 * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes, (name, parameter) in zip(grid.flat, parameters.items(), strict=False):
        values = {
            t.asked.number: t.asked.parameters[name] for t in shown if name in t.asked.parameters
        }
        if parameter.choices is not None:
            names = ["none" if choice is None else str(choice) for choice in parameter.choices]
            axes.set_xticks(range(len(names)), names, rotation=45 * any(len(n) > 4 for n in names))
            values = {number: list(parameter.choices).index(v) for number, v in values.items()}
        elif parameter.log:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(LogLocator(subs=(2, 4)))  # more would overlap
        _scatter(axes, search, values)
        axes.set_xlabel(name)
    for axes in grid.flat[len(parameters) :]:
        axes.remove()
    for row in grid:
        row[0].set_ylabel(search.space.objectives[0])
    grid[0][0].legend(fontsize="x-small")
    return grid[0][0]


def _scatter(axes: Any, search: Search, places: Mapping[int, Any]) -> None:
    """Put trials, by number, at their objective, and pruned ones at the best they have reached."""
    reference = search.reference()
    done, pruned = (
        [search.trials[n] for n in places if search.trials[n].status == status]
        for status in ("finished", "pruned")
    )

    def put(trials: Sequence[SearchTrial], figures: Sequence[float], **style: Any) -> None:
        if trials:
            axes.scatter([places[t.asked.number] for t in trials], figures, **style)

    put(
        pruned,
        [max(trial.curve) for trial in pruned],
        marker="x",
        color=_PRUNED,
        label="pruned, at its best",
    )
    put(done, [trial.values[0] for trial in done], color=_FINISHED, label="finished")
    first = [trial for trial in done if trial is reference]
    ring = {"s": 90, "facecolors": "none", "edgecolors": _MARKED}
    put(first, [trial.values[0] for trial in first], label="trial 0", **ring)


def _draw_importance(importance: pd.DataFrame) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.9 + 0.35 * len(importance)), layout="constrained")
    axes = figure.subplots()
    axes.barh(importance["parameter"], importance["importance"], color=_FINISHED)
    axes.invert_yaxis()
    axes.set_xlabel(f"share of the variance of\n{importance['measured'].iloc[0]} (fANOVA)")
    return axes


def _shown(search: Search) -> list[SearchTrial]:
    """List what was finished or pruned, each experiment once."""
    own = (t for t in search.trials.values() if t.same_as is None)
    return [t for t in own if t.status in ("finished", "pruned") and t.curve]


def _first_objective(trial: optuna.trial.FrozenTrial) -> float:
    return float(trial.values[0])
