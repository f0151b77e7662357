"""Information criteria of models at their maximum likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...models import Model, Parameters, Priors, Sequences
from ...models.emissions.identified import EXTRA, dimension, unconstrained_size
from ...models.randomness import seeded
from ..fitting.loop import Fit
from ..queries.answers import log_evidence
from ..queries.evidence import log_evidence as evidence_of

_STEPS, _STEPS_PER_COMPONENT = 50, 4
"""Steps on which the parameters of continuous states are counted: more than a season and its lags,
and enough of them to tell a level from noise."""


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


def information_criteria(
    result: Fit | Model, data: Sequences, *, parameters: int | None = None
) -> InformationCriteria:
    """Computes AIC and BIC at a maximum of the likelihood, with the exact evidence.

    The number of parameters is the dimension of the family of distributions that they span: a row
    of K probabilities has K − 1, one with a single target none, and weights of logits that a shift
    leaves as they are do not count. A stationary Poisson HMM with m states has m + m (m − 1); a
    free initial law adds m − 1. Inputs are taken for columns that vary freely: give the number if
    some are constant or sums of others, and also if known probabilities of 0 silence a parameter.

    Args:
        result: a fit with ``parameters="ml"``, or a model at known values.
        data: the data that it was fitted to.
        parameters: number of free parameters. Default: those unknown before the fit, or all those
            of a model; give the number if some of them were not estimated.

    Returns:
        The criteria.

    Raises:
        ValueError: a fit that does not maximise the likelihood, a model with unknown parameters, a
            negative number of parameters, or data that the model cannot emit.

    Source: Zucchini, MacDonald & Langrock (2016).

    >>> from beliefzoo.inference import information_criteria
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], rate=[1.0, 9.0]
    ... )
    >>> data = model.sample(20, 30, seed=0).data
    >>> print(information_criteria(model, data))
    log L -1311.2233 nats, 5 parameters, 600 observed steps: AIC 2632.45, BIC 2654.43
    """
    if isinstance(result, Fit):
        if result.guide.uncertainty != "ml":
            raise ValueError(
                "result: information criteria are defined at the maximum of the likelihood; needs "
                f"a fit with parameters='ml', got {result.guide.uncertainty!r}"
            )
        model, priors = result.fitted, result.model.priors
    elif isinstance(result, Model):
        model, priors = result, result.all_priors
    else:
        raise ValueError(f"result: must be a Fit or a model, got {type(result).__name__}")
    if parameters is not None and (not isinstance(parameters, int) or parameters < 0):
        raise ValueError(f"parameters: must be a whole number >= 0, got {parameters!r}")
    evidence = log_evidence(model, data)  # raises for unknown parameters and data that do not fit
    counted = result.model if isinstance(result, Fit) else model
    count = free_parameters(counted, priors, data) if parameters is None else parameters
    return InformationCriteria(
        log_likelihood=float(evidence.detach().sum()),
        parameters=count,
        observations=int(data.observed_steps.sum()),
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
    evidence = evidence_of(model.laws(values, data))
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
