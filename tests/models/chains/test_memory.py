"""Memory models beside the sum over all paths of their causes."""

import itertools

import numpy as np
import pytest
import torch

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    ForwardGuide,
    LSTMFilter,
    evidence_gap,
    filter,
    fit,
    forecast,
    log_evidence,
    smooth,
    starting_values,
    to_arviz,
)
from beliefzoo.inference.arviz_groups import group
from beliefzoo.inference.exact import chains as exact
from beliefzoo.inference.queries import structures
from beliefzoo.models import (
    AccumulatorTransition,
    EmptyMemory,
    GatedAccumulator,
    Gaussian,
    HiddenMarkovModel,
    MemoryEmission,
    ResetModel,
    ResetTransition,
    Sequences,
    TemporalSigmoidBeliefNetwork,
    keep_probability,
    load_model,
    memory_mean,
    memory_states,
    save_model,
    value_mean,
    write_probability,
)
from oracles_memory import enumerate_memory

LOADING = [[1.0, 0.0, 0.0, 0.6], [0.0, 1.2, 0.0, 0.0], [0.0, 0.0, 0.8, 0.0]]
VALUES = {
    "keep": 0.8,
    "write": 0.3,
    "positive": 0.6,
    "loading": LOADING,
    "intercept": [0.1, -0.2, 0.3, 0.0],
    "scale": [0.7, 0.9, 1.1, 1.3],
}


def accumulator(capacity: int = 4, leak: float = 0.0) -> HiddenMarkovModel:
    loading = [*LOADING, [0.0, 0.0, 0.3 * leak, leak]] if leak else LOADING
    model = GatedAccumulator(capacity, features=4, leak=leak > 0)
    return model.with_parameters(**{**VALUES, "loading": loading})


def reset(leak: float = 0.0) -> HiddenMarkovModel:
    loading = [[1.0, 0.0, 0.4], [0.0, 0.8, 0.0]]
    loading += [[0.0, 0.3, leak]] if leak else []
    values = {"intercept": [0.1, -0.2, 0.0], "scale": [0.7, 0.9, 1.1], "loading": loading}
    return ResetModel(features=3, leak=leak > 0).with_parameters(keep=0.7, positive=0.4, **values)


ACCUMULATOR = AccumulatorTransition(1)

CASES = {
    "accumulator": accumulator(),
    "leaking accumulator": accumulator(leak=0.5),
    "reset": reset(),
    "leaking reset": reset(leak=0.5),
}


def sequences(model: HiddenMarkovModel) -> Sequences:
    """A whole one, a short one and one with missing elements, float64."""
    generator = np.random.default_rng(0)
    arrays = [generator.normal(size=(steps, model.emission.features)) for steps in (4, 2, 4)]
    arrays[2][1] = np.nan
    arrays[2][2, 0] = np.nan
    return Sequences.from_arrays(arrays)


def oracle(model: HiddenMarkovModel, data: Sequences, n: int) -> object:
    values = {name: value.numpy() for name, value in model.known.items()}
    y = np.where(data.mask[n], data.values[n], np.nan)[: int(data.lengths[n])]
    return enumerate_memory(y, values, isinstance(model.transition, ResetTransition))


@pytest.mark.parametrize("case", CASES)
def test_inference_is_the_sum_over_all_paths(case: str) -> None:
    model = CASES[case]
    data = sequences(model)
    beliefs, smoothed = filter(model, data), smooth(model, data)
    evidence = log_evidence(model, data)
    table = memory_states(model)
    for n, length in enumerate(data.lengths.tolist()):
        true = oracle(model, data, n)
        here = beliefs[n, :length]
        found = {
            "memory": memory_mean(model, here),
            "keep": keep_probability(model, here),
            "write": write_probability(model, here),
            "value": value_mean(model, here),
            "before": here @ table.before,
            "smoothed": memory_mean(model, smoothed[n, :length]),
        }
        for name, value in found.items():
            np.testing.assert_allclose(value, getattr(true, name), atol=1e-12, err_msg=name)
        assert float(evidence[n]) == pytest.approx(true.log_evidence, abs=1e-11)


