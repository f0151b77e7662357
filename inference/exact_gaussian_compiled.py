"""Exact inference on Gaussian chains by machine code, for tensors on the CPU.

The same functions as in ``exact_gaussian_kernels``; the kernels run on threads of our own, as many
as torch uses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from . import exact_gaussian_machine as machine
from .exact_compiled import together
from .exact_gaussian_machine import Array


def _shares(count: int) -> list[Array]:
    """0 … count dealt out to the threads."""
    threads = max(1, min(torch.get_num_threads(), count))
    return [np.arange(start, count, threads) for start in range(threads)]


def _ends(lengths: Tensor | None, n: int, t: int) -> Array:
    return np.full(n, t) if lengths is None else lengths.numpy()


class _Sums:
    """Room for sums over sequences: of one place where sequences share it, one for each thread."""

    def __init__(self, like: Tensor, wanted: bool, shares: int) -> None:
        self.shared = len(like) == 1
        copies = shares if self.shared else 1
        shape = like.shape if wanted else (0, *like.shape[1:])
        self.parts = like.new_zeros(copies, *shape)

    def of(self, share: int) -> Array:
        """What a thread adds to."""
        part: Array = self.parts[share if self.shared else 0].numpy()
        return part

    def total(self) -> Tensor:
        """The sum over the threads."""
        return self.parts.sum(0) if len(self.parts) > 1 else self.parts[0]


# --- linear sweeps --------------------------------------------------------------------------------


def sweep_back(gain: Tensor, shift: Tensor, last: Tensor, lengths: Tensor | None) -> Tensor:
    """x_t = G_t x_{t+1} + c_t: (S, N, T, D) of shift (S, N, T-1, D) and last (S, N, D)."""
    draws, n, before, size = shift.shape
    ends = _ends(lengths, n, before + 1)
    paths = shift.new_zeros(draws, n, before + 1, size)
    paths[:, torch.arange(n), torch.from_numpy(ends) - 1] = last
    arrays = gain.numpy(), shift.numpy(), ends, paths.numpy()
    tasks = [partial(machine.sweep_back, rows, *arrays) for rows in _shares(n)]
    together(tasks, paths.numel() * size)
    return paths


def sweep_back_gradient(
    gain: Tensor, paths: Tensor, lengths: Tensor | None, upstream: Tensor, wanted: bool
) -> tuple[Tensor, Tensor]:
    """The adjoints (S, N, T, D) of the paths, and the gradient of the gain if it is wanted."""
    _, n, t, size = paths.shape
    adjoint = torch.zeros_like(paths)
    arrays = gain.numpy(), _ends(lengths, n, t), *(x.numpy() for x in (paths, upstream, adjoint))
    kernel = machine.sweep_back_gradient
    return adjoint, _with_sums(kernel, gain, wanted, n, arrays, paths.numel() * size * 2)


def sweep_covariances(gain: Tensor, noise: Tensor, last: Tensor, lengths: Tensor | None) -> Tensor:
    """S_t = G_t S_{t+1} G_t' + W_t: (N, T, D, D) of noise (N|1, T-1, D, D) and last (N, D, D)."""
    n, size = last.shape[:2]
    t = noise.shape[1] + 1
    ends = _ends(lengths, n, t)
    covariances = noise.new_zeros(n, t, size, size)
    covariances[torch.arange(n), torch.from_numpy(ends) - 1] = last
    arrays = gain.numpy(), noise.numpy(), ends, covariances.numpy()
    tasks = [partial(machine.sweep_covariances, rows, *arrays) for rows in _shares(n)]
    together(tasks, 2 * covariances.numel() * size)
    return covariances


def sweep_covariances_gradient(
    gain: Tensor, covariances: Tensor, lengths: Tensor | None, upstream: Tensor, wanted: bool
) -> tuple[Tensor, Tensor]:
    """The adjoints (N, T, D, D), and the gradient of the gain if it is wanted."""
    n, t, size, _ = covariances.shape
    adjoint = torch.zeros_like(covariances)
    tensors = covariances, upstream, adjoint
    arrays = gain.numpy(), _ends(lengths, n, t), *(x.numpy() for x in tensors)
    kernel = machine.sweep_covariances_gradient
    return adjoint, _with_sums(kernel, gain, wanted, n, arrays, 6 * covariances.numel() * size)


def _with_sums(
    kernel: Callable[..., None],
    gain: Tensor,
    wanted: bool,
    n: int,
    arrays: tuple[Array, ...],
    work: int,
) -> Tensor:
    """Run a kernel whose last argument is what it adds the gradient of the gain to."""
    shares = _shares(n)
    sums = _Sums(gain, wanted, len(shares))
    parts = enumerate(shares)
    together([partial(kernel, rows, *arrays, sums.of(share)) for share, rows in parts], work)
    return sums.total()
