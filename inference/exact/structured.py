"""Exact inference on chains whose transition matrix has structure: no K x K matrix is built.

A structure describes one transition law of K states, the same for all sequences and steps, by
tensors of log probabilities; ``-inf`` is an exact zero:

==================  ======================================================  =======================
structure           T(z' | z)                                               cost of a step
==================  ======================================================  =======================
:class:`Banded`     zero except on a few diagonals                          K W, W diagonals
:class:`Sparse`     zero except for E entries                               E
:class:`LowRank`    Σ_r L(z, r) R(r, z'), through one of R hidden classes    2 K R
:class:`Factorial`  Π_f T_f(z'_f | z_f), independent small chains           K Σ_f K_f
==================  ======================================================  =======================

The functions are those of :mod:`.chains`, with a structure for the transition: ``log_initial``
``(N|1, K)``, ``log_likelihood`` ``(N, T, K)``, ``lengths`` ``(N,)`` int64 or None. There are no
leading draw dimensions, and all tensors are on the CPU (elsewhere use ``chains`` with the
``dense()`` matrix). Zeros, impossible observations and precision are handled as there. Rows of the
transition need not sum to 1, as there.

Every function raises ``ValueError`` for an argument that does not fit.
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
    """Raises ValueError unless the tensors are floating, of one dtype and on one device."""
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
    """Transition with a few diagonals: T(z + offsets[w] | z) = exp(log_bands[z, w]), else zero.

    A left-right chain has offsets (0, 1), a walk to nearest neighbours (-1, 0, 1).

    Args:
        log_bands: ``(K, W)``; entries that point outside of 0 … K-1 are ignored.
        offsets: W different whole numbers of size < K.

    Raises:
        ValueError: shapes or offsets that do not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact.structured import Banded
    >>> left_right = Banded(torch.tensor([[0.8, 0.2], [0.7, 0.3], [1.0, 0.0]]).log(), (0, 1))
    >>> left_right.dense().exp().numpy().round(2)
    array([[0.8, 0.2, 0. ],
           [0. , 0.7, 0.3],
           [0. , 0. , 1. ]], dtype=float32)
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
        """Returns log T ``(K, K)``, differentiable."""
        origin, target = self.places()
        inside = (target >= 0) & (target < self.states)
        out = self.log_bands.new_full((self.states, self.states), -math.inf)
        return out.index_put((origin[inside], target[inside]), self.log_bands[inside])

    def places(self) -> tuple[Tensor, Tensor]:
        """Returns the rows and the columns that ``log_bands`` points to, both int64 ``(K, W)``."""
        origin = torch.arange(self.states, device=self.log_bands.device).unsqueeze(-1)
        target = origin + torch.tensor(self.offsets, device=self.log_bands.device)
        return origin.expand_as(target), target


@dataclass(frozen=True, eq=False)
class Sparse:
    """Transition with few entries: T(columns[e] | rows[e]) = exp(log_values[e]), else zero.

    Args:
        log_values: ``(E,)``, in any order.
        rows, columns: int64 ``(E,)`` in 0 … states-1, no pair twice.
        states: K.

    Raises:
        ValueError: shapes or entries that do not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact.structured import Sparse
    >>> rows, columns = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 2, 0])
    >>> transition = Sparse(torch.tensor([0.8, 0.2, 1.0, 1.0]).log(), rows, columns, states=3)
    >>> transition.dense().exp().numpy().round(2)
    array([[0.8, 0.2, 0. ],
           [0. , 0. , 1. ],
           [1. , 0. , 0. ]], dtype=float32)
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
        """Returns log T ``(K, K)``, differentiable."""
        out = self.log_values.new_full((self.states, self.states), -math.inf)
        return out.index_put((self.rows, self.columns), self.log_values)


@dataclass(frozen=True, eq=False)
class LowRank:
    """Transition through one of R classes: T(z' | z) = Σ_r L(z, r) R(r, z').

    If the rows of L and of R sum to 1, so do those of T.

    Args:
        log_left: log L, ``(K, R)``.
        log_right: log R, ``(R, K)``.

    Raises:
        ValueError: shapes that do not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact.structured import LowRank
    >>> left, right = torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    >>> transition = LowRank(left.log(), right.log())
    >>> transition.rank, transition.dense().exp().numpy().round(3)
    (2, array([[0.95, 0.05],
           [0.55, 0.45]], dtype=float32))
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
        """Returns log T ``(K, K)``, differentiable; holds K² R numbers for a while."""
        terms = self.log_left.unsqueeze(-1) + self.log_right
        # If no class leads to an entry its gradient is zero; that of logsumexp would be NaN.
        possible = (terms > -math.inf).any(-2)
        total = terms.masked_fill(~possible.unsqueeze(-2), 0).logsumexp(-2)
        return total.masked_fill(~possible, -math.inf)


