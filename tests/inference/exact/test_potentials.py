"""The forward recursion of any potentials and filters that learn them: against sums over paths."""

import numpy as np
import pytest
import torch

import oracles
from beliefzoo.inference import (
    BayesianRecurrentFilter,
    BeliefGuide,
    CRFFilter,
    ExactFilter,
    FitSettings,
    LSTMFilter,
    MEMMFilter,
    evidence_gap,
    filter_beliefs,
    fit,
    load_fit,
    save_fit,
)
from beliefzoo.models import (
    Categorical,
    Gaussian,
    HiddenMarkovModel,
    InputTransition,
    LinearGaussianSSM,
    LocalLevel,
    Sequences,
    TemporalSigmoidBeliefNetwork,
)
from filter_cases import with_drawn_weights

MARKOV = [MEMMFilter, CRFFilter]
EVERY = [*MARKOV, BayesianRecurrentFilter]
every_filter = pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
markov = pytest.mark.parametrize("kind", MARKOV, ids=lambda kind: kind.__name__)


def slow_beliefs(log_initial, log_potential, scores):
    """The recursion in logs, differentiable by torch itself."""
    n, steps, k = scores.shape
    tables = log_potential.expand(n, steps - 1, k, k)
    beliefs = [(log_initial.expand(n, k) + scores[:, 0]).log_softmax(-1)]
    for t in range(1, steps):
        moved = (beliefs[-1].unsqueeze(-1) + tables[:, t - 1]).logsumexp(1)
        beliefs.append((moved + scores[:, t]).log_softmax(-1))
    return torch.stack(beliefs, 1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 1), (3, 4)])
@pytest.mark.parametrize("initials", [1, 3])
def test_beliefs_and_their_gradient_are_those_of_the_plain_loop(shape, initials):
    """Potentials of any size: rows need not sum to one."""

    def leaf(*size):
        return (3 * torch.randn(size, dtype=torch.float64)).requires_grad_()

    leaves = leaf(initials, 4), leaf(*shape, 4, 4), leaf(3, 5, 4)
    ours, slow = filter_beliefs(*leaves), slow_beliefs(*leaves)
    torch.testing.assert_close(ours, slow, atol=1e-12, rtol=0)
    weight = torch.randn_like(ours)
    gradients = [torch.autograd.grad((x * weight).sum(), leaves) for x in (ours, slow)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-10)


def test_zeros_are_kept_and_have_no_gradient():
    initial = torch.tensor([[1.0, 0.0]]).log().requires_grad_()
    table = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).log()[None, None].requires_grad_()
    scores = torch.randn(1, 3, 2, requires_grad=True)
    beliefs = filter_beliefs(initial, table, scores)
    assert bool(beliefs[..., 1].isneginf().all())
    beliefs[..., 0].sum().backward()
    for leaf in (initial, table, scores):
        assert bool(leaf.grad.isfinite().all())


def known_case(emission="gaussian"):
    """Three states; ragged, one step missing."""
    model = HiddenMarkovModel(3, emission)
    drawn = model.sample(3, [4, 2, 1], seed=5)
    mask = drawn.data.mask.clone()
    mask[0, 1] = False
    data = Sequences.from_tensors(
        drawn.data.values, mask=mask, lengths=drawn.data.lengths, codes=drawn.data.is_codes
    )
    return model.with_parameters(**drawn.parameters), data


def random_filter(kind, model, **options):
    return with_drawn_weights(kind(**options), model)


def arrays(network, laws, sequence):
    """A, the first step's part and U x of one sequence, in NumPy."""
    x = network.channels(laws)[sequence].detach().numpy()
    length = int(laws.lengths[sequence])
    moves, first, into = (
        weight.detach().numpy() for weight in (network.moves, network.first, network.input_weight)
    )
    return moves, first, x[:length] @ into.T


# Conditional Markov chains


@pytest.mark.parametrize("emission", ["gaussian", Categorical(4)])
def test_the_field_with_the_models_own_potentials_is_the_exact_filter(emission):
    model, data = known_case(emission)
    network = CRFFilter(reads="likelihoods")
    network.build(model)
    network.double().write(model)
    laws = model.laws({}, data)
    inside = data.step_mask
    exact = ExactFilter()(laws)[inside]
    torch.testing.assert_close(network(laws)[inside], exact, atol=1e-10, rtol=0)
    gap = evidence_gap(BeliefGuide(model, network), data)
    assert gap.gap_per_step == pytest.approx(0, abs=1e-10)


