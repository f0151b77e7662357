"""Random chains: does one LSTM, at one setting, become the exact filter of any hidden Markov model.

Twenty hidden Markov models of two to eight states are drawn at random, a third each with symbols,
counts and reals. The same network is trained for each with the same settings, in a `BeliefGuide`
of the known model: it first learns to filter simulations (forward KL to the simulated states, which
alone keeps every state alive), then by the bound, at last by L-BFGS on the bound of the same
sequences. It is measured against the exact filter on new sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ...inference import BeliefGuide, LSTMFilter, evidence_gap, fit
from ...inference.arviz_groups import Idata, group
from ...models import HiddenMarkovModel
from ...models.randomness import one_thread
from ..command.report import Outcome, record
from ..command.seeds import (
    Figures,
    Repeated,
    Resumable,
    against,
    at_least,
    each_seed,
    stream,
    summary,
)
from ..parts.random_models import speaking
from ..parts.training import GradientSteps, Simulated, Units, positive
from .parts.last_steps import climb

__all__ = ["SMOKE", "Settings", "draw", "run"]

FAMILIES = "categorical", "poisson", "gaussian"
STATES = 2, 3, 4, 5, 6, 7, 8

NEAR = 3e-4
"""Evidence − ELBO, nats a step, below which a network counts as the filter."""

REACH = {"share_near": (">=", 0.9)}
"""Eighteen of twenty, each the mean of its seeds; fixed before any run."""

GAP = "evidence_gap_per_step"


@dataclass(frozen=True)
class Settings(Resumable, Units, GradientSteps, Simulated, Repeated):
    """Settings of the experiment; those of the fit were chosen on models of other seeds."""

    seeds: int = 1
    """Fits of each model, which differ in weights and in what they learn from."""
    models: int = 20
    """Drawn at random: of 2, 3, … 8, 2, … states, with symbols, counts, reals, symbols, …"""
    jobs: int = 2
    training_sequences: int = 20_000
    heldout_sequences: int = 500
    length: int = 50
    """Steps of a training sequence; states last up to thirty."""
    heldout_length: int = 100
    """Longer, so that a belief that drifts away is noticed."""
    sleep_steps: int = 200
    """Of Adam by forward KL. Without them seven and eight states end at .1 to 1 nats a step: one
    that is ruled out by chance has no gradient any more…"""
    steps: int = 400
    """…then by the bound…"""
    last_steps: int = 300
    """…and of L-BFGS on the bound: of eight states, .0004 are left after 200."""
    last_sequences: int = 400
    """Training sequences of these last steps."""
    learning_rate: float = 3e-2

    PLAN: ClassVar[tuple[str, ...]] = ("jobs", "kept", "seeds", "models")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "models", "training_sequences", "hidden_size", "steps", "last_sequences")
        at_least(0, self, "sleep_steps", "last_steps")
        at_least(2, self, "length", "heldout_length", "heldout_sequences")
        positive(self, "learning_rate")


SMOKE: Mapping[str, object] = {
    "seeds": 2,
    "models": 3,
    "jobs": 1,
    "hidden_size": 4,
    "training_sequences": 32,
    "heldout_sequences": 10,
    "length": 10,
    "heldout_length": 20,
    "sleep_steps": 2,
    "steps": 3,
    "last_steps": 2,
    "batch_size": 16,
}


def model_of(settings: Settings, number: int) -> HiddenMarkovModel:
    """One of the models."""
    random = np.random.default_rng(stream(settings, 0, number))
    return speaking(family_of(number), STATES[number % len(STATES)], random)


def family_of(number: int) -> str:
    """What its states emit."""
    return FAMILIES[number % len(FAMILIES)]


def name_of(number: int) -> str:
    """How a model is called in the report."""
    return f"model_{number}_{STATES[number % len(STATES)]}_states_{family_of(number)}"


def trained(settings: Settings, number: int, repetition: int) -> dict[str, object]:
    """One network, and how far its beliefs are from the exact filter's."""
    model = model_of(settings, number)
    seed = stream(settings, 1, number, repetition)
    data = model.sample(settings.training_sequences, settings.length, seed=seed).data
    size = settings.heldout_sequences, settings.heldout_length
    test = model.sample(*size, seed=stream(settings, 2, number)).data
    with one_thread():
        torch.manual_seed(seed)
        fresh = BeliefGuide(model, LSTMFilter(settings.hidden_size))
        how = settings.fit_settings(sleep_steps=settings.sleep_steps)
        guide = fit(model, fresh, data, settings=how, seed=seed, progress=False).guide
        assert isinstance(guide, BeliefGuide)
        few = data[: settings.last_sequences]
        climb(guide, few, settings.last_steps)
        fresh.calibrate(data)
        gap, learned, untrained = (
            evidence_gap(*pair) for pair in ((guide, test), (guide, few), (fresh, test))
        )
    return {
        GAP: gap.gap_per_step,
        "kl_filter_per_step": gap.kl_filter_per_step,
        "update_error_per_step": gap.update_error_per_step,
        "evidence_gap_per_step_of_the_last_sequences": learned.gap_per_step,
        "untrained_evidence_gap_per_step": untrained.gap_per_step,
        "untrained_kl_filter_per_step": untrained.kl_filter_per_step,
    }


def run(settings: Settings) -> Outcome:
    """Train the network on every model."""
    numbers = [(number,) for number in range(settings.models)]
    fits = each_seed(trained, settings, numbers)
    models: dict[str, Figures] = {
        name_of(number): summary(each) for (number,), each in fits.items()
    }
    gaps = {name: float(one[GAP]) for name, one in models.items()}
    far = [name for name, gap in gaps.items() if not gap <= NEAR]
    figures = {
        "share_near": 1 - len(far) / len(gaps),
        "not_near": far,
        "largest": max(gaps.values()),
        "median": float(np.median(list(gaps.values()))),
        "by_model": models,
    }
    runs = {
        name: np.array([[one[name] for one in each] for each in fits.values()])
        for name in (GAP, "kl_filter_per_step", "untrained_evidence_gap_per_step")
    }
    dims = dict.fromkeys(runs, ("model", "number"))
    saved = record(settings, {"runs": runs}, dims=dims, coords={"model": list(models)})
    return Outcome(against(figures, REACH), saved)


def draw(posterior: Idata, figures: Figures) -> dict[str, Figure]:
    """The gap of every network, one row a model."""
    runs = group(posterior, "runs")
    names = [str(name) for name in runs["model"].values]
    rows = np.arange(len(names))
    figure, axis = plt.subplots(figsize=(8, 1.4 + 0.27 * len(names)), layout="constrained")
    parts = (
        ("untrained_evidence_gap_per_step", "x", "tab:grey", "untrained"),
        ("kl_filter_per_step", "|", "tab:orange", "KL(exact filter ‖ LSTM)"),
        (GAP, "o", "tab:blue", "evidence − ELBO"),
    )
    for key, marker, color, label in parts:
        for number, column in enumerate(runs[key].values.T):
            axis.plot(*(column, rows, marker), color=color, ms=5, label=None if number else label)
    axis.axvline(NEAR, color="black", ls=":", lw=0.8, label="set")
    axis.set_yticks(rows, [name.removeprefix("model_").replace("_", " ") for name in names])
    axis.invert_yaxis()
    near = round(float(figures["share_near"]) * len(names))
    title = f"One LSTM, one setting: {near} of {len(names)} chains within {NEAR:g} nats a step"
    axis.set(xscale="log", xlabel="nats per step", title=title)
    figure.legend(frameon=False, loc="outside lower center", ncols=4, fontsize=8)
    return {"gaps": figure}
