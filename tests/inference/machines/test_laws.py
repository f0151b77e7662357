"""Laws: networks, functions of prefixes and known machines, asked alike."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from beliefzoo.inference import (
    LawDivergence,
    NetworkLaw,
    PrefixLaw,
    SequenceLaw,
    law_divergence,
    log_evidence,
    lstm_log_likelihood,
    machine_of,
    next_log_probabilities,
)
from beliefzoo.inference.machines.known_laws import OperatorLaw
from beliefzoo.inference.machines.laws import log_conditionals, sampled
from beliefzoo.models import (
    Categorical,
    HiddenMarkovModel,
    Sequences,
    golden_mean,
    mess3,
    random_random_xor,
)

HMM = HiddenMarkovModel(2, Categorical(3)).with_parameters(
    initial=[0.7, 0.3],
    transition=[[0.9, 0.1], [0.2, 0.8]],
    probs=[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]],
)


def words(symbols: int, length: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(symbols), repeat=length)))


def likelihood(law: SequenceLaw, codes: Tensor) -> Tensor:
    picked = log_conditionals(law, codes).gather(-1, codes.unsqueeze(-1))
    return picked.squeeze(-1).sum(-1)


def network(kind: type[nn.RNNBase], **options: Any) -> nn.RNNBase:
    torch.manual_seed(3)
    made: nn.RNNBase = kind(3, 5, **options).eval()
    return made


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_network_read_symbol_by_symbol_is_the_network_run_at_once(
    kind: type[nn.RNNBase], batch_first: bool, layers: int
) -> None:
    net, head = network(kind, batch_first=batch_first, num_layers=layers), nn.Linear(5, 3)
    codes = words(3, 4)
    x = nn.functional.one_hot(codes, 3).double()
    with torch.no_grad():
        double = net.double()
        h = double(x if batch_first else x.transpose(0, 1))[0]
        h = h if batch_first else h.transpose(0, 1)
        before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)
        expected = head.double()(before).log_softmax(-1)
    torch.testing.assert_close(log_conditionals(NetworkLaw(net, head), codes), expected)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_an_embedding_a_projection_and_a_mark_are_read() -> None:
    torch.manual_seed(0)
    lstm, head = nn.LSTM(4, 6, proj_size=2, batch_first=True).eval(), nn.Linear(2, 3)
    embedding = nn.Embedding(4, 4)  # three symbols and the mark
    law = NetworkLaw(lstm, head, embedding, begin=3)
    codes = words(3, 3)
    marked = torch.cat([torch.full((len(codes), 1), 3), codes[:, :-1]], 1)
    with torch.no_grad():
        expected = head(lstm(embedding(marked))[0]).double().log_softmax(-1)
    torch.testing.assert_close(log_conditionals(law, codes), expected, atol=1e-5, rtol=1e-5)


def test_the_score_is_that_of_lstm_log_likelihood() -> None:
    lstm, head = network(nn.LSTM, batch_first=True), nn.Linear(5, 3)
    assert isinstance(lstm, nn.LSTM)
    codes = words(3, 3)
    data = Sequences.from_tensors(codes.unsqueeze(-1), codes=True)
    expected = lstm_log_likelihood(lstm, head, data).sum(-1)
    torch.testing.assert_close(
        likelihood(NetworkLaw(lstm, head), codes), expected, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("chain", [golden_mean(), mess3(), random_random_xor()])
def test_a_known_chain_gives_the_probability_of_every_word(chain: Any) -> None:
    codes = words(chain.symbols, 5)
    slow = []
    for word in codes.tolist():
        row = chain.stationary
        for code in word:
            row = row @ chain.matrices[code]
        slow.append(row.sum())
    law = OperatorLaw.of(chain)
    torch.testing.assert_close(likelihood(law, codes).exp(), torch.stack(slow))


def test_a_hidden_markov_model_gives_its_evidence() -> None:
    codes = words(3, 4)
    data = Sequences.from_tensors(codes.unsqueeze(-1), codes=True)
    torch.testing.assert_close(likelihood(OperatorLaw.of(HMM), codes), log_evidence(HMM, data))


def test_a_function_of_the_prefix_is_asked_without_padding() -> None:
    seen = set()

    def scores(codes: Tensor) -> Tensor:
        seen.add(tuple(codes.shape))
        return nn.functional.one_hot(codes.sum(-1) % 3, 3).float()

    law = PrefixLaw(scores, 3)
    found = next_log_probabilities(law, [[1, 1], [], [2], [0, 0]])
    assert seen == {(1, 0), (1, 1), (2, 2)}
    assert found.argmax(-1).tolist() == [2, 0, 2, 0]
    marked = PrefixLaw(scores, 3, begin=2)
    assert next_log_probabilities(marked, [[]]).argmax().item() == 2


def test_samples_follow_the_law() -> None:
    """Standard errors of 20 000 draws are .0035; one seed in 1000 leaves five of them."""
    codes, told = sampled(OperatorLaw.of(HMM), 20_000, 2, seed=4)
    torch.testing.assert_close(told, log_conditionals(OperatorLaw.of(HMM), codes))
    pairs = torch.bincount(codes[:, 0] * 3 + codes[:, 1], minlength=9).double() / len(codes)
    expected = likelihood(OperatorLaw.of(HMM), words(3, 2)).exp()
    assert float((pairs - expected).abs().max()) < 0.0175


def test_the_divergence_of_two_laws_is_that_of_their_words() -> None:
    """Of every word of four symbols, weighted by its probability."""
    one, two = golden_mean(0.5), golden_mean(0.6)
    codes = words(2, 4)
    p, q = (likelihood(OperatorLaw.of(chain), codes) for chain in (one, two))
    expected = float((p.exp() * torch.where(p.isfinite(), p - q, 0)).sum()) / 4
    found = law_divergence(one, two, sequences=4000, length=4, seed=1)
    assert abs(found.mean - expected) < 4 * found.standard_error
    assert found.contexts[0][1] == pytest.approx(float(found.steps.max()))


def refused(argument: str, words: str, call: Any) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: .*{words}"):
        call()


LSTM = nn.LSTM(2, 4).eval()


def test_wrong_networks_and_laws_are_named() -> None:
    head = nn.Linear(4, 2)
    refused(
        "head", r"scores for each|one score for each", lambda: machine_of(LSTM, nn.Linear(4, 3))
    )
    refused("head", "an error", lambda: machine_of(LSTM, nn.Linear(5, 2)))
    refused("head", "must be the network's head", lambda: machine_of(LSTM))
    refused("head", "belongs to a network", lambda: machine_of(golden_mean(), head))
    refused("embedding", "must map", lambda: machine_of(LSTM, head, nn.Embedding(2, 3)))
    training = nn.LSTM(2, 4, num_layers=2, dropout=0.5)
    refused("network", r"eval\(\) \(with dropout=0.5", lambda: machine_of(training, head))
    refused("network", "read forward", lambda: machine_of(nn.GRU(2, 4, bidirectional=True), head))
    drops = nn.Sequential(nn.Dropout(), head)
    refused("head", "Dropout in training mode", lambda: machine_of(LSTM, drops))
    broken = nn.Linear(4, 2)
    nn.init.constant_(broken.bias, float("nan"))
    refused("network", "NaN after 1000 of 1000", lambda: machine_of(LSTM, broken))
    refused("scores", "shape", lambda: machine_of(PrefixLaw(lambda codes: torch.zeros(1, 1), 2)))
    unknown = next_log_probabilities
    refused("prefixes", "symbols 0 … 1", lambda: unknown(OperatorLaw.of(golden_mean()), [[2]]))
    refused("prefixes", "one or more", lambda: unknown(OperatorLaw.of(golden_mean()), []))
    known = OperatorLaw.of(golden_mean())
    refused("prefixes", "whole numbers", lambda: unknown(known, [[0.0]]))
    refused("prefixes", "whole numbers", lambda: unknown(known, [[True]]))  # would be a mask
    for lengths in (torch.tensor(1.5), torch.zeros(0), torch.tensor([1, 4]), torch.tensor([0, 0])):
        with pytest.raises(ValueError, match="lengths: needs 2 whole numbers from 0 to 3, not all"):
            LawDivergence.of(torch.ones(2, 3), None, lengths=lengths)
    data = Sequences.from_arrays([[0, 2, 1]] * 2, codes=True)
    refused("data", "symbols 0 … 1", lambda: law_divergence(golden_mean(), golden_mean(), data))
    refused("other", "2 symbols", lambda: law_divergence(golden_mean(), mess3()))


class Leaky:
    """A law whose probabilities sum to .9."""

    symbols = 2

    def start(self, n: int) -> tuple[Tensor, ...]:
        return (torch.zeros(n),)

    def read(self, state: tuple[Tensor, ...], codes: Tensor) -> tuple[Tensor, ...]:
        return state

    def next_log_probabilities(self, state: tuple[Tensor, ...]) -> Tensor:
        return torch.tensor([0.45, 0.45]).log().expand(len(state[0]), 2)


def test_a_law_that_does_not_sum_to_one_is_named() -> None:
    refused("network", r"sum to 1, got a sum that is off by 0\.1", lambda: machine_of(Leaky()))


def test_an_alphabet_beyond_the_memory_is_named() -> None:
    wide = PrefixLaw(lambda codes: torch.zeros(len(codes), 2000), 2000)
    refused("suffixes", "needs more than 2000 words", lambda: machine_of(wide))
    refused("suffixes", r"gigabytes=4, got .* GB", lambda: machine_of(wide, suffixes=2002))
