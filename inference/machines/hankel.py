r"""The Hankel matrix of a law: what the past says about all futures, and along how many directions.

.. math::
    F(u, v) = p(v \mid u), \qquad F_x(u, v) = p(x v \mid u)

over words u (the past) and v (the future). Rows are weighted with the law's own frequencies w(u),
so that the squares of the singular values of :math:`\sqrt{w} F` are the second moments of what the
law predicts. Its rank is the number of states of the smallest machine with linear belief. From
:math:`\sqrt{w} F = U S V'` comes that machine, :math:`A_x = S^{-1} U' \sqrt{w} F_x V`.

Of strings the words u have not ended and nothing follows the end in v; the operator of the end
comes out as s b_0, s the probability that the string ends, as a new string begins after it.

The matrix is never held: blocks of rows pass by and leave a triangular factor and the moments
F'F_x. So its singular values are exact to rounding, and memory does not grow with the rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...models.checks import require
from ...models.randomness import generator_from
from ..filters.spectral import ObservableOperators
from ..fitting.progress import progress_of
from .laws import SequenceLaw, State, asked, ends_of, read_checked, taken

ROUNDING = 1e-9
"""Singular values below this share of the largest are rounding."""

_BLOCK = 2**22
"""Numbers of a block: 32 MB in float64."""

_EVERY_SYMBOL = 8
"""With so many symbols or fewer all of them continue each prefix; of more, one that is drawn."""


@dataclass(frozen=True)
class Words:
    """Words that share their beginnings: a tree, level by level; the empty word comes first.

    Attributes:
        levels: of each length 1 … L, for each word, the place of the word without its last symbol
            among the words one shorter, and that symbol.
    """

    levels: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def every(cls, symbols: int, longest: int, *, ends: bool = False) -> Words:
        """All words of up to ``longest`` symbols; with ``ends`` nothing follows the last symbol."""
        levels, open_ = [], torch.zeros(1, dtype=torch.int64)
        for _ in range(longest):
            codes = torch.arange(symbols).repeat(len(open_))
            levels.append((open_.repeat_interleave(symbols), codes))
            open_ = (codes < symbols - ends).nonzero().squeeze(1)
        return cls(tuple(levels))

    @classmethod
    def of(cls, words: set[tuple[int, ...]]) -> Words:
        """These words and all their beginnings."""
        whole = {word[:end] for word in words for end in range(len(word) + 1)}
        before: dict[tuple[int, ...], int] = {(): 0}
        levels = []
        for length in range(1, max(map(len, whole)) + 1):
            level = sorted(word for word in whole if len(word) == length)
            parents = torch.tensor([before[word[:-1]] for word in level])
            levels.append((parents, torch.tensor([word[-1] for word in level])))
            before = {word: place for place, word in enumerate(level)}
        return cls(tuple(levels))

    @property
    def count(self) -> int:
        """Number of words."""
        return 1 + sum(len(parents) for parents, _ in self.levels)

    @property
    def widest(self) -> int:
        """Largest number of words of one length."""
        return max(1, *(len(parents) for parents, _ in self.levels))

    def up_to(self, length: int) -> int:
        """Number of words of at most this length."""
        return 1 + sum(len(parents) for parents, _ in self.levels[:length])


def word_probabilities(law: SequenceLaw, state: State, words: Words) -> Tensor:
    """p(v | what the state has read) of all words, (n, words)."""
    n = len(state[0])
    p = torch.ones(n, 1, dtype=torch.float64)
    columns = [p]
    for level, (parents, symbols) in enumerate(words.levels):
        told = asked(law, state).exp().reshape(n, -1, law.symbols)
        p = p[:, parents] * told[:, parents, symbols]
        columns.append(p)
        if level + 1 < len(words.levels):
            width = told.shape[1]
            index = (torch.arange(n).unsqueeze(1) * width + parents).flatten()
            state = read_checked(law, taken(state, index), symbols.repeat(n))
    return torch.cat(columns, 1)


class Rows(NamedTuple):
    """A block of pasts: their states, weights, and which symbols continue each."""

    state: State
    weight: Tensor
    next_law: Tensor
    owner: Tensor
    symbols: Tensor


@dataclass(frozen=True)
class Plan:
    """Which words make the Hankel matrix, and what that costs.

    Attributes:
        prefixes: number of pasts.
        length: longest past.
        suffixes: the futures.
        enumerated: all pasts of up to ``length`` symbols, or drawn ones.
        symbols: of the law.
        ends: whether the last of these ends a string.
    """

    prefixes: int
    length: int
    suffixes: Words
    enumerated: bool
    symbols: int
    ends: bool

    @property
    def bytes(self) -> int:
        """Largest memory of the moments and a block."""
        size = self.suffixes.count
        moments = (1 if self.symbols <= _EVERY_SYMBOL else 2) * self.symbols + 4
        return 8 * (moments * size * size + 4 * _BLOCK)

    @property
    def readings(self) -> int:
        """Number of times that the law is asked for a next symbol."""
        onward = self.symbols if self.symbols <= _EVERY_SYMBOL else 1
        return self.prefixes * (1 + onward) * self.suffixes.count

    def __str__(self) -> str:
        how = "all" if self.enumerated else "drawn"
        return (
            f"{self.prefixes} pasts ({how}, up to {self.length} symbols) × "
            f"{self.suffixes.count} futures (up to {len(self.suffixes.levels)})"
        )


def plan_of(
    law: SequenceLaw,
    *,
    prefixes: int,
    suffixes: int,
    length: int,
    gigabytes: float,
    seed: int,
) -> Plan:
    """All words, as long as the numbers allow; drawn ones if these would be too short.

    Raises:
        ValueError: more memory than is allowed.
    """
    v, ends = law.symbols, ends_of(law)
    past = min(_longest(v - ends, prefixes, ends=False), max(length, 4))
    future = min(_longest(v, suffixes, ends=ends), max(length, 2))
    enumerated = past >= 4
    words = (
        Words.every(v, future, ends=ends)
        if future >= 2
        else _drawn_words(law, suffixes, length, seed)
    )
    made = Plan(
        sum((v - ends) ** k for k in range(past + 1)) if enumerated else prefixes,
        past if enumerated else length,
        words,
        enumerated,
        v,
        ends,
    )
    require(
        made.bytes <= gigabytes * 2**30,
        "suffixes",
        f"needs fewer words or symbols: the moments of {words.count} futures and {v} symbols must "
        f"fit into gigabytes={gigabytes:g}",
        f"{made.bytes / 2**30:.1f} GB",
    )
    return made


def _longest(symbols: int, most: int, *, ends: bool) -> int:
    """Longest length L with at most ``most`` words of up to L symbols."""
    length, words, level = 0, 1, symbols
    while words + level <= most:
        length += 1
        words += level
        level *= symbols - ends
    return length


def _drawn_words(law: SequenceLaw, most: int, length: int, seed: int) -> Words:
    """All single symbols, and what the law says after pasts of its own; at most so many words."""
    generator = generator_from(seed)
    longest = 3
    found: set[tuple[int, ...]] = {(code,) for code in range(law.symbols)}
    require(
        law.symbols < most,
        "suffixes",
        f"needs more than {law.symbols} words, one for each symbol",
        most,
    )
    for _ in range(50):
        state = law.start(256)
        start = torch.randint(length, (256,), generator=generator)
        codes = []
        for _ in range(length + longest):
            drawn = torch.multinomial(asked(law, state).exp(), 1, generator=generator).squeeze(1)
            codes.append(drawn)
            state = read_checked(law, state, drawn)
        whole = torch.stack(codes, 1)
        for row, first in zip(whole.tolist(), start.tolist(), strict=True):
            for size in range(2, longest + 1):
                if len(found) + 1 >= most:
                    return Words.of(found)
                found.add(_up_to_the_end(row[first : first + size], law))
    return Words.of(found)


def _up_to_the_end(word: list[int], law: SequenceLaw) -> tuple[int, ...]:
    end = law.symbols - 1
    if ends_of(law) and end in word:
        word = word[: word.index(end) + 1]
    return tuple(word)


def _blocks(law: SequenceLaw, plan: Plan, rows: int, seed: int) -> Iterator[Rows]:
    generator = generator_from(seed + 1)
    each = _enumerated(law, plan) if plan.enumerated else _sampled(law, plan, generator)
    for state, weight in each:
        for first in range(0, len(weight), rows):
            some = torch.arange(first, min(first + rows, len(weight)))
            part = taken(state, some)
            p = asked(law, part).exp()
            if law.symbols <= _EVERY_SYMBOL:
                owner = torch.arange(len(some)).repeat_interleave(law.symbols)
                symbols = torch.arange(law.symbols).repeat(len(some))
            else:
                owner = torch.arange(len(some))
                symbols = torch.multinomial(p, 1, generator=generator).squeeze(1)
            yield Rows(part, weight[some], p, owner, symbols)


def _enumerated(law: SequenceLaw, plan: Plan) -> Iterator[tuple[State, Tensor]]:
    """All possible words, length by length; each length has the same weight."""
    state, p = law.start(1), torch.ones(1, dtype=torch.float64)
    for length in range(plan.length + 1):
        yield state, p / (plan.length + 1)
        if length < plan.length:
            told = asked(law, state).exp()
            if plan.ends:
                told[:, -1] = 0  # what follows the end is known: a start
            p = (p.unsqueeze(1) * told).flatten()
            possible = p.nonzero().squeeze(1)
            owner, codes = possible // law.symbols, possible % law.symbols
            state, p = read_checked(law, taken(state, owner), codes), p[possible]


def _sampled(
    law: SequenceLaw, plan: Plan, generator: torch.Generator
) -> Iterator[tuple[State, Tensor]]:
    """Words drawn from the law, of a length that is drawn from 0 … ``length`` − 1."""
    left = plan.prefixes
    while left:
        n = min(left, 4096)
        left -= n
        stop = torch.randint(plan.length, (n,), generator=generator).sort().values
        state, at = law.start(n), 0
        for length in range(plan.length):
            ready = int((stop == length).sum())
            if ready:
                weight = torch.full((ready,), 1 / plan.prefixes, dtype=torch.float64)
                yield tuple(part[:ready] for part in state), weight
                state = tuple(part[ready:] for part in state)
                at += ready
            if at == n:
                break
            drawn = torch.multinomial(asked(law, state).exp(), 1, generator=generator)
            state = read_checked(law, state, drawn.squeeze(1))


@dataclass(frozen=True)
class Spectrum:
    """Singular values of the Hankel matrix of a law, and the moments that machines are made of.

    Attributes:
        singular_values: of √w F, largest first.
        plan: which words.
        by_length: singular values with futures of at most 1, 2, … symbols.
    """

    singular_values: Tensor
    plan: Plan
    by_length: tuple[Tensor, ...]
    _basis: Tensor
    _start: Tensor
    _cross: Tensor
    _own: Tensor

    @property
    def rounding(self) -> float:
        """The floor that is there in any case: what float64 leaves of zero."""
        return ROUNDING * float(self.singular_values[0])

    def rank(self, floor: float) -> int:
        """Number of singular values above a floor, one at least."""
        return max(1, int((self.singular_values > max(floor, self.rounding)).sum()))

    def ranks(self, floor: float) -> tuple[int, ...]:
        """The same with futures of at most 1, 2, … symbols."""
        return tuple(int((s > max(floor, self.rounding)).sum()) for s in self.by_length)

    def operators(self, rank: int) -> ObservableOperators:
        """The machine of the leading directions of what the past says about the future."""
        basis = self._basis[:, :rank]
        own, cross = self._own[..., :rank, :rank], self._cross[:, :rank, :rank]
        moved = torch.linalg.lstsq(own, cross, driver="gelsd").solution
        return ObservableOperators(basis, self._start @ basis, basis[0].clone(), moved.mT)


def spectrum_of(law: SequenceLaw, plan: Plan, *, seed: int, progress: bool) -> Spectrum:
    """Lets the blocks pass by; keeps the triangular factor and the moments."""
    size, v = plan.suffixes.count, law.symbols
    every = v <= _EVERY_SYMBOL
    factor = torch.zeros(0, size, dtype=torch.float64)
    cross = torch.zeros(v, size, size, dtype=torch.float64)
    own = torch.zeros(1 if every else v, size, size, dtype=torch.float64)
    rows, done, weight = _rows_of(law, plan), 0, 0.0
    said = f"Hankel matrix, {plan}, {_memory(plan)}, {_seconds(law, plan)}"
    with progress_of(plan.prefixes, "past", shown=progress, desc=said) as bar:
        for block in _blocks(law, plan, rows, seed):
            now = word_probabilities(law, block.state, plan.suffixes)
            weighted = now * block.weight.unsqueeze(1)
            factor = _triangle(torch.cat([factor, now * block.weight.sqrt().unsqueeze(1)]))
            onward = read_checked(law, taken(block.state, block.owner), block.symbols)
            after = word_probabilities(law, onward, plan.suffixes)
            after *= block.next_law[block.owner, block.symbols].unsqueeze(1)
            for code in range(v):
                own_rows = block.symbols == code
                left = weighted[block.owner[own_rows]]
                cross[code] += left.mT @ after[own_rows]
                if not every:
                    own[code] += left.mT @ now[block.owner[own_rows]]
            bar.update(len(now))
            done += len(now)
            weight += float(block.weight.sum())
        bar.update(plan.prefixes - done)  # the words that are impossible
    factor, own, cross = factor / math.sqrt(weight), own / weight, cross / weight
    _, values, basis = torch.linalg.svd(factor, full_matrices=False)
    first = word_probabilities(law, law.start(1), plan.suffixes)[0]
    v_ = basis.mT
    by_length = tuple(
        torch.linalg.svdvals(factor[:, : plan.suffixes.up_to(length)])
        for length in range(1, len(plan.suffixes.levels) + 1)
    )
    inner = torch.diag(values**2).unsqueeze(0) if every else v_.mT @ own @ v_
    return Spectrum(values, plan, by_length, v_, first, v_.mT @ cross @ v_, inner)


def difference_of(law: SequenceLaw, other: SequenceLaw, plan: Plan, *, seed: int) -> float:
    """Spectral norm of √w (F − G), F and w of one law, G of the other, on the same words."""
    require(
        other.symbols == law.symbols, "other", f"must have {law.symbols} symbols", other.symbols
    )
    both = _Pair(law, other)
    factor, weight = torch.zeros(0, plan.suffixes.count, dtype=torch.float64), 0.0
    for block in _blocks(both, plan, _rows_of(law, plan), seed):
        ours, theirs = both.split(block.state)
        gap = word_probabilities(law, ours, plan.suffixes)
        gap -= word_probabilities(other, theirs, plan.suffixes)
        factor = _triangle(torch.cat([factor, gap * block.weight.sqrt().unsqueeze(1)]))
        weight += float(block.weight.sum())
    return float(torch.linalg.matrix_norm(factor, 2)) / math.sqrt(weight)


class _Pair:
    """Two laws that read the same words; the first one says how often these come."""

    def __init__(self, law: SequenceLaw, other: SequenceLaw) -> None:
        self._law, self._other, self.symbols = law, other, law.symbols
        self._parts = len(law.start(1))

    def split(self, state: State) -> tuple[State, State]:
        return state[: self._parts], state[self._parts :]

    def start(self, n: int) -> State:
        return (*self._law.start(n), *self._other.start(n))

    def read(self, state: State, codes: Tensor) -> State:
        ours, theirs = self.split(state)
        return (*read_checked(self._law, ours, codes), *read_checked(self._other, theirs, codes))

    def next_log_probabilities(self, state: State) -> Tensor:
        return self._law.next_log_probabilities(self.split(state)[0])


def _triangle(stacked: Tensor) -> Tensor:
    """R of a QR decomposition: the same singular values, at most as many rows as columns."""
    if len(stacked) <= stacked.shape[1]:
        return stacked
    triangle: Tensor = torch.linalg.qr(stacked, mode="r").R
    return triangle


def _rows_of(law: SequenceLaw, plan: Plan) -> int:
    """Rows of a block: its words' probabilities and the law's states of one level fit into it."""
    numbers = sum(part[0].numel() for part in law.start(1)) + 2 * law.symbols
    onward = law.symbols if law.symbols <= _EVERY_SYMBOL else 1
    needed = onward * max(plan.suffixes.count, plan.suffixes.widest * numbers)
    return max(1, _BLOCK // needed)


def _memory(plan: Plan) -> str:
    return f"at most {plan.bytes / 2**20:.0f} MB"


def _seconds(law: SequenceLaw, plan: Plan) -> str:
    """How long it will take, from a thousand readings."""
    state = law.start(1000)
    codes = torch.zeros(1000, dtype=torch.int64)
    began = time.perf_counter()
    asked(law, read_checked(law, state, codes))
    each = (time.perf_counter() - began) / 1000
    return f"about {max(1, math.ceil(each * plan.readings))} s"


def spelled(codes: Tensor, names: tuple[str, ...] | None = None) -> str:
    """A word in letters."""
    shown = [str(code) if names is None else names[code] for code in codes.tolist()]
    return ("" if all(len(one) == 1 for one in shown) else " ").join(shown)
