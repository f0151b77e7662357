"""The guide of deep Markov models: a network that reads the sequence, and a path drawn from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple, Self, cast, get_args

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ...models import DeepLaws, DeepMarkovModel, Model, Sequences, TrajectoryLaws
from ...models.boundary import boundary
from ...models.checks import require, require_count
from ...models.continuous.deep import normal_log_prob, spread
from ...models.emissions.emission import Parameters
from ...models.emissions.observations import of_channels
from ...models.randomness import seeded
from ..filters.recurrent import FLAGGED_FEATURES, channel_scale, input_scale, no_scale
from ..queries.batches import require_read, times_ahead
from .guide import Guide
from .parameters import Uncertainty
from .scans import path_scan, relative_path_scan, relu_scan

Cell = Literal["relu", "lstm"]
Direction = Literal["backward", "forward", "both"]


class _Reader(nn.Module):
    """One recurrent network that reads rows sorted by length in one direction."""

    def __init__(self, cell: Cell, channels: int, hidden_size: int, *, reverse: bool) -> None:
        super().__init__()
        self.cell: Cell = cell
        self.reverse = reverse
        if cell == "lstm":
            self.network = nn.LSTM(channels, hidden_size)
        else:
            self.into = nn.Linear(channels, hidden_size)
            self.onward = nn.Parameter(torch.empty(hidden_size, hidden_size))
            self.origin = nn.Parameter(torch.zeros(hidden_size))
            bound = 1 / math.sqrt(hidden_size)
            for weight in (self.into.weight, self.into.bias, self.onward):
                nn.init.uniform_(weight, -bound, bound)  # as torch.nn.RNN does

    def forward(self, x: Tensor, counts: tuple[int, ...]) -> Tensor:
        """States of the network (T, n, H) for rows x (T, n, C)."""
        if self.cell == "relu":
            return relu_scan(self.into(x), self.origin, self.onward, counts, reverse=self.reverse)
        if not self.reverse:  # steps beyond the length have no effect
            out: Tensor = self.network(x)[0]
            return out
        index = _turned(counts, x.device)
        rows = torch.arange(x.shape[1], device=x.device)
        turned: Tensor = self.network(x[index, rows])[0]
        return turned[index, rows]


@boundary
class TrajectoryNetwork(nn.Module):
    r"""The network of a ``DeepGuide``: h_t from the sequence, and a law of z_t from (z_{t-1}, h_t).

    .. math::
        c_t = \tfrac12 (\tanh(z_{t-1} W + b) + h_t), \qquad
        z_t \sim N(c_t V_1 + v_1,\ \log(1 + \exp(c_t V_2 + v_2))^2)

    h_t are the states of a recurrent network, which reads the future ("backward", y_t … y_T), the
    past ("forward"), or both, each with a network of its own; then c_t is the mean of three. z_0 is
    learned.

    Args:
        hidden_size: number of units of the recurrent network, and of c.
        direction: what h_t reads.
        cell: ``"relu"``, an Elman network with relu, as in the paper, or ``"lstm"``.
        dropout: share of the channels of every step that are hidden from the network in training.
        relative: the network gives the mean of z_t relative to that of the model's own transition,
            μ(z_{t-1}), instead of its value (Fraccaro et al. 2016).

    Source: Krishnan, Shalit & Sontag (2017).

    >>> from beliefzoo.inference import DeepGuide, TrajectoryNetwork
    >>> from beliefzoo.models import Bernoulli, DeepMarkovModel
    >>> model = DeepMarkovModel(2, Bernoulli(4), transition_width=8, emission_width=8)
    >>> network = TrajectoryNetwork(hidden_size=8, direction="backward")
    >>> guide = DeepGuide(model, network)
    >>> sum(weight.numel() for weight in network.parameters())
    206
    """

    causal = False  # its law of z_t depends on z_{t-1}: no belief, even if "forward"

    def __init__(
        self,
        hidden_size: int = 600,
        *,
        direction: Direction = "backward",
        cell: Cell = "relu",
        dropout: float = 0.0,
        relative: bool = False,
    ) -> None:
        super().__init__()
        require_count(hidden_size, "hidden_size")
        require(
            direction in get_args(Direction),
            "direction",
            f"must be one of {get_args(Direction)}",
            repr(direction),
        )
        require(cell in get_args(Cell), "cell", f"must be one of {get_args(Cell)}", repr(cell))
        require(0 <= dropout < 1, "dropout", "must be in [0, 1)", dropout)
        self.hidden_size = hidden_size
        self.direction: Direction = direction
        self.cell: Cell = cell
        self.dropout = dropout
        self.relative = bool(relative)
        self.readers = nn.ModuleList()
        for name in ("shift", "scale", "input_shift", "input_scale"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))

    shift: Tensor
    scale: Tensor
    input_shift: Tensor
    input_scale: Tensor
    _sizes: tuple[int, int, int, int]
    """Channels of the observations, missing flags, inputs, components of the state."""

    def build(self, model: Model) -> None:
        """Makes weights of the sizes that the model needs, once."""
        kind = model.observations
        flags = 0 if kind.codes else kind.features if kind.features <= FLAGGED_FEATURES else 1
        sizes = kind.channels, flags, model.inputs + int(model.timed), model.states
        if self.readers:
            if sizes != self._sizes:
                raise ValueError(
                    "filter: built for (channels, flags, inputs and gaps, states) = "
                    f"{self._sizes}, got a model with {sizes}; make a new TrajectoryNetwork"
                )
            return
        self._sizes = sizes
        channels, width, size = sum(sizes[:3]), self.hidden_size, model.states
        for reverse in (True, False):
            if self.direction in ("both", "backward" if reverse else "forward"):
                self.readers.append(_Reader(self.cell, channels, width, reverse=reverse))
        self.into = nn.Linear(size, width)
        self.out = nn.Linear(width, 2 * size)
        self.origin = nn.Parameter(torch.zeros(size))
        self.shift, self.scale = no_scale(kind.channels)
        self.input_shift, self.input_scale = no_scale(model.inputs)

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Standardises the channels by the data, unless they are symbols or bits."""
        if not model.observations.codes:
            shift, scale = channel_scale(data, model.observations)
            self.shift, self.scale = shift.to(self.shift), scale.to(self.scale)
        if model.inputs:
            self.input_shift, self.input_scale = input_scale(data)

    def channels(self, laws: DeepLaws) -> Tensor:
        """Returns the inputs of the recurrent network, (N, T, C)."""
        kind = laws.model.observations
        dtype = self.out.weight.dtype
        y, mask = kind.read(laws.data)
        seen = mask if mask.ndim == 3 else mask.unsqueeze(-1)
        encoded = kind.encode(y)
        if not kind.codes:
            encoded = (encoded.double() - self.shift) / self.scale
        parts = [torch.where(of_channels(kind, seen), encoded.to(dtype), 0)]
        flags = self._sizes[1]
        if flags:
            missing = ~seen if flags == seen.shape[-1] else ~seen.any(-1, keepdim=True)
            parts.append(missing.to(dtype))
        if laws.model.inputs:
            assert laws.data.inputs is not None  # the model checked the data
            inputs = (laws.data.inputs.double() - self.input_shift) / self.input_scale
            parts.append(inputs.to(dtype))
        if laws.step_gaps is not None:  # in units of the typical gap
            parts.append((laws.step_gaps * laws.model.transition.rate).log().to(dtype))
        out = torch.cat(parts, -1)
        return nn.functional.dropout(out, self.dropout, self.training)

    def potentials(self, laws: DeepLaws) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Returns the contribution of h_t to the law of z_t, bias included.

        Returns:
            (T, N, 2 D), rows sorted by length, longest first; the sequences of the rows (N,); and
            the number of rows with a step t.
        """
        order = laws.lengths.argsort(descending=True, stable=True)
        steps = torch.arange(laws.data.max_length, device=order.device)
        counts = tuple((laws.lengths > steps.unsqueeze(-1)).sum(-1).tolist())
        x = self.channels(laws)[order].transpose(0, 1).contiguous()
        hidden = self.readers[0](x, counts)
        for reader in self.readers[1:]:
            hidden = hidden + reader(x, counts)
        return (
            nn.functional.linear(hidden, self._share * self.out.weight, self.out.bias),
            order,
            counts,
        )

    @property
    def configuration(self) -> dict[str, object]:
        """The arguments of the constructor."""
        names = ("hidden_size", "direction", "cell", "dropout", "relative")
        return {name: getattr(self, name) for name in names}

    @property
    def _share(self) -> float:
        """1 / number of parts that are averaged in c_t."""
        return 1 / (1 + len(self.readers))

    @property
    def kernel(self) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """(W, b), and the matrix from the tanh units to mean and raw scale."""
        return (self.into.weight.t(), self.into.bias), self._share * self.out.weight.t()

    def forward(self, laws: TrajectoryLaws) -> Tensor:
        """Raises ValueError: the network has no belief about z_t alone."""
        raise ValueError(
            "filter: a TrajectoryNetwork says nothing of z_t alone; it belongs into a DeepGuide"
        )


@boundary
class DeepGuide(Guide):
    """Posterior of a ``DeepMarkovModel``: q(z | y) = Π_t q(z_t | z_{t-1}, h_t).

    The bound is estimated from reparametrised trajectories, with the divergence of every step from
    the model's transition in closed form given the previous state.

    Args:
        model: the model whose posterior this is.
        filter: a ``TrajectoryNetwork``; its weights are made here.
        parameters: posterior of the model's weights, see :class:`Guide`; default: a point, as there
            are many.
        particles: number of trajectories per sequence from which a bound is estimated.
        annealing: number of training steps in which the divergence from the model's chain has a
            smaller weight, growing linearly from ``least_weight``. The losses of a fit are those of
            that objective; held-out data are always measured by the bound itself.
        least_weight: weight at the first step.

    >>> from beliefzoo.inference import DeepGuide, FitSettings, TrajectoryNetwork, fit
    >>> from beliefzoo.models import Bernoulli, DeepMarkovModel, Sequences
    >>> model = DeepMarkovModel(2, Bernoulli(3), transition_width=8, emission_width=8)
    >>> guide = DeepGuide(model, TrajectoryNetwork(hidden_size=8))
    >>> data = Sequences.from_arrays([[[1, 0, 0], [0, 1, 0], [0, 0, 1]]] * 4)
    >>> result = fit(model, guide, data, settings=FitSettings(steps=5), seed=0, progress=False)
    >>> result.guide.forecast(data, 2, draws=50, seed=0).draws.shape
    torch.Size([50, 4, 2, 3])
    """

    filter: TrajectoryNetwork

    def __init__(
        self,
        model: DeepMarkovModel,
        filter: TrajectoryNetwork,
        *,
        parameters: Uncertainty = "map",
        particles: int = 1,
        annealing: int = 0,
        least_weight: float = 0.2,
    ) -> None:
        require(isinstance(model, DeepMarkovModel), "model", "must be a DeepMarkovModel", model)
        require(
            not (model.timed and getattr(filter, "relative", False)),
            "filter",
            "relative=True is for models in discrete time",
            model,
        )
        require_count(particles, "particles")
        require_count(annealing, "annealing", 0)
        require(0 <= least_weight <= 1, "least_weight", "must be in [0, 1]", least_weight)
        super().__init__(model, filter, parameters=parameters)
        self.particles = particles
        self.annealing = annealing
        self.least_weight = least_weight
        self.register_buffer("trained_steps", torch.zeros((), dtype=torch.int64))

    trained_steps: Tensor

    def _check_filter(self, filter: Any) -> None:
        require(
            isinstance(filter, TrajectoryNetwork),
            "filter",
            "DeepGuide needs a TrajectoryNetwork",
            repr(filter),
        )

    def fresh(self, start: Mapping[str, Tensor]) -> Self:
        """Returns a copy with parameters centred on ``start`` and the same filter weights."""
        out = super().fresh(start)
        out._buffers = {"trained_steps": torch.zeros_like(self.trained_steps)}
        return out

    @property
    def noiseless(self) -> bool:
        """False: bounds are estimates."""
        return False

    @property
    def options(self) -> dict[str, object]:
        """The arguments besides model, filter and ``parameters``."""
        return {name: getattr(self, name) for name in ("particles", "annealing", "least_weight")}

    @property
    def divergence_weight(self) -> float:
        """The current weight of the divergence in training."""
        done = int(self.trained_steps)
        if done >= self.annealing:
            return 1.0
        return self.least_weight + (1 - self.least_weight) * done / self.annealing

    def posterior(self, laws: TrajectoryLaws, *, learn: bool = True) -> DeepPosterior:
        """Returns q(states | y) at given laws; the network is constant if not ``learn``."""
        laws = cast(DeepLaws, laws)  # of the guide's own model, which is asked for
        with torch.set_grad_enabled(learn and torch.is_grad_enabled()):
            potentials = self.filter.potentials(laws)
        return DeepPosterior(laws, self.filter, *potentials, learn=learn)

    def bound(self, laws: TrajectoryLaws) -> Tensor:
        """Estimates the bound on log p(y) of each sequence, (N,) nats; differentiable."""
        posterior = self.posterior(laws)
        if not self.training:
            return posterior.elbo(self.particles)
        weight = self.divergence_weight
        self.trained_steps += 1
        return posterior.elbo(self.particles, weight)

    def continuation(
        self,
        known: Model,
        data: Sequences,
        steps: int,
        *,
        weighted: int,
        inputs: Tensor | None = None,
        times: Tensor | None = None,
        actions: Tensor | None = None,
    ) -> Tensor:
        """Draws one continuation of every sequence from the guide's weighted trajectories."""
        del actions  # deep models read none
        ahead = continued(
            self, known.known, data, steps, draws=weighted, inputs=inputs, times=times
        )
        return ahead.draws[0]

    def forecast(
        self,
        data: Sequences,
        steps: int,
        *,
        draws: int = 1000,
        inputs: Tensor | None = None,
        times: Tensor | None = None,
        seed: int | None = None,
    ) -> SimulatedForecast:
        """Continues every sequence by simulation from the guide's last states.

        Parameters are at their medians. The last states are resampled from the guide's draws by
        their importance weights, so that they follow the model's own posterior as ``draws`` grow.

        Args:
            data: the observed sequences.
            steps: number of steps ahead, H >= 1.
            draws: number of continuations.
            inputs: covariates of the future (N, H, columns), if the model takes them.
            times: of these steps (N, H), later than all observed ones, if the model reads them.
            seed: of the simulation; torch's global generator is left unchanged.

        Returns:
            States and observations of all continuations.

        Raises:
            ValueError: a bad argument, or data that the model cannot emit.
        """
        require_count(steps, "steps")
        require_count(draws, "draws")
        require_read(self.model, inputs=inputs, times=times)
        self.model.check(data)
        with seeded(seed):
            return continued(
                self, self.median(), data, steps, draws=draws, inputs=inputs, times=times
            )


