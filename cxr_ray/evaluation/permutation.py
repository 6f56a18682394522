"""Random permutations of records, and what few of them leave uncertain."""

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.labels import FloatArray, IntArray

AMPLE_SHUFFLES = 8


def permute_records(
    index: IntArray,
    rng: np.random.Generator,
    strata: ArrayLike | None = None,
    blocks: ArrayLike | None = None,
) -> IntArray:
    """Permute each row of `index`, within strata, whole blocks where records come in blocks.

    Parameters
    ----------
    index : (R, N) array of int
    rng : numpy.random.Generator
    strata : (N,) or (R, N) array-like, optional
        Entries change places only within equal strata of their row.
    blocks : (N,) array of int, optional
        Blocks (patients) are put in random order and their entries dealt, in that order, to the
        places of all blocks: entries of one block stay neighbours, so that their dependence
        is kept wherever sizes allow.

    Returns
    -------
    (R, N) array of int

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> sorted(permute_records(np.arange(4)[None], rng)[0].tolist())
    [0, 1, 2, 3]
    >>> permute_records(np.arange(4)[None], rng, strata=[0, 0, 1, 1])[0, :2].max()
    np.int64(1)
    """
    stratum = np.zeros((1, 1), dtype=np.int64)
    if strata is not None:
        stratum = np.unique(np.atleast_2d(strata), return_inverse=True)[1]
    if blocks is None:
        # Sorting by random numbers is what permutes; a stratum's entries end side by side.
        giving = _argsort_random(stratum + rng.random(index.shape))
        places = stratum
    else:
        block = np.asarray(blocks)
        kinds, count = int(stratum.max()) + 1, int(block.max(initial=0)) + 1
        ranks = np.argsort(rng.random((len(index), kinds, count)), axis=2)
        ranks = ranks[np.arange(len(index))[:, None], stratum, block]
        giving = _argsort_stably(stratum * count + ranks)
        places = stratum * count + block
    permuted = np.take_along_axis(index, giving, axis=1)
    if places.shape[1] == 1:
        return permuted
    dealt = np.empty_like(permuted)
    receiving = np.broadcast_to(_argsort_stably(places), index.shape)
    np.put_along_axis(dealt, receiving, permuted, axis=1)
    return dealt


def _argsort_random(numbers: FloatArray) -> IntArray:
    """Sort each row of random numbers, none negative; twice as fast as `numpy.argsort`.

    The bits of floats from 1 on are in the floats' own order. An entry's place takes the last ones,
    which leaves 39 random bits for 5,000 entries of one stratum, and one less whenever strata are
    twice as many.
    """
    keys = (1 + numbers).view(np.int64)
    places = np.arange(keys.shape[1])
    mask = (1 << int(places.max(initial=0)).bit_length()) - 1
    keys &= ~mask
    keys |= places
    keys.sort(axis=1)
    keys &= mask
    return keys


def _argsort_stably(numbers: IntArray) -> IntArray:
    """Sort each row; small numbers go into a type that numpy sorts in linear time."""
    small = numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))
    return np.argsort(small, axis=1, kind="stable")


def excess_noise(shuffles: int) -> float:
    """Give the variance of a mean of `shuffles` permutations above that of a mean of eight.

    Parameters
    ----------
    shuffles : int

    Returns
    -------
    float
        In units of one permutation's variance; 0 for eight and more.

    Examples
    --------
    >>> excess_noise(2), excess_noise(8)
    (0.375, 0.0)
    """
    return max(0.0, 1 / shuffles - 1 / AMPLE_SHUFFLES)


def percentiles_less_noise(
    draws: FloatArray, noise: ArrayLike, *, confidence: float = 0.95
) -> tuple[FloatArray, FloatArray]:
    """Percentile interval of bootstrap draws that carry a known variance of their own.

    Deviations from the median are scaled so that their variance is the draws' less `noise`: the
    idea of variance components, for draws that are means of a few random permutations.

    Parameters
    ----------
    draws : (R, K) array of float64
    noise : (K,) array-like
        Variance of the draws that is none of the statistic's; 0 gives the plain percentiles.
    confidence : float

    Returns
    -------
    low, high : (K,) arrays of float64

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> draws = rng.normal(size=(4_000, 1)) + rng.normal(size=(4_000, 1))
    >>> low, high = percentiles_less_noise(draws, [1.0])
    >>> round(float(high[0] - low[0]))  # 2 x 1.96, not sqrt(2) times that
    4
    """
    spread = draws.var(axis=0)
    share = np.divide(noise, spread, out=np.zeros_like(spread), where=spread > 0)
    middle = np.median(draws, axis=0)
    scaled = middle + (draws - middle) * np.sqrt(np.clip(1 - share, 0, 1))
    low, high = np.quantile(scaled, ((1 - confidence) / 2, (1 + confidence) / 2), axis=0)
    return low, high
