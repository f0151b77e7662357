"""Guides: the beliefs of a filter and the model's own laws, joined to a posterior over everything.

A guide is a Pyro program with the model's latent sites: one for each parameter, and ``states``.
Pyro's ``TraceMeanField_ELBO`` computes its bound, exactly in the states.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, Self, cast

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ...models import (
    DiscreteLaws,
    Model,
    Sequences,
    TrajectoryLaws,
)
from ...models.beliefs import Belief
from ...models.emissions.emission import Parameters
from ..filters.slot import Beliefs, ExactFilter, Filter, ScoredFilter
from ..queries.answers import forecast
from ..queries.evidence import log_evidence
from .gaussian_posteriors import (
    GaussianBackward,
    GaussianForward,
    GaussianMeanField,
    GaussianSmoother,
    LinearisableLaws,
    LinearisedBackward,
)
from .parameters import UNCERTAINTIES, ParameterPosterior, Uncertainty, usual
from .posteriors import Backward, Forward, MeanField


class Posterior(Protocol):
    """Posterior q(states | y) of a batch: a law of discrete paths or continuous trajectories.

    Paths are int64 (…, N, T), −1 beyond the length, trajectories (…, N, T, D), zero there.

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter
    >>> from beliefzoo.models import mess3
    >>> model = mess3().model
    >>> laws = model.laws(model.known, model.sample(4, 6, seed=0).data)
    >>> posterior = BeliefGuide(model, ExactFilter()).posterior(laws)
    >>> posterior.mean.shape, posterior.sample_paths(10).shape, posterior.elbo().shape
    (torch.Size([4, 6, 9]), torch.Size([10, 4, 6]), torch.Size([4]))
    """

    @property
    def mean(self) -> Tensor:
        """Marginal probabilities (N, T, K), or means (N, T, D)."""

    def sample_paths(self, n: int) -> Tensor:
        """Returns n draws per sequence, (n, N, T[, D]); continuous ones are differentiable."""

    def path_log_prob(self, paths: Tensor) -> Tensor:
        """Returns log q(z_1 … z_L), shape (…, N)."""

    def chain_log_prob(self, paths: Tensor) -> Tensor:
        """Returns log p(z_1 … z_L) under the model, shape (…, N)."""

    def emission_log_prob(self, paths: Tensor) -> Tensor:
        """Returns Σ_t log O(y_t | z_t), shape (…, N)."""

    def elbo(self) -> Tensor:
        """Returns the bound on log p(y) of each sequence or an unbiased estimate, (N,) nats."""


class ParameterDraw(NamedTuple):
    """Parameter values with their log densities under prior and guide, in nats."""

    values: dict[str, Tensor]
    log_prior: Tensor
    log_q: Tensor


class Guide(nn.Module, ABC):
    """What all guides share; see ``BeliefGuide``, ``ForwardGuide``, ``MeanFieldGuide``.

    A guide of your own derives from it and defines ``posterior``.

    Args:
        model: the model whose posterior this is.
        filter: exact or recurrent; its weights are made here.
        parameters: posterior of the unknown parameters: ``"multivariate"`` (one joint normal on the
            unconstrained scale), ``"normal"`` (independent ones, which makes intervals too narrow
            where parameters depend on each other), ``"map"`` (point estimate) or ``"ml"`` (point
            estimate, priors ignored). None: ``"multivariate"`` for up to 30 unconstrained numbers,
            otherwise ``"normal"``.

    >>> from beliefzoo.inference import BeliefGuide, Guide, LSTMFilter
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model = HiddenMarkovModel(states=2, emission="poisson")
    >>> guide = BeliefGuide(model, LSTMFilter(8), parameters="normal")
    >>> isinstance(guide, Guide), sorted(guide.median())
    (True, ['initial', 'rate', 'transition'])
    """

    def __init__(
        self,
        model: Model,
        filter: Filter,
        *,
        parameters: Uncertainty | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, Model):
            raise ValueError(f"model: must be a model of beliefzoo.models, got {model!r}")
        if parameters is None:
            parameters = usual(model.priors)
        if parameters not in UNCERTAINTIES:
            raise ValueError(f"parameters: must be one of {UNCERTAINTIES}, got {parameters!r}")
        has = all(hasattr(filter, name) for name in ("causal", "build", "calibrate"))
        if isinstance(filter, type) or not has:
            raise ValueError(
                "filter: must be a filter, such as LSTMFilter(8), or NetworkFilter(module) for a "
                f"network of your own, got {filter!r}"
            )
        self._check_filter(filter)
        self._check_model(model)
        filter.build(model)
        self.model = model
        self.filter = filter
        self.uncertainty: Uncertainty = parameters
        self.precision = torch.float64
        self.redundant = False
        self.parameter_posterior = self._posterior_at({})

    def _check_filter(self, filter: Filter) -> None:
        """Raises ValueError for filters that this guide cannot use."""

    def _check_model(self, model: Model) -> None:
        """Raises ValueError for models that this guide has no posterior for."""

    def continuation(
        self,
        known: Model,
        data: Sequences,
        steps: int,
        *,
        weighted: int,
        inputs: Tensor | None = None,
        times: Tensor | None = None,
        actions: Tensor | None = None,
    ) -> Tensor:
        """Draws one continuation of every sequence, (N, H) codes or (N, H, F), see ``forecast``.

        ``weighted`` is the number of weighted trajectories of the guide that a guide of models
        without ``forecast`` continues.
        """
        del weighted
        ahead = forecast(known, data, steps, draws=1, inputs=inputs, times=times, actions=actions)
        drawn: Tensor = ahead.draws[0]
        return drawn

    @property
    def options(self) -> dict[str, Any]:
        """The arguments beyond model, filter and parameters; ``load_fit`` rebuilds it from them."""
        return {}

    @property
    def noiseless(self) -> bool:
        """Whether ``bound`` is a function of the parameters, without draws of trajectories."""
        return self.model.exact or self.model.belief.discrete

    def _posterior_at(self, start: Mapping[str, Tensor]) -> ParameterPosterior | None:
        model = self.model
        if not model.priors:
            return None
        priors, units, kind = model.priors, model.units, self.uncertainty
        return ParameterPosterior(priors, units, start, kind, redundant=self.redundant)

    def in_redundant_coordinates(self) -> None:
        """Makes the posterior of the parameters, a point, anew in redundant coordinates.

        Steps of a gradient go along these better than along those of L-BFGS, which have a curvature
        in all directions.
        """
        self.redundant = True
        self.parameter_posterior = self._posterior_at(self.median())

    def fresh(self, start: Mapping[str, Tensor]) -> Self:
        """Returns a copy with parameters centred on ``start`` and the same filter weights."""
        out = copy.copy(self)
        out._modules = dict(self._modules)
        out.filter = copy.deepcopy(self.filter)
        out.parameter_posterior = out._posterior_at(start)
        return out

    def of(self, model: Model) -> Self:
        """Returns the same guide of the same model with other priors."""
        out = copy.copy(self)
        out._modules = dict(self._modules)
        out.model = model
        return out

    def calibrate(self, data: Sequences) -> None:
        """Adapts the filter to the scale of the data, and of the states at the medians."""
        self.filter.calibrate(parameters_of(self), data)

    def beliefs(self, laws: TrajectoryLaws) -> Beliefs:
        """The filter's beliefs, those of discrete states in the precision of the laws."""
        beliefs = self.filter(laws)
        if isinstance(beliefs, Tensor) and laws.discrete is not None:
            precision = laws.discrete.log_initial.dtype
            if beliefs.dtype != precision:  # normalise in the laws' precision
                return beliefs.to(precision).log_softmax(-1)
        return beliefs

    @abstractmethod
    def posterior(self, laws: TrajectoryLaws, *, learn: bool = True) -> Posterior:
        """Returns q(states | y) at given laws; the filter is constant if not ``learn``."""

    def bound(self, laws: TrajectoryLaws) -> Tensor:
        """Returns the bound on log p(y) of each sequence at given laws, (N,) nats; differentiable.

        For nonlinear laws of continuous states it is an unbiased estimate.
        """
        return self.posterior(laws).elbo()

    def sleep_loss(self, laws: TrajectoryLaws, paths: Tensor) -> Tensor:
        """Returns −log q(z | y) of simulated paths, (N,): the loss of the forward KL."""
        return -self.posterior(laws).path_log_prob(paths)

    def sample_parameters(self) -> dict[str, Tensor]:
        """The part of the guide's Pyro program that samples the parameters."""
        return {} if self.parameter_posterior is None else self._cast(self.parameter_posterior())

    def forward(self, data: Sequences, *, scale: float = 1.0, observe: bool = True) -> Posterior:
        """The guide's Pyro program: samples parameters and ``states``; returns q(states | y).

        Its arguments are those of the model's program. With ``observe=False``, as ``Predictive``
        calls it, discrete states are drawn; otherwise ``states`` is their mean trajectory.
        """
        laws = self.model.laws(self.sample_parameters(), data)
        posterior = self.posterior(laws)
        law: Any = posterior
        if not observe:
            law = copy.copy(posterior)
            law.has_rsample = False
        with pyro.plate("sequence", len(data)), poutine.scale(scale=scale):
            pyro.sample("states", law)
        return posterior

    def median(self) -> dict[str, Tensor]:
        """Returns posterior medians of the unknown parameters, or the point estimate."""
        if self.parameter_posterior is None:
            return {}
        with torch.no_grad():
            return self._cast(self.parameter_posterior.median())

    def draw_parameters(self, draws: int | None = None) -> ParameterDraw:
        """Returns draws of the unknown parameters with their log densities; differentiable.

        Args:
            draws: number of draws, the first axis of the results; None: a single one without this
                axis.
        """
        size = () if draws is None else (draws,)
        zero = torch.zeros(size, dtype=torch.float64)
        if self.parameter_posterior is None:
            return ParameterDraw({}, zero, zero)
        values, densities = self.parameter_posterior.draw(*size)
        if self.uncertainty == "ml":
            return ParameterDraw(self._cast(values), zero, zero)
        priors = self.model.priors
        log_prior = sum((priors[n].log_prob(v) for n, v in values.items()), zero)
        return ParameterDraw(self._cast(values), log_prior, sum(densities.values(), zero))

    def _cast(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.precision) for name, value in values.items()}

    def parameter_modules(self) -> Iterator[nn.Parameter]:
        """Iterates over the variational parameters of the model's parameters."""
        if self.parameter_posterior is not None:
            yield from self.parameter_posterior.parameters()

    def filter_shapes(self) -> dict[str, Tensor]:
        """Returns all tensors that the filter stores, by name."""
        return dict(self.filter.state_dict()) if isinstance(self.filter, nn.Module) else {}

    def filter_modules(self) -> Iterator[nn.Parameter]:
        """Iterates over the weights of the filter."""
        if isinstance(self.filter, nn.Module):
            yield from self.filter.parameters()