class SimulatedForecast(NamedTuple):
    """Simulated continuations of every sequence."""

    states: Tensor
    """(draws, N, H, D)."""
    draws: Tensor
    """Observations, (draws, N, H) codes or (draws, N, H, F)."""


def continued(
    guide: Guide,
    values: Parameters,
    data: Sequences,
    steps: int,
    *,
    draws: int,
    inputs: Tensor | None,
    times: Tensor | None,
) -> SimulatedForecast:
    """Continues every sequence from the last states of a deep model's guide, at these parameters.

    The states are resampled from ``draws`` draws of the guide by their importance weights.

    Raises:
        ValueError: inputs or times of the future that are missing, or not of its shape.
    """
    size = guide.model.inputs
    shape = (len(data), steps, size)
    came = None if inputs is None else tuple(inputs.shape)
    if came != (shape if size else None):
        raise ValueError(f"inputs: forecasting needs {shape if size else 'none'}, got {came}")
    gap = None
    if guide.model.timed:
        assert data.times is not None  # checked with the data
        last_time = data.times[torch.arange(len(data)), data.lengths - 1]
        gap = times_ahead(last_time, steps, times).diff(dim=1)
    else:
        require(times is None, "times", f"{guide.model} reads none", type(times).__name__)
    with torch.no_grad():
        laws = cast(DeepLaws, guide.model.laws(values, data))
        posterior = guide.posterior(laws, learn=False)
        paths = posterior.sample_paths(draws)
        log_w = posterior.chain_log_prob(paths) + posterior.emission_log_prob(paths)
        log_w = log_w - posterior.path_log_prob(paths)
        chosen = torch.multinomial(log_w.mT.softmax(-1), draws, replacement=True).mT
        rows = torch.arange(len(data))
        last = paths[:, rows, laws.lengths - 1][chosen, rows].to(laws.dtype)
        return SimulatedForecast(*laws.continued(last, steps, inputs, gap))


