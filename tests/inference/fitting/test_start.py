"""Starting values against planted states, and inside the support whatever the data."""

import itertools
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import biject_to

from beliefzoo.inference.fitting.start import STARTS, Start, starting_values
from beliefzoo.models import (
    BandedTransition,
    Bernoulli,
    Categorical,
    Emission,
    FullGaussian,
    Gaussian,
    GaussianMixture,
    HiddenMarkovModel,
    InputTransition,
    LowRankGaussian,
    LowRankTransition,
    Multinomial,
    NeuralEmission,
    NeuralTransition,
    Poisson,
    Regression,
    Sequences,
    SparseTransition,
    StudentT,
)
from beliefzoo.models.chains import start as start_module

EMISSIONS: dict[str, Emission] = {
    "categorical": Categorical(symbols=6),
    "poisson": Poisson(),
    "poisson-3": Poisson(features=3),
    "bernoulli": Bernoulli(),
    "bernoulli-3": Bernoulli(features=3),
    "multinomial": Multinomial(features=3),
    "gaussian": Gaussian(),
    "gaussian-2": Gaussian(features=2),
    "full-gaussian": FullGaussian(features=3),
    "low-rank-gaussian": LowRankGaussian(features=3, rank=2),
    "student-t": StudentT(),
    "mixture": GaussianMixture(),
    "mixture-2": GaussianMixture(features=2, components=3),
    "lagged gaussian": Regression(Gaussian(features=2), lags=2),
    "lagged symbols": Regression(Categorical(symbols=4), lags=1),
    "driven poisson": Regression(Poisson(), inputs=2),
    "neural symbols": NeuralEmission(Categorical(symbols=6), embedding=3, width=4),
    "neural poisson": NeuralEmission(Poisson(features=3), embedding=3, width=4),
    "neural gaussian": NeuralEmission(FullGaussian(features=2), embedding=3, width=4),
}

every_emission = pytest.mark.parametrize("emission", EMISSIONS.values(), ids=list(EMISSIONS))


def blanks(n: int, length: int) -> Tensor:
    return torch.randn(n, length, 2)


def simulated(model: HiddenMarkovModel, n: int = 6, length: int = 25) -> Sequences:
    """Data of the model at tame values: what the prior gives at its heaviest has no place here."""
    tame = {
        name: prior.sample().clamp(-5, 50) if "Simplex" not in repr(prior.support) else prior.mean
        for name, prior in model.priors.items()
    }
    lengths = torch.arange(length - n + 1, length + 1)
    inputs = blanks(n, length)
    shape = (n, length) if model.emission.codes else (n, length, model.emission.features)
    like = Sequences.from_tensors(torch.zeros(shape), lengths=lengths, inputs=inputs)
    y = model.simulate(tame, like).data.values
    mask = torch.rand(n, length) < 0.8
    return read(model, Sequences.from_tensors(y, mask, lengths, inputs=inputs))


def read(model: HiddenMarkovModel, data: Sequences) -> Sequences:
    """The data without inputs if the model reads none: it would warn of them."""
    return data if model.inputs else data.without("inputs")


def assert_valid(model: HiddenMarkovModel, values: dict[str, Tensor]) -> None:
    """One value an unknown parameter, strictly inside its support."""
    assert list(values) == list(model.priors)
    for name, prior in model.priors.items():
        value = values[name]
        assert value.shape == prior.event_shape, name
        assert value.dtype == torch.float64, name
        assert bool(prior.support.check(value).all()), (name, value)
        assert bool(biject_to(prior.support).inv(value).isfinite().all()), (name, value)


def planted(means: Tensor, stay: float, n: int = 20, length: int = 100) -> tuple[Sequences, Tensor]:
    """Sequences (N, T, F) of states that lie at ``means``, with sd 1, and the paths."""
    states = len(means)
    transition = torch.full((states, states), (1 - stay) / max(states - 1, 1))
    transition.fill_diagonal_(stay)
    paths = torch.empty(n, length, dtype=torch.int64)
    paths[:, 0] = torch.arange(n) % states
    for t in range(1, length):
        paths[:, t] = torch.multinomial(transition[paths[:, t - 1]], 1)[:, 0]
    y = means[paths] + torch.randn(n, length, means.shape[1])
    return Sequences.from_tensors(y), paths


