r"""Laws of a continuous state that moves linearly: free matrices and structural components.

A law is a small frozen description, like an emission family: its parameters are kept outside of it,
in a mapping from names to tensors. A model needs these matrices of it:

.. math:: z_1 \\sim N(m, P) , \\qquad z_{t+1} = A_t z_t + b_t + N(0, Q_t).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Self

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..checks import require, require_count, require_positive
from ..data.requirements import require_inputs
from ..data.sequences import Sequences
from ..emissions.emission import Parameters, Priors

_WIDE = 2.0
"""Standard deviation of the log of a variance, a priori: 95 % within a factor of 50."""


class Moves(NamedTuple):
    """The matrices of z_1 ~ N(m, P), z_{t+1} = A_t z_t + b_t + N(0, Q_t), for N sequences of T.

    ``Dynamics.moves`` returns them. Axes of size 1 are shared.

    Attributes:
        initial_mean: m, (N|1, D).
        initial_covariance: P, (N|1, D, D).
        diffuse: directions of z_1 with a flat prior, in which P has no variance, (D, q).
        transition: A, (N|1, T-1|1, D, D).
        offset: b, (N|1, T-1|1, D).
        noise: Q, (N|1, T-1|1, D, D).

    >>> import torch
    >>> from beliefzoo.models import LocalLinearTrend, Sequences
    >>> values = {"level_variance": torch.tensor(0.1), "slope_variance": torch.tensor(0.01)}
    >>> moves = LocalLinearTrend().moves(values, Sequences.from_arrays([[0.0, 0.0]]))
    >>> moves.transition.squeeze().tolist()  # the level grows by the slope
    [[1.0, 1.0], [0.0, 1.0]]
    """

    initial_mean: Tensor
    initial_covariance: Tensor
    diffuse: Tensor
    transition: Tensor
    offset: Tensor
    noise: Tensor


class Dynamics(ABC):
    """Base of the laws of a linear state of D numbers: how it starts and how it moves.

        z_1 ~ N(m, P),  z_{t+1} = A_t z_t + b_t + N(0, Q_t)

    Laws of one observed series are added with ``+``: their states are independent, their
    observations add up. A law provides ``components``, ``priors``, ``dims``, ``moves`` and
    ``start``.

    >>> from beliefzoo.models import LocalLevel, Seasonal
    >>> law = LocalLevel() + Seasonal(period=4)
    >>> law.components
    ('level', 'seasonal', 'seasonal_lag1', 'seasonal_lag2')
    >>> sorted(law.priors())
    ['level_variance', 'seasonal_variance']
    """

    if TYPE_CHECKING:
        # Laws are dataclasses with fields of these names; a dataclass would take an inherited
        # property for the default value of its field.
        @property
        def states(self) -> int:
            """Number of state components D."""

        @property
        def inputs(self) -> int:
            """Number of input columns that the law reads."""

    @property
    @abstractmethod
    def components(self) -> tuple[str, ...]:
        """Names of the D state components."""

    @property
    def timed(self) -> bool:
        """True if the law reads ``data.times``."""
        return False

    @property
    def loading(self) -> Tensor | None:
        """How the state is observed, (F, D), if the law fixes it; None: a parameter."""
        return None

    @property
    def levelled(self) -> bool:
        """True if the law contains the level of the series, so that no intercept is needed."""
        return False

    @property
    def varying(self) -> frozenset[str]:
        """Parameters whose known values may have a first axis of steps, (T-1)."""
        return frozenset()

    @property
    def parts(self) -> dict[str, Dynamics]:
        """The laws that this one is the sum of, by name; itself if it is no sum."""
        return {self.label: self}

    @property
    def label(self) -> str:
        """Name of the law in a sum."""
        return type(self).__name__

    @abstractmethod
    def priors(self) -> Priors:
        """Return the prior of every parameter."""

    @abstractmethod
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of every parameter."""

    @abstractmethod
    def moves(self, parameters: Parameters, data: Sequences) -> Moves:
        """Return the matrices at given values of the parameters."""

    @abstractmethod
    def start(self, series: Tensor) -> dict[str, Tensor]:
        """Return values to start a fit from, for series (S, D) that move like the states."""

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate convenient parameters (``process_covariance``) to the law's own."""
        return dict(values)

    def scaled_to(self, data: Sequences) -> Self:
        """Return the same law with priors on the scale of the data."""
        del data
        return self

    def check(self, data: Sequences) -> None:
        """Raise ``ValueError`` unless the data have what the law reads."""
        require_inputs(data, self.inputs, type(self).__name__)

    def __add__(self, other: Dynamics) -> SumOfDynamics:
        if not isinstance(other, Dynamics):
            return NotImplemented
        return SumOfDynamics((*self.parts.values(), *other.parts.values()))


