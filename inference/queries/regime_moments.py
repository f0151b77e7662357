"""The continuous state of a switching linear model, given regimes or probabilities of them.

The expected log density of the dynamics under independent regimes is quadratic in the state, so the
state's law is again a Gaussian chain: with averaged precisions, and with an additional quadratic
term at every step from averaging the dynamics. For hard regime paths this term vanishes, and the
law is the exact posterior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...models import SwitchingLaws
from ...models.continuous.switching import LinearGivenRegimes
from ..exact import gaussian as exact_gaussian
from ..exact.gaussian import LinearChain


@dataclass(frozen=True)
class StateChain:
    """A Gaussian law of trajectories (M, T, D), as a chain that runs backwards.

    z_t | z_{t+1} ~ N(mean_t + gain_t (z_{t+1} − mean_{t+1}), conditional_t).
    """

    mean: Tensor
    """(M, T, D), zero beyond the length"""
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
        last = _log_det(self.covariance[self._ends])
        total = last + torch.where(inner, _log_det(self.conditional), 0).sum(-1)
        size = self.mean.shape[-1] * self.lengths.to(total)
        return 0.5 * total + 0.5 * size * (1 + math.log(2 * math.pi))

    @property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """Index of every sequence's last step."""
        return torch.arange(len(self.lengths), device=self.lengths.device), self.lengths - 1

    def sample(self, n: int) -> Tensor:
        """n draws of the trajectories, (n, M, T, D), zero beyond the length."""
        noise = torch.randn(n, *self.mean.shape, 1).to(self.mean)
        rows, ends = self._ends
        factor = torch.linalg.cholesky(self.covariance[rows, ends])
        last = self.mean[rows, ends] + (factor @ noise[:, rows, ends]).squeeze(-1)
        shift = self.mean[:, :-1] - (self.gain @ self.mean[:, 1:].unsqueeze(-1)).squeeze(-1)
        moved = torch.linalg.cholesky(self.conditional) @ noise[:, :, :-1]
        drawn = shift + moved.squeeze(-1)
        return exact_gaussian.backward_sweep(self.gain, drawn, last, self.lengths)

    def log_prob(self, states: Tensor) -> Tensor:
        """log density of trajectories (…, M, T, D), shape (…, M)."""
        apart = states - self.mean
        expected = (self.gain @ apart[..., 1:, :].unsqueeze(-1)).squeeze(-1)
        inner = _log_normal(apart[..., :-1, :] - expected, torch.linalg.cholesky(self.conditional))
        steps = torch.arange(states.shape[-2], device=self.lengths.device)
        before = steps[:-1] < self.lengths.unsqueeze(-1) - 1
        rows, ends = self._ends
        factor = torch.linalg.cholesky(self.covariance[rows, ends])
        last = _log_normal(apart[..., rows, ends, :], factor)
        rest: Tensor = torch.where(before, inner, 0).sum(-1)
        return last + rest


def _log_det(matrix: Tensor) -> Tensor:
    log_scale: Tensor = torch.linalg.cholesky(matrix).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 2 * log_scale


def _log_normal(apart: Tensor, factor: Tensor) -> Tensor:
    whitened = torch.linalg.solve_triangular(factor, apart.unsqueeze(-1), upper=False).squeeze(-1)
    scale = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = 0.5 * apart.shape[-1] * math.log(2 * math.pi)
    square: Tensor = whitened.square().sum(-1)
    return -0.5 * square - scale - constant


class _Potentials(NamedTuple):
    """z_{t+1} = A z_t + b + N(0, Q) along a path, times exp(−½ z'Λz + h'z) at every step."""

    transition: Tensor
    offset: Tensor
    noise: Tensor
    precision: Tensor
    information: Tensor


def conditional_evidence(laws: SwitchingLaws, regimes: Tensor) -> Tensor:
    """log p(y | s) of regime paths (S, N, T), shape (S, N) nats; differentiable.

    Of a recurrent model without its recurrence.
    """
    given = laws.given(regimes)
    told = exact_gaussian.log_evidence(_chain_of(given), given.values, given.mask, given.lengths)
    return told.reshape(regimes.shape[:2])


def _chain_of(given: LinearGivenRegimes) -> LinearChain:
    proper = given.initial_mean.new_zeros(given.initial_mean.shape[-1], 0)
    return LinearChain(given.initial_mean, given.initial_covariance, proper, *given[2:8])


