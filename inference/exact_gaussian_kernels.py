"""Exact inference on Gaussian chains in torch, for tensors that are not on the CPU.

Plain recursions, one step of all sequences at a time; ``exact_gaussian_compiled`` has the same
functions as machine code.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _reached(lengths: Tensor | None, n: int, t: int, device: torch.device) -> Tensor:
    """Whether a step is within the sequence ``(N, T)``."""
    ends = torch.full((n,), t, device=device) if lengths is None else lengths
    return torch.arange(t, device=device) < ends.unsqueeze(-1)


def _at(tensor: Tensor, t: int) -> Tensor:
    """Step t of ``(N|1, T|1, …)``."""
    return tensor[:, t if tensor.shape[1] > 1 else 0]


# --- linear sweeps --------------------------------------------------------------------------------


def sweep_back(gain: Tensor, shift: Tensor, last: Tensor, lengths: Tensor | None) -> Tensor:
    """x_t = G_t x_{t+1} + c_t: (S, N, T, D) of shift (S, N, T-1, D) and last (S, N, D)."""
    _, n, before, _ = shift.shape
    inside = _reached(lengths, n, before + 1, shift.device).unsqueeze(-1)
    here = last.where(inside[:, -1], 0)
    steps = [here]
    for t in reversed(range(before)):
        moved = (_at(gain, t) @ here.unsqueeze(-1)).squeeze(-1) + shift[:, :, t]
        start = last.where(inside[:, t], 0)  # of a sequence that ends here
        here = torch.where(inside[:, t + 1], moved, start)
        steps.append(here)
    return torch.stack(steps[::-1], 2)


def sweep_back_gradient(
    gain: Tensor, paths: Tensor, lengths: Tensor | None, upstream: Tensor, wanted: bool
) -> tuple[Tensor, Tensor]:
    """The adjoints (S, N, T, D) of the paths, and the gradient of the gain if it is wanted."""
    _, n, t, _ = paths.shape
    inside = _reached(lengths, n, t, paths.device).unsqueeze(-1)
    here = upstream[:, :, 0]
    steps = [here]
    for step in range(t - 1):
        moved = (_at(gain, step).mT @ here.unsqueeze(-1)).squeeze(-1) + upstream[:, :, step + 1]
        here = moved.where(inside[:, step + 1], 0)
        steps.append(here)
    adjoint = torch.stack(steps, 2)
    if not wanted:
        return adjoint, gain[:0]
    pairs = torch.einsum("snti,sntj->ntij", adjoint[:, :, :-1] * inside[:, 1:], paths[:, :, 1:])
    return adjoint, pairs.sum_to_size(gain.shape)


def sweep_covariances(gain: Tensor, noise: Tensor, last: Tensor, lengths: Tensor | None) -> Tensor:
    """S_t = G_t S_{t+1} G_t' + W_t: (N, T, D, D) of noise (N|1, T-1, D, D) and last (N, D, D)."""
    n, t = len(last), noise.shape[1] + 1
    inside = _reached(lengths, n, t, noise.device)[..., None, None]
    here = last.where(inside[:, -1], 0)
    steps = [here]
    for step in reversed(range(t - 1)):
        g = _at(gain, step)
        start = last.where(inside[:, step], 0)
        here = torch.where(inside[:, step + 1], g @ here @ g.mT + _at(noise, step), start)
        steps.append(here)
    return torch.stack(steps[::-1], 1)


def sweep_covariances_gradient(
    gain: Tensor, covariances: Tensor, lengths: Tensor | None, upstream: Tensor, wanted: bool
) -> tuple[Tensor, Tensor]:
    """The adjoints (N, T, D, D), and the gradient of the gain if it is wanted."""
    n, t, _, _ = covariances.shape
    inside = _reached(lengths, n, t, gain.device)[..., None, None]
    here = upstream[:, 0]
    steps = [here]
    for step in range(t - 1):
        g = _at(gain, step)
        here = (g.mT @ here @ g + upstream[:, step + 1]).where(inside[:, step + 1], 0)
        steps.append(here)
    adjoint = torch.stack(steps, 1)
    if not wanted:
        return adjoint, gain[:0]
    b, s = adjoint[:, :-1].where(inside[:, 1:], 0), covariances[:, 1:]
    to_gain = b @ gain @ s.mT + b.mT @ gain @ s
    return adjoint, to_gain.sum_to_size(gain.shape)
