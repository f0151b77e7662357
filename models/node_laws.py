"""Laws of chains of k binary nodes: how the nodes start, move and emit.

The 2^k joint states are numbered by their binary digits, see ``nodes.node_states``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to

from .checks import require, require_positive
from .counts import Bernoulli, Categorical, Poisson
from .emissions import Emission, Parameters, Priors
from .nodes import node_probabilities, node_states, product_law
from .observations import Observations
from .reals import FullGaussian, Gaussian
from .sequences import Sequences
from .trajectories import safe_log

Coupling = Literal["full", "diagonal"]
COUPLINGS: tuple[Coupling, ...] = get_args(Coupling)

_FAMILIES = (Gaussian, FullGaussian, Bernoulli, Poisson, Categorical)


@dataclass(frozen=True)
class NodeEmission(Emission):
    r"""Observations of k binary nodes: a family whose linear predictor is that of the nodes.

    .. math:: \eta(h) = c + B' h

    η is the mean of ``Gaussian`` and ``FullGaussian`` (whose noise all states share), the logit of
    ``Bernoulli`` and ``Categorical``, the log rate of ``Poisson``. B = ``node_loading`` (k, F), a
    row a node, c = ``node_intercept`` (F,); of a categorical law F is the number of symbols. Noise
    is ``scale`` (F,) and ``correlation_factor`` (F, F), or ``covariance`` (F, F) in
    ``with_parameters``. Features that are missing are left out exactly, as the family does it.

    All of these are O(y | h) = r(y) exp(h'Wy) / Z(h); see ``natural_weight``, ``log_partition``.
    Priors: B ~ N(0, (loading_scale · unit)²), unit being the family's spread for reals and 1
    otherwise; c is at the family's location.

    Raises:
        ValueError: too many nodes, another family, or a scale that is not positive.
    """

    nodes: int
    family: Emission
    loading_scale: float = 2.0

    def __post_init__(self) -> None:
        node_states(self.nodes)  # names the memory that too many would take
        require(
            self.takes(self.family),
            "family",
            f"must be one of {[family.__name__ for family in _FAMILIES]}",
            repr(self.family),
        )
        require_positive(self.loading_scale, "loading_scale")

    @staticmethod
    def takes(family: object) -> bool:
        """Whether it is one of the families whose linear predictor nodes can have."""
        return type(family) in _FAMILIES

    @property
    def observations(self) -> Observations:
        return self.family.observations

    @property
    def features(self) -> int:
        return self.family.features

    @property
    def predictor_scale(self) -> Tensor:
        return self.family.predictor_scale

    def priors(self, states: int) -> Priors:
        require_states(states, self.nodes)
        unit = self.loading_scale * self.predictor_scale
        loading = dist.Normal(torch.zeros(self.nodes, self.shift_size), unit).to_event(2)
        return {
            "node_loading": loading,
            "node_intercept": self._intercepts(),
            **{name: self._noise_prior(name) for name in self._noise},
        }

    def _intercepts(self) -> dist.TorchDistribution:
        family, size = self.family, self.shift_size
        location, spread = torch.zeros(size), torch.full((size,), 1.5)
        if isinstance(family, Gaussian | FullGaussian):
            location = torch.as_tensor(family.location).expand(size).to(location)
            spread = self.predictor_scale.to(location)
        elif isinstance(family, Poisson):
            location = torch.full((size,), math.log(family.typical))
        prior: dist.TorchDistribution = dist.Normal(location, spread).to_event(1)
        return prior

    @property
    def _noise(self) -> tuple[str, ...]:
        """Names of the parameters that all states share."""
        if isinstance(self.family, FullGaussian):
            return "scale", "correlation_factor"
        return ("scale",) if isinstance(self.family, Gaussian) else ()

    def _noise_prior(self, name: str) -> dist.TorchDistribution:
        prior: dist.TorchDistribution
        if name == "scale":
            prior = dist.LogNormal((self.predictor_scale / 2).log(), 1.0).to_event(1)
        else:
            prior = dist.LKJCholesky(self.features, 1.0)
        return prior

    def dims(self) -> dict[str, tuple[str, ...]]:
        axis = "symbol" if self.codes else "feature"
        names = {
            "node_loading": ("node", axis),
            "node_intercept": (axis,),
            "scale": (axis,),
            "correlation_factor": (axis, "feature_from"),
        }
        return {name: names[name] for name in ("node_loading", "node_intercept", *self._noise)}

    def predictor(self, parameters: Parameters) -> Tensor:
        """η(h) of every state, (…draws, 2^k, F)."""
        loading, intercept = parameters["node_loading"], parameters["node_intercept"]
        return node_states(self.nodes).to(loading) @ loading + intercept.unsqueeze(-2)

    def expanded(self, parameters: Parameters) -> dict[str, Tensor]:
        """The family's own parameters, one row a state."""
        eta = self.predictor(parameters)
        if isinstance(self.family, Categorical):
            return {"probs": eta.softmax(-1)}
        own = eta if self.features > 1 else eta.squeeze(-1)
        if isinstance(self.family, Bernoulli):
            # In float32 the logarithm of 1 - p would be lost from a logit of 17 on.
            return {"probs": own.double().sigmoid()}
        if isinstance(self.family, Poisson):
            return {"rate": own.exp()}
        scale = parameters["scale"]
        if self.features == 1:
            return {"mean": own, "scale": scale.expand(*scale.shape[:-1], 2**self.nodes)}
        noise = {name: _for_all_states(parameters[name], name, self.nodes) for name in self._noise}
        return {"mean": own, **noise}

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        dtype = parameters["node_loading"].dtype
        if isinstance(self.family, FullGaussian) and shift is None:
            whole = mask.all(-1)
            if torch.equal(whole, mask.any(-1)):
                return self._whitened(parameters, y, whole)
        return self.family.score(self.expanded(parameters), y, mask, shift).to(dtype)

    def _whitened(self, parameters: Parameters, y: Tensor, seen: Tensor) -> Tensor:
        """The score of correlated features, which are independent once L⁻¹ is applied to them.

        With one covariance LL' for all states nothing of size (N, T, K, F) is made.
        """
        loading, size = parameters["node_loading"].double(), self.features
        factor = (parameters["scale"].unsqueeze(-1) * parameters["correlation_factor"]).double()
        identity = torch.eye(size, dtype=torch.float64, device=factor.device)
        turn = torch.linalg.solve_triangular(factor, identity, upper=False).mT
        means = node_states(self.nodes).to(loading) @ loading @ turn
        centre = parameters["node_intercept"].double()[..., None, None, :]
        x = (y.double() - centre) @ turn.unsqueeze(-3)
        square = x.square().sum(-1, keepdim=True) - 2 * x @ means.mT.unsqueeze(-3)
        square = square + means.square().sum(-1)[..., None, None, :]
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)[..., None, None, None]
        scored = -0.5 * (square + size * math.log(2 * math.pi)) - log_det
        return torch.where(seen.unsqueeze(-1), scored, 0).to(parameters["node_loading"].dtype)

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        drawn = self.family.draw(self.expanded(parameters), paths, shift)
        return drawn if self.codes else drawn.to(parameters["node_loading"].dtype)

    def mean(self, parameters: Parameters) -> Tensor:
        return self.family.mean(self.expanded(parameters))

    def lagged(self, parameters: Parameters, y: Tensor, mask: Tensor) -> Tensor:
        return self.family.lagged(self.expanded(parameters), y, mask)

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if "covariance" not in values:
            return dict(values)
        require(
            isinstance(self.family, FullGaussian),
            "covariance",
            "belongs to FullGaussian",
            repr(self.family),
        )
        single = {name: values[name].unsqueeze(0) for name in values if name in _OF_COVARIANCE}
        noise = {name: value.squeeze(0) for name, value in self.family.natural(single).items()}
        return {name: v for name, v in values.items() if name not in single} | noise

    def scaled_to(self, data: Sequences) -> NodeEmission:
        return replace(self, family=self.family.scaled_to(data))

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """The values that make frames y (M, F) most likely, softly assigned to states.

        Maximises Σ_m Σ_k weight_mk log O_k(y_m) + log prior, which is concave but for the noise.
        """
        priors = self.priors(weight.shape[-1])
        free = {name: _unconstrained(prior) for name, prior in priors.items()}
        free["node_loading"] = free["node_loading"] * 0
        free = {name: x.to(weight).requires_grad_() for name, x in free.items()}
        optimiser = torch.optim.LBFGS(
            list(free.values()), max_iter=100, line_search_fn="strong_wolfe"
        )

        def values() -> dict[str, Tensor]:
            return {name: _constrained(priors[name], x) for name, x in free.items()}

        def loss() -> Tensor:
            optimiser.zero_grad()
            now = values()
            fit = (weight * self.score(now, y[None], mask[None])[0]).sum()
            prior = sum((priors[name].log_prob(x.float()).to(fit) for name, x in now.items()), fit)
            total = -prior / len(weight)
            total.backward()
            return total

        with torch.enable_grad():
            optimiser.step(loss)
        return {name: value.detach() for name, value in values().items()}

    def natural_weight(self, parameters: Parameters) -> Tensor:
        """W (…draws, k, F) of O(y | h) = r(y) exp(h'Wy) / Z(h).

        B Σ⁻¹ of Gaussian laws, B of all others; y of a categorical law is its one-hot code.
        """
        loading = parameters["node_loading"]
        if isinstance(self.family, Gaussian):
            return loading / parameters["scale"].square().unsqueeze(-2)
        if isinstance(self.family, FullGaussian):
            factor = parameters["scale"].unsqueeze(-1) * parameters["correlation_factor"]
            solved: Tensor = torch.cholesky_solve(loading.mT, factor)
            return solved.mT
        return loading

    def log_partition(self, parameters: Parameters) -> Tensor:
        """log Z(h) of every state, (…draws, 2^k), zero at h = 0; see ``natural_weight``.

        It is that of a step at which all features are seen.
        """
        eta, intercept = self.predictor(parameters), parameters["node_intercept"].unsqueeze(-2)
        if isinstance(self.family, Gaussian | FullGaussian):
            # h'BΣ⁻¹c + ½ h'BΣ⁻¹B'h
            weight = node_states(self.nodes).to(eta) @ self.natural_weight(parameters)
            return (weight * 0.5 * (eta + intercept)).sum(-1)
        if isinstance(self.family, Bernoulli):
            softplus = torch.nn.functional.softplus
            return (softplus(eta) - softplus(intercept)).sum(-1)
        if isinstance(self.family, Poisson):
            return (eta.exp() - intercept.exp()).sum(-1)
        return eta.logsumexp(-1) - intercept.logsumexp(-1)

    def log_partition_alone(self, parameters: Parameters) -> Tensor:
        """log Z of the states in which one node alone is on, (…draws, k)."""
        one_on = 2 ** torch.arange(self.nodes - 1, -1, -1)
        return self.log_partition(parameters)[..., one_on]


