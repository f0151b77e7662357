"""Gates of torch's recurrent networks, for all steps at once.

A gate reads the input and the output of the previous step. Once torch has computed all outputs,
every gate of every step follows from one matrix product, and the cell from a linear recurrence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...models.boundary import boundary
from ...models.checks import require
from .lstm import lstm_cells


@boundary
def recurrent_gates(network: nn.RNNBase, x: Tensor) -> dict[str, Tensor]:
    """Computes all gates of a ``torch.nn`` LSTM, GRU or RNN; differentiable.

    Args:
        network: reads forward, without projection; its initial states are zero.
        x: inputs, (N, T, input_size).

    Returns:
        (N, T, layers, hidden_size) under torch's names: i, f, g, o, c, h (LSTM), r, z, n, h (GRU),
        h (RNN).

    Raises:
        ValueError: another network, one that reads both ways or has a projection; inputs without a
            step, of another width or of another dtype.

    >>> import torch
    >>> from beliefzoo.inference import recurrent_gates
    >>> lstm, x = torch.nn.LSTM(3, 8, batch_first=True), torch.ones(2, 10, 3)
    >>> gates = recurrent_gates(lstm, x)
    >>> cell = gates["f"][:, 1:] * gates["c"][:, :-1] + (gates["i"] * gates["g"])[:, 1:]
    >>> torch.allclose(cell, gates["c"][:, 1:], atol=1e-6)
    True
    """
    check_network(network)
    check_inputs(network, x, "x")
    dtype = next(network.parameters()).dtype
    require(x.dtype == dtype, "x", f"needs the dtype of the network, {dtype}", x.dtype)
    layers: list[dict[str, Tensor]] = []
    for layer in range(network.num_layers):
        weights = {name: getattr(network, f"{name}_l{layer}", None) for name in _WEIGHTS}
        one = layer_gates(network, weights, x)
        layers.append(one)
        x = one["h"]
    return {name: torch.stack([one[name] for one in layers], 2) for name in layers[0]}


def check_network(network: object) -> None:
    """Raises ``ValueError`` unless the network has one gate of each kind per unit."""
    require(
        isinstance(network, nn.LSTM | nn.GRU | nn.RNN),
        "network",
        "must be a torch.nn LSTM, GRU or RNN",
        type(network).__name__,
    )
    assert isinstance(network, nn.RNNBase)
    require(
        not network.bidirectional and not network.proj_size,
        "network",
        "gates need one direction and no projection",
        network,
    )


def check_inputs(network: nn.RNNBase, x: object, argument: str) -> None:
    """Raise ``ValueError`` unless x is a batch of sequences that the network can read."""
    shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
    size = network.input_size
    require(
        isinstance(x, Tensor) and x.ndim == 3 and x.shape[1] > 0 and x.shape[2] == size,
        argument,
        f"needs shape (sequences, steps, {size}), at least one step",
        shape,
    )


_WEIGHTS = "weight_ih", "weight_hh", "bias_ih", "bias_hh"


def layer_gates(network: nn.RNNBase, weights: Mapping[str, Any], x: Tensor) -> dict[str, Tensor]:
    """All gates of a layer with these weights (no bias: None), (N, T, hidden_size) by name."""
    from_x = nn.functional.linear(x, weights["weight_ih"], weights["bias_ih"])
    if isinstance(network, nn.LSTM) and x.is_cpu and x.dtype in (torch.float32, torch.float64):
        told = from_x if weights["bias_hh"] is None else from_x + weights["bias_hh"]
        return lstm_cells(told, weights["weight_hh"])
    h = _outputs(network, weights, x)
    before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)
    from_h = nn.functional.linear(before, weights["weight_hh"], weights["bias_hh"])
    if isinstance(network, nn.LSTM):
        i, f, g, o = (from_x + from_h).chunk(4, -1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        return {"i": i, "f": f, "g": g, "o": o, "c": affine_scan(f, i * g), "h": h}
    if isinstance(network, nn.GRU):
        (xr, xz, xn), (hr, hz, hn) = from_x.chunk(3, -1), from_h.chunk(3, -1)
        r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
        return {"r": r, "z": z, "n": (xn + r * hn).tanh(), "h": h}
    return {"h": h}


def _outputs(network: nn.RNNBase, weights: Mapping[str, Any], x: Tensor) -> Tensor:
    """h_t of one layer, (N, T, hidden_size), by torch's own network with these weights."""
    own = {f"{name}_l0": weight for name, weight in weights.items() if weight is not None}
    kind = next(k for k in (nn.LSTM, nn.GRU, nn.RNN) if isinstance(network, k))
    options: dict[str, Any] = {}
    if isinstance(network, nn.RNN):
        options["nonlinearity"] = network.nonlinearity
    with torch.device("meta"):  # only holds the weights: no initialisation
        shell = kind(
            x.shape[-1], network.hidden_size, batch_first=True, bias=network.bias, **options
        )
    out: Tensor = functional_call(shell, own, (x,))[0]
    return out


def affine_scan(factor: Tensor, term: Tensor) -> Tensor:
    """c_t = factor_t c_{t-1} + term_t along axis 1, c_0 = 0, in log2(T) passes; differentiable.

    Two steps compose to one, c_t = (f_t f_{t-1}) c_{t-2} + (f_t u_{t-1} + u_t): each pass doubles
    the steps that are accounted for.
    """
    span, steps = 1, term.shape[1]
    while span < steps:
        reached = term[:, span:] + factor[:, span:] * term[:, :-span]
        shrunk = factor[:, span:] * factor[:, :-span]
        term = torch.cat([term[:, :span], reached], 1)
        factor = torch.cat([factor[:, :span], shrunk], 1)
        span *= 2
    return term
