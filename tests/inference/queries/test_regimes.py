"""Regimes and states of switching models: against sums over all regime paths, dense Gaussians."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

import oracles_switching as slow
from beliefzoo.inference import (
    ElmanFilter,
    ExactFilter,
    FitSettings,
    LSTMFilter,
    RegimeGuide,
    filter,
    fit,
    forecast,
    load_fit,
    log_evidence,
    most_likely_regimes,
    particle_filter,
    save_fit,
    smooth_regimes,
    to_arviz,
)
from beliefzoo.inference.arviz_groups import group
from beliefzoo.inference.checking.importance import weighted_evidence
from beliefzoo.inference.guides.regimes import SwitchingPosterior
from beliefzoo.inference.queries.mixture_kalman import mixture_kalman, resample
from beliefzoo.inference.queries.regime_moments import (
    conditional_evidence,
    expected_log_joint,
    regime_scores,
    state_chain,
    state_given,
)
from beliefzoo.models import (
    FullGaussian,
    HiddenMarkovModel,
    LinearDynamics,
    LinearGaussianSSM,
    Sequences,
    SwitchingLinearSSM,
)
from beliefzoo.models.trajectories import one_hot
from switching_cases import as_oracle, known_model, ragged

KINDS = {
    "plain": {},
    "emission": {"switching_emission": True, "noise": "full"},
    "scalar": {"dimensions": 1, "features": 1},
    "single": {"regimes": 1},
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def beliefs(data, regimes, seed=0):
    """Log beliefs that owe nothing to the model."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(*data.step_mask.shape, regimes, generator=generator, dtype=torch.float64)
    return scores.log_softmax(-1)


# --- the state given regimes


@kinds
def test_given_regimes_the_state_is_the_dense_posterior(kind):
    model = known_model(**kind)
    states, data = ragged(model)
    laws, some = model.laws({}, data), as_oracle(model)
    regimes, _ = laws.split(states)
    hard = one_hot(regimes, model.regimes, torch.float64)
    chain = state_given(laws, regimes.unsqueeze(0))
    told = conditional_evidence(laws, regimes.unsqueeze(0))[0]
    softly = state_chain(laws, hard)
    torch.testing.assert_close(expected_log_joint(laws, hard, softly), told)
    for name in ("mean", "covariance"):
        torch.testing.assert_close(getattr(softly, name), getattr(chain, name))
    size = model.dimensions
    for n, length in enumerate(data.lengths.tolist()):
        path, y = tuple(regimes[n, :length].tolist()), data.arrays()[n]
        assert float(told[n]) == pytest.approx(slow.log_evidence_given(some, path, y), abs=1e-9)
        mean, covariance = slow.smoothed_given(some, path, y)
        np.testing.assert_allclose(chain.mean[n, :length].flatten(), mean, atol=1e-9)
        for t in range(length):
            here = slice(t * size, (t + 1) * size)
            np.testing.assert_allclose(chain.covariance[n, t], covariance[here, here], atol=1e-9)
            if t + 1 < length:
                after = slice((t + 1) * size, (t + 2) * size)
                np.testing.assert_allclose(chain.lag_one[n, t], covariance[here, after], atol=1e-9)


@kinds
def test_with_probabilities_the_state_maximises_the_bound(kind):
    """Value against the integral of the mixed exponent; gradient in the weights by differences."""
    model = known_model(**kind)
    _, data = ragged(model)
    laws, some = model.laws({}, data), as_oracle(model)
    weight = beliefs(data, model.regimes).exp() * data.step_mask.unsqueeze(-1)
    chain = state_chain(laws, weight)
    told = expected_log_joint(laws, weight, chain)
    slope = regime_scores(laws, chain)
    for n, length in enumerate(data.lengths.tolist()):
        w, y = weight[n, :length].numpy(), data.arrays()[n]
        assert float(told[n]) == pytest.approx(slow.log_mixed(some, w, y), abs=1e-9)
        bumped = w.copy()
        bumped[-1, 0] += 1e-5
        less = w.copy()
        less[-1, 0] -= 1e-5
        difference = (slow.log_mixed(some, bumped, y) - slow.log_mixed(some, less, y)) / 2e-5
        assert float(slope[n, length - 1, 0]) == pytest.approx(difference, abs=1e-6)


