"""Exact inference for a model with known parameters and data.

Everything is computed in float64 on batches of sequences; nothing here is approximate.

An observation may have probability 0 given those before it. The log evidence is then −∞, which is
its value; the laws that the other queries ask for are not defined, and their argument
``impossible`` says what to do: the default raises an error that names sequence and step.
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
from ...models.checks import Impossible, require_choice, require_count
from ...models.model import Number
from ...models.randomness import generator_from
from ..exact import chains as exact
from .batches import BATCH, Answer, future_of, joined, laws_of, require_data, require_model, stacked
from .chains import Forecast, require_discrete
from .kinds import Answers, answers_to, inexact
from .linear import LinearForecast, Moments
from .mixture_kalman import RegimeForecast, forecast_regimes
from .possible import possible_data, possible_laws


class MostLikely(NamedTuple):
    """Most likely paths, by the Viterbi algorithm.

    Attributes:
        states: int64 (N, T), −1 beyond the length of a sequence.
        log_joint: log p(y, states), (N,) nats.

    >>> from beliefzoo.inference import most_likely_states
    >>> from beliefzoo.models import golden_mean
    >>> model = golden_mean().model
    >>> found = most_likely_states(model, model.sample(3, 10, seed=0).data)
    >>> found.states.shape, found.log_joint.shape
    (torch.Size([3, 10]), torch.Size([3]))
    """

    states: Tensor
    log_joint: Tensor


def log_evidence(model: Model, data: Sequences) -> Tensor:
    """Log evidence log p(y_n) of every sequence, with the states summed out.

    Differentiable in the known parameters. If the model has inputs, it is given the inputs. It is
    −∞ for data of probability 0, with gradient zero: that is the value, which searches over
    parameters and comparisons of models need. Queries about the states raise an error there, see
    :func:`filter`, which names the step.

    Args:
        model: a model with exact inference and known parameters.
        data: N sequences.

    Returns:
        Nats, (N,) float64; −∞ where the data are impossible.

    Raises:
        ValueError: an unknown parameter, or data that the model cannot emit.

    >>> from beliefzoo.inference import log_evidence
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> data = Sequences.from_arrays([[1, 0, 2, 9, 8], [9, 8, 1]])
    >>> for rate in ([1.0, 9.0], [4.0, 5.0]):
    ...     model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...         initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=rate
    ...     )
    ...     log_evidence(model, data).numpy().round(2)
    array([-11.03,  -8.13])
    array([-16.29,  -9.76])
    """
    require_model(model)
    if not model.exact:
        raise inexact(model)
    parts = [answers_to(laws).log_evidence() for laws in laws_of(model, data)]
    return joined(parts, data.max_length)


@overload
def filter(
    model: HiddenMarkovModel, data: Sequences, *, impossible: Impossible = ...
) -> Tensor: ...
@overload
def filter(
    model: LinearGaussianSSM, data: Sequences, *, impossible: Impossible = ...
) -> Moments: ...
@overload
def filter(model: Model, data: Sequences, *, impossible: Impossible = ...) -> Any: ...
def filter(model: Model, data: Sequences, *, impossible: Impossible = "raise") -> Any:
    """Filtered beliefs p(z_t | y_1 … y_t).

    Args:
        model: a model with exact inference and known parameters.
        data: N sequences of at most T steps.
        impossible: at an observation of probability 0 given those before it, ``"raise"`` a
            ``ValueError`` that names sequence and step, or treat it as ``"missing"``.

    Returns:
        Probabilities (N, T, K) of discrete states, or the :class:`Moments` of continuous ones;
        zero beyond the length of a sequence.

    Raises:
        ValueError: an unknown parameter, or data that the model cannot emit.

    >>> from beliefzoo.inference import filter
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[2.0, 6.0]
    ... )
    >>> filter(model, Sequences.from_arrays([[2, 4, 7]])).numpy().round(3)[0]
    array([[0.858, 0.142],
           [0.713, 0.287],
           [0.048, 0.952]])
    """
    return _answered(model, data, impossible, lambda answers: answers.filter())


@overload
def predict(
    model: HiddenMarkovModel, data: Sequences, *, impossible: Impossible = ...
) -> Tensor: ...
@overload
def predict(
    model: LinearGaussianSSM, data: Sequences, *, impossible: Impossible = ...
) -> Moments: ...
@overload
def predict(model: Model, data: Sequences, *, impossible: Impossible = ...) -> Any: ...
def predict(model: Model, data: Sequences, *, impossible: Impossible = "raise") -> Any:
    """One-step predictions p(z_t | y_1 … y_{t-1}).

    Where the time of a step is itself an observation, that of entering an exact state of a
    ``ContinuousTimeHMM``, it is what a visit at that time would find.

    Args:
        model: a model with exact inference and known parameters.
        data: N sequences of at most T steps.
        impossible: at an observation of probability 0 given those before it, ``"raise"`` a
            ``ValueError`` that names sequence and step, or treat it as ``"missing"``.

    Returns:
        Probabilities (N, T, K) of discrete states, or the :class:`Moments` of continuous ones;
        zero beyond the length. At the first step it is p(z_1).

    Raises:
        ValueError: an unknown parameter, or data that the model cannot emit.

    >>> from beliefzoo.inference import predict
    >>> from beliefzoo.models import LinearGaussianSSM, LocalLevel, Sequences
    >>> model = LinearGaussianSSM(LocalLevel()).with_parameters(
    ...     observation_variance=1.0, level_variance=1.0
    ... )
    >>> found = predict(model, Sequences.from_arrays([[5.0, 6.0, 4.0]]))
    >>> found.mean[0, :, 0].numpy().round(3), found.covariance.flatten().numpy().round(3)
    (array([0.   , 5.   , 5.667]), array([  inf, 2.   , 1.667]))
    """
    found = _answered(model, data, impossible, lambda answers: answers.predict())
    planned = model.scheduled(data)
    if planned is data:
        return found
    before = filter(model, data, impossible=impossible)
    return torch.cat([found[:, :1], _moved(model, planned, before)], 1)


@overload
def smooth(
    model: HiddenMarkovModel, data: Sequences, *, impossible: Impossible = ...
) -> Tensor: ...
@overload
def smooth(
    model: LinearGaussianSSM, data: Sequences, *, impossible: Impossible = ...
) -> Moments: ...
@overload
def smooth(model: Model, data: Sequences, *, impossible: Impossible = ...) -> Any: ...
def smooth(model: Model, data: Sequences, *, impossible: Impossible = "raise") -> Any:
    """Smoothed beliefs p(z_t | y_1 … y_T), given the whole sequence.

    Args:
        model: a model with exact inference and known parameters.
        data: N sequences of at most T steps.
        impossible: at an observation of probability 0 given those before it, ``"raise"`` a
            ``ValueError`` that names sequence and step, or treat it as ``"missing"``.

    Returns:
        Probabilities (N, T, K) of discrete states, or the :class:`Moments` of continuous ones;
        zero beyond the length of a sequence.

    Raises:
        ValueError: an unknown parameter, or data that the model cannot emit.

    >>> from beliefzoo.inference import filter, smooth
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[2.0, 6.0]
    ... )
    >>> data = Sequences.from_arrays([[4, 4, 0, 0]])  # 4 is ambiguous until 0 follows
    >>> [belief(model, data)[0, :, 0].numpy().round(2) for belief in (filter, smooth)]
    [array([0.4 , 0.33, 0.97, 1.  ]), array([0.71, 0.81, 1.  , 1.  ])]
    """
    return _answered(model, data, impossible, lambda answers: answers.smooth())


def smooth_pairs(
    model: HiddenMarkovModel, data: Sequences, *, impossible: Impossible = "raise"
) -> Tensor:
    """Smoothed beliefs about successive states, p(z_t, z_{t+1} | y_1 … y_T).

    Args:
        model: a hidden Markov model with known parameters.
        data: N sequences of at most T steps.
        impossible: at an observation of probability 0 given those before it, ``"raise"`` a
            ``ValueError`` that names sequence and step, or treat it as ``"missing"``.

    Returns:
        Probabilities (N, T-1, K, K), from row to column; zero beyond the length.

    Raises:
        ValueError: an unknown parameter, data that the model cannot emit, or a model without
            discrete states.

    >>> from beliefzoo.inference import smooth_pairs
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[1.0, 9.0]
    ... )
    >>> pairs = smooth_pairs(model, Sequences.from_arrays([[1, 0, 1, 9, 8, 9, 1]]))
    >>> pairs.sum(1)[0].numpy().round(1)  # expected numbers of transitions
    array([[2., 1.],
           [1., 2.]])
    """
    all_laws = possible_laws(model, data, impossible)
    parts = [exact.pair_marginals(*require_discrete(laws).chain) for laws in all_laws]
    return stacked(parts, data.max_length - 1, fill=0)


def step_log_likelihood(
    model: Model, data: Sequences, *, impossible: Impossible = "raise"
) -> Tensor:
    """One-step predictive log densities log p(y_t | y_1 … y_{t-1}).

    Args:
        model: a model with exact inference and known parameters.
        data: N sequences of at most T steps.
        impossible: at an observation of probability 0 given those before it, ``"raise"`` a
            ``ValueError`` that names sequence and step, or treat it as ``"missing"``.

    Returns:
        Nats, (N, T) float64; 0 where nothing was observed. They sum to the log evidence.

    Raises:
        ValueError: an unknown parameter, or data that the model cannot emit.

    >>> from beliefzoo.inference import step_log_likelihood
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[1.0, 9.0]
    ... )
    >>> step_log_likelihood(model, Sequences.from_arrays([[0, 1, 9, 9]])).numpy().round(2)
    array([[-1.69, -1.11, -4.33, -2.13]])
    """
    return _answered(model, data, impossible, lambda answers: answers.step_log_likelihood())


def most_likely_states(
    model: HiddenMarkovModel, data: Sequences, *, impossible: Impossible = "raise"
) -> MostLikely:
    """Most likely path of states, argmax_z p(z_{1:T}, y_{1:T}), by the Viterbi algorithm.

    Args:
        model: a hidden Markov model with known parameters.
        data: N sequences of at most T steps.
        impossible: at an observation of probability 0 given those before it, ``"raise"`` a
            ``ValueError`` that names sequence and step, or treat it as ``"missing"``.

    Returns:
        The paths and their log joint densities.

    Raises:
        ValueError: an unknown parameter, data that the model cannot emit, or a model without
            discrete states.

    Source: Viterbi (1967).

    >>> from beliefzoo.inference import most_likely_states
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[1.0, 9.0]
    ... )
    >>> most_likely_states(model, Sequences.from_arrays([[1, 0, 4, 0, 9, 8]])).states.tolist()
    [[0, 0, 0, 0, 1, 1]]
    """
    all_laws = possible_laws(model, data, impossible)
    chains = [require_discrete(laws).chain for laws in all_laws]
    found = [exact.most_likely_path(*chain) for chain in chains]
    paths = stacked([path for path, _ in found], data.max_length, fill=-1)
    return MostLikely(paths, torch.cat([joint for _, joint in found]))


def sample_states(
    model: Model,
    data: Sequences,
    draws: int = 1,
    *,
    seed: int | None = None,
    impossible: Impossible = "raise",
) -> Tensor:
    """Draws paths of states from the posterior p(z | y).

    Args:
        model: a model with exact inference and known parameters.
        data: N sequences of at most T steps.
        draws: number of paths for every sequence.
        seed: of the draws; None: torch's global generator.
        impossible: at an observation of probability 0 given those before it, ``"raise"`` a
            ``ValueError`` that names sequence and step, or treat it as ``"missing"``.

    Returns:
        int64 (draws, N, T), −1 beyond the length, for discrete states; (draws, N, T, D), 0 there,
        for continuous ones.

    Raises:
        ValueError: an unknown parameter, or data that the model cannot emit.

    >>> from beliefzoo.inference import sample_states, smooth
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[2.0, 6.0]
    ... )
    >>> data = Sequences.from_arrays([[2, 4, 7, 4]])
    >>> paths = sample_states(model, data, draws=10_000, seed=0)
    >>> share = (paths == 1).double().mean(0)
    >>> bool((share - smooth(model, data)[..., 1]).abs().max() < 0.02)
    True
    """
    require_count(draws, "draws")
    generator = generator_from(seed)
    parts = [
        answers.sample_states(draws, generator) for answers in _answers(model, data, impossible)
    ]
    fill = 0 if parts[0].is_floating_point() else -1
    return stacked(parts, data.max_length, fill=fill, sequence=1)


class _Ahead(TypedDict, total=False):
    """Optional arguments of ``forecast``."""

    draws: int
    inputs: Number | None
    times: Number | None
    actions: Number | None
    seed: int | None
    impossible: Impossible


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
    inputs: Number | None = None,
    times: Number | None = None,
    actions: Number | None = None,
    seed: int | None = None,
    impossible: Impossible = "raise",
) -> Any:
    """Forecasts the states and observations after the end of every sequence.

    Args:
        model: with known parameters.
        data: the observed sequences.
        steps: number of steps ahead, H >= 1.
        draws: number of simulated continuations.
        inputs: covariates of the future (N, H, columns), if the model takes them.
        times: of these steps (N, H) or (H,), later than all observed ones, if the model reads them.
        actions: of these steps (N, H), if the model reads them. The first of these steps is driven
            by the last action of the data; the last action drives nothing.
        seed: of the simulation.
        impossible: at an observation of probability 0 given those before it, ``"raise"`` a
            ``ValueError`` that names sequence and step, or treat it as ``"missing"``.

    Returns:
        :class:`Forecast` for discrete states, :class:`LinearForecast` for linear-Gaussian models,
        :class:`RegimeForecast` for switching ones.

    Raises:
        ValueError: unknown parameters, data that the model cannot emit, or inputs, times or actions
            of the future that are missing or not read by the model.

    >>> from beliefzoo.inference import forecast
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[1.0, 9.0]
    ... )
    >>> found = forecast(model, Sequences.from_arrays([[1, 0, 1, 8, 9]]), steps=3, seed=0)
    >>> found.mean[0, :, 0].numpy().round(3)  # 9 falls to the stationary mean, 5
    array([8.2  , 7.56 , 7.048])
    """
    require_model(model)
    require_data(data)
    ahead = {"inputs": inputs, "times": times, "actions": actions}
    future = future_of(model, data, steps, draws, ahead, seed)
    require_choice(impossible, "impossible", ("raise", "missing"))
    if isinstance(model, SwitchingLinearSSM):
        return forecast_regimes(model, data, future, impossible)
    data = model.names.read(possible_data(model, data, impossible))
    return answers_to(model.laws({}, data[:1])).forecast(model, data, future)


def _moved(model: Model, planned: Sequences, beliefs: Tensor) -> Tensor:
    """Beliefs (N, T, K) one step on, (N, T-1, K); zero beyond the length."""
    moved, first = [], 0
    for batch in planned.batches(BATCH):
        own = beliefs[first : first + len(batch), : batch.max_length - 1]
        first += len(batch)
        moves = require_discrete(model.laws({}, batch)).log_transition.exp()
        onward = (own.unsqueeze(-2) @ moves).squeeze(-2)
        moved.append(onward * batch.step_mask[:, 1:].unsqueeze(-1))
    return stacked(moved, planned.max_length - 1, fill=0)


def _answers(model: Model, data: Sequences, impossible: Impossible) -> Iterator[Answers]:
    """The answers of one batch after the other."""
    require_model(model)
    if not model.exact:
        raise inexact(model)
    return (answers_to(laws) for laws in possible_laws(model, data, impossible))


def _answered(
    model: Model, data: Sequences, impossible: Impossible, query: Callable[[Answers], Answer]
) -> Answer:
    found = [query(answers) for answers in _answers(model, data, impossible)]
    return joined(found, data.max_length)
