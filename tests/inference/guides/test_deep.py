"""The guide of deep Markov models: against loops over single steps, and quadrature."""

import math

import pytest
import torch

from beliefzoo.inference import LSTMFilter, to_arviz
from beliefzoo.inference.arviz_groups import group
from beliefzoo.inference.checking.importance import weighted_evidence
from beliefzoo.inference.fitting.loop import fit
from beliefzoo.inference.fitting.objectives import Batch, elbo
from beliefzoo.inference.fitting.saving import load_fit, save_fit
from beliefzoo.inference.fitting.settings import FitSettings
from beliefzoo.inference.guides.deep import DeepGuide, TrajectoryNetwork, normal_divergence
from beliefzoo.models import (
    Bernoulli,
    Categorical,
    DeepMarkovModel,
    HiddenMarkovModel,
    Poisson,
    Sequences,
)

LENGTHS = (2, 4, 1)
NETWORKS = {
    f"{cell}-{direction}": {"cell": cell, "direction": direction}
    for cell in ("relu", "lstm")
    for direction in ("backward", "forward", "both")
} | {"relative": {"relative": True}}
every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)


def case(network=NETWORKS["relu-backward"], emission=None, inputs=0, **options):
    """A known model, ragged data with gaps, and an untrained guide."""
    torch.manual_seed(3)
    model = DeepMarkovModel(
        2, emission or Bernoulli(3), transition_width=3, emission_width=4, inputs=inputs, **options
    )
    model = model.with_parameters(**{n: prior.sample() for n, prior in model.priors.items()})
    read = torch.randn(3, 4, inputs) if inputs else None
    drawn = model.sample(3, list(LENGTHS), seed=1, inputs=read).data
    mask = drawn.mask.clone()
    mask[1, 1] = False
    data = Sequences.from_tensors(
        drawn.values,
        mask=mask,
        lengths=torch.tensor(LENGTHS),
        codes=drawn.is_codes,
        **({"inputs": read} if inputs else {}),
    )
    guide = DeepGuide(model, TrajectoryNetwork(5, **network))
    for weight in guide.filter.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return model, data, guide


def states_of(reader, x):
    """One sequence through one recurrent network, step by step or by torch: (T, H)."""
    x = x.flip(0) if reader.reverse else x
    if reader.cell == "lstm":
        out = reader.network(x[:, None])[0][:, 0]
    else:
        h, steps = reader.origin, []
        for u in x:
            h = (reader.into.weight @ u + reader.into.bias + h @ reader.onward).clamp_min(0)
            steps.append(h)
        out = torch.stack(steps)
    return out.flip(0) if reader.reverse else out


def laws_along(guide, data, n, path):
    """Mean and standard deviation of every step of one path by the formula of the paper."""
    net = guide.filter
    laws = guide.model.laws({}, data)
    length = int(data.lengths[n])
    seen = data.mask[n, :length]
    x = torch.cat([torch.where(seen, data.values[n, :length], 0), (~seen).double()], -1)
    if data.inputs is not None:
        x = torch.cat([x, data.inputs[n, :length]], -1)
    hidden = [states_of(reader, x) for reader in net.readers]
    before = torch.zeros(2) if net.relative else net.origin
    means, scales = [], []
    for t in range(length):
        parts = [torch.tanh(net.into(before)), *(h[t] for h in hidden)]
        mean, raw = net.out(sum(parts) / len(parts)).chunk(2)
        if net.relative:
            driver = None if laws.drivers is None else laws.drivers[n : n + 1, t]
            mean = mean + (laws.move(before[None], driver) if t else laws.first())[0][0]
        means.append(mean)
        scales.append((1 + raw.exp()).log())
        before = path[t]
    return torch.stack(means), torch.stack(scales)


