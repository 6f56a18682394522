"""How many trials run at once: computed from the cluster and what one trial needs."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cxr_ray.errors import InputError


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
        for flag, value, least in (
            ("--workers-per-trial", self.workers, 1),
            ("--cpus-per-worker", self.cpus_per_worker, 1),
            ("--gpus-per-worker", self.gpus_per_worker, 0),
            ("--wait-for-room", self.wait_for_room, 1),
        ):
            if not value >= least:  # nor is it, of what is no number
                raise InputError(f"{flag} {value:g}: should be at least {least}")


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
    if max_concurrent is not None and max_concurrent < 1:
        raise InputError(f"--max-concurrent {max_concurrent}: should be at least 1")
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
