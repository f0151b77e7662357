"""Exact inference on Gaussian chains by compiled kernels, for tensors on the CPU.

The same functions as in ``gaussian_torch``; the kernels run on threads of our own, as many
as torch uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import gaussian_machine as machine
from .chains_cpu import cut, together
from .gaussian_machine import LANES, Adjoints, Array, Chains, Gains, Rows
from .gaussian_torch import WIDE, Layout, States, System, no_variance

ROOM = 2**25
"""Numbers that the gains of a stretch of time may take; a longer time is cut into stretches, whose
gains are computed again for the gradient."""


def _shares(count: int) -> list[Array]:
    """0 … count dealt out to the threads."""
    threads = max(1, min(torch.get_num_threads(), count))
    return [np.arange(start, count, threads) for start in range(threads)]


def _ends(lengths: Tensor | None, n: int, t: int) -> Array:
    return np.full(n, t) if lengths is None else lengths.numpy()


class _Sums:
    """Room for sums over sequences: of one place where sequences share it, one for each thread."""

    def __init__(self, like: Tensor, wanted: bool, shares: int) -> None:
        self.shared = len(like) == 1
        copies = shares if self.shared else 1
        shape = like.shape if wanted else (0, *like.shape[1:])
        self.parts = like.new_zeros(copies, *shape)

    def of(self, share: int) -> Array:
        """What a thread adds to."""
        part: Array = self.parts[share if self.shared else 0].numpy()
        return part

    def total(self) -> Tensor:
        """The sum over the threads."""
        return self.parts.sum(0) if len(self.parts) > 1 else self.parts[0]


# --- linear sweeps --------------------------------------------------------------------------------


def sweep_back(gain: Tensor, shift: Tensor, last: Tensor, lengths: Tensor | None) -> Tensor:
    """x_t = G_t x_{t+1} + c_t: (S, N, T, D) of shift (S, N, T-1, D) and last (S, N, D)."""
    draws, n, before, size = shift.shape
    ends = _ends(lengths, n, before + 1)
    paths = shift.new_zeros(draws, n, before + 1, size)
    paths[:, torch.arange(n), torch.from_numpy(ends) - 1] = last
    arrays = gain.numpy(), shift.numpy(), ends, paths.numpy()
    tasks = [partial(machine.sweep_back, rows, *arrays) for rows in _shares(n)]
    together(tasks, paths.numel() * size)
    return paths


def sweep_back_gradient(
    gain: Tensor, paths: Tensor, lengths: Tensor | None, upstream: Tensor, wanted: bool
) -> tuple[Tensor, Tensor]:
    """The adjoints (S, N, T, D) of the paths, and the gradient of the gain if it is wanted."""
    _, n, t, size = paths.shape
    adjoint = torch.zeros_like(paths)
    arrays = gain.numpy(), _ends(lengths, n, t), *(x.numpy() for x in (paths, upstream, adjoint))
    kernel = machine.sweep_back_gradient
    return adjoint, _with_sums(kernel, gain, wanted, n, arrays, paths.numel() * size * 2)


def sweep_covariances(gain: Tensor, noise: Tensor, last: Tensor, lengths: Tensor | None) -> Tensor:
    """S_t = G_t S_{t+1} G_t' + W_t: (N, T, D, D) of noise (N|1, T-1, D, D) and last (N, D, D)."""
    n, size = last.shape[:2]
    t = noise.shape[1] + 1
    ends = _ends(lengths, n, t)
    covariances = noise.new_zeros(n, t, size, size)
    covariances[torch.arange(n), torch.from_numpy(ends) - 1] = last
    arrays = gain.numpy(), noise.numpy(), ends, covariances.numpy()
    tasks = [partial(machine.sweep_covariances, rows, *arrays) for rows in _shares(n)]
    together(tasks, 2 * covariances.numel() * size)
    return covariances