def _unconstrained(prior: dist.TorchDistribution) -> Tensor:
    """The centre of a prior, as free numbers."""
    support: Any = prior.support
    if isinstance(prior, dist.LKJCholesky):
        return torch.zeros(biject_to(support).inverse_shape(prior.event_shape))
    free: Tensor = biject_to(support).inv(prior.mean)
    return free


def _constrained(prior: dist.TorchDistribution, free: Tensor) -> Tensor:
    support: Any = prior.support
    value: Tensor = biject_to(support)(free)
    return value


_OF_COVARIANCE = {"covariance", "scale", "correlation_factor"}


def _for_all_states(value: Tensor, name: str, nodes: int) -> Tensor:
    """A parameter that the states share with an axis of states before its own axes."""
    trailing = 1 if name == "scale" else 2
    value = value.unsqueeze(-trailing - 1)
    shape = list(value.shape)
    shape[-trailing - 1] = 2**nodes
    return value.expand(shape)


def require_states(states: int, nodes: int) -> None:
    """Raise ``ValueError`` unless the states are those of the nodes."""
    require(states == 2**nodes, "states", f"must be 2^{nodes} for {nodes} nodes", states)


@dataclass(frozen=True)
class SigmoidTransition:
    r"""Nodes that move independently of each other given all nodes before.

    .. math:: T(h \mid h') = \prod_j \sigma(A h' + a)_j^{h_j} (1 - \sigma(A h' + a)_j)^{1 - h_j}

    A = ``node_weight`` (k, k), rows the node and columns the node before, or its diagonal (k,)
    with ``coupling="diagonal"``: then the nodes are independent chains, observed together
    (a factorial hidden Markov model, Ghahramani & Jordan 1997). a = ``node_bias`` (k,).
    Priors are N(0, weight_scale²) and N(0, bias_scale²). The states are those of
    ``nodes.node_states``: their numbers mean something and are never renamed.

    Raises:
        ValueError: too many nodes, another coupling, or a scale that is not positive.
    """

    nodes: int
    coupling: Coupling = "full"
    weight_scale: float = 2.0
    bias_scale: float = 2.0
    inputs = 0

    def __post_init__(self) -> None:
        node_states(self.nodes)  # names the memory that too many would take
        require(
            self.coupling in COUPLINGS,
            "coupling",
            f"must be one of {COUPLINGS}",
            repr(self.coupling),
        )
        require_positive(self.weight_scale, "weight_scale")
        require_positive(self.bias_scale, "bias_scale")

    def priors(self, states: int) -> Priors:
        require_states(states, self.nodes)
        shape = (self.nodes,) * (2 if self.coupling == "full" else 1)
        weight = dist.Normal(torch.zeros(shape), self.weight_scale).to_event(len(shape))
        bias = dist.Normal(torch.zeros(self.nodes), self.bias_scale).to_event(1)
        return {"node_weight": weight, "node_bias": bias}

    def dims(self) -> dict[str, tuple[str, ...]]:
        weight = ("node", "node_from") if self.coupling == "full" else ("node",)
        return {"node_weight": weight, "node_bias": ("node",)}

    def matrix(self, parameters: Parameters) -> Tensor:
        """A (…draws, k, k), also where only its diagonal is a parameter."""
        weight = parameters["node_weight"]
        return weight if self.coupling == "full" else weight.diag_embed()

    def logits(self, parameters: Parameters) -> Tensor:
        """A h' + a of every state h' before, (…draws, 2^k, k)."""
        weight = self.matrix(parameters)
        return node_states(self.nodes).to(weight) @ weight.mT + parameters["node_bias"].unsqueeze(
            -2
        )

    def chains(self, parameters: Parameters) -> tuple[Tensor, ...]:
        """log T of every node's own chain, k times (…draws, 2, 2); for a diagonal coupling."""
        require(self.coupling == "diagonal", "coupling", "must be 'diagonal'", self.coupling)
        before = torch.arange(2).to(parameters["node_bias"])
        on = parameters["node_bias"].unsqueeze(-1) + before * parameters["node_weight"].unsqueeze(
            -1
        )
        table = torch.nn.functional.logsigmoid(torch.stack([-on, on], -1))
        return table.unbind(-3)

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        """log T, shape (…draws, 1, 1, 2^k, 2^k)."""
        del data
        return product_law(self.logits(parameters)).unsqueeze(-3).unsqueeze(-3)

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        """Logistic regression of every node on the nodes before, by the counts."""
        weight, bias = _regressed(counts, self.nodes, self.coupling == "full")
        return {"node_weight": weight, "node_bias": bias}

    def check(self, data: Sequences) -> None:
        """Any data will do."""


