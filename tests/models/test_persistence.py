"""Saving and loading: whole or not at all, bit for bit, and never by unpickling."""

import hashlib
import io
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
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
    Gamma,
    Gaussian,
    GaussianMixture,
    HiddenMarkovModel,
    Independent,
    InputTransition,
    LowRankGaussian,
    LowRankTransition,
    MatrixTransition,
    Multinomial,
    NegativeBinomial,
    NeuralEmission,
    NeuralTransition,
    Ordered,
    Poisson,
    Regression,
    Sequences,
    SparseTransition,
    StudentT,
    load_model,
    save_model,
)
from beliefzoo.models.data.storage import read_tensors, write_tensors
from beliefzoo.models.emissions.emission import Priors

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
    Gamma(2, shape=3.0),
    NegativeBinomial(),
    Independent(
        at=FullGaussian(2),
        hit=Bernoulli(),
        far=Regression(Poisson(), lags=1),
        columns={"at": ("x", "y")},
    ),
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


class Bumpy(dist.Normal):  # type: ignore[misc]
    """A distribution that is not Pyro's, with a setting that is no tensor."""

    def __init__(self, loc, scale, bumps=1, validate_args=None) -> None:
        self.bumps = bumps
        super().__init__(loc, scale, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        return Bumpy(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.bumps)

    def log_prob(self, value):
        return super().log_prob(value) * self.bumps


POSITIVE = {
    "gamma": dist.Gamma(2.0, 0.3),
    "lognormal": dist.LogNormal(0.3, 0.7),
    "exponential": dist.Exponential(0.3),
    "half-normal": dist.HalfNormal(2.0),
    "half-cauchy": dist.HalfCauchy(2.0),
    "inverse-gamma": dist.InverseGamma(3.0, 2.0),
    "uniform": dist.Uniform(1.0, 20.0),
    "weibull": dist.Weibull(2.0, 3.0),
    "pareto": dist.Pareto(1.0, 2.0),
    "chi2": dist.Chi2(torch.tensor(3.0)),
}
REAL = {
    "normal": dist.Normal(0.3, 0.7),
    "student-t": dist.StudentT(4.0, 0.3, 0.7),
    "cauchy": dist.Cauchy(0.3, 0.7),
    "laplace": dist.Laplace(0.3, 0.7),
    "gumbel": dist.Gumbel(0.3, 0.7),
    "soft-laplace": dist.SoftLaplace(0.3, 0.7),
    "stable": dist.Stable(1.5, 0.1, 0.7, 0.3),
    "own": Bumpy(torch.tensor(0.3), 0.7, bumps=3),
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
    "multivariate-factor": (
        "gaussian",
        "mean",
        dist.MultivariateNormal(torch.zeros(2), scale_tril=torch.tensor([[0.3, 0], [0.1, 0.7]])),
    ),
    "multivariate-precision": (
        "gaussian",
        "mean",
        dist.MultivariateNormal(torch.ones(2), precision_matrix=torch.tensor([[2.0, 1], [1, 3]])),
    ),
    "multivariate-low-rank": (
        "gaussian",
        "mean",
        dist.LowRankMultivariateNormal(torch.ones(2), torch.ones(2, 1), torch.ones(2)),
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


@dataclass(frozen=True)
class Volume:
    """A setting of a law that is a small record itself."""

    loudest: float
    unit: str | None = None


@dataclass(frozen=True)
class Told(Poisson):
    """A law whose settings are of every kind that can be told."""

    family: type = dist.Gamma
    settings: Mapping[str, Volume] = field(default_factory=dict)
    weights: torch.Tensor = field(default_factory=lambda: torch.ones(1))
    prior: dist.TorchDistribution = field(default_factory=lambda: dist.Gamma(2.0, 3.0))
    names: tuple[tuple[str, int | None], ...] = ()

    def priors(self, states: int) -> Priors:
        return {"rate": self.prior.expand([states]).to_event(1)}


def test_a_law_of_somebody_else_comes_back_as_the_librarys_do(tmp_path: Path) -> None:
    model = HiddenMarkovModel(3, Loud(2, spread=(3.0, 1.0)))
    loaded = load_model(save_model(model, tmp_path / "model.pt"))
    assert type(loaded.emission) is Loud
    assert loaded.emission == model.emission
    same_priors(model, loaded)


def test_settings_of_every_kind_come_back(tmp_path: Path) -> None:
    law = Told(
        typical=0.3,
        family=torch.distributions.Weibull,
        settings={"left": Volume(math.inf), "right": Volume(np.float32(0.1), "dB")},
        weights=torch.tensor([[0.1, math.nan]], dtype=torch.float64),
        prior=dist.LogNormal(0.1, 0.7),
        names=(("a", 1), ("b", None)),
    )
    model = HiddenMarkovModel(2, law)
    back = load_model(save_model(model, tmp_path / "model.pt"))
    told = back.emission
    assert isinstance(told, Told)
    assert told.family is torch.distributions.Weibull
    assert told.settings == law.settings
    assert torch.equal(told.weights.nan_to_num(7.0), law.weights.nan_to_num(7.0))
    assert told.weights.dtype == torch.float64
    assert (told.names, told.typical) == (law.names, law.typical)
    same_priors(model, back)


def hidden() -> Emission:
    """A law of a class that nobody can import."""

    @dataclass(frozen=True)
    class Inner(Poisson):
        pass

    return Inner()


class Loose(Poisson):
    """Its settings do not say what it is made from again."""

    def __init__(self) -> None:
        object.__setattr__(self, "words", {"loud"})


@dataclass
class Changing:
    """Not frozen."""

    loudest: float = 1.0


class Secretive(dist.Normal):  # type: ignore[misc]
    """Keeps an argument to itself, so that nobody knows what it was."""

    def __init__(self, loc, scale, secret=1.0) -> None:
        self._secret = secret
        super().__init__(loc, scale)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            HiddenMarkovModel(2, hidden()),
            r"model.emission: can save objects of classes that can be imported .*hidden.<locals>",
        ),
        (
            HiddenMarkovModel(2, Told(settings={"a": Changing()})),  # type: ignore[dict-item]
            r"model.emission.settings.0: can save plain values.*frozen dataclasses.* got Changing",
        ),
        (
            HiddenMarkovModel(2, Told(family=torch.nn.Tanh)),
            r"model.emission.family: can save plain values.* got <class 'torch.nn",
        ),
        (
            HiddenMarkovModel(2, Told(names={"a"})),  # type: ignore[arg-type]
            r"model.emission.names: can save plain values.* got {'a'}",
        ),
        (
            HiddenMarkovModel(
                2, "gaussian", priors={"mean": Secretive(torch.zeros(2), 1.0).to_event(1)}
            ),
            r"prior.mean.base_distribution: can save distributions that have the arguments.* got "
            r"Secretive.* without \['secret'\]",
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


def sealed(body: bytes) -> bytes:
    """The body of a file with its right checksum."""
    return b"beliefzoo model " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


class Intruder:
    """Says so if it is ever unpickled."""

    def __reduce__(self):
        return os.mkdir, (os.environ["BELIEFZOO_INTRUDER"],)


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_pickles_are_refused_and_not_run(write, tmp_path: Path, monkeypatch) -> None:
    trace = tmp_path / "intruder"
    monkeypatch.setenv("BELIEFZOO_INTRUDER", os.fspath(trace))
    path, held = tmp_path / "model.pt", io.BytesIO()
    write({"model": Intruder(), "tensors": {}}, held)
    for body in (held.getvalue(), sealed(held.getvalue())):
        path.write_bytes(body)
        with pytest.raises(ValueError, match=r"path: needs a whole .*, got '.*model.pt'"):
            load_model(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": torch.ones(1)}, r"with \['weights'\]"),
        ({"model": 3, "tensors": {}}, "whose 'model' is of type str, got .* with 3"),
        ({"model": "no json", "tensors": {}}, r"got '.*foreign.pt', which lacks .*Expecting value"),
        ({"model": "[]", "tensors": {}}, "whole description of a model, got '.*foreign.pt'"),
        ({"model": "[" * 10**5, "tensors": {}}, "a model, got .*foreign.pt.*RecursionError"),
        ({"model": "{}", "tensors": 3}, "whose 'tensors' is of type dict, got .* with 3"),
        ({"model": "{}", "tensors": {}}, "needs a model of format 2, got kind None, format None"),
        (
            {"model": json.dumps({"kind": "HiddenMarkovModel", "format": 99}), "tensors": {}},
            "format 99",
        ),
        (
            {
                "model": json.dumps({"kind": "beliefzoo.models:HiddenMarkovModel", "format": 2}),
                "tensors": {},
            },
            "path: needs a whole description of a model, got .* distorts it .*'arguments'",
        ),
    ],
)
def test_foreign_files_are_refused(content, message: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign.pt"
    write_tensors(path, content, "model")
    with pytest.raises(ValueError, match=message):
        load_model(path)


def change(path: Path, **changes: object) -> None:
    content = read_tensors(path, {"model": str}, "model")
    description = json.loads(content["model"])
    own = set(changes) & set(description)
    description |= {name: changes[name] for name in own}
    description["arguments"] |= {name: v for name, v in changes.items() if name not in own}
    write_tensors(path, content | {"model": json.dumps(description)}, "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"emission": {"kind": "beliefzoo.models:Secret"}},
            r"path: needs a frozen dataclass or a distribution that .* has .*:Secret'",
        ),
        (
            {"emission": {"kind": "beliefzoo.models:Poisson", "arguments": {"colour": 1}}},
            "lacks or distorts it .*colour",
        ),
        ({"emission": {"kind": "beliefzoo.models:Poisson"}}, "lacks or distorts it .*'arguments'"),
        ({"emission": {"tensor": "known.colour"}}, "lacks or distorts it .*'known.colour'"),
        ({"states": 0}, "states: must be a whole number >= 1"),
        ({"states": 3}, "rate: needs shape"),
        ({"priors": {"rate": {"kind": "eval"}}}, "needs .* as 'module:Class', got 'eval'"),
        ({"kind": "beliefzoo.models:Poisson"}, "needs a class of models from a file, got"),
    ],
)
def test_descriptions_that_were_tampered_with_are_refused(
    saved: Path, changes: dict, message: str
) -> None:
    change(saved, **changes)
    with pytest.raises(ValueError, match=message):
        load_model(saved)


@dataclass(frozen=True)
class Trap:
    """A class that is fit to be named, beside much that is not."""

    class Inner(dict):  # type: ignore[type-arg]
        """Of another kind."""

    def shout(self) -> None:
        raise AssertionError


HOSTILE = (
    *("os:system", "os:mkdir", "subprocess:Popen", "builtins:eval", "builtins:dict"),
    *("torch:load", "torch.nn:Linear", "importlib:import_module", "pathlib:Path", "os:path"),
    *("beliefzoo.models:load_model", "beliefzoo.models:Emission", "beliefzoo.models:persistence"),
    *("beliefzoo.models:Poisson.__class__", "beliefzoo.models:Poisson.priors.__globals__"),
    *("beliefzoo.models:__builtins__", "beliefzoo.models:__loader__.load_module"),
    *(f"{__name__}:Trap.Inner", f"{__name__}:Trap.shout", f"{__name__}:Trap.__class__"),
    *(f"{__name__}:Trap.__init__", f"{__name__}:Trap.__mro__", f"{__name__}:os.system"),
    *(f"{__name__}:Intruder", f"{__name__}:torch", f"{__name__}:"),
    *("os.system", "Poisson", "", ":", ":Poisson", "a:b:c", "os:", "os:..", "..os:system"),
)


@pytest.mark.parametrize("name", [*HOSTILE, None, 3, ["os:system"], {"kind": "os:system"}])
@pytest.mark.parametrize("place", ["model", "law", "setting", "prior"])
def test_a_file_names_laws_models_and_distributions_only(
    place: str, name: object, saved: Path
) -> None:
    """Whatever is of another kind is refused before it is called, whoever loaded its module."""
    made = {"kind": name, "arguments": {}}
    told: dict[str, object] = {
        "model": {"kind": name},
        "law": {"emission": made},
        "setting": {"transition": {"class": name}},
        "prior": {"priors": {"rate": made}},
    }
    change(saved, **told[place])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="path: "):
        load_model(saved)