@torch.no_grad()
def state_given(laws: SwitchingLaws, regimes: Tensor) -> StateChain:
    """p(z | s, y) of regime paths (S, N, T), with S · N rows, draw by draw.

    Of a recurrent model without its recurrence.
    """
    given = laws.given(regimes)
    found = exact_gaussian.filter(_chain_of(given), given.values, given.mask, given.lengths)
    moves = given.transition, given.offset, given.noise
    return _smoothed(found.means, found.covariances, *moves, given.lengths)


@torch.no_grad()
def state_chain(laws: SwitchingLaws, weight: Tensor) -> StateChain:
    """argmax_q E_q[Σ_t Σ_k w_tk log N_k(z_t | z_{t-1}) + log p(y | z)] + entropy of q.

    Args:
        laws: of N sequences; without the recurrence, if there is one.
        weight: probabilities of the regimes, (N, T, K).
    """
    some = _potentials(laws, weight.to(laws.drift))
    # exp(−½ z'Λz + h'z) is the likelihood of an observation of L'z with unit noise, Λ = LL'.
    scale, basis = torch.linalg.eigh(some.precision)
    told = scale > 1e-12 * scale.amax(-1, keepdim=True)
    root = torch.where(told, scale, 0).sqrt()
    loading = root.unsqueeze(-1) * basis.mT
    inward = (basis.mT @ some.information.unsqueeze(-1)).squeeze(-1)
    values = torch.where(told, inward / torch.where(told, root, 1), 0)
    one = torch.ones_like(values[:1, :1])
    chain = LinearChain(
        laws.initial_mean.unsqueeze(0),
        torch.diag_embed(laws.initial_scale.square()).unsqueeze(0),
        one.new_zeros(one.shape[-1], 0),
        some.transition,
        some.offset,
        0.5 * (some.noise + some.noise.mT),
        loading,
        0 * one,
        torch.diag_embed(one),
    )
    found = exact_gaussian.filter(chain, values, told, laws.lengths)
    moves = some.transition, some.offset, some.noise
    return _smoothed(found.means, found.covariances, *moves, laws.lengths)


def _potentials(laws: SwitchingLaws, weight: Tensor) -> _Potentials:
    inside = laws.data.step_mask
    # Beyond the end any proper law is valid: it has no influence on earlier steps.
    weight = torch.where(inside.unsqueeze(-1), weight, 1 / laws.regimes)
    precision = torch.cholesky_inverse(laws.noise_factor)
    forward = precision @ laws.dynamics
    push = (precision @ laws.drift.unsqueeze(-1)).squeeze(-1)
    into = weight[:, 1:]
    joint = torch.einsum("ntk,kij->ntij", into, precision)
    noise = torch.linalg.inv(joint)
    transition = noise @ torch.einsum("ntk,kij->ntij", into, forward)
    offset = (noise @ torch.einsum("ntk,ki->nti", into, push).unsqueeze(-1)).squeeze(-1)
    back = laws.dynamics.mT
    left = torch.einsum("ntk,kij->ntij", into, back @ forward) - transition.mT @ joint @ transition
    pull = torch.einsum("ntk,ki->nti", into, (back @ push.unsqueeze(-1)).squeeze(-1))
    kept = (transition.mT @ (joint @ offset.unsqueeze(-1))).squeeze(-1)
    moves = inside[:, 1:].unsqueeze(-1)
    node, linear = _from_data(laws, weight)
    node[:, :-1] += torch.where(moves.unsqueeze(-1), left, 0)
    linear[:, :-1] += torch.where(moves, kept - pull, 0)
    return _Potentials(transition, offset, noise, 0.5 * (node + node.mT), linear)


