"""Posteriors of continuous trajectories: closed forms against the dense normal law of all states."""

import numpy as np
import pytest
import torch

from beliefzoo.inference.gaussian_beliefs import GaussianBeliefs
from beliefzoo.inference.gaussian_posteriors import (
    GaussianBackward,
    GaussianForward,
    GaussianMeanField,
)
from gaussian_cases import (
    LawsOf,
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


def random_beliefs(laws: LawsOf, seed: int = 5, full: bool = True) -> GaussianBeliefs:
    g = torch.Generator().manual_seed(seed)
    count, steps, size = len(laws.data), laws.data.max_length, laws.initial_mean.shape[-1]
    mean = torch.randn(count, steps, size, generator=g, dtype=torch.float64)
    covariance = random_covariance(count, steps, size=size, generator=g)
    if not full:
        return GaussianBeliefs(mean, covariance.diagonal(dim1=-2, dim2=-1).sqrt())
    return GaussianBeliefs.of_moments(mean, covariance)


def dense_posterior(kind: str, laws: LawsOf, beliefs: GaussianBeliefs, n: int) -> Quadratic:
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
