"""Joint posteriors over continuous trajectories, built from normal beliefs and the model's laws.

All are Pyro distributions, batch (N,), event (T, D), with reparametrised samples. For linear laws
expectations under them are in closed form, including the ELBO. Everything is computed in float64.
Beyond the length of a sequence trajectories are zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ...models import LinearGaussianLaws
from ..exact import gaussian as exact_gaussian
from ..filters.gaussian_beliefs import (
    LOG_2PI,
    Density,
    GaussianBeliefs,
    product,
    right,
    square_root,
)
from ..filters.linear_likelihood import LinearLikelihood
from ..queries.linear import arguments
from .posteriors import Form


class ContinuousLaws(Protocol):
    """The laws that these posteriors need of a model with continuous states."""

    @property
    def lengths(self) -> Tensor:
        """Length of every sequence, (N,)."""

    def chain_log_prob(self, paths: Tensor) -> Tensor:
        """log p(z) of trajectories (…, N, T, D), shape (…, N)."""

    def emission_log_prob(self, paths: Tensor) -> Tensor:
        """Σ_t log O(y_t | z_t), shape (…, N)."""


class LinearisableLaws(ContinuousLaws, Protocol):
    """Laws whose transition can be replaced by a linear one near a belief."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the laws' densities."""

    def linearised(self, mean: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """A (N, D, D), b (N, D), Q (N, D, D) of the move out of step t near states (N, D)."""


class GaussianPosterior(dist.TorchDistribution, ABC):
    """A law of continuous trajectories."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True
    form: ClassVar[Form | None] = None
    exact: ClassVar[bool] = False
    """Whether it is p(z | y) itself."""

    def __init__(self, laws: ContinuousLaws, shape: torch.Size) -> None:
        self.laws = laws
        super().__init__(shape[:-2], shape[-2:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> GaussianPosterior:
        if torch.Size(batch_shape) != self.batch_shape:
            raise ValueError(
                f"{type(self).__name__}: batch shape is fixed at {tuple(self.batch_shape)}, one "
                f"entry a sequence; got {tuple(batch_shape)}"
            )
        return self

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        drawn = self.sample_paths(max(1, shape.numel()))
        return drawn.reshape(shape + self.batch_shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.path_log_prob(value)

    @property
    def mean(self) -> Tensor:
        """E[z_t], (N, T, D)."""
        return self.marginals[0]

    @property
    def covariance(self) -> Tensor:
        """Cov[z_t], (N, T, D, D)."""
        return self.marginals[1]

    @property
    def variance(self) -> Tensor:
        """Variances of the components of z_t, (N, T, D)."""
        return self.covariance.diagonal(dim1=-2, dim2=-1)

    @property
    def marginals(self) -> tuple[Tensor, Tensor]:
        """Means (N, T, D) and covariances (N, T, D, D) of q(z_t), zero beyond the length."""
        mean, covariance = self._moments
        inside = self.inside
        return (
            torch.where(inside.unsqueeze(-1), mean, 0),
            torch.where(inside[..., None, None], covariance, 0),
        )

    @property
    @abstractmethod
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Means and covariances of q(z_t); anything beyond the length."""

    @cached_property
    def inside(self) -> Tensor:
        """Which steps belong to a sequence, (N, T)."""
        steps = torch.arange(self.event_shape[0], device=self.laws.lengths.device)
        return steps < self.laws.lengths.unsqueeze(-1)

    def _total(self, terms: Tensor, first: int = 0) -> Tensor:
        """Σ_t of (…, N, T - first), from step ``first`` on, over the steps of each sequence."""
        return torch.where(self.inside[:, first:], terms, 0).sum(-1)

    @abstractmethod
    def sample_paths(self, n: int) -> Tensor:
        """n trajectories per sequence, (n, N, T, D); differentiable, zero beyond the length."""

    @abstractmethod
    def path_log_prob(self, paths: Tensor) -> Tensor:
        """log q(z_1 … z_L) of trajectories (…, N, T, D), shape (…, N)."""

    def log_weights(self, paths: Tensor) -> Tensor:
        """log p(y, z) − log q(z) of trajectories, shape (…, N)."""
        joint = self.chain_log_prob(paths) + self.emission_log_prob(paths)
        return joint - self.path_log_prob(paths)

    @abstractmethod
    def elbo(self) -> Tensor:
        """The bound on log p(y) of each sequence at these parameters, (N,) nats."""

    def chain_log_prob(self, paths: Tensor) -> Tensor:
        """log p(z_1 … z_L) under the model, shape (…, N)."""
        return self.laws.chain_log_prob(paths.to(self._dtype)).double()

    def emission_log_prob(self, paths: Tensor) -> Tensor:
        """Σ_t log O(y_t | z_t), shape (…, N)."""
        return self.laws.emission_log_prob(paths.to(self._dtype)).double()

    @property
    def _dtype(self) -> torch.dtype:
        """That of the laws' densities."""
        return torch.float64

    def _cut(self, paths: Tensor) -> Tensor:
        return torch.where(self.inside.unsqueeze(-1), paths, 0)


class LinearPosterior(GaussianPosterior):
    """A law of the trajectories of linear-Gaussian laws: everything in closed form."""

    laws: LinearGaussianLaws

    def __init__(self, laws: LinearGaussianLaws, shape: torch.Size) -> None:
        super().__init__(laws.in_double(), shape)

    @abstractmethod
    def kl_to_chain(self) -> Tensor:
        """KL(q ‖ p(z)) to the chain that q was built with, (N,) nats."""

    def elbo(self) -> Tensor:
        told = LinearLikelihood(self.laws).expected(*self._moments)
        return self._total(told) - self.kl_to_chain()


class _Initial:
    """p(z_1) with flat directions: log density −½ (q log 2π + log|B'B|) along those.

    This is the limit of N(0, κ) times κ^(q/2) on the coefficients of B = ``diffuse``; evidences
    then count −½ log 2π for every observation. The columns of ``basis`` E (D, D − q) span the rest:
    there E'z ~ N(E'm, E'ΣE).
    """

    def __init__(self, laws: LinearGaussianLaws) -> None:
        self.mean = laws.initial_mean
        self.covariance = laws.initial_covariance
        flat = laws.diffuse
        size, directions = flat.shape
        self.basis = torch.eye(size, dtype=torch.float64, device=flat.device)
        self.constant: Tensor | float = 0.0
        if directions:
            spanned = torch.linalg.qr(flat.detach(), mode="complete").Q
            self.basis = spanned[:, directions:]
            self.constant = -0.5 * (directions * LOG_2PI + torch.logdet(flat.mT @ flat))

    def _density(self, mean: Tensor, covariance: Tensor) -> Density:
        """Of E'z, (N|1, D − q), from one covariance a sequence."""
        if not covariance.shape[-1]:
            return Density(mean, covariance, covariance.new_zeros(len(covariance)), full=True)
        found = Density.of_covariance(mean, covariance.unsqueeze(1), "initial_covariance")
        return Density(mean, found.precision.squeeze(1), found.log_det.squeeze(1), full=True)

    @cached_property
    def proper(self) -> Density:
        """The law of E'z, (N|1, D − q)."""
        inner = self.basis.mT @ self.covariance @ self.basis
        return self._density(self.mean @ self.basis, inner)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z_1), (…, N)."""
        return self.constant + self.proper.log_prob(z @ self.basis)

    def expected(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """E[log p(z_1)] for normal z_1 with moments (N, D), (N, D, D); (N,)."""
        inner = self.basis.mT @ covariance @ self.basis
        return self.constant + self.proper.expected(mean @ self.basis, inner)

    def tilted(self, potential: GaussianBeliefs) -> tuple[Tensor, Tensor, Tensor]:
        """∝ p(z_1) × a normal density (N, D): Bayes' rule with z_1 ~ potential, E'z_1 observed.

        Returns the mean (N, D), the gain (N, D, D − q) of E'm − E'z, and the log normaliser (N,).
        """
        outer = potential.covariance @ self.basis
        total = self.basis.mT @ (self.covariance @ self.basis + outer)
        law = self._density(self.mean @ self.basis, total)
        seen = potential.mean @ self.basis
        gain = outer @ law.precision
        moved = potential.mean + product(gain, law.mean - seen)
        return moved, gain, self.constant + law.log_prob(seen)


class _Chain(NamedTuple):
    """A linear transition, axes of size 1 shared: z_{t+1} = A z_t + b + N(0, Q)."""

    transition: Tensor
    offset: Tensor
    noise: Tensor

    @classmethod
    def of(cls, laws: LinearGaussianLaws) -> _Chain:
        return cls(laws.transition, laws.offset, laws.noise)

    def draw(self, like: Tensor) -> Tensor:
        """A draw of N(0, Q) in the shape of ``like``, (…, N, T-1, D)."""
        return product(square_root(self.noise), torch.randn_like(like))


class _Joined:
    """Beliefs and a linear chain, joined by backward kernels z_t = G_t z_{t+1} + c_t + N(0, W_t).

    G = V A'P⁻¹, c = μ − G (A μ + b), W = V − G P G' (Rauch, Tung & Striebel 1965), P = A V A' + Q.
    """

    def __init__(self, chain: _Chain, beliefs: GaussianBeliefs, lengths: Tensor) -> None:
        self.chain, self.beliefs, self.lengths = chain, beliefs, lengths
        self._before = beliefs[:, :-1]
        self._across = right(self._before.covariance, chain.transition.mT).mT  # A V
        mean = product(chain.transition, self._before.mean) + chain.offset
        self.covariance = right(self._across, chain.transition.mT) + chain.noise
        self.predicted = Density.of_covariance(mean, self.covariance, "predicted belief", first=1)
        self.gain = self._across.mT @ self.predicted.precision

    def _last(self, x: Tensor) -> Tensor:
        """(…, N, T, …) with the sequence axis at ``axis``: the last step of every sequence."""
        return x[torch.arange(len(self.lengths), device=x.device), self.lengths - 1]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Marginal means (N, T, D) and covariances (N, T, D, D), by one sweep each."""
        shift = self._before.mean - product(self.gain, self.predicted.mean)
        last = self._last(self.beliefs.mean)
        mean = exact_gaussian.backward_sweep(self.gain, shift, last, self.lengths)
        noise = self._before.covariance - self.gain @ self._across
        last = self._last(self.beliefs.covariance)
        return mean, exact_gaussian.backward_covariances(self.gain, noise, last, self.lengths)

    def sample(self, n: int) -> Tensor:
        """n trajectories: a pair (z_t, z_{t+1}) is drawn forward, then z_t is corrected to the
        z_{t+1} of the path. No factor of W is needed, which may be singular."""
        drawn = _independent(self.beliefs, n)
        before = drawn[..., :-1, :]
        onward = product(self.chain.transition, before) + self.chain.offset
        onward = onward + self.chain.draw(onward)
        shift = before - product(self.gain, onward)
        last = drawn[:, torch.arange(len(self.lengths), device=drawn.device), self.lengths - 1]
        return exact_gaussian.backward_sweep(self.gain, shift, last, self.lengths)