class BeliefGuide(Guide):
    r"""Posterior of causal beliefs β_t joined by the model's own backward kernels.

    .. math::
        q(z|y) = \beta_T(z_T) \prod_{t<T} \frac{\beta_t(z_t) T(z_{t+1}|z_t)}
        {\sum_z \beta_t(z) T(z_{t+1}|z)}

    Its bound is the evidence if and only if β is the exact filter, so maximising it teaches the
    network to filter; see docs/science.md, I1. For discrete states, and for continuous ones with
    linear-Gaussian laws, the bound is exact in the states: no sampling noise. For other laws of
    continuous states the transition is linearised at the belief, and the bound is estimated from
    draws.

    Args:
        model, filter, parameters: as of :class:`Guide`; the filter is causal.

    Source: Campbell et al. (2021) for the factorisation.

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, fit
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> data = Sequences.from_arrays([[1, 0, 1, 9, 8, 9, 0, 1], [8, 9, 10, 1, 0, 0]])
    >>> model = HiddenMarkovModel(states=2, emission="poisson", ordered=True)
    >>> guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    >>> result = fit(model, guide, data, seed=0, progress=False)
    >>> result.fitted.known["rate"].numpy().round(1)  # means of the small and of the large counts
    array([0.5, 8.8])
    """

    def _check_filter(self, filter: Filter) -> None:
        if not filter.causal:
            raise ValueError(
                "filter: BeliefGuide needs beliefs about the past only, got a network that reads "
                "the future; use it in a ForwardGuide or MeanFieldGuide"
            )

    def _check_model(self, model: Model) -> None:
        if model.own_guide and model.belief.discrete:  # it is about a part of the state
            raise ValueError(
                f"model: BeliefGuide needs states of one kind; use {model.own_guide}, got {model}"
            )

    @property
    def exact(self) -> bool:
        """Whether the beliefs are the exact filter's, so that the bound is the evidence."""
        return type(self.filter) is ExactFilter and type(self).beliefs is Guide.beliefs

    def posterior(
        self, laws: TrajectoryLaws, *, learn: bool = True
    ) -> Backward | GaussianBackward | LinearisedBackward | GaussianSmoother:
        """Returns q(states | y) at given laws; the filter is constant if not ``learn``."""
        if self.exact and laws.linear is not None:
            return GaussianSmoother(laws.linear)  # needs no density of the beliefs
        beliefs = self.beliefs(laws)
        beliefs = beliefs if learn else beliefs.detach()
        if isinstance(beliefs, Tensor):
            return Backward(_discrete(laws), beliefs)
        if laws.linear is not None:
            return GaussianBackward(laws.linear, beliefs)
        if hasattr(laws, "linearised"):
            return LinearisedBackward(cast(LinearisableLaws, laws), beliefs)
        raise ValueError(
            "model: BeliefGuide needs a transition that is linear or can be linearised, got "
            f"{type(laws).__name__}; use ForwardGuide"
        )

    def bound(self, laws: TrajectoryLaws) -> Tensor:
        """Returns the bound on log p(y) of each sequence, (N,) nats; differentiable."""
        if not self.exact or type(self).posterior is not BeliefGuide.posterior:
            return super().bound(laws)
        # The bound equals the evidence, in value and gradient, which takes a third of the time.
        return log_evidence(laws)

    def sleep_loss(self, laws: TrajectoryLaws, paths: Tensor) -> Tensor:
        """Returns −Σ_t log β_t(z_t) of simulated paths, (N,): only the belief is trained.

        It is the network's own belief, before ``posterior`` removes states that the model's zeros
        rule
        out: the network learns to do so itself, and can be used without the model.
        """
        beliefs = self.beliefs(laws)
        if isinstance(beliefs, Tensor):
            return -Backward._pick(beliefs, paths).sum(-1)
        each = beliefs.double().log_prob(paths.double())
        return -torch.where(laws.data.step_mask, each, 0).sum(-1)


