"""Which part a patient belongs to, and which records a sub-sampled set keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from cxr_ray.errors import InputError


def stable_hash(seed: int, identifier: str) -> bytes:
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
    names, index, counts = np.unique(
        np.asarray(patient, dtype=str), return_inverse=True, return_counts=True
    )
    label_set = np.zeros(len(names), int)
    np.bitwise_or.at(label_set, index, np.where(np.asarray(label) == 1, 2, 1))
    hashes = [stable_hash(seed, name) for name in names]
    order = np.array(sorted(range(len(names)), key=hashes.__getitem__), dtype=int)
    part = np.empty(len(names), object)
    for stratum in np.unique(label_set):
        members = order[label_set[order] == stratum]
        part[members] = _cut(counts[members], shares)
    return part[index]


def _cut(counts: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Cut ordered patients, with ``counts`` records each, into contiguous parts."""
    number = len(counts)
    middle = (np.cumsum(counts) - counts / 2) / counts.sum()
    train = int((middle < shares[0] - 1e-12).sum())
    val = int((middle < shares[0] + shares[1] - 1e-12).sum())
    if number >= 3:
        train = min(max(train, 1), number - 2)
        val = min(max(val, train + 1), number - 1)
    position = np.arange(number)
    chosen = np.where(position < train, "train", np.where(position < val, "val", "test"))
    return chosen.astype(object)


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
