"""Exact inference on linear-Gaussian chains: evidence, filter, smoother, path samples, sweeps.

With N sequences padded to T steps, state size D and F features,

    z_1 ~ N(μ, P) + B δ,   z_{t+1} = A_t z_t + b_t + N(0, Q_t),   y_t = C_t z_t + d_t + N(0, R_t),

where δ (q,) has a flat prior: the exact *diffuse* initial law (de Jong 1991). See ``LinearChain``
for the shapes. The ``mask`` says element by element which values are observed; masked values and
those beyond a sequence's length are ignored. Covariances may be singular, as long as every observed
element has positive variance given the past and the features before it.

The flat prior has density 1, and every observed element contributes -½ log 2π, as in statsmodels.
KFAS leaves this constant out for the q elements that determine δ: to compare, add ½ q log 2π to the
evidence.

The recursions run in float64; results have the precision of the arguments. Values may be float64
beside matrices in float32, whose precision results have then. Covariances do not
depend on the values, so sequences with the same matrices and the same gaps share them. Joseph's
form keeps them positive, and no covariance of a state is inverted. Where variances differ by
orders, as under a wide initial law, and for filters and smoothers always, the recursions work on
roots of the covariances, which keeps the digits of the small ones. A diffuse law is put where the
data lie, so that evidence and variances are the same at any offset.

Gradients flow through :func:`log_evidence`, :func:`step_log_likelihood`,
:func:`standardised_innovations`, :func:`backward_sweep` and :func:`backward_covariances` (first
order, analytic) to every float tensor, those of covariances being symmetric; the other functions
return constants.

On the CPU the recursions are compiled by numba (``gaussian_cpu``), elsewhere they run in torch
(``gaussian_torch``). Every function raises ``ValueError`` for an argument that does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .chains import check_lengths
from .gaussian_diffuse import Directions, Learning, blank_chains
from .gaussian_torch import Layout, States, System, accurate

__all__ = [
    "Filtered",
    "LinearChain",
    "Smoothed",
    "backward_covariances",
    "backward_sweep",
    "filter",
    "log_evidence",
    "predict",
    "sample_paths",
    "smooth",
    "standardised_innovations",
    "step_log_likelihood",
]

LOG_2PI = math.log(2 * math.pi)

NEGLIGIBLE = 1e-9
"""Share of a variance below which an unknown direction does not matter to it."""

FAR = 1e8
"""If a diffuse law takes out more than this of the sum of squares, it is put where the data lie."""

STEPS_FAR = 1e2
"""The same where sums of squares are subtracted."""


class LinearChain(NamedTuple):
    """The matrices of a linear-Gaussian chain; axes of size 1 are shared by sequences or steps.

    >>> import torch
    >>> from beliefzoo.inference.exact.gaussian import LinearChain
    >>> one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1)
    >>> walk = LinearChain(  # a random walk with unit variances, observed with noise
    ...     initial_mean=zero[0], initial_covariance=one[0], diffuse=torch.zeros(1, 0),
    ...     transition=one, offset=zero, noise=one,
    ...     loading=one, intercept=zero, observation_noise=0.5 * one,
    ... )
    >>> walk.observation_noise.shape
    torch.Size([1, 1, 1, 1])
    """

    initial_mean: Tensor
    """μ ``(N|1, D)``"""
    initial_covariance: Tensor
    """P ``(N|1, D, D)``, positive semidefinite"""
    diffuse: Tensor
    """B ``(D, q)``, the directions with a flat prior; q = 0 for a proper initial law"""
    transition: Tensor
    """A ``(N|1, T-1|1, D, D)``"""
    offset: Tensor
    """b ``(N|1, T-1|1, D)``"""
    noise: Tensor
    """Q ``(N|1, T-1|1, D, D)``, positive semidefinite"""
    loading: Tensor
    """C ``(N|1, T|1, F, D)``"""
    intercept: Tensor
    """d ``(N|1, T|1, F)``"""
    observation_noise: Tensor
    """R ``(N|1, T|1, F, F)``, positive semidefinite"""


class Filtered(NamedTuple):
    """Filtered and predicted means and covariances; see :func:`filter`."""

    means: Tensor
    """``(N, T, D)``"""
    covariances: Tensor
    """``(N, T, D, D)``"""
    predicted_means: Tensor
    """``(N, T, D)``"""
    predicted_covariances: Tensor
    """``(N, T, D, D)``"""


class Smoothed(NamedTuple):
    """Smoothed means and covariances; see :func:`smooth`."""

    means: Tensor
    """``(N, T, D)``"""
    covariances: Tensor
    """``(N, T, D, D)``"""
    cross_covariances: Tensor | None
    """Cov(z_t, z_{t+1} | y) ``(N, T-1, D, D)`` where asked for"""


class _Recursions(Protocol):
    """The functions that ``gaussian_torch`` and ``gaussian_cpu`` both provide."""

    def whiten(self, system: System, layout: Layout, /) -> tuple[Tensor, Tensor]: ...

    def states(self, system: System, layout: Layout, /) -> States: ...

    def smooth(
        self, system: System, layout: Layout, pairs: bool, /
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]: ...

    def first_indefinite(self, matrices: Tensor, tolerance: float, /) -> int: ...

    def semidefinite_factor(self, matrices: Tensor, /) -> Tensor: ...

    def sweep_back(
        self, gain: Tensor, shift: Tensor, last: Tensor, lengths: Tensor | None, /
    ) -> Tensor: ...

    def sweep_back_gradient(
        self, gain: Tensor, paths: Tensor, lengths: Tensor | None, upstream: Tensor, wanted: bool, /
    ) -> tuple[Tensor, Tensor]: ...

    def sweep_covariances(
        self, gain: Tensor, noise: Tensor, last: Tensor, lengths: Tensor | None, /
    ) -> Tensor: ...

    def sweep_covariances_gradient(
        self,
        gain: Tensor,
        covariances: Tensor,
        lengths: Tensor | None,
        upstream: Tensor,
        wanted: bool,
        /,
    ) -> tuple[Tensor, Tensor]: ...


def _recursions(tensor: Tensor) -> _Recursions:
    """Returns compiled recursions for the CPU, torch ones elsewhere; numba loads on first use."""
    on_cpu = tensor.device.type == "cpu"
    name = "gaussian_cpu" if on_cpu else "gaussian_torch"
    return cast(_Recursions, import_module(f".{name}", __package__))


def _check_shapes(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[tuple[int, ...], ...]]
) -> None:
    """Raises ValueError for trailing axes of other sizes and for mixed precisions or devices."""
    first = next(iter(tensors.values()))
    for name, tensor in tensors.items():
        axes = expected[name]
        fits = tensor.ndim == len(axes)
        if not fits or any(s not in a for s, a in zip(tensor.shape, axes, strict=True)):
            wanted = ", ".join("|".join(map(str, dict.fromkeys(axis))) for axis in axes)
            raise ValueError(f"{name} must have shape ({wanted}); got {tuple(tensor.shape)}")
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != first.dtype:
            raise ValueError(f"{name} must be float32 or float64 as all others; got {tensor.dtype}")
        if tensor.device != first.device:
            raise ValueError(f"{name} must be on {first.device} as all others; got {tensor.device}")


# --- from arguments to the recursions -------------------------------------------------------------


@dataclass(frozen=True)
class _Problem:
    """The arguments, checked, in float64."""

    chain: LinearChain
    values: Tensor
    """Zero where nothing was observed."""
    mask: Tensor
    """(N, T, F); false beyond the length"""
    lengths: Tensor
    dtype: torch.dtype
    spread: float
    """Variance in each diffuse direction that is part of the proper law; see ``_spread``."""

    @classmethod
    def of(
        cls, chain: LinearChain, values: Tensor, mask: Tensor | None, lengths: Tensor | None
    ) -> _Problem:
        seen = _check(chain, values, mask, lengths)
        n, t, _ = values.shape
        every = torch.full((n,), t, device=values.device) if lengths is None else lengths
        given = values.double()
        if mask is not None or lengths is not None:
            inside = torch.arange(t, device=values.device) < every.unsqueeze(-1)
            seen = seen & inside.unsqueeze(-1)
            given = given.where(seen, 0)
        wide = LinearChain(*(x.double() for x in chain))
        spread = _spread(wide)
        wide = wide._replace(
            initial_covariance=_symmetric(wide.initial_covariance)
            + spread * wide.diffuse @ wide.diffuse.mT,
            noise=_symmetric(wide.noise),
            observation_noise=_symmetric(wide.observation_noise),
        )
        return cls(wide, given, seen, every, chain.transition.dtype, spread)

    @property
    def directions(self) -> int:
        """q"""
        return self.chain.diffuse.shape[-1]

    def centred(
        self, e: Tensor, rest: Tensor, estimate: Callable[[], Tensor], most: float
    ) -> _Centred | None:
        """The problem about the estimate of δ (N, q), if that is far from zero.

        ``rest`` is what the estimate leaves of the innovations e. Nothing is approximate: a flat
        prior of δ is the same from any origin, and so is the law of z_t from that of z_t - x_t, for
        any path x_t that is subtracted from all that it touches.
        """
        with torch.no_grad():
            whole, left = (x.detach().square().sum((1, 2)) for x in (e, rest))
            if not bool((whole > most * (left + 1)).any()):
                return None
            delta = estimate()
            c = self.chain
            first = c.initial_mean + delta @ c.diffuse.mT
            n, t, _ = self.values.shape
            shift = c.offset.expand(n, t - 1, -1).flip(1)
            path = backward_sweep(c.transition.flip(1), shift, first.expand(n, -1)).flip(1)
            if not bool(path.isfinite().all()):
                return None
        given = accurate(self.values, -c.loading, path)
        chain = c._replace(
            initial_mean=accurate(c.initial_mean - path[:, 0], c.diffuse, delta),
            offset=accurate(c.offset, c.transition, path[:, :-1], -path[:, 1:]),
        )
        values = given.where(self.mask, 0)
        return _Centred(replace(self, chain=chain, values=values), path)

    def layout(self, *, own_ends: bool, copies: int = 1) -> Layout:
        """Chains and rows, with one row a diffuse direction in each chain."""
        c = self.chain
        matrices = c.initial_covariance, c.transition, c.noise, c.loading, c.observation_noise
        alone = max(len(x) for x in matrices) > 1
        own = own_ends or bool(self.directions)
        return Layout.of(self.mask, self.lengths, alone, own, copies, self.directions)

    def system(self, layout: Layout, values: Tensor | None = None) -> System:
        """For rows with these values, all sequences' own by default."""
        c = self.chain
        values = self.values if values is None else values
        n, d = len(self.lengths), c.diffuse.shape[0]
        copies, chains = len(values) // n, len(layout.sequences)
        start = [c.initial_mean.expand(n, d)] * copies
        start += [c.diffuse.mT.unsqueeze(1).expand(-1, chains, -1).reshape(-1, d)]
        return System(
            torch.cat(start),
            c.initial_covariance.unsqueeze(1),
            *(c.transition, c.offset, c.noise, c.loading, c.intercept, c.observation_noise),
            values,
        )

    def of_directions(self, rows: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Rows apart: those of sequences, and those of diffuse directions as (q, G, …)."""
        chains = len(layout.sequences)
        count = len(rows) - chains * self.directions
        return rows[:count], rows[count:].reshape(self.directions, chains, *rows.shape[1:])

    def per_sequence(self, steps: Tensor, layout: Layout) -> Tensor:
        """(G, T, …) as (N, T, …) in the caller's precision; beyond the length as at the last step.

        Converted before it is expanded, so that sequences go on sharing memory.
        """
        steps = steps.to(self.dtype)
        n, t = self.mask.shape[:2]
        if len(steps) == 1 and int(self.lengths.min()) == t:
            return steps.expand(n, *steps.shape[1:])
        return self.held(steps[layout.chain_of])

    def held(self, steps: Tensor) -> Tensor:
        """(…, N, T, …) of sequences, with the last step's value beyond the length."""
        t = self.mask.shape[1]
        if int(self.lengths.min()) == t:
            return steps
        last = self.lengths.unsqueeze(-1) - 1
        place = torch.arange(t, device=steps.device).minimum(last)
        return steps[torch.arange(len(steps), device=steps.device).unsqueeze(-1), place]


class _Centred(NamedTuple):
    """A problem about a path of the states."""

    problem: _Problem
    path: Tensor
    """x (N, T, D)"""


def _symmetric(matrices: Tensor) -> Tensor:
    return (matrices + matrices.mT) / 2


def _spread(chain: LinearChain) -> float:
    """A variance on the scale of the other variances.

    A flat prior stays the same flat prior if any normal law in the same directions is added to it.
    So part of their variance may be moved to the proper law: observations without noise, which
    would otherwise determine δ alone, then need no special treatment.
    """
    if not chain.diffuse.shape[-1]:
        return 0.0
    matrices = chain.initial_covariance, chain.noise, chain.observation_noise
    with torch.no_grad():
        own = [float(x.diagonal(dim1=-2, dim2=-1).mean()) if x.numel() else 0.0 for x in matrices]
        seen = float(chain.loading.square().sum(-1).mean())
    total = own[0] + own[1] + (own[2] / seen if seen > 0 else 0.0)  # in units of the states
    return total if 0 < total < math.inf else 1.0


def _check(
    chain: LinearChain, values: Tensor, mask: Tensor | None, lengths: Tensor | None
) -> Tensor:
    """Raises ValueError if the arguments do not fit together; returns the mask."""
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"values must have shape (N, T, F), none 0; got {tuple(values.shape)}")
    n, t, f = values.shape
    size = chain.diffuse.shape[0] if chain.diffuse.ndim else 0
    q = chain.diffuse.shape[-1] if chain.diffuse.ndim > 1 else 0
    if size < 1:
        shape = tuple(chain.diffuse.shape)
        raise ValueError(f"diffuse must have shape (D, q), D >= 1; got {shape}")
    rows, moves, steps, d, features = (n, 1), (t - 1, 1), (t, 1), (size,), (f,)
    wider = values.dtype == torch.float64 and chain.transition.dtype == torch.float32
    tensors = {"values": values.float() if wider else values, **chain._asdict()}
    expected = {
        "values": ((n,), (t,), (f,)),
        "initial_mean": (rows, d),
        "initial_covariance": (rows, d, d),
        "diffuse": (d, (q,)),
        "transition": (rows, moves, d, d),
        "offset": (rows, moves, d),
        "noise": (rows, moves, d, d),
        "loading": (rows, steps, features, d),
        "intercept": (rows, steps, features),
        "observation_noise": (rows, steps, features, features),
    }
    _check_shapes(tensors, expected)
    if lengths is not None:
        check_lengths(lengths, n, t, values.device)
    if mask is None:
        mask = torch.ones(values.shape, dtype=torch.bool, device=values.device)
    if mask.shape != values.shape or mask.dtype != torch.bool or mask.device != values.device:
        raise ValueError(
            f"mask must be bool of shape {tuple(values.shape)} on {values.device}; "
            f"got {mask.dtype} of shape {tuple(mask.shape)} on {mask.device}"
        )
    for name, tensor in tensors.items():
        _check_finite(name, tensor, mask if name == "values" else None, lengths)
    for name in ("initial_covariance", "noise", "observation_noise"):
        _check_covariance(name, tensors[name])
    return mask


