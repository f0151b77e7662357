"""Linear-Gaussian chains: the model and data, this library and its peers.

Each contender is asked for the log evidence with its gradient, or for filter and smoother.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from ....inference.exact import gaussian as exact_gaussian
from ....inference.exact.gaussian import LinearChain
from .comparison import Contender, Prepared
from .problems import Answer, Array

Task = Literal["evidence", "smoother"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class Case:
    """A task and its size."""

    family: Task
    state: int
    features: int
    sequences: int
    length: int

    @property
    def size(self) -> str:
        """The size in words, as it stands in the report."""
        return (
            f"state{self.state}_features{self.features}"
            f"_sequences{self.sequences}_length{self.length}"
        )


class Problem(NamedTuple):
    """Parameters by name, float64, without axes of sequence and time, and y (N, T, F)."""

    case: Case
    parameters: Mapping[str, Array]
    y: Array


_PARAMETERS = (
    *("initial_mean", "initial_covariance", "transition", "offset", "noise"),
    *("loading", "intercept", "observation_noise"),
)

COVARIANCES = ("initial_covariance", "noise", "observation_noise")


def problem(case: Case, seed: int) -> Problem:
    """Sequences drawn from a random stable model, and parameters near those of that model."""
    d, f = case.state, case.features
    random = np.random.default_rng([seed, d, f, case.sequences, case.length])
    rotation, _ = np.linalg.qr(random.normal(size=(d, d)))
    parameters = {
        "initial_mean": random.normal(size=d),
        "initial_covariance": _covariance(random, d),
        "transition": rotation * random.uniform(0.7, 0.99, size=d),
        "offset": np.zeros(d),
        "noise": 0.1 * _covariance(random, d),
        "loading": random.normal(size=(f, d)) / math.sqrt(d),
        "intercept": np.zeros(f),
        "observation_noise": _covariance(random, f),
    }
    y = _observations(random, parameters, case)
    # Off the truth, so that the gradient is not what is left of sums that cancel.
    moved = dict(parameters)
    moved["transition"] = 0.95 * parameters["transition"]
    moved["noise"] = 1.2 * parameters["noise"]
    moved["loading"] = parameters["loading"] + 0.1 * random.normal(size=(f, d))
    return Problem(case, moved, y)


def _covariance(random: np.random.Generator, size: int) -> Array:
    # Well-conditioned: a peer that inverts covariances in float32 is to agree to some digits.
    factor = random.normal(size=(size, 8 * size))
    return np.asarray(factor @ factor.T / (8 * size), dtype=np.float64)


def _observations(
    random: np.random.Generator, parameters: Mapping[str, Array], case: Case
) -> Array:
    """(N, T, F)"""
    p, n = parameters, case.sequences
    roots = {name: np.linalg.cholesky(p[name]) for name in COVARIANCES}
    start = roots["initial_covariance"] @ random.normal(size=(case.state, n))
    z = p["initial_mean"][:, None] + start
    steps = []
    for _ in range(case.length):
        noise = roots["observation_noise"] @ random.normal(size=(case.features, n))
        steps.append((p["loading"] @ z + noise).T)
        z = p["transition"] @ z + roots["noise"] @ random.normal(size=(case.state, n))
    return np.stack(steps, 1)


def _gradients(given: Problem, total: float, gradients: Mapping[str, Any]) -> Answer:
    """With those of covariances symmetric: libraries differ in how they share them out."""
    found = {}
    for name, gradient in gradients.items():
        value = np.asarray(gradient, dtype=np.float64).reshape(given.parameters[name].shape)
        found[f"gradient of {name}"] = (value + value.T) / 2 if name in COVARIANCES else value
    return Answer(total, found)


def _called(parameters: Mapping[str, Any], *theirs: str) -> dict[str, Any]:
    """Parameters under the names that a peer has for them, in the order of `_PARAMETERS`."""
    return {name: parameters[ours] for name, ours in zip(theirs, _PARAMETERS, strict=True)}


def _moments(total: float, **found: Any) -> Answer:
    return Answer(total, {name: np.asarray(x, dtype=np.float64) for name, x in found.items()})


# --- this library ---------------------------------------------------------------------------------


def _leaves(given: Problem, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        name: torch.tensor(value, dtype=dtype, requires_grad=True)
        for name, value in given.parameters.items()
    }


def _chain(leaves: Mapping[str, Tensor]) -> LinearChain:
    size = leaves["transition"].shape[0]
    first = {"initial_mean", "initial_covariance"}
    wide = {n: x.unsqueeze(0) if n in first else x[None, None] for n, x in leaves.items()}
    return LinearChain(diffuse=leaves["transition"].new_zeros(size, 0), **wide)


def _ours(given: Problem, dtype: torch.dtype = torch.float32) -> Prepared:
    """As a user calls it, in the precision of the model; it computes in float64 in any case."""
    leaves, y = _leaves(given, dtype), torch.from_numpy(given.y).to(dtype)
    if given.case.family == "smoother":
        return _ours_smoothed(_chain({n: x.detach() for n, x in leaves.items()}), y)

    def work() -> tuple[Tensor, tuple[Tensor, ...]]:
        total = exact_gaussian.log_evidence(_chain(leaves), y).sum()
        return total, torch.autograd.grad(total, list(leaves.values()))

    def answer(result: tuple[Tensor, tuple[Tensor, ...]]) -> Answer:
        total, found = result
        named = dict(zip(leaves, (x.numpy() for x in found), strict=True))
        return _gradients(given, float(total.detach()), named)

    return Prepared(work, answer)


def _ours_smoothed(chain: LinearChain, y: Tensor) -> Prepared:
    def work() -> Any:
        return exact_gaussian.filter(chain, y), exact_gaussian.smooth(chain, y)

    def answer(result: Any) -> Answer:
        filtered, smoothed = result
        total = float(exact_gaussian.log_evidence(chain, y).sum())
        return _moments(
            total,
            filtered_means=filtered.means,
            filtered_covariances=filtered.covariances,
            smoothed_means=smoothed.means,
            smoothed_covariances=smoothed.covariances,
        )

    return Prepared(work, answer)


def reference(given: Problem) -> Answer:
    """Everything that a contender may be asked for, in float64 by this library."""
    prepared = _ours(given, torch.float64)
    answer: Answer = prepared.answer(prepared.work())
    return answer


# --- peers ----------------------------------------------------------------------------------------


def _dynamax(given: Problem) -> Prepared:
    """jit(value_and_grad) of the filter's evidence, and jit of the smoother, over vmap."""
    import jax
    import jax.numpy as jnp
    from dynamax.linear_gaussian_ssm.inference import (
        lgssm_filter,
        lgssm_smoother,
        make_lgssm_params,
    )

    values = {name: jnp.asarray(v, dtype=jnp.float32) for name, v in given.parameters.items()}
    y = jnp.asarray(given.y, dtype=jnp.float32)

    def law(p: Mapping[str, Any]) -> Any:
        initial = "initial_mean", "initial_cov"
        moves = "dynamics_weights", "dynamics_bias", "dynamics_cov"
        seen = "emissions_weights", "emissions_bias", "emissions_cov"
        return make_lgssm_params(**_called(p, *initial, *moves, *seen))

    def total(p: Mapping[str, Any], observed: Any) -> Any:
        return jax.vmap(lambda one: lgssm_filter(law(p), one).marginal_loglik)(observed).sum()

    def smoothed(p: Mapping[str, Any], observed: Any) -> Any:
        return jax.vmap(lambda one: lgssm_smoother(law(p), one))(observed)

    if given.case.family == "evidence":
        compiled = jax.jit(jax.value_and_grad(total))
        return Prepared(
            lambda: jax.block_until_ready(compiled(values, y)),
            lambda result: _gradients(given, float(result[0]), result[1]),
        )
    both = jax.jit(smoothed)
    return Prepared(
        lambda: jax.block_until_ready(both(values, y)),
        lambda result: _moments(
            float(result.marginal_loglik.sum()),
            filtered_means=result.filtered_means,
            filtered_covariances=result.filtered_covariances,
            smoothed_means=result.smoothed_means,
            smoothed_covariances=result.smoothed_covariances,
        ),
    )


