"""Random linear-Gaussian models for the tests, each beside its matrices by the textbook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import solve_continuous_lyapunov

import oracles_linear as oracle
from beliefzoo.models import (
    Autoregressive,
    Cycle,
    Dynamics,
    LinearDynamics,
    LinearEmission,
    LinearGaussianSSM,
    LinearSDE,
    LocalLevel,
    LocalLinearTrend,
    OrnsteinUhlenbeck,
    Seasonal,
    Sequences,
)
from oracles_linear import Component, Floats, Matrices

Values = dict[str, Floats]
Rng = np.random.Generator

AHEAD = 2
"""Steps of the forecasts."""


class Around(NamedTuple):
    """One sequence; inputs and times go on for ``AHEAD`` more steps."""

    y: Floats
    """(T, F), NaN where missing."""
    inputs: Floats | None = None
    times: Floats | None = None


@dataclass
class Drawn:
    """A model, values of its parameters, data, and its matrices written out."""

    name: str
    model: LinearGaussianSSM
    values: Values
    around: list[Around]
    matrices: Callable[[Values, Around, int], Matrices]
    """Of so many steps."""
    flat: Floats
    """Directions of the first state with a flat law, (D, q)."""
    number: int

    @property
    def data(self) -> Sequences:
        along: dict[str, Any] = {}
        for name in ("inputs", "times"):
            rows = [getattr(one, name) for one in self.around]
            if rows[0] is not None:
                both = zip(rows, self.around, strict=True)
                along[name] = [row[: len(one.y)] for row, one in both]
        return Sequences.from_arrays([one.y for one in self.around], **along)

    @property
    def future(self) -> dict[str, Floats]:
        """Inputs and times of the steps ahead."""
        out = {}
        for name in ("inputs", "times"):
            rows = [getattr(one, name) for one in self.around]
            if rows[0] is not None:
                out[name] = np.stack([row[-AHEAD:] for row in rows])
        return out


# --- laws: a description, its values, and a function from values to a textbook component


class Law(NamedTuple):
    """A law of dynamics; ``moves`` gives its textbook form over so many steps."""

    dynamics: Dynamics
    values: Values
    moves: Callable[[Values, Around, int], Matrices]
    """Without what the emission adds: C, d and R of one series are those of ``dynamics``."""
    flat: Floats


def variance(rng: Rng) -> Floats:
    return np.array(rng.gamma(1.5, 0.4) + 0.02)


def covariance(rng: Rng, size: int, correlated: bool) -> Floats:
    root = rng.normal(size=(size, size))
    full = root @ root.T / size + 0.2 * np.eye(size)
    return full if correlated else np.diag(np.diag(full))


def component(rng: Rng, label: str) -> tuple[Dynamics, Values, Callable[[Values], Component]]:
    """A structural component, its parameters prefixed by a name of its own."""
    initial = None if rng.random() < 0.5 else float(rng.uniform(0.5, 4))
    kind = rng.choice(["level", "trend", "dummies", "waves", "ar", "cycle"])
    options: dict[str, Any] = {"name": label, "initial_variance": initial}
    key = f"{label}_variance"
    if kind == "level":
        values = {key: variance(rng)}
        return LocalLevel(**options), values, lambda v: oracle.level(v[key], initial)
    if kind == "trend":
        smooth, fixed = bool(rng.integers(2)), bool(rng.integers(2))
        names = [f"{label}_level_variance", f"{label}_slope_variance"]
        kept = [n for n, gone in zip(names, (smooth, fixed), strict=True) if not gone]
        law = LocalLinearTrend(smooth, fixed, **options)
        return (
            law,
            {name: variance(rng) for name in kept},
            lambda v: oracle.trend(*(v.get(name, 0.0) for name in names), initial),
        )
    if kind == "dummies":
        period = int(rng.integers(2, 5))
        values = {key: variance(rng)}
        return (
            Seasonal(period, **options),
            values,
            lambda v: oracle.dummies(period, v[key], initial),
        )
    if kind == "waves":
        period = float(rng.choice([2.5, 3.7, 4.0, 6.0]))
        count = int(rng.integers(1, period // 2 + 1))
        law = Seasonal(period, harmonics=count, **options)
        return law, {key: variance(rng)}, lambda v: oracle.waves(period, count, v[key], initial)
    if kind == "ar":
        partial = rng.uniform(-0.9, 0.9, rng.integers(1, 4))
        values = {f"{label}_partial": partial, key: variance(rng)}
        return (
            Autoregressive(len(partial), name=label),
            values,
            lambda v: oracle.autoregression(levinson(v[f"{label}_partial"]), v[key]),
        )
    values = {
        f"{label}_damping": np.array(rng.uniform(0.3, 0.95)),
        f"{label}_frequency": np.array(rng.uniform(0.1, 3.0)),
        key: variance(rng),
    }
    return Cycle(name=label), values, lambda v: oracle.cycle(*(v[name] for name in values))


def levinson(partial: Floats) -> Floats:
    """Coefficients with these partial autocorrelations, by the recursion of Durbin and Levinson."""
    phi = partial[:1]
    for last in partial[1:]:
        phi = np.append(phi - last * phi[::-1], last)
    return phi


def structural(rng: Rng) -> Law:
    """One to three components of a series, beside each other."""
    drawn = [component(rng, label) for label in "abc"[: rng.integers(1, 4)]]
    dynamics = drawn[0][0]
    for other, _, _ in drawn[1:]:
        dynamics = dynamics + other
    values = {name: value for _, own, _ in drawn for name, value in own.items()}

    def one(v: Values) -> Component:
        return oracle.added([make(v) for _, _, make in drawn])

    def moves(v: Values, at: Around, steps: int) -> Matrices:
        del at
        return oracle.over_steps(one(v), np.zeros((steps, 1)), np.zeros((1, 1)))

    return Law(dynamics, values, moves, one(values).flat)


def free(rng: Rng) -> Law:
    """Free matrices, in part driven by inputs or different at every step."""
    size, initial = int(rng.integers(1, 4)), str(rng.choice(["free", "stationary", "diffuse"]))
    correlated, offset = bool(rng.integers(2)), bool(rng.integers(2))
    inputs = int(rng.integers(0, 3)) if initial != "stationary" else 0
    dynamics = LinearDynamics(size, correlated, initial, offset, inputs)
    root = rng.normal(size=(size, size))
    radius = max(np.abs(np.linalg.eigvals(root)).max(), 1e-3)
    values: Values = {"transition": root * rng.uniform(0.3, 0.95) / radius}
    values["process_covariance"] = covariance(rng, size, correlated)
    varying = initial != "stationary" and rng.random() < 0.3
    if varying:  # more steps than any sequence has
        values["transition"] = values["transition"] * rng.uniform(0.5, 1.2, (LONGEST + AHEAD, 1, 1))
    if offset:
        values["offset"] = rng.normal(size=(LONGEST + AHEAD, size) if varying else size)
    if inputs:
        values["input_weight"] = rng.normal(size=(size, inputs))
    if initial == "free":
        values["initial_mean"] = rng.normal(size=size)
        values["initial_covariance"] = covariance(rng, size, correlated)

    def moves(v: Values, at: Around, steps: int) -> Matrices:
        a, b, q = v["transition"], v.get("offset", np.zeros(size)), v["process_covariance"]
        a = a[: steps - 1] if a.ndim == 3 else np.broadcast_to(a, (steps - 1, size, size))
        b = b[: steps - 1] if b.ndim == 2 else np.broadcast_to(b, (steps - 1, size))
        if inputs:
            assert at.inputs is not None
            b = b + at.inputs[: steps - 1] @ v["input_weight"].T
        m, p = v.get("initial_mean", np.zeros(size)), v.get("initial_covariance", 0 * q)
        if initial == "stationary":
            m, p = oracle.stationary(v["transition"], v.get("offset", np.zeros(size)), q, q)[:2]
        return Matrices(m, p, a, b, np.broadcast_to(q, a.shape), *nothing_seen(steps, size))

    flat = np.eye(size) if initial == "diffuse" else np.zeros((size, 0))
    return Law(dynamics, values, moves, flat)


def nothing_seen(steps: int, size: int) -> tuple[Floats, Floats, Floats]:
    """C, d and R of an observation that the emission is to replace."""
    return np.zeros((steps, 1, size)), np.zeros((steps, 1)), np.zeros((steps, 1, 1))


def equation(rng: Rng) -> Law:
    """A linear stochastic differential equation."""
    size, initial = int(rng.integers(1, 4)), str(rng.choice(["free", "stationary", "diffuse"]))
    correlated, offset = bool(rng.integers(2)), bool(rng.integers(2))
    dynamics = LinearSDE(size, correlated, initial, offset)
    drift = rng.normal(size=(size, size)) - 1.5 * np.eye(size)
    slowest = np.linalg.eigvals(drift).real.max()
    if slowest > -0.1:
        drift -= (slowest + 0.2) * np.eye(size)
    values: Values = {"drift": drift, "diffusion_covariance": covariance(rng, size, correlated)}
    if offset:
        values["drift_offset"] = rng.normal(size=size)
    if initial == "free":
        values["initial_mean"] = rng.normal(size=size)
        values["initial_covariance"] = covariance(rng, size, correlated)

    def moves(v: Values, at: Around, steps: int) -> Matrices:
        assert at.times is not None
        f, c, s = v["drift"], v.get("drift_offset", np.zeros(size)), v["diffusion_covariance"]
        found = [oracle.discretised(f, c, s, gap) for gap in np.diff(at.times[:steps])]
        shapes = (size, size), (size,), (size, size)
        a, b, q = (
            np.array([one[i] for one in found]).reshape(-1, *shape)
            for i, shape in enumerate(shapes)
        )
        m, p = v.get("initial_mean", np.zeros(size)), v.get("initial_covariance", 0 * s)
        if initial == "stationary":
            m, p = np.linalg.solve(f, -c), solve_continuous_lyapunov(f, -s)
        return Matrices(m, p, a, b, q, *nothing_seen(steps, size))

    flat = np.eye(size) if initial == "diffuse" else np.zeros((size, 0))
    return Law(dynamics, values, moves, flat)


def returning(rng: Rng) -> Law:
    """Independent processes of Ornstein and Uhlenbeck, each observed as a feature."""
    size, stationary = int(rng.integers(1, 3)), bool(rng.integers(2))
    shape = () if size == 1 else (size,)
    names = ["stationary_variance"]
    if not stationary:
        names = ["diffusion_variance", "initial_variance"]
    values: Values = {name: rng.gamma(2.0, 0.5, shape) + 0.05 for name in ["rate", *names]}
    values["mean"] = rng.normal(size=shape)
    if not stationary:
        values["initial_mean"] = rng.normal(size=shape)

    def moves(v: Values, at: Around, steps: int) -> Matrices:
        assert at.times is not None
        wide = {name: value.reshape(size) for name, value in v.items() if name in values}
        rate, mean, gaps = wide["rate"], wide["mean"], np.diff(at.times[:steps])[:, None]
        keep = np.exp(-rate * gaps)
        v_stationary = wide.get("stationary_variance")
        if v_stationary is None:
            v_stationary = wide["diffusion_variance"] / (2 * rate)
        m = mean if stationary else wide["initial_mean"]
        p = np.diag(v_stationary if stationary else wide["initial_variance"])
        a = np.eye(size) * keep[:, None]
        q = np.eye(size) * (v_stationary * (1 - keep**2))[:, None]
        c = np.broadcast_to(np.eye(size), (steps, size, size))
        rest = np.zeros((steps, size)), np.zeros((steps, size, size))
        return Matrices(m, p, a, mean * (1 - keep), q, c, *rest)

    return Law(OrnsteinUhlenbeck(size, stationary), values, moves, np.zeros((size, 0)))


LAWS = (structural, structural, free, free, equation, returning)
LONGEST = 9


def draw(seed: int) -> Drawn:
    """The case of a number."""
    rng = np.random.default_rng([seed, 15])
    law = LAWS[seed % len(LAWS)](rng)
    size = law.dynamics.states
    fixed = law.dynamics.loading is not None
    features = len(law.dynamics.loading) if fixed else int(rng.integers(1, 4))
    correlated = bool(rng.integers(2)) and features > 1
    intercept = bool(rng.integers(2))
    reads = law.dynamics.inputs or int(rng.integers(0, 3))
    inputs = reads if rng.random() < 0.5 else 0
    emission = LinearEmission(features, correlated, intercept, inputs)
    shape = () if features == 1 else (features,)
    values = dict(law.values)
    if not fixed:
        values["loading"] = rng.normal(size=(features, size))
    if intercept:
        values["intercept"] = rng.normal(size=shape)
    if inputs:
        values["input_effect"] = rng.normal(size=(features, inputs))
    noise = covariance(rng, features, correlated)
    name = "observation_covariance" if correlated else "observation_variance"
    values[name] = noise if correlated else np.diag(noise).reshape(shape)

    def matrices(v: Values, at: Around, steps: int) -> Matrices:
        x = law.moves(v, at, steps)
        c = x.c if fixed else np.broadcast_to(v["loading"], (steps, features, size))
        d = np.broadcast_to(v.get("intercept", np.zeros(features)), (steps, features))
        if inputs:
            assert at.inputs is not None
            d = d + at.inputs[:steps] @ v["input_effect"].T
        own = v[name]
        r = own if correlated else np.diag(own.reshape(features))
        return x._replace(c=c, d=d, r=np.broadcast_to(r, (steps, features, features)))

    columns = max(law.dynamics.inputs, inputs)
    around = []
    for _ in range(rng.integers(1, 4)):
        length = int(rng.integers(max(1, law.flat.shape[1]), LONGEST + 1))
        y = 2 * rng.normal(size=(length, features))
        gone = rng.random(y.shape) < rng.choice([0.0, 0.15])
        gone[rng.integers(length)] = False
        y[gone] = np.nan
        x = rng.normal(size=(length + AHEAD, columns)) if columns else None
        times = None
        if law.dynamics.timed:
            times = rng.uniform(0.05, 2, length + AHEAD).cumsum()
        around.append(Around(y, x, times))
    model = LinearGaussianSSM(law.dynamics, emission=emission)
    return Drawn(f"{law.dynamics} {emission}", model, values, around, matrices, law.flat, seed)
