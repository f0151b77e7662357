"""Exact inference for linear-Gaussian models: Kalman filter, smoother, forecasts, components.

Everything is computed in float64 on batches of sequences; nothing here is approximate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ...models import LinearGaussianLaws, LinearGaussianSSM, Model, Sequences, TrajectoryLaws
from ...models.checks import require
from ...models.continuous.linear_trajectories import NormalNoise, affine_scan
from ...models.randomness import seeded
from ..exact import gaussian as exact_gaussian
from .batches import Future, joined, laws_of, levels, stacked
from .outlook import NormalDensity, Outlook


class Moments(NamedTuple):
    """Normal laws N(mean, covariance) of the state at every step; zero beyond the length.

    Attributes:
        mean: (N, T, D), in units of the state.
        covariance: (N, T, D, D).

    >>> from beliefzoo.inference import smooth
    >>> from beliefzoo.models import LinearGaussianSSM, LocalLevel, Sequences
    >>> model = LinearGaussianSSM(LocalLevel()).with_parameters(
    ...     observation_variance=1.0, level_variance=1.0
    ... )
    >>> level = smooth(model, Sequences.from_arrays([[5.0, 6.0, 4.0]]))
    >>> level.mean.flatten().numpy().round(3), level.covariance[0, :, 0, 0].numpy().round(3)
    (array([5.125, 5.25 , 4.625]), array([0.625, 0.5  , 0.625]))
    """

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True)
class LinearForecast:
    """Forecast of a linear-Gaussian model, H steps ahead: exact normal laws; by :func:`forecast`.

    Attributes:
        state_mean: (N, H, D).
        state_covariance: (N, H, D, D).
        mean: of the observations, (N, H, F).
        variance: of the observations, noise included, (N, H, F).
        draws: simulated continuations (S, N, H, F), for questions about several steps at once.
        outlook: the exact law of the observations, for :func:`scores`.

    >>> from beliefzoo.inference import forecast
    >>> from beliefzoo.models import LinearGaussianSSM, LocalLevel, Sequences
    >>> model = LinearGaussianSSM(LocalLevel()).with_parameters(
    ...     observation_variance=1.0, level_variance=1.0
    ... )
    >>> found = forecast(model, Sequences.from_arrays([[5.0, 6.0, 4.0]]), steps=2, seed=0)
    >>> found.mean.flatten().numpy().round(3), found.variance.flatten().numpy().round(3)
    (array([4.625, 4.625]), array([2.625, 3.625]))
    >>> found.quantile(0.975).flatten().numpy().round(2)
    array([7.8 , 8.36])
    """

    state_mean: Tensor
    state_covariance: Tensor
    mean: Tensor
    variance: Tensor
    draws: Tensor
    outlook: Outlook | None = field(default=None, repr=False)

    def quantile(self, q: float | Sequence[float]) -> Tensor:
        """Returns the quantile q of each observation, (N, H, F); of several q, (Q, N, H, F).

        Raises:
            ValueError: q outside (0, 1).
        """
        level = levels(q)
        require(bool(((level > 0) & (level < 1)).all()), "q", "must be in (0, 1)", repr(q))
        standard = torch.special.ndtri(level).reshape(*level.shape, 1, 1, 1)
        found: Tensor = self.mean + standard * self.variance.sqrt()
        return found.reshape(*level.shape, *self.mean.shape)


class Component(NamedTuple):
    """Smoothed contribution of one component of a structural model to the series.

    Attributes:
        mean: (N, T, F), in units of the data.
        variance: (N, T, F).

    >>> from beliefzoo.inference import Component, components
    >>> from beliefzoo.models import LinearGaussianSSM, LocalLevel, Sequences
    >>> model = LinearGaussianSSM(LocalLevel()).with_parameters(
    ...     observation_variance=1.0, level_variance=1.0
    ... )
    >>> found = components(model, Sequences.from_arrays([[5.0, 6.0, 4.0]]))
    >>> {name: tuple(part.mean.shape) for name, part in found.items()}
    {'level': (1, 3)}
    """

    mean: Tensor
    variance: Tensor


def evidence(laws: LinearGaussianLaws) -> Tensor:
    """log p(y_n) of every sequence with the states integrated out, (N,) nats; differentiable.

    With q flat directions of the first state it counts ½ log 2π for every observation, see
    ``LinearLaws``; the convention that leaves q of them out is higher by q / 2 log 2π.

    Raises:
        ValueError: data that do not determine the flat directions; names the sequence.
    """
    found: Tensor = exact_gaussian.log_evidence(*arguments(laws))
    return found


def evidences(laws: Sequence[LinearGaussianLaws]) -> Tensor:
    """log p(y) of one series under many laws, (laws,) nats; in one recursion, differentiable.

    Raises:
        ValueError: laws of several series, or whose first states differ in their flat directions.
    """
    chains, values, mask, lengths = zip(*map(arguments, laws), strict=True)
    same = all(torch.equal(one.diffuse, chains[0].diffuse) for one in chains)
    alike = len(lengths[0]) == 1 and same
    require(alike, "laws", "must be of one series, with the same flat directions", len(lengths[0]))
    parts = [torch.cat(each) for each in zip(*chains, strict=True)]
    chain = exact_gaussian.LinearChain(*parts)._replace(diffuse=chains[0].diffuse)
    found: Tensor = exact_gaussian.log_evidence(chain, *map(torch.cat, (values, mask, lengths)))
    return found


def arguments(
    laws: LinearGaussianLaws,
) -> tuple[exact_gaussian.LinearChain, Tensor, Tensor, Tensor]:
    """The matrices, values, mask and lengths for ``exact.gaussian``."""
    chain = exact_gaussian.LinearChain(
        laws.initial_mean,
        laws.initial_covariance,
        laws.diffuse,
        laws.transition,
        laws.offset,
        laws.noise,
        laws.loading,
        laws.intercept,
        laws.observation_noise,
    )
    values = laws.values.to(laws.loading.device)
    if values.dtype != torch.float64:  # others keep their digits, beside matrices of any precision
        values = values.to(laws.loading.dtype)
    return chain, values, laws.mask, laws.lengths


def require_linear(laws: TrajectoryLaws) -> LinearGaussianLaws:
    """Returns the laws as linear-Gaussian ones; raises ``ValueError`` if they are not."""
    if laws.linear is None:
        raise ValueError(f"model: needs linear-Gaussian laws, got {type(laws).__name__}")
    return laws.linear


def standardised_innovations(model: LinearGaussianSSM, data: Sequences) -> Tensor:
    """Standardised one-step prediction errors, (y_t − E[y_t | past]) / sd(y_t | past).

    They are independent N(0, 1) if the model is true; several features of a step are standardised
    one after the other.

    Args:
        model: a linear-Gaussian model with known parameters.
        data: N series of at most T steps and F features.

    Returns:
        (N, T, F) float64; NaN where nothing was observed, or where the observation determines the
        flat directions of the first state.

    Raises:
        ValueError: an unknown parameter, or data that the model cannot emit.

    >>> from beliefzoo.inference import standardised_innovations
    >>> from beliefzoo.models import LinearGaussianSSM, LocalLevel, Sequences
    >>> model = LinearGaussianSSM(LocalLevel()).with_parameters(
    ...     observation_variance=1.0, level_variance=1.0
    ... )
    >>> data = Sequences.from_arrays([[5.0, 6.0, 4.0]])
    >>> standardised_innovations(model, data).flatten().numpy().round(3)
    array([   nan,  0.577, -1.021])
    """
    parts = []
    for laws in laws_of(model, data):
        given = arguments(require_linear(laws))
        innovations, known = exact_gaussian.standardised_innovations(*given)
        parts.append(innovations.masked_fill(~known, torch.nan))
    return stacked(parts, data.max_length, fill=torch.nan)


def components(model: LinearGaussianSSM, data: Sequences) -> dict[str, Component]:
    """Decomposes series into the contributions of a structural model's components.

    Each is the law given all data of the part of E[y_t] that one component adds.

    Args:
        model: a structural model with known parameters.
        data: N series of at most T steps.

    Returns:
        Means and variances by the name of the component.

    Raises:
        ValueError: a model whose loading is a parameter: its states have no meaning of their own.

    Source: Harvey (1989).

    >>> from beliefzoo.inference import components
    >>> from beliefzoo.models import LinearGaussianSSM, LocalLevel, Seasonal, Sequences
    >>> model = LinearGaussianSSM(LocalLevel() + Seasonal(2)).with_parameters(
    ...     observation_variance=0.01, level_variance=0.1, seasonal_variance=0.01
    ... )
    >>> found = components(model, Sequences.from_arrays([[11.0, 9.0, 11.2, 8.8, 11.1, 9.0]]))
    >>> {name: part.mean.flatten().numpy().round(1)[:4] for name, part in found.items()}
    {'level': array([ 9.9, 10.1, 10.1,  9.9]), 'seasonal': array([ 1.1, -1.1,  1.1, -1.1])}
    """
    loading = getattr(getattr(model, "dynamics", None), "loading", None)
    if loading is None or len(loading) != 1:
        raise ValueError(f"model: needs structural components of one series, got {model}")
    found = [LinearAnswers(require_linear(laws)).smooth() for laws in laws_of(model, data)]
    mean, covariance = joined(found, data.max_length)
    out, first = {}, 0
    for name, part in model.dynamics.parts.items():
        own = slice(first, first + part.states)
        weight = loading[0, own].to(mean)
        spread = weight @ covariance[..., own, own] @ weight
        out[name] = Component(mean[..., own] @ weight, spread)
        first += part.states
    return out


@dataclass(frozen=True)
class LinearAnswers:
    """Answers for linear-Gaussian laws: beliefs are ``Moments``.

    Variances of filter and prediction are infinite as long as a flat direction is undetermined.
    """

    laws: LinearGaussianLaws

    def log_evidence(self) -> Tensor:
        return evidence(self.laws)

    def step_log_likelihood(self) -> Tensor:
        return exact_gaussian.step_log_likelihood(*arguments(self.laws))

    def filter(self) -> Moments:
        found = exact_gaussian.filter(*arguments(self.laws))
        return self._within(found.means, found.covariances)

    def predict(self) -> Moments:
        found = exact_gaussian.filter(*arguments(self.laws))
        return self._within(found.predicted_means, found.predicted_covariances)

    def smooth(self) -> Moments:
        found = exact_gaussian.smooth(*arguments(self.laws))
        return self._within(found.means, found.covariances)

    def _within(self, mean: Tensor, covariance: Tensor) -> Moments:
        inside = self.laws.data.step_mask.unsqueeze(-1)
        return Moments(
            torch.where(inside, mean, 0), torch.where(inside.unsqueeze(-1), covariance, 0)
        )

    def sample_states(self, draws: int, generator: torch.Generator) -> Tensor:
        return exact_gaussian.sample_paths(*arguments(self.laws), n=draws, generator=generator)

    def forecast(self, model: Model, data: Sequences, future: Future) -> LinearForecast:
        longer = _continued(model, data, future)
        model.check_values(longer)  # increasing times, matrices known so far ahead
        ahead = data.lengths.unsqueeze(-1) + torch.arange(future.steps)
        rows = torch.arange(len(data)).unsqueeze(-1)
        beliefs = [LinearAnswers(require_linear(laws)).filter() for laws in laws_of(model, longer)]
        state: Moments = joined(beliefs, longer.max_length)
        mean, covariance = state.mean[rows, ahead], state.covariance[rows, ahead]
        laws = require_linear(model.laws({}, longer))
        loading, intercept, noise = (
            _along(part, ahead) for part in (laws.loading, laws.intercept, laws.observation_noise)
        )
        observed = (loading @ mean.unsqueeze(-1)).squeeze(-1) + intercept
        spread = loading @ covariance @ loading.mT + noise
        last = rows[:, 0], data.lengths - 1
        first = Moments(state.mean[last], state.covariance[last])
        with seeded(future.seed):
            drawn = _simulated(laws, first, ahead, future.draws)
        outlook = Outlook(model, (len(data), future.steps), NormalDensity(observed, spread))
        variance = spread.diagonal(dim1=-2, dim2=-1)
        return LinearForecast(mean, covariance, observed, variance, drawn, outlook)


def _continued(model: Model, data: Sequences, future: Future) -> Sequences:
    """The data with ``steps`` more steps in every sequence, at which nothing was observed."""
    n, steps, times = len(data), future.steps, future.times
    total = data.max_length + steps
    rows = torch.arange(n).unsqueeze(-1)
    ahead = data.lengths.unsqueeze(-1) + torch.arange(steps)
    driven = clock = None
    if model.inputs:
        shape = (n, steps, model.inputs)
        driven = _future(data.inputs, future.inputs, "inputs", shape, total, (rows, ahead))
    if model.timed:
        clock = _future(data.times, times, "times", (n, steps), total, (rows, ahead))
    values = data.values.new_zeros(n, total, data.n_features)
    values[:, : data.max_length] = data.values
    mask = torch.zeros_like(values, dtype=torch.bool)
    mask[:, : data.max_length] = data.mask
    return Sequences.from_tensors(
        values,
        mask,
        data.lengths + steps,
        times=clock,
        inputs=driven,
        labels=data.labels,
        features=data.features,
    )


def _future(
    past: Tensor | None,
    future: Tensor | None,
    name: str,
    shape: tuple[int, ...],
    total: int,
    place: tuple[Tensor, Tensor],
) -> Tensor:
    """Past and future values, (N, total, …); the future begins where each sequence ends."""
    assert past is not None  # checked with the data
    if future is None or tuple(future.shape) != shape:
        came = None if future is None else tuple(future.shape)
        raise ValueError(f"{name}: forecasting needs those of the future, {shape}, got {came}")
    out = past.new_zeros(len(past), total, *past.shape[2:])
    out[:, : past.shape[1]] = past
    out[place] = future.to(past)
    return out


def _along(part: Tensor, index: Tensor) -> Tensor:
    """Entries of (N|1, T|1, …) at steps (N, H), (N|1, H|1, …)."""
    if part.shape[1] == 1:
        return part
    rows = torch.arange(len(index)).unsqueeze(-1) if len(part) > 1 else torch.zeros_like(index)
    return part[rows, index]


def _simulated(laws: LinearGaussianLaws, first: Moments, ahead: Tensor, draws: int) -> Tensor:
    """Continuations of the laws from the last state seen, (draws, N, H, F)."""
    moves = (_along(part, ahead - 1) for part in (laws.transition, laws.offset, laws.noise))
    transition, offset, noise = moves
    loading, intercept, readout = (
        _along(part, ahead) for part in (laws.loading, laws.intercept, laws.observation_noise)
    )
    n, steps, size = *ahead.shape, laws.size
    start = first.mean + _draws(first.covariance, draws)
    like = start.new_empty(draws, n, steps, size)
    shift = offset + NormalNoise(noise, "noise").draw(like)
    paths = affine_scan(transition, shift, start)[:, :, 1:]
    mean = (loading @ paths.unsqueeze(-1)).squeeze(-1) + intercept
    return mean + NormalNoise(readout, "observation_noise").draw(mean)


def _draws(covariance: Tensor, draws: int) -> Tensor:
    """Draws of N(0, covariance), (draws, N, D), for matrices that may be singular.

    Raises:
        ValueError: infinite variances: flat directions that the data do not determine.
    """
    undetermined = ~covariance.isfinite().all(-1).all(-1)
    if bool(undetermined.any()):
        raise ValueError(
            "data: too few observations to determine the flat directions of the first state in "
            f"sequence {int(undetermined.nonzero()[0])}"
        )
    value, vector = torch.linalg.eigh(covariance)
    root = vector * value.clamp_min(0).sqrt().unsqueeze(-2)
    noise = torch.randn(draws, *covariance.shape[:-1], 1, dtype=covariance.dtype)
    drawn: Tensor = (root @ noise).squeeze(-1)
    return drawn
