"""Linear-Gaussian state space models, in discrete and in continuous time."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor

from ..beliefs import GaussianBelief
from ..boundary import boundary
from ..checks import brief, require, require_count, require_places, require_positive
from ..data.folders import Data, SequenceFolder
from ..data.requirements import require_inputs
from ..data.sequences import Sequences
from ..emissions.emission import Parameters, Priors, per_feature
from ..emissions.observations import Vectors
from ..model import Model
from .dynamics import (
    Dynamics,
    Moves,
    along_steps,
    covariance,
    input_scale,
    place_of,
    require_scales,
    split_covariance,
    weight_scale,
)
from .linear_trajectories import GaussianChain, NormalNoise, Observed, affine_scan, factorised

_LOG_2PI = math.log(2 * math.pi)

_FULL = 16
"""Largest state whose belief has a full covariance, the size of which grows with the square."""


_MATRICES = (
    *("initial_mean", "initial_covariance", "diffuse", "transition", "offset", "noise"),
    *("loading", "intercept", "observation_noise"),
)


@dataclass(frozen=True)
class LinearLaws:
    r"""The laws of a linear-Gaussian model at given parameter values, for N sequences of T steps.

    .. math::
        z_1 \\sim N(m, P) , \\quad z_{t+1} = A_t z_t + b_t + N(0, Q_t) , \\quad
        y_t = C_t z_t + d_t + N(0, R_t)

    ``LinearGaussianSSM.laws`` makes them. Axes of size 1 are shared. The parameters have no axes of
    draws: for many draws, loop over them.

    Attributes:
        initial_mean: m, (N|1, D).
        initial_covariance: P, (N|1, D, D).
        diffuse: (D, q), directions of z_1 with a flat prior, in which P has no variance. It is the
            limit of N(0, κ) as κ grows, times κ^{1/2} for each direction, so that its density is
            (2π)^{-1/2} and evidences keep the ½ log 2π of every observation.
        transition: A, (N|1, T-1|1, D, D).
        offset: b, (N|1, T-1|1, D).
        noise: Q, (N|1, T-1|1, D, D); may be singular.
        loading: C, (N|1, T|1, F, D).
        intercept: d, (N|1, T|1, F).
        observation_noise: R, (N|1, T|1, F, F).
        parameters: all parameter values, by name.
        data: the sequences.

    >>> from beliefzoo.models import LinearGaussianSSM, LocalLevel, Sequences
    >>> model = LinearGaussianSSM(LocalLevel()).with_parameters(
    ...     level_variance=1469.1, observation_variance=15099
    ... )
    >>> nile = Sequences.from_arrays([[1120.0, 1160.0, 963.0]])
    >>> laws = model.laws({}, nile)
    >>> laws.noise.item(), laws.observation_noise.item(), laws.diffuse.tolist()
    (1469.1, 15099.0, [[1.0]])
    """

    discrete = None  # no chain of discrete states

    initial_mean: Tensor
    initial_covariance: Tensor
    diffuse: Tensor
    transition: Tensor
    offset: Tensor
    noise: Tensor
    loading: Tensor
    intercept: Tensor
    observation_noise: Tensor
    parameters: Parameters
    data: Sequences

    @property
    def linear(self) -> Self:
        """These laws: they are linear-Gaussian."""
        return self

    @property
    def values(self) -> Tensor:
        """Observations, (N, T, F); zero where ``mask`` is False."""
        return self.data.values

    @property
    def mask(self) -> Tensor:
        """Which values were observed, (N, T, F)."""
        return self.data.mask

    @property
    def lengths(self) -> Tensor:
        """Length of every sequence, (N,)."""
        return self.data.lengths

    @property
    def size(self) -> int:
        """Number of state components D."""
        return self.transition.shape[-1]

    def in_double(self) -> Self:
        """Return the same laws with their matrices in float64."""
        if self.transition.dtype == torch.float64:
            return self
        return replace(self, **{name: getattr(self, name).double() for name in _MATRICES})

    def starting_at(self, first: Tensor) -> Self:
        """Return the same laws given the first states, (N, D)."""
        certain = first.new_zeros(1, self.size, self.size)
        flat = first.new_zeros(self.size, 0)
        return replace(self, initial_mean=first, initial_covariance=certain, diffuse=flat)

    # Sites of the Pyro program

    def states(self) -> GaussianChain:
        """Return the distribution of the hidden trajectories, event (T, D)."""
        return GaussianChain(self, torch.Size([self.data.max_length, self.size]))

    def observations(self, states: Tensor) -> Observed:
        """Return the distribution of the observations given trajectories (…, N, T, D)."""
        return Observed(
            lambda y: self.score(y, states),
            lambda: self.draw(states),
            states.shape[:-2],
            self.values.shape[1:],
        )

    # Draws

    def sample_states(self) -> Tensor:
        """Draw the hidden trajectories once, (N, T, D), zero beyond the length."""
        first = self.draw_first(1)[0]
        n, steps = len(self.data), self.data.max_length
        shape = (n, steps - 1, self.size)
        shift = first.new_zeros(shape)
        if steps > 1:
            shift = self.offset + self._noise.draw(first.new_empty(shape))
        paths = affine_scan(self.transition, shift, first)
        return paths * self.data.step_mask.unsqueeze(-1)

    def draw(self, states: Tensor) -> Tensor:
        """Draw observations for trajectories (…, N, T, D) once: (…, N, T, F)."""
        mean = self.observed_mean(states)
        kept = self.observation_noise.diagonal(dim1=-2, dim2=-1) != 0
        root = factorised(self.observation_noise, kept, "observation_noise")[0]
        noise = torch.randn_like(mean) * kept
        return mean + (root @ noise.unsqueeze(-1)).squeeze(-1)

    def observed_mean(self, states: Tensor) -> Tensor:
        """Return C_t z_t + d_t, (…, N, T, F)."""
        return (self.loading @ states.unsqueeze(-1)).squeeze(-1) + self.intercept

    def draw_first(self, n: int) -> Tensor:
        """Draw n first states, (n, N, D); reparametrised.

        Raises:
            ValueError: there are directions with a flat prior.
        """
        self._require_proper("draws")
        like = self.initial_mean.new_empty(n, len(self.data), self.size)
        return self.initial_mean + self._first_noise.draw(like)

    def draw_next(self, states: Tensor, step: int) -> Tensor:
        """Draw z_{t+1} given z_t (…, N, D), t = ``step`` from 0 on; reparametrised."""
        return self._next_mean(states, step) + self._noise_at(step).draw(states)

    # Densities

    def log_first(self, states: Tensor) -> Tensor:
        """Return log p(z_1) of first states (…, N, D), shape (…, N)."""
        residual = states - self.initial_mean
        if not self.diffuse.shape[-1]:
            return self._first_noise.log_prob(residual, _slack(states, self.initial_mean))
        flat, _ = torch.linalg.qr(self.diffuse, mode="complete")
        q = self.diffuse.shape[-1]
        rest = flat[:, q:]  # the proper directions
        density = residual.new_full(residual.shape[:-1], -0.5 * q * _LOG_2PI)
        # A unit of the flat coordinates is a column of ``diffuse``.
        spanned = self.diffuse.mT @ self.diffuse
        density = density - 0.5 * torch.logdet(spanned)
        if rest.shape[-1]:
            proper = NormalNoise(rest.mT @ self.initial_covariance @ rest, "initial_covariance")
            slack = _slack(states, self.initial_mean) @ rest.abs()
            density = density + proper.log_prob(residual @ rest, slack)
        return density

    def log_next(self, later: Tensor, states: Tensor, step: int) -> Tensor:
        """Return log p(``later`` | ``states``), (…, N), of states (…, N, D) after and at a step."""
        mean = self._next_mean(states, step)
        matrix, offset = _at(self.transition, step), _at(self.offset, step)
        slack = _slack(later, offset, (matrix, states))
        return self._noise_at(step).log_prob(later - mean, slack)

    def log_step(self, states: Tensor, step: int) -> Tensor:
        """Return log O(y_t | z_t) of states (…, N, D) at t = ``step``; 0 if unobserved."""
        at = [_at(part, step) for part in (self.loading, self.intercept, self._read_values)]
        mean = (at[0] @ states.unsqueeze(-1)).squeeze(-1) + at[1]
        seen = self.mask[:, step]
        root = tuple(_at(part, step) for part in self._readout)
        slack = _slack(at[2], at[1], (at[0], states))
        return _normal(at[2] - mean, seen, root[0], root[1], self._exact(step), slack)

    def chain_log_prob(self, paths: Tensor) -> Tensor:
        """Return log p(z_1 … z_L) of trajectories (…, N, T, D), shape (…, N).

        If Q has components of variance zero, it is the density of the others, and −∞ if these
        components do not follow from the step before (up to the rounding of the dtype).

        Raises:
            ValueError: Q is singular in another way; a path then has no density.
        """
        total = self.log_first(paths[..., 0, :])
        if paths.shape[-2] == 1:
            return total
        mean = self._moved(paths[..., :-1, :])
        later = paths[..., 1:, :]
        slack = None
        if not bool(self._noise.noisy.all()):
            slack = _slack(later, self.offset, (self.transition, paths[..., :-1, :]))
        density = self._noise.log_prob(later - mean, slack)
        inside = self.data.step_mask[:, 1:]
        return total + torch.where(inside, density, 0).sum(-1)

    def emission_log_prob(self, paths: Tensor) -> Tensor:
        """Return Σ_t log O(y_t | z_t) of trajectories (…, N, T, D), shape (…, N)."""
        return self.score(self.values, paths)

    def score(self, y: Tensor, paths: Tensor) -> Tensor:
        """Return Σ_t log O(y_t | z_t) of observations y (N, T, F); missing elements add nothing."""
        mean = self.observed_mean(paths)
        inverse, log_det = self._readout
        y = y.to(mean.dtype)
        exact = self._exact(None)
        slack = mean if not bool(exact.any()) else _slack(y, self.intercept, (self.loading, paths))
        terms = _normal(y - mean, self.mask, inverse, log_det, exact, slack)
        return terms.sum(-1)

    @cached_property
    def _read_values(self) -> Tensor:
        return self.values.to(self.loading.dtype)

    @cached_property
    def _first_noise(self) -> NormalNoise:
        return NormalNoise(self.initial_covariance, "initial_covariance")

    @cached_property
    def _noise(self) -> NormalNoise:
        return NormalNoise(self.noise, "noise")

    def _noise_at(self, step: int) -> NormalNoise:
        return self._noise.at(step)

    @cached_property
    def _readout(self) -> tuple[Tensor, Tensor]:
        """Inverse Cholesky factors of R on the observed elements, (N|1, T|1, F, F), and log
        determinants.
        """
        noisy = self.observation_noise.diagonal(dim1=-2, dim2=-1) != 0
        alike = bool((self.mask | ~self.data.step_mask.unsqueeze(-1)).all())
        kept = noisy if alike else noisy & self.mask
        _, inverse, log_det = factorised(self.observation_noise, kept, "observation_noise")
        return inverse, log_det

    def _exact(self, step: int | None) -> Tensor:
        """Elements that are observed without noise."""
        silent = self.observation_noise.diagonal(dim1=-2, dim2=-1) == 0
        if step is None:
            return silent & self.mask
        return _at(silent, step) & self.mask[:, step]

    def _next_mean(self, states: Tensor, step: int) -> Tensor:
        matrix = _at(self.transition, step)
        return (matrix @ states.unsqueeze(-1)).squeeze(-1) + _at(self.offset, step)

    def _moved(self, states: Tensor) -> Tensor:
        if self.transition.shape[:2] == (1, 1):
            return states @ self.transition[0, 0].mT + self.offset
        return (self.transition @ states.unsqueeze(-1)).squeeze(-1) + self.offset

    def _require_proper(self, what: str) -> None:
        flat = self.diffuse.shape[-1]
        require(
            not flat,
            "initial",
            f"{what} of the states need a proper law of the first state (initial_variance=…, "
            "initial='free' or initial='stationary')",
            f"{flat} direction(s) with a flat prior",
        )


def _at(part: Tensor, step: int) -> Tensor:
    """The entry (N|1, …) of a tensor (N|1, T|1, …) at a step."""
    return part[:, step if part.shape[1] > 1 else 0]


@torch.no_grad()
def _slack(given: Tensor, offset: Tensor, moved: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Tolerance of ``given`` − offset (− A z, if ``moved`` is (A, z)) for components without noise.

    A rounding error of numbers of the size of those that are added up, in any unit.
    """
    size = given.abs() + offset.abs()
    if moved is not None:
        matrix, states = moved
        size = size + (matrix.abs() @ states.abs().unsqueeze(-1)).squeeze(-1)
    return math.sqrt(torch.finfo(given.dtype).eps) * size


