"""Machines of known laws in the network's place: everything about them is known."""

import math

import pytest
import torch
from torch import Tensor, nn

from beliefzoo.inference import NetworkLaw, machine_of
from beliefzoo.models import Sequences, golden_mean, mess3, random_random_xor, zero_one_random

SMALL = {"prefixes": 300, "suffixes": 70, "samples": 100}


@pytest.mark.parametrize(
    ("chain", "states"),
    [(golden_mean(), 2), (zero_one_random(), 3), (random_random_xor(), 5)],
)
def test_the_machine_of_a_machine_is_it(chain: object, states: int) -> None:
    found = machine_of(chain, regret=0.0, prefixes=300, suffixes=64, samples=100)
    assert found.states == states
    assert found.small
    assert found.divergence.mean < 1e-10
    assert found.normalisation < 1e-9
    rate, error = found.entropy_rate
    assert abs(rate - chain.entropy_rate()) < max(5 * error, 1e-9)  # type: ignore[attr-defined]
    assert found.update_error(chain.sample(5, 12, seed=0).data).steps.max()  # type: ignore[attr-defined] < 1e-10


def test_entropy_rate_of_the_golden_mean() -> None:
    rate, error = machine_of(golden_mean(), **SMALL).entropy_rate
    assert abs(rate - 2 / 3 * math.log(2)) < 5 * error


def test_fewer_states_are_farther_and_are_found_by_tolerance() -> None:
    found = machine_of(mess3(), tolerance=1e-6, **SMALL)
    assert (found.states, found.small) == (3, True)
    assert max(found.curve[2:]) < 1e-10 < 0.01 < min(found.curve[:2])
    two = machine_of(mess3(), states=2, **SMALL)
    assert two.states == 2
    assert two.divergence.mean > 0.01
    worst = two.divergence.contexts[0]
    assert worst[1] == pytest.approx(float(two.divergence.steps.max()))
    assert two.update_error().mean > 0.01


class Counter:
    """Brackets: one opens with probability ½, and closes, if one is open, with probability ½.

    Without open bracket a dot comes instead. The number of open ones is the state: no finite
    machine has this law.
    """

    symbols = 3

    def start(self, n: int) -> tuple[Tensor, ...]:
        return (torch.zeros(n, dtype=torch.int64),)

    def read(self, state: tuple[Tensor, ...], codes: Tensor) -> tuple[Tensor, ...]:
        return ((state[0] + (codes == 0).long() - (codes == 1).long()).clamp_min(0),)

    def next_log_probabilities(self, state: tuple[Tensor, ...]) -> Tensor:
        closes = (state[0] > 0).double()
        return (torch.stack([torch.ones_like(closes), closes, 1 - closes], -1) / 2).log()


def test_a_counter_has_no_small_machine_and_is_flagged() -> None:
    found = machine_of(Counter(), regret=1e-6, **SMALL)
    assert not found.small
    assert list(found.ranks) == sorted(set(found.ranks))  # one more with every symbol
    assert "no small machine" in str(found)


def test_what_is_below_the_floor_is_not_counted() -> None:
    assert machine_of(random_random_xor(), regret=0.09**2, **SMALL).states == 4
    assert machine_of(random_random_xor(), regret=0.05**2, **SMALL).states == 5


def test_two_trainings_give_a_floor() -> None:
    torch.manual_seed(0)
    laws = [NetworkLaw(nn.GRU(2, 4).eval(), nn.Linear(4, 2)) for _ in range(2)]
    found = machine_of(laws[0], other=laws[1], **SMALL)
    assert "other training" in found.floor_from
    assert found.states == int((found.singular_values > found.floor).sum())


def test_what_is_printed() -> None:
    said = str(machine_of(mess3(), states=2, **SMALL))
    for words in ("machine of 2 states", "singular values 1.2", "KL(network ‖ machine)", "after"):
        assert words in said
    assert "not in the network" not in said  # the direction left out is one of the law's
    assert "below the floor" in str(machine_of(random_random_xor(), regret=0.09**2, **SMALL))


def test_update_errors_are_asked_of_data_that_fit() -> None:
    found = machine_of(golden_mean(), **SMALL)
    ragged = Sequences.from_arrays([[1, 1, 0], [1, 1]], codes=True)
    with pytest.raises(ValueError, match=r"^data: needs sequences of one length"):
        found.update_error(ragged)
    with pytest.raises(ValueError, match=r"^states: needs at most 2"):
        machine_of(golden_mean(), states=3, **SMALL)
