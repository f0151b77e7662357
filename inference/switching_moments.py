"""The continuous state of a switching linear model, given regimes or probabilities of them.

The expected log density of the dynamics under independent regimes is quadratic in the state, so the
state's law is again a Gaussian chain: with averaged precisions, and with a quadratic term at every
step for what averaging the dynamics leaves over. Hard regime paths are the special case in which
nothing is left over, and the law is the exact posterior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..models import SwitchingLaws


@dataclass(frozen=True)
class StateChain:
    """A Gaussian law of trajectories (M, T, D), as a chain that runs backwards.

    z_t | z_{t+1} ~ N(mean_t + gain_t (z_{t+1} − mean_{t+1}), conditional_t).
    """

    mean: Tensor
    """(M, T, D)"""
    covariance: Tensor
    """(M, T, D, D)"""
    gain: Tensor
    """(M, T-1, D, D)"""
    conditional: Tensor
    """(M, T-1, D, D)"""
    lengths: Tensor
    """(M,)"""

    @property
    def lag_one(self) -> Tensor:
        """Cov(z_t, z_{t+1}), (M, T-1, D, D)."""
        return self.gain @ self.covariance[:, 1:]

    @property
    def entropy(self) -> Tensor:
        """In nats, (M,)."""
        steps = torch.arange(self.mean.shape[1], device=self.lengths.device)
        inner = steps[:-1] < self.lengths.unsqueeze(-1) - 1
        rows = torch.arange(len(self.mean), device=self.lengths.device)
        last = _log_det(self.covariance[rows, self.lengths - 1])
        total = last + torch.where(inner, _log_det(self.conditional), 0).sum(-1)
        size = self.mean.shape[-1] * self.lengths.to(total)
        return 0.5 * total + 0.5 * size * (1 + math.log(2 * math.pi))

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor]:
        return torch.linalg.cholesky(self.conditional), torch.linalg.cholesky(self.covariance)

    def sample(self, n: int) -> Tensor:
        """n draws of the trajectories, (n, M, T, D); beyond the length they mean nothing."""
        conditional, marginal = self._factors
        noise = torch.randn(n, *self.mean.shape, 1).to(self.mean)
        drawn = [(marginal[:, -1] @ noise[:, :, -1]).squeeze(-1)]
        shift = (conditional @ noise[:, :, :-1]).squeeze(-1)
        for t in reversed(range(self.gain.shape[1])):
            drawn.append((self.gain[:, t] @ drawn[-1].unsqueeze(-1)).squeeze(-1) + shift[:, :, t])
        return self.mean + torch.stack(drawn[::-1], -2)

    def log_prob(self, states: Tensor) -> Tensor:
        """log density of trajectories (…, M, T, D), shape (…, M)."""
        conditional, marginal = self._factors
        apart = states - self.mean
        expected = (self.gain @ apart[..., 1:, :].unsqueeze(-1)).squeeze(-1)
        inner = _log_normal(apart[..., :-1, :] - expected, conditional)
        steps = torch.arange(states.shape[-2], device=self.lengths.device)
        before = steps[:-1] < self.lengths.unsqueeze(-1) - 1
        last = steps == self.lengths.unsqueeze(-1) - 1
        ends = torch.where(last, _log_normal(apart, marginal), 0).sum(-1)
        rest: Tensor = torch.where(before, inner, 0).sum(-1)
        return ends + rest


def _log_det(matrix: Tensor) -> Tensor:
    log_scale: Tensor = torch.linalg.cholesky(matrix).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 2 * log_scale


def _log_normal(apart: Tensor, factor: Tensor) -> Tensor:
    whitened = torch.linalg.solve_triangular(factor, apart.unsqueeze(-1), upper=False).squeeze(-1)
    scale = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = 0.5 * apart.shape[-1] * math.log(2 * math.pi)
    return -0.5 * whitened.square().sum(-1) - scale - constant


class _Potentials(NamedTuple):
    """z_{t+1} = A z_t + b + N(0, Q) along a path, times exp(−½ z'Λz + h'z) at every step."""

    transition: Tensor
    offset: Tensor
    noise: Tensor
    precision: Tensor
    information: Tensor


@torch.no_grad()
def state_chain(laws: SwitchingLaws, weight: Tensor) -> StateChain:
    """argmax_q E_q[Σ_t Σ_k w_tk log N_k(z_t | z_{t-1}) + log p(y | z)] + entropy of q.

    Args:
        laws: of N sequences; without the recurrence, if there is one.
        weight: probabilities of the regimes, (M, T, K), M a multiple of N: draws of all sequences
            one after the other. Hard weights give the exact posterior of the state given them.
    """
    some = _potentials(laws, weight.to(laws.drift))
    lengths = laws.lengths.repeat(len(weight) // len(laws.data))
    mean, covariance = _filtered(laws, some)
    return _smoothed(mean, covariance, some, lengths)


def _potentials(laws: SwitchingLaws, weight: Tensor) -> _Potentials:
    inside = laws.data.step_mask.repeat(len(weight) // len(laws.data), 1)
    # Beyond the end any proper law will do: it tells nothing of what is before.
    weight = torch.where(inside.unsqueeze(-1), weight, 1 / laws.regimes)
    precision = torch.cholesky_inverse(laws.noise_factor)
    forward = precision @ laws.dynamics
    push = (precision @ laws.drift.unsqueeze(-1)).squeeze(-1)
    into = weight[:, 1:]
    joint = torch.einsum("mtk,kij->mtij", into, precision)
    noise = torch.linalg.inv(joint)
    transition = noise @ torch.einsum("mtk,kij->mtij", into, forward)
    offset = (noise @ torch.einsum("mtk,ki->mti", into, push).unsqueeze(-1)).squeeze(-1)
    back = laws.dynamics.mT
    left = torch.einsum("mtk,kij->mtij", into, back @ forward) - transition.mT @ joint @ transition
    pull = torch.einsum("mtk,ki->mti", into, (back @ push.unsqueeze(-1)).squeeze(-1))
    kept = (transition.mT @ (joint @ offset.unsqueeze(-1))).squeeze(-1)
    moves = inside[:, 1:].unsqueeze(-1)
    node, linear = _from_data(laws, weight)
    node[:, :-1] += torch.where(moves.unsqueeze(-1), left, 0)
    linear[:, :-1] += torch.where(moves, kept - pull, 0)
    return _Potentials(transition, offset, noise, 0.5 * (node + node.mT), linear)


def _from_data(laws: SwitchingLaws, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Precision (M, T, D, D) and information (M, T, D) of what was observed."""
    copies = len(weight) // len(laws.data)
    seen = laws.data.mask.to(weight)
    precision = laws.observation_scale.pow(-2)
    scaled = laws.loading * precision.unsqueeze(-1)
    outer = torch.einsum("kfi,kfj->kfij", laws.loading, scaled)
    y = laws.data.values.to(weight).unsqueeze(-2) - laws.intercept  # (N, T, K|1, F)
    information = torch.einsum("ntkf,ntf,kfi->ntki", y, seen, scaled)
    node = torch.einsum("ntf,kfij->ntkij", seen, outer)
    if len(laws.loading) == 1:
        return node[:, :, 0].repeat(copies, 1, 1, 1), information[:, :, 0].repeat(copies, 1, 1)
    node, information = node.repeat(copies, 1, 1, 1, 1), information.repeat(copies, 1, 1, 1)
    return (
        torch.einsum("mtk,mtkij->mtij", weight, node),
        torch.einsum("mtk,mtki->mti", weight, information),
    )