def _place(index: list[int], shape: tuple[int, ...]) -> str:
    """Says where in ``(N|1, T|1, …)`` an index points to."""
    words = [
        f"{what} {i}"
        for what, i, size in zip(("sequence", "step"), index, shape, strict=False)
        if size > 1
    ]
    return f" at {', '.join(words)}" if words else ""


def _check_finite(name: str, tensor: Tensor, mask: Tensor | None, lengths: Tensor | None) -> None:
    if math.isfinite(float(tensor.detach().sum())):  # no infinity or NaN goes into a finite sum
        return
    bad = ~torch.isfinite(tensor)
    if mask is not None:
        bad = bad & mask
        if lengths is not None:
            steps = torch.arange(tensor.shape[1], device=tensor.device)
            bad = bad & (steps < lengths.unsqueeze(-1)).unsqueeze(-1)
    if bool(bad.any()):
        index = bad.nonzero()[0].tolist()
        value = float(tensor[tuple(index)])
        where = _place(index[:2], tuple(tensor.shape)) if name != "diffuse" else ""
        what = " where the mask is true" if mask is not None else ""
        raise ValueError(f"{name} must be finite{what}; got {value}{where}")


def _check_covariance(name: str, matrices: Tensor) -> None:
    """Raises ValueError unless matrices are symmetric positive semidefinite, up to rounding."""
    if not matrices.numel():
        return
    tolerance = 1e3 * torch.finfo(matrices.dtype).eps
    flat = matrices.detach().double().reshape(-1, *matrices.shape[-2:])
    place = _recursions(matrices).first_indefinite(flat, tolerance)
    if place >= 0:
        leading = matrices.shape[:-2]
        index = [place // math.prod(leading[1:]), place % math.prod(leading[1:])]
        raise ValueError(
            f"{name} must be symmetric and positive semidefinite; "
            f"got {flat[place].tolist()}{_place(index, tuple(leading))}"
        )


# --- evidence -------------------------------------------------------------------------------------


def _whitened(
    problem: _Problem, *, own_ends: bool = False
) -> tuple[Layout, Tensor, Tensor, Tensor]:
    """Layout, innovations e (N, T, F), those of the directions E (q, G, T, F), log det S (G, T)."""
    layout = problem.layout(own_ends=own_ends)
    system = problem.system(layout)
    rows, log_determinants = _recursions(system.values).whiten(system, layout)
    return layout, *problem.of_directions(rows, layout), log_determinants


def _increments(problem: _Problem, layout: Layout, e: Tensor, log_determinants: Tensor) -> Tensor:
    """log p(y_t | y_{1:t-1}, δ = 0) (N, T)."""
    observed = problem.mask.sum(-1).double()
    inside = observed > 0
    own = log_determinants[layout.chain_of].where(inside, 0)
    return -0.5 * (e.square().sum(-1) + own + observed * LOG_2PI)


def _require_finite(result: Tensor) -> Tensor:
    if math.isfinite(float(result.detach().sum())):
        return result
    bad = ~torch.isfinite(result)
    if bool(bad.any()):
        n = int(bad.nonzero()[0][0])
        raise ValueError(
            f"transition, values or covariances too large: the recursion of sequence {n} overflowed"
        )
    return result


def log_evidence(
    chain: LinearChain, values: Tensor, mask: Tensor | None = None, lengths: Tensor | None = None
) -> Tensor:
    """Log evidence log p(y_{1:T}), with the states integrated out.

    log p = -½ Σ (e² + log F + log 2π) over the observed elements, with whitened innovations e and
    their variances F. A diffuse initial law adds ½ s' S⁻¹ s - ½ log det S, where S is the precision
    and s the weighted sum of what the data say about δ.

    Args:
        chain: the matrices.
        values: ``(N, T, F)``, in any units; the density is per unit of them.
        mask: ``(N, T, F)`` bool, true where observed; None: everywhere.
        lengths: ``(N,)`` int64, 1 <= length <= T; None: every sequence has T steps.

    Returns:
        Nats, ``(N,)``, 0 for a sequence of which nothing was observed. Differentiable (first order,
        analytic) in ``values`` and everything in
        ``chain``. Memory is of order N T (D + F); gains of long sequences are computed twice rather
        than kept.

    Raises:
        ValueError: shapes, precisions or lengths that do not fit; a matrix that is no covariance;
            an observed element without variance; data that do not determine a diffuse initial law.

    Source: Schweppe (1965); de Jong (1991) for the diffuse law.

    >>> import torch
    >>> from beliefzoo.inference.exact import gaussian
    >>> one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1)
    >>> fixed = zero[0], one[0], torch.zeros(1, 0), one, zero  # z_1 ~ N(0, 1), A = 1, b = 0
    >>> walk = gaussian.LinearChain(*fixed, one, one, zero, one)
    >>> values = torch.tensor([[[1.0], [2.0]]])
    >>> round(gaussian.log_evidence(walk, values).item(), 4)
    -3.3426
    >>> y = torch.distributions.MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 1], [1, 3]]))
    >>> round(y.log_prob(values[0, :, 0]).item(), 4)
    -3.3426
    """
    problem = _Problem.of(chain, values, mask, lengths)
    return _require_finite(_log_evidence(problem, FAR)).to(problem.dtype)


def _log_evidence(problem: _Problem, most: float) -> Tensor:
    layout, e, further, log_determinants = _whitened(problem)
    if not problem.directions:
        return _increments(problem, layout, e, log_determinants).sum(-1)
    found, chain_of = Directions.of(further, layout, blank=blank_chains(layout)), layout.chain_of
    rest = found.residual(e, chain_of)
    centred = problem.centred(e, rest, lambda: found.estimate(e, chain_of), most)
    if centred is not None:
        return _log_evidence(centred.problem, math.inf)
    total = _increments(problem, layout, rest, log_determinants).sum(-1)
    return total - found.log_root(chain_of)


# --- step by step ---------------------------------------------------------------------------------


def step_log_likelihood(
    chain: LinearChain, values: Tensor, mask: Tensor | None = None, lengths: Tensor | None = None
) -> Tensor:
    """Log density of each step given the past, log p(y_t | y_{1:t-1}).

    A step that determines a direction of a diffuse law has a density with respect to that flat
    law, -½ log 2π - ½ log F∞ in the notation of Koopman (1997).

    Args:
        chain, values, mask, lengths: as of :func:`log_evidence`.

    Returns:
        Nats, ``(N, T)``, 0 where nothing was observed. The sum over steps is the log evidence.
        Differentiable as :func:`log_evidence` is.

    Raises:
        ValueError: as :func:`log_evidence`.

    >>> import torch
    >>> from beliefzoo.inference.exact import gaussian
    >>> one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1)
    >>> law = zero[0], one[0], torch.zeros(1, 0), one, zero, one  # a random walk from N(0, 1)
    >>> walk = gaussian.LinearChain(*law, one, zero, one)
    >>> values = torch.tensor([[[1.0], [5.0]]])
    >>> gaussian.step_log_likelihood(walk, values).numpy().round(4)[0]
    array([-1.5155, -5.4271], dtype=float32)
    """
    problem = _Problem.of(chain, values, mask, lengths)
    layout, e, further, log_determinants = _whitened(problem)
    if not problem.directions:
        steps = _increments(problem, layout, e, log_determinants)
        return _require_finite(steps).to(problem.dtype)
    # Refuses data that do not determine δ.
    Directions.of(further.detach(), layout, blank=blank_chains(layout))
    learning = Learning.of(further, e, layout.chain_of, problem.spread)
    centred = _far(problem, layout, e, further, learning)
    if centred is not None:
        problem = centred.problem
        layout, e, further, log_determinants = _whitened(problem)
        learning = Learning.of(further, e, layout.chain_of, problem.spread)
    steps = _increments(problem, layout, e, log_determinants)
    steps = steps + learning.log_evidence().diff(dim=1)
    return _require_finite(steps).to(problem.dtype)


def _far(
    problem: _Problem, layout: Layout, e: Tensor, further: Tensor, learning: Learning
) -> _Centred | None:
    """The problem about where the data lie, if that is far from where they are expected."""
    with torch.no_grad():
        delta = learning.last()
        moved = torch.einsum("qvtf,vq->vtf", further[:, layout.chain_of], delta)
    return problem.centred(e, e.detach() + moved, lambda: delta, STEPS_FAR)


def standardised_innovations(
    chain: LinearChain, values: Tensor, mask: Tensor | None = None, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Standardised one-step prediction errors, (y - E[y | past]) / sd(y | past).

    They are independent N(0, 1) under the model. The past of an element includes the features
    before it at the same step.

    Args:
        chain, values, mask, lengths: as of :func:`log_evidence`.

    Returns:
        Innovations ``(N, T, F)``, and a bool tensor of the same shape that is true where there is
        one. There is none (and the value is 0) where nothing was observed and where an element
        determines a direction of a diffuse law, which cannot be predicted. Differentiable as
        :func:`log_evidence` is.

    Raises:
        ValueError: as :func:`log_evidence`.

    >>> import torch
    >>> from beliefzoo.inference.exact import gaussian
    >>> one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1)
    >>> law = zero[0], zero, one[0, 0], one, zero, one  # a random walk from a flat prior
    >>> walk = gaussian.LinearChain(*law, one, zero, one)
    >>> values = torch.tensor([[[3.0], [4.0], [2.0]]])
    >>> found, known = gaussian.standardised_innovations(walk, values)
    >>> known[0, :, 0].tolist(), found[0, :, 0].numpy().round(4)  # the first value sets the level
    ([False, True, True], array([ 0.    ,  0.5774, -1.0206], dtype=float32))
    """
    problem = _Problem.of(chain, values, mask, lengths)
    layout, e, further, _ = _whitened(problem)
    if not problem.directions:
        return _require_finite(e).to(problem.dtype), problem.mask
    learning = Learning.of(further, e, layout.chain_of, problem.spread)
    centred = _far(problem, layout, e, further, learning)
    if centred is not None:
        problem = centred.problem
        layout, e, further, _ = _whitened(problem)
    flat, columns = e.flatten(1).unsqueeze(-1), further.flatten(2).unsqueeze(-1)
    learning = Learning.of(columns, flat, layout.chain_of, problem.spread).at(slice(0, -1))
    moved = columns.permute(1, 2, 3, 0)  # (G, T F, 1, q)
    variance, free = learning.spread_of(moved)
    deviation = (moved.squeeze(-2)[layout.chain_of] * learning.estimate()).sum(-1)
    scale = (1 + variance.flatten(1)).sqrt()[layout.chain_of]
    known = (problem.spread * free.flatten(1) < NEGLIGIBLE)[layout.chain_of]
    known = known.reshape(problem.mask.shape) & problem.mask
    innovations = ((flat.squeeze(-1) + deviation) / scale).reshape(e.shape).where(known, 0)
    return _require_finite(innovations).to(problem.dtype), known


# --- filter and smoother --------------------------------------------------------------------------


@torch.no_grad()
def filter(
    chain: LinearChain, values: Tensor, mask: Tensor | None = None, lengths: Tensor | None = None
) -> Filtered:
    """Kalman filter: means and covariances of p(z_t | y_{1:t}) and p(z_t | y_{1:t-1}).

    Args:
        chain, values, mask, lengths: as of :func:`log_evidence`.

    Returns:
        :class:`Filtered`. Beyond a sequence's length the last belief is repeated, so that
        ``means[:, -1]`` is the final one. As long as the data do not determine a diffuse law, a
        state that depends on it has variance ``inf``, covariance 0 with the others, and some
        finite mean. Sequences with equal covariances may share their memory.

    Raises:
        ValueError: as :func:`log_evidence`, except that the data need not determine a diffuse law.

    >>> import torch
    >>> from beliefzoo.inference.exact import gaussian
    >>> one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1)
    >>> law = zero[0], one[0], torch.zeros(1, 0), one, zero, one  # a random walk from N(0, 1)
    >>> walk = gaussian.LinearChain(*law, one, zero, one)
    >>> found = gaussian.filter(walk, torch.tensor([[[1.0], [2.0]]]))
    >>> found.means[0, :, 0].numpy().round(4), found.covariances[0, :, 0, 0].numpy().round(4)
    (array([0.5, 1.4], dtype=float32), array([0.5, 0.6], dtype=float32))
    """
    problem = _Problem.of(chain, values, mask, lengths)
    return _filter(problem, None)


def _filter(problem: _Problem, path: Tensor | None) -> Filtered:
    """``path``: what was subtracted from the states."""
    layout = problem.layout(own_ends=False)
    system = problem.system(layout)
    told = _recursions(system.values).states(system, layout)
    predicted = told.predicted_means, told.predicted_covariances
    filtered = told.means, told.covariances
    if not problem.directions:
        pairs = [filtered, predicted]
    else:
        e, further = problem.of_directions(told.innovations, layout)
        learning = Learning.of(further, e, layout.chain_of, problem.spread)
        centred = None if path is not None else _far(problem, layout, e, further, learning)
        if centred is not None:
            return _filter(*centred)
        scales = told.predicted_covariances.diagonal(dim1=-2, dim2=-1)
        laws = (filtered, slice(1, None)), (predicted, slice(0, -1))
        pairs = [
            _with_directions(problem, layout, *law, learning.at(steps), scales)
            for law, steps in laws
        ]
    found = []
    for means, covariances in pairs:
        means = means if path is None else means + path
        found.append(problem.held(_require_finite(means)).to(problem.dtype))
        found.append(problem.per_sequence(covariances, layout))
    return Filtered(*found)


def _with_directions(
    problem: _Problem,
    layout: Layout,
    rows: Tensor,
    covariances: Tensor,
    learning: Learning,
    scales: Tensor,
) -> tuple[Tensor, Tensor]:
    """Means (N, T, D) and covariances (G, T, D, D) with δ integrated out, as far as it is known."""
    means, moved = problem.of_directions(rows, layout)
    across = moved.permute(1, 2, 3, 0)  # (G, T, D, q)
    means = means + torch.einsum("ntdq,ntq->ntd", across[layout.chain_of], learning.estimate())
    added, free = learning.spread_of(across)
    unknown = problem.spread * free > NEGLIGIBLE * scales
    return means, _unknown(_symmetric(covariances + added), unknown)


def _unknown(covariances: Tensor, unknown: Tensor) -> Tensor:
    """Covariances (…, D, D) with variance ``inf`` and covariance 0 of what is unknown, (…, D)."""
    covariances = covariances.masked_fill(unknown.unsqueeze(-1) | unknown.unsqueeze(-2), 0)
    nothing = torch.zeros_like(covariances.diagonal(dim1=-2, dim2=-1))
    return covariances + torch.diag_embed(nothing.masked_fill(unknown, math.inf))


@torch.no_grad()
def smooth(
    chain: LinearChain,
    values: Tensor,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    pairs: bool = False,
) -> Smoothed:
    """Kalman smoother: means and covariances of p(z_t | y_{1:T}).

    Args:
        chain, values, mask, lengths: as of :func:`log_evidence`.
        pairs: also compute Cov(z_t, z_{t+1} | y_{1:T}).

    Returns:
        :class:`Smoothed`. Beyond a sequence's length the last marginal is repeated, and
        cross-covariances are zero. What a diffuse law says of a sequence of which nothing was
        observed has variance ``inf``, as in :func:`filter`. Sequences with equal covariances may
        share their memory.

    Raises:
        ValueError: as :func:`log_evidence`.

    Source: Rauch, Tung & Striebel (1965), on roots of the covariances (Park & Kailath 1996).

    >>> import torch
    >>> from beliefzoo.inference.exact import gaussian
    >>> one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1)
    >>> law = zero[0], one[0], torch.zeros(1, 0), one, zero, one  # a random walk from N(0, 1)
    >>> walk = gaussian.LinearChain(*law, one, zero, one)
    >>> found = gaussian.smooth(walk, torch.tensor([[[1.0], [2.0]]]), pairs=True)
    >>> found.means[0, :, 0].numpy().round(4), round(found.cross_covariances.item(), 4)
    (array([0.8, 1.4], dtype=float32), 0.2)
    """
    problem = _Problem.of(chain, values, mask, lengths)
    return _smooth(problem, pairs, None)


def _smooth(problem: _Problem, pairs: bool, path: Tensor | None) -> Smoothed:
    """``path``: what was subtracted from the states."""
    layout = problem.layout(own_ends=True)
    system = problem.system(layout)
    rows, covariances, crossed, e = _recursions(system.values).smooth(system, layout, pairs)
    means, chain_of, unknown = rows, layout.chain_of, None
    if problem.directions:
        (means, moved), (e, further) = (problem.of_directions(x, layout) for x in (rows, e))
        blank = blank_chains(layout)
        found = Directions.of(further, layout, blank=blank)
        estimate = found.estimate(e, chain_of)
        rest = found.residual(e, chain_of)
        most = FAR if path is None else math.inf
        centred = problem.centred(e, rest, lambda: estimate, most)
        if centred is not None:
            return _smooth(centred.problem, pairs, centred.path)
        across = moved.permute(1, 2, 3, 0)
        means = means + torch.einsum("ntdq,nq->ntd", across[chain_of], estimate)
        roots = found.roots(across)
        covariances = _symmetric(covariances + roots @ roots.mT)
        unknown = (across != 0).any(-1) & blank[:, None, None]
        if crossed is not None:
            crossed = crossed + roots[:, :-1] @ roots[:, 1:].mT
            apart = unknown[:, :-1].unsqueeze(-1) | unknown[:, 1:].unsqueeze(-2)
            crossed = crossed.masked_fill(apart, 0)
    means = means if path is None else means + path
    means = problem.held(_require_finite(means)).to(problem.dtype)
    covariances = _require_finite(covariances)
    covariances = covariances if unknown is None else _unknown(covariances, unknown)
    covariances = problem.per_sequence(covariances, layout)
    cross = None
    if crossed is not None:
        steps = torch.arange(1, problem.values.shape[1], device=means.device)
        inside = steps < problem.lengths.unsqueeze(-1)
        cross = crossed[chain_of].where(inside[..., None, None], 0).to(problem.dtype)
    return Smoothed(means, covariances, cross)


@torch.no_grad()
def sample_paths(
    chain: LinearChain,
    values: Tensor,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    n: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Independent draws of paths from the posterior p(z_{1:T} | y_{1:T}).

    A path and observations are simulated from the model; the path is then moved by the smoothed
    mean given the difference between the actual and the simulated observations. All draws share
    the gains, and singular covariances do no harm.

    Args:
        chain, values, mask, lengths: as of :func:`log_evidence`.
        n: number of draws.
        generator: source of random numbers; None: torch's global one.

    Returns:
        ``(n, N, T, D)``, 0 beyond the length.

    Raises:
        ValueError: as :func:`log_evidence`.

    Source: Durbin & Koopman (2002).

    >>> import torch
    >>> from beliefzoo.inference.exact import gaussian
    >>> one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1)
    >>> law = zero[0], one[0], torch.zeros(1, 0), one, zero, one  # a random walk from N(0, 1)
    >>> walk = gaussian.LinearChain(*law, one, zero, one)
    >>> values, generator = torch.tensor([[[1.0], [2.0]]]), torch.Generator().manual_seed(0)
    >>> paths = gaussian.sample_paths(walk, values, n=20_000, generator=generator)
    >>> exact = gaussian.smooth(walk, values)
    >>> bool(torch.allclose(paths.mean(0), exact.means, atol=0.02))
    True
    >>> bool(torch.allclose(paths.var(0)[..., None], exact.covariances, atol=0.02))
    True
    """
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be a whole number >= 1; got {n!r}")
    problem = _Problem.of(chain, values, mask, lengths)
    problem, path = _where_data_lie(problem)
    layout = problem.layout(own_ends=True, copies=n)
    paths, simulated = _simulate(problem, n, generator)
    differences = (problem.values - simulated).where(problem.mask, 0).flatten(0, 1)
    system = problem.system(layout, differences)
    means, _, _, e = _recursions(system.values).smooth(system, layout, False)
    if problem.directions:
        (means, moved), (e, further) = (problem.of_directions(x, layout) for x in (means, e))
        own = layout.row_chains[: len(e)]
        estimate = Directions.of(further, layout).estimate(e, own)
        means = means + torch.einsum("qvtd,vq->vtd", moved[:, own], estimate)
    _, t, _ = values.shape
    inside = torch.arange(t, device=values.device) < problem.lengths.unsqueeze(-1)
    draws = (means.reshape(paths.shape) + paths + path).where(inside.unsqueeze(-1), 0)
    return _require_finite(draws.flatten(0, 1)).reshape(draws.shape).to(problem.dtype)


