"""Exact inference against sums over all paths, textbook loops, limits and coincidences."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

import oracles
from beliefzoo.inference.exact import chains as exact
from beliefzoo.inference.exact import chains_cpu as exact_compiled
from beliefzoo.inference.exact import chains_torch as exact_kernels

INF, NAN = math.inf, math.nan


@pytest.fixture(params=["machine", "torch"], scope="module", autouse=True)
def recursions(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test of this file holds for the machine code and for the path of other devices."""
    chosen = exact_compiled if request.param == "machine" else exact_kernels
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_recursions", lambda tensor: chosen)
        yield request.param


class Chain(NamedTuple):
    """Arguments of the library's functions, in their order."""

    log_initial: Tensor
    log_transition: Tensor
    log_likelihood: Tensor
    lengths: Tensor | None

    def to(self, dtype: torch.dtype) -> "Chain":
        return Chain(*(x.to(dtype) for x in self[:3]), self.lengths)


def random_chain(
    seed: int,
    *,
    states: int = 3,
    steps: int = 5,
    sequences: int = 3,
    draws: tuple[int, ...] = (),
    by_sequence: bool = False,
    by_step: bool = False,
    zeros: bool = False,
    ragged: bool = True,
) -> Chain:
    """Float64 chain with a missing step; with ``zeros``, laws and likelihoods hold exact zeros."""
    rng = np.random.default_rng(seed)
    n = sequences if by_sequence else 1
    t = steps - 1 if by_step else 1

    def law(*shape: int) -> Tensor:
        p = rng.gamma(1.0, size=shape)
        if zeros:
            p *= rng.random(shape) > 0.3
            p[..., rng.integers(shape[-1])] += 0.1  # no row without mass
        return torch.tensor(p / p.sum(-1, keepdims=True)).log()

    log_likelihood = rng.normal(0.0, 2.0, (*draws, sequences, steps, states))
    if zeros:
        log_likelihood[rng.random(log_likelihood.shape) < 0.15] = -INF
    log_likelihood[..., 0, steps // 2, :] = 0.0
    lengths = rng.integers(1, steps + 1, sequences)
    lengths[0] = steps
    return Chain(
        law(*draws, n, states),
        law(*draws, n, t, states, states),
        torch.tensor(log_likelihood),
        torch.tensor(lengths) if ragged else None,
    )


def each(chain: Chain) -> Iterator[tuple[Any, int, Any]]:
    """Index (*d, n), length, and the oracle's arguments, of every single sequence."""
    *draws, n, t, k = torch.broadcast_shapes(
        chain.log_likelihood.shape, (*chain.log_transition.shape[:-4], 1, 1, 1)
    )
    initial = chain.log_initial.expand(*draws, n, k).double().numpy()
    transition = chain.log_transition.expand(*draws, n, t - 1, k, k).double().numpy()
    likelihood = chain.log_likelihood.expand(*draws, n, t, k).double().numpy()
    for index in np.ndindex(*draws, n):
        length = t if chain.lengths is None else int(chain.lengths[index[-1]])
        arguments = initial[index], transition[index][: length - 1], likelihood[index][:length]
        yield index, length, arguments


def random_beliefs(chain: Chain, seed: int, scale: float = 1.5) -> Tensor:
    """Beliefs of no particular origin, within the filter's support."""
    generator = torch.Generator().manual_seed(seed)
    support = exact.support(*chain)
    logits = scale * torch.randn(support.shape, generator=generator, dtype=torch.float64)
    return logits.masked_fill(~support, -INF).log_softmax(-1)


def residual_elbo(chain: Chain, log_beliefs: Tensor) -> Tensor:
    """The closed form of the ELBO, Σ_t E_m[log π + log O - log β]."""
    log_predicted = exact.predicted_beliefs(*chain[:2], log_beliefs)
    marginals = exact.backward_marginals(chain[1], log_beliefs, log_predicted, chain.lengths)
    residual = log_predicted + chain.log_likelihood - log_beliefs
    return torch.where(marginals > 0, marginals * residual, 0).sum((-2, -1))


def close(ours: Any, theirs: Any, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=tolerance, atol=tolerance)


cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "states": st.integers(1, 3),
        "steps": st.integers(1, 5),
        "sequences": st.integers(1, 3),
        "draws": st.sampled_from([(), (2,), (2, 1)]),
        "by_sequence": st.booleans(),
        "by_step": st.booleans(),
        "zeros": st.booleans(),
        "ragged": st.booleans(),
    }
)
KINDS = [
    {},
    {"by_step": True},
    {"by_sequence": True, "draws": (2,)},
    {"by_sequence": True, "by_step": True},
    {"zeros": True, "draws": (2,)},
    {"zeros": True, "by_step": True, "draws": (2,)},
    {"states": 1},
    {"steps": 1},
    {"sequences": 1, "steps": 2, "ragged": False},
]


