"""Labelled chains beside sums over symbols and paths, hidden Markov models and known machines."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

import oracles
from beliefzoo.inference import (
    filter,
    forecast,
    log_evidence,
    most_likely_states,
    predict,
    smooth,
    smooth_pairs,
    step_log_likelihood,
)
from beliefzoo.models import (
    Categorical,
    HiddenMarkovModel,
    LabelledHMM,
    Sequences,
    as_strings,
    golden_mean,
    load_model,
    mess3,
    read_automaton,
    read_strings,
    save_model,
)

NAN = float("nan")


def machine(rng: np.random.Generator, states: int, symbols: int, ends: bool) -> LabelledHMM:
    """A random machine, a quarter of whose entries are zero."""
    size = states * symbols + ends
    rows = rng.exponential(size=(states, size)) * (rng.random((states, size)) < 0.75) + 1e-9
    rows /= rows.sum(-1, keepdims=True)
    joint = rows[:, : states * symbols].reshape(states, symbols, states).transpose(1, 0, 2)
    first = rng.dirichlet(np.ones(states))
    return LabelledHMM.from_tables(first, joint, rows[:, -1] if ends else None)


def fillings(word: np.ndarray, symbols: int, ends: bool) -> list[list[int]]:
    """All words that a word with missing symbols may be: an end is the last symbol or none."""
    last = len(word) - 1
    choices = [
        range(symbols + (ends and t == last)) if np.isnan(x) else [int(x)]
        for t, x in enumerate(word)
    ]
    return [list(one) for one in itertools.product(*choices)]


def joint_chances(model: LabelledHMM, word: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All paths z_1 … z_T, and p(word, path): one entry of a table after the other."""
    initial, joint, end = (None if x is None else x.numpy() for x in model.tables())
    assert initial is not None
    assert joint is not None
    paths = oracles.all_paths(len(word), model.states)
    total = np.zeros(len(paths))
    for filled in fillings(word, model.symbols, model.ends):
        for row, path in enumerate(paths):
            chance = initial[path[0]]
            for t, x in enumerate(filled):
                if x == model.symbols:
                    assert end is not None
                    chance *= end[path[t]]
                elif t + 1 < len(path):
                    chance *= joint[x, path[t], path[t + 1]]
                else:  # the state after the last symbol is summed over
                    chance *= joint[x, path[t]].sum()
            total[row] += chance
    return paths, total


WORDS = [[0, 1, NAN, 1], [NAN, 0], [1, NAN, NAN], [0]]


@pytest.mark.parametrize("seed", range(6))
def test_every_query_is_the_sum_over_symbols_and_paths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    states, ends = int(rng.integers(1, 4)), seed % 2 == 1
    model = machine(rng, states, 2, ends)
    words = [np.array(word, dtype=float) for word in WORDS]
    if ends:
        words = [np.append(word, 2.0) for word in words[:2]] + words[2:]
    data = Sequences.from_arrays(words, codes=True)
    found = [ask(model, data) for ask in (log_evidence, filter, smooth, step_log_likelihood)]
    evidence, filtered, smoothed, steps = (x.numpy() for x in found)
    pairs, best = smooth_pairs(model, data), most_likely_states(model, data)
    for n, word in enumerate(words):
        paths, chances = joint_chances(model, word)
        assert evidence[n] == pytest.approx(np.log(chances.sum()), abs=1e-12)
        assert steps[n].sum() == pytest.approx(evidence[n], abs=1e-12)
        assert float(best.log_joint[n]) == pytest.approx(np.log(chances.max()), abs=1e-12)
        path = best.states[n, : len(word)].numpy()
        assert chances[(paths == path).all(-1)] == pytest.approx(chances.max(), rel=1e-12)
        for t in range(len(word)):
            for k in range(states):
                there = chances[paths[:, t] == k].sum() / chances.sum()
                assert smoothed[n, t, k] == pytest.approx(there, abs=1e-12)
            if ends and np.isnan(word[t]) and t + 1 < len(word):
                continue  # the filter knows that the string goes on, its beginning does not
            _, before = joint_chances(model, word[: t + 1])
            start = oracles.all_paths(t + 1, states)
            for k in range(states):
                there = before[start[:, t] == k].sum() / before.sum()
                assert filtered[n, t, k] == pytest.approx(there, abs=1e-12)
        for t, (i, j) in itertools.product(
            range(len(word) - 1), itertools.product(range(states), repeat=2)
        ):
            there = chances[(paths[:, t] == i) & (paths[:, t + 1] == j)].sum() / chances.sum()
            assert float(pairs[n, t, i, j]) == pytest.approx(there, abs=1e-12)