def _from_data(laws: SwitchingLaws, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Precision (N, T, D, D) and information (N, T, D) of what was observed."""
    seen = laws.data.mask.to(weight)
    scaled = laws.loading * laws.observation_scale.pow(-2).unsqueeze(-1)
    outer = torch.einsum("kfi,kfj->kfij", laws.loading, scaled)
    y = laws.data.values.to(weight).unsqueeze(-2) - laws.intercept  # (N, T, K|1, F)
    if len(laws.loading) == 1:
        weight = torch.ones_like(weight[..., :1])
    return (
        torch.einsum("ntk,ntf,kfij->ntij", weight, seen, outer),
        torch.einsum("ntk,ntkf,ntf,kfi->nti", weight, y, seen, scaled),
    )


def _smoothed(
    mean: Tensor, covariance: Tensor, a: Tensor, b: Tensor, q: Tensor, lengths: Tensor
) -> StateChain:
    """The Rauch-Tung-Striebel sweep from filtered moments, z_{t+1} = A z_t + b + N(0, Q)."""
    before = covariance[:, :-1]
    predicted = a @ before @ a.mT + q
    gain = torch.linalg.solve(predicted, a @ before).mT
    eye = torch.eye(a.shape[-1]).to(a)
    rest = eye - gain @ a
    conditional = rest @ before @ rest.mT + gain @ q @ gain.mT
    conditional = 0.5 * (conditional + conditional.mT)
    ahead = (a @ mean[:, :-1].unsqueeze(-1)).squeeze(-1) + b
    shift = mean[:, :-1] - (gain @ ahead.unsqueeze(-1)).squeeze(-1)
    rows = torch.arange(len(mean), device=mean.device)
    last = lengths - 1
    smoothed = exact_gaussian.backward_sweep(gain, shift, mean[rows, last], lengths)
    spread = exact_gaussian.backward_covariances(gain, conditional, covariance[rows, last], lengths)
    return StateChain(smoothed, 0.5 * (spread + spread.mT), gain, conditional, lengths)


def expected_dynamics(laws: SwitchingLaws, chain: StateChain) -> Tensor:
    """E log N(z_{t+1}; A_k z_t + b_k, Q_k) of every regime, (N, T-1, K); differentiable."""
    eye = torch.eye(chain.mean.shape[-1]).to(laws.noise_factor)
    inverse = torch.linalg.solve_triangular(laws.noise_factor, eye, upper=False)
    driven = inverse @ laws.dynamics
    scale = laws.noise_factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    before, after = chain.mean[:, :-1], chain.mean[:, 1:]
    apart = (
        torch.einsum("kij,ntj->ntki", inverse, after)
        - torch.einsum("kij,ntj->ntki", driven, before)
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
    spread = torch.einsum("kia,kib,ntab->ntk", both, both, joint)
    constant = scale + 0.5 * len(eye) * math.log(2 * math.pi)
    return -0.5 * (apart.square().sum(-1) + spread) - constant


def expected_emission(laws: SwitchingLaws, chain: StateChain) -> Tensor:
    """E log O(y_t | s_t = k, z_t), (N, T, K|1), zero where nothing was observed; differentiable."""
    mask = laws.data.mask.unsqueeze(-2)
    y = laws.data.values.to(chain.mean).unsqueeze(-2)
    apart = y - torch.einsum("kfi,nti->ntkf", laws.loading, chain.mean) - laws.intercept
    spread = torch.einsum("kfi,kfj,ntij->ntkf", laws.loading, laws.loading, chain.covariance)
    variance = laws.observation_scale.square()
    terms = -0.5 * ((apart.square() + spread) / variance + (2 * math.pi * variance).log())
    return torch.where(mask, terms, 0).sum(-1)


def expected_first(laws: SwitchingLaws, chain: StateChain) -> Tensor:
    """E log p(z_1), (N,); differentiable."""
    variance = laws.initial_scale.square()
    square = (chain.mean[:, 0] - laws.initial_mean).square()
    square = square + chain.covariance[:, 0].diagonal(dim1=-2, dim2=-1)
    return -0.5 * (square / variance + (2 * math.pi * variance).log()).sum(-1)


def regime_scores(laws: SwitchingLaws, chain: StateChain) -> Tensor:
    """The evidence of the state's law for every regime at every step, (N, T, K).

    E log O_k(y_t) + E log N_k(z_t | z_{t-1}): linear in the regimes, as log O_k(y_t) is for a
    hidden Markov model. Zero beyond the length; differentiable in the parameters.
    """
    inside = laws.data.step_mask.unsqueeze(-1)
    moves = expected_dynamics(laws, chain)
    moves = torch.nn.functional.pad(moves, (0, 0, 1, 0))
    return torch.where(inside, moves + expected_emission(laws, chain), 0)


def expected_log_joint(laws: SwitchingLaws, weight: Tensor, chain: StateChain) -> Tensor:
    """E[Σ_t Σ_k w_tk (log N_k + log O_k) + log p(z_1)] + entropy of the chain, (N,) nats.

    With the weights' own chain the gradient is exact in weights and parameters although the chain
    is held constant, since it maximises this value. For hard weights it is log p(y | s).
    """
    scores = (weight * regime_scores(laws, chain)).sum((-1, -2))
    return scores + expected_first(laws, chain) + chain.entropy
