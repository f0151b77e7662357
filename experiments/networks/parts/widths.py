"""How much is known of parameters by the bound of a guide whose network was learned with them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ....inference import BeliefGuide, ExactFilter
from ....inference.fitting.draws import draw_parameters
from ....models import Model, Sequences
from .last_steps import climb, height

LEVEL = 0.9
"""Of the parameters' intervals."""

_NEAR = 1e-3
"""Step of the differences in coordinates of order one, where the network stays as it is."""

_FLAT = 1.0
"""Least curvature: of a law as wide as the coordinates' unit."""


def slope(guide: BeliefGuide, data: Sequences, times: float) -> Tensor:
    """Derivatives of the bound by the medians' coordinates, (P,)."""
    own = guide.parameter_posterior
    assert own is not None
    with torch.enable_grad():
        (found,) = torch.autograd.grad(height(guide, data, times=times), [own.mean])
    return found


def curvature(guide: BeliefGuide, data: Sequences, times: float = 1.0) -> Tensor:
    """Minus the second derivatives of the bound by the medians' coordinates, (P, P).

    The network stays as it is: the normal law with this precision is that of the largest bound.
    """
    own = guide.parameter_posterior
    assert own is not None
    return _differences(guide, data, times, torch.full_like(own.mean, _NEAR), 0)


def followed(guide: BeliefGuide, data: Sequences, steps: int, times: float = 1.0) -> Tensor:
    """The same where the network follows the parameters, (P, P).

    A belief that was learned at the medians is worse at other parameters, so that these seem less
    likely than they are. The covariance of a fit whose remaining unknowns respond to a change of
    the parameters does without this: linear response (Giordano, Broderick & Jordan 2018, JMLR 19).
    Here every parameter is moved by one of its standard deviations to either side, and the network
    trained on.

    Args:
        guide: fitted to data of which these are a part.
        data: sequences on which the network follows.
        steps: of L-BFGS, at every place.
        times: how often the sequences count.
    """
    other = copy.deepcopy(guide)
    climb(other, data, steps)
    stretch = curvature(other, data, times).diagonal().clamp_min(_FLAT).rsqrt()
    return _differences(other, data, times, stretch.detach(), steps)


def _differences(
    guide: BeliefGuide, data: Sequences, times: float, steps: Tensor, following: int
) -> Tensor:
    """Central differences of the slope, the network climbing at every place."""
    rows = []
    for place, step in enumerate(steps):
        found = []
        for sign in (1.0, -1.0):
            moved = copy.deepcopy(guide)
            assert moved.parameter_posterior is not None
            with torch.no_grad():
                moved.parameter_posterior.mean[place] += sign * step
            climb(moved, data, following)
            found.append(slope(moved, data, times))
        rows.append((found[1] - found[0]) / (2 * step))
    table = torch.stack(rows)
    return (table + table.mT) / 2


def with_precision(guide: BeliefGuide, precision: Tensor) -> BeliefGuide:
    """The guide with a normal law about its medians, of this precision (P, P) in coordinates."""
    values, vectors = torch.linalg.eigh(precision)
    covariance = (vectors / values.clamp_min(_FLAT)) @ vectors.mT
    other = guide.fresh(guide.median())
    assert other.parameter_posterior is not None
    other.parameter_posterior.set_covariance(torch.ones(len(values)).double(), covariance)
    return other


def intervals(
    guide: BeliefGuide,
    data: Sequences,
    few: Sequences,
    truth: Model | None,
    *,
    steps: int,
    draws: int,
) -> dict[str, float]:
    """Widths of what is known of the parameters beside those with the exact filter, and coverage.

    Of the bound, whose normal law it is at its best; and of linear response, see `followed`.

    Args:
        guide: a chain of two states and its network, fitted to the data.
        data: all of them.
        few: those on which the network follows the parameters.
        truth: the model that they were drawn from, if that is known.
        steps: of L-BFGS by which it follows.
        draws: of the parameters.
    """
    exact = BeliefGuide(guide.model, ExactFilter()).fresh(guide.median())
    times = float(data.lengths.sum()) / float(few.lengths.sum())
    best = _drawn(exact, curvature(exact, data), draws)
    tables = {
        "intervals": curvature(guide, data),
        "intervals_of_linear_response": followed(guide, few, steps, times),
    }
    found = {} if truth is None else {"share_in_exact_intervals": _share(best, truth)}
    for name, table in tables.items():
        own = _drawn(guide, table, draws)
        ratio = own.std(0) / best.std(0)
        found[f"widths_of_{name}_over_exact"] = float(ratio.log().mean().exp())
        found[f"widths_of_{name}_over_exact_least"] = float(ratio.min())
        if truth is not None:
            found[f"share_in_{name}"] = _share(own, truth)
    return found


def _drawn(guide: BeliefGuide, precision: Tensor, draws: int) -> Tensor:
    """Free numbers of the model, (draws, P)."""
    return free_numbers(draw_parameters(with_precision(guide, precision), draws).values)


def free_numbers(values: Mapping[str, Any]) -> Tensor:
    """Both switch rates of two states, then the parameters of the emission, (…, P)."""
    own = {name: torch.as_tensor(value).double() for name, value in values.items()}
    moves = own.pop("transition")
    own.pop("initial", None)
    rates = torch.stack([moves[..., 0, 1], moves[..., 1, 0]], -1)
    rest = [value.reshape(*rates.shape[:-1], -1) for _, value in sorted(own.items())]
    return torch.cat([rates, *rest], -1)


def _share(draws: Tensor, truth: Model) -> float:
    """Share of the true values that lie in the central intervals."""
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = draws.quantile(ends, 0)
    at = free_numbers(truth.known)
    return float(((low <= at) & (at <= high)).double().mean())