@dataclass(frozen=True)
class HarmoniumTransition:
    r"""The temporal harmonium (restricted Boltzmann machine): the gate of a step is exact.

    .. math:: T(h \mid h') \propto Z(h) \exp(h \cdot (A h' + a))

    where O(y | h) = r(y) exp(h'Wy) / Z(h) is the emission. Then
    p(h | h', y) = Π_j σ(A h' + W y + a)_j for any A, W and a (Sutskever & Hinton 2007).
    A = ``node_weight`` (k, k), rows the node and columns the node before, a = ``node_bias`` (k,),
    with priors N(0, weight_scale²) and N(0, bias_scale²).

    Raises:
        ValueError: an emission that is not one of nodes, or a scale that is not positive.
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
        """What is left of the law without Z."""
        return SigmoidTransition(self.nodes, "full", self.weight_scale, self.bias_scale)

    def priors(self, states: int) -> Priors:
        return self._undirected.priors(states)

    def dims(self) -> dict[str, tuple[str, ...]]:
        return self._undirected.dims()

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        """log T, shape (…draws, 1, 1, 2^k, 2^k)."""
        del data
        logits = self._undirected.logits(parameters)
        joint = logits @ node_states(self.nodes).to(logits).mT
        joint = joint + self.emission.log_partition(parameters).unsqueeze(-2)
        return joint.log_softmax(-1).unsqueeze(-3).unsqueeze(-3)

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        """The regression of ``SigmoidTransition``, which knows nothing of Z."""
        return self._undirected.start(counts)

    def check_emission(self, emission: Emission) -> None:
        """Raise ``ValueError`` unless the model's emission has the Z that the law is made of."""
        _require_alike(self.emission, emission)

    def check(self, data: Sequences) -> None:
        """Any data will do."""


