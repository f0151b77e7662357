"""The deep Markov model: against loops over single steps, and models that it contains."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from beliefzoo.models import (
    Bernoulli,
    Categorical,
    DeepMarkovModel,
    FullGaussian,
    Gaussian,
    LinearGaussianSSM,
    Multinomial,
    NeuralEmission,
    OrnsteinUhlenbeck,
    Poisson,
    Regression,
    Sequences,
    load_model,
    save_model,
)

EMISSIONS = {
    "categorical": Categorical(4),
    "poisson": Poisson(2),
    "bernoulli": Bernoulli(3),
    "multinomial": Multinomial(3),
    "gaussian": Gaussian(2),
    "full-gaussian": FullGaussian(2),
}
every_emission = pytest.mark.parametrize("emission", EMISSIONS.values(), ids=EMISSIONS)
KINDS = {
    "plain": {},
    "origin": {"initial": "transition"},
    "inputs": {"inputs": 2},
    "autoregressive": {"autoregressive": True},
    "all": {"initial": "transition", "inputs": 2, "autoregressive": True},
    "timed": {"timed": True},
    "timed-all": {"timed": True, "inputs": 2, "autoregressive": True},
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
LENGTHS = (4, 2, 1)


def case(emission=EMISSIONS["gaussian"], **options):
    """A model with known weights, and its own ragged data with gaps."""
    torch.manual_seed(3)
    model = DeepMarkovModel(2, emission, transition_width=3, emission_width=4, **options)
    values = {name: prior.sample().double() for name, prior in model.priors.items()}
    model = model.with_parameters(**values)
    inputs = torch.randn(3, 4, 2, dtype=torch.float64) if model.inputs else None
    times = torch.tensor([0.0, 0.3, 2.3, 2.4]).double() if model.timed else None
    drawn = model.sample(3, list(LENGTHS), seed=1, inputs=inputs, times=times)
    mask = drawn.data.mask.clone()
    mask[0, 1] = False
    if mask.ndim == 3 and not isinstance(emission, Multinomial):
        mask[0, 2, 0] = False
    data = Sequences.from_tensors(
        drawn.data.values.clone(),
        mask=mask,
        lengths=torch.tensor(LENGTHS),
        codes=drawn.data.is_codes,
        inputs=inputs,
        times=times if times is None else times.expand(3, 4),
    )
    return model, data


def network(values, name, x, offset=True):
    """A relu network, layer after layer."""
    layers = [key for key in values if key.startswith(f"{name}_weight")]
    for layer in range(len(layers)):
        x = x @ values[f"{name}_weight{layer}"]
        if f"{name}_bias{layer}" in values:
            x = x + values[f"{name}_bias{layer}"]
        if layer < len(layers) - 1:
            x = x.clamp_min(0)
    return x


def moved(values, z, driver):
    """Mean and standard deviation after one state, as the paper writes it."""
    x = torch.cat([z, driver])
    gate = 1 / (1 + torch.exp(-network(values, "transition_gate", x)))
    proposal = network(values, "transition_proposal", x)
    kept = z @ values["transition_linear_weight"] + values["transition_linear_bias"]
    raw = proposal.clamp_min(0) @ values["transition_scale_weight"]
    raw = raw + values["transition_scale_bias"]
    return (1 - gate) * kept + gate * proposal, (1 + raw.exp()).log()


def read_back(model, values, data, n, t):
    """What the step after t reads of what was observed at t; t = -1 is before the first."""
    if not model.autoregressive:
        return torch.zeros(0).double()
    size = model.emission.shift_size
    if t < 0:
        return torch.cat([torch.zeros(size), torch.ones(1)]).double()
    seen = data.mask[n, t].double().reshape(-1)
    y = data.values[n, t]
    if isinstance(model.emission, Categorical):
        told = torch.nn.functional.one_hot(y, size).double()
    elif isinstance(model.emission, Poisson):
        told = (1 + y.double()).log()
    elif isinstance(model.emission, Multinomial):
        told = y.double() / y.sum().clamp_min(1)
    elif isinstance(model.emission, Bernoulli):
        told = y.double()
    else:
        told = (y.double() - values["mean"][0]) / model.emission.predictor_scale
    return torch.cat([told * seen, 1 - seen.mean().reshape(1)])


def emitted(model, values, y, mask, shift):
    """log O(y | z), element by element, from torch's distributions."""
    emission, d = model.emission, torch.distributions
    if isinstance(emission, Categorical):
        law = d.Categorical(logits=values["probs"][0].log() + shift)
        return law.log_prob(y) * mask
    if isinstance(emission, Multinomial):
        logits = values["probs"][0].log() + shift
        law = d.Multinomial(int(y.sum()), logits=logits)
        return law.log_prob(y.double()) * mask.all()
    if isinstance(emission, Poisson):
        terms = d.Poisson(values["rate"][0] * shift.exp()).log_prob(y.double())
    elif isinstance(emission, Bernoulli):
        logits = torch.logit(values["probs"][0]) + shift
        terms = d.Bernoulli(logits=logits).log_prob(y.double())
    elif isinstance(emission, FullGaussian):
        rows = values["scale"][0][:, None] * values["correlation_factor"][0]
        covariance = rows @ rows.T
        seen = mask.nonzero()[:, 0]
        if not len(seen):
            return torch.zeros(()).double()
        mean = (values["mean"][0] + shift)[seen]
        law = d.MultivariateNormal(mean, covariance[seen][:, seen])
        return law.log_prob(y.double()[seen])
    else:
        terms = d.Normal(values["mean"][0] + shift, values["scale"][0]).log_prob(y.double())
    return (terms * mask).sum()


