"""Hidden Markov models with discrete states: three laws and one Pyro program."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from typing import Self

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..beliefs import DiscreteBelief
from ..boundary import boundary
from ..checks import brief, require, require_count, require_positive
from ..data.folders import Data, SequenceFolder
from ..data.sequences import Sequences
from ..emissions.counts import Bernoulli, Poisson
from ..emissions.distribution import FromDistribution
from ..emissions.emission import Emission, Parameters, Priors
from ..emissions.identified import redundant_directions
from ..emissions.observations import Observations
from ..emissions.reals import Gaussian, GaussianMixture, StudentT
from ..model import Coords, Model, MStep, Simulation
from ..priors import Ordered, elementary, within
from ..trajectories import Chain, Emitted, MarkovChain, Moves, sample_chain
from .actions import ActionTransition
from .generators import GeneratorTransition
from .laws import (
    CountedEmission,
    FreeInitial,
    InitialLaw,
    MatrixTransition,
    ModelCheck,
    NameCheck,
    NamedAxes,
    NaturalLaw,
    ScaledLaw,
    ShownLaw,
    StationaryInitial,
    StructuredLaw,
    TransitionLaw,
)
from .node_laws import HarmoniumTransition, SigmoidTransition
from .start import start_of_chain, starts_of_chain

Ordering = bool | str | tuple[str, int]
"""What states are sorted by: their location, a parameter of the emission, or a column of one."""

SHORTHAND: Mapping[str, type[Emission]] = {
    "poisson": Poisson,
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
    "student-t": StudentT,
    "gaussian-mixture": GaussianMixture,
}
"""Short names of the families of one feature: ``emission="poisson"`` is ``emission=Poisson()``."""

_SIZED = {
    "categorical": "Categorical(symbols=27)",
    "multinomial": "Multinomial(features=5)",
    "full-gaussian": "FullGaussian(features=3)",
    "low-rank-gaussian": "LowRankGaussian(features=20, rank=2)",
}


@dataclass(frozen=True)
class ChainLaws:
    """The laws of a chain of discrete states, at given parameter values and for given data.

    Exact inference works on these tensors. ``HiddenMarkovModel.laws`` returns the subclass
    ``Laws``.

    Args:
        log_initial: log p(z_1), (…draws, N|1, K).
        moves: log T, (…draws, N|1, T-1|1, K, K), or a function that returns it.
        data: the sequences.
        choice: (N, T-1), for steps that choose among A matrices, for instance by their action;
            ``moves`` is then (…draws, 1, A, K, K).
        structure: a function that returns the moves in a form without the K × K numbers, or None.

    >>> import torch
    >>> from beliefzoo.models import Sequences
    >>> table = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log().reshape(1, 1, 2, 2)
    >>> data = Sequences.from_arrays([[0.0, 0.0, 0.0]])
    >>> laws = ChainLaws(torch.tensor([[1.0, 0.0]]).log(), table, data)
    >>> laws.states().log_prob(torch.tensor([[[1.0, 0], [0, 1], [0, 1]]])).exp()  # path 0, 1, 1
    tensor([0.0800])
    """

    linear = None  # not linear-Gaussian

    log_initial: Tensor
    moves: Tensor | Callable[[], Tensor]
    data: Sequences
    choice: Tensor | None = field(default=None, kw_only=True)
    structure: Callable[[], Moves | None] = field(default=lambda: None, kw_only=True)

    @property
    def discrete(self) -> Self:
        """These laws, since the states are discrete."""
        return self

    @property
    def lengths(self) -> Tensor:
        """Length of every sequence, (N,)."""
        return self.data.lengths

    @cached_property
    def log_transition(self) -> Tensor:
        """log T, rows from and columns to, shape (…draws, N|1, T-1|1, K, K)."""
        if self.choice is None:
            return self.matrices
        chosen = self.matrices.squeeze(-4).index_select(-3, self.choice.flatten())
        steps: Tensor = chosen.unflatten(-3, self.choice.shape)
        return steps

    @property
    def matrices(self) -> Tensor:
        """log T of every step as ``log_transition``; with ``choice`` only the A matrices."""
        moves = self.moves if isinstance(self.moves, Tensor) else self.moves()
        return moves.to(self.log_initial.dtype)  # a user's law may work in that of the inputs

    @cached_property
    def log_likelihood(self) -> Tensor:
        """Log probability of the observation in every state, (…draws, N, T, K); here zeros."""
        shape = len(self.data), self.data.max_length, self.log_initial.shape[-1]
        return self.log_initial.new_zeros(shape)

    def step(self, t: int) -> Tensor:
        """Return log T of the step from t, (N|1, K, K)."""
        tables = self.matrices
        if self.choice is None:
            return tables[:, min(t, tables.shape[1] - 1)]
        chosen: Tensor = tables[0].index_select(0, self.choice[:, t])
        return chosen

    @property
    def chain(self) -> Chain:
        """The chain and its observations for exact inference, each of the A matrices once."""
        parts = self.log_initial, self.matrices, self.log_likelihood
        return Chain(*parts, self.lengths, self.choice)

    def sample_states(self) -> Tensor:
        """Draw the hidden paths once, (N, T)."""
        data = self.data
        chain = self.log_initial, self.matrices
        return sample_chain(*chain, len(data), data.max_length, choice=self.choice)

    def states(self) -> MarkovChain:
        """Return the distribution of the hidden trajectories."""
        return MarkovChain(
            self.log_initial, self.matrices, self.lengths, self.data.max_length, self.choice
        )


@dataclass(frozen=True)
class Laws(ChainLaws):
    """The three laws of a hidden Markov model, at given parameter values and for given data.

    ``HiddenMarkovModel.laws`` makes them. ``log_likelihood`` (…draws, N, T, K) is log O_k(y_t),
    zero where nothing was observed.

    Args:
        log_initial, moves, data, choice, structure: as for ``ChainLaws``.
        emission: the emission law.
        parameters: all parameter values, by name.

    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(2, "poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], rate=[1, 4]
    ... )
    >>> laws = model.laws({}, Sequences.from_arrays([[0, 3]]))
    >>> laws.log_likelihood.exp()[0]  # of 0 and 3 counts at rates 1 and 4
    tensor([[0.3679, 0.0183],
            [0.0613, 0.1954]], dtype=torch.float64)
    """

    emission: Emission
    parameters: Parameters

    @cached_property
    def log_likelihood(self) -> Tensor:
        """log O_k(y_t), shape (…draws, N, T, K)."""
        return self.score(self.emission.observed(self.data)[0])

    def score(self, y: Tensor) -> Tensor:
        """Return log O_k of observations y in the form that the family reads."""
        mask = self.emission.observed(self.data)[1]
        scores = self._emission.score(self.parameters, y, mask, self._shift)
        return scores.to(self.log_initial.dtype)  # a user's family may work in that of the data

    def draw(self, paths: Tensor, past: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Sample observations for hidden paths (N, T), once.

        With ``past``, observations and mask before the second step, the first step of the paths is
        the last that was observed, and observations are drawn from the second step on.
        """
        paths, shift = paths.clamp_min(0), self._shift
        if past is None:
            return self._emission.draw(self.parameters, paths, shift)
        shift = None if shift is None else shift[..., 1:, :, :]
        return self._emission.continued(self.parameters, paths[:, 1:], shift, past)

    def draw_on(self, paths: Tensor, before: Sequences) -> Tensor:
        """Draw observations after the first step of paths (N, T), which is the last step of
        ``before``.
        """
        y, mask = self.emission.observed(before)
        lags = self.emission.lags
        place = before.lengths.unsqueeze(-1) - lags + torch.arange(lags)
        rows = torch.arange(len(before)).unsqueeze(-1)
        past, seen = y[rows, place.clamp_min(0)], mask[rows, place.clamp_min(0)]
        missing = place < 0
        known = ~(missing.unsqueeze(-1) if seen.ndim == 3 else missing)
        return self.draw(paths, past=(past, seen & known))

    def draw_each(self, paths: Tensor) -> Tensor:
        """Draw the observation of every step of paths (N, T), each given the data before it."""
        lags = self.emission.lags
        if not lags:
            return self.draw(paths)
        paths, shift = paths.clamp_min(0), self._shift
        parts = [
            torch.cat([part.new_zeros(len(part), lags, *part.shape[2:]), part], 1)
            for part in self.emission.observed(self.data)
        ]  # nothing was observed before the first step
        drawn = []
        for t in range(paths.shape[1]):
            y, mask = (part[:, t : t + lags] for part in parts)
            here = None if shift is None else shift[..., t : t + 1, :, :]
            now = paths[:, t : t + 1]
            drawn.append(self._emission.continued(self.parameters, now, here, (y, mask)))
        return torch.cat(drawn, 1)

    def expected(self, chance: Tensor) -> Tensor | None:
        """Return E[y] after the first step, (N, T-1, F), given probabilities of the states (N, T-1,
        K).

        None if the states do not determine it alone: with inputs or lags.
        """
        return self.emission.expected(self.parameters, self.data, chance)

    @cached_property
    def _emission(self) -> Emission:
        return self.emission.given(self.data)

    @property
    def _shift(self) -> Tensor | None:
        return self.emission.from_inputs(self.parameters, self.data.inputs)

    def observations(self, states: Tensor) -> Emitted:
        """Return the distribution of the observations given one-hot (or mean) trajectories."""
        event = self.emission.observed(self.data)[0].shape[1:]
        return Emitted(states, self.score, self.draw, event)


