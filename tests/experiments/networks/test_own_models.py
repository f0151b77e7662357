"""The measures of `own-models`, against enumeration and other ways of computing them."""

import itertools

import numpy as np
import pytest
import torch

from beliefzoo.experiments.networks.own_models import (
    CASES,
    SMOKE,
    Settings,
    choices,
    measured,
    next_symbols,
    regret,
    simulated,
    truth_of,
)
from beliefzoo.experiments.networks.parts.block_spectral import (
    BlockSpectralFilter,
    block_law,
    operators_of,
)
from beliefzoo.inference import ExactFilter, log_evidence, step_log_likelihood
from beliefzoo.models import Categorical, HiddenMarkovModel, Sequences

SMALL = Settings(**{**SMOKE, "heldout_sequences": 20})


def three_states_two_symbols() -> HiddenMarkovModel:
    return HiddenMarkovModel(3, Categorical(2), initial="stationary").with_parameters(
        transition=[[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6]],
        probs=[[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]],
    )


def probabilities(model: HiddenMarkovModel, length: int) -> torch.Tensor:
    words = list(itertools.product(range(2), repeat=length))
    return log_evidence(model, Sequences.from_arrays(words, codes=True)).exp()


def test_the_law_of_a_block_is_the_evidence_from_a_state() -> None:
    model = three_states_two_symbols()
    found = block_law(model.known["transition"], model.known["probs"], 3)
    for state in range(3):
        begun = HiddenMarkovModel(3, Categorical(2)).with_parameters(
            initial=torch.eye(3)[state],
            transition=model.known["transition"],
            probs=model.known["probs"],
        )
        torch.testing.assert_close(found[:, state], probabilities(begun, 3))


def test_blocks_of_exact_moments_filter_more_states_than_there_are_symbols() -> None:
    model, filter = three_states_two_symbols(), BlockSpectralFilter(3, 2)
    pairs = probabilities(model, 4).reshape(4, 4).mT
    triples = probabilities(model, 5).reshape(4, 2, 4).permute(1, 2, 0)
    filter.operators = operators_of(pairs, triples, 3)
    laws = model.laws({}, model.sample(10, 12, seed=0).data)
    torch.testing.assert_close(filter(laws), ExactFilter()(laws), atol=1e-8, rtol=0)


def test_counted_moments_are_those_of_the_words() -> None:
    """4000 sequences of 25: within .02 of the exact operators' predictions (about 5 errors)."""
    model = three_states_two_symbols()
    codes = model.sample(4000, 25, seed=0).data.codes()
    found = BlockSpectralFilter(3, 2).estimated(codes, 2).joint_probabilities(3)
    np.testing.assert_allclose(found, probabilities(model, 3), atol=0.02)


@pytest.mark.parametrize("case", CASES)
def test_next_symbols_of_the_exact_filter_are_the_evidence(case: str) -> None:
    model, data = truth_of(case), simulated(SMALL, case, 20, 5)
    laws = model.laws({}, data)
    law = next_symbols(laws, ExactFilter()(laws))
    told = law.gather(-1, data.codes().unsqueeze(-1)).squeeze(-1).log()
    torch.testing.assert_close(told, step_log_likelihood(model, data))
    assert measured(SMALL, case, model, ExactFilter())["regret_per_step"] == pytest.approx(0)


def test_regret_counts_what_is_given_to_impossible_symbols() -> None:
    exact = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]]).double()
    told = torch.tensor([[[0.9, 0.1], [0.8, 0.2]]]).double()
    assert regret(exact, told) == pytest.approx(-np.log(0.8))


def test_blocks_that_cannot_hold_the_rank_are_left_out() -> None:
    settings = Settings(blocks=(1, 2, 3, 4, 7))
    kept = {case: [one.size for one in choices(settings, case, "spectral")] for case in CASES}
    assert kept == {"random_random_xor": [3, 4], "slow_chain": [1, 2]}


def test_bad_settings() -> None:
    for changes, message in (
        ({"steps": 0}, "steps: must be >= 1"),
        ({"rates": ()}, "rates: needs one or more"),
    ):
        with pytest.raises(ValueError, match=message):
            Settings(**changes)
