"""Random families of observations for the tests, each beside the density of one state by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyro.distributions as dist
from scipy.special import softmax

import oracles_emissions as by_hand
from beliefzoo.models import (
    Bernoulli,
    Categorical,
    Emission,
    FromDistribution,
    FullGaussian,
    Gaussian,
    GaussianMixture,
    Independent,
    LowRankGaussian,
    Multinomial,
    NeuralEmission,
    Poisson,
    Regression,
    StudentT,
)
from oracles import Floats

Values = dict[str, Floats]
Rng = np.random.Generator

AHEAD = 2
"""Steps of the forecasts."""


class Around(NamedTuple):
    """What one sequence is driven by; inputs, times and actions go on for ``AHEAD`` more steps."""

    y: Floats
    """(T, F), NaN where missing."""
    inputs: Floats | None = None
    times: Floats | None = None
    actions: Floats | None = None
    rewards: Floats | None = None


def log0(x: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(x))


@dataclass
class Family:
    """A family of observations: how its values are drawn, and one state's density by hand."""

    emission: Emission
    draw_values: Callable[[Rng, int], Values]
    density: Callable[..., float]
    draw: Callable[[Rng], Floats]
    mean: Callable[[Values], Floats]
    lagged: Callable[..., Floats] = by_hand.as_deviation
    whole: bool = False
    """A step is missing as a whole or not at all."""
    plain: Callable[[Values], Values] | None = None
    """The family's own values, where ``values`` are those of a network or of nodes."""

    def own(self, values: Values) -> Values:
        """The family's own values, one row per state."""
        if self.plain is not None:
            return self.plain(values)
        base = getattr(self.emission, "base", self.emission)
        return {name: values[name] for name in base.dims()}

    def of_state(self, plain: Values, k: int) -> Values:
        """One state's parameters, each with its feature axis."""
        single = self.emission.features == 1 and not self.emission.codes
        axis = {"rate", "probs", "mean", "scale", "freedom", "concentration", "loc"}
        axis |= {"concentration0", "concentration1"}
        return {n: v[k][..., None] if single and n in axis else v[k] for n, v in plain.items()}

    def of_lag(self, values: Values, k: int, lag: int, phi: Floats) -> Floats:
        """A φ, or f(φ) − f(0) of a tanh network in units of the family's spread."""
        if "lag_weight" in values:
            return np.asarray(values["lag_weight"][k, lag - 1] @ phi)
        first, bias, last = (values[f"lag{lag}_{name}"] for name in ("weight0", "bias0", "weight1"))
        unit = spread_of(getattr(self.emission, "base", None))
        hidden = np.tanh(phi / unit @ first + bias) - np.tanh(bias)
        return np.asarray(unit * (hidden @ last))

    def log_likelihood(self, values: Values, states: int, at: Around) -> Floats:
        """log O_k(y_t), (T, K), one number at a time."""
        plain, lags = self.own(values), self.emission.lags
        out = np.zeros((len(at.y), states))
        with np.errstate(divide="ignore"):
            for t, k in itertools.product(range(len(at.y)), range(states)):
                seen = ~np.isnan(at.y[t])
                if not seen.any():
                    continue
                p, shift = self.of_state(plain, k), np.zeros(self.emission.shift_size)
                if "input_weight" in values and at.inputs is not None:
                    shift = shift + values["input_weight"][k] @ at.inputs[t]
                for lag in range(1, min(lags, t) + 1):
                    before = at.y[t - lag]
                    known = ~np.isnan(before)
                    if known.any():
                        phi = self.lagged(p, np.where(known, before, 0)) * known
                        shift = shift + self.of_lag(values, k, lag, phi)
                out[t, k] = self.density(p, np.where(seen, at.y[t], 0), seen, shift)
        return out


def spread_of(emission: object) -> Floats:
    """The unit of a family's numbers; of several families side by side, of each."""
    parts = getattr(emission, "families", None)
    if parts is None:
        return np.asarray(getattr(emission, "spread", 1.0))
    return np.concatenate([np.broadcast_to(spread_of(one), one.shift_size) for one in parts])


