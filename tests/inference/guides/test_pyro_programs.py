"""Every member is a Pyro program: Pyro's own tools take it, or refuse it in words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    MCMC,
    NUTS,
    SVI,
    Predictive,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.infer.inspect import get_model_relations, render_model

from beliefzoo.inference import (
    BeliefGuide,
    DeepGuide,
    ExactFilter,
    ForwardGuide,
    Guide,
    LSTMFilter,
    MeanFieldGuide,
    RegimeGuide,
    TrajectoryNetwork,
    collapsed,
    log_evidence,
    smooth,
)
from beliefzoo.models import (
    POMDP,
    BandedTransition,
    Categorical,
    ContinuousTimeHMM,
    DeepMarkovModel,
    GatedAccumulator,
    Gaussian,
    GaussianMixture,
    HiddenMarkovModel,
    InputTransition,
    LinearDynamics,
    LinearGaussianSSM,
    LinearSDE,
    LocalLevel,
    LowRankTransition,
    Model,
    Multinomial,
    NeuralEmission,
    NeuralTransition,
    PolicyReading,
    Regression,
    ResetModel,
    Sequences,
    SparseTransition,
    SwitchingLinearSSM,
    TemporalRBM,
    TemporalSigmoidBeliefNetwork,
    Uniform,
)

MEMBERS: dict[str, Callable[[], Model]] = {
    "poisson": lambda: HiddenMarkovModel(2, "poisson"),
    "ordered": lambda: HiddenMarkovModel(2, "gaussian", ordered=True, initial="stationary"),
    "symbols": lambda: HiddenMarkovModel(2, Categorical(3)),
    "counts": lambda: HiddenMarkovModel(2, Multinomial(3)),
    "mixture": lambda: HiddenMarkovModel(2, GaussianMixture(2)),
    "regression": lambda: HiddenMarkovModel(2, Regression(Gaussian(), lags=1)),
    "neural-emission": lambda: HiddenMarkovModel(2, NeuralEmission(Gaussian(), 2, 3)),
    "neural": lambda: HiddenMarkovModel(3, "gaussian", transition=NeuralTransition(2, 3)),
    "inputs": lambda: HiddenMarkovModel(2, "gaussian", transition=InputTransition(1)),
    "banded": lambda: HiddenMarkovModel(3, "poisson", transition=BandedTransition((0, 1))),
    "low-rank": lambda: HiddenMarkovModel(3, "poisson", transition=LowRankTransition(2)),
    "sparse": lambda: HiddenMarkovModel(
        3, "poisson", transition=SparseTransition([(0, 1), (1, 2), (2, 0)])
    ),
    "nodes": lambda: TemporalSigmoidBeliefNetwork(2, "gaussian"),
    "harmonium": lambda: TemporalRBM(2, "gaussian"),
    "accumulator": lambda: GatedAccumulator(4),
    "reset": ResetModel,
    "continuous-time": lambda: ContinuousTimeHMM(2, emission="gaussian"),
    "policy": lambda: PolicyReading(1, "gaussian", inputs=1),
    "actions": lambda: POMDP(2, 3, actions=2),
    "level": lambda: LinearGaussianSSM(LocalLevel(initial_variance=1.0)),
    "linear": lambda: LinearGaussianSSM(LinearDynamics(2)),
    "diffusion": lambda: LinearGaussianSSM(LinearSDE(1)),
    "switching": lambda: SwitchingLinearSSM(2, 1),
    "deep": lambda: DeepMarkovModel(2, "gaussian"),
}

N, T = 2, 4
CONTINUOUS = ["level", "linear", "diffusion", "deep"]
EXACT = [name for name in MEMBERS if name not in ("switching", "deep")]

nothing_to_enumerate = pytest.mark.filterwarnings(  # Pyro: says so of whole trajectories
    "ignore:TraceEnum_ELBO found no sample sites configured for enumeration"
)
every_member = pytest.mark.parametrize("name", MEMBERS)


def member(name: str) -> tuple[Model, Sequences]:
    """A model with unknown parameters and data of its own, ragged."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    model = MEMBERS[name]()
    given: dict[str, Any] = {}
    if model.inputs:
        given["inputs"] = torch.randn(N, T, model.inputs, dtype=torch.float64)
    if model.timed:
        given["times"] = torch.tensor([0.0, 0.5, 2.0, 2.5])
    if isinstance(model, POMDP):
        drawn = {name: prior.sample() for name, prior in model.priors.items()}
        known = model.with_parameters(**drawn)
        return model, known.rollout(Uniform(), episodes=N, length=T, seed=0).data
    return model, model.sample(N, [T, T - 1], seed=0, **given).data