def sweep_covariances_gradient(
    gain: Tensor, covariances: Tensor, lengths: Tensor | None, upstream: Tensor, wanted: bool
) -> tuple[Tensor, Tensor]:
    """The adjoints (N, T, D, D), and the gradient of the gain if it is wanted."""
    n, t, size, _ = covariances.shape
    adjoint = torch.zeros_like(covariances)
    tensors = covariances, upstream, adjoint
    arrays = gain.numpy(), _ends(lengths, n, t), *(x.numpy() for x in tensors)
    kernel = machine.sweep_covariances_gradient
    return adjoint, _with_sums(kernel, gain, wanted, n, arrays, 6 * covariances.numel() * size)


def _with_sums(
    kernel: Callable[..., None],
    gain: Tensor,
    wanted: bool,
    n: int,
    arrays: tuple[Array, ...],
    work: int,
) -> Tensor:
    """Run a kernel whose last argument is what it adds the gradient of the gain to."""
    shares = _shares(n)
    sums = _Sums(gain, wanted, len(shares))
    parts = enumerate(shares)
    together([partial(kernel, rows, *arrays, sums.of(share)) for share, rows in parts], work)
    return sums.total()


# --- the Kalman filter ----------------------------------------------------------------------------


def _blocks(layout: Layout) -> tuple[Array, Array]:
    """Rows of each block, -1 where there is none, and the chain of each: long rows first."""
    chains, ends = layout.row_chains.numpy(), layout.row_ends.numpy()
    order = np.lexsort((-ends, chains))
    sizes = np.bincount(chains, minlength=len(layout.sequences))
    counts = -(-sizes // LANES)
    within = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    block = np.repeat(np.cumsum(counts) - counts, sizes) + within // LANES
    blocks = np.full((counts.sum(), LANES), -1)
    blocks[block, within % LANES] = order
    return blocks, np.repeat(np.arange(len(sizes)), counts)


@dataclass(frozen=True)
class _Filter:
    """A system laid out for the kernels."""

    given: System
    layout: Layout
    system: machine.System
    chains: Chains
    rows: Rows
    constant: bool
    """Whether the matrices do not change in time."""

    @classmethod
    def of(cls, given: System, layout: Layout) -> _Filter:
        given = System._make([x.detach().contiguous() for x in given])
        blocks, chain_of = _blocks(layout)
        arrays = [x.numpy() for x in given[2:-1]]
        matrices = given.transition, given.noise, given.loading, given.observation_noise
        return cls(
            given,
            layout,
            machine.System._make([*arrays, layout.mask.contiguous().numpy()]),
            Chains(layout.sequences.numpy(), layout.ends.numpy()),
            Rows(
                given.values.numpy(),
                layout.row_sequences.numpy(),
                layout.row_ends.numpy(),
                chain_of,
                blocks,
            ),
            all(x.shape[1] <= 1 for x in matrices),
        )

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """(chains, rows, steps, features, states)."""
        _, t, f = self.layout.mask.shape
        return len(self.chains.ends), len(self.rows.ends), t, f, self.given.start.shape[-1]

    def stretches(self) -> list[tuple[int, int]]:
        """The time in stretches whose gains fit into the room."""
        g, _, t, f, d = self.sizes
        longest = max(1, ROOM // (g * (2 * d * d + f * d + f * f + 2)))
        return [(start, min(start + longest, t)) for start in range(0, t, longest)]

    def first(self, rooted: bool) -> Tensor:
        """The first covariances (G, D, D), or their roots, upper triangular; a copy."""
        g, _, _, _, d = self.sizes
        given = self.given.covariance[:, 0]
        if rooted:
            given = semidefinite_factor(given).mT
        own = given if len(given) == 1 else given[self.layout.sequences]
        return own.expand(g, d, d).contiguous().clone()

    @cached_property
    def rooted_system(self) -> machine.System:
        """The system with roots of the noise."""
        return self.system._replace(noise=semidefinite_factor(self.given.noise).numpy())

    def gains(
        self,
        start: int,
        stop: int,
        ahead: Tensor,
        rooted: bool = False,
        smoothing: bool = False,
    ) -> Gains:
        """Gains of a stretch; ``ahead`` goes from its first step to the one behind it."""
        g, _, _, f, d = self.sizes
        s = stop - start
        more = (g if smoothing else 0), s, d, d
        found = Gains(
            np.zeros((g, s), np.int64),
            np.empty((g, s, d, d)),
            np.empty((g, s, d, d)),
            np.empty((g, s, f, d)),
            np.empty((g, s, f, f)),
            np.zeros((g, s)),
            np.full((g, f), np.inf),
            np.zeros((g, f)),
            *(np.empty(more) for _ in range(3)),
        )
        failed = np.full((g, 2), -1)
        system = self.rooted_system if rooted else self.system
        law = system, self.chains, start, stop, self.constant
        shared = *law, ahead.numpy(), found, failed
        work = g * s * (4 * d**3 + 4 * f * d * d)
        kernel = machine.gains_of_roots if rooted else machine.gains
        together([partial(kernel, share, *shared) for share in _shares(g)], work)
        if (failed[:, 0] >= 0).any():
            chain = int(np.flatnonzero(failed[:, 0] >= 0)[0])
            raise no_variance(int(self.chains.sequences[chain]), *map(int, failed[chain]))
        return found

    def parts(self) -> list[tuple[int, int]]:
        """Blocks in one piece a thread; a chain of matrices of its own is in one piece."""
        pieces = cut(len(self.rows.chains))
        if len(self.chains.ends) == 1:
            return pieces
        borders = np.flatnonzero(np.diff(self.rows.chains, prepend=-1))
        borders = np.append(borders, len(self.rows.chains))
        ends = [int(borders[np.searchsorted(borders, end)]) for _, end in pieces]
        return [(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True) if a < b]

    @property
    def work(self) -> int:
        """Products of the means of a step, all rows and steps."""
        _, _, _, f, d = self.sizes
        return int(self.rows.ends.sum()) * (d * d + 2 * f * d)

    def means(
        self, start: int, stop: int, found: Gains, ahead: Tensor, out: Sequence[Tensor]
    ) -> None:
        """Innovations, predicted and filtered means of a stretch into ``out``."""
        law = self.system, self.chains, self.rows, start, stop, found.at, found.gain, found.factor
        arrays = [x.numpy() for x in (ahead, *out)]
        tasks = [partial(machine.means, *part, *law, *arrays) for part in self.parts()]
        together(tasks, self.work)


class _Whitening:
    """The whitened innovations, and what their gradient needs besides them."""

    def __init__(self, given: System, layout: Layout) -> None:
        self.filter = one = _Filter.of(given, layout)
        _, rows, t, _, d = one.sizes
        self.predicted = torch.zeros(rows, t, d, dtype=torch.float64)
        self.rooted = False
        self.borders: list[Tensor] = []
        self.gains: Gains

    def forward(self) -> tuple[Tensor, Tensor]:
        """Innovations and log det S; not kept, as torch has them."""
        found = self._run()
        if not found:  # variances differ by orders, and small ones have lost digits
            self.rooted, self.borders = True, []
            found = self._run()
        assert found
        return found

    def _run(self) -> tuple[Tensor, Tensor] | None:
        """Innovations and log det S; nothing if the recursion has to be one of roots."""
        one = self.filter
        g, rows, t, f, d = one.sizes
        innovations = torch.zeros(rows, t, f, dtype=torch.float64)
        log_determinants = torch.zeros(g, t, dtype=torch.float64)
        nothing = torch.zeros(0, t, d, dtype=torch.float64)
        ahead, mean = one.first(self.rooted), one.given.start.clone()
        least, most = np.full((g, f), np.inf), np.zeros((g, f))
        for start, stop in one.stretches():
            self.borders.append(ahead.clone())
            self.gains = one.gains(start, stop, ahead, self.rooted)
            least, most = np.fmin(least, self.gains.least), np.fmax(most, self.gains.most)
            if not self.rooted and bool((most > WIDE * least).any()):
                return None
            log_determinants[:, start:stop] = torch.from_numpy(self.gains.log_determinants)
            out = innovations, self.predicted, nothing
            one.means(start, stop, self.gains, mean, out)
        return innovations, log_determinants

    def gradient(
        self, innovations: Tensor, upstream: tuple[Tensor, Tensor], wanted: Sequence[bool]
    ) -> list[Tensor | None]:
        """In all of the system, in its order, from the gradients in innovations and log det S."""
        one = self.filter
        g, rows, _, f, d = one.sizes
        sums = _AdjointSums(one.given, wanted, torch.get_num_threads())
        mean, covariance = torch.zeros(rows, d).double(), torch.zeros(g, d, d).double()
        stretches = one.stretches()
        for number in reversed(range(len(stretches))):
            start, stop = stretches[number]
            last = number + 1 == len(stretches)
            found = (
                self.gains
                if last
                else one.gains(start, stop, self.borders[number].clone(), self.rooted)
            )
            pair = np.zeros((g, stop - start, f, d)), np.zeros((g, stop - start, f, f))
            tensors = innovations, self.predicted, upstream[0], mean
            self._means_gradient(start, stop, found, tensors, pair, sums)
            law = one.system, one.chains, start, stop, found, *pair
            arrays = upstream[1].numpy(), covariance.numpy()
            tasks = [
                partial(machine.gains_gradient, share, *law, *arrays, sums.of(place))
                for place, share in enumerate(_shares(g))
            ]
            together(tasks, g * (stop - start) * (4 * d**3 + 6 * f * d * d))
        first = covariance.sum(0, keepdim=True)
        if len(one.given.covariance) > 1:
            first = torch.zeros_like(one.given.covariance[:, 0])
            first[one.layout.sequences] = covariance
        return [mean, first.unsqueeze(1), *sums.totals()]

    def _means_gradient(
        self,
        start: int,
        stop: int,
        found: Gains,
        tensors: tuple[Tensor, ...],
        out: tuple[Array, Array],
        sums: _AdjointSums,
    ) -> None:
        one, tasks, own = self.filter, [], []
        single = len(one.chains.ends) == 1
        for place, (begin, end) in enumerate(one.parts()):
            # Each chain is in one part, unless there is only one: then parts have their own sums.
            first, last = one.rows.chains[begin], one.rows.chains[end - 1]
            pair = [np.zeros_like(x) if single else x[first : last + 1] for x in out]
            own.append(pair)
            law = one.system, one.chains, one.rows, start, stop, found.at, found.gain, found.factor
            arrays = *law, *(x.numpy() for x in tensors), first, *pair, sums.of(place)
            tasks.append(partial(machine.means_gradient, begin, end, *arrays))
        together(tasks, 3 * one.work)
        if single:
            for pair in own:
                for total, part in zip(out, pair, strict=True):
                    total += part


class _AdjointSums:
    """Room for the gradients in the system, apart from those in its first law."""

    def __init__(self, given: System, wanted: Sequence[bool], shares: int) -> None:
        self.wanted = wanted[2:]
        tensors = given[2:]
        # Values belong to one row each and are written, not added to.
        every = zip(tensors, self.wanted, strict=True)
        self.sums = [_Sums(x, want, shares) for x, want in every]

    def of(self, share: int) -> Adjoints:
        """What a thread adds to."""
        return Adjoints(*(one.of(share) for one in self.sums))

    def totals(self) -> list[Tensor | None]:
        """The sums over the threads, None where not wanted."""
        pairs = zip(self.sums, self.wanted, strict=True)
        return [one.total() if want else None for one, want in pairs]


class _Whiten(torch.autograd.Function):
    """The adjoint recursions: means first, of all rows, then covariances, of all chains."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, *given: Tensor) -> tuple[Tensor, Tensor]:
        ctx.run = _Whitening(System(*given), layout)
        innovations, log_determinants = ctx.run.forward()
        # Kept by torch, which notices if they are changed in place before the gradient is taken.
        ctx.save_for_backward(innovations, *given)
        return innovations, log_determinants

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, to_innovations: Tensor, to_log_determinants: Tensor
    ) -> tuple[Tensor | None, ...]:
        innovations, *_ = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:]
        upstream = to_innovations.contiguous(), to_log_determinants.contiguous()
        found = ctx.run.gradient(innovations, upstream, wanted)
        return None, *(x if want else None for x, want in zip(found, wanted, strict=True))


def whiten(system: System, layout: Layout) -> tuple[Tensor, Tensor]:
    """Whitened innovations (rows, T, F) and log det S (G, T), zero where nothing is observed.

    Differentiable in all of ``system``.
    """
    return cast(tuple[Tensor, Tensor], _Whiten.apply(layout, *system))  # type: ignore[no-untyped-call]


def _whole(
    system: System, layout: Layout, smoothing: bool
) -> tuple[_Filter, Gains, tuple[Tensor, Tensor, Tensor]]:
    """The filter over the whole time: gains, innovations, predicted and filtered means."""
    one = _Filter.of(system, layout)
    _, rows, t, f, d = one.sizes
    found = one.gains(0, t, one.first(True), True, smoothing)
    e, predicted, filtered = (torch.zeros(rows, t, size).double() for size in (f, d, d))
    out = e, predicted, filtered
    one.means(0, t, found, one.given.start.clone(), out)
    return one, found, out


def states(system: System, layout: Layout) -> States:
    """The filter; zero beyond the end of a row, arbitrary beyond that of a chain."""
    _, found, (innovations, predicted, filtered) = _whole(system, layout, False)
    steps = np.arange(len(found.at))[:, None], found.at
    before, after = (torch.from_numpy(x[steps]) for x in (found.predicted, found.filtered))
    determinants = torch.from_numpy(found.log_determinants)
    return States(predicted, filtered, before, after, innovations, determinants)


def smooth(
    system: System, layout: Layout, pairs: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Smoothed means (rows, T, D), covariances (G, T, D, D), with ``pairs`` Cov(z_t, z_{t+1}), and
    the whitened innovations."""
    one, found, (innovations, predicted, filtered) = _whole(system, layout, True)
    g, _, t, _, d = one.sizes
    covariances = torch.zeros(g, t, d, d, dtype=torch.float64)
    crossed = torch.zeros(g if pairs else 0, t - 1, d, d, dtype=torch.float64)
    law = one.chains, found, one.constant, covariances.numpy(), crossed.numpy()
    tasks = [partial(machine.smooth_covariances, share, *law) for share in _shares(g)]
    together(tasks, g * t * 8 * d**3)
    means = torch.zeros_like(filtered)
    rest = one.rows, found, *(x.numpy() for x in (predicted, filtered, means))
    parts = [partial(machine.smooth_means, *part, *rest) for part in one.parts()]
    together(parts, one.work)
    return means, covariances, crossed if pairs else None, innovations


# --- covariances ----------------------------------------------------------------------------------


def first_indefinite(matrices: Tensor, tolerance: float) -> int:
    """The first of (M, D, D) that is not symmetric and positive semidefinite; -1 if none."""
    return int(machine.first_indefinite(matrices.contiguous().numpy(), tolerance))


def semidefinite_factor(matrices: Tensor) -> Tensor:
    """L with L L' = M of positive semidefinite (…, D, D)."""
    flat = matrices.reshape(-1, *matrices.shape[-2:]).contiguous()
    factors = torch.empty_like(flat)
    machine.semidefinite_factors(flat.numpy(), factors.numpy())
    return factors.reshape(matrices.shape)
