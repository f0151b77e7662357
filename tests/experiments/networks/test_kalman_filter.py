"""The experiment kalman-filter: its models, baselines and floors."""

import numpy as np
import pytest
import torch

from beliefzoo.experiments.networks.kalman_filter import (
    METHODS,
    Settings,
    simulated,
    weights_of_the_past,
)
from beliefzoo.experiments.networks.parts.gaussian_measures import moments
from beliefzoo.experiments.networks.parts.linear_cases import known_model
from beliefzoo.experiments.networks.parts.reference_filters import FixedGainFilter
from beliefzoo.inference import BeliefGuide, ExactFilter, MeanFieldGuide
from beliefzoo.inference.checking.best_gaussian import best_mean_field
from beliefzoo.inference.filters.gaussian_beliefs import GaussianBeliefs
from beliefzoo.inference.guides.gaussian_posteriors import GaussianMeanField

SMALL = Settings(rotation_length=12)


def test_the_scalar_walk_is_the_papers():
    """Moments of simulations against mean .05 t, variance 10 t; x given z as stated (4 sd)."""
    drawn = simulated(SMALL, "scalar", 4000, seed=0)
    z, x = drawn.states[..., 0].double(), drawn.data.values[..., 0].double()
    assert z.shape == (4000, 25)
    time = torch.arange(1.0, 26.0, dtype=torch.float64)
    assert bool(((z.mean(0) - 0.05 * time).abs() < 4 * (10 * time / 4000).sqrt()).all())
    assert bool(((z.var(0) / (10 * time) - 1).abs() < 4 * (2 / 4000) ** 0.5).all())
    residual = x - 0.5 * z
    assert float(residual.var()) == pytest.approx(20, rel=4 * (2 / 100_000) ** 0.5)
    assert bool(drawn.data.mask.all())


def test_elements_of_the_rotation_are_missing():
    drawn = simulated(SMALL, "rotation", 300, seed=0)
    nothing = ~drawn.data.mask.any(-1)
    assert int(nothing.sum(-1).min()) >= 5
    kept = float(drawn.data.mask[~nothing].double().mean())
    assert kept == pytest.approx(0.8, abs=0.03)
    steps = torch.linalg.eigvals(known_model("rotation").known["transition"]).abs()
    assert sorted(steps.tolist()) == pytest.approx([0.95, 0.95, 0.98, 0.98])


def test_the_fixed_gain_is_kalmans_in_the_long_run():
    model = known_model("scalar")
    data = model.sample(3, 60, seed=1).data
    laws = model.laws({}, data)
    exact, fixed = ExactFilter()(laws), FixedGainFilter()(laws)
    torch.testing.assert_close(fixed.mean[:, -1], exact.mean[:, -1], atol=1e-4, rtol=0)
    torch.testing.assert_close(fixed.covariance[:, -1], exact.covariance[:, -1])
    # In closed form: P = 5 + √(25 + 800) is what the variance grows to before each observation.
    grown = 5 + np.sqrt(825.0)
    assert float(fixed.covariance[0, 0]) == pytest.approx(grown - 10, rel=1e-9)


@pytest.mark.parametrize("case", ["scalar", "rotation"])
def test_the_best_mean_field_has_no_better_neighbour(case):
    """A stationary point of the bound in means and factors, below the evidence."""
    model = known_model(case)
    laws = model.laws({}, simulated(SMALL, case, 4, seed=3).data)
    best = best_mean_field(laws)
    inputs = [x.detach().clone().requires_grad_() for x in (best.beliefs.mean, best.beliefs.scale)]
    bound = GaussianMeanField(laws, GaussianBeliefs(*inputs)).elbo()
    in_mean, in_factor = torch.autograd.grad(bound.sum(), inputs)
    assert float(in_mean.abs().max()) < 1e-8
    assert float(in_factor.tril().abs().max()) < 1e-8  # a factor has nothing above its diagonal
    assert bool((bound < BeliefGuide(model, ExactFilter()).bound(laws)).all())
    assert bool((bound > MeanFieldGuide(model, ExactFilter()).bound(laws)).all())


def test_weights_of_the_past_are_those_of_the_recursion():
    """K_t Π (1 − K C), by the textbook recursion of the gain."""
    model = known_model("scalar")
    data = model.sample(2, 25, seed=0).data
    variance, gains = 0.0, []
    for _ in range(25):
        grown = variance + 10
        gains.append(0.5 * grown / (0.25 * grown + 20))
        variance = (1 - 0.5 * gains[-1]) * grown
    expected, kept = [], 1.0
    for gain in reversed(gains):
        expected.append(kept * gain)
        kept *= 1 - 0.5 * gain
    found = weights_of_the_past(ExactFilter(), model, data)
    np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-5)


def test_moments_are_the_beliefs():
    model = known_model("rotation")
    data = simulated(SMALL, "rotation", 5, seed=0).data
    ours = moments(BeliefGuide(model, FixedGainFilter()), data)
    beliefs = FixedGainFilter()(model.laws({}, data))
    torch.testing.assert_close(ours.mean, beliefs.mean)
    torch.testing.assert_close(ours.variance, beliefs.variance)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds: must be >= 1, got 0"),
        ({"rotation_length": 5}, "rotation_length: must be >= 8, got 5"),
        ({"missing": 1.0}, "missing: must be in"),
        ({"learning_rate": 0.0}, "learning_rate: must be finite and > 0"),
        ({"cases": ("scalar", "scalar")}, "cases: needs some of"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        Settings(**change)


def test_every_method_has_a_network_of_its_own_direction():
    assert {m.direction for m in METHODS.values()} == {"forward", "backward", "both"}