def _filtered(laws: SwitchingLaws, some: _Potentials) -> tuple[Tensor, Tensor]:
    """Means and covariances after the potentials of every step, first to last."""
    steps = some.precision.shape[1]
    eye = torch.eye(len(laws.initial_mean)).to(some.precision)
    m = laws.initial_mean.expand(len(some.precision), -1)
    p = torch.diag_embed(laws.initial_scale.square()).expand(len(some.precision), -1, -1)
    means, covariances = [], []
    for t in range(steps):
        if t:
            a = some.transition[:, t - 1]
            m = (a @ m.unsqueeze(-1)).squeeze(-1) + some.offset[:, t - 1]
            p = a @ p @ a.mT + some.noise[:, t - 1]
        p = torch.linalg.solve(eye + p @ some.precision[:, t], p)
        p = 0.5 * (p + p.mT)
        news = some.information[:, t] - (some.precision[:, t] @ m.unsqueeze(-1)).squeeze(-1)
        m = m + (p @ news.unsqueeze(-1)).squeeze(-1)
        means.append(m)
        covariances.append(p)
    return torch.stack(means, 1), torch.stack(covariances, 1)


def _smoothed(mean: Tensor, covariance: Tensor, some: _Potentials, lengths: Tensor) -> StateChain:
    """The Rauch-Tung-Striebel sweep, last to first."""
    a, q = some.transition, some.noise
    before = covariance[:, :-1]
    predicted = a @ before @ a.mT + q
    gain = torch.linalg.solve(predicted, a @ before).mT
    eye = torch.eye(a.shape[-1]).to(a)
    rest = eye - gain @ a
    conditional = rest @ before @ rest.mT + gain @ q @ gain.mT
    ahead = (a @ mean[:, :-1].unsqueeze(-1)).squeeze(-1) + some.offset
    shift = mean[:, :-1] - (gain @ ahead.unsqueeze(-1)).squeeze(-1)
    m, v = [mean[:, -1]], [covariance[:, -1]]
    for t in reversed(range(a.shape[1])):
        m.append((gain[:, t] @ m[-1].unsqueeze(-1)).squeeze(-1) + shift[:, t])
        v.append(gain[:, t] @ v[-1] @ gain[:, t].mT + conditional[:, t])
    v_all = torch.stack(v[::-1], 1)
    return StateChain(torch.stack(m[::-1], 1), 0.5 * (v_all + v_all.mT), gain, conditional, lengths)


