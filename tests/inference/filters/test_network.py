"""Networks of one's own as filters: the channels, the float types, and that none looks ahead."""

import pytest
import torch
from torch import nn

import oracles
from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    ForwardGuide,
    LSTMFilter,
    MeanFieldGuide,
    NetworkFilter,
    evidence_gap,
    export_gates,
    fit,
    load_fit,
    save_fit,
    to_arviz,
)
from beliefzoo.models import (
    Bernoulli,
    ContinuousTimeHMM,
    Gaussian,
    HiddenMarkovModel,
    LinearDynamics,
    LinearGaussianSSM,
    OrnsteinUhlenbeck,
    Regression,
    Sequences,
    TemporalSigmoidBeliefNetwork,
    tiger,
)

SHORT = FitSettings(steps=3, sleep_steps=2, holdout=0, patience=None)


class Outputs(nn.Module):
    """Of a recurrent network of torch its outputs alone."""

    def __init__(self, network: nn.RNNBase, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype

    def forward(self, x):
        out = self.network(x)[0]
        return out if self.dtype is None else out.to(self.dtype)


class Transformer(nn.Module):
    """One layer of attention, to the past if ``masked``."""

    def __init__(self, channels: int, masked: bool = True, size: int = 8) -> None:
        super().__init__()
        self.masked = masked
        self.embed = nn.Linear(channels, size)
        self.layer = nn.TransformerEncoderLayer(size, 2, 16, dropout=0.2, batch_first=True)

    def forward(self, x):
        steps = x.shape[1]
        place = torch.linspace(0, 1, steps, dtype=x.dtype)[:, None]
        ahead = torch.ones(steps, steps, dtype=torch.bool).triu(1) if self.masked else None
        return self.layer(self.embed(x) + place * 0, src_mask=ahead)


class NormalisedGRU(nn.Module):
    """A GRU whose outputs are normalised over its units; it says what it is made from."""

    def __init__(self, channels: int, size: int = 6) -> None:
        super().__init__()
        self.configuration_ = {"channels": channels, "size": size}
        self.cell = nn.GRU(channels, size, batch_first=True)
        self.norm = nn.LayerNorm(size)

    @property
    def configuration(self):
        return dict(self.configuration_)

    def forward(self, x):
        return self.norm(self.cell(x)[0])


class Window(nn.Module):
    """A perceptron that reads each step and the two before."""

    def __init__(self, channels: int, size: int = 6, ahead: int = 0) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.Linear(3 * channels, size), nn.Tanh(), nn.Linear(size, size))
        self.ahead = ahead

    def forward(self, x):
        padded = nn.functional.pad(x, (0, 0, 2 - self.ahead, self.ahead))
        return self.read(padded.unfold(1, 3, 1).flatten(2))


