"""All gates of an LSTM layer, with their gradients, by one compiled recursion."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def _over_sequences(kernel: Callable[..., None], arrays: list[Any]) -> None:
    """Runs a kernel, its sequences dealt out to the threads; the last array is (N, T, …)."""
    from ..exact.chains_cpu import cut, together

    n, steps, width = arrays[-1].shape
    work = n * steps * width * (width + 8)
    together([partial(kernel, *part, *arrays) for part in cut(n)], work)


class _Cells(torch.autograd.Function):
    """Gates (N, T, 4 H), cells and outputs (N, T, H) from W x + b (N, T, 4 H) and U (4 H, H)."""

    @staticmethod
    def forward(ctx: Any, told: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from . import lstm_machine as machine  # numba is loaded when first needed

        told, weight = told.contiguous(), weight.contiguous()
        gates, cells = torch.empty_like(told), told[..., : len(weight) // 4].clone()
        outputs = torch.empty_like(cells)
        arrays = [x.numpy() for x in (told, weight.mT.contiguous(), gates, cells, outputs)]
        _over_sequences(machine.forward, arrays)
        ctx.save_for_backward(weight, gates, cells, outputs)
        ctx.set_materialize_grads(False)
        return gates, cells, outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        from . import lstm_machine as machine

        weight, gates, cells, outputs = ctx.saved_tensors
        nothing = gates.new_empty(0, 0, 0)
        told = torch.empty_like(gates)
        own = [nothing if one is None else one.contiguous() for one in upstream]
        arrays = [x.numpy() for x in (weight, gates, cells, *own, told)]
        _over_sequences(machine.backward, arrays)
        if not ctx.needs_input_grad[1]:
            return told, None
        before, after = outputs[:, :-1].flatten(0, 1), told[:, 1:].flatten(0, 1)
        return told, after.mT @ before


def lstm_cells(told: Tensor, weight: Tensor) -> dict[str, Tensor]:
    r"""Returns gates i, f, g, o, cell c and output h of an LSTM layer, (N, T, H) each.

    .. math::
        i, f, o = \sigma(x_t + U h_{t-1}), \quad g = \tanh(x_t + U h_{t-1}), \quad
        c_t = f c_{t-1} + i g, \quad h_t = o \tanh(c_t)

    Args:
        told: what the gates read of the input and their biases, (N, T, 4 H); on the CPU.
        weight: U, (4 H, H), of the same dtype.
    """
    apply: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Cells.apply
    found = apply(told, weight)
    i, f, g, o = found[0].chunk(4, -1)
    return {"i": i, "f": f, "g": g, "o": o, "c": found[1], "h": found[2]}