def test_symbols_read_as_one_hot_can_say_the_same():
    model, data = known_case(Categorical(4))
    network = CRFFilter()
    network.build(model)
    network.double()
    values = model.known
    with torch.no_grad():
        network.moves.copy_(values["transition"].log())
        network.first.copy_(values["initial"].log())
        network.input_weight.copy_(values["probs"].log())
    laws = model.laws({}, data)
    inside = data.step_mask
    torch.testing.assert_close(network(laws)[inside], ExactFilter()(laws)[inside])


def test_the_entropy_model_with_the_same_potentials_has_the_exact_next_state_and_a_biased_belief():
    """p(z_t | z_{t-1}, y_t) is right; the belief forgets what y_t says of z_{t-1}."""
    model, data = known_case()
    network = MEMMFilter(reads="likelihoods")
    network.build(model)
    network.double().write(model)
    laws = model.laws({}, data)
    pairs = torch.tensor(oracles.all_paths(2, 3))
    two = Sequences.from_tensors(data.values[:2, :2], mask=data.mask[:2, :2])
    short = model.laws({}, two)
    for n in range(2):
        told = short.log_likelihood[n].numpy()
        first = laws.log_initial[0].numpy() + told[0]
        onward = laws.log_transition[0, 0].numpy() + told[1]
        first = first - np.logaddexp.reduce(first)
        onward = onward - np.logaddexp.reduce(onward, axis=1, keepdims=True)
        paths = pairs[:, None].expand(-1, 2, -1)
        ours = [float(network.conditional_log_prob(short, path)[n].detach()) for path in paths]
        np.testing.assert_allclose(ours, (first[:, None] + onward).reshape(-1), atol=1e-10)
    off = (network(laws).detach() - ExactFilter()(laws)).abs()
    assert float(off[:, 0].max()) < 1e-10
    assert float(off[0, 2:].max()) > 0.05


def test_label_bias_a_state_with_one_way_out_does_not_listen():
    """From state 0 only state 1 follows: the entropy model goes there whatever it sees."""
    model = HiddenMarkovModel(3, "gaussian").with_parameters(
        initial=[0.5, 0.0005, 0.4995],
        transition=[[0.0005, 0.999, 0.0005], [0.3, 0.4, 0.3], [0.0005, 0.0005, 0.999]],
        mean=[0.0, -1.0, -3.0],
        scale=[1.0, 1.0, 1.0],
    )
    data = Sequences.from_arrays([[-1.5, -3.0]])
    laws = model.laws({}, data)
    last = {}
    for kind in MARKOV:
        network = kind(reads="likelihoods")
        network.build(model)
        network.write(model)
        last[kind] = network(laws)[0].detach().exp()
    # -1.5 lies half way between 0 and -3; then -3 speaks against having been in 0, by e^-2
    assert float(last[CRFFilter][0, 0]) == pytest.approx(0.5, abs=0.01)
    assert float(last[CRFFilter][1, 2]) == pytest.approx(1 / (1 + np.exp(-2)), abs=0.01)
    assert float(last[MEMMFilter][1, 2]) == pytest.approx(0.5, abs=0.01)  # which it cannot hear


@markov
def test_conditional_laws_of_paths_are_those_of_the_sum_over_paths(kind):
    model, data = known_case()
    laws, network = model.laws({}, data), random_filter(kind, model)
    for n, length in enumerate(data.lengths.tolist()):
        moves, first, scores = arrays(network, laws, n)
        scores = scores.copy()
        scores[0] += first
        paths = oracles.all_paths(length, 3)
        table = np.broadcast_to(moves, (length - 1, 3, 3))
        if kind is MEMMFilter:
            table = moves + scores[1:, None, :]
            table = table - np.logaddexp.reduce(table, axis=-1, keepdims=True)
            scores[0] -= np.logaddexp.reduce(scores[0])
            scores[1:] = 0
        joint = np.array([oracles.log_joint(p, np.zeros(3), table, scores) for p in paths])
        expected = joint - np.logaddexp.reduce(joint)
        whole = torch.full((len(paths), 3, 4), -1)
        whole[:, n, :length] = torch.tensor(paths)
        ours = [float(network.conditional_log_prob(laws, path)[n].detach()) for path in whole]
        np.testing.assert_allclose(ours, expected, atol=1e-10)
        beliefs = oracles.filter_beliefs(np.zeros(3), table, scores)
        found = network(laws)[n, :length].detach().exp().numpy()
        np.testing.assert_allclose(found, beliefs, atol=1e-10)


# The Bayesian recurrent unit


