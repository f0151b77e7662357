"""The data of a fit: held-out sequences, and the minibatch of each step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...models import Model, SequenceFolder, Sequences
from ...models.data.folders import Data
from .parallel import Processes

SMALLEST_SPLIT = 20
"""Sequences needed before some are held out."""

LARGEST_HELDOUT = 4096
"""Sequences of a folder that are held out at most: they stay in memory."""


class Part(NamedTuple):
    """The part of a minibatch for one process, with its scale: all sequences ÷ sequences here.

    The scale is larger if there are several processes, so that the mean over them is the objective
    of the whole minibatch.
    """

    data: Sequences
    scale: float


class Minibatches:
    """Training data in minibatches that are a function of seed and step.

    Attributes:
        train: what is trained on; values from a folder are checked as they are read.
        heldout: what is held out, or None.
        sample: all training data, or of a folder as many sequences as ``SequenceFolder.sample``
            takes, for starting values and the scale of the data.
    """

    def __init__(
        self,
        model: Model,
        data: Data,
        heldout: Data | None,
        *,
        share: float,
        size: int,
        seed: int,
        processes: Processes,
    ) -> None:
        if heldout is None and share and len(data) >= SMALLEST_SPLIT:
            data, heldout = _held_out(model, data, share, seed)
        self.train = checked(model, data)
        self.heldout = None if heldout is None else checked(model, heldout)
        self.sample = model.names.read(bounded(self.train, seed))
        if isinstance(data, SequenceFolder):
            model.check(self.sample)
        self.n_steps = data.n_steps
        self._size = min(size, len(data))
        self._seed = seed
        self._processes = processes
        self._order: tuple[int, Tensor] | None = None
        self._read: tuple[slice, Sequences] | None = None

    @property
    def full(self) -> bool:
        """Whether every minibatch contains all training data."""
        return self._size == len(self.train)

    def whole(self, step: int) -> Sequences:
        """The minibatch of a step, all of it."""
        return self._pick(step, slice(0, self._size))

    def part(self, step: int) -> Part:
        """This process's part of the minibatch of a step."""
        rows, weight = self._processes.part(self._size)
        return Part(self._pick(step, rows), weight * (len(self.train) / self._size))

    def _pick(self, step: int, rows: slice) -> Sequences:
        if self.full:
            return self._all(rows)
        per_epoch = len(self.train) // self._size
        epoch, place = divmod(step, per_epoch)
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            self._order = epoch, torch.randperm(len(self.train), generator=generator)
        start = place * self._size
        return self.train[self._order[1][start + rows.start : start + rows.stop]]

    def _all(self, rows: slice) -> Sequences:
        """The part of all data for this process, read once."""
        if isinstance(self.train, Sequences) and rows == slice(0, self._size):
            return self.train
        if self._read is None or self._read[0] != rows:
            self._read = rows, self.train[rows]
        return self._read[1]


def checked(model: Model, data: Data) -> Data:
    """The same data, by the model's names; those of a folder are checked when they are read."""
    if isinstance(data, SequenceFolder):
        return data.checked_by(model.check_values)
    return model.names.read(data)


def bounded(data: Data, seed: int) -> Sequences:
    """The same data, or a sample of a folder."""
    return data.sample(seed=seed) if isinstance(data, SequenceFolder) else data


def _held_out(model: Model, data: Data, share: float, seed: int) -> tuple[Data, Data]:
    if isinstance(data, Sequences):
        return data.split([1 - share, share], seed=seed)  # type: ignore[return-value]
    parts: list[float] | list[int] = [1 - share, share]
    if len(data) * share > LARGEST_HELDOUT:
        parts = [len(data) - LARGEST_HELDOUT, LARGEST_HELDOUT]
    train, heldout = data.split(parts, seed=seed)
    return train, checked(model, heldout).sample(LARGEST_HELDOUT, seed=seed)  # type: ignore
