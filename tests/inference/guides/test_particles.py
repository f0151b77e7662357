"""Particle filters: unbiased evidence and right posteriors, against sums and dense normal laws."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import oracles
from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    ForwardGuide,
    LSTMFilter,
    MeanFieldGuide,
    fit,
    particle_filter,
)
from beliefzoo.inference.fitting.objectives import LOSSES, Batch
from beliefzoo.inference.guides.deep import DeepGuide, TrajectoryNetwork
from beliefzoo.inference.guides.particles import ancestors, log_evidence_by_particles
from beliefzoo.inference.queries.mixture_kalman import mixture_kalman
from beliefzoo.models import (
    Categorical,
    ContinuousTimeHMM,
    DeepMarkovModel,
    HiddenMarkovModel,
    LinearDynamics,
    LinearGaussianSSM,
    LocalLevel,
    Sequences,
    SwitchingLinearSSM,
    UnreadWarning,
)

COPIES = 400
"""Copies of each case: as many independent particle filters in one run."""


def copies(data):
    return data[[0] * COPIES]


def assert_unbiased(found, log_evidence):
    """The mean of Ẑ / Z is 1 up to five standard errors: false alarm once in 10^6."""
    ratio = (found - log_evidence).exp()
    error = float(ratio.std()) / math.sqrt(len(ratio))
    assert float(ratio.mean()) == pytest.approx(1, abs=5 * error + 1e-12)


# --- discrete states


def chain():
    """Three states, an observation missing; its log laws in NumPy."""
    model = HiddenMarkovModel(3, "gaussian").with_parameters(
        initial=[0.5, 0.3, 0.2],
        transition=[[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.0, 0.3, 0.7]],
        mean=[-1.0, 0.0, 2.0],
        scale=[0.7, 0.5, 1.0],
    )
    data = Sequences.from_arrays([[-0.8, 0.1, math.nan, 1.9, 2.5]])
    laws = model.laws({}, data)
    with np.errstate(divide="ignore"):
        parts = (
            laws.log_initial[0].numpy(),
            laws.log_transition[0].expand(4, -1, -1).numpy(),
            laws.log_likelihood[0].numpy(),
        )
    return model, data, oracles.posterior(*parts), parts


PROPOSALS = {
    "bootstrap": lambda m: None,
    "exact filter": lambda m: BeliefGuide(m, ExactFilter()),
    "lstm belief": lambda m: BeliefGuide(m, LSTMFilter(4)),
    "lstm forward": lambda m: ForwardGuide(m, LSTMFilter(4, direction="both")),
}
every_proposal = pytest.mark.parametrize("make", PROPOSALS.values(), ids=PROPOSALS)


@every_proposal
@pytest.mark.parametrize("threshold", [0, 0.5, 1])
def test_evidence_of_a_chain_is_unbiased(make, threshold):
    """With 8 particles, whatever the proposal, resampled never, sometimes or always."""
    model, data, wanted, _ = chain()
    found = particle_filter(
        model, copies(data), particles=8, proposal=make(model), threshold=threshold
    )
    assert_unbiased(found.log_evidence, wanted.log_evidence)
    resampled = found.resampled[:, :-1].double().mean()
    assert float(resampled) == threshold if threshold != 0.5 else resampled < 1


@pytest.mark.parametrize("resampling", ["systematic", "stratified", "multinomial"])
def test_every_way_of_resampling_is_unbiased(resampling):
    model, data, wanted, _ = chain()
    found = particle_filter(model, copies(data), particles=8, resampling=resampling, threshold=1)
    assert_unbiased(found.log_evidence, wanted.log_evidence)


@pytest.mark.parametrize("resampling", ["systematic", "stratified", "multinomial"])
def test_resampling_draws_by_the_weights(resampling):
    """5000 times: mean counts within six standard errors; systematic counts are off by < 1."""
    weight = torch.tensor([0.05, 0.0, 0.4, 0.15, 0.4], dtype=torch.float64)
    drawn = ancestors(weight.unsqueeze(-1).expand(-1, 5000), resampling)
    counts = torch.stack([(drawn == k).sum(0) for k in range(5)]).double()
    error = 6 * counts.std(1) / math.sqrt(5000)
    assert bool(((counts.mean(1) - 5 * weight).abs() <= error + 1e-12).all())
    assert not bool(counts[1].any())
    if resampling == "systematic":
        assert float((counts - 5 * weight.unsqueeze(-1)).abs().max()) < 1


def test_the_best_proposal_leaves_no_noise_in_the_first_step():
    """With the exact filter particles go where y says: all first weights are p(y_1)."""
    model, data, _, parts = chain()
    guide = BeliefGuide(model, ExactFilter())
    found = particle_filter(model, data, particles=3, proposal=guide)
    assert float(found.log_increments[0, 0]) == pytest.approx(
        oracles.log_increments(*parts)[0], abs=1e-12
    )
    assert float(found.effective[0, 0]) == pytest.approx(3)


def test_errors_fall_with_the_root_of_the_particles():
    """16 times the particles, a quarter of the error: a ratio of 4 ± 1.2 (five deviations)."""
    model, data, wanted, _ = chain()
    spread = []
    for particles in (50, 800):
        found = particle_filter(model, copies(data), particles=particles).log_evidence
        spread.append(float((found - wanted.log_evidence).square().mean().sqrt()))
    assert spread[0] / spread[1] == pytest.approx(4, abs=1.2)


def test_filter_and_smoother_of_a_chain():
    """400 filters of 50 particles, their biases small: shares within .03; with backward draws."""
    model, data, wanted, parts = chain()
    found = particle_filter(model, copies(data), particles=50)
    filtered = found.mean.mean(0)
    np.testing.assert_allclose(filtered, oracles.filter_beliefs(*parts), atol=0.03)
    paths = found.sample_paths(20, seed=1)
    assert paths.dtype == torch.int64
    for state in range(3):
        share = (paths == state).double().mean((0, 1))
        np.testing.assert_allclose(share, wanted.marginals[:, state], atol=0.03)
    pair = ((paths[..., :-1] == 0) & (paths[..., 1:] == 1)).double().mean((0, 1))
    np.testing.assert_allclose(pair, wanted.pairs[:, 0, 1], atol=0.03)


def test_sequences_of_different_lengths():
    model, data, _, _ = chain()
    two = Sequences.from_arrays([[-0.8, 0.1, math.nan, 1.9, 2.5], [-0.8, 0.1]])
    found = particle_filter(model, two, particles=2000)
    short = particle_filter(model, data, particles=2000).log_increments[0, :2].sum()
    assert float(found.log_evidence[1]) == pytest.approx(float(short), abs=0.2)
    assert not bool(found.log_increments[1, 2:].any())
    assert not bool(found.mean[1, 2:].any())
    assert not bool(found.resampled[1, 1:].any())
    paths = found.sample_paths(5)
    assert bool((paths[:, 1, 2:] == -1).all())
    assert bool((paths[:, 1, :2] >= 0).all())


@pytest.mark.parametrize("make", [PROPOSALS["bootstrap"], PROPOSALS["exact filter"]])
def test_steps_with_a_density_are_unbiased_too(make):
    """A chain in continuous time with a death whose time is known: no probabilities of moves."""
    model = ContinuousTimeHMM(
        3, jumps=[(0, 1), (1, 0), (0, 2), (1, 2)], errors=[(0, 1), (1, 0)], exact=[2]
    ).with_parameters(jump_rate=[0.5, 0.3, 0.2, 0.7], error=[0.1, 0.25], initial=[0.6, 0.4, 0])
    data = Sequences.from_arrays([[0, 1, 1, 2]], times=[[0, 0.4, 1.5, 2.1]], codes=True)
    laws = model.laws({}, data)
    parts = laws.log_initial[0], laws.log_transition[0], laws.log_likelihood[0]
    with np.errstate(divide="ignore"):
        wanted = oracles.log_evidence(*(part.numpy() for part in parts))
    found = particle_filter(model, copies(data), particles=10, proposal=make(model))
    assert_unbiased(found.log_evidence, wanted)


def test_particles_that_all_die_are_named():
    model = HiddenMarkovModel(2, Categorical(3)).with_parameters(
        initial=[0.5, 0.5],
        transition=[[0.5, 0.5], [0.5, 0.5]],
        probs=[[0.5, 0.5, 0.0], [0.2, 0.8, 0.0]],
    )
    data = Sequences.from_arrays(
        [[0, 1, 0], [0, 1, 2]], codes=True, labels=["a", "b"], times=[[0, 1, 2], [0, 1, 4.5]]
    )
    with (
        pytest.warns(UnreadWarning, match=r"data\.times"),
        pytest.raises(ValueError, match=r"none is left .* 'b', step 2, time 4\.5, got .* -inf"),
    ):
        particle_filter(model, data, particles=10)


# --- linear-Gaussian models: dense normal laws of whole sequences


PARTS = {
    "transition": [[0.9, -0.3], [0.2, 0.5]],
    "process_variance": [0.4, 0.1],
    "initial_mean": [0.5, -1.0],
    "initial_variance": [1.0, 0.5],
    "loading": [[1.0, 0.5], [0.0, -1.0]],
    "intercept": [0.3, 0.0],
    "observation_variance": [0.5, 0.2],
}
Y = [[0.9, 0.2], [1.5, math.nan], [math.nan, math.nan], [0.2, 1.4]]


def linear():
    model = LinearGaussianSSM(LinearDynamics(2), features=2)
    return model.with_parameters(**PARTS), Sequences.from_arrays([Y])


def dense(observation_variance=PARTS["observation_variance"]):
    """Evidence, and smoothed means (T, D), by the joint normal law of all states and outputs."""
    a, q = np.array(PARTS["transition"]), np.diag(PARTS["process_variance"])
    c, r = np.array(PARTS["loading"]), np.diag(observation_variance)
    mean, steps = [np.array(PARTS["initial_mean"])], len(Y)
    cov = np.zeros((2 * steps, 2 * steps))
    cov[:2, :2] = np.diag(PARTS["initial_variance"])
    for t in range(1, steps):
        mean.append(a @ mean[-1])
        past, now = slice(0, 2 * t), slice(2 * t, 2 * t + 2)
        cov[now, past] = a @ cov[2 * t - 2 : 2 * t, past]
        cov[past, now] = cov[now, past].T
        cov[now, now] = a @ cov[2 * t - 2 : 2 * t, 2 * t - 2 : 2 * t] @ a.T + q
    z = np.concatenate(mean)
    big, noise = np.kron(np.eye(steps), c), np.kron(np.eye(steps), r)
    y = np.array(Y).ravel()
    seen = ~np.isnan(y)
    law = big @ cov @ big.T + noise
    at = big @ z + np.tile(PARTS["intercept"], steps)
    law, at, y, gain = law[np.ix_(seen, seen)], at[seen], y[seen], (cov @ big.T)[:, seen]
    evidence = multivariate_normal.logpdf(y, at, law)
    return evidence, (z + gain @ np.linalg.solve(law, y - at)).reshape(steps, 2)


@pytest.fixture(scope="module")
def linear_case():
    model, data = linear()
    return model, data, *dense()


@every_proposal
def test_evidence_of_a_linear_model_is_unbiased(linear_case, make):
    model, data, evidence, _ = linear_case
    found = particle_filter(model, copies(data), particles=12, proposal=make(model))
    assert_unbiased(found.log_evidence, evidence)


def test_the_kalman_filter_is_a_better_proposal(linear_case):
    model, data, evidence, _ = linear_case
    spread = [
        float(
            (particle_filter(model, copies(data), particles=30, proposal=p).log_evidence - evidence)
            .square()
            .mean()
        )
        for p in (None, BeliefGuide(model, ExactFilter()))
    ]
    assert spread[1] < 0.3 * spread[0]


@pytest.mark.parametrize("make", [PROPOSALS["bootstrap"], PROPOSALS["exact filter"]])
def test_backward_draws_are_smoothed(linear_case, make):
    """400 filters of 300 particles, 5 draws each: means within .06 (errors about .015)."""
    model, data, _, smoothed = linear_case
    found = particle_filter(model, copies(data), particles=300, proposal=make(model))
    paths = found.sample_paths(5)
    np.testing.assert_allclose(paths.mean((0, 1)), smoothed, atol=0.06)
    np.testing.assert_allclose(found.mean[:, -1].mean(0), smoothed[-1], atol=0.06)


def test_a_flat_first_state_cannot_be_drawn():
    model = LinearGaussianSSM(LocalLevel())
    model = model.with_parameters(observation_variance=1.0, level_variance=0.5)
    data = Sequences.from_arrays([[1.0, 2.0]])
    for proposal in (None, BeliefGuide(model, ExactFilter())):
        with pytest.raises(ValueError, match="proper law of the first state"):
            particle_filter(model, data, proposal=proposal)


def test_a_switching_model_agrees_with_all_its_regime_paths():
    """Regimes and states together, against Kalman filters for each of the 2^4 regime paths."""
    model = SwitchingLinearSSM(2, 1)
    drawn = model.sample(1, 4, seed=1)
    known = model.with_parameters(**drawn.parameters)
    wanted = float(mixture_kalman(known, drawn.data, particles=16).log_evidence)
    found = particle_filter(known, copies(drawn.data), particles=100)
    assert_unbiased(found.log_evidence, wanted)
    paths = particle_filter(known, drawn.data, particles=20).sample_paths(7)
    assert paths.shape == (7, 1, 4, 3)
    assert bool((paths[..., :2].sum(-1) == 1).all())


# --- a nonlinear model with one dimension: a sum over a grid


def deep():
    """States within ±8, transitions no narrower than .8, and outputs that tell of the states."""
    model = DeepMarkovModel(1, "gaussian", transition_width=4, emission_width=4)
    drawn = model.sample(1, 4, seed=50)
    return model.with_parameters(**drawn.parameters), drawn.data


def on_a_grid(laws, steps, size=1201):
    """log p(y) by the trapezoid rule over one-dimensional states."""
    grid = torch.linspace(-12, 12, size, dtype=torch.float64)
    width = float(grid[1] - grid[0])
    column = grid.reshape(-1, 1, 1)
    log_weight = laws.log_first(column)[:, 0] + laws.log_step(column, 0)[:, 0]
    for t in range(1, steps):
        later = column.unsqueeze(0).expand(size, -1, -1, -1)
        before = column.unsqueeze(1).expand(-1, size, -1, -1)
        onward = laws.log_next(later, before, t - 1)[..., 0]
        log_weight = (log_weight.unsqueeze(1) + onward).logsumexp(0) + math.log(width)
        log_weight = log_weight + laws.log_step(column, t)[:, 0]
    return float(log_weight.logsumexp(0)) + math.log(width)


@pytest.mark.parametrize("guided", [False, True], ids=["bootstrap", "network"])
def test_evidence_of_a_deep_model_is_unbiased(guided):
    model, data = deep()
    guide = DeepGuide(model, TrajectoryNetwork(4)).eval() if guided else None
    wanted = on_a_grid(model.laws({}, data), data.max_length)
    found = particle_filter(model, copies(data), particles=30, proposal=guide)
    assert_unbiased(found.log_evidence, wanted)


# --- the objective


def test_fivo_is_the_log_of_the_estimate(linear_case):
    model, data, evidence, _ = linear_case
    guide = BeliefGuide(model, ExactFilter())
    loss = LOSSES["fivo"](guide, Batch(copies(data), 1.0, 500))
    assert -float(loss) / COPIES == pytest.approx(evidence, abs=0.01)


def test_fivo_has_the_gradient_of_the_evidence_where_nothing_is_resampled(linear_case):
    """With many particles and Kalman's proposal; the exact gradient by differences."""
    model, data, _, _ = linear_case
    unknown = LinearGaussianSSM(LinearDynamics(2), features=2)
    known = {name: value for name, value in model.known.items() if name != "observation_variance"}
    unknown = unknown.with_parameters(**known)
    values = torch.tensor(PARTS["observation_variance"], dtype=torch.float64, requires_grad=True)
    laws = unknown.laws({"observation_variance": values}, data[[0] * 50])
    posterior = BeliefGuide(unknown, ExactFilter()).posterior(laws)
    found = log_evidence_by_particles(laws, posterior, 2000).mean()
    (gradient,) = torch.autograd.grad(found, values)
    for place in range(2):
        ends = []
        for step in (-1e-4, 1e-4):
            moved = np.array(PARTS["observation_variance"])
            moved[place] += step
            ends.append(dense(moved)[0])
        wanted = (ends[1] - ends[0]) / 2e-4
        assert float(gradient[place]) == pytest.approx(wanted, rel=0.05, abs=0.02)