def test_nothing_is_imported_without_permission(saved: Path, tmp_path: Path, monkeypatch) -> None:
    """A module that would be found is not loaded, unless it, or its package, is named."""
    package = tmp_path / "stranger_laws"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "counts.py").write_text(
        "from dataclasses import dataclass\n"
        "from beliefzoo.models import Poisson\n"
        "@dataclass(frozen=True)\n"
        "class Rare(Poisson):\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    change(saved, emission={"kind": "stranger_laws.counts:Rare", "arguments": {"typical": 0.5}})
    for allow in ((), ("stranger",), ("stranger_laws.reals",), ("counts",)):
        with pytest.raises(ValueError, match=r"path: names a class of the module 'stranger_laws."):
            load_model(saved, allow=allow)
    assert not {"stranger_laws", "stranger_laws.counts"} & set(sys.modules)
    try:
        for allow in (("stranger_laws",), ("stranger_laws.counts",)):
            assert type(load_model(saved, allow=allow).emission).__name__ == "Rare"
            assert sys.modules.pop("stranger_laws.counts")
            assert sys.modules.pop("stranger_laws")
        load_model(saved, allow=["stranger_laws"])
        assert load_model(saved).emission.typical == 0.5  # its module is loaded now
    finally:
        for name in ("stranger_laws.counts", "stranger_laws"):
            sys.modules.pop(name, None)


SCRIPT = """
import sys
from dataclasses import dataclass
from beliefzoo.models import HiddenMarkovModel, Poisson, load_model, save_model

if sys.argv[2] == "again":
    @dataclass(frozen=True)
    class Scripted(Poisson):
        pass

if len(sys.argv) > 3:
    save_model(HiddenMarkovModel(2, Scripted()), sys.argv[1])
try:
    print(load_model(sys.argv[1]).emission)
except ValueError as error:
    print(error)
"""


def test_a_class_of_a_script_is_found_where_the_script_defines_it(tmp_path: Path) -> None:
    """As in a notebook: ``__main__`` is whoever runs now."""
    (tmp_path / "script.py").write_text(SCRIPT)
    told = [
        subprocess.run(
            [sys.executable, tmp_path / "script.py", tmp_path / "model.pt", *arguments],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=120,
        ).stdout
        for arguments in (["again", "save"], ["again"], ["not"])
    ]
    assert told[0] == told[1] == "Scripted(features=1, typical=10.0, shape=1.0)\n"
    assert "that '__main__' has" in told[2]


def test_modules_that_cannot_be_imported_are_named(saved: Path) -> None:
    change(saved, emission={"kind": "no_such_module:Poisson", "arguments": {}})
    with pytest.raises(
        ValueError, match=r"import it before, or name it in allow=\['no_such_module"
    ):
        load_model(saved)
    with pytest.raises(ValueError, match=r"allow: must be a list of modules, such as \['no_such_"):
        load_model(saved, allow="no_such_module")
    with pytest.raises(ValueError, match=r"allow: must name modules to import, got 'no_such_mod"):
        load_model(saved, allow=["no_such_module"])


def test_a_crash_in_the_middle_leaves_the_old_file(saved: Path, monkeypatch) -> None:
    """Disk full, or an interrupt: neither half a file nor a stray one."""
    before = saved.read_bytes()

    for failure in (OSError("no space left"), KeyboardInterrupt()):

        def write_half(_file, failure=failure):
            raise failure

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", write_half)
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
    for path in (None, 3, b"model.pt", ["model.pt"]):
        for call in (load_model, lambda path: save_model(HiddenMarkovModel(1, "poisson"), path)):
            with pytest.raises(ValueError, match="path: must be the name of a file, got"):
                call(path)


def test_a_file_of_an_earlier_version_is_to_be_saved_again(tmp_path: Path) -> None:
    """It had no checksum."""
    torch.save({"model": "{}", "tensors": {}}, tmp_path / "old.pt")
    with pytest.raises(ValueError, match=r"old.pt', which .* an earlier version \(save it again"):
        load_model(tmp_path / "old.pt")
