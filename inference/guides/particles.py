"""Particle filters: evidence, filter and smoother of any model, by weighted draws.

Sequential importance sampling with resampling (Gordon, Salmond & Smith 1993), with the model's own
transition or that of a guide as the proposal. Estimates of exp(evidence) are unbiased, and all
estimates are consistent as the number of particles grows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, cast, get_args

import torch
from torch import Tensor

from ...models import DiscreteLaws, LinearGaussianLaws, Model, Sequences, TrajectoryLaws
from ...models.boundary import boundary
from ...models.checks import Impossible, require, require_choice, require_count, require_share
from ...models.randomness import seeded
from ...models.trajectories import invert, one_hot
from ..filters.gaussian_beliefs import product, square_root
from ..queries.possible import possible_data
from .guide import Guide, Posterior

Resampling = Literal["systematic", "stratified", "multinomial"]

RESAMPLED_BELOW = 0.5
"""Share of effective particles below which they are resampled, unless told otherwise."""

_NUMBERS = 2**23
"""Numbers held at once while paths are drawn backwards."""


class StepLaws(Protocol):
    """The laws of a model with continuous states, one step at a time; t from 0 on.

    States are (…, N, D), log densities (…, N).
    """

    @property
    def data(self) -> Sequences:
        """The sequences."""

    def draw_first(self, n: int) -> Tensor:
        """n draws of the first states, (n, N, D)."""

    def draw_next(self, states: Tensor, t: int, /) -> Tensor:
        """One draw of the states after step t given those at it."""

    def log_first(self, states: Tensor) -> Tensor:
        """log p(z_1)."""

    def log_next(self, later: Tensor, states: Tensor, t: int, /) -> Tensor:
        """log density of the states after step t given those at it."""

    def log_step(self, states: Tensor, t: int, /) -> Tensor:
        """log O(y_t | z_t); 0 where nothing was observed."""


class _Proposal(Protocol):
    """The proposal of the particles. Both give (states, log p − log q), (…, N[, D]) and (…, N)."""

    def first(self, n: int) -> tuple[Tensor, Tensor]: ...

    def next(self, states: Tensor, t: int) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, eq=False)
class Particles:
    """Result of a particle filter with P particles on N sequences of at most T steps.

    exp(``log_evidence``) is an unbiased estimate of p(y_n). Beyond the length of a sequence
    increments and means are zero.

    Attributes:
        log_evidence: log p(y_n), (N,) nats.
        log_increments: log p(y_t | y_1 … y_{t-1}), (N, T) nats.
        effective: effective number of particles after each step, 1 / Σ w², (N, T).
        resampled: whether the particles were resampled after the step, (N, T) bool.
        mean: E[z_t | y_1 … y_t], (N, T, D), or p(z_t | y_1 … y_t), (N, T, K).
        states: the particles, (T, P, N, D), or (T, P, N) int64.
        log_weights: logs of their weights, which sum to 1, (T, P, N).
        laws: the laws that move them.

    >>> from beliefzoo.inference import particle_filter
    >>> from beliefzoo.models import mess3
    >>> model = mess3().model
    >>> found = particle_filter(model, model.sample(2, 10, seed=0).data, particles=100)
    >>> found.effective.shape, found.sample_paths(5).shape
    (torch.Size([2, 10]), torch.Size([5, 2, 10]))
    """

    log_evidence: Tensor
    log_increments: Tensor
    effective: Tensor
    resampled: Tensor
    mean: Tensor
    states: Tensor
    log_weights: Tensor
    laws: StepLaws = field(repr=False)

    def sample_paths(self, n: int = 100, *, seed: int = 0) -> Tensor:
        """Draws n trajectories from p(z | y) by backward sampling.

        Given z_{t+1}, z_t is drawn among the particles with weights w_t p(z_{t+1} | z_t): n P
        transition densities a step.

        Args:
            n: number of trajectories.
            seed: of the draws.

        Returns:
            (n, N, T, D), zero beyond the length, or int64 (n, N, T), −1 there.

        Source: Godsill, Doucet & West (2004).
        """
        require_count(n, "n")
        particles, sequences = self.log_weights.shape[1:]
        width = self.states[0, 0, 0].numel()
        block = max(1, _NUMBERS // (particles * sequences * width))
        with seeded(seed), torch.no_grad():
            parts = [self._backward(min(block, n - done)) for done in range(0, n, block)]
        paths = torch.cat(parts, 1).movedim(0, 2)
        beyond = ~self.laws.data.step_mask
        if paths.ndim == 3:
            return paths.masked_fill(beyond, -1)
        return torch.where(beyond.unsqueeze(-1), 0, paths)

    def _backward(self, n: int) -> Tensor:
        """(T, n, N[, D])"""
        lengths = self.laws.data.lengths
        rows = torch.arange(len(lengths), device=lengths.device)
        chosen: list[Tensor] = []
        for t in reversed(range(len(self.states))):
            states = self.states[t]
            logits = self.log_weights[t].expand(n, *self.log_weights[t].shape)
            if chosen:
                here = states.expand(n, *states.shape)
                later = chosen[-1].unsqueeze(1).expand_as(here)
                onward = self.laws.log_next(later, here, t)
                logits = logits + torch.where(t + 1 < lengths, onward, 0)
            gumbel = -torch.empty_like(logits).exponential_().log()
            chosen.append(states[(logits + gumbel).argmax(1), rows])
        return torch.stack(chosen[::-1])


@boundary
def particle_filter(
    model: Model,
    data: Sequences,
    *,
    particles: int = 1000,
    proposal: Guide | None = None,
    resampling: Resampling = "systematic",
    threshold: float = RESAMPLED_BELOW,
    seed: int = 0,
    impossible: Impossible = "raise",
) -> Particles:
    """Filters sequences with particles.

    Args:
        model: with all parameters known, and a first state that can be drawn (no flat prior).
        data: N sequences.
        particles: number per sequence.
        proposal: a guide of the same model, whose law of z_{t+1} given z_t is the proposal; for a
            ``BeliefGuide`` it is ∝ T(z_{t+1} | z_t) β_{t+1}(z_{t+1}) / π_{t+1}(z_{t+1}), which is
            the best proposal that knows y_{t+1} if β is the exact filter. The parameters of its
            model are not used. None: the model's own transition (the bootstrap filter).
        resampling: how particles are drawn by their weights: ``"systematic"`` (one random number
            per sequence), ``"stratified"`` (one in each of P strata) or ``"multinomial"``.
        threshold: resample when the effective share of particles falls below it; 0: never, 1: at
            every step.
        seed: of all draws; torch's global generator is left unchanged.
        impossible: at an observation of probability 0 given those before it, ``"raise"`` a
            ``ValueError`` that names sequence and step, or treat it as ``"missing"``.
            Where there is exact inference, that decides it, and particles that all miss a
            possible observation are an error; otherwise it is one that no particle can emit.

    Returns:
        Evidence, means and weighted particles.

    Raises:
        ValueError: a bad argument, an unknown parameter, data that cannot come from the model, or
            no particle left with a weight: names sequence and step.

    Source: Gordon, Salmond & Smith (1993); Doucet & Johansen (2009).

    >>> from beliefzoo.inference import log_evidence, particle_filter
    >>> from beliefzoo.models import mess3
    >>> model = mess3().model
    >>> data = model.sample(3, 20, seed=0).data
    >>> found = particle_filter(model, data, particles=2000, seed=0)
    >>> bool((found.log_evidence - log_evidence(model, data)).abs().max() < 0.3)
    True
    """
    require_count(particles, "particles", 2)
    known = get_args(Resampling)
    require(resampling in known, "resampling", f"must be one of {known}", repr(resampling))
    require_share(threshold, "threshold")
    fits = proposal is None or isinstance(proposal, Guide)
    require(fits, "proposal", "must be a guide or None", repr(proposal))
    require_choice(impossible, "impossible", ("raise", "missing"))
    model.complete({})  # raises for unknown parameters
    model.check(data)
    if impossible == "missing" and model.exact:
        data, impossible = possible_data(model, data, impossible), "raise"
    with seeded(seed), torch.no_grad():
        laws = model.laws({}, data)
        posterior = None if proposal is None else proposal.posterior(laws)
        return _filtered(laws, posterior, particles, resampling, threshold, impossible)


def log_evidence_by_particles(laws: TrajectoryLaws, posterior: Posterior, particles: int) -> Tensor:
    """Log of the particle estimate of p(y_n), (N,) nats: the objective of Maddison et al. (2017).

    Differentiable in the laws and in the guide's posterior through the weights and the draws of
    continuous states. The choice of resampled particles is treated as fixed: that part of the
    gradient, which is mostly noise, is left out, so that this is not the gradient of the
    expectation.
    """
    steps = stepwise(laws)
    moves = _proposal(laws, steps, posterior)
    record = _run(steps, moves, particles, "systematic", RESAMPLED_BELOW, "raise", keep=False)
    return torch.stack(record.increments, -1).sum(-1)


def _filtered(
    laws: TrajectoryLaws,
    posterior: Posterior | None,
    particles: int,
    resampling: Resampling,
    threshold: float,
    impossible: Impossible,
) -> Particles:
    steps = stepwise(laws)
    moves = _proposal(laws, steps, posterior)
    record = _run(steps, moves, particles, resampling, threshold, impossible, keep=True)
    increments = torch.stack(record.increments, -1)
    states, log_weights = torch.stack(record.states), torch.stack(record.log_weights)
    shown = states if laws.discrete is None else DiscreteSteps(laws.discrete).shown(states)
    mean = (log_weights.exp().unsqueeze(-1) * shown).sum(1).movedim(0, 1)
    return Particles(
        log_evidence=increments.sum(-1),
        log_increments=increments,
        effective=1 / (2 * log_weights).exp().sum(1).mT,
        resampled=torch.stack(record.resampled, -1),
        mean=torch.where(steps.data.step_mask.unsqueeze(-1), mean, 0),
        states=states,
        log_weights=log_weights,
        laws=steps,
    )


# --- the recursion


class _Record(NamedTuple):
    increments: list[Tensor]
    resampled: list[Tensor]
    states: list[Tensor]
    log_weights: list[Tensor]


def _run(
    laws: StepLaws,
    proposal: _Proposal,
    particles: int,
    resampling: Resampling,
    threshold: float,
    impossible: Impossible,
    *,
    keep: bool,
) -> _Record:
    record = _Record([], [], [], [])
    lengths = laws.data.lengths
    states, log_ratio = proposal.first(particles)
    log_weight = torch.full_like(log_ratio, -math.log(particles))
    for t in range(laws.data.max_length):
        if t:
            states, log_ratio = proposal.next(states, t - 1)
        moved = log_weight + log_ratio
        weighted = moved + laws.log_step(states, t)
        if impossible == "missing":
            weighted = torch.where(weighted.isneginf().all(0), moved, weighted)
        # A sequence that has ended keeps its weights.
        weighted = torch.where(t < lengths, weighted, log_weight)
        total = weighted.logsumexp(0)
        _check_alive(total, laws.data, t)
        log_weight = weighted - total
        record.increments.append(total.where(t < lengths, 0))
        if keep:
            record.states.append(states)
            record.log_weights.append(log_weight)
        share = 1 / (2 * log_weight.detach()).exp().sum(0) / particles
        poor = (share < threshold) | (threshold == 1)
        poor = poor & (t + 1 < lengths)
        record.resampled.append(poor)
        if bool(poor.any()):
            states, log_weight = _resampled(states, log_weight, poor, resampling)
    return record


def _check_alive(total: Tensor, data: Sequences, t: int) -> None:
    bad = ~total.isfinite()
    if bool(bad.any()):
        n = int(bad.nonzero()[0])
        at = "" if data.times is None else f", time {float(data.times[n, t]):g}"
        raise ValueError(
            "particles: none is left with a weight in sequence "
            f"{data.labels[n]!r}, step {t}{at}, got log p(y_t | y_1 … y_(t-1)) = "
            f"{float(total[n])}; take more particles or a better proposal"
        )


def _resampled(
    states: Tensor, log_weight: Tensor, poor: Tensor, resampling: Resampling
) -> tuple[Tensor, Tensor]:
    particles, sequences = log_weight.shape
    chosen = ancestors(log_weight.detach().exp(), resampling)
    itself = torch.arange(particles, device=poor.device).unsqueeze(-1)
    chosen = torch.where(poor, chosen, itself)
    rows = torch.arange(sequences, device=poor.device)
    even = torch.full_like(log_weight, -math.log(particles))
    return states[chosen, rows], torch.where(poor, even, log_weight)


def ancestors(weight: Tensor, resampling: Resampling) -> Tensor:
    """Draws particles (P, N) by weights (P, N), each w P times on average."""
    cumulative = weight.mT.double().cumsum(-1)
    particles = len(weight)
    place = torch.arange(particles, dtype=torch.float64, device=weight.device)
    if resampling == "multinomial":
        point = torch.rand_like(cumulative)
    elif resampling == "stratified":
        point = (place + torch.rand_like(cumulative)) / particles
    else:
        point = (place + torch.rand_like(cumulative[:, :1])) / particles
    # Relative to the last sum, so that rounding leads to no particle without weight.
    found = torch.searchsorted(cumulative, point * cumulative[:, -1:], right=True)
    last = (cumulative < cumulative[:, -1:]).sum(-1, keepdim=True)
    return found.minimum(last).mT


# --- discrete states, seen as a model of steps


@dataclass(frozen=True)
class DiscreteSteps:
    """The laws of a chain of K states, step by step; states are int64 (…, N)."""

    laws: DiscreteLaws

    @property
    def data(self) -> Sequences:
        """The sequences."""
        return self.laws.data

    @property
    def _rows(self) -> Tensor:
        return torch.arange(len(self.data), device=self.laws.lengths.device)

    def table(self, t: int) -> Tensor:
        """log T of the step from t, (N|1, K, K)."""
        return self.laws.step(t)

    def moves(self, states: Tensor, t: int) -> Tensor:
        """log T(· | z_t) of states (…, N), (…, N, K)."""
        table = self.table(t)
        return table[self._rows if len(table) > 1 else 0, states]

    def draw_first(self, n: int) -> Tensor:
        """n draws of the first states, (n, N)."""
        return self.drawn(self.log_initial.expand(n, -1, -1))

    @property
    def log_initial(self) -> Tensor:
        """log p(z_1), (N, K)."""
        return self.laws.log_initial.expand(len(self.data), -1)

    def draw_next(self, states: Tensor, t: int) -> Tensor:
        """One draw of the states after step t given those at it, (…, N)."""
        return self.drawn(self.moves(states, t))

    @staticmethod
    def drawn(log_weight: Tensor) -> Tensor:
        """States drawn in proportion to exp(log_weight), (…, K); any if all are zero."""
        top = log_weight.amax(-1, keepdim=True).clamp_min(torch.finfo(log_weight.dtype).min)
        cumulative = (log_weight - top).exp().cumsum(-1)
        return invert(cumulative, torch.rand_like(cumulative[..., :1]))

    def log_first(self, states: Tensor) -> Tensor:
        """log p(z_1), (…, N)."""
        return self.log_initial[self._rows, states]

    def log_next(self, later: Tensor, states: Tensor, t: int) -> Tensor:
        """log T of the step from t, (…, N)."""
        table = self.table(t)
        return table[self._rows if len(table) > 1 else 0, states, later]

    def log_step(self, states: Tensor, t: int) -> Tensor:
        """log O_k(y_t), (…, N)."""
        return self.laws.log_likelihood[self._rows, t, states]

    def shown(self, states: Tensor) -> Tensor:
        """One-hot states, whose means are probabilities."""
        table = self.laws.log_initial
        return one_hot(states, table.shape[-1], table.dtype)


def stepwise(laws: TrajectoryLaws) -> StepLaws:
    """Returns any model's laws, one step at a time."""
    if laws.discrete is not None:
        return DiscreteSteps(laws.discrete)
    # In the dtype of the posteriors of guides.
    own: object = laws if laws.linear is None else laws.linear.in_double()
    if all(hasattr(own, name) for name in ("draw_first", "draw_next", "log_next", "log_step")):
        return cast(StepLaws, own)
    raise ValueError(
        f"model: needs laws that can be followed step by step, got {type(laws).__name__}"
    )


