"""Many draws of a model's parameters at once: drawing them, and the laws under all of them.

Draws are a mapping from parameter names to float64 tensors (draws, …). Sequences and draws are
worked on in blocks that fit into memory, with the draws as a leading axis.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ...models import (
    Chain,
    Laws,
    Model,
    Sequences,
)
from ...models.emissions.emission import Parameters, along_paths
from ..filters.slot import ScoredFilter
from ..guides.guide import Guide, ParameterDraw

BLOCK = 2**21
"""Numbers in one table over draws, sequences, time and states (16 MiB); a dozen live at a time."""

_WALKED = 2**18
"""Numbers in one step of the draws that are walked along together, their states at their data."""


def draw_parameters(guide: Guide, draws: int) -> ParameterDraw:
    """Independent draws of the unknown parameters in float64, (draws, …), with log densities.

    Uses torch's global generator. Draws of a point estimate are all the same, and its log density
    is given as 0.
    """
    with torch.no_grad():
        values, prior, log_q = guide.draw_parameters(draws)
    # The prior of a point by maximum likelihood is not zero here, as it is in its fit.
    prior = log_prior(guide.model, values, draws) if guide.uncertainty == "ml" else prior
    return ParameterDraw({n: v.double() for n, v in values.items()}, prior, log_q)


def draw_prior(model: Model, draws: int) -> dict[str, Tensor]:
    """Draws of the unknown parameters from their priors in float64, (draws, …)."""
    return {name: prior.sample((draws,)) for name, prior in model.priors.items()}


def log_prior(model: Model, values: Parameters, draws: int) -> Tensor:
    """log p(θ) of every draw, (draws,) nats."""
    total = torch.zeros(draws, dtype=torch.float64)
    for name, prior in model.priors.items():
        total = total + prior.log_prob(values[name])
    return total


@dataclass(frozen=True)
class Block:
    """Some draws of the parameters for some sequences."""

    place: slice
    """Which draws."""
    draws: int
    """How many."""
    laws: Laws
    """Laws with a leading axis of draws, wherever an unknown parameter enters."""
    unknown: frozenset[str]
    """Names of the parameters with a leading axis of draws."""

    @property
    def chain(self) -> Chain:
        """The chain of the laws, with the leading axis."""
        chain = self.laws.chain
        table = chain.log_likelihood
        return chain._replace(log_likelihood=table.expand(self.draws, *table.shape[-3:]))

    def folded_chain(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """log p(z_1) and log T with draws × sequences as their sequence axis, and the choice.

        Of matrices that steps choose from, those of one draw come after those of another.
        """
        laws, draws = self.laws, self.draws
        initial = _fold(laws.log_initial, draws, len(laws.data), 1)
        moves, choice = laws.matrices, laws.choice
        if choice is None:
            return initial, _fold(moves, draws, len(laws.data), 3), None
        count, states = moves.shape[-3:-1]
        first = torch.zeros(draws, dtype=torch.int64)
        if moves.ndim > 4:  # one matrix per draw
            moves = moves.expand(draws, 1, *moves.shape[-3:]).reshape(1, -1, states, states)
            first = torch.arange(draws) * count
        chosen = choice + first.to(choice.device)[:, None, None]
        return initial, moves, chosen.flatten(0, 1)

    def folded(self) -> Laws:
        """The laws of every sequence under every draw: draws × sequences along one axis."""
        laws, sequences = self.laws, len(self.laws.data)
        table = laws.log_likelihood.expand(self.draws, *laws.log_likelihood.shape[-3:])
        data = laws.data
        if self.draws > 1:
            data = data[torch.arange(sequences).repeat(self.draws)]
        initial, moves, choice = self.folded_chain()
        scored = table.flatten(0, 1)
        return _Folded(initial, moves, data, laws.emission, laws.parameters, scored, choice=choice)

    def emit(self, paths: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Draw observations of paths (draws, N, T), for one draw of the parameters after the other.

        Where each observation waits for those before it, several draws are walked along together.

        Yields:
            Which draws, and their observations (draws, N, T[, F]).
        """
        size = self._walked_together()
        for first in range(0, self.draws, size):
            place = slice(first, min(first + size, self.draws))
            if size > 1:
                yield place, self._side_by_side(place, paths[place])
            else:
                yield place, self.one(first).draw(paths[first]).unsqueeze(0)

    def _walked_together(self) -> int:
        emission, data = self.laws.emission, self.laws.data
        by_state = all(axes[:1] == ("state",) for axes in emission.dims().values())
        if not (emission.lags and by_state and emission.given(data) is emission):
            return 1
        of_one = len(data) * self.laws.log_initial.shape[-1] * emission.lags
        return math.isqrt(_WALKED // (of_one * emission.encoding_size)) or 1

    def _side_by_side(self, place: slice, paths: Tensor) -> Tensor:
        """Observations of some draws, the states of each being states of their own."""
        laws, draws = self.laws, place.stop - place.start

        def of_each(name: str) -> Tensor:
            value = laws.parameters[name]
            value = value[place] if name in self.unknown else value.expand(draws, *value.shape)
            return value.flatten(0, 1)

        parameters = {name: of_each(name) for name in laws.emission.dims()}
        paths = paths.clamp_min(0)
        shift = laws.emission.from_inputs(laws.parameters, laws.data.inputs)
        if shift is not None:
            shift = shift[place] if shift.ndim > 4 else shift.expand(draws, *shift.shape)
            shift = along_paths(shift.flatten(0, 1), paths.flatten(0, 1)).unsqueeze(-2)
        states = laws.log_initial.shape[-1] * torch.arange(draws)[:, None, None] + paths
        drawn = laws.emission.draw(parameters, states.flatten(0, 1), shift)
        out: Tensor = drawn.unflatten(0, (draws, -1))
        return out

    def one(self, draw: int) -> Laws:
        """The laws to draw observations from, under one of the draws of the parameters."""
        laws = self.laws
        parameters = {
            name: value[draw] if name in self.unknown else value
            for name, value in laws.parameters.items()
        }
        return replace(laws, parameters=parameters)


@dataclass(frozen=True)
class _Folded(Laws):
    """Laws whose emission has been scored already."""

    table: Tensor

    @cached_property
    def log_likelihood(self) -> Tensor:
        return self.table


def _fold(x: Tensor, draws: int, sequences: int, trailing: int) -> Tensor:
    """(draws, N|1, …) or (N|1, …) as (draws × N, …); (1, …) if shared by all."""
    own = x.shape[-trailing - 1 :]
    if x.shape.numel() == own.numel() and (draws == 1 or own[0] == 1):
        return x.reshape(own)
    return x.expand(draws, sequences, *own[1:]).reshape(-1, *own[1:])


def batches(
    model: Model, data: Sequences, *, simulate: bool = False
) -> Iterator[tuple[slice, Sequences]]:
    """All sequences in order, as many at a time as one draw of the parameters allows."""
    size = max(1, BLOCK // _numbers(model, data, simulate))
    if size >= len(data):
        yield slice(0, len(data)), data
        return
    for first in range(0, len(data), size):
        rows = slice(first, min(first + size, len(data)))
        yield rows, data[rows]


def blocks(model: Model, batch: Sequences, values: Parameters, draws: int) -> Iterator[Block]:
    """All draws in order for a batch of sequences, as many at a time as fit into memory."""
    if not model.draws_together:
        for draw in range(draws):
            one = {name: value[draw] for name, value in values.items()}
            laws = cast(Laws, model.laws(one, batch))
            yield Block(slice(draw, draw + 1), 1, laws, frozenset())
        return
    size = max(1, BLOCK // (_numbers(model, batch, False) * len(batch)))
    for first in range(0, draws, size):
        place = slice(first, min(first + size, draws))
        part = {name: value[place] for name, value in values.items()}
        laws = cast(Laws, model.laws(part, batch))
        yield Block(place, place.stop - first, laws, frozenset(values))


def _numbers(model: Model, data: Sequences, simulate: bool) -> int:
    """Numbers that one draw of the parameters and one sequence take."""
    per_step = max(model.scored_at_once, model.observations.channels if simulate else 0)
    return data.max_length * per_step + model.states**2


class PathDraw(NamedTuple):
    """One hidden path of every sequence per draw of the parameters, from a guide."""

    paths: Tensor
    """(draws, N, T) int64, −1 beyond the length."""
    log_joint: Tensor
    """log p(y_n, z_n | θ), (draws, N) nats."""
    log_q: Tensor
    """log q(z_n | y_n, θ), (draws, N) nats."""
    elbo: Tensor
    """The guide's bound on log p(y_n | θ), exact in the states, (draws, N) nats."""
    beliefs: Tensor | None
    """The guide's beliefs, probabilities (draws, N, T, K); None where it has none."""


def draw_paths(guide: Guide, block: Block) -> PathDraw:
    """Draw z ~ q(z | y, θ) under every draw of θ. Uses torch's global generator."""
    posterior = guide.posterior(block.folded(), learn=False)
    paths = posterior.sample_paths(1)[0]
    log_joint = posterior.chain_log_prob(paths) + posterior.emission_log_prob(paths)
    beliefs: Tensor | None = getattr(posterior, "log_beliefs", None)

    def unfold(x: Tensor) -> Tensor:
        out: Tensor = x.unflatten(0, (block.draws, -1))
        return out

    return PathDraw(
        unfold(paths),
        unfold(log_joint),
        unfold(posterior.path_log_prob(paths)),
        unfold(posterior.elbo()),
        None if beliefs is None else unfold(beliefs.exp()),
    )


def for_batch(guide: Guide, model: Model, batch: Sequences, one: Parameters) -> Guide:
    """Prepares the guide for one batch of sequences under many draws of the parameters.

    A network that reads observations alone has the same output for every draw and is run once.
    ``one`` is any of the draws.
    """
    own = guide.filter
    if not isinstance(own, ScoredFilter) or getattr(own, "reads", None) != "observations":
        return guide
    out = copy.copy(guide)
    out._modules = dict(guide._modules)
    out.filter = _RunOnce(own, cast(Laws, model.laws(one, batch)))
    return out


class _RunOnce(nn.Module):
    """The stored output of a filter on a batch, in place of the filter itself."""

    def __init__(self, filter: ScoredFilter, laws: Laws) -> None:
        super().__init__()
        self.causal = filter.causal
        self.belief = getattr(filter, "belief", None)
        self._read_out = filter.read_out
        self._scores: Tensor = filter.scores(laws)

    def build(self, model: Model) -> None:
        """Built before it was run."""

    def calibrate(self, model: Model, data: Sequences) -> None:
        """Calibrated before it was run."""

    def scores(self, laws: Laws) -> Tensor:
        """The read-out of the batch, once per draw."""
        return self._scores.repeat(len(laws.data) // len(self._scores), 1, 1)

    def forward(self, laws: Laws) -> Tensor:
        beliefs = self._read_out(self.scores(laws))
        assert isinstance(beliefs, Tensor)  # of discrete states
        return beliefs
