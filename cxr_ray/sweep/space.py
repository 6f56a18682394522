"""Spaces: what a search may vary, read from YAML and checked against the config's schema.

A space is also a coarse grid: every parameter offers a few values, conditions respected.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from cxr_ray.config.identity import recipe_read
from cxr_ray.config.layers import Layer, field_names, flat_parameters, flatten, resolve
from cxr_ray.errors import InputError, did_you_mean
from cxr_ray.sweep.parameter import Parameter, Strict, Value, plain

Direction = Literal["maximize", "minimize"]
OBJECTIVES: dict[str, Direction] = {
    "val_average_precision": "maximize",
    "val_full_auroc": "maximize",
    "train_seconds": "minimize",
}
MONITOR = "val_average_precision"
# What a search ranks must be measured on one validation set, whatever is sampled.
SEARCHED_SECTIONS = ("image", "text", "fusion", "loss", "train")
SEARCHED_FIELDS = ("data.majority_share",)
NOT_SEARCHED = ("train.monitor", "train.seed")
# Fields of which every value needs packs of its own, made before the first trial.
PACK_FIELDS = (
    "image.size", "text.sections", "text.mask", "text.max_tokens", "text.encoder",
    "text.vocabulary", "fusion.modalities",
)  # fmt: skip
# And those of what train.cache_frozen stores.
FROZEN_FIELDS = (
    "image.encoder", "image.weights", "image.freeze", "text.freeze", "text.pooling", "text.layers",
    "text.width", "text.heads", "train.cache_frozen", "train.cache_precision",
)  # fmt: skip
MOST_PACKS = 16


class _SpaceFile(Strict):
    """The keys of a space's YAML file."""

    title: str | None = None
    base: dict[str, Any] = {}
    parameters: dict[str, Parameter] = Field(min_length=1)
    objective: str | tuple[str, ...] = MONITOR
    direction: Direction | tuple[Direction, ...] | None = None
    sampler: Literal["tpe", "cmaes", "random", "qmc", "nsga2"] | None = None
    pruner: Literal["asha", "median", "none"] | None = None
    start_from: dict[str, Any] | tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Space:
    """What a search varies, what it holds, and how it is steered.

    ``start_from`` are the first trials' values; what an entry leaves out is as in the config.
    """

    name: str
    path: Path
    text: str
    title: str
    base: Layer
    parameters: Mapping[str, Parameter]
    objectives: tuple[str, ...]
    sampler: str
    pruner: str
    start_from: tuple[Mapping[str, Value], ...]

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Whether each objective is to be high or low."""
        return tuple(OBJECTIVES[name] for name in self.objectives)

    def draw(
        self, fixed: Mapping[str, Any], pick: Callable[[str, Parameter], Value]
    ) -> dict[str, Value]:
        """Pick a value of every parameter that exists, in the file's order.

        Parameters
        ----------
        fixed
            The config's fields before anything is drawn, by dotted name.
        """
        drawn: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            if _exists(parameter, {**fixed, **drawn}):
                drawn[name] = pick(name, parameter)
        return drawn

    def starts(self, fixed: Mapping[str, Any]) -> list[dict[str, Value]]:
        """Complete the first trials' values from the config; trial 0 comes first.

        Raises
        ------
        InputError
            If a value lies outside its distribution, or its parameter does not exist there.
        """
        found = []
        for number, entry in enumerate(self.start_from or ({},)):
            where = f"{self.path}: start_from, trial {number}"

            def pick(
                name: str,
                parameter: Parameter,
                entry: Mapping[str, Value] = entry,
                where: str = where,
            ) -> Value:
                value = entry.get(name, fixed[name])
                if not parameter.contains(value):
                    of = "" if name in entry else ", from the profile, base or --set,"
                    raise InputError(
                        f"{where}: {name} {value!r}{of} is outside {parameter.describe()}"
                    )
                return value

            drawn = self.draw(fixed, pick)
            for name in entry:
                if name not in drawn:
                    raise InputError(
                        f"{where}: {name} does not exist there, since its condition "
                        f"{self.parameters[name].when} is not met"
                    )
            found.append(drawn)
        return found

    def coarse(self, fixed: Mapping[str, Any]) -> Iterator[dict[str, Value]]:
        """Multiply the parameters' coarse values out; conditional ones only where they exist."""

        def grow(names: Sequence[str], drawn: dict[str, Value]) -> Iterator[dict[str, Value]]:
            if not names:
                yield drawn
                return
            parameter = self.parameters[names[0]]
            if not _exists(parameter, {**fixed, **drawn}):
                yield from grow(names[1:], drawn)
                return
            for value in parameter.levels():
                yield from grow(names[1:], {**drawn, names[0]: value})

        return grow(list(self.parameters), {})

    def coarse_axes(self) -> dict[str, list[dict[str, Value]]]:
        """Divide the coarse grid into axes: a parameter with those that hang on it, by its name.

        Conditions on fields that are no parameters are left to the config: where they are not
        met, levels name the same experiment.
        """
        root: dict[str, str] = {}
        inner = {}
        for name, parameter in self.parameters.items():
            when = {k: v for k, v in parameter.when.items() if k in self.parameters}
            inner[name] = parameter.model_copy(update={"when": when})
            roots = [root[field] for field in when]
            first = min(roots, key=list(root).index) if roots else name
            root = {k: first if v in roots else v for k, v in root.items()} | {name: first}
        axes = {}
        for first in dict.fromkeys(root.values()):
            own = {name: inner[name] for name in root if root[name] == first}
            axes[first] = list(replace(self, parameters=own).coarse({}))
        return axes


