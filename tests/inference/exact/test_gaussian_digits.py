"""Gaussian chains keep their digits: any scale, any offset, any spread, against 150 digits."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from beliefzoo.inference.exact import gaussian, gaussian_torch
from beliefzoo.inference.exact.gaussian import LinearChain


@pytest.fixture(params=["machine code", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The recursions for the CPU, and those for other devices."""
    if request.param == "torch":
        monkeypatch.setattr(gaussian, "_recursions", lambda tensor: gaussian_torch)
    return str(request.param)


# --- the textbook recursions in decimals ----------------------------------------------------------


class Exact(NamedTuple):
    """Log evidence, and moments (T, D) and (T, D, D), rounded to float64 at the end."""

    evidence: float
    predicted: np.ndarray
    filtered: np.ndarray
    means: np.ndarray
    smoothed: np.ndarray
    crossed: np.ndarray


def decimal(x: object) -> np.ndarray:
    return np.vectorize(Decimal, otypes=[object])(np.asarray(x, float))


def inverse(matrix: np.ndarray) -> np.ndarray:
    """By Gauss and Jordan."""
    size = len(matrix)
    rows = np.concatenate([matrix, decimal(np.eye(size))], 1)
    for i in range(size):
        pivot = i + int(np.argmax([abs(x) for x in rows[i:, i]]))
        rows[[i, pivot]] = rows[[pivot, i]]
        rows[i] = rows[i] / rows[i, i]
        for j in set(range(size)) - {i}:
            rows[j] = rows[j] - rows[j, i] * rows[i]
    return rows[:, size:]


def textbook(law: Law, noise: float, spread: float, y: np.ndarray, flat: bool = False) -> Exact:
    """Kalman's filter, the smoother of Rauch, Tung & Striebel; ``flat``: times spread^(D/2)."""
    with localcontext() as context:
        context.prec = 150
        a, c, q = decimal(law.transition), decimal(law.loading), decimal(noise * law.noise)
        size = len(a)
        mean, p = decimal(np.zeros(size)), decimal(np.eye(size)) * Decimal(spread)
        total = Decimal(size) / 2 * Decimal(spread).ln() if flat else Decimal(0)
        turn = Decimal("6.28318530717958647692528676655900576839433879875021164194989").ln()
        predicted, filtered = [], []
        for value in decimal(y):
            predicted.append((mean, p))
            variance, e = c.dot(p).dot(c) + 1, value - c.dot(mean)
            gain = p.dot(c) / variance
            total -= (e * e / variance + variance.ln() + turn) / 2
            mean, p = mean + gain * e, p - np.outer(gain, gain) * variance
            filtered.append((mean, p))
            mean, p = a.dot(mean), a.dot(p).dot(a.T) + q
        smoothed, crossed = [filtered[-1]], []
        for (m, p), (ahead, around) in zip(filtered[-2::-1], predicted[:0:-1], strict=True):
            gain = p.dot(a.T).dot(inverse(around))
            later = smoothed[0]
            crossed.insert(0, gain.dot(later[1]))
            moved = m + gain.dot(later[0] - ahead)
            smoothed.insert(0, (moved, p + gain.dot(later[1] - around).dot(gain.T)))
    stacks = [x[1] for x in predicted], [x[1] for x in filtered]
    stacks = *stacks, [x[0] for x in smoothed], [x[1] for x in smoothed], crossed
    return Exact(float(total), *(np.stack(x).astype(float) for x in stacks))


# --- models ---------------------------------------------------------------------------------------


class Law(NamedTuple):
    """Matrices; the variance of the observations is 1."""

    transition: np.ndarray
    loading: np.ndarray
    noise: np.ndarray

    def chain(self, noise: float, spread: float | None, variance: float = 1.0) -> LinearChain:
        """The first state has this variance, or is flat."""
        size = len(self.transition)
        unit = torch.eye(size, dtype=torch.float64)
        zero = torch.zeros(1, 1, size, dtype=torch.float64)
        a, c, q = (torch.as_tensor(x, dtype=torch.float64) for x in self)
        first = unit * (0.0 if spread is None else spread), unit[:, : size if spread is None else 0]
        return LinearChain(
            zero[0],
            first[0][None],
            first[1],
            a[None, None],
            zero,
            noise * q[None, None],
            c[None, None, None],
            zero[..., :1],
            torch.full((1, 1, 1, 1), variance, dtype=torch.float64),
        )


def laws() -> dict[str, Law]:
    jerk = [[1, 1, 0.5, 1 / 6], [0, 1, 1, 0.5], [0, 0, 1, 1], [0, 0, 0, 1]]
    season = [
        [1, 1, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, -1, -1, -1],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
    ]
    return {
        "tracker": Law(np.array(jerk), np.array([1.0, 0, 0, 0]), np.eye(4)),
        "level": Law(np.eye(1), np.ones(1), np.eye(1)),
        "trend and season": Law(
            np.array(season, float), np.array([1.0, 0, 1, 0, 0]), np.diag([1.0, 1, 1, 0, 0])
        ),
    }


