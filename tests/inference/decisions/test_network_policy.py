"""A network's policy beside the whole network run at once, and beside a table."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from beliefzoo.inference import NetworkPolicy
from beliefzoo.models import POMDP, Gaussian, t_maze, tiger


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("model", [tiger(), t_maze(3)], ids=["tiger", "t-maze"])
def test_step_by_step_as_at_once(kind: type[nn.RNNBase], model: POMDP) -> None:
    torch.manual_seed(0)
    symbols, actions = model.emission.encoding_size, model.actions
    network = kind(symbols + actions, 5, num_layers=2, batch_first=True).double()  # type: ignore[call-arg, arg-type]
    head = nn.Linear(5, actions).double()
    made = model.rollout(NetworkPolicy(network, head), 7, 11, seed=1)
    assert made.data.actions is not None
    x = torch.zeros(7, 11, symbols + actions).double()
    for n in range(7):
        for t in range(11):
            if bool(made.data.mask[n, t]):
                x[n, t, made.data.values[n, t]] = 1
            if t:
                x[n, t, symbols + made.data.actions[n, t - 1]] = 1
    with torch.no_grad():
        wanted = head(network(x)[0]).softmax(-1)
    torch.testing.assert_close(made.probabilities, wanted, atol=1e-12, rtol=0)


def test_numbers_are_read_as_they_are() -> None:
    model = POMDP(2, Gaussian(2), actions=3).with_parameters(
        initial=[0.5, 0.5],
        transition=torch.full((3, 2, 2), 0.5),
        mean=torch.zeros(3, 2, 2),
        scale=torch.ones(3, 2, 2),
    )
    network, head = nn.LSTM(5, 4), nn.Linear(4, 3)
    made = model.rollout(NetworkPolicy(network, head), 6, 3, seed=2)
    assert made.probabilities.shape == (6, 3, 3)
    # Nothing is seen before the first action: all episodes begin alike, and part afterwards.
    assert float(made.probabilities[:, 0].std(0).max()) == 0
    assert float(made.probabilities[:, 1].std(0).max()) > 0


def test_bad_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="network: must be an nn"):
        NetworkPolicy(nn.LSTM(5, 4, bidirectional=True), nn.Linear(4, 3))
    with pytest.raises(ValueError, match="head: must be an nn"):
        NetworkPolicy(nn.LSTM(5, 4), nn.Linear(5, 3))
    with pytest.raises(ValueError, match="network: needs input_size=5"):
        tiger().rollout(NetworkPolicy(nn.LSTM(4, 4), nn.Linear(4, 3)), 2, 2, seed=0)
    with pytest.raises(ValueError, match="head: needs 3 outputs, got 2"):
        tiger().rollout(NetworkPolicy(nn.LSTM(5, 4), nn.Linear(4, 2)), 2, 2, seed=0)
