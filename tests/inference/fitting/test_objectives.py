"""Objectives: their limits against the exact evidence, their gradients against enumeration."""

import itertools

import pytest
import torch

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    ForwardGuide,
    LSTMFilter,
    MeanFieldGuide,
    log_evidence,
)
from beliefzoo.inference.fitting.objectives import Batch, elbo, forward_kl, iwae, log_mean_exp, rws
from beliefzoo.models import (
    Autoregressive,
    Categorical,
    HiddenMarkovModel,
    LinearGaussianSSM,
    Sequences,
)


@pytest.fixture
def case():
    torch.set_default_dtype(torch.float64)
    model = HiddenMarkovModel(2, "gaussian")
    drawn = model.sample(3, [4, 2, 3], seed=5)
    return model.with_parameters(**drawn.parameters), drawn.data


def test_iwae_with_the_exact_posterior_is_the_evidence_for_any_number_of_draws(case):
    model, data = case
    guide = BeliefGuide(model, ExactFilter())
    for particles in (1, 3):
        loss = iwae(guide, Batch(data, 1.0, particles))
        assert loss.item() == pytest.approx(-log_evidence(model, data).sum().item(), rel=1e-12)


@pytest.mark.parametrize("kind", [BeliefGuide, ForwardGuide])
def test_iwae_tends_to_the_evidence(case, kind):
    """The bound rises with the number of draws, to within .01 nats at 20 000."""
    model, data = case
    guide = kind(model, LSTMFilter(4))
    evidence = log_evidence(model, data).sum().item()
    with torch.no_grad():
        few = [-iwae(guide, Batch(data, 1.0, 1)).item() for _ in range(200)]
        many = -iwae(guide, Batch(data, 1.0, 20_000)).item()
    bound = guide.posterior(model.laws({}, data)).elbo().sum().item()
    assert abs(sum(few) / 200 - bound) < 5 * torch.tensor(few).std().item() / 200**0.5
    assert bound < many
    assert many == pytest.approx(evidence, abs=0.01)


def test_iwae_gradient_is_unbiased(case):
    """Mean of 3000 VIMCO gradients against the derivative by enumeration over all pairs of paths.

    Drawn in 150 batches of twenty copies of the sequence. Every weight within 5 standard errors
    (false failures: about 1 in 10^4).
    """
    model, every = case
    data, copies = every[1], every[[1] * 20]  # two steps: four paths, sixteen pairs
    guide = BeliefGuide(model, LSTMFilter(2))
    weights = list(guide.filter_modules())
    posterior = guide.posterior(model.laws({}, data))
    paths = torch.tensor(list(itertools.product(range(2), repeat=2))).unsqueeze(1)
    log_q = posterior.path_log_prob(paths)[:, 0]
    log_p = (posterior.chain_log_prob(paths) + posterior.emission_log_prob(paths))[:, 0]
    log_w = log_p - log_q
    pairs = list(itertools.product(range(4), repeat=2))
    bound = sum(
        (log_q[a] + log_q[b]).exp() * log_mean_exp(torch.stack([log_w[a], log_w[b]]))
        for a, b in pairs
    )
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(-bound, weights)])
    draws = []
    for _ in range(150):
        loss = iwae(guide, Batch(copies, 1.0, 2)) / len(copies)
        draws.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]))
    drawn = torch.stack(draws)
    error = (drawn.mean(0) - expected).abs() / (drawn.std(0) / 150**0.5 + 1e-12)
    assert error.max().item() < 5


def test_scale_weighs_the_data_and_not_the_prior():
    torch.set_default_dtype(torch.float64)
    model = HiddenMarkovModel(2, "poisson")
    data = model.sample(4, 5, seed=0).data
    guide = BeliefGuide(model, ExactFilter(), parameters="map")
    draw = guide.draw_parameters()
    laws = model.laws(draw.values, data)
    bound = guide.posterior(laws).elbo().sum()
    for objective in (elbo, iwae):
        loss = objective(guide, Batch(data, 3.0, 2))
        expected = -(draw.log_prior + 3 * bound)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)


