"""Beliefs and policies beside a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ....inference import LSTMFilter, NoMemory, mdp_values
from ....models import POMDP, Policy, Seen, Sequences, Tracker


class Heldout(NamedTuple):
    """Episodes, with the exact belief along them, (N, T, K)."""

    data: Sequences
    exact: Tensor


def tracked(model: POMDP, tracker: Tracker, data: Sequences) -> Tensor:
    """The beliefs (N, T, K) of a tracker along episodes that have been made already."""
    assert data.actions is not None
    memory, beliefs = tracker.begin(model, len(data)), []
    for t in range(data.max_length):
        action = None if t == 0 else data.actions[:, t - 1]
        seen = Seen(action, data.values[:, t], data.mask[:, t])
        belief, memory = tracker.update(memory, seen)
        beliefs.append(belief)
    return torch.stack(beliefs, 1)


@dataclass(frozen=True)
class Noisy:
    """Another policy, but for a share of the actions, which is chosen uniformly."""

    policy: Policy
    share: float

    def begin(self, model: POMDP, episodes: int) -> Any:
        return self.policy.begin(model, episodes)

    def __call__(self, memory: Any, seen: Seen) -> tuple[Tensor, Any]:
        probabilities, memory = self.policy(memory, seen)
        mixed = (1 - self.share) * probabilities + self.share / probabilities.shape[-1]
        return mixed, memory


def most_likely(model: POMDP) -> Callable[[Tensor], Tensor]:
    """What is best in the most likely state, were the state seen from now on: (N, K) to (N, A)."""
    best = mdp_values(model).argmax(0)

    def act(belief: Tensor) -> Tensor:
        action = best[belief.argmax(-1)]
        return torch.nn.functional.one_hot(action, model.actions).double()

    return act


def without_memory(model: POMDP, states: Tensor) -> NoMemory:
    """Who knows the last action, what came of it, and how often states (N, T) are visited.

    Each counts once more than it was visited (Laplace), so that none is ruled out that is merely
    rare.
    """
    visits = 1 + torch.bincount(states[:, :-1].flatten(), minlength=model.states).double()
    return NoMemory(visits / visits.sum())


def surprise(network: LSTMFilter, x: Tensor, states: Tensor) -> Tensor:
    """−log β_t(z_t), mean over steps, of what is read (N, T, input) and states (N, T)."""
    assert network.network is not None
    assert network.head is not None
    scores = network.head(network.network(x)[0])
    return torch.nn.functional.cross_entropy(scores.flatten(0, 1), states.flatten())
