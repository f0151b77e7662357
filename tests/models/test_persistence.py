"""Saving and loading: whole or not at all, bit for bit, and never by unpickling."""

import json
import os
import pickle
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch

from beliefzoo.inference import log_evidence
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
    MatrixTransition,
    Multinomial,
    NeuralEmission,
    NeuralTransition,
    Ordered,
    Poisson,
    Regression,
    Sequences,
    SparseTransition,
    StudentT,
    load_model,
    persistence,
    save_model,
)

EMISSIONS = [
    Categorical(3, concentration=0.5),
    Poisson(2, typical=3.3),
    Bernoulli(3, 0.7),
    Multinomial(3, trials=7),
    Gaussian(),
    Gaussian(2, location=(0.1, -3.0), spread=(1.5, 2.5)),
    FullGaussian(3),
    LowRankGaussian(4, rank=2),
    StudentT(2),
    GaussianMixture(2, components=3),
    Regression(Gaussian(2), inputs=1, lags=2, weight_scale=0.5),
    Regression(NeuralEmission(Poisson(), 3, 4), lags=1),
    NeuralEmission(Categorical(4), embedding=3, width=5),
]
TRANSITIONS = [
    MatrixTransition(0.5, sticky=3.0),
    InputTransition(1, sticky=1.0, weight_scale=0.3),
    NeuralTransition(embedding=3, width=5),
    LowRankTransition(2, concentration=0.5),
    BandedTransition((-1, 0, 1)),
    SparseTransition(((0, 1), (1, 2, 0), (2,), (3, 0)), concentration=2.0),
]


def same_priors(one: HiddenMarkovModel, other: HiddenMarkovModel) -> None:
    """The same names, and the same log densities of the same draws, to the last bit."""
    assert list(one.priors) == list(other.priors)
    for name, prior in one.priors.items():
        draw = prior.sample((4,))
        assert torch.equal(prior.log_prob(draw), other.priors[name].log_prob(draw))
        assert bool(other.priors[name].support.check(draw).all())


@pytest.mark.parametrize("emission", EMISSIONS, ids=repr)
def test_every_emission_comes_back(emission: Emission, tmp_path: Path) -> None:
    """Settings, priors, and known values bit for bit: the same evidence of the same data."""
    model = HiddenMarkovModel(3, emission)
    inputs = torch.randn(2, 4, 1) if model.inputs else None
    drawn = model.sample(2, [4, 3], seed=0, inputs=inputs)
    known = model.with_parameters(**drawn.parameters)
    for saved in (model, known):
        loaded = load_model(save_model(saved, tmp_path / "model.pt"))
        assert loaded.emission == saved.emission
        assert repr(loaded) == repr(saved)
        assert set(loaded.known) == set(saved.known)
        for name, value in saved.known.items():
            assert torch.equal(loaded.known[name], value)
            assert loaded.known[name].dtype == torch.float64
        same_priors(saved, loaded)
    assert torch.equal(log_evidence(loaded, drawn.data), log_evidence(known, drawn.data))
    again = load_model(save_model(loaded, tmp_path / "again.pt"))
    for name, value in known.known.items():
        assert torch.equal(again.known[name], value)


@pytest.mark.parametrize("transition", TRANSITIONS, ids=repr)
def test_every_transition_comes_back(transition, tmp_path: Path) -> None:
    model = HiddenMarkovModel(4, "poisson", transition=transition)
    loaded = load_model(save_model(model, tmp_path / "model.pt"))
    assert loaded.transition == transition
    same_priors(model, loaded)


def test_other_choices_come_back(tmp_path: Path) -> None:
    model = HiddenMarkovModel(
        3, "poisson", initial="stationary", ordered=True, sticky=2.0
    ).with_parameters(rate=[1 / 3, 2 / 3, 1.1])
    loaded = load_model(save_model(model, tmp_path / "model.pt"))
    assert (loaded.initial, loaded.ordered, loaded.states) == ("stationary", True, 3)
    assert loaded.transition == MatrixTransition(sticky=2.0)
    assert torch.equal(loaded.known["rate"], model.known["rate"])
    single = HiddenMarkovModel(1, "gaussian")
    assert load_model(save_model(single, tmp_path / "single.pt")).parameter_names == (
        "mean",
        "scale",
    )


