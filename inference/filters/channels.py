"""The inputs of a filter at every step: the observation, or its likelihoods under the model."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ...models import DiscreteLaws, Model, Sequences
from ...models.beliefs import DiscreteBelief
from ...models.checks import require
from ...models.emissions.observations import Observations, of_channels
from .recurrent import (
    FLAGGED_FEATURES,
    LIKELIHOOD_FLOOR,
    actions_before,
    channel_scale,
    input_scale,
    log_gaps,
    no_scale,
    typical_gap,
)

Reading = Literal["observations", "likelihoods"]


class Channels(nn.Module):
    """Inputs of a filter at every step, (N, T, ``width``).

    For ``"observations"``: symbols as one-hot vectors and bits as they are, other numbers
    standardised by ``calibrate``, all zero where missing; then a flag for each feature that is
    missing (one per step for many features, none for symbols); the log of the time since the
    previous step, if gaps are read; then the model's inputs, and the previous action as a one-hot
    vector. For ``"likelihoods"``: log O_k(y_t) relative to their sum and cut at ``least``, then the
    same.

    Raises:
        ValueError: an unknown reading, or a model that it was not built for.
    """

    shift: Tensor
    scale: Tensor
    input_shift: Tensor
    input_scale: Tensor
    gap: Tensor

    def __init__(
        self,
        reads: Reading = "observations",
        *,
        least: float = LIKELIHOOD_FLOOR,
        flagged: bool = True,
        gaps: bool = False,
    ) -> None:
        super().__init__()
        require(reads in get_args(Reading), "reads", f"must be in {get_args(Reading)}", repr(reads))
        self.reads: Reading = reads
        self.least = least
        self.flagged = flagged
        self.gaps = gaps
        self.flags = 0
        self.inputs = 0
        self.actions = 0
        for name in ("shift", "scale", "input_shift", "input_scale"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))
        if gaps:
            self.register_buffer("gap", torch.ones((), dtype=torch.float64))

    def width(self, model: Model) -> int:
        """Number of inputs for this model."""
        along = model.inputs + model.actions + self.gaps
        if self.reads == "likelihoods":
            assert model.belief.discrete  # checked by the filter
            return model.belief.states + along
        return model.observations.channels + self._flags(model.observations) + along

    def build(self, model: Model) -> None:
        """Prepares for the kind of data of this model."""
        self._kind: Observations = model.observations
        self.inputs, self.actions = model.inputs, model.actions
        if len(self.input_shift) != self.inputs:
            self.input_shift, self.input_scale = no_scale(self.inputs)
        if self.reads == "likelihoods":
            return
        self.flags = self._flags(self._kind)
        if len(self.shift) != self._kind.channels:
            self.shift, self.scale = no_scale(self._kind.channels)

    def _flags(self, kind: Observations) -> int:
        few = kind.features <= FLAGGED_FEATURES
        return 0 if kind.codes or not self.flagged else kind.features if few else 1

    def calibrate(self, data: Sequences) -> None:
        """Adapts to the scale of the data, unless they are symbols or bits."""
        if self.gaps:
            self.gap = typical_gap(data).to(self.gap)
        if self.inputs:
            self.input_shift, self.input_scale = input_scale(data)
        if self.reads == "observations" and not self._kind.codes:
            shift, scale = channel_scale(data, self._kind)
            self.shift, self.scale = shift.to(self.shift), scale.to(self.scale)

    def forward(self, laws: DiscreteLaws) -> Tensor:
        dtype = torch.float64  # data can lie far from zero; networks run in their own type
        parts: list[Tensor] = []
        if self.reads == "likelihoods":
            told = laws.log_likelihood.log_softmax(-1).clamp_min(self.least)
            parts.append(told.to(dtype))
        else:
            y, mask = self._kind.read(laws.data)
            seen = mask if mask.ndim == 3 else mask.unsqueeze(-1)
            encoded = self._kind.encode(y)
            if not self._kind.codes:
                encoded = (encoded.double() - self.shift) / self.scale
            parts.append(encoded.to(dtype) * of_channels(self._kind, seen))
            if self.flags:
                missing = ~seen if self.flags == seen.shape[-1] else ~seen.any(-1, keepdim=True)
                parts.append(missing.to(dtype))
        if self.gaps:
            parts.append(log_gaps(laws.data, self.gap).to(dtype))
        if self.inputs:
            assert laws.data.inputs is not None  # checked by the model
            inputs = (laws.data.inputs.double() - self.input_shift) / self.input_scale
            parts.append(inputs.to(dtype))
        if self.actions:
            parts.append(actions_before(laws.data, self.actions).to(dtype))
        return torch.cat(parts, -1)


def nodes_of(model: Model, reader: str) -> int:
    """Number of binary nodes of the model's states; two states without a name are one node.

    Raises:
        ValueError: states that are not those of binary nodes.
    """
    belief = model.belief
    nodes = belief.nodes if belief.discrete else None
    if nodes is None and belief == DiscreteBelief(2):
        nodes = 1
    if nodes is None:
        raise ValueError(
            f"filter: {reader} holds a product of Bernoulli laws and needs a model of binary nodes "
            f"(or of two states), got one whose belief is {belief}"
        )
    return nodes
