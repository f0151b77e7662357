"""Random linear-Gaussian models: every query beside the joint normal law, and invariances.

A case is known by its number: ``draw(number)`` repeats it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import biject_to

import oracles_linear as oracle
from beliefzoo.inference import (
    Moments,
    filter,
    forecast,
    log_evidence,
    predict,
    smooth,
    standardised_innovations,
    step_log_likelihood,
)
from beliefzoo.inference.exact import gaussian, gaussian_torch
from beliefzoo.inference.queries import batches
from beliefzoo.models import (
    Autoregressive,
    Cycle,
    LinearDynamics,
    LinearGaussianSSM,
    LocalLevel,
    OrnsteinUhlenbeck,
    Sequences,
)
from fuzzing import TIMES, each
from linear_random_cases import AHEAD, Around, Drawn, draw
from oracles_linear import Floats, Given, Matrices

CASES, PARTS = 10 * TIMES, 2
TOLERANCE = 1e-8
"""Relative to the size of the numbers. The joint law is solved densely; its matrices have condition
numbers up to some 1e6, with 1e-16 of rounding."""


def close(found: Tensor, expected: Floats, what: str) -> None:
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(
        found, expected, rtol=TOLERANCE, atol=TOLERANCE * scale, err_msg=what
    )


def moments(found: Given, t: int, size: int) -> tuple[Floats, Floats]:
    own = slice(t * size, (t + 1) * size)
    return found.mean[own], found.covariance[own, own]


def cut(x: Matrices, steps: int) -> Matrices:
    """The first steps."""
    moves = (part[: steps - 1] for part in (x.a, x.b, x.q))
    return Matrices(x.m, x.p, *moves, x.c[:steps], x.d[:steps], x.r[:steps])


def evidence(x: Matrices, flat: Floats, y: Floats) -> float:
    if flat.shape[1]:
        return oracle.diffuse_log_evidence(x, flat, y)
    return oracle.log_evidence(x, y)


def law_of(found: Moments, n: int, t: int, truth: Given, at: int, what: str) -> None:
    """Compares the law of a step with that of a step of the truth, infinite where undetermined."""
    if not truth.determined:
        assert bool(found.covariance[n, t].isinf().any()), what
        return
    mean, spread = moments(truth, at, found.mean.shape[-1])
    close(found.mean[n, t], mean, f"{what}: mean")
    close(found.covariance[n, t], spread, f"{what}: covariance")


def check(case: Drawn) -> None:
    """By the compiled recursions or by those of torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "BATCH", 2)  # batches are cut to their own longest sequence
        if case.number // 6 % 2:
            patch.setattr(gaussian, "_recursions", lambda tensor: gaussian_torch)
        check_queries(case)


