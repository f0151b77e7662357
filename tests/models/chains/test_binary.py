"""Binary nodes: laws, evidence and gates against sums over states and paths, written out."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, softmax

import oracles
from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    LSTMFilter,
    filter,
    fit,
    forecast,
    log_evidence,
    nuts,
    smooth,
    starting_values,
    to_arviz,
)
from beliefzoo.inference.exact import chains as exact
from beliefzoo.inference.queries import structures
from beliefzoo.models import (
    Bernoulli,
    Categorical,
    Emission,
    FullGaussian,
    Gaussian,
    HarmoniumTransition,
    HiddenMarkovModel,
    NodeEmission,
    NodeInitial,
    Poisson,
    Sequences,
    SigmoidTransition,
    StudentT,
    TemporalRBM,
    TemporalSigmoidBeliefNetwork,
    gate_conditions,
    load_model,
    node_gate,
    node_states,
    save_model,
)

Floats = NDArray[np.float64]
Values = dict[str, Floats]

CORRELATION = np.array([[1.0, 0.4, -0.2], [0.4, 1.0, 0.3], [-0.2, 0.3, 1.0]])
SCALE = np.array([0.8, 1.3, 0.6])

FAMILIES: dict[str, Emission] = {
    "gaussian": Gaussian(),
    "gaussian-3": Gaussian(3),
    "full-gaussian": FullGaussian(3),
    "bernoulli": Bernoulli(4),
    "poisson": Poisson(2),
    "categorical": Categorical(3),
}
MODELS = {"directed": TemporalSigmoidBeliefNetwork, "harmonium": TemporalRBM}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def bits(nodes: int) -> Floats:
    return np.array(list(itertools.product([0.0, 1.0], repeat=nodes)))


def values_for(nodes: int, family: Emission, seed: int = 0) -> Values:
    """Parameters with couplings between all nodes, and noise where the family has some."""
    rng = np.random.default_rng(seed)
    size = family.shift_size
    values = {
        "node_initial": rng.normal(size=nodes),
        "node_weight": 1.5 * rng.normal(size=(nodes, nodes)),
        "node_bias": rng.normal(size=nodes),
        "node_loading": 0.7 * rng.normal(size=(nodes, size)),
        "node_intercept": 0.5 * rng.normal(size=size),
    }
    if isinstance(family, Gaussian):
        values["scale"] = SCALE[:size]
    if isinstance(family, FullGaussian):
        values["scale"] = SCALE
        values["correlation_factor"] = np.linalg.cholesky(CORRELATION)
    return values


def log_density(family: Emission, values: Values, h: Floats, y: Floats) -> float:
    """log O(y | h) of one observation, NaN being missing: SciPy's densities."""
    eta = values["node_intercept"] + h @ values["node_loading"]
    seen = ~np.isnan(y)
    if isinstance(family, Categorical):
        return float(np.log(softmax(eta)[int(y[0])])) if seen[0] else 0.0
    eta, y = eta[seen], y[seen]
    if not seen.any():
        return 0.0
    if isinstance(family, FullGaussian):
        covariance = (np.outer(SCALE, SCALE) * CORRELATION)[np.ix_(seen, seen)]
        return float(stats.multivariate_normal(eta, covariance).logpdf(y))
    if isinstance(family, Gaussian):
        return float(stats.norm(eta, values["scale"][seen]).logpdf(y).sum())
    law = (
        stats.bernoulli(expit(eta)) if isinstance(family, Bernoulli) else stats.poisson(np.exp(eta))
    )
    return float(law.logpmf(y).sum())


def log_normaliser(family: Emission, values: Values, h: Floats) -> float:
    """log Z(h), up to what is the same for all h: O(y | h) exp(−h'Wy) at one y, turned round."""
    y = np.ones(1 if isinstance(family, Categorical) else family.features)
    return float(h @ natural(family, values) @ code(family, y)) - log_density(family, values, h, y)


