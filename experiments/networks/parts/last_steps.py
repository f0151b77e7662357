"""The last steps of a fit: L-BFGS on the bound of the same sequences all along."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from ....inference import BeliefGuide
from ....models import Sequences
from ...command.report import Array

MEMORY = 50
"""Steps from which the curvature is read."""


def climb(guide: BeliefGuide, data: Sequences, steps: int, *, parameters: bool = False) -> None:
    """Improve the network of a guide by its bound on all of these sequences, in double precision.

    Where the beliefs are the exact filter's, the bound of every single sequence is at its maximum:
    the gradient has no noise then, and few sequences and steps along its curvature do what
    thousands of Adam's do not.

    Args:
        guide: whose network is changed, and in float64 from then; unknown parameters of its model
            are at their medians.
        data: sequences that the bound is maximised on.
        steps: of L-BFGS; 0 changes nothing.
        parameters: whether the medians move as well, by the bound at the medians alone.
    """
    if not steps:
        return
    assert isinstance(guide.filter, nn.Module)
    guide.filter.double()
    weights = list(guide.filter_modules())
    own = guide.parameter_posterior
    if parameters and own is not None:
        weights.append(own.mean)
    count = float(data.lengths.sum())
    fixed = None if parameters else guide.model.laws(guide.median(), data)

    def loss(flat: Array) -> tuple[float, Array]:
        nn.utils.vector_to_parameters(torch.from_numpy(flat), weights)
        for one in weights:
            one.grad = None
        reached = height(guide, data) if fixed is None else guide.bound(fixed).sum()
        found: Tensor = -reached / count
        found.backward()
        slopes = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        return float(found.detach()), np.concatenate([one.flatten().numpy() for one in slopes])

    start = nn.utils.parameters_to_vector(weights).detach().numpy().copy()
    how = {"maxiter": steps, "maxfun": 2 * steps, "maxcor": MEMORY, "ftol": 0.0, "gtol": 0.0}
    with torch.enable_grad():
        best = minimize(loss, start, jac=True, method="L-BFGS-B", options=how)
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.from_numpy(best.x), weights)


def height(guide: BeliefGuide, data: Sequences, *, times: float = 1.0) -> Tensor:
    """The bound with the parameters at their medians: nats, differentiable.

    It is the bound of a narrow normal law of the coordinates v about them, but for its entropy:
    log p(θ(v)) + log |dθ/dv| + Σ_n ELBO_n(θ(v)).

    Args:
        guide: of a model with or without unknown parameters.
        data: the sequences.
        times: how often they count.
    """
    own = guide.parameter_posterior
    if own is None:
        return times * guide.bound(guide.model.laws({}, data)).sum()
    values = own.coordinates.values(own.mean)
    stretched = own.coordinates.log_jacobians(own.mean, values)
    prior: Any = sum(stretched[n] + guide.model.priors[n].log_prob(v) for n, v in values.items())
    total: Tensor = prior + times * guide.bound(guide.model.laws(values, data)).sum()
    return total
