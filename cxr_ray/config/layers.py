"""Profiles and overrides: how a config is put together, and what is said when a value is wrong.

Later layers win: defaults < profile < grid base < ``--set`` < axis level. Every layer is checked
when it is applied, so a bad value is reported even where a later layer would replace it.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.errors import InputError, did_you_mean, shortened

PROFILES = ("demo", "tiny", "paper")
# Which fit of a cross-validation an experiment is: the sweep says it.
PLANNED = ("data.split.repeat", "data.split.fold")
# Values of a YAML file, its aliases written out.
MOST_VALUES = 100_000
# What yaml's constructors raise for `2001-99-99`, `!!bool z` and the like.
_NOT_OF_ITS_KIND = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)
# pydantic's own sentences for these speak of what it does inside.
_PLAINER = {
    "finite_number": "should be a finite number",
    "missing": "has too few entries",
    "too_short": "should have at least {min_length} entry",
    "too_long": "should have at most {max_length} entries",
}


@dataclass(frozen=True)
class Layer:
    """Overrides from one place: ``origin`` is named in errors, keys are dotted field names."""

    origin: str
    values: Mapping[str, Any]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into dotted names: ``{"loss": {"kind": "bce"}}`` -> ``loss.kind``.

    Raises
    ------
    InputError
        If a field is given twice, nested and by its dotted name.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        nested = isinstance(value, Mapping) and value
        for field, given in (flatten(value, f"{name}.") if nested else {name: value}).items():
            if field in flat:
                raise InputError(f"{field} is given twice: in its section and by its dotted name")
            flat[field] = given
    return flat


def flat_parameters(config: ExperimentConfig) -> dict[str, Any]:
    """Return every field of the resolved config under its dotted name, lists as ``a,b``."""
    flat = flatten(config.model_dump(mode="json"))
    return {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in flat.items()}


class _PlainLoader(yaml.SafeLoader):
    """Loads plain values; refuses names given twice and says where a value is not of its kind."""

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _count_values(node, {}) > MOST_VALUES:
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"it stands for more than {MOST_VALUES:,} values, its aliases written out",
                node.start_mark,
            )
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node in self.recursive_objects:
            raise yaml.constructor.ConstructorError(
                None, None, "a value holds itself", node.start_mark
            )
        try:
            # deep: nothing is put off, so that the check above sees it
            value = super().construct_object(node, deep=True)
            if isinstance(value, int):
                str(value)  # Python has a limit of digits, and a sentence may show the value
        except _NOT_OF_ITS_KIND as error:
            kind = node.tag.rpartition(":")[2]
            shown = repr(node.value[:40]) if isinstance(node.value, str) else "this"
            raise yaml.constructor.ConstructorError(
                None, None, f"{shown} is not a valid {kind}", node.start_mark
            ) from error
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in names:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} is given twice", key.start_mark
                )
            names.add(key.value)
        return super().construct_mapping(node, deep)


def _count_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values below a node as if every alias were written out; a circle counts once."""
    if id(node) not in known:
        known[id(node)] = 1
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = chain.from_iterable(inner) if isinstance(node, yaml.MappingNode) else inner
        known[id(node)] = 1 + sum(_count_values(each, known) for each in parts)
    return known[id(node)]


def load_yaml(text: str, origin: str) -> Any:
    """Parse YAML of plain values safely.

    Raises
    ------
    InputError
        If ``text`` is no YAML, names something twice, nests too deeply, stands for too many values
        by its aliases or holds a value that is not of its kind, like a 99th month; ``origin`` names
        the file or flag.
    """
    try:
        return yaml.load(text, _PlainLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise InputError(f"{origin} is no valid YAML{where}: {problem}") from error
    except RecursionError as error:
        raise InputError(f"{origin} is no valid YAML: it nests too deeply") from error


def read_yaml(text: str, origin: str) -> dict[str, Any]:
    """Parse a YAML mapping safely.

    Raises
    ------
    InputError
        As `load_yaml`, and if ``text`` holds no mapping.
    """
    tree = load_yaml(text, origin)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"{origin} holds {type(tree).__name__}, not a mapping of names to values")
    return tree


