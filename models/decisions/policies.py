"""Policies: laws of the next action given what was seen; and beliefs tracked step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..checks import require
from ..trajectories import invert

if TYPE_CHECKING:
    from .pomdp import POMDP


class Seen(NamedTuple):
    """What a step of N episodes brings, before its action is chosen."""

    action: Tensor | None
    """The action before it, (N,); None at the first step."""
    observation: Tensor
    """o_t, (N,) codes or (N, F) numbers."""
    mask: Tensor
    """What of it there is, in the shape of the observation."""


_ROUNDED = 1e-5
"""Probabilities that miss a sum of 1 by more than this are refused; float32 misses it by less."""


class Policy(Protocol):
    """π(a_t | o_1, a_1, …, o_t) of many episodes at once.

    Nothing is kept in the policy: what it remembers is handed on from step to step.
    """

    def begin(self, model: POMDP, episodes: int) -> Any:
        """What it remembers before the first step; checks that the model fits."""

    def __call__(self, memory: Any, seen: Seen) -> tuple[Tensor, Any]:
        """Probabilities (N, A) of the actions, and what it remembers after the step."""


class Tracker(Protocol):
    """The belief of many episodes, step by step; like a policy it keeps nothing itself."""

    def begin(self, model: POMDP, episodes: int) -> Any:
        """What it remembers before the first step; checks that the model fits."""

    def update(self, memory: Any, seen: Seen) -> tuple[Tensor, Any]:
        """The belief (N, K) after the step, and what it remembers."""


def require_policy(policy: object) -> None:
    """Raise ``ValueError`` unless it can act (an object: ``Uniform()``, not ``Uniform``)."""
    fits = not isinstance(policy, type) and callable(policy) and hasattr(policy, "begin")
    require(fits, "policy", "must be a Policy", repr(policy))


def require_tracker(tracker: object) -> None:
    """Raise ``ValueError`` unless it keeps beliefs, or is None."""
    fits = not isinstance(tracker, type) and all(hasattr(tracker, x) for x in ("begin", "update"))
    require(fits or tracker is None, "tracker", "must be a Tracker", repr(tracker))


def require_process(model: object, reader: str) -> None:
    """Raise ``ValueError`` unless it has the laws of a POMDP, as a MountainHike has not."""
    fits = hasattr(model, "complete") and hasattr(model, "law")
    require(fits, "model", f"{reader} needs a POMDP", repr(model))


def are_laws(probabilities: Tensor) -> bool:
    """Whether the rows (…, A) are probabilities that sum to 1."""
    sums = (probabilities.sum(-1) - 1).abs() <= _ROUNDED  # not so where there is a NaN
    return bool((probabilities >= 0).all()) and bool(sums.all())


def checked_chances(probabilities: object, episodes: int, actions: int) -> Tensor:
    """What a policy gave at a step, (N, A) float64.

    Raises:
        ValueError: something else than a law of the actions for each of the episodes.
    """
    shape = tuple(probabilities.shape) if isinstance(probabilities, Tensor) else None
    requirement = f"must give probabilities of shape {episodes, actions}"
    require(shape == (episodes, actions), "policy", requirement, shape or repr(probabilities))
    assert isinstance(probabilities, Tensor)
    chances = probabilities.double()
    if not are_laws(chances):
        worst = (chances.sum(-1) - 1).abs().argmax()
        requirement = "must give probabilities >= 0 that sum to 1"
        require(False, "policy", requirement, chances[worst].tolist())
    return chances


@dataclass(frozen=True)
class Uniform:
    """Every action is as likely as any other."""

    def begin(self, model: POMDP, episodes: int) -> Tensor:
        return torch.full((episodes, model.actions), 1 / model.actions, dtype=torch.float64)

    def __call__(self, memory: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        del seen
        return memory, memory


class FixedChances:
    """The same chances of the actions at every step, whatever is seen.

    Args:
        probabilities: of the actions, (A,).

    Raises:
        ValueError: chances that are no probabilities, or a model with another number of actions.
    """

    def __init__(self, probabilities: Sequence[float] | Tensor) -> None:
        self.probabilities = torch.as_tensor(probabilities, dtype=torch.float64)
        fits = self.probabilities.ndim == 1 and are_laws(self.probabilities)
        requirement = "needs a probability for each action, with sum 1"
        require(fits, "probabilities", requirement, self.probabilities.tolist())

    def begin(self, model: POMDP, episodes: int) -> Tensor:
        own = len(self.probabilities)
        require(model.actions == own, "probabilities", f"needs {model.actions} of them", own)
        return self.probabilities.expand(episodes, -1)

    def __call__(self, memory: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        del seen
        return memory, memory


@dataclass(frozen=True)
class ActionSequence:
    """The same actions in every episode, one after the other.

    Raises:
        ValueError: an action that the model has not, or an episode longer than the sequence.
    """

    actions: tuple[int, ...]

    def begin(self, model: POMDP, episodes: int) -> tuple[int, Tensor]:
        places = range(model.actions)
        outside = [a for a in self.actions if not isinstance(a, Integral) or a not in places]
        require(not outside, "actions", f"must be whole numbers 0 to {places[-1]}", outside[:1])
        return 0, torch.eye(model.actions, dtype=torch.float64).unsqueeze(1).expand(
            -1, episodes, -1
        )

    def __call__(self, memory: tuple[int, Tensor], seen: Seen) -> tuple[Tensor, tuple[int, Tensor]]:
        del seen
        step, sure = memory
        require(
            step < len(self.actions),
            "actions",
            f"needs one for every step, at least {step + 1}",
            len(self.actions),
        )
        return sure[self.actions[step]], (step + 1, sure)


class ObservationPolicy:
    """π(a_t | o_t): a table of probabilities (observation, action); no memory.

    Args:
        table: (S, A).
        first: probabilities (A,) where nothing is seen; uniform if None.

    Raises:
        ValueError: rows that are no probabilities, or sizes that are not the model's.
    """

    def __init__(self, table: Tensor, first: Tensor | None = None) -> None:
        table = torch.as_tensor(table, dtype=torch.float64)
        require(table.ndim == 2, "table", "needs shape (observation, action)", tuple(table.shape))
        width = table.shape[1]
        start = torch.full((width,), 1 / width) if first is None else torch.as_tensor(first)
        start = start.to(table)
        require(start.shape == (width,), "first", f"needs shape ({width},)", tuple(start.shape))
        requirement = "needs rows of probabilities that sum to 1"
        require(are_laws(table), "table", requirement, table.tolist())
        require(are_laws(start), "first", "needs probabilities that sum to 1", start.tolist())
        self.table = torch.cat([table, start.unsqueeze(0)])

    def begin(self, model: POMDP, episodes: int) -> None:
        del episodes
        require_process(model, "ObservationPolicy")
        shape = tuple(self.table.shape)
        wanted = (model.emission.encoding_size + 1, model.actions)
        require(
            model.observations.codes and shape == wanted,
            "table",
            f"needs a model of {shape[0] - 1} symbols and {shape[1]} actions",
            repr(model),
        )

    def __call__(self, memory: None, seen: Seen) -> tuple[Tensor, None]:
        del memory
        return self.table[torch.where(seen.mask, seen.observation, len(self.table) - 1)], None


class Mixture:
    """Every episode follows one of several policies, drawn at its beginning.

    For episodes that a network is to learn from: those of one policy look alike, and what it never
    does is not learned.

    Args:
        policies: at least one.
        shares: probability of each; the same if None.

    Raises:
        ValueError: no policy, or shares that are no probabilities.
    """

    def __init__(self, policies: Sequence[Policy], shares: Sequence[float] | None = None) -> None:
        self.policies = tuple(policies)
        require(len(self.policies) > 0, "policies", "needs at least one", "none")
        for policy in self.policies:
            require_policy(policy)
        even = [1 / len(self.policies)] * len(self.policies)
        self.shares = torch.tensor(even if shares is None else list(shares), dtype=torch.float64)
        fits = self.shares.shape == (len(self.policies),) and are_laws(self.shares)
        requirement = "needs a probability for each of the policies, with sum 1"
        require(fits, "shares", requirement, self.shares.tolist())

    def begin(self, model: POMDP, episodes: int) -> tuple[Tensor, list[Any]]:
        followed = invert(self.shares.cumsum(-1).expand(episodes, -1), torch.rand(episodes, 1))
        return followed, [policy.begin(model, episodes) for policy in self.policies]

    def __call__(
        self, memory: tuple[Tensor, list[Any]], seen: Seen
    ) -> tuple[Tensor, tuple[Tensor, list[Any]]]:
        followed, own = memory
        acted = [policy(one, seen) for policy, one in zip(self.policies, own, strict=True)]
        every = torch.stack([probabilities.double() for probabilities, _ in acted])
        chosen = every[followed, torch.arange(len(followed))]
        return chosen, (followed, [one for _, one in acted])
