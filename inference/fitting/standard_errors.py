"""Standard errors and intervals of point estimates, from the curvature where they end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from ...models import Model
from ..guides.coordinates import Coordinates
from .points.ascent import LEAST
from .points.scalars import Scalars, scalars_at

WEAK = 0.01
"""Curvature below which a logarithm or logit is not determined, nats per unit²: its standard error
would be ten, a factor of e^10."""

_SINGULAR = 1e-6
"""Eigenvalue of the curvature, with its diagonal scaled to one, below which a direction is not
determined; differences of gradients leave about as much of a zero."""

_SADDLE = -1e-3
"""Such an eigenvalue below which the point is no maximum along a direction."""

_ONE_SIDED, _FREE = 1e-2, 1e-4
"""Share of a direction that is not determined, above which a scalar is not determined either: of a
way to the boundary, on which little more can change, and of one without end."""

_FAR, _FAR_LOGIT = 3.0, 4.0
"""Distance of logarithms from their start, and size of logits, from which on they are on their way
to the boundary."""

BOUNDARY = "at the boundary"
UNDETERMINED = "not determined"
SADDLE = "no maximum"
CONSTANT = "constant"


@dataclass(frozen=True)
class StandardErrors:
    r"""Standard errors of a point estimate, and intervals that stay inside the supports.

    .. math::
        \mathrm{Cov}(\theta) = J H^{-1} J', \qquad H = -\partial^2 / \partial v^2, \quad
        J = \partial \theta / \partial v

    H is the curvature of the log likelihood (``"ml"``: the observed information) or of the log
    posterior density (``"map"``: Laplace's approximation) in the guide's coordinates v. An interval
    is symmetric on the scale of the logarithm for what is positive, of the logit for what lies
    between two ends, such as probabilities, and of the number itself otherwise. Scalars that have
    no standard error are held where they are, for the errors of the others.

    Attributes:
        estimates: the parameters, in their shapes.
        errors: their standard errors; NaN where there is none.
        low, high: ends of the intervals; NaN where there is none.
        reasons: why a scalar has none, "" if it has, in the order of the flattened parameter.
        covariance: of all scalars, (D, D), in the order of the model's parameters.
        level: probability of the intervals.

    Source: Pawitan (2001), *In All Likelihood*, for both.

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, fit
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=1, emission="poisson")
    >>> data = Sequences.from_arrays([[3, 5, 4, 4]])  # mean 4, standard error √(4 / 4)
    >>> guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    >>> found = fit(model, guide, data, progress=False).standard_errors()
    >>> [round(x["rate"].item(), 2) for x in (found.errors, found.low, found.high)]
    [1.0, 2.45, 6.53]
    """

    estimates: Mapping[str, Tensor]
    errors: Mapping[str, Tensor]
    low: Mapping[str, Tensor]
    high: Mapping[str, Tensor]
    reasons: Mapping[str, tuple[str, ...]]
    covariance: Tensor
    level: float


def standard_errors(
    model: Model,
    space: Coordinates,
    point: Tensor,
    curvature: Tensor | None,
    *,
    why_none: str = "",
    tolerance: float = 0.0,
    level: float = 0.95,
) -> StandardErrors:
    """Computes standard errors and intervals of a point estimate, see ``StandardErrors``.

    Args:
        model: the model, with the priors of its unknown parameters.
        space: the coordinates.
        point: where the estimate is, (P,).
        curvature: there, (P, P); None if it is not known.
        why_none: the reason that is given then.
        tolerance: nats by which the estimate may miss the maximum.
        level: probability of the intervals.
    """
    if not isinstance(level, float) or not 0 < level < 1:
        raise ValueError(f"level: must be a number in (0, 1), got {level!r}")
    point = point.detach()
    scalars = scalars_at(model, space, point)
    if curvature is None:
        reasons = [why_none] * len(scalars.values)
        covariance = torch.full((len(reasons),) * 2, torch.nan, dtype=torch.float64)
    else:
        start = scalars_at(model, space, torch.zeros_like(point)).natural
        covariance, reasons = _covariance(scalars, start, space, curvature, tolerance)
    errors = covariance.diagonal().sqrt()
    half = NormalDist().inv_cdf((1 + level) / 2) * errors * scalars.stretch
    ends = [scalars.back(scalars.natural + side * half) for side in (-1, 1)]
    shapes = {name: x.shape for name, x in space.values(point).items()}
    sizes = [shape.numel() for shape in shapes.values()]

    def named(flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split(sizes) if sizes else ()
        return {n: part.reshape(shapes[n]) for n, part in zip(shapes, parts, strict=True)}

    places = named(torch.arange(len(reasons)))
    return StandardErrors(
        estimates=named(scalars.values),
        errors=named(errors),
        low=named(ends[0]),
        high=named(ends[1]),
        reasons={n: tuple(reasons[i] for i in x.flatten().tolist()) for n, x in places.items()},
        covariance=covariance,
        level=level,
    )


def _covariance(
    scalars: Scalars, start: Tensor, space: Coordinates, curvature: Tensor, tolerance: float
) -> tuple[Tensor, list[str]]:
    """The covariance of the scalars (D, D), and why some have none."""
    # Where the climb stopped on a way to the boundary, the curvature is twice what is left to gain.
    weak = max(WEAK, 4 * tolerance)
    stuck = space.scale_free & (curvature.diagonal() < weak)
    kept = ~stuck
    # With a diagonal of one, whatever the sizes of the curvatures.
    scale = curvature.diagonal()[kept].abs().clamp_min(LEAST).rsqrt()
    values, vectors = torch.linalg.eigh(scale.outer(scale) * curvature[kept][:, kept])
    flat = values < _SINGULAR
    own = scalars.slopes[:, kept] * scale
    root = own @ (vectors[:, ~flat] * values[~flat].rsqrt())
    covariance = root @ root.mT
    # Shares of the directions in every scalar, on its natural scale, reals in their own unit.
    largest = scalars.slopes.abs().amax(-1)
    bounded = scalars.low.isfinite() | scalars.high.isfinite()
    unit = torch.where(bounded, scalars.stretch, 1 / largest).unsqueeze(-1)
    shares = (unit * scalars.slopes[:, kept] @ _unit_length(scale.unsqueeze(-1) * vectors)).abs()
    ended = ((unit * scalars.slopes[:, stuck]).abs() > _ONE_SIDED).any(-1)
    saddle = (shares[:, values < _SADDLE] > _FREE).any(-1)
    loose = (shares[:, flat] > _FREE).any(-1)
    both = scalars.low.isfinite() & scalars.high.isfinite()
    moved = torch.where(both, scalars.natural, scalars.natural - start).abs()
    far = bounded & (moved > torch.where(both, _FAR_LOGIT, _FAR))
    # A climb can start close to an end, where only what the data pulled there has a curvature: as
    # many nats as they would lose with a probability of one, times the probability.
    below, above = scalars.values - scalars.low, scalars.high - scalars.values
    pull = ((unit * scalars.slopes[:, stuck]).abs() > _ONE_SIDED).double()
    pull = pull @ curvature.diagonal()[stuck].abs() / torch.minimum(below, above)
    far &= ~both | (pull * (below + above) > WEAK)
    there = scalars.natural.isinf()
    reasons = []
    for place in range(len(largest)):
        if largest[place] == 0:
            reasons.append(CONSTANT)
        elif saddle[place]:
            reasons.append(SADDLE)
        elif there[place] or (ended[place] and far[place]):
            reasons.append(BOUNDARY)
        else:
            reasons.append(UNDETERMINED if ended[place] or loose[place] else "")
    without = torch.tensor([reason != "" for reason in reasons], dtype=torch.bool)
    covariance[without] = torch.nan
    covariance[:, without] = torch.nan
    return covariance, reasons


def _unit_length(columns: Tensor) -> Tensor:
    found: Tensor = columns / columns.norm(dim=0)
    return found
