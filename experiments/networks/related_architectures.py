"""Related architectures: what stands between the hidden Markov model and the LSTM.

Every recursion that keeps a belief, in one table: how many nats its one-step predictions lose
against those of the exact filter (regret), how far its belief is from the exact one (KL), how many
numbers it has, and what a step costs. Four processes with an exact filter: a hidden Markov model
of symbols, a harmonium over time, a linear-Gaussian model, and an input-output hidden Markov model.
Networks are trained in a `BeliefGuide` by its bound, the model being known; others are written from
the model's parameters; the spectral one is estimated from moments of the symbols. Predictions are
always belief × the model's transition × its emission; the spectral model has its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...inference import (
    BeliefGuide,
    ExactFilter,
    SpectralFilter,
    filter_beliefs,
    fit,
    step_log_likelihood,
)
from ...inference import filter as exact_filter
from ...inference.arviz_groups import Idata
from ...inference.exact.chains import predicted_beliefs
from ...inference.filters.gaussian_beliefs import GaussianBeliefs
from ...inference.filters.slot import Beliefs, Filter
from ...models import DiscreteLaws, HiddenMarkovModel, Model, Sequences
from ...models.beliefs import divergence
from ...models.checks import require
from ...models.randomness import one_thread, seeded
from ..command.report import Array, Outcome, record
from ..command.seeds import Figures, Repeated, against, at_least, over_seeds, stream, summary
from ..parts.training import Drawn, GradientSteps, Simulated
from .drawings.related_architectures import draw
from .parts.architectures import CASES, TRAINED, model_of, scalars, written
from .parts.reference_filters import discrete, window_beliefs
from .parts.spectral_error import spectral_errors

__all__ = ["SMOKE", "Settings", "draw", "run"]

SLOPE, SLOPE_WITHIN = -0.5, 0.1
"""The spectral error must fall as n to this power, within so much."""


@dataclass(frozen=True)
class Settings(Drawn, GradientSteps, Simulated, Repeated):
    """Settings of the experiment."""

    hidden_size: int = 16
    """Units of LSTM, GRU and Elman network."""
    length: int = 50
    """Steps of a sequence: no process remembers longer."""
    training_sequences: int = 5000
    """Of a fit; the spectral model counts their triples."""
    heldout_sequences: int = 1000
    """Sequences on which everything is measured, the same for all fits of a process."""
    steps: int = 500
    """Gradient steps of every fit: about six passes."""
    windows: tuple[int, ...] = (1, 2, 4, 8)
    """Baselines: the best prediction from so many last observations."""
    sizes: tuple[int, ...] = (1000, 3162, 10_000, 31_623, 100_000, 316_228, 1_000_000)
    """Samples of three symbols that the spectral error is measured at."""
    replicates: int = 200
    """Independent estimates at each size and seed."""
    joint_length: int = 4
    """The spectral error is the sum over all sequences of this length of the absolute error of
    their probability, and the same of the next symbol after three."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "hidden_size", "training_sequences", "steps", "replicates", "draws")
        at_least(2, self, "length", "joint_length")
        for name in ("windows", "sizes"):
            fits = min(getattr(self, name), default=0) >= 1
            require(fits, name, "needs whole numbers >= 1", getattr(self, name))


SMOKE: Mapping[str, object] = {
    "seeds": 1,
    "hidden_size": 3,
    "length": 8,
    "training_sequences": 60,
    "heldout_sequences": 20,
    "steps": 2,
    "batch_size": 16,
    "windows": (1, 2),
    "sizes": (1000, 10_000),
    "replicates": 5,
    "draws": 5,
}


# The processes


def simulated(settings: Settings, case: str, sequences: int, seed: int) -> Sequences:
    """Sequences of a process; inputs, where it reads them, are fair signs."""
    inputs = None
    if case == "input_output":
        rng = np.random.default_rng(seed)
        inputs = rng.choice([-1.0, 1.0], (sequences, settings.length, 1))
    return model_of(case).sample(sequences, settings.length, inputs=inputs, seed=seed).data


def heldout(settings: Settings, case: str) -> Sequences:
    """The sequences on which everything is measured."""
    seed = stream(settings, 0, CASES.index(case))
    return simulated(settings, case, settings.heldout_sequences, seed)


# The architectures


# How they are measured


class Measured(NamedTuple):
    """Figures of an architecture, and its filter."""

    figures: dict[str, float]
    filter: Filter


