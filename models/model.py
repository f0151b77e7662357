"""What all models share: parameters with priors, known or not, and one Pyro program."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from .beliefs import Belief, DiscreteBelief
from .checks import require, require_count, warn
from .data import padding
from .data.folders import Data, SequenceFolder
from .data.names import Names
from .data.requirements import UnreadWarning, unread
from .data.sequences import Sequences
from .emissions.emission import Parameters, Priors
from .emissions.observations import Observations
from .priors import defaults_of, elementary, in_double, possible_values, settled, unit_of, within
from .randomness import seeded
from .trajectories import Chain, MarkovChain, Moves

_ROUNDING = 1e-12
"""Rows of probabilities whose sum is this close to 1 are left unchanged."""

_PRINTED = 1e-5
"""Rows whose sum is this close to 1 are taken for printed and rounded ones, and normalised."""

Number = Tensor | npt.ArrayLike

Coords = Mapping[str, Sequence[str] | Sequence[int]]
"""Labels along named axes."""


class Simulation(NamedTuple):
    """Draws of a model: hidden trajectories, data and parameter values.

    Attributes:
        states: paths (N, T), −1 beyond the length; or continuous trajectories (N, T, D), zero
            there.
        data: the observations, with times, actions and inputs.
        parameters: all parameter values, known or drawn.

    >>> from beliefzoo.models import HiddenMarkovModel
    >>> states, data, parameters = HiddenMarkovModel(2, "gaussian").sample(3, [4, 2, 3], seed=0)
    >>> states[1].tolist()[2:], data.n_steps, sorted(parameters)
    ([-1, -1], 9, ['initial', 'mean', 'scale', 'transition'])
    """

    states: Tensor
    data: Sequences
    parameters: dict[str, Tensor]


class MStep(Protocol):
    """The M-step of EM for a chain of discrete states."""

    def __call__(
        self, data: Sequences, weight: Tensor, counts: Tensor, warmth: float = 0.0
    ) -> dict[str, Tensor]:
        """Return all parameters.

        Args:
            data: N sequences of T steps.
            weight: p(z_t | y), (N, T, K), zero beyond the length.
            counts: expected numbers of moves, in the shape of ``Chain.log_transition`` of one
                sequence.
            warmth: least value of scales that may fall to zero, as a share of the data's spread.
        """


class TrajectoryLaws(Protocol):
    """The laws of a model at given parameter values, for given data.

    Inference asks these laws for what they can do, and never for their class: ``discrete`` is None
    unless the states are discrete, ``linear`` is None unless the laws are linear and Gaussian.

    >>> from beliefzoo.models import LinearGaussianSSM, LocalLevel, Sequences
    >>> model = LinearGaussianSSM(LocalLevel()).with_parameters(
    ...     level_variance=1, observation_variance=1
    ... )
    >>> laws: TrajectoryLaws = model.laws({}, Sequences.from_arrays([[0.3, 0.1]]))
    >>> laws.linear is laws, laws.discrete
    (True, None)
    """

    @property
    def discrete(self) -> DiscreteLaws | None:
        """These laws as the laws of a chain of discrete states; None if they are not."""

    @property
    def linear(self) -> LinearGaussianLaws | None:
        """These laws as linear-Gaussian laws; None if they are not."""

    @property
    def data(self) -> Sequences:
        """The sequences; only values that the laws read are needed."""

    @property
    def parameters(self) -> Parameters:
        """All parameters, known or not."""

    @property
    def lengths(self) -> Tensor:
        """Length of every sequence, (N,)."""

    def states(self) -> dist.TorchDistribution:
        """Return the distribution of the hidden trajectories, with batch shape (N,)."""

    def observations(self, states: Tensor, /) -> dist.TorchDistribution:
        """Return the distribution of the observations given trajectories, with batch shape (N,)."""

    def sample_states(self) -> Tensor:
        """Draw the hidden trajectories once, paths (N, T) or (N, T, D)."""

    def draw(self, states: Tensor, /) -> Tensor:
        """Draw the observations of hidden trajectories."""


class DiscreteLaws(Protocol):
    """The laws of a chain of K discrete states at given parameter values, see ``ChainLaws``.

    Exact filters and smoothers need no more than this of a model.

    >>> from beliefzoo.models import HiddenMarkovModel, Sequences
    >>> model = HiddenMarkovModel(2, "poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], rate=[1, 4]
    ... )
    >>> laws: DiscreteLaws = model.laws({}, Sequences.from_arrays([[0, 3]])).discrete
    >>> laws.log_transition.exp().squeeze()
    tensor([[0.9000, 0.1000],
            [0.2000, 0.8000]], dtype=torch.float64)
    """

    @property
    def data(self) -> Sequences:
        """The sequences."""

    @property
    def lengths(self) -> Tensor:
        """Length of every sequence, (N,)."""

    @property
    def chain(self) -> Chain:
        """The chain and its observations."""

    @property
    def log_initial(self) -> Tensor:
        """log p(z_1), (…, N|1, K)."""

    @property
    def matrices(self) -> Tensor:
        """log T in the form of ``chain``, (…, N|1, T-1|1, K, K) or (…, 1, A, K, K)."""

    @property
    def log_transition(self) -> Tensor:
        """log T of every step, (…, N|1, T-1|1, K, K)."""

    @property
    def log_likelihood(self) -> Tensor:
        """log O_k(y_t), (…, N, T, K); zero where nothing was observed."""

    @property
    def choice(self) -> Tensor | None:
        """Number of the matrix that drives each step, (N, T-1); None if there is no choice."""

    def step(self, t: int) -> Tensor:
        """Return log T of the step from t, (N|1, K, K)."""

    def structure(self) -> Moves | None:
        """Return the moves in a form without the K × K numbers, if they have one."""

    def states(self) -> MarkovChain:
        """Return the distribution of the hidden paths, one-hot."""


class LinearGaussianLaws(Protocol):
    """Linear-Gaussian laws at given parameter values, see ``LinearLaws``.

        z_1 ~ N(m, P),  z_{t+1} = A_t z_t + b_t + N(0, Q_t),  y_t = C_t z_t + d_t + N(0, R_t)

    Kalman filters and smoothers need no more than this of a model.

    >>> from beliefzoo.models import LinearGaussianSSM, LocalLevel, Sequences
    >>> model = LinearGaussianSSM(LocalLevel(initial_variance=9)).with_parameters(
    ...     level_variance=2, observation_variance=1
    ... )
    >>> laws: LinearGaussianLaws = model.laws({}, Sequences.from_arrays([[0.3, 0.1]])).linear
    >>> laws.initial_covariance.item(), laws.noise.item(), laws.observation_noise.item()
    (9.0, 2.0, 1.0)
    """

    @property
    def data(self) -> Sequences:
        """The sequences."""

    @property
    def lengths(self) -> Tensor:
        """Length of every sequence, (N,)."""

    @property
    def initial_mean(self) -> Tensor:
        """m, the mean of z_1, (N|1, D)."""

    @property
    def initial_covariance(self) -> Tensor:
        """P, the covariance of z_1, (N|1, D, D)."""

    @property
    def diffuse(self) -> Tensor:
        """Directions of z_1 with a flat prior, (D, q)."""

    @property
    def transition(self) -> Tensor:
        """A, (N|1, T-1|1, D, D)."""

    @property
    def offset(self) -> Tensor:
        """b, (N|1, T-1|1, D)."""

    @property
    def noise(self) -> Tensor:
        """Q, (N|1, T-1|1, D, D)."""

    @property
    def loading(self) -> Tensor:
        """C, (N|1, T|1, F, D)."""

    @property
    def intercept(self) -> Tensor:
        """d, (N|1, T|1, F)."""

    @property
    def observation_noise(self) -> Tensor:
        """R, (N|1, T|1, F, F)."""

    @property
    def values(self) -> Tensor:
        """Observations, (N, T, F); zero where ``mask`` is False."""

    @property
    def mask(self) -> Tensor:
        """Which values were observed, (N, T, F)."""

    @property
    def size(self) -> int:
        """Number of state components D."""

    def in_double(self) -> LinearGaussianLaws:
        """Return the same laws with their matrices in float64."""

    def starting_at(self, first: Tensor) -> TrajectoryLaws:
        """Return the same laws given the first states, (N, D)."""

    def chain_log_prob(self, paths: Tensor) -> Tensor:
        """Return log p(z) of trajectories (…, N, T, D), shape (…, N)."""

    def emission_log_prob(self, paths: Tensor) -> Tensor:
        """Return Σ_t log O(y_t | z_t) of trajectories (…, N, T, D), shape (…, N)."""


class Model(ABC):
    """Base of the models: three laws (initial, transition, emission) and the Pyro program of them.

        p(θ) ∏_n p(z_1 | θ) ∏_t p(z_{t+1} | z_t, θ) ∏_t p(y_t | z_t, θ)

    The program has one site per parameter and two sites per batch of sequences: ``states`` (whole
    trajectories) and ``obs``. The first emission belongs to the first state. A model is immutable:
    its methods return changed copies. Parameters are known (``with_parameters``) or have a prior.

    A family of your own defines what is abstract here, returns ``Laws`` or ``LinearLaws`` from
    ``laws``, and calls ``set_priors`` at the end of its ``__init__``. Fits, queries, exports and
    files then treat it like the others.

    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model: Model = HiddenMarkovModel(2, "poisson")
    >>> known = model.with_parameters(rate=[1, 9])
    >>> sorted(model.priors), sorted(known.priors)
    (['initial', 'rate', 'transition'], ['initial', 'transition'])
    """

    states: int
    """Number of hidden states K, or dimensions D of the hidden state."""

    actions: int = 0
    """Number of actions that the laws read; 0 for none."""

    moved_by_observations: bool = False
    """True if observations choose the moves of the state: to draw them, laws must not see any."""

    names = Names()
    """Names of symbols and columns of the data that the model was fitted to."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        # Whatever is asked of a model, also by a family of somebody else's, reads data by name.
        super().__init_subclass__(**arguments)
        for name in {"laws", "check_values", "start", "start_from_frames"} & set(vars(cls)):
            setattr(cls, name, _by_name(vars(cls)[name]))
        if "check_values" in vars(cls):
            setattr(cls, "check_values", _telling(cls.check_values))  # noqa: B010

    def named_after(self, data: Data) -> Self:
        """Return the same model with the names of symbols and columns of these data.

        Other data are then read by name: a symbol has the code that it has in these data, whatever
        its code there, and columns must have the same names in the same order. Data without names
        are read by their places. Fits and samplers give a model the names of their data, which
        parameters set with ``with_parameters`` and files keep.

        >>> from beliefzoo.models import Categorical, HiddenMarkovModel, Sequences
        >>> model = HiddenMarkovModel(1, Categorical(3)).with_parameters(probs=[[0.1, 0.2, 0.7]])
        >>> model = model.named_after(Sequences.from_text("cab", alphabet="abc"))
        >>> model.laws({}, Sequences.from_text("c", alphabet="bc")).log_likelihood.exp().item()
        0.7
        """
        names = Names.of(data)
        if names.units is None:
            names = replace(names, units=self.names.units)
        if getattr(self.observations, "columns", None) is not None:
            names = replace(names, features=self.names.features)
        if names == self.names or not names.any:
            return self
        out = copy.copy(self)
        out.names = names
        return out

    def set_priors(self, replaced: Mapping[str, dist.TorchDistribution] | None) -> None:
        """Set the priors, once all laws are there; no parameter is known at first."""
        fits = replaced is None or isinstance(replaced, Mapping)
        require(fits, "priors", "must be a mapping from names to distributions", repr(replaced))
        self._known: dict[str, Tensor] = {}
        self._told: set[str] = set()  # shared by the copies, which need not say it again
        self._replaced = dict(replaced or {})
        self._all = self._assemble()
        columns = getattr(self.observations, "columns", None)
        if columns is not None:  # laws that describe columns by name have names before any data
            self.names = Names(features=columns)

    def _assemble(self) -> Priors:
        own = self.own_priors()
        for name, prior in self._replaced.items():
            if name not in own:
                raise ValueError(f"priors: unknown parameter {name!r}; there are {sorted(own)}")
            _check_prior(name, prior, own[name])
            own[name] = prior
        return {name: in_double(prior) for name, prior in own.items()}

    @abstractmethod
    def own_priors(self) -> Priors:
        """Return the laws' own priors of all parameters."""

    @property
    @abstractmethod
    def observations(self) -> Observations:
        """The kind of data that the model describes."""

    @property
    @abstractmethod
    def belief(self) -> Belief:
        """The kind of belief that a filter keeps of the hidden state."""

    @property
    @abstractmethod
    def inputs(self) -> int:
        """Number of input columns that the laws read; 0 for none."""

    @property
    def has_paths(self) -> bool:
        """True if states are numbers: trajectories are paths (N, T), otherwise (N, T, D)."""
        return isinstance(self.belief, DiscreteBelief)

    @property
    def tied(self) -> bool:
        """True if the states share all parameters: no parameter has one row per state.

        The numbers of such states have a meaning, and a state that is never visited is not one that
        a fit has lost.
        """
        return not any({"state", "state_to"} & set(axes) for axes in self.parameter_dims().values())

    @property
    def reorderable(self) -> bool:
        """True if the numbers of the states have no meaning, so that states can be exchanged."""
        return False

    def undecided(self, given: Parameters) -> str:
        """Say which names no data can settle, as those of states that can be exchanged; or "".

        Args:
            given: starting values of a fit, which settle names as known parameters do.
        """
        del given
        return ""

    def unnamed(self) -> Self:
        """Return the same model with numbers for the names of its states."""
        return self

    @property
    def draws_together(self) -> bool:
        """True if ``laws`` takes values with leading axes of draws."""
        return False

    @property
    def scored_at_once(self) -> int:
        """Numbers per step that the laws hold at once for one draw of the parameters."""
        return self.states

    def emitting(self, data: Sequences) -> Tensor:
        """Return where there is a law of the observation, (N, T) bool."""
        return data.step_mask

    def coords(self) -> Coords:
        """Return labels along the axes of states and parameters."""
        if not self.has_paths:
            return {"component": self.components}
        return dict.fromkeys(("state", "state_to"), range(self.states))

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components of a continuous state."""
        return tuple(str(place) for place in range(self.states))

    @property
    def exact(self) -> bool:
        """True if the hidden states can be summed out exactly: there is an exact filter."""
        return True

    own_guide: str = ""
    """Name of the guide made for these states, where the general ones have no posterior of them.

    States that are neither discrete nor linear-Gaussian need one. If their belief is discrete, it
    is about a part of them.
    """

    @property
    def timed(self) -> bool:
        """True if the laws read ``data.times``: a model in continuous time."""
        return False

    @property
    @abstractmethod
    def configuration(self) -> dict[str, Any]:
        """The arguments of the model except ``priors``; loading makes the model from them.

        They are plain values, tensors, distributions or classes of them, tuples and mappings of
        such, or laws that are frozen dataclasses of such.
        """

    @abstractmethod
    def parameter_dims(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of every parameter."""

    @abstractmethod
    def scaled_to(self, data: Data) -> Self:
        """Return the same model with its priors on the scale of the data.

        From a folder, only a sample is read; see ``SequenceFolder.sample``.
        """

    def adapted_to(self, data: Data) -> Self:
        """Return the same model with priors on the scale of the data, except those that you set.

        Like ``scaled_to``, but settings of laws that differ from their defaults, and replaced
        priors, stay as they are. Fits and samplers begin with it, so that their results do not
        depend on the unit of the data.

        >>> from beliefzoo.models import Gaussian, HiddenMarkovModel, Sequences
        >>> data = Sequences.from_arrays([[8.1, 7.9, 12.2, 11.8, 8.0]])
        >>> own = HiddenMarkovModel(2, Gaussian(location=10.0)).adapted_to(data).emission
        >>> own.location, round(own.spread[0], 2)
        (10.0, 1.96)
        """
        scaled = self.scaled_to(data)
        out = copy.copy(scaled)
        for name, new in vars(scaled).items():
            own = vars(self).get(name)
            if not name.startswith("_") and own is not new:
                setattr(out, name, settled(own, new, defaults_of(type(self)).get(name)))
        out._all = out._assemble()
        return out.named_after(data)

    @abstractmethod
    def check_values(self, data: Sequences) -> None:
        """Raise ``ValueError`` unless the sequences, of any number, can come from the model."""

    def _check_kind(self, data: Sequences) -> None:
        """Check the data as ``check_values`` does, except for the values themselves."""
        self.check_values(data)

    @abstractmethod
    def laws(self, parameters: Parameters, data: Sequences) -> TrajectoryLaws:
        """Return the laws at given values of the unknown parameters; a pure function."""

    def scheduled(self, data: Sequences) -> Sequences:
        """Return the data at times that were planned in advance, not at the times of events."""
        return data

    def start(self, data: Sequences) -> dict[str, Tensor]:
        """Return values of parameters, computed from the data, to start a fit from.

        Parameters that are left out start at a draw from their prior.
        """
        del data
        return {}

    def start_from_frames(self, data: Sequences) -> dict[str, Tensor]:
        """Return values as ``start`` does, with random frames in place of clusters.

        Raises:
            ValueError: the model has no clusters.
        """
        del data
        raise ValueError(f"start: 'frames' is for models of discrete states, got {self}")

    def starts_from_frames(self, data: Sequences, count: int) -> list[dict[str, Tensor]]:
        """Return what ``start_from_frames`` does, several times with other frames."""
        return [self.start_from_frames(data) for _ in range(count)]

    @property
    def m_step(self) -> MStep | None:
        """The M-step of EM, if ``start`` is improved by EM; otherwise None."""
        return None

    @property
    def _least_observed(self) -> int:
        """Observed steps that a fit needs at least."""
        return 1

    def _why_absent(self, name: str) -> str:
        """The reason, in brackets, why there is no parameter of that name, if it is known."""
        del name
        return ""

    @property
    def priors(self) -> Priors:
        """Priors of the unknown parameters, by name."""
        return {name: prior for name, prior in self._all.items() if name not in self._known}

    def redundant(self, priors: Priors) -> int:
        """Return the number of directions of parameters with these priors that change nothing.

        They are directions of the unconstrained parameters along which the laws stay the same.
        """
        del priors
        return 0

    @property
    def all_priors(self) -> Priors:
        """Priors of all parameters, known or not, by name."""
        return dict(self._all)

    @property
    def units(self) -> dict[str, Tensor]:
        """Units of the unknown parameters on the unconstrained scale, float64; fits take steps in
        these.

        They come from the laws' own priors, which ``scaled_to`` puts on the scale of the data: the
        standard deviation of a real parameter, 1 for a logarithm or a logit.
        """
        own = self.own_priors()
        return {name: unit_of(own[name]) for name in self.priors}

    @property
    def known(self) -> Mapping[str, Tensor]:
        """Values of the known parameters, float64, in the form of ``shown``."""
        return self.shown(self._known)

    @property
    def own_known(self) -> Mapping[str, Tensor]:
        """Values of the known parameters by the names of ``priors``, float64."""
        return dict(self._known)

    def shown(self, values: Parameters) -> dict[str, Tensor]:
        """Return parameter values in the form in which they are exported.

        A law may keep another form, such as lists of moves in place of a matrix with zeros.
        ``with_parameters`` takes both. Leading axes of draws stay.
        """
        return dict(values)

    def shown_dims(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of every parameter in the form of ``shown``."""
        return self.parameter_dims()

    @property
    def replaced_priors(self) -> Mapping[str, dist.TorchDistribution]:
        """The priors that were given in place of the laws' own priors."""
        return dict(self._replaced)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of all parameters, known or not."""
        return tuple(self._all)

    def with_parameters(self, **values: Number) -> Self:
        """Return the same model with some or all parameters at known values.

        Values are kept in float64. Rows of probabilities may miss a sum of 1 by 1e-5, as printed
        figures do, and are then normalised.

        Args:
            values: numbers by parameter name, in the shapes of ``priors``.

        Returns:
            The model.

        Raises:
            ValueError: an unknown name, a wrong shape, or a value outside the parameter's support.

        >>> from beliefzoo.models import HiddenMarkovModel
        >>> model = HiddenMarkovModel(2, "gaussian").with_parameters(mean=[0, 5])
        >>> model.known["mean"], len(model.priors)
        (tensor([0., 5.], dtype=torch.float64), 3)
        """
        out = copy.copy(self)
        out._known = self._known | self.accepted(values)
        return out

    def accepted(self, values: Mapping[str, Number]) -> dict[str, Tensor]:
        """Return values for ``with_parameters``, checked, by the names of ``priors``.

        Raises:
            ValueError: an unknown name, a wrong shape, or a value outside the parameter's support.
        """
        given = {name: as_tensor(name, value) for name, value in values.items()}
        return {name: self._accept(name, value) for name, value in self._natural(given).items()}

    def _natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate convenient parameters (``covariance``) to the laws' own."""
        return dict(values)

    def _accept(self, name: str, value: Tensor) -> Tensor:
        if name not in self._all:
            raise ValueError(
                f"{name}: needs the name of a parameter, one of {sorted(self._all)}, got {name!r}"
                f"{self._why_absent(name)}"
            )
        prior = self._all[name]
        shape = tuple(prior.event_shape)
        require(value.shape == shape, name, f"needs shape {shape}", tuple(value.shape))
        require(bool(value.isfinite().all()), name, "needs finite numbers", value.tolist())
        check: Any = possible_values(prior)
        value = _on_support(name, check, value)
        if not bool(check.check(value).all()):
            raise ValueError(f"{name}: needs values in {check}, got {value.tolist()}")
        return value

    def check(self, data: Data) -> None:
        """Raise ``ValueError`` unless the data can come from this model.

        A folder is read once from beginning to end, a few sequences at a time; the message names
        the file.
        """
        if isinstance(data, SequenceFolder):
            parts = data.checked_by(self.check_values).pieces()
            observed = sum(int(part.observed_steps.sum()) for part in parts)
        else:
            if not isinstance(data, Sequences):
                raise ValueError(f"data: must be Sequences, got {type(data).__name__}")
            self.check_values(data)
            observed = int(data.observed_steps.sum())
        if self.priors and observed < self._least_observed:
            raise ValueError(
                f"data: {self._least_observed} states need at least as many observed steps, "
                f"got {observed}"
            )

    def complete(self, parameters: Parameters) -> dict[str, Tensor]:
        """Return all parameters, the given ones and the known ones, in one dtype.

        Raises:
            ValueError: a parameter is neither given nor known.
        """
        missing = [n for n in self._all if n not in parameters and n not in self._known]
        if missing:
            raise ValueError(
                f"parameters: needs values for {missing}; set them with with_parameters(…) or use "
                "a fitted model"
            )
        dtype = next((value.dtype for value in parameters.values()), torch.float64)
        values = {name: value.to(dtype) for name, value in self._known.items()} | {**parameters}
        return {name: values[name] for name in self._all}

    def sample_parameters(self) -> dict[str, Tensor]:
        """Run the first part of the Pyro program: one site per parameter, from its prior."""
        return {
            name: _single(name, pyro.sample(name, prior), prior)
            for name, prior in self.priors.items()
        }

    def __call__(self, data: Sequences, *, scale: float = 1.0, observe: bool = True) -> Tensor:
        """Run the Pyro program: parameters, then ``states`` and ``obs`` of every sequence.

        Args:
            data: a batch; with ``observe=False`` only its shape, inputs and lengths are used.
            scale: weight of a sequence, (all sequences) / (sequences in the batch).
            observe: whether the site ``obs`` is observed.

        Returns:
            The observations.
        """
        laws = self.laws(self.sample_parameters(), data)
        y = self.observations.read(data)[0]
        with pyro.plate("sequence", len(data)), poutine.scale(scale=scale):
            states = pyro.sample("states", laws.states())
            drawn: Tensor = pyro.sample(
                "obs", laws.observations(states), obs=y if observe else None
            )
        return drawn

    def sample(
        self,
        n: int,
        length: int | Sequence[int] | Tensor,
        *,
        seed: int | None = None,
        inputs: Number | None = None,
        times: Number | None = None,
    ) -> Simulation:
        """Draw n sequences; unknown parameters are drawn from their priors, once.

        Args:
            n: number of sequences.
            length: one length for all, or one each (a list, an array or a tensor).
            seed: makes the draw reproducible and leaves torch's global generator untouched.
            inputs: covariates (n, length, columns), where the model takes them.
            times: of the observations, (n, length) or (length,), where the model reads them.

        Returns:
            Hidden states, data and parameters.

        Raises:
            ValueError: an argument out of range, or inputs or times of a model that reads none.
        """
        blank = self._blank(n, length, inputs, times)
        with seeded(seed), torch.no_grad():
            drawn = {name: prior.sample() for name, prior in self.priors.items()}
            return self.simulate(drawn, blank)

    def simulate(self, parameters: Parameters, like: Sequences) -> Simulation:
        """Draw paths and observations at given values, with lengths, inputs and gaps of ``like``.

        Uses torch's global generator.
        """
        like = self.names.read(like)
        with torch.no_grad():
            paths, y, values = self._draw(parameters, like)
        along = {
            "times": like.times,
            "actions": like.actions,
            "rewards": like.rewards,
            "inputs": like.inputs,
        }
        codes, mask = self.observations.codes, self.observations.read(like)[1]
        # In a minibatch no sequence may have any observation.
        fields: dict[str, Any] = padding.canonical(
            y, mask, like.lengths, along, codes=codes, blank=True
        )
        data = Sequences(
            **fields,
            labels=like.labels,
            features=like.features,
            symbols=like.symbols or self.names.symbols,
            input_names=like.input_names,
            units=like.units,
        )
        beyond = ~like.step_mask
        if paths.ndim == 2:
            paths = paths.masked_fill(beyond, -1)
        else:
            paths = paths.masked_fill(beyond.unsqueeze(-1), 0)
        return Simulation(paths, data, dict(values))

    def _draw(self, parameters: Parameters, like: Sequences) -> tuple[Tensor, Tensor, Parameters]:
        """Draw hidden trajectories and observations once; also return all parameters."""
        laws = self.laws(parameters, like)
        paths = laws.sample_states()
        return paths, laws.draw(paths), laws.parameters

    def _blank(
        self,
        n: int,
        length: int | Sequence[int] | Tensor,
        inputs: Number | None,
        times: Number | None,
    ) -> Sequences:
        require_count(n, "n")
        lengths = np.asarray(length).tolist() if np.ndim(length) else [length] * n
        for each in lengths:
            require_count(each, "length")
        require(len(lengths) == n, "length", f"needs one length, or {n}", f"{len(lengths)} lengths")
        given: dict[str, Any] = {}
        if inputs is not None:
            require(self.inputs > 0, "inputs", f"{self} reads none", type(inputs).__name__)
            given["inputs"] = as_tensor("inputs", inputs)
        if times is not None:
            require(self.timed, "times", f"{self} reads none", type(times).__name__)
            given["times"] = as_tensor("times", times)
        blank = Sequences.from_tensors(
            self.observations.blank(n, max(lengths)),
            lengths=torch.tensor(lengths),
            codes=self.observations.codes,
            features=self.names.features,
            symbols=self.names.symbols,
            input_names=self.names.inputs if self.inputs else None,
            **given,
        )
        self._check_kind(blank)
        return self.names.marked(blank)


def _single(name: str, value: Tensor, prior: dist.TorchDistribution) -> Tensor:
    """The value of a parameter's site without the axes of size 1 that ``Predictive`` puts first."""
    shape = prior.event_shape
    require(
        value.numel() == shape.numel(),
        name,
        f"needs one draw of shape {tuple(shape)} at a time (parallel=False)",
        tuple(value.shape),
    )
    return value if value.shape == shape else value.reshape(shape)


def _by_name(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a model, which reads its argument ``data`` by name."""

    @wraps(method)
    def reading(model: Model, *given: Any, **named: Any) -> Any:
        if "data" in named:
            return method(model, *given, **named | {"data": model.names.read(named["data"])})
        return method(model, *given[:-1], model.names.read(given[-1]), **named)

    return reading


def _telling(method: Callable[..., Any]) -> Callable[..., Any]:
    """A check of the data by a model, which then warns of what the model does not read of them."""

    @wraps(method)
    def checking(model: Model, data: Sequences) -> None:
        method(model, data)
        reads = {"times": model.timed, "inputs": model.inputs > 0, "actions": model.actions > 0}
        told = model._told | {name for name, read in reads.items() if read}
        for name, sentence in unread(data, told).items():
            model._told.add(name)
            kind = type(model).__name__
            warn(f"data.{name}: {kind} reads none; {sentence}", UnreadWarning)

    return checking


def _check_prior(name: str, prior: dist.TorchDistribution, own: dist.TorchDistribution) -> None:
    """Refuse a prior unless it has the shape of the law's own and a support inside its support."""
    argument = f"priors[{name!r}]"
    # Pyro's distributions, unlike torch's, have ``to_event``.
    named = isinstance(prior, torch.distributions.Distribution) and hasattr(prior, "to_event")
    require(named, argument, "must be a distribution of pyro.distributions", repr(prior))
    event, batch = tuple(prior.event_shape), tuple(prior.batch_shape)
    require(
        event == tuple(own.event_shape) and not batch,
        argument,
        f"needs event shape {tuple(own.event_shape)} and no batch shape (use expand and to_event)",
        f"event {event}, batch {batch}",
    )
    values = possible_values(own)
    require(within(prior.support, values), argument, f"needs {values}", prior.support)


def _on_support(name: str, support: Any, value: Tensor) -> Tensor:
    """Correct rounded rows that must have sum 1, or norm 1, and refuse worse ones."""
    kind = elementary(support)
    kind = getattr(kind, "entry", kind)  # of sorted rows
    if isinstance(kind, type(dist.constraints.simplex)):
        size = value.sum(-1, keepdim=True)
        requirement = "probabilities >= 0 that sum to 1 along the last axis"
        fits = bool((value >= 0).all())
    elif isinstance(kind, type(dist.constraints.corr_cholesky)):
        size = value.norm(dim=-1, keepdim=True)
        requirement = "a Cholesky factor of a correlation matrix, with rows of norm 1"
        fits = True  # the rest is left to the support's own check
    else:
        return value
    off = (size - 1).abs()
    if not fits or bool((off > _PRINTED).any()):
        raise ValueError(
            f"{name}: needs {requirement}, got {size.squeeze(-1).tolist()} and "
            f"minimum {float(value.detach().min())}"
        )
    # Correct rows stay the same bit for bit, so that a saved model loads to the same numbers.
    return torch.where(off > _ROUNDING, value / size, value)


def as_tensor(name: str, value: Number) -> Tensor:
    """Convert numbers to float64; the graph of a tensor is kept.

    Raises:
        ValueError: complex numbers, strings, or what is no array of numbers.
    """
    if isinstance(value, Tensor):
        plain = padding.tensor(value, name)
        return value.double() if value.dtype == plain.dtype else plain.double()
    try:
        array = np.asarray(value)
        require(array.dtype.kind in "biufO", name, "needs real numbers", repr(value))
        return torch.tensor(np.asarray(array, dtype=np.float64))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: needs an array of numbers, got {value!r}") from error
