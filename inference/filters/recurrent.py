"""Recurrent filters: beliefs read off an LSTM, a GRU or an Elman network."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ...models import Model, Sequences, TrajectoryLaws
from ...models.beliefs import Belief, DiscreteBelief, GaussianBelief
from ...models.boundary import boundary
from ...models.chains.nodes import product_law
from ...models.checks import require, require_count, require_positive
from ...models.emissions.observations import Observations, of_channels
from ...models.randomness import seeded
from ..exact import gaussian as exact_gaussian
from ..queries.linear import arguments
from .gaussian_beliefs import GaussianBeliefs
from .linear_likelihood import LinearLikelihood
from .recurrences import recurrent_gates
from .slot import Beliefs

LIKELIHOOD_FLOOR = -20.0
"""Per-state log-likelihoods are read relative to their sum and cut here, to stay in scale."""


FLAGGED_FEATURES = 16
"""Up to here a network reads one missing flag per feature, beyond it one per step."""


Direction = Literal["forward", "backward", "both"]


Reading = Literal["observations", "likelihoods", "both"]


Memory = Literal["h", "c", "hc"]


_MOST_LAYERS = 1000
"""More are a mistake, or a damaged file: they would be built one by one for hours."""


_MOST_WEIGHTS = 2**32
"""Weights between units up to which a network is built: 16 GiB."""


_SCALED_ON = 256
"""Sequences that are simulated to find the scale of the states."""


_UNIT_SOFTPLUS = math.log(math.e - 1)
"""softplus of this is 1: a read-out of zero is the law of the states that nothing is known of."""


class RecurrentFilter(nn.Module):
    """A recurrent network followed by a linear read-out of the belief.

    For discrete states it reads out scores, whose softmax is the belief; for binary nodes the
    logits of a product of Bernoulli laws (or, unless ``factorised``, scores of all 2^k states). For
    continuous states it reads out mean and Cholesky factor (or standard deviations, see the model's
    ``belief``) in units of the standard deviation of the states, which ``calibrate`` computes.

    Args:
        hidden_size: number of units of the network.
        reads: ``"observations"`` (for a user's own network); ``"likelihoods"``, the information of
            the model about y_t alone, which follows the parameters when these are uncertain:
            log O_k(y_t), or for linear-Gaussian laws the stationary law of the states updated by
            y_t; or ``"both"``.
        layers: number of stacked layers.
        direction: ``"forward"`` reads the past; ``"backward"`` reads the future (h_t knows y_t to
            y_T), ``"both"`` reads all. The latter two are for ``ForwardGuide`` and
            ``MeanFieldGuide``, not for ``BeliefGuide``.
        gaps: whether to read the time since the previous step; None: if the model does.
        memory: what the belief is read off: the output ``"h"``, for an LSTM also its cell ``"c"``,
            or both, ``"hc"``.
        gain: factor of the read-out's scores. A belief that is sharp among many states needs scores
            in the hundreds, which weights reach ``gain`` times sooner than without.
        factorised: for a model of binary nodes, whether the belief is a product of Bernoulli laws,
            or has one logit for each of the 2^k states.
        network: a ``torch.nn`` network of your own to use (and train further) instead of a new one.
        frozen: keep the weights of ``network`` as they are (without its dropout) and train only the
            read-out.

    Raises:
        ValueError: a bad argument, or a model that it was not built for.
    """

    kind: ClassVar[type[nn.RNNBase]]
    parts: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        hidden_size: int = 32,
        *,
        reads: Reading = "observations",
        layers: int = 1,
        direction: Direction = "forward",
        gaps: bool | None = None,
        memory: Memory = "h",
        gain: float = 1.0,
        factorised: bool = True,
        network: nn.RNNBase | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        _require_one_of("memory", memory, get_args(Memory))
        if memory != "h" and (self.kind is not nn.LSTM or direction != "forward"):
            raise ValueError(
                "memory: only an LSTM that reads forward has a cell to read off, got "
                f"memory={memory!r} in {type(self).__name__}, direction={direction!r}"
            )
        require_positive(gain, "gain")
        _require_one_of("reads", reads, get_args(Reading))
        _require_one_of("direction", direction, get_args(Direction))
        _require_size(hidden_size, layers)
        if network is not None:
            if not isinstance(network, self.kind) or network.proj_size:
                raise ValueError(
                    f"network: must be a torch.nn.{self.kind.__name__} without projection, "
                    f"got {network}"
                )
            direction = _direction_of(network, direction)
            network = copy.deepcopy(network)
            network.batch_first = True
            hidden_size, layers = network.hidden_size, network.num_layers
            if frozen:
                network.requires_grad_(False)
                network.dropout = 0.0
        elif frozen:
            raise ValueError("frozen: needs a network of your own (network=…) to keep as it is")
        self.frozen = frozen
        self.hidden_size = int(hidden_size)
        self.layers = int(layers)
        self.reads = reads
        self.direction: Direction = direction
        self.gaps = gaps
        self.memory: Memory = memory
        self.gain = float(gain)
        self.factorised = factorised
        self.causal = direction == "forward"
        self.network = network
        self._users = network is not None
        self.head: nn.Linear | TiedReadOut | None = None
        self._flags = 0
        self._inputs = 0
        self._actions = 0
        for name in ("shift", "scale", "input_shift", "input_scale"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))

    shift: Tensor
    scale: Tensor
    """Mean and standard deviation of the channels, float64: data can lie far from zero."""
    input_shift: Tensor
    input_scale: Tensor
    """The same of the inputs."""
    gap: Tensor
    """Typical time between steps (geometric mean), where gaps are read."""
    state_shift: Tensor
    """Mean of continuous states, (D,)."""
    state_scale: Tensor
    """Standard deviations of continuous states, (D,)."""
    belief: Belief
    """What is read out."""
    _observations: Observations

    @property
    def configuration(self) -> dict[str, object]:
        """The arguments from which it is rebuilt, without weights it made itself.

        ``gaps`` is as the model decided.
        """
        own: dict[str, Any] = {"hidden_size": self.hidden_size, "layers": self.layers}
        if self._users:
            own = {"network": self.network, "frozen": self.frozen}
        kept = ("reads", "direction", "gaps", "memory", "gain", "factorised")
        return {**own, **{name: getattr(self, name) for name in kept}}

    def build(self, model: Model) -> None:
        """Makes weights of the sizes that the model needs, once."""
        if self.gaps is None:
            self.gaps = model.timed
        width, belief = self._width(model), self._belief_of(model)
        if self.head is not None:
            assert self.network is not None
            fits = self.network.input_size == width, self.belief == belief
            if not all(fits):
                raise ValueError(
                    f"filter: built for {self.network.input_size} input channels and "
                    f"{self.belief}, got a model with {width} and "
                    f"{belief}; make a new {type(self).__name__}"
                )
            self._observations = model.observations
            return
        if self.network is None:
            made: type[Any] = self.kind  # the base class has another signature
            self.network = made(
                width,
                self.hidden_size,
                num_layers=self.layers,
                batch_first=True,
                bidirectional=self.direction == "both",
            )
        elif self.network.input_size != width:
            raise ValueError(
                f"network: this model's observations have {width} channels, got a network with "
                f"input_size={self.network.input_size}"
            )
        self._observations = model.observations
        self._inputs, self._actions = model.inputs, model.actions
        self.belief = belief
        like = next(self.network.parameters()).detach()  # a network of the user's may be in float64
        twice = self.direction == "both" or self.memory == "hc"
        read = self.hidden_size * (2 if twice else 1)
        self.head = ReadOut(read, belief.width, self.gain).to(like)
        size = model.observations.channels if self.reads != "likelihoods" else 0
        self.shift, self.scale = no_scale(size)
        self.input_shift, self.input_scale = no_scale(model.inputs)
        if self.gaps:
            self.register_buffer("gap", torch.ones((), dtype=torch.float64))
        if not self.belief.discrete:
            for name, value in zip(("shift", "scale"), no_scale(self.belief.size), strict=True):
                self.register_buffer(f"state_{name}", value)

    def _belief_of(self, model: Model) -> Belief:
        belief = model.belief
        if belief.discrete and not self.factorised:
            return DiscreteBelief(belief.states)
        return belief

    def _width(self, model: Model) -> int:
        observations, belief = model.observations, model.belief
        told = belief.states if belief.discrete else belief.width
        width = model.inputs + model.actions + (told if self.reads != "observations" else 0)
        width += 1 if self.gaps else 0
        if self.reads == "likelihoods":
            return width
        plain = width + observations.channels
        flags = 0
        if not observations.codes:  # a missing symbol shows as an all-zero one-hot vector
            flags = observations.features if observations.features <= FLAGGED_FEATURES else 1
        if self.head is None and self.network is not None and self.network.input_size == plain:
            flags = 0  # a user's own network has no channels for flags
        self._flags = flags if self.head is None else self._flags
        return plain + self._flags

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Standardises the channels by the data, unless they are symbols or bits.

        A user's own network keeps its inputs. Continuous states are read out in units of their
        standard deviation in the model, with unknown parameters drawn from the prior.
        """
        if not model.belief.discrete:
            mean, spread = spread_of_states(model, data[: min(len(data), _SCALED_ON)])
            self.state_shift, self.state_scale = mean.to(self.shift), spread.to(self.shift)
        if self._users:
            return
        if self._inputs:
            self.input_shift, self.input_scale = input_scale(data)
        if self.gaps:
            self.gap = typical_gap(data)
        if self.reads != "likelihoods" and not model.observations.codes:
            shift, scale = channel_scale(data, model.observations)
            self.shift, self.scale = shift.to(self.shift.device), scale.to(self.scale.device)

    def channels(self, laws: TrajectoryLaws) -> Tensor:
        """Returns the inputs of the network, (N, T, input_size)."""
        assert self.head is not None
        dtype = self.head.weight.dtype
        parts: list[Tensor] = []
        if self.reads != "likelihoods":
            y, mask = self._observations.read(laws.data)
            seen = mask if mask.ndim == 3 else mask.unsqueeze(-1)
            encoded = self._observations.encode(y)
            if not self._observations.codes:  # symbols are read as they are
                encoded = (encoded.double() - self.shift) / self.scale
            encoded = encoded.to(dtype)
            shown = of_channels(self._observations, seen)
            parts.append(encoded if bool(seen.all()) else encoded * shown)
            if self._flags:
                missing = ~seen if self._flags == seen.shape[-1] else ~seen.any(-1, keepdim=True)
                parts.append(missing.to(dtype))
        if self.reads != "observations":
            parts.append(self._of_model(laws).to(dtype))
        if self.gaps:
            parts.append(log_gaps(laws.data, self.gap).to(dtype))
        if self._inputs:
            assert laws.data.inputs is not None  # the model checked the data
            inputs = (laws.data.inputs.double() - self.input_shift) / self.input_scale
            parts.append(inputs.to(dtype))
        if self._actions:
            parts.append(actions_before(laws.data, self._actions).to(dtype))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _of_model(self, laws: TrajectoryLaws) -> Tensor:
        """The model's law of z_t given y_t alone: (N, T, K), or (N, T, belief.width)."""
        if self.belief.discrete:
            assert laws.discrete is not None  # since the belief is discrete
            log_likelihood = laws.discrete.log_likelihood
            return log_likelihood.log_softmax(-1).clamp_min(LIKELIHOOD_FLOOR)
        if laws.linear is None:
            raise ValueError(
                f"reads: {self.reads!r} needs a model whose observations are linear in the state; "
                "this one can read 'observations'"
            )
        unit = GaussianBeliefs(self.state_shift.double(), self.state_scale.double())
        told = LinearLikelihood(laws.linear).update(unit)
        factor = told.scale / unit.scale.unsqueeze(-1)
        own = factor.diagonal(dim1=-2, dim2=-1)
        parts = [(told.mean - unit.mean) / unit.scale, own.log().clamp_min(LIKELIHOOD_FLOOR)]
        if self.belief.full:
            row, column = torch.tril_indices(self.belief.size, self.belief.size, -1)
            parts.append(factor[..., row, column])
        return torch.cat(parts, -1)

    def hidden(self, laws: TrajectoryLaws) -> Tensor:
        """Returns the features that the belief is read off, (N, T, hidden_size).

        Twice as many in direction ``"both"`` and with memory ``"hc"``, in that order.
        """
        assert self.network is not None
        x = self.channels(laws)
        if self.memory != "h":
            parts = recurrent_gates(self.network, x)
            return torch.cat([parts[name][:, :, -1] for name in self.memory], -1)
        if self.direction == "forward":  # steps beyond the length have no effect
            out: Tensor = self.network(x)[0]
            return out
        if self.direction == "backward":
            steps = torch.arange(x.shape[1], device=x.device)
            index = (laws.lengths.unsqueeze(-1) - 1 - steps).clamp_min(0)
            rows = torch.arange(len(x), device=x.device).unsqueeze(-1)
            turned: Tensor = self.network(x[rows, index])[0][rows, index]
            return turned
        packed = pack_padded_sequence(x, laws.lengths.cpu(), batch_first=True, enforce_sorted=False)
        padded, _ = pad_packed_sequence(
            self.network(packed)[0], batch_first=True, total_length=x.shape[1]
        )
        return padded

    def scores(self, laws: TrajectoryLaws) -> Tensor:
        """Returns the scores of the read-out, (N, T, belief.width)."""
        if self.head is None:
            raise ValueError("filter: call build(model) first, or put the filter into a guide")
        out = self.scores_of(self.hidden(laws), laws)
        return out.double() if laws.discrete is None else out.to(laws.discrete.log_initial.dtype)

    def scores_of(self, features: Tensor, laws: TrajectoryLaws) -> Tensor:
        """Returns the scores that features (N, T, …) of ``hidden`` are read out as."""
        del laws
        assert self.head is not None
        out: Tensor = self.head(features)
        return out

    def read_out(self, scores: Tensor) -> Beliefs:
        """Returns the beliefs that scores (…, belief.width) represent."""
        if self.belief.discrete:
            return scores.log_softmax(-1) if self.belief.nodes is None else product_law(scores)
        return normal_law(scores, self.belief, self.state_shift, self.state_scale)

    def forward(self, laws: TrajectoryLaws) -> Beliefs:
        """Returns log beliefs (N, T, K), or normal beliefs about (N, T, D)."""
        return self.read_out(self.scores(laws))

    def gates(self, laws: TrajectoryLaws) -> dict[str, Tensor]:
        """Returns gates, candidates, cells and outputs, each (N, T, layers, hidden_size).

        For a network that reads backward they are in its own order of time.
        """
        assert self.network is not None
        return recurrent_gates(self.network, self.channels(laws))


class ReadOut(nn.Linear):
    """Scores g (W s + w) of gain g."""

    def __init__(self, read: int, width: int, gain: float) -> None:
        super().__init__(read, width)
        self.gain = gain

    def forward(self, input: Tensor) -> Tensor:
        scores = super().forward(input)
        return scores if self.gain == 1 else self.gain * scores


class TiedReadOut(nn.Module):
    """The first cells times one learned scale, or one each where they have different units."""

    selection: Tensor

    def __init__(self, read: int, natural: int, shared: bool, first: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((1 if shared else natural,), first).log())
        self.register_buffer("selection", torch.eye(natural, read))

    @property
    def scale(self) -> Tensor:
        """Natural parameters that a cell of 1 stands for, (1,) or (natural,)."""
        return self.log_scale.exp()

    @property
    def weight(self) -> Tensor:
        """The same as the matrix of a linear read-out, (natural, units)."""
        return self.scale.unsqueeze(-1) * self.selection

    def forward(self, cells: Tensor) -> Tensor:
        """Return the departures of the natural parameters, (…, natural)."""
        return cells[..., : len(self.selection)] * self.scale


@boundary
class LSTMFilter(RecurrentFilter):
    """``torch.nn.LSTM`` as a filter; gates i, f, g, o, cell c, output h.

    Args:
        hidden_size: number of units; for the other arguments see :class:`RecurrentFilter`.

    >>> import torch
    >>> from beliefzoo.inference import BeliefGuide, FitSettings, LSTMFilter, evidence_gap, fit
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model = HiddenMarkovModel(states=2, emission="poisson").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], rate=[2.0, 5.0]
    ... )
    >>> data, _ = model.sample(20, 20, seed=0).data, torch.manual_seed(0)
    >>> guide, settings = BeliefGuide(model, LSTMFilter(hidden_size=8)), FitSettings(steps=20)
    >>> result = fit(model, guide, data, settings=settings, seed=0, progress=False)
    >>> evidence_gap(result, data).gap_per_step < evidence_gap(guide, data).gap_per_step
    True
    """

    kind = nn.LSTM
    parts = ("i", "f", "g", "o", "c", "h")

    def as_lstm(self) -> nn.LSTM:
        """Returns a ``torch.nn.LSTM`` that reads observations as they are, for ``wrap`` or torch.

        Its gates are those of the filter wherever nothing is missing: the standardisation of the
        channels is in its weights, and the flags of missing observations are left out.

        Raises:
            ValueError: the filter is not built, or reads more than observations.
        """
        own = self.network
        if own is None or not isinstance(own, nn.LSTM):
            raise ValueError("filter: call build(model) first, or put the filter into a guide")
        told = own.input_size - self._flags
        if self.reads != "observations" or self._inputs or self._actions or self.gaps:
            raise ValueError(
                "filter: a plain LSTM reads observations alone; this one reads "
                f"{own.input_size} channels, reads={self.reads!r}, gaps={self.gaps}, "
                f"{self._inputs} inputs and {self._actions} actions"
            )
        if own.bidirectional or self.direction != "forward" or not own.bias:
            raise ValueError(f"filter: needs an LSTM with biases that reads forward, got {own}")
        plain = nn.LSTM(told, own.hidden_size, own.num_layers, batch_first=True)
        plain.to(next(own.parameters()))
        kept = own.state_dict()
        weight = kept["weight_ih_l0"][:, :told]
        if not self._observations.codes and not self._users:
            bias = kept["bias_ih_l0"].double() - weight.double() @ (self.shift / self.scale)
            kept["bias_ih_l0"] = bias.to(weight)
            weight = (weight.double() / self.scale).to(weight)
        plain.load_state_dict({**kept, "weight_ih_l0": weight})
        return plain


@boundary
class GRUFilter(RecurrentFilter):
    """``torch.nn.GRU`` as a filter; reset r, update z, candidate n, output h.

    Args:
        hidden_size: number of units; for the other arguments see :class:`RecurrentFilter`.

    >>> from beliefzoo.inference import GRUFilter
    >>> from beliefzoo.models import mess3
    >>> model, network = mess3().model, GRUFilter(hidden_size=16, layers=2)
    >>> network.build(model)
    >>> found = network.gates(model.laws(model.known, model.sample(5, 20, seed=0).data))
    >>> sorted(found), found["z"].shape
    (['h', 'n', 'r', 'z'], torch.Size([5, 20, 2, 16]))
    """

    kind = nn.GRU
    parts = ("r", "z", "n", "h")


@boundary
class ElmanFilter(RecurrentFilter):
    """``torch.nn.RNN`` (tanh) as a filter; output h.

    Args:
        hidden_size: number of units; for the other arguments see :class:`RecurrentFilter`.

    >>> import torch
    >>> from beliefzoo.inference import ElmanFilter
    >>> from beliefzoo.models import mess3
    >>> model = mess3().model
    >>> own = torch.nn.RNN(3, 8, batch_first=True)  # a network of your own, trained elsewhere
    >>> network = ElmanFilter(network=own, frozen=True)
    >>> network.build(model)
    >>> network(model.laws(model.known, model.sample(5, 20, seed=0).data)).shape
    torch.Size([5, 20, 9])
    """

    kind = nn.RNN
    parts = ("h",)


def normal_law(scores: Tensor, belief: GaussianBelief, shift: Tensor, scale: Tensor) -> Beliefs:
    """Normal beliefs whose mean and Cholesky factor are read off scores (…, belief.width).

    In units of ``scale`` (D,) about ``shift`` (D,): scores of zero are the law with these moments.
    """
    size = belief.size
    mean, own, rest = scores.split([size, size, scores.shape[-1] - 2 * size], -1)
    own = nn.functional.softplus(own + _UNIT_SOFTPLUS)
    unit = scale.to(scores.dtype)
    mean = shift.to(scores.dtype) + unit * mean
    if not belief.full:
        return GaussianBeliefs(mean, unit * own)
    row, column = torch.tril_indices(size, size, -1)
    factor = own.diag_embed()
    factor[..., row, column] = rest
    return GaussianBeliefs(mean, unit.unsqueeze(-1) * factor)


def no_scale(size: int) -> tuple[Tensor, Tensor]:
    """Shift 0 and scale 1 of every channel, (size,) float64 each."""
    return torch.zeros(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)


def channel_scale(data: Sequences, kind: Observations | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every feature, (F,) float64 each; 0 and 1 for bits.

    With a kind, of the channels that it encodes them in, (C,); 0 and 1 for those of symbols.
    """
    shift, scale = _moments(data.values, data.mask)
    if kind is None:
        return shift, scale
    return of_channels(kind, shift, 0.0), of_channels(kind, scale, 1.0)


def input_scale(data: Sequences) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every input column, (U,) float64 each; 0 and 1 for bits."""
    assert data.inputs is not None  # the model checked the data
    return _moments(data.inputs, data.step_mask.unsqueeze(-1).expand_as(data.inputs))


def _moments(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    seen = values[mask]
    if bool(((seen == 0) | (seen == 1)).all()):
        return no_scale(values.shape[-1])
    weight, values = mask.double(), values.double()
    count = weight.sum((0, 1)).clamp_min(1)
    shift = (values * weight).sum((0, 1)) / count
    spread = (((values - shift).square() * weight).sum((0, 1)) / count).sqrt()
    return shift, torch.where(spread > 0, spread, 1)


def _require_size(hidden_size: int, layers: int) -> None:
    """Raise ``ValueError`` for what is no size of a network, or would be built for ever."""
    require_count(layers, "layers")
    require_count(hidden_size, "hidden_size")
    require(layers <= _MOST_LAYERS, "layers", f"must be at most {_MOST_LAYERS}", layers)
    weights = 8 * int(layers) * int(hidden_size) ** 2
    needed = f"must give at most {_MOST_WEIGHTS} weights, which are {_MOST_WEIGHTS >> 28} GiB"
    require(weights <= _MOST_WEIGHTS, "hidden_size", needed, f"{hidden_size}: {weights}")


def _require_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        *others, last = map(repr, choices)
        raise ValueError(f"{name}: must be {', '.join(others)} or {last}, got {value!r}")


def _direction_of(network: nn.RNNBase, asked: Direction) -> Direction:
    """The direction of a user's network, which may read both ways."""
    if network.bidirectional:
        if asked == "backward":
            raise ValueError(f"direction: this network reads both ways, got {asked!r}")
        return "both"
    if asked == "both":
        raise ValueError(f"direction: this network reads one way, got {asked!r}")
    return asked


def actions_before(data: Sequences, actions: int) -> Tensor:
    """The previous action at every step as a one-hot vector, (N, T, A); zero at the first."""
    assert data.actions is not None  # the model checked the data
    before: Tensor = nn.functional.one_hot(data.actions.roll(1, 1), actions)
    before[:, 0] = 0
    return before


def gaps_before(data: Sequences) -> Tensor:
    """Time since the step before, (N, T) float64; 1 at the first step and beyond the length."""
    if data.times is None:
        raise ValueError("gaps: a network that reads them needs data with times, got none")
    times = data.times.double()
    gaps = torch.ones_like(times)
    gaps[:, 1:] = torch.where(data.step_mask[:, 1:], times.diff(dim=-1), 1)
    return gaps


LEAST_GAP = 1e-6
"""Steps nearer to each other than this share of a typical gap, or at one moment, read alike."""


def typical_gap(data: Sequences) -> Tensor:
    """Geometric mean of the gaps between steps at different times, float64; 1 if there are none."""
    steps = gaps_before(data)[:, 1:]
    used = steps[data.step_mask[:, 1:] & (steps > 0)]
    return (used.log().mean().exp() if used.numel() else torch.ones(())).double()


def log_gaps(data: Sequences, typical: Tensor) -> Tensor:
    """Log of the time since the step before, in typical gaps, (N, T, 1) float64."""
    relative = gaps_before(data) / typical.double()
    return relative.clamp_min(LEAST_GAP).log().unsqueeze(-1)


def spread_of_states(model: Model, data: Sequences) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over time and sequences of the model's states, each (D,).

    Of simulations; with a flat first state, from which nothing can be drawn, of the smoother.
    """
    with seeded(0), torch.no_grad():
        drawn = {name: prior.sample() for name, prior in model.priors.items()}
        laws = model.laws(drawn, data)
        if laws.linear is not None and laws.linear.diffuse.shape[-1]:
            found = exact_gaussian.smooth(*arguments(laws.linear.in_double()))
            own = found.covariances.diagonal(dim1=-2, dim2=-1)[data.step_mask].mean(0)
            seen = found.means[data.step_mask]
        else:
            seen = model.simulate(drawn, data).states.double()[data.step_mask]
            own = torch.zeros(seen.shape[-1], dtype=torch.float64)
    spread = (seen.var(0, correction=0) + own).sqrt()
    return seen.mean(0), torch.where(spread > 0, spread, 1)
