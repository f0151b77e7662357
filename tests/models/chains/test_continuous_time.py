"""Continuous time: against scipy's matrix exponential, sums over paths, and published figures."""

import itertools
import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy.integrate import quad
from scipy.linalg import expm
from scipy.optimize import minimize
from scipy.stats import entropy, kstest, poisson
from torch.distributions import biject_to

import oracles
from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    ForwardGuide,
    LSTMFilter,
    MeanFieldGuide,
    belief_events,
    filter,
    fit,
    forecast,
    log_evidence,
    nuts,
    predict,
    sample_states,
    smooth,
    to_arviz,
)
from beliefzoo.inference.fitting.start import starting_values
from beliefzoo.models import (
    Categorical,
    ContinuousTimeHMM,
    GeneratorTransition,
    HiddenMarkovModel,
    Misclassification,
    Sequences,
    load_model,
    save_model,
)
from beliefzoo.models.chains.generators import transition_probabilities
from beliefzoo.models.emissions.misclassification import PartialDirichlet

DEATH = [(0, 1), (1, 0), (0, 2), (1, 2)]
"""Ill, well, dead."""


def random_generator(rng, states):
    matrix = rng.gamma(1.0, 1.0, (states, states))
    np.fill_diagonal(matrix, 0)
    return matrix - np.diag(matrix.sum(1))


def panel(codes, times):
    """Codes with None for a missing one."""
    arrays = [[math.nan if c is None else c for c in row] for row in codes]
    return Sequences.from_arrays(arrays, times=times, codes=True)


# --- the matrix exponential


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.3, 1.0, 30.0, 1e3])
def test_transition_probabilities_are_the_matrix_exponential(scale):
    rng = np.random.default_rng(0)
    for states in (2, 3, 6):
        matrix = random_generator(rng, states)
        gaps = scale * rng.uniform(0.1, 1.0, 4)
        got = transition_probabilities(torch.tensor(matrix), torch.tensor(gaps))
        wanted = np.stack([expm(matrix * gap) for gap in gaps])
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-14)


def test_small_probabilities_are_right_to_many_digits_and_zeros_are_exact():
    """A chain of single jumps: P(0 → 3) is (ab c) Δ³ / 6 to first order, P(3 → 0) nothing."""
    matrix = torch.tensor(np.diag([2.0, 3.0, 5.0], 1))
    matrix = matrix - torch.diag(matrix.sum(1))
    gap = torch.tensor([1e-7], dtype=torch.float64)
    got = transition_probabilities(matrix, gap)[0]
    assert float(got[0, 3]) == pytest.approx(30 * 1e-21 / 6, rel=1e-5)
    assert bool((got.tril(-1) == 0).all())
    assert bool((got[torch.ones(4, 4).triu().bool()] > 0).all())


def test_extreme_gaps():
    """No time: nothing moves. Very long: the stationary law, whatever the gap."""
    matrix = random_generator(np.random.default_rng(1), 4)
    values, vectors = np.linalg.eig(matrix.T)
    law = vectors[:, np.abs(values).argmin()].real
    gaps = torch.tensor([0.0, 1e3, 1e9, 1e30], dtype=torch.float64)
    got = transition_probabilities(torch.tensor(matrix), gaps)
    assert torch.equal(got[0], torch.eye(4, dtype=torch.float64))
    for one in got[1:]:
        np.testing.assert_allclose(one, np.tile(law / law.sum(), (4, 1)), atol=1e-10)


def test_gradients_of_the_matrix_exponential_by_differences():
    matrix = torch.tensor(random_generator(np.random.default_rng(2), 3), requires_grad=True)
    gaps = torch.tensor([0.01, 0.7, 9.0], dtype=torch.float64)

    def along(rates):  # directions in which rows keep their sum
        off = rates - torch.diag(rates.diagonal())
        return transition_probabilities(off - torch.diag(off.sum(-1)), gaps)

    assert torch.autograd.gradcheck(along, (matrix,), atol=1e-7)


# --- the model against the sum over all paths


def exact_steps(matrix, times, codes, exact=()):
    """log T of every step by scipy, densities where the entry into an exact state is seen."""
    steps = []
    for gap, code in zip(np.diff(times), codes[1:], strict=True):
        moved = expm(matrix * gap)
        if code in exact:
            into = matrix[:, code].copy()
            into[code] = 0
            column = moved @ into
            moved = np.zeros_like(moved)
            moved[:, code] = column
        steps.append(moved)
    with np.errstate(divide="ignore"):
        return np.log(np.array(steps).reshape(-1, *matrix.shape))


