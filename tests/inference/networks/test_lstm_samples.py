"""An LSTM as a language model, and two sets of symbols: against loops over steps and words."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from beliefzoo.inference import compare_samples, log_evidence, lstm_log_likelihood, sample_lstm
from beliefzoo.models import Categorical, HiddenMarkovModel, Sequences, golden_mean


def language_model(symbols=3, units=5, layers=1):
    lstm, output = (
        nn.LSTM(symbols, units, num_layers=layers, batch_first=True),
        nn.Linear(units, symbols),
    )
    with torch.no_grad():
        for weight in [*lstm.parameters(), *output.parameters()]:
            weight.mul_(3)
    return lstm.double(), output.double()


def score_of(lstm, output, word):
    """log p of one word, a step of the cells after the other."""
    states = [[torch.zeros(1, lstm.hidden_size).double()] * 2 for _ in range(lstm.num_layers)]
    total = []
    for symbol in word:
        total.append(float(output(states[-1][0]).log_softmax(-1)[0, symbol].detach()))
        x = torch.eye(lstm.input_size).double()[[symbol]]
        for layer in range(lstm.num_layers):
            w = {n: getattr(lstm, f"{n}_l{layer}") for n in ("weight_ih", "weight_hh")}
            b = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
            h, c = states[layer]
            i, f, g, o = (x @ w["weight_ih"].mT + h @ w["weight_hh"].mT + b).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states[layer] = [h, c]
            x = h
    return total


@pytest.mark.parametrize("layers", [1, 2])
def test_scores_are_those_of_a_loop_over_cells(layers):
    lstm, output = language_model(layers=layers)
    words = [[0, 2, 1, 1], [2, 2], [1]]
    found = lstm_log_likelihood(lstm, output, Sequences.from_arrays(words, codes=True)).numpy()
    for n, word in enumerate(words):
        np.testing.assert_allclose(found[n, : len(word)], score_of(lstm, output, word), atol=1e-12)
        assert not found[n, len(word) :].any()
    lstm.batch_first = False
    again = lstm_log_likelihood(lstm, output, Sequences.from_arrays(words, codes=True)).numpy()
    np.testing.assert_allclose(again, found, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2])
def test_samples_have_the_law_of_the_words(layers):
    lstm, output = language_model(symbols=2, layers=layers)
    words = list(itertools.product(range(2), repeat=3))
    law = np.array([math.exp(sum(score_of(lstm, output, word))) for word in words])
    assert law.sum() == pytest.approx(1)
    drawn = sample_lstm(lstm, output, 8000, 3, seed=2).codes()
    count = np.bincount((drawn @ torch.tensor([4, 2, 1])).numpy(), minlength=8)
    # χ² with 7 degrees of freedom exceeds 29.9 once in 10 000.
    assert ((count - 8000 * law) ** 2 / (8000 * law)).sum() < 29.9


def test_samples_are_reproducible_and_leave_everything_as_it_was():
    lstm, output = language_model()
    before = torch.random.get_rng_state()
    one, other = (sample_lstm(lstm, output, 4, 6, symbols=list("abc"), seed=1) for _ in range(2))
    assert torch.equal(one.values, other.values)
    assert one.symbols == ("a", "b", "c")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert lstm.training
    assert output.training
    lstm.batch_first = False
    assert torch.equal(sample_lstm(lstm, output, 4, 6, seed=1).values, one.values)


def test_parts_that_do_not_train_with_the_whole_are_left_so():
    lstm, _ = language_model()
    output = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 3)).double()
    output[0].eval()
    before = [part.training for part in output.modules()]
    assert before == [True, False, True]
    sample_lstm(lstm, output, 2, 3, seed=0)
    assert [part.training for part in output.modules()] == before


def test_bad_language_models():
    lstm, output = language_model()
    cases = [
        (nn.LSTM(3, 4, bidirectional=True), output, "lstm: must read forward only"),
        (nn.LSTM(3, 4, proj_size=2), output, "lstm: must have no projection"),
        (lstm, nn.Linear(5, 4).double(), r"output: must map .* got \(1, 4\)"),
        (lstm, nn.Linear(6, 3).double(), "output: must map .* got an error"),
        (lstm, torch.zeros(3), "output: must be a torch.nn.Module"),
    ]
    for one, head, message in cases:
        with pytest.raises(ValueError, match=message):
            sample_lstm(one, head, 2, 3)
    for n, length, name in (0, 3, "n"), (2, 0, "length"):
        with pytest.raises(ValueError, match=f"{name}: must be a whole number >= 1, got 0"):
            sample_lstm(lstm, output, n, length)
    with pytest.raises(ValueError, match="data: must be Sequences, got Tensor"):
        lstm_log_likelihood(lstm, output, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="data: must be symbols, got numbers"):
        lstm_log_likelihood(lstm, output, Sequences.from_arrays([[0.5]]))


# Statistics of two sets


def repeated(word, copies=6):
    return Sequences.from_arrays([word] * copies, codes=True, symbols=list("abc"))


ONE, OTHER = [0, 0, 1, 2, 2, 2, 0, 1], [0, 1, 1, 1, 0, 2, 0, 0]


def test_statistics_are_those_of_counting():
    found = compare_samples(repeated(ONE), repeated(OTHER), longest=3, lags=2, most_runs=3)
    for n in range(1, 4):
        laws = []
        for word in (ONE, OTHER):
            count = Counter(tuple(word[i : i + n]) for i in range(len(word) - n + 1))
            laws.append({key: value / count.total() for key, value in count.items()})
        _check_distance(found.n_grams[n], *laws)
    runs = []
    for word in (ONE, OTHER):
        lengths = [min(len(list(group)), 3) for _, group in itertools.groupby(word)]
        runs.append({key: lengths.count(key) / len(lengths) for key in set(lengths)})
    _check_distance(found.runs, *runs)
    for law, expected in zip(found.run_lengths, runs, strict=True):
        assert law.tolist() == pytest.approx([expected.get(k, 0) for k in (1, 2, 3)])
    for word, information in zip((ONE, OTHER), found.lag_information, strict=True):
        for lag in (1, 2):
            pairs = 6 * list(zip(word[:-lag], word[lag:], strict=True))
            assert float(information[lag - 1]) == pytest.approx(_information(pairs), abs=1e-12)
    assert found.frequencies[0].tolist() == [3 / 8, 2 / 8, 3 / 8]
    assert "3-grams" in str(found)


def _check_distance(found, p, q):
    keys = set(p) | set(q)
    variation = sum(abs(p.get(k, 0) - q.get(k, 0)) for k in keys) / 2
    middle = {k: (p.get(k, 0) + q.get(k, 0)) / 2 for k in keys}
    js = sum(v * math.log(v / middle[k]) / 2 for law in (p, q) for k, v in law.items())
    assert found.total_variation == pytest.approx(variation, abs=1e-12)
    assert found.jensen_shannon == pytest.approx(js, abs=1e-12)
    assert found.total_variation_floor == 0  # all sequences of a set are the same
    assert abs(found.jensen_shannon_floor) < 1e-15


def _information(pairs):
    joint, first, second = (
        Counter(pairs),
        Counter(a for a, _ in pairs),
        Counter(b for _, b in pairs),
    )
    n = len(pairs)
    plain = sum(c / n * math.log(c * n / (first[a] * second[b])) for (a, b), c in joint.items())
    return plain - (len(joint) - len(first) - len(second) + 1) / (2 * n)


def test_counting_finds_no_information_in_independent_letters():
    # Without the correction there would be 26² / 2 / 19 000 = .018 nats.
    a, b = (Sequences.from_tensors(torch.randint(27, (1000, 20)), codes=True) for _ in range(2))
    found = compare_samples(a, b, longest=1, lags=1)
    assert max(abs(float(x)) for x in found.lag_information) < 2e-3


def test_sets_of_one_source_are_as_far_apart_as_their_halves():
    chain = golden_mean()
    one, other = (chain.sample(600, 20, seed=seed).data for seed in (1, 2))
    found = compare_samples(one, other, model=chain.model)
    for distance in (*found.n_grams.values(), found.runs):
        assert distance.jensen_shannon < 3 * distance.jensen_shannon_floor
    expected = [float(log_evidence(chain.model, data).sum()) / 12000 for data in (one, other)]
    assert found.evidence_per_step == pytest.approx(expected)
    coin = golden_mean(0.8).sample(600, 20, seed=3).data
    apart = compare_samples(one, coin)
    assert apart.n_grams[2].jensen_shannon > 20 * apart.n_grams[2].jensen_shannon_floor
    assert apart.evidence_per_step is None


def test_bad_sets():
    good = repeated(ONE)
    model = HiddenMarkovModel(2, Categorical(3))
    gap = Sequences.from_tensors(good.values, mask=good.values < 2, codes=True)
    cases = [
        ({"b": Sequences.from_arrays([[0.5], [0.5]])}, "b: must be Sequences of symbols"),
        ({"b": good[:1]}, "b: needs two sequences or more, got 1"),
        ({"b": gap}, "b: needs symbols at every step"),
        ({"lags": 8}, "a: needs sequences of 9 symbols or more, got 8"),
        ({"longest": 0}, "longest: must be a whole number >= 1"),
        ({"longest": "4"}, "longest: must be a whole number >= 1, got '4'"),
        ({"lags": None}, "lags: must be a whole number >= 1, got None"),
        ({"b": Sequences.from_arrays([ONE] * 4, codes=True, symbols=list("xyz"))}, "same symbols"),
        ({"model": model}, "needs values for"),
    ]
    for changed, message in cases:
        given = {"a": good, "b": good, "longest": 2, "lags": 2, **changed}
        with pytest.raises(ValueError, match=message):
            compare_samples(given.pop("a"), given.pop("b"), **given)
    long = Sequences.from_tensors(torch.arange(28).expand(4, 28) % 27, codes=True)
    with pytest.raises(ValueError, match="longest: must be less, words of 27 symbols"):
        compare_samples(long, long, longest=14)  # 27^14 > 2^63
