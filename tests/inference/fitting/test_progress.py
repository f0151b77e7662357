"""Progress: bars for who can see them move, lines for logs."""

import io
import re
import sys
import time

import pytest

from beliefzoo.inference import BeliefGuide, FitSettings, LSTMFilter, fit, nuts, value_iteration
from beliefzoo.inference.fitting import progress
from beliefzoo.inference.fitting.progress import progress_of
from beliefzoo.models import HiddenMarkovModel, Sequences, tiger

MODEL = HiddenMarkovModel(1, "poisson")
DATA = Sequences.from_arrays([[3, 5, 4, 4]])
SHORT = FitSettings(steps=120, sleep_steps=0, holdout=0, patience=None)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_logs_get_a_line_for_each_fit(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 120 steps, of two chains, of a plan: each says at its end how far it came."""
    fit(MODEL, BeliefGuide(MODEL, LSTMFilter(2)), DATA, settings=SHORT)
    nuts(MODEL, DATA, chains=2, draws=5, warmup=5)
    value_iteration(tiger(), gap=5.0, progress=True)
    said = capsys.readouterr().err
    assert "\r" not in said
    patterns = (
        r"fit elbo: 120/120 steps in \d\d:\d\d, loss=-?\d+\.\d+",
        r"chains 0 to 1: 20/20 steps in \d\d:\d\d.*",
        r"\d+ trials in \d\d:\d\d, bounds=.* to .*",
    )
    for pattern, line in zip(patterns, said.splitlines(), strict=True):
        assert re.fullmatch(pattern, line), line


def test_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with progress_of(200, "job", shown=True) as bar:  # one second each
        shown = [bar.update() for _ in range(100)]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "30/200 jobs in 00:31"
    assert len(lines) == sum(map(bool, shown)) + 1 == 100 // int(progress.EVERY) + 1
    assert lines[-1].startswith("100/200 jobs in 01:4")


def test_terminals_and_notebooks_get_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"ipykernel": type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})}
    for make in (Terminal, kinds["ipykernel"]):
        stream = make()
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_of(3, "step", shown=True, desc="fit") as bar:
            bar.update(3)
        assert "\rfit: 100%" in stream.getvalue()


def test_nothing_is_shown_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_of(3, "step", shown=False) as bar:
        bar.update()
        bar.set_postfix({"loss": 1})
    assert capsys.readouterr().err == ""
