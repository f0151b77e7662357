"""The laws of decision processes as particles need them: draws and weights of many states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..trajectories import invert
from .bayes_rule import BayesRule
from .policies import Seen

if TYPE_CHECKING:
    from .mountain_hike import MountainHike
    from .pomdp import POMDP


class ParticleLaws(Protocol):
    """The laws of a decision process whose states are (P, N) or (P, N, D)."""

    def draw_first(self, shape: tuple[int, int], /) -> Tensor:
        """Draw initial states."""

    def draw_next(self, states: Tensor, action: Tensor, /) -> Tensor:
        """Draw the states after actions (N,)."""

    def weight(self, states: Tensor, seen: Seen) -> Tensor:
        """Return weights of the states by what was observed, (P, N), up to a factor each column."""

    def belief(self, states: Tensor, kept: Tensor, weight: Tensor) -> Tensor:
        """Return the belief of weighted states, of which ``kept`` were drawn."""


class ChainParticles:
    """The laws of a POMDP, whose states are codes (P, N)."""

    def __init__(self, model: POMDP) -> None:
        parameters = model.complete({})
        self.rule = BayesRule(model, parameters)
        self.states, self.first = model.states, self.rule.initial.cumsum(-1)
        one = torch.ones(model.actions, 1, 1, dtype=torch.float64)
        self.moves = parameters.get("transition", one).cumsum(-1)

    def draw_first(self, shape: tuple[int, int]) -> Tensor:
        """Draw initial states by their law."""
        return self._drawn(self.first.expand(*shape, -1))

    def draw_next(self, states: Tensor, action: Tensor) -> Tensor:
        """Draw the states after actions (N,)."""
        return self._drawn(self.moves[action, states])

    @staticmethod
    def _drawn(cumulative: Tensor) -> Tensor:
        return invert(cumulative, torch.rand_like(cumulative[..., :1]))

    def weight(self, states: Tensor, seen: Seen) -> Tensor:
        """Return the likelihood of each state."""
        told = self.rule.likelihood(seen)
        return told.mT.gather(0, states)

    def belief(self, states: Tensor, kept: Tensor, weight: Tensor) -> Tensor:
        """Return the shares of the states, (N, K)."""
        del kept  # weights are less noisy than resampled particles
        shares = weight.new_zeros(self.states, states.shape[1])
        return shares.scatter_add(0, states, weight).mT


class PointParticles:
    """The laws of a process whose states are points (P, N, D)."""

    def __init__(self, model: MountainHike) -> None:
        self.model = model
        self.draw_first, self.draw_next = model.draw_first, model.draw_next

    def weight(self, states: Tensor, seen: Seen) -> Tensor:
        """Return the likelihood of each state."""
        score = self.model.log_observation(seen.observation, states)
        score = torch.where(seen.mask[..., 0], score, 0)
        return (score - score.amax(0)).exp()

    def belief(self, states: Tensor, kept: Tensor, weight: Tensor) -> Tensor:
        """Return the states that were kept, (N, P, D)."""
        del states, weight
        return kept.movedim(0, 1)
