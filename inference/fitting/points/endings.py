"""How a point estimate ended: what its user must know, in words."""

from __future__ import annotations

import math

import torch

from ....models import Model, Sequences
from ...guides.coordinates import Coordinates
from ..standard_errors import UNDETERMINED, standard_errors
from .ascent import Ascent
from .scalars import labels, scalars_at

_FEW = 4
"""Starts of which more than one should reach the best height."""

_NAMED = 3
"""Scalars that a warning names at most."""

_MOVING = 0.5
"""Change of a logarithm or logit per unit of a coordinate from which on it counts as moved."""


_BOUND = (
    "use parameters='map' with a prior that vanishes fast there, fewer states, or fix the parameter"
)


def doubts(found: Ascent, model: Model, space: Coordinates) -> tuple[str, ...]:
    """Returns what a user must know of the end of a climb, in sentences; none if all is well."""
    said = []
    if found.why == "unbounded":
        said.append(_unbounded(found, model, space))
    elif found.why != "converged":
        said.append(_not_converged(found, model, space))
    starts = len(found.heights)
    if starts >= _FEW and found.agreeing == 1 and found.why != "unbounded":
        lower = [found.value - height for height in found.heights if height < found.value]
        told = (
            f"the next is {min(lower):.3g} nats below" if lower else "all others rose without end"
        )
        said.append(
            f"only one of {starts} starts reached the best height, {told}: there may be a higher "
            "one; try more settings.restarts"
        )
    if found.above > found.agreeing and found.why != "unbounded":
        said.append(
            f"{found.above} of {starts} starts rose above this maximum without end, as where a "
            f"state sits on a single value, and {found.agreeing} reached it: {_BOUND}"
        )
    return tuple(said)


def _not_converged(found: Ascent, model: Model, space: Coordinates) -> str:
    slope = float(found.gradient.abs().max())
    gain = "the curvature is not known"
    if found.promise is not None:
        gain = f"a Newton step would gain {found.promise:.3g} nats"
        if math.isinf(found.promise):
            gain = "this is a saddle, or close to one"
    advice = "try more settings.steps"
    if found.outward:
        away = _named(_moved(found, model, space))
        advice += f", unless there is no maximum: {away or 'a parameter'} runs away"
    if found.why == "stalled":
        advice = "no step gained anything; try another settings.start, or a larger tolerance"
    return f"not converged, {found.why}: {gain}, the gradient is {slope:.2g} nats a unit; {advice}"


@torch.no_grad()
def too_few(
    found: Ascent, model: Model, space: Coordinates, data: Sequences, tolerance: float
) -> tuple[str, ...]:
    """Returns a sentence if some parameters may be anything, since there are no more observations
    than parameters and flat first states; else none.
    """
    seen = int(data.mask.sum())
    flat = _flat(model, space, found, data) * int(data.observed_steps.any(-1).sum())
    if found.curvature is None or seen > space.size + flat:
        return ()
    errors = standard_errors(model, space, found.point, found.curvature, tolerance=tolerance)
    loose = [
        label
        for name, reasons in errors.reasons.items()
        for label, reason in zip(
            labels(model, name, errors.estimates[name].shape), reasons, strict=True
        )
        if reason == UNDETERMINED
    ]
    if not loose:
        return ()
    firsts = f" and {flat} flat first states" if flat else ""
    return (
        f"the data do not determine {_named(loose)}: {seen} observed numbers are too few for "
        f"{space.size} parameters{firsts}; fix some, use parameters='map' with priors that say "
        "more, or a smaller model",
    )


def _flat(model: Model, space: Coordinates, found: Ascent, data: Sequences) -> int:
    """Directions of the first state with a flat prior."""
    laws: object = model.laws(space.values(found.point), data)
    directions = getattr(laws, "diffuse", None)
    return 0 if directions is None else int(directions.shape[-1])


def _moved(found: Ascent, model: Model, space: Coordinates) -> list[str]:
    """The scalars that run away, whereto, and where they are."""
    scalars = scalars_at(model, space, found.point)
    names = [
        label
        for name, x in space.values(found.point).items()
        for label in labels(model, name, x.shape)
    ]
    moved = []
    for place in found.outward:
        # At an end that rounding has reached, the scale is infinite: it counts as moving.
        speed = torch.nan_to_num(scalars.stretch * scalars.slopes[:, place], nan=0.0)
        towards = speed * found.point[place].sign()
        for i in (speed.abs() > _MOVING).nonzero()[:, 0].tolist():
            end = scalars.high[i] if towards[i] > 0 else scalars.low[i]
            word = f"{float(end):g}".replace("inf", "∞")
            moved.append(f"{names[i]} → {word} (now {float(scalars.values[i]):.2g})")
    return list(dict.fromkeys(moved))


def _named(moved: list[str]) -> str:
    more = f" and {len(moved) - _NAMED} more" if len(moved) > _NAMED else ""
    return ", ".join(moved[:_NAMED]) + more


def _unbounded(found: Ascent, model: Model, space: Coordinates) -> str:
    away = _named(_moved(found, model, space))
    spike = (
        "a state sits on a single value" if model.has_paths else "a part of the data has no noise"
    )
    return (
        f"unbounded: {away + ': ' if away else ''}the likelihood rises without end, as where "
        f"{spike}; {_BOUND}"
    )
