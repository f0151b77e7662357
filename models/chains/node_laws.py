"""Laws of chains of k binary nodes: how the nodes start and move.

The 2^k joint states are numbered by their binary digits, see ``nodes.node_states``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import pyro.distributions as dist
import torch
from torch import Tensor

from ..checks import require, require_count, require_positive, require_scales
from ..data.moments import input_scales
from ..data.requirements import require_inputs
from ..data.sequences import Sequences
from ..emissions.emission import Emission, Parameters, Priors
from ..trajectories import FactorialMoves, safe_log
from .laws import ChainModel
from .node_emission import NodeEmission
from .nodes import (
    node_probabilities,
    node_states,
    product_law,
    require_moves,
    require_states,
)

Coupling = Literal["full", "diagonal"]
COUPLINGS: tuple[Coupling, ...] = get_args(Coupling)


@dataclass(frozen=True)
class SigmoidTransition:
    r"""Binary nodes that move independently of each other, given all nodes before.

    .. math:: T(h \mid h') = \prod_j \sigma(A h' + a)_j^{h_j} (1 - \sigma(A h' + a)_j)^{1 - h_j}

    With ``inputs`` u the logits are A h' + V u + a; ``data.inputs[:, t]`` acts on the step from t
    to t + 1. Parameters: ``node_weight`` A (k, k), rows the node and columns the node before, or
    only its diagonal (k,) with ``coupling="diagonal"`` (a factorial hidden Markov model);
    ``node_bias`` a (k,); ``node_input`` V (k, inputs). Priors are N(0, weight_scale²), that of V
    per ``input_scale``, and N(0, bias_scale²). The states are those of ``node_states``: their
    numbers have a meaning and are never relabelled.

    Args:
        nodes: number of nodes k.
        coupling: ``"full"``: every node depends on all nodes before; ``"diagonal"``: on itself.
        weight_scale: prior standard deviation of a weight.
        bias_scale: prior standard deviation of a bias.
        inputs: number of input columns.
        input_scale: unit of the inputs, one number or one per column; ``scaled_to(data)`` sets it
            to their standard deviation, of an indicator to its size.

    Raises:
        ValueError: too many nodes, another coupling, a negative number of inputs, or a scale that
            is not positive.

    Source: for the diagonal coupling, Ghahramani & Jordan (1997), Machine Learning 29.

    >>> import torch
    >>> from beliefzoo.models import Sequences
    >>> law = SigmoidTransition(1)
    >>> values = {"node_weight": torch.tensor([[4.0]]), "node_bias": torch.tensor([-2.0])}
    >>> law(values, Sequences.from_arrays([[0.0, 0.0]])).exp()[0, 0]  # σ(2) = 0.88 to stay
    tensor([[0.8808, 0.1192],
            [0.1192, 0.8808]])
    """

    nodes: int
    coupling: Coupling = "full"
    weight_scale: float = 2.0
    bias_scale: float = 2.0
    inputs: int = 0
    input_scale: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        node_states(self.nodes)  # names the memory that too many would take
        require(
            self.coupling in COUPLINGS,
            "coupling",
            f"must be one of {COUPLINGS}",
            repr(self.coupling),
        )
        if self.coupling == "full":
            require_moves(self.nodes)
        require_positive(self.weight_scale, "weight_scale")
        require_positive(self.bias_scale, "bias_scale")
        require_count(self.inputs, "inputs", least=0)
        require_scales(self.input_scale, self.inputs, "input_scale", "column")

    def priors(self, states: int) -> Priors:
        require_states(states, self.nodes)
        shape = (self.nodes,) * (2 if self.coupling == "full" else 1)
        weight = dist.Normal(torch.zeros(shape), self.weight_scale).to_event(len(shape))
        bias = dist.Normal(torch.zeros(self.nodes), self.bias_scale).to_event(1)
        out: Priors = {"node_weight": weight, "node_bias": bias}
        if self.inputs:
            unit = torch.tensor(self.input_scale, dtype=torch.float64)
            width = (self.weight_scale / unit).expand(self.nodes, self.inputs)
            out["node_input"] = dist.Normal(torch.zeros_like(width), width).to_event(2)
        return out

    def dims(self) -> dict[str, tuple[str, ...]]:
        weight = ("node", "node_from") if self.coupling == "full" else ("node",)
        read = {"node_input": ("node", "input")} if self.inputs else {}
        return {"node_weight": weight, "node_bias": ("node",), **read}

    def scaled_to(self, data: Sequences) -> SigmoidTransition:
        """Return the same law with the prior of V on the scale of the inputs."""
        if not self.inputs or data.inputs is None:
            return self
        return replace(self, input_scale=input_scales(data))

    def matrix(self, parameters: Parameters) -> Tensor:
        """Return A (…draws, k, k), also where only its diagonal is a parameter."""
        weight = parameters["node_weight"]
        return weight if self.coupling == "full" else weight.diag_embed()

    def logits(self, parameters: Parameters) -> Tensor:
        """Return A h' + a of every state h' before, (…draws, 2^k, k); inputs are added to it."""
        weight = self.matrix(parameters)
        return node_states(self.nodes).to(weight) @ weight.mT + parameters["node_bias"].unsqueeze(
            -2
        )

    def chains(self, parameters: Parameters) -> tuple[Tensor, ...]:
        """Return log T of every node's chain, k times (…draws, 2, 2), for a diagonal A."""
        require(self.coupling == "diagonal", "coupling", "must be 'diagonal'", self.coupling)
        require(not self.inputs, "inputs", "must be 0 for chains of single nodes", self.inputs)
        before = torch.arange(2).to(parameters["node_bias"])
        on = parameters["node_bias"].unsqueeze(-1) + before * parameters["node_weight"].unsqueeze(
            -1
        )
        table = torch.nn.functional.logsigmoid(torch.stack([-on, on], -1))
        return table.unbind(-3)

    def structure(self, parameters: Parameters) -> FactorialMoves | None:
        if self.coupling != "diagonal" or self.inputs:
            return None
        return FactorialMoves(self.chains(parameters))

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        """Return log T, shape (…draws, N|1, T-1|1, 2^k, 2^k).

        Without inputs it is the same for all steps.

        Raises:
            ValueError: too many nodes to enumerate their moves.
        """
        require_moves(self.nodes)
        logits = self.logits(parameters).unsqueeze(-3).unsqueeze(-3)
        if self.inputs:
            assert data.inputs is not None
            weight = parameters["node_input"]
            read = data.inputs[:, :-1].to(weight.dtype)
            logits = logits + torch.einsum("ntu,...ju->...ntj", read, weight).unsqueeze(-2)
        return product_law(logits)

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        """Regress every node on the nodes before (logistic, from the counts); inputs start at 0."""
        weight, bias = _regressed(counts, self.nodes, self.coupling == "full")
        out = {"node_weight": weight, "node_bias": bias}
        if self.inputs:
            out["node_input"] = weight.new_zeros(self.nodes, self.inputs)
        return out

    def check_model(self, model: ChainModel) -> None:
        """Raise ``ValueError`` unless the model has the states of the nodes."""
        require_states(model.states, self.nodes)

    def check(self, data: Sequences) -> None:
        require_inputs(data, self.inputs, "SigmoidTransition")


@dataclass(frozen=True)
class HarmoniumTransition:
    r"""The transition of a temporal harmonium (restricted Boltzmann machine), whose gate is exact.

    .. math:: T(h \mid h') \propto Z(h) \exp(h \cdot (A h' + a))

    where O(y | h) = r(y) exp(h'Wy) / Z(h) is the emission. Then p(h | h', y) = Π_j σ(A h' + W y +
    a)_j for any A, W and a. Parameters: ``node_weight`` A (k, k), rows the node and columns the
    node before, and ``node_bias`` a (k,), with priors N(0, weight_scale²) and N(0, bias_scale²).

    Args:
        emission: the emission of the model, whose Z the transition contains.
        weight_scale: prior standard deviation of a weight.
        bias_scale: prior standard deviation of a bias.

    Raises:
        ValueError: an emission that is not a ``NodeEmission``, or a scale that is not positive.

    Source: Sutskever & Hinton (2007), AISTATS.

    >>> from beliefzoo.models import Bernoulli, HarmoniumInitial, HiddenMarkovModel, NodeEmission
    >>> emission = NodeEmission(2, Bernoulli(3))
    >>> move, first = HarmoniumTransition(emission), HarmoniumInitial(emission)
    >>> model = HiddenMarkovModel(4, emission, transition=move, initial=first)
    >>> model.nodes  # the same model as TemporalRBM(2, Bernoulli(3))
    2
    """

    emission: NodeEmission
    weight_scale: float = 2.0
    bias_scale: float = 2.0
    inputs = 0

    def __post_init__(self) -> None:
        _require_node_emission(self.emission)
        self._undirected  # noqa: B018  # checks the scales

    @property
    def nodes(self) -> int:
        """Number of nodes k."""
        return self.emission.nodes

    @property
    def _undirected(self) -> SigmoidTransition:
        """The law without the factor Z."""
        return SigmoidTransition(self.nodes, "full", self.weight_scale, self.bias_scale)

    def priors(self, states: int) -> Priors:
        return self._undirected.priors(states)

    def redundant(self, priors: Priors, states: int) -> int:
        """Take back those of a categorical emission that only a free bias can make up for.

        A shift of the logits of one node changes Z by a factor for each node that is on.
        """
        shifts = "node_loading" in priors and self.emission.competing(states) is not None
        return -self.nodes * (shifts and "node_bias" not in priors)

    def dims(self) -> dict[str, tuple[str, ...]]:
        return self._undirected.dims()

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        """Return log T, shape (…draws, 1, 1, 2^k, 2^k)."""
        del data
        logits = self._undirected.logits(parameters)
        joint = logits @ node_states(self.nodes).to(logits).mT
        joint = joint + self.emission.log_partition(parameters).unsqueeze(-2)
        return joint.log_softmax(-1).unsqueeze(-3).unsqueeze(-3)

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        """Start from the regression of ``SigmoidTransition``, which leaves Z out."""
        return self._undirected.start(counts)

    def check_model(self, model: ChainModel) -> None:
        """Raise ``ValueError`` unless the model's emission has the same Z as the law."""
        require_states(model.states, self.nodes)
        _require_alike(self.emission, model.emission)

    def check(self, data: Sequences) -> None:
        """Accept any data."""


@dataclass(frozen=True)
class NodeInitial:
    """Independent binary nodes at the first step: p(h_1) = Π_j σ(a_1)_j.

    Parameter ``node_initial`` a_1 (k,), logits ~ N(0, scale²).

    Args:
        nodes: number of nodes k.
        scale: prior standard deviation of a logit.

    Raises:
        ValueError: too many nodes, or a scale that is not positive.

    >>> import torch
    >>> odds = {"node_initial": torch.tensor([1.0, 3.0]).log()}
    >>> NodeInitial(2)(odds, None).exp()  # 00, 01, 10, 11
    tensor([[0.1250, 0.3750, 0.1250, 0.3750]])
    """

    nodes: int
    scale: float = 2.0

    def __post_init__(self) -> None:
        node_states(self.nodes)
        require_positive(self.scale, "scale")

    def priors(self, states: int) -> Priors:
        require_states(states, self.nodes)
        return {"node_initial": dist.Normal(torch.zeros(self.nodes), self.scale).to_event(1)}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"node_initial": ("node",)}

    def __call__(self, parameters: Parameters, log_transition: Callable[[], Tensor]) -> Tensor:
        """Return log p(h_1), shape (…draws, 1, 2^k)."""
        del log_transition
        return product_law(parameters["node_initial"]).unsqueeze(-2)

    def start(self, share: Tensor) -> dict[str, Tensor]:
        on = node_probabilities(share)
        return {"node_initial": safe_log(on) - safe_log(1 - on)}

    def check_model(self, model: ChainModel) -> None:
        """Raise ``ValueError`` unless the model has the states of the nodes."""
        require_states(model.states, self.nodes)


@dataclass(frozen=True)
class HarmoniumInitial:
    """The first step of a temporal harmonium: p(h_1) ∝ Z(h_1) exp(h_1 · b_1).

    Then p(h_1 | y_1) = Π_j σ(W y_1 + b_1)_j. Parameter ``node_initial`` b_1 (k,) ~ N(0, scale²); Z
    is that of the emission, as in ``HarmoniumTransition``.

    Args:
        emission: the emission of the model.
        scale: prior standard deviation of a bias.

    Raises:
        ValueError: an emission that is not a ``NodeEmission``, or a scale that is not positive.

    >>> from beliefzoo.models import Gaussian, NodeEmission
    >>> HarmoniumInitial(NodeEmission(3, Gaussian())).dims()
    {'node_initial': ('node',)}
    """

    emission: NodeEmission
    scale: float = 2.0

    def __post_init__(self) -> None:
        _require_node_emission(self.emission)
        require_positive(self.scale, "scale")

    @property
    def nodes(self) -> int:
        """Number of nodes k."""
        return self.emission.nodes

    def priors(self, states: int) -> Priors:
        return NodeInitial(self.nodes, self.scale).priors(states)

    def redundant(self, priors: Priors, states: int) -> int:
        """Take back what ``HarmoniumTransition`` does, unless it has done so."""
        shifts = "node_loading" in priors and self.emission.competing(states) is not None
        return -self.nodes * (shifts and "node_bias" in priors and "node_initial" not in priors)

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"node_initial": ("node",)}

    def __call__(self, parameters: Parameters, log_transition: Callable[[], Tensor]) -> Tensor:
        """Return log p(h_1), shape (…draws, 1, 2^k)."""
        del log_transition
        bias = parameters["node_initial"]
        joint = (node_states(self.nodes).to(bias) @ bias.unsqueeze(-1)).squeeze(-1)
        joint = joint + self.emission.log_partition(parameters)
        return joint.log_softmax(-1).unsqueeze(-2)

    def check_model(self, model: ChainModel) -> None:
        """Raise ``ValueError`` unless the model's emission has the same Z as the law."""
        require_states(model.states, self.nodes)
        _require_alike(self.emission, model.emission)

    def start(self, share: Tensor) -> dict[str, Tensor]:
        return NodeInitial(self.nodes, self.scale).start(share)