def numbers(*values: float) -> Sequences:
    return Sequences.from_arrays([list(values)])


# Every family


@every_emission
@pytest.mark.parametrize("start", STARTS)
def test_values_lie_in_the_support(emission: Emission, start: Start) -> None:
    model = HiddenMarkovModel(3, emission)
    assert_valid(model, starting_values(model, simulated(model), start))


@every_emission
def test_one_state(emission: Emission) -> None:
    model = HiddenMarkovModel(1, emission)
    assert_valid(model, starting_values(model, simulated(model)))


@pytest.mark.parametrize(
    "kind",
    [
        {"transition": InputTransition(inputs=2)},
        {"transition": NeuralTransition(embedding=3, width=4)},
        {"transition": LowRankTransition(2)},
        {"transition": BandedTransition((0, 1))},
        {"transition": SparseTransition(((0, 1), (1, 2, 0), (2,)))},
        {"initial": "stationary"},
        {"sticky": 5.0},
    ],
    ids=["inputs", "neural", "low-rank", "banded", "sparse", "stationary", "sticky"],
)
def test_every_transition(kind: dict[str, Any]) -> None:
    model = HiddenMarkovModel(3, "poisson", **kind)
    assert_valid(model, starting_values(model, simulated(model)))


def test_values_take_the_default_type() -> None:
    torch.set_default_dtype(torch.float64)
    model = HiddenMarkovModel(2, "gaussian")
    assert_valid(model, starting_values(model, simulated(model)))


@every_emission
@pytest.mark.parametrize("states", [3, 8])
def test_data_that_never_vary(emission: Emission, states: int) -> None:
    """One symbol, or one vector, at every step: nothing to cluster, and no NaN."""
    model = HiddenMarkovModel(states, emission)
    y = torch.ones(2, 10) if emission.codes else torch.ones(2, 10, emission.features)
    data = read(model, Sequences.from_tensors(y, inputs=blanks(2, 10)))
    for start in STARTS:
        assert_valid(model, starting_values(model, data, start))


# Planted states


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("features", [1, 3])
def test_kmeans_finds_states_far_apart(seed: int, features: int) -> None:
    """Five states 20 standard deviations apart, none of their 2000 frames is nearer to another.

    A value may lie a tenth of the way to the mean of all frames, for it is held back on purpose.
    """
    torch.manual_seed(seed)
    means = 20.0 * torch.randperm(5)[:, None].expand(5, features).clone()
    means[:, 1:] += 7 * torch.randn(5, features - 1)
    data, paths = planted(means, stay=0.9)
    model = HiddenMarkovModel(5, Gaussian(features=features))
    values = starting_values(model, data, seed=seed)
    rank = means[:, 0].argsort()
    found = values["mean"].reshape(5, features)
    pulled = (data.values.mean((0, 1)) - means[rank]).abs()
    assert ((found - means[rank]).abs() <= 0.1 * pulled + 0.5).all()
    place = rank.argsort()[paths]
    counts = torch.zeros(5, 5, dtype=torch.float64)
    for one in place:
        for here, there in itertools.pairwise(one.tolist()):
            counts[here, there] += 1
    frequency = counts / counts.sum(-1, keepdim=True)
    torch.testing.assert_close(values["transition"], frequency, atol=0.01, rtol=0)
    torch.testing.assert_close(values["initial"], torch.full((5,), 0.2, dtype=torch.float64))


def test_a_rare_state_starts_where_it_is() -> None:
    y = torch.randn(1, 2000)
    y[0, 500:520] += 50  # one frame in a hundred
    model = HiddenMarkovModel(2, "gaussian")
    mean = starting_values(model, Sequences.from_tensors(y))["mean"]
    assert abs(float(mean[0])) < 1
    assert 35 < float(mean[1]) < 51


