"""Normal laws along time: the beliefs of a filter of continuous states, and what they weigh."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class GaussianBeliefs:
    """A normal law of the state for every sequence and time, or any other leading axes.

    ``mean`` (…, D); ``scale`` is the Cholesky factor (…, D, D) of the covariance, or standard
    deviations (…, D) of independent components.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of_moments(cls, mean: Tensor, covariance: Tensor) -> GaussianBeliefs:
        """From covariances (…, D, D), which may be singular."""
        return cls(mean, square_root(covariance))

    @property
    def full(self) -> bool:
        """Whether the components may depend on each other."""
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
        """Some of the laws: ``index`` goes over the leading axes."""
        return GaussianBeliefs(self.mean[index], self.scale[index])  # type: ignore[index]

    def double(self) -> GaussianBeliefs:
        """The same in float64."""
        return GaussianBeliefs(self.mean.double(), self.scale.double())

    def detach(self) -> GaussianBeliefs:
        """The same as constants."""
        return GaussianBeliefs(self.mean.detach(), self.scale.detach())

    def spread(self, noise: Tensor) -> Tensor:
        """Standard normal noise (…, D) with the covariance, the mean left out."""
        return product(self.scale, noise) if self.full else self.scale * noise

    def whitened(self, x: Tensor) -> Tensor:
        """x (…, D) minus the mean, in units in which the law is standard normal."""
        residual = x - self.mean
        return solved(self.scale, residual) if self.full else residual / self.scale

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of x (…, D), nats."""
        distance = self.whitened(x).square().sum(-1)
        return -0.5 * (distance + x.shape[-1] * LOG_2PI) - self.log_scale

    def expected_log_prob(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """E[log density] of a normal x with ``mean`` (…, D) and ``covariance`` (…, D, D)."""
        if self.full:
            inside = solved_matrix(self.scale, covariance)
            trace = solved_matrix(self.scale, inside.mT).diagonal(dim1=-2, dim2=-1).sum(-1)
        else:
            variance = covariance.diagonal(dim1=-2, dim2=-1)
            trace = (variance / self.scale.square()).sum(-1)
        return self.log_prob(mean) - 0.5 * trace

    def divergence(self, other: GaussianBeliefs) -> Tensor:
        """KL(self ‖ other), nats, (…)."""
        entropy = 0.5 * self.mean.shape[-1] * (1 + LOG_2PI) + self.log_scale
        return -entropy - other.expected_log_prob(self.mean, self.covariance)


def product(matrix: Tensor, x: Tensor) -> Tensor:
    """Matrices (…, E, D) times vectors (…, D)."""
    if matrix.shape[:-2].numel() == 1:  # one product of matrices instead of many with vectors
        return x @ matrix.reshape(matrix.shape[-2:]).mT
    return (matrix @ x.unsqueeze(-1)).squeeze(-1)


def solved(factor: Tensor, x: Tensor) -> Tensor:
    """L⁻¹ x for lower-triangular L (…, D, D) and vectors (…, D)."""
    if factor.shape[-1] <= 1:  # of nothing, or of one number
        return x / factor.squeeze(-1) if factor.shape[-1] else x
    if factor.shape[:-2].numel() == 1:
        one = factor.reshape(factor.shape[-2:])
        flat = x.reshape(-1, x.shape[-1]).mT
        return _triangular(one, flat).mT.reshape(x.shape)
    shape = torch.broadcast_shapes(factor.shape[:-2], x.shape[:-1])
    wide = x.expand(*shape, x.shape[-1]).unsqueeze(-1)
    return _triangular(factor, wide).squeeze(-1)


def solved_matrix(factor: Tensor, x: Tensor) -> Tensor:
    """L⁻¹ X for lower-triangular L (…, D, D) and matrices (…, D, E)."""
    if factor.shape[-1] == 1:
        return x / factor
    return _triangular(factor, x)


def _triangular(factor: Tensor, x: Tensor) -> Tensor:
    found: Tensor = torch.linalg.solve_triangular(factor, x, upper=False)
    return found


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


def cholesky(matrix: Tensor, name: str, first: int = 1) -> Tensor:
    """Cholesky factors of (N|1, T|1, D, D).

    Raises:
        ValueError: one is not positive definite; it says of which sequence, and which step counted
            from ``first``.
    """
    if matrix.shape[-1] == 1:
        bad = ~(matrix[..., 0, 0] > 0)
        factor = torch.where(matrix > 0, matrix, 1).sqrt()
    else:
        factor, info = torch.linalg.cholesky_ex(matrix)
        bad = info != 0
    if bool(bad.any()):
        n, t = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{name}: needs a positive definite covariance, got "
            f"{matrix[n, t].detach().tolist()} in sequence {n}, step {t + first}"
        )
    return factor
