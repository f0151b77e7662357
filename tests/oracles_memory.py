"""Memory models by the sum over all paths of their causes, in float64. Nothing of ours."""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Posterior(NamedTuple):
    """What the sum over all paths says of one sequence; E[· | y_1 … y_t] of shape (T,)."""

    log_evidence: float
    memory: Floats
    keep: Floats
    write: Floats
    value: Floats
    before: Floats
    smoothed: Floats
    """E[z_t | y_1 … y_T], (T,)."""


def enumerate_memory(y: Floats, values: Mapping[str, Floats], reset: bool) -> Posterior:
    """Every path of (u, v, x) of y (T, F), NaN where missing: 8^T of them, or 4^T with v = 1 − u.

    ``values`` are the parameters; a loading of one row more than there are causes tells of the
    memory before.
    """
    steps = len(y)
    log_weights, tables = [], []
    loading, intercept, scale = values["loading"], values["intercept"], values["scale"]
    causes = list(itertools.product((0, 1), (0, 1), (-1, 1)))
    if reset:
        causes = [cause for cause in causes if cause[1] == 1 - cause[0]]
    for path in itertools.product(causes, repeat=steps):
        memory, weight, rows, partial = 0.0, 0.0, [], []
        for t, (u, v, x) in enumerate(path):
            before, memory = memory, u * memory + v * x
            weight += np.log(values["keep"] if u else 1 - values["keep"])
            weight += np.log(values["positive"] if x > 0 else 1 - values["positive"])
            if not reset:
                weight += np.log(values["write"] if v else 1 - values["write"])
            signs = [2 * u - 1, x] if reset else [2 * u - 1, 2 * v - 1, x]
            signs += [before] if len(loading) > len(signs) else []
            mean = np.array(signs) @ loading + intercept
            terms = -0.5 * ((y[t] - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
            weight += np.nansum(terms)
            partial.append(weight)
            rows.append((memory, u, v, x, before))
        log_weights.append(partial)
        tables.append(rows)
    weights, table = np.array(log_weights), np.array(tables, dtype=float)
    filtered = []
    for t in range(steps):
        # Paths that agree up to t have the same partial weight, and are equally many.
        share = np.exp(weights[:, t] - weights[:, t].max())
        filtered.append(share @ table[:, t] / share.sum())
    top = weights[:, -1].max()
    share = np.exp(weights[:, -1] - top)
    smoothed = np.einsum("p,pt->t", share, table[..., 0]) / share.sum()
    memory_, keep, write, value, before_ = np.array(filtered).T
    evidence = float(top + np.log(share.sum()))
    return Posterior(evidence, memory_, keep, write, value, before_, smoothed)
