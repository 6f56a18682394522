"""Images that occur, unchanged or nearly so, in two parts of a cohort."""

from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.fft import dctn

from cxr_ray.evaluation.labels import IntArray
from cxr_ray.evaluation.leakage import PARTS, Finding, Grade, count_of, named

CANDIDATE_BITS, COPY_CORRELATION, COPY_PIXELS = 10, 0.99, 64
_BLOCK = 512


def perceptual_hash(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash images so that those that look alike differ in few of 64 bits.

    Parameters
    ----------
    images : (N, H, W) array of uint8

    Returns
    -------
    (N,) array of uint64

    Notes
    -----
    The signs, about their median, of the 8 x 8 lowest frequencies of the image at 32 px (pHash;
    Zauner 2010, section 3.2.1). Brightness and contrast change no bit.
    """
    small = shrink(images, 32).astype(np.float64)
    low = dctn(small, axes=(1, 2), norm="ortho")[:, :8, :8].reshape(len(small), 64)
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    bits[:, 0] = True
    hashed: NDArray[np.uint64] = np.packbits(bits, axis=1).view(np.uint64).reshape(-1)
    return hashed


def find_image_copies(images: NDArray[np.uint8], part: ArrayLike, record_ids: ArrayLike) -> Finding:
    """Look for images that occur, unchanged or nearly so, in two parts.

    Parameters
    ----------
    images : (N, H, W) array of uint8
    part : (N,) array-like of str
        ``train``, ``val`` or ``test``.
    record_ids : (N,) array-like of str

    Returns
    -------
    Finding
        ``image_copies``; its value is the number of records of validation and test whose image is
        in an earlier part too, its grade ``finding`` if any.

    Notes
    -----
    Films of different people look alike, so hashes that differ in at most `CANDIDATE_BITS` bits
    only give candidates. A pair counts if its pixels at `COPY_PIXELS` px (or the size at hand, if
    smaller) correlate by at least `COPY_CORRELATION`, and still do once the mean image of all
    records, the anatomy that everyone shares, is subtracted. Mirrored, turned or cropped copies
    are not found, and images of one single gray are left out.
    """
    part = np.asarray(part)
    small = shrink(images, COPY_PIXELS)
    hashed = perceptual_hash(small)
    drawn = np.ptp(small.reshape(len(small), -1), axis=1) > 0
    shared = _mean_pattern(small[drawn])
    copies, candidates = np.zeros(len(part), bool), 0
    for position, later in enumerate(PARTS[1:], 1):
        held = np.flatnonzero((part == later) & drawn)
        earlier = np.flatnonzero(np.isin(part, PARTS[:position]) & drawn)
        for rows, others in product(_blocks(held), _blocks(earlier)):
            near = np.bitwise_count(hashed[rows][:, None] ^ hashed[others]) <= CANDIDATE_BITS
            if not near.any():
                continue
            candidates += int(near.sum())
            alike = _pattern(small[rows]) @ _pattern(small[others]).T >= COPY_CORRELATION
            own, other = np.nonzero(near & alike)
            for pairs in _blocks(np.arange(len(own))):
                one, two = rows[own[pairs]], others[other[pairs]]
                same = _correlation(_pattern(small[one]) - shared, _pattern(small[two]) - shared)
                copies[one[same >= COPY_CORRELATION]] = True
    rows = np.flatnonzero(copies)
    n, pixels = len(part), small.shape[1]
    by_part = ", ".join(f"{int(copies[part == name].sum())} of {name}" for name in PARTS[1:])
    if len(rows):
        sentence = f"{count_of(len(rows), 'image')} in an earlier part too ({by_part})"
    else:
        sentence = "No image is in two parts"
    sentence += (
        f" (correlation >= {COPY_CORRELATION} at {pixels} px;"
        f" {candidates:,} candidate pairs, {count_of(n, 'record')})."
    )
    grade: Grade = "finding" if len(rows) else "information"
    shown = named(record_ids, rows)
    return Finding("image_copies", grade, sentence, float(len(rows)), n, shown, measure="images")


def shrink(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Average images down to `size` pixels a side; smaller ones stay as they are.

    Parameters
    ----------
    images : (N, H, W) array of uint8
    size : int

    Returns
    -------
    (N, min(H, size), min(W, size)) array of uint8
    """
    height, width = (min(side, size) for side in images.shape[1:])
    if (height, width) == images.shape[1:]:
        return np.asarray(images)
    edges = [
        np.arange(count + 1) * side // count
        for count, side in zip((height, width), images.shape[1:], strict=True)
    ]
    pixels = np.outer(np.diff(edges[0]), np.diff(edges[1]))
    small = np.empty((len(images), height, width), np.uint8)
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK].astype(np.uint32)
        total = np.add.reduceat(np.add.reduceat(block, edges[0][:-1], 1), edges[1][:-1], 2)
        small[start : start + _BLOCK] = np.rint(total / pixels)
    return small


def _blocks(rows: IntArray) -> list[IntArray]:
    return [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]


def _pattern(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Flatten images to mean 0 and length 1: their products are correlations."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def _mean_pattern(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    total = np.zeros(images[0].size if len(images) else 1, np.float64)
    for rows in _blocks(np.arange(len(images))):
        total += _pattern(images[rows]).sum(axis=0)
    return (total / max(len(images), 1)).astype(np.float32)


def _correlation(one: NDArray[np.float32], two: NDArray[np.float32]) -> NDArray[np.float32]:
    """Correlate pairs of rows; what nothing sets apart from the mean image is the same."""
    length = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    together = np.einsum("ij,ij->i", one, two)
    return np.divide(together, length, out=np.ones_like(together), where=length > 1e-6)
