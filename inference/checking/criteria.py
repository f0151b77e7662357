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
    r"""What a maximum of the likelihood is worth, given the number of parameters it took.

    .. math::
        \mathrm{AIC} = -2 \log L + 2 p, \qquad \mathrm{BIC} = -2 \log L + p \log n

    Smaller is better; only differences between models of the same data mean anything. The theory
    behind both supposes a maximum inside the parameter space: at a boundary (a transition
    probability of zero) p counts too many, and for the number of states of an HMM neither is more
    than a guide.
    """

    log_likelihood: float
    """log L = Σ_n log p(y_n), the states summed out, nats."""
    parameters: int
    """p, the number of free parameters."""
    observations: int
    """n, the number of time steps at which something was observed, over all sequences."""

    @property
    def aic(self) -> float:
        """Akaike's criterion."""
        return -2 * self.log_likelihood + 2 * self.parameters

    @property
    def bic(self) -> float:
        """Schwarz's criterion."""
        return -2 * self.log_likelihood + self.parameters * math.log(self.observations)

    def __str__(self) -> str:
        return (
            f"log L {self.log_likelihood:.4f} nats, {self.parameters} parameters, "
            f"{self.observations} observed steps: AIC {self.aic:.2f}, BIC {self.bic:.2f}"
        )


def information_criteria(
    result: Fit | Model, data: Sequences, *, parameters: int | None = None
) -> InformationCriteria:
    """AIC and BIC at a maximum of the likelihood; the evidence is exact whatever the filter.

    Parameters are counted by the dimension of their support: a row of K probabilities is K − 1. A
    stationary Poisson HMM with m states has m + m (m − 1); a free initial law adds m − 1 (Zucchini,
    MacDonald & Langrock 2016).

    Args:
        result: a fit with ``parameters="ml"``, or a model at known values.
        data: the data that it was fitted to.
        parameters: the number of free parameters. By default those that a fit did not know before,
            or, of a model, all: give the number where some of them were not estimated.

    Raises:
        ValueError: a fit that does not maximise the likelihood, a model with unknown parameters, a
            negative number of parameters, or data that the model cannot emit.
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
    evidence = log_evidence(model, data)  # refuses unknown parameters and unfit data
    return InformationCriteria(
        log_likelihood=float(evidence.detach().sum()),
        parameters=count,
        observations=int(data.observed_steps.sum()),
    )