@dataclass(frozen=True)
class NodeInitial:
    """p(h_1) = Π_j σ(a_1)_j: independent nodes, logits ``node_initial`` (k,) ~ N(0, scale²).

    Raises:
        ValueError: too many nodes, or a scale that is not positive.
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
        """log p(h_1), shape (…draws, 1, 2^k)."""
        del log_transition
        return product_law(parameters["node_initial"]).unsqueeze(-2)

    def start(self, share: Tensor) -> dict[str, Tensor]:
        on = node_probabilities(share)
        return {"node_initial": safe_log(on) - safe_log(1 - on)}


@dataclass(frozen=True)
class HarmoniumInitial:
    """p(h_1) ∝ Z(h_1) exp(h_1 · b_1), so that p(h_1 | y_1) = Π_j σ(W y_1 + b_1)_j.

    b_1 = ``node_initial`` (k,) ~ N(0, scale²); Z is that of the emission, as in
    ``HarmoniumTransition``.

    Raises:
        ValueError: an emission that is not one of nodes, or a scale that is not positive.
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

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"node_initial": ("node",)}

    def __call__(self, parameters: Parameters, log_transition: Callable[[], Tensor]) -> Tensor:
        """log p(h_1), shape (…draws, 1, 2^k)."""
        del log_transition
        bias = parameters["node_initial"]
        joint = (node_states(self.nodes).to(bias) @ bias.unsqueeze(-1)).squeeze(-1)
        joint = joint + self.emission.log_partition(parameters)
        return joint.log_softmax(-1).unsqueeze(-2)

    def check_emission(self, emission: Emission) -> None:
        """Raise ``ValueError`` unless the model's emission has the Z that the law is made of."""
        _require_alike(self.emission, emission)

    def start(self, share: Tensor) -> dict[str, Tensor]:
        return NodeInitial(self.nodes, self.scale).start(share)


def _require_alike(own: NodeEmission, emission: Emission) -> None:
    """Raise ``ValueError`` unless the two have the same Z."""

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
    """Weights (k, k) or (k,) and biases (k,) of the nodes' logits on the nodes before.

    Penalised by half a unit of squared weight, which keeps those of separable counts finite.
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
