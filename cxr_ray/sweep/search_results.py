"""What a search leaves in its study's folder: tables, pictures, best config, Optuna's storage."""

import shlex
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import yaml

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.report.result_table import ResultTable, format_share
from cxr_ray.report.search_gain import GAIN_FILE, describe_gain, measure_gain
from cxr_ray.storage import Storage, write_whole
from cxr_ray.sweep.parameter import Value
from cxr_ray.sweep.search import Search, SearchTrial
from cxr_ray.sweep.study import Study

TRIALS_FILE = "search.csv"
IMPORTANCE_FILE = "importance.csv"
BEST_FILE = "best.yaml"
OPTUNA_FILE = "optuna.db"
# A forest of regression trees fits fewer trials without a remainder.
FEWEST_FOR_IMPORTANCE = 10
SHOWN_TRIALS = 10
_SEARCH_FLAGS = ("--search", "--trials", "--time-budget", "--keep", "--study")


def write_results(
    study: Study, storage: Storage, search: Search, config: EvaluationConfig
) -> list[str]:
    """Write a search's files into its study's folder and return what to print of them."""
    folder = study.folder
    trials = tabulate_trials(search)
    write_whole(folder / TRIALS_FILE, trials.to_csv(index=False))
    importance = measure_importance(search)
    write_whole(folder / IMPORTANCE_FILE, importance.to_csv(index=False))
    draw_pictures(search, folder)
    write_optuna(search, study.name, folder / OPTUNA_FILE)
    best, reference = next(iter(search.best()), None), search.reference()
    gain = None
    if best is not None and reference is not None and reference.status == "finished":
        both = [str(each.asked.experiment_id) for each in (best, reference)]
        if best is not reference and all(map(storage.is_finished, both)):
            gain = measure_gain(storage.trials / both[0], storage.trials / both[1], config)
    if gain is None:
        (folder / GAIN_FILE).unlink(missing_ok=True)
    else:
        write_whole(folder / GAIN_FILE, gain.to_csv(index=False))
    command = _write_best(study, search, best, reference)
    own = [t for t in search.trials.values() if t.same_as is None]
    counts = {how: sum(t.status == how for t in own) for how in ("finished", "pruned", "failed")}
    counts["tested"] = sum(
        storage.is_finished(str(t.asked.experiment_id)) for t in own if t.status == "finished"
    )
    said = describe_gain(gain, counts, _name(best))
    study.update(
        search.members,
        search={**study.record["search"], **counts, "said": said, "command": command},
    )
    shown = [table_of_trials(search), "\n".join(said)]
    if command is not None:
        here = command.replace(_place(study), shlex.quote(str(folder / BEST_FILE)))
        shown.append(f"The winner and trial 0 with five seeds: {here}")
    return shown


