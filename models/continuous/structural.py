"""Structural components of one observed series: levels, trends, seasons, autoregressions, cycles.

Harvey (1989), *Forecasting, structural time series models and the Kalman filter*; Durbin & Koopman
(2012), *Time series analysis by state space methods*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..boundary import boundary
from ..checks import require, require_count, require_positive
from ..data.sequences import Sequences
from ..emissions.emission import Parameters, Priors
from .dynamics import (
    Dynamics,
    Moves,
    log_normal,
    no_directions,
    positive,
    stationary_law,
    step_scale,
)


@dataclass(frozen=True, kw_only=True)
class _Structural(Dynamics):
    """A component of one series; ``scale`` is the typical change of the series from step to step.

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

    def _changes(self, series: Tensor) -> Tensor:
        """Mean square change of a series (S, 1), or else the square of the scale."""
        square = series[:, 0].diff().square()
        mean = square.mean() if len(square) else series.new_tensor(0.0)
        return positive(mean, self.scale**2)

    def dims(self) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(self.priors(), ())

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


@dataclass(frozen=True)
class LocalLevel(_Structural):
    r"""A level that follows a random walk.

    .. math:: \mu_{t+1} = \mu_t + N(0, \sigma_\eta^2)

    Parameter ``level_variance`` σ²_η ~ LogNormal(log(0.1 scale²), 2²). With observation noise this
    is statsmodels' "local level".

    Args:
        scale: typical change of the series from step to step; ``scaled_to(data)`` sets it.
        name: takes the place of "level" in the names of the parameter and the component.
        initial_variance: the first level is N(0, initial_variance), or flat (exactly diffuse) if
            None.

    Raises:
        ValueError: a scale or variance that is not positive, or a name with other characters than
            letters, digits and underscores.

    Source: Harvey (1989); Durbin & Koopman (2012).

    >>> from beliefzoo.models import LinearGaussianSSM
    >>> model = LinearGaussianSSM(LocalLevel(initial_variance=100.0))
    >>> model.parameter_names
    ('level_variance', 'observation_variance')
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
        return {f"{self.label}_variance": 0.1 * self._changes(series)}


@dataclass(frozen=True)
class LocalLinearTrend(_Structural):
    r"""A level that grows by a slope; both may follow random walks.

    .. math::
        \mu_{t+1} = \mu_t + \beta_t + N(0, \sigma_\eta^2) , \quad
        \beta_{t+1} = \beta_t + N(0, \sigma_\zeta^2)

    Parameters ``level_variance`` σ²_η ~ LogNormal(log(0.1 scale²), 2²) and ``slope_variance`` σ²_ζ
    ~ LogNormal(log(0.01 scale²), 2²).

    Args:
        smooth: σ²_η = 0: a smooth trend (integrated random walk).
        fixed_slope: σ²_ζ = 0; with ``smooth`` the trend is a straight line.
        scale: typical change of the series from step to step; ``scaled_to(data)`` sets it.
        name: prefix of the names of parameters and components.
        initial_variance: level and slope start from N(0, initial_variance) each, or flat if None.

    Raises:
        ValueError: a scale or variance that is not positive, or a name with other characters than
            letters, digits and underscores.

    Source: Harvey (1989); Durbin & Koopman (2012).

    >>> LocalLinearTrend(smooth=True).dims()  # an integrated random walk has one variance
    {'slope_variance': ()}
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
        size = self._changes(series)
        level, slope = self.components
        found = {f"{level}_variance": 0.1 * size, f"{slope}_variance": 0.01 * size}
        return {name: found[name] for name in self.dims()}