@pytest.mark.parametrize("name", ["dynamics", "drift", "noise_scale", "loading", "initial_mean"])
@pytest.mark.parametrize("softly", [False, True], ids=["kernel", "Fisher"])
def test_gradient_of_the_conditional_evidence(name, softly):
    """The kernel's, and that of Fisher's identity, against differences of the dense Gaussian."""
    model = known_model()
    states, data = ragged(model)
    regimes = model.laws({}, data).split(states).regimes
    value = model.known[name].clone().requires_grad_()
    rest = {other: known for other, known in model.known.items() if other != name}
    free = SwitchingLinearSSM(2, 2, 2).with_parameters(**rest)
    laws = free.laws({name: value}, data)
    hard = one_hot(regimes, 2, torch.float64)
    if softly:
        told = expected_log_joint(laws, hard, state_chain(laws, hard))
    else:
        told = conditional_evidence(laws, regimes.unsqueeze(0))
    (slope,) = torch.autograd.grad(told.sum(), value)

    def total(moved):
        some = as_oracle(free.with_parameters(**{name: moved}))
        paths = [tuple(p[: int(m)].tolist()) for p, m in zip(regimes, data.lengths, strict=True)]
        each = zip(paths, data.arrays(), strict=True)
        return sum(slow.log_evidence_given(some, path, y) for path, y in each)

    for place in np.ndindex(*value.shape):
        step = torch.zeros_like(value)
        step[place] = 1e-5
        with torch.no_grad():
            difference = (total(value + step) - total(value - step)) / 2e-5
        assert float(slope[place]) == pytest.approx(difference, rel=1e-5, abs=1e-5)


def test_draws_and_densities_of_the_state_chain_agree():
    """Density against the dense Gaussian; moments of 20 000 draws within 5 standard errors."""
    model = known_model(noise="full")
    _, data = ragged(model)
    laws = model.laws({}, data)
    chain = state_chain(laws, beliefs(data, 2).exp())
    z = chain.sample(20_000)
    mean = chain.mean[0].flatten()
    dense = torch.zeros(10, 10, dtype=torch.float64)
    for t in range(5):
        dense[2 * t : 2 * t + 2, 2 * t : 2 * t + 2] = chain.covariance[0, t]
        back = torch.eye(2, dtype=torch.float64)
        for s in range(t - 1, -1, -1):  # Cov(z_s, z_t) = G_s … G_{t-1} V_t
            back = chain.gain[0, s] @ back
            dense[2 * s : 2 * s + 2, 2 * t : 2 * t + 2] = back @ chain.covariance[0, t]
            dense[2 * t : 2 * t + 2, 2 * s : 2 * s + 2] = dense[
                2 * s : 2 * s + 2, 2 * t : 2 * t + 2
            ].T
    law = torch.distributions.MultivariateNormal(mean, dense)
    flat = z[:, 0].flatten(1)
    torch.testing.assert_close(chain.log_prob(z[:5])[:, 0], law.log_prob(flat[:5]))
    torch.testing.assert_close(chain.entropy[0], law.entropy())
    error = dense.diagonal().sqrt() / math.sqrt(20_000)
    assert bool(((flat.mean(0) - mean).abs() < 5 * error).all())
    spread = dense.diagonal()
    outer = (spread.unsqueeze(-1) * spread + dense.square()).sqrt() / math.sqrt(20_000)
    assert bool(((flat.T.cov() - dense).abs() < 5 * outer).all())


# --- the mixture Kalman filter


@kinds
def test_with_a_particle_for_every_path_the_filter_is_exact(kind):
    model = known_model(**kind)
    _, data = ragged(model)
    found = mixture_kalman(model, data, particles=32)
    some = as_oracle(model)
    for n, y in enumerate(data.arrays()):
        whole = slow.enumerated(some, y)
        assert float(found.log_evidence[n]) == pytest.approx(whole.log_evidence, abs=1e-9)
        for t in range(len(y)):
            past = slow.enumerated(some, y[: t + 1])
            np.testing.assert_allclose(found.regimes[n, t], past.regimes[-1], atol=1e-9)
            weight = np.exp(past.log_joint - past.log_evidence)
            moments = [slow.smoothed_given(some, path, y[: t + 1]) for path in past.paths]
            d = model.dimensions
            mean = sum(w * m[-d:] for w, (m, _) in zip(weight, moments, strict=True))
            second = sum(
                w * (c[-d:, -d:] + np.outer(m[-d:], m[-d:]))
                for w, (m, c) in zip(weight, moments, strict=True)
            )
            np.testing.assert_allclose(found.mean[n, t], mean, atol=1e-9)
            covariance = second - np.outer(mean, mean)
            np.testing.assert_allclose(found.covariance[n, t], covariance, atol=1e-8)


