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


def times_ahead(last: Tensor, steps: int, times: Tensor | None) -> Tensor:
    """The last time of every sequence and those to come, (N, H + 1).

    Raises:
        ValueError: times that are missing, not (N, H), or do not increase.
    """
    shape = (len(last), steps)
    came = None if times is None else tuple(times.shape)
    if times is None or came != shape:
        raise ValueError(f"times: forecasting needs future times of shape {shape}, got {came}")
    joined = torch.cat([last.unsqueeze(1), times.to(last)], 1)
    steady = (joined.diff(dim=1) > 0).all(1)
    if not bool(steady.all()):
        n = int(steady.logical_not().nonzero()[0])
        raise ValueError(
            f"times: must increase from the last time seen, got {joined[n].tolist()} "
            f"in sequence {n}"
        )
    return joined