def natural(family: Emission, values: Values) -> Floats:
    if isinstance(family, FullGaussian):
        return values["node_loading"] @ np.linalg.inv(np.outer(SCALE, SCALE) * CORRELATION)
    if isinstance(family, Gaussian):
        return values["node_loading"] / values["scale"] ** 2
    return values["node_loading"]


def code(family: Emission, y: Floats) -> Floats:
    """y as the natural weights read it: symbols as one-hot vectors."""
    return np.eye(family.shift_size)[int(y[0])] if isinstance(family, Categorical) else y


def chain_by_hand(
    directed: bool, family: Emission, values: Values, nodes: int
) -> tuple[Floats, Floats]:
    """p(h_1) and T, entry by entry."""
    states = bits(nodes)
    first = np.zeros(len(states))
    move = np.zeros((len(states), len(states)))
    for j, h in enumerate(states):
        for i, before in [(-1, None), *enumerate(states)]:
            bias = values["node_initial"] if before is None else values["node_bias"]
            logits = bias if before is None else values["node_weight"] @ before + bias
            if directed:
                p = np.prod(np.where(h == 1, expit(logits), expit(-logits)))
            else:
                p = math.exp(log_normaliser(family, values, h) + h @ logits)
            if i < 0:
                first[j] = p
            else:
                move[i, j] = p
    return first / first.sum(), move / move.sum(1, keepdims=True)


def known(make, nodes: int, family: Emission, seed: int = 0):  # type: ignore[no-untyped-def]
    return make(nodes, family).with_parameters(**values_for(nodes, family, seed))


def data_for(family: Emission, lengths: tuple[int, ...] = (3, 1, 2)) -> Sequences:
    """Ragged, with missing elements and a step of which nothing is seen."""
    rng = np.random.default_rng(2)
    size = 1 if isinstance(family, Categorical) else family.features
    arrays = []
    for length in lengths:
        y = rng.normal(size=(length, size))
        if isinstance(family, Bernoulli):
            y = (y > 0).astype(float)
        if isinstance(family, Poisson | Categorical):
            y = np.clip(np.round(y + 1), 0, 2)
        arrays.append(y)
    arrays[0][1] = np.nan
    if size > 1:
        arrays[0][2, 0] = np.nan
    codes = isinstance(family, Categorical)
    return Sequences.from_arrays([y[:, 0] if codes else y for y in arrays], codes=codes)


def rows(data: Sequences, n: int) -> Floats:
    """Observations (length, F) of a sequence, NaN where they are missing."""
    y = data.values[n].double().reshape(data.max_length, -1)
    y = y.masked_fill(~data.mask[n].reshape(y.shape), math.nan)
    return y[: int(data.lengths[n])].numpy()


# The laws


@every_family
@every_model
def test_evidence_is_the_sum_over_all_paths(make, family: Emission) -> None:
    nodes = 2
    model, data = known(make, nodes, family), data_for(family)
    values = values_for(nodes, family)
    directed = make is TemporalSigmoidBeliefNetwork
    first, move = chain_by_hand(directed, family, values, nodes)
    laws = model.laws({}, data)
    np.testing.assert_allclose(laws.log_initial[0].exp(), first, rtol=1e-10)
    np.testing.assert_allclose(laws.log_transition[0, 0].exp(), move, rtol=1e-10)
    got = log_evidence(model, data)
    for n, length in enumerate(data.lengths.tolist()):
        table = np.array(
            [[log_density(family, values, h, y) for h in bits(nodes)] for y in rows(data, n)]
        )
        np.testing.assert_allclose(laws.log_likelihood[n, :length], table, rtol=1e-9, atol=1e-10)
        moves = np.broadcast_to(np.log(move), (length - 1, 4, 4))
        expected = oracles.log_evidence(np.log(first), moves, table)
        assert float(got[n]) == pytest.approx(expected, rel=1e-10, abs=1e-10)