# --- families


def reals(size: int) -> Callable[[Rng], Floats]:
    return lambda rng: 2 * rng.normal(size=size)


def located(rng: Rng, *shape: int) -> Values:
    sharp = rng.choice([1.0, 1.0, 1.0, 30.0])  # far from some data, in units of the noise
    return {"mean": 1.5 * rng.normal(size=shape), "scale": rng.uniform(0.4, 2.0, shape) / sharp}


def shares(rng: Rng, *shape: int, zeros: bool = True) -> Floats:
    """Rows of probabilities, some of them with zeros, or down to 1e-100."""
    out = rng.dirichlet(np.full(shape[-1], rng.choice([0.02, 0.3, 1.0, 5.0])), shape[:-1])
    if zeros and rng.random() < 0.25:
        gone = rng.random(out.shape) < 0.3
        gone[..., 0] &= ~gone.all(-1)
        out = np.where(gone, 0, out)
        out[..., 0] += out.sum(-1) == 0
    out = np.maximum(out, 0 if zeros else 1e-4)
    return np.asarray(out / out.sum(-1, keepdims=True))


def per_feature(features: int) -> tuple[int, ...]:
    return () if features == 1 else (features,)


def correlation_factors(rng: Rng, *shape: int, size: int) -> Floats:
    loading = rng.normal(size=(*shape, size, size))
    covariance = loading @ loading.swapaxes(-1, -2) + 0.5 * np.eye(size)
    scale = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    return np.asarray(np.linalg.cholesky(covariance) / scale[..., None])


def counted(rng: Rng, f: int) -> Family:
    """A family of codes, bits or counts."""
    tail = per_feature(f)
    kind = rng.choice(["categorical", "poisson", "bernoulli", "multinomial"])
    if kind == "categorical":
        symbols = int(rng.integers(2, 6))
        return Family(
            Categorical(symbols),
            lambda r, k: {"probs": shares(r, k, symbols)},
            by_hand.categorical,
            lambda r: r.integers(0, symbols, 1).astype(float),
            lambda v: v["probs"],
            by_hand.as_one_hot,
            whole=True,
        )
    if kind == "poisson":
        return Family(
            Poisson(f),
            lambda r, k: {"rate": r.gamma(1.0, 3.0, (k, *tail)) + 0.05},
            by_hand.poisson,
            lambda r: r.poisson(3.0, f).astype(float),
            lambda v: v["rate"],
            by_hand.as_logs,
        )
    if kind == "bernoulli":
        return Family(
            Bernoulli(f),
            lambda r, k: {"probs": r.uniform(0.02, 0.98, (k, *tail))},
            by_hand.bernoulli,
            lambda r: r.integers(0, 2, f).astype(float),
            lambda v: v["probs"],
            by_hand.as_it_is,
        )
    return Family(
        Multinomial(f + 1, trials=4),
        lambda r, k: {"probs": shares(r, k, f + 1, zeros=False)},
        by_hand.multinomial,
        lambda r: r.poisson(1.5, f + 1).astype(float),
        lambda v: 4 * v["probs"],
        by_hand.as_shares,
        whole=True,
    )


