"""Filters: the exact one against sums over paths, the recurrent ones against torch."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import oracles
from beliefzoo.inference import ElmanFilter, ExactFilter, GRUFilter, LSTMFilter, recurrent_gates
from beliefzoo.models import (
    Bernoulli,
    Categorical,
    Gaussian,
    HiddenMarkovModel,
    InputTransition,
    LinearDynamics,
    LinearGaussianSSM,
    LocalLevel,
    OrnsteinUhlenbeck,
    Sequences,
)
from gaussian_cases import textbook_filter

RECURRENT = [LSTMFilter, GRUFilter, ElmanFilter]
recurrent = pytest.mark.parametrize("kind", RECURRENT, ids=lambda k: k.__name__)


def gaussian_case(lengths=(5, 3, 1)):
    model = HiddenMarkovModel(2, "gaussian")
    drawn = model.sample(len(lengths), list(lengths), seed=3)
    known = model.with_parameters(**drawn.parameters)
    return known, known.laws({}, drawn.data)


def test_exact_filter_is_the_sum_over_all_paths():
    _, laws = gaussian_case()
    beliefs = ExactFilter()(laws).exp().numpy()
    first, onward = laws.log_initial[0].numpy(), laws.log_transition[0, 0].numpy()
    for n, length in enumerate(laws.lengths.tolist()):
        for t in range(length):
            likelihood = laws.log_likelihood[n, : t + 1].numpy()
            table = np.broadcast_to(onward, (t, 2, 2))
            expected = oracles.posterior(first, table, likelihood).marginals[-1]
            np.testing.assert_allclose(beliefs[n, t], expected, atol=1e-12)


@recurrent
def test_beliefs_are_laws_and_causal(kind):
    model, laws = gaussian_case()
    network = kind(8)
    network.build(model)
    beliefs = network(laws)
    assert torch.allclose(beliefs.exp().sum(-1), torch.ones((), dtype=beliefs.dtype))
    changed = laws.data.values.clone()
    changed[:, 3:] += 5
    later = model.laws({}, Sequences.from_tensors(changed, lengths=laws.lengths))
    assert torch.equal(network(later)[:, :3], beliefs[:, :3])
    assert not torch.allclose(network(later)[0, 3:], beliefs[0, 3:])


@recurrent
def test_bidirectional_reads_the_future_but_not_the_padding(kind):
    model, laws = gaussian_case()
    network = kind(8, direction="both")
    network.build(model)
    beliefs = network(laws)
    changed = laws.data.values.clone()
    changed[0, 4] += 5
    later = model.laws({}, Sequences.from_tensors(changed, lengths=laws.lengths))
    assert not torch.allclose(network(later)[0, 0], beliefs[0, 0])
    alone = model.laws({}, laws.data[1])
    torch.testing.assert_close(network(alone)[0], beliefs[1, :3])


@recurrent
@pytest.mark.parametrize("layers", [1, 2])
def test_gates_reproduce_torch(kind, layers):
    network = kind.kind(3, 5, num_layers=layers, batch_first=True).double()
    x = torch.randn(4, 7, 3, dtype=torch.float64)
    parts = recurrent_gates(network, x)
    assert set(parts) == set(kind.parts)
    output, final = network(x)
    torch.testing.assert_close(parts["h"][:, :, -1], output, atol=1e-12, rtol=0)
    if kind is LSTMFilter:
        torch.testing.assert_close(parts["c"][:, -1].movedim(1, 0), final[1], atol=1e-12, rtol=0)
        inside = [parts[name] for name in ("i", "f", "o")]
        assert all(bool(((g > 0) & (g < 1)).all()) for g in inside)


def test_gates_of_a_filter_and_of_unsupported_networks():
    model, laws = gaussian_case()
    network = LSTMFilter(4)
    network.build(model)
    gates = network.gates(laws)
    assert gates["f"].shape == (3, 5, 1, 4)
    torch.testing.assert_close(gates["h"][:, :, 0], network.hidden(laws))
    with pytest.raises(ValueError, match="one direction"):
        recurrent_gates(nn.LSTM(2, 3, bidirectional=True), torch.zeros(1, 1, 2))
    relu = nn.RNN(2, 3, nonlinearity="relu", bias=False, batch_first=True)
    x = torch.randn(2, 4, 2)
    torch.testing.assert_close(recurrent_gates(relu, x)["h"][:, :, 0], relu(x)[0])


@recurrent
@pytest.mark.parametrize("reads", ["observations", "likelihoods", "both"])
def test_every_reading(kind, reads):
    model, laws = gaussian_case()
    network = kind(4, reads=reads)
    network.build(model)
    network.calibrate(model, laws.data)
    width = {"observations": 2, "likelihoods": 2, "both": 4}[reads]  # value and flag; two states
    assert network.channels(laws).shape == (3, 5, width)
    assert network(laws).shape == (3, 5, 2)


def test_likelihood_channels_survive_zero_probabilities():
    model = HiddenMarkovModel(2, Categorical(2)).with_parameters(
        initial=[0.5, 0.5], transition=[[0.5, 0.5], [0, 1]], probs=[[1, 0], [0.5, 0.5]]
    )
    laws = model.laws({}, Sequences.from_arrays([[0, 1, 1]], codes=True))
    network = LSTMFilter(4, reads="likelihoods")
    network.build(model)
    assert bool(network.channels(laws).isfinite().all())


def test_missing_values_are_flagged_and_at_the_mean():
    values = np.array([[[1.0, 10.0], [np.nan, 30.0], [3.0, np.nan]]])
    data = Sequences.from_array(values)
    model = HiddenMarkovModel(2, Gaussian(2))
    network = LSTMFilter(4)
    network.build(model)
    network.calibrate(model, data)
    fixed = model.with_parameters(**model.sample(1, 2, seed=0).parameters)
    channels = network.channels(fixed.laws({}, data))[0]
    expected = [[-1, -1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1]]
    torch.testing.assert_close(channels, torch.tensor(expected, dtype=channels.dtype))


def test_symbols_and_bits_are_read_as_they_are():
    model = HiddenMarkovModel(2, Categorical(3))
    network = LSTMFilter(4)
    network.build(model)
    data = Sequences.from_arrays([[2.0, np.nan, 0.0]], codes=True)
    network.calibrate(model, data)
    known = model.with_parameters(**model.sample(1, 2, seed=0).parameters)
    assert network.channels(known.laws({}, data))[0].tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    bits = Sequences.from_array(np.array([[[1.0, 0.0], [0.0, 0.0]]]))
    pair = HiddenMarkovModel(2, Bernoulli(2))
    network = LSTMFilter(4)
    network.build(pair)
    network.calibrate(pair, bits)
    assert network.shift.tolist() == [0, 0]
    assert network.scale.tolist() == [1, 1]


def test_inputs_are_read():
    model = HiddenMarkovModel(2, "gaussian", transition=InputTransition(2))
    drawn = model.sample(3, 4, seed=0, inputs=np.ones((3, 4, 2)))
    known = model.with_parameters(**drawn.parameters)
    network = GRUFilter(4)
    network.build(known)
    assert network.channels(known.laws({}, drawn.data)).shape == (3, 4, 4)


def test_a_users_network_drops_in():
    own = nn.LSTM(1, 6, batch_first=True)
    model, laws = gaussian_case()
    network = LSTMFilter(network=own)
    network.build(model)
    hidden = network.hidden(laws)
    torch.testing.assert_close(hidden, own(laws.data.values.float())[0])
    assert network.network is not own
    network.calibrate(model, laws.data)  # a trained network goes on reading what it always read
    torch.testing.assert_close(network.hidden(laws), hidden)
    with pytest.raises(ValueError, match="input_size=3"):
        LSTMFilter(network=nn.LSTM(3, 6)).build(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LSTMFilter(0), "hidden_size: must be a whole number >= 1, got 0"),
        (lambda: LSTMFilter(4, layers=0), "layers"),
        (lambda: LSTMFilter(4, layers=2**70), "layers: must be below"),
        (lambda: GRUFilter(1, layers=2**20), "layers: must be at most 1000, got 1048576"),
        (lambda: ElmanFilter(2**17), "hidden_size: must give at most 4294967296 weights"),
        (lambda: LSTMFilter(4, reads="entrails"), "reads: .* got 'entrails'"),
        (lambda: GRUFilter(network=nn.LSTM(1, 2)), "network: must be a torch.nn.GRU"),
        (lambda: LSTMFilter(network=nn.LSTM(1, 4, proj_size=2)), "without projection"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_filter_serves_one_shape_of_model():
    network = LSTMFilter(4)
    network.build(HiddenMarkovModel(2, "gaussian"))
    network.build(HiddenMarkovModel(2, "poisson"))  # the same shape
    with pytest.raises(ValueError, match="make a new LSTMFilter"):
        network.build(HiddenMarkovModel(3, "gaussian"))
    _, laws = gaussian_case()
    with pytest.raises(ValueError, match="build"):
        LSTMFilter(4).scores(laws)


def walk_case(states=2, features=2, lengths=(6, 4, 1)):
    """A linear-Gaussian model at known values, with data: ragged, one element missing."""
    generator = torch.Generator().manual_seed(3)
    model = LinearGaussianSSM(LinearDynamics(states), features).with_parameters(
        transition=0.8 * torch.eye(states),
        process_covariance=2.0 * torch.eye(states),
        initial_mean=5 * torch.ones(states),
        initial_covariance=3.0 * torch.eye(states),
        loading=torch.randn(features, states, generator=generator),
        intercept=torch.zeros(features),
        observation_covariance=0.5 * torch.eye(features),
    )
    arrays = model.sample(len(lengths), list(lengths), seed=1).data.arrays()
    arrays[0][2, 0] = np.nan
    data = Sequences.from_arrays(arrays)
    return model, model.laws({}, data)


@recurrent
@pytest.mark.parametrize("states", [1, 2, 17])  # a diagonal covariance from 17 on
def test_gaussian_beliefs_are_laws_and_causal(kind, states):
    model, laws = walk_case(states)
    network = kind(8)
    network.build(model)
    network.calibrate(model, laws.data)
    beliefs = network(laws)
    assert beliefs.full == (states < 17)
    assert beliefs.mean.shape == (3, 6, states)
    assert beliefs.mean.dtype == torch.float64
    assert bool((torch.linalg.eigvalsh(beliefs.covariance) > 0).all())
    changed = laws.data.values.clone()
    changed[:, 3:] += 5
    later = model.laws({}, Sequences.from_tensors(changed, mask=laws.mask, lengths=laws.lengths))
    assert torch.equal(network(later).mean[:, :3], beliefs.mean[:, :3])
    assert not torch.allclose(network(later).mean[0, 3:], beliefs.mean[0, 3:])


def test_a_read_out_of_zero_is_the_law_of_the_states():
    """In units of the states: the stationary law of an AR(1), within 5 % of 256 simulations."""
    model = LinearGaussianSSM(LinearDynamics(1)).with_parameters(
        transition=[[0.6]],
        process_covariance=[[4.0]],
        initial_mean=[0.0],
        initial_covariance=[[4.0 / (1 - 0.36)]],
        loading=[[1.0]],
        intercept=3.0,
        observation_variance=1.0,
    )
    data = model.sample(300, 40, seed=0).data
    network = GRUFilter(4)
    network.build(model)
    network.calibrate(model, data)
    nothing = network.read_out(torch.zeros(2, dtype=torch.float64))
    assert float(nothing.covariance) == pytest.approx(4.0 / (1 - 0.36), rel=0.05)
    assert float(nothing.mean) == pytest.approx(0, abs=0.15)


@pytest.mark.parametrize("states", [2, 17])
def test_likelihood_channels_are_what_one_observation_says(states):
    """The states' own law updated by y_t, by the textbook formula."""
    model, laws = walk_case(states)
    network = LSTMFilter(4, reads="likelihoods")
    network.build(model)
    network.calibrate(model, laws.data)
    channels = network.channels(laws).double().numpy()
    assert channels.shape == (3, 6, model.belief.width)
    shift, scale = network.state_shift.double().numpy(), network.state_scale.double().numpy()
    c, r = laws.loading[0, 0].numpy(), laws.observation_noise[0, 0].numpy()
    for n, length in enumerate(laws.lengths.tolist()):
        for t in range(length):
            seen = laws.mask[n, t].numpy()
            prior = np.diag(scale**2)
            gain = prior @ c[seen].T
            gain = gain @ np.linalg.inv(c[seen] @ gain + r[np.ix_(seen, seen)])
            mean = shift + gain @ (laws.values[n, t].numpy()[seen] - c[seen] @ shift)
            spread = prior - gain @ c[seen] @ prior
            np.testing.assert_allclose(
                channels[n, t, :states], (mean - shift) / scale, rtol=1e-4, atol=1e-4
            )
            factor = np.linalg.cholesky(spread) / scale[:, None]
            own = np.log(np.diag(factor))
            np.testing.assert_allclose(channels[n, t, states : 2 * states], own, atol=1e-4)
            if model.belief.full:
                np.testing.assert_allclose(channels[n, t, 4], factor[1, 0], atol=1e-4)