def recursion(model: HiddenMarkovModel, data: Sequences) -> np.ndarray:
    """c_t = f c_{t-1} + i g of SCIENCE I7, written out from the parameters."""
    known = {name: value.numpy() for name, value in model.known.items()}
    llr = 2 * (data.values.numpy() - known["intercept"]) / known["scale"] ** 2 @ known["loading"].T
    logit = {p: np.log(known[p] / (1 - known[p])) for p in ("keep", "positive")}
    f = 1 / (1 + np.exp(-llr[..., 0] - logit["keep"]))
    if "write" in known:
        prior = np.log(known["write"] / (1 - known["write"]))
        i, told = 1 / (1 + np.exp(-llr[..., 1] - prior)), llr[..., 2]
    else:
        i, told = 1 - f, llr[..., 1]
    g = np.tanh((told + logit["positive"]) / 2)
    c, cells = np.zeros(len(data)), []
    for t in range(data.max_length):
        c = f[:, t] * c + i[:, t] * g[:, t]
        cells.append(c)
    return np.stack(cells, 1)


@pytest.mark.parametrize("case", ["accumulator", "reset"])
def test_the_mean_of_the_memory_is_the_recursion_of_a_cell(case: str) -> None:
    model = accumulator(30) if case == "accumulator" else reset()
    data = model.sample(20, 30, seed=0).data
    exactly = memory_mean(model, filter(model, data)).numpy()
    np.testing.assert_allclose(recursion(model, data), exactly, atol=1e-12)


@pytest.mark.parametrize("case", ["accumulator", "reset"])
def test_with_a_leak_it_is_not(case: str) -> None:
    whole = accumulator(10, leak=0.5) if case == "accumulator" else reset(leak=0.5)
    data = whole.sample(20, 10, seed=0).data
    exactly = memory_mean(whole, filter(whole, data)).numpy()
    plain = accumulator(10) if case == "accumulator" else reset()
    assert np.abs(recursion(plain, data) - exactly).max() > 0.1


def test_capacity_beyond_the_length_changes_nothing() -> None:
    small, large = accumulator(6), accumulator(13)
    data = small.sample(10, [6] * 5 + [3] * 5, seed=1).data
    one, other = log_evidence(small, data), log_evidence(large, data)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    means = [memory_mean(model, filter(model, data)) for model in (small, large)]
    torch.testing.assert_close(*means, rtol=0, atol=1e-12)


def test_without_keeping_the_memory_is_what_was_written_last() -> None:
    model = accumulator().with_parameters(keep=0.0)
    beliefs = filter(model, sequences(model))[:1]
    product = write_probability(model, beliefs) * value_mean(model, beliefs)
    torch.testing.assert_close(memory_mean(model, beliefs), product)


def test_the_structure_is_the_dense_matrix() -> None:
    model = accumulator(9)
    data = model.sample(7, 9, seed=0).data
    assert model.states == 152 >= structures.STRUCTURED_STATES
    laws = model.laws({}, data)
    dense = exact.log_evidence(
        laws.log_initial, laws.log_transition, laws.log_likelihood, laws.lengths
    )
    found = structures.structure(laws)
    assert found is not None
    torch.testing.assert_close(found.dense(), laws.log_transition[0, 0])
    torch.testing.assert_close(log_evidence(model, data), dense)
    torch.testing.assert_close(laws.log_transition.exp().sum(-1), torch.ones(1, 1, 152).double())


@pytest.mark.parametrize("case", ["accumulator", "reset"])
def test_draws_follow_the_causes(case: str) -> None:
    """Frequencies within five standard errors: wrong by chance less than once in 10^5 runs."""
    model = accumulator(20) if case == "accumulator" else reset()
    simulated = model.sample(1000, 20, seed=0)
    table = memory_states(model)
    drawn = {name: getattr(table, name)[simulated.states] for name in table._fields}
    memory = torch.zeros(1000).double()
    for t in range(20):
        torch.testing.assert_close(drawn["before"][:, t], memory)
        memory = drawn["keep"][:, t] * memory + drawn["write"][:, t] * drawn["value"][:, t]
        torch.testing.assert_close(drawn["memory"][:, t], memory)
    known = model.known
    for name, bits in (("keep", drawn["keep"]), ("positive", (drawn["value"] + 1) / 2)):
        chance = float(known[name])
        spread = (chance * (1 - chance) / bits.numel()) ** 0.5
        assert abs(float(bits.mean()) - chance) < 5 * spread
    mean = model.emission.mean(known)[simulated.states]
    residual = (simulated.data.values - mean) / known["scale"]
    assert abs(float(residual.square().mean()) - 1) < 5 * (2 / residual.numel()) ** 0.5


