"""Differences that an update passes on, beside Bayes' rule written out."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    Machine,
    NetworkLaw,
    law_divergence,
    machine_of,
    update_agreement,
)
from beliefzoo.inference.machines.known_laws import OperatorLaw
from beliefzoo.models import LabelledHMM, Sequences, golden_mean, mess3, random_random_xor

CHEAP = {"samples": 50, "refine": False}


def futures(law: OperatorLaw, past: tuple[int, ...], longest: int) -> Tensor:
    """p(v | past) of all words of up to so many symbols, each by its own product."""

    def told(word: tuple[int, ...]) -> float:
        row = law.start(1)[0][0]
        for code in word:
            row = row @ law.operators[code]
        return float(row @ law.end)

    words = [w for n in range(longest + 1) for w in itertools.product((0, 1), repeat=n)]
    return torch.tensor([told(past + v) / told(past) for v in words]).double()


def test_one_change_is_bayes_rule_of_the_machine_written_out() -> None:
    """Of the past 11 and its change to 10, before another 1; machine and law are not the same."""
    found = machine_of(golden_mean(0.5), states=2, suffixes=31, **CHEAP)
    law = OperatorLaw.of(golden_mean(0.3))
    operators = found.operators
    ends = [(1, 1), (1, 0)]

    def point(past: tuple[int, ...]) -> Tensor:
        said = futures(law, past, 4) @ operators.basis
        return said / (said @ operators.end)

    def bayes(past: tuple[int, ...]) -> Tensor:
        moved = operators.operators[1] @ point(past)
        return moved / (moved @ operators.end)

    network = point((*ends[1], 1)) - point((*ends[0], 1))
    exactly = bayes(ends[1]) - bayes(ends[0])
    data = Sequences.from_arrays([[1, 1, 1]] * 40, codes=True)
    told = found.update_agreement(data, network=law, changes=2, seed=1)
    first = (point((0, 1)) - point((1, 1))) - (bayes((0,)) - bayes((1,)))
    largest = max(float((network - exactly).abs().max()), float(first.abs().max()))
    assert told.largest == pytest.approx(largest, abs=1e-9)
    assert told.steps == 2 * 2 * 40


@pytest.mark.parametrize("refine", [False, True])
def test_a_machine_is_its_own_bayes_rule(refine: bool) -> None:
    found = machine_of(mess3(), regret=0.0, samples=50, refine=refine, restarts=0)
    assert found.update_agreement().r_squared > 1 - 1e-6


def test_strings_of_different_lengths_are_changed() -> None:
    machine = LabelledHMM.from_tables(
        [1, 0], [[[0.1, 0.1], [0.0, 0.1]], [[0.0, 0.3], [0.4, 0.1]]], end=[0.5, 0.4]
    )
    found = machine_of(machine, regret=0.0, **CHEAP)
    data = machine.sample(60, 9, seed=0).data
    told = found.update_agreement(data, changes=9)
    assert told.r_squared > 1 - 1e-9
    assert told.steps <= 2 * int((data.lengths - 1).sum())


def machine() -> Machine:
    return machine_of(random_random_xor(), regret=0.0, **CHEAP)


def test_controls_do_worse() -> None:
    torch.manual_seed(0)
    untrained = NetworkLaw(nn.LSTM(2, 8).eval(), nn.Linear(8, 2))
    assert law_divergence(random_random_xor(), untrained, sequences=50).mean > 0.1
    assert machine().update_agreement(network=untrained).r_squared < 0.5


def test_what_cannot_be_compared_is_named() -> None:
    with pytest.raises(ValueError, match=r"^network: needs 2 symbols"):
        machine().update_agreement(network=mess3())
    with pytest.raises(ValueError, match=r"^changes"):
        machine().update_agreement(changes=0)
    with pytest.raises(ValueError, match=r"^data: needs a sequence of two symbols"):
        machine().update_agreement(Sequences.from_arrays([[0], [1]], codes=True))


@pytest.mark.parametrize("ends", [False, True])
def test_the_exact_filter_agrees_where_symbols_choose_the_move(ends: bool) -> None:
    """For guides: of a labelled chain the changed symbol changes the move too."""
    model = LabelledHMM(3, 4, ends=ends)
    drawn = model.sample(20, 12, seed=0)
    known = model.with_parameters(**drawn.parameters)
    found = update_agreement(BeliefGuide(known, ExactFilter()), drawn.data)
    assert (found.r_squared, found.slope) == (pytest.approx(1.0), pytest.approx(1.0))
