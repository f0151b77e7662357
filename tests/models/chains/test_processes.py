"""Edge-emitting processes: words by matrix products in NumPy, entropy rates by hand."""

import itertools
import math

import numpy as np
import pytest
import torch

import oracles
from beliefzoo.inference import filter, log_evidence, step_log_likelihood
from beliefzoo.models import (
    Sequences,
    golden_mean,
    labelled_chain,
    load_model,
    mess3,
    random_random_xor,
    save_model,
    zero_one_random,
)

# Written down once more, by hand, state by state: (from, symbol, to, probability).
EDGES = {
    "golden mean": [(0, 1, 0, 0.5), (0, 0, 1, 0.5), (1, 1, 0, 1)],
    "zero-one-random": [(0, 0, 1, 1), (1, 1, 2, 1), (2, 0, 0, 0.5), (2, 1, 0, 0.5)],
    "rrxor": [
        *[(0, 0, 1, 0.5), (0, 1, 2, 0.5)],
        *[(1, 0, 3, 0.5), (1, 1, 4, 0.5), (2, 0, 4, 0.5), (2, 1, 3, 0.5)],
        *[(3, 0, 0, 1), (4, 1, 0, 1)],
    ],
}
MADE = {
    "golden mean": golden_mean,
    "zero-one-random": zero_one_random,
    "rrxor": random_random_xor,
    "mess3": mess3,
}


def matrices_of(name):
    """T_x in NumPy, from the edges or from the printed matrix of Mess3."""
    if name == "mess3":
        x, alpha = 0.05, 0.85
        beta, y = (1 - alpha) / 2, 1 - 2 * x
        first = [
            [alpha * y, beta * x, beta * x],
            [alpha * x, beta * y, beta * x],
            [alpha * x, beta * x, beta * y],
        ]
        # The other two follow by renaming the states in a circle.
        turn = np.roll(np.eye(3), 1, axis=1)
        second = turn.T @ np.array(first) @ turn
        return np.stack([first, second, turn.T @ second @ turn])
    edges = EDGES[name]
    states = 1 + max(edge[0] for edge in edges)
    out = np.zeros((2, states, states))
    for origin, symbol, target, probability in edges:
        out[symbol, origin, target] = probability
    return out


def stationary_of(matrices):
    law = np.full(matrices.shape[-1], 1 / matrices.shape[-1])
    for _ in range(3000):  # some chains are periodic: the mean over time converges
        law = (law + law @ matrices.sum(0)) / 2
    return law


every_process = pytest.mark.parametrize("name", MADE)


@every_process
def test_words_and_beliefs_are_products_of_the_matrices(name):
    matrices, chain = matrices_of(name), MADE[name]()
    np.testing.assert_allclose(chain.matrices.numpy(), matrices, atol=1e-15)
    start = stationary_of(matrices)
    np.testing.assert_allclose(chain.stationary.numpy(), start, atol=1e-12)
    words = list(itertools.product(range(len(matrices)), repeat=5))
    laws = [start @ np.linalg.multi_dot([matrices[x] for x in word]) for word in words]
    seen = [n for n, law in enumerate(laws) if law.sum() > 0]
    data = Sequences.from_arrays([words[n] for n in seen], codes=True)
    evidence = log_evidence(chain.model, data).exp().numpy()
    np.testing.assert_allclose(evidence, [laws[n].sum() for n in seen], atol=1e-12)
    assert sum(evidence) == pytest.approx(1, abs=1e-12)
    beliefs = chain.state_beliefs(filter(chain.model, data)).numpy()
    for row, n in enumerate(seen):
        belief = start
        for step, symbol in enumerate(words[n]):  # the textbook recursion
            belief = belief @ matrices[symbol] / (belief @ matrices[symbol]).sum()
            np.testing.assert_allclose(beliefs[row, step], belief, atol=1e-12)
    told = chain.next_symbol(torch.from_numpy(beliefs[:, -1])).numpy()
    expected = [[(laws[n] @ m).sum() / laws[n].sum() for m in matrices] for n in seen]
    np.testing.assert_allclose(told, expected, atol=1e-12)


@every_process
def test_the_model_over_pairs_is_the_sum_over_all_paths(name):
    chain = MADE[name]()
    data = chain.sample(2, 3, seed=0).data
    laws = chain.model.laws({}, data)
    first, onward = laws.log_initial[0].numpy(), laws.log_transition[0, 0].numpy()
    for n in range(2):
        table = np.broadcast_to(onward, (2, *onward.shape))
        expected = oracles.log_evidence(first, table, laws.log_likelihood[n].numpy())
        assert float(log_evidence(chain.model, data)[n]) == pytest.approx(expected, abs=1e-10)