def _require_alike(own: NodeEmission, emission: Emission) -> None:
    """Raise ``ValueError`` unless the two emissions have the same Z."""

    def kind(law: Emission) -> tuple[object, ...]:
        plain = isinstance(law, NodeEmission)
        return (law.nodes, type(law.family), law.shift_size) if plain else (law,)  # type: ignore[attr-defined]

    require(
        kind(own) == kind(emission), "emission", f"must be that of the harmonium, {own}", emission
    )


def _require_node_emission(emission: object) -> None:
    require(
        isinstance(emission, NodeEmission), "emission", "must be a NodeEmission", repr(emission)
    )


_NEWTON_STEPS = 20


def _regressed(counts: Tensor, nodes: int, full: bool) -> tuple[Tensor, Tensor]:
    """Weights (k, k) or (k,) and biases (k,) of a logistic regression of the nodes on those before.

    A penalty of half the squared weight keeps them finite where the counts are separable.
    """
    states = node_states(nodes).to(counts)
    total, on = counts.sum(-1), counts @ states
    constant = torch.ones(len(states), 1).to(counts)
    rows = []
    for node in range(nodes):
        chosen = states if full else states[:, node : node + 1]
        design = torch.cat([chosen, constant], -1)
        beta = design.new_zeros(design.shape[-1])
        for _ in range(_NEWTON_STEPS):
            p = (design @ beta).sigmoid()
            slope = design.mT @ (on[:, node] - total * p) - beta
            curvature = design.mT @ ((total * p * (1 - p)).unsqueeze(-1) * design)
            beta = beta + torch.linalg.solve(curvature + torch.eye(len(beta)).to(beta), slope)
        rows.append(beta)
    table = torch.stack(rows)
    weight = table[:, :-1] if full else table[:, 0]
    return weight.contiguous(), table[:, -1].contiguous()
