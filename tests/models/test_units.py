"""No result depends on the unit, or on the origin, of the data, of inputs or of times."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from beliefzoo.inference import BeliefGuide, ExactFilter, FitSettings, fit, starting_values
from beliefzoo.inference.queries.evidence import log_evidence
from beliefzoo.models import (
    DeepMarkovModel,
    FromDistribution,
    FullGaussian,
    GatedAccumulator,
    Gaussian,
    GaussianMixture,
    HiddenMarkovModel,
    LowRankGaussian,
    NeuralEmission,
    NodeEmission,
    Regression,
    ResetModel,
    Sequences,
    StudentT,
    SwitchingLinearSSM,
)
from beliefzoo.models.model import Model
from beliefzoo.models.randomness import seeded

Move = Callable[[Tensor, float, float], Tensor]
"""A parameter of data c y + b, from that of data y."""


def located(x: Tensor, c: float, b: float) -> Tensor:
    return c * x + b


def scaled(x: Tensor, c: float, b: float) -> Tensor:
    del b
    return c * x


def rate(x: Tensor, c: float, b: float) -> Tensor:
    del b
    return x / c


def logarithm(x: Tensor, c: float, b: float) -> Tensor:
    del b
    return x + math.log(c)


@dataclass
class Member:
    """A model, and how its parameters move with the unit of the data."""

    model: Model
    moves: dict[str, Move]
    features: int = 1
    inputs: int = 0
    positive: bool = False
    fixed_origin: bool = False

    def data(self, c: float = 1.0, b: float = 0.0, of_inputs: float = 1.0) -> Sequences:
        """Numbers with few digits, so that a shift by a power of two loses none of them."""
        draw = torch.Generator().manual_seed(0)
        level = 3 * ((torch.arange(24)[:, None] // 4) % 2)
        y = (level + torch.randn(2, 24, self.features, generator=draw)).double()
        u = torch.randn(2, 24, max(self.inputs, 1), generator=draw).double()
        y, u = ((2**12 * x).round() / 2**12 for x in (y, u))
        y = (y / 2).exp() if self.positive else y
        inputs = u * of_inputs if self.inputs else None
        return Sequences.from_tensors(c * y + b, inputs=inputs)


MEAN: dict[str, Move] = {"mean": located, "scale": scaled}
LOC: dict[str, Move] = {"loc": located, "scale": scaled}
NODES: dict[str, Move] = {"node_loading": scaled, "node_intercept": located, "scale": scaled}
CAUSES: dict[str, Move] = {"loading": scaled, "intercept": located, "scale": scaled}
LINEAR: dict[str, Move] = {
    "loading": scaled,
    "intercept": located,
    "observation_scale": scaled,
}
STATE: dict[str, Move] = dict.fromkeys(
    ("drift", "noise_scale", "initial_mean", "initial_scale", "observation_scale"), scaled
)
_DEEP = {"transition_width": 4, "emission_width": 4}

MEMBERS = {
    "gaussian": Member(HiddenMarkovModel(2, Gaussian()), MEAN),
    "gaussian of two": Member(HiddenMarkovModel(2, Gaussian(2)), MEAN, 2),
    "ordered": Member(HiddenMarkovModel(2, Gaussian(), ordered=True), MEAN),
    "full gaussian": Member(HiddenMarkovModel(2, FullGaussian(2)), MEAN, 2),
    "low rank": Member(HiddenMarkovModel(2, LowRankGaussian(3)), MEAN | {"loading": scaled}, 3),
    "student": Member(HiddenMarkovModel(2, StudentT()), MEAN),
    "mixture": Member(HiddenMarkovModel(2, GaussianMixture()), MEAN),
    "inputs": Member(
        HiddenMarkovModel(2, Regression(Gaussian(), inputs=2)),
        MEAN | {"input_weight": scaled},
        1,
        2,
    ),
    "lags": Member(HiddenMarkovModel(2, Regression(Gaussian(2), lags=1)), MEAN, 2),
    "lags in a network": Member(
        HiddenMarkovModel(2, Regression(Gaussian(2), lags=1, width=3)), MEAN, 2
    ),
    "normal": Member(HiddenMarkovModel(2, dist.Normal), LOC),
    "laplace": Member(HiddenMarkovModel(2, dist.Laplace), LOC),
    "cauchy": Member(HiddenMarkovModel(2, dist.Cauchy), LOC),
    "t": Member(HiddenMarkovModel(2, FromDistribution(dist.StudentT, df=4.0)), LOC),
    "gumbel with inputs": Member(
        HiddenMarkovModel(2, Regression(FromDistribution(dist.Gumbel), inputs=1)),
        LOC | {"input_weight": scaled},
        1,
        1,
    ),
    "gamma": Member(HiddenMarkovModel(2, dist.Gamma), {"rate": rate}, positive=True),
    "log normal": Member(HiddenMarkovModel(2, dist.LogNormal), {"loc": logarithm}, positive=True),
    "weibull": Member(HiddenMarkovModel(2, dist.Weibull), {"scale": scaled}, positive=True),
    "exponential": Member(HiddenMarkovModel(2, dist.Exponential), {"rate": rate}, positive=True),
    "neural": Member(HiddenMarkovModel(2, NeuralEmission(FullGaussian(2), 4, 4)), {}, 2),
    "nodes": Member(HiddenMarkovModel(4, NodeEmission(2, Gaussian(2))), NODES, 2),
    "correlated nodes": Member(HiddenMarkovModel(4, NodeEmission(2, FullGaussian(2))), NODES, 2),
    "accumulator": Member(GatedAccumulator(24), CAUSES, 3),
    "reset": Member(ResetModel(leak=True), CAUSES, 2),
    "regimes": Member(SwitchingLinearSSM(2, 1, 2), LINEAR, 2),
    "correlated regimes": Member(
        SwitchingLinearSSM(2, 2, 2, noise="full", recurrent=True, switching_emission=True),
        LINEAR,
        2,
    ),
    "one regime": Member(SwitchingLinearSSM(1, 2), LINEAR),
    "known loading": Member(
        SwitchingLinearSSM(2, 1).with_parameters(loading=[[1.0]], intercept=[0.0]),
        STATE,
        fixed_origin=True,
    ),
    "deep": Member(DeepMarkovModel(2, Gaussian(2), autoregressive=True, **_DEEP), MEAN, 2),
    "deep with inputs": Member(DeepMarkovModel(2, Gaussian(2), inputs=2, **_DEEP), MEAN, 2, 2),
}


@dataclass
class Begun:
    """What a fit begins with: priors, by one draw from each, starts, and their evidence."""

    priors: dict[str, Tensor] = field(default_factory=dict)
    starts: dict[str, Tensor] = field(default_factory=dict)
    evidence: float = 0.0

    @classmethod
    def of(cls, model: Model, data: Sequences) -> Begun:
        model = model.adapted_to(data)
        with seeded(0):
            priors = {name: prior.sample() for name, prior in model.priors.items()}
        starts = starting_values(model, data)
        value = float(log_evidence(model.laws(starts, data)).sum()) if model.exact else math.nan
        return cls(priors, starts, value)


def require_moved(found: Tensor, expected: Tensor, origin: float, name: str) -> None:
    """To a part in a million, and to the spacing of float64 at the origin."""
    assert found.dtype == torch.float64, name
    size = float((expected - origin if origin else expected).abs().max())
    spacing = 4 * abs(origin) * torch.finfo(torch.float64).eps
    assert float((found - expected).abs().max()) <= 1e-6 * size + spacing, name


def of_other_inputs(name: str, value: Tensor, unit: float) -> Tensor:
    if name == "input_weight":
        return value / unit
    if name.endswith("weight0"):
        value = value.clone()
        value[2:4] /= unit
    return value


@pytest.mark.parametrize("name", MEMBERS)
def test_priors_and_starts_move_with_the_unit_of_the_data(name):
    member = MEMBERS[name]
    data = member.data()
    before = Begun.of(member.model, data)
    for c, b, unit in ((1e-9, 0.0, 1e9), (1e9, 0.0, 1e-9), (2.0**-10, 2.0**20, 1.0)):
        if b and (member.positive or member.fixed_origin):
            continue
        after = Begun.of(member.model, member.data(c, b, unit))
        for found, known in ((after.priors, before.priors), (after.starts, before.starts)):
            for key, value in known.items():
                move = member.moves.get(key)
                moved = value if move is None else move(value, c, b)
                moved = of_other_inputs(key, moved, unit) if member.inputs else moved
                require_moved(found[key], moved, b if move is located else 0.0, key)
        if member.model.exact:
            expected = before.evidence - data.n_observed * math.log(c)
            assert after.evidence == pytest.approx(expected, abs=1e-4)


FITTED = ("gaussian", "ordered", "inputs", "lags", "laplace", "gamma", "reset")


@pytest.mark.parametrize("name", FITTED)
def test_maxima_of_the_likelihood_move_with_the_unit_of_the_data(name):
    member = MEMBERS[name]
    settings = FitSettings(restarts=2, steps=300)

    def heights(c: float, b: float) -> float:
        data = member.data(c, b)
        guide = BeliefGuide(member.model, ExactFilter(), parameters="ml")
        found = fit(member.model, guide, data, settings=settings, progress=False).fitted
        return float(log_evidence(found.laws({}, data)).sum())

    data = member.data()
    before = heights(1.0, 0.0)
    for c, b in ((1e-9, 0.0), (1.0, 0.0 if member.positive else 2.0**30)):
        expected = before - data.n_observed * math.log(c)
        assert heights(c, b) == pytest.approx(expected, abs=1e-3)
