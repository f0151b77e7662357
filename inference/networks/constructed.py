"""Recurrent networks whose weights are computed from a model: gates that are exact posteriors.

If a model's filter *is* the recursion of a recurrent cell, its parameters determine the weights.
Three such cases are known, see docs/science.md, I3, I6 and I7; for other models the conditions that
fail are named.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar, cast, overload

import numpy as np
import torch
from torch import Tensor, nn

from ...models import (
    HiddenMarkovModel,
    LinearGaussianSSM,
    LinearLaws,
    MemoryEmission,
    Model,
    Sequences,
    gate_conditions,
    node_gate,
)
from ...models.boundary import boundary
from ...models.chains.memory import EmptyMemory, MemoryTransition
from ...models.chains.nodes import node_states
from ...models.checks import require
from ...models.data.summary import missing_elements
from ..filters.gaussian_beliefs import GaussianBeliefs
from ..filters.natural import NaturalLSTMFilter
from ..filters.recurrences import recurrent_gates
from .written_gates import written_lstm

LINEAR_SCALE = 1e-6
"""Size, in standard deviations of the innovation, at which tanh is read as linear: it then errs by
a share (1e-6 y)² / 3 of y."""

EXACT = 1e-6
"""What counts as rounding: a coupling in nats, a relative difference of numbers that must agree.

