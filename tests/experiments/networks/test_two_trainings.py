"""What `two-trainings` counts, and its measure of likeness."""

import pytest
import torch

from beliefzoo.experiments.networks.two_trainings import Settings, alike, summaries


def test_states_are_alike_whatever_their_coordinates() -> None:
    torch.manual_seed(0)
    one = torch.randn(50, 4, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    assert alike(one, 3 * one @ turn + 1) == pytest.approx(1)
    other = torch.randn(50, 4, dtype=torch.float64)
    k, m = (x @ x.mT for x in (one - one.mean(0), other - other.mean(0)))  # as kernels
    expected = float((k * m).sum() / (k.norm() * m.norm()))
    assert alike(one, other) == pytest.approx(expected)
    assert 0 <= expected < 0.5


def pair(same: int, networks: float, machines: float, states: int = 1) -> dict[str, float]:
    measured = {"kl_networks": networks, "kl_machines": machines, "cka": 0.5}
    return {**measured, "same_number_of_states": states, "same_process": same}


def test_pairs_are_counted_apart_from_their_control() -> None:
    found = summaries([pair(1, 2, 1), pair(1, 2, 3, 0), pair(0, 40, 30), pair(0, 50, 60, 0)])
    assert found["same_process"]["median_kl_machines"] == 2
    share = found["same_process"]["share_whose_machines_are_no_farther_than_the_networks"]
    assert share == found["same_process"]["share_with_the_same_number_of_states"] == 0.5
    control = found["control"]
    assert control["median_kl_networks"] == 45
    assert control["smallest_kl_machines_by_the_largest_of_the_same_process"] == 10


def test_a_control_needs_another_process() -> None:
    with pytest.raises(ValueError, match="processes: needs two or more of"):
        Settings(processes=("even",))
