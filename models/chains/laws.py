"""Initial and transition laws of a chain with K states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import pyro.distributions as dist
import torch
from torch import Tensor

from ..boundary import boundary
from ..checks import require, require_count, require_positive, require_scales
from ..data.moments import input_scales
from ..data.requirements import require_inputs
from ..data.sequences import Sequences
from ..emissions.emission import Emission, Parameters, Priors
from ..trajectories import BandedMoves, LowRankMoves, Moves, SparseMoves, safe_log
from .renaming import Named

if TYPE_CHECKING:
    from .hmm import HiddenMarkovModel

WORST_CONDITION = 1e12
"""Largest entry of (I − P + 1 1')⁻¹ at which four digits of the stationary law are still right."""


@runtime_checkable
class InitialLaw(Protocol):
    """p(z_1) of a chain with at least two states: what a model needs of it.

    It is called with a function that returns log T, for laws that depend on the transition.
    """

    def priors(self, states: int) -> Priors:
        """Return the prior of every parameter."""

    def dims(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of every parameter."""

    def __call__(self, parameters: Parameters, log_transition: Callable[[], Tensor]) -> Tensor:
        """Return log p(z_1), shape (…draws, 1, K)."""

    def start(self, share: Tensor) -> dict[str, Tensor]:
        """Return parameter values from the shares (K,) of the first states, all > 0."""


class ChainModel(Protocol):
    """What a law may ask of the model that contains it."""

    @property
    def states(self) -> int:
        """Number of hidden states K."""

    @property
    def initial(self) -> InitialLaw | str:
        """The law of the first state, or its name."""

    @property
    def transition(self) -> TransitionLaw:
        """The transition law."""

    @property
    def emission(self) -> Emission:
        """The emission law."""


@runtime_checkable
class ModelCheck(Protocol):
    """A law that has requirements on the other laws of its model."""

    def check_model(self, model: ChainModel) -> None:
        """Raise ``ValueError`` unless the law can be part of the model."""


@runtime_checkable
class NameCheck(Protocol):
    """A law whose parameters have names that data may leave open."""

    def undecided(self, model: Named, given: Parameters) -> str:
        """Say which; see ``Model.undecided``."""


@runtime_checkable
class TransitionLaw(Protocol):
    """T(z' | z) of a chain with at least two states: what a model needs of it."""

    @property
    def inputs(self) -> int:
        """Number of input columns that it reads; with any, its matrices vary over time."""

    def priors(self, states: int) -> Priors:
        """Return the prior of every parameter."""

    def dims(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of every parameter."""

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        """Return log T, rows from and columns to, shape (…draws, N|1, T-1|1, K, K)."""

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        """Return parameter values from expected transition counts (K, K), all > 0."""

    def check(self, data: Sequences) -> None:
        """Raise ``ValueError`` unless the data have what the law reads."""


@runtime_checkable
class StructuredLaw(Protocol):
    """A transition law whose structure lets inference avoid the full matrix."""

    def structure(self, parameters: Parameters) -> Moves | None:
        """Return the moves at parameter values without axes of draws; None without such a form."""


@runtime_checkable
class NamedAxes(Protocol):
    """A law with parameters along its own axes, such as pairs of states."""

    def coords(self, states: int) -> Mapping[str, Sequence[str]]:
        """Return the labels along these axes."""


@runtime_checkable
class ScaledLaw(Protocol):
    """A transition law with a prior on the scale of the data, such as rates per unit of time."""

    def scaled_to(self, data: Sequences) -> TransitionLaw:
        """Return the same law with its prior on the scale of the data."""


@runtime_checkable
class NaturalLaw(Protocol):
    """A transition law that takes its parameters in a convenient form too."""

    def natural(self, values: Mapping[str, Tensor], states: int) -> dict[str, Tensor]:
        """Return values by the law's own names; those of other laws as they are."""


@runtime_checkable
class ShownLaw(Protocol):
    """A transition law whose own parameters are shown in another form."""

    def shown(self, values: Parameters) -> dict[str, Tensor]:
        """Return values, (…draws, …), in the form to show; those of other laws as they are."""

    def shown_dims(self, dims: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """Return the axis names in the form to show; those of other laws as they are."""


@runtime_checkable
class OwnStart(Protocol):
    """An emission law that estimates a whole chain from the data, where clusters of frames do not
    serve.

    A law without this method starts from clusters.
    """

    def start_chain(
        self, model: HiddenMarkovModel, data: Sequences, *, lloyd: bool
    ) -> dict[str, Tensor] | None:
        """Return starting values of the parameters; None if clusters will do.

        ``lloyd`` asks for k-means, otherwise for random centres, if there is anything to cluster.
        """


@runtime_checkable
class CountedEmission(Protocol):
    """An emission law that estimates the parameters from expected counts, so that EM improves its
    start.
    """

    def start_from_counts(
        self,
        model: HiddenMarkovModel,
        data: Sequences,
        weight: Tensor,
        counts: Tensor,
        warmth: float = 0.0,
    ) -> dict[str, Tensor]:
        """Return all parameters, given the posterior probabilities of the states.

        Args:
            model: the model that the law is part of.
            data: N sequences of T steps.
            weight: p(z_t | y), (N, T, K), zero beyond the length.
            counts: expected numbers of moves, in the shape of log T: of every action (A, K, K).
            warmth: scales that may fall to zero are at least this share of the data's spread. EM
                that begins at 1 and ends at 0 does not settle on the first states that it meets.
        """


def itself(law: InitialLaw | TransitionLaw) -> str | None:
    """The parameter that is a law's table of probabilities, if its own class names one."""
    name: str | None = vars(type(law)).get("itself")
    return name


@dataclass(frozen=True)
class FreeInitial:
    """p(z_1) is a parameter: initial ~ Dirichlet(1, …)."""

    itself = "initial"

    def priors(self, states: int) -> Priors:
        return {"initial": dist.Dirichlet(torch.ones(states))}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"initial": ("state",)}

    def __call__(self, parameters: Parameters, log_transition: Callable[[], Tensor]) -> Tensor:
        """Return log p(z_1), shape (…draws, 1, K)."""
        return safe_log(parameters["initial"]).unsqueeze(-2)

    def start(self, share: Tensor) -> dict[str, Tensor]:
        return {"initial": share}


@dataclass(frozen=True)
class StationaryInitial:
    """p(z_1) = π with π P = π: the chain has run for a long time before the first observation."""

    def priors(self, states: int) -> Priors:
        del states
        return {}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {}

    def __call__(self, parameters: Parameters, log_transition: Callable[[], Tensor]) -> Tensor:
        """Return log p(z_1), shape (…draws, 1, K)."""
        del parameters
        return safe_log(stationary(log_transition().squeeze(-3).exp()))

    def start(self, share: Tensor) -> dict[str, Tensor]:
        del share
        return {}


def stationary(transition: Tensor) -> Tensor:
    """The distribution π with π P = π of matrices (…, K, K), shape (…, K); differentiable.

    π = 1' (I − P + 1 1')⁻¹; the inverse exists if and only if the chain has one closed class of
    states. Transient states get exactly 0.

    Raises:
        ValueError: there are several closed classes, hence many stationary distributions, or the
            matrix is so close to that case that rounding decides.
    """
    size = transition.shape[-1]
    matrix = transition.double()
    recurrent = _recurrent(matrix > 0)
    identity = torch.eye(size, dtype=torch.float64, device=transition.device)
    inverse, info = torch.linalg.inv_ex(identity - matrix + 1)
    regular = bool((info == 0).all()) and bool((inverse.abs() < WORST_CONDITION).all())
    if recurrent is None or not regular:
        raise ValueError(
            "initial='stationary': needs a transition matrix with a single closed class of states; "
            f"got one with several, or nearly so: {transition.detach().tolist()}"
        )
    return torch.where(recurrent, inverse.sum(-2).clamp_min(0), 0).to(transition.dtype)


def _recurrent(possible: Tensor) -> Tensor | None:
    """States of the closed class of chains (…, K, K) of possible moves; None if there are several.

    A state is recurrent if and only if every state that it leads to leads back to it.
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
    """A transition matrix with free rows: T(j | i) = transition[i, j].

    Parameter ``transition`` (K, K), rows transition[i] ~ Dirichlet(concentration + sticky δ_i).

    Args:
        concentration: prior pseudo-count of every move.
        sticky: additional prior pseudo-counts on staying.

    Raises:
        ValueError: a concentration that is not positive, or a negative ``sticky``.

    Source: for ``sticky``, Fox, Sudderth, Jordan & Willsky (2011), Annals of Applied Statistics 5.

    >>> MatrixTransition(sticky=8.0).priors(states=2)["transition"].mean  # stay nine times of ten
    tensor([[0.9000, 0.1000],
            [0.1000, 0.9000]])
    """

    concentration: float = 1.0
    sticky: float = 0.0
    inputs = 0
    itself = "transition"

    def __post_init__(self) -> None:
        require_positive(self.concentration, "concentration")
        require_positive(self.sticky, "sticky", zero=True)

    def priors(self, states: int) -> Priors:
        rows = torch.full((states, states), float(self.concentration))
        return {
            "transition": dist.Dirichlet(rows + float(self.sticky) * torch.eye(states)).to_event(1)
        }

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"transition": ("state", "state_to")}

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        """Return log T, shape (…draws, 1, 1, K, K)."""
        del data
        return safe_log(parameters["transition"]).unsqueeze(-3).unsqueeze(-3)

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        return {"transition": counts / counts.sum(-1, keepdim=True)}

    def check(self, data: Sequences) -> None:
        """Accept any data."""


@dataclass(frozen=True)
class InputTransition:
    r"""A transition matrix that depends on inputs, as in an input-output HMM.

    .. math:: T_t(j \mid i) \propto P_{ij} \exp(\sum_u W_{iju} x_{tu})

    The input of step t acts on z_t → z_{t+1}; that of the last step acts on the first forecast
    step. Parameters: ``transition`` P (K, K), with the prior of ``MatrixTransition``, and
    ``transition_weight`` W (K, K, inputs) ~ N(0, (weight_scale / input_scale)²). A constant added
    to W_i·u changes nothing, so the prior alone determines the mean of such a row.

    Args:
        inputs: number of input columns.
        concentration: prior pseudo-count of every move.
        sticky: additional prior pseudo-counts on staying.
        weight_scale: prior standard deviation of a weight, per ``input_scale``.
        input_scale: unit of the inputs, one number or one per column; ``scaled_to(data)`` sets it
            to their standard deviation, of an indicator to its size.

    Raises:
        ValueError: no input, or a prior setting out of range.

    Source: Bengio & Frasconi (1995), NIPS 7.

    >>> import torch
    >>> from beliefzoo.models import Sequences
    >>> data = Sequences.from_arrays([[0.0, 0.0, 0.0]], inputs=[[0.0, 2.0, 0.0]])
    >>> values = {
    ...     "transition": torch.full((2, 2), 0.5),
    ...     "transition_weight": torch.tensor([[[0.0], [1.0]], [[0.0], [1.0]]]),
    ... }
    >>> InputTransition(inputs=1)(values, data).exp()[0, :, 0]  # row of state 0 at both steps
    tensor([[0.5000, 0.5000],
            [0.1192, 0.8808]])
    """

    inputs: int
    concentration: float = 1.0
    sticky: float = 0.0
    weight_scale: float = 1.0
    input_scale: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        require_count(self.inputs, "inputs")
        require_positive(self.weight_scale, "weight_scale")
        require_scales(self.input_scale, self.inputs, "input_scale", "column")
        MatrixTransition(self.concentration, self.sticky)  # checks both settings

    @property
    def _matrix(self) -> MatrixTransition:
        return MatrixTransition(self.concentration, self.sticky)

    def priors(self, states: int) -> Priors:
        size = self.weight_scale / torch.tensor(self.input_scale, dtype=torch.float64)
        weight = dist.Normal(torch.zeros(states, states, self.inputs, dtype=torch.float64), size)
        return {**self._matrix.priors(states), "transition_weight": weight.to_event(3)}

    def scaled_to(self, data: Sequences) -> InputTransition:
        """Return the same law with the prior of W on the scale of the inputs."""
        return self if data.inputs is None else replace(self, input_scale=input_scales(data))

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {**self._matrix.dims(), "transition_weight": ("state", "state_to", "input")}

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        """Return log T, shape (…draws, N, T-1, K, K)."""
        base = self._matrix(parameters, data)
        if data.max_length == 1:
            return base  # no step moves: keep the axis at size 1, not 0
        self.check(data)
        assert data.inputs is not None
        weight = parameters["transition_weight"]
        drive = torch.einsum("ntu,...iju->...ntij", data.inputs[:, :-1].to(weight.dtype), weight)
        return (base + drive).log_softmax(-1)

    def redundant(self, priors: Priors, states: int) -> int:
        """Count the sums of each row of weights, which change nothing."""
        return states * self.inputs * ("transition_weight" in priors)

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        weight = counts.new_zeros(*counts.shape, self.inputs)
        return {**self._matrix.start(counts), "transition_weight": weight}

    def check(self, data: Sequences) -> None:
        require_inputs(data, self.inputs, "InputTransition")


@dataclass(frozen=True)
class LowRankTransition:
    r"""Transitions through one of R classes, for hundreds to thousands of states.

    .. math:: T(j \mid i) = \sum_r L_{ir} R_{rj}

    Parameters ``transition_left`` L (K, R) and ``transition_right`` R (R, K), rows ~
    Dirichlet(concentration, …): 2 K R numbers instead of K². Exchanging the classes changes
    nothing.

    Args:
        rank: number of classes R.
        concentration: prior pseudo-count of every entry.

    Raises:
        ValueError: a rank that is no whole number >= 1, or a concentration that is not positive.

    >>> law = LowRankTransition(rank=4)
    >>> sum(prior.event_shape.numel() for prior in law.priors(states=500).values())
    4000
    """

    rank: int
    concentration: float = 1.0
    inputs = 0

    def __post_init__(self) -> None:
        require_count(self.rank, "rank")
        require_positive(self.concentration, "concentration")

    def priors(self, states: int) -> Priors:
        left = torch.full((states, self.rank), float(self.concentration))
        right = torch.full((self.rank, states), float(self.concentration))
        return {
            "transition_left": dist.Dirichlet(left).to_event(1),
            "transition_right": dist.Dirichlet(right).to_event(1),
        }

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {
            "transition_left": ("state", "transition_class"),
            "transition_right": ("transition_class", "state_to"),
        }

    def redundant(self, priors: Priors, states: int) -> int:
        """Count what the matrix, of rank R at most, leaves open of the factors."""
        rank, beyond = self.rank, max(self.rank - states, 0)
        left, right = "transition_left" in priors, "transition_right" in priors
        if left and right:
            least = min(rank, states)
            matrices = 2 * states * least - least**2 - states
            return states * (rank - 1) + rank * (states - 1) - matrices
        return beyond * (states * left + (states - 1) * right)

    def factors(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Return log L (…draws, K, R) and log R (…draws, R, K)."""
        return safe_log(parameters["transition_left"]), safe_log(parameters["transition_right"])

    def structure(self, parameters: Parameters) -> LowRankMoves:
        return LowRankMoves(*self.factors(parameters))

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        """Return log T, shape (…draws, 1, 1, K, K)."""
        del data
        product = parameters["transition_left"] @ parameters["transition_right"]
        return safe_log(product).unsqueeze(-3).unsqueeze(-3)

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        """Factorise the counts by a few steps of EM from random factors."""
        left, right = torch.rand(len(counts), self.rank), torch.rand(self.rank, len(counts))
        left, right = (_normalised(x.to(counts) + 0.5) for x in (left, right))
        for _ in range(_START_STEPS):
            share = counts / (left @ right)
            left, right = (
                _normalised(left * (share @ right.mT)),
                _normalised(right * (left.mT @ share)),
            )
        return {"transition_left": left, "transition_right": right}

    def check(self, data: Sequences) -> None:
        """Accept any data."""


_START_STEPS = 20
"""Steps of EM that factorise the counts of a rough clustering, which need not be exact."""


def _normalised(rows: Tensor) -> Tensor:
    """Rows of positive numbers scaled to sum 1, kept off the edge of the simplex."""
    rows = rows / rows.sum(-1, keepdim=True)
    rows = rows + 1e-6
    return rows / rows.sum(-1, keepdim=True)


class _Moves(ABC):
    """Base of the laws whose states can move to few others: a row of moves for each state."""

    concentration: float
    inputs = 0
    reorderable = False  # which moves there are depends on the states' numbers

    @abstractmethod
    def _table(self, states: int) -> tuple[Tensor, Tensor]:
        """Targets of the moves (K, M), and which of them exist."""

    def priors(self, states: int) -> Priors:
        rows = torch.full(tuple(self._table(states)[0].shape), float(self.concentration))
        return {"transition_move": dist.Dirichlet(rows).to_event(1)}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"transition_move": ("state", "move")}

    def redundant(self, priors: Priors, states: int) -> int:
        """Count the moves that do not exist."""
        inside = self._table(states)[1]
        return int((~inside).sum()) * ("transition_move" in priors)

    def moves(self, parameters: Parameters) -> tuple[Tensor, Tensor, Tensor]:
        """Return log T of every move (…draws, K, M), its target (K, M), and if it exists."""
        moves = parameters["transition_move"]
        target, inside = self._table(moves.shape[-2])
        return _log_moves(moves, inside.to(moves.device)), target, inside

    def natural(self, values: Mapping[str, Tensor], states: int) -> dict[str, Tensor]:
        """Translate ``transition``, the matrix (K, K) with its zeros, to ``transition_move``.

        Probabilities of moves that do not exist are set to 0.
        """
        out = dict(values)
        target, inside = self._table(states)
        if "transition" in out:
            alone = "transition_move" not in out
            require(alone, "transition", "stands for transition_move", "both")
            out["transition_move"] = _gathered(out.pop("transition"), target, inside)
        if "transition_move" in out and out["transition_move"].shape == inside.shape:
            out["transition_move"] = _existing(out["transition_move"], inside)
        return out

    def shown(self, values: Parameters) -> dict[str, Tensor]:
        """Return the matrix ``transition`` (…draws, K, K) in place of ``transition_move``."""
        return {
            _SHOWN.get(name, name): self._matrix(value) if name in _SHOWN else value
            for name, value in values.items()
        }

    def shown_dims(self, dims: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """Return the axes of ``transition`` in place of those of ``transition_move``."""
        return {
            _SHOWN.get(name, name): ("state", "state_to") if name in _SHOWN else axes
            for name, axes in dims.items()
        }

    def _matrix(self, moves: Tensor) -> Tensor:
        states = moves.shape[-2]
        target, inside = (part.to(moves.device) for part in self._table(states))
        origin = torch.arange(states, device=moves.device).unsqueeze(-1).expand_as(target)
        out = moves.new_zeros(*moves.shape[:-1], states)
        out[..., origin[inside], target[inside]] = _existing(moves, inside)[..., inside]
        return out

    def structure(self, parameters: Parameters) -> Moves:
        return SparseMoves.listed(*self.moves(parameters))

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        """Return log T, shape (…draws, 1, 1, K, K)."""
        del data
        return _log_matrix(*self.moves(parameters))

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        return {"transition_move": _started(counts, *self._table(len(counts)))}

    def check(self, data: Sequences) -> None:
        """Accept any data."""
        del data


@boundary
@dataclass(frozen=True)
class SparseTransition(_Moves):
    r"""Transitions to listed states only; all others have probability zero.

    .. math:: T(j \mid i) \propto \sum_m B_{im} \, [j = \mathrm{targets}_{im}]

    Parameter ``transition_move`` B (K, M), M the longest list, rows ~ Dirichlet(concentration, …).
    A row of a shorter list is cut to it and normalised, which gives T the Dirichlet prior on its
    own entries; ``with_parameters`` also takes the matrix, ``transition`` (K, K), in which form
    known values and exports show it. The numbers of the states have a meaning: they are never
    relabelled.

    Args:
        targets: for every state i the states that it can move to, i among them if it can stay.
        concentration: prior pseudo-count of every move.

    Raises:
        ValueError: a list that is empty, repeats a state or names one that does not exist, or a
            concentration that is not positive.

    >>> import torch
    >>> from beliefzoo.models import Sequences
    >>> ring = SparseTransition(targets=[(0, 1), (1, 2), (2, 0)])
    >>> values = {"transition_move": torch.tensor([[0.9, 0.1]] * 3)}
    >>> ring(values, Sequences.from_arrays([[0.0, 0.0]])).exp()[0, 0]
    tensor([[0.9000, 0.1000, 0.0000],
            [0.0000, 0.9000, 0.1000],
            [0.1000, 0.0000, 0.9000]])
    """

    targets: tuple[tuple[int, ...], ...]
    concentration: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(tuple(row) for row in self.targets))
        require_positive(self.concentration, "concentration")
        for origin, row in enumerate(self.targets):
            whole = all(isinstance(j, int) and 0 <= j < len(self.targets) for j in row)
            require(
                bool(row) and whole and len(set(row)) == len(row),
                f"targets[{origin}]",
                f"must be different states in 0..{len(self.targets) - 1}, at least one",
                row,
            )

    def _table(self, states: int) -> tuple[Tensor, Tensor]:
        require(
            len(self.targets) == states,
            "targets",
            f"must have a list for each of the {states} states",
            f"{len(self.targets)} lists",
        )
        longest = max(map(len, self.targets))
        padded = [[*row, *[-1] * (longest - len(row))] for row in self.targets]
        table = torch.tensor(padded)
        return table, table >= 0


@boundary
@dataclass(frozen=True)
class BandedTransition(_Moves):
    r"""Transitions by a few offsets only: left-right chains, walks to neighbours.

    .. math:: T(i + o_w \mid i) \propto B_{iw} \quad\text{where}\quad 0 \le i + o_w < K

    Parameter ``transition_move`` B (K, W), rows ~ Dirichlet(concentration, …). At the ends, moves
    that lead outside are cut and the row is normalised, which gives T the Dirichlet prior on its
    own entries; ``with_parameters`` also takes the matrix, ``transition`` (K, K), in which form
    known values and exports show it. The numbers of the states have a meaning: they are never
    relabelled.

    Args:
        offsets: (0, 1) for a chain that stays or moves on, (-1, 0, 1) for a walk to neighbours.
        concentration: prior pseudo-count of every move.

    Raises:
        ValueError: offsets that are not different whole numbers with 0 among them, or a
            concentration that is not positive.

    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model = HiddenMarkovModel(3, "poisson", transition=BandedTransition()).with_parameters(
    ...     initial=[1, 0, 0], transition=[[0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 1]], rate=[1, 5, 9]
    ... )
    >>> path = model.sample(1, 50, seed=0).states[0]  # left to right, to the end
    >>> path.diff().unique().tolist(), int(path[-1])
    ([0, 1], 2)
    """

    offsets: tuple[int, ...] = (0, 1)
    concentration: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "offsets", tuple(self.offsets))
        require_positive(self.concentration, "concentration")
        whole = all(isinstance(offset, int) for offset in self.offsets)
        require(
            whole and 0 in self.offsets and len(set(self.offsets)) == len(self.offsets),
            "offsets",
            "must be different whole numbers, 0 among them",
            self.offsets,
        )

    def _table(self, states: int) -> tuple[Tensor, Tensor]:
        require(
            all(abs(offset) < states for offset in self.offsets),
            "offsets",
            f"must be smaller than the number of states, {states}",
            self.offsets,
        )
        target = torch.arange(states).unsqueeze(-1) + torch.tensor(self.offsets)
        return target, (target >= 0) & (target < states)

    def structure(self, parameters: Parameters) -> BandedMoves:
        log_moves, _, inside = self.moves(parameters)
        return BandedMoves(log_moves.masked_fill(~inside, -torch.inf), self.offsets)


_SHOWN = {"transition_move": "transition"}

_ROUNDING, _PRINTED = 1e-12, 1e-5
"""Rows whose sum is this close to 1 are left as they are, or are taken for printed ones."""


def _possible(moves: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the moves that exist, 0 for the others, and their sums, which are positive."""
    possible = torch.where(inside, moves, 0)
    total = possible.sum(-1, keepdim=True)
    if not bool((total > 0).all()):
        raise ValueError(
            "transition_move: needs in every row a probability > 0 of a move that the state can "
            f"make, got rows {(total <= 0).nonzero()[:, -2].unique().tolist()} without"
        )
    return possible, total


def _log_moves(moves: Tensor, inside: Tensor) -> Tensor:
    """Log probabilities of the moves that exist, normalised; -inf for the others."""
    possible, total = _possible(moves, inside)
    return safe_log(possible) - total.log()


def _existing(moves: Tensor, inside: Tensor) -> Tensor:
    """Probabilities of the moves that exist, normalised; 0 for the others."""
    possible, total = _possible(moves, inside)
    # Correct rows stay the same bit for bit, so that a saved model loads to the same numbers.
    return torch.where((total - 1).abs() > _ROUNDING, possible / total, possible)


def _gathered(matrix: Tensor, target: Tensor, inside: Tensor) -> Tensor:
    """The moves in a matrix (K, K) that has zeros where there is no move."""
    states = len(target)
    shape = tuple(matrix.shape)
    require(shape == (states, states), "transition", f"needs shape {(states, states)}", shape)
    moves = torch.where(inside, matrix.gather(-1, target.clamp(0, states - 1)), 0)
    sums = matrix.sum(-1)
    rows = bool((matrix >= 0).all()) and bool(((sums - 1).abs() <= _PRINTED).all())
    require(rows, "transition", "needs probabilities >= 0 in rows of sum 1", matrix.tolist())
    stray = matrix.clone()
    origin = torch.arange(states).unsqueeze(-1).expand_as(target)
    stray[origin[inside], target[inside]] = 0
    for i, j in stray.nonzero()[:1].tolist():
        raise ValueError(
            f"transition: needs 0 where the law has no move, got {float(matrix[i, j])} from state "
            f"{i} to state {j}"
        )
    return moves


def _log_matrix(log_moves: Tensor, target: Tensor, inside: Tensor) -> Tensor:
    """Matrix (…draws, 1, 1, K, K) from log probabilities of moves (…draws, K, M)."""
    states = log_moves.shape[-2]
    origin = torch.arange(states).unsqueeze(-1).expand_as(target)
    out = log_moves.new_full((*log_moves.shape[:-1], states), -torch.inf)
    places = origin[inside].to(out.device), target[inside].to(out.device)
    out[..., places[0], places[1]] = log_moves[..., inside.to(out.device)]
    return out.unsqueeze(-3).unsqueeze(-3)


def _started(counts: Tensor, target: Tensor, inside: Tensor) -> Tensor:
    """Moves in proportion to their counts; moves that do not exist get the mean of the others."""
    moves = counts.gather(-1, target.clamp(0, len(counts) - 1))
    mean = torch.where(inside, moves, 0).sum(-1, keepdim=True) / inside.sum(-1, keepdim=True)
    moves = torch.where(inside, moves, mean)
    return moves / moves.sum(-1, keepdim=True)
