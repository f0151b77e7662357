"""Guides of switching linear models: a network's belief about the regimes, Kalman given these."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, cast, get_args

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ...models import Model, SwitchingLaws, SwitchingLinearSSM, TrajectoryLaws
from ...models.boundary import boundary
from ...models.trajectories import one_hot
from ..filters.slot import ExactFilter, Filter
from ..queries.regime_moments import (
    StateChain,
    conditional_evidence,
    expected_log_joint,
    state_chain,
    state_given,
)
from .guide import Guide
from .parameters import Uncertainty
from .posteriors import Backward

RegimeBound = Literal["factorised", "conditional"]


class SwitchingPosterior(dist.TorchDistribution):
    r"""q(s) of beliefs about the regimes and their backward kernels, and q(z | s, y).

    .. math::
        q(s) = \beta_T(s_T) \prod_{t<T}
        \frac{\beta_t(s_t) T(s_{t+1} | s_t)}{\sum_i \beta_t(i) T(s_{t+1} | i)}, \qquad
        q(z | s, y) = p(z | s, y)

    the latter by a Kalman smoother along each regime path. Given the regimes a recurrent model is
    not linear-Gaussian: then T and the smoother are those of the model without recurrence (at
    z = 0), and the recurrence enters only the weights and bounds.

    A trajectory is (…, N, T, K + D), batch shape (N,). ``bound`` says what ``elbo`` is:

    - ``"conditional"``: E_q(s)[log p(y | s)] − KL(q(s) ‖ p(s)), the ELBO of this posterior. The
      expectation is over ``draws`` regime paths; the network's gradient is that of the score
      function, each draw compared with the mean of the others.
    - ``"factorised"``: the ELBO of q(s) q(z), with the best q(z). In closed form: no draws, exact
      gradients (Ghahramani & Hinton 2000). Never above the conditional one, and equal to it if the
      state's law does not depend on the regimes.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(
        self,
        laws: SwitchingLaws,
        log_beliefs: Tensor,
        *,
        bound: RegimeBound = "conditional",
        draws: int = 8,
    ) -> None:
        self.laws = laws
        self.regimes = Backward(laws.regime_chain, log_beliefs.to(laws.drift))
        self.bound: RegimeBound = bound
        self.draws = draws
        event = torch.Size([laws.data.max_length, laws.regimes + laws.drift.shape[-1]])
        super().__init__(laws.lengths.shape, event, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Hard regimes beside real states."""
        return self.laws.states().support

    @property
    def log_beliefs(self) -> Tensor:
        """log β_t, (N, T, K)."""
        return self.regimes.log_beliefs

    @property
    def marginals(self) -> Tensor:
        """q(s_t), (N, T, K), zero beyond the length."""
        return self.regimes.marginals

    @cached_property
    def state(self) -> StateChain:
        """The state's law under the factorised posterior, one chain a sequence."""
        return state_chain(self.laws, self.marginals.detach())

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> SwitchingPosterior:
        if torch.Size(batch_shape) != self.batch_shape:
            raise ValueError(
                f"SwitchingPosterior: batch shape is fixed at {tuple(self.batch_shape)}, one entry "
                f"a sequence; got {tuple(batch_shape)}"
            )
        return self

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        drawn = self.sample_paths(max(1, torch.Size(sample_shape).numel()))
        return drawn.reshape(torch.Size(sample_shape) + self.batch_shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.path_log_prob(value)

    def sample_paths(self, n: int) -> Tensor:
        """n trajectories of every sequence, (n, N, T, K + D)."""
        with torch.no_grad():
            regimes = self.regimes.sample_paths(n)
            return self.laws.join(regimes, self._drawn(regimes))

    def _drawn(self, regimes: Tensor) -> Tensor:
        """A draw of the state along each of the regime paths (S, N, T), (S, N, T, D)."""
        z = state_given(self.laws, regimes).sample(1)[0]
        return z.reshape(*regimes.shape, -1)

    def path_log_prob(self, states: Tensor) -> Tensor:
        """log q(s) + log q(z | s, y) of trajectories (S, N, T, K + D), shape (S, N).

        The gradient is that of log q(s): by Fisher's identity that is all it takes where the
        trajectory is weighted by the model's density over this one.
        """
        whole = states.unsqueeze(0) if states.ndim == 3 else states
        regimes, z = self.laws.split(whole)
        log_q = state_given(self.laws, regimes).log_prob(z.flatten(0, 1)).reshape(regimes.shape[:2])
        both = self.regimes.path_log_prob(regimes) + log_q
        return both[0] if states.ndim == 3 else both

    def chain_log_prob(self, states: Tensor) -> Tensor:
        """log p(s, z) of trajectories (…, N, T, K + D), shape (…, N)."""
        return self.laws.chain_log_prob(states)

    def emission_log_prob(self, states: Tensor) -> Tensor:
        """Σ_t log O(y_t | s_t, z_t) of trajectories (…, N, T, K + D), shape (…, N)."""
        return self.laws.emission_log_prob(states)

    def elbo(self) -> Tensor:
        """The bound on log p(y) of each sequence, (N,) nats; differentiable."""
        if self.bound == "factorised":
            return self.factorised_elbo()
        return self.conditional_elbo(self.draws)

    def factorised_elbo(self) -> Tensor:
        """The bound of q(s) q(z), (N,) nats: closed, with exact gradients.

        Raises:
            ValueError: a recurrent model, of which there is no closed form.
        """
        if self.laws.recurrence is not None:
            raise ValueError(
                "bound: 'factorised' has no closed form for a recurrent model, use 'conditional'"
            )
        kl = self.regimes.kl_to_chain(self.laws.regime_chain.states())
        return expected_log_joint(self.laws, self.marginals, self.state) - kl

    def conditional_elbo(self, draws: int) -> Tensor:
        """An unbiased estimate of E_q(s)[log p(y | s)] − KL(q(s) ‖ p(s)), (N,) nats.

        Of a recurrent model E_q[log p(y, z | s) − log q(z | s, y) + log p(s | z) − log q(s)]; what
        q(z | s, y) has of the parameters is left out of the gradient.
        """
        regimes = self.regimes.sample_paths(draws)
        told = conditional_evidence(self.laws, regimes)
        log_q = self.regimes.path_log_prob(regimes)
        if self.laws.recurrence is None:
            kl = self.regimes.kl_to_chain(self.laws.regime_chain.states())
        else:
            driven = _recurrent_log_prob(self.laws, regimes, self._drawn(regimes))
            told = told + driven - log_q.detach()
            kl = torch.zeros_like(told[0])
        value = told.detach()
        credit = (value - value.mean(0)) * draws / max(draws - 1, 1)  # against the others' mean
        score: Tensor = (credit * (log_q - log_q.detach())).mean(0)
        return told.mean(0) - kl + score


def _recurrent_log_prob(laws: SwitchingLaws, regimes: Tensor, z: Tensor) -> Tensor:
    """log p(s | z) = log p(s_1) + Σ_t log p(s_{t+1} | s_t, z_t), (S, N)."""
    hard = one_hot(regimes, laws.regimes, z.dtype)
    first = torch.where(hard[..., 0, :] > 0, laws.log_initial, 0).sum(-1)
    if regimes.shape[-1] == 1:
        return first
    table = laws.log_regimes(z)
    index = regimes[..., :-1, None, None].clamp_min(0).expand(*table.shape[:-2], 1, laws.regimes)
    rows = table.gather(-2, index).squeeze(-2)
    return first + torch.where(hard[..., 1:, :] > 0, rows, 0).sum((-1, -2))


@boundary
class RegimeGuide(Guide):
    """Posterior of a switching model: a network's belief about the regimes, Kalman given these.

    ``SwitchingPosterior`` describes the posterior and its two bounds. All objectives of ``fit``
    work; ``"elbo"`` maximises the chosen bound.

    Args:
        model: a ``SwitchingLinearSSM``.
        filter: a causal recurrent filter; its belief is about the regimes.
        parameters: posterior of the unknown parameters, as of :class:`Guide`.
        bound: ``"conditional"`` or ``"factorised"``; the latter for models without recurrence.
        draws: number of regime paths per sequence for the conditional bound, at least 2.

    Raises:
        ValueError: a bad argument.

    >>> from beliefzoo.inference import FitSettings, LSTMFilter, RegimeGuide, fit
    >>> from beliefzoo.models import Sequences, SwitchingLinearSSM
    >>> model = SwitchingLinearSSM(regimes=2, dimensions=1)
    >>> data = Sequences.from_arrays([[0.1, -0.2, 0.0, 3.0, -2.5, 4.0], [0.2, 0.1, -0.1, 0.0]])
    >>> guide = RegimeGuide(model, LSTMFilter(hidden_size=4), bound="factorised")
    >>> result = fit(model, guide, data, settings=FitSettings(steps=3), seed=0, progress=False)
    >>> result.losses.shape, guide.noiseless
    (torch.Size([3]), True)
    """

    def __init__(
        self,
        model: Model,
        filter: Filter,
        *,
        parameters: Uncertainty | None = None,
        bound: RegimeBound = "conditional",
        draws: int = 8,
    ) -> None:
        if not isinstance(model, SwitchingLinearSSM):
            raise ValueError(f"model: must be a SwitchingLinearSSM, got {model!r}")
        if bound not in get_args(RegimeBound):
            raise ValueError(f"bound: must be one of {get_args(RegimeBound)}, got {bound!r}")
        if bound == "factorised" and model.recurrent:
            raise ValueError("bound: must be 'conditional' for a recurrent model, got 'factorised'")
        if not isinstance(draws, int) or draws < 2:
            raise ValueError(f"draws: must be a whole number >= 2, got {draws!r}")
        super().__init__(model, filter, parameters=parameters)
        self.kind: RegimeBound = bound
        self.draws = draws

    def _check_filter(self, filter: Filter) -> None:
        if isinstance(filter, ExactFilter) or not filter.causal:
            raise ValueError(
                "filter: RegimeGuide needs a recurrent filter that reads the past, got "
                f"{type(filter).__name__}; a switching model has no exact filter"
            )

    @property
    def options(self) -> dict[str, object]:
        """The bound and its number of draws."""
        return {"bound": self.kind, "draws": self.draws}

    @property
    def noiseless(self) -> bool:
        """Whether the bound is a function of the parameters, without draws of regimes."""
        return self.kind == "factorised"

    def posterior(self, laws: TrajectoryLaws, *, learn: bool = True) -> SwitchingPosterior:
        """Returns q(states | y) at given laws; the filter is constant if not ``learn``."""
        beliefs = self.beliefs(laws)
        assert isinstance(beliefs, Tensor)  # the model's belief is discrete
        beliefs = beliefs if learn else beliefs.detach()
        return SwitchingPosterior(_switching(laws), beliefs, bound=self.kind, draws=self.draws)

    def sleep_loss(self, laws: TrajectoryLaws, paths: Tensor) -> Tensor:
        """−Σ_t log β_t(s_t) of simulated trajectories (N, T, K + D), (N,)."""
        posterior = self.posterior(laws)
        regimes = posterior.laws.split(paths).regimes
        picked: Tensor = posterior.regimes._pick(posterior.log_beliefs, regimes)
        return -picked.sum(-1)


def _switching(laws: TrajectoryLaws) -> SwitchingLaws:
    return cast(SwitchingLaws, laws)  # the guide's model is a switching one
