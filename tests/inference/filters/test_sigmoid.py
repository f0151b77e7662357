"""Logistic units read as beliefs and as sampled bits: against loops and sums over all paths."""

import itertools

import numpy as np
import pytest
import torch
from scipy.special import expit

import oracles
from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    ForwardGuide,
    LSTMFilter,
    SampledBitGuide,
    SigmoidFilter,
    evidence_gap,
    fit,
    load_fit,
    log_evidence,
    save_fit,
)
from beliefzoo.inference.guides.posteriors import Forward
from beliefzoo.inference.guides.sampled_bits import SampledBits
from beliefzoo.models import (
    Bernoulli,
    FullGaussian,
    Gaussian,
    HiddenMarkovModel,
    InputTransition,
    LinearGaussianSSM,
    LocalLevel,
    Sequences,
    TemporalRBM,
    TemporalSigmoidBeliefNetwork,
    node_gate,
)
from filter_cases import with_drawn_weights

LENGTHS = (4, 2, 1)


def directed(nodes=2, features=3, coupling="full"):
    """Nodes whose rows of loadings are orthogonal: the gate is exact (SCIENCE I3)."""
    generator = torch.Generator().manual_seed(7)
    rows = torch.linalg.qr(torch.randn(features, nodes, generator=generator).double()).Q.mT
    weight = torch.randn(nodes, nodes, generator=generator).double()
    model = TemporalSigmoidBeliefNetwork(nodes, Gaussian(features), coupling=coupling)
    return model.with_parameters(
        node_initial=torch.linspace(-0.5, 0.5, nodes),
        node_weight=weight if coupling == "full" else weight.diagonal(),
        node_bias=torch.linspace(0.3, -0.3, nodes),
        node_loading=1.5 * rows,
        node_intercept=torch.linspace(-1, 1, features),
        scale=torch.full((features,), 0.8),
    )


def harmonium(nodes=2, features=3):
    """Any weights; outputs that couple the nodes."""
    generator = torch.Generator().manual_seed(8)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator).double()

    return TemporalRBM(nodes, Bernoulli(features)).with_parameters(
        node_initial=drawn(nodes),
        node_weight=2 * drawn(nodes, nodes),
        node_bias=drawn(nodes),
        node_loading=drawn(nodes, features),
        node_intercept=drawn(features),
    )


def two_states():
    model = HiddenMarkovModel(2, "gaussian", transition=InputTransition(1))
    inputs = torch.randn(len(LENGTHS), max(LENGTHS), 1, dtype=torch.float64)
    drawn = model.sample(len(LENGTHS), list(LENGTHS), seed=1, inputs=inputs)
    return model.with_parameters(**drawn.parameters), drawn.data


CASES = {
    "directed": lambda: sampled(directed()),
    "harmonium": lambda: sampled(harmonium()),
    "moves-that-vary": two_states,
}
every_case = pytest.mark.parametrize("make", CASES.values(), ids=CASES)


def sampled(model):
    """Ragged data, a step of which nothing is seen."""
    data = model.sample(len(LENGTHS), list(LENGTHS), seed=2).data
    mask = data.mask.clone()
    mask[0, 1] = False
    return model, Sequences.from_tensors(data.values, mask=mask, lengths=data.lengths)


def random_filter(model, seed=3, **options):
    return with_drawn_weights(SigmoidFilter(**options), model, seed)


def logits_by_loop(network, laws, sequence):
    """W_y x + b + W_h h, step by step in NumPy."""
    x = network.channels(laws)[sequence].detach().numpy()
    w_y, w_h = network.input_weight.detach().numpy(), network.matrix.detach().numpy()
    first, later = network.first_bias.detach().numpy(), network.bias.detach().numpy()
    found, hidden = [], None
    for step in x:
        logit = w_y @ step + (first if hidden is None else later + w_h @ hidden)
        found.append(logit)
        hidden = expit(logit)
    return np.stack(found)


@every_case
@pytest.mark.parametrize("coupling", ["full", "diagonal"])
def test_the_recursion_is_the_plain_loop(make, coupling):
    model, data = make()
    laws = model.laws({}, data)
    network = random_filter(model, coupling=coupling)
    beliefs = network(laws).detach().numpy()
    nodes = len(network.bias)
    for n in range(len(data)):
        logits = logits_by_loop(network, laws, n)
        for t, state in itertools.product(range(len(logits)), range(2**nodes)):
            bits = [(state >> (nodes - 1 - j)) & 1 for j in range(nodes)]
            each = [p if bit else 1 - p for p, bit in zip(expit(logits[t]), bits, strict=True)]
            assert beliefs[n, t, state] == pytest.approx(np.log(np.prod(each)), abs=1e-12)