MATRIX = np.array([[-0.7, 0.5, 0.2], [0.3, -1.0, 0.7], [0.0, 0.0, 0.0]])
ERRORS = [(0, 1), (1, 0)]
PROBS = np.array([[0.9, 0.1, 0.0], [0.25, 0.75, 0.0], [0.0, 0.0, 1.0]])
CODES = [[0, 1, None, 1, 2], [1, 0, 2], [0], [None, 1, 1, None], [0, None, 2], [0, 0, 1, 2]]
TIMES = [[0, 0.4, 1.1, 3.0, 3.2], [1, 1.5, 4], [2.5], [0, 1, 2, 7], [0, 1, 1.7], [0, 1, 2, 3]]
INITIAL = [0.6, 0.35, 0.05]


def misclassified(exact=(2,)):
    model = ContinuousTimeHMM(3, jumps=DEATH, errors=ERRORS, exact=exact)
    known = model.with_parameters(generator=MATRIX, probs=PROBS, initial=INITIAL)
    return known, panel(CODES, TIMES)


def chains(exact=(2,)):
    """log_initial, log_transition, log_likelihood of every sequence, by NumPy."""
    with np.errstate(divide="ignore"):
        for codes, times in zip(CODES, TIMES, strict=True):
            seen = [np.zeros(3) if c is None else np.log(PROBS[:, c]) for c in codes]
            yield np.log(INITIAL), exact_steps(MATRIX, times, codes, exact), np.array(seen)


both = pytest.mark.parametrize("exact", [(), (2,)], ids=["snapshots", "exact-deaths"])


def test_a_prediction_does_not_know_that_the_time_is_that_of_a_death():
    """It is a law of the state, exp(G Δ) on from the belief, whatever the step then shows."""
    model, data = misclassified()
    predicted, filtered = predict(model, data), filter(model, data)
    for n, times in enumerate(TIMES):
        for t, gap in enumerate(np.diff(times)):
            wanted = filtered[n, t].numpy() @ expm(MATRIX * gap)
            np.testing.assert_allclose(predicted[n, t + 1], wanted, atol=1e-12)
        assert not predicted[n, len(times) :].any()
    events = belief_events(model, data)
    for n, times in enumerate(TIMES):
        for t, gap in enumerate(np.diff(times)):
            moves, before, now = expm(MATRIX * gap), filtered[n, t].numpy(), filtered[n, t + 1]
            gain = entropy(now.numpy(), before @ moves)
            assert float(events["information gain"][n, t + 1]) == pytest.approx(gain, abs=1e-12)
            kept = entropy(before @ moves) - before @ entropy(moves, axis=1)
            assert float(events["carried information"][n, t + 1]) == pytest.approx(kept, abs=1e-12)


def test_sampled_paths_have_the_smoothed_marginals():
    """4000 paths: a share is off by .04 (five standard errors) once in 10^6."""
    model, data = misclassified()
    paths = sample_states(model, data, 4000, seed=0)
    wanted = smooth(model, data)
    for state in range(3):
        share = (paths == state).double().mean(0)
        torch.testing.assert_close(share, wanted[..., state], atol=0.04, rtol=0)


@both
def test_the_exact_filter_makes_the_elbo_the_evidence(exact):
    model, data = misclassified(exact)
    posterior = BeliefGuide(model, ExactFilter()).posterior(model.laws({}, data))
    torch.testing.assert_close(posterior.elbo(), log_evidence(model, data), rtol=1e-12, atol=0)