@dataclass(frozen=True)
class LinearDynamics(Dynamics):
    """A state of D numbers with free matrices.

    .. math:: z_{t+1} = A z_t + b + B u_t + N(0, Q)

    Parameters: ``transition`` A (to, from); ``offset`` b, with ``offset=True``; ``input_weight`` B
    (D, inputs), where the input of step t acts on z_t → z_{t+1}; ``process_variance``, the diagonal
    of Q, and with ``correlated=True`` ``process_correlation_factor``, the Cholesky factor of its
    correlations. Known values of Q may be given as ``process_covariance``. A known ``transition``,
    ``offset``, ``process_variance`` or ``process_covariance`` may have a leading axis of steps.

    If everything is free, the state is determined only up to a linear map; the priors, on a scale
    of one, keep it near one.

    Args:
        states: number of state components D.
        correlated: Q is full; otherwise diagonal.
        initial: first state: ``"free"`` (parameters ``initial_mean`` and ``initial_variance``, with
            ``correlated`` also ``initial_correlation_factor``; known as ``initial_covariance``),
            ``"stationary"`` (the distribution that the moves leave unchanged) or ``"diffuse"``
            (flat).
        offset: whether there is an offset b.
        inputs: number of input columns.
        input_scale: typical size of the inputs, one number or one per column: B ~ N(0, 1 / size²);
            ``scaled_to(data)`` sets it.

    Raises:
        ValueError: a setting out of range.

    >>> from beliefzoo.models import LinearGaussianSSM
    >>> law = LinearDynamics(2, initial="stationary")
    >>> model = LinearGaussianSSM(law).with_parameters(
    ...     transition=[[0.6, 0], [0, 0.8]], process_variance=[1, 1],
    ...     loading=[[1, 1]], intercept=0, observation_variance=1,
    ... )
    >>> data = model.sample(1, 5, seed=0).data
    >>> model.laws({}, data).initial_covariance[0]  # 1 / (1 - 0.6²), 1 / (1 - 0.8²)
    tensor([[1.5625, 0.0000],
            [0.0000, 2.7778]], dtype=torch.float64)
    """

    states: int
    correlated: bool = False
    initial: str = "free"
    offset: bool = False
    inputs: int = 0
    input_scale: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        require_count(self.states, "states")
        require_count(self.inputs, "inputs", 0)
        require_scales(self.input_scale, self.inputs)
        require_initial(self.initial)
        stationary = self.initial == "stationary"
        require(
            not (stationary and self.inputs),
            "initial",
            "'stationary' needs moves that are the same at every step",
            f"inputs={self.inputs}",
        )

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(str(number) for number in range(self.states))

    @property
    def levelled(self) -> bool:
        return self.offset

    @property
    def varying(self) -> frozenset[str]:
        if self.initial == "stationary":
            return frozenset()
        names = {"transition", "offset", "process_variance", "process_correlation_factor"}
        return frozenset(names & set(self.dims()))

    def priors(self) -> Priors:
        size = self.states
        out: Priors = {
            "transition": dist.Normal(0.8 * torch.eye(size), 0.5).to_event(2),
            **covariance_priors("process", size, self.correlated, 0.2),
        }
        if self.offset:
            out["offset"] = dist.Normal(torch.zeros(size), 1.0).to_event(1)
        if self.inputs:
            scale = weight_scale(self.input_scale, self.inputs).expand(size, -1)
            out["input_weight"] = dist.Normal(torch.zeros_like(scale), scale).to_event(2)
        if self.initial == "free":
            out |= initial_priors(size, self.correlated)
        return out

    def dims(self) -> dict[str, tuple[str, ...]]:
        out: dict[str, tuple[str, ...]] = {"transition": ("component_to", "component")}
        out |= covariance_dims("process", self.states, self.correlated)
        if self.offset:
            out["offset"] = ("component",)
        if self.inputs:
            out["input_weight"] = ("component", "input")
        if self.initial == "free":
            out["initial_mean"] = ("component",)
            out |= covariance_dims("initial", self.states, self.correlated)
        return out

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = split_covariance(values, "process", self.states, self.correlated)
        if self.initial == "free":
            out = split_covariance(out, "initial", self.states, self.correlated)
        return out

    def scaled_to(self, data: Sequences) -> Self:
        return replace(self, input_scale=input_scale(data)) if self.inputs else self

    def moves(self, parameters: Parameters, data: Sequences) -> Moves:
        steps = data.max_length - 1
        transition = along_steps(parameters["transition"], 2, steps)
        noise = along_steps(covariance(parameters, "process"), 2, steps)
        offset = transition.new_zeros(1, 1, self.states)
        if self.offset:
            offset = along_steps(parameters["offset"], 1, steps)
        if self.inputs and steps:
            assert data.inputs is not None  # checked with the data
            weight = parameters["input_weight"]
            offset = offset + data.inputs[:, :-1].to(weight.dtype) @ weight.mT
        if self.initial == "stationary":
            law = stationary_law(transition[0, 0], offset[0, 0], noise[0, 0])
            first = law[0], law[1], no_directions(transition)
        else:
            first = first_law(parameters, self.initial, self.states, transition)
        return Moves(*first, transition, offset, noise)

    def start(self, series: Tensor) -> dict[str, Tensor]:
        size, spread = self.states, positive(series.var(0, correction=0))
        unit = torch.eye(size, dtype=series.dtype)
        out = {
            "transition": 0.9 * unit,
            "process_variance": 0.2 * spread,
            "process_correlation_factor": unit,
            "offset": series.new_zeros(size),
            "input_weight": series.new_zeros(size, self.inputs),
            "initial_mean": series.new_zeros(size),
            "initial_variance": spread,
            "initial_correlation_factor": unit,
        }
        return {name: out[name] for name in self.dims()}


