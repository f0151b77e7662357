"""The export to ArviZ: against loops over draws, one draw and one query at a time."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.special import gammaln
from torch import Tensor
from torch.distributions import biject_to

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    Fit,
    FitSettings,
    ForwardGuide,
    GRUFilter,
    LSTMFilter,
    MeanFieldGuide,
    arviz_groups,
    by_step,
    filter,
    fit,
    forecast,
    importance,
    log_evidence,
    nuts,
    predictive_check,
    smooth,
    step_log_likelihood,
    to_arviz,
)
from beliefzoo.inference.arviz_groups import group
from beliefzoo.inference.export.discrete import replicate
from beliefzoo.inference.fitting import draws
from beliefzoo.inference.fitting.nuts import NutsFit, NutsSettings
from beliefzoo.inference.pareto import k_threshold
from beliefzoo.models import (
    BandedTransition,
    Bernoulli,
    Categorical,
    FullGaussian,
    Gaussian,
    GaussianMixture,
    HiddenMarkovModel,
    InputTransition,
    LowRankGaussian,
    LowRankTransition,
    MatrixTransition,
    Multinomial,
    NeuralEmission,
    NeuralTransition,
    Poisson,
    Regression,
    Sequences,
    SparseTransition,
    StudentT,
    UnreadWarning,
)

FEW: dict[str, Any] = {"draws": 7, "state_draws": 3, "predictive_draws": 2, "prior_draws": 2}
# ArviZ 0.23 calls matplotlib in a way that matplotlib 3.11 deprecates.
plotting = pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")


def fitted(guide: Any, start: dict[str, Any] | None = None) -> Fit:
    """A fit that never happened: the guide centred on ``start``, scales 0.05."""
    values = {name: torch.as_tensor(value).float() for name, value in (start or {}).items()}
    nothing = torch.zeros(0, dtype=torch.float64)
    return Fit(
        model=guide.model,
        guide=guide.fresh(values),
        objective="elbo",
        settings=FitSettings(),
        seed=3,
        losses=nothing,
        evaluations=nothing.reshape(0, 2),
        restart_bounds=nothing,
        seconds=1.5,
        versions={"python": "3"},
    )


def sampled(model: HiddenMarkovModel, values: dict[str, Tensor]) -> NutsFit:
    """Chains that never ran: ``values`` (chains, draws, …)."""
    chains, kept = next(iter(values.values())).shape[:2]
    return NutsFit(
        model=model,
        draws={name: value.double() for name, value in values.items()},
        log_density=torch.zeros(chains, kept, dtype=torch.float64),
        divergences=torch.zeros(chains, kept, dtype=torch.bool),
        accept=torch.linspace(0.8, 0.9, chains, dtype=torch.float64),
        settings=NutsSettings(chains, kept, 1, "prior", 0.8, 5, True),
        seed=4,
        seconds=2.5,
        versions={"python": "3"},
    )


def counts(states: int = 3, **options: Any) -> HiddenMarkovModel:
    return HiddenMarkovModel(states, Poisson(typical=15.0), **options)


START = {
    "initial": [0.2, 0.3, 0.5],
    "transition": [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]],
    "rate": [30.0, 10.0, 20.0],  # the export brings them into increasing order
}
RAGGED = Sequences.from_arrays(
    [[12.0, math.nan, 31.0, 9.0, 18.0], [math.nan, math.nan], [22.0, 11.0, 8.0]],
    labels=["a", "b", "c"],
)


def quakes(length: int = 60, sequences: int = 1) -> Sequences:
    known = counts().with_parameters(**START)
    return known.sample(sequences, length, seed=5).data


def belief_guide(model: HiddenMarkovModel, **options: Any) -> BeliefGuide:
    return BeliefGuide(model, LSTMFilter(4), **options)


def parameters_at(idata: Any, chain: int, draw: int) -> dict[str, NDArray[np.float64]]:
    posterior = group(idata, "posterior").sel(chain=chain, draw=draw)
    return {str(name): np.asarray(value) for name, value in posterior.data_vars.items()}


def each_draw(idata: Any, model: HiddenMarkovModel, group_name: str = "posterior") -> list[Any]:
    """(chain, draw, model at that draw's values) of every draw of a group."""
    labels = group(idata, group_name)
    return [
        (chain, draw, model.with_parameters(**parameters_at(idata, chain, draw)))
        for chain in labels["chain"].values
        for draw in labels["draw"].values
    ]


def blank(values: Tensor, keep: Tensor) -> NDArray[np.float64]:
    return np.where(keep.numpy(), values.numpy(), np.nan)


# --- exact quantities, draw by draw


def nuts_counts() -> NutsFit:
    generator = torch.Generator().manual_seed(0)
    start = {name: torch.tensor(value).double() for name, value in START.items()}
    noisy = {
        name: value * (1 + 0.05 * torch.rand(2, 6, *value.shape, generator=generator))
        for name, value in start.items()
    }
    for name in ("initial", "transition"):
        noisy[name] /= noisy[name].sum(-1, keepdim=True)
    return sampled(counts(), noisy)


@pytest.mark.parametrize("kind", ["guide", "nuts"])
@pytest.mark.parametrize("budget", [2**21, 40])
def test_exact_quantities_equal_a_loop_over_draws(
    kind: str, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draws, "BLOCK", budget)  # 40: one draw, two sequences at a time
    result = nuts_counts() if kind == "nuts" else fitted(belief_guide(counts()), START)
    idata = to_arviz(result, RAGGED, **FEW)
    stats_, model = group(idata, "sample_stats"), result.model
    seen, inside = RAGGED.observed_steps, RAGGED.step_mask.unsqueeze(-1)
    for chain, draw, known in each_draw(idata, model):
        here = stats_.sel(chain=chain, draw=draw)
        evidence = log_evidence(known, RAGGED)
        np.testing.assert_allclose(
            here["sequence_log_likelihood"], blank(evidence, seen.any(1)), rtol=1e-10
        )
        np.testing.assert_allclose(
            here["step_log_likelihood"],
            blank(step_log_likelihood(known, RAGGED), seen),
            rtol=1e-9,
            atol=1e-12,
        )
        prior = sum(model.priors[name].log_prob(v).double() for name, v in known.known.items())
        assert float(here["lp"]) == pytest.approx(float(prior + evidence.sum()), abs=1e-5)
        assert float(here["lp"] - here["log_prior"]) == pytest.approx(
            float(evidence.sum()), rel=1e-10
        )
    chosen = [known for _, _, known in each_draw(idata, model, "posterior_states")]
    assert len(chosen) == (4 if kind == "nuts" else 3)
    for name, query in (("smoothed_probability", smooth), ("filtered_probability", filter)):
        expected = torch.stack([query(known, RAGGED) for known in chosen]).mean(0)
        np.testing.assert_allclose(
            group(idata, "posterior_states")[name],
            blank(expected, inside.expand_as(expected)),
            atol=1e-12,
        )


def test_the_log_likelihood_group_leaves_out_what_nothing_was_observed_of() -> None:
    result = fitted(belief_guide(counts()), START)
    idata = to_arviz(result, RAGGED, **FEW)
    (obs,) = group(idata, "log_likelihood").data_vars.values()
    assert obs.name == "obs"
    assert obs.dims == ("chain", "draw", "sequence")
    assert obs["sequence"].values.tolist() == ["a", "c"]
    whole = group(idata, "sample_stats")["sequence_log_likelihood"]
    np.testing.assert_array_equal(obs, whole.sel(sequence=["a", "c"]))
    single = to_arviz(result, RAGGED[0], **FEW)
    (obs,) = group(single, "log_likelihood").data_vars.values()
    assert obs.dims == ("chain", "draw", "time")
    assert obs["time"].values.tolist() == [0, 2, 3, 4]
    np.testing.assert_array_equal(
        obs, group(single, "sample_stats")["step_log_likelihood"][:, :, 0, [0, 2, 3, 4]]
    )
    assert np.isfinite(obs).all()


def test_step_log_likelihoods_are_left_out_when_large(monkeypatch: pytest.MonkeyPatch) -> None:
    result = fitted(belief_guide(counts()), START)
    module = __import__("sys").modules["beliefzoo.inference.export.to_arviz"]
    monkeypatch.setattr(module, "MOST_STEPS", 7 * 15 - 1)
    for options, kept in (({}, False), ({"steps": True}, True), ({"steps": False}, False)):
        idata = to_arviz(result, RAGGED, **FEW, **options)
        assert ("step_log_likelihood" in group(idata, "sample_stats")) is kept
        assert ("left_out" in idata.attrs) is not kept
    single = to_arviz(result, RAGGED[0], **FEW, steps=False)
    assert group(single, "log_likelihood")["obs"].dims[-1] == "time"


@pytest.mark.parametrize("budget", [2**21, 40])
@pytest.mark.parametrize(
    "make",
    [
        lambda model: BeliefGuide(model, ExactFilter()),
        lambda model: BeliefGuide(model, LSTMFilter(4)),
        lambda model: BeliefGuide(model, LSTMFilter(4, reads="likelihoods")),
        lambda model: BeliefGuide(model, GRUFilter(4, reads="both"), parameters="multivariate"),
        lambda model: ForwardGuide(model, GRUFilter(4, direction="both")),
        lambda model: MeanFieldGuide(model, LSTMFilter(4, reads="both")),
    ],
    ids=["exact", "observations", "likelihoods", "both", "forward", "mean-field"],
)
def test_guide_paths_have_the_densities_of_a_loop_over_draws(
    make: Any, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draws, "BLOCK", budget)
    model = counts()
    result = fitted(make(model), START)
    idata = to_arviz(result, RAGGED, **FEW, relabel=False)
    states, stats_ = group(idata, "posterior_states"), group(idata, "sample_stats")
    beliefs = []
    for draw in states["draw"].values:
        here, base = states.sel(chain=0, draw=draw), stats_.sel(chain=0, draw=draw)
        paths = torch.from_numpy(here["states"].values).long()
        assert torch.equal(paths >= 0, RAGGED.step_mask)
        values = {n: torch.from_numpy(v) for n, v in parameters_at(idata, 0, draw).items()}
        laws = model.laws(values, RAGGED)
        with torch.no_grad():
            posterior = result.guide.posterior(laws)
        joint = brute_log_joint(values, RAGGED, paths) + float(base["log_prior"])
        assert float(here["log_joint"]) == pytest.approx(joint, rel=1e-9)
        log_q = float(posterior.path_log_prob(paths).sum()) + float(base["log_q"])
        assert float(here["log_q_joint"]) == pytest.approx(log_q, rel=1e-6)
        if hasattr(posterior, "log_beliefs"):
            beliefs.append(posterior.log_beliefs.exp())
        if isinstance(result.guide.filter, ExactFilter):  # then w is the same for every path
            gap = float(here["log_joint"] - here["log_q_joint"])
            assert gap == pytest.approx(float(base["lp"] - base["log_q"]), rel=1e-9)
    assert ("guide_belief" in states) is bool(beliefs)
    if beliefs:
        expected = torch.stack(beliefs).mean(0)
        inside = RAGGED.step_mask.unsqueeze(-1).expand_as(expected)
        np.testing.assert_allclose(states["guide_belief"], blank(expected, inside), atol=1e-6)


def brute_log_joint(values: dict[str, Tensor], data: Sequences, paths: Tensor) -> float:
    """log p(y, z | θ) of a Poisson model, term by term."""
    total = 0.0
    for n in range(len(data)):
        for t in range(int(data.lengths[n])):
            z = int(paths[n, t])
            before = values["initial"] if t == 0 else values["transition"][paths[n, t - 1]]
            total += math.log(before[z])
            if data.mask[n, t]:
                total += stats.poisson.logpmf(float(data.values[n, t, 0]), float(values["rate"][z]))
    return total


def test_states_after_nuts_are_drawn_from_the_exact_posterior() -> None:
    """2000 draws at one value: frequencies within 5 standard errors, 33 cells; failure < 1e-4."""
    value = {n: torch.tensor(v).double().expand(1, 2000, *np.shape(v)) for n, v in START.items()}
    idata = to_arviz(sampled(counts(), value), RAGGED, **FEW | {"state_draws": 2000})
    states = group(idata, "posterior_states")
    paths = states["states"].values[0]
    for state in range(3):
        share = (paths == state).mean(0)
        exact = states["smoothed_probability"].values[..., state]
        error = np.sqrt(exact * (1 - exact) / 2000)
        assert (np.abs(share - exact) <= 5 * error + 1e-9)[RAGGED.step_mask.numpy()].all()


# --- order of the states


def test_states_whose_moves_are_listed_keep_their_order() -> None:
    """A left-right chain with other numbers would be another chain."""
    model = HiddenMarkovModel(3, Poisson(), transition=BandedTransition((0, 1)))
    data = model.sample(2, 5, seed=1).data
    exported = to_arviz(fitted(belief_guide(model), {"rate": [30.0, 10.0, 20.0]}), data, **FEW)
    assert json.loads(exported.attrs["state_order"]) == [0, 1, 2]
    both = group(exported, "posterior"), group(exported, "prior")
    for matrix in (found["transition"] for found in both):
        assert matrix.dims == ("chain", "draw", "state", "state_to")
        np.testing.assert_allclose(matrix.sum("state_to"), 1, rtol=1e-6)
        assert np.all(matrix.values[..., [0, 1, 2, 2], [2, 0, 0, 1]] == 0)
    assert not any("transition_move" in found for found in both)


def test_moves_after_nuts_and_known_ones_are_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HiddenMarkovModel(3, Poisson(), transition=SparseTransition(((1,), (0, 1, 2), (0, 2))))
    data = model.sample(2, 5, seed=1).data
    torch.manual_seed(0)
    values = {name: prior.sample((2, 4)) for name, prior in model.priors.items()}
    matrix = group(to_arviz(sampled(model, values), data, **FEW), "posterior")["transition"]
    known = model.with_parameters(transition_move=values["transition_move"][1, 2])
    np.testing.assert_allclose(matrix[1, 2], known.known["transition"], rtol=1e-6)
    exported = to_arviz(fitted(belief_guide(known)), data, **FEW)
    shown = group(exported, "constant_data")["transition"]
    assert shown.dims == ("state", "state_to")
    np.testing.assert_array_equal(shown, known.known["transition"])
    monkeypatch.setattr("beliefzoo.inference.export.sample.MOST_IN_MATRICES", 20)
    lists = group(to_arviz(sampled(model, values), data, **FEW), "posterior")["transition_move"]
    assert lists.dims == ("chain", "draw", "state", "move")


@pytest.mark.parametrize(
    ("emission", "start"),
    [
        (Poisson(), {"rate": [30.0, 10.0, 20.0]}),
        (NeuralEmission(Poisson(), embedding=3, width=4), {}),
        (Gaussian(2), {"mean": [[3.0, 0.0], [1.0, 9.0], [2.0, 0.0]]}),
        (GaussianMixture(), {"mean": [[3.0, 4.0], [0.0, 1.0], [2.0, 2.5]]}),
        (Regression(Gaussian(), lags=1), {"mean": [3.0, 1.0, 2.0]}),
    ],
    ids=["poisson", "neural", "gaussian", "mixture", "regression"],
)
@pytest.mark.parametrize(
    "transition", [MatrixTransition(), NeuralTransition(3, 4), LowRankTransition(2)], ids=str
)
def test_relabelled_draws_are_the_same_model(
    emission: Any, start: dict[str, Any], transition: Any
) -> None:
    model = HiddenMarkovModel(3, emission, transition=transition)
    data = model.sample(2, 5, seed=1).data
    result = fitted(belief_guide(model), start)
    old = to_arviz(result, data, **FEW, relabel=False)
    new = to_arviz(result, data, **FEW)
    order = json.loads(new.attrs["state_order"])
    assert json.loads(old.attrs["state_order"]) == [0, 1, 2]
    if start:
        assert order == [1, 2, 0]
    for name, variable in group(old, "posterior").data_vars.items():
        expected = variable.values
        for axis, dim in enumerate(variable.dims):
            if dim in ("state", "state_to"):
                expected = expected.take(order, axis)
        np.testing.assert_array_equal(group(new, "posterior")[name], expected)
    # Renaming changes neither evidence nor prior, and the marginals follow the parameters.
    np.testing.assert_array_equal(
        group(new, "sample_stats")["lp"], group(old, "sample_stats")["lp"]
    )
    models = [known for _, _, known in each_draw(new, model)]
    np.testing.assert_allclose(
        group(new, "log_likelihood")["obs"][0],
        torch.stack([log_evidence(known, data) for known in models]),
        rtol=1e-9,
    )
    chosen = group(new, "posterior_states")["draw"].values
    expected = torch.stack([smooth(models[draw], data) for draw in chosen]).mean(0)
    np.testing.assert_allclose(
        group(new, "posterior_states")["smoothed_probability"], expected, atol=1e-10
    )
    rank = np.argsort(order)
    np.testing.assert_array_equal(
        group(new, "posterior_states")["states"], rank[group(old, "posterior_states")["states"]]
    )
    location = [model.emission.mean(known.known)[:, 0] for known in models]
    if start:
        assert bool((torch.stack(location).mean(0).diff() > 0).all())


# --- chains that end in different labellings


def swapped(value: Tensor, dims: tuple[str, ...], order: list[int]) -> Tensor:
    """A parameter with states exchanged; ``dims`` count from the end."""
    for place, dim in enumerate(reversed(dims), 1):
        if dim in ("state", "state_to"):
            value = value.index_select(-place, torch.tensor(order))
    return value


def in_other_labels(result: NutsFit, orders: list[list[int]]) -> NutsFit:
    """The same chains, each with its states exchanged."""
    dims = result.model.parameter_dims()
    draws = {
        name: torch.stack([swapped(v, dims[name], o) for v, o in zip(value, orders, strict=True)])
        for name, value in result.draws.items()
    }
    return dataclasses.replace(result, draws=draws)


TOLD_APART = {
    "symbols": Categorical(3),
    "vectors": Gaussian(2),
    "scales": Gaussian(),
    "moves": Poisson(),
}


@pytest.mark.parametrize("name", TOLD_APART)
def test_chains_are_brought_to_one_labelling(name: str) -> None:
    """Chains of independent draws around one value, each in labels of its own: r̂ as without.

    Of 4 chains of 100 independent draws r̂ < 1.05 but once in 10^6; in other labels it is huge.
    """
    model = HiddenMarkovModel(3, TOLD_APART[name])
    centre = {
        "initial": [0.2, 0.3, 0.5],
        "transition": [[0.9, 0.08, 0.02], [0.05, 0.9, 0.05], [0.01, 0.04, 0.95]],
        "probs": [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]],
        "mean": [0.0, 0.0, 0.0] if name == "scales" else [[0.0, 3.0], [0.0, -3.0], [0.0, 0.5]],
        "scale": [0.2, 2.0, 30.0] if name == "scales" else [[1.0, 0.5]] * 3,
        "rate": [10.0, 1.0, 40.0],
    }
    torch.manual_seed(0)
    values = {}
    for key, prior in model.priors.items():
        bijection = biject_to(prior.support)
        free = bijection.inv(torch.tensor(centre[key]).double())
        values[key] = bijection(free + 0.05 * torch.randn(4, 100, *free.shape).double())
    known = model.with_parameters(**{key: centre[key] for key in model.priors})
    data = known.sample(3, 40, seed=1).data
    plain = sampled(model, values)
    mixed = in_other_labels(plain, [[0, 1, 2], [2, 0, 1], [1, 0, 2], [2, 1, 0]])
    assert worst(to_arviz(mixed, data, **FEW, relabel=False)) > 1.5
    one, other = to_arviz(plain, data, **FEW), to_arviz(mixed, data, **FEW)
    assert worst(other) < 1.05
    for key in model.priors:
        np.testing.assert_allclose(group(one, "posterior")[key], group(other, "posterior")[key])
    beliefs = [group(i, "posterior_states")["smoothed_probability"] for i in (one, other)]
    np.testing.assert_allclose(*beliefs, atol=1e-10)
    np.testing.assert_allclose(
        group(one, "sample_stats")["lp"], group(other, "sample_stats")["lp"], rtol=1e-10
    )
    orders = json.loads(other.attrs["chain_order"])
    assert len({tuple(order) for order in orders}) == 4


