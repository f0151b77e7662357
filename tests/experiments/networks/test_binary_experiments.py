"""The yardsticks of the experiments with binary nodes, against sums written out."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit

from beliefzoo.experiments.networks import coupled_nodes, gate_identity
from beliefzoo.experiments.networks.gate_identity import CASES
from beliefzoo.experiments.parts.gates import Posterior, best_gate
from beliefzoo.models import gate_conditions


def test_the_divergence_is_the_sum_over_states() -> None:
    """KL(p ‖ q) state by state; its least over all products is the total correlation."""
    law = torch.rand(3, 4, dtype=torch.float64)
    law = law / law.sum(-1, keepdim=True)
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=torch.float64)
    exact = Posterior(law, law @ states)
    logits = torch.randn(3, 2, dtype=torch.float64)
    for each, expected in ((logits, None), (exact.on.logit(), exact.total_correlation)):
        total = 0.0
        for m, (s, h) in itertools.product(range(3), enumerate(states)):
            on = expit(each[m].numpy())
            q = np.prod(np.where(h.numpy() == 1, on, 1 - on))
            p = float(law[m, s])
            total += p * np.log(p / q) / 3
        assert exact.divergence(each) == pytest.approx(total, rel=1e-10)
        assert expected is None or expected == pytest.approx(total, rel=1e-10)


def test_the_best_gate_is_the_minimum_of_the_cross_entropy() -> None:
    """Against SciPy's minimiser, with soft targets that no gate attains."""
    rng = np.random.default_rng(0)
    x, p = rng.normal(size=(400, 3)), rng.uniform(0.05, 0.95, size=(400, 1))

    def loss(w: np.ndarray) -> float:
        return float(np.mean(np.logaddexp(0, x @ w) - p[:, 0] * (x @ w)))

    expected = minimize(loss, np.zeros(3), tol=1e-12).x
    got = best_gate(torch.tensor(x), torch.tensor(p))[0].numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_cases_meet_the_conditions_or_violate_them(name: str) -> None:
    model = gate_identity.truth(gate_identity.Settings(), name, 3)
    assert gate_conditions(model).exact == CASES[name].exact


def test_the_projection_is_the_nearest_diagonal_chain() -> None:
    """Its divergence by hand, and no other diagonal chain is nearer."""
    model = coupled_nodes.truth(coupled_nodes.Settings(), 2)
    length = 7
    values, divergence = coupled_nodes.projected(model, length)
    states = np.array(list(itertools.product([0.0, 1.0], repeat=2)))
    on = expit(states @ model.known["node_weight"].numpy().T + model.known["node_bias"].numpy())
    table = np.array([[np.prod(np.where(h == 1, p, 1 - p)) for h in states] for p in on])
    law = np.linalg.matrix_power(table, 2000)[0]
    now = np.full(4, 0.25)  # node_initial is 0
    laws = [now @ np.linalg.matrix_power(table, step) for step in range(length - 1)]

    def distance(bias: np.ndarray, weight: np.ndarray, law: np.ndarray = law) -> float:
        total = 0.0
        for s, h in enumerate(states):
            q = expit(bias + weight * h)
            other = [np.prod(np.where(g == 1, q, 1 - q)) for g in states]
            total += law[s] * np.sum(table[s] * np.log(table[s] / other))
        return float(total)

    bias, weight = values["node_bias"].numpy(), values["node_weight"].numpy()
    along = sum(distance(bias, weight, one) for one in laws) / length
    assert along == pytest.approx(divergence, rel=1e-9)
    nearest = distance(bias, weight)
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = rng.normal(0, 0.1, size=(2, 2))
        assert distance(bias + moved[0], weight + moved[1]) > nearest


def test_information_is_that_of_the_enumerated_joint_law() -> None:
    """A belief that is one of two certain states half of the time tells log 2; no correlation."""
    certain = torch.zeros(2, 1, 4)
    certain[0, 0, 0] = certain[1, 0, 3] = 1
    told = coupled_nodes.information(certain)
    assert told["information"] == pytest.approx(np.log(2))
    assert told["entropy"] == told["total_correlation"] == 0
    both = torch.tensor([[[0.5, 0.0, 0.0, 0.5]]])  # the nodes agree: log 2 of correlation
    told = coupled_nodes.information(both)
    assert told["information"] == pytest.approx(0, abs=1e-7)
    assert told["total_correlation"] == pytest.approx(np.log(2), abs=1e-7)


def test_ranges_of_nodes_and_sizes_that_make_no_sense_are_named() -> None:
    for settings in (coupled_nodes.Settings, gate_identity.Settings):
        with pytest.raises(ValueError, match="smallest_nodes, largest_nodes: need 1 <= smallest"):
            settings(smallest_nodes=9)
    with pytest.raises(ValueError, match="sizes: needs increasing numbers"):
        coupled_nodes.Settings(sizes=(2, 1))
    with pytest.raises(ValueError, match="held_nodes: needs at least one"):
        coupled_nodes.Settings(held_nodes=())
    with pytest.raises(ValueError, match="length: must be >= 2, got 1"):
        gate_identity.Settings(length=1)