class ForwardGuide(Guide):
    """Posterior that runs forward: q(z_t | z_{t-1}, h_t) ∝ T(z_t | z_{t-1}) exp(s_t(z_t)).

    s_t is read off the network; for continuous states with linear-Gaussian laws exp(s_t) is a
    normal density of z_t. With a network that reads the future it can be the exact smoother; with a
    causal one it is the plain causal guide, which cannot (docs/science.md, I2).

    Args:
        model, parameters: as of :class:`Guide`.
        filter: one with scores, see :class:`ScoredFilter`.

    >>> import torch
    >>> from beliefzoo.inference import FitSettings, ForwardGuide, LSTMFilter, evidence_gap, fit
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[2.0, 5.0]
    ... )
    >>> data, _ = model.sample(20, 10, seed=0).data, torch.manual_seed(0)
    >>> guide = ForwardGuide(model, LSTMFilter(8, direction="both"))
    >>> settings = FitSettings(steps=20, learning_rate=0.05, sleep_steps=0)
    >>> result = fit(model, guide, data, settings=settings, seed=0, progress=False)
    >>> evidence_gap(result, data).gap_per_step < evidence_gap(guide, data).gap_per_step
    True
    """

    def _check_filter(self, filter: Filter) -> None:
        if isinstance(filter, ExactFilter):
            raise ValueError(
                "filter: ForwardGuide needs a recurrent filter, whose scores look ahead; got "
                "ExactFilter, which belongs into a BeliefGuide"
            )
        if not isinstance(filter, ScoredFilter):
            raise ValueError(
                "filter: ForwardGuide needs scores that a belief is read off (methods scores and "
                f"read_out), got {type(filter).__name__}, whose beliefs belong into a BeliefGuide"
            )

    def _check_model(self, model: Model) -> None:
        _require_plain(self, model)

    def posterior(self, laws: TrajectoryLaws, *, learn: bool = True) -> Forward | GaussianForward:
        """Returns q(states | y) at given laws; the filter is constant if not ``learn``."""
        if laws.discrete is not None:
            scores = self._scores(laws)
            return Forward(laws.discrete, scores if learn else scores.detach())
        potentials = self.filter(laws)
        if laws.linear is None or isinstance(potentials, Tensor):
            raise _not_plain(self, laws)
        return GaussianForward(laws.linear, potentials if learn else potentials.detach())

    def sleep_loss(self, laws: TrajectoryLaws, paths: Tensor) -> Tensor:
        """−log q(z | y) of simulated paths, per sequence (N,): the forward KL's loss."""
        posterior = self.posterior(laws)
        if laws.linear is None:
            return -posterior.path_log_prob(paths)
        # log p(z) in the dtype of the simulation: components without noise follow from the step
        # before to its rounding, not to that of float64.
        gaussian = cast(GaussianForward, posterior)
        return -(gaussian.excess(paths) + laws.linear.chain_log_prob(paths).double())

    def _scores(self, laws: TrajectoryLaws) -> Tensor:
        """s_t(z_t), (N, T, K); of binary nodes those of a product law, h · s_t."""
        belief: Belief | None = getattr(self.filter, "belief", None)
        if belief is not None and belief.discrete and belief.nodes is not None:
            beliefs: Tensor = self.beliefs(laws)  # type: ignore[assignment]
            return beliefs
        scores: Tensor = self.filter.scores(laws)  # type: ignore[attr-defined]
        return scores.to(_discrete(laws).log_initial.dtype)