A gate then errs by a quarter of that."""


# What is constructed


@dataclass(frozen=True)
class ConstructedCell:
    """An LSTM of one unit whose cell holds the mean of the hidden state given the past.

    .. math:: E[z_t | y_{1:t}] = offset + scale · c_t

    z is the memory of a memory model, or the state of a linear-Gaussian one.

    Attributes:
        model: the model that it was constructed for.
        network: float64, batch first; reads the features of y as they are.
        scale, offset: from the cell to the mean.
        deviation: standard deviation of the belief of a linear-Gaussian model, the same at every
            step; None for a memory model.

    >>> from beliefzoo.inference import construct, steady_state
    >>> from beliefzoo.models import LinearDynamics, LinearGaussianSSM
    >>> values = dict(transition=[[0.9]], process_variance=[1.0], loading=[[1.0]], intercept=0.0,
    ...               observation_variance=1.0, initial_mean=[0.0])
    >>> model = LinearGaussianSSM(LinearDynamics(1))
    >>> settled = steady_state(model.with_parameters(initial_variance=[1.0], **values))
    >>> variance = settled.predicted_covariance.diagonal()
    >>> cell = construct(model.with_parameters(initial_variance=variance, **values))
    >>> cell.network.hidden_size, round(cell.deviation**2 / settled.covariance.item(), 6)
    (1, 1.0)
    """

    model: Model
    network: nn.LSTM
    scale: float = 1.0
    offset: float = 0.0
    deviation: float | None = None

    def mean(self, data: Sequences) -> Tensor:
        """Returns E[z_t | y_1 … y_t], (N, T) float64; zero beyond the length of a sequence.

        Raises:
            ValueError: data that cannot come from the model, or with missing elements.
        """
        self.model.check_values(data)
        _require_whole(data)
        with torch.no_grad():
            cell = recurrent_gates(self.network, data.values.double())["c"]
        mean = self.offset + self.scale * cell[:, :, 0, 0]
        return torch.where(data.step_mask, mean, 0)

    def filter(self) -> ConstructedFilter:
        """Returns the cell of a linear-Gaussian model as a filter; its weights can be trained.

        Raises:
            ValueError: a memory model, since its cell holds only the mean of the state.
        """
        if self.deviation is None:
            raise ValueError(
                "model: a filter says the whole belief, and the cell of a memory model holds the "
                f"mean of its memory alone, got {self.model}"
            )
        return ConstructedFilter(self)


@dataclass(frozen=True)
class ConstructedGate:
    """A layer of k tanh units that computes the posterior of k binary nodes given the nodes before.

    One step of ``network`` from the states 2 h_{t-1} − 1 = ±1 with input y_t gives
    2 P(h_t = 1 | h_{t-1}, y_t) − 1, since σ(x) = (1 + tanh(x/2)) / 2. This is the posterior given a
    *sampled* h_{t-1}. Fed with its own output, a probability, it is a mean-field recursion and not
    exact (docs/science.md, I4).

    Attributes:
        model: the model that it was constructed for.
        network: float64, batch first; reads symbols as one-hot vectors.
        first: the network of the first step, which has no nodes before it.

    >>> import torch
    >>> from beliefzoo.inference import construct
    >>> from beliefzoo.models import Sequences, TemporalSigmoidBeliefNetwork
    >>> model = TemporalSigmoidBeliefNetwork(1, "gaussian").with_parameters(
    ...     node_initial=[0.0], node_weight=[[2.0]], node_bias=[0.0],
    ...     node_loading=[[1.0]], node_intercept=[0.0], scale=[1.0],
    ... )
    >>> data, path = Sequences.from_arrays([[0.5, 0.5]]), torch.tensor([[1, 1]])
    >>> construct(model).probabilities(data, path).numpy().round(4).flatten()  # σ(0), σ(2)
    array([0.5   , 0.8808])
    """

    model: HiddenMarkovModel
    network: nn.RNN
    first: nn.RNN

    def probabilities(self, data: Sequences, paths: Tensor) -> Tensor:
        """Returns P(h_t = 1 | h_{t-1}, y_t), (N, T, k) float64; zero beyond a sequence's length.

        Args:
            data: the sequences.
            paths: codes of the 2^k states, (N, T).

        Raises:
            ValueError: data that cannot come from the model, or with missing elements, or paths of
                another shape or dtype.
        """
        self.model.check_values(data)
        data = self.model.names.read(data)
        _require_whole(data)
        _check_paths(paths, data, self.model.states)
        y = self.model.observations.encode(self.model.observations.read(data)[0]).double()
        signs = 2 * node_states(self.network.hidden_size)[paths.clamp_min(0)] - 1
        with torch.no_grad():
            first = self.first(y[:, :1])[0]
            before = signs[:, :-1].reshape(1, -1, signs.shape[-1])
            rest = self.network(y[:, 1:].flatten(0, 1).unsqueeze(1), before)[0]
        rest = rest.reshape(len(y), -1, signs.shape[-1])
        found = (1 + torch.cat([first, rest], 1)) / 2
        return torch.where(data.step_mask.unsqueeze(-1), found, 0)


def _check_paths(paths: Tensor, data: Sequences, states: int) -> None:
    shape = tuple(data.step_mask.shape)
    whole = isinstance(paths, Tensor) and not paths.is_floating_point()
    came = f"{paths.dtype} {tuple(paths.shape)}" if isinstance(paths, Tensor) else type(paths)
    fits = whole and paths.shape == shape
    require(fits, "paths", f"needs whole numbers of shape {shape}", came)
    inside = paths[data.step_mask.to(paths.device)]
    least, most = int(inside.min()), int(inside.max())
    met = least >= 0 and most < states
    require(met, "paths", f"needs states 0 … {states - 1}", f"{least} … {most}")


@boundary
class ConstructedFilter(nn.Module):
    """A constructed cell as a filter: normal beliefs with the cell's mean and a fixed variance.

    Its weights are parameters and can be trained further; ``scale``, ``offset`` and ``deviation``
    of the cell stay as constructed.

    Args:
        cell: a cell of a linear-Gaussian model.

    >>> from beliefzoo.inference import BeliefGuide, ConstructedFilter, construct, evidence_gap
    >>> from beliefzoo.inference import steady_state
    >>> from beliefzoo.models import LinearDynamics, LinearGaussianSSM
    >>> values = dict(transition=[[0.9]], process_variance=[1.0], loading=[[1.0]], intercept=0.0,
    ...               observation_variance=1.0, initial_mean=[0.0])
    >>> model = LinearGaussianSSM(LinearDynamics(1))
    >>> settled = steady_state(model.with_parameters(initial_variance=[1.0], **values))
    >>> model = model.with_parameters(
    ...     initial_variance=settled.predicted_covariance.diagonal(), **values
    ... )
    >>> guide = BeliefGuide(model, ConstructedFilter(construct(model)))
    >>> round(abs(evidence_gap(guide, model.sample(5, 20, seed=0).data).gap_per_step), 6)
    0.0
    """

    causal = True

    def __init__(self, cell: ConstructedCell) -> None:
        super().__init__()
        assert cell.deviation is not None
        self.model = cell.model
        self.network = cell.network
        self.scale, self.offset, self.deviation = cell.scale, cell.offset, cell.deviation

    def build(self, model: Model) -> None:
        """Checks that the model is of the kind that the cell was constructed for."""
        same = type(model) is type(self.model) and model.belief == self.model.belief
        if not same or model.observations != self.model.observations:
            raise ValueError(f"filter: constructed for {self.model}, got {model}")

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Does nothing: the weights are in the units of the data."""

    def forward(self, laws: LinearLaws) -> GaussianBeliefs:
        """Returns normal beliefs about (N, T, 1)."""
        _require_whole(laws.data)
        like = next(self.network.parameters())
        cell = recurrent_gates(self.network, laws.values.to(like))["c"][:, :, 0]
        mean = self.offset + self.scale * cell.double()
        return GaussianBeliefs(mean, mean.new_full(mean.shape, self.deviation).unsqueeze(-1))


