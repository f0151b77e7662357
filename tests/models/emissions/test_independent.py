"""Mixed channels: products of families, columns by name, and a published figure."""

import csv
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    Fit,
    LSTMFilter,
    arviz_groups,
    filter,
    fit,
    forecast,
    log_evidence,
    to_arviz,
)
from beliefzoo.inference.checking.criteria import information_criteria
from beliefzoo.inference.exact.chains import log_evidence as evidence_of
from beliefzoo.inference.fitting.settings import FitSettings
from beliefzoo.models import (
    POMDP,
    Bernoulli,
    Categorical,
    ContinuousTimeHMM,
    DeepMarkovModel,
    Emission,
    FromDistribution,
    FullGaussian,
    Gaussian,
    HiddenMarkovModel,
    Independent,
    Misclassification,
    Model,
    NeuralEmission,
    NodeEmission,
    Poisson,
    Regression,
    Sequences,
    Uniform,
    UnreadWarning,
)

CHAIN = {"initial": [0.6, 0.4], "transition": [[0.9, 0.1], [0.2, 0.8]]}
RT = {"rt_mean": [-1.0, 2.0], "rt_scale": [0.7, 1.2]}
TWO = Independent(rt=Gaussian(), hit=Bernoulli())
KNOWN = HiddenMarkovModel(2, TWO).with_parameters(**CHAIN, **RT, hit_probs=[0.9, 0.3])


def estimate(model: Model, data: Sequences) -> Fit:
    guide = BeliefGuide(model, ExactFilter(), parameters="ml")
    return fit(model, guide, data, progress=False)


# The published figure


def responses(folder: Path) -> pd.DataFrame:
    """Response time and correctness of 439 trials, in three series."""
    with (folder / "reports" / "speed.csv").open() as file:
        rows = list(csv.DictReader(file))
    series = [0] * 168 + [1] * 134 + [2] * 137
    columns = {
        "correct": [float(row["corr"] == "cor") for row in rows],
        "rt": [float(row["rt"]) for row in rows],
        "payoff": [float(row["Pacc"]) for row in rows],
        "series": series,
    }
    return pd.DataFrame(columns)


def test_published_response_times_and_errors(shared_data):
    """depmixS4's ``speed``, rt Gaussian and corr binary, in series of 168, 134 and 137 trials.

    The figure printed in its tests, −296.115107102, is that at the rounded values here. The maximum
    is a little above: −296.107778, which SciPy's BFGS finds from three starts.
    """
    data = Sequences.from_frame(
        responses(shared_data), sequence="series", columns=["rt", "correct"]
    )
    model = HiddenMarkovModel(2, Independent(rt=Gaussian(), correct=Bernoulli()))
    printed = model.with_parameters(
        initial=[1, 0],
        transition=[[0.916, 0.084], [0.101, 0.899]],
        rt_mean=[6.39, 5.52],
        rt_scale=[0.24, 0.202],
        correct_probs=[0.902, 0.528],
    )
    assert float(log_evidence(printed, data).sum()) == pytest.approx(-296.115107102, abs=1e-9)
    result = estimate(model, data)
    assert result.converged
    assert float(log_evidence(result.fitted, data).sum()) == pytest.approx(-296.107778, abs=1e-5)
    found = {name: value.numpy() for name, value in result.fitted.known.items()}
    np.testing.assert_allclose(found["rt_mean"], [5.520537, 6.391761], atol=1e-4)
    np.testing.assert_allclose(found["rt_scale"], [0.202288, 0.239627], atol=1e-4)
    np.testing.assert_allclose(found["correct_probs"], [0.527934, 0.901484], atol=1e-4)
    np.testing.assert_allclose(found["transition"].diagonal(), [0.898849, 0.916403], atol=1e-4)
    assert information_criteria(result, data).parameters == 9
    assert "correct_probs[1]" in str(result)


# The density


def test_the_table_is_the_sum_of_those_of_the_channels():
    """log O of a product is the sum of the families' own; the chain is the same."""
    data = with_gaps(KNOWN.sample(4, [7, 3, 5, 6], seed=0).data)
    laws = KNOWN.laws({}, data)
    alone = [
        HiddenMarkovModel(2, family).with_parameters(**CHAIN, **values).laws({}, data.select(name))
        for name, family, values in (
            ("rt", Gaussian(), {"mean": RT["rt_mean"], "scale": RT["rt_scale"]}),
            ("hit", Bernoulli(), {"probs": [0.9, 0.3]}),
        )
    ]
    table = alone[0].log_likelihood + alone[1].log_likelihood
    torch.testing.assert_close(laws.log_likelihood, table, rtol=1e-14, atol=1e-14)
    chain = laws.log_initial, laws.log_transition, table, laws.lengths
    torch.testing.assert_close(log_evidence(KNOWN, data), evidence_of(*chain), rtol=1e-13, atol=0)


