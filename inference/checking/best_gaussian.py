"""The best guides of linear-Gaussian chains in closed form, given a whole sequence or its past.

The posterior of the states is normal with a block-tridiagonal precision Λ and a linear term h,
Λ_{t,t+1} = −A'Q⁻¹. The future that a causal guide expects is linear in Kalman's mean x̂_t, with
matrices computed by one backward sweep. If elements are missing, it expects all later ones to be
observed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...models import LinearGaussianLaws
from ..exact import gaussian as exact_gaussian
from ..filters.gaussian_beliefs import GaussianBeliefs, product
from ..filters.linear_likelihood import LinearLikelihood
from ..guides.gaussian_posteriors import GaussianForward, GaussianMeanField, GaussianSmoother
from ..queries.linear import arguments

_FLAT = 1e-9
"""Precision, in shares of what an observation brings, of a potential that says nothing."""


class _Blocks(NamedTuple):
    """Λ and h of the posterior of the states, step by step; zero couplings beyond the length."""

    told: Tensor
    """C'R⁻¹C of what was observed, (N, T, D, D)."""
    promised: Tensor
    """The same were all elements observed, (N|1, T, D, D)."""
    own: Tensor
    """What the chain adds to Λ_tt, (N, T, D, D)."""
    across: Tensor
    """Λ_{t,t+1}, (N, T, D, D); zero at the last step."""
    seen: Tensor
    """C'R⁻¹(y − d), (N, T, D)."""
    offset: Tensor
    """What the chain adds to h_t, (N, T, D)."""
    transition: Tensor
    """A_t and b_t out of every step, zero at the last, (N, T, D, D)."""
    shift: Tensor
    """(N, T, D)."""
    noise: Tensor
    """Q_t, (N, T, D, D); the unit matrix at the last step."""


def best_mean_field(laws: LinearGaussianLaws, *, full: bool = True) -> GaussianMeanField:
    """The independent steps with the largest bound, each free to depend on the whole sequence.

    For a normal posterior these have its means, and as covariances the inverses of the diagonal
    blocks of its precision, or of its diagonal unless covariances are ``full``.

    Raises:
        ValueError: a flat start.
    """
    blocks = _blocks(laws)
    law = _law(GaussianSmoother(laws).mean, blocks, full=full)
    return GaussianMeanField(laws, law)


def best_causal_mean_field(laws: LinearGaussianLaws, *, full: bool = True) -> GaussianMeanField:
    """The independent steps q(z_t | y_{1:t}) with the largest bound on average.

    Λ_tt m_t + Λ_{t,t-1} m_{t-1} + Λ_{t,t+1} E[m_{t+1} | y_{1:t}] = h_t, where E[m_{t+1} | y_{1:t}]
    = G m_t + F x̂_t + k. Their covariances are those of ``best_mean_field``.

    Raises:
        ValueError: a flat start.
    """
    blocks = _blocks(laws)
    kalman = exact_gaussian.filter(*arguments(laws.in_double())).means
    steps = kalman.shape[1]
    gains, forces, constants = _expected_means(blocks)
    means: list[Tensor] = []
    for t in range(steps):
        across = blocks.across[:, t]
        left = blocks.told[:, t] + blocks.own[:, t] + across @ gains[t]
        expected = product(forces[t], kalman[:, t]) + constants[t]
        right = blocks.seen[:, t] + blocks.offset[:, t] - product(across, expected)
        if t:
            right = right - product(blocks.across[:, t - 1].mT, means[-1])
        means.append(_solve(left, right))
    return GaussianMeanField(laws, _law(torch.stack(means, 1), blocks, full=full))


def best_causal_forward(laws: LinearGaussianLaws) -> GaussianForward:
    """The best q(z_t | z_{t-1}, y_{1:t}) on average: potentials from a soft backward recursion.

    W_T = 0, W_t(z) = E[log ∫ N(z'; Az + b, Q) O(y_{t+1}|z') exp W_{t+1}(z') dz' | y_{1:t}]
    = −½ z'Ωz + (F x̂_t + f)'z + constant; q(z_t|z_{t-1}) ∝ N(z_t; A z_{t-1} + b, Q) O(y_t|z_t)
    exp W_t(z_t).

    Raises:
        ValueError: a flat start.
    """
    blocks = _blocks(laws)
    kalman = exact_gaussian.filter(*arguments(laws.in_double())).means
    size, steps = kalman.shape[-1], kalman.shape[1]
    unit = torch.eye(size, dtype=torch.float64)
    curve = force = torch.zeros_like(blocks.told[:, 0])
    constant = torch.zeros_like(kalman[:, 0])
    flat = _FLAT * blocks.promised.diagonal(dim1=-2, dim2=-1).mean() * unit
    precisions, means = [], []
    for t in range(steps - 1, -1, -1):
        if t < steps - 1:
            # With P, p of O(y_{t+1}|·) exp W_{t+1}: log ∫ N(z'; a, Q) exp(−½ z'Pz' + p'z') dz' =
            # −½ a'(1 + PQ)⁻¹P a + p'(1 + PQ)⁻ᵀ a, at a = Az + b.
            matrix, shift = blocks.transition[:, t], blocks.shift[:, t]
            later = blocks.promised[:, t + 1]
            precision, mean = later + curve, later + force
            damped = torch.linalg.inv(unit + precision @ blocks.noise[:, t])
            back = matrix.mT @ damped
            constant = product(back, product(mean - precision, shift) + constant)
            curve, force = back @ precision @ matrix, back @ mean @ matrix
        total = blocks.told[:, t] + curve + flat
        wanted = blocks.seen[:, t] + product(force, kalman[:, t]) + constant
        precisions.append(total)
        means.append(_solve(total, wanted))
    covariance = torch.linalg.inv(torch.stack(precisions[::-1], 1))
    covariance = 0.5 * (covariance + covariance.mT)
    return GaussianForward(
        laws, GaussianBeliefs.of_moments(torch.stack(means[::-1], 1), covariance)
    )


