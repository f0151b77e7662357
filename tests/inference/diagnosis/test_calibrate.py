"""Simulation-based calibration of a conjugate model: right posteriors pass, spoiled ones do not."""

from functools import partial

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from beliefzoo.inference import (
    BeliefGuide,
    Calibration,
    ExactFilter,
    NutsFit,
    NutsSettings,
    calibrate,
    fit,
)
from beliefzoo.models import HiddenMarkovModel, Sequences

SHAPE, RATE = 4.0, 1.0
"""Of a gamma prior of one Poisson rate."""

MODEL = HiddenMarkovModel(
    1,
    "poisson",
    priors={"rate": dist.Gamma(torch.tensor([SHAPE]), torch.tensor([RATE])).to_event(1)},
)
LIKE = Sequences.from_arrays([[0] * 10])


def posterior(model, data, seed, *, shape=SHAPE, scale=1.0, ignore=False):
    """The exact posterior, for this prior, with its spread multiplied, or the prior itself."""
    y = [] if ignore else data.values[data.mask].numpy()
    law = stats.gamma(shape + np.sum(y), scale=1 / (RATE + len(y)))
    drawn = law.mean() + scale * (law.rvs((1, 99, 1), random_state=seed % 2**31) - law.mean())
    none = torch.zeros(1, 99)
    settings = NutsSettings(1, 99, 50, "kmeans", 0.9, 8, True)
    rate = torch.from_numpy(drawn).clamp_min(1e-6)
    return NutsFit(model, {"rate": rate}, none, none > 0, torch.ones(1), settings, seed, 0.0, {})


def flagged(**spoiled):
    found = calibrate(partial(posterior, **spoiled), MODEL, LIKE, name="m", progress=False)
    return found, found.flagged


def test_the_exact_posterior_passes():
    found, names = flagged()
    assert names == ()
    assert found.names == ("rate", "log likelihood")
    assert str(found).endswith("\ncalibrated")
    assert found.coverage(0.9) == pytest.approx(0.9, abs=0.1)


@pytest.mark.parametrize(
    ("spoiled", "name", "says"),
    [
        ({"scale": 0.7}, "rate", "too narrow"),
        ({"shape": 8.0}, "rate", "draws too high"),
        ({"ignore": True}, "log likelihood", "draws too low"),
    ],
    ids=["narrow", "another prior", "the prior itself"],
)
def test_spoiled_posteriors_are_named(spoiled, name, says):
    found, names = flagged(**spoiled)
    assert name in names
    line = next(line for line in str(found).splitlines() if line.startswith(name))
    assert line.endswith(says)


def test_the_judge_is_judged():
    """Of 100 sets of 200 ranks each: narrow draws are flagged, right ones hardly ever."""
    random = np.random.default_rng(1)

    def share(scale):
        found = []
        for _ in range(100):
            truth = random.normal(size=(200, 1))
            ranks = (scale * random.normal(size=(200, 99)) < truth).sum(1)[:, None]
            found.append(bool(Calibration(("mean",), ranks, 99).flagged))
        return sum(found)

    assert share(1.0) <= 10  # 5 expected, 10 has a probability of .01
    assert share(0.7) >= 95


def failing(model, data, seed):
    if seed % 2:
        raise ValueError("odd")
    return posterior(model, data, seed)


def test_failures_are_kept_and_results_used_again(tmp_path):
    options = {"replications": 12, "folder": tmp_path, "progress": False}
    found = calibrate(failing, MODEL, LIKE, **options)
    assert 0 < len(found.failures) < 12
    assert len(found.ranks) + len(found.failures) == 12
    again = calibrate(failing, MODEL, LIKE, **options)
    assert np.array_equal(found.ranks, again.ranks)
    assert f"{len(found.failures)} failed" in str(found)
    other = HiddenMarkovModel(
        1,
        "poisson",
        priors={"rate": dist.Gamma(torch.tensor([9.0]), torch.tensor([RATE])).to_event(1)},
    )
    assert repr(other) == repr(MODEL)
    assert not np.array_equal(calibrate(failing, other, LIKE, **options).ranks, found.ranks)


def test_refusals():
    def point(model, data, seed):
        guide = BeliefGuide(model, ExactFilter(), parameters="ml")
        return fit(model, guide, data, seed=seed, progress=False)

    few = {"replications": 2, "progress": False}
    with pytest.raises(ValueError, match="spread"):
        calibrate(point, MODEL, LIKE, **few)
    with pytest.raises(ValueError, match="return a fit"):
        calibrate(lambda model, data, seed: data, MODEL, LIKE, **few)
    with pytest.raises(ValueError, match="unknown parameters"):
        calibrate(posterior, MODEL.with_parameters(rate=[1.0]), LIKE, **few)
    with pytest.raises(ValueError, match="name"):
        calibrate(lambda *_: None, MODEL, LIKE, folder="somewhere", **few)
