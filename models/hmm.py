"""Hidden Markov models with discrete states: three laws and one Pyro program."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from . import padding
from .checks import require, require_count
from .counts import Bernoulli, Poisson
from .emissions import Emission, Parameters, Priors
from .folders import Data, SequenceFolder
from .laws import FreeInitial, InitialLaw, MatrixTransition, StationaryInitial, TransitionLaw
from .priors import Ordered, elementary, within
from .randomness import seeded
from .reals import Gaussian, GaussianMixture, StudentT
from .sequences import Sequences
from .trajectories import Emitted, MarkovChain, sample_chain

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

_ROUNDING = 1e-12
"""Rows of probabilities that miss a sum of 1 by no more than this are left as they are."""

_PRINTED = 1e-5
"""Rows that miss it by no more than this were rounded in print, and are normalised."""

Number = Tensor | npt.ArrayLike


@dataclass(frozen=True)
class Laws:
    """The three laws of a chain at given parameter values, for given data.

    ``log_initial`` (…draws, N|1, K) and ``log_transition`` (…draws, N|1, T-1|1, K, K) are log
    probabilities; ``log_likelihood`` (…draws, N, T, K) is log O_k(y_t), computed when first asked
    for, zero where nothing was observed.
    """

    log_initial: Tensor
    log_transition: Tensor
    emission: Emission
    parameters: Parameters
    data: Sequences

    @property
    def lengths(self) -> Tensor:
        """Length of every sequence, (N,)."""
        return self.data.lengths

    @cached_property
    def log_likelihood(self) -> Tensor:
        """log O_k(y_t), shape (…draws, N, T, K)."""
        return self.score(self.emission.observed(self.data)[0])

    def score(self, y: Tensor) -> Tensor:
        """log O_k of observations y in the form that the family reads."""
        mask = self.emission.observed(self.data)[1]
        return self.emission.score(self.parameters, y, mask, self._shift)

    def draw(self, paths: Tensor, past: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Observations for hidden paths (N, T), one draw.

        With ``past``, observations and mask before the second step, the first step of the paths is
        the last that was seen, and observations are drawn from the second step on.
        """
        paths, shift = paths.clamp_min(0), self._shift
        if past is None:
            return self.emission.draw(self.parameters, paths, shift)
        shift = None if shift is None else shift[..., 1:, :, :]
        return self.emission.continued(self.parameters, paths[:, 1:], shift, past)

    @property
    def _shift(self) -> Tensor | None:
        return self.emission.from_inputs(self.parameters, self.data.inputs)

    def states(self) -> MarkovChain:
        """The law of the hidden trajectories."""
        return MarkovChain(
            self.log_initial, self.log_transition, self.lengths, self.data.max_length
        )

    def observations(self, states: Tensor) -> Emitted:
        """The law of the observations given one-hot (or mean) trajectories."""
        event = self.emission.observed(self.data)[0].shape[1:]
        return Emitted(states, self.score, self.draw, event)


class Simulation(NamedTuple):
    """Draws of a model: hidden paths (N, T) (−1 beyond the length), data, parameter values."""

    states: Tensor
    data: Sequences
    parameters: dict[str, Tensor]


