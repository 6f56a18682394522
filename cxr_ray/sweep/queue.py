"""What a run of trials draws from: a grid's missing members, or a search that asks as it goes."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cxr_ray.storage import ALL_PARTS
from cxr_ray.sweep.plan import Member

# What an epoch's report holds of the training itself, beside what Tune adds.
HISTORY_FIELDS = (
    "epoch", "lr", "train_loss", "val_loss", "val_auroc", "val_full_auroc",
    "val_average_precision", "val_accuracy", "seconds",
)  # fmt: skip


class TrialQueue(Protocol):
    """Hands out members to train, and is told what became of them.

    ``parts`` are those that a finished trial has predictions of: ``val``, or ``val`` and ``test``.
    """

    parts: tuple[str, ...]

    def next(self) -> Member | None:
        """Return the next member, or None where none is left to hand out."""

    def epoch(self, member: Member, figures: Mapping[str, Any]) -> str | None:
        """Take an epoch's figures, and return why the trial is to end now, or None."""

    def ended(self, member: Member, status: str, reason: str | None = None) -> None:
        """Take how a trial ended: ``finished``, or ``failed`` or ``pruned`` and why."""


class GridQueue:
    """The members of a grid, the longest first; none is ended before its time."""

    parts: tuple[str, ...] = ALL_PARTS

    def __init__(self, members: Sequence[Member]) -> None:
        self._left = deque(sorted(members, key=_cost, reverse=True))

    def next(self) -> Member | None:
        """Return the next member."""
        return self._left.popleft() if self._left else None

    def epoch(self, member: Member, figures: Mapping[str, Any]) -> str | None:
        """Let every trial go on."""
        return None

    def ended(self, member: Member, status: str, reason: str | None = None) -> None:
        """Do nothing: what is next does not depend on it."""


def _cost(member: Member) -> float:
    """Rank trials by what they will take, so that the longest start first."""
    config = member.config
    share = config.data.majority_share
    records = 1.0 if share is None else (1 - share) * 2
    return records * len(config.fusion.modalities)