def test_the_next_symbol_is_the_ratio_of_two_beginnings() -> None:
    model = machine(np.random.default_rng(3), 3, 2, ends=True)
    beginning = Sequences.from_arrays([[0, 1, 1, 0]], codes=True)
    law = model.next_symbol(predict(model, beginning))[0]
    whole = [float(log_evidence(model, beginning.head(t))) for t in range(1, 5)]
    for t in range(4):
        for x in range(3):
            word = [*[0, 1, 1, 0][:t], x]
            here = log_evidence(model, Sequences.from_arrays([word], codes=True))
            before = whole[t - 1] if t else 0.0
            assert float(law[t, x]) == pytest.approx(np.exp(float(here) - before), abs=1e-12)
    torch.testing.assert_close(law.sum(-1), torch.ones(4, dtype=torch.float64))


def test_the_chances_of_all_strings_sum_to_one() -> None:
    """And those of all strings up to a length are 1 less that of the beginnings of that length."""
    model = machine(np.random.default_rng(0), 2, 2, ends=True)
    words = [w for n in range(8) for w in itertools.product(range(2), repeat=n)]
    whole = log_evidence(model, as_strings(words, 2)).exp().sum()
    begun = Sequences.from_arrays(list(itertools.product(range(2), repeat=8)), codes=True)
    left = log_evidence(model, begun).exp().sum()
    assert float(whole + left) == pytest.approx(1, abs=1e-12)
    sure = LabelledHMM.from_tables([1.0], [[[0.2]], [[0.1]]], end=[0.7])
    assert float(log_evidence(sure, as_strings(words, 2)).exp().sum()) == pytest.approx(
        1 - 0.3**8, abs=1e-12
    )


@pytest.mark.parametrize("states", [1, 4])
def test_a_hidden_markov_model_is_a_case(states: int) -> None:
    rng = np.random.default_rng(1)
    known = {"probs": rng.dirichlet(np.ones(3), states)}
    if states > 1:
        known |= {
            "initial": rng.dirichlet(np.ones(states)),
            "transition": rng.dirichlet(np.ones(states), states),
        }
    hmm = HiddenMarkovModel(states, Categorical(3)).with_parameters(**known)
    model = LabelledHMM.from_hmm(hmm)
    words = [[0, 1, NAN, 2, 2, 1], [2], [NAN, 0, NAN]]
    data = Sequences.from_arrays(words, codes=True)
    for ask in (log_evidence, filter, predict, smooth, smooth_pairs, step_log_likelihood):
        torch.testing.assert_close(ask(model, data), ask(hmm, data), rtol=0, atol=1e-12)
    one, other = most_likely_states(model, data), most_likely_states(hmm, data)
    assert torch.equal(one.states, other.states)
    strings = as_strings([[0, 1, 1], [], [1]], 2)
    ended = LabelledHMM.from_hmm(hmm, ends=True)
    torch.testing.assert_close(
        log_evidence(ended, strings), log_evidence(hmm, strings), rtol=0, atol=1e-12
    )