def load_space(tree: Mapping[str, Any], text: str, path: Path) -> Space:
    """Check the content of a space's file.

    Raises
    ------
    InputError
        Names the file, the key, what was found and what would be right.
    """
    try:
        file = _SpaceFile.model_validate(dict(tree))
    except ValidationError as error:
        raise InputError(_sentence(error.errors()[0], path)) from error
    known = field_names()
    base = flatten(file.base)
    for place, names in (("base", base), ("parameters", file.parameters)):
        for name in names:
            if name not in known:
                raise InputError(
                    f"{path}: {place}: {name} is no config field{did_you_mean(name, known)}"
                )
    for name in file.parameters:
        _check_searched(name, base, path)
    _check_conditions(file.parameters, known, path)
    objectives = (file.objective,) if isinstance(file.objective, str) else file.objective
    _check_objectives(objectives, file.direction, path)
    several = len(objectives) > 1
    sampler = file.sampler or ("nsga2" if several else "tpe")
    pruner = file.pruner or ("none" if several else "asha")
    if several and sampler == "cmaes":
        raise InputError(f"{path}: sampler cmaes has one objective; use nsga2 or tpe for two")
    if several and pruner != "none":
        raise InputError(f"{path}: pruner {pruner} has one objective; use none for two")
    if base.get("train.monitor", MONITOR) != MONITOR:
        raise InputError(f"{path}: base: train.monitor is {MONITOR} in every search")
    starts = (file.start_from,) if isinstance(file.start_from, dict) else file.start_from
    for entry in starts:
        for name in entry:
            if name not in file.parameters:
                raise InputError(
                    f"{path}: start_from: {name} is no parameter of this space"
                    f"{did_you_mean(name, file.parameters)}"
                )
    return Space(
        name=path.stem,
        path=path,
        text=text,
        title=file.title or path.stem,
        # What is ranked is what stops the training and is kept, and no loss: its scale would
        # depend on what is searched.
        base=Layer(f"{path}: base", {**base, "train.monitor": MONITOR}),
        parameters=file.parameters,
        objectives=objectives,
        sampler=sampler,
        pruner=pruner,
        start_from=tuple({k: plain(v) for k, v in entry.items()} for entry in starts),
    )


def check_values(space: Space, layers: Sequence[Layer]) -> dict[str, Any]:
    """Hold every value that a space may take against the schema.

    Parameters
    ----------
    layers
        Profile, base and ``--set``.

    Returns
    -------
    The config's fields before anything is drawn, by dotted name.

    Raises
    ------
    InputError
        For a range or choice outside its field's bounds, or a parameter that no model reads.
    """
    fixed = flat_parameters(resolve(layers))
    space.starts(fixed)
    for name, parameter in space.parameters.items():
        for value in parameter.extremes():
            resolve([*layers, Layer(f"parameter {name} of {space.path}", {name: value})])
    for drawn in _one_of_each(space, fixed):
        for name in drawn:
            first, last = (
                resolve([*layers, Layer(f"a trial of {space.path}", {**drawn, name: value})])
                for value in (space.parameters[name].extremes()[i] for i in (0, -1))
            )
            if first != last and recipe_read(first) == recipe_read(last):
                raise InputError(
                    f"{space.path}: parameter {name} would be drawn where no model reads it "
                    f"({_short(drawn, name)}); say when it exists, as in "
                    "when: {loss.kind: focal}"
                )
    return fixed


def pack_values(space: Space, fixed: Mapping[str, Any]) -> Iterator[dict[str, Value]]:
    """List values of the parameters so that every pack that a trial may read is read by one.

    Raises
    ------
    InputError
        If there would be too many of them.
    """
    start = space.starts(fixed)[0]
    yield start
    lists = []
    cached = fixed.get("train.cache_frozen") or "train.cache_frozen" in space.parameters
    for name in space.parameters:
        if name in PACK_FIELDS or (cached and name in FROZEN_FIELDS):
            lists.append([(name, value) for value in _all_values(name, space)])
    if math.prod(map(len, lists)) > MOST_PACKS:
        raise InputError(
            f"{space.path}: {', '.join(each[0][0] for each in lists)} would need "
            f"{math.prod(map(len, lists))} sets of packs; at most {MOST_PACKS} are made"
        )
    for combination in itertools.product(*lists):
        chosen = {**start, **dict(combination)}

        def pick(name: str, parameter: Parameter, chosen: dict[str, Value] = chosen) -> Value:
            return chosen.get(name, parameter.levels()[0])

        if chosen != start:
            yield space.draw(fixed, pick)


