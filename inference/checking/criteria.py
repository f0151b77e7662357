"""Information criteria of models at their maximum likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...models import Model, Sequences
from ...models.priors import free_parameters
from ..fitting.loop import Fit
from ..queries.answers import log_evidence


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

    The number of parameters is the dimension of their support: a row of K probabilities has K − 1.
    A stationary Poisson HMM with m states has m + m (m − 1); a free initial law adds m − 1.

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
    count = free_parameters(priors) if parameters is None else parameters
    if not isinstance(count, int) or count < 0:
        raise ValueError(f"parameters: must be a whole number >= 0, got {parameters!r}")
    evidence = log_evidence(model, data)  # raises for unknown parameters and data that do not fit
    return InformationCriteria(
        log_likelihood=float(evidence.detach().sum()),
        parameters=count,
        observations=int(data.observed_steps.sum()),
    )
