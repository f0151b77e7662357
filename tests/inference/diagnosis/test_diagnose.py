"""A diagnosis tells good fits from spoiled ones, in words, in ArviZ and in a figure."""

import pytest
import torch

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    LSTMFilter,
    arviz_groups,
    diagnose,
    fit,
    nuts,
)
from beliefzoo.inference.diagnosis.checks import ended, judged, replicated, starts
from beliefzoo.models import HiddenMarkovModel, LinearGaussianSSM, LocalLevel, mess3


def chain():
    return HiddenMarkovModel(2, "poisson").with_parameters(
        initial=[0.5, 0.5], transition=[[0.95, 0.05], [0.05, 0.95]], rate=[2.0, 9.0]
    )


@pytest.fixture(scope="module")
def data():
    return chain().sample(3, 80, seed=1).data


def fitted(states, data, **how):
    model = HiddenMarkovModel(states, "poisson", ordered=states > 1).scaled_to(data)
    guide = BeliefGuide(model, ExactFilter(), parameters=how.pop("parameters", "ml"))
    settings = FitSettings(**how) if how else None
    return fit(model, guide, data, settings=settings, seed=0, progress=False)


def test_a_good_fit_passes(data):
    found = diagnose(fitted(2, data), data, draws=400, replications=200)
    assert found.verdict == "passes", str(found)
    assert "a point estimate has no spread" in found.left_out["k̂ of the parameters"]
    assert str(found).splitlines()[-1].endswith("0 look, 0 fail")


def test_a_state_too_few_fails_where_it_misses(data):
    found = diagnose(fitted(1, data), data, draws=400, replications=200)
    assert found["residuals independent, p"].verdict == "fails"
    assert found["replicated variance, tail"].verdict == "fails"
    assert "more states" in str(found)
    with pytest.raises(KeyError, match="exact"):
        found["evidence gap, nats a sequence"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_fit_that_did_not_arrive_is_told(data):
    found = ended(fitted(2, data, steps=1))
    assert found.verdict == "look"
    assert "not converged" in found.advice


def test_an_untrained_network_fails_and_a_trained_one_is_drawn(tmp_path):
    model, _ = mess3().model, torch.manual_seed(0)
    data = model.sample(60, 30, seed=0).data
    guide = BeliefGuide(model, LSTMFilter(8))
    settings = FitSettings(steps=1)
    result = fit(model, guide, data, settings=settings, seed=0, progress=False)
    found = diagnose(result, data, draws=100, replications=50)
    assert found["evidence gap, nats a sequence"].verdict == "fails"
    assert found["calibration error of beliefs"].verdict != "passes"
    titles = [axis.get_title() for axis in found.draw().axes]
    assert titles == [
        "Are the residuals uniform?",
        "Are they independent?",
        "States of simulated sequences",
    ]
    path = tmp_path / "diagnosis.nc"
    arviz_groups.write(found.to_arviz(), path)
    kept = arviz_groups.group(arviz_groups.read(path), "diagnosis")
    assert kept["verdict"].values.tolist() == [check.verdict for check in found.checks]
    assert kept["pit"].shape == (60, 30, 1)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_posteriors_and_chains(data):
    found = diagnose(
        fitted(2, data, parameters="multivariate", steps=150, parameter_learning_rate=0.05),
        data,
        draws=300,
        replications=100,
    )
    assert found["k̂ of the parameters"].verdict == "passes", str(found)
    model = HiddenMarkovModel(2, "poisson", ordered=True).scaled_to(data)
    result = nuts(model, data, chains=2, draws=40, warmup=40, progress=False)
    found = diagnose(result, data, draws=100, replications=50)
    assert found["smallest effective sample size"].verdict == "fails"  # of 80 draws
    assert "sums the states out" in found.left_out["evidence gap, nats a sequence"]


def test_continuous_states():
    truth = LinearGaussianSSM(LocalLevel(initial_variance=1.0)).with_parameters(
        observation_variance=1.0, level_variance=0.1
    )
    data = truth.sample(1, 120, seed=1).data
    model = LinearGaussianSSM(LocalLevel()).scaled_to(data)
    result = fit(
        model, BeliefGuide(model, ExactFilter(), parameters="ml"), data, seed=0, progress=False
    )
    found = diagnose(result, data, draws=100, replications=100)
    assert found.verdict == "passes", str(found)
    assert found.calibration is None


def test_verdicts_at_their_limits():
    assert [judged(x, (1.0, 2.0)) for x in (1.0, 1.5, 2.5, float("nan"))] == [
        "passes",
        "look",
        "fails",
        "look",
    ]
    assert [judged(x, (2.0, 1.0), high=True) for x in (2.0, 1.5, 0.5)] == [
        "passes",
        "look",
        "fails",
    ]
    row = {"observed": 10.0, "mean": 0.0, "sd": 1.0, "low": -2.0, "high": 2.0, "tail": 0.0}
    assert [check.verdict for check in replicated({"a": row})] == ["fails"]
    near = row | {"observed": 3.0}
    assert [check.verdict for check in replicated({"a": near})] == ["look"]


def test_one_start_of_several_is_told(data):
    assert starts(fitted(2, data)).verdict == "passes"
    assert starts(fitted(1, data, restarts=1)) is None


def test_refusals(data):
    with pytest.raises(ValueError, match="result"):
        diagnose("fit", data)
    with pytest.raises(ValueError, match="replications"):
        diagnose(fitted(1, data), data, replications=3)