class HiddenMarkovModel:
    r"""A hidden Markov model with K discrete states.

    .. math::
        p(\theta)\, \prod_n p(z_1|\theta)\, \prod_t T(z_{t+1} | z_t, \theta)
        \prod_t O(y_t | z_t, \theta)

    Args:
        states: number of hidden states K >= 1.
        emission: the emission law, an ``Emission`` or one of the names in ``SHORTHAND``.
        initial: ``"free"`` (a parameter) or ``"stationary"`` (the law π with π P = π).
        transition: the transition law; by default a matrix with Dirichlet rows.
        sticky: extra prior pseudo-counts on staying, for the default transition.
        ordered: prior under which the states are named in increasing order of the family's
            location (rate, mean, probability); needs one feature.
        priors: replacements for single priors, by parameter name, with the same event shape.

    The Pyro program has one site a parameter and two sites a sequence batch: ``states`` (one-hot
    trajectories, (time, state)) and ``obs``. The first emission is at the first state.

    Raises:
        ValueError: for a bad argument, named with what is required and what came.
    """

    def __init__(
        self,
        states: int,
        emission: Emission | str,
        *,
        initial: str = "free",
        transition: TransitionLaw | None = None,
        sticky: float = 0.0,
        ordered: bool = False,
        priors: Mapping[str, dist.TorchDistribution] | None = None,
    ) -> None:
        require_count(states, "states")
        if initial not in ("free", "stationary"):
            raise ValueError(f"initial: must be 'free' or 'stationary', got {initial!r}")
        self.states = int(states)
        self.emission = _emission(emission)
        self.initial = initial
        self.transition = _transition(transition, sticky)
        self.ordered = ordered
        self._replaced = dict(priors or {})
        self._known: dict[str, Tensor] = {}
        self._check_laws()
        self._all = self._assemble()

    def _check_laws(self) -> None:
        moving = self.transition.inputs
        require(
            self.initial == "free" or not moving,
            "initial",
            "'stationary' needs transitions that are the same at every step",
            repr(self.transition),
        )
        read = {moving, self.emission.inputs} - {0}
        require(
            len(read) < 2,
            "transition, emission",
            "read the same input columns and need the same number of them",
            f"{moving} and {self.emission.inputs}",
        )

    def _assemble(self) -> Priors:
        own = self.emission.priors(self.states)
        if self.states > 1:  # a single state has no chain, hence no parameters of one
            chain = self._initial_law.priors(self.states), self.transition.priors(self.states)
            own = {**chain[0], **chain[1], **own}
        if self.ordered and self.states > 1:
            name = self.emission.ordering
            if name is None or own[name].event_shape != (self.states,):
                raise ValueError(
                    "ordered: needs an emission with one feature and a location to order by, "
                    f"got {self.emission}"
                )
            own[name] = Ordered(own[name])
        for name, prior in self._replaced.items():
            if name not in own:
                raise ValueError(f"priors: unknown parameter {name!r}; there are {sorted(own)}")
            _check_prior(name, prior, own[name])
            own[name] = prior
        return own

    @property
    def _initial_law(self) -> InitialLaw:
        return FreeInitial() if self.initial == "free" else StationaryInitial()

    @property
    def priors(self) -> Priors:
        """Priors of the parameters that are not known, by name."""
        return {name: prior for name, prior in self._all.items() if name not in self._known}

    @property
    def known(self) -> Mapping[str, Tensor]:
        """Values of the parameters that are known, float64."""
        return dict(self._known)

    @property
    def replaced_priors(self) -> Mapping[str, dist.TorchDistribution]:
        """The priors that were given in place of the families' own."""
        return dict(self._replaced)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of all parameters, known or not."""
        return tuple(self._all)

    @property
    def inputs(self) -> int:
        """Number of input columns that the transition or the emission reads; 0 for none."""
        return max(self.transition.inputs, self.emission.inputs)

    def parameter_dims(self) -> dict[str, tuple[str, ...]]:
        """Axis names of every parameter."""
        chain = {**self._initial_law.dims(), **self.transition.dims()}
        dims = {**chain, **self.emission.dims()}
        return {name: dims[name] for name in self._all}

    def __repr__(self) -> str:
        known = f", known={sorted(self._known)}" if self._known else ""
        return f"HiddenMarkovModel(states={self.states}, {self.emission}{known})"

    def with_parameters(self, **values: Number) -> HiddenMarkovModel:
        """The same model with some or all parameters at known values.

        Values are kept in float64. Rows of probabilities may miss a sum of 1 by 1e-5 (printed
        figures do) and are then normalised.

        Raises:
            ValueError: unknown name, wrong shape, or a value outside the parameter's support.
        """
        given = {name: _tensor(name, value) for name, value in values.items()}
        out = copy.copy(self)
        out._known = dict(self._known)
        for name, value in self.emission.natural(given).items():
            out._known[name] = self._accept(name, value)
        return out

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
        value = _on_support(name, prior.support, value)
        check: Any = prior.support
        if not bool(check.check(value).all()):
            raise ValueError(f"{name}: needs values in {check}, got {value.tolist()}")
        return value

    def _why_absent(self, name: str) -> str:
        if self.states == 1 and name in (*self._initial_law.dims(), *self.transition.dims()):
            return " (a single state has no chain)"
        if name == "initial":
            return " (the stationary law follows from the transition)"
        return ""

    def scaled_to(self, data: Data) -> HiddenMarkovModel:
        """The same model with the emission's priors on the scale of the data.

        Of a folder a sample is read, see ``SequenceFolder.sample``.
        """
        data = data.sample() if isinstance(data, SequenceFolder) else data
        self.emission.check(data)
        out = copy.copy(self)
        out.emission = self.emission.scaled_to(data)
        out._all = out._assemble()
        return out

    def check(self, data: Data) -> None:
        """Raise ``ValueError`` unless the data can come from this model.

        A folder is read once from beginning to end, a few sequences at a time; the message names
        the file.
        """
        if isinstance(data, SequenceFolder):
            parts = data.checked_by(self.check_values).pieces()
            observed = sum(int(part.observed_steps.sum()) for part in parts)
        else:
            self.check_values(data)
            observed = int(data.observed_steps.sum())
        if self.priors and observed < self.states:
            raise ValueError(
                f"data: {self.states} states need at least as many observed steps, got {observed}"
            )

    def check_values(self, data: Sequences) -> None:
        """Raise ``ValueError`` unless the sequences, few as they may be, can come from it."""
        if not isinstance(data, Sequences):
            raise ValueError(f"data: must be Sequences, got {type(data).__name__}")
        self.emission.check(data)
        self.transition.check(data)

    def complete(self, parameters: Parameters) -> dict[str, Tensor]:
        """All parameters: the given ones and the known ones, in one dtype.

        Raises:
            ValueError: if a parameter is neither given nor known.
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

    def laws(self, parameters: Parameters, data: Sequences) -> Laws:
        """The three laws at given values of the unknown parameters: a pure function.

        Values may have leading axes of draws, the same for all that are given.
        """
        values = self.complete(parameters)
        if self.states == 1:
            log_initial, log_transition = self._still(values)
        else:
            log_transition = self.transition(values, data)
            log_initial = self._initial_law(values, log_transition)
        return Laws(log_initial, log_transition, self.emission, values, data)

    def _still(self, values: Parameters) -> tuple[Tensor, Tensor]:
        """log p(z_1) and log T of a single state: zeros, with the axes of draws of the values."""
        leading = (
            value.shape[: value.ndim - len(self._all[name].event_shape)]
            for name, value in values.items()
        )
        draws = torch.broadcast_shapes(*leading)
        some = next(iter(values.values()))
        return some.new_zeros(*draws, 1, 1), some.new_zeros(*draws, 1, 1, 1, 1)

    def sample_parameters(self) -> dict[str, Tensor]:
        """The part of the Pyro program above the data: one site a parameter, from its prior."""
        return {name: pyro.sample(name, prior) for name, prior in self.priors.items()}

    def __call__(self, data: Sequences, *, scale: float = 1.0, observe: bool = True) -> Tensor:
        """The Pyro program: parameters, then ``states`` and ``obs`` of every sequence.

        Args:
            data: a batch; with ``observe=False`` only its shape, inputs and lengths are used.
            scale: weight of a sequence, (all sequences) / (sequences in the batch).
        """
        laws = self.laws(self.sample_parameters(), data)
        y = self.emission.observed(data)[0]
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
    ) -> Simulation:
        """Draw n sequences; unknown parameters are drawn from their priors, once.

        Args:
            n: number of sequences.
            length: one length for all, or one each (a list, an array or a tensor).
            seed: makes the draw reproducible and leaves torch's global generator untouched.
            inputs: covariates (n, length, columns), where the model takes them.
        """
        blank = self._blank(n, length, inputs)
        with seeded(seed), torch.no_grad():
            drawn = {name: prior.sample() for name, prior in self.priors.items()}
            return self.simulate(drawn, blank)

    def simulate(self, parameters: Parameters, like: Sequences) -> Simulation:
        """Draw paths and observations at given values, with lengths, inputs and gaps of ``like``.

        Uses torch's global generator.
        """
        laws = self.laws(parameters, like)
        with torch.no_grad():
            paths = sample_chain(laws.log_initial, laws.log_transition, len(like), like.max_length)
            y = laws.draw(paths)
        along = {"times": like.times, "actions": like.actions, "inputs": like.inputs}
        codes, mask = self.emission.codes, self.emission.observed(like)[1]
        data = Sequences(
            # A minibatch may consist of sequences of which nothing was seen.
            **padding.canonical(y, mask, like.lengths, along, codes=codes, blank=True),
            labels=like.labels,
            features=like.features,
            symbols=like.symbols,
        )
        return Simulation(paths.masked_fill(~like.step_mask, -1), data, dict(laws.parameters))

    def _blank(
        self, n: int, length: int | Sequence[int] | Tensor, inputs: Number | None
    ) -> Sequences:
        require_count(n, "n")
        lengths = np.asarray(length).tolist() if np.ndim(length) else [length] * n
        for each in lengths:
            require_count(each, "length")
        require(len(lengths) == n, "length", f"needs one length, or {n}", f"{len(lengths)} lengths")
        given = {}
        if inputs is not None:
            require(self.inputs > 0, "inputs", f"{self} reads none", type(inputs).__name__)
            given["inputs"] = _tensor("inputs", inputs)
        blank = Sequences.from_tensors(
            self.emission.observations.blank(n, max(lengths)),
            lengths=torch.tensor(lengths),
            codes=self.emission.codes,
            **given,
        )
        self.emission.check(blank)
        self.transition.check(blank)
        return blank