def series(steps: int = 60) -> np.ndarray:
    rng = np.random.default_rng(0)
    return 100 * np.sin(np.arange(1, steps + 1) / 30) + rng.standard_normal(steps)


def as_values(y: np.ndarray) -> Tensor:
    return torch.as_tensor(y).reshape(1, -1, 1)


def diagonal(matrices: np.ndarray | Tensor) -> np.ndarray:
    return np.diagonal(np.asarray(matrices), axis1=-2, axis2=-1)


# --- wide first laws ------------------------------------------------------------------------------

WIDE_GRID = [(spread, noise) for spread in (1e0, 1e6, 1e12) for noise in (1e-12, 1e-6, 1e0)]


@pytest.mark.parametrize("name", laws())
def test_no_digits_are_lost_beside_a_wide_first_law(name: str, path: str) -> None:
    """Evidence, filter and smoother over twelve orders of both variances."""
    law, y = laws()[name], series(60 if path == "machine code" else 20)
    # Reflections in torch take the rows in a fixed order, those of machine code the largest first.
    tolerance = 1e-11 if path == "machine code" else 2e-6
    for spread, noise in WIDE_GRID:
        exact, chain = textbook(law, noise, spread, y), law.chain(noise, spread)
        evidence = float(gaussian.log_evidence(chain, as_values(y)))
        assert evidence == pytest.approx(exact.evidence, abs=2e-10, rel=1e-13)
        found = gaussian.smooth(chain, as_values(y), pairs=True)
        told = gaussian.filter(chain, as_values(y))
        variances = diagonal(exact.smoothed)
        assert (diagonal(found.covariances) > 0).all()
        np.testing.assert_allclose(diagonal(found.covariances[0]), variances, rtol=tolerance)
        for ours, theirs in (
            (told.covariances, exact.filtered),
            (told.predicted_covariances, exact.predicted),
        ):
            np.testing.assert_allclose(diagonal(ours[0]), diagonal(theirs), rtol=2e-10)
        sd = np.sqrt(variances)
        assert found.cross_covariances is not None
        apart = np.abs(found.cross_covariances[0].numpy() - exact.crossed)
        assert (apart / (sd[:-1, :, None] * sd[1:, None, :])).max() < tolerance
        assert (np.abs(found.means[0].numpy() - exact.means) / sd).max() < 2e-8


def test_the_third_derivative_of_a_tracker(path: str) -> None:
    """pykalman #47, dynamax #317: variance 2.5027e-7 at step 1 of 0 … 59."""
    chain = laws()["tracker"].chain(1e-8, 1e6)
    found = gaussian.smooth(chain, as_values(series()))
    assert float(found.covariances[0, 1, 3, 3]) == pytest.approx(2.5027e-7, rel=2e-5)


@pytest.mark.parametrize("name", laws())
def test_gradients_keep_their_digits_too(name: str, path: str) -> None:
    """Against differences of the evidence in decimals."""
    law, y, (noise, spread) = laws()[name], series(), (1e-6, 1e9)
    chain = law.chain(noise, spread)
    leaf = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    scaled = chain._replace(noise=chain.noise * leaf.exp())
    gaussian.log_evidence(scaled, as_values(y)).sum().backward()
    step = 2.0**-12
    ends = (textbook(law, noise * math.exp(h), spread, y).evidence for h in (step, -step))
    slope = (next(ends) - next(ends)) / (2 * step)
    assert float(leaf.grad) == pytest.approx(slope, rel=1e-5, abs=1e-5)


# --- flat first laws ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", laws())
@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_a_flat_first_law_at_any_ratio_and_offset(name: str, offset: float, path: str) -> None:
    law, steps = laws()[name], 60 if path == "machine code" else 20
    y = np.round(series(steps) * 2**16) / 2**16 + offset  # exact in float64
    for noise in (1e-10, 1e-6, 1.0, 1e6, 1e10):
        exact, chain = textbook(law, noise, 1e40, y, flat=True), law.chain(noise, None)
        values = as_values(y)
        evidence = float(gaussian.log_evidence(chain, values))
        assert evidence == pytest.approx(exact.evidence, abs=1e-10, rel=1e-14)
        steps = float(gaussian.step_log_likelihood(chain, values).sum())
        assert steps == pytest.approx(evidence, abs=1e-10, rel=1e-14)
        found = gaussian.smooth(chain, values)
        np.testing.assert_allclose(
            diagonal(found.covariances[0]), diagonal(exact.smoothed), rtol=1e-11
        )
        apart = np.abs(found.means[0].numpy() - exact.means)
        limit = 1e-9 * np.sqrt(diagonal(exact.smoothed)) + 1e-15 * np.abs(exact.means)
        assert (apart <= limit).all()


