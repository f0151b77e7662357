"""Chains of k binary nodes with 2^k hidden states, and when their gate is Bayes' rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyro.distributions as dist
from torch import Tensor

from ..boundary import boundary
from ..checks import require, require_count
from ..emissions.emission import Emission
from .hmm import HiddenMarkovModel, named_emission
from .node_emission import NodeEmission
from .node_laws import (
    Coupling,
    HarmoniumInitial,
    HarmoniumTransition,
    NodeInitial,
    SigmoidTransition,
)


def TemporalSigmoidBeliefNetwork(
    nodes: int,
    emission: Emission | str,
    *,
    coupling: Coupling = "full",
    priors: Mapping[str, dist.TorchDistribution] | None = None,
) -> HiddenMarkovModel:
    r"""Build a model of k binary nodes: 2^k states that move by k (k + 1) numbers.

    .. math::
        p(h_1) = \prod_j \sigma(a_1)_j, \quad
        p(h_t | h_{t-1}) = \prod_j \sigma(A h_{t-1} + a)_j, \quad y_t \sim O(c + B' h_t)

    Each product is over Bernoulli distributions with these probabilities. The model is
    ``HiddenMarkovModel(2**nodes, NodeEmission(nodes, …), transition=SigmoidTransition(nodes, …),
    initial=NodeInitial(nodes))`` and can do all that hidden Markov models can. With
    ``coupling="diagonal"`` the nodes are independent chains that are observed together.

    Args:
        nodes: number of binary nodes k.
        emission: family of the observations (its linear predictor is c + B'h), its short name, or a
            ``NodeEmission``; any other emission law of 2^k states is taken as it is.
        coupling: ``"full"``: every node depends on all nodes before; ``"diagonal"``: on itself.
        priors: replacements for single priors, by parameter name.

    Returns:
        The hidden Markov model.

    Raises:
        ValueError: an invalid argument; the message names it, what is required and what came, and
            for too many nodes the memory that they would take.

    Source: Gan, Li, Henao, Carlson & Carin (2015), Deep temporal sigmoid belief networks, NIPS 28.

    >>> model = TemporalSigmoidBeliefNetwork(2, "gaussian").with_parameters(
    ...     node_initial=[0, 0], node_weight=[[4, -2], [3, 4]], node_bias=[-2, -3],
    ...     node_loading=[[1.0], [3.0]], node_intercept=[0], scale=[0.5],
    ... )
    >>> model.emission.mean(model.known).flatten()  # of the states 00, 01, 10, 11
    tensor([0., 3., 1., 4.], dtype=torch.float64)
    """
    transition = SigmoidTransition(nodes, coupling)
    return HiddenMarkovModel(
        2**nodes,
        of_nodes(nodes, emission),
        transition=transition,
        initial=NodeInitial(nodes),
        priors=priors,
    )


def TemporalRBM(
    nodes: int,
    emission: Emission | str,
    *,
    priors: Mapping[str, dist.TorchDistribution] | None = None,
) -> HiddenMarkovModel:
    r"""Build a model of k binary nodes whose gate is Bayes' rule for any weights (a temporal
    harmonium).

    .. math::
        p(h_t | h_{t-1}) \propto Z(h_t) \exp(h_t \cdot (A h_{t-1} + a)), \quad
        O(y | h) = r(y) \exp(h' W y) / Z(h)

    Then p(h_t, y_t | h_{t-1}) ∝ r(y_t) exp(h_t · (A h_{t-1} + W y_t + a)): given the nodes before,
    nodes and observation are a restricted Boltzmann machine, and
    p(h_t | h_{t-1}, y_t) = Π_j σ(A h_{t-1} + W y_t + a)_j. The first step has its own bias.

    Args:
        nodes: number of binary nodes k.
        emission: family of the observations, its short name, or a ``NodeEmission``.
        priors: replacements for single priors, by parameter name.

    Returns:
        The hidden Markov model.

    Raises:
        ValueError: an invalid argument, or an emission that is not a family for ``NodeEmission``.

    Source: Sutskever & Hinton (2007), Learning multilevel distributed representations for
    high-dimensional sequences, AISTATS.

    >>> from beliefzoo.models import Bernoulli, gate_conditions
    >>> model = TemporalRBM(2, Bernoulli(3)).with_parameters(
    ...     node_initial=[0, 0], node_weight=[[2, 0], [1, 1]], node_bias=[-1, -1],
    ...     node_loading=[[2, 0, 1], [0, 1, 1]], node_intercept=[-1, -1, -1],
    ... )
    >>> gate_conditions(model).exact  # a TemporalSigmoidBeliefNetwork with this loading: False
    True
    """
    law = of_nodes(nodes, emission)
    require(isinstance(law, NodeEmission), "emission", "must have a linear predictor", repr(law))
    assert isinstance(law, NodeEmission)
    return HiddenMarkovModel(
        2**nodes,
        law,
        transition=HarmoniumTransition(law),
        initial=HarmoniumInitial(law),
        priors=priors,
    )


def of_nodes(nodes: int, emission: Emission | str) -> Emission:
    """The emission of k nodes: a family becomes a ``NodeEmission``, any other law is returned as it
    is.
    """
    require_count(nodes, "nodes")
    family = named_emission(emission)
    return NodeEmission(nodes, family) if NodeEmission.takes(family) else family


@dataclass(frozen=True)
class NodeGate:
    """A layer of logistic units: P(h_t = 1 | h_{t-1}, y_t) = σ(W_h h_{t-1} + W_y y_t + b).

    All tensors are float64; y_t of symbols is its one-hot code.

    Args:
        node_weight: W_h, (k, k).
        natural_weight: W_y, (k, F).
        bias: b, (k,).
        first_bias: bias of the first step, which has no nodes before it, (k,).

    >>> import torch
    >>> gate = NodeGate(torch.eye(1), torch.tensor([[2.0]]), torch.tensor([-1.0]), torch.zeros(1))
    >>> gate.logits(torch.tensor([3.0]), before=torch.tensor([1.0]))  # 1 + 6 - 1
    tensor([6.])
    """

    node_weight: Tensor
    natural_weight: Tensor
    bias: Tensor
    first_bias: Tensor

    def logits(self, y: Tensor, before: Tensor | None = None) -> Tensor:
        """Return W_h h + W_y y + b for y (…, F) and bits before (…, k); None at the first step."""
        read = y.to(self.bias) @ self.natural_weight.mT
        if before is None:
            return read + self.first_bias
        return read + before.to(self.bias) @ self.node_weight.mT + self.bias


@boundary
def node_gate(model: HiddenMarkovModel) -> NodeGate:
    """Return the gate that a model of binary nodes implies; see docs/science.md, I3.

    W_h = A, W_y = W of the emission, b = a − ζ, where ζ_j = log Z(only node j is on). For Gaussian
    observations W_y = B Σ⁻¹ and b = a − ½ diag(B Σ⁻¹ B') − B Σ⁻¹ c; for a ``TemporalRBM`` b = a.
    Where all features of y_t are observed, the gate is exactly p(h_t | h_{t-1}, y_t) if and only if
    ``gate_conditions(model).exact``.

    Args:
        model: a ``TemporalSigmoidBeliefNetwork`` or a ``TemporalRBM`` with known parameters.

    Returns:
        The weights and biases.

    Raises:
        ValueError: another model, or unknown parameters.

    >>> from beliefzoo.models import TemporalSigmoidBeliefNetwork
    >>> model = TemporalSigmoidBeliefNetwork(1, "gaussian").with_parameters(
    ...     node_initial=[0], node_weight=[[4]], node_bias=[-2],
    ...     node_loading=[[3]], node_intercept=[0], scale=[1],
    ... )
    >>> gate = node_gate(model)
    >>> gate.natural_weight.item(), gate.bias.item()  # B / s² = 3, a - B² / 2 s² = -6.5
    (3.0, -6.5)
    """
    emission, transition = _laws_of(model)
    values = {name: value.double() for name, value in model.complete({}).items()}
    bias, first = values["node_bias"], values["node_initial"]
    weight = values["node_weight"]
    if isinstance(transition, SigmoidTransition):
        alone = emission.log_partition_alone(values)
        bias, first, weight = bias - alone, first - alone, transition.matrix(values)
    return NodeGate(weight, emission.natural_weight(values), bias, first)


@dataclass(frozen=True)
class CoupledNodes:
    """Two nodes that an observation couples: evidence for one of them explains the other away.

    Args:
        nodes: the numbers of the two nodes.
        size: largest |Δ_i Δ_j log Z| over the states of the other nodes, in nats: how much the log
            odds of one node depend on the other once y is observed. For Gaussian observations it is
            |B_i Σ⁻¹ B_j'|.

    >>> pair = CoupledNodes(nodes=(0, 1), size=3.0)
    >>> pair.size
    3.0
    """

    nodes: tuple[int, int]
    size: float


@dataclass(frozen=True)
class GateConditions:
    """Whether the gate of ``node_gate`` is the exact posterior, and what prevents it.

    Args:
        coupled: the pairs of nodes that the observation couples.

    >>> GateConditions(coupled=()).exact
    True
    """

    coupled: tuple[CoupledNodes, ...]

    @property
    def exact(self) -> bool:
        """True if the gate is p(h_t | h_{t-1}, y_t) at every step, for all y and h_{t-1}."""
        return not self.coupled


_SMALLEST_COUPLING = 1e-12
"""In nats, relative to the largest log Z: anything smaller is a rounding error."""


@boundary
def gate_conditions(model: HiddenMarkovModel) -> GateConditions:
    """Return what prevents the gate of binary nodes from being exact; see docs/science.md, I3.

    In the directed model the gate is exact if and only if log Z(h) is a sum over the nodes. For
    Gaussian observations: B Σ⁻¹ B' is diagonal; for Bernoulli and Poisson ones: no feature depends
    on two nodes; for symbols: at most one node acts on them. In a ``TemporalRBM`` the gate is
    always exact.

    Args:
        model: a ``TemporalSigmoidBeliefNetwork`` or a ``TemporalRBM`` with known parameters.

    Returns:
        The pairs of nodes that the observation couples, if any.

    Raises:
        ValueError: another model, or unknown parameters.

    >>> from beliefzoo.models import TemporalSigmoidBeliefNetwork
    >>> model = TemporalSigmoidBeliefNetwork(2, "gaussian").with_parameters(
    ...     node_initial=[0, 0], node_weight=[[4, 0], [0, 4]], node_bias=[-2, -2],
    ...     node_loading=[[1], [3]], node_intercept=[0], scale=[1],
    ... )
    >>> gate_conditions(model).coupled  # both nodes act on the only feature: 1 × 3 / 1²
    (CoupledNodes(nodes=(0, 1), size=3.0),)
    """
    emission, transition = _laws_of(model)
    if isinstance(transition, HarmoniumTransition):
        return GateConditions(())
    values = {name: value.double() for name, value in model.complete({}).items()}
    table = emission.log_partition(values).reshape((2,) * emission.nodes)
    floor = _SMALLEST_COUPLING * max(1.0, float(table.abs().max()))
    coupled = []
    for i in range(emission.nodes):
        for j in range(i + 1, emission.nodes):
            size = float(table.diff(dim=i).diff(dim=j).abs().max())
            if size > floor:
                coupled.append(CoupledNodes((i, j), size))
    return GateConditions(tuple(coupled))


def _laws_of(
    model: HiddenMarkovModel,
) -> tuple[NodeEmission, SigmoidTransition | HarmoniumTransition]:
    """The emission and the transition of a model of nodes; ``ValueError`` for another model."""
    fits = isinstance(model, HiddenMarkovModel) and model.nodes is not None
    fits = fits and isinstance(model.emission, NodeEmission) and not model.inputs
    own = (
        HarmoniumInitial
        if fits and isinstance(model.transition, HarmoniumTransition)
        else NodeInitial
    )
    require(
        fits and isinstance(model.initial, own),
        "model",
        "must be a TemporalSigmoidBeliefNetwork or a TemporalRBM with a NodeEmission",
        repr(model),
    )
    assert isinstance(model.emission, NodeEmission)
    assert isinstance(model.transition, SigmoidTransition | HarmoniumTransition)
    return model.emission, model.transition