# --- the sum over all paths -----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(cases)
def test_everything_equals_the_sum_over_paths(case: dict[str, Any]) -> None:
    chain = random_chain(**case)
    evidence = exact.log_evidence(*chain)
    filtered = exact.filter_chain(*chain)
    smoothed = exact.smooth_chain(*chain)
    pairs = exact.pair_marginals(*chain)
    counts = exact.expected_transitions(*chain)
    paths, best = exact.most_likely_path(*chain)
    support = exact.support(*chain)
    for index, length, arguments in each(chain):
        truth = oracles.posterior(*arguments)
        close(evidence[index], truth.log_evidence)
        close(best[index], truth.best_log_joint)
        if truth.log_evidence == -INF:
            continue
        beliefs = oracles.filter_beliefs(*arguments)
        close(filtered.log_beliefs[index][:length].exp(), beliefs)
        close(filtered.log_increments[index][:length], oracles.log_increments(*arguments), 1e-11)
        assert (support[index][:length].numpy() == (beliefs > 0)).all()
        close(smoothed[index][:length].exp(), truth.marginals)
        close(pairs[index][: length - 1], truth.pairs)
        close(counts[index], truth.pairs.sum(0))
        path = paths[index][:length].numpy()
        close(oracles.log_joint(path, *arguments), truth.best_log_joint)


