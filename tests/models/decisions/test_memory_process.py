"""A memory that is acted upon: with its actions hidden it is the model, with them given a cell."""

import itertools
import math

import numpy as np
import pytest
import torch

from beliefzoo.inference import filter, log_evidence
from beliefzoo.models import (
    FixedChances,
    GatedAccumulator,
    HiddenMarkovModel,
    ResetModel,
    Sequences,
    TemporalSigmoidBeliefNetwork,
    memory_process,
)

LOADING = [[1.0, 0.2, 0.0], [0.0, 1.5, 0.3], [0.4, 0.0, 1.0]]


def accumulator() -> HiddenMarkovModel:
    return GatedAccumulator(4).with_parameters(
        keep=0.8,
        write=0.4,
        positive=0.6,
        loading=LOADING,
        intercept=[0.1, 0.0, -0.2],
        scale=[0.6, 0.9, 0.7],
    )


def reset(leak: bool = False) -> HiddenMarkovModel:
    loading = [[1.0], [0.7], [0.2]] if leak else [[1.0], [0.7]]
    return ResetModel(features=1, leak=leak).with_parameters(
        keep=0.7, positive=0.3, loading=loading, intercept=[0.2], scale=[0.8]
    )


def acted(data: Sequences, actions: list[tuple[int, ...]]) -> Sequences:
    """The first sequence once for each list of actions, a step with nothing seen in front."""
    y = data.values[:1].double().repeat(len(actions), 1, 1)
    y = torch.cat([torch.full_like(y[:, :1], torch.nan), y], 1)
    return Sequences.from_tensors(y, actions=torch.tensor([[*a, 0] for a in actions]))


@pytest.mark.parametrize("model", [accumulator(), reset()], ids=["accumulator", "reset"])
def test_with_hidden_actions_it_is_the_model(model: HiddenMarkovModel) -> None:
    """Σ over all lists of actions of Π π(a_t) p(y | a)."""
    made = memory_process(model)
    data = model.sample(1, 4, seed=0).data
    law = made.policy.probabilities
    assert float(law.sum()) == pytest.approx(1)
    every = list(itertools.product(range(made.process.actions), repeat=4))
    log_each = log_evidence(made.process, acted(data, every))
    chance = torch.tensor([math.prod(float(law[a]) for a in actions) for actions in every])
    total = torch.logsumexp(log_each + chance.double().log(), 0)
    assert float(total) == pytest.approx(float(log_evidence(model, data)[0]), abs=1e-6)


def test_given_its_actions_the_memory_is_a_cell_with_sure_gates() -> None:
    """z_t = u z_{t-1} + v E[x_t | y_t, a_t], the latter by Bayes' rule for one step."""
    model = accumulator()
    made = memory_process(model)
    actions = [(3, 1, 2, 3), (0, 3, 3, 3), (1, 2, 2, 1)]
    data = acted(model.sample(1, 4, seed=1).data, actions)
    found = filter(made.process, data) @ made.memory
    loading, scale = np.array(LOADING), np.array([0.6, 0.9, 0.7])
    for n, row in enumerate(actions):
        cell = 0.0
        assert float(found[n, 0]) == pytest.approx(0, abs=1e-12)
        for t, action in enumerate(row):
            keep, write = divmod(action, 2)
            assert (float(made.keep[action]), float(made.write[action])) == (keep, write)
            weights = []
            for x, prior in ((-1, 0.4), (1, 0.6)):
                mean = np.array([2 * keep - 1, 2 * write - 1, x]) @ loading + [0.1, 0, -0.2]
                off = (data.values[n, t + 1].numpy() - mean) / scale
                weights.append(prior * math.exp(-0.5 * float(off @ off)))
            cell = keep * cell + write * (weights[1] - weights[0]) / sum(weights)
            assert float(found[n, t + 1]) == pytest.approx(cell, abs=1e-9)


def test_episodes_have_the_law_of_the_model() -> None:
    """Means and spreads of 4000 sequences within five standard errors: fails once in 10^4."""
    model = accumulator()
    made = memory_process(model)
    episodes = made.process.rollout(made.policy, 4000, 5, seed=2)
    drawn = model.sample(4000, 4, seed=3)
    assert episodes.data.actions is not None
    table = made.memory[episodes.states[:, 1:]]
    from_model = model.transition.table.memory[drawn.states]  # type: ignore[union-attr]
    for ours, theirs in (
        (table, from_model),
        (table.square(), from_model.square()),
        (episodes.data.values[:, 1:].double(), drawn.data.values.double()),
    ):
        error = ((ours.var(0) + theirs.var(0)) / 4000).sqrt()
        assert bool(((ours.mean(0) - theirs.mean(0)).abs() <= 5 * error).all())
    share = torch.bincount(episodes.data.actions.flatten(), minlength=4) / (4000 * 5)
    torch.testing.assert_close(share.double(), made.policy.probabilities, atol=0.02, rtol=0)


def test_names_and_refusals() -> None:
    made = memory_process(accumulator())
    assert made.process.action_names[3] == "keep, write"
    assert made.process.state_names[0] == "x=-1, z=-4"
    other = memory_process(reset())
    assert other.process.action_names == ("drop, write", "keep, ignore")
    with pytest.raises(ValueError, match="model: needs a memory that does not leak"):
        memory_process(reset(leak=True))
    with pytest.raises(ValueError, match="model: needs a GatedAccumulator or a ResetModel"):
        memory_process(TemporalSigmoidBeliefNetwork(1, "gaussian"))
    with pytest.raises(ValueError, match="probabilities: needs 2 of them, got 4"):
        other.process.rollout(made.policy, 1, 1)
    with pytest.raises(ValueError, match="needs a probability for each action, with sum 1"):
        FixedChances([0.5, 0.6])
