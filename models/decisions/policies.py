"""Policies: distributions of the next action given the past; and beliefs tracked step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ..boundary import boundary
from ..checks import Impossible, brief, impossible_observation, require
from ..model import as_tensor
from ..trajectories import invert

if TYPE_CHECKING:
    from .pomdp import POMDP


class Seen(NamedTuple):
    """What N episodes bring at a step, before its action is chosen.

    Attributes:
        action: the action before, (N,); None at the first step.
        observation: o_t, (N,) codes or (N, F) numbers.
        mask: which of it was observed, in the shape of the observation.

    >>> import torch
    >>> first = Seen(None, torch.tensor([0, 1]), torch.tensor([True, True]))
    >>> first.observation.tolist(), first.action is None
    ([0, 1], True)
    """

    action: Tensor | None
    observation: Tensor
    mask: Tensor


_ROUNDED = 1e-5
"""Probabilities that miss a sum of 1 by more than this are refused; float32 misses it by less."""


class Policy(Protocol):
    """A policy π(a_t | o_1, a_1, …, o_t), for many episodes at once.

    A policy is any object with these two methods. It keeps nothing itself: its memory is passed
    from step to step.

    >>> import torch
    >>> from beliefzoo.models import tiger
    >>> class AlwaysListen:
    ...     def begin(self, model, episodes):
    ...         return torch.eye(model.actions)[0].expand(episodes, -1)
    ...     def __call__(self, memory, seen):
    ...         return memory, memory  # probabilities (N, A), and the memory
    >>> tiger().rollout(AlwaysListen(), episodes=2, length=3, seed=0).data.rewards.sum(1).tolist()
    [-3.0, -3.0]
    """

    def begin(self, model: POMDP, episodes: int) -> Any:
        """Return the memory before the first step; refuse a model that does not fit."""

    def __call__(self, memory: Any, seen: Seen) -> tuple[Tensor, Any]:
        """Return probabilities (N, A) of the actions, and the memory after the step."""


class Tracker(Protocol):
    """The belief of many episodes, step by step.

    A tracker is any object with these two methods; like a policy it keeps nothing itself.

    >>> import torch
    >>> from beliefzoo.models import tiger
    >>> class Undecided:
    ...     def begin(self, model, episodes):
    ...         return torch.full((episodes, model.states), 1 / model.states)
    ...     def update(self, memory, seen):
    ...         return memory, memory  # belief (N, K), and the memory
    >>> tiger().rollout(episodes=1, length=2, seed=0, tracker=Undecided()).beliefs[0].tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """

    def begin(self, model: POMDP, episodes: int) -> Any:
        """Return the memory before the first step; refuse a model that does not fit."""

    def update(self, memory: Any, seen: Seen) -> tuple[Tensor, Any]:
        """Return the belief (N, K) after the step, and the memory."""


Lost = Impossible | Literal["reset"]
"""What a tracker does at an observation of probability 0; ``"reset"`` begins anew there."""

LOST = ("raise", "missing", "reset")


def require_explained(lost: Tensor, seen: Seen, step: int, impossible: Lost) -> None:
    """Raise ``ValueError`` at the first of the lost episodes (N,) bool, if that is asked for."""
    if impossible == "raise" and bool(lost.any()):
        episode = int(lost.nonzero()[0])
        came = seen.observation[episode].tolist()
        raise impossible_observation(f"episode {episode}, step {step}", came)


def require_policy(policy: object) -> None:
    """Raise ``ValueError`` unless it can act (an object: ``Uniform()``, not ``Uniform``)."""
    fits = not isinstance(policy, type) and callable(policy) and hasattr(policy, "begin")
    require(fits, "policy", "must be a Policy", repr(policy))


def require_tracker(tracker: object, *, optional: bool = False) -> None:
    """Raise ``ValueError`` unless it tracks beliefs, or is None if allowed."""
    fits = not isinstance(tracker, type) and all(hasattr(tracker, x) for x in ("begin", "update"))
    absent = optional and tracker is None
    require(fits or absent, "tracker", "must be a Tracker", repr(tracker))


def require_process(model: object, reader: str) -> None:
    """Raise ``ValueError`` unless the model has the laws of a POMDP (a MountainHike does not)."""
    fits = hasattr(model, "complete") and hasattr(model, "law")
    require(fits, "model", f"{reader} needs a POMDP", repr(model))


def are_laws(probabilities: Tensor) -> bool:
    """Whether all rows (…, A) are probabilities that sum to 1."""
    sums = (probabilities.sum(-1) - 1).abs() <= _ROUNDED  # False where there is a NaN
    return bool((probabilities >= 0).all()) and bool(sums.all())


def checked_chances(probabilities: object, episodes: int, actions: int) -> Tensor:
    """Probabilities (N, A) that a policy gave at a step, as float64.

    Raises:
        ValueError: not a distribution over the actions for each of the episodes.
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
    """The policy that takes every action with the same probability: π(a) = 1 / A.

    >>> from beliefzoo.models import tiger
    >>> tiger().rollout(Uniform(), episodes=1, length=1, seed=0).probabilities
    tensor([[[0.3333, 0.3333, 0.3333]]], dtype=torch.float64)
    """

    def begin(self, model: POMDP, episodes: int) -> Tensor:
        return torch.full((episodes, model.actions), 1 / model.actions, dtype=torch.float64)

    def __call__(self, memory: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        del seen
        return memory, memory


class FixedChances:
    """The policy with the same probabilities of the actions at every step, whatever is observed.

    Args:
        probabilities: of the actions, (A,).

    Raises:
        ValueError: numbers that are no probabilities, or a model with another number of actions.

    >>> from beliefzoo.models import tiger
    >>> listener = FixedChances([0.8, 0.1, 0.1])
    >>> actions = tiger().rollout(listener, episodes=1000, length=1, seed=0).data.actions
    >>> 0.75 < (actions == 0).double().mean() < 0.85
    tensor(True)
    """

    def __init__(self, probabilities: Sequence[float] | Tensor) -> None:
        self.probabilities = as_tensor("probabilities", probabilities)
        fits = self.probabilities.ndim == 1 and are_laws(self.probabilities)
        requirement = "needs a probability for each action, with sum 1"
        require(fits, "probabilities", requirement, self.probabilities.tolist())

    def __repr__(self) -> str:
        return f"FixedChances({brief(self.probabilities.tolist())})"

    def begin(self, model: POMDP, episodes: int) -> Tensor:
        own = len(self.probabilities)
        require(model.actions == own, "probabilities", f"needs {model.actions} of them", own)
        return self.probabilities.expand(episodes, -1)

    def __call__(self, memory: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        del seen
        return memory, memory


@boundary
@dataclass(frozen=True)
class ActionSequence:
    """The policy that takes the same given actions in every episode, one after the other.

    Args:
        actions: numbers of the actions.

    Raises:
        ValueError: an action that the model does not have, or an episode longer than the sequence.

    >>> from beliefzoo.models import tiger
    >>> listen_twice = ActionSequence((0, 0, 1))  # then open the left door
    >>> tiger().rollout(listen_twice, episodes=2, length=3, seed=0).data.actions.tolist()
    [[0, 0, 1], [0, 0, 1]]
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
    """A policy without memory, π(a_t | o_t): a table of probabilities (observation, action).

    Args:
        table: probabilities, (S, A).
        first: probabilities (A,) where nothing is observed; uniform if None.

    Raises:
        ValueError: rows that are no probabilities, or other sizes than the model's.

    >>> import torch
    >>> from beliefzoo.models import tiger
    >>> avoid_growl = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])  # open the other door
    >>> policy = ObservationPolicy(avoid_growl, first=torch.tensor([1.0, 0.0, 0.0]))  # listen first
    >>> drawn = tiger(accuracy=1.0).rollout(policy, episodes=3, length=2, seed=0)
    >>> drawn.data.rewards.tolist()
    [[-1.0, 10.0], [-1.0, 10.0], [-1.0, 10.0]]
    """

    def __init__(self, table: Tensor, first: Tensor | None = None) -> None:
        table = as_tensor("table", table)
        require(table.ndim == 2, "table", "needs shape (observation, action)", tuple(table.shape))
        width = table.shape[1]
        start = torch.full((width,), 1 / width) if first is None else as_tensor("first", first)
        start = start.to(table)
        require(start.shape == (width,), "first", f"needs shape ({width},)", tuple(start.shape))
        requirement = "needs rows of probabilities that sum to 1"
        require(are_laws(table), "table", requirement, table.tolist())
        require(are_laws(start), "first", "needs probabilities that sum to 1", start.tolist())
        self.table = torch.cat([table, start.unsqueeze(0)])

    def __repr__(self) -> str:
        symbols, actions = self.table.shape
        return f"ObservationPolicy({symbols - 1} symbols, {actions} actions)"

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

    It makes varied episodes for a network to learn from: episodes of one policy are alike, and a
    network does not learn what they never contain.

    Args:
        policies: at least one.
        shares: probability of each; equal if None.

    Raises:
        ValueError: no policy, or shares that are no probabilities.

    >>> from beliefzoo.models import tiger
    >>> policy = Mixture([ActionSequence((0, 0)), ActionSequence((1, 1))])
    >>> drawn = tiger().rollout(policy, episodes=100, length=2, seed=0).data.actions
    >>> drawn.unique(dim=0).tolist()  # whole episodes of one or the other
    [[0, 0], [1, 1]]
    """

    def __init__(self, policies: Sequence[Policy], shares: Sequence[float] | None = None) -> None:
        require(isinstance(policies, Sequence), "policies", "must be a list", repr(policies))
        self.policies = tuple(policies)
        require(len(self.policies) > 0, "policies", "needs at least one", "none")
        for policy in self.policies:
            require_policy(policy)
        even = [1 / len(self.policies)] * len(self.policies)
        self.shares = as_tensor("shares", even if shares is None else shares)
        fits = self.shares.shape == (len(self.policies),) and are_laws(self.shares)
        requirement = "needs a probability for each of the policies, with sum 1"
        require(fits, "shares", requirement, self.shares.tolist())

    def __repr__(self) -> str:
        return f"Mixture({list(self.policies)}, shares={brief(self.shares.tolist())})"

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