def test_a_stationary_law_of_another_kind_is_read_off() -> None:
    hmm = HiddenMarkovModel(2, Categorical(2), initial="stationary")
    hmm = hmm.with_parameters(transition=[[0.9, 0.1], [0.3, 0.7]], probs=[[1, 0], [0.5, 0.5]])
    first = LabelledHMM.from_hmm(hmm).known["initial"]
    np.testing.assert_allclose(first, [0.75, 0.25], atol=1e-12)
    free = LabelledHMM(2, 2, initial="stationary").with_parameters(
        transition=[[[0.9, 0.1], [0.3, 0.7]]] * 2, probs=hmm.known["probs"]
    )
    data = Sequences.from_arrays([[0, 1, 0, 0, 1]], codes=True)
    torch.testing.assert_close(log_evidence(free, data), log_evidence(hmm, data))


@pytest.mark.parametrize("chain", [golden_mean(), mess3()])
def test_processes_of_symbols_have_the_same_law_without_pairs(chain: object) -> None:
    model = LabelledHMM.from_tables(chain.stationary, chain.matrices)  # type: ignore[attr-defined]
    data = chain.sample(5, 30, seed=0).data  # type: ignore[attr-defined]
    paired = chain.model  # type: ignore[attr-defined]
    torch.testing.assert_close(log_evidence(model, data), log_evidence(paired, data))
    beliefs = chain.state_beliefs(filter(paired, data))  # type: ignore[attr-defined]
    torch.testing.assert_close(predict(model, data)[:, 1:], beliefs[:, :-1])  # after each symbol


def test_tables_come_back() -> None:
    model = machine(np.random.default_rng(7), 3, 4, ends=True)
    again = LabelledHMM.from_tables(*model.tables())
    for one, other in zip(model.tables(), again.tables(), strict=True):
        assert one is not None
        torch.testing.assert_close(one, other, rtol=0, atol=1e-15)


# Draws


def test_strings_are_drawn_as_often_as_their_chance() -> None:
    """20 000 strings: every share within 5 standard errors of the chance (1 in 10^5)."""
    model = machine(np.random.default_rng(2), 3, 2, ends=True)
    drawn = model.sample(20_000, 60, seed=0)
    words = [tuple(word.tolist()) for word in drawn.data.arrays()]
    assert all(2 not in word[:-1] for word in words)
    some = [w for n in range(4) for w in itertools.product(range(2), repeat=n)]
    chances = log_evidence(model, as_strings(some, 2)).exp().numpy()
    for word, chance in zip(some, chances, strict=True):
        share = sum(1 for one in words if one == (*word, 2)) / len(words)
        assert abs(share - chance) <= 5 * (chance * (1 - chance) / len(words)) ** 0.5 + 1e-12
    states, data = drawn.states, drawn.data
    assert states.shape == data.values.shape[:2]
    assert torch.equal(states >= 0, data.step_mask)


def test_states_and_symbols_are_drawn_together() -> None:
    """Shares of (z_1, x_1, z_2) within 5 standard errors of the table (1 in 10^5)."""
    model = machine(np.random.default_rng(5), 2, 3, ends=False)
    drawn = model.sample(30_000, 2, seed=1)
    initial, joint, _ = model.tables()
    x = drawn.data.codes()[:, 0]
    for z, code, to in itertools.product(range(2), range(3), range(2)):
        chance = float(initial[z] * joint[code, z, to])
        here = (drawn.states[:, 0] == z) & (x == code) & (drawn.states[:, 1] == to)
        share = float(here.double().mean())
        assert abs(share - chance) <= 5 * (chance * (1 - chance) / 30_000) ** 0.5 + 1e-12


def test_a_simulation_keeps_what_is_missing() -> None:
    model = machine(np.random.default_rng(2), 3, 2, ends=True)
    like = Sequences.from_arrays([[0, NAN, 1, 0, 0, 1, 0, 1]] * 50, codes=True)
    torch.manual_seed(0)
    data = model.simulate({}, like).data
    assert not bool(data.observed_steps[:, 1].any())
    assert int(data.lengths.min()) < 8
    model.check(data)