@settings(max_examples=30, deadline=None)
@given(cases)
def test_gradient_of_the_evidence_is_the_posterior(case: dict[str, Any]) -> None:
    chain = random_chain(**case)
    inputs = [x.requires_grad_() for x in chain[:3]]
    evidence = exact.log_evidence(*inputs, chain.lengths)
    weights = torch.linspace(0.5, 1.5, evidence.numel(), dtype=torch.float64).view_as(evidence)
    gradients = torch.autograd.grad(evidence, inputs, weights)
    expected = [np.zeros(tuple(x.shape)) for x in inputs]
    initial, transition, likelihood = expected
    for index, length, arguments in each(Chain(*(x.detach() for x in inputs), chain.lengths)):
        truth, weight = oracles.posterior(*arguments), float(weights[index])
        if truth.log_evidence == -INF:
            continue
        *d, n = index
        likelihood[index][:length] += weight * truth.marginals
        initial[(*d, n if case["by_sequence"] else 0)] += weight * truth.marginals[0]
        target = transition[(*d, n if case["by_sequence"] else 0)]
        if case["by_step"]:
            target[: length - 1] += weight * truth.pairs
        else:
            target[0] += weight * truth.pairs.sum(0)
    for ours, theirs in zip(gradients, expected, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("segment", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_evidence_by_segments_is_the_evidence(
    kind: dict[str, Any], segment: int, weighted: bool
) -> None:
    chain = random_chain(5, **{"steps": 6, "sequences": 4, **kind})
    inputs = [x.requires_grad_() for x in chain[:3]]
    found = []
    for size in (None, segment):
        evidence = exact.log_evidence(*inputs, chain.lengths, segment=size)
        weights = torch.ones_like(evidence)
        if weighted:
            weights = torch.linspace(-0.5, 1.5, evidence.numel(), dtype=torch.float64)
        weights = weights.view_as(evidence)
        found.append([evidence.detach(), *torch.autograd.grad(evidence, inputs, weights)])
    for ours, theirs in zip(*found, strict=True):
        close(theirs, ours.numpy(), 1e-10)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_gradcheck(kind: dict[str, Any]) -> None:
    chain = random_chain(11, **{"steps": 4, "sequences": 2, **kind})
    inputs = [x.requires_grad_() for x in chain[:3]]
    evidence = exact.log_evidence(*chain)
    finite = evidence.isfinite()
    assert finite.any()
    assert torch.autograd.gradcheck(
        lambda *x: exact.log_evidence(*x, chain.lengths)[finite], inputs
    )
    beliefs = random_beliefs(Chain(*(x.detach() for x in chain[:3]), chain.lengths), 12)
    predicted = exact.predicted_beliefs(*chain[:2], beliefs).detach()
    arguments = [chain[1], beliefs.requires_grad_(), predicted.requires_grad_()]
    assert torch.autograd.gradcheck(
        lambda *x: exact.backward_marginals(*x, chain.lengths), arguments
    )
    assert torch.autograd.gradcheck(
        lambda *x: exact.belief_elbo(*x, chain.lengths)[finite], [*inputs, beliefs]
    )
    # exp: finite differences of -inf are no numbers
    assert torch.autograd.gradcheck(
        lambda *x: tuple(y.exp() for y in exact.join_beliefs(*x, chain.lengths)),
        [*chain[:2], beliefs],
    )
    assert torch.autograd.gradcheck(
        lambda *x: exact.predicted_beliefs(*x).exp(), [*chain[:2], beliefs]
    )


@settings(max_examples=40, deadline=None)
@given(cases)
def test_elbo_of_any_beliefs_equals_its_sum_over_paths(case: dict[str, Any]) -> None:
    chain = random_chain(**case)
    beliefs = random_beliefs(chain, case["seed"] + 1)
    predicted = exact.predicted_beliefs(*chain[:2], beliefs)
    marginals = exact.backward_marginals(chain[1], beliefs, predicted, chain.lengths)
    elbo = residual_elbo(chain, beliefs)
    possible = exact.log_evidence(*chain) > -INF
    for index, length, arguments in each(chain):
        if not possible[index]:
            continue
        log_beliefs = beliefs[index][:length].numpy()
        paths, log_q = oracles.backward_law(arguments[1], log_beliefs)
        q = np.exp(log_q)
        expected, _ = oracles.path_marginals(paths, q, log_beliefs.shape[-1])
        close(marginals[index][:length], expected)
        assert (marginals[index][length:] == 0).all()
        close(elbo[index], oracles.elbo(*arguments, log_beliefs), 1e-10)
        close(exact.belief_elbo(*chain[:3], beliefs, chain.lengths)[index], elbo[index], 1e-12)


@settings(max_examples=30, deadline=None)
@given(cases)
def test_elbo_of_the_filter_is_the_evidence(case: dict[str, Any]) -> None:
    chain = random_chain(**case)
    filtered = exact.filter_chain(*chain)
    predicted = exact.predicted_beliefs(*chain[:2], filtered.log_beliefs)
    close(predicted.exp(), filtered.log_predicted.exp())
    marginals = exact.backward_marginals(chain[1], *filtered[:2], chain.lengths)
    inside = torch.ones_like(marginals) if chain.lengths is None else step_mask(chain)
    close(marginals, exact.smooth_chain(*chain).exp() * inside)
    evidence = exact.log_evidence(*chain)
    possible = evidence > -INF
    close(residual_elbo(chain, filtered.log_beliefs)[possible], evidence[possible])
    # and no other beliefs do better
    other = residual_elbo(chain, random_beliefs(chain, case["seed"]))
    assert (other <= evidence + 1e-9)[possible].all()


def step_mask(chain: Chain) -> Tensor:
    assert chain.lengths is not None
    steps = torch.arange(chain.log_likelihood.shape[-2])
    return (steps < chain.lengths[:, None]).unsqueeze(-1).double()


def test_elbo_has_no_gradient_to_beliefs_at_the_filter() -> None:
    chain = random_chain(3, zeros=True)
    logits = exact.filter_chain(*chain).log_beliefs.requires_grad_()
    residual_elbo(chain, logits.log_softmax(-1)).sum().backward()
    assert logits.grad is not None
    close(logits.grad, 0.0)


def test_future_is_the_posterior_of_a_longer_chain_without_observations() -> None:
    chain = random_chain(5, by_step=True, steps=4, ragged=False)
    longer = Chain(
        chain.log_initial,
        torch.cat([chain.log_transition, chain.log_transition.flip(-3)], -3)[..., :5, :, :],
        torch.cat([chain.log_likelihood, torch.zeros(3, 2, 3, dtype=torch.float64)], -2),
        None,
    )
    belief = exact.filter_chain(*chain).log_beliefs[..., -1, :]
    ahead = exact.predict_states(belief, longer.log_transition[..., 3:, :, :], 2)
    for index, _, arguments in each(longer):
        close(ahead[index].exp(), oracles.posterior(*arguments).marginals[4:])


def test_sampled_paths_have_the_posterior_frequencies() -> None:
    """Chi-square over all paths of three chains: a correct sampler fails with probability 3e-6."""
    chain = random_chain(1, states=2, steps=4)
    left_right = torch.tensor([[0.7, 0.3], [0.0, 1.0]], dtype=torch.float64).log()
    chain = chain._replace(
        log_transition=left_right.expand(1, 1, 2, 2), log_likelihood=chain.log_likelihood / 4
    )
    n, generator = 20_000, torch.Generator().manual_seed(0)
    draws = exact.sample_paths(*chain, n=n, generator=generator)
    assert draws.shape == (n, 3, 4)
    for (i,), length, arguments in each(chain):
        truth = oracles.posterior(*arguments)
        place = 2 ** np.arange(length)[::-1]
        counts = np.bincount((draws[:, i, :length].numpy() * place).sum(-1), minlength=2**length)
        assert (draws[:, i, length:] == -1).all()
        seen = truth.probabilities > 0
        assert counts[~seen].sum() == 0
        assert chisquare(counts[seen], n * truth.probabilities[seen]).pvalue > 1e-6


def test_samples_of_many_draws_at_once_and_reproducible() -> None:
    """Means of 4000 draws within 6 standard errors: fails with probability < 1e-6."""
    chain = random_chain(8, draws=(2,), by_sequence=True, by_step=True, ragged=False)
    draws = [
        exact.sample_paths(*chain, n=4000, generator=torch.Generator().manual_seed(4))
        for _ in range(2)
    ]
    assert torch.equal(*draws)
    for index, _, arguments in each(chain):
        frequencies = torch.nn.functional.one_hot(draws[0][:, *index], 3).double().mean(0)
        close(frequencies, oracles.posterior(*arguments).marginals, 6 * 0.5 / math.sqrt(4000))


# --- limits and coincidences ----------------------------------------------------------------------


def test_padding_is_ignored_whatever_it_holds() -> None:
    chain = random_chain(21, steps=6, sequences=4, zeros=True)
    assert chain.lengths is not None
    spoiled = chain._replace(log_likelihood=chain.log_likelihood.where(step_mask(chain) > 0, NAN))
    names = ("filter_chain", "smooth_chain", "pair_marginals", "most_likely_path", "support")
    for i, length in enumerate(chain.lengths.tolist()):
        alone = chain._replace(
            log_likelihood=chain.log_likelihood[i : i + 1, :length], lengths=None
        )
        evidence = exact.log_evidence(*spoiled)[i]
        np.testing.assert_allclose(evidence, exact.log_evidence(*alone)[0], rtol=1e-12)
        for name in names:
            together, single = getattr(exact, name)(*spoiled), getattr(exact, name)(*alone)
            if isinstance(together, Tensor):
                together, single = (together,), (single,)
            for a, b in zip(together, single, strict=True):
                inside = a[i, : b.shape[1]] if a.ndim > 1 else a[i]
                np.testing.assert_allclose(inside, b[0], rtol=1e-12)
        for log_rows in (exact.filter_chain(*spoiled).log_beliefs, exact.smooth_chain(*spoiled)):
            np.testing.assert_allclose(
                log_rows[i, length:], log_rows[i, length - 1].expand(6 - length, 3), rtol=1e-12
            )
        assert (exact.most_likely_path(*spoiled)[0][i, length:] == -1).all()
        assert (exact.sample_paths(*spoiled, n=5)[:, i, length:] == -1).all()
    nan_beliefs = exact.filter_chain(*chain).log_beliefs.where(step_mask(chain) > 0, NAN)
    assert (exact.sample_backward(chain[1], nan_beliefs, chain.lengths) < 3).all()


def test_padding_has_no_gradient_whatever_it_holds() -> None:
    chain = random_chain(21, steps=6, sequences=4)
    outside = (step_mask(chain) == 0).expand_as(chain.log_likelihood)
    beliefs = random_beliefs(chain, 1)
    results = []
    for value in (0.0, NAN):
        inputs = [x.clone().requires_grad_() for x in (*chain[:3], beliefs)]
        likelihood, log_beliefs = (x.masked_fill(outside, value) for x in inputs[2:])
        evidence = exact.log_evidence(*inputs[:2], likelihood, chain.lengths)
        predicted = exact.predicted_beliefs(*inputs[:2], log_beliefs.masked_fill(outside, -1.0))
        predicted = predicted.masked_fill(outside, value)
        marginals = exact.backward_marginals(inputs[1], log_beliefs, predicted, chain.lengths)
        total = evidence.sum() + (marginals * beliefs).sum()
        results.append([total.detach(), *torch.autograd.grad(total, inputs)])
        assert (marginals[outside] == 0).all()
    for a, b in zip(*results, strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b)
    likelihood = chain.log_likelihood.clone().requires_grad_()
    exact.log_evidence(*chain[:2], likelihood, chain.lengths).sum().backward()
    assert likelihood.grad is not None
    assert (likelihood.grad[outside] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identity_dynamics_with_swings_of_thousands_of_nats(dtype: torch.dtype) -> None:
    """The state never changes: its posterior is prior times likelihood, whatever came between."""
    swings = torch.tensor([[0.0, -1000, -900], [0, -1000, 0], [-2000, 0, -1110], [-3, 1, 2]])
    log_likelihood = swings.to(dtype).unsqueeze(0)
    log_initial = torch.tensor([[0.2, 0.3, 0.5]], dtype=dtype).log()
    log_transition = torch.eye(3, dtype=dtype).log()[None, None]
    totals = log_initial.double() + log_likelihood.double().cumsum(-2)
    truth = totals.log_softmax(-1)
    chain = Chain(log_initial, log_transition, log_likelihood, None)
    rough = 2000 * torch.finfo(dtype).eps  # rounding of logs of that size
    for x in chain[:3]:
        x.requires_grad_()
    evidence = exact.log_evidence(*chain)
    close(evidence.detach(), totals[:, -1].logsumexp(-1), rough)
    gradients = torch.autograd.grad(evidence.sum(), chain[:3])
    final = truth[0, -1].exp()
    close(gradients[0][0], final, rough)
    close(gradients[1][0, 0], 3 * torch.diag(final), rough)
    close(gradients[2], final.expand(1, 4, 3), rough)
    close(exact.filter_chain(*chain).log_beliefs, truth, rough)
    close(exact.smooth_chain(*chain), truth[:, -1:].expand(1, 4, 3), rough)
    close(exact.expected_transitions(*chain)[0], 3 * torch.diag(final), rough)
    assert exact.most_likely_path(*chain)[0].tolist() == [
        [1, 1, 1, 1]
    ]  # -2000 nats each but the last


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiny_probabilities_stay_finite_and_zeros_exact(dtype: torch.dtype) -> None:
    """Left-right chain and large swings against the textbook loops in logs."""
    rng = np.random.default_rng(2)
    band = np.triu(np.tril(rng.random((5, 5)) ** 40, 2))
    chain = Chain(
        torch.tensor([[0.9, 0.1, 0, 0, 0]], dtype=torch.float64).log(),
        torch.tensor(band / band.sum(-1, keepdims=True)).log()[None, None],
        torch.tensor(rng.normal(0, 150, (3, 30, 5))),
        torch.tensor([30, 17, 1]),
    ).to(dtype)
    filtered, smoothed = exact.filter_chain(*chain), exact.smooth_chain(*chain)
    tolerance = 2e-4 if dtype == torch.float32 else 1e-11
    for index, length, arguments in each(chain):
        evidence, log_filter, log_smoother = oracles.log_forward_backward(*arguments)
        close(exact.log_evidence(*chain)[index], evidence, tolerance)
        close(filtered.log_beliefs[index][:length], log_filter, tolerance)
        close(smoothed[index][:length], log_smoother, tolerance)
        assert (exact.support(*chain)[index][:length].numpy() == np.isfinite(log_filter)).all()


def log_domain_marginals(log_transition: Tensor, log_beliefs: Tensor) -> tuple[Tensor, Tensor]:
    """Marginals and predictions with K x K terms in logs, -1e5 standing for log 0: for autograd."""
    matrix = log_transition.clamp_min(-1e5)[..., 0, :, :]
    message = torch.zeros_like(log_beliefs[..., 0, :])
    marginals, predictions = [log_beliefs[..., -1, :].exp()], []
    for t in reversed(range(log_beliefs.shape[-2] - 1)):
        prediction = (log_beliefs[..., t, :, None] + matrix).logsumexp(-2)
        after = log_beliefs[..., t + 1, :] - prediction + message
        message = (matrix + after.unsqueeze(-2)).logsumexp(-1)
        marginals.append((log_beliefs[..., t, :] + message).exp())
        predictions.append(prediction)
    return torch.stack(marginals[::-1], -2), torch.stack(predictions[::-1], -2)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-3)], ids=str
)
def test_gradients_through_unlikely_states_equal_plain_autograd(
    dtype: torch.dtype, tolerance: float
) -> None:
    """Beliefs down to 1e-250, where quotients of probabilities overflow."""
    generator = torch.Generator().manual_seed(3)
    shape = (2, 4, 6, 3)
    log_beliefs = (torch.randn(shape, generator=generator).double() * 200).log_softmax(-1)
    weights, others = (torch.randn(shape, generator=generator).double() for _ in range(2))
    rows = torch.tensor([[1.0, 0, 0], [1e-30, 1, 0], [1e-20, 1e-9, 1]], dtype=torch.float64)
    log_transition = rows.log().expand(2, 1, 1, 3, 3)
    log_initial = torch.full((1, 3), -math.log(3), dtype=dtype)

    def ours(log_transition: Tensor, log_beliefs: Tensor) -> tuple[Tensor, Tensor]:
        predicted = exact.predicted_beliefs(log_initial, log_transition, log_beliefs)
        marginals = exact.backward_marginals(log_transition, log_beliefs, predicted)
        return marginals, predicted[..., 1:, :]

    results = []
    for function, kind in ((log_domain_marginals, torch.float64), (ours, dtype)):
        inputs = [x.to(kind).requires_grad_() for x in (log_transition, log_beliefs)]
        marginals, predicted = function(*inputs)
        reachable = torch.where(predicted > -5e4, others[..., 1:, :] * predicted, 0)
        total = (weights * marginals).sum() + reachable.sum()
        results.append([marginals.detach(), *torch.autograd.grad(total, inputs)])
    for theirs, mine in zip(*results, strict=True):
        close(mine, theirs, tolerance)


