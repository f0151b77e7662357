"""Exact inference on discrete chains by compiled kernels, for tensors on the CPU.

The same functions as in ``chains_torch``. ``Rows`` lays a chain out for the kernels of
``chains_machine`` without copying what rows share; the kernels run on threads of our own, as many
as torch uses, which share nothing but their output.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import chains_machine as machine
from .chains_machine import Array, Data, Steps
from .chains_torch import Filtered, Gradient

GROUPED_STATES = 32
"""From here on sequences that share a matrix are multiplied by it together, by BLAS."""

LANE_STATES = 8
"""Up to here blocks of sequences that share a matrix are worked on side by side."""

SERIAL_WORK = 200_000
"""Products of numbers below which starting a thread costs more than it saves."""

Task = Callable[[], None]


# --- rows and threads -----------------------------------------------------------------------------


def _flat(tensor: Tensor, leading: Sequence[int], trailing: int) -> tuple[Tensor, Array]:
    """``(*D|1, N|1, …)`` with the leading axes in one, and the entry of each row of ``leading``."""
    own = tensor.shape[: tensor.ndim - trailing]
    entries = torch.arange(math.prod(own)).reshape(own).expand(*leading)
    flat = tensor.detach().reshape(math.prod(own), *tensor.shape[tensor.ndim - trailing :])
    return flat.contiguous(), entries.reshape(-1).contiguous().numpy()


@dataclass(frozen=True)
class Rows:
    """A chain as rows, (draw, sequence) in one axis of size B; what rows share is not copied."""

    leading: tuple[int, ...]
    """(*D, N)"""
    lengths: Array
    order: Array
    """All rows by falling length."""
    log_matrices: Tensor
    steps: Steps

    @classmethod
    def of(
        cls,
        log_transition: Tensor,
        leading: Sequence[int],
        length: int,
        lengths: Tensor | None,
        choice: Tensor | None,
    ) -> Rows:
        """``leading`` is (*D, N), ``length`` T."""
        *_, n = leading
        count = math.prod(leading)
        log_matrices, entries = _flat(log_transition, leading, 3)
        own = torch.full((n,), length) if lengths is None else lengths
        every = own.repeat(count // n).numpy()
        order = np.arange(count) if lengths is None else np.argsort(-every, kind="stable")
        chosen = torch.zeros((0, 0), dtype=torch.int64) if choice is None else choice.clone()
        different = log_matrices.shape[1]
        stride = int(different > 1 and choice is None)
        steps = Steps(entries * different, stride, chosen.contiguous().numpy())
        return cls(tuple(leading), every, order, log_matrices.flatten(0, 1), steps)

    @property
    def shared(self) -> bool:
        """Whether all rows have the same matrix at all steps."""
        return len(self.log_matrices) == 1

    @property
    def work(self) -> int:
        """Products of a sweep."""
        states = self.log_matrices.shape[-1]
        return int(self.lengths.sum()) * states * states

    def shares(self) -> list[Array]:
        """Rows dealt out to the threads, each share by falling length."""
        threads = min(torch.get_num_threads(), len(self.order))
        return [np.ascontiguousarray(self.order[start::threads]) for start in range(threads)]

    def shaped(self, tensor: Tensor) -> Tensor:
        """(B, …) with the axes (*D, N, …)."""
        return tensor.reshape(*self.leading, *tensor.shape[1:])


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(
        threads, "beliefzoo", initializer=torch.set_flush_denormal, initargs=(True,)
    )


if hasattr(os, "register_at_fork"):  # threads do not survive a fork; there is none on Windows
    os.register_at_fork(after_in_child=_pool.cache_clear)


def together(tasks: Sequence[Task], work: int) -> None:
    """Run tasks on torch's number of threads, or one after the other where that is faster."""
    threads = torch.get_num_threads()
    if threads == 1 or len(tasks) == 1 or work < SERIAL_WORK:
        with _without_denormals():
            for task in tasks:
                task()
        return
    others = [_pool(threads).submit(task) for task in tasks[1:]]
    try:
        with _without_denormals():
            tasks[0]()
    finally:
        for other in others:
            other.result()


