"""Everything that comes out of a fit, as ArviZ inference data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models import (
    BandedTransition,
    GeneratorTransition,
    HiddenMarkovModel,
    Misclassification,
    Sequences,
    SparseTransition,
)
from ..models.emissions import Parameters
from ..models.randomness import seeded
from ..models.trajectories import sample_chain
from . import exact, queries
from .arviz_groups import Idata, build, k_threshold
from .draws import (
    batches,
    blocks,
    draw_parameters,
    draw_paths,
    draw_prior,
    for_batch,
    log_prior,
)
from .fit import Fit
from .guides import Guide
from .importance import corrected_evidence, is_point, k_hat
from .nuts import NutsFit
from .provenance import source_commit

MOST_STEPS = 20_000_000
"""Numbers up to which ``steps="auto"`` keeps log p(y_t | y_1 … y_{t-1}) of every draw."""

MOST_REPLICATED = 10_000_000
"""Observations up to which replications are drawn by default."""

REPLICATIONS = 100
"""Replications of the data that are drawn by default, if these are not too large."""

POINT_DRAWS = 2
"""Draws of a point estimate, all the same: with two ArviZ shows its sd as 0."""

Array = NDArray[Any]
Groups = dict[str, dict[str, Array]]
Draws = int | Literal["auto"]

_NOTE = {
    "variational": "Draws of a guide are independent: r_hat and ESS say nothing of its quality. "
    "k_hat_parameters, the evidence gap and restarts do.",
    "point": "A point estimate: draws of the parameters are all the same, and neither their spread "
    "nor r_hat, ESS and LOO mean anything.",
    "known": "All parameters are known; what varies over draws are states and replications.",
    "nuts": "Markov chains over the parameters, the states summed out exactly.",
}


def to_arviz(
    result: Fit | NutsFit,
    data: Sequences,
    *,
    draws: int = 1000,
    seed: int = 0,
    state_draws: int = 100,
    predictive_draws: Draws = "auto",
    prior_draws: Draws = "auto",
    forecast: int = 0,
    inputs: Tensor | None = None,
    times: Tensor | None = None,
    steps: bool | Literal["auto"] = "auto",
    relabel: bool = True,
) -> Idata:
    """Export a fit to ArviZ. Everything but draws is exact, float64.

    The groups, with dims ``chain`` and ``draw`` before those named here:

    - ``posterior``: the unknown parameters, dims as ``model.parameter_dims()``. A guide gives one
      chain of independent draws (two equal ones if it is a point estimate), NUTS its chains.
    - ``log_likelihood``: one variable ``obs``, states summed out: log p(y_n | θ) (sequence) of two
      or more sequences, log p(y_t | y_1 … y_{t-1}, θ) (time) of a single one. Units where nothing
      was observed are left out.
    - ``sample_stats``: ``lp`` = log p(θ) + log p(y | θ), ``log_prior``; of a guide ``log_q`` = log
      q(θ), of NUTS ``diverging`` and ``acceptance_rate`` (the mean of its chain);
      ``sequence_log_likelihood`` (sequence) and ``step_log_likelihood`` (sequence, time), NaN
      beyond the length and where nothing was observed. All densities on the constrained scale.
    - ``posterior_states``: for some of the draws ``states`` (chain, draw, sequence, time), −1
      beyond the length, drawn by the guide, or exactly after NUTS; of a guide with a density also
      ``log_joint`` = log p(θ, z, y) and ``log_q_joint`` = log q(θ, z | y) (chain, draw). Averaged
      over these draws, ``smoothed_probability`` and ``filtered_probability`` (sequence, time,
      state), both exact, and ``guide_belief`` where the guide has beliefs.
    - ``posterior_predictive``, ``prior``, ``prior_predictive``: ``obs`` (sequence, time[, feature])
      are whole replications of the data, new states included; gaps are filled in.
    - ``predictions``: ``obs`` (sequence, ahead[, feature]) and ``state_probability`` (sequence,
      ahead, state) after the end of each sequence.
    - ``observed_data``: ``obs``, NaN where missing. ``constant_data``: ``mask``, ``lengths``,
      ``times``, ``actions``, ``inputs`` and the known parameters.

    States have no names of their own, so they get an order, the same for all draws and variables:
    increasing in the mean of the first feature; for symbols, decreasing in the expected number of
    visits. ``attrs["state_order"]`` says which state of the model each one is. They keep the
    model's order where that means something: parameters of states are known, the prior (as
    ``ordered=True``) tells states apart, or the transition lists the moves of each. Chains of NUTS
    are not relabelled one by one: where they sit in different copies of the posterior, r_hat is
    large.

    Args:
        result: what ``fit`` or ``nuts`` returned.
        data: sequences, usually those that were fitted.
        draws: draws of a guide's parameters; NUTS exports all it has.
        seed: of all draws; torch's global generator is left as it was.
        state_draws: hidden trajectories, from so many draws of the parameters, evenly spaced.
        predictive_draws: replications of the data, and draws of ``predictions``; "auto": 100, fewer
            where these would be more than ten million observations. 0: none.
        prior_draws: the same of ``prior`` and ``prior_predictive``.
        forecast: steps to predict after the end of each sequence.
        inputs: covariates of these steps (N, forecast, columns), where the model takes them.
        times: of these steps (N, forecast), where the model reads them.
        steps: whether to keep ``step_log_likelihood``; "auto": up to twenty million numbers.
        relabel: whether to bring the states into the order above.

    Raises:
        ValueError: bad argument, or data that the model cannot emit; before anything is computed.
    """
    wanted = _Wanted(draws, seed, state_draws, predictive_draws, prior_draws, forecast, steps)
    wanted.check(result, data, inputs, times)
    with seeded(seed), torch.no_grad():
        sample = _sample(result, draws)
        model = result.model
        keep = wanted.keeps_steps(sample, data)
        evidence, by_step = _evidence(model, data, sample, keep)
        states = _states(result, data, sample, state_draws)
        order = _order(model, sample, states) if relabel else torch.arange(model.states)
        groups: Groups = {
            "posterior": sample.arrays(_ordered(model, sample.values, order)),
            "sample_stats": _sample_stats(result, sample, evidence, by_step if keep else None),
            "log_likelihood": _log_likelihood(sample, data, evidence, by_step),
            "posterior_states": _ordered_states(states.arrays, order),
            "observed_data": {"obs": _observed(model, data)},
            "constant_data": _constant_data(model, data),
        }
        labels: dict[str, Any] = {"posterior_states/draw": states.labels}
        replicas = _thinned(sample, wanted.replications(predictive_draws, data))
        if replicas is not None:
            drawn = _replicate(model, data, sample.at(replicas.rows), len(replicas.rows))
            groups["posterior_predictive"] = {"obs": sample.shaped(drawn)}
            labels["posterior_predictive/draw"] = replicas.labels
        if replicas is not None and forecast:
            along = inputs, times
            groups["predictions"] = _predictions(model, data, sample, replicas, wanted, along)
            labels["predictions/draw"] = replicas.labels
            _reorder_last(groups["predictions"], "state_probability", order)
        count = wanted.replications(prior_draws, data) if model.priors else 0
        if count:
            prior = draw_prior(model, count)
            groups["prior"] = {name: _array(value[None]) for name, value in prior.items()}
            groups["prior_predictive"] = {"obs": _replicate(model, data, prior, count)[None]}
    return build(
        groups,
        dims=_dims(model, data),
        coords=_coords(model, data, forecast) | labels,
        attrs=_attrs(result, data, wanted, sample, groups, order),
    )


@dataclass(frozen=True)
class _Wanted:
    """What was asked for."""

    draws: int
    seed: int
    state_draws: int
    predictive_draws: Draws
    prior_draws: Draws
    forecast: int
    steps: bool | Literal["auto"]

    def check(self, result: Any, data: Any, inputs: Tensor | None, times: Tensor | None) -> None:
        if not isinstance(result, Fit | NutsFit):
            raise ValueError(
                f"result: must be what fit or nuts returned, got {type(result).__name__}"
            )
        if not isinstance(data, Sequences):
            raise ValueError(f"data: must be Sequences, got {type(data).__name__}")
        for name, least in (("draws", 1), ("state_draws", 1), ("seed", 0), ("forecast", 0)):
            _whole(name, getattr(self, name), least)
        for name in ("predictive_draws", "prior_draws"):
            if getattr(self, name) != "auto":
                _whole(name, getattr(self, name), 0)
        if self.forecast and self.predictive_draws == 0:
            raise ValueError("predictive_draws: forecasting needs at least 1, got 0")
        if self.steps not in (True, False, "auto"):
            raise ValueError(f"steps: must be True, False or 'auto', got {self.steps!r}")
        model = result.model
        model.check(data)
        needed = (len(data), self.forecast, model.inputs)
        if self.forecast and model.inputs and (inputs is None or inputs.shape != needed):
            came = None if inputs is None else tuple(inputs.shape)
            raise ValueError(f"inputs: forecasting needs covariates of shape {needed}, got {came}")
        if self.forecast and model.timed and (times is None or times.shape != needed[:2]):
            came = None if times is None else tuple(times.shape)
            raise ValueError(f"times: forecasting needs times of shape {needed[:2]}, got {came}")

    def keeps_steps(self, sample: _Sample, data: Sequences) -> bool:
        """Whether step by step log-likelihoods are kept in ``sample_stats``."""
        if self.steps == "auto":
            return sample.total * len(data) * data.max_length <= MOST_STEPS
        return self.steps

    def replications(self, asked: Draws, data: Sequences) -> int:
        """Number of replications of the data."""
        if asked != "auto":
            return asked
        return max(1, min(REPLICATIONS, MOST_REPLICATED // data.values.numel()))


def _whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: must be a whole number >= {least}, got {value!r}")


# --- draws of the parameters


@dataclass(frozen=True)
class _Sample:
    """Draws of the parameters, all chains along one axis: (chains × draws, …) float64."""

    values: dict[str, Tensor]
    chains: int
    draws: int
    log_prior: Tensor
    log_q: Tensor | None
    """log q(θ) where the draws are a guide's and have a density."""
    constant: bool
    """All draws are the same: a point estimate, or no parameter is unknown."""

    @property
    def total(self) -> int:
        return self.chains * self.draws

    def shaped(self, values: Tensor | Array) -> Array:
        """(chains × n, …) as (chains, n, …)."""
        array = values if isinstance(values, np.ndarray) else _array(values)
        return array.reshape(self.chains, -1, *array.shape[1:])

    def arrays(self, values: Parameters) -> dict[str, Array]:
        return {name: self.shaped(value) for name, value in values.items()}

    def at(self, rows: Tensor) -> dict[str, Tensor]:
        """The values of some draws."""
        return {name: value[rows] for name, value in self.values.items()}


