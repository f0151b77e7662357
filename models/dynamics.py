"""Laws of a continuous state that moves linearly: free matrices, and structural components.

A law is a small frozen description, as emissions are: its parameters live outside it, in a mapping
from names to tensors. All that a model needs of it are the matrices of

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

from .checks import require, require_count, require_inputs, require_positive
from .emissions import Parameters, Priors
from .sequences import Sequences

_WIDE = 2.0
"""Standard deviation of the log of a variance, a priori: 95 % within a factor of 50."""


class Moves(NamedTuple):
    """The matrices of z_1 ~ N(m, P), z_{t+1} = A_t z_t + b_t + N(0, Q_t), for N sequences of T.

    Axes of size 1 are shared. Columns of ``diffuse`` are directions of z_1 with a flat prior, in
    which the proper part has no variance.
    """

    initial_mean: Tensor
    """m, (N|1, D)."""
    initial_covariance: Tensor
    """P, (N|1, D, D)."""
    diffuse: Tensor
    """(D, q)."""
    transition: Tensor
    """A, (N|1, T-1|1, D, D)."""
    offset: Tensor
    """b, (N|1, T-1|1, D)."""
    noise: Tensor
    """Q, (N|1, T-1|1, D, D)."""


class Dynamics(ABC):
    """How a state of D numbers starts and moves. Laws of one observed series add up with ``+``."""

    if TYPE_CHECKING:
        # Laws are dataclasses, and a dataclass would take a property that it inherits for the
        # default of its field.
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
        """Whether the law reads ``data.times``."""
        return False

    @property
    def loading(self) -> Tensor | None:
        """How the state is observed, (F, D), where that is part of the law; None: a parameter."""
        return None

    @property
    def levelled(self) -> bool:
        """Whether the law carries the level of the series: no intercept is then needed."""
        return False

    @property
    def varying(self) -> frozenset[str]:
        """Parameters that may be known with a value for every step: an axis (T-1) in front."""
        return frozenset()

    @property
    def parts(self) -> dict[str, Dynamics]:
        """Laws that this one is the sum of, by name; itself if it is no sum."""
        return {self.label: self}

    @property
    def label(self) -> str:
        """What the law is called in a sum."""
        return type(self).__name__

    @abstractmethod
    def priors(self) -> Priors:
        """Prior of every parameter."""

    @abstractmethod
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Axis names of every parameter."""

    @abstractmethod
    def moves(self, parameters: Parameters, data: Sequences) -> Moves:
        """The matrices at given values of the parameters."""

    @abstractmethod
    def start(self, series: Tensor) -> dict[str, Tensor]:
        """Parameter values to start from, given series (S, D) that move about as the states do."""

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate convenient names (``process_covariance``) to the law's own parameters."""
        return dict(values)

    def scaled_to(self, data: Sequences) -> Self:
        """The same law with priors on the scale of the data."""
        del data
        return self

    def check(self, data: Sequences) -> None:
        """Raise ``ValueError`` unless the data bring what the law reads."""
        require_inputs(data, self.inputs, type(self).__name__)

    def __add__(self, other: Dynamics) -> SumOfDynamics:
        if not isinstance(other, Dynamics):
            return NotImplemented
        return SumOfDynamics((*self.parts.values(), *other.parts.values()))


@dataclass(frozen=True)
class LinearDynamics(Dynamics):
    r"""A state of ``states`` numbers with free matrices.

    .. math:: z_{t+1} = A z_t + b + B u_t + N(0, Q)

    Parameters: ``transition`` A (to, from); ``offset`` b, with ``offset=True``; ``input_weight`` B
    (D, inputs), the input of step t driving z_t → z_{t+1}; ``process_variance``, the diagonal of Q,
    and with ``correlated=True`` ``process_correlation_factor``, the Cholesky factor of its
    correlations. Known values of Q may be given as ``process_covariance``. A known ``transition``,
    ``offset``, ``process_variance`` or ``process_covariance`` may have a leading axis of steps.

    The first state: ``initial="free"`` (parameters ``initial_mean`` and ``initial_variance``, with
    ``correlated`` also ``initial_correlation_factor``; known as ``initial_covariance``),
    ``"stationary"`` (the law that the moves leave as it is) or ``"diffuse"`` (flat).

    With everything free the state is determined up to a linear map; the priors, which are on the
    scale of one, keep it within reach.

    Raises:
        ValueError: a setting out of range.
    """

    states: int
    correlated: bool = False
    initial: str = "free"
    offset: bool = False
    inputs: int = 0

    def __post_init__(self) -> None:
        require_count(self.states, "states")
        require_count(self.inputs, "inputs", 0)
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
            out["input_weight"] = dist.Normal(torch.zeros(size, self.inputs), 1.0).to_event(2)
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
        size, spread = self.states, series.var(0).clamp_min(1e-6)
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
"""Laws of a first state: two parameters, the law that the moves leave as it is, or flat."""


