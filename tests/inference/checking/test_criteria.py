"""Information criteria: published tables, and counts by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from beliefzoo.experiments.data.loaders import load_earthquakes
from beliefzoo.inference import BeliefGuide, ExactFilter, FitSettings, fit
from beliefzoo.inference.checking.criteria import (
    InformationCriteria,
    free_parameters,
    information_criteria,
)
from beliefzoo.models import (
    HiddenMarkovModel,
    InputTransition,
    Sequences,
)

# Zucchini, MacDonald & Langrock: estimates, −log L, AIC and BIC of the earthquakes, stationary.
TWO = {"rate": [15.472, 26.125], "transition": [[0.9340, 0.0660], [0.1285, 0.8715]]}
THREE = {
    "rate": [13.14573, 19.72101, 29.71437],
    "transition": [
        [0.9546243, 0.0244426, 0.02093313],
        [0.04976679, 0.8993673, 0.05086592],
        [1.504e-09, 0.1966420, 0.80335799],
    ],
}
PUBLISHED = [
    (1, 391.9189, 785.84, 788.51),
    (2, 342.3183, 692.6365, 703.3278),
    (3, 329.4603, 676.9206, 700.9760),
    (4, 327.8316, 687.6632, 730.4284),
]


@pytest.mark.parametrize(("states", "minus_log_l", "aic", "bic"), PUBLISHED)
def test_formulas_give_the_published_table(states, minus_log_l, aic, bic):
    model = HiddenMarkovModel(states, "poisson", initial="stationary")
    count = free_parameters(model, model.priors, load_earthquakes())
    assert count == states + states * (states - 1)
    found = InformationCriteria(-minus_log_l, count, 107)
    assert found.aic == pytest.approx(aic, abs=5e-3)
    assert found.bic == pytest.approx(bic, abs=5e-3)


@pytest.mark.parametrize(("values", "row"), [(TWO, PUBLISHED[1]), (THREE, PUBLISHED[2])])
def test_published_estimates_give_the_published_table(values, row):
    states, minus_log_l, aic, bic = row
    known = HiddenMarkovModel(states, "poisson", initial="stationary").with_parameters(**values)
    found = information_criteria(known, load_earthquakes())
    # At rounded estimates near the maximum log L is lower, by a little.
    assert -found.log_likelihood == pytest.approx(minus_log_l, abs=2e-4)
    assert found.aic == pytest.approx(aic, abs=1e-3)
    assert found.bic == pytest.approx(bic, abs=1e-3)
    assert f"{aic:.2f}" in str(found)
    assert f"{bic:.2f}" in str(found)


# The published fits of depmixS4 to the response times of its data `speed`, with the estimates found
# by an independent optimiser (BFGS, SciPy) that reaches the published maxima.
SPEED = {
    "one": (
        {},
        (-305.3309, 2, 614.66, 622.83),
    ),
    "two": (
        {
            "initial": [0.0, 1.0],
            "transition": [[0.8835044047, 0.1164955953], [0.0843337306, 0.9156662694]],
            "mean": [5.5103552265, 6.3850470527],
            "scale": [0.1917434100, 0.2441640835],
        },
        (-88.7306, 7, 191.46, 220.05),
    ),
    "driven": (
        {
            "initial": [0.0, 1.0],
            "transition": [[0.7214982215, 0.2785017785], [0.0778801938, 0.9221198062]],
            "transition_weight": [
                [[-0.6961024476], [0.6961024476]],
                [[-1.7905515413], [1.7905515413]],
            ],
            "mean": [5.5073235573, 6.3856521309],
            "scale": [0.1867451680, 0.2418995767],
        },
        (-44.1995, 9, 106.40, None),
    ),
}


@pytest.mark.parametrize("name", SPEED)
def test_published_fits_of_response_times(shared_data, name):
    """One series of 439 trials; the accuracy's pay-off, standardised, drives the moves."""
    values, (log_l, count, aic, bic) = SPEED[name]
    table = np.genfromtxt(
        shared_data / "reports" / "speed.csv", delimiter=",", skip_header=1, usecols=(0, 2)
    )
    times, payoff = table.T
    driver = (payoff - payoff.mean()) / payoff.std(ddof=1)
    driven = name == "driven"
    data = Sequences.from_arrays([times], inputs=[driver[:, None]] if driven else None)
    law = InputTransition(1) if driven else None
    model = HiddenMarkovModel(1 if name == "one" else 2, "gaussian", transition=law)
    known = model.with_parameters(**(values or {"mean": [times.mean()], "scale": [times.std()]}))
    found = information_criteria(known, data)
    assert found.log_likelihood == pytest.approx(log_l, abs=1e-4)
    assert found.parameters == count
    assert found.aic == pytest.approx(aic, abs=5e-3)
    assert bic is None or found.bic == pytest.approx(bic, abs=5e-3)