class MeanFieldGuide(Guide):
    """Posterior of independent steps: q(z | y) = Π_t β_t(z_t), which ignores the chain.

    A comparison. With a causal filter its optimum is not the filter (docs/science.md, I2).

    Args:
        model, filter, parameters: as of :class:`Guide`.

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, MeanFieldGuide, evidence_gap
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.95, 0.05], [0.05, 0.95]], rate=[2.0, 4.0]
    ... )
    >>> data = model.sample(20, 30, seed=0).data
    >>> for kind in (BeliefGuide, MeanFieldGuide):  # the same exact beliefs
    ...     round(abs(evidence_gap(kind(model, ExactFilter()), data).gap_per_step), 2)
    0.0
    0.33
    """

    def _check_model(self, model: Model) -> None:
        _require_plain(self, model)

    def posterior(
        self, laws: TrajectoryLaws, *, learn: bool = True
    ) -> MeanField | GaussianMeanField:
        """Returns q(states | y) at given laws; the filter is constant if not ``learn``."""
        beliefs = self.beliefs(laws)
        beliefs = beliefs if learn else beliefs.detach()
        if isinstance(beliefs, Tensor):
            return MeanField(_discrete(laws), beliefs)
        if laws.linear is None:
            raise _not_plain(self, laws)
        return GaussianMeanField(laws.linear, beliefs)


def _discrete(laws: TrajectoryLaws) -> DiscreteLaws:
    assert laws.discrete is not None  # since the beliefs are
    return laws.discrete


def _not_plain(guide: Guide, laws: TrajectoryLaws) -> ValueError:
    return ValueError(
        f"model: {type(guide).__name__} needs discrete states or linear-Gaussian laws, got "
        f"{type(laws).__name__}"
    )


def _require_plain(guide: Guide, model: Model) -> None:
    """Raises ValueError for nonlinear and switching laws, which have other guides."""
    if model.own_guide:
        raise ValueError(
            f"model: {type(guide).__name__} needs discrete states or linear-Gaussian laws; use "
            f"{model.own_guide}, got {model}"
        )


def parameters_of(guide: Guide, values: Parameters | None = None) -> Model:
    """The guide's model with all parameters known: at ``values`` or the posterior medians."""
    chosen = guide.median() if values is None else values
    return guide.model.with_parameters(**chosen)
