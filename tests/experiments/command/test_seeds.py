"""Figures over seeds."""

from __future__ import annotations

import math
import operator

import pytest

from beliefzoo.experiments.command.seeds import falls_short, interval, over_seeds, summary


def test_the_plan_keeps_its_order() -> None:
    plan = [(3, 7), (1, 1), (2, 5)]
    assert over_seeds(operator.mul, plan) == over_seeds(operator.mul, plan, jobs=2) == [21, 1, 10]


def test_the_interval_is_students() -> None:
    # Quantile of t with 4 degrees of freedom: 2.776445 (printed tables); sd of 1…5 is sqrt(2.5).
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert interval([1, 2, 3, 4, 5]) == pytest.approx([3 - half, 3 + half], abs=1e-6)
    assert interval([2.0]) == [2.0, 2.0]


def test_nested_figures_are_summed_up_by_name() -> None:
    found = summary([{"a": {"kl": 1.0}, "kind": "lstm"}, {"a": {"kl": 3.0}, "kind": "lstm"}])
    assert found["kind"] == "lstm"
    assert found["a"]["kl"] == 2.0
    assert found["a"]["kl_by_seed"] == [1.0, 3.0]
    assert found["a"]["kl_interval"][0] < 2.0 < found["a"]["kl_interval"][1]


def test_what_falls_short_is_named() -> None:
    figures = {"a": {"kl": 0.2}, "r": 0.5, "nothing": math.nan}
    assert falls_short(figures, {"a.kl": ("<=", 0.3), "r": (">=", 0.5)}) == []
    assert falls_short(figures, {"a.kl": ("<=", 0.1)}) == ["a.kl: 0.2, set was <= 0.1"]
    assert len(falls_short(figures, {"nothing": (">=", 0.0)})) == 1