def train(settings: Settings, case: str, name: str, number: int) -> Measured:
    """One fit from its own seed, measured on the held-out sequences."""
    seed = stream(settings, 1, CASES.index(case), number)
    model = model_of(case)
    data = simulated(settings, case, settings.training_sequences, seed)
    with seeded(seed):
        guide = BeliefGuide(model, TRAINED[case][name](settings.hidden_size))
    if name == "spectral":
        guide.calibrate(data)
        return measured(settings, case, guide.filter)
    found = fit(model, guide, data, settings=settings.fit_settings(), seed=seed, progress=False)
    return measured(settings, case, found.guide.filter)


def measured(settings: Settings, case: str, filter: Filter) -> Measured:
    """Regret and KL per step, numbers and microseconds per step."""
    data, model = heldout(settings, case), model_of(case)
    laws = model.laws({}, data)
    if laws.discrete is not None:
        _ = laws.discrete.log_likelihood  # shared by all: not part of a filter's cost
    with torch.no_grad():
        start = time.perf_counter()
        beliefs = filter(laws)
        seconds = time.perf_counter() - start
        kl, told = compared(model, data, beliefs)
        if isinstance(filter, SpectralFilter):
            told = filter.operators.step_log_likelihood(data.codes())
    figures = {
        "regret_per_step": regret(step_log_likelihood(model, data), told),
        "kl_filter_per_step": float(kl.mean()),
        "parameters": float(numbers(filter)),
        "microseconds_per_step": 1e6 * seconds / data.n_steps,
    }
    return Measured(figures, filter)


def regret(exact: Tensor, told: Tensor) -> float:
    """Mean of log p(y_t | y_<t) − log p̂(y_t) from the second step on, for log densities (N, T).

    As the mean of r − 1 − log r, r = p̂ / p: y_t was drawn from p, under which r has mean 1. It
    estimates the same number with far less noise, and no draw of it is negative.
    """
    log_ratio = (told - exact)[:, 1:]
    return float((log_ratio.expm1() - log_ratio).mean())


def numbers(filter: Filter) -> int:
    """Free numbers of a filter; 0 for what has none beyond the model's."""
    if isinstance(filter, SpectralFilter):
        return sum(part.numel() for part in (filter.start, filter.end, filter.transfer))
    assert isinstance(filter, nn.Module)
    return sum(weight.numel() for weight in filter.parameters() if weight.requires_grad)


def compared(model: Model, data: Sequences, beliefs: Beliefs) -> tuple[Tensor, Tensor]:
    """KL(exact filter ‖ beliefs), and log p(y_t) predicted from the beliefs before, (N, T)."""
    if isinstance(beliefs, GaussianBeliefs):
        a, q, r = scalars(model)
        moments = exact_filter(model, data)
        law = GaussianBeliefs.of_moments(moments.mean, moments.covariance)
        mean, variance = a * beliefs.mean[:, :-1, 0], a**2 * beliefs.variance[:, :-1, 0] + q + r
        first = model.known["initial_variance"].reshape(()) + r
        variance = torch.cat([first.expand(len(data), 1), variance], 1)
        away = data.values[..., 0].double() - nn.functional.pad(mean, (1, 0))
        told = -0.5 * (away**2 / variance + (2 * math.pi * variance).log())
        return law.divergence(beliefs), told
    laws = model.laws({}, data)
    kl = divergence(ExactFilter()(laws), beliefs)
    return kl, discrete_predictions(discrete(laws), beliefs)


def discrete_predictions(laws: DiscreteLaws, beliefs: Tensor) -> Tensor:
    """log Σ_z O(y_t | z) Σ_z' T(z' , z) β_{t-1}(z'), (N, T) nats."""
    predicted = predicted_beliefs(laws.log_initial, laws.log_transition, beliefs)
    return (predicted + laws.log_likelihood).logsumexp(-1)


# Baselines


def baselines(settings: Settings, case: str) -> dict[str, dict[str, float]]:
    """Predictions that remember nothing, or a window of observations: the best of their kind."""
    data, model = heldout(settings, case), model_of(case)
    if case == "linear_gaussian":
        variance = float(model.known["initial_variance"])
        mean = torch.zeros(len(data), data.max_length, 1, dtype=torch.float64)
        law = GaussianBeliefs(mean, torch.full_like(mean, variance**0.5))
        return {"stationary_law": _figures(model, data, law)}
    laws = model.laws({}, data)
    chain = discrete(laws)
    nothing = torch.zeros_like(chain.log_likelihood)
    prior = filter_beliefs(chain.log_initial, chain.log_transition, nothing)
    out = {"stationary_law": _figures(model, data, prior)}
    for size in settings.windows if case != "input_output" else ():
        beliefs = window_beliefs(laws, prior, size)
        out[f"window_of_{size}"] = _figures(model, data, beliefs)
    return out


