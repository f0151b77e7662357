"""LSTMs whose cells are natural parameters: the recursion itself, zeros that stay, exact limits."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FilterTracker,
    FitSettings,
    LSTMFilter,
    NaturalLSTMFilter,
    construct,
    evidence_gap,
    fit,
    gate_identity,
    gates,
    load_fit,
    predict,
    save_fit,
    to_arviz,
    track,
    update_agreement,
    wrap,
)
from beliefzoo.inference import filter as exact_filter
from beliefzoo.inference.filters.lstm import lstm_cells
from beliefzoo.inference.filters.recurrences import affine_scan, recurrent_gates
from beliefzoo.inference.networks.gate_identity import Agreement, bayes_factors
from beliefzoo.models import (
    ContinuousTimeHMM,
    Gaussian,
    HiddenMarkovModel,
    LinearDynamics,
    LinearGaussianSSM,
    Sequences,
    TemporalSigmoidBeliefNetwork,
    Uniform,
    tiger,
)

SHORT = FitSettings(steps=4, sleep_steps=0, holdout=0, patience=None, batch_size=8)


def chain(away=0.1, back=0.3, mu=1.0):
    """Two states at ±μ with unit noise, first law the stationary one."""
    return HiddenMarkovModel(2, "gaussian").with_parameters(
        initial=[back / (away + back), away / (away + back)],
        transition=[[1 - away, away], [back, 1 - back]],
        mean=[-mu, mu],
        scale=[1, 1],
    )


def level(a=0.9, q=0.5, r=2.0, c=1.5):
    """One normal state that settles, first law the stationary one."""
    return LinearGaussianSSM(LinearDynamics(1)).with_parameters(
        transition=[[a]],
        process_variance=[q],
        loading=[[c]],
        intercept=[0.7],
        observation_variance=[r],
        initial_mean=[0.0],
        initial_variance=[q / (1 - a * a)],
    )


# --- the recursion --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cells_are_those_of_torch(dtype):
    torch.manual_seed(0)
    lstm, x = nn.LSTM(3, 5, batch_first=True).to(dtype), torch.randn(4, 9, 3, dtype=dtype)
    found = recurrent_gates(lstm, x)
    tight = {"atol": 1e-6, "rtol": 1e-6} if dtype == torch.float32 else {"atol": 1e-13, "rtol": 0}
    torch.testing.assert_close(found["h"][:, :, 0], lstm(x)[0], **tight)
    torch.testing.assert_close(found["c"][:, -1, 0], lstm(x)[1][1][0], **tight)
    cells = affine_scan(found["f"], found["i"] * found["g"])
    torch.testing.assert_close(found["c"], cells, **tight)


def test_gradient_of_the_recursion():
    """Of all six outputs, by differences."""
    torch.manual_seed(0)
    told = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, 2, dtype=torch.float64, requires_grad=True)
    for names in ("c", "h", "ifgo", "ifgoch"):

        def chosen(told, weight, names=names):
            found = lstm_cells(told, weight)
            return tuple(found[name] for name in names)

        assert torch.autograd.gradcheck(chosen, (told, weight))


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 3e-7), (torch.float64, 2e-15)])
def test_gates_keep_their_digits(dtype, error):
    """Relative errors of σ and tanh, from numbers that are next to nothing to those beyond exp."""
    size = 10.0 ** torch.linspace(-12, 3, 400, dtype=torch.float64)
    told = torch.cat([-size, torch.zeros(1), size, torch.tensor([0.2999999, 0.3, 0.3000001])])
    told = told.to(dtype)[:, None, None].expand(-1, 1, 4).contiguous()
    found = lstm_cells(told, torch.zeros(4, 1, dtype=dtype))
    x = told[..., :1]
    for name in "ifo":
        torch.testing.assert_close(found[name], x.sigmoid(), rtol=error, atol=1e-37)
    torch.testing.assert_close(found["g"], x.tanh(), rtol=error, atol=0)
    odd = torch.tensor([math.nan, math.inf, -math.inf], dtype=dtype)
    odd = lstm_cells(odd[:, None, None].expand(-1, 1, 4).contiguous(), told.new_zeros(4, 1))
    assert odd["g"].flatten().nan_to_num(7).tolist() == [7, 1, -1]
    assert odd["f"].flatten().nan_to_num(7).tolist() == [7, 1, 0]


def test_threads_make_no_difference():
    torch.manual_seed(0)
    told, weight = torch.randn(40, 50, 64), torch.randn(64, 16)
    one = lstm_cells(told, weight)["h"]
    kept = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(lstm_cells(told, weight)["h"], one)
    finally:
        torch.set_num_threads(kept)


# --- what it is -----------------------------------------------------------------------------------


def test_its_network_is_a_torch_lstm_whose_zeros_stay():
    model = chain()
    torch.manual_seed(0)
    guide = BeliefGuide(model, NaturalLSTMFilter(4))
    data = model.sample(16, 12, seed=0).data
    result = fit(model, guide, data, settings=SHORT, progress=False)
    own, before = result.guide.filter, guide.filter
    assert type(own.network) is nn.LSTM
    size = own.hidden_size
    assert size == 5
    assert torch.equal(own.network.weight_ih_l0[size], torch.zeros(2))  # f reads no observation
    for gate in (0, 2):  # i and g read no output
        assert torch.equal(own.network.weight_hh_l0[gate * size], torch.zeros(size))
    assert bool((own.network.weight_hh_l0[size] != 0).all())
    assert not torch.equal(own.network.weight_hh_l0, before.network.weight_hh_l0)
    laws = model.laws({}, data)
    shown = own.gates(laws)
    out = own.network(own.channels(laws))[0]
    torch.testing.assert_close(shown["h"][:, :, 0], out, atol=1e-6, rtol=0)


def test_undivided_gates_read_everything():
    guide = BeliefGuide(chain(), NaturalLSTMFilter(4, divided=False))
    assert all(bool((weight != 0).all()) for weight in guide.filter.network.parameters())


def test_gates_read_natural_cells_more_sharply():
    """The first weights are the same but for the factor, and for zeros, which stay."""
    found = []
    for sharpness in (1.0, 40.0):
        torch.manual_seed(0)
        guide = BeliefGuide(chain(), NaturalLSTMFilter(4, sharpness=sharpness))
        found.append(guide.filter.network.weight_hh_l0.detach())
        assert guide.filter.configuration["sharpness"] == sharpness
    torch.testing.assert_close(found[1][:, :1], 40 * found[0][:, :1])
    assert torch.equal(found[1][:, 1:], found[0][:, 1:])
    with pytest.raises(ValueError, match="sharpness"):
        NaturalLSTMFilter(4, sharpness=0.0)


def test_a_network_that_writes_nothing_says_the_stationary_law():
    for model in (chain(), level()):
        guide = BeliefGuide(model, NaturalLSTMFilter(2))
        with torch.no_grad():
            size = guide.filter.hidden_size
            for weight in guide.filter.network.parameters():
                weight[2 * size : 3 * size] = 0
        data = model.sample(3, 6, seed=0).data
        guide.filter.calibrate(model, data)
        said = guide.filter(model.laws({}, data))
        if model.belief.discrete:
            expected = torch.tensor([0.75, 0.25], dtype=torch.float64).expand(3, 6, 2)
            torch.testing.assert_close(said.exp(), expected)
        else:
            torch.testing.assert_close(said.mean, torch.zeros(3, 6, 1, dtype=torch.float64))
            variance = said.scale.square().squeeze(-1)
            expected = torch.full_like(variance, 0.5 / (1 - 0.81))
            torch.testing.assert_close(variance, expected)


def test_it_is_the_exact_filter_of_states_without_memory():
    """T has equal rows, so that nothing is kept: f = 0, i = 1, s g = log odds of y, tanh linear."""
    model = chain(away=0.4, back=0.6, mu=0.8)
    guide = BeliefGuide(model, NaturalLSTMFilter(1, scale=1e4))
    data = model.sample(5, 10, seed=1).data
    own = guide.filter
    own.calibrate(model, data)
    own.double()
    with torch.no_grad():
        for weight in own.network.parameters():
            weight.zero_()
        own.network.bias_ih_l0[0] = 40.0
        own.network.bias_ih_l0[2] = -40.0
        # log O_1 / O_2 = −2 μ y, y = shift + spread x
        own.network.weight_ih_l0[4, 0] = -1.6 * own.scale / 1e4
        own.network.bias_ih_l0[4] = -1.6 * own.shift / 1e4
    gap = evidence_gap(guide, data)
    assert gap.kl_filter_per_step < 1e-9
    found = gate_identity(guide, data).units[0]
    assert found["written"].r_squared == pytest.approx(1, abs=1e-6)
    assert found["kept"].largest < 1e-9


# --- Bayes' rule in natural parameters ------------------------------------------------------------


def test_factors_of_two_states_are_the_formula():
    """φ(λ) = log((1 − a) e^λ + b) − log(a e^λ + 1 − b), docs/science.md, I9."""
    a, b = 0.1, 0.3
    model = chain(a, b)
    data = model.sample(4, 30, seed=0).data
    found = bayes_factors(model, data)
    belief = exact_filter(model, data)[:, :-1]
    odds, rest = (belief[..., 0] / belief[..., 1]).log(), math.log(b / a)
    moved = ((1 - a) * odds.exp() + b).log() - (a * odds.exp() + 1 - b).log()
    torch.testing.assert_close(found["before"][..., 0], odds - rest)
    torch.testing.assert_close(found["kept"][..., 0], moved - rest)
    torch.testing.assert_close(found["written"][..., 0], -2 * data.values[:, 1:, 0].double())
    factor = found["kept"] / found["before"]
    assert bool(((factor > 0) & (factor < 1)).all())


def test_factors_of_a_normal_state_are_the_formula():
    """f = a / (a² + Q Λ) of the information; of the precision a² / (a² + Q Λ), from Λ*."""
    a, q, r, c = 0.9, 0.5, 2.0, 1.5
    model = level(a, q, r, c)
    data = model.sample(3, 20, seed=0).data
    found = bayes_factors(model, data)
    precision = exact_filter(model, data).covariance[:, :-1, 0, 0].reciprocal()
    factor = found["kept"] / found["before"]
    torch.testing.assert_close(factor[..., 0], a / (a * a + q * precision))
    torch.testing.assert_close(factor[..., 1], a * a / (a * a + q * precision))
    told = c * (data.values[:, 1:, 0].double() - 0.7) / r
    torch.testing.assert_close(found["written"][..., 0], told)
    constant = torch.full_like(told, c * c / r)
    torch.testing.assert_close(found["written"][..., 1], constant)
    assert bool((factor < 1).all())


def test_factors_of_states_that_stay_or_redraw():
    """c' = c of the prediction, by the definition of the belief that the exact filter predicts."""
    law, rate = torch.tensor([0.2, 0.5, 0.3]), 0.2
    model = HiddenMarkovModel(3, Gaussian(1)).with_parameters(
        initial=law,
        transition=(1 - rate) * torch.eye(3) + rate * law,
        mean=[-1, 0, 2],
        scale=[1, 1, 1],
    )
    data = model.sample(3, 10, seed=0).data
    found, predicted = bayes_factors(model, data), predict(model, data)
    odds = (predicted / law).log()
    torch.testing.assert_close(found["kept"], (odds[..., :2] - odds[..., 2:])[:, 1:])
    mean, y = torch.tensor([-1.0, 0.0, 2.0]), data.values[:, 1:].double()
    score = -0.5 * (y - mean).square()
    torch.testing.assert_close(found["written"], score[..., :2] - score[..., 2:])