def _normal(
    residual: Tensor,
    seen: Tensor,
    inverse: Tensor,
    log_det: Tensor,
    exact: Tensor,
    slack: Tensor,
) -> Tensor:
    """log N(residual; 0, R) over the observed elements, summed over the last axis.

    ``inverse`` is the inverse Cholesky factor of R on the elements observed with noise; ``exact``
    marks those observed without noise, whose density is 1 if the residual is zero up to ``slack``
    and else 0.
    """
    noisy = seen & ~exact
    residual = torch.where(seen, residual, 0)
    kept = torch.where(noisy, residual, 0)
    if math.prod(inverse.shape[:-2]) == 1:
        white = kept @ inverse.reshape(inverse.shape[-2:]).mT
    else:
        white = (inverse @ kept.unsqueeze(-1)).squeeze(-1)
    count = noisy.sum(-1).to(residual)
    density = -0.5 * (white.square().sum(-1) + count * _LOG_2PI)
    density = density - torch.where(noisy.any(-1), log_det, 0)
    wrong = (exact & (residual.abs() > slack)).any(-1)
    return torch.where(wrong, -torch.inf, density)


@boundary
@dataclass(frozen=True)
class LinearEmission:
    """How a continuous state is observed: y = C z + d + D u + N(0, R), with F features.

    Parameters: ``loading`` C (feature, component), unless the dynamics fix it; ``intercept`` d, if
    there is one; ``input_effect`` D (feature, input), with ``inputs``; ``observation_variance``,
    the diagonal of R (a number for one feature), and with ``correlated=True``
    ``observation_correlation_factor``. Known values of R may be given as
    ``observation_covariance``. Known values of all but the factor may have a leading axis of steps.

    Priors: C ~ N(0, spread²), d ~ N(location, spread²), D ~ N(0, spread² / input_scale²), variances
    ~ LogNormal(log(noise² / 2), 2²).

    Args:
        features: number of features F.
        correlated: R is full; otherwise diagonal.
        intercept: whether d is a parameter; otherwise 0.
        inputs: number of input columns.
        location: typical value of the data, one number or one per feature.
        spread: standard deviation of the data, likewise.
        noise: typical change from step to step, likewise.
        input_scale: typical size of the inputs, one number or one per column; ``scaled_to(data)``
            sets these four.

    Raises:
        ValueError: a setting out of range.

    >>> from beliefzoo.models import LinearDynamics, LinearGaussianSSM
    >>> emission = LinearEmission(features=3, intercept=True, noise=(0.2,))
    >>> LinearGaussianSSM(LinearDynamics(2), emission=emission).parameter_dims()["loading"]
    ('feature', 'component')
    """

    features: int = 1
    correlated: bool = False
    intercept: bool = False
    inputs: int = 0
    location: tuple[float, ...] = (0.0,)
    spread: tuple[float, ...] = (1.0,)
    noise: tuple[float, ...] = (1.0,)
    input_scale: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        require_count(self.features, "features")
        require_count(self.inputs, "inputs", 0)
        for argument in ("location", "spread", "noise"):
            given = getattr(self, argument)
            require_places(given, self.features, argument, "feature")
            given = given if isinstance(given, tuple | list) else (given,)
            object.__setattr__(self, argument, tuple(float(number) for number in given))
        for argument in ("spread", "noise"):
            for number in getattr(self, argument):
                require_positive(number, argument)
        require_scales(self.input_scale, self.inputs)

    @property
    def varying(self) -> frozenset[str]:
        """Parameters whose known values may have an axis of steps."""
        names = {"loading", "intercept", "input_effect", "observation_variance"}
        return frozenset(names | {"observation_correlation_factor"})

    def priors(self, loading: Tensor | None, size: int) -> Priors:
        """Return the prior of every parameter, for states of ``size`` numbers."""
        shape = per_feature(self.features)
        location, spread = (self._filled(x) for x in (self.location, self.spread))
        variance = (self._filled(self.noise).square() / 2).log().reshape(shape)
        out: Priors = {}
        if loading is None:
            scale = spread.unsqueeze(-1).expand(self.features, size)
            out["loading"] = dist.Normal(torch.zeros_like(scale), scale).to_event(2)
        if self.intercept:
            law = dist.Normal(location.reshape(shape), spread.reshape(shape))
            out["intercept"] = law.to_event(len(shape))
        if self.inputs:
            scale = spread.unsqueeze(-1) * weight_scale(self.input_scale, self.inputs)
            out["input_effect"] = dist.Normal(torch.zeros_like(scale), scale).to_event(2)
        out["observation_variance"] = dist.LogNormal(variance, 2.0).to_event(len(shape))
        if self.correlated and self.features > 1:
            out["observation_correlation_factor"] = dist.LKJCholesky(self.features, 1.0)
        return out

    def _filled(self, value: tuple[float, ...]) -> Tensor:
        return torch.tensor(value).expand(self.features)

    def dims(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of every parameter."""
        feature = () if self.features == 1 else ("feature",)
        return {
            "loading": ("feature", "component"),
            "intercept": feature,
            "input_effect": ("feature", "input"),
            "observation_variance": feature,
            "observation_correlation_factor": ("feature", "feature_from"),
        }

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate ``observation_covariance`` to the law's own parameters."""
        out = split_covariance(values, "observation", self.features, self.correlated)
        if self.features == 1 and "observation_covariance" in values:
            out["observation_variance"] = out["observation_variance"].squeeze(-1)
        return out

    def matrices(
        self, parameters: Parameters, loading: Tensor | None, data: Sequences
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return C (1, T|1, F, D), d (N|1, T|1, F) and R (1, T|1, F, F)."""
        steps, one = data.max_length, self.features == 1
        given = dict(parameters)
        for name in ("observation_variance", "intercept"):
            if one and name in given:
                given[name] = given[name].unsqueeze(-1)
        noise = along_steps(covariance(given, "observation"), 2, steps)
        matrix = along_steps(given["loading"], 2, steps) if loading is None else loading[None, None]
        level = noise.new_zeros(1, 1, self.features)
        if self.intercept:
            level = along_steps(given["intercept"], 1, steps)
        if self.inputs:
            assert data.inputs is not None  # checked with the data
            effect = along_steps(given["input_effect"], 2, steps)
            columns = data.inputs.to(effect.dtype).unsqueeze(-1)
            level = level + (effect @ columns).squeeze(-1)
        return matrix.to(noise), level.to(noise), noise

    def start(self, y: Tensor, mask: Tensor, size: int) -> tuple[dict[str, Tensor], Tensor]:
        """Return starting values from frames y (S, F), and the states (S, D) that belong to them.

        The states are principal components of the features in units of their standard deviations,
        missing ones at their mean.
        """
        mean, spread, change = place_of(y[None], mask[None])
        centred = torch.where(mask, (y - mean) / spread, 0)
        u, s, v = torch.linalg.svd(centred, full_matrices=False)
        rank = min(size, len(s))
        scale = s[:rank] / math.sqrt(max(1, len(y)))
        loading = 0.1 * torch.randn(self.features, size, dtype=y.dtype)
        loading[:, :rank] = v[:rank].mT * scale
        loading = loading * spread.unsqueeze(-1)
        series = torch.randn(len(y), size, dtype=y.dtype)
        series[:, :rank] = u[:, :rank] * math.sqrt(len(y))
        noise = 0.25 * change.square()
        shape, unit = per_feature(self.features), torch.eye(self.features, dtype=y.dtype)
        return {
            "loading": loading,
            "intercept": mean.reshape(shape),
            "input_effect": y.new_zeros(self.features, self.inputs),
            "observation_variance": noise.reshape(shape),
            "observation_correlation_factor": unit,
        }, series


@boundary
class LinearGaussianSSM(Model):
    r"""A continuous state that moves linearly and is observed linearly, with normal noise.

    .. math::
        z_1 \sim N(m, P) , \quad z_{t+1} = A z_t + b + N(0, Q) , \quad y_t = C z_t + d + N(0, R)

    The parameters are those of the dynamics and of ``LinearEmission``. The Pyro program has one
    site per parameter and two per batch of sequences, ``states`` (N, T, D) and ``obs``. A law with
    flat directions (structural components, by default) can be scored and conditioned, but not
    sampled.

    Args:
        dynamics: how the state moves: ``LinearDynamics``; ``LocalLevel``, ``LocalLinearTrend``,
            ``Seasonal``, ``Autoregressive``, ``Cycle`` and sums of them; in continuous time
            ``LinearSDE``, ``OrnsteinUhlenbeck``.
        features: observed numbers per step, F.
        correlated: R is full; otherwise diagonal.
        intercept: whether d is a parameter; by default it is, unless the dynamics contain a level.
        inputs: input columns that enter the observation, D u_t.
        emission: the emission law with settings of its priors, in place of the four arguments
            before.
        priors: replacements for single priors, by parameter name, with the same event shape.

    Raises:
        ValueError: an invalid argument; the message names it, what is required and what came.

    Source: Kalman (1960), J. Basic Engineering 82; Durbin & Koopman (2012).

    >>> from beliefzoo.models import LocalLinearTrend, Seasonal
    >>> model = LinearGaussianSSM(LocalLinearTrend() + Seasonal(period=12))  # monthly series
    >>> model.states, model.parameter_names
    (13, ('level_variance', 'slope_variance', 'seasonal_variance', 'observation_variance'))
    """

    def __init__(
        self,
        dynamics: Dynamics,
        features: int = 1,
        *,
        correlated: bool = False,
        intercept: bool | None = None,
        inputs: int = 0,
        emission: LinearEmission | None = None,
        priors: Mapping[str, dist.TorchDistribution] | None = None,
    ) -> None:
        require(
            isinstance(dynamics, Dynamics),
            "dynamics",
            "must be a law of linear dynamics, for instance LocalLevel() or LinearDynamics(2)",
            repr(dynamics),
        )
        self.dynamics = dynamics
        self.states = dynamics.states
        if emission is None:
            has = not dynamics.levelled if intercept is None else intercept
            emission = LinearEmission(features, correlated, has, inputs)
        else:
            given = (features, correlated, intercept, inputs)
            free = given == (1, False, None, 0) and isinstance(emission, LinearEmission)
            requirement = (
                "must be a LinearEmission, without features, correlated, intercept, inputs"
            )
            require(free, "emission", requirement, f"{emission!r} beside {given}")
        self.emission = emission
        self._check_laws()
        self.set_priors(priors)

    def _check_laws(self) -> None:
        loading, features = self.dynamics.loading, self.emission.features
        if loading is not None:
            size = len(loading)
            requirement = f"{type(self.dynamics).__name__} is a law of {size} observed feature(s)"
            require(features == size, "features", requirement, features)
        read = {self.dynamics.inputs, self.emission.inputs} - {0}
        require(
            len(read) < 2,
            "inputs",
            "dynamics and emission read the same input columns and need the same number of them",
            f"{self.dynamics.inputs} and {self.emission.inputs}",
        )

    def own_priors(self) -> Priors:
        emitted = self.emission.priors(self.dynamics.loading, self.states)
        moved = self.dynamics.priors()
        both = sorted(set(emitted) & set(moved))
        require(not both, "dynamics", "needs parameters named unlike those of the emission", both)
        return {**moved, **emitted}

    @property
    def observations(self) -> Vectors:
        """Vectors of real numbers, each of which may be missing."""
        return Vectors(self.emission.features)

    @property
    def configuration(self) -> dict[str, Any]:
        """The arguments of the model except ``priors``."""
        return {"dynamics": self.dynamics, "emission": self.emission}

    @property
    def belief(self) -> GaussianBelief:
        """A normal distribution of the state, with a full covariance for up to 16 components."""
        return GaussianBelief(self.states, full=self.states <= _FULL)

    @property
    def inputs(self) -> int:
        """Number of input columns that the dynamics or the emission read; 0 for none."""
        return max(self.dynamics.inputs, self.emission.inputs)

    @property
    def timed(self) -> bool:
        """True if the dynamics read ``data.times``."""
        return self.dynamics.timed

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the state components."""
        return self.dynamics.components

    def parameter_dims(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of every parameter."""
        dims = {**self.emission.dims(), **self.dynamics.dims()}
        return {name: dims[name] for name in self._all}

    def __repr__(self) -> str:
        known = f", known={sorted(self._known)}" if self._known else ""
        return (
            f"LinearGaussianSSM({brief(self.dynamics)}, features={self.emission.features}{known})"
        )

    def _natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.emission.natural(self.dynamics.natural(values))

    def _accept(self, name: str, value: Tensor) -> Tensor:
        """Accept values as ``Model`` does, and variances of 0, and axes of steps where they are
        allowed.
        """
        shape = self._all[name].event_shape if name in self._all else value.shape
        over_steps = name in self._varying and value.ndim == len(shape) + 1 and len(value) > 0
        if over_steps and len(value) == 1:  # one value is the same at all steps: (1,) is a number
            over_steps, value = False, value[0]
        nothing = value == 0 if name.endswith("_variance") else torch.zeros_like(value).bool()
        checked = torch.where(nothing, 1, value)
        if over_steps:
            taken = torch.stack([super(LinearGaussianSSM, self)._accept(name, v) for v in checked])
        else:
            taken = super()._accept(name, checked)
        return torch.where(nothing, 0, taken)

    @property
    def _varying(self) -> frozenset[str]:
        return self.dynamics.varying | self.emission.varying

    def scaled_to(self, data: Data) -> LinearGaussianSSM:
        """Return the same model with its priors on the scale of the data.

        From a folder, only a sample is read; see ``SequenceFolder.sample``.
        """
        data = data.sample() if isinstance(data, SequenceFolder) else data
        self.observations.check(data, "LinearGaussianSSM")
        place = place_of(data.values, data.mask)
        location, spread, change = (tuple(x.tolist()) for x in place)
        out = copy.copy(self)
        out.dynamics = self.dynamics.scaled_to(data)
        emission = replace(self.emission, location=location, spread=spread, noise=change)
        if emission.inputs:
            require_inputs(data, emission.inputs, "LinearGaussianSSM")
            emission = replace(emission, input_scale=input_scale(data))
        out.emission = emission
        out._all = out._assemble()
        return out

    def check_values(self, data: Sequences) -> None:
        """Raise ``ValueError`` unless the sequences, of any number, can come from the model."""
        self.observations.check(data, "LinearGaussianSSM")
        self.dynamics.check(data)
        require_inputs(data, self.emission.inputs, "LinearGaussianSSM")
        for name, value in self._known.items():
            if value.ndim == len(self._all[name].event_shape):
                continue
            needed = data.max_length - (name in self.dynamics.varying)
            requirement = f"is known for {len(value)} step(s): the data need as many at least"
            require(len(value) >= needed, name, requirement, needed)

    def laws(self, parameters: Parameters, data: Sequences) -> LinearLaws:
        """Return the laws at given values of the unknown parameters.

        This is a pure function. The values have no axes of draws; for many draws, loop over them.

        Raises:
            ValueError: axes of draws, or parameters without a stationary distribution where one is
                needed.
        """
        values = self.complete(parameters)
        for name, value in values.items():
            shape = self._all[name].event_shape
            extra = value.ndim - len(shape) - (name in self._varying and name in self._known)
            require(extra <= 0, name, f"needs one value of shape {tuple(shape)}", value.shape)
        moves = self.dynamics.moves(values, data)
        readout = self.emission.matrices(values, self.dynamics.loading, data)
        dtype = next(iter(values.values())).dtype
        moves = Moves(*(part.to(dtype) for part in moves))
        loading, intercept, noise = (part.to(dtype) for part in readout)
        return LinearLaws(
            *moves,
            loading=loading,
            intercept=intercept,
            observation_noise=noise,
            parameters=values,
            data=data,
        )

    def start(self, data: Sequences) -> dict[str, Tensor]:
        """Return values of the unknown parameters, computed from the data, to start a fit from.

        States start as principal components of the observations, variances as shares of the changes
        from step to step. Uses torch's global generator where there are more states than features.
        """
        self.check_values(data)
        inside = data.step_mask
        y, mask = data.values[inside].double(), data.mask[inside]
        emitted, series = self.emission.start(y, mask, self.states)
        if self.dynamics.loading is not None:
            mean = place_of(y[None], mask[None]).location
            series = torch.where(mask, y, mean)
            if self.emission.intercept:
                series = series - mean
        found = {**emitted, **self.dynamics.start(series)}
        return {name: found[name].double() for name in self.priors}
