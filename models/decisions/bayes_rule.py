"""Bayes' rule of a decision process, for beliefs that are updated step by step."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..boundary import boundary
from ..checks import require, require_choice
from ..emissions.counts import Categorical
from ..emissions.emission import Parameters
from .policies import (
    LOST,
    Lost,
    Seen,
    Tracker,
    require_explained,
    require_process,
    require_tracker,
)

if TYPE_CHECKING:
    from .pomdp import POMDP

_FEW = 16
"""Up to this number of states, beliefs are moved by all actions in one product."""

_MANY = 128
"""From this number of states on, transitions with mostly zeros are multiplied as sparse ones."""

_MOSTLY_ZERO = 0.2
"""Share of positive entries below which a transition has mostly zeros."""


class BayesRule:
    r"""The two halves of Bayes' rule under given parameters, prepared for many steps.

    .. math:: b_{t+1}(z') \propto O(o_{t+1} | a_t, z') \sum_z T(z' | z, a_t)\, b_t(z)

    With many states and few positive entries of T, the cost of a step is proportional to the number
    of these entries (in the problem tag, with 870 states, one in 400 is positive).

    Args:
        model: a ``POMDP``.
        parameters: a value of every parameter.
    """

    def __init__(self, model: POMDP, parameters: Parameters) -> None:
        self.model, self.parameters = model, parameters
        one = torch.ones(1, dtype=torch.float64)
        self.initial = parameters.get("initial", one).detach().double()
        """p(z_1), (K,)."""

    # The factors of a step, made when they are first needed.

    @cached_property
    def _told(self) -> Tensor:
        """O of symbols, (…, o, z): an observation picks a row."""
        return self.parameters["probs"].detach().double().mT.contiguous()

    @cached_property
    def _moves(self) -> Tensor:
        return self.parameters["transition"].detach().double()

    @cached_property
    def _joined(self) -> Tensor:
        return self._moves.transpose(0, 1).flatten(1)

    @cached_property
    def _entries(self) -> list[Any] | None:
        return _entries(self._moves) if self.model.states >= _MANY else None

    def predicted(self, belief: Tensor, action: Tensor) -> Tensor:
        """Σ_z T(z' | z, a) b(z) for beliefs (N, K) and actions (N,)."""
        states = self.model.states
        if states == 1:
            return belief
        if states <= _FEW:  # one product for all actions costs less than a call for each
            every: Tensor = (belief @ self._joined).unflatten(1, (-1, states))
            return every[torch.arange(len(belief)), action]
        out = torch.empty_like(belief)
        for each in range(self.model.actions):
            rows = (action == each).nonzero().squeeze(-1)
            if self._entries is not None:
                moved = self._entries[each] @ np.ascontiguousarray(belief[rows].mT.numpy())
                out[rows] = torch.from_numpy(moved).mT
            else:
                out[rows] = belief[rows] @ self._moves[each]
        return out

    def likelihood(self, seen: Seen) -> Tensor:
        """O(o_t | a_{t-1}, z) of every state, (N, K), up to a factor; 1 if nothing was observed."""
        before = self.model.acted(seen.action, len(seen.mask))
        if isinstance(self.model.law.family, Categorical):
            told = self._told[before, seen.observation]
            return told if bool(seen.mask.all()) else told.where(seen.mask.unsqueeze(-1), 1.0)
        score = self.model.law.score_after(
            self.parameters,
            before.unsqueeze(1),
            seen.observation.unsqueeze(1),
            seen.mask.unsqueeze(1),
        )[:, 0]
        # Densities of many numbers may underflow; only their ratios between states matter.
        top = score.amax(-1, keepdim=True).clamp_min(torch.finfo(score.dtype).min)
        return (score - top).exp()


def _entries(moves: Tensor) -> list[Any] | None:
    """The transposes of matrices (A, K, K) in sparse form; None if they are not sparse."""
    from scipy.sparse import csc_array  # loaded when first needed

    actions, states, _ = moves.shape
    action, row, column = moves.nonzero(as_tuple=True)
    if len(row) >= _MOSTLY_ZERO * moves.numel():
        return None
    counts = torch.bincount(action * states + row, minlength=actions * states)
    parts = torch.bincount(action, minlength=actions).tolist()
    return [
        csc_array(
            (values.numpy(), columns.numpy(), np.append(0, count.cumsum(0).numpy())),
            shape=(states, states),
        )
        for values, columns, count in zip(
            moves[action, row, column].split(parts),
            column.split(parts),
            counts.view(actions, states),
            strict=True,
        )
    ]


@boundary
class BeliefPolicy:
    """The policy π(a_t | b_t) that acts on the belief of a tracker.

    Args:
        act: a function from beliefs (N, K) to probabilities (N, A), such as the ``act`` of a plan.
        tracker: what updates the belief; ``ExactTracker()`` if None.

    Raises:
        ValueError: ``act`` is no function, or ``tracker`` no tracker.

    >>> import torch
    >>> from beliefzoo.models import tiger
    >>> def act(belief):  # open the other door when 95 % sure, otherwise listen
    ...     left, right = belief.unbind(-1)
    ...     action = torch.where(left > 0.95, 2, torch.where(right > 0.95, 1, 0))
    ...     return torch.nn.functional.one_hot(action, 3)
    >>> drawn = tiger().rollout(BeliefPolicy(act), episodes=1000, length=100, seed=0)
    >>> round(drawn.returns().mean().item())  # the optimal value is 19.37
    19
    """

    def __init__(self, act: Callable[[Tensor], Tensor], tracker: Tracker | None = None) -> None:
        require(callable(act), "act", "must be a function of beliefs, as plan.act", repr(act))
        require_tracker(tracker, optional=True)
        self.act = act
        self.tracker: Tracker = ExactTracker() if tracker is None else tracker

    def __repr__(self) -> str:
        owner = getattr(self.act, "__self__", None)  # of the method of a plan
        act = getattr(self.act, "__qualname__", self.act) if owner is None else owner
        return f"BeliefPolicy({act}, {self.tracker})"

    def begin(self, model: POMDP, episodes: int) -> Any:
        return self.tracker.begin(model, episodes)

    def __call__(self, memory: Any, seen: Seen) -> tuple[Tensor, Any]:
        belief, memory = self.tracker.update(memory, seen)
        return self.act(belief), memory


class _Exact(NamedTuple):
    rule: BayesRule
    belief: Tensor
    step: int


class ExactTracker:
    r"""The exact belief by Bayes' rule, one step after the other.

    .. math:: b_{t+1}(z') \propto O(o_{t+1} | a_t, z') \sum_z T(z' | z, a_t)\, b_t(z)

    Args:
        impossible: at an observation of probability 0 given those before it, ``"raise"`` a
            ``ValueError`` that names episode and step, treat it as ``"missing"``, or ``"reset"``
            the belief to the initial distribution.

    Raises:
        ValueError: another ``impossible``, or a model with unknown parameters.

    >>> from beliefzoo.models import ActionSequence, tiger
    >>> heard = tiger().rollout(ActionSequence((0, 0, 0)), length=3, seed=0, tracker=ExactTracker())
    >>> heard.beliefs[0]  # two growls on the right: 0.85² / (0.85² + 0.15²)
    tensor([[0.5000, 0.5000],
            [0.1500, 0.8500],
            [0.0302, 0.9698]], dtype=torch.float64)
    """

    def __init__(self, impossible: Lost = "raise") -> None:
        require_choice(impossible, "impossible", LOST)
        self.impossible = impossible

    def __repr__(self) -> str:
        return f"ExactTracker(impossible={self.impossible!r})"

    def begin(self, model: POMDP, episodes: int) -> _Exact:
        require_process(model, "ExactTracker")
        rule = BayesRule(model, model.complete({}))
        return _Exact(rule, rule.initial.expand(episodes, -1), 0)

    def update(self, memory: _Exact, seen: Seen) -> tuple[Tensor, _Exact]:
        rule, belief, step = memory
        if seen.action is not None:
            belief = rule.predicted(belief, seen.action)
        joint = belief * rule.likelihood(seen)
        total = joint.sum(-1, keepdim=True)
        lost = (total <= 0).squeeze(-1)
        if bool(lost.any()):
            require_explained(lost, seen, step, self.impossible)
            joint[lost] = belief[lost] if self.impossible == "missing" else rule.initial
            total = joint.sum(-1, keepdim=True)
        belief = joint / total
        return belief, _Exact(rule, belief, step + 1)
