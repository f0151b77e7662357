"""Normal laws over time: the beliefs of filters of continuous states."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...models.boundary import boundary
from ...models.checks import require

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class GaussianBeliefs:
    """Normal beliefs about the state, for every sequence and time or any other leading axes.

    Args:
        mean: (…, D), in units of the state.
        scale: Cholesky factor (…, D, D) of the covariance, or standard deviations (…, D) of
            independent components.

    >>> import torch
    >>> from beliefzoo.inference.filters.gaussian_beliefs import GaussianBeliefs
    >>> wide = GaussianBeliefs(torch.zeros(1), torch.tensor([2.0]))
    >>> narrow = GaussianBeliefs(torch.zeros(1), torch.tensor([1.0]))
    >>> wide.variance.tolist(), round(narrow.divergence(wide).item(), 4)  # log 2 − 3/8
    ([4.0], 0.3181)
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    @boundary
    def of_moments(cls, mean: Tensor, covariance: Tensor) -> GaussianBeliefs:
        """Makes beliefs of means and covariances (…, D, D), which may be singular."""
        size = mean.shape[-1:] * 2
        shape = tuple(covariance.shape)
        fits = mean.ndim > 0 and covariance.shape[-2:] == size
        require(fits, "covariance", f"needs {tuple(size)} for the last axes", shape)
        return cls(mean, square_root(covariance))

    @property
    def full(self) -> bool:
        """Whether the components may be dependent."""
        return self.scale.ndim > self.mean.ndim

    @cached_property
    def factor(self) -> Tensor:
        """Lower-triangular factor of the covariance, (…, D, D)."""
        return self.scale if self.full else self.scale.diag_embed()

    @cached_property
    def covariance(self) -> Tensor:
        """Covariance (…, D, D)."""
        if self.full:
            return self.scale @ self.scale.mT
        return self.scale.square().diag_embed()

    @property
    def variance(self) -> Tensor:
        """Variances of the components, (…, D)."""
        squares = self.scale.square()
        return squares.sum(-1) if self.full else squares

    @property
    def log_scale(self) -> Tensor:
        """Half the log determinant of the covariance, (…)."""
        own = self.scale.diagonal(dim1=-2, dim2=-1) if self.full else self.scale
        return own.log().sum(-1)

    def __getitem__(self, index: object) -> GaussianBeliefs:
        """Selects some of the laws: ``index`` applies to the leading axes."""
        return GaussianBeliefs(self.mean[index], self.scale[index])  # type: ignore[index]

    def double(self) -> GaussianBeliefs:
        """Returns the same in float64."""
        return GaussianBeliefs(self.mean.double(), self.scale.double())

    def detach(self) -> GaussianBeliefs:
        """Returns the same as constants."""
        return GaussianBeliefs(self.mean.detach(), self.scale.detach())

    def spread(self, noise: Tensor) -> Tensor:
        """Returns the factor times standard normal noise (…, D): a draw minus the mean."""
        return product(self.scale, noise) if self.full else self.scale * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of x (…, D), nats."""
        return Density.of(self).log_prob(x)

    def divergence(self, other: GaussianBeliefs) -> Tensor:
        """KL(self ‖ other), nats, (…)."""
        entropy = 0.5 * self.mean.shape[-1] * (1 + LOG_2PI) + self.log_scale
        return -entropy - Density.of(other).expected(self.mean, self.covariance)


class Density:
    """Normal densities with their precisions worked out, for many evaluations and expectations.

    ``mean`` (…, D); ``precision`` (…, D, D), or (…, D) of independent components; ``log_det`` (…)
    of the covariance.
    """

    def __init__(self, mean: Tensor, precision: Tensor, log_det: Tensor, *, full: bool) -> None:
        self.mean, self.precision, self.log_det, self.full = mean, precision, log_det, full

    @classmethod
    def of(cls, beliefs: GaussianBeliefs) -> Density:
        """Of beliefs with positive scales."""
        if not beliefs.full:
            precision = beliefs.scale.square().reciprocal()
            return cls(beliefs.mean, precision, 2 * beliefs.log_scale, full=False)
        inverse, _ = inverse_and_log_det(beliefs.covariance)
        return cls(beliefs.mean, inverse, 2 * beliefs.log_scale, full=True)

    @classmethod
    def of_covariance(cls, mean: Tensor, covariance: Tensor, name: str, first: int = 0) -> Density:
        """From covariances (N|1, T|1, D, D).

        Raises:
            ValueError: one is not positive definite; it says of which sequence, and which step
                counted from ``first``.
        """
        inverse, log_det = inverse_and_log_det(covariance)
        bad = log_det.isnan()
        if bool(bad.any()):
            n, t = bad.nonzero()[0].tolist()
            raise ValueError(
                f"{name}: needs a positive definite covariance, got "
                f"{covariance[n, t].detach().tolist()} in sequence {n}, step {t + first}"
            )
        return cls(mean, inverse, log_det, full=True)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of x (…, D), nats."""
        residual = x - self.mean
        weighted = product(self.precision, residual) if self.full else self.precision * residual
        return self._scaled((weighted * residual).sum(-1), x.shape[-1])

    def expected(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """E[log density] of a normal x with ``mean`` (…, D) and ``covariance`` (…, D, D)."""
        residual = mean - self.mean
        if self.full:
            second = covariance + residual.unsqueeze(-1) * residual.unsqueeze(-2)
            return self._scaled((self.precision * second).sum((-1, -2)), mean.shape[-1])
        second = covariance.diagonal(dim1=-2, dim2=-1) + residual.square()
        return self._scaled((self.precision * second).sum(-1), mean.shape[-1])

    def _scaled(self, distance: Tensor, size: int) -> Tensor:
        return -0.5 * (distance + self.log_det + size * LOG_2PI)


class _InverseAndLogDet(torch.autograd.Function):
    """One inverse serves values and gradients: d V⁻¹ = −V⁻¹ dV V⁻¹, d log|V| = tr V⁻¹ dV."""

    @staticmethod
    def forward(ctx: Any, covariance: Tensor) -> tuple[Tensor, Tensor]:
        factor, info = torch.linalg.cholesky_ex(covariance)
        inverse, _ = torch.linalg.inv_ex(covariance)
        inverse = 0.5 * (inverse + inverse.mT)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        ctx.save_for_backward(inverse)
        return inverse, log_det.where(info == 0, torch.nan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_inverse: Tensor, to_log_det: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        both: Tensor = inverse * to_log_det[..., None, None] - inverse @ to_inverse @ inverse
        return both


def inverse_and_log_det(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """V⁻¹ and log|V| of covariances (…, D, D); log|V| is NaN where V is not positive definite."""
    if covariance.shape[-1] == 1:
        positive = covariance > 0
        safe = torch.where(positive, covariance, 1)
        log_det = torch.where(positive, safe.log(), torch.nan)
        return safe.reciprocal(), log_det[..., 0, 0]
    found = _InverseAndLogDet.apply(covariance)  # type: ignore[no-untyped-call]
    inverse, log_det = found
    return inverse, log_det


def right(x: Tensor, matrix: Tensor) -> Tensor:
    """Matrices x (…, E, D) times ``matrix`` (N|1, T|1, D, D): one product where it is shared."""
    if math.prod(matrix.shape[:-2]) == 1:
        return x @ matrix.reshape(matrix.shape[-2:])
    return x @ matrix


def product(matrix: Tensor, x: Tensor) -> Tensor:
    """Matrices (…, E, D) times vectors (…, D)."""
    if math.prod(matrix.shape[:-2]) == 1:  # one product of matrices instead of many with vectors
        return x @ matrix.reshape(matrix.shape[-2:]).mT
    return (matrix @ x.unsqueeze(-1)).squeeze(-1)


def square_root(covariance: Tensor) -> Tensor:
    """Lower-triangular L with L L' = covariance (…, D, D), which may be singular; differentiable.

    A direction without variance gets a column of zeros.
    """
    if covariance.shape[-1] == 1:
        positive = covariance > 0
        return torch.where(positive, torch.where(positive, covariance, 1).sqrt(), 0)
    factor, info = torch.linalg.cholesky_ex(covariance)
    return _semidefinite_root(covariance) if bool((info != 0).any()) else factor


def _semidefinite_root(covariance: Tensor) -> Tensor:
    """Cholesky's elimination, column by column, where a pivot of zero leaves out its column."""
    size = covariance.shape[-1]
    largest = covariance.detach().diagonal(dim1=-2, dim2=-1).amax(-1)
    least = largest * (size * torch.finfo(covariance.dtype).eps)
    below = torch.ones(size, size, dtype=torch.bool, device=covariance.device).tril()
    columns: list[Tensor] = []
    rest = covariance
    for j in range(size):
        pivot = rest[..., j, j]
        positive = pivot > least
        root = torch.where(positive, pivot, 1).sqrt()
        usable = positive.unsqueeze(-1) & below[:, j]
        column = torch.where(usable, rest[..., :, j], 0) / root.unsqueeze(-1)
        columns.append(column)
        rest = rest - column.unsqueeze(-1) * column.unsqueeze(-2)
    return torch.stack(columns, -1)
