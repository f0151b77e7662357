"""The structures of transition laws that make exact inference faster."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ...models import DiscreteLaws
from ...models.trajectories import BandedMoves, FactorialMoves, LowRankMoves, SparseMoves
from ..exact import chains as exact
from ..exact import structured as exact_structured
from ..exact.structured import Banded, Factorial, LowRank, Sparse, Structure

STRUCTURED_STATES = 128
"""Fewer states are multiplied faster as a whole matrix."""


_FORMS: dict[type, Callable[..., Structure]] = {
    BandedMoves: Banded,
    FactorialMoves: Factorial,
    LowRankMoves: LowRank,
    SparseMoves: Sparse,
}
"""What models call the forms that there are recursions for, and what exact inference does."""


def structure(laws: DiscreteLaws) -> Structure | None:
    """The transitions of the laws as a structure, if they have one.

    None for a law without structure, for parameters with leading axes of draws, and for tensors not
    on the CPU, where the dense matrix of the laws is used. Gradients reach the parameters.
    """
    moves = laws.structure() if laws.lengths.device.type == "cpu" else None
    return None if moves is None else _FORMS[type(moves)](*moves)


def _found(laws: DiscreteLaws) -> Structure | None:
    """The structure, if it is faster than the dense matrix."""
    return structure(laws) if laws.log_initial.shape[-1] >= STRUCTURED_STATES else None


def log_evidence(laws: DiscreteLaws) -> Tensor:
    """log p(y) ``(N,)``, by the structure of the transition law if that is faster."""
    found = _found(laws)
    if found is None:
        return exact.log_evidence(*laws.chain)
    return exact_structured.log_evidence(laws.log_initial, found, laws.log_likelihood, laws.lengths)


def filter_chain(laws: DiscreteLaws) -> exact.Filtered:
    """Beliefs, predictions and increments as ``exact.chains.filter_chain`` returns them."""
    found = _found(laws)
    if found is None:
        return exact.filter_chain(*laws.chain)
    return exact_structured.filter_chain(laws.log_initial, found, laws.log_likelihood, laws.lengths)


def smooth_chain(laws: DiscreteLaws) -> Tensor:
    """log p(z_t | y_{1:T}) ``(N, T, K)`` as ``exact.chains.smooth_chain`` returns it."""
    found = _found(laws)
    if found is None:
        return exact.smooth_chain(*laws.chain)
    return exact_structured.smooth_chain(laws.log_initial, found, laws.log_likelihood, laws.lengths)
