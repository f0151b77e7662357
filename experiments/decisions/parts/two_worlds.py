"""Models whose y is emitted by binary nodes, and worlds in which the same y acts on them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ....models import (
    Bernoulli,
    Gaussian,
    HiddenMarkovModel,
    NodeEmission,
    Sequences,
    TemporalSigmoidBeliefNetwork,
    as_policy,
    emission_of,
    node_states,
)
from ...parts.gates import Pairs


class Case(NamedTuple):
    """A model that emits y and x, and how many of its features are y."""

    emitted: HiddenMarkovModel
    reads: int

    @property
    def family(self) -> type[Gaussian] | type[Bernoulli]:
        """Family of y and x."""
        assert isinstance(self.emitted.emission, NodeEmission)
        family = self.emitted.emission.family
        assert isinstance(family, Gaussian | Bernoulli)
        return type(family)

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        assert self.emitted.nodes is not None
        return self.emitted.nodes

    @property
    def features(self) -> int:
        """Number of features of y and x together."""
        return self.emitted.emission.features


def _chain(nodes: int, switch_rate: float) -> dict[str, Tensor]:
    """Independent nodes, on as often as off."""
    weight = 2 * math.log((1 - switch_rate) / switch_rate)
    one = torch.ones(nodes, dtype=torch.float64)
    return {
        "node_initial": 0 * one,
        "node_weight": weight * torch.eye(nodes, dtype=torch.float64),
        "node_bias": -weight / 2 * one,
    }


def _gaussian(nodes: int, switch_rate: float) -> Case:
    """y = ±1 + N(0, 1) in the directions of orthogonal axes, one a node; x = h + N(0, ½²)."""
    turn = math.pi / 6
    axes = torch.tensor([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    effect = 2 * (axes if nodes == 2 else torch.ones(1, 1)).double()
    family = Gaussian(2 * nodes)
    one = torch.ones(nodes, dtype=torch.float64)
    model = TemporalSigmoidBeliefNetwork(nodes, family).with_parameters(
        **_chain(nodes, switch_rate),
        node_loading=torch.cat([effect, torch.diag(one)], -1),
        node_intercept=torch.cat([-effect.sum(0) / 2, 0 * one]),
        scale=torch.cat([one, one / 2]),
    )
    return Case(model, nodes)


def _bits(switch_rate: float) -> Case:
    """Two bits y, right with chance .73 and .82; one bit x, right with chance .95."""
    loading = torch.tensor([[2.0, -3.0, 6.0]])
    model = TemporalSigmoidBeliefNetwork(1, Bernoulli(3)).with_parameters(
        **_chain(1, switch_rate), node_loading=loading, node_intercept=-loading[0] / 2
    )
    return Case(model, 2)


CASES = ("one_gaussian_node", "two_gaussian_nodes", "one_node_of_bits")


def case_of(name: str, switch_rate: float) -> Case:
    """The model of a case."""
    if name == "one_node_of_bits":
        return _bits(switch_rate)
    return _gaussian(1 if name == "one_gaussian_node" else 2, switch_rate)


class Made(NamedTuple):
    """Sequences of (y, x) whose first step is not seen, and the nodes' bits (N, T, k)."""

    data: Sequences
    bits: Tensor

    def pairs(self, reads: int) -> Pairs:
        """What a gate reads and what it gives, at all steps but the first."""
        y = self.data.values[:, 1:, :reads].double()
        before, after = self.bits[:, :-1], self.bits[:, 1:]
        return Pairs(*(part.flatten(0, 1) for part in (before, y, after)))


def make(case: Case, reading: str, sequences: int, length: int, seed: int) -> Made:
    """Data of one reading; the two have the same gate, the same read-out and the same law of y."""
    if reading == "emitted":
        drawn = case.emitted.sample(sequences, length + 1, seed=seed)
        values, states = drawn.data.values, drawn.states
    else:
        world = emission_of(case.emitted, slice(0, case.reads))
        y = world.sample(sequences, length + 1, seed=seed).data.values
        acts = torch.cat([y[:, 1:], torch.zeros_like(y[:, :1])], 1)
        cell = as_policy(case.emitted, case.reads)
        drawn = cell.sample(sequences, length + 1, seed=seed + 1, inputs=acts)
        values, states = torch.cat([y, drawn.data.values.to(y)], -1), drawn.states
    seen = torch.ones_like(values, dtype=torch.bool)
    seen[:, 0] = False
    data = Sequences(
        values=values.masked_fill(~seen, 0),
        mask=seen,
        lengths=torch.full((sequences,), length + 1),
    )
    return Made(data, node_states(case.nodes)[states])


def read_alone(data: Sequences, reads: int) -> Sequences:
    """y without x."""
    return Sequences(
        values=data.values[..., :reads], mask=data.mask[..., :reads], lengths=data.lengths
    )
