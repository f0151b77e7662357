"""Linear stochastic differential equations, observed at irregular times: exact discretisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import pyro.distributions as dist
import torch
from torch import Tensor

from ..checks import require, require_count, require_finite, require_positive
from ..data.requirements import require_times
from ..data.sequences import Sequences
from ..emissions.emission import Parameters, Priors, per_feature
from .dynamics import (
    Dynamics,
    Moves,
    covariance,
    covariance_dims,
    covariance_priors,
    first_law,
    initial_priors,
    log_normal,
    no_directions,
    place_of,
    positive,
    require_initial,
    split_covariance,
)

_SMALL = 0.5
"""Norm of a drift times a gap up to which its exponential is summed directly."""


class Gaps(NamedTuple):
    """The distinct gaps between times, and which of them lies before each later step."""

    distinct: Tensor
    """(U,) float64."""
    place: Tensor
    """(N|1, T-1|1) positions in ``distinct``; axes along which all agree have size 1."""

    def along(self, table: Tensor) -> Tensor:
        """Entries (U, …) for every step, (N|1, T-1|1, …)."""
        return table[self.place]


def gaps(data: Sequences) -> Gaps:
    """The gaps of the data; in the padding, and where there is no step, an arbitrary one."""
    assert data.times is not None  # checked with the data
    gap = data.times.diff(dim=1)
    inside = data.step_mask[:, 1:]
    if not bool(inside.any()):
        return Gaps(torch.ones(1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.int64))
    gap = torch.where(inside, gap, gap[inside][0])
    distinct, index = gap.unique(return_inverse=True)
    if bool((index == index[:1]).all()):
        index = index[:1]
    if bool((index == index[:, :1]).all()):
        index = index[:, :1]
    return Gaps(distinct, index)


def typical_gap(data: Sequences) -> float:
    """The median of the distinct gaps, 1 without times."""
    return 1.0 if data.times is None else float(gaps(data).distinct.median())


def discretised(
    drift: Tensor, constant: Tensor, diffusion: Tensor, gap: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Discretise dz = (F z + f) dt + L dW exactly over gaps (U,); differentiable.

    .. math::
        A = e^{F\Delta}, \quad b = \int_0^\Delta e^{Fs} f\, ds, \quad
        Q = \int_0^\Delta e^{Fs} L L' e^{F's}\, ds

    A gap is halved until its exponential is near the identity, where all three come from one block
    matrix exponential (Van Loan 1978), and then doubled by A ← A A, b ← b + A b, Q ← Q + A Q A'.
    Van Loan's formula alone also exponentiates −F, which overflows for long gaps and fast decay.

    Args:
        drift: F, (D, D), of any rank.
        constant: f, (D,).
        diffusion: L L', (D, D).
        gap: Δ > 0, float64.

    Returns:
        A (U, D, D), b (U, D) and Q (U, D, D), float64.
    """
    f, c, s = (part.double() for part in (drift, constant, diffusion))
    size = f.shape[-1]
    norm = float(torch.linalg.matrix_norm(f.detach(), 1))
    halvings = (gap * norm / _SMALL).clamp_min(1).log2().ceil().long()
    step = gap / 2.0**halvings
    block = f.new_zeros(2 * size + 1, 2 * size + 1)
    block = _placed(block, -f, 0, 0)
    block = _placed(block, s, 0, size)
    block = _placed(block, f.mT, size, size)
    # One more row: the transposed augmented matrix [F f; 0 0]' shares the block of F'.
    block = _placed(block, c[None], 2 * size, size)
    power = torch.matrix_exp(block * step[:, None, None])
    a = power[:, size : 2 * size, size : 2 * size].mT
    b = power[:, 2 * size, size : 2 * size]
    q = a @ power[:, :size, size : 2 * size]
    q = 0.5 * (q + q.mT)
    for done in range(int(halvings.max())):
        more = (halvings > done)[:, None, None]
        b = torch.where(more[..., 0], b + (a @ b.unsqueeze(-1)).squeeze(-1), b)
        q = torch.where(more, q + a @ q @ a.mT, q)
        a = torch.where(more, a @ a, a)
    return a, b, q