def _require_whole(data: Sequences) -> None:
    missing = missing_elements(data)
    if missing:
        raise ValueError(
            "data: the weights are written for steps that are observed whole, got "
            f"{missing} missing element(s)"
        )


# Construction


@overload
def construct(model: Model, *, units: int, seed: int = 0) -> NaturalLSTMFilter: ...
@overload
def construct(model: LinearGaussianSSM) -> ConstructedCell: ...
@overload
def construct(model: Model) -> ConstructedCell | ConstructedGate: ...
@boundary
def construct(
    model: Model, *, units: int | None = None, seed: int = 0
) -> ConstructedCell | ConstructedGate | NaturalLSTMFilter:
    """Computes the weights of a recurrent network from a model's parameters, all of them known.

    - ``GatedAccumulator``, ``ResetModel`` (docs/science.md, I7): a ``ConstructedCell`` with
      f = P(u=1|y_t), i = P(v=1|y_t), g = E[x|y_t], o = ½; i = 1 − f for the reset model.
    - ``LinearGaussianSSM`` with one state and one output in its steady state (I6): a
      ``ConstructedCell`` with constant gates i = K C, f = a (1 − K C), and g ∝ y / C, scaled to
      where tanh is linear.
    - ``TemporalSigmoidBeliefNetwork``, ``TemporalRBM`` (I3): a ``ConstructedGate``.

    The posterior quantity is exact up to rounding, or to 1e-6 where tanh replaces a line.

    With ``units`` an LSTM whose cells are the natural parameters of the belief (I9), for chains
    that stay or redraw, T = (1 − ε) I + ε 1 π' (any two states that rather stay), and for one
    normal state, 0 < a < 1, if the first law is the stationary one: a :class:`NaturalLSTMFilter`,
    work divided, W_h not zero. What is written is exact; the forget gate is a function of the
    belief that auxiliary units approximate, so that the error falls with their number. KL to the
    exact filter, nats a step, of switch rates .1 and .3 and means ±1: 9e-4 with 4 units, 7e-5 with
    8, 1e-7 with 16, 2e-10 with 32 (``beliefzoo run written-gates``).

    Args:
        model: with all parameters known.
        units: number of auxiliary units, or None for the networks of the list.
        seed: of the simulated beliefs over which the auxiliary units are fitted.

    Returns:
        The network, with what is needed to read its output; with ``units`` a filter.

    Raises:
        ValueError: a model for which no network is exact, with the conditions that fail (see
            :func:`failing_conditions`); another model, or one with unknown parameters.

    >>> from beliefzoo.inference import construct
    >>> from beliefzoo.models import ResetModel, Sequences
    >>> model = ResetModel().with_parameters(
    ...     keep=0.7, positive=0.5, loading=[[1.0, 0.0], [0.0, 2.0]],
    ...     intercept=[0.0, 0.0], scale=[1.0, 1.0],
    ... )
    >>> data = Sequences.from_arrays([[[0.0, 1.0], [3.0, -1.0], [-3.0, -1.0]]])
    >>> construct(model).mean(data).numpy().round(3)  # drawn, held, drawn again
    array([[ 0.289,  0.288, -0.957]])

    >>> from beliefzoo.inference import BeliefGuide, evidence_gap
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[2 / 3, 1 / 3], transition=[[0.95, 0.05], [0.1, 0.9]], rate=[1.0, 4.0]
    ... )
    >>> guide = BeliefGuide(model, construct(model, units=16))
    >>> evidence_gap(guide, model.sample(20, 100, seed=1).data).kl_filter_per_step < 1e-5
    True
    """
    if units is not None:
        return written_lstm(model, units, seed=seed)
    failing = failing_conditions(model)
    if failing:
        raise ValueError(
            f"model: no recurrent network is exact for it, since {'; and '.join(failing)}; "
            f"got {model}"
        )
    return _construction(model).build()


