"""The benchmark of fits: that every answer is measured by the same likelihood. No test asserts a
time."""

import pytest

from beliefzoo.experiments.benchmarks import fits
from beliefzoo.experiments.benchmarks.fits import ROWS, SMOKE, Settings, falls_short, measure, table
from beliefzoo.experiments.benchmarks.parts import fitters, fresh
from beliefzoo.experiments.benchmarks.parts.comparison import Contender, Prepared
from beliefzoo.experiments.benchmarks.parts.fitters import CONTENDERS, OURS, Found, Task, checked


def task(name):
    row = ROWS[name]
    model, data = row.build(0)
    return Task(name, model, data, 0, row.family)


def test_peers_are_contenders_and_rows_have_what_they_need():
    for row in ROWS.values():
        assert set(row.peers) <= set(CONTENDERS)
    assert {ROWS[f"earthquakes_stationary_{m}"].published for m in (1, 2, 3, 4)} == {
        *(-391.9189, -342.3183, -329.4603, -327.8316)
    }


@pytest.mark.parametrize(
    ("name", "peer", "package"),
    [
        ("earthquakes_2", "hmmlearn_default", "hmmlearn"),
        ("nile", "statsmodels", "statsmodels"),
    ],
)
def test_peers_state_the_likelihood_that_is_ours(name, peer, package):
    pytest.importorskip(package)
    given = task(name)
    contender = CONTENDERS[peer]
    figures = checked(contender, given, contender.prepare(given))  # raises where they differ
    assert figures["log_likelihood"] < 0


def test_a_wrong_likelihood_is_refused():
    given = task("nile")
    values = {"level_variance": 1469.1, "observation_variance": 15099.0}
    right = fitters.height(given, values)
    assert right == pytest.approx(-633.4646, abs=1e-4)  # statsmodels, exact diffuse
    liar = Contender(
        "liar", lambda _: Prepared(lambda: None, lambda _: Found(values, right + 0.01))
    )
    with pytest.raises(ValueError, match="liar: log likelihood must agree with ours"):
        checked(liar, given, liar.prepare(given))


def test_who_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(fresh, "installed", lambda package: None)
    figures = measure(Settings(**{**SMOKE, "rows": ("nile",)}))
    ours = figures["rows"]["nile"][OURS]
    assert ours["log_likelihood"] == pytest.approx(-633.4646, abs=1e-4)
    assert ours["cpu_seconds_median"] > 0
    assert figures["rows"]["nile"]["statsmodels"] == {"left_out": "statsmodels is not installed"}
    assert figures["summary"]["not_reached"] == []
    assert "left out: statsmodels is not installed" in table(figures)
    assert fits.draw(figures)["seconds"].axes


def test_what_falls_short_is_said():
    ours = {"nats_short": 0.5, "nats_below_published": 0.2}
    there = {"nats_short": 0.0, "times_slower": 0.25}
    lower = {"nats_short": 0.3, "times_slower": 0.5}
    said = falls_short(
        {"earthquakes_stationary_2": {OURS: ours, "hmmlearn": there, "hmmlearn_default": lower}}
    )
    assert said == [
        "earthquakes_stationary_2: 0.5 nats below the best that was found",
        "earthquakes_stationary_2: 0.2 nats below the published maximum",
        "earthquakes_stationary_2: hmmlearn takes 0.25 times ours",
        "earthquakes_stationary_2: hmmlearn_default takes 0.5 times ours, 0.3 nats short",
    ]


def test_rows_without_data_are_left_out(monkeypatch):
    monkeypatch.delenv("BELIEFZOO_DATA", raising=False)
    figures = measure(Settings(**{**SMOKE, "rows": ("returns",)}))
    assert "BELIEFZOO_DATA must name the folder" in figures["rows"]["returns"][OURS]["left_out"]
    assert figures["summary"]["not_reached"] == []
