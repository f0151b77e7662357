"""The experiment belief-geometry: its floors, its language model, its words."""

import math

import pytest
import torch

from beliefzoo.experiments.networks.belief_geometry import Settings, _floors, _words
from beliefzoo.experiments.parts.language_models import LanguageModel, train
from beliefzoo.inference import lstm_log_likelihood
from beliefzoo.models import Sequences, golden_mean, random_random_xor, zero_one_random


def test_the_loss_of_short_windows():
    # After one symbol of the golden mean nothing more is to be learned: H(1) once, then the rate.
    found = _floors(golden_mean(), 10)
    rate = 2 / 3 * math.log(2)
    first = math.log(3) - 2 / 3 * math.log(2)  # 1 comes two times in three
    assert found["entropy_rate"] == pytest.approx(rate)
    windows = found["exact_loss_of_the_best_function_of_the"]
    assert windows["last_0_symbols"] == pytest.approx(first)
    for n in range(1, 5):
        assert windows[f"last_{n}_symbols"] == pytest.approx((first + 9 * rate) / 10)
    # Two symbols of RRXOR are four fair coins or nearly: its first two entropies are those of bits.
    coins = _floors(random_random_xor(), 10)["exact_loss_of_the_best_function_of_the"]
    assert coins["last_0_symbols"] == pytest.approx(coins["last_1_symbols"], abs=1e-14)
    assert coins["last_0_symbols"] == pytest.approx(math.log(2))


def test_the_training_loss_is_the_score():
    model = LanguageModel(3, 5)
    data = Sequences.from_tensors(torch.randint(3, (7, 6)), codes=True)
    scored = lstm_log_likelihood(model.lstm, model.output, data)
    assert float(model(data.codes()).detach()) == pytest.approx(-float(scored.mean()), abs=1e-6)


def test_training_learns_what_is_certain():
    model = LanguageModel(2, 6)
    alternating = torch.tensor([[0, 1] * 4])
    steps: list[int] = []
    batches = iter(lambda: alternating, None)
    train(model, batches, steps=60, learning_rate=0.1, watch=steps.append, watch_every=25)
    assert float(model(alternating).detach()) < 0.05
    assert steps == [25, 50, 60]


def test_words_are_those_that_can_be_emitted():
    words = [[tuple(w) for w in part.codes().tolist()] for part in _words(zero_one_random())]
    assert words[0] == [(0,), (1,)]
    assert words[1] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    # Of three symbols two neighbours are 0, 1: 0 0 0 and 1 1 1 have none.
    assert set(words[2]) == {w for w in _all(3) if w not in ((0, 0, 0), (1, 1, 1))}


def _all(length: int) -> list[tuple[int, ...]]:
    return [tuple(w) for w in torch.cartesian_prod(*[torch.arange(2)] * length).tolist()]


def test_settings_are_checked():
    with pytest.raises(ValueError, match="heldout: must be >= 20, got 3"):
        Settings(heldout=3)
