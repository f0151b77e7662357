"""Kinds of observations: a symbol, or a vector of reals, counts or bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import constraints

from ..checks import require
from ..data.sequences import Sequences


class Numbers(constraints.Constraint):
    """Numbers between two bounds, single ones or one a feature, that belong to them or do not."""

    event_dim = 0

    def __init__(
        self, low: Tensor, high: Tensor, *, closed: tuple[bool, bool], whole: bool = False
    ) -> None:
        self.lower_bound, self.upper_bound = low, high
        self.closed, self.is_discrete = closed, whole
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        low, high = self.lower_bound.to(value.device), self.upper_bound.to(value.device)
        above = value >= low if self.closed[0] else value > low
        below = value <= high if self.closed[1] else value < high
        return above & below & (value % 1 == 0) if self.is_discrete else above & below


def bounds_of(support: constraints.Constraint) -> tuple[Tensor, Tensor]:
    """Return the bounds of a set of numbers, infinite where there are none."""
    if isinstance(support, type(constraints.boolean)):
        return torch.tensor(0.0), torch.tensor(1.0)
    ends = (("lower_bound", -torch.inf), ("upper_bound", torch.inf))
    low, high = (torch.as_tensor(getattr(support, name, none)).double() for name, none in ends)
    return low, high


def inside_of(support: constraints.Constraint) -> Tensor:
    """Return some number of a set: zero, its middle, one off its only bound, or its least."""
    low, high = bounds_of(support)
    if support.is_discrete:
        return torch.where(low.isfinite(), low, 0)
    inside = torch.where(low.isfinite(), low + 1, torch.where(high.isfinite(), high - 1, 0))
    return torch.where(low.isfinite() & high.isfinite(), (low + high) / 2, inside)


def requirement(support: constraints.Constraint) -> str:
    """Return a set of numbers in words: "numbers > 0", "whole numbers from 0 to 10"."""
    if support is constraints.boolean:
        return "values 0 or 1"
    low, high = bounds_of(support)
    below, above = (_printed(bound) for bound in (low, high))
    kind = "whole numbers" if support.is_discrete else "numbers"
    if below is None and above is None:
        return kind if support.is_discrete else "finite numbers"
    holds_low, holds_high = (bool(support.check(bound).all()) for bound in (low, high))
    if above is None:
        return f"{kind} {'>=' if holds_low else '>'} {below}"
    if below is None:
        return f"{kind} {'<=' if holds_high else '<'} {above}"
    if support.is_discrete:
        return f"{kind} from {below} to {above}"
    return f"{kind} in {'[' if holds_low else '('}{below}, {above}{']' if holds_high else ')'}"


def _printed(bound: Tensor) -> str | None:
    """Return a bound, or one a feature, in print; None for infinity."""
    if bool(bound.isinf().all()):
        return None
    printed = [f"{number:g}" for number in bound.flatten().tolist()]
    return printed[0] if len(set(printed)) == 1 else f"[{', '.join(printed)}]"


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
    """Vectors of numbers from ``support``, such as ``real``, ``positive`` or ``boolean``.

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
        bad = data.values[data.mask & ~self.support.check(data.values)].tolist()
        require(not bad, "data", f"{family} needs {requirement(self.support)}", bad[:1])
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
        blank = torch.zeros(sequences, steps, self.features, dtype=torch.float64)
        return blank + inside_of(self.support)

    def encode(self, y: Tensor) -> Tensor:
        return y