def test_unknown_chances_are_found() -> None:
    """Maximum likelihood: each chance is the mean of its posteriors, which EM leaves as it is.

    Its standard error is about .02 here: farther off than .1 once in 10^6 runs.
    """
    known = accumulator(3)
    data = known.sample(400, 3, seed=0).data
    fixed = {name: value for name, value in known.known.items() if name not in ("keep", "write")}
    free = GatedAccumulator(3, features=4).with_parameters(**fixed)
    guide = BeliefGuide(free, ExactFilter(), parameters="ml")
    settings = FitSettings(
        steps=80,
        batch_size=400,
        parameter_learning_rate=0.2,
        holdout=0,
        patience=None,
        start="prior",
    )
    found = fit(free, guide, data, settings=settings, progress=False).guide.median()
    y, row = data.values.numpy(), {"keep": 0, "write": 1}
    for name, chance in ((name, float(found[name])) for name in row):
        weight = np.array(LOADING)[row[name]] / np.array(VALUES["scale"]) ** 2
        odds = np.log(chance / (1 - chance)) + 2 * (y - VALUES["intercept"]) @ weight
        assert np.mean(1 / (1 + np.exp(-odds))) == pytest.approx(chance, abs=2e-3)
        assert chance == pytest.approx(VALUES[name], abs=0.1)


def test_a_fit_from_scratch_runs_and_exports_in_the_models_order() -> None:
    model = ResetModel()
    data = reset_plain().sample(30, 8, seed=0).data
    guide = BeliefGuide(model, LSTMFilter(4))
    settings = FitSettings(steps=3, sleep_steps=2, restart_steps=2, holdout=0, patience=None)
    with pytest.warns(UserWarning, match="nothing tells 'keep', 'positive' from one another"):
        result = fit(model, guide, data, settings=settings, progress=False)
    exported = to_arviz(result, data, draws=10, state_draws=5, predictive_draws=3, prior_draws=3)
    posterior = group(exported, "posterior")
    assert posterior["loading"].dims == ("chain", "draw", "channel", "feature")
    assert exported.attrs["state_order"] == str(list(range(12)))


def test_causes_that_last_are_fitted_from_clusters() -> None:
    """The emission of a memory on a chain of any moves: its causes are not drawn anew."""
    model = HiddenMarkovModel(12, MemoryEmission(ResetTransition(), features=2))
    started = starting_values(model, reset_plain().sample(30, 8, seed=0).data, seed=0)
    assert set(started) == set(model.priors)
    assert model.with_parameters(**started).known["transition"].shape == (12, 12)


def test_which_states_share_all_parameters() -> None:
    few = Sequences.from_arrays([[0.5, 1.0]])
    for tied in (ResetModel(features=1), TemporalSigmoidBeliefNetwork(2, "gaussian")):
        assert tied.tied
    TemporalSigmoidBeliefNetwork(2, "gaussian").check(few)
    for untied in (
        HiddenMarkovModel(12, "gaussian", transition=ResetTransition()),
        TemporalSigmoidBeliefNetwork(2, "student-t"),
    ):
        assert not untied.tied
        with pytest.raises(ValueError, match="states need at least as many observed steps, got 2"):
            untied.check(few)


def reset_plain() -> HiddenMarkovModel:
    values = {"loading": [[1, 0], [0, 1]], "intercept": [0, 0], "scale": [0.5, 0.5]}
    return ResetModel().with_parameters(keep=0.8, positive=0.5, **values)


def test_a_fit_starts_at_the_corners_and_finds_the_law() -> None:
    """Without a leak the observations are a mixture of eight normal laws, in no order of causes."""
    known = accumulator(5).with_parameters(scale=[0.35, 0.35, 0.35, 0.35])
    data = known.sample(300, 5, seed=0).data
    free = GatedAccumulator(5, features=4)
    started = free.with_parameters(**starting_values(free, data, seed=0))
    drawn = free.with_parameters(**starting_values(free, data, "prior", seed=0))
    true, found = (means_of_causes(model) for model in (known, started))
    nearest = np.linalg.norm(true[:, None] - found, axis=-1).min(0)
    assert nearest.max() < 0.2
    behind = [log_evidence(known, data) - log_evidence(model, data) for model in (started, drawn)]
    assert float(behind[0].mean()) < 0.5  # nats a sequence
    assert float(behind[1].mean()) > 10


