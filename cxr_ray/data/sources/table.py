"""Anyone's CSV, its columns explained by a YAML file."""

from __future__ import annotations

import json
import posixpath
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from cxr_ray.data.cohort import PARTS, FlowStep, Selection
from cxr_ray.data.sources.groups import GROUP_PREFIX, group_levels
from cxr_ray.data.sources.source import HeldReports, ReportReader, Root, confined, opened_root
from cxr_ray.data.sources.table_recipe import TableRecipe, read_recipe
from cxr_ray.data.sources.table_rows import TableRows, check_tails, read_rows
from cxr_ray.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from cxr_ray.config.schema import CohortConfig, DataConfig, ExperimentConfig

# before the names of the CSV's columns, so that one called `label` is not taken for ours
CSV = "csv:"


@dataclass(frozen=True)
class TableSource:
    """A CSV with a row per record.

    Attributes
    ----------
    root : Root
        The folder of the CSV and the images.
    recipe : TableRecipe
        What the columns mean.
    """

    root: Root
    recipe: TableRecipe

    kind = "table"
    parts = PARTS
    reads = frozenset({"per_patient"})

    @property
    def name(self) -> str:
        """The YAML's ``name``, else its file name without ending."""
        return self.recipe.name

    @property
    def modalities(self) -> tuple[str, ...]:
        """Image and text, where a column is named for them."""
        return self.recipe.modalities

    def fingerprint(self) -> str:
        """Sha256 of the CSV and of what its columns mean."""
        digest = sha256(json.dumps(self.recipe.meaning(), sort_keys=True).encode() + b"\n")
        with _opened(self) as file:
            while block := file.read(2**20):
                digest.update(block)
        return digest.hexdigest()

    def rules(self, config: CohortConfig) -> dict[str, Any]:
        """Only ``per_patient``: the other rules are the YAML's and in the fingerprint."""
        return {"per_patient": config.per_patient or self.recipe.per_patient}

    def required(self, data: DataConfig) -> tuple[str, ...]:
        """Take ``data.require``, else the YAML's ``require``, else every modality."""
        if data.require is not None:
            return data.require
        return self.modalities if self.recipe.require is None else self.recipe.require

    def select(self, config: ExperimentConfig) -> tuple[pd.DataFrame, list[FlowStep]]:
        """Apply the YAML's rules, each a step; patients who share an image become one group."""
        import pandas as pd

        recipe = self.recipe
        frame = _rows(self).frame.add_prefix(CSV)
        frame[":record"] = pd.Series(_records(self), dtype=object)
        patients = [str(name).strip() for name in frame[CSV + recipe.patient]]
        images = _image_references(self)
        frame[":patient"] = patients
        frame[":image"] = pd.Series(images, dtype=object)
        frame[":group"] = _groups(patients, images)
        frame[":text"] = _rows(self).digests if recipe.text else 0
        selection = Selection(frame, "records", "all rows of the table")
        selection.keep("patient blank", (selection.frame[":patient"] != "").to_numpy())
        for column, values in recipe.where:
            kept = selection.frame[CSV + column].isin(values).to_numpy()
            selection.keep(f"{column} not {' or '.join(values)}", kept)
        _select_labels(selection, recipe)
        if recipe.image is not None:
            inside = [ref is None or confined(ref) for ref in selection.frame[":image"]]
            selection.keep("image path outside the folder", np.array(inside, bool))
            _drop_listed_again(selection)
        _note_groups(selection)
        _per_patient(selection, recipe, self.rules(config.cohort)["per_patient"])
        return self._kept(selection.frame), selection.steps

    def present(self, modality: str, references: Sequence[str | None]) -> np.ndarray:
        """Whether the image files exist, or the text is not blank, (N,) bool."""
        if modality == "image":
            return self.root.holds(references)
        blank, row_of = _rows(self).blank, _row_of(self)
        return np.array([ref in row_of and not blank[row_of[ref]] for ref in references], bool)

    def read_image(self, reference: str) -> bytes:
        """Read the image file's bytes."""
        return self.root.read(reference)

    def read_report(self, reference: str) -> str:
        """Give the text, or a report composed of the columns that hold its sections."""
        return _rows(self).text(_row_of(self)[reference])

    def reports_of(self, references: Sequence[str | None]) -> ReportReader:
        """Give the texts themselves: another process would have to go through the whole table."""
        return HeldReports({ref: self.read_report(ref) for ref in references if ref is not None})

    def ensure_written(self) -> None:
        """Nothing to do: the table is the user's."""

    def _kept(self, frame: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        record = frame[":record"].to_numpy(object)
        there = np.zeros(len(record), bool)
        if self.recipe.text:
            there = self.present("text", record.tolist())
        report = [name if is_there else None for name, is_there in zip(record, there, strict=True)]
        levels = {
            GROUP_PREFIX + group.name: group_levels(frame[CSV + group.column], group)
            for group in self.recipe.groups
        }
        return pd.DataFrame(
            {
                "record": record,
                "patient": frame[":group"].to_numpy(object),
                "label": frame["label"].to_numpy(np.int8),
                "image": pd.Series(frame[":image"].to_numpy(object), dtype=object),
                "report": pd.Series(report, dtype=object),
                **{name: column.to_numpy(object) for name, column in levels.items()},
                **{name: frame[CSV + name].to_numpy(object) for name in self.recipe.metadata},
            }
        )


def open_table(file: str, root: str | None = None, follow_links: bool = False) -> TableSource:
    """Open a table by its YAML.

    Parameters
    ----------
    file : str
        The YAML.
    root : str, optional
        The data set's folder; else the YAML's ``root``, relative to the YAML, else its folder.
    follow_links : bool
        Whether symbolic links may lead out of that folder.
    """
    path = Path(file).expanduser()
    recipe, written = read_recipe(path)
    if root is not None:
        base = opened_root(root, "--data", follow_links)
    elif written is not None and "://" in written:
        base = opened_root(written, f"{path.name}: root", follow_links)
    else:
        base = opened_root(str(path.parent / (written or ".")), f"{path.name}: root", follow_links)
    for key, place in (("csv", recipe.csv), ("image_root", recipe.image_root or ".")):
        if not confined(place):
            raise InputError(f"{path.name}: {key}: {place} must be a path inside the root")
    return TableSource(base, recipe)


def _opened(source: TableSource) -> AbstractContextManager[IO[bytes]]:
    advice = "; name the data set's folder, as in --data table:FILE.yaml@DIR"
    return source.root.opened_table(source.recipe.csv, advice)


@lru_cache(maxsize=4)
def _rows(source: TableSource) -> TableRows:
    import pandas as pd

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", pd.errors.ParserWarning)
        with _opened(source) as file:
            rows = read_rows(file, source.recipe)
    if said:  # of cells beyond the header's
        with _opened(source) as file:
            check_tails(file, source.recipe)
    return rows


@lru_cache(maxsize=4)
def _row_of(source: TableSource) -> dict[str, int]:
    """Row of each record."""
    return {name: row for row, name in enumerate(_records(source))}


@lru_cache(maxsize=4)
def _records(source: TableSource) -> list[str]:
    """Each row's id: the column's, or the row's number."""
    table, column = _rows(source).frame, source.recipe.identifier
    if column is None:
        return [f"row{number:07d}" for number in range(1, len(table) + 1)]
    names = table[column].str.strip()
    repeated = (names.duplicated() | (names == "")).to_numpy()
    if repeated.any():
        raise InputError(
            f"{source.recipe.csv}: {int(repeated.sum())} ids in column {column!r} are blank or "
            f"occur before, the first in data row {int(repeated.argmax()) + 1}"
        )
    return [str(name) for name in names]


def _image_references(source: TableSource) -> list[str | None]:
    """Paths below the root, one spelling a file; one that leaves the root stays as it is."""
    recipe = source.recipe
    if recipe.image is None:
        return [None] * len(_rows(source).frame)
    folder = posixpath.join(source.root.uri, recipe.image_root).rstrip("/") + "/"
    references: list[str | None] = []
    for given in _rows(source).frame[recipe.image]:
        path = given.strip().replace("\\", "/").removeprefix(folder)
        if not path:
            references.append(None)
        elif confined(path):
            references.append(posixpath.normpath(posixpath.join(recipe.image_root, path)))
        else:
            references.append(path)
    return references


def _groups(patients: Sequence[str], images: Sequence[str | None]) -> list[str]:
    """Group patients who share an image file, named by their smallest id."""
    parent: dict[str, str] = {}

    def top(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    owner: dict[str, str] = {}
    for patient, image in zip(patients, images, strict=True):
        if patient and image is not None:
            one, other = sorted((top(patient), top(owner.setdefault(image, patient))))
            parent[other] = one
    return [top(patient) for patient in patients]


def _select_labels(selection: Selection, recipe: TableRecipe) -> None:
    values = selection.frame[CSV + recipe.label_column]
    label = np.array([_label(value, recipe) for value in values], np.int8)
    selection.frame = selection.frame.assign(label=label)
    selection.keep("label not in the rule", label >= 0)


def _label(value: str, recipe: TableRecipe) -> int:
    """1, 0, or -1 for neither."""
    if recipe.separator is None:
        terms = [value.strip()]
    else:
        terms = [term.strip() for term in value.split(recipe.separator) if term.strip()]
    if any(term in recipe.positive for term in terms):
        return 1
    return 0 if terms and all(term in recipe.negative for term in terms) else -1


def _drop_listed_again(selection: Selection) -> None:
    """Keep one of the rows that repeat an image with its text and label: nothing would be new."""
    frame = selection.frame
    repeats = frame.duplicated([":image", "label", ":text"]) & frame[":image"].notna()
    selection.keep("image, text and label listed before", ~repeats.to_numpy())


def _note_groups(selection: Selection) -> None:
    frame = selection.frame
    patients, groups = frame[":patient"].nunique(), frame[":group"].nunique()
    if (frame[":patient"] != frame[":group"]).any():
        selection.note(
            "patients who share an image file",
            f"{patients} patients form {groups} groups, so that no image is in two parts",
        )


def _per_patient(selection: Selection, recipe: TableRecipe, per_patient: str) -> None:
    import pandas as pd

    frame = selection.frame
    if per_patient == "drop_repeated":
        once = ~frame[":group"].duplicated(keep=False).to_numpy()
        selection.keep("patients with several records", once)
    elif per_patient == "earliest":
        if recipe.order is None:
            raise InputError(
                "cohort.per_patient: earliest needs a numeric column, named as 'order' in the"
                " table's YAML; or use all, drop_repeated"
            )
        when = pd.to_numeric(frame[CSV + recipe.order], errors="coerce")
        if len(when) and when.isna().all():
            raise InputError(
                f"{recipe.csv}: order names the column {recipe.order!r}, which holds no number"
            )
        when = when.replace([np.inf, -np.inf], np.nan)
        ordered = frame.assign(**{":when": when}).sort_values([":when", ":record"], kind="stable")
        first = ordered.index[~ordered[":group"].duplicated()]
        selection.keep("further records of a patient", frame.index.isin(first))
