"""Laws, filters, guides and models of somebody else do all that the library's own do.

The modules beside this one are written as a user would write them: they import the two faces of the
library, and nothing in the library names them.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats

import oracles
from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    Fit,
    FitSettings,
    ForwardGuide,
    Guide,
    LSTMFilter,
    MeanFieldGuide,
    NetworkFilter,
    evidence_gap,
    filter,
    fit,
    forecast,
    importance,
    load_fit,
    log_evidence,
    most_likely_states,
    nuts,
    predict,
    sample_states,
    save_fit,
    smooth,
    step_log_likelihood,
    to_arviz,
    weighted_evidence,
)
from beliefzoo.inference.exact import chains as exact
from beliefzoo.inference.exact.structured import Sparse
from beliefzoo.inference.queries import batches, structures
from beliefzoo.models import (
    Bernoulli,
    DeepMarkovModel,
    GaussianBelief,
    HiddenMarkovModel,
    Independent,
    LinearGaussianSSM,
    Model,
    NeuralEmission,
    Regression,
    Sequences,
    load_model,
    save_model,
)
from strangers.my_answers import Gamma, OneRate
from strangers.my_dynamics import Forgetful
from strangers.my_emission import Waiting
from strangers.my_filter import Attention, Glance, Habit, Leaky
from strangers.my_guide import Cautious
from strangers.my_model import ChangePoints, Fog
from strangers.my_transition import Ring, Somewhere, Tide

HERE = Path(__file__).parent
SHORT = FitSettings(
    steps=4, sleep_steps=2, holdout=0, patience=None, checkpoint_every=2, evaluate_every=1
)

pytestmark = pytest.mark.filterwarnings("ignore:fit:UserWarning")


def waiting() -> Model:
    return HiddenMarkovModel(2, Waiting(2))


def regressing() -> Model:
    return HiddenMarkovModel(2, Regression(Waiting(1), lags=1))


def mixed() -> Model:
    return HiddenMarkovModel(2, Independent(wait=Waiting(1), hit=Bernoulli()))


def neural() -> Model:
    return HiddenMarkovModel(2, NeuralEmission(Waiting(2), 2, 3))


def deep() -> Model:
    return DeepMarkovModel(2, Waiting(2), transition_width=3, emission_width=3)


def ring() -> Model:
    return HiddenMarkovModel(3, "gaussian", transition=Ring(3), initial=Somewhere(3))


def forgetful() -> Model:
    return LinearGaussianSSM(Forgetful())


def summed() -> Model:
    return LinearGaussianSSM(Forgetful(), 2, correlated=True)


class Case(NamedTuple):
    """A model, and a guide for it."""

    model: Callable[[], Model]
    guide: Callable[[Model], Guide]


CASES = {
    "emission": Case(waiting, lambda model: BeliefGuide(model, LSTMFilter(3))),
    "emission, exact": Case(waiting, lambda model: BeliefGuide(model, ExactFilter())),
    "emission, base": Case(regressing, lambda model: ForwardGuide(model, LSTMFilter(3))),
    "emission, channel": Case(mixed, lambda model: BeliefGuide(model, LSTMFilter(3))),
    "emission, neural": Case(neural, lambda model: BeliefGuide(model, ExactFilter())),
    "transition": Case(ring, lambda model: ForwardGuide(model, LSTMFilter(3))),
    "dynamics": Case(forgetful, lambda model: BeliefGuide(model, LSTMFilter(3))),
    "dynamics, two": Case(summed, lambda model: ForwardGuide(model, LSTMFilter(3))),
    "filter by hand": Case(waiting, lambda model: BeliefGuide(model, Glance(2.0))),
    "filter with weights": Case(ring, lambda model: ForwardGuide(model, Leaky(0.3))),
    "filter of a number": Case(forgetful, lambda model: BeliefGuide(model, Habit(0.4))),
    "network": Case(waiting, lambda model: BeliefGuide(model, NetworkFilter(Attention(4)))),
    "network, ahead": Case(
        ring, lambda model: ForwardGuide(model, NetworkFilter(Attention(2), causal=False))
    ),
    "network, linear": Case(
        forgetful, lambda model: BeliefGuide(model, NetworkFilter(Attention(2)))
    ),
    "guide": Case(waiting, lambda model: Cautious(model, LSTMFilter(3), trust=0.7)),
    "guide, exact": Case(ring, lambda model: Cautious(model, ExactFilter())),
    "model": Case(ChangePoints, lambda model: BeliefGuide(model, LSTMFilter(3))),
    "model, exact": Case(lambda: ChangePoints(2), lambda model: BeliefGuide(model, ExactFilter())),
    "linear model": Case(Fog, lambda model: BeliefGuide(model, LSTMFilter(3))),
    "linear model, filter": Case(lambda: Fog(0.3), lambda model: MeanFieldGuide(model, Habit())),
    "model, filter": Case(lambda: ChangePoints(1), lambda model: BeliefGuide(model, Leaky(0.3))),
}
NONLINEAR = Case(deep, lambda model: BeliefGuide(model, NetworkFilter(Attention(4))))
MODELS = {name: CASES[name].model for name in ("emission", "emission, base", "transition")} | {
    name: CASES[name].model for name in ("dynamics", "dynamics, two", "model", "linear model")
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def drawn(model: Model) -> tuple[Model, Sequences]:
    """The model at parameters that it draws, and data from it, one number missing."""
    simulation = model.sample(4, [6, 5, 6, 3], seed=1)
    data = simulation.data
    mask = data.mask.clone()
    mask[0, 2] = False
    values = torch.where(mask, data.values, 0)
    known = model.with_parameters(**simulation.parameters)
    return known, Sequences.from_tensors(values, mask=mask, lengths=data.lengths)


def fitted(case: Case, **options: object) -> tuple[Fit, Sequences]:
    model = case.model()
    _, data = drawn(model)
    torch.manual_seed(5)
    guide = case.guide(model)
    return fit(model, guide, data, settings=SHORT, progress=False, **options), data


def test_strangers_import_the_faces_alone():
    for path in sorted(HERE.glob("my_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            ours = {name for name in names if name.startswith("beliefzoo")}
            assert ours <= {"beliefzoo.models", "beliefzoo.inference"}, path.name


# The numbers


def sums(model: Model, data: Sequences, log_likelihood: np.ndarray) -> list[oracles.Posterior]:
    laws = model.laws({}, data)
    first, moves = laws.log_initial[0].numpy(), laws.log_transition[0, 0].numpy()
    out = []
    for n, length in enumerate(data.lengths.tolist()):
        table = np.broadcast_to(moves, (length - 1, *moves.shape))
        out.append(oracles.posterior(first, table, log_likelihood[n, :length]))
    return out


def scored(law: Callable[[int], object], data: Sequences, states: int) -> np.ndarray:
    """log O_k(y_t) of every state by SciPy, nothing where nothing was seen."""
    each = np.stack(
        [law(state).logpdf(data.values.double().numpy()) for state in range(states)],  # type: ignore[attr-defined]
        -2,
    )
    return np.where(data.mask.numpy()[:, :, None], each, 0).sum(-1)


def test_a_strange_emission_gives_the_sum_over_all_paths():
    model, data = drawn(waiting())
    pace = model.known["pace"].numpy()
    told = scored(lambda state: stats.expon(scale=1 / pace[state]), data, 2)
    with np.errstate(divide="ignore"):
        expected = sums(model, data, told)
    for n, one in enumerate(expected):
        assert float(log_evidence(model, data)[n]) == pytest.approx(one.log_evidence, abs=1e-10)
        beliefs = smooth(model, data)[n, : len(one.marginals)]
        np.testing.assert_allclose(beliefs, one.marginals, atol=1e-10)


def test_strange_laws_of_a_chain_give_the_sum_over_all_paths():
    model, data = drawn(ring())
    mean, scale = (model.known[name].numpy() for name in ("mean", "scale"))
    told = scored(lambda state: stats.norm(mean[state], scale[state]), data, 3)
    turn = model.known["turn"].numpy()
    moves = np.array([[turn[1], turn[2], turn[0]], [turn[0], turn[1], turn[2]]])
    moves = np.log(np.vstack([moves, [turn[2], turn[0], turn[1]]]))
    for n, length in enumerate(data.lengths.tolist()):
        table = np.broadcast_to(moves, (length - 1, 3, 3))
        expected = oracles.posterior(np.log(np.ones(3) / 3), table, told[n, :length])
        assert float(log_evidence(model, data)[n]) == pytest.approx(
            expected.log_evidence, abs=1e-10
        )


def test_a_strange_model_gives_the_sum_over_all_paths():
    model, data = drawn(ChangePoints(2))
    hazard, rate = float(model.known["hazard"]), model.known["rate"].numpy()
    told = np.stack([stats.poisson(r).logpmf(data.values.numpy()) for r in rate], -2)
    told = np.where(data.mask.numpy()[:, :, None], told, 0).sum(-1)
    moves = np.array([[1 - hazard, hazard, 0], [0, 1 - hazard, hazard], [0, 0, 1]])
    with np.errstate(divide="ignore"):
        first, moves = np.log([1.0, 0.0, 0.0]), np.log(moves)
    for n, length in enumerate(data.lengths.tolist()):
        table = np.broadcast_to(moves, (length - 1, 3, 3))
        expected = oracles.log_evidence(first, table, told[n, :length])
        assert float(log_evidence(model, data)[n]) == pytest.approx(expected, abs=1e-10)


def test_strange_dynamics_give_the_density_of_all_observations():
    model, data = drawn(forgetful())
    keep, shock = (float(model.known[name]) for name in ("keep", "shock"))
    loading, noise = (float(model.known[n]) for n in ("loading", "observation_variance"))
    intercept = float(model.known["intercept"])
    for n, length in enumerate(data.lengths.tolist()):
        steps = np.arange(length)
        spread = shock / (1 - keep**2) * keep ** np.abs(steps[:, None] - steps)
        seen = data.mask[n, :length, 0].numpy()
        covariance = (loading**2 * spread + noise * np.eye(length))[np.ix_(seen, seen)]
        law = stats.multivariate_normal(np.full(seen.sum(), intercept), covariance)
        y = data.values[n, :length, 0].double().numpy()[seen]
        assert float(log_evidence(model, data)[n]) == pytest.approx(law.logpdf(y), abs=1e-10)


def test_a_strange_linear_model_gives_the_density_of_all_observations():
    model, data = drawn(Fog(0.5))
    stride, fog = (float(model.known[name]) for name in ("stride", "fog"))
    for n, length in enumerate(data.lengths.tolist()):
        steps = np.arange(1, length + 1)
        covariance = stride * np.minimum(steps[:, None], steps) + 0.5 * fog * np.eye(length)
        seen = data.mask[n, :length, 0].numpy()
        law = stats.multivariate_normal(np.zeros(seen.sum()), covariance[np.ix_(seen, seen)])
        y = data.values[n, :length, 0].double().numpy()[seen]
        assert float(log_evidence(model, data)[n]) == pytest.approx(law.logpdf(y), abs=1e-10)


def test_a_large_ring_is_walked_without_its_matrix():
    model = HiddenMarkovModel(200, "gaussian", transition=Ring(200), initial=Somewhere(200))
    model, data = drawn(model)
    laws = model.laws({}, data)
    found = structures.structure(laws)
    assert isinstance(found, Sparse)
    torch.testing.assert_close(found.dense(), laws.log_transition[0, 0])
    dense = exact.log_evidence(*laws.chain)
    torch.testing.assert_close(log_evidence(model, data), dense)


def test_laws_of_a_kind_of_their_own_bring_their_answers(monkeypatch):
    monkeypatch.setattr(batches, "BATCH", 3)
    model, data = drawn(OneRate())
    shape, rate = (float(model.known[name]) for name in ("shape", "rate"))
    grid = np.linspace(0, 60, 200_001)[1:]
    prior = stats.gamma.pdf(grid, shape, scale=1 / rate)
    told, beliefs, ends = log_evidence(model, data), filter(model, data), smooth(model, data)
    assert isinstance(beliefs, Gamma)
    for n, length in enumerate(data.lengths.tolist()):
        seen = data.mask[n, :length, 0].numpy()
        y = data.values[n, :length, 0].numpy()
        each = np.where(seen[:, None], stats.poisson.pmf(y[:, None], grid), 1).cumprod(0)
        joint = prior * each
        total = np.trapezoid(joint, grid, axis=-1)
        assert float(told[n]) == pytest.approx(np.log(total[-1]), abs=1e-6)
        mean = np.trapezoid(joint * grid, grid, axis=-1) / total
        np.testing.assert_allclose(beliefs.shape[n, :length] / beliefs.rate[n, :length], mean, 1e-5)
        np.testing.assert_allclose(ends.shape[n, 0] / ends.rate[n, 0], mean[-1], 1e-5)
        before = predict(model, data)
        first = before.shape[n, 0] / before.rate[n, 0]
        np.testing.assert_allclose(first, shape / rate, 1e-6)
    torch.testing.assert_close(step_log_likelihood(model, data).sum(-1), told)
    # Of the posterior mean, to 5 standard errors: some 6e-7 a sequence by chance.
    torch.manual_seed(0)
    paths = sample_states(model, data, 4000, seed=0)[:, :, 0, 0]
    error = 5 * ends.shape[:, 0].sqrt() / ends.rate[:, 0] / 4000**0.5
    assert bool(((paths.mean(0) - ends.shape[:, 0] / ends.rate[:, 0]).abs() < error).all())
    assert forecast(model, data, 3, draws=7).shape == (7, 4, 3)
    result = nuts(OneRate(), data, chains=1, draws=3, warmup=3, seed=0, progress=False)
    assert set(result.draws) == {"shape", "rate"}


# Everything that there is to do


@every_model
def test_questions_are_answered(make):
    model, data = drawn(make())
    assert bool(torch.as_tensor(log_evidence(model, data)).isfinite().all())
    for ask in (filter, smooth, predict, most_likely_states, step_log_likelihood):
        if ask is not most_likely_states or model.belief != GaussianBelief(1):
            ask(model, data)
    sample_states(model, data, 3, seed=0)
    ahead = forecast(model, data, 2, draws=20, seed=0)
    assert ahead is not None


@every_model
def test_full_bayes(make):
    model = make()
    _, data = drawn(model)
    result = nuts(model, data, chains=2, draws=3, warmup=3, seed=0, progress=False)
    assert set(result.draws) == set(model.priors)
    idata = to_arviz(result, data, seed=0)
    for name in model.priors:
        assert np.isfinite(idata["posterior"][name].values).all()


@every_case
def test_fits_bound_the_evidence_and_are_exported(case):
    result, data = fitted(case)
    assert bool(result.losses.isfinite().all())
    found = evidence_gap(result, data)
    assert bool((found.elbo <= log_evidence(result.fitted, data) + 1e-6).all())
    forecast(result.fitted, data, 2, draws=20, seed=0)
    idata = to_arviz(result, data, draws=4, seed=0)
    for name in result.model.priors:
        assert np.isfinite(idata["posterior"][name].values).all()
    weights = importance(result, data, draws=25, seed=0)
    assert weights is not None


class Together(ChangePoints):
    """Its laws are of many draws of the parameters at once."""

    draws_together = True


def test_draws_together_say_what_draws_one_by_one_say():
    _, data = drawn(ChangePoints(2))
    told = []
    for kind in (ChangePoints, Together):
        model = kind(2)
        torch.manual_seed(3)
        guide = BeliefGuide(model, LSTMFilter(3))
        result = fit(model, guide, data, settings=SHORT, progress=False)
        told.append(to_arviz(result, data, draws=5, seed=0, predictive_draws=0, prior_draws=0))
    for group, name in (("log_likelihood", "obs"), ("posterior_states", "smoothed_probability")):
        one, other = (idata[group][name].values for idata in told)
        np.testing.assert_allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("name", [*CASES, "nonlinear"])
def test_numbers_of_numpy_are_fitted_as_those_of_torch_are(name):
    """Data in double precision, parameters in single."""
    case = NONLINEAR if name == "nonlinear" else CASES[name]
    single, data = fitted(case)
    model = case.model()
    torch.manual_seed(5)
    guide = case.guide(model)
    double = Sequences.from_tensors(data.values.double(), mask=data.mask, lengths=data.lengths)
    again = fit(model, guide, double, settings=SHORT, progress=False)
    torch.testing.assert_close(again.losses, single.losses, rtol=1e-3, atol=1e-3)


def test_a_strange_transition_may_work_in_the_precision_of_its_inputs():
    """Moves by the inputs, of NumPy's numbers: log T in double precision, parameters in single."""
    covariates = [np.linspace(-1, 1, 5)[:, None], np.linspace(2, -2, 4)[:, None]]
    data = Sequences.from_arrays(
        [[0.3, 2.0, 0.1, 1.5, 0.2], [1.0, 0.4, 2.0, 0.9]], inputs=covariates
    )
    parameters = {"initial": torch.tensor([0.4, 0.6]), "pace": torch.tensor([[0.5], [2.0]])}
    laws = HiddenMarkovModel(2, Waiting(1), transition=Tide()).laws(parameters, data)
    assert laws.log_transition.dtype == torch.float32
    for n, (y, u) in enumerate(zip(data.arrays(), covariates, strict=True)):
        stay = stats.logistic.cdf(u[1:])[:, :, None]
        table = np.log(stay * np.eye(2) + (1 - stay) * (1 - np.eye(2)))
        told = stats.expon(scale=[[2.0, 0.5]]).logpdf(y.reshape(-1, 1))
        expected = oracles.log_evidence(np.log([0.4, 0.6]), table, told)
        assert float(exact.log_evidence(*laws.chain)[n]) == pytest.approx(expected, abs=1e-5)


