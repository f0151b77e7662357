"""What a belief does at a step, beside sums in plain numbers; and the gates beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    LSTMFilter,
    belief_events,
    filter,
    gates,
    gates_and_beliefs,
)
from beliefzoo.models import (
    POMDP,
    ActionSequence,
    HiddenMarkovModel,
    Mixture,
    Sequences,
    Uniform,
    tiger,
)


def entropy(law: np.ndarray) -> float:
    return float(-sum(p * np.log(p) for p in law if p > 0))


def test_events_are_sums_over_states() -> None:
    model = tiger()
    data = model.rollout(Uniform(), 8, 12, seed=1).data
    data = Sequences.from_tensors(
        torch.where(data.mask, data.values.double(), torch.nan),
        lengths=torch.tensor([12, 3, 1, 7, 12, 2, 9, 5]),
        codes=True,
        actions=data.actions,
    )
    found = belief_events(model, data)
    tables, belief = model.tables(), filter(model, data).numpy()
    assert data.actions is not None
    for n, length in enumerate(data.lengths.tolist()):
        for t in range(length):
            here = belief[n, t]
            predicted = tables.initial
            if t > 0:
                moves = tables.transition[int(data.actions[n, t - 1])]
                predicted = belief[n, t - 1] @ moves
                joint = belief[n, t - 1][:, None] * moves
                apart = np.outer(belief[n, t - 1], predicted)
                carried = (joint * np.log(np.where(joint > 0, joint / apart, 1))).sum()
                assert float(found["carried information"][n, t]) == pytest.approx(carried, abs=1e-9)
                opened = model.action_names[int(data.actions[n, t - 1])].startswith("open")
                assert bool(found["reset"][n, t]) == opened
            gain = sum(b * np.log(b / p) for b, p in zip(here, predicted, strict=True) if b > 0)
            assert float(found["information gain"][n, t]) == pytest.approx(gain, abs=1e-9)
            assert float(found["entropy"][n, t]) == pytest.approx(entropy(here), abs=1e-9)
        assert all(float(each[n, length:].abs().sum()) == 0 for each in found.values())


def test_one_action_is_a_hidden_markov_model() -> None:
    model = POMDP.from_tables([[[0.9, 0.1], [0.2, 0.8]]], [[[0.7, 0.3], [0.1, 0.9]]])
    hmm = HiddenMarkovModel(2, "bernoulli").with_parameters(
        initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], probs=[0.3, 0.9]
    )
    data = model.rollout(Uniform(), 5, 9, seed=2).data
    bits = Sequences.from_tensors(data.values.double(), mask=data.mask)
    for name, one in belief_events(hmm, bits).items():
        torch.testing.assert_close(one, belief_events(model, data)[name], atol=1e-12, rtol=0)


def test_gates_and_events_stand_side_by_side() -> None:
    model = tiger()
    data = model.rollout(Uniform(), 4, 6, seed=3).data
    guide = BeliefGuide(model, LSTMFilter(5))
    found = gates_and_beliefs(guide, data)
    alone = gates(guide, data)
    assert set(alone) <= set(found)
    assert found["f"].dims == ("sequence", "time", "layer", "unit")
    assert found["reset"].dims == ("sequence", "time")
    gain = belief_events(model, data)["information gain"]
    np.testing.assert_allclose(found["information_gain"], gain, atol=0)
    network = guide.filter
    assert isinstance(network, LSTMFilter)
    again = gates_and_beliefs(network, data, model=model)
    np.testing.assert_array_equal(again["f"], found["f"])


def test_bad_arguments_are_refused() -> None:
    model = tiger()
    data = model.rollout(Uniform(), 2, 3, seed=4).data
    built = LSTMFilter(2)
    built.build(model)
    with pytest.raises(ValueError, match="model: is needed for a network that is in no guide"):
        gates_and_beliefs(built, data)
    with pytest.raises(ValueError, match="needs a recurrent filter"):
        gates_and_beliefs(BeliefGuide(model, ExactFilter()), data)
    with pytest.raises(ValueError, match="model: needs discrete states"):
        belief_events("tiger", data)  # type: ignore[arg-type]


def test_a_mixture_follows_one_policy_an_episode() -> None:
    """Shares of 4000 episodes within five standard errors."""
    model = tiger()
    policies = ActionSequence((0, 0, 1)), ActionSequence((2, 1, 0))
    made = model.rollout(Mixture(policies, (0.2, 0.8)), 4000, 3, seed=5).data
    assert made.actions is not None
    followed = {tuple(row) for row in made.actions.tolist()}
    assert followed == {(0, 0, 1), (2, 1, 0)}
    share = float((made.actions[:, 0] == 0).double().mean())
    assert share == pytest.approx(0.2, abs=5 * (0.16 / 4000) ** 0.5)
    with pytest.raises(ValueError, match="policies: needs at least one"):
        Mixture(())
    with pytest.raises(ValueError, match="shares: needs a probability for each"):
        Mixture(policies, (0.5, 0.6))
