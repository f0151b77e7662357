"""Two linear-Gaussian models at known values, of which `kalman-filter` is the filter."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from ....models import LinearDynamics, LinearGaussianSSM

Case = Literal["scalar", "rotation"]


def known_model(case: Case) -> LinearGaussianSSM:
    """The model of a case at its values."""
    return _walk() if case == "scalar" else _rotation()


def _walk() -> LinearGaussianSSM:
    """z_t ~ N(z_{t-1} + .05, 10), x_t ~ N(.5 z_t, 20), variances.

    The paper does not say how it starts; here z_0 = 0, hence z_1 ~ N(.05, 10).
    """
    return LinearGaussianSSM(LinearDynamics(1, offset=True), 1, intercept=False).with_parameters(
        transition=[[1.0]],
        offset=[0.05],
        process_covariance=[[10.0]],
        initial_mean=[0.05],
        initial_covariance=[[10.0]],
        loading=[[0.5]],
        observation_variance=20.0,
    )


def _rotation() -> LinearGaussianSSM:
    """Two planes that turn by .3 and .9 a step and shrink a little; three mixtures are seen."""
    transition = np.zeros((4, 4))
    for place, (angle, shrink) in enumerate([(0.3, 0.98), (0.9, 0.95)]):
        turn = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        transition[2 * place : 2 * place + 2, 2 * place : 2 * place + 2] = shrink * np.array(turn)
    return LinearGaussianSSM(LinearDynamics(4), 3, intercept=False).with_parameters(
        transition=transition,
        process_covariance=np.diag([0.2, 0.2, 0.3, 0.3]),
        initial_mean=np.zeros(4),
        initial_covariance=2 * np.eye(4),
        loading=[[1.0, 0.0, 0.5, 0.0], [0.0, 0.5, 1.0, 0.0], [0.3, 0.3, 0.3, 1.0]],
        observation_variance=[0.5, 1.0, 2.0],
    )
