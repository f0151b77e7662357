"""Whoever finds a largest likelihood: this library at its defaults, and its peers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ....inference import BeliefGuide, ExactFilter, Fit, fit
from ....inference.queries.evidence import log_evidence
from ....models import Model, Sequences
from .comparison import Contender, Prepared

OURS = "beliefzoo"

Array = npt.NDArray[np.float64]

CLOSE = 1e-4
"""Nats below its own limit at which a peer that can be told to stop later has arrived."""

AGREE = 1e-6
"""Largest difference between a peer's log likelihood and ours at its parameters, relative."""


class Task(NamedTuple):
    """A model and data to fit it to."""

    name: str
    model: Model
    data: Sequences
    seed: int
    family: str
    """gaussian, poisson, level or seasonal; as the peers call them."""

    @property
    def y(self) -> Array:
        """The only sequence, (T, 1)."""
        values: Array = self.data.values[0].double().numpy()
        return values


class Found(NamedTuple):
    """Parameters by this library's names, and the log likelihood that is claimed of them, nats."""

    parameters: Mapping[str, Any]
    claimed: float
    note: str = ""


def height(task: Task, parameters: Mapping[str, Any]) -> float:
    """log p(y) at parameter values, exact, float64."""
    known = task.model.with_parameters(**parameters)
    with torch.no_grad():
        return float(log_evidence(known.laws({}, task.data)).sum())


def checked(contender: Contender[Task], task: Task, prepared: Prepared) -> dict[str, Any]:
    """What a contender reaches, after its log likelihood was found to be ours at its parameters.

    Raises:
        ValueError: it is another one.
    """
    found: Found = prepared.answer(prepared.work())
    if not np.isfinite(found.claimed):
        return {"left_out": "it gives no numbers"}
    exact = height(task, found.parameters)
    off = abs(exact - found.claimed) / (1 + abs(exact))
    if not off < AGREE:  # also NaN
        raise ValueError(
            f"{contender.name}: log likelihood must agree with ours at its parameters to "
            f"{AGREE:g}, got {found.claimed} and {exact} on {task.name}"
        )
    out: dict[str, Any] = {"log_likelihood": exact}
    return out | ({"how": found.note} if found.note else {})


# --- this library ---------------------------------------------------------------------------------


def _ours(task: Task) -> Prepared:
    def work() -> Fit:
        guide = BeliefGuide(task.model, ExactFilter(), parameters="ml")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of states that are hardly ever visited
            return fit(task.model, guide, task.data, seed=task.seed, progress=False)

    def answer(result: Fit) -> Found:
        known = result.fitted.known
        note = "converged" if result.converged else f"not converged: {result.why_ended}"
        note += f", {len(result.restart_bounds)} starts"
        return Found(known, height(task, known), note)

    return Prepared(work, answer)


# --- hmmlearn -------------------------------------------------------------------------------------


def _hmmlearn(task: Task) -> Prepared:
    """One start, flat priors, the faster implementation, the largest ``tol`` that arrives."""
    options: dict[str, Any] = {"implementation": "scaling", "n_iter": 100_000}
    if task.family == "gaussian":
        options |= {"covars_prior": 0.0, "min_covar": 0.0}
    limit = _one_em(task, options | {"tol": 1e-11}).score(task.y)
    for power in range(2, 11):
        options["tol"] = 10.0**-power
        if _one_em(task, options).score(task.y) > limit - CLOSE:
            break
    return Prepared(
        lambda: _one_em(task, options),
        lambda model: _read_hmmlearn(task, model, f"tol {options['tol']:g}"),
    )


def _hmmlearn_default(task: Task) -> Prepared:
    return Prepared(
        lambda: _one_em(task, {}), lambda model: _read_hmmlearn(task, model, "as it comes")
    )


def _one_em(task: Task, options: Mapping[str, Any]) -> Any:
    import hmmlearn.hmm

    kind = {"gaussian": hmmlearn.hmm.GaussianHMM, "poisson": hmmlearn.hmm.PoissonHMM}[task.family]
    return kind(task.model.states, random_state=task.seed, **options).fit(task.y)


def _read_hmmlearn(task: Task, model: Any, note: str) -> Found:
    values = {"initial": model.startprob_, "transition": model.transmat_}
    if task.family == "gaussian":
        values |= {"mean": model.means_[:, 0], "scale": model.covars_[:, 0, 0] ** 0.5}
    else:
        values["rate"] = model.lambdas_[:, 0]
    if task.model.states == 1:
        values = {n: v for n, v in values.items() if n not in ("initial", "transition")}
    return Found(values, float(model.score(task.y)), f"{note}, {model.monitor_.iter} iterations")


