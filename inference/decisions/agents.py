"""Recurrent agents trained elsewhere: their policies, and the LSTM inside.

The policies are those of sb3-contrib's ``RecurrentPPO``, or any object with the same few parts; the
package itself is not needed here.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...models import POMDP, Seen, Sequences
from ...models.boundary import boundary
from ...models.checks import require
from ..networks.network_inputs import check_lstm, fold_embedding, network_inputs, states_of

Memory = tuple[Tensor, Tensor]


class RecurrentPolicy(Protocol):
    """The parts used of ``sb3_contrib.common.recurrent.policies.RecurrentActorCriticPolicy``.

    >>> from types import SimpleNamespace
    >>> import torch
    >>> from beliefzoo.inference.decisions.agents import RecurrentPolicy
    >>> policy: RecurrentPolicy = SimpleNamespace(
    ...     observation_space=SimpleNamespace(n=3), pi_features_extractor=torch.nn.Identity(),
    ...     lstm_actor=torch.nn.LSTM(3, 8), action_net=torch.nn.Linear(8, 3),
    ...     mlp_extractor=SimpleNamespace(policy_net=torch.nn.Identity()),
    ... )
    """

    observation_space: Any
    lstm_actor: Any
    pi_features_extractor: Any
    """What stands between the one-hot symbol and the LSTM."""
    mlp_extractor: Any
    """Its ``policy_net`` stands between the LSTM and…"""
    action_net: Any
    """…the last layer, which gives a number for each action."""


@boundary
class RecurrentAgent:
    """Policy of an agent trained elsewhere: π(a_t | h_t), (h_t, c_t) = LSTM(x_t, h_{t-1}, c_{t-1}).

    The agent was trained on ``POMDPEnv(model)``, where it sees x_t = o_t, or with ``show_action``
    x_t = (o_t, a_{t-1}). The layers before the LSTM are multiplied into its first weights, so that
    ``lstm`` reads one-hot vectors of the symbols that ``inputs`` returns. Everything for such
    networks (``lstm_readouts``, ``wrap``, …) works for the agent. The actor's LSTM is used, not
    that of the critic.

    Args:
        policy: for instance ``RecurrentPPO(…).policy``, copied as it is now.
        model: the process that it acts in.

    Raises:
        ValueError: a policy with other parts, an LSTM that ``wrap`` refuses, or a process of other
            sizes.

    >>> from types import SimpleNamespace
    >>> import torch
    >>> from beliefzoo.inference import RecurrentAgent
    >>> from beliefzoo.models import tiger
    >>> policy = SimpleNamespace(  # in practice RecurrentPPO("MlpLstmPolicy", env).policy
    ...     observation_space=SimpleNamespace(n=3), pi_features_extractor=torch.nn.Identity(),
    ...     lstm_actor=torch.nn.LSTM(3, 8), action_net=torch.nn.Linear(8, 3),
    ...     mlp_extractor=SimpleNamespace(policy_net=torch.nn.Identity()),
    ... )
    >>> model = tiger()
    >>> agent = RecurrentAgent(policy, model)
    >>> hidden, cells = agent.states(model.rollout(agent, episodes=5, length=10, seed=0).data)
    >>> hidden.shape
    torch.Size([5, 10, 8])
    """

    lstm: nn.LSTM
    """Reads one-hot vectors of the symbols of ``inputs``."""

    def __init__(self, policy: RecurrentPolicy, model: POMDP) -> None:
        lstm = getattr(policy, "lstm_actor", None)
        requirement = "must have the parts of a RecurrentPPO policy, an LSTM lstm_actor among them"
        require(isinstance(lstm, nn.LSTM), "policy", requirement, type(policy).__name__)
        check_lstm(lstm)
        require(model.emission.codes, "model", "must show symbols", repr(model))
        self._model = model
        self._greedy = False
        self._nothing = model.emission.encoding_size  # the symbol of a step that shows nothing
        symbols = self._nothing + int(not model.law.first)
        space = policy.observation_space
        size, both = getattr(space, "n", 0), symbols * (model.actions + 1)
        requirement = f"must read the {symbols} symbols of the process, or {both} with its actions"
        require(size in (symbols, both), "policy", requirement, space)
        self._reads_actions = size == both
        actions = getattr(policy.action_net, "out_features", 0)
        requirement = f"must choose among the {model.actions} actions of the process"
        require(actions == model.actions, "policy", requirement, repr(policy.action_net))
        with torch.no_grad():
            before = _own(policy.pi_features_extractor)(torch.eye(size))
            self.lstm = fold_embedding(_own(lstm), nn.Embedding.from_pretrained(before))
        self._head = nn.Sequential(_own(policy.mlp_extractor.policy_net), _own(policy.action_net))

    def greedily(self) -> RecurrentAgent:
        """Returns the same agent, taking the most likely action instead of drawing one."""
        out = copy.copy(self)
        out._greedy = True
        return out

    def inputs(self, data: Sequences) -> Sequences:
        """Returns the symbols that the agent reads at each step of episodes, none of them missing.

        Args:
            data: episodes of the process.

        Raises:
            ValueError: data of another process, or a step without observation of a process that
                always shows one.
        """
        self._model.emission.check(data)
        blank = int((data.step_mask & ~data.observed_steps).sum())
        requirement = "must be observed at every step, as the agent has always been"
        require(not (self._model.law.first and blank), "data", requirement, f"{blank} without")
        assert data.actions is not None
        before = data.actions.roll(1, 1)
        before[:, 0] = self._model.actions
        codes = self._codes(data.codes(), data.observed_steps, before)
        return Sequences.from_tensors(
            codes,
            lengths=data.lengths,
            codes=True,
            labels=data.labels,
            symbols=range(self.lstm.input_size),
        )

    def _codes(self, observation: Tensor, mask: Tensor, action: Tensor) -> Tensor:
        seen = torch.where(mask, observation, self._nothing)
        return seen * (self._model.actions + 1) + action if self._reads_actions else seen

    def states(self, data: Sequences) -> Memory:
        """Returns h and c along episodes, each (N, T, units); those of the last layer."""
        return states_of(self.lstm, network_inputs(self.lstm, self.inputs(data)))

    # A policy of the library

    def begin(self, model: POMDP, episodes: int) -> Memory:
        """Returns the LSTM's zero state before the first step of ``episodes`` episodes."""
        requirement = f"must be of the sizes of {self._model}"
        require(_sizes(model) == _sizes(self._model), "model", requirement, repr(model))
        zero = torch.zeros(self.lstm.num_layers, episodes, self.lstm.hidden_size)
        return zero, zero

    def __call__(self, memory: Memory, seen: Seen) -> tuple[Tensor, Memory]:
        action = seen.action
        if action is None:
            action = torch.full_like(seen.observation, self._model.actions)
        codes = self._codes(seen.observation, seen.mask, action)
        x = nn.functional.one_hot(codes, self.lstm.input_size).to(memory[0])
        with torch.no_grad():
            h, memory = self.lstm(x.unsqueeze(1), memory)
            score: Tensor = self._head(h[:, 0])
        if self._greedy:
            return nn.functional.one_hot(score.argmax(-1), score.shape[-1]).double(), memory
        return score.double().softmax(-1), memory


def _sizes(model: POMDP) -> tuple[int, int, bool]:
    return model.actions, model.emission.encoding_size, model.law.first


def _own(part: Any) -> Any:
    """A copy on the CPU, in evaluation mode, unaffected by later training."""
    return copy.deepcopy(part).cpu().eval()