def joint(model, data, paths):
    """log p(z) and log O(y | z) of every sequence, one step at a time."""
    values = model.known
    chain, emission = [], []
    none = torch.zeros(0).double()
    for n, length in enumerate(data.lengths.tolist()):
        log_z, log_y = torch.zeros(()).double(), torch.zeros(()).double()
        for t in range(length):
            past = read_back(model, values, data, n, t - 1)
            if model.inputs:
                now = data.inputs[n, t].double()
                before = data.inputs[n, t - 1].double() if t else torch.zeros(2).double()
            else:
                now = before = none
            driver = torch.cat([before, past])
            if t and model.timed:
                before, gap = paths[n, t - 1], data.times[n, t] - data.times[n, t - 1]
                mean, scale = moved(values, before, driver)
                stay = torch.exp(-values["transition_rate"] * gap)
                law = stay * before + (1 - stay) * mean, scale * (1 - stay**2).sqrt()
            elif t:
                law = moved(values, paths[n, t - 1], driver)
            elif model.initial == "free":
                law = values["initial_mean"], values["initial_scale"]
            else:
                law = moved(values, values["initial_origin"], driver)
            log_z = log_z + torch.distributions.Normal(*law).log_prob(paths[n, t]).sum()
            x = torch.cat([paths[n, t], now, past])
            shift = network(values, "emission_network", x) * model.emission.predictor_scale
            log_y = log_y + emitted(
                model, values, data.values[n, t], data.mask[n, t], shift.double()
            )
        chain.append(log_z)
        emission.append(log_y)
    return torch.stack(chain), torch.stack(emission)


def some_paths(data, *draws):
    paths = torch.randn(*draws, len(data), data.max_length, 2, dtype=torch.float64)
    return paths * data.step_mask.unsqueeze(-1)


@every_kind
@every_emission
def test_densities_are_sums_over_single_steps(emission, kind):
    model, data = case(emission, **kind)
    laws = model.laws({}, data)
    paths = some_paths(data, 2)
    for each, chain, emission_ in zip(
        paths, laws.chain_log_prob(paths), laws.emission_log_prob(paths), strict=True
    ):
        expected = joint(model, data, each)
        torch.testing.assert_close(chain, expected[0])
        torch.testing.assert_close(emission_, expected[1])


@every_kind
def test_densities_step_by_step_make_the_whole(kind):
    model, data = case(**kind)
    laws = model.laws({}, data)
    paths = some_paths(data, 2)
    chain = laws.log_first(paths[..., 0, :])
    emission = laws.log_step(paths[..., 0, :], 0)
    for t in range(1, data.max_length):
        inside = t < data.lengths
        more = laws.log_next(paths[..., t, :], paths[..., t - 1, :], t - 1)
        chain = chain + torch.where(inside, more, 0)
        emission = emission + torch.where(inside, laws.log_step(paths[..., t, :], t), 0)
    torch.testing.assert_close(chain, laws.chain_log_prob(paths))
    torch.testing.assert_close(emission, laws.emission_log_prob(paths))


