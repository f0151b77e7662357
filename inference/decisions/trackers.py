"""Beliefs along episodes, step by step: those of a network, and those without memory.

``POMDP.rollout`` records them and a ``BeliefPolicy`` acts on them; see also ``ExactTracker`` and
``ParticleTracker``. Trackers hold no state: the memory is passed in and returned at every step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...models import POMDP, Policy, Seen, Sequences, Tracker
from ...models.boundary import boundary
from ...models.checks import brief, require, require_choice, require_count
from ...models.decisions.bayes_rule import BayesRule
from ...models.decisions.policies import (
    LOST,
    Lost,
    require_explained,
    require_process,
    require_tracker,
)
from ...models.model import as_tensor
from ..filters.recurrent import RecurrentFilter
from ..fitting.record import Fit
from ..guides.guide import Guide


@boundary
def track(tracker: Tracker, model: POMDP, data: Sequences) -> Tensor:
    """Computes the beliefs that a tracker holds along given episodes.

    Args:
        tracker: for instance ``FilterTracker``, ``ParticleTracker``, ``NoMemory`` or
            ``ExactTracker``.
        model: the process that the episodes are from, K states.
        data: N episodes of at most T steps, with actions.

    Returns:
        Beliefs, (N, T, K); zero beyond the length of an episode.

    Raises:
        ValueError: data that the model cannot produce, or that the tracker refuses.

    >>> from beliefzoo.inference import track
    >>> from beliefzoo.models import ActionSequence, ExactTracker, tiger
    >>> model = tiger()
    >>> episodes = model.rollout(ActionSequence((0, 0, 0)), episodes=1, length=3, seed=1)
    >>> track(ExactTracker(), model, episodes.data).numpy().round(4)[0]  # listening three times
    array([[0.5   , 0.5   ],
           [0.85  , 0.15  ],
           [0.9698, 0.0302]])
    """
    require_tracker(tracker)
    require_process(model, "track")
    require(isinstance(data, Sequences), "data", "must be Sequences", type(data).__name__)
    model.check_values(data)
    data = model.names.read(data)
    assert data.actions is not None  # checked
    memory = tracker.begin(model, len(data))
    beliefs, before = [], None
    for t in range(data.max_length):
        belief, memory = tracker.update(memory, Seen(before, data.values[:, t], data.mask[:, t]))
        beliefs.append(belief)
        before = data.actions[:, t]
    return torch.stack(beliefs, 1) * data.step_mask.unsqueeze(-1)


class _Network(NamedTuple):
    model: POMDP
    state: Any
    """h of every layer, of an LSTM (h, c); None before the first step."""


class FilterTracker:
    """Beliefs of a recurrent filter, one step at a time, passing the network's state on.

    They equal the filter's beliefs on whole sequences, up to rounding.

    Args:
        filter: an ``LSTMFilter``, ``GRUFilter`` or ``ElmanFilter`` that reads forward, or a guide
            or fit that contains one.

    Raises:
        ValueError: another filter, one that is not built, or one built for another model.

    >>> from beliefzoo.inference import FilterTracker, LSTMFilter, track
    >>> from beliefzoo.models import Uniform, tiger
    >>> model, network = tiger(), LSTMFilter(hidden_size=4)
    >>> network.build(model)
    >>> episodes = model.rollout(Uniform(), episodes=3, length=5, seed=0).data
    >>> track(FilterTracker(network), model, episodes).shape
    torch.Size([3, 5, 2])
    """

    def __init__(self, filter: RecurrentFilter | Guide | Fit) -> None:
        guide = filter.guide if isinstance(filter, Fit) else filter
        own: Any = guide.filter if isinstance(guide, Guide) else guide
        fits = isinstance(own, RecurrentFilter) and own.causal and own.head is not None
        require(
            fits,
            "filter",
            "must be a recurrent filter that reads forward and is built for a model",
            type(own).__name__,
        )
        self.filter: RecurrentFilter = own

    def __repr__(self) -> str:
        return f"FilterTracker({type(self.filter).__name__})"

    def begin(self, model: POMDP, episodes: int) -> _Network:
        """Returns the network's state before the first step of ``episodes`` episodes."""
        del episodes
        self.filter.build(model)  # raises for another model
        require(
            not model.learned_reward or self.filter.reads == "observations",
            "filter",
            "must read 'observations' alone: rewards, which are learned, come after the action",
            repr(self.filter.reads),
        )
        return _Network(model, None)

    def update(self, memory: _Network, seen: Seen) -> tuple[Tensor, _Network]:
        """Returns the belief (N, K) after a step, and the network's new state."""
        filter, model = self.filter, memory.model
        assert filter.network is not None
        assert filter.head is not None
        with torch.no_grad():
            laws = model.laws({}, _as_sequences(seen))
            x = filter.channels(laws)[:, -1:]
            out, state = filter.network(x, memory.state)
            told = {"h": out[:, -1]}
            if isinstance(filter.network, nn.LSTM):
                told["c"] = state[1][-1]
            read = torch.cat([told[name] for name in filter.memory], -1)
            scores = filter.scores_of(read.unsqueeze(1), laws).squeeze(1)
            log_belief = filter.read_out(scores.double())
        assert isinstance(log_belief, Tensor)
        return log_belief.exp(), _Network(model, state)