@both
@pytest.mark.parametrize("bidirectional", [False, True], ids=["belief", "forward"])
def test_a_network_in_the_guide_is_what_the_sum_over_paths_says(exact, bidirectional):
    """Normalised, bound and marginals by enumeration; zeros of the model included."""
    model, data = misclassified(exact)
    if bidirectional:
        guide = ForwardGuide(model, LSTMFilter(4, direction="both"))
    else:
        guide = BeliefGuide(model, LSTMFilter(4))
    posterior = guide.posterior(model.laws({}, data))
    bound, means = posterior.elbo().detach(), posterior.mean.detach()
    for n, chain in enumerate(chains(exact)):
        length = len(chain[2])
        paths = torch.full((3**length, len(data), data.max_length), -1)
        paths[:, n, :length] = torch.tensor(list(itertools.product(range(3), repeat=length)))
        log_q = posterior.path_log_prob(paths)[:, n].detach().numpy()
        log_p = [oracles.log_joint(path, *chain) for path in paths[:, n, :length].numpy()]
        q = np.exp(log_q)
        assert q.sum() == pytest.approx(1, abs=1e-6)
        used = q > 0
        assert float(bound[n]) == pytest.approx(
            (q[used] * (np.array(log_p)[used] - log_q[used])).sum(), abs=1e-5
        )
        marginals, _ = oracles.path_marginals(paths[:, n, :length].numpy(), q, 3)
        np.testing.assert_allclose(means[n, :length], marginals, atol=1e-6)
    loss = -posterior.elbo().sum()
    loss.backward()
    gradients = [p.grad for p in guide.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(g.isfinite().all()) for g in gradients)


def test_an_exact_time_is_a_density():
    """The densities of entering at s, over all s, and the chances of not having entered, are 1."""
    model = ContinuousTimeHMM(3, jumps=DEATH, exact=[2])
    model = model.with_parameters(generator=MATRIX, initial=[0.6, 0.4, 0])

    def density(codes, times):
        return float(log_evidence(model, panel([codes], [times])).exp())

    first, last = 0.7, 2.0
    for start in (0, 1):
        total = quad(lambda s, z=start: density([z, 2], [0, s]), 1e-9, first)[0]
        for seen in (0, 1):
            after = quad(
                lambda s, z=(start, seen): density([*z, 2], [0, first, s]), first + 1e-9, last
            )
            total += after[0]
            total += sum(density([start, seen, z], [0, first, last]) for z in (0, 1))
        assert total == pytest.approx([0.6, 0.4][start], abs=1e-6)


def test_equal_gaps_are_a_hidden_markov_model_in_discrete_time():
    rng = np.random.default_rng(3)
    matrix = random_generator(rng, 3)
    rates = {"rate": [1.0, 5.0, 20.0], "initial": [0.2, 0.5, 0.3]}
    plain = HiddenMarkovModel(3, "poisson").with_parameters(transition=expm(0.37 * matrix), **rates)
    timed = ContinuousTimeHMM(3, emission="poisson").with_parameters(generator=matrix, **rates)
    data = plain.sample(4, [30, 12, 1, 7], seed=0).data
    times = 5 + 0.37 * torch.arange(30, dtype=torch.float64).expand(4, -1)
    seen = Sequences.from_tensors(data.values, data.mask, data.lengths, times=times)
    for query in (log_evidence, filter, smooth):
        torch.testing.assert_close(query(timed, seen), query(plain, data), rtol=1e-12, atol=1e-12)


def test_inputs_at_the_beginning_of_a_step_drive_the_rates():
    jumps = [(0, 1), (1, 2)]
    effects = ((0, jumps), (1, jumps[:1]))
    model = ContinuousTimeHMM(3, jumps=jumps, inputs=2, effects=effects).with_parameters(
        jump_rate=[0.5, 0.8], jump_effect=[0.3, -0.9], initial=[1, 0, 0]
    )
    inputs = [[[1.0, 0.5], [-2.0, 0.0], [7.0, 7.0]]]
    data = Sequences.from_arrays([[0, 1, 2]], codes=True, times=[[0, 1, 3]], inputs=inputs)
    wanted = 0.0
    for (x, u), gap, (here, there) in zip(inputs[0], (1, 2), ((0, 1), (1, 2)), strict=False):
        first, second = 0.5 * math.exp(0.3 * x - 0.9 * u), 0.8 * math.exp(0.3 * x)
        matrix = np.array([[-first, first, 0], [0, -second, second], [0, 0, 0]])
        wanted += math.log(expm(matrix * gap)[here, there])
    assert float(log_evidence(model, data)) == pytest.approx(wanted, abs=1e-12)


def test_without_effects_every_input_acts_on_every_jump():
    law = GeneratorTransition(jumps=((0, 1), (1, 0)), inputs=2)
    wanted = ((0, ((0, 1),)), (0, ((1, 0),)), (1, ((0, 1),)), (1, ((1, 0),)))
    assert law.acting(2) == wanted
    assert law.priors(2)["jump_effect"].event_shape == (4,)


# --- published figures


