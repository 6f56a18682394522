"""A search before its first trial: its space held against the schema and the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cxr_ray.config.layers import Layer, resolve
from cxr_ray.config.schema import ExperimentConfig, Section
from cxr_ray.errors import InputError
from cxr_ray.storage import Storage
from cxr_ray.sweep.grid import Experiment
from cxr_ray.sweep.parameter import Value
from cxr_ray.sweep.plan import Member, Plan, cannot_reach, make_member, make_plan
from cxr_ray.sweep.space import Space, check_values, pack_values

DEFAULT_TRIALS = 40
# A forest of regression trees fits fewer trials without a remainder.
FEWEST_FOR_IMPORTANCE = 10
# Below it a validation AP moves by hundredths from one patient to the next.
FEWEST_POSITIVES = 100
SHARE = "data.majority_share"


@dataclass(frozen=True)
class SearchPlan:
    """A space with what it is searched on.

    Attributes
    ----------
    layers
        Profile, base and ``--set``, under every trial.
    fixed
        The config's fields before anything is drawn.
    plan
        One member for every pack that a trial may read; the first has trial 0's values.
    """

    space: Space
    layers: tuple[Layer, ...]
    fixed: Mapping[str, Any]
    plan: Plan

    @property
    def config(self) -> ExperimentConfig:
        """Trial 0's config."""
        return self.plan.members[0].config

    def member(
        self, number: int, parameters: Mapping[str, Value], counted: Mapping[str, Any] | None = None
    ) -> Member:
        """Make the member of a trial.

        Parameters
        ----------
        counted
            The cohort's manifest.

        Raises
        ------
        InputError
            If the values do not go together, or the data cannot feed them.
        """
        config = resolve([*self.layers, Layer(f"trial {number}", parameters)])
        # A search keeps all its members: what is as trial 0's is held once.
        parts = {name: _sharing(part, getattr(self.config, name)) for name, part in config}
        config = ExperimentConfig.model_construct(self.config.model_fields_set, **parts)
        member = make_member(
            Experiment(config, {"trial": f"t{number}"}), self.plan.members[0].source
        )
        share = config.data.majority_share
        reason = None if share is None or counted is None else cannot_reach(share, counted)
        if reason is not None:
            raise InputError(f"trial {number}: {reason}")
        return member

    def within(self, counted: Mapping[str, Any]) -> tuple["SearchPlan", list[str]]:
        """Leave out the class ratios above the cohort's own, and say so.

        Raises
        ------
        InputError
            If a range reaches above it, or nothing is left.
        """
        parameter = self.space.parameters.get(SHARE)
        if parameter is None:
            return self, []
        shares = [value for value in parameter.extremes() if value is not None]
        reasons = {v: why for v in shares if (why := cannot_reach(float(v), counted))}
        if not reasons:
            return self, []
        if parameter.choices is None:
            raise InputError(f"{self.space.path}: parameter {SHARE}: {list(reasons.values())[0]}")
        left = tuple(value for value in parameter.choices if value not in reasons)
        if not left:
            raise InputError(f"{self.space.path}: parameter {SHARE}: {list(reasons.values())[0]}")
        parameters = dict(self.space.parameters)
        parameters[SHARE] = parameter.model_copy(update={"choices": left, "coarse": None})
        starts = [s for s in self.space.start_from if s.get(SHARE, None) not in reasons]
        space = replace(self.space, parameters=parameters, start_from=tuple(starts))
        said = f"{', '.join(f'{v:g}' for v in reasons)} of {SHARE} left out of the space"
        return replace(self, space=space), [f"{said}: {list(reasons.values())[0]}"]


def _sharing(part: Section, first: Section) -> Section:
    """Return a section with the names of its fields as the first one's, or that one if equal."""
    if part == first:
        return first
    return type(part).model_construct(first.model_fields_set, **dict(part))


def plan_search(
    space: Space,
    profile: Layer,
    overrides: Layer,
    storage: Storage,
    data: str,
    reports: str | None,
    demographics: str | None = None,
) -> SearchPlan:
    """Check a space against the schema, the profile, ``--set`` and the data.

    Raises
    ------
    InputError
        For bad input of any kind.
    """
    for field in overrides.values:
        if field in space.parameters:
            raise InputError(f"--set {field}: space {space.name} searches this field")
        if field == "train.monitor":
            raise InputError(
                f"--set {field}: a search ranks, stops and keeps by "
                f"{space.base.values['train.monitor']}, so that no loss is compared whose scale "
                "depends on what is searched"
            )
    layers = (profile, space.base, overrides)
    fixed = check_values(space, layers)
    experiments = [
        Experiment(resolve([*layers, Layer(f"space {space.name}", drawn)]), {"trial": f"t{n}"})
        for n, drawn in enumerate(pack_values(space, fixed))
    ]
    given = Layer("--set", {**space.base.values, **overrides.values})
    if experiments[0].config.data.split.kind == "kfold":
        raise InputError(
            "data.split.kind kfold: a search ranks trials on one validation part; cross-validate "
            "what it finds with --grid STUDY_DIR/best.yaml --set data.split.kind=kfold; its folds "
            "leave that part out"
        )
    plan = make_plan(experiments, storage, data, reports, given, demographics)
    if plan.members[0].experiment is not experiments[0]:
        raise InputError(f"trial 0 of {space.name} cannot be trained: {plan.left_out[0].reason}")
    return SearchPlan(space, layers, fixed, plan)


def remark_on_objective(counted: Mapping[str, Any]) -> list[str]:
    """Tell where the validation part is too small to rank trials by it, of a cohort's counts."""
    validated = counted["parts"]["val"]
    fewer = min(validated["n_positive"], validated["n"] - validated["n_positive"])
    if fewer >= FEWEST_POSITIVES:
        return []
    which = "positive" if fewer == validated["n_positive"] else "negative"
    return [
        f"the objective rests on {fewer} {which} validation records: differences between trials "
        "are mostly chance"
    ]


def describe_space(space: Space, fixed: Mapping[str, Any]) -> list[str]:
    """Lay out a space for reading: its parameters, trial 0, and how it is searched."""
    start = space.starts(fixed)[0]
    width = max(map(len, space.parameters))
    lines = [f"{'parameter':{width}}  {'trial 0':>10}  distribution"]
    for name, parameter in space.parameters.items():
        when = ", ".join(f"{field}={value}" for field, value in parameter.when.items())
        value = _shown(start[name]) if name in start else "-"
        lines.append(
            f"{name:{width}}  {value:>10}  {parameter.describe()}"
            + (f" (where {when})" if when else "")
        )
    held = {k: v for k, v in space.base.values.items() if k != "train.monitor"}
    goals = zip(space.directions, space.objectives, strict=True)
    return [
        *lines,
        "fixed: " + (", ".join(f"{k}={_shown(v)}" for k, v in held.items()) or "nothing"),
        "objective: " + ", ".join(f"{how} {what}" for how, what in goals)
        + " on the full validation set",
        f"train.monitor: {space.base.values['train.monitor']}, which also stops a trial and picks "
        "its epoch",
        f"sampler {space.sampler}, pruner {space.pruner}",
    ]  # fmt: skip


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "+".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