class Twofold(nn.Module):
    """Reads both ways, within the lengths that it is told."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.network = nn.LSTM(channels, 4, batch_first=True, bidirectional=True)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        return nn.utils.rnn.pad_packed_sequence(
            self.network(packed)[0], batch_first=True, total_length=x.shape[1]
        )[0]


def rates():
    """Two states, two features, some numbers missing: four channels."""
    model = HiddenMarkovModel(2, Gaussian(2))
    known = model.with_parameters(
        initial=[0.6, 0.4],
        transition=[[0.9, 0.1], [0.2, 0.8]],
        mean=[[0.0, 1.0], [2.0, -1.0]],
        scale=[[1.0, 0.5], [0.5, 1.0]],
    )
    data = known.sample(6, [5, 4, 5, 3, 1, 5], seed=0).data
    values, mask = data.values.clone(), data.mask.clone()
    values[0, 1, 0], mask[0, 1, 0] = 0, False
    return known, Sequences.from_tensors(values, mask=mask, lengths=data.lengths)


def timed():
    model = ContinuousTimeHMM(2, emission="poisson")
    model = model.with_parameters(**model.sample(1, 2, seed=0, times=[0.0, 1.0]).parameters)
    times = torch.tensor([[0.0, 1.0, 3.0, 3.5], [0.0, 0.1, 0.2, 5.0]])
    return model, model.sample(2, 4, seed=0, times=times).data


def driven():
    model = HiddenMarkovModel(2, Regression(Bernoulli(2), inputs=1))
    drawn = model.sample(3, [4, 3, 4], seed=0, inputs=torch.randn(3, 4, 1))
    return model.with_parameters(**drawn.parameters), drawn.data


def acting():
    model = tiger()
    return model, model.rollout(None, 3, 4, seed=0).data


def nodes():
    model = TemporalSigmoidBeliefNetwork(2, Gaussian(2))
    drawn = model.sample(3, [4, 4, 2], seed=0)
    return model.with_parameters(**drawn.parameters), drawn.data


def linear():
    model = LinearGaussianSSM(LinearDynamics(2), 2)
    drawn = model.sample(3, [4, 2, 4], seed=0)
    return model.with_parameters(**drawn.parameters), drawn.data


def diffusing():
    model = LinearGaussianSSM(OrnsteinUhlenbeck())
    drawn = model.sample(2, 4, seed=0, times=[0.0, 0.3, 2.0, 2.1])
    return model.with_parameters(**drawn.parameters), drawn.data


CASES = [
    (case, guide)
    for case in (rates, timed, driven, acting, nodes, linear, diffusing)
    for guide in (BeliefGuide, ForwardGuide, MeanFieldGuide)
    if (case, guide) != (acting, MeanFieldGuide)  # which needs moves without zeros
]


@pytest.mark.parametrize(("case", "guide"), CASES, ids=lambda part: part.__name__)
def test_an_lstm_reads_what_it_reads_as_a_filter_of_its_own(case, guide):
    """The same weights, the same channels: the same bound, whatever data and states there are."""
    model, data = case()
    own = LSTMFilter(5)
    first = guide(model, own)
    second = guide(model, NetworkFilter(Outputs(own.network)))
    for each in (first, second):
        each.calibrate(data)
    second.filter.head.load_state_dict(first.filter.head.state_dict())
    laws = model.laws({}, data)
    with torch.no_grad():
        torch.testing.assert_close(second.filter.scores(laws), first.filter.scores(laws))
        torch.testing.assert_close(second.bound(laws), first.bound(laws))


def test_likelihoods_are_read_as_an_lstm_reads_them():
    model, data = rates()
    own = LSTMFilter(5, reads="likelihoods")
    first = BeliefGuide(model, own)
    second = BeliefGuide(model, NetworkFilter(Outputs(own.network), reads="likelihoods"))
    second.filter.head.load_state_dict(first.filter.head.state_dict())
    laws = model.laws({}, data)
    torch.testing.assert_close(second.filter(laws), first.filter(laws))
    with pytest.raises(ValueError, match="reads: needs discrete states"):
        BeliefGuide(linear()[0], NetworkFilter(Outputs(own.network), reads="likelihoods"))


NETWORKS = {
    "transformer": Transformer,
    "gru": NormalisedGRU,
    "window": Window,
    "convolution": lambda channels: nn.Sequential(Window(channels), nn.Dropout(0.3)),
}


@pytest.mark.parametrize("guide", [BeliefGuide, ForwardGuide])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_networks_of_every_kind_are_trained_and_bound_the_evidence(network, guide):
    model, data = rates()
    result = fit(
        model, guide(model, NetworkFilter(network(4))), data, settings=SHORT, progress=False
    )
    found = evidence_gap(result, data)
    laws = model.laws({}, data)
    for n, length in enumerate(data.lengths.tolist()):
        moves = laws.log_transition[0].expand(length - 1, 2, 2).numpy()
        evidence = oracles.log_evidence(
            laws.log_initial[0].numpy(), moves, laws.log_likelihood[n, :length].detach().numpy()
        )
        assert float(found.elbo[n]) <= evidence + 1e-9
    before = network(4).state_dict()
    trained = result.guide.filter.network.state_dict()
    assert any(not torch.equal(trained[name], value) for name, value in before.items())


@pytest.mark.parametrize("kept", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("returned", [None, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("guide", [BeliefGuide, ForwardGuide])
def test_whatever_float_type_a_network_has_and_returns(kept, returned, guide):
    """The beliefs are those of float64 to the rounding of the type, in the precision of laws."""
    model, data = rates()
    torch.manual_seed(1)
    network = Outputs(nn.GRU(4, 3, batch_first=True).to(kept), returned)
    network.requires_grad_(kept != torch.float16)
    made = guide(model, NetworkFilter(network))
    made.calibrate(data)
    laws = model.laws({}, data)
    scores = made.filter.scores(laws)
    assert scores.dtype == laws.log_initial.dtype
    posterior = made.posterior(laws)
    (-posterior.elbo().sum()).backward()
    for weight in (w for w in made.filter.parameters() if w.requires_grad):
        assert weight.grad is not None
        assert bool(weight.grad.isfinite().all())
    exact = guide(model, NetworkFilter(network))
    exact.load_state_dict(made.state_dict())
    exact.filter.double()
    exact.filter.network.dtype = None
    coarse = {torch.float16: 1e-2, torch.bfloat16: 1e-1}
    error = max(coarse.get(kept, 1e-5), coarse.get(returned, 1e-5))
    torch.testing.assert_close(scores, exact.filter.scores(laws), atol=error, rtol=0)


def test_coarse_weights_are_trained(tmp_path):
    model, data = rates()
    network = Outputs(nn.GRU(4, 3, batch_first=True).bfloat16())
    result = fit(
        model, BeliefGuide(model, NetworkFilter(network)), data, settings=SHORT, progress=False
    )
    again = load_fit(save_fit(result, tmp_path / "fit"), network=network)
    for name, value in result.guide.state_dict().items():
        assert torch.equal(again.guide.state_dict()[name], value)
        assert again.guide.state_dict()[name].dtype == value.dtype


LOOKS_AHEAD = {
    "both ways": lambda: Outputs(nn.LSTM(4, 3, batch_first=True, bidirectional=True)),
    "unmasked": lambda: Transformer(4, masked=False),
    "one ahead": lambda: Window(4, ahead=1),
    "two ahead": lambda: Window(4, ahead=2),
    "time": lambda: nn.Sequential(nn.Linear(4, 3), OverTime()),
    "batch": lambda: nn.Sequential(nn.Linear(4, 5), Batch(5)),
}


class OverTime(nn.Module):
    """Subtracts the mean over all steps."""

    def forward(self, x):
        return x - x.mean(1, keepdim=True)


class Batch(nn.Module):
    """Normalises by all steps of the batch in training, and by a running mean afterwards."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(size)

    def forward(self, x):
        return self.norm(x.mT).mT