def test_few_particles_are_unbiased():
    """The mean of 150 estimates of p(y); it misses by 5 standard errors once in 2 million runs."""
    model = known_model(seed=5)
    _, data = ragged(model)
    each = torch.stack(
        [mixture_kalman(model, data, particles=3, seed=s).log_evidence for s in range(150)]
    )
    exact = [slow.enumerated(as_oracle(model), y).log_evidence for y in data.arrays()]
    ratio = (each - torch.tensor(exact, dtype=torch.float64)).exp()
    assert bool((each.std(0)[:1] > 1e-3).all())  # there is something to be unbiased about
    assert bool(((ratio.mean(0) - 1).abs() <= 5 * ratio.std(0) / math.sqrt(150) + 1e-9).all())


def two_steps_by_quadrature(model, y):
    """log p(y_1, y_2) of a recurrent model with D = F = 1, by a grid over z_1."""
    some, recurrence = as_oracle(model), model.known["recurrence"].numpy()[:, 0]
    mean, scale = some.initial_mean[0], math.sqrt(some.initial_covariance[0, 0])
    z = np.linspace(mean - 12 * scale, mean + 12 * scale, 20_001)
    loading, intercept = some.loading[0, 0, 0], some.intercept[0, 0]
    variance = some.observation_noise[0, 0, 0]

    def log_normal(x, centre, spread):
        return -0.5 * ((x - centre) ** 2 / spread + np.log(2 * np.pi * spread))

    first = log_normal(z, mean, scale**2) + log_normal(y[0, 0], loading * z + intercept, variance)
    total = []
    for i, start in enumerate(some.initial):
        logits = np.log(some.transition[i]) + recurrence * z[:, None]
        move = logits - logsumexp(logits, axis=1, keepdims=True)
        for k in range(len(some.initial)):
            centre = loading * (some.dynamics[k, 0, 0] * z + some.drift[k, 0]) + intercept
            spread = loading**2 * some.noise[k, 0, 0] + variance
            total.append(np.log(start) + move[:, k] + log_normal(y[1, 0], centre, spread))
    return logsumexp(np.stack(total) + first) + np.log(z[1] - z[0])


def test_the_recurrent_filter_is_unbiased():
    """The mean of 100 estimates; it misses by 5 standard errors once in 2 million runs."""
    model = known_model(2, 1, 1, recurrent=True, seed=2)
    y = model.sample(1, 2, seed=3).data.values.double()
    data = Sequences.from_tensors(y)
    each = torch.cat(
        [mixture_kalman(model, data, particles=50, seed=s).log_evidence for s in range(100)]
    )
    ratio = (each - two_steps_by_quadrature(model, y[0].numpy())).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / math.sqrt(100)


def test_particles_keep_to_the_evidence_of_long_sequences():
    """50 particles with each regime tried: the estimates hardly spread, and grow no worse."""
    model = known_model(seed=1)
    data = model.sample(2, 300, seed=0).data
    few, many = (
        mixture_kalman(model, data, particles=size, draws=3).log_evidence for size in (50, 400)
    )
    assert float((few - many).abs().max()) < 1.0


def test_without_dynamics_it_is_a_hidden_markov_model():
    """A = 0, the first step unobserved: y_t ~ N(C b_s + d, C Q_s C' + R)."""
    model = known_model(2, 2, 2, noise="full").with_parameters(dynamics=torch.zeros(2, 2, 2))
    some = as_oracle(model)
    covariance = some.loading @ some.noise @ some.loading.transpose(0, 2, 1)
    hmm = HiddenMarkovModel(2, FullGaussian(2)).with_parameters(
        initial=some.initial,
        transition=some.transition,
        mean=(some.loading @ some.drift[..., None])[..., 0] + some.intercept,
        covariance=covariance + some.observation_noise,
    )
    values = model.sample(2, 8, seed=0).data.values.double()
    values[:, 0] = torch.nan
    data = Sequences.from_tensors(values)
    found = mixture_kalman(model, data, particles=256).log_evidence
    torch.testing.assert_close(found, log_evidence(hmm, data), atol=1e-8, rtol=0)