def worst(idata: Any) -> float:
    """The largest r̂ of any parameter."""
    found = az.rhat(group(idata, "posterior"))
    found = found.dataset if hasattr(found, "dataset") else found
    return max(float(found[name].max()) for name in found.data_vars)


@pytest.mark.parametrize(
    "model",
    [
        HiddenMarkovModel(3, Poisson(), transition=BandedTransition((-1, 0, 1))),
        counts(ordered=True),
        counts(priors={"rate": dist.Gamma(torch.tensor([9.0, 3.0, 6.0]), 0.3).to_event(1)}),
        counts().with_parameters(initial=[0.2, 0.3, 0.5]),
    ],
    ids=["moves", "ordered", "prior", "known"],
)
def test_chains_whose_states_have_names_stay_as_they_are(model: HiddenMarkovModel) -> None:
    torch.manual_seed(0)
    values = {name: prior.sample((3, 4)).double() for name, prior in model.priors.items()}
    idata = to_arviz(sampled(model, values), RAGGED, **FEW)
    np.testing.assert_array_equal(group(idata, "posterior")["rate"], values["rate"])
    orders = json.loads(idata.attrs.get("chain_order", "[]"))
    assert all(order == [0, 1, 2] for order in [*orders, json.loads(idata.attrs["state_order"])])


