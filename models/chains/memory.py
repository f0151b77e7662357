"""Models with a memory: a number that is kept or dropped, and written to or not, at random.

The memory is part of the hidden state; keep and write are the actions on it. The observation of a
step depends on these and on the value on offer. The mean of the memory given the past then follows
the recursion of a memory cell, c_t = f_t c_{t-1} + i_t g_t, whose gates are posterior probabilities
(docs/science.md, I7).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import permutations, product
from typing import NamedTuple, Self

import pyro.distributions as dist
import torch
from torch import Tensor

from ..boundary import boundary
from ..checks import require, require_count, require_last
from ..data.moments import overall_moments
from ..data.sequences import Sequences
from ..emissions.emission import LEAST_SPREAD, Emission, Parameters, Priors
from ..emissions.observations import Vectors
from ..emissions.reals import Gaussian
from ..trajectories import SparseMoves, safe_log
from .hmm import HiddenMarkovModel
from .laws import ChainModel
from .renaming import Named, left_open
from .start_memory import start_of_memory

LARGEST_CAPACITY = 500
"""More would be too many states: a belief over 8 (2 · 500 + 1) of them takes 64 kB per step."""


class MemoryStates(NamedTuple):
    """The meaning of each of the K states of a memory model; ``memory_states`` returns it.

    Attributes:
        keep: u_t, 1 if the memory of the step before is kept, 0 if it is dropped; (K,) float64, as
            all.
        write: v_t, 1 if the value is added to the memory, 0 if not.
        value: x_t, the value on offer, −1 or 1.
        before: z_{t-1}, the memory before the step.
        memory: z_t = u_t z_{t-1} + v_t x_t.

    >>> from beliefzoo.models import ResetModel, memory_states
    >>> table = memory_states(ResetModel())
    >>> bool((table.memory == table.keep * table.before + table.write * table.value).all())
    True
    """

    keep: Tensor
    write: Tensor
    value: Tensor
    before: Tensor
    memory: Tensor


class MemoryTransition(ABC):
    """Base of the two memory laws: causes that are drawn anew at every step, and a memory of them.

    A state is (causes of the step, memory before it), numbered with the causes changing fastest. It
    moves to one of the C states whose memory before is the memory that it leaves: C entries of T a
    row.
    """

    inputs = 0

    @property
    @abstractmethod
    def chances(self) -> tuple[str, ...]:
        """Names of the parameters: probabilities of the n two-valued causes of a step; C = 2^n."""

    @property
    def least_observed(self) -> int:
        """Observed steps that a fit needs at least: one for each combination of causes."""
        return int(2 ** len(self.chances))

    @property
    @abstractmethod
    def states(self) -> int:
        """Number of states K."""

    @property
    @abstractmethod
    def table(self) -> MemoryStates:
        """The meaning of the states."""

    @property
    @abstractmethod
    def channels(self) -> tuple[str, ...]:
        """The entries of ``table`` that are causes, in the order of ``chances``."""

    def priors(self, states: int) -> Priors:
        require(
            states == self.states, "states", f"this transition has {self.states} of them", states
        )
        return {name: dist.Beta(torch.tensor(1.0), torch.tensor(1.0)) for name in self.chances}

    def dims(self) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(self.chances, ())

    def log_causes(self, parameters: Parameters) -> Tensor:
        """Return log probabilities of the causes of a step, (…draws, C)."""
        total = torch.zeros(1, dtype=torch.float64)
        for name in self.chances:
            chance = parameters[name].unsqueeze(-1)
            pair = safe_log(torch.cat([1 - chance, chance], -1))
            joint = total.to(pair).unsqueeze(-1) + pair.unsqueeze(-2)
            total = joint.flatten(-2)
        return total

    def moves(self, parameters: Parameters) -> tuple[Tensor, Tensor, Tensor]:
        """Return log T of every move (…draws, K, C), its target (K, C), if it exists (all do)."""
        log_causes = self.log_causes(parameters)
        count = log_causes.shape[-1]
        target = self._first_target.unsqueeze(-1) + torch.arange(count)
        log_moves = log_causes.unsqueeze(-2).expand(*log_causes.shape[:-1], self.states, count)
        return log_moves, target, torch.ones_like(target, dtype=torch.bool)

    def structure(self, parameters: Parameters) -> SparseMoves:
        return SparseMoves.listed(*self.moves(parameters))

    @cached_property
    def _first_target(self) -> Tensor:
        """The first of the states that every state moves to, (K,)."""
        causes: int = 2 ** len(self.chances)
        held = self.table.before[::causes].contiguous()  # in increasing order
        reached = self.table.memory.clamp(held[0], held[-1])
        place: Tensor = torch.searchsorted(held, reached)
        return place * causes

    def __call__(self, parameters: Parameters, data: Sequences) -> Tensor:
        """Return log T, shape (…draws, 1, 1, K, K)."""
        del data
        log_moves, target, _ = self.moves(parameters)
        shape = (*log_moves.shape[:-1], self.states)
        out = log_moves.new_full(shape, -torch.inf)
        place = target.to(out.device).expand(log_moves.shape)
        return out.scatter(-1, place, log_moves).unsqueeze(-3).unsqueeze(-3)

    def start(self, counts: Tensor) -> dict[str, Tensor]:
        """Start from the shares of the causes among the states moved to."""
        visits = counts.sum(0)
        out = {}
        for name, channel in zip(self.chances, self.channels, strict=True):
            happened = getattr(self.table, channel).to(visits) > 0
            out[name] = (visits * happened).sum() / visits.sum()
        return out

    def check(self, data: Sequences) -> None:
        """Accept any data."""
        del data


@dataclass(frozen=True)
class AccumulatorTransition(MemoryTransition):
    r"""A memory that adds up what is written to it until it is dropped.

    .. math:: z_t = u_t z_{t-1} + v_t x_t , \quad z_0 = 0

    with u_t ∈ {0, 1}, v_t ∈ {0, 1} and x_t ∈ {−1, 1} drawn independently at every step. Parameters:
    ``keep`` P(u = 1), ``write`` P(v = 1), ``positive`` P(x = 1), each with the prior Beta(1, 1).
    There are 8 (2 ``capacity`` + 1) states. Sequences longer than ``capacity`` are refused, since
    their memory could exceed it.

    Args:
        capacity: largest absolute value of the memory, at most 500.

    Raises:
        ValueError: a capacity out of range; data longer than it.

    >>> AccumulatorTransition(capacity=20).states
    328
    """

    capacity: int

    def __post_init__(self) -> None:
        require_count(self.capacity, "capacity")
        require(
            self.capacity <= LARGEST_CAPACITY,
            "capacity",
            f"can be at most {LARGEST_CAPACITY}",
            f"{self.capacity}, which has {self.states} states",
        )

    @property
    def chances(self) -> tuple[str, ...]:
        return "keep", "write", "positive"

    @property
    def channels(self) -> tuple[str, ...]:
        return "keep", "write", "value"

    @property
    def states(self) -> int:
        return 8 * (2 * self.capacity + 1)

    @cached_property
    def table(self) -> MemoryStates:
        bit = torch.tensor([0.0, 1.0], dtype=torch.float64)
        held = torch.arange(-self.capacity, self.capacity + 1, dtype=torch.float64)
        before, keep, write, value = torch.cartesian_prod(held, bit, bit, 2 * bit - 1).unbind(-1)
        return MemoryStates(keep, write, value, before, keep * before + write * value)

    def check(self, data: Sequences) -> None:
        """Raise ``ValueError`` if a sequence is longer than the capacity."""
        require(
            data.max_length <= self.capacity,
            "data",
            f"a memory with capacity={self.capacity} is for sequences of at most that many steps",
            f"a sequence of {data.max_length}",
        )


@dataclass(frozen=True)
class ResetTransition(MemoryTransition):
    r"""A memory that is held, or drawn anew.

    .. math:: z_t = u_t z_{t-1} + (1 - u_t) x_t , \quad z_0 = 0

    with u_t ∈ {0, 1} and x_t ∈ {−1, 1} drawn independently at every step: the memory is written
    whenever it is not kept. Parameters: ``keep`` P(u = 1), ``positive`` P(x = 1), each with the
    prior Beta(1, 1). There are 12 states.

    >>> ResetTransition().dims()  # two numbers, without a state axis
    {'keep': (), 'positive': ()}
    """

    @property
    def chances(self) -> tuple[str, ...]:
        return "keep", "positive"

    @property
    def channels(self) -> tuple[str, ...]:
        return "keep", "value"

    @property
    def states(self) -> int:
        return 12

    @cached_property
    def table(self) -> MemoryStates:
        bit = torch.tensor([0.0, 1.0], dtype=torch.float64)
        held = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
        before, keep, value = torch.cartesian_prod(held, bit, 2 * bit - 1).unbind(-1)
        return MemoryStates(keep, 1 - keep, value, before, keep * before + (1 - keep) * value)


Memory = AccumulatorTransition | ResetTransition


@dataclass(frozen=True)
class EmptyMemory:
    """The initial law of a memory model: p(z_0 = 0) = 1.

    The causes of the first step have the same probabilities as those of every other step.

    Args:
        transition: the transition law of the model.

    Raises:
        ValueError: a transition without memory, or a model with another one.

    >>> import torch
    >>> from beliefzoo.models import ResetTransition
    >>> first = EmptyMemory(ResetTransition())
    >>> chances = {"keep": torch.tensor(0.9), "positive": torch.tensor(0.5)}
    >>> int((first(chances, None) > -torch.inf).sum())  # 4 of 12 states have no memory yet
    4
    """

    transition: Memory

    def __post_init__(self) -> None:
        _require_memory(self.transition)

    def priors(self, states: int) -> Priors:
        return {}

    def check_model(self, model: ChainModel) -> None:
        """Raise ``ValueError`` unless the model has the transition of this law."""
        same = model.transition == self.transition
        require(same, "initial", f"{self} needs a model with this transition", model.transition)

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {}

    def __call__(self, parameters: Parameters, log_transition: Callable[[], Tensor]) -> Tensor:
        """Return log p(state of the first step), shape (…draws, 1, K)."""
        del log_transition
        log_causes = self.transition.log_causes(parameters)
        empty = (self.transition.table.before == 0).to(log_causes.device)
        out = log_causes.new_full((*log_causes.shape[:-1], len(empty)), -torch.inf)
        out[..., empty] = log_causes
        return out.unsqueeze(-2)

    def start(self, share: Tensor) -> dict[str, Tensor]:
        """Return nothing: the parameters are those of the transition."""
        del share
        return {}


@boundary
@dataclass(frozen=True)
class MemoryEmission(Emission):
    r"""Observations of a memory model: features that depend linearly on the causes of the step.

    .. math:: y_{tf} = d_f + \sum_j B_{jf} n_{tj} + N(0, s_f^2)

    with one channel j for each cause of the step, n = ±1: keep (2u − 1), write (2v − 1; not in a
    reset model) and value x. With ``leak`` there is one more channel, n = z_{t-1}, the memory
    itself. Parameters: ``loading`` B (channel, feature) ~ N(0, 1), ``intercept`` d ~ N(0, 1),
    ``scale`` s ~ LogNormal(log ½, 1), in units of ``spread`` about ``location``, both of the data.
    Where B s⁻² B' is diagonal, y informs about each cause separately.

    Args:
        transition: the transition law of the model.
        features: real features per step F.
        leak: whether y also depends on the memory before the step.
        location: prior centre of the observations, one number or one per feature.
        spread: prior scale of the observations, likewise; ``scaled_to(data)`` sets both.

    Raises:
        ValueError: a setting out of range.

    >>> from beliefzoo.models import AccumulatorTransition
    >>> MemoryEmission(AccumulatorTransition(5), leak=True).channels
    ('keep', 'write', 'value', 'before')
    """

    transition: Memory
    features: int = 3
    leak: bool = False
    location: float | tuple[float, ...] = 0.0
    spread: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        _require_memory(self.transition)
        require(isinstance(self.leak, bool), "leak", "must be True or False", repr(self.leak))
        self._family  # noqa: B018  # checks what it has in common with the family

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, which are entries of ``MemoryStates``."""
        return (*self.transition.channels, *(("before",) if self.leak else ()))

    @property
    def observations(self) -> Vectors:
        return Vectors(self.features)

    @cached_property
    def signals(self) -> Tensor:
        """n of every state, (K, channels) float64: ±1, and the memory before for a leak."""
        table = self.transition.table
        columns = {"keep": 2 * table.keep - 1, "write": 2 * table.write - 1}
        columns |= {"value": table.value, "before": table.before}
        return torch.stack([columns[name] for name in self.channels], -1)

    def priors(self, states: int) -> Priors:
        require(
            states == self.transition.states,
            "states",
            f"{self.transition} has {self.transition.states} of them",
            states,
        )
        unit, centre = (
            torch.tensor(x, dtype=torch.float64).expand(self.features)
            for x in (self.spread, self.location)
        )
        zeros = unit.new_zeros(len(self.channels), self.features)
        return {
            "loading": dist.Normal(zeros, unit.expand_as(zeros)).to_event(2),
            "intercept": dist.Normal(centre, unit).to_event(1),
            "scale": dist.LogNormal((unit / 2).log(), 1.0).to_event(1),
        }

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {
            "loading": ("channel", "feature"),
            "intercept": ("feature",),
            "scale": ("feature",),
        }

    def mean(self, parameters: Parameters) -> Tensor:
        """Return E[y | state], (…draws, K, F)."""
        loading = parameters["loading"]
        return self.signals.to(loading) @ loading + parameters["intercept"].unsqueeze(-2)

    def score(
        self, parameters: Parameters, y: Tensor, mask: Tensor, shift: Tensor | None = None
    ) -> Tensor:
        return self._family.score(self._by_state(parameters), y, mask, shift)

    def draw(self, parameters: Parameters, paths: Tensor, shift: Tensor | None = None) -> Tensor:
        return self._family.draw(self._by_state(parameters), paths, shift)

    @property
    def _family(self) -> Gaussian:
        return Gaussian(self.features, self.location, self.spread)

    def _by_state(self, parameters: Parameters) -> dict[str, Tensor]:
        """Means and scales in the form of the Gaussian family."""
        mean, scale = self.mean(parameters), parameters["scale"].unsqueeze(-2)
        mean, scale = torch.broadcast_tensors(mean, scale)
        if self.features == 1:
            mean, scale = mean.squeeze(-1), scale.squeeze(-1)
        return {"mean": mean, "scale": scale}

    def start_chain(
        self, model: HiddenMarkovModel, data: Sequences, *, lloyd: bool
    ) -> dict[str, Tensor] | None:
        """Return starting values of a memory model, by a constrained k-means."""
        del lloyd
        law = model.transition
        return start_of_memory(self, law, data) if isinstance(law, MemoryTransition) else None

    def start(self, y: Tensor, mask: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Regress the frames on the mean signals of their states."""
        one = y.new_ones(len(y), 1)
        signals = torch.cat([weight @ self.signals.to(y), one], -1)
        penalty = torch.eye(signals.shape[-1], dtype=y.dtype)
        centre, spread = overall_moments(y, mask)
        columns, scales = [], []
        for feature in range(self.features):
            seen = mask[:, feature]
            x, target = signals[seen], y[seen, feature] - centre[feature]
            found = torch.linalg.solve(x.mT @ x + penalty, x.mT @ target)
            columns.append(found)
            rest = (target - x @ found).square().sum() / max(int(seen.sum()), 1)
            scales.append(rest.sqrt())
        table = torch.stack(columns, -1)
        return {
            "loading": table[:-1],
            "intercept": centre + table[-1],
            "scale": torch.stack(scales).maximum(LEAST_SPREAD * spread),
        }

    def scaled_to(self, data: Sequences) -> Self:
        scaled = self._family.scaled_to(data)
        return replace(self, location=scaled.location, spread=scaled.spread)

    def undecided(self, model: Named, given: Parameters) -> str:
        """Say which causes may stand for another, or for their opposite; see ``Model.undecided``.

        Without a leak, observations depend on the causes of their own step alone, which are drawn
        anew; with one, on a memory whose sign is that of the values.
        """
        causes = self.transition.chances
        if not {*causes} <= {*model.parameter_dims()}:  # causes that last
            return ""
        open_: set[str] = set()
        for order, opposite in self._renamings:
            moved = {causes[k] for k, old in enumerate(order) if k != old or opposite[k]}
            if not moved <= open_ and left_open(
                model, given, partial(self._renamed, order, opposite)
            ):
                open_ |= moved
        names = ", ".join(repr(name) for name in causes if name in open_)
        return names and (
            f"nothing tells {names} from one another or from their opposites: data and priors are "
            "as likely if they are exchanged, and what is said of the memory may hold for another. "
            "Starting values (start={…}) or known values (with_parameters) of 'loading' would "
            "settle it"
        )

    @property
    def _renamings(self) -> Iterator[tuple[tuple[int, ...], tuple[bool, ...]]]:
        """Which old cause each cause is, and whether it is the opposite of it."""
        count = len(self.transition.chances)
        same = tuple(range(count))
        if self.leak:
            yield same, (*[False] * (count - 1), True)
            return
        yield from product(permutations(same), product((False, True), repeat=count))

    def _renamed(
        self, order: tuple[int, ...], opposite: tuple[bool, ...], values: Parameters
    ) -> dict[str, Tensor]:
        """Values with a leading axis of draws under which all data have the same density."""
        out, causes = dict(values), self.transition.chances
        for k, old in enumerate(order):
            if causes[old] in values:
                chance = values[causes[old]]
                out[causes[k]] = 1 - chance if opposite[k] else chance
        if "loading" in values:
            signs = [-1.0 if turned else 1.0 for turned in (*opposite, *[opposite[-1]] * self.leak)]
            rows = values["loading"][:, [*order, *[len(order)] * self.leak]]
            out["loading"] = rows * rows.new_tensor(signs).unsqueeze(-1)
        return out

    def precision(self, parameters: Parameters) -> Tensor:
        """Return B s⁻² B', (…draws, channels, channels): how far channels share features."""
        weighted = parameters["loading"] / parameters["scale"].square().unsqueeze(-2)
        return weighted @ parameters["loading"].mT


def _require_memory(transition: object) -> None:
    require(
        isinstance(transition, Memory),
        "transition",
        "must be an AccumulatorTransition or a ResetTransition",
        repr(transition),
    )


def GatedAccumulator(
    capacity: int,
    *,
    features: int = 3,
    leak: bool = False,
    priors: Mapping[str, dist.TorchDistribution] | None = None,
) -> HiddenMarkovModel:
    r"""Build a model of a memory that adds up what is written to it until it is dropped.

    .. math:: z_t = u_t z_{t-1} + v_t x_t , \quad y_t = d + B' n_t + N(0, s^2)

    The model is a ``HiddenMarkovModel`` with ``AccumulatorTransition`` and ``MemoryEmission``; see
    there. u and v are the actions keep and write. If the features inform about u, v and x
    separately (B s⁻² B' diagonal, no leak), the mean of the memory is exactly

    .. math:: E[z_t | y_{1:t}] = P(u=1 | y_t) E[z_{t-1} | y_{1:t-1}] + P(v=1 | y_t) E[x | y_t]

    a memory cell with f = P(u=1|y), i = P(v=1|y), g = E[x|y] = tanh of half the log odds; see
    docs/science.md, I7.

    Data do not tell which cause is which: without a leak all three can be exchanged, and each with
    its opposite; with one, positive and negative can. A fit warns unless ``loading``, as known or
    starting values, settles it.

    Args:
        capacity: longest sequence; the memory is a whole number of at most this size.
        features: real features per step.
        leak: whether y_t also depends on z_{t-1}, by a channel of its own in ``loading``; the
            recursion above is then not exact.
        priors: replacements for single priors, by parameter name.

    Returns:
        The hidden Markov model.

    Raises:
        ValueError: an invalid argument, or data of more than ``capacity`` steps.

    >>> model = GatedAccumulator(20).with_parameters(
    ...     keep=0.9, write=0.3, positive=0.5,
    ...     loading=[[1, 0, 0], [0, 1, 0], [0, 0, 1]], intercept=[0, 0, 0], scale=[0.5, 0.5, 0.5]
    ... )
    >>> model.sample(10, 20, seed=0).data.n_features
    3
    """
    return _memory_model(AccumulatorTransition(capacity), features, leak, priors)


def ResetModel(
    *,
    features: int = 2,
    leak: bool = False,
    priors: Mapping[str, dist.TorchDistribution] | None = None,
) -> HiddenMarkovModel:
    r"""Build a model of a memory that is held or drawn anew.

    .. math:: z_t = u_t z_{t-1} + (1 - u_t) x_t , \quad y_t = d + B' n_t + N(0, s^2)

    The model is a ``HiddenMarkovModel`` with ``ResetTransition`` and ``MemoryEmission``. Under the
    conditions of ``GatedAccumulator`` the mean of its memory is a cell with i = 1 − f, f =
    P(u=1|y).

    Args:
        features: real features per step.
        leak: whether y_t also depends on z_{t-1}.
        priors: replacements for single priors, by parameter name.

    Returns:
        The hidden Markov model.

    Raises:
        ValueError: an invalid argument.

    >>> model = ResetModel()
    >>> model.states, model.parameter_names
    (12, ('keep', 'positive', 'loading', 'intercept', 'scale'))
    """
    return _memory_model(ResetTransition(), features, leak, priors)


def _memory_model(
    transition: Memory,
    features: int,
    leak: bool,
    priors: Mapping[str, dist.TorchDistribution] | None,
) -> HiddenMarkovModel:
    return HiddenMarkovModel(
        transition.states,
        MemoryEmission(transition, features=features, leak=leak),
        transition=transition,
        initial=EmptyMemory(transition),
        priors=priors,
    )


@boundary
def memory_states(model: HiddenMarkovModel) -> MemoryStates:
    """Return the meaning of the states of a memory model.

    Args:
        model: a ``GatedAccumulator`` or a ``ResetModel``.

    Returns:
        Keep, write, value, memory before and memory of every state.

    Raises:
        ValueError: a model without memory.

    >>> from beliefzoo.models import GatedAccumulator
    >>> memory_states(GatedAccumulator(1)).memory.unique().tolist()
    [-2.0, -1.0, 0.0, 1.0, 2.0]
    """
    law = model.transition if isinstance(model, HiddenMarkovModel) else None
    if not isinstance(law, Memory):
        raise ValueError(f"model: needs a GatedAccumulator or a ResetModel, got {model!r}")
    return law.table


@boundary
def memory_mean(model: HiddenMarkovModel, beliefs: Tensor) -> Tensor:
    """Return the mean of the memory, E[z_t], under beliefs over the states.

    Args:
        model: a ``GatedAccumulator`` or a ``ResetModel``.
        beliefs: probabilities of the states, (…, K).

    Returns:
        The means, shape (…).

    Raises:
        ValueError: a model without memory, or beliefs of another size.

    >>> import torch
    >>> model = ResetModel()
    >>> memory_mean(model, torch.full((12,), 1 / 12)).abs() < 1e-6  # symmetric: 0
    tensor(True)
    """
    return _expected(model, beliefs, "memory")


@boundary
def keep_probability(model: HiddenMarkovModel, beliefs: Tensor) -> Tensor:
    """Return the probability that the memory is kept, P(u_t = 1), under beliefs over the states.

    Args:
        model: a ``GatedAccumulator`` or a ``ResetModel``.
        beliefs: probabilities of the states, (…, K).

    Returns:
        The probabilities, shape (…).

    Raises:
        ValueError: a model without memory, or beliefs of another size.

    >>> import torch
    >>> keep_probability(ResetModel(), torch.eye(12)[[0, 2]])  # states that drop and keep
    tensor([0., 1.])
    """
    return _expected(model, beliefs, "keep")


@boundary
def write_probability(model: HiddenMarkovModel, beliefs: Tensor) -> Tensor:
    """Return the probability that the value is written, P(v_t = 1), under beliefs over the states.

    Args:
        model: a ``GatedAccumulator`` or a ``ResetModel``.
        beliefs: probabilities of the states, (…, K).

    Returns:
        The probabilities, shape (…).

    Raises:
        ValueError: a model without memory, or beliefs of another size.

    >>> import torch
    >>> write_probability(ResetModel(), torch.eye(12)[[0, 2]])  # written where it is not kept
    tensor([1., 0.])
    """
    return _expected(model, beliefs, "write")


@boundary
def value_mean(model: HiddenMarkovModel, beliefs: Tensor) -> Tensor:
    """Return the mean of the value on offer, E[x_t], under beliefs over the states.

    Args:
        model: a ``GatedAccumulator`` or a ``ResetModel``.
        beliefs: probabilities of the states, (…, K).

    Returns:
        The means, shape (…).

    Raises:
        ValueError: a model without memory, or beliefs of another size.

    >>> import torch
    >>> value_mean(ResetModel(), torch.eye(12)[[0, 1]])
    tensor([-1.,  1.])
    """
    return _expected(model, beliefs, "value")


def _expected(model: HiddenMarkovModel, beliefs: Tensor, name: str) -> Tensor:
    table = getattr(memory_states(model), name)
    require_last(beliefs, len(table), "beliefs")
    expected: Tensor = beliefs @ table.to(beliefs)
    return expected
