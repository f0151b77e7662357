"""The bound of a `BeliefGuide` whose belief is what the gates of one memory cell say."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ....models import HiddenMarkovModel

LEAST = 1e-6
"""Gates are read as probabilities no nearer to 0 and 1."""


def gate_bound(model: HiddenMarkovModel, y: Tensor, f: Tensor, i: Tensor, g: Tensor) -> Tensor:
    """ELBO of a memory model, nats, (N,), for the belief that a cell's gates are.

    The gates are chances: f = q(keep), i = q(write), (1 + g) / 2 = q(value = 1), independent of
    each other and of the memory, whose law follows from those of the steps before and has the mean
    c_t = f c_{t-1} + i g. The marginals of q are then the beliefs themselves, and the bound
    Σ_t E_β[log π_t + log O(y_t) − log β_t] has the sums Σ over causes −KL(q ‖ p) and the expected
    log density of y_t. In a reset model keeping is not writing, and two gates say so: the bound is
    the mean of those with q(keep) = f and with q(keep) = 1 − i, both of them bounds.

    Args:
        model: a `GatedAccumulator` or `ResetModel` with known parameters.
        y: observations, (N, T, F), all there.
        f, i, g: (N, T).
    """
    value = ((1 + g) / 2).clamp(LEAST, 1 - LEAST)
    keep, write = f.clamp(LEAST, 1 - LEAST), i.clamp(LEAST, 1 - LEAST)
    if "write" in model.known:
        return _bound(model, y, {"keep": keep, "write": write, "positive": value})
    pair = [_bound(model, y, {"keep": one, "positive": value}) for one in (keep, 1 - write)]
    return (pair[0] + pair[1]) / 2


def _bound(model: HiddenMarkovModel, y: Tensor, causes: dict[str, Tensor]) -> Tensor:
    loading, intercept, scale = (
        model.known[name].to(y) for name in ("loading", "intercept", "scale")
    )
    total = torch.zeros_like(y[..., 0])
    means, variances = [], []
    for name, chance in causes.items():
        prior = model.known[name].to(y)
        on, off = chance * (chance / prior).log(), (1 - chance) * ((1 - chance) / (1 - prior)).log()
        total = total - on - off
        means.append(2 * chance - 1)
        variances.append(4 * chance * (1 - chance))
    if len(loading) > len(causes):  # y tells of the memory before
        mean, variance = _memory_before(*causes.values())
        means.append(mean)
        variances.append(variance)
    away = y - intercept - torch.stack(means, -1) @ loading
    spread = torch.stack(variances, -1) @ loading.square()
    density = (away.square() + spread) / scale.square() + (2 * math.pi * scale.square()).log()
    return (total - 0.5 * density.sum(-1)).sum(-1)


def _memory_before(keep: Tensor, write: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of an accumulator's memory before every step, (N, T)."""
    mean = square = torch.zeros_like(keep[:, 0])
    means, variances = [], []
    for f, i, chance in zip(keep.mT, write.mT, positive.mT, strict=True):
        means.append(mean)
        variances.append(square - mean.square())
        added = i * (2 * chance - 1)
        square = f * square + 2 * f * mean * added + i
        mean = f * mean + added
    return torch.stack(means, 1), torch.stack(variances, 1)
