r"""Distillation: the machine nearest to a network, from its operators, with its soft targets.

.. math:: \min_{b_0, A, e}\ \frac{1}{NT} \sum_{n, t} \mathrm{KL}\bigl(
    p(\cdot \mid x^n_1 \dots x^n_{t-1}) \,\|\, q(\cdot \mid x^n_1 \dots x^n_{t-1})\bigr)

over sequences of the network's own. Their next-symbol laws p are given, not drawn symbols, so that
there is little noise to fit. A hidden Markov model is the machine whose tables are probabilities;
its start is a simplex around what the network predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...models.clusters import kmeans
from ...models.randomness import generator_from, seeded
from ..filters.spectral import ObservableOperators
from ..fitting.progress import progress_of
from .hankel import Words, word_probabilities
from .known_laws import OperatorLaw
from .laws import SequenceLaw, ends_of, read_checked, taken

_SMALLEST = 1e-6
"""Operators may give less in the course of a climb; the logarithm stops there."""

SHORT, LONG = 40, 150
"""Iterations after which starts are compared, and at the end."""

FEW = 300
"""Sequences on which starts are compared."""

_SOFTEST = 1e-4
"""Least probability of a start: from zero there is no way back."""

_WORDS_AT_ONCE = 256
"""Sequences whose futures are asked at once."""

_EQUAL = 1.05
"""A later start must be better than by this factor: the first ones have the plainest moves."""


class Target(NamedTuple):
    """Sequences of a network and its next-symbol laws.

    Attributes:
        codes: (N, T).
        log_p: (N, T, V).
    """

    codes: Tensor
    log_p: Tensor

    def first(self, n: int) -> Target:
        """The first n sequences."""
        return Target(self.codes[:n], self.log_p[:n])


class Tables(NamedTuple):
    """A machine as numbers: b_0 (r,), A (V, r, r), e (r,).

    Of strings the last operator is that of the end, s b_0: a new string begins.
    """

    start: Tensor
    tables: Tensor
    end: Tensor

    @classmethod
    def of_strings(cls, start: Tensor, tables: Tensor, end: Tensor, stop: Tensor) -> Tables:
        """Of operators of the symbols (V − 1, r, r) and the probability of the end, stop (r,)."""
        anew = torch.outer(stop, start / (start @ end)).unsqueeze(0)
        return cls(start, torch.cat([tables, anew]), end)

    @property
    def stop(self) -> Tensor:
        """Probability that the string ends, if these are strings, as b · stop."""
        return self.tables[-1] @ self.end

    def distance(self, target: Target) -> Tensor:
        """KL(network ‖ machine) a step, with a gradient."""
        p = target.log_p.exp()
        own = torch.where(p > 0, p * target.log_p, 0).sum()
        emit = (self.tables @ self.end).mT
        belief = (self.start / (self.start @ self.end)).expand(len(target.codes), -1)
        total = torch.zeros((), dtype=torch.float64)
        steps = target.codes.shape[1]
        for step in range(steps):
            told = (belief @ emit).clamp_min(_SMALLEST**2)
            told = told.clamp_min(_SMALLEST) if self._signed else told
            total = total + (p[:, step] * (told / told.sum(-1, keepdim=True)).log()).sum()
            if step + 1 < steps:
                moved = torch.bmm(belief.unsqueeze(1), self.tables[target.codes[:, step]])
                moved = moved.squeeze(1)
                scale = (moved @ self.end).unsqueeze(-1)
                belief = moved / torch.where(scale.abs() > _SMALLEST**2, scale, 1)
        return (own - total) / target.codes.numel()

    @property
    def _signed(self) -> bool:
        return bool((self.tables < 0).any())

    def law(self) -> OperatorLaw:
        """The law of the machine."""
        ones = bool((self.end == 1).all()) and not self._signed
        return OperatorLaw(self.start, self.tables, None if ones else self.end)


class Refined(NamedTuple):
    """A machine, its distance from the target, and what it is or came from."""

    machine: Tables
    distance: float
    kind: str


def from_operators(operators: ObservableOperators) -> Tables:
    """The same machine, with rows for beliefs."""
    return Tables(operators.start, operators.operators.mT.contiguous(), operators.end)


def observable(machine: Tables, words: Words) -> ObservableOperators:
    """The same machine as observable operators: its beliefs are a linear image of the futures."""
    law, size = machine.law(), len(machine.start)
    units = torch.eye(size, dtype=torch.float64)
    told = [units @ machine.end.unsqueeze(-1)]
    level = units.unsqueeze(1)
    for parents, symbols in words.levels:
        level = torch.einsum("zwi,wij->zwj", level[:, parents], law.operators[symbols])
        told.append(level @ machine.end)
    basis = torch.linalg.pinv(torch.cat(told, 1))
    return ObservableOperators(basis, machine.start, machine.end, machine.tables.mT)


def refined_operators(operators: ObservableOperators, target: Target, *, ends: bool) -> Refined:
    """Operators moved towards the network; those given, if that brings nothing."""
    given = from_operators(operators)
    made: Callable[..., Tables] = Tables.of_strings if ends else Tables
    parts = [given.start, given.tables[:-1], given.end, given.stop] if ends else [*given]
    parts = [part.clone().requires_grad_() for part in parts]
    with torch.no_grad():
        before = float(given.distance(target))
    climb(lambda: made(*parts), parts, target.first(FEW), LONG // 2)
    with torch.no_grad():
        found = made(*parts)
        found = Tables(*(part.detach() for part in found))
        after = float(found.distance(target))
    if after < before:
        return Refined(found, after, "refined")
    return Refined(given, before, "as read off")


def refined_hmm(
    operators: ObservableOperators,
    law: SequenceLaw,
    words: Words,
    target: Target,
    *,
    restarts: int,
    seed: int,
    progress: bool = False,
) -> tuple[Refined, tuple[tuple[str, float], ...]]:
    """The hidden Markov model nearest to the network, and what came of every start.

    Its tables may depend on the symbol. Starts are compared after a few iterations; the best one
    goes on.
    """
    starts = list(_starts(operators, law, words, target, restarts, seed))
    found = []
    with progress_of(len(starts) + 1, "start", shown=progress, desc="hidden Markov model") as bar:
        for name, machine in starts:
            one = _softened_climb(machine, target.first(FEW), SHORT, ends=ends_of(law))
            found.append(one._replace(kind=name))
            bar.update()
        best = found[0]
        for one in found[1:]:
            best = one if one.distance * _EQUAL < best.distance else best
        end = _softened_climb(best.machine, target, LONG, ends=ends_of(law))
        bar.update()
    tried = tuple((one.kind, one.distance) for one in found)
    return end._replace(kind="hidden Markov model"), tried


def _softened_climb(machine: Tables, target: Target, steps: int, *, ends: bool) -> Refined:
    """Descends from tables of probabilities, in their logarithms."""
    k, start, tables = len(machine.start), machine.start, machine.tables
    if ends:
        anew, tables = tables[-1].sum(0), tables[:-1]
        start = anew / anew.sum() if float(anew.sum()) > 0 else start
    joint = tables.permute(1, 0, 2).flatten(1)
    if ends:
        joint = torch.cat([joint, machine.stop.unsqueeze(-1)], 1)
    least = _SOFTEST if steps <= SHORT else _SMALLEST**2
    parts = [part.clamp_min(least).log().clone().requires_grad_() for part in (start, joint)]
    ones = torch.ones(k, dtype=torch.float64)

    def made() -> Tables:
        first, rows = parts[0].softmax(-1), parts[1].softmax(-1)
        moves = rows[:, : rows.shape[1] - ends].reshape(k, -1, k).permute(1, 0, 2)
        if ends:
            return Tables.of_strings(first, moves, ones, rows[:, -1])
        return Tables(first, moves, ones)

    climb(made, parts, target, steps)
    with torch.no_grad():
        found = made()
        return Refined(found, float(found.distance(target)), "")


def climb(made: Callable[[], Tables], parts: Sequence[Tensor], target: Target, steps: int) -> None:
    """L-BFGS on the distance; the best parameters met are left in the parts."""
    optimizer = torch.optim.LBFGS(
        list(parts), max_iter=steps, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=1e-7, tolerance_change=1e-11,
    )  # fmt: skip
    best, kept = float("inf"), [part.detach().clone() for part in parts]

    def closure() -> Tensor:
        nonlocal best, kept
        optimizer.zero_grad()
        distance = made().distance(target)
        distance.backward()
        if float(distance.detach()) < best:
            best, kept = float(distance.detach()), [part.detach().clone() for part in parts]
        return distance

    optimizer.step(closure)
    with torch.no_grad():
        for part, value in zip(parts, kept, strict=True):
            part.copy_(value)


def beliefs_of(
    law: SequenceLaw, operators: ObservableOperators, words: Words, codes: Tensor
) -> Tensor:
    """What the law says of the futures before each symbol, in the machine's coordinates, (N, T, r).

    Divided by their product with e, which is 1 for a machine.
    """
    state, found = law.start(len(codes)), []
    for step in range(codes.shape[1]):
        parts = [
            word_probabilities(law, taken(state, some), words) @ operators.basis
            for some in torch.arange(len(codes)).split(_WORDS_AT_ONCE)
        ]
        found.append(torch.cat(parts))
        if step + 1 < codes.shape[1]:
            state = read_checked(law, state, codes[:, step])
    points = torch.stack(found, 1)
    return points / (points @ operators.end).unsqueeze(-1)


def _starts(
    operators: ObservableOperators,
    law: SequenceLaw,
    words: Words,
    target: Target,
    restarts: int,
    seed: int,
) -> Iterator[tuple[str, Tables]]:
    """Hidden Markov models around what the network predicts; one at random if that is too flat."""
    r, v = len(operators.start), law.symbols
    few = target.codes[:FEW]
    points = beliefs_of(law, operators, words, few)
    late = 0 if ends_of(law) else points.shape[1] // 2  # once the network knows where it is
    settled, codes = points[:, late:], few[:, late:]
    yield "clusters", _clustered(settled, codes, v, r, seed)
    generator = generator_from(seed)
    flat = points.flatten(0, 1)
    for number in range(restarts):
        some = flat if not number else flat[torch.randperm(len(flat), generator=generator)[:150]]
        corners = _corners(some, r)
        if corners is not None:
            yield "corners" + " of some" * (number > 0), _in_corners(operators, corners)
            continue
        tables = torch.rand(r, v * r, generator=generator, dtype=torch.float64) ** 3
        tables = (tables / tables.sum(-1, keepdim=True)).reshape(r, v, r).permute(1, 0, 2)
        ones = torch.ones(r, dtype=torch.float64)
        yield "random", Tables(ones / r, tables, ones)


def _clustered(points: Tensor, codes: Tensor, symbols: int, states: int, seed: int) -> Tables:
    """States are clusters of predictions (N, T, r); moves are counted along the sequences."""
    n, steps = codes.shape
    flat = points.reshape(n * steps, -1).numpy()
    with seeded(seed):
        label = kmeans(flat, flat, states).reshape(n, steps)
    before, after, read = label[:, :-1], label[:, 1:], codes[:, :-1]
    place = ((read * states + before) * states + after).flatten()
    counts = torch.bincount(place, minlength=symbols * states**2).double()
    tables = counts.reshape(symbols, states, states)
    total = tables.sum((0, 2))
    tables = torch.where(total.unsqueeze(-1) > 0, tables, 1.0)
    share = torch.bincount(label.flatten(), minlength=states).double()
    ones = torch.ones(states, dtype=torch.float64)
    return Tables(share / share.sum(), tables / tables.sum((0, 2)).unsqueeze(-1), ones)


def _corners(points: Tensor, r: int) -> Tensor | None:
    """r of the points that span them all as nearly as such can (successive projections).

    Source: Araújo et al. (2001), Chemometrics and Intelligent Laboratory Systems 57.
    """
    left, chosen = points.clone(), []
    for _ in range(r):
        size = left.square().sum(-1)
        place = int(size.argmax())
        if float(size[place]) < 1e-12:
            return None
        chosen.append(place)
        unit = left[place] / left[place].norm()
        left = left - (left @ unit).unsqueeze(-1) * unit
    return points[chosen]


def _in_corners(operators: ObservableOperators, corners: Tensor) -> Tables:
    """The operators in the coordinates of corners W: W A W^{-1}, made probabilities."""
    inverse = torch.linalg.pinv(corners)
    start = (operators.start @ inverse).clamp_min(0)
    tables = (corners @ operators.operators.mT @ inverse).clamp_min(0)
    total = tables.sum((0, 2)).clamp_min(_SMALLEST)
    ones = torch.ones(len(corners), dtype=torch.float64)
    return Tables(start / start.sum().clamp_min(_SMALLEST), tables / total.unsqueeze(-1), ones)