@pytest.mark.parametrize("recurrent", [False, True], ids=["plain", "recurrent"])
def test_particles_of_whole_states_agree(recurrent):
    """The bootstrap filter, which knows of no Kalman filter: 30 estimates of each.

    The means of exp(estimate) differ by 5 standard errors once in 2 million runs.
    """
    model = known_model(2, 1, 1, recurrent=recurrent, seed=2)
    data = Sequences.from_tensors(model.sample(1, 6, seed=3).data.values.double())
    whole = torch.cat(
        [particle_filter(model, data, particles=300, seed=s).log_evidence for s in range(30)]
    )
    within = torch.cat(
        [mixture_kalman(model, data, particles=30, seed=s).log_evidence for s in range(30)]
    )
    centre = within.mean()
    ours, theirs = (within - centre).exp(), (whole - centre).exp()
    error = math.sqrt((float(ours.var()) + float(theirs.var())) / 30)
    assert abs(float(ours.mean() - theirs.mean())) < 5 * error
    if not recurrent:  # where nothing of the state is drawn, a tenth of the particles do better
        assert float(ours.std()) < 0.5 * float(theirs.std())


def test_one_regime_is_the_linear_gaussian_model():
    model = known_model(1, 3, 2, noise="full").with_parameters(intercept=[0.0, 0.0])
    _, data = ragged(model)
    some = as_oracle(model)
    linear = LinearGaussianSSM(LinearDynamics(3, correlated=True, offset=True), features=2)
    linear = linear.with_parameters(
        transition=some.dynamics[0],
        offset=some.drift[0],
        process_covariance=some.noise[0],
        initial_mean=some.initial_mean,
        initial_covariance=some.initial_covariance,
        loading=some.loading[0],
        observation_variance=np.diag(some.observation_noise[0]),
    )
    found = mixture_kalman(model, data, particles=2)
    torch.testing.assert_close(found.log_evidence, log_evidence(linear, data))
    inside = data.step_mask.unsqueeze(-1)
    torch.testing.assert_close(found.mean * inside, filter(linear, data).mean)


def test_forecasts_go_on_from_the_exact_belief():
    """Against the sum over all paths with two more steps unobserved; 20 000 draws.

    Each of 12 checks misses by 5 standard errors with probability 6e-7.
    """
    model = known_model(seed=3)
    _, data = ragged(model)
    found = forecast(model, data, 2, draws=20_000, seed=0)
    some = as_oracle(model)
    for n, y in enumerate(data.arrays()):
        longer = np.concatenate([y, np.full((2, 2), np.nan)])
        whole = slow.enumerated(some, longer)
        weight = np.exp(whole.log_joint - whole.log_evidence)
        means = np.array([slow.smoothed_given(some, path, longer)[0][-4:] for path in whole.paths])
        expected = (weight @ means).reshape(2, 2) @ some.loading[0].T + some.intercept[0]
        error = found.draws[:, n].std(0).numpy() / math.sqrt(20_000)
        np.testing.assert_array_less(np.abs(found.mean[n].numpy() - expected), 5 * error)
        np.testing.assert_array_less(
            np.abs(found.draws[:, n].mean(0).numpy() - expected), 5 * error
        )
        np.testing.assert_allclose(found.regimes[n], whole.regimes[-2:], atol=5 * 0.5 / 141)
    assert bool((found.quantile(0.9) > found.quantile(0.1)).all())


