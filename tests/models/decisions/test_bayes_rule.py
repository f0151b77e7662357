"""Bayes' rule of decision processes, beside sums over states."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from beliefzoo.models import POMDP, Seen
from beliefzoo.models.decisions.bayes_rule import BayesRule

CASES = {
    "one": (1, 0.0),
    "few": (5, 0.0),
    "some": (19, 0.0),
    "many": (130, 0.0),
    "many, mostly zero": (131, 0.9),
}


def process(states: int, zeros: float, first: bool) -> POMDP:
    """Random tables for three actions and four symbols; so many transitions cannot be."""
    random = np.random.default_rng(states)
    moves = random.random((3, states, states)) * (random.random((3, states, states)) >= zeros)
    moves[:, np.arange(states), np.arange(states)] += 0.01
    looks = random.random((3, states, 4))
    return POMDP.from_tables(
        moves / moves.sum(-1, keepdims=True),
        looks / looks.sum(-1, keepdims=True),
        np.zeros((3, states, 1, 1)),
        initial=np.full(states, 1 / states),
        first=np.full((states, 4), 0.25) if first else None,
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("first", [False, True])
def test_both_halves_are_sums_over_states(case: str, first: bool) -> None:
    states, zeros = CASES[case]
    model = process(states, zeros, first)
    values = {name: value.double() for name, value in model.complete({}).items()}
    rule = BayesRule(model, values)
    torch.manual_seed(0)
    belief = torch.rand(7, states, dtype=torch.float64)
    belief /= belief.sum(-1, keepdim=True)
    action = torch.tensor([0, 1, 2, 0, 1, 0, 1])
    symbol = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    mask = torch.tensor([True] * 6 + [False])
    predicted = rule.predicted(belief, action)
    told = rule.likelihood(Seen(action, symbol, mask))
    begun = rule.likelihood(Seen(None, symbol, mask))
    for n in range(7):
        a, o = int(action[n]), int(symbol[n])
        for to in range(0, states, 1 + states // 40):
            total = sum(
                float(belief[n, of]) * (float(values["transition"][a, of, to]) if states > 1 else 1)
                for of in range(states)
            )
            assert float(predicted[n, to]) == pytest.approx(total, abs=1e-15)
            seen = float(values["probs"][a, to, o]) if n < 6 else 1
            assert float(told[n, to]) == pytest.approx(seen, abs=1e-15)
            at_first = 0.25 if first else float(values["probs"][0, to, o])
            assert float(begun[n, to]) == pytest.approx(at_first if n < 6 else 1, abs=1e-15)


def test_no_mass_where_nothing_leads() -> None:
    model = process(*CASES["many, mostly zero"], first=False)
    rule = BayesRule(model, model.complete({}))
    predicted = rule.predicted(
        torch.eye(131, dtype=torch.float64), torch.zeros(131, dtype=torch.int64)
    )
    assert torch.equal(predicted > 0, model.complete({})["transition"][0] > 0)
