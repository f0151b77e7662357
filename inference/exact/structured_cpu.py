"""Chains whose transition has structure, by compiled kernels; used by :mod:`.structured`.

A layout defines how the kernels of ``chains_machine`` store the numbers of a structure, and how the
expected uses of these numbers are computed. The recursions are those of a dense matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from . import chains_machine as machine
from .chains_cpu import Task, cut, floor_of, together
from .chains_machine import Array, Bands, Data, Entries, Stages, Steps
from .chains_torch import Filtered

JOINED_STATES = 16
"""Factors of a Kronecker product are joined up to this size: short loops cost more than they do."""

_SUMMED = 2**12
"""Terms of one sum in float32: over 10^5 of them it would lose two digits."""

Law = Any
"""A matrix as the kernels take it: ``Bands``, ``Entries`` or ``Stages``."""

Parts = Sequence[Tensor]


class Layout(Protocol):
    """How the kernels store a matrix that is built from the tensors ``parts``."""

    @property
    def states(self) -> int:
        """K."""

    def law(self, parts: Parts) -> Law:
        """M."""

    def transposed(self, parts: Parts) -> Law:
        """M'."""

    def uses(self, parts: Parts, beliefs: Tensor, weights: Tensor, lengths: Array) -> list[Tensor]:
        """Σ_t b_t(i) M(i, j) w_{t+1}(j), of each number; b and w (B, T, K), w zero at t = 1."""

    def room_for_uses(self, parts: Parts) -> tuple[Tensor, Law]:
        """Float64 zeros in the shape of the kernels' numbers, and the law whose they are."""

    def of_parts(self, sums: Tensor) -> list[Tensor]:
        """Those numbers as the shapes of the parts."""


@dataclass(frozen=True)
class BandLayout:
    """Diagonals; the part is (K, W)."""

    offsets: tuple[int, ...]
    states: int

    def law(self, parts: Parts) -> Law:
        values = parts[0].detach().mT.contiguous()
        return Bands(values.numpy(), np.array(self.offsets), _room(2, self.states, values))

    def transposed(self, parts: Parts) -> Law:
        bands = parts[0].detach()
        rolled = (bands[:, w].roll(offset) for w, offset in enumerate(self.offsets))
        values = torch.stack(list(rolled))
        return Bands(values.numpy(), -np.array(self.offsets), _room(2, self.states, values))

    def uses(self, parts: Parts, beliefs: Tensor, weights: Tensor, lengths: Array) -> list[Tensor]:
        sums = torch.zeros(parts[0].mT.shape, dtype=torch.float64)
        arrays = (x.numpy() for x in (beliefs, weights, sums))
        shared = lengths, np.array(self.offsets), *arrays
        tasks = [partial(machine.band_pairs, *part, *shared) for part in cut(self.states)]
        together(tasks, beliefs.numel() * len(self.offsets))
        return [sums.mT.to(parts[0]) * parts[0].detach().exp()]

    def room_for_uses(self, parts: Parts) -> tuple[Tensor, Law]:
        return torch.zeros(parts[0].mT.shape, dtype=torch.float64), self.law(parts)

    def of_parts(self, sums: Tensor) -> list[Tensor]:
        return [sums.mT]


@dataclass(frozen=True, eq=False)
class EntryLayout:
    """Single entries; the part is (E,)."""

    rows: Array
    columns: Array
    states: int

    @cached_property
    def _order(self) -> Array:
        """The entries column by column."""
        return np.argsort(self.columns, kind="stable")

    def law(self, parts: Parts) -> Law:
        return self._entries(parts[0], self._order, self.rows, self.columns)

    def transposed(self, parts: Parts) -> Law:
        order = np.argsort(self.rows, kind="stable")
        return self._entries(parts[0], order, self.columns, self.rows)

    def _entries(self, values: Tensor, order: Array, sources: Array, targets: Array) -> Law:
        counts = np.bincount(targets, minlength=self.states)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        room = _room(2, max(self.states, len(order)), values)
        return Entries(values.detach().numpy()[order], starts, sources[order], room)

    def uses(self, parts: Parts, beliefs: Tensor, weights: Tensor, lengths: Array) -> list[Tensor]:
        sums = torch.zeros(parts[0].shape, dtype=torch.float64)
        arrays = (x.numpy() for x in (beliefs, weights, sums))
        shared = lengths, self.rows, self.columns, *arrays
        tasks = [partial(machine.entry_pairs, *part, *shared) for part in cut(len(sums))]
        together(tasks, int(lengths.sum()) * len(sums))
        return [sums.to(parts[0]) * parts[0].detach().exp()]

    def room_for_uses(self, parts: Parts) -> tuple[Tensor, Law]:
        return torch.zeros(parts[0].shape, dtype=torch.float64), self.law(parts)

    def of_parts(self, sums: Tensor) -> list[Tensor]:
        out = torch.empty_like(sums)
        out[torch.from_numpy(self._order)] = sums
        return [out]