@boundary
def failing_conditions(model: Model) -> tuple[str, ...]:
    """Lists the conditions that fail for a recurrent network to be exact for the model.

    Args:
        model: of a kind that :func:`construct` knows, with all parameters known.

    Returns:
        Each failing condition in words; empty if :func:`construct` can build a network.

    Raises:
        ValueError: a model of another kind, or with unknown parameters.

    >>> from beliefzoo.inference import failing_conditions
    >>> from beliefzoo.models import LinearGaussianSSM, LocalLevel
    >>> model = LinearGaussianSSM(LocalLevel()).with_parameters(
    ...     observation_variance=1.0, level_variance=1.0
    ... )
    >>> for condition in failing_conditions(model):
    ...     print(condition[:78])
    its gain must be steady from the first step on, and the first state is flat (n
    """
    return tuple(_construction(model).failures())


class _Construction(NamedTuple):
    """What is written for a kind of model: the network, and the conditions that fail for it."""

    failures: Callable[[], list[str]]
    build: Callable[[], ConstructedCell | ConstructedGate]


def _construction(model: Model) -> _Construction:
    if isinstance(model, LinearGaussianSSM):
        return _Construction(partial(_kalman_failures, model), partial(_kalman_cell, model))
    chain, law = cast(HiddenMarkovModel, model), getattr(model, "transition", None)
    if isinstance(law, MemoryTransition):
        return _Construction(
            partial(_memory_failures, chain, law), partial(_memory_cell, chain, law)
        )
    if getattr(model, "nodes", None) is not None:
        return _Construction(partial(_coupled_nodes, chain), partial(_node_layer, chain))
    raise ValueError(
        "model: networks are constructed for memory models, for linear-Gaussian models and for "
        f"models of binary nodes, got {model!r}"
    )


Row = tuple[Tensor, Tensor | float]
"""Weights (features,) and bias of a gate that reads y alone."""

Recurrent = TypeVar("Recurrent", nn.LSTM, nn.RNN)


def _lstm(i: Row, f: Row, g: Row, features: int) -> nn.LSTM:
    """One unit with these gates and candidate; o = ½."""
    zeros = torch.zeros(features, dtype=torch.float64)
    rows: list[Row] = [i, f, g, (zeros, 0.0)]
    with torch.device("meta"):  # a shell for the weights: nothing is drawn
        network = nn.LSTM(features, 1, batch_first=True, dtype=torch.float64)
    bias = torch.stack([torch.as_tensor(row[1], dtype=torch.float64) for row in rows])
    weight = torch.stack([row[0] for row in rows])
    return _with_weights(network, weight, torch.zeros(4, 1, dtype=torch.float64), bias)


def _with_weights(network: Recurrent, from_y: Tensor, from_h: Tensor, bias: Tensor) -> Recurrent:
    """The network with these weights, its second bias being zero."""
    network = network.to_empty(device="cpu")
    values = {"weight_ih": from_y, "weight_hh": from_h, "bias_ih": bias, "bias_hh": 0 * bias}
    network.load_state_dict({f"{name}_l0": value for name, value in values.items()})
    return network


# Memory models


def _memory_failures(model: HiddenMarkovModel, law: MemoryTransition) -> list[str]:
    model.complete({})
    emission = model.emission
    if not isinstance(emission, MemoryEmission) or not isinstance(model.initial, EmptyMemory):
        return ["its emission must be a MemoryEmission and its first state an EmptyMemory"]
    values = {name: value.double() for name, value in model.complete({}).items()}
    failing = []
    for name in law.chances:
        if not 0 < float(values[name]) < 1:
            failing.append(f"{name} must lie between 0 and 1, where a gate can be")
    shared = emission.precision(values)
    names = emission.channels
    causes = len(law.channels)
    for one in range(causes):
        for other in range(one + 1, causes):
            size = float(shared[one, other])
            if abs(size) > EXACT:
                failing.append(
                    f"the channels of {names[one]} and {names[other]} are not separate: they share "
                    f"(B s^-2 B') = {size:.3g}"
                )
    if emission.leak and float(shared[-1, -1]) > EXACT:
        failing.append(
            "y tells of the memory before it: its channel has the precision "
            f"{float(shared[-1, -1]):.3g}"
        )
    return failing