def check_queries(case: Drawn) -> None:
    model, data = case.model.with_parameters(**case.values), case.data
    chains = [case.matrices(case.values, at, len(at.y) + AHEAD) for at in case.around]
    whole = [
        oracle.given(cut(x, len(at.y)), case.flat, at.y)
        for x, at in zip(chains, case.around, strict=True)
    ]
    if not all(one.determined for one in whole):
        with pytest.raises(ValueError, match="diffuse direction"):
            log_evidence(model, data)
        return
    found = log_evidence(model, data)
    filtered, predicted, smoothed = filter(model, data), predict(model, data), smooth(model, data)
    steps, innovations = step_log_likelihood(model, data), standardised_innovations(model, data)
    ahead = forecast(model, data, AHEAD, draws=2, seed=0, **case.future)
    for n, (x, at) in enumerate(zip(chains, case.around, strict=True)):
        length, size = len(at.y), len(x.m)
        close(found[n], np.array(evidence(cut(x, length), case.flat, at.y)), "evidence")
        for t in range(length):
            law_of(smoothed, n, t, whole[n], t, "smooth")
            past = oracle.given(cut(x, t + 1), case.flat, at.y[: t + 1])
            law_of(filtered, n, t, past, t, "filter")
            gone = np.concatenate([at.y[:t], np.full_like(at.y[:1], np.nan)])
            before = oracle.given(cut(x, t + 1), case.flat, gone)
            law_of(predicted, n, t, before, t, "predict")
            if past.determined and before.determined:
                until = evidence(cut(x, t + 1), case.flat, at.y[: t + 1])
                close(steps[n, : t + 1].sum(), np.array(until), "steps")
        if not case.flat.shape[1]:
            law, flat_y = oracle.joint(cut(x, length)), at.y.reshape(-1)
            seen = np.flatnonzero(~np.isnan(flat_y))
            own = law.states + seen
            root = np.linalg.cholesky(law.covariance[np.ix_(own, own)])
            white = np.full(flat_y.shape, np.nan)
            white[seen] = np.linalg.solve(root, flat_y[seen] - law.mean[own])
            close(innovations[n, :length].reshape(-1), white, "innovations")
        later = np.concatenate([at.y, np.full((AHEAD, at.y.shape[1]), np.nan)])
        future = oracle.given(x, case.flat, later)
        for h in range(AHEAD):
            mean, spread = moments(future, length + h, size)
            close(ahead.state_mean[n, h], mean, "forecast")
            close(ahead.state_covariance[n, h], spread, "covariance of the forecast")
            rows = future.states + (length + h) * at.y.shape[1] + np.arange(at.y.shape[1])
            close(ahead.mean[n, h], future.mean[rows], "mean of the forecast")
            close(ahead.variance[n, h], np.diag(future.covariance)[rows], "its variance")


@pytest.fixture(autouse=True)
def double() -> None:
    torch.set_default_dtype(torch.float64)