def test_likelihoods_of_discrete_states_alone_or_of_linear_observations():
    model, laws = walk_case()

    class Other:
        data, discrete, linear = laws.data, None, None

    network = LSTMFilter(4, reads="both")
    network.build(model)
    with pytest.raises(ValueError, match="observations are linear in the state"):
        network.channels(Other())


@recurrent
def test_reading_backward(kind):
    """h_t knows y_t to y_T of its own sequence, and nothing before or beyond."""
    model, laws = gaussian_case()
    network = kind(8, direction="backward")
    network.build(model)
    assert not network.causal
    beliefs = network(laws)
    changed = laws.data.values.clone()
    changed[0, 2] += 5
    later = model.laws({}, Sequences.from_tensors(changed, lengths=laws.lengths))
    assert torch.equal(network(later)[0, 3:], beliefs[0, 3:])
    assert not torch.allclose(network(later)[0, :3], beliefs[0, :3])
    alone = model.laws({}, laws.data[1])
    torch.testing.assert_close(network(alone)[0], beliefs[1, :3])
    turned = Sequences.from_tensors(laws.data.values[:1].flip(1))
    forward = network.network(network.channels(model.laws({}, turned)))[0]
    torch.testing.assert_close(network.hidden(laws)[0], forward[0].flip(0))