def test_agreement_is_a_regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 30))
    y = 0.8 * x + 0.1 * rng.normal(size=x.shape) + 0.3
    inside = rng.random(x.shape) < 0.7
    found = Agreement.of(*(torch.from_numpy(each) for each in (y, x, inside)))
    slope = np.polyfit(x[inside], y[inside], 1)[0]
    assert found.slope == pytest.approx(slope)
    lost = ((y - x)[inside] ** 2).sum() / ((x[inside] - x[inside].mean()) ** 2).sum()
    assert found.r_squared == pytest.approx(1 - lost)
    assert found.interval[0] < 0.8 < found.interval[1]
    assert found.interval[1] - found.interval[0] < 0.03
    flat = Agreement.of(torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool))
    assert math.isnan(flat.r_squared)
    none = Agreement.of(torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    assert none.steps == 0


def test_the_exact_update_agrees_and_another_does_not():
    model = chain()
    data = model.sample(20, [15, 2, 9, 1] * 5, seed=0).data
    exact = update_agreement(BeliefGuide(model, ExactFilter()), data)
    assert exact.r_squared == pytest.approx(1, abs=1e-12)
    assert exact.largest < 1e-9
    torch.manual_seed(0)
    assert update_agreement(BeliefGuide(model, LSTMFilter(3)), data).r_squared < 0.99


# --- as a user's network --------------------------------------------------------------------------


@pytest.mark.parametrize("make", [chain, level])
def test_a_plain_lstm_has_its_gates(make):
    """The standardisation is in the weights; torch computes what the filter computes."""
    model = make()
    data = model.sample(20, 12, seed=0).data
    torch.manual_seed(0)
    guide = BeliefGuide(model, NaturalLSTMFilter(4))
    guide.calibrate(data)
    own = guide.filter
    plain = own.as_lstm()
    assert type(plain) is nn.LSTM
    assert plain.input_size == 1
    found = recurrent_gates(plain, data.values.float())
    for name, gate in own.gates(model.laws({}, data)).items():
        torch.testing.assert_close(found[name], gate, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="observations alone"):
        BeliefGuide(model, NaturalLSTMFilter(4, reads="both")).filter.as_lstm()
    with pytest.raises(ValueError, match="build"):
        NaturalLSTMFilter(4).as_lstm()


def test_a_natural_lstm_is_exported_shown_and_wrapped():
    model = chain()
    data = model.sample(24, 15, seed=0).data
    torch.manual_seed(0)
    guide = BeliefGuide(model, NaturalLSTMFilter(4))
    result = fit(model, guide, data, settings=SHORT, progress=False)
    own = result.guide.filter
    shown = gates(result, data)
    expected = own.gates(model.laws({}, data))
    for name in "ifgoch":
        np.testing.assert_array_equal(shown[name].values, expected[name].detach().numpy())
    found = to_arviz(result, data)  # all parameters are known: no draws of them
    assert found["posterior_states"].sizes["sequence"] == 24
    free = HiddenMarkovModel(2, "gaussian")
    wrapped = wrap(own.as_lstm(), free, data, settings=SHORT, samples=8)
    assert wrapped.fit.guide.filter.network.hidden_size == 5


# --- weights written from a model -----------------------------------------------------------------


def redraw(states=3, rate=0.1):
    """Three states that stay or are redrawn."""
    law = torch.tensor([0.2, 0.5, 0.3])
    return HiddenMarkovModel(states, Gaussian(2)).with_parameters(
        initial=law,
        transition=(1 - rate) * torch.eye(states) + rate * law,
        mean=[[-1, 0], [0, 1], [2, 0]],
        scale=[[1, 1], [1, 1], [1, 1]],
    )


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (chain, (3e-3, 3e-4, 1e-6, 1e-8)),
        (level, (1e-5, 1e-7, 1e-8, 1e-9)),
        (redraw, (1, 0.1, 0.01, 1e-3)),
    ],
)
def test_written_weights_near_the_exact_filter(make, most):
    """The error falls with the number of units; the written part is exact."""
    model = make()
    data = model.sample(30, 100, seed=5).data
    for units, bound in zip((4, 8, 16, 32), most, strict=True):
        guide = BeliefGuide(model, construct(model, units=units))
        assert evidence_gap(guide, data).kl_filter_per_step < bound
    found = gate_identity(guide, data)
    assert found.worst("written") == pytest.approx(1, abs=1e-6)
    assert found.worst("kept") > 0.999
    own = guide.filter
    recurrent = own.network.weight_hh_l0[own.hidden_size : own.hidden_size + own.natural]
    assert bool((recurrent != 0).any())