@every_family
def test_an_emission_is_the_exponential_family_of_its_natural_weight(family: Emission) -> None:
    """log O(y | h) − h'Wy + log Z(h) is the same for all h, at every y."""
    emission, values = NodeEmission(3, family), values_for(3, family)
    tensors = {name: torch.tensor(value) for name, value in values.items()}
    weight = emission.natural_weight(tensors).numpy()
    table = emission.log_partition(tensors).numpy()
    assert table[0] == 0
    for y in ([0.0] * 4, [1.0] * 4, [1.0, 0.0, 1.0, 0.0]):
        size = 1 if isinstance(family, Categorical) else family.features
        seen = np.array(y[:size])
        rest = [
            log_density(family, values, h, seen) - h @ weight @ code(family, seen) + table[s]
            for s, h in enumerate(bits(3))
        ]
        np.testing.assert_allclose(rest, rest[0], rtol=1e-10)


@every_family
@every_model
def test_draws_of_the_parameters_are_a_leading_axis(make, family: Emission) -> None:
    data, nodes = data_for(family), 2
    model = make(nodes, family)
    draws = [values_for(nodes, family, seed) for seed in range(3)]
    stacked = {name: torch.tensor(np.stack([d[name] for d in draws])) for name in draws[0]}
    laws = model.laws(stacked, data)
    for i, values in enumerate(draws):
        one = model.with_parameters(**values).laws({}, data)
        for name in ("log_initial", "log_transition", "log_likelihood"):
            torch.testing.assert_close(getattr(laws, name)[i], getattr(one, name))
    for name in draws[0]:  # one of them known, the others drawn
        some = model.with_parameters(**{name: draws[0][name]})
        mixed = some.laws({n: v for n, v in stacked.items() if n != name}, data)
        same = stacked | {name: torch.tensor(draws[0][name]).expand_as(stacked[name])}
        whole = model.laws(same, data)
        torch.testing.assert_close(
            mixed.log_likelihood.expand_as(whole.log_likelihood), whole.log_likelihood
        )


def test_a_covariance_is_scale_and_correlation() -> None:
    covariance = np.outer(SCALE, SCALE) * CORRELATION
    model = TemporalSigmoidBeliefNetwork(2, FullGaussian(3))
    got = model.with_parameters(covariance=covariance).known
    np.testing.assert_allclose(got["scale"], SCALE)
    np.testing.assert_allclose(got["correlation_factor"], np.linalg.cholesky(CORRELATION))


@every_family
@every_model
def test_simulations_follow_the_laws(make, family: Emission) -> None:
    """Moves and means of 40000 steps within 5 standard errors (2 in 10^5 over all entries)."""
    model = known(make, 2, family)
    drawn = model.sample(400, 100, seed=3)
    laws = model.laws({}, drawn.data)
    counts = torch.zeros(4, 4, dtype=torch.float64)
    pairs = drawn.states[:, :-1].flatten(), drawn.states[:, 1:].flatten()
    counts.index_put_(pairs, torch.ones((), dtype=torch.float64), accumulate=True)
    total, p = counts.sum(-1, keepdim=True), laws.log_transition[0, 0].exp()
    assert bool(((counts - total * p).abs() < 5 * (total * p * (1 - p)).sqrt() + 1).all())
    y = model.emission.encode(model.emission.observed(drawn.data)[0]).double()
    means = model.emission.mean(dict(model.known))
    for state in range(4):
        here = y[drawn.states == state]
        error = 5 * here.std(0, correction=0) / math.sqrt(len(here)) + 1e-9
        assert bool(((here.mean(0) - means[state]).abs() < error).all())


# Coincidences


def test_one_node_is_a_chain_of_two_states() -> None:
    model = known(TemporalSigmoidBeliefNetwork, 1, Gaussian())
    values = values_for(1, Gaussian())
    on = expit([values["node_bias"][0], values["node_bias"][0] + values["node_weight"][0, 0]])
    start = expit(values["node_initial"][0])
    plain = HiddenMarkovModel(2, "gaussian").with_parameters(
        initial=[1 - start, start],
        transition=np.stack([1 - on, on], -1),
        mean=values["node_intercept"][0] + np.array([0, values["node_loading"][0, 0]]),
        scale=[SCALE[0]] * 2,
    )
    data = data_for(Gaussian(), (20, 7))
    torch.testing.assert_close(log_evidence(model, data), log_evidence(plain, data))
    torch.testing.assert_close(smooth(model, data), smooth(plain, data))