def tabulate_trials(search: Search) -> pd.DataFrame:
    """One row an asked trial: its parameters, objective, status and cost, in the order asked."""
    rows = []
    for number, trial in search.trials.items():
        status = "done" if trial.status == "finished" else trial.status
        row: dict[str, Any] = {
            "number": number,
            "experiment_id": trial.asked.experiment_id,
            "name": _name(trial),
            # What does not exist in a trial stays empty; a null that was chosen is not that.
            **{
                name: "none" if value is None else value
                for name, value in trial.asked.parameters.items()
            },
        }
        row |= dict.fromkeys(search.space.objectives)
        row |= dict(zip(search.space.objectives, trial.values, strict=False))
        row |= {"status": status, "reason": trial.reason, "epochs": len(trial.history) or None}
        rows.append(row)
    columns = [
        "number", "experiment_id", "name", *search.space.parameters, *search.space.objectives,
        "status", "reason", "epochs",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def table_of_trials(search: Search) -> str:
    """Lay out the best finished trials and trial 0 for printing."""
    best = search.best(SHOWN_TRIALS)
    reference = search.reference()
    if reference is not None and reference not in best and reference.status == "finished":
        best = [*best, reference]
    short = [name.rpartition(".")[2] for name in search.space.parameters]
    return ResultTable(
        title="Search",
        caption=(
            f"The best of {len(search.trials)} asked trials by "
            f"{', '.join(search.space.objectives)}, and trial 0; the others are in {TRIALS_FILE}."
        ),
        columns=("trial", *short, *search.space.objectives, "epochs"),
        rows=tuple(
            (
                f"t{trial.asked.number}",
                *(_shown(trial.asked.parameters, name) for name in search.space.parameters),
                *(format_share(value) if value <= 1 else f"{value:.1f}" for value in trial.values),
                str(len(trial.history)),
            )
            for trial in best
        ),
    ).to_text()


def measure_importance(search: Search) -> pd.DataFrame:
    """Share out the first objective's variance over parameters: fANOVA (Hutter et al. 2014).

    A conditional parameter is measured among the trials that have it; ``trials`` counts them.
    Fewer than ten finished trials give no row.
    """
    done = search.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    columns = ["parameter", "importance", "trials"]
    rows = []
    everywhere = [n for n in search.space.parameters if all(n in t.params for t in done)]
    for name in search.space.parameters:
        own = [t for t in done if name in t.params]
        spread = np.ptp([t.values[0] for t in own]) if own else 0.0
        if len(own) < FEWEST_FOR_IMPORTANCE or spread == 0:
            continue
        shares = optuna.importance.get_param_importances(
            search.study,
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
            params=[*everywhere, *([] if name in everywhere else [name])],
            target=_first_objective,
        )
        rows.append({"parameter": name, "importance": shares[name], "trials": len(own)})
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values("importance", ascending=False, ignore_index=True)


def draw_pictures(search: Search, folder: Path) -> None:
    """Draw history, importance, slices, the two foremost parameters, and the Pareto front."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    study, names = search.study, list(search.space.parameters)
    done = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    if not done:
        return
    objective = search.space.objectives[0]
    common: dict[str, Any] = {"target_name": objective}
    if len(search.space.objectives) > 1:
        common["target"] = _first_objective
    importance = measure_importance(search)
    drawn: dict[str, Callable[[], Any]] = {
        "history": lambda: plots.plot_optimization_history(study, **common)
    }
    drawn["slice"] = lambda: plots.plot_slice(
        study, params=[n for n in names if any(n in t.params for t in done)], **common
    )
    if not importance.empty:
        drawn["importance"] = lambda: _draw_importance(importance)
    ranges = [n for n in importance["parameter"] if search.space.parameters[n].choices is None]
    if len(ranges) > 1:
        drawn["contour"] = lambda: plots.plot_contour(study, params=ranges[:2], **common)
    if len(search.space.objectives) > 1:
        drawn["pareto"] = lambda: plots.plot_pareto_front(
            study, target_names=list(search.space.objectives)
        )
    for name, draw in drawn.items():
        with matplotlib.rc_context():
            axes = np.ravel(np.asarray(draw(), dtype=object))[0]
            axes.figure.savefig(folder / f"search_{name}.png", dpi=100, bbox_inches="tight")
            pyplot.close(axes.figure)


def write_optuna(search: Search, name: str, path: Path) -> None:
    """Write the study as an Optuna storage, for those who open it in its dashboard.

    It is a copy: nothing is ever read from it.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    storage = optuna.storages.RDBStorage(f"sqlite:///{aside}")
    try:
        copy = optuna.create_study(
            storage=storage, study_name=name, directions=search.study.directions
        )
        states = optuna.trial.TrialState
        copy.add_trials(
            t for t in search.study.get_trials(deepcopy=False) if t.state != states.RUNNING
        )
        storage.engine.dispose()
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _write_best(
    study: Study, search: Search, best: SearchTrial | None, reference: SearchTrial | None
) -> str | None:
    """Write the winner beside trial 0 as a grid, and return the command that trains both."""
    if best is None:
        return None
    levels = {"found": dict(best.asked.parameters)}
    if reference is not None and reference is not best:
        levels = {"trial_0": dict(reference.asked.parameters), **levels}
    grid = {
        "title": f"Is what the search {study.name} found better than what it began with?",
        "base": dict(search.space.base.values),
        "axes": {"values": levels},
    }
    write_whole(study.folder / BEST_FILE, yaml.safe_dump(grid, sort_keys=False))
    words = shlex.join(_without(shlex.split(study.record["command"]), _SEARCH_FLAGS))
    again = shlex.join(["--seeds", "5", "--study", f"{study.name}-best"])
    return f"{words} --grid {_place(study)} {again}"


def _place(study: Study) -> str:
    """Name the best config's file without the storage's own path, since pages travel."""
    return f"STORAGE/studies/{study.name}/{BEST_FILE}"


def _without(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Drop flags with their value, written apart or with an equals sign."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in flags:
            skip = True
        elif word.partition("=")[0] not in flags:
            kept.append(word)
    return kept


def _draw_importance(importance: pd.DataFrame) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.6 + 0.35 * len(importance)), layout="constrained")
    axes = figure.subplots()
    axes.barh(importance["parameter"], importance["importance"])
    axes.invert_yaxis()
    axes.set_xlabel("share of the objective's variance (fANOVA)")
    return axes


def _first_objective(trial: optuna.trial.FrozenTrial) -> float:
    return float(trial.values[0])


def _name(trial: SearchTrial | None) -> str | None:
    return None if trial is None or trial.member is None else trial.member.name


def _shown(parameters: Mapping[str, Value], name: str) -> str:
    if name not in parameters:
        return "-"
    value = parameters[name]
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
