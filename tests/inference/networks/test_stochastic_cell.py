"""Cells whose gates are drawn: against a sum over single paths, torch's LSTM, and the limits."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn

from beliefzoo.inference import StochasticCell


def lstm(units, scale=1.0, seed=0):
    """A network with normal weights."""
    torch.manual_seed(seed)
    network = nn.LSTM(2, units, batch_first=True)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(0, scale)
    return network


def paths(network, x, temperature):
    """Laws of (cells, shown) after each step, and of the gates' bits at it: one path at a time."""
    units = network.hidden_size
    own = {name: weight.detach().double().numpy() for name, weight in network.named_parameters()}
    law = {((0,) * units, (0,) * units): 1.0}
    for told in x.double().numpy():
        after, bits = defaultdict(float), defaultdict(float)
        for (cells, shown), chance in law.items():
            read = own["weight_ih_l0"] @ told + own["weight_hh_l0"] @ np.array(shown, float)
            read = (read + own["bias_ih_l0"] + own["bias_hh_l0"]) / temperature
            i, f, _, o = (1 / (1 + np.exp(-part)) for part in np.split(read, 4))
            sign = (1 + np.tanh(np.split(read, 4)[2])) / 2
            chances = np.concatenate([i, f, sign, o])
            for drawn in itertools.product((0, 1), repeat=4 * units):
                share = chance * math.prod(
                    p if bit else 1 - p for p, bit in zip(chances, drawn, strict=True)
                )
                bits[drawn] += share
                write, keep, plus, show = (drawn[k * units : (k + 1) * units] for k in range(4))
                to = tuple(
                    k * c + w * (2 * s - 1)
                    for k, c, w, s in zip(keep, cells, write, plus, strict=True)
                )
                for seen in itertools.product((0, 1), repeat=units):
                    odds = [abs(math.tanh(c / temperature)) for c in to]
                    part = math.prod(p if b else 1 - p for p, b in zip(odds, seen, strict=True))
                    out = tuple(
                        int(b * s * np.sign(c)) for b, s, c in zip(seen, show, to, strict=True)
                    )
                    after[to, out] += share * part
        law = after
        yield law, bits


@pytest.mark.parametrize(("units", "steps"), [(1, 4), (2, 2)])
def test_laws_are_sums_over_paths(units, steps):
    network, x = lstm(units), torch.randn(1, steps, 2)
    found = StochasticCell(network, temperature=0.7).compare(x)
    place = {shown: k for k, shown in enumerate(itertools.product((-1, 0, 1), repeat=units))}
    h = c = np.zeros(units)
    own = {name: weight.detach().double().numpy() for name, weight in network.named_parameters()}
    for t, (law, bits) in enumerate(paths(network, x[0], 0.7)):
        mean = sum(chance * np.array(cells) for (cells, _), chance in law.items())
        np.testing.assert_allclose(found.mean[0, t], mean, atol=1e-12)
        shown = np.zeros(3**units)
        for (_, out), chance in law.items():
            shown[place[out]] += chance
        np.testing.assert_allclose(found.shown[0, t], shown, atol=1e-12)
        told = x[0, t].double().numpy()
        read = own["weight_ih_l0"] @ told + own["weight_hh_l0"] @ h
        read = (read + own["bias_ih_l0"] + own["bias_hh_l0"]) / 0.7
        i, f, _, o = (1 / (1 + np.exp(-part)) for part in np.split(read, 4))
        g = np.tanh(np.split(read, 4)[2])
        c = f * c + i * g
        h = o * np.tanh(c / 0.7)
        np.testing.assert_allclose(found.relaxed[0, t], c, atol=1e-12)
        chances = np.concatenate([i, f, (1 + g) / 2, o])
        nats = sum(
            p * (math.log(p) - math.log(math.prod(np.where(drawn, chances, 1 - chances))))
            for drawn, p in bits.items()
        )
        assert float(found.nats[0, t]) == pytest.approx(nats, abs=1e-10)
        table = np.zeros((2,) * 4 * units)
        for drawn, p in bits.items():
            table[drawn] = p
        correlation = sum(
            p
            * math.log(p / math.prod(table.take(bit, axis).sum() for axis, bit in enumerate(drawn)))
            for drawn, p in bits.items()
        )
        assert float(found.total_correlation[0, t]) == pytest.approx(correlation, abs=1e-10)


def test_the_relaxation_is_torchs_lstm():
    network, x = lstm(3), torch.randn(2, 5, 2)
    relaxed = StochasticCell(network).compare(x).relaxed
    cells = [network(x[:, : t + 1])[1][1][0] for t in range(5)]
    torch.testing.assert_close(relaxed.float(), torch.stack(cells, 1), atol=1e-6, rtol=1e-6)


def test_limits():
    """Nothing is left to chance, or everything; and gates that do not look at what was shown."""
    network, x = lstm(3, scale=2.0), torch.randn(2, 6, 2)
    for temperature in (1e-5, 1e7):
        found = StochasticCell(network, temperature=temperature).compare(x)
        assert found.error < 1e-12
        assert float(found.nats.abs().max()) < 1e-12
    assert StochasticCell(network).compare(x).error > 0.01
    with torch.no_grad():
        network.weight_hh_l0.zero_()
    for temperature in (0.1, 1.0, 10.0):
        found = StochasticCell(network, temperature=temperature).compare(x)
        assert found.error < 1e-12
        assert float(found.nats.abs().max()) < 1e-12


def test_a_unit_is_a_decision_process():
    """Under the actions of a path, what is shown has the law of the process's observations."""
    cell = StochasticCell(lstm(1), temperature=0.8)
    process = cell.pomdp(2)
    tables = {name: value.double() for name, value in process.known.items()}
    names = process.action_names
    start = tables["initial"]
    first = start @ tables["transition"][names.index("keep, write 1, show")]
    assert first.tolist() == [0, 0, 0, 1, 0]
    second = first @ tables["transition"][names.index("keep, write 1, hide")]
    assert second.tolist() == [0, 0, 0, 0, 1]
    third = second @ tables["transition"][names.index("drop, write -1, show")]
    assert third.tolist() == [0, 1, 0, 0, 0]
    seen = tables["probs"][names.index("drop, write -1, show")]
    torch.testing.assert_close(seen[1, 0], torch.tensor(math.tanh(1 / 0.8), dtype=torch.float64))
    hidden = tables["probs"][names.index("drop, write -1, hide")]
    assert hidden[:, 1].tolist() == [1] * 5


def test_what_cannot_be_enumerated_is_refused():
    with pytest.raises(ValueError, match="up to 3 units"):
        StochasticCell(nn.LSTM(2, 4, batch_first=True))
    with pytest.raises(ValueError, match="one layer"):
        StochasticCell(nn.LSTM(2, 2, num_layers=2, batch_first=True))
    with pytest.raises(ValueError, match="LSTM"):
        StochasticCell(nn.GRU(2, 2, batch_first=True))
    with pytest.raises(ValueError, match="temperature"):
        StochasticCell(lstm(1), temperature=0)
    with pytest.raises(ValueError, match="up to 6 steps"):
        StochasticCell(lstm(1)).compare(torch.zeros(1, 7, 2))
    with pytest.raises(ValueError, match="x"):
        StochasticCell(lstm(1)).compare(torch.zeros(1, 3, 5))