def test_chains_of_nuts_that_started_at_exchanged_states() -> None:
    model = HiddenMarkovModel(2, Gaussian(2), initial="stationary")
    start = {
        "transition": 0.8 * torch.eye(2) + 0.1,
        "mean": torch.tensor([[0.0, 3.0], [0.0, -3.0]]),
        "scale": torch.ones(2, 2),
    }
    dims = model.parameter_dims()
    exchanged = {name: swapped(value, dims[name], [1, 0]) for name, value in start.items()}
    data = model.with_parameters(**start).sample(1, 60, seed=0).data
    few: dict[str, Any] = {"draws": 200, "warmup": 60, "max_tree_depth": 3, "target_accept": 0.8}
    runs = [
        nuts(model, data, chains=1, seed=seed, start=values, progress=False, **few)
        for seed, values in enumerate([start, exchanged])
    ]
    both = dataclasses.replace(
        runs[0],
        draws={name: torch.cat([run.draws[name] for run in runs]) for name in dims},
        **{
            name: torch.cat([getattr(run, name) for run in runs])
            for name in ("log_density", "divergences", "accept")
        },
    )
    assert worst(to_arviz(both, data, **FEW, relabel=False)) > 1.5
    assert worst(to_arviz(both, data, **FEW)) < 1.05


def test_states_of_symbols_come_by_decreasing_visits() -> None:
    model = HiddenMarkovModel(3, Categorical(2))
    stay = 0.02 * np.ones((3, 3)) + 0.94 * np.eye(3)
    start = {"transition": stay / stay.sum(1, keepdims=True), "initial": [0.1, 0.8, 0.1]}
    idata = to_arviz(fitted(belief_guide(model), start), model.sample(4, 9, seed=1).data, **FEW)
    visits = group(idata, "posterior_states")["smoothed_probability"].sum(("sequence", "time"))
    assert np.all(np.diff(visits) < 0)
    assert json.loads(idata.attrs["state_order"])[0] == 1


