"""Regimes of a switching linear model with known parameters: smoothed, and the most likely path."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...models import Sequences, SwitchingLaws, SwitchingLinearSSM
from ...models.boundary import boundary
from ...models.checks import Impossible, require, require_count
from ...models.trajectories import one_hot
from ..exact import chains as exact
from .answers import MostLikely
from .mixture_kalman import possible_particles
from .regime_moments import conditional_evidence, expected_first, regime_scores, state_chain


@dataclass(frozen=True)
class SmoothedRegimes:
    """Factorised posterior q(s) q(z) of N sequences, at an optimum of its bound.

    Attributes:
        regimes: q(s_t), (N, T, K), zero beyond the length.
        mean: E[z_t], (N, T, D).
        covariance: Cov[z_t], (N, T, D, D).
        bound: lower bound on log p(y_n) after each sweep, (sweeps, N) nats, never decreasing.

    >>> from beliefzoo.inference import smooth_regimes
    >>> from beliefzoo.models import Sequences, SwitchingLinearSSM
    >>> model = SwitchingLinearSSM(regimes=2, dimensions=1).with_parameters(  # calm, or wild
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]],
    ...     initial_mean=[0.0], initial_scale=[1.0], dynamics=[[[1.0]], [[1.0]]],
    ...     drift=[[0.0], [0.0]], noise_scale=[[0.1], [3.0]],
    ...     loading=[[1.0]], intercept=[0.0], observation_scale=[0.1],
    ... )
    >>> found = smooth_regimes(model, Sequences.from_arrays([[0.1, 0.0, 0.1, 5.0, 1.0]]))
    >>> found.regimes.shape, found.mean.shape, found.bound.shape
    (torch.Size([1, 5, 2]), torch.Size([1, 5, 1]), torch.Size([3, 1]))
    """

    regimes: Tensor
    mean: Tensor
    covariance: Tensor
    bound: Tensor


@boundary
def smooth_regimes(
    model: SwitchingLinearSSM,
    data: Sequences,
    *,
    sweeps: int = 100,
    tolerance: float = 1e-8,
    particles: int = 50,
    seed: int = 0,
    impossible: Impossible = "raise",
) -> SmoothedRegimes:
    """Smooths regimes and state by coordinate ascent on the factorised bound.

    It alternates between the exact smoothers of a Gaussian chain and of a hidden Markov model,
    starting from the regimes of particles. The optimum is a local one. ``RegimeGuide`` with
    ``bound="factorised"`` amortizes this computation.

    Args:
        model: with all parameters known, without recurrence.
        data: N sequences.
        sweeps: largest number of sweeps.
        tolerance: stop when no bound grows by more, in nats per step.
        particles: number of particles for the start, see :func:`mixture_kalman`.
        seed: of the particles.
        impossible: at an observation of probability 0 given those before it, ``"raise"`` a
            ``ValueError`` that names sequence and step, or treat it as ``"missing"``.

    Returns:
        Probabilities of regimes, moments of the state, and the bound.

    Raises:
        ValueError: an unknown parameter, a recurrent model, or data that cannot come from the
            model.

    Source: Ghahramani & Hinton (2000).

    >>> from beliefzoo.inference import mixture_kalman, smooth_regimes
    >>> from beliefzoo.models import Sequences, SwitchingLinearSSM
    >>> model = SwitchingLinearSSM(regimes=2, dimensions=1).with_parameters(  # calm, or wild
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]],
    ...     initial_mean=[0.0], initial_scale=[1.0], dynamics=[[[1.0]], [[1.0]]],
    ...     drift=[[0.0], [0.0]], noise_scale=[[0.1], [3.0]],
    ...     loading=[[1.0]], intercept=[0.0], observation_scale=[0.1],
    ... )
    >>> data = Sequences.from_arrays([[0.1, 0.0, 0.1, 5.0, 1.0]])
    >>> found = smooth_regimes(model, data)
    >>> found.regimes[0, :, 1].numpy().round(2)  # probability of the wild regime
    array([0.12, 0.02, 0.06, 1.  , 1.  ])
    >>> bool(found.bound[-1] < mixture_kalman(model, data).log_evidence)
    True
    """
    _check(model, sweeps)
    found, laws = possible_particles(model, data, particles, particles, seed, impossible)
    with torch.no_grad():
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


@boundary
def most_likely_regimes(
    model: SwitchingLinearSSM,
    data: Sequences,
    *,
    sweeps: int = 100,
    particles: int = 50,
    seed: int = 0,
    impossible: Impossible = "raise",
) -> MostLikely:
    """Most likely path of regimes, argmax_s log p(y, s), with the state integrated out.

    The best path of the particles is improved by expectation maximisation over the state, which
    alternates between the smoother along the path and the Viterbi algorithm. log p(y, s) never
    decreases; the maximum is a local one.

    Args:
        model: with all parameters known, without recurrence.
        data: N sequences.
        sweeps: largest number of sweeps.
        particles: number of particles for the start, see :func:`mixture_kalman`.
        seed: of the particles.
        impossible: at an observation of probability 0 given those before it, ``"raise"`` a
            ``ValueError`` that names sequence and step, or treat it as ``"missing"``.

    Returns:
        The paths (N, T), and log p(y, s) of each, (N,) nats.

    Raises:
        ValueError: as :func:`smooth_regimes`.

    >>> from beliefzoo.inference import most_likely_regimes
    >>> from beliefzoo.models import Sequences, SwitchingLinearSSM
    >>> model = SwitchingLinearSSM(regimes=2, dimensions=1).with_parameters(  # calm, or wild
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]],
    ...     initial_mean=[0.0], initial_scale=[1.0], dynamics=[[[1.0]], [[1.0]]],
    ...     drift=[[0.0], [0.0]], noise_scale=[[0.1], [3.0]],
    ...     loading=[[1.0]], intercept=[0.0], observation_scale=[0.1],
    ... )
    >>> data = Sequences.from_arrays([[0.1, 0.0, 0.1, 5.0, 1.0]])
    >>> most_likely_regimes(model, data).states.tolist()
    [[0, 0, 0, 1, 1]]
    """
    _check(model, sweeps)
    found, laws = possible_particles(model, data, particles, particles, seed, impossible)
    with torch.no_grad():
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