def test_a_model_scaled_to_data_comes_back(tmp_path: Path) -> None:
    data = Sequences.from_arrays([[[0.1, 1e6], [0.3, 3e6]]])
    model = HiddenMarkovModel(2, NeuralEmission(FullGaussian(2), 3, 4)).scaled_to(data)
    loaded = load_model(save_model(model, tmp_path / "model.pt"))
    assert loaded.emission == model.emission
    same_priors(model, loaded)


POSITIVE = {
    "gamma": dist.Gamma(2.0, 0.3),
    "lognormal": dist.LogNormal(0.3, 0.7),
    "exponential": dist.Exponential(0.3),
    "half-normal": dist.HalfNormal(2.0),
    "half-cauchy": dist.HalfCauchy(2.0),
    "inverse-gamma": dist.InverseGamma(3.0, 2.0),
    "uniform": dist.Uniform(1.0, 20.0),
}
REAL = {
    "normal": dist.Normal(0.3, 0.7),
    "student-t": dist.StudentT(4.0, 0.3, 0.7),
    "cauchy": dist.Cauchy(0.3, 0.7),
    "laplace": dist.Laplace(0.3, 0.7),
}
CUSTOM = {
    **{name: ("poisson", "rate", p.expand([2]).to_event(1)) for name, p in POSITIVE.items()},
    **{name: ("gaussian", "mean", p.expand([2]).to_event(1)) for name, p in REAL.items()},
    "ordered": ("poisson", "rate", Ordered(POSITIVE["lognormal"].expand([2]).to_event(1))),
    "ordered-real": ("gaussian", "mean", Ordered(REAL["normal"].expand([2]).to_event(1))),
    "tensor": ("poisson", "rate", dist.Gamma(torch.tensor([1.0, 2.0]), 0.3).to_event(1)),
    "beta": ("bernoulli", "probs", dist.Beta(2.0, 3.0).expand([2]).to_event(1)),
    "ordered-beta": (
        "bernoulli",
        "probs",
        Ordered(dist.Beta(2.0, 3.0).expand([2]).to_event(1)),
    ),
    "dirichlet": ("poisson", "initial", dist.Dirichlet(torch.tensor([1.0, 5.0]))),
    "rows": (
        "poisson",
        "transition",
        dist.Dirichlet(torch.tensor([[1.0, 5.0], [2.0, 2.0]])).to_event(1),
    ),
    "multivariate": (
        "gaussian",
        "mean",
        dist.MultivariateNormal(torch.zeros(2), covariance_matrix=torch.tensor([[2.0, 1], [1, 3]])),
    ),
    "correlation": (
        FullGaussian(3),
        "correlation_factor",
        dist.LKJCholesky(3, 4.0).expand([2]).to_event(1),
    ),
}


@pytest.mark.parametrize(("emission", "name", "prior"), CUSTOM.values(), ids=CUSTOM)
def test_every_kind_of_prior_comes_back(emission, name, prior, tmp_path: Path) -> None:
    model = HiddenMarkovModel(2, emission, priors={name: prior})
    loaded = load_model(save_model(model, tmp_path / "model.pt"))
    assert type(loaded.priors[name]) is type(prior)
    same_priors(model, loaded)
    # Once its covariance was looked at, a law holds it beside the factor.
    _ = getattr(prior, "precision_matrix", None)
    same_priors(model, load_model(save_model(model, tmp_path / "model.pt")))


