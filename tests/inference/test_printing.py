"""What `print` shows: a line or a few of them, with names, sizes and few digits."""

from typing import Any

import numpy as np
import pytest
import torch

from beliefzoo.inference import (
    FilterTracker,
    LSTMFilter,
    NetworkPolicy,
    NoMemory,
    ParticleTracker,
    innovation_tests,
    solve_horizon,
    value_iteration,
)
from beliefzoo.models import (
    ActionSequence,
    BeliefPolicy,
    DeepMarkovModel,
    ExactTracker,
    FixedChances,
    Gaussian,
    GaussianMixture,
    HiddenMarkovModel,
    LinearGaussianSSM,
    LocalLevel,
    Mixture,
    ObservationPolicy,
    Poisson,
    Seasonal,
    Sequences,
    Uniform,
    tiger,
)
from beliefzoo.models.checks import brief

PLAN = value_iteration(tiger(), gap=5.0)


def decide(belief: torch.Tensor) -> torch.Tensor:
    return belief


def lstm() -> LSTMFilter:
    built = LSTMFilter(4)
    built.build(tiger())
    return built


def network() -> NetworkPolicy:
    return NetworkPolicy(torch.nn.GRU(5, 4), torch.nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            PLAN,
            ["Plan", "vectors", "2 states", "3 actions", f"{PLAN.lower:.6g} to {PLAN.upper:.6g}"],
        ),
        (PLAN.history, ["History", f"{PLAN.upper:.6g}"]),
        (PLAN.policy, ["BeliefPolicy(Plan(", "ExactTracker"]),
        (solve_horizon(tiger(), 2), ["HorizonPlan(2 steps", "5 vectors"]),
        (solve_horizon(tiger(), 2).stages[0], ["AlphaVectors(3 vectors, 2 states, 3 actions)"]),
        (BeliefPolicy(decide, NoMemory([0.5, 0.5])), ["decide", "NoMemory([0.5, 0.5]"]),
        (BeliefPolicy(decide, ParticleTracker(50)), ["ParticleTracker(50 particles"]),
        (BeliefPolicy(decide, FilterTracker(lstm())), ["LSTMFilter"]),
        (ExactTracker(impossible="missing"), ["ExactTracker(impossible='missing')"]),
        (FixedChances([1 / 3, 2 / 3]), ["FixedChances([0.33333, 0.66667])"]),
        (ObservationPolicy(torch.eye(2)), ["ObservationPolicy(2 symbols, 2 actions)"]),
        (
            Mixture([Uniform(), ActionSequence((0,))]),
            ["Mixture([Uniform(), ActionSequence(actions=(0,))], shares=[0.5, 0.5])"],
        ),
        (network(), ["NetworkPolicy(GRU(5, 4", "out_features=3"]),
    ],
)
def test_plans_and_policies_are_a_line(value: Any, words: list[str]) -> None:
    shown = str(value)
    assert len(shown) < 150
    assert "\n" not in shown
    assert all(word in shown for word in words), shown


@pytest.mark.parametrize(
    "model",
    [
        HiddenMarkovModel(2, Gaussian(2)),
        HiddenMarkovModel(2, GaussianMixture(2, 2)),
        DeepMarkovModel(2, Gaussian(2)),
        LinearGaussianSSM(LocalLevel() + Seasonal(4)),
        HiddenMarkovModel(2, Poisson(2)),
    ],
)
def test_models_show_five_digits(model: Any) -> None:
    features = 1 if isinstance(model, LinearGaussianSSM) else 2
    counts = np.random.default_rng(0).poisson(np.pi, size=(30, features))
    data = Sequences.from_arrays([counts if "Poisson" in str(model) else counts * np.pi])
    shown = repr(model.scaled_to(data))
    numbers = [part for part in shown.replace("(", ",").replace(")", ",").split(",") if "." in part]
    assert all(len(number.split("=")[-1].strip(" -").replace(".", "")) <= 6 for number in numbers)


def test_numbers_are_cut_and_nothing_else() -> None:
    assert brief([1 / 3, -2e-9 / 3, 1e5 / 3, 1.25, 7]) == "[0.33333, -6.6667e-10, 33333, 1.25, 7]"
    assert brief(("v1.123456789", 3.0)) == "('v1.123456789', 3.0)"


def test_the_tests_of_many_series_are_cut() -> None:
    model = LinearGaussianSSM(LocalLevel(initial_variance=4.0)).with_parameters(
        level_variance=0.5, observation_variance=1.0
    )
    data = model.sample(12, 30, seed=0).data
    lines = str(innovation_tests(model, data, lags=4)).splitlines()
    assert lines[-1] == "and 2 more series"
    assert len(lines) == 51
