"""Starting values for memory models: clusters at the corners that the causes span."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.sequences import Sequences
from .start_nodes import corners

if TYPE_CHECKING:
    from .memory import MemoryEmission, MemoryTransition

_FRAMES = 20_000
"""Frames that are clustered; a start needs no more."""

_CERTAINTY = 0.95
"""Share of its own state in a frame's weights; the rest is spread over those of empty memory."""


def start_of_memory(
    emission: MemoryEmission, law: MemoryTransition, data: Sequences
) -> dict[str, Tensor]:
    """Estimate values of a memory model from the data.

    The causes of a step are two-valued and drawn anew every time, so that frames lie around the
    corners d ± B_1 ± B_2 (± B_3). A constrained k-means finds the corners, and every law is
    estimated from the result. A leak starts at zero, since it adds little while the memory is
    small. Only a leak can tell which corner belongs to which cause; keep is taken to be the one
    with the largest leak. Uses torch's global generator.
    """
    y, mask = emission.observed(data)
    seen = data.observed_steps.nonzero()
    some = seen[torch.randperm(len(seen))[:_FRAMES]].unbind(1)
    y, mask = y[some].double(), mask[some]
    cause = corners(torch.where(mask, y, 0), len(law.channels))
    empty = (law.table.before == 0).nonzero()[:, 0]  # its causes are numbered as the corners are
    own = torch.nn.functional.one_hot(cause, len(empty)).double()
    weight = y.new_zeros(len(y), law.states)
    weight[:, empty] = _CERTAINTY * own + (1 - _CERTAINTY) / len(empty)
    counts = torch.zeros(law.states, dtype=torch.float64)
    counts[empty] = own.sum(0) + 1
    return {**emission.start(y, mask, weight), **law.start(counts.unsqueeze(0))}