@every_network
@pytest.mark.parametrize("inputs", [0, 2])
def test_paths_and_their_density_follow_the_formula(network, inputs):
    _, data, guide = case(network, inputs=inputs)
    posterior = guide.posterior(guide.model.laws({}, data))
    noise = torch.randn(2, 3, 4, 2)
    paths = posterior.path(noise)
    assert (paths[:, ~data.step_mask] == 0).all()
    density = posterior.path_log_prob(paths)
    for draw in range(2):
        for n, length in enumerate(LENGTHS):
            mean, scale = laws_along(guide, data, n, paths[draw, n])
            path = mean + scale * noise[draw, n, :length]
            torch.testing.assert_close(paths[draw, n, :length], path)
            expected = torch.distributions.Normal(mean, scale).log_prob(path).sum()
            torch.testing.assert_close(density[draw, n], expected)


@every_network
def test_what_the_network_knows(network):
    """Backward: the future alone; forward: the past alone; both: all."""
    _, data, guide = case(network)
    guide = guide.eval()

    def potentials(values):
        changed = Sequences.from_tensors(values, mask=data.mask, lengths=data.lengths)
        return guide.filter.potentials(guide.model.laws({}, changed))[0][:, 0]  # the longest

    before = potentials(data.values)
    for t in (0, 3):
        other = data.values.clone()
        other[1, t] = 1 - other[1, t]
        moved = (potentials(other) - before).abs().sum(-1) > 0
        steps = torch.arange(4)
        reach = {"backward": steps <= t, "forward": steps >= t, "both": steps >= 0}
        # relu units may be off; what is not within reach never moves, step t itself does
        assert not (moved & ~reach[network.get("direction", "backward")]).any()
        assert moved[t]


def test_bound_is_the_mean_log_weight():
    """Divergences in closed form: the same expectation as log p − log q of drawn paths.

    10 000 draws of three sequences, within 5 joint standard errors: false alarm below 1e-5.
    """
    _, data, guide = case()
    laws = guide.model.laws({}, data)
    posterior = guide.posterior(laws)
    with torch.no_grad():
        paths = posterior.sample_paths(10_000)
        weight = posterior.chain_log_prob(paths) + posterior.emission_log_prob(paths)
        weight = weight - posterior.path_log_prob(paths)
        each = torch.stack([posterior.elbo(1) for _ in range(500)])
    error = (weight.var(0) / 10_000 + each.var(0) / 500).sqrt()
    assert ((weight.mean(0) - each.mean(0)).abs() < 5 * error).all()
    # The closed form is the estimate with less noise.
    assert (each.var(0) < weight.var(0)).sum() >= 2


def test_particles_are_averaged_and_the_weight_weighs():
    _, data, guide = case()
    posterior = guide.posterior(guide.model.laws({}, data))
    bounds = {}
    for weight in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        bounds[weight] = posterior.elbo(7, weight)
    torch.testing.assert_close(bounds[0.5], (bounds[0.0] + bounds[1.0]) / 2)
    torch.manual_seed(0)
    paths = posterior.sample_paths(7)
    torch.testing.assert_close(bounds[0.0], posterior.emission_log_prob(paths).mean(0))


def test_divergence_is_torchs():
    mean, other = torch.randn(2, 4, 3)
    scale, other_scale = torch.rand(2, 4, 3) + 0.1
    d = torch.distributions
    expected = d.kl_divergence(d.Normal(mean, scale), d.Normal(other, other_scale)).sum(-1)
    torch.testing.assert_close(normal_divergence(mean, scale, other, other_scale), expected)


@every_network
def test_gradient_of_the_bound_is_that_of_finite_differences(network):
    """In every weight of the network and the model, along one random direction each."""
    _, data, guide = case(network, autoregressive=True)
    model = DeepMarkovModel(
        2, Bernoulli(3), transition_width=3, emission_width=4, autoregressive=True
    )
    values = {n: v.clone().requires_grad_() for n, v in guide.model.known.items()}

    def bound():
        torch.manual_seed(0)
        return guide.posterior(model.laws(values, data)).elbo(2).sum()

    leaves = {**dict(guide.filter.named_parameters()), **values}
    gradients = torch.autograd.grad(
        bound(), list(leaves.values()), allow_unused=True, materialize_grads=True
    )  # relative paths do not begin at the network's origin
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        direction, step = torch.randn_like(leaf), 1e-6
        with torch.no_grad():
            leaf.add_(step * direction)
            up = bound()
            leaf.sub_(2 * step * direction)
            down = bound()
            leaf.add_(step * direction)
        slope = (gradient * direction).sum()
        torch.testing.assert_close((up - down) / (2 * step), slope, rtol=2e-5, atol=1e-6), name


