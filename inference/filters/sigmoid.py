"""A layer of logistic units, read as a belief or as the law of a bit."""

from __future__ import annotations

import dataclasses
from typing import Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...models import DiscreteLaws, Model, NodeGate, Sequences
from ...models.beliefs import Belief
from ...models.chains.node_laws import COUPLINGS, Coupling
from ...models.chains.nodes import product_law
from ...models.checks import require
from .channels import Channels, Reading, nodes_of


class SigmoidFilter(nn.Module):
    r"""Logistic units whose outputs are the belief: the mean-field recursion of binary nodes.

    .. math::
        h_1 = \sigma(W_y x_1 + b_1), \qquad h_t = \sigma(W_h h_{t-1} + W_y x_t + b)

    h_t (k) is the belief itself, a product of Bernoulli laws: the probability is fed back. With the
    weights of a harmonium over time this is its mean-field recursion (Sutskever & Hinton 2007). A
    ``SampledBitGuide`` feeds back a sampled bit through the same weights (docs/science.md, I4). The
    recursion is the exact filter if W_h = 0 and each node has its own observation; otherwise it is
    not, since the log odds of a belief are not affine in the previous belief.

    Two states without nodes are one node, state 1 being h = 1. In h = (1 + m) / 2 a weight W_h acts
    on m ∈ [−1, 1] with W_h / 4 in units of half the logit.

    Args:
        coupling: ``"full"`` W_h, or ``"diagonal"``: nodes that feed back to themselves alone.
        reads: ``"observations"`` or ``"likelihoods"``, see ``Channels``.

    Raises:
        ValueError: a bad argument, or a model whose states are not those of binary nodes.

    >>> from beliefzoo.inference import BeliefGuide, SigmoidFilter, evidence_gap
    >>> from beliefzoo.models import TemporalSigmoidBeliefNetwork, node_gate
    >>> model = TemporalSigmoidBeliefNetwork(1, "gaussian").with_parameters(
    ...     node_initial=[0.0], node_weight=[[2.0]], node_bias=[-1.0],
    ...     node_loading=[[1.0]], node_intercept=[0.0], scale=[1.0],
    ... )
    >>> network = SigmoidFilter().write(model, node_gate(model))
    >>> gap = evidence_gap(BeliefGuide(model, network), model.sample(20, 30, seed=0).data)
    >>> 0 < gap.kl_filter_per_step < 0.1  # near the filter, but not equal to it
    True
    """

    causal = True

    def __init__(self, *, coupling: Coupling = "full", reads: Reading = "observations") -> None:
        super().__init__()
        require(coupling in COUPLINGS, "coupling", f"must be in {COUPLINGS}", repr(coupling))
        self.coupling: Coupling = coupling
        self.channels = Channels(reads)
        self.nodes: int | None = None

    belief: Belief
    """What it says: of logistic units, a product law."""
    hidden_weight: nn.Parameter
    """W_h (k, k), or its diagonal (k,)."""
    input_weight: nn.Parameter
    """W_y, (k, width), on the scale of ``channels``."""
    bias: nn.Parameter
    first_bias: nn.Parameter

    @property
    def configuration(self) -> dict[str, object]:
        """The arguments of the constructor."""
        return {"coupling": self.coupling, "reads": self.channels.reads}

    def build(self, model: Model) -> None:
        """Makes weights of the sizes that the model needs, once."""
        nodes = nodes_of(model, "SigmoidFilter")
        width = self.channels.width(model)
        if self.nodes is not None:
            built = self.nodes, self.input_weight.shape[1]
            require(
                built == (nodes, width),
                "filter",
                f"was built for (nodes, channels) = {built}; make a new SigmoidFilter",
                f"a model with {(nodes, width)}",
            )
            self.channels.build(model)
            return
        self.channels.build(model)
        self.belief, self.nodes = model.belief, nodes
        shape = (nodes, nodes) if self.coupling == "full" else (nodes,)
        self.hidden_weight = nn.Parameter(torch.zeros(shape))
        self.input_weight = nn.Parameter(torch.empty(nodes, width).uniform_(-1, 1) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(nodes))
        self.first_bias = nn.Parameter(torch.zeros(nodes))

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Adapts to the scale of the data."""
        del model
        self.channels.calibrate(data)

    @property
    def matrix(self) -> Tensor:
        """W_h, (k, k)."""
        weight = self.hidden_weight
        return weight if self.coupling == "full" else weight.diag_embed()

    def drive(self, laws: DiscreteLaws) -> Tensor:
        """Returns W_y x_t + b, the logits without the term of the previous nodes, (N, T, k)."""
        if self.nodes is None:
            raise ValueError("filter: call build(model) first, or put the filter into a guide")
        told = self.channels(laws).to(self.input_weight) @ self.input_weight.mT
        return torch.cat([told[:, :1] + self.first_bias, told[:, 1:] + self.bias], 1)

    def logits(self, laws: DiscreteLaws) -> Tensor:
        """Returns log P(h = 1) / P(h = 0) of every node, (N, T, k)."""
        drive, weight = self.drive(laws), self.matrix
        hidden = _units(drive, weight)
        return torch.cat([drive[:, :1], drive[:, 1:] + hidden[:, :-1] @ weight.mT], 1)

    def forward(self, laws: DiscreteLaws) -> Tensor:
        """Returns log beliefs (N, T, K)."""
        return product_law(self.logits(laws).to(laws.log_initial.dtype))

    @property
    def gate(self) -> NodeGate:
        """The weights in units of the data, for steps without missing elements.

        Raises:
            ValueError: a filter that reads likelihoods or inputs, or that is not built.
        """
        channels = self.channels
        require(
            self.nodes is not None and channels.reads == "observations" and not channels.inputs,
            "filter",
            "must be built, and read observations and no inputs, to be a gate of them",
            f"reads={channels.reads!r}, inputs={channels.inputs}, nodes={self.nodes}",
        )
        observed = self.input_weight[:, : len(channels.shift)].double() / channels.scale
        moved = observed @ channels.shift
        parts = self.matrix, observed, self.bias - moved, self.first_bias - moved
        return NodeGate(*(part.detach().clone().double() for part in parts))

    def write(self, model: Model, gate: NodeGate) -> Self:
        """Builds the filter for this model and sets the gate's weights.

        For steps without missing elements: the weights of missing flags are zero.

        Args:
            model: the model.
            gate: for instance ``node_gate(model)``, the gate given by the model's own parameters.

        Returns:
            The filter.

        Raises:
            ValueError: weights of another shape, or W_h off the diagonal of a diagonal filter.
        """
        self.build(model)
        channels, nodes = self.channels, len(self.bias)
        size = len(channels.shift)
        shapes = (nodes, nodes), (nodes, size), (nodes,), (nodes,)
        for field, shape in zip(dataclasses.fields(gate), shapes, strict=True):
            came = tuple(getattr(gate, field.name).shape)
            require(came == shape, f"gate.{field.name}", f"needs shape {shape}", came)
        diagonal = gate.node_weight.diagonal()
        alone = bool((gate.node_weight == diagonal.diag()).all())
        full = self.coupling == "full"
        require(full or alone, "gate.node_weight", "must be diagonal", gate.node_weight.tolist())
        observed = gate.natural_weight.double()
        moved = observed @ channels.shift
        padded = torch.zeros_like(self.input_weight)
        padded[:, :size] = (observed * channels.scale).to(padded)
        with torch.no_grad():
            self.hidden_weight.copy_(gate.node_weight if full else diagonal)
            self.input_weight.copy_(padded)
            self.bias.copy_(gate.bias.to(moved) + moved)
            self.first_bias.copy_(gate.first_bias.to(moved) + moved)
        return self


def _units(drive: Tensor, weight: Tensor) -> Tensor:
    """h_t of every step, (N, T, k), by one call of torch's tanh network in m = 2 h − 1.

    ½ logit = ½ drive + ¼ W (m + 1). The network starts from m = 0, where the first step must have
    no contribution, so the constant ¼ W 1 is added to the inputs of the later steps.
    """
    nodes = len(weight)
    later = drive[:, 1:] / 2 + weight.sum(-1) / 4
    with torch.device("meta"):  # only holds the weights: no initialisation
        shell = nn.RNN(nodes, nodes, batch_first=True, bias=False)
    identity = torch.eye(nodes, dtype=drive.dtype, device=drive.device)
    own = {"weight_ih_l0": identity, "weight_hh_l0": weight / 4}
    x = torch.cat([drive[:, :1] / 2, later], 1)
    out: Tensor = functional_call(shell, own, (x,))[0]
    return (1 + out) / 2