def test_the_time_between_steps_is_read_where_the_model_reads_it():
    model = LinearGaussianSSM(OrnsteinUhlenbeck())
    times = torch.tensor([[0.0, 1.0, 5.0], [2.0, 2.5, 4.5]])
    drawn = model.sample(2, [3, 2], times=times, seed=0)
    model = model.with_parameters(**drawn.parameters)
    laws = model.laws({}, drawn.data)
    network, deaf = LSTMFilter(4), LSTMFilter(4, gaps=False)
    for one in network, deaf:
        one.build(model)
        one.calibrate(model, drawn.data)
    typical = (1.0 * 4.0 * 0.5) ** (1 / 3)
    # The first step has the gap 1, and so has what lies beyond the length.
    expected = torch.tensor([[1.0, 1.0, 4.0], [1.0, 0.5, 1.0]]) / typical
    torch.testing.assert_close(network.channels(laws)[..., -1].exp(), expected)
    assert deaf.channels(laws).shape[-1] == network.channels(laws).shape[-1] - 1
    asked = LSTMFilter(4, gaps=True)
    other, plain = gaussian_case()
    asked.build(other)
    with pytest.raises(ValueError, match=r"gaps: .* needs data with times"):
        asked.channels(plain)


def test_a_users_network_says_which_way_it_reads():
    assert LSTMFilter(network=nn.LSTM(1, 3, bidirectional=True)).direction == "both"
    with pytest.raises(ValueError, match="direction: this network reads one way, got 'both'"):
        LSTMFilter(network=nn.LSTM(1, 3), direction="both")
    with pytest.raises(ValueError, match="direction: this network reads both ways"):
        LSTMFilter(network=nn.LSTM(1, 3, bidirectional=True), direction="backward")
    with pytest.raises(ValueError, match=r"direction: must be .* got 'up'"):
        LSTMFilter(4, direction="up")