def test_few_frames_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_module, "FRAMES", 60)
    data, _ = planted(torch.tensor([[0.0], [30.0]]), stay=0.9)
    mean = starting_values(HiddenMarkovModel(2, "gaussian"), data)["mean"]
    assert (mean - torch.tensor([0.0, 30.0])).abs().max() < 6


def test_frames_start_from_frames() -> None:
    """Two kinds of frames: each centre is one of them, so both are found whatever is drawn."""
    data = Sequences.from_arrays([[0.0] * 10 + [9.0] * 10])
    mean = starting_values(HiddenMarkovModel(2, "gaussian"), data, "frames")["mean"]
    assert mean[0] < 2 < 7 < mean[1]


def test_missing_frames_do_not_matter() -> None:
    """What stands under the mask is not data, and a step without data is in no transition."""
    data, paths = planted(torch.tensor([[0.0], [30.0]]), stay=0.9)
    mask = torch.rand(data.mask.shape) < 0.7
    gappy = Sequences.from_tensors(torch.where(mask, data.values, 1e9), mask)
    values = starting_values(HiddenMarkovModel(2, "gaussian"), gappy)
    assert (values["mean"] - torch.tensor([0.0, 30.0])).abs().max() < 6
    counts = torch.zeros(2, 2)
    for one, seen in zip(paths, mask[..., 0], strict=True):
        for t in range(1, len(one)):
            if seen[t - 1] and seen[t]:
                counts[one[t - 1], one[t]] += 1
    frequency = counts / counts.sum(-1, keepdim=True)
    torch.testing.assert_close(values["transition"].float(), frequency, atol=0.01, rtol=0)


def test_features_missing_one_by_one() -> None:
    data, _ = planted(torch.tensor([[0.0, 0.0], [40.0, -40.0]]), stay=0.9)
    mask = torch.rand(data.mask.shape) < 0.7
    gappy = Sequences.from_tensors(data.values, mask)
    for emission in (Gaussian(features=2), FullGaussian(features=2)):
        mean = starting_values(HiddenMarkovModel(2, emission), gappy)["mean"]
        assert (mean - torch.tensor([[0.0, 0.0], [40.0, -40.0]])).abs().max() < 10


def test_features_in_any_unit() -> None:
    data, _ = planted(torch.tensor([[0.0, 0.0], [30.0, 30.0]]), stay=0.9)
    model = HiddenMarkovModel(2, Gaussian(features=2))
    unit = torch.tensor([1e-6, 1e6])
    one, other = (
        starting_values(model, Sequences.from_tensors(y))["mean"]
        for y in (data.values, data.values * unit)
    )
    torch.testing.assert_close(one * unit, other)


# Order


@pytest.mark.parametrize("emission", ["poisson", "gaussian", "student-t", "bernoulli"])
@pytest.mark.parametrize("states", [1, 2, 5])
@pytest.mark.parametrize(
    "observed",
    [
        [1.0] * 12,
        [0.0] * 12,
        [0.0, 1.0] * 6,
        [0.0] * 11 + [1.0],
        [0.0] + [1.0] * 11,
    ],
    ids=["ones", "zeros", "halves", "nearly zeros", "nearly ones"],
)
def test_ordered_values_increase(emission: str, states: int, observed: list[float]) -> None:
    model = HiddenMarkovModel(states, emission, ordered=True)
    for start in STARTS:
        values = starting_values(model, numbers(*observed), start)
        assert_valid(model, values)
        location = values[str(model.emission.ordering)]
        if states > 1:
            assert (location.diff() > 0).all()
            assert model.priors[str(model.emission.ordering)].log_prob(location).isfinite()


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_ordered_means_in_any_unit(scale: float) -> None:
    model = HiddenMarkovModel(6, "gaussian", ordered=True)
    y = torch.tensor([[0.0, 1.0, 1.0, 3.0] * 4]) * scale
    values = starting_values(model, Sequences.from_tensors(y))
    assert_valid(model, values)
    assert 0 <= values["mean"].min() <= values["mean"].max() <= 3.3 * scale


def test_ordering_leaves_values_apart_alone() -> None:
    data, _ = planted(torch.tensor([[30.0], [0.0], [60.0]]), stay=0.9)
    free, ordered = (
        starting_values(HiddenMarkovModel(3, "gaussian", ordered=o), data) for o in (False, True)
    )
    for name, value in free.items():
        torch.testing.assert_close(value, ordered[name], msg=name)


