"""The flat part of the initial law of a Gaussian chain: what data say about δ in z_1 = … + B δ.

Whitened innovations are linear in δ: e + E δ, where e are those of the data with δ = 0 and E those
of the diffuse directions. So δ is the coefficient of a regression (Rosenberg 1973, de Jong 1991),
with precision S = E' E and weighted sum s = E' e. ``Directions`` holds the regression on all data,
``Learning`` that after every step. Both are differentiable.

q is the number of directions; ``gaussian_torch.Layout`` says what chains and rows are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from .gaussian_torch import Layout

IDENTIFIED = 1e-6
"""A direction of the diffuse law is not determined by the data if, beside the others, what it moves
in the whitened observations is below this share of what it moves alone. Rounding is some 1e-15."""


NOTHING = 1e-13
"""The same, in comparison with the direction that moves them most."""


@dataclass(frozen=True)
class Directions:
    """What all data say about δ, by an orthogonal basis rather than by S."""

    basis: Tensor
    """(G, T F, q), orthonormal columns"""
    triangle: Tensor
    """U (G, q, q), E = basis U"""

    @classmethod
    def of(cls, further: Tensor, layout: Layout, *, blank: Tensor | None = None) -> Directions:
        """From E (q, G, T, F).

        Args:
            blank: (G,) bool, where nothing is observed. There δ = 0 with unit precision stands for
                the flat law, which has no density: the log evidence of nothing is 0.

        Raises:
            ValueError: the data do not determine δ.
        """
        columns = further.flatten(2).permute(1, 2, 0)
        q = columns.shape[-1]
        if blank is not None and bool(blank.any()):
            unit = torch.eye(*columns.shape[1:], dtype=columns.dtype, device=columns.device)
            columns = torch.where(blank[:, None, None], unit, columns)
        if columns.shape[1] < q:
            raise not_identified(int(layout.sequences[0]), q)
        basis, triangle = torch.linalg.qr(columns)
        left = triangle.detach().diagonal(dim1=-2, dim2=-1).abs()
        whole = columns.detach().norm(dim=1)
        most = whole.amax(-1, keepdim=True)
        lost = ~((left > IDENTIFIED * whole) & (whole > NOTHING * most)).all(-1)
        if bool(lost.any()):
            raise not_identified(int(layout.sequences[int(lost.nonzero()[0])]), q)
        return cls(basis, triangle)

    def project(self, e: Tensor, chain_of: Tensor) -> Tensor:
        """basis' e (V, q) of innovations (V, T, F)."""
        flat = e.flatten(1)
        if len(self.basis) == 1:
            return flat @ self.basis[0]
        return (flat.unsqueeze(1) @ self.basis[chain_of]).squeeze(1)

    def residual(self, e: Tensor, chain_of: Tensor) -> Tensor:
        """e + E δ (V, T, F) at the estimate of δ: what the data leave of their innovations."""
        explained = self.project(e, chain_of)
        if len(self.basis) == 1:
            return e - (explained @ self.basis[0].mT).reshape(e.shape)
        return e - (self.basis[chain_of] @ explained.unsqueeze(-1)).reshape(e.shape)

    def log_root(self, chain_of: Tensor) -> Tensor:
        """½ log det S (V,)."""
        own = self.triangle.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
        return own[chain_of]

    def estimate(self, e: Tensor, chain_of: Tensor) -> Tensor:
        """δ given all data, -S⁻¹ s (V, q)."""
        projected = -self.project(e, chain_of).unsqueeze(-1)
        solved = torch.linalg.solve_triangular(self.triangle[chain_of], projected, upper=True)
        return cast(Tensor, solved.squeeze(-1))

    def roots(self, moved: Tensor) -> Tensor:
        """X U⁻¹ of X (G, …, D, q): X S⁻¹ X' is that times its transpose."""
        shape = moved.shape
        wide = moved.reshape(shape[0], -1, shape[-1])
        solved = torch.linalg.solve_triangular(self.triangle, wide, upper=True, left=False)
        return cast(Tensor, solved.reshape(shape))