def with_gaps(data: Sequences) -> Sequences:
    """A quarter of the elements missing, each by itself."""
    kept = torch.rand(data.values.shape, generator=torch.Generator().manual_seed(3)) > 0.25
    kept[:, 0] = True
    mask = kept & data.step_mask.unsqueeze(-1)
    return Sequences.from_tensors(
        data.values, mask, lengths=data.lengths, features=data.features, labels=data.labels
    )


def test_a_missing_channel_is_integrated_out():
    """A bit by its two values, a number by a sum over a fine grid."""
    whole = KNOWN.sample(1, 6, seed=2).data
    mask = whole.mask.clone()
    mask[0, 2, 1] = mask[0, 4, 0] = False
    data = Sequences.from_tensors(whole.values, mask, features=whole.features)
    step = 0.01
    grid = torch.arange(-14, 16, step, dtype=torch.float64)
    values = whole.values.repeat(2 * len(grid), 1, 1)
    values[:, 4, 0] = grid.repeat(2)
    values[:, 2, 1] = torch.tensor([0.0, 1.0]).repeat_interleave(len(grid))
    every = Sequences.from_tensors(values, features=whole.features)
    total = log_evidence(KNOWN, every).logsumexp(0) + math.log(step)
    assert float(log_evidence(KNOWN, data)) == pytest.approx(float(total), abs=1e-10)


@pytest.mark.parametrize(
    "family",
    [Gaussian(), FullGaussian(2), Poisson(), Categorical(3), FromDistribution(dist.Gamma)],
    ids=repr,
)
def test_a_single_channel_is_the_bare_family(family: Emission):
    """The same evidence, and the same maximum of the same parameters."""
    truth = HiddenMarkovModel(2, family).sample(4, 40, seed=5)
    columns = {"y": tuple("ab"[: family.features])}
    one = HiddenMarkovModel(2, Independent(y=family, columns=columns))
    bare = HiddenMarkovModel(2, family).with_parameters(**truth.parameters)
    named = {n if n in CHAIN else f"y_{n}": v for n, v in truth.parameters.items()}
    numbers = Sequences.from_arrays([x.reshape(len(x), -1) for x in truth.data.arrays()])
    found = log_evidence(one.with_parameters(**named), numbers)
    torch.testing.assert_close(found, log_evidence(bare, truth.data), rtol=1e-13, atol=0)
    if not family.codes:
        both = (estimate(HiddenMarkovModel(2, family), truth.data), estimate(one, numbers))
        heights = [
            float(log_evidence(result.fitted, data).sum())
            for result, data in zip(both, (truth.data, numbers), strict=True)
        ]
        assert heights[0] == pytest.approx(heights[1], abs=1e-6)


@pytest.mark.parametrize(("unit", "origin"), [(1e-9, 0.0), (1e9, 1e12), (1.0, 1e8)])
def test_a_fit_does_not_know_the_unit_of_a_column(unit, origin):
    """One column in another unit, the other as it is: the maximum moves by n log(unit) alone."""
    data = KNOWN.sample(2, 100, seed=1).data
    data = Sequences.from_tensors((data.values * 2**12).round() / 2**12, features=data.features)
    moved = data.values.clone()
    moved[..., 0] = origin + unit * moved[..., 0]
    there = Sequences.from_tensors(moved, features=data.features)
    heights = [
        float(log_evidence(estimate(HiddenMarkovModel(2, TWO), one).fitted, one).sum())
        for one in (data, there)
    ]
    assert heights[0] == pytest.approx(heights[1] + 200 * math.log(unit), abs=1e-3)


# Names


def frame() -> pd.DataFrame:
    data = KNOWN.sample(1, 8, seed=0).data
    rt, hit = data.values[0].T.numpy()
    return pd.DataFrame({"hit": hit, "other": 3.0, "rt": rt})


