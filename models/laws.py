"""The initial and the transition law of a chain with K states."""

from __future__ import annotations

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from .emissions import Parameters, Priors
from .sequences import Sequences
from .trajectories import safe_log


@dataclass(frozen=True)
class FreeInitial:
    """p(z_1) is a parameter: initial ~ Dirichlet(concentration, …)."""

    concentration: float = 1.0

    def priors(self, states: int) -> Priors:
        if states == 1:
            return {}
        return {"initial": dist.Dirichlet(torch.full((states,), float(self.concentration)))}

    def __call__(self, parameters: Parameters, log_transition: Tensor) -> Tensor:
        """log p(z_1), shape (…draws, 1, K)."""
        if log_transition.shape[-1] == 1:
            return log_transition.new_zeros(*log_transition.shape[:-4], 1, 1)
        return safe_log(parameters["initial"]).unsqueeze(-2)


@dataclass(frozen=True)
class StationaryInitial:
    """p(z_1) = π with π P = π: the chain has run long before the first observation."""

    def priors(self, states: int) -> Priors:
        del states
        return {}

    def __call__(self, parameters: Parameters, log_transition: Tensor) -> Tensor:
        """log p(z_1), shape (…draws, 1, K)."""
        del parameters
        return safe_log(stationary(log_transition.squeeze(-3).exp()))


def stationary(transition: Tensor) -> Tensor:
    """The law π with π P = π of matrices (…, K, K), shape (…, K).

    Solves π (I − P + 1 1') = 1', which has one solution iff the chain has one closed class.
    """
    states = transition.shape[-1]
    matrix = torch.eye(states, dtype=torch.float64, device=transition.device) - transition.double()
    ones = torch.ones(*transition.shape[:-1], dtype=torch.float64, device=transition.device)
    solved, info = torch.linalg.solve_ex((matrix + 1).mT, ones.unsqueeze(-1))
    pi = solved.squeeze(-1)
    if info.any() or not bool((pi > -1e-6).all()):
        raise ValueError(
            "initial='stationary': needs a transition matrix with a single closed class of states; "
            f"got one with several: {transition.detach().tolist()}"
        )
    return pi.clamp_min(0).to(transition.dtype)


@dataclass(frozen=True)
class MatrixTransition:
    """Rows of T(z' | z) are parameters: transition[i] ~ Dirichlet(concentration + sticky δ_i).

    ``sticky`` is the number of extra pseudo-counts on staying (Fox et al. 2011).
    """

    concentration: float = 1.0
    sticky: float = 0.0

    def __post_init__(self) -> None:
        if self.concentration <= 0:
            raise ValueError(f"concentration: must be > 0, got {self.concentration}")
        if self.sticky < 0:
            raise ValueError(f"sticky: must be >= 0, got {self.sticky}")

    def priors(self, states: int) -> Priors:
        if states == 1:
            return {}
        rows = torch.full((states, states), float(self.concentration))
        return {"transition": dist.Dirichlet(rows + self.sticky * torch.eye(states)).to_event(1)}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"transition": ("state", "state_to")}

    def __call__(self, parameters: Parameters, states: int, data: Sequences) -> Tensor:
        """log T, shape (…draws, 1, 1, K, K)."""
        del data
        if states == 1:
            some = next(iter(parameters.values()))
            return some.new_zeros(1, 1, 1, 1)
        return safe_log(parameters["transition"]).unsqueeze(-3).unsqueeze(-3)

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        """Values from expected transition counts (K, K)."""
        if counts.shape[0] == 1:
            return {}
        return {"transition": counts / counts.sum(-1, keepdim=True)}

    def check(self, data: Sequences) -> None:
        """Any data will do."""


@dataclass(frozen=True)
class InputTransition:
    r"""Transitions that depend on inputs: the chain of an input-output HMM.

    .. math:: T_t(j \mid i) \propto P_{ij} \exp(\sum_u W_{iju} x_{tu})

    The input of step t drives z_t → z_{t+1} (the last one drives nothing).
    P has the prior of ``MatrixTransition``, W ~ N(0, weight_scale²).
    """

    inputs: int
    concentration: float = 1.0
    sticky: float = 0.0
    weight_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.inputs < 1:
            raise ValueError(f"inputs: InputTransition needs at least 1, got {self.inputs}")

    @property
    def _matrix(self) -> MatrixTransition:
        return MatrixTransition(self.concentration, self.sticky)

    def priors(self, states: int) -> Priors:
        if states == 1:
            return {}
        weight = dist.Normal(torch.zeros(states, states, self.inputs), self.weight_scale)
        return {**self._matrix.priors(states), "transition_weight": weight.to_event(3)}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {**self._matrix.dims(), "transition_weight": ("state", "state_to", "input")}

    def __call__(self, parameters: Parameters, states: int, data: Sequences) -> Tensor:
        """log T, shape (…draws, N, T-1, K, K)."""
        base = self._matrix(parameters, states, data)
        if states == 1 or data.max_length == 1:
            return base
        assert data.inputs is not None  # `check` was called on the data
        weight = parameters["transition_weight"]
        drive = torch.einsum("ntu,...iju->...ntij", data.inputs[:, :-1].to(weight.dtype), weight)
        return (base + drive).log_softmax(-1)

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        out = self._matrix.start(counts)
        if out:
            out["transition_weight"] = counts.new_zeros(*counts.shape, self.inputs)
        return out

    def check(self, data: Sequences) -> None:
        width = 0 if data.inputs is None else data.inputs.shape[-1]
        if width != self.inputs:
            raise ValueError(
                f"data.inputs: InputTransition(inputs={self.inputs}) needs {self.inputs} "
                f"column(s), got {width}"
            )
