"""How many trials run at once: computed from the cluster and what one trial needs."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cxr_ray.errors import InputError

# No cluster runs more at once; a larger number is a slip, and would be tried.
MOST_PROCESSES = 10_000


@dataclass(frozen=True)
class TrialResources:
    """What one trial asks of the cluster.

    Attributes
    ----------
    elastic
        Whether a trial of several workers goes on with fewer where the cluster holds no more.
    wait_for_room
        Seconds to wait for that, or for any room at all.
    """

    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0
    elastic: bool = True
    wait_for_room: float = 300.0

    def __post_init__(self) -> None:
        for flag, value, least, most in (
            ("--workers-per-trial", self.workers, 1, MOST_PROCESSES),
            ("--cpus-per-worker", self.cpus_per_worker, 1, MOST_PROCESSES),
            ("--gpus-per-worker", self.gpus_per_worker, 0, MOST_PROCESSES),
            ("--wait-for-room", self.wait_for_room, 1, float("inf")),
        ):
            check_number(flag, value, least, most)


def check_number(flag: str, value: float, least: float, most: float) -> None:
    """Refuse a number that is out of range, or none.

    Raises
    ------
    InputError
        Names the flag and the nearest value that is allowed.
    """
    if not value >= least:  # nor is it, of what is no number
        raise InputError(f"{flag} {value:g}: should be at least {least}")
    if value > most:
        raise InputError(f"{flag} {value:g}: should be at most {most:,}")


def local_resources() -> dict[str, float]:
    """Count this machine's CPUs and GPUs as a local Ray would, without importing it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = len([each for each in visible.split(",") if each.strip()])
    else:
        devices = [name.removeprefix("nvidia") for name in os.listdir("/dev")]
        gpus = len([name for name in devices if name.isdigit()])
    return {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(gpus)}


def count_slots(
    need: TrialResources,
    cluster: Mapping[str, float],
    max_concurrent: int | None = None,
    *,
    may_grow: bool = False,
) -> int:
    """Return how many trials fit at once.

    Parameters
    ----------
    may_grow
        Whether the cluster may get more nodes. An autoscaler adds them for trials that wait, so
        that a limit is then taken as it is given, as long as one trial fits now.

    Raises
    ------
    InputError
        If not even one fits; names what it needs and what there is. For a limit under 1.
    """
    if max_concurrent is not None:
        check_number("--max-concurrent", max_concurrent, 1, MOST_PROCESSES)
    slots = max_concurrent or 10**6
    for unit, each in (("CPU", float(need.cpus_per_worker)), ("GPU", need.gpus_per_worker)):
        wanted, there = need.workers * each, cluster.get(unit, 0.0)
        if wanted > there:
            raise InputError(
                f"one trial needs {wanted:g} {unit}s (--workers-per-trial {need.workers} times "
                f"{each:g} a worker), and the cluster has {there:g}"
            )
        if each and not (may_grow and max_concurrent):
            slots = min(slots, int(there / wanted))
    return slots