# --- proposals


class _Stepwise(Protocol):
    """A posterior that is a normal law of each state given the one before."""

    def step(self, states: Tensor | None, t: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z_{t+1} given z_t, of z_1 given None at t = 0."""


def _proposal(laws: TrajectoryLaws, steps: StepLaws, posterior: Posterior | None) -> _Proposal:
    """What a posterior has decides how it proposes: a tilt of the model's moves, or own steps."""
    tilt = getattr(posterior, "tilt", None)
    if posterior is not None and tilt is None and not hasattr(posterior, "step"):
        raise _no_proposal(posterior)
    if laws.discrete is not None:
        return _DiscreteProposal(DiscreteSteps(laws.discrete), None if tilt is None else tilt())
    if posterior is None:
        return _Bootstrap(steps)
    if laws.linear is not None and tilt is not None:
        return _Tilted(laws.linear.in_double(), *tilt())
    return _Conditional(steps, cast(_Stepwise, posterior))


def _no_proposal(posterior: Posterior) -> ValueError:
    return ValueError(
        "proposal: needs a guide with a law of each state given the one before (BeliefGuide or "
        "ForwardGuide of discrete states or linear-Gaussian laws, DeepGuide), got one with "
        f"{type(posterior).__name__}"
    )


@dataclass(frozen=True)
class _Bootstrap:
    """The model's own laws."""

    laws: StepLaws

    def first(self, n: int) -> tuple[Tensor, Tensor]:
        states = self.laws.draw_first(n)
        return states, states.new_zeros(states.shape[:-1])

    def next(self, states: Tensor, t: int) -> tuple[Tensor, Tensor]:
        return self.laws.draw_next(states, t), states.new_zeros(states.shape[:-1])


@dataclass(frozen=True)
class _DiscreteProposal:
    """q(z' | z) ∝ T(z' | z) exp(s_{t+1}(z')); with s = 0 the model's own, densities included."""

    steps: DiscreteSteps
    tilt: Tensor | None
    """s, (N, T, K)."""

    def first(self, n: int) -> tuple[Tensor, Tensor]:
        return self._drawn(self.steps.log_initial.expand(n, -1, -1), 0)

    def next(self, states: Tensor, t: int) -> tuple[Tensor, Tensor]:
        return self._drawn(self.steps.moves(states, t), t + 1)

    def _drawn(self, log_weight: Tensor, t: int) -> tuple[Tensor, Tensor]:
        score = None if self.tilt is None else self.tilt[:, t]
        tilted = log_weight if score is None else log_weight + score
        states = self.steps.drawn(tilted)
        log_ratio = tilted.logsumexp(-1)
        if score is not None:
            index = states.unsqueeze(-1)
            log_ratio = log_ratio - score.expand(*tilted.shape).gather(-1, index).squeeze(-1)
        # From a state without possible next state every transition has weight zero.
        return states, torch.where(tilted.isneginf().all(-1), -torch.inf, log_ratio)


class _Tilted:
    """q(z' | z) ∝ N(z'; A z + b, Q) exp(−½ z'Λz' + η'z'), Λ >= 0; Q may be singular.

    With m = A z + b, h = η − Λ m and S = (1 + Q Λ)⁻¹ Q this is N(m + S h, S), with normaliser
    |1 + Q Λ|^{-1/2} exp(−½ m'Λm + η'm + ½ h'Sh).
    """

    def __init__(self, laws: LinearGaussianLaws, precision: Tensor, shift: Tensor) -> None:
        self.laws = laws
        dtype = laws.initial_mean.dtype
        self.precision, self.shift = precision.to(dtype), shift.to(dtype)

    def first(self, n: int) -> tuple[Tensor, Tensor]:
        flat = self.laws.diffuse.shape[-1]
        require(not flat, "model", "needs a proper law of the first state", f"{flat} flat ones")
        mean = self.laws.initial_mean.expand(n, len(self.laws.data), -1)
        return self._drawn(mean, self.laws.initial_covariance, 0)

    def next(self, states: Tensor, t: int) -> tuple[Tensor, Tensor]:
        laws = self.laws
        matrix, offset, noise = (
            part[:, min(t, part.shape[1] - 1)]
            for part in (laws.transition, laws.offset, laws.noise)
        )
        return self._drawn(product(matrix, states) + offset, noise, t + 1)

    def _drawn(self, mean: Tensor, noise: Tensor, t: int) -> tuple[Tensor, Tensor]:
        precision, shift = self.precision[:, t], self.shift[:, t]
        grown = torch.eye(mean.shape[-1]).to(mean) + noise @ precision
        spread = torch.linalg.solve(grown, noise)
        spread = (spread + spread.mT) / 2
        pull = shift - product(precision, mean)
        moved = product(spread, pull)
        drawn = mean + moved + product(square_root(spread), torch.randn_like(mean))
        size = _potential(mean, precision, shift) + 0.5 * (pull * moved).sum(-1)
        size = size - 0.5 * torch.linalg.slogdet(grown).logabsdet
        return drawn, size - _potential(drawn, precision, shift)


def _potential(z: Tensor, precision: Tensor, shift: Tensor) -> Tensor:
    """−½ z'Λz + η'z, (…, N)."""
    return (z * (shift - 0.5 * product(precision, z))).sum(-1)


@dataclass(frozen=True)
class _Conditional:
    """A guide's normal law of each state given the one before."""

    laws: StepLaws
    posterior: _Stepwise

    def first(self, n: int) -> tuple[Tensor, Tensor]:
        states, log_q = self._drawn(*self.posterior.step(None, 0), (n,))
        return states, self.laws.log_first(states) - log_q

    def next(self, states: Tensor, t: int) -> tuple[Tensor, Tensor]:
        later, log_q = self._drawn(*self.posterior.step(states, t + 1), ())
        return later, self.laws.log_next(later, states, t) - log_q

    @staticmethod
    def _drawn(mean: Tensor, scale: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        noise = torch.randn(shape + mean.shape, dtype=mean.dtype, device=mean.device)
        log_q = -0.5 * (noise.square() + math.log(2 * math.pi)) - scale.log()
        return mean + scale * noise, log_q.sum(-1)