def test_states_that_have_names_keep_them() -> None:
    rate = START["rate"]
    known = counts().with_parameters(transition=START["transition"])
    sloped = dist.Gamma(torch.tensor([9.0, 3.0, 6.0]), 0.3).to_event(1)
    for model in (known, counts(priors={"rate": sloped})):
        idata = to_arviz(fitted(belief_guide(model), {"rate": rate}), RAGGED, **FEW)
        assert json.loads(idata.attrs["state_order"]) == [0, 1, 2]
    ordered = counts(ordered=True)
    idata = to_arviz(fitted(belief_guide(ordered), START | {"rate": sorted(rate)}), RAGGED, **FEW)
    assert json.loads(idata.attrs["state_order"]) == [0, 1, 2]


# --- groups, dims and coordinates


FAMILIES: dict[str, Any] = {
    "categorical": Categorical(4),
    "poisson": Poisson(),
    "poisson-2": Poisson(2),
    "bernoulli": Bernoulli(3),
    "multinomial": Multinomial(3),
    "gaussian": Gaussian(),
    "gaussian-2": Gaussian(2),
    "full-gaussian": FullGaussian(2),
    "low-rank-gaussian": LowRankGaussian(3),
    "student-t": StudentT(),
    "gaussian-mixture": GaussianMixture(2, components=3),
    "neural": NeuralEmission(Gaussian(2), embedding=3, width=4),
    "lags": Regression(FullGaussian(2), lags=2),
    "symbol lags": Regression(Categorical(3), lags=1),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_exports_all_groups(name: str) -> None:
    emission = FAMILIES[name]
    model = HiddenMarkovModel(2, emission)
    data = model.sample(2, [5, 3], seed=0).data
    result = fitted(belief_guide(model))
    idata = to_arviz(result, data, **FEW, forecast=2)
    posterior, dims = group(idata, "posterior"), model.parameter_dims()
    assert set(posterior.data_vars) == set(dims)
    for parameter, expected in dims.items():
        assert posterior[parameter].dims == ("chain", "draw", *expected)
        assert group(idata, "prior")[parameter].dims == ("chain", "draw", *expected)
        assert group(idata, "prior")[parameter].shape[1] == 2
    feature = ("feature",) if emission.features > 1 else ()
    step = ("sequence", "time", *feature)
    observed = group(idata, "observed_data")["obs"]
    assert observed.dims == step
    for replicated in ("posterior_predictive", "prior_predictive"):
        obs = group(idata, replicated)["obs"]
        assert obs.dims == ("chain", "draw", *step)
        assert obs.shape == (1, 2, *observed.shape)
        np.testing.assert_array_equal(
            np.isnan(obs[0, 0]) if obs.dtype.kind == "f" else np.zeros(observed.shape),
            np.broadcast_to(
                ~data.step_mask.numpy().reshape(2, 5, *[1] * len(feature)), obs[0, 0].shape
            ),
        )
    ahead = group(idata, "predictions")
    assert ahead["obs"].dims == ("chain", "draw", "sequence", "ahead", *feature)
    assert ahead["ahead"].values.tolist() == [1, 2]
    np.testing.assert_allclose(ahead["state_probability"].sum("state"), 1)
    groups = [group(idata, key) for key in names_of(idata)]
    names = {variable for one in groups for variable in one.data_vars}
    assert not names & {dim for one in groups for dim in one.dims}


def test_replications_with_lags_are_the_recursion_of_each_draw() -> None:
    """Known states, hardly noise: y_t = m_k + B_k u_t + Σ_l A_kl (y_{t−l} − m_k)."""
    model = HiddenMarkovModel(2, Regression(Gaussian(2), inputs=1, lags=2)).with_parameters(
        initial=[1.0, 0.0], transition=[[0.0, 1.0], [1.0, 0.0]], scale=torch.full((2, 2), 1e-9)
    )
    draws, lengths = 5, [6, 4]
    torch.manual_seed(0)
    values = {
        "mean": torch.randn(draws, 2, 2).double(),
        "lag_weight": torch.randn(draws, 2, 2, 2, 2).double(),
        "input_weight": torch.randn(draws, 2, 2, 1).double(),
    }
    inputs = [np.random.default_rng(n).normal(size=(length, 1)) for n, length in enumerate(lengths)]
    data = Sequences.from_arrays([np.zeros((length, 2)) for length in lengths], inputs=inputs)
    found = replicate(model, data, values, draws)
    for draw in range(draws):
        mean, weight, slope = (values[name][draw].numpy() for name in values)
        for n, length in enumerate(lengths):
            y: list[Any] = []
            for t in range(length):
                k = t % 2
                past = [(lag, y[t - lag]) for lag in (1, 2) if lag <= t]
                terms = [weight[k, lag - 1] @ (before - mean[k]) for lag, before in past]
                y.append(mean[k] + slope[k] @ inputs[n][t] + sum(terms))
            np.testing.assert_allclose(found[draw, n, :length], y, atol=1e-5)
            assert np.isnan(found[draw, n, length:]).all()


def test_replications_follow_the_model() -> None:
    """Mean and variance of 4000 counts within 6 standard errors; failure < 1e-5."""
    result = fitted(belief_guide(counts()), START)
    data = quakes(8, 5)
    idata = to_arviz(result, data, **FEW | {"draws": 100, "predictive_draws": 100})
    obs = group(idata, "posterior_predictive")["obs"].values[0]
    posterior = group(idata, "posterior").isel(chain=0)
    means, squares = [], []
    for draw in range(100):
        law = posterior["initial"].values[draw]
        rate, table = posterior["rate"].values[draw], posterior["transition"].values[draw]
        for _ in range(8):
            means.append(law @ rate)
            squares.append(law @ (rate + rate**2))
            law = law @ table
    mean, square = np.mean(means), np.mean(squares)
    # Steps of a sequence depend on each other: sequences are the independent units.
    for values, expected in ((obs, mean), (obs**2, square)):
        unit = values.mean(-1).ravel()
        assert abs(unit.mean() - expected) < 6 * unit.std() / math.sqrt(unit.size)
    first = obs[:, :, 0].ravel()
    rate = posterior["rate"].values.mean(0) @ posterior["initial"].values.mean(0)
    assert abs(first.mean() - rate) < 6 * first.std() / math.sqrt(first.size)


def test_priors_are_drawn_from_the_prior() -> None:
    """Means of 4000 draws of Gamma(1, 1/15) within 5 standard errors; failure < 1e-5."""
    result = fitted(belief_guide(counts()), START)
    idata = to_arviz(result, RAGGED, **FEW | {"prior_draws": 4000})
    rate = group(idata, "prior")["rate"].values[0]
    assert np.all(np.abs(rate.mean(0) - 15) < 5 * 15 / math.sqrt(4000))
    np.testing.assert_allclose(group(idata, "prior")["transition"].sum("state_to"), 1)


def test_predictions_are_those_of_every_draw() -> None:
    result = fitted(belief_guide(counts()), START)
    idata = to_arviz(result, RAGGED, **FEW | {"predictive_draws": 4}, forecast=3)
    ahead = group(idata, "predictions")
    for _, draw, known in each_draw(idata, result.model, "predictions"):
        np.testing.assert_allclose(
            ahead["state_probability"].sel(chain=0, draw=draw),
            forecast(known, RAGGED, 3, draws=1).state_probability,
            atol=1e-12,
        )
    obs = ahead["obs"].values[0]
    assert len({draw.tobytes() for draw in obs}) == 4  # not one seed for all


def test_labels_symbols_features_and_shared_times_become_coordinates() -> None:
    text = Sequences.from_text(["abcab", "ba"], alphabet="abc", labels=["x", "y"])
    model = HiddenMarkovModel(2, Categorical(3))
    idata = to_arviz(fitted(belief_guide(model)), text, **FEW)
    assert group(idata, "posterior")["symbol"].values.tolist() == ["a", "b", "c"]
    assert group(idata, "observed_data")["sequence"].values.tolist() == ["x", "y"]
    np.testing.assert_array_equal(
        group(idata, "observed_data")["obs"], [[0, 1, 2, 0, 1], [1, 0] + [np.nan] * 3]
    )
    whole = to_arviz(fitted(belief_guide(model)), text[0], **FEW)
    for name in ("observed_data", "posterior_predictive", "prior_predictive"):
        assert group(whole, name)["obs"].dtype == np.int64
    years = [1900.0, 1901.5, 1903.0]
    pair = Sequences.from_arrays(
        [np.ones((3, 2)), np.ones((2, 2))], times=[years, years[:2]], features=["u", "v"]
    )
    model = HiddenMarkovModel(2, Gaussian(2))
    idata = to_arviz(fitted(belief_guide(model)), pair, **FEW)
    assert group(idata, "observed_data")["time"].values.tolist() == years
    assert group(idata, "posterior")["feature"].values.tolist() == ["u", "v"]
    np.testing.assert_array_equal(
        group(idata, "constant_data")["times"], [years, [*years[:2], np.nan]]
    )
    apart = Sequences.from_arrays([np.ones((3, 2)), np.ones((2, 2))], times=[years, [1.0, 2.5]])
    idata = to_arviz(fitted(belief_guide(model)), apart, **FEW)
    assert group(idata, "observed_data")["time"].values.tolist() == [0, 1, 2]


def test_missing_features_are_nan_and_masked() -> None:
    values = np.array([[1.0, np.nan], [np.nan, np.nan], [0.5, 2.0]])
    model = HiddenMarkovModel(2, FullGaussian(2))
    data = Sequences.from_arrays([values, values[:1]])
    idata = to_arviz(fitted(belief_guide(model)), data, **FEW)
    np.testing.assert_array_equal(group(idata, "observed_data")["obs"][0], values)
    np.testing.assert_array_equal(group(idata, "constant_data")["mask"][0], ~np.isnan(values))
    assert group(idata, "constant_data")["lengths"].values.tolist() == [3, 1]
    replicas = group(idata, "posterior_predictive")["obs"]
    assert np.isfinite(replicas[..., 0, :, :]).all()  # gaps are filled in
    assert np.isnan(replicas[..., 1, 1:, :]).all()


def test_inputs_and_actions_are_kept_and_forecasts_ask_for_inputs() -> None:
    transition = InputTransition(inputs=2)
    model = HiddenMarkovModel(2, Regression(Poisson(), inputs=2), transition=transition)
    inputs = np.arange(12.0).reshape(2, 3, 2) / 12
    data = Sequences.from_array(
        np.array([[1.0, 2, 3], [4, 5, 6]]), [3, 2], inputs=inputs, actions=[[0, 1, 2], [1, 0, 0]]
    )
    result = fitted(belief_guide(model))
    with pytest.warns(UnreadWarning, match=r"data\.actions: HiddenMarkovModel reads none"):
        idata = to_arviz(result, data, **FEW, forecast=2, inputs=torch.zeros(2, 2, 2))
    constant = group(idata, "constant_data")
    np.testing.assert_array_equal(constant["inputs"][0], inputs[0])
    assert np.isnan(constant["inputs"][1, 2]).all()
    assert constant["actions"].values.tolist() == [[0, 1, 2], [1, 0, -1]]
    models = [known for _, _, known in each_draw(idata, model)]
    np.testing.assert_allclose(
        group(idata, "log_likelihood")["obs"][0],
        torch.stack([log_evidence(known, data) for known in models]),
        rtol=1e-9,
    )
    for wrong in (None, torch.zeros(2, 1, 2)):
        with pytest.raises(ValueError, match=r"inputs: .* \(2, 2, 2\), got"):
            to_arviz(result, data, **FEW, forecast=2, inputs=wrong)


def test_known_parameters_are_constant_data() -> None:
    model = counts().with_parameters(**START)
    result = fitted(belief_guide(model))
    idata = to_arviz(result, RAGGED, **FEW)
    constant = group(idata, "constant_data")
    assert constant["transition"].dims == ("state", "state_to")
    np.testing.assert_allclose(constant["rate"], START["rate"])
    with pytest.raises(ValueError, match="must have a group 'posterior'"):
        group(idata, "posterior")
    evidence = group(idata, "sample_stats")["sequence_log_likelihood"][0, 0, [0, 2]]
    np.testing.assert_allclose(evidence, log_evidence(model, RAGGED)[[0, 2]], rtol=1e-10)
    assert group(idata, "posterior_states")["states"].shape == (1, 3, 3, 5)
    assert group(idata, "posterior_predictive")["obs"].shape == (1, 2, 3, 5)
    partly = counts().with_parameters(transition=START["transition"])
    idata = to_arviz(fitted(belief_guide(partly), {"rate": START["rate"]}), RAGGED, **FEW)
    assert set(group(idata, "posterior").data_vars) == {"initial", "rate"}
    known = partly.with_parameters(**parameters_at(idata, 0, 6))
    np.testing.assert_allclose(
        group(idata, "log_likelihood")["obs"][0, 6], log_evidence(known, RAGGED)[[0, 2]], rtol=1e-9
    )


@pytest.mark.parametrize("kind", ["map", "ml"])
def test_a_point_estimate_is_two_equal_draws(kind: Any) -> None:
    result = fitted(belief_guide(counts(), parameters=kind), START)
    idata = to_arviz(result, RAGGED, **FEW)
    rate = group(idata, "posterior")["rate"]
    np.testing.assert_allclose(rate, [[[10.0, 20.0, 30.0]] * 2], rtol=1e-6)
    assert "log_q" not in group(idata, "sample_stats")
    assert "log_q_joint" not in group(idata, "posterior_states")
    assert group(idata, "posterior_states")["states"].shape[1] == 3
    assert group(idata, "posterior_predictive")["obs"].shape[1] == 2
    assert idata.attrs["parameters"] == kind
    assert "k_hat_parameters" not in idata.attrs
    table = az.summary(idata)
    assert (table["sd"] == 0).all()
    np.testing.assert_allclose(
        group(idata, "posterior_states")["smoothed_probability"][0],
        smooth(result.model.with_parameters(**parameters_at(idata, 0, 0)), RAGGED)[0],
        atol=1e-10,
    )


def test_chains_of_nuts_stay_chains() -> None:
    result = nuts_counts()
    idata = to_arviz(result, RAGGED, **FEW)
    order = json.loads(idata.attrs["state_order"])
    np.testing.assert_array_equal(
        group(idata, "posterior")["rate"], result.draws["rate"][..., order]
    )
    stats_ = group(idata, "sample_stats")
    assert stats_["diverging"].dtype == bool
    np.testing.assert_allclose(stats_["acceptance_rate"], [[0.8] * 6, [0.9] * 6])
    assert "log_q" not in stats_
    states = group(idata, "posterior_states")
    assert states["states"].dims[:2] == ("chain", "draw")
    assert states["draw"].values.tolist() == [0, 5]  # evenly spaced, the posterior's own numbers
    assert idata.attrs["method"] == "nuts"
    assert "guide" not in idata.attrs


def test_attributes_tell_how_it_came_about() -> None:
    idata = to_arviz(fitted(belief_guide(counts()), START), RAGGED, **FEW, seed=8)
    attrs = idata.attrs
    assert attrs["method"] == "variational"
    assert attrs["seed"] == 3
    assert json.loads(attrs["export"])["seed"] == 8
    assert json.loads(attrs["settings"])["steps"] == 1500
    assert (attrs["guide"], attrs["filter"], attrs["objective"]) == (
        "BeliefGuide",
        "LSTMFilter",
        "elbo",
    )
    assert json.loads(attrs["versions"]) == {"python": "3"}
    assert "independent" in attrs["note"]
    assert not any("/" in str(value) for value in attrs.values())  # no path of this machine


def test_the_seed_decides_and_the_generator_stays() -> None:
    result = fitted(belief_guide(counts()), START)
    state = torch.get_rng_state()
    one, two = (to_arviz(result, RAGGED, **FEW, seed=1) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    other = to_arviz(result, RAGGED, **FEW, seed=2)
    for name in ("posterior", "posterior_predictive", "posterior_states", "prior"):
        assert group(one, name).equals(group(two, name))
        assert not group(one, name).equals(group(other, name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, r"draws: must be a whole number >= 1, got 0"),
        ({"state_draws": 0}, r"state_draws: .* got 0"),
        ({"predictive_draws": -1}, r"predictive_draws: .* got -1"),
        ({"prior_draws": "all"}, r"prior_draws: .* got 'all'"),
        ({"forecast": -1}, r"forecast: .* got -1"),
        ({"forecast": 1, "predictive_draws": 0}, r"predictive_draws: forecasting needs"),
        ({"steps": "maybe"}, r"steps: must be True, False or 'auto', got 'maybe'"),
        ({"seed": 1.5}, r"seed: .* got 1.5"),
        ({"result": 3}, r"result: must be what fit or nuts returned, got int"),
        ({"data": [1.0]}, r"data: must be Sequences, got list"),
        ({"data": Sequences.from_arrays([[-1.0, 2.0, 3.0]])}, r"data: Poisson needs whole"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    arguments = {"result": fitted(belief_guide(counts()), START), "data": RAGGED, **options}
    with pytest.raises(ValueError, match=message):
        to_arviz(arguments.pop("result"), arguments.pop("data"), **arguments)


def test_groups_that_were_not_asked_for_are_left_out() -> None:
    options = FEW | {"predictive_draws": 0, "prior_draws": 0}
    idata = to_arviz(fitted(belief_guide(counts()), START), RAGGED, **options)
    for name in ("posterior_predictive", "prior", "prior_predictive", "predictions"):
        with pytest.raises(ValueError, match=f"must have a group '{name}'"):
            group(idata, name)


# --- importance


def normal_mean() -> tuple[HiddenMarkovModel, Sequences, float, float]:
    """One state, unknown mean, known scale: posterior N(mean, 0.05²), and the log evidence."""
    scale = math.sqrt(100 / (400 - 1 / 4))  # posterior precision 400, prior precision 1 / 4
    model = HiddenMarkovModel(1, Gaussian()).with_parameters(scale=[scale])
    y = np.random.default_rng(0).normal(0.3, scale, 100)
    mean = y.sum() / scale**2 / 400
    covariance = scale**2 * np.eye(100) + 4.0
    evidence = stats.multivariate_normal(np.zeros(100), covariance).logpdf(y)
    return model, Sequences.from_arrays([y]), mean, float(evidence)


def test_a_guide_that_is_the_posterior_has_equal_weights() -> None:
    model, data, mean, evidence = normal_mean()
    result = fitted(BeliefGuide(model, ExactFilter()), {"mean": [mean]})
    posterior = result.guide.parameter_posterior
    assert posterior is not None
    one = torch.ones(1, dtype=torch.float64)
    posterior.set_covariance(0.05 * one / model.units["mean"], one.diag())
    found = importance(result, data, draws=200)
    np.testing.assert_allclose(found.log_weights, evidence, atol=1e-3)
    np.testing.assert_allclose(found.log_weights_joint, evidence, atol=1e-3)
    assert found.k_hat_parameters == found.k_hat_joint == 0
    assert found.log_evidence == pytest.approx(evidence, abs=1e-4)
    assert found.elbo == pytest.approx(evidence, abs=1e-4)
    assert found.reliable
    assert found.threshold == k_threshold(200)
    assert f"{evidence:.4f}"[:8] in str(found)
    assert importance(result.guide, data, draws=200).log_weights == pytest.approx(found.log_weights)


def test_a_misplaced_guide_has_a_large_k() -> None:
    model, data, mean, evidence = normal_mean()
    result = fitted(BeliefGuide(model, ExactFilter()), {"mean": [mean + 0.3]})
    found = importance(result, data)
    assert found.k_hat_parameters > found.threshold
    assert not found.reliable
    # KL(q ‖ posterior) of normals with one variance: (0.3 / 0.05)² / 2
    assert found.elbo == pytest.approx(evidence - 18, abs=5 * found.elbo_standard_error)


def test_weights_correct_the_evidence_of_a_near_miss() -> None:
    """Poisson rate ~ Gamma: posterior Gamma(400, ·), guide log-normal with the same width."""
    y = np.full(20, 20.0)
    y[0] = 19.0  # Σ y + 1 = 400 = 1 / 0.05²
    model = counts(1)
    a, b = 1.0, 1 / 15
    evidence = (
        a * math.log(b) - (a + y.sum()) * math.log(b + 20) + gammaln(a + y.sum()) - gammaln(a)
    ) - gammaln(y + 1).sum()
    result = fitted(BeliefGuide(model, ExactFilter()), {"rate": [400 / (20 + b)]})
    found = importance(result, Sequences.from_arrays([y]), draws=2000)
    assert found.reliable
    assert found.log_evidence == pytest.approx(evidence, abs=1e-3)
    assert found.elbo < found.log_evidence
    # The guide's density is that of a log-normal.
    idata = to_arviz(result, Sequences.from_arrays([y]), **FEW)
    rate = group(idata, "posterior")["rate"].values[..., 0]
    np.testing.assert_allclose(
        group(idata, "sample_stats")["log_q"],
        stats.lognorm.logpdf(rate, 0.05, scale=400 / (20 + b)),
        rtol=1e-5,
    )


def test_the_joint_weights_see_a_poor_belief() -> None:
    """An untrained network proposes paths far worse than the exact filter does."""
    model = counts().with_parameters(**START)
    data = quakes(40, 2)
    exact = importance(BeliefGuide(model, ExactFilter()), data)
    np.testing.assert_allclose(exact.log_weights_joint, exact.log_weights, rtol=1e-10)
    poor = importance(BeliefGuide(model, LSTMFilter(4)), data)
    assert poor.k_hat_parameters == 0  # nothing to draw: all parameters are known
    assert poor.k_hat_joint > poor.threshold
    assert poor.log_evidence == pytest.approx(float(log_evidence(model, data).sum()), rel=1e-10)
    assert poor.elbo < poor.log_evidence - 1


def test_importance_equals_what_the_export_says() -> None:
    result = fitted(belief_guide(counts()), START)
    found = importance(result, RAGGED, draws=100, seed=1)
    attrs = to_arviz(result, RAGGED, **FEW | {"draws": 100}, seed=1).attrs
    assert attrs["k_hat_parameters"] == pytest.approx(found.k_hat_parameters, rel=1e-8)
    assert attrs["log_evidence"] == pytest.approx(found.log_evidence, rel=1e-10)
    assert attrs["k_threshold"] == found.threshold


def test_importance_refuses_point_estimates_and_too_few_draws() -> None:
    point = fitted(belief_guide(counts(), parameters="map"), START)
    with pytest.raises(ValueError, match=r"result: needs a guide with a density .* 'map'"):
        importance(point, RAGGED)
    with pytest.raises(ValueError, match="draws: must be a whole number >= 25, got 3"):
        importance(fitted(belief_guide(counts()), START), RAGGED, draws=3)
    with pytest.raises(ValueError, match="result: must be a Fit or a guide, got NutsFit"):
        importance(nuts_counts(), RAGGED)  # type: ignore[arg-type]


def test_weights_that_are_not_numbers_give_nan() -> None:
    from beliefzoo.inference.checking.importance import corrected_evidence, k_hat

    fine = np.random.default_rng(0).normal(size=100)
    for bad in (np.nan, np.inf):
        broken = fine.copy()
        broken[3] = bad
        assert math.isnan(k_hat(broken))
        assert math.isnan(corrected_evidence(broken))
    assert math.isnan(k_hat(np.full(100, -np.inf)))
    assert math.isnan(k_hat(fine[:24]))
    assert math.isfinite(k_hat(np.append(fine, -np.inf)))


# --- ArviZ itself


def names_of(idata: Any) -> set[str]:
    """The groups under either major."""
    found = idata.groups() if callable(idata.groups) else idata.groups
    return {name.strip("/") for name in found} - {""}


def elpd_of(found: Any) -> float:
    """Of ArviZ's own leave-one-out, under either major."""
    return float(found.elpd_loo if hasattr(found, "elpd_loo") else found.elpd)


@pytest.fixture(scope="module")
def pair() -> dict[str, Any]:
    """Two fits of one series, one and two states, as a user would make them."""
    data = quakes(50)
    out = {}
    for states in (1, 2):
        model = counts(states)
        guide = BeliefGuide(model, ExactFilter(), parameters="multivariate")
        settings = FitSettings(steps=150, sleep_steps=0)
        result = fit(model, guide, data, settings=settings, seed=0, progress=False)
        out[f"{states} states"] = to_arviz(result, data, draws=400)
    return out


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # ArviZ 0.23 with pandas 3
def test_arviz_summarises_and_compares(pair: dict[str, Any]) -> None:
    idata = pair["2 states"]
    table = az.summary(idata, var_names=["rate", "transition"])
    np.testing.assert_allclose(
        table["mean"][:2], group(idata, "posterior")["rate"].mean(("chain", "draw")), atol=1e-3
    )
    ours, theirs = arviz_groups.loo(idata, "time"), az.loo(idata)
    assert ours.elpd == pytest.approx(elpd_of(theirs), rel=1e-6)
    assert list(az.compare(pair).index) == ["2 states", "1 states"]
    assert list(arviz_groups.compare(pair, "time").index) == ["2 states", "1 states"]


PLOTS = (
    "trace",
    "forest",
    "ess",
    "autocorr",
    *(
        ("dist", "ppc_dist", "prior_posterior", "rank_dist")
        if hasattr(az, "plot_ppc_dist")
        else ("posterior", "ppc", "density", "rank")
    ),
)
"""Of either major. Those of ranks compare chains, so they want more than the one of a guide."""


@plotting
@pytest.mark.parametrize("plot", PLOTS)
def test_arviz_plots(plot: str, pair: dict[str, Any]) -> None:
    from matplotlib import pyplot as plt

    idata = to_arviz(nuts_counts(), RAGGED, **FEW) if "rank" in plot else pair["2 states"]
    names = {} if "ppc" in plot else {"var_names": ["rate"]}
    if plot == "ppc_dist":
        names = {"kind": "ecdf"}  # 1.x warns of densities of counts
    getattr(az, f"plot_{plot}")(idata, **names)
    plt.close("all")


@plotting
def test_parts_of_a_guides_draws_are_chains_that_arviz_ranks() -> None:
    from matplotlib import pyplot as plt

    result = fitted(belief_guide(counts()), START)
    some = FEW | {"draws": 40, "predictive_draws": 40, "state_draws": 40}
    whole, parts = to_arviz(result, RAGGED, **some), to_arviz(result, RAGGED, **some, chains=4)
    for name in ("posterior", "posterior_predictive", "sample_stats", "log_likelihood"):
        one, four = (group(idata, name) for idata in (whole, parts))
        assert (four.sizes["chain"], four.sizes["draw"]) == (4, 10)
        for variable in one.data_vars:
            joined = four[variable].stack(all=("chain", "draw")).transpose("all", ...)
            np.testing.assert_array_equal(joined, one[variable][0])
    (az.plot_rank if hasattr(az, "plot_rank") else az.plot_rank_dist)(parts, var_names=["rate"])
    plt.close("all")
    assert arviz_groups.convergence(parts).r_hat < 1.2  # of 10 draws each, all independent


@pytest.mark.parametrize(("chains", "said"), [(3, "must divide the number of draws, 40"), (0, "")])
def test_parts_are_equal(chains: int, said: str) -> None:
    with pytest.raises(ValueError, match=f"chains: {said}"):
        to_arviz(fitted(belief_guide(counts())), RAGGED, **FEW | {"draws": 40}, chains=chains)


def test_only_a_guides_draws_have_parts() -> None:
    guide = BeliefGuide(counts(), ExactFilter(), parameters="ml")
    for result in (nuts_counts(), fitted(guide, START)):
        with pytest.raises(ValueError, match="chains: must be 1 unless draws are a guide's"):
            to_arviz(result, RAGGED, **FEW, chains=2)


@plotting
@pytest.mark.parametrize("plot", ["plot_loo_pit", "plot_ppc_pit", "plot_ppc_rootogram"])
@pytest.mark.parametrize("sequences", [1, 3])
def test_arviz_plots_of_the_steps_of_all_sequences(plot: str, sequences: int) -> None:
    """They take one axis of observations, which ``by_step`` makes; of every draw replications."""
    from matplotlib import pyplot as plt

    if not hasattr(az, plot):
        pytest.skip("ArviZ 1.x alone has it")
    counted = "rootogram" in plot
    model = HiddenMarkovModel(1, "poisson" if counted else Gaussian())
    random = np.random.default_rng(0)
    drawn = (random.poisson(4, n) if counted else random.normal(size=n) for n in (40, 25, 30))
    data = Sequences.from_arrays([*drawn][:sequences])
    start = {"rate": [4.0]} if counted else {"mean": [0.0], "scale": [1.0]}
    some = FEW | {"draws": 100, "predictive_draws": 100}
    idata = to_arviz(fitted(belief_guide(model), start), data, **some)
    named = {} if hasattr(az, "plot_ppc_pit") else {"y": "obs"}
    getattr(az, plot)(by_step(idata), **named)
    plt.close("all")


def test_steps_of_all_sequences_on_one_axis(tmp_path: Path) -> None:
    data = Sequences.from_arrays([[3, 9, math.nan, 12], [math.nan], [7, 5]], labels=["a", "b", "c"])
    some = FEW | {"draws": 30, "predictive_draws": 7}
    whole = to_arviz(fitted(belief_guide(counts()), START), data, **some)
    idata = by_step(whole)
    observed = group(idata, "observed_data")["obs"]
    assert observed.values.tolist() == [3, 9, 12, 7, 5]
    assert observed["sequence"].values.tolist() == ["a", "a", "a", "c", "c"]
    assert observed["time"].values.tolist() == [0, 1, 3, 0, 1]
    draws = group(whole, "posterior_predictive")["draw"].values
    for name, source, variable in (
        ("log_likelihood", "sample_stats", "step_log_likelihood"),
        ("posterior_predictive", "posterior_predictive", "obs"),
    ):
        long, wide = group(idata, name)["obs"], group(whole, source)[variable].sel(draw=draws)
        assert long.dims == ("chain", "draw", "step")
        for step in range(5):
            at = {"sequence": observed["sequence"].values[step], "time": [0, 1, 3, 0, 1][step]}
            np.testing.assert_array_equal(long[..., step], wide.sel(at))
    posterior = group(whole, "posterior").sel(draw=draws)
    np.testing.assert_array_equal(group(idata, "posterior")["rate"], posterior["rate"])
    arviz_groups.write(idata, tmp_path / "steps.nc")
    assert group(arviz_groups.read(tmp_path / "steps.nc"), "observed_data")["obs"].equals(observed)


def test_leave_one_out_of_steps_is_the_same_on_one_axis() -> None:
    some = FEW | {"draws": 400, "predictive_draws": 400}
    idata = to_arviz(fitted(belief_guide(counts()), START), quakes(6, 5), **some)
    ours, theirs = arviz_groups.loo(idata, "time"), arviz_groups.loo(by_step(idata), "step")
    assert theirs.elpd == pytest.approx(ours.elpd, rel=1e-12)
    assert elpd_of(az.loo(by_step(idata))) == pytest.approx(ours.elpd, rel=1e-6)


def test_steps_of_features_and_of_point_estimates_have_no_leave_one_out() -> None:
    """A term is of all features together, and a point estimate has one draw alone."""
    both = Sequences.from_arrays([[[1.0, 2.0], [2.0, math.nan]], [[0.5, 1.0]]])
    gaussian = fitted(belief_guide(HiddenMarkovModel(1, Gaussian(2))))
    point = fitted(BeliefGuide(counts(), ExactFilter(), parameters="ml"), START)
    for result, data, shape in ((gaussian, both, (3, 2)), (point, RAGGED, None)):
        steps = by_step(to_arviz(result, data, **FEW))
        assert "log_likelihood" not in names_of(steps)
        observed = group(steps, "observed_data")["obs"]
        assert shape in (None, observed.shape)
        replicas = group(steps, "posterior_predictive")["obs"]
        assert replicas.shape[2:] == observed.shape
    one = to_arviz(gaussian, both, **FEW)
    chosen = one.sel(feature=group(one, "observed_data")["feature"].values[0])
    assert "log_likelihood" not in names_of(by_step(chosen))


def test_what_has_no_steps_is_refused() -> None:
    for variables, dims, said in (
        ({"posterior": {"rate": [[1.0]]}}, {}, r"\(sequence, time\[, feature\]\); got none"),
        ({"observed_data": {"obs": [1.0]}}, {"obs": ["time"]}, r"got one of \('time',\)"),
        ({"observed_data": {"obs": [[math.nan]]}}, {"obs": ["sequence", "time"]}, "observed step"),
    ):
        with pytest.raises(ValueError, match=said):
            by_step(arviz_groups.build(variables, dims=dims))


def test_the_summary_of_a_guide_needs_no_second_chain(pair: dict[str, Any], caplog: Any) -> None:
    """r̂ and ESS belong to Markov chains; without them nothing is warned of."""
    table = az.summary(pair["2 states"], kind="stats")
    assert not table.isna().any(axis=None)
    assert not caplog.records
    chains = az.summary(to_arviz(nuts_counts(), RAGGED, **FEW), var_names=["rate"])
    assert (chains["r_hat"].astype(float) > 0.5).all()


def test_both_units_of_leave_one_out_work_on_an_export() -> None:
    data = quakes(6, 5)
    idata = to_arviz(fitted(belief_guide(counts()), START), data, **FEW | {"draws": 400})
    whole, step = (arviz_groups.loo(idata, unit) for unit in ("sequence", "time"))
    assert (whole.elpd_i.size, step.elpd_i.size) == (5, 30)
    assert elpd_of(az.loo(idata)) == pytest.approx(whole.elpd, rel=1e-6)
    single = to_arviz(fitted(belief_guide(counts()), START), data[0], **FEW | {"draws": 400})
    assert arviz_groups.loo(single, "sequence").elpd_i.size == 1


def test_files_keep_everything(tmp_path: Path) -> None:
    text = Sequences.from_text(["ab ba", "b"], alphabet="ab ")
    for result, data in (
        (fitted(belief_guide(counts()), START), RAGGED),
        (fitted(belief_guide(HiddenMarkovModel(2, Categorical(3)))), text),
        (nuts_counts(), RAGGED),
    ):
        idata = to_arviz(result, data, **FEW, forecast=2)
        arviz_groups.write(idata, tmp_path / "posterior.nc")
        again = arviz_groups.read(tmp_path / "posterior.nc")
        assert names_of(again) == names_of(idata)
        for name in names_of(idata):
            assert group(again, name).equals(group(idata, name))
        assert again.attrs == idata.attrs


# --- predictive checks


def test_checks_are_statistics_of_observed_and_replicated_data() -> None:
    idata = to_arviz(
        fitted(belief_guide(counts()), START), RAGGED, **FEW | {"predictive_draws": 50}
    )
    table = predictive_check(idata)
    seen = RAGGED.values[RAGGED.mask].numpy()
    assert table.loc["mean", "observed"] == pytest.approx(seen.mean())
    assert table.loc["variance", "observed"] == pytest.approx(seen.var())
    neighbours = [(31.0, 9.0), (9.0, 18.0), (22.0, 11.0), (11.0, 8.0)]
    lag = np.mean([(a - seen.mean()) * (b - seen.mean()) for a, b in neighbours]) / seen.var()
    assert table.loc["lag-1 autocorrelation", "observed"] == pytest.approx(lag)
    replicas = group(idata, "posterior_predictive")["obs"].values[0]
    means = np.array([replica[RAGGED.observed_steps.numpy()].mean() for replica in replicas])
    assert table.loc["mean", "mean"] == pytest.approx(means.mean())
    assert table.loc["mean", "sd"] == pytest.approx(means.std(ddof=1))
    assert table.loc["mean", "tail"] == pytest.approx(
        np.mean(means > seen.mean()) + 0.5 * np.mean(means == seen.mean())
    )
    assert table.loc["mean", "low"] == pytest.approx(np.quantile(means, 0.05))


def test_a_model_that_misses_the_mean_has_an_extreme_tail() -> None:
    data = quakes(50)
    good = to_arviz(fitted(belief_guide(counts()), START), data, **FEW | {"predictive_draws": 60})
    bad_start = START | {"rate": [60.0, 80.0, 70.0]}
    bad = to_arviz(
        fitted(belief_guide(counts()), bad_start), data, **FEW | {"predictive_draws": 60}
    )
    assert 0.01 < predictive_check(good).loc["mean", "tail"] < 0.99
    assert predictive_check(bad).loc["mean", "tail"] == 1.0


def test_checks_of_symbols_features_and_own_functions() -> None:
    text = Sequences.from_text(["aabba", "aa"], alphabet="ab")
    model = HiddenMarkovModel(2, Categorical(2))
    table = predictive_check(to_arviz(fitted(belief_guide(model)), text, **FEW))
    assert table.loc["share of the most frequent", "observed"] == pytest.approx(5 / 7)
    assert table.loc["share of repeats", "observed"] == pytest.approx(3 / 5)
    assert table.loc["entropy", "observed"] == pytest.approx(stats.entropy([5, 2]))
    model = HiddenMarkovModel(2, Gaussian(2))
    data = Sequences.from_arrays([[[1.0, 5.0], [2.0, 7.0]]], features=["u", "v"])
    idata = to_arviz(fitted(belief_guide(model)), data, **FEW)
    table = predictive_check(idata)
    assert table.loc["mean[v]", "observed"] == 6
    own = predictive_check(idata, {"largest": np.nanmax, "never": lambda y: np.nan})
    assert own.loc["largest", "observed"] == 7
    assert math.isnan(own.loc["never", "tail"])
    with pytest.raises(ValueError, match=r"statistics\['rows'\]: must return one number"):
        predictive_check(idata, {"rows": lambda y: y[:, 0]})


def test_counts_are_exported_as_integers() -> None:
    """If none is missing: functions of discrete data ask for them, and NaN is no integer."""
    settings = FEW | {"forecast": 2}
    idata = to_arviz(fitted(belief_guide(counts()), START), quakes(6, 5), **settings)
    for name in ("observed_data", "posterior_predictive", "prior_predictive", "predictions"):
        assert group(idata, name)["obs"].dtype == np.int64
    if hasattr(az, "plot_ppc_rootogram"):
        az.plot_ppc_rootogram(by_step(idata))
    gappy = to_arviz(fitted(belief_guide(counts()), START), RAGGED, **settings)
    assert group(gappy, "observed_data")["obs"].dtype == np.float64


def test_leave_one_out_of_a_point_estimate_is_refused() -> None:
    """By ArviZ of either major, which would take the fit for it, and by ours."""
    guide = BeliefGuide(counts(), ExactFilter(), parameters="ml")
    idata = to_arviz(fitted(guide, START), RAGGED, **FEW)
    with pytest.raises(TypeError, match="log likelihood not found"):
        az.loo(idata)
    with pytest.raises(ValueError, match="must have a group 'log_likelihood'"):
        arviz_groups.loo(idata)
    assert "sequence_log_likelihood" in group(idata, "sample_stats")