def test_written_weights_know_missing_observations():
    model = level()
    data = model.sample(20, 60, seed=0).data
    gone = torch.rand(data.mask.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    part = Sequences.from_tensors(data.values.masked_fill(gone, math.nan))
    guide = BeliefGuide(model, construct(model, units=32))
    assert evidence_gap(guide, part).kl_filter_per_step < 1e-6


def test_written_weights_survive_a_fit(tmp_path):
    """They go on from the model's units, whatever the data."""
    model = level()
    guide = BeliefGuide(model, construct(model, units=8))
    data = model.sample(8, 30, seed=3).data
    still = FitSettings(
        steps=1, sleep_steps=0, holdout=0, patience=None, learning_rate=1e-12, batch_size=8
    )
    result = fit(model, guide, data, settings=still, progress=False)
    before, after = (evidence_gap(one, data).kl_filter_per_step for one in (guide, result))
    assert after == pytest.approx(before, rel=1e-3, abs=1e-9)


def test_models_without_such_a_gate_are_refused():
    switching = chain(0.8, 0.9)
    with pytest.raises(ValueError, match="stay rather than move"):
        construct(switching, units=4)
    ring = HiddenMarkovModel(3, "poisson").with_parameters(
        initial=[1, 0, 0], transition=[[0.8, 0.2, 0], [0, 0.8, 0.2], [0.2, 0, 0.8]], rate=[1, 5, 9]
    )
    with pytest.raises(ValueError, match="redrawn"):
        construct(ring, units=4)
    with pytest.raises(ValueError, match="damped"):
        construct(level(a=-0.5), units=4)
    with pytest.raises(ValueError, match="units"):
        construct(chain(), units=0)
    elsewhere = chain().with_parameters(initial=[0.5, 0.5])
    with pytest.raises(ValueError, match="first law"):
        construct(elsewhere, units=4)
    with pytest.raises(ValueError, match="first law"):
        construct(level().with_parameters(initial_mean=[3.0]), units=4)
    walk = level().with_parameters(transition=[[1.0]])
    with pytest.raises(ValueError, match="damped"):
        construct(walk, units=4)
    with pytest.raises(ValueError, match="settles"):
        gate_identity(BeliefGuide(walk, NaturalLSTMFilter(2)), walk.sample(2, 3, seed=0).data)


# --- with other models ----------------------------------------------------------------------------


def nodes():
    """Two independent binary nodes."""
    return TemporalSigmoidBeliefNetwork(2, Gaussian(2)).with_parameters(
        node_initial=[0, 0],
        node_weight=[[3, 0], [0, 4]],
        node_bias=[-1.5, -1.0],
        node_loading=[[2, 0], [0, 3]],
        node_intercept=[0, 0],
        scale=[1, 1],
    )


def clocked():
    """Two states in continuous time."""
    return ContinuousTimeHMM(states=2, emission=Gaussian()).with_parameters(
        initial=[0.5, 0.5],
        generator=[[-0.5, 0.5], [0.5, -0.5]],
        mean=[-1, 1],
        scale=[1, 1],
    )


def test_nodes_have_a_cell_each():
    model = nodes()
    guide = BeliefGuide(model, NaturalLSTMFilter(3))
    assert guide.filter.natural == 2
    found = bayes_factors(model, model.sample(3, 8, seed=0).data)
    told = found["written"] - found["written"].mean((0, 1))
    y = model.sample(3, 8, seed=0).data.values[:, 1:].double() * torch.tensor([2.0, 3.0])
    torch.testing.assert_close(told, y - y.mean((0, 1)))  # logits are linear in y, node by node


def test_time_gaps_reach_the_transition_alone():
    model = clocked()
    data = model.sample(4, 6, seed=0, times=torch.tensor([0.0, 0.2, 1.0, 1.1, 3.0, 3.5])).data
    guide = BeliefGuide(model, NaturalLSTMFilter(2))
    own, size = guide.filter, guide.filter.hidden_size
    weight = own.network.weight_ih_l0
    assert weight.shape[1] == 3  # y, whether it is missing, and the gap
    assert weight[size, :2].tolist() == [0, 0]
    assert float(weight[size, 2].detach()) != 0
    assert weight[[0, 2 * size], 2].tolist() == [0, 0]
    assert bool(evidence_gap(guide, data).elbo.isfinite().all())


def test_a_tracker_steps_as_the_filter_does():
    model, network = tiger(), NaturalLSTMFilter(3)
    torch.manual_seed(0)
    network.build(model)
    episodes = model.rollout(Uniform(), episodes=3, length=5, seed=0).data
    tracked = track(FilterTracker(network), model, episodes)
    with torch.no_grad():
        whole = network(model.laws({}, episodes)).exp()
    torch.testing.assert_close(tracked, whole, atol=1e-6, rtol=1e-6)


def test_a_fit_is_saved_and_loaded(tmp_path):
    model = HiddenMarkovModel(3, "poisson")
    known = model.with_parameters(
        initial=[0.3, 0.4, 0.3],
        transition=[[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]],
        rate=[1, 5, 20],
    )
    data = known.sample(8, 6, seed=0).data
    guide = BeliefGuide(model, NaturalLSTMFilter(2, divided=False, scale=5.0, reads="both"))
    result = fit(model, guide, data, settings=SHORT, progress=False)
    save_fit(result, tmp_path / "fit")
    again = load_fit(tmp_path / "fit")
    laws = again.model.laws(again.guide.median(), data)
    assert torch.equal(again.guide.filter(laws), result.guide.filter(laws))
    assert again.guide.filter.configuration == result.guide.filter.configuration


def test_what_it_cannot_be_is_refused():
    with pytest.raises(ValueError, match="auxiliary"):
        NaturalLSTMFilter(0)
    with pytest.raises(ValueError, match="divided"):
        NaturalLSTMFilter(3, divided="yes")
    with pytest.raises(ValueError, match="scale"):
        NaturalLSTMFilter(3, scale=0)
    plane = LinearGaussianSSM(LinearDynamics(2))
    with pytest.raises(ValueError, match="several dimensions"):
        BeliefGuide(plane, NaturalLSTMFilter(3))
    stuck = HiddenMarkovModel(2, "poisson").with_parameters(
        initial=[0.5, 0.5], transition=[[1, 0], [0, 1]], rate=[1, 5]
    )
    data = stuck.sample(2, 3, seed=0).data
    with pytest.raises(ValueError, match="stationary law"):
        BeliefGuide(stuck, NaturalLSTMFilter(3)).posterior(stuck.laws({}, data))
    with pytest.raises(ValueError, match="NaturalLSTMFilter"):
        gate_identity(BeliefGuide(chain(), LSTMFilter(3)), chain().sample(2, 3, seed=0).data)
    with pytest.raises(ValueError, match="discrete"):
        update_agreement(BeliefGuide(level(), ExactFilter()), level().sample(2, 3, seed=0).data)
