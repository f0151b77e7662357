"""The export of models of discrete states: evidence, paths and beliefs under many draws at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...models import Emission, Model, Sequences
from ...models.chains.labelled_laws import unseen
from ...models.chains.renaming import exchangeable, ordered
from ...models.emissions.emission import Parameters
from ...models.trajectories import sample_chain
from ..exact import chains as exact
from ..fitting.draws import batches, blocks, draw_paths, for_batch
from ..fitting.nuts import NutsFit
from ..fitting.record import Fit
from ..guides.guide import Guide
from ..queries import answers as queries
from .beliefs import average_beliefs
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
    shown,
    thinned,
)


def evidence(
    result: Fit | NutsFit, data: Sequences, sample: Sample, keep_steps: bool
) -> tuple[Array, Array | None]:
    """log p(y_n | θ) (draws, N), and its terms log p(y_t | y_<t, θ) (draws, N, T) if kept.

    NaN where nothing was observed. The steps of a single sequence are kept in any case.
    """
    model = result.model
    shape = sample.total, len(data), data.max_length
    total = np.zeros(shape[:2])
    steps = np.full(shape, np.nan) if keep_steps or len(data) == 1 else None
    for rows, batch in batches(model, data):
        for block in blocks(model, batch, sample.values, sample.total):
            increments = exact.filter_chain(*block.chain).log_increments
            total[block.place, rows] = as_array(increments.sum(-1))
            if steps is not None:
                steps[block.place, rows, : batch.max_length] = as_array(increments)
    seen = as_array(data.observed_steps)
    total[:, ~seen.any(1)] = np.nan
    if steps is not None:
        steps[:, ~seen] = np.nan
    return total, steps


def states(result: Fit | NutsFit, data: Sequences, sample: Sample, wanted: int) -> States:
    """Paths, and the exact and the guide's beliefs averaged over the draws."""
    model = result.model
    chosen = thinned(sample, wanted)
    assert chosen is not None  # wanted > 0
    rows = chosen.rows
    once = rows[:1] if sample.constant else rows
    smoothed, filtered = average_beliefs(model, data, sample.at(once), len(once))
    arrays = {"smoothed_probability": smoothed, "filtered_probability": filtered}
    if isinstance(result, NutsFit):
        paths = _exact_paths(model, data, sample.at(rows), len(rows))
        return States({"states": sample.shaped(paths), **arrays}, chosen.labels)
    found = _guide_paths(result.guide, data, sample.at(rows), len(rows))
    arrays = {"states": sample.shaped(found.paths), **arrays}
    if found.beliefs is not None:
        arrays["guide_belief"] = found.beliefs
    if sample.log_q is not None:
        arrays["log_joint"] = sample.shaped(sample.log_prior[rows] + found.log_joint)
        arrays["log_q_joint"] = sample.shaped(sample.log_q[rows] + found.log_q)
    return States(arrays, chosen.labels)


def _exact_paths(model: Model, data: Sequences, values: Parameters, draws: int) -> Array:
    """z ~ p(z | y, θ) for every draw of θ, (draws, N, T)."""
    paths = _blank_paths(model, data, draws)
    for rows, batch in batches(model, data):
        for block in blocks(model, batch, values, draws):
            drawn = exact.sample_paths(**block.chain._asdict())
            paths[block.place, rows, : batch.max_length] = drawn[0]
    return paths


class _GuidePaths(NamedTuple):
    """Paths of a guide, the log densities of all sequences together, and its mean belief."""

    paths: Array
    log_joint: Tensor
    log_q: Tensor
    beliefs: Array | None


def _guide_paths(guide: Guide, data: Sequences, values: Parameters, draws: int) -> _GuidePaths:
    """z ~ q(z | y, θ) for every draw of θ."""
    model = guide.model
    paths = _blank_paths(model, data, draws)
    log_joint, log_q = (torch.zeros(draws, dtype=torch.float64) for _ in range(2))
    beliefs = np.full((len(data), data.max_length, model.states), np.nan)
    has_beliefs = False
    one = {name: value[0] for name, value in values.items()}
    for rows, batch in batches(model, data):
        here = for_batch(guide, model, batch, one)
        total = torch.zeros(len(batch), batch.max_length, model.states, dtype=torch.float64)
        for block in blocks(model, batch, values, draws):
            found = draw_paths(here, block)
            paths[block.place, rows, : batch.max_length] = found.paths
            log_joint[block.place] += found.log_joint.sum(-1)
            log_q[block.place] += found.log_q.sum(-1)
            has_beliefs = found.beliefs is not None
            if found.beliefs is not None:
                total += found.beliefs.sum(0)
        mean = (total / draws).masked_fill(~batch.step_mask.unsqueeze(-1), torch.nan)
        beliefs[rows, : batch.max_length] = as_array(mean)
    return _GuidePaths(paths, log_joint, log_q, beliefs if has_beliefs else None)


