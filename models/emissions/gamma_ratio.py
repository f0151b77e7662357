"""A ratio of gamma functions that keeps its digits however large its argument is."""

from __future__ import annotations

import torch
from torch import Tensor

LARGE = 30.0
"""Argument from which on the series below is exact to rounding."""


def log_gamma_ratio(x: Tensor, more: Tensor | float) -> Tensor:
    r"""Return log Γ(x + more) − log Γ(x) − more log x, which goes to 0 as x goes to ∞.

    The difference of two logarithms has no digits left at x = 10^{12}, and its derivative none
    long before; there it is, by Stirling's series s,

    .. math:: (x + d - \tfrac12) \log(1 + d / x) - d + s(x + d) - s(x)

    Args:
        x: positive numbers.
        more: d, numbers >= 0 that broadcast with them.

    Source: Abramowitz & Stegun (1964), 6.1.41.

    >>> x = torch.tensor([1.0, 1e12], dtype=torch.float64)
    >>> [round(y, 13) for y in log_gamma_ratio(x, 2.0).exp().tolist()]  # x (x + 1) / x²
    [2.0, 1.000000000001]
    """
    wide, small = x.clamp_min(LARGE), x.clamp_max(LARGE)
    far = (wide + more - 0.5) * torch.log1p(more / wide) - more
    far = far + _rest(wide + more) - _rest(wide)
    near = torch.lgamma(small + more) - torch.lgamma(small) - more * small.log()
    return torch.where(x > LARGE, far, near)


def _rest(x: Tensor) -> Tensor:
    """What Stirling's formula for log Γ(x) leaves, from a few dozen on."""
    square = x * x
    return (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * square)) / square) / square) / x
