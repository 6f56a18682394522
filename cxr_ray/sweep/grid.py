"""Grids: axes whose named levels carry overrides, and their product as experiments."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_ray.config.layers import Layer, field_names, flatten, read_yaml_file, resolve
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.errors import InputError, did_you_mean
from cxr_ray.sweep.space import Space
from cxr_ray.sweep.space_file import load_space

# More is a slip, and could not even be planned.
MOST_EXPERIMENTS = 100_000
_KEYS = {"title", "base", "axes", "combinations", "compare"}
_FIRST_AXES = ("modality", "dataset", "loss")
_AXIS_OF_FIELD = {
    "fusion.modalities": "modality",
    "data.majority_share": "dataset",
    "loss.kind": "loss",
}


@dataclass(frozen=True)
class Combination:
    """Overrides for the experiments whose levels include all of ``when``."""

    when: Mapping[str, str]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """A study's axes. ``axes[axis][level]`` holds that level's overrides by dotted name.

    ``compare`` maps the axes whose levels are compared to the level that the others are compared
    with, all other axes held.
    """

    name: str
    text: str
    title: str
    base: Layer
    axes: Mapping[str, Mapping[str, Mapping[str, Any]]]
    combinations: tuple[Combination, ...]
    compare: Mapping[str, str]

    def swept_fields(self) -> dict[str, str]:
        """Map every field that an axis or combination sets to where it is set."""
        fields = {
            field: f"axis {axis}"
            for axis, levels in self.axes.items()
            for values in levels.values()
            for field in values
        }
        for combination in self.combinations:
            fields.update({f: "a combination" for f in combination.values if f not in fields})
        return fields


@dataclass(frozen=True)
class Experiment:
    """One member of a study: its config and its level on every axis.

    ``selected`` tells whether the command is about it; the others are what ``--only`` left aside.
    """

    config: ExperimentConfig
    levels: Mapping[str, str]
    selected: bool = True

    @property
    def seed(self) -> int:
        """The training seed."""
        return self.config.train.seed

    @property
    def modality(self) -> str:
        """The level of the modality axis, or what the config says."""
        return self.levels.get("modality", self.config.modality)

    @property
    def dataset(self) -> str:
        """The level of the dataset axis, or what the config says."""
        return self.levels.get("dataset", self.config.dataset)

    @property
    def loss(self) -> str:
        """The level of the loss axis, or the loss's kind."""
        return self.levels.get("loss", self.config.loss.kind)

    @property
    def further_levels(self) -> dict[str, str]:
        """The levels on axes other than modality, dataset and loss."""
        return {axis: level for axis, level in self.levels.items() if axis not in _FIRST_AXES}

    @property
    def model_name(self) -> str:
        """``<modality>-<dataset>-<loss>[-further levels][-seedN]``, the same for all its fits."""
        parts = [self.modality, self.dataset, self.loss, *self.further_levels.values()]
        return "-".join([*parts, f"seed{self.seed}"] if self.seed else parts)

    @property
    def fit(self) -> str | None:
        """Which fit of a cross-validation this is, ``r1f3`` for example."""
        split = self.config.data.split
        return f"r{split.repeat}f{split.fold}" if split.kind == "kfold" else None

    @property
    def name(self) -> str:
        """The model's name, and ``-r1f3`` for the fit of the first repeat's third fold."""
        return self.model_name if self.fit is None else f"{self.model_name}-{self.fit}"


def find_study_file(flag: str, name: str, folder: Path) -> Path:
    """Locate a grid or space: a name in ``folder``, or a YAML file of one's own."""
    shipped = folder / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return Path(name)
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    raise InputError(
        f"{flag} {name}: neither one of {', '.join(known) or 'no shipped file'} "
        f"nor a YAML file{did_you_mean(name, known)}"
    )


def load_search(path: Path) -> Space:
    """Read and check a space.

    Raises
    ------
    InputError
        For a grid in its place, or as `load_space` does.
    """
    tree, text = read_yaml_file(path)
    if "axes" in tree:
        raise InputError(f"{path} is a grid, with axes and no parameters: give it to --grid")
    return load_space(tree, text, path)