def _where_data_lie(problem: _Problem) -> tuple[_Problem, Tensor]:
    """The problem about a path of the states, which is zero unless the data lie far off."""
    nothing = _Centred(problem, problem.values.new_zeros(()))
    if not problem.directions:
        return nothing
    layout, e, further, _ = _whitened(problem, own_ends=True)
    found, chain_of = Directions.of(further, layout), layout.chain_of
    rest = found.residual(e, chain_of)
    return problem.centred(e, rest, lambda: found.estimate(e, chain_of), FAR) or nothing


def _simulate(
    problem: _Problem, n: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Paths (n, N, T, D) and observations (n, N, T, F) of the chain with all means at zero."""
    c = problem.chain
    count, t, features = problem.values.shape
    size = c.diffuse.shape[0]
    factors = _recursions(problem.values).semidefinite_factor

    def draw(covariance: Tensor, *shape: int) -> Tensor:
        normal = torch.randn(
            *shape, generator=generator, dtype=torch.float64, device=covariance.device
        )
        return (factors(covariance) @ normal.unsqueeze(-1)).squeeze(-1)

    first = draw(c.initial_covariance, n, count, size)
    moves = draw(c.noise, n, count, t - 1, size)
    # A forward recursion is a backward one in reversed time.
    paths = backward_sweep(c.transition.flip(1), moves.flip(2), first).flip(2)
    noise = draw(c.observation_noise, n, count, t, features)
    return paths, (c.loading @ paths.unsqueeze(-1)).squeeze(-1) + noise


@torch.no_grad()
def predict(
    mean: Tensor,
    covariance: Tensor,
    transition: Tensor,
    offset: Tensor,
    noise: Tensor,
    *,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Predictive means and covariances of the states to come, p(z_{T+h} | y_{1:T}), h = 1 … H.

    Args:
        mean: of the final belief, ``(N, D)``.
        covariance: of the final belief, ``(N, D, D)``, finite.
        transition: A of the H steps to come, ``(N|1, H|1, D, D)``.
        offset: b ``(N|1, H|1, D)``.
        noise: Q ``(N|1, H|1, D, D)``.
        steps: H.

    Returns:
        Means ``(N, H, D)`` and covariances ``(N, H, D, D)``.

    Raises:
        ValueError: an argument that does not fit, is not finite, or is no covariance.

    >>> import torch
    >>> from beliefzoo.inference.exact import gaussian
    >>> one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1)
    >>> mean, covariance = torch.tensor([[1.0]]), torch.tensor([[[0.5]]])
    >>> means, variances = gaussian.predict(mean, covariance, 0.5 * one, zero, one, steps=3)
    >>> means.flatten().tolist(), variances.flatten().numpy().round(4)
    ([0.5, 0.25, 0.125], array([1.125 , 1.2812, 1.3203], dtype=float32))
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number >= 1; got {steps!r}")
    if mean.ndim != 2:
        raise ValueError(f"mean must have shape (N, D); got {tuple(mean.shape)}")
    n, size = mean.shape
    rows, moves, d = (n, 1), (steps, 1), (size,)
    tensors = {"mean": mean, "covariance": covariance, "transition": transition}
    tensors |= {"offset": offset, "noise": noise}
    expected = {"mean": ((n,), d), "covariance": ((n,), d, d), "transition": (rows, moves, d, d)}
    expected |= {"offset": (rows, moves, d), "noise": (rows, moves, d, d)}
    _check_shapes(tensors, expected)
    for name, tensor in tensors.items():
        _check_finite(name, tensor, None, None)
    for name in ("covariance", "noise"):
        _check_covariance(name, tensors[name])
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    shift = wide["offset"].expand(n, steps, size).flip(1)
    gain = wide["transition"].flip(1)
    added = wide["noise"].expand(-1, steps, -1, -1).flip(1)
    means = backward_sweep(gain, shift, wide["mean"])
    covariances = backward_covariances(gain, added, wide["covariance"])
    found = (x.flip(1)[:, 1:] for x in (means, covariances))
    ahead, around = (_require_finite(x).to(mean.dtype) for x in found)
    return ahead, around


# --- linear sweeps: what the posteriors of Gaussian guides are made of ----------------------------


class _SweepBack(torch.autograd.Function):
    """μ_1 = g_1, μ_{t+1} = g_{t+1} + G_t' μ_t is the gradient of the shift, μ_T of the last."""

    @staticmethod
    def forward(
        ctx: Any, gain: Tensor, shift: Tensor, last: Tensor, lengths: Tensor | None
    ) -> Tensor:
        gain = gain.contiguous()
        paths = _recursions(gain).sweep_back(gain, shift.contiguous(), last, lengths)
        ctx.save_for_backward(gain, paths, lengths)
        return paths

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gain, paths, lengths = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0]
        given = gain, paths, lengths, upstream.contiguous(), wanted
        adjoint, to_gain = _recursions(gain).sweep_back_gradient(*given)
        shift, last = _without_last(adjoint, lengths, 1)
        return to_gain if wanted else None, shift, last, None


