"""What `reading-of-an-lstm` asks networks, against laws that are known."""

import math

import pytest
import torch

from beliefzoo.experiments.decisions.parts.two_readings import READINGS, true_readings
from beliefzoo.experiments.decisions.parts.two_worlds import case_of, make
from beliefzoo.experiments.decisions.reading_of_an_lstm import (
    CASE,
    SMOKE,
    SWITCH_RATE,
    Settings,
    ahead,
    as_bits,
    as_codes,
    asked,
    behind,
    law_of,
    untrained,
)

SMALL = Settings(**SMOKE)


def uniform_law():
    network = untrained(SMALL, case_of(CASE, SWITCH_RATE), 0)
    torch.nn.init.zeros_(network.output.weight)
    torch.nn.init.zeros_(network.output.bias)
    return law_of(network)


def test_bits_become_symbols_and_bits_again() -> None:
    case = case_of(CASE, SWITCH_RATE)
    data = make(case, "emitted", 5, 7, 0).data
    codes = as_codes(data)
    again = as_bits(codes, case.features)
    assert torch.equal(again.values, data.values)
    assert torch.equal(again.mask, data.mask)
    assert codes.shape == (5, 7)
    assert int(codes[0, 0]) == int("".join(str(int(bit)) for bit in data.values[0, 1]), 2)


@pytest.mark.parametrize("reading", READINGS)
def test_a_uniform_law_is_behind_by_its_cross_entropy(reading: str) -> None:
    case = case_of(CASE, SWITCH_RATE)
    data = make(case, reading, 5, 7, 0).data
    truth = true_readings(case).evidence(data, case.reads)[READINGS.index(reading)]
    expected = truth / 35 + math.log(8)
    assert behind(case, uniform_law(), data, reading) == pytest.approx(expected, rel=1e-5)


def test_distances_from_the_readings_differ_by_what_one_is_ahead() -> None:
    found = asked(SMALL, case_of(CASE, SWITCH_RATE), uniform_law(), 0)
    between = found["kl_from_the_acting_reading"] - found["kl_from_the_emitted_reading"]
    assert between == pytest.approx(found["emitted_ahead"], abs=1e-9)


def test_what_is_ahead_is_counted_by_the_steps_that_are_seen() -> None:
    case = case_of(CASE, SWITCH_RATE)
    data = make(case, "emitted", 6, 10, 0).data
    found, readings = ahead(SMALL, case, data, data, 0)
    first, second = readings.evidence(data, case.reads)
    assert found == pytest.approx((first - second) / 60)
