"""The evidence of one series under a linear-Gaussian chain, as a function of the noises alone.

Matrices and series are prepared once; what is left of an evaluation at many values of the noises is
one recursion in machine code, and one back for all derivatives.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .gaussian import LinearChain

Array = NDArray[np.float64]

_EXACT = 1e-12
"""Error up to which the flat directions hold a constant."""


class Noises(NamedTuple):
    """Variances at M points, or derivatives by them."""

    first: Array
    """P, (M, D, D)."""
    noise: Array
    """Q, (M, T-1|1, D, D)."""
    observed: Array
    """R, (M, T|1)."""


class Series(NamedTuple):
    """A series of one feature and the matrices of its chain.

    Args:
        law: A, b, C, d, μ without the axes of sequences and features.
        flat: flat directions of the first state, (D, q).
        values: (T,).
        seen: which steps are observed, (T,).
    """

    law: tuple[Array, ...]
    flat: Array
    values: Array
    seen: NDArray[np.bool_]

    @classmethod
    def of(cls, chain: LinearChain, values: Tensor, mask: Tensor, row: int) -> Self:
        """One of N sequences, up to its last observation.

        Values are counted from their mean if that only moves the flat first state.
        """
        parts = (
            chain.transition,
            chain.offset,
            chain.loading[..., 0, :],
            chain.intercept[..., 0],
            chain.initial_mean,
        )
        law = tuple(_array(part[min(row, len(part) - 1)]) for part in parts)
        seen = mask[row, :, 0].numpy()
        seen = seen[: int(seen.nonzero()[0].max(initial=-1)) + 1]
        y = _array(values[row, : len(seen), 0])
        flat = _array(chain.diffuse)
        if _holds_constants(law, flat) and seen.any():
            y = y - y[seen].mean()
        return cls(law, flat, y, seen)

    def slopes(self, noises: Noises) -> tuple[Array, Noises]:
        r"""log p(y) (M,) and its derivatives by the noises; −∞ where digits would be lost.

        The derivatives by Q_t are ½ (r r' − N) with r and N of the smoother's recursion.

        Sources: Koopman (1997); Koopman & Shephard (1992), Biometrika 79.
        """
        from . import series_machine  # numba is loaded when first needed

        evidence = np.zeros(len(noises.first))
        found = Noises(*(np.zeros_like(x) for x in noises))
        data = self.law, noises, self.flat, self.values, self.seen
        series_machine.slopes(*data, evidence, found)
        return evidence, found


class _Evidence(torch.autograd.Function):
    """log p(y) of a series as a function of its three noises, each at one point."""

    @staticmethod
    def forward(ctx: Any, series: Series, *noises: Tensor) -> Tensor:
        found, slopes = series.slopes(Noises(*(_array(x)[None] for x in noises)))
        ctx.save_for_backward(*(torch.from_numpy(x[0]) for x in slopes))
        return torch.from_numpy(found)[0]

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        return None, *(upstream[0] * slope for slope in ctx.saved_tensors)


def by_noises(chain: LinearChain, values: Tensor, mask: Tensor) -> Tensor | None:
    """log p(y) of sequences of one feature, (N,), as ``gaussian.log_evidence`` has it.

    The machine code for this is compiled in a third of the time of that for any chain.

    Returns:
        Nats, differentiable in the noises alone; None where other parts have derivatives, there are
        several features, or digits would be lost.
    """
    noises = chain.initial_covariance, chain.noise, chain.observation_noise
    others = {id(part) for part in chain} - set(map(id, noises))
    moved = any(part.requires_grad for part in chain if id(part) in others)
    if moved or values.shape[-1] > 1 or values.device.type != "cpu":
        return None
    first, noise, observed = (x.double() for x in (*noises[:2], noises[2][..., 0, 0]))
    found = [
        _Evidence.apply(  # type: ignore[no-untyped-call]
            Series.of(chain, values, mask, row),
            *(x[min(row, len(x) - 1)] for x in (first, noise, observed)),
        )
        for row in range(len(values))
    ]
    total = torch.stack(found)
    return total if bool(total.isfinite().all()) else None


def _array(x: Tensor) -> Array:
    return np.ascontiguousarray(x.detach().double().numpy())


def _holds_constants(law: tuple[Array, ...], flat: Array) -> bool:
    """Whether some flat first state stays where it is and adds the same to all observations."""
    transition, _, loading, *_ = law
    if len(transition) > 1 or len(loading) > 1 or not flat.shape[1]:
        return False
    rows = np.concatenate([transition[0] @ flat - flat, loading @ flat])
    wanted = np.zeros(len(rows))
    wanted[-1] = 1
    found = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    return bool(np.abs(rows @ found - wanted).max() < _EXACT)