class Loud(Gaussian):
    """A law that is not the library's."""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            HiddenMarkovModel(2, Loud()),
            r"model: can save .*'BandedTransition', 'Bernoulli'.* got Loud",
        ),
        (
            HiddenMarkovModel(
                2,
                "poisson",
                priors={"rate": dist.Weibull(torch.ones(2), torch.ones(2)).to_event(1)},
            ),
            r"priors: can save \['Beta'.*Independent and Ordered of them, got Weibull",
        ),
    ],
)
def test_what_cannot_be_saved_is_refused_and_nothing_written(
    model: HiddenMarkovModel, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        save_model(model, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


# Files


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = HiddenMarkovModel(2, "poisson").with_parameters(rate=[1.0, 2.0])
    return save_model(model, tmp_path / "model.pt")


def test_every_truncation_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"path: needs a whole file written by beliefzoo, got"):
            load_model(saved)


class Intruder:
    """Says so if it is ever unpickled."""

    def __reduce__(self):
        return os.mkdir, (os.environ["BELIEFZOO_INTRUDER"],)


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_pickles_are_refused_and_not_run(write, tmp_path: Path, monkeypatch) -> None:
    trace = tmp_path / "intruder"
    monkeypatch.setenv("BELIEFZOO_INTRUDER", os.fspath(trace))
    path = tmp_path / "model.pt"
    with path.open("wb") as file:
        write({"model": Intruder(), "tensors": {}}, file)
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], r"path: needs a file with \['model', 'tensors'\], got .* with list"),
        ({"weights": torch.ones(1)}, r"with \['weights'\]"),
        ({"model": 3, "tensors": {}}, "other content under the same names"),
        ({"model": "no json", "tensors": {}}, "other content under the same names"),
        ({"model": "[]", "tensors": {}}, "other content under the same names"),
        ({"model": "{}", "tensors": 3}, "other content under the same names"),
        ({"model": "{}", "tensors": {}}, "needs a model of format 1, got kind None, format None"),
        (
            {"model": json.dumps({"kind": "HiddenMarkovModel", "format": 99}), "tensors": {}},
            "format 99",
        ),
        (
            {"model": json.dumps({"kind": "HiddenMarkovModel", "format": 1}), "tensors": {}},
            "path: needs a whole description of a model, got one that lacks or distorts 'priors'",
        ),
    ],
)
def test_foreign_files_are_refused(content, message: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        load_model(path)


def change(path: Path, **changes: object) -> None:
    content = torch.load(path, weights_only=True)
    description = json.loads(content["model"]) | changes
    torch.save(content | {"model": json.dumps(description)}, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"emission": {"kind": "Secret"}},
            r"path: needs a law of .*'BandedTransition', 'Bernoulli'.* got 'Secret'",
        ),
        ({"emission": {"kind": "Poisson", "colour": 1}}, "lacks or distorts .*colour"),
        ({"states": 0}, "states: must be a whole number >= 1"),
        ({"states": 3}, "rate: needs shape"),
        ({"priors": {"rate": {"kind": "eval"}}}, "lacks or distorts 'eval'"),
    ],
)
def test_descriptions_that_were_tampered_with_are_refused(
    saved: Path, changes: dict, message: str
) -> None:
    change(saved, **changes)
    with pytest.raises(ValueError, match=message):
        load_model(saved)


def test_a_crash_in_the_middle_leaves_the_old_file(saved: Path, monkeypatch) -> None:
    """Disk full, or an interrupt: neither half a file nor a stray one."""
    before = saved.read_bytes()

    for failure in (OSError("no space left"), KeyboardInterrupt()):

        def write_half(content, file, failure=failure):
            file.write(b"half")
            raise failure

        with monkeypatch.context() as patch:
            patch.setattr(persistence.torch, "save", write_half)
            with pytest.raises(type(failure)):
                save_model(HiddenMarkovModel(4, "gaussian"), saved)
        assert saved.read_bytes() == before
        assert [path.name for path in saved.parent.iterdir()] == ["model.pt"]
    assert load_model(saved).states == 2


def test_the_file_is_replaced_and_has_ordinary_permissions(saved: Path) -> None:
    plain = saved.parent / "plain"
    plain.touch()
    assert saved.stat().st_mode == plain.stat().st_mode
    save_model(HiddenMarkovModel(3, "gaussian"), saved)
    assert load_model(saved).states == 3
    assert load_model(os.fspath(saved)).states == 3


@pytest.mark.parametrize("place", ["", "missing/model.pt"])
def test_places_that_cannot_be_written_are_refused(place: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="path: needs a file in an existing folder, got"):
        save_model(HiddenMarkovModel(2, "poisson"), tmp_path / place)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path: needs an existing file, got '.*nothing.pt'"):
        load_model(tmp_path / "nothing.pt")
