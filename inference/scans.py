"""Recurrences in time with their gradient by hand: a relu network, and a path drawn step by step.

Autograd records every operation of every step, and multiplies out the gradient of every weight once
a step. Here the steps of the backward pass carry the gradient of the state alone, and each weight's
gradient is one matrix product over all steps.

Arrays are (time, row, …), rows sorted by length, longest first, so that the ``counts[t]`` rows that
have a step t are the first ones. What lies beyond the length of a row is zero, and has no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from ..models.deep import LEAST_RAW, spread


def relu_scan(
    inputs: Tensor, initial: Tensor, weight: Tensor, counts: Sequence[int], *, reverse: bool = False
) -> Tensor:
    r"""States of a relu network, h_t = relu(u_t + h_{t-1} W).

    Args:
        inputs: u, what enters the units from outside, bias included, (T, n, H).
        initial: the state before the first step, (H,).
        weight: W, (H, H).
        counts: number of rows that have a step t, T numbers that do not increase.
        reverse: read from the end of every row to its beginning, h_t = relu(u_t + h_{t+1} W), the
            initial state behind its last step.

    Returns:
        h, (T, n, H).
    """
    arguments = inputs, initial, weight, tuple(counts), reverse
    return cast(Tensor, _ReluScan.apply(*arguments))  # type: ignore[no-untyped-call]


def path_scan(
    initial: Tensor,
    potential: Tensor,
    noise: Tensor,
    into: tuple[Tensor, Tensor],
    out: Tensor,
    counts: Sequence[int],
) -> tuple[Tensor, Tensor]:
    r"""A path z_t = m_t + s_t ε_t whose law reads the step before it.

    .. math:: (m_t, r_t) = g_t + \tanh(z_{t-1} W + b)\, V, \qquad s_t = \log(1 + e^{\max(r_t, -15)})

    Args:
        initial: z_0, (D,).
        potential: g, (T, n, 2 D).
        noise: ε, (T, n, D).
        into: W (D, C) and b (C,).
        out: V, (C, 2 D).
        counts: number of rows that have a step t, T numbers that do not increase.

    Returns:
        Paths z (T, n, D), and (m, r) (T, n, 2 D).
    """
    arguments = initial, potential, noise, *into, out, tuple(counts)
    paths, moments = _PathScan.apply(*arguments)  # type: ignore[no-untyped-call]
    return paths, moments


class _ReluScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        initial: Tensor,
        weight: Tensor,
        counts: tuple[int, ...],
        reverse: bool,
    ) -> Tensor:
        states = torch.zeros_like(inputs)
        for t, m, before, old in _order(counts, reverse):
            here = states[t, :m]
            if old:
                torch.addmm(inputs[t, :old], states[before, :old], weight, out=here[:old])
            if old < m:
                torch.add(inputs[t, old:m], initial @ weight, out=here[old:])
            here.relu_()
        ctx.save_for_backward(states, initial, weight)
        ctx.counts, ctx.reverse = counts, reverse
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        states, initial, weight = ctx.saved_tensors
        counts, reverse = ctx.counts, ctx.reverse
        active = states > 0
        grad = grad * active
        turned = weight.t()
        first = torch.zeros_like(initial)  # sum of gradients of the steps that follow ``initial``
        for t, m, before, old in reversed(_order(counts, reverse)):
            if old:
                carried = grad[t, :old] @ turned
                grad[before, :old].addcmul_(carried, active[before, :old])
            if old < m:
                first += grad[t, old:m].sum(0)
        # A row without a step before meets zeros on one of the two sides.
        source, target = (slice(1, None), slice(-1)) if reverse else (slice(-1), slice(1, None))
        grad_weight = states[source].flatten(0, 1).t() @ grad[target].flatten(0, 1)
        grad_weight.addr_(initial, first)
        return grad, first @ turned, grad_weight, None, None


def _order(counts: tuple[int, ...], reverse: bool) -> list[tuple[int, int, int, int]]:
    """Steps in the order in which they are taken.

    (t, number of rows, the step before, number of rows that have that step).
    """
    shift = 1 if reverse else -1
    taken = range(len(counts) - 1, -1, -1) if reverse else range(len(counts))
    first = taken[0]
    return [
        (t, counts[t], t + shift, 0 if t == first else min(counts[t], counts[t + shift]))
        for t in taken
        if counts[t]
    ]


class _PathScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        initial: Tensor,
        potential: Tensor,
        noise: Tensor,
        weight: Tensor,
        bias: Tensor,
        out: Tensor,
        counts: tuple[int, ...],
    ) -> tuple[Tensor, Tensor]:
        steps, rows, size = noise.shape
        paths = noise.new_zeros(steps + 1, rows, size)
        paths[0] = initial
        hidden = noise.new_zeros(steps, rows, len(bias))
        moments = torch.zeros_like(potential)
        for t, m in enumerate(counts):
            if not m:
                break
            unit = hidden[t, :m]
            torch.addmm(bias, paths[t, :m], weight, out=unit)
            unit.tanh_()
            law = moments[t, :m]
            torch.addmm(potential[t, :m], unit, out, out=law)
            scale = spread(law[:, size:])
            torch.addcmul(law[:, :size], scale, noise[t, :m], out=paths[t + 1, :m])
        ctx.save_for_backward(paths, hidden, moments, noise, weight, out)
        ctx.counts = counts  # type: ignore[attr-defined]
        return paths[1:], moments

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_paths: Tensor, grad_moments: Tensor) -> tuple[Tensor | None, ...]:
        paths, hidden, moments, noise, weight, out = ctx.saved_tensors
        counts: tuple[int, ...] = ctx.counts
        size = noise.shape[-1]
        raw = moments[..., size:]
        slope = noise * raw.sigmoid() * (raw > LEAST_RAW)
        inner = 1 - hidden * hidden
        grad = torch.zeros_like(moments)  # of the moments, all their uses together
        grad_hidden = torch.zeros_like(hidden)
        turned_out, turned = out.t(), weight.t()
        carried = grad_paths.new_zeros(noise.shape[1:])
        for t in range(len(counts) - 1, -1, -1):
            m = counts[t]
            if not m:
                continue
            onward = carried[:m].add_(grad_paths[t, :m])
            law = grad[t, :m]
            torch.add(grad_moments[t, :m, :size], onward, out=law[:, :size])
            torch.addcmul(grad_moments[t, :m, size:], onward, slope[t, :m], out=law[:, size:])
            unit = grad_hidden[t, :m]
            torch.mm(law, turned_out, out=unit)
            unit *= inner[t, :m]
            torch.mm(unit, turned, out=carried[:m])
        flat = grad_hidden.flatten(0, 1)
        return (
            carried.sum(0),
            grad,
            None,
            paths[:-1].flatten(0, 1).t() @ flat,
            flat.sum(0),
            hidden.flatten(0, 1).t() @ grad.flatten(0, 1),
            None,
        )
