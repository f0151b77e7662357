"""Laws of whole trajectories: against the joint written out, frequencies, and edge cases."""

import itertools

import numpy as np
import pytest
import torch

import oracles
from beliefzoo.models import trajectories
from beliefzoo.models.trajectories import (
    Emitted,
    MarkovChain,
    one_hot,
    safe_log,
    sample_chain,
    transition_log_prob,
)


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), shape[:-1]))


def test_safe_log_is_log_with_gradient_zero_at_zero():
    p = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    value = safe_log(p)
    assert value.tolist() == [-np.inf, np.log(0.5), 0.0]
    (slope,) = torch.autograd.grad(value[1:].sum() + value.exp()[0], p)
    assert slope.tolist() == [0.0, 2.0, 1.0]


def test_one_hot_is_zero_on_padding():
    hard = one_hot(torch.tensor([[2, 0, -1]]), 3, torch.float64)
    assert hard.tolist() == [[[0, 0, 1], [1, 0, 0], [0, 0, 0]]]


@pytest.mark.parametrize("sequences", [1, 3], ids=["shared", "own"])
@pytest.mark.parametrize("steps", [1, 4], ids=["fixed", "varying"])
@pytest.mark.parametrize("draws", [(), (2,), (2, 3)], ids=str)
def test_transition_log_prob_is_the_sum_over_steps(sequences, steps, draws):
    """For every path, ragged, with any leading axes of draws."""
    table = rows(*draws, sequences, steps, 2, 2).log()
    lengths = torch.tensor([5, 3, 1])
    paths = torch.tensor(list(itertools.product(range(2), repeat=5))).unsqueeze(1).repeat(1, 3, 1)
    beyond = torch.arange(5) >= lengths.unsqueeze(-1)
    paths = paths.masked_fill(beyond, -1)
    if draws:
        paths = paths.reshape(-1, *[1] * len(draws), 3, 5).expand(-1, *draws, 3, 5)
    got = transition_log_prob(table, paths, lengths)
    assert got.shape == paths.shape[:-1]
    for index in np.ndindex(*got.shape):
        n, own = index[-1], table[index[1:-1]]
        own = own[min(n, sequences - 1)]
        path = paths[index].tolist()
        moves = (own[min(t, steps - 1), path[t], path[t + 1]] for t in range(lengths[n] - 1))
        assert float(got[index]) == pytest.approx(float(sum(moves)), abs=1e-12)


def test_a_single_step_has_no_transition():
    table = rows(1, 1, 2, 2).log()
    assert transition_log_prob(table, torch.tensor([[0], [1]]), torch.tensor([1, 1])).tolist() == [
        0,
        0,
    ]


def test_chain_log_prob_is_the_textbook_joint():
    """The first step has the initial law: no transition comes before it."""
    first, move = rows(1, 3), rows(1, 1, 3, 3, seed=1)
    chain = MarkovChain(first.log(), move.log(), torch.tensor([4]), 4)
    zeros = np.zeros((4, 3))
    moves = np.broadcast_to(move[0].log().numpy(), (3, 3, 3))
    total = 0.0
    for path in oracles.all_paths(4, 3):
        value = one_hot(torch.tensor(path)[None], 3, torch.float64)
        expected = oracles.log_joint(path, first[0].log().numpy(), moves, zeros)
        assert float(chain.log_prob(value)) == pytest.approx(expected, abs=1e-12)
        total += np.exp(expected)
    assert total == pytest.approx(1)


def test_draws_of_a_chain_have_its_frequencies():
    """Time-varying laws of two sequences: 6 standard errors, by chance in 1 of 10^7 runs."""
    first, move = rows(2, 3), rows(2, 2, 3, 3, seed=1)
    copies = 20_000
    paths = sample_chain(
        first.log().repeat(copies, 1), move.log().repeat(copies, 1, 1, 1), 2 * copies, 3
    )
    for n in range(2):
        belief = first[n].numpy()
        own = paths[n::2]
        for t in range(3):
            if t > 0:
                before = belief
                belief = before @ move[n, t - 1].numpy()
                for i in range(3):
                    from_i = own[own[:, t - 1] == i][:, t]
                    check(from_i, move[n, t - 1, i].numpy())
            check(own[:, t], belief)


