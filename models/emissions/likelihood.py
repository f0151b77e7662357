"""Weighted maximum likelihood of densities with few parameters, many fits side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.distributions import constraints

_STEPS = 80
"""Steps at most; most fits take twenty or thirty."""

_ENOUGH = 1e-13
"""Gain of a step, in nats per frame, below which a fit has arrived."""

_SHORTEST = 1e-6
"""Share of a step below which a fit does not get any further."""

_RIDGE = 1e-3
"""Share of its own information that every parameter gets, lest some direction has none at first."""

_STRIDE, _REACH = 2.0, 8.0
"""Longest step, and longest way, of a logarithm: factors of 7 and 3000."""

_FRAMES, _PLACES = 128, 500
"""Frames by which places to begin at are compared, and how many of them at most."""

_MARGIN = 0.1
"""What a place further down a list must gain, in nats per frame. The first go with the unit of the
data, the last do not: where a maximum is flat, what they lead to could depend on it."""

LogDensity = Callable[[Tensor, slice], Tensor]
"""log p(y_m | u) (M, K, F) of parameters u (P, M|1, K, F), for a slice of the frames."""


@dataclass(frozen=True)
class Moments:
    """Mean and deviation (K, F) of weighted frames, quantiles and spread of all of them."""

    mean: Tensor
    deviation: Tensor
    quantiles: Tensor
    """Those of all frames at 0.1, 0.5, 0.9, (3, F)."""
    spread: Tensor
    """Standard deviation of all frames, (F,)."""

    @classmethod
    def of(cls, y: Tensor, weight: Tensor) -> Moments:
        """Of frames y (M, F) with weights (M, K, F)."""
        count, y = weight.sum(0).clamp_min(1e-300), y.unsqueeze(1)
        mean = (weight * y).sum(0) / count
        deviation = ((weight * (y - mean).square()).sum(0) / count).sqrt()
        total = weight.sum(1)
        seen = total > 0
        shown = torch.where(seen, y.squeeze(1), torch.nan)
        quantiles = shown.nanquantile(torch.tensor([0.1, 0.5, 0.9]).to(y), 0).nan_to_num()
        count = seen.sum(0).clamp_min(1)
        centre = torch.where(seen, shown, 0).sum(0) / count
        spread = (torch.where(seen, shown - centre, 0).square().sum(0) / count).sqrt()
        # What never varies has no scale of its own: that of its size, or any.
        size = torch.where(centre != 0, centre.abs(), 1)
        spread = torch.where(spread > 0, spread, size)
        return cls(mean, torch.where(deviation > 0, deviation, spread), quantiles, spread)

    def places(self, constraint: constraints.Constraint) -> list[Tensor]:
        """Return unconstrained values (K, F) that a parameter may have, the likeliest first.

        A location is near the mean, a scale near the deviation, a shape near their ratio or its
        square; a rate is one over a scale. Which of them a parameter is remains to be seen.
        """
        mean, deviation = self.mean, self.deviation
        size = torch.where(mean != 0, mean.abs(), deviation)
        zero = torch.zeros_like(mean)
        if isinstance(constraint, type(constraints.real)):
            return [mean, *(q.expand_as(mean) for q in self.quantiles), size.log(), zero]
        if isinstance(constraint, type(constraints.positive)) and constraint.lower_bound == 0:
            ratio = (size / deviation).log()
            robust = (self.quantiles[2] - self.quantiles[0]) / 3
            robust = torch.where(robust > 0, robust, self.spread).expand_as(mean)
            scales = [deviation.log(), size.log(), -size.log(), -deviation.log()]
            return [*scales, 2 * ratio, ratio - deviation.log(), robust.log(), ratio, zero]
        return [zero, zero - 2, zero + 2]


def likeliest(
    log_density: LogDensity,
    places: Sequence[Sequence[Tensor]],
    weight: Tensor,
    bounded: Sequence[bool],
) -> Tensor:
    r"""Parameters of K × F fits, each of which maximizes :math:`\sum_m w_m \log p(y_m | u)`.

    Begins at the best of all combinations of ``places`` and climbs by the method of Broyden,
    Fletcher, Goldfarb & Shanno (Nocedal & Wright 2006, chapter 6), all fits side by side. The first
    curvature is that of the scores s, :math:`\sum_m w_m s_m s_m'` (Berndt, Hall, Hall & Hausman
    1974). Second derivatives are not needed: densities with a corner, such as Laplace's, have none.

    Args:
        log_density: of the frames, at parameters on their unconstrained scales.
        places: of every parameter, values to begin at, each (K, F).
        weight: of the frames, (M, K, F).
        bounded: of every parameter, whether its way is limited: that of a logarithm, which frames
            that are all the same would drive to infinity, and not that of a location.

    Returns:
        Parameters (P, K, F) on their unconstrained scales.
    """
    at = _best_place(log_density, places, weight)
    unit = torch.tensor([1.0 if short else torch.inf for short in bounded]).to(at)[:, None, None]
    low, high, longest = at - _REACH * unit, at + _REACH * unit, _STRIDE * unit
    enough = _ENOUGH * weight.sum(0)
    value, score, each = _scored(log_density, at, weight)
    inverse = _inverse(torch.einsum("mkf,pmkf,qmkf->kfpq", weight, each, each))
    size = torch.ones_like(value)
    for _ in range(_STEPS):
        step = size * torch.einsum("kfpq,qkf->pkf", inverse, score)
        trial = (at + step.clamp(-longest, longest)).clamp(low, high)
        new_value, new_score, _ = _scored(log_density, trial, weight)
        # What a step in vain tells of the curvature is as good as what another does.
        told = _updated(inverse, trial - at, score - new_score)
        inverse = torch.where(new_value.isfinite()[..., None, None], told, inverse)
        better = new_value > value
        arrived = torch.where(better, (new_value - value < enough) & (size == 1), size < _SHORTEST)
        at, score = torch.where(better, trial, at), torch.where(better, new_score, score)
        value = torch.where(better, new_value, value)
        size = torch.where(better, 1, size / 4)
        if bool(arrived.all()):
            break
    return at


def _best_place(
    log_density: LogDensity,
    places: Sequence[Sequence[Tensor]],
    weight: Tensor,
) -> Tensor:
    some = slice(None, None, max(1, len(weight) // _FRAMES))
    best = torch.full_like(weight[0], -torch.inf)
    margin = _MARGIN * weight[some].sum(0)
    at = torch.stack([values[0] for values in places])
    each = int(_PLACES ** (1 / len(places)) + 1e-9)
    for combination in product(*(values[:each] for values in places)):
        here = torch.stack(combination)
        with torch.no_grad():
            value = _total(log_density(here.unsqueeze(1), some), weight[some])
        better = value > best + margin
        at, best = torch.where(better, here, at), torch.where(better, value, best)
    return at


def _scored(log_density: LogDensity, at: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted log-likelihoods (K, F), their slopes (P, K, F), and those of every frame."""
    leaf = at.unsqueeze(1).expand(-1, *weight.shape).clone().requires_grad_()
    with torch.enable_grad():
        logs = log_density(leaf, slice(None))
        (scores,) = torch.autograd.grad(logs.sum(), leaf)
    scores = scores.nan_to_num(0.0, 0.0, 0.0)
    return _total(logs.detach(), weight), (weight * scores).sum(1), scores


