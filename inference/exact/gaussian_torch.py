"""Exact inference on Gaussian chains in torch, for tensors that are not on the CPU.

Plain recursions, one step of all sequences at a time; ``gaussian_cpu`` has the same
functions compiled by numba.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

SINGULAR = 1e-14
"""A variance below this share of what it was before other features were taken out is rounding.

``gaussian_machine`` has the same number again, since numba does not see changes of other files."""


def _reached(lengths: Tensor | None, n: int, t: int, device: torch.device) -> Tensor:
    """Whether a step is within the sequence ``(N, T)``."""
    ends = torch.full((n,), t, device=device) if lengths is None else lengths
    return torch.arange(t, device=device) < ends.unsqueeze(-1)


def _at(tensor: Tensor, t: int) -> Tensor:
    """Step t of ``(N|1, T|1, …)``."""
    return tensor[:, t if tensor.shape[1] > 1 else 0]


# --- linear sweeps --------------------------------------------------------------------------------


def sweep_back(gain: Tensor, shift: Tensor, last: Tensor, lengths: Tensor | None) -> Tensor:
    """x_t = G_t x_{t+1} + c_t: (S, N, T, D) of shift (S, N, T-1, D) and last (S, N, D)."""
    _, n, before, _ = shift.shape
    inside = _reached(lengths, n, before + 1, shift.device).unsqueeze(-1)
    here = last.where(inside[:, -1], 0)
    steps = [here]
    for t in reversed(range(before)):
        moved = (_at(gain, t) @ here.unsqueeze(-1)).squeeze(-1) + shift[:, :, t]
        start = last.where(inside[:, t], 0)  # for sequences that end here
        here = torch.where(inside[:, t + 1], moved, start)
        steps.append(here)
    return torch.stack(steps[::-1], 2)


def sweep_back_gradient(
    gain: Tensor, paths: Tensor, lengths: Tensor | None, upstream: Tensor, wanted: bool
) -> tuple[Tensor, Tensor]:
    """The adjoints (S, N, T, D) of the paths, and the gradient of the gain if it is wanted."""
    _, n, t, _ = paths.shape
    inside = _reached(lengths, n, t, paths.device).unsqueeze(-1)
    here = upstream[:, :, 0]
    steps = [here]
    for step in range(t - 1):
        moved = (_at(gain, step).mT @ here.unsqueeze(-1)).squeeze(-1) + upstream[:, :, step + 1]
        here = moved.where(inside[:, step + 1], 0)
        steps.append(here)
    adjoint = torch.stack(steps, 2)
    if not wanted:
        return adjoint, gain[:0]
    pairs = torch.einsum("snti,sntj->ntij", adjoint[:, :, :-1] * inside[:, 1:], paths[:, :, 1:])
    return adjoint, pairs.sum_to_size(gain.shape)


def sweep_covariances(gain: Tensor, noise: Tensor, last: Tensor, lengths: Tensor | None) -> Tensor:
    """S_t = G_t S_{t+1} G_t' + W_t: (N, T, D, D) of noise (N|1, T-1, D, D) and last (N, D, D)."""
    n, t = len(last), noise.shape[1] + 1
    inside = _reached(lengths, n, t, noise.device)[..., None, None]
    here = last.where(inside[:, -1], 0)
    steps = [here]
    for step in reversed(range(t - 1)):
        g = _at(gain, step)
        start = last.where(inside[:, step], 0)
        here = torch.where(inside[:, step + 1], g @ here @ g.mT + _at(noise, step), start)
        steps.append(here)
    return torch.stack(steps[::-1], 1)


def sweep_covariances_gradient(
    gain: Tensor, covariances: Tensor, lengths: Tensor | None, upstream: Tensor, wanted: bool
) -> tuple[Tensor, Tensor]:
    """The adjoints (N, T, D, D), and the gradient of the gain if it is wanted."""
    n, t, _, _ = covariances.shape
    inside = _reached(lengths, n, t, gain.device)[..., None, None]
    here = upstream[:, 0]
    steps = [here]
    for step in range(t - 1):
        g = _at(gain, step)
        here = (g.mT @ here @ g + upstream[:, step + 1]).where(inside[:, step + 1], 0)
        steps.append(here)
    adjoint = torch.stack(steps, 1)
    if not wanted:
        return adjoint, gain[:0]
    b, s = adjoint[:, :-1].where(inside[:, 1:], 0), covariances[:, 1:]
    to_gain = b @ gain @ s.mT + b.mT @ gain @ s
    return adjoint, to_gain.sum_to_size(gain.shape)