def test_impossible_observation_counts_as_missing_and_has_no_gradient() -> None:
    chain = random_chain(6, ragged=False)
    cut = chain.log_likelihood.clone()
    cut[1, 2] = -INF
    missing = cut.masked_fill(cut == -INF, 0)
    inputs = [x.requires_grad_() for x in (*chain[:2], cut)]
    evidence = exact.log_evidence(*inputs)
    assert evidence[1] == -INF
    assert evidence[[0, 2]].isfinite().all()
    gradients = torch.autograd.grad(evidence.sum(), inputs)
    assert all(g.isfinite().all() for g in gradients)
    assert (gradients[2][1] == 0).all()
    close(gradients[0].sum(), 2.0)
    increments = exact.filter_chain(*inputs).log_increments
    assert increments[1, 2] == -INF
    assert increments.isneginf().sum() == 1
    for a, b in zip(
        exact.filter_chain(*inputs)[:2], exact.filter_chain(*chain[:2], missing)[:2], strict=True
    ):
        close(a, b)
    close(exact.smooth_chain(*inputs), exact.smooth_chain(*chain[:2], missing))
    assert (exact.sample_paths(*inputs, n=3) >= 0).all()
    assert exact.most_likely_path(*inputs)[1].isneginf().tolist() == [False, True, False]