def means_of_causes(model: HiddenMarkovModel) -> np.ndarray:
    values = {name: value.numpy() for name, value in model.known.items()}
    signs = np.array(list(itertools.product((-1, 1), repeat=3)))
    return signs @ values["loading"] + values["intercept"]


def test_a_fit_needs_an_observation_for_each_combination_of_causes() -> None:
    model = GatedAccumulator(9, features=4)
    few = accumulator(9).sample(1, 9, seed=0).data
    model.check(few)
    with pytest.raises(ValueError, match=r"data: 8 .* need at least as many observed steps"):
        model.check(accumulator(9).sample(1, 7, seed=0).data)


def test_a_leak_starts_at_zero() -> None:
    model = ResetModel(features=3, leak=True)
    started = starting_values(model, CASES["leaking reset"].sample(5, 6, seed=0).data)
    assert not started["loading"][2].any()


def test_starting_values_of_known_assignments() -> None:
    """Frames given to their true states lead back to the parameters."""
    model = accumulator(10)
    simulated = model.sample(300, 10, seed=0)
    y = simulated.data.values.double().flatten(0, 1)
    weight = torch.nn.functional.one_hot(simulated.states.flatten(), model.states).double()
    started = model.emission.start(y, torch.ones_like(y, dtype=torch.bool), weight)
    for name in ("loading", "intercept", "scale"):
        torch.testing.assert_close(started[name], model.known[name], atol=0.12, rtol=0)
    counts = weight.mT @ weight + 1e-9
    chances = model.transition.start(counts)
    assert float(chances["keep"]) == pytest.approx(0.8, abs=0.04)
    assert float(chances["write"]) == pytest.approx(0.3, abs=0.04)


def test_starting_values_have_the_units_of_the_data() -> None:
    """A start from few frames, which is pulled to the middle of the data and not to zero."""
    model = accumulator(4)
    drawn = model.sample(3, 4, seed=0)
    y = drawn.data.values.double().flatten(0, 1)
    seen = torch.ones_like(y, dtype=torch.bool)
    weight = torch.nn.functional.one_hot(drawn.states.flatten(), model.states).double()
    plain = model.emission.start(y, seen, weight)
    moved = model.emission.start(1e-5 * y + 100, seen, weight)
    for name in ("loading", "scale"):
        torch.testing.assert_close(moved[name], 1e-5 * plain[name], rtol=1e-6, atol=0)
    torch.testing.assert_close(moved["intercept"], 1e-5 * plain["intercept"] + 100)
    alike = model.emission.start(torch.ones_like(y), seen, weight)
    assert bool((alike["scale"] > 0.01).all())  # of what never varies


@pytest.mark.parametrize("case", CASES)
def test_elbo_of_the_exact_filter_is_the_evidence(case: str) -> None:
    model = CASES[case]
    gap = evidence_gap(BeliefGuide(model, ExactFilter()), sequences(model))
    torch.testing.assert_close(gap.elbo, gap.log_evidence)


GUIDES = {
    "exact": lambda model: BeliefGuide(model, ExactFilter()),
    "belief": lambda model: BeliefGuide(model, LSTMFilter(4)),
    "forward": lambda model: ForwardGuide(model, LSTMFilter(4, direction="both")),
}


@pytest.mark.parametrize("guide", GUIDES)
def test_guides_bound_the_evidence_as_the_sum_over_paths_says(guide: str) -> None:
    """Of all 12^3 paths most are impossible, under the model and under the guide."""
    torch.manual_seed(0)
    model = CASES["leaking reset"]
    data = model.sample(2, [3, 2], seed=0).data
    posterior = GUIDES[guide](model).posterior(model.laws({}, data))
    bound = posterior.elbo().detach()
    for n, length in enumerate((3, 2)):
        paths = torch.full((12**length, 2, 3), -1)
        paths[:, n, :length] = torch.tensor(list(itertools.product(range(12), repeat=length)))
        log_q = posterior.path_log_prob(paths)[:, n].detach()
        log_p = (posterior.chain_log_prob(paths) + posterior.emission_log_prob(paths))[:, n]
        likely = log_q > -torch.inf
        assert float(log_q.exp().sum()) == pytest.approx(1, abs=1e-6)
        expected = (log_q.exp() * (log_p - log_q))[likely].sum()
        assert float(bound[n]) == pytest.approx(float(expected), abs=1e-5)
        assert not bool((likely & (log_p == -torch.inf)).any())
        assert float(log_p.logsumexp(0)) >= float(bound[n]) - 1e-6