class GaussianBackward(LinearPosterior):
    r"""The backward factorisation with normal beliefs β_t of a linear chain (docs/science.md, I1).

    .. math::
        q(z) = \beta_T(z_T) \prod_{t<T}
        \frac{\beta_t(z_t) N(z_{t+1}; A_t z_t + b_t, Q_t)}{\pi_{t+1}(z_{t+1})},
        \qquad \pi_{t+1} = N(A_t \mu_t + b_t, A_t V_t A_t' + Q_t)

    ELBO = Σ_t E_q[log π_t(z_t) + log O(y_t|z_t) − log β_t(z_t)] with π_1 = p(z_1): in closed form,
    and equal to the evidence if β is the Kalman filter. Q may be singular. With a diffuse start π_1
    is flat in its directions, and the evidence counts −½ log 2π for every observation.

    Raises:
        ValueError: a singular belief or predicted belief, or an observation without noise; names
            sequence and step.
    """

    form = "backward"

    def __init__(self, laws: LinearGaussianLaws, beliefs: GaussianBeliefs) -> None:
        self.beliefs = beliefs.double()
        super().__init__(laws, self.beliefs.mean.shape)
        _require_regular(self.beliefs, self.inside)
        self._initial = _Initial(self.laws)
        self._joined = _Joined(_Chain.of(self.laws), self.beliefs, laws.lengths)

    @property
    def predicted(self) -> tuple[Tensor, Tensor]:
        """Means (N, T-1, D) and covariances (N, T-1, D, D) of π_t for t >= 2."""
        return self._joined.predicted.mean, self._joined.covariance

    def tilt(self) -> tuple[Tensor, Tensor]:
        """Λ (N, T, D, D) and η (N, T, D) of what q says of z_t beyond the model's transition.

        A belief is the prediction times what y_t says: Λ = V⁻¹ − P⁻¹, η = V⁻¹ μ − P⁻¹ m. Directions
        in which a network is less certain than before the observation are left to the model. For
        Kalman's belief it is the likelihood of y_t.
        """
        belief, laws = self.beliefs, self.laws
        later_mean, later_covariance = self.predicted
        own = belief.covariance.inverse()
        first = laws.initial_covariance.to(own).expand(len(own), -1, -1)
        before = torch.cat([first.inverse().unsqueeze(1), later_covariance.inverse()], 1)
        start = laws.initial_mean.to(own).expand(len(own), -1)
        mean = torch.cat([start.unsqueeze(1), later_mean], 1)
        values, axes = torch.linalg.eigh(own - before)
        kept = (values > 0).to(own)
        shift = product(own, belief.mean) - product(before, mean)
        shift = product(axes, kept * product(axes.mT, shift))
        return (axes * (values * kept).unsqueeze(-2)) @ axes.mT, shift

    @cached_property
    def _density(self) -> Density:
        return Density.of(self.beliefs)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        return self._joined.moments()

    def kl_to_chain(self) -> Tensor:
        mean, covariance = self._moments
        own = self._total(self._density.expected(mean, covariance))
        first = self._initial.expected(mean[:, 0], covariance[:, 0])
        later = self._joined.predicted.expected(mean[:, 1:], covariance[:, 1:])
        return own - first - self._total(later, 1)

    def sample_paths(self, n: int) -> Tensor:
        return self._joined.sample(n)

    def _excess(self, paths: Tensor) -> Tensor:
        """Σ_t log β_t(z_t) − log π_t(z_t) = log q(z) − log p(z), shape (…, N)."""
        paths = paths.double()
        later = self._total(self._joined.predicted.log_prob(paths[..., 1:, :]), 1)
        first = self._initial.log_prob(paths[..., 0, :])
        return self._total(self._density.log_prob(paths)) - later - first

    def path_log_prob(self, paths: Tensor) -> Tensor:
        return self.chain_log_prob(paths) + self._excess(paths)

    def log_weights(self, paths: Tensor) -> Tensor:
        return self.emission_log_prob(paths) - self._excess(paths)


