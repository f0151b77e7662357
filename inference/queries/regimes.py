"""Regimes of a switching linear model with known parameters: smoothed, and the most likely path."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...models import Sequences, SwitchingLaws, SwitchingLinearSSM
from ...models.checks import require, require_count
from ...models.trajectories import one_hot
from ..exact import chains as exact
from .answers import MostLikely
from .mixture_kalman import mixture_kalman
from .regime_moments import conditional_evidence, expected_first, regime_scores, state_chain


@dataclass(frozen=True)
class SmoothedRegimes:
    """The factorised posterior q(s) q(z) of N sequences, at the optimum of its bound."""

    regimes: Tensor
    """q(s_t), (N, T, K), zero beyond the length"""
    mean: Tensor
    """E[z_t], (N, T, D)"""
    covariance: Tensor
    """Cov[z_t], (N, T, D, D)"""
    bound: Tensor
    """On log p(y_n), (N,) nats, after each sweep: (sweeps, N), never decreasing"""


def smooth_regimes(
    model: SwitchingLinearSSM,
    data: Sequences,
    *,
    sweeps: int = 100,
    tolerance: float = 1e-8,
    particles: int = 50,
    seed: int = 0,
) -> SmoothedRegimes:
    """Smooth regimes and state by coordinate ascent on the factorised bound.

    In turn the exact smoother of a Gaussian chain and of a hidden Markov model (Ghahramani & Hinton
    2000), from the regimes of particles. The optimum is a local one. It is what ``RegimeGuide``
    with ``bound="factorised"`` amortizes.

    Args:
        model: all of its parameters known; without recurrence.
        data: N sequences.
        sweeps: at most.
        tolerance: ends when no bound grows by more, in nats per step.
        particles: of the start, see ``mixture_kalman``.
        seed: of the particles.

    Raises:
        ValueError: a parameter that is not known, a recurrent model, or data that cannot come from
            the model.
    """
    _check(model, sweeps)
    found = mixture_kalman(model, data, particles=particles, draws=particles, seed=seed)
    with torch.no_grad():
        laws = model.laws({}, data)
        weight = one_hot(found.paths, model.regimes, laws.drift.dtype).mean(0)
        bounds: list[Tensor] = []
        for _ in range(sweeps):
            chain = state_chain(laws, weight)
            scores = regime_scores(laws, chain)
            arguments = laws.log_initial, laws.log_transition, scores, laws.lengths
            weight = exact.smooth_chain(*arguments).exp() * data.step_mask.unsqueeze(-1)
            evidence = exact.log_evidence(*arguments)
            bounds.append(evidence + expected_first(laws, chain) + chain.entropy)
            if len(bounds) > 1 and _still(bounds, laws, tolerance):
                break
        chain = state_chain(laws, weight)
        return SmoothedRegimes(weight, chain.mean, chain.covariance, torch.stack(bounds))


def _still(bounds: list[Tensor], laws: SwitchingLaws, tolerance: float) -> bool:
    return bool(((bounds[-1] - bounds[-2]) <= tolerance * laws.lengths).all())


def most_likely_regimes(
    model: SwitchingLinearSSM,
    data: Sequences,
    *,
    sweeps: int = 100,
    particles: int = 50,
    seed: int = 0,
) -> MostLikely:
    """argmax_s log p(y, s), the state integrated out: paths (N, T), and that logarithm (N,).

    The best path of the particles, improved by expectation maximisation over the state, whose
    steps are the smoother along the path and Viterbi's. log p(y, s) never decreases; the maximum is
    a local one.

    Args:
        model: all of its parameters known; without recurrence.
        data: N sequences.
        sweeps: at most.
        particles: of the start, see ``mixture_kalman``.
        seed: of the particles.

    Raises:
        ValueError: as ``smooth_regimes``.
    """
    _check(model, sweeps)
    found = mixture_kalman(model, data, particles=particles, draws=particles, seed=seed)
    with torch.no_grad():
        laws = model.laws({}, data)
        paths, log_joint = _best(laws, found.paths)
        for _ in range(sweeps):
            chain = state_chain(laws, one_hot(paths, model.regimes, laws.drift.dtype))
            better, _ = exact.most_likely_path(
                laws.log_initial, laws.log_transition, regime_scores(laws, chain), laws.lengths
            )
            _, now = _best(laws, better.unsqueeze(0))
            gains = now > log_joint
            if not bool(gains.any()):
                break
            paths = torch.where(gains.unsqueeze(-1), better, paths)
            log_joint = torch.where(gains, now, log_joint)
        return MostLikely(paths, log_joint)


def _best(laws: SwitchingLaws, paths: Tensor) -> tuple[Tensor, Tensor]:
    """The path of every sequence with the largest log p(y, s), of (S, N, T)."""
    regimes = laws.regime_chain.states()
    hard = one_hot(paths, laws.regimes, laws.drift.dtype)
    log_joint = conditional_evidence(laws, paths) + regimes.log_prob(hard)
    best = log_joint.argmax(0)
    rows = torch.arange(len(best))
    return paths[best, rows], log_joint[best, rows]


def _check(model: SwitchingLinearSSM, sweeps: int) -> None:
    require(
        isinstance(model, SwitchingLinearSSM), "model", "must be a SwitchingLinearSSM", repr(model)
    )
    require(
        not model.recurrent,
        "model",
        "must not be recurrent: given the regimes it would not be linear-Gaussian; use "
        "mixture_kalman or a RegimeGuide",
        repr(model),
    )
    require_count(sweeps, "sweeps")