class _Rows(NamedTuple):
    """Some draws: places along the axis of all chains, and their labels within a chain."""

    rows: Tensor
    labels: Array


def _sample(result: Fit | NutsFit, draws: int) -> _Sample:
    if isinstance(result, NutsFit):
        some = next(iter(result.draws.values()))
        chains, kept = some.shape[:2]
        values = {name: value.double().flatten(0, 1) for name, value in result.draws.items()}
        prior = log_prior(result.model, values, chains * kept)
        return _Sample(values, chains, kept, prior, None, False)
    constant = is_point(result.guide) or not result.model.priors
    draws = POINT_DRAWS if constant else draws
    drawn = draw_parameters(result.guide, draws)
    values = {name: value.detach() for name, value in drawn.values.items()}
    prior = log_prior(result.model, values, draws)
    log_q = None if is_point(result.guide) else drawn.log_q
    return _Sample(values, 1, draws, prior, log_q, constant)


def _thinned(sample: _Sample, wanted: int) -> _Rows | None:
    """About ``wanted`` draws, as many of each chain, evenly spaced; with repeats if constant."""
    if not wanted:
        return None
    each = math.ceil(wanted / sample.chains)
    if sample.constant:
        return _Rows(torch.zeros(each, dtype=torch.int64), np.arange(each))
    places = np.unique(np.linspace(0, sample.draws - 1, min(each, sample.draws)).round())
    places = places.astype(np.int64)
    rows = torch.arange(sample.chains).unsqueeze(-1) * sample.draws + torch.from_numpy(places)
    return _Rows(rows.flatten(), places)


