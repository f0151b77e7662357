"""Linear-Gaussian chains: evidence with gradient, filter and smoother, beside other libraries.

Two tasks on batches of sequences of one time-invariant model. `evidence`: the log evidence of all
sequences and its gradient in all eight parameters, against dynamax (jit, vmap, float32) and Pyro's
`GaussianHMM` (float32). `smoother`: means and covariances of filter and smoother, against dynamax,
statsmodels, pykalman and filterpy (float64 but for dynamax; those three take one sequence at a
time). All take turns in one process with a fixed number of threads, after their results were found
to agree with ours in float64.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from ...inference.exact import gaussian as exact_gaussian
from ...inference.exact.gaussian import LinearChain
from .parts import fresh
from .parts.problems import Answer, Array, Precision, check_agreement, tolerance
from .parts.turns import Timing, in_turn

Size = tuple[int, int, int, int]
Task = Literal["evidence", "smoother"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    seed: int = 0
    """Of the parameters and the sequences."""
    threads: int = 2
    """Threads of every library; the ratios to reach were set on two cores."""
    sizes: tuple[Size, ...] = ((2, 1, 64, 256), (4, 2, 64, 1000), (16, 8, 16, 500))
    """(state size, features, sequences, length): from the size of structural time series to that of
    tracking and of recordings of many channels."""
    tasks: tuple[Task, ...] = TASKS
    """What is computed."""
    rounds: int = 15
    """Turns of each contender: the quartiles of fifteen are some per cent apart on a quiet
    machine."""
    seconds_each: float = 15.0
    """Time after which a contender gets no further turn on a case, but for the first three."""

    def __post_init__(self) -> None:
        for name in ("threads", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be >= 1, got {getattr(self, name)}")
        if not 0 < self.seconds_each < math.inf:
            raise ValueError(f"seconds_each: must be finite and > 0, got {self.seconds_each}")
        if not self.sizes or not self.tasks:
            raise ValueError(f"sizes: needs a size and a task, got {self.sizes}, {self.tasks}")
        for size in self.sizes:
            if min(size) < 1 or size[3] < 2:
                raise ValueError(f"sizes: need numbers >= 1 and length >= 2, got {size}")


SMOKE: Mapping[str, object] = {
    "sizes": ((2, 1, 3, 6), (3, 2, 2, 5)),
    "rounds": 2,
    "seconds_each": 0.1,
}

REACH: Mapping[Task, Mapping[str, float]] = {
    "evidence": {"dynamax": 2, "pyro_GaussianHMM": 10},
    "smoother": {"dynamax": 1, "statsmodels": 1, "pykalman": 10, "filterpy": 10},
}
"""How many times slower than this library a peer should be, at every size; fixed before any run."""


# --- the problem ----------------------------------------------------------------------------------


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


class Prepared(NamedTuple):
    """Work to be timed, and what its result says."""

    work: Callable[[], Any]
    answer: Callable[[Any], Answer]


@dataclass(frozen=True)
class Contender:
    """One way of computing it."""

    name: str
    prepare: Callable[[Problem], Prepared]
    package: str | None = None
    """The package that it needs; None: nothing beyond what this library needs."""
    precision: Precision = "float32"


def _gradients(given: Problem, total: float, gradients: Mapping[str, Any]) -> Answer:
    """With those of covariances symmetric: libraries differ in how they share them out."""
    found = {}
    for name, gradient in gradients.items():
        value = np.asarray(gradient, dtype=np.float64).reshape(given.parameters[name].shape)
        found[f"gradient of {name}"] = (value + value.T) / 2 if name in COVARIANCES else value
    return Answer(total, found)


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
        return make_lgssm_params(
            initial_mean=p["initial_mean"],
            initial_cov=p["initial_covariance"],
            dynamics_weights=p["transition"],
            dynamics_cov=p["noise"],
            emissions_weights=p["loading"],
            emissions_cov=p["observation_noise"],
            dynamics_bias=p["offset"],
            emissions_bias=p["intercept"],
        )

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

    p = given.parameters
    model = KalmanFilter(
        transition_matrices=p["transition"],
        observation_matrices=p["loading"],
        transition_covariance=p["noise"],
        observation_covariance=p["observation_noise"],
        transition_offsets=p["offset"],
        observation_offsets=p["intercept"],
        initial_state_mean=p["initial_mean"],
        initial_state_covariance=p["initial_covariance"],
    )

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
        return _moments(math.nan, **dict(zip(names, stacked, strict=True)))

    return Prepared(lambda: [one(y) for y in given.y], answer)


OURS = "beliefzoo"
CONTENDERS: Mapping[Task, tuple[Contender, ...]] = {
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


# --- measuring ------------------------------------------------------------------------------------


def run(settings: Settings) -> dict[str, Any]:
    """Measure in a fresh process."""
    return fresh.measured(measure, settings)


def measure(
    settings: Settings, contenders: Mapping[Task, Sequence[Contender]] = CONTENDERS
) -> dict[str, dict[str, Any]]:
    """Figures by task, size and contender.

    Raises:
        ValueError: a contender's result differs from ours by more than rounding.
    """
    figures: dict[str, dict[str, Any]] = {}
    for task in settings.tasks:
        figures[task] = {}
        for size in settings.sizes:
            case = Case(task, *size)
            print(f"{task} {case.size}", flush=True)
            figures[task][case.size] = _compare(case, settings, contenders[task])
    return figures


def reference(given: Problem) -> Answer:
    """Everything that a contender may be asked for, in float64 by this library."""
    prepared = _ours(given, torch.float64)
    return prepared.answer(prepared.work())


def _compare(case: Case, settings: Settings, contenders: Sequence[Contender]) -> dict[str, Any]:
    """One case: check, then time in turn."""
    given = problem(case, settings.seed)
    expected = reference(given)
    figures: dict[str, Any] = {}
    work: dict[str, Callable[[], Any]] = {}
    for contender in contenders:
        if contender.package and fresh.installed(contender.package) is None:
            figures[contender.name] = {"left_out": f"{contender.package} is not installed"}
            continue
        prepared = contender.prepare(given)
        figures[contender.name] = _checked(contender, case, prepared, expected)
        work[contender.name] = prepared.work
    timings = in_turn(work, rounds=settings.rounds, seconds_each=settings.seconds_each)
    for name, timing in timings.items():
        figures[name] |= timing.figures()
        if name != OURS and OURS in timings:
            figures[name] |= _ratio(case.family, name, timing, timings[OURS])
    return figures


def _checked(
    contender: Contender, case: Case, prepared: Prepared, expected: Answer
) -> dict[str, Any]:
    """Agreement with the reference, and the seconds of the first call, compilation included."""
    began = time.perf_counter()
    result = prepared.work()
    first = time.perf_counter() - began
    answer = prepared.answer(result)
    if math.isnan(answer.log_evidence):
        answer = Answer(expected.log_evidence, answer.found)
    allowed = tolerance(contender.precision, expected.log_evidence, in_logs=False)
    agreement = check_agreement(contender.name, case, answer, expected, allowed)
    return {"precision": contender.precision, "seconds_of_first_call": first, **agreement}


def _ratio(task: Task, name: str, slow: Timing, fast: Timing) -> dict[str, float]:
    """How many times slower than ours: median and quartiles of the ratios of turns side by side."""
    together = min(len(slow.milliseconds), len(fast.milliseconds))
    ratios = np.array(slow.milliseconds[:together]) / np.array(fast.milliseconds[:together])
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return {
        "times_slower": float(middle),
        "times_slower_lower_quartile": float(low),
        "times_slower_upper_quartile": float(high),
        "times_slower_to_reach": REACH[task][name],
    }


# --- what is shown --------------------------------------------------------------------------------


def table(figures: Mapping[str, Any]) -> str:
    """Our milliseconds and how many times slower the others are, a line a case."""
    lines = []
    for task, by_size in figures.items():
        for size, by_name in by_size.items():
            lines.append(f"{task}, {_words(size)}")
            lines += [f"  {name:20}{_line(one)}" for name, one in by_name.items()]
    return "\n".join(lines)


def _line(figures: Mapping[str, Any]) -> str:
    if "left_out" in figures:
        return f"left out: {figures['left_out']}"
    line = f"{figures['milliseconds_median']:10.3g} ms"
    if "times_slower" in figures:
        line += f"{figures['times_slower']:8.3g} times ours"
        line += f" (reach: {figures['times_slower_to_reach']:g})"
    return line


def _words(size: str) -> str:
    numbers = [int("".join(filter(str.isdigit, part))) for part in size.split("_")]
    return "state {}, features {}, {} × {}".format(*numbers)


def draw(figures: Mapping[str, Any]) -> dict[str, Figure]:
    """Milliseconds of every contender with the quartiles of its turns, a panel a task."""
    tasks = [(task, by_size) for task, by_size in figures.items() if by_size]
    rows = max(len(by_size) for _, by_size in tasks)
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(5.5 * len(tasks), 1.8 + 1.2 * rows), squeeze=False, sharey=True
    )
    titles = {
        "evidence": "log evidence and its gradient\nin all parameters",
        "smoother": "means and covariances of\nfilter and smoother",
    }
    for axis, (task, by_size) in zip(axes[0], tasks, strict=True):
        names = list(dict.fromkeys(name for by_name in by_size.values() for name in by_name))
        for row, by_name in enumerate(by_size.values()):
            for place, name in enumerate(names):
                _mark(
                    axis, row, place / len(names) * 0.8 - 0.32, f"C{place}", by_name.get(name, {})
                )
        for place, name in enumerate(names):
            axis.plot([], [], "o", color=f"C{place}", label=name.replace("_", " "))
        axis.set_xscale("log")
        axis.set_yticks(range(len(by_size)), [_words(size) for size in by_size])
        axis.set_ylim(len(by_size) - 0.5, -0.5)
        low, high = axis.get_xlim()
        axis.set_xlim(low / 1.5, high * 3)  # room for the numbers
        axis.set(title=titles[task], xlabel="milliseconds (beside it: times ours)")
        axis.grid(axis="x", alpha=0.3)
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
    return {"times": figure}


def _mark(axis: Any, row: int, shift: float, colour: str, one: Mapping[str, Any]) -> None:
    if "milliseconds_median" not in one:
        return
    low, high = (one[f"milliseconds_{side}_quartile"] for side in ("lower", "upper"))
    height = row + shift
    axis.plot([low, high], 2 * [height], color=colour, lw=5, alpha=0.35, solid_capstyle="butt")
    axis.plot(one["milliseconds_median"], height, "o", color=colour, ms=5)
    said = f"{one['milliseconds_median']:.3g} ms"
    if "times_slower" in one:
        said = f"{one['times_slower']:.3g} ×"
    axis.annotate(
        said,
        (high, height),
        xytext=(6, 0),
        textcoords="offset points",
        fontsize=7,
        va="center",
    )