@pytest.fixture(scope="module")
def heart(shared_data):
    frame = pd.read_csv(shared_data / "panel" / "cav.csv")
    frame["code"] = frame.state - 1
    return Sequences.from_frame(frame, sequence="PTNUM", time="years", columns="code", codes=True)


def without_first(data):
    mask = data.mask.clone()
    mask[:, 0] = False
    return Sequences.from_tensors(
        data.values, mask, data.lengths, codes=True, times=data.times, labels=data.labels
    )


MARKOV = [(0, 1), (0, 3), (1, 0), (1, 2), (1, 3), (2, 1), (2, 3)]
HIDDEN = [(0, 1), (0, 3), (1, 2), (1, 3), (2, 3)]
MISTAKEN = [(0, 1), (1, 0), (1, 2), (2, 1)]


@pytest.mark.parametrize(("exact", "published"), [((3,), 4908.81676837903), ((), 4833.00640639644)])
def test_heart_transplants_markov(heart, exact, published):
    """-2 log L of the test suite of the R package msm."""
    rates = [0.25, 0.25, 0.166, 0.166, 0.166, 0.25, 0.25]
    model = ContinuousTimeHMM(4, jumps=MARKOV, exact=exact)
    known = model.with_parameters(jump_rate=rates, initial=[1, 0, 0, 0])
    assert -2 * float(log_evidence(known, heart).sum()) == pytest.approx(published, abs=1e-6)


@pytest.mark.parametrize(
    ("certain", "published"), [(False, 4296.9155995778), (True, 4165.84711809003)]
)
def test_heart_transplants_misclassified(heart, certain, published):
    """The same with a first state that is seen like all others, and that is known."""
    model = ContinuousTimeHMM(4, jumps=HIDDEN, errors=MISTAKEN, exact=[3]).with_parameters(
        jump_rate=[0.148, 0.0171, 0.202, 0.081, 0.126],
        probs=[[0.9, 0.1, 0, 0], [0.1, 0.8, 0.1, 0], [0, 0.1, 0.9, 0], [0, 0, 0, 1]],
        initial=[1, 0, 0, 0],
    )
    data = without_first(heart) if certain else heart
    assert -2 * float(log_evidence(model, data).sum()) == pytest.approx(published, abs=1e-6)


def test_psoriatic_arthritis_at_its_maximum(shared_data):
    """Covariates, one shared by all jumps: -2 log L 1114.89946, rate of 1 → 2 .0959350 (msm).

    Rows without covariates are left out; covariates are centred over all rows but a patient's last.
    """
    frame = pd.read_csv(shared_data / "panel" / "psor.csv").dropna()
    names = ["hieffusn", "ollwsdrt"]
    last = frame.groupby("ptnum").cumcount(ascending=False) == 0
    frame[names] -= frame.loc[~last, names].mean()
    frame["code"] = frame.state - 1
    data = Sequences.from_frame(
        frame, sequence="ptnum", time="months", columns="code", inputs=names, codes=True
    )
    jumps = [(0, 1), (1, 2), (2, 3)]
    model = ContinuousTimeHMM(
        4, jumps=jumps, inputs=2, effects=((0, jumps), (1, jumps[:2]), (1, jumps[2:]))
    ).with_parameters(initial=[0.25] * 4)

    def loss(x):
        x = torch.tensor(x, requires_grad=True)
        known = model.with_parameters(jump_rate=x[:3].exp(), jump_effect=x[3:])
        total = -2 * (log_evidence(known, data) + math.log(4)).sum()  # given the first states
        total.backward()
        return total.item(), x.grad.numpy()

    found = minimize(loss, np.log([0.1, 0.2, 0.2, 1, 1, 1]), jac=True, method="BFGS")
    assert found.fun == pytest.approx(1114.89946, abs=1e-5)
    assert math.exp(found.x[0]) == pytest.approx(0.0959350, abs=1e-6)


# --- misclassification