def test_columns_are_read_by_name():
    """In the right order, or refused before a fit as after it; never exchanged silently."""
    table = frame()
    right = Sequences.from_frame(table, columns=["rt", "hit"])
    evidence = float(log_evidence(KNOWN, right))
    assert evidence == pytest.approx(float(log_evidence(KNOWN, KNOWN.sample(1, 8, seed=0).data)))
    message = r"data.features: must be \('rt', 'hit'\), in this order, .*columns=\[…\].*, got"
    for columns in (["hit", "rt"], ["rt", "other"], None):
        with pytest.raises(ValueError, match=message):
            log_evidence(KNOWN, Sequences.from_frame(table, columns=columns))
        with pytest.raises(ValueError, match=message):
            estimate(HiddenMarkovModel(2, TWO), Sequences.from_frame(table, columns=columns))
    places = Sequences.from_arrays(right.arrays())  # without names, by their places
    assert float(log_evidence(KNOWN, places)) == evidence


def test_a_model_keeps_the_names_of_its_columns():
    drawn = KNOWN.sample(2, 4, seed=0).data
    assert drawn.features == ("rt", "hit")
    named = KNOWN.named_after(Sequences.from_arrays([[0.5, 1.0]]))
    assert named.names.features == ("rt", "hit")
    codes = Sequences.from_arrays([[0, 1]], codes=True)
    with pytest.raises(ValueError, match=r"needs columns \('rt', 'hit'\).*got integer codes"):
        log_evidence(KNOWN, codes)


def test_exported_axes_are_those_of_the_channels():
    """Two channels may have features and symbols of their own."""
    emission = Independent(
        at=FullGaussian(2), kind=Categorical(3), went=Gaussian(2), columns=BLOCKS
    )
    model = HiddenMarkovModel(2, emission)
    data = model.sample(2, 6, seed=0).data
    guide = BeliefGuide(model, LSTMFilter(3))
    result = fit(model, guide, data, settings=FitSettings(steps=2), progress=False)
    posterior = arviz_groups.group(to_arviz(result, data, draws=4), "posterior")
    assert posterior["at_mean"].dims == ("chain", "draw", "state", "at_feature")
    assert posterior["at_correlation_factor"].dims[-2:] == ("at_feature", "at_feature_from")
    assert posterior["kind_probs"].dims[-1] == "kind_symbol"
    assert posterior["went_scale"]["went_feature"].to_numpy().tolist() == ["u", "v"]
    assert posterior["at_mean"]["at_feature"].to_numpy().tolist() == ["x", "y"]


BLOCKS = {"at": ("x", "y"), "went": ("u", "v")}


def test_convenient_parameters_have_the_name_of_the_channel():
    """ "left_hand" begins with "left", which has a covariance too."""
    columns = {"left": ("x", "y"), "left_hand": ("u", "v")}
    emission = Independent(left=FullGaussian(2), left_hand=FullGaussian(2), columns=columns)
    model = HiddenMarkovModel(1, emission).with_parameters(
        left_covariance=[[[4, 1], [1, 1]]], left_hand_covariance=[[[9, 0], [0, 1]]]
    )
    assert model.known["left_scale"].tolist() == [[2, 1]]
    assert model.known["left_hand_scale"].tolist() == [[3, 1]]
    with pytest.raises(ValueError, match="left_covariance: needs symmetric positive definite"):
        HiddenMarkovModel(1, emission).with_parameters(left_covariance=[[[1, 2], [2, 1]]])
    with pytest.raises(ValueError, match="right_mean: needs the name of a parameter"):
        model.with_parameters(right_mean=[0.0])


# What else a model does


def test_states_are_sorted_by_the_first_channel_that_can():
    emission = Independent(kind=Categorical(2), rt=Gaussian(), hit=Bernoulli())
    model = HiddenMarkovModel(2, emission, ordered=True)
    assert model.ordering == ("rt_mean", None)
    assert HiddenMarkovModel(2, emission, ordered="hit_probs").ordering == ("hit_probs", None)
    assert bool((model.priors["rt_mean"].sample((50,)).diff(dim=-1) >= 0).all())


