r"""The member of a family of models that is nearest to a law, by the law's own next-symbol laws.

.. math:: \min_\theta\ \frac{1}{NT} \sum_{n, t} \mathrm{KL}\bigl(
    p(\cdot \mid x^n_1 \dots x^n_{t-1}) \,\|\, q_\theta(\cdot \mid x^n_1 \dots x^n_{t-1})\bigr)

over sequences of the law p. Drawn symbols would add their noise; priors have no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

import torch
from torch import Tensor
from torch.distributions import transform_to

from ...models import Categorical, HiddenMarkovModel, Model, Sequences
from ...models.priors import support_of
from ..fitting.start import Start, starting_values
from .known_laws import tables_of
from .refinement import FEW, LONG, SHORT, Tables, Target, climb

_INSIDE = 1e-4
"""Least probability of a start: from zero there is no way back."""


def has_law(model: Model) -> TypeGuard[HiddenMarkovModel]:
    """Whether a model has a law of symbols without end, the same at every step."""
    known = isinstance(model, HiddenMarkovModel) and isinstance(model.emission, Categorical)
    ends = getattr(model, "ends", False)
    return known and not (model.inputs or model.actions or model.timed or ends)


def projected(
    model: HiddenMarkovModel,
    target: Target,
    *,
    start: Start | Mapping[str, Tensor] = "kmeans",
    seed: int = 0,
) -> HiddenMarkovModel:
    """The model with its unknown parameters where the divergence from a law is least.

    Several starts are compared after a few iterations, and the best one goes on.

    Args:
        model: of symbols; known parameters stay as they are.
        target: sequences of the law, and its next-symbol laws.
        start: the first start, as of :func:`starting_values`; the others are random.
        seed: of the starts.
    """
    data = Sequences.from_tensors(target.codes.unsqueeze(-1), codes=True)
    transforms = {name: transform_to(support_of(prior)) for name, prior in model.priors.items()}

    def descended(values: Mapping[str, Tensor], goal: Target, steps: int) -> dict[str, Tensor]:
        raw = {
            name: change.inv(values[name].double()).clone().requires_grad_()
            for name, change in transforms.items()
        }

        def made() -> Tables:
            first, moves = tables_of(model, {name: transforms[name](raw[name]) for name in raw})
            return Tables(first, moves, torch.ones(len(first), dtype=torch.float64))

        climb(made, list(raw.values()), goal, steps)
        return {name: transforms[name](part.detach()) for name, part in raw.items()}

    def distance(values: Mapping[str, Tensor], goal: Target) -> float:
        first, moves = tables_of(model, values)
        ones = torch.ones(len(first), dtype=torch.float64)
        return float(Tables(first, moves, ones).distance(goal))

    few, found = target.first(FEW), []
    starts: list[Start | Mapping[str, Tensor]] = [start, "frames", "prior"]
    for number, one in enumerate(starts):
        begun = {
            name: _softened(value)
            for name, value in starting_values(model, data, one, seed=seed + number).items()
        }
        found.append(descended(begun, few, SHORT))
    best = min(found, key=lambda values: distance(values, few))
    return model.with_parameters(**descended(best, target, LONG))


def _softened(value: Tensor) -> Tensor:
    """Rows of probabilities without zeros; other values as they are."""
    rows = value.ndim > 0 and bool((value >= 0).all())
    if not rows or bool((value.sum(-1) - 1).abs().max() > 1e-6):
        return value
    inside = value.clamp_min(_INSIDE)
    return inside / inside.sum(-1, keepdim=True)