@dataclass(frozen=True)
class StageLayout:
    """A product of the parts (rows, columns), each along an axis of the states."""

    states: int
    shapes: tuple[tuple[int, int], ...]
    along_axes: bool
    """Whether every part has an axis of its own (Kronecker), else all the same (low rank)."""

    def law(self, parts: Parts) -> Law:
        return _stages(self.states, parts)

    def transposed(self, parts: Parts) -> Law:
        turned = [part.mT for part in parts]
        return _stages(self.states, turned if self.along_axes else turned[::-1])

    def uses(self, parts: Parts, beliefs: Tensor, weights: Tensor, lengths: Array) -> list[Tensor]:
        matrices = [part.detach().exp() for part in parts]
        if self.along_axes:
            law = self.law(matrices)
            cuts = cut(len(lengths))
            sums = torch.zeros(len(cuts), len(law.values), dtype=torch.float64)
            arrays = beliefs.numpy(), weights.numpy()
            tasks = [
                partial(machine.stage_pairs, *part, lengths, _own(law), *arrays, own.numpy())
                for part, own in zip(cuts, sums, strict=True)
            ]
            together(tasks, 16 * beliefs.numel())
            return [s.to(x) * x for s, x in zip(self.of_parts(sums.sum(0)), matrices, strict=True)]
        # Two large products. w is zero at first steps and both are beyond the lengths, so that
        # pairs across the border of two sequences add nothing.
        before, after = beliefs.flatten(0, 1)[:-1], weights.flatten(0, 1)[1:]
        pairs = [torch.zeros(x.shape, dtype=torch.float64) for x in matrices]
        left, right = matrices
        for b, w in zip(before.split(_SUMMED), after.split(_SUMMED), strict=True):
            pairs[0] += b.mT @ (w @ right.mT)
            pairs[1] += (b @ left).mT @ w
        return [s.to(x) * x for s, x in zip(pairs, matrices, strict=True)]

    def room_for_uses(self, parts: Parts) -> tuple[Tensor, Law]:
        law = self.law(parts)
        return torch.zeros(len(law.values), dtype=torch.float64), law

    def of_parts(self, sums: Tensor) -> list[Tensor]:
        parts = sums.split([rows * columns for rows, columns in self.shapes])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]


def _stages(states: int, parts: Parts) -> Law:
    table, begin, size, widest = [], 0, states, states
    for rows, columns in (part.shape for part in parts):
        rest = size // rows
        table.append((rows, columns, rest, begin))
        begin += rows * columns
        size = rest * columns
        widest = max(widest, size)
    values = torch.cat([part.detach().reshape(-1) for part in parts])
    return Stages(values.numpy(), np.array(table), _room(3, widest, values))


def _room(rows: int, size: int, like: Tensor) -> Array:
    return torch.empty(rows, size, dtype=like.dtype).numpy()


def _own(law: Law) -> Law:
    """The law with room of its own: threads must not share it."""
    return law._replace(room=np.empty_like(law.room)) if hasattr(law, "room") else law