def test_the_exact_filter_of_a_linear_model_is_kalmans():
    _, laws = walk_case()
    mean, covariance, _ = textbook_filter(laws)
    beliefs = ExactFilter()(laws)
    for n, length in enumerate(laws.lengths.tolist()):
        torch.testing.assert_close(beliefs.mean[n, :length], mean[n, :length])
        torch.testing.assert_close(beliefs.covariance[n, :length], covariance[n, :length])
    with pytest.raises(ValueError, match="ExactFilter needs discrete states or linear"):
        ExactFilter()(SimpleNamespace(discrete=None, linear=None))


def test_the_scale_of_states_with_a_flat_start_is_the_smoothers():
    """Of a level that is all but constant: the series' own mean, and a spread of its error."""
    model = LinearGaussianSSM(LocalLevel()).with_parameters(
        level_variance=1e-12, observation_variance=4.0
    )
    data = Sequences.from_arrays([[7.0, 9.0, 11.0, 9.0]])
    network = LSTMFilter(4)
    network.build(model)
    network.calibrate(model, data)
    assert float(network.state_shift) == pytest.approx(9.0)
    assert float(network.state_scale) == pytest.approx(1.0, rel=1e-5)  # √(4 / 4)


def test_no_belief_before_a_diffuse_state_is_determined():
    model = LinearGaussianSSM(LocalLevel()).with_parameters(
        level_variance=1.0, observation_variance=2.0
    )
    data = Sequences.from_arrays([[1.0, 2.0], [np.nan, 1.0]])
    with pytest.raises(ValueError, match="infinite variance in sequence 1, step 0"):
        ExactFilter()(model.laws({}, data))
