"""A walk around a ring, and where it starts: laws of a chain of somebody who uses beliefzoo."""

from collections.abc import Callable
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from beliefzoo.models import Parameters, Priors, Sequences, SparseMoves


@dataclass(frozen=True)
class Ring:
    """From every state alike one back, stay, or one on: turn ~ Dirichlet(1, stay, 1)."""

    states: int
    stay: float = 2.0
    inputs = 0

    def priors(self, states: int) -> Priors:
        return {"turn": dist.Dirichlet(torch.tensor([1.0, self.stay, 1.0]))}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"turn": ("direction",)}

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        turn = parameters["turn"][..., None, None]
        moves = torch.stack([_shifted(self.states, step) for step in (-1, 0, 1)]).to(turn)
        return (turn * moves).sum(-3).log()[..., None, None, :, :]

    def structure(self, parameters: Parameters) -> SparseMoves:
        turn = parameters["turn"].log().expand(self.states, -1)
        target = torch.arange(self.states).unsqueeze(-1) + torch.tensor([-1, 0, 1])
        return SparseMoves.listed(turn, target % self.states, torch.ones_like(target).bool())

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        moved = [(counts * _shifted(self.states, step)).sum() for step in (-1, 0, 1)]
        turn = torch.stack(moved)
        return {"turn": turn / turn.sum()}

    def check(self, data: Sequences) -> None:
        """Any data will do."""

    def check_model(self, model: object) -> None:
        if getattr(model, "states", None) != self.states:
            raise ValueError(f"states: Ring({self.states}) needs as many, got {model!r}")


def _shifted(states: int, step: int) -> Tensor:
    return torch.eye(states).roll(step, 1)


@dataclass(frozen=True)
class Somewhere:
    """The first state is like any other."""

    states: int

    def priors(self, states: int) -> Priors:
        return {}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {}

    def __call__(self, parameters: Parameters, log_transition: Callable[[], Tensor]) -> Tensor:
        like = log_transition()
        return like.new_zeros(*like.shape[:-4], 1, self.states).log_softmax(-1)

    def start(self, share: Tensor) -> dict[str, Tensor]:
        return {}


@dataclass(frozen=True)
class Tide:
    """Two states, and log odds u_t of staying: one column of inputs, and no parameters."""

    inputs = 1

    def priors(self, states: int) -> Priors:
        return {}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {}

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        assert data.inputs is not None
        stay = data.inputs[:, 1:, :, None].sigmoid()
        same = torch.eye(2)
        return (stay * same + (1 - stay) * (1 - same)).log()

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        return {}

    def check(self, data: Sequences) -> None:
        if data.inputs is None:
            raise ValueError("inputs: Tide needs one column, got None")
