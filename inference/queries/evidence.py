"""Exact evidence of laws."""

from __future__ import annotations

from torch import Tensor

from ...models import TrajectoryLaws
from .kinds import answers_to


def log_evidence(laws: TrajectoryLaws) -> Tensor:
    """Log evidence log p(y_n | θ), the hidden states integrated out; differentiable.

    Args:
        laws: the laws of a model for N sequences, with any leading axes of draws.

    Returns:
        Nats, (…draws, N).

    Raises:
        ValueError: laws of a model without exact inference.

    >>> from beliefzoo.inference.queries.evidence import log_evidence
    >>> from beliefzoo.models import golden_mean
    >>> model = golden_mean().model
    >>> log_evidence(model.laws(model.known, model.sample(3, 5, seed=0).data)).shape
    torch.Size([3])
    """
    return answers_to(laws).log_evidence()
