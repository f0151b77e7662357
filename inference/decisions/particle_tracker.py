"""Beliefs along episodes by a particle filter, step by step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...models import POMDP, MountainHike, Seen
from ...models.checks import require, require_choice, require_count
from ...models.decisions.particles import ParticleLaws
from ...models.decisions.policies import LOST, Lost, require_explained
from ..guides.particles import ancestors


class _Memory(NamedTuple):
    laws: ParticleLaws
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
        impossible: at an observation that no particle can produce, ``"raise"`` a ``ValueError``
            that names episode and step, treat it as ``"missing"``, or ``"reset"`` the particles to
            draws of the initial state.

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

    def __init__(self, particles: int = 1000, *, impossible: Lost = "raise") -> None:
        require_count(particles, "particles", 2)
        require_choice(impossible, "impossible", LOST)
        self.particles, self.impossible = particles, impossible

    def __repr__(self) -> str:
        return f"ParticleTracker({self.particles} particles, impossible={self.impossible!r})"

    def begin(self, model: POMDP | MountainHike, episodes: int) -> _Memory:
        """Draws the initial states of the particles of ``episodes`` episodes."""
        fits = hasattr(model, "particle_laws")
        require(fits, "model", "must be a POMDP or a MountainHike", type(model).__name__)
        laws = model.particle_laws()
        return _Memory(laws, laws.draw_first((self.particles, episodes)), 0)

    def update(self, memory: _Memory, seen: Seen) -> tuple[Tensor, _Memory]:
        """Returns the belief after a step, and the resampled particles."""
        laws, states, step = memory
        if seen.action is not None:
            states = laws.draw_next(states, seen.action)
        weight = laws.weight(states, seen)
        lost = weight.sum(0) <= 0
        if bool(lost.any()):
            require_explained(lost, seen, step, self.impossible)
            if self.impossible == "reset":
                states[:, lost] = laws.draw_first((self.particles, int(lost.sum())))
            weight[:, lost] = 1
        weight = weight / weight.sum(0)
        chosen = ancestors(weight, "systematic")
        rows = torch.arange(weight.shape[1])
        kept = states[chosen, rows]
        return laws.belief(states, kept, weight), _Memory(laws, kept, step + 1)
