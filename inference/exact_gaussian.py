"""Exact inference on Gaussian chains: linear sweeps, evidence, filter, smoother, path samples.

Everything here works on tensors alone. On the CPU the recursions are machine code
(``exact_gaussian_compiled``), elsewhere torch (``exact_gaussian_kernels``). Every argument that does
not fit is a ``ValueError``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .exact import check_lengths

__all__ = ["backward_covariances", "backward_sweep"]


class _Recursions(Protocol):
    """What ``exact_gaussian_kernels`` and ``exact_gaussian_compiled`` both have."""

    def sweep_back(
        self, gain: Tensor, shift: Tensor, last: Tensor, lengths: Tensor | None, /
    ) -> Tensor: ...

    def sweep_back_gradient(
        self, gain: Tensor, paths: Tensor, lengths: Tensor | None, upstream: Tensor, wanted: bool, /
    ) -> tuple[Tensor, Tensor]: ...

    def sweep_covariances(
        self, gain: Tensor, noise: Tensor, last: Tensor, lengths: Tensor | None, /
    ) -> Tensor: ...

    def sweep_covariances_gradient(
        self,
        gain: Tensor,
        covariances: Tensor,
        lengths: Tensor | None,
        upstream: Tensor,
        wanted: bool,
        /,
    ) -> tuple[Tensor, Tensor]: ...


def _recursions(tensor: Tensor) -> _Recursions:
    """Machine code for the CPU, torch elsewhere. Imported when first used: numba takes a while."""
    on_cpu = tensor.device.type == "cpu"
    name = "exact_gaussian_compiled" if on_cpu else "exact_gaussian_kernels"
    return cast(_Recursions, import_module(f".{name}", __package__))


def _check_shapes(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[tuple[int, ...], ...]]
) -> None:
    """Refuse other trailing axes than the allowed sizes, and mixed precisions and devices."""
    first = next(iter(tensors.values()))
    for name, tensor in tensors.items():
        axes = expected[name]
        fits = tensor.ndim == len(axes)
        if not fits or any(s not in a for s, a in zip(tensor.shape, axes, strict=True)):
            wanted = ", ".join("|".join(map(str, dict.fromkeys(axis))) for axis in axes)
            raise ValueError(f"{name} must have shape ({wanted}); got {tuple(tensor.shape)}")
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != first.dtype:
            raise ValueError(f"{name} must be float32 or float64 as all others; got {tensor.dtype}")
        if tensor.device != first.device:
            raise ValueError(f"{name} must be on {first.device} as all others; got {tensor.device}")


# --- linear sweeps: what the posteriors of Gaussian guides are made of ----------------------------


class _SweepBack(torch.autograd.Function):
    """μ_1 = g_1, μ_{t+1} = g_{t+1} + G_t' μ_t is the gradient of the shift, μ_T of the last."""

    @staticmethod
    def forward(
        ctx: Any, gain: Tensor, shift: Tensor, last: Tensor, lengths: Tensor | None
    ) -> Tensor:
        gain = gain.contiguous()
        paths = _recursions(gain).sweep_back(gain, shift.contiguous(), last, lengths)
        ctx.save_for_backward(gain, paths, lengths)
        return paths

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gain, paths, lengths = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0]
        given = gain, paths, lengths, upstream.contiguous(), wanted
        adjoint, to_gain = _recursions(gain).sweep_back_gradient(*given)
        shift, last = _without_last(adjoint, lengths, 1)
        return to_gain if wanted else None, shift, last, None


