"""The experiment fits-in-any-unit: its cases, its own climbs, and what counts as said."""

import numpy as np
import pytest
import torch

from beliefzoo.experiments.series import fits_in_any_unit as experiment
from beliefzoo.experiments.series.fits_in_any_unit import (
    FAMILIES,
    Free,
    Settings,
    _drawn,
    best_known,
    case,
    figures_of,
)
from beliefzoo.inference.queries.evidence import log_evidence

NEAR_ZERO = Settings(offset=2.0)
"""Offsets of at most a hundred standard deviations, at which float64 keeps ten digits."""


def in_data_units(values, one):
    """Parameters of the standardised data as those of the data."""
    y = one.data.values.double()
    unit, middle = float(y.std(correction=0)), float(y.mean())
    pace = 1.0 if one.data.times is None else float(one.data.times.std(correction=0))
    out = {}
    for name, value in values.items():
        if name == "mean":
            value = middle + unit * value
        elif name == "scale":
            value = unit * value
        elif "variance" in name:
            value = unit**2 * value
        elif name in ("rate", "jump_rate"):
            value = value / pace
        out[name] = value
    return out


@pytest.mark.parametrize("family", FAMILIES)
def test_the_constant_is_that_of_the_change_of_units(family):
    """log p(y) of both data at the same parameters, each in its units."""
    one = case(NEAR_ZERO, family, 3)
    model = one.model.scaled_to(one.standard)
    values = _drawn(model, 5)
    standard = float(log_evidence(model.laws(values, one.standard)).sum())
    counted = family in ("poisson", "categorical")
    moved = values if counted else in_data_units(values, one)
    found = float(log_evidence(one.model.laws(moved, one.data)).sum())
    assert found == pytest.approx(standard + one.constant, rel=1e-5, abs=1e-3)


def test_cases_are_reproducible_and_differ():
    one, again = (case(Settings(), "gaussian", 1) for _ in range(2))
    other = case(Settings(), "gaussian", 2)
    assert torch.equal(one.data.values, again.data.values)
    assert one.data.values.shape != other.data.values.shape or not torch.equal(
        one.data.values, other.data.values
    )


def test_free_numbers_stand_for_all_parameters():
    for family in FAMILIES:
        one = case(Settings(), family, 0)
        model = one.model.scaled_to(one.standard)
        values = _drawn(model, 1)
        free = Free(model)
        back = free.values(torch.from_numpy(free.vector(values)))
        for name, value in values.items():
            torch.testing.assert_close(back[name], value, rtol=1e-6, atol=1e-7)


def test_climbs_end_at_a_maximum_in_closed_form():
    """A local level whose level stands still is a mean: the likelihood cannot be below that of
    independent normal numbers, the diffuse mean integrated out."""
    one = case(Settings(), "local_level", 0)
    best = max(best_known(Settings(restarts=2), one, seed=0))
    z = one.standard.values[0, :, 0].double().numpy()
    n = len(z)
    # p(z) of a flat mean at its best variance Σ z² / (n − 1)
    variance = float((z**2).sum() / (n - 1))
    still = -0.5 * (n * np.log(2 * np.pi) + (n - 1) * np.log(variance) + np.log(n) + n - 1)
    assert best >= still - 1e-6


def test_a_miss_is_said_or_silent():
    cases = {
        "missed_by": np.array([0.0, 0.5, 0.3, 2.0, 0.0]),
        "converged": np.array([1.0, 0.0, 1.0, 1.0, 0.0]),
        "starts_agreeing": np.array([3.0, 3.0, 1.0, 3.0, 3.0]),
        "seconds": np.ones(5),
        "climbs_that_found_it": np.ones(5),
    }
    found = figures_of(cases)
    assert found["share_found"] == pytest.approx(0.4)
    assert (found["misses"], found["silent_misses"], found["false_alarms"]) == (3, 1, 1)
    assert found["largest_silent_miss"] == 2.0


def test_families_are_checked():
    with pytest.raises(ValueError, match=r"families: needs some of .* got \('normal',\)"):
        Settings(families=("normal",))


def test_climbs_are_kept_and_used_again(tmp_path, monkeypatch):
    settings = Settings(restarts=2, steps=5, climbs=str(tmp_path / "climbs"))
    one = case(settings, "gaussian", 0)
    found = best_known(settings, one, 1)
    monkeypatch.setattr(experiment, "minimize", None)
    assert best_known(settings, one, 1) == found
    with pytest.raises(TypeError):
        best_known(settings, one, 2)  # other starts, so other climbs