def expected_dynamics(laws: SwitchingLaws, chain: StateChain) -> Tensor:
    """E log N(z_{t+1}; A_k z_t + b_k, Q_k) of every regime, (M, T-1, K); differentiable."""
    eye = torch.eye(chain.mean.shape[-1]).to(laws.noise_factor)
    inverse = torch.linalg.solve_triangular(laws.noise_factor, eye, upper=False)
    driven = inverse @ laws.dynamics
    scale = laws.noise_factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    before, after = chain.mean[:, :-1], chain.mean[:, 1:]
    apart = (
        torch.einsum("kij,mtj->mtki", inverse, after)
        - torch.einsum("kij,mtj->mtki", driven, before)
        - torch.einsum("kij,kj->ki", inverse, laws.drift)
    )
    joint = torch.cat(
        [
            torch.cat([chain.covariance[:, 1:], chain.lag_one.mT], -1),
            torch.cat([chain.lag_one, chain.covariance[:, :-1]], -1),
        ],
        -2,
    )
    both = torch.cat([inverse, -driven], -1)
    spread = torch.einsum("kia,kib,mtab->mtk", both, both, joint)
    constant = scale + 0.5 * len(eye) * math.log(2 * math.pi)
    return -0.5 * (apart.square().sum(-1) + spread) - constant


def expected_emission(laws: SwitchingLaws, chain: StateChain) -> Tensor:
    """E log O(y_t | s_t = k, z_t), (M, T, K|1), zero where nothing was observed; differentiable."""
    copies = len(chain.mean) // len(laws.data)
    mask = laws.data.mask.repeat(copies, 1, 1).unsqueeze(-2)
    y = laws.data.values.repeat(copies, 1, 1).to(chain.mean).unsqueeze(-2)
    apart = y - torch.einsum("kfi,mti->mtkf", laws.loading, chain.mean) - laws.intercept
    spread = torch.einsum("kfi,kfj,mtij->mtkf", laws.loading, laws.loading, chain.covariance)
    variance = laws.observation_scale.square()
    terms = -0.5 * ((apart.square() + spread) / variance + (2 * math.pi * variance).log())
    return torch.where(mask, terms, 0).sum(-1)


def expected_first(laws: SwitchingLaws, chain: StateChain) -> Tensor:
    """E log p(z_1), (M,); differentiable."""
    variance = laws.initial_scale.square()
    square = (chain.mean[:, 0] - laws.initial_mean).square()
    square = square + chain.covariance[:, 0].diagonal(dim1=-2, dim2=-1)
    return -0.5 * (square / variance + (2 * math.pi * variance).log()).sum(-1)


def regime_scores(laws: SwitchingLaws, chain: StateChain) -> Tensor:
    """What the law of the state says for every regime at every step, (M, T, K).

    E log O_k(y_t) + E log N_k(z_t | z_{t-1}): linear in the regimes, and hence what log O_k(y_t) is
    for a hidden Markov model. Zero beyond the length; differentiable in the parameters.
    """
    copies = len(chain.mean) // len(laws.data)
    inside = laws.data.step_mask.repeat(copies, 1).unsqueeze(-1)
    moves = expected_dynamics(laws, chain)
    moves = torch.nn.functional.pad(moves, (0, 0, 1, 0))
    return torch.where(inside, moves + expected_emission(laws, chain), 0)


def expected_log_joint(laws: SwitchingLaws, weight: Tensor, chain: StateChain) -> Tensor:
    """E[log p(y, z | s)] + entropy of the chain, (M,) nats, with regimes of probability ``weight``.

    With hard weights and their own chain this is log p(y | s), in value, and by Fisher's identity
    in its gradient in the parameters. With probabilities and their own chain the gradient in the
    weights is exact, too: the chain is where the value is largest.
    """
    scores = (weight * regime_scores(laws, chain)).sum((-1, -2))
    return scores + expected_first(laws, chain) + chain.entropy
