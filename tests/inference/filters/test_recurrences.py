"""Gates of torch's recurrent networks, beside a loop written out and torch's own output."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from beliefzoo.inference import GRUFilter, LSTMFilter, recurrent_gates
from beliefzoo.inference.filters.recurrences import affine_scan
from beliefzoo.models import HiddenMarkovModel


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 64, 65])
def test_the_scan_is_the_recurrence(steps: int) -> None:
    torch.manual_seed(0)
    factor, term = torch.rand(2, steps, 3).double(), torch.randn(2, steps, 3).double()
    c, states = torch.zeros(2, 3).double(), []
    for t in range(steps):
        c = factor[:, t] * c + term[:, t]
        states.append(c)
    torch.testing.assert_close(affine_scan(factor, term), torch.stack(states, 1))


def _cells(network: nn.LSTM, x: Tensor) -> Tensor:
    """Cells of the last layer: torch hands out the last one only, so run every prefix."""
    cells = [network(x[:, : t + 1])[1][1][-1] for t in range(x.shape[1])]
    return torch.stack(cells, 1)


@pytest.mark.parametrize("layers", [1, 2])
def test_cells_are_those_that_torch_ends_with(layers: int) -> None:
    torch.manual_seed(0)
    network = nn.LSTM(2, 5, num_layers=layers, batch_first=True).double()
    x = torch.randn(3, 20, 2).double()
    parts = recurrent_gates(network, x)
    torch.testing.assert_close(parts["c"][:, :, -1], _cells(network, x))
    torch.testing.assert_close(parts["h"][:, :, -1], network(x)[0])
    torch.testing.assert_close(parts["h"], parts["o"] * parts["c"].tanh())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_networks_without_bias_have_gates(kind: type[nn.LSTM]) -> None:
    torch.manual_seed(0)
    network = kind(2, 4, bias=False, batch_first=True)
    x = torch.randn(2, 6, 2)
    torch.testing.assert_close(recurrent_gates(network, x)["h"][:, :, 0], network(x)[0])


def test_gradients_pass_through_the_cells() -> None:
    torch.manual_seed(0)
    network = nn.LSTM(1, 2, batch_first=True).double()
    x = torch.randn(2, 6, 1).double()
    (through,) = torch.autograd.grad(
        recurrent_gates(network, x)["c"].square().sum(), network.weight_hh_l0
    )
    (by_hand,) = torch.autograd.grad(_cells(network, x).square().sum(), network.weight_hh_l0)
    torch.testing.assert_close(through, by_hand)


@pytest.mark.parametrize(
    ("network", "x", "message"),
    [
        (nn.LSTM(2, 3), torch.zeros(1, 4, 3), "x: needs shape .* got"),
        (nn.LSTM(2, 3), torch.zeros(4, 2), "x: needs shape .* got"),
        (nn.LSTM(2, 3), torch.zeros(1, 4, 2).double(), "x: needs the dtype .* got torch.float64"),
        (nn.LSTM(2, 3, bidirectional=True), torch.zeros(1, 4, 2), "network: gates need one direc"),
        (nn.Linear(2, 3), torch.zeros(1, 4, 2), "network: must be .* got Linear"),
    ],
)
def test_other_networks_and_inputs_are_refused(network, x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recurrent_gates(network, x)


@pytest.mark.parametrize("memory", ["h", "hc"])
def test_a_network_in_double_precision_is_a_filter(memory) -> None:
    torch.manual_seed(0)
    model = HiddenMarkovModel(2, "gaussian")
    drawn = model.sample(3, 8, seed=0)
    laws = model.laws(drawn.parameters, drawn.data)
    network = nn.LSTM(1, 4, batch_first=True, dtype=torch.float64)
    filter = LSTMFilter(network=network, memory=memory)
    filter.build(model)
    x = drawn.data.values.double()
    torch.testing.assert_close(filter.hidden(laws)[..., :4], network(x)[0])
    single = LSTMFilter(network=copy.deepcopy(network).float(), memory=memory)
    single.build(model)
    assert filter.head is not None
    assert single.head is not None
    single.head.load_state_dict(filter.head.state_dict())
    torch.testing.assert_close(single(laws), filter(laws), atol=1e-5, rtol=0)


def test_a_belief_can_be_read_off_the_cell() -> None:
    model = HiddenMarkovModel(2, "gaussian")
    data = model.sample(3, 8, seed=0).data
    laws = model.laws({name: prior.sample() for name, prior in model.priors.items()}, data)
    for memory, width in (("h", 4), ("c", 4), ("hc", 8)):
        filter = LSTMFilter(4, memory=memory)  # type: ignore[arg-type]
        filter.build(model)
        hidden = filter.hidden(laws)
        assert hidden.shape == (3, 8, width)
        assert filter.network is not None
        parts = recurrent_gates(filter.network, filter.channels(laws))
        torch.testing.assert_close(hidden[..., :4], parts[memory[0]][:, :, 0])
        torch.testing.assert_close(hidden[..., -4:], parts[memory[-1]][:, :, 0])


def test_a_gain_multiplies_the_scores() -> None:
    model = HiddenMarkovModel(3, "gaussian")
    drawn = model.sample(2, 5, seed=0)
    laws = model.laws(drawn.parameters, drawn.data)
    plain, loud = GRUFilter(4), GRUFilter(4, gain=7)
    for filter in (plain, loud):
        filter.build(model)
    loud.load_state_dict(plain.state_dict())
    torch.testing.assert_close(loud.scores(laws), 7 * plain.scores(laws))
    torch.testing.assert_close(loud(laws), (7 * plain.scores(laws)).log_softmax(-1))


@pytest.mark.parametrize("gain", [0, -1.0, float("nan"), "5"])
def test_a_gain_is_positive(gain: object) -> None:
    with pytest.raises(ValueError, match=f"gain: must be a finite number > 0, got {gain!r}"):
        GRUFilter(4, gain=gain)  # type: ignore[arg-type]
