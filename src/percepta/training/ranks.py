"""What the processes of one run tell each other.

Unusual: the gather passes gradients on. Every process computes the loss of its own rows against the rows of all; the
gradients that the others have for a row are added up where the row came from. With the mean over processes that
data-parallel training takes of the gradients of the weights, the result is exactly the gradient of the loss that one
process would have with the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor


class _Gather(torch.autograd.Function):
    """(b, ...) of each process to (b * processes, ...) of all; backwards the sum over processes, own rows of it."""

    @staticmethod
    def forward(context: Any, own: Tensor) -> Tensor:
        everyone = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(everyone, own.contiguous())
        return torch.cat(everyone)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous().clone()
        distributed.all_reduce(summed)
        return summed.chunk(distributed.get_world_size())[distributed.get_rank()]


@dataclass(frozen=True, slots=True)
class Ranks:
    """One of `size` processes that train together; alone, nothing is exchanged.

    Attributes:
        rank: its number, from 0; the first one validates, logs and saves.
        size: how many they are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process does what is done once."""
        return self.rank == 0

    def gather(self, own: Tensor) -> Tensor:
        """(b, ...) to (b * size, ...) in the order of the processes, with gradients; equal shapes everywhere."""
        return own if self.size == 1 else _Gather.apply(own)

    def mean(self, own: Tensor) -> Tensor:
        """The mean over processes, without gradients."""
        if self.size == 1:
            return own
        summed = own.clone()
        distributed.all_reduce(summed)
        return summed / self.size

    def all(self, own: Any) -> list[Any]:
        """What every process has, in their order; anything that can be pickled."""
        if self.size == 1:
            return [own]
        everyone: list[Any] = [None] * self.size
        distributed.all_gather_object(everyone, own)
        return everyone

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether a flag is set in at least one process; all learn it at the same time."""
        return flag if self.size == 1 else bool(self.mean(torch.tensor(float(flag), device=device)) > 0)

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.size > 1:
            distributed.barrier()
