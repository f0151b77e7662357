"""Parts of the experiment on the machines of LSTMs: what is counted, and the random machines."""

import pytest
import torch

from beliefzoo.experiments.networks.machine_of_an_lstm import (
    Settings,
    summaries,
    truth_of,
    up_to_names,
)
from beliefzoo.experiments.networks.parts.last_symbols import LastTwoSymbols
from beliefzoo.experiments.networks.parts.random_machines import even, random_machine
from beliefzoo.inference import law_divergence
from beliefzoo.inference.machines.hankel import plan_of, spectrum_of
from beliefzoo.inference.machines.known_laws import OperatorLaw
from beliefzoo.models import golden_mean, random_random_xor


def test_tables_are_compared_in_the_best_order() -> None:
    tables, order = random_random_xor().matrices, [3, 0, 4, 1, 2]
    moved = tables[:, order][:, :, order].clone()
    assert up_to_names(moved, tables) == 0
    moved[0, 0, 0] += 0.25
    assert up_to_names(moved, tables) == 0.25


def test_the_even_process_has_runs_of_even_length() -> None:
    data = even().sample(20, 40, seed=0).data.codes()
    for row in data.tolist():
        runs = "".join(map(str, row)).split("0")[1:-1]  # those cut off at the ends left out
        assert all(len(run) % 2 == 0 for run in runs)


@pytest.mark.parametrize("number", [0, 1, 5])
def test_random_machines_have_the_rank_they_are_counted_by(number: int) -> None:
    settings = Settings(candidates=4)
    truth = truth_of(settings, "random", number)
    plan = plan_of(truth.law, prefixes=400, suffixes=90, length=9, gigabytes=1, seed=0)
    found = spectrum_of(truth.law, plan, seed=0, progress=False)
    assert found.rank(1e-7) == truth.states


def test_the_most_visible_machines_come_first() -> None:
    def smallest(place: int) -> float:
        law = random_machine("automaton", 3, place, candidates=4, seed=1)
        plan = plan_of(law, prefixes=400, suffixes=90, length=9, gigabytes=1, seed=0)
        return float(spectrum_of(law, plan, seed=0, progress=False).singular_values[2])

    assert smallest(0) > smallest(1) > smallest(2)


def test_what_is_counted() -> None:
    one = {
        "states": 2,
        "states_of_the_truth": 2,
        "regret": 1e-4,
        "kl_network_machine": 2e-4,
        "kl_truth_machine": 5e-5,
        "entropy_rate_error": 1e-4,
        "transition_error": 0.01,
        "smallest_singular_value_of_the_truth": 0.02,
        "update": {"network": {"r_squared": 0.9}, "untrained": {"r_squared": 0.7}},
    }
    wrong = {**one, "states": 3, "kl_network_machine": 5e-5, "kl_truth_machine": 2e-4}
    wrong["update"] = {"network": {"r_squared": 0.6}, "untrained": {"r_squared": 0.7}}
    del wrong["transition_error"]
    each = {"even_0": one, "even_1": wrong, "random_0": one}
    each |= {"random_1": {**one, "smallest_singular_value_of_the_truth": 0.04}}
    found = summaries(each)
    assert found["known"] == {
        "networks": 2,
        "share_with_the_right_number_of_states": 0.5,
        "share_nearer_to_its_network_than_the_regret": 0.5,
        "share_of_entropy_rates_within_a_thousandth": 1.0,
        "share_with_an_update_nearer_to_bayes_than_all_controls": 0.5,
        "median_update_r_squared": 0.75,
        "share_of_transitions_within_03": 0.5,
    }
    assert found["random"]["visible"] == 1
    assert found["all"]["share_no_farther_from_the_truth_than_the_network"] == 0.75


def test_a_law_of_two_symbols_is_that_of_a_chain_of_them() -> None:
    """The golden mean forgets all but one symbol; RRXOR says more after two than their mean."""
    chain = OperatorLaw.of(golden_mean())
    known = LastTwoSymbols(chain, 2000, 8, seed=0)
    assert law_divergence(chain, known, sequences=100).mean < 1e-5
    xor = OperatorLaw.of(random_random_xor())
    assert law_divergence(xor, LastTwoSymbols(xor, 2000, 8, seed=0), sequences=100).mean > 0.01


def test_unknown_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="processes: must be among"):
        Settings(processes=("nosuch",))
    assert torch.equal(truth_of(Settings(), "rrxor", 0).tables, random_random_xor().matrices)