def _as_sequences(seen: Seen) -> Sequences:
    """The step as the last one of sequences, behind a missing step that holds its action."""
    y, mask = (x.unsqueeze(1) for x in (seen.observation, seen.mask))
    actions = torch.zeros(len(y), 1, dtype=torch.int64)
    if seen.action is not None:
        y, mask = (torch.cat([torch.zeros_like(x), x], 1) for x in (y, mask))
        actions = torch.stack([seen.action, torch.zeros_like(seen.action)], 1)
    lengths = torch.full((len(y),), y.shape[1])
    return Sequences(values=y, mask=mask, lengths=lengths, actions=actions)


class _Nothing(NamedTuple):
    rule: BayesRule
    before: Tensor
    """What is thought of the state before a step, (N, K)."""
    step: int


@boundary
class NoMemory:
    r"""Belief of an agent without memory: given the last action and observation only.

    .. math:: b_t(z') \propto O(o_t | a_{t-1}, z') \sum_z T(z' | z, a_{t-1})\, \pi(z)

    with the same π at every step; at the first step b_1 ∝ O(o_1 | z) p(z_1). If π is the share of
    visits to each state under a policy, this is the best belief without memory; see :meth:`under`.

    Args:
        prior: π, (K,); None: the initial law.
        impossible: at an observation that π rules out, ``"raise"`` a ``ValueError`` that names
            episode and step, treat it as ``"missing"``, or ``"reset"``: leave π out, b ∝ O.

    Raises:
        ValueError: a prior that is no distribution of the model's states, another ``impossible``, a
            model with unknown parameters, or an observation that no state can produce.

    >>> from beliefzoo.inference import NoMemory, track
    >>> from beliefzoo.models import ActionSequence, tiger
    >>> model = tiger()
    >>> episodes = model.rollout(ActionSequence((0, 0, 0)), episodes=1, length=3, seed=1)
    >>> track(NoMemory(), model, episodes.data).numpy().round(2)[0]  # growls do not add up
    array([[0.5 , 0.5 ],
           [0.85, 0.15],
           [0.85, 0.15]])
    """

    def __init__(
        self, prior: npt.ArrayLike | Tensor | None = None, impossible: Lost = "raise"
    ) -> None:
        self.prior = None if prior is None else as_tensor("prior", prior)
        if self.prior is not None:
            fits = self.prior.ndim == 1 and bool((self.prior >= 0).all())
            fits = fits and abs(float(self.prior.sum()) - 1) < 1e-6
            require(fits, "prior", "needs probabilities that sum to 1", self.prior.tolist())
        require_choice(impossible, "impossible", LOST)
        self.impossible = impossible

    def __repr__(self) -> str:
        prior = "" if self.prior is None else f"{brief(self.prior.tolist())}, "
        return f"NoMemory({prior}impossible={self.impossible!r})"

    @classmethod
    def under(
        cls, model: POMDP, policy: Policy, episodes: int, length: int, *, seed: int = 0
    ) -> NoMemory:
        """Estimates π as the share of steps in each state along simulated episodes.

        One visit is added to each state, so that none is ruled out by chance.

        Args:
            model: the process.
            policy: what chooses the actions.
            episodes: number of episodes.
            length: steps of each.
            seed: of the simulation.

        Returns:
            The tracker with this prior.
        """
        require_count(length - 1, "length - 1")
        states = model.rollout(policy, episodes, length, seed=seed).states[:, :-1]
        visits = torch.bincount(states.flatten(), minlength=model.states).double() + 1
        return cls(visits / visits.sum())

    def begin(self, model: POMDP, episodes: int) -> _Nothing:
        """Returns the memory before the first step: the model's laws and π."""
        require_process(model, "NoMemory")
        rule = BayesRule(model, model.complete({}))
        prior = rule.initial if self.prior is None else self.prior
        fits = len(prior) == model.states
        require(fits, "prior", f"needs a probability for each of {model.states} states", len(prior))
        return _Nothing(rule, prior.expand(episodes, -1), 0)

    def update(self, memory: _Nothing, seen: Seen) -> tuple[Tensor, _Nothing]:
        """Returns the belief (N, K) after a step, and the memory."""
        rule, before, step = memory
        told, expected = rule.likelihood(seen), rule.initial
        if seen.action is not None:
            expected = rule.predicted(before, seen.action)
        belief = expected * told
        lost = belief.sum(-1) <= 0
        if bool(lost.any()):
            require_explained(lost, seen, step, self.impossible)
            instead = expected
            if self.impossible == "reset":
                instead = told
                explained = told.sum(-1) > 0
                require(
                    bool(explained[lost].all()),
                    "observation",
                    f"must be possible in some state; step {step}",
                    seen.observation[~explained].tolist()[:1],
                )
            belief = torch.where(lost.unsqueeze(-1), instead, belief)
        belief = belief / belief.sum(-1, keepdim=True)
        return belief, _Nothing(rule, before, step + 1)
