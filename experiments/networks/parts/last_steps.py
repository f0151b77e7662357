"""The last steps of a network's fit: L-BFGS on the bound of the same sequences all along."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from ....inference import BeliefGuide
from ....models import Sequences
from ...command.report import Array

MEMORY = 50
"""Steps from which the curvature is read."""


def climb(guide: BeliefGuide, data: Sequences, steps: int) -> None:
    """Improve the network of a guide by its bound on all of these sequences, in double precision.

    Where the beliefs are the exact filter's, the bound of every single sequence is at its maximum:
    the gradient has no noise then, and few sequences and steps along its curvature do what
    thousands of Adam's do not. The model of the guide is known, the network's weights alone move.

    Args:
        guide: of a model with known parameters; its network is changed, and in float64 from then.
        data: sequences that the bound is maximised on.
        steps: of L-BFGS; 0 changes nothing.
    """
    if not steps:
        return
    assert isinstance(guide.filter, nn.Module)
    guide.filter.double()
    weights = list(guide.filter_modules())
    laws, count = guide.model.laws({}, data), float(data.lengths.sum())

    def loss(flat: Array) -> tuple[float, Array]:
        nn.utils.vector_to_parameters(torch.from_numpy(flat), weights)
        for one in weights:
            one.grad = None
        found: Tensor = -guide.bound(laws).sum() / count
        found.backward()
        slopes = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        return float(found.detach()), np.concatenate([one.flatten().numpy() for one in slopes])

    start = nn.utils.parameters_to_vector(weights).detach().numpy().copy()
    how = {"maxiter": steps, "maxfun": 2 * steps, "maxcor": MEMORY, "ftol": 0.0, "gtol": 0.0}
    with torch.enable_grad():
        best = minimize(loss, start, jac=True, method="L-BFGS-B", options=how)
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.from_numpy(best.x), weights)