# --- chains and rows ------------------------------------------------------------------------------


class System(NamedTuple):
    """The input of a filter, float64; axes of size 1 are shared."""

    start: Tensor
    """(rows, D)"""
    covariance: Tensor
    """(N|1, 1, D, D)"""
    transition: Tensor
    """(N|1, T-1|1, D, D)"""
    offset: Tensor
    """(N|1, T-1|1, D)"""
    noise: Tensor
    """(N|1, T-1|1, D, D)"""
    loading: Tensor
    """(N|1, T|1, F, D)"""
    intercept: Tensor
    """(N|1, T|1, F)"""
    observation_noise: Tensor
    """(N|1, T|1, F, F)"""
    values: Tensor
    """(V, T, F), of the first V rows; the others have neither values nor offset nor intercept."""


@dataclass(frozen=True)
class Layout:
    """Sequences that share a *chain* of gains, and the *rows* of means that run along them."""

    mask: Tensor
    """(N, T, F)"""
    chain_of: Tensor
    """(N,); the chain of each sequence"""
    sequences: Tensor
    """(G,); a sequence of each chain"""
    ends: Tensor
    """(G,); the steps of each chain"""
    row_sequences: Tensor
    """(rows,)"""
    row_chains: Tensor
    """(rows,)"""
    row_ends: Tensor
    """(rows,)"""

    @classmethod
    def of(
        cls, mask: Tensor, lengths: Tensor, alone: bool, own_ends: bool, copies: int, further: int
    ) -> Layout:
        """Rows are ``copies`` of all sequences one after the other, then ``further`` of each chain.

        ``alone``: every sequence has its own matrices, hence its own chain. Without that, sequences
        share a chain if the same elements are observed; of those without a gap, short ones share
        the beginning of the longest unless ``own_ends``.
        """
        n = len(mask)
        chain_of, sequences = np.arange(n), np.arange(n)
        if not alone:
            chain_of, sequences = _alike(mask, lengths, own_ends)
        device = mask.device
        chain, first = (torch.from_numpy(x).to(device) for x in (chain_of, sequences))
        each = torch.arange(len(first), device=device)
        return cls(
            mask,
            chain,
            first,
            lengths[first],
            torch.cat([torch.arange(n, device=device).repeat(copies), first.repeat(further)]),
            torch.cat([chain.repeat(copies), each.repeat(further)]),
            torch.cat([lengths.repeat(copies), lengths[first].repeat(further)]),
        )


def _alike(mask: Tensor, lengths: Tensor, own_ends: bool) -> tuple[np.ndarray, np.ndarray]:
    """The chain of each sequence, and the longest sequence of each chain."""
    n, t, _ = mask.shape
    if bool(mask.all()):  # so all have full length
        return np.zeros(n, np.int64), np.zeros(1, np.int64)
    inside = _reached(lengths, n, t, mask.device).unsqueeze(-1)
    whole = (mask | ~inside).flatten(1).all(1).tolist()
    ends = lengths.tolist()
    bits = np.packbits((mask & inside).flatten(1).cpu().numpy(), axis=1)
    chains: dict[object, int] = {}
    longest: list[int] = []
    chain_of = np.empty(n, np.int64)
    for place in np.argsort([-end for end in ends], kind="stable"):
        n_th = int(place)
        gaps = b"" if whole[n_th] else bits[n_th].tobytes()
        key = gaps, ends[n_th] if own_ends or not whole[n_th] else 0
        chain_of[n_th] = chains.setdefault(key, len(chains))
        if len(chains) > len(longest):
            longest.append(n_th)
    return chain_of, np.array(longest, np.int64)


# --- the Kalman filter ----------------------------------------------------------------------------


class States(NamedTuple):
    """The filter: means (rows, T, D) and covariances (G, T, D, D), and what ``whiten`` returns."""

    predicted_means: Tensor
    means: Tensor
    predicted_covariances: Tensor
    covariances: Tensor
    innovations: Tensor
    log_determinants: Tensor


