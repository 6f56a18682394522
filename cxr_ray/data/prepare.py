"""Preparing a cohort once for all the experiments that read it.

Every step is resumable: chunks that are done are kept, and a folder gets its final name only when
it is whole. Records that cannot be read are left out of the cohort for every arm alike, whichever
modality the arm reads, so that all models see the same patients.
"""

import hashlib
import hmac
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_ray.config.identity import PREPARE_VERSION, DataKeys, image_pack_key
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.damage import COHORT, read_json
from cxr_ray.data import packing, text_pack
from cxr_ray.data.fan_out import FanOut
from cxr_ray.data.packing import Progress
from cxr_ray.data.prepared import (
    AGREEMENT_FILE,
    COHORT_FILE,
    FLOW_FILE,
    MANIFEST,
    REPORTS_FOLDER,
    count_parts,
    fetch_for_audit,
    fetch_pack,
    read_cohort,
)
from cxr_ray.data.split import read_parts
from cxr_ray.data.tokenization import check_pretrained
from cxr_ray.errors import InputError
from cxr_ray.lease import Heartbeat
from cxr_ray.storage import Storage, sync, write_whole

if TYPE_CHECKING:
    import pandas as pd

    from cxr_ray.data.cohort import Cohort
    from cxr_ray.data.sources.source import Source

ROWS_FILE = "rows.sha256"
_ROWS = 10_000  # of the cohort's table that are named and written at a time


def prepare(
    storage: Storage,
    source: "Source",
    wanted: Sequence[tuple[ExperimentConfig, DataKeys]],
    *,
    fan_out: FanOut,
    progress: Progress,
    driver: str,
    cohort_only: bool = False,
) -> None:
    """Make what is missing of the data that experiments on one cohort read.

    Parameters
    ----------
    wanted
        Experiments with the same cohort key, and their keys.
    fan_out
        Runs chunks: here or as Ray tasks.
    cohort_only
        Write the cohort and its selection flow, and touch no image or report.

    Raises
    ------
    InputError
        If the cohort is unusable, or more records are bad than ``data.max_bad_share`` allows.
    """
    encoders = {config.text.encoder for config, keys in wanted if keys.text is not None}
    for encoder in sorted(encoders - {"scratch"}):
        check_pretrained(encoder)
    config, keys = wanted[0]
    folder = storage.prepared / keys.cohort
    while (lease := storage.leases.acquire(folder, driver)) is None:
        progress("waiting for another run that prepares this cohort", 0, 1)
        time.sleep(1)
    try:
        with Heartbeat(storage.leases) as heartbeat:
            heartbeat.add(folder)
            for _, keys in wanted:
                _fetch(storage, keys)
            if not (folder / MANIFEST).exists():
                _prepare_cohort(storage, source, config, keys, fan_out, progress, cohort_only)
            if not cohort_only:
                for config, keys in wanted:
                    _prepare_packs(folder, source, config, keys, fan_out, progress)
                _record_checksums(folder)
            _publish(storage, folder)
    finally:
        storage.leases.release(folder, lease)


def _fetch(storage: Storage, keys: DataKeys) -> None:
    """Bring here what was prepared of a cohort elsewhere, and what more can be made from."""
    fetch_for_audit(storage, keys)
    if keys.tokenizer is not None:
        home = storage.prepared / (keys.tokenizer_cohort or keys.cohort)
        fetch_pack(storage, home / f"tokenizer-{keys.tokenizer}")


def _publish(storage: Storage, folder: Path) -> None:
    """Give other machines what is whole of a cohort's folder, the manifest last."""
    for pack in (*folder.glob("*-*/"), folder / REPORTS_FOLDER):
        if pack.is_dir() and pack.suffix != ".partial" and not pack.name.startswith("."):
            storage.home.publish(pack)
    storage.home.publish(folder, MANIFEST, deep=False)


def _prepare_cohort(
    storage: Storage,
    source: "Source",
    config: ExperimentConfig,
    keys: DataKeys,
    fan_out: FanOut,
    progress: Progress,
    cohort_only: bool,
) -> None:
    """Select the records, read them all once, and write those that can be read."""
    from cxr_ray.data.cohort import FlowStep, check_classes, select_cohort

    folder = storage.prepared / keys.cohort
    progress("selecting the cohort", 0, 1)
    source.ensure_written()
    cohort = select_cohort(source, config, check_files=not cohort_only)
    frame = cohort.frame.reset_index(drop=True)
    frame.insert(0, "row", np.arange(len(frame)))
    _drop_other_rows(folder, frame)
    progress("selecting the cohort", 1, 1)

    faults: dict[int, str] = {}
    if not cohort_only:
        if "text" in cohort.modalities:
            faults |= packing.read_reports(folder, source, frame, fan_out, progress)
            frame["label_section"] = text_pack.read_column(folder / REPORTS_FOLDER, "label_section")
        if "image" in cohort.required:
            key = keys.image or image_pack_key(keys.cohort, config.image)
            faults |= packing.decode_images(folder, source, frame, key, config, fan_out, progress)
    flow = list(cohort.flow)
    kept = frame.drop(index=list(faults))
    for reason in sorted(set(faults.values())):
        bad = [row for row, why in faults.items() if why == reason]
        before = flow[-1].after
        left = frame.drop(index=[row for row, why in faults.items() if why <= reason])
        flow.append(
            FlowStep(
                rule=reason,
                unit=flow[-1].unit,
                before=before,
                dropped=len(bad),
                after=before - len(bad),
                positive=int((left["label"] == 1).sum()),
                negative=int((left["label"] == 0).sum()),
            )
        )
    if len(faults) > config.data.max_bad_share * len(frame):
        worst = sorted(faults.items())[0]
        raise InputError(
            f"data.max_bad_share: {len(faults)} of {len(frame)} records cannot be read, more than "
            f"the share {config.data.max_bad_share:g}; the first is record "
            f"{_name(storage.salt(), frame.loc[worst[0], 'record'])}: {worst[1]}; raise the share, "
            f"or mend the files and remove {folder}"
        )
    if faults:
        # the selection was checked before these records turned out to be unreadable
        check_classes(kept, source, config)
    _write_cohort(storage, source, config, keys, cohort, kept, flow, faults, frame)


