"""Exact inference on chains whose transition matrix has a structure: no K x K numbers anywhere.

A structure describes one transition law of K states, the same for all sequences and steps, by
tensors of log probabilities; ``-inf`` is an exact zero:

==================  ======================================================  =======================
structure           T(z' | z)                                               cost of a step
==================  ======================================================  =======================
:class:`Banded`     zero but for a few diagonals                            K W, W diagonals
:class:`Sparse`     zero but for E entries                                  E
:class:`LowRank`    Σ_r L(z, r) R(r, z'), through one of R hidden classes    2 K R
:class:`Factorial`  Π_f T_f(z'_f | z_f), independent small chains           K Σ_f K_f
==================  ======================================================  =======================

The functions are those of :mod:`.exact`, with a structure for the transition: ``log_initial``
``(N|1, K)``, ``log_likelihood`` ``(N, T, K)``, ``lengths`` ``(N,)`` int64 or None. There are no
leading draws, and all tensors are on the CPU (elsewhere: ``exact`` with the ``dense()`` matrix).
What is said there of zeros, impossible observations and precision holds here. Rows need not sum to
1, as there.

Every argument that does not fit is a ``ValueError``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import chains as exact
from .chains_torch import Filtered, step_mask

if TYPE_CHECKING:
    from . import structured_cpu as recursions

__all__ = [
    "LARGEST_DENSE",
    "WHOLE_STATES",
    "Banded",
    "Factorial",
    "LowRank",
    "Sparse",
    "Structure",
    "filter_chain",
    "log_evidence",
    "most_likely_path",
    "sample_paths",
    "smooth_chain",
]

LARGEST_DENSE = 4096
"""States up to which Viterbi's algorithm for a low-rank transition may build the K x K matrix."""

WHOLE_STATES = 128
"""Joint states up to which the evidence of a factorial chain is faster by its whole matrix."""


def _check_parts(parts: dict[str, Tensor]) -> None:
    """Floating tensors of one dtype on one device."""
    (first_name, first), *_ = parts.items()
    for name, part in parts.items():
        if not isinstance(part, Tensor) or part.dtype not in (torch.float32, torch.float64):
            came = part.dtype if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(f"{name} must be a float32 or float64 tensor; got {came}")
        if (part.dtype, part.device) != (first.dtype, first.device):
            raise ValueError(
                f"{name} must be {first.dtype} on {first.device} as {first_name}; "
                f"got {part.dtype} on {part.device}"
            )


@dataclass(frozen=True, eq=False)
class Banded:
    """T(z + offsets[w] | z) = exp(log_bands[z, w]), zero elsewhere.

    ``log_bands`` ``(K, W)``; ``offsets`` W different whole numbers of size < K. Entries that point
    outside of 0 … K-1 are ignored, whatever they are.

    A left-right chain has offsets (0, 1), a walk to nearest neighbours (-1, 0, 1).
    """

    log_bands: Tensor
    offsets: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_parts({"log_bands": self.log_bands})
        object.__setattr__(self, "offsets", tuple(self.offsets))
        if self.log_bands.ndim != 2 or self.log_bands.shape != (self.states, len(self.offsets)):
            raise ValueError(
                f"log_bands must have shape (K, {len(self.offsets)}), a column for each offset; "
                f"got {tuple(self.log_bands.shape)}"
            )
        whole = all(isinstance(o, int) and abs(o) < self.states for o in self.offsets)
        if not self.offsets or not whole or len(set(self.offsets)) < len(self.offsets):
            raise ValueError(
                f"offsets must be different whole numbers of size < {self.states}, at least one; "
                f"got {self.offsets}"
            )

    @property
    def states(self) -> int:
        """Number of states K."""
        return len(self.log_bands)

    def dense(self) -> Tensor:
        """log T ``(K, K)``, differentiable."""
        origin, target = self.places()
        inside = (target >= 0) & (target < self.states)
        out = self.log_bands.new_full((self.states, self.states), -math.inf)
        return out.index_put((origin[inside], target[inside]), self.log_bands[inside])

    def places(self) -> tuple[Tensor, Tensor]:
        """Rows and columns that the entries of ``log_bands`` point to, int64 ``(K, W)`` both."""
        origin = torch.arange(self.states, device=self.log_bands.device).unsqueeze(-1)
        target = origin + torch.tensor(self.offsets, device=self.log_bands.device)
        return origin.expand_as(target), target


