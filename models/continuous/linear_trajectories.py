"""Linear recursions and normal densities along whole trajectories, without a loop over time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

_LOG_2PI = math.log(2 * math.pi)


def affine_scan(matrix: Tensor, shift: Tensor, first: Tensor) -> Tensor:
    """z_1 = first, z_{t+1} = A_t z_t + shift_t: all steps at once, (…, N, T, D); differentiable.

    ``matrix`` (N|1, T-1|1, D, D), ``shift`` (…, N, T-1, D), ``first`` (…, N, D). The reach of
    partial sums is doubled log2(T) times (Hillis & Steele 1986). If the matrix is the same at every
    step, only its powers 2, 4, 8, … are needed.
    """
    z = torch.cat([first.unsqueeze(-2), shift], -2)
    steps = z.shape[-2]
    constant = matrix.shape[-3] == 1
    if not constant:  # the first step has no matrix before it, and none is used
        matrix = torch.cat([matrix[..., :1, :, :], matrix], -3)
    reach = 1
    while reach < steps:
        moved = z[..., :-reach, :]
        late = matrix if constant else matrix[..., reach:, :, :]
        later = z[..., reach:, :] + _applied(late, moved)
        z = torch.cat([z[..., :reach, :], later], -2)
        if constant:
            matrix = matrix @ matrix
        else:
            matrix = torch.cat([matrix[..., :reach, :, :], late @ matrix[..., :-reach, :, :]], -3)
        reach *= 2
    return z


def _applied(matrix: Tensor, z: Tensor) -> Tensor:
    """A_t z_t for matrices (N|1, T|1, E, D) and vectors (…, N, T, D)."""
    if matrix.shape[:2] == (1, 1):  # one product of matrices instead of many with vectors
        return z @ matrix[0, 0].mT
    return (matrix @ z.unsqueeze(-1)).squeeze(-1)


class NormalNoise:
    """N(0, covariance) for covariances (…, D, D) that may have components without noise.

    A component with variance zero is *silent*: it is known exactly. ``log_prob`` is the density of
    the others, and −∞ if a silent component is not zero up to rounding. The covariance of the
    others must be positive definite.

    Raises:
        ValueError: it is not; ``name`` is the covariance's name in the message.
    """

    def __init__(self, covariance: Tensor, name: str) -> None:
        self.noisy = covariance.diagonal(dim1=-2, dim2=-1) != 0
        self._root, self._inverse, self._log_det = factorised(covariance, self.noisy, name)

    def at(self, step: int) -> NormalNoise:
        """The noise of one step, for covariances (N|1, T|1, D, D)."""
        out = copy.copy(self)
        place = step if self.noisy.shape[1] > 1 else 0
        for name in ("noisy", "_root", "_inverse", "_log_det"):
            setattr(out, name, getattr(self, name)[:, place])
        return out

    def draw(self, like: Tensor) -> Tensor:
        """A draw in the shape of ``like``, (…, D); reparametrised."""
        noise = torch.randn_like(like) * self.noisy
        return _product(self._root, noise)

    def log_prob(self, residual: Tensor, slack: Tensor | None = None) -> Tensor:
        """Log density of residuals (…, D); silent ones may differ from zero by ``slack``."""
        white = _product(self._inverse, residual * self.noisy)
        count = self.noisy.sum(-1).to(residual)
        density = -0.5 * (white.square().sum(-1) + count * _LOG_2PI) - self._log_det
        if bool(self.noisy.all()):
            return density
        if slack is None:
            slack = residual.new_tensor(0.0)
        wrong = (~self.noisy & (residual.abs() > slack)).any(-1)
        return torch.where(wrong, -torch.inf, density)


def factorised(covariance: Tensor, kept: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Cholesky factor, its inverse and log determinant of the blocks of the ``kept`` components.

    ``covariance`` (…, D, D), ``kept`` bool (…, D). Rows and columns of the other components are
    those of the identity.
    """
    both = kept.unsqueeze(-1) & kept.unsqueeze(-2)
    unit = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    block = torch.where(both, covariance, unit)
    root, info = torch.linalg.cholesky_ex(block)
    if bool((info != 0).any()):
        place = torch.nonzero(info)[0].tolist()
        raise ValueError(
            f"{name}: needs a covariance that is positive definite on the components with "
            f"variance > 0 for the density of a path (the evidence, with the states integrated "
            f"out, does not), got {block[tuple(place)].tolist()} at {place}"
        )
    inverse = torch.linalg.solve_triangular(root, unit.expand_as(root), upper=False)
    return root, inverse, root.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _product(matrix: Tensor, x: Tensor) -> Tensor:
    """Matrix times vector; one matrix may serve all vectors."""
    if math.prod(matrix.shape[:-2]) == 1:
        return x @ matrix.reshape(matrix.shape[-2:]).mT
    return (matrix @ x.unsqueeze(-1)).squeeze(-1)


class _ChainLaws(Protocol):
    """What a distribution of whole trajectories is made of."""

    @property
    def lengths(self) -> Tensor: ...

    def sample_states(self) -> Tensor: ...

    def chain_log_prob(self, paths: Tensor) -> Tensor: ...


class GaussianChain(dist.TorchDistribution):
    r"""Hidden trajectories of a batch of sequences, z_{t+1} = A_t z_t + b_t + N(0, Q_t).

    .. math:: p(z_{1:L}) = p(z_1) \prod_{t<L} N(z_{t+1}; A_t z_t + b_t, Q_t)

    Batch shape (N,), event shape (T, D); steps beyond a sequence's length do not count, and are
    drawn as zero. ``laws`` provides ``chain_log_prob``, ``sample_states`` and ``lengths``.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.real, 2)

    def __init__(self, laws: _ChainLaws, event_shape: torch.Size) -> None:
        self.laws = laws
        super().__init__(laws.lengths.shape, event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GaussianChain:
        if torch.Size(batch_shape) != self.batch_shape:
            raise ValueError(
                f"GaussianChain: batch shape is fixed at {tuple(self.batch_shape)}, one entry per "
                f"sequence; got {tuple(batch_shape)}"
            )
        return self

    def sample(self, sample_shape: Any = ()) -> Tensor:
        if torch.Size(sample_shape).numel() != 1:
            raise ValueError(f"GaussianChain: one draw at a time, got {tuple(sample_shape)}")
        with torch.no_grad():
            draw = self.laws.sample_states()
        return draw.reshape(torch.Size(sample_shape) + draw.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.laws.chain_log_prob(value)


class Observed(dist.TorchDistribution):
    """Observations given continuous trajectories, batch (N,), event (T, F).

    ``score(y)`` is Σ_t log O(y_t | z_t) of every sequence, (…, N); ``draw()`` samples observations.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.real, 2)

    def __init__(
        self,
        score: Callable[[Tensor], Tensor],
        draw: Callable[[], Tensor],
        batch_shape: torch.Size,
        event_shape: torch.Size,
    ) -> None:
        self._score = score
        self._draw = draw
        super().__init__(batch_shape, event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Observed:
        if torch.Size(batch_shape) != self.batch_shape:
            raise ValueError(
                f"Observed: batch shape is fixed at {tuple(self.batch_shape)}, one entry per "
                f"sequence; got {tuple(batch_shape)}"
            )
        return self

    def sample(self, sample_shape: Any = ()) -> Tensor:
        if torch.Size(sample_shape).numel() != 1:
            raise ValueError(f"Observed: one draw at a time, got {tuple(sample_shape)}")
        with torch.no_grad():
            draw = self._draw()
        return draw.reshape(torch.Size(sample_shape) + draw.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._score(value)