def separate(nodes: int) -> tuple[HiddenMarkovModel, list[HiddenMarkovModel], Sequences]:
    """Nodes that move alone and are seen alone, one feature each; as one model, and as many."""
    rng = np.random.default_rng(4)
    weight, bias, first, loading = rng.normal(size=(4, nodes))
    scale = rng.uniform(0.5, 1.5, size=nodes)
    whole = TemporalSigmoidBeliefNetwork(
        nodes, Gaussian(nodes), coupling="diagonal"
    ).with_parameters(
        node_initial=first,
        node_weight=weight,
        node_bias=bias,
        node_loading=np.diag(loading),
        node_intercept=np.zeros(nodes),
        scale=scale,
    )
    parts = [
        TemporalSigmoidBeliefNetwork(1, Gaussian(), coupling="diagonal").with_parameters(
            node_initial=first[[j]],
            node_weight=weight[[j]],
            node_bias=bias[[j]],
            node_loading=loading[[j], None],
            node_intercept=[0],
            scale=scale[[j]],
        )
        for j in range(nodes)
    ]
    y = rng.normal(size=(2, 12, nodes))
    y[0, 3, 0] = np.nan
    return whole, parts, Sequences.from_arrays([y[0], y[1, :5]])


@pytest.mark.parametrize("nodes", [2, 8])
def test_nodes_without_couplings_are_independent_chains(nodes: int) -> None:
    """8 nodes have 256 states: there the structure of the transition is used."""
    whole, parts, data = separate(nodes)
    expected, beliefs, smoothed = 0.0, [], []
    for j, part in enumerate(parts):
        column = Sequences.from_arrays([rows(data, n)[:, j] for n in range(len(data))])
        expected = expected + log_evidence(part, column)
        beliefs.append(filter(part, column)[..., 1])
        smoothed.append(smooth(part, column)[..., 1])
    torch.testing.assert_close(log_evidence(whole, data), expected)
    inside = data.step_mask
    for found, one in ((filter(whole, data), beliefs), (smooth(whole, data), smoothed)):
        nodes_on = found @ node_states(nodes)
        torch.testing.assert_close(nodes_on[inside], torch.stack(one, -1)[inside])


def test_full_couplings_that_are_diagonal_are_the_same_model() -> None:
    whole, _, data = separate(8)
    values = dict(whole.known)
    values["node_weight"] = values["node_weight"].diag()
    dense = TemporalSigmoidBeliefNetwork(8, Gaussian(8)).with_parameters(**values)
    assert structures.structure(dense.laws({}, data)) is None
    torch.testing.assert_close(log_evidence(whole, data), log_evidence(dense, data))
    torch.testing.assert_close(filter(whole, data), filter(dense, data))
    torch.testing.assert_close(smooth(whole, data), smooth(dense, data))