@dataclass(frozen=True)
class Chain:
    """N sequences, laid out for the kernels."""

    layout: Layout
    parts: tuple[Tensor, ...]
    """Logs."""
    data: Data
    steps: Steps
    order: Array
    """All sequences by falling length."""

    @classmethod
    def of(
        cls,
        layout: Layout,
        parts: Sequence[Tensor],
        log_initial: Tensor,
        log_likelihood: Tensor,
        lengths: Tensor | None,
    ) -> Chain:
        n, t, _ = log_likelihood.shape
        every = (torch.full((n,), t) if lengths is None else lengths).numpy()
        initial, likelihood = (x.detach().contiguous() for x in (log_initial, log_likelihood))
        initial_of = np.arange(n) if len(initial) == n else np.zeros(n, np.int64)
        data = Data(likelihood.numpy(), np.arange(n), every, initial.numpy(), initial_of)
        steps = Steps(np.zeros(n, np.int64), 0, np.zeros((0, 0), np.int64))
        order = np.argsort(-every, kind="stable")
        return cls(layout, tuple(x.detach() for x in parts), data, steps, order)

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(sequences, steps, states)."""
        n, t, k = self.data.likelihood.shape
        return n, t, k

    @property
    def work(self) -> int:
        """Numbers handled in a sweep, roughly."""
        return 16 * math.prod(self.sizes)

    @cached_property
    def laws(self) -> tuple[Law, Law]:
        """T, and log T."""
        return self.layout.law([x.exp() for x in self.parts]), self.layout.law(self.parts)

    @cached_property
    def transposed(self) -> tuple[Law, Law]:
        """T', and log T'."""
        layout = self.layout
        return layout.transposed([x.exp() for x in self.parts]), layout.transposed(self.parts)

    @cached_property
    def linked(self) -> Law:
        """1 where log T > -inf, as a matrix of the same structure (a product of stages counts)."""
        return self.layout.law([(x > -math.inf).to(x) for x in self.parts])

    def shares(self) -> list[Array]:
        """Sequences dealt out to the threads, each share by falling length."""
        threads = len(cut(len(self.order)))
        return [np.ascontiguousarray(self.order[start::threads]) for start in range(threads)]

    def new(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype)


class Evidence:
    """The evidence by the fast kernels, and what its gradient needs."""

    def __init__(self, chain: Chain, both: bool) -> None:
        self.chain = chain
        self.floor = floor_of(chain.dtype)
        n, t, k = chain.sizes
        self.beliefs, self.scales = chain.new(n, t, k), chain.new(n, t)
        self.totals = torch.zeros(n, dtype=torch.float64)
        self.failed = np.zeros(n, np.bool_)
        self.messages: Tensor | None = None
        tasks = self._forward_tasks()
        threads = torch.get_num_threads()
        if both and threads > 1 and n < 2 * threads:
            # Too few sequences for the threads: filter and messages at the same time.
            self.messages = chain.new(n, t, k)
            tasks += self._message_tasks(self.messages)
        together(tasks, chain.work)
        self.careful: Filtered | None = None
        self._redo()

    def _forward_tasks(self) -> list[Task]:
        chain = self.chain
        outputs = self.beliefs.numpy(), self.scales.numpy(), self.totals.numpy(), self.failed
        return [
            partial(
                machine.forward,
                share,
                chain.data,
                _own(chain.laws[0]),
                _own(chain.linked),
                chain.steps,
                self.floor,
                *outputs,
            )
            for share in chain.shares()
        ]

    def _message_tasks(self, messages: Tensor) -> list[Task]:
        chain, law = self.chain, self.chain.transposed[0]
        rest = chain.steps, chain.new(0, 0).numpy(), messages.numpy()
        return [
            partial(machine.messages, share, chain.data, _own(law), *rest)
            for share in chain.shares()
        ]

    def _redo(self) -> None:
        """Filter the sequences that failed, in logs."""
        self.redone = np.flatnonzero(self.failed)
        if len(self.redone):
            self.careful = _filter(self.chain, self.redone)
            increments = self.careful.log_increments
            self.totals[torch.from_numpy(self.redone)] = increments.sum(-1, dtype=torch.float64)

    def gradient(self, upstream: Tensor, uses: bool) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Marginals (N, T, K) and expected uses of the parts' numbers, times ``upstream`` (N,)."""
        chain, messages = self.chain, self.messages
        if messages is None:
            messages = chain.new(*chain.sizes)
            together(self._message_tasks(messages), chain.work)
        marginals, weights = chain.new(*chain.sizes), chain.new(0, 0, 0)
        if uses:  # reuse the memory of messages computed here
            weights = messages if self.messages is None else torch.empty_like(messages)
        self._combine(upstream, messages, marginals, weights)
        if self.failed.sum() > len(self.redone):
            self._redo()
        counts: list[Tensor] | None = None
        if uses:
            redone = torch.from_numpy(self.redone)
            self.beliefs[redone] = 0
            weights[redone] = 0
            lengths = chain.data.lengths
            counts = chain.layout.uses(chain.parts, self.beliefs, weights, lengths)
        if self.careful is not None:
            self._careful_gradient(self.careful, upstream, marginals, counts)
        return marginals, [None] * len(chain.parts) if counts is None else counts

    def _combine(
        self, upstream: Tensor, messages: Tensor, marginals: Tensor, weights: Tensor
    ) -> None:
        n, t, _ = self.chain.sizes
        tensors = self.beliefs, self.scales, messages, marginals, weights
        shared = upstream.numpy(), self.floor, *(x.numpy() for x in tensors), self.failed
        tasks = [partial(machine.combine, *part, self.chain.data, *shared) for part in cut(n * t)]
        together(tasks, self.chain.work)

    def _careful_gradient(
        self,
        filtered: Filtered,
        upstream: Tensor,
        marginals: Tensor,
        counts: list[Tensor] | None,
    ) -> None:
        """Replace what belongs to the sequences done again; impossible ones get zero."""
        chain, places = self.chain, torch.from_numpy(self.redone)
        lengths = chain.data.lengths[self.redone]
        own = (filtered.log_beliefs + _messages(chain, self.redone, filtered)).exp()
        own[torch.arange(own.shape[1]) >= torch.from_numpy(lengths).unsqueeze(-1)] = 0
        share = upstream[places].where(filtered.log_increments.amin(-1) > -math.inf, 0)
        # The sum is 1 up to rounding, which adds up over a long sequence in float32.
        total = own.sum(-1, keepdim=True).clamp_min(torch.finfo(own.dtype).tiny)
        own = own / total * share[:, None, None]
        marginals[places] = own
        if counts is None:
            return
        sums, law = chain.layout.room_for_uses(chain.parts)
        arrays = (x.numpy() for x in (filtered.log_beliefs, filtered.log_predicted, own, sums))
        machine.uses_in_logs(self.redone, law, chain.data.lengths, *arrays)
        for count, further in zip(counts, chain.layout.of_parts(sums), strict=True):
            count += further.to(count)


