"""Maximum likelihood of a linear-Gaussian model by L-BFGS, with the analytic gradient."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.distributions import biject_to

from ....inference.queries.evidence import log_evidence
from ....models import LinearGaussianSSM, Sequences

Floats = npt.NDArray[np.float64]


class Maximum(NamedTuple):
    """Where the likelihood is largest."""

    values: dict[str, Tensor]
    log_likelihood: float
    iterations: int


def maximum(
    model: LinearGaussianSSM,
    data: Sequences,
    *,
    bounds: tuple[float | None, float | None] = (-20.0, 20.0),
    **options: float,
) -> Maximum:
    """The maximum over all parameters on their unconstrained scale, from the model's start.

    Args:
        bounds: of every unconstrained number. A variance at its limit zero lies at −∞: the bound
            stops the search where it has no effect.
        options: of SciPy's L-BFGS-B.
    """
    free = {name: biject_to(prior.support) for name, prior in model.priors.items()}
    start = model.start(data)
    shapes = {name: prior.event_shape for name, prior in model.priors.items()}
    first = torch.cat([free[name].inv(start[name].double()).reshape(-1) for name in shapes])

    def values(x: Tensor) -> dict[str, Tensor]:
        parts = x.split([shape.numel() for shape in shapes.values()])
        return {
            name: free[name](part.reshape(shape))
            for part, (name, shape) in zip(parts, shapes.items(), strict=True)
        }

    def loss(x: Floats) -> tuple[float, Floats]:
        point = torch.tensor(x, requires_grad=True)
        value = -log_evidence(model.laws(values(point), data)).sum()
        (slope,) = torch.autograd.grad(value, point)
        return value.item(), slope.numpy()

    limits = [bounds] * len(first)
    best = minimize(
        loss, first.numpy(), jac=True, method="L-BFGS-B", bounds=limits, options=options
    )
    return Maximum(values(torch.tensor(best.x)), -float(best.fun), int(best.nit))
