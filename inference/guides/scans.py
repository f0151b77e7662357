"""Recurrences in time with gradients by hand: a relu network, and a path drawn step by step.

Autograd records every operation of every step, and computes the gradient of every weight once a
step. Here the backward pass carries only the gradient of the state, and each weight's gradient is
one matrix product over all steps.

Arrays are (time, row, …), rows sorted by length, longest first, so that the ``counts[t]`` rows that
have a step t are the first ones. Entries beyond the length of a row are zero, and have no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from ...models.continuous.deep import LEAST_RAW, spread


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
    r"""A path z_t = m_t + s_t ε_t whose law depends on the previous step.

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


def relative_path_scan(
    first: Tensor,
    potential: Tensor,
    noise: Tensor,
    into: tuple[Tensor, Tensor],
    out: Tensor,
    gate: tuple[Tensor, Tensor],
    proposal: tuple[Tensor, Tensor],
    counts: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    r"""A path z_t = μ(z_{t-1}) + d_t + s_t ε_t around a gated transition μ.

    .. math::
        (c, a, p, k) &= (\tanh, \mathrm{relu}, \mathrm{relu}, 1)(z_{t-1} M + m_t), \qquad
        (d_t, r_t) = g_t + c\,V \\
        h &= p\,P + p_0, \qquad
        \mu = k + \mathrm{sigmoid}(a\,G + g_0) \circ (h - k)

    and s as in ``path_scan``. Of the first step μ is ``first`` and c is tanh of m_1's part.

    Args:
        first: μ of the first step, (n, D) or (1, D).
        potential: g, (T, n, 2 D).
        noise: ε, (T, n, D).
        into: M (D, C + 2 W + D) and m, (C + 2 W + D,) or (T, n, C + 2 W + D).
        out: V, (C, 2 D).
        gate: G (W, D) and g_0 (D,).
        proposal: P (W, D) and p_0 (D,).
        counts: number of rows that have a step t, T numbers that do not increase.

    Returns:
        Paths z (T, n, D), (d, r) (T, n, 2 D), and h (T, n, D), which the first step has none of.
    """
    arguments = first, potential, noise, *into, out, *gate, *proposal, tuple(counts)
    found = _RelativePathScan.apply(*arguments)  # type: ignore[no-untyped-call]
    paths, moments, proposed = found
    return paths, moments, proposed


class _RelativePathScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        first: Tensor,
        potential: Tensor,
        noise: Tensor,
        matrix: Tensor,
        bias: Tensor,
        out: Tensor,
        gate: Tensor,
        gate_bias: Tensor,
        proposal: Tensor,
        proposal_bias: Tensor,
        counts: tuple[int, ...],
    ) -> tuple[Tensor, Tensor, Tensor]:
        steps, rows, size = noise.shape
        sizes = len(out), len(gate), len(gate), size
        paths = noise.new_zeros(steps + 1, rows, size)
        units = noise.new_zeros(steps, rows, sum(sizes))
        moments = torch.zeros_like(potential)
        opened, proposed = torch.zeros_like(noise), torch.zeros_like(noise)
        for t, m in enumerate(counts):
            if not m:
                break
            every = units[t, :m]
            offset = bias if bias.ndim == 1 else bias[t, :m]
            torch.addmm(offset, paths[t, :m], matrix, out=every)
            c, a, p, k = every.split(sizes, -1)
            c.tanh_()
            law = moments[t, :m]
            torch.addmm(potential[t, :m], c, out, out=law)
            if t:
                every[:, sizes[0] : -size].relu_()
                g, h = opened[t, :m], proposed[t, :m]
                torch.addmm(gate_bias, a, gate, out=g)
                g.sigmoid_()
                torch.addmm(proposal_bias, p, proposal, out=h)
                mean = torch.lerp(k, h, g)
            else:
                mean = first[:m] if len(first) > 1 else first
            mean = mean + law[:, :size]
            torch.addcmul(mean, spread(law[:, size:]), noise[t, :m], out=paths[t + 1, :m])
        ctx.save_for_backward(
            paths, units, moments, opened, proposed, noise, matrix, out, gate, proposal
        )
        ctx.counts, ctx.sizes, ctx.shapes = counts, sizes, (first.shape, bias.shape)
        return paths[1:], moments, proposed

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_paths: Tensor, grad_moments: Tensor, grad_proposed: Tensor
    ) -> tuple[Tensor | None, ...]:
        paths, units, moments, opened, proposed, noise, matrix, out, gate, proposal = (
            ctx.saved_tensors
        )
        counts, sizes = ctx.counts, ctx.sizes
        size, hidden = noise.shape[-1], sizes[0]
        raw = moments[..., size:]
        slope = noise * raw.sigmoid() * (raw > LEAST_RAW)
        c, a, p, k = units.split(sizes, -1)
        inner = torch.cat([1 - c * c, a > 0, p > 0], -1)
        steep = (proposed - k) * opened * (1 - opened)
        grad, grad_units = torch.zeros_like(moments), torch.zeros_like(units)
        grad_gate, grad_h = torch.zeros_like(noise), torch.zeros_like(noise)
        turned = [w.t() for w in (out, gate, proposal, matrix)]
        carried = grad_paths.new_zeros(noise.shape[1:])
        for t in range(len(counts) - 1, -1, -1):
            m = counts[t]
            if not m:
                continue
            onward = carried[:m].add_(grad_paths[t, :m])
            law, every = grad[t, :m], grad_units[t, :m]
            torch.add(grad_moments[t, :m, :size], onward, out=law[:, :size])
            torch.addcmul(grad_moments[t, :m, size:], onward, slope[t, :m], out=law[:, size:])
            torch.mm(law, turned[0], out=every[:, :hidden])
            if not t:
                break  # the first mean is given
            torch.mul(onward, steep[t, :m], out=grad_gate[t, :m])
            torch.addcmul(grad_proposed[t, :m], onward, opened[t, :m], out=grad_h[t, :m])
            torch.mm(grad_gate[t, :m], turned[1], out=every[:, hidden : hidden + sizes[1]])
            torch.mm(grad_h[t, :m], turned[2], out=every[:, hidden + sizes[1] : -size])
            torch.addcmul(onward, onward, opened[t, :m], value=-1, out=every[:, -size:])
            every[:, :-size] *= inner[t, :m]
            torch.mm(every, turned[3], out=carried[:m])
        grad_units[0, :, :hidden] *= inner[0, :, :hidden]
        grad_first = carried.clone()
        flat, steps = grad_units.flatten(0, 1), slice(1, None)
        first_shape, bias_shape = ctx.shapes
        return (
            grad_first if first_shape[0] == len(grad_first) else grad_first.sum(0, keepdim=True),
            grad,
            None,
            paths[:-1].flatten(0, 1).t() @ flat,
            flat.sum(0) if len(bias_shape) == 1 else grad_units,
            c.flatten(0, 1).t() @ grad.flatten(0, 1),
            a[steps].flatten(0, 1).t() @ grad_gate[steps].flatten(0, 1),
            grad_gate.sum((0, 1)),
            p[steps].flatten(0, 1).t() @ grad_h[steps].flatten(0, 1),
            grad_h.sum((0, 1)),
            None,
        )