def _gaussian_hmm(given: Problem) -> Prepared:
    """`GaussianHMM.log_prob` and its gradient.

    That distribution moves before it emits. So that both are the same model, the first observation
    is scored outside of it, and p(z_1 | y_1) is what it starts from.
    """
    from pyro import distributions as dist

    leaves, y = _leaves(given, torch.float32), torch.from_numpy(given.y).float()

    def normal(mean: Tensor, covariance: Tensor) -> Any:
        return dist.MultivariateNormal(mean, covariance_matrix=covariance, validate_args=False)

    def work() -> tuple[Tensor, tuple[Tensor, ...]]:
        p = leaves
        c, prior = p["loading"], p["initial_covariance"]
        innovation = c @ prior @ c.mT + p["observation_noise"]
        seen = normal(c @ p["initial_mean"] + p["intercept"], innovation)
        gain = torch.linalg.solve(innovation, c @ prior).mT
        mean = p["initial_mean"] + (y[:, 0] - seen.loc) @ gain.mT
        left = prior - gain @ c @ prior
        rest = dist.GaussianHMM(
            normal(mean, (left + left.mT) / 2),
            p["transition"].mT.unsqueeze(0),
            normal(p["offset"], p["noise"]).expand((1,)),
            c.mT.unsqueeze(0),
            normal(p["intercept"], p["observation_noise"]).expand((1,)),
            validate_args=False,
            duration=given.case.length - 1,
        )
        total = (seen.log_prob(y[:, 0]) + rest.log_prob(y[:, 1:])).sum()
        return total, torch.autograd.grad(total, list(leaves.values()))

    def answer(result: tuple[Tensor, tuple[Tensor, ...]]) -> Answer:
        total, found = result
        named = dict(zip(leaves, (x.numpy() for x in found), strict=True))
        return _gradients(given, float(total.detach()), named)

    return Prepared(work, answer)