def _expected_means(blocks: _Blocks) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """G, F, k of E[m_{t+1} | y_{1:t}] = G m_t + F x̂_t + k, for every step t."""
    steps = blocks.told.shape[1]
    gain = force = torch.zeros_like(blocks.told[:, 0])
    constant = torch.zeros_like(blocks.offset[:, 0])
    out = [(gain, force, constant)]
    for t in range(steps - 2, -1, -1):
        across = blocks.across[:, t + 1]
        later = blocks.promised[:, t + 1]
        left = torch.linalg.inv(later + blocks.own[:, t + 1] + across @ gain)
        # given x̂_{t+1} and h_{t+1}, of which E[h] = C'R⁻¹C E[z] + offset, E[x̂] = E[z] = A x̂ + b
        moved = left @ (later - across @ force)
        constant = product(moved, blocks.shift[:, t]) + product(
            left, blocks.offset[:, t + 1] - product(across, constant)
        )
        gain, force = -left @ blocks.across[:, t].mT, moved @ blocks.transition[:, t]
        out.append((gain, force, constant))
    gains, forces, constants = zip(*reversed(out), strict=True)
    return list(gains), list(forces), list(constants)


def _blocks(laws: LinearGaussianLaws) -> _Blocks:
    if laws.diffuse.shape[-1]:
        raise ValueError(
            "model: the best guides of other kinds than BeliefGuide are known for proper starts, "
            f"got {laws.diffuse.shape[-1]} flat direction(s)"
        )
    laws = laws.in_double()
    told, seen = LinearLikelihood(laws).potential()
    count, steps, size = seen.shape
    inverse = torch.linalg.inv(laws.observation_noise)
    promised = laws.loading.mT @ inverse @ laws.loading
    onward = torch.arange(1, steps) < laws.lengths.unsqueeze(-1)
    unit = torch.eye(size, dtype=torch.float64)

    def later(x: Tensor, last: Tensor | float) -> Tensor:
        """A matrix or vector of every step but the last, with ``last`` where nothing follows."""
        wide = seen.new_zeros(count, steps, *x.shape[2:]) + last
        moved = onward.reshape(count, steps - 1, *[1] * (x.ndim - 2))
        wide[:, :-1] = torch.where(moved, x.expand(count, steps - 1, *x.shape[2:]), wide[:, :-1])
        return wide

    transition, shift = later(laws.transition, 0.0), later(laws.offset, 0.0)
    noise = later(laws.noise, unit)
    inward = torch.linalg.inv(noise)
    first = torch.linalg.inv(laws.initial_covariance).expand(count, size, size)
    own = transition.mT @ inward @ transition
    own[:, 0] += first
    own[:, 1:] += inward[:, :-1]
    offset = -product(transition.mT @ inward, shift)
    offset[:, 0] += product(first, laws.initial_mean.expand(count, size))
    offset[:, 1:] += product(inward[:, :-1], shift[:, :-1])
    return _Blocks(
        told,
        promised.expand(count, steps, size, size),
        own,
        -transition.mT @ inward,
        seen,
        offset,
        transition,
        shift,
        noise,
    )


def _law(mean: Tensor, blocks: _Blocks, *, full: bool) -> GaussianBeliefs:
    precision = blocks.told + blocks.own
    if not full:
        return GaussianBeliefs(mean, precision.diagonal(dim1=-2, dim2=-1).rsqrt())
    covariance = torch.linalg.inv(precision)
    return GaussianBeliefs.of_moments(mean, 0.5 * (covariance + covariance.mT))


def _solve(matrix: Tensor, x: Tensor) -> Tensor:
    solved: Tensor = torch.linalg.solve(matrix, x.unsqueeze(-1)).squeeze(-1)
    return solved
