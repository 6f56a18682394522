"""Running one function over many chunks: in this process, or as Ray tasks."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cxr_ray.errors import InputError

FanOut = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[Any]]


def run_here(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Call ``function`` with each tuple in turn."""
    for each in arguments:
        yield function(*each)


def run_as_ray_tasks(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
) -> Iterator[Any]:
    """Run ``function`` over a started Ray's CPUs, yielding results as they come.

    At most two calls a CPU are under way, so that memory stays flat however many there are.
    """
    import ray

    remote = ray.remote(num_cpus=1, max_retries=2)(function)
    limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
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
