"""How many workers the nodes of a cluster hold."""

from collections.abc import Iterable, Mapping

# A share of .1 fits ten times, which floating point alone would deny.
ROUNDING = 1e-9


def worker_resources(cpus: float, gpus: float) -> dict[str, float]:
    """Return what one worker takes, in Ray's names."""
    return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}


def count_workers(each: Mapping[str, float], nodes: Iterable[Mapping[str, float]]) -> int:
    """Count the workers that fit, each on one node.

    Parameters
    ----------
    each
        What a worker takes of each resource.
    nodes
        What each node has, whether in use or not.
    """
    return sum(
        min(int(node.get(unit, 0.0) / amount + ROUNDING) for unit, amount in each.items())
        for node in nodes
    )