# Structure


def test_moves_that_are_not_allowed_have_no_chance() -> None:
    allowed = np.zeros((2, 2, 2), dtype=bool)
    allowed[0, 0] = True  # at symbol 0, anywhere
    allowed[0, 1, 1] = allowed[1, 1, 0] = True  # state 1 emits only symbol 1
    model = LabelledHMM(2, 2, allowed=allowed)
    assert not model.reorderable
    # Three rows of moves have one way or none, and one symbol of state 1 is not emitted.
    assert model.redundant(model.priors) == 4
    drawn = model.sample(4, 12, seed=0)
    known = model.with_parameters(**drawn.parameters)
    moves = known.tables().tables.numpy()
    assert bool((moves[~allowed.transpose(1, 0, 2)] == 0).all())
    np.testing.assert_allclose(moves.sum((0, 2)), 1, atol=1e-12)
    assert bool(log_evidence(known, drawn.data).isfinite().all())
    assert float(log_evidence(known, Sequences.from_arrays([[1, 0, 1, 0, 0]], codes=True))) < 0


def test_the_prior_of_allowed_moves_is_that_of_their_own_entries() -> None:
    """Dirichlet rows cut to two of three entries are uniform shares: mean and variance within 5
    standard errors (1 in 10^5).
    """
    allowed = np.ones((3, 1, 3), dtype=bool)
    allowed[0, 0, 2] = False
    model = LabelledHMM(3, 1, allowed=allowed)
    share = model.shown({"transition": model.priors["transition"].sample((4000,))})
    first = share["transition"][:, 0, 0, 0]
    assert abs(float(first.mean()) - 1 / 2) < 5 * (1 / 12 / 4000) ** 0.5
    assert abs(float(first.var()) - 1 / 12) < 5 * (1 / 180 / 4000) ** 0.5


def test_a_unifilar_machine_has_symbols_alone() -> None:
    model = LabelledHMM.unifilar([[0, 1], [-1, 0]])
    known = model.with_parameters(initial=[1, 0], probs=[[0.5, 0.5], [0, 1]])
    data = known.sample(20, 40, seed=0).data
    path = smooth(known, data)
    assert bool(((path < 1e-12) | (path > 1 - 1e-12)).all())  # nothing is hidden after the start
    odd = Sequences.from_arrays([[0, 1, 0]], codes=True)
    assert float(log_evidence(known, odd)) == -np.inf


@pytest.mark.parametrize("ends", [False, True])
def test_files_give_the_same_numbers(tmp_path: Path, ends: bool) -> None:
    model = machine(np.random.default_rng(4), 3, 2, ends)
    again = load_model(save_model(model, tmp_path / "machine.pt"))
    assert repr(again) == repr(model)
    assert all(torch.equal(again.known[name], value) for name, value in model.known.items())
    allowed = LabelledHMM.unifilar([[0, 1], [-1, 0]], ends=ends)
    kept = load_model(save_model(allowed, tmp_path / "allowed.pt"))
    assert sorted(kept.priors) == ["initial", "probs"]


# Files of the challenge

TEXT = """I: (state)
\t(0) 0.25
\t(1) 0.75
F: (state)
\t(1) 0.5
S: (state,symbol)
\t(0,0) 0.5
\t(0,1) 0.5
\t(1,1) 1.0
T: (state,symbol,state)
\t(0,0,0) 1.0
\t(0,1,1) 1.0
\t(1,1,0) 0.5
\t(1,1,1) 0.5
"""


def test_a_machine_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "m.txt"
    path.write_text(TEXT)
    model = read_automaton(path)
    chances = log_evidence(model, as_strings([[], [0], [1]], 2)).exp().numpy()
    one = 0.25 * 0.5 * 0.5 + 0.75 * 0.5 * 0.5 * 0.5  # 0 -1-> 1, stop; 1 -1-> 1, stop
    np.testing.assert_allclose(chances, [0.75 * 0.5, 0, one], atol=1e-15)
    assert read_automaton(path, symbols=4).symbols == 4


