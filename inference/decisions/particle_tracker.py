"""Beliefs along episodes by a particle filter, step by step."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ...models import POMDP, MountainHike, Seen
from ...models.checks import require, require_count
from ...models.decisions.bayes_rule import BayesRule
from ...models.trajectories import invert
from ..guides.particles import ancestors


class _Process(Protocol):
    """The laws of a decision process whose states are (P, N) or (P, N, D)."""

    def draw_first(self, shape: tuple[int, int], /) -> Tensor: ...

    def draw_next(self, states: Tensor, action: Tensor, /) -> Tensor: ...

    def weight(self, states: Tensor, seen: Seen) -> Tensor: ...

    def belief(self, states: Tensor, kept: Tensor, weight: Tensor) -> Tensor: ...


class _Memory(NamedTuple):
    laws: _Process
    states: Tensor
    """Equally likely, (P, N) or (P, N, D)."""
    step: int


class ParticleTracker:
    r"""Belief represented by particles: moved by T, weighted by O, resampled at every step.

    .. math:: z^p_{t+1} \sim T(· | z^p_t, a_t), \qquad w^p \propto O(o_{t+1} | a_t, z^p_{t+1})

    This is the bootstrap filter with systematic resampling. Beliefs are (N, K) for a POMDP, the
    weighted share of particles in each state; for a process with continuous states they are (N, P,
    D), equally weighted states. Draws come from torch's global generator, which ``rollout(seed=…)``
    seeds.

    Args:
        particles: number of particles P of each episode.
        impossible: what to do if no particle can produce an observation: ``"raise"`` a
            ``ValueError`` that names episode and step, or ``"reset"`` the particles to draws of
            the initial state.

    Raises:
        ValueError: a bad argument, or a model with unknown parameters.

    Source: Gordon, Salmond & Smith (1993).

    >>> import torch
    >>> from beliefzoo.inference import ParticleTracker, track
    >>> from beliefzoo.models import ActionSequence, ExactTracker, tiger
    >>> model = tiger()
    >>> listening = model.rollout(ActionSequence((0, 0)), episodes=1, length=2, seed=0).data
    >>> exact = track(ExactTracker(), model, listening)
    >>> generator = torch.manual_seed(0)
    >>> found = track(ParticleTracker(10_000), model, listening)
    >>> bool((found - exact).abs().max() < 0.02)
    True
    """

    def __init__(
        self, particles: int = 1000, *, impossible: Literal["raise", "reset"] = "raise"
    ) -> None:
        require_count(particles, "particles", 2)
        fits = impossible in ("raise", "reset")
        require(fits, "impossible", "must be 'raise' or 'reset'", repr(impossible))
        self.particles, self.impossible = particles, impossible

    def begin(self, model: POMDP | MountainHike, episodes: int) -> _Memory:
        """Draws the initial states of the particles of ``episodes`` episodes."""
        fits = isinstance(model, POMDP | MountainHike)
        require(fits, "model", "must be a POMDP or a MountainHike", type(model).__name__)
        laws = _Chain(model) if isinstance(model, POMDP) else _Hills(model)
        return _Memory(laws, laws.draw_first((self.particles, episodes)), 0)

    def update(self, memory: _Memory, seen: Seen) -> tuple[Tensor, _Memory]:
        """Returns the belief after a step, and the resampled particles."""
        laws, states, step = memory
        if seen.action is not None:
            states = laws.draw_next(states, seen.action)
        weight = laws.weight(states, seen)
        lost = weight.sum(0) <= 0
        if bool(lost.any()):
            episode = int(lost.nonzero()[0])
            require(
                self.impossible == "reset",
                "observation",
                f"must be possible for one of the particles; episode {episode}, step {step}",
                seen.observation[episode].tolist(),
            )
            states[:, lost] = laws.draw_first((self.particles, int(lost.sum())))
            weight[:, lost] = 1
        weight = weight / weight.sum(0)
        chosen = ancestors(weight, "systematic")
        rows = torch.arange(weight.shape[1])
        kept = states[chosen, rows]
        return laws.belief(states, kept, weight), _Memory(laws, kept, step + 1)


class _Chain:
    """The laws of a POMDP, whose states are codes (P, N)."""

    def __init__(self, model: POMDP) -> None:
        parameters = model.complete({})
        self.rule = BayesRule(model, parameters)
        self.states, self.first = model.states, self.rule.initial.cumsum(-1)
        one = torch.ones(model.actions, 1, 1, dtype=torch.float64)
        self.moves = parameters.get("transition", one).cumsum(-1)

    def draw_first(self, shape: tuple[int, int]) -> Tensor:
        return self._drawn(self.first.expand(*shape, -1))

    def draw_next(self, states: Tensor, action: Tensor) -> Tensor:
        return self._drawn(self.moves[action, states])

    @staticmethod
    def _drawn(cumulative: Tensor) -> Tensor:
        return invert(cumulative, torch.rand_like(cumulative[..., :1]))

    def weight(self, states: Tensor, seen: Seen) -> Tensor:
        told = self.rule.likelihood(seen)
        return told.mT.gather(0, states)

    def belief(self, states: Tensor, kept: Tensor, weight: Tensor) -> Tensor:
        del kept  # weights are less noisy than resampled particles
        shares = weight.new_zeros(self.states, states.shape[1])
        return shares.scatter_add(0, states, weight).mT


class _Hills:
    """The laws of a process whose states are points (P, N, D)."""

    def __init__(self, model: MountainHike) -> None:
        self.model = model
        self.draw_first, self.draw_next = model.draw_first, model.draw_next

    def weight(self, states: Tensor, seen: Seen) -> Tensor:
        score = self.model.log_observation(seen.observation, states)
        score = torch.where(seen.mask[..., 0], score, 0)
        return (score - score.amax(0)).exp()

    def belief(self, states: Tensor, kept: Tensor, weight: Tensor) -> Tensor:
        del states, weight
        return kept.movedim(0, 1)
