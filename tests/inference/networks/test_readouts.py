"""Read-outs of beliefs: where the best one is known in closed form, and where it is exact."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from beliefzoo.inference import (
    belief_readout,
    filter,
    fold_embedding,
    lstm_readouts,
    mean_readout,
    recurrent_gates,
)
from beliefzoo.inference.networks.network_inputs import network_inputs
from beliefzoo.inference.networks.readouts import window
from beliefzoo.models import Sequences, mess3


def test_what_is_linear_in_the_logits_is_read_exactly():
    features = torch.randn(60, 10, 5).double()
    beliefs = (features @ torch.randn(5, 3).double() + 0.3).softmax(-1)
    found = belief_readout(features, beliefs)
    assert found.decoder_kl < 1e-7
    assert found.share > 1 - 1e-6
    assert found.r_squared < 0.999  # probabilities are not linear in logits


def test_what_is_linear_in_the_probabilities_has_r_squared_one():
    beliefs = torch.rand(60, 10, 4).double().softmax(-1)
    features = beliefs @ torch.randn(4, 6).double() + 5  # six columns of rank three
    assert belief_readout(features, beliefs).r_squared == pytest.approx(1, abs=1e-10)
    assert mean_readout(features, beliefs[..., :2]).r_squared == pytest.approx(1, abs=1e-10)


def test_scale_and_turn_of_the_features_do_not_matter():
    features = torch.randn(50, 10, 4).double()
    beliefs = torch.randn(50, 10, 3).double().softmax(-1)
    turned = 1e-4 * features @ torch.randn(4, 4).double() + 7
    one, other = belief_readout(features, beliefs), belief_readout(turned, beliefs)
    assert one.decoder_kl == pytest.approx(other.decoder_kl, rel=1e-4)
    assert one.r_squared == pytest.approx(other.r_squared, abs=1e-8)


def test_the_best_decoder_of_a_bit_is_the_mean_of_the_beliefs_behind_it():
    # The features tell a bit x, the belief depends on x and on another bit u of which nothing is
    # told. In closed form the decoder says the mean over u.
    table = torch.tensor([[[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], [[0.2, 0.2, 0.6], [0.9, 0.05, 0.05]]])
    x, u = torch.randint(2, (2, 400, 60))
    beliefs = table.double()[x, u]
    found = belief_readout(x.unsqueeze(-1), beliefs)
    b = table.double().numpy()
    best = np.mean([_kl(b[i, j], b[i].mean(0)) for i in range(2) for j in range(2)])
    nothing = np.mean([_kl(b[i, j], b.mean((0, 1))) for i in range(2) for j in range(2)])
    # 12 000 held-out steps: the sampling error of a mean is below .002.
    assert found.decoder_kl == pytest.approx(best, abs=0.008)
    assert found.information == pytest.approx(nothing, abs=0.008)
    assert found.share == pytest.approx(1 - best / nothing, abs=0.02)
    spread = b - b.mean((0, 1))
    around = b - b.mean(1, keepdims=True)
    expected = 1 - (around**2).sum() / (spread**2).sum()
    assert found.r_squared == pytest.approx(expected, abs=0.02)
    each = [_kl(b[i, j], b[i].mean(0)) for i in range(2) for j in range(2)]
    error = np.std(each) / math.sqrt(200 * 60)  # all steps are independent here
    assert found.decoder_kl_standard_error == pytest.approx(error, rel=0.2)


def _kl(p, q):
    return float((p * np.log(p / q)).sum())


def test_features_that_say_nothing():
    beliefs = torch.randn(300, 40, 3).double().softmax(-1)
    found = belief_readout(torch.randn(300, 40, 2), beliefs)
    assert found.decoder_kl == pytest.approx(found.information, abs=2e-3)
    assert abs(found.r_squared) < 2e-3
    still = belief_readout(torch.ones(300, 40, 2), beliefs)
    assert still.decoder_kl == pytest.approx(still.information, abs=1e-9)


def test_a_hidden_layer_reads_what_is_not_linear():
    # The sign of a product is not linear in the factors.
    features = torch.randn(120, 40, 2).double()
    sign = (2 * features.prod(-1)).sigmoid()
    beliefs = torch.stack([sign, 1 - sign], -1)
    plain, deep = belief_readout(features, beliefs), belief_readout(features, beliefs, units=16)
    assert plain.share < 0.05
    assert deep.share > 0.95


def test_only_steps_inside_count():
    features, beliefs = torch.randn(40, 8, 3), torch.randn(40, 8, 2).double().softmax(-1)
    inside = torch.arange(8) < torch.randint(1, 9, (40, 1))
    spoilt = features.masked_fill(~inside.unsqueeze(-1), math.nan)
    one = belief_readout(features, beliefs, inside)
    assert belief_readout(spoilt, beliefs, inside) == one
    assert belief_readout(features, beliefs) != one


def test_sequences_without_steps_that_count_are_on_neither_side():
    features = torch.randn(20, 4, 2).double()
    beliefs = (features @ torch.randn(2, 3).double()).softmax(-1)
    inside = torch.zeros(20, 4, dtype=torch.bool)
    inside[[3, 11]] = True
    for seed in range(5):
        assert math.isfinite(belief_readout(features, beliefs, inside, seed=seed).decoder_kl)
    inside[3] = False
    with pytest.raises(
        ValueError, match="needs two sequences or more with steps that count, got 1"
    ):
        belief_readout(features, beliefs, inside)


def test_of_a_single_state_there_is_nothing_to_read():
    data = Sequences.from_tensors(torch.randint(3, (6, 4)), codes=True)
    found = lstm_readouts(nn.LSTM(3, 2), data, torch.ones(6, 4, 1), windows=1)
    assert found.state["h"].decoder_kl == 0
    assert math.isnan(found.state["h"].r_squared)
    assert "nan" not in str(found)


def test_windows_hold_the_last_symbols():
    data = Sequences.from_arrays([[0, 1, 1, 0], [1, 0]], codes=True)
    words = window(data, 2, 2)
    assert words.shape == (2, 4, 9)
    # One more than the code, 0 for nothing; the latest symbol is the highest digit in base 3.
    place = words.argmax(-1)
    assert place[0].tolist() == [3 * 1 + 0, 3 * 2 + 1, 3 * 2 + 2, 3 * 1 + 2]
    assert place[1, :2].tolist() == [3 * 2 + 0, 3 * 1 + 2]
    many = window(Sequences.from_arrays([[20, 3, 7]], codes=True), 2, 30)
    assert many.shape == (1, 3, 60)
    assert [row.nonzero()[:, 0].tolist() for row in many[0]] == [[20], [3, 50], [7, 33]]
    numbers = window(Sequences.from_arrays([[1.5, 2.5, 3.5]]), 3, 1)
    assert numbers[0].tolist() == [[1.5, 0, 0], [2.5, 1.5, 0], [3.5, 2.5, 1.5]]


def test_the_state_of_an_lstm_beside_its_controls():
    chain = mess3()
    data = chain.sample(200, 12, seed=0).data
    lstm = nn.LSTM(3, 8, batch_first=True)
    with torch.no_grad():
        for weight in lstm.parameters():
            weight.mul_(3)
        cell = recurrent_gates(lstm, network_inputs(lstm, data))["c"][:, :, 0]
    beliefs = (cell.double() @ torch.randn(8, 3).double()).softmax(-1)
    found = lstm_readouts(lstm, data, beliefs, windows=2, seed=5)
    assert found.state["c"].decoder_kl < 1e-6  # it is softmax-linear in the cell, and no control is
    assert found.state["hc"].decoder_kl < 1e-5
    others = [*found.untrained.values(), *found.window.values()]
    assert min(one.decoder_kl for one in others) > 1e-3
    assert found.state["hc"].features == 16
    assert "LSTM hc" in str(found)
    assert "last 2 inputs" in str(found)


def test_probabilities_of_the_next_symbol_tell_the_belief_of_mess3():
    # Three symbols, three states, an invertible matrix between them: R² is 1, as published.
    chain = mess3()
    data = chain.sample(50, 10, seed=0).data
    beliefs = chain.state_beliefs(filter(chain.model, data))
    told = chain.next_symbol(beliefs)
    found = lstm_readouts(nn.LSTM(3, 4), data, beliefs, next_symbol=told, windows=0)
    assert found.next_symbol.r_squared == pytest.approx(1, abs=1e-9)
    assert not found.window


def test_a_folded_embedding_does_the_same():
    embedding, lstm = nn.Embedding(5, 3), nn.LSTM(3, 4, num_layers=2, batch_first=True)
    codes = torch.randint(5, (6, 7))
    folded = fold_embedding(lstm, embedding)
    x = network_inputs(folded, Sequences.from_tensors(codes, codes=True))
    torch.testing.assert_close(folded(x)[0], lstm(embedding(codes))[0], atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"embedding: must be .* of 3 numbers"):
        fold_embedding(lstm, nn.Embedding(5, 4))


def test_bad_input():
    features, beliefs = torch.randn(6, 5, 3), torch.randn(6, 5, 2).softmax(-1)
    inside = torch.ones(6, 5, dtype=torch.bool)
    cases = [
        ({"features": features[0]}, "features: needs shape"),
        ({"beliefs": beliefs[:, :4]}, r"beliefs: needs shape \(6, 5, …\), got \(6, 4, 2\)"),
        ({"inside": inside[:4]}, "inside: needs bools of shape"),
        ({"features": features / 0}, "features: needs finite numbers"),
        ({"beliefs": 2 * beliefs}, "beliefs: needs probabilities"),
        ({"heldout": 1.0}, r"heldout: must be in \(0, 1\), got 1.0"),
        ({"heldout": "half"}, r"heldout: must be in \(0, 1\), got 'half'"),
        ({"features": features.numpy()}, "features: must be a tensor, got ndarray"),
        ({"beliefs": beliefs.numpy()}, "beliefs: must be a tensor, got ndarray"),
        ({"inside": inside.float()}, "inside: needs bools .*, got torch.float32 of shape"),
        ({"units": -1}, "units: must be a whole number >= 0"),
        ({"features": features[:1], "beliefs": beliefs[:1]}, "features: needs two sequences"),
    ]
    for changed, message in cases:
        given = {"features": features, "beliefs": beliefs, "inside": None, **changed}
        with pytest.raises(ValueError, match=message):
            belief_readout(given.pop("features"), given.pop("beliefs"), **given)
    data = Sequences.from_arrays([[0, 1, 2], [1, 1, 1]], codes=True)
    refused = [
        (nn.LSTM(3, 4, proj_size=2), "lstm: must have no projection"),
        (nn.LSTM(3, 4, bidirectional=True), "lstm: must read forward only"),
        (nn.GRU(3, 4), r"lstm: must be a torch.nn.LSTM .*got GRU"),
        (nn.LSTM(2, 4), "lstm: needs as many inputs as there are symbols"),
    ]
    for lstm, message in refused:
        with pytest.raises(ValueError, match=message):
            lstm_readouts(lstm, data, torch.full((2, 3, 2), 0.5))
    law = torch.full((2, 3, 2), 0.5)
    with pytest.raises(ValueError, match=r"seed: must be a whole number .* or None, got 'a'"):
        belief_readout(features, beliefs, seed="a")
    with pytest.raises(ValueError, match="next_symbol: needs finite numbers"):
        lstm_readouts(nn.LSTM(3, 4), data, law, next_symbol=law / 0)
    with pytest.raises(ValueError, match=r"next_symbol: needs shape \(2, 3, …\), got \(1, 3, 3\)"):
        lstm_readouts(
            nn.LSTM(3, 4), data, torch.full((2, 3, 2), 0.5), next_symbol=torch.ones(1, 3, 3) / 3
        )
    with pytest.raises(ValueError, match="lstm: needs input_size=1, the number of features"):
        lstm_readouts(nn.LSTM(2, 4), Sequences.from_arrays([[0.5], [1.5]]), beliefs)