@pytest.mark.parametrize("case", CASES)
def test_models_are_saved(case: str, tmp_path) -> None:
    model = CASES[case]
    data = sequences(model)
    loaded = load_model(save_model(model, tmp_path / "model.pt"))
    assert loaded.configuration == model.configuration
    torch.testing.assert_close(log_evidence(loaded, data), log_evidence(model, data))


def test_priors_are_scaled_to_the_data() -> None:
    data = Sequences.from_arrays([[[100.0, -5.0], [104.0, -5.2], [102.0, -4.8]]])
    scaled = ResetModel().scaled_to(data)
    prior = scaled.priors["intercept"]
    torch.testing.assert_close(prior.mean, torch.tensor([102.0, -5.0], dtype=torch.float64))
    assert float(prior.stddev[0]) > 5 * float(prior.stddev[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GatedAccumulator(0), "capacity: must be a whole number >= 1, got 0"),
        (lambda: GatedAccumulator(501), "capacity: can be at most 500, got 501, which has 8024"),
        (lambda: GatedAccumulator(3, features=0), "features: must be a whole number >= 1"),
        (
            lambda: MemoryEmission("reset"),
            "transition: must be an AccumulatorTransition or a ResetTransition, got 'reset'",
        ),
        (
            lambda: MemoryEmission(ResetTransition(), features=2, spread=(1.0, 1.0, 1.0)),
            r"spread: needs one number or one per feature \(2\), got 3 numbers",
        ),
        (
            lambda: MemoryEmission(ResetTransition(), spread=0.0),
            "spread: must be a finite number > 0",
        ),
        (
            lambda: MemoryEmission(ResetTransition(), location=float("nan")),
            "location: must be a finite number, got nan",
        ),
        (lambda: ResetModel(leak="no"), "leak: must be True or False, got 'no'"),
        (lambda: EmptyMemory(3), "transition: must be an AccumulatorTransition or a Res.* got 3"),
        (
            lambda: HiddenMarkovModel(5, "gaussian", transition=AccumulatorTransition(2)),
            "states: this transition has 40 of them, got 5",
        ),
        (
            lambda: HiddenMarkovModel(5, MemoryEmission(ResetTransition())),
            "states: ResetTransition.* has 12 of them, got 5",
        ),
        (
            lambda: log_evidence(accumulator(3), sequences(accumulator(3))),
            "data: a memory with capacity=3 is for sequences of at most that many steps, got a "
            "sequence of 4",
        ),
        (lambda: accumulator(3).sample(2, 4), "data: a memory with capacity=3"),
        (
            lambda: forecast(accumulator(4), accumulator(4).sample(2, 3, seed=0).data, 2),
            "data: a memory with capacity=4 is for sequences .* got a sequence of 5",
        ),
        (
            lambda: HiddenMarkovModel(
                12, "gaussian", transition=ResetTransition(), initial=EmptyMemory(ACCUMULATOR)
            ),
            r"initial: EmptyMemory\(.*\) needs a model with this transition, got ResetTransition",
        ),
        (
            lambda: HiddenMarkovModel(12, "gaussian", initial=EmptyMemory(ResetTransition())),
            "initial: EmptyMemory.* needs a model with this transition",
        ),
        (
            lambda: memory_mean(HiddenMarkovModel(2, Gaussian()), torch.ones(2) / 2),
            "model: needs a GatedAccumulator or a ResetModel, got HiddenMarkovModel",
        ),
        (
            lambda: memory_mean(reset(), torch.ones(3) / 3),
            r"beliefs: needs a tensor with 12 entries along the last axis, got \(3,\)",
        ),
        (lambda: memory_mean(reset(), torch.tensor(1.0)), r"beliefs: .*12 entries.* got \(\)"),
        (lambda: memory_mean(reset(), [1.0]), "beliefs: needs a tensor .* got list"),
        (lambda: reset().with_parameters(keep=1.5), "keep: needs values in"),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