def test_weighted_paths_give_the_evidence():
    """One component, three steps: the evidence by quadrature over a grid of paths.

    20 000 weighted draws, within 5 standard errors.
    """
    torch.manual_seed(0)
    model = DeepMarkovModel(1, Poisson(1), transition_width=3, emission_width=4)
    model = model.with_parameters(**{n: prior.sample() for n, prior in model.priors.items()})
    data = model.sample(1, 3, seed=0).data
    laws = model.laws({}, data)
    grid = torch.linspace(-12, 12, 2001)
    cell = float(grid[1] - grid[0])
    column = grid.reshape(-1, 1, 1)
    alpha = laws.log_first(column)[:, 0] + laws.log_step(column, 0)[:, 0]
    for t in (1, 2):
        mean, scale = laws._moved(column, t - 1)
        table = torch.distributions.Normal(mean[:, 0], scale[:, 0]).log_prob(grid)
        alpha = (alpha[:, None] + table).logsumexp(0) + math.log(cell)
        alpha = alpha + laws.log_step(column, t)[:, 0]
    evidence = alpha.logsumexp(0) + math.log(cell)
    guide = DeepGuide(model, TrajectoryNetwork(5))
    with torch.no_grad():
        guide.filter.out.bias[1] = 2.0  # wide draws have weights of finite variance
    posterior = guide.posterior(laws)
    with torch.no_grad():
        paths = posterior.sample_paths(20_000)
        log_w = posterior.chain_log_prob(paths) + posterior.emission_log_prob(paths)
        ratio = (log_w - posterior.path_log_prob(paths) - evidence).exp()[:, 0]
    assert (ratio.mean() - 1).abs() < 5 * ratio.std() / math.sqrt(20_000)
    estimate = weighted_evidence(guide, data, draws=2000, seed=1)
    assert estimate.log_evidence[0] > estimate.bound[0]


def test_draws_have_the_stated_mean_and_variance():
    _, data, guide = case()
    posterior = guide.posterior(guide.model.laws({}, data))
    assert posterior.mean.shape == posterior.variance.shape == (3, 4, 2)
    assert (posterior.mean[~data.step_mask] == 0).all()
    assert posterior.rsample((2,)).shape == (2, 3, 4, 2)
    value = posterior.rsample()
    torch.testing.assert_close(posterior.log_prob(value), posterior.path_log_prob(value))
    with pytest.raises(ValueError, match="one entry a sequence"):
        posterior.expand((2, 3))


def test_without_learning_the_network_is_constant():
    _, data, guide = case()
    laws = guide.model.laws({}, data)
    assert not guide.posterior(laws, learn=False).sample_paths(1).requires_grad
    assert guide.posterior(laws).sample_paths(1).requires_grad


def test_annealing_grows_to_one_in_training_only():
    _, data, guide = case()
    guide = DeepGuide(guide.model, guide.filter, annealing=4, least_weight=0.2)
    laws = guide.model.laws({}, data)
    seen = []
    guide.train()
    for _ in range(6):
        seen.append(guide.divergence_weight)
        guide.bound(laws)
    assert seen == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    guide.eval()
    torch.manual_seed(0)
    bound = guide.bound(laws)
    assert int(guide.trained_steps) == 6
    torch.manual_seed(0)
    torch.testing.assert_close(bound, guide.posterior(laws).elbo(1))


def test_dropout_in_training_only():
    _, data, guide = case()
    guide = DeepGuide(guide.model, TrajectoryNetwork(5, dropout=0.5))
    laws = guide.model.laws({}, data)
    guide.eval()
    plain = guide.filter.channels(laws)
    torch.testing.assert_close(plain, guide.filter.channels(laws))
    guide.train()
    dropped = guide.filter.channels(laws)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * plain[kept])
    assert not torch.equal(dropped, plain)