@every_process
def test_block_entropies_are_sums_over_words(name):
    matrices = matrices_of(name)
    start = stationary_of(matrices)
    expected = []
    for length in range(1, 5):
        words = itertools.product(range(len(matrices)), repeat=length)
        p = np.array([(start @ _product(matrices, w)).sum() for w in words])
        p = p[p > 0]
        expected.append(-(p * np.log(p)).sum())
    np.testing.assert_allclose(MADE[name]().block_entropies(4).numpy(), expected, atol=1e-12)


def _product(matrices, word):
    out = np.eye(matrices.shape[-1])
    for symbol in word:
        out = out @ matrices[symbol]
    return out


def test_entropy_rates_in_closed_form():
    assert golden_mean().entropy_rate() == pytest.approx(2 / 3 * math.log(2))
    coin = -(0.3 * math.log(0.3) + 0.7 * math.log(0.7))
    assert golden_mean(0.3).entropy_rate() == pytest.approx(coin / 1.7)
    assert zero_one_random().entropy_rate() == pytest.approx(math.log(2) / 3)
    assert random_random_xor().entropy_rate() == pytest.approx(2 / 3 * math.log(2))
    with pytest.raises(ValueError, match="chain: the entropy rate has a closed form"):
        mess3().entropy_rate()


def test_the_entropy_rate_of_mess3_is_the_published_one():
    # Differences of block entropies fall to the rate; a tenth symbol changes it by 1e-5.
    blocks = mess3().block_entropies(10)
    assert float(blocks[-1] - blocks[-2]) == pytest.approx(0.7935, abs=5e-5)


def test_rrxor_has_36_beliefs():
    chain = random_random_xor()
    seen = chain.sample(2000, 12, seed=0).data
    beliefs = chain.state_beliefs(filter(chain.model, seen)).flatten(0, 1)
    start = chain.stationary.unsqueeze(0)  # before the first symbol, one of the 36
    assert len(torch.cat([start, beliefs]).round(decimals=9).unique(dim=0)) == 36


def test_samples_go_where_the_edges_lead():
    chain = random_random_xor()
    drawn = chain.sample(50, 20, seed=3)
    states, symbols = drawn.states, drawn.data.codes()
    allowed = {(z, x, to) for z, x, to, _ in EDGES["rrxor"]}
    steps = zip(
        states[:, :-1].flatten(), symbols[:, 1:].flatten(), states[:, 1:].flatten(), strict=True
    )
    assert {(int(z), int(x), int(to)) for z, x, to in steps} == allowed


def test_the_mean_loss_is_the_block_entropy():
    # Standard error of the mean over 4000 sequences is taken; 4 of them fail once in 16 000.
    chain = golden_mean(0.4)
    loss = -step_log_likelihood(chain.model, chain.sample(4000, 12, seed=1).data).mean(1)
    expected = float(chain.block_entropies(12)[-1]) / 12
    assert abs(float(loss.mean()) - expected) < 4 * float(loss.std()) / math.sqrt(4000)


def test_the_model_saves_and_loads(tmp_path):
    chain = mess3()
    data = chain.sample(3, 6, seed=0).data
    loaded = load_model(save_model(chain.model, tmp_path / "mess3.pt"))
    assert torch.equal(log_evidence(loaded, data), log_evidence(chain.model, data))


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        ([[0.5, 0.5], [0.5, 0.5]], "needs shape"),
        ([[[1.0]]], "needs shape"),
        ([[[0.5, 0.0], [0.0, 0.5]], [[0.4, 0.0], [0.0, 0.5]]], "rows that sum to 1"),
        ([[[1.5, 0.0], [0.0, 0.5]], [[-0.5, 0.0], [0.0, 0.5]]], "probabilities >= 0"),
        ([[[0.5, 0.0], [0.0, 0.5]], [[0.5, 0.0], [0.0, 0.5]]], "one stationary law"),
    ],
)
def test_bad_matrices(matrices, message):
    with pytest.raises(ValueError, match=f"matrices: .*{message}"):
        labelled_chain(matrices)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"x: must be in \(0, 1/2\], got 0.6"):
        mess3(x=0.6)
    with pytest.raises(ValueError, match=r"alpha: must be in \[0, 1\], got 2"):
        mess3(alpha=2)
    with pytest.raises(ValueError, match=r"p: must be in \(0, 1\), got 1"):
        golden_mean(1)
    with pytest.raises(ValueError, match="length: needs at most"):
        mess3().block_entropies(20)
    with pytest.raises(
        ValueError,
        match=r"pair_beliefs: needs a tensor with 9 entries along the last axis, got \(2, 3\)",
    ):
        mess3().state_beliefs(torch.ones(2, 3))
    with pytest.raises(ValueError, match="beliefs: needs a tensor with 3 entries"):
        mess3().next_symbol(torch.ones(2, 9))