def _array(values: Tensor) -> Array:
    out: Array = values.detach().cpu().numpy()
    return out


# --- what the draws say of the data


def _evidence(
    model: HiddenMarkovModel, data: Sequences, sample: _Sample, keep_steps: bool
) -> tuple[Array, Array | None]:
    """log p(y_n | θ) (draws, N), and its terms log p(y_t | y_<t, θ) (draws, N, T) if kept.

    NaN where nothing was observed. The steps of a single sequence are kept in any case.
    """
    shape = sample.total, len(data), data.max_length
    total = np.zeros(shape[:2])
    steps = np.full(shape, np.nan) if keep_steps or len(data) == 1 else None
    for rows, batch in batches(model, data):
        for block in blocks(model, batch, sample.values, sample.total):
            increments = exact.filter_chain(*block.chain).log_increments
            total[block.place, rows] = _array(increments.sum(-1))
            if steps is not None:
                steps[block.place, rows, : batch.max_length] = _array(increments)
    seen = _array(data.observed_steps)
    total[:, ~seen.any(1)] = np.nan
    if steps is not None:
        steps[:, ~seen] = np.nan
    return total, steps


def _sample_stats(
    result: Fit | NutsFit,
    sample: _Sample,
    evidence: Array,
    steps: Array | None,
) -> dict[str, Array]:
    prior = _array(sample.log_prior)
    out = {"lp": prior + np.nansum(evidence, 1), "log_prior": prior}
    if sample.log_q is not None:
        out["log_q"] = _array(sample.log_q)
    out["sequence_log_likelihood"] = evidence
    if steps is not None:
        out["step_log_likelihood"] = steps
    shaped = {name: sample.shaped(values) for name, values in out.items()}
    if isinstance(result, NutsFit):
        accept = _array(result.accept)[:, None]
        shaped["diverging"] = _array(result.divergences)
        shaped["acceptance_rate"] = np.repeat(accept, sample.draws, 1)
    return shaped