def _memory_cell(model: HiddenMarkovModel, law: MemoryTransition) -> ConstructedCell:
    """Half the log odds of a cause are ½ logit P + (B s⁻²)(y − d), for causes coded ±1."""
    values = {name: value.double() for name, value in model.complete({}).items()}
    weight = values["loading"] / values["scale"].square()
    bias = -weight @ values["intercept"]
    half = {
        channel: (weight[row], bias[row] + values[name].logit() / 2)
        for row, (name, channel) in enumerate(zip(law.chances, law.channels, strict=True))
    }
    keep = half["keep"][0] * 2, half["keep"][1] * 2
    write = -keep[0], -keep[1]  # what is not kept is written anew
    if "write" in half:
        write = half["write"][0] * 2, half["write"][1] * 2
    return ConstructedCell(model, _lstm(write, keep, half["value"], weight.shape[-1]))


# The Kalman filter


class SteadyState(NamedTuple):
    """Covariances and gain to which the Kalman filter of a time-invariant model converges.

    Attributes:
        predicted_covariance: P⁻, (D, D): of z_t given y_1 … y_{t-1}.
        covariance: P, (D, D): of z_t given y_1 … y_t.
        gain: K, (D, F): m_t = m⁻_t + K (y_t − C m⁻_t).

    >>> import torch
    >>> from beliefzoo.inference import SteadyState
    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> settled = SteadyState(predicted_covariance=2 * one, covariance=one, gain=one / 2)
    >>> float(settled.covariance / settled.predicted_covariance)  # share 1 − K C that is kept
    0.5
    """

    predicted_covariance: Tensor
    covariance: Tensor
    gain: Tensor


def steady_state(model: LinearGaussianSSM) -> SteadyState:
    r"""Solves the Riccati equation of the Kalman filter.

    .. math::
        P^- = A P A' + Q , \quad K = P^- C' (C P^- C' + R)^{-1} , \quad P = (I - K C) P^-

    A model whose first state has the covariance P⁻ has this gain at every step.

    Args:
        model: time-invariant, with all parameters known.

    Returns:
        P⁻ and P (D, D) and the gain K (D, F), float64.

    Raises:
        ValueError: unknown parameters, laws that change over time, or no fixed point.

    >>> from beliefzoo.inference import steady_state
    >>> from beliefzoo.models import LinearGaussianSSM, LocalLevel
    >>> model = LinearGaussianSSM(LocalLevel()).with_parameters(
    ...     observation_variance=1.0, level_variance=1.0
    ... )
    >>> round(steady_state(model).gain.item(), 4)  # the golden ratio's 0.618…
    0.618
    """
    from scipy.linalg import solve_discrete_are  # loaded when first needed

    if not isinstance(model, LinearGaussianSSM):
        raise ValueError(f"model: must be a LinearGaussianSSM, got {model!r}")
    changing = _changing(model)
    if changing:
        raise ValueError(f"model: a steady state needs laws that do not change, {changing}")
    a, q, c, r = (part.numpy() for part in _matrices(_laws(model)))
    try:
        with np.errstate(all="ignore"):
            predicted = solve_discrete_are(a.T, c.T, q, r)
    except (np.linalg.LinAlgError, ValueError) as error:
        raise ValueError(
            "model: needs a steady state, which asks for observation noise in every feature and "
            f"states that are observed and driven by noise, or die out; got none ({error})"
        ) from error
    gain = np.linalg.solve(c @ predicted @ c.T + r, c @ predicted).T
    covariance = predicted - gain @ c @ predicted
    return SteadyState(*(torch.from_numpy(part) for part in (predicted, covariance, gain)))


def _laws(model: LinearGaussianSSM) -> LinearLaws:
    """Laws of three steps, float64: those that change over time have a time axis."""
    return model.laws({}, Sequences.from_tensors(model.observations.blank(1, 3)))


