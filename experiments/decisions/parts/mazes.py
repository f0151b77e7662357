"""T-mazes: their episodes, beliefs about them, and networks that remember."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ....inference.filters.recurrent import RecurrentFilter
from ....inference.guides.guide import Guide
from ....models import POMDP, ObservationPolicy, Sequences

RIGHT = 0
"""The action that moves on along the corridor."""


class Maze(NamedTuple):
    """A maze, new episodes of it, and what the exact filter says of them."""

    length: int
    model: POMDP
    data: Sequences
    belief: Tensor
    """(N, T, K)."""
    up: Tensor
    """Which states have their goal up, (K,)."""
    arrived: Tensor
    """Whether the junction is seen for the first time, (N, T)."""
    lag: Tensor
    """Steps since the cue was last seen, (N, T)."""


Case = tuple[int, float]


def case_name(case: Case) -> str:
    """How a maze is called in the report."""
    return f"length_{case[0]}_stochasticity_{case[1]:g}".replace(".", "p")


def horizon(length: int) -> int:
    """Steps of an episode: with one move in five at random the junction is mostly reached."""
    return int(1.3 * length) + 10


def leaning(share: float) -> ObservationPolicy:
    """Right with probability ``share``, else any of the four."""
    law = torch.full((4,), (1 - share) / 4, dtype=torch.float64)
    law[RIGHT] += share
    return ObservationPolicy(law.expand(4, -1), law)


@torch.no_grad()
def remember(network: RecurrentFilter, steps: int) -> None:
    """Biases with which units forget after 1 to ``steps`` steps (Tallec & Ollivier 2018).

    What keeps is the forget gate of an LSTM, whose input gate gets the opposite bias, and the
    update gate of a GRU. An Elman network has none.
    """
    size = network.hidden_size
    span = torch.empty(size).uniform_(1, steps - 1).log()
    inner, biases = network.network, dict(network.named_parameters())
    own, fed = (biases.get(f"network.bias_{kind}_l0") for kind in ("ih", "hh"))
    assert own is not None
    assert fed is not None
    if isinstance(inner, nn.LSTM):
        fed[: 2 * size] = 0
        own[: 2 * size] = torch.cat([-span, span])
    elif isinstance(inner, nn.GRU):
        fed[size : 2 * size] = 0
        own[size : 2 * size] = span


@torch.no_grad()
def own_belief(guide: Guide, maze: Maze) -> Tensor:
    """log β of the network alone, (N, T, K)."""
    found: Any = guide.filter(maze.model.laws({}, maze.data))
    return torch.as_tensor(found).double()


@torch.no_grad()
def guided_belief(guide: Guide, maze: Maze) -> Tensor:
    """log β without the states that the model's zeros rule out, as its guide uses it."""
    posterior: Any = guide.posterior(maze.model.laws({}, maze.data))
    return torch.as_tensor(posterior.log_beliefs).double()


def mean_of(values: Tensor) -> float:
    """The mean; 0 of none, which in so short a trial may be."""
    return float(values.mean()) if values.numel() else 0.0


class Trained(NamedTuple):
    """A network and its read-out, after training in a maze."""

    network: nn.RNNBase
    states: tuple[str, ...]
    weight: Tensor
    """Of the read-out, (K, units)."""
    bias: Tensor


def trained(guide: Guide, maze: Maze) -> Trained:
    """What another maze begins with."""
    filter: Any = guide.filter
    head = filter.head
    names = tuple(maze.model.state_names)
    return Trained(filter.network, names, head.weight.detach(), head.bias.detach())
