"""Exact inference in words of the field: a model with known parameters, and data.

Everything is computed in float64 on batches of sequences; nothing here is approximate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from ...models import (
    ActionEmission,
    GeneratorTransition,
    HiddenMarkovModel,
    Laws,
    LinearGaussianSSM,
    Model,
    Regression,
    Sequences,
    SwitchingLinearSSM,
)
from ...models.checks import require
from ...models.randomness import seeded
from ...models.trajectories import sample_chain
from ..exact import chains as exact
from . import linear as linear_queries
from . import structures
from .batches import stacked, times_ahead
from .linear import LinearForecast, Moments
from .mixture_kalman import RegimeForecast, forecast_regimes

BATCH = 256
"""Sequences that are worked on at once."""


class MostLikely(NamedTuple):
    """Viterbi's answer: states int64 (N, T), −1 beyond the length; log p(y, states) (N,)."""

    states: Tensor
    log_joint: Tensor


@dataclass(frozen=True)
class Forecast:
    """What comes after the end of each sequence, ``steps`` ahead.

    ``state_probability`` (N, H, K) is exact. ``mean`` (N, H, F) is the expected observation (for
    codes the probability of each symbol): exact, but with inputs or lags in the emission the mean
    of the draws (for codes then None). ``draws`` (S, N, H[, F]) are simulated continuations, which
    answer every other question.
    """

    state_probability: Tensor
    mean: Tensor | None
    draws: Tensor

    def quantile(self, q: float) -> Tensor:
        """Quantile of the draws, (N, H[, F])."""
        return torch.quantile(self.draws.double(), q, dim=0)


def log_evidence(model: Model, data: Sequences) -> Tensor:
    """log p(y_n) of every sequence with the states summed out, (N,) nats.

    Differentiable in the known parameters. With inputs: given the inputs.

    Raises:
        ValueError: a parameter is not known, or data that the model cannot emit.
    """
    if isinstance(model, LinearGaussianSSM):
        return linear_queries.log_evidence(model, data)
    if not isinstance(model, HiddenMarkovModel):
        raise _inexact(model)
    return _over_batches(model, data, lambda laws: structures.log_evidence(model, laws))


@overload
def filter(model: HiddenMarkovModel, data: Sequences) -> Tensor: ...
@overload
def filter(model: LinearGaussianSSM, data: Sequences) -> Moments: ...
@overload
def filter(model: Model, data: Sequences) -> Any: ...
def filter(model: Model, data: Sequences) -> Any:
    """p(z_t | y_1 … y_t), (N, T, K), or its ``Moments``; zero beyond the length of a sequence."""
    if isinstance(model, LinearGaussianSSM):
        return linear_queries.filter(model, data)
    if not isinstance(model, HiddenMarkovModel):
        raise _inexact(model)
    return _over_batches(
        model, data, lambda laws: _within(laws, structures.filter_chain(model, laws).log_beliefs)
    )


@overload
def predict(model: HiddenMarkovModel, data: Sequences) -> Tensor: ...
@overload
def predict(model: LinearGaussianSSM, data: Sequences) -> Moments: ...
@overload
def predict(model: Model, data: Sequences) -> Any: ...
def predict(model: Model, data: Sequences) -> Any:
    """p(z_t | y_1 … y_{t-1}), (N, T, K), or its ``Moments``; zero beyond the length."""
    if isinstance(model, LinearGaussianSSM):
        return linear_queries.predict(model, data)
    if not isinstance(model, HiddenMarkovModel):
        raise _inexact(model)
    return _over_batches(
        model, data, lambda laws: _within(laws, structures.filter_chain(model, laws).log_predicted)
    )


@overload
def smooth(model: HiddenMarkovModel, data: Sequences) -> Tensor: ...
@overload
def smooth(model: LinearGaussianSSM, data: Sequences) -> Moments: ...
@overload
def smooth(model: Model, data: Sequences) -> Any: ...
def smooth(model: Model, data: Sequences) -> Any:
    """p(z_t | y_1 … y_T), (N, T, K), or its ``Moments``; zero beyond the length of a sequence."""
    if isinstance(model, LinearGaussianSSM):
        return linear_queries.smooth(model, data)
    if not isinstance(model, HiddenMarkovModel):
        raise _inexact(model)
    return _over_batches(
        model, data, lambda laws: _within(laws, structures.smooth_chain(model, laws))
    )


def smooth_pairs(model: HiddenMarkovModel, data: Sequences) -> Tensor:
    """p(z_t, z_{t+1} | y), (N, T-1, K, K): the only result with a (from, to) table per step."""
    return _over_batches(model, data, lambda laws: exact.pair_marginals(*laws.chain), pad_from=1)


def step_log_likelihood(model: Model, data: Sequences) -> Tensor:
    """log p(y_t | y_1 … y_{t-1}), (N, T) nats; sums to the evidence, 0 where nothing is seen."""
    if isinstance(model, LinearGaussianSSM):
        return linear_queries.step_log_likelihood(model, data)
    if not isinstance(model, HiddenMarkovModel):
        raise _inexact(model)
    return _over_batches(
        model, data, lambda laws: structures.filter_chain(model, laws).log_increments
    )