def test_fivo_fits(linear_case):
    """Variances come half the way to what the likelihood says, in a few steps."""
    model, _, _, _ = linear_case
    data = model.sample(15, 6, seed=3).data
    unknown = LinearGaussianSSM(LinearDynamics(2), features=2).with_parameters(
        **{n: v for n, v in model.known.items() if n != "observation_variance"}
    )
    guide = BeliefGuide(unknown, LSTMFilter(4), parameters="ml")
    how = FitSettings(
        steps=20,
        particles=6,
        parameter_learning_rate=0.2,
        patience=None,
        sleep_steps=2,
        start={"observation_variance": torch.tensor([3.0, 3.0])},
    )
    result = fit(unknown, guide, data, objective="fivo", settings=how, seed=0, progress=False)
    assert all(math.isfinite(loss) for loss in result.losses)
    wanted = torch.tensor(PARTS["observation_variance"], dtype=torch.float64)
    found = result.fitted.known["observation_variance"]
    assert bool(((found - wanted).abs() < 0.5 * (3.0 - wanted)).all())


def test_fivo_is_for_continuous_states():
    model = HiddenMarkovModel(2, "gaussian")
    data = model.sample(3, 5, seed=0).data
    with pytest.raises(ValueError, match="'fivo' needs a model of continuous states without"):
        fit(model, BeliefGuide(model, LSTMFilter(3)), data, objective="fivo", progress=False)