def _placed(block: Tensor, part: Tensor, row: int, column: int) -> Tensor:
    rows, columns = part.shape
    right = block.shape[1] - column - columns
    below = block.shape[0] - row - rows
    return block + torch.nn.functional.pad(part, (column, right, row, below))


@dataclass(frozen=True)
class LinearSDE(Dynamics):
    r"""A state of D numbers that follows a linear stochastic differential equation.

    .. math:: dz = (F z + f)\, dt + L\, dW

    The state is observed at ``data.times``. Parameters: ``drift`` F (to, from), per unit of time;
    ``drift_offset`` f, with ``offset=True``; ``diffusion_variance``, the diagonal of L L', and with
    ``correlated=True`` ``diffusion_correlation_factor``. Known values of L L' may be given as
    ``diffusion_covariance``. F may be singular; F = 0 is a random walk in continuous time.

    Args:
        states: number of state components D.
        correlated: L L' is full; otherwise diagonal.
        initial: state at the first time of a sequence, as for ``LinearDynamics``; ``"stationary"``
            needs eigenvalues of F with negative real parts.
        offset: whether there is a constant f.
        time_scale: the time in which the state moves by its own size, about which the priors of F,
            f and L L' lie; ``scaled_to(data)`` sets it to the typical gap.

    Raises:
        ValueError: a setting out of range; missing times or times that do not increase.

    Source: for the discretisation, Van Loan (1978), IEEE Trans. Automatic Control 23.

    >>> from beliefzoo.models import LinearGaussianSSM, Sequences
    >>> model = LinearGaussianSSM(LinearSDE(1)).with_parameters(
    ...     drift=[[-1]], diffusion_variance=[2], initial_mean=[0], initial_variance=[1],
    ...     loading=[[1]], intercept=0, observation_variance=0.1,
    ... )
    >>> data = Sequences.from_arrays([[0.0, 0.0, 0.0]], times=[[0.0, 0.5, 2.5]])
    >>> laws = model.laws({}, data)
    >>> laws.transition.flatten()  # e^-0.5, e^-2
    tensor([0.6065, 0.1353], dtype=torch.float64)
    >>> laws.noise.flatten()  # 1 - e^-1, 1 - e^-4
    tensor([0.6321, 0.9817], dtype=torch.float64)
    """

    states: int
    correlated: bool = False
    initial: str = "free"
    offset: bool = False
    time_scale: float = 1.0

    inputs = 0

    def __post_init__(self) -> None:
        require_count(self.states, "states")
        require_initial(self.initial)
        require_positive(self.time_scale, "time_scale")

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(str(number) for number in range(self.states))

    @property
    def timed(self) -> bool:
        return True

    @property
    def levelled(self) -> bool:
        return self.offset

    def priors(self) -> Priors:
        size, length = self.states, self.time_scale
        out: Priors = {
            "drift": dist.Normal(-0.5 / length * torch.eye(size), 0.5 / length).to_event(2),
            **covariance_priors("diffusion", size, self.correlated, 0.5 / length),
        }
        if self.offset:
            out["drift_offset"] = dist.Normal(torch.zeros(size), 1.0 / length).to_event(1)
        if self.initial == "free":
            out |= initial_priors(size, self.correlated)
        return out

    def dims(self) -> dict[str, tuple[str, ...]]:
        out: dict[str, tuple[str, ...]] = {"drift": ("component_to", "component")}
        out |= covariance_dims("diffusion", self.states, self.correlated)
        if self.offset:
            out["drift_offset"] = ("component",)
        if self.initial == "free":
            out["initial_mean"] = ("component",)
            out |= covariance_dims("initial", self.states, self.correlated)
        return out

    def natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = split_covariance(values, "diffusion", self.states, self.correlated)
        if self.initial == "free":
            out = split_covariance(out, "initial", self.states, self.correlated)
        return out

    def scaled_to(self, data: Sequences) -> Self:
        return replace(self, time_scale=typical_gap(data))

    def check(self, data: Sequences) -> None:
        require_times(data, "LinearSDE")

    def moves(self, parameters: Parameters, data: Sequences) -> Moves:
        drift, between = parameters["drift"], gaps(data)
        diffusion = covariance(parameters, "diffusion")
        constant = parameters["drift_offset"] if self.offset else drift.new_zeros(self.states)
        found = discretised(drift, constant, diffusion, between.distinct.to(drift.device))
        transition, offset, noise = (between.along(table).to(drift) for table in found)
        if self.initial == "stationary":
            law = stationary_diffusion(drift, constant, diffusion)
            first = law[0], law[1], no_directions(drift)
        else:
            first = first_law(parameters, self.initial, self.states, drift)
        return Moves(*first, transition, offset, noise)

    def start(self, series: Tensor) -> dict[str, Tensor]:
        size, spread = self.states, positive(series.var(0, correction=0))
        unit = torch.eye(size, dtype=series.dtype)
        out = {
            "drift": -0.5 / self.time_scale * unit,
            "drift_offset": series.new_zeros(size),
            "diffusion_variance": spread / self.time_scale,
            "diffusion_correlation_factor": unit,
            "initial_mean": series.new_zeros(size),
            "initial_variance": spread,
            "initial_correlation_factor": unit,
        }
        return {name: out[name] for name in self.dims()}