def _check_prior(name: str, prior: dist.TorchDistribution, own: dist.TorchDistribution) -> None:
    """A prior may replace the law's own if it has the same shape and a support inside of it."""
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
    require(within(prior.support, own.support), argument, f"needs {own.support}", prior.support)


def _on_support(name: str, support: Any, value: Tensor) -> Tensor:
    """Undo the rounding of rows that must have sum 1, or norm 1, and refuse worse."""
    kind = elementary(support)
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
    # What is right already stays as it is, bit for bit: a saved model loads to the same numbers.
    return torch.where(off > _ROUNDING, value / size, value)


def _emission(emission: Emission | str) -> Emission:
    if isinstance(emission, Emission):
        return emission
    if isinstance(emission, str) and emission in _SIZED:
        raise ValueError(
            f"emission: {emission!r} needs a size; for instance emission={_SIZED[emission]}"
        )
    if not isinstance(emission, str) or emission not in SHORTHAND:
        raise ValueError(
            f"emission: must be an Emission or one of {sorted(SHORTHAND)}, got {emission!r}"
        )
    return SHORTHAND[emission]()


def _transition(transition: TransitionLaw | None, sticky: float) -> TransitionLaw:
    if transition is None:
        return MatrixTransition(sticky=sticky)
    require(
        isinstance(transition, TransitionLaw),
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


def _tensor(name: str, value: Number) -> Tensor:
    """Numbers as float64, keeping the graph of a tensor."""
    if isinstance(value, Tensor):
        return value.double()
    try:
        return torch.tensor(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: needs an array of numbers, got {value!r}") from error