def test_a_forecast_has_the_mean_of_each_column():
    """A mean of numbers and bits, by hand; of symbols, which have none, their probabilities."""
    emission = Independent(rt=Gaussian(), kind=Categorical(3), hit=Bernoulli())
    model = HiddenMarkovModel(2, emission).with_parameters(
        **CHAIN, **RT, kind_probs=[[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]], hit_probs=[0.9, 0.3]
    )
    data = model.sample(3, 5, seed=0).data
    found = forecast(model, data, steps=2, draws=20000, seed=0)
    chance = filter(model, data)[:, -1] @ model.known["transition"]
    expected = chance @ torch.tensor([[-1.0, 0.9], [2.0, 0.3]], dtype=torch.float64)
    torch.testing.assert_close(found.mean[:, 0, [0, 2]], expected)
    assert bool(found.mean[..., 1].isnan().all())
    assert list(found.symbols) == ["kind"]
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]], dtype=torch.float64)
    torch.testing.assert_close(found.symbols["kind"][:, 0], chance @ probs)
    drawn = found.draws.double().mean(0)  # 20 000 draws: 5 standard errors of at most 2 / 141
    assert float((drawn - found.mean)[..., [0, 2]].abs().max()) < 0.08
    assert set(found.draws[..., 1].unique().tolist()) == {0, 1, 2}


def test_channels_have_inputs_and_lags_of_their_own():
    """rt follows an input, count its own past; against the two families by themselves."""
    rt, count = Regression(Gaussian(), inputs=1), Regression(Poisson(), lags=1)
    emission = Independent(rt=rt, count=count, hit=FromDistribution(dist.Bernoulli))
    model = HiddenMarkovModel(2, emission)
    inputs = torch.randn(3, 6, 1, dtype=torch.float64)
    drawn = model.sample(3, 6, seed=1, inputs=inputs)
    known = model.with_parameters(**drawn.parameters)
    laws, total = known.laws({}, drawn.data), 0
    for name, family in (("rt", rt), ("count", count), ("hit", emission.families[2])):
        own = {
            n.removeprefix(f"{name}_"): value
            for n, value in drawn.parameters.items()
            if n in CHAIN or n.startswith(f"{name}_")
        }
        view = drawn.data.select(name)
        view = view if family.inputs else view.without("inputs")
        one = HiddenMarkovModel(2, family).with_parameters(**own)
        total = total + one.laws({}, view).log_likelihood
    torch.testing.assert_close(laws.log_likelihood, total, rtol=1e-12, atol=1e-12)
    ahead = forecast(known, drawn.data, steps=2, inputs=torch.zeros(3, 2, 1), draws=10, seed=0)
    assert ahead.mean.shape == (3, 2, 3)


def test_inputs_that_a_channel_does_not_read_are_warned_of():
    class Deaf(Gaussian):
        def score(self, parameters, y, mask, shift=None):
            return super().score(parameters, y, mask)

    with pytest.warns(UnreadWarning, match="Deaf gives the same with and without"):
        HiddenMarkovModel(2, Independent(rt=Regression(Deaf(), inputs=1), hit=Bernoulli()))


def test_a_disease_seen_by_its_stages_and_a_marker():
    """Misclassified states as a channel: the numbers of the states keep their meaning."""
    emission = Independent(stage=Misclassification(3, [(0, 1), (1, 0)]), marker=Gaussian())
    model = ContinuousTimeHMM(3, emission, jumps=[(0, 1), (1, 2)])
    assert not model.reorderable
    known = model.with_parameters(
        initial=[1, 0, 0],
        jump_rate=[0.5, 0.3],
        stage_error=[0.1, 0.2],
        marker_mean=[0.0, 2.0, 4.0],
        marker_scale=[1.0, 1.0, 1.0],
    )
    times = torch.arange(12, dtype=torch.float64)
    data = with_times(with_gaps(known.sample(40, 12, seed=0, times=times).data), times)
    found = estimate(model, data).fitted.known["marker_mean"]
    assert bool((found - torch.tensor([0.0, 2.0, 4.0])).abs().max() < 0.5)  # sd of .1


def with_times(data: Sequences, times: torch.Tensor) -> Sequences:
    return Sequences.from_tensors(data.values, data.mask, times=times, features=data.features)


def test_a_decision_process_shows_several_things():
    emission = Independent(rt=Gaussian(), kind=Categorical(3))
    process = POMDP(2, emission, actions=2)
    drawn = process.sample_parameters()
    known = process.with_parameters(**drawn)
    episodes = known.rollout(Uniform(), 3, 6, seed=0)
    assert episodes.data.features == ("rt", "kind")
    assert bool(log_evidence(known, episodes.data).isfinite().all())
    assert process.parameter_dims()["kind_probs"] == ("action", "state", "kind_symbol")