def most_likely_states(model: HiddenMarkovModel, data: Sequences) -> MostLikely:
    """The single most probable path of every sequence (Viterbi)."""
    found = [exact.most_likely_path(*laws.chain) for laws in _laws(model, data)]
    paths = stacked([path for path, _ in found], data.max_length, fill=-1)
    return MostLikely(paths, torch.cat([joint for _, joint in found]))


def sample_states(
    model: Model, data: Sequences, draws: int = 1, *, seed: int | None = None
) -> Tensor:
    """Paths from p(z | y), int64 (draws, N, T), −1 beyond the length; (draws, N, T, D), 0 there."""
    if isinstance(model, LinearGaussianSSM):
        return linear_queries.sample_states(model, data, draws, seed=seed)
    if not isinstance(model, HiddenMarkovModel):
        raise _inexact(model)
    if draws < 1:
        raise ValueError(f"draws: must be >= 1, got {draws}")
    with seeded(seed):
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    parts = [_paths(laws, draws, generator) for laws in _laws(model, data)]
    return stacked(parts, data.max_length, fill=-1, sequence=1)


@overload
def forecast(
    model: HiddenMarkovModel,
    data: Sequences,
    steps: int,
    *,
    draws: int = 1000,
    inputs: Tensor | None = None,
    times: Tensor | None = None,
    actions: Tensor | None = None,
    seed: int | None = None,
) -> Forecast: ...
@overload
def forecast(
    model: LinearGaussianSSM,
    data: Sequences,
    steps: int,
    *,
    draws: int = 1000,
    inputs: Tensor | None = None,
    times: Tensor | None = None,
    actions: Tensor | None = None,
    seed: int | None = None,
) -> LinearForecast: ...
@overload
def forecast(
    model: SwitchingLinearSSM,
    data: Sequences,
    steps: int,
    *,
    draws: int = 1000,
    inputs: Tensor | None = None,
    times: Tensor | None = None,
    actions: Tensor | None = None,
    seed: int | None = None,
) -> RegimeForecast: ...
@overload
def forecast(
    model: Model,
    data: Sequences,
    steps: int,
    *,
    draws: int = 1000,
    inputs: Tensor | None = None,
    times: Tensor | None = None,
    actions: Tensor | None = None,
    seed: int | None = None,
) -> Any: ...
def forecast(
    model: Model,
    data: Sequences,
    steps: int,
    *,
    draws: int = 1000,
    inputs: Tensor | None = None,
    times: Tensor | None = None,
    actions: Tensor | None = None,
    seed: int | None = None,
) -> Any:
    """Continue every sequence by ``steps`` steps.

    Args:
        model: parameters known.
        data: what was seen.
        steps: how far ahead, H >= 1.
        draws: simulated continuations.
        inputs: covariates of the future (N, H, columns), where the model takes them.
        times: of these steps (N, H), later than all that was seen, where the model reads them.
        actions: of these steps (N, H), where the model reads them. The first of them is driven by
            the last action of the data; the last one drives nothing.
        seed: of the simulation.

    Raises:
        ValueError: unknown parameters, data that the model cannot emit, or inputs, times or actions
            of the future that it does not read, or lacks.
    """
    require(
        actions is None or model.actions > 0,
        "actions",
        f"{model} reads none",
        type(actions).__name__,
    )
    if isinstance(model, LinearGaussianSSM):
        return linear_queries.forecast(
            model, data, steps, draws=draws, inputs=inputs, times=times, seed=seed
        )
    if isinstance(model, SwitchingLinearSSM):
        return forecast_regimes(model, data, steps, draws=draws, inputs=inputs, seed=seed)
    if not isinstance(model, HiddenMarkovModel):
        raise ValueError(
            "model: needs one whose last states have a known law, or a switching model; of a deep "
            f"model see DeepGuide.forecast, got {model}"
        )
    if steps < 1 or draws < 1:
        raise ValueError(f"steps, draws: must be >= 1, got {steps}, {draws}")
    model.complete({})
    model.check(data)
    if not (
        model.inputs or model.timed or model.actions
    ):  # laws may be for sequences of some length alone
        whole = model.observations.blank(1, int(data.lengths.max()) + steps)
        model.transition.check(Sequences.from_tensors(whole, codes=data.is_codes))
    future = _future(model, data, steps, inputs, times, actions)
    last = filter(model, data)[torch.arange(len(data)), data.lengths - 1]
    ahead = model.laws({}, future)
    states = exact.predict_states(last.log(), ahead.matrices, steps, ahead.choice).exp()
    copies = torch.arange(len(data)).repeat(draws)
    laws = model.laws({}, future[copies])
    with seeded(seed):
        chain = last.log()[copies], laws.matrices
        paths = sample_chain(*chain, len(copies), steps + 1, choice=laws.choice)
        drawn = laws.draw(paths, past=_past(model, data[copies]))
    drawn = drawn.reshape(draws, len(data), *drawn.shape[1:])
    if isinstance(model.emission, Regression):
        mean = None if model.emission.codes else drawn.double().mean(0)
    else:
        mean = _expected(ahead, states)
    return Forecast(states, mean, drawn)


