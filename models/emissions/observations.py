"""Kinds of observations: a symbol, or a vector of reals, counts or bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import constraints

from ..checks import require
from ..data.sequences import Sequences

_REQUIREMENTS: dict[constraints.Constraint, str] = {
    constraints.real: "finite numbers",
    constraints.nonnegative_integer: "whole numbers >= 0",
    constraints.boolean: "values 0 or 1",
}


class Observations(Protocol):
    """The kind of data that an emission law describes."""

    @property
    def codes(self) -> bool:
        """True for integer codes (N, T), False for numbers (N, T, F)."""

    @property
    def features(self) -> int:
        """Numbers per step, F; 1 for codes."""

    @property
    def channels(self) -> int:
        """Number of channels that ``encode`` returns."""

    def check(self, data: Sequences, family: str) -> None:
        """Raise ``ValueError``, naming ``family``, unless the data are of this kind."""

    def read(self, data: Sequences) -> tuple[Tensor, Tensor]:
        """Return values and mask of observed ones: (N, T) for codes, (N, T, F) for numbers."""

    def blank(self, sequences: int, steps: int) -> Tensor:
        """Return placeholder values in the shape and dtype of ``read``."""

    def encode(self, y: Tensor) -> Tensor:
        """Return the values as floats (N, T, channels); codes are one-hot."""


@dataclass(frozen=True)
class Symbols:
    """One of ``size`` symbols a step, coded 0 to size − 1.

    Args:
        size: number of symbols.

    >>> import torch
    >>> Symbols(3).encode(torch.tensor([[2, 0]]))
    tensor([[[0., 0., 1.],
             [1., 0., 0.]]])
    """

    size: int
    codes = True
    features = 1

    @property
    def channels(self) -> int:
        return self.size

    def check(self, data: Sequences, family: str) -> None:
        top = int(data.codes().max())
        require(top < self.size, "data", f"{family} needs codes 0 to {self.size - 1}", f"{top}")

    def read(self, data: Sequences) -> tuple[Tensor, Tensor]:
        return data.codes(), data.observed_steps

    def blank(self, sequences: int, steps: int) -> Tensor:
        return torch.zeros(sequences, steps, dtype=torch.int64)

    def encode(self, y: Tensor) -> Tensor:
        return torch.zeros(*y.shape, self.size, device=y.device).scatter_(-1, y.unsqueeze(-1), 1)


@dataclass(frozen=True)
class Vectors:
    """Vectors of numbers from ``support``: ``real``, ``nonnegative_integer`` or ``boolean``.

    Args:
        features: numbers per step F.
        support: the numbers that there are.
        whole: whether the features of a step are observed together or not at all.

    >>> from beliefzoo.models import Sequences
    >>> Vectors(1, constraints.boolean).check(Sequences.from_arrays([[0, 2]]), "Bits")
    Traceback (most recent call last):
    ValueError: data: Bits needs values 0 or 1, got [2.0]
    """

    features: int
    support: constraints.Constraint = constraints.real
    whole: bool = False
    codes = False

    @property
    def channels(self) -> int:
        return self.features

    def check(self, data: Sequences, family: str) -> None:
        require(
            not data.is_codes,
            "data",
            f"{family} needs numbers (sequence, time, feature)",
            "integer codes; build the Sequences with codes=False",
        )
        require(
            data.n_features == self.features,
            "data",
            f"{family} needs {self.features} feature(s)",
            data.n_features,
        )
        seen = data.values[data.mask]
        bad = seen[~self.support.check(seen)].tolist()
        require(not bad, "data", f"{family} needs {_REQUIREMENTS[self.support]}", bad[:1])
        partly = int((data.mask.any(-1) & ~data.mask.all(-1)).sum())
        require(
            not (self.whole and partly),
            "data",
            f"{family} needs steps that are observed whole or not at all",
            f"{partly} step(s) with some features missing",
        )

    def read(self, data: Sequences) -> tuple[Tensor, Tensor]:
        return data.values, data.mask

    def blank(self, sequences: int, steps: int) -> Tensor:
        return torch.zeros(sequences, steps, self.features)

    def encode(self, y: Tensor) -> Tensor:
        return y