@every_kind
def test_the_pyro_program_is_the_joint_density(kind):
    model, data = case(**kind)
    paths = some_paths(data)
    program = poutine.condition(model, data={"states": paths})
    trace = poutine.trace(program).get_trace(data)
    torch.testing.assert_close(trace.log_prob_sum(), sum(joint(model, data, paths)).sum())


def test_unknown_weights_have_their_priors_in_the_program():
    model = DeepMarkovModel(2, "poisson", transition_width=3, emission_width=4)
    data = model.sample(2, 3, seed=0).data
    trace = poutine.trace(model).get_trace(data)
    trace.compute_log_prob()
    sites = set(trace.stochastic_nodes) - {"states", "sequence"}
    assert sites == set(model.parameter_names)
    for name, prior in model.priors.items():
        node = trace.nodes[name]
        torch.testing.assert_close(node["log_prob"], prior.log_prob(node["value"]))
        assert len(model.parameter_dims()[name]) == len(prior.event_shape)


@every_kind
def test_what_lies_beyond_a_length_does_not_matter(kind):
    model, data = case(**kind)
    paths = some_paths(data)
    other = torch.where(data.step_mask.unsqueeze(-1), paths, 7.0)
    laws = model.laws({}, data)
    one = model.laws({}, data[1])
    for name in ("chain_log_prob", "emission_log_prob"):
        whole = getattr(laws, name)(paths)
        torch.testing.assert_close(whole, getattr(laws, name)(other))
        short = getattr(one, name)(paths[1:2, :2])
        torch.testing.assert_close(whole[1:2], short)


def test_without_gate_it_is_a_linear_gaussian_chain():
    """Gate shut, network of the scale silent: z' = z A + a + noise."""
    model, _ = case()
    values = dict(model.known)
    values |= {name: torch.zeros_like(values[name]) for name in ("transition_scale_weight",)}
    values["transition_gate_bias1"] = torch.full((2,), -800.0).double()
    values["transition_scale_bias"] = torch.tensor([math.log(math.e - 1)] * 2).double()
    linear = DeepMarkovModel(2, "gaussian", transition_width=3, emission_width=4)
    values["mean"], values["scale"] = torch.zeros(1).double(), torch.ones(1).double()
    shapes = {"emission_network_weight2": torch.zeros(4, 1).double()}
    linear = linear.with_parameters(**(values | shapes))
    drawn = linear.sample(2, 4, seed=0)
    laws = linear.laws({}, drawn.data)
    z = torch.randn(2, 4, 2, dtype=torch.float64)
    a, b = values["transition_linear_weight"], values["transition_linear_bias"]
    first = dist.Normal(values["initial_mean"], values["initial_scale"]).log_prob(z[:, 0]).sum(-1)
    rest = dist.Normal(z[:, :-1] @ a + b, 1.0).log_prob(z[:, 1:]).sum((-1, -2))
    torch.testing.assert_close(laws.chain_log_prob(z), first + rest)
    alone = dist.Normal(0.0, 1.0).log_prob(drawn.data.values.double()).sum((-1, -2))
    torch.testing.assert_close(laws.emission_log_prob(z), alone)
    covariance = torch.eye(2).double().expand(2, 3, 2, 2)
    slope, offset, noise = laws.linearised(z[:, :-1], covariance)
    torch.testing.assert_close(slope, a.T.expand(2, 3, 2, 2))
    torch.testing.assert_close(offset, b.expand(2, 3, 2))
    torch.testing.assert_close(noise, covariance)


def test_in_continuous_time_with_silent_networks_it_is_an_ornstein_uhlenbeck_process():
    """μ and σ constant: z relaxes to μ, with stationary standard deviation σ."""
    model, data = case(timed=True)
    silent = {
        name: torch.zeros_like(value)
        for name, value in model.known.items()
        if name.startswith("transition") and "weight" in name
    }
    mean, sd, rate = (torch.tensor(x).double() for x in ([0.4, -1.0], [0.7, 1.3], [0.5, 2.0]))
    model = model.with_parameters(
        **silent,
        transition_linear_bias=mean,
        transition_gate_bias1=[-800.0] * 2,
        transition_scale_bias=sd.expm1().log(),
        transition_rate=rate,
        initial_mean=mean,
        initial_scale=sd,
    )
    process = LinearGaussianSSM(OrnsteinUhlenbeck(2), 2).with_parameters(
        rate=rate, mean=mean, stationary_variance=sd**2, observation_variance=[1.0, 1.0]
    )
    paths = some_paths(data)
    found = model.laws({}, data).chain_log_prob(paths)
    torch.testing.assert_close(found, process.laws({}, data).chain_log_prob(paths))


