"""The experiment on heart transplants: published figures, and its own small computations."""

from pathlib import Path

import arviz as az
import numpy as np
import pytest
import torch

from beliefzoo.experiments.data.loaders import load_heart_transplants
from beliefzoo.experiments.series import heart_transplant as experiment
from beliefzoo.experiments.series.parts.bayes import split_r_hat
from beliefzoo.experiments.series.parts.heart_models import survival
from beliefzoo.inference import log_evidence
from beliefzoo.models import Sequences


@pytest.fixture
def cav(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Sequences:
    monkeypatch.setenv("BELIEFZOO_DATA", str(shared_data))
    return load_heart_transplants()


def test_published_likelihoods(cav: Sequences) -> None:
    for row in experiment._at_fixed(cav).values():
        assert row["error"] < 1e-6


@pytest.mark.parametrize("name", ["markov", "hidden"])
def test_published_maxima(cav: Sequences, name: str) -> None:
    """At the printed estimates, whose digits leave the last of -2 log L open."""
    printed = experiment.PUBLISHED[name]
    values = {key: printed[key] for key in ("jump_rate", "error") if key in printed}
    model = experiment._model(name).with_parameters(**values)
    found = -2 * float(log_evidence(model, experiment._certain(cav)).sum())
    assert found == pytest.approx(printed["minus_twice_log_likelihood"], abs=6e-4)


def patients(codes: list[list[int]], times: list[list[float]]) -> Sequences:
    return Sequences.from_arrays(codes, times=times, codes=True, symbols=experiment.GRADES)


def test_the_first_grade_tells_nothing() -> None:
    data = experiment._certain(patients([[0, 1], [0], [0, 3]], [[0, 2], [0], [0, 1]]))
    assert data.labels == ("0", "2")
    assert not bool(data.mask[:, 0].any())
    assert bool(data.mask[:, 1].all())


def test_equal_gaps_leave_nothing_to_the_true_ones() -> None:
    known = experiment._model("hidden").with_parameters(**experiment.FIXED["hidden"]["values"])
    even = patients([[0, 1, 2, 1], [0, 0, 3]], [[0, 1.5, 3, 4.5], [0, 1.5, 3]])
    assert experiment._gap_at_the_mean_gap(known, even) == pytest.approx(0, abs=1e-12)
    uneven = patients([[0, 1, 2, 1], [0, 0, 3]], [[0, 0.1, 3, 4.5], [0, 2.5, 3]])
    assert experiment._gap_at_the_mean_gap(known, uneven) > 1e-4


def test_kaplan_and_meier_by_hand() -> None:
    """Deaths at 1 (4 at risk) and 3 (2 at risk); patients leave at 2 and 4."""
    data = patients(
        [[0, 3], [0, 1], [0, 3], [0, 0]], [[0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [0.0, 4.0]]
    )
    rates = torch.full((10, 7), 0.1, dtype=torch.float64)
    found = survival(data, {"markov": rates})
    years, alive = np.array(found["years"]), np.array(found["kaplan_meier"])
    wanted = np.where(years < 1, 1, np.where(years < 3, 3 / 4, 3 / 8))
    np.testing.assert_allclose(alive, wanted)
    assert found["markov"]["median"][0] == pytest.approx(1)


def test_split_r_hat_is_that_of_arviz() -> None:
    draws = np.exp(np.random.default_rng(0).normal(size=(4, 50, 2)) + np.arange(4)[:, None, None])
    wanted = max(
        float(np.asarray(az.rhat(np.log(draws[..., k]), method="split"))) for k in range(2)
    )
    assert split_r_hat(torch.from_numpy(draws).log()) == pytest.approx(wanted, rel=1e-6)


def test_what_falls_short_is_named() -> None:
    row = {"lstm": {"gap_per_visit": 1.0}}
    posterior = {"r_hat_largest": 1.0, "guide_mean_error_in_sd_largest": 0.0}
    figures = {
        "fixed_parameters": {},
        "maximum_likelihood": {"markov": {"above_published": 0.5}},
        "posterior": {"markov": posterior},
        "filters": {"patients": row},
    }
    found = experiment.not_reached(figures)
    assert found == [
        "minus_twice_log_likelihood_above_published (markov): 0.5, reach 0.01",
        "lstm_gap_per_visit (patients): 1, reach 0.001",
    ]
