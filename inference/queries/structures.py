"""From the transition laws of models to the structures that exact inference is fast with."""

from __future__ import annotations

import torch
from torch import Tensor

from ...models import (
    BandedTransition,
    HiddenMarkovModel,
    Laws,
    LowRankTransition,
    SigmoidTransition,
    SparseTransition,
)
from ...models.chains.memory import MemoryTransition
from ..exact import chains as exact
from ..exact import structured as exact_structured
from ..exact.structured import Banded, Factorial, LowRank, Sparse, Structure

STRUCTURED_STATES = 128
"""Fewer states are multiplied faster as a whole matrix."""


def structure(model: HiddenMarkovModel, laws: Laws) -> Structure | None:
    """The model's transition law at the laws' parameters as a structure, if it has one.

    None for a law without, for parameters with leading axes of draws, and away from the CPU, where
    the dense matrix of the laws is to be used. Gradients reach the parameters.
    """
    law, values = model.transition, laws.parameters
    if model.states == 1 or laws.lengths.device.type != "cpu" or _drawn(model, laws):
        return None
    if isinstance(law, LowRankTransition):
        return LowRank(*law.factors(values))
    if isinstance(law, BandedTransition):
        log_moves, _, inside = law.moves(values)
        return Banded(log_moves.masked_fill(~inside, -torch.inf), law.offsets)
    if isinstance(law, SparseTransition | MemoryTransition):
        log_moves, target, inside = law.moves(values)
        origin = torch.arange(model.states).unsqueeze(-1).expand_as(target)
        return Sparse(log_moves[inside], origin[inside], target[inside], model.states)
    if isinstance(law, SigmoidTransition) and law.coupling == "diagonal" and not law.inputs:
        return Factorial(law.chains(values))
    return None


def _drawn(model: HiddenMarkovModel, laws: Laws) -> bool:
    """Whether some parameter has leading axes of draws."""
    priors = model.all_priors
    return any(
        value.ndim > len(priors[name].event_shape) for name, value in laws.parameters.items()
    )


def _found(model: HiddenMarkovModel, laws: Laws) -> Structure | None:
    """The structure, where it is faster than the whole matrix."""
    return structure(model, laws) if model.states >= STRUCTURED_STATES else None


def log_evidence(model: HiddenMarkovModel, laws: Laws) -> Tensor:
    """log p(y) ``(N,)`` by the structure of the transition law where that is faster."""
    found = _found(model, laws)
    if found is None:
        return exact.log_evidence(*laws.chain)
    return exact_structured.log_evidence(laws.log_initial, found, laws.log_likelihood, laws.lengths)


def filter_chain(model: HiddenMarkovModel, laws: Laws) -> exact.Filtered:
    """Beliefs, predictions and increments as ``exact.filter_chain`` gives them."""
    found = _found(model, laws)
    if found is None:
        return exact.filter_chain(*laws.chain)
    return exact_structured.filter_chain(laws.log_initial, found, laws.log_likelihood, laws.lengths)


def smooth_chain(model: HiddenMarkovModel, laws: Laws) -> Tensor:
    """log p(z_t | y_{1:T}) ``(N, T, K)`` as ``exact.smooth_chain`` gives it."""
    found = _found(model, laws)
    if found is None:
        return exact.smooth_chain(*laws.chain)
    return exact_structured.smooth_chain(laws.log_initial, found, laws.log_likelihood, laws.lengths)
