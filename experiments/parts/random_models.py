"""Random models of ten families, with values to simulate from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...models import (
    Categorical,
    ContinuousTimeHMM,
    Gaussian,
    GaussianMixture,
    HiddenMarkovModel,
    LinearDynamics,
    LinearGaussianSSM,
    LocalLevel,
    LocalLinearTrend,
    Model,
    OrnsteinUhlenbeck,
    Regression,
    Seasonal,
)

Array = npt.NDArray[np.float64]
Random = np.random.Generator


class Known(NamedTuple):
    """A model to be fitted, one of its kind with known values, and how long a sequence to draw."""

    model: Model
    truth: Model
    length: int
    timed: bool = False


def _moves(random: Random, states: int) -> dict[str, Array]:
    """A first state and transitions that stay for some steps."""
    stay = random.uniform(0.6, 0.97, states)
    away = random.dirichlet(np.ones(states), states)
    table = np.diag(stay) + (1 - stay)[:, None] * away
    return {"initial": np.full(states, 1 / states), "transition": table}


def _between(random: Random, low: float, high: float, *shape: int) -> Array:
    """Log-uniform numbers."""
    return np.exp(random.uniform(np.log(low), np.log(high), shape))


def _number(random: Random, low: float, high: float) -> float:
    return float(_between(random, low, high))


def _chain(random: Random, emission: Any, states: int, **values: Array) -> Known:
    model = HiddenMarkovModel(states, emission)
    truth = model.with_parameters(**_moves(random, states), **values)
    return Known(model, truth, int(random.integers(80, 300)))


def _gaussian(random: Random) -> Known:
    k = int(random.integers(2, 4))
    mean, scale = random.normal(0, 2, k), _between(random, 0.3, 1.2, k)
    return _chain(random, "gaussian", k, mean=mean, scale=scale)


def _poisson(random: Random) -> Known:
    k = int(random.integers(2, 4))
    return _chain(random, "poisson", k, rate=_between(random, 0.5, 40, k))


def _categorical(random: Random) -> Known:
    k, symbols = int(random.integers(2, 4)), int(random.integers(3, 7))
    probs = random.dirichlet(np.full(symbols, 0.7), k)
    return _chain(random, Categorical(symbols), k, probs=probs)


def _student_t(random: Random) -> Known:
    mean, scale = random.normal(0, 2, 2), _between(random, 0.3, 1.2, 2)
    freedom = _between(random, 2.5, 20, 2)
    return _chain(random, "student-t", 2, mean=mean, scale=scale, freedom=freedom)


def _mixture(random: Random) -> Known:
    return _chain(
        random,
        GaussianMixture(components=2),
        2,
        weight=random.dirichlet(np.full(2, 3.0), 2),
        mean=random.normal(0, 2.5, (2, 2)),
        scale=_between(random, 0.3, 1.2, 2, 2),
    )


def _autoregressive(random: Random) -> Known:
    return _chain(
        random,
        Regression(Gaussian(), lags=1),
        2,
        mean=random.normal(0, 2, 2),
        scale=_between(random, 0.3, 1.2, 2),
        lag_weight=random.uniform(-0.9, 0.95, (2, 1, 1, 1)),
    )


def _local_level(random: Random) -> Known:
    values = {"level_variance": _number(random, 1e-3, 10), "observation_variance": 1.0}
    proper = LinearGaussianSSM(LocalLevel(initial_variance=1.0)).with_parameters(**values)
    return Known(LinearGaussianSSM(LocalLevel()), proper, int(random.integers(50, 200)))


def _trend_and_season(random: Random) -> Known:
    values = {
        "level_variance": _number(random, 1e-3, 10),
        "slope_variance": _number(random, 1e-5, 0.1),
        "seasonal_variance": _number(random, 1e-4, 1),
        "observation_variance": 1.0,
    }
    proper = LocalLinearTrend(initial_variance=1.0) + Seasonal(period=4, initial_variance=1.0)
    truth = LinearGaussianSSM(proper).with_parameters(**values)
    model = LinearGaussianSSM(LocalLinearTrend() + Seasonal(period=4))
    return Known(model, truth, int(random.integers(60, 120)))


def _ornstein_uhlenbeck(random: Random) -> Known:
    model = LinearGaussianSSM(OrnsteinUhlenbeck())
    truth = model.with_parameters(
        rate=_number(random, 0.03, 2),
        mean=random.normal(),
        stationary_variance=1.0,
        observation_variance=_number(random, 0.01, 1),
    )
    return Known(model, truth, int(random.integers(60, 150)), timed=True)


def _continuous_time(random: Random) -> Known:
    k = int(random.integers(2, 4))
    model = ContinuousTimeHMM(k, emission=Gaussian())
    rate = _between(random, 0.03, 0.3, k * (k - 1))
    truth = model.with_parameters(
        initial=np.full(k, 1 / k),
        jump_rate=rate,
        mean=random.normal(0, 2, k),
        scale=_between(random, 0.3, 1.2, k),
    )
    return Known(model, truth, int(random.integers(80, 200)), timed=True)


FAMILIES: Mapping[str, Callable[[Random], Known]] = {
    "gaussian": _gaussian,
    "poisson": _poisson,
    "categorical": _categorical,
    "student_t": _student_t,
    "mixture": _mixture,
    "autoregressive": _autoregressive,
    "local_level": _local_level,
    "trend_and_season": _trend_and_season,
    "ornstein_uhlenbeck": _ornstein_uhlenbeck,
    "continuous_time": _continuous_time,
}


# Models with known values whose first law is the stationary one


def switching(random: Random) -> HiddenMarkovModel:
    """Two states that switch at rates of their own; means ±μ, unit noise."""
    away, back = _between(random, 0.02, 0.3, 2)
    mu = random.uniform(0.4, 1.2)
    return HiddenMarkovModel(2, "gaussian").with_parameters(
        initial=[back / (away + back), away / (away + back)],
        transition=[[1 - away, away], [back, 1 - back]],
        mean=[-mu, mu],
        scale=[1.0, 1.0],
    )


def speaking(family: str, states: int, random: Random) -> HiddenMarkovModel:
    """States that last some steps and emit symbols, counts, or reals of unit noise.

    Args:
        family: ``"categorical"``, ``"poisson"`` or ``"gaussian"``.
        states: their number; there are three more symbols.
        random: of the parameters.
    """
    moves = _moves(random, states)
    if family == "categorical":
        probs = random.dirichlet(np.full(states + 3, 0.7), states)
        model = HiddenMarkovModel(states, Categorical(states + 3))
        return model.with_parameters(**moves, probs=probs)
    if family == "poisson":
        rate = _between(random, 0.5, 12, states)
        return HiddenMarkovModel(states, "poisson").with_parameters(**moves, rate=rate)
    values = {"mean": random.normal(0, 1.5, states), "scale": np.ones(states)}
    return HiddenMarkovModel(states, "gaussian").with_parameters(**moves, **values)


def stay_or_redraw(states: int, random: Random) -> HiddenMarkovModel:
    """T = (1 − ε) I + ε 1 π'; means on a circle in the plane, unit variance."""
    rate = random.uniform(0.05, 0.2)
    law = random.dirichlet(np.full(states, 5.0))
    angle = 2 * np.pi * np.arange(states) / states
    return HiddenMarkovModel(states, Gaussian(2)).with_parameters(
        initial=law,
        transition=(1 - rate) * np.eye(states) + rate * law,
        mean=1.5 * np.stack([np.cos(angle), np.sin(angle)], -1),
        scale=np.ones((states, 2)),
    )


def settling(damping: float, noise: float) -> LinearGaussianSSM:
    """z' = a z + N(0, q), y = z + N(0, 1)."""
    return LinearGaussianSSM(LinearDynamics(1)).with_parameters(
        transition=[[damping]],
        process_variance=[noise],
        loading=[[1.0]],
        intercept=[0.0],
        observation_variance=[1.0],
        initial_mean=[0.0],
        initial_variance=[noise / (1 - damping**2)],
    )