def _log_likelihood(
    sample: _Sample, data: Sequences, evidence: Array, steps: Array | None
) -> dict[str, Array]:
    """The units of leave-one-out: sequences, or the steps of a single one."""
    seen = _array(data.observed_steps)
    if len(data) > 1:
        return {"obs": sample.shaped(evidence[:, seen.any(1)])}
    assert steps is not None  # kept for a single sequence
    return {"obs": sample.shaped(steps[:, 0, seen[0]])}


# --- hidden states


class _States(NamedTuple):
    """The group ``posterior_states`` in the model's own order of states."""

    arrays: dict[str, Array]
    labels: Array


def _states(result: Fit | NutsFit, data: Sequences, sample: _Sample, wanted: int) -> _States:
    model = result.model
    chosen = _thinned(sample, wanted)
    assert chosen is not None  # at least one was asked for
    rows = chosen.rows
    once = rows[:1] if sample.constant else rows
    smoothed, filtered = _average_beliefs(model, data, sample.at(once), len(once))
    arrays = {"smoothed_probability": smoothed, "filtered_probability": filtered}
    if isinstance(result, NutsFit):
        paths = _exact_paths(model, data, sample.at(rows), len(rows))
        return _States({"states": sample.shaped(paths), **arrays}, chosen.labels)
    found = _guide_paths(result.guide, data, sample.at(rows), len(rows))
    arrays = {"states": sample.shaped(found.paths), **arrays}
    if found.beliefs is not None:
        arrays["guide_belief"] = found.beliefs
    if sample.log_q is not None:
        arrays["log_joint"] = sample.shaped(sample.log_prior[rows] + found.log_joint)
        arrays["log_q_joint"] = sample.shaped(sample.log_q[rows] + found.log_q)
    return _States(arrays, chosen.labels)


