"""Exact inference in words of the field: a model with known parameters, and data.

Everything is computed in float64 on batches of sequences; nothing here is approximate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypedDict, Unpack, overload

import torch
from torch import Tensor

from ...models import (
    HiddenMarkovModel,
    LinearGaussianSSM,
    Model,
    Sequences,
    SwitchingLinearSSM,
)
from ...models.checks import require
from ...models.randomness import seeded
from ..exact import chains as exact
from .batches import Answer, Future, joined, laws_of, stacked
from .chains import Forecast, require_discrete
from .kinds import Answers, answers_to, inexact
from .linear import LinearForecast, Moments
from .mixture_kalman import RegimeForecast, forecast_regimes


class MostLikely(NamedTuple):
    """Viterbi's answer: states int64 (N, T), −1 beyond the length; log p(y, states) (N,)."""

    states: Tensor
    log_joint: Tensor


def log_evidence(model: Model, data: Sequences) -> Tensor:
    """log p(y_n) of every sequence with the states summed out, (N,) nats.

    Differentiable in the known parameters. With inputs: given the inputs.

    Raises:
        ValueError: a parameter is not known, or data that the model cannot emit.
    """
    return _answered(model, data, lambda answers: answers.log_evidence())


@overload
def filter(model: HiddenMarkovModel, data: Sequences) -> Tensor: ...
@overload
def filter(model: LinearGaussianSSM, data: Sequences) -> Moments: ...
@overload
def filter(model: Model, data: Sequences) -> Any: ...
def filter(model: Model, data: Sequences) -> Any:
    """p(z_t | y_1 … y_t), (N, T, K), or its ``Moments``; zero beyond the length of a sequence."""
    return _answered(model, data, lambda answers: answers.filter())


@overload
def predict(model: HiddenMarkovModel, data: Sequences) -> Tensor: ...
@overload
def predict(model: LinearGaussianSSM, data: Sequences) -> Moments: ...
@overload
def predict(model: Model, data: Sequences) -> Any: ...
def predict(model: Model, data: Sequences) -> Any:
    """p(z_t | y_1 … y_{t-1}), (N, T, K), or its ``Moments``; zero beyond the length."""
    return _answered(model, data, lambda answers: answers.predict())


@overload
def smooth(model: HiddenMarkovModel, data: Sequences) -> Tensor: ...
@overload
def smooth(model: LinearGaussianSSM, data: Sequences) -> Moments: ...
@overload
def smooth(model: Model, data: Sequences) -> Any: ...
def smooth(model: Model, data: Sequences) -> Any:
    """p(z_t | y_1 … y_T), (N, T, K), or its ``Moments``; zero beyond the length of a sequence."""
    return _answered(model, data, lambda answers: answers.smooth())


def smooth_pairs(model: HiddenMarkovModel, data: Sequences) -> Tensor:
    """p(z_t, z_{t+1} | y), (N, T-1, K, K): the only result with a (from, to) table per step."""
    parts = [exact.pair_marginals(*require_discrete(laws).chain) for laws in laws_of(model, data)]
    return stacked(parts, data.max_length - 1, fill=0)


def step_log_likelihood(model: Model, data: Sequences) -> Tensor:
    """log p(y_t | y_1 … y_{t-1}), (N, T) nats; sums to the evidence, 0 where nothing is seen."""
    return _answered(model, data, lambda answers: answers.step_log_likelihood())


def most_likely_states(model: HiddenMarkovModel, data: Sequences) -> MostLikely:
    """The single most probable path of every sequence (Viterbi)."""
    chains = [require_discrete(laws).chain for laws in laws_of(model, data)]
    found = [exact.most_likely_path(*chain) for chain in chains]
    paths = stacked([path for path, _ in found], data.max_length, fill=-1)
    return MostLikely(paths, torch.cat([joint for _, joint in found]))


def sample_states(
    model: Model, data: Sequences, draws: int = 1, *, seed: int | None = None
) -> Tensor:
    """Paths from p(z | y), int64 (draws, N, T), −1 beyond the length; (draws, N, T, D), 0 there."""
    if draws < 1:
        raise ValueError(f"draws: must be >= 1, got {draws}")
    with seeded(seed):
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    parts = [answers.sample_states(draws, generator) for answers in _answers(model, data)]
    fill = 0 if parts[0].is_floating_point() else -1
    return stacked(parts, data.max_length, fill=fill, sequence=1)


class _Ahead(TypedDict, total=False):
    """What may be told of the future, see ``forecast``."""

    draws: int
    inputs: Tensor | None
    times: Tensor | None
    actions: Tensor | None
    seed: int | None


@overload
def forecast(
    model: HiddenMarkovModel, data: Sequences, steps: int, **ahead: Unpack[_Ahead]
) -> Forecast: ...
@overload
def forecast(
    model: LinearGaussianSSM, data: Sequences, steps: int, **ahead: Unpack[_Ahead]
) -> LinearForecast: ...
@overload
def forecast(
    model: SwitchingLinearSSM, data: Sequences, steps: int, **ahead: Unpack[_Ahead]
) -> RegimeForecast: ...
@overload
def forecast(model: Model, data: Sequences, steps: int, **ahead: Unpack[_Ahead]) -> Any: ...
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
    if steps < 1 or draws < 1:
        raise ValueError(f"steps, draws: must be >= 1, got {steps}, {draws}")
    future = Future(steps, draws, inputs, times, actions, seed)
    model.complete({})
    model.check(data)
    if isinstance(model, SwitchingLinearSSM):
        return forecast_regimes(model, data, future)
    return answers_to(model.laws({}, data[:1])).forecast(model, data, future)


def _answers(model: Model, data: Sequences) -> Iterator[Answers]:
    """The answers of one batch after the other."""
    if not model.exact:
        raise inexact(model)
    return (answers_to(laws) for laws in laws_of(model, data))


def _answered(model: Model, data: Sequences, query: Callable[[Answers], Answer]) -> Answer:
    return joined([query(answers) for answers in _answers(model, data)], data.max_length)
