"""What a model does not read of its data is said once, with those that read it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    filter,
    fit,
    forecast,
    log_evidence,
)
from beliefzoo.models import (
    ContinuousTimeHMM,
    Gaussian,
    HiddenMarkovModel,
    LinearGaussianSSM,
    LinearSDE,
    LocalLevel,
    Regression,
    Sequences,
    UnreadWarning,
)


def data(gaps: list[float] | None = None, inputs: bool = False) -> Sequences:
    y = [0.3, 1.2, -0.4, 0.8]
    times = None if gaps is None else [torch.tensor([0.0, *gaps]).cumsum(0).numpy()]
    return Sequences.from_arrays([y], times=times, inputs=[y] if inputs else None)


def known() -> HiddenMarkovModel:
    return HiddenMarkovModel(1, "gaussian").with_parameters(mean=[0], scale=[1])


@pytest.fixture
def told() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


@pytest.mark.parametrize("gaps", [[1.0, 499.0, 1.0], [1.0, 1.0, 2.0], [0.0, 0.0, 1.0]])
def test_uneven_times_are_told_of_once(
    gaps: list[float], told: list[warnings.WarningMessage]
) -> None:
    model, uneven = known(), data(gaps)
    log_evidence(model, uneven)
    for query in (filter, log_evidence):
        query(model, uneven)
        query(model.with_parameters(mean=[1]), uneven)
    assert [one.category for one in told] == [UnreadWarning]
    message = str(told[0].message)
    assert message.startswith("data.times: HiddenMarkovModel reads none")
    assert f"steps that are {min(gaps):g} to {max(gaps):g} apart count alike" in message
    for way_out in ("ContinuousTimeHMM", "LinearSDE", "data.filled()", "data.without('times')"):
        assert way_out in message


def test_a_fit_tells_it_once(told: list[warnings.WarningMessage]) -> None:
    model = LinearGaussianSSM(LocalLevel())
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    uneven = data([1.0, 9.0, 1.0], inputs=True)
    settings = FitSettings(steps=2, restarts=1)
    result = fit(model, guide, uneven, settings=settings, progress=False)
    filter(result.fitted, uneven)
    said = [str(one.message) for one in told if one.category is UnreadWarning]
    assert len(said) == 2
    assert said[0].startswith("data.times: LinearGaussianSSM reads none")
    assert said[1].startswith("data.inputs: LinearGaussianSSM reads none")
    assert "Regression(…, inputs=…)" in said[1]


def test_even_times_tell_nothing() -> None:
    log_evidence(known(), data([2.0, 2.0, 2.0]))  # warnings are errors
    log_evidence(known(), data([31.0, 28.0, 31.0]))  # months
    log_evidence(known(), data([1.0, 499.0, 1.0]).without("times"))
    log_evidence(known(), data(inputs=True).without("inputs"))


def test_models_that_read_them_are_silent() -> None:
    uneven = data([1.0, 499.0, 1.0])
    times = ContinuousTimeHMM(states=1, emission=Gaussian()).with_parameters(mean=[0], scale=[1])
    log_evidence(times, uneven)
    model = HiddenMarkovModel(1, Regression(Gaussian(), inputs=1))
    log_evidence(
        model.with_parameters(mean=[0], scale=[1], input_weight=[[[1]]]), data(inputs=True)
    )
    LinearGaussianSSM(LinearSDE(1)).check(data([1.0, 499.0, 1.0]))


def test_actions_are_told_of() -> None:
    acted = Sequences.from_arrays([[0.1, 0.2]], actions=[[0, 1]])
    with pytest.warns(UnreadWarning, match=r"data\.actions: .* POMDP .* read them"):
        log_evidence(known(), acted)
    log_evidence(known(), acted.without("actions"))


@pytest.mark.parametrize("name", ["inputs", "times", "actions"])
@pytest.mark.parametrize("linear", [False, True])
def test_a_forecast_refuses_what_the_model_does_not_read(name: str, linear: bool) -> None:
    values = {"level_variance": 1, "observation_variance": 1}
    walk = LinearGaussianSSM(LocalLevel()).with_parameters(**values)
    with pytest.raises(ValueError, match=f"^{name}: .* reads none, got Tensor"):
        forecast(walk if linear else known(), data(), 2, **{name: torch.ones(1, 2)})  # type: ignore
