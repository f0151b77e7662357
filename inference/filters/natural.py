"""An LSTM whose cells are the natural parameters of the belief: Bayes' rule, gate by gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...models import LinearGaussianLaws, Model, Sequences, TrajectoryLaws
from ...models.beliefs import Belief
from ...models.boundary import boundary
from ...models.chains.laws import stationary
from ...models.chains.nodes import node_states
from ...models.checks import require, require_count, require_positive
from .gaussian_beliefs import GaussianBeliefs
from .recurrences import layer_gates
from .recurrent import LSTMFilter, Reading, TiedReadOut
from .slot import Beliefs

FIRST_FORGET_BIAS = 1.5
"""Added to the forget gates of natural cells, so that a belief is first kept for some steps."""

FIRST_WRITING = 0.1
"""Factor of the first weights of natural cells' candidates: beliefs begin near the stationary law,
lest a state is ruled out by chance before anything is learned."""

_LEAST_PRECISION = 1e-3
"""Precisions are read out from here on, in units of the states' own spread."""

_LEAST_PROBABILITY = 1e-12
"""Stationary probabilities are read from here on: their logarithms shift the beliefs."""


@boundary
class NaturalLSTMFilter(LSTMFilter):
    r"""An LSTM whose first cells are the natural parameters of the belief, but for one scale.

    .. math::
        \lambda_t = \lambda^* + s\, c_t, \qquad
        c_t = f_t \odot c_{t-1} + i_t \odot g_t

    λ are the natural parameters of the belief and λ* those of the stationary law, so that c = 0
    where nothing is known. In these coordinates Bayes' rule is the equation of the memory cell
    (docs/science.md, I9): the forget gate f shrinks the belief as the transition does, and i g adds
    what the observation says. The other cells are a free LSTM, whose outputs the gates read.

    ==========================  =========================================  =====================
    belief                      λ                                          cells
    ==========================  =========================================  =====================
    K states                    log p(k) − log p(K)                        K − 1
    k binary nodes              logits                                     k
    normal, one dimension       mean times precision, precision            2
    ==========================  =========================================  =====================

    The network is a ``torch.nn.LSTM``; with the work divided some of its weights are zero and stay
    so: f of a natural cell reads h alone (with actions, inputs and time gaps, which choose the
    transition), i and g read the observation alone (with actions and inputs). The first law of the
    model should be its stationary one, from which c_0 = 0 starts.

    Args:
        auxiliary: number of units beside the natural ones.
        divided: whether the work of natural cells is divided. If not, all gates read everything,
            and their product is identified but single gates are not.
        scale: natural parameters that a cell of 1 stands for before training. The larger, the more
            linear is tanh in what an observation tells, and the more a gradient step moves a
            belief: 25 served two states, 10 more of them, of which some die at 25.
        sharpness: factor of the weights with which gates first read natural cells. What these put
            out is λ − λ* over ``scale``, so that weights of torch's size hardly see it; 40 halved
            the steps of two states.
        reads: ``"observations"``, ``"likelihoods"`` or ``"both"``, see ``RecurrentFilter``.
        gaps: whether to read the time since the previous step; None: if the model does.

    Raises:
        ValueError: a bad argument; when it is built, a model of continuous states in several
            dimensions, whose information matrix is no product of gates.

    >>> import torch
    >>> from beliefzoo.inference import BeliefGuide, FitSettings, NaturalLSTMFilter, fit
    >>> from beliefzoo.models import HiddenMarkovModel
    >>> model = HiddenMarkovModel(states=2, emission="gaussian").with_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.1, 0.9]], mean=[-1, 1], scale=[1, 1]
    ... )
    >>> data, _ = model.sample(64, 50, seed=0).data, torch.manual_seed(0)
    >>> guide, settings = BeliefGuide(model, NaturalLSTMFilter(7)), FitSettings(steps=20)
    >>> result = fit(model, guide, data, settings=settings, seed=0, progress=False)
    >>> result.guide.filter.network  # one natural cell and seven others
    LSTM(2, 8, batch_first=True)
    """

    def __init__(
        self,
        auxiliary: int = 8,
        *,
        divided: bool = True,
        scale: float = 10.0,
        sharpness: float = 1.0,
        reads: Reading = "observations",
        gaps: bool | None = None,
    ) -> None:
        require_count(auxiliary, "auxiliary")
        require(isinstance(divided, bool), "divided", "must be True or False", repr(divided))
        super().__init__(auxiliary, reads=reads, gaps=gaps, memory="c")
        require_positive(scale, "scale")
        require_positive(sharpness, "sharpness")
        self.auxiliary, self.divided, self.first_scale = auxiliary, divided, float(scale)
        self.sharpness = float(sharpness)
        self.natural = 0
        self.register_buffer("written", torch.tensor(False))

    written: Tensor
    """Whether the weights are those of a model, see ``construct``."""

    @property
    def configuration(self) -> dict[str, object]:
        """The arguments from which it is rebuilt; ``gaps`` is as the model decided."""
        kept = "auxiliary", "divided", "sharpness", "reads", "gaps"
        return {"scale": self.first_scale, **{name: getattr(self, name) for name in kept}}

    def build(self, model: Model) -> None:
        """Makes weights of the sizes that the model needs, once."""
        belief = model.belief
        several = not belief.discrete and belief.size > 1
        require(
            not several,
            "model",
            "needs discrete states, binary nodes or one continuous state: in several dimensions "
            "Bayes' rule is not elementwise in the natural parameters",
            model,
        )
        first = self.head is None
        if first:
            self.natural = _cells(belief)
            self.hidden_size = self.natural + self.auxiliary
        super().build(model)
        if not first:
            return
        network = self.network
        assert isinstance(network, nn.LSTM)
        weights = dict(network.named_parameters())
        like = weights["weight_ih_l0"].detach()
        self.head = TiedReadOut(self.hidden_size, self.natural, belief.discrete, self.first_scale)
        self.head.to(like)
        for name, mask in self._masks().items():
            self.register_buffer(f"mask_{name}", mask.to(like))
        size, own = self.hidden_size, self.natural
        with torch.no_grad():
            for one in weights.values():
                one[2 * size : 2 * size + own] *= FIRST_WRITING
            weights["weight_hh_l0"][:, :own] *= self.sharpness
            weights["bias_ih_l0"][size : size + own] += FIRST_FORGET_BIAS
            if not belief.discrete:  # what is known of a state is never less than nothing
                weights["bias_ih_l0"][2 * size + 1] += 1.0
            for name in _WEIGHTS:
                weights[f"{name}_l0"].mul_(getattr(self, f"mask_{name}"))

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Adapts to the scale of the data, unless the weights are written in that of the model."""
        if not bool(self.written):
            super().calibrate(model, data)

    def _masks(self) -> dict[str, Tensor]:
        """Which weights there are: (4 H, input_size) and (4 H, H) of ones and zeros."""
        assert self.network is not None
        size, own, width = self.hidden_size, self.natural, self.network.input_size
        told = width - int(bool(self.gaps)) - self._inputs - self._actions
        masks = {"weight_ih": torch.ones(4 * size, width), "weight_hh": torch.ones(4 * size, size)}
        if self.divided:
            gates = {name: slice(n * size, n * size + own) for n, name in enumerate("ifg")}
            masks["weight_ih"][gates["f"], :told] = 0
            for name in "ig":
                masks["weight_hh"][gates[name]] = 0
                if self.gaps:  # the channel behind what was observed
                    masks["weight_ih"][gates[name], told] = 0
        return masks

    def _weights(self) -> dict[str, Tensor | None]:
        """The network's weights; no gradient reaches those that are zero."""
        own = {name: getattr(self.network, f"{name}_l0") for name in (*_WEIGHTS, *_BIASES)}
        return own | {name: own[name] * getattr(self, f"mask_{name}") for name in _WEIGHTS}

    def gates(self, laws: TrajectoryLaws) -> dict[str, Tensor]:
        """Returns gates, candidates, cells and outputs, each (N, T, 1, units).

        The natural cells are the first ones.
        """
        assert self.network is not None
        found = layer_gates(self.network, self._weights(), self.channels(laws))
        return {name: each.unsqueeze(2) for name, each in found.items()}

    def hidden(self, laws: TrajectoryLaws) -> Tensor:
        """Returns all cells, (N, T, units)."""
        return self.gates(laws)["c"].squeeze(2)

    @property
    def natural_scale(self) -> Tensor:
        """Natural parameters that a natural cell of 1 stands for, in units of the states."""
        assert isinstance(self.head, TiedReadOut)
        scale = self.head.scale.detach().double().expand(self.natural)
        if self.belief.discrete:
            return scale
        return scale / torch.cat([self.state_scale, self.state_scale.square()]).double()

    def scores_of(self, features: Tensor, laws: TrajectoryLaws) -> Tensor:
        """Returns the natural parameters λ that cells (N, T, units) stand for.

        Of K states there are K, the last one 0 beyond its stationary value; of a normal belief two,
        mean times precision and precision, in units of the states' own spread.
        """
        assert self.head is not None
        told: Tensor = self.head(features)
        if not self.belief.discrete:
            return self._normal_scores(told.double(), laws)
        if self.belief.nodes is None:
            told = nn.functional.pad(told, (0, 1))
        rest = stationary_scores(laws, self.belief)
        return told.to(rest.dtype) + rest

    def _normal_scores(self, told: Tensor, laws: TrajectoryLaws) -> Tensor:
        require(laws.linear is not None, "model", "needs linear-Gaussian laws", type(laws).__name__)
        assert laws.linear is not None
        shift, unit = self.state_shift.double(), self.state_scale.double()
        mean, settled = stationary_normal(laws.linear, shift)
        precision = told[..., 1] + settled * unit.square()
        information = told[..., 0] + precision * (mean - shift) / unit
        return torch.stack([information, precision], -1)

    def read_out(self, scores: Tensor) -> Beliefs:
        """Returns the beliefs with natural parameters (…, K), (…, nodes) or (…, 2)."""
        if self.belief.discrete:
            return super().read_out(scores)
        information, precision = scores.unbind(-1)
        precision = precision.clamp_min(_LEAST_PRECISION)
        shift, unit = self.state_shift.double(), self.state_scale.double()
        mean = shift + unit * (information / precision).unsqueeze(-1)
        return GaussianBeliefs(mean, (unit * precision.rsqrt().unsqueeze(-1)).unsqueeze(-1))