def test_an_offset_changes_no_evidence(path: str) -> None:
    """A local level, noise sd 0.1 and level sd 0.05, up to the seconds since 1970."""
    rng, steps = np.random.default_rng(5), 300 if path == "machine code" else 30
    y = np.cumsum(0.05 * rng.standard_normal(steps)) + 0.1 * rng.standard_normal(steps)
    y = np.round(y * 2**20) / 2**20
    chain = laws()["level"].chain(0.0025, None, 0.01)
    turned = [[1, 0, 0], [0, math.cos(0.1), math.sin(0.1)], [0, -math.sin(0.1), math.cos(0.1)]]
    wave = Law(np.array(turned), np.array([1.0, 1, 0]), np.eye(3)).chain(0.0025, None, 0.01)
    for one in (chain, wave):
        exact, apart = [], []
        for offset in (0.0, -1.0, 1e6, 1.7e9):
            values, noise = as_values(y + offset), one.noise.clone().requires_grad_()
            evidence = gaussian.log_evidence(one._replace(noise=noise), values)
            (slope,) = torch.autograd.grad(evidence.sum(), noise)
            innovations, _ = gaussian.standardised_innovations(one, values)
            told, smoothed = gaussian.filter(one, values), gaussian.smooth(one, values)
            terms = gaussian.step_log_likelihood(one, values)
            parts = evidence, terms.sum(), terms, slope[0, 0].diagonal(), innovations[0, 9:]
            parts = *parts, told.covariances[0, 9:], smoothed.covariances
            exact.append(torch.cat([x.detach().flatten() for x in parts]))
            means = torch.cat([smoothed.means[0, :, 0], told.means[0, 9:, 0]])
            apart.append(means - offset)
        for numbers, means in zip(exact, apart, strict=True):
            torch.testing.assert_close(numbers, exact[0], rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(means, apart[0], rtol=0, atol=1e-6)


@pytest.mark.usefixtures("path")
def test_draws_lie_where_the_data_do() -> None:
    chain, y = laws()["level"].chain(0.0025, None, 0.01), np.full(30, 1.7e9)
    generator = torch.Generator().manual_seed(0)
    drawn = gaussian.sample_paths(chain, as_values(y), n=2000, generator=generator) - 1.7e9
    exact = gaussian.smooth(chain, as_values(y)).covariances[..., 0]
    # Means within 5 standard errors, variances within 5: below 1e-4 by chance in 60 of them.
    assert (drawn.mean(0) / (exact / 2000).sqrt()).abs().max() < 5
    assert ((drawn.var(0) / exact - 1) * math.sqrt(1000)).abs().max() < 5


# --- states that are known exactly ----------------------------------------------------------------


def posterior(law: Law, variance: np.ndarray, first: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Covariances (T, D, D) given everything, from the joint law of all steps."""
    steps, size = len(y), len(law.transition)
    powers = [np.linalg.matrix_power(law.transition, k) for k in range(steps)]
    zero = np.zeros((size, size))
    rows = [[powers[t - k] if k <= t else zero for k in range(steps)] for t in range(steps)]
    shocks = np.kron(np.eye(steps), law.noise)
    shocks[:size, :size] = first
    states = np.block(rows) @ shocks @ np.block(rows).T
    loading = np.kron(np.eye(steps), law.loading)
    observed = loading @ states @ loading.T + np.kron(np.eye(steps), variance)
    gain = states @ loading.T @ np.linalg.pinv(observed, hermitian=True)
    left = states - gain @ loading @ states
    return np.stack([left[s : s + size, s : s + size] for s in range(0, len(left), size)])


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("turned", [False, True])
def test_what_is_known_exactly_tells_nothing_of_the_rest(turned: bool) -> None:
    """Lags of an autoregression that is seen without noise, beside a fixed level."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        a = np.array([[0.5, 0.2, -0.1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
        q, c = np.diag([1.0, 0, 0, 0]), np.array([[1.0, 0, 0, 0], [0, 0, 0.3, 1]])
        first, r = np.diag([1.0, 1, 1, 4]), np.diag([0.0, 1])
        if turned:
            basis = rng.standard_normal((4, 4))
            back = np.linalg.inv(basis)
            a, c, q, first = (
                basis @ a @ back,
                c @ back,
                basis @ q @ basis.T,
                basis @ first @ basis.T,
            )
            q, first = (q + q.T) / 2, (first + first.T) / 2
        y, law = rng.standard_normal((12, 2)), Law(a, c, q)
        exact = posterior(law, r, first, y)
        one = law.chain(1.0, 1.0)._replace(
            initial_covariance=torch.as_tensor(first)[None],
            loading=torch.as_tensor(c)[None, None],
            intercept=torch.zeros(1, 1, 2, dtype=torch.float64),
            observation_noise=torch.as_tensor(r)[None, None],
        )
        found = gaussian.smooth(one, torch.as_tensor(y)[None]).covariances[0].numpy()
        scale = np.sqrt(np.einsum("i,j->ij", *[np.diagonal(first)] * 2))
        assert (np.abs(found - exact) / scale).max() < 1e-6
