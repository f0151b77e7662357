"""The floor of elementwise gates: zero where theory says so, elsewhere a search over all gates."""

import itertools

import numpy as np
import pytest
import torch

from beliefzoo.inference import gate_floor
from beliefzoo.inference.networks.gate_floor import update_floor
from beliefzoo.models import HiddenMarkovModel, TemporalSigmoidBeliefNetwork


def counts(matrix, rates=(1.0, 4.0, 9.0)):
    size = len(matrix)
    return HiddenMarkovModel(size, "poisson").with_parameters(
        initial=[1 / size] * size, transition=matrix, rate=rates[:size]
    )


RING = [[0.8, 0.2, 0.0], [0.0, 0.8, 0.2], [0.2, 0.0, 0.8]]
SMALL = {"sequences": 4, "length": 15, "nodes": 40}


def test_it_is_zero_where_every_cell_has_its_gate():
    """Two states that stay rather than move; states that stay or are redrawn."""
    law = np.array([0.2, 0.5, 0.3])
    for matrix in ([[0.9, 0.1], [0.3, 0.7]], 0.7 * np.eye(3) + 0.3 * law):
        assert abs(gate_floor(counts(matrix), **SMALL)) < 1e-12
    assert gate_floor(counts([[0.2, 0.8], [0.9, 0.1]]), **SMALL) > 1e-3
    assert gate_floor(counts(RING), **SMALL) > 1e-3


@pytest.mark.parametrize("matrix", [RING, [[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.1, 0.1, 0.8]]])
def test_it_is_the_least_over_a_grid_of_gates(matrix):
    """Bayes' rule and the gated update written out, for all pairs of gates in steps of .02."""
    matrix, rng = np.array(matrix), np.random.default_rng(0)
    beliefs = rng.dirichlet(np.ones(3), 6)
    values, vectors = np.linalg.eig(matrix.T)
    rest = np.real(vectors[:, np.argmax(np.real(values))])
    rest = rest / rest.sum()
    rates, symbols = np.array([1.0, 4.0, 9.0]), np.arange(40)
    log_factorial = np.cumsum(np.log(np.maximum(symbols, 1)))
    told = symbols[:, None] * np.log(rates) - rates - log_factorial[:, None]
    tensors = [torch.from_numpy(one) for one in (np.log(beliefs), matrix, np.log(rest), told)]
    found = update_floor(*tensors, torch.zeros(len(symbols)))  # every count once
    for belief, floor in zip(beliefs, found.tolist(), strict=True):
        predicted, c = belief @ matrix, np.log(belief / belief[2]) - np.log(rest / rest[2])
        chances = np.exp(told) @ predicted
        exactly = predicted * np.exp(told) / chances[:, None]
        least = np.inf
        for first, second in itertools.product(np.linspace(0, 1, 51), repeat=2):
            score = np.log(rest) + np.array([first, second, 0]) * np.append(c[:2], 0)
            said = np.exp(score + told)
            said /= said.sum(-1, keepdims=True)
            kl = (exactly * np.log(exactly / said)).sum(-1)
            least = min(least, float((chances * kl).sum()))
        assert floor <= least + 1e-9
        assert floor == pytest.approx(least, abs=2e-3, rel=0.02)


def test_models_without_one_transition_are_refused():
    nodes = TemporalSigmoidBeliefNetwork(2, "bernoulli").with_parameters(
        node_initial=[0, 0],
        node_weight=[[3, 0], [0, 4]],
        node_bias=[-1.5, -1.0],
        node_loading=[[2], [0]],
        node_intercept=[0],
    )
    with pytest.raises(ValueError, match="one chain"):
        gate_floor(nodes)
    split = HiddenMarkovModel(2, "poisson").with_parameters(
        initial=[0.5, 0.5], transition=np.eye(2), rate=[1, 5]
    )
    with pytest.raises(ValueError, match="stationary"):
        gate_floor(split)
    with pytest.raises(ValueError, match="nodes"):
        gate_floor(counts(RING), nodes=0)