def _average_beliefs(
    model: HiddenMarkovModel, data: Sequences, values: Parameters, draws: int
) -> tuple[Array, Array]:
    """p(z_t | y_1 … y_T) and p(z_t | y_1 … y_t), exact, mean over draws, (N, T, K)."""
    smoothed = np.full((len(data), data.max_length, model.states), np.nan)
    filtered = smoothed.copy()
    for rows, batch in batches(model, data):
        total = torch.zeros(2, len(batch), batch.max_length, model.states, dtype=torch.float64)
        for block in blocks(model, batch, values, draws):
            total[0] += exact.smooth_chain(*block.chain).exp().sum(0)
            total[1] += exact.filter_chain(*block.chain).log_beliefs.exp().sum(0)
        mean = (total / draws).masked_fill(~batch.step_mask.unsqueeze(-1), torch.nan)
        smoothed[rows, : batch.max_length], filtered[rows, : batch.max_length] = _array(mean)
    return smoothed, filtered


def _exact_paths(
    model: HiddenMarkovModel, data: Sequences, values: Parameters, draws: int
) -> Array:
    """z ~ p(z | y, θ) for every draw of θ, (draws, N, T)."""
    paths = _blank_paths(model, data, draws)
    for rows, batch in batches(model, data):
        for block in blocks(model, batch, values, draws):
            paths[block.place, rows, : batch.max_length] = exact.sample_paths(*block.chain)[0]
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
        beliefs[rows, : batch.max_length] = _array(mean)
    return _GuidePaths(paths, log_joint, log_q, beliefs if has_beliefs else None)


def _blank_paths(model: HiddenMarkovModel, data: Sequences, draws: int) -> Array:
    """Paths of −1, in the smallest integers that hold all states."""
    kind = np.min_scalar_type(-model.states)
    return np.full((draws, len(data), data.max_length), -1, dtype=kind)


def _order(model: HiddenMarkovModel, sample: _Sample, states: _States) -> Tensor:
    """The state of the model that comes at each place."""
    kept = torch.arange(model.states)
    dims = model.parameter_dims()
    if any({"state", "state_to"} & set(dims[name]) for name in model.known):
        return kept
    if isinstance(model.transition, BandedTransition | SparseTransition | GeneratorTransition):
        return kept  # which moves there are depends on the states' numbers
    if isinstance(model.emission, Misclassification):
        return kept
    if model.emission.codes:
        visits = np.nansum(states.arrays["smoothed_probability"], (0, 1))
        order = torch.from_numpy(-visits).argsort(stable=True)
    else:
        means = model.emission.mean(model.complete(sample.values))
        location = means.reshape(-1, *means.shape[-2:])[..., 0].mean(0)
        order = location.argsort(stable=True)
    # Renaming must not change the prior, or the draws would be of another posterior.
    one = {name: value[:1] for name, value in sample.values.items()}
    here, there = (log_prior(model, v, 1) for v in (one, _ordered(model, one, order)))
    return order if torch.allclose(here, there, rtol=1e-6, atol=1e-6) else kept


def _ordered(model: HiddenMarkovModel, values: Parameters, order: Tensor) -> dict[str, Tensor]:
    """The values with all their state axes in the new order; they have a leading axis of draws."""
    out = dict(values)
    for name, dims in model.parameter_dims().items():
        for axis, dim in enumerate(dims, 1):
            if name in out and dim in ("state", "state_to"):
                out[name] = out[name].index_select(axis, order)
    return out


def _ordered_states(arrays: dict[str, Array], order: Tensor) -> dict[str, Array]:
    out = dict(arrays)
    rank = np.append(_array(order.argsort()), -1)  # the last one is what −1 stays
    out["states"] = rank.astype(out["states"].dtype)[out["states"]]
    for name in ("smoothed_probability", "filtered_probability", "guide_belief"):
        _reorder_last(out, name, order)
    return out


def _reorder_last(arrays: dict[str, Array], name: str, order: Tensor) -> None:
    if name in arrays:
        arrays[name] = arrays[name][..., _array(order)]


# --- replications and predictions