def test_without_feedback_and_with_observations_of_their_own_it_is_the_exact_filter():
    known = directed()
    model = known.with_parameters(node_weight=torch.zeros(2, 2))
    data = model.sample(5, 6, seed=0).data
    network = SigmoidFilter()
    network.build(model)
    network.double().write(model, node_gate(model))
    laws = model.laws({}, data)
    torch.testing.assert_close(network(laws), ExactFilter()(laws), atol=1e-10, rtol=0)
    gap = evidence_gap(BeliefGuide(model, network), data)
    assert gap.gap_per_step == pytest.approx(0, abs=1e-10)
    # With feedback the first step is exact, and later ones are not.
    fed = SigmoidFilter()
    fed.build(known)
    fed.double().write(known, node_gate(known))
    laws = known.laws({}, known.sample(5, 6, seed=0).data)
    off = (fed(laws) - ExactFilter()(laws)).detach().abs().amax((0, 2))
    assert float(off[0]) < 1e-10
    assert float(off[1:].min()) > 1e-3


def test_the_gate_that_was_written_is_read_back_in_units_of_the_data():
    model = directed()
    data = model.sample(50, 5, seed=0).data
    network = SigmoidFilter()
    network.build(model)
    network.double().calibrate(model, data)
    assert float(network.channels.shift.abs().max()) > 0.1  # scaled, not by chance in place
    gate = node_gate(model)
    network.write(model, gate)
    for name in ("node_weight", "natural_weight", "bias", "first_bias"):
        torch.testing.assert_close(getattr(network.gate, name), getattr(gate, name))
    laws = model.laws({}, data)
    raw = data.values.double() @ gate.natural_weight.mT
    raw = raw + torch.cat([gate.first_bias[None], gate.bias.expand(4, -1)])
    torch.testing.assert_close(network.drive(laws), raw)


def test_one_node_in_units_of_half_the_logit():
    """W_h = 4 a feeds back a m: ½ logit_t = ½ drive_t + a m_{t-1} + a, m = tanh(½ logit)."""
    model = HiddenMarkovModel(2, "gaussian").with_parameters(
        initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], mean=[-1, 1], scale=[1, 1]
    )
    laws = model.laws({}, model.sample(3, 7, seed=0).data)
    network = random_filter(model)
    half = network.logits(laws)[..., 0].detach() / 2
    slope = float(network.matrix.detach().squeeze()) / 4
    expected = network.drive(laws)[:, 1:, 0].detach() / 2 + slope * (1 + half[:, :-1].tanh())
    torch.testing.assert_close(half[:, 1:], expected)


# The sampled bit


def guide_of(model):
    guide = SampledBitGuide(model, random_filter(model))
    return guide.double()


@every_case
def test_the_law_of_paths_is_the_product_of_gates(make):
    """Normalised, with the stated densities, marginals and bound: all by enumeration."""
    model, data = make()
    laws, guide = model.laws({}, data), guide_of(model)
    posterior = guide.posterior(laws)
    bound = posterior.elbo().detach()
    drive, weight = guide.filter.drive(laws).detach().numpy(), guide.filter.matrix.detach().numpy()
    nodes, states = len(weight), model.states
    bits = np.array(list(itertools.product([0, 1], repeat=nodes)))
    for n, length in enumerate(data.lengths.tolist()):
        paths = oracles.all_paths(length, states)
        log_q = np.zeros(len(paths))
        for i, path in enumerate(paths):
            for t, state in enumerate(path):
                on = expit(drive[n, t] + (weight @ bits[path[t - 1]] if t else 0))
                log_q[i] += np.log(np.where(bits[state] == 1, on, 1 - on)).sum()
        assert np.exp(log_q).sum() == pytest.approx(1, abs=1e-12)
        first = laws.log_initial.expand(len(data), -1)[n].numpy()
        shape = (len(data), max(LENGTHS) - 1, states, states)
        onward = laws.log_transition.expand(shape)[n, : length - 1].numpy()
        told = laws.log_likelihood[n, :length].numpy()
        log_p = np.array([oracles.log_joint(path, first, onward, told) for path in paths])
        assert float(bound[n]) == pytest.approx((np.exp(log_q) * (log_p - log_q)).sum(), abs=1e-9)
        whole = torch.full((len(paths), len(data), max(LENGTHS)), -1)
        whole[:, n, :length] = torch.tensor(paths)
        ours = posterior.path_log_prob(whole)[:, n].detach().numpy()
        np.testing.assert_allclose(ours, log_q, atol=1e-12)
        marginals, _ = oracles.path_marginals(paths, np.exp(log_q), states)
        np.testing.assert_allclose(posterior.mean[n, :length].detach(), marginals, atol=1e-10)
    assert bool((posterior.mean[~data.step_mask] == 0).all())
    assert bool((bound <= log_evidence(model, data)).all())