def test_in_continuous_time_long_gaps_forget_the_gap():
    """As κΔ grows the transition is that of discrete time."""
    model, data = case(timed=True)
    model = model.with_parameters(transition_rate=[1e4, 1e4])
    plain = DeepMarkovModel(2, EMISSIONS["gaussian"], transition_width=3, emission_width=4)
    values = {name: v for name, v in model.known.items() if name != "transition_rate"}
    paths = some_paths(data)
    found = model.laws({}, data).chain_log_prob(paths)
    expected = plain.with_parameters(**values).laws({}, data).chain_log_prob(paths)
    torch.testing.assert_close(found, expected)


def test_continuous_time_needs_times_that_increase():
    model, data = case(timed=True)
    with pytest.raises(ValueError, match=r"data\.times: DeepMarkovModel needs the time of every"):
        model.check(Sequences.from_tensors(data.values, data.mask, data.lengths))
    still = Sequences.from_tensors(
        data.values, data.mask, data.lengths, times=torch.tensor([0.0, 1.0, 1.0, 2.0])
    )
    with pytest.raises(ValueError, match="increase; got 1\\.0 after 1\\.0 in sequence '0'"):
        model.check(still)
    with pytest.raises(ValueError, match="initial: must be 'free' in continuous time"):
        DeepMarkovModel(2, "poisson", timed=True, initial="transition")


@every_kind
def test_linearised_is_the_slope_of_the_mean(kind):
    model, data = case(**kind)
    laws = model.laws({}, data)
    states = torch.randn(3, 3, 2, dtype=torch.float64)
    parts = laws.linearised(states, torch.eye(2).double().expand(3, 3, 2, 2))
    for t in range(3):
        z = states[:, t]
        slope, offset, noise = (part[:, t] for part in parts)
        mean, scale = laws._moved(z, t)
        torch.testing.assert_close((slope @ z.unsqueeze(-1)).squeeze(-1) + offset, mean)
        torch.testing.assert_close(noise, scale.square().diag_embed())
        for column in range(2):
            step = torch.zeros(2).double()
            step[column] = 1e-6
            rise = (laws._moved(z + step, t)[0] - laws._moved(z - step, t)[0]) / 2e-6
            torch.testing.assert_close(slope[..., column], rise, rtol=1e-6, atol=1e-8)
    one = model.laws({}, data[2])
    assert one.linearised(states[:1, :0], torch.zeros(1, 0, 2, 2))[0].shape == (1, 0, 2, 2)


@every_kind
def test_draws_have_the_moments_of_the_laws(kind):
    """20 000 draws: 16 means and spreads within 5 standard errors, false alarm below 1e-5."""
    model, data = case(**kind)
    laws = model.laws({}, data)
    n = 20_000
    z = torch.randn(3, 2, dtype=torch.float64)
    for draws, (mean, scale) in (
        (laws.draw_first(n), laws.first()),
        (laws.draw_next(z.expand(n, 3, 2), 2), laws._moved(z, 2)),
    ):
        assert ((draws.mean(0) - mean).abs() < 5 * scale / math.sqrt(n)).all()
        assert ((draws.std(0) / scale - 1).abs() < 5 / math.sqrt(2 * n)).all()


@every_kind
def test_simulations_follow_the_joint_law(kind):
    """E[∇ log p(z, y)] = 0 under the model itself, in every parameter.

    1 000 sequences, every parameter moved along one random direction: 17 means of scores within 5
    standard errors, false alarm below 1e-4.
    """
    model, _ = case(Poisson(1), **kind)
    n = 1_000
    inputs = torch.randn(n, 3, 2, dtype=torch.float64) if model.inputs else None
    times = torch.tensor([0.0, 0.4, 2.0]) if model.timed else None
    drawn = model.sample(n, 3, seed=2, inputs=inputs, times=times)
    free = DeepMarkovModel(2, Poisson(1), transition_width=3, emission_width=4, **kind)
    values = dict(model.known)
    for name, value in values.items():
        direction = torch.randn_like(value)

        def moved_by(size, name=name, value=value, direction=direction):
            laws = free.laws({**values, name: value + size * direction}, drawn.data)
            return laws.chain_log_prob(drawn.states) + laws.emission_log_prob(drawn.states)

        scores = (moved_by(1e-5) - moved_by(-1e-5)) / 2e-5
        assert scores.mean().abs() <= 5 * scores.std() / math.sqrt(n) + 1e-9, name


