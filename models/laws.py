"""The initial and the transition law of a chain with K states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pyro.distributions as dist
import torch
from torch import Tensor

from .checks import require, require_count, require_inputs, require_positive
from .emissions import Parameters, Priors
from .sequences import Sequences
from .trajectories import safe_log

_WORST_CONDITION = 1e12
"""Largest entry of (I − P + 1 1')⁻¹ at which four digits of the stationary law are still right."""


class InitialLaw(Protocol):
    """p(z_1) of a chain with at least two states: what a model needs of it."""

    def priors(self, states: int) -> Priors:
        """Prior of every parameter."""

    def dims(self) -> dict[str, tuple[str, ...]]:
        """Axis names of every parameter."""

    def __call__(self, parameters: Parameters, log_transition: Tensor) -> Tensor:
        """log p(z_1), shape (…draws, 1, K)."""


@runtime_checkable
class TransitionLaw(Protocol):
    """T(z' | z) of a chain with at least two states: what a model needs of it."""

    @property
    def inputs(self) -> int:
        """Number of input columns that it reads; its matrices vary over time iff there are any."""

    def priors(self, states: int) -> Priors:
        """Prior of every parameter."""

    def dims(self) -> dict[str, tuple[str, ...]]:
        """Axis names of every parameter."""

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        """log T, rows from and columns to, shape (…draws, N|1, T-1|1, K, K)."""

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        """Parameter values from expected transition counts (K, K), all > 0."""

    def check(self, data: Sequences) -> None:
        """Raise ``ValueError`` unless the data bring what the law reads."""


@dataclass(frozen=True)
class FreeInitial:
    """p(z_1) is a parameter: initial ~ Dirichlet(1, …)."""

    def priors(self, states: int) -> Priors:
        return {"initial": dist.Dirichlet(torch.ones(states))}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"initial": ("state",)}

    def __call__(self, parameters: Parameters, log_transition: Tensor) -> Tensor:
        """log p(z_1), shape (…draws, 1, K)."""
        return safe_log(parameters["initial"]).unsqueeze(-2)


@dataclass(frozen=True)
class StationaryInitial:
    """p(z_1) = π with π P = π: the chain has run long before the first observation."""

    def priors(self, states: int) -> Priors:
        del states
        return {}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {}

    def __call__(self, parameters: Parameters, log_transition: Tensor) -> Tensor:
        """log p(z_1), shape (…draws, 1, K)."""
        del parameters
        return safe_log(stationary(log_transition.squeeze(-3).exp()))


def stationary(transition: Tensor) -> Tensor:
    """The law π with π P = π of matrices (…, K, K), shape (…, K); differentiable.

    π = 1' (I − P + 1 1')⁻¹, whose inverse exists iff the chain has one closed class of states.
    Transient states get exactly 0.

    Raises:
        ValueError: several closed classes, hence many stationary laws; or so close to it that
            rounding decides.
    """
    size = transition.shape[-1]
    matrix = transition.double()
    recurrent = _recurrent(matrix > 0)
    identity = torch.eye(size, dtype=torch.float64, device=transition.device)
    inverse, info = torch.linalg.inv_ex(identity - matrix + 1)
    regular = bool((info == 0).all()) and bool((inverse.abs() < _WORST_CONDITION).all())
    if recurrent is None or not regular:
        raise ValueError(
            "initial='stationary': needs a transition matrix with a single closed class of states; "
            f"got one with several, or nearly so: {transition.detach().tolist()}"
        )
    return torch.where(recurrent, inverse.sum(-2).clamp_min(0), 0).to(transition.dtype)


def _recurrent(possible: Tensor) -> Tensor | None:
    """States of the closed class of chains (…, K, K) of possible moves; None if there are several.

    A state is recurrent iff it can be reached again from wherever it leads to.
    """
    if bool(possible.all()):
        return possible[..., 0, :]
    size = possible.shape[-1]
    reach = possible | torch.eye(size, dtype=torch.bool, device=possible.device)
    for _ in range(max(1, (size - 1).bit_length())):  # paths of 1, 2, 4, … moves
        reach = (reach.double() @ reach.double()) > 0
    recurrent = (~reach | reach.mT).all(-1)
    both = recurrent.unsqueeze(-1) & recurrent.unsqueeze(-2)
    return recurrent if bool((reach | ~both).all()) else None


@dataclass(frozen=True)
class MatrixTransition:
    """Rows of T(z' | z) are parameters: transition[i] ~ Dirichlet(concentration + sticky δ_i).

    ``sticky`` is the number of extra pseudo-counts on staying (Fox et al. 2011).

    Raises:
        ValueError: a concentration that is not positive, or a negative ``sticky``.
    """

    concentration: float = 1.0
    sticky: float = 0.0
    inputs = 0

    def __post_init__(self) -> None:
        require_positive(self.concentration, "concentration")
        require(0 <= self.sticky < float("inf"), "sticky", "must be finite and >= 0", self.sticky)

    def priors(self, states: int) -> Priors:
        rows = torch.full((states, states), float(self.concentration))
        return {"transition": dist.Dirichlet(rows + self.sticky * torch.eye(states)).to_event(1)}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"transition": ("state", "state_to")}

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        """log T, shape (…draws, 1, 1, K, K)."""
        del data
        return safe_log(parameters["transition"]).unsqueeze(-3).unsqueeze(-3)

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        return {"transition": counts / counts.sum(-1, keepdim=True)}

    def check(self, data: Sequences) -> None:
        """Any data will do."""


@dataclass(frozen=True)
class InputTransition:
    r"""Transitions that depend on inputs: the chain of an input-output HMM.

    .. math:: T_t(j \mid i) \propto P_{ij} \exp(\sum_u W_{iju} x_{tu})

    The input of step t drives z_t → z_{t+1} (that of the last step drives what is forecast).
    P has the prior of ``MatrixTransition``, W ~ N(0, weight_scale²). Adding a number to a row of W
    changes nothing: the prior alone determines the mean of a row.

    Raises:
        ValueError: no input, or a prior setting out of range.
    """

    inputs: int
    concentration: float = 1.0
    sticky: float = 0.0
    weight_scale: float = 1.0

    def __post_init__(self) -> None:
        require_count(self.inputs, "inputs")
        require_positive(self.weight_scale, "weight_scale")
        MatrixTransition(self.concentration, self.sticky)  # checks the two

    @property
    def _matrix(self) -> MatrixTransition:
        return MatrixTransition(self.concentration, self.sticky)

    def priors(self, states: int) -> Priors:
        weight = dist.Normal(torch.zeros(states, states, self.inputs), self.weight_scale)
        return {**self._matrix.priors(states), "transition_weight": weight.to_event(3)}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {**self._matrix.dims(), "transition_weight": ("state", "state_to", "input")}

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        """log T, shape (…draws, N, T-1, K, K)."""
        base = self._matrix(parameters, data)
        if data.max_length == 1:
            return base  # nothing moves; an axis of no steps would be of no use to anybody
        self.check(data)
        assert data.inputs is not None
        weight = parameters["transition_weight"]
        drive = torch.einsum("ntu,...iju->...ntij", data.inputs[:, :-1].to(weight.dtype), weight)
        return (base + drive).log_softmax(-1)

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        weight = counts.new_zeros(*counts.shape, self.inputs)
        return {**self._matrix.start(counts), "transition_weight": weight}

    def check(self, data: Sequences) -> None:
        require_inputs(data, self.inputs, "InputTransition")