def _replicate(model: HiddenMarkovModel, data: Sequences, values: Parameters, draws: int) -> Array:
    """New states and observations, one replication of the data per draw, (draws, N, T[, F])."""
    like = _observed(model, data)
    if isinstance(model.transition, GeneratorTransition):
        data = model.transition.scheduled(data)  # what is seen at the times of the data
    out = np.full((draws, *like.shape), 0 if like.dtype.kind == "i" else np.nan, like.dtype)
    for rows, batch in batches(model, data, simulate=True):
        inside = _array(batch.step_mask)
        for block in blocks(model, batch, values, draws):
            chain = block.folded_chain()
            paths = sample_chain(*chain, block.draws * len(batch), batch.max_length)
            for draw, path in enumerate(paths.unflatten(0, (block.draws, -1))):
                y = _array(_one_feature(block.one(draw).draw(path)))
                place = out[block.place.start + draw, rows, : batch.max_length]
                place[inside] = y[inside]
    return out


def _predictions(
    model: HiddenMarkovModel,
    data: Sequences,
    sample: _Sample,
    replicas: _Rows,
    wanted: _Wanted,
    along: tuple[Tensor | None, Tensor | None],
) -> dict[str, Array]:
    """One continuation of every sequence per draw of the parameters."""
    (inputs, times), drawn, probability = along, [], []
    for row in replicas.rows:
        known = model.with_parameters(**{name: v[row] for name, v in sample.values.items()})
        ahead = queries.forecast(known, data, wanted.forecast, draws=1, inputs=inputs, times=times)
        drawn.append(_one_feature(ahead.draws[0]))
        probability.append(ahead.state_probability)
    return {
        "obs": sample.shaped(torch.stack(drawn)),
        "state_probability": sample.shaped(torch.stack(probability)),
    }


# --- the data


def _one_feature(y: Tensor) -> Tensor:
    """A single feature has no axis of its own."""
    return y.squeeze(-1) if y.ndim == 3 and y.shape[-1] == 1 else y


def _observed(model: HiddenMarkovModel, data: Sequences) -> Array:
    """The observations as the family reads them, NaN where missing; whole codes stay whole."""
    y, mask = (_one_feature(x) for x in model.emission.observed(data))
    if model.emission.codes and bool(mask.all()):
        return _array(y)
    return np.where(_array(mask), _array(y.double()), np.nan)


def _constant_data(model: HiddenMarkovModel, data: Sequences) -> dict[str, Array]:
    inside = _array(data.step_mask)
    mask = _one_feature(model.emission.observed(data)[1])
    out = {"mask": _array(mask), "lengths": _array(data.lengths)}
    if data.times is not None:
        out["times"] = np.where(inside, _array(data.times), np.nan)
    if data.actions is not None:
        out["actions"] = np.where(inside, _array(data.actions), -1)
    if data.inputs is not None:
        out["inputs"] = np.where(inside[..., None], _array(data.inputs), np.nan)
    return out | {name: _array(value) for name, value in model.known.items()}


def _dims(model: HiddenMarkovModel, data: Sequences) -> dict[str, tuple[str, ...]]:
    step = ("sequence", "time")
    feature = ("feature",) * (len(_observed_shape(model, data)) - 2)
    belief = (*step, "state")
    return {
        **model.parameter_dims(),
        "obs": (*step, *feature),
        "mask": (*step, *feature),
        "log_likelihood/obs": ("sequence",) if len(data) > 1 else ("time",),
        "sequence_log_likelihood": ("sequence",),
        "step_log_likelihood": step,
        "states": ("chain", "draw", *step),
        "log_joint": ("chain", "draw"),
        "log_q_joint": ("chain", "draw"),
        "smoothed_probability": belief,
        "filtered_probability": belief,
        "guide_belief": belief,
        "predictions/obs": ("sequence", "ahead", *feature),
        "state_probability": ("sequence", "ahead", "state"),
        "lengths": ("sequence",),
        "times": step,
        "actions": step,
        "inputs": (*step, "input"),
    }


def _observed_shape(model: HiddenMarkovModel, data: Sequences) -> torch.Size:
    return _one_feature(model.emission.observed(data)[1]).shape


