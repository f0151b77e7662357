"""The likelihood of observations that are linear in a continuous state."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ...models import LinearGaussianLaws
from .gaussian_beliefs import LOG_2PI, Density, GaussianBeliefs, product


class LinearLikelihood:
    """log O(y_t | z_t) as a quadratic function of z_t, without the missing elements.

    In float64. Rows and columns of missing elements are those of unit noise with residual zero.
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
        self.count = seen.double().sum(-1)  # integers times a float would give float32
        """Observed elements (N, T)."""

    @cached_property
    def _law(self) -> Density:
        """N(y − d, R) as a density of C z."""
        diagonal = self.noise.diagonal(dim1=-2, dim2=-1)
        if bool((self.noise == diagonal.diag_embed()).all()):
            _require_noise(diagonal)
            log_det = diagonal.log().sum(-1)
            return Density(self.residual, diagonal.reciprocal(), log_det, full=False)
        return Density.of_covariance(self.residual, self.noise, "observation_noise")

    @cached_property
    def information(self) -> Tensor:
        """C'R⁻¹C, (N|1, T|1, D, D)."""
        precision = self._law.precision
        if self._law.full:
            return self.loading.mT @ precision @ self.loading
        return self.loading.mT @ (precision.unsqueeze(-1) * self.loading)

    def expected(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """E[log O(y_t | z_t)] for normal z_t with moments (N, T, D), (N, T, D, D); (N, T)."""
        trace = (self.information * covariance).sum((-1, -2))
        # Missing elements have residual zero and density (2π)^-½, which is removed.
        missing = self.residual.shape[-1] - self.count
        at_mean = self._law.log_prob(product(self.loading, mean))
        return at_mean + 0.5 * (missing * LOG_2PI - trace)

    def potential(self) -> tuple[Tensor, Tensor]:
        """Λ (N, T, D, D) and η (N, T, D) of log O(y_t | z) = −½ z'Λz + η'z + constant."""
        precision = self._law.precision
        if self._law.full:
            weighted = product(precision, self.residual)
        else:
            weighted = precision * self.residual
        shape = *self.residual.shape[:-1], *self.information.shape[-2:]
        return self.information.expand(shape), product(self.loading.mT, weighted)

    def updated(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Bayes' rule for normal z_t with moments (…, D), (…, D, D): moments given y_t.

        Works with noise-free observations too.
        """
        total = self.loading @ covariance @ self.loading.mT + self.noise
        total = total.expand(*self.residual.shape, -1)
        inverse = Density.of_covariance(self.residual, total, "observation_noise").precision
        gain = (inverse @ (self.loading @ covariance)).mT
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
        f"will do), got {float(variance[n, t, f])} in sequence {n}, step {t}, feature {f}"
    )
