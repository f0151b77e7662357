"""Guides: their closed forms against sums over all paths, and against the evidence."""

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from beliefzoo.inference import (
    BayesianRecurrentFilter,
    BeliefGuide,
    CRFFilter,
    ElmanFilter,
    ExactFilter,
    FitSettings,
    ForwardGuide,
    GRUFilter,
    LSTMFilter,
    MeanFieldGuide,
    MEMMFilter,
    NaturalLSTMFilter,
    fit,
    log_evidence,
    smooth,
)
from beliefzoo.inference.guides.parameters import UNCERTAINTIES
from beliefzoo.inference.guides.posteriors import Backward
from beliefzoo.models import (
    Categorical,
    DeepMarkovModel,
    Gaussian,
    HiddenMarkovModel,
    Independent,
    InputTransition,
    NeuralTransition,
    Sequences,
    SwitchingLinearSSM,
    TemporalRBM,
    TemporalSigmoidBeliefNetwork,
)


def known_case(kind="plain", lengths=(4, 2, 1)):
    """A model with known parameters and data; ragged, with a missing step."""
    inputs = None
    if kind == "inputs":
        model = HiddenMarkovModel(3, "gaussian", transition=InputTransition(1))
        inputs = torch.randn(len(lengths), max(lengths), 1, dtype=torch.float64)
    elif kind == "neural":
        model = HiddenMarkovModel(3, "gaussian", transition=NeuralTransition(4, 5))
    elif kind == "nodes":
        model = TemporalSigmoidBeliefNetwork(2, "gaussian")
    elif kind == "harmonium":
        model = TemporalRBM(2, "gaussian")
    elif kind == "channels":
        model = HiddenMarkovModel(3, Independent(rt=Gaussian(), kind=Categorical(3)))
    else:
        model = HiddenMarkovModel(3, "gaussian")
    drawn = model.sample(len(lengths), list(lengths), seed=1, inputs=inputs)
    arrays = drawn.data.arrays()
    arrays[0][1] = np.nan
    data = Sequences.from_arrays(
        arrays,
        inputs=None
        if inputs is None
        else [u[:n].numpy() for u, n in zip(inputs, lengths, strict=True)],
    )
    return model.with_parameters(**drawn.parameters), data


GUIDES = {
    "belief-exact": lambda m: BeliefGuide(m, ExactFilter()),
    "belief-lstm": lambda m: BeliefGuide(m, LSTMFilter(5)),
    "belief-natural": lambda m: BeliefGuide(m, NaturalLSTMFilter(3)),
    "belief-likelihoods": lambda m: BeliefGuide(m, GRUFilter(5, reads="likelihoods")),
    "belief-field": lambda m: BeliefGuide(m, CRFFilter()),
    "belief-entropy-model": lambda m: BeliefGuide(m, MEMMFilter()),
    "belief-bayesian-units": lambda m: BeliefGuide(m, BayesianRecurrentFilter()),
    "forward-causal": lambda m: ForwardGuide(m, ElmanFilter(5)),
    "forward-bidirectional": lambda m: ForwardGuide(m, LSTMFilter(5, direction="both")),
    "mean-field": lambda m: MeanFieldGuide(m, LSTMFilter(5, direction="both")),
    "mean-field-exact": lambda m: MeanFieldGuide(m, ExactFilter()),
}
every_guide = pytest.mark.parametrize("make", GUIDES.values(), ids=GUIDES)
KINDS = ["plain", "channels", "inputs", "neural", "nodes", "harmonium"]
every_model = pytest.mark.parametrize("kind", KINDS)


@every_guide
@every_model
def test_posterior_is_what_the_sum_over_paths_says(make, kind):
    """Normalised, with the stated marginals, KL and ELBO: all by enumeration."""
    model, data = known_case(kind)
    laws, states = model.laws({}, data), model.states
    posterior = make(model).posterior(laws)
    bound = posterior.elbo().detach()
    for n, length in enumerate(data.lengths.tolist()):
        paths = torch.full((states**length, len(data), data.max_length), -1)
        paths[:, n, :length] = torch.tensor(list(itertools.product(range(states), repeat=length)))
        log_q = posterior.path_log_prob(paths)[:, n].detach()
        log_p = (posterior.chain_log_prob(paths) + posterior.emission_log_prob(paths))[:, n]
        assert float(log_q.logsumexp(0)) == pytest.approx(0, abs=1e-9)
        expected = (log_q.exp() * (log_p - log_q)).sum()
        assert float(bound[n]) == pytest.approx(float(expected), abs=1e-8)
        assert float(log_p.logsumexp(0)) == pytest.approx(float(log_evidence(model, data)[n]))
        for t in range(length):
            for k in range(states):
                total = log_q.exp()[paths[:, n, t] == k].sum()
                got = posterior.mean[n, t, k].detach()
                assert float(total) == pytest.approx(float(got), abs=1e-7)
    beyond = posterior.mean[~data.step_mask]
    assert bool((beyond == 0).all())