def _blank_paths(model: Model, data: Sequences, draws: int) -> Array:
    """Paths of −1, in the smallest integers that hold all states."""
    kind = np.min_scalar_type(-model.states)
    return np.full((draws, len(data), data.max_length), -1, dtype=kind)


def reorder(
    result: Fit | NutsFit, groups: dict[str, dict[str, Array]], sample: Sample, order: Tensor
) -> None:
    """Bring the states into an order, the same in all groups."""
    renamed = ordered(result.model, sample.values, order)
    values = shown(result.model, renamed, sample.total)
    groups["posterior"] = sample.arrays(values)
    groups["posterior_states"] = _ordered_states(groups["posterior_states"], order)
    _reorder_last(groups.get("predictions", {}), "state_probability", order)


def order_of(result: Fit | NutsFit, sample: Sample, states: States) -> Tensor:
    """The state of the model at each place of the exported order."""
    model = result.model
    kept = torch.arange(model.states)
    emission: Emission | None = getattr(model, "emission", None)
    if emission is None or not model.reorderable:
        return kept
    if emission.codes:
        visits = np.nansum(states.arrays["smoothed_probability"], (0, 1))
        order = torch.from_numpy(-visits).argsort(stable=True)
    else:
        means = emission.mean(model.complete(sample.values))
        location = means.reshape(-1, *means.shape[-2:])[..., 0].mean(0)
        order = location.argsort(stable=True)
    return order if exchangeable(model, sample.values, order) else kept


def _ordered_states(arrays: dict[str, Array], order: Tensor) -> dict[str, Array]:
    out = dict(arrays)
    rank = np.append(as_array(order.argsort()), -1)  # index −1 finds the last entry, −1
    out["states"] = rank.astype(out["states"].dtype)[out["states"]]
    for name in ("smoothed_probability", "filtered_probability", "guide_belief"):
        _reorder_last(out, name, order)
    return out


def _reorder_last(arrays: dict[str, Array], name: str, order: Tensor) -> None:
    if name in arrays:
        arrays[name] = arrays[name][..., as_array(order)]


def replicate(
    model: Model,
    data: Sequences,
    values: Parameters,
    draws: int,
    *,
    informed: bool = True,
) -> Array:
    """New states and observations, one replication of the data per draw, (draws, N, T[, F])."""
    del informed  # the law of the first state is always proper
    like = observed_values(model, data)
    data = model.scheduled(data)  # the schedule of observations of the data
    data = unseen(data) if model.moved_by_observations else data
    out = np.full((draws, *like.shape), 0 if like.dtype.kind == "i" else np.nan, like.dtype)
    for rows, batch in batches(model, data, simulate=True):
        inside = as_array(model.emitting(batch))
        for block in blocks(model, batch, values, draws):
            initial, moves, choice = block.folded_chain()
            size = block.draws * len(batch), batch.max_length
            paths = sample_chain(initial, moves, *size, choice=choice)
            for some, drawn in block.emit(paths.unflatten(0, (block.draws, -1))):
                y = as_array(one_feature(drawn.flatten(0, 1)).unflatten(0, drawn.shape[:2]))
                first = block.place.start + some.start
                place = out[first : first + len(y), rows, : batch.max_length]
                place[:, inside] = y[:, inside]
    return out


def predictions(
    result: Fit | NutsFit,
    data: Sequences,
    sample: Sample,
    replicas: Rows,
    steps: int,
    along: Along,
) -> dict[str, Array]:
    """One continuation of every sequence per draw of the parameters."""
    model = result.model
    drawn, probability = [], []
    for row in replicas.rows:
        known = model.with_parameters(**{name: v[row] for name, v in sample.values.items()})
        ahead = queries.forecast(known, data, steps, draws=1, **along)
        drawn.append(one_feature(ahead.draws[0]))
        probability.append(ahead.state_probability)
    return {
        "obs": sample.shaped(as_observed(model, torch.stack(drawn))),
        "state_probability": sample.shaped(torch.stack(probability)),
    }
