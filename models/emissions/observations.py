"""Kinds of observations: a symbol, or a vector of reals, counts or bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
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


def are_whole(kind: Observations) -> bool:
    """Return whether observations of a kind are codes or whole numbers alone."""
    return kind.codes or bool(getattr(getattr(kind, "support", None), "is_discrete", False))


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
        codes = data.codes()
        for n, t in (codes >= self.size).nonzero()[:1].tolist():
            came = f"{int(codes[n, t])} in sequence {data.labels[n]!r}, step {t}"
            require(False, "data", f"{family} needs codes 0 to {self.size - 1}", came)

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
    ValueError: data: Bits needs values 0 or 1, got [2.0] in sequence '0', step 1
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
        bad = data.mask & ~self.support.check(data.values)
        for n, t, f in bad.nonzero()[:1].tolist():
            feature = f", feature {data.features[f]!r}" if self.features > 1 else ""
            came = (
                f"[{float(data.values[n, t, f])}] in sequence {data.labels[n]!r}, step {t}{feature}"
            )
            require(False, "data", f"{family} needs {requirement(self.support)}", came)
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


@dataclass(frozen=True)
class Mixed:
    """Columns of several kinds side by side, read by their names.

    Args:
        kinds: the kinds, in the order of their columns.
        columns: names of all columns, as many as the kinds have features.

    >>> import torch
    >>> kind = Mixed((Vectors(1), Symbols(3)), ("duration", "choice"))
    >>> kind.encode(torch.tensor([[[0.5, 2.0]]]))
    tensor([[[0.5000, 0.0000, 0.0000, 1.0000]]])
    """

    kinds: tuple[Observations, ...]
    columns: tuple[str, ...]
    codes = False

    @property
    def features(self) -> int:
        return len(self.columns)

    @property
    def channels(self) -> int:
        return sum(kind.channels for kind in self.kinds)

    @property
    def places(self) -> tuple[slice, ...]:
        """Where the columns of each kind lie."""
        return _side_by_side([kind.features for kind in self.kinds])

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels that ``encode`` returns: of the column, or of its symbol."""
        names: list[str] = []
        for kind, place in zip(self.kinds, self.places, strict=True):
            own = self.columns[place]
            names += [f"{own[0]}={code}" for code in range(kind.channels)] if kind.codes else own
        return tuple(names)

    @property
    def support(self) -> Numbers:
        """The bounds of every column, of which not all numbers between them need be possible."""
        ends = [bounds_of(_support(kind)) for kind in self.kinds]
        low, high = (
            torch.cat([end[side].expand(kind.features) for end, kind in both])
            for side, both in enumerate([list(zip(ends, self.kinds, strict=True))] * 2)
        )
        return Numbers(low, high, closed=(True, True))

    def check(self, data: Sequences, family: str) -> None:
        self.check_columns(data, family)
        for kind, place in zip(self.kinds, self.places, strict=True):
            own = self.columns[place]
            with naming(own):
                kind.check(data.select(*data.features[place]), family)

    def check_columns(self, data: Sequences, family: str) -> None:
        """Raise ``ValueError`` unless the data have these columns, in this order."""
        asked = f"{family} needs columns {self.columns}, in this order"
        remedy = "columns=[…] of from_frame, and select(…), choose them"
        require(not data.is_codes, "data", asked, "integer codes; build them with codes=False")
        numbered = data.features == tuple(map(str, range(data.n_features)))
        fits = data.n_features == self.features if numbered else data.features == self.columns
        require(fits, "data.features", f"{asked} ({remedy})", data.features)

    def read(self, data: Sequences) -> tuple[Tensor, Tensor]:
        return data.values, data.mask

    def of_kind(self, number: int, y: Tensor) -> Tensor:
        """Return the columns (…, F) of one kind in the form that this kind reads."""
        part = y[..., self.places[number]]
        if not self.kinds[number].codes:
            return part
        return part[..., 0] if part.dtype == torch.bool else part[..., 0].long()

    def blank(self, sequences: int, steps: int) -> Tensor:
        parts = [kind.blank(sequences, steps).double() for kind in self.kinds]
        return torch.cat([x if x.ndim == 3 else x.unsqueeze(-1) for x in parts], -1)

    def encode(self, y: Tensor) -> Tensor:
        parts = [kind.encode(self.of_kind(n, y)).to(y) for n, kind in enumerate(self.kinds)]
        return torch.cat(parts, -1)

    def mean_of(self, channels: Tensor) -> Tensor:
        """Return means of the channels (…, C) by columns (…, F); NaN for symbols."""
        parts = list(channels.split([kind.channels for kind in self.kinds], -1))
        for number, kind in enumerate(self.kinds):
            if kind.codes:
                parts[number] = torch.full_like(parts[number][..., :1], torch.nan)
        return torch.cat(parts, -1)

    def symbols_of(self, channels: Tensor) -> dict[str, Tensor]:
        """Return the chances (…, symbols) of every column of symbols, by its name."""
        parts = channels.split([kind.channels for kind in self.kinds], -1)
        found = zip(self.kinds, self.places, parts, strict=True)
        return {self.columns[place.start]: part for kind, place, part in found if kind.codes}

    def of_channels(self, numbers: Tensor, symbols: float | bool | None = None) -> Tensor:
        """Return numbers of the columns (…, F) for every channel (…, C) that is made of them.

        Those of the one-hot channels of symbols are ``symbols`` instead, if it is given.
        """
        parts = []
        for kind, place in zip(self.kinds, self.places, strict=True):
            own = numbers[..., place].expand(*numbers.shape[:-1], kind.channels)
            parts.append(
                torch.full_like(own, symbols) if kind.codes and symbols is not None else own
            )
        return torch.cat(parts, -1)


@contextmanager
def naming(columns: tuple[str, ...]) -> Iterator[None]:
    """Let refusals of data say which columns they are about."""
    try:
        yield
    except ValueError as error:
        what = f"column {columns[0]!r}" if len(columns) == 1 else f"columns {columns}"
        told = str(error).removeprefix("data: ")
        raise ValueError(f"data: {what}: {told}") from error


def of_channels(kind: Observations, numbers: Tensor, symbols: float | bool | None = None) -> Tensor:
    """Return numbers of the features (…, F) for every channel of a kind, see ``Mixed``."""
    return kind.of_channels(numbers, symbols) if isinstance(kind, Mixed) else numbers


def mean_of(kind: Observations, channels: Tensor) -> Tensor:
    """Return means of the channels of a kind by its features, see ``Mixed``."""
    return kind.mean_of(channels) if isinstance(kind, Mixed) else channels


def symbols_of(kind: Observations, channels: Tensor) -> dict[str, Tensor]:
    """Return the chances of the symbols beside other columns, see ``Mixed``."""
    return kind.symbols_of(channels) if isinstance(kind, Mixed) else {}


def _side_by_side(sizes: list[int]) -> tuple[slice, ...]:
    ends = list(accumulate(sizes, initial=0))
    return tuple(slice(*pair) for pair in pairwise(ends))


def _support(kind: Observations) -> constraints.Constraint:
    """The numbers that there are of a kind; any, where it does not say."""
    if kind.codes:
        return constraints.integer_interval(0, kind.channels - 1)
    return getattr(kind, "support", constraints.real)