def _without_last(adjoint: Tensor, lengths: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
    """The adjoints of the steps that have one after them, zero elsewhere, and of the last ones.

    ``n`` is the axis of the sequences, with the time behind it.
    """
    steps = adjoint.shape[n + 1]
    if lengths is None:
        return adjoint.narrow(n + 1, 0, steps - 1).clone(), adjoint.select(n + 1, steps - 1).clone()
    sequences = torch.arange(len(lengths), device=adjoint.device)
    adjoint = adjoint.clone()
    by_sequence = adjoint.movedim((n, n + 1), (0, 1))
    last = by_sequence[sequences, lengths - 1]
    by_sequence[sequences, lengths - 1] = 0
    return adjoint.narrow(n + 1, 0, steps - 1), last.movedim(0, n)


def backward_sweep(
    gain: Tensor, shift: Tensor, last: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """Affine recursion back in time: x_T = last, x_t = G_t x_{t+1} + c_t.

    With c_t = c⁰_t + L_t ε_t the result is a draw from the law with backward kernels
    p(x_t | x_{t+1}) = N(G_t x_{t+1} + c⁰_t, L_t L_t'), without the noise the mean of that law.

    Args:
        gain: G ``(N|1, T-1|1, D, D)``; an axis of size 1 is shared.
        shift: c ``(*S, N, T-1, D)``, with any leading axes, of draws for instance.
        last: ``(*S, N, D)``, at the last step of every sequence.
        lengths: ``(N,)`` int64, 1 <= length <= T; None: every sequence has T steps. Gains and
            shifts from a sequence's last step on are ignored.

    Returns:
        x ``(*S, N, T, D)``, in the units of the arguments, zero beyond the length. Differentiable
        (first order, analytic) in all three tensors.

    Raises:
        ValueError: shapes, precisions, devices or lengths that do not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import gaussian
    >>> gain, shift = torch.full((1, 1, 1, 1), 0.5), torch.ones(1, 3, 1)
    >>> gaussian.backward_sweep(gain, shift, torch.tensor([[8.0]])).flatten().tolist()
    [2.75, 3.5, 5.0, 8.0]
    """
    if shift.ndim < 3:
        raise ValueError(f"shift must have shape (..., N, T-1, D); got {tuple(shift.shape)}")
    *draws, n, before, size = shift.shape
    rows, d = (n,), (size,)
    _check_shapes(
        {"shift": shift, "gain": gain, "last": last},
        {
            "shift": tuple((s,) for s in shift.shape),
            "gain": ((n, 1), (before, 1), d, d),
            "last": (*((s,) for s in draws), rows, d),
        },
    )
    if lengths is not None:
        check_lengths(lengths, n, before + 1, shift.device)
    count = math.prod(draws)
    flat = shift.reshape(count, n, before, size), last.reshape(count, n, size)
    paths = cast(Tensor, _SweepBack.apply(gain, *flat, lengths))  # type: ignore[no-untyped-call]
    return paths.reshape(*draws, n, before + 1, size)


class _SweepCovariances(torch.autograd.Function):
    """B_1 = g_1, B_{t+1} = g_{t+1} + G_t' B_t G_t is the gradient of the noise, B_T of the last."""

    @staticmethod
    def forward(
        ctx: Any, gain: Tensor, noise: Tensor, last: Tensor, lengths: Tensor | None, n: int
    ) -> Tensor:
        gain = gain.contiguous()
        wide = last.expand(n, -1, -1)
        covariances = _recursions(gain).sweep_covariances(gain, noise.contiguous(), wide, lengths)
        ctx.save_for_backward(gain, covariances, lengths)
        ctx.sizes = noise.shape, last.shape
        return covariances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gain, covariances, lengths = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0]
        given = gain, covariances, lengths, upstream.contiguous(), wanted
        adjoint, to_gain = _recursions(gain).sweep_covariances_gradient(*given)
        noise, last = _without_last(adjoint, lengths, 0)
        to_noise, to_last = ctx.sizes
        sums = noise.sum_to_size(to_noise), last.sum_to_size(to_last)
        return to_gain if wanted else None, *sums, None, None


def backward_covariances(
    gain: Tensor, noise: Tensor, last: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """Covariance recursion back in time: S_T = last, S_t = G_t S_{t+1} G_t' + W_t.

    These are the covariances of the law with backward kernels
    p(x_t | x_{t+1}) = N(G_t x_{t+1} + c_t, W_t). Neighbours in time have
    Cov(x_t, x_{t+1}) = G_t S_{t+1}.

    Args:
        gain: G ``(N|1, T-1|1, D, D)``; an axis of size 1 is shared.
        noise: W ``(N|1, T-1, D, D)``.
        last: ``(N|1, D, D)``, at the last step of every sequence.
        lengths: ``(N,)`` int64, 1 <= length <= T; None: every sequence has T steps.

    Returns:
        S ``(N, T, D, D)``, zero beyond the length; N is 1 if all arguments are shared.
        Differentiable (first order, analytic) in all three tensors, none of which has to be
        symmetric for that.

    Raises:
        ValueError: shapes, precisions, devices or lengths that do not fit.

    >>> import torch
    >>> from beliefzoo.inference.exact import gaussian
    >>> gain, noise = torch.full((1, 1, 1, 1), 0.5), torch.ones(1, 3, 1, 1)
    >>> gaussian.backward_covariances(gain, noise, torch.tensor([[[4.0]]])).flatten().tolist()
    [1.375, 1.5, 2.0, 4.0]
    """
    if noise.ndim != 4:
        raise ValueError(f"noise must have shape (N|1, T-1, D, D); got {tuple(noise.shape)}")
    _, before, size, _ = noise.shape
    sizes = [len(x) for x in (gain, noise, last) if x.ndim]
    n = max(sizes) if lengths is None else len(lengths)
    rows, d = (n, 1), (size,)
    _check_shapes(
        {"noise": noise, "gain": gain, "last": last},
        {"noise": (rows, (before,), d, d), "gain": (rows, (before, 1), d, d), "last": (rows, d, d)},
    )
    if lengths is not None:
        check_lengths(lengths, n, before + 1, noise.device)
    arguments = gain, noise, last, lengths, n
    return cast(Tensor, _SweepCovariances.apply(*arguments))  # type: ignore[no-untyped-call]
