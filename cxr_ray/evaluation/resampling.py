"""Bootstrap draws of patients."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cxr_ray.evaluation.labels import BoolArray, FloatArray, IntArray, as_labels

MAX_REDRAWS = 10_000
JACKKNIFE = 200
CHUNK_ELEMENTS = 500_000  # weights in memory at a time, 4 MB a table


@dataclass(frozen=True)
class PatientSampler:
    """Draws patients with replacement, all records of a patient together.

    A draw that holds one class only is drawn again.

    Attributes
    ----------
    positive : (N,) array of bool
    block : (N,) array of int
        Number of each record's patient, 0 to `patients` - 1.
    order : (N,) array of int
        Records sorted by patient.
    start, size : (patients,) arrays of int
        Where a patient's records lie in `order`, and how many.
    strata : tuple of (patients of the stratum,) arrays of int
        Patients drawn among each other, the number of each stratum kept; one stratum is the plain
        bootstrap.
    """

    positive: BoolArray
    block: IntArray
    order: IntArray
    start: IntArray
    size: IntArray
    strata: tuple[IntArray, ...]

    @classmethod
    def of(
        cls, label: ArrayLike, groups: ArrayLike | None = None, *, stratified: bool = False
    ) -> "PatientSampler":
        """Prepare draws.

        Parameters
        ----------
        label : (N,) array-like of 0/1
        groups : (N,) array-like, optional
            The patient of each record; each record its own patient by default.
        stratified : bool
            Keep the number of patients of each class (of each set of labels, where a patient has
            records of both classes).

        Returns
        -------
        PatientSampler

        Raises
        ------
        ValueError
            If one class is absent, so that no draw could hold both, or if `groups` has
            another length than `label`.
        """
        positive = as_labels(label)
        if positive.all() or not positive.any():
            raise ValueError("label holds one class only: resamples need both")
        block = np.arange(len(positive))
        if groups is not None:
            block = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
        if len(block) != len(positive):
            raise ValueError(f"{len(block)} groups do not match {len(positive)} labels")
        size = np.bincount(block)
        hits = np.bincount(block, weights=positive) > 0
        others = np.bincount(block, weights=~positive) > 0
        kind = hits + 2 * others if stratified else np.zeros(len(size), dtype=np.int64)
        return cls(
            positive=positive,
            block=block,
            order=np.argsort(block, kind="stable"),
            start=np.cumsum(size) - size,
            size=size,
            strata=tuple(np.flatnonzero(kind == one) for one in np.unique(kind)),
        )

    @property
    def grouped(self) -> bool:
        """Whether any patient has several records."""
        return len(self.size) < len(self.block)

    def draw(self, rng: np.random.Generator) -> tuple[IntArray, IntArray | None]:
        """Draw one resample.

        Parameters
        ----------
        rng : numpy.random.Generator

        Returns
        -------
        index : (M,) array of int
            Records; M varies where patients have several.
        block : (M,) array of int or None
            Which draw each record belongs to; None where every draw is one record.

        Raises
        ------
        ValueError
            If thousands of draws in a row held one class only.
        """
        for _ in range(MAX_REDRAWS):
            patients = self._draw_patients(rng)
            if not self.grouped:
                index, block = self.order[patients], None
            else:
                size = self.size[patients]
                block = np.repeat(np.arange(len(patients)), size)
                first = np.repeat(self.start[patients] - (np.cumsum(size) - size), size)
                index = self.order[first + np.arange(len(block))]
            drawn = self.positive[index]
            if drawn.any() and not drawn.all():
                return index, block
        raise ValueError(f"{MAX_REDRAWS} resamples in a row hold one class only")

    def draw_weights(self, rng: np.random.Generator, count: int) -> FloatArray:
        """Draw resamples as the number of times that each record is in them.

        Parameters
        ----------
        rng : numpy.random.Generator
        count : int

        Returns
        -------
        (count, N) array of float64

        Raises
        ------
        ValueError
            If thousands of draws in a row held one class only.
        """
        weights = np.empty((count, len(self.block)))
        positive = self.positive.astype(np.float64)  # a product with booleans is a slow one
        for row in range(count):
            for _ in range(MAX_REDRAWS):
                times = np.bincount(self._draw_patients(rng), minlength=len(self.size))
                weights[row] = times[self.block] if self.grouped else times
                hits = weights[row] @ positive
                if 0 < hits < weights[row].sum():
                    break
            else:
                raise ValueError(f"{MAX_REDRAWS} resamples in a row hold one class only")
        return weights

    def leave_blocks_out(self, rng: np.random.Generator, blocks: int = JACKKNIFE) -> FloatArray:
        """Weigh the records for a grouped jackknife: each row lacks one block of patients.

        Parameters
        ----------
        rng : numpy.random.Generator
            Deals the patients out.
        blocks : int
            At most so many, of equal size but for one patient; with fewer patients each is a block.

        Returns
        -------
        (blocks, N) array of float64
            Of 0 and 1.
        """
        patients = len(self.size)
        dealt = rng.permutation(patients) % min(blocks, patients)
        return (dealt[self.block] != np.arange(dealt.max() + 1)[:, None]).astype(np.float64)

    def _draw_patients(self, rng: np.random.Generator) -> IntArray:
        return np.concatenate(
            [stratum[rng.integers(0, len(stratum), len(stratum))] for stratum in self.strata]
        )


def chunk_sizes(total: int, width: int) -> list[int]:
    """Split `total` resamples into runs of which a table of `width` columns stays small.

    Parameters
    ----------
    total, width : int

    Returns
    -------
    list of int
        They sum to `total`.

    Examples
    --------
    >>> chunk_sizes(250, 5_000)
    [100, 100, 50]
    """
    step = max(1, CHUNK_ELEMENTS // width)
    return [min(step, total - start) for start in range(0, total, step)]
