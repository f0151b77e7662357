"""Climbs from several starts end no lower than climbs from where the data come from."""

from __future__ import annotations

import numpy as np
import torch

from beliefzoo.inference import BeliefGuide, ExactFilter, Fit, FitSettings, fit, log_evidence
from beliefzoo.models import (
    GaussianMixture,
    HiddenMarkovModel,
    LabelledHMM,
    LinearGaussianSSM,
    LocalLinearTrend,
    Model,
    Seasonal,
    Sequences,
)


def estimate(model: Model, data: Sequences, seed: int = 0, **settings: object) -> Fit:
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    return fit(model, guide, data, settings=FitSettings(**settings), seed=seed, progress=False)


def reached(result: Fit, data: Sequences) -> float:
    return float(log_evidence(result.fitted, data).sum())


def test_components_that_lie_side_by_side_can_be_of_different_states():
    """Clusters put neighbours into one state; 20 such starts end 3 to 5 nats below the climb from
    the true values, once with five of them at the same height."""
    model = HiddenMarkovModel(2, GaussianMixture(components=2))
    truth = {
        "initial": [0.5, 0.5],
        "transition": [[0.65, 0.35], [0.35, 0.65]],
        "weight": [[0.34, 0.66], [0.37, 0.63]],
        "mean": [[-2.4, 0.1], [-0.7, 2.5]],
        "scale": [[1.2, 0.9], [0.4, 0.4]],
    }
    data = model.with_parameters(**truth).sample(1, 100, seed=25).data
    start = {name: torch.tensor(value).double() for name, value in truth.items()}
    known = reached(estimate(model, data, start=start), data)
    for seed in (0, 2):
        result = estimate(model, data, seed)
        assert reached(result, data) > known - 0.1
        assert result.restarts_agreeing > 1


def test_a_slope_that_never_changes_is_found():
    """Starts near the first climb to a slope that moves, .26 nats below, whatever the seed."""
    truth = {
        "level_variance": 5.9,
        "slope_variance": 3e-5,
        "seasonal_variance": 0.7905,
        "observation_variance": 1.0,
    }
    proper = LocalLinearTrend(initial_variance=1.0) + Seasonal(period=4, initial_variance=1.0)
    simulated = LinearGaussianSSM(proper).with_parameters(**truth).sample(1, 69, seed=3006139210)
    model = LinearGaussianSSM(LocalLinearTrend() + Seasonal(period=4))
    start = {name: torch.tensor(value).double() for name, value in truth.items()}
    known = reached(estimate(model, simulated.data, start=start), simulated.data)
    for seed in range(3):
        result = estimate(model, simulated.data, seed)
        assert reached(result, simulated.data) > known - 1e-3
        assert result.restarts_agreeing > 1


WORD = np.array(
    list(
        "1111000101110001110011111110000000110000110000000001111000111101"
        "1110111011100011000101000000001001111010000111101111111100011011"
        "1101100001000000000110011011011111111010111001101100001111101111"
    ),
    dtype=int,
)
"""Drawn from a machine of two states."""


def best_of_em(word: np.ndarray, starts: int, steps: int) -> float:
    """log p of a word of two symbols under two-state machines T_x(z, z'), by EM from random starts:
    one pass forwards and one backwards a step."""
    rng = np.random.default_rng(0)
    first = rng.dirichlet([1, 1], starts)
    joint = rng.dirichlet(np.ones(4), (starts, 2)).reshape(starts, 2, 2, 2).swapaxes(1, 2)
    height = np.zeros(starts)
    for _ in range(steps):
        ahead, height = [first], np.zeros(starts)
        for x in word:
            told = np.einsum("mi,mij->mj", ahead[-1], joint[:, x])
            height += np.log(told.sum(-1))
            ahead.append(told / told.sum(-1, keepdims=True))
        behind, counts = np.ones((starts, 2)), np.zeros_like(joint)
        for x, before in zip(word[::-1], ahead[-2::-1], strict=True):
            pairs = before[:, :, None] * joint[:, x] * behind[:, None]
            counts[:, x] += pairs / pairs.sum((1, 2), keepdims=True)
            behind = np.einsum("mij,mj->mi", joint[:, x], behind)
            behind /= behind.sum(-1, keepdims=True)
        first = first * behind
        first /= first.sum(-1, keepdims=True)
        joint = counts / counts.sum((1, 3), keepdims=True)
    return float(height.max())


def test_a_labelled_chain_is_as_likely_as_by_em_from_many_starts():
    """A climb from the best of a dozen starts alone ends 1.2 nats below, whatever the seed."""
    data = Sequences.from_arrays([WORD], codes=True)
    best = best_of_em(WORD, 40, 200)
    for seed in range(2):
        result = estimate(LabelledHMM(2, 2), data, seed)
        assert reached(result, data) > best - 0.1
        assert result.restarts_agreeing > 1
