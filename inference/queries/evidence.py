"""The exact evidence of whatever laws have one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...models import Laws, LinearLaws
from ..exact import chains as exact
from . import linear as linear_queries


def log_evidence(laws: Any) -> Tensor:
    """log p(y_n | θ), the hidden states integrated out, (…draws, N) nats; differentiable.

    Raises:
        ValueError: laws of a model without exact inference.
    """
    if isinstance(laws, Laws):
        return exact.log_evidence(*laws.chain)
    if isinstance(laws, LinearLaws):
        return linear_queries.evidence(laws)
    raise ValueError(
        f"model: needs one whose hidden states can be integrated out exactly, got {laws!r}"
    )
