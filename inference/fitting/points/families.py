"""The likelihood of chains whose emissions are exponential families, from statistics of the data.

The data are read once. What is left of an evaluation is the map from coordinates to p(z_1), T and
the coefficients of the statistics, and the recursion over the steps in machine code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ....models import Model, Sequences
from ....models.chains.hmm import Laws
from ....models.emissions.emission import ExponentialFamily, Parameters, Residuals, in_products
from ...exact.families import Expected, Frames, expected
from .maps import Array
from .tables import Tables

STATES = 16
"""States up to which this recursion is the fastest one."""

NUMBERS = 2**24
"""Statistics of all steps that are kept, 128 MiB."""


class Products(NamedTuple):
    """A chain whose log-likelihoods are sums of products, and the statistics of its data.

    Args:
        model: the model.
        family: its emission law.
        data: the data.
        frames: the statistics.
        tables: p(z_1) and T, if they are parameters or known.
        known: known parameters of the emission.
    """

    model: Model
    family: ExponentialFamily
    data: Sequences
    frames: Frames
    tables: Tables | None
    known: Parameters

    @classmethod
    def of(cls, model: Model, data: Sequences, values: Parameters) -> Self | None:
        """The statistics of the data; None if the model is not such a chain, or a large one.

        ``values`` are any of the unknown parameters, as an example.
        """
        if not (model.exact and model.draws_together and model.has_paths):
            return None
        if model.timed or model.states > STATES:
            return None
        if data.values.device.type != "cpu":
            return None
        with torch.no_grad():
            try:
                laws = model.laws({name: x.unsqueeze(0) for name, x in values.items()}, data)
            except ValueError:  # there is none at these values, as of a chain that falls apart
                return None
        if type(laws) is not Laws or laws.choice is not None:  # others may score in their own way
            return None
        if laws.matrices.shape[-4:-2] != (1, 1) or laws.log_initial.shape[-2] != 1:
            return None
        law, family = laws.emission, in_products(laws.emission)
        if family is None or law.given(data) is not law:
            return None
        if (law.lags or law.inputs) and not isinstance(family, Residuals):
            return None
        y, mask = law.observed(data)
        some = _statistics(family, y[:1, :1], mask[:1, :1], data)
        if some is None or data.n_steps * some.shape[-1] > NUMBERS:
            return None
        whole = _statistics(family, y, mask, data)
        assert whole is not None  # as some of it
        statistics = whole[data.step_mask].contiguous()
        squares = family.squares() if isinstance(family, Residuals) else ()
        frames = Frames.of(statistics, data.lengths, squares)
        known = {name: x for name, x in model.own_known.items() if name in law.dims()}
        return cls(model, family, data, frames, Tables.of(model), known)

    def chain(self, values: Parameters) -> tuple[Tensor, Tensor, Tensor]:
        """log p(z_1) (M, K), log T (M, K, K) and coefficients (M, K, J) at values of M points."""
        laws = self.model.laws(values, self.data)
        assert isinstance(laws, Laws)  # as before
        first, moves = laws.log_initial.squeeze(-2), laws.matrices.squeeze(-3).squeeze(-3)
        coefficients = self.family.coefficients(laws.parameters)
        count = len(next(iter(values.values())))
        return (
            first.expand(count, -1),
            moves.expand(count, -1, -1),
            coefficients.expand(count, -1, -1),
        )

    def expected(self, log_initial: Tensor, log_moves: Tensor, coefficients: Tensor) -> Expected:
        """log p(y) and what is counted; −∞ where this recursion cannot tell."""
        return expected(log_initial.exp(), log_moves.exp(), coefficients, self.frames)

    def log_evidence(self, values: Parameters) -> Tensor:
        """log p(y) at values of M points, (M,); differentiable; −∞ as ``expected``."""
        return _Evidence.apply(self, *self.chain(values))  # type: ignore[no-any-return, no-untyped-call]

    def at(self, values: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """log p(y) at values of M points, (M,), −∞ as ``expected``; its derivatives by the values.

        Raises:
            ValueError: there is no chain at one of them.
        """
        own = {name: x for name, x in values.items() if name not in _TABLES or not self.tables}
        given = {name: torch.from_numpy(x).requires_grad_() for name, x in own.items()}
        if self.tables is None:
            evidence = self.log_evidence(given)
            return evidence.detach().numpy(), _slopes(evidence.sum(), given)
        tables = self.tables(values)
        coefficients = self.family.coefficients({**self.known, **given})
        count = len(next(iter(values.values())))
        first, moves = (torch.from_numpy(x).expand(count, *x.shape[1:]) for x in tables)
        scores = coefficients.detach().expand(count, *coefficients.shape[-2:])
        found = expected(first, moves, scores, self.frames)
        slopes = self.tables.back(tables, (found.first.numpy(), found.moves.numpy()))
        if given:
            slopes |= _slopes((coefficients * found.statistics).sum(), given)
        return found.evidence.numpy(), slopes


def _statistics(
    family: ExponentialFamily, y: Tensor, mask: Tensor, data: Sequences
) -> Tensor | None:
    """The statistics of the first of the data, (N, T, J)."""
    if not isinstance(family, Residuals):
        return family.statistics(y, mask)
    inputs = data.inputs
    if inputs is not None:
        inputs = inputs[: y.shape[0], : y.shape[1]]
    return family.statistics(y, mask, inputs)


_TABLES = "initial", "transition"


def _slopes(total: Tensor, values: Mapping[str, Tensor]) -> dict[str, Array]:
    """The derivatives by values."""
    found = torch.autograd.grad(total, list(values.values()), materialize_grads=True)
    return {name: x.numpy() for name, x in zip(values, found, strict=True)}


class _Evidence(torch.autograd.Function):
    """The expected counts are the derivatives."""

    @staticmethod
    def forward(ctx: Any, products: Products, *chain: Tensor) -> Tensor:
        found = products.expected(*(x.detach() for x in chain))
        ctx.save_for_backward(*found[1:])
        return found.evidence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        first, moves, statistics = ctx.saved_tensors
        two = upstream[:, None]
        return None, two * first, two[..., None] * moves, two[..., None] * statistics
