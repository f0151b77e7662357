"""Filters: from a sequence to a belief at every step, exactly or with a recurrent network.

Every filter takes the ``Laws`` of a model for some data and returns log beliefs (N, T, K), the law
of z_t given y_1 … y_t. That the exact filter and the LSTM fit the same slot is the point of the
library.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..models import Laws, Model, Sequences
from ..models.observations import Observations
from . import exact

LIKELIHOOD_FLOOR = -20.0
"""Per-state log-likelihoods are read relative to their sum and cut here, to stay in scale."""

FLAGGED_FEATURES = 16
"""Up to here a network reads one missing flag per feature, beyond it one per step."""


class Filter(Protocol):
    """What a guide needs of a filter."""

    causal: bool

    def build(self, model: Model) -> None:
        """Make the weights for this model, or check that they fit it."""
        ...

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Read off the scale of the data."""
        ...

    def __call__(self, laws: Laws) -> Tensor:
        """Log beliefs (N, T, K)."""
        ...


class ExactFilter(nn.Module):
    """The forward algorithm: b_t(z) ∝ O(y_t|z) Σ_z' b_{t-1}(z') T(z|z').

    As a guide's filter its ELBO is the evidence. No gradient flows through the beliefs: the ELBO is
    stationary in them at the filter, so its gradient in the parameters is exact without.
    """

    causal = True

    def build(self, model: Model) -> None:
        """Nothing to build."""

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Nothing to calibrate."""

    def forward(self, laws: Laws) -> Tensor:
        log_likelihood = laws.log_likelihood  # kept by the laws: computed with its gradient
        with torch.no_grad():
            return exact.filter_chain(
                laws.log_initial, laws.log_transition, log_likelihood, laws.lengths
            ).log_beliefs


class RecurrentFilter(nn.Module):
    """A recurrent network followed by a linear read-out of the log belief.

    Args:
        hidden_size: units of the network.
        reads: ``"observations"`` (what a user's own network reads), ``"likelihoods"`` (the model's
            log O_k(y_t), which follow the parameters when these are uncertain), or ``"both"``.
        layers: stacked layers.
        bidirectional: read the future as well; for smoothing guides, not for ``BeliefGuide``.
        network: a ``torch.nn`` network of your own to use (and train further) instead of a new one.

    Raises:
        ValueError: for a bad argument, or when used with a model that it was not built for.
    """

    kind: ClassVar[type[nn.RNNBase]]
    parts: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        hidden_size: int = 32,
        *,
        reads: str = "observations",
        layers: int = 1,
        bidirectional: bool = False,
        network: nn.RNNBase | None = None,
    ) -> None:
        super().__init__()
        if reads not in ("observations", "likelihoods", "both"):
            raise ValueError(
                f"reads: must be 'observations', 'likelihoods' or 'both', got {reads!r}"
            )
        for name, value in (("hidden_size", hidden_size), ("layers", layers)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: must be a whole number >= 1, got {value!r}")
        if network is not None:
            if not isinstance(network, self.kind) or network.proj_size:
                raise ValueError(
                    f"network: must be a torch.nn.{self.kind.__name__} without projection, "
                    f"got {network}"
                )
            network = copy.deepcopy(network)
            network.batch_first = True
            hidden_size, layers = network.hidden_size, network.num_layers
            bidirectional = network.bidirectional
        self.hidden_size = hidden_size
        self.layers = layers
        self.reads = reads
        self.causal = not bidirectional
        self.network = network
        self._users = network is not None
        self.head: nn.Linear | None = None
        self._flags = 0
        self._inputs = 0
        self._observations: Observations | None = None
        self.register_buffer("shift", torch.zeros(0))
        self.register_buffer("scale", torch.ones(0))

    shift: Tensor
    scale: Tensor

    def build(self, model: Model) -> None:
        """Make weights of the sizes that the model asks for, once."""
        width = self._width(model)
        self._observations = model.observations
        if self.head is not None:
            assert self.network is not None
            fits = self.network.input_size == width, self.head.out_features == model.belief.width
            if not all(fits):
                raise ValueError(
                    f"filter: built for {self.network.input_size} input channels and "
                    f"{self.head.out_features} numbers a belief, got a model with {width} and "
                    f"{model.belief.width}; make a new {type(self).__name__}"
                )
            return
        if self.network is None:
            made: type[Any] = self.kind  # the base class has another signature
            self.network = made(
                width,
                self.hidden_size,
                num_layers=self.layers,
                batch_first=True,
                bidirectional=not self.causal,
            )
        elif self.network.input_size != width:
            raise ValueError(
                f"network: this model's observations have {width} channels, got a network with "
                f"input_size={self.network.input_size}"
            )
        self._inputs = model.inputs
        channels = self.hidden_size * (1 if self.causal else 2)
        self.head = nn.Linear(channels, model.belief.width)
        size = model.observations.channels if self.reads != "likelihoods" else 0
        self.shift, self.scale = torch.zeros(size), torch.ones(size)

    def _width(self, model: Model) -> int:
        observations = model.observations
        width = model.inputs + (model.states if self.reads != "observations" else 0)
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
        """Standardise the channels by the data, unless they are symbols or bits.

        A network of the user's own goes on reading what it always read.
        """
        if self.reads == "likelihoods" or model.observations.codes or self._users:
            return
        seen = data.values[data.mask]
        if bool(((seen == 0) | (seen == 1)).all()):
            return
        weight = data.mask.double()
        count = weight.sum((0, 1)).clamp_min(1)
        values = data.values.double()
        shift = (values * weight).sum((0, 1)) / count
        spread = (((values - shift).square() * weight).sum((0, 1)) / count).sqrt()
        self.shift = shift.to(self.shift)
        self.scale = torch.where(spread > 0, spread, 1).to(self.scale)

    def channels(self, laws: Laws) -> Tensor:
        """What the network reads, (N, T, input_size)."""
        assert self.head is not None
        dtype = self.head.weight.dtype
        parts: list[Tensor] = []
        if self.reads != "likelihoods":
            assert self._observations is not None  # known since the head was built
            y, mask = self._observations.read(laws.data)
            seen = mask if mask.ndim == 3 else mask.unsqueeze(-1)
            encoded = self._observations.encode(y).to(dtype)
            if not self._observations.codes:  # symbols are read as they are
                encoded = (encoded - self.shift) / self.scale
            parts.append(encoded if bool(seen.all()) else encoded * seen)
            if self._flags:
                missing = ~seen if self._flags == seen.shape[-1] else ~seen.any(-1, keepdim=True)
                parts.append(missing.to(dtype))
        if self.reads != "observations":
            relative = laws.log_likelihood.log_softmax(-1).clamp_min(LIKELIHOOD_FLOOR)
            parts.append(relative.to(dtype))
        if self._inputs:
            assert laws.data.inputs is not None  # the model checked the data
            parts.append(laws.data.inputs.to(dtype))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def hidden(self, laws: Laws) -> Tensor:
        """The network's output at every step, (N, T, hidden_size), twice that if bidirectional."""
        assert self.network is not None
        x = self.channels(laws)
        if self.causal:  # what comes after the end of a sequence cannot matter
            out: Tensor = self.network(x)[0]
            return out
        packed = pack_padded_sequence(x, laws.lengths.cpu(), batch_first=True, enforce_sorted=False)
        padded, _ = pad_packed_sequence(
            self.network(packed)[0], batch_first=True, total_length=x.shape[1]
        )
        return padded

    def scores(self, laws: Laws) -> Tensor:
        """The read-out before normalisation, (N, T, K)."""
        if self.head is None:
            raise ValueError("filter: call build(model) first, or put the filter into a guide")
        out: Tensor = self.head(self.hidden(laws))
        return out.to(laws.log_initial.dtype)

    def forward(self, laws: Laws) -> Tensor:
        return self.scores(laws).log_softmax(-1)

    def gates(self, laws: Laws) -> dict[str, Tensor]:
        """Gates, candidates, cells and outputs over time, each (N, T, layers, hidden_size)."""
        assert self.network is not None
        return recurrent_gates(self.network, self.channels(laws))


