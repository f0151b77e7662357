"""The choice of exact inference for a model: the only place that tells kinds of laws apart."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ...models import Model, Sequences, TrajectoryLaws
from .batches import Future
from .chains import ChainAnswers
from .linear import LinearAnswers


class Answers(Protocol):
    """Exact inference under the laws of a model at known parameters, for a batch of N sequences.

    Beliefs are tensors (N, T, …) or named tuples of such, zero beyond the length of a sequence.
    Laws of another kind, neither discrete nor linear-Gaussian, return their own object with these
    methods from a method ``answers``; a query that they cannot answer raises ``ValueError``.

    >>> from beliefzoo.inference.queries.kinds import answers_to
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(2, "poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], rate=[1, 4]
    ... )
    >>> answers = answers_to(model.laws({}, Sequences.from_arrays([[0, 3, 1]])))
    >>> answers.filter().numpy().round(3)
    array([[[0.953, 0.047],
            [0.671, 0.329],
            [0.911, 0.089]]])
    """

    def log_evidence(self) -> Tensor:
        """log p(y_n) with the states summed out, (N,) nats; differentiable."""

    def step_log_likelihood(self) -> Tensor:
        """log p(y_t | y_1 … y_{t-1}), (N, T) nats."""

    def filter(self) -> Any:
        """p(z_t | y_1 … y_t)."""

    def predict(self) -> Any:
        """p(z_t | y_1 … y_{t-1})."""

    def smooth(self) -> Any:
        """p(z_t | y_1 … y_T)."""

    def sample_states(self, draws: int, generator: torch.Generator) -> Tensor:
        """Draw from p(z | y): paths (draws, N, T) int64 or (draws, N, T, D)."""

    def forecast(self, model: Model, data: Sequences, future: Future) -> Any:
        """Continues the data under the model; these laws need not be of the same sequences."""


def answers_to(laws: TrajectoryLaws) -> Answers:
    """Returns the object that answers queries under these laws.

    Raises:
        ValueError: laws whose hidden states cannot be summed out.
    """
    if laws.discrete is not None:
        return ChainAnswers(laws.discrete)
    if laws.linear is not None:
        return LinearAnswers(laws.linear)
    own = getattr(laws, "answers", None)
    if own is not None:
        return cast(Answers, own())
    raise inexact(type(laws).__name__)


def inexact(came: object) -> ValueError:
    """Returns the error for a query without exact answer."""
    return ValueError(
        "model: needs one whose hidden states can be integrated out exactly; for others "
        f"weighted_evidence estimates the evidence, and a DeepGuide forecasts, got {came}"
    )
