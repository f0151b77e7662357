"""Bayes' rule of a decision process, for beliefs that are kept up to date step by step."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import require
from ..emissions.counts import Categorical
from ..emissions.emission import Parameters
from .policies import Seen, Tracker, require_process, require_tracker

if TYPE_CHECKING:
    from .pomdp import POMDP

_FEW = 16
"""Up to so many states beliefs are moved by all actions at once."""

_MANY = 128
"""From so many states on transitions of which most are zero are multiplied entry by entry."""

_MOSTLY_ZERO = 0.2
"""Most are zero where a smaller share is not."""


class BayesRule:
    r"""The two halves of Bayes' rule under given parameters, prepared for many steps.

    .. math:: b_{t+1}(z') \propto O(o_{t+1} | a_t, z') \sum_z T(z' | z, a_t)\, b_t(z)

    A step costs as many operations as T has entries above zero where states are many and these are
    few (in the problem tag, with 870 states, one in 400).

    Args:
        model: a ``POMDP``.
        parameters: a value of every parameter.
    """

    def __init__(self, model: POMDP, parameters: Parameters) -> None:
        self.model, self.parameters = model, parameters
        one = torch.ones(1, dtype=torch.float64)
        self.initial = parameters.get("initial", one).detach().double()
        """p(z_1), (K,)."""

    # What a step multiplies by, made when the first one is asked for.

    @cached_property
    def _told(self) -> Tensor:
        """O of symbols, (…, o, z): what was seen picks a row."""
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
        """Σ_z T(z' | z, a) b(z) of beliefs (N, K) and actions (N,)."""
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
        """O(o_t | a_{t-1}, z) of every state, (N, K), up to a factor; 1 where nothing was seen."""
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
        # Densities of many numbers may underflow; their ratio between states is what counts.
        top = score.amax(-1, keepdim=True).clamp_min(torch.finfo(score.dtype).min)
        return (score - top).exp()


def _entries(moves: Tensor) -> list[Any] | None:
    """The transposes of matrices (A, K, K) by their entries; None where these are many."""
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


class BeliefPolicy:
    """π(a_t | b_t): what ``act`` says of the belief that ``tracker`` keeps.

    ``act`` takes beliefs (N, K) to probabilities (N, A); a ``Plan`` brings one.
    """

    def __init__(self, act: Callable[[Tensor], Tensor], tracker: Tracker | None = None) -> None:
        require(callable(act), "act", "must be a function of beliefs, as plan.act", repr(act))
        require_tracker(tracker)
        self.act = act
        self.tracker: Tracker = ExactTracker() if tracker is None else tracker

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
    r"""Bayes' rule, one step after the other.

    .. math:: b_{t+1}(z') \propto O(o_{t+1} | a_t, z') \sum_z T(z' | z, a_t)\, b_t(z)

    Args:
        impossible: what happens at an observation that the belief rules out: ``"raise"`` a
            ``ValueError`` that names episode and step, or ``"reset"`` the belief to the initial
            law.

    Raises:
        ValueError: for another ``impossible``, or a model whose parameters are not all known.
    """

    def __init__(self, impossible: Literal["raise", "reset"] = "raise") -> None:
        fits = impossible in ("raise", "reset")
        require(fits, "impossible", "must be 'raise' or 'reset'", repr(impossible))
        self.impossible = impossible

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
            episode = int(lost.nonzero()[0])
            require(
                self.impossible == "reset",
                "observation",
                f"must be possible under the belief; episode {episode}, step {step}",
                seen.observation[episode].tolist(),
            )
            # What was seen says that the model is not where it was thought to be: begin again.
            joint[lost] = rule.initial
            total = joint.sum(-1, keepdim=True)
        belief = joint / total
        return belief, _Exact(rule, belief, step + 1)