def test_one_state_is_at_the_mean():
    data = load_earthquakes()
    mean = float(data.values.double().mean())
    known = HiddenMarkovModel(1, "poisson").with_parameters(rate=[mean])
    found = information_criteria(known, data)
    assert -found.log_likelihood == pytest.approx(391.9189, abs=1e-4)
    assert (found.aic, found.bic) == pytest.approx((785.84, 788.51), abs=5e-3)


def test_a_fit_counts_what_it_did_not_know():
    data = load_earthquakes()
    model = HiddenMarkovModel(2, "poisson", initial="stationary")
    half = model.with_parameters(rate=[15.472, 26.125])
    for unfitted, count in ((model, 4), (half, 2)):
        guide = BeliefGuide(unfitted, ExactFilter(), parameters="ml")
        result = fit(unfitted, guide, data, settings=FitSettings(steps=3), progress=False)
        found = information_criteria(result, data)
        assert found.parameters == count
        assert found.log_likelihood == information_criteria(result.fitted, data).log_likelihood
    assert information_criteria(result.fitted, data).parameters == 4
    assert information_criteria(result.fitted, data, parameters=2) == found


def test_steps_without_any_observation_do_not_count():
    y = torch.tensor([3.0, math.nan, 4.0, 5.0])
    data = Sequences.from_arrays([y.numpy(), y[:1].numpy()])
    known = HiddenMarkovModel(1, "poisson").with_parameters(rate=[4.0])
    found = information_criteria(known, data)
    assert found.observations == 4
    poisson = torch.distributions.Poisson(torch.tensor(4.0, dtype=torch.float64))
    by_hand = poisson.log_prob(torch.tensor([3.0, 4.0, 5.0, 3.0]).double()).sum()
    assert found.log_likelihood == pytest.approx(float(by_hand), abs=1e-12)
    assert found.bic == pytest.approx(-2 * float(by_hand) + math.log(4), abs=1e-12)


def test_bad_input():
    data = load_earthquakes()
    model = HiddenMarkovModel(2, "poisson")
    guide = BeliefGuide(model, ExactFilter(), parameters="map")
    result = fit(model, guide, data, settings=FitSettings(steps=1), progress=False)
    with pytest.raises(ValueError, match=r"result: .*parameters='ml', got 'map'"):
        information_criteria(result, data)
    with pytest.raises(ValueError, match="result: must be a Fit or a model, got int"):
        information_criteria(3, data)
    with pytest.raises(ValueError, match="parameters: needs values for"):
        information_criteria(model, data)
    with pytest.raises(ValueError, match="parameters: must be a whole number >= 0, got -1"):
        information_criteria(result.fitted, data, parameters=-1)
    symbols = Sequences.from_arrays([[-1.0, 2.0]])
    with pytest.raises(ValueError, match="data: Poisson needs"):
        information_criteria(result.fitted, symbols)


def test_other_data_than_those_of_the_fit_are_refused() -> None:
    data = Sequences.from_arrays([[0, 1, 7, 9], [8, 2, 1]])
    model = HiddenMarkovModel(1, "poisson")
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    result = fit(model, guide, data, progress=False)
    assert information_criteria(result, data).observations == 7
    for other, came in ((data[0], "1 sequences, 4 steps"), (data.head(3), "2 sequences, 6 steps")):
        with pytest.raises(ValueError, match=f"data: must be those of the fit, 2 .* got {came}"):
            information_criteria(result, other)