def test_belief_in_an_unreachable_state_loses_its_mass_and_gives_no_nan() -> None:
    stuck = torch.eye(2, dtype=torch.float64).log()[None, None].requires_grad_()
    jumping = torch.tensor([[[1.0, 0], [0, 1]]], dtype=torch.float64).log().requires_grad_()
    half = torch.full((1, 2), 0.5, dtype=torch.float64).log()
    predicted = exact.predicted_beliefs(half, stuck, jumping)
    close(predicted.detach().exp(), [[[0.5, 0.5], [1, 0]]])
    marginals = exact.backward_marginals(stuck, jumping, predicted)
    close(marginals.detach(), [[[0.0, 0], [0, 1]]])
    unknown = torch.tensor([[[1.0, 1], [1, NAN]]], dtype=torch.float64)  # at log π = -inf
    for outputs, weights in ((marginals, torch.ones_like(marginals)), (predicted, unknown)):
        gradients = torch.autograd.grad(outputs, (stuck, jumping), weights, retain_graph=True)
        assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_float32_agrees_with_float64(kind: dict[str, Any]) -> None:
    chain = random_chain(17, **kind)
    single = chain.to(torch.float32)
    beliefs = random_beliefs(chain, 2)
    for name in ("log_evidence", "smooth_chain", "pair_marginals", "expected_transitions"):
        ours, theirs = getattr(exact, name)(*single), getattr(exact, name)(*chain)
        assert ours.dtype == torch.float32
        close(ours, theirs, 2e-5)
    close(residual_elbo(single, beliefs.float()), residual_elbo(chain, beliefs), 2e-5)


