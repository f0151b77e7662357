"""The results of a fit as ArviZ inference data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...models import Model, Sequences
from ...models.boundary import boundary
from ...models.checks import require, require_count, warn
from ...models.randomness import seeded
from ..arviz_groups import ConvergenceWarning, Idata, build
from ..checking.importance import corrected_evidence, is_point, k_hat
from ..filters.recurrent import RecurrentFilter
from ..fitting.draws import draw_prior
from ..fitting.nuts import NutsFit
from ..fitting.provenance import source_commit
from ..fitting.record import Fit
from ..pareto import k_threshold
from ..queries.batches import read_actions, require_read
from . import continuous as export_continuous
from . import discrete as export_discrete
from .gates import gate_dims, gates_of
from .labels import aligned
from .sample import (
    Along,
    Array,
    Sample,
    States,
    as_array,
    observed_shape,
    observed_values,
    one_feature,
    sample_of,
    shown,
    thinned,
)

MOST_STEPS = 20_000_000
"""Numbers up to which ``steps="auto"`` keeps log p(y_t | y_1 … y_{t-1}) of every draw."""

MOST_REPLICATED = 10_000_000
"""Observations up to which replications are drawn by default."""

REPLICATIONS = 100
"""Replications of the data that are drawn by default, if these are not too large."""

Groups = dict[str, dict[str, Array]]
Draws = int | Literal["auto"]

_MOMENTS = "smoothed_mean", "smoothed_sd", "filtered_mean", "filtered_sd"

_NOTE = {
    "variational": "Draws of a guide are independent: r_hat and ESS say nothing of its quality. "
    "k_hat_parameters, the evidence gap and restarts do.",
    "point": "A point estimate: draws of the parameters are all the same, and neither their spread "
    "nor r_hat, ESS and LOO mean anything.",
    "known": "All parameters are known; what varies over draws are states and replications.",
    "nuts": "Markov chains over the parameters, the states summed out exactly.",
}


@boundary
def to_arviz(
    result: Fit | NutsFit,
    data: Sequences,
    *,
    draws: int = 1000,
    chains: int = 1,
    seed: int = 0,
    state_draws: int = 100,
    predictive_draws: Draws = "auto",
    prior_draws: Draws = "auto",
    forecast: int = 0,
    inputs: Tensor | None = None,
    times: Tensor | None = None,
    actions: Tensor | None = None,
    steps: bool | Literal["auto"] = "auto",
    relabel: bool = True,
    gates: bool = False,
) -> Idata:
    """Exports a fit to ArviZ. Everything except draws is exact, in float64.

    The groups, with dims ``chain`` and ``draw`` before those named here:

    - ``posterior``: the unknown parameters, dims as ``model.shown_dims()``. A guide gives one
      chain of independent draws (two equal ones if it is a point estimate), NUTS its chains.
    - ``log_likelihood``: one variable ``obs``, states summed out: log p(y_n | θ) (sequence) of two
      or more sequences, log p(y_t | y_1 … y_{t-1}, θ) (time) of a single one. Units without
      observation are left out. A point estimate has none, nor have known parameters: their
      leave-one-out would be their fit, see ``information_criteria``.
    - ``log_prior``: ``joint`` = log p(θ), which ``prior_sensitivity`` and ArviZ's own functions of
      power-scaling read; not of a point estimate.
    - ``sample_stats``: ``lp`` = log p(θ) + log p(y | θ), ``log_prior``; of a guide ``log_q`` = log
      q(θ), of NUTS ``diverging`` and ``acceptance_rate`` (the mean of its chain);
      ``sequence_log_likelihood`` (sequence) and ``step_log_likelihood`` (sequence, time), NaN
      beyond the length and where nothing was observed. All densities on the constrained scale.
    - ``posterior_states``: for some of the draws ``states`` (chain, draw, sequence, time), −1
      beyond the length, drawn by the guide, or exactly after NUTS; of a guide with a density also
      ``log_joint`` = log p(θ, z, y) and ``log_q_joint`` = log q(θ, z | y) (chain, draw). Averaged
      over these draws, ``smoothed_probability`` and ``filtered_probability`` (sequence, time,
      state), both exact, and ``guide_belief`` if the guide has beliefs.
      Of continuous states ``states`` is (chain, draw, sequence, time, component), NaN beyond the
      length, and the beliefs are ``smoothed_mean``, ``smoothed_sd``, ``filtered_mean`` and
      ``filtered_sd`` (sequence, time, component), exact if there is exact inference.
    - ``posterior_predictive``, ``prior``, ``prior_predictive``: ``obs`` (sequence, time[, feature])
      are complete replications of the data with new states; gaps are filled in. If the first state
      has a flat prior, replications begin at its law given the data, and there is no
      ``prior_predictive``.
    - ``predictions``: ``obs`` (sequence, ahead[, feature]) and ``state_probability`` (sequence,
      ahead, state) after the end of each sequence.
    - ``gates``, on request: i, f, g, o, c, h of an LSTM, r, z, n, h of a GRU (sequence, time,
      layer, unit), NaN beyond the length; unknown parameters at their medians.
    - ``observed_data``: ``obs``, NaN where missing. ``constant_data``: ``mask``, ``lengths``,
      ``times``, ``actions``, ``rewards``, ``inputs`` and the known parameters.

    The states, actions and observations of a ``POMDP`` keep their names; if the first step is
    observed, its law is "(first)" on the axis ``action_before``. Other states have no names, so
    they are ordered, equally in all draws and variables: increasing in the mean of the first
    feature; for symbols, decreasing in the expected number of visits. ``attrs["state_order"]`` says
    which state of the model each one is. The model's order is kept if it has a meaning: parameters
    of states are known, the prior (as ``ordered=True``) distinguishes states, or the transition
    lists the moves of each. Before, each chain of NUTS gets the labelling of the most likely chain,
    by the steps that both expect in a state: chains may be in different copies of the posterior,
    and r_hat then compares like with like. ``attrs["chain_order"]`` says which state of a chain
    each one is.

    Observed and replicated codes and counts are integers if none is missing, as ArviZ's functions
    of discrete data ask.

    Of ArviZ's functions those that compare chains (r_hat, ESS, plots of ranks) are for NUTS; the
    draws of a guide are summarised by ``az.summary(idata, kind="stats")``. They are independent, so
    that any parts of them are chains that agree: with ``chains=4`` such functions work, and say
    nothing of the guide. Functions that take one axis of observations (``az.plot_loo_pit``,
    ``az.plot_ppc_pit``, ``az.plot_ppc_rootogram``) take ``by_step(idata)``, with
    ``predictive_draws`` equal to ``draws``.

    Args:
        result: the result of ``fit`` or ``nuts``.
        data: sequences, usually those that were fitted.
        draws: draws of a guide's parameters; of NUTS all are exported.
        chains: equal parts of these, shown as chains; NUTS has its own, a point estimate one.
        seed: of all draws; torch's global generator is left unchanged.
        state_draws: number of draws of the hidden states, from draws of the parameters evenly
            spaced.
        predictive_draws: replications of the data, and draws of ``predictions``; "auto": 100, fewer
            if these would be more than ten million observations; 0: none.
        prior_draws: the same for ``prior`` and ``prior_predictive``.
        forecast: steps to predict after the end of each sequence.
        inputs: covariates of these steps (N, forecast, columns), if the model takes them.
        times: of these steps (N, forecast), if the model reads them.
        actions: of these steps (N, forecast), if the model reads them; see ``forecast``.
        steps: whether to keep ``step_log_likelihood``; "auto": up to twenty million numbers.
        relabel: whether to bring chains to one labelling, and the states into the order above.
        gates: whether to export the gates of the guide's recurrent network.

    Returns:
        `arviz.InferenceData` (ArviZ 0.x) or `xarray.DataTree` (1.x).

    Raises:
        ValueError: a bad argument, or data that the model cannot emit; before anything is computed.

    >>> from beliefzoo.inference import BeliefGuide, ExactFilter, FitSettings
    >>> from beliefzoo.inference import arviz_groups, fit, to_arviz
    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(states=2, emission="poisson", ordered=True)
    >>> data = Sequences.from_arrays([[1, 0, 1, 9, 8, 9], [9, 9, 0, 1, 2, 8]])
    >>> guide = BeliefGuide(model, ExactFilter(), parameters="normal")
    >>> result = fit(model, guide, data, settings=FitSettings(steps=5), progress=False)
    >>> idata = to_arviz(result, data, draws=20, state_draws=10)
    >>> dict(arviz_groups.group(idata, "posterior")["transition"].sizes)
    {'chain': 1, 'draw': 20, 'state': 2, 'state_to': 2}
    >>> arviz_groups.group(idata, "posterior_states")["smoothed_probability"].dims
    ('sequence', 'time', 'state')
    """
    replications = predictive_draws, prior_draws
    wanted = _Wanted(draws, chains, seed, state_draws, *replications, forecast, steps, gates)
    along = Along(inputs=inputs, times=times, actions=actions)
    wanted.check(result, data, along)
    data = result.model.names.read(data)
    with seeded(seed), torch.no_grad():
        sample = sample_of(result, draws, chains)
        model = result.model
        sample, places = aligned(result, data, sample) if relabel else (sample, None)
        keep = wanted.keeps_steps(sample, data)
        kind: Any = export_discrete if model.has_paths else export_continuous
        evidence, by_step = kind.evidence(result, data, sample, keep)
        states = kind.states(result, data, sample, state_draws)
        groups: Groups = {
            "posterior": sample.arrays(shown(model, sample.values, sample.total)),
            "sample_stats": _sample_stats(result, sample, evidence, by_step if keep else None),
            "log_likelihood": _log_likelihood(sample, data, evidence, by_step),
            "log_prior": {} if sample.constant else {"joint": sample.shaped(sample.log_prior)},
            "posterior_states": states.arrays,
            "observed_data": {"obs": observed_values(model, data)},
            "constant_data": _constant_data(model, data),
        }
        labels: dict[str, Any] = {"posterior_states/draw": states.labels}
        replicas = thinned(sample, wanted.replications(predictive_draws, data))
        if replicas is not None:
            drawn = kind.replicate(model, data, sample.at(replicas.rows), len(replicas.rows))
            groups["posterior_predictive"] = {"obs": sample.shaped(drawn)}
            labels["posterior_predictive/draw"] = replicas.labels
        if replicas is not None and forecast:
            drawn = kind.predictions(result, data, sample, replicas, forecast, along)
            groups["predictions"] = drawn
            labels["predictions/draw"] = replicas.labels
        groups |= _prior(kind, model, data, wanted.replications(prior_draws, data))
        groups |= {"gates": gates_of(result, data)} if gates and isinstance(result, Fit) else {}
        order = _in_order(result, groups, sample, states, relabel)
    return build(
        groups,
        dims=_dims(model, data) | gate_dims(groups.get("gates", {})),
        coords=_coords(model, data, forecast) | labels,
        attrs=_attrs(result, data, wanted, sample, groups, order, places),
    )


def _in_order(
    result: Fit | NutsFit, groups: Groups, sample: Sample, states: States, relabel: bool
) -> Tensor | None:
    """Bring discrete states into the order of an export, and return which ones they are."""
    if not result.model.has_paths:
        return None
    if not relabel:
        return torch.arange(result.model.states)
    order = export_discrete.order_of(result, sample, states)
    export_discrete.reorder(result, groups, sample, order)
    return order


def _prior(kind: Any, model: Model, data: Sequences, count: int) -> Groups:
    """Draws of the parameters from their priors, and data simulated from them."""
    if not count or not model.priors:
        return {}
    prior = draw_prior(model, count)
    drawn_of = shown(model, prior, count)
    groups: Groups = {"prior": {name: as_array(v[None]) for name, v in drawn_of.items()}}
    drawn = kind.replicate(model, data, prior, count, informed=False)
    if drawn is not None:
        groups["prior_predictive"] = {"obs": drawn[None]}
    return groups


@dataclass(frozen=True)
class _Wanted:
    """The requested output."""

    draws: int
    chains: int
    seed: int
    state_draws: int
    predictive_draws: Draws
    prior_draws: Draws
    forecast: int
    steps: bool | Literal["auto"]
    gates: bool

    def check(self, result: Any, data: Any, along: Along) -> None:
        if not isinstance(result, Fit | NutsFit):
            raise ValueError(
                f"result: must be what fit or nuts returned, got {type(result).__name__}"
            )
        if not isinstance(data, Sequences):
            raise ValueError(f"data: must be Sequences, got {type(data).__name__}")
        counts = {"draws": 1, "chains": 1, "state_draws": 1, "seed": 0, "forecast": 0}
        for name, least in counts.items():
            require_count(getattr(self, name), name, least)
        self._check_chains(result)
        for name in ("predictive_draws", "prior_draws"):
            if getattr(self, name) != "auto":
                require_count(getattr(self, name), name, 0)
        if self.forecast and self.predictive_draws == 0:
            raise ValueError("predictive_draws: forecasting needs at least 1, got 0")
        if self.steps not in (True, False, "auto"):
            raise ValueError(f"steps: must be True, False or 'auto', got {self.steps!r}")
        if self.gates:
            filter = result.guide.filter if isinstance(result, Fit) else None
            if not isinstance(filter, RecurrentFilter):
                raise ValueError(
                    "gates: needs a fit with a recurrent filter, got "
                    f"{type(result if filter is None else filter).__name__}"
                )
        model = result.model
        model.check_values(data)  # not `check`: only a fit needs more data
        if self.forecast:
            _check_future(model, (len(data), self.forecast), along)

    def _check_chains(self, result: Fit | NutsFit) -> None:
        if self.chains == 1:
            return
        varies = isinstance(result, Fit) and result.model.priors and not is_point(result.guide)
        needed = "must be 1 unless draws are a guide's and differ"
        require(bool(varies), "chains", needed, self.chains)
        even = self.draws % self.chains == 0
        require(even, "chains", f"must divide the number of draws, {self.draws}", self.chains)

    def keeps_steps(self, sample: Sample, data: Sequences) -> bool:
        """Whether step by step log-likelihoods are kept in ``sample_stats``."""
        if self.steps == "auto":
            return sample.total * len(data) * data.max_length <= MOST_STEPS
        return self.steps

    def replications(self, asked: Draws, data: Sequences) -> int:
        """Number of replications of the data."""
        if asked != "auto":
            return asked
        return max(1, min(REPLICATIONS, MOST_REPLICATED // data.values.numel()))


def _check_future(model: Model, shape: tuple[int, int], along: Along) -> None:
    """Raises ``ValueError`` unless the inputs, times and actions of the steps to come are given."""
    require_read(model, **along)
    inputs, times = along["inputs"], along["times"]
    needed = (*shape, model.inputs)
    if model.inputs and (inputs is None or inputs.shape != needed):
        came = None if inputs is None else tuple(inputs.shape)
        raise ValueError(f"inputs: forecasting needs covariates of shape {needed}, got {came}")
    if model.timed and (times is None or times.shape != shape):
        came = None if times is None else tuple(times.shape)
        raise ValueError(f"times: forecasting needs times of shape {shape}, got {came}")
    if model.actions:
        read_actions(model, shape, along["actions"])


# --- what the draws say of the data


def _sample_stats(
    result: Fit | NutsFit,
    sample: Sample,
    evidence: Array,
    steps: Array | None,
) -> dict[str, Array]:
    prior = as_array(sample.log_prior)
    out = {"lp": prior + np.nansum(evidence, 1), "log_prior": prior}
    if sample.log_q is not None:
        out["log_q"] = as_array(sample.log_q)
    out["sequence_log_likelihood"] = evidence
    if steps is not None:
        out["step_log_likelihood"] = steps
    shaped = {name: sample.shaped(values) for name, values in out.items()}
    if isinstance(result, NutsFit):
        accept = as_array(result.accept)[:, None]
        shaped["diverging"] = as_array(result.divergences)
        shaped["acceptance_rate"] = np.repeat(accept, sample.draws, 1)
    return shaped


def _log_likelihood(
    sample: Sample, data: Sequences, evidence: Array, steps: Array | None
) -> dict[str, Array]:
    """The units of leave-one-out: sequences, or the steps of a single one; none of equal draws."""
    if sample.constant:
        return {}
    seen = as_array(data.observed_steps)
    if len(data) > 1:
        return {"obs": sample.shaped(evidence[:, seen.any(1)])}
    if steps is None:  # no exact inference, so a single sequence has no terms
        return {}
    return {"obs": sample.shaped(steps[:, 0, seen[0]])}


# --- the data


def _constant_data(model: Model, data: Sequences) -> dict[str, Array]:
    inside = as_array(data.step_mask)
    mask = one_feature(model.observations.read(data)[1])
    out = {"mask": as_array(mask), "lengths": as_array(data.lengths)}
    if data.times is not None:
        out["times"] = np.where(inside, as_array(data.times), np.nan)
    if data.actions is not None:
        out["actions"] = np.where(inside, as_array(data.actions), -1)
    if data.rewards is not None:
        out["rewards"] = np.where(inside, as_array(data.rewards), np.nan)
    if data.inputs is not None:
        out["inputs"] = np.where(inside[..., None], as_array(data.inputs), np.nan)
    known = shown(model, model.own_known)
    return out | {name: as_array(value) for name, value in known.items()}


def _dims(model: Model, data: Sequences) -> dict[str, tuple[str, ...]]:
    step = ("sequence", "time")
    feature = ("feature",) * (len(observed_shape(model, data)) - 2)
    belief = (*step, "state")
    component = () if model.has_paths else ("component",)
    return {
        **model.parameter_dims(),
        **model.shown_dims(),
        "obs": (*step, *feature),
        "mask": (*step, *feature),
        "log_likelihood/obs": ("sequence",) if len(data) > 1 else ("time",),
        "sequence_log_likelihood": ("sequence",),
        "step_log_likelihood": step,
        "states": ("chain", "draw", *step, *component),
        **dict.fromkeys(_MOMENTS, (*step, "component")),
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
        "rewards": step,
        "inputs": (*step, "input"),
    }


def _coords(model: Model, data: Sequences, ahead: int) -> dict[str, Any]:
    time = _times(data)
    out: dict[str, Any] = {
        "sequence": data.labels,
        "time": time,
        "ahead": np.arange(1, ahead + 1),
    }
    out |= model.coords()
    features = data.features
    out |= {"feature": features, "feature_from": features}
    kind = model.observations
    if kind.codes and len(data.symbols or ()) == kind.channels:
        symbols = data.symbols
        out |= {"symbol": symbols, "predictor": symbols, "predictor_from": symbols}
    elif not kind.codes:
        channels = getattr(kind, "channel_names", features)
        out |= {"predictor": channels, "predictor_from": channels}
    seen = as_array(data.observed_steps)
    if len(data) > 1:
        out["log_likelihood/sequence"] = np.array(data.labels)[seen.any(1)]
    else:
        out["log_likelihood/time"] = time[seen[0]]
    return out


def _times(data: Sequences) -> Array:
    """The real times if all sequences share them without repetition, else 0 … T − 1."""
    plain = np.arange(data.max_length)
    if data.times is None:
        return plain
    longest = data.times[data.lengths.argmax()]
    shared = (data.times == longest) | ~data.step_mask
    if not bool(shared.all()) or len(longest.unique()) < len(longest):
        return plain
    return as_array(longest)


# --- attributes


def _attrs(
    result: Fit | NutsFit,
    data: Sequences,
    wanted: _Wanted,
    sample: Sample,
    groups: Groups,
    order: Tensor | None,
    places: list[list[int]] | None,
) -> dict[str, Any]:
    model = result.model
    export = dataclasses.asdict(wanted)
    attrs: dict[str, Any] = {
        "method": "nuts" if isinstance(result, NutsFit) else "variational",
        "model": repr(model),
        "observations": "codes" if model.observations.codes else "numbers",
        "seed": result.seed,
        "settings": _plain(dataclasses.asdict(result.settings)),
        "export": export,
        "seconds": result.seconds,
        "versions": dict(result.versions),
    }
    if units := data.units or model.names.units:
        attrs["units"] = dict(units)
    if order is not None:
        attrs["state_order"] = order.tolist()
    if places is not None:
        attrs["chain_order"] = places
    if not model.exact:
        attrs["estimated"] = (
            "log_likelihood: the mean weight of trajectories of the guide, too small on average"
        )
    if commit := source_commit():
        attrs["git_commit"] = commit
    if model.exact and "step_log_likelihood" not in groups["sample_stats"]:
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
        "ending": result.ending,
    }
    size = result.extent
    own = size is None or (size.sequences, size.steps) == (len(data), data.n_steps)
    return attrs | _quality(groups, own)


def _quality(groups: Groups, own: bool) -> dict[str, Any]:
    """k̂ of the exported draws as importance proposals, where they have a density.

    A large one is warned of if the data are the fit's own: those of others have another posterior.
    """
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
    if not known:
        return {}
    limit = k_threshold(weights.size)
    found = known.get("k_hat_parameters")
    if own and found is not None and found > limit:
        warn(
            f"to_arviz: k̂ of the parameters is {found:.2f}, above {limit:.2f}: "
            "the guide's draws may be too narrow; compare with nuts",
            ConvergenceWarning,
        )
    return known | {"k_threshold": limit}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for JSON; of a start given by values only the names are kept."""
    start = settings.get("start")
    values = {"start": sorted(start)} if isinstance(start, Mapping) else {}
    return {**settings, **values}
