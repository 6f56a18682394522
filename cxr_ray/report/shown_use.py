"""What the shuffle tests show of each multimodal model, and what they do not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cxr_ray.evaluation.contribution import USED_DROP, USED_P_VALUE

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Shuffled:
    """A modality and the row of ``sensitivity.csv`` on AUROC with it shuffled across patients."""

    modality: str
    row: Row

    @property
    def shows_use(self) -> bool:
        """Whether p and the drop are such that the model is said to use the modality."""
        p_value, drop = self.row["p_value"], self.row["drop"]
        return bool(p_value <= USED_P_VALUE and abs(drop) >= USED_DROP)


@dataclass(frozen=True)
class ShownUse:
    """One model's sentence: the modalities it is shown to use, the others, and what to mind."""

    name: str
    shown: tuple[Shuffled, ...]
    silent: tuple[Shuffled, ...]
    caveat: str


def describe_use(sensitivity: Sequence[Row]) -> list[ShownUse]:
    """Say which modality each model is shown to use.

    Parameters
    ----------
    sensitivity
        Rows of ``sensitivity.csv``, each with its model's ``name``.

    Returns
    -------
    One entry a model, in the rows' order.
    """
    tests: dict[str, list[Shuffled]] = {}
    for row in sensitivity:
        modality, _, how = str(row["perturbation"]).partition("_")
        if how == "shuffled" and row["metric"] == "auroc":
            tests.setdefault(str(row["name"]), []).append(Shuffled(modality, row))
    found = []
    for name, each in tests.items():
        shown = tuple(test for test in each if test.shows_use)
        silent = tuple(test for test in each if not test.shows_use)
        found.append(ShownUse(name, shown, silent, _caveat(shown, silent)))
    return found


def _caveat(shown: Sequence[Shuffled], silent: Sequence[Shuffled]) -> str:
    repeats = int((*shown, *silent)[0].row["repeats"])
    if 1 / (repeats + 1) > USED_P_VALUE:
        return f": {repeats} permutations are too few for a verdict"
    if not silent:
        return ", which does not tell what either would be worth alone"
    if shown:
        return f", which does not mean that the {silent[0].modality} tells nothing about the label"
    return ", which does not mean that neither tells anything about the label"
