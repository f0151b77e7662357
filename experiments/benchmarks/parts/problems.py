"""The models and data that the benchmarks of exact inference share, and what must come out.

Everything is made with numpy from a seed, so that each contender gets the same numbers.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ....inference.exact import chains as exact
from ....models import Categorical, Emission, Gaussian, HiddenMarkovModel, Sequences

Array = npt.NDArray[np.float64]
Family = Literal["categorical", "gaussian"]
FAMILIES: tuple[Family, ...] = get_args(Family)
Precision = Literal["float32", "float64"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

SYMBOLS = 32
FEATURES = 8
STAY = 0.5
"""Share of the transition matrix that is the identity: states that last a few steps."""


@dataclass(frozen=True)
class Case:
    """What is scored: the family of the emission and the size."""

    family: Family
    states: int
    sequences: int
    length: int

    @property
    def size(self) -> str:
        """The size in words, as it stands in the report."""
        return f"states{self.states}_sequences{self.sequences}_length{self.length}"


class Described(Protocol):
    """What names a case in a message."""

    @property
    def family(self) -> str: ...

    @property
    def size(self) -> str: ...


@dataclass(frozen=True)
class Problem:
    """Parameter values, float64, and observations: (N, T) codes or (N, T, F) numbers."""

    case: Case
    parameters: Mapping[str, Array]
    y: npt.NDArray[np.int64] | Array

    @property
    def emission_names(self) -> tuple[str, ...]:
        """Names of the emission's parameters."""
        return tuple(name for name in self.parameters if name not in ("initial", "transition"))

    def model(self) -> HiddenMarkovModel:
        """The model with its parameters unknown."""
        return HiddenMarkovModel(self.case.states, emission(self.case.family))

    def data(self, dtype: torch.dtype) -> Sequences:
        """The observations as this library takes them."""
        if self.case.family == "categorical":
            return Sequences.from_tensors(torch.from_numpy(self.y), codes=True)
        return Sequences.from_tensors(torch.from_numpy(self.y).to(dtype))

    def leaves(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The parameter values as tensors that ask for a gradient."""
        return {
            name: torch.tensor(value, dtype=dtype, requires_grad=True)
            for name, value in self.parameters.items()
        }


@dataclass(frozen=True)
class Answer:
    """What a contender found: log p(y) of all sequences, and figures by name.

    See ``reference`` for the names.
    """

    log_evidence: float
    found: Mapping[str, Array]


@dataclass(frozen=True)
class Tolerance:
    """Largest relative difference of the evidence, and of the other figures.

    The latter is relative to the largest element of the array.
    """

    log_evidence: float
    found: float


def tolerance(precision: Precision, log_evidence: float, *, in_logs: bool) -> Tolerance:
    """What rounding may do to a right result.

    Who keeps logs of the probability of whole sequences (``in_logs``) has them rounded to machine
    precision times their size in nats, and this is the relative error of what they exponentiate:
    some per cent in float32 at 10^5 steps.
    """
    rounding = float(np.finfo(precision).eps) * abs(log_evidence) if in_logs else 0.0
    if precision == "float32":
        return Tolerance(1e-4, 5e-3 + rounding)
    return Tolerance(1e-9, 1e-6 + rounding)


def emission(family: Family) -> Emission:
    """The family with the number of symbols or features of all benchmarks."""
    return Categorical(SYMBOLS) if family == "categorical" else Gaussian(FEATURES)


def problem(case: Case, seed: int, off: float = 0.1) -> Problem:
    """Sequences drawn from a random model, and parameters near those of that model.

    ``off`` says how near, 0 for the very same. There the gradient is what is left of sums that
    cancel, whose relative error would say little; and nobody asks for it before the last step of a
    fit.
    """
    random = np.random.default_rng([seed, case.states, case.sequences, case.length])
    k = case.states
    parameters = {
        "initial": random.dirichlet(np.ones(k)),
        "transition": STAY * np.eye(k) + (1 - STAY) * random.dirichlet(np.ones(k), k),
    }
    paths = _paths(random, parameters["initial"], parameters["transition"], case)
    if case.family == "categorical":
        parameters["probs"] = random.dirichlet(np.full(SYMBOLS, 0.5), k) * 0.99 + 0.01 / SYMBOLS
        below = parameters["probs"].cumsum(-1)[paths]
        y: npt.NDArray[Any] = (random.random((*paths.shape, 1)) > below).sum(-1)
        y = y.clip(max=SYMBOLS - 1)
        return Problem(case, _moved(random, parameters, off), y)
    parameters["mean"] = random.normal(size=(k, FEATURES))
    parameters["scale"] = random.uniform(0.5, 1.5, size=(k, FEATURES))
    noise = random.normal(size=(*paths.shape, FEATURES))
    y = parameters["mean"][paths] + parameters["scale"][paths] * noise
    return Problem(case, _moved(random, parameters, off), y)


def _moved(
    random: np.random.Generator, parameters: Mapping[str, Array], off: float
) -> dict[str, Array]:
    moved = {}
    for name, value in parameters.items():
        if name == "mean":
            moved[name] = value + off * random.normal(size=value.shape)
        elif name == "scale":
            moved[name] = value * np.exp(off * random.normal(size=value.shape))
        else:
            other = random.dirichlet(np.ones(value.shape[-1]), value.shape[:-1])
            moved[name] = (1 - off) * value + off * other
    return moved


def _paths(
    random: np.random.Generator, initial: Array, transition: Array, case: Case
) -> npt.NDArray[np.int64]:
    """Hidden paths (N, T)."""
    first, rows = initial.cumsum().tolist(), transition.cumsum(-1).tolist()
    last = case.states - 1
    paths = np.empty((case.sequences, case.length), dtype=np.int64)
    for sequence in range(case.sequences):
        below = first
        path = []
        for chance in random.random(case.length).tolist():
            state = min(bisect(below, chance), last)
            path.append(state)
            below = rows[state]
        paths[sequence] = path
    return paths


def evidence(model: HiddenMarkovModel, values: Mapping[str, Tensor], data: Sequences) -> Tensor:
    """log p(y) of all sequences, as a user of this library computes it."""
    laws = model.laws(values, data)
    chain = laws.log_initial, laws.log_transition, laws.log_likelihood, laws.lengths
    return exact.log_evidence(*chain).sum()


def reference(given: Problem) -> Answer:
    """Everything that a contender may be asked for, in float64 by this library.

    - ``gradient of NAME``: of the evidence in a parameter; of probabilities in their logits, so
      that it does not matter whether a contender normalises them.
    - ``expected initial``, ``expected transition``: visits and moves given the data.
    - ``updated NAME``: the parameter after one EM iteration.
    """
    values = given.leaves(torch.float64)
    laws = given.model().laws(values, given.data(torch.float64))
    scores = laws.log_likelihood
    scores.retain_grad()
    total = exact.log_evidence(laws.log_initial, laws.log_transition, scores, laws.lengths).sum()
    total.backward()
    assert scores.grad is not None
    gradients = {name: _array(value.grad) for name, value in values.items()}
    found = {f"gradient of {name}": g for name, g in centred(given, gradients).items()}
    for name in ("initial", "transition"):
        found[f"expected {name}"] = given.parameters[name] * gradients[name]
    found |= _updated(given, gradients, scores.grad.numpy())
    return Answer(float(total.detach()), found)


def centred(given: Problem, gradients: Mapping[str, Array]) -> dict[str, Array]:
    """Gradients in probabilities as gradients in their logits; others as they are."""
    out = {}
    for name, gradient in gradients.items():
        if name in ("initial", "transition", "probs"):
            p = given.parameters[name]
            gradient = p * (gradient - (p * gradient).sum(-1, keepdims=True))
        out[name] = gradient
    return out


def _updated(given: Problem, gradients: Mapping[str, Array], marginals: Array) -> dict[str, Array]:
    """The parameters after one EM iteration."""
    updated = {}
    for name in ("initial", "transition", "probs"):
        if name in gradients:
            counts = given.parameters[name] * gradients[name]
            updated[name] = counts / counts.sum(-1, keepdims=True)
    if given.case.family == "gaussian":
        weight = (marginals / marginals.sum((0, 1))).reshape(-1, given.case.states)
        y = given.y.reshape(-1, FEATURES)
        mean = weight.T @ y
        updated["mean"] = mean
        updated["scale"] = np.sqrt(weight.T @ y**2 - mean**2)
    return {f"updated {name}": value for name, value in updated.items()}


def check_agreement(
    contender: str, case: Described, answer: Answer, expected: Answer, allowed: Tolerance
) -> dict[str, float]:
    """Relative differences of an answer from what is expected.

    Raises:
        ValueError: one is above its tolerance, or not a number; names contender, figure and case.
    """
    evidence_gap = abs(answer.log_evidence - expected.log_evidence) / abs(expected.log_evidence)
    differences = {"log evidence": (evidence_gap, allowed.log_evidence)}
    for name, value in answer.found.items():
        right = expected.found[name]
        off = np.abs(np.asarray(value, dtype=np.float64) - right).max() / np.abs(right).max()
        differences[name] = (float(off), allowed.found)
    for name, (difference, largest) in differences.items():
        if not difference <= largest:
            raise ValueError(
                f"{contender}: {name} must agree with this library in float64 to a relative "
                f"{largest:.0e} on {case.family} {case.size}, got {difference:.1e}"
            )
    return {
        "log_evidence_relative_difference": float(evidence_gap),
        "largest_relative_difference": max(off for off, _ in differences.values()),
    }


def _array(value: Tensor | None) -> Array:
    assert value is not None
    return value.detach().numpy().astype(np.float64)
