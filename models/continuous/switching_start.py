"""Where a fit of a switching linear model starts: regimes are clusters of how the data move."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..clusters import kmeans
from ..data.moments import overall_moments
from ..data.sequences import Sequences

_REACH = 4
"""Steps to either side over which frames are averaged before they are clustered."""

_ROUNDS = 10
"""Rounds of regressing each regime's dynamics and reassigning the frames."""

_RIDGE = 1e-2
"""Ridge penalty of the regressions per frame, the state in units of its standard deviation."""

_LEAST_NOISE = 1e-3
"""Least variance of observation noise, in variances of the feature."""

_LEAST_SHARE = 1e-6
"""Least size of a component of the state, as a share of the largest one's."""

_SHARE = 0.5
"""Share of the variance of one-step residuals that is first attributed to observation noise."""

_CERTAINTY = 0.95
"""Weight of a frame in its own regime; the rest goes to all, so that none starts empty."""


def regime_start(
    data: Sequences, *, regimes: int, states: int, known: Mapping[str, Tensor], correlated: bool
) -> dict[str, Tensor]:
    """Starting values of all parameters of ``SwitchingLinearSSM``, and ``counts`` of transitions.

    Emission parameters have no axis of regimes. A ``known`` loading or intercept is used.
    """
    y, inside = _filled(data), data.step_mask
    found = _subspace(y, inside, states, known)
    # From here on the state is in units of its own standard deviation.
    _, unit = _moments(found.state, inside)
    z, loading = found.state / unit, found.loading * unit
    labels = _clusters(z, inside, regimes)
    for _ in range(_ROUNDS):
        weight = _weights(labels, inside, regimes)
        dynamics, drift, noise = _regressions(z, weight)
        likelier = _reassigned(z, inside, dynamics, drift, noise)
        if len(likelier[inside].unique()) < regimes:
            break  # regimes without frames would have the law of all, and rounding would decide
        labels = likelier
    weight = _weights(labels, inside, regimes)
    dynamics, drift, noise = _regressions(z, weight)
    residual = torch.einsum("fi,kij,fj->f", loading, noise, loading) / regimes
    floor = _LEAST_NOISE * _moments(y, inside)[1].square()
    noise = noise * (1 - _SHARE)
    scale = noise.diagonal(dim1=-2, dim2=-1).sqrt()
    out = {
        "loading": found.loading,
        "intercept": found.intercept,
        "observation_scale": (found.residual.square() + _SHARE * residual + floor).sqrt(),
        "dynamics": dynamics * unit.unsqueeze(-1) / unit,
        "drift": drift * unit,
        "noise_scale": scale * unit,
        "initial_mean": z[:, 0].mean(0) * unit,
        "initial_scale": unit,
    }
    if correlated:
        spread = scale.unsqueeze(-1) * scale.unsqueeze(-2)
        eye = torch.eye(states).to(noise)
        out["noise_correlation_factor"] = torch.linalg.cholesky(0.9 * noise / spread + 0.1 * eye)
    first = torch.bincount(labels[:, 0], minlength=regimes).to(z) + 1
    out["initial"] = first / first.sum()
    out["counts"] = _counts(labels, inside, regimes).to(z)
    return out


