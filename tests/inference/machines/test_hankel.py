"""The Hankel matrix by blocks, beside the matrix written out word by word."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from beliefzoo.inference import NetworkLaw, PrefixLaw, law_divergence
from beliefzoo.inference.machines import hankel
from beliefzoo.inference.machines.hankel import (
    Words,
    difference_of,
    plan_of,
    spectrum_of,
    word_probabilities,
)
from beliefzoo.inference.machines.known_laws import OperatorLaw
from beliefzoo.inference.machines.laws import SequenceLaw
from beliefzoo.models import LabelledChain, golden_mean, labelled_chain, mess3, random_random_xor

Word = tuple[int, ...]


def every(symbols: int, longest: int) -> list[Word]:
    lengths = range(longest + 1)
    return [word for n in lengths for word in itertools.product(range(symbols), repeat=n)]


def probability(law: SequenceLaw, word: Word) -> float:
    state, p = law.start(1), 1.0
    for code in word:
        p *= float(law.next_log_probabilities(state)[0, code].exp())
        state = law.read(state, torch.tensor([code]))
    return p


def random_chain(states: int, symbols: int, seed: int) -> LabelledChain:
    generator = torch.Generator().manual_seed(seed)
    table = torch.rand(symbols, states, states, generator=generator, dtype=torch.float64) ** 3
    return labelled_chain(table / table.sum((0, 2)).unsqueeze(-1))


def network() -> NetworkLaw:
    torch.manual_seed(5)
    return NetworkLaw(nn.LSTM(2, 3).eval(), nn.Linear(3, 2))


@pytest.mark.parametrize("block", [2**22, 40])
def test_singular_values_and_moments_are_those_of_the_matrix(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hankel, "_BLOCK", block)
    law = network()
    plan = plan_of(law, prefixes=31, suffixes=7, length=9, gigabytes=1, seed=0)
    assert (plan.length, len(plan.suffixes.levels), plan.prefixes) == (4, 2, 31)
    pasts, futures = every(2, 4), every(2, 2)
    weight = torch.tensor([probability(law, u) / 5 for u in pasts]).double()

    whole = {word: probability(law, word) for word in every(2, 7)}

    def matrix(middle: Word) -> Tensor:
        rows = [[whole[u + middle + v] for v in futures] for u in pasts]
        return torch.tensor(rows).double() / weight.unsqueeze(1) / 5 * weight.sqrt().unsqueeze(1)

    found = spectrum_of(law, plan, seed=0, progress=False)
    written = matrix(())
    torch.testing.assert_close(found.singular_values, torch.linalg.svdvals(written))
    torch.testing.assert_close(found.by_length[0], torch.linalg.svdvals(written[:, :3]))
    operators = found.operators(2)
    _, values, right = torch.linalg.svd(written, full_matrices=False)
    right = right[:2].mT
    sign = (right * operators.basis).sum(0).sign()
    right = right * sign
    left = written @ right / values[:2] ** 2
    for code in (0, 1):
        expected = left.mT @ matrix((code,)) @ right
        torch.testing.assert_close(operators.operators[code].mT, expected)


def test_words_that_share_beginnings_have_the_probabilities_of_each() -> None:
    law = network()
    tree = Words.of({(0, 1, 1), (1,), (0, 0)})
    found = word_probabilities(law, law.start(2), tree)
    listed: list[Word] = [(), (0,), (1,), (0, 0), (0, 1), (0, 1, 1)]
    assert tree.count == len(listed)
    expected = torch.tensor([probability(law, word) for word in listed]).double()
    torch.testing.assert_close(found, expected.expand(2, -1))


CHAINS = [
    (golden_mean(), 2),
    (random_random_xor(), 5),
    (mess3(), 3),
    *((random_chain(k, 3, seed=k), k) for k in (2, 3, 4, 5)),
]


@pytest.mark.parametrize(("chain", "rank"), CHAINS)
def test_the_operators_of_a_known_machine_are_it(chain: LabelledChain, rank: int) -> None:
    """KL 0 on every past, and a change of basis between the two: the same traces of products."""
    law = OperatorLaw.of(chain)
    plan = plan_of(law, prefixes=1500, suffixes=130, length=9, gigabytes=1, seed=0)
    found = spectrum_of(law, plan, seed=0, progress=False)
    assert found.rank(1e-7) == rank
    operators = found.operators(rank)
    assert float(law_divergence(chain, operators, sequences=50).steps.max()) < 1e-10
    for word in every(chain.symbols, 3)[1:]:
        ours, theirs = (torch.eye(rank, dtype=torch.float64) for _ in range(2))
        for code in word:
            ours, theirs = ours @ operators.operators[code].mT, theirs @ chain.matrices[code]
        assert float((ours.trace() - theirs.trace()).abs()) < 1e-6
    words = operators.joint_probabilities(4)
    for p, word in zip(words, itertools.product(range(chain.symbols), repeat=4), strict=True):
        assert abs(float(p) - probability(law, word)) < 1e-8


def test_drawn_words_give_the_same_machine() -> None:
    """With many symbols pasts are drawn, and one symbol after each."""
    chain = random_chain(3, 12, seed=1)
    law = OperatorLaw.of(chain)
    plan = plan_of(law, prefixes=1200, suffixes=60, length=8, gigabytes=1, seed=0)
    assert not plan.enumerated
    found = spectrum_of(law, plan, seed=0, progress=False)
    assert found.rank(1e-7) == 3
    assert float(law_divergence(chain, found.operators(3), sequences=50).steps.max()) < 1e-10


def test_the_distance_of_two_trainings_is_a_spectral_norm() -> None:
    law, other = network(), OperatorLaw.of(golden_mean())
    plan = plan_of(law, prefixes=31, suffixes=7, length=9, gigabytes=1, seed=0)
    pasts, futures = every(2, 4), every(2, 2)

    def given(one: SequenceLaw, u: Word, v: Word) -> float:
        state, p = one.start(1), 1.0
        for place, code in enumerate(u + v):
            if place >= len(u):
                p *= float(one.next_log_probabilities(state)[0, code].exp())
            state = one.read(state, torch.tensor([code]))
        return p

    gap = torch.tensor(
        [
            [
                math.sqrt(probability(law, u) / 5) * (given(law, u, v) - given(other, u, v))
                for v in futures
            ]
            for u in pasts
        ]
    )
    expected = float(torch.linalg.matrix_norm(gap, 2))
    assert difference_of(law, other, plan, seed=0) == pytest.approx(expected)


def test_memory_does_not_grow_with_the_rows() -> None:
    law = PrefixLaw(lambda codes: torch.zeros(len(codes), 27), 27)
    few, many = (
        plan_of(law, prefixes=n, suffixes=1000, length=8, gigabytes=4, seed=0)
        for n in (1000, 100_000)
    )
    assert few.bytes == many.bytes < 4 * 2**30