def _cells(belief: Belief) -> int:
    """Natural parameters that are free."""
    if belief.discrete:
        return belief.states - 1 if belief.nodes is None else belief.nodes
    return 2


def stationary_scores(laws: TrajectoryLaws, belief: Belief) -> Tensor:
    """λ* of discrete states, (…, 1, 1, K), or of binary nodes, (…, 1, 1, nodes).

    Where steps have different transitions, of their mean.

    Raises:
        ValueError: there is no single stationary law.
    """
    assert laws.discrete is not None
    assert belief.discrete
    matrices = laws.discrete.matrices.exp().mean((-4, -3))
    try:
        law = stationary(matrices / matrices.sum(-1, keepdim=True))
    except ValueError as error:
        raise ValueError(
            "model: natural parameters are measured from the stationary law of the states, and "
            "this transition has several, or nearly so"
        ) from error
    law = law[..., None, None, :].clamp_min(_LEAST_PROBABILITY)
    if belief.nodes is None:
        return law.log()
    on = law @ node_states(belief.nodes).to(law)
    return on.logit()


def stationary_normal(laws: LinearGaussianLaws, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and precision of the stationary law of one state, numbers; of mean moves.

    A state that does not settle has none: precision 0, about ``shift``.
    """
    factor, offset, noise = (
        part.double().mean() for part in (laws.transition, laws.offset, laws.noise)
    )
    settles = factor.abs() < 1
    mean = torch.where(settles, offset / torch.where(settles, 1 - factor, 1), shift.squeeze())
    precision = torch.where(settles, (1 - factor.square()) / noise, 0)
    return mean, precision


_WEIGHTS = "weight_ih", "weight_hh"
_BIASES = "bias_ih", "bias_hh"
