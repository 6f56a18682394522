"""What a run of trials draws from: a grid's missing members, or a search that asks as it goes."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cxr_ray.storage import ALL_PARTS
from cxr_ray.sweep.plan import Member

# Multiplications of a pass at 224 px; tokens of a usual report; how common the rarer class is.
IMAGE_COST = {"resnet_small": 55e6, "resnet18": 1.8e9, "resnet34": 3.7e9, "resnet50": 4.1e9}
TYPICAL_TOKENS, RARER_CLASS = 100, 0.1


class TrialQueue(Protocol):
    """Hands out members to train, and is told what became of them."""

    @property
    def waits(self) -> bool:
        """Whether what runs now decides what else is handed out."""

    def parts(self, member: Member) -> tuple[str, ...]:
        """Return what a member is to have predictions of: ``val``, or ``val`` and ``test``."""

    def is_test(self, member: Member) -> bool:
        """Tell whether a member was handed out for its test part only, its training over."""

    def next(self) -> Member | None:
        """Return the next member, or None where none is left to hand out."""

    def epoch(self, member: Member, figures: Mapping[str, Any]) -> str | None:
        """Take an epoch's figures, and return why the trial is to end now, or None."""

    def ended(self, member: Member, status: str, reason: str | None = None) -> None:
        """Take how a trial ended: ``finished``, or ``failed`` or ``pruned`` and why."""


class GridQueue:
    """The members of a grid, the longest first; none is ended before its time."""

    waits = False

    def __init__(self, members: Sequence[Member]) -> None:
        self._left = deque(sorted(members, key=_cost, reverse=True))

    def parts(self, member: Member) -> tuple[str, ...]:
        """Return all parts."""
        return ALL_PARTS

    def is_test(self, member: Member) -> bool:
        """Tell that none is."""
        return False

    def next(self) -> Member | None:
        """Return the next member."""
        return self._left.popleft() if self._left else None

    def epoch(self, member: Member, figures: Mapping[str, Any]) -> str | None:
        """Let every trial go on."""
        return None

    def ended(self, member: Member, status: str, reason: str | None = None) -> None:
        """Do nothing: what is next does not depend on it."""


def _cost(member: Member) -> float:
    """Estimate what a trial will take, so that the longest start first and none is left alone."""
    config = member.config
    image, text = config.image, config.text
    each = {"image": IMAGE_COST[image.encoder] * (image.size / 224) ** 2}
    layers, width = (text.layers, text.width) if text.encoder == "scratch" else (12, 768)
    each["text"] = 12 * layers * width**2 * TYPICAL_TOKENS
    share = config.data.majority_share
    records = 1.0 if share is None else RARER_CLASS / (1 - share)
    if config.train.patience < config.train.max_epochs:
        records **= 0.5  # of fewer records it takes more epochs until training stops early
    return records * sum(each[modality] for modality in config.fusion.modalities)