def _matrices(laws: LinearLaws) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A, Q, C, R."""
    parts = laws.transition, laws.noise, laws.loading, laws.observation_noise
    a, q, c, r = (part[0, 0].detach().double() for part in parts)
    return a, q, c, r


def _changing(model: LinearGaussianSSM) -> str:
    """Says what makes the laws change over time; "" if nothing does."""
    if model.timed:
        return "and these depend on the time between observations"
    if model.inputs:
        return "and these depend on inputs"
    usual = {name: prior.event_shape for name, prior in model.all_priors.items()}
    varying = [name for name, value in model.known.items() if value.shape != usual[name]]
    return f"and {', '.join(varying)} has an axis of steps" if varying else ""


def _kalman_failures(model: LinearGaussianSSM) -> list[str]:
    model.complete({})
    failing = []
    if model.states != 1:
        failing.append(f"one cell holds one number, and the state has {model.states} components")
    if model.observations.features != 1:
        features = model.observations.features
        failing.append(f"it must have one output, and there are {features}")
    changing = _changing(model)
    if changing:
        failing.append(f"its laws must be the same at every step, {changing}")
    if failing:
        return failing
    try:
        steady = steady_state(model)
    except ValueError as error:
        return [str(error).removeprefix("model: ")]
    return _start_failures(_laws(model), steady) + _gate_failures(_laws(model), steady)


def _start_failures(laws: LinearLaws, steady: SteadyState) -> list[str]:
    """The reasons why the filter is not in its steady state at the first step."""
    settled = float(steady.predicted_covariance)
    if laws.diffuse.shape[-1]:
        return [
            "its gain must be steady from the first step on, and the first state is flat (needs "
            f"the variance {settled:.6g} of steady_state)"
        ]
    failing = []
    start = float(laws.initial_covariance)
    if abs(start - settled) > EXACT * settled:
        failing.append(
            f"its gain must be steady from the first step on, and the first state has variance "
            f"{start:.6g} instead of {settled:.10g} (see steady_state)"
        )
    a, b, mean = (float(x) for x in (laws.transition, laws.offset, laws.initial_mean))
    drift = a * mean + b - mean
    if abs(drift) > EXACT * max(1.0, abs(mean)):
        failing.append(
            f"the first mean must be one that the moves leave as it is, and {mean:.6g} moves by "
            f"{drift:.3g}"
        )
    return failing


def _gate_failures(laws: LinearLaws, steady: SteadyState) -> list[str]:
    a, _, c, _ = (float(part) for part in _matrices(laws))
    share = float(steady.gain) * c
    failing = []
    for name, gate in (("i = K C", share), ("f = a (1 - K C)", a * (1 - share))):
        if not 1e-12 < gate < 1 - 1e-12:
            failing.append(f"a gate lies between 0 and 1, and {name} is {gate:.6g}")
    return failing


def _kalman_cell(model: LinearGaussianSSM) -> ConstructedCell:
    """Deviation of the mean from the stationary one: c_t = f c_{t-1} + i tanh(ε (y − d) / C)."""
    laws, steady = _laws(model), steady_state(model)
    a, _, c, r = (float(part) for part in _matrices(laws))
    rest, intercept = float(laws.initial_mean), float(laws.intercept)
    share = float(steady.gain) * c
    innovation = math.sqrt(c * c * float(steady.predicted_covariance) + r)
    unit = LINEAR_SCALE * abs(c) / innovation
    still = torch.zeros(1, dtype=torch.float64)
    logit_i, logit_f = (math.log(gate / (1 - gate)) for gate in (share, a * (1 - share)))
    candidate = still + unit / c, -unit * (intercept + c * rest) / c
    network = _lstm((still, logit_i), (still, logit_f), candidate, 1)
    deviation = math.sqrt(float(steady.covariance))
    return ConstructedCell(model, network, scale=1 / unit, offset=rest, deviation=deviation)


# Binary nodes


def _coupled_nodes(model: HiddenMarkovModel) -> list[str]:
    return [
        f"the observation couples nodes {one.nodes[0]} and {one.nodes[1]} by {one.size:.3g} "
        "nats (seeing one explains the other away)"
        for one in gate_conditions(model).coupled
        if one.size > EXACT
    ]


def _node_layer(model: HiddenMarkovModel) -> ConstructedGate:
    """tanh(½ (W_h h + W_y y + b)) on signs s = 2h − 1: W_h h = ½ W_h s + ½ W_h 1."""
    gate = node_gate(model)
    shift = gate.node_weight.sum(-1) / 2
    network = _rnn(gate.natural_weight / 2, gate.node_weight / 4, (gate.bias + shift) / 2)
    none = torch.zeros_like(gate.node_weight)
    return ConstructedGate(model, network, _rnn(gate.natural_weight / 2, none, gate.first_bias / 2))


def _rnn(from_y: Tensor, from_h: Tensor, bias: Tensor) -> nn.RNN:
    with torch.device("meta"):  # a shell for the weights: nothing is drawn
        network = nn.RNN(from_y.shape[1], len(from_y), batch_first=True, dtype=torch.float64)
    return _with_weights(network, from_y, from_h, bias)
