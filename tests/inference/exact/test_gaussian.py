"""Exact inference on Gaussian chains, against dense matrices and textbook loops in float64."""

import contextlib
import csv
import dataclasses
import importlib
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import oracles_gaussian as oracles
from beliefzoo.inference.exact import chains_cpu as exact_compiled
from beliefzoo.inference.exact import gaussian as exact_gaussian
from beliefzoo.inference.exact import gaussian_cpu as exact_gaussian_compiled
from beliefzoo.inference.exact import gaussian_torch as exact_gaussian_kernels
from beliefzoo.inference.exact.gaussian import LinearChain
from checkout import ROOT


@pytest.fixture(params=["machine code", "torch"])
def both_paths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recursions for the CPU, and those for other devices."""
    if request.param == "torch":
        monkeypatch.setattr(exact_gaussian, "_recursions", lambda tensor: exact_gaussian_kernels)


def gradients(function: Callable[..., Tensor], *leaves: Tensor) -> list[Tensor]:
    """The value, and the gradients of a fixed weighted sum of it."""
    leaves = tuple(x.clone().requires_grad_() for x in leaves)
    value = function(*leaves)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(value.shape, generator=generator, dtype=value.dtype)
    found = torch.autograd.grad((value * weights).sum(), leaves, allow_unused=True)
    zeros = (torch.zeros_like(x) for x in leaves)
    return [value.detach(), *(z if g is None else g for g, z in zip(found, zeros, strict=True))]


def agree(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-11) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            a,
            b,
            rtol=tolerance,
            atol=tolerance * (1 + float(b.abs().max())) if b.numel() else tolerance,
        )


def normal(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, dtype=torch.float64)


# --- linear sweeps --------------------------------------------------------------------------------

SWEEPS = [
    # sequences, steps, size, draws, axes of the gain, lengths
    (3, 5, 2, (4,), (3, 4), None),
    (3, 5, 2, (2, 2), (1, 4), [5, 1, 3]),
    (3, 5, 3, (), (3, 1), [2, 5, 4]),
    (4, 6, 1, (), (1, 1), None),
    (2, 1, 2, (3,), (2, 1), None),
]
sweeps = pytest.mark.parametrize(("n", "t", "d", "draws", "axes", "lengths"), SWEEPS)


@sweeps
@pytest.mark.usefixtures("both_paths")
def test_backward_sweep_and_its_gradient(
    n: int, t: int, d: int, draws: tuple[int, ...], axes: tuple[int, int], lengths: list[int] | None
) -> None:
    laws = normal(*axes, d, d, scale=0.6), normal(*draws, n, t - 1, d), normal(*draws, n, d)
    own = None if lengths is None else torch.tensor(lengths)
    ours = gradients(lambda *x: exact_gaussian.backward_sweep(*x, own), *laws)
    agree(ours, gradients(lambda *x: oracles.sweep(*x, lengths or [t] * n), *laws))


@sweeps
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.usefixtures("both_paths")
def test_backward_covariances_and_their_gradient(
    n: int,
    t: int,
    d: int,
    draws: tuple[int, ...],
    axes: tuple[int, int],
    lengths: list[int] | None,
    shared: bool,
) -> None:
    """Of matrices that are not even symmetric: the gradient is that of each entry."""
    rows = 1 if shared else n
    laws = normal(*axes, d, d, scale=0.6), normal(rows, t - 1, d, d), normal(n, d, d)
    own = None if lengths is None else torch.tensor(lengths)
    ours = gradients(lambda *x: exact_gaussian.backward_covariances(*x, own), *laws)
    agree(ours, gradients(lambda *x: oracles.sweep_covariances(*x, lengths or [t] * n), *laws))


def test_sweeps_refuse_what_does_not_fit() -> None:
    gain, shift, last = normal(1, 1, 2, 2), normal(3, 4, 2), normal(3, 2)
    sweep = exact_gaussian.backward_sweep
    with pytest.raises(ValueError, match=r"gain must have shape \(3\|1, 4\|1, 2, 2\); got"):
        sweep(normal(2, 1, 2, 2), shift, last)
    with pytest.raises(ValueError, match=r"last must have shape \(3, 2\); got \(3, 3\)"):
        sweep(gain, shift, normal(3, 3))
    with pytest.raises(ValueError, match=r"gain must be float32 or float64 as all others; got"):
        sweep(gain.float(), shift, last)
    with pytest.raises(ValueError, match=r"lengths must be in 1..5; got 0..5"):
        sweep(gain, shift, last, torch.tensor([0, 5, 5]))
    with pytest.raises(ValueError, match=r"noise must have shape \(N\|1, T-1, D, D\); got"):
        exact_gaussian.backward_covariances(gain, normal(4, 2, 2), normal(1, 2, 2))


# --- chains ---------------------------------------------------------------------------------------


class Case(NamedTuple):
    """What kind of chain."""

    n: int = 3
    t: int = 5
    d: int = 2
    f: int = 2
    q: int = 0
    own: bool = False
    """Whether every sequence has its own matrices."""
    moving: bool = False
    """Whether they change in time."""
    singular: bool = False
    """Whether noise and first covariance have rank 1."""
    gaps: bool = True
    ragged: bool = True


class Given(NamedTuple):
    chain: LinearChain
    values: Tensor
    mask: Tensor
    lengths: Tensor

    @property
    def ends(self) -> list[int]:
        return [int(x) for x in self.lengths]


CASES = {
    "plain": Case(gaps=False, ragged=False),
    "gaps": Case(),
    "one state": Case(d=1, f=1),
    "many features": Case(d=2, f=4, own=True),
    "own matrices": Case(own=True, moving=True),
    "moving": Case(d=3, moving=True),
    "singular": Case(d=3, f=2, singular=True),
    "one sequence": Case(n=1, t=9, f=1, moving=True),
    "one step": Case(t=1, ragged=False, gaps=False),
    "diffuse": Case(q=1),
    "all diffuse": Case(d=3, f=1, t=8, q=3, ragged=False, gaps=False, moving=True),
    "diffuse, own": Case(d=3, q=2, t=7, own=True, singular=True),
    "many rows": Case(n=19, t=4, q=1),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def positive(*shape: int, rank: int | None = None) -> Tensor:
    factor = normal(*shape[:-1], rank or shape[-1] + 1)
    return factor @ factor.mT / factor.shape[-1]


def given(case: Case, seed: int = 0) -> Given:
    torch.manual_seed(seed)
    n, t, d, f = case[:4]
    rows, moves, steps = (n if case.own else 1), (t - 1 if case.moving else 1), 1
    steps = t if case.moving else 1
    rank = 1 if case.singular else None
    mask = torch.ones(n, t, f, dtype=torch.bool)
    if case.gaps:
        mask = torch.rand(n, t, f) > 0.3
        mask[0] = True  # shared by the others that have no gap
        mask[-1, t // 2] = False
        if case.q:
            mask[:, : case.q + 1] = True
    lengths = torch.full((n,), t)
    if case.ragged:
        lengths = torch.randint(case.q + 2, t + 1, (n,))
        lengths[0] = t
    chain = LinearChain(
        normal(n, d),
        positive(rows, d, d, rank=rank),
        normal(d, case.q),
        normal(rows, moves, d, d, scale=0.7),
        normal(n, moves, d),
        positive(rows, moves, d, d, rank=rank),
        normal(rows, steps, f, d),
        normal(1, steps, f),
        positive(rows, steps, f, f),
    )
    return Given(chain, 2 * normal(n, t, f), mask, lengths)


def leaves_of(case: Given) -> tuple[Tensor, ...]:
    return *case.chain, case.values


def symmetric(found: list[Tensor]) -> list[Tensor]:
    """Gradients in covariances, made symmetric: value, mean, P, B, A, b, Q, C, d, R, values."""
    return [(x + x.mT) / 2 if place in (2, 6, 9) else x for place, x in enumerate(found)]


@every_case
@pytest.mark.usefixtures("both_paths")
def test_evidence_and_gradient_are_those_of_the_joint_law(case: Case) -> None:
    one = given(case)

    def ours(*leaves: Tensor) -> Tensor:
        chain, values = LinearChain(*leaves[:-1]), leaves[-1]
        return exact_gaussian.log_evidence(chain, values, one.mask, one.lengths)

    def dense(*leaves: Tensor) -> Tensor:
        return oracles.log_evidence(leaves[:-1], leaves[-1], one.mask, one.ends)

    agree(gradients(ours, *leaves_of(one)), symmetric(gradients(dense, *leaves_of(one))), 1e-9)


@every_case
@pytest.mark.usefixtures("both_paths")
def test_steps_add_up_to_the_evidence(case: Case) -> None:
    one = given(case)

    def total(*leaves: Tensor) -> Tensor:
        chain, values = LinearChain(*leaves[:-1]), leaves[-1]
        steps = exact_gaussian.step_log_likelihood(chain, values, one.mask, one.lengths)
        beyond = torch.arange(case.t) >= one.lengths.unsqueeze(-1)
        assert not steps.detach()[beyond].any()
        return steps.sum(-1)

    def dense(*leaves: Tensor) -> Tensor:
        return oracles.log_evidence(leaves[:-1], leaves[-1], one.mask, one.ends)

    agree(gradients(total, *leaves_of(one)), symmetric(gradients(dense, *leaves_of(one))), 1e-8)


@every_case
@pytest.mark.usefixtures("both_paths")
def test_filter_is_the_last_marginal_of_every_prefix(case: Case) -> None:
    one = given(case)
    found = exact_gaussian.filter(*one)
    chain, d = one.chain, case.d
    for n, end in enumerate(one.ends):
        for t in range(case.t):
            if t >= end:
                assert torch.equal(found.means[n, t], found.means[n, end - 1])
                continue
            unseen = one.mask.clone()
            unseen[n, t] = False
            laws = [(one.mask, found.means, found.covariances)]
            laws += [(unseen, found.predicted_means, found.predicted_covariances)]
            for mask, means, covariances in laws:
                if case.q and int(mask[n, : t + 1].sum()) < case.q:
                    continue
                mean, covariance = oracles.posterior(chain, one.values, mask, n, t + 1)
                agree([means[n, t], covariances[n, t]], [mean[-d:], covariance[-d:, -d:]], 1e-8)


@every_case
@pytest.mark.usefixtures("both_paths")
def test_smoother_is_the_posterior_of_the_joint_law(case: Case) -> None:
    one = given(case)
    found = exact_gaussian.smooth(*one, pairs=True)
    assert found.cross_covariances is not None
    for n, end in enumerate(one.ends):
        mean, covariance = oracles.posterior(one.chain, one.values, one.mask, n, end)
        blocks = covariance.reshape(end, case.d, end, case.d)
        each = torch.arange(end)
        agree(
            [
                found.means[n, :end],
                found.covariances[n, :end],
                found.cross_covariances[n, : end - 1],
            ],
            [
                mean.reshape(end, case.d),
                blocks[each, :, each],
                blocks[each[:-1], :, each[1:]],
            ],
            1e-8,
        )
        assert torch.equal(found.means[n, -1], found.means[n, end - 1])
        assert not found.cross_covariances[n, end - 1 :].any()


# --- published numbers, closed forms, limits ------------------------------------------------------


def structural(transition: list[list[float]], level: list[float], irregular: float) -> LinearChain:
    """A model of structural time series, all of its states diffuse, the first observed."""
    size = len(transition)
    zeros = torch.zeros(1, size, dtype=torch.float64)
    return LinearChain(
        zeros,
        torch.zeros(1, size, size, dtype=torch.float64),
        torch.eye(size, dtype=torch.float64),
        torch.tensor(transition, dtype=torch.float64)[None, None],
        zeros.unsqueeze(1),
        torch.tensor(level, dtype=torch.float64).diag()[None, None],
        torch.eye(size, dtype=torch.float64)[None, None, :1],
        torch.zeros(1, 1, 1, dtype=torch.float64),
        torch.full((1, 1, 1, 1), irregular, dtype=torch.float64),
    )


NILE = structural([[1.0]], [1469.1], 15099.0)
LINE = [[1.0, 1.0], [0.0, 1.0]]


def nile() -> Tensor:
    path = ROOT / "experiments" / "data" / "nile.csv"
    with path.open() as file:
        flow = [float(row["flow"]) for row in csv.DictReader(file)]
    return torch.tensor(flow, dtype=torch.float64).reshape(1, -1, 1)


def test_nile_local_level() -> None:
    """Durbin & Koopman 2012, section 2, and statsmodels with its exact diffuse initial law."""
    values = nile()
    steps = exact_gaussian.step_log_likelihood(NILE, values)[0]
    assert float(exact_gaussian.log_evidence(NILE, values)) == pytest.approx(-633.4646, abs=5e-5)
    assert float(steps.sum()) == pytest.approx(-633.4646, abs=5e-5)
    assert float(steps[1:].sum()) == pytest.approx(-632.5456, abs=5e-5)  # the first one dropped
    proper = NILE._replace(
        diffuse=NILE.diffuse[:, :0], initial_covariance=NILE.initial_covariance + 1e7
    )
    assert float(exact_gaussian.log_evidence(proper, values)) == pytest.approx(-641.5856, abs=5e-5)
    smoothed = exact_gaussian.smooth(NILE, values)
    assert float(smoothed.means[0, 0]) == pytest.approx(1111.668, abs=5e-4)
    assert float(smoothed.means[0, -1]) == pytest.approx(798.3703, abs=5e-5)
    assert float(smoothed.covariances[0, 0]) == pytest.approx(4032.158, abs=5e-4)
    assert float(smoothed.covariances[0, -1]) == pytest.approx(4032.158, abs=5e-4)


def test_nile_with_two_missing_stretches() -> None:
    """statsmodels 0.15, `UnobservedComponents(y, "llevel", use_exact_diffuse=True)`."""
    values = nile()
    values[0, 20:40] = math.nan
    values[0, 60:80] = math.nan
    mask = ~values.isnan()
    evidence = exact_gaussian.log_evidence(NILE, values, mask)
    assert float(evidence) == pytest.approx(-381.5060013085083, rel=1e-12)
    smoothed = exact_gaussian.smooth(NILE, values, mask)
    assert float(smoothed.means[0, 20]) == pytest.approx(990.08352597, rel=1e-10)
    assert float(smoothed.means[0, 30]) == pytest.approx(893.79194485, rel=1e-10)
    assert float(smoothed.covariances[0, 30]) == pytest.approx(9715.005549011363, rel=1e-12)


def test_nile_innovations() -> None:
    """Their diagnostics in Durbin & Koopman 2012, section 2.12.2: skewness -0.03, kurtosis 3.09."""
    innovations, known = exact_gaussian.standardised_innovations(NILE, nile())
    assert known.flatten().tolist() == [False] + 99 * [True]
    e = innovations[known]
    e = (e - e.mean()) / e.std(correction=0)
    assert float(e.pow(3).mean()) == pytest.approx(-0.03, abs=5e-3)
    assert float(e.pow(4).mean()) == pytest.approx(3.09, abs=5e-3)


@pytest.mark.parametrize(
    ("chain", "kfas"),
    [
        (structural([[1.0]], [0.1182078808], 4.256647886e-06), -70.97242557),
        (structural(LINE, [0.01008704925, 0.0609176081], 1.339852549e-06), -31.15640107),
        (structural(LINE, [0.0, 0.0753064234], 0.0008824099), -31.92261408),
    ],
)
def test_unemployment_by_kfas(chain: LinearChain, kfas: float, shared_data: Path) -> None:
    """KFAS leaves out ½ log 2π for each of the q elements that determine the diffuse states."""
    with (shared_data / "series" / "us_macrodata.csv").open() as file:
        rate = [float(row["unemp"]) for row in csv.DictReader(file)]
    values = torch.tensor(rate, dtype=torch.float64).reshape(1, -1, 1)
    found = float(exact_gaussian.log_evidence(chain, values))
    constant = 0.5 * chain.diffuse.shape[1] * math.log(2 * math.pi)
    assert found + constant == pytest.approx(kfas, abs=1e-6)


@pytest.mark.usefixtures("both_paths")
def test_what_is_not_known_yet_has_infinite_variance() -> None:
    """A level and its slope: one observation tells the level, the second one the slope."""
    chain = structural(LINE, [0.5, 0.25], 2.0)
    values = torch.tensor([3.0, 5.0, 4.0], dtype=torch.float64).reshape(1, -1, 1)
    found = exact_gaussian.filter(chain, values)
    inf = math.inf
    expected = torch.tensor([[2.0, 0.0], [0.0, inf]], dtype=torch.float64)
    torch.testing.assert_close(found.covariances[0, 0], expected)
    nothing = torch.tensor([[inf, 0.0], [0.0, inf]], dtype=torch.float64)
    assert torch.equal(found.predicted_covariances[0, 0], nothing)
    assert torch.equal(found.predicted_covariances[0, 1], nothing)
    assert float(found.means[0, 0, 0]) == pytest.approx(3.0, rel=1e-12)
    # y_2 - y_1 is the slope before the second step, but for two irregulars and one level shock.
    expected = torch.tensor([[2.0, 2.0], [2.0, 2.0 + 2.0 + 0.5 + 0.25]], dtype=torch.float64)
    torch.testing.assert_close(found.covariances[0, 1], expected)
    torch.testing.assert_close(found.means[0, 1], torch.tensor([5.0, 2.0], dtype=torch.float64))
    assert all(bool(torch.isfinite(x[0, 2]).all()) for x in found)
    assert not any(bool(x.isnan().any()) for x in found)


@pytest.mark.usefixtures("both_paths")
def test_a_diffuse_state_seen_without_noise() -> None:
    """A random walk observed as it is: density 1 at the first step, then that of its moves."""
    chain = structural([[1.0]], [0.3], 0.0)
    values = normal(1, 6, 1)
    moves = values[0, :, 0].diff()
    each = [-0.5 * (math.log(2 * math.pi * 0.3) + x * x / 0.3) for x in moves.tolist()]
    steps = exact_gaussian.step_log_likelihood(chain, values)[0].tolist()
    assert steps == pytest.approx([-0.5 * math.log(2 * math.pi), *each], rel=1e-12)
    found = exact_gaussian.filter(chain, values)
    torch.testing.assert_close(found.means, values)
    assert float(found.covariances.abs().max()) < 1e-15


@pytest.mark.usefixtures("both_paths")
def test_a_large_variance_approaches_the_diffuse_law() -> None:
    """What is left between them, once ½ q log κ is added, falls as 1/κ."""
    one = given(Case(n=2, t=6, d=2, f=1, q=2))
    exact = exact_gaussian.log_evidence(*one)
    directions = one.chain.diffuse

    def rest(kappa: float) -> Tensor:
        wide = one.chain.initial_covariance + kappa * directions @ directions.mT
        chain = one.chain._replace(initial_covariance=wide, diffuse=directions[:, :0])
        return exact_gaussian.log_evidence(chain, *one[1:]) + math.log(kappa) - exact

    torch.testing.assert_close(rest(1e7), rest(1e6) / 10, rtol=1e-2, atol=0)
    assert float(rest(1e7).abs().max()) < 1e-2


@pytest.mark.usefixtures("both_paths")
def test_an_autoregression_in_companion_form() -> None:
    """z = (x_t, x_{t-1}), seen without noise: covariances of rank 1, then 0."""
    a, b, sd = 0.6, -0.3, 0.8
    values = normal(1, 8, 1)
    x = values[0, :, 0]
    tensor = partial(torch.tensor, dtype=torch.float64)
    companion, shock = tensor([[a, b], [1.0, 0.0]]), tensor([[sd**2, 0.0], [0.0, 0.0]])
    kron = torch.kron(companion, companion)
    stationary = torch.linalg.solve(torch.eye(4).double() - kron, shock.flatten()).reshape(2, 2)
    chain = structural([[a, b], [1.0, 0.0]], [sd**2, 0.0], 0.0)._replace(
        initial_covariance=stationary.unsqueeze(0), diffuse=torch.zeros(2, 0, dtype=torch.float64)
    )
    pair = torch.distributions.MultivariateNormal(torch.zeros(2).double(), stationary)
    expected = float(pair.log_prob(x[:2].flip(0)))
    shocks = x[2:] - a * x[1:-1] - b * x[:-2]
    expected -= 0.5 * float((shocks / sd).square().sum())
    expected -= 0.5 * len(shocks) * math.log(2 * math.pi * sd**2)
    assert float(exact_gaussian.log_evidence(chain, values)) == pytest.approx(expected, rel=1e-12)
    smoothed = exact_gaussian.smooth(chain, values)
    torch.testing.assert_close(smoothed.means[0, 1:], torch.stack([x[1:], x[:-1]], -1))
    assert float(smoothed.covariances[0, 1:].abs().max()) < 1e-14


@pytest.mark.usefixtures("both_paths")
def test_nothing_observed_changes_nothing() -> None:
    one = given(Case(ragged=False))
    unseen = torch.zeros_like(one.mask)
    values = torch.full_like(one.values, math.nan)
    found = gradients(
        lambda *x: exact_gaussian.log_evidence(LinearChain(*x[:-1]), x[-1], unseen),
        *one.chain,
        values,
    )
    assert not any(bool(x.any()) for x in found)
    smoothed = exact_gaussian.smooth(one.chain, values, unseen)
    mean, covariance = one.chain.initial_mean, one.chain.initial_covariance
    torch.testing.assert_close(smoothed.means[:, 0], mean)
    torch.testing.assert_close(smoothed.covariances[:, 0], covariance.expand(3, -1, -1))


def test_prediction_is_the_filter_without_observations() -> None:
    one = given(Case(n=2, t=7, d=3, moving=True, ragged=False))
    mask = one.mask.clone()
    mask[:, 3:] = False
    found = exact_gaussian.filter(one.chain, one.values, mask)
    chain = one.chain
    ahead = exact_gaussian.predict(
        found.means[:, 2],
        found.covariances[:, 2],
        chain.transition[:, 2:],
        chain.offset[:, 2:],
        chain.noise[:, 2:],
        steps=4,
    )
    agree([*ahead], [found.predicted_means[:, 3:], found.predicted_covariances[:, 3:]], 1e-12)


@pytest.mark.parametrize("name", ["plain", "gaps", "moving", "own matrices"])
@pytest.mark.usefixtures("both_paths")
def test_innovations_are_the_whitened_observations(name: str) -> None:
    """The inverse Cholesky factor of the joint covariance whitens in the same order."""
    one = given(CASES[name])
    found, known = exact_gaussian.standardised_innovations(*one)
    for n, end in enumerate(one.ends):
        law = oracles.joint(one.chain, one.values, one.mask, n, end)
        factor = torch.linalg.cholesky(law.observed_covariance)
        expected = torch.linalg.solve(factor, law.values - law.observed)
        agree([found[n, :end][one.mask[n, :end]]], [expected], 1e-9)
        assert torch.equal(known[n, :end], one.mask[n, :end])
        assert not known[n, end:].any()


@pytest.mark.parametrize("name", ["diffuse", "all diffuse", "diffuse, own"])
@pytest.mark.usefixtures("both_paths")
def test_innovations_under_a_diffuse_law_are_those_of_a_large_variance(name: str) -> None:
    one = given(CASES[name])
    found, known = exact_gaussian.standardised_innovations(*one)
    directions = one.chain.diffuse
    wide = one.chain.initial_covariance + 1e9 * directions @ directions.mT
    proper = one.chain._replace(initial_covariance=wide, diffuse=directions[:, :0])
    near, _ = exact_gaussian.standardised_innovations(proper, *one[1:])
    torch.testing.assert_close(found[known], near[known], rtol=0, atol=1e-4)
    missing = (one.mask.flatten(1).sum(-1) - known.flatten(1).sum(-1)).tolist()
    beyond = torch.arange(one.values.shape[1]) >= one.lengths.unsqueeze(-1)
    padded = (one.mask & beyond.unsqueeze(-1)).flatten(1).sum(-1).tolist()
    assert [m - p for m, p in zip(missing, padded, strict=True)] == [directions.shape[1]] * len(
        near
    )


@pytest.mark.parametrize("name", ["gaps", "diffuse", "moving", "many features"])
@pytest.mark.usefixtures("both_paths")
def test_sampled_paths_have_the_moments_of_the_posterior(name: str) -> None:
    """Whitened by the dense posterior, means and products of 4000 draws are within 5.5 standard
    errors: of some 1000 figures one is beyond by chance in 1 of 25000 runs."""
    one = given(CASES[name])
    count = 4000
    generator = torch.Generator().manual_seed(2)
    paths = exact_gaussian.sample_paths(*one, n=count, generator=generator)
    assert paths.shape == (count, *one.values.shape[:2], one.chain.diffuse.shape[0])
    for n, end in enumerate(one.ends):
        assert not paths[:, n, end:].any()
        mean, covariance = oracles.posterior(one.chain, one.values, one.mask, n, end)
        factor = torch.linalg.cholesky(covariance)
        flat = paths[:, n, :end].flatten(1) - mean
        white = torch.linalg.solve_triangular(factor, flat.mT, upper=False).mT
        error = white.mean(0) * math.sqrt(count)
        assert float(error.abs().max()) < 5.5
        spread = (white.mT @ white / count - torch.eye(len(mean)).double()) * math.sqrt(count)
        spread.diagonal().div_(math.sqrt(2))
        assert float(spread.abs().max()) < 5.5


# --- the machine code alone -----------------------------------------------------------------------


@pytest.mark.parametrize(("size", "rate"), [(1, 0.7), (2, 0.9), (4, 0.99), (16, 0.9)])
def test_the_steady_state_is_that_of_the_recursion(size: int, rate: float) -> None:
    """Gains that are taken over are those that are computed at every step, up to rounding."""
    one = given(Case(n=2, t=3000, d=size, f=2, gaps=False, ragged=False))
    chain = one.chain._replace(transition=rate * torch.eye(size).double()[None, None])
    mask = one.mask.clone()
    mask[1, 2000:2010, 0] = False
    problem = exact_gaussian._Problem.of(chain, one.values, mask, None)
    layout = problem.layout(own_ends=False)
    quick = exact_gaussian_compiled._Filter.of(problem.system(layout), layout)
    slow = dataclasses.replace(quick, constant=False)
    found = [x.gains(0, 3000, x.first(False)) for x in (quick, slow)]
    assert found[0].at[0].max() < 1500
    assert found[1].at.max() == 2999
    for place in range(2):
        a, b = (x.filtered[place, x.at[place]] for x in found)
        scale = np.sqrt(np.einsum("tii,tjj->tij", b, b))
        assert (np.abs(a - b) / scale).max() < 1e-14 / (1 - rate)
    np.testing.assert_allclose(found[0].log_determinants, found[1].log_determinants, atol=1e-12)


@pytest.mark.parametrize("name", ["gaps", "diffuse, own", "many rows"])
def test_a_time_in_stretches_and_threads_change_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = given(CASES[name])

    def evidence(*leaves: Tensor) -> Tensor:
        chain, values = LinearChain(*leaves[:-1]), leaves[-1]
        return exact_gaussian.log_evidence(chain, values, one.mask, one.lengths)

    whole = gradients(evidence, *leaves_of(one))
    monkeypatch.setattr(exact_gaussian_compiled, "ROOM", 1)
    agree(gradients(evidence, *leaves_of(one)), whole, 1e-11)
    monkeypatch.setattr(exact_gaussian_compiled, "ROOM", 100)
    monkeypatch.setattr(exact_compiled, "SERIAL_WORK", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        agree(gradients(evidence, *leaves_of(one)), whole, 1e-11)
    finally:
        torch.set_num_threads(before)


def test_a_long_sequence() -> None:
    """Against the scalar recursion, with one observation in ten missing."""
    r, q, t = 2.0, 0.5, 100_000
    chain = structural([[1.0]], [q], r)._replace(
        diffuse=torch.zeros(1, 0, dtype=torch.float64),
        initial_covariance=torch.ones(1, 1, 1, dtype=torch.float64),
    )
    values = normal(1, t, 1).cumsum(1)
    mask = torch.rand(1, t, 1) > 0.1
    mean, variance, total = 0.0, 1.0, 0.0
    for y, seen in zip(values.flatten().tolist(), mask.flatten().tolist(), strict=True):
        if seen:
            s = variance + r
            total -= 0.5 * (math.log(2 * math.pi * s) + (y - mean) ** 2 / s)
            mean += variance / s * (y - mean)
            variance *= r / s
        variance += q
    assert float(exact_gaussian.log_evidence(chain, values, mask)) == pytest.approx(
        total, rel=1e-11
    )


def test_single_precision_is_rounded_at_the_end_only() -> None:
    one = given(CASES["diffuse"])
    chain = LinearChain(*(x.float() for x in one.chain))
    values = one.values.float()
    wide = LinearChain(*(x.double() for x in chain))
    found = exact_gaussian.log_evidence(chain, values, *one[2:])
    exact = exact_gaussian.log_evidence(wide, values.double(), *one[2:])
    assert torch.equal(found, exact.float())
    assert exact_gaussian.smooth(chain, values, *one[2:]).means.dtype == torch.float32
    leaf = values.clone().requires_grad_()
    exact_gaussian.log_evidence(chain, leaf, *one[2:]).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.float32


# --- bad input ------------------------------------------------------------------------------------


def broken(**changes: Any) -> dict[str, Any]:
    one = given(Case(t=4, ragged=False, gaps=False, moving=True))
    fields = {**one.chain._asdict(), "values": one.values, "mask": None, "lengths": None}
    for name, change in changes.items():
        tensor = fields[name]
        fields[name] = change(tensor.clone()) if callable(change) else change
    chain = LinearChain(*(fields.pop(name) for name in LinearChain._fields))
    return {"chain": chain, **fields}


def put(value: float, *place: int) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor[place] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": lambda x: x[0]}, r"values must have shape \(N, T, F\), none 0; got \(4, 2\)"),
        ({"values": put(math.nan, 2, 1, 0)}, r"values must be finite .* nan at sequence 2, step 1"),
        ({"loading": put(math.inf, 0, 3, 0, 1)}, r"loading must be finite; got inf at step 3"),
        ({"diffuse": lambda x: x[0]}, r"diffuse must have shape \(D, q\), D >= 1"),
        ({"offset": lambda x: x[:, :2]}, r"offset must have shape \(3\|1, 3\|1, 2\); got"),
        ({"mask": torch.ones(3, 4)}, r"mask must be bool of shape \(3, 4, 2\)"),
        ({"lengths": torch.tensor([4, 5, 1])}, r"lengths must be in 1..4; got 1..5"),
        ({"loading": lambda x: x.float()}, r"loading must be float32 or float64 as all others"),
        (
            {"noise": put(-1.0, 0, 2, 0, 0)},
            r"noise must be symmetric and positive semidefinite; got \[\[-1.0, .* at step 2",
        ),
        (
            {"observation_noise": put(9.0, 0, 1, 0, 1)},
            r"observation_noise must be symmetric and positive semidefinite; .* at step 1",
        ),
        (
            {"initial_covariance": lambda x: torch.tensor([[[0.0, 1.0], [1.0, 3.0]]]).double()},
            r"initial_covariance must be symmetric and positive semidefinite; got",
        ),
        (
            {"observation_noise": torch.zeros(1, 1, 2, 2).double(),
             "loading": torch.ones(1, 1, 2, 2).double()},
            r"observation_noise must leave .* got none for feature 1 of sequence 0 at step 0",
        ),
        (
            {"diffuse": torch.eye(2).double(), "mask": torch.eye(8)[:3].reshape(3, 4, 2).bool()},
            r"values must determine the 2 diffuse direction\(s\) .* sequence 0 are too few",
        ),
        (
            {"transition": torch.full((1, 1, 2, 2), 1e200, dtype=torch.float64)},
            r"overflowed|must leave every observed element some variance",
        ),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("both_paths")
def test_bad_input_is_named(changes: dict[str, Any], message: str) -> None:
    arguments = broken(**changes)
    with pytest.raises(ValueError, match=message):
        exact_gaussian.log_evidence(**arguments)


@pytest.mark.parametrize("name", ["all diffuse", "diffuse, own"])
@pytest.mark.usefixtures("both_paths")
def test_a_sequence_without_data_leaves_the_others_scored(name: str) -> None:
    """With a flat law; it scores 0 itself, whatever its parameters, and its states are unknown."""
    case = given(CASES[name])
    mask = case.mask.clone()
    mask[1] = False
    noise = case.chain.noise.clone().requires_grad_()
    panel = case.chain._replace(noise=noise)
    found = exact_gaussian.log_evidence(panel, case.values, mask, case.lengths)
    found.sum().backward()
    whole = exact_gaussian.log_evidence(*case)
    assert found[1] == 0
    torch.testing.assert_close(found[[0, 2]], whole[[0, 2]])
    assert noise.grad is not None
    assert bool(noise.grad.isfinite().all())
    steps = exact_gaussian.step_log_likelihood(panel, case.values, mask, case.lengths)
    torch.testing.assert_close(steps.sum(-1), found)
    smoothed = exact_gaussian.smooth(case.chain, case.values, mask, case.lengths)
    unknown = exact_gaussian.filter(case.chain, case.values, mask, case.lengths)
    torch.testing.assert_close(smoothed.covariances[1], unknown.covariances[1])
    apart = exact_gaussian.smooth(*case)
    for n in (0, 2):
        torch.testing.assert_close(smoothed.means[n], apart.means[n])
        torch.testing.assert_close(smoothed.covariances[n], apart.covariances[n])
    with pytest.raises(ValueError, match="sequence 1 are too few"):
        exact_gaussian.sample_paths(case.chain, case.values, mask, case.lengths, n=1)


@pytest.mark.parametrize(("noise", "refused"), [(1e-16, True), (1e-12, False)])
@pytest.mark.usefixtures("both_paths")
def test_one_bound_tells_a_variance_from_rounding(noise: float, refused: bool) -> None:
    """Two features that are alike but for a noise far below and far above the bound."""
    arguments = broken(
        loading=torch.ones(1, 1, 2, 2).double(),
        observation_noise=(noise * torch.eye(2)).double().reshape(1, 1, 2, 2),
    )
    expectation = pytest.raises(ValueError, match="observation_noise must leave")
    with expectation if refused else contextlib.nullcontext():
        exact_gaussian.log_evidence(**arguments)


def test_both_paths_have_the_same_bound() -> None:
    machine = importlib.import_module("beliefzoo.inference.exact.gaussian_machine")
    assert machine.SINGULAR == exact_gaussian_kernels.SINGULAR


def test_predictions_and_draws_refuse_what_does_not_fit() -> None:
    one = given(CASES["all diffuse"])
    found = exact_gaussian.filter(*one)
    chain = one.chain
    laws = chain.transition[:, :1], chain.offset[:, :1], chain.noise[:, :1]
    with pytest.raises(ValueError, match="covariance must be finite; got inf at sequence 0"):
        exact_gaussian.predict(found.means[:, 0], found.covariances[:, 0], *laws, steps=1)
    with pytest.raises(ValueError, match="steps must be a whole number >= 1; got 0"):
        exact_gaussian.predict(found.means[:, -1], found.covariances[:, -1], *laws, steps=0)
    with pytest.raises(ValueError, match="n must be a whole number >= 1; got 0"):
        exact_gaussian.sample_paths(*one, n=0)
