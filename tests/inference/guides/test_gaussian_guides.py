"""Guides of models with continuous states: identities, training, objectives, gaps."""

import math

import numpy as np
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO

from beliefzoo.inference import (
    BeliefGuide,
    ElmanFilter,
    ExactFilter,
    FitSettings,
    ForwardGuide,
    GRUFilter,
    LSTMFilter,
    MeanFieldGuide,
    evidence_gap,
    fit,
)
from beliefzoo.inference.filters.gaussian_beliefs import GaussianBeliefs
from beliefzoo.inference.fitting.objectives import Batch, elbo, forward_kl, iwae, rws
from beliefzoo.inference.guides.gaussian_posteriors import GaussianBackward
from beliefzoo.models import (
    LinearDynamics,
    LinearGaussianSSM,
    LocalLevel,
    OrnsteinUhlenbeck,
    Sequences,
)
from gaussian_cases import textbook_filter


def rotation(angle: float = 0.4) -> LinearGaussianSSM:
    """A rotating pair of which one number and a half are observed."""
    turn = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    return LinearGaussianSSM(LinearDynamics(2), 2).with_parameters(
        transition=0.95 * torch.tensor(turn, dtype=torch.float64),
        process_covariance=0.3 * torch.eye(2),
        initial_mean=torch.zeros(2),
        initial_covariance=2.0 * torch.eye(2),
        loading=[[1.0, 0.0], [0.5, 0.5]],
        intercept=[0.0, 1.0],
        observation_covariance=[[0.5, 0.0], [0.0, 1.0]],
    )


def rotating_case(lengths=(6, 3, 1), seed=1):
    model = rotation()
    arrays = model.sample(len(lengths), list(lengths), seed=seed).data.arrays()
    arrays[0][1] = np.nan
    arrays[0][3:, 1] = np.nan
    return model, Sequences.from_arrays(arrays)


def irregular_case():
    model = LinearGaussianSSM(OrnsteinUhlenbeck()).with_parameters(
        rate=0.7, mean=1.0, stationary_variance=2.0, observation_variance=0.5
    )
    times = torch.tensor([[0.0, 0.1, 3.0, 3.5], [1.0, 2.0, 2.2, 9.0]])
    return model, model.sample(2, [4, 3], times=times, seed=0).data


def level_case():
    """A diffuse start, which the first observation ends."""
    model = LinearGaussianSSM(LocalLevel()).with_parameters(
        level_variance=1.5, observation_variance=2.0
    )
    return model, Sequences.from_arrays([[1.0, np.nan, 2.0, 5.0], [3.0]])


CASES = {"rotation": rotating_case, "irregular": irregular_case, "level": level_case}
every_case = pytest.mark.parametrize("case", CASES)

GUIDES = {
    "belief-exact": lambda m: BeliefGuide(m, ExactFilter()),
    "belief-lstm": lambda m: BeliefGuide(m, LSTMFilter(5)),
    "belief-likelihoods": lambda m: BeliefGuide(m, GRUFilter(5, reads="likelihoods")),
    "forward-causal": lambda m: ForwardGuide(m, ElmanFilter(5)),
    "forward-backward": lambda m: ForwardGuide(m, LSTMFilter(5, direction="backward")),
    "forward-both": lambda m: ForwardGuide(m, LSTMFilter(5, direction="both", reads="both")),
    "mean-field": lambda m: MeanFieldGuide(m, LSTMFilter(5, direction="both")),
}
every_guide = pytest.mark.parametrize("make", GUIDES.values(), ids=GUIDES)
recurrent_guide = pytest.mark.parametrize(
    "make", [make for name, make in GUIDES.items() if name != "belief-exact"]
)


@every_case
def test_exact_filter_makes_the_bound_the_evidence(case):
    """Also through the beliefs themselves, to 1e-8; with a diffuse start as well."""
    model, data = CASES[case]()
    laws = model.laws({}, data)
    guide = BeliefGuide(model, ExactFilter())
    bound = guide.bound(laws)
    torch.testing.assert_close(guide.posterior(laws).elbo(), bound)
    with_beliefs = GaussianBackward(laws, ExactFilter()(laws))
    torch.testing.assert_close(with_beliefs.elbo(), bound, atol=1e-8, rtol=0)
    torch.testing.assert_close(with_beliefs.mean, guide.posterior(laws).mean)
    torch.testing.assert_close(with_beliefs.covariance, guide.posterior(laws).covariance)
    if case != "level":
        torch.testing.assert_close(bound, textbook_filter(laws)[2], atol=1e-8, rtol=0)