@pytest.mark.cases(CASES // PARTS)
@pytest.mark.parametrize("part", range(PARTS))
def test_fuzz_every_query_is_the_joint_normal_law(part: int) -> None:
    assert each(range(part, CASES, PARTS), draw, check) == CASES // PARTS


# --- gradients


def check_slope(case: Drawn) -> bool:
    """The derivative along a random curve, by five points of the joint law h = 1e-3 apart.

    It is off by h⁴ / 30 times the fifth derivative, and by rounding: a part in 10^5.
    """
    chains = [case.matrices(case.values, at, len(at.y)) for at in case.around]
    told = zip(chains, case.around, strict=True)
    if not all(oracle.given(x, case.flat, at.y).determined for x, at in told):
        return False
    rng, curves = np.random.default_rng(0), {}
    for name, value in case.values.items():
        curves[name] = curve(case, name, torch.tensor(value), rng)
    h = torch.zeros((), dtype=torch.float64, requires_grad=True)
    known = case.model.with_parameters(**{name: along(h) for name, along in curves.items()})
    (found,) = torch.autograd.grad(log_evidence(known, case.data).sum(), h)

    def at(step: float) -> float:
        moved = {name: along(torch.tensor(step)).numpy() for name, along in curves.items()}
        both = ((case.matrices(moved, one, len(one.y)), one.y) for one in case.around)
        return sum(evidence(x, case.flat, y) for x, y in both)

    e = 1e-3
    expected = (8 * (at(e) - at(-e)) - (at(2 * e) - at(-2 * e))) / (12 * e)
    np.testing.assert_allclose(float(found), expected, rtol=1e-5, atol=1e-5)
    return True


def curve(
    case: Drawn, name: str, value: Tensor, rng: np.random.Generator
) -> Callable[[Tensor], Tensor]:
    """Values of a parameter along a random direction, within what it can be."""
    if name.endswith("_covariance"):  # correlated or not, it stays so
        scale = torch.tensor(0.3 * rng.normal(size=len(value)))
        return lambda h: (h * scale).exp() * value * (h * scale).exp().unsqueeze(-1)
    prior = case.model.priors[name]
    free = biject_to(prior.support)
    over_steps = value.ndim > len(prior.event_shape)
    size = value.shape if over_steps else free.inv(value).shape
    direction = torch.tensor(0.3 * rng.normal(size=size))
    if over_steps:  # reals
        return lambda h: value + h * direction
    origin = free.inv(value)
    return lambda h: free(origin + h * direction)


@pytest.mark.cases(CASES)
def test_fuzz_gradients_are_those_of_the_joint_law() -> None:
    assert each(range(CASES), draw, check_slope) > CASES / 2


# --- invariances


def alike(found: Tensor, expected: Tensor) -> None:
    """The same numbers by another way through the same recursion."""
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def determined(case: Drawn) -> bool:
    try:
        log_evidence(case.model.with_parameters(**case.values), case.data)
    except ValueError:
        return False
    return True


def alone(case: Drawn) -> bool:
    """Batches, and the padding that they bring, change nothing; nor does the order."""
    data = case.data
    if len(data) == 1 or not determined(case):
        return False
    model = case.model.with_parameters(**case.values)
    whole, means = log_evidence(model, data), smooth(model, data).mean
    for n, length in enumerate(data.lengths.tolist()):
        alike(log_evidence(model, data[[n]])[0], whole[n])
        alike(smooth(model, data[[n]]).mean[0], means[n, :length])
    alike(log_evidence(model, data[list(range(len(data)))[::-1]]), whole.flip(0))
    return True


def in_other_coordinates(case: Drawn) -> bool:
    """States may be called by other numbers, z → M z, a permutation among them."""
    law, v = case.model.dynamics, case.values
    if not isinstance(law, LinearDynamics) or law.initial == "diffuse" or not determined(case):
        return False
    size, rng = law.states, np.random.default_rng(1)
    turn = np.eye(size)[rng.permutation(size)] + 0.3 * rng.normal(size=(size, size))
    back = np.linalg.inv(turn)
    moved = dict(v)
    moved["transition"] = turn @ v["transition"] @ back
    moved["loading"] = v["loading"] @ back
    for name in {"offset", "initial_mean"} & set(v):
        moved[name] = v[name] @ turn.T
    for name in {"process_covariance", "initial_covariance"} & set(v):
        moved[name] = symmetric(turn @ v[name] @ turn.T)
    if "input_weight" in v:
        moved["input_weight"] = turn @ v["input_weight"]
    other = LinearGaussianSSM(replace(law, correlated=True), emission=case.model.emission)
    model, there = case.model.with_parameters(**v), other.with_parameters(**moved)
    alike(log_evidence(there, case.data), log_evidence(model, case.data))
    turned = smooth(model, case.data).mean @ torch.tensor(turn).mT
    alike(smooth(there, case.data).mean, turned)
    return True


def symmetric(matrix: Floats) -> Floats:
    return np.asarray((matrix + matrix.T) / 2)


def cut_in_two(case: Drawn) -> bool:
    """What comes after a step is a sequence that begins with the prediction of it."""
    law, v = case.model.dynamics, case.values
    at = max(case.around, key=lambda one: len(one.y))
    half = len(at.y) // 2
    if not isinstance(law, LinearDynamics) or law.initial != "free" or v["transition"].ndim == 3:
        return False
    parts = slice(half), slice(half, len(at.y))
    if any(np.isnan(at.y[steps]).all() for steps in parts):
        return False  # sequences need something observed
    whole = replace(case, around=[at])
    sides = [
        replace(
            case,
            around=[Around(at.y[s], None if at.inputs is None else at.inputs[s.start or 0 :])],
        )
        for s in parts
    ]
    model = case.model.with_parameters(**v)
    begun = predict(model, whole.data)
    own = {"initial_mean": begun.mean[0, half], "initial_covariance": begun.covariance[0, half]}
    full = LinearGaussianSSM(replace(law, correlated=True), emission=case.model.emission)
    later = full.with_parameters(**{**v, **own})
    total = log_evidence(model, sides[0].data) + log_evidence(later, sides[1].data)
    alike(total, log_evidence(model, whole.data))
    return True


def merged(case: Drawn) -> bool:
    """Two random walks that add up are one."""
    rng = np.random.default_rng(len(case.around[0].y))
    a, b, first, second, noise = rng.gamma(2.0, 0.5, 5)
    both = LocalLevel(name="a", initial_variance=first) + LocalLevel(
        name="b", initial_variance=second
    )
    two = LinearGaussianSSM(both).with_parameters(
        a_variance=a, b_variance=b, observation_variance=noise
    )
    one = LinearGaussianSSM(LocalLevel(initial_variance=first + second)).with_parameters(
        level_variance=a + b, observation_variance=noise
    )
    y = Sequences.from_arrays([at.y[:, :1] for at in case.around if not np.isnan(at.y[:, 0]).all()])
    alike(log_evidence(two, y), log_evidence(one, y))
    alike(smooth(two, y).mean.sum(-1, keepdim=True), smooth(one, y).mean)
    return True


def reversed_in_time(case: Drawn) -> bool:
    """A stationary series looks the same from its end, and so do independent ones."""
    law = case.model.dynamics
    stationary = all(isinstance(part, Autoregressive | Cycle) for part in law.parts.values())
    stationary = stationary or (isinstance(law, OrnsteinUhlenbeck) and law.stationary)
    if not stationary:
        return False
    turned = []
    for at in case.around:
        length = len(at.y)
        x = None if at.inputs is None else at.inputs[length - 1 :: -1]
        times = None if at.times is None else -at.times[length - 1 :: -1]
        turned.append(Around(at.y[::-1], x, times))
    model, there = case.model.with_parameters(**case.values), replace(case, around=turned).data
    alike(log_evidence(model, there), log_evidence(model, case.data))
    return True


PLACES = ("mean", "intercept", "initial_mean", "offset", "drift_offset")
EFFECTS = ("input_weight", "input_effect")
PACES = ("rate", "drift", "diffusion_variance", "diffusion_covariance", "drift_offset")


def moved(case: Drawn) -> bool:
    """Another unit of the data, their origin, other units of inputs and of times."""
    law, v, c, u, b = case.model.dynamics, dict(case.values), 2.0**-5, 2.0**7, 3.0
    proper = [getattr(part, "initial_variance", None) for part in law.parts.values()]
    if any(one is not None for one in proper) or not determined(case):
        return False
    for name in v:
        if name.endswith(("_variance", "_covariance")):
            v[name] = c**2 * v[name]
        elif name in (*PLACES, *EFFECTS):
            v[name] = c * v[name]
        if name in EFFECTS:
            v[name] = v[name] / u
        if name in PACES:
            v[name] = v[name] / u
    shifted = case.model.emission.intercept
    if shifted:
        v["intercept"] = v["intercept"] + b
    around = []
    for at in case.around:
        x = None if at.inputs is None else u * at.inputs
        times = None if at.times is None else u * at.times
        around.append(Around(c * at.y + (b if shifted else 0), x, times))
    model, there = (case.model.with_parameters(**values) for values in (case.values, v))
    data, other = case.data, replace(case, around=around).data
    counted = data.mask.sum((1, 2)) - case.flat.shape[1]  # a flat law has the unit of the state
    alike(log_evidence(there, other), log_evidence(model, data) - counted * np.log(c))
    alike(smooth(there, other).mean[:, :1] / c, (smooth(model, data).mean)[:, :1])
    return True


INVARIANCES = (alone, in_other_coordinates, cut_in_two, merged, reversed_in_time, moved)


@pytest.mark.cases(2 * CASES)
@pytest.mark.parametrize("claim", INVARIANCES, ids=lambda claim: claim.__name__)
def test_fuzz_what_changes_nothing(claim: Callable[[Drawn], bool]) -> None:
    assert each(range(2 * CASES), draw, claim) > CASES / 20
