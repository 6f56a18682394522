"""What a search leaves in its study's folder: tables, pictures, best config, Optuna's storage."""

import shlex
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.report.result_table import ResultTable, format_share
from cxr_ray.report.search_gain import GAIN_FILE, describe_gain, measure_gain
from cxr_ray.storage import Storage, write_whole
from cxr_ray.sweep.parameter import Value
from cxr_ray.sweep.search import Search, SearchTrial
from cxr_ray.sweep.search_pictures import draw_pictures, measure_importance
from cxr_ray.sweep.study import Study

TRIALS_FILE = "search.csv"
IMPORTANCE_FILE = "importance.csv"
BEST_FILE = "best.yaml"
OPTUNA_FILE = "optuna.log"
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
    draw_pictures(search, importance, folder)
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
    commands = _write_best(study, search, best, reference)
    own = [t for t in search.trials.values() if t.same_as is None]
    counts = {how: sum(t.status == how for t in own) for how in ("finished", "pruned", "failed")}
    counts["tested"] = sum(
        storage.is_finished(str(t.asked.experiment_id)) for t in own if t.status == "finished"
    )
    said = describe_gain(gain, counts, _name(best))
    study.update(
        search.members,
        search={**study.record["search"], **counts, "said": said, "commands": commands},
    )
    here = shlex.quote(str(folder / BEST_FILE))
    again = [f"{what}:\n{line.replace(_place(study), here)}" for what, line in commands.items()]
    return [table_of_trials(search), "\n".join(said), *again]


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
        row |= {"status": status, "reason": trial.reason, "epochs": len(trial.curve) or None}
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
                str(len(trial.curve)),
            )
            for trial in best
        ),
    ).to_text()


def write_optuna(search: Search, name: str, path: Path) -> None:
    """Write the study as an Optuna journal, for those who open it in its dashboard.

    It is a copy: nothing is ever read from it. A database would take 14 ms a trial to write.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        copy = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(aside))),
            study_name=name,
            directions=search.study.directions,
        )
        states = optuna.trial.TrialState
        copy.add_trials(
            t for t in search.study.get_trials(deepcopy=False) if t.state != states.RUNNING
        )
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _write_best(
    study: Study, search: Search, best: SearchTrial | None, reference: SearchTrial | None
) -> dict[str, str]:
    """Write the winner beside trial 0 as a grid, and return the commands that train both anew.

    Cross-validated, both are tested on records that the winner was not picked by: those are the
    validation part of every fit.
    """
    if best is None or best.member is None:
        return {}
    levels = {} if reference is None else {"trial_0": dict(reference.asked.parameters)}
    if best is not reference:
        levels["found"] = dict(best.asked.parameters)
    base = dict(search.space.base.values)
    if best.member.config.data.split.kind == "holdout":
        base["data.split.validation"] = "holdout"
    grid = {
        "title": f"Is what the search {study.name} found better than what it began with?",
        "base": base,
        "axes": {"values": levels},
    }
    write_whole(study.folder / BEST_FILE, yaml.safe_dump(grid, sort_keys=False))
    words = shlex.join(_without(shlex.split(study.record["command"]), _SEARCH_FLAGS))
    command = f"{words} --grid {_place(study)}"
    who = "Trial 0" if best is reference else "The winner and trial 0"
    name = study.name
    commands = {
        f"{who} with five seeds, on the same test part": (
            f"{command} {shlex.join(['--seeds', '5', '--study', f'{name}-best'])}"
        )
    }
    if "data.split.validation" in base:
        what = f"{who} out of fold, on every record but the validation part that the search saw"
        folds = shlex.join(["--set", "data.split.kind=kfold", "--study", f"{name}-best-folds"])
        commands[what] = f"{command} {folds}"
    return commands


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


def _name(trial: SearchTrial | None) -> str | None:
    return None if trial is None or trial.member is None else trial.member.name


def _shown(parameters: Mapping[str, Value], name: str) -> str:
    if name not in parameters:
        return "-"
    value = parameters[name]
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
