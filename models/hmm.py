"""Hidden Markov models with discrete states: three laws and one Pyro program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from .counts import Bernoulli, Categorical, Multinomial, Poisson
from .emissions import Emission, Parameters, Priors, Regression
from .laws import FreeInitial, MatrixTransition, StationaryInitial
from .priors import Ordered
from .randomness import seeded
from .reals import FullGaussian, Gaussian, GaussianMixture, LowRankGaussian, StudentT
from .sequences import Sequences
from .trajectories import Emitted, MarkovChain, sample_chain

SHORTHAND: Mapping[str, type[Emission]] = {
    "categorical": Categorical,
    "poisson": Poisson,
    "bernoulli": Bernoulli,
    "multinomial": Multinomial,
    "gaussian": Gaussian,
    "full-gaussian": FullGaussian,
    "low-rank-gaussian": LowRankGaussian,
    "student-t": StudentT,
    "gaussian-mixture": GaussianMixture,
}
"""Short names of the emission families: ``emission="poisson"`` is ``emission=Poisson()``."""

Number = Tensor | npt.ArrayLike


class TransitionLaw(Protocol):
    """T(z' | z): what a model needs of it."""

    def priors(self, states: int) -> Priors: ...
    def dims(self) -> dict[str, tuple[str, ...]]: ...
    def __call__(self, parameters: Parameters, states: int, data: Sequences) -> Tensor: ...
    def start(self, counts: Tensor) -> dict[str, Tensor]: ...
    def check(self, data: Sequences) -> None: ...


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
        if past is not None:
            paths, shift = paths[:, 1:], None if shift is None else shift[..., 1:, :, :]
            if isinstance(self.emission, Regression):
                return self.emission.draw(self.parameters, paths, shift, past)
        return self.emission.draw(self.parameters, paths, shift)

    @property
    def _shift(self) -> Tensor | None:
        if isinstance(self.emission, Regression):
            return self.emission.from_inputs(self.parameters, self.data.inputs)
        return None

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
        if not isinstance(states, int) or states < 1:
            raise ValueError(f"states: must be a whole number >= 1, got {states!r}")
        if initial not in ("free", "stationary"):
            raise ValueError(f"initial: must be 'free' or 'stationary', got {initial!r}")
        if transition is not None and sticky:
            raise ValueError(
                "sticky: belongs to the default transition; give it to the law passed as "
                f"transition instead, got sticky={sticky} beside {transition}"
            )
        self.states = states
        self.emission = _emission(emission)
        self.initial = initial
        self.transition = transition or MatrixTransition(sticky=sticky)
        self.ordered = ordered
        self._replaced = dict(priors or {})
        self._known: dict[str, Tensor] = {}
        self._all = self._assemble()

    def _assemble(self) -> Priors:
        own = {
            **self._initial_law.priors(self.states),
            **self.transition.priors(self.states),
            **self.emission.priors(self.states),
        }
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
            if prior.event_shape != own[name].event_shape or prior.batch_shape:
                raise ValueError(
                    f"priors[{name!r}]: needs event shape {tuple(own[name].event_shape)} and no "
                    f"batch shape, got event {tuple(prior.event_shape)}, "
                    f"batch {tuple(prior.batch_shape)}"
                )
            own[name] = prior
        return own

    @property
    def _initial_law(self) -> FreeInitial | StationaryInitial:
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
        return max(getattr(self.transition, "inputs", 0), getattr(self.emission, "inputs", 0))

    def parameter_dims(self) -> dict[str, tuple[str, ...]]:
        """Axis names of every parameter."""
        dims = {"initial": ("state",), **self.transition.dims(), **self.emission.dims()}
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
        given = {
            name: value.double() if isinstance(value, Tensor) else _tensor(name, value)
            for name, value in values.items()
        }
        out = self._copy()
        for name, value in self.emission.natural(given).items():
            out._known[name] = self._accept(name, value)
        return out

    def _copy(self) -> HiddenMarkovModel:
        out = HiddenMarkovModel.__new__(HiddenMarkovModel)
        out.__dict__.update(self.__dict__)
        out._known = dict(self._known)
        return out

    def _accept(self, name: str, value: Tensor) -> Tensor:
        if name not in self._all:
            hint = " (it follows from the transition)" if name == "initial" else ""
            raise ValueError(f"{name}: no such parameter{hint}; there are {sorted(self._all)}")
        prior = self._all[name]
        if value.shape != prior.event_shape:
            raise ValueError(
                f"{name}: needs shape {tuple(prior.event_shape)}, got {tuple(value.shape)}"
            )
        if isinstance(prior.support, type(dist.constraints.simplex)) or "Simplex" in repr(
            prior.support
        ):
            total = value.sum(-1, keepdim=True)
            if bool((value < 0).any()) or bool(((total - 1).abs() > 1e-5).any()):
                raise ValueError(
                    f"{name}: needs probabilities >= 0 that sum to 1 along the last axis, got sums "
                    f"{total.squeeze(-1).tolist()} and minimum {float(value.detach().min())}"
                )
            return value / total
        if not bool(prior.support.check(value).all()):
            raise ValueError(f"{name}: needs values in {prior.support}, got {value.tolist()}")
        return value

    def scaled_to(self, data: Sequences) -> HiddenMarkovModel:
        """The same model with the emission's priors on the scale of the data."""
        self.emission.check(data)
        out = self._copy()
        out.emission = self.emission.scaled_to(data)
        out._all = out._assemble()
        return out

    def check(self, data: Sequences) -> None:
        """Raise ``ValueError`` unless the data can come from this model."""
        self.emission.check(data)
        self.transition.check(data)
        observed = int(data.observed_steps.sum())
        if self.priors and observed < self.states:
            raise ValueError(
                f"data: {self.states} states need at least as many observed steps, got {observed}"
            )

    def complete(self, parameters: Parameters) -> dict[str, Tensor]:
        """All parameters: the given ones and the known ones, in one dtype.

        Raises:
            ValueError: if a parameter is neither given nor known.
        """
        missing = [name for name in self._all if name not in {**parameters, **self._known}]
        if missing:
            raise ValueError(
                f"parameters: needs values for {missing}; set them with with_parameters(…) or use "
                "a fitted model"
            )
        dtype = next((value.dtype for value in parameters.values()), torch.float64)
        known = {name: value.to(dtype) for name, value in self._known.items()}
        return {name: {**known, **parameters}[name] for name in self._all}

    def laws(self, parameters: Parameters, data: Sequences) -> Laws:
        """The three laws at given values of the unknown parameters: a pure function.

        Values may have leading axes of draws, the same for all.
        """
        values = self.complete(parameters)
        log_transition = self.transition(values, self.states, data)
        if log_transition.shape[-3] > 1 and self.initial == "stationary":
            raise ValueError("initial='stationary': needs transitions that are fixed over time")
        log_initial = self._initial_law(values, log_transition)
        return Laws(log_initial, log_transition, self.emission, values, data)

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
        length: int | Sequence[int],
        *,
        seed: int | None = None,
        inputs: Number | None = None,
    ) -> Simulation:
        """Draw n sequences; unknown parameters are drawn from their priors, once.

        Args:
            n: number of sequences.
            length: one length for all, or one each.
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
        mask = self.emission.observed(like)[1]
        data = Sequences.from_tensors(y, mask=mask, lengths=like.lengths, inputs=like.inputs)
        return Simulation(paths.masked_fill(~like.step_mask, -1), data, dict(laws.parameters))

    def _blank(self, n: int, length: int | Sequence[int], inputs: Number | None) -> Sequences:
        if n < 1:
            raise ValueError(f"n: must be >= 1, got {n}")
        lengths = torch.as_tensor([length] * n if isinstance(length, int) else list(length))
        if lengths.shape != (n,) or bool((lengths < 1).any()):
            raise ValueError(f"length: needs {n} length(s) >= 1, got {length}")
        steps = int(lengths.max())
        if self.emission.codes:
            y = torch.zeros(n, steps, dtype=torch.int64)
        else:
            y = torch.zeros(n, steps, self.emission.features)
        covariates = None if inputs is None else torch.as_tensor(np.asarray(inputs))
        blank = Sequences.from_tensors(y, lengths=lengths, inputs=covariates)
        self.emission.check(blank)
        self.transition.check(blank)
        return blank


def _emission(emission: Emission | str) -> Emission:
    if isinstance(emission, Emission):
        return emission
    if not isinstance(emission, str) or emission not in SHORTHAND:
        raise ValueError(
            f"emission: must be an Emission or one of {sorted(SHORTHAND)}, got {emission!r}"
        )
    if emission == "categorical":
        raise ValueError(
            "emission='categorical': needs the number of symbols, for instance "
            "emission=Categorical(symbols=27)"
        )
    return SHORTHAND[emission]()  # sizes have defaults: one feature, or two where one cannot be


def _tensor(name: str, value: npt.ArrayLike) -> Tensor:
    try:
        return torch.tensor(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: needs an array of numbers, got {value!r}") from error