def load_grid(path: Path) -> Grid:
    """Read and check a grid; the file of a space gives its coarse one.

    Raises
    ------
    InputError
        For unknown keys or fields, an empty axis, two axes that set the same field, or a
        combination or comparison that names an unknown axis or level, or a combination that
        repeats an axis's field.
    """
    tree, text = read_yaml_file(path)
    if "parameters" in tree:
        return _coarse_grid(load_space(tree, text, path))
    _expect_keys(tree, _KEYS, str(path))
    axes: dict[str, dict[str, dict[str, Any]]] = {}
    setter: dict[str, str] = {}
    for axis, levels in _mapping(tree.get("axes"), f"{path}: axes").items():
        axes[axis] = {}
        for level, values in _mapping(levels, f"{path}: axis {axis}").items():
            where = f"{path}: level {axis}={level}"
            axes[axis][str(level)] = _fields(values, where)
            for field in axes[axis][str(level)]:
                if setter.setdefault(field, axis) != axis:
                    raise InputError(
                        f"{where} sets {field}, which axis {setter[field]} sets already"
                    )
    combinations = []
    listed = tree.get("combinations") or []
    if not isinstance(listed, list):
        raise InputError(f"{path}: combinations should be a list of when and set, not {listed!r}")
    for number, entry in enumerate(listed, start=1):
        where = f"{path}: combination {number}"
        entry = _mapping(entry, where)
        _expect_keys(entry, {"when", "set"}, where)
        when = {a: str(v) for a, v in _mapping(entry.get("when"), f"{where}: when").items()}
        for axis, level in when.items():
            _check_level(axes, axis, level, where)
        values = _fields(entry.get("set"), where)
        for field in values:
            if field in setter:
                raise InputError(f"{where} sets {field}, which axis {setter[field]} sets already")
        combinations.append(Combination(when, values))
    compare = {axis: next(iter(levels)) for axis, levels in axes.items()}
    if "compare" in tree:
        where = f"{path}: compare"
        compare = {a: str(v) for a, v in _mapping(tree["compare"], where).items()}
        for axis, level in compare.items():
            _check_level(axes, axis, level, where)
    return Grid(
        name=path.stem,
        text=text,
        title=str(tree.get("title", path.stem)),
        base=Layer(f"{path}: base", _fields(tree.get("base") or {}, f"{path}: base", empty=True)),
        axes=axes,
        combinations=tuple(combinations),
        compare=compare,
    )


def _coarse_grid(space: Space) -> Grid:
    start = space.start_from[0] if space.start_from else {}
    axes: dict[str, dict[str, dict[str, Any]]] = {}
    compare = {}
    for root, levels in space.coarse_axes().items():
        axis = _AXIS_OF_FIELD.get(root, root)
        axes[axis] = {_name_level(values): values for values in levels}
        named = [{k: v for k, v in values.items() if k in start} for values in levels]
        near = [values == {k: start[k] for k in values} for values in named]
        compare[axis] = list(axes[axis])[near.index(True) if True in near else 0]
    return Grid(
        name=space.name,
        text=space.text,
        title=space.title,
        base=space.base,
        axes=axes,
        combinations=(),
        compare=compare,
    )


def _name_level(values: Mapping[str, Any]) -> str:
    parts = []
    for field, value in values.items():
        if field == "data.majority_share":
            parts.append("full" if value is None else f"sub{value * 100:g}")
        elif field == "fusion.modalities":
            parts.append("multimodal" if "," in value else value)
        elif isinstance(value, str):
            parts.append(value.replace(",", "+"))
        else:
            said = f"{value:g}" if isinstance(value, int | float) else "none"
            parts.append(f"{field.rpartition('.')[2]}{said}")
    return "-".join(parts)


