"""Posteriors of continuous trajectories: closed forms against the dense law of all states."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from beliefzoo.inference.filters.gaussian_beliefs import GaussianBeliefs
from beliefzoo.inference.guides.gaussian_posteriors import (
    GaussianBackward,
    GaussianForward,
    GaussianMeanField,
    GaussianSmoother,
    LinearisedBackward,
)
from beliefzoo.models import LinearLaws
from gaussian_cases import (
    Quadratic,
    at,
    dense_chain,
    dense_joint,
    picker,
    random_covariance,
    random_laws,
    textbook_filter,
)

KINDS = {
    "backward": GaussianBackward,
    "forward": GaussianForward,
    "mean-field": GaussianMeanField,
}
CASES = {
    "varying": {},
    "shared": {"varying": False, "missing": False},
    "scalar": {"size": 1, "features": 1, "lengths": (5, 1, 2)},
    "short": {"lengths": (1, 1), "size": 3},
    "one": {"lengths": (4,), "features": 1},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_case = pytest.mark.parametrize("case", CASES)


def random_beliefs(laws: LinearLaws, seed: int = 5, full: bool = True) -> GaussianBeliefs:
    g = torch.Generator().manual_seed(seed)
    count, steps, size = len(laws.data), laws.data.max_length, laws.initial_mean.shape[-1]
    mean = torch.randn(count, steps, size, generator=g, dtype=torch.float64)
    covariance = random_covariance(count, steps, size=size, generator=g)
    if not full:
        return GaussianBeliefs(mean, covariance.diagonal(dim1=-2, dim2=-1).sqrt())
    return GaussianBeliefs.of_moments(mean, covariance)


def dense_posterior(kind: str, laws: LinearLaws, beliefs: GaussianBeliefs, n: int) -> Quadratic:
    """log q(z) of sequence n by its definition; the forward law up to its normalisers' constant."""
    length, size = int(laws.lengths[n]), laws.initial_mean.shape[-1]
    mean, covariance = beliefs.mean[n].numpy(), beliefs.covariance[n].numpy()
    out = Quadratic(length * size)
    if kind != "mean-field":
        dense_chain(laws, n, out)
    for t in range(length):
        out.add_normal(picker(t, length, size), mean[t], covariance[t])
        if kind == "mean-field":
            continue
        if t == 0:
            pi = laws.initial_mean[min(n, len(laws.initial_mean) - 1)].numpy()
            p = laws.initial_covariance[min(n, len(laws.initial_covariance) - 1)].numpy()
            a = np.zeros((size, size))
        else:
            a, b, q = (at(laws, name, n, t - 1) for name in ("transition", "offset", "noise"))
            pi, p = a @ mean[t - 1] + b, a @ covariance[t - 1] @ a.T + q
        if kind == "backward":
            out.add_normal(picker(t, length, size), pi, p, sign=-1.0)
        elif t == 0:
            out.constant -= float(
                Quadratic(size)
                .add_normal(np.eye(size), pi, p)
                .add_normal(np.eye(size), mean[0], covariance[0])
                .log_integral()
            )
        else:
            before = a @ picker(t - 1, length, size)
            out.add_normal(before, mean[t] - b, q + covariance[t], sign=-1.0)
    return out


@every_kind
@every_case
@pytest.mark.parametrize("full", [True, False])
def test_posterior_is_the_dense_normal_law(kind, case, full):
    """Normalised, with the stated moments, densities, weights and ELBO."""
    laws = random_laws(**CASES[case])
    beliefs = random_beliefs(laws, full=full)
    posterior = KINDS[kind](laws, beliefs)
    mean, covariance = posterior.marginals
    bound = posterior.elbo()
    paths = posterior.sample_paths(2)
    log_q, log_w = posterior.path_log_prob(paths), posterior.log_weights(paths)
    size = mean.shape[-1]
    for n, length in enumerate(laws.lengths.tolist()):
        q, joint = dense_posterior(kind, laws, beliefs, n), dense_joint(laws, n)
        assert q.log_integral() == pytest.approx(0, abs=1e-9)
        expected, spread = q.moments()
        got = mean[n, :length].reshape(-1).numpy()
        np.testing.assert_allclose(got, expected, atol=1e-10)
        for t in range(length):
            block = spread[t * size : (t + 1) * size, t * size : (t + 1) * size]
            np.testing.assert_allclose(covariance[n, t], block, atol=1e-10)
        exact = joint.expected(expected, spread) - q.expected(expected, spread)
        assert float(bound[n]) == pytest.approx(exact, abs=1e-9)
        assert exact <= joint.log_integral() + 1e-9
        for draw in range(2):
            z = paths[draw, n, :length].reshape(-1).numpy()
            point = np.zeros_like(spread)
            assert float(log_q[draw, n]) == pytest.approx(q.expected(z, point), abs=1e-8)
            difference = joint.expected(z, point) - q.expected(z, point)
            assert float(log_w[draw, n]) == pytest.approx(difference, abs=1e-8)
        assert bool((mean[n, length:] == 0).all())
        assert bool((covariance[n, length:] == 0).all())
        assert bool((paths[:, n, length:] == 0).all())


