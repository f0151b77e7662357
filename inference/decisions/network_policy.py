"""A recurrent network that acts: a policy whose weights are written down or trained elsewhere."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ...models import POMDP, Seen
from ...models.boundary import boundary
from ...models.checks import require
from ...models.decisions.policies import require_process
from ...models.emissions.observations import of_channels

Memory = Any
"""h of every layer, of an LSTM (h, c); None before the first step."""


@boundary
class NetworkPolicy:
    """Policy of a network: π(a_t | h_t) = softmax(head(h_t)), h_t = network(x_t, h_{t-1}).

    x_t is the observation, a one-hot symbol or numbers (zero where missing), followed by the
    previous action as a one-hot vector (zero at the first step): the inputs of an ``LSTMFilter`` of
    the process. Both modules are copied as they are now.

    Args:
        network: an ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN`` that reads forward.
        head: maps its output to a number for each action.

    Raises:
        ValueError: another network, one that also reads backward or has a projection, or parts
            whose sizes do not fit each other or the process.

    >>> import torch
    >>> from beliefzoo.inference import NetworkPolicy
    >>> from beliefzoo.models import tiger
    >>> head = torch.nn.Linear(8, 3)
    >>> _ = torch.nn.init.zeros_(head.weight), head.bias.data.copy_(torch.tensor([50.0, 0.0, 0.0]))
    >>> policy = NetworkPolicy(torch.nn.LSTM(5, 8), head)  # two symbols and three actions
    >>> tiger().rollout(policy, episodes=1, length=4, seed=0).data.actions.tolist()  # listens
    [[0, 0, 0, 0]]
    """

    def __init__(self, network: nn.RNNBase, head: nn.Linear) -> None:
        fits = isinstance(network, nn.LSTM | nn.GRU | nn.RNN)
        fits = fits and not network.bidirectional and not network.proj_size
        requirement = "must be an nn.LSTM, nn.GRU or nn.RNN that reads forward, without projection"
        require(fits, "network", requirement, network)
        fits = isinstance(head, nn.Linear) and head.in_features == network.hidden_size
        require(fits, "head", f"must be an nn.Linear from {network.hidden_size} numbers", head)
        self.network = copy.deepcopy(network).eval()
        self.network.batch_first = True
        self.head = copy.deepcopy(head)

    def __repr__(self) -> str:
        return f"NetworkPolicy({self.network}, {self.head})"

    def begin(self, model: POMDP, episodes: int) -> Memory:
        """Returns the network's zero state before the first step of ``episodes`` episodes."""
        del episodes
        require_process(model, "NetworkPolicy")
        wanted = model.observations.channels + model.actions
        requirement = f"needs input_size={wanted}: what is seen and the action before it"
        size = self.network.input_size
        require(size == wanted, "network", requirement, f"input_size={size}")
        out = self.head.out_features
        require(out == model.actions, "head", f"needs {model.actions} outputs", out)
        return model.observations, None

    @torch.no_grad()
    def __call__(self, memory: Memory, seen: Seen) -> tuple[Tensor, Memory]:
        observations, state = memory
        like = self.head.weight
        mask = seen.mask if seen.mask.ndim == 2 else seen.mask.unsqueeze(-1)
        told = observations.encode(seen.observation.unsqueeze(1))[:, 0].to(like)
        told = told * of_channels(observations, mask)
        before = told.new_zeros(len(told), self.head.out_features)
        if seen.action is not None:
            before.scatter_(1, seen.action.unsqueeze(1), 1)
        out, state = self.network(torch.cat([told, before], -1).unsqueeze(1), state)
        return self.head(out[:, 0]).double().softmax(-1), (observations, state)
