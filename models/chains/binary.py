"""Chains of k binary nodes, 2^k hidden states, and when their gate is Bayes' rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyro.distributions as dist
from torch import Tensor

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
    r"""k binary nodes with directed dependencies: 2^k hidden states from k (k + 1) numbers.

    .. math::
        p(h_1) = \prod_j \sigma(a_1)_j, \quad
        p(h_t | h_{t-1}) = \prod_j \sigma(A h_{t-1} + a)_j, \quad y_t \sim O(c + B' h_t)

    Each product is over Bernoulli laws with these logits (Gan et al. 2015). It is
    ``HiddenMarkovModel(2**nodes, NodeEmission(nodes, …), transition=SigmoidTransition(nodes, …),
    initial=NodeInitial(nodes))``, and all that holds for hidden Markov models holds for it.
    With ``coupling="diagonal"`` the nodes are independent chains that are observed together.

    >>> model = TemporalSigmoidBeliefNetwork(3, Gaussian(features=5))
    >>> known = TemporalSigmoidBeliefNetwork(2, "gaussian").with_parameters(
    ...     node_initial=[0, 0], node_weight=[[4, -2], [3, 4]], node_bias=[-2, -3],
    ...     node_loading=[[1.0], [3.0]], node_intercept=[0], scale=[0.5],
    ... )

    Args:
        nodes: number of binary nodes k.
        emission: family of the observations (its linear predictor is c + B'h), its short name, or
            a ``NodeEmission``; any other emission law of 2^k states is taken as it is.
        coupling: ``"full"``, every node depends on all nodes before, or ``"diagonal"``, on itself.
        priors: replacements for single priors, by parameter name.

    Raises:
        ValueError: for a bad argument, named with what is required and what came; for too many
            nodes the memory that they would take.
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
    r"""The harmonium reading: k binary nodes whose gate is Bayes' rule for any weights.

    .. math::
        p(h_t | h_{t-1}) \propto Z(h_t) \exp(h_t \cdot (A h_{t-1} + a)), \quad
        O(y | h) = r(y) \exp(h' W y) / Z(h)

    so that p(h_t, y_t | h_{t-1}) ∝ r(y_t) exp(h_t · (A h_{t-1} + W y_t + a)): given the nodes
    before, nodes and observation are a restricted Boltzmann machine (Sutskever & Hinton 2007), and
    p(h_t | h_{t-1}, y_t) = Π_j σ(A h_{t-1} + W y_t + a)_j. The first step is alike with its own
    bias. Arguments and errors are those of ``TemporalSigmoidBeliefNetwork``; the emission must be a
    family for ``NodeEmission``.
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
    """The emission of k nodes: a family as a ``NodeEmission``, any other law as it is."""
    require_count(nodes, "nodes")
    family = named_emission(emission)
    return NodeEmission(nodes, family) if NodeEmission.takes(family) else family


@dataclass(frozen=True)
class NodeGate:
    """A layer of logistic units: P(h_t = 1 | h_{t-1}, y_t) = σ(W_h h_{t-1} + W_y y_t + b).

    ``node_weight`` W_h (k, k), ``natural_weight`` W_y (k, F), ``bias`` b (k,); ``first_bias`` (k,)
    is that of the first step, which has no nodes before. float64. y_t of symbols is its one-hot
    code.
    """

    node_weight: Tensor
    natural_weight: Tensor
    bias: Tensor
    first_bias: Tensor

    def logits(self, y: Tensor, before: Tensor | None = None) -> Tensor:
        """W_h h + W_y y + b of y (…, F) and bits before (…, k), None at the first step."""
        read = y.to(self.bias) @ self.natural_weight.mT
        if before is None:
            return read + self.first_bias
        return read + before.to(self.bias) @ self.node_weight.mT + self.bias


def node_gate(model: HiddenMarkovModel) -> NodeGate:
    """The gate that the parameters of a model of binary nodes write down (SCIENCE I3).

    W_h = A, W_y = W of the emission, b = a − ζ, where ζ_j = log Z(node j alone is on). For Gaussian
    outputs W_y = B Σ⁻¹ and b = a − ½ diag(B Σ⁻¹ B') − B Σ⁻¹ c. It is p(h_t | h_{t-1}, y_t) exactly
    iff ``gate_conditions(model).exact``, where all features of y_t are seen. Of a harmonium b is a.

    Raises:
        ValueError: a model that is not one of binary nodes, or with unknown parameters.
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
    """Two nodes that an observation couples: to see one of them explains the other away.

    ``size`` is the largest |Δ_i Δ_j log Z| over the states of the other nodes, in nats: by so much
    the log odds of one node depend on the other once y is seen. For Gaussian outputs it is
    |B_i Σ⁻¹ B_j'|.
    """

    nodes: tuple[int, int]
    size: float


@dataclass(frozen=True)
class GateConditions:
    """Whether the gate of ``node_gate`` is the exact posterior, and what prevents it.

    ``coupled`` are the pairs of nodes that the observation couples.
    """

    coupled: tuple[CoupledNodes, ...]

    @property
    def exact(self) -> bool:
        """Whether p(h_t | h_{t-1}, y_t) is the gate at every step, for all y and h_{t-1}."""
        return not self.coupled


_SMALLEST_COUPLING = 1e-12
"""Nats, relative to the largest log Z, below which a coupling is rounding."""


def gate_conditions(model: HiddenMarkovModel) -> GateConditions:
    """Which conditions of exactness of the gate fail for a model of binary nodes (SCIENCE I3).

    In the directed model the gate is exact iff log Z(h) is a sum over the nodes. For Gaussian
    outputs: iff B Σ⁻¹ B' is diagonal; for Bernoulli and Poisson ones: iff no output depends on two
    nodes; for symbols: iff at most one node tells of them. In the harmonium nothing can fail.

    Raises:
        ValueError: a model that is not one of binary nodes, or with unknown parameters.
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
    """The emission and the transition of nodes that start, move and emit as nodes."""
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