def stationary_diffusion(
    drift: Tensor, constant: Tensor, diffusion: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean (1, D) and covariance (1, D, D) with F m + f = 0 and F P + P F' + L L' = 0.

    Raises:
        ValueError: F has an eigenvalue whose real part is not negative.
    """
    f, c, s = (part.double() for part in (drift, constant, diffusion))
    size = f.shape[-1]
    slowest = float(torch.linalg.eigvals(f.detach()).real.max())
    require(
        slowest < 0,
        "drift",
        "a stationary first state needs eigenvalues with real parts below 0",
        f"real part {slowest:.6g}",
    )
    unit = torch.eye(size, dtype=f.dtype, device=f.device)
    pairs = torch.kron(f, unit) + torch.kron(unit, f)
    spread = torch.linalg.solve(pairs, -s.reshape(-1)).reshape(size, size)
    mean = torch.linalg.solve(f, -c)
    return mean[None].to(drift), (0.5 * (spread + spread.mT))[None].to(drift)


@dataclass(frozen=True)
class OrnsteinUhlenbeck(Dynamics):
    r"""Independent processes that return to their means, observed at ``data.times``.

    .. math::
        dz = -\theta (z - m)\, dt + \sigma\, dW , \quad
        z_{t+\Delta} | z_t \sim N(m + e^{-\theta\Delta} (z_t - m), v (1 - e^{-2\theta\Delta}))

    Every process is observed as one feature. Parameters, one number each for a single process and
    otherwise vectors: ``rate`` θ > 0 ~ LogNormal(−log time_scale, 1), ``mean`` m ~ N(location,
    spread²), and ``stationary_variance`` v = σ² / 2θ, which is also the variance of the first
    state. With ``stationary=False`` there are ``diffusion_variance`` σ², and ``initial_mean`` and
    ``initial_variance`` of the first state, in place of v; the limit θ → 0 is then a random walk.
    Variances ~ LogNormal(log spread², 2²).

    Args:
        states: number of processes.
        stationary: whether the first state has the stationary distribution.
        location: prior mean of the means, in the units of the data.
        spread: prior standard deviation of the means.
        time_scale: prior median of 1 / θ; ``scaled_to(data)`` sets it to ten typical gaps, and
            location and spread to the data's.

    Raises:
        ValueError: a setting out of range; missing times or times that do not increase.

    Source: Uhlenbeck & Ornstein (1930), Physical Review 36.

    >>> from beliefzoo.models import LinearGaussianSSM
    >>> model = LinearGaussianSSM(OrnsteinUhlenbeck()).with_parameters(
    ...     rate=0.5, mean=20, stationary_variance=4, observation_variance=0
    ... )
    >>> drawn = model.sample(2000, 2, times=[0.0, 1.0], seed=0)
    >>> y = drawn.data.values[..., 0]
    >>> round(y.mean().item()), round(y.var().item())
    (20, 4)
    """

    states: int = 1
    stationary: bool = True
    location: float = 0.0
    spread: float = 1.0
    time_scale: float = 1.0

    inputs = 0

    def __post_init__(self) -> None:
        require_count(self.states, "states")
        require_positive(self.spread, "spread")
        require_positive(self.time_scale, "time_scale")
        require_finite(self.location, "location")

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(f"process{number}" for number in range(self.states))

    @property
    def timed(self) -> bool:
        return True

    @property
    def levelled(self) -> bool:
        return True

    @property
    def loading(self) -> Tensor:
        return torch.eye(self.states, dtype=torch.float64)

    def priors(self) -> Priors:
        shape = per_feature(self.states)
        variance = log_normal(self.spread**2, shape)
        mean = dist.Normal(torch.full(shape, self.location), self.spread).to_event(len(shape))
        out: Priors = {"rate": log_normal(1 / self.time_scale, shape, 1.0), "mean": mean}
        if self.stationary:
            return out | {"stationary_variance": variance}
        return out | {
            "diffusion_variance": log_normal(self.spread**2 / self.time_scale, shape),
            "initial_mean": mean,
            "initial_variance": variance,
        }

    def dims(self) -> dict[str, tuple[str, ...]]:
        axes = () if self.states == 1 else ("component",)
        return dict.fromkeys(self.priors(), axes)

    def scaled_to(self, data: Sequences) -> Self:
        every = data.values.reshape(len(data), -1, 1), data.mask.reshape(len(data), -1, 1)
        mean, spread, _ = place_of(*every)
        length = 10 * typical_gap(data)
        return replace(self, location=float(mean), spread=float(spread), time_scale=length)

    def check(self, data: Sequences) -> None:
        require_times(data, "OrnsteinUhlenbeck")

    def moves(self, parameters: Parameters, data: Sequences) -> Moves:
        wide = {name: parameters[name].double().reshape(self.states) for name in self.dims()}
        between = gaps(data)
        rate, mean = wide["rate"], wide["mean"]
        exponent = rate * between.distinct.to(rate.device).unsqueeze(-1)  # θ Δ, (U, D)
        forgotten = -torch.expm1(-exponent)  # 1 − e^{−θΔ}, right to the last digit for small θΔ
        if self.stationary:
            variance = wide["stationary_variance"] * -torch.expm1(-2 * exponent)
            first = mean, wide["stationary_variance"]
        else:
            length = between.distinct.to(rate.device).unsqueeze(-1)
            variance = wide["diffusion_variance"] * length * _mean_decay(2 * exponent)
            first = wide["initial_mean"], wide["initial_variance"]
        like = parameters["rate"]
        tables = (
            torch.diag_embed(torch.exp(-exponent)),
            mean * forgotten,
            torch.diag_embed(variance),
        )
        transition, offset, noise = (between.along(table).to(like) for table in tables)
        start, spread = first[0][None].to(like), torch.diag_embed(first[1])[None].to(like)
        return Moves(start, spread, no_directions(transition), transition, offset, noise)

    def start(self, series: Tensor) -> dict[str, Tensor]:
        shape = per_feature(self.states)
        mean, spread, _ = place_of(series[None], torch.ones_like(series[None]).bool())
        spread = spread.square()
        out = {
            "rate": torch.full_like(spread, 1 / self.time_scale),
            "mean": mean,
            "stationary_variance": spread,
            "diffusion_variance": 2 * spread / self.time_scale,
            "initial_mean": mean,
            "initial_variance": spread,
        }
        return {name: out[name].reshape(shape) for name in self.dims()}


def _mean_decay(x: Tensor) -> Tensor:
    """(1 − e^{−x}) / x, with its limit 1 at x = 0 and derivatives without loss of digits."""
    small = x < 1e-2
    series = 1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5 * (1 - x / 6))))
    safe = torch.where(small, 1, x)
    return torch.where(small, series, -torch.expm1(-safe) / safe)