def test_a_fully_missing_sequence_reads_nothing():
    model, _ = case(autoregressive=True)
    blank = Sequences.from_tensors(
        torch.zeros(2, 3, 2), mask=torch.tensor([[[False]], [[True]]]).expand(2, 3, 2)
    )
    laws = model.laws({}, blank)
    assert laws.emission_log_prob(some_paths(blank))[0] == 0
    simulated = model.simulate({}, blank)
    assert not simulated.data.mask[0].any()
    assert simulated.states.isfinite().all()
    assert (laws.drivers[0, :, -1] == 1).all()
    assert (laws.drivers[1, 1:, -1] == 0).all()


def test_extreme_states_give_finite_densities():
    model, data = case(Bernoulli(3))
    laws = model.laws({}, data)
    paths = (1e4 * some_paths(data)).requires_grad_()
    total = (laws.chain_log_prob(paths) + laws.emission_log_prob(paths)).sum()
    total.backward()
    assert total.isfinite()
    assert paths.grad.isfinite().all()


def test_start_is_the_global_fit():
    model = DeepMarkovModel(3, Bernoulli(4), transition_width=5, emission_width=6)
    torch.manual_seed(0)
    data = Sequences.from_tensors(
        (torch.rand(30, 20, 4) < torch.tensor([0.1, 0.3, 0.5, 0.9])) * 1.0
    )
    start = model.start(data)
    assert set(start) == set(model.parameter_names)
    torch.testing.assert_close(
        start["probs"][0], data.values.double().mean((0, 1)), atol=1e-2, rtol=0
    )
    for name, prior in model.priors.items():
        assert prior.support.check(start[name]).all()
        assert start[name].shape == prior.event_shape


@every_kind
def test_saved_and_loaded(kind, tmp_path):
    model, data = case(**kind)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.configuration == model.configuration
    paths = some_paths(data)
    torch.testing.assert_close(
        loaded.laws({}, data).chain_log_prob(paths),
        model.laws({}, data).chain_log_prob(paths),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"states": 0}, "states: must be a whole number >= 1, got 0"),
        ({"emission": "bernuli"}, "emission: must be an Emission"),
        ({"emission": Regression(Bernoulli(2), lags=1)}, "emission: must be an Emission without"),
        ({"emission": NeuralEmission(Bernoulli(2))}, "emission: must be an Emission without"),
        ({"transition_width": 1.5}, "transition_width: must be a whole number >= 1, got 1.5"),
        ({"emission_width": 0}, "emission_width"),
        ({"initial": "stationary"}, "initial: must be one of"),
        ({"inputs": -1}, "inputs: must be a whole number >= 0, got -1"),
        ({"weight_scale": 0.0}, "weight_scale: must be a finite number > 0"),
        ({"priors": {"nothing": dist.Normal(0.0, 1.0)}}, "unknown parameter 'nothing'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeepMarkovModel(**({"states": 2, "emission": "gaussian"} | arguments))


def test_bad_data():
    model, _ = case(Bernoulli(3), inputs=2)
    with pytest.raises(ValueError, match="needs values 0 or 1"):
        model.check(Sequences.from_array(np.full((1, 3, 3), 2.0)))
    with pytest.raises(ValueError, match=r"DeepMarkovModel\(inputs=2\) needs 2 column"):
        model.check(Sequences.from_array(np.zeros((1, 3, 3))))
    with pytest.raises(ValueError, match="needs values for"):
        DeepMarkovModel(2, "gaussian").laws({}, Sequences.from_array(np.zeros((1, 3, 1))))


def test_distributions_have_one_entry_a_sequence():
    model, data = case()
    laws = model.laws({}, data)
    for law in (laws.states(), laws.observations(some_paths(data))):
        assert law.batch_shape == (3,)
        assert law.expand((3,)) is law
        assert law.sample((2,)).shape == (2, 3, 4, 2)
        with pytest.raises(ValueError, match="one entry per sequence"):
            law.expand((2, 3))


def test_predictive_of_the_program():
    """Without data the program draws them, from the same law as ``sample``."""
    model, data = case(Poisson(1))
    pyro.set_rng_seed(0)
    assert model(data, observe=False).shape == (3, 4, 1)
