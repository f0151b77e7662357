"""Machines of known laws in the network's place: everything about them is known."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from beliefzoo.experiments.networks.parts.random_machines import Counter
from beliefzoo.inference import NetworkLaw, law_divergence, load_machine, machine_of
from beliefzoo.inference.machines.certificates import kl
from beliefzoo.inference.machines.hankel import Words, word_probabilities
from beliefzoo.inference.machines.known_laws import OperatorLaw
from beliefzoo.inference.machines.laws import log_conditionals, sampled
from beliefzoo.inference.machines.refinement import Tables, Target, observable
from beliefzoo.models import (
    LabelledChain,
    Sequences,
    golden_mean,
    mess3,
    random_random_xor,
    zero_one_random,
)
from beliefzoo.models.data.storage import write_tensors

SMALL: dict[str, Any] = {"prefixes": 300, "suffixes": 70, "samples": 100, "refine": False}


@pytest.mark.parametrize(
    ("chain", "states"),
    [(golden_mean(), 2), (zero_one_random(), 3), (random_random_xor(), 5)],
)
def test_the_machine_of_a_machine_is_it(chain: LabelledChain, states: int) -> None:
    found = machine_of(chain, regret=0.0, **SMALL)
    assert found.states == states
    assert found.small
    assert found.divergence.mean < 1e-10
    assert found.normalisation < 1e-9
    rate, error = found.entropy_rate
    assert abs(rate - chain.entropy_rate()) < max(5 * error, 1e-9)
    assert found.update_error(chain.sample(5, 12, seed=0).data).steps.max() < 1e-10


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
    gappy = Sequences.from_arrays([[1, 1, None], [1, 0, 1]], codes=True)
    with pytest.raises(ValueError, match=r"^data: needs every symbol"):
        found.update_error(gappy)
    with pytest.raises(ValueError, match=r"^length: must be a whole number >= 2"):
        machine_of(golden_mean(), **SMALL | {"length": 1})  # one symbol shows no memory
    with pytest.raises(ValueError, match=r"^states: needs at most 2"):
        machine_of(golden_mean(), states=3, **SMALL)


def up_to_names(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference of tables (V, K, K), over all orders of the states."""
    orders = itertools.permutations(range(ours.shape[-1]))
    return min(float((ours[:, o][:, :, o] - theirs).abs().max()) for o in map(list, orders))


@pytest.mark.parametrize("chain", [golden_mean(0.3), zero_one_random()])
def test_the_hidden_markov_model_of_a_unifilar_machine_is_it(chain: LabelledChain) -> None:
    """Up to the names of the states."""
    found = machine_of(chain, regret=0.0, samples=100, restarts=1)
    assert up_to_names(found.hmm.tables().tables, chain.matrices) < 1e-3
    assert found.hmm_divergence is not None
    assert found.hmm_divergence.mean < 1e-5
    assert law_divergence(chain, found.hmm, sequences=100).mean < 1e-5


def test_refinement_comes_nearer_than_too_few_directions() -> None:
    """Two states for three: the operators as read off are far, those moved are not."""
    found = machine_of(mess3(), states=2, samples=100, restarts=1)
    assert found.kind != "as read off"
    assert found.divergence.mean < found.curve[1] / 3
    assert found.update_error(mess3().sample(20, 12, seed=0).data).mean < 0.2


def test_a_machine_in_other_coordinates_is_the_same() -> None:
    """Its basis turns what is said of the futures into its beliefs."""
    chain = mess3()
    ones = torch.ones(3, dtype=torch.float64)
    machine, words = Tables(chain.stationary, chain.matrices, ones), Words.every(3, 3)
    operators = observable(machine, words)
    said = word_probabilities(OperatorLaw.of(chain), OperatorLaw.of(chain).start(1), words)
    torch.testing.assert_close(said[0] @ operators.basis, chain.stationary)
    assert law_divergence(chain, operators, sequences=20).mean < 1e-12


def test_the_gradient_is_that_of_the_distance() -> None:
    chain = mess3()
    codes, told = sampled(OperatorLaw.of(chain), 4, 5, seed=0)
    tables = (chain.matrices + 0.05).clone()
    parts = [chain.stationary, tables, torch.tensor([1.0, 1.1, 0.9]).double()]
    parts = [part.clone().requires_grad_() for part in parts]

    def distance(*given: Tensor) -> Tensor:
        return Tables(*given).distance(Target(codes, told))

    assert torch.autograd.gradcheck(distance, parts)
    law = OperatorLaw(*(part.detach() for part in parts))
    slow = kl(told, log_conditionals(law, codes)).mean()
    torch.testing.assert_close(distance(*parts).detach(), slow)


def test_a_saved_machine_is_read_again_and_nothing_else_is(tmp_path: Path) -> None:
    found = machine_of(golden_mean(), samples=30, restarts=0)
    again = load_machine(found.save(tmp_path / "machine.pt"))
    assert str(again) == str(found)
    assert again.starts == found.starts
    torch.testing.assert_close(again.hmm.tables().tables, found.hmm.tables().tables)
    with pytest.raises(ValueError, match=r"^found: needs the network"):
        again.update_error()
    with pytest.raises(ValueError, match=r"^refine: must be True"):
        _ = machine_of(golden_mean(), **SMALL).hmm
    raw = (tmp_path / "machine.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(raw[:-20])
    with pytest.raises(ValueError, match=r"^path: .*damaged"):
        load_machine(tmp_path / "cut.pt")
    write_tensors(tmp_path / "other.pt", {"record": "{}", "tensors": {}}, "machine")
    with pytest.raises(ValueError, match=r"^path: .*a machine"):
        load_machine(tmp_path / "other.pt")


def test_samples_of_network_and_machine_are_compared() -> None:
    same = machine_of(golden_mean(), **SMALL).samples(400)
    assert abs(same.n_grams[3].excess) < 0.01
    other = machine_of(random_random_xor(), states=2, **SMALL).samples(400)
    assert other.n_grams[3].excess > 0.01