@every_model
def test_exact_filter_makes_the_elbo_the_evidence(kind):
    model, data = known_case(kind)
    loss = TraceMeanField_ELBO().loss(model, BeliefGuide(model, ExactFilter()), data)
    evidence = float(log_evidence(model, data).sum())
    assert -loss == pytest.approx(evidence, rel=1e-12)
    posterior = BeliefGuide(model, ExactFilter()).posterior(model.laws({}, data))
    torch.testing.assert_close(posterior.mean, smooth(model, data), atol=1e-12, rtol=0)


@every_model
def test_the_bound_of_the_exact_filter_is_that_of_its_posterior(kind):
    """Value and gradient: no gradient flows through its beliefs, where the bound is stationary."""
    model, data = known_case(kind)
    found = []
    for way in (BeliefGuide.bound, lambda guide, laws: guide.posterior(laws).elbo()):
        leaves = {name: value.clone().requires_grad_() for name, value in model.known.items()}
        bound = way(BeliefGuide(model, ExactFilter()), model.laws(leaves, data))
        weighted = (bound * torch.tensor([1.0, -2.0, 0.5])).sum()
        found.append([bound, *torch.autograd.grad(weighted, list(leaves.values()))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@every_guide
def test_pyro_computes_the_same_bound(make):
    """Plain TraceMeanField_ELBO in Pyro is the closed form, and free of noise."""
    model, data = known_case()
    guide = make(model)
    bound = guide.posterior(model.laws({}, data)).elbo().sum().item()
    losses = [TraceMeanField_ELBO().loss(model, guide, data) for _ in range(2)]
    assert losses[0] == losses[1] == pytest.approx(-bound, rel=1e-12)


def test_a_sampling_elbo_agrees_with_the_closed_form():
    """Pyro's Trace_ELBO on hard trajectories: mean of 2000 within 5 standard errors (1 in 10^6)."""
    model, data = known_case()
    guide = BeliefGuide(model, LSTMFilter(5))
    posterior = guide.posterior(model.laws({}, data))
    paths = posterior.sample_paths(2000)
    draws = (
        posterior.chain_log_prob(paths)
        + posterior.emission_log_prob(paths)
        - posterior.path_log_prob(paths)
    )
    error = (draws.mean(0) - posterior.elbo()).abs() / (draws.std(0) / 2000**0.5 + 1e-12)
    assert error.max().item() < 5


@every_guide
def test_sampled_paths_have_the_marginals(make):
    """4000 paths: every frequency within 5 standard errors of its marginal (1 in 10^5)."""
    model, data = known_case()
    posterior = make(model).posterior(model.laws({}, data))
    hard = posterior.sample((4000,))
    mean = posterior.mean.detach()
    assert hard.shape == (4000, *posterior.mean.shape)
    assert bool((hard.sum(-1) == data.step_mask).all())
    spread = (mean * (1 - mean) / 4000).sqrt() + 1e-9
    assert float(((hard.mean(0) - mean).abs() / spread).max()) < 5
    torch.testing.assert_close(
        posterior.log_prob(hard), posterior.path_log_prob(posterior_paths(hard, data))
    )


def posterior_paths(hard, data):
    return hard.argmax(-1).masked_fill(~data.step_mask, -1)


@pytest.mark.parametrize("make", list(GUIDES.values())[1:], ids=list(GUIDES)[1:])
def test_bounds_stay_below_the_evidence(make):
    model, data = known_case()
    bound = make(model).posterior(model.laws({}, data)).elbo()
    assert bool((bound <= log_evidence(model, data) + 1e-9).all())


def test_the_exact_guide_has_the_evidences_gradient():
    """No gradient passes through the exact beliefs, yet the parameters' gradient is exact."""
    torch.set_default_dtype(torch.float64)
    model = HiddenMarkovModel(3, "poisson")
    drawn = model.sample(4, [6, 3, 1, 5], seed=0)
    values = {n: v.double().requires_grad_() for n, v in drawn.parameters.items()}
    guide = BeliefGuide(model, ExactFilter())
    bound = guide.posterior(model.laws(values, drawn.data)).elbo().sum()
    from_bound = torch.autograd.grad(bound, list(values.values()))
    evidence = log_evidence(model.with_parameters(**values), drawn.data).sum()
    from_evidence = torch.autograd.grad(evidence, list(values.values()))
    # Along the simplex only: with_parameters normalises rows, laws() takes them as they are.
    for name, a, b in zip(values, from_bound, from_evidence, strict=True):
        if name != "rate":
            value = values[name].detach()
            a = value * (a - (a * value).sum(-1, keepdim=True))
            b = value * (b - (b * value).sum(-1, keepdim=True))
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_zeros_of_the_model_do_not_make_the_bound_infinite():
    """A left-right chain with impossible symbols: the network's belief is cut to what can be."""
    model = HiddenMarkovModel(3, Categorical(3)).with_parameters(
        initial=[1, 0, 0],
        transition=[[0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 1]],
        probs=[[0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]],
    )
    data = Sequences.from_arrays([[0, 1, 2, 0, 2], [1, 1]], codes=True)
    for guide in (
        BeliefGuide(model, LSTMFilter(4)),
        BeliefGuide(model, LSTMFilter(4, reads="both")),
        BeliefGuide(model, ExactFilter()),
    ):
        posterior = guide.posterior(model.laws({}, data))
        bound = posterior.elbo()
        assert bool(bound.isfinite().all())
        assert bool((bound <= log_evidence(model, data) + 1e-9).all())
        paths = posterior.sample_paths(50)
        assert bool(posterior.path_log_prob(paths).isfinite().all())
        if any(True for _ in guide.filter_modules()):
            bound.sum().backward()
            assert all(bool(p.grad.isfinite().all()) for p in guide.filter_modules())
    with pytest.raises(
        ValueError, match="MeanFieldGuide: needs initial and transition probabilities > 0"
    ):
        MeanFieldGuide(model, LSTMFilter(4)).posterior(model.laws({}, data))


@pytest.mark.parametrize("uncertainty", UNCERTAINTIES)
def test_sites_are_the_models_sites(uncertainty):
    """One site a parameter, and states: none per time step."""
    model = HiddenMarkovModel(2, "poisson")
    data = model.sample(3, 50, seed=0).data
    guide = BeliefGuide(model, LSTMFilter(4), parameters=uncertainty)
    in_model = poutine.trace(model).get_trace(data)
    in_guide = poutine.trace(guide).get_trace(data)
    latent = [n for n in in_model.stochastic_nodes if n != "sequence"]
    assert latent == ["initial", "transition", "rate", "states"]
    assert in_model.observation_nodes == ["obs"]
    hidden = {
        n
        for n in in_guide.stochastic_nodes
        if n != "sequence" and not in_guide.nodes[n]["infer"].get("is_auxiliary")
    }
    assert hidden == set(latent)
    assert len(pyro.get_param_store()) == 0  # nothing leaks into Pyro's global store


@pytest.mark.parametrize("uncertainty", ["normal", "multivariate"])
def test_parameter_draws_carry_their_densities(uncertainty):
    """KL by the draws' densities equals Trace_ELBO of the parameter program (5 standard errors)."""
    torch.set_default_dtype(torch.float64)
    model = HiddenMarkovModel(2, "poisson")
    guide = BeliefGuide(model, ExactFilter(), parameters=uncertainty).fresh(
        {"rate": torch.tensor([2.0, 9.0])}
    )
    with torch.no_grad():
        draws = torch.stack([torch.stack(guide.draw_parameters()[1:]) for _ in range(400)])
        kl = (draws[:, 1] - draws[:, 0]).mean()
        losses = torch.tensor(
            [
                Trace_ELBO().loss(model.sample_parameters, guide.sample_parameters)
                for _ in range(400)
            ]
        )
    error = (losses.var() / 400 + (draws[:, 1] - draws[:, 0]).var() / 400).sqrt()
    assert abs(float(kl - losses.mean())) < 5 * float(error)
    assert guide.median()["rate"].tolist() == pytest.approx([2.0, 9.0], rel=1e-6)


@pytest.mark.parametrize("uncertainty", UNCERTAINTIES)
def test_the_bound_holds_the_jacobian_of_the_parameters(uncertainty):
    """TraceMeanField_ELBO, draw by draw, is log p(θ) − log q(θ) + the states' bound.

    Pyro's own KL of an autoguide's Delta leaves the Jacobian out.
    """
    torch.set_default_dtype(torch.float64)
    model = HiddenMarkovModel(2, "poisson")
    data = model.sample(3, 5, seed=0).data
    guide = BeliefGuide(model, ExactFilter(), parameters=uncertainty)
    for seed in range(3):
        pyro.set_rng_seed(seed)
        loss = TraceMeanField_ELBO().loss(model, guide, data)
        pyro.set_rng_seed(seed)
        draw = guide.draw_parameters()
        states = guide.posterior(model.laws(draw.values, data)).elbo().sum()
        expected = draw.log_prior - draw.log_q + states
        assert -loss == pytest.approx(expected.item(), rel=1e-10)


def test_the_fitted_posterior_is_the_conjugate_one():
    """One state: Poisson counts with a Gamma prior have a Gamma posterior, known in closed form.

    The posterior is nearly log-normal, so mean and sd agree within 3 %; without the Jacobian the
    mean is off by 1/12 of it, the sd's square by as much.
    """
    model = HiddenMarkovModel(
        1, "poisson", priors={"rate": dist.Gamma(2.0, 1.0).expand([1]).to_event(1)}
    )
    data = Sequences.from_arrays([[1, 0, 2], [3, 0, 1, 1, 2]])
    shape, rate = 2 + 10, 1 + 8
    settings = FitSettings(steps=600, particles=8, holdout=0)
    guide = BeliefGuide(model, ExactFilter())
    result = fit(model, guide, data, settings=settings, progress=False)
    with torch.no_grad():
        drawn = torch.stack([result.guide.draw_parameters().values["rate"] for _ in range(4000)])
    assert float(drawn.mean()) == pytest.approx(shape / rate, rel=0.03)
    assert float(drawn.std()) == pytest.approx(shape**0.5 / rate, rel=0.06)


def test_fresh_copies_the_weights_and_leaves_the_guide():
    model = HiddenMarkovModel(2, "poisson")
    guide = BeliefGuide(model, LSTMFilter(4))
    copy = guide.fresh({"rate": torch.tensor([1.0, 2.0])})
    ours, theirs = list(guide.filter_modules()), list(copy.filter_modules())
    assert all(torch.equal(a, b) and a is not b for a, b in zip(ours, theirs, strict=True))
    assert guide.median()["rate"].tolist() != copy.median()["rate"].tolist()


def test_bad_arguments():
    model = HiddenMarkovModel(2, "poisson")
    with pytest.raises(ValueError, match="BeliefGuide needs beliefs about the past"):
        BeliefGuide(model, LSTMFilter(4, direction="both"))
    with pytest.raises(ValueError, match="ForwardGuide needs a recurrent filter"):
        ForwardGuide(model, ExactFilter())
    with pytest.raises(ValueError, match="got 'laplace'"):
        BeliefGuide(model, ExactFilter(), parameters="laplace")
    with pytest.raises(ValueError, match="model: must be a model"):
        BeliefGuide("model", ExactFilter())
    for kept in ("exact", LSTMFilter, torch.nn.Identity(), None):
        with pytest.raises(ValueError, match=r"filter: must be a filter, .*NetworkFilter"):
            BeliefGuide(model, kept)


def test_a_guide_refuses_models_that_it_has_no_posterior_of():
    deep = DeepMarkovModel(2, "gaussian", transition_width=2, emission_width=2)
    switching = SwitchingLinearSSM(2, 1)
    with pytest.raises(ValueError, match=r"model: BeliefGuide .* RegimeGuide, got Switching"):
        BeliefGuide(switching, LSTMFilter(3))
    for kind in (ForwardGuide, MeanFieldGuide):
        with pytest.raises(ValueError, match=f"model: {kind.__name__} .* DeepGuide, got Deep"):
            kind(deep, LSTMFilter(3))
        with pytest.raises(ValueError, match=f"model: {kind.__name__} .* RegimeGuide, got Switch"):
            kind(switching, LSTMFilter(3))
    with pytest.raises(ValueError, match=r"filter: ExactFilter needs .* exact .* got DeepMarkov"):
        BeliefGuide(deep, ExactFilter())


def test_a_posterior_belongs_to_its_model():
    model, data = known_case()
    other = model.with_parameters(initial=[0.2, 0.3, 0.5])
    posterior = BeliefGuide(model, ExactFilter()).posterior(model.laws({}, data))
    assert isinstance(posterior, Backward)
    with pytest.raises(ValueError, match="built from another model's"):
        torch.distributions.kl_divergence(posterior, other.laws({}, data).states())