@pytest.mark.parametrize("network", LOOKS_AHEAD.values(), ids=LOOKS_AHEAD)
def test_a_network_that_looks_ahead_is_not_causal(network):
    model, data = rates()
    with pytest.raises(ValueError, match=r"network: must not look ahead if it is causal.* move"):
        BeliefGuide(model, NetworkFilter(network()))
    with pytest.raises(ValueError, match="filter: BeliefGuide needs beliefs about the past only"):
        BeliefGuide(model, NetworkFilter(network(), causal=False))
    made = ForwardGuide(model, NetworkFilter(network(), causal=False))
    assert bool(made.bound(model.laws({}, data)).isfinite().all())


def test_building_leaves_the_network_as_it_was():
    """Trying it changes neither its running means nor torch's generator."""
    network = nn.Sequential(nn.Linear(4, 5), Batch(5))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    filter = NetworkFilter(network, causal=False)
    filter._fit_channels(rates()[0])
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in before.items():
        assert torch.equal(filter.network.state_dict()[name], value)
        assert torch.equal(network.state_dict()[name], value)


def test_a_network_that_reads_both_ways_is_told_the_lengths():
    """What it says of a sequence does not depend on how long the others are."""
    model, data = rates()
    made = ForwardGuide(model, NetworkFilter(Twofold(4), causal=False))
    together = made.filter.scores(model.laws({}, data))
    for n, length in enumerate(data.lengths.tolist()):
        alone = made.filter.scores(model.laws({}, data[n : n + 1]))
        torch.testing.assert_close(alone[0, :length], together[n, :length])


def test_flags_are_read_if_there_is_room():
    model, _ = rates()
    for channels, flags in ((4, True), (2, False)):
        built = BeliefGuide(model, NetworkFilter(Window(channels))).filter
        assert built.flags is flags
        assert built.channels.width(model) == channels
    built = BeliefGuide(model, NetworkFilter(nn.LazyLinear(3))).filter
    assert built.flags
    assert built.network.weight.shape == (3, 4)
    lazy = BeliefGuide(model, NetworkFilter(nn.Sequential(nn.LazyLinear(3), nn.Tanh())))
    result = fit(model, lazy, rates()[1], settings=SHORT, progress=False)
    assert not torch.equal(result.guide.filter.network[0].weight, lazy.filter.network[0].weight)
    with pytest.raises(ValueError, match=r"network: must map channels .*; of 2 channels: mat1"):
        BeliefGuide(model, NetworkFilter(Window(4), flags=False))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NetworkFilter("lstm"), "network: must be a torch.nn.Module, got 'lstm'"),
        (lambda: NetworkFilter(nn.Tanh(), gain=0.0), "gain: must be a finite number > 0"),
        (lambda: NetworkFilter(nn.Tanh(), reads="both"), "reads: must be in"),
        (lambda: NetworkFilter(nn.Linear(4, 2).half()), "network: needs weights in float32, .*16"),
        (lambda: NetworkFilter(nn.Linear(7, 2)), "of 4 channels: .*; of 2 channels: "),
        (lambda: NetworkFilter(nn.LSTM(4, 2, batch_first=True)), r"of \(2, 5, 4\) it made tuple"),
        (lambda: NetworkFilter(nn.Flatten()), r"of \(2, 5, 4\) it made \(2, 20\)"),
    ],
)
def test_bad_arguments(make, message):
    model, _ = rates()
    with pytest.raises(ValueError, match=message):
        BeliefGuide(model, make())


