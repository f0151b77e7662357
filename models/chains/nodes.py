"""Binary nodes: k of them have 2^k joint states, numbered by their binary digits."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import require, require_count

LARGEST_NODES = 16
"""Most nodes whose states can be enumerated; more would fill the memory."""

LARGEST_COUPLED = 14
"""Most nodes whose moves between all states fit into memory; independent chains do without them."""


def node_states(nodes: int) -> Tensor:
    """Return the 2^k states of k nodes as bits: row s holds the binary digits of s.

    The first node is the highest digit, so that the last node changes fastest.

    Args:
        nodes: number of nodes k.

    Returns:
        The bits, (2^k, k) float64.

    Raises:
        ValueError: too many nodes to enumerate.

    >>> node_states(2)
    tensor([[0., 0.],
            [0., 1.],
            [1., 0.],
            [1., 1.]], dtype=torch.float64)
    """
    require_count(nodes, "nodes")
    require(
        nodes <= LARGEST_NODES,
        "nodes",
        f"can be enumerated up to {LARGEST_NODES}",
        f"{nodes}, which have 2^{nodes} states: a belief over them takes {_bytes(nodes)} a step, "
        f"their transition {_bytes(2 * nodes)}",
    )
    place = torch.arange(nodes - 1, -1, -1)
    return ((torch.arange(2**nodes).unsqueeze(-1) >> place) & 1).double()


def require_moves(nodes: int) -> None:
    """Raise ``ValueError`` unless the moves between all states of so many nodes fit into memory.

    The message gives the memory that they would take.
    """
    require(
        nodes <= LARGEST_COUPLED,
        "nodes",
        f"have moves that can be enumerated up to {LARGEST_COUPLED} (filters and smoothers of "
        f"coupling='diagonal' do without, up to {LARGEST_NODES})",
        f"{nodes}, which have 2^{nodes} states: their transition takes {_bytes(2 * nodes)}",
    )


def _bytes(bits: int) -> str:
    """Memory of 2^bits numbers, which may be too many to be written out."""
    return f"{2.0 ** (bits - 27):.3g} GB" if bits < 100 else f"2^{bits - 27} GB"


def product_law(logits: Tensor) -> Tensor:
    """Log probabilities (…, 2^k) of independent nodes with logits l (…, k).

    log p(h) = h · l − Σ_j log(1 + e^{l_j}).
    """
    states = node_states(logits.shape[-1]).to(logits)
    return logits @ states.mT - torch.nn.functional.softplus(logits).sum(-1, keepdim=True)


def node_probabilities(probabilities: Tensor) -> Tensor:
    """P(h_j = 1), (…, k), from probabilities of all states (…, 2^k)."""
    states = probabilities.shape[-1]
    require(
        states > 1 and states & (states - 1) == 0,
        "probabilities",
        "needs 2^k entries along the last axis, k >= 1",
        states,
    )
    return probabilities @ node_states(states.bit_length() - 1).to(probabilities)


def node_log_probabilities(log_law: Tensor) -> tuple[Tensor, Tensor]:
    """log P(h_j = 1) and log P(h_j = 0), (…, k) each, from log probabilities (…, 2^k).

    Each is summed by itself: a difference from 1 would leave only rounding errors near 0.
    """
    on = node_states((log_law.shape[-1] - 1).bit_length()).to(log_law.device).bool()
    wide = log_law.unsqueeze(-1)
    up = torch.where(on, wide, -torch.inf).logsumexp(-2)
    down = torch.where(on, -torch.inf, wide).logsumexp(-2)
    return up, down


def require_states(states: int, nodes: int) -> None:
    """Raise ``ValueError`` unless the number of states is that of the nodes."""
    require(states == 2**nodes, "states", f"must be 2^{nodes} for {nodes} nodes", states)