def guide_of(model: Model) -> Guide:
    if isinstance(model, SwitchingLinearSSM):
        return RegimeGuide(model, LSTMFilter(3))
    return (
        DeepGuide(model, TrajectoryNetwork(3))
        if isinstance(model, DeepMarkovModel)
        else BeliefGuide(model, LSTMFilter(3))
    )


@every_member
def test_predictive(name: str) -> None:
    model, data = member(name)
    found = Predictive(model, num_samples=2)(data, observe=False)
    wanted = {*model.priors, "states", "obs"}
    assert {*found} == wanted
    assert found["obs"].shape == (2, *data.values.shape)
    guided = Predictive(model, guide=guide_of(model), num_samples=2)(data, observe=False)
    assert guided["obs"].shape == (2, *data.values.shape)
    assert not guided["obs"].isnan().any()


@every_member
def test_condition(name: str) -> None:
    """The density of the program at fixed values is the product of its laws."""
    model, data = member(name)
    with torch.no_grad():
        drawn = poutine.trace(model).get_trace(data)
        values = {key: drawn.nodes[key]["value"] for key in (*model.priors, "states")}
        again = poutine.trace(poutine.condition(model, values)).get_trace(data)
        laws = model.laws({key: values[key] for key in model.priors}, data)
        wanted = sum(float(prior.log_prob(values[key])) for key, prior in model.priors.items())
        wanted += float(laws.states().log_prob(values["states"]).sum())
        y = model.observations.read(data)[0]
        wanted += float(laws.observations(values["states"]).log_prob(y).sum())
    assert float(again.log_prob_sum()) == pytest.approx(wanted, rel=1e-6)
    assert np.isfinite(wanted)


@every_member
def test_relations_between_sites(name: str) -> None:
    """What ``render_model`` draws: parameters and states outside and inside the plate."""
    model, data = member(name)
    found = get_model_relations(model, (data,))
    assert {*found["sample_sample"]} == {*model.priors, "states", "obs"}
    assert found["plate_sample"] == {"sequence": ["states", "obs"]}
    assert found["observed"] == ["obs"]
    assert "states" in found["sample_sample"]["obs"]


@every_member
def test_render_model(name: str) -> None:
    """The source alone: a picture would need the program ``dot``."""
    model, data = member(name)
    drawn = render_model(model, (data,), render_distributions=True)
    assert all(site in drawn.source for site in (*model.priors, "states", "obs"))