def _coords(model: HiddenMarkovModel, data: Sequences, ahead: int) -> dict[str, Any]:
    states = np.arange(model.states)
    time = _times(data)
    out: dict[str, Any] = {
        "state": states,
        "state_to": states,
        "sequence": np.array(data.labels),
        "time": time,
        "ahead": np.arange(1, ahead + 1),
    }
    features = np.array(data.features)
    out |= {"feature": features, "feature_from": features}
    if model.emission.codes and len(data.symbols or ()) == model.emission.encoding_size:
        symbols = np.array(data.symbols)
        out |= {"symbol": symbols, "predictor": symbols, "predictor_from": symbols}
    elif not model.emission.codes:
        out |= {"predictor": features, "predictor_from": features}
    out |= _pair_coords(model)
    seen = _array(data.observed_steps)
    if len(data) > 1:
        out["log_likelihood/sequence"] = np.array(data.labels)[seen.any(1)]
    else:
        out["log_likelihood/time"] = time[seen[0]]
    return out


def _pair_coords(model: HiddenMarkovModel) -> dict[str, Any]:
    """Names of what there is one of per pair of states: "0→1"."""
    out: dict[str, Any] = {}
    law, emission = model.transition, model.emission
    if isinstance(emission, Misclassification):
        out["misclassification"] = [f"{origin}→{seen}" for origin, seen in emission.errors]
    if isinstance(law, GeneratorTransition) and model.states > 1:
        out["jump"] = [f"{origin}→{target}" for origin, target in law.allowed(model.states)]
        out["effect"] = [
            f"{column} on " + ", ".join(f"{origin}→{target}" for origin, target in jumps)
            for column, jumps in law.acting(model.states)
        ]
    return {name: np.array(labels) for name, labels in out.items() if labels}


def _times(data: Sequences) -> Array:
    """The real times, if all sequences share them and none comes twice; else 0 … T − 1."""
    plain = np.arange(data.max_length)
    if data.times is None:
        return plain
    longest = data.times[data.lengths.argmax()]
    shared = (data.times == longest) | ~data.step_mask
    if not bool(shared.all()) or len(longest.unique()) < len(longest):
        return plain
    return _array(longest)


# --- attributes


def _attrs(
    result: Fit | NutsFit,
    data: Sequences,
    wanted: _Wanted,
    sample: _Sample,
    groups: Groups,
    order: Tensor,
) -> dict[str, Any]:
    model = result.model
    export = dataclasses.asdict(wanted)
    attrs: dict[str, Any] = {
        "method": "nuts" if isinstance(result, NutsFit) else "variational",
        "model": repr(model),
        "observations": "codes" if model.emission.codes else "numbers",
        "seed": result.seed,
        "settings": _plain(dataclasses.asdict(result.settings)),
        "export": export,
        "state_order": order.tolist(),
        "seconds": result.seconds,
        "versions": dict(result.versions),
    }
    if commit := source_commit():
        attrs["git_commit"] = commit
    if "step_log_likelihood" not in groups["sample_stats"]:
        numbers = sample.total * len(data) * data.max_length
        attrs["left_out"] = f"step_log_likelihood, {numbers} numbers; steps=True keeps it"
    if isinstance(result, NutsFit):
        return attrs | {"note": _NOTE["nuts"]}
    guide = result.guide
    kind = "point" if is_point(guide) else "variational" if model.priors else "known"
    attrs |= {
        "note": _NOTE[kind],
        "objective": result.objective,
        "guide": type(guide).__name__,
        "filter": type(guide.filter).__name__,
        "parameters": guide.uncertainty if model.priors else "known",
    }
    return attrs | _quality(groups)


def _quality(groups: Groups) -> dict[str, Any]:
    """k̂ of the exported draws as importance proposals, where they have a density."""
    stats, states = groups["sample_stats"], groups["posterior_states"]
    if "log_q" not in stats:
        return {}
    weights = (stats["lp"] - stats["log_q"]).ravel()
    joint = (states["log_joint"] - states["log_q_joint"]).ravel()
    figures = {
        "k_hat_parameters": k_hat(weights),
        "k_hat_joint": k_hat(joint),
        "log_evidence": corrected_evidence(weights),
    }
    known = {name: value for name, value in figures.items() if not math.isnan(value)}
    return known | ({"k_threshold": k_threshold(weights.size)} if known else {})


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for JSON: where a fit started is said by names alone if it was given by values."""
    start = settings.get("start")
    values = {"start": sorted(start)} if isinstance(start, Mapping) else {}
    return {**settings, **values}
