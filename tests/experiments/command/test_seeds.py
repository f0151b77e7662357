"""Figures over seeds."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from pathlib import Path

import pytest

from beliefzoo.experiments.command import seeds
from beliefzoo.experiments.command.report import record, setting_notes
from beliefzoo.experiments.command.seeds import (
    Repeated,
    Resumable,
    above,
    against,
    all_counts,
    at_least,
    each_seed,
    falls_short,
    interval,
    over_seeds,
    summary,
)


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


@dataclass(frozen=True)
class Settings(Repeated):
    """Settings that begin as those of others do."""

    seeds: int = 3
    """As many as
    three."""
    steps: int = 7
    """Of each."""


def test_inherited_settings_keep_their_notes_unless_told_anew() -> None:
    notes = setting_notes(Settings)
    assert list(notes) == ["seed", "seeds", "jobs", "steps"]
    assert notes["seeds"] == "As many as three."
    assert notes["jobs"] == setting_notes(Repeated)["jobs"]


def describe(settings: Settings, name: str, factor: int, number: int) -> str:
    return f"{name} {factor * settings.steps + number}"


def test_each_kind_is_done_for_every_seed() -> None:
    found = each_seed(describe, Settings(), [("b", 1), ("a", 10)])
    assert found == {("b", 1): ["b 7", "b 8", "b 9"], ("a", 10): ["a 70", "a 71", "a 72"]}


def test_settings_below_their_least_are_named() -> None:
    at_least(3, Settings(), "seeds", "steps")
    with pytest.raises(ValueError, match="steps: must be >= 8, got 7"):
        at_least(8, Settings(), "steps")
    with pytest.raises(ValueError, match="seeds: must be >= 1, got 0"):
        Settings(seeds=0)


def test_every_whole_number_but_the_seed_counts_something() -> None:
    @dataclass(frozen=True)
    class Mixed(Settings):
        share: float = 0.0
        chosen: bool = False
        sizes: tuple[int, ...] = (0,)

    all_counts(Mixed())
    with pytest.raises(ValueError, match="steps: must be >= 1, got 0"):
        all_counts(Mixed(steps=0))


def test_figures_are_held_against_what_was_to_be_reached() -> None:
    reach = {"kl": ("<=", 0.1)}
    expected = {"reach": reach, "not_reached": ["kl: 0.2, set was <= 0.1"], "kl": 0.2}
    assert against({"kl": 0.2}, reach) == expected


def test_a_record_tells_the_settings_it_was_made_with() -> None:
    found = record(Settings(seed=5), {"posterior": {"z": [[1.0]]}}, dims={})
    attrs = found.attrs
    assert attrs["experiment"] == __name__.rpartition(".")[2].replace("_", "-")
    assert "steps" in str(attrs["settings"])
    assert attrs["seed"] == 5


def test_what_is_above_its_reach_is_named() -> None:
    figures = {"error": {"here": 0.5, "there": 2.0}, "r_hat": {"all": math.nan}}
    assert above(figures, {"error": 1.0, "r_hat": 1.01, "not asked": 0.0}) == [
        "error (there): 2, reach 1",
        "r_hat (all): nan, reach 1.01",
    ]


@dataclass(frozen=True)
class KeptSettings(Resumable, Settings):
    """Settings of an experiment that keeps what is done."""


CALLS: list[tuple[int, int]] = []


def seven_times(settings: KeptSettings, number: int) -> dict[str, object]:
    CALLS.append((settings.steps, number))
    return {"kl": settings.steps * number / 3, "each": (number, "lstm")}


def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(count: int, **other: int) -> list[dict[str, object]]:
        CALLS.clear()
        settings = KeptSettings(kept=str(tmp_path / "kept"), seeds=count, **other)
        plan = [(settings, number) for number in range(count)]
        return over_seeds(seven_times, plan, kept=settings.kept)

    first = run(2)
    assert CALLS == [(7, 0), (7, 1)]
    assert first[1] == {"kl": 7 / 3, "each": [1, "lstm"]}
    assert run(3)[:2] == first
    assert CALLS == [(7, 2)]  # more seeds add to it
    run(1, steps=8)
    assert CALLS == [(8, 0)]  # another setting is another fit
    monkeypatch.setattr(seeds, "code_version", lambda *_: "later")
    with pytest.warns(UserWarning, match="was computed by other source"):
        assert run(2) == first
    assert not CALLS


def test_what_is_damaged_is_not_taken(tmp_path: Path) -> None:
    settings = KeptSettings(kept=str(tmp_path))
    over_seeds(seven_times, [(settings, 1)], kept=settings.kept)
    (path,) = tmp_path.glob("*.json")
    path.write_text(path.read_text().replace("2.3", "9.3"))
    with pytest.raises(ValueError, match=path.name):
        over_seeds(seven_times, [(settings, 1)], kept=settings.kept)
