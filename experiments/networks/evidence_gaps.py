"""Evidence gaps: what each kind of guide falls short of the evidence, and why.

evidence − ELBO = family + causality + amortization, nats per step, for a network in five slots:
causal beliefs joined by the model's own backward kernel (`BeliefGuide`), the plain causal guide
q(z_t | z_{t-1}, y so far), the same reading backward (which can be the exact smoother) or both
ways, and independent steps, causal or not. The models are known: hidden Markov models with symbols
and normal outputs, three binary nodes (eight states; beliefs are products of Bernoulli laws, which
has a floor of its own), and a scalar linear-Gaussian model. The best members of every family are
found without networks. On all short sequences of symbols and of nodes each part is found a second
time by enumeration: that parts add up to the gap is no test, as amortization is what is left.
Beside it, at which events the network's update stops being Bayes' rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ...inference import (
    BeliefGuide,
    ExactFilter,
    ForwardGuide,
    GapParts,
    LSTMFilter,
    MeanFieldGuide,
    UpdateErrors,
    evidence_gap,
    fit,
    gaps,
    update_errors,
)
from ...inference.arviz_groups import Idata
from ...inference.checking.update_errors import EventTable
from ...inference.filters.recurrent import Direction
from ...inference.filters.slot import Filter
from ...inference.guides.guide import Guide
from ...models import HiddenMarkovModel, Sequences, Simulation, node_states
from ...models.checks import require
from ...models.randomness import one_thread, seeded
from ..command.report import Array, Outcome, record
from ..command.seeds import Figures, Repeated, at_least, falls_short, over_seeds, stream, summary
from ..parts.training import GradientSteps, Simulated
from .drawings.evidence_gaps import draw_parts, draw_updates
from .parts.enumerated_gaps import enumerated
from .parts.gap_models import CASES, future_information, known_model

REACH = {"largest_distance_of_a_part_from_enumeration": ("<=", 1e-3)}
"""Nats a sequence, of all parts of the first fit of every kind; fixed before any run."""

ENUMERATED: Mapping[str, tuple[Tensor, int]] = {
    "three_states_symbols": (torch.arange(3).unsqueeze(-1), 3),
    "three_binary_nodes": (node_states(2), 2),
}
"""What can be seen at a step, and steps of the sequences that are listed: 27 with 27 paths each, 16
with 64."""

PARTS = ("family", "causality", "amortization")


@dataclass(frozen=True)
class Settings(GradientSteps, Simulated, Repeated):
    """Settings of the experiment."""

    hidden_size: int = 16
    """Units of every LSTM, in each direction; beliefs are one to eight numbers."""
    training_sequences: int = 10_000
    """New ones for every fit: three passes over them, so that there is little to learn by heart."""
    heldout_sequences: int = 500
    symbols_length: int = 6
    """Steps of a sequence of three symbols: all 729 can be listed."""
    nodes_length: int = 5
    """Steps of a sequence of two bits a step: all 1024 can be listed."""
    long_length: int = 20
    """Steps of a sequence of normal outputs, where best causal guides follow from regressions or,
    for the linear-Gaussian model, in closed form."""
    missing: float = 0.1
    """Share of the steps that are missing in a case of its own, for the update error there."""
    steps: int = 500
    """Gradient steps of every fit: what is left to amortization is then mostly training noise."""
    sleep_steps: int = 100
    """Forward-KL steps before the bound for independent steps that see all: without them these may
    end in one state for the whole sequence."""
    enumeration_starts: int = 5
    """Random starts of every search for a best member by enumeration: independent steps have
    several optima."""
    enumeration_iterations: int = 200
    """Of L-BFGS from each of them, at most."""
    lags: int = 8
    """Steps after a switch of the state that the update error is told apart for."""
    draws: int = 100
    """Draws of hidden states from the first BeliefGuide, kept in posterior.nc."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "hidden_size", "training_sequences", "steps", "batch_size")
        at_least(1, self, "lags", "draws", "enumeration_starts", "enumeration_iterations")
        at_least(20, self, "heldout_sequences")
        at_least(2, self, "symbols_length", "nodes_length", "long_length")
        at_least(0, self, "sleep_steps")
        require(0 < self.missing < 1, "missing", "must be in (0, 1)", self.missing)


SMOKE: Mapping[str, object] = {
    "seeds": 1,
    "hidden_size": 3,
    "training_sequences": 64,
    "heldout_sequences": 20,
    "symbols_length": 2,
    "nodes_length": 2,
    "long_length": 3,
    "steps": 3,
    "batch_size": 16,
    "sleep_steps": 2,
    "enumeration_starts": 1,
    "enumeration_iterations": 3,
    "draws": 3,
}


class Method(NamedTuple):
    """A guide, and what its network may read (None: the exact filter, there is no network)."""

    label: str
    guide: type[Guide]
    direction: Direction | None = "forward"
    factorised: bool = True
    trained: bool = True


