"""Tables of possible next observations, which represent an emission law by few outcomes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import constraints

from ...models import HiddenMarkovModel, Sequences
from ...models.checks import require
from ...models.randomness import seeded

LARGEST_ALPHABET = 256
"""Outcomes that are listed one by one; of more, some are drawn."""

_SORTED = 100
"""Draws for each outcome that is kept, of observations that can be sorted."""


@dataclass(frozen=True)
class Outcomes:
    """Outcomes y_j of one step: p(y_j | π) ≈ Σ_k π_k O_k(y_j) w_j for any law π of the state."""

    log_score: Tensor
    """log O_k(y_j), (J, K)."""
    log_weight: Tensor
    """log w_j, (J,): zero where all outcomes are listed."""
    symbols: Sequences | None
    """The outcomes as J sequences of one step, where all are listed."""

    def onward(self, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """From predicted laws (P, K): p(y_j), (P, J), summing to one, and Bayes' rule (P, J, K)."""
        # The largest score of an outcome cancels in both.
        top = (self.log_score + self.log_weight.unsqueeze(-1)).amax()
        joint = (
            predicted.unsqueeze(1) * (self.log_score + self.log_weight.unsqueeze(-1) - top).exp()
        )
        total = joint.sum(-1)
        updated = joint / torch.where(total > 0, total, 1).unsqueeze(-1)
        return total / total.sum(-1, keepdim=True), updated


def alphabet(model: HiddenMarkovModel) -> Sequences | None:
    """All possible observations of a step, each as a sequence of one step; None if too many."""
    seen = model.observations
    if seen.codes:
        every = torch.arange(seen.channels)[:, None, None]
        return None if len(every) > LARGEST_ALPHABET else Sequences.from_tensors(every, codes=True)
    bits = getattr(seen, "support", None) is constraints.boolean
    if bits and 2**seen.features <= LARGEST_ALPHABET:
        patterns = torch.tensor(list(itertools.product((0.0, 1.0), repeat=seen.features)))
        return Sequences.from_tensors(patterns.unsqueeze(1))
    return None


def outcomes(model: HiddenMarkovModel, count: int, *, seed: int = 0) -> Outcomes:
    """A table of outcomes of a model whose parameters are known.

    All outcomes if they are few. Otherwise about ``count``: for one feature the midquantiles of
    each state's law, for several features as many draws of each state; weighted against the mixture
    of the states' laws.

    Raises:
        ValueError: an emission that reads inputs or earlier observations.
    """
    emission = model.emission
    require(
        not emission.inputs and not emission.lags,
        "data",
        "the best causal guide is known for observations that depend on the state alone",
        f"{emission}",
    )
    symbols = alphabet(model)
    if symbols is not None:
        score = model.laws({}, symbols).log_likelihood[:, 0].double()
        return Outcomes(score, score.new_zeros(len(score)), symbols)
    each = max(1, count // model.states)
    sortable = model.observations.features == 1
    drawn = each * (_SORTED if sortable else 1)
    blank = model.sample(model.states * drawn, 1, seed=seed).data
    laws = model.laws({}, blank)
    with seeded(seed):
        y = laws.draw(torch.arange(model.states).repeat_interleave(drawn).unsqueeze(-1))
    score = laws.score(y)[:, 0].double()
    if sortable:
        order = y.reshape(model.states, drawn).argsort(-1)[:, _SORTED // 2 :: _SORTED]
        index = order + drawn * torch.arange(model.states).unsqueeze(-1)
        score = score[index.reshape(-1)]
    return Outcomes(score, -score.logsumexp(-1), None)