@boundary
@dataclass(frozen=True)
class Seasonal(_Structural):
    r"""A pattern of a given period that sums to zero and may change slowly.

    Without ``harmonics``, the dummy form of a whole period s,

    .. math:: \gamma_{t+1} = -\sum_{j=1}^{s-1} \gamma_{t+1-j} + N(0, \sigma_\omega^2) ;

    with ``harmonics=h``, the trigonometric form, in which the period may be any number above 2
    (52.18 weeks a year): pairs (γ_j, γ*_j) that turn by 2πj / period per step, j = 1 … h <= period
    / 2, all with noise of variance σ²_ω (a harmonic of half the period has no second number).

    Parameter ``seasonal_variance`` σ²_ω ~ LogNormal(log(0.01 scale²), 2²).

    Args:
        period: steps per period.
        harmonics: number of harmonics h; None for the dummy form.
        scale: typical change of the series from step to step; ``scaled_to(data)`` sets it.
        name: takes the place of "seasonal", which tells several seasons apart.
        initial_variance: the first states are N(0, initial_variance), or flat if None.

    Raises:
        ValueError: a period that is no whole number >= 2 (no number > 2 with harmonics), or more
            harmonics than half the period.

    Source: Harvey (1989); Durbin & Koopman (2012).

    >>> Seasonal(period=52.18, harmonics=3, name="year").components
    ('year_cosine1', 'year_sine1', 'year_cosine2', 'year_sine2', 'year_cosine3', 'year_sine3')
    """

    period: float = 12
    harmonics: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.harmonics is None:
            whole = self.period >= 2 and math.isfinite(self.period) and self.period % 1 == 0
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
            turn = [[cosine, sine], [-sine, cosine]]
            matrix[pair, pair] = torch.tensor(turn, dtype=torch.float64)
        return self._moves(matrix[:size, :size], [variance] * size)

    def start(self, series: Tensor) -> dict[str, Tensor]:
        return {f"{self.label}_variance": 0.01 * self._changes(series)}


@dataclass(frozen=True)
class Autoregressive(_Structural):
    r"""A stationary autoregression that starts from its stationary distribution.

    .. math:: x_{t+1} = \phi_1 x_t + \dots + \phi_p x_{t+1-p} + N(0, \sigma^2)

    Parameters: ``ar_partial``, the partial autocorrelations, uniform on (−1, 1), which correspond
    one to one to the stationary autoregressions; and ``ar_variance`` σ² ~ LogNormal(log(0.5
    scale²), 2²). Known coefficients φ may be given as ``ar_coefficient``. The state is (x_t, …,
    x_{t+1-p}).

    Args:
        order: number of lags p.
        scale: typical change of the series from step to step; ``scaled_to(data)`` sets it.
        name: takes the place of "ar".
        initial_variance: must be None; the stationary distribution determines it.

    Raises:
        ValueError: an order that is no whole number >= 1, or an ``initial_variance``.

    Source: Barndorff-Nielsen & Schou (1973), J. Multivariate Analysis 3.

    >>> from beliefzoo.models import LinearGaussianSSM
    >>> model = LinearGaussianSSM(Autoregressive(order=2))
    >>> model.with_parameters(ar_coefficient=[0.5, 0.3]).known["ar_partial"]  # 0.5 / (1 - 0.3), 0.3
    tensor([0.7143, 0.3000], dtype=torch.float64)
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
            f"{self.label}_variance": 0.5 * self._changes(series),
        }


def ar_coefficients(partial: Tensor) -> Tensor:
    """Coefficients of the autoregression with partial autocorrelations (p,), by Levinson."""
    coefficient = partial[:0]
    for lag in range(len(partial)):
        last = partial[lag : lag + 1]
        coefficient = torch.cat([coefficient - last * coefficient.flip(0), last])
    return coefficient


def partial_autocorrelations(coefficient: Tensor) -> Tensor:
    """The inverse of ``ar_coefficients``; some lie outside (−1, 1) if it is not stationary."""
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
    r"""A damped stochastic cycle that starts from its stationary distribution.

    .. math::
        \binom{c_{t+1}}{c^*_{t+1}} = \rho
        \begin{pmatrix}\cos\lambda & \sin\lambda \\ -\sin\lambda & \cos\lambda\end{pmatrix}
        \binom{c_t}{c^*_t} + N(0, \sigma^2 I)

    Parameters ``cycle_damping`` ρ ~ Beta(5, 1), ``cycle_frequency`` λ, uniform between 2π / longest
    and 2π / shortest, ``cycle_variance`` σ² ~ LogNormal(log(0.1 scale²), 2²).

    Args:
        shortest: shortest period, in steps, at least 2.
        longest: longest period, in steps.
        scale: typical change of the series from step to step; ``scaled_to(data)`` sets it.
        name: takes the place of "cycle".
        initial_variance: must be None; the stationary distribution determines it.

    Raises:
        ValueError: periods that are not 2 <= shortest < longest, or an ``initial_variance``.

    Source: Harvey (1989).

    >>> from beliefzoo.models import LocalLevel
    >>> (LocalLevel() + Cycle(shortest=18, longest=144)).components  # a business cycle of months
    ('level', 'cycle', 'cycle_other')
    """

    shortest: float = 2.0
    longest: float = 1000.0

    states = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self.shortest, "shortest")
        require_positive(self.longest, "longest")
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
            f"{self.label}_variance": 0.1 * self._changes(series),
        }
