"""The slowest obvious methods for Gaussian chains, in float64; imports nothing of ours."""

import torch
from torch import Tensor


def _entry(tensor: Tensor, *places: int) -> Tensor:
    """The entry of an array whose axes of size 1 are shared."""
    for place in places:
        tensor = tensor[place if len(tensor) > 1 else 0]
    return tensor


def sweep(gain: Tensor, shift: Tensor, last: Tensor, lengths: list[int]) -> Tensor:
    """x_t = G_t x_{t+1} + c_t back from ``last``, step by step; zero beyond the length."""
    rows = []
    for n, length in enumerate(lengths):
        steps = [last[..., n, :]]
        for t in reversed(range(length - 1)):
            g = _entry(gain, n, t)
            steps.insert(0, torch.einsum("ij,...j->...i", g, steps[0]) + shift[..., n, t, :])
        beyond = [torch.zeros_like(steps[0])] * (shift.shape[-2] + 1 - length)
        rows.append(torch.stack(steps + beyond, -2))
    return torch.stack(rows, -3)


def sweep_covariances(gain: Tensor, noise: Tensor, last: Tensor, lengths: list[int]) -> Tensor:
    """S_t = G_t S_{t+1} G_t' + W_t back from ``last``, step by step; zero beyond the length."""
    rows = []
    for n, length in enumerate(lengths):
        steps = [_entry(last, n)]
        for t in reversed(range(length - 1)):
            g = _entry(gain, n, t)
            steps.insert(0, g @ steps[0] @ g.mT + _entry(noise, n, t))
        beyond = [torch.zeros_like(steps[0])] * (noise.shape[1] + 1 - length)
        rows.append(torch.stack(steps + beyond))
    return torch.stack(rows)
