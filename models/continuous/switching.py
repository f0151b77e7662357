"""Switching linear models: a hidden chain of regimes chooses the dynamics of a continuous state."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ..beliefs import DiscreteBelief
from ..boundary import boundary
from ..chains.hmm import ChainLaws
from ..chains.laws import FreeInitial, MatrixTransition, ScaledLaw, TransitionLaw
from ..checks import require, require_count
from ..data.folders import Data, SequenceFolder
from ..data.moments import overall_moments
from ..data.sequences import Sequences
from ..emissions.emission import Parameters, Priors
from ..emissions.observations import Vectors
from ..model import Model
from ..trajectories import HardPaths, invert, one_hot, safe_log
from .switching_start import regime_start

Noise = Literal["diagonal", "full"]


class RegimeState(NamedTuple):
    """The two parts of a hidden trajectory: regimes s (…, T), and continuous states z (…, T, D)."""

    regimes: Tensor
    continuous: Tensor


class LinearGivenRegimes(NamedTuple):
    """The linear-Gaussian model given regime paths (M, T), one row per path.

    z_{t+1} = A_t z_t + b_t + N(0, Q_t) and y_t = C_t z_t + d_t + N(0, R_t), z_1 ~ N(m, P).
    """

    initial_mean: Tensor
    """m, (1, D)"""
    initial_covariance: Tensor
    """P, (1, D, D)"""
    transition: Tensor
    """A_t, (M, T-1, D, D)"""
    offset: Tensor
    """b_t, (M, T-1, D)"""
    noise: Tensor
    """Q_t, (M, T-1, D, D)"""
    loading: Tensor
    """C_t, (1|M, 1|T, F, D)"""
    intercept: Tensor
    """d_t, (1|M, 1|T, F)"""
    observation_noise: Tensor
    """R_t, (1|M, 1|T, F, F), diagonal"""
    values: Tensor
    """y, (M, T, F)"""
    mask: Tensor
    """What of y was observed, (M, T, F)"""
    lengths: Tensor
    """(M,)"""


@dataclass(frozen=True)
class SwitchingLaws:
    """The laws of a switching model at given parameter values, for given data.

    ``SwitchingLinearSSM.laws`` makes them. A trajectory is (…, N, T, K + D): the one-hot regime,
    then the continuous state z; zero beyond the length.

    Args:
        log_initial: log p(s_1), (1, K).
        log_transition: log probabilities of the regimes' moves, (N|1, T-1|1, K, K).
        recurrence: R (K, D): p(s_{t+1}) is the softmax of log_transition[s_t] + R z_t; or None.
        initial_mean, initial_scale: of z_1, (D,).
        dynamics: A, (K, D, D).
        drift: b, (K, D).
        noise_factor: Cholesky factors of Q, (K, D, D).
        loading: C, (K|1, F, D).
        intercept: d, (K|1, F).
        observation_scale: standard deviations of the observation noise, (K|1, F).
        parameters: all parameter values, by name.
        data: the sequences.

    >>> from beliefzoo.models import SwitchingLinearSSM
    >>> model = SwitchingLinearSSM(regimes=2, dimensions=1)
    >>> drawn = model.sample(1, 4, seed=0)
    >>> laws = model.laws(drawn.parameters, drawn.data)
    >>> regimes, z = laws.split(drawn.states)
    >>> tuple(drawn.states.shape), tuple(regimes.shape), tuple(z.shape)
    ((1, 4, 3), (1, 4), (1, 4, 1))
    """

    discrete = linear = None  # neither, but a mixture of both

    log_initial: Tensor
    log_transition: Tensor
    recurrence: Tensor | None
    initial_mean: Tensor
    initial_scale: Tensor
    dynamics: Tensor
    drift: Tensor
    noise_factor: Tensor
    loading: Tensor
    intercept: Tensor
    observation_scale: Tensor
    parameters: Parameters
    data: Sequences

    @property
    def lengths(self) -> Tensor:
        """Length of every sequence, (N,)."""
        return self.data.lengths

    @property
    def regimes(self) -> int:
        """Number of regimes K."""
        return len(self.dynamics)

    @property
    def noise(self) -> Tensor:
        """Q, (K, D, D)."""
        return self.noise_factor @ self.noise_factor.mT

    @property
    def regime_chain(self) -> ChainLaws:
        """The regimes by themselves, without observations; of a recurrent model at z = 0."""
        return ChainLaws(self.log_initial, self.log_transition, self.data)

    # Trajectories and their parts

    def join(self, regimes: Tensor, continuous: Tensor) -> Tensor:
        """Return trajectories (…, N, T, K + D) from regimes (…, N, T) and states (…, N, T, D)."""
        regimes = regimes.masked_fill(~self.data.step_mask, -1)
        hard = one_hot(regimes, self.regimes, continuous.dtype)
        inside = self.data.step_mask.unsqueeze(-1)
        return torch.cat([hard, torch.where(inside, continuous, 0)], -1)

    def split(self, states: Tensor) -> RegimeState:
        """Return the two parts of trajectories; regimes are −1 beyond the length."""
        hard, continuous = states.split([self.regimes, states.shape[-1] - self.regimes], -1)
        return RegimeState(hard.argmax(-1).masked_fill(hard.sum(-1) == 0, -1), continuous)

    # Densities

    @cached_property
    def _noise_whitening(self) -> tuple[Tensor, Tensor]:
        """Inverse Cholesky factors of Q, (K, D, D), and log normalisers, (K,)."""
        eye = torch.eye(self.drift.shape[-1]).to(self.noise_factor)
        inverse = torch.linalg.solve_triangular(self.noise_factor, eye, upper=False)
        log_scale = self.noise_factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return inverse, log_scale + 0.5 * len(eye) * math.log(2 * math.pi)

    def log_dynamics(self, before: Tensor, after: Tensor) -> Tensor:
        """Return log N(z'; A_k z + b_k, Q_k) of every regime k, (…, K), for z and z' (…, D)."""
        inverse, normaliser = self._noise_whitening
        reached = torch.einsum("kij,...j->...ki", inverse @ self.dynamics, before)
        shift = (inverse @ self.drift.unsqueeze(-1)).squeeze(-1)
        whitened = torch.einsum("kij,...j->...ki", inverse, after) - reached - shift
        return -0.5 * whitened.square().sum(-1) - normaliser

    def log_regimes(self, continuous: Tensor) -> Tensor:
        """Return log p(s_{t+1} | s_t, z_t), (…, N|1, T-1|1, K, K), along states (…, N, T, D)."""
        if self.recurrence is None:
            return self.log_transition
        drive = (continuous[..., :-1, :] @ self.recurrence.mT).unsqueeze(-2)
        return (self.log_transition + drive).log_softmax(-1)

    def log_first(self, states: Tensor) -> Tensor:
        """Return log p(s_1) p(z_1), (…, N), of first states (…, N, K + D)."""
        hard, z = states.split([self.regimes, states.shape[-1] - self.regimes], -1)
        law = dist.Normal(self.initial_mean, self.initial_scale, validate_args=False)
        continuous: Tensor = law.log_prob(z).sum(-1)
        return _picked(self.log_initial, hard) + continuous

    def log_next(self, after: Tensor, before: Tensor, t: int) -> Tensor:
        """Return log p(``after`` | ``before``) of the states after and at step t, (…, N, K + D)."""
        (hard, z), (hard_after, z_after) = (
            states.split([self.regimes, states.shape[-1] - self.regimes], -1)
            for states in (before, after)
        )
        table = self._regime_logits(hard, z, t)
        return _picked(table, hard_after) + _picked(self.log_dynamics(z, z_after), hard_after)

    def log_step(self, states: Tensor, t: int) -> Tensor:
        """Return log O(y_t | s_t, z_t), (…, N), of states (…, N, K + D) at t; 0 if unobserved."""
        y, mask = self.data.values[:, t], self.data.mask[:, t]
        return self._log_emission(states, y, mask)

    def chain_log_prob(self, states: Tensor) -> Tensor:
        """Return log p(s, z) of trajectories (…, N, T, K + D), shape (…, N)."""
        total = self.log_first(states[..., 0, :])
        if states.shape[-2] == 1:
            return total
        hard, z = states.split([self.regimes, states.shape[-1] - self.regimes], -1)
        table = self.log_regimes(z)
        path = hard.argmax(-1)
        rows = table.expand(*path.shape[:-1], path.shape[-1] - 1, -1, -1)
        index = path[..., :-1, None, None].expand(*rows.shape[:-2], 1, rows.shape[-1])
        moved = _picked(rows.gather(-2, index).squeeze(-2), hard[..., 1:, :])
        driven = _picked(self.log_dynamics(z[..., :-1, :], z[..., 1:, :]), hard[..., 1:, :])
        inside = self.data.step_mask[:, 1:]
        moves: Tensor = torch.where(inside, moved + driven, 0).sum(-1)
        return total + moves

    def emission_log_prob(self, states: Tensor, y: Tensor | None = None) -> Tensor:
        """Return Σ_t log O(y_t | s_t, z_t) of trajectories (…, N, T, K + D), shape (…, N)."""
        y = self.data.values if y is None else y
        return self._log_emission(states, y, self.data.mask).sum(-1)

    def _log_emission(self, states: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        mean, scale = self.emitted(states)
        residual = torch.where(mask, y.to(mean.dtype), mean.detach()) - mean
        terms = -0.5 * (residual / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)
        return torch.where(mask, terms, 0).sum(-1)

    def emitted(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of y, (…, F) each, at states (…, K + D)."""
        hard, z = states.split([self.regimes, states.shape[-1] - self.regimes], -1)
        if len(self.loading) == 1:
            mean = z @ self.loading[0].mT + self.intercept[0]
            return mean, self.observation_scale[0].expand(mean.shape)
        path = hard.argmax(-1)
        mean = (self.loading[path] @ z.unsqueeze(-1)).squeeze(-1) + self.intercept[path]
        return mean, self.observation_scale[path]

    # Draws

    def draw_first(self, n: int) -> Tensor:
        """Draw n first states, (n, N, K + D)."""
        sequences = len(self.data)
        law = self.log_initial.exp().cumsum(-1)
        noise = torch.rand(n, sequences, 1, dtype=law.dtype, device=law.device)
        regimes = one_hot(invert(law, noise), self.regimes, law.dtype)
        size = len(self.initial_mean)
        standard = torch.randn(n, sequences, size, dtype=law.dtype, device=law.device)
        return torch.cat([regimes, self.initial_mean + self.initial_scale * standard], -1)

    def draw_next(self, states: Tensor, t: int) -> Tensor:
        """Draw the states after step t (0, 1, …) given those at it, (…, N, K + D)."""
        hard, z = states.split([self.regimes, states.shape[-1] - self.regimes], -1)
        law = self._regime_logits(hard, z, t).exp().cumsum(-1)
        regimes = invert(law, torch.rand_like(law[..., :1]))
        moved = (self.dynamics[regimes] @ z.unsqueeze(-1)).squeeze(-1) + self.drift[regimes]
        noise = (self.noise_factor[regimes] @ torch.randn_like(z).unsqueeze(-1)).squeeze(-1)
        return torch.cat([one_hot(regimes, self.regimes, z.dtype), moved + noise], -1)

    def _regime_logits(self, hard: Tensor, z: Tensor, t: int) -> Tensor:
        """log p(s_{t+1} | s_t, z_t), (…, N, K)."""
        table = self.log_transition[:, min(t, self.log_transition.shape[1] - 1)]
        path = hard.argmax(-1)
        rows = torch.arange(len(table), device=path.device)
        logits = table[rows, path]
        if self.recurrence is None:
            return logits
        return (logits + z @ self.recurrence.mT).log_softmax(-1)

    def sample_states(self) -> Tensor:
        """Draw the trajectories once, (N, T, K + D)."""
        with torch.no_grad():
            drawn = [self.draw_first(1)[0]]
            for t in range(self.data.max_length - 1):
                drawn.append(self.draw_next(drawn[-1], t))
        return torch.where(self.data.step_mask.unsqueeze(-1), torch.stack(drawn, 1), 0)

    def draw(self, states: Tensor) -> Tensor:
        """Draw observations of trajectories (N, T, K + D) once, (N, T, F)."""
        mean, scale = self.emitted(states)
        return mean + scale * torch.randn_like(mean)

    # The two parts of the Pyro program, and the model that given regimes leave

    def states(self) -> SwitchingTrajectories:
        """Return the distribution of the hidden trajectories."""
        return SwitchingTrajectories(self)

    def observations(self, states: Tensor) -> SwitchingEmissions:
        """Return the distribution of the observations given trajectories."""
        return SwitchingEmissions(self, states)

    def given(self, regimes: Tensor) -> LinearGivenRegimes:
        """Return the linear-Gaussian model given regime paths (…, N, T), which become rows (M, T).

        With ``recurrence`` this is the model without it: given the regimes, the recurrent model is
        not linear-Gaussian.
        """
        paths = regimes.clamp_min(0).reshape(-1, regimes.shape[-1])
        copies = len(paths) // len(self.data)
        chosen = paths[:, 1:]
        place = torch.zeros_like(paths[:1, :1]) if len(self.loading) == 1 else paths
        covariance = torch.diag_embed(self.observation_scale.square())
        return LinearGivenRegimes(
            self.initial_mean.unsqueeze(0),
            torch.diag_embed(self.initial_scale.square()).unsqueeze(0),
            self.dynamics[chosen],
            self.drift[chosen],
            self.noise[chosen],
            self.loading[place],
            self.intercept[place],
            covariance[place],
            self.data.values.repeat(copies, 1, 1).to(self.drift),
            self.data.mask.repeat(copies, 1, 1),
            self.lengths.repeat(copies),
        )


def _picked(table: Tensor, hard: Tensor) -> Tensor:
    """Entries of (…, K) at one-hot places (…, K); the others may be −inf."""
    return torch.where(hard > 0, table, 0).sum(-1)


class _Fixed(dist.TorchDistribution):
    """A distribution of whole batches: batch shape (N,), one draw at a time."""

    arg_constraints: dict[str, Any] = {}
    support: constraints.Constraint = constraints.independent(constraints.real, 2)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Fixed:
        if torch.Size(batch_shape) != self.batch_shape:
            raise ValueError(
                f"{type(self).__name__}: batch shape is fixed at {tuple(self.batch_shape)}, one "
                f"entry per sequence; got {tuple(batch_shape)}"
            )
        return self

    def _alone(self, sample_shape: Any) -> None:
        if torch.Size(sample_shape).numel() != 1:
            raise ValueError(
                f"{type(self).__name__}: one draw at a time, got {tuple(sample_shape)}"
            )


class SwitchingTrajectories(_Fixed):
    r"""Hidden trajectories of a batch of sequences, (T, K + D) each.

    .. math:: p(s_1) p(z_1) \prod_t p(s_{t+1} | s_t [, z_t])\, N(z_{t+1}; A_s z_t + b_s, Q_s)

    with s = s_{t+1}. Batch shape (N,); ``log_prob`` is of trajectories with hard (0/1) regimes.
    """

    def __init__(self, laws: SwitchingLaws) -> None:
        self.laws = laws
        self.support = HardPaths("a RegimeGuide", laws.regimes)
        event = torch.Size([laws.data.max_length, laws.regimes + len(laws.initial_mean)])
        super().__init__(laws.lengths.shape, event, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        self._alone(sample_shape)
        drawn = self.laws.sample_states()
        return drawn.reshape(torch.Size(sample_shape) + drawn.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.laws.chain_log_prob(value)


class SwitchingEmissions(_Fixed):
    """Observations (T, F) given trajectories: Σ_t log N(y_t; C_s z_t + d_s, R_s), s = s_t."""

    def __init__(self, laws: SwitchingLaws, states: Tensor) -> None:
        self.laws = laws
        self.states = states
        event = torch.Size([states.shape[-2], laws.loading.shape[-2]])
        super().__init__(states.shape[:-2], event, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        self._alone(sample_shape)
        with torch.no_grad():
            drawn = self.laws.draw(self.states)
        return drawn.reshape(torch.Size(sample_shape) + drawn.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.laws.emission_log_prob(self.states, value)


@boundary
class SwitchingLinearSSM(Model):
    r"""A linear-Gaussian model whose dynamics are chosen by a hidden Markov chain of regimes.

    .. math::
        s_{t+1} \sim T(\cdot | s_t), \quad
        z_{t+1} = A_{s_{t+1}} z_t + b_{s_{t+1}} + N(0, Q_{s_{t+1}}), \quad
        y_t = C z_t + d + N(0, R)

    with R diagonal. With ``recurrent`` the regimes depend on the state, T(j | i, z) ∝ P_ij
    exp(R_j·z). If the state itself is observed without noise, the model is the autoregressive HMM
    ``HiddenMarkovModel(K, Regression(FullGaussian(F), lags=1))``, for which inference is exact.

    Parameters: ``initial`` (K,), those of the transition, ``recurrence`` (K, D), ``dynamics`` (K,
    D, D), ``drift`` (K, D), ``noise_scale`` (K, D), ``noise_correlation_factor`` (K, D, D),
    ``initial_mean`` and ``initial_scale`` (D,), ``loading`` ([K,] F, D), ``intercept`` ([K,] F) and
    ``observation_scale`` ([K,] F). ``dynamics ~ N(I/2, 1/(4D))``: most draws are stable. With a
    free loading the basis of the state is arbitrary: fix the loading
    (``with_parameters(loading=…)``) if the parameters are to be interpreted and not only used for
    predictions.

    The Pyro program has one site per parameter and two sites per batch of sequences: ``states``,
    the trajectories (time, K + D) of one-hot regimes and continuous states, and ``obs``. The
    attribute ``states`` is the size of a trajectory's step, K + D.

    Args:
        regimes: number of regimes K >= 1; 1 is the linear-Gaussian model.
        dimensions: dimensions D of the continuous state.
        features: observed features F.
        recurrent: whether the regimes depend on the state before.
        switching_emission: whether loading, intercept and scale of the observations depend on the
            regime.
        noise: ``"diagonal"`` or ``"full"`` covariances Q.
        transition: the law of the regimes; by default a matrix with Dirichlet rows.
        sticky: additional prior pseudo-counts on staying, for the default transition.
        location, spread: of the observed features (``scaled_to(data)`` sets them).
        unit: scale of the continuous state, one number or one per dimension.
        priors: replacements for single priors, by parameter name, with the same event shape.

    Raises:
        ValueError: an invalid argument; the message names it, what is required and what came.

    Source: Ackerson & Fu (1970), IEEE Trans. Automatic Control 15; Ghahramani & Hinton (2000),
    Neural Computation 12; recurrent: Linderman et al. (2017), AISTATS.

    >>> model = SwitchingLinearSSM(regimes=3, dimensions=2, features=4)
    >>> model.states, model.components
    (5, ('regime 0', 'regime 1', 'regime 2', '0', '1'))
    """

    own_guide = "RegimeGuide"

    def __init__(
        self,
        regimes: int,
        dimensions: int,
        features: int = 1,
        *,
        recurrent: bool = False,
        switching_emission: bool = False,
        noise: Noise = "diagonal",
        transition: TransitionLaw | None = None,
        sticky: float = 0.0,
        location: float | tuple[float, ...] = 0.0,
        spread: float | tuple[float, ...] = 2.0,
        unit: float | tuple[float, ...] = 1.0,
        priors: Mapping[str, dist.TorchDistribution] | None = None,
    ) -> None:
        for name, value in (
            ("regimes", regimes),
            ("dimensions", dimensions),
            ("features", features),
        ):
            require_count(value, name)
        if noise not in ("diagonal", "full"):
            raise ValueError(f"noise: must be 'diagonal' or 'full', got {noise!r}")
        require(
            not (recurrent and regimes == 1), "recurrent", "needs at least 2 regimes", "regimes=1"
        )
        if transition is not None and sticky:
            raise ValueError(
                "sticky: belongs to the default transition; give it to the law passed as "
                f"transition instead, got sticky={sticky} beside {transition}"
            )
        self.regimes = int(regimes)
        self.dimensions = int(dimensions)
        self.states = self.regimes + self.dimensions
        self.features = int(features)
        self.recurrent = bool(recurrent)
        self.switching_emission = bool(switching_emission)
        self.noise: Noise = noise
        self.transition = MatrixTransition(sticky=sticky) if transition is None else transition
        require(
            isinstance(self.transition, TransitionLaw),
            "transition",
            "must be a transition law, for instance MatrixTransition()",
            repr(transition),
        )
        self.location = _numbers("location", location, features)
        self.spread = _numbers("spread", spread, features, positive=True)
        self.unit = _numbers("unit", unit, dimensions, positive=True)
        self.set_priors(priors)

    @property
    def observations(self) -> Vectors:
        """Vectors of real numbers, each of which may be missing."""
        return Vectors(self.features)

    @property
    def belief(self) -> DiscreteBelief:
        """Probabilities of the regimes; given these the continuous state is integrated out."""
        return DiscreteBelief(self.regimes)

    has_paths = False  # trajectories hold the continuous state too

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the entries of a trajectory: indicators of the regimes, then the state."""
        regimes = tuple(f"regime {k}" for k in range(self.regimes))
        return regimes + tuple(str(place) for place in range(self.dimensions))

    @property
    def exact(self) -> bool:
        """False: with several regimes the sum over paths has K^T terms."""
        return False

    @property
    def configuration(self) -> dict[str, Any]:
        """The arguments of the model except ``priors``."""
        return {
            "regimes": self.regimes,
            "dimensions": self.dimensions,
            "features": self.features,
            "recurrent": self.recurrent,
            "switching_emission": self.switching_emission,
            "noise": self.noise,
            "transition": self.transition,
            "location": self.location,
            "spread": self.spread,
            "unit": self.unit,
        }

    @property
    def inputs(self) -> int:
        """Number of input columns that the transition of the regimes reads; 0 for none."""
        return self.transition.inputs

    @property
    def _least_observed(self) -> int:
        return self.regimes

    def own_priors(self) -> Priors:
        k, d = self.regimes, self.dimensions
        own: Priors = {}
        if k > 1:
            own |= {**FreeInitial().priors(k), **self.transition.priors(k)}
        unit = torch.tensor(self.unit, dtype=torch.float64)
        if self.recurrent:
            own["recurrence"] = dist.Normal(unit.new_zeros(k, d), 1 / unit).to_event(2)
        spread = 0.5 / math.sqrt(d) * unit.unsqueeze(-1) / unit
        own["dynamics"] = dist.Normal(0.5 * torch.eye(d).to(unit).expand(k, d, d), spread).to_event(
            3
        )
        own["drift"] = dist.Normal(unit.new_zeros(k, d), unit).to_event(2)
        own["noise_scale"] = dist.LogNormal((unit / 2).log().expand(k, d), 1.0).to_event(2)
        if self._correlated:
            own["noise_correlation_factor"] = dist.LKJCholesky(d, 1.0).expand([k]).to_event(1)
        own["initial_mean"] = dist.Normal(unit.new_zeros(d), unit).to_event(1)
        own["initial_scale"] = dist.LogNormal(unit.log(), 1.0).to_event(1)
        return own | self._emission_priors(unit)

    def _emission_priors(self, unit: Tensor) -> Priors:
        lead = (self.regimes,) if self.switching_emission else ()
        flat = (*lead, self.features)
        location, spread = unit.new_tensor(self.location), unit.new_tensor(self.spread)
        loading = unit.new_zeros(*flat, self.dimensions)
        each = len(flat)
        return {
            "loading": dist.Normal(loading, spread.unsqueeze(-1) / unit).to_event(each + 1),
            "intercept": dist.Normal(location.expand(flat), spread).to_event(each),
            "observation_scale": dist.LogNormal((spread / 4).log().expand(flat), 1.0).to_event(
                each
            ),
        }

    @property
    def _correlated(self) -> bool:
        return self.noise == "full" and self.dimensions > 1

    def parameter_dims(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of every parameter."""
        chain = {**FreeInitial().dims(), **self.transition.dims()}
        regimes = {"state": "regime", "state_to": "regime_to"}
        dims = {name: tuple(regimes.get(a, a) for a in axes) for name, axes in chain.items()}
        lead = ("regime",) if self.switching_emission else ()
        dims |= {
            "recurrence": ("regime", "dimension"),
            "dynamics": ("regime", "dimension", "dimension_from"),
            "drift": ("regime", "dimension"),
            "noise_scale": ("regime", "dimension"),
            "noise_correlation_factor": ("regime", "dimension", "dimension_from"),
            "initial_mean": ("dimension",),
            "initial_scale": ("dimension",),
            "loading": (*lead, "feature", "dimension"),
            "intercept": (*lead, "feature"),
            "observation_scale": (*lead, "feature"),
        }
        return {name: dims[name] for name in self._all}

    def _why_absent(self, name: str) -> str:
        if self.regimes == 1 and name in (*FreeInitial().dims(), *self.transition.dims()):
            return " (a single regime has no chain)"
        return ""

    def __repr__(self) -> str:
        kind = "recurrent, " if self.recurrent else ""
        known = f", known={sorted(self._known)}" if self._known else ""
        sizes = f"regimes={self.regimes}, dimensions={self.dimensions}, features={self.features}"
        return f"SwitchingLinearSSM({kind}{sizes}{known})"

    def scaled_to(self, data: Data) -> SwitchingLinearSSM:
        """Return the same model with its priors on the scale of the data.

        From a folder, only a sample is read; see ``SequenceFolder.sample``. With a known loading
        the unit of the state is that of its least-squares estimate, otherwise it stays.
        """
        data = data.sample() if isinstance(data, SequenceFolder) else data
        self.check_values(data)
        y = data.values.double().flatten(0, 1)
        mean, spread = overall_moments(y, data.mask.flatten(0, 1))
        out = copy.copy(self)
        out.location, out.spread = tuple(mean.tolist()), tuple(spread.tolist())
        if "loading" in self._known:
            loading = self._known["loading"].reshape(-1, self.features, self.dimensions).mean(0)
            reach = torch.linalg.pinv(loading).abs() @ spread
            out.unit = tuple(torch.where(reach > 0, reach, 1).tolist())
        if isinstance(self.transition, ScaledLaw):
            out.transition = self.transition.scaled_to(data)
        out._all = out._assemble()
        return out

    def check_values(self, data: Sequences) -> None:
        """Raise ``ValueError`` unless the sequences, of any number, can come from the model."""
        self.observations.check(data, f"{self}")
        self.transition.check(data)

    def laws(self, parameters: Parameters, data: Sequences) -> SwitchingLaws:
        """Return the laws at given values of the unknown parameters.

        This is a pure function; the values have no axes of draws. The laws are in float64, whatever
        the values are, because variances of very different sizes are combined.
        """
        values = {name: value.double() for name, value in self.complete(parameters).items()}
        if self.regimes == 1:
            some = values["drift"]
            log_initial, log_transition = some.new_zeros(1, 1), some.new_zeros(1, 1, 1, 1)
        else:
            log_transition = self.transition(values, data)
            log_initial = safe_log(values["initial"]).unsqueeze(-2)
        factor = torch.diag_embed(values["noise_scale"])
        if self._correlated:
            factor = factor @ values["noise_correlation_factor"]
        loading, intercept, scale = (
            values[name] if self.switching_emission else values[name].unsqueeze(0)
            for name in ("loading", "intercept", "observation_scale")
        )
        return SwitchingLaws(
            log_initial,
            log_transition,
            values.get("recurrence"),
            values["initial_mean"],
            values["initial_scale"],
            values["dynamics"],
            values["drift"],
            factor,
            loading,
            intercept,
            scale,
            values,
            data,
        )

    def start(self, data: Sequences) -> dict[str, Tensor]:
        """Return values of the unknown parameters, computed from the data, to start a fit from.

        The state is a principal subspace of the observations (with a known loading: the
        least-squares state). Frames are clustered by state and movement; then the dynamics of every
        regime are regressed and the frames reassigned a few times. Uses torch's global generator.
        """
        self.check(data)
        with torch.no_grad():
            values = regime_start(
                data,
                regimes=self.regimes,
                states=self.dimensions,
                known=self._known,
                correlated=self._correlated,
            )
            counts = values.pop("counts")
            chain = self.transition.start(counts) if self.regimes > 1 else {}
            if self.switching_emission:
                for name in ("loading", "intercept", "observation_scale"):
                    shape = (self.regimes, *values[name].shape[-2 if name == "loading" else -1 :])
                    values[name] = values[name].expand(shape).clone()
            if self.recurrent:
                values["recurrence"] = torch.zeros(self.regimes, self.dimensions)
        found = {**values, **chain}
        return {name: found[name].double() for name in self.priors}


def _numbers(
    name: str, value: float | tuple[float, ...], size: int, positive: bool = False
) -> tuple[float, ...]:
    given = torch.as_tensor(value, dtype=torch.float64).flatten()
    require(len(given) in (1, size), name, f"needs one number, or {size}", f"{len(given)} numbers")
    usable = bool(given.isfinite().all()) and (not positive or bool((given > 0).all()))
    require(usable, name, "must be finite" + (" and > 0" if positive else ""), value)
    return tuple(given.expand(size).tolist())