def test_two_state_filter_is_the_tanh_recursion() -> None:
    """m_t = tanh(LLR(y_t)/2 + artanh((1 - 2ε) m_{t-1})) for the mean of a ±1 chain."""
    epsilon, mu = 0.1, 1.0
    y = np.random.default_rng(0).normal(0, 1.4, 200)
    m, means = 0.0, []
    for value in y:
        m = math.tanh(mu * value + math.atanh((1 - 2 * epsilon) * m))
        means.append(m)
    switch = torch.tensor([[1 - epsilon, epsilon], [epsilon, 1 - epsilon]], dtype=torch.float64)
    sign = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    log_likelihood = -((torch.tensor(y)[:, None] - mu * sign) ** 2) / 2
    half = torch.full((1, 2), 0.5, dtype=torch.float64).log()
    beliefs = exact.filter_chain(half, switch.log()[None, None], log_likelihood[None]).log_beliefs
    close(beliefs.exp() @ sign, np.array([means]))


def test_a_hundred_thousand_steps_neither_underflow_nor_drift() -> None:
    rng = np.random.default_rng(1)
    log_likelihood = rng.normal(-2, 1, (1, 100_000, 2))
    log_transition = np.log([[0.99, 0.01], [0.05, 0.95]])
    log_initial = np.log([0.5, 0.5])
    truth = oracles.scaled_log_evidence(log_initial, log_transition, log_likelihood[0])
    inputs = [
        torch.tensor(x, dtype=torch.float32).requires_grad_()
        for x in (log_initial[None], log_transition[None, None], log_likelihood)
    ]
    evidence = exact.log_evidence(*inputs)
    assert abs(evidence.item() / truth - 1) < 1e-6
    gradients = torch.autograd.grad(evidence.sum(), inputs)
    close(gradients[2].sum(-1), 1.0, 1e-5)
    close(gradients[1].double().sum(), 99_999.0, 1e-5)