@contextmanager
def _without_denormals() -> Iterator[None]:
    """In this thread, results below the least normal number are zero.

    No kernel counts on them, and with them a product takes up to a hundred times as long.
    """
    kept = bool(np.float32(1e-40) * np.float32(0.5) > 0)
    if kept:
        torch.set_flush_denormal(True)
    try:
        yield
    finally:
        if kept:
            torch.set_flush_denormal(False)


def cut(size: int) -> list[tuple[int, int]]:
    """0 … size in one piece a thread."""
    threads = max(1, min(torch.get_num_threads(), size))
    return list(itertools.pairwise(size * part // threads for part in range(threads + 1)))


def _in_parts(kernel: Any, places: Array, shared: Sequence[Any], own: Sequence[Tensor]) -> None:
    """Run a kernel on ``places``, one part a thread; ``own`` are tensors in their order."""
    tasks = []
    for begin, end in cut(len(places)):
        arrays = (tensor[begin:end].numpy() for tensor in own)
        tasks.append(partial(kernel, places[begin:end], *shared, *arrays))
    together(tasks, own[0].numel() * own[0].shape[-1])


# --- the evidence ---------------------------------------------------------------------------------


@lru_cache
def floor_of(dtype: torch.dtype) -> float:
    """A sum of this size is exact in spite of terms that were rounded to zero.

    What is rounded to zero is below tiny, hence below eps² of it. Where numbers are divided by a
    scale after the rounding, so is the floor.
    """
    info = torch.finfo(dtype)
    return info.tiny / info.eps**2


@dataclass(frozen=True)
class _Chain:
    """A whole model as rows."""

    rows: Rows
    log_initial: Tensor
    likelihood: Tensor
    data: Data

    @classmethod
    def of(
        cls,
        log_initial: Tensor,
        log_transition: Tensor,
        log_likelihood: Tensor,
        lengths: Tensor | None,
        choice: Tensor | None,
    ) -> _Chain:
        n, length = log_likelihood.shape[-3:-1]
        draws = torch.broadcast_shapes(
            log_initial.shape[:-2], log_transition.shape[:-4], log_likelihood.shape[:-3]
        )
        leading = (*draws, n)
        rows = Rows.of(log_transition, leading, length, lengths, choice)
        initial, initial_of = _flat(log_initial, leading, 1)
        likelihood, source = _flat(log_likelihood, leading, 2)
        data = Data(likelihood.numpy(), source, rows.lengths, initial.numpy(), initial_of)
        return cls(rows, initial, likelihood, data)

    @property
    def dtype(self) -> torch.dtype:
        return self.likelihood.dtype

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(rows, steps, states)."""
        return len(self.rows.lengths), *self.likelihood.shape[-2:]

    def new(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype)


class _Evidence:
    """The evidence by the fast kernels, and what its gradient needs."""

    def __init__(self, chain: _Chain, both: bool) -> None:
        self.chain = chain
        rows = chain.rows
        self.matrices = rows.log_matrices.exp()
        self.floor = floor_of(chain.dtype)
        b, t, k = chain.sizes
        self.beliefs, self.scales = chain.new(b, t, k), chain.new(b, t)
        self.totals = torch.zeros(b, dtype=torch.float64)
        self.failed = np.zeros(b, np.bool_)
        self.grouped = rows.shared and k >= GROUPED_STATES
        tasks = self._forward_tasks()
        self.messages: Tensor | None = None
        threads = torch.get_num_threads()
        if both and threads > 1 and b < 2 * threads:
            # Too few rows for the threads: filter and messages at the same time.
            self.messages = chain.new(b, t, k)
            tasks += self._message_tasks(self.messages, None)
        together(tasks, rows.work)
        self.careful: Filtered | None = None
        self._redo()

    def _forward_tasks(self) -> list[Task]:
        rows = self.chain.rows
        # With all transitions above √floor, predictions and scales from the second step on are
        # above it too, and their product above the floor: only the first step can lead below.
        least, linked = math.sqrt(self.floor), np.zeros((0, 0, 0), np.bool_)
        if not bool((self.matrices >= least).all()):
            least, linked = self.floor, (rows.log_matrices > -math.inf).numpy()
        outputs = self.beliefs.numpy(), self.scales.numpy(), self.totals.numpy(), self.failed
        kernel = machine.forward_grouped if self.grouped else machine.forward
        law = self.matrices.numpy(), linked, rows.steps
        return [
            partial(kernel, share, self.chain.data, *law, least, *outputs)
            for share in rows.shares()
        ]

    def _message_tasks(self, messages: Tensor, last: Tensor | None) -> list[Task]:
        rows = self.chain.rows
        at_end = self._last_messages(last)
        kernel = machine.messages_grouped if self.grouped else machine.messages
        law = self.matrices.mT.contiguous().numpy(), rows.steps
        return [
            partial(kernel, share, self.chain.data, *law, at_end.numpy(), messages.numpy())
            for share in rows.shares()
        ]

    def _last_messages(self, last: Tensor | None) -> Tensor:
        """The ratio of p(z_T | all data) to the belief in z_T."""
        if last is None:
            return self.chain.new(0, 0)
        ends = torch.from_numpy(self.chain.rows.lengths) - 1
        beliefs = self.beliefs[torch.arange(len(ends)), ends]
        lost = (last > 0) & (beliefs < self.floor)
        self.failed |= lost.any(-1).numpy()
        return torch.where(beliefs < self.floor, 0, last / beliefs)

    def _redo(self) -> None:
        """Filter the rows that failed, in logs."""
        self.redone = np.flatnonzero(self.failed)
        if len(self.redone):
            self.careful = _filter(self.chain, self.redone)
            increments = self.careful.log_increments
            self.totals[torch.from_numpy(self.redone)] = increments.sum(-1, dtype=torch.float64)

    def gradient(
        self, upstream: Tensor, transition: bool, last: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Marginals (B, T, K) and expected transitions (M, K, K), times ``upstream`` (B,)."""
        chain, messages = self.chain, self.messages
        if messages is None or last is not None:
            messages = chain.new(*chain.sizes)
            together(self._message_tasks(messages, last), chain.rows.work)
        marginals = chain.new(*chain.sizes)
        weights = chain.new(0, 0, 0)
        if transition:  # reuse the memory of messages computed here
            weights = torch.empty_like(messages) if messages is self.messages else messages
        self._combine(upstream, messages, marginals, weights)
        if self.failed.sum() > len(self.redone):
            self._redo()
        counts = None
        if transition:
            redone = torch.from_numpy(self.redone)
            self.beliefs[redone] = 0
            weights[redone] = 0
            counts = self._pairs(weights)
        if self.careful is not None:
            self._careful_gradient(self.careful, upstream, marginals, counts, last)
        return marginals, counts

    def _combine(
        self, upstream: Tensor, messages: Tensor, marginals: Tensor, weights: Tensor
    ) -> None:
        b, t, k = self.chain.sizes
        tensors = self.beliefs, self.scales, messages, marginals, weights
        shared = upstream.numpy(), self.floor, *(x.numpy() for x in tensors), self.failed
        parts = cut(b * t)
        tasks = [partial(machine.combine, *part, self.chain.data, *shared) for part in parts]
        together(tasks, 16 * b * t * k)

    def _pairs(self, weights: Tensor) -> Tensor:
        """Σ b_t(i) P(i, j) w_{t+1}(j) of each matrix."""
        rows = self.chain.rows
        if rows.shared:
            # w is zero at first steps, so that pairs across the border of two rows add nothing.
            before, after = self.beliefs.flatten(0, 1)[:-1], weights.flatten(0, 1)[1:]
            return (_blocked_product(before, after) * self.matrices[0]).unsqueeze(0)
        return (_pair_sums(rows, self.beliefs, weights) * self.matrices).to(self.matrices)

    def _careful_gradient(
        self,
        filtered: Filtered,
        upstream: Tensor,
        marginals: Tensor,
        counts: Tensor | None,
        last: Tensor | None,
    ) -> None:
        """Replace what belongs to the rows that were done again; impossible ones get zero."""
        rows, places = self.chain.rows, torch.from_numpy(self.redone)
        beliefs, predicted, increments = filtered
        after = None if last is None else last[places]
        own = _row_marginals(rows, self.redone, beliefs, predicted, after)
        share = upstream[places].where(increments.amin(-1) > -math.inf, 0)
        # The sum is 1 up to rounding, which adds up over a long sequence in float32.
        total = own.sum(-1, keepdim=True).clamp_min(torch.finfo(own.dtype).tiny)
        own = own / total * share[:, None, None]
        marginals[places] = own
        if counts is None:
            return
        sums = torch.zeros(counts.shape, dtype=torch.float64)
        tensors = rows.log_matrices, beliefs, predicted, own, sums
        matrices, *others = (x.numpy() for x in tensors)
        machine.pairs_in_logs(self.redone, matrices, rows.steps, rows.lengths, *others)
        counts += sums.to(counts)


class _LaneEvidence:
    """``_Evidence`` for few states, many rows and one matrix without small entries."""

    def __init__(self, chain: _Chain, matrix: Tensor) -> None:
        self.chain, self.matrix = chain, matrix
        b, t, k = chain.sizes
        blocks = -(-b // machine.LANES)
        self.beliefs = chain.new(blocks, t, k, machine.LANES)
        self.scales = chain.new(blocks, t, machine.LANES)
        self.totals = torch.empty(b, dtype=torch.float64)
        failed = np.zeros(b, np.bool_)
        tensors = self.beliefs, self.scales, self.totals
        law = matrix.numpy(), math.sqrt(floor_of(chain.dtype))
        shared = chain.rows.order, chain.data, *law, *(x.numpy() for x in tensors), failed
        tasks = [partial(machine.forward_lanes, *part, *shared) for part in cut(blocks)]
        together(tasks, 8 * chain.rows.work)
        self.complete = not failed.any()

    @classmethod
    def of(cls, chain: _Chain) -> _LaneEvidence | None:
        """None where it does not apply: another kind of chain, or a row that is below the floor."""
        b, _, k = chain.sizes
        if not chain.rows.shared or k > LANE_STATES or b < machine.LANES:
            return None
        matrix = chain.rows.log_matrices[0].exp()
        if not bool((matrix >= math.sqrt(floor_of(chain.dtype))).all()):
            return None
        run = cls(chain, matrix)
        return run if run.complete else None

    def gradient(
        self, upstream: Tensor, transition: bool, last: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """As of ``_Evidence``."""
        if last is not None:
            return _Evidence(self.chain, both=False).gradient(upstream, transition, last)
        b, t, k = self.chain.sizes
        blocks, rows = len(self.beliefs), self.chain.rows
        marginals = self.chain.new(b, t, k)
        sums = torch.zeros(blocks if transition else 0, k, k, dtype=torch.float64)
        tensors = upstream, self.beliefs, self.scales, marginals, sums
        law = self.matrix.mT.contiguous().numpy()
        shared = rows.order, self.chain.data, law, *(x.numpy() for x in tensors)
        tasks = [partial(machine.backward_lanes, *part, *shared) for part in cut(blocks)]
        together(tasks, 8 * rows.work)
        if not transition:
            return marginals, None
        return marginals, (sums.sum(0) * self.matrix).to(self.matrix).unsqueeze(0)


def _pair_sums(rows: Rows, before: Tensor, after: Tensor) -> Tensor:
    """Σ before_t(i) after_{t+1}(j) over the steps of each matrix, float64."""
    sums = torch.zeros(rows.log_matrices.shape, dtype=torch.float64)
    tensors = before, after, sums
    shared = rows.order, rows.steps, rows.lengths, *(x.numpy() for x in tensors)
    parts = cut(sums.shape[-1])
    together([partial(machine.pairs, *part, *shared) for part in parts], rows.work)
    return sums


def _blocked_product(before: Tensor, after: Tensor, block: int = 4096) -> Tensor:
    """before' after over many rows. In blocks: float32 would lose two digits over 10^5 of them."""
    whole = len(before) // block * block
    size = before.shape[-1]
    blocks = before[:whole].reshape(-1, block, size).mT @ after[:whole].reshape(-1, block, size)
    rest = before[whole:].mT @ after[whole:]
    return (blocks.sum(0, dtype=torch.float64) + rest).to(before)


def evidence(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | None,
    choice: Tensor | None,
    both: bool,
) -> tuple[Tensor, Gradient]:
    """The evidence ``(*D, N)``, and the function that gives its gradient.

    ``both``: the gradient will be asked for, so that the messages may run beside the filter.
    """
    chain = _Chain.of(log_initial, log_transition, log_likelihood, lengths, choice)
    run = _LaneEvidence.of(chain) or _Evidence(chain, both)

    def gradient(
        upstream: Tensor, transition: bool, last: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        flat = upstream.reshape(-1).to(chain.dtype).contiguous()
        at_end = None if last is None else last.reshape(len(flat), -1).contiguous()
        marginals, counts = run.gradient(flat, transition, at_end)
        shaped = None if counts is None else counts.reshape(log_transition.shape)
        return chain.rows.shaped(marginals), shaped

    # A copy: a row that fails in the gradient only is still corrected in ``run``.
    return chain.rows.shaped(run.totals.to(chain.dtype, copy=True)), gradient


# --- beliefs of any origin, joined ----------------------------------------------------------------


@dataclass(frozen=True)
class Joined:
    """Predictions π and marginals m of the law that beliefs and a chain define."""

    rows: Rows
    matrices: Tensor
    log_beliefs: Tensor
    predicted: Tensor
    marginals: Tensor

    @classmethod
    def of(
        cls,
        log_transition: Tensor,
        log_beliefs: Tensor,
        lengths: Tensor | None,
        choice: Tensor | None,
    ) -> Joined | None:
        """None if some transition is so unlikely that sums of probabilities would not be exact."""
        rows, (beliefs,) = _as_rows(log_transition, lengths, choice, log_beliefs)
        matrices = rows.log_matrices.exp()
        if not bool((matrices >= floor_of(beliefs.dtype)).all()):
            return None
        predicted, marginals = torch.empty_like(beliefs), torch.empty_like(beliefs)
        tensors = beliefs, predicted, marginals
        law = matrices.numpy(), matrices.mT.contiguous().numpy(), rows.steps, rows.lengths
        shared = *law, *(x.numpy() for x in tensors)
        together([partial(machine.join, share, *shared) for share in rows.shares()], rows.work)
        return cls(rows, matrices, *tensors)

    def elbo(self, log_initial: Tensor, log_likelihood: Tensor) -> tuple[Tensor, Tensor]:
        """Σ_t E_m[r] ``(*D, N)`` and its terms r = log π + log O − log β, zero where m is."""
        rows = self.rows
        likelihood, source = _flat(log_likelihood, rows.leading, 2)
        initial, initial_of = _flat(log_initial, rows.leading, 1)
        data = Data(likelihood.numpy(), source, rows.lengths, initial.numpy(), initial_of)
        residual = torch.empty_like(self.marginals)
        bounds = torch.empty(len(residual), dtype=torch.float64)
        tensors = self.log_beliefs, self.predicted, self.marginals, residual, bounds
        shared = data, *(x.numpy() for x in tensors)
        tasks = [partial(machine.residuals, share, *shared) for share in rows.shares()]
        together(tasks, 8 * residual.numel())
        return rows.shaped(bounds.to(residual.dtype)), rows.shaped(residual)

    def gradient(
        self, to_predicted: Tensor, to_marginals: Tensor, transition: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Gradient in log β (B, T, K) and log P (M, K, K) from those in log π and m."""
        rows, sizes = self.rows, self.log_beliefs.shape
        to_beliefs = torch.empty_like(self.log_beliefs)
        parts = 2 if transition else 0
        before, after = (self.log_beliefs.new_empty(parts, *sizes) for _ in range(2))
        given = (x.expand(*rows.leading, *sizes[1:]) for x in (to_predicted, to_marginals))
        tensors = (
            self.log_beliefs,
            self.predicted,
            self.marginals,
            *(x.reshape(sizes).contiguous() for x in given),
            to_beliefs,
            before,
            after,
        )
        matrices = self.matrices
        law = matrices.numpy(), matrices.mT.contiguous().numpy(), rows.steps, rows.lengths
        shared = *law, *(x.numpy() for x in tensors)
        tasks = [partial(machine.join_gradient, share, *shared) for share in rows.shares()]
        together(tasks, 2 * rows.work)
        if not transition:
            return to_beliefs, None
        if rows.shared:
            pairs = _blocked_product(before.flatten(0, 2)[:-1], after.flatten(0, 2)[1:])
            return to_beliefs, (pairs * matrices[0]).unsqueeze(0)
        pairs = _pair_sums(rows, before[0], after[0]) + _pair_sums(rows, before[1], after[1])
        return to_beliefs, (pairs * matrices).to(matrices)


# --- the rest, in logs ----------------------------------------------------------------------------


def _filter(chain: _Chain, places: Array) -> Filtered:
    """The filter in logs for some rows, in their order."""
    _, t, k = chain.sizes
    count = len(places)
    filtered = Filtered(chain.new(count, t, k), chain.new(count, t, k), chain.new(count, t))
    log_matrices = chain.rows.log_matrices
    law = log_matrices.exp().numpy(), log_matrices.numpy(), chain.rows.steps
    shared = chain.data, *law, floor_of(chain.dtype)
    _in_parts(machine.forward_in_logs, places, shared, filtered)
    return filtered


def _row_marginals(
    rows: Rows,
    places: Array,
    log_beliefs: Tensor,
    log_predicted: Tensor,
    after: Tensor | None = None,
) -> Tensor:
    marginals = torch.empty_like(log_beliefs)
    at_end = torch.zeros_like(log_beliefs[:, 0]) if after is None else after
    transposed = rows.log_matrices.exp().mT.contiguous()
    law = transposed.numpy(), rows.log_matrices.numpy(), rows.steps
    shared = *law, rows.lengths, math.log(floor_of(log_beliefs.dtype)), after is not None
    own = log_beliefs, log_predicted, at_end, marginals
    _in_parts(machine.marginals, places, shared, own)
    return marginals


def forward(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | None,
    choice: Tensor | None,
) -> Filtered:
    """b_t ∝ O(y_t) (b_{t-1} P_{t-1}), the forward recursion."""
    chain = _Chain.of(log_initial, log_transition, log_likelihood, lengths, choice)
    filtered = _filter(chain, np.arange(len(chain.rows.lengths)))
    return Filtered(*(chain.rows.shaped(x) for x in filtered))


def _as_rows(
    log_transition: Tensor, lengths: Tensor | None, choice: Tensor | None, *steps: Tensor
) -> tuple[Rows, list[Tensor]]:
    """Rows of the chain, and tensors ``(*D, N, T, K)`` as (B, T, K)."""
    draws = torch.broadcast_shapes(log_transition.shape[:-4], *(x.shape[:-3] for x in steps))
    n, *sizes = steps[0].shape[-3:]
    rows = Rows.of(log_transition, (*draws, n), sizes[0], lengths, choice)
    wide = (x.detach().expand(*rows.leading, *sizes) for x in steps)
    return rows, [x.reshape(-1, *sizes).contiguous() for x in wide]


def log_messages(
    log_transition: Tensor,
    log_beliefs: Tensor,
    log_predicted: Tensor,
    lengths: Tensor | None,
    choice: Tensor | None,
) -> Tensor:
    """log s_t, s_t = P_t (s_{t+1} b_{t+1} / π_{t+1}), s = 1 from the last step on."""
    rows, steps = _as_rows(log_transition, lengths, choice, log_beliefs, log_predicted)
    messages = torch.empty_like(steps[0])
    transposed = rows.log_matrices.exp().mT.contiguous()
    law = transposed.numpy(), rows.log_matrices.mT.contiguous().numpy(), rows.steps
    shared = *law, rows.lengths, floor_of(messages.dtype)
    _in_parts(machine.messages_in_logs, np.arange(len(messages)), shared, (*steps, messages))
    return rows.shaped(messages)


def marginals(
    log_transition: Tensor,
    log_beliefs: Tensor,
    log_predicted: Tensor,
    lengths: Tensor | None,
    choice: Tensor | None,
) -> Tensor:
    """m_T = b_T, m_t(i) = b_t(i) Σ_j P(i, j) m_{t+1}(j) / π_{t+1}(j); zero beyond the length."""
    rows, steps = _as_rows(log_transition, lengths, choice, log_beliefs, log_predicted)
    return rows.shaped(_row_marginals(rows, np.arange(len(rows.lengths)), *steps))


def adjoints(
    log_transition: Tensor,
    log_beliefs: Tensor,
    log_predicted: Tensor,
    gradient: Tensor,
    lengths: Tensor | None,
    choice: Tensor | None,
) -> Tensor:
    """Adjoint of the marginals: c_1 = 0, c_{t+1}(j) = Σ_i (g_t(i) + c_t(i)) B_t(i, j)."""
    tensors = log_beliefs, log_predicted, gradient
    rows, steps = _as_rows(log_transition, lengths, choice, *tensors)
    carried = torch.empty_like(steps[0])
    law = rows.log_matrices.exp().numpy(), rows.log_matrices.numpy(), rows.steps
    shared = *law, rows.lengths, math.log(floor_of(carried.dtype))
    _in_parts(machine.adjoints, np.arange(len(carried)), shared, (*steps, carried))
    return rows.shaped(carried)


def best_paths(
    log_initial: Tensor,
    log_transition: Tensor,
    log_likelihood: Tensor,
    lengths: Tensor | None,
    choice: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Viterbi: paths ``(*D, N, T)``, arbitrary beyond the length, and log joints ``(*D, N)``."""
    chain = _Chain.of(log_initial, log_transition, log_likelihood, lengths, choice)
    rows = chain.rows
    b, t, _ = chain.sizes
    paths = torch.empty(b, t, dtype=torch.int64)
    log_joint = torch.empty(b, dtype=torch.float64)
    shared = chain.data, rows.log_matrices.numpy(), rows.steps, paths.numpy(), log_joint.numpy()
    tasks = [partial(machine.best_paths, share, *shared) for share in rows.shares()]
    together(tasks, rows.work)
    return rows.shaped(paths), rows.shaped(log_joint.to(chain.dtype))


def backward_draws(
    log_transition: Tensor,
    log_beliefs: Tensor,
    lengths: Tensor | None,
    choice: Tensor | None,
    n: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, bool]:
    """Paths ``(n, *D, N, T)`` drawn from the last step back, and whether all were possible."""
    rows, (beliefs,) = _as_rows(log_transition, lengths, choice, log_beliefs)
    b, t, _ = beliefs.shape
    uniform = torch.rand(n, b, t, generator=generator, dtype=torch.float64)
    paths = torch.empty(n, b, t, dtype=torch.int64)
    impossible = np.zeros(b, np.bool_)
    law = rows.log_matrices.mT.contiguous().numpy(), rows.steps, rows.lengths
    shared = *law, beliefs.numpy(), uniform.numpy(), paths.numpy(), impossible
    tasks = [partial(machine.draw_paths, share, *shared) for share in rows.shares()]
    together(tasks, 8 * n * beliefs.numel())
    return paths.reshape(n, *rows.leading, t), not impossible.any()
