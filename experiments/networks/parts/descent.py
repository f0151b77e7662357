"""Gradient descent as experiments do it whose networks are trained without a guide."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def descend(
    network: nn.Module,
    losses: Iterable[Tensor],
    *,
    steps: int,
    learning_rate: float,
    clip: float | None = 1.0,
) -> None:
    """Take steps of Adam, its rate falling to 0 along a cosine.

    Args:
        network: whose weights are trained.
        losses: the loss of each step, computed when it is asked for; at least ``steps``.
        steps: of the descent.
        learning_rate: of the first step.
        clip: norm to which gradients are cut; None: they are not.
    """
    optimizer = torch.optim.Adam(network.parameters(), learning_rate)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _, loss in zip(range(steps), losses, strict=False):
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        fall.step()