class _Step(NamedTuple):
    """One step of all chains and rows, the first six as in ``States``.

    What is not observed has loading 0 and variance 1.
    """

    mean: Tensor
    filtered_mean: Tensor
    covariance: Tensor
    filtered_covariance: Tensor
    innovations: Tensor
    log_determinants: Tensor
    loading: Tensor
    factor: Tensor
    gain: Tensor


def _entries(tensor: Tensor, sequences: Tensor) -> Callable[[int], Tensor]:
    """Step t of ``(N|1, T|1, …)`` for some sequences."""
    own = tensor if len(tensor) == 1 else tensor[sequences]
    return lambda t: _at(own, t)


def _steps(system: System, layout: Layout) -> Iterator[_Step]:
    """The filter, step by step."""
    first, rows = layout.sequences, layout.row_sequences
    count = len(system.values)
    transition, noise = (_entries(x, first) for x in (system.transition, system.noise))
    loading, variance = (_entries(x, first) for x in (system.loading, system.observation_noise))
    offset, intercept = (_entries(x, rows[:count]) for x in (system.offset, system.intercept))
    t_max, features = layout.mask.shape[1:]
    others = system.start.new_zeros(len(rows) - count, 1)
    unit = torch.eye(features, dtype=system.start.dtype, device=system.start.device)
    mean, covariance = system.start, _entries(system.covariance, first)(0)
    covariance = covariance.expand(len(first), -1, -1)
    for t in range(t_max):
        seen = (layout.mask[first, t] & (t < layout.ends).unsqueeze(-1)).to(mean)
        c = loading(t) * seen.unsqueeze(-1)
        r = variance(t) * (seen.unsqueeze(-1) * seen.unsqueeze(-2)) + unit * (1 - seen).unsqueeze(
            -1
        )
        factor = _cholesky(c @ covariance @ c.mT + r, seen, t, layout)
        gain = torch.linalg.solve_triangular(factor, c @ covariance, upper=False)
        given = system.values[:, t] - intercept(t)
        given = torch.cat([given, others.expand(-1, features)])
        own = layout.row_chains
        v = given - (c[own] @ mean.unsqueeze(-1)).squeeze(-1)
        v = (v * seen[own]).where((t < layout.row_ends).unsqueeze(-1), 0)
        e = torch.linalg.solve_triangular(factor[own], v.unsqueeze(-1), upper=False)
        after = mean + (gain[own].mT @ e).squeeze(-1)
        left = _joseph(covariance, c, r, gain, factor)
        log_determinants = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        told = e.squeeze(-1), log_determinants, c, factor, gain
        yield _Step(mean, after, covariance, left, *told)
        if t + 1 < t_max:
            a = transition(t).expand(len(first), -1, -1)
            b = torch.cat([offset(t).expand(count, -1), others.expand(-1, mean.shape[-1])])
            mean = (a[own] @ after.unsqueeze(-1)).squeeze(-1) + b
            covariance = a @ left @ a.mT + noise(t)


def _cholesky(matrices: Tensor, seen: Tensor, t: int, layout: Layout) -> Tensor:
    factors, info = torch.linalg.cholesky_ex(matrices)
    pivots, variances = (x.diagonal(dim1=-2, dim2=-1) for x in (factors.square(), matrices))
    lost = (info > 0) | (pivots <= SINGULAR * variances).any(-1)
    if bool(lost.any()):
        g = int(lost.nonzero()[0])
        feature = int(info[g]) - 1 if info[g] > 0 else int((pivots[g] / variances[g]).argmin())
        raise no_variance(int(layout.sequences[g]), t, feature)
    return cast(Tensor, factors)


def no_variance(sequence: int, t: int, feature: int) -> ValueError:
    """Returns the error for a singular S: an observed element without variance."""
    return ValueError(
        "observation_noise must leave every observed element some variance given the past and the "
        f"features before it; got none for feature {feature} of sequence {sequence} at step {t}"
    )