@every_case
def test_kalman_beliefs_make_the_bound_the_evidence(case):
    """SCIENCE I1: to 1e-8 against the dense law, with the smoother's moments."""
    laws = random_laws(**CASES[case])
    mean, covariance, evidence = textbook_filter(laws)
    posterior = GaussianBackward(laws, GaussianBeliefs.of_moments(mean, covariance))
    for n, length in enumerate(laws.lengths.tolist()):
        joint = dense_joint(laws, n)
        assert joint.log_integral() == pytest.approx(float(evidence[n]), abs=1e-8)
        smoothed, _ = joint.moments()
        got = posterior.mean[n, :length].reshape(-1).numpy()
        np.testing.assert_allclose(got, smoothed, atol=1e-9)
    torch.testing.assert_close(posterior.elbo(), evidence, atol=1e-8, rtol=0)
    # Every path then has the same weight: q is the posterior.
    log_w = posterior.log_weights(posterior.sample_paths(4))
    torch.testing.assert_close(log_w, evidence.expand(4, -1), atol=1e-8, rtol=0)


def test_exact_potentials_make_the_forward_bound_the_evidence():
    """U_t, μ_t of y_t and all later observations, by the textbook information filter."""
    laws = random_laws(features=3, size=2, missing=False)
    mean, covariance, evidence = textbook_filter(laws)
    mean, covariance = torch.zeros_like(mean), torch.eye(2).expand_as(covariance).clone().double()
    for n, length in enumerate(laws.lengths.tolist()):
        information, vector = np.zeros((2, 2)), np.zeros(2)
        for t in reversed(range(length)):
            if t + 1 < length:  # what is known of z_{t+1} goes back through the transition
                a, b, q = (at(laws, name, n, t) for name in ("transition", "offset", "noise"))
                known = np.linalg.inv(np.linalg.inv(information) + q)
                ahead = np.linalg.solve(information, vector)
                information, vector = a.T @ known @ a, a.T @ known @ (ahead - b)
            c, d, r = (
                at(laws, name, n, t) for name in ("loading", "intercept", "observation_noise")
            )
            information = information + c.T @ np.linalg.solve(r, c)
            vector = vector + c.T @ np.linalg.solve(r, laws.values[n, t].numpy() - d)
            mean[n, t] = torch.tensor(np.linalg.solve(information, vector))
            covariance[n, t] = torch.tensor(np.linalg.inv(information))
    posterior = GaussianForward(laws, GaussianBeliefs.of_moments(mean, covariance))
    torch.testing.assert_close(posterior.elbo(), evidence, atol=1e-8, rtol=0)


