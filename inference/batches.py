"""Results of one batch of sequences after the other, joined."""

from __future__ import annotations

import torch
from torch import Tensor


def stacked(parts: list[Tensor], steps: int, *, fill: float, sequence: int = 0) -> Tensor:
    """Join batches, which are cut to their own longest sequence, along the axis ``sequence``.

    The time axis comes right after it and is filled up to ``steps``.
    """
    time = sequence + 1
    padded = []
    for part in parts:
        lacking = steps - part.shape[time]
        if lacking:
            shape = [*part.shape[:time], lacking, *part.shape[time + 1 :]]
            part = torch.cat([part, part.new_full(shape, fill)], time)
        padded.append(part)
    return torch.cat(padded, sequence)