def continuous(rng: Rng, f: int) -> Family:
    """A family of reals that the library has a class for."""
    tail, m = per_feature(f), int(rng.integers(2, 4))
    kind = rng.choice(["gaussian", "full", "low rank", "student", "mixture"])
    if kind == "gaussian":
        return Family(
            Gaussian(f),
            lambda r, k: located(r, k, *tail),
            by_hand.gaussian,
            reals(f),
            lambda v: v["mean"],
        )
    if kind == "full":
        return Family(
            FullGaussian(2),
            lambda r, k: (
                located(r, k, 2) | {"correlation_factor": correlation_factors(r, k, size=2)}
            ),
            by_hand.full_gaussian,
            reals(2),
            lambda v: v["mean"],
        )
    if kind == "low rank":
        return Family(
            LowRankGaussian(3, rank=2),
            lambda r, k: located(r, k, 3) | {"loading": r.normal(size=(k, 3, 2))},
            by_hand.low_rank_gaussian,
            reals(3),
            lambda v: v["mean"],
        )
    if kind == "student":
        return Family(
            StudentT(f),
            lambda r, k: located(r, k, *tail) | {"freedom": r.uniform(1.5, 12, (k, *tail))},
            by_hand.student_t,
            reals(f),
            lambda v: v["mean"],
        )
    return Family(
        GaussianMixture(f, components=m),
        lambda r, k: located(r, k, m, *tail) | {"weight": shares(r, k, m, zeros=False)},
        by_hand.gaussian_mixture,
        reals(f),
        lambda v: np.einsum("km,km...->k...", v["weight"], v["mean"]),
    )


def distributed(rng: Rng, f: int) -> Family:
    """A family of a distribution that the library has no class for."""
    tail = per_feature(f)
    kind = rng.choice(["gamma", "laplace", "log normal", "beta"])
    if kind == "gamma":
        names, law = ("concentration", "rate"), dist.Gamma
        density, mean = by_hand.gamma, lambda v: v["concentration"] / v["rate"]
    elif kind == "laplace":
        names, law = ("loc", "scale"), dist.Laplace
        density, mean = by_hand.laplace, lambda v: v["loc"]
    elif kind == "log normal":
        names, law = ("loc", "scale"), dist.LogNormal
        density, mean = by_hand.log_normal, lambda v: np.exp(v["loc"] + v["scale"] ** 2 / 2)
    else:
        names, law = ("concentration1", "concentration0"), dist.Beta
        density = by_hand.beta
        mean = lambda v: v["concentration1"] / (v["concentration1"] + v["concentration0"])  # noqa: E731
    inside = kind == "beta"
    return Family(
        FromDistribution(law, f),
        lambda r, k: {name: r.uniform(0.5, 2.5, (k, *tail)) for name in names},
        density,
        (lambda r: r.uniform(0.05, 0.95, f)) if inside else (lambda r: r.gamma(2.0, size=f)),
        mean,
    )


def regressed(rng: Rng, base: Family, states_inputs: int) -> Family:
    """The family with inputs, lags or both in its linear predictor."""
    lags = int(rng.integers(0 if states_inputs else 1, 3))
    width = 3 if lags and rng.random() < 0.25 else 0
    emission = Regression(base.emission, inputs=states_inputs, lags=lags, width=width)
    size = emission.shift_size

    def draw_values(r: Rng, k: int) -> Values:
        values = base.draw_values(r, k)
        if "probs" in values and values["probs"].min() == 0:  # −∞ + shift is no logit
            values["probs"] = shares(r, *values["probs"].shape, zeros=False)
        if states_inputs:
            values["input_weight"] = 0.5 * r.normal(size=(k, size, states_inputs))
        for lag in range(1, (lags if width else 0) + 1):
            values[f"lag{lag}_weight0"] = r.normal(size=(size, width))
            values[f"lag{lag}_bias0"] = r.normal(size=width)
            values[f"lag{lag}_weight1"] = 0.3 * r.normal(size=(width, size))
        if lags and not width:
            values["lag_weight"] = 0.2 * r.normal(size=(k, lags, size, size))
        return values

    return replace(base, emission=emission, draw_values=draw_values)


