"""Transitions with a structure against the dense path, sums over all paths, and coincidences."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

import oracles
from beliefzoo.inference.exact import chains as exact
from beliefzoo.inference.exact import chains_cpu as exact_compiled
from beliefzoo.inference.exact import structured as exact_structured
from beliefzoo.inference.exact import structured_cpu as exact_structured_compiled
from beliefzoo.inference.exact.structured import (
    Banded,
    Factorial,
    LowRank,
    Sparse,
    Structure,
)

INF, NAN = math.inf, math.nan


@pytest.fixture(autouse=True)
def factor_by_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small factorial chains would be done by their whole matrix, and tell nothing."""
    monkeypatch.setattr(exact_structured, "WHOLE_STATES", 0)


class Kind(NamedTuple):
    """A structure: shapes of its laws (rows sum to 1), and how it is made of their logs."""

    shapes: tuple[tuple[int, ...], ...]
    make: Callable[..., Structure]


def ring(log_values: Tensor) -> Sparse:
    """Every state stays, moves on or jumps to state 0; the entries in disorder."""
    rows = torch.arange(4).repeat(3)
    columns = torch.cat([torch.arange(4), (torch.arange(4) + 1) % 4, (torch.arange(4) + 2) % 4])
    order = torch.tensor([7, 0, 11, 3, 5, 1, 9, 2, 10, 4, 8, 6])
    return Sparse(log_values[order], rows[order], columns[order], 4)