def _joseph(
    covariance: Tensor, loading: Tensor, noise: Tensor, gain: Tensor, factor: Tensor
) -> Tensor:
    """(I - K C) P (I - K C)' + K R K' with K = M' L^-1."""
    k = torch.linalg.solve_triangular(factor.mT, gain, upper=True).mT
    rest = torch.eye(k.shape[-2], dtype=k.dtype, device=k.device) - k @ loading
    filtered = rest @ covariance @ rest.mT + k @ noise @ k.mT
    return cast(Tensor, (filtered + filtered.mT) / 2)


def whiten(system: System, layout: Layout) -> tuple[Tensor, Tensor]:
    """Whitened innovations (rows, T, F) and log det S (G, T), zero where nothing is observed.

    Differentiable in all of ``system``.
    """
    told = [(step.innovations, step.log_determinants) for step in _steps(system, layout)]
    innovations, log_determinants = zip(*told, strict=True)
    return torch.stack(innovations, 1), torch.stack(log_determinants, 1)


def states(system: System, layout: Layout) -> States:
    """The filter; arbitrary values beyond the end of a row or chain."""
    steps = [step[:6] for step in _steps(system, layout)]
    return States(*(torch.stack(x, 1) for x in zip(*steps, strict=True)))


def smooth(
    system: System, layout: Layout, pairs: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Smoothed means (rows, T, D), covariances (G, T, D, D), with ``pairs`` Cov(z_t, z_{t+1}), and
    the whitened innovations.

    De Jong's (1989) recursion: precision Λ and weighted mean λ of what is yet to come.
    """
    steps = list(_steps(system, layout))
    transition = _entries(system.transition, layout.sequences)
    own = layout.row_chains
    weight, precision = torch.zeros_like(steps[0].mean), torch.zeros_like(steps[0].covariance)
    unit = torch.eye(weight.shape[-1], dtype=weight.dtype, device=weight.device)
    means, covariances, crossed = [], [], []
    for t in reversed(range(len(steps))):
        step = steps[t]
        p = step.filtered_covariance
        if t + 1 < len(steps):
            inside = (t + 1 < layout.ends)[:, None, None]
            weight = weight.where((t + 1 < layout.row_ends).unsqueeze(-1), 0)
            precision = precision.where(inside, 0)
            a = transition(t).expand_as(p)
            crossed.append(
                (p @ a.mT @ (unit - precision @ steps[t + 1].covariance)).where(inside, 0)
            )
            weight = (a[own].mT @ weight.unsqueeze(-1)).squeeze(-1)
            precision = a.mT @ precision @ a
        means.append(step.filtered_mean + (p[own] @ weight.unsqueeze(-1)).squeeze(-1))
        covariances.append(p - p @ precision @ p)
        over = torch.linalg.solve_triangular(step.factor, step.loading, upper=False)
        e = step.innovations.unsqueeze(-1) - step.gain[own] @ weight.unsqueeze(-1)
        weight = weight + (over[own].mT @ e).squeeze(-1)
        rest = unit - step.gain.mT @ over
        precision = over.mT @ over + rest.mT @ precision @ rest
    innovations = torch.stack([step.innovations for step in steps], 1)
    together = torch.stack(means[::-1], 1), torch.stack(covariances[::-1], 1)
    if not pairs:
        return *together, None, innovations
    nothing = torch.zeros_like(together[1][:, :0])
    return *together, torch.stack(crossed[::-1], 1) if crossed else nothing, innovations


# --- covariances ----------------------------------------------------------------------------------


def first_indefinite(matrices: Tensor, tolerance: float) -> int:
    """The first of (M, D, D) that is not symmetric and positive semidefinite; -1 if none."""
    scales = matrices.diagonal(dim1=-2, dim2=-1).abs().sqrt()
    scales = scales.where(scales > 0, 1)
    scaled = matrices / scales.unsqueeze(-1) / scales.unsqueeze(-2)
    skew = (scaled - scaled.mT).abs().amax((-2, -1)) > tolerance
    least = torch.linalg.eigvalsh(scaled + scaled.mT)[:, 0] / 2
    bad = (skew | ~(least >= -tolerance * matrices.shape[-1])).nonzero()
    return int(bad[0]) if len(bad) else -1


def semidefinite_factor(matrices: Tensor) -> Tensor:
    """L with L L' = M of positive semidefinite (…, D, D)."""
    values, vectors = torch.linalg.eigh(matrices)
    return cast(Tensor, vectors * values.clamp_min(0).sqrt().unsqueeze(-2))