def test_drawn_paths_have_the_marginals():
    """4000 paths: every frequency within 5 standard errors of its marginal (1 in 10^5)."""
    model, data = sampled(directed())
    posterior = guide_of(model).posterior(model.laws({}, data))
    hard = posterior.sample((4000,))
    mean = posterior.mean.detach()
    spread = (mean * (1 - mean) / 4000).sqrt() + 1e-9
    assert float(((hard.mean(0) - mean).abs() / spread).max()) < 5
    assert bool((hard.sum(-1) == data.step_mask).all())


def test_the_gradient_of_the_bound_is_that_of_the_sum_over_paths():
    model, data = sampled(harmonium())
    laws, guide = model.laws({}, data), guide_of(model)
    posterior = guide.posterior(laws)
    weights = list(guide.filter.parameters())
    ours = torch.autograd.grad(posterior.elbo()[0], weights, retain_graph=True)
    paths = torch.full((4**4, 3, 4), -1)
    paths[:, 0] = torch.tensor(oracles.all_paths(4, 4))
    log_q = posterior.path_log_prob(paths)[:, 0]
    log_p = (posterior.chain_log_prob(paths) + posterior.emission_log_prob(paths))[:, 0]
    slow = torch.autograd.grad((log_q.exp() * (log_p - log_q)).sum(), weights)
    for one, other in zip(ours, slow, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("make", [directed, harmonium])
def test_the_written_gate_is_the_exact_law_of_the_next_bits(make):
    """p(h_2 | h_1, y_2) from the joint of two steps, for every h_1 and h_2 (SCIENCE I3)."""
    model = make()
    data = model.sample(3, 2, seed=4).data
    guide = SampledBitGuide(model, SigmoidFilter()).double()
    guide.filter.write(model, node_gate(model))
    laws = model.laws({}, data)
    posterior = guide.posterior(laws)
    pairs = torch.tensor(oracles.all_paths(2, 4))
    log_q = posterior.path_log_prob(pairs.unsqueeze(1).expand(-1, 3, -1)).detach().numpy()
    for n in range(3):
        first = laws.log_initial[0].numpy() + laws.log_likelihood[n, 0].numpy()
        onward = laws.log_transition[0, 0].numpy() + laws.log_likelihood[n, 1].numpy()
        first = first - np.logaddexp.reduce(first)
        onward = onward - np.logaddexp.reduce(onward, axis=1, keepdims=True)
        expected = first[:, None] + onward
        np.testing.assert_allclose(log_q[:, n], expected.reshape(-1), atol=1e-10)


def test_where_outputs_couple_the_nodes_the_written_gate_errs():
    """The negative control of I3: loadings that are not orthogonal."""
    model = directed().with_parameters(node_loading=[[2.0, 0, 0], [1.8, 0.5, 0]])
    laws = model.laws({}, model.sample(50, 1, seed=4).data)
    guide = SampledBitGuide(model, SigmoidFilter()).double()
    guide.filter.write(model, node_gate(model))
    off = guide.posterior(laws).mean.detach() - ExactFilter()(laws).exp()
    assert float(off.abs().max()) > 0.05


def test_a_forward_guide_with_scores_linear_in_the_observation_is_a_sampled_bit():
    """q ∝ T exp(h · s_t) is the gate whose W_h is the model's A."""
    model, data = sampled(directed(nodes=3))
    laws, network = model.laws({}, data), random_filter(model)
    scores = network.drive(laws).detach()
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3))).double()
    forward = Forward(laws, scores @ states.mT)
    first, later = model.known["node_initial"], model.known["node_bias"]
    own = scores + torch.cat([first[None], later.expand(3, -1)])
    bits = SampledBits(laws, own, model.known["node_weight"])
    torch.testing.assert_close(bits.elbo(), forward.elbo(), rtol=0, atol=1e-9)
    torch.testing.assert_close(bits.mean, forward.mean, rtol=0, atol=1e-10)
    paths = forward.sample_paths(20)
    torch.testing.assert_close(bits.path_log_prob(paths), forward.path_log_prob(paths))