class LinearisedBackward(GaussianPosterior):
    """The same with a nonlinear transition linearised at each belief.

    q is a linear-Gaussian chain; the bound is estimated from its reparametrised draws. The noise of
    the linear transition must have a density.
    """

    laws: LinearisableLaws

    def __init__(self, laws: LinearisableLaws, beliefs: GaussianBeliefs) -> None:
        self.beliefs = beliefs.double()
        super().__init__(laws, self.beliefs.mean.shape)
        _require_regular(self.beliefs, self.inside)
        self._joined = _Joined(self._linear_chain(), self.beliefs, laws.lengths)

    def _linear_chain(self) -> _Chain:
        """The transition out of every step but the last, linear near the mean of the belief."""
        count, steps, size = self.beliefs.mean.shape
        if steps == 1:
            none = self.beliefs.mean.new_zeros(count, 0, size)
            return _Chain(none.unsqueeze(-1).expand(-1, -1, -1, size), none, none.diag_embed())
        means = self.beliefs.mean.to(self._dtype)
        parts = [self.laws.linearised(means[:, t], t) for t in range(steps - 1)]
        return _Chain(*(torch.stack(each, 1).double() for each in zip(*parts, strict=True)))

    @property
    def _dtype(self) -> torch.dtype:
        return self.laws.dtype

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        return self._joined.moments()

    def sample_paths(self, n: int) -> Tensor:
        return self._joined.sample(n)

    def path_log_prob(self, paths: Tensor) -> Tensor:
        paths = paths.double()
        chain = self._joined.chain
        onward = product(chain.transition, paths[..., :-1, :]) + chain.offset
        later, predicted = paths[..., 1:, :], self._joined.predicted
        moved = Density.of_covariance(torch.zeros_like(predicted.mean), chain.noise, "noise", 1)
        terms = moved.log_prob(later - onward) - predicted.log_prob(later)
        return self._total(self.beliefs.log_prob(paths)) + self._total(terms, 1)

    def elbo(self, draws: int = 1) -> Tensor:
        """An unbiased estimate of the bound from ``draws`` trajectories, (N,) nats."""
        return self.log_weights(self.sample_paths(draws)).mean(0)