def test_gradients_by_the_structure_are_those_of_the_whole_matrix() -> None:
    whole, _, data = separate(7)
    found = []
    for dense in (False, True):
        leaves = {name: x.clone().requires_grad_() for name, x in whole.known.items()}
        model = whole.with_parameters(**leaves)
        laws = model.laws({}, data)
        if dense:
            chain = laws.log_initial, laws.log_transition, laws.log_likelihood, laws.lengths
            total = exact.log_evidence(*chain).sum()
        else:
            total = structures.log_evidence(laws).sum()
        found.append(torch.autograd.grad(total, list(leaves.values())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_twelve_nodes_need_no_matrix_where_they_are_independent() -> None:
    whole, parts, data = separate(12)
    laws = whole.laws({}, data)
    got = structures.log_evidence(laws)
    assert "log_transition" not in vars(laws)  # 134 MB
    expected = sum(
        log_evidence(part, Sequences.from_arrays([rows(data, n)[:, j] for n in range(len(data))]))
        for j, part in enumerate(parts)
    )
    torch.testing.assert_close(got, expected)


# The gate (SCIENCE I3)


def gate_error(model: HiddenMarkovModel, y: Floats) -> float:
    """Largest error of the gate's product law, over h_t, h_{t-1} (or none) and observations y."""
    nodes = model.nodes
    assert nodes is not None
    family = model.emission.family  # type: ignore[attr-defined]
    values = {name: value.numpy() for name, value in model.known.items()}
    directed = isinstance(model.transition, SigmoidTransition)
    if directed and model.transition.coupling == "diagonal":  # type: ignore[union-attr]
        values["node_weight"] = np.diag(values["node_weight"])
    first, move = chain_by_hand(directed, family, values, nodes)
    gate, worst = node_gate(model), 0.0
    for seen in y:
        likelihood = np.exp([log_density(family, values, h, seen) for h in bits(nodes)])
        read = torch.tensor(code(family, seen))
        for i, before in [(-1, None), *enumerate(bits(nodes))]:
            joint = (first if before is None else move[i]) * likelihood
            posterior = joint / joint.sum()
            logits = gate.logits(read, None if before is None else torch.tensor(before)).numpy()
            product = [
                np.prod(np.where(h == 1, expit(logits), expit(-logits))) for h in bits(nodes)
            ]
            worst = max(worst, float(np.abs(posterior - product).max()))
    return worst


def observations(family: Emission) -> Floats:
    size = 1 if isinstance(family, Categorical) else family.features
    if isinstance(family, Bernoulli):
        return np.array(list(itertools.product([0.0, 1.0], repeat=size)))
    if isinstance(family, Poisson | Categorical):
        return np.array(list(itertools.product([0.0, 1.0, 2.0], repeat=size)))
    return np.random.default_rng(5).normal(size=(20, size))


@every_family
def test_the_gate_of_a_harmonium_is_exact_for_any_weights(family: Emission) -> None:
    model = known(TemporalRBM, 3, family)
    assert gate_conditions(model).exact
    assert gate_error(model, observations(family)) < 1e-12


def uncoupled() -> dict[str, tuple[Emission, Values]]:
    """Directed models that meet the condition, each by its own means."""
    out: dict[str, tuple[Emission, Values]] = {}
    rng = np.random.default_rng(6)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    values = values_for(3, Gaussian(3))
    values["node_loading"] = np.diag([0.5, 1.0, 2.0]) @ rotation * SCALE
    out["gaussian"] = Gaussian(3), values
    values = values_for(3, FullGaussian(3))
    root = np.linalg.cholesky(np.outer(SCALE, SCALE) * CORRELATION)
    values["node_loading"] = np.diag([0.5, 1.0, 2.0]) @ rotation @ root.T
    out["full-gaussian"] = FullGaussian(3), values
    one_parent = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]])
    for name, family in {"bernoulli": Bernoulli(4), "poisson": Poisson(4)}.items():
        values = values_for(3, family)
        values["node_loading"] = values["node_loading"] * one_parent
        out[name] = family, values
    values = values_for(3, Categorical(3))
    values["node_loading"][1:] = 0
    out["categorical"] = Categorical(3), values
    return out


@pytest.mark.parametrize("name", uncoupled())
def test_the_gate_of_a_directed_model_is_exact_without_couplings(name: str) -> None:
    family, values = uncoupled()[name]
    model = TemporalSigmoidBeliefNetwork(3, family).with_parameters(**values)
    assert gate_conditions(model).coupled == ()
    size = 1 if isinstance(family, Categorical) else family.features
    y = observations(family)[:: 1 if size < 4 else 5]
    assert gate_error(model, y) < 1e-12


