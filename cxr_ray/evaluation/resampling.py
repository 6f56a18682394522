"""Bootstrap draws of patients."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxr_ray.evaluation.labels import FloatArray, IntArray, as_labels

MAX_REDRAWS = 10_000
JACKKNIFE = 200
CHUNK_ELEMENTS = 50_000  # of a table at a time, 400 kB, which a core has in its cache


@dataclass(frozen=True)
class PatientSampler:
    """Draws patients with replacement, all records of a patient together.

    A draw that holds one class only is drawn again.

    Attributes
    ----------
    block : (N,) array of int
        Number of each record's patient, 0 to `patients` - 1.
    order : (N,) array of int
        Records sorted by patient.
    start, size : (patients,) arrays of int
        Where a patient's records lie in `order`, and how many.
    classes : (patients,) array of uint8
        1 for patients with a positive record, 2 with a negative one, 3 with both.
    strata : tuple of (patients of the stratum,) arrays of int
        Patients drawn among each other, the number of each stratum kept; one stratum is the plain
        bootstrap.
    """

    block: IntArray
    order: IntArray
    start: IntArray
    size: IntArray
    classes: NDArray[np.uint8]
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
        classes = (hits + 2 * others).astype(np.uint8)
        kind = classes if stratified else np.zeros_like(classes)
        return cls(
            block=block,
            order=np.argsort(block, kind="stable"),
            start=np.cumsum(size) - size,
            size=size,
            classes=classes,
            strata=tuple(np.flatnonzero(kind == one) for one in np.unique(kind)),
        )

    @property
    def grouped(self) -> bool:
        """Whether any patient has several records."""
        return len(self.size) < len(self.block)

    def resamples(
        self, rng: np.random.Generator, total: int, tables: int, *, one_by_one: bool = False
    ) -> Iterator[tuple[IntArray, IntArray | None]]:
        """Draw resamples as rows of records, several at once where all are equally long.

        Parameters
        ----------
        rng : numpy.random.Generator
        total : int
            Number of resamples.
        tables : int
            What is worked out for a resample has so many rows of N: as many resamples come at
            once as then fit a core's cache. Where patients have several records M varies, and they
            come one by one.
        one_by_one : bool
            Whether they do so in any case.

        Yields
        ------
        index : (R, M) array of int
            Records.
        block : (M,) array of int or None
            Which draw each record belongs to; None where every draw is one record.

        Raises
        ------
        ValueError
            If thousands of draws in a row held one class only.
        """
        alone = one_by_one or self.grouped
        step = 1 if alone else max(1, CHUNK_ELEMENTS // (tables * len(self.block)))
        for start in range(0, total, step):
            patients = self._draw_patients(rng, min(step, total - start))
            if not self.grouped:
                yield self.order[patients], None
                continue
            size = self.size[patients[0]]
            block = np.repeat(np.arange(len(size)), size)
            first = np.repeat(self.start[patients[0]] - (np.cumsum(size) - size), size)
            yield self.order[None, first + np.arange(len(block))], block

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
        patients = len(self.size)
        places = self._draw_patients(rng, count) + patients * np.arange(count)[:, None]
        times = np.bincount(places.ravel(), minlength=count * patients).astype(np.float64)
        times = times.reshape(count, patients)
        return times[:, self.block] if self.grouped else times

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

    def _draw_patients(self, rng: np.random.Generator, count: int) -> IntArray:
        """Draw (count, patients) patients, each row with records of both classes."""
        drawn = self._draw_rows(rng, count)
        for _ in range(MAX_REDRAWS):
            lacking = np.flatnonzero(np.bitwise_or.reduce(self.classes[drawn], axis=1) != 3)
            if not len(lacking):
                return drawn
            drawn[lacking] = self._draw_rows(rng, len(lacking))
        raise ValueError(f"{MAX_REDRAWS} resamples in a row hold one class only")

    def _draw_rows(self, rng: np.random.Generator, count: int) -> IntArray:
        return np.concatenate(
            [
                stratum[rng.integers(0, len(stratum), (count, len(stratum)))]
                for stratum in self.strata
            ],
            axis=1,
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
    >>> chunk_sizes(25, 5_000)
    [10, 10, 5]
    """
    step = max(1, CHUNK_ELEMENTS // width)
    return [min(step, total - start) for start in range(0, total, step)]