class GaussianSmoother(LinearPosterior):
    """The exact posterior p(z | y), which corresponds to Kalman's beliefs, by the compiled kernels.

    Unlike ``GaussianBackward`` it needs no density of any belief: diffuse starts, singular noise
    and observations without noise are allowed. Draws are not differentiable; the bound is, and so
    are the weights, all of which equal the evidence.
    """

    form = "backward"
    exact = True

    def __init__(self, laws: LinearGaussianLaws) -> None:
        count, steps, _ = laws.values.shape
        super().__init__(laws, torch.Size([count, steps, laws.initial_mean.shape[-1]]))
        self._arguments = arguments(self.laws)

    def tilt(self) -> tuple[Tensor, Tensor]:
        """Λ (N, T, D, D) and η (N, T, D) of the likelihood of y_t."""
        return LinearLikelihood(self.laws).potential()

    @cached_property
    def _evidence(self) -> Tensor:
        return exact_gaussian.log_evidence(*self._arguments)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        found = exact_gaussian.smooth(*self._arguments)
        return found.means, found.covariances

    def elbo(self) -> Tensor:
        return self._evidence

    def kl_to_chain(self) -> Tensor:
        told = LinearLikelihood(self.laws).expected(*self._moments)
        return self._total(told) - self._evidence

    def sample_paths(self, n: int) -> Tensor:
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        return exact_gaussian.sample_paths(*self._arguments, n=n, generator=generator)

    def path_log_prob(self, paths: Tensor) -> Tensor:
        return self.chain_log_prob(paths) + self.emission_log_prob(paths) - self._evidence

    def log_weights(self, paths: Tensor) -> Tensor:
        return self._evidence.expand(paths.shape[:-2])