@dataclass(frozen=True)
class Learning:
    """What is known about δ after 0 … T steps.

    S_t is singular until all of δ is determined. Until then S_t + N N' / spread takes its place,
    with an orthonormal basis N of its null space: the solutions are the same, and its determinant
    is the product of the nonzero eigenvalues of S_t, apart from the spread.
    """

    root: Tensor
    """Cholesky factor of S + N N' / spread (G, T + 1, q, q)"""
    null: Tensor
    """N (G, T + 1, q, q), zero in the columns that it does not have; a constant"""
    weights: Tensor
    """s (V, T + 1, q)"""
    chain_of: Tensor
    spread: float

    @classmethod
    def of(cls, further: Tensor, e: Tensor, chain_of: Tensor, spread: float) -> Learning:
        """From E (q, G, T, F) and e (V, T, F)."""
        each = torch.einsum("agtf,bgtf->gtab", further, further)
        precision = nn.functional.pad(each.cumsum(1), (0, 0, 0, 0, 1, 0))
        null = _null_space(precision.detach())
        root = torch.linalg.cholesky(precision + null @ null.mT / spread)
        own = further if further.shape[1] == 1 else further[:, chain_of]
        weights = torch.einsum("qvtf,vtf->vtq", own.expand(-1, len(e), -1, -1), e).cumsum(1)
        return cls(root, null, nn.functional.pad(weights, (0, 0, 1, 0)), chain_of, spread)

    def at(self, steps: slice) -> Learning:
        """Some of the steps."""
        root, null, weights = (x[:, steps] for x in (self.root, self.null, self.weights))
        return Learning(root, null, weights, self.chain_of, self.spread)

    def log_evidence(self) -> Tensor:
        """½ s' S⁺ s - ½ log det⁺ S (V, T + 1)."""
        whole = 2 * self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        whole = whole + self.null.square().sum((-2, -1)) * math.log(self.spread)
        root = self.root[self.chain_of]
        solved = torch.linalg.solve_triangular(root, self.weights.unsqueeze(-1), upper=False)
        return cast(Tensor, 0.5 * (solved.squeeze(-1).square().sum(-1) - whole[self.chain_of]))

    def estimate(self) -> Tensor:
        """-S⁺ s (V, T + 1, q): δ given the steps so far, 0 in directions that are not known."""
        solved = torch.cholesky_solve(self.weights.unsqueeze(-1), self.root[self.chain_of])
        return -solved.squeeze(-1)

    def last(self) -> Tensor:
        """δ given all steps (V, q), as ``estimate``."""
        return self.at(slice(-1, None)).estimate().squeeze(1)

    def spread_of(self, moved: Tensor) -> tuple[Tensor, Tensor]:
        """X S⁺ X' of X (G, T + 1, D, q), and the variance per spread in unknown directions (…, D).

        The latter is 0 up to rounding in what the steps so far determine.
        """
        across = torch.linalg.solve_triangular(self.root, moved.mT, upper=False)
        free = moved @ self.null
        return across.mT @ across - self.spread * free @ free.mT, free.square().sum(-1)


def _null_space(precision: Tensor) -> Tensor:
    """Orthonormal bases of the null spaces of matrices (G, T, q, q) that grow with T."""
    null = torch.zeros_like(precision)
    most = precision[:, -1].diagonal(dim1=-2, dim2=-1).amax(-1)[:, None, None]
    start, count = 0, 32
    while start < precision.shape[1]:
        steps = slice(start, start + count)
        null[:, steps], known = _null_spaces(precision[:, steps], most)
        if bool(known[:, -1].all()):
            break
        start, count = start + count, 2 * count
    return null


def _null_spaces(precision: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Bases, and whether they are empty (G, T). By correlations, as units may differ by orders."""
    squares = precision.diagonal(dim1=-2, dim2=-1)
    scales = squares.where(squares > NOTHING**2 * most, 0).sqrt()
    scales = scales.where(scales > 0, math.inf)
    values, vectors = torch.linalg.eigh(precision / scales.unsqueeze(-1) / scales.unsqueeze(-2))
    free = values < IDENTIFIED**2
    units = scales.where(scales < math.inf, 1).unsqueeze(-1)
    columns = nn.functional.normalize(vectors / units, dim=-2) * free.unsqueeze(-2)
    basis, _ = torch.linalg.qr(columns)  # null directions come first: eigenvalues are increasing
    return basis * free.unsqueeze(-2), ~free.any(-1)


def blank_chains(layout: Layout) -> Tensor:
    """The chains without any observation, (G,) bool."""
    return ~layout.mask[layout.sequences].flatten(1).any(1)


def not_identified(sequence: int, q: int) -> ValueError:
    """Returns the error for data that do not determine δ."""
    return ValueError(
        f"values must determine the {q} diffuse direction(s) of the initial law; "
        f"those of sequence {sequence} are too few"
    )