@dataclass(frozen=True, eq=False)
class Factorial:
    """Independent chains observed together: T(z' | z) = Π_f T_f(z'_f | z_f), z = (z_1 … z_F).

    K = Π_f K_f and z_F runs fastest, so that T is the Kronecker product T_1 ⊗ … ⊗ T_F.

    Args:
        log_transitions: log T_f, ``(K_f, K_f)`` each.

    Raises:
        ValueError: shapes that do not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact.structured import Factorial
    >>> slow, fast = torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    >>> Factorial((slow.log(), fast.log())).dense().exp().numpy().round(2)[0]
    array([0.45, 0.45, 0.05, 0.05], dtype=float32)
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
        """Returns log T ``(K, K)``, differentiable."""
        out = self.log_transitions[0]
        for factor in self.log_transitions[1:]:
            out = _log_kronecker(out, factor)
        return out

    def joined(self, largest: int) -> Factorial:
        """Joins neighbouring chains while they have at most ``largest`` states together.

        Args:
            largest: greatest number of states of a joined chain.

        Returns:
            The same law by fewer and larger matrices, which are faster up to some size although
            they take more operations.

        >>> import torch
        >>> from beliefzoo.inference.exact.structured import Factorial
        >>> Factorial((torch.zeros(2, 2),) * 5).joined(8).sizes
        (8, 4)
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
    """Returns the compiled recursions; numba is imported on first use, as that takes a while."""
    return import_module(".structured_cpu", __package__)


def _plan(transition: Structure) -> tuple[recursions.Layout, tuple[Tensor, ...]]:
    """The kernels' layout of the structure, and the tensors of its numbers."""
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
    """Raises ValueError if the arguments do not fit together."""
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
            f"inference.exact.chains with transition.dense()); got {log_likelihood.device}"
        )
    if lengths is not None:
        exact.check_lengths(lengths, n, t, log_likelihood.device)


