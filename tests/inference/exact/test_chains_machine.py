"""What belongs to the machine code alone: choices, threads, rows done again, long sequences."""

import math
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from beliefzoo.inference.exact import chains as exact
from beliefzoo.inference.exact import chains_cpu as exact_compiled
from beliefzoo.inference.exact import chains_torch as exact_kernels
from checkout import ROOT

Chain = tuple[Tensor, Tensor, Tensor]


def chain(
    states: int,
    sequences: int,
    steps: int,
    *,
    matrices: int = 1,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Chain:
    generator = torch.Generator().manual_seed(seed)
    shapes = (1, states), (1, matrices, states, states), (sequences, steps, states)
    initial, transition, likelihood = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    laws = initial.log_softmax(-1), transition.log_softmax(-1), 2 * likelihood
    return tuple(x.to(dtype) for x in laws)  # type: ignore[return-value]


def evidence_and_gradient(laws: Chain, **further: Any) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in laws]
    evidence = exact.log_evidence(*leaves, **further)
    return [evidence.detach(), *torch.autograd.grad(evidence.sum(), leaves)]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_recursions", lambda tensor: exact_kernels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exp_is_exact_to_rounding(dtype: torch.dtype) -> None:
    """Seen through a filter without dynamics, whose beliefs are a softmax of one observation."""
    x = torch.linspace(-80, 0, 4001, dtype=torch.float64).to(dtype)
    likelihood = torch.stack([x, torch.zeros_like(x)], -1).unsqueeze(1)
    initial = torch.full((1, 2), 0.5, dtype=dtype).log()
    transition = torch.full((1, 1, 2, 2), 0.5, dtype=dtype).log()
    chain = exact_compiled._Chain.of(initial, transition, likelihood, None, None)
    beliefs = exact_compiled._Evidence(chain, both=False).beliefs[:, 0]
    ratio = (beliefs[:, 0] / beliefs[:, 1]).double()
    relative = ratio / x.double().exp() - 1
    assert relative.abs().max() < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("states", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 31, 33, 40])
