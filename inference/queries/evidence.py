"""The exact evidence of whatever laws have one."""

from __future__ import annotations

from torch import Tensor

from ...models import TrajectoryLaws
from .kinds import answers_to


def log_evidence(laws: TrajectoryLaws) -> Tensor:
    """log p(y_n | θ), the hidden states integrated out, (…draws, N) nats; differentiable.

    Raises:
        ValueError: laws of a model without exact inference.
    """
    return answers_to(laws).log_evidence()
