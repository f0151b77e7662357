"""Emissions of binary nodes: families whose linear predictor is linear in the nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to

from ..checks import require, require_positive
from ..data.moments import overall_moments
from ..data.sequences import Sequences
from ..emissions.counts import Bernoulli, Categorical, Poisson
from ..emissions.emission import LEAST_SPREAD, Emission, Parameters, Priors
from ..emissions.observations import Observations
from ..emissions.reals import FullGaussian, Gaussian
from ..priors import in_double
from .laws import ChainModel
from .nodes import node_states, require_states
from .start_nodes import start_of_nodes

if TYPE_CHECKING:
    from .hmm import HiddenMarkovModel

_FAMILIES = (Gaussian, FullGaussian, Bernoulli, Poisson, Categorical)


@dataclass(frozen=True)
class NodeEmission(Emission):
    r"""Observations of k binary nodes: a family whose linear predictor is linear in the nodes.

    .. math:: \eta(h) = c + B' h

    η is the mean of ``Gaussian`` and ``FullGaussian`` (all states share the noise), the logit of
    ``Bernoulli`` and ``Categorical``, the log rate of ``Poisson``. Parameters: ``node_loading`` B
    (k, F), one row per node, and ``node_intercept`` c (F,); for a categorical family F is the
    number of symbols. The noise is ``scale`` (F,) and ``correlation_factor`` (F, F), or
    ``covariance`` (F, F) in ``with_parameters``. Missing features are left out exactly.

    All of these are O(y | h) = r(y) exp(h'Wy) / Z(h); see ``natural_weight`` and ``log_partition``.
    Priors: B ~ N(0, (loading_scale · unit)²), unit being the family's spread for reals and
    otherwise 1; c is centred at the family's location.

    Args:
        nodes: number of binary nodes k.
        family: ``Gaussian``, ``FullGaussian``, ``Bernoulli``, ``Poisson`` or ``Categorical``.
        loading_scale: prior scale of the loadings.

    Raises:
        ValueError: too many nodes, another family, or a scale that is not positive.

    >>> import torch
    >>> from beliefzoo.models import Poisson
    >>> emission = NodeEmission(2, Poisson())
    >>> values = {"node_loading": torch.tensor([[1.0], [2.0]]), "node_intercept": torch.zeros(1)}
    >>> emission.mean(values).log().flatten().round(decimals=4)  # of the states 00, 01, 10, 11
    tensor([0., 2., 1., 3.])
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
        """Return whether nodes can have a family of this kind."""
        return type(family) in _FAMILIES

    def check_model(self, model: ChainModel) -> None:
        """Raise ``ValueError`` unless the model has the states of the nodes."""
        require_states(model.states, self.nodes)

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
            spread = self.predictor_scale
            location = torch.as_tensor(family.location, dtype=spread.dtype).repeat(size)[:size]
        elif isinstance(family, Poisson):
            location = torch.tensor(family.typical, dtype=torch.float64).log().repeat(size)[:size]
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

    def competing(self, states: int) -> Tensor | None:
        return self.family.competing(states)

    def redundant(self, priors: Priors, states: int) -> int:
        """Count shifts of logits: of a categorical family, one of each loading and intercept."""
        if self.competing(states) is None:
            return 0
        size = self.shift_size
        shifted = (priors[n] for n in ("node_loading", "node_intercept") if n in priors)
        return sum(prior.event_shape.numel() // size for prior in shifted)

    def predictor(self, parameters: Parameters) -> Tensor:
        """Return η(h) of every state, (…draws, 2^k, F)."""
        loading, intercept = parameters["node_loading"], parameters["node_intercept"]
        return node_states(self.nodes).to(loading) @ loading + intercept.unsqueeze(-2)

    def expanded(self, parameters: Parameters) -> dict[str, Tensor]:
        """Return the family's own parameters, one row per state."""
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
        """Score of correlated features, which become independent when L⁻¹ is applied to them.

        All states share one covariance LL', so no tensor of size (N, T, K, F) is needed.
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
        """Return the values that make frames y (M, F), softly assigned to states, most likely.

        Maximises Σ_m Σ_k weight_mk log O_k(y_m) + log prior, which is concave except in the noise;
        the noise is kept from vanishing.
        """
        if not isinstance(self.family, Gaussian | FullGaussian):
            return self._likeliest(y, mask, weight)
        centre, unit = overall_moments(y, mask)
        found = self._in_units(centre, unit)._likeliest((y - centre) / unit, mask, weight)
        return {
            **found,
            "node_loading": unit * found["node_loading"],
            "node_intercept": centre + unit * found["node_intercept"],
            "scale": unit * found["scale"].clamp_min(LEAST_SPREAD),
        }

    def _in_units(self, centre: Tensor, unit: Tensor) -> NodeEmission:
        """The same law of (y − centre) / unit."""
        family = self.family
        assert isinstance(family, Gaussian | FullGaussian)
        location = ((torch.tensor(family.location, dtype=unit.dtype) - centre) / unit).tolist()
        spread = (family.predictor_scale / unit).tolist()
        family = replace(family, location=tuple(location), spread=tuple(spread))
        return replace(self, family=family)

    def _likeliest(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        priors = {name: in_double(p) for name, p in self.priors(weight.shape[-1]).items()}
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
            prior = sum((priors[name].log_prob(x) for name, x in now.items()), fit)
            total = -prior / len(weight)
            total.backward()
            return total

        with torch.enable_grad():
            optimiser.step(loss)
        return {name: value.detach() for name, value in values().items()}

    def start_chain(
        self, model: HiddenMarkovModel, data: Sequences, *, lloyd: bool
    ) -> dict[str, Tensor] | None:
        """Return starting values of a model of binary nodes, by a constrained k-means."""
        del lloyd
        return None if model.nodes is None else start_of_nodes(self, model, data)

    def natural_weight(self, parameters: Parameters) -> Tensor:
        """Return W (…draws, k, F) of O(y | h) = r(y) exp(h'Wy) / Z(h).

        W is B Σ⁻¹ for Gaussian families and B for all others; y of a categorical family is its
        one-hot code.
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
        """Return log Z(h) of every state, (…draws, 2^k), zero at h = 0; see ``natural_weight``.

        It belongs to a step at which all features are observed.
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
        """Return log Z of the states in which only one node is on, (…draws, k)."""
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
    """A parameter that all states share, with an axis of states before its own axes."""
    trailing = 1 if name == "scale" else 2
    value = value.unsqueeze(-trailing - 1)
    shape = list(value.shape)
    shape[-trailing - 1] = 2**nodes
    return value.expand(shape)