class DeepPosterior(dist.TorchDistribution):
    """q(z | y) of a ``DeepGuide``: trajectories, batch (N,), event (T, D)."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self,
        laws: DeepLaws,
        network: TrajectoryNetwork,
        potential: Tensor,
        order: Tensor,
        counts: tuple[int, ...],
        *,
        learn: bool = True,
    ) -> None:
        self.laws = laws
        self.potential = potential
        self._order, self._counts = order, counts
        self.relative = network.relative
        parts = (*network.kernel[0], network.kernel[1], network.origin)
        weight, bias, out, origin = (part if learn else part.detach() for part in parts)
        self._into, self._out, self._origin = (weight, bias), out, origin
        event = torch.Size([len(counts), laws.model.states])
        super().__init__(laws.lengths.shape, event, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> DeepPosterior:
        if torch.Size(batch_shape) != self.batch_shape:
            raise ValueError(
                f"DeepPosterior: batch shape is fixed at {tuple(self.batch_shape)}, one entry a "
                f"sequence; got {tuple(batch_shape)}"
            )
        return self

    @cached_property
    def _place(self) -> Tensor:
        """Where each sequence is among the sorted rows, (N,)."""
        return self._order.argsort()

    def _drawn(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Paths (T, N, n, D) and moments (T, N, n, 2 D) of noise (T, N, n, D), rows sorted."""
        steps, sequences, n, _ = noise.shape
        potential = self.potential
        if n > 1:
            potential = potential.repeat_interleave(n, 1)
        counts = [n * count for count in self._counts]
        flat = noise.flatten(1, 2)
        if self.relative:
            paths, moments = self._drawn_relative(potential, flat, counts)
        else:
            paths, moments = path_scan(self._origin, potential, flat, self._into, self._out, counts)
        shape = steps, sequences, n, -1
        return paths.view(shape), moments.view(shape)

    def _drawn_relative(
        self, potential: Tensor, noise: Tensor, counts: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Paths (T, R, D) of R rows, and their distances and raw scales (T, R, 2 D)."""
        laws, n = self.laws, noise.shape[1] // len(self._order)
        values = {name: value.to(noise.dtype) for name, value in laws.parameters.items()}
        drivers = laws.drivers
        if drivers is not None:
            drivers = drivers[self._order].transpose(0, 1).to(noise.dtype)
        matrix, offset = laws.model.transition.joined(values, drivers)
        weight, bias = self._into
        if offset.ndim == 3:
            offset = offset.repeat_interleave(n, 1)
            bias = bias.expand(*offset.shape[:-1], -1)
        first = laws.first()[0].to(noise.dtype)
        if len(first) > 1:
            first = first[self._order].repeat_interleave(n, 0)
        # Before the first step there is no state for the tanh units to read.
        paths, moments, _ = relative_path_scan(
            first,
            potential,
            noise,
            (torch.cat([weight, matrix], -1), torch.cat([bias, offset], -1)),
            self._out,
            (values["transition_gate_weight1"], values["transition_gate_bias1"]),
            (values["transition_proposal_weight1"], values["transition_proposal_bias1"]),
            counts,
        )
        return paths, moments

    def _noise(self, n: int) -> Tensor:
        steps, sequences = self.potential.shape[:2]
        shape = steps, sequences, n, self.event_shape[-1]
        return torch.randn(shape, dtype=self.potential.dtype, device=self.potential.device)

    def path(self, noise: Tensor) -> Tensor:
        """Returns the trajectories (n, N, T, D) for standard normal noise of that shape."""
        paths, _ = self._drawn(noise[:, self._order].permute(2, 1, 0, 3))
        return paths[:, self._place].permute(2, 1, 0, 3)

    def sample_paths(self, n: int) -> Tensor:
        """n trajectories per sequence, (n, N, T, D), reparametrised; zero beyond the length."""
        paths, _ = self._drawn(self._noise(n))
        return paths[:, self._place].permute(2, 1, 0, 3).to(self.laws.dtype)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        return self.sample_paths(shape.numel()).reshape(shape + self.batch_shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.path_log_prob(value)

    def moments(self, paths: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every state of trajectories given the one before.

        In the rows of the laws, (…, M, D) each.
        """
        sequence, step = self.laws.places
        before = self.laws.rows_before(paths).to(self.potential.dtype)
        origin = torch.zeros_like(self._origin) if self.relative else self._origin
        before = torch.where((step == 0).unsqueeze(-1), origin, before)
        weight, bias = self._into
        units = torch.tanh(before @ weight + bias)
        both = self.potential[step, self._place[sequence]] + units @ self._out
        mean, raw = both.to(self.laws.dtype).chunk(2, -1)
        if self.relative:
            mean = mean + self.laws.predicted(self.laws.rows_before(paths))[0]
        return mean, spread(raw)

    def step(self, before: Tensor | None, t: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z_t (t from 0 on) given the states before, (…, N, D).

        ``before`` is None at t = 0. For particles, which take one step after the other.
        """
        weight, bias = self._into
        origin = torch.zeros_like(self._origin) if self.relative else self._origin
        given = origin if before is None else before.to(self.potential.dtype)
        units = torch.tanh(given @ weight + bias)
        mean, raw = (self.potential[t, self._place] + units @ self._out).chunk(2, -1)
        mean = mean.to(self.laws.dtype)
        if self.relative:
            expected = self.laws.first() if before is None else self.laws._moved(before, t - 1)
            mean = mean + expected[0]
        return mean, spread(raw).to(self.laws.dtype)

    def path_log_prob(self, paths: Tensor) -> Tensor:
        """log q of trajectories (…, N, T, D), (…, N)."""
        return self.laws.summed(normal_log_prob(self.laws.rows(paths), *self.moments(paths)))

    def chain_log_prob(self, paths: Tensor) -> Tensor:
        """log p of trajectories (…, N, T, D) under the model's chain, (…, N)."""
        return self.laws.chain_log_prob(paths)

    def emission_log_prob(self, paths: Tensor) -> Tensor:
        """Σ_t log O(y_t | z_t) of trajectories, (…, N)."""
        return self.laws.emission_log_prob(paths)

    def elbo(self, particles: int = 1, weight: float = 1.0) -> Tensor:
        r"""An estimate of the bound of every sequence, (N,) nats; differentiable.

        .. math::
            \sum_t \log O(y_t | z_t) - w\, KL(q(z_t | z_{t-1}, h_t) \,\|\, p(z_t | z_{t-1})),
            \qquad z \sim q

        Args:
            particles: trajectories per sequence.
            weight: w, 1 for the bound itself.
        """
        laws = self.laws
        paths, moments = self._drawn(self._noise(particles))
        now, step = self._row_places
        z, before = (
            _picked(paths, place).to(laws.dtype)
            for place in (now, now - (step > 0) * paths.shape[1])
        )
        mean, raw = _picked(moments, now).to(laws.dtype).chunk(2, -1)
        expected, scale = laws.predicted(before)
        mean = expected + mean if self.relative else mean
        divergence = normal_divergence(mean, spread(raw), expected, scale)
        emitted = laws.score(laws.observed_rows, z)
        return (emitted - weight * laws.summed(divergence)).mean(0)

    @cached_property
    def _row_places(self) -> tuple[Tensor, Tensor]:
        """Where the laws' rows are in (time, sorted row), flattened, and their steps."""
        sequence, step = self.laws.places
        return step * len(self._order) + self._place[sequence], step

    @cached_property
    def _sampled(self) -> Tensor:
        with torch.no_grad():
            return self.sample_paths(_MEAN_PATHS)

    @property
    def mean(self) -> Tensor:
        """Mean of every state, from drawn trajectories, (N, T, D)."""
        return self._sampled.mean(0)

    @property
    def variance(self) -> Tensor:
        """Variance of every state, from drawn trajectories, (N, T, D)."""
        return self._sampled.var(0)


_MEAN_PATHS = 64
"""Trajectories that means and variances are taken over."""


def normal_divergence(mean: Tensor, scale: Tensor, other: Tensor, other_scale: Tensor) -> Tensor:
    """KL(N(mean, scale²) ‖ N(other, other_scale²)), summed over the last axis."""
    ratio = scale / other_scale
    distance = (mean - other) / other_scale
    return (0.5 * (ratio.square() + distance.square() - 1) - ratio.log()).sum(-1)


def _picked(table: Tensor, place: Tensor) -> Tensor:
    """Rows (n, M, …) of (T, N, n, …) at flat places of (T, N)."""
    return table.flatten(0, 1).index_select(0, place).movedim(1, 0)


def _turned(counts: tuple[int, ...], device: torch.device) -> Tensor:
    """Steps of rows sorted by length, each turned around: (T, n), its own inverse."""
    steps = torch.arange(len(counts), device=device)
    count = torch.tensor(counts, device=device)
    rows = torch.arange(counts[0], device=device)
    lengths = (count.unsqueeze(-1) > rows).sum(0)
    return (lengths - 1 - steps.unsqueeze(-1)).clamp_min(0)
