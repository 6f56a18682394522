"""Which part a patient belongs to, and which records a sub-sampled set keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cxr_ray.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from cxr_ray.config.schema import DataConfig


def stable_hash(seed: int | str, identifier: str) -> bytes:
    """Sha256 of ``seed:identifier``: an order that no row order, machine or salt can change."""
    return hashlib.sha256(f"{seed}:{identifier}".encode()).digest()


def assign_parts(
    patient: np.ndarray, label: np.ndarray, shares: Sequence[float], seed: int
) -> np.ndarray:
    """Divide patients into train, validation and test, stratified by their labels.

    Patients are grouped by the *set* of labels that they have; within a group they are ordered by
    the hash of (seed, patient) and cut where the midpoint of their records passes the shares. A
    group of three patients or more reaches every part.

    Parameters
    ----------
    patient : (N,) array of str
        The patient of each record.
    label : (N,) array of int
        The class, 0 or 1, of each record.
    shares : three floats that add up to 1
        Train, validation, test.
    seed : int
        ``data.seed``.

    Returns
    -------
    (N,) array of str
        ``train``, ``val`` or ``test``; one part per patient.
    """
    return np.array(["train", "val", "test"], object)[_deal(patient, label, shares, seed)]


def assign_folds(
    patient: np.ndarray, label: np.ndarray, folds: int, repeat: int, seed: int
) -> np.ndarray:
    """Divide patients into folds of equal size, stratified by their labels as `assign_parts` is.

    Parameters
    ----------
    patient, label
        As in `assign_parts`.
    folds : int
        3 or more.
    repeat : int
        Which division of these patients, from 1; each is drawn for itself.
    seed : int
        ``data.seed``.

    Returns
    -------
    (N,) array of int
        1 to ``folds``; one fold per patient. A group of as many patients as folds reaches each.
    """
    return 1 + _deal(patient, label, [1 / folds] * folds, f"{seed}, repeat {repeat}")


def assign_fit_parts(
    patient: np.ndarray, label: np.ndarray, data: DataConfig, kept: np.ndarray | None = None
) -> np.ndarray:
    """Give the parts that one fit of a cross-validation sees.

    Its fold is the test part; validation is drawn from the other patients, stratified, in the
    proportion of the first two of ``data.split.shares``; the rest is the training part.

    Parameters
    ----------
    patient, label
        As in `assign_parts`.
    data : DataConfig
        With ``split.repeat`` and ``split.fold``.
    kept : (N,) array of bool, optional
        Whole patients, who are the validation part of every fit; folds then divide the others.

    Returns
    -------
    (N,) array of str
        ``train``, ``val`` or ``test``; one part per patient.

    Raises
    ------
    InputError
        If no fit is named.
    """
    split = data.split
    if split.repeat is None or split.fold is None:
        raise InputError("data.split.kind: kfold makes several fits, and none of them is named")
    if kept is not None:
        part = np.full(len(kept), "val", object)
        folds = assign_folds(patient[~kept], label[~kept], split.folds, split.repeat, data.seed)
        part[~kept] = np.where(folds == split.fold, "test", "train")
        return part
    folds = assign_folds(patient, label, split.folds, split.repeat, data.seed)
    part = np.full(len(folds), "test", object)
    rest = folds != split.fold
    train, val, _ = split.shares
    own_draw = f"{data.seed}, repeat {split.repeat}, fold {split.fold}"
    dealt = _deal(
        np.asarray(patient)[rest],
        np.asarray(label)[rest],
        [train / (train + val), val / (train + val)],
        own_draw,
    )
    part[rest] = np.array(["train", "val"], object)[dealt]
    return part


def read_parts(cohort: pd.DataFrame, data: DataConfig) -> np.ndarray:
    """Give the (N,) parts of a prepared cohort as one experiment sees them."""
    if data.split.kind != "kfold":
        return cohort["part"].to_numpy(dtype=str)
    patient, label = cohort["patient"].to_numpy(object), cohort["label"].to_numpy()
    return assign_fit_parts(patient, label, data, kept_validation(cohort, data)).astype(str)


def kept_validation(cohort: pd.DataFrame, data: DataConfig) -> np.ndarray | None:
    """Tell (N,) which records of a prepared cohort validate every fit; None if each has its own."""
    return (cohort["part"] == "val").to_numpy() if data.split.keeps_validation else None


def check_folds(patient: np.ndarray, label: np.ndarray, folds: int) -> None:
    """Refuse a cohort whose folds could not all hold both classes, in training and validation too.

    Raises
    ------
    InputError
        If a class has fewer patients of one set of labels than there are folds.
    """
    _, label_set, _ = _patients(patient, label)
    for bit, name in ((2, "positive"), (1, "negative")):
        # patients of one class only, and those of both, are dealt out apart from each other
        most = max(int((label_set == kind).sum()) for kind in (bit, 3))
        if most < folds:
            raise InputError(
                f"data.split.folds: {folds} folds need as many patients with a {name} record, and "
                f"there are {most}; take fewer folds or select more records"
            )


def _patients(
    patient: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Names of the patients, the set of labels of each (1, 2 or both: 3), and who has what."""
    names, index, counts = np.unique(
        np.asarray(patient, dtype=str), return_inverse=True, return_counts=True
    )
    label_set = np.zeros(len(names), int)
    np.bitwise_or.at(label_set, index, np.where(np.asarray(label) == 1, 2, 1))
    return names, label_set, (index, counts)