@every_case
@every_guide
def test_the_bound_is_below_the_evidence_and_the_mean_of_weights(case, make):
    """Of 4000 draws, within 5 standard errors (1 in 10^6 a sequence)."""
    model, data = CASES[case]()
    laws = model.laws({}, data)
    evidence = BeliefGuide(model, ExactFilter()).bound(laws)
    guide = make(model)
    guide.calibrate(data)
    with torch.no_grad():
        bound = guide.bound(laws)
        posterior = guide.posterior(laws)
        paths = posterior.sample_paths(4000)
        weights = posterior.log_weights(paths)
    assert bool((bound <= evidence + 1e-8).all())
    allowed = 5 * weights.std(0) / math.sqrt(4000) + 1e-8
    assert bool(((weights.mean(0) - bound).abs() <= allowed).all())
    assert bool((paths[:, ~data.step_mask] == 0).all())


@every_guide
def test_pyro_estimates_the_same_bound(make):
    """Plain TraceMeanField_ELBO: mean of 100 within 5 standard errors (1 in 10^6)."""
    model, data = rotating_case()
    guide = make(model)
    with torch.no_grad():
        bound = guide.bound(model.laws({}, data)).sum().item()
        losses = [TraceMeanField_ELBO().loss(model, guide, data) for _ in range(100)]
    allowed = 5 * np.std(losses) / math.sqrt(100) + 1e-8
    assert abs(np.mean(losses) + bound) <= allowed


@recurrent_guide
def test_training_closes_the_gap(make):
    """A hundred steps take away more than half of what the fresh network misses."""
    model = rotation()
    data = model.sample(60, 6, seed=2).data
    guide = make(model)
    settings = FitSettings(
        steps=100, batch_size=30, learning_rate=2e-2, sleep_steps=0, holdout=0, patience=None
    )
    guide.calibrate(data)
    before = evidence_gap(guide, data).gap_per_step
    after = evidence_gap(fit(model, guide, data, settings=settings, progress=False), data)
    assert 0 < after.gap_per_step < before / 2


@recurrent_guide
@pytest.mark.parametrize("objective", [elbo, iwae, rws, forward_kl])
def test_every_objective_has_finite_gradients(make, objective):
    """With unknown parameters: all weights and all variational parameters move."""
    _, data = rotating_case()
    model = LinearGaussianSSM(LinearDynamics(2), 2)
    guide = make(model).fresh({})
    guide.calibrate(data)
    objective(guide, Batch(data, 1.0, 3)).backward()
    for parameter in (*guide.filter_modules(), *guide.parameter_modules()):
        assert bool(parameter.grad.isfinite().all())
        assert bool((parameter.grad != 0).any())


class Doubtful(ExactFilter):
    """Kalman's beliefs, moved and widened: weights are bounded then."""

    def forward(self, laws):
        beliefs = super().forward(laws)
        return GaussianBeliefs(beliefs.mean + 0.3, 1.2 * beliefs.scale)


def test_iwae_tends_to_the_evidence():
    """From the bound up, to .02 nats at 20 000 draws."""
    model, data = rotating_case()
    guide = BeliefGuide(model, Doubtful())
    laws = model.laws({}, data)
    evidence = BeliefGuide(model, ExactFilter()).bound(laws).sum().item()
    bound = guide.bound(laws).sum().item()
    few = [-iwae(guide, Batch(data, 1.0, 1)).item() for _ in range(200)]
    many = -iwae(guide, Batch(data, 1.0, 20_000)).item()
    assert abs(np.mean(few) - bound) < 5 * np.std(few) / math.sqrt(200)
    assert bound < evidence - 0.1
    assert many == pytest.approx(evidence, abs=0.02)


