"""Starting values for models of binary nodes: clusters whose centres are c + B'h."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.moments import overall_moments
from ..data.sequences import Sequences
from ..emissions.counts import Poisson
from .nodes import node_states

if TYPE_CHECKING:
    from .hmm import HiddenMarkovModel
    from .node_emission import NodeEmission

_FRAMES, _NUMBERS = 5000, 2**22
"""Most frames that the laws are estimated from; most frames times states held at once."""

_RESTARTS, _ITERATIONS = 8, 30

_CERTAINTY = 0.95
"""Share of its own state in a frame's weights; the rest is spread over all states."""


def start_of_nodes(
    emission: NodeEmission, model: HiddenMarkovModel, data: Sequences
) -> dict[str, Tensor]:
    """Estimate values of a model of binary nodes with a ``NodeEmission`` from the data.

    Frames are assigned to the states with the nearest centres c + B'h, then c and B are fitted to
    them by least squares, and so on (k-means with centres on the corners of a parallelepiped);
    finally every law is estimated. Nodes are in decreasing order of their effect, and a node that
    is on raises the sum of the observation. Uses torch's global generator.
    """
    y, mask = emission.observed(data)
    y = y if emission.codes else y.double()
    seen = data.observed_steps.nonzero()
    frames = max(500, min(_FRAMES, _NUMBERS // model.states))
    some = seen[torch.randperm(len(seen))[:frames]].unbind(1)
    x = emission.encode(y)[some].double()
    x = torch.where(mask[some] if mask.ndim == 3 else mask[some].unsqueeze(-1), x, 0)
    if isinstance(emission.family, Poisson):
        x = x.log1p()  # the effects of the nodes add up on a log scale
    own = torch.nn.functional.one_hot(corners(x, emission.nodes), model.states).double()
    weight = _CERTAINTY * own + (1 - _CERTAINTY) / model.states
    laws = emission.start(y[some], mask[some], weight)
    laws |= {name: model.known[name] for name in laws if name in model.known}
    labels = _labels(emission, laws, data)
    return {**laws, **_chain(emission, model, laws, labels)}


def corners(x: Tensor, nodes: int) -> Tensor:
    """States of frames x (M, D): the best of several runs of the constrained k-means."""
    mean, spread = overall_moments(x, torch.ones_like(x, dtype=torch.bool))
    x = (x - mean) / spread
    states = node_states(nodes)
    design = torch.cat([states, torch.ones(len(states), 1, dtype=x.dtype)], -1)
    ridge = 1e-3 * len(x) / len(states) * torch.eye(nodes + 1, dtype=x.dtype)
    best, least = torch.zeros(nodes + 1, x.shape[-1], dtype=x.dtype), float("inf")
    for _ in range(_RESTARTS):
        pairs = torch.randint(len(x), (2, nodes))
        loading = (x[pairs[0]] - x[pairs[1]]) + 0.1 * torch.randn(nodes, x.shape[-1])
        table = torch.cat([loading, -loading.sum(0, keepdim=True) / 2])
        before = torch.full((len(x),), -1)
        for _ in range(_ITERATIONS):
            nearest = torch.cdist(x, design @ table).argmin(-1)
            if torch.equal(nearest, before):
                break
            before, rows = nearest, design[nearest]
            table = torch.linalg.solve(rows.mT @ rows + ridge, rows.mT @ x)
        total = float(torch.cdist(x, design @ table).amin(-1).square().sum())
        if total < least:
            best, least = table, total
    best = _named(best)
    return torch.cdist(x, design @ best).argmin(-1)


def _named(table: Tensor) -> Tensor:
    """The same corners, with nodes in order of size, each of which raises the sum when it is on."""
    loading, intercept = table[:-1], table[-1:]
    flip = loading.sum(-1, keepdim=True) < 0
    intercept = intercept + torch.where(flip, loading, 0).sum(0, keepdim=True)
    loading = torch.where(flip, -loading, loading)
    return torch.cat([loading[(-loading.norm(dim=-1)).argsort()], intercept])


def _labels(emission: NodeEmission, laws: Mapping[str, Tensor], data: Sequences) -> Tensor:
    """The state of highest likelihood at every step, (N, T); −1 where nothing was observed."""
    labels = torch.full(data.observed_steps.shape, -1)
    at = 0
    for part in data.batches(max(1, 4 * _NUMBERS // (2**emission.nodes * data.max_length))):
        best = emission.score(laws, *emission.observed(part)).argmax(-1)
        labels[at : at + len(part), : part.max_length] = best
        at += len(part)
    return torch.where(data.observed_steps, labels, -1)


def _chain(
    emission: NodeEmission, model: HiddenMarkovModel, laws: Mapping[str, Tensor], labels: Tensor
) -> dict[str, Tensor]:
    """Values of the initial and the transition law from the nodes' moves."""
    pairs = (labels[:, :-1] >= 0) & (labels[:, 1:] >= 0)
    moves = labels[:, :-1][pairs] * model.states + labels[:, 1:][pairs]
    counts = torch.bincount(moves, minlength=model.states**2).double()
    chain = model.transition.start(counts.reshape(model.states, model.states))
    first = torch.bincount(labels[:, 0].clamp_min(0), minlength=model.states).double() + 1
    chain |= model.initial_law.start(first / first.sum())
    if hasattr(model.transition, "emission"):  # that of a harmonium, whose Z it contains
        # Z multiplies the harmonium's moves; its additive part belongs to the biases.
        alone = emission.log_partition_alone(laws)
        chain = {
            name: value - alone if name in ("node_bias", "node_initial") else value
            for name, value in chain.items()
        }
    return chain