def _total(logs: Tensor, weight: Tensor) -> Tensor:
    total = torch.where(weight > 0, weight * logs, 0).sum(0)
    return torch.where(total.isfinite(), total, -torch.inf)


def _inverse(information: Tensor) -> Tensor:
    """information⁻¹ (K, F, P, P), where it has none of nearly the same."""
    # Parameters in units of their own information, or in none if there is none.
    unit = information.diagonal(dim1=-2, dim2=-1).sqrt()
    unit = torch.where(unit > 0, unit, 1)
    unit = unit.unsqueeze(-1) * unit.unsqueeze(-2)
    ridge = _RIDGE * torch.eye(information.shape[-1]).to(information)
    inverse: Tensor = torch.linalg.inv(information / unit + ridge) / unit
    return inverse


def _updated(inverse: Tensor, step: Tensor, fall: Tensor) -> Tensor:
    """The inverse curvature after a step (P, K, F) along which the slope fell, where it did."""
    s, y = (part.movedim(0, -1).unsqueeze(-1) for part in (step, fall))
    along = (s * y).sum(-2, keepdim=True)
    usable = along > 1e-12 * s.norm(dim=-2, keepdim=True) * y.norm(dim=-2, keepdim=True)
    rate = torch.where(usable, 1 / torch.where(usable, along, 1), 0)
    left = torch.eye(s.shape[-2]).to(s) - rate * s @ y.mT
    return left @ inverse @ left.mT + rate * s @ s.mT
