"""The YAML that says what the columns of somebody's CSV mean."""

from __future__ import annotations

import difflib
import re
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from cxr_ray.config.layers import load_yaml
from cxr_ray.data.prepared import COHORT_COLUMNS
from cxr_ray.errors import InputError

KEYS = (
    *("csv", "root", "name", "id", "patient", "image", "image_root", "text", "label", "where"),
    *("require", "per_patient", "order", "delimiter", "groups", "metadata"),
)
LABEL_KEYS = ("column", "positive", "negative", "separator")
PER_PATIENT = ("earliest", "drop_repeated", "all")
PLACES = ("csv", "image_root", "name", "delimiter")
LATER_KEYS = ("groups", "metadata")
GROUP_KEYS = ("column", "edges")


@dataclass(frozen=True)
class GroupColumn:
    """A column by which figures are given for subgroups.

    Attributes
    ----------
    name, column : str
    edges : tuple of float
        Where numbers are cut, rising; empty where none are given.
    """

    name: str
    column: str
    edges: tuple[float, ...] = ()


@dataclass(frozen=True)
class TableRecipe:
    """What a table's YAML says, checked.

    Attributes
    ----------
    csv : str
        Path below the root.
    name : str
        Enters study names.
    patient, label_column : str
        Columns.
    positive, negative : tuple of str
        Exact values or, with ``separator``, terms: any of ``positive`` makes a row positive, it is
        negative when all its terms are in ``negative``.
    identifier, image, order : str or None
        Columns: the record's id (else the row's number), its image file, and the number by which
        the earliest record of a patient is found.
    text : tuple of (section, column)
        Section ``""`` stands for a whole report.
    where : tuple of (column, values)
        Each a rule of its own.
    groups : tuple of GroupColumn
        By which figures are also given.
    metadata : tuple of str
        Columns that no model reads: the leakage audit holds them against the label.
    """

    csv: str
    name: str
    patient: str
    label_column: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    separator: str | None = None
    identifier: str | None = None
    image: str | None = None
    image_root: str = ""
    text: tuple[tuple[str, str], ...] = ()
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()
    require: tuple[str, ...] | None = None
    per_patient: str = "all"
    order: str | None = None
    delimiter: str = ","
    groups: tuple[GroupColumn, ...] = ()
    metadata: tuple[str, ...] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the columns can feed."""
        return ("image",) * (self.image is not None) + ("text",) * bool(self.text)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read, once."""
        return tuple(dict.fromkeys([*self.row_columns, *(column for _, column in self.text)]))

    @property
    def row_columns(self) -> tuple[str, ...]:
        """Those of them that say more than a text."""
        named = (self.identifier, self.patient, self.image, self.label_column, self.order)
        wanted = [*named, *(column for column, _ in self.where), *self.metadata]
        wanted += [group.column for group in self.groups]
        return tuple(dict.fromkeys(column for column in wanted if column is not None))

    def meaning(self) -> dict[str, Any]:
        """Give all but names and places: what enters the fingerprint."""
        meaning = {key: value for key, value in asdict(self).items() if key not in PLACES}
        # As before there were any: the keys of tables without them stay.
        return {key: value for key, value in meaning.items() if value or key not in LATER_KEYS}


def read_recipe(file: Path) -> tuple[TableRecipe, str | None]:
    """Read and check a table's YAML.

    Returns
    -------
    recipe : TableRecipe
    root : str or None
        The key ``root``, as written.

    Raises
    ------
    InputError
        If a key is unknown or missing, or a value is not of its kind.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"--data: {file} cannot be read") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file.name}: byte {error.start + 1} is no UTF-8 text") from error
    given = load_yaml(text, file.name)
    reader = _Reader(file.name)
    given = reader.mapping("the file", given, KEYS, ("csv", "patient", "label"))
    label = reader.mapping("label", given["label"], LABEL_KEYS, LABEL_KEYS[:3])
    positive = reader.values("label.positive", label["positive"])
    negative = reader.values("label.negative", label["negative"])
    if both := set(positive) & set(negative):
        raise InputError(f"{file.name}: label: {min(both)!r} is both positive and negative")
    recipe = TableRecipe(
        csv=reader.text("csv", given["csv"]),
        name=reader.optional("name", given) or file.stem,
        patient=reader.text("patient", given["patient"]),
        label_column=reader.text("label.column", label["column"]),
        positive=positive,
        negative=negative,
        separator=reader.optional("separator", label),
        identifier=reader.optional("id", given),
        image=reader.optional("image", given),
        image_root=(reader.optional("image_root", given) or "").strip("/").removeprefix("./"),
        text=_text_columns(reader, given.get("text")),
        where=_where(reader, given.get("where")),
        require=_require(reader, given.get("require")),
        per_patient=reader.one_of("per_patient", given.get("per_patient", "all"), PER_PATIENT),
        order=reader.optional("order", given),
        delimiter=_delimiter(reader, given),
        groups=_groups(reader, given.get("groups")),
        metadata=_metadata(reader, given.get("metadata")),
    )
    if not recipe.modalities:
        raise InputError(f"{file.name}: neither image nor text names a column")
    return recipe, reader.optional("root", given)


def _delimiter(reader: _Reader, given: dict[str, Any]) -> str:
    found = reader.optional("delimiter", given) or ","
    if len(found) != 1 or not found.isascii() or found in '"\r\n\0':
        raise InputError(
            f"{reader.file}: delimiter: {found!r} should be one ASCII character, such as ';' or "
            '"\\t", and no quote or line end'
        )
    return found


def _text_columns(reader: _Reader, given: Any) -> tuple[tuple[str, str], ...]:
    if given is None:
        return ()
    if isinstance(given, dict):
        return tuple((str(name), reader.text("text", column)) for name, column in given.items())
    return (("", reader.text("text", given)),)


def _where(reader: _Reader, given: Any) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Take one mapping of column to values, or a list of such mappings."""
    parts = given if isinstance(given, list) else [given or {}]
    rules = []
    for part in parts:
        if not isinstance(part, dict):
            raise InputError(f"{reader.file}: where: {part!r} is not a mapping of column to values")
        for column, values in part.items():
            rules.append((str(column), reader.values(f"where.{column}", values)))
    return tuple(rules)