def _moments(x: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of x (N, T, D) over the steps inside the sequences."""
    rows = x[inside]
    return overall_moments(rows, torch.ones_like(rows, dtype=torch.bool))


def _filled(data: Sequences) -> Tensor:
    """Values in float64; a missing value repeats the last observed one, at first the mean."""
    y, mask = data.values.double(), data.mask
    mean, _ = overall_moments(y.flatten(0, 1), mask.flatten(0, 1))
    steps = torch.arange(y.shape[1], device=y.device).reshape(1, -1, 1)
    last = torch.where(mask, steps, -1).cummax(1).values
    carried = y.gather(1, last.clamp_min(0))
    return torch.where(last >= 0, carried, mean)


class _Subspace(NamedTuple):
    """Estimates of the state (N, T, D), and how the observations depend on it."""

    state: Tensor
    loading: Tensor
    intercept: Tensor
    residual: Tensor
    """Standard deviation of what is left, (F,)."""


def _subspace(y: Tensor, inside: Tensor, states: int, known: Mapping[str, Tensor]) -> _Subspace:
    mean, unit = _moments(y, inside)
    intercept = known.get("intercept", mean).double().reshape(-1, y.shape[-1]).mean(0)
    centred = y - intercept
    if "loading" in known:
        loading = known["loading"].double().reshape(-1, y.shape[-1], states).mean(0)
        state = centred @ torch.linalg.pinv(loading).mT
    else:
        windows = _windows((y - mean) / unit, math.ceil(states / len(unit)))
        centre = windows[inside].mean(0)
        _, scale, basis = torch.linalg.svd(windows[inside] - centre, full_matrices=False)
        least = _LEAST_SHARE * float(scale[0]) or 1.0
        size = scale[:states] / math.sqrt(len(windows[inside]))
        kept = basis[:states].mT / size.clamp_min(least)
        state = (windows - centre) @ kept
        loading = torch.linalg.lstsq(state[inside], (centred / unit)[inside]).solution.mT
        loading = loading * unit.unsqueeze(-1)
    left = (centred - state @ loading.mT)[inside].std(0, correction=0)
    return _Subspace(state, loading, intercept, left)


def _windows(x: Tensor, width: int) -> Tensor:
    """Every frame with the ``width`` − 1 before it (the first repeated), (N, T, width · F)."""
    padded = torch.cat([x[:, :1].expand(-1, width - 1, -1), x], 1)
    return torch.cat([padded[:, w : w + x.shape[1]] for w in range(width)], -1)


def _smoothed(x: Tensor, weight: Tensor) -> Tensor:
    """Means over ``_REACH`` steps to either side, for steps with weight (N, T)."""
    kernel = torch.ones(1, 1, 2 * _REACH + 1).to(x)
    flat = (x * weight.unsqueeze(-1)).movedim(-1, 1).flatten(0, 1).unsqueeze(1)
    total = torch.nn.functional.conv1d(flat, kernel, padding=_REACH)
    count = torch.nn.functional.conv1d(weight.to(x).unsqueeze(1), kernel, padding=_REACH)
    total = total.reshape(len(x), x.shape[-1], -1).movedim(1, -1)
    return total / count.movedim(1, -1).clamp_min(1)


def _clusters(z: Tensor, inside: Tensor, regimes: int) -> Tensor:
    """Labels (N, T) by k-means on local means of the state, of its moves, and of their size."""
    if regimes == 1 or z.shape[1] == 1:
        return torch.zeros(inside.shape, dtype=torch.int64)
    moves = torch.cat([torch.zeros_like(z[:, :1]), z.diff(dim=1)], 1)
    weight = inside.clone()
    weight[:, 0] = False  # nothing moved yet
    mean = _smoothed(moves, weight)
    size = (_smoothed(moves.square(), weight) + 1e-12).log()  # the state is of order one
    x = torch.cat([_smoothed(z, inside), mean, size], -1)
    seen = x[inside]
    mean, spread = overall_moments(seen, torch.ones_like(seen, dtype=torch.bool))
    x = (x - mean) / spread
    frames = x.flatten(0, 1).numpy(force=True)
    seen = frames[inside.flatten().numpy(force=True)]
    return kmeans(seen, frames, regimes).to(inside.device).reshape(inside.shape)


def _weights(labels: Tensor, inside: Tensor, regimes: int) -> Tensor:
    """Weights (N, T-1, K) of the steps into each regime."""
    own = torch.nn.functional.one_hot(labels[:, 1:], regimes).double()
    share = _CERTAINTY * own + (1 - _CERTAINTY) / regimes
    return share * inside[:, 1:].unsqueeze(-1)


def _regressions(z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A, b and residual covariance of z' on z for every regime, weighted, with a ridge penalty."""
    x = torch.cat([z, torch.ones_like(z[..., :1])], -1)
    before, after = x[:, :-1], x[:, 1:, :-1]
    size = z.shape[-1]
    total = weight.sum((0, 1)).clamp_min(1e-6)
    cross = torch.einsum("ntk,nti,ntj->kij", weight, before, before) / total[:, None, None]
    target = torch.einsum("ntk,nti,ntj->kij", weight, before, after) / total[:, None, None]
    ridge = _RIDGE * torch.eye(size + 1).to(z)
    ridge[-1, -1] = 1e-9
    solved = torch.linalg.solve(cross + ridge, target).mT  # (K, D, D + 1)
    left = after.unsqueeze(-2) - torch.einsum("kij,ntj->ntki", solved, before)
    noise = torch.einsum("ntk,ntki,ntkj->kij", weight, left, left) / total[:, None, None]
    noise = noise + 1e-4 * torch.eye(size).to(z)
    return solved[..., :-1], solved[..., -1], noise


def _reassigned(
    z: Tensor, inside: Tensor, dynamics: Tensor, drift: Tensor, noise: Tensor
) -> Tensor:
    """Labels by the densities of the moves, averaged over neighbouring steps."""
    if z.shape[1] == 1:
        return torch.zeros(inside.shape, dtype=torch.int64)
    reached = torch.einsum("kij,ntj->ntki", dynamics, z[:, :-1]) + drift
    law = torch.distributions.MultivariateNormal(torch.zeros_like(drift), noise)
    table = law.log_prob(z[:, 1:].unsqueeze(-2) - reached)
    labels = _smoothed(table, inside[:, 1:]).argmax(-1)
    return torch.cat([labels[:, :1], labels], 1)


def _counts(labels: Tensor, inside: Tensor, regimes: int) -> Tensor:
    """Counts of transitions, with one expected visit to each regime and some staying added."""
    moved = inside[:, 1:]
    flat = labels[:, :-1][moved] * regimes + labels[:, 1:][moved]
    counts = torch.bincount(flat, minlength=regimes**2).double().reshape(regimes, regimes)
    return counts + 1.0 / regimes + 0.5 * torch.eye(regimes, dtype=torch.float64)
