"""The likelihood of chains whose emissions are exponential families, from statistics of the data.

The data are read once. What is left of an evaluation is the map from coordinates to p(z_1), T and
the coefficients of the statistics, and the recursion over the steps in machine code.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...models import Model, Sequences
from ...models.chains.hmm import Laws
from ...models.emissions.emission import ExponentialFamily, Parameters, in_products
from ..exact.families import Expected, Frames, expected

STATES = 16
"""States up to which this recursion is the fastest one."""

NUMBERS = 2**24
"""Statistics of all steps that are kept, 128 MiB."""

_LARGEST = 1e8
"""Products of coefficients and statistics up to which their sum keeps eight digits of a nat."""


class Products(NamedTuple):
    """A chain whose log-likelihoods are sums of products, and the statistics of its data.

    Args:
        model: the model.
        family: its emission law.
        data: the data.
        frames: the statistics.
        largest: greatest size of each statistic, (J,).
    """

    model: Model
    family: ExponentialFamily
    data: Sequences
    frames: Frames
    largest: Tensor

    @classmethod
    def of(cls, model: Model, data: Sequences, values: Parameters) -> Self | None:
        """The statistics of the data; None if the model is not such a chain, or a large one.

        ``values`` are any of the unknown parameters, as an example.
        """
        if not (model.exact and model.draws_together and model.has_paths):
            return None
        if model.inputs or model.timed or model.states > STATES:
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
        if family is None or law.lags or law.given(data) is not law:
            return None
        y, mask = law.observed(data)
        some = family.statistics(y[:1, :1], mask[:1, :1])
        if some is None or data.n_steps * some.shape[-1] > NUMBERS:
            return None
        whole = family.statistics(y, mask)
        assert whole is not None  # as some of it
        statistics = whole[data.step_mask].contiguous()
        frames = Frames(statistics, data.lengths)
        return cls(model, family, data, frames, statistics.abs().amax(0))

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
        with torch.no_grad():
            reach = (coefficients.abs() @ self.largest).amax(-1)
            sound = reach < _LARGEST  # not where it is infinite, or NaN
            safe = torch.where(sound[:, None, None], coefficients, 0)
            found = expected(log_initial.exp(), log_moves.exp(), safe, self.frames)
            return found._replace(evidence=torch.where(sound, found.evidence, -torch.inf))

    def log_evidence(self, values: Parameters) -> Tensor:
        """log p(y) at values of M points, (M,); differentiable; −∞ as ``expected``."""
        return _Evidence.apply(self, *self.chain(values))  # type: ignore[no-any-return, no-untyped-call]


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
