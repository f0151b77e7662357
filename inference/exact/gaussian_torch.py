"""Exact inference on Gaussian chains in torch, for tensors that are not on the CPU.

Plain recursions, one step of all sequences at a time; ``gaussian_cpu`` has the same
functions compiled by numba.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

SINGULAR = 1e-14
"""A variance below this share of what it was before other features were taken out is rounding.

``gaussian_machine`` has the same number again, since numba does not see changes of other files."""


GROUND = 1e-13
"""Least standard deviation of what a step adds where roots are inverted, as a share of the rest."""

ROUNDED = 1e-28
"""``SINGULAR`` for the recursion of roots, where rounding is some 1e-32 of a variance."""

WIDE = 1e4
"""Where the variance of a feature given the past changes by more than this factor, covariances as
such lose too many digits, and their roots take their place."""


def _reached(lengths: Tensor | None, n: int, t: int, device: torch.device) -> Tensor:
    """Whether a step is within the sequence ``(N, T)``."""
    ends = torch.full((n,), t, device=device) if lengths is None else lengths
    return torch.arange(t, device=device) < ends.unsqueeze(-1)


def _at(tensor: Tensor, t: int) -> Tensor:
    """Step t of ``(N|1, T|1, …)``."""
    return tensor[:, t if tensor.shape[1] > 1 else 0]


# --- sums in twice the precision ------------------------------------------------------------------


def accurate(first: Tensor, matrix: Tensor, x: Tensor, last: Tensor | None = None) -> Tensor:
    """first + matrix x + last, as if in twice the precision and rounded once.

    ``first`` and ``last`` (…, R), ``matrix`` (…, R, D), ``x`` (…, D), a constant as ``last`` is.
    Differentiable in the others.

    Source: Ogita, Rump & Oishi (2005), Dot2.
    """
    formula = first + (matrix @ x.unsqueeze(-1)).squeeze(-1)
    formula = formula if last is None else formula + last
    with torch.no_grad():
        total, small = first, torch.zeros_like(formula)
        for place in range(x.shape[-1]):
            product, lost = _two_product(matrix[..., place], x[..., place : place + 1])
            total, rounding = _two_sum(total, product)
            small = small + (lost + rounding)
        if last is not None:
            total, rounding = _two_sum(total, last)
            small = small + rounding
        value = total + small
    return _valued(formula, value)


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a + b and its rounding error."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _two_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a b and its rounding error."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    lost = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, lost


def _halves(a: Tensor) -> tuple[Tensor, Tensor]:
    scaled = 134217729.0 * a  # 2^27 + 1
    high = scaled - (scaled - a)
    return high, a - high


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
    variances: Tensor
    """diag S (G, F), NaN where nothing is observed"""
    root: Tensor
    """of the filtered covariance (G, D, D), in the recursion of roots"""


def _entries(tensor: Tensor, sequences: Tensor) -> Callable[[int], Tensor]:
    """Step t of ``(N|1, T|1, …)`` for some sequences."""
    own = tensor if len(tensor) == 1 else tensor[sequences]
    return lambda t: _at(own, t)


def _steps(system: System, layout: Layout, rooted: bool) -> Iterator[_Step]:
    """The filter, step by step; ``rooted``, covariances have the values of the recursion of roots.

    Gradients are those of the covariances in both cases.
    """
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
    roots = _Roots.of(system, layout) if rooted else None
    for t in range(t_max):
        seen = (layout.mask[first, t] & (t < layout.ends).unsqueeze(-1)).to(mean)
        c = loading(t) * seen.unsqueeze(-1)
        r = variance(t) * (seen.unsqueeze(-1) * seen.unsqueeze(-2)) + unit * (1 - seen).unsqueeze(
            -1
        )
        factor, gain, left, root = _updated(covariance, c, r, roots, (seen, t, layout))
        given = system.values[:, t] - intercept(t)
        given = torch.cat([given, others.expand(-1, features)])
        own = layout.row_chains
        v = given - (c[own] @ mean.unsqueeze(-1)).squeeze(-1)
        v = (v * seen[own]).where((t < layout.row_ends).unsqueeze(-1), 0)
        e = torch.linalg.solve_triangular(factor[own], v.unsqueeze(-1), upper=False)
        after = mean + (gain[own].mT @ e).squeeze(-1)
        log_determinants = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        spread = factor.detach().square().sum(-1).masked_fill(seen == 0, math.nan)
        laws = mean, after, covariance, left
        yield _Step(*laws, e.squeeze(-1), log_determinants, spread, root)
        if t + 1 < t_max:
            a = transition(t).expand(len(first), -1, -1)
            b = torch.cat([offset(t).expand(count, -1), others.expand(-1, mean.shape[-1])])
            mean = (a[own] @ after.unsqueeze(-1)).squeeze(-1) + b
            covariance = a @ left @ a.mT + noise(t)
            if roots is not None:
                covariance = _valued(covariance, roots.predict(a, t))


def _updated(
    covariance: Tensor,
    loading: Tensor,
    noise: Tensor,
    roots: _Roots | None,
    at: tuple[Tensor, int, Layout],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """L, M, the filtered covariance, and its root if there are roots."""
    variance = loading @ covariance @ loading.mT + noise
    if roots is None:
        factor = _cholesky(variance, *at)
        gain = torch.linalg.solve_triangular(factor, loading @ covariance, upper=False)
        left = _joseph(covariance, loading, noise, gain, factor)
        return factor, gain, left, left
    told = roots.update(loading, *at)
    factor = _valued(_cholesky(_valued(variance, told[0] @ told[0].mT), *at), told[0])
    gain = torch.linalg.solve_triangular(factor, loading @ covariance, upper=False)
    gain, root = _valued(gain, told[1]), told[2]
    left = _joseph(covariance, loading, noise, gain, factor)
    return factor, gain, _valued(left, root.mT @ root), root


def _valued(formula: Tensor, value: Tensor) -> Tensor:
    """The value of the one with the gradient of the other."""
    return formula + (value - formula).detach() if formula.requires_grad else value


def _cholesky(matrices: Tensor, seen: Tensor, t: int, layout: Layout) -> Tensor:
    factors, info = torch.linalg.cholesky_ex(matrices)
    pivots, variances = (x.diagonal(dim1=-2, dim2=-1) for x in (factors.square(), matrices))
    places = torch.arange(1, matrices.shape[-1] + 1, device=matrices.device)
    failed = info.unsqueeze(-1)
    lost = torch.where(failed > 0, places == failed, pivots <= SINGULAR * variances)
    _require_variance(lost, pivots / variances, t, layout)
    return cast(Tensor, factors)


def _require_variance(lost: Tensor, shares: Tensor, t: int, layout: Layout) -> None:
    """Raises ValueError for an element of S (G, F) without variance."""
    if bool(lost.any()):
        g = int(lost.any(-1).nonzero()[0])
        feature = int(shares[g].where(lost[g], math.inf).argmin())
        raise no_variance(int(layout.sequences[g]), t, feature)


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


# --- the recursion of roots -----------------------------------------------------------------------
# ``gaussian_machine`` says how it works.


def _folded(*rows: Tensor) -> Tensor:
    """An upper triangle with the same sums of squares, its diagonal not negative; (…, W, W).

    Large rows come first: so small ones keep their digits.
    """
    every = torch.cat(rows, -2)
    order = every.abs().amax(-1).argsort(-1, descending=True)
    every = every.gather(-2, order.unsqueeze(-1).expand_as(every))
    upper = torch.linalg.qr(every, mode="r").R
    sign = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(upper)
    return cast(Tensor, upper * sign.unsqueeze(-1))


class _Move(NamedTuple):
    """What the smoother needs of a step: V, X and Y as in ``gaussian_machine.Gains``."""

    ahead: Tensor
    across: Tensor
    left: Tensor


class _Roots:
    """The root of the covariance, step by step; constants."""

    def __init__(self, root: Tensor, noise: Tensor, observation: Tensor, first: Tensor) -> None:
        self.root = root
        self.noise, self.observation = _entries(noise, first), _entries(observation, first)
        self.unit = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)

    @classmethod
    @torch.no_grad()
    def of(cls, system: System, layout: Layout) -> _Roots:
        matrices = system.covariance, system.noise, system.observation_noise
        covariance, noise, observation = (semidefinite_factor(x).mT for x in matrices)
        first = layout.sequences
        root = _entries(covariance, first)(0).expand(len(first), -1, -1)
        return cls(root, noise, observation, first)

    @torch.no_grad()
    def update(
        self, loading: Tensor, seen: Tensor, t: int, layout: Layout
    ) -> tuple[Tensor, Tensor, Tensor]:
        """L, M and the root of the filtered covariance."""
        features, size = loading.shape[-2:]
        noise = self.observation(t) * seen.unsqueeze(-2)
        observed = torch.cat([noise, torch.diag_embed(1 - seen)], -2)
        known = nn.functional.pad(observed, (0, size))
        unknown = torch.cat([self.root @ loading.mT, self.root], -1)
        folded = _folded(known, unknown)
        factor, gain = folded[:, :features, :features].mT, folded[:, :features, features:]
        pivots, whole = factor.diagonal(dim1=-2, dim2=-1).square(), factor.square().sum(-1)
        _require_variance(~(pivots > SINGULAR * whole), pivots / whole, t, layout)
        before, after = self.root.square().sum(-2), folded[:, features:, features:]
        rounding = after.square().sum(-2) <= ROUNDED * before
        self.root = after.masked_fill((rounding & (seen > 0).any(-1, True)).unsqueeze(-2), 0)
        return factor, gain, self.root

    @torch.no_grad()
    def predict(self, transition: Tensor, t: int) -> Tensor:
        """Moves on by a step; returns the predicted covariance."""
        self.root = _folded(self.root @ transition.mT, self.noise(t).expand_as(transition))
        return self.root.mT @ self.root

    @torch.no_grad()
    def move(self, step: _Step, transition: Tensor, t: int) -> _Move:
        """From the filtered state of a step to the next."""
        root = step.root
        size = root.shape[-1]
        moved = torch.cat([root @ transition.mT, root], -1)
        noise = nn.functional.pad(self.noise(t).expand_as(root), (0, size))
        # In directions without variance, rounding errors would look like knowledge of others. That
        # of what is known for certain matters to nothing else, and is any.
        sizes = step.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        bounds = GROUND * (transition.abs() * sizes.unsqueeze(-2)).sum(-1)
        ground = torch.diag_embed(bounds.where(bounds > 0, 1))
        folded = _folded(moved, noise, nn.functional.pad(ground, (0, size)))
        return _Move(folded[:, :size, :size], folded[:, :size, size:], folded[:, size:, size:])


def whiten(system: System, layout: Layout) -> tuple[Tensor, Tensor]:
    """Whitened innovations (rows, T, F) and log det S (G, T), zero where nothing is observed.

    Differentiable in all of ``system``.
    """
    steps = list(_steps(system, layout, False))
    variances = torch.stack([step.variances for step in steps])
    least, most = variances.nan_to_num(math.inf).amin(0), variances.nan_to_num(0.0).amax(0)
    if bool((most > WIDE * least).any()):
        steps = list(_steps(system, layout, True))
    innovations = torch.stack([step.innovations for step in steps], 1)
    return innovations, torch.stack([step.log_determinants for step in steps], 1)


def states(system: System, layout: Layout) -> States:
    """The filter; arbitrary values beyond the end of a row or chain."""
    steps = [step[:6] for step in _steps(system, layout, True)]
    return States(*(torch.stack(x, 1) for x in zip(*steps, strict=True)))


def smooth(
    system: System, layout: Layout, pairs: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Smoothed means (rows, T, D), covariances (G, T, D, D), with ``pairs`` Cov(z_t, z_{t+1}), and
    the whitened innovations.

    From roots, as ``gaussian_machine`` says.
    """
    steps = list(_steps(system, layout, True))
    roots = _Roots.of(system, layout)
    transition = _entries(system.transition, layout.sequences)
    own = layout.row_chains
    mean, root = steps[-1].filtered_mean, _folded(steps[-1].root)
    means, covariances, crossed = [mean], [root.mT @ root], []
    for t in reversed(range(len(steps) - 1)):
        step = steps[t]
        ahead, across, left = roots.move(step, transition(t).expand_as(root), t)
        inside = (t + 1 < layout.ends)[:, None, None]
        shrunk = torch.linalg.solve_triangular(ahead, root, upper=True, left=False) @ across
        if pairs:
            crossed.append((shrunk.mT @ root).where(inside, 0))
        root = _folded(left, torch.where(inside, shrunk, across))
        later = (mean - steps[t + 1].mean).where((t + 1 < layout.row_ends).unsqueeze(-1), 0)
        known = torch.linalg.solve_triangular(ahead[own].mT, later.unsqueeze(-1), upper=False)
        mean = step.filtered_mean + (across[own].mT @ known).squeeze(-1)
        means.append(mean)
        covariances.append(root.mT @ root)
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
