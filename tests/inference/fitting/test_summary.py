"""The table of a fit: what stands in it, against the figures that it is made of."""

import math

import pytest
import torch

from beliefzoo.experiments.data.loaders import load_earthquakes
from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    fit,
    information_criteria,
    log_evidence,
)
from beliefzoo.inference.fitting.points.scalars import labels
from beliefzoo.inference.fitting.summary import SHOWN, Estimate
from beliefzoo.models import HiddenMarkovModel, LinearGaussianSSM, LocalLevel, Sequences, tiger

DATA = load_earthquakes()


def fitted(parameters, model=None, data=DATA, **settings):
    model = model or HiddenMarkovModel(2, "poisson", ordered=True, initial="stationary")
    guide = BeliefGuide(model, ExactFilter(), parameters=parameters)
    return fit(model, guide, data, settings=FitSettings(**settings), progress=False)


@pytest.mark.parametrize("linear", [False, True])
def test_likelihood_and_criteria_are_those_of_the_evidence(linear):
    model = LinearGaussianSSM(LocalLevel()) if linear else None
    data = Sequences.from_arrays([[1.0, math.nan, 3.0, 2.5, 1.5, 2.0, 4.0]]) if linear else DATA
    result = fitted("ml", model, data)
    facts = dict(result.summary().facts)
    criteria = information_criteria(result, data)
    assert facts["log likelihood"] == f"{criteria.log_likelihood:.4f} nats"
    assert facts["AIC"] == f"{criteria.aic:.2f}"
    assert facts["BIC"] == f"{criteria.bic:.2f}"
    assert facts["free parameters"] == str(criteria.parameters)
    assert facts["data"].startswith(f"1 sequence, {data.n_steps} steps")
    assert ("6 observed" in facts["data"]) is linear


def test_the_published_earthquakes_are_printed():
    """Zucchini, MacDonald & Langrock: rates 15.472, 26.125; AIC 692.64, BIC 703.33."""
    result = fitted("ml")
    printed = str(result)
    lines = {line.split("  ")[0]: line.split() for line in printed.splitlines()}
    assert lines["rate[0]"][1] == "15.472"
    assert lines["rate[1]"][1] == "26.125"
    assert "692.64" in printed
    assert "703.33" in printed
    assert "converged after" in printed
    assert result.restarts_agreeing is not None
    assert f"{result.restarts_agreeing} of them within 0.2 nats" in printed
    assert len(repr(result)) < 200


def test_the_mode_of_the_posterior_is_told_in_two_parts():
    result = fitted("map")
    facts = dict(result.summary().facts)
    evidence = float(log_evidence(result.fitted, DATA))
    prior = sum(
        float(result.model.priors[name].log_prob(value))
        for name, value in result.guide.median().items()
    )
    expected = f"{evidence + prior:.4f} nats, of which log p(y | θ) {evidence:.4f}"
    assert facts["log p(y, θ)"] == expected
    assert "AIC" not in facts


def test_a_normal_posterior_has_medians_and_quantiles():
    """Of positive scalars they are exp(m ± 1.96 s), up to the draws: .07 s is three errors."""
    result = fitted("normal", steps=30, restarts=1)
    summary = result.summary(seed=3)
    assert summary.columns == ("median", "sd", "2.5 %", "97.5 %")
    posterior = result.guide.parameter_posterior
    rows = {row.name: row for row in summary.estimates}
    row, place = rows["rate[0]"], posterior.coordinates.slices["rate"].start
    # The first of ordered rates has a coordinate of its own.
    ends = posterior.mean.detach().expand(2, -1).clone()
    half = 1.959964 * posterior.log_width.exp()[place]
    ends[:, place] += torch.stack([-half, half]).detach()
    low, high = posterior.coordinates.values(ends)["rate"][:, 0].log().tolist()
    middle = float(result.guide.median()["rate"][0].log())
    error = 0.1 * (high - low) / 4
    assert math.log(row.value) == pytest.approx(middle, abs=error)
    assert math.log(row.low) == pytest.approx(low, abs=error)
    assert math.log(row.high) == pytest.approx(high, abs=error)
    assert str(summary) == str(result.summary(seed=3))
    assert str(summary) != str(result.summary(seed=4))
    assert "k̂" in str(summary)


def test_long_tables_are_cut_and_say_so():
    states = 7
    result = fitted("ml", HiddenMarkovModel(states, "poisson"), steps=1, restarts=1)
    summary = result.summary()
    count = states + states**2 + states
    assert len(summary.estimates) == count
    assert f"… and {count - SHOWN} more, in summary().estimates" in str(summary)
    assert summary.estimates[SHOWN].name not in str(summary)


def test_scalars_are_named_as_the_axes_of_the_model():
    model = tiger()
    names = labels(model, "transition", model.known["transition"].shape)
    assert names[1] == "transition[listen, tiger-left, tiger-right]"
    assert len(names) == len(set(names)) == 12
    assert labels(HiddenMarkovModel(2, "poisson"), "rate", torch.Size([2])) == [
        "rate[0]",
        "rate[1]",
    ]
    assert labels(model, "other", torch.Size([2])) == ["other[0]", "other[1]"]
    assert labels(model, "single", torch.Size([])) == ["single"]


def test_the_ending_is_plain():
    told = fitted("ml", restarts=2).ending
    assert told["why_ended"] == "converged"
    assert told["converged"] is True
    assert told["starts"] == len(told["restart_bounds"]) == told["restarts_agreeing"] == 2
    assert 0 <= told["gradient_norm"] < 0.1
    assert set(fitted("ml", method="adam", steps=2).ending) == {"why_ended", "starts"}


def test_estimates_keep_the_digits_that_their_errors_leave() -> None:
    rows = Estimate("mean[0]", 1000001.98712, 0.0557, 1000001.87, 1000002.09)
    assert str(rows) == "mean[0]: 1000001.987 ± 0.0557 [1000001.87, 1000002.09]"
    assert str(Estimate("a", 1.000000123, 5.27e-8, 1.00000002, 1.0000002)).startswith(
        "a: 1.000000123"
    )