METHODS: Mapping[str, Method] = {
    "belief_guide": Method("BeliefGuide", BeliefGuide),
    "belief_guide_free": Method("BeliefGuide, free beliefs", BeliefGuide, factorised=False),
    "causal_forward": Method("causal forward", ForwardGuide),
    "smoothing_forward": Method("forward, reads backward", ForwardGuide, "backward"),
    "bidirectional_forward": Method("forward, reads both ways", ForwardGuide, "both"),
    "causal_mean_field": Method("causal mean field", MeanFieldGuide),
    "bidirectional_mean_field": Method("mean field, reads both ways", MeanFieldGuide, "both"),
    "untrained_belief_guide": Method("BeliefGuide, untrained", BeliefGuide, trained=False),
    "exact_filter": Method("BeliefGuide, exact filter", BeliefGuide, None, trained=False),
}
"""Every kind of fit, by its name in the report. With free beliefs only where others are not."""


# --- the models -----------------------------------------------------------------------------------


def simulated(settings: Settings, case: str, sequences: int, seed: int) -> Simulation:
    """Sequences of a case."""
    lengths = {
        "three_states_symbols": settings.symbols_length,
        "three_binary_nodes": settings.nodes_length,
    }
    drawn = known_model(case).sample(sequences, lengths.get(case, settings.long_length), seed=seed)
    if case != "two_states_normal_missing":
        return drawn
    with seeded(seed):
        mask = torch.rand(drawn.states.shape) >= settings.missing
    data = Sequences.from_tensors(drawn.data.values, mask=mask.unsqueeze(-1))
    return Simulation(drawn.states, data, drawn.parameters)


def heldout(settings: Settings, case: str) -> Simulation:
    """The sequences of a case on which everything is measured."""
    number = list(CASES).index(case)
    return simulated(settings, case, settings.heldout_sequences, stream(settings, 0, number))


def methods(case: str) -> list[str]:
    """Names of what is fitted to a case; where steps are missing the update error is the aim."""
    if case == "two_states_normal_missing":
        return ["belief_guide"]
    free = case == "three_binary_nodes"
    return [name for name in METHODS if name != "belief_guide_free" or free]


# --- fits -----------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """A fit, its parts, and where its update errs."""

    filter: Filter
    parts: GapParts
    kl_filter: float | None
    update: UpdateErrors | None


def train(settings: Settings, case: str, name: str, number: int) -> Measured:
    """One fit from its own seed; fits of one number see the same sequences."""
    method, model = METHODS[name], known_model(case)
    seed = stream(settings, 1, list(CASES).index(case), number)
    data = simulated(settings, case, settings.training_sequences, seed).data
    with seeded(seed):
        guide = method.guide(model, _filter(settings, method))
    if method.trained:
        sleeps = method.guide is MeanFieldGuide and method.direction == "both"
        how = settings.fit_settings(sleep_steps=settings.sleep_steps if sleeps else 0)
        guide = fit(model, guide, data, settings=how, seed=seed, progress=False).guide
    else:
        guide.calibrate(data)
    return measure(settings, guide, heldout(settings, case))


def _filter(settings: Settings, method: Method) -> Filter:
    if method.direction is None:
        return ExactFilter()
    return LSTMFilter(
        settings.hidden_size, direction=method.direction, factorised=method.factorised
    )


def measure(settings: Settings, guide: Guide, test: Simulation) -> Measured:
    """The gap of a guide taken apart, on held-out sequences."""
    whole, parts = evidence_gap(guide, test.data), gaps(guide, test.data)
    update = None
    if whole.update_error is not None and isinstance(guide.filter, LSTMFilter):
        states = None if test.states.is_floating_point() else test.states
        update = update_errors(whole, test.data, states=states, lags=settings.lags)
    causal = guide.filter.causal and whole.kl_filter is not None
    kl = whole.kl_filter_per_step if causal else None
    return Measured(guide.filter, parts, kl, update)


# --- the experiment -------------------------------------------------------------------------------

Fits = dict[str, dict[str, list[Measured]]]
"""By case and method, in the order of their seeds."""


def run(settings: Settings) -> Outcome:
    """Fit everything, take all gaps apart on the same held-out sequences."""
    plan = [
        (settings, case, name, number)
        for case in CASES
        for name in methods(case)
        for number in range(settings.seeds)
    ]
    done = over_seeds(train, plan, jobs=settings.jobs)
    fits: Fits = {case: {name: [] for name in methods(case)} for case in CASES}
    for (_, case, name, _), one in zip(plan, done, strict=True):
        fits[case][name].append(one)
    listed = _enumerated(settings, fits)
    distances = [one["largest_distance"] for case in listed.values() for one in case.values()]
    figures: dict[str, Any] = {
        "reach": {name: f"{sense} {bound:g}" for name, (sense, bound) in REACH.items()},
        "largest_distance_of_a_part_from_enumeration": max(distances),
        "nats_a_sequence_by_enumeration": listed,
        "cases": {case: _case_figures(settings, case, fits[case]) for case in CASES},
    }
    figures = {"not_reached": falls_short(figures, REACH), **figures}
    return Outcome(figures, _posterior(settings, fits))