def read_yaml_file(path: Path) -> tuple[dict[str, Any], str]:
    """Read a YAML mapping from a file; the text is returned beside it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path} cannot be read: {reason}") from error
    return read_yaml(text, str(path)), text


def load_profile(name: str) -> Layer:
    """Read a shipped profile by name, or a YAML file of one's own."""
    if name in PROFILES:
        text = (resources.files("cxr_ray.config") / "profiles" / f"{name}.yaml").read_text()
        return Layer(f"profile {name}", flatten(read_yaml(text, f"profile {name}")))
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"--profile {name}: neither a shipped profile ({', '.join(PROFILES)}) "
            f"nor a YAML file{did_you_mean(name, PROFILES)}"
        )
    return Layer(f"profile {name}", flatten(read_yaml_file(path)[0]))


def parse_assignments(items: Iterable[str]) -> Layer:
    """Read ``key=value`` pairs as given to ``--set``; values are YAML."""
    values: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        key = key.strip()
        shown = shortened(item)
        if not equals or not key:
            raise InputError(f"--set {shown}: should be key=value, for example train.lr=1e-3")
        if key in values:
            raise InputError(f"--set {key} is given twice")
        values[key] = load_yaml(text, f"--set {shown}: the value")
    return Layer("--set", values)


def resolve(layers: Sequence[Layer]) -> ExperimentConfig:
    """Apply ``layers`` in order over the defaults, checking after each.

    Weights that lie in a local file or folder get its absolute path, since workers run in folders
    of their own; ids do not depend on it.

    Raises
    ------
    InputError
        Names the field, where it came from, the value found and what would be right.
    """
    tree: dict[str, Any] = {}
    config = ExperimentConfig()
    for layer in layers:
        for name, value in layer.values.items():
            if value is None and name in PLANNED:
                continue
            _check_name(name, layer.origin)
            section, _, rest = name.partition(".")
            _put(tree.setdefault(section, {}), rest, value)
        try:
            config = ExperimentConfig.model_validate(tree)
        except ValidationError as error:
            raise InputError(_sentence(error.errors()[0], layer)) from error
    image, text = config.image, config.text
    if image.weights not in (None, "imagenet"):
        image = image.model_copy(update={"weights": _located(str(image.weights))})
    if text.encoder != "scratch":
        text = text.model_copy(update={"encoder": _located(text.encoder)})
    _check_cache(config)
    return config.model_copy(update={"image": image, "text": text})


def _check_cache(config: ExperimentConfig) -> None:
    """Refuse to store what is no constant, or what would be rounded on the way."""
    if not config.caches:
        return
    for name, value in (("shift", config.image.shift), ("rotate", config.image.rotate)):
        if "image" in config.fusion.modalities and value:
            raise InputError(
                f"train.cache_frozen is true and image.{name} is {value:g}, which shows the frozen "
                f"stages another image in every epoch; set image.{name}=0 or "
                "train.cache_frozen=false"
            )
    if config.compute.precision == "float64":
        raise InputError(
            "train.cache_frozen is true and compute.precision is float64, of which the stored "
            f"{config.train.cache_precision} would keep a part; set train.cache_frozen=false"
        )


@functools.cache
def field_names(model: type[BaseModel] = ExperimentConfig, prefix: str = "") -> tuple[str, ...]:
    """List the dotted names of all fields."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += field_names(kind, f"{prefix}{name}.")
        elif f"{prefix}{name}" not in PLANNED:
            names.append(f"{prefix}{name}")
    return tuple(names)


def _located(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


def _check_name(name: str, origin: str) -> None:
    known = field_names()
    if name in known:
        return
    if name in PLANNED:
        raise InputError(
            f"{name} (from {origin}) is set by the sweep, for each fit of a cross-validation; give "
            "data.split.folds and data.split.repeats"
        )
    inside = [field for field in known if field.startswith(f"{name}.")]
    if inside:
        raise InputError(
            f"{name} (from {origin}) is a section, not a field; set one of {', '.join(inside[:5])}"
        )
    raise InputError(f"{name} (from {origin}) is no config field{did_you_mean(name, known)}")


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    head, _, rest = name.partition(".")
    if rest:
        _put(tree.setdefault(head, {}), rest, value)
    else:
        tree[head] = value


def _sentence(error: ErrorDetails, layer: Layer) -> str:
    known = field_names()
    name = ".".join(str(part) for part in error["loc"])
    while name and name not in known and not any(f.startswith(f"{name}.") for f in known):
        name = name.rpartition(".")[0]
    problem = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    problem = _PLAINER.get(error["type"], problem).format(**error.get("ctx", {}))
    found = layer.values.get(name, error["input"])
    found = f" is {found!r}" if name in known else ""
    return f"{name}{found} (from {layer.origin}): {problem}"