@every_member
@nothing_to_enumerate
def test_elbos_of_pyro_are_the_bound(name: str) -> None:
    """Of discrete states all agree to rounding; of others the estimates have the same draws."""
    model, data = member(name)
    guide = guide_of(model)
    found, gradients = [], []
    for kind in (TraceMeanField_ELBO, Trace_ELBO, TraceEnum_ELBO):
        if name in ("switching", "deep") and kind is TraceMeanField_ELBO:
            continue
        guide.zero_grad()
        torch.manual_seed(1)
        loss = kind(max_plate_nesting=1).differentiable_loss(model, guide, data)
        loss.backward()
        found.append(float(loss.detach()))
        gradients.append([p.grad.clone() for p in guide.parameters() if p.grad is not None])
    assert np.isfinite(found).all()
    if name in CONTINUOUS or name == "switching":
        np.testing.assert_allclose(found[-1], found[-2], rtol=1e-6)
        return
    np.testing.assert_allclose(found, found[0], rtol=1e-6)
    for one in gradients[1:]:
        for mine, theirs in zip(one, gradients[0], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@nothing_to_enumerate
@pytest.mark.parametrize("guide", [ForwardGuide, MeanFieldGuide])
def test_elbos_of_other_guides(guide: type) -> None:
    model, data = member("poisson")
    drawn = {name: prior.sample() for name, prior in model.priors.items()}
    model = model.with_parameters(**drawn)
    own = guide(model, ExactFilter()) if guide is MeanFieldGuide else guide(model, LSTMFilter(3))
    with torch.no_grad():
        bound = float(own.posterior(model.laws({}, data)).elbo().sum())
    for kind in (TraceMeanField_ELBO, Trace_ELBO, TraceEnum_ELBO):
        assert -kind(max_plate_nesting=1).loss(model, own, data) == pytest.approx(bound, rel=1e-6)


@pytest.mark.parametrize("name", [name for name in MEMBERS if name not in CONTINUOUS])
def test_autoguides_and_nuts_refuse_discrete_states(name: str) -> None:
    model, data = member(name)
    way = "a RegimeGuide" if name == "switching" else r"collapsed\(model\)"
    for make in (AutoNormal, AutoDelta):
        with pytest.raises(ValueError, match=f"states: autoguides and NUTS need .* {way}"):
            make(model)(data)
    with pytest.raises(ValueError, match=f"states: autoguides and NUTS need .* {way}"):
        MCMC(NUTS(model), 1, warmup_steps=1, disable_progbar=True).run(data)


@pytest.mark.parametrize("name", EXACT)
def test_the_collapsed_program(name: str) -> None:
    """Its density is prior times evidence; an autoguide of Pyro takes it."""
    model, data = member(name)
    program = collapsed(model)
    guide = AutoNormal(program)
    loss = SVI(program, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(data)
    assert np.isfinite(loss)
    values = guide.median()
    assert {*values} == {*model.priors}
    with torch.no_grad():
        density = poutine.trace(poutine.condition(program, values)).get_trace(data).log_prob_sum()
        prior = sum(float(law.log_prob(values[key])) for key, law in model.priors.items())
    known = model.with_parameters(**values)
    assert float(density) == pytest.approx(prior + float(log_evidence(known, data).sum()), rel=1e-5)


def test_nuts_of_pyro_on_the_collapsed_program() -> None:
    model, data = member("poisson")
    kernel = NUTS(collapsed(model), max_tree_depth=2)
    chain = MCMC(kernel, 2, warmup_steps=2, disable_progbar=True)
    chain.run(data)
    assert {*chain.get_samples()} == {*model.priors}


def test_what_has_no_exact_evidence_does_not_collapse() -> None:
    with pytest.raises(ValueError, match="model: needs one whose hidden states can be integrated"):
        collapsed(MEMBERS["deep"]())
    with pytest.raises(ValueError, match=r"model: must be a model of .*, got 3"):
        collapsed(3)  # type: ignore[arg-type]


def test_soft_trajectories_have_no_density() -> None:
    """Neither those that somebody made up nor means that lost their law on the way."""
    model, data = member("poisson")
    states = model.laws(model.sample_parameters(), data).states()
    with pytest.raises(ValueError, match="states: needs trajectories with one 1 in each step"):
        states.log_prob(torch.full((N, T, 2), 0.5))
    with pytest.raises(ValueError, match="TraceMeanField_ELBO, Trace_ELBO and TraceEnum_ELBO"):
        TraceGraph_ELBO().loss(model, BeliefGuide(model, LSTMFilter(3)), data)


def test_predictions_of_a_guide_follow_drawn_paths() -> None:
    """Symbols that are states: their shares are the marginals, 5 standard errors (1 in 10^5)."""
    model = HiddenMarkovModel(2, Categorical(2)).with_parameters(
        initial=[0.5, 0.5], transition=[[0.7, 0.3], [0.4, 0.6]], probs=[[1.0, 0.0], [0.0, 1.0]]
    )
    data = Sequences.from_arrays([[0, float("nan"), float("nan"), 1]] * 1000, codes=True)
    draws = Predictive(model, guide=BeliefGuide(model, ExactFilter()), num_samples=2)
    share = draws(data, observe=False)["obs"].double().mean((0, 1))
    wanted = smooth(model, data)[0, :, 1]
    assert float((share - wanted).abs().max()) < 5 * (0.25 / 2000) ** 0.5