def test_maximum_likelihood_ignores_the_prior():
    torch.set_default_dtype(torch.float64)
    model = HiddenMarkovModel(2, "poisson")
    data = model.sample(4, 5, seed=0).data
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    known = model.with_parameters(**guide.median())
    evidence = log_evidence(known, data).sum().item()
    assert elbo(guide, Batch(data, 1.0, 1)).item() == pytest.approx(-evidence, rel=1e-9)
    assert iwae(guide, Batch(data, 1.0, 1)).item() == pytest.approx(-evidence, rel=1e-9)


@pytest.mark.parametrize("objective", [forward_kl, rws])
def test_sleep_objectives_leave_the_model_alone_where_it_is_known(case, objective):
    model, data = case
    guide = BeliefGuide(model, LSTMFilter(4))
    loss = objective(guide, Batch(data, 2.0, 4))
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in guide.filter_modules())
    assert any(bool((p.grad != 0).any()) for p in guide.filter_modules())


def test_forward_kl_is_the_cross_entropy_of_the_belief(case):
    """With the exact filter as belief it is the mean surprise of the true state: a 5 sd check."""
    model, data = case
    guide = BeliefGuide(model, ExactFilter())
    repeated = data[torch.zeros(2000, dtype=torch.int64)]
    loss = forward_kl(guide, Batch(repeated, 1.0, 1)).item() / repeated.n_steps
    drawn = model.simulate({}, repeated)
    beliefs = guide.filter(model.laws({}, drawn.data)).exp()
    entropy = -(beliefs * beliefs.log()).sum(-1)
    expected = entropy.mean().item()
    assert abs(loss - expected) < 5 * entropy.std().item() / repeated.n_steps**0.5 + 0.02


def test_wake_phase_moves_the_parameters_towards_the_evidence():
    """With exact beliefs the wake gradient of RWS is the evidence's, on average (5 sd)."""
    torch.set_default_dtype(torch.float64)
    model = HiddenMarkovModel(2, "poisson")
    drawn = model.sample(2, 4, seed=1)
    guide = BeliefGuide(model, LSTMFilter(2), parameters="ml").fresh(
        {"rate": torch.tensor([1.5, 4.0])}
    )
    parameters = list(guide.parameter_modules())
    values = guide.draw_parameters().values
    evidence = BeliefGuide(model, ExactFilter(), parameters="ml")
    bound = evidence.posterior(model.laws(values, drawn.data)).elbo().sum()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(-bound, parameters)])
    losses = []
    for _ in range(100):
        loss = rws(guide, Batch(drawn.data, 1.0, 1000))
        losses.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    got = torch.stack(losses)
    # 1000 importance draws of 16 paths leave a bias well below .02 of the gradient's size.
    error = (got.mean(0) - expected).abs()
    assert bool((error < 5 * got.std(0) / 100**0.5 + 0.02 * expected.abs().max()).all())


def test_wake_sleep_leaves_out_impossible_draws():
    """The wake phase with an independent guide that draws paths which the model rules out."""
    model = HiddenMarkovModel(2, Categorical(2)).with_parameters(
        initial=[0.5, 0.5], transition=[[0.5, 0.5], [0.5, 0.5]], probs=[[1.0, 0.0], [0.5, 0.5]]
    )
    data = Sequences.from_arrays([[1, 1, 0, 1, 1]] * 4, codes=True)
    guide = MeanFieldGuide(model, LSTMFilter(3, reads="observations"))
    paths = guide.posterior(model.laws({}, data)).sample_paths(2)
    possible = guide.posterior(model.laws({}, data)).emission_log_prob(paths).isfinite()
    torch.manual_seed(1)
    for _ in range(5):  # draws of which some, or all of a sequence, are impossible
        loss = rws(guide, Batch(data, 1.0, 2))
        guide.zero_grad()
        loss.backward()
        assert bool(loss.isfinite())
        assert all(bool(p.grad.isfinite().all()) for p in guide.filter_modules())
    assert not bool(possible.all())


@pytest.mark.parametrize("objective", [forward_kl, rws])
def test_sleep_in_single_precision_with_components_without_noise(objective):
    """The second lag of an AR(2) follows from the step before, to the rounding of float32."""
    model = LinearGaussianSSM(Autoregressive(2))
    data = Sequences.from_tensors(torch.randn(5, 30, 1))
    guide = ForwardGuide(model, LSTMFilter(3, direction="backward"))
    loss = objective(guide, Batch(data, 1.0, 2))
    assert bool(loss.isfinite())
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in guide.filter_modules())
