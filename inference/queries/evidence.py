"""The exact evidence of whatever laws have one."""

from __future__ import annotations

from torch import Tensor

from ...models import TrajectoryLaws
from ..exact import chains as exact
from . import linear as linear_queries


def log_evidence(laws: TrajectoryLaws) -> Tensor:
    """log p(y_n | θ), the hidden states integrated out, (…draws, N) nats; differentiable.

    Raises:
        ValueError: laws of a model without exact inference.
    """
    if laws.discrete is not None:
        return exact.log_evidence(*laws.discrete.chain)
    if laws.linear is not None:
        return linear_queries.evidence(laws.linear)
    raise ValueError(
        f"model: needs one whose hidden states can be integrated out exactly, got {laws!r}"
    )
