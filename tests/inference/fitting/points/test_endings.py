"""What fit says of its end: warnings of their own category, and the words in them."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from beliefzoo.inference import (
    BeliefGuide,
    ConvergenceWarning,
    ExactFilter,
    FitSettings,
    LSTMFilter,
    fit,
    load_fit,
    log_evidence,
    save_fit,
    to_arviz,
)
from beliefzoo.inference.fitting.points.ascent import Ascent
from beliefzoo.inference.fitting.points.endings import doubts
from beliefzoo.inference.guides.coordinates import Coordinates
from beliefzoo.models import HiddenMarkovModel, LinearGaussianSSM, LocalLevel, Sequences, StudentT

ONE = HiddenMarkovModel(1, "poisson")
COUNTS = Sequences.from_arrays([[1, 0, 1, 9, 8, 9, 0, 1, 12, 7]])


def fitted(model, data, **settings):
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    return fit(model, guide, data, settings=FitSettings(**settings), progress=False)


def test_steps_used_up_says_what_a_newton_step_would_gain():
    model = HiddenMarkovModel(2, "poisson", ordered=True)
    with pytest.warns(ConvergenceWarning, match="fit: not converged, steps used up") as caught:
        short = fitted(model, COUNTS, steps=3, restarts=1)
    assert caught[0].filename == __file__
    assert short.converged is False
    (said,) = short.warnings
    promised = float(re.search(r"would gain (\S+) nats", said)[1])
    assert promised > 1e-4
    whole = fitted(model, COUNTS, restarts=1)
    gained = (short.losses[-1] - whole.losses[-1]).item() * 10
    assert gained > 0
    assert 0.2 * gained < promised < 5 * gained  # a Newton step is not all, but it tells the size


def test_a_maximum_inside_is_no_reason_to_warn(recwarn):
    result = fitted(HiddenMarkovModel(1, "poisson"), COUNTS)
    assert result.converged
    assert result.warnings == ()
    assert not [one for one in recwarn if one.category is ConvergenceWarning]


def test_a_state_on_a_single_value_is_named():
    """Three equal values far from the others: the likelihood of a state on them has no maximum."""
    rng = np.random.default_rng(0)
    y = [*rng.normal(size=15), 7.0, 7.0, 7.0, *rng.normal(size=12)]
    model, data = HiddenMarkovModel(2, "gaussian"), Sequences.from_arrays([y])
    with pytest.warns(ConvergenceWarning, match="unbounded") as caught:
        result = fitted(model, data, restarts=1)
    spike = int(result.fitted.known["mean"].flatten().argmax())
    assert f"scale[{spike}" in str(caught[0].message)
    assert "→ 0 (now" in str(caught[0].message)
    assert f"scale[{1 - spike}" not in str(caught[0].message)
    assert result.why_ended == "unbounded"
    assert result.converged is False
    assert set(result.standard_errors().reasons["mean"]) == {"unbounded"}
    assert "AIC" not in str(result)


def test_a_likelihood_without_bound_is_named_beside_its_best_maximum():
    """A state on the two equal values rises without end, whatever the estimate is."""
    rng = np.random.default_rng(0)
    y = [*rng.normal(-3, 1, 30), *rng.normal(3, 1, 15), 9.0, 9.0, *rng.normal(3, 1, 15)]
    model, data = HiddenMarkovModel(3, "gaussian"), Sequences.from_arrays([y])
    with pytest.warns(ConvergenceWarning, match="starts rose above this maximum without end"):
        result = fitted(model, data)
    assert result.converged
    assert result.restarts_unbounded
    best = [float(log_evidence(result.fitted, data).sum())]
    for scale in (1e-20, 1e-40):
        spike = {
            "initial": [0.8, 0.1, 0.1],
            "transition": [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.1, 0.4, 0.5]],
            "mean": [-3.0, 3.0, 9.0],
            "scale": [1.0, 1.0, scale],
        }
        best.append(float(log_evidence(model.with_parameters(**spike), data).sum()))
    assert best == sorted(best)
    assert result.ending["restarts_unbounded"] == result.restarts_unbounded
    assert "rose without end: a local maximum" in str(result)
    assert fitted(HiddenMarkovModel(1, "gaussian"), data).restarts_unbounded == 0


@pytest.mark.filterwarnings("ignore:fit. states")  # one state is enough for one value
def test_a_scale_that_still_falls_when_steps_are_used_up_is_named():
    """All values are equal: the mean never meets them exactly, and no steps would be enough."""
    data = Sequences.from_arrays([[3.7] * 30])
    with pytest.warns(ConvergenceWarning, match=r"no maximum: .*scale\[\d\] → 0 \(now"):
        fitted(HiddenMarkovModel(2, "gaussian"), data, steps=60)


def test_starts_on_their_way_to_the_best_height_agree(recwarn):
    """All of them lead to the one maximum of two far rates of large counts, none all the way."""
    rates = np.where(np.arange(200) // 20 % 2, 1e6, 1.01e6)
    counts = np.random.default_rng(0).poisson(rates)
    fitted(HiddenMarkovModel(2, "poisson", ordered=True), Sequences.from_arrays([counts]))
    assert not [w for w in recwarn if w.category is ConvergenceWarning]


def test_a_series_without_noise_is_named():
    with pytest.warns(ConvergenceWarning, match="unbounded: .*variance → 0"):
        fitted(LinearGaussianSSM(LocalLevel()), Sequences.from_arrays([[5.0] * 6]))


def as_tensors(values):
    return {name: torch.tensor(x, dtype=torch.float64) for name, x in values.items()}


def ascent(**changes):
    zero = torch.zeros(1, dtype=torch.float64)
    found = Ascent(zero, -10.0, zero, "converged", (), (-10.0,), (-10.0,), None, None)
    return dataclasses.replace(found, **changes)


def test_starts_that_rose_without_end_do_not_agree():
    found = ascent(heights=(-3.0, -9.9, -10.0, -12.0))
    assert (found.agreeing, found.above) == (2, 1)
    alone = doubts(ascent(heights=(-3.0, -4.0, -10.0, -12.0)), ONE, Coordinates(ONE.priors, {}, {}))
    assert re.search("only one of 4 starts .* 2 nats below", alone[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heights": (-10.0, -10.1, -12.0, -13.0)}, ()),
        ({"heights": (-10.0, -12.0, -13.0)}, ()),
        ({"heights": (-10.0, -13.0, -12.5, -14.0)}, ("only one of 4 starts .* 2.5 nats below",)),
        ({"why": "stalled", "promise": 0.5}, ("stalled: a Newton step would gain 0.5 nats",)),
        ({"why": "stalled", "promise": float("inf")}, ("this is a saddle",)),
        ({"why": "steps used up"}, ("steps used up: the curvature is not known",)),
    ],
)
def test_words(changes, words):
    found = doubts(ascent(**changes), ONE, Coordinates(ONE.priors, {}, {}))
    assert len(found) == len(words)
    assert all(re.search(word, said) for word, said in zip(words, found, strict=True))


def test_what_was_said_is_saved(tmp_path):
    model = HiddenMarkovModel(2, "poisson", ordered=True)
    with pytest.warns(ConvergenceWarning):
        result = fitted(model, COUNTS, steps=2)
    again = load_fit(save_fit(result, tmp_path / "fit.pt"))
    assert again.warnings == result.warnings != ()
    assert again.extent == result.extent
    assert again.converged is False
    assert again.gradient_norm == result.gradient_norm
    assert torch.equal(again.curvature, result.curvature)
    assert torch.equal(again.restart_bounds, result.restart_bounds)
    assert again.restarts_agreeing == result.restarts_agreeing
    assert str(again) == str(result)
    few = {"draws": 2, "state_draws": 1, "predictive_draws": 0, "prior_draws": 0}
    exported = to_arviz(again, COUNTS, **few)
    assert json.loads(exported.attrs["ending"]) == result.ending


def test_patience_and_frozen_weights_say_why_they_ended():
    """Kept weights learn nothing: the bound on held-out sequences never gets better."""
    model = HiddenMarkovModel(2, "poisson").with_parameters(
        initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], rate=[1.0, 6.0]
    )
    data = model.sample(30, 3, seed=0).data
    settings = FitSettings(
        steps=40, evaluate_every=1, patience=2, holdout=0.2, sleep_steps=0, learning_rate=1e-12
    )
    guide = BeliefGuide(
        model, LSTMFilter(network=torch.nn.LSTM(2, 2, batch_first=True), frozen=True)
    )
    result = fit(model, guide, data, settings=settings, progress=False)
    assert result.why_ended == "no better bound on held-out sequences"
    assert len(result.losses) < 40
    assert "no better bound on held-out sequences" in str(result)


@pytest.mark.parametrize(
    ("ys", "words"),
    [
        ([[1.0]], "level_variance, observation_variance: 1 .* 2 parameters and 1 flat first"),
        ([[1.0, 2.0]], "level_variance: 2 observed numbers"),
        ([[1.0], [2.0]], "level_variance, observation_variance: .* and 2 flat first states"),
        ([[1.0, 4.0], [2.0, 1.0]], "level_variance, observation_variance: 4 observed numbers"),
    ],
)
def test_variances_that_too_few_numbers_leave_open_are_named(ys, words):
    """Of series of two with flat levels the evidence knows q + 2 r alone, of one nothing."""
    model, data = LinearGaussianSSM(LocalLevel()), Sequences.from_arrays(ys)
    with pytest.warns(ConvergenceWarning, match=f"do not determine {words}"):
        result = fitted(model, data)
    assert len(result.warnings) == 1
    assert result.warnings[0] in str(result)


def test_what_few_numbers_determine_is_not_warned_of():
    """A maximum at the boundary, variances that are known, and a prior that says enough."""
    level = LinearGaussianSSM(LocalLevel())
    three = Sequences.from_arrays([[1.0, 2.5, 1.2]])
    assert fitted(level, three).warnings == ()
    two = Sequences.from_arrays([[1.0, 2.0]])
    assert fitted(level.with_parameters(level_variance=0.0), two).warnings == ()
    guide = BeliefGuide(level, ExactFilter(), parameters="map")
    assert fit(level, guide, two, progress=False).warnings == ()


@pytest.mark.parametrize("last", [0.5, 0.007, 1e-5])
def test_moves_from_a_state_that_is_left_by_the_end_are_not_determined(last):
    """Of two counts by two states, the second state's moves have no part in the evidence, wherever
    their climb starts; the first state's are at the boundary."""
    model, data = HiddenMarkovModel(2, "poisson"), Sequences.from_arrays([[1, 2]])
    start = {"transition": [[0.5, 0.5], [last, 1 - last]], "rate": [1.2, 1.8]}
    with pytest.warns(ConvergenceWarning, match=r"transition\[1, 0\], transition\[1, 1\]: 2 obs"):
        result = fitted(model, data, restarts=1, start=as_tensors(start))
    assert result.standard_errors().reasons["transition"][:2] == ("at the boundary",) * 2


def test_many_starts_do_not_hide_what_is_not_determined():
    with pytest.warns(ConvergenceWarning, match=r"do not determine transition\[\d, 0\]"):
        fitted(HiddenMarkovModel(2, "poisson"), Sequences.from_arrays([[1, 2]]))


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_a_law_that_ends_as_a_simpler_one_has_a_maximum_there(seed, recwarn):
    random = np.random.default_rng(seed)
    level = np.where(np.cumsum(random.random(160) < 0.1) % 2, 1.0, -1.0)
    data = Sequences.from_arrays([level + random.uniform(-0.6, 0.6, 160)])  # no heavy tails
    heights = []
    for family in ("gaussian", StudentT()):
        model = HiddenMarkovModel(2, family)
        guide = BeliefGuide(model, ExactFilter(), parameters="ml")
        result = fit(model, guide, data, seed=0, progress=False)
        assert result.converged
        heights.append(float(log_evidence(result.fitted, data).sum()))
        best = float(result.restart_bounds.max()) * data.n_steps
        assert heights[-1] == pytest.approx(best, abs=1e-6)
    assert heights[1] == pytest.approx(heights[0], abs=1e-3)
    assert not recwarn