def test_errors_are_the_first_entries_of_dirichlet_rows():
    prior = PartialDirichlet((1, 2), concentration=1.5, rest=4.0)
    x = torch.tensor([0.2, 0.1, 0.3])
    rows = [([1.5, 4.0], [0.2, 0.8]), ([1.5, 1.5, 4.0], [0.1, 0.3, 0.6])]
    wanted = sum(dist.Dirichlet(torch.tensor(a)).log_prob(torch.tensor(p)) for a, p in rows)
    torch.testing.assert_close(prior.log_prob(x), wanted)
    drawn = prior.sample((20000,))  # means off by .01, six standard errors, once in 10^8
    torch.testing.assert_close(drawn.mean(0), prior.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(prior.mean, torch.tensor([1.5 / 5.5, 1.5 / 7, 1.5 / 7]))
    assert bool(prior.support.check(drawn).all())
    for bad in ([0.2, 0.7, 0.4], [-0.1, 0.1, 0.1]):
        assert not bool(prior.support.check(torch.tensor(bad)))


def test_the_map_to_errors_is_one_to_one_with_its_jacobian():
    move = biject_to(PartialDirichlet((1, 3, 2)).support)
    z = torch.randn(6, dtype=torch.float64)
    x = move(z)
    torch.testing.assert_close(move.inv(x), z)
    jacobian = torch.autograd.functional.jacobian(move, z)
    torch.testing.assert_close(move.log_abs_det_jacobian(z, x), jacobian.det().abs().log())


def test_without_errors_the_state_is_seen():
    emission = Misclassification(3)
    assert emission.priors(3) == {}
    assert torch.equal(emission.table({}), torch.eye(3, dtype=torch.float64))


# --- simulation


def test_simulated_entries_have_the_law_of_the_model():
    """From one state at a constant hazard: exponential times, whatever the visits (p > 1e-4)."""
    model = ContinuousTimeHMM(2, jumps=[(0, 1)], exact=[1])
    model = model.with_parameters(jump_rate=[0.5], initial=[1, 0])
    drawn = model.sample(1500, 60, times=np.arange(60) * 0.9, seed=0)
    data = drawn.data
    entered = data.mask & (data.values == 1)
    assert bool((entered.sum(1) == 1).all())  # 53 gaps: all die but for one in 10^11
    when = data.times[entered].numpy()
    assert kstest(when, "expon", args=(0, 2)).pvalue > 1e-4
    assert bool((data.times.diff(dim=1) > 0).all())
    model.check(data)  # nothing is seen after the entry


def test_simulations_recover_what_they_came_from():
    """Rates by maximum likelihood from 400 histories, within 4 of their standard errors or so."""
    truth = ContinuousTimeHMM(3, jumps=DEATH, exact=[2]).with_parameters(
        generator=MATRIX, initial=[0.5, 0.5, 0]
    )
    data = truth.sample(400, 8, times=np.linspace(0, 6, 8), seed=1).data
    model = ContinuousTimeHMM(3, jumps=DEATH, exact=[2]).with_parameters(initial=[0.5, 0.5, 0])
    guide = BeliefGuide(model.scaled_to(data), ExactFilter(), parameters="ml")
    how = FitSettings(steps=120, parameter_learning_rate=0.1, patience=None)
    found = fit(guide.model, guide, data, settings=how, seed=0, progress=False).fitted
    wanted = truth.known["jump_rate"]
    torch.testing.assert_close(found.known["jump_rate"], wanted, rtol=0.35, atol=0)


def test_simulation_keeps_times_lengths_and_gaps():
    model, data = misclassified(exact=())
    again = model.simulate({}, data).data
    assert torch.equal(again.times, data.times)
    assert torch.equal(again.mask, data.mask)
    assert torch.equal(again.lengths, data.lengths)


# --- everything that comes with a hidden Markov model


def test_forecast_is_the_last_belief_moved_on():
    model, data = misclassified()
    last = data.times.gather(1, data.lengths[:, None] - 1)
    ahead = last + torch.tensor([[0.5, 2.0]])
    found = forecast(model, data, 2, times=ahead, draws=2000, seed=0)
    beliefs = filter(model, data)
    for n, length in enumerate(data.lengths.tolist()):
        for h, gap in enumerate((0.5, 2.0)):
            wanted = beliefs[n, length - 1].numpy() @ expm(MATRIX * gap)
            np.testing.assert_allclose(found.state_probability[n, h], wanted, atol=1e-12)
            np.testing.assert_allclose(found.mean[n, h], wanted @ PROBS, atol=1e-12)
    share = (found.draws == 2).double().mean(0)  # 2000 draws: off by .06 once in 10^7
    torch.testing.assert_close(share, found.mean[..., 2], atol=0.06, rtol=0)


def test_states_can_be_numbered_otherwise():
    """The absorbing state first: the same evidence and forecasts."""
    model, data = misclassified()
    turned = ContinuousTimeHMM(
        3, jumps=[(1, 2), (2, 1), (1, 0), (2, 0)], errors=[(1, 2), (2, 1)], exact=[0]
    )
    order = [2, 0, 1]  # the old number of each new state
    turned = turned.with_parameters(
        generator=MATRIX[np.ix_(order, order)],
        probs=PROBS[np.ix_(order, order)],
        initial=np.array(INITIAL)[order],
    )
    codes = [[None if c is None else (c + 1) % 3 for c in row] for row in CODES]
    again = panel(codes, TIMES)
    torch.testing.assert_close(log_evidence(turned, again), log_evidence(model, data))
    ahead = data.times.gather(1, data.lengths[:, None] - 1) + torch.tensor([[0.5, 2.0]])
    one, other = (
        forecast(m, d, 2, times=ahead, draws=2, seed=0).state_probability
        for m, d in ((model, data), (turned, again))
    )
    torch.testing.assert_close(other, one[..., order])


def test_saved_models_are_the_same_model(tmp_path):
    model, data = misclassified()
    unknown = ContinuousTimeHMM(3, jumps=DEATH, errors=ERRORS, inputs=1, effects=((0, DEATH),))
    for number, one in enumerate((model, unknown)):
        save_model(one, tmp_path / str(number))
        again = load_model(tmp_path / str(number))
        assert again.transition == one.transition
        assert again.emission == one.emission
        assert again.known.keys() == one.known.keys()
    again = load_model(tmp_path / "0")
    assert torch.equal(log_evidence(again, data), log_evidence(model, data))


def test_a_fit_starts_where_the_data_say():
    """States are what is observed; rates are moves per time."""
    _, data = misclassified()
    model = ContinuousTimeHMM(3, jumps=DEATH, errors=ERRORS, exact=[2])
    values = starting_values(model, data)
    gaps = torch.cat([torch.tensor(t, dtype=torch.float64).diff() for t in TIMES])
    assert bool((values["jump_rate"] < 1 / gaps.mean()).all())
    assert values["error"].tolist() == pytest.approx([1 / 6, 1 / 6])
    days = [[365 * t for t in row] for row in TIMES]
    slow = starting_values(model, panel(CODES, days))
    torch.testing.assert_close(slow["jump_rate"] * 365, values["jump_rate"], rtol=1e-5, atol=0)


def test_nuts_and_the_export():
    model, data = misclassified()
    model = ContinuousTimeHMM(3, jumps=DEATH, errors=ERRORS, exact=[2]).with_parameters(
        initial=INITIAL
    )
    sampled = nuts(model, data, chains=1, draws=10, warmup=10, progress=False)
    last = data.times.gather(1, data.lengths[:, None] - 1)
    exported = to_arviz(
        sampled, data, forecast=1, times=last + 1, state_draws=5, predictive_draws=3
    )
    posterior = exported["posterior"]
    assert posterior["jump_rate"].dims == ("chain", "draw", "jump")
    assert posterior["jump"].values.tolist() == ["0→1", "1→0", "0→2", "1→2"]
    assert posterior["misclassification"].values.tolist() == ["0→1", "1→0"]
    row = {name: draws[0, 3] for name, draws in sampled.draws.items()}
    wanted = log_evidence(model.with_parameters(**row), data)
    found = exported["sample_stats"]["sequence_log_likelihood"].values[0, 3]
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert exported["predictions"]["obs"].shape == (1, 3, 6, 1)


@pytest.mark.parametrize("objective", ["elbo", "iwae", "rws", "forward_kl"])
def test_every_objective_takes_a_step(objective):
    _, data = misclassified()
    model = ContinuousTimeHMM(3, jumps=DEATH, errors=ERRORS, exact=[2])
    guide = BeliefGuide(model, LSTMFilter(4))
    how = FitSettings(steps=2, patience=None, particles=3)
    result = fit(model, guide, data, objective=objective, settings=how, seed=0, progress=False)
    assert all(math.isfinite(loss) for loss in result.losses)


def test_a_single_state_needs_no_jumps():
    model = ContinuousTimeHMM(1, emission="poisson")
    drawn = model.sample(3, 5, times=np.arange(5.0), seed=0)
    known = model.with_parameters(rate=[3.0])
    y = drawn.data.values[..., 0].double()
    wanted = (y * math.log(3) - 3 - (y + 1).lgamma()).sum(1)
    torch.testing.assert_close(log_evidence(known, drawn.data), wanted)


# --- bad input


def simple(**options):
    return ContinuousTimeHMM(3, jumps=DEATH, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: simple().with_parameters(generator=[[-1, 0.5, 0.4], [1, -2, 1], [0, 0, 0]]),
         "generator: needs rows that sum to 0, got -0.0999.* in row 0"),
        (lambda: simple().with_parameters(generator=[[-1, 0.5, 0.5], [1, -2, 1], [1, 0, -1]]),
         "generator: needs 0 where no jump is allowed, got 1.0 from 2 to 0"),
        (lambda: simple().with_parameters(generator=[[-1, 1], [1, -1]]), "needs shape"),
        (lambda: simple().with_parameters(generator=[[1, -0.5, -0.5], [1, -2, 1], [0, 0, 0]]),
         "jump_rate: needs values in"),
        (lambda: ContinuousTimeHMM(3, jumps=[(0, 1), (1, 1)]), "jumps: must be different pairs"),
        (lambda: ContinuousTimeHMM(3, jumps=[(0, 1), (0, 1)]), "jumps: must be different pairs"),
        (lambda: ContinuousTimeHMM(3, jumps=[(0, 1), (1, 3)]), "jumps: must name states in"),
        (lambda: ContinuousTimeHMM(3, jumps=np.eye(3, dtype=bool)), "diagonal of False"),
        (lambda: simple(exact=[1]), "exact: must be states that jumps enter and none"),
        (lambda: ContinuousTimeHMM(3, exact=[2]), "exact: needs jumps"),
        (lambda: simple(exact=[2], errors=[(1, 2)]), "exact: needs an emission Misclassification"),
        (lambda: simple(exact=[2], emission=Categorical(3)), "exact: needs an emission"),
        (lambda: simple(errors=[(0, 0)]), "errors: must be different pairs"),
        (lambda: simple(errors=[(0, 1)], emission="poisson"), "errors: belong to the default"),
        (lambda: simple(inputs=1, effects=((1, DEATH),)), "effects: has columns below 1, got 1"),
        (lambda: simple(inputs=1, effects=((0, [(2, 0)]),)), "effects: must act on jumps"),
        (lambda: simple(effects=((0, DEATH),)), "effects: needs inputs"),
        (lambda: HiddenMarkovModel(2, "poisson", initial="stationary",
                                   transition=GeneratorTransition()), "must be 'free'"),
        (lambda: simple(errors=ERRORS).with_parameters(
            probs=[[0.9, 0.05, 0.05], [0, 1, 0], [0, 0, 1]]),
         "probs: .* got 0.05 for state 0 observed as 2"),
        (lambda: simple(errors=ERRORS).with_parameters(error=[0.3, 1.2]), "error: needs values in"),
        (lambda: simple().sample(2, 3), "data.times: .* needs the time of every step"),
        (lambda: forecast(*misclassified(), 2), "times: forecasting needs future times"),
        (lambda: forecast(*misclassified(), 1, times=torch.ones(6, 1)), "in sequence 0"),
        (lambda: HiddenMarkovModel(2, "poisson").sample(2, 3, times=[0, 1, 2]), "reads none"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("codes", "times", "message"),
    [
        (
            [0, 1, 0],
            [0, 1, 1],
            "lead to, got state 0 after .* in sequence 'b', step 2, time 1",
        ),
        (
            [0, 2, 1],
            [0, 1, 4],
            "nothing after the entry .* got state 1 in sequence 'b', step 2, time 4",
        ),
        ([0, 2, 2], [0, 1, 4], "nothing after the entry .* got state 2 in sequence 'b', step 2"),
    ],
)
def test_bad_histories_are_named(codes, times, message):
    data = Sequences.from_arrays(
        [[0, 1], codes], times=[[0, 1], times], codes=True, labels=["a", "b"]
    )
    model = simple(exact=[2])
    with pytest.raises(ValueError, match=message):
        log_evidence(model.with_parameters(generator=MATRIX, initial=INITIAL), data)
    with pytest.raises(ValueError, match=message):
        model.check(data)


def test_moves_that_are_not_allowed_are_named():
    model = ContinuousTimeHMM(3, jumps=[(0, 1), (1, 2)], errors=[(1, 0)])
    allowed = panel([[0, 1, 0, 2], [0, 2, None, 2]], [[0, 1, 2, 3]] * 2)
    model.check(allowed)  # a 0 after a 1 is an error
    with pytest.raises(ValueError, match=r"got state 1 after .* in sequence '1', step 2, time 2"):
        model.check(panel([[0, 1], [0, 2, 1]], [[0, 1], [0, 1, 2]]))
    known = model.with_parameters(initial=[0, 0, 1])
    with pytest.raises(ValueError, match="got state 0 after nothing in sequence '0', step 0"):
        known.check(allowed)


def test_times_are_required():
    model, _ = misclassified()
    with pytest.raises(ValueError, match=r"data\.times: .* needs the time of every step"):
        log_evidence(model, Sequences.from_arrays([[0, 1]], codes=True))


def test_independent_steps_of_sequences_that_end_early():
    """What stands in the padding is no move: each bound is that of the sequence on its own."""
    model = ContinuousTimeHMM(2, emission="gaussian").with_parameters(
        generator=[[-0.4, 0.4], [0.3, -0.3]], initial=[0.5, 0.5], mean=[0.0, 1.0], scale=[1.0, 1.0]
    )
    data = Sequences.from_arrays(
        [[0.1, 0.5, 1.2, 0.3], [0.4, 1.0]], times=[[0.0, 0.4, 1.0, 3.0], [0.0, 2.0]]
    )
    guide = MeanFieldGuide(model, LSTMFilter(3))
    bound = guide.posterior(model.laws({}, data)).elbo().detach()
    for n in range(2):
        alone = data[n]
        expected = guide.posterior(model.laws({}, alone), learn=False).elbo()
        torch.testing.assert_close(bound[n], expected[0])
        paths = torch.tensor(list(itertools.product(range(2), repeat=int(alone.lengths[0]))))
        laws = model.laws({}, alone)
        own = guide.posterior(laws, learn=False)
        log_q = own.path_log_prob(paths.unsqueeze(1))[:, 0].double()
        log_p = own.chain_log_prob(paths.unsqueeze(1)) + own.emission_log_prob(paths.unsqueeze(1))
        total = (log_q.exp() * (log_p[:, 0].double() - log_q)).sum()
        assert float(bound[n]) == pytest.approx(float(total), rel=1e-5)


def test_measurements_at_the_same_moment_are_of_one_state():
    """Two counts at a time are as likely as independent draws of one state, by a sum over paths."""
    rate = torch.tensor([1.0, 6.0], dtype=torch.float64)
    model = ContinuousTimeHMM(2, "poisson").with_parameters(
        initial=[0.3, 0.7], generator=[[-0.5, 0.5], [0.2, -0.2]], rate=rate
    )
    data = Sequences.from_arrays([[0, 2, 7, 5]], times=[[0.0, 0.0, 1.5, 1.5]])
    moved = torch.tensor(expm(np.array([[-0.5, 0.5], [0.2, -0.2]]) * 1.5))
    chance = poisson.pmf([[0, 2, 7, 5]], rate.numpy()[:, None])
    first, second = torch.tensor(chance[:, :2].prod(1)), torch.tensor(chance[:, 2:].prod(1))
    wanted = (torch.tensor([0.3, 0.7], dtype=torch.float64) * first) @ moved @ second
    assert float(log_evidence(model, data)) == pytest.approx(float(wanted.log()), rel=1e-12)
    beliefs = smooth(model, data)[0]
    torch.testing.assert_close(beliefs[0], beliefs[1])
    torch.testing.assert_close(beliefs[2], beliefs[3])
    free = ContinuousTimeHMM(2, "poisson")
    short = FitSettings(steps=3, sleep_steps=1, restart_steps=1)
    found = fit(free, BeliefGuide(free, LSTMFilter(2)), data, settings=short, progress=False)
    assert found.losses.isfinite().all()  # networks read the log of the gap


def test_a_death_at_the_moment_of_a_measurement_has_the_density_of_its_rate():
    model = simple(exact=[2]).with_parameters(generator=MATRIX, initial=INITIAL)
    one = Sequences.from_arrays([[0, 1]], times=[[0, 1]], codes=True)
    two = Sequences.from_arrays([[0, 1, 2]], times=[[0, 1, 1]], codes=True)
    gained = float(log_evidence(model, two) - log_evidence(model, one))
    assert gained == pytest.approx(np.log(np.asarray(MATRIX)[1][2]))