def test_it_belongs_to_the_model_that_it_was_built_for():
    model, data = rates()
    built = NetworkFilter(Window(4))
    with pytest.raises(ValueError, match="filter: call build"):
        built.scores(model.laws({}, data))
    BeliefGuide(model, built)
    BeliefGuide(HiddenMarkovModel(2, Gaussian(2)), built)
    with pytest.raises(ValueError, match="make a new NetworkFilter"):
        BeliefGuide(HiddenMarkovModel(3, Gaussian(2)), built)
    with pytest.raises(ValueError, match="make a new NetworkFilter"):
        BeliefGuide(HiddenMarkovModel(2, Gaussian(3)), built)


def unknown_rates():
    return HiddenMarkovModel(2, Gaussian(2)), rates()[1]


@pytest.mark.filterwarnings("ignore:fit:UserWarning")
def test_a_network_that_says_what_it_is_made_from_is_loaded(tmp_path):
    model, data = unknown_rates()
    result = fit(
        model,
        BeliefGuide(model, NetworkFilter(NormalisedGRU(4, 3), gain=2.0)),
        data,
        settings=SHORT,
        progress=False,
    )
    again = load_fit(save_fit(result, tmp_path / "fit"))
    assert type(again.guide.filter.network) is NormalisedGRU
    told = {name: v for name, v in again.guide.filter.configuration.items() if name != "network"}
    assert told == {
        name: v for name, v in result.guide.filter.configuration.items() if name != "network"
    }
    assert torch.equal(evidence_gap(again, data).elbo, evidence_gap(result, data).elbo)


@pytest.mark.filterwarnings("ignore:fit:UserWarning")
def test_any_other_network_is_given_again(tmp_path):
    model, data = unknown_rates()
    result = fit(
        model,
        ForwardGuide(model, NetworkFilter(Window(4, 3))),
        data,
        settings=SHORT,
        progress=False,
    )
    path = save_fit(result, tmp_path / "fit")
    with pytest.raises(ValueError, match=r"network: the filter of this fit was given a Window, .*"):
        load_fit(path)
    with pytest.raises(ValueError, match=r"network: needs the weights that the file has, got .*"):
        load_fit(path, network=Window(4, 5))
    again = load_fit(path, network=Window(4, 3))
    assert torch.equal(evidence_gap(again, data).elbo, evidence_gap(result, data).elbo)


@pytest.mark.filterwarnings("ignore:fit:UserWarning")
@pytest.mark.parametrize("guide", [BeliefGuide, ForwardGuide])
def test_what_comes_of_it_is_exported(guide):
    model, data = unknown_rates()
    result = fit(
        model, guide(model, NetworkFilter(Window(4))), data, settings=SHORT, progress=False
    )
    idata = to_arviz(result, data, draws=3, seed=0)
    assert bool(torch.tensor(idata["sample_stats"]["log_q"].values).isfinite().all())
    with pytest.raises(ValueError, match="network: needs a recurrent filter, got NetworkFilter"):
        export_gates(result, data)


class Halves:
    """A filter written by hand: beliefs from the last observation, in whatever float type."""

    causal = True

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def build(self, model):
        self.states = model.states

    def calibrate(self, model, data):
        pass

    def __call__(self, laws):
        return laws.discrete.log_likelihood.log_softmax(-1).to(self.dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_filter_written_by_hand(dtype):
    model, data = rates()
    guide = BeliefGuide(model, Halves(dtype))
    laws = model.laws({}, data)
    bound = guide.bound(laws)
    assert bound.dtype == torch.float64
    assert bool((bound <= BeliefGuide(model, ExactFilter()).bound(laws) + 1e-9).all())