@one_thread()
def _enumerated(settings: Settings, fits: Fits) -> dict[str, dict[str, dict[str, float]]]:
    """Every part of the first fits by enumeration, and as `gaps` finds it, by case and method."""
    return {
        case: {
            name: enumerated(
                METHODS[name].guide(known_model(case), measured[0].filter),
                symbols,
                length,
                starts=settings.enumeration_starts,
                iterations=settings.enumeration_iterations,
                seed=stream(settings, 3),
            )
            for name, measured in fits[case].items()
        }
        for case, (symbols, length) in ENUMERATED.items()
    }


def _case_figures(
    settings: Settings, case: str, fits: Mapping[str, list[Measured]]
) -> dict[str, Any]:
    model, test = known_model(case), heldout(settings, case)
    first = fits["belief_guide"][0].parts
    out: dict[str, Any] = {
        "title": CASES[case],
        "evidence_per_step": float(first.log_evidence.sum()) / first.steps,
    }
    if isinstance(model, HiddenMarkovModel):
        out["information_of_the_future_per_step"] = future_information(model, test.data)
    for name, measured in fits.items():
        out[name] = {
            "best_causal_member": measured[0].parts.causal,
            **summary([_figures(one) for one in measured]),
        }
    updates = [one.update for one in fits["belief_guide"]]
    out["update_error_of_belief_guide"] = _update_figures(updates)
    return out


def _figures(one: Measured) -> dict[str, Any]:
    found = {name: x for name, x in one.parts.figures().items() if math.isfinite(x)}
    return found if one.kl_filter is None else {**found, "kl_filter_per_step": one.kl_filter}


_TABLES = ("over_time", "by_surprise", "since_switch", "by_missing")


def _update_figures(updates: list[UpdateErrors | None]) -> dict[str, Any]:
    """Tables of events, each row the mean over the fits with their interval."""
    each = []
    for update in updates:
        assert update is not None
        tables = {}
        for name in _TABLES:
            table: EventTable | None = getattr(update, name)
            if table is None:
                continue
            rows = zip(table.names, table.mean, table.share, table.steps, strict=True)
            tables[name] = {
                row.replace(": ", "_").replace(" ", "_"): {
                    "mean": float(mean),
                    "share": float(share),
                }
                for row, mean, share, steps in rows
                if int(steps)
            }
        correlation = {"rank_correlation_with_surprise": update.surprise_correlation}
        each.append({**tables, **correlation})
    return summary(each)


# --- posterior.nc ---------------------------------------------------------------------------------


def _posterior(settings: Settings, fits: Fits) -> Idata:
    """Draws of the hidden states of one case, and all that is drawn."""
    names = list(METHODS)
    shape = len(CASES), len(names), len(PARTS), settings.seeds
    parts = np.full(shape, np.nan)
    for c, case in enumerate(CASES):
        for name, measured in fits[case].items():
            for s, one in enumerate(measured):
                for p, part in enumerate(PARTS):
                    values = getattr(one.parts, part)
                    parts[c, names.index(name), p, s] = one.parts.per_step(values)[0]
    arrays: dict[str, Array] = {"parts": parts}
    dims: dict[str, tuple[str, ...]] = {"parts": ("case", "approach", "part", "fit")}
    for table in _TABLES:
        arrays[table], arrays[f"{table}_error"] = _event_arrays(fits, table)
        dims[table] = dims[f"{table}_error"] = ("case", f"{table}_event")
    case = "two_states_normal"
    few = heldout(settings, case).data[:5]
    model = known_model(case)
    guide = BeliefGuide(model, fits[case]["belief_guide"][0].filter)
    with seeded(stream(settings, 2)), torch.no_grad():
        paths = guide.posterior(model.laws({}, few)).sample_paths(settings.draws)
    return record(
        settings,
        {
            "posterior": {"hidden_state": paths.to(torch.int8).numpy()[None]},
            "observed_data": {"y": few.values[..., 0].double().numpy()},
            "constant_data": arrays,
        },
        dims={"hidden_state": ("sequence", "time"), "y": ("sequence", "time"), **dims},
        coords={
            "case": list(CASES),
            "approach": names,
            "part": list(PARTS),
            "time": np.arange(1, settings.long_length + 1),
        },
    )


def _event_arrays(fits: Fits, name: str) -> tuple[Array, Array]:
    """Mean over fits of a table of events, and its standard error over fits, (case, event)."""
    found: list[Array] = []
    for case in CASES:
        tables = [getattr(one.update, name) for one in fits[case]["belief_guide"]]
        rows = [[np.nan] if table is None else table.mean.tolist() for table in tables]
        found.append(np.array(rows))
    width = max(table.shape[1] for table in found)
    mean = np.full((len(found), width), np.nan)
    error = np.full((len(found), width), np.nan)
    for c, table in enumerate(found):
        mean[c, : table.shape[1]] = table.mean(0)
        if len(table) > 1:
            error[c, : table.shape[1]] = table.std(0, ddof=1) / math.sqrt(len(table))
    return mean, error


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """The three parts of every gap; the update error by event."""
    labels = {name: method.label for name, method in METHODS.items()}
    return {
        "parts": draw_parts(posterior, CASES, labels),
        "update_errors": draw_updates(posterior, CASES),
    }