def _expected(ahead: Laws, states: Tensor) -> Tensor:
    """E[y] of future steps, (N, H, F), from the probabilities of their states (N, H, K)."""
    mean = ahead.emission.mean(ahead.parameters)
    if not isinstance(ahead.emission, ActionEmission):
        return states @ mean
    assert ahead.data.actions is not None  # checked; those of the last step and of all but the end
    return torch.einsum("nhk,nhkf->nhf", states, mean[ahead.data.actions[:, :-1]])


def _inexact(model: Model) -> ValueError:
    return ValueError(
        "model: needs one whose hidden states can be integrated out exactly; for others see "
        f"weighted_evidence, got {model}"
    )


def _future(
    model: HiddenMarkovModel,
    data: Sequences,
    steps: int,
    inputs: Tensor | None,
    times: Tensor | None,
    actions: Tensor | None,
) -> Sequences:
    """The last step of every sequence, which drives the first transition, and those to come."""
    y = data.values.new_zeros(len(data), steps + 1, *data.values.shape[2:])
    rows, last = torch.arange(len(data)), data.lengths - 1
    along = {}
    if model.inputs:
        shape = (len(data), steps, model.inputs)
        came = None if inputs is None else tuple(inputs.shape)
        if inputs is None or came != shape:
            raise ValueError(
                f"inputs: forecasting needs future covariates of shape {shape}, got {came}"
            )
        assert data.inputs is not None  # checked with the data
        before = data.inputs[rows, last]
        along["inputs"] = torch.cat([before.unsqueeze(1), inputs.to(before)], 1)
    if model.actions:
        assert data.actions is not None  # checked with the data
        require_future_actions(model, (len(data), steps), actions)
        assert isinstance(actions, Tensor)
        along["actions"] = torch.cat([data.actions[rows, last].unsqueeze(1), actions], 1)
    if model.timed:
        assert data.times is not None  # checked with the data
        along["times"] = times_ahead(data.times[rows, last], steps, times)
    future = Sequences.from_tensors(y, codes=data.is_codes, **along)
    law = model.transition
    return law.scheduled(future) if isinstance(law, GeneratorTransition) else future


def require_future_actions(model: Model, shape: tuple[int, int], actions: Tensor | None) -> None:
    """Raise ``ValueError`` unless these are actions for so many sequences and steps."""
    came = tuple(actions.shape) if isinstance(actions, Tensor) else type(actions).__name__
    whole = isinstance(actions, Tensor) and not actions.is_floating_point()
    requirement = f"forecasting needs those of future steps, whole numbers of shape {shape}"
    require(whole and came == shape, "actions", requirement, came)
    assert isinstance(actions, Tensor)
    outside = (actions < 0) | (actions >= model.actions)
    requirement = f"must be 0 to {model.actions - 1}"
    require(not bool(outside.any()), "actions", requirement, actions[outside][:1].tolist())


def _past(model: HiddenMarkovModel, data: Sequences) -> tuple[Tensor, Tensor]:
    """The last observations of every sequence, as many as the emission looks back on."""
    y, mask = model.emission.observed(data)
    lags = model.emission.lags
    place = data.lengths.unsqueeze(-1) - lags + torch.arange(lags)
    rows = torch.arange(len(data)).unsqueeze(-1)
    past, seen = y[rows, place.clamp_min(0)], mask[rows, place.clamp_min(0)]
    before = place < 0
    return past, seen & ~(before.unsqueeze(-1) if seen.ndim == 3 else before)


def _paths(laws: Laws, draws: int, generator: torch.Generator) -> Tensor:
    return exact.sample_paths(**laws.chain._asdict(), n=draws, generator=generator)


def _within(laws: Laws, log_probability: Tensor) -> Tensor:
    return log_probability.exp() * laws.data.step_mask.unsqueeze(-1)


def _laws(model: HiddenMarkovModel, data: Sequences) -> Iterator[Laws]:
    """The laws of one batch after the other; what was computed for one goes with it."""
    model.complete({})  # says which parameters are not known, before anything is computed
    model.check(data)
    return (model.laws({}, batch) for batch in data.batches(BATCH))


def _over_batches(
    model: HiddenMarkovModel,
    data: Sequences,
    query: Callable[[Laws], Tensor],
    *,
    pad_from: int = 0,
) -> Tensor:
    parts = [query(laws) for laws in _laws(model, data)]
    if parts[0].ndim == 1:
        return torch.cat(parts)
    return stacked(parts, data.max_length - pad_from, fill=0)