KINDS = {
    "banded": Kind(((4, 3),), lambda bands: Banded(bands, (0, 1, -2))),
    "sparse": Kind(((12,),), ring),
    "low-rank": Kind(((4, 2), (2, 4)), LowRank),
    "factorial": Kind(((2, 2), (2, 2)), lambda *factors: Factorial(factors)),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


class Case(NamedTuple):
    log_initial: Tensor
    parts: list[Tensor]
    transition: Structure
    log_likelihood: Tensor
    lengths: Tensor

    @property
    def dense(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (
            self.log_initial,
            self.transition.dense()[None, None],
            self.log_likelihood,
            self.lengths,
        )

    @property
    def ours(self) -> tuple[Tensor, Structure, Tensor, Tensor]:
        return self.log_initial, self.transition, self.log_likelihood, self.lengths

    @property
    def leaves(self) -> list[Tensor]:
        return [self.log_initial, self.log_likelihood, *self.parts]


def case(
    kind: Kind,
    seed: int = 0,
    *,
    zeros: bool = False,
    scale: float = 2.0,
    steps: int = 5,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """Three ragged sequences with a missing step; with ``zeros``, laws hold exact zeros."""
    rng = np.random.default_rng(seed)

    def law(*shape: int) -> Tensor:
        p = rng.gamma(1.0, size=shape)
        if zeros:
            p *= rng.random(shape) > 0.25
            p[..., rng.integers(shape[-1])] += 0.1  # no row without mass
        return torch.tensor(p / p.sum(-1, keepdims=True)).log().to(dtype).requires_grad_()

    parts = [law(*shape) for shape in kind.shapes]
    transition = kind.make(*parts)
    likelihood = torch.tensor(rng.normal(0.0, scale, (3, steps, transition.states)))
    likelihood[0, steps // 2] = 0
    lengths = torch.tensor([steps, 1, steps - 2])
    likelihood = likelihood.to(dtype).requires_grad_()
    return Case(law(1, transition.states), parts, transition, likelihood, lengths)


def each(chain: Case) -> Iterator[tuple[int, int, Any]]:
    """Number, length, and the oracle's arguments of every sequence."""
    with torch.no_grad():
        matrix = chain.transition.dense().double().numpy()
    initial, likelihood = (
        x.detach().double().numpy() for x in (chain.log_initial, chain.log_likelihood)
    )
    for n, length in enumerate(chain.lengths.tolist()):
        yield (
            n,
            length,
            (
                initial[0],
                np.stack([matrix] * (length - 1) or [matrix[:0]])[: length - 1],
                likelihood[n, :length],
            ),
        )


def close(ours: Any, theirs: Any, tolerance: float = 1e-12) -> None:
    ours = ours.detach() if isinstance(ours, Tensor) else ours
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=tolerance, atol=tolerance)


def gradients(evidence: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.tensor([1.0, -0.5, 2.0], dtype=evidence.dtype)
    # Retained: the entries of a sparse case are drawn from a leaf, in a graph that all share.
    return torch.autograd.grad((weights * evidence).sum(), leaves, retain_graph=True)


# --- the matrix that is meant ---------------------------------------------------------------------


def test_dense_is_the_matrix_of_the_definition() -> None:
    bands = torch.randn(5, 2)
    matrix = Banded(bands, (-1, 3)).dense().exp()
    for i in range(5):
        for j in range(5):
            expected = {-1: bands[i, 0].exp(), 3: bands[i, 1].exp()}.get(j - i, torch.zeros(()))
            assert matrix[i, j] == expected
    values, rows, columns = torch.randn(3), torch.tensor([2, 0, 2]), torch.tensor([0, 1, 2])
    expected = torch.zeros(3, 3)
    for value, i, j in zip(values, rows, columns, strict=True):
        expected[i, j] = value.exp()
    torch.testing.assert_close(Sparse(values, rows, columns, 3).dense().exp(), expected)
    left, right = torch.randn(4, 2), torch.randn(2, 4)
    torch.testing.assert_close(LowRank(left, right).dense().exp(), left.exp() @ right.exp())
    a, b, c = torch.randn(2, 2), torch.randn(3, 3), torch.randn(2, 2)
    kronecker = torch.kron(torch.kron(a.exp(), b.exp()), c.exp())
    torch.testing.assert_close(Factorial([a, b, c]).dense().exp(), kronecker)
    assert Factorial([a, b, c]).joined(6).sizes == (6, 2)
    torch.testing.assert_close(Factorial([a, b, c]).joined(6).dense().exp(), kronecker)


def test_few_joint_states_go_by_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = case(KINDS["factorial"])
    by_factors = exact_structured.log_evidence(*chain.ours)
    monkeypatch.setattr(exact_structured, "WHOLE_STATES", 4)
    monkeypatch.setattr(exact_structured, "_plan", None)
    whole = exact_structured.log_evidence(*chain.ours)
    torch.testing.assert_close(whole, by_factors)
    pairs = zip(gradients(whole, chain.leaves), gradients(by_factors, chain.leaves), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b)


def test_a_low_rank_zero_has_no_gradient() -> None:
    left = torch.tensor([[0.0, -INF], [-INF, 0.0]], requires_grad=True)
    right = torch.tensor([[0.0, -INF], [-1.0, -1.0]], requires_grad=True)
    dense = LowRank(left, right).dense()
    assert dense[0, 1] == -INF
    for gradient in torch.autograd.grad(dense[dense > -INF].sum(), (left, right)):
        assert gradient.isfinite().all()


# --- the sum over all paths -----------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_everything_equals_the_sum_over_all_paths(kind: Kind, zeros: bool, seed: int) -> None:
    chain = case(kind, seed, zeros=zeros)
    evidence = exact_structured.log_evidence(*chain.ours)
    by_likelihood = torch.autograd.grad(evidence.sum(), chain.log_likelihood)[0]
    filtered = exact_structured.filter_chain(*chain.ours)
    smoothed = exact_structured.smooth_chain(*chain.ours).exp()
    paths, log_joint = exact_structured.most_likely_path(*chain.ours)
    for n, length, arguments in each(chain):
        truth = oracles.posterior(*arguments)
        close(evidence[n], truth.log_evidence)
        if truth.log_evidence == -INF:
            assert by_likelihood[n].abs().max() == 0
            assert log_joint[n] == -INF
            continue
        close(by_likelihood[n, :length], truth.marginals)
        assert by_likelihood[n, length:].abs().sum() == 0
        close(filtered.log_beliefs[n, :length].exp(), oracles.filter_beliefs(*arguments))
        close(filtered.log_increments[n, :length], oracles.log_increments(*arguments))
        close(smoothed[n, :length], truth.marginals)
        close(log_joint[n], truth.best_log_joint)
        close(oracles.log_joint(paths[n, :length].numpy(), *arguments), truth.best_log_joint)
        assert (paths[n, length:] == -1).all()


@every_kind
def test_draws_follow_the_posterior_of_paths(kind: Kind) -> None:
    """Chi-square at 1e-4 for each of four kinds: fails by chance once in 2500 runs."""
    chain = case(kind, 5, zeros=True, steps=4, scale=0.7)
    generator = torch.Generator().manual_seed(1)
    draws = exact_structured.sample_paths(*chain.ours, 20_000, generator)
    assert (draws[:, 1, 1:] == -1).all()
    _, length, arguments = next(each(chain))
    truth = oracles.posterior(*arguments)
    states = chain.transition.states
    code = states ** np.arange(length - 1, -1, -1)
    counts = np.bincount(draws[:, 0].numpy() @ code, minlength=states**length)
    expected = 20_000 * truth.probabilities
    assert counts[expected == 0].sum() == 0
    often = expected > 5
    pooled = [*expected[often], expected[~often].sum()], [*counts[often], counts[~often].sum()]
    kept = np.array(pooled[0]) > 0
    assert chisquare(np.array(pooled[1])[kept], np.array(pooled[0])[kept]).pvalue > 1e-4


# --- the dense path -------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_gradients_equal_those_through_the_dense_matrix(
    kind: Kind, zeros: bool, scale: float
) -> None:
    """With the sharp likelihoods all sequences but that of one step are done again in logs."""
    chain = case(kind, 3, zeros=zeros, scale=scale, steps=12)
    evidence = exact_structured.log_evidence(*chain.ours)
    dense = exact.log_evidence(*chain.dense)
    torch.testing.assert_close(evidence, dense)
    pairs = zip(gradients(evidence, chain.leaves), gradients(dense, chain.leaves), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@every_kind
def test_gradients_equal_finite_differences(kind: Kind) -> None:
    chain = case(kind, 4)

    def evidence(log_initial: Tensor, log_likelihood: Tensor, *parts: Tensor) -> Tensor:
        transition = kind.make(*parts)
        return exact_structured.log_evidence(log_initial, transition, log_likelihood, chain.lengths)

    assert torch.autograd.gradcheck(evidence, tuple(chain.leaves))


LARGE = {
    "walk": Kind(((40, 3),), lambda bands: Banded(bands, (-1, 0, 1))),
    "low-rank": Kind(((40, 5), (5, 40)), LowRank),
    "binary": Kind(((2, 2),) * 6, lambda *factors: Factorial(factors)),
    "uneven": Kind(((3, 3), (20, 20), (2, 2)), lambda *factors: Factorial(factors)),
}


@pytest.mark.parametrize("kind", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_more_states_agree_with_the_dense_path(kind: Kind, scale: float) -> None:
    chain = case(kind, 6, scale=scale, steps=9)
    evidence = exact_structured.log_evidence(*chain.ours)
    dense = exact.log_evidence(*chain.dense)
    torch.testing.assert_close(evidence, dense)
    pairs = zip(gradients(evidence, chain.leaves), gradients(dense, chain.leaves), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    for name in ("filter_chain", "smooth_chain", "most_likely_path"):
        ours, theirs = (
            getattr(module, name)(*arguments)
            for module, arguments in ((exact_structured, chain.ours), (exact, chain.dense))
        )
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", [KINDS["banded"], LARGE["low-rank"]], ids=["banded", "low-rank"])
@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_single_precision_is_near_double(kind: Kind, scale: float) -> None:
    single = case(kind, 7, scale=scale, dtype=torch.float32)
    doubles = [x.detach().double().requires_grad_() for x in single.leaves]
    transition = kind.make(*doubles[2:])
    evidence = exact_structured.log_evidence(*single.ours)
    double = exact_structured.log_evidence(doubles[0], transition, doubles[1], single.lengths)
    torch.testing.assert_close(evidence.double(), double, rtol=1e-5, atol=1e-5)
    pairs = zip(gradients(evidence, single.leaves), gradients(double, doubles), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-3)


# --- coincidences and limits ----------------------------------------------------------------------


def test_independent_chains_observed_apart_have_the_sum_of_their_evidences() -> None:
    """A likelihood that is a product over the factors splits the evidence into those of chains."""
    generator = torch.Generator().manual_seed(0)
    sizes = 3, 2, 4, 2
    new = {"generator": generator, "dtype": torch.float64}
    initial = [torch.randn(1, k, **new).log_softmax(-1) for k in sizes]
    factors = [torch.randn(k, k, **new).log_softmax(-1) for k in sizes]
    likelihood = [torch.randn(2, 30, k, **new) for k in sizes]

    def joint(parts: list[Tensor]) -> Tensor:
        total = parts[0]
        for part in parts[1:]:
            total = (total.unsqueeze(-1) + part.unsqueeze(-2)).flatten(-2)
        return total

    whole = exact_structured.log_evidence(joint(initial), Factorial(factors), joint(likelihood))
    alone = [
        exact.log_evidence(a, b[None, None], c)
        for a, b, c in zip(initial, factors, likelihood, strict=True)
    ]
    torch.testing.assert_close(whole, torch.stack(alone).sum(0))
    paths, best = exact_structured.most_likely_path(
        joint(initial), Factorial(factors), joint(likelihood)
    )
    single = [
        exact.most_likely_path(a, b[None, None], c)
        for a, b, c in zip(initial, factors, likelihood, strict=True)
    ]
    torch.testing.assert_close(best, torch.stack([x for _, x in single]).sum(0))
    digits = np.stack(np.unravel_index(paths.numpy(), sizes))
    assert (digits == np.stack([x.numpy() for x, _ in single])).all()


def test_one_law_written_in_four_ways() -> None:
    """A matrix as all its diagonals, all its entries, one factor, and of full rank."""
    chain = case(Kind(((5, 5),), lambda matrix: Factorial([matrix])), 8, zeros=True)
    matrix = chain.parts[0].detach()
    offsets = tuple(range(-4, 5))
    place = torch.arange(5).unsqueeze(-1) + torch.tensor(offsets)
    bands = matrix.gather(1, place.clamp(0, 4))
    rows, columns = (matrix > -INF).nonzero().unbind(-1)
    identity = torch.eye(5, dtype=torch.float64).log()
    laws = [
        Factorial([matrix]),
        Banded(bands, offsets),
        Sparse(matrix[rows, columns], rows, columns, 5),
        LowRank(identity, matrix),
        LowRank(matrix, identity),
    ]
    arguments = chain.log_likelihood.detach(), chain.lengths
    expected = exact.log_evidence(*chain.dense).detach()
    smoothed = exact.smooth_chain(*chain.dense)
    for law in laws:
        torch.testing.assert_close(law.dense(), matrix)
        evidence = exact_structured.log_evidence(chain.log_initial.detach(), law, *arguments)
        torch.testing.assert_close(evidence, expected)
        ours = exact_structured.smooth_chain(chain.log_initial.detach(), law, *arguments)
        torch.testing.assert_close(ours, smoothed)


def test_numbers_beyond_the_ends_of_bands_do_not_matter() -> None:
    chain = case(KINDS["banded"], 9)
    bands = chain.parts[0].detach().clone()
    plain = exact_structured.log_evidence(*chain.ours).detach()
    for bad in (NAN, INF, -INF):
        bands[3, 1] = bands[0, 2] = bands[1, 2] = bad
        leaf = bands.clone().requires_grad_()
        law = Banded(leaf, (0, 1, -2))
        arguments = chain.log_initial, law, chain.log_likelihood, chain.lengths
        evidence = exact_structured.log_evidence(*arguments)
        torch.testing.assert_close(evidence.detach(), plain)
        (gradient,) = torch.autograd.grad(evidence.sum(), leaf)
        assert gradient.isfinite().all()
        assert gradient[3, 1] == gradient[0, 2] == gradient[1, 2] == 0


def left_right(states: int, steps: int) -> Case:
    """Stays in the first state against all evidence: predictions fall below the least float32."""
    bands = torch.tensor([math.log1p(-1e-9), math.log(1e-9)]).repeat(states, 1)
    bands[-1, 0] = 0
    bands = bands.requires_grad_()
    initial = torch.full((1, states), -INF)
    initial[0, 0] = 0
    likelihood = torch.zeros(1, steps, states)
    likelihood[:, : steps // 2, 1:] = -30.0
    likelihood[:, steps // 2 :, :-1] = -40.0
    law = Banded(bands, (0, 1))
    initial, likelihood = initial.requires_grad_(), likelihood.requires_grad_()
    return Case(initial, [bands], law, likelihood, torch.tensor([steps]))


def test_rows_below_the_floor_are_done_again_and_exact() -> None:
    chain = left_right(8, 60)
    layout, parts = exact_structured._plan(chain.transition)
    compiled = exact_structured_compiled
    rows = compiled.Chain.of(layout, parts, chain.log_initial, chain.log_likelihood, None)
    assert compiled.Evidence(rows, both=False).failed.all()
    evidence = exact_structured.log_evidence(*chain.ours)
    (_, _, arguments), *_ = each(chain)
    truth, log_filter, log_smoothed = oracles.log_forward_backward(*arguments)
    close(evidence, [truth], 1e-5)
    (marginals,) = torch.autograd.grad(evidence, chain.log_likelihood, retain_graph=True)
    close(marginals[0], np.exp(log_smoothed), 1e-4)
    beliefs = exact_structured.filter_chain(*chain.ours).log_beliefs[0]
    reached = np.isfinite(log_filter)
    assert (np.isfinite(beliefs.numpy()) == reached).all()
    np.testing.assert_allclose(beliefs.numpy()[reached], log_filter[reached], rtol=1e-4, atol=1e-4)
    (uses,) = torch.autograd.grad(evidence, chain.parts)
    assert float(uses.sum()) == pytest.approx(59, rel=1e-4)  # one move a step


@every_kind
def test_an_impossible_step_gives_no_gradient_and_leaves_the_others_alone(kind: Kind) -> None:
    chain = case(kind, 10)
    plain = exact_structured.log_evidence(*chain.ours).detach()
    with torch.no_grad():
        chain.log_likelihood[2, 1] = -INF
    evidence = exact_structured.log_evidence(*chain.ours)
    assert evidence[2] == -INF
    torch.testing.assert_close(evidence[:2].detach(), plain[:2])
    dense = exact.log_evidence(*chain.dense)
    pairs = zip(gradients(evidence, chain.leaves), gradients(dense, chain.leaves), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    filtered = exact_structured.filter_chain(*chain.ours)
    torch.testing.assert_close(filtered, exact.filter_chain(*chain.dense))
    assert (exact_structured.sample_paths(*chain.ours, 3)[:, 2, :3] >= 0).all()


def test_a_nan_is_handed_on() -> None:
    for kind in KINDS.values():
        chain = case(kind, 11)
        with torch.no_grad():
            chain.log_likelihood[2, 1, 0] = NAN
        evidence = exact_structured.log_evidence(*chain.ours)
        assert evidence[:2].isfinite().all()
        assert evidence[2].isnan()


def test_a_single_state_and_a_single_step() -> None:
    one = torch.zeros(1, 1, dtype=torch.float64)
    likelihood = torch.randn(2, 4, 1, dtype=torch.float64)
    for law in (Banded(one, (0,)), LowRank(one, one), Factorial([one, one])):
        evidence = exact_structured.log_evidence(one, law, likelihood)
        torch.testing.assert_close(evidence, likelihood.sum((1, 2)))
    chain = case(KINDS["sparse"], 12)
    first = chain.log_likelihood[:, :1].detach()
    evidence = exact_structured.log_evidence(chain.log_initial, chain.transition, first)
    torch.testing.assert_close(evidence, (chain.log_initial + first[:, 0]).logsumexp(-1))
    (unused,) = gradients(evidence, chain.parts)
    assert unused.abs().sum() == 0


@every_kind
def test_an_initial_law_for_each_sequence(kind: Kind) -> None:
    chain = case(kind, 13)
    initial = torch.randn(3, chain.transition.states, dtype=torch.float64).log_softmax(-1)
    initial = initial.requires_grad_()
    found = []
    for function, law in (
        (exact_structured.log_evidence, chain.transition),
        (exact.log_evidence, chain.dense[1]),
    ):
        evidence = function(initial, law, chain.log_likelihood, chain.lengths)  # type: ignore[operator]
        found.append((evidence, *torch.autograd.grad(evidence.sum(), initial)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_the_number_of_threads_changes_nothing(
    kind: Kind, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact_compiled, "SERIAL_WORK", 0)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            chain = case(kind, 14, scale=scale, steps=20)
            evidence = exact_structured.log_evidence(*chain.ours)
            smoothed = exact_structured.smooth_chain(*chain.ours)
            best = exact_structured.most_likely_path(*chain.ours)[1]
            found.append([evidence, *gradients(evidence, chain.leaves), smoothed, best])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14)


def test_the_gradient_can_be_taken_twice() -> None:
    for kind in KINDS.values():
        chain = case(kind, 15)
        evidence = exact_structured.log_evidence(*chain.ours).sum()
        first = torch.autograd.grad(evidence, chain.leaves, retain_graph=True)
        for a, b in zip(first, torch.autograd.grad(evidence, chain.leaves), strict=True):
            assert torch.equal(a, b)


# --- bad input ------------------------------------------------------------------------------------

WIDE = torch.zeros(3, 2)
INDEX = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Banded(WIDE, (0,)), r"log_bands must have shape \(K, 1\).* got \(3, 2\)"),
        (lambda: Banded(WIDE, (0, 0)), r"offsets must be different .* got \(0, 0\)"),
        (lambda: Banded(WIDE, (0, 3)), r"offsets must be .* of size < 3"),
        (lambda: Banded(WIDE.long(), (0, 1)), "log_bands must be a float32 or float64"),
        (lambda: Sparse(WIDE, INDEX, INDEX, 2), r"log_values must have shape \(E,\)"),
        (lambda: Sparse(WIDE[0], INDEX, INDEX.float(), 2), "columns must be int64 of shape"),
        (lambda: Sparse(WIDE[0], INDEX, INDEX, 1), r"rows must be in 0\.\.0; got 0\.\.1"),
        (lambda: Sparse(WIDE[0], 0 * INDEX, 0 * INDEX, 2), "must name every entry once"),
        (lambda: Sparse(WIDE[0], INDEX, INDEX, 2.0), "states must be a whole number >= 1"),  # type: ignore[arg-type]
        (lambda: LowRank(WIDE, WIDE), r"log_left, log_right must have shapes .* got \(3, 2\)"),
        (lambda: LowRank(WIDE, WIDE.double().mT), "log_right must be torch.float32 on cpu"),
        (lambda: Factorial([]), "at least one matrix; got none"),
        (lambda: Factorial([WIDE]), r"log_transitions\[0\] must have shape \(K_f, K_f\)"),
    ],
)
def test_structures_that_make_no_sense_are_refused(
    make: Callable[[], Structure], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transition": torch.zeros(4, 4)}, "transition must be a Banded, .* got Tensor"),
        ({"log_likelihood": torch.zeros(2, 3, 5, 4)}, r"shape \(N, T, 4\).* leading draws"),
        ({"log_likelihood": torch.zeros(3, 5, 3)}, r"shape \(N, T, 4\).* got \(3, 5, 3\)"),
        ({"log_initial": torch.zeros(2, 4)}, r"log_initial must have shape \(3\|1, 4\)"),
        ({"log_initial": torch.zeros(1, 4)}, "log_initial must be torch.float64"),
        ({"lengths": torch.tensor([1, 2, 9])}, r"lengths must be in 1\.\.5; got 1\.\.9"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    chain = case(KINDS["banded"], 16)
    names = "log_initial", "transition", "log_likelihood", "lengths"
    arguments = dict(zip(names, chain.ours, strict=True)) | change
    for function in (
        exact_structured.log_evidence,
        exact_structured.filter_chain,
        exact_structured.most_likely_path,
    ):
        with pytest.raises(ValueError, match=message):
            function(**arguments)  # type: ignore[operator]


def test_viterbi_refuses_a_low_rank_chain_too_large_for_its_matrix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exact_structured, "LARGEST_DENSE", 3)
    with pytest.raises(ValueError, match=r"LowRank of more than 3 states, .* got 4"):
        exact_structured.most_likely_path(*case(KINDS["low-rank"]).ours)


def test_a_number_of_draws_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="n must be a whole number >= 1; got 0"):
        exact_structured.sample_paths(*case(KINDS["banded"]).ours, 0)