def with_start(laws: LinearLaws, flat: torch.Tensor, spread: float | None) -> LinearLaws:
    """The laws with z_1 unknown along ``flat``: N(0, spread) there, or a flat law if None."""
    basis = torch.linalg.qr(flat, mode="complete").Q[:, flat.shape[1] :]
    proper = basis @ basis.mT @ laws.initial_covariance[:1] @ basis @ basis.mT
    wide = torch.zeros(len(flat), 0, dtype=torch.float64)
    if spread is None:
        wide = flat
    else:
        proper = proper + spread * flat @ flat.mT
    return dataclasses.replace(
        laws, initial_mean=laws.initial_mean[:1], initial_covariance=proper, diffuse=wide
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("directions", [1, 2])
def test_a_flat_start_is_the_limit_of_a_wide_one(kind, directions):
    """Of N(0, κ), times κ^{q/2}: bound, weights and moments for κ = 1e9, to 1e-6."""
    laws = random_laws(lengths=(4, 2), varying=False)
    beliefs = random_beliefs(laws)
    g = torch.Generator().manual_seed(2)
    flat = torch.randn(2, directions, generator=g, dtype=torch.float64)
    wide = KINDS[kind](with_start(laws, flat, 1e9), beliefs)
    limit = KINDS[kind](with_start(laws, flat, None), beliefs)
    shift = 0.5 * directions * math.log(1e9)
    torch.testing.assert_close(limit.elbo(), wide.elbo() + shift, atol=1e-6, rtol=0)
    torch.testing.assert_close(limit.mean, wide.mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(limit.covariance, wide.covariance, atol=1e-6, rtol=0)
    if kind != "mean-field":  # its weights need the chain's density
        paths = limit.sample_paths(3)
        expected = wide.log_weights(paths) + shift
        torch.testing.assert_close(limit.log_weights(paths), expected, atol=1e-6, rtol=0)


@every_kind
@pytest.mark.parametrize("start", ["proper", "flat"])
def test_draws_have_the_stated_moments(kind, start):
    """Means and covariances of 20 000 draws within 5 standard errors (1 in 10^4 over all)."""
    laws = random_laws(lengths=(4, 2), varying=False)
    if start == "flat":
        laws = with_start(laws, torch.tensor([[1.0], [0.5]], dtype=torch.float64), None)
    posterior = KINDS[kind](laws, random_beliefs(laws))
    paths = posterior.sample_paths(20_000)
    mean, covariance = posterior.marginals
    centred = paths - mean
    sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert bool((centred.mean(0).abs() <= 5 * sd / math.sqrt(20_000)).all())
    got = (centred.unsqueeze(-1) * centred.unsqueeze(-2)).mean(0)
    # A product of normals varies by at most √2 times the product of their sds.
    allowed = 5 * math.sqrt(2 / 20_000) * sd.unsqueeze(-1) * sd.unsqueeze(-2)
    assert bool(((got - covariance).abs() <= allowed).all())


@every_kind
def test_the_bound_is_the_mean_weight_of_draws(kind):
    """Of 5000 draws, within 5 standard errors (false failures: 1 in 10^6 a sequence)."""
    laws = random_laws()
    posterior = KINDS[kind](laws, random_beliefs(laws))
    weights = posterior.log_weights(posterior.sample_paths(5000))
    error = (weights.mean(0) - posterior.elbo()).abs()
    assert bool((error < 5 * weights.std(0) / math.sqrt(5000)).all())
    joint = posterior.chain_log_prob(paths := posterior.sample_paths(3))
    joint = joint + posterior.emission_log_prob(paths)
    expected = joint - posterior.path_log_prob(paths)
    torch.testing.assert_close(posterior.log_weights(paths), expected)


@every_kind
@pytest.mark.parametrize("full", [True, False])
def test_gradients_are_those_of_finite_differences(kind, full):
    """Of the bound and of a weight, in beliefs and all matrices; singular noise aside."""
    laws = random_laws(lengths=(3, 2), features=2)
    beliefs = random_beliefs(laws, full=full)
    names = ("initial_mean", "transition", "offset", "noise", "loading", "observation_noise")

    def bound(mean, scale, *matrices):
        scale = scale.tril() if full else scale
        symmetric = [m @ m.mT if "noise" in n else m for n, m in zip(names, matrices, strict=True)]
        given = dataclasses.replace(laws, **dict(zip(names, symmetric, strict=True)))
        posterior = KINDS[kind](given, GaussianBeliefs(mean, scale))
        torch.manual_seed(0)
        drawn = posterior.sample_paths(1)[0].sum((-1, -2))
        return posterior.elbo(), drawn

    inputs = [beliefs.mean, beliefs.scale, *(getattr(laws, name) for name in names)]
    inputs = [x.clone().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(bound, inputs, atol=1e-6, rtol=1e-5, fast_mode=True)


def test_singular_noise():
    """A trend without noise of its own: bound with Kalman's beliefs, draws, weights."""
    laws = random_laws(lengths=(5, 2), varying=False, features=1)
    transition = torch.tensor([[[[1.0, 1.0], [0.0, 1.0]]]], dtype=torch.float64)
    noise = torch.tensor([[[[0.0, 0.0], [0.0, 0.7]]]], dtype=torch.float64)
    laws = dataclasses.replace(laws, transition=transition, noise=noise)
    mean, covariance, evidence = textbook_filter(laws)
    beliefs = GaussianBeliefs.of_moments(mean, covariance)
    posterior = GaussianBackward(laws, beliefs)
    torch.testing.assert_close(posterior.elbo(), evidence, atol=1e-8, rtol=0)
    paths = posterior.sample_paths(4)
    # The first component moves by the second exactly.
    onward = paths[..., :-1, :] @ transition[0, 0].mT + laws.offset[0]
    inside = posterior.inside[:, 1:]
    residual = (paths[..., 1:, 0] - onward[..., 0])[:, inside]
    torch.testing.assert_close(residual, torch.zeros_like(residual), atol=1e-9, rtol=0)
    weights = posterior.log_weights(paths)
    torch.testing.assert_close(weights, evidence.expand_as(weights), atol=1e-8, rtol=0)
    assert bool(GaussianForward(laws, beliefs).elbo().isfinite().all())
    with pytest.raises(ValueError, match="noise: needs a positive definite covariance"):
        GaussianMeanField(laws, beliefs).elbo()


class Linearised:
    """Linear laws that claim to be others: linearising them changes nothing."""

    def __init__(self, laws: LinearLaws) -> None:
        self.laws = laws
        self.dtype = torch.float64
        self.lengths = laws.lengths
        self.data = laws.data
        self.chain_log_prob = laws.chain_log_prob
        self.emission_log_prob = laws.emission_log_prob

    def linearised(self, mean, t):
        parts = self.laws.transition, self.laws.offset, self.laws.noise
        return tuple(
            part[:, min(t, part.shape[1] - 1)].expand(len(mean), *part.shape[2:]) for part in parts
        )


@pytest.mark.parametrize("varying", [True, False])
def test_linearising_a_linear_transition_changes_nothing(varying):
    laws = random_laws(varying=varying)
    beliefs = random_beliefs(laws)
    plain, other = GaussianBackward(laws, beliefs), LinearisedBackward(Linearised(laws), beliefs)
    torch.testing.assert_close(other.mean, plain.mean)
    torch.testing.assert_close(other.covariance, plain.covariance)
    paths = plain.sample_paths(3)
    torch.testing.assert_close(other.path_log_prob(paths), plain.path_log_prob(paths))
    torch.testing.assert_close(other.log_weights(paths), plain.log_weights(paths))
    torch.manual_seed(0)
    estimate = other.elbo(draws=5)
    torch.manual_seed(0)
    expected = plain.log_weights(plain.sample_paths(5)).mean(0)
    torch.testing.assert_close(estimate, expected)


def test_the_smoother_needs_no_density():
    """Diffuse, with noise in one component alone and observations without noise: all weights are
    the evidence, draws and moments those of the kernels' smoother."""
    laws = random_laws(lengths=(5, 3), varying=False, features=1, missing=False)
    laws = with_start(laws, torch.eye(2, dtype=torch.float64), None)
    noise = torch.tensor([[[[0.0, 0.0], [0.0, 0.7]]]], dtype=torch.float64)
    silent = torch.zeros_like(laws.observation_noise)
    laws = dataclasses.replace(laws, noise=noise, observation_noise=silent)
    posterior = GaussianSmoother(laws)
    paths = posterior.sample_paths(2)
    observed = (paths @ laws.loading[0, 0].mT + laws.intercept[0, 0])[:, posterior.inside]
    expected = laws.values[posterior.inside].expand_as(observed)
    torch.testing.assert_close(observed, expected, atol=1e-8, rtol=0)
    assert bool((posterior.log_weights(paths) == posterior.elbo()).all())
    assert bool((posterior.variance >= 0).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation_noise": 0.0}, "observation_noise: .* variances > 0 .* sequence 0, step 0"),
        ({"noise": -1.0}, "predicted belief: needs a positive definite .* sequence 0, step 1"),
    ],
)
def test_bad_laws(change, message):
    laws = random_laws(lengths=(3,), size=1, features=1, missing=False, varying=False)
    name, value = next(iter(change.items()))
    laws = dataclasses.replace(laws, **{name: torch.full_like(getattr(laws, name), 100 * value)})
    with pytest.raises(ValueError, match=message):
        GaussianBackward(laws, random_beliefs(laws)).elbo()


def test_bad_beliefs():
    laws = random_laws(lengths=(3, 2))
    mean = torch.zeros(2, 3, 2, dtype=torch.float64)
    scale = torch.ones_like(mean)
    scale[1, 2] = 0  # beyond the length
    GaussianBackward(laws, GaussianBeliefs(mean, scale))
    scale[1, 1, 0] = 0
    with pytest.raises(ValueError, match=r"beliefs: .* \[0.0, 1.0\] in sequence 1, step 1"):
        GaussianBackward(laws, GaussianBeliefs(mean, scale))
    mean[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"finite means .* sequence 0, step 0"):
        GaussianMeanField(laws, GaussianBeliefs(mean, torch.ones_like(mean)))


def test_a_batch_shape_is_fixed():
    laws = random_laws(lengths=(3, 2))
    posterior = GaussianBackward(laws, random_beliefs(laws))
    assert posterior.expand([2]) is posterior
    assert posterior.rsample().shape == (2, 3, 2)
    assert posterior.rsample((4,)).shape == (4, 2, 3, 2)
    with pytest.raises(ValueError, match=r"GaussianBackward: batch shape is fixed at \(2,\)"):
        posterior.expand([3])