def reset_nodes(hold=(0.9, 0.7), redraw=(0.2, 0.6)):
    """Independent nodes that hold their value or draw a new one: logit rows of σ(A h' + a)."""
    hold, redraw = np.array(hold), np.array(redraw)
    off, on = (1 - hold) * redraw, hold + (1 - hold) * redraw
    logit = lambda p: np.log(p / (1 - p))  # noqa: E731
    return TemporalSigmoidBeliefNetwork(2, Gaussian(2), coupling="diagonal").with_parameters(
        node_initial=logit(redraw),
        node_weight=logit(on) - logit(off),
        node_bias=logit(off),
        node_loading=[[1.5, 0.0], [0.0, 2.0]],
        node_intercept=[-0.5, 0.3],
        scale=[1.0, 1.3],
    )


def test_units_that_hold_or_reset_are_the_exact_filter_of_such_nodes():
    """Constant forgetting, and the log-likelihood ratio for evidence."""
    model = reset_nodes()
    data = model.sample(20, 12, seed=0).data
    network = BayesianRecurrentFilter(gated=False)
    network.build(model)
    network.double()
    hold, redraw = torch.tensor([[0.9, 0.7], [0.2, 0.6]], dtype=torch.float64)
    loading, scale = model.known["node_loading"].diagonal(), model.known["scale"]
    # log N(y; c + B, s) − log N(y; c, s) = B (y − c − B / 2) / s², of y − c − B / 2 as it is read
    network.channels.shift = model.known["node_intercept"] + loading / 2
    with torch.no_grad():
        network.hold_bias.copy_(hold.logit())
        for law in (network.reset, network.first):
            law.copy_(torch.stack([1 - redraw, redraw], -1).log())
        network.evidence_weight.zero_()
        network.evidence_weight[:, 0, :2] = (loading / scale**2).diag()
    laws = model.laws({}, data)
    torch.testing.assert_close(network(laws), ExactFilter()(laws), atol=1e-10, rtol=0)


def test_one_unit_of_many_states_holds_or_resets():
    """K states with T = ρ 1 + (1 − ρ) p, symbols: the exact filter."""
    p = np.array([0.2, 0.5, 0.3])
    probs = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1], [0.2, 0.1, 0.1, 0.6]])
    model = HiddenMarkovModel(3, Categorical(4)).with_parameters(
        initial=p, transition=0.8 * np.eye(3) + 0.2 * p, probs=probs
    )
    data = model.sample(5, 9, seed=0).data
    network = BayesianRecurrentFilter(gated=False)
    network.build(model)
    network.double()
    with torch.no_grad():
        network.hold_bias.fill_(np.log(0.8 / 0.2))
        for law in (network.reset, network.first):
            law.copy_(torch.tensor(p).log())
        logs = torch.tensor(probs).log()
        network.evidence_weight.copy_((logs - logs[0])[None, 1:])
        # what all states share of a symbol's log probability changes no belief
    laws = model.laws({}, data)
    torch.testing.assert_close(network(laws), ExactFilter()(laws), atol=1e-10, rtol=0)


def test_a_gated_unit_is_the_plain_loop():
    """ρ_t read off the step; odds by the textbook update."""
    model = reset_nodes()
    data = model.sample(3, 6, seed=0).data
    laws, network = model.laws({}, data), random_filter(BayesianRecurrentFilter, model)
    found = network(laws).detach().exp()
    x = network.channels(laws).detach().numpy()
    hold = network.hold(laws).detach().numpy()
    evidence = network.evidence_weight.detach().numpy()[:, 0]
    laws_of = [w.detach().softmax(-1)[:, 1].numpy() for w in (network.first, network.reset)]
    for n in range(3):
        predicted = laws_of[0]
        for t in range(6):
            if t:
                predicted = hold[n, t] * on + (1 - hold[n, t]) * laws_of[1]  # noqa: F821
            odds = predicted / (1 - predicted) * np.exp(evidence @ x[n, t])
            on = odds / (1 + odds)
            got = found[n, t].reshape(2, 2)
            expected = np.outer([1 - on[0], on[0]], [1 - on[1], on[1]])
            np.testing.assert_allclose(got, expected, atol=1e-12)


# All of them


@every_filter
@pytest.mark.parametrize("reads", ["observations", "likelihoods"])
def test_beliefs_are_laws_causal_and_blind_to_padding(kind, reads):
    model, data = known_case()
    laws, network = model.laws({}, data), random_filter(kind, model, reads=reads)
    beliefs = network(laws)
    assert network.causal
    assert torch.allclose(beliefs.exp().sum(-1), torch.ones((), dtype=beliefs.dtype))
    changed = data.values.clone()
    changed[:, 2:] += 5
    changed = Sequences.from_tensors(changed, mask=data.mask, lengths=data.lengths)
    later = network(model.laws({}, changed))
    torch.testing.assert_close(later[:, :2], beliefs[:, :2], atol=1e-12, rtol=0)
    assert not torch.allclose(later[0, 2:], beliefs[0, 2:])
    alone = network(model.laws({}, data[1]))
    torch.testing.assert_close(alone[0], beliefs[1, :2], atol=1e-12, rtol=0)