class LSTMFilter(RecurrentFilter):
    """``torch.nn.LSTM`` as a filter; gates i, f, g, o, cell c, output h.

    For the arguments see ``RecurrentFilter``.
    """

    kind = nn.LSTM
    parts = ("i", "f", "g", "o", "c", "h")


class GRUFilter(RecurrentFilter):
    """``torch.nn.GRU`` as a filter; reset r, update z, candidate n, output h.

    For the arguments see ``RecurrentFilter``.
    """

    kind = nn.GRU
    parts = ("r", "z", "n", "h")


class ElmanFilter(RecurrentFilter):
    """``torch.nn.RNN`` (tanh) as a filter; output h.

    For the arguments see ``RecurrentFilter``.
    """

    kind = nn.RNN
    parts = ("h",)


def recurrent_gates(network: nn.RNNBase, x: Tensor) -> dict[str, Tensor]:
    """Every gate of a ``torch.nn`` LSTM, GRU or RNN on inputs x (N, T, input_size).

    Returns arrays (N, T, layers, hidden_size) under torch's names: i, f, g, o, c, h (LSTM),
    r, z, n, h (GRU), h (RNN). The network must read in one direction.
    """
    if network.bidirectional or network.proj_size:
        raise ValueError(f"network: gates need one direction and no projection, got {network}")
    layers: list[dict[str, Tensor]] = []
    for layer in range(network.num_layers):
        one = _layer_gates(network, layer, x)
        layers.append(one)
        x = one["h"]
    return {name: torch.stack([one[name] for one in layers], 2) for name in layers[0]}


def _layer_gates(network: nn.RNNBase, layer: int, x: Tensor) -> dict[str, Tensor]:
    weight_x, weight_h = (getattr(network, f"weight_{side}_l{layer}") for side in ("ih", "hh"))
    zero = weight_x.new_zeros(len(weight_x))
    bias_x, bias_h = (getattr(network, f"bias_{side}_l{layer}", zero) for side in ("ih", "hh"))
    from_x = x @ weight_x.mT + bias_x
    h = c = x.new_zeros(len(x), network.hidden_size)
    steps: list[dict[str, Tensor]] = []
    for t in range(x.shape[1]):
        from_h = h @ weight_h.mT + bias_h
        if isinstance(network, nn.LSTM):
            i, f, g, o = (from_x[:, t] + from_h).chunk(4, -1)
            i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
            c = f * c + i * g
            h = o * c.tanh()
            steps.append({"i": i, "f": f, "g": g, "o": o, "c": c, "h": h})
        elif isinstance(network, nn.GRU):
            (xr, xz, xn), (hr, hz, hn) = from_x[:, t].chunk(3, -1), from_h.chunk(3, -1)
            r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
            n = (xn + r * hn).tanh()
            h = (1 - z) * n + z * h
            steps.append({"r": r, "z": z, "n": n, "h": h})
        else:
            activation = torch.relu if network.mode == "RNN_RELU" else torch.tanh
            h = activation(from_x[:, t] + from_h)
            steps.append({"h": h})
    return {name: torch.stack([step[name] for step in steps], 1) for name in steps[0]}