def test_strings_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "s.gz"
    path.write_bytes(gzip.compress(b"3 2\n2 0 1\n0\n1 1\n"))
    data, symbols = read_strings(path)
    assert symbols == 2
    assert [word.tolist() for word in data.arrays()] == [[0, 1, 2], [2], [1, 2]]


PROBLEMS = (7, 14, 24, 28, 29, 30, 31, 33, 38, 39, 42, 45)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_published_probabilities(problem: int, shared_data: Path) -> None:
    """The challenge's solutions have 12 digits; they are normalised over the test strings."""
    folder = shared_data / "strings"
    if not folder.is_dir():
        pytest.skip("needs the strings of the challenge")
    data, symbols = read_strings(folder / f"{problem}.test.gz")
    model = read_automaton(folder / f"{problem}.model.txt", symbols)
    given = np.array((folder / f"{problem}.solution.txt").read_text().split()[1:], dtype=float)
    found = log_evidence(model, data).exp().numpy()
    np.testing.assert_allclose(found / found.sum(), given / given.sum(), rtol=1e-10)


# Refusals


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("tables: rows must sum to 1 over symbols, next states and end; state 0 does not, got 0.9",
         lambda: LabelledHMM.from_tables([1.0], [[[0.9]]])),
        ("tables: needs shape \\(symbol, state, state_to\\), got \\(1, 1\\)",
         lambda: LabelledHMM.from_tables([1.0], [[1.0]])),
        ("end: needs 1 numbers", lambda: LabelledHMM.from_tables([1.0], [[[1.0]]], [0, 0])),
        ("initial: needs shape \\(1,\\)", lambda: LabelledHMM.from_tables([1, 0], [[[1.0]]])),
        ("next_states: needs \\(state, symbol\\) whole numbers from -1",
         lambda: LabelledHMM.unifilar([[0, 2], [1, 0]])),
        ("allowed: needs True or False in shape \\(2, 1, 2\\)",
         lambda: LabelledHMM(2, 1, allowed=np.ones((2, 2)))),
        ("allowed: needs a move from every state, got none from \\[1\\]",
         lambda: LabelledHMM.unifilar([[0], [-1]])),
        ("initial: 'stationary' needs sequences without end",
         lambda: LabelledHMM(2, 1, ends=True, initial="stationary")),
        ("hmm: needs a HiddenMarkovModel with a Categorical emission",
         lambda: LabelledHMM.from_hmm(HiddenMarkovModel(2, "poisson"))),
        ("parameters: needs values for",
         lambda: LabelledHMM.from_hmm(HiddenMarkovModel(2, Categorical(2)))),
        ("data: nothing comes after the end of a string, which is code 2, got an end",
         lambda: log_evidence(machine(np.random.default_rng(0), 2, 2, True),
                              Sequences.from_arrays([[2, 0]], codes=True))),
        ("words: needs codes 0 to 1, got 2 in string 0", lambda: as_strings([[2]], 2)),
        ("words: needs codes 0 to 1, got True in string 0", lambda: as_strings([[True]], 2)),
        ("beliefs: ", lambda: LabelledHMM(2, 2).next_symbol(torch.ones(3))),
        ("probs: needs in every row a probability > 0 of what is allowed",
         lambda: LabelledHMM.unifilar([[0, -1]]).with_parameters(probs=[[0, 1]]).known),
    ],
)  # fmt: skip
def test_bad_input_is_named(message: str, call: object) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("line 2: needs a section I:, F:, S: or T:, or an entry", "I: (state)\n (0) x\n"),
        ("needs a section I with the first states", "F: (state)\n (0) 1\n"),
        ("section T: needs next states of state 0 at symbol 0, got none",
         "I: (state)\n (0) 1\nS: (state,symbol)\n (0,0) 1\n"),
        ("line 2: needs a section", "I: (state)\n (0,1) 1\n"),
    ],
)  # fmt: skip
def test_a_broken_machine_is_named(tmp_path: Path, message: str, text: str) -> None:
    path = tmp_path / "m.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_automaton(path)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("line 1: needs numbers of strings and symbols", "3\n"),
        ("line 1: needs numbers of strings and symbols", "\n1 2\n1 0\n"),
        ("line 1: needs numbers of strings and symbols, both above 0, got '0 2'", "0 2\n"),
        ("line 1: needs numbers of strings and symbols, both above 0, got '1 0'", "1 0\n0\n"),
        ("line 2: needs a length and so many codes, got '2 0'", "1 2\n2 0\n"),
        ("line 3: needs a length and so many codes, got ''", "2 2\n1 0\n\n1 1\n"),
        ("line 3: needs codes 0 to 1, as line 1 says, got 2", "2 2\n1 0\n1 2\n"),
        ("line 2: needs whole numbers >= 0, got 1 a", "1 2\n1 a\n"),
        ("needs 2 strings, as line 1 says, got 1", "2 2\n1 0\n"),
    ],
)
def test_broken_strings_are_named(tmp_path: Path, message: str, text: str) -> None:
    path = tmp_path / "s.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_strings(path)
    with pytest.raises(ValueError, match="path: needs a file of text"):
        read_strings(tmp_path / "absent.gz")


