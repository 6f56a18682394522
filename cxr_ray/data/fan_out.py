"""Running one function over many chunks: in this process, or as Ray tasks."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cxr_ray.errors import InputError
from cxr_ray.storage import Storage

FanOut = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[Any]]
"""Takes each chunk's arguments when its turn comes, so that they are never all in memory."""


def run_here(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Call ``function`` with each tuple in turn."""
    for each in arguments:
        yield function(*each)


def run_as_ray_tasks(
    function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]
) -> Iterator[Any]:
    """Run ``function`` over a started Ray's CPUs, yielding results as they come.

    At most two calls a CPU are under way, so that memory stays flat however many there are.
    """
    import ray

    remote = ray.remote(num_cpus=1, max_retries=2)(function)
    limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    yield from _run_at_most(limit, remote, arguments)


def ray_tasks(storage: Storage) -> FanOut:
    """Choose how chunks are written into a storage: on every node, or where its mirror is."""
    return run_as_ray_tasks if storage.home.is_shared else run_on_this_node


def run_on_this_node(
    function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]
) -> Iterator[Any]:
    """Run ``function`` over the CPUs of the machine that asks, which alone sees its files.

    A head node may offer Ray no CPU and still has some, hence not counted by Ray.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(function)
    remote = remote.options(num_cpus=0, max_retries=2, scheduling_strategy=here)
    yield from _run_at_most(len(os.sched_getaffinity(0)), remote, arguments)


def _run_at_most(limit: int, remote: Any, arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    import ray

    waiting = iter(arguments)
    running: list[Any] = []
    while True:
        while len(running) < limit and (each := next(waiting, None)) is not None:
            running.append(remote.remote(*each))
        if not running:
            return
        done, running = ray.wait(running, num_returns=1)
        try:
            yield from ray.get(done)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from None  # its sentence, without the worker's traceback
            raise
