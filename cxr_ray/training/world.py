"""The workers that train one model together: one process, or a torch.distributed group."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class World:
    """One process's rank among ``size`` workers, and the device it computes on."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Whether this worker writes and reports."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Add a tensor over all workers."""
        if self.size > 1:
            there = value.to(self.device)  # NCCL exchanges nothing that lies elsewhere
            distributed.all_reduce(there)
            value = there.to(value.device)
        return value

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every worker the first one's tensors, such as batch-norm's running statistics."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def give(self, value: Any) -> Any:
        """Give every worker the first one's value."""
        if self.size == 1:
            return value
        values = [value if self.is_first else None]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Collect one value from every worker, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def agree(self, condition: bool) -> bool:
        """Return True on every worker where it is True on any."""
        if self.size == 1:
            return condition  # without waiting for the device
        return bool(self.sum(torch.tensor(int(condition), device=self.device)))
