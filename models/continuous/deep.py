"""Deep Markov models: continuous states whose transition and emission are small neural networks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

from ..beliefs import GaussianBelief
from ..boundary import boundary
from ..chains.hmm import SHORTHAND
from ..chains.neural import NeuralEmission
from ..checks import brief, require, require_count, require_positive, require_scales
from ..data.folders import Data, SequenceFolder
from ..data.moments import input_scales
from ..data.requirements import require_inputs, require_times
from ..data.sequences import Sequences
from ..emissions.emission import Emission, Parameters, Priors, require_still
from ..emissions.observations import Observations
from ..emissions.perceptron import Perceptron
from ..emissions.regression import Regression
from ..model import Model
from .diffusion import gaps

First = Literal["free", "transition"]

_FULL_BELIEF = 16
"""Largest state for which filters keep a full covariance."""

_READING = "transition_gate_weight0", "transition_proposal_weight0", "emission_network_weight0"
"""Weights of the layers that read inputs, rows for the state first, then for the inputs."""

_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class GatedTransition:
    r"""The gated transition of deep Markov models, z' ~ N(μ, diag σ²).

    .. math::
        \mu = (1 - g) \circ (z A + a) + g \circ h, \qquad
        \sigma = \log(1 + \exp(\mathrm{relu}(h) S + s))

    g is the sigmoid of a relu network of z, and h another network, each with one hidden layer of
    ``width`` units; both also read the drivers of the transition (inputs, the last observation).

    In continuous time, ``timed``, the state relaxes over a gap Δ towards μ, with rates κ:

    .. math::
        z' \sim N(z + (1 - e^{-κΔ}) (\mu - z), \ (1 - e^{-2κΔ}) \sigma^2)

    This is an Ornstein-Uhlenbeck process around μ with stationary spread σ, both fixed at the
    beginning of the gap. For large κΔ it is the transition above. The rates have the prior
    LogNormal(log(rate), 1), and the weights those of the networks, A around the identity.

    Args:
        width: hidden units of gate and proposal.
        scale: prior standard deviation of the weights, in units of 1/√fan-in.
        timed: whether time is continuous.
        rate: prior median of the rates κ.

    Raises:
        ValueError: a width that is no whole number >= 1, a scale or rate that is not positive.

    Source: Krishnan, Shalit & Sontag (2017), Structured inference networks for nonlinear state
    space models, AAAI.

    >>> law = GatedTransition(width=8)
    >>> sum(prior.event_shape.numel() for prior in law.priors(size=2, drivers=0).values())
    96
    """

    width: int = 200
    scale: float = 1.0
    timed: bool = False
    rate: float = 1.0

    def __post_init__(self) -> None:
        require_count(self.width, "width")
        require_positive(self.scale, "scale")
        require_positive(self.rate, "rate")

    def networks(self, size: int, drivers: int) -> tuple[Perceptron, Perceptron]:
        """Return gate and proposal for states of ``size`` components."""
        sizes = size + drivers, self.width, size
        return (
            Perceptron("transition_gate", sizes, "relu", self.scale),
            Perceptron("transition_proposal", sizes, "relu", self.scale),
        )

    def priors(self, size: int, drivers: int) -> Priors:
        """Return the prior of every parameter, for states of ``size`` components."""
        gate, proposal = self.networks(size, drivers)
        spread = self.scale / math.sqrt(size)
        zero = torch.zeros(size, size)
        bias = dist.Normal(torch.zeros(size), self.scale).to_event(1)
        own: Priors = {}
        if self.timed:
            log_rate = torch.full((size,), math.log(self.rate), dtype=torch.float64)
            own["transition_rate"] = dist.LogNormal(log_rate, 1.0).to_event(1)
        return {
            **gate.priors(),
            **proposal.priors(),
            **own,
            "transition_linear_weight": dist.Normal(torch.eye(size), spread).to_event(2),
            "transition_linear_bias": bias,
            "transition_scale_weight": dist.Normal(zero, spread).to_event(2),
            "transition_scale_bias": bias,
        }

    def dims(self, size: int, drivers: int) -> dict[str, tuple[str, ...]]:
        """Return the axis names of every parameter."""
        gate, proposal = self.networks(size, drivers)
        square = ("component", "component_to")
        return {
            **gate.dims(),
            **proposal.dims(),
            "transition_rate": square[1:],
            "transition_linear_weight": square,
            "transition_linear_bias": square[1:],
            "transition_scale_weight": square,
            "transition_scale_bias": square[1:],
        }

    def __call__(
        self, parameters: Parameters, z: Tensor, driver: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the next states, (M, D) each.

        The states are (M, D) and their drivers (M, C); in continuous time the last column of the
        drivers is the gap.
        """
        gap = None
        if self.timed:
            assert driver is not None  # it has the gap
            gap, driver = driver[:, -1:], driver[:, :-1]
            driver = driver if driver.shape[-1] else None
        size = z.shape[-1]
        x = z if driver is None else torch.cat([z, driver], -1)
        gate, proposal = (net(parameters, x) for net in self.networks(size, x.shape[-1] - size))
        matrix, bias = (parameters[f"transition_linear_{part}"] for part in ("weight", "bias"))
        kept = torch.addmm(bias, z, matrix)
        mean = torch.lerp(kept, proposal, gate.sigmoid())
        matrix, bias = (parameters[f"transition_scale_{part}"] for part in ("weight", "bias"))
        scale = spread(torch.addmm(bias, proposal.relu(), matrix))
        if gap is None:
            return mean, scale
        way = -parameters["transition_rate"] * gap
        # expm1 keeps the digits that 1 − exp(−κΔ) loses over a short gap.
        return z - torch.expm1(way) * (mean - z), scale * (-torch.expm1(2 * way)).sqrt()

    def joined(self, parameters: Parameters, drivers: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the first layers of gate and proposal beside A, (D, 2 W + D), and offsets.

        Offsets are (2 W + D,), or (…, 2 W + D) with what drivers (…, C) add to them. Only for
        discrete time.
        """
        linear, bias = (parameters[f"transition_linear_{part}"] for part in ("weight", "bias"))
        first = [parameters[f"transition_{net}_weight0"] for net in ("gate", "proposal")]
        biases = [parameters[f"transition_{net}_bias0"] for net in ("gate", "proposal")]
        size = len(linear)
        matrix = torch.cat([*(weight[:size] for weight in first), linear], -1)
        offset = torch.cat([*biases, bias])
        if drivers is None:
            return matrix, offset
        still = linear.new_zeros(drivers.shape[-1], size)
        return matrix, drivers @ torch.cat([*(w[size:] for w in first), still], -1) + offset


@boundary
class DeepMarkovModel(Model):
    r"""A Markov chain of continuous states with neural transition and emission.

    .. math::
        z_1 \sim N(\mu_1, \mathrm{diag}\,\sigma_1^2), \qquad
        z_{t+1} \sim N(\mu(z_t), \mathrm{diag}\,\sigma^2(z_t)), \qquad
        y_t \sim O(\cdot \mid \eta + f(z_t))

    μ and σ are a ``GatedTransition``; f, a relu network with two hidden layers, is added to the
    linear predictor η of any emission family (logits, log rates, means), whose other parameters all
    states share. Every weight is a parameter with a normal prior.

    Args:
        states: components D of the state.
        emission: the emission law, an ``Emission`` without inputs and lags, or a name as in
            ``HiddenMarkovModel``.
        transition_width: hidden units of gate and proposal.
        emission_width: units of the two hidden layers of f.
        initial: ``"free"``: means and standard deviations of z_1 are parameters; ``"transition"``:
            z_1 follows by one transition from a state that is a parameter, as in the paper.
        autoregressive: whether transition and emission also read the observation of the step
            before. Its missing elements are read as zero (their mean), beside the share that is
            missing; at the first step all are missing.
        timed: whether time is continuous: the model reads ``data.times`` (see ``GatedTransition``);
            the first state is then ``"free"``.
        inputs: input columns; those of step t act on z_t → z_{t+1} and on the emission of step t.
        weight_scale: standard deviation of the weights' priors, in units of 1/√fan-in.
        input_scale: unit of the inputs, one number or one per column, in which their weights have
            these priors; ``scaled_to(data)`` sets it to their standard deviation, of an indicator
            to its size.
        priors: replacements for single priors, by parameter name, with the same event shape.

    Raises:
        ValueError: an invalid argument; the message names it, what is required and what came.

    Source: Krishnan, Shalit & Sontag (2017), Structured inference networks for nonlinear state
    space models, AAAI.

    >>> from beliefzoo.models import Bernoulli
    >>> model = DeepMarkovModel(4, Bernoulli(88), transition_width=16, emission_width=16)
    >>> drawn = model.sample(2, 10, seed=0)  # weights from their priors
    >>> tuple(drawn.states.shape), drawn.data.n_features
    ((2, 10, 4), 88)
    """

    own_guide = "DeepGuide"

    def __init__(
        self,
        states: int,
        emission: Emission | str,
        *,
        transition_width: int = 200,
        emission_width: int = 100,
        initial: First = "free",
        autoregressive: bool = False,
        timed: bool = False,
        inputs: int = 0,
        weight_scale: float = 1.0,
        input_scale: float | tuple[float, ...] = 1.0,
        priors: Mapping[str, dist.TorchDistribution] | None = None,
    ) -> None:
        for name, count in (
            ("states", states),
            ("transition_width", transition_width),
            ("emission_width", emission_width),
        ):
            require_count(count, name)
        require_count(inputs, "inputs", 0)
        require_positive(weight_scale, "weight_scale")
        require_scales(input_scale, int(inputs), "input_scale", "column")
        require(initial in get_args(First), "initial", f"must be one of {get_args(First)}", initial)
        self.states = int(states)
        self.emission = _emission(emission)
        require(
            initial == "free" or not timed,
            "initial",
            "must be 'free' in continuous time, where nothing says how long before the first "
            "observation a transition would have begun",
            repr(initial),
        )
        width, scale = int(transition_width), float(weight_scale)
        self.transition = GatedTransition(width, scale, bool(timed))
        self.emission_width = int(emission_width)
        self.initial = initial
        self.autoregressive = bool(autoregressive)
        self.weight_scale = float(weight_scale)
        self.input_scale = input_scale
        self._inputs = int(inputs)
        self.set_priors(priors)

    @property
    def timed(self) -> bool:
        """True if time is continuous."""
        return self.transition.timed

    @property
    def drivers(self) -> int:
        """How many numbers transition and emission read beside the state (and the gap)."""
        return self._inputs + (self.emission.shift_size + 1 if self.autoregressive else 0)

    @property
    def emission_network(self) -> Perceptron:
        """The network f, without a bias in its last layer, where η is the bias."""
        width = self.emission_width
        sizes = self.states + self.drivers, width, width, self.emission.shift_size
        return Perceptron("emission_network", sizes, "relu", self.weight_scale, offset=False)

    def own_priors(self) -> Priors:
        zero = torch.zeros(self.states)
        first: Priors = {"initial_origin": dist.Normal(zero, 1.0).to_event(1)}
        if self.initial == "free":
            first = {
                "initial_mean": dist.Normal(zero, 1.0).to_event(1),
                "initial_scale": dist.LogNormal(zero, 1.0).to_event(1),
            }
        networks = {
            **self.transition.priors(self.states, self.drivers),
            **self.emission_network.priors(),
        }
        if self._inputs:
            for name in _READING:
                networks[name] = dist.Normal(
                    networks[name].mean, networks[name].stddev / self._units
                ).to_event(2)
        return {**first, **networks, **self.emission.priors(1)}

    @property
    def _units(self) -> Tensor:
        """Units of what the networks read, (D + C, 1): 1 but for the inputs."""
        units = torch.ones(self.states + self.drivers, 1, dtype=torch.float64)
        scale = torch.as_tensor(self.input_scale, dtype=units.dtype).expand(self._inputs)
        units[self.states : self.states + self._inputs, 0] = scale
        return units

    def parameter_dims(self) -> dict[str, tuple[str, ...]]:
        """Return the axis names of every parameter; ``emission_state``, of the family's own, has
        length 1.
        """
        names = ("initial_origin", "initial_mean", "initial_scale")
        dims = {
            **dict.fromkeys(names, ("component",)),
            **self.transition.dims(self.states, self.drivers),
            **self.emission_network.dims(),
            **{
                name: tuple("emission_state" if axis == "state" else axis for axis in axes)
                for name, axes in self.emission.dims().items()
            },
        }
        return {name: dims[name] for name in self._all}

    @property
    def observations(self) -> Observations:
        """The kind of data that the emission describes."""
        return self.emission.observations

    @property
    def belief(self) -> GaussianBelief:
        """A normal distribution, with a full covariance for small states."""
        return GaussianBelief(self.states, full=self.states <= _FULL_BELIEF)

    @property
    def inputs(self) -> int:
        """Number of input columns; 0 for none."""
        return self._inputs

    @property
    def exact(self) -> bool:
        """False: there is no exact filter."""
        return False

    @property
    def configuration(self) -> dict[str, Any]:
        """The arguments of the model except ``priors``."""
        return {
            "states": self.states,
            "emission": self.emission,
            "transition_width": self.transition.width,
            "emission_width": self.emission_width,
            "initial": self.initial,
            "autoregressive": self.autoregressive,
            "timed": self.timed,
            "inputs": self._inputs,
            "weight_scale": self.weight_scale,
            "input_scale": self.input_scale,
        }

    def __repr__(self) -> str:
        known = f", known={sorted(self._known)}" if self._known else ""
        return f"DeepMarkovModel(states={self.states}, {brief(self.emission)}{known})"

    def _natural(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.emission.natural(values)

    def scaled_to(self, data: Data) -> DeepMarkovModel:
        """Return the same model with the priors of emission and rates on the scale of the data.

        From a folder, only a sample is read; see ``SequenceFolder.sample``.
        """
        data = data.sample() if isinstance(data, SequenceFolder) else data
        self.check_values(data)
        out = copy.copy(self)
        out.emission = self.emission.scaled_to(data)
        if self.timed:
            typical = float(gaps(data).distinct.median())
            out.transition = replace(self.transition, rate=1 / typical)
        if self._inputs:
            out.input_scale = input_scales(data)
        out._all = out._assemble()
        return out

    def check_values(self, data: Sequences) -> None:
        """Raise ``ValueError`` unless the sequences, of any number, can come from the model."""
        self.emission.check(data)
        require_inputs(data, self._inputs, type(self).__name__)
        if self.timed:
            require_times(data, type(self).__name__)

    def start(self, data: Sequences) -> dict[str, Tensor]:
        """Return values to start a fit from: the emission at the global fit, weights in ±1/√fan-in.

        The weights are uniform, as ``torch.nn.Linear`` starts them, but biases are 0 and the linear
        part leaves the state unchanged. Uses torch's global generator.
        """
        y, mask = self.emission.observed(data)
        seen = data.observed_steps
        frames = y[seen] if self.emission.codes else y[seen].double()
        one = torch.ones(len(frames), 1, dtype=torch.float64)
        values = self.emission.start(frames, mask[seen], one)
        for name, prior in self._all.items():
            if name in values:
                continue
            shape = prior.event_shape
            if name == "transition_linear_weight":
                values[name] = torch.eye(self.states)
            elif name == "initial_scale":
                values[name] = torch.ones(shape)
            elif name == "transition_rate":
                values[name] = torch.full(shape, self.transition.rate, dtype=torch.float64)
            elif len(shape) == 2:
                values[name] = (2 * torch.rand(shape) - 1) / math.sqrt(shape[0])
                if name in _READING:
                    values[name] = values[name] / self._units
            else:
                values[name] = torch.zeros(shape)
        return values

    def laws(self, parameters: Parameters, data: Sequences) -> DeepLaws:
        """Return the laws at given values of the unknown parameters; a pure function."""
        return DeepLaws(self, self.complete(parameters), data)

    def _draw(self, parameters: Parameters, like: Sequences) -> tuple[Tensor, Tensor, Parameters]:
        if not self.autoregressive:
            return super()._draw(parameters, like)
        laws = self.laws(parameters, like)
        return *laws.draw_together(), laws.parameters


@dataclass(frozen=True)
class DeepLaws:
    """The laws of a ``DeepMarkovModel`` at given parameter values, for given data.

    Trajectories are (…, N, T, D), zero beyond the length of their sequence; D components of N
    sequences with T steps. Every log density is in nats; steps beyond a length add nothing to it.
    In an autoregressive model the distribution of the states is given the observations before them.

    Args:
        model: the model.
        parameters: all parameter values, by name.
        data: the sequences.

    >>> from beliefzoo.models import DeepMarkovModel
    >>> model = DeepMarkovModel(2, "poisson", transition_width=8, emission_width=8)
    >>> drawn = model.sample(3, 5, seed=0)
    >>> laws = model.laws(drawn.parameters, drawn.data)
    >>> laws.chain_log_prob(drawn.states).shape, laws.emission_log_prob(drawn.states).shape
    (torch.Size([3]), torch.Size([3]))
    """

    discrete = linear = None

    model: DeepMarkovModel
    parameters: Parameters
    data: Sequences

    @property
    def lengths(self) -> Tensor:
        """Length of every sequence, (N,)."""
        return self.data.lengths

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return next(iter(self.parameters.values())).dtype

    # Steps as rows: (sequence, step) of every step inside a sequence, M in all

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """Sequence and step of every row, (M,) each."""
        sequence, step = self.data.step_mask.nonzero(as_tuple=True)
        return sequence, step

    @cached_property
    def observed_rows(self) -> Tensor:
        """Observations of the rows, (M,) codes or (M, F)."""
        return self.model.emission.observed(self.data)[0][self.places]

    @cached_property
    def _past(self) -> Tensor | None:
        """The observation of the step before, and its missing share: (N, T, S + 1)."""
        if not self.model.autoregressive:
            return None
        y, mask = self.model.emission.observed(self.data)
        seen = self._read_back(y, mask)
        past = torch.zeros_like(seen)
        past[:, 1:] = seen[:, :-1]
        past[:, 0, -1] = 1
        return past

    def _read_back(self, y: Tensor, mask: Tensor) -> Tensor:
        """Observations in the form that later steps read: (N, T, S + 1)."""
        emission = self.model.emission
        told = emission.lagged(self.parameters, y, mask).squeeze(-2)
        told = told.to(self.dtype) / emission.predictor_scale.to(told)
        seen = mask if mask.ndim == 3 else mask.unsqueeze(-1)
        missing = 1 - seen.to(self.dtype).mean(-1, keepdim=True)
        return torch.cat([told, missing], -1)

    @cached_property
    def _inputs(self) -> Tensor | None:
        if not self.model.inputs:
            return None
        assert self.data.inputs is not None  # the model checked the data
        return self.data.inputs.to(self.dtype)

    @cached_property
    def step_gaps(self) -> Tensor | None:
        """The gap before every step, (N, T, 1), 1 before the first step and in the padding."""
        if not self.model.timed:
            return None
        assert self.data.times is not None  # the model checked the data
        gap = torch.ones_like(self.data.times)
        gap[:, 1:] = torch.where(self.data.step_mask[:, 1:], self.data.times.diff(dim=1), 1)
        return gap.to(self.dtype).unsqueeze(-1)

    @cached_property
    def drivers(self) -> Tensor | None:
        """The drivers of the transition into every step, (N, T, C); the last is the gap, if it is
        read.
        """
        parts = []
        if self._inputs is not None:
            before = torch.zeros_like(self._inputs)
            before[:, 1:] = self._inputs[:, :-1]
            parts.append(before)
        parts += [part for part in (self._past, self.step_gaps) if part is not None]
        return torch.cat(parts, -1) if parts else None

    @cached_property
    def readers(self) -> Tensor | None:
        """What the emission of every step reads beside the state, (N, T, C)."""
        parts = [part for part in (self._inputs, self._past) if part is not None]
        return torch.cat(parts, -1) if parts else None

    @cached_property
    def _driver_rows(self) -> Tensor | None:
        return None if self.drivers is None else self.drivers[self.places]

    @cached_property
    def _reader_rows(self) -> Tensor | None:
        return None if self.readers is None else self.readers[self.places]

    def rows(self, paths: Tensor) -> Tensor:
        """Return the rows of trajectories (…, N, T, D): (…, M, D)."""
        sequence, step = self.places
        return paths.flatten(-3, -2).index_select(-2, sequence * paths.shape[-2] + step)

    def rows_before(self, paths: Tensor) -> Tensor:
        """Return the states before those of the rows, (…, M, D); arbitrary before first states."""
        sequence, step = self.places
        place = sequence * paths.shape[-2] + (step - 1).clamp_min(0)
        return paths.flatten(-3, -2).index_select(-2, place)

    def summed(self, rows: Tensor) -> Tensor:
        """Sum over the steps of every sequence, (…, M) -> (…, N)."""
        total = rows.new_zeros(*rows.shape[:-1], len(self.data))
        return total.index_add(-1, self.places[0], rows)

    # The laws

    def move(self, z: Tensor, driver: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the next state, (…, D) each, from states (…, D)."""
        flat = z.reshape(-1, z.shape[-1])
        if driver is not None:
            driver = driver.expand(*z.shape[:-1], driver.shape[-1]).flatten(0, -2)
        mean, scale = self.model.transition(self.parameters, flat, driver)
        return mean.view(z.shape), scale.view(z.shape)

    def first(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of z_1, (N|1, D) each."""
        if self.model.initial == "free":
            return self.parameters["initial_mean"][None], self.parameters["initial_scale"][None]
        driver = None if self.drivers is None else self.drivers[:, 0]
        rows = 1 if driver is None else len(driver)
        return self.move(self.parameters["initial_origin"].expand(rows, -1), driver)

    def predicted(self, before: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the states of all rows, (…, M, D) each.

        The argument holds the states before them, rows (…, M, D).
        """
        mean, scale = self.move(before, self._driver_rows)
        sequence, step = self.places
        begins = (step == 0).unsqueeze(-1)
        first = [part.expand(len(self.data), -1)[sequence] for part in self.first()]
        return torch.where(begins, first[0], mean), torch.where(begins, first[1], scale)

    def predictor(self, z: Tensor, reader: Tensor | None) -> Tensor:
        """Return f of states (…, D), in units of the linear predictor: (…, S)."""
        if reader is not None:
            z = torch.cat([z, reader.expand(*z.shape[:-1], reader.shape[-1])], -1)
        out = self.model.emission_network(self.parameters, z.reshape(-1, z.shape[-1]))
        out = out * self.model.emission.predictor_scale.to(out)
        return out.view(*z.shape[:-1], -1)

    def chain_log_prob(self, paths: Tensor) -> Tensor:
        """Return log p(z_1 … z_L) of trajectories, (…, N)."""
        mean, scale = self.predicted(self.rows_before(paths))
        return self.summed(normal_log_prob(self.rows(paths), mean, scale))

    def emission_log_prob(self, paths: Tensor) -> Tensor:
        """Return Σ_t log O(y_t | z_t) of trajectories, (…, N); missing elements add nothing."""
        return self.score(self.observed_rows, self.rows(paths))

    def score(self, y: Tensor, rows: Tensor) -> Tensor:
        """Return Σ_t log O(y_t | z_t), (…, N), of rows: observations (M, …), states (…, M, D)."""
        shift = self.predictor(rows, self._reader_rows)
        mask = self.model.emission.observed(self.data)[1][self.places]
        scores = self.model.emission.score(
            self.parameters, y[None], mask[None], shift.unsqueeze(-3).unsqueeze(-2)
        )
        return self.summed(scores.squeeze(-1).squeeze(-2))

    # One step after the other, for particle filters; t from 0 on

    def draw_first(self, n: int) -> Tensor:
        """Draw n first states, (n, N, D); reparametrised."""
        mean, scale = self.first()
        shape = n, len(self.data), self.model.states
        return mean + scale * torch.randn(shape, dtype=mean.dtype, device=mean.device)

    def draw_next(self, states: Tensor, t: int) -> Tensor:
        """Draw the states after step t given those at it, (…, N, D); reparametrised."""
        mean, scale = self._moved(states, t)
        return mean + scale * torch.randn_like(mean)

    def log_first(self, states: Tensor) -> Tensor:
        """Return log p(z_1) of first states (…, N, D), (…, N)."""
        return normal_log_prob(states, *self.first())

    def log_next(self, later: Tensor, states: Tensor, t: int) -> Tensor:
        """Return log p(``later`` | ``states``), (…, N), of the states after and at step t."""
        return normal_log_prob(later, *self._moved(states, t))

    def log_step(self, states: Tensor, t: int) -> Tensor:
        """Return log O(y_t | z_t), (…, N), of states (…, N, D) at step t; 0 if unobserved."""
        emission = self.model.emission
        y, mask = (part[:, t : t + 1] for part in emission.observed(self.data))
        reader = None if self.readers is None else self.readers[:, t]
        shift = self.predictor(states, reader).unsqueeze(-2).unsqueeze(-2)
        return emission.score(self.parameters, y, mask, shift).squeeze(-1).squeeze(-1)

    def _moved(self, states: Tensor, t: int) -> tuple[Tensor, Tensor]:
        return self.move(states, None if self.drivers is None else self.drivers[:, t + 1])

    def linearised(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Linearise every transition near states ``mean`` (N, T-1, D): z' ≈ A z + b + N(0, Q).

        A (N, T-1, D, D) is the Jacobian of the next state's mean, b makes the means agree at the
        state, and Q is diag σ² there. ``covariance``, the uncertainty of the state, is not used.
        """
        del covariance
        size = mean.shape[-1]
        flat = mean.reshape(-1, size).to(self.dtype)
        if not len(flat):
            return mean.new_zeros(*mean.shape, size), mean, mean.new_zeros(*mean.shape, size)
        given = [flat]
        if self.drivers is not None:
            given.append(self.drivers[:, 1:].flatten(0, 1))

        def moved(z: Tensor, *driver: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            read = driver[0][None] if driver else None
            loc, scale = self.model.transition(self.parameters, z[None], read)
            return loc[0], (loc[0], scale[0])

        slope, (loc, scale) = torch.func.vmap(torch.func.jacrev(moved, has_aux=True))(*given)
        slope = slope.view(*mean.shape, size)
        offset = loc.view(mean.shape) - (slope @ flat.view(mean.shape).unsqueeze(-1)).squeeze(-1)
        return slope, offset, scale.view(mean.shape).square().diag_embed()

    # Draws, and the sites of the Pyro program

    def sample_states(self) -> Tensor:
        """Draw the trajectories once, (N, T, D).

        In an autoregressive model they are drawn given the observations of the data.
        """
        with torch.no_grad():
            drawn = [self.draw_first(1)[0]]
            for t in range(self.data.max_length - 1):
                drawn.append(self.draw_next(drawn[-1], t))
        return torch.stack(drawn, 1) * self.data.step_mask.unsqueeze(-1)

    def draw(self, states: Tensor) -> Tensor:
        """Draw observations of trajectories (N, T, D) once.

        In an autoregressive model each is drawn given the observation of the data before it.
        """
        nowhere = torch.zeros(states.shape[:-1], dtype=torch.int64, device=states.device)
        shift = self.predictor(states, self.readers).unsqueeze(-2)
        return self.model.emission.draw(self.parameters, nowhere, shift)

    def draw_together(self) -> tuple[Tensor, Tensor]:
        """Draw trajectories (N, T, D) and observations together, each acting on the other.

        Elements that are missing in the data are drawn, but not read.
        """
        emission, data = self.model.emission, self.data
        blank, mask = emission.observed(data)
        states: list[Tensor] = []
        drawn: list[Tensor] = []
        past = self._read_back(blank[:, :1], torch.zeros_like(mask[:, :1]))
        nothing = None if self._inputs is None else torch.zeros_like(self._inputs[:, :1])
        nowhere = torch.zeros(len(data), 1, dtype=torch.int64)
        with torch.no_grad():
            for t in range(data.max_length):
                now = None if self._inputs is None else self._inputs[:, t : t + 1]
                driver = _joined(nothing, past)
                if self.step_gaps is not None:
                    driver = torch.cat([driver, self.step_gaps[:, t : t + 1]], -1)
                states.append(self._drawn_state(states, driver))
                shift = self.predictor(states[-1], _joined(now, past)).unsqueeze(-2)
                drawn.append(emission.draw(self.parameters, nowhere, shift))
                past = self._read_back(drawn[-1], mask[:, t : t + 1])
                nothing = now
        return torch.cat(states, 1) * data.step_mask.unsqueeze(-1), torch.cat(drawn, 1)

    def _drawn_state(self, before: list[Tensor], driver: Tensor) -> Tensor:
        """The state after the last one drawn, or a first one: (N, 1, D)."""
        if before:
            mean, scale = self.move(before[-1], driver)
        elif self.model.initial == "free":
            mean, scale = (part.expand(len(driver), -1).unsqueeze(1) for part in self.first())
        else:
            origin = self.parameters["initial_origin"].expand(len(driver), 1, -1)
            mean, scale = self.move(origin, driver)
        return mean + scale * torch.randn_like(mean)

    def continued(
        self,
        last: Tensor,
        steps: int,
        inputs: Tensor | None = None,
        gap: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw on from states (n, N, D) at the last step of every sequence.

        Args:
            last: states there.
            steps: how many further steps.
            inputs: of these steps (N, steps, columns), where the model takes them.
            gap: before each of these steps (N, steps), in continuous time.

        Returns:
            States (n, N, steps, D), and observations (n, N, steps) codes or (n, N, steps, F).
        """
        emission, rows = self.model.emission, torch.arange(len(self.data))
        end = rows, self.lengths - 1
        y, mask = (part[end].unsqueeze(1) for part in emission.observed(self.data))
        past = self._read_back(y, mask)[:, 0] if self.model.autoregressive else None
        now = None if self._inputs is None else self._inputs[end]
        z, states, drawn = last, [], []
        nowhere = torch.zeros(last.shape[0] * last.shape[1], 1, dtype=torch.int64)
        seen = torch.ones_like(mask[:1]).expand(len(nowhere), *mask.shape[1:])
        with torch.no_grad():
            for step in range(steps):
                wait = None if gap is None else gap[:, step, None].to(self.dtype)
                if wait is not None and past is not None:
                    wait = wait.expand(*past.shape[:-1], 1)
                mean, scale = self.move(z, _beside(_beside(now, past), wait))
                z = mean + scale * torch.randn_like(mean)
                now = None if inputs is None else inputs[:, step].to(self.dtype)
                shift = self.predictor(z, _beside(now, past)).flatten(0, 1)
                y = emission.draw(self.parameters, nowhere, shift[:, None, None])
                if past is not None:
                    past = self._read_back(y, seen)[:, 0].view(*last.shape[:2], -1)
                states.append(z)
                drawn.append(y.view(*last.shape[:2], *y.shape[2:]))
        return torch.stack(states, 2), torch.stack(drawn, 2)

    def states(self) -> DeepChain:
        """Return the distribution of the hidden trajectories, event (T, D)."""
        return DeepChain(self)

    def observations(self, states: Tensor) -> DeepEmitted:
        """Return the distribution of the observations given trajectories (…, N, T, D)."""
        return DeepEmitted(self, states)


class DeepChain(dist.TorchDistribution):
    """Distribution of hidden trajectories, batch (N,), event (T, D)."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.real, 2)

    def __init__(self, laws: DeepLaws) -> None:
        self.laws = laws
        event = torch.Size([laws.data.max_length, laws.model.states])
        super().__init__(laws.lengths.shape, event, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DeepChain:
        _one_a_sequence(self, batch_shape)
        return self

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return _several(self.laws.sample_states, torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.laws.chain_log_prob(value)


class DeepEmitted(dist.TorchDistribution):
    """Observations given trajectories, batch (…, N), event (T,) for codes or (T, F)."""

    arg_constraints: dict[str, Any] = {}

    def __init__(self, laws: DeepLaws, states: Tensor) -> None:
        self.laws, self.trajectories = laws, states
        event = laws.model.emission.observed(laws.data)[0].shape[1:]
        super().__init__(states.shape[:-2], event, validate_args=False)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> DeepEmitted:
        _one_a_sequence(self, batch_shape)
        return self

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return _several(lambda: self.laws.draw(self.trajectories), torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.laws.score(value[self.laws.places], self.laws.rows(self.trajectories))


LEAST_RAW = -15.0
"""Smaller numbers are raised to this: a standard deviation of 3e-7, whose square is not 0."""


def spread(raw: Tensor) -> Tensor:
    """Standard deviation log(1 + exp(raw)), never zero."""
    return softplus(raw.clamp_min(LEAST_RAW))


def normal_log_prob(value: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """log N(value; mean, diag scale²), summed over the last axis."""
    residual = (value - mean) / scale
    return -(0.5 * residual.square() + scale.log()).sum(-1) - 0.5 * value.shape[-1] * _LOG_2PI


def _beside(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Rows (N, C) beside rows (…, N, C'), either of which may be missing."""
    if first is None or second is None:
        return second if first is None else first
    return torch.cat([first.expand(*second.shape[:-1], -1), second], -1)


def _joined(first: Tensor | None, second: Tensor) -> Tensor:
    return second if first is None else torch.cat([first, second], -1)


def _several(draw: Callable[[], Tensor], shape: torch.Size) -> Tensor:
    drawn = torch.stack([draw() for _ in range(shape.numel())])
    return drawn.view(shape + drawn.shape[1:])


def _one_a_sequence(law: dist.TorchDistribution, batch_shape: Any) -> None:
    if torch.Size(batch_shape) != law.batch_shape:
        raise ValueError(
            f"{type(law).__name__}: batch shape is fixed at {tuple(law.batch_shape)}, one entry "
            f"per sequence; got {tuple(batch_shape)}"
        )


def _emission(emission: Emission | str) -> Emission:
    made = SHORTHAND[emission]() if emission in tuple(SHORTHAND) else emission
    require(
        isinstance(made, Emission) and not isinstance(made, Regression | NeuralEmission),
        "emission",
        f"must be an Emission without inputs and lags of its own, or one of {sorted(SHORTHAND)}",
        repr(emission),
    )
    assert isinstance(made, Emission)
    require_still(made, "emission")
    return made