@every_filter
def test_fitted_they_come_nearer_to_the_filter_and_are_saved(kind, tmp_path):
    model = HiddenMarkovModel(2, "gaussian").with_parameters(
        initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], mean=[-1, 1], scale=[1, 1]
    )
    data = model.sample(64, 15, seed=0).data
    torch.manual_seed(0)
    guide = BeliefGuide(model, kind())
    before = evidence_gap(guide, data).kl_filter_per_step
    how = FitSettings(steps=40, sleep_steps=0, holdout=0, patience=None, learning_rate=0.1)
    found = fit(model, guide, data, settings=how, progress=False)
    assert evidence_gap(found, data).kl_filter_per_step < 0.3 * before
    again = load_fit(save_fit(found, tmp_path / "fit"))
    laws = model.laws({}, data)
    assert torch.equal(again.guide.filter(laws), found.guide.filter(laws))
    assert again.guide.filter.configuration == found.guide.filter.configuration


@every_filter
def test_bad_models_are_refused(kind):
    with pytest.raises(ValueError, match=r"filter: .* needs a model of .*discrete states"):
        kind().build(LinearGaussianSSM(LocalLevel()))
    network = kind()
    with pytest.raises(ValueError, match=r"filter: call build\(model\) first"):
        network(known_case()[0].laws({}, known_case()[1]))
    network.build(HiddenMarkovModel(2, "gaussian"))
    network.build(HiddenMarkovModel(2, "poisson"))
    with pytest.raises(ValueError, match=f"make a new {kind.__name__}"):
        network.build(HiddenMarkovModel(3, "gaussian"))


@every_filter
def test_a_filter_that_refused_a_model_still_serves_its_own(kind):
    model, data = known_case()
    laws = model.laws({}, data)
    network = with_drawn_weights(kind(), model)
    before = network(laws)
    with pytest.raises(ValueError, match=f"make a new {kind.__name__}"):
        network.build(HiddenMarkovModel(3, Categorical(5)))
    assert torch.equal(network(laws), before)


def test_potentials_that_cannot_be_written_are_refused():
    model = known_case()[0]
    with pytest.raises(ValueError, match="filter: must read 'likelihoods'"):
        CRFFilter().write(model)
    zeros = HiddenMarkovModel(2, "gaussian").with_parameters(
        initial=[1, 0], transition=[[0.5, 0.5], [0, 1]], mean=[0, 1], scale=[1, 1]
    )
    with pytest.raises(ValueError, match="model: needs initial and transition probabilities > 0"):
        CRFFilter(reads="likelihoods").write(zeros)
    moving = HiddenMarkovModel(2, "gaussian", transition=InputTransition(1))
    with pytest.raises(ValueError, match="model: must move alike"):
        CRFFilter(reads="likelihoods").write(moving)


# The input-output hidden Markov model in the slot


def test_an_lstm_that_reads_the_inputs_filters_an_input_output_model():
    """Inputs switch the chain: a network that cannot see them is far from the filter."""
    model = HiddenMarkovModel(2, "gaussian", transition=InputTransition(1)).with_parameters(
        initial=[0.5, 0.5],
        transition=[[0.5, 0.5], [0.5, 0.5]],
        transition_weight=[[[4.0], [0.0]], [[0.0], [4.0]]],
        mean=[-0.7, 0.7],
        scale=[1.0, 1.0],
    )
    inputs = torch.randn(300, 20, 1).sign().double()  # hold, or jump to the other state
    data = model.sample(300, 20, seed=0, inputs=inputs).data
    blind = HiddenMarkovModel(2, "gaussian").with_parameters(
        initial=[0.5, 0.5],
        transition=[[0.5, 0.5], [0.5, 0.5]],
        mean=[-0.7, 0.7],
        scale=[1.0, 1.0],
    )
    torch.manual_seed(0)
    how = FitSettings(steps=120, sleep_steps=0, holdout=0, patience=None, learning_rate=0.03)
    guide = BeliefGuide(model, LSTMFilter(8))
    found = fit(model, guide, data, settings=how, progress=False)
    test = model.sample(200, 20, seed=1, inputs=inputs[:200]).data
    gap = evidence_gap(found, test)
    exact = ExactFilter()(model.laws({}, test)).exp()
    unseen = ExactFilter()(blind.laws({}, Sequences.from_tensors(test.values)))
    kl_blind = float((exact * (exact.log() - unseen)).sum(-1).mean())
    assert kl_blind > 0.1
    assert gap.kl_filter_per_step < 0.1 * kl_blind