def networked(rng: Rng) -> Family:
    """A family whose values are the output of a network; its origin is that of the priors."""
    if rng.random() < 0.5:
        base = Family(Gaussian(2), lambda r, k: {}, by_hand.gaussian, reals(2), lambda v: v["mean"])

        def outputs(x: Floats) -> Values:  # priors: mean ~ N(0, 2²), scale ~ LogNormal(0, 1)
            return {"mean": 2 * x[:, :2], "scale": np.exp(0.5 + x[:, 2:])}
    else:
        base = Family(
            Categorical(3),
            lambda r, k: {},
            by_hand.categorical,
            lambda r: r.integers(0, 3, 1).astype(float),
            lambda v: v["probs"],
            by_hand.as_one_hot,
            whole=True,
        )

        def outputs(x: Floats) -> Values:
            return {"probs": softmax(x, axis=-1)}

    emission = NeuralEmission(base.emission, embedding=2, width=3)

    def plain(values: Values) -> Values:
        hidden = np.tanh(
            values["emission_from"] @ values["emission_weight0"] + values["emission_bias0"]
        )
        return outputs(hidden @ values["emission_weight1"] + values["emission_bias1"])

    def draw_values(r: Rng, k: int) -> Values:
        shapes = {name: prior.event_shape for name, prior in emission.priors(k).items()}
        return {name: 0.7 * r.normal(size=tuple(shape)) for name, shape in shapes.items()}

    return replace(base, emission=emission, draw_values=draw_values, plain=plain)


def mixed(rng: Rng, features: int) -> Family:
    """Two or three families beside each other, none of symbols or of steps seen as a whole."""
    parts: list[Family] = []
    while len(parts) < 2 + (features > 2):
        part = (counted, continuous, distributed)[rng.integers(3)](rng, int(rng.integers(1, 3)))
        parts += [] if part.whole else [part]
    named = dict(zip("abc", parts, strict=False))
    ends = np.cumsum([0, *(part.emission.features for part in parts)])
    places = {name: slice(*ends[n : n + 2]) for n, name in enumerate(named)}
    columns = {
        name: tuple(f"{name}{n}" for n in range(*place.indices(99)))
        for name, place in places.items()
    }

    def own(values: Values, name: str) -> Values:
        return {n[2:]: value for n, value in values.items() if n.startswith(f"{name}_")}

    def draw_values(r: Rng, k: int) -> Values:
        drawn = {name: part.draw_values(r, k) for name, part in named.items()}
        return {f"{name}_{n}": v for name, values in drawn.items() for n, v in values.items()}

    def density(p: Values, y: Floats, seen: Floats, shift: Floats) -> float:
        total = 0.0
        for name, part in named.items():
            place, one = places[name], part.of_state(as_rows(own(p, name)), 0)
            total += part.density(one, y[place], seen[place], shift[place])
        return total

    def lagged(p: Values, y: Floats) -> Floats:
        told = [
            part.lagged(part.of_state(as_rows(own(p, name)), 0), y[places[name]])
            for name, part in named.items()
        ]
        return np.concatenate(told)

    def mean(values: Values) -> Floats:
        k = len(next(iter(values.values())))
        return np.hstack([means(part, own(values, name), k) for name, part in named.items()])

    return Family(
        Independent(families=tuple(part.emission for part in parts), columns=columns),
        draw_values,
        density,
        lambda r: np.concatenate([part.draw(r) for part in parts]),
        mean,
        lagged,
    )


def as_rows(p: Values) -> Values:
    """One state's values as those of a single state."""
    return {name: np.asarray(value)[None] for name, value in p.items()}


def any_family(rng: Rng) -> Family:
    """A family without inputs and lags."""
    features = int(rng.integers(1, 4))
    return (counted, continuous, distributed, mixed)[rng.integers(4)](rng, features)


def observed(rng: Rng, family: Family, length: int) -> Floats:
    """Any observations of the right kind, some elements and some steps of them missing."""
    y = np.stack([family.draw(rng) for _ in range(length)])
    gone = rng.random(y.shape) < rng.choice([0.0, 0.2])
    if family.whole:
        gone[:] = gone[:, :1]
    gone[rng.random(length) < 0.1] = True
    gone[rng.integers(length)] = False
    y[gone] = np.nan
    return y


def means(family: Family, values: Values, states: int) -> Floats:
    """E[y] of every state, (K, F)."""
    return np.asarray(family.mean(family.own(values))).reshape(states, -1)
