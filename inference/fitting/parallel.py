"""Communication between the processes of one fit.

Every process knows the whole minibatch, works on its own part of it, and the gradients are averaged
before the step. Lightning is not imported: ``fit`` takes any object with these few methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Fabric(Protocol):
    """The methods of ``lightning.fabric.Fabric`` used by a fit; it must have been launched."""

    @property
    def world_size(self) -> int:
        """Number of processes."""

    @property
    def global_rank(self) -> int:
        """Which of them this is, from 0."""

    @property
    def device(self) -> torch.device:
        """Device for messages."""

    def all_reduce(self, data: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """The mean of a tensor over the processes, on each of them."""

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """Returns the object of process ``src`` on all processes."""


class Processes:
    """The processes of a fit; one, if there is no ``Fabric``.

    Every process must call the same methods in the same order, or all wait for ever.

    Raises:
        ValueError: an object that is no ``Fabric``, or that was not launched.
    """

    def __init__(self, fabric: Fabric | None) -> None:
        self._fabric = fabric
        self.size, self.rank = 1, 0
        if fabric is None:
            return
        needed = ("world_size", "global_rank", "all_reduce", "broadcast")
        if not all(hasattr(fabric, name) for name in needed):
            raise ValueError(f"fabric: must be a lightning.fabric.Fabric, got {fabric!r}")
        self.size, self.rank = fabric.world_size, fabric.global_rank
        if self.size > 1 and not _connected():
            raise ValueError(
                f"fabric: must be launched (fabric.launch()) before fit is called, got one of "
                f"{self.size} processes that are not connected"
            )

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def part(self, n: int) -> tuple[slice, float]:
        """This process's part of n sequences, and the weight of their sum.

        The mean over the processes of weight · (sum of a part) is the sum of all n. The parts are
        contiguous and differ by one in size; if there are fewer sequences than processes, several
        have the same one and its weight is divided among them.
        """
        if n >= self.size:
            low, high = (n * rank // self.size for rank in (self.rank, self.rank + 1))
            return slice(low, high), float(self.size)
        mine = self.rank % n
        sharing = len(range(mine, self.size, n))
        return slice(mine, mine + 1), self.size / sharing

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes; not finite on all if it is not on one."""
        if self._fabric is None or self.size == 1:
            return value
        own = value.detach().to(self._fabric.device, copy=True)  # all_reduce overwrites it
        averaged: Tensor = self._fabric.all_reduce(own, reduce_op="mean")
        return averaged.to(value.device)

    def total(self, value: float) -> float:
        """The sum over the processes, the same bits on each of them."""
        return sum(self._of_each(value))

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes, in one message."""
        gradients = [one.grad for one in parameters if one.grad is not None]
        if self.size == 1 or not gradients:
            return
        joined = self.mean(torch.cat([one.flatten() for one in gradients]))
        pieces = joined.split([one.numel() for one in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))

    def by_first(self, action: Callable[[], T]) -> T:
        """Calls ``action`` on the first process; returns or raises its result on all of them."""
        if self._fabric is None or self.size == 1:
            return action()
        result: T | Exception | None = None
        if self.first:
            try:
                result = action()
            except (ValueError, OSError) as error:
                result = error
        result = self._fabric.broadcast(result)
        if isinstance(result, Exception):
            raise result
        return cast(T, result)

    def must_agree(self, value: Callable[[], object], name: str) -> None:
        """Raise ``ValueError`` in every process unless all have the same value."""
        if self.size > 1 and len(set(self._of_each(value()))) > 1:
            raise ValueError(
                f"{name}: must be the same in all {self.size} processes, got different ones"
            )

    def of_any(self, found: str | None) -> str | None:
        """The value of the lowest process that has one."""
        return next((one for one in self._of_each(found) if one is not None), None)

    def _of_each(self, value: T) -> list[T]:
        if self._fabric is None or self.size == 1:
            return [value]
        return [self._fabric.broadcast(value, src=rank) for rank in range(self.size)]

    def noise(self) -> tuple[int, int] | None:
        """A seed shared by all processes, from torch's generator, and one of this process.

        For objectives with draws per sequence: the draws of different processes must differ, and
        the generators must agree again after the step. None if there is only one process.
        """
        if self.size == 1:
            return None
        common = int(torch.randint(2**62, ()))
        return common, (common + (self.rank + 1) * 0x9E3779B97F4A7C15) % 2**62


def _connected() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
