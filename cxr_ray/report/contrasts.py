"""Which comparisons a grid declares; nothing heavy is needed to count them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Contrast:
    """Two levels of one axis, the levels of all others held."""

    axis: str
    level: str
    reference: str
    held: Mapping[str, str]

    @property
    def arms(self) -> tuple[dict[str, str], dict[str, str]]:
        """Levels of the two arms on every axis."""
        return {**self.held, self.axis: self.level}, {**self.held, self.axis: self.reference}

    def row(self) -> dict[str, str]:
        """Columns that name the comparison."""
        return {
            "axis": self.axis,
            "level_a": self.level,
            "level_b": self.reference,
            "held": ", ".join(f"{axis}={level}" for axis, level in self.held.items()),
            "test_set": "full",
        }


def declared_contrasts(
    axes: Mapping[str, Sequence[str]], compare: Mapping[str, str]
) -> list[Contrast]:
    """List what a grid declares: every other level of an axis against its reference.

    Parameters
    ----------
    axes
        The grid's axes and their levels.
    compare
        The reference level of each axis that is compared.
    """
    return [
        Contrast(axis, level, reference, dict(zip(others, held, strict=True)))
        for axis, reference in compare.items()
        for others in [{name: axes[name] for name in axes if name != axis}]
        for level in axes[axis]
        if level != reference
        for held in product(*others.values())
    ]
