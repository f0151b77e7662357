"""Exact inference on Gaussian chains, against dense matrices and textbook loops in float64."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import oracles_gaussian as oracles
from beliefzoo.inference import exact_gaussian, exact_gaussian_kernels
from beliefzoo.inference.exact_gaussian import LinearChain


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