def _groups(reader: _Reader, given: Any) -> tuple[GroupColumn, ...]:
    """Take a mapping of name to column, or to a column and the edges that cut its numbers."""
    if given is None:
        return ()
    if not isinstance(given, dict):
        raise InputError(f"{reader.file}: groups: {given!r} is not a mapping of name to column")
    groups = []
    for name, says in given.items():
        if re.fullmatch(r"[A-Za-z][0-9A-Za-z_]*", str(name)) is None:
            raise InputError(
                f"{reader.file}: groups: {name!r} is no plain name of letters, digits and _"
            )
        key = f"groups.{name}"
        if isinstance(says, dict):
            reader.mapping(key, says, GROUP_KEYS, ("column",))
            column, edges = says["column"], _edges(reader, f"{key}.edges", says.get("edges"))
        else:
            column, edges = says, ()
        groups.append(GroupColumn(str(name), reader.text(key, column), edges))
    return tuple(groups)


def _edges(reader: _Reader, key: str, given: Any) -> tuple[float, ...]:
    if given is None:
        return ()
    numbers = given if isinstance(given, list) else [given]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise InputError(f"{reader.file}: {key}: {number!r} is not a number")
    if not numbers or any(high <= low for low, high in pairwise(numbers)):
        raise InputError(f"{reader.file}: {key}: {numbers} are not numbers that rise")
    return tuple(float(number) for number in numbers)


def _metadata(reader: _Reader, given: Any) -> tuple[str, ...]:
    columns = () if given is None else reader.values("metadata", given)
    for column in columns:
        if column in COHORT_COLUMNS or column.startswith("group_"):
            raise InputError(
                f"{reader.file}: metadata: {column!r} is the name of a cohort's own column; "
                "rename the table's"
            )
    return columns


def _require(reader: _Reader, given: Any) -> tuple[str, ...] | None:
    if given is None:
        return None
    names = reader.values("require", given) if given != [] else ()
    return tuple(reader.one_of("require", name, ("image", "text")) for name in names)


@dataclass(frozen=True)
class _Reader:
    """Checks values and says in which file and under which key they are wrong."""

    file: str

    def mapping(
        self, key: str, given: Any, known: tuple[str, ...], needed: tuple[str, ...]
    ) -> dict[str, Any]:
        if not isinstance(given, dict):
            raise InputError(f"{self.file}: {key} must be a mapping with {', '.join(needed)}")
        for name in given:
            if name not in known:
                close = difflib.get_close_matches(str(name), known, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
                raise InputError(f"{self.file}: unknown key {name!r} in {key}; {hint}")
        for name in needed:
            if name not in given:
                raise InputError(f"{self.file}: key {name!r} is missing in {key}")
        return given

    def text(self, key: str, given: Any) -> str:
        if isinstance(given, bool) or not isinstance(given, (str, int, float)):
            raise InputError(f"{self.file}: {key}: {given!r} is not a text; quote it")
        if not str(given):
            raise InputError(f"{self.file}: {key} is blank")
        return str(given)

    def optional(self, key: str, given: dict[str, Any]) -> str | None:
        return None if given.get(key) is None else self.text(key, given[key])

    def values(self, key: str, given: Any) -> tuple[str, ...]:
        many = given if isinstance(given, list) else [given]
        if not many:
            raise InputError(f"{self.file}: {key} is an empty list")
        return tuple("" if value == "" else self.text(key, value) for value in many)

    def one_of(self, key: str, given: Any, known: tuple[str, ...]) -> str:
        if given not in known:
            raise InputError(f"{self.file}: {key}: {given!r} is not one of {', '.join(known)}")
        return str(given)
