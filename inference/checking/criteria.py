"""Information criteria of models at their maximum likelihood."""

from __future__ import annotations

from ...models import Model, Sequences
from ...models.boundary import boundary
from ...models.checks import require
from ..fitting.criteria import InformationCriteria, free_parameters
from ..fitting.record import Fit
from ..queries.answers import log_evidence


@boundary
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
        ValueError: a fit that does not maximise the likelihood, or data of another size than its
            own; a model with unknown parameters, a negative number of parameters, or data that the
            model cannot emit.

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
        _require_fitted_to(data, result)
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


def _require_fitted_to(data: Sequences, fit: Fit) -> None:
    """Raise ``ValueError`` for data that cannot be those of the fit, by their size."""
    if fit.extent is None or not isinstance(data, Sequences):
        return
    own, came = fit.extent[:2], (len(data), data.n_steps)
    words = "{} sequences, {} steps in all".format
    requirement = f"must be those of the fit, {words(*own)} (held-out ones are not among them)"
    require(own == came, "data", requirement, words(*came))
