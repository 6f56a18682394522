"""A search as a queue of trials: Optuna proposes them, Ray Tune runs them.

Ray's own ``OptunaSearch`` ignores given first points where parameters are conditional, cannot ask
again for what a killed run had begun, leaves a trial without figure running for ever, and wants a
storage to survive. Here the study lives in memory and is rebuilt at every start from what lies on
disk: ``asked.jsonl`` joined with the finished trials and with ``ended/``.
"""

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import Trial, TrialState, create_trial

from cxr_ray.errors import InputError
from cxr_ray.report.trial_folder import read_history, read_result
from cxr_ray.storage import WEIGHTS_FILE, Storage
from cxr_ray.sweep.ledger import Asked, Ledger
from cxr_ray.sweep.parameter import Value
from cxr_ray.sweep.plan import Member
from cxr_ray.sweep.samplers import build_pruner, build_sampler, distribution, suggest
from cxr_ray.sweep.space import Space

_STATES = {
    "finished": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


@dataclass
class SearchTrial:
    """One asked trial of this search and what is known of it.

    Attributes
    ----------
    curve
        The first objective after each epoch.
    """

    asked: Asked
    member: Member | None
    status: str = "waiting"
    reason: str | None = None
    values: tuple[float, ...] = ()
    curve: list[float] = field(default_factory=list)
    same_as: int | None = None


class Search:
    """Asks for trials, is told what became of them, and knows the best.

    Parameters
    ----------
    fixed
        The config's fields before anything is drawn.
    member_of
        Makes the member of a number and its parameters; raises `InputError` where they make none.
    ended
        Status, reason and history of the trials that ended without a result, by experiment id.
    trials
        How many are asked for in all, or None for no limit.
    deadline
        On `time.monotonic`'s clock: nothing is asked for after it.
    keep
        The weights of so many of the best trials are kept, and those of trial 0.
    """

    parts: tuple[str, ...] = ("val",)

    def __init__(
        self,
        space: Space,
        fixed: Mapping[str, Any],
        storage: Storage,
        ledger: Ledger,
        member_of: Callable[[int, Mapping[str, Value]], Member],
        ended: Mapping[str, Mapping[str, Any]],
        *,
        seed: int,
        trials: int | None,
        deadline: float | None = None,
        keep: int = 3,
    ) -> None:
        self.space, self._fixed, self._storage, self._ledger = space, fixed, storage, ledger
        self._member_of, self._limit, self._deadline = member_of, trials, deadline
        self._directions, self._keep = space.directions, keep
        self._with_weights: list[SearchTrial] = []
        self.trials: dict[int, SearchTrial] = {}
        self.foreign: list[int] = []
        """Numbers of trials that were asked for under other settings."""
        self._again: deque[int] = deque()
        # No look at all trials for what concerns one: a search may have ten thousand.
        self._same: dict[str, list[SearchTrial]] = {}
        self._trial_0 = space.starts(fixed)[0]
        self._reference: SearchTrial | None = None
        self._optuna: dict[int, Trial] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.study = optuna.create_study(
            directions=list(self._directions),
            pruner=build_pruner(space.pruner),
            sampler=optuna.samplers.RandomSampler(),
        )
        self._rebuild(ledger.read(), ended)
        self._again.extend(
            number
            for number, trial in self.trials.items()
            if trial.status == "waiting" and trial.same_as is None
        )
        self._starts = [start for start in space.starts(fixed) if self._find(start) is None]
        self.study.sampler = build_sampler(space, seed, self.study)

    def next(self) -> Member | None:
        """Return what was asked for and has no end, then what is asked for now."""
        while self._again:
            trial = self.trials[self._again.popleft()]
            if trial.status == "waiting":
                return trial.member
        while self._may_ask():
            trial = self._ask()
            if trial.status == "waiting" and trial.same_as is None:
                return trial.member
        return None

    def epoch(self, member: Member, figures: Mapping[str, Any]) -> str | None:
        """Take an epoch's figures, and return why the trial is to end now, or None."""
        trial = self._same[member.trained_id][0]
        if figures["epoch"] < len(trial.curve):
            return None  # heard before another driver took the trial, and gave it back
        trial.curve.append(float(figures[self.space.objectives[0]]))
        if len(self._directions) > 1:
            return None
        reached = self._report(trial, len(trial.curve) - 1)
        train, epoch = member.config.train, int(figures["epoch"])
        ends = epoch + 1 >= train.max_epochs or epoch - figures["best_epoch"] > train.patience
        prune = self._optuna[trial.asked.number].should_prune()  # also notes the rung reached
        if ends or not prune or trial is self.reference():
            return None  # what the winner is compared with is trained to its end
        return (
            f"pruned at epoch {epoch + 1}: its {self.space.objectives[0]} of {reached:.4f} is not "
            f"among the better ones there ({self.space.pruner})"
        )

    def ended(self, member: Member, status: str, reason: str | None = None) -> None:
        """Tell the sampler how a trial ended, and all that were the same experiment."""
        identity = member.trained_id
        for trial in self._same[identity]:
            if trial.status == "waiting":
                if status == "finished":
                    self._take_result(trial)
                elif trial.same_as is None:
                    trial.reason = reason
                else:
                    trial.curve = self.trials[trial.same_as].curve
                self._tell(trial, status)
        if status == "finished":
            self._drop_weights()

    def best(self, count: int = 1) -> list[SearchTrial]:
        """Return the finished trials with the best first objective, each experiment once."""
        return self._ranked(self.trials.values())[:count]

    def reference(self) -> SearchTrial | None:
        """Return the trial of the paper's values, if it was asked for."""
        found = self._reference
        return found if found is None or found.same_as is None else self.trials[found.same_as]

    @property
    def members(self) -> list[Member]:
        """The members of this search, each experiment once."""
        own = (t for t in self.trials.values() if t.same_as is None)
        return [trial.member for trial in own if trial.member is not None]

    @property
    def waiting(self) -> int:
        """How many asked trials have no end."""
        return len(self._optuna)

    @property
    def to_ask(self) -> int | None:
        """How many trials are still to be asked for, or None where there is no limit."""
        return None if self._limit is None else max(0, self._limit - len(self.trials))

    def _may_ask(self) -> bool:
        in_time = self._deadline is None or time.monotonic() < self._deadline
        return in_time and (self._limit is None or len(self.trials) < self._limit)

    def _ask(self) -> SearchTrial:
        if self._starts:
            start = self._starts.pop(0)
            self.study.enqueue_trial(start)
        asked = self.study.ask()
        number = asked.number
        drawn = self.space.draw(self._fixed, lambda name, p: suggest(asked, name, p))
        member, reason = self._make(number, drawn)
        attrs = self.study.get_trials(deepcopy=False)[number].system_attrs
        entry = Asked(
            number,
            drawn,
            None if member is None else member.trained_id,
            reason,
            {key: value for key, value in attrs.items() if type(value) is int},
        )
        # On disk before the trial starts: after a kill the same parameters are run first.
        self._ledger.append(entry)
        self._optuna[number] = asked
        return self._enter(entry, member, {})

    def _make(
        self, number: int, parameters: Mapping[str, Value]
    ) -> tuple[Member | None, str | None]:
        try:
            return self._member_of(number, parameters), None
        except InputError as error:
            return None, str(error)

    def _rebuild(self, asked: Sequence[Asked], ended: Mapping[str, Mapping[str, Any]]) -> None:
        """Put every asked trial into the study, in its place, with what became of it."""
        for entry in asked:
            member = None
            own = set(entry.parameters) <= set(self.space.parameters) and all(
                self.space.parameters[name].contains(value)
                for name, value in entry.parameters.items()
            )
            if own:
                member, _ = self._make(entry.number, entry.parameters)
                own = entry.experiment_id == (None if member is None else member.trained_id)
            if not own:
                # Of another space, base or --set: its figures belong to another question.
                self.study.add_trial(create_trial(state=TrialState.FAIL))
                self.foreign.append(entry.number)
                continue
            self.study.add_trial(
                create_trial(
                    state=TrialState.RUNNING,
                    params=dict(entry.parameters),
                    distributions={
                        name: distribution(self.space.parameters[name]) for name in entry.parameters
                    },
                    system_attrs=dict(entry.attrs or {}),
                )
            )
            added = self.study.get_trials(deepcopy=False)[entry.number]
            self._optuna[entry.number] = Trial(self.study, added._trial_id)
            self._enter(entry, member, ended)

    def _enter(
        self, entry: Asked, member: Member | None, ended: Mapping[str, Mapping[str, Any]]
    ) -> SearchTrial:
        """Take an asked trial in: told at once where its end is known, else to be run."""
        trial = SearchTrial(entry, member, reason=entry.reason)
        self.trials[entry.number] = trial
        if self._reference is None and dict(entry.parameters) == dict(self._trial_0):
            self._reference = trial
        if member is None or entry.experiment_id is None:
            self._tell(trial, "failed")
            return trial
        identity = entry.experiment_id
        same = self._same.setdefault(identity, [])
        same.append(trial)
        twin = same[0]
        if twin is not trial:
            trial.same_as = twin.asked.number
            trial.reason = f"the same experiment as trial {trial.same_as}"
        how = ended.get(identity, {})
        if self._storage.is_finished(identity, self.parts):
            self._take_result(trial)
            self._replay(trial)
            self._tell(trial, "finished")
        elif how.get("status") == "pruned":
            trial.reason = trial.reason or how["reason"]
            trial.curve = self._curve(how.get("history", ()))
            self._replay(trial)
            self._tell(trial, "pruned")
        elif twin is not trial and twin.status != "waiting":
            trial.values, trial.curve = twin.values, twin.curve
            self._tell(trial, twin.status)
        return trial

    def _take_result(self, trial: SearchTrial) -> None:
        folder = self._storage.trials / str(trial.asked.experiment_id)
        history, result = read_history(folder), read_result(folder)
        trial.curve = self._curve(history)
        at_best = {**history[result["best_epoch"]], **result}
        trial.values = tuple(float(at_best[name]) for name in self.space.objectives)

    def _replay(self, trial: SearchTrial) -> None:
        """Report a trial's epochs again, so that the pruner knows the rungs that it reached."""
        if len(self._directions) > 1 or trial.same_as is not None:
            return  # a twin reached no rung itself
        for place in range(len(trial.curve)):
            self._report(trial, place)
            self._optuna[trial.asked.number].should_prune()

    def _report(self, trial: SearchTrial, place: int) -> float:
        """Report the best figure so far: that is what a trial would deliver."""
        reached = max(trial.curve[: place + 1])
        self._optuna[trial.asked.number].report(reached, place + 1)
        return reached

    def _curve(self, history: Iterable[Mapping[str, Any]]) -> list[float]:
        return [float(row[self.space.objectives[0]]) for row in history]

    def _tell(self, trial: SearchTrial, status: str) -> None:
        if status == "finished" and not all(map(math.isfinite, trial.values)):
            status, trial.reason = "failed", f"its {self.space.objectives[0]} is no number"
        trial.status = status
        if status == "finished":
            self._with_weights.append(trial)
        values = list(trial.values) if status == "finished" else None
        self.study.tell(trial.asked.number, values, state=_STATES[status])
        del self._optuna[trial.asked.number]  # it holds a copy of the whole space

    def _ranked(self, trials: Iterable[SearchTrial]) -> list[SearchTrial]:
        """Order the finished ones by the first objective, each experiment once."""
        done = [t for t in trials if t.status == "finished" and t.same_as is None]
        sign = -1 if self._directions[0] == "maximize" else 1
        return sorted(done, key=lambda t: sign * t.values[0])

    def _drop_weights(self) -> None:
        """Remove the weights of trials that are neither among the best so far nor trial 0."""
        ranked = self._ranked(self._with_weights)
        self._with_weights = ranked[: self._keep]
        for trial in ranked[self._keep :]:
            identity = str(trial.asked.experiment_id)
            if trial is self.reference():
                self._with_weights.append(trial)
            elif not self._storage.is_finished(identity):  # else it is some grid's as well
                weights = self._storage.trials / identity / WEIGHTS_FILE
                self._storage.home.discard(weights.parent)

    def _find(self, parameters: Mapping[str, Value]) -> SearchTrial | None:
        for trial in self.trials.values():
            if dict(trial.asked.parameters) == dict(parameters):
                return trial
        return None