def _write_cohort(
    storage: Storage,
    source: "Source",
    config: ExperimentConfig,
    keys: DataKeys,
    cohort: "Cohort",
    kept: "pd.DataFrame",
    flow: list[Any],
    faults: dict[int, str],
    frame: "pd.DataFrame",
) -> None:
    from cxr_ray.data.label_agreement import label_agreement

    folder = storage.prepared / keys.cohort
    salt = storage.salt()
    split = config.data.split
    if split.kind == "kfold":
        # Fits divide the records that are left, and find them again without this file's parts.
        kept = kept.assign(part=read_parts(kept, config.fits[0].data))
    aside = folder / f".{COHORT_FILE}"
    with aside.open("w", encoding="utf-8", newline="") as file:
        for start in range(0, len(kept), _ROWS):
            piece = kept.iloc[start : start + _ROWS]
            named = piece.assign(
                record_id=[_name(salt, record) for record in piece["record"]],
                group=[_name(salt, patient) for patient in piece["patient"]],
            )
            named.to_csv(file, index=False, header=start == 0)
    sync(aside)
    aside.replace(folder / COHORT_FILE)
    write_whole(folder / FLOW_FILE, json.dumps([asdict(step) for step in flow], indent=1))
    agreement = label_agreement(source, config.cohort, kept["record"].tolist())
    if agreement is not None:
        write_whole(folder / AGREEMENT_FILE, json.dumps(agreement, indent=1))
    manifest = {
        "prepare_version": PREPARE_VERSION,
        "source": source.kind,
        "fingerprint": source.fingerprint(),
        "rules": source.rules(config.cohort),
        "required": list(cohort.required),
        "modalities": list(cohort.modalities),
        "records": len(kept),
        "patients": int(kept["patient"].nunique()),
        "positive": int(kept["label"].sum()),
        **count_parts(kept, config.data),
        "faults": [
            {"record_id": _name(salt, frame.loc[row, "record"]), "reason": reason}
            for row, reason in sorted(faults.items())
        ],
        "sha256": {COHORT_FILE: _sha256(folder / COHORT_FILE)},
    }
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record_checksums(folder: Path) -> None:
    """Add the sha256 of every pack's arrays that the manifest does not have yet."""
    manifest = read_json(folder / MANIFEST, COHORT)
    whole = [path for path in folder.glob("*-*/*.npy") if path.parent.suffix != ".partial"]
    new = {str(path.relative_to(folder)): path for path in whole}
    new = {name: path for name, path in sorted(new.items()) if name not in manifest["sha256"]}
    for name, path in new.items():
        manifest["sha256"][name] = _sha256(path)
    if new:
        write_whole(folder / MANIFEST, json.dumps(manifest, indent=1))


def _prepare_packs(
    folder: Path,
    source: "Source",
    config: ExperimentConfig,
    keys: DataKeys,
    fan_out: FanOut,
    progress: Progress,
) -> None:
    if keys.image is not None and not (folder / f"images-{keys.image}").is_dir():
        # Rows in the packs are those of the selection, bad records included.
        frame = _selected(folder, source, config)
        faults = packing.decode_images(folder, source, frame, keys.image, config, fan_out, progress)
        bad = len(set(faults) & set(read_cohort(folder)["row"]))
        if bad:
            raise InputError(
                f"{folder}: {bad} images that were readable when the cohort was prepared are not "
                "now; remove this folder to prepare it anew"
            )
    if keys.text is not None and not (folder / f"text-{keys.text}").is_dir():
        reports = folder / REPORTS_FOLDER
        if not reports.is_dir():
            packing.read_reports(
                folder, source, _selected(folder, source, config), fan_out, progress
            )
        packing.tokenize(folder, config, keys, fan_out, progress)


def _selected(folder: Path, source: "Source", config: ExperimentConfig) -> "pd.DataFrame":
    """Select a prepared cohort's records again, for the files that they name.

    Raises
    ------
    InputError
        If files have come or gone since, so that rows would stand for other records.
    """
    from cxr_ray.data.cohort import select_cohort

    source.ensure_written()
    frame = select_cohort(source, config).frame.reset_index(drop=True)
    cohort = read_cohort(folder)
    again = frame["record"].reindex(cohort["row"]).to_numpy(dtype=object)
    if not np.array_equal(again, cohort["record"].to_numpy(dtype=object)):
        raise InputError(
            f"{folder}: it was prepared from other files than {source.name} holds now; remove this "
            "folder to prepare it anew"
        )
    return frame


def _drop_other_rows(folder: Path, frame: "pd.DataFrame") -> None:
    """Drop what an interrupted preparation left, if files have come or gone since."""
    rows = frame[["record", "image", "report"]].to_csv()
    path, found = folder / ROWS_FILE, hashlib.sha256(rows.encode()).hexdigest()
    if path.exists() and path.read_text() != found:
        for left in (*folder.glob("images-*"), *folder.glob(f"{REPORTS_FOLDER}*")):
            shutil.rmtree(left)
    write_whole(path, found)


def _name(salt: bytes, value: object) -> str:
    """Name a record or patient outside ``prepared/``: a salted hash of 16 hex digits."""
    return hmac.new(salt, str(value).encode(), hashlib.sha256).hexdigest()[:16]