def _all_values(name: str, space: Space) -> Sequence[Value]:
    parameter = space.parameters[name]
    if parameter.choices is not None:
        return parameter.choices
    if parameter.whole is None or parameter.log:
        raise InputError(
            f"{space.path}: parameter {name} needs packs of its own for each value: give choices, "
            "or an int range with a step"
        )
    low, high = parameter.whole
    return range(low, high + 1, int(parameter.step or 1))


def _one_of_each(space: Space, fixed: Mapping[str, Any]) -> Iterator[dict[str, Value]]:
    """Draw so that every choice that a condition may hang on is met with every other such."""
    deciding = {field for p in space.parameters.values() for field in p.when}

    def values(name: str, parameter: Parameter) -> Sequence[Value]:
        return parameter.levels() if name in deciding else parameter.levels()[:1]

    narrowed = {
        name: parameter.model_copy(update={"coarse": tuple(values(name, parameter))})
        for name, parameter in space.parameters.items()
    }
    return replace(space, parameters=narrowed).coarse(fixed)


def _check_searched(name: str, base: Mapping[str, Any], path: Path) -> None:
    where = f"{path}: parameter {name}"
    if name in base:
        raise InputError(f"{where} is set by base already")
    section = name.partition(".")[0]
    if name in NOT_SEARCHED:
        raise InputError(f"{where} cannot be searched: it would change what is compared")
    if section not in SEARCHED_SECTIONS and name not in SEARCHED_FIELDS:
        allowed = ", ".join([*(f"{each}.*" for each in SEARCHED_SECTIONS), *SEARCHED_FIELDS])
        raise InputError(
            f"{where} cannot be searched: trials would be ranked on different records or not at "
            f"all; a search varies {allowed}, a grid any field"
        )


def _check_conditions(
    parameters: Mapping[str, Parameter], known: Sequence[str], path: Path
) -> None:
    seen: list[str] = []
    for name, parameter in parameters.items():
        for field, wanted in parameter.when.items():
            where = f"{path}: parameter {name}: when"
            if field not in known:
                raise InputError(f"{where}: {field} is no config field{did_you_mean(field, known)}")
            if field in parameters and field not in seen:
                raise InputError(f"{where}: {field} should come before {name} in the file")
            if field in parameters and parameters[field].choices is not None:
                choices = parameters[field].choices or ()
                for each in wanted if isinstance(wanted, list) else [wanted]:
                    if not any(_is_or_holds(choice, each) for choice in choices):
                        raise InputError(
                            f"{where}: {field} is never {each!r}; it is "
                            f"{parameters[field].describe()}"
                        )
        seen.append(name)


def _check_objectives(
    objectives: tuple[str, ...], direction: str | tuple[str, ...] | None, path: Path
) -> None:
    if not 1 <= len(objectives) <= 2:
        raise InputError(f"{path}: objective should name one or two figures, not {len(objectives)}")
    for name in objectives:
        if name not in OBJECTIVES:
            raise InputError(
                f"{path}: objective {name}: should be one of {', '.join(OBJECTIVES)}; a loss "
                "cannot be compared across what is searched"
            )
    if objectives[0] == "train_seconds" or len(set(objectives)) < len(objectives):
        raise InputError(f"{path}: objective {', '.join(objectives)}: name a figure of merit first")
    natural = tuple(OBJECTIVES[name] for name in objectives)
    given = (direction,) if isinstance(direction, str) else direction
    if given is not None and given != natural:
        raise InputError(
            f"{path}: direction {', '.join(given)} should be {', '.join(natural)} for the "
            f"objective {', '.join(objectives)}"
        )


def _exists(parameter: Parameter, fields: Mapping[str, Any]) -> bool:
    return all(
        any(_is_or_holds(fields[name], each) for each in wanted)
        if isinstance(wanted, list)
        else _is_or_holds(fields[name], wanted)
        for name, wanted in parameter.when.items()
    )


def _is_or_holds(value: Any, wanted: Any) -> bool:
    """Tell whether a field has a value, or is a list ``a,b`` with it."""
    return bool(value == wanted) or (isinstance(value, str) and wanted in value.split(","))


def _short(drawn: Mapping[str, Value], without: str) -> str:
    return ", ".join(f"{name}={value}" for name, value in drawn.items() if name != without)


def _sentence(error: ErrorDetails, path: Path) -> str:
    key = ".".join(str(part) for part in error["loc"] if not str(part).startswith("tuple["))
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "extra_forbidden":
        allowed = Parameter if error["loc"][0] == "parameters" else _SpaceFile
        known = [field.alias or name for name, field in allowed.model_fields.items()]
        last = str(error["loc"][-1])
        return (
            f"{path} has the unknown key {key}; known are {', '.join(known)}"
            f"{did_you_mean(last, known)}"
        )
    if error["type"] == "missing":
        return f"{path} has no {key}: a space names its parameters"
    return f"{path}: {key} is {error['input']!r}: {message}"
