"""Mountain Hike: a walk over hills in fog, a decision process with a continuous state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import require_count, require_positive, require_share
from ..data.sequences import Sequences
from ..randomness import seeded
from .particles import ParticleLaws, PointParticles
from .policies import (
    Policy,
    Seen,
    Tracker,
    Uniform,
    checked_chances,
    require_policy,
    require_tracker,
)

# The hills: three ridges, normal densities of these means and standard deviations, on a slope.
_RIDGES = torch.tensor([[0.0, 0.0], [0.0, -0.8], [0.0, 0.8]], dtype=torch.float64)
_WIDTHS = torch.tensor([[0.005**0.5, 1.0], [1.0, 0.1], [1.0, 0.1]], dtype=torch.float64)
_SLOPE, _SHIFT = 0.2, -0.02
_START, _GOAL, _EDGE = (-0.8, -0.8), (0.8, 0.8), 1.0
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class MountainHike:
    r"""A hiker who observes only the altitude: a decision process with continuous states.

    The state is a place in [−1, 1]² and a quarter turn m that stays the same, (…, 3) float64; an
    action is one of four directions d_a, and

    .. math::
        z_{t+1} = \mathrm{clip}(z_t + step · d_{a + m} + N(0, move\_scale² 1)), \qquad
        o_t = h(z_t) + N(0, height\_scale²), \qquad r_t = h(z_{t+1})

    with the altitude h = −exp(−max ridge density) + 0.2 (x + y) − 0.02 of three ridges that lead
    from the start (−.8, −.8) to the goal (.8, .8). An episode ends within two steps of the goal:
    after that nothing moves and nothing is earned. The belief has no closed form;
    ``ParticleTracker`` approximates it.

    Args:
        step: length of a move.
        move_scale: standard deviation of the moves.
        height_scale: standard deviation of the observations.
        rotated: whether m is unknown and uniform, rather than 0.
        discount: γ.

    Raises:
        ValueError: a setting out of range.

    Source: Igl et al. (2018), Deep variational reinforcement learning for POMDPs, ICML; in this
    form Lambrechts, Bolland & Ernst (2022), TMLR.

    >>> import torch
    >>> hills = MountainHike()
    >>> places = torch.tensor([[-0.8, -0.8, 0.0], [0.8, 0.8, 0.0]])  # start and goal
    >>> hills.over(places).tolist()
    [False, True]
    """

    step: float = 0.1
    move_scale: float = 0.05
    height_scale: float = 0.1
    rotated: bool = False
    discount: float = 0.99
    action_names = ("right", "up", "left", "down")
    actions = 4

    def __post_init__(self) -> None:
        for name in ("step", "move_scale", "height_scale"):
            require_positive(getattr(self, name), name)
        require_share(self.discount, "discount")

    # The laws: functions of states (…, 3) with values of shape (…)

    def altitude(self, states: Tensor) -> Tensor:
        """Return h of the places in the first two columns of the states."""
        place = states[..., :2]
        scaled = (place.unsqueeze(-2) - _RIDGES) / _WIDTHS
        log_ridge = -0.5 * scaled.square().sum(-1) - _WIDTHS.log().sum(-1) - 2 * _HALF_LOG_2PI
        height: Tensor = -(-log_ridge.amax(-1).exp()).exp() + _SLOPE * place.sum(-1) + _SHIFT
        return height

    def over(self, states: Tensor) -> Tensor:
        """Return whether the goal has been reached."""
        distance: Tensor = (states[..., :2] - states.new_tensor(_GOAL)).norm(dim=-1)
        return distance < 2 * self.step

    def particle_laws(self) -> ParticleLaws:
        """The laws as particles need them."""
        return PointParticles(self)

    def draw_first(self, shape: tuple[int, ...]) -> Tensor:
        """Draw first states, of the shape with a last axis of 3."""
        states = torch.tensor([*_START, 0], dtype=torch.float64).expand(*shape, -1).clone()
        if self.rotated:
            states[..., 2] = torch.randint(4, shape).double()
        return states

    def draw_next(self, states: Tensor, action: Tensor) -> Tensor:
        """Draw the states after actions (…)."""
        moved = self._aim(states, action)
        moved = (moved + self.move_scale * torch.randn_like(moved)).clamp(-_EDGE, _EDGE)
        later = torch.cat([moved, states[..., 2:]], -1)
        return torch.where(self.over(states).unsqueeze(-1), states, later)

    def log_next(self, later: Tensor, states: Tensor, action: Tensor) -> Tensor:
        """Return log p(z_{t+1} | z_t, a_t): a density inside, and the clipped mass on the edges.

        After the end it is 0 at the same state and −∞ elsewhere; it is −∞ also at another turn m.
        """
        aim = self._aim(states, action)
        deviation = (later[..., :2] - aim) / self.move_scale
        inside = -0.5 * deviation.square() - _HALF_LOG_2PI - math.log(self.move_scale)
        # On an edge: the mass of the normal tail beyond it.
        tail = torch.special.log_ndtr(deviation * -later[..., :2].sign())
        each = torch.where(later[..., :2].abs() < _EDGE, inside, tail)
        each = each.masked_fill(later[..., :2].abs() > _EDGE, -torch.inf)
        log_p = each.sum(-1).masked_fill(later[..., 2] != states[..., 2], -torch.inf)
        stays = torch.where((later == states).all(-1), 0.0, -torch.inf).to(log_p)
        return torch.where(self.over(states), stays, log_p)

    def draw_observation(self, states: Tensor) -> Tensor:
        """Draw observations (…, 1)."""
        height = self.altitude(states)
        return (height + self.height_scale * torch.randn_like(height)).unsqueeze(-1)

    def log_observation(self, observation: Tensor, states: Tensor) -> Tensor:
        """Return log p(o | z) of observations (…, 1)."""
        deviation = (observation[..., 0] - self.altitude(states)) / self.height_scale
        return -0.5 * deviation.square() - _HALF_LOG_2PI - math.log(self.height_scale)

    def reward(self, states: Tensor, later: Tensor) -> Tensor:
        """Return r of a step between two states."""
        return torch.where(self.over(states), 0.0, self.altitude(later))

    def _aim(self, states: Tensor, action: Tensor) -> Tensor:
        """Where a move leads without noise and edges, (…, 2)."""
        angle = (states[..., 2] + action) * (math.pi / 2)
        return states[..., :2] + self.step * torch.stack([angle.cos(), angle.sin()], -1).round()

    # Whole episodes

    def rollout(
        self,
        policy: Policy | None = None,
        episodes: int = 1,
        length: int = 1,
        *,
        seed: int | None = None,
        tracker: Tracker | None = None,
    ) -> Hikes:
        """Draw episodes under a policy, with the beliefs of a tracker along them.

        Args:
            policy: uniform if None.
            episodes: number of episodes N, which are advanced together.
            length: steps T of each; every step has an observation, also the first.
            seed: makes the draw reproducible and leaves torch's global generator untouched.
            tracker: its beliefs are recorded.

        Returns:
            States, observations, actions, rewards and beliefs.

        Raises:
            ValueError: an invalid argument, or whatever policy or tracker refuse.
        """
        require_count(episodes, "episodes")
        require_count(length, "length")
        model: Any = self  # policies and trackers use only its number of actions and its laws
        policy = Uniform() if policy is None else policy
        require_policy(policy)
        require_tracker(tracker, optional=True)
        record: dict[str, list[Tensor]] = {}
        with seeded(seed), torch.no_grad():
            memory = policy.begin(model, episodes)
            belief_memory = None if tracker is None else tracker.begin(model, episodes)
            states, action = self.draw_first((episodes,)), None
            for _ in range(length):
                y = self.draw_observation(states)
                seen = Seen(action, y, torch.ones_like(y, dtype=torch.bool))
                step = {"states": states, "values": y}
                if tracker is not None:
                    step["beliefs"], belief_memory = tracker.update(belief_memory, seen)
                chances, memory = policy(memory, seen)
                step["probabilities"] = checked_chances(chances, episodes, self.actions)
                action = torch.multinomial(step["probabilities"], 1).squeeze(-1)
                later = self.draw_next(states, action)
                step |= {"actions": action, "rewards": self.reward(states, later)}
                states = later
                for name, value in step.items():
                    record.setdefault(name, []).append(value)
        made = {name: torch.stack(steps, 1) for name, steps in record.items()}
        data = Sequences.from_tensors(
            made["values"],
            actions=made["actions"],
            rewards=made["rewards"],
            features=["altitude"],
        )
        return Hikes(self, made["states"], data, made["probabilities"], made.get("beliefs"))


@dataclass(frozen=True, eq=False)
class Hikes:
    """Episodes of ``MountainHike``: what happened, and the beliefs along it.

    ``MountainHike.rollout`` makes them.

    Attributes:
        model: the process.
        states: (N, T, 3).
        data: observations, actions and rewards.
        probabilities: π(a | …) of every step, (N, T, 4).
        beliefs: of the tracker; for a ``ParticleTracker`` equally likely states (N, T, P, 3).

    >>> from beliefzoo.models import ActionSequence, MountainHike
    >>> hikes = MountainHike().rollout(ActionSequence((0, 1)), episodes=5, length=2, seed=0)
    >>> tuple(hikes.states.shape), hikes.states[0, 0].tolist()  # all begin at the same place
    ((5, 2, 3), [-0.8, -0.8, 0.0])
    """

    model: MountainHike
    states: Tensor
    data: Sequences
    probabilities: Tensor
    beliefs: Tensor | None

    def returns(self) -> Tensor:
        """Return Σ_t γ^t r_t of every episode, t from 0; (N,)."""
        assert self.data.rewards is not None
        weight = self.model.discount ** torch.arange(self.states.shape[1], dtype=torch.float64)
        return self.data.rewards @ weight
