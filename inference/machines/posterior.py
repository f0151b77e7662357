"""The posterior of a machine's parameters, given sequences of the network that it was read from."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...models import LabelledHMM, Sequences
from ...models.checks import require, require_choice, require_count, require_seed
from ..filters.slot import ExactFilter
from ..fitting.loop import fit
from ..fitting.nuts import NutsFit, nuts
from ..fitting.record import Fit
from ..fitting.settings import FitSettings
from ..guides.guide import BeliefGuide
from ..queries.evidence import log_evidence

_FIT = FitSettings(steps=200, parameter_learning_rate=3e-3)
"""A fit begins at mode and curvature of the exact posterior: larger steps would add noise."""

Sampler = Literal["normal", "nuts"]


class Masked(NamedTuple):
    """A labelled chain with the zeros of a machine, where a fit of it begins, and what is zero."""

    model: LabelledHMM
    start: dict[str, Tensor]
    tolerance: float


def masked(hmm: LabelledHMM, data: Sequences, tolerance: float) -> Masked:
    """Make the entries of p(x, z' | z) up to a tolerance structural zeros of a model to fit.

    A posterior at the edge of the simplex is not normal, and the moves that a machine lacks are
    part of what it is. If a sequence is impossible without an entry, a tenth of the tolerance is
    tried, and so on. The first state's law is known if it has an entry up to the tolerance.

    Args:
        hmm: with known parameters, no end symbol.
        data: sequences that must be possible.
        tolerance: largest probability that counts as zero.

    Returns:
        The model, its start inside the support, and the tolerance that was used.
    """
    first, tables, _ = hmm.tables()
    while True:
        kept = tables > tolerance
        cut = torch.where(kept, tables, 0)
        total = cut.sum((0, 2))
        if bool((total > 0).all()):
            rows = cut / total[:, None]
            known = LabelledHMM.from_tables(first, rows)
            if bool(log_evidence(known.laws({}, data)).isfinite().all()) or not tolerance:
                break
        tolerance = tolerance / 10 if tolerance > 1e-12 else 0.0
    some = kept.transpose(0, 1)
    model = LabelledHMM(hmm.states, hmm.symbols, allowed=None if bool(some.all()) else some)
    if hmm.states > 1 and bool((first <= tolerance).any()):
        model = model.with_parameters(initial=first)
    inside = {"initial": first > 0, "probs": some.any(-1), "transition": kept}
    start = {name: _inside(known.known[name], inside[name]) for name in model.priors}
    return Masked(model, start, tolerance)


def _inside(rows: Tensor, inside: Tensor) -> Tensor:
    """Rows without zeros: what is not there has no part in the law, and may be anything."""
    filled = torch.where(inside & (rows > 0), rows, 1 / rows.shape[-1])
    return (filled / filled.sum(-1, keepdim=True)).contiguous()


def posterior(
    found: Masked,
    data: Sequences,
    *,
    sampler: Sampler,
    draws: int,
    settings: FitSettings | None,
    seed: int,
) -> Fit | NutsFit:
    """Infer the parameters of a machine by ``fit``, joint normal, or by ``nuts``, two chains.

    Args:
        found: what to infer, and from where.
        data: sequences of the network.
        sampler: which of the two.
        draws: of each chain of NUTS, after as many of warm-up.
        settings: of ``fit``, their start replaced; None: 200 small steps.
        seed: of both.
    """
    if sampler == "nuts":
        return nuts(
            found.model,
            data,
            chains=2,
            draws=draws,
            warmup=draws,
            start=found.start,
            seed=seed,
            progress=False,
        )
    guide = BeliefGuide(found.model, ExactFilter(), parameters="multivariate")
    chosen = replace(settings or _FIT, start=found.start)
    return fit(found.model, guide, data, settings=chosen, seed=seed, progress=False)


def check_posterior(
    sequences: object,
    length: object,
    draws: object,
    tolerance: float,
    sampler: object,
    settings: object,
    seed: object,
) -> None:
    """Raise ``ValueError`` for an argument out of range."""
    require_count(sequences, "sequences")
    require_count(length, "length", 2, optional=True)
    require_count(draws, "draws")
    small = isinstance(tolerance, int | float) and 0 <= tolerance < 1
    require(small, "tolerance", "must be in [0, 1)", repr(tolerance))
    require_choice(sampler, "sampler", ("normal", "nuts"))
    given = settings is None or isinstance(settings, FitSettings)
    require(given, "settings", "must be FitSettings, or None", repr(settings))
    require_seed(seed, optional=False)
