"""Filters around networks of your own: any module from channels to features, step by step."""

from __future__ import annotations

import copy
import inspect

import torch
from torch import Tensor, nn

from ...models import Model, Sequences, TrajectoryLaws
from ...models.beliefs import Belief, DiscreteBelief
from ...models.boundary import boundary
from ...models.chains.nodes import product_law
from ...models.checks import require, require_positive
from ...models.randomness import seeded
from .channels import Channels, Reading
from .recurrent import ReadOut, no_scale, normal_law, spread_of_states
from .slot import Beliefs

_TRIED = 2, 5
"""Sequences and steps of random numbers that a network is tried on when it is built in."""

_UNMOVED = 1e-5
"""Earlier outputs that move by less than this, relative to the largest, have not moved."""

_SCALED_ON = 256
"""Sequences that are simulated to find the scale of the states."""


@boundary
class NetworkFilter(nn.Module):
    r"""A network of your own, followed by a linear read-out of the belief.

    .. math:: h_1 \dots h_T = f(x_1 \dots x_T), \qquad s_t = g\,(W h_t + w)

    f is any ``torch.nn.Module`` that maps channels x (N, T, C) to features h (N, T, H): a
    transformer with a causal mask, convolutions, a recurrent cell of your own. The read-out, added
    and trained here, maps the scores s_t to a belief as in ``LSTMFilter``. The channels are those
    of ``Channels``: the observations, standardised (one-hot for symbols), zero where missing; a
    flag for each feature that is missing; the log of the time since the previous step; inputs; the
    previous action. Beyond the end of a sequence everything is missing; a network whose ``forward``
    takes ``lengths`` is given them, (N,).

    The network runs in the float type of its weights and may return any; beliefs have the precision
    of the laws. It is copied, and trained with everything else unless its weights do not require
    gradients.

    ``save_fit`` keeps its weights. ``load_fit`` rebuilds it from its property ``configuration``,
    the arguments of its class, if it has one; otherwise pass ``load_fit`` one like it as
    ``network``.

    Args:
        network: maps (N, T, C) to (N, T, H).
        causal: whether h_t depends on x_1 … x_t alone, as a ``BeliefGuide`` requires. This is
            tested when the filter is built, in training and in evaluation mode: other numbers at
            the last step must not change earlier outputs.
        reads: ``"observations"`` or, for discrete states, ``"likelihoods"``: log O_k(y_t) under the
            current parameters.
        gaps: whether to read the time since the previous step; None: if the model does.
        flags: whether to read flags of missing features; None: if the network takes that many
            channels, which is tried.
        gain: factor g of the scores.
        factorised: for a model of binary nodes, whether the belief is a product of Bernoulli laws,
            or has one logit for each of the 2^k states.

    Raises:
        ValueError: a bad argument; when built, a network that does not fit the channels of the
            model, or that is not causal although ``causal`` says so.

    >>> from torch import nn
    >>> from beliefzoo.inference import BeliefGuide, NetworkFilter
    >>> from beliefzoo.models import Categorical, HiddenMarkovModel
    >>> model = HiddenMarkovModel(2, Categorical(4))
    >>> network = nn.Sequential(nn.Linear(4, 8), nn.Tanh())  # of y_t alone: no memory
    >>> BeliefGuide(model, NetworkFilter(network)).filter.head
    ReadOut(in_features=8, out_features=2, bias=True)
    """

    belief: Belief
    """What is read out."""
    channels: Channels
    """What the network reads."""
    state_shift: Tensor
    """Mean of continuous states, (D,)."""
    state_scale: Tensor
    """Standard deviations of continuous states, (D,)."""
    _width: int

    def __init__(
        self,
        network: nn.Module,
        *,
        causal: bool = True,
        reads: Reading = "observations",
        gaps: bool | None = None,
        flags: bool | None = None,
        gain: float = 1.0,
        factorised: bool = True,
    ) -> None:
        super().__init__()
        made = isinstance(network, nn.Module)
        require(made, "network", "must be a torch.nn.Module", repr(network))
        require_positive(gain, "gain")
        Channels(reads)  # raises for a bad value
        self.network = copy.deepcopy(network)
        self.causal = bool(causal)
        self.reads: Reading = reads
        self.gaps = gaps
        self.flags = flags
        self.gain = float(gain)
        self.factorised = bool(factorised)
        self.head: ReadOut | None = None

    @property
    def configuration(self) -> dict[str, object]:
        """The arguments from which it is rebuilt."""
        names = "network", "causal", "reads", "gaps", "flags", "gain", "factorised"
        return {name: getattr(self, name) for name in names}

    def build(self, model: Model) -> None:
        """Tests the network on the channels of the model and makes the read-out, once."""
        belief = model.belief
        if belief.discrete and not self.factorised:
            belief = DiscreteBelief(belief.states)
        discrete = belief.discrete
        require(discrete or self.reads == "observations", "reads", "needs discrete states", model)
        if self.gaps is None:
            self.gaps = model.timed
        if self.head is not None:
            built, came = (self._width, self.belief), (self.channels.width(model), belief)
            requirement = f"was built for {built}; make a new NetworkFilter"
            require(built == came, "filter", requirement, came)
            self.channels.build(model)
            return
        halves = [p for p in self.network.parameters() if p.dtype == torch.float16]
        require(
            not any(weight.requires_grad for weight in halves),
            "network",
            "needs weights in float32, float64 or bfloat16 to train (steps of an optimizer are too "
            "small for float16), or weights that do not require gradients",
            "float16",
        )
        features = self._fit_channels(model)
        self.channels.build(model)
        self.belief, self._width = belief, self.channels.width(model)
        if self.causal:
            self._require_causal()
        kept = torch.promote_types(features.dtype, torch.float32)
        self.head = ReadOut(features.shape[-1], belief.width, self.gain).to(kept)
        if not belief.discrete:
            for name, value in zip(("shift", "scale"), no_scale(belief.size), strict=True):
                self.register_buffer(f"state_{name}", value)

    def _fit_channels(self, model: Model) -> Tensor:
        """Chooses the channels; returns the network's output on random ones."""
        refused = ""
        for flags in (True, False) if self.flags is None else (self.flags,):
            channels = Channels(self.reads, flagged=flags, gaps=bool(self.gaps))
            width = channels.width(model)
            tried = copy.deepcopy(self.network).eval()
            try:
                with torch.no_grad():
                    features = self._try(tried, _noise(width))
            except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
                refused += f"; of {width} channels: {error}"
                continue
            fits = isinstance(features, Tensor) and features.is_floating_point()
            if fits and features.shape[:2] == _TRIED and features.ndim == 3:
                self.channels, self.flags = channels, flags
                if any(map(nn.parameter.is_lazy, self.network.parameters())):
                    self.network = tried.train(self.network.training)  # it has weights now
                return features
            came = (
                tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            )
            refused += f"; of {(*_TRIED, width)} it made {came}"
        raise ValueError(
            "network: must map channels (N, T, C) to features (N, T, H) for the channels that this "
            f"model's data have, got one that does not{refused}"
        )

    def _try(self, network: nn.Module, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The network's output on channels (N, T, C), in its own float type."""
        floats = (p.dtype for p in network.parameters() if p.is_floating_point())
        x = x.to(next(floats, x.dtype))
        if "lengths" not in inspect.signature(network.forward).parameters:
            out: Tensor = network(x)
            return out
        if lengths is None:
            lengths = torch.full((len(x),), x.shape[1])
        given: Tensor = network(x, lengths=lengths)
        return given

    def _require_causal(self) -> None:
        """Raises ValueError for a network whose earlier outputs change with the last step."""
        x = _noise(self._width)
        other = torch.cat([x[:, :-1], -x[:, -1:]], 1)
        for training in (False, True):  # a normalisation over steps looks ahead in training only
            outcomes = []
            for given in (x, other):
                network = copy.deepcopy(self.network).train(training)
                with seeded(0), torch.no_grad():  # the same dropout
                    outcomes.append(self._try(network, given)[:, :-1].double())
            largest = float(outcomes[0].abs().max())
            moved = (outcomes[0] - outcomes[1]).abs().max()
            if not moved <= _UNMOVED * (1 + largest):
                when = "in training" if training else "in evaluation"
                raise ValueError(
                    "network: must not look ahead if it is causal, got one whose earlier outputs "
                    f"move with the last step by {float(moved):.3g} {when}; set causal=False for a "
                    "ForwardGuide or MeanFieldGuide"
                )

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Adapts to the scale of the data, and of continuous states in the model."""
        if not model.belief.discrete:
            mean, spread = spread_of_states(model, data[: min(len(data), _SCALED_ON)])
            self.state_shift = mean.to(self.state_shift)
            self.state_scale = spread.to(self.state_scale)
        self.channels.calibrate(data)

    def scores(self, laws: TrajectoryLaws) -> Tensor:
        """Returns the scores of the read-out, (N, T, belief.width)."""
        if self.head is None:
            raise ValueError("filter: call build(model) first, or put the filter into a guide")
        features = self._try(self.network, self.channels(laws), laws.data.lengths)
        out: Tensor = self.head(features.to(self.head.weight.dtype))
        return out.double() if laws.discrete is None else out.to(laws.discrete.log_initial.dtype)

    def read_out(self, scores: Tensor) -> Beliefs:
        """Returns the beliefs that scores (…, belief.width) represent."""
        if self.belief.discrete:
            return scores.log_softmax(-1) if self.belief.nodes is None else product_law(scores)
        return normal_law(scores, self.belief, self.state_shift, self.state_scale)

    def forward(self, laws: TrajectoryLaws) -> Beliefs:
        """Returns log beliefs (N, T, K), or normal beliefs about (N, T, D)."""
        return self.read_out(self.scores(laws))


def _noise(width: int) -> Tensor:
    with seeded(0):
        return torch.randn(*_TRIED, width)
