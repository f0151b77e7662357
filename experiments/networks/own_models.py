"""Own models: what stands between the HMM and the LSTM, each with the model that it learned itself.

In `related-architectures` every belief predicts with the known model, on processes that a window of
a few symbols predicts as well. Here are two that no window predicts: RRXOR, whose beginning of a
triple must be found out from all symbols, and a chain that switches every fifty steps. Nothing is
known: each architecture sits in a `BeliefGuide` of a hidden Markov model whose parameters are
learned with it, by one bound, and predicts with its own belief and its own model. All start from
the same model (some steps with the exact filter, from the prior). The settings of each are sought
for it alone, with training and validation sequences of their own. So is the spectral filter's
block; it sits in the same slot, and its model is learned around it. Beside them stands what the
exact filter would predict with each learned model: what is missing is either the model's fault or
the network's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...inference import (
    BayesianRecurrentFilter,
    BeliefGuide,
    CRFFilter,
    ElmanFilter,
    ExactFilter,
    GRUFilter,
    LSTMFilter,
    MEMMFilter,
    filter_beliefs,
    fit,
)
from ...inference.arviz_groups import Idata
from ...inference.exact.chains import predicted_beliefs
from ...inference.filters.slot import Beliefs, Filter
from ...models import Categorical, HiddenMarkovModel, Laws, Sequences, random_random_xor
from ...models.beliefs import divergence
from ...models.checks import require
from ...models.randomness import one_thread, seeded
from ..command.report import Outcome, record
from ..command.seeds import Figures, Repeated, against, at_least, over_seeds, stream, summary
from ..parts.training import GradientSteps, Simulated, to_the_end
from .drawings.own_models import draw
from .parts.block_spectral import BlockSpectralFilter
from .parts.reference_filters import window_beliefs

__all__ = ["SMOKE", "Settings", "draw", "run"]

CASES = "random_random_xor", "slow_chain"
RANKS = {"random_random_xor": 5, "slow_chain": 2}
"""Of the spectral operators: the rank of the process."""

WINDOWS = 1, 2, 4, 8
"""Baselines: predictions by the true model from so many last symbols."""

RECURRENT: Mapping[str, Callable[[int], Filter]] = {
    "lstm": LSTMFilter,
    "gru": GRUFilter,
    "elman": ElmanFilter,
}
CHAINS: Mapping[str, Callable[[], Filter]] = {
    "bayesian_recurrent_unit": BayesianRecurrentFilter,
    "conditional_random_field": CRFFilter,
    "maximum_entropy_markov_model": MEMMFilter,
}
SPECTRAL, EXACT, FROM_PRIOR = "spectral", "exact_filter", "lstm_from_a_model_of_the_prior"

REACH: Mapping[str, tuple[str, float]] = {
    **{f"{case}.{name}.regret_per_step": ("<=", 2e-3) for case in CASES for name in RECURRENT},
    **{f"{case}.worst_recurrent_ahead_of_a_window_of_8": (">=", 1.0) for case in CASES},
}
"""What was to be reached, fixed before the run: nats a step; a window's regret by a network's."""


@dataclass(frozen=True)
class Settings(GradientSteps, Simulated, Repeated):
    """Settings of the experiment."""

    seeds: int = 3
    """Fits of each architecture at the settings that were found for it."""
    length: int = 50
    """Steps of a sequence: RRXOR takes about a dozen to synchronise."""
    training_sequences: int = 4000
    """Of a fit, the same for all architectures of a seed."""
    validation_sequences: int = 500
    """Sequences by which settings are chosen, where nothing else is measured."""
    heldout_sequences: int = 1000
    """Sequences on which everything is measured."""
    rates: tuple[float, ...] = (3e-3, 1e-2)
    """Learning rates that are tried for every architecture…"""
    sizes: tuple[int, ...] = (32,)
    """…numbers of units of LSTM, GRU and Elman network…"""
    blocks: tuple[int, ...] = (1, 2, 3, 4)
    """…and lengths of the spectral filter's blocks."""
    most_blocks: int = 100
    """Kinds of blocks at most: longer ones are left out."""
    steps: int = 800
    """Gradient steps of network and model together…"""
    sleep_steps: int = 200
    """…after so many of the network alone, on simulations of the start."""
    starts: int = 8
    """Models drawn from the prior, each improved with the exact filter…"""
    start_steps: int = 400
    """…by so many steps of Adam; all architectures go on from the best."""
    start_rate: float = 0.1
    """Adam's there: enough to leave the plateau where all states are alike…"""
    parameter_learning_rate: float = 0.03
    """…and for the model's parameters beside a network, which must follow them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "training_sequences", "validation_sequences", "steps", "starts")
        at_least(2, self, "length", "heldout_sequences")
        for name in ("rates", "sizes", "blocks"):
            require(len(getattr(self, name)) > 0, name, "needs one or more", ())


SMOKE: Mapping[str, object] = {
    "seeds": 2,
    "length": 12,
    "training_sequences": 40,
    "validation_sequences": 10,
    "heldout_sequences": 10,
    "rates": (1e-2,),
    "sizes": (3,),
    "blocks": (1, 3),
    "most_blocks": 8,
    "steps": 2,
    "sleep_steps": 1,
    "starts": 1,
    "start_steps": 2,
    "batch_size": 16,
}

Values = Mapping[str, Tensor]


class Choice(NamedTuple):
    """Settings of one architecture."""

    rate: float = 1e-2
    size: int = 0
    """Units, or symbols of a block."""


# The processes


def truth_of(case: str) -> HiddenMarkovModel:
    """The process."""
    if case == "random_random_xor":
        return random_random_xor().model
    edges = torch.linspace(-1.5, 1.5, 7).double()
    normal = torch.distributions.Normal(torch.tensor([[-0.5], [0.5]]).double(), 1.0)
    below = torch.cat([torch.zeros(2, 1), normal.cdf(edges), torch.ones(2, 1)], -1)
    return HiddenMarkovModel(2, Categorical(8)).with_parameters(
        initial=[0.5, 0.5], transition=[[0.98, 0.02], [0.02, 0.98]], probs=below.diff(dim=-1)
    )


def unknown(case: str) -> HiddenMarkovModel:
    """The model that is learned: RRXOR needs eight states where states emit symbols."""
    truth = truth_of(case)
    states = 8 if case == "random_random_xor" else truth.states
    return HiddenMarkovModel(states, Categorical(truth.observations.channels))


def simulated(settings: Settings, case: str, sequences: int, *key: int) -> Sequences:
    """Sequences of the process for one purpose."""
    seed = stream(settings, CASES.index(case), *key)
    return truth_of(case).sample(sequences, settings.length, seed=seed).data


def next_symbols(laws: Laws, beliefs: Beliefs) -> Tensor:
    """p(y_t | y_1 … y_{t-1}) by beliefs and laws, (N, T, S)."""
    assert isinstance(beliefs, Tensor)
    held = beliefs.double()
    predicted = predicted_beliefs(laws.log_initial, laws.log_transition, held).exp()
    return predicted @ laws.emission.mean(laws.parameters).to(predicted)


# Fits


def start_of(settings: Settings, case: str, number: int) -> Values:
    """Where the models of a seed start, the same for all architectures."""
    data = simulated(settings, case, settings.training_sequences, 1, number)
    how = to_the_end(
        method="adam",
        steps=1,
        batch_size=settings.batch_size,
        parameter_learning_rate=settings.start_rate,
        start="prior",
        restarts=settings.starts,
        restart_steps=settings.start_steps,
    )
    found = _fitted(unknown(case), ExactFilter(), data, how, stream(settings, 2, number))[0].known
    inside = {name: value.clamp_min(1e-6) for name, value in found.items()}
    return {name: value / value.sum(-1, keepdim=True) for name, value in inside.items()}


def _fitted(
    model: HiddenMarkovModel, filter: Filter, data: Sequences, how: Any, seed: int
) -> tuple[HiddenMarkovModel, Filter]:
    with seeded(seed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fit: ")  # of states that die: it is measured
        guide = BeliefGuide(model, filter, parameters="ml")
        found = fit(model, guide, data, settings=how, seed=seed, progress=False)
    assert isinstance(found.fitted, HiddenMarkovModel)
    return found.fitted, found.guide.filter


def filter_of(case: str, name: str, choice: Choice) -> Filter:
    """A filter with new weights."""
    if name == EXACT:
        return ExactFilter()
    if name == SPECTRAL:
        return BlockSpectralFilter(RANKS[case], choice.size)
    if name in CHAINS:
        return CHAINS[name]()
    with_units = RECURRENT["lstm" if name == FROM_PRIOR else name]
    return with_units(choice.size)


def learned(
    settings: Settings, case: str, name: str, choice: Choice, number: int, start: Values
) -> tuple[HiddenMarkovModel, Filter]:
    """A model and the architecture in its guide, learned together."""
    data = simulated(settings, case, settings.training_sequences, 1, number)
    trains = name not in (EXACT, SPECTRAL)
    how = settings.fit_settings(
        method="adam",
        learning_rate=choice.rate,
        parameter_learning_rate=settings.parameter_learning_rate,
        sleep_steps=settings.sleep_steps if trains else 0,
        start="prior" if name == FROM_PRIOR else start,
    )
    seed = stream(settings, 3, number)
    return _fitted(unknown(case), filter_of(case, name, choice), data, how, seed)


def choices(settings: Settings, case: str, name: str) -> list[Choice]:
    """What is tried for an architecture."""
    if name == SPECTRAL:
        symbols, rank = truth_of(case).observations.channels, RANKS[case]
        most = settings.most_blocks
        fits = [w for w in settings.blocks if rank <= symbols**w <= most]
        require(len(fits) > 0, "blocks", f"needs one of {rank} to {most} kinds", settings.blocks)
        return [Choice(size=w) for w in fits]
    sizes = settings.sizes if name in RECURRENT else (0,)
    return [Choice(rate, size) for rate in settings.rates for size in sizes]


def tried(settings: Settings, case: str, name: str, choice: Choice, start: Values) -> float:
    """Log score a step on validation sequences, of a fit to sequences that no other fit sees."""
    model, filter = learned(settings, case, name, choice, settings.seeds, start)
    data = simulated(settings, case, settings.validation_sequences, 4)
    laws = model.laws({}, data)
    with torch.no_grad():
        law = next_symbols(laws, filter(laws))
    told = law.gather(-1, data.codes().unsqueeze(-1)).clamp_min(1e-300).log()
    return float(told.mean())


# Measures


def regret(exact: Tensor, told: Tensor) -> float:
    """Mean KL(p(y_t | past) ‖ p̂(y_t | past)) from the second step on, of laws (N, T, S)."""
    ratio = exact.clamp_min(1e-300).log() - told.clamp_min(1e-300).log()
    return float((exact * ratio).sum(-1)[:, 1:].mean())


@torch.no_grad()
def measured(
    settings: Settings, case: str, model: HiddenMarkovModel, filter: Filter
) -> dict[str, float]:
    """What own belief and own model lose, and what the exact filter of that model would lose."""
    data = simulated(settings, case, settings.heldout_sequences, 5)
    true, laws = truth_of(case).laws({}, data), model.laws({}, data)
    best = next_symbols(true, ExactFilter()(true))
    own, exact = filter(laws), ExactFilter()(laws)
    assert isinstance(own, Tensor)
    assert isinstance(exact, Tensor)
    weights = filter.parameters() if isinstance(filter, nn.Module) else ()
    out = {
        "regret_per_step": regret(best, next_symbols(laws, own)),
        "regret_of_the_exact_filter_of_its_model": regret(best, next_symbols(laws, exact)),
        "kl_from_the_exact_filter_of_its_model": float(divergence(exact, own.double()).mean()),
        "weights": float(sum(weight.numel() for weight in weights if weight.requires_grad)),
    }
    if isinstance(filter, BlockSpectralFilter) and filter.operators is not None:
        states = filter.operators.predictive_states(data.codes())[:, :-1]
        alone = filter.operators.predictions(states)
        out["regret_of_the_operators_alone"] = regret(best, alone)
    return out


def work(
    settings: Settings, case: str, name: str, choice: Choice, number: int, start: Values
) -> dict[str, float]:
    """One fit, measured."""
    return measured(settings, case, *learned(settings, case, name, choice, number, start))


@one_thread()
def baselines(settings: Settings, case: str) -> dict[str, dict[str, float]]:
    """Predictions by the true model of one who remembers nothing, or a window."""
    data = simulated(settings, case, settings.heldout_sequences, 5)
    laws = truth_of(case).laws({}, data)
    best = next_symbols(laws, ExactFilter()(laws))
    nothing = torch.zeros_like(laws.log_likelihood)
    prior = filter_beliefs(laws.log_initial, laws.log_transition, nothing)
    beliefs = {f"window_of_{size}": window_beliefs(laws, prior, size) for size in WINDOWS}
    beliefs["no_memory"] = prior
    return {
        name: {"regret_per_step": regret(best, next_symbols(laws, each))}
        for name, each in beliefs.items()
    }


# The experiment


def run(settings: Settings) -> Outcome:
    """Seek settings of every architecture, then fit and measure each."""
    numbers = range(settings.seeds + 1)  # the last one is for the search
    plan = [(settings, case, number) for case in CASES for number in numbers]
    starts = dict(
        zip(
            [each[1:] for each in plan], over_seeds(start_of, plan, jobs=settings.jobs), strict=True
        )
    )
    names = [*RECURRENT, *CHAINS, SPECTRAL]
    search = [
        (settings, case, name, choice, starts[case, settings.seeds])
        for case in CASES
        for name in names
        for choice in choices(settings, case, name)
    ]
    scores = over_seeds(tried, search, jobs=settings.jobs)
    found: dict[tuple[str, str], tuple[float, Choice]] = {}
    for (_, case, name, choice, _), score in zip(search, scores, strict=True):
        found[case, name] = max(found.get((case, name), (-np.inf, choice)), (score, choice))
    for case in CASES:
        found[case, FROM_PRIOR] = found[case, "lstm"]
        found[case, EXACT] = 0.0, Choice()
    fits = [
        (settings, *key, choice, number, starts[key[0], number])
        for key, (_, choice) in found.items()
        for number in range(settings.seeds)
    ]
    done = iter(over_seeds(work, fits, jobs=settings.jobs))
    each = {key: [next(done) for _ in range(settings.seeds)] for key in found}
    figures: dict[str, Any] = {case: _figures(settings, case, each, found) for case in CASES}
    return Outcome(against(figures, REACH), _record(settings, each))


def _figures(
    settings: Settings,
    case: str,
    each: Mapping[tuple[str, str], Sequence[Figures]],
    found: Mapping[tuple[str, str], tuple[float, Choice]],
) -> dict[str, Any]:
    out: dict[str, Any] = {**baselines(settings, case)}
    for (of, name), fits in each.items():
        if of == case:
            choice = found[of, name][1]
            chosen: dict[str, float] = {}
            if name not in (EXACT, SPECTRAL):
                chosen["chosen_learning_rate"] = choice.rate
            if choice.size:
                word = "symbols_of_a_block" if name == SPECTRAL else "units"
                chosen[f"chosen_{word}"] = choice.size
            out[name] = summary(fits) | chosen
    worst = max(float(out[name]["regret_per_step"]) for name in RECURRENT)
    behind = out["window_of_8"]["regret_per_step"]
    out["worst_recurrent_ahead_of_a_window_of_8"] = behind / worst
    return out


def _record(settings: Settings, each: Mapping[tuple[str, str], Sequence[Figures]]) -> Idata:
    keys = [*next(iter(each.values()))[0]]
    names = list(dict.fromkeys(name for _, name in each))
    runs = {
        key: np.array([[[one[key] for one in each[case, n]] for n in names] for case in CASES])
        for key in keys
    }
    dims = dict.fromkeys(runs, ("process", "architecture", "fit"))
    coords = {"process": [*CASES], "architecture": names}
    return record(settings, {"runs": runs}, dims=dims, coords=coords)