# --- the rest, in logs ----------------------------------------------------------------------------


def _in_parts(
    kernel: Any,
    places: Array,
    first: Sequence[Any],
    laws: Sequence[Law],
    rest: Sequence[Any],
    own: Sequence[Tensor],
) -> None:
    """Run a kernel on ``places``, one part a thread; ``own`` are tensors in their order."""
    tasks = []
    for begin, end in cut(len(places)):
        arrays = (tensor[begin:end].numpy() for tensor in own)
        tasks.append(partial(kernel, places[begin:end], *first, *map(_own, laws), *rest, *arrays))
    together(tasks, 16 * own[0].numel())


def _filter(chain: Chain, places: Array) -> Filtered:
    """The filter for some sequences, in their order."""
    _, t, k = chain.sizes
    count = len(places)
    filtered = Filtered(chain.new(count, t, k), chain.new(count, t, k), chain.new(count, t))
    rest = chain.steps, floor_of(chain.dtype)
    _in_parts(machine.forward_in_logs, places, (chain.data,), chain.laws, rest, filtered)
    return filtered


def _messages(chain: Chain, places: Array, filtered: Filtered) -> Tensor:
    """log s_t, s_t = T (s_{t+1} b_{t+1} / π_{t+1}), s = 1 from the last step on."""
    messages = torch.empty_like(filtered.log_beliefs)
    rest = chain.steps, chain.data.lengths, floor_of(chain.dtype)
    own = filtered.log_beliefs, filtered.log_predicted, messages
    _in_parts(machine.messages_in_logs, places, (), chain.transposed, rest, own)
    return messages


def forward(chain: Chain) -> Filtered:
    """The filter for all sequences."""
    return _filter(chain, np.arange(len(chain.order)))


def log_messages(chain: Chain, filtered: Filtered) -> Tensor:
    """Log ratio of smoother and filter, (N, T, K)."""
    return _messages(chain, np.arange(len(chain.order)), filtered)


def best_paths(chain: Chain) -> tuple[Tensor, Tensor]:
    """Viterbi: paths (N, T), arbitrary beyond the length, and log joints (N,)."""
    n, t, _ = chain.sizes
    paths = torch.empty(n, t, dtype=torch.int64)
    log_joint = torch.empty(n, dtype=torch.float64)
    outputs = chain.steps, paths.numpy(), log_joint.numpy()
    tasks = [
        partial(machine.best_paths, share, chain.data, _own(chain.laws[1]), *outputs)
        for share in chain.shares()
    ]
    together(tasks, chain.work)
    return paths, log_joint.to(chain.dtype)


def backward_draws(
    chain: Chain, log_beliefs: Tensor, n: int, generator: torch.Generator | None
) -> Tensor:
    """Paths (n, N, T) drawn from the last step back."""
    count, t, _ = chain.sizes
    uniform = torch.rand(n, count, t, generator=generator, dtype=torch.float64)
    paths = torch.empty(n, count, t, dtype=torch.int64)
    arrays = (x.numpy() for x in (log_beliefs, uniform, paths))
    shared = chain.steps, chain.data.lengths, *arrays, np.zeros(count, np.bool_)
    law = chain.transposed[1]
    tasks = [partial(machine.draw_paths, share, _own(law), *shared) for share in chain.shares()]
    together(tasks, n * chain.work)
    return paths
