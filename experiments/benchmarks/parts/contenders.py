"""This library and its peers, each asked for the same of the same data.

All give the log evidence of all sequences and its gradient in all parameters, or what is the same
work: expected counts, or one EM iteration. Peers are imported when they are prepared, and get the
options with which they are fastest (checks of arguments off, the quicker algorithm).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceEnum_ELBO
from pyro.ops.indexing import Vindex
from torch import Tensor

from ....inference.exact import chains as exact
from .comparison import Contender, Limits, Prepared
from .problems import SYMBOLS, Answer, Array, Case, Precision, Problem, centred, evidence

DTYPES: Mapping[Precision, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}


# --- this library ---------------------------------------------------------------------------------


def ours(given: Problem, precision: Precision) -> Prepared:
    """Evidence and gradient by this library, in one precision."""
    dtype = DTYPES[precision]
    model, data = given.model(), given.data(dtype)
    leaves = given.leaves(dtype)

    def work() -> tuple[Tensor, tuple[Tensor, ...]]:
        for leaf in leaves.values():
            leaf.grad = None
        total = evidence(model, leaves, data)
        total.backward()
        return total, tuple(leaf.grad for leaf in leaves.values() if leaf.grad is not None)

    return Prepared(work, partial(_from_torch, given))


def _from_torch(
    given: Problem, result: tuple[Tensor, tuple[Tensor, ...]], sign: float = 1.0
) -> Answer:
    total, gradients = result
    named = {
        name: sign * gradient.detach().double().numpy()
        for name, gradient in zip(given.parameters, gradients, strict=True)
    }
    found = {f"gradient of {name}": value for name, value in centred(given, named).items()}
    return Answer(sign * float(total.detach()), found)


PARTS = ("emission_scoring", "kernel_forward", "kernel_backward", "emission_backward")


def parts(given: Problem, precision: Precision) -> Callable[[], dict[str, float]]:
    """A function that does the same work in four parts and returns the seconds of each.

    They are the scores of the observations in every state (with the logs of the parameters), the
    evidence, its gradient in these scores and the laws of the chain, and from there back to the
    parameters.
    """
    dtype = DTYPES[precision]
    model, data = given.model(), given.data(dtype)
    leaves = given.leaves(dtype)

    def work() -> dict[str, float]:
        stamps = [time.perf_counter()]
        laws = model.laws(leaves, data)
        chain = laws.log_initial, laws.log_transition, laws.log_likelihood
        stamps.append(time.perf_counter())
        initial, transition, scores = cut = [x.detach().requires_grad_() for x in chain]
        total = exact.log_evidence(initial, transition, scores, laws.lengths).sum()
        stamps.append(time.perf_counter())
        inner = torch.autograd.grad(total, cut)
        stamps.append(time.perf_counter())
        torch.autograd.grad(chain, list(leaves.values()), inner)
        stamps.append(time.perf_counter())
        return dict(zip(PARTS, np.diff(stamps).tolist(), strict=True))

    return work


# --- dynamax --------------------------------------------------------------------------------------


def _dynamax(given: Problem) -> Prepared:
    """jit(value_and_grad) of `marginal_log_prob`, summed over the batch with vmap."""
    import jax
    import jax.numpy as jnp
    from dynamax.hidden_markov_model import CategoricalHMM, DiagonalGaussianHMM

    k, values = given.case.states, {n: jnp.asarray(v) for n, v in given.parameters.items()}
    chain = {"initial_probs": values["initial"], "transition_matrix": values["transition"]}
    model: Any
    if given.case.family == "categorical":
        model = CategoricalHMM(k, 1, SYMBOLS)
        start, _ = model.initialize(**chain, emission_probs=values["probs"][:, None])
        y = jnp.asarray(given.y[..., None], dtype=jnp.int32)
    else:
        model = DiagonalGaussianHMM(k, given.y.shape[-1])
        mean, scale = values["mean"], values["scale"]
        start, _ = model.initialize(**chain, emission_means=mean, emission_scale_diags=scale)
        y = jnp.asarray(given.y, dtype=jnp.float32)

    def total(parameters: Any, observed: Any) -> Any:
        return jax.vmap(lambda one: model.marginal_log_prob(parameters, one))(observed).sum()

    compiled = jax.jit(jax.value_and_grad(total))

    def answer(result: Any) -> Answer:
        value, gradients = result
        arrays = [np.asarray(leaf, dtype=np.float64) for leaf in jax.tree.leaves(gradients)]
        shaped = zip(given.parameters.items(), arrays, strict=True)
        named = {name: array.reshape(right.shape) for (name, right), array in shaped}
        found = {f"gradient of {n}": g for n, g in centred(given, named).items()}
        return Answer(float(value), found)

    return Prepared(lambda: jax.block_until_ready(compiled(start, y)), answer)


# --- Pyro -----------------------------------------------------------------------------------------


def _tensors(given: Problem) -> Tensor:
    codes = given.case.family == "categorical"
    return torch.from_numpy(given.y) if codes else torch.from_numpy(given.y).float()


def _observation(given: Problem, values: Mapping[str, Tensor]) -> Any:
    """The emission as a Pyro distribution, one a state."""
    if given.case.family == "categorical":
        return dist.Categorical(probs=values["probs"], validate_args=False)
    law: Any = dist.Normal(values["mean"], values["scale"], validate_args=False)
    return law.to_event(1)


def _discrete_hmm(given: Problem) -> Prepared:
    """`DiscreteHMM.log_prob` and its gradient.

    That distribution moves before it emits. So that both are the same model, the first observation
    is scored outside of it: p(z_1) O(y_1) is what it starts from.
    """
    leaves = given.leaves(torch.float32)
    y = _tensors(given)

    def work() -> tuple[Tensor, tuple[Tensor, ...]]:
        law = _observation(given, leaves)
        first = leaves["initial"].log() + law.log_prob(y[:, 0].unsqueeze(1))
        moves = leaves["transition"].log().unsqueeze(0)
        rest = dist.DiscreteHMM(first, moves, law, validate_args=False)
        total = (first.logsumexp(-1) + rest.log_prob(y[:, 1:])).sum()
        return total, torch.autograd.grad(total, list(leaves.values()))

    return Prepared(work, partial(_from_torch, given))


def _discrete_hmm_obstacle(case: Case, limits: Limits) -> str | None:
    # One matrix a step, its halves on the way to one matrix a sequence, and as much for autograd.
    return _too_large(case, limits, copies=8, what="a matrix of (from, to) for every step")


def _too_large(case: Case, limits: Limits, copies: int, what: str) -> str | None:
    needed = copies * 4 * case.sequences * case.length * case.states**2 / 2**30
    if needed <= limits.gigabytes:
        return None
    return f"it holds {what}, here about {needed:.0f} GiB; the limit is {limits.gigabytes:g} GiB"


def _trace_enum(given: Problem) -> Prepared:
    """`TraceEnum_ELBO` of a program with `pyro.markov`: loss and gradients, without the optimizer's
    update."""
    leaves = given.leaves(torch.float32)
    y = _tensors(given)
    law = partial(dist.Categorical, validate_args=False)

    def model() -> None:
        with pyro.plate("sequence", given.case.sequences, dim=-1):
            state: Any = None
            for step in pyro.markov(range(given.case.length)):
                p = leaves["initial"]
                if state is not None:
                    p = Vindex(leaves["transition"])[state]
                state = pyro.sample(f"z_{step}", law(p), infer={"enumerate": "parallel"})
                here = {n: Vindex(leaves[n])[state] for n in given.emission_names}
                pyro.sample(f"y_{step}", _observation(given, here), obs=y[:, step])

    bound = TraceEnum_ELBO(max_plate_nesting=1)

    def work() -> tuple[Tensor, tuple[Tensor, ...]]:
        with pyro.validation_enabled(False):
            loss: Any = bound.differentiable_loss(model, lambda: None)
            return loss, torch.autograd.grad(loss, list(leaves.values()))

    return Prepared(work, partial(_from_torch, given, sign=-1.0))


def _trace_enum_obstacle(case: Case, limits: Limits) -> str | None:
    if case.length <= limits.enumerated_steps:
        return None
    return (
        f"it makes two Pyro sites a step, here {2 * case.length}, one after the other; sequences "
        f"of more than {limits.enumerated_steps} steps are left out"
    )


# --- hmmlearn -------------------------------------------------------------------------------------


def _hmmlearn(given: Problem, implementation: Literal["log", "scaling"]) -> Prepared:
    """One EM iteration: `fit` with n_iter=1, in float64."""
    from hmmlearn.hmm import CategoricalHMM, GaussianHMM

    logging.getLogger("hmmlearn").setLevel(logging.ERROR)  # it counts parameters per observation
    case, values = given.case, given.parameters
    options = {"n_iter": 1, "init_params": "", "implementation": implementation}
    model: Any
    if case.family == "categorical":
        model = CategoricalHMM(case.states, n_features=SYMBOLS, **options)
        start = {"startprob_": "initial", "transmat_": "transition", "emissionprob_": "probs"}
        y = given.y.reshape(-1, 1)
    else:
        # No prior, so that the update is the maximum of the likelihood.
        flat = {"covars_prior": 0.0, "covars_weight": 1.0}
        model = GaussianHMM(case.states, "diag", min_covar=0.0, **flat, **options)
        start = {"startprob_": "initial", "transmat_": "transition", "means_": "mean"}
        y = given.y.reshape(-1, given.y.shape[-1])
    lengths = [case.length] * case.sequences

    def work() -> Any:
        for attribute, name in start.items():
            setattr(model, attribute, values[name])
        if case.family == "gaussian":
            model.covars_ = values["scale"] ** 2
        return model.fit(y, lengths)

    def answer(fitted: Any) -> Answer:
        found = {f"updated {name}": getattr(fitted, a) for a, name in start.items()}
        if case.family == "gaussian":
            found["updated scale"] = np.sqrt(np.diagonal(fitted.covars_, axis1=-2, axis2=-1))
        return Answer(float(fitted.monitor_.history[0]), found)

    return Prepared(work, answer)


# --- pomegranate ----------------------------------------------------------------------------------


def _pomegranate(given: Problem) -> Prepared:
    """`DenseHMM.forward_backward`: evidence and expected counts of the chain.

    The emission's own counts, which the others' gradients contain, are not part of it.
    """
    from pomegranate.distributions import Categorical, Normal
    from pomegranate.hmm import DenseHMM

    case = given.case
    values = {name: _float32(value) for name, value in given.parameters.items()}
    laws: list[Any]
    if case.family == "categorical":
        laws = [Categorical(probs=values["probs"][s].unsqueeze(0)) for s in range(case.states)]
        y = torch.from_numpy(given.y).unsqueeze(-1)
    else:
        covs = values["scale"].square()
        laws = [
            Normal(values["mean"][s], covs[s], covariance_type="diag") for s in range(case.states)
        ]
        y = torch.from_numpy(given.y).float()
    model: Any = DenseHMM(
        laws,
        edges=values["transition"],
        starts=values["initial"],
        ends=torch.ones(case.states),  # log 1: the end of a sequence says nothing
        check_data=False,
    )

    def answer(result: Any) -> Answer:
        moves, _, starts, _, total = (x.detach().double() for x in result)
        found = {"expected transition": moves.sum(0), "expected initial": starts.sum(0)}
        return Answer(float(total.sum()), {name: x.numpy() for name, x in found.items()})

    return Prepared(lambda: model.forward_backward(y), answer)


def _float32(value: Array) -> Tensor:
    return torch.from_numpy(value).float()


ACCURATE_STEPS = 2000
"""Sequences up to which pomegranate's counts in float32 are right to some per cent; at 10^4 steps a
quarter is missing, since all steps of a sequence are added up as logs near that of its probability.
"""


def _pomegranate_obstacle(case: Case, limits: Limits) -> str | None:
    if case.length > ACCURATE_STEPS:
        return (
            f"its expected counts in float32 do not agree beyond some {ACCURATE_STEPS} steps a "
            "sequence: they are sums of logs that are as large as that of the evidence"
        )
    return _too_large(case, limits, copies=4, what="a matrix of (from, to) for every step")


# --- all of them ----------------------------------------------------------------------------------

OURS: Mapping[Precision, str] = {"float32": "beliefzoo", "float64": "beliefzoo_float64"}
"""Names of this library's own figures, by precision: peers are compared in their own."""

CONTENDERS: tuple[Contender[Problem], ...] = (
    Contender(OURS["float32"], partial(ours, precision="float32")),
    Contender(OURS["float64"], partial(ours, precision="float64"), precision="float64"),
    Contender("dynamax", _dynamax, "dynamax"),
    Contender("pyro_DiscreteHMM", _discrete_hmm, obstacle=_discrete_hmm_obstacle, in_logs=True),
    Contender(
        "hmmlearn", partial(_hmmlearn, implementation="log"), "hmmlearn", "float64", in_logs=True
    ),
    Contender(
        "hmmlearn_scaling", partial(_hmmlearn, implementation="scaling"), "hmmlearn", "float64"
    ),
    Contender(
        "pomegranate", _pomegranate, "pomegranate", obstacle=_pomegranate_obstacle, in_logs=True
    ),
    Contender("pyro_TraceEnum", _trace_enum, obstacle=_trace_enum_obstacle, in_logs=True),
)