# --- dynamax --------------------------------------------------------------------------------------


_MOST = 640
"""Steps of EM after which it is taken to have reached its limit."""


def _dynamax(task: Task) -> Prepared:
    """EM in float64 from k-means, flat priors, twice as many iterations until it has arrived."""
    import jax
    from dynamax.hidden_markov_model import GaussianHMM

    jax.config.update("jax_enable_x64", True)
    flat = {"initial_probs_concentration": 1.0, "transition_matrix_concentration": 1.0}
    normal = {"emission_prior_concentration": 0.0, "emission_prior_scale": 0.0}
    # A posterior mode divides by n + extra_df + 2 D + 2.
    model = GaussianHMM(task.model.states, 1, **flat, **normal, emission_prior_extra_df=-4.0)
    y = jax.numpy.asarray(task.y)

    def work(iterations: int) -> tuple[Any, float]:
        start, kinds = model.initialize(jax.random.PRNGKey(task.seed), "kmeans", emissions=y)
        values, _ = model.fit_em(start, kinds, y, num_iters=iterations, verbose=False)
        return values, float(model.marginal_log_prob(values, y))

    iterations, limit = 10, work(_MOST)[1]
    while iterations < _MOST and not work(iterations)[1] > limit - CLOSE:
        iterations *= 2

    def answer(result: tuple[Any, float]) -> Found:
        values, claimed = result
        emissions = values.emissions
        parameters = {
            "initial": np.array(values.initial.probs),
            "transition": np.array(values.transitions.transition_matrix),
            "mean": np.array(emissions.means[:, 0]),
            "scale": np.array(emissions.covs[:, 0, 0]) ** 0.5,
        }
        return Found(parameters, claimed, f"{iterations} iterations")

    return Prepared(lambda: work(iterations), answer)


# --- statsmodels ----------------------------------------------------------------------------------

_VARIANCES = {
    "sigma2.irregular": "observation_variance",
    "sigma2.level": "level_variance",
    "sigma2.trend": "slope_variance",
    "sigma2.seasonal": "seasonal_variance",
}


def _statsmodels(task: Task) -> Prepared:
    import statsmodels.api as sm

    y = task.y[:, 0]
    if task.family == "gaussian":
        unit = float(y.std())  # in other units it does not get far
        regimes = {"k_regimes": task.model.states, "switching_variance": True}
        return Prepared(
            lambda: sm.tsa.MarkovRegression(y / unit, **regimes).fit(disp=0),
            lambda result: _read_regimes(result, unit, len(y)),
        )
    parts = {"level": ("local level", None), "seasonal": ("lltrend", 4)}
    trend, period = parts[task.family]

    def answer(result: Any) -> Found:
        by_name = dict(zip(result.param_names, result.params, strict=True))
        values = {_VARIANCES[name]: float(value) for name, value in by_name.items()}
        return Found(values, float(result.llf), _ended(result))

    return Prepared(
        lambda: sm.tsa.UnobservedComponents(y, trend, seasonal=period, use_exact_diffuse=True).fit(
            disp=0
        ),
        answer,
    )


def _read_regimes(result: Any, unit: float, n: int) -> Found:
    by_name = dict(zip(result.model.param_names, result.params, strict=True))
    stay, back = by_name["p[0->0]"], by_name["p[1->0]"]
    values = {
        "transition": np.array([[stay, 1 - stay], [back, 1 - back]]),
        "mean": unit * np.array([by_name["const[0]"], by_name["const[1]"]]),
        "scale": unit * np.array([by_name["sigma2[0]"], by_name["sigma2[1]"]]) ** 0.5,
    }
    return Found(values, float(result.llf) - n * float(np.log(unit)), _ended(result))


def _ended(result: Any) -> str:
    return "converged" if result.mle_retvals["converged"] else "not converged"


def _quiet(prepare: Callable[[Task], Prepared]) -> Callable[[Task], Prepared]:
    """The same, without the warnings of peers about convergence."""

    def quietly(task: Task) -> Prepared:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prepared = prepare(task)

        def work() -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return prepared.work()

        return Prepared(work, prepared.answer)

    return quietly


CONTENDERS: Mapping[str, Contender[Task]] = {
    one.name: one
    for one in (
        Contender(OURS, _ours, precision="float64"),
        Contender("hmmlearn", _quiet(_hmmlearn), "hmmlearn", "float64"),
        Contender("hmmlearn_default", _quiet(_hmmlearn_default), "hmmlearn", "float64"),
        Contender("dynamax", _quiet(_dynamax), "dynamax", "float64"),
        Contender("statsmodels", _quiet(_statsmodels), "statsmodels", "float64"),
    )
}