def test_a_strange_emission_of_a_nonlinear_model(tmp_path):
    """There is no exact inference to compare with: it is fitted, weighed, exported, saved."""
    result, data = fitted(NONLINEAR)
    assert bool(result.losses.isfinite().all())
    found = weighted_evidence(result, data, draws=25, seed=0)
    assert bool(torch.as_tensor(found.log_evidence).isfinite().all())
    to_arviz(result, data, draws=3, seed=0)
    again = load_fit(save_fit(result, tmp_path / "fit"))
    for name, value in result.guide.state_dict().items():
        assert torch.equal(again.guide.state_dict()[name], value)


@every_case
def test_a_checkpoint_is_resumed_bit_for_bit(case, tmp_path):
    def interrupt(step: int, _: object) -> None:
        if step == 3:
            raise KeyboardInterrupt

    whole, _ = fitted(case)
    path = tmp_path / "fit.pt"
    with pytest.raises(KeyboardInterrupt):
        fitted(case, checkpoint=path, callback=interrupt)
    resumed, _ = fitted(case, checkpoint=path)
    assert torch.equal(resumed.losses, whole.losses)
    for name, value in whole.guide.state_dict().items():
        assert torch.equal(resumed.guide.state_dict()[name], value), name


READ_ELSEWHERE = """
import sys
from pathlib import Path
import torch
from beliefzoo.inference import evidence_gap, load_fit, log_evidence
from beliefzoo.models import Sequences, load_model

for path in sorted(Path(sys.argv[1]).glob("*.model")):
    for read, given in ((load_model, path), (load_fit, path.with_suffix(".fit"))):
        for allow in ((), ("stranger",)):
            try:
                read(given, allow=allow)
            except ValueError as error:
                assert "import it before, or name it in allow=['strangers.my_" in str(error), error
            else:
                raise AssertionError(given)
assert not [name for name in sys.modules if name.startswith("strangers")]

for path in sorted(Path(sys.argv[1]).glob("*.model")):
    expected = torch.load(path.with_suffix(".expected"), weights_only=True)
    data = Sequences.from_tensors(
        expected["values"], mask=expected["mask"], lengths=expected["lengths"]
    )
    model = load_model(path, allow=["strangers"])
    assert torch.equal(log_evidence(model, data), expected["evidence"]), path
    result = load_fit(path.with_suffix(".fit"), allow=["strangers"])
    torch.manual_seed(0)
    assert torch.equal(evidence_gap(result, data).elbo, expected["elbo"]), path
"""


def test_another_process_reads_what_it_is_allowed_to(tmp_path):
    """Models and fits are the same to the last bit where their modules may be imported."""
    for number, case in enumerate(CASES.values()):
        result, data = fitted(case)
        known, _ = drawn(case.model())
        place = tmp_path / f"{number:02}"
        save_model(known, place.with_suffix(".model"))
        save_fit(result, place.with_suffix(".fit"))
        torch.manual_seed(0)
        expected = {
            "values": data.values,
            "mask": data.mask,
            "lengths": data.lengths,
            "evidence": log_evidence(known, data),
            "elbo": evidence_gap(result, data).elbo,
        }
        torch.save(expected, place.with_suffix(".expected"))
        assert load_model(place.with_suffix(".model")).configuration.keys()
        assert type(load_fit(place.with_suffix(".fit")).guide) is type(result.guide)
    paths = [os.fspath(HERE.parent), *sys.path]
    subprocess.run(
        [sys.executable, "-c", READ_ELSEWHERE, os.fspath(tmp_path)],
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        timeout=300,
    )
