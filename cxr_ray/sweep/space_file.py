"""Reading a space from its YAML file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from cxr_ray.config.layers import Layer, field_names, flatten
from cxr_ray.errors import InputError, did_you_mean
from cxr_ray.sweep.parameter import Parameter, Strict, plain
from cxr_ray.sweep.space import MONITOR, OBJECTIVES, Direction, Space, is_or_holds

# What a search ranks must be measured on one validation set, whatever is sampled.
SEARCHED_SECTIONS = ("image", "text", "fusion", "loss", "train")
SEARCHED_FIELDS = ("data.majority_share",)
NOT_SEARCHED = ("train.monitor", "train.seed")


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
                    if not any(is_or_holds(choice, each) for choice in choices):
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
