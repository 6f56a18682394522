"""Reading what `cxr_ray.data.prepare` made of a cohort."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_ray.config.identity import PREPARE_VERSION, DataKeys
from cxr_ray.config.schema import DataConfig
from cxr_ray.damage import COHORT, named_if_damaged, read_json
from cxr_ray.data.sources.groups import GROUP_PREFIX
from cxr_ray.data.split import assign_folds, kept_validation
from cxr_ray.errors import InputError
from cxr_ray.storage import Storage

if TYPE_CHECKING:
    import pandas as pd

REPORTS_FOLDER = "reports"
MANIFEST = "manifest.json"
COHORT_FILE = "cohort.csv"
AGREEMENT_FILE = "label_agreement.json"
FLOW_FILE = "selection_flow.json"
COHORT_COLUMNS = (
    *("row", "record", "patient", "label", "part", "image", "report"),
    *("label_section", "record_id", "group"),
)
"""What every cohort has; further columns are metadata, which no model reads."""
EMPTY_FILE = "empty_sections.json"
_FLOW_KEYS = {"rule", "unit", "before", "dropped", "after"}
SHIFTED_DATE = "shifted_study_date"
"""The column of a study date that is shifted by another amount for each patient."""


def is_prepared(storage: Storage, keys: DataKeys) -> bool:
    """Tell whether everything that an experiment reads lies ready; the cohort is then here."""
    folder = storage.prepared / keys.cohort
    return fetch_cohort(storage, keys.cohort) and all(map(storage.home.holds, _packs(folder, keys)))


def fetch_cohort(storage: Storage, cohort: str) -> bool:
    """Bring a cohort's tables to this machine; False where none is prepared."""
    folder = storage.prepared / cohort
    if not storage.home.knows(folder, MANIFEST):
        storage.home.fetch(folder, MANIFEST, deep=False)
    return (folder / MANIFEST).exists()


def fetch_prepared(storage: Storage, keys: DataKeys) -> None:
    """Bring what an experiment reads to this machine, once."""
    fetch_cohort(storage, keys.cohort)
    for pack in _packs(storage.prepared / keys.cohort, keys):
        fetch_pack(storage, pack)


def fetch_for_audit(storage: Storage, keys: DataKeys) -> None:
    """Bring what an experiment reads and the reports behind it to this machine, once."""
    fetch_prepared(storage, keys)
    fetch_pack(storage, storage.prepared / keys.cohort / REPORTS_FOLDER)


def fetch_pack(storage: Storage, pack: Path) -> None:
    """Bring a pack, reports or a tokenizer to this machine; none of them ever changes."""
    if not pack.is_dir():
        storage.home.fetch(pack)


def _packs(folder: Path, keys: DataKeys) -> list[Path]:
    images = [] if keys.image is None else [folder / f"images-{keys.image}"]
    return images + ([] if keys.text is None else [folder / f"text-{keys.text}"])


def read_manifest(storage: Storage, cohort: str) -> dict[str, Any]:
    """Read what was counted when a cohort was prepared.

    Raises
    ------
    InputError
        If it is damaged, or a newer version of the package prepared it.
    """
    fetch_cohort(storage, cohort)
    path = storage.prepared / cohort / MANIFEST
    manifest = read_json(path, COHORT)
    with named_if_damaged(path, COHORT):
        newer = manifest["prepare_version"] > PREPARE_VERSION
    if newer:
        raise InputError(
            f"{path} was written by a newer version (prepare_version "
            f"{manifest['prepare_version']}, this one knows {PREPARE_VERSION}); update cxr_ray"
        )
    return manifest


def read_flow(storage: Storage, cohort: str) -> list[dict[str, Any]]:
    """Read how a prepared cohort was selected, a step a rule."""
    path = storage.prepared / cohort / FLOW_FILE
    with named_if_damaged(path, COHORT):
        flow: list[dict[str, Any]] = json.loads(path.read_text())
        if [step for step in flow if not _FLOW_KEYS <= step.keys()]:
            raise ValueError("a step that is none")
    return flow


def read_agreement(folder: Path) -> dict[str, Any] | None:
    """Read how two labellers agree on a prepared cohort's label, where that was counted."""
    path = folder / AGREEMENT_FILE
    return read_json(path, COHORT) if path.exists() else None


def read_empty_views(storage: Storage, keys: DataKeys) -> dict[str, int]:
    """Read how many records of each class have no text in a prepared view."""
    folder = storage.prepared / keys.cohort / f"text-{keys.text}"
    return read_json(folder / EMPTY_FILE, COHORT)


def count_parts(cohort: "pd.DataFrame", data: DataConfig) -> dict[str, Any]:
    """Count records and positives of each part; of a cross-validation also of each fold.

    Returns
    -------
    ``parts`` by name, those of the first fit where there are several; ``folds`` of the first
    repeat, in order.
    """

    def count(label: "pd.Series[int]") -> dict[str, int]:
        return {"n": len(label), "n_positive": int(label.sum())}

    part = cohort["part"].to_numpy()
    counts: dict[str, Any] = {
        "parts": {name: count(cohort["label"][part == name]) for name in ("train", "val", "test")}
    }
    if data.split.kind == "kfold":
        kept = kept_validation(cohort, data)
        divided = cohort if kept is None else cohort[~kept]
        patient, label = divided["patient"].to_numpy(object), divided["label"].to_numpy()
        fold = assign_folds(patient, label, data.split.folds, 1, data.seed)
        numbers = range(1, data.split.folds + 1)
        counts["folds"] = [count(divided["label"][fold == each]) for each in numbers]
    return counts


def named_counts(manifest: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Name the counts that a reader wants: of the parts, or of a cross-validation's folds.

    Each fold is the test part of one fit, and has a share in the training of the others. What is
    in no fold validates every fit.
    """
    folds = manifest.get("folds")
    if folds is None:
        return dict(manifest["parts"])
    named = {f"fold {number}": counts for number, counts in enumerate(folds, start=1)}
    if sum(counts["n"] for counts in folds) < manifest["records"]:
        named["val of every fit"] = manifest["parts"]["val"]
    return named


def read_cohort(folder: Path) -> "pd.DataFrame":
    """Read a prepared cohort; ids stay text, whatever they look like."""
    import pandas as pd

    text = dict.fromkeys(("record", "patient", "part", "record_id", "group"), str)
    path = folder / COHORT_FILE
    with named_if_damaged(path, COHORT):
        cohort = pd.read_csv(path, dtype=text, keep_default_na=False)
        cohort[["record", "record_id", "row"]]  # raises where one is missing
    return cohort


def read_groups(folder: Path) -> "pd.DataFrame | None":
    """Read the subgroups of a prepared cohort's records, or None where it has none.

    Returns
    -------
    DataFrame of str
        A column a way of grouping, indexed by ``record_id``.
    """
    import pandas as pd

    path = folder / COHORT_FILE
    if not path.exists():
        return None
    with named_if_damaged(path, COHORT):
        header = list(map(str, pd.read_csv(path, nrows=0)))
    names = [name for name in header if name.startswith(GROUP_PREFIX)]
    if not names:
        return None
    read = ["record_id", *names]
    table = pd.read_csv(path, dtype=str, keep_default_na=False, usecols=read)[read]
    return table.set_index("record_id").rename(columns=lambda name: name.removeprefix(GROUP_PREFIX))
