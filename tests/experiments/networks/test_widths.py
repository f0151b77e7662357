"""Widths of what is known of parameters: closed forms, and those with the exact filter."""

import numpy as np
import torch

from beliefzoo.experiments.networks.parts.last_steps import climb, height
from beliefzoo.experiments.networks.parts.widths import (
    curvature,
    followed,
    free_numbers,
    with_precision,
)
from beliefzoo.inference import BeliefGuide, ExactFilter, LSTMFilter, NaturalLSTMFilter
from beliefzoo.models import HiddenMarkovModel


def counts_of_one_state():
    """A guide of counts of one rate, its data, and the conjugate law's shape and rate."""
    model = HiddenMarkovModel(1, "poisson")
    data = model.with_parameters(rate=[3.0]).sample(5, 8, seed=0)
    torch.manual_seed(0)
    guide = BeliefGuide(model, LSTMFilter(2), parameters="multivariate")
    prior = model.priors["rate"]
    shape, rate = (
        float(part.sum()) for part in (prior.base_dist.concentration, prior.base_dist.rate)
    )
    return guide, data.data, shape + float(data.data.values.sum()), rate + 40


def test_a_rate_climbs_to_the_mode_of_its_conjugate_law() -> None:
    guide, data, shape, rate = counts_of_one_state()
    climb(guide, data, 30, parameters=True)
    at = guide.median()["rate"].item()
    np.testing.assert_allclose(at, shape / rate, rtol=1e-6)  # of log λ, whose density is λ^a e^−bλ


def test_curvatures_are_those_of_the_conjugate_law() -> None:
    guide, data, shape, rate = counts_of_one_state()
    climb(guide, data, 30, parameters=True)
    np.testing.assert_allclose(curvature(guide, data).numpy(), [[shape]], rtol=1e-5)
    differences = shape * np.sinh(shape**-0.5) / shape**-0.5  # of e^v, one deviation to each side
    np.testing.assert_allclose(followed(guide, data, 2).numpy(), [[differences]], rtol=1e-5)
    twice = shape + 40 * shape / rate
    np.testing.assert_allclose(curvature(guide, data, 2.0).numpy(), [[twice]], rtol=1e-5)
    wide = with_precision(guide, curvature(guide, data))
    torch.manual_seed(1)
    spread = wide.draw_parameters(4000).values["rate"].detach().log().std()
    np.testing.assert_allclose(float(spread), shape**-0.5, rtol=0.05)


def test_a_network_that_follows_leaves_the_widths_of_the_exact_filter() -> None:
    truth = HiddenMarkovModel(2, "gaussian", initial="stationary").with_parameters(
        transition=[[0.9, 0.1], [0.2, 0.8]], mean=[-1.0, 1.0], scale=[1.0, 1.0]
    )
    data = truth.sample(30, 25, seed=1).data
    model = HiddenMarkovModel(2, "gaussian", initial="stationary", ordered=True)
    torch.manual_seed(0)
    guide = BeliefGuide(model, NaturalLSTMFilter(4, scale=25.0, sharpness=40.0)).fresh(
        {name: torch.as_tensor(truth.known[name]) for name in ("transition", "mean", "scale")}
    )
    guide.calibrate(data)
    climb(guide, data, 80)
    exact = BeliefGuide(model, ExactFilter()).fresh(guide.median())
    best = curvature(exact, data)
    still, moving = curvature(guide, data), followed(guide, data, 15)
    rates = slice(0, 2)
    far, near = (
        (table.diagonal()[rates] / best.diagonal()[rates]).log() for table in (still, moving)
    )
    assert bool((far > 0.1).all())  # a belief that stays makes other rates less likely
    assert bool((near.abs() < 0.6 * far).all())


def test_the_height_is_the_evidence_with_the_exact_filter() -> None:
    guide, data, _, _ = counts_of_one_state()
    exact = BeliefGuide(guide.model, ExactFilter())
    torch.testing.assert_close(height(guide, data), height(exact, data))


def test_free_numbers_name_each_parameter_once() -> None:
    values = {
        "transition": [[0.75, 0.25], [0.5, 0.5]],
        "initial": [1.0, 0.0],
        "mean": [[1.0], [2.0]],
    }
    assert free_numbers(values).tolist() == [0.25, 0.5, 1.0, 2.0]