def test_networks_read_numbers_in_their_scale_and_symbols_as_one_hot_vectors():
    """Zero where missing, with a flag for each column; against the same by hand."""
    model = HiddenMarkovModel(2, Independent(rt=Gaussian(), kind=Categorical(3)))
    data = with_gaps(model.sample(2, [6, 4], seed=0).data)
    network = LSTMFilter(2)
    network.build(model)
    network.calibrate(model, data)
    got = network.channels(model.laws(model.sample_parameters(), data)).double()
    y, seen = data.values.numpy(), data.mask.numpy()
    rt = (y[..., 0] - y[..., 0][seen[..., 0]].mean()) / y[..., 0][seen[..., 0]].std()
    read = np.concatenate([rt[..., None], np.eye(3)[y[..., 1].astype(int)]], -1)
    expected = np.concatenate([read * seen[..., [0, 1, 1, 1]], ~seen], -1)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("emission", "message"),
    [
        (lambda: Independent(), "channels: needs a family at least, got none"),
        (lambda: Independent(rt="gaussian"), "rt: must be an Emission of one step.* 'gaussian'"),
        (lambda: Independent(a=TWO), "a: must be an Emission of one step"),
        (lambda: Independent(a=NodeEmission(1, Gaussian())), "a: must be an Emission of one step"),
        (lambda: Independent(at=FullGaussian(2)), r"columns: needs 2 name\(s\) for 'at'"),
        (
            lambda: Independent(at=FullGaussian(2), columns={"at": "x"}),
            r"columns: needs 2 name\(s\) for 'at'",
        ),
        (lambda: Independent(a=Gaussian(), columns={"b": "x"}), r"columns: .* names of channels"),
        (lambda: Independent(a=Gaussian(), columns={"a": 3}), "columns: must be names of columns"),
        (lambda: Independent(a=Gaussian(), columns="ab"), "columns: must be names of columns"),
        (
            lambda: Independent(a=Gaussian(), b=Gaussian(), columns={"b": "a"}),
            r"columns: must belong to one channel each, got \['a'\]",
        ),
        (lambda: Independent(transition=Gaussian()), "channels: must be Python names that do not"),
        (lambda: Independent(lag1=Gaussian()), "channels: must be Python names that do not"),
        (lambda: Independent(**{"r t": Gaussian()}), "channels: must be Python names"),
        (
            lambda: Independent(
                a=Regression(Gaussian(), inputs=1), b=Regression(Gaussian(), inputs=2)
            ),
            r"channels: must read the same input columns, got \[1, 2\]",
        ),
        (lambda: Independent(families=(Gaussian(),)), r"families: needs one each for \[\] alone"),
        (
            lambda: Regression(Independent(a=Regression(Gaussian(), lags=1)), inputs=1),
            "base: must read no inputs and no lags of its own",
        ),
        (
            lambda: NeuralEmission(Independent(a=Regression(Gaussian(), lags=1))),
            "base: must read no inputs and no lags of its own",
        ),
        (
            lambda: DeepMarkovModel(1, Independent(a=Regression(Gaussian(), lags=1))),
            "emission: must read no inputs and no lags of its own",
        ),
    ],
)
def test_channels_that_cannot_be_are_refused(emission, message):
    with pytest.raises(ValueError, match=message):
        emission()


def test_a_value_outside_its_family_is_named_by_column_and_step():
    data = Sequences.from_arrays([[[0.5, 1.0], [0.7, 2.0]]], features=["rt", "hit"])
    message = (
        r"data: column 'hit': Bernoulli needs values 0 or 1, got \[2.0\] in sequence '0', step 1"
    )
    with pytest.raises(ValueError, match=message):
        KNOWN.check(data)
    symbols = HiddenMarkovModel(1, Independent(rt=Gaussian(), hit=Categorical(2)))
    with pytest.raises(ValueError, match=r"data: column 'hit': .*codes 0 to 1, got 2 in sequence"):
        symbols.check(data)
    halves = Sequences.from_arrays([[[0.5, 0.5]]], features=["rt", "hit"])
    with pytest.raises(ValueError, match="data: column 'hit': codes"):
        symbols.check(halves)


@pytest.mark.parametrize("names", [(), ("rt", "rt"), ("hit", "other")])
def test_features_are_selected_by_different_names(names):
    data = KNOWN.sample(1, 3, seed=0).data
    with pytest.raises(
        ValueError, match=r"features must be different ones of \('rt', 'hit'\); got"
    ):
        data.select(*names)
    assert data.select("hit", "rt").select("rt").arrays()[0].shape == (3, 1)
    with pytest.raises(ValueError, match="none, since they are codes"):
        Sequences.from_arrays([[0, 1]], codes=True).select("code")