def test_the_gate_has_the_weights_of_the_formula() -> None:
    """W_y = B'Σ⁻¹ and b = a − ½ diag(B'Σ⁻¹B), of one observation with mean Bh."""
    family = FullGaussian(3)
    values = values_for(3, family) | {"node_intercept": np.zeros(3)}
    gate = node_gate(TemporalSigmoidBeliefNetwork(3, family).with_parameters(**values))
    b = values["node_loading"].T
    precision = np.linalg.inv(np.outer(SCALE, SCALE) * CORRELATION)
    np.testing.assert_allclose(gate.natural_weight, b.T @ precision)
    np.testing.assert_allclose(gate.bias, values["node_bias"] - np.diag(b.T @ precision @ b) / 2)
    np.testing.assert_allclose(gate.node_weight, values["node_weight"])


@every_family
def test_couplings_are_named_with_their_sizes(family: Emission) -> None:
    """Second differences of log Z, by hand; for Gaussian laws they are the entries of B'Σ⁻¹B."""
    model, values = known(TemporalSigmoidBeliefNetwork, 3, family), values_for(3, family)
    found = {coupled.nodes: coupled.size for coupled in gate_conditions(model).coupled}
    assert not gate_conditions(model).exact
    for i, j in itertools.combinations(range(3), 2):
        k = 3 - i - j
        sizes = []
        for rest in (0.0, 1.0):
            total = 0.0
            for hi, hj in itertools.product((0.0, 1.0), repeat=2):
                h = np.zeros(3)
                h[[i, j, k]] = hi, hj, rest
                total += (1 if hi == hj else -1) * log_normaliser(family, values, h)
            sizes.append(abs(total))
        assert found[i, j] == pytest.approx(max(sizes), rel=1e-8)
        if isinstance(family, Gaussian | FullGaussian):
            entry = natural(family, values)[i] @ values["node_loading"][j]
            assert found[i, j] == pytest.approx(abs(entry), rel=1e-8)
    assert gate_error(model, observations(family)[:5]) > 1e-3


def test_explaining_away_errs_by_as_much_as_the_couplings() -> None:
    """As the couplings go to zero so does the error of the gate, in proportion."""
    values = values_for(2, Gaussian(2)) | {"scale": np.ones(2)}
    errors = []
    for overlap in (1.0, 1e-2, 1e-4):
        loading = np.array([[1.0, overlap], [0.0, 2.0]])
        model = TemporalSigmoidBeliefNetwork(2, Gaussian(2)).with_parameters(
            **(values | {"node_loading": loading})
        )
        (coupled,) = gate_conditions(model).coupled
        assert coupled.nodes == (0, 1)
        assert coupled.size == pytest.approx(2 * overlap)
        errors.append(gate_error(model, observations(Gaussian(2))))
    assert errors[0] > 0.05
    assert errors[2] == pytest.approx(errors[1] / 100, rel=0.05)


# Fits, export, files


def coupled_case(lengths: int = 40) -> tuple[HiddenMarkovModel, Sequences]:
    true = TemporalSigmoidBeliefNetwork(2, Gaussian(2)).with_parameters(
        node_initial=[0, 0],
        node_weight=[[4, -2], [2, 4]],
        node_bias=[-1, -3],
        node_loading=[[3, 1], [0, 2]],
        node_intercept=[0, 1],
        scale=[0.6, 0.8],
    )
    return true, true.sample(lengths, 30, seed=0).data


@every_family
@every_model
def test_starts_lie_inside_the_support(make, family: Emission) -> None:
    model, data = make(2, family), data_for(family, (12, 7, 5))
    values = starting_values(model, data, seed=0)
    for name, prior in model.priors.items():
        assert values[name].shape == prior.event_shape
        assert bool(prior.support.check(values[name]).all())
    assert bool(log_evidence(model.with_parameters(**values), data).isfinite().all())


@pytest.mark.parametrize("family", [Gaussian(1), FullGaussian(2)])
def test_a_start_on_what_never_varies_leaves_some_noise(family: Emission) -> None:
    """A law that fits every frame exactly is one whose next step costs any number of nats."""
    data = Sequences.from_tensors(torch.ones(3, 4, family.features))
    model = TemporalSigmoidBeliefNetwork(1, family).scaled_to(data)
    assert float(starting_values(model, data, seed=0)["scale"].min()) > 0.01