# --- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": 1}, "particles: must be a whole number >= 2, got 1"),
        ({"resampling": "residual"}, "resampling: must be one of .* got 'residual'"),
        ({"threshold": 1.5}, r"threshold: must be in \[0, 1\], got 1.5"),
        ({"proposal": "guide"}, "proposal: must be a guide or None"),
    ],
)
def test_bad_arguments_are_named(options, message):
    model, data, _, _ = chain()
    with pytest.raises(ValueError, match=message):
        particle_filter(model, data, **options)


def test_models_that_cannot_be_followed_are_named():
    model, data, _, _ = chain()
    with pytest.raises(ValueError, match="model: must be a model"):
        particle_filter(None, data)
    with pytest.raises(ValueError, match="parameters: needs values for"):
        particle_filter(HiddenMarkovModel(3, "gaussian"), data)
    positive = model.with_parameters(transition=[[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7]])
    guide = MeanFieldGuide(positive, LSTMFilter(3))
    with pytest.raises(ValueError, match="proposal: needs a guide with a law of each state"):
        particle_filter(positive, data, proposal=guide)
    with pytest.raises(ValueError, match="n: must be a whole number"):
        particle_filter(model, data, particles=5).sample_paths(0)


def test_the_same_seed_gives_the_same_numbers():
    model, data, _, _ = chain()
    before = torch.get_rng_state()
    one, two = (particle_filter(model, data, particles=9, seed=4) for _ in range(2))
    assert torch.equal(one.states, two.states)
    assert torch.equal(one.log_evidence, two.log_evidence)
    assert torch.equal(one.sample_paths(3), two.sample_paths(3))
    assert torch.equal(before, torch.get_rng_state())