def test_rates_near_each_other_are_drawn_apart_a_little() -> None:
    """Clusters of counts 100 and 101: rates that differ by more than rounding, by less than 5 %."""
    model = HiddenMarkovModel(3, "poisson", ordered=True)
    rate = starting_values(model, numbers(*[100.0, 101.0, 102.0] * 9))["rate"]
    ratio = rate[1:] / rate[:-1]
    assert (ratio > 1.0005).all()
    assert (ratio < 1.05).all()


# Fewer kinds of frames than states


def test_bits_of_three_states() -> None:
    """Two values, three states: told apart by their neighbours in time, none starts dead."""
    probs = torch.tensor([0.02, 0.5, 0.98])
    paths = torch.arange(3).repeat_interleave(40).repeat(5)
    data = Sequences.from_tensors(torch.bernoulli(probs[paths])[None, :, None])
    values = starting_values(HiddenMarkovModel(3, "bernoulli"), data)
    low, middle, high = values["probs"].tolist()
    assert low < 0.25 < middle < 0.75 < high
    assert values["transition"].min() > 1e-4


def test_more_states_than_symbols() -> None:
    """AABB…: the second letter of a pair has another past than the first."""
    data = Sequences.from_text(["aabb" * 20], alphabet="ab")
    values = starting_values(HiddenMarkovModel(4, Categorical(symbols=2)), data)
    assert values["probs"].max(-1).values.min() > 0.75
    assert values["transition"].max(-1).values.min() > 0.75  # the cycle of four is found


def test_no_state_starts_dead() -> None:
    """Constant data tell nothing; states are then equals."""
    values = starting_values(HiddenMarkovModel(4, "poisson"), numbers(*[3.0] * 2000))
    torch.testing.assert_close(values["rate"], torch.full((4,), 3.0, dtype=torch.float64))
    assert values["transition"].min() > 0.15


# Symbols


def test_symbols_are_grouped_by_their_neighbours() -> None:
    """Vowels and consonants of a made-up language that alternates them."""
    vowels, consonants = torch.arange(3), torch.arange(3, 9)
    y = torch.stack([vowels[torch.randint(3, (500,))], consonants[torch.randint(6, (500,))]], 1)
    data = Sequences.from_tensors(y.reshape(10, 100), codes=True)
    values = starting_values(HiddenMarkovModel(2, Categorical(symbols=9)), data)
    mass = values["probs"][:, :3].sum(-1)
    assert sorted((mass > 0.5).tolist()) == [False, True]
    assert ((mass < 0.2) | (mass > 0.8)).all()
    assert values["transition"].diagonal().max() < 0.02


def test_unused_symbols() -> None:
    data = Sequences.from_text(["ab" * 30, "ba" * 30])
    for states in (2, 3, 5):
        model = HiddenMarkovModel(states, Categorical(symbols=27))
        values = starting_values(model, data)
        assert_valid(model, values)
        assert (values["probs"][:, 2:].sum(-1) < 0.3).all()


def test_many_symbols_are_compared_by_groups_of_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """With neighbours in 20 groups, two blocks of 50 symbols are told apart; 0 missed of 100.

    Two symbols of one block share the law of their neighbours' groups; of different blocks, they
    share nothing but groups that hold both.
    """
    monkeypatch.setattr(start_module, "_NEIGHBOURS", 20)
    block = torch.arange(2).repeat_interleave(200).repeat(20)
    y = torch.randint(50, (len(block),)) + 50 * block
    data = Sequences.from_tensors(y[None], codes=True)
    values = starting_values(HiddenMarkovModel(2, Categorical(symbols=100)), data)
    inside = values["probs"][:, :50] > values["probs"][:, :50].flip(0)
    assert inside.all(-1).any()
    assert (~inside).all(-1).any()