def expand(
    grid: Grid, profile: Layer, overrides: Layer, *, only: Sequence[str] = (), seeds: int = 1
) -> list[Experiment]:
    """Multiply the axes out, seeds and the fits of a cross-validation innermost.

    Parameters
    ----------
    only
        ``axis=level`` pairs; several levels of one axis are alternatives. The other experiments
        stay members of the study and are not ``selected``.
    seeds
        Number of training seeds, counted up from ``train.seed``; splits never change with it.

    Raises
    ------
    InputError
        For an override of a swept field, an unknown axis or level, or a value out of range.
    """
    swept = grid.swept_fields()
    for field in overrides.values:
        if field in swept:
            raise InputError(f"--set {field}: {swept[field]} of grid {grid.name} sets this field")
        if field == "train.seed" and seeds > 1:
            raise InputError("--set train.seed: --seeds varies this field; give one of the two")
    wanted = _wanted_levels(grid, only)
    base = [profile, grid.base, overrides]
    split = resolve(base).data.split
    # Every level is checked, also where --only leaves it out.
    for axis, levels_of_axis in grid.axes.items():
        for level, values in levels_of_axis.items():
            resolve([*base, Layer(f"level {axis}={level}", values)])
    levels_each = math.prod(map(len, grid.axes.values()))
    planned = levels_each * seeds * (split.folds * split.repeats if split.kind == "kfold" else 1)
    if planned > MOST_EXPERIMENTS:
        raise InputError(
            f"grid {grid.name} is {planned:,} trainings: {levels_each:,} combinations of its "
            f"levels by --seeds {seeds:,} and folds; should be at most {MOST_EXPERIMENTS:,}"
        )
    experiments = []
    for names in itertools.product(*grid.axes.values()):
        levels = dict(zip(grid.axes, names, strict=True))
        selected = all(level in wanted[axis] for axis, level in levels.items())
        layers = [*base]
        for axis, level in levels.items():
            layers.append(Layer(f"level {axis}={level}", grid.axes[axis][level]))
        for number, entry in enumerate(grid.combinations, start=1):
            if entry.when.items() <= levels.items():
                layers.append(Layer(f"combination {number} of {grid.name}", entry.values))
        config = resolve(layers)
        for offset in range(seeds):
            train = config.train.model_copy(update={"seed": config.train.seed + offset})
            seeded = config.model_copy(update={"train": train})
            experiments += [Experiment(fit, levels, selected) for fit in seeded.fits]
    return experiments


def _wanted_levels(grid: Grid, only: Sequence[str]) -> dict[str, list[str]]:
    chosen: dict[str, list[str]] = {}
    for pair in only:
        axis, equals, level = pair.partition("=")
        if not equals:
            raise InputError(f"--only {pair}: should be axis=level, for example modality=image")
        _check_level(grid.axes, axis, level, f"--only {pair}")
        chosen.setdefault(axis, []).append(level)
    return {
        axis: [level for level in levels if level in chosen.get(axis, levels)]
        for axis, levels in grid.axes.items()
    }


def _check_level(axes: Mapping[str, Mapping[str, Any]], axis: str, level: str, where: str) -> None:
    if axis not in axes:
        raise InputError(f"{where}: {axis} is no axis of the grid, which has {', '.join(axes)}")
    if level not in axes[axis]:
        raise InputError(
            f"{where}: {level} is no level of axis {axis}, which has {', '.join(axes[axis])}"
        )


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise InputError(f"{where} should be a mapping with at least one entry, not {value!r}")
    return {str(key): entry for key, entry in value.items()}


def _fields(value: Any, where: str, *, empty: bool = False) -> dict[str, Any]:
    values = flatten(value if empty and value == {} else _mapping(value, where))
    # `fusion: {modalities: …}` and `fusion.modalities: …` mean the same.
    known = field_names()
    for field in values:
        if field not in known:
            raise InputError(
                f"{where} sets {field}, which is no config field{did_you_mean(field, known)}"
            )
    return values


def _expect_keys(tree: Mapping[str, Any], allowed: set[str], where: str) -> None:
    for key in tree:
        if key not in allowed:
            raise InputError(
                f"{where} has the unknown key {key}; known are {', '.join(sorted(allowed))}"
                f"{did_you_mean(str(key), allowed)}"
            )
