"""The benchmark of draws: that samplers are compared on one posterior. No test asserts a time."""

import numpy as np
import pytest

from beliefzoo.experiments.benchmarks import draws
from beliefzoo.experiments.benchmarks.draws import ROWS, Settings, falls_short
from beliefzoo.experiments.benchmarks.parts import samplers
from beliefzoo.experiments.benchmarks.parts.samplers import SAMPLERS, Task, timed


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("nile", "pyro"),
        *((row, name) for row in ("earthquakes_2", "nile") for name in ("nutpie", "numpyro")),
    ],
)
def test_samplers_return_the_parameters_by_name(row, name):
    sampler, package = SAMPLERS[name]
    if package:
        pytest.importorskip(package)
    task = Task(row, *ROWS[row](), draws=3, seed=0)
    found = timed(sampler, task).parameters
    expected = timed(samplers.ours, task).parameters
    assert {n: x.shape for n, x in found.items()} == {n: x.shape for n, x in expected.items()}


def test_draws_of_another_posterior_are_refused(monkeypatch):
    def shifted(task):
        return {n: x + x.std() for n, x in samplers.ours(task).items()}

    monkeypatch.setitem(draws.SAMPLERS, "pyro", (shifted, None))
    task = Task("nile", *ROWS["nile"](), draws=200, seed=0)
    with pytest.raises(ValueError, match="pyro: means must be within 5 standard errors of ours"):
        draws._compare(task, (samplers.OURS, "pyro"))


def test_what_is_slower_than_it_should_be_is_said():
    rows = {
        "nile": {
            "beliefzoo": {"ours_over_this": 1.0},
            "pyro": {"ours_over_this": 9.0},
            "numpyro": {"ours_over_this": 1.5},
            "nutpie": {"left_out": "nutpie is not installed"},
        }
    }
    assert falls_short(rows) == ["nile: 9 times the effective draws a second of pyro"]
    with pytest.raises(ValueError, match="samplers: needs beliefzoo among some of"):
        Settings(samplers=("pyro",))


def test_effective_draws_of_independent_ones_are_as_many_as_they_are():
    columns = np.random.default_rng(0).normal(size=(4, 500, 2))
    assert np.abs(draws._effective(columns) / 2000 - 1).max() < 0.25