# First states


INITIAL = ("free", "stationary", "diffuse")
"""Kinds of first states: with parameters, stationary, or flat."""


def require_initial(initial: str) -> None:
    """Raise ``ValueError`` unless ``initial`` names a kind of first state."""
    require(initial in INITIAL, "initial", f"must be one of {INITIAL}", repr(initial))


def first_law(
    parameters: Parameters, initial: str, size: int, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, covariance and flat directions of a free or diffuse first state."""
    if initial == "free":
        mean = parameters["initial_mean"]
        return mean[None], covariance(parameters, "initial")[None], no_directions(like)
    flat = torch.eye(size, dtype=like.dtype, device=like.device)
    return like.new_zeros(1, size), like.new_zeros(1, size, size), flat


def no_directions(like: Tensor) -> Tensor:
    """No flat direction for states of the size of the matrix ``like``: (D, 0)."""
    return like.new_zeros(like.shape[-1], 0)


def stationary_law(transition: Tensor, offset: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (1, D) and covariance (1, D, D) that the moves leave unchanged; differentiable.

    m = A m + b and P = A P A' + Q, each by a linear system.

    Raises:
        ValueError: A has an eigenvalue of modulus 1 or more, so there is no such distribution.
    """
    size = transition.shape[-1]
    a, b, q = (part.double() for part in (transition, offset, noise))
    radius = float(torch.linalg.eigvals(a.detach()).abs().max())
    require(
        radius < 1,
        "transition",
        "a stationary first state needs eigenvalues of modulus below 1",
        f"modulus {radius:.6g}",
    )
    unit = torch.eye(size, dtype=a.dtype, device=a.device)
    mean = torch.linalg.solve(unit - a, b)
    pairs = torch.eye(size * size, dtype=a.dtype, device=a.device) - torch.kron(a, a)
    spread = torch.linalg.solve(pairs, q.reshape(-1)).reshape(size, size)
    spread = 0.5 * (spread + spread.mT)
    return mean[None].to(transition), spread[None].to(transition)


# Covariances as parameters: variances and the Cholesky factor of correlations


def covariance_priors(name: str, size: int, correlated: bool, typical: float) -> Priors:
    """Priors of the variances of a covariance, about ``typical``, and of its correlations."""
    out: Priors = {f"{name}_variance": log_normal(typical, (size,), 1.0)}
    if correlated and size > 1:
        out[f"{name}_correlation_factor"] = dist.LKJCholesky(size, 1.0)
    return out


def initial_priors(size: int, correlated: bool) -> Priors:
    """Priors of a free first state, on a scale of one."""
    mean = dist.Normal(torch.zeros(size), 1.0).to_event(1)
    return {"initial_mean": mean, **covariance_priors("initial", size, correlated, 1.0)}


def covariance_dims(name: str, size: int, correlated: bool) -> dict[str, tuple[str, ...]]:
    """Axis names of the parameters of a covariance."""
    out: dict[str, tuple[str, ...]] = {f"{name}_variance": ("component",)}
    if correlated and size > 1:
        out[f"{name}_correlation_factor"] = ("component", "component_from")
    return out


def covariance(parameters: Parameters, name: str) -> Tensor:
    """diag(s) C C' diag(s) with s² the ``name_variance`` and C the factor of the correlations."""
    variance = parameters[f"{name}_variance"]
    factor = parameters.get(f"{name}_correlation_factor")
    if factor is None:
        return torch.diag_embed(variance)
    root = variance.sqrt().unsqueeze(-1) * factor
    return root @ root.mT


def split_covariance(
    values: Mapping[str, Tensor], name: str, size: int, correlated: bool
) -> dict[str, Tensor]:
    """Translate ``name_covariance`` (…, size, size) to variances and correlations.

    Raises:
        ValueError: both are given; or the matrix is not symmetric positive definite (except for
            variances of zero), or correlated where the law is not.
    """
    out, argument = dict(values), f"{name}_covariance"
    if argument not in out:
        return out
    given = out.pop(argument)
    both = sorted({f"{name}_variance", f"{name}_correlation_factor"} & set(out))
    require(not both, argument, "stands for variances and correlations", f"{both} too")
    fits = given.ndim in (2, 3) and given.shape[-2:] == (size, size)
    came = tuple(given.shape)
    require(fits, argument, f"needs shape ({size}, {size}), or one per step", came)
    variance = given.diagonal(dim1=-2, dim2=-1)
    symmetric = torch.allclose(given, given.mT, rtol=1e-6, atol=0)
    unit = torch.eye(size, dtype=given.dtype)
    silent = (variance == 0).unsqueeze(-1)
    alone = not bool(((silent | silent.mT) & (given != 0)).any())
    scale = torch.where(silent, 1, variance.clamp_min(0).unsqueeze(-1).sqrt())
    factor, info = torch.linalg.cholesky_ex(given / (scale * scale.mT) + unit * silent)
    require(
        symmetric and alone and bool((variance >= 0).all()) and not bool(info.any()),
        argument,
        "needs a symmetric positive definite matrix (components of variance 0 apart)",
        given.tolist(),
    )
    out[f"{name}_variance"] = variance
    if correlated and size > 1:
        out[f"{name}_correlation_factor"] = factor
    else:
        diagonal = torch.equal(given, torch.diag_embed(variance))
        require(diagonal, argument, "needs a law with correlated=True", "correlations")
    return out


def along_steps(value: Tensor, trailing: int, steps: int) -> Tensor:
    """Insert axes for sequences and steps into a parameter: (1, 1|steps, …)."""
    if value.ndim == trailing:
        return value[None, None]
    return value[None, : max(1, steps)]


def log_normal(
    typical: float, shape: tuple[int, ...] = (), spread: float = _WIDE
) -> dist.TorchDistribution:
    """LogNormal(log typical, spread²) for each entry of a parameter of the given shape."""
    centre = torch.full(shape, math.log(typical))
    prior: dist.TorchDistribution = dist.LogNormal(centre, spread).to_event(len(shape))
    return prior


# Sums


@dataclass(frozen=True)
class SumOfDynamics(Dynamics):
    """Independent states of several laws whose observations add up: ``LocalLevel() + Cycle()``.

    Args:
        laws: the laws.

    Raises:
        ValueError: fewer than two laws, laws that do not fix how they are observed, repeated names
            of parameters or laws, or a mixture of discrete and continuous time.
    """

    laws: tuple[Dynamics, ...]

    def __post_init__(self) -> None:
        require(len(self.laws) > 1, "laws", "a sum needs at least two", len(self.laws))
        for law in self.laws:
            seen = law.loading
            single = seen is not None and len(seen) == 1
            require(single, "laws", "a sum needs laws of one observed series each", repr(law))
        labels = [law.label for law in self.laws]
        names = [name for law in self.laws for name in law.dims()]
        for kind, given in (("laws", labels), ("parameters", names)):
            twice = sorted({one for one in given if given.count(one) > 1})
            require(not twice, "laws", f"need different names for their {kind}", twice)
        timed = {law.timed for law in self.laws}
        require(len(timed) == 1, "laws", "must all be in discrete or all in continuous time", self)

    @property
    def states(self) -> int:
        return sum(law.states for law in self.laws)

    @property
    def inputs(self) -> int:
        return 0

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(name for law in self.laws for name in law.components)

    @property
    def timed(self) -> bool:
        return self.laws[0].timed

    @property
    def loading(self) -> Tensor:
        return torch.cat([law.loading for law in self.laws if law.loading is not None], -1)

    @property
    def levelled(self) -> bool:
        return any(law.levelled for law in self.laws)

    @property
    def parts(self) -> dict[str, Dynamics]:
        return {law.label: law for law in self.laws}

    def priors(self) -> Priors:
        return {name: prior for law in self.laws for name, prior in law.priors().items()}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {name: axes for law in self.laws for name, axes in law.dims().items()}

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = dict(values)
        for law in self.laws:
            out = law.natural(out)
        return out

    def scaled_to(self, data: Sequences) -> SumOfDynamics:
        return SumOfDynamics(tuple(law.scaled_to(data) for law in self.laws))

    def check(self, data: Sequences) -> None:
        for law in self.laws:
            law.check(data)

    def moves(self, parameters: Parameters, data: Sequences) -> Moves:
        found = [law.moves(parameters, data) for law in self.laws]
        mean = _joined([one.initial_mean for one in found])
        return Moves(
            mean,
            _block_diagonal([one.initial_covariance for one in found]),
            _block_diagonal([one.diffuse for one in found]),
            _block_diagonal([one.transition for one in found]),
            _joined([one.offset for one in found]),
            _block_diagonal([one.noise for one in found]),
        )

    def start(self, series: Tensor) -> dict[str, Tensor]:
        return {name: v for law in self.laws for name, v in law.start(series).items()}


def _joined(vectors: Sequence[Tensor]) -> Tensor:
    """Concatenate vectors (…, D_i); their leading axes broadcast."""
    lead = torch.broadcast_shapes(*(vector.shape[:-1] for vector in vectors))
    return torch.cat([vector.expand(*lead, vector.shape[-1]) for vector in vectors], -1)


def _block_diagonal(matrices: Sequence[Tensor]) -> Tensor:
    """Block-diagonal matrix of matrices (…, R_i, C_i); their leading axes broadcast."""
    height = sum(matrix.shape[-2] for matrix in matrices)
    width = sum(matrix.shape[-1] for matrix in matrices)
    lead = torch.broadcast_shapes(*(matrix.shape[:-2] for matrix in matrices))
    total = matrices[0].new_zeros(*lead, height, width)
    row = column = 0
    for matrix in matrices:
        rows, columns = matrix.shape[-2:]
        above, left = row, column
        row, column = row + rows, column + columns
        total = total + pad(matrix, (left, width - column, above, height - row))
    return total


class Place(NamedTuple):
    """Where the data lie and how they vary, by feature; each spread and change is above zero."""

    location: Tensor
    """(F,), the mean."""
    spread: Tensor
    """(F,), the standard deviation."""
    change: Tensor
    """(F,), root mean square change from one observed step to the next."""


def place_of(values: Tensor, mask: Tensor) -> Place:
    """The place of values (N, T, F), of which those in the mask are observed.

    About the first observed value of each feature: so an offset costs no digits, and what is
    constant has no spread from rounding. Where there is none, the spread is the size of the mean,
    or one if that is zero; where there is no change, it is the spread.
    """
    y = values.double().flatten(0, 1)
    seen = mask.flatten(0, 1)
    first = y.gather(0, seen.int().argmax(0, keepdim=True)).where(seen.any(0), 0)
    apart = torch.where(seen, y - first, 0)
    count = seen.sum(0).clamp_min(1)
    shift = apart.sum(0) / count
    location = first.squeeze(0) + shift
    square = (torch.where(seen, apart - shift, 0).square().sum(0) / count).sqrt()
    spread = positive(positive(square, location.abs()))
    both = mask[:, 1:] & mask[:, :-1]
    change = torch.where(both, values.double().diff(dim=1), 0).square().sum((0, 1))
    change = (change / both.sum((0, 1)).clamp_min(1)).sqrt()
    return Place(location, spread, positive(change, spread))


def positive(numbers: Tensor, otherwise: Tensor | float = 1.0) -> Tensor:
    """The numbers, with another in place of those that are not above zero."""
    return torch.where(numbers > 0, numbers, otherwise)


def step_scale(data: Sequences) -> Tensor:
    """Root mean square change from one observed step to the next, (F,); never zero."""
    return place_of(data.values, data.mask).change


def input_scale(data: Sequences) -> tuple[float, ...]:
    """Standard deviation of each input column, or its size if it is constant; never zero."""
    assert data.inputs is not None  # checked with the data
    seen = data.step_mask.unsqueeze(-1).expand_as(data.inputs)
    return tuple(place_of(data.inputs, seen).spread.tolist())


def weight_scale(scale: tuple[float, ...], inputs: int) -> Tensor:
    """Standard deviation of the effect of a typical input, (inputs,)."""
    return torch.tensor(scale).expand(inputs).reciprocal()


def require_scales(scale: tuple[float, ...], inputs: int) -> None:
    """Raise ``ValueError`` unless there is one number > 0, or one per input."""
    fits = isinstance(scale, tuple) and len(scale) in (1, inputs)
    require(fits, "input_scale", f"needs one number or one per input ({inputs})", scale)
    for number in scale:
        require_positive(number, "input_scale")