def test_a_start_on_clear_data_is_near_the_truth() -> None:
    true, data = coupled_case()
    values = starting_values(TemporalSigmoidBeliefNetwork(2, Gaussian(2)), data, seed=0)
    torch.testing.assert_close(
        values["node_loading"].double(), true.known["node_loading"], atol=0.5, rtol=0
    )


def test_maximum_likelihood_recovers_the_parameters() -> None:
    """1200 steps tell each weight to some .3: twice that is allowed, and the evidence is higher."""
    true, data = coupled_case()
    model = TemporalSigmoidBeliefNetwork(2, Gaussian(2))
    settings = FitSettings(restarts=1)  # the nodes of another start may come in another order
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    fitted = fit(model, guide, data, settings=settings, seed=0, progress=False).fitted
    assert float(log_evidence(fitted, data).sum()) > float(log_evidence(true, data).sum())
    for name, error in {"node_loading": 0.15, "scale": 0.1, "node_weight": 1.0}.items():
        torch.testing.assert_close(fitted.known[name], true.known[name], atol=error, rtol=0)


def test_a_network_keeps_a_belief_of_nodes() -> None:
    """Two logits a step, and an ELBO that comes near to the evidence, never above it."""
    true, data = coupled_case(100)
    guide = BeliefGuide(true, LSTMFilter(hidden_size=8))
    assert guide.filter.head.out_features == 2  # type: ignore[union-attr]
    settings = FitSettings(steps=150, learning_rate=0.03, batch_size=100)
    result = fit(true, guide, data, settings=settings, seed=0, progress=False)
    laws = true.laws({}, data)
    with torch.no_grad():
        gap = (log_evidence(true, data) - result.guide.bound(laws)) / 30
    assert 0 < float(gap.mean()) < 0.02
    belief = result.guide.filter(laws).exp()
    on = belief @ node_states(2).to(belief)
    product = torch.stack([torch.where(h == 1, on, 1 - on).prod(-1) for h in node_states(2)], -1)
    torch.testing.assert_close(belief, product)


@every_model
def test_exports_keep_the_states_and_name_the_nodes(make) -> None:
    _, data = coupled_case(6)
    model = make(2, Gaussian(2))
    guide = BeliefGuide(model, ExactFilter(), parameters="normal")
    result = fit(
        model, guide, data, settings=FitSettings(steps=3, batch_size=6), seed=0, progress=False
    )
    idata = to_arviz(result, data, draws=3)
    assert idata.attrs["state_order"] == "[0, 1, 2, 3]"
    posterior = idata["posterior"]
    assert posterior["node_weight"].dims == ("chain", "draw", "node", "node_from")
    assert posterior["node_loading"].dims == ("chain", "draw", "node", "feature")
    assert posterior["scale"].dims == ("chain", "draw", "feature")


@every_family
@every_model
def test_models_come_back_from_files(make, family: Emission, tmp_path: Path) -> None:
    model, data = known(make, 2, family), data_for(family)
    loaded = load_model(save_model(model, tmp_path / "model.pt"))
    assert loaded.configuration == model.configuration
    assert loaded.belief == model.belief
    assert torch.equal(log_evidence(loaded, data), log_evidence(model, data))


def test_the_coupling_comes_back_from_files(tmp_path: Path) -> None:
    whole, _, data = separate(2)
    loaded = load_model(save_model(whole, tmp_path / "model.pt"))
    assert torch.equal(log_evidence(loaded, data), log_evidence(whole, data))


def test_a_sampler_runs_on_the_collapsed_program() -> None:
    _, data = coupled_case(3)
    model = TemporalRBM(2, Gaussian(2))
    found = nuts(model, data, draws=3, warmup=3, chains=1, seed=0, progress=False)
    assert set(found.draws) == set(model.parameter_names)
    assert bool(found.log_density.isfinite().all())


def test_forecasts_come_from_the_last_belief() -> None:
    true, data = coupled_case(3)
    ahead = forecast(true, data, 2, draws=10, seed=0)
    last = filter(true, data)[:, -1]
    move = true.laws({}, data).log_transition[0, 0].exp()
    torch.testing.assert_close(ahead.state_probability[:, 1], last @ move @ move)


