"""Spaces: what a search may vary, and holding that against the config's schema.

A space is also a coarse grid: every parameter offers a few values, conditions respected.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cxr_ray.config.identity import recipe_read
from cxr_ray.config.layers import Layer, flat_parameters, resolve
from cxr_ray.errors import InputError
from cxr_ray.sweep.parameter import Parameter, Value

Direction = Literal["maximize", "minimize"]
OBJECTIVES: dict[str, Direction] = {
    "val_average_precision": "maximize",
    "val_full_auroc": "maximize",
    "train_seconds": "minimize",
}
MONITOR = "val_average_precision"
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


def _exists(parameter: Parameter, fields: Mapping[str, Any]) -> bool:
    return all(
        any(is_or_holds(fields[name], each) for each in wanted)
        if isinstance(wanted, list)
        else is_or_holds(fields[name], wanted)
        for name, wanted in parameter.when.items()
    )


def is_or_holds(value: Any, wanted: Any) -> bool:
    """Tell whether a field has a value, or is a list ``a,b`` with it."""
    return bool(value == wanted) or (isinstance(value, str) and wanted in value.split(","))


def _short(drawn: Mapping[str, Value], without: str) -> str:
    return ", ".join(f"{name}={value}" for name, value in drawn.items() if name != without)