@pytest.mark.parametrize("kind", ["int64", "uint8", "int32"])
def test_codes_may_be_of_numpy(kind: str) -> None:
    words = [np.array([0, 1, 1], kind), np.array([], kind)]
    assert [one.tolist() for one in as_strings(words, 2).arrays()] == [[0, 1, 1, 2], [2]]


def test_a_mark_of_byte_order_is_no_part_of_a_file(tmp_path: Path) -> None:
    """Some editors put one before UTF-8; UTF-16 is no text here, and the file is named."""
    path = tmp_path / "marked.txt"
    for read, text in (
        (read_strings, "2 3\n2 0 2\n0\n\n"),
        (read_automaton, "I: (state)\n (0) 1.0\nF: (state)\n (0) 1.0\n"),
    ):
        path.write_text(text, encoding="utf-8-sig")
        read(path)
        path.write_text(text, encoding="utf-16")
        with pytest.raises(ValueError, match=f"needs a file of text.*{path.name}"):
            read(path)


def test_strings_beyond_those_announced_and_half_a_first_law_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "few.txt"
    path.write_text("1 3\n1 0\n1 0\n")
    with pytest.raises(ValueError, match="needs 1 strings, as line 1 says"):
        read_strings(path)
    path.write_text(
        "I: (state)\n (0) 0.5\nF: (state)\n (0) 0.5\nS: (state,symbol)\n (0,0) 1\n"
        "T: (state,symbol,state)\n (0,0,0) 1.0\n"
    )
    with pytest.raises(ValueError, match=r"section I.*needs a sum of 1"):
        read_automaton(path)


def test_forecasts_go_on_where_the_last_symbols_are_missing():
    """As from a step more that is missing, though no sequence has a last symbol."""
    model = LabelledHMM(3, 2)
    drawn = model.sample(2, 6, seed=0)
    known = model.with_parameters(**drawn.parameters)
    symbols = drawn.data.values.double().reshape(2, 6)
    symbols[:, -1] = torch.nan
    data = Sequences.from_arrays(list(symbols.numpy()), codes=True)
    longer = torch.cat([symbols, symbols.new_full((2, 1), torch.nan)], 1)
    found = forecast(known, data, steps=1, draws=2, seed=0).state_probability[:, 0]
    more = predict(known, Sequences.from_arrays(list(longer.numpy()), codes=True))[:, -1]
    torch.testing.assert_close(found, more)