def check(states: torch.Tensor, expected: np.ndarray) -> None:
    got = np.bincount(states.numpy(), minlength=len(expected)) / len(states)
    error = np.sqrt(expected * (1 - expected) / len(states))
    assert (np.abs(got - expected) <= 6 * error).all()


def test_states_of_probability_zero_are_never_drawn():
    """Also in float32, where sums round, and in the last place."""
    for dtype in (torch.float32, torch.float64):
        first = torch.tensor([[0.0, 0.7, 0.3, 0.0]], dtype=dtype)
        move = torch.tensor(
            [[0, 1, 0, 0], [0, 1 / 3, 2 / 3, 0], [0.1, 0.9, 0, 0], [1, 0, 0, 0]], dtype=dtype
        )
        paths = sample_chain(first.log(), move.log()[None, None], 2000, 50)
        assert 3 not in paths
        assert 0 not in paths[:, 0]
        moves = set(
            zip(paths[:, :-1].flatten().tolist(), paths[:, 1:].flatten().tolist(), strict=True)
        )
        assert moves <= {(0, 1), (1, 1), (1, 2), (2, 0), (2, 1)}


def test_extreme_uniform_numbers_stay_inside(monkeypatch):
    """The smallest and the largest number that torch.rand can give lead to possible states."""
    first = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4 + 2e-7, 0.0]]).log()
    move = torch.eye(6).log()[None, None]
    largest = 1 - 2.0**-24
    for number in (0.0, largest):
        monkeypatch.setattr(torch, "rand", lambda *s, n=number, **k: torch.full(s, n))
        path = sample_chain(first, move, 1, 3)[0].tolist()
        assert path == [1, 1, 1] if number == 0 else path == [4, 4, 4]


def test_draws_are_seeded_and_one_at_a_time():
    chain = MarkovChain(rows(1, 2).log(), rows(1, 1, 2, 2).log(), torch.tensor([4, 2]), 4)
    generator = [torch.Generator().manual_seed(3) for _ in range(2)]
    pair = [sample_chain(chain.log_initial, chain.log_transition, 5, 9, g) for g in generator]
    assert torch.equal(*pair)
    draw = chain.sample()
    assert draw.shape == (2, 4, 2)
    assert draw.sum(-1).tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert chain.sample((1,)).shape == (1, 2, 4, 2)
    with pytest.raises(ValueError, match=r"one draw at a time, got \(3,\)"):
        chain.sample((3,))
    assert chain.expand((2,)) is chain
    with pytest.raises(ValueError, match=r"batch shape is fixed at \(2,\)"):
        chain.expand((5, 2))


def test_emitted_is_linear_in_the_trajectory():
    """Hard trajectories give log p(y | z); mean trajectories its expectation; 0 · -inf is 0."""
    table = torch.tensor([[[-1.0, -torch.inf], [-2.0, -3.0]]], dtype=torch.float64)
    hard = one_hot(torch.tensor([[0, 1]]), 2, torch.float64)
    mean = torch.tensor([[[1.0, 0.0], [0.25, 0.75]]], dtype=torch.float64)

    def law(states: torch.Tensor) -> Emitted:
        return Emitted(states, lambda y: table + y, lambda z: z.double(), torch.Size([2]))

    y = torch.zeros(())
    assert law(hard).log_prob(y).tolist() == [-4.0]
    assert law(mean).log_prob(y).tolist() == [-1 - 0.25 * 2 - 0.75 * 3]
    assert law(1 - hard).log_prob(y).tolist() == [-torch.inf]
    assert law(hard).sample().tolist() == [[0, 1]]
    assert law(hard).support.event_dim == 1
    with pytest.raises(ValueError, match=r"one draw at a time, got \(2,\)"):
        law(hard).sample((2,))
    with pytest.raises(ValueError, match=r"batch shape is fixed at \(1,\)"):
        law(hard).expand((3,))


@pytest.mark.parametrize("own", [1, 5], ids=["shared", "own"])
def test_paths_walked_one_by_one_are_those_walked_together(own, monkeypatch):
    first, move = rows(1, 6), rows(own, 1, 6, 6, seed=1)
    move = torch.where(move < 0.1, 0, move)  # zeros, also at the ends of a row
    drawn = []
    for few in (trajectories._FEW, 0):
        monkeypatch.setattr(trajectories, "_FEW", few)
        generator = torch.Generator().manual_seed(3)
        drawn.append(sample_chain(first.log(), move.log(), 5, 400, generator))
    assert torch.equal(*drawn)
