"""The input of an export: draws of the parameters, and the data as arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models import Model, Sequences
from ...models.emissions.emission import Parameters
from ...models.emissions.observations import are_whole
from ..checking.importance import is_point
from ..fitting.draws import draw_parameters, log_prior
from ..fitting.nuts import NutsFit
from ..fitting.record import Fit

POINT_DRAWS = 2
"""Draws of a point estimate, all the same: with two ArviZ shows its sd as 0."""

MOST_IN_MATRICES = 100_000_000
"""Numbers up to which lists of moves are exported as matrices with zeros."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Sample:
    """Draws of the parameters, all chains along one axis: (chains × draws, …) float64."""

    values: dict[str, Tensor]
    chains: int
    draws: int
    log_prior: Tensor
    log_q: Tensor | None
    """log q(θ) where the draws are a guide's and have a density."""
    constant: bool
    """All draws are the same: a point estimate, or no parameter is unknown."""

    @property
    def total(self) -> int:
        return self.chains * self.draws

    def shaped(self, values: Tensor | Array) -> Array:
        """(chains × n, …) as (chains, n, …)."""
        array = values if isinstance(values, np.ndarray) else as_array(values)
        return array.reshape(self.chains, -1, *array.shape[1:])

    def arrays(self, values: Parameters) -> dict[str, Array]:
        return {name: self.shaped(value) for name, value in values.items()}

    def at(self, rows: Tensor) -> dict[str, Tensor]:
        """The values of some draws."""
        return {name: value[rows] for name, value in self.values.items()}


class Along(TypedDict):
    """What models read of the steps to forecast; None if not given."""

    inputs: Tensor | None
    times: Tensor | None
    actions: Tensor | None


class Rows(NamedTuple):
    """Some draws: indices along the axis of all chains, and their labels within a chain."""

    rows: Tensor
    labels: Array


def sample_of(result: Fit | NutsFit, draws: int, chains: int = 1) -> Sample:
    """The draws of the parameters of NUTS, or ``draws`` from a guide in so many equal parts."""
    if isinstance(result, NutsFit):
        some = next(iter(result.draws.values()))
        chains, kept = some.shape[:2]
        values = {name: value.double().flatten(0, 1) for name, value in result.draws.items()}
        prior = log_prior(result.model, values, chains * kept)
        return Sample(values, chains, kept, prior, None, False)
    constant = is_point(result.guide) or not result.model.priors
    draws = POINT_DRAWS if constant else draws
    drawn = draw_parameters(result.guide, draws)
    values = {name: value.detach() for name, value in drawn.values.items()}
    prior = log_prior(result.model, values, draws)
    log_q = None if is_point(result.guide) else drawn.log_q
    return Sample(values, chains, draws // chains, prior, log_q, constant)


def shown(model: Model, values: Parameters, draws: int = 1) -> dict[str, Tensor]:
    """The values in the form to show, unless matrices would take too much memory."""
    few = draws * model.states**2 <= MOST_IN_MATRICES
    return model.shown(values) if few else dict(values)


def thinned(sample: Sample, wanted: int) -> Rows | None:
    """About ``wanted`` draws, equally many per chain, evenly spaced; with repeats if constant."""
    if not wanted:
        return None
    each = math.ceil(wanted / sample.chains)
    if sample.constant:
        return Rows(torch.zeros(each, dtype=torch.int64), np.arange(each))
    places = np.unique(np.linspace(0, sample.draws - 1, min(each, sample.draws)).round())
    places = places.astype(np.int64)
    rows = torch.arange(sample.chains).unsqueeze(-1) * sample.draws + torch.from_numpy(places)
    return Rows(rows.flatten(), places)


def as_array(values: Tensor) -> Array:
    """The numbers of a tensor."""
    out: Array = values.detach().cpu().numpy()
    return out


class States(NamedTuple):
    """The group ``posterior_states`` in the model's own order of states."""

    arrays: dict[str, Array]
    labels: Array


def one_feature(y: Tensor) -> Tensor:
    """A single feature has no axis of its own."""
    return y.squeeze(-1) if y.ndim == 3 and y.shape[-1] == 1 else y


def observed_values(model: Model, data: Sequences) -> Array:
    """The observations as the family reads them; codes and counts are whole, or NaN if missing."""
    y, mask = (one_feature(x) for x in model.observations.read(data))
    if are_whole(model.observations) and bool(mask.all()):
        return as_array(y.long())
    return np.where(as_array(mask), as_array(y.double()), np.nan)


def as_observed(model: Model, drawn: Tensor) -> Tensor:
    """Complete observations, of which codes and counts are whole."""
    return drawn.long() if are_whole(model.observations) else drawn


def observed_shape(model: Model, data: Sequences) -> torch.Size:
    """Shape of ``observed_values``."""
    return one_feature(model.observations.read(data)[1]).shape