@pytest.mark.parametrize("emission", [Bernoulli(3), Categorical(4), "gaussian"], ids=str)
def test_fit_brings_the_bound_near_the_evidence(emission):
    """The chain is persistent: a model that knows it beats the same frames drawn independently."""
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    symbols = (torch.arange(12) // 4 % 2).expand(40, 12)
    noisy = torch.where(torch.rand(40, 12) < 0.1, 1 - symbols, symbols)
    if isinstance(emission, Categorical):
        data = Sequences.from_tensors(noisy + 1, codes=True)
    elif isinstance(emission, Bernoulli):
        data = Sequences.from_tensors(noisy.float()[..., None].expand(40, 12, 3).clone())
    else:
        data = Sequences.from_tensors((3 * noisy + torch.rand(40, 12))[..., None])
    model = DeepMarkovModel(2, emission, transition_width=8, emission_width=8, weight_scale=3.0)
    guide = DeepGuide(model, TrajectoryNetwork(16), annealing=10)
    settings = FitSettings(
        steps=60, batch_size=20, learning_rate=1e-2, parameter_learning_rate=1e-2, sleep_steps=0
    )
    result = fit(model, guide, data, settings=settings, progress=False)
    first, last = result.evaluations[0, 1], result.evaluations[:, 1].max()
    alone = HiddenMarkovModel(1, emission)
    values = alone.emission.start(
        data.values[data.step_mask], data.mask[data.step_mask], torch.ones(data.n_steps, 1)
    )
    independent = alone.laws(values, data).log_likelihood.sum() / data.n_steps
    assert last > independent
    assert last >= first


def test_pyros_elbo_is_the_same_in_expectation():
    """Trace_ELBO of the two programs against the guide's own estimate; 5 standard errors."""
    from pyro.infer import Trace_ELBO

    _, data, guide = case()
    with torch.no_grad():
        theirs = torch.tensor([-Trace_ELBO().loss(guide.model, guide, data) for _ in range(150)])
        ours = torch.stack([guide.bound(guide.model.laws({}, data)).sum() for _ in range(150)])
    error = (theirs.var() / 150 + ours.var() / 150).sqrt()
    assert (theirs.mean() - ours.mean()).abs() < 5 * error


def test_sleep_loss_is_the_density_of_simulated_paths():
    _, data, guide = case()
    drawn = guide.model.simulate({}, data)
    laws = guide.model.laws({}, drawn.data)
    loss = guide.sleep_loss(laws, drawn.states)
    torch.testing.assert_close(loss, -guide.posterior(laws).path_log_prob(drawn.states))


def test_loss_of_a_fit_is_minus_the_bound_and_the_prior():
    _, data, guide = case()
    torch.manual_seed(0)
    loss = elbo(guide, Batch(data, 2.0, 1))
    guide.trained_steps.zero_()
    torch.manual_seed(0)
    torch.testing.assert_close(loss, -2 * guide.bound(guide.model.laws({}, data)).sum())


@pytest.mark.parametrize("autoregressive", [False, True])
@pytest.mark.parametrize("emission", [Bernoulli(3), Categorical(3)], ids=str)
def test_forecast_follows_the_laws_of_one_step(emission, autoregressive):
    """Given the states that were drawn: 9 frequencies of 4000 draws within 5 standard errors."""
    model, data, guide = case(emission=emission, autoregressive=autoregressive, inputs=2)
    future = torch.randn(3, 2, 2)
    told = guide.forecast(data, 2, draws=4000, inputs=future, seed=0)
    assert told.states.shape == (4000, 3, 2, 2)
    laws = model.laws({}, data)
    for n, length in enumerate(LENGTHS):
        y = data.values[n, length - 1]
        told_back = torch.nn.functional.one_hot(y, 3).double() if emission.codes else y.double()
        seen = data.mask[n, length - 1].double().mean()
        past = (
            torch.cat([told_back * seen, 1 - seen.reshape(1)])
            if autoregressive
            else seen.new_zeros(0)
        )
        reader = torch.cat([future[n, 0], past.double().reshape(-1)[: model.drivers - 2]])
        z = told.states[:, n, 0]
        shift = laws.predictor(z, reader)
        if emission.codes:
            share = (model.known["probs"][0].log() + shift).softmax(-1)
            found = torch.nn.functional.one_hot(told.draws[:, n, 0], 3).double()
        else:
            share = (torch.logit(model.known["probs"][0]) + shift).sigmoid()
            found = told.draws[:, n, 0].double()
        error = (share * (1 - share)).mean(0).sqrt() / math.sqrt(4000)
        assert ((found.mean(0) - share.mean(0)).abs() < 5 * error).all()
        driver = torch.cat([data.inputs[n, length - 1], reader[2:]])
        mean, scale = laws.move(torch.zeros(1, 2), driver[None])
        assert mean.shape == scale.shape == (1, 2)


def test_forecast_of_a_chain_that_forgets_is_its_transition():
    """Gate shut, linear part silent: z' ~ N(a, s²) wherever the state was."""
    _, data, guide = case()
    values = dict(guide.model.known)
    values["transition_gate_bias1"] = torch.full((2,), -800.0)
    values["transition_linear_weight"] = torch.zeros(2, 2)
    values["transition_scale_weight"] = torch.zeros(2, 2)
    model = guide.model.with_parameters(**values)
    told = DeepGuide(model, guide.filter).forecast(data, 1, draws=4000, seed=0)
    z = told.states[:, :, 0]
    scale = torch.nn.functional.softplus(values["transition_scale_bias"])
    error = (z.mean(0) - values["transition_linear_bias"]).abs()
    assert (error < 5 * scale / math.sqrt(4000)).all()
    assert ((z.std(0) / scale - 1).abs() < 5 / math.sqrt(8000)).all()
    with pytest.raises(ValueError, match="reads none"):
        guide.forecast(data, 1, inputs=torch.zeros(3, 1, 2))
    with pytest.raises(ValueError, match="steps: must be a whole number >= 1, got 0"):
        guide.forecast(data, 0)


@pytest.mark.parametrize(
    ("inputs", "autoregressive"), [(0, False), (2, False), (0, True), (2, True)]
)
def test_forecast_in_continuous_time_waits_the_gaps(inputs, autoregressive):
    """Gate shut, linear part silent: an Ornstein-Uhlenbeck process around a with spread s."""
    torch.manual_seed(3)
    model = DeepMarkovModel(
        2,
        Bernoulli(3),
        transition_width=3,
        emission_width=4,
        inputs=inputs,
        autoregressive=autoregressive,
        timed=True,
    )
    values = {name: prior.sample() for name, prior in model.priors.items()}
    values["transition_gate_bias1"] = torch.full((2,), -800.0)
    values["transition_linear_weight"] = torch.zeros(2, 2)
    values["transition_scale_weight"] = torch.zeros(2, 2)
    model = model.with_parameters(**values)
    read = {"inputs": torch.randn(3, 4, inputs)} if inputs else {}
    ends = torch.tensor([[0.0, 0.5, 1.0, 4.0], [0.0, 1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 5.0]])
    data = model.sample(3, list(LENGTHS), seed=1, times=ends, **read).data
    future = {"inputs": torch.randn(3, 2, inputs)} if inputs else {}
    times = torch.tensor([[0.6, 2.6], [3.5, 3.6], [3.0, 4.0]])
    guide = DeepGuide(model, TrajectoryNetwork(5))
    told = guide.forecast(data, 2, draws=4000, times=times, seed=0, **future)
    gap = (times[:, 1] - times[:, 0]).unsqueeze(-1)
    kept = torch.exp(-values["transition_rate"] * gap)
    centre = values["transition_linear_bias"]
    spread = torch.nn.functional.softplus(values["transition_scale_bias"])
    residual = told.states[:, :, 1] - centre - kept * (told.states[:, :, 0] - centre)
    scale = spread * (1 - kept.square()).sqrt()
    assert ((residual.mean(0) / scale).abs() < 5 / math.sqrt(4000)).all()
    assert ((residual.std(0) / scale - 1).abs() < 5 / math.sqrt(8000)).all()
    for bad in (None, times[:, :1], times - 10):
        with pytest.raises(ValueError, match="times: "):
            guide.forecast(data, 2, times=bad, **future)


def test_forecasts_of_a_timed_model_are_exported():
    model = DeepMarkovModel(2, Bernoulli(3), transition_width=3, emission_width=4, timed=True)
    times = torch.tensor([[0.0, 0.5, 1.0], [0.0, 1.0, 2.0]])
    data = model.sample(2, [3, 2], seed=1, times=times).data
    settings = FitSettings(steps=1, sleep_steps=0)
    result = fit(
        model, DeepGuide(model, TrajectoryNetwork(3)), data, settings=settings, progress=False
    )
    ahead = torch.tensor([[2.0, 3.0], [4.0, 9.0]])
    counts = {"draws": 2, "state_draws": 1, "predictive_draws": 2, "prior_draws": 0}
    told = group(to_arviz(result, data, forecast=2, times=ahead, **counts), "predictions")
    assert told["obs"].shape == (1, 2, 2, 2, 3) or told["obs"].shape == (2, 2, 2, 2, 3)
    assert set(told["obs"].values.ravel().tolist()) <= {0.0, 1.0}


def test_a_saved_fit_is_the_same(tmp_path):
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    data = Sequences.from_tensors(torch.bernoulli(torch.full((6, 4, 3), 0.3)))
    model = DeepMarkovModel(2, Bernoulli(3), transition_width=3, emission_width=4)
    network = TrajectoryNetwork(4, cell="lstm", direction="both", dropout=0.1)
    guide = DeepGuide(model, network, annealing=3, particles=2)
    settings = FitSettings(steps=2, batch_size=3, sleep_steps=1, evaluate_every=1)
    result = fit(model, guide, data, settings=settings, progress=False)
    assert int(guide.trained_steps) == 0  # the guide that was passed in stays as it is
    save_fit(result, tmp_path / "fit")
    loaded = load_fit(tmp_path / "fit")
    assert loaded.guide.options == result.guide.options
    assert loaded.guide.filter.configuration == network.configuration
    estimates = [weighted_evidence(one, data, draws=25, seed=0) for one in (result, loaded)]
    assert torch.equal(estimates[0].log_evidence, estimates[1].log_evidence)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: DeepGuide(m, LSTMFilter(3)), "filter: DeepGuide needs a TrajectoryNetwork"),
        (
            lambda m: DeepGuide(HiddenMarkovModel(2, "gaussian"), TrajectoryNetwork(3)),
            "model: must",
        ),
        (lambda m: DeepGuide(m, TrajectoryNetwork(3), particles=0), "particles: must be"),
        (lambda m: DeepGuide(m, TrajectoryNetwork(3), annealing=-1), "annealing: must be"),
        (lambda m: DeepGuide(m, TrajectoryNetwork(3), least_weight=2), "least_weight: must be in"),
        (lambda m: TrajectoryNetwork(0), "hidden_size: must be a whole number >= 1, got 0"),
        (lambda m: TrajectoryNetwork(3, direction="up"), "direction: must be one of"),
        (lambda m: TrajectoryNetwork(3, cell="gru"), "cell: must be one of"),
        (lambda m: TrajectoryNetwork(3, dropout=1.0), r"dropout: must be in \[0, 1\)"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make(DeepMarkovModel(2, "gaussian", transition_width=3, emission_width=4))


def test_a_network_fits_one_kind_of_model():
    network = TrajectoryNetwork(3)
    DeepGuide(DeepMarkovModel(2, "gaussian", transition_width=3, emission_width=4), network)
    with pytest.raises(ValueError, match="make a new TrajectoryNetwork"):
        DeepGuide(DeepMarkovModel(3, "gaussian", transition_width=3, emission_width=4), network)


@every_network
def test_laws_of_single_steps_make_the_density(network):
    _, data, guide = case(network)
    posterior = guide.posterior(guide.model.laws({}, data))
    paths = posterior.sample_paths(2)
    total = torch.zeros(2, 3)
    for t in range(4):
        mean, scale = posterior.step(None if t == 0 else paths[:, :, t - 1], t)
        terms = torch.distributions.Normal(mean, scale).log_prob(paths[:, :, t]).sum(-1)
        total += torch.where(t < data.lengths, terms, 0)
    torch.testing.assert_close(total, posterior.path_log_prob(paths))
