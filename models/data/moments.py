"""Location and scale of numbers, which move with their unit exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from .requirements import require_near
from .sequences import Sequences


def overall_moments(y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard deviations (F,) of all frames y (M, F), whatever their state.

    Both move with the unit of the data, whatever it is, and the second is never zero.
    """
    count = mask.sum(0).clamp_min(1)
    some = mask.any(0)
    low = torch.where(some, torch.where(mask, y, torch.inf).amin(0), 0)
    high = torch.where(some, torch.where(mask, y, -torch.inf).amax(0), 0)
    # Sums of what is far from zero lose digits: the mean is found from what is near.
    mean = low + torch.where(mask, y - low, 0).sum(0) / count
    extent = high - low
    # A feature that never varies has no scale but its size: any spread that is not tiny will do.
    size = torch.where(low == 0, 1, low.abs())
    unit = torch.where(extent > 0, extent, size)
    apart = torch.where(mask, (y - mean) / unit, 0)
    spread = unit * (apart.square().sum(0) / count).sqrt()
    return mean, torch.where(extent > 0, spread, size)


def input_moments(data: Sequences) -> tuple[Tensor, Tensor]:
    """Typical value and scale (U,) of the input columns, float64.

    An indicator, with no other value than zero and one, is its own scale, also in another unit: it
    has the typical value 0.
    """
    assert data.inputs is not None  # a law that reads inputs has checked the data
    inside = data.step_mask.flatten()
    u = data.inputs.double().flatten(0, 1)[inside]
    mean, spread = overall_moments(u, torch.ones_like(u, dtype=torch.bool))
    largest = u.abs().amax(0)
    indicator = ((u == 0) | (u == u.gather(0, u.abs().argmax(0, keepdim=True)))).all(0)
    scale = torch.where(indicator, torch.where(largest > 0, largest, 1), spread)
    return torch.where(indicator, 0, mean), scale


FAR = 10.0
"""Standard deviations that inputs may lie from zero, where a law's own parameters hold."""


def input_scales(data: Sequences) -> tuple[float, ...]:
    """Scale of every input column; see ``input_moments``.

    Raises:
        ValueError: a column lies far from zero.
    """
    typical, scale = input_moments(data)
    require_near(typical.abs() / scale, FAR)
    return tuple(scale.tolist())