def test_a_fit_names_nodes_that_never_change() -> None:
    _, data = coupled_case(5)
    model = TemporalSigmoidBeliefNetwork(2, Gaussian(2))
    start = {"node_initial": torch.tensor([-40.0, 0.0]), "node_bias": torch.tensor([-40.0, 0.0])}
    still = model.with_parameters(**start, node_weight=torch.zeros(2, 2))
    guide = BeliefGuide(still, ExactFilter(), parameters="ml")
    settings = FitSettings(steps=1, batch_size=5)
    with pytest.warns(UserWarning, match=r"nodes \[0\] hardly ever change"):
        fit(still, guide, data, settings=settings, seed=0, progress=False)


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TemporalSigmoidBeliefNetwork(0, "gaussian"), "nodes: must be a whole number >= 1"),
        (lambda: TemporalSigmoidBeliefNetwork(40, "gaussian"), "nodes: can be enumerated .* GB"),
        (
            lambda: TemporalSigmoidBeliefNetwork(15, "gaussian"),
            "nodes: have moves that can be enumerated up to 14 .* got 15, .* takes 8 GB",
        ),
        (lambda: TemporalRBM(16, Poisson(3)), "nodes: have moves .* got 16, .* takes 32 GB"),
        (
            lambda: TemporalSigmoidBeliefNetwork(15, "gaussian", coupling="diagonal").sample(1, 2),
            "nodes: have moves .* got 15",
        ),
        (lambda: TemporalRBM(20, Poisson(3)), "nodes: can be enumerated up to 16, got 20, which"),
        (
            lambda: TemporalSigmoidBeliefNetwork(2, "gaussian", coupling="band"),  # type: ignore[arg-type]
            "coupling: must be one of .*, got 'band'",
        ),
        (lambda: TemporalRBM(2, StudentT(2)), "emission: must have a linear predictor, got Stud"),
        (lambda: NodeEmission(2, StudentT(2)), "family: must be one of .*, got StudentT"),
        (lambda: NodeEmission(2, Gaussian(), -1.0), "loading_scale: must be a finite number > 0"),
        (
            lambda: HiddenMarkovModel(3, NodeEmission(2, Gaussian())),
            r"states: must be 2\^2 for 2 nodes, got 3",
        ),
        (
            lambda: HiddenMarkovModel(4, "gaussian", transition=SigmoidTransition(3)),
            r"states: must be 2\^3 for 3 nodes, got 4",
        ),
        (
            lambda: HiddenMarkovModel(4, "gaussian", initial=NodeInitial(1)),
            r"states: must be 2\^1 for 1 nodes, got 4",
        ),
        (
            lambda: HiddenMarkovModel(
                4,
                NodeEmission(2, Poisson()),
                transition=HarmoniumTransition(NodeEmission(2, Gaussian())),
            ),
            "emission: must be that of the harmonium",
        ),
        (
            lambda: HarmoniumTransition(Gaussian()),  # type: ignore[arg-type]
            "emission: must be a NodeEmission, got Gaussian",
        ),
        (
            lambda: HiddenMarkovModel(1, "gaussian", transition=SigmoidTransition(2)),
            r"states: must be 2\^2 for 2 nodes, got 1",
        ),
        (
            lambda: HiddenMarkovModel(4, "gaussian", initial=SigmoidTransition(2)),
            "initial: must be 'free', 'stationary' or an initial law, got SigmoidTransition",
        ),
        (lambda: node_gate(HiddenMarkovModel(4, "gaussian")), "model: must be a TemporalSigmoid"),
        (
            lambda: gate_conditions(TemporalSigmoidBeliefNetwork(2, "gaussian")),
            "parameters: needs values for",
        ),
        (
            lambda: TemporalSigmoidBeliefNetwork(2, Gaussian(2)).with_parameters(
                covariance=np.eye(2)
            ),
            "covariance: belongs to FullGaussian",
        ),
    ],
)
def test_bad_input_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