def _statsmodels(given: Problem) -> Prepared:
    """`KalmanSmoother.smooth` of one sequence after the other, without what is not asked for."""
    from statsmodels.tsa.statespace.kalman_smoother import KalmanSmoother

    p, d = given.parameters, given.case.state
    laws = {"design": "loading", "obs_cov": "observation_noise", "transition": "transition"}
    models = []
    for y in given.y:
        model = KalmanSmoother(given.case.features, d)
        model.bind(np.asfortranarray(y.T))
        for theirs, name in {**laws, "state_cov": "noise"}.items():
            model[theirs] = p[name]
        model["selection"] = np.eye(d)
        model.initialize_known(p["initial_mean"], p["initial_covariance"])
        model.set_smoother_output(smoother_state=True, smoother_state_cov=True)
        models.append(model)

    def answer(results: Any) -> Answer:
        def steps(name: str) -> Array:
            return np.stack([np.moveaxis(getattr(r, name), -1, 0) for r in results])

        return _moments(
            sum(float(r.llf) for r in results),
            filtered_means=steps("filtered_state"),
            filtered_covariances=steps("filtered_state_cov"),
            smoothed_means=steps("smoothed_state"),
            smoothed_covariances=steps("smoothed_state_cov"),
        )

    return Prepared(lambda: [model.smooth() for model in models], answer)


def _pykalman(given: Problem) -> Prepared:
    """`KalmanFilter.smooth` of one sequence after the other."""
    from pykalman import KalmanFilter

    initial = "initial_state_mean", "initial_state_covariance"
    moves = "transition_matrices", "transition_offsets", "transition_covariance"
    seen = "observation_matrices", "observation_offsets", "observation_covariance"
    model = KalmanFilter(**_called(given.parameters, *initial, *moves, *seen))

    def answer(results: Any) -> Answer:
        means, covariances = zip(*results, strict=True)
        total = sum(float(model.loglikelihood(y)) for y in given.y)
        return _moments(
            total, smoothed_means=np.stack(means), smoothed_covariances=np.stack(covariances)
        )

    return Prepared(lambda: [model.smooth(y) for y in given.y], answer)


def _filterpy(given: Problem) -> Prepared:
    """`batch_filter` and `rts_smoother` of one sequence after the other."""
    from filterpy.kalman import KalmanFilter

    p, case = given.parameters, given.case

    def one(y: Array) -> tuple[Array, ...]:
        model = KalmanFilter(dim_x=case.state, dim_z=case.features)
        model.F, model.Q, model.H, model.R = (
            p[name] for name in ("transition", "noise", "loading", "observation_noise")
        )
        model.x, model.P = p["initial_mean"].copy(), p["initial_covariance"].copy()
        means, covariances, _, _ = model.batch_filter(y, update_first=True)
        smoothed = model.rts_smoother(means, covariances)
        return means, covariances, smoothed[0], smoothed[1]

    def answer(results: Any) -> Answer:
        names = "filtered_means", "filtered_covariances", "smoothed_means", "smoothed_covariances"
        stacked = (np.stack(x) for x in zip(*results, strict=True))
        # It has no evidence of a batch; what it smooths stands for it.
        return _moments(reference(given).log_evidence, **dict(zip(names, stacked, strict=True)))

    return Prepared(lambda: [one(y) for y in given.y], answer)


OURS = "beliefzoo"
CONTENDERS: Mapping[Task, tuple[Contender[Problem], ...]] = {
    "evidence": (
        Contender(OURS, _ours),
        Contender("dynamax", _dynamax, "dynamax"),
        Contender("pyro_GaussianHMM", _gaussian_hmm),
    ),
    "smoother": (
        Contender(OURS, _ours),
        Contender("dynamax", _dynamax, "dynamax"),
        Contender("statsmodels", _statsmodels, "statsmodels", "float64"),
        Contender("pykalman", _pykalman, "pykalman", "float64"),
        Contender("filterpy", _filterpy, "filterpy", "float64"),
    ),
}