def test_a_forward_guide_of_nodes_takes_its_scores_per_node():
    model, data = sampled(directed())
    guide = ForwardGuide(model, LSTMFilter(3))
    assert guide.posterior(model.laws({}, data)).mean.shape == (3, 4, 4)


@pytest.mark.parametrize("objective", ["elbo", "iwae", "rws", "forward_kl"])
def test_every_objective_improves_it(objective):
    model = directed()
    data = model.sample(100, 6, seed=0).data
    torch.manual_seed(0)
    guide = SampledBitGuide(model, SigmoidFilter())
    before = evidence_gap(guide, data).gap_per_step
    how = FitSettings(
        steps=30, sleep_steps=0, holdout=0, patience=None, learning_rate=0.1, particles=4
    )
    found = fit(model, guide, data, objective=objective, settings=how, progress=False)
    assert evidence_gap(found, data).gap_per_step < 0.6 * before


@pytest.mark.parametrize("kind", [SampledBitGuide, BeliefGuide])
def test_fits_are_saved_and_loaded(kind, tmp_path):
    model = directed()
    data = model.sample(30, 5, seed=0).data
    guide = kind(model, SigmoidFilter(coupling="diagonal"))
    how = FitSettings(steps=3, sleep_steps=0, holdout=0, patience=None)
    found = fit(model, guide, data, settings=how, progress=False)
    again = load_fit(save_fit(found, tmp_path / "fit"))
    assert type(again.guide) is kind
    assert again.guide.filter.coupling == "diagonal"
    laws = model.laws({}, data)
    assert torch.equal(again.guide.posterior(laws).elbo(), found.guide.posterior(laws).elbo())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SigmoidFilter(coupling="some"), "coupling: must be in .* got 'some'"),
        (lambda: SigmoidFilter(reads="minds"), "reads: must be in .* got 'minds'"),
        (
            lambda: SigmoidFilter().build(HiddenMarkovModel(3, "gaussian")),
            "filter: SigmoidFilter holds a product of Bernoulli laws .* got one whose belief",
        ),
        (
            lambda: SampledBitGuide(LinearGaussianSSM(LocalLevel()), SigmoidFilter()),
            "filter: SampledBitGuide holds a product",
        ),
        (
            lambda: SampledBitGuide(directed(), LSTMFilter(3)),
            "filter: SampledBitGuide needs the weights of a SigmoidFilter, got LSTMFilter",
        ),
        (lambda: SigmoidFilter().drive(None), r"filter: call build\(model\) first"),
        (lambda: SigmoidFilter().gate, "filter: must be built, and read observations"),
        (
            lambda: SigmoidFilter().write(directed(3), node_gate(directed(2))),
            r"gate.node_weight: needs shape \(3, 3\), got \(2, 2\)",
        ),
        (
            lambda: SigmoidFilter(coupling="diagonal").write(directed(), node_gate(directed())),
            "gate.node_weight: must be diagonal",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_filter_serves_one_shape_of_model_and_laws_without_zeros():
    own, data = sampled(directed())
    network = random_filter(own)
    before = network(own.laws({}, data))
    with pytest.raises(ValueError, match="make a new SigmoidFilter"):
        network.build(directed(3, features=4))
    assert torch.equal(network(own.laws({}, data)), before)
    model = HiddenMarkovModel(2, "gaussian").with_parameters(
        initial=[1, 0], transition=[[0.5, 0.5], [0, 1]], mean=[0, 1], scale=[1, 1]
    )
    guide = SampledBitGuide(model, SigmoidFilter())
    with pytest.raises(ValueError, match="SampledBitGuide: needs initial and transition"):
        guide.posterior(model.laws({}, model.sample(2, 3, seed=0).data))


def test_likelihoods_and_a_full_covariance_can_be_read():
    model = TemporalSigmoidBeliefNetwork(2, FullGaussian(2))
    drawn = model.sample(3, 4, seed=0)
    known = model.with_parameters(**drawn.parameters)
    network = random_filter(known, reads="likelihoods")
    assert network(known.laws({}, drawn.data)).shape == (3, 4, 4)
    with pytest.raises(ValueError, match="reads='likelihoods'"):
        _ = network.gate
