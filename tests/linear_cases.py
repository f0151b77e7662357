"""Linear-Gaussian models at known values with ragged data, and their matrices written out."""

import math

import numpy as np
from torch import Tensor

import oracles_linear as oracle
from beliefzoo.models import (
    LinearDynamics,
    LinearGaussianSSM,
    LinearLaws,
    LinearSDE,
    Sequences,
)

LENGTHS = [5, 1, 4]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def covariance(rng: np.random.Generator, size: int) -> np.ndarray:
    root = rng.normal(size=(size, size)) / math.sqrt(size)
    return root @ root.T + 0.3 * np.eye(size)


def full_model(inputs: int = 0) -> LinearGaussianSSM:
    """Two states and three features, all matrices full, at known values."""
    rng = generator(1)
    dynamics = LinearDynamics(2, correlated=True, offset=True, inputs=inputs)
    values = {
        "transition": 0.6 * np.eye(2) + 0.2 * rng.normal(size=(2, 2)),
        "offset": rng.normal(size=2),
        "process_covariance": covariance(rng, 2),
        "initial_mean": rng.normal(size=2),
        "initial_covariance": covariance(rng, 2),
        "loading": rng.normal(size=(3, 2)),
        "intercept": rng.normal(size=3),
        "observation_covariance": covariance(rng, 3),
    }
    if inputs:
        values |= {
            "input_weight": rng.normal(size=(2, inputs)),
            "input_effect": rng.normal(size=(3, inputs)),
        }
    model = LinearGaussianSSM(dynamics, 3, correlated=True, intercept=True, inputs=inputs)
    return model.with_parameters(**values)


def some_data(features: int = 3, inputs: int = 0, times: bool = False) -> Sequences:
    """Ragged, with single elements and whole steps missing."""
    rng = generator(2)
    arrays = [rng.normal(size=(length, features)) for length in LENGTHS]
    arrays[0][1, 0] = np.nan
    arrays[0][3] = np.nan
    arrays[2][0, -1] = np.nan
    given = {}
    if inputs:
        given["inputs"] = [rng.normal(size=(length, inputs)) for length in LENGTHS]
    if times:
        given["times"] = [rng.uniform(0.1, 2, length).cumsum() for length in LENGTHS]
    return Sequences.from_arrays(arrays, **given)


def written_out(laws: LinearLaws, n: int) -> oracle.Matrices:
    """The matrices of every step of sequence n."""
    length = int(laws.lengths[n])

    def of(part: Tensor, steps: int | None) -> np.ndarray:
        row = part[n if len(part) > 1 else 0].detach().double().numpy()
        if steps is None:
            return row
        return np.broadcast_to(row, (max(steps, len(row)), *row.shape[1:]))[:steps]

    moves = [of(part, length - 1) for part in (laws.transition, laws.offset, laws.noise)]
    seen = [of(part, length) for part in (laws.loading, laws.intercept, laws.observation_noise)]
    first = of(laws.initial_mean, None), of(laws.initial_covariance, None)
    return oracle.Matrices(*first, *moves, *seen)


MODELS = {
    "full": (full_model(), some_data()),
    "inputs": (full_model(2), some_data(inputs=2)),
    "sde": (
        LinearGaussianSSM(LinearSDE(2, offset=True), 3).with_parameters(
            drift=[[-0.5, 1.0], [0.0, -0.2]],
            drift_offset=[0.3, -0.1],
            diffusion_variance=[0.5, 1.0],
            initial_mean=[0.0, 1.0],
            initial_variance=[2.0, 1.0],
            loading=[[1.0, 0.0], [0.5, 0.5], [0.0, -1.0]],
            observation_variance=[0.1, 0.2, 0.3],
        ),
        some_data(times=True),
    ),
}
