"""From the transition laws of models to the structures that exact inference is fast with."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models import BandedTransition, HiddenMarkovModel, Laws, LowRankTransition, SparseTransition
from ..models.memory import MemoryTransition
from . import exact, exact_structured
from .exact_structured import Banded, LowRank, Sparse, Structure

STRUCTURED_STATES = 128
"""Fewer states are multiplied faster as a whole matrix."""


def structure(model: HiddenMarkovModel, laws: Laws) -> Structure | None:
    """The model's transition law at the laws' parameters as a structure, if it has one.

    None for a law without, for parameters with leading axes of draws, and away from the CPU, where
    the dense matrix of the laws is to be used. Gradients reach the parameters.
    """
    law, values = model.transition, laws.parameters
    matrix = laws.log_transition
    if model.states == 1 or matrix.ndim != 4 or matrix.device.type != "cpu":
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
    return None


def log_evidence(model: HiddenMarkovModel, laws: Laws) -> Tensor:
    """log p(y) ``(N,)`` by the structure of the transition law where that is faster."""
    found = structure(model, laws) if model.states >= STRUCTURED_STATES else None
    if found is None or laws.log_likelihood.ndim != 3:
        return exact.log_evidence(
            laws.log_initial, laws.log_transition, laws.log_likelihood, laws.lengths
        )
    return exact_structured.log_evidence(laws.log_initial, found, laws.log_likelihood, laws.lengths)
