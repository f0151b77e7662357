"""Exact answers for chains of discrete states, and their forecasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from torch import Tensor

from ...models import DiscreteLaws, Model, Sequences, TrajectoryLaws
from ...models.emissions.observations import mean_of, symbols_of
from ...models.randomness import seeded
from ...models.trajectories import sample_chain
from ..exact import chains as exact
from . import structures
from .batches import Future, from_last_step, joined, laws_of, quantile
from .outlook import Density, MixtureDensity, Outlook


@dataclass(frozen=True)
class Forecast:
    """Forecast of a model with discrete states, H steps ahead; made by :func:`forecast`.

    Attributes:
        state_probability: (N, H, K), exact.
        mean: expected observation (N, H, F), for codes the probability of each symbol; exact, but
            with inputs or lags in the emission the mean of the draws (for codes then None); NaN in
            columns of symbols beside others, which have no mean but ``symbols``.
        draws: simulated continuations (S, N, H[, F]), for all other questions.
        symbols: of columns of symbols beside others, by name, the probability of each symbol
            (N, H, symbols); exact where the mean is.
        outlook: the exact law of the observations, for :func:`scores`.

    >>> from beliefzoo.inference import forecast
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[1.0, 20.0]
    ... )
    >>> found = forecast(model, Sequences.from_arrays([[1, 0, 1, 18, 21]]), steps=2, seed=0)
    >>> found.state_probability[0].numpy().round(3), found.draws.shape
    (array([[0.1 , 0.9 ],
           [0.18, 0.82]]), torch.Size([1000, 1, 2, 1]))
    """

    state_probability: Tensor
    mean: Tensor | None
    draws: Tensor
    symbols: Mapping[str, Tensor] = field(default_factory=dict)
    outlook: Outlook | None = field(default=None, repr=False)

    def quantile(self, q: float | Sequence[float]) -> Tensor:
        """Returns the quantile q of the draws, (N, H[, F]); of several q, (Q, N, H[, F]).

        Raises:
            ValueError: q outside [0, 1].
        """
        return quantile(self.draws, q)


class _DrawnOn(Protocol):
    """Methods of discrete laws that forecasts need besides their chain."""

    def draw_on(self, paths: Tensor, before: Sequences) -> Tensor:
        """Draws observations after the first step of paths (N, T), the last step of ``before``."""

    def expected(self, chance: Tensor) -> Tensor | None:
        """E[y] after the first step, (N, T-1, F), from the states' chances (N, T-1, K)."""


def require_discrete(laws: TrajectoryLaws) -> DiscreteLaws:
    """Returns the laws as those of a chain; raises ``ValueError`` if they are not."""
    if laws.discrete is None:
        raise ValueError(f"model: needs discrete states, got {type(laws).__name__}")
    return laws.discrete


@dataclass(frozen=True)
class ChainAnswers:
    """Answers for a chain of K states: beliefs are probabilities (N, T, K)."""

    laws: DiscreteLaws

    def log_evidence(self) -> Tensor:
        return structures.log_evidence(self.laws)

    def step_log_likelihood(self) -> Tensor:
        return structures.filter_chain(self.laws).log_increments

    def filter(self) -> Tensor:
        return self._within(structures.filter_chain(self.laws).log_beliefs)

    def predict(self) -> Tensor:
        return self._within(structures.filter_chain(self.laws).log_predicted)

    def smooth(self) -> Tensor:
        return self._within(structures.smooth_chain(self.laws))

    def _within(self, log_probability: Tensor) -> Tensor:
        return log_probability.exp() * self.laws.data.step_mask.unsqueeze(-1)

    def sample_states(self, draws: int, generator: torch.Generator) -> Tensor:
        return exact.sample_paths(**self.laws.chain._asdict(), n=draws, generator=generator)

    def forecast(self, model: Model, data: Sequences, future: Future) -> Forecast:
        steps, draws = future.steps, future.draws
        if not (model.inputs or model.timed or model.actions):
            # Laws may be made for sequences of one length only.
            whole = model.observations.blank(1, int(data.lengths.max()) + steps)
            model._check_kind(Sequences.from_tensors(whole, codes=data.is_codes))
        driven = from_last_step(model, data, future)
        beliefs = [ChainAnswers(require_discrete(laws)).filter() for laws in laws_of(model, data)]
        log_last = joined(beliefs, data.max_length)[torch.arange(len(data)), data.lengths - 1].log()
        laws = model.laws({}, driven)
        ahead = require_discrete(laws)
        chance = exact.predict_states(log_last, ahead.matrices, steps, ahead.choice).exp()
        copies = torch.arange(len(data)).repeat(draws)
        many = model.laws({}, driven[copies])
        chain = require_discrete(many)
        with seeded(future.seed):
            moves = log_last[copies], chain.matrices
            paths = sample_chain(*moves, len(copies), steps + 1, choice=chain.choice)
            drawn = cast(_DrawnOn, many).draw_on(paths, data[copies])
        drawn = drawn.reshape(draws, len(data), *drawn.shape[1:])
        mean = cast(_DrawnOn, laws).expected(chance)
        kind = model.observations
        if mean is None and not kind.codes:
            channels = kind.encode(drawn.flatten(0, 1).double())
            mean = channels.unflatten(0, drawn.shape[:2]).mean(0)
        symbols = {} if mean is None else symbols_of(kind, mean)
        mean = None if mean is None else mean_of(kind, mean)
        density = _density(model, data, driven, chance)
        outlook = Outlook(model, (len(data), steps), density)
        return Forecast(chance, mean, drawn, symbols, outlook)


def _density(model: Model, data: Sequences, driven: Sequences, chance: Tensor) -> Density | None:
    """The density of each step ahead; None where steps wait for the observations before them."""
    lags = getattr(getattr(model, "emission", None), "lags", 0)
    if lags or model.moved_by_observations or model.scheduled(data) is not data:
        return None
    return MixtureDensity(model, driven, chance)
