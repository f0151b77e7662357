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
    Bernoulli,
    ContinuousTimeHMM,
    DeepMarkovModel,
    FromDistribution,
    FullGaussian,
    Gamma,
    GatedAccumulator,
    Gaussian,
    GaussianMixture,
    HiddenMarkovModel,
    Independent,
    LowRankGaussian,
    NeuralEmission,
    NodeEmission,
    Poisson,
    Regression,
    ResetModel,
    Sequences,
    SigmoidTransition,
    StudentT,
    SwitchingLinearSSM,
    Weibull,
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
    "gamma by mean": Member(HiddenMarkovModel(2, Gamma()), {"mean": scaled}, positive=True),
    "weibull by scale": Member(HiddenMarkovModel(2, Weibull()), {"scale": scaled}, positive=True),
    "channels": Member(
        HiddenMarkovModel(
            2, Independent(a=Gaussian(), b=StudentT(), c=FromDistribution(dist.Laplace))
        ),
        {
            **{f"{c}_{name}": move for c in "ab" for name, move in MEAN.items()},
            **{f"c_{name}": move for name, move in LOC.items()},
        },
        3,
    ),
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


FITTED = ("gaussian", "ordered", "inputs", "gamma")


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


# Times, inputs and other things that have units of their own


def panel(unit: float, of_inputs: float) -> Sequences:
    draw = torch.Generator().manual_seed(2)
    gaps = (8 * torch.rand(3, 12, generator=draw)).ceil().double() / 8
    codes = torch.randint(3, (3, 12), generator=draw)
    inputs = torch.randn(3, 12, 2, generator=draw).double()
    inputs[..., 1] = inputs[..., 1] > 0
    return Sequences.from_tensors(
        codes, codes=True, times=unit * gaps.cumsum(1), inputs=of_inputs * inputs
    )


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_rates_move_with_the_unit_of_time_and_effects_with_that_of_inputs(unit):
    model = ContinuousTimeHMM(3, inputs=2, errors=[(0, 1), (1, 0), (1, 2)])
    before, after = Begun.of(model, panel(1.0, 1.0)), Begun.of(model, panel(unit, 1 / unit))
    assert after.evidence == pytest.approx(before.evidence, abs=1e-8)
    for found, known in ((after.priors, before.priors), (after.starts, before.starts)):
        require_moved(found["jump_rate"], known["jump_rate"] / unit, 0.0, "jump_rate")
        require_moved(found["jump_effect"], known["jump_effect"] * unit, 0.0, "jump_effect")


def test_relaxation_rates_of_deep_models_move_with_the_unit_of_time():
    model = DeepMarkovModel(2, Gaussian(), timed=True, **_DEEP)
    data = MEMBERS["deep"].data()
    begun = []
    for unit in (1.0, 1e9):
        times = unit * torch.arange(24).expand(2, -1).square().double()
        given = Sequences.from_tensors(data.values[..., :1], times=times)
        begun.append(Begun.of(model, given))
    for found, known in zip(
        (begun[1].priors, begun[1].starts), (begun[0].priors, begun[0].starts), strict=True
    ):
        key = "transition_rate"
        require_moved(found[key], known[key] / 1e9, 0.0, key)


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_indicators_keep_their_unit_and_constants_have_one(unit):
    law = Regression(Gaussian(), inputs=3)
    inputs = torch.tensor([[[0.0, 2.0, 5.0], [1.0, 2.0, 7.0], [1.0, 2.0, 6.0]]]).double()
    found = law.scaled_to(Sequences.from_tensors(torch.randn(1, 3, 1), inputs=unit * inputs))
    assert found.input_scale == pytest.approx((unit, 2 * unit, unit * (2 / 3) ** 0.5))


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_nodes_read_inputs_in_any_unit(unit):
    member = MEMBERS["inputs"]
    law = SigmoidTransition(1, inputs=2)
    known, found = (
        law.scaled_to(member.data(of_inputs=each)).priors(2)["node_input"] for each in (1.0, unit)
    )
    torch.testing.assert_close(found.stddev * unit, known.stddev)


def test_inputs_far_from_zero_widen_the_prior_of_the_level_or_are_refused():
    """With inputs 5 ± 1, levels at zero lie up to some five spreads from the data."""
    draw = torch.Generator().manual_seed(1)
    y = torch.randn(1, 50, 1, generator=draw).double()
    u = torch.randn(1, 50, 1, generator=draw).double()
    u = (u - u.mean()) / u.std(correction=0)

    def scaled_to(base: Gaussian | Poisson, shift: float) -> Regression:
        values = y if isinstance(base, Gaussian) else y.abs().ceil()
        return Regression(base, inputs=1).scaled_to(
            Sequences.from_tensors(values, inputs=u + shift)
        )

    near, far = (scaled_to(Gaussian(), shift).priors(1) for shift in (0.0, 5.0))
    ratio = far["mean"].stddev / near["mean"].stddev
    torch.testing.assert_close(ratio, torch.full_like(ratio, 26**0.5))
    torch.testing.assert_close(far["input_weight"].stddev, near["input_weight"].stddev)
    for base, shift in ((Gaussian(), 2e4), (Poisson(), 20.0)):
        with pytest.raises(ValueError, match=r"data.inputs: needs columns .* subtract a typical"):
            scaled_to(base, shift)


def test_maxima_of_the_likelihood_do_not_depend_on_the_origin_of_inputs():
    member = MEMBERS["inputs"]
    found = []
    for shift in (0.0, 30.0):
        data = member.data()
        assert data.inputs is not None
        data = Sequences.from_tensors(data.values, inputs=data.inputs + shift)
        guide = BeliefGuide(member.model, ExactFilter(), parameters="ml")
        settings = FitSettings(restarts=2, steps=300)
        fitted = fit(member.model, guide, data, settings=settings, progress=False).fitted
        found.append(float(log_evidence(fitted.laws({}, data)).sum()))
    assert found[1] == pytest.approx(found[0], abs=1e-3)


@pytest.mark.parametrize("constant", [0.1, -3e9, 0.0])
def test_a_feature_that_never_varies_has_the_scale_of_its_size(constant):
    data = Sequences.from_arrays([[constant] * 7])
    scaled = Gaussian().scaled_to(data)
    assert scaled.location == (constant,)
    assert scaled.spread == (abs(constant) or 1.0,)


def test_what_a_user_says_of_a_prior_stays():
    """Factors of the spread follow the data only if the spread does."""
    data = MEMBERS["gaussian"].data()
    given = HiddenMarkovModel(2, Gaussian(spread=7.0)).adapted_to(data)
    mean = given.priors["mean"]
    assert mean.stddev.tolist() == [7.0, 7.0]
    again = HiddenMarkovModel(2, Gaussian()).adapted_to(data)
    assert again.adapted_to(MEMBERS["gaussian"].data(100.0)).emission == again.emission


def test_small_rates_and_probabilities_can_be_started_from():
    y = torch.zeros(1, 5000, 1)
    y[0, ::1000] = 1
    data = Sequences.from_tensors(y)
    values = starting_values(HiddenMarkovModel(1, Poisson()), data)
    assert float(values["rate"]) == pytest.approx(1e-3, rel=0.01)
    values = starting_values(HiddenMarkovModel(1, Bernoulli()), data)
    assert float(values["probs"]) == pytest.approx(1e-3, rel=0.01)