class _LogEvidence(torch.autograd.Function):
    """The gradient of the evidence: posterior marginals, and expected uses of each number of T."""

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
    """Log evidence log p(y_{1:T}), with the states summed out.

    Args:
        log_initial: ``(N|1, K)``.
        transition: the structure.
        log_likelihood: log O_k(y_t) in nats, ``(N, T, K)``; 0 where the step is missing.
        lengths: int64 ``(N,)``; None: every sequence has T steps.

    Returns:
        Nats, ``(N,)``; -inf for an impossible sequence. Differentiable (first order) in
        ``log_initial``, ``log_likelihood`` and the tensors of the structure: the gradient of a log
        probability is its expected number of uses. Memory is of order N T K.

    Raises:
        ValueError: an argument that does not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import chains, structured
    >>> walk = structured.Banded(torch.tensor([[0.9, 0.1]]).expand(500, 2).log(), (0, 1))
    >>> initial, likelihood = torch.zeros(1, 500).log_softmax(-1), torch.zeros(1, 100, 500)
    >>> likelihood[0, -1, 1:] = -torch.inf  # ends in state 0, so never left it
    >>> evidence = structured.log_evidence(initial, walk, likelihood).exp().item()
    >>> round(500 * evidence / 0.9**99, 4)
    1.0
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
    """Filtered beliefs, predictions and log p(y_t | y_{1:t-1}); see :func:`.chains.filter_chain`.

    Args:
        log_initial, transition, log_likelihood, lengths: as of :func:`log_evidence`.

    Returns:
        :class:`Filtered`, in logs, with the axes ``(N, T, K)`` and ``(N, T)``.

    Raises:
        ValueError: an argument that does not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import structured
    >>> walk = structured.Banded(torch.tensor([[0.5, 0.5]] * 3).log(), (0, 1))
    >>> start = torch.tensor([[1.0, 0.0, 0.0]]).log()
    >>> found = structured.filter_chain(start, walk, torch.zeros(1, 3, 3))
    >>> found.log_beliefs.exp().numpy().round(3)[0]
    array([[1.  , 0.  , 0.  ],
           [0.5 , 0.5 , 0.  ],
           [0.25, 0.5 , 0.25]], dtype=float32)
    """
    chain = _chain(log_initial, transition, log_likelihood, lengths)
    return cast(Filtered, _recursions().forward(chain))


@torch.no_grad()
def smooth_chain(
    log_initial: Tensor,
    transition: Structure,
    log_likelihood: Tensor,
    lengths: Tensor | None = None,
) -> Tensor:
    """Smoothed marginals log p(z_t | y_{1:T}).

    Args:
        log_initial, transition, log_likelihood, lengths: as of :func:`log_evidence`.

    Returns:
        ``(N, T, K)``; beyond the length the last marginal is repeated.

    Raises:
        ValueError: an argument that does not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import structured
    >>> walk = structured.Banded(torch.tensor([[0.5, 0.5]] * 3).log(), (0, 1))
    >>> start = torch.tensor([[1.0, 0.0, 0.0]]).log()
    >>> likelihood = torch.tensor([[[1.0, 1, 1], [1, 1, 1], [0, 1, 0]]]).log()  # ends in state 1
    >>> structured.smooth_chain(start, walk, likelihood).exp().numpy().round(3)[0]
    array([[1. , 0. , 0. ],
           [0.5, 0.5, 0. ],
           [0. , 1. , 0. ]], dtype=float32)
    """
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
    """Most likely path of states, argmax_z p(z_{1:T}, y_{1:T}), by the Viterbi algorithm.

    Args:
        log_initial, transition, log_likelihood, lengths: as of :func:`log_evidence`.

    Returns:
        Paths, int64 ``(N, T)``, -1 beyond the length, and their log p(z_{1:T}, y_{1:T}) in nats,
        ``(N,)``. A low-rank transition sums over its classes, which leaves no faster way to take
        the maximum: its K x K matrix is built.

    Raises:
        ValueError: an argument that does not fit; a low-rank transition of more than
            ``LARGEST_DENSE`` states.

    >>> import torch
    >>> from beliefzoo.inference.exact import structured
    >>> walk = structured.Banded(torch.tensor([[0.6, 0.4]] * 3).log(), (0, 1))
    >>> start = torch.tensor([[1.0, 0.0, 0.0]]).log()
    >>> likelihood = torch.tensor([[[1.0, 1, 1], [0.2, 0.8, 0], [0.1, 0.9, 0]]]).log()
    >>> path, log_joint = structured.most_likely_path(start, walk, likelihood)
    >>> path.tolist(), round(log_joint.exp().item(), 4)  # .4 (.8) .6 (.9)
    ([[0, 1, 1]], 0.1728)
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
    """Draws of whole paths from the posterior p(z_{1:T} | y_{1:T}).

    Args:
        log_initial, transition, log_likelihood, lengths: as of :func:`log_evidence`.
        n: number of draws.
        generator: source of random numbers; None: torch's global one.

    Returns:
        int64 ``(n, N, T)``, -1 beyond the length.

    Raises:
        ValueError: an argument that does not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import structured
    >>> onwards = structured.Banded(torch.zeros(4, 1), (1,))
    >>> start = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).log()
    >>> structured.sample_paths(start, onwards, torch.zeros(1, 4, 4), n=2).tolist()
    [[[0, 1, 2, 3]], [[0, 1, 2, 3]]]
    """
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be a whole number >= 1; got {n!r}")
    chain = _chain(log_initial, transition, log_likelihood, lengths)
    filtered = _recursions().forward(chain)
    paths: Tensor = _recursions().backward_draws(chain, filtered.log_beliefs, n, generator)
    mask = step_mask(lengths, log_likelihood)
    return paths if mask is None else paths.where(mask, -1)