@dataclass(frozen=True, eq=False)
class Sparse:
    """T(columns[e] | rows[e]) = exp(log_values[e]) for E entries in any order, zero elsewhere.

    ``log_values`` ``(E,)``; ``rows`` and ``columns`` int64 ``(E,)`` in 0 … states-1, no pair twice.
    """

    log_values: Tensor
    rows: Tensor
    columns: Tensor
    states: int

    def __post_init__(self) -> None:
        _check_parts({"log_values": self.log_values})
        if not isinstance(self.states, int) or self.states < 1:
            raise ValueError(f"states must be a whole number >= 1; got {self.states!r}")
        if self.log_values.ndim != 1 or not len(self.log_values):
            raise ValueError(
                f"log_values must have shape (E,), E >= 1; got {tuple(self.log_values.shape)}"
            )
        for name, index in (("rows", self.rows), ("columns", self.columns)):
            if index.shape != self.log_values.shape or index.dtype != torch.int64:
                raise ValueError(
                    f"{name} must be int64 of shape {tuple(self.log_values.shape)} as log_values; "
                    f"got {index.dtype} of shape {tuple(index.shape)}"
                )
            if not 0 <= int(index.min()) <= int(index.max()) < self.states:
                raise ValueError(
                    f"{name} must be in 0..{self.states - 1}; "
                    f"got {int(index.min())}..{int(index.max())}"
                )
        places = self.rows * self.states + self.columns
        if len(places.unique()) < len(places):
            raise ValueError("rows, columns must name every entry once; got some twice")

    def dense(self) -> Tensor:
        """log T ``(K, K)``, differentiable."""
        out = self.log_values.new_full((self.states, self.states), -math.inf)
        return out.index_put((self.rows, self.columns), self.log_values)


@dataclass(frozen=True, eq=False)
class LowRank:
    """T(z' | z) = Σ_r L(z, r) R(r, z'): through one of R classes, each with its own law of z'.

    ``log_left`` ``(K, R)`` is log L, ``log_right`` ``(R, K)`` log R. Rows of both that sum to 1
    make rows of T that do.
    """

    log_left: Tensor
    log_right: Tensor

    def __post_init__(self) -> None:
        _check_parts({"log_left": self.log_left, "log_right": self.log_right})
        left, right = tuple(self.log_left.shape), tuple(self.log_right.shape)
        if len(left) != 2 or 0 in left or left != right[::-1]:
            raise ValueError(
                "log_left, log_right must have shapes (K, R) and (R, K), none 0; "
                f"got {left} and {right}"
            )

    @property
    def states(self) -> int:
        """Number of states K."""
        return len(self.log_left)

    @property
    def rank(self) -> int:
        """Number of classes R."""
        return len(self.log_right)

    def dense(self) -> Tensor:
        """log T ``(K, K)``, differentiable; holds K² R numbers for a while."""
        terms = self.log_left.unsqueeze(-1) + self.log_right
        # Where no class leads the gradient is zero; logsumexp's own would be NaN.
        possible = (terms > -math.inf).any(-2)
        total = terms.masked_fill(~possible.unsqueeze(-2), 0).logsumexp(-2)
        return total.masked_fill(~possible, -math.inf)


