"""What observations that are linear in a continuous state say of it."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..models import Sequences
from . import exact_gaussian
from .gaussian_beliefs import LOG_2PI, GaussianBeliefs, cholesky, product, solved_matrix


@runtime_checkable
class LinearGaussianLaws(Protocol):
    """The laws of a linear-Gaussian model, as tensors; an axis of size 1 is shared.

    z_1 ~ N(initial_mean, initial_covariance) + diffuse δ with flat δ, z_{t+1} = A_t z_t + b_t +
    N(0, Q_t), y_t = C_t z_t + d_t + N(0, R_t).
    """

    @property
    def initial_mean(self) -> Tensor:
        """(N|1, D)."""

    @property
    def initial_covariance(self) -> Tensor:
        """(N|1, D, D), zero in the directions of ``diffuse``."""

    @property
    def diffuse(self) -> Tensor:
        """Directions (D, q) in which nothing is known of z_1; q = 0 for a proper law."""

    @property
    def transition(self) -> Tensor:
        """A (N|1, T-1|1, D, D)."""

    @property
    def offset(self) -> Tensor:
        """b (N|1, T-1|1, D)."""

    @property
    def noise(self) -> Tensor:
        """Q (N|1, T-1|1, D, D)."""

    @property
    def loading(self) -> Tensor:
        """C (N|1, T|1, F, D)."""

    @property
    def intercept(self) -> Tensor:
        """d (N|1, T|1, F)."""

    @property
    def observation_noise(self) -> Tensor:
        """R (N|1, T|1, F, F)."""

    @property
    def values(self) -> Tensor:
        """y (N, T, F)."""

    @property
    def mask(self) -> Tensor:
        """Which of them were observed, (N, T, F)."""

    @property
    def lengths(self) -> Tensor:
        """Length of every sequence, (N,)."""

    @property
    def data(self) -> Sequences:
        """The sequences."""

    def chain_log_prob(self, paths: Tensor) -> Tensor:
        """log p(z) of trajectories (…, N, T, D), shape (…, N)."""

    def emission_log_prob(self, paths: Tensor) -> Tensor:
        """Σ_t log O(y_t | z_t), shape (…, N)."""


def kalman_arguments(
    laws: LinearGaussianLaws,
) -> tuple[exact_gaussian.LinearChain, Tensor, Tensor, Tensor]:
    """What the functions of ``exact_gaussian`` take, in float64."""
    fields = exact_gaussian.LinearChain._fields
    chain = exact_gaussian.LinearChain(*(getattr(laws, name).double() for name in fields))
    return chain, laws.values.double(), laws.mask, laws.lengths


class LinearLikelihood:
    """log O(y_t | z_t) as a quadratic function of z_t, with what was not observed left out.

    In float64. Rows and columns of missing elements are those of a unit noise with residual zero.
    """

    def __init__(self, laws: LinearGaussianLaws) -> None:
        seen = laws.mask
        loading, noise = laws.loading.double(), laws.observation_noise.double()
        residual = laws.values.double() - laws.intercept.double()
        if not bool(seen.all()):
            unit = torch.eye(noise.shape[-1], dtype=torch.float64, device=noise.device)
            both = seen.unsqueeze(-1) & seen.unsqueeze(-2)
            loading = torch.where(seen.unsqueeze(-1), loading, 0)
            noise = torch.where(both, noise, unit)
            residual = torch.where(seen, residual, 0)
        self.loading = loading
        """C (N|1, T|1, F, D)."""
        self.noise = noise
        """R (N|1, T|1, F, F)."""
        self.residual = residual
        """y − d (N, T, F)."""
        self.count = seen.double().sum(-1)  # whole numbers times a float would be float32
        """Observed elements (N, T)."""

    @cached_property
    def _white(self) -> tuple[Tensor, Tensor, Tensor]:
        """Loading, residual and log determinant after R is made the identity."""
        diagonal = self.noise.diagonal(dim1=-2, dim2=-1)
        if bool((self.noise == diagonal.diag_embed()).all()):
            _require_noise(diagonal)
            scale = diagonal.sqrt()
            loading, residual = self.loading / scale.unsqueeze(-1), self.residual / scale
            return loading, residual, scale.log().sum(-1)
        factor = cholesky(self.noise, "observation_noise")
        loading = solved_matrix(factor, self.loading)
        residual = solved_matrix(factor, self.residual.unsqueeze(-1)).squeeze(-1)
        return loading, residual, factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def expected(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """E[log O(y_t | z_t)] for normal z_t with moments (N, T, D), (N, T, D, D); (N, T)."""
        loading, residual, log_det = self._white
        distance = (residual - product(loading, mean)).square().sum(-1)
        trace = ((loading @ covariance) * loading).sum((-1, -2))
        return -0.5 * (distance + trace + self.count * LOG_2PI) - log_det

    def potential(self) -> tuple[Tensor, Tensor]:
        """Λ (N, T, D, D) and η (N, T, D) of log O(y_t | z) = −½ z'Λz + η'z + constant."""
        loading, residual, _ = self._white
        precision = loading.mT @ loading
        shape = *residual.shape[:-1], *precision.shape[-2:]
        return precision.expand(shape), product(loading.mT, residual)

    def updated(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Bayes' rule for normal z_t with moments (…, D), (…, D, D): moments given y_t.

        Works with noise-free observations too.
        """
        total = self.loading @ covariance @ self.loading.mT + self.noise
        factor = cholesky(total.expand(*self.residual.shape, -1), "observation_noise")
        gain = torch.cholesky_solve(self.loading @ covariance, factor).mT
        innovation = self.residual - product(self.loading, mean)
        kept = torch.eye(covariance.shape[-1], dtype=torch.float64) - gain @ self.loading
        joseph = kept @ covariance @ kept.mT + gain @ self.noise @ gain.mT
        return mean + product(gain, innovation), joseph

    def update(self, beliefs: GaussianBeliefs) -> GaussianBeliefs:
        """Bayes' rule for beliefs about the state before y_t was seen."""
        return GaussianBeliefs.of_moments(*self.updated(beliefs.mean, beliefs.covariance))


def _require_noise(variance: Tensor) -> None:
    if bool((variance > 0).all()):
        return
    n, t, f = (~(variance > 0)).nonzero()[0].tolist()
    raise ValueError(
        "observation_noise: the bound of a network needs variances > 0 (with the exact filter zero "
        f"will do), got {float(variance[n, t, f])} in sequence {n}, step {t + 1}, feature {f}"
    )