def _without_last(adjoint: Tensor, lengths: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
    """The adjoints of the steps that have one after them, zero elsewhere, and of the last ones.

    ``n`` is the axis of the sequences, with the time behind it.
    """
    steps = adjoint.shape[n + 1]
    if lengths is None:
        return adjoint.narrow(n + 1, 0, steps - 1).clone(), adjoint.select(n + 1, steps - 1).clone()
    sequences = torch.arange(len(lengths), device=adjoint.device)
    place = (*[slice(None)] * n, sequences, lengths - 1)
    last = adjoint[place].clone()
    adjoint = adjoint.clone()
    adjoint[place] = 0
    return adjoint.narrow(n + 1, 0, steps - 1), last


def backward_sweep(
    gain: Tensor, shift: Tensor, last: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """x_T = last, x_t = G_t x_{t+1} + c_t: ``(*S, N, T, D)``.

    With c_t = c⁰_t + L_t ε_t this draws from, without the noise it gives the mean of, the law with
    backward kernels p(x_t | x_{t+1}) = N(G_t x_{t+1} + c⁰_t, L_t L_t').

    Args:
        gain: G ``(N|1, T-1|1, D, D)``; an axis of size 1 is shared.
        shift: c ``(*S, N, T-1, D)``, with any leading axes, of draws for instance.
        last: ``(*S, N, D)``, at the last step of every sequence.
        lengths: ``(N,)`` int64, 1 <= length <= T; None: every sequence has T steps. Gains and
            shifts from a sequence's last step on are ignored; x is zero beyond it.

    Differentiable (first order, analytic) in all three. The units are those of the arguments.

    Raises:
        ValueError: shapes, precisions, devices or lengths that do not fit.
    """
    if shift.ndim < 3:
        raise ValueError(f"shift must have shape (..., N, T-1, D); got {tuple(shift.shape)}")
    *draws, n, before, size = shift.shape
    rows, d = (n,), (size,)
    _check_shapes(
        {"shift": shift, "gain": gain, "last": last},
        {
            "shift": tuple((s,) for s in shift.shape),
            "gain": ((n, 1), (before, 1), d, d),
            "last": (*((s,) for s in draws), rows, d),
        },
    )
    if lengths is not None:
        check_lengths(lengths, n, before + 1, shift.device)
    count = math.prod(draws)
    flat = shift.reshape(count, n, before, size), last.reshape(count, n, size)
    paths = cast(Tensor, _SweepBack.apply(gain, *flat, lengths))  # type: ignore[no-untyped-call]
    return paths.reshape(*draws, n, before + 1, size)


class _SweepCovariances(torch.autograd.Function):
    """B_1 = g_1, B_{t+1} = g_{t+1} + G_t' B_t G_t is the gradient of the noise, B_T of the last."""

    @staticmethod
    def forward(
        ctx: Any, gain: Tensor, noise: Tensor, last: Tensor, lengths: Tensor | None, n: int
    ) -> Tensor:
        gain = gain.contiguous()
        wide = last.expand(n, -1, -1)
        covariances = _recursions(gain).sweep_covariances(gain, noise.contiguous(), wide, lengths)
        ctx.save_for_backward(gain, covariances, lengths)
        ctx.sizes = noise.shape, last.shape
        return covariances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gain, covariances, lengths = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0]
        given = gain, covariances, lengths, upstream.contiguous(), wanted
        adjoint, to_gain = _recursions(gain).sweep_covariances_gradient(*given)
        noise, last = _without_last(adjoint, lengths, 0)
        to_noise, to_last = ctx.sizes
        sums = noise.sum_to_size(to_noise), last.sum_to_size(to_last)
        return to_gain if wanted else None, *sums, None, None


def backward_covariances(
    gain: Tensor, noise: Tensor, last: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """S_T = last, S_t = G_t S_{t+1} G_t' + W_t: ``(N, T, D, D)``.

    The covariances of the law with backward kernels p(x_t | x_{t+1}) = N(G_t x_{t+1} + c_t, W_t);
    those of neighbours in time are Cov(x_t, x_{t+1}) = G_t S_{t+1}.

    Args:
        gain: G ``(N|1, T-1|1, D, D)``; an axis of size 1 is shared.
        noise: W ``(N|1, T-1, D, D)``.
        last: ``(N|1, D, D)``, at the last step of every sequence.
        lengths: ``(N,)`` int64, 1 <= length <= T; None: every sequence has T steps. S is zero
            beyond the length.

    Differentiable (first order, analytic) in all three; no matrix has to be symmetric for that.
    N is 1 where nothing tells otherwise. The units are those of the arguments.

    Raises:
        ValueError: shapes, precisions, devices or lengths that do not fit.
    """
    if noise.ndim != 4:
        raise ValueError(f"noise must have shape (N|1, T-1, D, D); got {tuple(noise.shape)}")
    _, before, size, _ = noise.shape
    sizes = [len(x) for x in (gain, noise, last) if x.ndim]
    n = max(sizes) if lengths is None else len(lengths)
    rows, d = (n, 1), (size,)
    _check_shapes(
        {"noise": noise, "gain": gain, "last": last},
        {"noise": (rows, (before,), d, d), "gain": (rows, (before, 1), d, d), "last": (rows, d, d)},
    )
    if lengths is not None:
        check_lengths(lengths, n, before + 1, noise.device)
    arguments = gain, noise, last, lengths, n
    return cast(Tensor, _SweepCovariances.apply(*arguments))  # type: ignore[no-untyped-call]