@dataclass(frozen=True, eq=False)
class Factorial:
    """T(z' | z) = Π_f T_f(z'_f | z_f) for z = (z_1 … z_F): independent chains, observed together.

    ``log_transitions`` are log T_f ``(K_f, K_f)``. K = Π K_f, and z_F runs fastest: T is the
    Kronecker product T_1 ⊗ … ⊗ T_F.
    """

    log_transitions: tuple[Tensor, ...]

    def __init__(self, log_transitions: Sequence[Tensor]) -> None:
        object.__setattr__(self, "log_transitions", tuple(log_transitions))
        if not self.log_transitions:
            raise ValueError("log_transitions must hold at least one matrix; got none")
        parts = {f"log_transitions[{f}]": x for f, x in enumerate(self.log_transitions)}
        _check_parts(parts)
        for name, part in parts.items():
            if part.ndim != 2 or len(part) < 1 or part.shape[0] != part.shape[1]:
                raise ValueError(f"{name} must have shape (K_f, K_f); got {tuple(part.shape)}")

    @property
    def states(self) -> int:
        """Number of joint states K."""
        return math.prod(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """States K_f of each chain."""
        return tuple(len(x) for x in self.log_transitions)

    def dense(self) -> Tensor:
        """log T ``(K, K)``, differentiable."""
        out = self.log_transitions[0]
        for factor in self.log_transitions[1:]:
            out = _log_kronecker(out, factor)
        return out

    def joined(self, largest: int) -> Factorial:
        """The same law with neighbouring chains joined while they have ``largest`` states or less.

        Fewer and longer products: they are faster up to some size, though they are more.
        """
        out = [self.log_transitions[0]]
        for factor in self.log_transitions[1:]:
            if len(out[-1]) * len(factor) <= largest:
                out[-1] = _log_kronecker(out[-1], factor)
            else:
                out.append(factor)
        return Factorial(out)


def _log_kronecker(a: Tensor, b: Tensor) -> Tensor:
    size = len(a) * len(b)
    return (a[:, None, :, None] + b[None, :, None, :]).reshape(size, size)


Structure = Banded | Sparse | LowRank | Factorial


def _recursions() -> Any:
    """Machine code, imported when first used: numba takes a while."""
    return import_module(".structured_cpu", __package__)


def _plan(transition: Structure) -> tuple[recursions.Layout, tuple[Tensor, ...]]:
    """How the kernels lay the structure out, and the tensors that its numbers come from."""
    compiled = _recursions()
    if isinstance(transition, Banded):
        _, target = transition.places()
        outside = (target < 0) | (target >= transition.states)
        bands = transition.log_bands.masked_fill(outside, -math.inf)
        return compiled.BandLayout(transition.offsets, transition.states), (bands,)
    if isinstance(transition, Sparse):
        places = transition.rows.numpy(), transition.columns.numpy()
        return compiled.EntryLayout(*places, transition.states), (transition.log_values,)
    one_axis = isinstance(transition, LowRank)
    if isinstance(transition, Factorial):
        transition = transition.joined(compiled.JOINED_STATES)
    parts = _tensors(transition)
    shapes = tuple(tuple(part.shape) for part in parts)
    return compiled.StageLayout(transition.states, shapes, not one_axis), parts


def _tensors(transition: Structure) -> tuple[Tensor, ...]:
    if isinstance(transition, Factorial):
        return transition.log_transitions
    if isinstance(transition, LowRank):
        return transition.log_left, transition.log_right
    return (transition.log_bands if isinstance(transition, Banded) else transition.log_values,)


def _check(
    log_initial: Tensor, transition: Structure, log_likelihood: Tensor, lengths: Tensor | None
) -> None:
    """Refuse what does not fit."""
    if not isinstance(transition, Structure):
        raise ValueError(
            "transition must be a Banded, Sparse, LowRank or Factorial; "
            f"got {type(transition).__name__}"
        )
    k = transition.states
    if log_likelihood.ndim != 3 or 0 in log_likelihood.shape or log_likelihood.shape[-1] != k:
        raise ValueError(
            f"log_likelihood must have shape (N, T, {k}), none 0 and without leading draws; "
            f"got {tuple(log_likelihood.shape)}"
        )
    n, t, _ = log_likelihood.shape
    if log_initial.shape not in ((n, k), (1, k)):
        raise ValueError(
            f"log_initial must have shape ({n}|1, {k}), without leading draws; "
            f"got {tuple(log_initial.shape)}"
        )
    laws = {"log_initial": log_initial, "transition": _tensors(transition)[0]}
    _check_parts({"log_likelihood": log_likelihood, **laws})
    if log_likelihood.device.type != "cpu":
        raise ValueError(
            "log_likelihood must be on the CPU for a transition with a structure (elsewhere use "
            f"inference.exact with transition.dense()); got {log_likelihood.device}"
        )
    if lengths is not None:
        exact.check_lengths(lengths, n, t, log_likelihood.device)


class _LogEvidence(torch.autograd.Function):
    """The gradient of the evidence is the posterior: marginals, and how often numbers are used."""

    @staticmethod
    def forward(
        ctx: Any,
        layout: recursions.Layout,
        lengths: Tensor | None,
        log_initial: Tensor,
        log_likelihood: Tensor,
        *parts: Tensor,
    ) -> Tensor:
        chain = _recursions().Chain.of(layout, parts, log_initial, log_likelihood, lengths)
        run = _recursions().Evidence(chain, any(ctx.needs_input_grad))
        ctx.gradient = run.gradient
        # Kept by torch, which notices if they are changed in place before the gradient is taken.
        ctx.save_for_backward(log_initial, log_likelihood, *parts)
        return cast(Tensor, run.totals.to(log_likelihood.dtype, copy=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        log_initial, *_ = ctx.saved_tensors
        marginals, counts = ctx.gradient(gradient.contiguous(), any(ctx.needs_input_grad[4:]))
        # A copy: two leaves must not get views of one tensor as their gradients.
        initial = marginals[:, 0].sum_to_size(log_initial.shape).clone()
        return None, None, initial, marginals, *counts


def log_evidence(
    log_initial: Tensor,
    transition: Structure,
    log_likelihood: Tensor,
    lengths: Tensor | None = None,
) -> Tensor:
    """log p(y_{1:T}) in nats ``(N,)``, all states summed out.

    Differentiable (first order) in ``log_initial``, ``log_likelihood`` and the tensors of the
    structure; the gradient of a log probability is how often it is expected to be used. Memory is
    of order N T K. An impossible sequence gives -inf, gradient zero.
    """
    _check(log_initial, transition, log_likelihood, lengths)
    if isinstance(transition, Factorial) and transition.states <= WHOLE_STATES:
        matrix = transition.dense()[None, None]
        return exact.log_evidence(log_initial, matrix, log_likelihood, lengths)
    layout, parts = _plan(transition)
    arguments = layout, lengths, log_initial, log_likelihood, *parts
    return cast(Tensor, _LogEvidence.apply(*arguments))  # type: ignore[no-untyped-call]


def _chain(
    log_initial: Tensor, transition: Structure, log_likelihood: Tensor, lengths: Tensor | None
) -> recursions.Chain:
    _check(log_initial, transition, log_likelihood, lengths)
    layout, parts = _plan(transition)
    chain = _recursions().Chain.of(layout, parts, log_initial, log_likelihood, lengths)
    return cast("recursions.Chain", chain)


@torch.no_grad()
def filter_chain(
    log_initial: Tensor,
    transition: Structure,
    log_likelihood: Tensor,
    lengths: Tensor | None = None,
) -> Filtered:
    """Beliefs, predictions and increments as :func:`.exact.filter_chain` gives them."""
    chain = _chain(log_initial, transition, log_likelihood, lengths)
    return cast(Filtered, _recursions().forward(chain))


@torch.no_grad()
def smooth_chain(
    log_initial: Tensor,
    transition: Structure,
    log_likelihood: Tensor,
    lengths: Tensor | None = None,
) -> Tensor:
    """log p(z_t | y_{1:T}) ``(N, T, K)``; beyond the length the last marginal is repeated."""
    chain = _chain(log_initial, transition, log_likelihood, lengths)
    filtered = _recursions().forward(chain)
    log_marginals = filtered.log_beliefs + _recursions().log_messages(chain, filtered)
    # The sum is 1 up to rounding, which adds up over a long sequence in float32.
    total = log_marginals.logsumexp(-1, keepdim=True)
    return cast(Tensor, log_marginals - total.clamp_min(torch.finfo(total.dtype).min))


@torch.no_grad()
def most_likely_path(
    log_initial: Tensor,
    transition: Structure,
    log_likelihood: Tensor,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Viterbi: argmax_z p(z_{1:T}, y_{1:T}), int64 ``(N, T)`` with -1 as padding, and its log.

    A low-rank transition sums over its classes, so that no step of its own exists for the maximum:
    its K x K matrix is built.

    Raises:
        ValueError: a low-rank transition of more than ``LARGEST_DENSE`` states.
    """
    _check(log_initial, transition, log_likelihood, lengths)
    if isinstance(transition, LowRank):
        if transition.states > LARGEST_DENSE:
            raise ValueError(
                "transition must not be a LowRank of more than "
                f"{LARGEST_DENSE} states, since Viterbi's algorithm needs its K x K matrix; "
                f"got {transition.states}"
            )
        return exact.most_likely_path(
            log_initial, transition.dense()[None, None], log_likelihood, lengths
        )
    chain = _chain(log_initial, transition, log_likelihood, lengths)
    paths, log_joint = _recursions().best_paths(chain)
    mask = step_mask(lengths, log_likelihood)
    return paths if mask is None else paths.where(mask, -1), log_joint


@torch.no_grad()
def sample_paths(
    log_initial: Tensor,
    transition: Structure,
    log_likelihood: Tensor,
    lengths: Tensor | None = None,
    n: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws from p(z_{1:T} | y_{1:T}), int64 ``(n, N, T)``, -1 beyond the length."""
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be a whole number >= 1; got {n!r}")
    chain = _chain(log_initial, transition, log_likelihood, lengths)
    filtered = _recursions().forward(chain)
    paths: Tensor = _recursions().backward_draws(chain, filtered.log_beliefs, n, generator)
    mask = step_mask(lengths, log_likelihood)
    return paths if mask is None else paths.where(mask, -1)
