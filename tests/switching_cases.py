"""Switching models at known values, for the tests of model and inference."""

from typing import Any

import numpy as np
import torch

import oracles_switching as slow
from beliefzoo.models import Sequences, SwitchingLinearSSM


def known_model(
    regimes: int = 2,
    dimensions: int = 2,
    features: int = 2,
    *,
    seed: int = 0,
    recurrent: bool = False,
    switching_emission: bool = False,
    noise: str = "diagonal",
) -> SwitchingLinearSSM:
    """A stable model with parameters from a generator of NumPy's."""
    rng = np.random.default_rng(seed)
    k, d, f = regimes, dimensions, features
    lead = (k,) if switching_emission else ()
    model = SwitchingLinearSSM(
        k,
        d,
        f,
        recurrent=recurrent,
        switching_emission=switching_emission,
        noise=noise,  # type: ignore[arg-type]
    )
    rotation = np.linalg.qr(rng.normal(size=(k, d, d)))[0]
    values: dict[str, Any] = {
        "dynamics": rotation * rng.uniform(0.4, 0.9, (k, 1, 1)),
        "drift": rng.normal(size=(k, d)),
        "noise_scale": rng.uniform(0.3, 0.8, (k, d)),
        "initial_mean": rng.normal(size=d),
        "initial_scale": rng.uniform(0.5, 1.5, d),
        "loading": rng.normal(size=(*lead, f, d)),
        "intercept": rng.normal(size=(*lead, f)),
        "observation_scale": rng.uniform(0.3, 0.8, (*lead, f)),
    }
    if k > 1:
        values["initial"] = rng.dirichlet(np.ones(k))
        values["transition"] = rng.dirichlet(np.ones(k), k)
    if recurrent:
        values["recurrence"] = rng.normal(size=(k, d))
    if noise == "full" and d > 1:
        tril = np.tril(rng.normal(size=(k, d, d))) + 2 * np.eye(d)
        values["noise_correlation_factor"] = tril / np.linalg.norm(tril, axis=-1, keepdims=True)
    return model.with_parameters(**values)


def as_oracle(model: SwitchingLinearSSM) -> slow.Switching:
    """The same parameters for the sums over all paths."""
    known = {name: value.numpy() for name, value in model.known.items()}
    k = model.regimes
    factor = np.stack([np.diag(scale) for scale in known["noise_scale"]])
    if "noise_correlation_factor" in known:
        factor = factor @ known["noise_correlation_factor"]
    emission = [known[name] for name in ("loading", "intercept", "observation_scale")]
    if not model.switching_emission:
        emission = [np.stack([part] * k) for part in emission]
    return slow.Switching(
        known.get("initial", np.ones(1)),
        known.get("transition", np.ones((1, 1))),
        known["dynamics"],
        known["drift"],
        factor @ factor.transpose(0, 2, 1),
        known["initial_mean"],
        np.diag(known["initial_scale"] ** 2),
        emission[0],
        emission[1],
        np.stack([np.diag(scale**2) for scale in emission[2]]),
    )


def ragged(model: SwitchingLinearSSM, lengths: tuple[int, ...] = (5, 3, 1), seed: int = 1) -> Any:
    """Draws of the model in float64, with one element and one whole step missing."""
    drawn = model.sample(len(lengths), list(lengths), seed=seed)
    values = drawn.data.values.double()
    values[0, 2, -1] = np.nan
    values[1, 1] = np.nan
    return drawn.states.double(), Sequences.from_tensors(values, lengths=torch.tensor(lengths))


def rows(data: Sequences, n: int) -> np.ndarray[Any, Any]:
    """One sequence (T, F), NaN where missing."""
    return data.arrays()[n]
