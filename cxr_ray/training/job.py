"""What a worker is told to train; kept apart from torch, since a driver only passes it on."""

from dataclasses import dataclass
from typing import Any

# Where result.json says that a trial went on with fewer workers than were asked for.
FEWEST_WORKERS = "fewest_workers"
# And the precision in which the outputs of frozen stages were stored that it read.
CACHE_FROZEN = "cache_frozen"


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know to train one experiment; plain values only.

    ``parts`` are those that predictions are written of: a search's trials leave test alone.
    ``elastic`` and ``wait_for_room`` say what a group of workers does that finds no room.
    """

    storage: str
    experiment_id: str
    attempt: str
    config: dict[str, Any]
    keys: dict[str, str | None]
    parts: tuple[str, ...] = ("val", "test")
    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0
    elastic: bool = True
    wait_for_room: float = 300.0
    git_commit: str | None = None
