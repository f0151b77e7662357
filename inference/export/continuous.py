"""The export of models of continuous states: one draw of the parameters after the other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ...models import Model, Sequences
from ...models.emissions.emission import Parameters
from ..checking.importance import log_weights
from ..exact import gaussian as exact_gaussian
from ..fitting.nuts import NutsFit
from ..fitting.objectives import log_mean_exp
from ..fitting.record import Fit
from ..guides.guide import Guide
from ..queries import answers as queries
from ..queries import linear as linear_queries
from ..queries.batches import BATCH
from .sample import (
    Along,
    Array,
    Rows,
    Sample,
    States,
    as_array,
    as_observed,
    observed_values,
    one_feature,
    thinned,
)

WEIGHTED = 32
"""Trajectories of the guide by which the evidence is estimated where there is no exact one."""


def evidence(
    result: Fit | NutsFit, data: Sequences, sample: Sample, keep_steps: bool
) -> tuple[Array, Array | None]:
    """log p(y_n | θ) (draws, N), and its terms log p(y_t | y_<t, θ) (draws, N, T) if kept.

    NaN where nothing was observed. Without exact inference the first is estimated from weighted
    trajectories of the guide (biased down), and there are no terms.
    """
    shape = sample.total, len(data), data.max_length
    exact = result.model.exact
    total = np.zeros(shape[:2])
    kept = exact and (keep_steps or len(data) == 1)
    steps = np.full(shape, np.nan) if kept else None
    for draw, known in _each(result.model, sample.values, sample.total, sample.constant):
        if exact:
            terms = as_array(queries.step_log_likelihood(known, data))
            total[draw] = terms.sum(-1)
            if steps is not None:
                steps[draw] = terms
        else:
            assert isinstance(result, Fit)  # NUTS needs exact inference
            total[draw] = as_array(_estimated(result.guide, known.known, data))
    if sample.constant:
        total[1:] = total[0]
        if steps is not None:
            steps[1:] = steps[0]
    seen = as_array(data.observed_steps)
    total[:, ~seen.any(1)] = np.nan
    if steps is not None:
        steps[:, ~seen] = np.nan
    return total, steps


def _each(
    model: Model, values: Parameters, draws: int, constant: bool = False
) -> Iterator[tuple[int, Model]]:
    """The model with all parameters known, under every draw; only the first of equal ones."""
    for draw in range(1 if constant else draws):
        yield draw, model.with_parameters(**{name: v[draw] for name, v in values.items()})


def _estimated(guide: Guide, values: Parameters, data: Sequences) -> Tensor:
    parts = [
        log_mean_exp(log_weights(guide, values, batch, WEIGHTED)) for batch in data.batches(BATCH)
    ]
    return torch.cat(parts)


def states(result: Fit | NutsFit, data: Sequences, sample: Sample, wanted: int) -> States:
    """Trajectories, and mean and sd of the state at every step, averaged over the draws."""
    model = result.model
    chosen = thinned(sample, wanted)
    assert chosen is not None  # wanted > 0
    values = sample.at(chosen.rows)
    arrays = _paths(result, data, sample, chosen, values)
    if model.exact:
        for name, query in ("smoothed", queries.smooth), ("filtered", queries.filter):
            mixture = _Mixture(data)
            for _, known in _each(model, values, len(chosen.rows), sample.constant):
                found = query(known, data)
                mixture.add(found.mean, found.covariance.diagonal(dim1=-2, dim2=-1))
            arrays |= mixture.arrays(name)
    return States(arrays, chosen.labels)


class _Mixture:
    """Mean and sd of a mixture of laws, one after the other."""

    def __init__(self, data: Sequences) -> None:
        self._inside = data.step_mask.unsqueeze(-1)
        self._count = 0
        self._mean: Tensor | float = 0.0
        self._square: Tensor | float = 0.0

    def add(self, mean: Tensor, variance: Tensor) -> None:
        self._count += 1
        self._mean = self._mean + mean.double()
        self._square = self._square + variance.double() + mean.double().square()

    def arrays(self, name: str) -> dict[str, Array]:
        mean = torch.as_tensor(self._mean / self._count)
        # Rounding must not make the variance of a known state negative.
        sd = (torch.as_tensor(self._square / self._count) - mean.square()).clamp_min(0).sqrt()
        beyond = ~self._inside
        return {
            f"{name}_mean": as_array(mean.masked_fill(beyond, torch.nan)),
            f"{name}_sd": as_array(sd.masked_fill(beyond, torch.nan)),
        }


def _paths(
    result: Fit | NutsFit, data: Sequences, sample: Sample, chosen: Rows, values: Parameters
) -> dict[str, Array]:
    """One trajectory of every sequence per draw of the parameters, with its densities."""
    model, draws = result.model, len(chosen.rows)
    size = len(data), data.max_length, model.states
    paths = np.full((draws, *size), np.nan)
    joint, log_q = (torch.zeros(draws, dtype=torch.float64) for _ in range(2))
    mixture = _Mixture(data)
    inside = as_array(data.step_mask)
    for draw, known in _each(model, values, draws):
        if isinstance(result, NutsFit):
            drawn = queries.sample_states(known, data)[0]
        else:
            drawn, joint[draw], log_q[draw] = _guided(result.guide, known.known, data)
        paths[draw][inside] = as_array(drawn)[inside]
        mixture.add(drawn, torch.zeros_like(drawn))
    arrays = {"states": sample.shaped(paths)}
    if not model.exact:
        arrays |= mixture.arrays("smoothed")
    if sample.log_q is not None:
        arrays["log_joint"] = sample.shaped(sample.log_prior[chosen.rows] + joint)
        arrays["log_q_joint"] = sample.shaped(sample.log_q[chosen.rows] + log_q)
    return arrays


def _guided(guide: Guide, values: Parameters, data: Sequences) -> tuple[Tensor, Tensor, Tensor]:
    """A trajectory of the guide (N, T, D), log p(y, z | θ) and log q(z | y, θ) of all sequences."""
    joint, log_q = (torch.zeros((), dtype=torch.float64) for _ in range(2))
    drawn = torch.zeros(len(data), data.max_length, guide.model.states, dtype=torch.float64)
    first = 0
    for batch in data.batches(BATCH):
        posterior = guide.posterior(guide.model.laws(values, batch), learn=False)
        path = posterior.sample_paths(1)
        joint += (posterior.chain_log_prob(path) + posterior.emission_log_prob(path)).sum()
        log_q += posterior.path_log_prob(path).sum()
        drawn[first : first + len(batch), : batch.max_length] = path[0]
        first += len(batch)
    return drawn, joint, log_q


def replicate(
    model: Model, data: Sequences, values: Parameters, draws: int, *, informed: bool = True
) -> Array | None:
    """New states and observations, one replication of the data per draw, (draws, N, T[, F]).

    If the first state has a flat prior it cannot be drawn from it: replications then begin at a
    draw from its law given the data, or, if they must not depend on the data, there are none.
    """
    like = observed_values(model, data)
    out = np.full((draws, *like.shape), 0 if like.dtype.kind == "i" else np.nan, like.dtype)
    inside = as_array(data.step_mask)
    for draw in range(draws):
        laws = model.laws({name: v[draw] for name, v in values.items()}, data)
        linear = laws.linear
        if linear is not None and linear.diffuse.shape[-1]:
            if not informed:
                return None
            first = exact_gaussian.sample_paths(*linear_queries.arguments(linear), n=1)[0, :, 0]
            laws = linear.starting_at(first)
        y = as_array(one_feature(laws.draw(laws.sample_states())))
        out[draw][inside] = y[inside]
    return out


def predictions(
    result: Fit | NutsFit,
    data: Sequences,
    sample: Sample,
    replicas: Rows,
    steps: int,
    along: Along,
) -> dict[str, Array]:
    """One continuation of every sequence per draw of the parameters.

    For a deep model the last state is drawn among weighted trajectories of the guide.
    """
    drawn = []
    values = sample.at(replicas.rows)
    for _, known in _each(result.model, values, len(replicas.rows)):
        if isinstance(result, Fit):
            ahead = result.guide.continuation(known, data, steps, weighted=WEIGHTED, **along)
        else:
            ahead = queries.forecast(known, data, steps, draws=1, **along).draws[0]
        drawn.append(one_feature(ahead))
    return {"obs": sample.shaped(as_observed(result.model, torch.stack(drawn)))}