def require_initial(initial: str) -> None:
    require(initial in INITIAL, "initial", f"must be one of {INITIAL}", repr(initial))


def first_law(
    parameters: Parameters, initial: str, size: int, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, covariance and flat directions of a first state that is free or diffuse."""
    if initial == "free":
        mean = parameters["initial_mean"]
        return mean[None], covariance(parameters, "initial")[None], no_directions(like)
    flat = torch.eye(size, dtype=like.dtype, device=like.device)
    return like.new_zeros(1, size), like.new_zeros(1, size, size), flat


def no_directions(like: Tensor) -> Tensor:
    """No flat direction for states of the size of the matrix ``like``: (D, 0)."""
    return like.new_zeros(like.shape[-1], 0)


def stationary_law(transition: Tensor, offset: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (1, D) and covariance (1, D, D) that the moves leave as they are; differentiable.

    m = A m + b and P = A P A' + Q, by one linear system each.

    Raises:
        ValueError: an eigenvalue of A of modulus 1 or more: there is no such law.
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
    out: Priors = {f"{name}_variance": log_normal(typical, (size,), 1.0)}
    if correlated and size > 1:
        out[f"{name}_correlation_factor"] = dist.LKJCholesky(size, 1.0)
    return out


def initial_priors(size: int, correlated: bool) -> Priors:
    mean = dist.Normal(torch.zeros(size), 1.0).to_event(1)
    return {"initial_mean": mean, **covariance_priors("initial", size, correlated, 1.0)}


def covariance_dims(name: str, size: int, correlated: bool) -> dict[str, tuple[str, ...]]:
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
    """``name_covariance`` (…, size, size) as the parameters that it stands for.

    Raises:
        ValueError: both are given, not symmetric positive definite (variances of zero apart), or
            correlated where the law is not.
    """
    out, argument = dict(values), f"{name}_covariance"
    if argument not in out:
        return out
    given = out.pop(argument)
    both = sorted({f"{name}_variance", f"{name}_correlation_factor"} & set(out))
    require(not both, argument, "stands for variances and correlations", f"{both} too")
    fits = given.ndim in (2, 3) and given.shape[-2:] == (size, size)
    came = tuple(given.shape)
    require(fits, argument, f"needs shape ({size}, {size}), or one a step", came)
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
    """A parameter with axes for sequences and steps: (1, 1|steps, …)."""
    if value.ndim == trailing:
        return value[None, None]
    return value[None, : max(1, steps)]


def log_normal(
    typical: float, shape: tuple[int, ...] = (), spread: float = _WIDE
) -> dist.TorchDistribution:
    """LogNormal(log typical, spread²) for each entry of a parameter of that shape."""
    centre = torch.full(shape, math.log(typical))
    prior: dist.TorchDistribution = dist.LogNormal(centre, spread).to_event(len(shape))
    return prior


# Sums


@dataclass(frozen=True)
class SumOfDynamics(Dynamics):
    """Independent states of several laws, whose observations add up: ``LocalLevel() + Seasonal(4)``.

    Raises:
        ValueError: fewer than two laws, laws that say nothing of how they are observed, parameters
            or laws of the same name, or laws in discrete and in continuous time.
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
    """Vectors (…, D_i) side by side, the axes before broadcast."""
    lead = torch.broadcast_shapes(*(vector.shape[:-1] for vector in vectors))
    return torch.cat([vector.expand(*lead, vector.shape[-1]) for vector in vectors], -1)


def _block_diagonal(matrices: Sequence[Tensor]) -> Tensor:
    """Matrices (…, R_i, C_i) down the diagonal, the axes before broadcast."""
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


# Structural components


@dataclass(frozen=True, kw_only=True)
class _Structural(Dynamics):
    """A component of one series; ``scale`` is the size of the series' changes from step to step.

    Variances have the prior LogNormal(log(c scale²), 2²), c given with each component;
    ``scaled_to(data)`` sets the scale.
    """

    scale: float = 1.0
    name: str = ""
    initial_variance: float | None = None

    inputs = 0

    def __post_init__(self) -> None:
        require_positive(self.scale, "scale")
        if self.initial_variance is not None:
            require_positive(self.initial_variance, "initial_variance")
        fits = isinstance(self.name, str) and (not self.name or self.name.isidentifier())
        require(fits, "name", "must be letters, digits and underscores", repr(self.name))

    @property
    def label(self) -> str:
        return self.name or self._usual_name

    @property
    def _usual_name(self) -> str:
        raise NotImplementedError

    def _variance(self, share: float) -> dist.TorchDistribution:
        return log_normal(share * self.scale**2)

    def scaled_to(self, data: Sequences) -> Self:
        return replace(self, scale=float(step_scale(data)[0]))

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {name: () for name in self.priors()}

    @property
    def loading(self) -> Tensor:
        out = torch.zeros(1, self.states, dtype=torch.float64)
        out[0, 0] = 1
        return out

    def _moves(self, transition: Tensor, variances: Sequence[Tensor | float]) -> Moves:
        """A fixed matrix and independent noises; the first state is flat, or N(0, variance I)."""
        like = next(one for one in (*variances, transition) if isinstance(one, Tensor))
        size = self.states
        matrix = transition.to(like)
        noise = torch.stack([torch.as_tensor(one).to(like) for one in variances]).diag()
        spread = like.new_zeros(size, size)
        flat = torch.eye(size, dtype=like.dtype, device=like.device)
        if self.initial_variance is not None:
            spread, flat = self.initial_variance * flat, flat[:, :0]
        zeros = like.new_zeros(1, 1, size)
        return Moves(zeros[0], spread[None], flat, matrix[None, None], zeros, noise[None, None])


def step_scale(data: Sequences) -> Tensor:
    """Root mean square change from one observed step to the next, (F,); never zero."""
    pairs = (data.mask[:, 1:] & data.mask[:, :-1]).double()
    change = data.values.double().diff(dim=1)
    count = pairs.sum((0, 1))
    square = (change.square() * pairs).sum((0, 1)) / count.clamp_min(1)
    seen = data.mask.double()
    mean = (data.values.double() * seen).sum((0, 1)) / seen.sum((0, 1)).clamp_min(1)
    spread = ((data.values - mean).square() * seen).sum((0, 1)) / seen.sum((0, 1)).clamp_min(1)
    square = torch.where(square > 0, square, spread)
    return torch.where(square > 0, square, 1).sqrt()


@dataclass(frozen=True)
class LocalLevel(_Structural):
    r"""A random walk.

    .. math:: \mu_{t+1} = \mu_t + N(0, \sigma_\eta^2)

    Parameter ``level_variance`` σ²_η, c = 0.1. The first level is flat (exact diffuse), or
    N(0, ``initial_variance``). With observation noise this is statsmodels' "local level".
    """

    states = 1

    @property
    def components(self) -> tuple[str, ...]:
        return (self.label,)

    @property
    def _usual_name(self) -> str:
        return "level"

    @property
    def levelled(self) -> bool:
        return True

    def priors(self) -> Priors:
        return {f"{self.label}_variance": self._variance(0.1)}

    def moves(self, parameters: Parameters, data: Sequences) -> Moves:
        del data
        return self._moves(torch.eye(1), [parameters[f"{self.label}_variance"]])

    def start(self, series: Tensor) -> dict[str, Tensor]:
        return {f"{self.label}_variance": 0.1 * _changes(series)}


def _changes(series: Tensor) -> Tensor:
    """Mean square change of a series (S, 1), a number > 0."""
    square = series[:, 0].diff().square()
    return square.mean().clamp_min(1e-8) if len(square) else series.new_tensor(1.0)


@dataclass(frozen=True)
class LocalLinearTrend(_Structural):
    r"""A level that grows by a slope, both of which may wander.

    .. math::
        \mu_{t+1} = \mu_t + \beta_t + N(0, \sigma_\eta^2) , \quad
        \beta_{t+1} = \beta_t + N(0, \sigma_\zeta^2)

    Parameters ``level_variance`` (c = 0.1; absent with ``smooth=True``, the smooth trend or
    integrated random walk) and ``slope_variance`` (c = 0.01; absent with ``fixed_slope=True``);
    with both the trend is a straight line. Level and slope start flat, or N(0, ``initial_variance``)
    each.
    """

    smooth: bool = False
    fixed_slope: bool = False

    states = 2

    @property
    def components(self) -> tuple[str, ...]:
        before = f"{self.name}_" if self.name else ""
        return f"{before}level", f"{before}slope"

    @property
    def _usual_name(self) -> str:
        return "trend"

    @property
    def levelled(self) -> bool:
        return True

    def priors(self) -> Priors:
        level, slope = self.components
        out: Priors = {}
        if not self.smooth:
            out[f"{level}_variance"] = self._variance(0.1)
        if not self.fixed_slope:
            out[f"{slope}_variance"] = self._variance(0.01)
        return out

    def moves(self, parameters: Parameters, data: Sequences) -> Moves:
        del data
        some = next(iter(parameters.values()))
        matrix = torch.tensor([[1.0, 1.0], [0.0, 1.0]]).to(some)
        nothing = some.new_zeros(())
        variances = [parameters.get(f"{one}_variance", nothing) for one in self.components]
        return self._moves(matrix, variances)

    def start(self, series: Tensor) -> dict[str, Tensor]:
        size = _changes(series)
        level, slope = self.components
        found = {f"{level}_variance": 0.1 * size, f"{slope}_variance": 0.01 * size}
        return {name: found[name] for name in self.dims()}


@dataclass(frozen=True)
class Seasonal(_Structural):
    r"""A pattern of a given period that sums to zero and may change slowly.

    Without ``harmonics`` the dummy form of a whole period s,

    .. math:: \gamma_{t+1} = -\sum_{j=1}^{s-1} \gamma_{t+1-j} + N(0, \sigma_\omega^2) ;

    with ``harmonics=h`` the trigonometric form, in which the period may be any number above 2 (52.18
    weeks a year): pairs (γ_j, γ*_j) that turn by 2πj / period a step, j = 1 … h ≤ period / 2, all
    with noise of variance σ²_ω (a harmonic of half the period has no second number).

    Parameter ``seasonal_variance`` σ²_ω, c = 0.01. The first states are flat, or
    N(0, ``initial_variance``). ``name`` tells several seasons apart (``name="week"``: parameter
    ``week_variance``).

    Raises:
        ValueError: a period that is no whole number >= 2 (no number > 2 with harmonics), or more
            harmonics than half the period.
    """

    period: float = 12
    harmonics: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.harmonics is None:
            whole = self.period == int(self.period) and self.period >= 2
            require(whole, "period", "must be a whole number >= 2 without harmonics", self.period)
            return
        require_count(self.harmonics, "harmonics")
        fits = 2 < self.period < math.inf
        require(fits, "period", "must be a number > 2 with harmonics", self.period)
        few = self.harmonics <= self.period / 2
        require(few, "harmonics", f"must be <= period / 2 = {self.period / 2}", self.harmonics)

    @property
    def states(self) -> int:
        if self.harmonics is None:
            return int(self.period) - 1
        return 2 * self.harmonics - (2 * self.harmonics == self.period)

    @property
    def components(self) -> tuple[str, ...]:
        if self.harmonics is None:
            lags = (f"{self.label}_lag{lag}" for lag in range(1, self.states))
            return (self.label, *lags)
        pairs = range(1, self.harmonics + 1)
        names = (f"{self.label}_{kind}{j}" for j in pairs for kind in ("cosine", "sine"))
        return tuple(names)[: self.states]

    @property
    def _usual_name(self) -> str:
        return "seasonal"

    @property
    def loading(self) -> Tensor:
        if self.harmonics is None:
            return super().loading
        return torch.tensor([1.0, 0.0], dtype=torch.float64).repeat(self.harmonics)[
            None, : self.states
        ]

    def priors(self) -> Priors:
        return {f"{self.label}_variance": self._variance(0.01)}

    def moves(self, parameters: Parameters, data: Sequences) -> Moves:
        del data
        variance, size = parameters[f"{self.label}_variance"], self.states
        if self.harmonics is None:
            matrix = torch.diag(torch.ones(size - 1, dtype=torch.float64), -1)
            matrix[0] = -1
            return self._moves(matrix, [variance, *[0.0] * (size - 1)])
        matrix = torch.zeros(size + 1, size + 1, dtype=torch.float64)
        for j in range(self.harmonics):
            angle = 2 * math.pi * (j + 1) / self.period
            cosine, sine = math.cos(angle), math.sin(angle)
            pair = slice(2 * j, 2 * j + 2)
            matrix[pair, pair] = torch.tensor([[cosine, sine], [-sine, cosine]])
        return self._moves(matrix[:size, :size], [variance] * size)

    def start(self, series: Tensor) -> dict[str, Tensor]:
        return {f"{self.label}_variance": 0.01 * _changes(series)}


@dataclass(frozen=True)
class Autoregressive(_Structural):
    r"""A stationary autoregression, started from its stationary law.

    .. math:: x_{t+1} = \phi_1 x_t + \dots + \phi_p x_{t+1-p} + N(0, \sigma^2)

    Parameters ``ar_partial``, the partial autocorrelations, uniform on (−1, 1): every such vector
    is a stationary law, and every one a vector (Barndorff-Nielsen & Schou 1973); and
    ``ar_variance`` σ², c = 0.5. Known coefficients may be given as ``ar_coefficient``. The state
    is (x_t, …, x_{t+1-p}). ``name`` takes the place of "ar".

    Raises:
        ValueError: an order that is no whole number >= 1, or a variance of the first state, which
            the law itself determines.
    """

    order: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(self.order, "order")
        given = self.initial_variance
        require(given is None, "initial_variance", "an autoregression starts stationary", given)

    @property
    def states(self) -> int:
        return self.order

    @property
    def components(self) -> tuple[str, ...]:
        return (self.label, *(f"{self.label}_lag{lag}" for lag in range(1, self.order)))

    @property
    def _usual_name(self) -> str:
        return "ar"

    def priors(self) -> Priors:
        ones = torch.ones(self.order)
        return {
            f"{self.label}_partial": dist.Uniform(-ones, ones).to_event(1),
            f"{self.label}_variance": self._variance(0.5),
        }

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {f"{self.label}_partial": ("lag",), f"{self.label}_variance": ()}

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out, argument = dict(values), f"{self.label}_coefficient"
        if argument in out:
            given = out.pop(argument)
            fits = tuple(given.shape) == (self.order,)
            require(fits, argument, f"needs shape ({self.order},)", tuple(given.shape))
            partial = partial_autocorrelations(given)
            stationary = bool((partial.abs() < 1).all())
            came = given.tolist()
            require(stationary, argument, "needs coefficients of a stationary law", came)
            out[f"{self.label}_partial"] = partial
        return out

    def moves(self, parameters: Parameters, data: Sequences) -> Moves:
        del data
        coefficient = ar_coefficients(parameters[f"{self.label}_partial"])
        variance, size = parameters[f"{self.label}_variance"], self.order
        below = torch.eye(size, dtype=coefficient.dtype, device=coefficient.device)[:-1]
        matrix = torch.cat([coefficient[None], below])
        noise = pad(variance.reshape(1, 1), (0, size - 1, 0, size - 1))
        zeros = matrix.new_zeros(1, 1, size)
        mean, spread = stationary_law(matrix, zeros[0, 0], noise)
        still = no_directions(matrix)
        return Moves(mean, spread, still, matrix[None, None], zeros, noise[None, None])

    def start(self, series: Tensor) -> dict[str, Tensor]:
        partial = series.new_zeros(self.order)
        partial[0] = 0.5
        return {
            f"{self.label}_partial": partial,
            f"{self.label}_variance": 0.5 * _changes(series),
        }


def ar_coefficients(partial: Tensor) -> Tensor:
    """Coefficients of the autoregression with given partial autocorrelations (p,): Levinson."""
    coefficient = partial[:0]
    for lag in range(len(partial)):
        last = partial[lag : lag + 1]
        coefficient = torch.cat([coefficient - last * coefficient.flip(0), last])
    return coefficient


def partial_autocorrelations(coefficient: Tensor) -> Tensor:
    """The inverse of ``ar_coefficients``; entries outside (−1, 1) where it is not stationary."""
    found = []
    while len(coefficient):
        last = coefficient[-1]
        found.append(last)
        if bool(last.abs() >= 1):
            return torch.stack(found + [last] * (len(coefficient) - 1))
        rest = coefficient[:-1]
        coefficient = (rest + last * rest.flip(0)) / (1 - last.square())
    return torch.stack(found[::-1])


@dataclass(frozen=True)
class Cycle(_Structural):
    r"""A damped stochastic cycle (Harvey 1989), started from its stationary law.

    .. math::
        \binom{c_{t+1}}{c^*_{t+1}} = \rho
        \begin{pmatrix}\cos\lambda & \sin\lambda \\ -\sin\lambda & \cos\lambda\end{pmatrix}
        \binom{c_t}{c^*_t} + N(0, \sigma^2 I)

    Parameters ``cycle_damping`` ρ ~ Beta(5, 1), ``cycle_frequency`` λ, uniform between 2π / longest
    and 2π / shortest period, ``cycle_variance`` σ², c = 0.1. ``name`` takes the place of "cycle".

    Raises:
        ValueError: periods that are not 2 <= shortest < longest, or a variance of the first state.
    """

    shortest: float = 2.0
    longest: float = 1000.0

    states = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = 2 <= self.shortest < self.longest < math.inf
        came = (self.shortest, self.longest)
        require(fits, "shortest, longest", "must be 2 <= shortest < longest", came)
        given = self.initial_variance
        require(given is None, "initial_variance", "a damped cycle starts stationary", given)

    @property
    def components(self) -> tuple[str, ...]:
        return self.label, f"{self.label}_other"

    @property
    def _usual_name(self) -> str:
        return "cycle"

    def priors(self) -> Priors:
        low, high = 2 * math.pi / self.longest, 2 * math.pi / self.shortest
        return {
            f"{self.label}_damping": dist.Beta(torch.tensor(5.0), torch.tensor(1.0)),
            f"{self.label}_frequency": dist.Uniform(torch.tensor(low), torch.tensor(high)),
            f"{self.label}_variance": self._variance(0.1),
        }

    def moves(self, parameters: Parameters, data: Sequences) -> Moves:
        del data
        damping, frequency, variance = (parameters[name] for name in self.dims())
        cosine, sine = frequency.cos(), frequency.sin()
        turn = torch.stack([torch.stack([cosine, sine]), torch.stack([-sine, cosine])])
        unit = torch.eye(2, dtype=turn.dtype, device=turn.device)
        spread = variance / (1 - damping.square()) * unit
        zeros = turn.new_zeros(1, 1, 2)
        matrix = (damping * turn)[None, None]
        still = no_directions(turn)
        return Moves(zeros[0], spread[None], still, matrix, zeros, variance * unit[None, None])

    def start(self, series: Tensor) -> dict[str, Tensor]:
        low, high = 2 * math.pi / self.longest, 2 * math.pi / self.shortest
        return {
            f"{self.label}_damping": series.new_tensor(0.9),
            f"{self.label}_frequency": series.new_tensor(math.sqrt(low * high)),
            f"{self.label}_variance": 0.1 * _changes(series),
        }
