"""Information criteria, the number of free parameters that they count, and the size of the data."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...models import Model, Parameters, Priors, Sequences
from ...models.data.folders import Data
from ...models.emissions.identified import EXTRA, dimension, unconstrained_size
from ...models.randomness import seeded
from ..exact.series import by_noises
from ..queries.evidence import log_evidence as evidence_of
from ..queries.linear import arguments

_STEPS, _STEPS_PER_COMPONENT = 50, 4
"""Steps on which the parameters of continuous states are counted: more than a season and its lags,
and enough of them to tell a level from noise."""

COUNTED = 60
"""Parameters up to which the free ones are counted in every fit; networks of 600 weights take
minutes."""


@dataclass(frozen=True)
class InformationCriteria:
    r"""Akaike's and Schwarz's information criteria at a maximum of the likelihood.

    .. math::
        \mathrm{AIC} = -2 \log L + 2 p, \qquad \mathrm{BIC} = -2 \log L + p \log n

    Smaller is better; only differences between models of the same data have a meaning. Both assume
    a maximum inside the parameter space: at a boundary (a transition probability of zero) p is too
    large, and for the number of states of an HMM both are only a guide.

    Attributes:
        log_likelihood: maximum of log L, nats.
        parameters: number of free parameters p.
        observations: number of observed steps n.

    >>> from beliefzoo.inference import InformationCriteria
    >>> two, three = InformationCriteria(-342.3, 4, 107), InformationCriteria(-329.5, 9, 107)
    >>> round(two.aic, 1), round(three.aic, 1)
    (692.6, 677.0)
    """

    log_likelihood: float
    parameters: int
    observations: int

    @property
    def aic(self) -> float:
        """Akaike's information criterion."""
        return -2 * self.log_likelihood + 2 * self.parameters

    @property
    def bic(self) -> float:
        """Schwarz's (Bayesian) information criterion."""
        return -2 * self.log_likelihood + self.parameters * math.log(self.observations)

    def __str__(self) -> str:
        return (
            f"log L {self.log_likelihood:.4f} nats, {self.parameters} parameters, "
            f"{self.observations} observed steps: AIC {self.aic:.2f}, BIC {self.bic:.2f}"
        )


def free_parameters(model: Model, priors: Priors, data: Sequences) -> int:
    """The dimension of the family of distributions of data like these.

    Args:
        model: the model.
        priors: the priors of the parameters that are free; all others are known.
        data: data of the model, of which inputs, times and gaps are read.

    Raises:
        ValueError: networks with more weights than can be counted.
    """
    count = unconstrained_size(priors) - model.redundant(priors)
    if model.has_paths or not priors:
        return count
    return min(count, _linear_dimension(model, priors, data))


def _linear_dimension(model: Model, priors: Priors, data: Sequences) -> int:
    """The rank of the scores of random observations, which continuous states leave open.

    A linear map of the states, for instance, can be undone by the loadings.
    """
    usual = model.all_priors
    varying = any(value.shape != usual[name].event_shape for name, value in model.own_known.items())
    short = data if varying else _first(data, _STEPS + _STEPS_PER_COMPONENT * model.states)
    size = unconstrained_size(priors)
    some = short[torch.arange(size + EXTRA + 1) % len(short)]
    with seeded(0):
        values = torch.randn(some.values.shape, dtype=torch.float64) * some.mask
        some = replace(some, values=values)
        return dimension(lambda drawn: _evidence(model, drawn, some), priors)


def _evidence(model: Model, values: Parameters, data: Sequences) -> Tensor:
    laws = model.laws(values, data)
    evidence = None if laws.linear is None else by_noises(*arguments(laws.linear)[:3])
    if evidence is None:
        evidence = evidence_of(laws)
    # Flat first states leave a constant undetermined, which must not count.
    return evidence[1:] - evidence[:1]


def _first(data: Sequences, steps: int) -> Sequences:
    """The first steps of every sequence."""
    along = {
        name: value[:, :steps]
        for name in ("values", "mask", "times", "actions", "rewards", "inputs")
        if (value := getattr(data, name)) is not None
    }
    return replace(data, lengths=data.lengths.clamp_max(steps), **along)


class Extent(NamedTuple):
    """Numbers of the training data and the model.

    Attributes:
        sequences: sequences.
        steps: time steps of all of them.
        observed: steps at which anything was observed; None for data that were not in memory.
        parameters: free parameters, see ``information_criteria``; None if they were not counted.

    >>> from beliefzoo.inference.fitting.criteria import Extent
    >>> Extent(1, 107, 107, 6).steps
    107
    """

    sequences: int
    steps: int
    observed: int | None = None
    parameters: int | None = None


def extent_of(model: Model, data: Data, *, counted: bool) -> Extent:
    """Returns the size of a model and its training data; free parameters only if ``counted``."""
    if not isinstance(data, Sequences):
        return Extent(len(data), data.n_steps)
    parameters = None
    if counted:
        # Summaries do without the number where a law is refused at every point that is tried.
        with contextlib.suppress(ValueError, RuntimeError):
            parameters = free_parameters(model, model.priors, data)
    return Extent(len(data), data.n_steps, int(data.observed_steps.sum()), parameters)