def test_missing_symbols() -> None:
    data = Sequences.from_text(["a?b?" * 20 + "abab"], alphabet="ab", unknown="missing")
    model = HiddenMarkovModel(2, Categorical(symbols=2))
    values = starting_values(model, data)
    assert_valid(model, values)
    assert sorted(values["probs"].argmax(-1).tolist()) == [0, 1]


# Seeds


@pytest.mark.parametrize("start", STARTS)
def test_seeds_reproduce_and_leave_the_generator_alone(start: Start) -> None:
    model = HiddenMarkovModel(3, "poisson")
    data = simulated(model)
    before = torch.get_rng_state()
    one, same, other = (starting_values(model, data, start, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    if start != "kmeans":  # which finds the same clusters from almost anywhere
        assert not torch.equal(one["rate"], other["rate"])


def test_seeds_of_any_size() -> None:
    model = HiddenMarkovModel(2, "gaussian")
    for seed in (2**40, -1):
        assert_valid(model, starting_values(model, numbers(0, 1, 5, 6), seed=seed))


# Known parameters


def test_known_means_keep_their_states() -> None:
    """States named in no order, visited in turn; the widest is the second."""
    means, scales = torch.tensor([6.0, 0.0, 3.0]), torch.tensor([0.1, 0.8, 0.1])
    paths = torch.arange(300) % 3
    data = Sequences.from_tensors((means[paths] + scales[paths] * torch.randn(300))[None])
    model = HiddenMarkovModel(3, "gaussian").with_parameters(mean=means)
    values = starting_values(model, data)
    assert_valid(model, values)
    assert values["scale"].argmax() == 1
    assert values["transition"].argmax(-1).tolist() == [1, 2, 0]


@pytest.mark.parametrize("emission", ["categorical", "driven poisson"])
def test_known_emissions_keep_their_states(emission: str) -> None:
    """0 is followed by 1, 1 by 2, 2 by 0, and the states are named 2, 0, 1."""
    known: dict[str, Any] = {"probs": [[0.02, 0.02, 0.96], [0.96, 0.02, 0.02], [0.02, 0.96, 0.02]]}
    law: Emission = Categorical(symbols=3)
    if emission == "driven poisson":
        law = Regression(Poisson(), inputs=1)
        known = {"rate": [2.0, 0.01, 1.0], "input_weight": torch.zeros(3, 1, 1)}
    y = torch.arange(60) % 3
    model = HiddenMarkovModel(3, law).with_parameters(**known)
    data = read(model, Sequences.from_tensors(y[None], inputs=torch.ones(1, 60)))
    transition = starting_values(model, data)["transition"]
    assert transition.argmax(-1).tolist() == [1, 2, 0]


@pytest.mark.parametrize("seed", range(6))
def test_a_known_transition_names_the_states(seed: int) -> None:
    """Clusters in any order; 2000 steps tell rows of these matrices apart (0 of 300 seeds fail)."""
    torch.manual_seed(seed)
    states = 4
    stay = torch.tensor([0.95, 0.8, 0.6, 0.3])
    transition = torch.diag(stay) + ((1 - stay) / 3)[:, None] * (1 - torch.eye(states))
    means = 20.0 * torch.randperm(states)
    paths = torch.zeros(2000, dtype=torch.int64)
    for t in range(1, len(paths)):
        paths[t] = torch.multinomial(transition[paths[t - 1]], 1)[0]
    data = Sequences.from_tensors((means[paths] + torch.randn(len(paths)))[None])
    model = HiddenMarkovModel(states, "gaussian").with_parameters(transition=transition)
    mean = starting_values(model, data)["mean"]
    assert mean.argsort().tolist() == means.argsort().tolist()


def test_nothing_unknown() -> None:
    model = HiddenMarkovModel(1, "poisson").with_parameters(rate=[3.0])
    assert starting_values(model, numbers(1, 2)) == {}


def test_a_prior_that_excludes_the_data_keeps_its_draw() -> None:
    prior = dist.Uniform(10.0, 20.0).expand([2]).to_event(1)
    model = HiddenMarkovModel(2, "poisson", priors={"rate": prior})
    values = starting_values(model, numbers(1, 2, 9, 8))
    assert_valid(model, values)


# Values by name


def test_values_by_name() -> None:
    model = HiddenMarkovModel(2, FullGaussian(features=2))
    covariance = torch.tensor([[4.0, 1.0], [1.0, 1.0]]).expand(2, 2, 2)
    start = {"mean": torch.tensor([[0, 1], [2, 3]]), "covariance": covariance}
    values = starting_values(model, simulated(model), start)
    assert_valid(model, values)
    assert values["mean"].tolist() == [[0, 1], [2, 3]]
    torch.testing.assert_close(values["scale"].float(), torch.tensor([[2.0, 1.0]] * 2))
    factor = values["scale"].unsqueeze(-1) * values["correlation_factor"]
    torch.testing.assert_close(factor @ factor.mT, covariance.double())
    drawn = starting_values(model, simulated(model), "prior")
    assert torch.equal(drawn["transition"], values["transition"])


BAD: dict[str, tuple[Any, str]] = {
    "start": ("random", r"start: must be one of \('kmeans', 'frames', 'prior'\).*got 'random'"),
    "none": (None, "got None"),
    "name": ({"mean": torch.ones(2)}, "^mean: needs"),
    "shape": ({"rate": torch.ones(3)}, r"^rate: needs shape \(2,\), got \(3,\)"),
    "sign": ({"rate": torch.tensor([1.0, -1.0])}, "rate: needs values in"),
    "nan": ({"rate": torch.tensor([1.0, float("nan")])}, "^rate: needs"),
    "rows": ({"transition": torch.ones(2, 2)}, "transition: needs probabilities"),
    "edge": ({"transition": torch.eye(2)}, r"start\['transition'\]: needs values inside"),
    "known": ({"initial": torch.tensor([0.5, 0.5])}, r"not known to the model, got \['initial'\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_starts_are_named(case: str) -> None:
    start, message = BAD[case]
    model = HiddenMarkovModel(2, "poisson").with_parameters(initial=[0.3, 0.7])
    with pytest.raises(ValueError, match=message):
        starting_values(model, numbers(1, 2, 3), start)


def test_ordered_values_by_name_must_increase() -> None:
    model = HiddenMarkovModel(2, "poisson", ordered=True)
    with pytest.raises(ValueError, match="rate: needs values in"):
        starting_values(model, numbers(1, 2, 3), {"rate": torch.tensor([2.0, 1.0])})


def test_data_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="Poisson needs"):
        starting_values(HiddenMarkovModel(2, "poisson"), numbers(0.5, 1.5))


@dataclass(frozen=True)
class Shown(Categorical):
    """A law of somebody else's whose symbols are the states, often enough."""

    def labels(self, data: Sequences) -> Tensor:
        y, mask = self.observed(data)
        return torch.where(mask, y, -1)


def test_a_law_may_name_the_states() -> None:
    """Clusters of symbols come in any order; states that are named keep theirs."""
    data = Sequences.from_tensors(torch.randint(3, (5, 60)).repeat_interleave(4, 1))
    probs = starting_values(HiddenMarkovModel(3, Shown(3)), data)["probs"]
    assert torch.equal(probs.argmax(-1), torch.arange(3))


@dataclass(frozen=True)
class Halves(Gaussian):
    """A law of somebody else's that starts in its own way."""

    def start_chain(self, model: Any, data: Sequences, *, lloyd: bool) -> dict[str, Tensor] | None:
        if model.states != 2:
            return None
        y = data.values[data.mask].sort().values.chunk(2)
        return {"mean": torch.stack([half.mean() for half in y])}


def test_a_law_may_start_in_its_own_way() -> None:
    data = Sequences.from_arrays([[0.0, 1.0, 5.0, 7.0]])
    mean = starting_values(HiddenMarkovModel(2, Halves()), data)["mean"]
    torch.testing.assert_close(mean, torch.tensor([0.5, 6.0], dtype=torch.float64))
    many = Sequences.from_arrays([[0.0] * 50 + [3.0] * 50 + [9.0] * 50])
    apart = starting_values(HiddenMarkovModel(3, Halves()), many)["mean"]
    assert (apart.diff() > 2).all()  # by clusters, as of every other law
