"""Point estimates of models with exact evidence: what is maximised, and from where."""

from __future__ import annotations

from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from ....models import Model, Sequences
from ....models.data.folders import Data
from ....models.emissions.identified import unconstrained_size
from ....models.randomness import seeded
from ...guides.coordinates import Coordinates
from ...guides.guide import BeliefGuide, Guide
from ...guides.parameters import POINTS
from ...queries.evidence import log_evidence
from ..draws import batches, blocks
from ..minibatches import SMALLEST_SPLIT
from ..parallel import Processes
from ..settings import FitSettings
from ..start import starting_values
from .ascent import CURVED, curvature_at
from .climb import Prior
from .endings import doubts
from .landscape import Landscape, Recorded
from .maximum import maximise

LARGEST = 2000
"""Parameters up to which a point estimate is found by L-BFGS on all data."""

HEAVIEST = 5e8
"""Steps × states² up to which it is."""

WEIGHTS = 250
"""Draws of a normal posterior whose weights say whether it can be trusted."""

HEAVY = 2e9
"""Steps × states² × draws up to which they are computed at the end of every fit."""

LEAST_CURVATURE = 0.1
"""A normal posterior starts no wider than by this curvature, nats per unit²."""


def work(model: Model, data: Sequences) -> float:
    """What one evaluation costs, in steps × states²."""
    return data.n_steps * float(model.states**2 + 8)


def is_exact(guide: Guide) -> TypeGuard[BeliefGuide]:
    """Whether the bound of a guide is the exact evidence."""
    return isinstance(guide, BeliefGuide) and guide.exact and guide.model.exact


def is_direct(
    guide: Guide, data: Data, objective: str, settings: FitSettings, heldout: Data | None
) -> bool:
    """Whether a fit is a point estimate that L-BFGS finds on all data.

    Raises:
        ValueError: the settings ask for L-BFGS where it cannot be used.
    """
    exact = is_exact(guide)
    point = bool(guide.model.priors) and guide.uncertainty in POINTS and objective == "elbo"
    split = bool(settings.holdout) and len(data) >= SMALLEST_SPLIT
    whole = isinstance(data, Sequences) and heldout is None and not split
    if settings.method == "lbfgs" and not (exact and point and whole):
        raise ValueError(
            "settings.method: 'lbfgs' needs a BeliefGuide with ExactFilter, parameters='ml' or "
            "'map', objective='elbo', data in memory and none held out; got "
            f"{type(guide).__name__}, {guide.uncertainty!r}, {objective!r}, "
            f"settings.holdout={settings.holdout}"
        )
    if settings.method != "auto" or not (exact and point and whole):
        return settings.method == "lbfgs"
    assert isinstance(data, Sequences)  # whole
    few = unconstrained_size(guide.model.priors) <= LARGEST
    return few and work(guide.model, data) <= HEAVIEST


def curvature_of(guide: Guide, data: Sequences) -> Tensor | None:
    """The curvature (P, P) of what a point estimate maximises, where it is; None if not finite.

    Raises:
        ValueError: a guide without exact evidence, or data that the model cannot emit.
    """
    posterior = guide.parameter_posterior
    if posterior is None or not is_exact(guide):
        raise ValueError(
            "data: the curvature is computed of the exact evidence, which needs a BeliefGuide with "
            f"ExactFilter, got {type(guide).__name__} with {type(guide.filter).__name__}"
        )
    guide.model.check_values(data)
    prior: Prior = "parameters" if guide.uncertainty == "map" else "none"
    space = posterior.coordinates
    seen = Landscape(guide.model, data, space, prior=prior, processes=Processes(None))
    return curvature_at(seen, posterior.mean.detach())


class Laplace(NamedTuple):
    """The normal law at the maximum of a posterior of the coordinates."""

    values: dict[str, Tensor]
    """Parameters at the maximum."""
    widths: Tensor
    """Standard deviations of the coordinates given all others, (P,)."""
    covariance: Tensor
    """Covariance of the coordinates divided by these widths, (P, P)."""
    doubts: tuple[str, ...]
    """What its user must know of how it was found."""


def laplace(
    guide: BeliefGuide, data: Sequences, settings: FitSettings, seed: int
) -> Laplace | None:
    """The normal law with mode and curvature of the exact posterior, to start a fit from.

    None if the curvature was not computed: there are many parameters, or no start has a density.
    """
    model = guide.model
    first = starting_values(model, data, settings.start, seed=seed)
    space = Coordinates(model.priors, model.units, first)
    alone = Processes(None)
    seen = Landscape(model, data, space, prior="coordinates", processes=alone)
    found = maximise(
        Recorded(seen, [], lambda _: None),
        model,
        space,
        data,
        prior="coordinates",
        start=settings.start,
        starts=settings.restarts,
        seed=seed,
        steps=settings.steps,
        tolerance=settings.tolerance,
    )
    if found is None or found.curvature is None:
        return None
    curvature, vectors = torch.linalg.eigh(found.curvature)
    curvature = curvature.clamp_min(LEAST_CURVATURE)
    precision = vectors @ (curvature.unsqueeze(-1) * vectors.mT)
    widths = precision.diagonal().rsqrt()
    whitened = widths.unsqueeze(-1) * precision * widths
    said = doubts(found, model, space)
    return Laplace(space.values(found.point), widths, torch.linalg.inv(whitened), said)


def covariance_of(guide: Guide, data: Sequences) -> Tensor | None:
    """Covariance (P, P) of the coordinates by the curvature of the exact posterior where the guide
    is; None for many parameters, or if it is not finite.
    """
    model, posterior = guide.model, guide.parameter_posterior
    assert posterior is not None  # there are unknown parameters
    if posterior.coordinates.size > CURVED:
        return None
    space, alone = posterior.coordinates, Processes(None)
    seen = Landscape(model, data, space, prior="coordinates", processes=alone)
    curvature = curvature_at(seen, posterior.mean.detach())
    if curvature is None:
        return None
    sizes, vectors = torch.linalg.eigh(curvature)
    found: Tensor = (vectors / sizes.clamp_min(1.0)) @ vectors.mT  # no wider than a unit
    return found


def weights_of(guide: Guide, data: Sequences, seed: int) -> Tensor | None:
    """log p(y, θ) − log q(θ) of draws of the parameters, (draws,) nats; None if it would take long.

    The states are summed out exactly.
    """
    model = guide.model
    if work(model, data) * WEIGHTS > HEAVY:
        return None
    with seeded(seed), torch.no_grad():
        values, log_prior, log_q = guide.draw_parameters(WEIGHTS)
        evidence = torch.zeros(WEIGHTS, dtype=torch.float64)
        for _, batch in batches(model, data):
            for block in blocks(model, batch, values, WEIGHTS):
                evidence[block.place] += log_evidence(block.laws).sum(-1)
    return evidence + log_prior - log_q
