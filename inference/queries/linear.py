"""Exact inference for linear-Gaussian models: Kalman filter, smoother, forecasts, components.

Everything is computed in float64 on batches of sequences; nothing here is approximate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...models import LinearGaussianLaws, LinearGaussianSSM, LinearLaws, Sequences
from ...models.continuous.linear_trajectories import NormalNoise, affine_scan
from ...models.randomness import seeded
from ..exact import gaussian as exact_gaussian
from .batches import stacked

BATCH = 256
"""Sequences that are worked on at once."""


class Moments(NamedTuple):
    """Laws N(mean, covariance) of the state at every step; zero beyond the length of a sequence."""

    mean: Tensor
    """(N, T, D)."""
    covariance: Tensor
    """(N, T, D, D)."""


@dataclass(frozen=True)
class LinearForecast:
    """What comes after the end of each sequence, ``steps`` ahead: normal laws, exactly.

    ``state_mean`` (N, H, D) and ``state_covariance`` (N, H, D, D) are of the state, ``mean`` and
    ``variance`` (N, H, F) of the observations, noise included. ``draws`` (S, N, H, F) are simulated
    continuations, which answer what concerns several steps at once.
    """

    state_mean: Tensor
    state_covariance: Tensor
    mean: Tensor
    variance: Tensor
    draws: Tensor

    def quantile(self, q: float) -> Tensor:
        """Quantile of each observation, (N, H, F).

        Raises:
            ValueError: q outside (0, 1).
        """
        if not 0 < q < 1:
            raise ValueError(f"q: must be in (0, 1), got {q}")
        standard = torch.special.ndtri(torch.tensor(q, dtype=torch.float64))
        found: Tensor = self.mean + standard * self.variance.sqrt()
        return found


class Component(NamedTuple):
    """What one law of a structural model adds to the series: normal laws given all of the data."""

    mean: Tensor
    """(N, T)."""
    variance: Tensor
    """(N, T)."""


def evidence(laws: LinearGaussianLaws) -> Tensor:
    """log p(y_n) of every sequence with the states integrated out, (N,) nats; differentiable.

    With q flat directions of the first state it keeps the ½ log 2π of every observation, see
    ``LinearLaws``; the convention that drops q of them is q / 2 log 2π higher.

    Raises:
        ValueError: data that do not determine the flat directions, named with the sequence.
    """
    found: Tensor = exact_gaussian.log_evidence(*arguments(laws))
    return found


def arguments(
    laws: LinearGaussianLaws,
) -> tuple[exact_gaussian.LinearChain, Tensor, Tensor, Tensor]:
    """The matrices, values, mask and lengths that ``exact_gaussian`` works on."""
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
    return chain, laws.values.to(laws.loading), laws.mask, laws.lengths


def log_evidence(model: LinearGaussianSSM, data: Sequences) -> Tensor:
    """log p(y_n) of every sequence, (N,) nats; differentiable in the known parameters."""
    return torch.cat([evidence(laws) for laws in _laws(model, data)])


def step_log_likelihood(model: LinearGaussianSSM, data: Sequences) -> Tensor:
    """log p(y_t | y_1 … y_{t-1}), (N, T) nats; sums to the evidence, 0 where nothing is seen."""
    parts = [exact_gaussian.step_log_likelihood(*arguments(laws)) for laws in _laws(model, data)]
    return stacked(parts, data.max_length, fill=0)


def filter(model: LinearGaussianSSM, data: Sequences) -> Moments:
    """p(z_t | y_1 … y_t). Variances are infinite while a flat direction is undetermined."""

    def query(laws: LinearLaws) -> tuple[Tensor, Tensor]:
        found = exact_gaussian.filter(*arguments(laws))
        return found.means, found.covariances

    return _moments(model, data, query)


def predict(model: LinearGaussianSSM, data: Sequences) -> Moments:
    """p(z_t | y_1 … y_{t-1}). Variances are infinite while a flat direction is undetermined."""

    def query(laws: LinearLaws) -> tuple[Tensor, Tensor]:
        found = exact_gaussian.filter(*arguments(laws))
        return found.predicted_means, found.predicted_covariances

    return _moments(model, data, query)


def smooth(model: LinearGaussianSSM, data: Sequences) -> Moments:
    """p(z_t | y_1 … y_T)."""

    def query(laws: LinearLaws) -> tuple[Tensor, Tensor]:
        found = exact_gaussian.smooth(*arguments(laws))
        return found.means, found.covariances

    return _moments(model, data, query)


def standardised_innovations(model: LinearGaussianSSM, data: Sequences) -> Tensor:
    """(y_t − E[y_t | y_1 … y_{t-1}]) in independent units of variance one, (N, T, F).

    Independent N(0, 1) if the model is true. NaN where nothing was observed, or where the
    observation went into the flat directions of the first state.
    """
    parts = []
    for laws in _laws(model, data):
        innovations, known = exact_gaussian.standardised_innovations(*arguments(laws))
        parts.append(innovations.masked_fill(~known, torch.nan))
    return stacked(parts, data.max_length, fill=torch.nan)


def sample_states(
    model: LinearGaussianSSM, data: Sequences, draws: int = 1, *, seed: int | None = None
) -> Tensor:
    """Trajectories from p(z | y), (draws, N, T, D), zero beyond the length."""
    if draws < 1:
        raise ValueError(f"draws: must be >= 1, got {draws}")
    with seeded(seed):
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    parts = [
        exact_gaussian.sample_paths(*arguments(laws), n=draws, generator=generator)
        for laws in _laws(model, data)
    ]
    return stacked(parts, data.max_length, fill=0, sequence=1)


def components(model: LinearGaussianSSM, data: Sequences) -> dict[str, Component]:
    """What every law of a structural model adds to the series, given all of the data, by name.

    Raises:
        ValueError: a model whose loading is a parameter: its states have no meaning of their own.
    """
    loading = model.dynamics.loading
    if loading is None or len(loading) != 1:
        raise ValueError(f"model: needs structural components of one series, got {model}")
    mean, covariance = smooth(model, data)
    out, first = {}, 0
    for name, part in model.dynamics.parts.items():
        own = slice(first, first + part.states)
        weight = loading[0, own].to(mean)
        spread = weight @ covariance[..., own, own] @ weight
        out[name] = Component(mean[..., own] @ weight, spread)
        first += part.states
    return out


def forecast(
    model: LinearGaussianSSM,
    data: Sequences,
    steps: int,
    *,
    draws: int = 1000,
    inputs: Tensor | None = None,
    times: Tensor | None = None,
    seed: int | None = None,
) -> LinearForecast:
    """Continue every sequence by ``steps`` steps.

    Args:
        model: parameters known.
        data: what was seen.
        steps: how far ahead, H >= 1.
        draws: simulated continuations.
        inputs: covariates of the future (N, H, columns), where the model takes them.
        times: of the future, (N, H) or (H,), where the model reads them.
        seed: of the simulation.

    Raises:
        ValueError: a parameter that is not known, inputs or times that are missing, or data that
            do not determine the flat directions of the first state.
    """
    if steps < 1 or draws < 1:
        raise ValueError(f"steps, draws: must be >= 1, got {steps}, {draws}")
    model.complete({})
    model.check(data)
    longer = _continued(model, data, steps, inputs, times)
    model.check_values(longer)  # times that do not go on, matrices that are not known that far
    ahead = data.lengths.unsqueeze(-1) + torch.arange(steps)
    rows = torch.arange(len(data)).unsqueeze(-1)
    state = filter(model, longer)
    mean, covariance = state.mean[rows, ahead], state.covariance[rows, ahead]
    laws = model.laws({}, longer)
    loading, intercept, noise = (
        _along(part, ahead) for part in (laws.loading, laws.intercept, laws.observation_noise)
    )
    observed = (loading @ mean.unsqueeze(-1)).squeeze(-1) + intercept
    spread = (loading @ covariance @ loading.mT + noise).diagonal(dim1=-2, dim2=-1)
    last = rows[:, 0], data.lengths - 1
    first = Moments(state.mean[last], state.covariance[last])
    with seeded(seed):
        drawn = _simulated(laws, first, ahead, draws)
    return LinearForecast(mean, covariance, observed, spread, drawn)


def _continued(
    model: LinearGaussianSSM,
    data: Sequences,
    steps: int,
    inputs: Tensor | None,
    times: Tensor | None,
) -> Sequences:
    """The data with ``steps`` steps more in every sequence, at which nothing was observed."""
    n, total = len(data), data.max_length + steps
    rows = torch.arange(n).unsqueeze(-1)
    ahead = data.lengths.unsqueeze(-1) + torch.arange(steps)
    driven = clock = None
    if model.inputs:
        shape = (n, steps, model.inputs)
        driven = _future(data.inputs, inputs, "inputs", shape, total, (rows, ahead))
    if model.timed:
        wide = times if times is None or times.ndim == 2 else times.expand(n, steps)
        clock = _future(data.times, wide, "times", (n, steps), total, (rows, ahead))
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
    """What came and what comes, (N, total, …); the future begins where each sequence ends."""
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


def _simulated(laws: LinearLaws, first: Moments, ahead: Tensor, draws: int) -> Tensor:
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


def _laws(model: LinearGaussianSSM, data: Sequences) -> Iterator[LinearLaws]:
    """The laws of one batch after the other; what was computed for one goes with it."""
    model.complete({})  # says which parameters are not known, before anything is computed
    model.check(data)
    return (model.laws({}, batch) for batch in data.batches(BATCH))


def _moments(
    model: LinearGaussianSSM,
    data: Sequences,
    query: Callable[[LinearLaws], tuple[Tensor, Tensor]],
) -> Moments:
    means, covariances = [], []
    for laws in _laws(model, data):
        mean, covariance = query(laws)
        inside = laws.data.step_mask.unsqueeze(-1)
        means.append(torch.where(inside, mean, 0))
        covariances.append(torch.where(inside.unsqueeze(-1), covariance, 0))
    steps = data.max_length
    return Moments(stacked(means, steps, fill=0), stacked(covariances, steps, fill=0))