def _deal(
    patient: np.ndarray, label: np.ndarray, shares: Sequence[float], seed: int | str
) -> np.ndarray:
    """Deal patients out in ``shares``, each set of labels for itself; (N,) numbers from 0."""
    names, label_set, (index, counts) = _patients(patient, label)
    hashes = [stable_hash(seed, name) for name in names]
    order = np.array(sorted(range(len(names)), key=hashes.__getitem__), dtype=int)
    dealt = np.empty(len(names), int)
    for stratum in np.unique(label_set):
        members = order[label_set[order] == stratum]
        dealt[members] = _cut(counts[members], shares)
    return dealt[index]


def _cut(counts: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Cut ordered patients, with ``counts`` records each, into contiguous pieces."""
    number, pieces = len(counts), len(shares)
    middle = (np.cumsum(counts) - counts / 2) / counts.sum()
    place = np.zeros(number, int)
    edge = 0
    for piece, share in enumerate(np.cumsum(shares)[:-1], start=1):
        until = int((middle < share - 1e-12).sum())
        if number >= pieces:
            until = min(max(until, edge + 1), number - pieces + piece)
        place[until:] = piece
        edge = until
    return place


def natural_majority_share(label: np.ndarray) -> float:
    """Share of the larger class, in [.5, 1]."""
    positive = float(np.mean(np.asarray(label) == 1))
    return max(positive, 1 - positive)


def own_members(
    record: np.ndarray,
    label: np.ndarray,
    part: np.ndarray,
    majority_share: float | None,
    seed: int,
) -> np.ndarray:
    """Choose the records of a sub-sampled set: the minority whole, the majority thinned out.

    Within each part the majority records with the smallest hash of (seed, record) stay, so that
    the sets of all shares nest in each other.

    Parameters
    ----------
    record : (N,) array of str
        Unique record ids.
    label : (N,) array of int
        Classes 0 and 1; the majority is the larger class over the whole cohort.
    part : (N,) array of str
        The part of each record.
    majority_share : float or None
        Wanted share of the majority, None for everything.
    seed : int
        ``data.seed``.

    Returns
    -------
    (N,) array of bool

    Raises
    ------
    InputError
        If the share is above the natural one by more than rounding.
    """
    label = np.asarray(label)
    if majority_share is None:
        return np.ones(len(label), bool)
    majority = label == (1 if (label == 1).sum() > (label == 0).sum() else 0)
    part = np.asarray(part, dtype=str)
    parts = np.unique(part)
    odds = majority_share / (1 - majority_share)
    if odds * (~majority).sum() > majority.sum() + len(parts) / 2:
        raise InputError(
            f"data.majority_share: {majority_share:g} is above the natural share "
            f"{natural_majority_share(label):.4f}"
        )
    member = ~majority
    for name in parts:
        inside = part == name
        rows = np.flatnonzero(majority & inside)
        wanted = int(np.floor(odds * (~majority & inside).sum() + 0.5 + 1e-9))
        ordered = sorted(rows, key=lambda row: stable_hash(seed, str(record[row])))
        member[ordered[:wanted]] = True
    return member