def test_shared_laws_equal_repeated_ones_and_layout_is_free() -> None:
    chain = random_chain(9, draws=(2,))
    repeated = Chain(
        chain.log_initial.expand(2, 3, 3).contiguous(),
        chain.log_transition.expand(2, 3, 4, 3, 3).contiguous(),
        chain.log_likelihood.mT.contiguous().mT,
        chain.lengths,
    )
    unbatched = Chain(chain.log_initial[0], chain.log_transition[1], *chain[2:])
    also = Chain(
        *(x.expand(2, *x.shape) for x in unbatched[:2]), chain.log_likelihood, chain.lengths
    )
    alone = chain._replace(log_likelihood=chain.log_likelihood[0])
    both = chain._replace(log_likelihood=chain.log_likelihood[:1].expand(2, 3, 5, 3))
    beliefs = random_beliefs(chain, 4)
    for one, two in ((chain, repeated), (unbatched, also), (alone, both)):
        names = ("log_evidence", "smooth_chain", "expected_transitions", "support")
        for name in names:
            close(getattr(exact, name)(*one), getattr(exact, name)(*two))
        close(residual_elbo(one, beliefs), residual_elbo(two, beliefs))
        close(exact.most_likely_path(*one)[1], exact.most_likely_path(*two)[1])


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_initial": torch.zeros(1, 2)}, r"log_initial must have shape \(\.\.\., 3\|1, 4\)"),
        ({"log_initial": torch.zeros(4)}, r"log_initial .* got \(4,\)"),
        ({"log_transition": torch.zeros(4, 4)}, r"log_transition .* 3\|1, 4\|1, 4, 4\).*\(4, 4\)"),
        ({"log_transition": torch.zeros(1, 5, 4, 4)}, r"log_transition .* got \(1, 5, 4, 4\)"),
        ({"log_transition": torch.zeros(2, 1, 4, 4)}, r"log_transition .* got \(2, 1, 4, 4\)"),
        ({"log_likelihood": torch.zeros(5, 4)}, r"log_likelihood .* got \(5, 4\)"),
        ({"log_likelihood": torch.zeros(3, 0, 4)}, r"log_likelihood .* got \(3, 0, 4\)"),
        ({"log_initial": torch.zeros(1, 4).double()}, r"log_initial .* got torch.float64"),
        ({"log_likelihood": torch.zeros(3, 5, 4).half()}, r"log_likelihood .* torch.float16"),
        (
            {"log_transition": torch.zeros(1, 1, 4, 4).to("meta")},
            r"log_transition must be a dense tensor in memory; got .* meta",
        ),
        ({"log_initial": torch.zeros(2, 1, 4)}, r"leading dimensions must broadcast"),
        ({"lengths": torch.tensor([5, 5])}, r"lengths .* \(3,\) .* got torch.int64 .* \(2,\)"),
        ({"lengths": torch.tensor([5.0, 5, 5])}, r"lengths must be int64"),
        ({"lengths": torch.tensor([5, 0, 5])}, r"lengths must be in 1\.\.5; got 0\.\.5"),
        ({"lengths": torch.tensor([5, 6, 1])}, r"lengths must be in 1\.\.5; got 1\.\.6"),
    ],
)
def test_misfits_are_refused(change: dict[str, Tensor], message: str) -> None:
    likelihood = torch.zeros(3, 5, 4)
    if message.startswith("leading"):
        likelihood = torch.zeros(3, 3, 5, 4)
    chain = Chain(torch.zeros(1, 4), torch.zeros(1, 1, 4, 4), likelihood, None)._replace(**change)
    for name in ("log_evidence", "filter_chain", "most_likely_path", "sample_paths"):
        with pytest.raises(ValueError, match=message):
            getattr(exact, name)(*chain)


def test_other_misfits_are_refused() -> None:
    chain = random_chain(0)
    belief = chain.log_likelihood[:, 0]
    with pytest.raises(ValueError, match=r"n must be a whole number >= 1; got 0"):
        exact.sample_paths(*chain, n=0)
    with pytest.raises(ValueError, match=r"steps must be a whole number >= 1; got 1\.5"):
        exact.predict_states(belief, chain.log_transition, 1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"log_transition must have shape \(\.\.\., 3\|1, 2\|1"):
        exact.predict_states(belief, chain.log_transition.expand(1, 4, 3, 3), 2)
    with pytest.raises(ValueError, match=r"log_belief must have shape"):
        exact.predict_states(belief[0], chain.log_transition, 2)
    with pytest.raises(ValueError, match=r"log_predicted must have shape \(\.\.\., 3, 5, 3\)"):
        exact.backward_marginals(chain[1], chain.log_likelihood, chain.log_likelihood[:, 1:])
    stuck = torch.eye(2).log()[None, None]
    jumping = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]).log()
    with pytest.raises(ValueError, match=r"log_beliefs must give mass only to states"):
        exact.sample_backward(stuck, jumping)