def _figures(model: Model, data: Sequences, beliefs: Beliefs) -> dict[str, float]:
    kl, told = compared(model, data, beliefs)
    lost = regret(step_log_likelihood(model, data), told)
    return {"regret_per_step": lost, "kl_filter_per_step": float(kl.mean())}


# The experiment


def spectral(settings: Settings, number: int) -> dict[str, object]:
    """The spectral error on the symbols' process, with draws of its own for each seed."""
    model, seed = model_of("symbols"), stream(settings, 3, number)
    assert isinstance(model, HiddenMarkovModel)
    how = settings.sizes, settings.replicates, settings.joint_length
    return dict(spectral_errors(model, *how, seed))


def run(settings: Settings) -> Outcome:
    """Fit everything, measure everything on the same held-out sequences."""
    plan = [
        (settings, case, name, number)
        for case in CASES
        for name in TRAINED[case]
        for number in range(settings.seeds)
    ]
    done = over_seeds(train, plan, jobs=settings.jobs)
    fits: dict[tuple[str, str], list[Measured]] = {}
    for (_, case, name, _), one in zip(plan, done, strict=True):
        fits.setdefault((case, name), []).append(one)
    errors = [spectral(settings, number) for number in range(settings.seeds)]
    figures: dict[str, Any] = {"spectral_error": summary(errors)}
    for name in ("joint", "next_symbol"):
        one = figures["spectral_error"][name]
        one["slope_off_by"] = abs(one["slope"] - SLOPE)
    with one_thread():
        for case in CASES:
            figures[case] = {
                **{n: dict(measured(settings, case, f).figures) for n, f in written(case).items()},
                **baselines(settings, case),
                **{n: summary([x.figures for x in fits[case, n]]) for n in TRAINED[case]},
            }
    reach = {
        f"spectral_error.{n}.slope_off_by": ("<=", SLOPE_WITHIN) for n in ("joint", "next_symbol")
    }
    return Outcome(
        against(figures, reach), _posterior(settings, fits["symbols", "lstm"][0].filter, figures)
    )


def _origin(case: str, name: str) -> str:
    """Where a row's numbers come from."""
    if name == "spectral":
        return "estimated from moments"
    if name in TRAINED[case]:
        return "trained by the bound"
    baseline = name.startswith(("stationary", "window", "steady")) or "blind" in name
    return "baseline" if baseline else "written from the parameters"


def _posterior(settings: Settings, lstm: Filter, figures: Figures) -> Idata:
    """Draws of the hidden states of the symbols from the first LSTM's guide, and what is drawn."""
    model, few = model_of("symbols"), heldout(settings, "symbols")[: settings.shown_sequences]
    guide = BeliefGuide(model, lstm)
    with seeded(stream(settings, 2)), torch.no_grad():
        paths = guide.posterior(model.laws({}, few)).sample_paths(settings.draws)
    rows = [(case, name) for case in CASES for name in figures[case]]

    def table(name: str) -> Array:
        out = np.full((len(rows), settings.seeds), np.nan)
        for place, (case, row) in enumerate(rows):
            found = figures[case][row]
            out[place] = found.get(f"{name}_by_seed", found.get(name, np.nan))
        return out

    errors = figures["spectral_error"]
    by_size = [
        [errors[kind][f"error_at_{size}_by_seed"] for size in settings.sizes] for kind in errors
    ]
    return record(
        settings,
        {
            "posterior": {"hidden_state": paths.numpy()[None]},
            "observed_data": {"y": few.codes().numpy()},
            "constant_data": {
                "regret": table("regret_per_step"),
                "kl_filter": table("kl_filter_per_step"),
                "parameters": table("parameters"),
                "spectral_error": np.array(by_size),
                "process": np.array([case for case, _ in rows]),
                "architecture": np.array([name for _, name in rows]),
                "origin": np.array([_origin(case, name) for case, name in rows]),
            },
        },
        dims={
            "hidden_state": ("sequence", "step"),
            "y": ("sequence", "step"),
            **dict.fromkeys(("regret", "kl_filter", "parameters"), ("row", "fit")),
            "spectral_error": ("error_of", "size", "fit"),
            "process": ("row",),
            "architecture": ("row",),
            "origin": ("row",),
        },
        coords={"error_of": list(errors), "size": np.array(settings.sizes)},
    )
