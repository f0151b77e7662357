"""Laws of strings with an end: machines that are known, read as if they were networks."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from beliefzoo.inference import (
    NetworkLaw,
    PrefixLaw,
    law_divergence,
    load_machine,
    log_evidence,
    machine_of,
    merge_states,
)
from beliefzoo.inference.machines.laws import SequenceLaw, log_conditionals
from beliefzoo.models import LabelledHMM, Sequences, as_strings, read_automaton

SMALL: dict[str, Any] = {"prefixes": 300, "suffixes": 70, "samples": 100, "restarts": 1}

AUTOMATON = """I: (state)
\t(0) 0.75
\t(1) 0.25
F: (state)
\t(0) 0.1
\t(2) 0.5
S: (state,symbol)
\t(0,0) 0.6
\t(0,1) 0.4
\t(1,1) 1.0
\t(2,0) 0.3
\t(2,1) 0.7
T: (state,symbol,state)
\t(0,0,1) 1.0
\t(0,1,2) 1.0
\t(1,1,0) 1.0
\t(2,0,2) 1.0
\t(2,1,0) 1.0
"""


def automaton(folder: Path) -> LabelledHMM:
    path = folder / "model.txt"
    path.write_text(AUTOMATON)
    return read_automaton(path)


def asked_by_prefix(machine: LabelledHMM) -> PrefixLaw:
    """The law of a machine by a loop over the symbols of every prefix, as a network would be."""
    initial, tables, end = machine.tables()
    assert end is not None

    def scores(codes: Tensor) -> Tensor:
        rows = []
        for word in codes.tolist():
            state = initial
            for code in word:
                state = state @ tables[code]
            told = torch.cat(
                [torch.stack([(state @ t).sum() for t in tables]), (state @ end)[None]]
            )
            rows.append((told if float(told.sum()) else torch.ones_like(told)).log())
        return torch.stack(rows)

    return PrefixLaw(scores, len(tables) + 1, ends=True)


def every_string(symbols: int, longest: int) -> Sequences:
    lengths = range(longest + 1)
    words = [w for n in lengths for w in itertools.product(range(symbols), repeat=n)]
    return as_strings(words, symbols)


@pytest.mark.parametrize("how", ["as it is", "by prefix"])
def test_an_automaton_is_read_back(how: str, tmp_path: Path) -> None:
    machine = automaton(tmp_path)
    law: object = machine if how == "as it is" else asked_by_prefix(machine)
    short: dict[str, Any] = (
        {"length": 8, "prefixes": 60, "samples": 40} if law is not machine else {}
    )
    found = machine_of(law, regret=0.0, **(SMALL | short))
    assert (found.states, found.small, found.ends) == (3, True, True)
    assert found.divergence.mean < 1e-10
    assert found.normalisation < 1e-9
    assert found.hmm.ends
    assert law_divergence(machine, found.hmm, sequences=100).mean < 1e-4
    strings = every_string(2, 8)
    truth, ours = (log_evidence(one, strings).exp() for one in (machine, found.hmm))
    assert float((truth - ours).abs().sum()) < 0.02
    drawn = machine.sample(40, 12, seed=0).data
    assert len({*drawn.lengths.tolist()}) > 1
    assert found.update_error(drawn).steps.max() < 1e-10


def test_the_operator_of_the_end_begins_anew(tmp_path: Path) -> None:
    """p(u $ v) = p(u $) p(v), for operators as read off and for those that were moved."""
    machine = automaton(tmp_path)
    for options in ({"regret": 0.0}, {"states": 2}):
        found = machine_of(machine, **options, **SMALL).operators
        last = found.operators[-1]
        anew = torch.outer(found.start / (found.start @ found.end), found.end @ last)
        torch.testing.assert_close(last, anew, atol=1e-9, rtol=1e-9)


def test_the_divergence_of_laws_of_strings_is_that_of_all_strings(tmp_path: Path) -> None:
    """Σ_w p(w) log(p(w) / q(w)) over the mean length, written out over strings of 15 symbols."""
    initial, tables, end = automaton(tmp_path).tables()
    assert end is not None
    one, two = (
        LabelledHMM.from_tables(initial, tables * share, 1 - share + share * end)
        for share in (0.6, 0.5)
    )
    strings = every_string(2, 15)
    p, q = log_evidence(one, strings), log_evidence(two, strings)
    share = p.exp()
    assert float(share.sum()) > 0.9999
    nats = float(torch.where(share > 0, share * (p - q), 0).sum())
    rate = nats / float((share * strings.lengths).sum())
    found = law_divergence(one, two, sequences=400, length=300, seed=2)
    assert abs(found.mean - rate) < 4 * found.standard_error + 0.01 * rate
    given = law_divergence(one, two, as_strings([[1, 0], [1]], 2))
    words = (
        log_conditionals(asked_by_prefix(m), torch.tensor([[1, 0, 2], [1, 2, 2]]))
        for m in (one, two)
    )
    told, other = words
    each = torch.where(told.exp() > 0, told.exp() * (told - other), 0).sum(-1)
    torch.testing.assert_close(given.steps[0], each[0])
    torch.testing.assert_close(given.steps[1], torch.cat([each[1, :2], torch.zeros(1)]).double())
    assert given.mean == pytest.approx(float(given.steps.sum()) / 5)


def networks() -> list[NetworkLaw]:
    torch.manual_seed(0)
    head = nn.Linear(4, 3)
    return [
        NetworkLaw(nn.LSTM(2, 4).eval(), head, ends=True),  # never reads an end
        NetworkLaw(nn.GRU(3, 4, batch_first=True).eval(), head, ends=True),
        NetworkLaw(nn.RNN(3, 4, num_layers=2).eval(), head, begin=2, ends=True),  # ends are marks
        NetworkLaw(nn.LSTM(5, 4).eval(), head, nn.Embedding(4, 5), begin=3, ends=True),
    ]


def prefix_law(begin: int | None) -> PrefixLaw:
    def scores(codes: Tensor) -> Tensor:
        at = (
            codes.double() @ torch.linspace(1, 2, codes.shape[1]).double() if codes.numel() else 0.3
        )
        at = torch.as_tensor(at).double().expand(len(codes))
        return torch.stack([at.sin(), at.cos(), at.sin() - 1], -1)

    return PrefixLaw(scores, 3, begin=begin, ends=True)


@pytest.mark.parametrize("law", [*networks(), prefix_law(None), prefix_law(2), prefix_law(7)])
def test_a_new_string_begins_after_the_end(law: SequenceLaw) -> None:
    first, second = torch.tensor([[0, 1, 2]]), torch.tensor([[1, 1, 0, 2]])
    both = torch.cat([first, second], 1)
    other = torch.tensor([[1, 2, 0, 0, 1, 0, 2]])  # beside strings that end elsewhere
    told = log_conditionals(law, torch.cat([both, other]))
    torch.testing.assert_close(told[:1, :3], log_conditionals(law, first))
    torch.testing.assert_close(told[:1, 3:], log_conditionals(law, second))
    found = machine_of(law, states=2, **SMALL | {"samples": 20, "prefixes": 40, "length": 6})
    assert found.hmm.ends
    assert math.isfinite(found.divergence.mean)


def always(*logs: float) -> PrefixLaw:
    return PrefixLaw(lambda codes: torch.tensor(logs).expand(len(codes), -1), len(logs), ends=True)


NEVER = -math.inf


@pytest.mark.parametrize(
    ("law", "stop"),
    [(always(0, 0, NEVER), 0.0), (always(NEVER, NEVER, 0), 1.0), (always(0, 0), 0.5)],
    ids=["never ends", "ends at once", "one symbol"],
)
def test_strings_at_their_limits(law: PrefixLaw, stop: float) -> None:
    found = machine_of(law, **SMALL)
    assert found.states == 1
    assert found.divergence.mean < 1e-9
    end = found.hmm.tables().end
    assert end is not None
    assert float(end[0]) == pytest.approx(stop, abs=1e-3)
    assert "machine of 1 states" in str(found)


def test_many_symbols_are_drawn_and_come_out(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    tables = torch.rand(12, 3, 3, generator=generator, dtype=torch.float64) ** 4
    end = torch.tensor([0.02, 0.3, 0.1], dtype=torch.float64)
    tables = tables / tables.sum((0, 2)).unsqueeze(-1) * (1 - end).unsqueeze(-1)
    machine = LabelledHMM.from_tables([0.8, 0.2, 0], tables, end)
    found = machine_of(machine, regret=0.0, refine=False, samples=50, suffixes=60)
    assert found.states == 3
    assert found.divergence.mean < 1e-9
    again = load_machine(found.save(tmp_path / "machine.pt"))
    assert again.ends


def test_twins_among_states_of_strings_are_merged() -> None:
    twins = [[[0, 0.2, 0.2], [0.5, 0, 0], [0.5, 0, 0]], [[0.3, 0, 0], [0, 0.1, 0], [0, 0, 0.1]]]
    end = [0.3, 0.4, 0.4]
    machine = LabelledHMM.from_tables([0.5, 0.5, 0], twins, end)
    merged = merge_states(machine, 1e-9)
    assert merged.states == 2
    assert law_divergence(machine, merged, sequences=50).mean < 1e-12
    ends_alone = LabelledHMM.from_tables([0.5, 0.5], [[[0.5, 0], [0, 0.4]]], [0.5, 0.6])
    assert merge_states(ends_alone, 0.05).states == 2
    assert merge_states(ends_alone, 0.5).states == 1


def refused(argument: str, words: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: .*{words}"):
        call()


class GoesOn:
    """A law that says it ends, and goes on."""

    symbols, ends = 2, True

    def start(self, n: int) -> tuple[Tensor, ...]:
        return (torch.zeros(n),)

    def read(self, state: tuple[Tensor, ...], codes: Tensor) -> tuple[Tensor, ...]:
        return (state[0] + 1,)

    def next_log_probabilities(self, state: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([state[0], -state[0]], -1).double().log_softmax(-1)


def test_what_is_not_a_law_of_strings_is_named(tmp_path: Path) -> None:
    machine = automaton(tmp_path)
    lstm, head = nn.LSTM(3, 4).eval(), nn.Linear(4, 3)
    refused("network", "begin anew", lambda: machine_of(GoesOn()))
    refused("ends", "belongs to a network", lambda: machine_of(machine, ends=True))
    refused("other", "begin anew", lambda: law_divergence(machine, NetworkLaw(lstm, head)))
    refused("law", "begin anew", lambda: law_divergence(NetworkLaw(lstm, head), machine))
    refused("head", "one for the end", lambda: NetworkLaw(nn.LSTM(5, 4).eval(), head, ends=True))
    refused("ends", "", lambda: NetworkLaw(lstm, head, ends=3))  # type: ignore[arg-type]
    found = machine_of(machine, **SMALL)
    refused("found", "without end", found.to_arviz)
    refused("data", "two symbols", lambda: found.update_error(as_strings([[], []], 2)))