class GaussianForward(LinearPosterior):
    """Forward-structured: q(z_t | z_{t-1}) ∝ N(z_t; A z_{t-1} + b, Q) N(z_t; μ_t, U_t).

    The network gives μ_t and U_t. If N(z_t; μ_t, U_t) is the likelihood of y_t and all later
    observations, this is the smoother; a causal network cannot compute it (docs/science.md, I2). Q
    may be singular.

    z_t = M_t z_{t-1} + c_t + N(0, Σ_t) with K = Q (Q + U)⁻¹, M = (1 − K) A, c = (1 − K) b + K μ,
    Σ = (1 − K) Q; KL(q ‖ p(z)) = Σ_t E_q[log N(z_t; μ_t, U_t) − log N(μ_t; A z_{t-1} + b, Q + U)].
    """

    form = "forward"

    def __init__(self, laws: LinearGaussianLaws, potentials: GaussianBeliefs) -> None:
        self.potentials = potentials.double()
        super().__init__(laws, self.potentials.mean.shape)
        self._chain = _Chain.of(self.laws)
        later = self.potentials[:, 1:]
        total = self._chain.noise + later.covariance
        self._normaliser = Density.of_covariance(later.mean, total, "noise", first=1)
        self._gain = right(self._normaliser.precision, self._chain.noise).mT
        self._initial = _Initial(self.laws)
        first = self._initial.tilted(self.potentials[:, 0])
        self._first, self._first_gain, self._first_normaliser = first

    def tilt(self) -> tuple[Tensor, Tensor]:
        """Λ (N, T, D, D) and η (N, T, D) of N(z_t; μ_t, U_t)."""
        precision = self.potentials.covariance.inverse()
        return precision, product(precision, self.potentials.mean)

    @cached_property
    def _kept(self) -> Tensor:
        """1 − K, (N, T-1, D, D)."""
        unit = torch.eye(self.event_shape[-1], dtype=torch.float64, device=self._gain.device)
        return unit - self._gain

    def _sweep_forward(self, matrix: Tensor, shift: Tensor, first: Tensor) -> Tensor:
        """x_1 = first, x_{t+1} = M_t x_t + c_t: the backward sweep with time turned around."""
        turned = exact_gaussian.backward_sweep(matrix.flip(1), shift.flip(-2), first)
        return turned.flip(-2)

    @cached_property
    def _matrix(self) -> Tensor:
        return right(self._kept, self._chain.transition)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        chain, later = self._chain, self.potentials[:, 1:]
        shift = product(self._kept, chain.offset) + product(self._gain, later.mean)
        mean = self._sweep_forward(self._matrix, shift, self._first)
        noise = right(self._kept, chain.noise)
        turned = exact_gaussian.backward_covariances(
            self._matrix.flip(1), noise.flip(1), self._first_covariance
        )
        return mean, turned.flip(1)

    @property
    def _first_covariance(self) -> Tensor:
        basis, gain = self._initial.basis, self._first_gain
        inner = basis.mT @ self._initial.covariance @ basis
        unit = torch.eye(self.event_shape[-1], dtype=torch.float64, device=gain.device)
        if not basis.shape[-1]:
            return self.potentials[:, 0].covariance
        kept, outer = unit - gain @ basis.mT, self.potentials[:, 0].covariance
        return kept @ outer @ kept.mT + gain @ inner @ gain.mT

    def sample_paths(self, n: int) -> Tensor:
        potentials, chain, initial = self.potentials, self._chain, self._initial
        noise = potentials.mean.new_empty(n, *potentials.mean.shape).normal_()
        off = potentials.spread(noise)
        shift = product(self._gain, potentials.mean[:, 1:] - off[..., 1:, :])
        moved = chain.draw(shift) + chain.offset
        shift = shift + product(self._kept, moved)
        start = off[..., 0, :]
        drawn = product(square_root(initial.covariance), torch.randn_like(start))
        correction = product(self._first_gain, (drawn - start) @ initial.basis)
        first = self._first + start + correction
        return self._cut(self._sweep_forward(self._matrix, shift, first))

    def _moved(self, before: Tensor) -> Tensor:
        """A z_{t-1} + b of states (…, N, T-1, D)."""
        return product(self._chain.transition, before) + self._chain.offset

    @cached_property
    def _density(self) -> Density:
        return Density.of(self.potentials)

    def excess(self, paths: Tensor) -> Tensor:
        """log q(z) − log p(z), shape (…, N)."""
        paths = paths.double()
        tilt = self._total(self._density.log_prob(paths))
        # The normal density of μ_t around A z + b is that of A z + b around μ_t.
        left = self._total(self._normaliser.log_prob(self._moved(paths[..., :-1, :])), 1)
        return tilt - left - self._first_normaliser

    def path_log_prob(self, paths: Tensor) -> Tensor:
        return self.chain_log_prob(paths) + self.excess(paths)

    def log_weights(self, paths: Tensor) -> Tensor:
        return self.emission_log_prob(paths) - self.excess(paths)

    def kl_to_chain(self) -> Tensor:
        mean, covariance = self._moments
        own = self._total(self._density.expected(mean, covariance))
        across = right(covariance[:, :-1], self._chain.transition.mT)
        moved = right(across.mT, self._chain.transition.mT)
        left = self._normaliser.expected(self._moved(mean[:, :-1]), moved)
        return own - self._total(left, 1) - self._first_normaliser