def test_iwae_of_the_exact_posterior_is_the_evidence_with_its_gradient():
    model = LinearGaussianSSM(LinearDynamics(2), 2)
    _, data = rotating_case()
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    weights = list(guide.parameter_modules())
    found = []
    for objective in elbo, iwae:
        loss = objective(guide, Batch(data, 1.0, 3))
        found.append([loss, *torch.autograd.grad(loss, weights)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-5, atol=1e-6)


def test_sleep_trains_the_belief_alone():
    """−Σ log β_t(z_t), and the same number whatever the backward kernel."""
    model, data = rotating_case()
    guide = BeliefGuide(model, LSTMFilter(4))
    laws = model.laws({}, data)
    paths = torch.randn(3, 6, 2, dtype=torch.float64)
    beliefs = guide.filter(laws)
    loss = guide.sleep_loss(laws, paths)
    for n, length in enumerate(data.lengths.tolist()):
        total = 0.0
        for t in range(length):
            law = torch.distributions.MultivariateNormal(
                beliefs.mean[n, t], beliefs.covariance[n, t]
            )
            total -= float(law.log_prob(paths[n, t]).detach())
        assert float(loss[n].detach()) == pytest.approx(total, rel=1e-9)


def test_gap_fields_are_what_their_definitions_say():
    model, data = rotating_case()
    guide = BeliefGuide(model, LSTMFilter(4))
    guide.calibrate(data)
    gap = evidence_gap(guide, data)
    laws = model.laws({}, data)
    mean, covariance, evidence = textbook_filter(laws)
    with torch.no_grad():
        beliefs = guide.filter(laws)
    torch.testing.assert_close(gap.log_evidence, evidence)
    torch.testing.assert_close(gap.surprise.sum(-1), -evidence)

    def kl(m, v, n, w):
        inverse = np.linalg.inv(w)
        dets = np.linalg.slogdet(w)[1] - np.linalg.slogdet(v)[1]
        return 0.5 * (np.trace(inverse @ v) + (n - m) @ inverse @ (n - m) - len(m) + dets)

    a, q = laws.transition[0, 0].numpy(), laws.noise[0, 0].numpy()
    c, d, r = (x[0, 0].numpy() for x in (laws.loading, laws.intercept, laws.observation_noise))
    for n, length in enumerate(data.lengths.tolist()):
        for t in range(length):
            m, v = beliefs.mean[n, t].numpy(), beliefs.covariance[n, t].numpy()
            exact = kl(mean[n, t].numpy(), covariance[n, t].numpy(), m, v)
            assert float(gap.kl_filter[n, t]) == pytest.approx(exact, rel=1e-6)
            p, s = laws.initial_mean[0].numpy(), laws.initial_covariance[0].numpy()
            if t:
                p = a @ beliefs.mean[n, t - 1].numpy()
                s = a @ beliefs.covariance[n, t - 1].numpy() @ a.T + q
            seen = laws.mask[n, t].numpy()
            if seen.any():
                here = c[seen]
                gain = s @ here.T @ np.linalg.inv(here @ s @ here.T + r[np.ix_(seen, seen)])
                p = p + gain @ (laws.values[n, t].numpy()[seen] - d[seen] - here @ p)
                s = s - gain @ here @ s
            assert float(gap.update_error[n, t]) == pytest.approx(kl(m, v, p, s), rel=1e-5)
        assert bool((gap.kl_filter[n, length:] == 0).all())
        assert bool((gap.update_error[n, length:] == 0).all())


@every_case
def test_gaps_of_other_guides(case):
    model, data = CASES[case]()
    exact = evidence_gap(BeliefGuide(model, ExactFilter()), data)
    assert exact.gap_per_step == pytest.approx(0, abs=1e-12)
    assert exact.kl_filter_per_step == 0
    forward = evidence_gap(ForwardGuide(model, LSTMFilter(4)), data)
    assert forward.kl_filter is None
    mean_field = evidence_gap(MeanFieldGuide(model, LSTMFilter(4)), data)
    assert mean_field.kl_filter_per_step > 0
    assert mean_field.update_error is None
    assert mean_field.gap_per_step > 0
    if case == "level":  # nothing is known before the first observation
        ours = evidence_gap(BeliefGuide(model, LSTMFilter(4)), data)
        assert bool((ours.update_error[:, 0] == 0).all())
        assert bool((ours.kl_filter[:, 0] > 0).all())


def test_a_guide_of_other_laws_says_what_it_needs():
    model, _ = rotating_case()

    class Other:
        data = discrete = linear = None

    class Silent(LSTMFilter):
        def forward(self, laws):
            return GaussianBeliefs(torch.zeros(1, 2, 2), torch.ones(1, 2, 2))

    with pytest.raises(ValueError, match="linear or can be linearised, got Other"):
        BeliefGuide(model, Silent(4)).posterior(Other())
    with pytest.raises(ValueError, match="ForwardGuide needs discrete states or linear"):
        ForwardGuide(model, Silent(4)).posterior(Other())
    with pytest.raises(ValueError, match="reads the future"):
        BeliefGuide(model, LSTMFilter(4, direction="backward"))