def test_resampling_keeps_large_weights_and_is_unbiased():
    """Means of 4000 draws; each of 30 fails at 5 standard errors with probability 6e-7."""
    weight = torch.rand(1, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 4
    weight = weight / weight.sum()
    index, kept = resample(weight.expand(4000, -1), 12)
    assert all(len(set(row)) == 12 for row in index[:50].tolist())
    total = torch.zeros(4000, 30, dtype=torch.float64).scatter_add(1, index, kept)
    error = total.std(0) / math.sqrt(4000)
    assert bool(((total.mean(0) - weight[0]).abs() <= 5 * error + 1e-12).all())
    largest = int(weight.argmax())
    assert bool((total[:, largest] > 0).all())
    few = torch.tensor([[0.25, 0.0, 0.75]], dtype=torch.float64)
    index, kept = resample(few, 5)
    assert kept.sum() == 1
    assert set(index[kept > 0].tolist()) == {0, 2}


def test_a_collapse_is_named():
    model = known_model(2, 1, 1)
    data = Sequences.from_tensors(
        torch.tensor([[[0.0], [0.0]], [[0.0], [1e200]]], dtype=torch.float64), labels=["a", "b"]
    )
    with pytest.raises(
        ValueError, match=r"none has a finite likelihood left in sequence 'b' at st"
    ):
        mixture_kalman(model, data)


# --- the guide's posterior


def enumerated_bound(model, data, log_beliefs):
    """E_q(s)[log p(y, s) − log q(s)] of every sequence, the backward law of I1 summed over."""
    import oracles

    out = []
    for n, y in enumerate(data.arrays()):
        some = slow.enumerated(as_oracle(model), y)
        table = np.broadcast_to(model.known["transition"].log().numpy(), (len(y) - 1, 2, 2))
        _, log_q = oracles.backward_law(table, log_beliefs[n, : len(y)].numpy())
        out.append(float(np.exp(log_q) @ (some.log_joint - log_q)))
    return torch.tensor(out, dtype=torch.float64)


def test_the_conditional_bound_is_the_expectation_over_all_paths():
    """2000 draws; a mean misses by 5 standard errors once in 2 million runs."""
    model = known_model(seed=4)
    _, data = ragged(model)
    log_beliefs = beliefs(data, 2)
    posterior = SwitchingPosterior(model.laws({}, data), log_beliefs)
    each = torch.stack([posterior.conditional_elbo(100) for _ in range(20)])
    expected = enumerated_bound(model, data, log_beliefs)
    error = each.std(0) / math.sqrt(20)
    assert bool(((each.mean(0) - expected).abs() <= 5 * error + 1e-9).all())


def test_its_gradient_is_that_of_the_expectation():
    """The network's gradient by the score function, against differences of the sum over paths."""
    model = known_model(seed=4)
    _, data = ragged(model)
    logits = beliefs(data, 2).requires_grad_()
    posterior = SwitchingPosterior(model.laws({}, data), logits.log_softmax(-1))
    slopes = []
    for _ in range(40):
        (slope,) = torch.autograd.grad(
            posterior.conditional_elbo(50).sum(), logits, retain_graph=True
        )
        slopes.append(slope)
    mean, error = torch.stack(slopes).mean(0), torch.stack(slopes).std(0) / math.sqrt(40)
    for place in [(0, 0, 0), (0, 2, 1), (0, 4, 0), (1, 1, 1)]:
        ends = []
        for size in (1e-4, -1e-4):
            moved = logits.detach().clone()
            moved[place] += size
            ends.append(enumerated_bound(model, data, moved.log_softmax(-1)).sum())
        difference = float(ends[0] - ends[1]) / 2e-4
        # Each of 4 checks fails with probability 6e-7.
        assert abs(float(mean[place]) - difference) < 5 * float(error[place]) + 1e-6


def test_bounds_are_in_order():
    model = known_model(seed=6)
    _, data = ragged(model)
    evidence = mixture_kalman(model, data, particles=32).log_evidence
    log_beliefs = beliefs(data, 2)
    factorised = SwitchingPosterior(model.laws({}, data), log_beliefs).factorised_elbo()
    conditional = enumerated_bound(model, data, log_beliefs)
    assert bool((factorised <= conditional + 1e-9).all())
    assert bool((conditional <= evidence + 1e-9).all())
    assert float((evidence - conditional)[0]) > 1e-3


def test_the_factorised_bound_has_exact_gradients():
    """In the network's beliefs and in parameters, against differences of its own definition."""
    model = known_model(seed=6)
    _, data = ragged(model)
    logits = beliefs(data, 2).requires_grad_()
    rest = {name: value for name, value in model.known.items() if name != "dynamics"}
    free = SwitchingLinearSSM(2, 2, 2).with_parameters(**rest)
    dynamics = model.known["dynamics"].clone().requires_grad_()

    def total(scores, values):
        laws = free.laws({"dynamics": values}, data)
        return SwitchingPosterior(laws, scores.log_softmax(-1), bound="factorised").elbo().sum()

    assert torch.autograd.gradcheck(total, (logits, dynamics), atol=1e-6)


@pytest.mark.parametrize("recurrent", [False, True], ids=["plain", "recurrent"])
def test_weighted_trajectories_give_the_evidence(recurrent):
    """10 000 trajectories; the mean weight misses by 5 standard errors once in 2 million runs."""
    model = known_model(2, 1, 1, recurrent=recurrent, seed=2)
    y = model.sample(1, 2, seed=3).data.values.double()
    data = Sequences.from_tensors(y)
    posterior = SwitchingPosterior(model.laws({}, data), beliefs(data, 2))
    z = posterior.sample_paths(10_000)
    log_w = posterior.chain_log_prob(z) + posterior.emission_log_prob(z)
    log_w = log_w - posterior.path_log_prob(z)
    if recurrent:
        expected = two_steps_by_quadrature(model, y[0].numpy())
    else:
        expected = slow.enumerated(as_oracle(model), y[0].numpy()).log_evidence
    ratio = (log_w[:, 0] - expected).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / math.sqrt(10_000)
    if recurrent:  # the bound of the recurrent model is the mean of these weights' logarithms
        bound = float(posterior.conditional_elbo(10_000)[0])
        error = float(log_w.std()) / math.sqrt(10_000)
        assert abs(bound - float(log_w.mean())) < 8 * error


# --- smoothed and most likely regimes


def test_smoothing_climbs_to_the_best_factorised_posterior():
    model = known_model(seed=6)
    _, data = ragged(model)
    found = smooth_regimes(model, data)
    assert bool((found.bound.diff(dim=0) >= -1e-9).all())
    evidence = mixture_kalman(model, data, particles=32).log_evidence
    assert bool((found.bound[-1] <= evidence + 1e-9).all())
    laws = model.laws({}, data)
    for n, y in enumerate(data.arrays()):
        w = found.regimes[n, : len(y)].numpy()
        value = slow.log_mixed(as_oracle(model), w, y)
        assert value >= float(found.bound[-1, n]) - 1e-6  # without the regimes' own terms
    chain = state_chain(laws, found.regimes)
    torch.testing.assert_close(chain.mean, found.mean)


def test_one_regime_has_nothing_to_approximate():
    model = known_model(1)
    _, data = ragged(model)
    exact = [slow.log_evidence_given(as_oracle(model), (0,) * len(y), y) for y in data.arrays()]
    expected = torch.tensor(exact, dtype=torch.float64)
    bound = smooth_regimes(model, data).bound[-1]
    torch.testing.assert_close(bound, expected, atol=1e-9, rtol=0)
    posterior = SwitchingPosterior(model.laws({}, data), torch.zeros(3, 5, 1))
    torch.testing.assert_close(posterior.conditional_elbo(2), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_most_likely_regimes_are_the_best_of_all_paths(seed):
    model = known_model(seed=seed)
    _, data = ragged(model)
    found = most_likely_regimes(model, data)
    for n, y in enumerate(data.arrays()):
        whole = slow.enumerated(as_oracle(model), y)
        best = int(whole.log_joint.argmax())
        assert tuple(found.states[n, : len(y)].tolist()) == whole.paths[best]
        assert float(found.log_joint[n]) == pytest.approx(whole.log_joint[best], abs=1e-9)
    assert bool((found.states[2, 1:] == -1).all())


# --- fitting


def tiny(**kind):
    truth = known_model(2, 1, 1, **kind)
    data = truth.sample(8, 12, seed=0).data
    return SwitchingLinearSSM(2, 1, 1, **kind).scaled_to(data), data


@pytest.mark.parametrize("objective", ["elbo", "iwae", "rws", "forward_kl"])
@pytest.mark.parametrize("recurrent", [False, True], ids=["plain", "recurrent"])
def test_every_objective_fits(objective, recurrent):
    model, data = tiny(recurrent=recurrent)
    guide = RegimeGuide(model, LSTMFilter(4), draws=2)
    settings = FitSettings(steps=3, sleep_steps=2, particles=2)
    found = fit(model, guide, data, objective=objective, settings=settings, progress=False)
    assert bool(found.losses.isfinite().all())
    assert set(found.fitted.known) == set(model.priors)


def test_training_brings_the_bound_to_the_evidence():
    """A slow chain of well-separated regimes; the fraction of the gap closed is what is tested."""
    truth = known_model(2, 1, 1, seed=0).with_parameters(
        transition=[[0.9, 0.1], [0.1, 0.9]], drift=[[-1.5], [1.5]], observation_scale=[0.3]
    )
    data = truth.sample(64, 20, seed=0).data
    test = truth.sample(16, 20, seed=1).data
    guide = RegimeGuide(truth, LSTMFilter(8), bound="conditional", draws=4)
    evidence = mixture_kalman(truth, test, particles=100).log_evidence.sum()

    def gap(trained):
        with torch.no_grad():
            posterior = trained.posterior(truth.laws({}, test))
            return float(evidence - posterior.conditional_elbo(50).sum())

    before = gap(guide)
    settings = FitSettings(steps=60, sleep_steps=20, learning_rate=0.03, patience=None)
    found = fit(truth, guide, data, settings=settings, progress=False)
    after = gap(found.guide)
    assert -0.5 < after < 0.35 * before
    estimate = weighted_evidence(found, test, draws=200)
    assert abs(float(estimate.log_evidence.sum() - evidence)) < 1.0


def test_a_saved_fit_is_the_same(tmp_path):
    model, data = tiny()
    guide = RegimeGuide(model, ElmanFilter(4), bound="factorised", draws=3)
    assert guide.noiseless
    settings = FitSettings(steps=2, sleep_steps=1)
    found = fit(model, guide, data, settings=settings, progress=False)
    back = load_fit(save_fit(found, tmp_path / "fit.pt"))
    assert back.guide.options == guide.options
    laws = [one.model.laws(one.guide.median(), data) for one in (found, back)]
    bounds = [one.guide.bound(law) for one, law in zip((found, back), laws, strict=True)]
    torch.testing.assert_close(*bounds)


def test_a_fit_goes_to_arviz():
    model, data = tiny()
    guide = RegimeGuide(model, LSTMFilter(4), draws=2)
    settings = FitSettings(steps=2, sleep_steps=1, restarts=2, restart_steps=1)
    found = fit(model, guide, data, settings=settings, progress=False)
    idata = to_arviz(found, data, draws=3, state_draws=2, prior_draws=2, forecast=2)
    states = group(idata, "posterior_states")["states"]
    assert states.dims == ("chain", "draw", "sequence", "time", "component")
    assert [str(name) for name in states["component"].values] == ["regime 0", "regime 1", "0"]
    regimes = states.sel(component=["regime 0", "regime 1"])
    np.testing.assert_allclose(regimes.sum("component"), 1)
    dynamics = group(idata, "posterior")["dynamics"]
    assert dynamics.dims == ("chain", "draw", "regime", "dimension", "dimension_from")
    assert group(idata, "predictions")["obs"].sizes["ahead"] == 2
    assert bool(np.isfinite(group(idata, "log_likelihood")["obs"]).all())


def test_bad_arguments():
    model, data = tiny()
    hmm = HiddenMarkovModel(2, "gaussian")
    with pytest.raises(ValueError, match="model: must be a SwitchingLinearSSM"):
        RegimeGuide(hmm, LSTMFilter(4))
    with pytest.raises(ValueError, match="a switching model has no exact filter"):
        RegimeGuide(model, ExactFilter())
    with pytest.raises(ValueError, match="bound: must be one of"):
        RegimeGuide(model, LSTMFilter(4), bound="mean-field")
    with pytest.raises(ValueError, match="draws: must be a whole number >= 2"):
        RegimeGuide(model, LSTMFilter(4), draws=1)
    recurrent, _ = tiny(recurrent=True)
    with pytest.raises(ValueError, match="'conditional' for a recurrent model"):
        RegimeGuide(recurrent, LSTMFilter(4), bound="factorised")
    with pytest.raises(ValueError, match="must not be recurrent"):
        most_likely_regimes(known_model(2, 1, 1, recurrent=True), data)
    with pytest.raises(ValueError, match="needs values for"):
        mixture_kalman(model, data)
    with pytest.raises(ValueError, match="particles: must be a whole number >= 2"):
        mixture_kalman(known_model(2, 1, 1), data, particles=1)