class GaussianMeanField(LinearPosterior):
    """Independent steps: q(z) = Π_t β_t(z_t), which ignores the chain.

    Raises:
        ValueError: a transition or start without noise in some direction: its KL to the chain is
            infinite.
    """

    form = "mean-field"

    def __init__(self, laws: LinearGaussianLaws, beliefs: GaussianBeliefs) -> None:
        self.beliefs = beliefs.double()
        super().__init__(laws, self.beliefs.mean.shape)
        _require_regular(self.beliefs, self.inside)

    @property
    def _moments(self) -> tuple[Tensor, Tensor]:
        return self.beliefs.mean, self.beliefs.covariance

    def sample_paths(self, n: int) -> Tensor:
        return self._cut(_independent(self.beliefs, n))

    def path_log_prob(self, paths: Tensor) -> Tensor:
        return self._total(self.beliefs.log_prob(paths.double()))

    def kl_to_chain(self) -> Tensor:
        mean, covariance = self._moments
        chain, initial = _Chain.of(self.laws), _Initial(self.laws)
        moved = product(chain.transition, mean[:, :-1]) + chain.offset
        residual = mean[:, 1:] - moved
        across = right(covariance[:, :-1], chain.transition.mT).mT
        spread = right(across, chain.transition.mT) + covariance[:, 1:]
        law = Density.of_covariance(torch.zeros_like(residual), chain.noise, "noise", first=1)
        own = self._total(Density.of(self.beliefs).expected(mean, covariance))
        chained = self._total(law.expected(residual, spread), 1)
        return own - chained - initial.expected(mean[:, 0], covariance[:, 0])


def _independent(beliefs: GaussianBeliefs, n: int) -> Tensor:
    """n draws of every belief, (n, …, D)."""
    noise = beliefs.mean.new_empty(n, *beliefs.mean.shape).normal_()
    return beliefs.mean + beliefs.spread(noise)


def _require_regular(beliefs: GaussianBeliefs, inside: Tensor) -> None:
    """Raises ValueError unless beliefs have a density."""
    own = beliefs.factor.diagonal(dim1=-2, dim2=-1) if beliefs.full else beliefs.scale
    bad = ~((own > 0).all(-1) & beliefs.mean.isfinite().all(-1)) & inside
    if bool(bad.any()):
        n, t = bad.nonzero()[0].tolist()
        raise ValueError(
            "beliefs: need finite means and positive definite covariances, got mean "
            f"{beliefs.mean[n, t].tolist()}, standard deviations "
            f"{beliefs.variance[n, t].sqrt().tolist()} in sequence {n}, step {t}"
        )