@boundary
class HiddenMarkovModel(Model):
    r"""A hidden Markov model with K discrete states.

    .. math::
        p(\theta)\, \prod_n p(z_1|\theta)\, \prod_t T(z_{t+1} | z_t, \theta)
        \prod_t O(y_t | z_t, \theta)

    The first emission belongs to the first state. The Pyro program has one site per parameter and
    two sites per batch of sequences: ``states`` (one-hot trajectories, (time, state)) and ``obs``.

    Args:
        states: number of hidden states K >= 1.
        emission: the emission law, an ``Emission``, one of the names in ``SHORTHAND``, or a class
            of distributions of one number, see ``FromDistribution``.
        initial: ``"free"`` (a parameter), ``"stationary"`` (the distribution π with π P = π), or a
            law.
        transition: the transition law; by default a matrix with Dirichlet rows.
        sticky: additional prior pseudo-counts on staying, for the default transition.
        ordered: use a prior under which the states are sorted in increasing order: True by the
            family's location (rate, mean, probability) of one feature, a name by that parameter of
            the emission, (name, column) by one of its columns, such as a feature or a symbol.
        priors: replacements for single priors, by parameter name, with the same event shape.

    Raises:
        ValueError: an invalid argument; the message names it, what is required and what came.

    Source: Rabiner (1989), Proceedings of the IEEE 77.

    >>> from beliefzoo.models import Sequences
    >>> quakes = Sequences.from_arrays([[13, 14, 8, 10, 16, 26, 32, 27, 18, 32, 36, 24]])
    >>> model = HiddenMarkovModel(2, "poisson", ordered=True).scaled_to(quakes)
    >>> {name: tuple(prior.event_shape) for name, prior in model.priors.items()}
    {'initial': (2,), 'transition': (2, 2), 'rate': (2,)}
    >>> known = model.with_parameters(
    ...     initial=[1, 0], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[13, 28]
    ... )
    >>> known.sample(3, 100, seed=0).data
    Sequences(n_sequences=3, max_length=100, n_features=1, n_steps=300, n_observed=300, float64)
    """

    def __init__(
        self,
        states: int,
        emission: Emission | str | type[Distribution],
        *,
        initial: InitialLaw | str = "free",
        transition: TransitionLaw | None = None,
        sticky: float = 0.0,
        ordered: Ordering = False,
        priors: Mapping[str, dist.TorchDistribution] | None = None,
    ) -> None:
        require_count(states, "states")
        # A transition law has all methods of the Protocol of initial laws, so it is excluded.
        law = isinstance(initial, InitialLaw) and not isinstance(initial, TransitionLaw | type)
        if initial not in ("free", "stationary") and not law:
            raise ValueError(
                f"initial: must be 'free', 'stationary' or an initial law, got {initial!r}"
            )
        self.states = int(states)
        self.emission = named_emission(emission)
        self.initial = initial
        self.transition = _transition(transition, sticky)
        self.ordered = tuple(ordered) if isinstance(ordered, list) else ordered
        require_ordering(self.ordered)
        self._check_laws()
        self.set_priors(priors)

    def _check_laws(self) -> None:
        moving = self.transition.inputs
        require(
            self.initial != "stationary" or not moving,
            "initial",
            "'stationary' needs transitions that are the same at every step",
            repr(self.transition),
        )
        for law in (self.transition, self.emission, self.initial):
            if isinstance(law, ModelCheck):
                law.check_model(self)
        read = {moving, self.emission.inputs} - {0}
        require(
            len(read) < 2,
            "transition, emission",
            "read the same input columns and need the same number of them",
            f"{moving} and {self.emission.inputs}",
        )

    def own_priors(self) -> Priors:
        own = self.emission.priors(self.states)
        if self.states > 1:  # with a single state the chain has no parameters
            chain = self.initial_law.priors(self.states), self.transition.priors(self.states)
            taken = sorted({*chain[0], *chain[1]} & {*own})
            require(not taken, "emission", "needs parameters of other names than the chain", taken)
            own = {**chain[0], **chain[1], **own}
        if self.ordered and self.states > 1:
            name, column = self._checked_ordering(own)
            own[name] = Ordered(own[name], column)
        return own

    @property
    def ordering(self) -> tuple[str, int | None] | None:
        """The parameter, and the column of it, that the states are sorted by; None if by none."""
        if not self.ordered or self.states == 1:
            return None
        return self._checked_ordering(self.emission.priors(self.states))

    def _checked_ordering(self, priors: Priors) -> tuple[str, int | None]:
        """The parameter and the column that ``ordered`` names."""
        ordered, dims = self.ordered, self.emission.dims()
        if isinstance(ordered, bool):
            name = self.emission.ordering
            if name is None or priors[name].event_shape != (self.states,):
                raise ValueError(
                    "ordered: needs an emission with one feature and a location to order by, or "
                    f"the name and column of a parameter, got {self.emission}"
                )
            return name, None
        name, column = (ordered, None) if isinstance(ordered, str) else ordered
        places = {
            key: prior.event_shape[1:]
            for key, prior in priors.items()
            if dims.get(key, ("",))[0] == "state" and _sortable(prior)
        }
        whole = sorted(key for key, rest in places.items() if not rest)
        rows = {key: range(rest[0]) for key, rest in places.items() if len(rest) == 1}
        fits = name in whole if column is None else column in rows.get(name, ())
        columns = [f"({key!r}, 0 to {len(rows[key]) - 1})" for key in sorted(rows)]
        requirement = f"must be True, False or one of {', '.join([*map(repr, whole), *columns])}"
        require(fits, "ordered", requirement, repr(ordered))
        return name, column

    def redundant(self, priors: Priors) -> int:
        """Return the number of directions of parameters with these priors that change nothing."""
        chain = (self.initial_law, self.transition) if self.states > 1 else ()
        laws = (*chain, self.emission)
        return sum(redundant_directions(law, priors, self.states) for law in laws)

    @property
    def initial_law(self) -> InitialLaw:
        """The initial law of the chain."""
        if isinstance(self.initial, str):
            return FreeInitial() if self.initial == "free" else StationaryInitial()
        return self.initial

    @property
    def nodes(self) -> int | None:
        """Number of binary nodes that make up the states (see ``node_states``); None if there are
        none.
        """
        law = self.transition
        return law.nodes if isinstance(law, SigmoidTransition | HarmoniumTransition) else None

    @property
    def observations(self) -> Observations:
        """The kind of data that the emission describes."""
        return self.emission.observations

    @property
    def configuration(self) -> dict[str, object]:
        """The arguments of the model except ``priors``."""
        return {
            "states": self.states,
            "emission": self.emission,
            "transition": self.transition,
            "initial": self.initial,
            "ordered": self.ordered,
        }

    @property
    def belief(self) -> DiscreteBelief:
        """Probabilities of the states; for binary nodes a product of the nodes' probabilities."""
        return DiscreteBelief(self.states, self.nodes)

    draws_together = True

    @property
    def scored_at_once(self) -> int:
        """Numbers per step that the laws hold at once for one draw of the parameters."""
        moving = bool(self.transition.inputs) or self.timed  # a matrix for every step
        return self.states * max(self.emission.scored_at_once, self.states if moving else 1)

    def emitting(self, data: Sequences) -> Tensor:
        """Return where there is a law of the observation, (N, T) bool."""
        return self.emission.emitting(data)

    @property
    def reorderable(self) -> bool:
        """True if the numbers of the states have no meaning, so that states can be exchanged.

        They have a meaning if parameters of states are known, if the states are those of nodes or
        share all parameters, and if a law says so (``reorderable = False``).
        """
        dims = self.parameter_dims()
        known = any({"state", "state_to"} & set(dims[name]) for name in self._known)
        return not known and self.alike_by_law

    @property
    def alike_by_law(self) -> bool:
        """True if the laws treat all states alike, so that only parameters tell them apart."""
        laws = self.transition, self.emission
        fixed = any(not getattr(law, "reorderable", True) for law in laws)
        return not (fixed or self.nodes is not None or self.tied)

    def undecided(self, given: Parameters) -> str:
        laws = self.transition, self.emission
        told = (law.undecided(self, given) for law in laws if isinstance(law, NameCheck))
        return "; ".join(filter(None, told))

    def coords(self) -> Coords:
        """Return labels along the axes of states and parameters."""
        out = dict(super().coords())
        laws = (self.initial, self.transition) if self.states > 1 else ()
        for law in (*laws, self.emission):
            if isinstance(law, NamedAxes):
                out |= {name: labels for name, labels in law.coords(self.states).items() if labels}
        return out

    @property
    def _least_observed(self) -> int:
        # With shared parameters, not every state needs an observation of its own.
        least = 1 if self.tied else self.states
        return int(getattr(self.transition, "least_observed", least))

    @property
    def inputs(self) -> int:
        """Number of input columns that the transition or the emission reads; 0 for none."""
        return max(self.transition.inputs, self.emission.inputs)

    @property
    def timed(self) -> bool:
        """True if the transition reads ``data.times``: a chain in continuous time."""
        return isinstance(self.transition, GeneratorTransition)

    def parameter_dims(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of every parameter."""
        chain = {**self.initial_law.dims(), **self.transition.dims()}
        dims = {**chain, **self.emission.dims()}
        return {name: dims[name] for name in self._all}

    def __repr__(self) -> str:
        known = f", known={sorted(self.known)}" if self._known else ""
        return f"HiddenMarkovModel(states={self.states}, {brief(self.emission)}{known})"

    def _natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if isinstance(self.transition, NaturalLaw) and self.states > 1:
            values = self.transition.natural(values, self.states)
        return self.emission.natural(values)

    def shown(self, values: Parameters) -> dict[str, Tensor]:
        """Return parameter values in the form in which they are exported: moves as a matrix."""
        law = self.transition
        return law.shown(values) if isinstance(law, ShownLaw) else dict(values)

    def shown_dims(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of every parameter in the form of ``shown``."""
        law, dims = self.transition, self.parameter_dims()
        return law.shown_dims(dims) if isinstance(law, ShownLaw) else dims

    def _why_absent(self, name: str) -> str:
        if self.states == 1 and name in (*self.initial_law.dims(), *self.transition.dims()):
            return " (a single state has no chain)"
        if name == "initial" and self.initial == "stationary":
            return " (the stationary law follows from the transition)"
        return ""

    def scaled_to(self, data: Data) -> HiddenMarkovModel:
        """Return the same model with the priors of emission and rates on the scale of the data.

        From a folder, only a sample is read; see ``SequenceFolder.sample``.
        """
        data = data.sample() if isinstance(data, SequenceFolder) else data
        self.emission.check(data)
        out = copy.copy(self)
        out.emission = self.emission.scaled_to(data)
        if isinstance(self.transition, ScaledLaw):
            out.transition = self.transition.scaled_to(data)
        out._all = out._assemble()
        return out

    def start(self, data: Sequences) -> dict[str, Tensor]:
        """Return values of parameters, estimated from clusters of the data, to start a fit from."""
        return start_of_chain(self, data)

    def start_from_frames(self, data: Sequences) -> dict[str, Tensor]:
        """Return values as ``start`` does, with random frames as centres of the clusters."""
        return start_of_chain(self, data, lloyd=False)

    def starts_from_frames(self, data: Sequences, count: int) -> list[dict[str, Tensor]]:
        """Return what ``start_from_frames`` does, several times with other frames."""
        if type(self).start_from_frames is not HiddenMarkovModel.start_from_frames:
            return super().starts_from_frames(data, count)
        return starts_of_chain(self, self.names.read(data), count)

    @property
    def m_step(self) -> MStep | None:
        """The M-step of EM, if the emission law has one; otherwise None."""
        law = self.emission
        if not isinstance(law, CountedEmission) or self.states == 1:
            return None
        return partial(law.start_from_counts, self)

    def check_values(self, data: Sequences) -> None:
        """Raise ``ValueError`` unless the sequences, of any number, can come from the model."""
        self._check_kind(data)
        if isinstance(self.transition, GeneratorTransition) and self.states > 1:
            known = self._known.get("initial")
            first = None if known is None else known > 0
            self.transition.check_moves(data, self.emission, first)

    def _check_kind(self, data: Sequences) -> None:
        self.emission.check(data)
        self.transition.check(data)

    def scheduled(self, data: Sequences) -> Sequences:
        """Return the data at times that were planned in advance, not at the times of events."""
        law = self.transition
        return law.scheduled(data) if isinstance(law, GeneratorTransition) else data

    def simulate(self, parameters: Parameters, like: Sequences) -> Simulation:
        """Draw paths and observations at given values, with lengths, inputs and gaps of ``like``.

        Where the time of entering an absorbing state is observed, the first visit that finds the
        chain in it moves back to that time, and all later visits are missing. Uses torch's global
        generator.
        """
        law = self.transition
        if not isinstance(law, GeneratorTransition) or not law.exact or self.states == 1:
            return super().simulate(parameters, like)
        with torch.no_grad():
            return law.entered(super().simulate(parameters, law.scheduled(like)))

    def laws(self, parameters: Parameters, data: Sequences) -> Laws:
        """Return the three laws at given values of the unknown parameters.

        This is a pure function. Values may have leading axes of draws, the same for all that are
        given.
        """
        values = self.complete(parameters)
        if self.states == 1:
            return Laws(*self._still(values), data, self.emission, values)
        table = later(partial(self.transition, values, data))
        choice = None
        if isinstance(self.transition, ActionTransition):
            choice = self.transition.choice(data)
            table = later(partial(self.transition.tables, values))
        first = self.initial_law(values, table)
        structure = partial(self._structure, values)
        return Laws(first, table, data, self.emission, values, choice=choice, structure=structure)

    def _structure(self, values: Parameters) -> Moves | None:
        law = self.transition
        if not isinstance(law, StructuredLaw):
            return None
        drawn = any(x.ndim > len(self._all[name].event_shape) for name, x in values.items())
        return None if drawn else law.structure(values)

    def _still(self, values: Parameters) -> tuple[Tensor, Tensor]:
        """log p(z_1) and log T of a single state: zeros, with the axes of draws of the values."""
        leading = (
            value.shape[: value.ndim - len(self._all[name].event_shape)]
            for name, value in values.items()
        )
        draws = torch.broadcast_shapes(*leading)
        some = next(iter(values.values()))
        return some.new_zeros(*draws, 1, 1), some.new_zeros(*draws, 1, 1, 1, 1)


def require_ordering(ordered: object) -> None:
    """Raise ``ValueError`` unless it is a truth value, a name, or a name and a column."""
    pair = isinstance(ordered, tuple) and list(map(type, ordered)) == [str, int]
    fits = (isinstance(ordered, bool | str) and ordered != "") or pair
    requirement = "must be True, False, a parameter's name, or a name and a column"
    require(fits, "ordered", requirement, repr(ordered))


def _sortable(prior: dist.TorchDistribution) -> bool:
    """Whether states can be sorted by the numbers, or by a column of the rows of probabilities."""
    kind = elementary(prior.support)
    rows = isinstance(kind, type(dist.constraints.simplex)) and len(prior.event_shape) == 2
    return rows or within(kind, dist.constraints.real)


def later(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Call ``compute`` at most once, with or without gradients as they are enabled now.

    The result may first be needed where gradients are disabled, and later where they are enabled.
    """
    learning = torch.is_grad_enabled()

    @cache
    def computed() -> Tensor:
        with torch.set_grad_enabled(learning):
            return compute()

    return computed


def named_emission(emission: Emission | str | type[Distribution]) -> Emission:
    """The emission itself, or the family with that short name; ``ValueError`` if there is none."""
    if isinstance(emission, Emission):
        return emission
    if isinstance(emission, type) and issubclass(emission, Distribution):
        return FromDistribution(emission)
    if isinstance(emission, str) and emission in _SIZED:
        raise ValueError(
            f"emission: {emission!r} needs a size; for instance emission={_SIZED[emission]}"
        )
    if not isinstance(emission, str) or emission not in SHORTHAND:
        raise ValueError(
            f"emission: must be an Emission or one of {sorted(SHORTHAND)} or a class of "
            f"distributions, got {emission!r}"
        )
    return SHORTHAND[emission]()


def _transition(transition: TransitionLaw | None, sticky: float) -> TransitionLaw:
    require_positive(sticky, "sticky", zero=True)
    if transition is None:
        return MatrixTransition(sticky=sticky)
    require(
        isinstance(transition, TransitionLaw) and not isinstance(transition, type),
        "transition",
        "must be a transition law, for instance MatrixTransition() (known values are set with "
        "with_parameters)",
        repr(transition),
    )
    if sticky:
        raise ValueError(
            "sticky: belongs to the default transition; give it to the law passed as "
            f"transition instead, got sticky={sticky} beside {transition}"
        )
    return transition
