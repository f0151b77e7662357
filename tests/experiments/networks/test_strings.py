"""The laws and the score of `strings`, beside loops, exact chances and published numbers."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from beliefzoo.experiments.data.loaders import load_strings
from beliefzoo.experiments.networks import strings as experiment
from beliefzoo.experiments.networks.parts import string_networks
from beliefzoo.experiments.networks.parts.string_laws import (
    Counted,
    Spectral,
    Trigram,
    counted,
    score,
)
from beliefzoo.inference import log_evidence
from beliefzoo.inference.machines.known_laws import OperatorLaw
from beliefzoo.models import LabelledHMM, as_strings

WORDS = [[0, 1, 0], [0, 1], [], [1, 1, 0, 0], [0, 1], [0]]


def test_strings_are_counted() -> None:
    found = counted(as_strings(WORDS, 2), 2)
    assert len(found.data) == 5
    assert found.weights.tolist() == [1, 2, 1, 1, 1]
    assert found.mean(torch.arange(5.0)) == pytest.approx((0 + 2 + 2 + 3 + 4) / 6)


def by_hand(before: tuple[int, int], symbol: int) -> float:
    """Interpolated Kneser-Ney from lists of triples; 2 is the end, 3 the mark before a string."""
    triples = [tuple(([3, 3, *word, 2])[t : t + 3]) for word in WORDS for t in range(len(word) + 1)]
    pairs = [t[1:] for t in {*triples}]
    orders = [triples, pairs, [t[1:] for t in {*pairs}]]
    chance = 1 / 3
    for order in (2, 1, 0):
        seen, context = orders[order], before[order:]
        counts = {gram: seen.count(gram) for gram in {*seen}}
        ones, twos = (sum(1 for c in counts.values() if c == n) for n in (1, 2))
        discount = ones / (ones + 2 * twos) if ones else 0.5
        own = {gram: c for gram, c in counts.items() if gram[:-1] == context}
        total = sum(own.values())
        if not total:
            continue
        kept = {gram[-1]: max(c - discount, 0) / total for gram, c in own.items()}
        chance = kept.get(symbol, 0) + (1 - sum(kept.values())) * chance
    return chance


def test_the_3_gram_is_kneser_and_neys() -> None:
    law = Trigram(counted(as_strings(WORDS, 2), 2), 2)
    chances = law.logs.exp()
    torch.testing.assert_close(chances.sum(-1), torch.ones(4, 4, dtype=torch.float64))
    for before in ((3, 3), (3, 0), (0, 1), (1, 1), (1, 0)):
        for symbol in range(3):
            found = float(chances[(*before, symbol)])
            assert found == pytest.approx(by_hand(before, symbol), abs=1e-12)
    word = law.log_prob(as_strings([[0, 1], []], 2)).exp()
    expected = by_hand((3, 3), 0) * by_hand((3, 0), 1) * by_hand((0, 1), 2)
    assert float(word[0]) == pytest.approx(expected, abs=1e-12)
    assert float(word[1]) == pytest.approx(by_hand((3, 3), 2), abs=1e-12)


def test_exact_chances_give_the_machine_back() -> None:
    """All strings of up to 9 symbols: the rest has a mass of 4e-6."""
    machine = LabelledHMM.from_tables(
        [1, 0], [[[0.1, 0.1], [0.0, 0.1]], [[0.0, 0.1], [0.1, 0.0]]], end=[0.7, 0.8]
    )
    words = [w for n in range(10) for w in itertools.product(range(2), repeat=n)]
    data = as_strings(words, 2)
    log_p = log_evidence(machine, data)
    found = Spectral(Counted(data, log_p.exp()), 2, basis=20)
    assert float(found.sizes[2] / found.sizes[0]) < 1e-4
    short = as_strings(words[:31], 2)
    again = found.log_prob(short, 2, torch.full((31,), -50.0, dtype=torch.float64))
    torch.testing.assert_close(again, log_p[:31], rtol=0, atol=1e-3)
    least = torch.zeros(31, dtype=torch.float64)
    assert bool((found.log_prob(short, 2, least) == 0).all())


@pytest.mark.parametrize("problem", [24, 39])
def test_the_machine_scores_the_floor(
    problem: int, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (shared_data / "strings").is_dir():
        pytest.skip("needs the strings of the challenge")
    monkeypatch.setenv("BELIEFZOO_DATA", str(shared_data))
    loaded = load_strings(problem)
    found = score(log_evidence(loaded.machine, loaded.test), loaded.chances)
    published = {24: 38.7287795405, 39: 10.0020442634}[problem]
    assert found == pytest.approx(published, abs=1e-8)
    uniform = score(torch.zeros(1000, dtype=torch.float64), loaded.chances)
    assert uniform == pytest.approx(1000)


def test_what_is_asked_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"problem must be one of \[7, 14"):
        load_strings(3)
    monkeypatch.setenv("BELIEFZOO_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"must name a folder that holds strings/7.train.gz"):
        load_strings(7)
    with pytest.raises(ValueError, match="problems: are"):
        experiment.Settings(problems=(3,))
    with pytest.raises(ValueError, match="strings: must be >= 2001"):
        experiment.Settings(strings=100)


def test_sizes_grow_until_two_gain_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gains = {2: -3.0, 3: -2.0, 4: -2.5, 5: -2.2, 6: -1.0}
    tried = []

    def fitted(
        settings: object, strings: object, model: object, *rest: object
    ) -> tuple[int, float]:
        tried.append(model)
        return 0, gains[model]  # type: ignore[index]

    monkeypatch.setattr(experiment, "fitted", fitted)
    few = experiment.Settings(sizes=tuple(gains))
    strings = experiment.Strings(*[None] * 4, symbols=2)  # type: ignore[arg-type]
    size, (_, valid) = experiment.chosen_size(few, strings, lambda s, n, v: n)  # type: ignore[arg-type, return-value]
    assert (size, valid) == (3, -2.0)
    assert tried == [2, 3, 4, 5]
    assert np.isfinite(valid)


def test_strings_have_the_probability_that_their_machine_gives() -> None:
    machine = LabelledHMM.from_tables(
        [0.3, 0.7], [[[0.1, 0.1], [0.0, 0.3]], [[0.0, 0.4], [0.1, 0.0]]], end=[0.4, 0.6]
    )
    words = counted(as_strings([*WORDS, [1] * 9], 2), 2)
    found = string_networks.string_log_prob(OperatorLaw.of(machine), words)
    torch.testing.assert_close(found, log_evidence(machine, words.data))


def test_the_loss_of_a_network_is_that_of_its_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all symbols of strings as often as they are there, and so are its batches."""
    words = counted(as_strings(WORDS, 2), 2)
    monkeypatch.setattr(string_networks, "_BATCH", 4)
    law, loss = string_networks.string_network(words, words, 2, 3, epochs=2, seed=0)
    total = float((words.weights * string_networks.string_log_prob(law, words)).sum())
    assert loss == pytest.approx(-total / 18, abs=1e-5)
    seen = string_networks._batches(words, torch.Generator().manual_seed(0))
    rows = [row[row >= 0].tolist() for batch in seen for piece in batch for row in piece]
    assert sorted(rows) == sorted([*word, 2] for word in WORDS)