def test_every_number_of_states_agrees_with_torch(
    states: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loops over eight, four and single states, and the grouped product, each with its rest."""
    laws = chain(states, 19, 6)
    lengths = torch.tensor([6, 1, 5, 2, 6, 3, 4, 1, 6, 6, 2, 5, 3, 3, 6, 4, 1, 2, 6])
    ours = evidence_and_gradient(laws, lengths=lengths)
    in_torch(monkeypatch)
    for a, b in zip(ours, evidence_and_gradient(laws, lengths=lengths), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("sequences", [8, 9, 16, 23])
@pytest.mark.parametrize("steps", [1, 2, 63, 64, 65, 130])
def test_blocks_of_rows_equal_single_rows(
    sequences: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few states are worked on in blocks, ragged and with a rest; weights differ by row."""
    initial, transition, likelihood = chain(4, sequences, steps)
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(1, steps + 1, (sequences,), generator=generator)
    weights = torch.randn(sequences, generator=generator, dtype=torch.float64)
    found = []
    for blocks in (True, False):
        if not blocks:
            monkeypatch.setattr(exact_compiled, "LANE_STATES", 0)
        leaves = [x.clone().requires_grad_() for x in (initial, transition, likelihood)]
        evidence = exact.log_evidence(*leaves, lengths)
        found.append([evidence.detach(), *torch.autograd.grad(evidence, leaves, weights)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_an_impossible_step_in_a_block_is_done_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    initial, transition, likelihood = chain(4, 9, 20)
    likelihood[3, 5] = -math.inf
    ours = evidence_and_gradient((initial, transition, likelihood))
    assert ours[0][3] == -math.inf
    in_torch(monkeypatch)
    for a, b in zip(ours, evidence_and_gradient((initial, transition, likelihood)), strict=True):
        torch.testing.assert_close(a, b)


def test_choices_equal_matrices_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    initial, transition, likelihood = chain(3, 4, 7, matrices=2)
    choice = torch.randint(2, (4, 6), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([7, 5, 1, 2])
    every = transition.squeeze(0)[choice]  # (N, T-1, K, K)
    ours = evidence_and_gradient((initial, transition, likelihood), lengths=lengths, choice=choice)
    plain = evidence_and_gradient((initial, every, likelihood), lengths=lengths)
    summed = torch.stack([plain[2][choice == a].sum(0) for a in range(2)]).unsqueeze(0)
    plain[2] = summed
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)
    for name in ("filter_chain", "smooth_chain", "pair_marginals", "expected_transitions"):
        function = getattr(exact, name)
        chosen = function(initial, transition, likelihood, lengths, choice)
        torch.testing.assert_close(chosen, function(initial, every, likelihood, lengths))
    by_path = exact.most_likely_path(initial, transition, likelihood, lengths, choice)
    for a, b in zip(
        by_path, exact.most_likely_path(initial, every, likelihood, lengths), strict=True
    ):
        torch.testing.assert_close(a, b)
    draws = [
        exact.sample_paths(*laws, lengths, 5, torch.Generator().manual_seed(0), which)
        for laws, which in (
            ((initial, transition, likelihood), choice),
            ((initial, every, likelihood), None),
        )
    ]
    assert torch.equal(*draws)
    in_torch(monkeypatch)
    again = evidence_and_gradient((initial, transition, likelihood), lengths=lengths, choice=choice)
    for a, b in zip(ours, again, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("segment", [1, 10, 25, 60])
def test_segments_of_rows_that_fall_below_the_floor(segment: int) -> None:
    """Also where the future says for certain what the filter at a border all but excludes."""
    leaves = [x.requires_grad_() for x in left_right(8, 60, torch.float64)]
    found = []
    for size in (None, segment):
        evidence = exact.log_evidence(*leaves, segment=size)
        found.append([evidence.detach(), *torch.autograd.grad(evidence.sum(), leaves)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_segments_take_choices() -> None:
    initial, transition, likelihood = chain(3, 4, 7, matrices=2)
    choice = torch.arange(24).reshape(4, 6) % 2
    whole = evidence_and_gradient((initial, transition, likelihood), choice=choice)
    parts = evidence_and_gradient((initial, transition, likelihood), choice=choice, segment=3)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b)


def test_the_bound_of_any_beliefs_takes_choices() -> None:
    initial, transition, likelihood = chain(3, 4, 7, matrices=2)
    choice = torch.randint(2, (4, 6), generator=torch.Generator().manual_seed(1))
    every = transition.squeeze(0)[choice].clone().requires_grad_()
    transition = transition.clone().requires_grad_()
    beliefs = likelihood.log_softmax(-1).requires_grad_()
    found = []
    for matrices, which in ((transition, choice), (every, None)):
        predicted = exact.predicted_beliefs(initial, matrices, beliefs, which)
        marginals = exact.backward_marginals(matrices, beliefs, predicted, None, which)
        bound = (marginals * (predicted + likelihood - beliefs)).sum((-1, -2))
        found.append([bound, *torch.autograd.grad(bound.sum(), (matrices, beliefs))])
    (bound, counts, adjoint), (plain, each, expected) = found
    torch.testing.assert_close(bound, plain)
    torch.testing.assert_close(adjoint, expected)
    torch.testing.assert_close(
        counts, torch.stack([each[choice == a].sum(0) for a in range(2)]).unsqueeze(0)
    )


@pytest.mark.parametrize("kind", ["fixed", "by_step", "by_sequence", "chosen"])
def test_joined_beliefs_equal_the_two_passes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bound and gradient by the fused sweeps, against the careful recursions by autograd."""
    matrices = {"fixed": 1, "by_step": 6, "by_sequence": 1, "chosen": 2}[kind]
    initial, transition, likelihood = chain(5, 4, 7, matrices=matrices)
    if kind == "by_sequence":
        transition = transition + torch.linspace(0, 0.5, 4)[:, None, None, None]
        transition = (transition * torch.linspace(1, 2, 5)).log_softmax(-1)
    choice = torch.arange(24).reshape(4, 6) % 2 if kind == "chosen" else None
    lengths = torch.tensor([7, 5, 1, 2])
    found = []
    for fused in (True, False):
        if not fused:
            monkeypatch.setattr(exact, "_joined", lambda *arguments: None)
        beliefs = (0.3 * likelihood).log_softmax(-1)
        leaves = [x.clone().requires_grad_() for x in (initial, transition, likelihood, beliefs)]
        bound = exact.belief_elbo(*leaves, lengths, choice)
        pair = exact.join_beliefs(*leaves[:2], leaves[3], lengths, choice)
        inside = torch.arange(7) < lengths[:, None]
        other = (pair[0][inside] * pair[1][inside]).sum()
        weights = torch.linspace(0.5, 1.5, 4, dtype=torch.float64)
        found.append(
            [
                bound.detach(),
                *torch.autograd.grad(bound, leaves, weights, retain_graph=True),
                *torch.autograd.grad(other, [*leaves[:2], leaves[3]]),
            ]
        )
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("states", "sequences"), [(3, 9), (40, 9), (3, 1), (40, 1), (40, 3)])
def test_the_number_of_threads_changes_no_number(
    states: int, sequences: int, monkeypatch: pytest.MonkeyPatch, threads: None
) -> None:
    """With few rows the messages run beside the filter: the same sums in the same order."""
    monkeypatch.setattr(exact_compiled, "SERIAL_WORK", 0)
    laws = chain(states, sequences, 150)
    lengths = torch.arange(150, 150 - 7 * sequences, -7)
    found = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        found.append(evidence_and_gradient(laws, lengths=lengths))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14)


def left_right(states: int, steps: int, dtype: torch.dtype) -> Chain:
    """A path 0, 1, 2, … that stays in the first state for long, against all evidence.

    The last state explains every step best by far: its belief falls below the least float before
    the chain can have got there.
    """
    initial = torch.full((1, states), -math.inf, dtype=torch.float64)
    initial[0, 0] = 0
    transition = torch.full((states, states), -math.inf, dtype=torch.float64)
    for state in range(states - 1):
        transition[state, state] = math.log1p(-1e-9)
        transition[state, state + 1] = math.log(1e-9)
    transition[-1, -1] = 0
    likelihood = torch.zeros(1, steps, states, dtype=torch.float64)
    likelihood[:, : steps // 2, 1:] = -30.0
    likelihood[:, steps // 2 :, :-1] = -40.0
    return initial.to(dtype), transition[None, None].to(dtype), likelihood.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_fall_below_the_floor_are_done_again(dtype: torch.dtype) -> None:
    laws = left_right(8, 60, dtype)
    run = exact_compiled._Evidence(exact_compiled._Chain.of(*laws, None, None), both=False)
    assert run.failed.all()
    ours = evidence_and_gradient(laws)
    # The textbook recursion in logs, by autograd.
    leaves = [x.double().requires_grad_() for x in laws]
    log_alpha = leaves[0][0] + leaves[2][0, 0]
    for t in range(1, 60):
        terms = log_alpha.unsqueeze(-1) + leaves[1][0, 0]
        possible = terms.amax(0) > -math.inf
        total = torch.full_like(log_alpha, -math.inf)
        total[possible] = terms[:, possible].logsumexp(0)
        log_alpha = total + leaves[2][0, t]
    evidence = log_alpha.logsumexp(-1)
    expected = [evidence.detach()[None], *torch.autograd.grad(evidence, leaves)]
    tolerance = 1000 * torch.finfo(dtype).eps
    for a, b in zip(ours, expected, strict=True):
        b = torch.nan_to_num(b, nan=0.0)
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)


def test_a_row_that_fails_does_not_touch_the_others() -> None:
    """One of three sequences holds an impossible step; the others give what they give alone."""
    initial, transition, likelihood = chain(8, 3, 60, dtype=torch.float32)
    likelihood[1, 30] = -math.inf
    rows = exact_compiled._Chain.of(initial, transition, likelihood, None, None)
    assert exact_compiled._Evidence(rows, False).failed.tolist() == [False, True, False]
    together = evidence_and_gradient((initial, transition, likelihood))
    parts = [evidence_and_gradient((initial, transition, x[None])) for x in likelihood]
    torch.testing.assert_close(together[0], torch.cat([part[0] for part in parts]))
    torch.testing.assert_close(together[3], torch.cat([part[3] for part in parts]))
    torch.testing.assert_close(together[2], sum(part[2] for part in parts))


def textbook(laws: Chain) -> list[Tensor]:
    """Evidence of every sequence and its gradient: sums of logs in float64, by autograd."""
    leaves = [x.double().requires_grad_() for x in laws]
    initial, transition, likelihood = leaves
    log_alpha = initial + likelihood[:, 0]
    for t in range(1, likelihood.shape[1]):
        terms = log_alpha.unsqueeze(-1) + transition[0, 0]
        possible = terms.amax(-2) > -math.inf
        summed = terms.transpose(-1, -2)[possible].logsumexp(-1)
        log_alpha = torch.full_like(log_alpha, -math.inf).masked_scatter(possible, summed)
        log_alpha = log_alpha + likelihood[:, t]
    evidence = log_alpha.logsumexp(-1)
    gradients = torch.autograd.grad(evidence.sum(), leaves)
    return [evidence.detach(), *(g.nan_to_num(0.0) for g in gradients)]


def logs(*rows: Any) -> list[Tensor]:
    return [torch.tensor(row, dtype=torch.float64).log().float() for row in rows]


SMALL: dict[str, Chain] = {
    # What the first belief rounds to zero explains all later steps.
    "small in a dense law": (
        *(x[None] for x in logs([1.0, 1e-24, 1e-24])),
        logs([[1e-3, 1e-24, 0.999], [1e-24, 1.0, 1e-24], [0.4, 0.3, 0.3]])[0][None, None],
        torch.tensor([[[-88.0, 0.0, -200.0], [-60.0, -60.0, 0.0]]]),
    ),
    "small beside likely transitions": (
        *(x[None] for x in logs([1.0, 1e-24, 1e-24])),
        logs([[0.001, 1e-9, 0.999], [1e-9, 1.0, 1e-9], [0.4, 0.3, 0.3]])[0][None, None],
        torch.tensor([[[-80.0, 0.0, -200.0], [-60.0, -60.0, 0.0]]]),
    ),
    "small where a scale is small": (
        *(x[None] for x in logs([0.5, 0.0, 0.5])),
        logs([[0.05, 1e-20, 0.95], [0.0, 1.0, 0.0], [0.05, 1e-20, 0.95]])[0][None, None],
        torch.tensor([[[0.0, 0.0, 0.0], [-86.9, 0.0, -86.9], [0.0, -math.inf, -40.0]]]),
    ),
}


@pytest.mark.parametrize("copies", [1, 9])
@pytest.mark.parametrize("case", SMALL)
def test_what_was_rounded_to_zero_and_matters_later(case: str, copies: int) -> None:
    initial, transition, likelihood = SMALL[case]
    laws = initial, transition, likelihood.repeat(copies, 1, 1)
    for a, b in zip(evidence_and_gradient(laws), textbook(laws), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2e-5, atol=2e-5)


def test_left_right_chains_need_no_logs_where_nothing_is_small() -> None:
    """States that cannot be reached yet are no reason to do a row again."""
    initial, transition, _ = left_right(4, 2, torch.float64)
    transition = transition.where(transition == -math.inf, math.log(0.5))
    likelihood = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(0)).double()
    rows = exact_compiled._Chain.of(initial, transition, likelihood, None, None)
    assert not exact_compiled._Evidence(rows, both=False).failed.any()


def test_gradients_of_two_leaves_share_no_memory() -> None:
    leaves = [x.clone().requires_grad_() for x in chain(2, 1, 3)]
    for _ in range(2):
        exact.log_evidence(*leaves).sum().backward()
    once = evidence_and_gradient(chain(2, 1, 3))
    for leaf, gradient in zip(leaves, once[1:], strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad, 2 * gradient)


def test_the_choice_may_change_after_the_evidence() -> None:
    initial, transition, likelihood = chain(3, 2, 5, matrices=2)
    choice = torch.zeros(2, 4, dtype=torch.int64)
    transition.requires_grad_()
    evidence = exact.log_evidence(initial, transition, likelihood, choice=choice)
    choice.fill_(1)
    (gradient,) = torch.autograd.grad(evidence.sum(), transition)
    assert gradient[0, 1].abs().max() == 0


def test_laws_need_not_be_normalised() -> None:
    initial, transition, likelihood = chain(3, 9, 300)
    shifted = exact.log_evidence(initial, transition + 5, likelihood)
    expected = exact.log_evidence(initial, transition, likelihood) + 5 * 299
    torch.testing.assert_close(shifted, expected)


def test_joined_beliefs_without_mass_have_no_gradient() -> None:
    initial, transition, _ = chain(3, 2, 4)
    beliefs = torch.tensor([0.5, 0.5, 0.0]).double().log().expand(2, 4, 3).clone()
    leaves = [transition.clone().requires_grad_(), beliefs.requires_grad_()]
    _, marginals = exact.join_beliefs(initial, leaves[0], leaves[1])
    entropy = torch.where(marginals > 0, marginals * marginals.log(), 0).sum()
    for gradient in torch.autograd.grad(entropy, leaves):
        assert gradient.isfinite().all()


def test_an_impossible_bound_has_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    initial, transition, likelihood = chain(3, 2, 4)
    likelihood[0, 1, 2] = -math.inf
    beliefs = torch.zeros(2, 4, 3).double().log_softmax(-1)
    alone = likelihood[1:], beliefs[1:]
    for fused in (True, False):
        if not fused:
            monkeypatch.setattr(exact, "_joined", lambda *arguments: None)
        found = []
        for data in ((likelihood, beliefs), alone):
            leaf = transition.clone().requires_grad_()
            bound = exact.belief_elbo(initial, leaf, *data)
            found.append(torch.autograd.grad(bound.nan_to_num(neginf=0.0).sum(), leaf)[0])
        torch.testing.assert_close(*found)


def test_the_evidence_stays_when_a_row_fails_in_the_gradient() -> None:
    """Messages that fall below the floor are noticed in the gradient only."""
    initial, transition, likelihood = left_right(6, 40, torch.float64)
    leaf = likelihood.flip(1).clone().requires_grad_()
    evidence = exact.log_evidence(initial, transition, leaf)
    before = evidence.detach().clone()
    torch.autograd.grad(evidence.sum(), leaf, retain_graph=True)
    torch.autograd.grad((evidence**2).sum(), leaf)
    assert torch.equal(evidence.detach(), before)


def test_denormal_numbers_are_left_as_they_were() -> None:
    """The kernels round them to zero; the thread that called does not, before or after."""
    small = torch.tensor([1e-40])
    for flush in (False, True):
        torch.set_flush_denormal(flush)
        try:
            exact.log_evidence(*chain(3, 9, 5))
            assert bool((small * 0.5 > 0).all()) is not flush
        finally:
            torch.set_flush_denormal(False)


def test_a_nan_is_handed_on() -> None:
    initial, transition, likelihood = chain(3, 2, 5)
    likelihood[1, 2, 0] = math.nan
    evidence = exact.log_evidence(initial, transition, likelihood)
    assert evidence[0].isfinite()
    assert evidence[1].isnan()


def test_a_change_in_place_before_the_gradient_is_noticed() -> None:
    laws = [x.requires_grad_() for x in chain(3, 2, 5)]
    moved = laws[2] + 0
    evidence = exact.log_evidence(laws[0], laws[1], moved)
    moved.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        evidence.sum().backward()


def test_the_gradient_can_be_taken_twice(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_compiled, "SERIAL_WORK", 0)
    for number in (1, 2):
        torch.set_num_threads(number)
        leaves = [x.requires_grad_() for x in chain(3, 2, 5)]
        evidence = exact.log_evidence(*leaves).sum()
        first = torch.autograd.grad(evidence, leaves, retain_graph=True)
        for a, b in zip(first, torch.autograd.grad(evidence, leaves), strict=True):
            assert torch.equal(a, b)


def test_no_gradient_is_computed_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The transitions' part costs as much as a sweep: it is left out when they are constant."""
    monkeypatch.setattr(exact_compiled._Evidence, "_pairs", None)
    initial, transition, likelihood = chain(3, 2, 5)
    likelihood.requires_grad_()
    exact.log_evidence(initial, transition, likelihood).sum().backward()
    assert likelihood.grad is not None


def test_ten_to_the_fifth_steps_in_float32() -> None:
    """Evidence to 1e-6, expected transitions and marginals to 1e-5 of float64."""
    laws = chain(5, 1, 100_000, dtype=torch.float32)
    single = evidence_and_gradient(laws)
    double = evidence_and_gradient(tuple(x.double() for x in laws))  # type: ignore[arg-type]
    torch.testing.assert_close(single[0].double(), double[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(single[2].double(), double[2], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(single[3].double(), double[3], rtol=0, atol=1e-5)


def _on_threads(queue: "multiprocessing.Queue[int]") -> None:
    done: list[int] = []
    exact_compiled.together([partial(done.append, number) for number in range(3)], 10**9)
    queue.put(sum(done))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_threads_are_made_anew_after_a_fork(threads: None) -> None:
    torch.set_num_threads(2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    _on_threads(queue)
    child = context.Process(target=_on_threads, args=(queue,))
    child.start()
    try:
        assert [queue.get(timeout=60), queue.get(timeout=60)] == [3, 3]
    finally:
        child.join(timeout=10)
        child.kill()


def test_the_package_is_imported_without_the_kernels() -> None:
    """Loading them takes half a second, which whoever only reads a file need not spend."""
    name = "beliefzoo.inference.exact.chains_machine"
    code = f"import sys, beliefzoo.inference; sys.exit({name!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "src", timeout=120)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (torch.zeros(2, 5, dtype=torch.int64), r"choice must be int64 of shape \(2, 4\)"),
        (torch.zeros(2, 4), r"choice must be int64 .* got torch.float32"),
        (torch.full((2, 4), 3), r"choice must be in 0\.\.2, .* got 3\.\.3"),
        (torch.full((2, 4), -1), r"choice must be in 0\.\.2"),
    ],
)
def test_choices_that_do_not_fit_are_refused(choice: Tensor, message: str) -> None:
    initial, transition, likelihood = chain(3, 2, 5, matrices=3)
    with pytest.raises(ValueError, match=message):
        exact.log_evidence(initial, transition, likelihood, choice=choice)


def test_arguments_of_any_layout_are_taken() -> None:
    initial, transition, likelihood = chain(3, 4, 6)
    plain = evidence_and_gradient((initial, transition, likelihood))
    turned = likelihood.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not turned.is_contiguous()
    other = transition.mT.contiguous().mT
    for a, b in zip(plain, evidence_and_gradient((initial, other, turned)), strict=True):
        assert torch.equal(a, b)
